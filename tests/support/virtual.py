"""An event loop whose time jumps to the next timer when nothing else is to be done: minutes of pacing in milliseconds.

In memory only: with real sockets under way a jump is a false timeout. Work in threads (the journal's commits) is
waited for before a jump, so that the disk does not appear to take virtual minutes.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

_BUSY = 1000
"""Turns without a jump after which time goes on by itself: no step of work takes as many."""


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Asks the loop how long to block: not at all, unless a thread is at work."""

    loop: VirtualLoop
    busy = 0
    """Turns in a row in which the loop had work."""

    def select(self, timeout: float | None = None) -> Any:
        if self.loop.threads:
            # A thread ends with call_soon_threadsafe, which wakes the selector.
            return super().select(min(timeout, 0.05) if timeout is not None else 0.05)
        ready = super().select(0)
        self.busy = self.busy + 1 if timeout == 0 else 0
        if self.busy > _BUSY:
            # So does a clock that stands still while aiolimiter has a timer that is due and no capacity yet.
            self.loop.now += 1e-6
        if not ready and timeout is not None and timeout > 0:
            # A clock that stops exactly at the timer live-locks aiolimiter on float rounding: go a little past it.
            self.loop.now += timeout + 1e-6
        elif not ready and timeout is None:
            return super().select(None)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at `START`; only timers move it."""

    START = 1000.0

    def __init__(self) -> None:
        self.now = self.START
        self.threads = 0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        self.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _future: asyncio.Future[Any]) -> None:
        self.threads -= 1

    def wall(self, at_start: float = 1_790_000_000.0) -> Callable[[], float]:
        """A wall clock that goes with this loop, from UNIX time `at_start`."""
        return lambda: at_start + (self.now - self.START)
