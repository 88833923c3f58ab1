"""The pacer against all four readings of "20 a second", in virtual time, and what a pacer meets at work.

The server is `simulator.quotas` itself. The way to it takes half a round trip and up to `jitter` more, so what was
sent evenly arrives unevenly; refused calls are sent again. Nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.cloud.transport import HttpTransport
from engine.errors import Reason
from engine.journal import records
from engine.journal.reader import read
from engine.model import Reply
from engine.pacing.pacer import GUARD_HIGH, GUARD_LOW, GUARD_START, PAUSE_S, QUIET_S, Gear, Pacer
from engine.run.runner import Runner
from engine.simulator.quotas import Lane, Window, WorstSecond
from engine.simulator.server import serve
from engine.simulator.world import World
from tests.support.drill import Drill, fleet
from tests.support.virtual import VirtualLoop

QUOTA = 20
WINDOWS = list(Window)


@dataclass
class Foreign:
    """Someone else who uses the quota, unimpressed by refusals."""

    rate: float
    begins_s: float
    ends_s: float
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)


@dataclass
class Drive:
    """So many calls through one pacer to one server."""

    window: Window
    calls: int
    jitter_s: float = 0.0
    rtt_s: float = 0.02
    seed: int = 0
    opening_s: float = 0.0
    """Time a new connection takes to open; one is opened when none is idle."""
    late_s: float = 0.0
    """Timers are late by up to so much, and now and then the loop is busy for up to twelve times that."""
    foreign: Foreign | None = None
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    left: list[float] = field(default_factory=list)
    """When bytes left, in seconds from the start, like all times here."""

    def go(self) -> Drive:
        self._rng = random.Random(self.seed)
        self._server, self._worst = Lane(self.window), WorstSecond()
        self._begins = 1_790_000_000 + self._rng.random()  # calendar seconds begin anywhere
        self._loop = VirtualLoop()
        self._idle, self._to_send = 0, self.calls
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._send())
        return self

    async def _send(self) -> None:
        self._pacer, self._wake = Pacer(QUOTA), asyncio.Event()
        foreign = asyncio.ensure_future(self._disturb())
        while len(self.accepted) < self.calls:
            if not self._to_send:
                self._wake.clear()
                await self._wake.wait()
                continue
            slot_at = await self._pacer.slot()
            self._to_send -= 1
            late_s = self._late()
            if self._idle:
                self._idle -= 1
            else:
                late_s += self.opening_s
            self.left.append(slot_at + late_s - VirtualLoop.START)
            arrives_at = slot_at + late_s + self.rtt_s / 2 + self._rng.uniform(0, self.jitter_s)
            self._loop.call_at(arrives_at, self._arrive, slot_at, late_s, arrives_at)
        foreign.cancel()

    def _late(self) -> float:
        if not self.late_s:
            return 0.0
        began = self._loop.now
        if self._rng.random() < 0.02:
            self._loop.now += self._rng.uniform(0, 12 * self.late_s)
        return self._loop.now - began + self._rng.uniform(0, self.late_s)

    def _arrive(self, slot_at: float, late_s: float, now: float) -> None:
        passes = self._admit(now)
        (self.accepted if passes else self.refused).append(now - VirtualLoop.START)
        self._loop.call_at(now + self.rtt_s / 2, self._reply, slot_at, late_s, passes)

    def _admit(self, now: float) -> bool:
        self._worst.arrive(now)
        return self._server.admit(self._begins + now, QUOTA) is None

    def _reply(self, slot_at: float, late_s: float, passes: bool) -> None:
        self._idle += 1
        self._pacer.left_late(slot_at, late_s)
        if passes:
            self._pacer.accepted()
        else:
            self._pacer.refused(slot_at)
            self._to_send += 1
        self._wake.set()

    async def _disturb(self) -> None:
        if self.foreign is None:
            return
        await asyncio.sleep(self.foreign.begins_s)
        while (now := self._loop.now - VirtualLoop.START) < self.foreign.ends_s:
            (self.foreign.accepted if self._admit(self._loop.now) else self.foreign.refused).append(now)
            await asyncio.sleep(self._rng.expovariate(self.foreign.rate))

    @property
    def used(self) -> float:
        """Accepted calls ÷ (quota × time from first to last accepted arrival)."""
        return len(self.accepted) / (QUOTA * (self.accepted[-1] - self.accepted[0]))

    @property
    def throttled(self) -> float:
        return len(self.refused) / self.calls

    @property
    def worst_left(self) -> int:
        """Most sends in any second, by when their bytes left: what a journal shows as `sent_at`."""
        meter = WorstSecond()
        for at in sorted(self.left):
            meter.arrive(at)
        return meter.most


def rate(times: list[float], begin_s: float, end_s: float) -> float:
    return sum(begin_s <= at < end_s for at in times) / (end_s - begin_s)


# ---- how much of the quota is reached -------------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    ("calls", "jitter_s", "used", "throttled"),
    [
        (400, 0.0, 0.98, 0.0),
        (400, 0.02, 0.965, 0.005),
        (400, 0.1, 0.85, 0.015),
        (1200, 0.0, 0.983, 0.0),
        (1200, 0.02, 0.97, 0.0025),
        (1200, 0.1, 0.88, 0.01),
    ],
)
def test_the_quota_is_filled_and_not_broken(
    window: Window, calls: int, jitter_s: float, used: float, throttled: float
) -> None:
    """However the server counts and the network jitters, and the better the longer a run goes on."""
    for seed in range(2):
        drive = Drive(window, calls, jitter_s, seed=seed).go()
        assert drive.used >= used
        assert drive.throttled <= throttled
        assert drive.worst_left <= QUOTA


# ---- what a pacer meets at work ----------------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("opening_s", [0.05, 0.1, 0.3])
def test_opening_connections_does_not_break_the_first_second(window: Window, opening_s: float) -> None:
    """The first calls arrive late by TCP and TLS, those after them do not: still no 21 in a second."""
    drive = Drive(window, 200, rtt_s=0.04, opening_s=opening_s).go()
    assert drive.refused == []
    assert drive._worst.most <= QUOTA
    assert drive.used >= 0.98


@pytest.mark.parametrize("window", WINDOWS)
def test_late_timers_and_a_busy_loop_are_caught_up_within_the_quota(window: Window) -> None:
    """Timers late by up to 5 ms, and the loop busy for up to 60 ms: nothing is lost, no second has 21 sends."""
    drive = Drive(window, 400, late_s=0.005, seed=3).go()
    assert drive.worst_left <= QUOTA
    assert drive.refused == []
    assert drive.used >= 0.975


@pytest.mark.parametrize("window", WINDOWS)
def test_a_foreign_client_is_shared_with_and_outlived(window: Window) -> None:
    """Someone takes half of the quota for 40 s: both get on, and soon after they leave it is all ours again."""
    foreign = Foreign(rate=10, begins_s=5, ends_s=45)
    drive = Drive(window, 1100, rtt_s=0.04, foreign=foreign).go()
    ours, theirs = rate(drive.accepted, 15, 45), rate(foreign.accepted, 15, 45)
    assert 3.5 <= ours <= 12
    assert theirs >= 8
    assert rate(drive.refused, 15, 45) <= 0.1 * ours
    assert rate(foreign.refused, 15, 45) <= 0.15 * theirs
    assert rate(drive.accepted, 65, 70) >= 0.85 * QUOTA


def test_a_slow_answer_is_not_taken_for_a_slow_network() -> None:
    """Five seconds a call: a hundred in flight, and the quota is full all the same."""
    drive = Drive(Window.SLIDING, 400, rtt_s=5.0).go()
    assert drive.refused == []
    assert drive.used >= 0.98


def test_a_run_notes_each_change_of_gear(tmp_path: Path) -> None:
    """Who reads the journal sees when the lane slowed, to which interval, and when it was well again."""
    drill = Drill(tmp_path, World(quota_window=Window.SLIDING, jitter=0.06, latency=0.04), fleet(20, 30)).go()
    notes = [line for line in read(drill.path) if isinstance(line, records.Note)]
    assert drill.ledger.throttled > 0
    assert notes[0].what == "lane_slowed"
    assert {note.what for note in notes} <= {"lane_slowed", "lane_recovered"}
    assert all(set(note.data) == {"lane", "guard", "interval_ms"} for note in notes)
    assert all(lane == "test/LockAccount/127.0.0.1:9" for lane in (note.data["lane"] for note in notes))
    assert set(drill.ledger.worst_second().values()) == {20}


def test_on_a_slow_disk_sent_is_written_as_far_ahead_as_it_takes(tmp_path: Path) -> None:
    """Half a second a commit: twenty calls ahead, of which a stop leaves none in doubt, and a resume loses none."""

    async def slow_disk(runner: Runner) -> None:
        for _ in range(300):
            runner.recorder.journal.commit_s = 0.5  # virtual time passes no disk by: only say so
            await asyncio.sleep(0.01)
        runner.stop("enough", Reason.STOPPED)

    drill = Drill(tmp_path, World(latency=0.04), fleet(20, 10), during=slow_disk).go()
    replies = [line for line in read(drill.path) if isinstance(line, records.ReplyLine)]
    not_sent = [line for line in replies if line.code == "Local.NotSent"]
    assert 15 <= len(not_sent) <= 20
    assert len(not_sent) + sum(arrival.action == "LockAccount" for arrival in drill.world.audit) == len(replies) < 100
    assert drill.ledger.counts()["unknown"] == drill.ledger.counts()["failed"] == 0
    drill.during = None
    assert drill.go().reason is Reason.OK
    assert sum(arrival.applied for arrival in drill.world.audit) == 200


async def test_the_transport_says_how_long_a_connection_took_to_open() -> None:
    """What a pacer needs to know of the first calls, and of any later one that found no idle connection."""
    server, transport = await serve(World()), HttpTransport()
    try:
        first = await transport.send(server.endpoints[0], {"Host": "127.0.0.1"}, b"{}", 5.0)
        second = await transport.send(server.endpoints[0], {"Host": "127.0.0.1"}, b"{}", 5.0)
    finally:
        await transport.aclose()
        await server.aclose()
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert first.opening_s > second.opening_s >= 0


# ---- the gear ----------------------------------------------------------------------------------------------------


def test_calls_under_way_when_the_first_was_refused_say_nothing_new() -> None:
    """They left at the old pace: no pause is added, no guard, however late their refusals come in."""
    gear = Gear(20.0)
    assert gear.refused(10.0, sent_at=9.9) == PAUSE_S
    guard = gear.guard
    for late_s in (0.01, 0.5, 5.0):
        assert gear.refused(10.0 + late_s, sent_at=9.99) == 0.0
    assert gear.guard == guard


def test_a_call_sent_after_the_pause_and_refused_says_that_the_pause_was_not_enough() -> None:
    """It is not jitter then: the rest of the second is left to the others, and the guard grows once more, not twice."""
    gear = Gear(20.0)
    gear.refused(10.0, sent_at=9.9)
    first = gear.guard
    assert gear.refused(10.25, sent_at=10.2) == 0.75
    second = gear.guard
    assert second > first
    assert gear.refused(10.5, sent_at=10.45) == 0.5
    assert gear.guard == second


def test_each_change_of_gear_is_told_once() -> None:
    """Slowed at each event, recovered once: what the runner writes into the journal."""
    gear = Gear(20.0)
    assert gear.changed() is None
    gear.refused(10.0)
    gear.refused(10.1)
    assert gear.changed() == "slowed"
    assert gear.changed() is None
    told = []
    for _ in range(2000):
        gear.accepted()
        if (change := gear.changed()) is not None:
            told.append((change, gear.guard <= GUARD_START))
    assert told == [("recovered", True)]


@pytest.mark.parametrize("rate", [0.5, 1.0, 20.0, 1000.0])
def test_the_guard_is_bounded_at_any_rate(rate: float) -> None:
    """Refused for an hour, then accepted for an hour: never beyond a tenth of the quota, never beyond the quota."""
    gear = Gear(rate)
    for event in range(100):
        gear.refused(10.0 + event * 2 * QUIET_S, sent_at=9.0 + event * 2 * QUIET_S)
        assert gear.guard <= GUARD_HIGH
    assert gear.guard == GUARD_HIGH
    for _ in range(int(3600 * min(rate, 20.0))):
        gear.accepted()
        assert gear.guard >= GUARD_LOW
    assert gear.guard <= GUARD_START


def test_a_call_that_left_late_is_counted_when_it_left() -> None:
    """It waited for its connection: the call after the next nineteen waits as much longer."""
    gear = Gear(20.0)
    for number in range(20):
        gear.sent(10.0 + number * 0.05)
    on_time = gear.earliest()
    assert on_time == pytest.approx(11.0, abs=0.03)
    gear.left_late(10.0, 0.02)
    assert gear.earliest() == pytest.approx(on_time + 0.02)
    gear.left_late(10.0, 0.02)  # told twice, or of a slot long past: nothing
    gear.left_late(5.0, 1.0)
    assert gear.earliest() == pytest.approx(on_time + 0.02)
