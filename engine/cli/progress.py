"""How a run goes, while it goes: a bar on a terminal, elsewhere a line at least every ten seconds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from engine.cli.talk import say
from engine.report.spans import duration
from engine.report.text import plain

if TYPE_CHECKING:
    from engine.run.overview import Progress
    from engine.run.runner import Runner

HEARTBEAT_S = 10.0
REDRAW_S = 0.25


def line(progress: Progress) -> str:
    """One line: settled/total, calls a second, ETA, what waits to be proven, failures, and the reason for any wait."""
    parts = [f"{progress.settled:,}/{progress.total:,}", f"{progress.rate:.1f}/s"]
    if progress.eta_s is not None and progress.done < progress.total and progress.stopping is None:
        parts.append(f"ETA {duration(max(1.0, progress.eta_s))}")
    if progress.awaiting and progress.behind_s is not None:
        behind = f"reading is {progress.behind_s:.0f} s behind"
        parts.append(f"{progress.awaiting:,} accepted, waiting for the readings to show it ({behind})")
    elif progress.awaiting:
        parts.append(f"{progress.awaiting:,} accepted, to be read back")
    if progress.failed:
        parts.append(f"failed {progress.failed:,}")
    if progress.throttled:
        parts.append(f"throttled {progress.throttled:,} (not failures)")
    if progress.backing_off:
        parts.append(f"trying again {progress.backing_off:,}")
    if progress.stopping is not None:
        parts.append(f"DRAINING, {progress.in_flight} in flight: {progress.stopping}")
    parts += [f"waiting: {wait}" for wait in progress.waits]
    return plain("  ".join(parts))


@contextlib.asynccontextmanager
async def shown(runner: Runner, *, quiet: bool) -> AsyncIterator[None]:
    """Show how `runner` goes as long as the context lasts."""
    if quiet:
        yield
        return
    task = asyncio.create_task(_on_terminal(runner) if say.isatty() else _heartbeat(runner))
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

    columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("")
        while True:
            progress = runner.progress()
            bar.update(task, total=progress.total, completed=progress.settled, description=line(progress))
            bar.refresh()
            await asyncio.sleep(REDRAW_S)
