"""A run in waves: what may leave when, what the gate decides, and what a resume does again. Virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Reason
from engine.inputs.job import GateSpec, Wave, WavesSpec
from engine.journal import records
from engine.journal.reader import read
from engine.model import Call, Keys, Place, Target
from engine.planning.waves import sizes
from engine.run.bounds import GREEN, RED, SILENT, WaveTerms, Word
from engine.run.runner import Runner
from engine.simulator.faults import rules_from
from engine.simulator.gate import KeyRecord
from engine.simulator.world import World
from tests.support.drill import Drill, FixedKeys, fleet, run_settings


class Gate:
    """A gate that says what it is told to, and remembers what it was asked, and when."""

    def __init__(self, *words: Word, takes_s: float = 0.0) -> None:
        self.words = list(words)
        self.takes_s = takes_s
        self.asked: list[tuple[int, float, tuple[str, ...]]] = []
        self.over = 0
        """How many questions were answered."""

    async def ask(self, wave: int, calls: Sequence[Call]) -> Word:
        self.asked.append((wave, asyncio.get_running_loop().time(), tuple(call.label for call in calls)))
        await asyncio.sleep(self.takes_s)
        self.over += 1
        return self.words.pop(0) if self.words else Word(GREEN)

    @property
    def waves(self) -> list[int]:
        return [wave for wave, _, _ in self.asked]


def drilled(
    tmp: Path, *waves: Wave, gate: Gate | None = None, faults: Sequence[dict[str, Any]] = (), every_s: float = 300.0,
    count: tuple[int, int] = (5, 8), **more: Any,
) -> Drill:  # fmt: skip
    spec = WavesSpec(waves=waves, gate=GateSpec(command=("gate",)) if gate is not None else None, place=Place("job"))
    settings = run_settings(waves=spec.as_record(), **more.pop("settings", {}))
    terms = WaveTerms(
        soaks_s=[wave.soak_s for wave in waves],
        every_s=every_s,
        ask=gate.ask if gate is not None else None,
        may_undo=more.pop("may_undo", None),
    )
    world = World(faults=rules_from(list(faults)), latency=0.05)
    return Drill(tmp, world, fleet(*count), settings=settings, waves=terms, **more)


def states(drill: Drill) -> dict[int, str]:
    return {n: line.state for n, line in sorted(drill.ledger.waves.items())}


def sent(drill: Drill) -> list[tuple[int, float]]:
    """The wave of each call that left, and when it left, by what the server saw."""
    numbers = {call.id: drill.ledger.wave_of[call.id] for call in drill.ledger.calls.values()}
    replies = [line for line in read(drill.path) if isinstance(line, records.ReplyLine) and line.sent_at is not None]
    return [(numbers[line.call], records.unix_seconds(line.sent_at)) for line in replies if line.call in numbers]


THREE = (Wave(count=3, soak_s=900.0), Wave(share=0.1, soak_s=1800.0), Wave())


def test_each_wave_begins_once_the_one_before_is_read_has_soaked_and_is_green(tmp_path: Path) -> None:
    """Nobody finds out at account 900 what account 3 would have shown."""
    gate = Gate()
    drill = drilled(tmp_path, *THREE, gate=gate).go()
    assert drill.reason is Reason.OK and states(drill) == {0: "passed", 1: "passed", 2: "passed", 3: "passed"}
    left = sent(drill)
    assert [sum(n == wave for n, _ in left) for wave in (1, 2, 3)] == [3, 4, 33]
    for wave, soak_s in ((1, 900.0), (2, 1800.0)):
        last = max(at for n, at in left if n == wave)
        first = min(at for n, at in left if n == wave + 1)
        assert soak_s < first - last < soak_s + 30
    # Before wave 1, each 300 s of a soak, and after each wave, the last one, too.
    assert gate.waves == [0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3]
    assert gate.asked[1][2] == tuple(call.label for call in list(drill.ledger.calls.values())[:3])
    assert drill.ledger.end is not None and drill.ledger.end.exit == 0


@pytest.mark.parametrize("word", [Word(RED), Word(SILENT, "no word within 2 s")])
@pytest.mark.parametrize("at", range(4))
def test_a_word_that_is_not_green_ends_it_there(tmp_path: Path, at: int, word: Word) -> None:
    """Earlier waves stay, this one stays, and nothing of a later one is ever sent; by the server's own record."""
    gate = Gate(*[Word(GREEN)] * at, word)
    drill = drilled(tmp_path, Wave(count=3), Wave(share=0.5), Wave(), gate=gate).go()
    assert drill.reason is (Reason.STOPPED if at else Reason.REFUSED)
    assert gate.waves == list(range(at + 1))
    assert {n for n, _ in sent(drill)} == set(range(1, at + 1))
    locked = {(each.instance, each.user) for each in drill.world.audit if each.action == "LockAccount"}
    calls = list(drill.ledger.calls.values())
    assert locked == {(call.instance, call.user) for call in calls if drill.ledger.wave_of[call.id] <= at}
    after = dict.fromkeys(range(at + 1, 4), "planned")
    assert states(drill) == dict.fromkeys(range(at), "passed") | {at: word.word} | after
    assert drill.ledger.end is not None and drill.ledger.end.exit == int(drill.reason)


def test_a_red_word_in_the_middle_of_a_soak_ends_it_at_once(tmp_path: Path) -> None:
    """Half an hour of a soak is not waited for once it is known."""
    gate = Gate(Word(GREEN), Word(GREEN), Word(RED))
    drill = drilled(tmp_path, Wave(count=3, soak_s=3600.0), Wave(), gate=gate, every_s=60.0).go()
    assert drill.reason is Reason.STOPPED and drill.seconds < 130
    assert states(drill) == {0: "passed", 1: "red", 2: "planned"}


def test_a_resume_asks_the_gate_first_and_soaks_anew(tmp_path: Path) -> None:
    """What was red an hour ago is asked about again before anything leaves, and must prove itself for as long."""
    gate = Gate(Word(GREEN), Word(RED))
    drill = drilled(tmp_path, Wave(count=3, soak_s=120.0), Wave(), gate=gate).go()
    assert drill.reason is Reason.STOPPED and drill.ledger.wave is not None
    gate.words = [Word(RED)]
    drill.go()
    assert drill.reason is Reason.STOPPED and gate.waves == [0, 1, 1]
    before = len(sent(drill))
    drill.go()
    assert drill.reason is Reason.OK and drill.seconds > 120
    assert gate.waves == [0, 1, 1, 1, 1, 2] and before == 3
    assert states(drill) == {0: "passed", 1: "passed", 2: "passed"}


@pytest.mark.parametrize("seed", range(12))
def test_a_run_cut_off_anywhere_goes_on_wave_by_wave(tmp_path: Path, seed: int) -> None:
    """Stopped at random moments, over many sessions: no call of a wave leaves before the one before has passed."""
    rng = random.Random(seed)
    gate = Gate(takes_s=rng.choice([0.0, 3.0]))
    waves = (Wave(count=2, soak_s=rng.choice([0.0, 20.0])), Wave(share=0.3, soak_s=rng.choice([0.0, 50.0])), Wave())
    faults = [
        {"action": "LockAccount", "times": 6, "code": "InternalError"},
        {"action": "LockAccount", "times": 3, "reset_after": True},
        {"action": "LockAccount", "times": 8, "code": "RequestLimitExceeded"},
    ]
    drill = drilled(tmp_path, *waves, gate=gate, faults=faults, seed=seed, lanes=rng.choice([1, 3]))

    async def during(runner: Runner) -> None:
        await asyncio.sleep(rng.uniform(0.0, 40.0))
        runner.stop("a test", Reason.STOPPED)

    drill.during = during
    for _ in range(60):
        if drill.go().reason is Reason.OK:
            break
    else:
        drill.during = None
        drill.go()
    assert drill.reason is Reason.OK and set(states(drill).values()) == {"passed"}
    passed = {0}
    for line in read(drill.path):
        if isinstance(line, records.WaveLine) and line.state == records.PASSED:
            passed.add(line.n)
        elif isinstance(line, records.Sent):
            assert drill.ledger.wave_of[line.call] - 1 in passed
    assert set(drill.outcomes().values()) == {"changed"}


@pytest.mark.parametrize("fault", [{"code": "InvalidParameterValue.AccountNotExistError"}, {"code": "InternalError"}])
def test_one_failed_call_stops_before_the_next_wave(tmp_path: Path, fault: dict[str, Any]) -> None:
    """A wave that is not whole proves nothing; the last wave has no next one, and its gate is asked all the same."""
    gate = Gate()
    rule = {"action": "LockAccount", "user": "user0", "instance": "postgres-00000001", **fault}
    drill = drilled(tmp_path, Wave(count=6, soak_s=60.0), Wave(), gate=gate, faults=[rule], count=(3, 4)).go()
    assert drill.reason is Reason.STOPPED
    assert states(drill) == {0: "passed", 1: "failed", 2: "planned"} and gate.waves == [0]
    assert drill.ledger.waves[1].why == "1 account is not as asked"
    other = drilled(tmp_path / "b", Wave(), gate=(late := Gate()), faults=[rule], count=(3, 4)).go()
    assert other.reason is Reason.INCOMPLETE and late.waves == [0, 1] and states(other) == {0: "passed", 1: "failed"}


def test_soaks_count_for_no_deadline_and_for_the_window(tmp_path: Path) -> None:
    """A roll-out that soaks for hours is not stopped for being slow; at the end of its window it is."""
    drill = drilled(tmp_path, Wave(count=3, soak_s=7200.0), Wave(), gate=Gate(takes_s=100.0), deadline_s=30.0).go()
    assert drill.reason is Reason.OK and drill.seconds > 7200
    gate = Gate(takes_s=100.0)
    closed = drilled(tmp_path / "b", Wave(count=3, soak_s=7200.0), Wave(), gate=gate, closes_s=3600.0).go()
    assert closed.reason is Reason.STOPPED and 3600 <= closed.seconds < 3602
    assert states(closed)[1] == "soaking" and len(sent(closed)) == 3


def test_a_gate_that_is_slow_is_given_up_when_the_run_stops(tmp_path: Path) -> None:
    """A signal at the gate ends the run now, not when the gate deigns to answer."""
    gate = Gate(takes_s=1e5)
    drill = drilled(tmp_path, Wave(count=3), Wave(), gate=gate)

    async def during(runner: Runner) -> None:
        await asyncio.sleep(50.0)
        runner.stop("a test", Reason.STOPPED)

    drill.during = during
    drill.go()
    assert drill.reason is Reason.STOPPED and drill.seconds < 60 and not gate.over and not sent(drill)


async def paused_during(drill: Drill, at: float, for_s: float) -> None:
    await asyncio.sleep(at)
    drill.store.ask(drill.run_id, what="pause")
    await asyncio.sleep(for_s)
    drill.store.ask(drill.run_id, what="resume")


def test_a_pause_in_a_soak_holds_the_next_wave_and_the_gate_is_asked_once_more(tmp_path: Path) -> None:
    """Green before a pause of an hour says nothing about the hour."""
    gate = Gate()
    drill = drilled(tmp_path, Wave(count=3, soak_s=600.0), Wave(), gate=gate, every_s=1e6)
    drill.during = lambda _: paused_during(drill, 300.0, 3600.0)
    drill.go()
    assert drill.reason is Reason.OK and drill.seconds > 3900
    assert gate.waves == [0, 1, 1, 2] and gate.asked[2][1] > 3900 - 1
    assert min(at for n, at in sent(drill) if n == 2) - max(at for n, at in sent(drill) if n == 1) > 3800


def test_a_pause_within_a_wave_lets_it_go_on(tmp_path: Path) -> None:
    """Pause, soak and gate are three reasons to wait, and each ends by itself."""
    drill = drilled(tmp_path, Wave(count=30), Wave(), gate=Gate(), settings={"rate": 2.0})
    drill.during = lambda _: paused_during(drill, 5.0, 500.0)
    drill.go()
    assert drill.reason is Reason.OK and drill.seconds > 500


def test_dropped_accounts_leave_their_wave(tmp_path: Path) -> None:
    """Who drops what keeps a wave from beginning well is not asked about it again; the run is not whole."""
    gate = Gate()
    drill = drilled(tmp_path, Wave(count=3, soak_s=60.0), Wave(), gate=gate, count=(2, 4))

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(30.0)
        late = [call.id for call in drill.ledger.calls.values() if drill.ledger.wave_of[call.id] == 2][:4]
        drill.store.ask(drill.run_id, what="change", drop=tuple(late))

    drill.during = during
    drill.go()
    assert drill.reason is Reason.INCOMPLETE and drill.ledger.dropped == 4
    assert states(drill) == {0: "passed", 1: "passed", 2: "passed"} and len(sent(drill)) == 4
    assert len(gate.asked[-1][2]) == 1


@pytest.mark.parametrize(("takes_s", "pause_s", "asked"), [(40.0, None, 1), (70.0, None, 2), (40.0, 100.0, 2)])
def test_a_green_word_counts_for_a_minute_and_for_no_pause(
    tmp_path: Path, takes_s: float, pause_s: float | None, asked: int
) -> None:
    """Between the word and the wave passwords are asked for: who waits long, or is paused, asks the gate again."""
    gate = Gate()

    async def may_undo(calls: Sequence[Call]) -> str | None:
        await asyncio.sleep(takes_s if len(calls) > 3 else 0.0)
        return None

    drill = drilled(tmp_path, Wave(count=3, soak_s=60.0), Wave(), gate=gate, every_s=1e6, may_undo=may_undo)
    if pause_s is not None:
        drill.during = lambda _: paused_during(drill, 80.0, pause_s)
    drill.go()
    assert drill.reason is Reason.OK
    assert gate.waves == [0, *[1] * asked, 2]


def test_a_wave_that_could_not_be_undone_does_not_begin(tmp_path: Path) -> None:
    """With `on_red: undo` the passwords of the whole wave are there before its first call."""
    asked: list[int] = []

    async def may_undo(calls: Sequence[Call]) -> str | None:
        asked.append(len(calls))
        return "no row for eve" if len(asked) == 2 else None

    drill = drilled(tmp_path, Wave(count=3), Wave(), gate=Gate(), may_undo=may_undo).go()
    assert drill.reason is Reason.STOPPED and asked == [3, 37]
    assert states(drill) == {0: "passed", 1: "passed", 2: "planned"} and len(sent(drill)) == 3
    assert drill.runner.stopped is not None and "no row for eve" in drill.runner.stopped.why


def test_without_readings_waves_go_one_after_the_other_all_the_same(tmp_path: Path) -> None:
    """`verify: false`: a wave is over when all of it is accepted."""
    drill = drilled(tmp_path, Wave(count=3, soak_s=60.0), Wave(), settings={"verify": False}).go()
    left = sent(drill)
    assert drill.reason is Reason.OK and len(left) == 40
    assert min(at for n, at in left if n == 2) - max(at for n, at in left if n == 1) > 60


def test_waves_go_through_the_lanes_of_several_accounts(tmp_path: Path) -> None:
    """A wave is over when all of its lanes are; the next one uses all of them again."""
    targets = [Target(f"postgres-{n:08d}", f"u{user}", "ap-singapore", name)
               for n, name in enumerate("abab") for user in range(5)]  # fmt: skip
    known = {name: Keys(secret_id=f"AKID{name}", secret_key=f"secret of {name}") for name in "ab"}
    drill = drilled(tmp_path, Wave(count=4, soak_s=30.0), Wave(share=0.5), Wave(), gate=(gate := Gate()), lanes=2)
    drill.targets = targets
    drill.keyring = {name: [FixedKeys(keys, label=name, identity=name)] for name, keys in known.items()}
    drill.world = World(
        keys={each.secret_id: KeyRecord(secret_key=each.secret_key, identity=name) for name, each in known.items()},
        latency=0.05,
    )
    drill.go()
    assert drill.reason is Reason.OK and gate.waves == [0, 1, 2, 3]
    left = sent(drill)
    assert [sum(n == wave for n, _ in left) for wave in (1, 2, 3)] == [4, 10, 6]
    assert all(max(at for n, at in left if n == wave) < min(at for n, at in left if n == wave + 1) for wave in (1, 2))
    assert len(drill.ledger.lanes) == 4


def test_superusers_that_must_stay_stay_in_waves_too(tmp_path: Path) -> None:
    """The guard on admins looks at each wave when it begins."""
    drill = drilled(tmp_path, Wave(count=3), Wave(), gate=Gate(), keep_admins=1, count=(3, 3)).go()
    assert drill.reason is Reason.OK and len(sent(drill)) == 9


@pytest.mark.parametrize("calls", [1, 2, 3, 7, 10, 33, 1000])
def test_sizes_take_each_call_once(calls: int) -> None:
    """Rounded up, never more than there is, and the rest last."""
    rng = random.Random(calls)
    for _ in range(200):
        waves = [
            Wave(count=rng.randrange(1, 20)) if rng.random() < 0.5 else Wave(share=rng.choice([0.01, 0.1, 0.333, 0.5]))
            for _ in range(rng.randrange(0, 5))
        ] + [Wave()]
        found = sizes(waves, calls)
        assert sum(found) == calls and all(each >= 0 for each in found)
        full = found[: next((at for at, each in enumerate(found) if not each), len(found))]
        assert all(full) and not any(found[len(full) :])


def test_shares_are_rounded_up_and_add_up() -> None:
    """Ten percent of five is one account, not none; three thirds are all."""
    assert sizes([Wave(share=0.1), Wave()], 5) == (1, 4)
    assert sizes([Wave(share=0.07), Wave()], 100) == (7, 93)
    assert sizes([Wave(share=0.5), Wave(share=0.5)], 7) == (4, 3)
