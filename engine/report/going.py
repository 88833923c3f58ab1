"""How a run stands while it works, in one line: on the terminal of the run, and in `status` from another shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.report.documents import plain
from engine.report.spans import duration

if TYPE_CHECKING:
    from engine.journal.standing import Progress


def line(progress: Progress, width: int | None = None) -> str:
    """Return one line that says how a run stands, each number with its word.

    Where it does not fit into `width` columns, the parts that matter least are left away.
    """
    parts = [
        (0, f"{'verified' if progress.is_verified else 'accepted'} {progress.verified:,}"),
        (0, f"sent {progress.sent:,} of {progress.total:,}"),
    ]
    if progress.already:
        parts.append((6, f"{progress.already:,} not to be sent"))
    if progress.stopping is not None:
        parts.append((1, f"DRAINING, {progress.in_flight} in flight: {progress.stopping}"))
    parts += [(2, f"waiting{' ' if wait[:1].isdigit() else ': '}{wait}") for wait in progress.waits]
    if progress.failed:
        parts.append((1, f"failed {progress.failed:,}"))
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


def _fitting(parts: list[tuple[int, str]], width: int | None) -> str:
    """Join the parts that fit into `width` columns; of those with the highest rank the last ones go first."""
    while True:
        text = " · ".join(words for _, words in parts)
        least = max(rank for rank, _ in parts)
        if width is None or len(text) <= width or least == 0:
            return text
        if least == 1 or (least == 2 and len([rank for rank, _ in parts if rank == least]) == 1):
            return text[: width - 1] + "…"
        del parts[max(number for number, (rank, _) in enumerate(parts) if rank == least)]
