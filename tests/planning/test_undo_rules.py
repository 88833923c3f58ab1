"""What of a run can be undone, who holds what, what came back: the rules, on ledgers made by hand."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.api.actions import ACTIONS
from engine.journal import records
from engine.journal.ledger import Ledger
from engine.model import AccountState, Call, CallId, Outcome, Proof, Reading, Verdict, Where, call_id
from engine.planning.holds import Holds, Key, label_of, part_of
from engine.planning.undo import Choice, Keep, UndoPlan, found_so_late, merged, recheck, undo_plan
from tests.support.drill import run_settings
from tests.support.holds import owing
from tests.support.journals import before, plan, reply, sent, settled

REGION, INSTANCE = "ap-singapore", "postgres-00000001"
LOCK, UNLOCK = "LockAccount", "UnlockAccount"
CHANGED, ALREADY, FAILED, UNKNOWN, UNATTEMPTED = (
    Outcome.CHANGED,
    Outcome.ALREADY,
    Outcome.FAILED,
    Outcome.UNKNOWN,
    Outcome.UNATTEMPTED,
)
T0, T1, T2, T3 = (f"2026-01-0{day} 00:00:00" for day in (1, 2, 3, 4))
NEVER = "0000-00-00 00:00:00"
LANE = "test/LockAccount/127.0.0.1"


def parent(run: str, verb: str) -> records.Parent:
    return records.Parent(run, verb, "")


def place(user: str) -> tuple[str, str]:
    """`user`, or `user@instance`."""
    name, _, instance = user.partition("@")
    return name, instance or INSTANCE


def identity(user: str, action: str = LOCK) -> CallId:
    name, instance = place(user)
    return call_id("", REGION, instance, name, action)


def key(user: str) -> Key:
    name, instance = place(user)
    return Key(("", REGION, instance, name))


def began(
    run: str, action: str = LOCK, *, of: records.Parent | None = None, ticket: str | None = None, at: str = ""
) -> records.Run:
    return records.Run(
        job=records.JobRef("j", "p", "d"),
        action=action,
        reason=None,
        ticket=ticket,
        operator="o",
        host="h",
        pid=1,
        version="0",
        identity="i",
        simulated=False,
        parent=of,
        settings=run_settings(),
        plan_digest="",
        counts={},
        run=run,
        at=at,
    )


def ledger_of(run: str, outcomes: Mapping[str, Outcome], action: str = LOCK, **more: Any) -> Ledger:
    """A run with these outcomes by user; what changed was read before (open), and verified at T1."""
    ledger = Ledger.of([began(run, action, **more)])
    for user, outcome in outcomes.items():
        name, instance = place(user)
        call = identity(user, action)
        ledger.apply(
            records.CallLine(call=call, action=action, account="", region=REGION, instance=instance, user=name)
        )
        if outcome is not UNATTEMPTED:
            for line in story(call, outcome, action):
                ledger.apply(line)
    return ledger


def story(call: CallId, outcome: Outcome, action: str = LOCK) -> list[records.AnyRecord]:
    is_open = {"status": 2, "cam": False} if action in (LOCK, "OpenAccountCAM") else {"status": 5, "cam": True}
    lines: list[records.AnyRecord] = [
        records.Before(call=call, **is_open, type="normal", update_time=T0, password_update_time=NEVER, why=None)
    ]
    if outcome is CHANGED:
        lines.append(records.Verified(call=call, status=5, cam=False, update_time=T1, agrees=True))
    lines.append(
        records.Settled(call=call, outcome=outcome, proof=Proof.READ, attempts=1, request_id=f"r-{call}", code=None)
    )
    return lines


def locked(user: str = "a", **changes: Any) -> AccountState:
    """As the run left it."""
    fields = {"status": 5, "cam": False, "update_time": T1, "password_update_time": NEVER}
    return AccountState(user=place(user)[0], **(fields | changes))


def read(*states: AccountState) -> dict[tuple[str, str], Reading]:
    return {Where("", REGION, INSTANCE): Reading(accounts={state.user: state for state in states})}


def among(*ledgers: Ledger, action: str = LOCK) -> Holds:
    """Who holds what, by these runs."""
    return Holds(action, map(part_of, ledgers))


def undo(ledger: Ledger, *states: AccountState, others: Sequence[Ledger] = (), **choice: Any) -> UndoPlan:
    return undo_plan(ledger, read(*states), owing(ledger, others), Choice(**choice))


def undone(of: str, *ledgers: Ledger) -> set[Key]:
    return among(*ledgers).undone_keys(of)


def taken(plan: UndoPlan) -> list[str]:
    return [call.user for call in plan.plan.calls]


def why(plan: UndoPlan) -> dict[str, Keep]:
    return {kept.call.user: kept.why for kept in plan.kept}


SAME_PASSWORD = Keep.NOT_ROTATED, "has the password it was locked with"

# ---- what is undone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reading", "why"),
    [
        (None, Keep.UNREAD),
        (Reading(accounts=None, code="InternalError"), Keep.UNREAD),
        (Reading(accounts=None, code="AuthFailure.UnauthorizedOperation"), Keep.UNREAD),
        (Reading(accounts=None, code="ResourceNotFound.InstanceNotFoundError"), Keep.GONE),
        (Reading(accounts={}), Keep.GONE),
        (Reading(accounts={}, complete=False), Keep.UNREAD),
    ],
)
def test_what_cannot_be_read_is_not_taken_for_gone(reading: Reading | None, why: Keep) -> None:
    """Gone is done with; unread may still be locked, and whoever undoes must hear of it."""
    readings = {Where("", REGION, INSTANCE): reading} if reading is not None else {}
    one = ledger_of("one", {"a": CHANGED})
    plan = undo_plan(one, readings, owing(one), Choice())
    assert [(kept.call.user, kept.why) for kept in plan.kept] == [("a", why)]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_what_the_run_changed_is_undone(outcome: Outcome) -> None:
    """However the account stands now: what was locked before the run was locked for a reason of its own."""
    plan = undo(ledger_of("one", {"a": outcome}), locked())
    assert taken(plan) == (["a"] if outcome is CHANGED else [])
    if outcome is not CHANGED:
        (kept,) = plan.kept
        found_so = "the run found it so, and no run here has changed it"
        words = found_so if outcome is ALREADY else f"the run left it {outcome}"
        assert (kept.why, kept.words) == (Keep.NOT_CHANGED, words)


@pytest.mark.parametrize(
    ("state", "choice", "words"),
    [
        (locked(), {}, None),
        (None, {}, (Keep.GONE, "not found now")),
        (locked(status=2), {}, (Keep.CHANGED_SINCE, "no longer locked: changed since by somebody else, or undone")),
        (locked(status=3), {}, (Keep.CHANGED_SINCE, "no longer locked: changed since by somebody else, or undone")),
        (
            locked(update_time=T2),
            {},
            (Keep.EDITED, f"changed since, at {T2}, but not its password; --include-edited takes it"),
        ),
        (locked(update_time=T2), {"include_edited": True}, None),
        (locked(update_time=T0), {}, None),
        (locked(update_time=""), {}, None),
        # rotated: the password is newer than the run
        (locked(update_time=T2, password_update_time=T2), {}, None),
        (locked(update_time=T3, password_update_time=T2), {}, None),
        (locked(update_time=T2, password_update_time=T2), {"rotated_only": True}, None),
        (locked(), {"rotated_only": True}, SAME_PASSWORD),
        (locked(password_update_time=""), {"rotated_only": True}, SAME_PASSWORD),
        # between `before` and the lock: it was locked with that password
        (locked(password_update_time=T0), {"rotated_only": True}, SAME_PASSWORD),
        (locked(update_time=T2), {"rotated_only": True, "include_edited": True}, SAME_PASSWORD),
        (locked(), {"wanted": lambda call: call.user == "b"}, (Keep.NOT_ASKED, "left out by --target or --exclude")),
        (locked(), {"wanted": lambda call: call.user == "a"}, None),
    ],
)  # fmt: skip
def test_undo_takes_an_account_only_as_the_run_left_it(
    state: AccountState | None, choice: dict[str, Any], words: tuple[Keep, str] | None
) -> None:
    """Issue 3 §4, one line each: what stays is named with its reason."""
    plan = undo(ledger_of("one", {"a": CHANGED}), *([state] if state is not None else []), **choice)
    assert [(kept.why, kept.words) for kept in plan.kept] == ([words] if words is not None else [])
    assert taken(plan) == ([] if words is not None else ["a"])


def test_an_instance_that_was_not_read_keeps_its_accounts() -> None:
    """Nothing is undone blindly."""
    ledger = ledger_of("one", {"a": CHANGED})
    for readings in ({}, {Where("", REGION, INSTANCE): Reading(accounts=None, complete=False, code="Local.Timeout")}):
        (kept,) = undo_plan(ledger, readings, owing(ledger), Choice()).kept
        assert kept.why is Keep.UNREAD


def test_the_first_reason_is_the_one_that_is_told() -> None:
    """Not asked for: then nothing else about it matters. Held comes next: how it stands is then another run's."""
    others = [ledger_of("two", {"a": ALREADY})]
    ledger = ledger_of("one", {"a": CHANGED})
    assert why(undo(ledger, others=others, wanted=lambda _call: False)) == {"a": Keep.NOT_ASKED}
    assert why(undo(ledger, locked(status=2, update_time=T3), others=others)) == {"a": Keep.HELD}
    assert why(undo(ledger, locked(status=2, update_time=T3))) == {"a": Keep.CHANGED_SINCE}
    assert why(undo(ledger, locked(update_time=T3), rotated_only=True)) == {"a": Keep.NOT_ROTATED}
    assert why(undo(ledger, locked(update_time=T3))) == {"a": Keep.EDITED}


@pytest.mark.parametrize(("ticket", "words"), [("INC-9", "held by two (INC-9)"), (None, "held by two")])
def test_a_held_account_names_the_run_that_holds_it(ticket: str | None, words: str) -> None:
    """With its ticket, so that somebody can be asked."""
    (kept,) = undo(
        ledger_of("one", {"a": CHANGED}), locked(), others=[ledger_of("two", {"a": ALREADY}, ticket=ticket)]
    ).kept
    assert kept.words == words


@pytest.mark.parametrize("status", [None, "no line"])
def test_without_a_before_only_a_list_undoes(status: str | None) -> None:
    """Nobody knows what the run changed: only a person who names the account can."""
    ledger = ledger_of("one", {"a": CHANGED})
    entry = ledger.entry(identity("a"))
    if status is None:
        entry.before = records.Before(
            call=identity("a"),
            status=None,
            cam=None,
            type=None,
            update_time=None,
            password_update_time=None,
            why="not read",
        )
    else:
        entry.before = None
    (kept,) = undo(ledger, locked()).kept
    assert kept.why is Keep.BEFORE_UNKNOWN
    assert "name it with --target" in kept.words
    assert taken(undo(ledger, locked(), by_list=True)) == ["a"]
    # and what was rotated is then what has any password time after the proof
    assert taken(undo(ledger, locked(password_update_time=T2), by_list=True, rotated_only=True)) == ["a"]
    assert taken(undo(ledger, locked(password_update_time=T0), by_list=True, rotated_only=True)) == []


def test_without_a_reading_after_the_change_nothing_is_taken_for_edited() -> None:
    """There is no time to compare with; the state is."""
    ledger = ledger_of("one", {"a": CHANGED})
    ledger.entry(identity("a")).verified = None
    assert taken(undo(ledger, locked(update_time=T3))) == ["a"]
    assert taken(undo(ledger, locked(update_time=T3, password_update_time=T3), rotated_only=True)) == ["a"]
    verified = records.Verified(call=identity("a"), status=5, cam=False, update_time=None, agrees=True)
    ledger.entry(identity("a")).verified = verified
    assert taken(undo(ledger, locked(update_time=T3))) == ["a"]


def test_the_inverse_calls_are_spread_over_the_instances_and_digested() -> None:
    """A plan as any other: interleaved, each call with the identity of its own action."""
    ledger = ledger_of("one", dict.fromkeys(("a", "b", "a@postgres-00000002", "c@postgres-00000002"), CHANGED))
    readings: dict[tuple[str, str], Reading] = {}
    for instance, users in ((INSTANCE, "ab"), ("postgres-00000002", "ac")):
        readings[Where("", REGION, instance)] = Reading(accounts={user: locked(user) for user in users})
    plan = undo_plan(ledger, readings, owing(ledger), Choice()).plan
    assert [call.label for call in plan.calls] == [
        f"{INSTANCE}/a",
        "postgres-00000002/a",
        f"{INSTANCE}/b",
        "postgres-00000002/c",
    ]
    assert {call.action for call in plan.calls} == {plan.action} == {UNLOCK}
    assert next(call.id for call in plan.calls) == identity("a", UNLOCK)
    assert len(plan.digest) == 64


@pytest.mark.parametrize(
    ("action", "inverse", "left"),
    [
        (LOCK, UNLOCK, {"status": 5}),
        (UNLOCK, LOCK, {"status": 2}),
        ("OpenAccountCAM", "CloseAccountCAM", {"cam": True}),
        ("CloseAccountCAM", "OpenAccountCAM", {"cam": False}),
    ],
)
def test_each_action_is_undone_by_its_inverse(action: str, inverse: str, left: dict[str, Any]) -> None:
    """Undoing an undo is the same rule."""
    assert ACTIONS[action].inverse == inverse
    plan = undo(ledger_of("one", {"a": CHANGED}, action), locked(**left))
    assert [(call.user, call.action) for call in plan.plan.calls] == [("a", inverse)]


def test_what_stays_is_counted_by_reason_every_reason_named() -> None:
    """The preview's lines, and the document of an undo that found nothing."""
    users = {"a": CHANGED, "b": CHANGED, "c": ALREADY, "d": FAILED}
    plan = undo(ledger_of("one", users), locked("a"), locked("b", status=2))
    assert plan.counts() == {str(each): {"not_changed": 2, "changed_since": 1}.get(each, 0) for each in Keep}


def test_the_preview_counts_those_with_the_password_they_were_locked_with() -> None:
    """Unlocking a leaked password is what the operator must not do by oversight."""
    ledger = ledger_of("one", dict.fromkeys("abcd", CHANGED))
    states = [locked("a"), locked("b", update_time=T2, password_update_time=T2), locked("c"), locked("d", status=2)]
    plan = undo(ledger, *states)
    assert (taken(plan), plan.same_password) == (["a", "b", "c"], 2)
    assert undo(ledger, *states, rotated_only=True).same_password == 0


# ---- who holds what ------------------------------------------------------------------------------------------------


def holders(ledger: Ledger, others: Sequence[Ledger], ignored: Sequence[str] = ()) -> dict[str, str]:
    """Which user other runs hold."""
    owed = owing(ledger, others, ignored)
    found = {call.user: owed.bar(call) for call in ledger.calls.values()}
    return {user: bar.words.removeprefix("held by ") for user, bar in found.items() if bar is not None}


ONE = {"a": CHANGED, "b": CHANGED, "c": CHANGED, "d": CHANGED, "e": CHANGED}


@pytest.mark.parametrize(
    ("outcome", "holds"), [(CHANGED, True), (ALREADY, True), (FAILED, False), (UNKNOWN, True), (UNATTEMPTED, False)]
)
def test_a_run_holds_what_it_changed_or_found_so(outcome: Outcome, holds: bool) -> None:
    """What the other incident wants locked stays locked, whoever did it; so does what it may have locked."""
    assert (holders(ledger_of("one", ONE), [ledger_of("two", {"a": outcome})]) == {"a": "two"}) is holds


def test_a_run_of_another_action_holds_nothing() -> None:
    """An unlock wants nothing locked."""
    assert not holders(ledger_of("one", ONE), [ledger_of("two", {"a": CHANGED}, UNLOCK)])
    assert not holders(ledger_of("one", ONE), [ledger_of("two", {"a": CHANGED}, "OpenAccountCAM")])


def test_the_same_name_elsewhere_is_another_account() -> None:
    """Identity is account, region, instance, user and action."""
    assert not holders(ledger_of("one", ONE), [ledger_of("two", {"f": CHANGED})]).keys() & ONE.keys()
    assert not holders(ledger_of("one", ONE), [ledger_of("two", {"a@postgres-00000002": CHANGED})])


def test_of_several_each_is_named() -> None:
    """All of them are asked, the oldest first."""
    others = [ledger_of("three", {"a": CHANGED}, at="2"), ledger_of("2two", {"a": ALREADY}, ticket="INC-2", at="1")]
    assert holders(ledger_of("one", ONE), others) == {"a": "2two (INC-2) and three"}
    assert holders(ledger_of("one", ONE), others, ["2two"]) == {"a": "three"}
    assert holders(ledger_of("one", ONE), others, ["2two", "three"]) == {}


def test_reruns_are_one_incident_near_and_far() -> None:
    """A rerun of a rerun, and the run that it all began with, hold nothing against each other."""
    family = [
        ledger_of("one", {"a": CHANGED, "b": FAILED}),
        ledger_of("again", {"b": CHANGED}, of=parent("one", "rerun")),
        ledger_of("third", {"a": ALREADY, "b": ALREADY}, of=parent("again", "rerun")),
        ledger_of("cousin", {"a": ALREADY}, of=parent("one", "rerun")),
    ]
    for each in family:
        assert not holders(each, [other for other in family if other is not each])
    stranger = ledger_of("other", {"a": CHANGED})
    for each in (family[0], *family[2:]):
        assert holders(each, [stranger, *(other for other in family if other is not each)]) == {"a": "other"}


def test_a_family_with_a_journal_missing_is_smaller() -> None:
    """The link goes by the run that names its parent; one between that was deleted breaks it, toward holding."""
    one = ledger_of("one", {"a": CHANGED})
    third = ledger_of("third", {"a": ALREADY}, of=parent("again", "rerun"))
    assert holders(one, [third]) == {"a": "third"}


def test_an_undo_holds_nothing() -> None:
    """It ends holds, and makes none: the unlock of another incident can be taken back."""
    back = ledger_of("undo", {"a": CHANGED}, UNLOCK, of=parent("one", "undo"))
    by_hand = ledger_of("two", {"a": CHANGED}, UNLOCK)
    assert not holders(by_hand, [back, ledger_of("one", ONE)])
    assert among(back, ledger_of("one", ONE), action=UNLOCK).families == ()


def test_a_hold_ends_with_the_undo_of_the_run_that_held() -> None:
    """For what that undo brought back, or found so; the rest is held on. Undone itself, it holds again."""
    two = ledger_of("two", dict.fromkeys("abcd", CHANGED), ticket="T")
    back = ledger_of("undo", {"a": CHANGED, "b": ALREADY, "c": FAILED}, UNLOCK, of=parent("two", "undo"))
    redone = ledger_of("zredo", {"a": CHANGED}, LOCK, of=parent("undo", "undo"))
    one = ledger_of("one", ONE)
    assert holders(one, [two]) == dict.fromkeys("abcd", "two (T)")
    assert holders(one, [two, back]) == dict.fromkeys("cd", "two (T)")
    assert holders(one, [two, back, redone])["a"] == "two (T)"
    assert undone("two", two, back) == {key("a"), key("b")}
    assert undone("two", two, back, redone) == {key("b")}
    assert undone("two", two, ledger_of("r", {}, of=parent("two", "rerun"))) == set()


def test_the_undo_of_a_whole_family_ends_the_holds_of_all_of_it() -> None:
    """`undo --family` of a rerun brings back what the first run had changed, too: that one holds it no longer."""
    two = ledger_of("two", {"a": CHANGED, "b": FAILED, "c": CHANGED})
    again = ledger_of("two-again", {"b": CHANGED}, of=parent("two", "rerun"))
    back = ledger_of("undo", {"a": CHANGED, "b": CHANGED}, UNLOCK, of=parent("two-again", "undo"))
    assert holders(ledger_of("one", ONE), [two, again, back]) == {"c": "two"}


def test_an_account_that_another_incident_locked_and_gave_back_is_opened_by_the_last_holder() -> None:
    """Two incidents hold it, one has locked it: whoever gives it back last opens it, in either order."""
    for first, then in ((CHANGED, ALREADY), (ALREADY, CHANGED)):
        one, two = ledger_of("one", {"a": first}), ledger_of("two", {"a": then})
        assert why(undo(two, locked(), others=[one])) == {"a": Keep.HELD}
        assert taken(undo(one, locked(), others=[released(two, "a")])) == ["a"]


def test_the_latest_change_decides_whether_an_account_was_edited() -> None:
    """One locked it, a person unlocked it by hand, another locked it again: the undo goes by that last lock."""
    one = released(ledger_of("one", {"a": CHANGED}), "a")
    by_hand = ledger_of("hand", {"a": CHANGED}, UNLOCK)
    two = ledger_of("two", {"a": CHANGED})
    for ledger, at in ((by_hand, T2), (two, T3)):
        verified = ledger.entry(identity("a", ledger.run.action)).verified
        assert verified is not None
        verified.update_time = at
    assert among(one, by_hand).change(key("a")) is None
    found = among(one, by_hand, two).change(key("a"))
    assert found is not None and found.run == "two"
    assert taken(undo(one, locked(update_time=T3), others=[by_hand, released(two, "a")])) == ["a"]
    assert label_of(key("a")) == f"{INSTANCE}/a"


def released(ledger: Ledger, *users: str) -> Ledger:
    """The run, with its holds on these accounts ended."""
    labels = tuple(f"{INSTANCE}/{user}" for user in users)
    ledger.apply(records.Released(targets=labels, by="o", why=None, runs=(ledger.run.run,)))
    return ledger


def test_several_undos_add_up() -> None:
    """Unlocking goes app by app, over days."""
    first = ledger_of("u1", {"a": CHANGED}, UNLOCK, of=parent("two", "undo"))
    second = ledger_of("u2", {"b": CHANGED}, UNLOCK, of=parent("two", "undo"))
    two = ledger_of("two", dict.fromkeys("abc", CHANGED))
    assert holders(ledger_of("one", ONE), [two, first, second]) == {"c": "two"}


def test_what_an_undo_s_rerun_brought_back_is_undone_too() -> None:
    """Else verify calls it CAME BACK and says to lock it again, and the run that was undone holds it for ever."""
    two = ledger_of("two", dict.fromkeys("abc", CHANGED))
    back = ledger_of("undo", {"a": CHANGED, "b": FAILED, "c": FAILED}, UNLOCK, of=parent("two", "undo"))
    again = ledger_of("undo-again", {"b": CHANGED, "c": CHANGED}, UNLOCK, of=parent("undo", "rerun"))
    redone = ledger_of("zredo", {"c": CHANGED}, LOCK, of=parent("undo-again", "undo"))
    assert undone("two", two, back, again) == {key("a"), key("b"), key("c")}
    assert undone("two", two, back, again, redone) == {key("a"), key("b")}
    assert holders(ledger_of("one", ONE), [two, back, again]) == {}


# ---- verify --------------------------------------------------------------------------------------------------------


def test_recheck_puts_every_account_that_was_so_in_one_place() -> None:
    """As left, brought back on purpose, came back, or unread; what the run did not bring about is not its business."""
    users = {"a": CHANGED, "b": ALREADY, "c": CHANGED, "d": CHANGED, "e": CHANGED, "f": FAILED, "g": UNKNOWN}
    ledger = ledger_of("one", users | {"h@postgres-00000002": CHANGED, "i": UNATTEMPTED})
    states = [locked("a"), locked("b"), locked("c", status=2), locked("d", status=2), locked("f", status=2)]
    found = recheck(ledger, read(*states), {tuple(key("d")), tuple(key("a"))})
    assert (found.agree, found.undone) == (2, 1)
    assert [call.user for call in found.back] == ["c"]
    assert [call.user for call in found.unread] == ["e", "h"]
    assert [call.user for call in recheck(ledger, read(*states)).back] == ["c", "d"]


@pytest.mark.parametrize("action", ["LockAccount", "UnlockAccount", "OpenAccountCAM", "CloseAccountCAM"])
def test_recheck_goes_by_the_action(action: str) -> None:
    """An unlocked account is what an unlock wants."""
    ledger = ledger_of("one", {"a": CHANGED}, action)
    for status, cam in itertools.product((2, 3, 5), (True, False, None)):
        state = locked(status=status, cam=cam)
        desired = ACTIONS[action].is_desired
        assert desired is not None
        assert recheck(ledger, read(state)).agree == desired(state)


# ---- families ------------------------------------------------------------------------------------------------------


def test_a_family_has_the_latest_outcome_of_every_call() -> None:
    """Under the name and the settings of the first; calls in the order in which they were first planned."""
    first = ledger_of("one", {"a": CHANGED, "b": FAILED, "c": UNKNOWN, "d": UNATTEMPTED}, at="2026-01-01T00:00:00.000Z")
    second = ledger_of("two", {"b": CHANGED, "c": FAILED, "d": UNATTEMPTED}, of=parent("one", "rerun"))
    third = ledger_of("three", {"c": ALREADY}, of=parent("two", "rerun"), at="2026-01-03T00:00:00.000Z")
    whole = merged([first, second, third])
    assert whole.run is first.run
    assert [(call.user, outcome) for call, _, outcome in whole.outcomes()] == [
        ("a", CHANGED),
        ("b", CHANGED),
        ("c", ALREADY),
        ("d", UNATTEMPTED),
    ]
    assert whole.counts() == {"changed": 2, "already": 1, "failed": 0, "unknown": 0, "unattempted": 1}
    assert whole.last_at == "2026-01-03T00:00:00.000Z"
    assert first.counts() == {"changed": 1, "already": 0, "failed": 1, "unknown": 1, "unattempted": 1}, "left alone"


def test_a_rerun_that_did_not_come_to_a_call_leaves_what_was_known_of_it() -> None:
    """It may have been applied by the first: unattempted would be a lie."""
    first = ledger_of("one", {"a": UNKNOWN, "b": FAILED})
    second = ledger_of("two", {"a": UNATTEMPTED, "b": UNATTEMPTED}, of=parent("one", "rerun"))
    assert merged([first, second]).counts()["unknown"] == 1
    assert merged([first, second]).counts()["failed"] == 1


def test_what_a_family_has_sent_and_not_settled_is_unknown() -> None:
    """Neither counted as settled nor lost."""
    first, second = ledger_of("one", {"a": FAILED}), ledger_of("two", {"a": UNATTEMPTED}, of=parent("one", "rerun"))
    second.apply(records.Sent(call=identity("a"), attempt=1, lane=LANE, trace="t", key="k"))
    whole = merged([first, second])
    assert whole.counts()["unknown"] == 1
    assert sum(whole.settled_counts().values()) == 0


def test_a_family_adds_up_attempts_omits_and_ends_as_its_last() -> None:
    """What a report prints of it."""
    first, second = ledger_of("one", {"a": FAILED}), ledger_of("two", {"a": CHANGED}, of=parent("one", "rerun"))
    for number, ledger in enumerate((first, second), start=1):
        for attempt in range(number):
            ledger.apply(records.Sent(call=identity("a"), attempt=attempt, lane=LANE, trace="t", key="k"))
        ledger.apply(
            records.ReplyLine(
                call=identity("a"),
                attempt=1,
                sent_at=f"2026-01-0{number}T00:00:00.000000Z",
                request_id="r",
                code="RequestLimitExceeded",
                message=None,
                http=200,
                ms=1,
                verdict=Verdict.THROTTLED,
            )
        )
        omit = records.OmitLine(
            account="", region=REGION, instance=INSTANCE, user="x", reason="protected", rule="*/x", where="c"
        )
        ledger.apply(omit)
        ledger.apply(
            records.End(counts={}, attempts=1, throttled=1, worst_second={}, seconds=number, exit=number, stopped=None)
        )
    whole = merged([first, second])
    assert (whole.attempts, whole.throttled) == (3, 2)
    assert whole.end is second.end
    assert whole.left_out()["protected"] == 2
    assert whole.worst_second() == {f"{LANE} of one": 1, f"{LANE} of two": 1}


def test_a_family_of_one() -> None:
    """`--family` of a run without a rerun is that run."""
    one = ledger_of("one", {"a": CHANGED, "b": ALREADY})
    assert list(merged([one]).outcomes()) == list(one.outcomes())
    assert merged([one]).counts() == one.counts()


# ---- all of it at once ---------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1 << 40))
def test_undo_is_exactly_changed_less_changed_since_less_held_less_not_asked(seed: int) -> None:
    """A model of sets against the rules: every call of the run is either undone or kept with its one true reason."""
    rng = random.Random(seed)
    users = [f"u{number}" for number in range(rng.randrange(1, 9))]
    ledger = ledger_of(
        "one", {user: rng.choice([CHANGED, CHANGED, CHANGED, ALREADY, FAILED, UNKNOWN]) for user in users}
    )
    others = []
    for name in ("two", "three"):
        mine = {user: rng.choice(list(Outcome)) for user in users if rng.random() < 0.4}
        others.append(ledger_of(name, mine))
        if rng.random() < 0.5:
            back = {user: rng.choice([CHANGED, FAILED]) for user in users if rng.random() < 0.5}
            others.append(ledger_of(f"undo-{name}", back, UNLOCK, of=parent(name, "undo")))
    states = {
        user: locked(
            user,
            status=rng.choice([5, 5, 5, 2]),
            update_time=rng.choice([T1, T1, T2]),
            password_update_time=rng.choice([NEVER, NEVER, T2]),
        )
        for user in users
        if rng.random() < 0.95
    }
    choice = Choice(
        wanted=lambda call: call.user not in ("u1", "u7") or seed % 2 == 0,
        include_edited=rng.random() < 0.3,
        rotated_only=rng.random() < 0.2,
    )
    ignored = rng.choice([(), ("two",), ("two", "three")])
    plan = undo_plan(ledger, read(*states.values()), owing(ledger, others, ignored), choice)

    outcomes = {
        name: {call.user: found for call, _, found in other.outcomes()} for name, other in named(others).items()
    }
    expected = set()
    for call, _, outcome in ledger.outcomes():
        user, state = call.user, states.get(call.user)
        rotated = state is not None and state.password_update_time == T2
        held = any(
            outcomes[name].get(user) in (CHANGED, ALREADY, UNKNOWN)
            and outcomes.get(f"undo-{name}", {}).get(user) is not CHANGED
            and name not in ignored
            for name in ("two", "three")
        )
        waited = outcome is ALREADY and any(
            outcomes[name].get(user) is CHANGED and outcomes.get(f"undo-{name}", {}).get(user) is not CHANGED
            for name in ignored
        )
        is_kept = (
            (outcome is not CHANGED and not waited)
            or not choice.wanted(call)
            or state is None
            or state.status != 5
            or (choice.rotated_only and not rotated)
            or (state.update_time == T2 and not rotated and not choice.include_edited)
            or held
        )
        if not is_kept:
            expected.add(user)
    assert set(taken(plan)) == expected
    assert sorted([*taken(plan), *why(plan)]) == sorted(users)
    assert plan.same_password == sum(states[user].password_update_time != T2 for user in expected)


def named(ledgers: Sequence[Ledger]) -> dict[str, Ledger]:
    return {ledger.run.run: ledger for ledger in ledgers if ledger.run is not None}


def test_the_words_are_frozen() -> None:
    """Plans are passed about; nobody changes one on the way."""
    plan = undo(ledger_of("one", {"a": CHANGED}), locked())
    with pytest.raises(AttributeError):
        plan.same_password = 0  # type: ignore[misc]
    assert isinstance(plan.plan.calls[0], Call)


def test_what_became_so_while_the_run_was_being_refused_counts_as_somebody_elses_and_is_named() -> None:
    """The API promised that these tries were not applied; whoever undoes the run is told where that decides."""
    ledger = Ledger.of(
        [
            *plan(3),
            *(before(number) for number in range(3)),
            *(sent(0), reply(0, Verdict.THROTTLED), settled(0, ALREADY, proof=Proof.BEFORE)),
            *(sent(1), reply(1, Verdict.ALREADY), settled(1, ALREADY, proof=Proof.READ)),
            settled(2, ALREADY, proof=Proof.BEFORE),
        ]
    )
    assert [call.user for call in found_so_late(ledger)] == ["user_0"]
