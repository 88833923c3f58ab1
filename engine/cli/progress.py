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
    from engine.journal.standing import Progress
    from engine.operations.session import Conductor

HEARTBEAT_S = 10.0
REDRAW_S = 0.25
_BAR = 24
"""Columns of the bar. It shows what is verified."""


@contextlib.asynccontextmanager
async def shown(runner: Conductor, *, quiet: bool) -> AsyncIterator[None]:
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


async def _heartbeat(runner: Conductor) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        say(f"{time.strftime('%H:%M:%SZ', time.gmtime())}  {line(runner.progress())}")


async def _on_terminal(runner: Conductor) -> None:
    # A terminal that has gone takes the bar with it, never the run; nobody is left to read a heartbeat.
    with contextlib.suppress(OSError, ValueError):
        await _bar(runner)


async def _bar(runner: Conductor) -> None:
    await asyncio.sleep(REDRAW_S)
    from rich.console import Console  # a terminal only, and after the first calls are under way
    from rich.progress import Progress as Bar
    from rich.progress import TextColumn

    console = Console(stderr=True)
    with Bar(
        TextColumn("{task.description}", markup=False), console=console, transient=True, auto_refresh=False
    ) as bar:
        task = bar.add_task("")
        while True:
            bar.update(task, description=drawn(runner.progress(), console.width - 1))
            bar.refresh()
            await asyncio.sleep(REDRAW_S)


def drawn(progress: Progress, width: int) -> str:
    """Return the line, with a bar of what is verified before it if there is room for all."""
    whole = line(progress)
    if len(whole) + _BAR + 1 > width:
        return line(progress, width)
    full = _BAR * progress.verified // max(1, progress.total)
    return f"{'━' * full}{'─' * (_BAR - full)} {whole}"
