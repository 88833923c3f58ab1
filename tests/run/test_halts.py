"""No new call while a reason holds: what waits, what still ends, and which clocks stand still. Virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.errors import Reason
from engine.journal import records
from engine.journal.reader import read
from engine.run.halts import Halts
from engine.run.runner import Runner
from engine.simulator.faults import rules_from
from engine.simulator.world import World
from tests.support.drill import Drill, fleet, run_settings


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def world(*faults: dict[str, object], latency: float = 0.1) -> World:
    return World(faults=rules_from(list(faults)), latency=latency)


def sent_times(drill: Drill) -> list[float]:
    replies = [line for line in read(drill.path) if isinstance(line, records.ReplyLine) and line.sent_at is not None]
    return sorted(records.unix_seconds(line.sent_at) for line in replies if line.sent_at is not None)


def test_only_time_in_which_calls_may_begin_counts() -> None:
    """A deadline must not run out while a person holds the run; overlapping reasons count once."""
    clock = Clock()
    halts = Halts(clock)
    clock.now = 10.0
    halts.begin("pause")
    clock.now = 15.0
    halts.begin("soak", keeps_open=True)
    halts.begin("pause")
    assert (halts.counted(0.0), halts.counted(12.0)) == (10.0, 0.0)
    clock.now = 20.0
    halts.end("pause")
    assert halts.is_set and halts.keeps_open
    clock.now = 30.0
    halts.end("soak")
    clock.now = 33.0
    assert not halts.is_set and not halts.keeps_open
    assert [halts.counted(since) for since in (0.0, 12.0, 30.0, 31.0)] == [13.0, 3.0, 3.0, 2.0]
    halts.end("soak")
    assert halts.counted(0.0) == 13.0


def test_who_waits_is_told_at_both_ends() -> None:
    """A lane that sleeps must learn that it may send again, or a lifted pause goes on for ever."""
    halts, told = Halts(Clock()), []
    halts.told.append(lambda: told.append(halts.is_set))
    halts.begin("pause")
    halts.begin("pause")
    halts.end("pause")
    halts.end("pause")
    assert told == [True, False]


def halted(at: float, until: float, *, keeps_open: bool = False) -> object:
    async def during(runner: Runner) -> None:
        await asyncio.sleep(at)
        runner.halts.begin("pause", keeps_open=keeps_open)
        await asyncio.sleep(until - at)
        runner.halts.end("pause")

    return during


@pytest.mark.parametrize("rate", [2.0, 20.0, 200.0])
@pytest.mark.parametrize("lanes", [1, 3])
def test_nothing_leaves_while_a_reason_holds_and_all_is_done_after(tmp_path: Path, rate: float, lanes: int) -> None:
    """Fast and slow lanes alike: no send in the halt, every intent given back, and the rest is sent after it."""
    it, count = world(), int(rate * lanes / 2)
    drill = Drill(tmp_path, it, fleet(10, count), settings=run_settings(rate=rate), lanes=lanes)
    drill.during = halted(3.05, 63.05)  # type: ignore[assignment]
    drill.go()
    begun = 1_790_000_000.0
    times = sent_times(drill)
    assert drill.reason is Reason.OK
    assert set(drill.outcomes().values()) == {"changed"}
    assert not [at for at in times if begun + 3.06 < at < begun + 63.0]
    assert [at for at in times if at > begun + 63.0]
    assert max(drill.ledger.worst_second().values()) <= rate


def test_while_it_holds_nothing_is_written_ahead_and_what_is_sent_is_proven(tmp_path: Path) -> None:
    """A process that dies in a pause leaves no call in doubt."""
    seen: list[tuple[bool, int]] = []

    async def during(runner: Runner) -> None:
        await asyncio.sleep(3.0)
        runner.halts.begin("pause")
        await asyncio.sleep(20.0)
        ledger = runner.recorder.ledger
        unanswered = any(entry.unanswered for _, entry, _ in ledger.outcomes())
        seen.append((unanswered, sum(entry.accepted_at is not None for _, entry, _ in ledger.outcomes())))
        settled = sum(entry.settled for _, entry, _ in ledger.outcomes())
        assert settled == seen[0][1] > 0
        runner.halts.end("pause")

    Drill(tmp_path, world({"action": "LockAccount", "slow": 5}), fleet(40, 5), during=during).go()
    assert seen and not seen[0][0]


def test_the_deadline_stands_still_and_the_window_does_not(tmp_path: Path) -> None:
    """A pause of an hour costs no deadline; nothing is sent outside the window because somebody paused in it."""
    drill = Drill(tmp_path / "deadline", world(), fleet(20, 10), deadline_s=30.0)
    drill.during = halted(5.0, 605.0)  # type: ignore[assignment]
    assert drill.go().reason is Reason.OK
    drill = Drill(tmp_path / "window", world(), fleet(20, 10), closes_s=60.0)
    drill.during = halted(5.0, 605.0)  # type: ignore[assignment]
    assert drill.go().reason is Reason.STOPPED
    assert drill.ledger.end is not None and drill.ledger.end.stopped is not None
    assert drill.ledger.end.stopped.why == "the window closed"
    assert drill.seconds < 75.0


def test_a_throttled_run_is_not_starved_by_its_pause(tmp_path: Path) -> None:
    """Ten minutes without an accepted call end a run; ten minutes of pause do not."""
    it = world({"action": "LockAccount", "code": "RequestLimitExceeded", "times": 60})
    drill = Drill(tmp_path, it, fleet(20, 2))
    drill.during = halted(2.0, 902.0)  # type: ignore[assignment]
    assert drill.go().reason is Reason.OK


def test_a_call_that_backs_off_keeps_its_budget(tmp_path: Path) -> None:
    """Two minutes of retries are two minutes in which it could be retried."""
    it = world({"action": "LockAccount", "user": "user1", "code": "InternalError", "times": 3})
    drill = Drill(tmp_path, it, fleet(4, 3))
    drill.during = halted(0.5, 300.5)  # type: ignore[assignment]
    assert drill.go().reason is Reason.OK


def test_a_stop_ends_a_halted_run_at_once(tmp_path: Path) -> None:
    """A signal, a stop and a deadline must not wait for whoever paused the run."""

    async def during(runner: Runner) -> None:
        await asyncio.sleep(3.0)
        runner.halts.begin("pause", keeps_open=True)
        await asyncio.sleep(10.0)
        runner.stop("interrupted (Ctrl-C)", Reason.INTERRUPTED)

    drill = Drill(tmp_path, world(), fleet(40, 5), during=during).go()
    assert drill.reason is Reason.INTERRUPTED
    assert 13.0 <= drill.seconds < 13.5


def test_a_reason_can_keep_a_session_open_that_has_no_call_left(tmp_path: Path) -> None:
    """A soak after the last wave is waited for; a pause of a run that has nothing left holds nobody up."""
    drill = Drill(tmp_path / "soak", world(), fleet(4, 5))
    drill.during = halted(0.9, 60.9, keeps_open=True)  # type: ignore[assignment]
    assert drill.go().reason is Reason.OK and drill.seconds >= 60.9
    drill = Drill(tmp_path / "pause", world(latency=3.0), fleet(4, 2))
    drill.during = halted(5.0, 60.9)  # type: ignore[assignment]
    assert drill.go().reason is Reason.OK and drill.seconds < 20.0
