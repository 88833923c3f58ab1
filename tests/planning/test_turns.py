"""`turns`: so many changes a run, and everybody gets a turn, Saturday by Saturday."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from engine.journal import records
from engine.journal.ledger import Ledger
from engine.model import AccountState, CallId, OmitReason, Outcome, Proof, Reading, Target
from engine.planning.outlook import Outlook, look_ahead
from engine.planning.plan import Plan, make_plan
from engine.planning.turns import line_after, take, takes_turns
from tests.support.journals import run_record

REGION = "ap-singapore"
WHERE = "job.yaml:4:16"
ACTION = "OpenAccountCAM"


def plan_of(users: Sequence[str]) -> Plan:
    targets = [Target(f"postgres-0000000{number % 3}", user, REGION) for number, user in enumerate(users)]
    return make_plan(ACTION, targets)


def seen(plan: Plan, done: set[str], absent: frozenset[str] = frozenset()) -> Outlook:
    """The plan with its accounts read: `done` have CAM on, `absent` are not there."""
    readings = {}
    for where in {call.where for call in plan.calls}:
        states = {
            call.user: AccountState(user=call.user, status=2, cam=call.user in done, user_type="normal")
            for call in plan.calls
            if call.where == where and call.user not in absent
        }
        readings[where] = Reading(accounts={**states, "dbadmin": ADMIN}, complete=True)
    return look_ahead(plan, readings)


ADMIN = AccountState(user="dbadmin", status=2, cam=True, user_type="tencentDBSuper")


def ledger(outlook: Outlook, outcomes: dict[str, Outcome]) -> Ledger:
    """The journal of a run of this plan; who is not in `outcomes` was never tried."""
    plan = outlook.plan
    run = run_record(len(plan.calls))
    run.action = plan.action
    lines: list[records.AnyRecord] = [run]
    lines += [
        records.CallLine(
            call=call.id, action=call.action, account="", region=REGION, instance=call.instance, user=call.user
        )
        for call in plan.calls
    ]
    lines += [
        records.OmitLine(
            account="",
            region=REGION,
            instance=omit.target.instance,
            user=omit.target.user,
            reason=str(omit.reason),
            rule=omit.rule,
            where=omit.where,
        )
        for omit in plan.omits
    ]
    settled = {"proof": Proof.READ, "attempts": 1, "request_id": None, "code": None, "message": None}
    lines += [
        records.Settled(call=call.id, outcome=outcomes[call.user], **settled)  # type: ignore[arg-type]
        for call in plan.calls
        if call.user in outcomes
    ]
    return Ledger.of(lines)


def users_of(outlook: Outlook) -> list[str]:
    return [call.user for call in outlook.plan.calls]


def test_so_many_changes_and_the_rest_later() -> None:
    """What is so already, or not there, does not count, and stays in the plan; the rest is named with its rule."""
    users = [f"u{number}" for number in range(8)]
    before = seen(plan_of(users), done={"u0", "u3"}, absent=frozenset({"u7"}))
    found = take(before, 2, WHERE)
    later = [omit for omit in found.plan.omits if omit.reason is OmitReason.LATER]
    assert len(users_of(found)) == 2 + 3 and {"u0", "u3", "u7"} <= set(users_of(found))
    assert len(later) == 3
    assert {(omit.rule, omit.where) for omit in later} == {("limits.take: 2", WHERE)}
    assert found.plan.left_out()["later"] == 3
    assert set(found.standings) == {call.id for call in found.plan.calls}
    assert found.plan.digest != before.plan.digest


def test_enough_for_all_changes_nothing() -> None:
    """The plan as it was, digest included."""
    outlook = seen(plan_of(["a", "b"]), done=set())
    assert take(outlook, 2, WHERE) is outlook


def test_the_line_after_a_run() -> None:
    """First who was taken and not tried, then who was left for later; who failed is behind them all."""
    users = [f"u{number}" for number in range(6)]
    first = take(seen(plan_of(users), set()), 3, WHERE)
    tried, failed, untried = users_of(first)
    journal = ledger(first, {tried: Outcome.CHANGED, failed: Outcome.FAILED})
    later = [omit.target.user for omit in first.plan.omits]
    labels = {call.id: call.user for call in plan_of(users).calls}
    assert [labels[call] for call in line_after(journal)] == [untried, *later]
    second = take(seen(plan_of(users), {tried}), 4, WHERE, line_after(journal))
    assert set(users_of(second)) == {tried, untried, *later}
    third = take(seen(plan_of(users), {tried}), 3, WHERE, line_after(journal))
    assert [omit.target.user for omit in third.plan.omits] == [later[-1], failed]


def test_who_can_be_divided_before_reading() -> None:
    """Only what never will be read: else what is done already would take the place of what is not."""
    assert takes_turns("RefreshAccountPassword", verify=True)
    assert takes_turns(ACTION, verify=False)
    assert not takes_turns(ACTION, verify=True)


@given(
    st.integers(1, 24),
    st.integers(1, 7),
    st.sets(st.integers(0, 23)),
    st.sets(st.integers(0, 23)),
)
def test_everybody_gets_a_turn(count: int, most: int, broken: set[int], overrun: set[int]) -> None:
    """Whatever fails for ever and whichever Saturday is cut short: never more than `take` changes, and each account is
    tried within as many full Saturdays as the fleet needs; those that can be done are done by then."""
    users = [f"u{number:02}" for number in range(count)]
    failing = {f"u{number:02}" for number in broken}
    done: set[str] = set()
    tried: set[str] = set()
    line: tuple[CallId, ...] = ()
    full = 0
    for saturday in range(60):
        if full >= ceil(count / most):
            break
        outlook = take(seen(plan_of(users), done), most, WHERE, line)
        todo = [user for user in users_of(outlook) if user not in done]
        assert len(todo) <= most
        is_cut = saturday in overrun
        reached = todo[: len(todo) // 2] if is_cut else todo
        full += not is_cut
        outcomes = {user: Outcome.FAILED if user in failing else Outcome.CHANGED for user in reached}
        outcomes |= {user: Outcome.ALREADY for user in users_of(outlook) if user in done}
        line = line_after(ledger(outlook, outcomes))
        tried |= set(reached)
        done |= {user for user in reached if user not in failing}
    assert tried == set(users)
    assert done == set(users) - failing
