"""An event loop for one piece of work, in which no library writes to the screen."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from engine.cli.leaving import interrupted_words, leave_soon
from engine.cli.talk import defect_words, in_debug, show_traceback, warn
from engine.errors import Exit

if TYPE_CHECKING:
    from collections.abc import Coroutine

_T = TypeVar("_T")


def run_loop(work: Coroutine[Any, Any, _T]) -> _T:
    """Do `work` to its end, as `asyncio.run`. What libraries log of its tasks is said in one sentence each."""
    if not isinstance(logging.lastResort, _Sentences):
        logging.lastResort = _Sentences(logging.WARNING)
    return asyncio.run(_left_when_cancelled(work))


async def _left_when_cancelled(work: Coroutine[Any, Any, _T]) -> _T:
    """`work`, which a Ctrl-C cancels: the loop then waits for its threads, one of which may wait for a name server."""
    try:
        return await work
    except asyncio.CancelledError:
        leave_soon(Exit.INTERRUPTED, interrupted_words("interrupted"))
        raise


class _Sentences(logging.Handler):
    """Where log records end that nobody else takes: Python's own prints tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        what = record.getMessage().partition("\n")[0] if in_debug() or error is None else str(record.msg).split("\n")[0]
        if error is not None:
            show_traceback(error)
            what += f": {defect_words(error)}"
        warn(f"{record.name}: {what}")
