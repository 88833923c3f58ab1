"""The command `worker`."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NoReturn

from engine.cli.loops import run_loop
from engine.cli.options import Options, options_of
from engine.cli.talk import say
from engine.errors import ConfigError, Reason

_THREADS = 64
"""Threads that wait for the database: each session asks now and then, and a server may hang."""


_DRAIN_S = 25.0
"""Seconds that a worker which was told to leave has to give its lanes back: Kubernetes kills after 30."""
_GC_THRESHOLD = (20_000, 10, 5)
"""Python's own is (700, 10, 10). A session that has ended can hang together in cycles with its ledger, megabytes each:
they are looked for ten times as often as in a command, which ends soon."""
_EXIT = {signal.SIGTERM: Reason.TERMINATED, signal.SIGINT: Reason.INTERRUPTED, signal.SIGHUP: Reason.TERMINATED}


def work(*, lanes: int, programs: tuple[str, ...], leads: bool, ready_file: str | None, **flags: Any) -> int:
    """The `worker` command. Any: the flags, by name."""
    options = options_of(flags)
    return run_loop(_work(options, lanes, programs, leads=leads, ready_file=ready_file))


async def _work(options: Options, lanes: int, programs: tuple[str, ...], *, leads: bool, ready_file: str | None) -> int:
    try:
        from engine.workers.host import FENCED
        from engine.workers.worker import work
    except ImportError as error:
        raise ConfigError(f"workers need more ({error}): pip install 'acctops[workers]'") from error
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS))
    tell = _quiet if options.quiet else _say
    gc.freeze()  # a short command looks for no cycles (`cli.entry`); a worker goes on for weeks
    gc.set_threshold(*_GC_THRESHOLD)
    gc.enable()

    def leave(number: signal.Signals) -> None:
        if told.is_set():
            _end(_EXIT[number], "left at once: others take its lanes once it is silent")
        told.set()

    for number in _EXIT:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            loop.add_signal_handler(number, leave, number)
    working = asyncio.ensure_future(
        work(options, lanes=lanes, programs=programs, leads=leads, say=tell, told=told, ready_file=ready_file)
    )
    leaving = asyncio.ensure_future(told.wait())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            await asyncio.wait({working}, timeout=_DRAIN_S)
            if not working.done():
                _end(FENCED, f"not all could be given back within {_DRAIN_S:.0f} s; others take it once it is silent")
        code = int(await working)
    finally:
        leaving.cancel()
    if told.is_set():
        _end(code, "")  # threads of DBOS may wait for a database that is gone, and the interpreter for them
    return code


def _end(code: int, words: str) -> NoReturn:
    """End this process now, whatever its threads wait for."""
    if words:
        say(words)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _say(text: str) -> None:
    say(f"{time.strftime('%H:%M:%SZ', time.gmtime())}  {text}")


def _quiet(_text: str) -> None:
    """Say nothing."""
