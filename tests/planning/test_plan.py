"""From targets to calls: identity, what is left out and why, and the order of sending."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.inputs.job import Glob
from engine.model import Call, CallId, OmitReason, Place, Target, call_id
from engine.planning.plan import Plan, interleave, left_out, make_plan, plan_again, plan_digest

INSTANCES = ("postgres-4sfuv15b", "postgres-6fego161", "postgres-r95q23pn")
USERS = ("app_user", "report_ro", "breakglass_1", "root", "postgres", "pg_monitor", "App_User")
GLOBS = ("*/breakglass_*", "*/root", "postgres-6*/*", "*/APP_*", "postgres-4sfuv15b/*", "*/[ar]*", "*/?????", "*/*")

TARGETS = st.lists(
    st.builds(
        Target,
        instance=st.sampled_from(INSTANCES),
        user=st.sampled_from(USERS),
        region=st.sampled_from(("ap-singapore", "ap-tokyo")),
        account=st.sampled_from(("", "100000000001")),
        file=st.just("list.csv"),
        line=st.integers(1, 1000),
    ),
    max_size=60,
)
RULES = st.lists(
    # Not builds(Glob, …): hypothesis would ask for the types of its fields, which are named for type checkers only.
    st.tuples(st.sampled_from(GLOBS), st.integers(1, 99), st.booleans()).map(
        lambda parts: Glob(parts[0], Place("config.yaml", parts[1]), parts[2])
    ),
    max_size=3,
)


def target(user: str = "app_user", instance: str = INSTANCES[0], line: int = 0) -> Target:
    return Target(instance, user, "ap-singapore", "", "job.yaml", line)


def glob(pattern: str, *, fold: bool = False) -> Glob:
    return Glob(pattern, Place("config.yaml", 3, 5), fold)


def labels(calls: Iterable[Call]) -> list[str]:
    return [call.label for call in calls]


def reasons(plan: Plan) -> list[tuple[str, str]]:
    return [(omit.target.label, omit.reason) for omit in plan.omits]


# ---- identity ------------------------------------------------------------------------------------------------------


def test_a_call_id_is_the_documented_hash() -> None:
    """The first 16 hex digits of SHA-256(account LF region LF instance LF user LF action): anyone can recompute it."""
    text = b"100000000001\nap-singapore\npostgres-4sfuv15b\napp_user\nLockAccount"
    found = call_id("100000000001", "ap-singapore", "postgres-4sfuv15b", "app_user", "LockAccount")
    assert found == hashlib.sha256(text).hexdigest()[:16]
    # Written down, so that a change of the hash cannot hide behind the hash: old journals hold such ids.
    assert call_id("", "ap-singapore", "postgres-4sfuv15b", "app_user", "LockAccount") == "78acedc013958c95"


NAMES = st.text(st.characters(codec="ascii", exclude_characters="\n"), max_size=4)


@given(st.tuples(NAMES, NAMES, NAMES, NAMES, NAMES), st.tuples(NAMES, NAMES, NAMES, NAMES, NAMES))
def test_two_calls_share_an_id_only_if_they_are_the_same(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    """Fields cannot flow into each other: `a`+`bc` is not `ab`+`c`."""
    assert (call_id(*one) == call_id(*other)) == (one == other)


@given(TARGETS)
def test_identity_is_what_a_call_does_and_never_where_it_stands(targets: list[Target]) -> None:
    """A list in another order, or with other lines, gives the same ids: so a rerun finds what is settled."""
    ids = {call.id for call in make_plan("LockAccount", targets).calls}
    assert ids == {call.id for call in make_plan("LockAccount", targets[::-1]).calls}
    assert ids.isdisjoint(call.id for call in make_plan("UnlockAccount", targets).calls)


def test_a_digest_is_the_documented_hash_over_the_ids_in_order() -> None:
    """SHA-256 over the ids joined by LF, recomputed here from scratch."""
    plan = make_plan("LockAccount", [target(user, instance) for user in USERS[:3] for instance in INSTANCES])
    expected = hashlib.sha256("\n".join(call.id for call in plan.calls).encode()).hexdigest()
    assert plan.digest == plan_digest(plan.calls) == expected
    assert plan_digest(plan.calls[::-1]) != expected
    assert make_plan("LockAccount", []).digest == hashlib.sha256(b"").hexdigest()


# ---- what is left out ----------------------------------------------------------------------------------------------


@given(TARGETS, RULES, RULES)
def test_no_protected_target_is_ever_in_a_plan(targets: list[Target], protect: list[Glob], exclude: list[Glob]) -> None:
    """P2: whatever the list, the globs and their order, no call matches a protect rule or an exclude rule."""
    plan = make_plan("LockAccount", targets, protect=protect, exclude=exclude)
    for call in plan.calls:
        assert not any(rule.matches(call.instance, call.user) for rule in (*protect, *exclude))
        assert not call.user.lower().startswith("pg_")
        assert call.user.lower() != "postgres"


@given(TARGETS, RULES, RULES)
def test_every_target_is_a_call_or_left_out_once(
    targets: list[Target], protect: list[Glob], exclude: list[Glob]
) -> None:
    """Nothing is missed in silence: calls and omits together are the list, and each call stands once."""
    plan = make_plan("LockAccount", targets, protect=protect, exclude=exclude)
    assert len(plan.calls) + len(plan.omits) == len(targets)
    assert len({call.id for call in plan.calls}) == len(plan.calls)

    def identity(each: Call | Target) -> tuple[str, ...]:
        return (each.account, each.region, each.instance, each.user)

    assert {identity(each) for each in targets} == {
        identity(each) for each in (*plan.calls, *(omit.target for omit in plan.omits))
    }
    counts = plan.left_out()
    assert sum(counts.values()) == len(plan.omits)
    assert list(counts) == [str(reason) for reason in OmitReason]
    assert plan.instances == len({(call.account, call.region, call.instance) for call in plan.calls})


def test_precedence_of_reasons() -> None:
    """Duplicate, reserved, protected, excluded: a person reads the strongest reason that holds."""
    targets = [
        target("root", line=1),
        target("root", line=2),
        target("pg_root", line=3),
        target("etl", line=4),
        target("app_user", line=5),
    ]
    everything = [glob("*/*")]
    assert reasons(make_plan("LockAccount", targets, protect=[glob("*/*root")], exclude=everything)) == [
        ("postgres-4sfuv15b/root", "protected"),
        ("postgres-4sfuv15b/root", "duplicate"),
        ("postgres-4sfuv15b/pg_root", "reserved"),
        ("postgres-4sfuv15b/etl", "excluded"),
        ("postgres-4sfuv15b/app_user", "excluded"),
    ]


def test_an_omit_says_which_rule_and_where_it_stands() -> None:
    """A person can find the line that took a target out, and the line that named it first."""
    plan = make_plan(
        "LockAccount",
        [target("root", line=4), target("etl", line=5), target("etl", line=6), target("postgres", line=7)],
        protect=[glob("*/x"), glob("*/root")],
        exclude=[glob("*/nobody")],
    )
    assert [(omit.rule, omit.where) for omit in plan.omits] == [
        ("*/root", "config.yaml:3:5"),
        ("named first at job.yaml:5", "job.yaml:6"),
        ("postgres, pg_*, tencentdb_*", "the API's naming rule"),
    ]


def test_a_duplicate_needs_the_same_region_and_account() -> None:
    """The same names in another region or account are another target; the very same value twice is not."""
    base = target()
    others = [
        Target(base.instance, base.user, "ap-tokyo"),
        Target(base.instance, base.user, base.region, "100000000001"),
        base,
    ]
    plan = make_plan("LockAccount", [base, *others])
    assert len(plan.calls) == 3
    assert reasons(plan) == [("postgres-4sfuv15b/app_user", "duplicate")]


@pytest.mark.parametrize(
    ("user", "is_reserved"),
    [
        ("postgres", True),
        ("POSTGRES", True),
        ("postgres_app", False),
        ("mypostgres", False),
        ("pg_monitor", True),
        ("PG_x", True),
        ("pgbouncer", False),
        ("tencentdb_x", True),
        ("TencentDB_X", True),
        ("tencentdb", False),
        ("app_pg_x", False),
    ],
)
def test_reserved_names(user: str, is_reserved: bool) -> None:
    """postgres, pg_* and tencentdb_* in any case, and nothing that only looks like them (SEED-LOCK, D-CREATE)."""
    omit = left_out(target(user), protect=(), exclude=())
    assert (omit is not None) == is_reserved
    assert omit is None or omit.reason is OmitReason.RESERVED


def test_a_guard_may_ignore_case_and_an_exclusion_does_not() -> None:
    """A guard errs toward protecting; an exclusion takes out what was written."""
    targets = [target("Root"), target("root")]
    assert make_plan("LockAccount", targets, protect=[glob("*/root", fold=True)]).calls == ()
    assert labels(make_plan("LockAccount", targets, exclude=[glob("*/root")]).calls) == ["postgres-4sfuv15b/Root"]


# ---- order ---------------------------------------------------------------------------------------------------------


@given(TARGETS)
def test_the_order_is_a_fair_permutation(targets: list[Target]) -> None:
    """Nothing is lost or doubled, each instance keeps its own order, and no instance is two calls ahead of one that
    still has some."""
    calls = [
        Call(CallId(str(index)), "LockAccount", each.account, each.region, each.instance, each.user)
        for index, each in enumerate(targets)
    ]
    ordered = interleave(calls, key=lambda call: (call.instance,))
    assert sorted(ordered, key=lambda call: int(call.id)) == calls
    total: dict[str, int] = defaultdict(int)
    for call in calls:
        total[call.instance] += 1
    sent: dict[str, int] = dict.fromkeys(total, 0)
    last: dict[str, int] = dict.fromkeys(total, -1)
    for call in ordered:
        assert int(call.id) > last[call.instance]
        last[call.instance] = int(call.id)
        sent[call.instance] += 1
        unfinished = [sent[instance] for instance in total if sent[instance] < total[instance]]
        assert not unfinished or sent[call.instance] - min(unfinished) <= 1


def test_round_robin_in_order_of_first_appearance() -> None:
    """An example a person can follow."""
    a, b, c = INSTANCES
    targets = [target("u1", b), target("u2", b), target("u3", b), target("u1", a), target("u1", c), target("u2", c)]
    assert labels(make_plan("LockAccount", targets).calls) == [
        f"{b}/u1",
        f"{a}/u1",
        f"{c}/u1",
        f"{b}/u2",
        f"{c}/u2",
        f"{b}/u3",
    ]


def test_one_huge_instance_among_many_small_ones_does_not_cost_the_square() -> None:
    """A shape in which a naive round robin would look at every instance in each of 50,000 turns."""
    targets = [target(f"u{number}") for number in range(50_000)]
    targets += [target("u", f"postgres-{number:08x}") for number in range(50_000)]
    plan = make_plan("LockAccount", targets)
    assert len(plan.calls) == 100_000
    assert plan.instances == 50_001


# ---- again ---------------------------------------------------------------------------------------------------------


@given(TARGETS, RULES, RULES)
def test_planning_again_keeps_ids_and_order_under_todays_guards(
    targets: list[Target], protect: list[Glob], exclude: list[Glob]
) -> None:
    """A rerun or undo takes calls as the journal has them; what a guard forbids today is left out and named."""
    before = make_plan("LockAccount", targets)
    again = plan_again("LockAccount", before.calls, protect=protect, exclude=exclude)
    rules = (*protect, *exclude)
    assert again.calls == tuple(
        call for call in before.calls if not any(rule.matches(call.instance, call.user) for rule in rules)
    )
    assert len(again.calls) + len(again.omits) == len(before.calls)
    assert again.digest == plan_digest(again.calls)
    assert plan_again("LockAccount", before.calls) == Plan(
        action="LockAccount", calls=before.calls, omits=(), digest=before.digest
    )


def test_ids_of_a_journal_are_never_recomputed() -> None:
    """A journal of another version may have made its ids otherwise: they are replayed as they are."""
    call = Call(CallId("feedfacefeedface"), "LockAccount", "", "ap-singapore", INSTANCES[0], "app_user")
    assert plan_again("LockAccount", [call]).calls == (call,)
