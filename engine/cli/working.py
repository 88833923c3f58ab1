"""The command `worker`."""

from __future__ import annotations

import asyncio
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engine.cli.loops import run_loop
from engine.cli.options import Options, options_of
from engine.cli.talk import say
from engine.errors import ConfigError

_THREADS = 64
"""Threads that wait for the database: each session asks now and then, and a server may hang."""


def work(*, lanes: int, programs: tuple[str, ...], leads: bool, **flags: Any) -> int:
    """The `worker` command. Any: the flags, by name."""
    options = options_of(flags)
    return run_loop(_work(options, lanes, programs, leads=leads))


async def _work(options: Options, lanes: int, programs: tuple[str, ...], *, leads: bool) -> int:
    try:
        from engine.workers.worker import work
    except ImportError as error:
        raise ConfigError(f"workers need more ({error}): pip install 'acctops[workers]'") from error
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    tell = _quiet if options.quiet else _say
    return await work(options, lanes=lanes, programs=programs, leads=leads, say=tell, told=told)


def _say(text: str) -> None:
    say(f"{time.strftime('%H:%M:%SZ', time.gmtime())}  {text}")


def _quiet(_text: str) -> None:
    """Say nothing."""
