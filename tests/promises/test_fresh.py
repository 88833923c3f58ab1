"""What was decided from an older look is looked at again before it is sent, and no lane waits for that."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Reason
from engine.journal.live import claimed
from engine.journal.protocols import Claim
from engine.journal.reader import replay
from engine.journal.store import RunStore
from engine.model import AccountState, Reading, Rival, Where, call_id
from engine.planning.admins import AdminGuard
from engine.planning.undo import Choice, StillSo, undo_plan
from engine.run.resting import FRESH_S
from engine.run.runner import Runner
from engine.simulator.faults import rules_from
from engine.simulator.fleet import fleet_from
from engine.simulator.world import World
from tests.support.command import Backend, Desk, records
from tests.support.drill import Drill, fleet, run_settings
from tests.support.holds import owing

REGION = "ap-singapore"
SUPER = "tencentDBSuper"


def world(*faults: dict[str, Any], quotas: Any = None) -> World:
    return World(latency=0.06, jitter=0.03, faults=rules_from(list(faults)), quotas=quotas or {"*": None})


def somebody(it: World, instance: str, user: str, **values: Any) -> None:
    """Somebody else changes an account."""
    account = it.account(instance, user)
    assert account is not None
    for name, value in values.items():
        setattr(account, name, value)


def reads(it: World) -> int:
    return sum(arrival.action == "DescribeAccounts" for arrival in it.audit)


def sent_at(drill: Drill) -> dict[str, float]:
    """By user on its instance: UNIX time of the last send."""
    return {f"{each.instance}/{each.user}": each.at for each in drill.world.audit if each.action == "LockAccount"}


# ---- in a session --------------------------------------------------------------------------------------------------


def test_what_somebody_else_locked_in_mid_run_is_already_and_not_undone(tmp_path: Path) -> None:
    """An undo of the run leaves it, as it was not the run that locked it; and no write is spent on it."""
    it, targets = world(), fleet(40, 20)

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(5)
        for number in range(40):
            somebody(it, f"postgres-{number:08d}", "user19", status=5)

    drill = Drill(tmp_path, it, targets, during=during).go()
    assert drill.reason is Reason.OK
    theirs = {call.label for call, _, outcome in drill.ledger.outcomes() if outcome == "already"}
    assert theirs == {f"postgres-{number:08d}/user19" for number in range(40)}
    assert not theirs & set(sent_at(drill))
    befores = {record["call"]: record["status"] for record in records(drill.path, "before")}
    assert Counter(befores.values()) == {2: 760, 5: 40}, "the last one counts"
    assert replay(drill.path).ledger.counts() == drill.ledger.counts()


def test_what_is_gone_or_changing_by_its_turn_is_settled_or_waited_for(tmp_path: Path) -> None:
    """A dropped account fails by name, one whose password is being set waits; neither is sent blindly."""
    it = world()

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(2)
        instance = it.instance("postgres-00000001")
        assert instance is not None
        del instance.accounts["user9"]
        somebody(it, "postgres-00000002", "user9", status=4)
        await asyncio.sleep(12)
        somebody(it, "postgres-00000002", "user9", status=2)

    drill = Drill(tmp_path, it, fleet(20, 10), during=during).go()
    assert drill.outcomes()["postgres-00000001/user9"] == "failed"
    assert drill.outcomes()["postgres-00000002/user9"] == "changed"
    assert sent_at(drill)["postgres-00000002/user9"] - min(sent_at(drill).values()) >= 12


def test_a_throttled_call_is_looked_at_again_before_it_is_sent_again(tmp_path: Path) -> None:
    """Nothing of it was applied: what somebody else did meanwhile is theirs."""
    busy = {"action": "LockAccount", "user": "user0", "times": 40, "code": "OperationDenied.InstanceStatusLimitOpError"}
    it = world(busy)

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(3)
        somebody(it, "postgres-00000000", "user0", status=5)

    drill = Drill(tmp_path, it, fleet(1, 1), during=during).go()
    assert drill.outcomes() == {"postgres-00000000/user0": "already"}


def test_the_look_is_fresh_at_the_slot_of_a_slow_lane_too(tmp_path: Path) -> None:
    """One call in ten seconds: each is read within the last moments before it leaves."""
    it = world()

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(25)
        somebody(it, "postgres-00000000", "user4", status=5)

    drill = Drill(tmp_path, it, fleet(1, 5), settings=run_settings(rate=0.1), during=during).go()
    assert Counter(drill.outcomes().values()) == {"changed": 4, "already": 1}
    looks = sorted(each.at for each in it.audit if each.action == "DescribeAccounts")
    for at in sent_at(drill).values():
        assert at - max(look for look in looks if look <= at) <= FRESH_S
    assert 30 <= drill.seconds < 40, "and the slots are kept"


@pytest.mark.parametrize(("instances", "users", "lanes"), [(400, 4, 1), (20, 60, 1), (400, 8, 5)])
def test_reading_again_holds_up_no_lane(tmp_path: Path, instances: int, users: int, lanes: int) -> None:
    """A lane is as full as without, whatever the plan's shape; an instance is read once for all that is due."""
    it = world()
    drill = Drill(tmp_path, it, fleet(instances, users), lanes=lanes).go()
    assert drill.reason is Reason.OK
    assert min(pace.per_second() or 0 for pace in drill.ledger.lanes.values()) >= 0.975 * 20
    calls = instances * users
    assert reads(it) <= 2 * instances + min(calls, instances * drill.seconds / (FRESH_S / 2))


@pytest.mark.parametrize("fault", [{"code": "InternalError"}, {"hang": True}])
def test_what_cannot_be_read_again_is_sent_and_proves_nothing(tmp_path: Path, fault: dict[str, Any]) -> None:
    """An incident does not wait for readings that do not come: all is sent at nearly the pace, and undo knows."""
    it = world({"action": "DescribeAccounts", "after": 100, "times": 2500, **fault})
    drill = Drill(tmp_path, it, fleet(100, 6)).go()
    sends = sent_at(drill)
    assert len(sends) == 600 and max(sends.values()) - min(sends.values()) < 45
    late = [entry for _, entry, _ in drill.ledger.outcomes() if entry.before and entry.before.why]
    assert late and all(entry.before.status == 2 for entry in late if entry.before)
    assert all("before it could be sent, and not again" in str(entry.before.why) for entry in late if entry.before)
    known = AccountState(user="", status=5, cam=False)
    readings = {
        call.where: Reading(accounts={f"user{number}": known for number in range(6)})
        for call in drill.ledger.calls.values()
    }
    undo = undo_plan(drill.ledger, readings, owing(drill.ledger), Choice())
    proven = [entry for _, entry, outcome in drill.ledger.outcomes() if outcome == "changed" and entry not in late]
    assert len(undo.plan.calls) == len(proven)


def test_without_verify_nothing_is_read(tmp_path: Path) -> None:
    """--no-verify is a promise, however long the run."""
    it = world()
    drill = Drill(tmp_path, it, fleet(10, 40), settings=run_settings(verify=False)).go()
    assert drill.reason is Reason.OK and not reads(it)


def test_a_resume_reads_again_what_was_refused_before(tmp_path: Path) -> None:
    """Of a call that was sent and not applied the old `before` is hours old: somebody may have locked it since."""
    it = world({"action": "LockAccount", "user": "user0", "code": "OperationDenied.InstanceStatusLimitOpError"})
    drill = Drill(tmp_path, it, fleet(2, 2), deadline_s=5).go()
    assert drill.reason is Reason.STOPPED
    it._faults = world()._faults
    somebody(it, "postgres-00000000", "user0", status=5)
    drill.deadline_s = 3600
    drill.go()
    assert drill.outcomes()["postgres-00000000/user0"] == "already"
    assert drill.outcomes()["postgres-00000001/user0"] == "changed"


@pytest.mark.parametrize("seed", range(6))
def test_an_undo_never_opens_what_others_had_locked_before_it_was_sent(tmp_path: Path, seed: int) -> None:
    """Whatever others do between the readings and the sends, up to the seconds a reading may be old."""
    rng, it = random.Random(seed), world()
    targets = fleet(rng.choice((3, 30, 120)), rng.choice((3, 10)))
    locked: dict[str, float] = {}

    async def during(_runner: Runner) -> None:
        while True:
            await asyncio.sleep(rng.expovariate(3))
            target = rng.choice(targets)
            account = it.account(target.instance, target.user)
            if account is not None and account.status == 2:
                account.status = 5
                locked[target.label] = drill.clock()
            elif account is not None and target.label in locked and rng.random() < 0.5:
                account.status = 2
                del locked[target.label]

    drill = Drill(tmp_path, it, targets, during=during, settings=run_settings(rate=rng.choice((3.0, 20.0))))
    drill.go()
    ours = {call.label for call, _, outcome in drill.ledger.outcomes() if outcome == "changed"}
    sends = sent_at(drill)
    for label, at in locked.items():
        if label in ours:
            assert sends[label] - at <= FRESH_S + 0.5, label


# ---- an undo -------------------------------------------------------------------------------------------------------


def test_what_is_edited_before_its_turn_is_not_undone(tmp_path: Path) -> None:
    """The rule of the preview is asked of every newer reading: kept, named, counted as failed."""
    it, targets = world(), fleet(20, 10)
    lock = Drill(tmp_path / "lock", it, targets).go()
    assert lock.reason is Reason.OK

    async def during(_runner: Runner) -> None:
        await asyncio.sleep(1)
        account = it.account("postgres-00000003", "user9")
        assert account is not None
        account.update_time += 3600

    drill = Drill(
        tmp_path / "undo",
        it,
        targets,
        action="UnlockAccount",
        seeded=False,
        during=during,
        stays=StillSo(lock.ledger, owing(lock.ledger), include_edited=False),
    ).go()
    assert drill.reason is Reason.INCOMPLETE
    (omit,) = drill.ledger.omits
    assert (omit.instance, omit.user, omit.reason) == ("postgres-00000003", "user9", "edited")
    assert drill.ledger.counts()["failed"] == 1 and drill.ledger.counts()["changed"] == 199
    account = it.account("postgres-00000003", "user9")
    assert account is not None and account.status == 5


# ---- superusers, over runs -----------------------------------------------------------------------------------------

HERE = Where("", REGION, "postgres-aaaaaaaa")


def supers(**statuses: int) -> dict[str, AccountState]:
    return {
        user: AccountState(user=user, status=status, cam=False, user_type=SUPER) for user, status in statuses.items()
    }


def rival(*users: str, keep: int = 1) -> Rival:
    ids = frozenset(bytes.fromhex(call_id(*HERE, user, "LockAccount")) for user in users)
    return Rival(run="run-1", keep_admins=keep, calls=ids)


def test_what_another_run_takes_counts_as_taken() -> None:
    """Whichever of the two must keep superusers; and the other run is named."""
    both = supers(root=2, dba=2)
    for guard in (AdminGuard(1, rivals=[rival("root", keep=0)]), AdminGuard(0, rivals=[rival("root")])):
        refused = guard.why_not(HERE, both, "dba")
        assert refused is not None and refused == (
            1,
            "the last usable superusers: run run-1 is locking root",
        )
        assert guard.lets(HERE, both, "root"), "both lock the same one"
    assert AdminGuard(1, rivals=[rival("root")]).lets(HERE, supers(root=2, dba=2, third=2), "dba")
    assert AdminGuard(0, rivals=[rival("other")]).lets(HERE, both, "dba"), "it takes nobody here"


def test_what_was_let_through_and_refused_later_is_not_lost() -> None:
    """Decided anew by a newer reading, it may not go: then another may."""
    guard = AdminGuard(1)
    assert guard.lets(HERE, supers(root=2, dba=2), "root")
    assert not guard.lets(HERE, supers(root=2, dba=5), "root")
    assert guard.lets(HERE, supers(root=2, dba=2), "dba"), "root stays"


def test_a_claim_tells_what_it_takes_and_how_many_must_stay(tmp_path: Path) -> None:
    """Only runs that lock are told of each other; a claim of an earlier version asks for none to stay."""
    store = RunStore(tmp_path / "state")

    def claim(run: str, action: str, keep: int) -> Any:
        calls = [call_id(*HERE, "root", action)]
        mine = Claim(run_id=run, digest=run, path="", action=action, calls=calls, keep_admins=keep)
        return claimed(store, mine, inverse=None, undone_by=dict)

    with claim("run-1", "LockAccount", 2) as first, claim("run-2", "LockAccount", 0) as second:
        assert first == ()
        (found,) = second
        assert (found.run, found.keep_admins, found.takes(HERE, "root"), found.takes(HERE, "dba")) == (
            "run-1",
            2,
            True,
            False,
        )
        with claim("run-3", "OpenAccountCAM", 0) as third:
            assert third == ()
        with claim("run-4", "LockAccount", 0) as fourth:
            assert {(each.run, each.keep_admins) for each in fourth} == {("run-1", 2), ("run-2", 0)}


@pytest.mark.parametrize("apart_s", [0.0, 0.15])
def test_two_runs_that_take_a_superuser_each_leave_one(tmp_path: Path, apart_s: float) -> None:
    """Started together, or shortly after each other, as real processes: whatever the order, one can still log in."""
    for number in range(4):
        place = tmp_path / str(number)
        place.mkdir()
        desk = Desk(place)
        accounts = [{"name": name, "type": SUPER} for name in ("root", "dba")]
        instances = [{"id": HERE.instance, "region": REGION, "accounts": [*accounts, "ann"]}]
        it = World(fleet=fleet_from({"instances": instances}), quotas={"*": None}, latency=0.05, jitter=0.05)
        with Backend(it) as backend:
            desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
            desk.write("config.yaml", "keep_admins: 1\n")
            jobs = [desk.job(f"{HERE.instance}/{name}", name=f"{name}.yaml") for name in ("root", "dba")]
            processes: list[subprocess.Popen[bytes]] = []
            for job in jobs:
                processes.append(desk.popen("run", job, "--yes"))
                if apart_s:
                    with pytest.raises(subprocess.TimeoutExpired):
                        processes[0].wait(apart_s)
            ended = [desk.end(process) for process in processes]
            usable = [
                name for name in ("root", "dba") if (found := it.account(HERE.instance, name)) and found.status == 2
            ]
            assert len(usable) == 1, [done.text for done in ended]
