"""What people ask of a run while it works: acknowledged by its journal only, and then it holds. Virtual time."""

from __future__ import annotations

import asyncio
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest

from engine.api.endpoints import Access
from engine.errors import Reason, UsageError
from engine.journal import records
from engine.journal.control import MOST_BYTES, Asked
from engine.journal.ledger import Ledger
from engine.journal.reader import read
from engine.journal.store import RunStore
from engine.outside.trust import Trust, owner_words
from engine.planning.plan import make_plan
from engine.run.control import Control
from engine.run.halts import Halts
from engine.run.recorder import Recorder
from engine.run.runner import Runner
from engine.simulator.faults import rules_from
from engine.simulator.world import World
from tests.support.drill import Drill, fleet, run_line, run_settings


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
    times += [arrival.at for arrival in drill.world.audit if arrival.action == drill.action]  # as the server saw it
    # `at` is cut to milliseconds, the others are not.
    return [at for at in times for begin, end in spans if begin + 0.001 < at < end]


def written_in_pauses(drill: Drill) -> list[records.AnyRecord]:
    """What the journal has of attempts between `paused` and `unpaused`: nothing was under way then."""
    found: list[records.AnyRecord] = []
    is_paused = False
    for line in read(drill.path):
        if isinstance(line, records.Note) and line.what in ("paused", "unpaused"):
            is_paused = line.what == "paused"
        elif is_paused and isinstance(line, records.Sent | records.ReplyLine):
            found.append(line)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_nothing_leaves_after_an_acknowledged_pause(tmp_path: Path, seed: int) -> None:
    """Fifty pauses at random moments, in runs with faults, several lanes and slow answers: not one call leaves.

    Neither by the journal nor by the server's own record. In every second one the process is stopped, as by SIGSTOP,
    at a random moment after the request: then all of its timers are due at once.
    """
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
        try:
            await pauses(runner)
        finally:  # a test that fails in a pause ends all the same
            runner.stop("enough", Reason.STOPPED)

    async def pauses(runner: Runner) -> None:
        nonlocal count
        for _ in range(50):
            await asyncio.sleep(rng.uniform(0.0, 0.6))
            request = drill.store.ask(drill.run_id, what="pause")
            if count % 2:
                await asyncio.sleep(rng.uniform(0.0, 0.5))
                drill.loop.now += rng.uniform(0.0, 9.0)
            note = await acknowledged(drill, request)
            assert note.what == "paused" and note.data["in_flight"] == 0
            count += 1
            last = note.data["last_sent_at"]
            await asyncio.sleep(rng.uniform(0.0, 3.0))
            assert (runner.first_send_at is None) == (last is None)
            note = await acknowledged(drill, drill.store.ask(drill.run_id, what="resume"))
            assert note.what == "unpaused" and note.data["was_paused"]

    drill.during = during
    drill.go()
    assert count == 50 and drill.reason is Reason.STOPPED
    assert not sent_in_pauses(drill) and not written_in_pauses(drill)
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
    drill = Drill(tmp_path, world(), fleet(20, 10), closes_s=600.0)
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
    drill = Drill(tmp_path, world(), fleet(20, 10), deadline_s=3.0, closes_s=600.0).go()
    drill.store.ask(drill.run_id, what="pause")
    drill.deadline_s = 3600.0
    assert drill.go().reason is Reason.OK
    assert not notes(drill, "paused")


def by_hand(drill: Drill, name: str, text: str | bytes = '{"what": "pause"}', mode: int = 0o600) -> Path:
    """A file in the run's `control/` that no command of ours wrote."""
    directory = drill.store.run_dir(drill.run_id) / "control"
    drill.store.make_dir(directory)
    path = directory / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def test_who_asked_is_the_owner_of_the_file(tmp_path: Path) -> None:
    """A name that stands in the request counts for nothing: it makes it no request."""
    drill = Drill(tmp_path, world(), fleet(20, 10))

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(1.0)
        by_hand(drill, "1-named.json", '{"what": "pause", "by": "the_boss"}')
        note = await acknowledged(drill, drill.store.ask(drill.run_id, what="pause"))
        assert note.data["by"] == owner_words(os.geteuid())
        await acknowledged(drill, drill.store.ask(drill.run_id, what="resume"))

    drill.during = during
    assert drill.go().reason is Reason.OK
    assert [note.data["id"] for note in notes(drill, "control_refused")] == ["1-named"]
    assert len(notes(drill, "paused")) == 1


def test_files_that_cannot_be_removed_do_not_hide_a_request(tmp_path: Path) -> None:
    """Two hundred directories that sort before it, a name of 200 characters, one that is no text: told once each."""
    drill = Drill(tmp_path, world(), fleet(20, 10))

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(1.0)
        junk = by_hand(drill, "0" * 200 + ".json", "x")
        for number in range(200):
            (junk.parent / f"00{number:03}.json").mkdir()
        os.close(os.open(os.fsencode(junk.parent) + b"/00\x1b\xff\n.json", os.O_CREAT, 0o600))
        note = await acknowledged(drill, drill.store.ask(drill.run_id, what="pause"))
        assert note.what == "paused"
        await asyncio.sleep(5.0)
        await acknowledged(drill, drill.store.ask(drill.run_id, what="resume"))

    drill.during = during
    assert drill.go().reason is Reason.OK
    refused = [note.data["id"] for note in notes(drill, "control_refused")]
    assert len(refused) == 202 and len(set(refused)) == 202
    assert all(each.isprintable() and len(each) <= 64 for each in refused)


def test_a_control_directory_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    """Who can plant a link there would have any file read as a request, and every file removed that lies behind it."""
    drill = Drill(tmp_path, world(), fleet(20, 10))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.txt").write_text("x")
    (elsewhere / "1-pause.json").write_text('{"what": "pause"}')

    async def during(_runner: Runner) -> None:
        (drill.store.run_dir(drill.run_id) / "control").symlink_to(elsewhere)
        await asyncio.sleep(2.0)
        with pytest.raises(UsageError, match="or a link to one; remove it"):
            drill.store.ask(drill.run_id, what="pause")

    drill.during = during
    assert drill.go().reason is Reason.OK
    assert not notes(drill, "control", "paused", "control_refused")
    drill.store.clear_requests(drill.run_id)
    assert sorted(each.name for each in elsewhere.iterdir()) == ["1-pause.json", "precious.txt"]


def test_a_request_that_is_too_large_is_refused_with_the_reason(tmp_path: Path) -> None:
    """By the command before it is written, and by the run if somebody wrote it by hand."""
    drill = Drill(tmp_path, world(), fleet(20, 10))

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(1.0)
        with pytest.raises(UsageError, match="too many accounts for one request"):
            drill.store.ask(drill.run_id, what="change", drop=["x" * 100] * 100_000)
        by_hand(drill, "1-large.json", b" " * (MOST_BYTES + 1))

    drill.during = during
    assert drill.go().reason is Reason.OK
    assert [note.data["why"] for note in notes(drill, "control_refused")] == ["it is larger than 8 MiB"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes for others")
def test_who_runs_the_run_can_read_what_root_asks_of_it(tmp_path: Path) -> None:
    """Root's first request makes the directory: it belongs to whom the run does, or nobody could ask any more."""
    drill = Drill(tmp_path, world(), fleet(4, 4)).go()
    run_dir = drill.store.run_dir(drill.run_id)
    store = RunStore(tmp_path, simulated=True, trust=Trust(uids=frozenset({4242})))
    os.chown(run_dir, 4242, -1)
    name = store.ask(drill.run_id, what="pause")
    there = (run_dir / "control").stat()
    assert (there.st_uid, there.st_mode & 0o777) == (4242, 0o700)
    request = (run_dir / "control" / f"{name}.json").stat()
    assert (request.st_uid, request.st_mode & 0o777) == (0, 0o644)


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


def test_a_call_that_is_under_way_cannot_be_dropped(tmp_path: Path) -> None:
    """It may be applied already: it stays a call, is proven, and whoever wants it back undoes it."""
    drill = Drill(tmp_path, world(latency=3.0), fleet(20, 10))

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(4.0)
        note = await acknowledged(drill, drill.store.ask(drill.run_id, what="change", drop=list(drill.ledger.calls)))
        assert note.data["sent"] > 20 and note.data["sent"] + note.data["dropped"] == 200

    drill.during = during
    assert drill.go().reason is Reason.INCOMPLETE
    sent = {line.call for line in read(drill.path) if isinstance(line, records.ReplyLine) and line.sent_at is not None}
    assert not sent & {line.call for line in read(drill.path) if isinstance(line, records.OmitLine)}
    assert drill.ledger.counts()["changed"] == len(sent)


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


def test_nobody_asks_for_more_than_the_quota_by_hand(tmp_path: Path) -> None:
    """The command refuses such a rate; so does the run, as whoever may write there need not use the command."""
    away = Access(("https://postgres.tencentcloudapi.com",), {})
    drill = Drill(tmp_path, world(), fleet(20, 10), access=away)

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(1.0)
        note = await acknowledged(drill, drill.store.ask(drill.run_id, what="change", rate=21.0))
        assert note.what == "control_refused" and "above 20 calls a second" in note.data["why"]
        assert (await acknowledged(drill, drill.store.ask(drill.run_id, what="change", rate=5.0))).what == "changed"
        assert (await acknowledged(drill, drill.store.ask(drill.run_id, what="change", rate=20.0))).what == "changed"

    drill.during = during
    assert drill.go().reason is Reason.OK
    assert drill.ledger.settings.rate == 20.0


class Gauged:
    """Lanes that hold nothing."""

    every: tuple[()] = ()
    holds_nothing = is_quiet = True


class BusyDisk:
    """A journal in which there is always a record more than the disk has."""

    broken = None
    durable_head = "0"
    head = "1"

    def __init__(self) -> None:
        self.lines: list[records.AnyRecord] = []

    def append(self, record: records.AnyRecord, then: Any = None) -> int:
        self.lines.append(record)
        return len(self.lines)

    async def durable(self, _seq: int | None = None) -> None:
        await asyncio.sleep(0.2)


def test_a_change_does_not_wait_for_a_moment_without_writing(tmp_path: Path) -> None:
    """On a slow disk, while accounts are read, there is none; and the whole run would stand still for the change."""

    async def changed() -> list[str]:
        journal: Any = BusyDisk()
        lanes: Any = Gauged()
        none: Any = None
        recorder = Recorder(journal, Ledger(run_line(make_plan("LockAccount", fleet(1, 1)), run_settings())))
        halts = Halts(asyncio.get_running_loop().time)
        control = Control(
            *(recorder, halts, lanes, none, none, none, none),
            changed_pace=lambda _rate: None,
            asked=lambda known: () if "1" in known else (Asked(name="1", what="change", by="ann", rate=2.0),),
            forget=lambda _name: None,
            caught_up=lambda: None,
            most_rate=20.0,
            clock=lambda: 0.0,
        )
        for _ in range(3):
            control.look()
            await asyncio.sleep(0.25)
        assert not halts.is_set
        return [line.what for line in journal.lines]

    assert asyncio.run(changed()) == ["control", "changed"]


def test_the_quota_that_runs_share_goes_back_with_the_rate(tmp_path: Path) -> None:
    """Against a simulator the rate may go above it for a while; afterwards the lanes share what they did before."""
    drill = Drill(tmp_path, world(), fleet(20, 10))

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(1.0)
        for rate, quota in ((30.0, 30.0), (7.0, 20.0)):
            note = await acknowledged(drill, drill.store.ask(drill.run_id, what="change", rate=rate))
            assert note.data["quota"] == quota

    drill.during = during
    assert drill.go().reason is Reason.OK


def test_a_pause_leaves_no_call_behind_that_only_seems_sent(tmp_path: Path) -> None:
    """What was written ahead and given back was not sent: who looks at a paused run must not look for a stray call."""
    drill = Drill(tmp_path, world({"action": "LockAccount", "times": 5, "code": "RequestLimitExceeded"}), fleet(20, 10))

    async def during(_runner: Runner) -> None:
        for _ in range(8):
            await asyncio.sleep(0.7)
            await acknowledged(drill, drill.store.ask(drill.run_id, what="pause"))
            await asyncio.sleep(1.0)
            lines = [line for line in read(drill.path) if isinstance(line, records.ReplyLine)]
            assert drill.ledger.sent_calls == len({line.call for line in lines if line.sent_at is not None})
            await acknowledged(drill, drill.store.ask(drill.run_id, what="resume"))

    drill.during = during
    assert drill.go().reason is Reason.OK


def test_a_pause_stops_the_deadline_and_not_the_window(tmp_path: Path) -> None:
    """A run that waits for a person must not fail its deadline; the window's end holds, whoever paused."""
    for closes_s, reason in ((math.inf, Reason.OK), (300.0, Reason.STOPPED)):
        drill = Drill(tmp_path / reason.name, world(), fleet(20, 10), deadline_s=60.0, closes_s=closes_s)

        async def during(_runner: Runner, drill: Drill = drill) -> None:
            await asyncio.sleep(3.0)
            await acknowledged(drill, drill.store.ask(drill.run_id, what="pause"))
            await asyncio.sleep(1000.0)
            drill.store.ask(drill.run_id, what="resume")

        drill.during = during
        assert drill.go().reason is reason


def test_a_run_that_is_slowed_down_gets_the_time_it_takes(tmp_path: Path) -> None:
    """The default deadline is of the rate; who lowers that does not have the run stopped in the middle."""
    drill = Drill(tmp_path, world(), fleet(20, 10), deadline_s=60.0)

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(3.0)
        await acknowledged(drill, drill.store.ask(drill.run_id, what="change", rate=0.5))

    drill.during = during
    assert drill.go().reason is Reason.OK
    assert drill.seconds > 250.0
