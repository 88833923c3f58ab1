"""One quota, several processes of one host: real processes, real time, a real file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.slots import SharedSlots

CHILD = """
import asyncio, json, sys, time
from pathlib import Path
from engine.pacing import Pacer
from engine.slots import SharedSlots

async def main(directory, seconds):
    pacer = Pacer(20.0, SharedSlots(Path(directory), "lane"))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        slot_at = await pacer.slot()
        left_at = time.monotonic()
        pacer.left_late(slot_at, left_at - slot_at)  # as the runner does: the loop's clock is the monotonic one
        print(json.dumps(left_at), flush=True)

asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""


def start(directory: Path, seconds: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", CHILD, str(directory), str(seconds)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def times(child: subprocess.Popen[str]) -> list[float]:
    out, _ = child.communicate(timeout=60)
    return [json.loads(line) for line in out.splitlines()]


def worst(moments: list[float]) -> int:
    moments = sorted(moments)
    return max(sum(at - 1.0 < each <= at for each in moments) for at in moments)


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_processes_share_one_quota_fairly(tmp_path: Path, processes: int) -> None:
    """No second of all together holds more than the quota, and each has its share."""
    children = [start(tmp_path, 5.0) for _ in range(processes)]
    each = [times(child) for child in children]
    everything = sorted(moment for moments in each for moment in moments)
    # From when all had started: interpreters start at their own pace.
    common = [moment for moment in everything if moment >= max(moments[0] for moments in each)]
    assert worst(everything) <= 20
    assert len(common) >= 0.8 * 20 * (common[-1] - common[0])
    shares = [sum(moment >= common[0] for moment in moments) for moments in each]
    assert min(shares) >= 0.5 * len(common) / processes


def test_a_process_killed_while_it_sends_costs_the_others_nothing(tmp_path: Path) -> None:
    """The kernel frees what it held; the other fills the quota alone."""
    victim, other = start(tmp_path, 60.0), start(tmp_path, 5.0)
    assert victim.stdout is not None
    for _ in range(10):
        victim.stdout.readline()
    victim.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    victim.wait()
    victim.stdout.close()
    alone = [moment for moment in times(other) if moment > killed_at + 0.3]
    assert len(alone) >= 0.85 * 20 * (alone[-1] - alone[0])


async def test_a_file_of_an_earlier_boot_or_of_nobody_is_begun_anew(tmp_path: Path) -> None:
    """The monotonic clock begins again with the host: what lies far ahead is old. Garbage is no schedule either."""
    slots = SharedSlots(tmp_path, "lane")
    for content in (b"\xff" * 64, struct.pack("<IId", 0x61636374, 1, time.monotonic() + 1e6) + struct.pack("<d", 1e9)):
        with slots.path.open("r+b") as file:
            file.write(content)
        at = await slots.reserve(rate=20, interval_s=0.05, window_s=1.0)
        assert at <= time.monotonic()
    slots.close()


async def test_a_held_lock_does_not_block_the_loop(tmp_path: Path) -> None:
    """Another process stopped while it holds the lock: ours goes on with everything else."""
    import fcntl

    slots = SharedSlots(tmp_path, "lane")
    holder = os.open(slots.path, os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    waiting = asyncio.create_task(slots.reserve(rate=20, interval_s=0.05, window_s=1.0))
    turns = 0
    for _ in range(50):
        await asyncio.sleep(0.001)
        turns += 1
    assert turns == 50
    assert not waiting.done()
    os.close(holder)
    assert await waiting <= time.monotonic()
    slots.close()


async def test_what_left_late_pushes_the_window(tmp_path: Path) -> None:
    """The slot after as many as the rate keeps its second from when the first really left."""
    slots = SharedSlots(tmp_path, "lane")
    first = await slots.reserve(rate=2, interval_s=0.0, window_s=1.0)
    await slots.reserve(rate=2, interval_s=0.0, window_s=1.0)
    slots.left_late(first, 0.5)
    later = [await slots.reserve(rate=2, interval_s=0.0, window_s=1.0) for _ in range(2)]
    assert later[1] >= first + 1.5
    slots.close()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """With what to do about it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--state-dir"):
        SharedSlots(tmp_path / "file", "lane")
