"""What comes after a run, in words: the end of its hold, and its watch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from engine.inputs.job import WatchSpec
from engine.inputs.jobfile.values import MOST_S
from engine.journal.records import rfc3339, unix_seconds
from engine.model import Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from engine.inputs.job import HoldSpec, Job
    from engine.journal.records import RunSettings

TENDED = "needs its timer: acctops schedule --tend --format systemd"
"""What all of it rests on."""
_THEN = {
    "tell": "a person is told, and decides",
    "unlock": "unlock what nobody else holds",
    "unlock_rotated": "unlock what nobody else holds, if its password was changed after the lock",
}


def moment(at: float) -> str:
    """Return a time in UTC and on this machine's clock: `2026-11-29 18:30 UTC (19:30 here)`."""
    there = datetime.fromtimestamp(at, UTC)
    here = there.astimezone()
    words = f"{there:%Y-%m-%d %H:%M} UTC"
    if here.utcoffset() == there.utcoffset():
        return words
    return f"{words} ({here:%H:%M} here)" if here.date() == there.date() else f"{words} ({here:%Y-%m-%d %H:%M} here)"


def span(seconds: float) -> str:
    """Return a duration as a job file has it: `4h30m`, `30d`."""
    parts, left = [], round(seconds, 3)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if left >= size:
            parts.append(f"{int(left // size)}{unit}")
            left = round(left % size, 3)
    return "".join(parts) + (f"{left:g}s" if left or not parts else "")


def hold_words(hold: HoldSpec, now: float) -> str:
    """Return when a hold ends that is confirmed about now, and what is done then."""
    if hold.for_s is None:
        return until_words(hold.ends_at(now), hold.then)
    return f"for {span(hold.for_s)}, until about {moment(hold.ends_at(now))}, then {_THEN[hold.then]}"


def until_words(until: float, then: str | None) -> str:
    """Return the end of a hold, and what is done then."""
    return f"until {moment(until)}, then {_THEN[then or 'tell']}"


def end_problem(hold: HoldSpec, now: float) -> str | None:
    """Return why no run can begin now with this hold, with its place; None if one can."""
    until = hold.ends_at(now)
    if until <= now:
        what = f"is past: it was {moment(until)}, and it is {moment(now)} now"
    elif until > now + MOST_S:
        none = " (acctops hold: --none)" if hold.said.startswith("--") else ""
        days = f"{(until - now) / 86400:,.0f} days ahead, and 366 is the most"
        what = f"is {days}; for a hold without end leave it out{none}"
    else:
        return None
    return f"{hold.place}: {hold.said}: {what}"


def watch_words(watch: WatchSpec) -> str:
    """Return when the accounts are read again: `after 5m and 30m, then every 1d for 30d`."""
    *first, last = map(span, watch.after_s) if watch.after_s else ("",)
    words = [f"after {', '.join(first)}{' and ' if first else ''}{last}"] if last else []
    if watch.every_s is not None and watch.for_s is not None:
        words.append(f"every {span(watch.every_s)} for {span(watch.for_s)}")
    return ", then ".join(words)


def watch_of(settings: RunSettings) -> WatchSpec | None:
    """Return the watch that a journal keeps for its run."""
    return WatchSpec.from_record(settings.watch, Place("the journal")) if settings.watch is not None else None


def lines_of(settings: RunSettings) -> list[str]:
    """Return the end of a run's hold, and its watch, as its settings have them."""
    lines = []
    if settings.hold_until is not None:
        lines.append(f"hold {until_words(unix_seconds(settings.hold_until), settings.hold_then)}")
    if (watch := watch_of(settings)) is not None:
        lines.append(f"watch {watch_words(watch)}")
    return lines


def plan_lines(job: Job, now: float, *, simulated: bool = False) -> Iterator[str]:
    """Yield the lines of a plan that is confirmed about now."""
    if job.hold is not None:
        yield f"hold  {hold_words(job.hold, now)}"
    if job.watch is not None:
        yield f"watch  {watch_words(job.watch)}"
    if job.hold is not None or job.watch is not None:
        yield "simulated: nothing real is held, and nothing is watched" if simulated else TENDED


def plan_keys(job: Job) -> dict[str, Any]:
    """Return `hold` and `watch` of the `plan --json` document (engine/json.md). Any: JSON values."""
    hold, watch = job.hold, job.watch
    until = rfc3339(hold.until) if hold is not None and hold.until is not None else None
    return {
        "hold": {"for_s": hold.for_s, "until": until, "then": hold.then} if hold is not None else None,
        "watch": watch.as_record() if watch is not None else None,
    }
