"""The event loop of a command, in which no library writes to the screen."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from engine.cli.leaving import interrupted_words, leave_soon
from engine.cli.talk import defect_words, in_debug, show_traceback, warn
from engine.errors import Reason

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from engine.operations.terms import Terms

_T = TypeVar("_T")


def run_loop(work: Coroutine[Any, Any, _T], terms: Terms | None = None) -> _T:
    """Do `work` to its end in an event loop, one for a whole command. What libraries log is said in one sentence each.

    A Ctrl-C raises KeyboardInterrupt wherever it finds the command: asyncio's own handler would wait for the next
    `await`, and a question to a person, or a journal that is read, has none. The connections of
    `terms` are closed at the end.
    """
    if not isinstance(logging.lastResort, _Sentences):
        logging.lastResort = _Sentences(logging.WARNING)
    with _interrupted_at_once(), asyncio.Runner() as runner:
        try:
            return runner.run(_closing(work, terms) if terms is not None else work)
        except (KeyboardInterrupt, asyncio.CancelledError):
            # The loop waits for its threads, one of which may wait for a name server.
            leave_soon(Reason.INTERRUPTED, interrupted_words("interrupted"))
            raise


async def _closing(work: Coroutine[Any, Any, _T], terms: Terms) -> _T:
    try:
        return await work
    finally:
        await terms.wire.aclose()


@contextmanager
def _interrupted_at_once() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield  # ignored, as in the background of a shell, or somebody else's
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


class _Sentences(logging.Handler):
    """Where log records end that nobody else takes: Python's own prints tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        what = record.getMessage().partition("\n")[0] if in_debug() or error is None else str(record.msg).split("\n")[0]
        if error is not None:
            show_traceback(error)
            what += f": {defect_words(error)}"
        warn(f"{record.name}: {what}")
