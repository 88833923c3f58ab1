"""How a run goes, while it goes: a bar on a terminal, elsewhere a line at least every ten seconds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from engine.cli.talk import say
from engine.report.going import line

if TYPE_CHECKING:
    from engine.run.runner import Runner

HEARTBEAT_S = 10.0
REDRAW_S = 0.25
_BAR = 24
"""Columns of the bar. It shows what is verified."""
_WIDE = 110
"""Columns from which there is room for a bar beside the words."""


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
