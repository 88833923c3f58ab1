"""One quota, several processes of one host: real processes, real time, a real file."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from engine.errors import ConfigError
from engine.pacing.pacer import Pacer
from engine.pacing.slots import SharedSlots
from tests.support.virtual import VirtualLoop

T = TypeVar("T")
CHILD = """
import asyncio, json, sys, time
from pathlib import Path
from engine.pacing.pacer import Pacer
from engine.pacing.slots import SharedSlots

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


def in_virtual_time(main: Callable[[], Awaitable[T]]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def pacer_of(directory: Path, rate: float) -> Pacer:
    """One process of those that share a lane, on the loop's clock."""
    return Pacer(rate, SharedSlots(directory, "lane", clock=asyncio.get_running_loop().time), quota=20.0)


async def take(pacer: Pacer, until: float) -> list[float]:
    moments = []
    while (moment := await pacer.slot()) < until:
        moments.append(moment)
    return moments


@pytest.mark.parametrize("slow", [0.5, 2.0, 5.0, 15.0])
def test_a_run_that_asks_for_less_leaves_the_rest_to_the_others(tmp_path: Path, slow: float) -> None:
    """A gentle job must not halve the lockdown beside it: both keep their pace, and the quota is full."""

    async def both() -> tuple[list[float], list[float]]:
        until = VirtualLoop.START + 30
        gentle, hurried = await asyncio.gather(
            take(pacer_of(tmp_path, slow), until), take(pacer_of(tmp_path, 20.0), until)
        )
        return gentle, hurried

    gentle, hurried = in_virtual_time(both)
    assert worst(gentle + hurried) <= 20
    assert len(gentle + hurried) >= 0.97 * 20 * 30
    assert len(gentle) >= 0.9 * min(slow, 10) * 30


def test_a_run_that_learns_late_whose_its_keys_are_shares_from_then_on(tmp_path: Path) -> None:
    """One run knew the sub-account from its readings, the other read nothing: still one quota, not two."""

    async def both() -> list[float]:
        loop = asyncio.get_running_loop()
        late = Pacer(20.0, SharedSlots(tmp_path, "environment", clock=loop.time), quota=20.0)
        loop.call_later(1.0, lambda: late.share(SharedSlots(tmp_path, "lane", clock=loop.time)))
        until = VirtualLoop.START + 20
        moments = await asyncio.gather(take(late, until), take(pacer_of(tmp_path, 20.0), until))
        return [moment for each in moments for moment in each if moment > VirtualLoop.START + 2]

    shared = in_virtual_time(both)
    assert worst(shared) <= 20
    assert len(shared) >= 0.97 * 20 * 18


def test_a_full_disk_is_told_before_a_slot_is_written(tmp_path: Path) -> None:
    """A page of a mapped file that the disk has no room for kills the process (SIGBUS): it is claimed at the start."""
    slots = SharedSlots(tmp_path, "lane")
    assert slots.path.stat().st_blocks * 512 >= slots.path.stat().st_size > 0
    slots.close()


def test_a_lock_that_is_never_given_back_holds_up_nobody(tmp_path: Path) -> None:
    """A process stopped (Ctrl-Z) in the microseconds it has the lock: the others wait a second, once, and go on."""

    async def beside_one_that_holds_it() -> list[float]:
        pacer = pacer_of(tmp_path, 20.0)
        (file,) = tmp_path.iterdir()
        holder = os.open(file, os.O_RDWR)
        fcntl.flock(holder, fcntl.LOCK_EX)
        moments = await take(pacer, VirtualLoop.START + 10)
        os.close(holder)
        assert not any(file.read_bytes())
        await pacer.slot()
        assert any(file.read_bytes())  # it shares again
        return moments

    moments = in_virtual_time(beside_one_that_holds_it)
    assert worst(moments) <= 20
    assert len(moments) >= 0.95 * 20 * 9


def test_a_slot_that_was_slept_through_is_not_used(tmp_path: Path) -> None:
    """A process stopped for ten seconds and continued: the second it wakes up in has been filled by the others."""

    async def sleep_through_it() -> tuple[float, list[float]]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        pacer, other = pacer_of(tmp_path, 20.0), SharedSlots(tmp_path, "lane", clock=loop.time)
        at_twenty = partial(other.reserve, rate=20, interval_s=0.051, window_s=1.018)
        for _ in range(4):
            await at_twenty()
        slot = asyncio.create_task(pacer.slot())
        await asyncio.sleep(0.1)  # it waits for the slot it has reserved
        loop.now += 10
        others = [await at_twenty() for _ in range(20)]
        return await slot, others

    slot, others = in_virtual_time(sleep_through_it)
    assert slot > others[-1]


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


def nonsense() -> list[bytes]:
    now = time.monotonic()
    head = struct.Struct("<IId")
    far = head.pack(0x61636374, 1, now) + struct.pack("<d", now + 1e6)
    nan = head.pack(0x61636374, 2, now) + struct.pack("<2d", now, float("nan"))
    never = head.pack(0x61636374, 1, float("nan")) + struct.pack("<d", now)
    return [far, nan, never, head.pack(0x61636374, 9999, now), b"secrets of mine", b"\xff" * 3000]


@pytest.mark.parametrize("which", range(6))
async def test_nonsense_of_others_is_thrown_away_and_said_once(tmp_path: Path, which: int) -> None:
    """Sends in the far future would mean never again; so would what is no number."""
    told: list[str] = []
    slots = SharedSlots(tmp_path, "lane", tell=told.append)
    for _ in range(2):
        text = nonsense()[which]
        with slots.path.open("r+b") as file:
            file.write(text)
        assert await slots.reserve(rate=20, interval_s=0.05, window_s=1.0) <= time.monotonic() + 1
    assert [words.partition(": ")[2][:21] for words in told] == ["what stood there was "]
    slots.close()


async def test_a_file_that_is_cut_while_it_is_used_is_begun_anew(tmp_path: Path) -> None:
    """A page of a mapped file that is gone would kill the process."""
    told: list[str] = []
    slots = SharedSlots(tmp_path, "lane", tell=told.append)
    for _ in range(3):
        await slots.reserve(rate=20, interval_s=0.05, window_s=1.0)
        os.truncate(slots.path, 0)
    await slots.reserve(rate=20, interval_s=0.05, window_s=1.0)
    slots.left_late(0.0, 1.0)
    slots.close()


@pytest.mark.parametrize("how", ["link", "hard link", "pipe", "directory", "everybody's"])
def test_a_planted_file_is_not_written(tmp_path: Path, how: str) -> None:
    """Whoever may write in the directory of lanes must not have us write elsewhere."""
    SharedSlots(tmp_path / "lanes", "lane").close()
    (path,) = (tmp_path / "lanes").iterdir()
    path.unlink()
    mine = tmp_path / "mine"
    mine.write_text("mine")
    match how:
        case "link":
            path.symlink_to(mine)
        case "hard link":
            path.hardlink_to(mine)
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case _:
            path.touch()
            path.chmod(0o666)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        SharedSlots(tmp_path / "lanes", "lane")
    assert mine.read_text() == "mine"


def test_a_stop_wakes_whoever_waits_for_a_slot(tmp_path: Path) -> None:
    """However far away it is, among several processes or in a pause: the deadline and SIGTERM end the run."""

    async def stopped_after(pacer: Pacer) -> float:
        loop = asyncio.get_running_loop()
        pacer.stopping = asyncio.Event()
        loop.call_later(1.0, pacer.stopping.set)
        begun = loop.time()
        await pacer.slot()
        return loop.time() - begun

    async def far() -> float:
        pacer = pacer_of(tmp_path, 20.0)
        (file,) = tmp_path.iterdir()
        at = asyncio.get_running_loop().time() + 50
        file.write_bytes((struct.pack("<IId", 0x61636374, 1, at) + struct.pack("<d", at)).ljust(2064, b"\0"))
        return await stopped_after(pacer)

    async def paused() -> float:
        pacer = Pacer(20.0)
        pacer.pause(40.0)
        return await stopped_after(pacer)

    assert 1.0 <= in_virtual_time(far) < 1.5
    assert 1.0 <= in_virtual_time(paused) < 1.5
