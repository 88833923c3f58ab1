"""Processes to measure and to measure against, on this machine; and which machine that is."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY

ROOT = Path(__file__).resolve().parents[2]

Row = dict[str, Any]
Say = Callable[[str], None]


def machine() -> Row:
    """What figures are worth without: where they come from."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "aiohttp": version("aiohttp"),
        "load_1min": os.getloadavg()[0],
    }


def environment(place: Path) -> dict[str, str]:
    """An operator's, with nothing of the tester's own in it."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(place),
        "PYTHONPATH": str(ROOT),
        "LANG": "C.UTF-8",
        "ACCTOPS_STATE_DIR": str(place / "state"),
        "TENCENTCLOUD_SECRET_ID": DEMO_SECRET_ID,
        "TENCENTCLOUD_SECRET_KEY": DEMO_SECRET_KEY,
    }


@contextmanager
def server(module: str, *argv: str) -> Iterator[Server]:
    """A server in a process of its own. It says where it listens in one line, and ends with its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"tests.bench.{module}", *argv],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Server(process, json.loads(process.stdout.readline()))
    finally:
        if process.poll() is None:
            process.communicate()


class Server:
    """A server under way."""

    def __init__(self, process: subprocess.Popen[str], urls: list[str]) -> None:
        self.urls = urls
        self._process = process

    def end(self) -> Any:
        """Stop it; returns what it has to say. Any: its JSON."""
        return json.loads(self._process.communicate()[0])


def contend(name: str, urls: Iterable[str], calls: int, *more: str) -> subprocess.Popen[str]:
    """Start a contender; its figures come from `figures`."""
    command = [sys.executable, "-m", "tests.bench.contenders", name, ",".join(urls), str(calls), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def figures(process: subprocess.Popen[str]) -> Row:
    """What a contender measured of itself, once it has ended."""
    said = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{process.args!r}: ended with {process.returncode}")
    found: Row = json.loads(said)
    return found


def timed(command: Sequence[str], place: Path) -> tuple[float, float]:
    """Wall seconds and peak megabytes of a command, which must succeed or only find nothing."""
    with tempfile.TemporaryFile() as out:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=place, env=environment(place), stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
        took_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            out.seek(0)
            raise SystemExit(f"{' '.join(command)}: {out.read().decode()}")
    return took_s, usage.ru_maxrss / 1024


def in_turn(rounds: int, measures: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Median of so many measurements of each, taken in turn, so that all meet the same machine."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            taken[name].append(measure())
    return {name: statistics.median(values) for name, values in taken.items()}
