"""How a run stands while it works, in one line: on the terminal of the run, and in `status` from another shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal import records
from engine.report.documents import plain
from engine.report.spans import duration

if TYPE_CHECKING:
    from engine.journal.ledger import Pause
    from engine.journal.records import WaveLine
    from engine.journal.standing import Progress


def line(progress: Progress, width: int | None = None) -> str:
    """Return one line that says how a run stands, each number with its word.

    Where it does not fit into `width` columns, the parts that matter least are left away.
    """
    parts = [
        (0, f"{progress.done_word if progress.is_verified else 'accepted'} {progress.verified:,}"),
        (0, f"sent {progress.sent:,} of {progress.total:,}"),
    ]
    if progress.wave is not None:
        parts.insert(0, (1, wave_words(progress.wave, progress.waves)))
    if progress.pause is not None:  # the first, so that it is never cut; to the minute, as a line has few columns
        parts.insert(0, (1, _paused(progress.pause, progress.pause.since, _TO_MINUTE)))
        parts += [(5, _THEN)] if progress.pause.until is not None else []
    if progress.already:
        parts.append((6, f"{progress.already:,} not to be sent"))
    if progress.stopping is not None:
        parts.append((1, f"DRAINING, {progress.in_flight} in flight: {progress.stopping}"))
    if progress.dropped:
        parts.append((1, f"dropped {progress.dropped:,}"))
    if progress.failed:
        parts.append((1, f"failed {progress.failed:,}"))
    parts += [(2, f"waiting{' ' if wait[:1].isdigit() else ': '}{wait}") for wait in progress.waits]
    if progress.awaiting:
        behind = f", readings {progress.behind_s:.0f} s behind" if progress.behind_s is not None else ""
        parts.append((3, f"accepted and to be read back {progress.awaiting:,}{behind}"))
    if progress.backing_off:
        parts.append((6, f"trying again {progress.backing_off:,}"))
    if progress.throttled:
        parts.append((6, f"throttled {progress.throttled:,} (not failures)"))
    parts.append((4, f"{progress.rate:.1f}/s of {progress.quota:g}"))
    if progress.eta_s is not None:
        parts.append((5, f"ETA {duration(max(1.0, progress.eta_s))}"))
    return _fitting([(rank, plain(words)) for rank, words in parts], width)


def wave_words(wave: WaveLine, waves: int) -> str:
    """Return in which wave a live run is, and what it waits for: `wave 2 of 3 SOAKS until 15:01:00Z`."""
    words = f"wave {wave.n} of {waves}"
    if wave.state == records.SOAKING and wave.until is not None:
        return f"{words} SOAKS until {wave.until[11:19]}Z"
    return words if wave.state == records.BEGUN else f"{words} not begun"


def pause_words(pause: Pause, today: str = "") -> str:
    """Return who paused a run, since when and until when: `PAUSED by ann since 12:30:05Z until 13:00:05Z, then …`.

    The day is named where it is not the day of `today` (a time of RFC 3339), and where the pause ends on another one.
    """
    return plain(_paused(pause, today or pause.since, _TO_SECOND) + (f", {_THEN}" if pause.until is not None else ""))


_THEN = "then it stops"
_TO_MINUTE, _TO_SECOND = 16, 19
"""Characters of a time of RFC 3339."""


def _paused(pause: Pause, today: str, digits: int) -> str:
    def moment(at: str, today: str) -> str:
        day = "" if at[:10] == today[:10] else f"{at[:10] if digits == _TO_SECOND else at[5:10]} "
        return f"{day}{at[11:digits]}Z"

    word = "PAUSED" if pause.in_effect else "PAUSING, as asked"
    until = f" until {moment(pause.until, pause.since)}" if pause.until is not None else ""
    return f"{word} by {pause.by} since {moment(pause.since, today)}{until}"


def _fitting(parts: list[tuple[int, str]], width: int | None) -> str:
    """Join the parts that fit into `width` columns; of those with the highest rank the last ones go first.

    The last reason for a wait is shortened before it goes.
    """
    while True:
        text = " · ".join(words for _, words in parts)
        rank = max(rank for rank, _ in parts)
        over = len(text) - width if width is not None else 0
        if over <= 0:
            return text
        if rank < _WAIT:
            return text[: len(text) - over - 1] + "…"
        last = max(number for number, (each, _) in enumerate(parts) if each == rank)
        words = parts.pop(last)[1]
        if rank == _WAIT and all(each != rank for each, _ in parts) and len(words) - over > _LEAST:
            parts.insert(last, (rank, words[: len(words) - over - 1] + "…"))


_WAIT = 2
"""Rank of what is waited for."""
_LEAST = 20
"""Characters of a wait that still say something."""
