"""What people ask of a run while it works: acknowledged by its journal only, and then it holds. Virtual time."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Reason
from engine.journal import records
from engine.journal.reader import read
from engine.run.runner import Runner
from engine.simulator.faults import rules_from
from engine.simulator.world import World
from tests.support.drill import Drill, fleet, run_settings


def world(*faults: dict[str, Any], latency: float = 0.1) -> World:
    return World(faults=rules_from(list(faults)), latency=latency)


def notes(drill: Drill, *whats: str) -> list[records.Note]:
    return [line for line in read(drill.path) if isinstance(line, records.Note) and line.what in whats]


async def acknowledged(drill: Drill, request: str) -> records.Note:
    while True:
        for note in list(drill.ledger.notes):
            if note.data.get("id") == request and note.what != "control":
                return note
        await asyncio.sleep(0.1)


def sent_in_pauses(drill: Drill) -> list[float]:
    """The moments at which a call left between `paused` and `unpaused`."""
    spans, begin = [], None
    for note in notes(drill, "paused", "unpaused"):
        if note.what == "paused" and begin is None:
            begin = records.unix_seconds(note.at)
        elif note.what == "unpaused" and begin is not None:
            spans.append((begin, records.unix_seconds(note.at)))
            begin = None
    replies = [line for line in read(drill.path) if isinstance(line, records.ReplyLine)]
    times = [records.unix_seconds(line.sent_at) for line in replies if line.sent_at is not None]
    # `at` is cut to milliseconds, `sent_at` to microseconds.
    return [at for at in times for begin, end in spans if begin + 0.001 < at < end]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_leaves_after_an_acknowledged_pause(tmp_path: Path, seed: int) -> None:
    """Fifty pauses at random moments, in runs with faults, several lanes and slow answers: not one call leaves."""
    rng = random.Random(seed)
    it = world(
        {"action": "LockAccount", "times": 40, "code": "InternalError"},
        {"action": "LockAccount", "times": 30, "code": "RequestLimitExceeded"},
        latency=rng.choice([0.02, 0.3, 2.0]),
    )
    drill = Drill(
        tmp_path,
        it,
        fleet(12, 60),
        lanes=rng.choice([1, 2]),
        seed=seed,
        settings=run_settings(rate=rng.choice([0.7, 5.0, 20.0])),
        deadline_s=1e6,
    )
    count = 0

    async def during(runner: Runner) -> None:
        nonlocal count
        for _ in range(50):
            await asyncio.sleep(rng.uniform(0.0, 0.6))
            note = await acknowledged(drill, drill.store.ask(drill.run_id, what="pause"))
            assert note.what == "paused" and note.data["in_flight"] == 0
            count += 1
            last = note.data["last_sent_at"]
            await asyncio.sleep(rng.uniform(0.0, 3.0))
            assert (runner.first_send_at is None) == (last is None)
            note = await acknowledged(drill, drill.store.ask(drill.run_id, what="resume"))
            assert note.what == "unpaused" and note.data["was_paused"]
        runner.stop("enough", Reason.STOPPED)

    drill.during = during
    drill.go()
    assert count == 50 and drill.reason is Reason.STOPPED
    assert not sent_in_pauses(drill)
    assert max(drill.ledger.worst_second().values()) <= 20


def test_two_requests_at_once_are_acknowledged_in_their_order(tmp_path: Path) -> None:
    """Who pauses and who resumes both get an answer, and the later one holds."""
    drill = Drill(tmp_path, world({"action": "LockAccount", "slow": 5}), fleet(10, 20))

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(2.0)
        first = drill.store.ask(drill.run_id, what="pause")
        second = drill.store.ask(drill.run_id, what="resume")
        assert (await acknowledged(drill, second)).what == "unpaused"
        assert (await acknowledged(drill, first)).what == "paused"

    drill.during = during
    assert drill.go().reason is Reason.OK
    assert [note.what for note in notes(drill, "control", "paused", "unpaused")] == [
        *("control", "paused", "control", "unpaused")
    ]
    assert not sent_in_pauses(drill)


def test_a_pause_that_runs_out_stops_the_run_and_never_goes_on(tmp_path: Path) -> None:
    """Whoever paused and went home finds the run stopped, not finished."""
    drill = Drill(tmp_path, world(), fleet(20, 10))

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(3.0)
        note = await acknowledged(drill, drill.store.ask(drill.run_id, what="pause", for_s=600.0))
        assert note.data["until"] is not None

    drill.during = during
    drill.go()
    assert drill.reason is Reason.STOPPED
    assert drill.ledger.end is not None and drill.ledger.end.stopped is not None
    assert "ran out" in drill.ledger.end.stopped.why
    assert 600 < drill.seconds < 610
    assert drill.ledger.pause is not None and drill.ledger.pause.in_effect
    assert drill.ledger.counts()["unattempted"] > 0
    drill.during = None
    assert drill.go().reason is Reason.OK
    assert drill.ledger.pause is None


def test_a_pause_lifted_in_time_does_not_run_out_later(tmp_path: Path) -> None:
    """The end of a pause belongs to that pause, and the newest pause counts."""
    drill = Drill(tmp_path, world(), fleet(40, 20))

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(1.0)
        await acknowledged(drill, drill.store.ask(drill.run_id, what="pause", for_s=10.0))
        await acknowledged(drill, drill.store.ask(drill.run_id, what="pause", for_s=60.0))
        await asyncio.sleep(30.0)
        await acknowledged(drill, drill.store.ask(drill.run_id, what="resume"))

    drill.during = during
    assert drill.go().reason is Reason.OK


def test_a_request_of_a_stranger_is_refused_and_noted(tmp_path: Path) -> None:
    """Who may write into the directory by accident or malice does not steer the run; nor does what is no request."""
    drill = Drill(tmp_path, world(), fleet(20, 10))
    outside = tmp_path / "elsewhere.json"

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(1.0)
        directory = drill.store.run_dir(drill.run_id) / "control"
        drill.store.make_dir(directory)
        anybody = directory / "1-anybody.json"
        anybody.write_text('{"what": "pause"}')
        anybody.chmod(0o666)
        outside.write_text('{"what": "pause"}')
        (directory / "2-link.json").symlink_to(outside)
        (directory / "3-nonsense.json").write_text('{"what": "obey"}')
        (directory / "4-endless.json").write_text('{"what": "pause", "for_s": -1}')
        os.mkfifo(directory / "5-pipe.json")
        if os.geteuid() == 0:
            (directory / "8-foreign.json").write_text('{"what": "pause"}')
            os.chown(directory / "8-foreign.json", 4242, 4242)
        (directory / "6-no-json.json").write_bytes(b"\xff{")
        (directory / "7-unfinished.tmp").write_text("{")

    drill.during = during
    assert drill.go().reason is Reason.OK
    assert not notes(drill, "control", "paused")
    refused = {note.data["id"]: note.data["why"] for note in notes(drill, "control_refused")}
    if os.geteuid() == 0:
        assert "belongs to user 4242" in refused.pop("8-foreign")
        assert [note.data["by"] for note in notes(drill, "control_refused") if note.data["id"] == "8-foreign"] == [
            "user 4242"
        ]
    assert set(refused) == {"1-anybody", "2-link", "3-nonsense", "4-endless", "5-pipe", "6-no-json"}
    assert "not believed" in refused["1-anybody"] and "no request" in refused["3-nonsense"]
    assert outside.exists()


def test_what_was_asked_of_an_earlier_session_is_forgotten(tmp_path: Path) -> None:
    """A request that came too late must not hold up the resume of the next morning."""
    drill = Drill(tmp_path, world(), fleet(20, 10), deadline_s=3.0).go()
    drill.store.ask(drill.run_id, what="pause")
    drill.deadline_s = 3600.0
    assert drill.go().reason is Reason.OK
    assert not notes(drill, "paused")


# ---- change --------------------------------------------------------------------------------------------------------


def first_sent(drill: Drill) -> list[str]:
    """The accounts in the order of their first send."""
    replies = [line for line in read(drill.path) if isinstance(line, records.ReplyLine) and line.sent_at is not None]
    lines = [line for line in read(drill.path) if isinstance(line, records.CallLine)]
    calls = {line.call: f"{line.instance}/{line.user}" for line in lines}
    return list(dict.fromkeys(calls[line.call] for line in sorted(replies, key=lambda line: str(line.sent_at))))


def named(drill: Drill, *labels: str) -> tuple[str, ...]:
    return tuple(call.id for call in drill.ledger.calls.values() if call.label in labels)


@pytest.mark.parametrize("is_paused", [False, True])
@pytest.mark.parametrize("lanes", [1, 2])
def test_another_rate_holds_at_once_and_for_a_resume(tmp_path: Path, lanes: int, is_paused: bool) -> None:
    """Lowered in mid-run, in every lane; the session that goes on later keeps to it."""
    drill = Drill(tmp_path, world(), fleet(20, 10 * lanes), lanes=lanes)
    at = 0.0

    async def during(runner: Runner) -> None:
        nonlocal at
        await asyncio.sleep(3.0)
        if is_paused:
            await acknowledged(drill, drill.store.ask(drill.run_id, what="pause"))
        note = await acknowledged(drill, drill.store.ask(drill.run_id, what="change", rate=2.0))
        assert note.what == "changed" and note.data["rate"] == 2.0
        at = records.unix_seconds(note.at)
        if is_paused:
            await acknowledged(drill, drill.store.ask(drill.run_id, what="resume"))
        assert drill.ledger.settings.rate == 2.0
        await asyncio.sleep(20.0)
        runner.stop("enough", Reason.STOPPED)

    drill.during = during
    drill.go()
    replies = [line for line in read(drill.path) if isinstance(line, records.ReplyLine) and line.sent_at is not None]
    after = sum(records.unix_seconds(str(line.sent_at)) > at + 1.5 for line in replies)
    assert 30 * lanes <= after <= 42 * lanes
    drill.during = None
    drill.settings = drill.ledger.settings
    assert drill.settings.rate == 2.0
    begun = drill.ledger.sent_calls
    assert drill.go().reason is Reason.OK
    assert drill.seconds > (len(drill.targets) - begun) / (2.1 * lanes) - 2


def test_a_rate_that_is_raised_wakes_a_slow_lane(tmp_path: Path) -> None:
    """At one call in ten minutes, whoever raises the rate does not wait ten minutes for it."""
    drill = Drill(tmp_path, world(), fleet(10, 5), settings=run_settings(rate=1 / 600), deadline_s=1e6)

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(5.0)
        await acknowledged(drill, drill.store.ask(drill.run_id, what="change", rate=20.0))

    drill.during = during
    assert drill.go().reason is Reason.OK
    assert drill.seconds < 15.0


@pytest.mark.parametrize("is_paused", [False, True])
def test_dropped_calls_are_never_sent_and_count_against_exit_0(tmp_path: Path, is_paused: bool) -> None:
    """What is open leaves, by whom is kept; what was sent stays a call; a resume does not bring it back."""
    it = world({"action": "LockAccount", "user": "user3", "times": 5, "code": "RequestLimitExceeded"})
    drill = Drill(tmp_path, it, fleet(20, 10))

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(3.0)
        if is_paused:
            await acknowledged(drill, drill.store.ask(drill.run_id, what="pause"))
        wanted = [call.id for call in drill.ledger.calls.values() if call.user == "user3"]
        note = await acknowledged(drill, drill.store.ask(drill.run_id, what="change", drop=wanted))
        assert note.data["dropped"] > 0 and note.data["dropped"] + note.data["sent"] == 20
        if is_paused:
            await acknowledged(drill, drill.store.ask(drill.run_id, what="resume"))

    drill.during = during
    drill.go()
    assert drill.reason is Reason.INCOMPLETE
    omits = [line for line in read(drill.path) if isinstance(line, records.OmitLine)]
    (note,) = notes(drill, "changed")
    assert len(omits) == note.data["dropped"] and {omit.reason for omit in omits} == {"dropped"}
    after = records.unix_seconds(note.at)
    out = {omit.call for omit in omits}
    replies = [line for line in read(drill.path) if isinstance(line, records.ReplyLine) and line.call in out]
    assert not [line for line in replies if line.sent_at is not None and records.unix_seconds(line.sent_at) > after]
    assert drill.ledger.counts()["failed"] == len(omits) and drill.ledger.counts()["changed"] == 200 - len(omits)
    assert not [line for line in read(drill.path) if isinstance(line, records.Settled) and line.call in out]
    drill.during = None
    assert drill.go().reason is Reason.INCOMPLETE


def test_all_that_is_left_can_be_dropped(tmp_path: Path) -> None:
    """The run ends then, as if nothing had been left."""
    drill = Drill(tmp_path, world(), fleet(20, 10))

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(3.0)
        await acknowledged(drill, drill.store.ask(drill.run_id, what="change", drop=list(drill.ledger.calls)))

    drill.during = during
    assert drill.go().reason is Reason.INCOMPLETE
    assert drill.seconds < 6.0


def test_calls_that_go_first_are_sent_before_all_others(tmp_path: Path) -> None:
    """The last of the list goes next, in the order of the plan; what was sent stays where it was."""
    drill = Drill(tmp_path, world(), fleet(20, 10))
    ahead = ["postgres-00000019/user9", "postgres-00000018/user8", "postgres-00000018/user9"]
    sent = 0

    async def during(_runner: Runner) -> None:
        nonlocal sent
        await asyncio.sleep(3.0)
        await acknowledged(drill, drill.store.ask(drill.run_id, what="pause"))
        sent = drill.ledger.sent_calls
        first = named(drill, *ahead, "postgres-00000000/user0")
        note = await acknowledged(drill, drill.store.ask(drill.run_id, what="change", first=first))
        assert note.data["first"] == 3
        await acknowledged(drill, drill.store.ask(drill.run_id, what="resume"))

    drill.during = during
    assert drill.go().reason is Reason.OK
    order = first_sent(drill)
    assert set(ahead) <= set(order[: sent + 8]), order[sent : sent + 8]


def test_a_run_that_is_slowed_down_gets_the_time_it_takes(tmp_path: Path) -> None:
    """The default deadline is of the rate; who lowers that does not have the run stopped in the middle."""
    drill = Drill(tmp_path, world(), fleet(20, 10), deadline_s=60.0)

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(3.0)
        await acknowledged(drill, drill.store.ask(drill.run_id, what="change", rate=0.5))

    drill.during = during
    assert drill.go().reason is Reason.OK
    assert drill.seconds > 250.0
