"""How a run goes, while it goes: a bar on a terminal, elsewhere a line at least every ten seconds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from engine.cli.talk import say
from engine.report.documents import plain
from engine.report.spans import duration

if TYPE_CHECKING:
    from engine.journal.standing import Progress
    from engine.run.runner import Runner

HEARTBEAT_S = 10.0
REDRAW_S = 0.25
_BAR = 24
"""Columns of the bar. It shows what is verified."""
_WIDE = 110
"""Columns from which there is room for a bar beside the words."""


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


@contextlib.asynccontextmanager
async def shown(runner: Runner, *, quiet: bool) -> AsyncIterator[None]:
    """Show how `runner` goes as long as the context lasts."""
    if quiet:
        yield
        return
    task = asyncio.create_task(_on_terminal(runner) if say.can_redraw() else _heartbeat(runner))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _heartbeat(runner: Runner) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        say(f"{time.strftime('%H:%M:%SZ', time.gmtime())}  {line(runner.progress())}")


async def _on_terminal(runner: Runner) -> None:
    # A terminal that has gone takes the bar with it, never the run; nobody is left to read a heartbeat.
    with contextlib.suppress(OSError, ValueError):
        await _bar(runner)


async def _bar(runner: Runner) -> None:
    await asyncio.sleep(REDRAW_S)
    from rich.console import Console  # a terminal only, and after the first calls are under way
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    bar, words = BarColumn(bar_width=_BAR), TextColumn("{task.description}", markup=False)
    columns = (bar, words) if console.width >= _WIDE else (words,)
    with Bar(*columns, console=console, transient=True, auto_refresh=False) as shown_bar:
        task = shown_bar.add_task("")
        while True:
            progress = runner.progress()
            room = console.width - 1 - (_BAR + 1 if len(columns) > 1 else 0)
            said = line(progress, room)
            shown_bar.update(task, total=progress.total, completed=progress.verified, description=said)
            shown_bar.refresh()
            await asyncio.sleep(REDRAW_S)
