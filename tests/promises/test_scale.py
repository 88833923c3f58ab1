"""Large jobs: planned from a list, carried out in flat memory with a bounded number of tasks.

`ACCTOPS_SCALE_CALLS=100000` sends as many as are planned; `-s` prints the figures. Only bounds are asserted, no times.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import Reason
from engine.journal.reader import replay, verify
from engine.run import dispatch
from engine.run.runner import Runner
from engine.simulator.faults import rules_from
from engine.simulator.world import World
from tests.support.crash import REGION, Outpost, Simulators, WatchedWorld
from tests.support.drill import Drill, fleet, run_settings

PLANNED = 100_000
CALLS = int(os.environ.get("ACCTOPS_SCALE_CALLS", "6000"))
BYTES_A_CALL = 1000
"""What a ledger may know of a call: an entry and its texts (RequestId, two times). Measured: 290 to 650."""
BYTES_A_READING = 2500
"""What a further reading of an instance may leave: on a busy machine a look is soon older than 5 s, and is taken anew.
Measured: 2,200, with twenty accounts each."""
BYTES_AN_ATTEMPT = 100
"""Measured: 0; the rest is the allocator's."""

pytestmark = pytest.mark.timeout(120 + CALLS // 50)


@pytest.fixture
def simulators() -> Iterator[Simulators]:
    with Simulators() as simulators:
        yield simulators


def write_list(post: Outpost, calls: int) -> None:
    rows = "".join(f"postgres-{number // 20:08d},user{number % 20}\n" for number in range(calls))
    post.write(f"instance,user\n{rows}", "all.csv")
    post.write(f"action: LockAccount\nregion: {REGION}\ntargets:\n  - csv: all.csv\n")


def rss_bytes(pid: int | str = "self") -> int:
    """Memory a process has in use now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def say(text: str) -> None:
    print(f"\n{text}")  # noqa: T201 - the figures, for whoever asks with -s


def test_a_hundred_thousand_targets_are_planned(tmp_path: Path) -> None:
    """From a CSV list, every one a call."""
    post = Outpost(tmp_path, "http://127.0.0.1:9")
    write_list(post, PLANNED)
    started = time.monotonic()
    assert post.finish("plan", "job.yaml", "--offline", "--json") == Reason.OK, post.err()
    say(f"{PLANNED:,} targets planned in {time.monotonic() - started:.1f} s")
    assert len(json.loads(post.out())["calls"]) == PLANNED


def test_memory_is_flat_while_a_large_job_is_carried_out(tmp_path: Path, simulators: Simulators) -> None:
    """A process against a server: from a quarter to the end, each call leaves what is known of it and no more."""
    rules = rules_from([{"probability": 0.005, "status": 502}, {"probability": 0.01, "code": "InternalError"}])
    world = WatchedWorld(faults=rules, quotas={"*": None}, audit=0)
    post = Outpost(tmp_path, simulators.serve(world), ("--rate", "5000", "--quiet"))
    write_list(post, CALLS)
    marks = {CALLS // 4: (0, 0), CALLS * 95 // 100: (0, 0)}
    arrived = readings = 0

    def watch(when: str, action: str) -> None:
        nonlocal arrived, readings
        if when == "after" and action == "LockAccount":
            arrived += 1
            if arrived in marks:
                marks[arrived] = rss_bytes(post.processes[-1].pid), readings
        elif when == "after":
            readings += 1

    world.watch = watch
    started = time.monotonic()
    assert post.finish(*post.run_or_resume(), patience_s=100 + CALLS / 100) == Reason.OK, post.err()
    seconds = time.monotonic() - started
    (quarter, (early, read_early)), (most, (late, read_late)) = marks.items()
    again = read_late - read_early
    grown = (late - early - again * BYTES_A_READING) / (most - quarter)
    say(
        f"{CALLS:,} calls in {seconds:.1f} s; {early >> 20} MiB at 25 %, {late >> 20} MiB at 95 %, {again} readings "
        f"between: {grown:.0f} B a call beside them"
    )
    said = json.loads(post.out())
    assert said["counts"]["changed"] == CALLS
    assert early > 0
    assert grown < BYTES_A_CALL
    assert verify(post.journal).settled_twice == ()


def test_memory_does_not_grow_with_attempts(tmp_path: Path) -> None:
    """A few calls that are tried again and again: what is known of a call is replaced, not added to."""
    calls, each = 100, 40
    faults = rules_from([{"action": "LockAccount", "times_each": each - 1, "code": "InternalError"}])
    world = World(faults=faults, quotas={"*": None}, latency=0.02, audit=0)
    marks: dict[int, int] = {}

    async def watch(runner: Runner) -> None:
        for share in (25, 95):
            while drill.ledger.attempts < calls * each * share // 100:
                await asyncio.sleep(1.0)  # in virtual time
            gc.collect()
            marks[drill.ledger.attempts] = rss_bytes()

    settings = run_settings(rate=1000.0, transient_s=1e6)
    drill = Drill(tmp_path, world, fleet(calls, 1), settings=settings, deadline_s=1e6, during=watch)
    drill.go()
    assert drill.reason is Reason.OK
    assert drill.ledger.attempts == calls * each
    (quarter, early), (most, late) = marks.items()
    grown = (late - early) / (most - quarter)
    say(f"{most - quarter:,} attempts of {calls} calls: {grown:.1f} B an attempt")
    assert grown < BYTES_AN_ATTEMPT


def test_tasks_are_bounded_by_the_workers_and_the_open_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls back off, so many are open and no more; the number of targets plays no part."""
    open_calls, workers, calls = 200, 50, 600
    assert calls < dispatch.MOST_OPEN, "not the constant holds the bound"
    monkeypatch.setattr(dispatch, "MOST_OPEN", open_calls)
    faults = rules_from([{"action": "LockAccount", "times_each": 2, "code": "InternalError"}])
    world = World(faults=faults, quotas={"*": None}, latency=0.02, audit=0)
    most = 0

    async def watch(_runner: Runner) -> None:
        nonlocal most
        while True:
            most = max(most, len(asyncio.all_tasks()))
            await asyncio.sleep(0.1)  # in virtual time

    settings = run_settings(rate=4000.0, workers=workers, verify=False)
    drill = Drill(tmp_path, world, fleet(calls, 1), settings=settings, during=watch).go()
    assert drill.reason is Reason.OK
    say(f"at most {most:,} tasks")
    assert open_calls <= most <= open_calls + workers + 10
    assert replay(drill.path).ledger.attempts == calls * 3
