"""Find whether a job is overdue: when its last good run was, from journals alone. And whether `tend` is.

A `tend` that ended with exit 0 leaves a mark in the state directory, `TENDED`, which says when.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from engine.api.names import did_you_mean, shown
from engine.errors import ConfigError, Reason
from engine.inputs.files import recorded
from engine.journal.finding import to_come_words
from engine.journal.protocols import AHEAD_S, RunHead, Runs
from engine.journal.records import unix_seconds
from engine.operations.earlier import place_of
from engine.operations.stores import store_of
from engine.operations.success import is_to_come, last_good
from engine.operations.terms import Terms
from engine.report.spans import duration

TENDED = "tended"
"""Name of the mark that a `tend` leaves when it ends with exit 0: the time, as RFC 3339 text in UTC."""
TEND_EVERY = "15m"
"""How old the mark may be by default: three times as old as it gets if a timer starts `tend` every five minutes."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
_NAMED = 5


class Lateness(Struct, frozen=True, kw_only=True):
    """How long ago a job was done as asked."""

    job: str
    """Its file, or its name, as given."""
    every_s: float
    state_dir: str
    """The state directory, or the database."""
    good: RunHead | None
    """The last run of the job that counts as good: it ended with exit 0."""
    age_s: float | None
    """Seconds since the good run ended."""
    last: RunHead | None
    """The last run of the job, however it ended."""
    words: str

    @property
    def reason(self) -> Reason:
        """INCOMPLETE if the job is overdue, else OK."""
        return Reason.OK if self.age_s is not None and self.age_s <= self.every_s else Reason.INCOMPLETE


def overdue(terms: Terms, job: str, every_s: float) -> Lateness:
    """Return whether a job (its file or its name) was done within the last `every_s` seconds."""
    now, store = terms.clock(), store_of(terms.settings(None), simulated=False)
    heads = store.list()
    runs = [head for head in heads if _is_of(head, job)]
    strange = store.strangers(head.run_id for head in runs)
    runs = [head for head in runs if head.run_id not in strange]
    good = last_good(store, runs, now)
    age_s = now - good.ended_at if good is not None else None
    last = next((head for head in runs if head.live or not head.is_to_come(now)), None)
    words = _words(store, job, every_s, good, age_s, last, heads, terms.repeat(store))
    if age_s is None or age_s > every_s:
        words += _doubts(heads, runs, now)
        words += "".join(f"\nrun {run} does not count: it is not believed, as {why}" for run, why in strange.items())
    return Lateness(job=job, every_s=every_s, state_dir=store.kept_in, good=good, age_s=age_s, last=last, words=words)


def _is_of(head: RunHead, job: str) -> bool:
    """Whether a run is of the job that the operator names: its file, or its name."""
    if head.run is None:
        return False
    place = recorded(place_of(job))
    return head.job == recorded(job) or head.run.job.path == place or head.run.job.path.startswith(f"{place} and ")


def _doubts(heads: Sequence[RunHead], runs: Sequence[RunHead], now: float) -> str:
    """Return in words what may hide a good run: journals that cannot be read, ends that are still to come."""
    words = "".join(
        f"\nrun {head.run_id} says it ended at {head.end.at[:16]}Z, which is still to come: the clock of this machine "
        "was wrong then, or is now; it does not count"
        for head in runs
        if head.end is not None and not head.live and is_to_come(head, now)
    )
    early = [head.run_id for head in runs if not head.live and head.is_to_come(now)]
    words += f"\n{to_come_words(early)}" if early else ""
    unreadable = [head for head in heads if head.problem is not None]
    if unreadable:
        words += f"\n{len(unreadable):,} cannot be read, and may be of this job: {unreadable[0].problem}"
    return words


def _words(
    store: Runs,
    job: str,
    every_s: float,
    good: RunHead | None,
    age_s: float | None,
    last: RunHead | None,
    heads: Sequence[RunHead],
    flags: str,
) -> str:
    """Return in words whether the job is in time; `flags` are those that an exact command needs."""
    if good is not None and good.end is not None and age_s is not None:
        when = f"{good.run_id} ended with exit 0 at {good.end.at[:16]}Z, {duration(max(0.0, age_s))} ago"
        if age_s <= every_s:
            return f"{job}: in time: run {when}"
        words = f"OVERDUE  {job}: no run ended with exit 0 within {duration(every_s)}; the last good one, {when}"
    else:
        words = f"OVERDUE  {job}: no run of it ever ended with exit 0"
    if last is None:
        names = sorted({head.job for head in heads if head.job})
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        known = f"; jobs here: {', '.join(names[:_NAMED])}{more}" if names else ""
        none = f"no run of {job} in {store.place}{did_you_mean(Path(job).stem, names)}{known}"
        return f"OVERDUE  {job}: {none}" if good is None else f"{words}; {none}"
    if last.live:
        return f"{words}\nrun {last.run_id} is going on: acctops status {last.run_id}{flags}"
    how = f"ended with exit {last.end.exit} at {last.end.at[:16]}Z" if last.end is not None else "was cut off"
    if good is not None and last.run_id == good.run_id:
        return words
    return f"{words}\nthe last run, {last.run_id}, {how}: acctops status {last.run_id}{flags}"


class TendLateness(Struct, frozen=True, kw_only=True):
    """How long ago what is due after runs was done."""

    every_s: float
    state_dir: str
    """The state directory, or the database."""
    good_at: str | None
    """When `tend` last ended with exit 0, as RFC 3339 text; None if nobody knows."""
    age_s: float | None
    words: str

    @property
    def reason(self) -> Reason:
        """INCOMPLETE if `tend` is overdue, else OK."""
        return Reason.OK if self.age_s is not None and self.age_s <= self.every_s else Reason.INCOMPLETE


def tend_overdue(terms: Terms, every_s: float) -> TendLateness:
    """Return whether a `tend` of the state directory ended with exit 0 within the last `every_s` seconds.

    Of whom the state directory belongs to the mark is believed, too, as his runs are.
    """
    settings = terms.settings(None)
    with suppress(OSError):
        owner = settings.state_dir.stat().st_uid
        settings = replace(settings, trust=replace(settings.trust, uids=settings.trust.uids | {owner}))
    store = store_of(settings, simulated=False)
    now = terms.clock()
    good_at, doubt = _tended(store, now)
    age_s = now - unix_seconds(good_at) if good_at is not None else None
    when = f"ended at {good_at[:16]}Z, {duration(max(0.0, age_s))} ago" if good_at and age_s is not None else ""
    if age_s is not None and age_s <= every_s:
        words = f"tend: in time: the last good `acctops tend` {when}"
    else:
        late = f"within {duration(every_s)}; the last good one {when}" if when else f"that is known: {doubt}"
        words = f"OVERDUE  tend: no `acctops tend` ended with exit 0 {late}; acctops tend{terms.repeat(store)}"
    return TendLateness(every_s=every_s, state_dir=store.kept_in, good_at=good_at, age_s=age_s, words=words)


def _tended(store: Runs, now: float) -> tuple[str | None, str]:
    """Return when `tend` last ended with exit 0; None if nobody knows, and in words why not."""
    path = store.state_dir / TENDED
    try:
        said = store.mark(TENDED)
    except ConfigError as error:
        return None, str(error)
    if store.database is not None:
        return _time_of(said, f"{store.kept_in}: the mark {TENDED}", now) if said else (None, "none ever did")
    try:
        store.state_dir.stat()
    except FileNotFoundError:
        return None, f"there is no state directory {store.state_dir}"
    except OSError as error:
        return None, f"state directory {store.state_dir}: cannot be looked at: {error.strerror}"
    if not said:
        there = os.path.lexists(path)
        return None, f"{path} cannot be read" if there else f"there is no {path}, so none ever did"
    return _time_of(said, str(path), now)


def _time_of(said: str, path: str, now: float) -> tuple[str | None, str]:
    """Return the time that a mark says; None if it says none that can be, and in words why not."""
    try:
        at = unix_seconds(said) if _TIME.fullmatch(said) else None
    except ValueError:
        at = None
    if at is None:
        return None, f"{path} holds no time, but {shown(said)}"
    if at > now + AHEAD_S:
        to_come = "which is still to come: the clock of this machine was wrong then, or is now"
        return None, f"{path} says {said[:16]}Z, {to_come}"
    return said, ""
