"""Done means read back: before, after, and what of it can be undone. In memory, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import Reason
from engine.journal import records
from engine.journal.reader import read, replay
from engine.model import AccountState, Outcome, Proof, Reading, Target, Where
from engine.planning.undo import Choice, Keep, recheck, undo_plan
from engine.run.endings import drain_s
from engine.run.opening import AHEAD_S
from engine.run.resting import FRESH_S
from engine.run.runner import Runner
from engine.simulator.faults import rules_from
from engine.simulator.fleet import fleet_from
from engine.simulator.world import World
from tests.support.drill import Drill, fleet, run_settings
from tests.support.holds import owing

SICK = "postgres-00000000"


def world(*faults: dict[str, Any], latency: float = 0.1, **more: Any) -> World:
    return World(faults=rules_from(list(faults)), latency=latency, **more)


def lines(drill: Drill, kind: type) -> list[Any]:
    return [line for line in read(drill.path) if isinstance(line, kind)]


def reads(world_: World) -> list[Any]:
    return [arrival for arrival in world_.audit if arrival.action == "DescribeAccounts"]


def writes(world_: World, action: str = "LockAccount") -> list[Any]:
    return [arrival for arrival in world_.audit if arrival.action == action]


def readings(world_: World, targets: list[Target], now: float = 1e12) -> dict[tuple[str, str], Reading]:
    """What DescribeAccounts would say now."""
    found: dict[tuple[str, str], Reading] = {}
    for target in targets:
        instance = world_.instance(target.instance)
        assert instance is not None
        accounts = {
            name: AccountState(
                user=name,
                status=account.status,
                cam=account.cam,
                user_type=account.user_type,
                update_time="",
                password_update_time="",
            )
            for name, account in instance.accounts.items()
        }
        found[Where("", target.region, target.instance)] = Reading(accounts=accounts)
    return found


# ---- before --------------------------------------------------------------------------------------------------------


def test_what_is_so_already_is_settled_without_a_write(tmp_path: Path) -> None:
    """Locked before: `already`, proof `before`, and no call of the quota is spent on it."""
    it = world()
    it.seed(SICK, "ap-singapore", ["user0", "user1"], status=5)
    drill = Drill(tmp_path, it, fleet(2, 3)).go()
    assert drill.reason is Reason.OK
    assert Counter(drill.outcomes().values()) == {"already": 2, "changed": 4}
    assert len(writes(it)) == 4


def test_an_account_that_is_not_there_fails_with_the_nearest_name(tmp_path: Path) -> None:
    """Nothing is sent for it."""
    it = World(fleet=fleet_from({"instances": [{"id": SICK, "region": "ap-singapore", "accounts": ["billing_app"]}]}))
    targets = [Target(SICK, "biling_app", "ap-singapore"), Target(SICK, "billing_app", "ap-singapore")]
    drill = Drill(tmp_path, it, targets, seeded=False).go()
    by_user = {call.user: entry for call, entry, _ in drill.ledger.outcomes()}
    assert by_user["biling_app"].outcome is Outcome.FAILED
    assert "did you mean billing_app?" in (by_user["biling_app"].message or "")
    assert len(writes(it)) == 1


def test_an_instance_that_is_not_there_fails_at_once(tmp_path: Path) -> None:
    """Its calls are not sent, the others are."""
    it = World(fleet=fleet_from({"instances": [{"id": SICK, "region": "ap-singapore", "accounts": ["user0"]}]}))
    drill = Drill(tmp_path, it, fleet(2, 1), seeded=False).go()
    assert list(drill.outcomes().values()) == ["changed", "failed"]
    assert len(writes(it)) == 1


def test_before_is_durable_ahead_of_the_first_send(tmp_path: Path) -> None:
    """In the file, every call's `before` stands above its first `sent`."""
    drill = Drill(tmp_path, world(), fleet(5, 5)).go()
    seen = set()
    for line in read(drill.path):
        if isinstance(line, records.Before):
            seen.add(line.call)
        elif isinstance(line, records.Sent):
            assert line.call in seen
    assert len(seen) == 25


def test_a_changing_account_is_waited_for_briefly(tmp_path: Path) -> None:
    """Status 3 when read: looked at again, then sent."""
    it = world()
    it.seed(SICK, "ap-singapore", ["user0"], status=3)

    async def settle_down(_runner: Runner) -> None:
        await asyncio.sleep(5)
        account = it.account(SICK, "user0")
        assert account is not None
        account.status = 2

    drill = Drill(tmp_path, it, fleet(1, 2), during=settle_down).go()
    assert drill.reason is Reason.OK
    assert drill.outcomes()[f"{SICK}/user0"] == "changed"


def test_resend_already_locks_again_and_undo_leaves_it(tmp_path: Path) -> None:
    """Status 5 also shows for NOLOGIN (D-ACCTS): locked for good, last; the outcome stays `already`."""
    it = world()
    it.seed(SICK, "ap-singapore", ["user0"], status=5)
    targets = fleet(1, 3)
    drill = Drill(tmp_path, it, targets, resend_already=True).go()
    assert drill.reason is Reason.OK
    assert Counter(drill.outcomes().values()) == {"already": 1, "changed": 2}
    assert len(writes(it)) == 3
    plan = undo_plan(drill.ledger, readings(it, targets), owing(drill.ledger), Choice())
    assert {call.user for call in plan.plan.calls} == {"user1", "user2"}


def test_the_last_admins_of_an_instance_stay(tmp_path: Path) -> None:
    """`keep_admins: 1`: of two usable superusers one is locked; the other is left out, named, and never sent."""
    it = world()
    it.seed(SICK, "ap-singapore", ["user0", "user1"], user_type="tencentDBSuper")
    drill = Drill(tmp_path, it, fleet(1, 3), keep_admins=1).go()
    assert drill.reason is Reason.OK
    assert {arrival.user for arrival in writes(it)} == {"user0", "user2"}
    (omit,) = drill.ledger.omits
    assert (omit.user, omit.reason) == ("user1", "protected")


def test_an_instance_that_may_not_be_read_is_acted_on_and_stays_unknown(tmp_path: Path) -> None:
    """Accepted and unread is not proven: exit 1, and the others are."""
    it = world({"action": "DescribeAccounts", "instance": SICK, "code": "UnauthorizedOperation"})
    drill = Drill(tmp_path, it, fleet(3, 2)).go()
    assert drill.reason is Reason.INCOMPLETE
    assert Counter(drill.outcomes().values()) == {"unknown": 2, "changed": 4}
    assert len(writes(it)) == 6


# ---- after ---------------------------------------------------------------------------------------------------------


def test_accepted_and_not_applied_is_sent_again_and_then_failed_in_words(tmp_path: Path) -> None:
    """A 200 that did nothing, three times: failed, by name; the others are not held up."""
    it = world({"action": "LockAccount", "instance": SICK, "accepted_not_applied": True})
    drill = Drill(tmp_path, it, fleet(3, 1)).go()
    assert drill.reason is Reason.INCOMPLETE
    entry = next(entry for call, entry, _ in drill.ledger.outcomes() if call.instance == SICK)
    assert (entry.outcome, entry.code) == (Outcome.FAILED, "Local.NotApplied")
    assert "read back as not locked" in (entry.message or "")
    assert len([arrival for arrival in writes(it) if arrival.instance == SICK]) == 3
    others = [entry for call, entry, _ in drill.ledger.outcomes() if call.instance != SICK]
    assert {entry.proof for entry in others} == {Proof.READ}


def test_an_effect_that_shows_late_is_waited_for(tmp_path: Path) -> None:
    """Ten seconds of "being modified": one send, then proven."""
    it = world({"action": "LockAccount", "instance": SICK, "effect_delay": 10})
    drill = Drill(tmp_path, it, fleet(2, 1)).go()
    assert drill.reason is Reason.OK
    assert len(writes(it)) == 2


@pytest.mark.parametrize("users", [1, 50, 99, 100, 250])
def test_an_instance_is_read_once_each_way(tmp_path: Path, users: int) -> None:
    """At most ⌈accounts/100⌉ + 1 reads before, and as many after; before again as time goes, never for each call."""
    it = world()
    targets = [Target(SICK, f"user{number}", "ap-singapore") for number in range(users)]
    drill = Drill(tmp_path, it, targets).go()
    assert drill.reason is Reason.OK
    looks = 2 + int(drill.seconds / (FRESH_S - 2 * AHEAD_S))
    assert len(reads(it)) <= looks * (-(-users // 100) + 1)


def test_a_drain_reads_what_was_accepted(tmp_path: Path) -> None:
    """Ctrl-C in the middle: what was accepted is proven within the drain, not left unknown."""

    async def stop(runner: Runner) -> None:
        await asyncio.sleep(5)
        runner.stop("enough", Reason.INTERRUPTED)

    drill = Drill(tmp_path, world(), fleet(10, 40), during=stop).go()
    assert drill.reason is Reason.INTERRUPTED
    counts = Counter(drill.outcomes().values())
    assert set(counts) == {"changed", "unattempted"}
    assert counts["changed"] > 60
    drill.during = None
    drill.go()
    assert drill.reason is Reason.OK


@pytest.mark.parametrize(
    "late", [{"slow": 100}, {"hang": True, "apply": True}], ids=["answered late", "applied, never answered"]
)
def test_what_is_accepted_late_in_a_drain_is_read_too(tmp_path: Path, late: dict[str, Any]) -> None:
    """With a timeout of two minutes an answer may come long after the stop: its account is read from then on, and the
    drain ends within the timeout and the time for readings.
    """

    async def stop(runner: Runner) -> None:
        await asyncio.sleep(8)
        runner.stop("enough", Reason.INTERRUPTED)

    # Of one instance some are answered at once and some late: a reading is under way when the late ones come.
    it = world({"action": "LockAccount", "user": "user[13]", **late}, {"action": "DescribeAccounts", "slow": 3})
    held = run_settings(timeout_s=120.0, per_instance=16)
    drill = Drill(tmp_path, it, fleet(3, 4), during=stop, settings=held).go()
    assert drill.reason is Reason.OK, drill.outcomes()
    assert {entry.proof for _, entry, _ in drill.ledger.outcomes()} == {Proof.READ}
    (end,) = lines(drill, records.End)
    assert end.seconds <= 8 + drain_s(120.0) + 1


def test_a_big_lockdown_with_one_sick_and_two_flapping_instances_is_proven_on_time(tmp_path: Path) -> None:
    """Everything else is proven when the quota allows: 590 calls at 20/s, readings and a margin."""
    it = world(
        {"action": "LockAccount", "instance": SICK, "code": "OperationDenied.InstanceStatusLimitOpError"},
        {"instance": "postgres-0000000[12]", "code": "FailedOperation.DatabaseAccessError", "probability": 0.3},
        seed=3,
    )
    drill = Drill(tmp_path, it, fleet(60, 10), deadline_s=120).go()
    well = [entry for call, entry, _ in drill.ledger.outcomes() if call.instance[-1] not in "012"]
    last = max(entry.settled_at or "" for entry in well)
    run = drill.ledger.run
    assert run is not None
    assert {entry.proof for entry in well} == {Proof.READ}
    assert records.unix_seconds(last) - records.unix_seconds(run.at) < 600 / 20 * 1.03 + 12
    assert drill.reason is Reason.STOPPED


def test_when_only_the_sick_are_left_it_is_said_at_once(tmp_path: Path) -> None:
    """Three quarters are proven and one instance is being expanded: the commander hears it now, not in ten minutes."""
    it = world({"action": "LockAccount", "instance": SICK, "code": "OperationDenied.InstanceStatusLimitOpError"})
    heard: list[tuple[float, str]] = []

    async def listen(runner: Runner) -> None:
        runner.tell = lambda text: heard.append((asyncio.get_running_loop().time(), text))

    drill = Drill(tmp_path, it, fleet(4, 5), during=listen, deadline_s=300).go()
    assert drill.reason is Reason.STOPPED
    assert len(heard) == 1
    assert heard[0][0] < 1000 + 15
    assert "15 of 20 verified locked" in heard[0][1]
    assert f"5 wait for {SICK} (OperationDenied.InstanceStatusLimitOpError)" in heard[0][1]


# ---- verify and undo -----------------------------------------------------------------------------------------------


def test_verify_names_exactly_the_accounts_that_came_back(tmp_path: Path) -> None:
    """Read again now: who was unlocked since stands by name."""
    it = world()
    targets = fleet(5, 4)
    drill = Drill(tmp_path, it, targets).go()
    for target in targets[3:6]:
        account = it.account(target.instance, target.user)
        assert account is not None
        account.status = 2
    found = recheck(drill.ledger, readings(it, targets))
    assert {call.label for call in found.back} == {target.label for target in targets[3:6]}
    assert found.agree == 17


def _state(**changes: Any) -> AccountState:
    fields = {"user": "user0", "status": 5, "cam": False, "update_time": "2026-01-02 00:00:00"}
    return AccountState(**(fields | changes))


@pytest.mark.parametrize(
    ("state", "choice", "expected"),
    [
        (_state(), Choice(), None),
        (_state(status=2), Choice(), Keep.CHANGED_SINCE),
        (_state(update_time="2026-01-03 00:00:00"), Choice(), Keep.EDITED),
        (_state(update_time="2026-01-03 00:00:00"), Choice(include_edited=True), None),
        (
            _state(update_time="2026-01-03 00:00:00", password_update_time="2026-01-03 00:00:00"),
            Choice(),
            None,
        ),
        (_state(), Choice(rotated_only=True), Keep.NOT_ROTATED),
        (
            _state(update_time="2026-01-03 00:00:00", password_update_time="2026-01-03 00:00:00"),
            Choice(rotated_only=True),
            None,
        ),
        (_state(), Choice(wanted=lambda _call: False), Keep.NOT_ASKED),
        (None, Choice(), Keep.GONE),
    ],
)
def test_undo_takes_an_account_only_as_the_run_left_it(
    tmp_path: Path, state: AccountState | None, choice: Choice, expected: Keep | None
) -> None:
    """Unlocked since, edited since, rotated, gone: each gets what issue 3 §4 says."""
    drill = Drill(tmp_path, world(), fleet(1, 1)).go()
    entry = next(entry for _, entry, _ in drill.ledger.outcomes())
    assert entry.verified is not None
    entry.verified.update_time = "2026-01-02 00:00:00"
    accounts = {} if state is None else {"user0": state}
    plan = undo_plan(
        drill.ledger, {Where("", "ap-singapore", SICK): Reading(accounts=accounts)}, owing(drill.ledger), choice
    )
    assert [kept.why for kept in plan.kept] == ([] if expected is None else [expected])
    assert len(plan.plan.calls) == (expected is None)


def test_a_run_without_before_is_undone_only_by_name(tmp_path: Path) -> None:
    """Nobody knows what it changed: only a list says so."""
    it = world()
    targets = fleet(1, 2)
    drill = Drill(tmp_path, it, targets, settings=run_settings(verify=False)).go()
    now = readings(it, targets)
    assert {kept.why for kept in undo_plan(drill.ledger, now, owing(drill.ledger), Choice()).kept} == {
        Keep.BEFORE_UNKNOWN
    }
    listed = Choice(wanted=lambda call: call.user == "user1", by_list=True)
    assert {call.user for call in undo_plan(drill.ledger, now, owing(drill.ledger), listed).plan.calls} == {"user1"}


def _drill(tmp: Path, name: str, it: World, targets: list[Target], **more: Any) -> Drill:
    return Drill(tmp, it, targets, name=name, **more).go()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 30))
def test_undo_is_exactly_what_was_changed_less_what_changed_since_less_what_is_held(tmp_path: Path, seed: int) -> None:
    """Random fleets, pre-locked accounts, lost replies, calls not applied, strangers at work, two incidents at once."""
    rng = random.Random(seed)
    it = World(
        faults=rules_from(
            [
                {"action": "LockAccount", "user": "user3", "accepted_not_applied": True},
                {"action": "LockAccount", "reset_after": True, "probability": 0.1},
                {"action": "LockAccount", "hang": True, "probability": 0.05},
                {"action": "LockAccount", "code": "RequestLimitExceeded", "probability": 0.1},
            ]
        ),
        latency=0.02,
        seed=seed,
    )
    everything = fleet(4, 5)
    before: dict[str, int] = {}
    for target in everything:
        before[target.label] = 5 if rng.random() < 0.2 else 2
        it.seed(target.instance, target.region, [target.user], status=before[target.label])
    first = [target for target in everything if rng.random() < 0.7] or everything[:1]
    second = [target for target in everything if rng.random() < 0.3] or everything[:1]
    tmp = tmp_path / str(seed)
    one = _drill(tmp, "one", it, first)
    two = _drill(tmp, "two", it, second)

    changed = {label for label, outcome in one.outcomes().items() if outcome == "changed"}
    assert changed == {target.label for target in first if before[target.label] == 2 and target.user != "user3"}, (
        "outcomes name exactly what was changed"
    )
    since = set()
    for target in everything:
        account = it.account(target.instance, target.user)
        assert account is not None
        if account.status == 5 and rng.random() < 0.2:
            account.status = 2
            since.add(target.label)
    held = {label for label, outcome in two.outcomes().items() if outcome in ("changed", "already")}
    plan = undo_plan(one.ledger, readings(it, everything), owing(one.ledger, [two.ledger]), Choice())
    assert {call.label for call in plan.plan.calls} == changed - since - held
    kept = {kept.call.label: kept.why for kept in plan.kept}
    assert {label for label, why in kept.items() if why is Keep.HELD} >= changed & held
    assert {label for label, why in kept.items() if why is Keep.CHANGED_SINCE} == (changed & since) - held


def test_replay_knows_what_was_verified(tmp_path: Path) -> None:
    """The journal alone suffices to undo (J7)."""
    drill = Drill(tmp_path, world(), fleet(2, 2)).go()
    found = replay(drill.path).ledger
    assert all(entry.before is not None and entry.verified is not None for _, entry, _ in found.outcomes())
