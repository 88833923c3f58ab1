"""Whatever ends where nobody catches it ends in one sentence; the traceback is for who asks for it, without secrets."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.command import ROOT

PRELUDE = """
import asyncio, atexit, gc, os, sys, threading
import engine.cli
from engine.cli.loops import run_loop
engine.cli._one_sentence_each()
boom = lambda: int("hunter2-is-no-number http://op:hunter2@proxy")
"""
ENDS = {
    "at the top": "boom()",
    "in a thread": "thread = threading.Thread(target=boom); thread.start(); thread.join()",
    "at the exit": "atexit.register(boom)",
    "in a destructor": "type('X', (), {'__del__': lambda self: boom()})()",
    "in a task nobody waits for": """
async def work():
    async def fail():
        boom()
    asyncio.ensure_future(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
run_loop(work())
""",
    "in a callback": """
async def work():
    asyncio.get_running_loop().call_soon(boom)
    await asyncio.sleep(0.01)
run_loop(work())
""",
    "in a library's log": """
async def work():
    import logging
    try:
        boom()
    except ValueError:
        logging.getLogger("aiohttp.client").exception("it went\\nwrong")
run_loop(work())
""",
}


def said(code: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRELUDE + code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TENCENTCLOUD_SECRET_KEY": "hunter2-is", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("where", ENDS)
def test_a_defect_is_one_sentence(where: str) -> None:
    """No traceback, wherever it strikes; it names the kind of error and no secret."""
    found = said(ENDS[where])
    assert "Traceback" not in found
    (line,) = found.splitlines()
    assert line.startswith("acctops: ")
    assert "ValueError" in line
    assert "hunter2-is" not in line and "op:hunter2" not in line


@pytest.mark.parametrize("where", ENDS)
def test_who_asks_gets_the_traceback_without_secrets(where: str) -> None:
    """ACCTOPS_DEBUG=1 shows where it was, and blots out what the environment holds."""
    found = said(ENDS[where], ACCTOPS_DEBUG="1")
    assert "Traceback" in found
    assert "ValueError" in found
    assert "hunter2-is" not in found.replace(PRELUDE, "") and "op:hunter2" not in found
