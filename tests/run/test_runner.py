"""The pool, the attempt loop, drain and stop: over the simulator, in memory and virtual time."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.errors import CredentialsError, Reason
from engine.journal import records
from engine.journal.reader import read
from engine.model import Call, Fault, Keys, Outcome, Proof, Reply, Stage, Verdict
from engine.run.runner import Runner
from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.faults import rules_from
from engine.simulator.gate import KeyRecord
from engine.simulator.inprocess import InProcessTransport
from engine.simulator.world import World
from tests.support.drill import Drill, FixedKeys, fleet, run_settings

SICK = "postgres-00000000"


def world(*faults: dict[str, Any], latency: float = 0.1, **more: Any) -> World:
    return World(faults=rules_from(list(faults)), latency=latency, **more)


def lines(drill: Drill, kind: type) -> list[Any]:
    return [line for line in read(drill.path) if isinstance(line, kind)]


def outcomes(drill: Drill) -> Counter[str]:
    return Counter(drill.outcomes().values())


def writes(world_: World, action: str = "LockAccount") -> list[Any]:
    return [arrival for arrival in world_.audit if arrival.action == action]


# ---- pace and pool -------------------------------------------------------------------------------------------------


def test_every_target_is_locked_at_the_quota(tmp_path: Path) -> None:
    """A clean fleet is done in the time the quota allows, no second holds more than the quota, none is throttled."""
    drill = Drill(tmp_path, world(latency=0.15), fleet(50, 8)).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 400}
    assert drill.ledger.throttled == 0
    assert 20.0 <= drill.seconds <= 22.0
    assert max(drill.ledger.worst_second().values()) <= 20
    assert {entry.proof for _, entry, _ in drill.ledger.outcomes()} == {Proof.READ}


def test_a_slow_server_still_gets_the_whole_quota(tmp_path: Path) -> None:
    """Five seconds a call: a hundred workers keep twenty a second going."""
    drill = Drill(tmp_path, world({"action": "LockAccount", "slow": 5}), fleet(100, 4)).go()
    assert drill.reason is Reason.OK
    assert drill.seconds <= 1.5 + 20.8 + 5.2 + 1.5


def test_calls_go_round_the_instances(tmp_path: Path) -> None:
    """Twenty calls in a row touch twenty instances."""
    it = world()
    Drill(tmp_path, it, fleet(20, 3)).go()
    assert len({arrival.instance for arrival in writes(it)[:20]}) >= 19


def test_one_instance_alone_may_use_the_whole_lane(tmp_path: Path) -> None:
    """With a second a call, four in flight would starve the lane: the bound gives way to sixteen."""
    it = world({"action": "LockAccount", "slow": 0.7})
    drill = Drill(tmp_path, it, fleet(1, 100)).go()
    assert drill.reason is Reason.OK
    assert drill.seconds < 7.5


def test_no_more_than_four_calls_stand_on_one_instance_while_others_wait(tmp_path: Path) -> None:
    """The bound holds as long as any other instance has eligible calls."""
    it = world({"action": "LockAccount", "slow": 3.0}, latency=0.0)
    Drill(tmp_path, it, fleet(30, 10)).go()
    in_flight: list[tuple[float, str]] = []
    for arrival in writes(it)[:200]:
        in_flight = [(at, instance) for at, instance in in_flight if at > arrival.at - 3.0]
        in_flight.append((arrival.at, arrival.instance))
        assert max(Counter(instance for _, instance in in_flight).values()) <= 4


def test_throttles_slow_the_lane_and_fail_nothing(tmp_path: Path) -> None:
    """Forty per cent throttled: every call succeeds all the same, and no throttle counts as an attempt that failed."""
    it = world({"action": "LockAccount", "code": "RequestLimitExceeded", "probability": 0.4})
    drill = Drill(tmp_path, it, fleet(20, 5)).go()
    assert drill.reason is Reason.OK
    assert drill.ledger.throttled > 20
    assert outcomes(drill) == {"changed": 100}


def test_a_lane_of_its_own_quota_does_not_wait_for_a_starving_one(tmp_path: Path) -> None:
    """Two lanes draw from one queue: where one is refused for ever, the other does all the work at its full quota."""
    it = world()
    starving = "127.0.0.1:900"

    class OneLaneStarves(InProcessTransport):
        async def send(self, endpoint: str, headers: Any, body: bytes, timeout_s: float) -> Any:
            if starving in endpoint and headers["X-TC-Action"] == "LockAccount":
                await asyncio.sleep(0.05)
                text = b'{"Response":{"Error":{"Code":"RequestLimitExceeded","Message":"m"},"RequestId":"%s"}}'
                return Reply(status=200, body=text % uuid.uuid4().hex.encode())
            return await super().send(endpoint, headers, body, timeout_s)

    drill = Drill(tmp_path, it, fleet(40, 10), lanes=2)
    drill.transport = lambda inner: OneLaneStarves(it, now=inner._now)  # type: ignore[attr-defined]
    drill.go()
    assert drill.reason is Reason.OK
    assert drill.seconds <= 22.0


def test_two_lanes_have_twice_the_quota(tmp_path: Path) -> None:
    """Every endpoint is a quota of its own (CN-RATE)."""
    drill = Drill(tmp_path, world(), fleet(40, 10), lanes=2).go()
    assert drill.reason is Reason.OK
    assert drill.seconds <= 11.0


def test_a_sick_instance_does_not_slow_the_healthy(tmp_path: Path) -> None:
    """A tenth of all accounts sit on an instance that refuses for ever: the others are done as if it were not there."""
    it = world({"instance": SICK, "action": "LockAccount", "code": "OperationDenied.InstanceStatusLimitOpError"})
    drill = Drill(tmp_path, it, fleet(10, 40)).go()
    healthy = [arrival.at for arrival in writes(it) if arrival.applied]
    assert len(healthy) == 360
    assert healthy[-1] - healthy[0] <= 20.0  # 360 calls at 20/s are 18.4 s
    assert drill.reason is Reason.INCOMPLETE
    assert outcomes(drill) == {"changed": 360, "failed": 40}
    assert sum(arrival.instance == SICK for arrival in writes(it)) < 150, "it was hammered"


def test_a_sick_instance_that_recovers_is_finished(tmp_path: Path) -> None:
    """Busy for its first fifteen requests, some minutes, then well: everything is done."""
    it = world(
        {"instance": SICK, "action": "LockAccount", "code": "OperationDenied.InstanceStatusLimitOpError", "times": 15}
    )
    drill = Drill(tmp_path, it, fleet(10, 20)).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 200}


def test_tasks_are_bounded_by_the_workers(tmp_path: Path) -> None:
    """Eight hundred targets on two hundred instances are not eight hundred tasks, readings included."""
    most = 0

    async def count(_runner: Runner) -> None:
        nonlocal most
        while True:
            most = max(most, len(asyncio.all_tasks()))
            await asyncio.sleep(0.05)

    settings = run_settings(rate=1000.0, workers=50)
    it = World(latency=0.02, quotas={"*": None})
    drill = Drill(tmp_path, it, fleet(200, 4), settings=settings, during=count).go()
    assert drill.reason is Reason.OK
    assert 64 < most < 50 + 4 * 64 + 40


# ---- verdicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"code": "FailedOperation.DatabaseAccessError", "times": 3}, ("changed", "read", 4)),
        ({"code": "InternalError", "times": 2}, ("changed", "read", 3)),
        ({"code": "FailedOperation.FailedOperationError", "times": 1}, ("changed", "read", 2)),
        ({"code": "FailedOperation"}, ("failed", None, 2)),
        ({"code": "InvalidParameter.ParameterCheckError"}, ("failed", None, 1)),
        ({"code": "Something.NobodyKnows"}, ("failed", None, 1)),
        ({"code": "FailedOperation.Invented"}, ("failed", None, 2)),
        ({"reset_after": True, "times": 1}, ("changed", "read", 1)),
        ({"reset_before": True, "times": 1}, ("changed", "read", 2)),
        ({"hang": True, "times": 1}, ("changed", "read", 2)),
        ({"hang": True, "apply": True, "times": 1}, ("changed", "read", 1)),
        ({"html": True, "status": 502, "times": 1}, ("changed", "read", 2)),
        ({"status": 503, "apply": True, "times": 1}, ("changed", "read", 1)),
        ({"truncated": True, "times": 1}, ("changed", "read", 1)),
        ({"garbage": True, "times": 1}, ("changed", "read", 1)),
        ({"empty": True, "times": 1}, ("changed", "read", 1)),
        ({"no_request_id": True, "times": 1}, ("changed", "read", 1)),
        ({"code": "RequestLimitExceeded", "times": 3}, ("changed", "read", 4)),
        ({"code": "RequestLimitExceeded.UinLimitExceeded", "times": 3}, ("changed", "read", 4)),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_a_fault_ends_as_the_table_says(tmp_path: Path, fault: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """Outcome, proof and attempts of a call that meets one kind of fault; its neighbours are not touched by it."""
    rule = {"action": "LockAccount", "instance": SICK, **fault}
    it = world(rule)
    drill = Drill(tmp_path, it, fleet(3, 1)).go()
    call, entry, outcome = next(iter(drill.ledger.outcomes()))
    assert call.instance == SICK
    assert (str(outcome), str(entry.proof) if entry.proof else None, entry.attempts) == expected
    assert Counter(drill.outcomes().values())["changed"] >= 2
    state = it.account(SICK, "user0")
    assert state is not None
    assert (state.status == 5) == (outcome is Outcome.CHANGED)


def test_a_refused_precheck_is_decided_by_reading(tmp_path: Path) -> None:
    """Locked before: already. Missing: failed, with the nearest name. Normal and refused: failed."""
    it = world({"action": "LockAccount", "user": "user2", "code": "FailedOperation.PreCheckError"}, repeat="precheck")
    it.seed(SICK, "ap-singapore", ["user0"], status=5)
    targets = fleet(1, 3)
    drill = Drill(tmp_path, it, targets).go()
    by_user = {call.user: (entry, outcome) for call, entry, outcome in drill.ledger.outcomes()}
    assert (by_user["user0"][1], by_user["user0"][0].proof) == (Outcome.ALREADY, Proof.BEFORE)
    assert by_user["user1"][1] is Outcome.CHANGED
    assert by_user["user2"][1] is Outcome.FAILED


def test_a_missing_account_is_named_with_its_nearest_name(tmp_path: Path) -> None:
    """Lock has no code for a missing account: the reading says so, and what there is instead."""
    it = world()
    it.seed(SICK, "ap-singapore", ["billing_app"])
    target = fleet(1, 1)[0]
    drill = Drill(tmp_path, it, [type(target)(SICK, "biling_app", "ap-singapore")])
    drill.go()  # the drill seeds its own targets: the account exists, and is locked
    fleet_world = World(fleet=_fleet(SICK, ["billing_app"]), latency=0.1)
    again = Drill(tmp_path / "b", fleet_world, [type(target)(SICK, "biling_app", "ap-singapore")], seeded=False).go()
    (entry,) = [entry for _, entry, _ in again.ledger.outcomes()]
    assert entry.outcome is Outcome.FAILED
    assert "did you mean billing_app" in (entry.message or "")


def _fleet(instance: str, users: list[str]) -> Any:
    from engine.simulator.fleet import fleet_from

    return fleet_from({"instances": [{"id": instance, "region": "ap-singapore", "accounts": users}]})


def test_a_precheck_of_a_changing_account_is_tried_again(tmp_path: Path) -> None:
    """Status 3 is "being modified": not now is not never."""
    it = world({"action": "LockAccount", "code": "FailedOperation.PreCheckError", "times": 2})
    it.seed(SICK, "ap-singapore", ["user0"], status=3)

    async def settle_down(_runner: Runner) -> None:
        await asyncio.sleep(5)
        account = it.account(SICK, "user0")
        assert account is not None
        account.status = 2

    drill = Drill(tmp_path, it, fleet(1, 1), during=settle_down, settings=run_settings(verify=False)).go()
    assert outcomes(drill) == {"changed": 1}


def test_cam_that_is_on_already_is_already(tmp_path: Path) -> None:
    """The API says so, where nothing could be read before, and a reading shows it."""
    it = world({"action": "DescribeAccounts", "code": "UnauthorizedOperation", "times": 1})
    it.seed(SICK, "ap-singapore", ["user0"], cam=True)
    drill = Drill(tmp_path, it, fleet(1, 2), action="OpenAccountCAM").go()
    assert drill.reason is Reason.OK
    assert drill.outcomes() == {f"{SICK}/user0": "already", f"{SICK}/user1": "changed"}
    ((_, entry, _), _) = drill.ledger.outcomes()
    assert entry.proof is Proof.READ


@pytest.mark.parametrize(
    ("unread", "end"), [(2, (Outcome.CHANGED, Proof.READ)), (None, (Outcome.UNKNOWN, None))], ids=["read", "unread"]
)
def test_already_after_a_lost_reply_is_our_own_echo_once_it_is_read(
    tmp_path: Path, unread: int | None, end: tuple[Outcome, Proof | None]
) -> None:
    """The first try worked, its reply was lost and could not be read; the resend says "already".

    Somebody else may have been quicker: the echo alone is no proof of a change of ours, a reading is.
    """
    times = {} if unread is None else {"times": unread}
    it = world(
        {"action": "OpenAccountCAM", "reset_after": True, "times": 1},
        {"action": "DescribeAccounts", "code": "UnauthorizedOperation", **times},
    )
    drill = Drill(tmp_path, it, fleet(1, 1), action="OpenAccountCAM").go()
    ((_, entry, outcome),) = drill.ledger.outcomes()
    assert (outcome, entry.proof, entry.attempts) == (*end, 2)


def test_in_doubt_and_unreadable_lock_is_sent_again(tmp_path: Path) -> None:
    """Lock only sets a state: a repeat is harmless, a door left open is not."""
    it = world(
        {"action": "LockAccount", "hang": True, "times": 1},
        {"action": "DescribeAccounts", "code": "UnauthorizedOperation"},
    )
    drill = Drill(tmp_path, it, fleet(1, 1), settings=run_settings(verify=False)).go()
    assert outcomes(drill) == {"changed": 1}
    assert drill.ledger.attempts == 2


def test_many_lost_replies_on_one_instance_share_few_readings(tmp_path: Path) -> None:
    """Reading back costs an instance a call, not an account."""
    it = world({"action": "LockAccount", "reset_after": True}, latency=0.3)
    drill = Drill(tmp_path, it, fleet(1, 40)).go()
    assert outcomes(drill) == {"changed": 40}
    assert len(lines(drill, records.Read)) < 40


def test_the_servers_clock_is_learnt(tmp_path: Path) -> None:
    """An hour off: one refusal, the offset from `Date`, and the run goes through; it is noted once."""
    it = world({"wrong_clock": 3600})
    drill = Drill(tmp_path, it, fleet(2, 5)).go()
    assert drill.reason is Reason.OK
    (note,) = [note for note in lines(drill, records.Note) if note.what == "clock_learned"]
    assert abs(note.data["offset_s"] - 3600) < 2


def test_rotated_keys_are_read_again(tmp_path: Path) -> None:
    """A key that is gone half-way is replaced from its source; no call fails for it."""
    it = world()
    keys = FixedKeys(refreshable=True, upcoming=Keys(secret_id="AKIDNEW", secret_key="SKNEW"))

    async def rotate(_runner: Runner) -> None:
        await asyncio.sleep(1.5)
        del it.keys[DEMO_SECRET_ID]
        it.keys["AKIDNEW"] = KeyRecord(secret_key="SKNEW")

    drill = Drill(tmp_path, it, fleet(10, 6), keys=keys, during=rotate).go()
    assert drill.reason is Reason.OK
    assert [note.data["key"] for note in lines(drill, records.Note) if note.what == "keys_refreshed"] == ["…DNEW"]
    assert {sent.key for sent in lines(drill, records.Sent)} == {"…0KEY", "…DNEW"}


def test_wrong_keys_end_the_run_before_it_begins(tmp_path: Path) -> None:
    """Refused before any accepted write: exit 5, the others are not even tried."""
    keys = FixedKeys(Keys(secret_id=DEMO_SECRET_ID, secret_key="wrong" + DEMO_SECRET_KEY))
    it = world()
    drill = Drill(tmp_path, it, fleet(20, 20), keys=keys).go()
    assert drill.reason is Reason.DENIED
    assert outcomes(drill) == {"unattempted": 400}
    assert len(it.audit) < 70
    assert drill.ledger.end is not None
    assert drill.ledger.end.stopped is not None
    assert drill.ledger.end.stopped.code == "AuthFailure.SignatureFailure"
    assert drill.ledger.end.stopped.request_id


def test_a_fatal_code_in_the_middle_stops_and_leaves_the_rest_resumable(tmp_path: Path) -> None:
    """What was done is done, the rest is unattempted, and a resume finishes it."""
    it = world({"action": "LockAccount", "code": "ActionOffline", "after": 50, "times": 1})
    drill = Drill(tmp_path, it, fleet(10, 10)).go()
    assert drill.reason is Reason.STOPPED
    counts = outcomes(drill)
    assert counts["changed"] + counts["unattempted"] == 100
    assert 49 <= counts["changed"] < 60
    drill.go()
    assert drill.reason is Reason.OK


def test_when_the_first_twenty_all_fail_alike_it_stops(tmp_path: Path) -> None:
    """The region, the permission or the list is wrong: four hundred refusals would say no more."""
    it = world({"action": "LockAccount", "code": "ResourceNotFound.InstanceNotFoundError"})
    drill = Drill(tmp_path, it, fleet(50, 8)).go()
    assert drill.reason is Reason.STOPPED
    assert 20 <= outcomes(drill)["failed"] < 40


def test_two_instances_alone_do_not_stop_a_run_for_one_code(tmp_path: Path) -> None:
    """Twenty failures on two instances say something of those instances."""
    it = world({"action": "LockAccount", "code": "ResourceNotFound.InstanceNotFoundError", "instance": "*0000000[01]"})
    drill = Drill(tmp_path, it, fleet(3, 15)).go()
    assert drill.reason is Reason.INCOMPLETE
    assert outcomes(drill) == {"failed": 30, "changed": 15}


def test_stop_after_stops_on_the_nth(tmp_path: Path) -> None:
    """Not on the one after (field.md C17); what is in flight then is still recorded."""
    it = world({"action": "LockAccount", "user": "user1", "code": "InvalidParameter.ParameterCheckError"}, latency=0.01)
    drill = Drill(tmp_path, it, fleet(40, 2), stop_after=3).go()
    assert drill.reason is Reason.STOPPED
    assert outcomes(drill)["failed"] == 3


def test_a_call_that_stays_transient_fails_when_its_budget_is_spent(tmp_path: Path) -> None:
    """Two minutes of trying, then failed with the last code, not for ever."""
    it = world({"action": "LockAccount", "instance": SICK, "code": "FailedOperation.DatabaseAccessError"})
    drill = Drill(tmp_path, it, fleet(4, 1)).go()
    assert drill.reason is Reason.INCOMPLETE
    assert drill.outcomes()[f"{SICK}/user0"] == "failed"
    assert 110 < drill.seconds < 135


# ---- the endpoint --------------------------------------------------------------------------------------------------


class Unreachable(InProcessTransport):
    """Cannot be reached while `down`."""

    down = True

    async def send(self, endpoint: str, headers: Any, body: bytes, timeout_s: float) -> Any:
        if self.down:
            return Fault(stage=Stage.BEFORE_SEND, code="Local.Connect", message="connection refused")
        return await super().send(endpoint, headers, body, timeout_s)


def test_an_endpoint_that_never_answers_is_given_up_soon(tmp_path: Path) -> None:
    """A wrong address: nothing was sent, every call is unattempted, and it takes seconds, not minutes."""
    it = world()
    drill = Drill(tmp_path, it, fleet(10, 10))
    drill.transport = lambda inner: Unreachable(it, now=inner._now)  # type: ignore[attr-defined]
    drill.go()
    assert drill.reason is Reason.STOPPED
    assert outcomes(drill) == {"unattempted": 100}
    assert drill.seconds < 40


def test_an_outage_in_the_middle_is_waited_for_and_costs_no_call(tmp_path: Path) -> None:
    """A minute without network: the lane waits, no call loses an attempt, all are done."""
    it = world()
    made: list[Unreachable] = []

    def build(inner: Any) -> Any:
        made.append(Unreachable(it, now=inner._now))
        made[0].down = False
        return made[0]

    async def outage(_runner: Runner) -> None:
        await asyncio.sleep(2)
        made[0].down = True
        await asyncio.sleep(60)
        made[0].down = False

    drill = Drill(tmp_path, it, fleet(10, 10), transport=build, during=outage).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 100}


# ---- stopping and going on -----------------------------------------------------------------------------------------


def test_the_deadline_drains_and_the_rest_can_be_resumed(tmp_path: Path) -> None:
    """Exit 4, nothing in flight is lost, resume finishes."""
    drill = Drill(tmp_path, world(), fleet(20, 10), deadline_s=4.0).go()
    assert drill.reason is Reason.STOPPED
    counts = outcomes(drill)
    assert counts["unattempted"] > 100
    assert counts["changed"] + counts["unattempted"] == 200
    drill.deadline_s = 3600
    drill.go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 200}


def test_a_stop_does_not_wait_for_the_next_slot_of_a_slow_lane(tmp_path: Path) -> None:
    """At a call a minute Ctrl-C is at once all the same: what takes longer is killed, by systemd or in anger."""

    async def stop(runner: Runner) -> None:
        await asyncio.sleep(10)
        runner.stop("enough", Reason.INTERRUPTED)

    drill = Drill(tmp_path, world(), fleet(4, 1), settings=run_settings(rate=1 / 60), during=stop).go()
    assert drill.reason is Reason.INTERRUPTED
    assert drill.seconds < 11
    assert outcomes(drill) == {"changed": 1, "unattempted": 3}


def test_a_stop_ends_waiting_calls_at_once(tmp_path: Path) -> None:
    """Calls that back off or wait for their turn do not hold up a drain; they stay as they were."""
    it = world({"action": "LockAccount", "instance": SICK, "code": "FailedOperation.DatabaseAccessError"})

    async def stop(runner: Runner) -> None:
        await asyncio.sleep(10)
        runner.stop("enough", Reason.INTERRUPTED)

    drill = Drill(tmp_path, it, fleet(4, 20), during=stop).go()
    assert drill.reason is Reason.INTERRUPTED
    assert drill.seconds < 11
    assert outcomes(drill)["changed"] == 60
    assert set(outcomes(drill)) <= {"changed", "failed", "unattempted"}
    assert all(not entry.settled for _, entry, outcome in drill.ledger.outcomes() if outcome is not Outcome.CHANGED)


def test_a_machine_that_slept_stops_sending(tmp_path: Path) -> None:
    """The wall clock runs away from the monotonic one: exit 4, with the reason; no call is lost."""
    drill = Drill(tmp_path, world(), fleet(20, 10), wall_skew=lambda now: 0.0 if now < 1003 else 7200.0).go()
    assert drill.reason is Reason.STOPPED
    assert drill.ledger.end is not None
    assert drill.ledger.end.stopped is not None
    assert "sleep" in drill.ledger.end.stopped.why


def test_a_quota_that_others_use_up_ends_the_run_after_ten_minutes(tmp_path: Path) -> None:
    """Throttled for ever: bounded, resumable, and not one call failed."""
    it = world({"action": "LockAccount", "code": "RequestLimitExceeded"})
    drill = Drill(tmp_path, it, fleet(2, 5)).go()
    assert drill.reason is Reason.STOPPED
    assert outcomes(drill) == {"unattempted": 10}
    assert 590 < drill.seconds < 700


def test_resume_reads_what_was_never_answered(tmp_path: Path) -> None:
    """`sent` without `reply`: applied is settled by reading, not applied is sent; nothing is sent twice."""
    it = world()
    drill = Drill(tmp_path, it, fleet(2, 3)).go()
    whole = drill.path.read_bytes().splitlines(keepends=True)
    first_reply = next(at for at, line in enumerate(whole) if b'"kind":"reply"' in line)
    drill.rewrite(b"".join(whole[:first_reply]))
    sent = len([line for line in whole[:first_reply] if b'"kind":"sent"' in line])
    before = len(writes(it))
    drill.go()
    assert drill.reason is Reason.OK
    proofs = Counter(str(entry.proof) for _, entry, _ in drill.ledger.outcomes())
    assert proofs == {"read": sent, "before": 6 - sent}
    assert len(writes(it)) == before, "the rest was locked by the first session: nothing is left to send"


def test_resume_of_done_and_unsettled_never_resends(tmp_path: Path) -> None:
    """`done` without `settled` is read and settled; if it is not so, it fails in words."""
    it = world()
    drill = Drill(tmp_path, it, fleet(1, 2)).go()
    whole = drill.path.read_bytes().splitlines(keepends=True)
    first_settled = next(at for at, line in enumerate(whole) if b'"kind":"settled"' in line)
    drill.rewrite(b"".join(whole[:first_settled]))
    replied = [line for line in whole[:first_settled] if b'"kind":"reply"' in line]
    account = it.account(SICK, "user0")
    assert account is not None
    account.status = 2  # somebody undid it meanwhile
    before = [arrival for arrival in writes(it) if arrival.user == "user0"]
    drill.go()
    assert len(replied) >= 1
    assert [arrival for arrival in writes(it) if arrival.user == "user0"] == before
    entry = next(entry for call, entry, _ in drill.ledger.outcomes() if call.user == "user0")
    assert (entry.outcome, entry.code) == (Outcome.FAILED, "Local.NotApplied")


def test_a_call_that_must_not_be_sent_again_is_only_read(tmp_path: Path) -> None:
    """A guard that came up since: what was in doubt is read; not applied stays failed, and is not sent."""
    it = world({"action": "LockAccount", "hang": True})

    async def stop(runner: Runner) -> None:
        await asyncio.sleep(1)
        runner.stop("enough", Reason.INTERRUPTED)

    drill = Drill(tmp_path, it, fleet(1, 1), during=stop).go()
    before = len(writes(it))
    drill.during = None
    drill.no_send = frozenset(drill.ledger.calls)
    drill.go()
    assert len(writes(it)) == before
    assert outcomes(drill) == {"failed": 1}


def test_what_the_api_called_so_is_not_sent_again_once_a_guard_forbids_it(tmp_path: Path) -> None:
    """Read as not so at last: the word was meant for another account, or somebody else has changed it since."""
    said = {"action": "OpenAccountCAM", "code": "FailedOperation.CheckAccountCAMCloseError"}
    it = world(said, {"action": "DescribeAccounts", "code": "InternalError"})

    async def stop(runner: Runner) -> None:
        await asyncio.sleep(30)
        runner.stop("enough", Reason.INTERRUPTED)

    drill = Drill(tmp_path, it, fleet(1, 1), action="OpenAccountCAM", during=stop).go()
    assert outcomes(drill) == {"unknown": 1}
    drill.during, drill.no_send, drill.world = None, frozenset(drill.ledger.calls), world()
    drill.world.seed(drill.targets[0].instance, drill.targets[0].region, [drill.targets[0].user])
    drill.go()
    assert not writes(drill.world, "OpenAccountCAM")
    assert outcomes(drill) == {"failed": 1}


# ---- secrets, and actions without a readable state -----------------------------------------------------------------


async def _password(call: Call) -> str:
    await asyncio.sleep(0.2)
    return f"Pass-{call.user}-9x"


def test_passwords_are_asked_once_a_call_ahead_of_the_send_and_recorded_nowhere(tmp_path: Path) -> None:
    """A slow source does not starve the lane; a retry uses the same password; no byte of it is on disk."""
    asked: Counter[str] = Counter()

    async def ask(call: Call) -> str:
        asked[call.label] += 1
        return await _password(call)

    it = world({"action": "CloseAccountCAM", "code": "FailedOperation.DatabaseAccessError", "times": 5})
    targets = fleet(10, 10)
    for target in targets:
        it.seed(target.instance, target.region, [target.user], cam=True)
    drill = Drill(tmp_path, it, targets, action="CloseAccountCAM", secret=ask).go()
    assert drill.reason is Reason.OK
    assert set(asked.values()) == {1}
    assert len(asked) == 100
    assert drill.seconds < 9
    assert b"Pass-" not in drill.path.read_bytes()


def test_a_password_that_cannot_be_had_fails_its_call_alone(tmp_path: Path) -> None:
    """Nothing is sent for it, the others go on."""

    async def ask(call: Call) -> str:
        if call.user == "user1":
            raise CredentialsError("vault: no entry")
        return await _password(call)

    it = world()
    targets = fleet(4, 3)
    for target in targets:
        it.seed(target.instance, target.region, [target.user], cam=True)
    drill = Drill(tmp_path, it, targets, action="CloseAccountCAM", secret=ask).go()
    assert outcomes(drill) == {"changed": 8, "failed": 4}
    failed = [entry for _, entry, outcome in drill.ledger.outcomes() if outcome is Outcome.FAILED]
    assert {(entry.code, entry.message, entry.attempts) for entry in failed} == {
        ("Local.PasswordSource", "vault: no entry", 0)
    }


def test_cam_off_already_warns_that_the_password_was_not_set(tmp_path: Path) -> None:
    """The account keeps the password it had: an operator who thinks otherwise is locked out."""
    drill = Drill(tmp_path, world(), fleet(1, 1), action="CloseAccountCAM", secret=_password).go()
    ((_, entry, outcome),) = drill.ledger.outcomes()
    assert outcome is Outcome.ALREADY
    assert "NOT set" in (entry.message or "")


def test_an_unreadable_close_in_doubt_is_not_sent_again(tmp_path: Path) -> None:
    """A second CloseAccountCAM could set another password: unknown, and a later resume may read it."""
    it = world(
        {"action": "CloseAccountCAM", "reset_after": True, "times": 1},
        {"action": "DescribeAccounts", "code": "UnauthorizedOperation", "times": 3},
    )
    it.seed(SICK, "ap-singapore", ["user0"], cam=True)
    drill = Drill(tmp_path, it, fleet(1, 1), action="CloseAccountCAM", secret=_password).go()
    assert (drill.reason, outcomes(drill)) == (Reason.INCOMPLETE, {"unknown": 1})
    drill.go()
    assert (drill.reason, outcomes(drill)) == (Reason.OK, {"changed": 1})
    assert len(writes(it, "CloseAccountCAM")) == 1


def test_a_refresh_in_doubt_is_unknown_for_good(tmp_path: Path) -> None:
    """Nothing readable tells, and a repeat would refresh again: settled as unknown, never resent."""
    it = world({"action": "RefreshAccountPassword", "reset_after": True, "user": "user0"})
    for target in fleet(1, 2):
        it.seed(target.instance, target.region, [target.user], cam=True)
    drill = Drill(tmp_path, it, fleet(1, 2), action="RefreshAccountPassword").go()
    assert drill.outcomes() == {f"{SICK}/user0": "unknown", f"{SICK}/user1": "changed"}
    assert len(writes(it, "RefreshAccountPassword")) == 2
    drill.go()
    assert len(writes(it, "RefreshAccountPassword")) == 2


# ---- records -------------------------------------------------------------------------------------------------------


def test_every_arrival_has_its_sent_record_and_every_request_id_is_kept(tmp_path: Path) -> None:
    """Under a storm of faults: the journal knows every request the server saw and every id it answered with."""
    it = world(
        {"action": "LockAccount", "code": "RequestLimitExceeded", "probability": 0.1},
        {"action": "LockAccount", "reset_after": True, "probability": 0.1},
        {"action": "LockAccount", "reset_before": True, "probability": 0.05},
        {"action": "LockAccount", "code": "InternalError", "probability": 0.1},
        {"action": "LockAccount", "truncated": True, "probability": 0.05},
        {"action": "LockAccount", "hang": True, "probability": 0.02},
        seed=7,
    )
    drill = Drill(tmp_path, it, fleet(20, 10)).go()
    assert drill.reason is Reason.OK
    traces = {sent.trace for sent in lines(drill, records.Sent)}
    assert {arrival.trace for arrival in writes(it)} <= traces
    answered = {
        arrival.request_id
        for arrival in writes(it)
        if arrival.request_id and arrival.fault not in ("truncated", "reset_after", "reset_before", "hang")
    }
    assert answered <= {reply.request_id for reply in lines(drill, records.ReplyLine)}
    settled = Counter(line.call for line in lines(drill, records.Settled))
    assert set(settled.values()) == {1}
    assert DEMO_SECRET_KEY.encode() not in drill.path.read_bytes()


def test_a_bug_in_the_engine_stops_the_run_and_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The one thing a worker may not do is to die in silence."""

    class Broken(InProcessTransport):
        sends = 0

        async def send(self, endpoint: str, headers: Any, body: bytes, timeout_s: float) -> Any:
            Broken.sends += 1
            if Broken.sends == 30:
                raise ZeroDivisionError
            return await super().send(endpoint, headers, body, timeout_s)

    it = world()
    drill = Drill(tmp_path, it, fleet(10, 10))
    drill.transport = lambda inner: Broken(it, now=inner._now)  # type: ignore[attr-defined]
    drill.go()
    assert drill.reason is Reason.STOPPED
    assert drill.ledger.end is not None
    assert drill.ledger.end.stopped is not None
    assert "ZeroDivisionError" in drill.ledger.end.stopped.why
    assert outcomes(drill)["unknown"] == 1
    assert "internal error" in caplog.text
    drill.transport = None
    drill.go()
    assert drill.reason is Reason.OK


def test_progress_tells_how_it_stands(tmp_path: Path) -> None:
    """Done of total, the pace, what is in flight, and why it waits."""
    seen: list[Any] = []

    async def look(runner: Runner) -> None:
        await asyncio.sleep(5)
        seen.append(runner.progress())

    it = world({"instance": SICK, "action": "LockAccount", "code": "OperationDenied.InstanceStatusLimitOpError"})
    Drill(tmp_path, it, fleet(10, 40), during=look, deadline_s=30).go()
    (progress,) = seen
    assert progress.total == 400
    assert 60 <= progress.sent <= 100
    assert progress.verified <= progress.sent and progress.quota == 20
    assert 15 <= progress.rate <= 21
    assert progress.eta_s is not None
    assert any(SICK in wait for wait in progress.waits)


def test_nothing_is_said_to_be_tried_again_that_never_failed(tmp_path: Path) -> None:
    """Calls written ahead of their slot, and accounts being read, are no trouble; a call that backs off is."""
    seen: dict[str, list[int]] = {}

    def looking(name: str) -> Any:
        async def look(runner: Runner) -> None:
            while True:
                await asyncio.sleep(0.02)
                seen.setdefault(name, []).append(runner.progress().backing_off)

        return look

    faults = {"well": (), "failing": ({"action": "LockAccount", "code": "InternalError", "times_each": 1},)}
    for name, rules in faults.items():
        it = world(*rules)
        Drill(tmp_path / name, it, fleet(10, 4), during=looking(name)).go()
    assert set(seen["well"]) == {0}
    assert max(seen["failing"]) > 0


def test_a_verdict_is_written_with_every_reply(tmp_path: Path) -> None:
    """What each attempt meant stands in the journal, for all to see."""
    it = world({"action": "LockAccount", "code": "InternalError", "times": 1})
    drill = Drill(tmp_path, it, fleet(1, 1)).go()
    assert [reply.verdict for reply in lines(drill, records.ReplyLine)] == [Verdict.TRANSIENT, Verdict.DONE]
