"""A session of a run, watched from a terminal: its progress, and the signals that end it."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from engine.cli.leaving import leave_soon, note_end
from engine.cli.progress import shown
from engine.cli.talk import say
from engine.errors import Reason
from engine.operations.session import UNRECORDED, LeftAtOnceError

if TYPE_CHECKING:
    from engine.operations.session import Conductor

_GC_THRESHOLD = (20_000, 20, 50)
"""Python's own is (700, 10, 10). Cycles come of exceptions only: a few thousand calls' worth may wait."""


_EXIT = {signal.SIGINT: Reason.INTERRUPTED, signal.SIGTERM: Reason.TERMINATED}
_WHY = {signal.SIGINT: "interrupted (Ctrl-C)", signal.SIGTERM: "terminated (SIGTERM)"}


class Terminal:
    """A `Watch`: shows how a run goes; the first Ctrl-C or SIGTERM drains it, the second leaves at once.

    A vanished terminal (SIGHUP) changes nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._runner: Conductor | None = None
        self._working: asyncio.Future[Reason] | None = None
        self._left: LeftAtOnceError | None = None
        self._first = False

    @asynccontextmanager
    async def beside(self, runner: Conductor) -> AsyncIterator[None]:
        """Handle signals, and show how the run goes until it is over."""
        self._runner = runner
        # Profiled: looking for cycles among a run's calls and records, which have none, was a tenth of a call's cost.
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLD)
        gc.enable()
        asked = {number: partial(self._ask_to_stop, runner, number) for number in _EXIT}
        with _handled({**asked, signal.SIGHUP: partial(self._hang_up, runner)}):
            yield

    async def working(self, run: Coroutine[None, None, Reason]) -> Reason:
        """Show how the run goes, until it is over or left."""
        assert self._runner is not None
        async with shown(self._runner, quiet=self._quiet):
            self._working = asyncio.ensure_future(run)
            try:
                code = await self._working
            except asyncio.CancelledError:
                if self._left is None:
                    raise
                raise self._left from None
        note_end(int(code))
        return code

    async def last(self, notices: Coroutine[None, None, None]) -> None:
        """Wait for what is told of the end, until it is done or a signal comes."""
        last = asyncio.ensure_future(notices)
        with _handled(dict.fromkeys(_EXIT, last.cancel)), suppress(asyncio.CancelledError):
            await last

    def _ask_to_stop(self, runner: Conductor, number: signal.Signals) -> None:
        if self._first:
            if self._left is None and self._working is not None:
                self._left = LeftAtOnceError(f"{_WHY[number]} twice, {runner.leaving}", _EXIT[number])
                leave_soon(int(_EXIT[number]), f"{self._left}; {UNRECORDED}")
                self._working.cancel()
            return
        self._first = True
        say(f"\ndraining: {runner.progress().in_flight} in flight, no new calls; press again to leave at once")
        runner.stop(_WHY[number], _EXIT[number])

    def _hang_up(self, runner: Conductor) -> None:
        runner.note("signal", {"signal": "SIGHUP", "effect": "goes on without its terminal"})


@contextmanager
def _handled(handlers: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Have the loop call these at signals; afterwards what was in force before is so again.

    Signals go to the main thread, whose they are: elsewhere nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        for number, handler in handlers.items():
            stack.enter_context(_one_handled(loop, number, handler))
        yield


@contextmanager
def _one_handled(
    loop: asyncio.AbstractEventLoop, number: signal.Signals, handler: Callable[[], object]
) -> Iterator[None]:
    before = signal.getsignal(number)
    loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)
        if before is not None:  # None: of no Python code, and nothing can put it back
            signal.signal(number, before)
