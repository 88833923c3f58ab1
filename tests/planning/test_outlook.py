"""What readings say of a plan before anything is sent: standings, words, admins that stay, order, refusals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.api.actions import ACTIONS
from engine.api.codes import ALL_CODES
from engine.model import AccountState, Call, OmitReason, Reading, Target, Where
from engine.planning.admins import SUPERUSER, admin_omit, admins_to_keep, usable_admins
from engine.planning.outlook import (
    Outlook,
    Readings,
    Standing,
    before_line,
    look_ahead,
    no_account_words,
    no_instance_words,
    standing,
)
from engine.planning.plan import Plan, make_plan, plan_digest
from engine.planning.refusals import refusals

REGION = "ap-singapore"
ONE, TWO, THREE = "postgres-00000001", "postgres-00000002", "postgres-00000003"
LOCK, UNLOCK, CAM_ON, CAM_OFF, REFRESH = (
    ACTIONS[name]
    for name in ("LockAccount", "UnlockAccount", "OpenAccountCAM", "CloseAccountCAM", "RefreshAccountPassword")
)


def state(user: str, status: int = 2, *, cam: bool | None = False, admin: bool = False, **more: str) -> AccountState:
    return AccountState(user=user, status=status, cam=cam, user_type=SUPERUSER if admin else "normal", **more)


def reading(*states: AccountState, complete: bool = True) -> Reading:
    return Reading(accounts={each.user: each for each in states}, complete=complete)


def unread(code: str | None) -> Reading:
    return Reading(accounts=None, complete=False, code=code)


def plan(*labels: str, action: str = "LockAccount") -> Plan:
    return make_plan(action, [Target(*label.split("/"), REGION) for label in labels])


def call(label: str, action: str = "LockAccount") -> Call:
    (made,) = plan(label, action=action).calls
    return made


def look(plan_: Plan, readings: Mapping[str, Reading], **options: Any) -> Outlook:
    """With readings by instance, all of one region."""
    return look_ahead(plan_, {Where("", REGION, instance): found for instance, found in readings.items()}, **options)


def labels(calls: Iterable[Call]) -> list[str]:
    return [each.label for each in calls]


# ---- how an account stands -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "how"),
    [
        (None, Standing.UNREAD),
        (unread(None), Standing.UNREAD),
        (unread("UnauthorizedOperation"), Standing.UNREAD),
        (unread("Local.Timeout"), Standing.UNREAD),
        *((unread(code), Standing.NO_INSTANCE) for code, row in ALL_CODES.items() if row.no_instance),
        (reading(state("other")), Standing.NO_ACCOUNT),
        (reading(state("other"), complete=False), Standing.UNREAD),
        (reading(complete=False), Standing.UNREAD),
        (reading(state("app")), Standing.OPEN),
        (reading(state("app"), complete=False), Standing.OPEN),
        (reading(state("app", 5)), Standing.ALREADY),
        *((reading(state("app", status)), Standing.CHANGING) for status in (1, 3, 4, -1)),
        (reading(state("app", 0)), Standing.OPEN),
        (reading(state("app", 77)), Standing.OPEN),
    ],
)
def test_how_an_account_stands_before_a_lock(found: Reading | None, how: Standing) -> None:
    """Nothing is "already" or "not there" unless a whole reading says so."""
    assert standing(LOCK, found, "app") is how


@pytest.mark.parametrize(
    ("action", "account", "how"),
    [
        (UNLOCK, state("app", 2), Standing.ALREADY),
        (UNLOCK, state("app", 5), Standing.OPEN),
        (UNLOCK, state("app", 3), Standing.CHANGING),
        (CAM_ON, state("app", cam=True), Standing.ALREADY),
        (CAM_ON, state("app", cam=False), Standing.OPEN),
        (CAM_ON, state("app", cam=None), Standing.OPEN),
        (CAM_OFF, state("app", cam=False), Standing.ALREADY),
        (CAM_OFF, state("app", cam=True), Standing.OPEN),
        (REFRESH, state("app", cam=True), Standing.OPEN),
        (REFRESH, state("app", 4, cam=True), Standing.CHANGING),
    ],
)
def test_each_action_has_its_own_desired_state(action: Any, account: AccountState, how: Standing) -> None:
    """A password refresh has none that can be read: it is never already so."""
    assert standing(action, reading(account), "app") is how


# ---- what is recorded and said -------------------------------------------------------------------------------------


def test_the_line_before_has_what_undo_will_need() -> None:
    """State, type and both times, as read."""
    account = state("app", cam=True, admin=True, update_time="t1", password_update_time="t2")
    line = before_line(call(f"{ONE}/app"), reading(account))
    assert (line.status, line.cam, line.type) == (2, True, SUPERUSER)
    assert (line.update_time, line.password_update_time, line.why) == ("t1", "t2", None)
    bare = before_line(call(f"{ONE}/app"), reading(AccountState(user="app", status=2, cam=None)))
    assert (bare.type, bare.update_time, bare.password_update_time, bare.why) == (None, None, None, None)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "not read"),
        (unread("UnauthorizedOperation"), "not read: UnauthorizedOperation"),
        (reading(state("apq")), f"no account app on {ONE}; did you mean apq?"),
        (reading(state("zz")), f"no account app on {ONE}"),
        (reading(state("zz"), complete=False), "not among the 1 accounts that were listed, which are not all"),
    ],
)
def test_the_line_before_says_why_it_knows_nothing(found: Reading | None, why: str) -> None:
    """Nulls with a reason, never a guess."""
    line = before_line(call(f"{ONE}/app"), found)
    assert (line.status, line.cam, line.type, line.update_time, line.password_update_time) == (None,) * 5
    assert line.why == why


def test_the_nearest_name_is_offered_only_if_it_is_near() -> None:
    """A wrong guess at three in the morning is worse than none."""
    asked = call(f"{ONE}/biling_app")
    found = reading(state("billing_app"), state("billing_ro"), state("root"))
    assert no_account_words(asked, found) == f"no account biling_app on {ONE}; did you mean billing_app?"
    assert no_account_words(asked, reading(state("root"))) == f"no account biling_app on {ONE}"
    assert no_account_words(asked, unread("X")) == f"no account biling_app on {ONE}"


def test_where_an_instance_is() -> None:
    """The region if it was found, and that it was looked for if not."""
    asked = call(f"{ONE}/app")
    assert no_instance_words(asked, "ap-tokyo") == f"no instance {ONE} in {REGION}: found in ap-tokyo"
    assert no_instance_words(asked, None) == f"no instance {ONE} in {REGION}, nor seen in any other region"


# ---- admins that stay ----------------------------------------------------------------------------------------------


ADMINS = {user: state(user, admin=True) for user in ("a", "b", "c")} | {"app": state("app")}


@pytest.mark.parametrize(
    ("users", "keep", "kept"),
    [
        (["a", "b", "c"], 0, ""),
        (["a", "b", "c"], 1, "c"),
        (["a", "b", "c"], 2, "bc"),
        (["a", "b", "c"], 3, "abc"),
        (["a", "b", "c"], 9, "abc"),
        (["c", "b", "a"], 1, "a"),
        (["a", "b"], 1, ""),
        (["a", "b"], 2, "b"),
        (["a"], 2, ""),
        (["a"], 3, "a"),
        (["a", "a", "b", "b"], 2, "b"),
        (["app", "nobody"], 3, ""),
        (["app", "a", "b", "c"], 1, "c"),
        ([], 1, ""),
        (["a", "b", "c"], -1, ""),
    ],
)
def test_those_named_first_go_first(users: list[str], keep: int, kept: str) -> None:
    """Only usable superusers count, only they are kept, and one that nobody wants to lock is a keeper too."""
    assert admins_to_keep("LockAccount", ADMINS, users, keep) == set(kept)


@pytest.mark.parametrize("action", [name for name in ACTIONS if name != "LockAccount"])
def test_only_a_lock_takes_admins_away(action: str) -> None:
    """CAM and passwords leave the account usable."""
    assert admins_to_keep(action, ADMINS, ["a", "b", "c"], 3) == set()


def test_an_admin_that_cannot_log_in_is_no_admin() -> None:
    """Locked, changing or deleting: whoever counts on it is locked out."""
    accounts = {str(status): state(str(status), status, admin=True) for status in (1, 2, 3, 4, 5, -1, 0)}
    assert usable_admins(accounts) == ["2"]
    assert admins_to_keep("LockAccount", accounts, list(accounts), 1) == {"2"}


@settings(deadline=None)
@given(
    admins=st.lists(st.tuples(st.booleans(), st.sampled_from([1, 2, 2, 2, 3, 5, -1])), max_size=6),
    users=st.lists(st.integers(0, 7), max_size=12),
    keep=st.integers(0, 4),
)
def test_enough_admins_are_left_or_none_is_taken(admins: list[tuple[bool, int]], users: list[int], keep: int) -> None:
    """As many usable superusers stay as must, or as there were; and no more are kept than need be."""
    accounts = {f"u{n}": state(f"u{n}", status, admin=is_admin) for n, (is_admin, status) in enumerate(admins)}
    named = [f"u{number}" for number in users]
    kept = admins_to_keep("LockAccount", accounts, named, keep)
    usable = set(usable_admins(accounts))
    left = usable - (set(named) - kept)
    assert kept <= usable & set(named)
    assert len(left) >= min(keep, len(usable))
    assert not kept or len(left) <= keep


# ---- a plan in the light of readings -------------------------------------------------------------------------------


def test_without_readings_a_plan_stays_as_it_is() -> None:
    """`--offline`: nothing is known, nothing is claimed."""
    made = plan(f"{ONE}/a", f"{ONE}/b", f"{TWO}/a")
    seen = look(made, {}, keep_admins=1)
    assert seen.plan == made
    assert set(seen.standings.values()) == {Standing.UNREAD}
    assert (seen.accounts_read, seen.last_admins, seen.unread, seen.denied) == (0, (), (ONE, TWO), False)
    assert {kind: count for kind, count in seen.counts().items() if count} == {"unread": 3}


def test_an_empty_plan_is_no_trouble() -> None:
    """Everything was left out."""
    seen = look(plan(), {})
    assert (seen.plan.calls, seen.denied, seen.unread) == ((), False, ())


def test_each_call_is_counted_by_how_it_stands() -> None:
    """The lines of a plan: to change, already, not there, unread."""
    made = plan(f"{ONE}/a", f"{ONE}/b", f"{ONE}/c", f"{ONE}/d", f"{TWO}/a", f"{THREE}/a")
    found = {ONE: reading(state("a"), state("b", 5), state("c", 3)), TWO: unread("InstanceNotExist")}
    seen = look(made, found)
    assert seen.counts() == {**dict.fromkeys(Standing, 1), "cam_on": 0}
    assert (seen.accounts_read, seen.unread) == (3, (THREE,))


def test_superusers_come_first_then_as_listed_over_all_instances_and_the_unread_last() -> None:
    """What contains soonest: the accounts that can undo the lockdown, on all instances at once."""
    made = plan(f"{ONE}/app", f"{ONE}/etl", f"{ONE}/dba", f"{TWO}/app", f"{TWO}/dba", f"{THREE}/dba", f"{THREE}/x")
    found = {
        ONE: reading(state("app"), state("etl"), state("dba", admin=True)),
        TWO: reading(state("app"), state("dba", admin=True)),
    }
    assert labels(look(made, found).plan.calls) == [
        f"{TWO}/dba",  # its second account, as it was spread over the instances; ONE's is the third
        f"{ONE}/dba",
        f"{ONE}/app",
        f"{TWO}/app",
        f"{ONE}/etl",
        f"{THREE}/dba",
        f"{THREE}/x",
    ]
    assert look(made, found, listed_order=True).plan == made


def test_the_digest_is_of_the_order_in_which_it_is_sent() -> None:
    """A reviewed plan is that list in that order."""
    made = plan(f"{ONE}/app", f"{ONE}/dba")
    seen = look(made, {ONE: reading(state("app"), state("dba", admin=True))})
    assert labels(seen.plan.calls) == [f"{ONE}/dba", f"{ONE}/app"]
    assert seen.plan.digest == plan_digest(seen.plan.calls) != made.digest


def test_what_is_already_so_and_sent_again_is_sent_last() -> None:
    """It is contained as far as anybody can see: the open ones first, the unread before it."""
    made = plan(f"{ONE}/done", f"{ONE}/dba", f"{ONE}/app", f"{TWO}/x")
    found = {ONE: reading(state("done", 5), state("dba", 5, admin=True), state("app"))}
    assert labels(look(made, found, resend_already=True).plan.calls) == [
        f"{ONE}/app",
        f"{TWO}/x",
        f"{ONE}/done",
        f"{ONE}/dba",
    ]
    assert labels(look(made, found).plan.calls) == [f"{ONE}/dba", f"{ONE}/done", f"{ONE}/app", f"{TWO}/x"]


def test_admins_that_stay_are_named_with_their_rule() -> None:
    """Left out as protected, so that the closing line says "protected, NOT locked"."""
    made = plan(f"{ONE}/a", f"{ONE}/b", f"{ONE}/app", f"{TWO}/a", f"{THREE}/a")
    both = reading(state("a", admin=True), state("b", admin=True), state("app"))
    seen = look(made, {ONE: both, TWO: reading(state("a", admin=True))}, keep_admins=1)
    assert sorted(labels(seen.plan.calls)) == [f"{ONE}/a", f"{ONE}/app", f"{THREE}/a"]
    assert [omit.target.label for omit in seen.plan.omits] == [f"{ONE}/b", f"{TWO}/a"]
    assert {(omit.reason, omit.rule) for omit in seen.plan.omits} == {(OmitReason.PROTECTED, "keep_admins: 1")}
    assert set(seen.standings) == {each.id for each in seen.plan.calls}
    assert seen.last_admins == ()


def test_earlier_omits_stay_in_front() -> None:
    """What the globs left out is still named."""
    made = make_plan("LockAccount", [Target(ONE, "a", REGION), Target(ONE, "a", REGION)])
    seen = look(made, {ONE: reading(state("a", admin=True))}, keep_admins=1)
    assert [omit.reason for omit in seen.plan.omits] == [OmitReason.DUPLICATE, OmitReason.PROTECTED]
    omit = admin_omit(call(f"{ONE}/a"), 2)
    assert (omit.target.label, omit.rule, omit.where) == (f"{ONE}/a", "keep_admins: 2", "the last usable superusers")


@pytest.mark.parametrize(
    ("named", "accounts", "is_last"),
    [
        ("a", [state("a", admin=True)], True),
        ("ab", [state("a", admin=True), state("b", admin=True)], True),
        ("a", [state("a", admin=True), state("b", admin=True)], False),
        ("a", [state("a", admin=True), state("b", 5, admin=True)], True),
        ("a", [state("a", 5, admin=True)], False),
        ("a", [state("a")], False),
        ("ax", [state("a"), state("x")], False),
    ],
)
def test_locking_the_last_superuser_is_told(named: str, accounts: list[AccountState], is_last: bool) -> None:
    """Off by default, but never in silence; where there was no usable one before, none is taken."""
    made = plan(*(f"{ONE}/{user}" for user in named))
    assert look(made, {ONE: reading(*accounts)}).last_admins == ((ONE,) if is_last else ())
    unlock = plan(*(f"{ONE}/{user}" for user in named), action="UnlockAccount")
    assert look(unlock, {ONE: reading(*accounts)}).last_admins == ()


@pytest.mark.parametrize(
    ("readings", "denied", "names"),
    [
        ({ONE: unread("UnauthorizedOperation"), TWO: unread("AuthFailure.UnauthorizedOperation")}, True, (ONE, TWO)),
        ({ONE: unread("UnauthorizedOperation"), TWO: unread("Local.Timeout")}, False, (ONE, TWO)),
        ({ONE: unread("UnauthorizedOperation")}, False, (ONE, TWO)),
        ({ONE: unread("UnauthorizedOperation"), TWO: reading(state("a"))}, False, (ONE,)),
        ({ONE: unread("UnauthorizedOperation"), TWO: unread("InstanceNotExist")}, False, (ONE,)),
        ({ONE: reading(state("a")), TWO: reading(state("a"))}, False, ()),
    ],
)
def test_denied_is_when_not_one_instance_may_be_read(
    readings: dict[str, Reading], denied: bool, names: tuple[str, ...]
) -> None:
    """Then a person is asked; one that is unread for any other reason is only named."""
    seen = look(plan(f"{ONE}/a", f"{TWO}/a"), readings)
    assert (seen.denied, seen.unread) == (denied, names)


@pytest.mark.parametrize("code", sorted(code for code, row in ALL_CODES.items() if row.is_denial))
def test_every_code_of_a_missing_permission_denies(code: str) -> None:
    """Each of them is of the identity, not of the instance's health."""
    assert look(plan(f"{ONE}/a"), {ONE: unread(code)}).denied


# ---- guards on size ------------------------------------------------------------------------------------------------


def sized(calls: int, accounts: int) -> Outlook:
    """A plan of so many calls, of so many accounts read."""
    made = plan(*(f"{ONE}/u{number}" for number in range(calls)))
    return look(made, {ONE: reading(*(state(f"u{number}") for number in range(accounts)))} if accounts else {})


@pytest.mark.parametrize(
    ("calls", "accounts", "limits", "why"),
    [
        (3, 10, {}, []),
        (3, 10, {"max_targets": 3, "max_share": 0.3, "expect": 3}, []),
        (4, 10, {"max_targets": 3}, ["limits.max_targets 3: the plan has 4 calls"]),
        (4, 10, {"expect": 3}, ["--expect 3: the plan has 4 calls"]),
        (2, 10, {"expect": 3}, ["--expect 3: the plan has 2 calls"]),
        (
            1,
            10,
            {"max_targets": 0, "expect": 0},
            ["--expect 0: the plan has 1 calls", "limits.max_targets 0: the plan has 1 calls"],
        ),
        (4, 10, {"max_share": 0.3}, ["limits.max_share 30%: 4 of the 10 accounts read are 40.0%"]),
        (29, 100, {"max_share": 0.29}, []),
        (30, 100, {"max_share": 0.29}, ["limits.max_share 29%: 30 of the 100 accounts read are 30.0%"]),
        (10, 10, {"max_share": 1.0}, []),
        (1, 0, {"max_share": 1.0}, ["limits.max_share 100%: no account could be read to compare with"]),
        (2000, 2000, {"max_targets": 1500}, ["limits.max_targets 1,500: the plan has 2,000 calls"]),
    ],
)
def test_a_guard_on_size_refuses_what_is_beyond_it(
    calls: int, accounts: int, limits: dict[str, Any], why: list[str]
) -> None:
    """At the limit is within it; several guards all speak, in words an operator can act on."""
    assert refusals(sized(calls, accounts), **limits) == why


def test_readings_of_instances_count_every_account_not_only_those_of_the_plan() -> None:
    """The share is of the fleet's accounts read."""
    found: Readings = {
        Where("", REGION, ONE): reading(*(state(f"u{n}") for n in range(70))),
        Where("", REGION, TWO): unread("X"),
    }
    seen = look_ahead(plan(f"{ONE}/u0", f"{TWO}/u0"), found)
    assert seen.accounts_read == 70
    assert refusals(seen, max_share=0.02) == ["limits.max_share 2%: 2 of the 70 accounts read are 2.9%"]
