"""What an answer or a reading leads to, as tables: no session, no clock, no loop."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
from msgspec.structs import asdict, replace

from engine.api.actions import ACTIONS, Action
from engine.api.codes import NOT_APPLIED, NOT_SENT
from engine.api.verdicts import Budget, Cure, Ruling, Scope, rule
from engine.journal import records
from engine.journal.ledger import Entry
from engine.model import AccountState, Answer, Call, CallId, Outcome, Proof, Reading, Stage, Verdict
from engine.run.callqueue import Health
from engine.run.decide import (
    END,
    FORBIDDEN,
    MAYBE_OTHERS,
    MOST_STALE,
    NOT_AGAIN,
    Beside,
    Decision,
    Fate,
    Question,
    Then,
    decide,
    decide_begun,
    decide_disproved,
    decide_given_up,
    decide_proved,
    decide_read,
    decide_uncured,
    health_of,
    success,
)
from engine.run.work import Work

LOCK = ACTIONS["LockAccount"]
"""Readings show what it did, and it may be sent twice."""
CAM_OFF = ACTIONS["CloseAccountCAM"]
"""Readings show what it did; it may not be sent twice."""
PASSWORD = ACTIONS["RefreshAccountPassword"]
"""No reading shows what it did."""
WORDS = "what the code means"
SAID = Answer(http=200, request_id="r-1", code="Some.Code", message="as the API puts it")


def work_of(**known: object) -> Work:
    """A call of which so much is known."""
    call = Call(CallId("0123456789abcdef"), "LockAccount", "", "ap-singapore", "postgres-00000001", "app_user")
    work = Work(0, call, call.where, attempt=2)
    for name, value in known.items():
        setattr(work, name, value)
    return work


UNTRIED: dict[str, object] = {}
SAID_ALREADY: dict[str, object] = {"already": "FailedOperation.CheckAccountCAMCloseError"}
SUSPECT: dict[str, object] = {"may_be_applied": True}
"""Some answer did not say whether it was applied."""
DOUBTED: dict[str, object] = {"may_be_applied": True, "was_in_doubt": True, "doubt": False}
IN_DOUBT: dict[str, object] = {"may_be_applied": True, "was_in_doubt": True, "doubt": True}


def ruling_of(
    verdict: Verdict, budget: Budget = Budget.NONE, cure: Cure = Cure.NONE, scope: Scope = Scope.TARGET
) -> Ruling:
    return Ruling(verdict=verdict, budget=budget, cure=cure, scope=scope, words=WORDS, advice="", known=True)


def settle(outcome: Outcome, proof: Proof | None = None, words: str | None = None, **more: object) -> Decision:
    return Decision(then=Then.SETTLE, outcome=outcome, proof=proof, words=words, **more)  # type: ignore[arg-type]


def again(budget: Budget | None = None, **more: object) -> Decision:
    return Decision(then=Then.AGAIN, budget=budget, **more)  # type: ignore[arg-type]


def read(question: Question, **more: object) -> Decision:
    return Decision(then=Then.READ, question=question, **more)  # type: ignore[arg-type]


PROVE = Decision(then=Then.PROVE)
TAKEN = settle(Outcome.CHANGED, Proof.ACCEPTED)
FAILED = settle(Outcome.FAILED)
PARK = Decision(then=Then.PARK)
DOUBT = read(Question.DOUBT, doubt=True)
UNKNOWN = settle(Outcome.UNKNOWN, None, "no reading can tell whether it was applied", doubt=True)
HOLD = Decision(then=Then.HOLD, words="in doubt, and read at the end as not locked")

V, B, C, S = Verdict, Budget, Cure, Scope
DONE, ALREADY, REJECTED = ruling_of(V.DONE), ruling_of(V.ALREADY), ruling_of(V.REJECTED)
ASK, LOST = ruling_of(V.REJECTED, B.NORMAL, C.READ), ruling_of(V.IN_DOUBT, B.NORMAL, C.READ)
CLOSE = Decision(then=Then.HAND_OVER, lane=Fate.CLOSE, why=WORDS)
STOP = Decision(then=Then.END, lane=Fate.ALL, why=WORDS)


def later(budget: Budget, scope: Scope = Scope.TARGET) -> Ruling:
    return ruling_of(V.TRANSIENT, budget, scope=scope)


def cure(which: Cure) -> Ruling:
    return ruling_of(V.TRANSIENT, cure=which)


def full(scope: Scope) -> Ruling:
    return ruling_of(V.THROTTLED, scope=scope)


def fatal(scope: Scope) -> Ruling:
    return ruling_of(V.FATAL, scope=scope)


def slow(scope: Scope) -> Decision:
    return again(keeps_place=True, slow=scope)


def patient(decision: Decision) -> Decision:
    return replace(decision, heeds_server=True)


AFTER_AN_ANSWER: list[tuple[str, Ruling, dict[str, object], Action, bool, Decision]] = [
    # what came, what it means, what is known, of which action, read back → what becomes of it
    ("accepted", DONE, UNTRIED, LOCK, True, PROVE),
    ("accepted, and nobody reads", DONE, UNTRIED, LOCK, False, TAKEN),
    ("accepted, nothing can be read", DONE, UNTRIED, PASSWORD, False, TAKEN),
    ("already so", ALREADY, UNTRIED, LOCK, True, PROVE),
    ("an echo", ALREADY, DOUBTED, LOCK, True, PROVE),
    ("already, and nobody reads", ALREADY, UNTRIED, LOCK, False, settle(Outcome.ALREADY, Proof.CODE, WORDS)),
    ("an echo, and nobody reads", ALREADY, SUSPECT, LOCK, False, TAKEN),
    ("refused", REJECTED, UNTRIED, LOCK, True, FAILED),
    ("refused, an earlier try did not say", REJECTED, SUSPECT, LOCK, True, read(Question.FAILURE)),
    ("refused, no reading tells", REJECTED, SUSPECT, PASSWORD, False, FAILED),
    ("refused, once in doubt", REJECTED, DOUBTED, LOCK, True, PARK),
    ("refused, as it may be so", ASK, UNTRIED, LOCK, True, read(Question.REFUSAL)),
    ("refused, as it may be so", ASK, DOUBTED, LOCK, False, read(Question.REFUSAL)),
    ("over the quota", full(S.LANE), UNTRIED, LOCK, True, slow(S.LANE)),
    ("all over it", full(S.EVERY_LANE), DOUBTED, PASSWORD, False, slow(S.EVERY_LANE)),
    ("over the account's", full(S.ACCOUNT), UNTRIED, LOCK, True, slow(S.ACCOUNT)),
    ("try later", later(B.NORMAL), UNTRIED, LOCK, True, patient(again(B.NORMAL))),
    ("busy", later(B.BUSY, S.INSTANCE), SUSPECT, CAM_OFF, True, patient(again(B.BUSY))),
    ("failed", later(B.FEW), UNTRIED, PASSWORD, False, patient(again(B.FEW))),
    ("not today", later(B.NONE), UNTRIED, LOCK, True, patient(again(B.NONE))),
    ("the clock", cure(C.CLOCK), UNTRIED, LOCK, True, Decision(then=Then.CURE, cure=C.CLOCK)),
    ("the keys", cure(C.KEYS), DOUBTED, LOCK, True, Decision(then=Then.CURE, cure=C.KEYS)),
    ("lost", LOST, UNTRIED, LOCK, True, patient(DOUBT)),
    ("lost", LOST, UNTRIED, CAM_OFF, False, patient(DOUBT)),
    ("lost, no reading tells", LOST, UNTRIED, PASSWORD, False, patient(UNKNOWN)),
    ("no such key", fatal(S.LANE), UNTRIED, LOCK, True, CLOSE),
    ("nobody may", fatal(S.EVERY_LANE), DOUBTED, LOCK, True, STOP),
]
"""Every verdict there is."""


@pytest.mark.parametrize(
    ("ruling", "known", "action", "reads_back", "expected"),
    [row[1:] for row in AFTER_AN_ANSWER],
    ids=[f"{row[0]}: {row[1].verdict}" for row in AFTER_AN_ANSWER],
)
def test_an_answer_leads_to(
    ruling: Ruling, known: dict[str, object], action: Action, reads_back: bool, expected: Decision
) -> None:
    """One decision, by what the answer means, what is known of the call, and what can be read of it."""
    assert decide(work_of(**known), SAID, ruling, action=action, reads_back=reads_back) == expected


def every_case() -> Iterator[tuple[Verdict, Budget, Cure, Scope, dict[str, object], Action, bool, Beside]]:
    beside = [Beside(), Beside(is_mute=True), Beside(others_may=True, is_useless=True)]
    known = [UNTRIED, SUSPECT, DOUBTED, IN_DOUBT]
    return product(Verdict, Budget, Cure, Scope, known, (LOCK, CAM_OFF, PASSWORD), (True, False), beside)


def test_every_verdict_has_its_row_and_no_combination_has_none() -> None:
    """Whatever is answered and known there is a decision, and what it says is enough to be carried out."""
    assert {row[1].verdict for row in AFTER_AN_ANSWER} == set(Verdict)
    for verdict, budget, cure, scope, known, action, reads_back, beside in every_case():
        if reads_back and action.is_desired is None:
            continue
        work = work_of(**known)
        before = asdict(work)
        ruling = ruling_of(verdict, budget, cure, scope)
        decision = decide(work, SAID, ruling, action=action, reads_back=reads_back, beside=beside)
        assert asdict(work) == before, "to decide changes nothing"
        assert (decision.then is Then.SETTLE) == (decision.outcome is not None)
        assert (decision.then is Then.READ) == (decision.question is not None)
        assert (decision.then is Then.CURE) == (decision.cure is not Cure.NONE)
        assert bool(decision.why) == (decision.lane in (Fate.CLOSE, Fate.ALL))
        assert (decision.slow is not None) == (verdict is Verdict.THROTTLED and not beside.is_mute)
        if action is PASSWORD:
            assert decision.then is not Then.READ or decision.question is Question.REFUSAL


def test_changed_needs_a_reading_unless_nobody_reads() -> None:
    """No answer alone settles as changed what is to be read back."""
    for verdict, budget, cure, scope, known, action, _, beside in every_case():
        ruling = ruling_of(verdict, budget, cure, scope)
        decision = decide(work_of(**known), SAID, ruling, action=action, reads_back=True, beside=beside)
        assert decision.outcome not in (Outcome.CHANGED, Outcome.ALREADY)


def test_what_was_ever_in_doubt_fails_by_the_last_reading_only() -> None:
    """It is parked: neither an answer nor a reading on the way settles it as failed."""
    for verdict, budget, cure, scope, _, action, reads_back, beside in every_case():
        ruling = ruling_of(verdict, budget, cure, scope)
        decision = decide(work_of(**DOUBTED), SAID, ruling, action=action, reads_back=reads_back, beside=beside)
        assert decision.outcome is not Outcome.FAILED
    for question, reading in product((Question.REFUSAL, Question.FAILURE, Question.DOUBT), READINGS.values()):
        decision = decide_read(question, work_of(**IN_DOUBT), Entry(), SAID, reading, LOCK)
        assert decision.outcome is not Outcome.FAILED


# ---- its lane --------------------------------------------------------------------------------------------------------

DENIED = Answer(http=200, request_id="r-1", code="AuthFailure.UnauthorizedOperation", message="no")


@pytest.mark.parametrize(
    ("beside", "known", "then", "lane"),
    [
        (Beside(), UNTRIED, Then.SETTLE, None),
        (Beside(), SUSPECT, Then.READ, None),
        (Beside(others_may=True), UNTRIED, Then.AGAIN, None),
        (Beside(others_may=True, is_useless=True), UNTRIED, Then.AGAIN, Fate.CLOSE),
        (Beside(is_useless=True), UNTRIED, Then.SETTLE, Fate.CLOSE),
        (Beside(is_useless=True), DOUBTED, Then.PARK, Fate.CLOSE),
        (Beside(is_for_elsewhere=True), UNTRIED, Then.HAND_OVER, Fate.CLOSE),
        (Beside(is_for_elsewhere=True), SUSPECT, Then.HAND_OVER, Fate.CLOSE),
        (Beside(is_for_elsewhere=True), DOUBTED, Then.HAND_OVER, Fate.CLOSE),
    ],
)
def test_what_cam_denies_is_given_to_others(
    beside: Beside, known: dict[str, object], then: Then, lane: Fate | None
) -> None:
    """As long as another sub-account may have the permission; a lane that is denied everything is closed."""
    ruling = rule("LockAccount", DENIED)
    assert ruling.verdict is Verdict.REJECTED
    decision = decide(work_of(**known), DENIED, ruling, action=LOCK, reads_back=True, beside=beside)
    assert (decision.then, decision.lane) == (then, lane)
    assert decision.budget is None and not decision.keeps_place


@pytest.mark.parametrize("action", [LOCK, CAM_OFF, PASSWORD])
def test_a_lane_that_reaches_nobody_is_down_and_the_call_lost_nothing(action: Action) -> None:
    """No byte has left: another lane sends it, whatever the fault."""
    answer = Answer(http=None, request_id=None, code="Local.Connect", message="refused", stage=Stage.BEFORE_SEND)
    decision = decide(work_of(), answer, rule(action.name, answer), action=action, reads_back=False)
    assert decision == Decision(then=Then.HAND_OVER, lane=Fate.DOWN)


def test_a_mute_lane_is_down_and_the_call_is_read() -> None:
    """Its other calls are for the others; of this one only a reading tells, if any does."""
    answer = Answer(http=None, request_id=None, code="Local.NoAnswer", message="silence")
    for action, expected in ((LOCK, DOUBT), (CAM_OFF, DOUBT), (PASSWORD, UNKNOWN)):
        ruling = rule(action.name, answer)
        decision = decide(work_of(), answer, ruling, action=action, reads_back=False, beside=Beside(is_mute=True))
        assert decision == replace(expected, lane=Fate.DOWN)


def test_what_cannot_be_mended_is_fatal() -> None:
    """A wrong clock stops all; refused keys close their lane, and the words of their source are told."""
    clock, keys = ruling_of(V.TRANSIENT, cure=C.CLOCK), ruling_of(V.TRANSIENT, cure=C.KEYS)
    assert decide_uncured(clock, "") == Decision(then=Then.END, lane=Fate.ALL, why=WORDS)
    assert decide_uncured(keys, "") == Decision(then=Then.HAND_OVER, lane=Fate.CLOSE, why=WORDS)
    assert decide_uncured(keys, "the file is gone").why == f"{WORDS} the file is gone"


# ---- after a reading -------------------------------------------------------------------------------------------------


def reading_of(status: int | None, *, complete: bool = True) -> Reading:
    others = {"other": AccountState(user="other", status=2, cam=False)}
    rows = {} if status is None else {"app_user": AccountState(user="app_user", status=status, cam=False)}
    return Reading(accounts=others | rows, complete=complete)


READINGS = {
    "locked": reading_of(5),
    "open": reading_of(2),
    "changing": reading_of(3),
    "odd": reading_of(99),
    "absent": reading_of(None),
    "not seen": reading_of(None, complete=False),
    "unread": Reading(accounts=None, code="InternalError", message="not now"),
}
UNREAD = "as the API puts it (and the account could not be read: InternalError)"
UNSEEN = "as the API puts it (and the reading of its instance does not show how the account stands)"
ABSENT = "no account app_user on postgres-00000001"
HOLD_CAM = f"in doubt, and read at the end as not {CAM_OFF.done_word}"
NO_SEND = {**IN_DOUBT, "no_send": True}
SO_BEFORE = settle(Outcome.ALREADY, Proof.READ, rule("LockAccount", SAID).words, agrees=True)
SO_NOW = settle(Outcome.CHANGED, Proof.READ, agrees=True)
NOT_SO = again(Budget.NORMAL, agrees=False, doubt=False)
PROVEN = settle(Outcome.CHANGED, Proof.READ, is_refuted=True, agrees=True)
Q = Question
AFTER_A_READING: list[tuple[Question, dict[str, object], str, Action, Decision]] = [
    # a refusal that may mean "already so", "busy" or "no such account"
    (Q.REFUSAL, UNTRIED, "locked", LOCK, SO_BEFORE),
    (Q.REFUSAL, SUSPECT, "locked", LOCK, SO_NOW),
    (Q.REFUSAL, DOUBTED, "locked", LOCK, SO_NOW),
    (Q.REFUSAL, UNTRIED, "changing", LOCK, again(B.NORMAL)),
    (Q.REFUSAL, UNTRIED, "open", LOCK, FAILED),
    (Q.REFUSAL, DOUBTED, "open", LOCK, PARK),
    (Q.REFUSAL, UNTRIED, "absent", LOCK, replace(FAILED, words=ABSENT)),
    (Q.REFUSAL, UNTRIED, "odd", LOCK, replace(FAILED, words=UNSEEN)),
    (Q.REFUSAL, UNTRIED, "not seen", LOCK, replace(FAILED, words=UNSEEN)),
    (Q.REFUSAL, UNTRIED, "unread", LOCK, replace(FAILED, words=UNREAD)),
    (Q.REFUSAL, DOUBTED, "unread", LOCK, replace(PARK, words=UNREAD)),
    # a call that has failed, and of which an earlier try may have been applied
    (Q.FAILURE, SUSPECT, "locked", LOCK, PROVEN),
    (Q.FAILURE, SUSPECT, "open", LOCK, replace(FAILED, agrees=False)),
    (Q.FAILURE, SUSPECT, "absent", LOCK, replace(FAILED, agrees=False)),
    (Q.FAILURE, SUSPECT, "not seen", LOCK, replace(FAILED, words=UNSEEN)),
    (Q.FAILURE, SUSPECT, "unread", LOCK, replace(FAILED, words=UNREAD)),
    # an attempt of which nobody knows
    (Q.DOUBT, IN_DOUBT, "locked", LOCK, PROVEN),
    (Q.DOUBT, IN_DOUBT, "open", LOCK, NOT_SO),
    (Q.DOUBT, IN_DOUBT, "changing", LOCK, NOT_SO),
    (Q.DOUBT, IN_DOUBT, "absent", LOCK, NOT_SO),
    (Q.DOUBT, IN_DOUBT, "not seen", LOCK, again(B.NORMAL)),
    (Q.DOUBT, IN_DOUBT, "unread", LOCK, again(B.NORMAL)),
    (Q.DOUBT, NO_SEND, "locked", LOCK, PROVEN),
    (Q.DOUBT, NO_SEND, "unread", LOCK, HOLD),
    (Q.DOUBT, NO_SEND, "open", LOCK, replace(PARK, words=FORBIDDEN, agrees=False, doubt=False)),
    (Q.DOUBT, IN_DOUBT, "unread", CAM_OFF, replace(HOLD, words=HOLD_CAM)),
    # the same when nothing is under way any more
    (Q.LAST, IN_DOUBT, "locked", LOCK, PROVEN),
    (Q.LAST, IN_DOUBT, "open", LOCK, replace(FAILED, agrees=False)),
    (Q.LAST, IN_DOUBT, "unread", LOCK, END),
    (Q.LAST, IN_DOUBT, "not seen", LOCK, END),
]


RESET = ACTIONS["ResetAccountPassword"]
"""A newer time of the password shows what it did; it may be sent twice only with a store of passwords."""
STORE = replace(RESET, resendable=True)
ROTATED = replace(PROVEN, words=MAYBE_OTHERS)
ONCE = Decision(then=Then.HOLD, words=NOT_AGAIN)


@pytest.mark.parametrize(
    ("question", "known", "now", "action", "expected"),
    [
        (Q.REFUSAL, UNTRIED, "newer", RESET, FAILED),  # somebody else's change
        (Q.REFUSAL, SUSPECT, "newer", RESET, replace(SO_NOW, agrees=True)),
        (Q.REFUSAL, UNTRIED, "same", RESET, FAILED),
        (Q.FAILURE, SUSPECT, "newer", RESET, ROTATED),
        (Q.FAILURE, SUSPECT, "same", RESET, replace(FAILED, agrees=False)),
        (Q.DOUBT, IN_DOUBT, "newer", RESET, ROTATED),
        (Q.DOUBT, IN_DOUBT, "newer", STORE, ROTATED),
        (Q.DOUBT, IN_DOUBT, "same", RESET, replace(ONCE, agrees=False)),
        (Q.DOUBT, IN_DOUBT, "same", STORE, NOT_SO),
        (Q.DOUBT, IN_DOUBT, "none", RESET, ONCE),
        (Q.DOUBT, IN_DOUBT, "none", STORE, again(B.NORMAL)),
        (Q.LAST, IN_DOUBT, "newer", RESET, ROTATED),
        (Q.LAST, IN_DOUBT, "same", RESET, replace(FAILED, agrees=False)),
        (Q.LAST, IN_DOUBT, "none", RESET, END),
    ],
)
def test_what_the_time_of_a_password_leads_to(
    question: Question, known: dict[str, object], now: str, action: Action, expected: Decision
) -> None:
    """A newer one proves a change; one that is the same denies it; and only a store lets it be sent again."""
    time = {"newer": "2026-11-29 10:00:01", "same": "2026-11-29 10:00:00", "none": ""}[now]
    row = AccountState(user="app_user", status=5, cam=False, password_update_time=time)
    entry = Entry()
    entry.before = records.Before(
        call=CallId("0"), status=5, cam=False, type=None, update_time=None,
        password_update_time="2026-11-29 10:00:00", why=None,
    )  # fmt: skip
    found = decide_read(question, work_of(**known), entry, SAID, Reading(accounts={"app_user": row}), action)
    assert found == expected


def test_what_was_accepted_is_proven_and_sent_again_only_with_a_store() -> None:
    """Read back as not so for half a minute, a plain source's call fails: its password may be lost, not replaced."""
    for action, expected in ((RESET, replace(PROVE, resend=False)), (STORE, PROVE)):
        assert decide(work_of(), SAID, DONE, action=action, reads_back=True) == expected


@pytest.mark.parametrize(
    ("question", "known", "seen", "action", "expected"),
    AFTER_A_READING,
    ids=[f"{row[0].name}: {row[2]}, of {sorted(row[1])}" for row in AFTER_A_READING],
)
def test_a_reading_leads_to(
    question: Question, known: dict[str, object], seen: str, action: Action, expected: Decision
) -> None:
    """One decision, by what it was made for, what it shows, and what is known of the call."""
    assert decide_read(question, work_of(**known), Entry(), SAID, READINGS[seen], action) == expected


def test_a_reading_that_does_not_tell_denies_nothing() -> None:
    """Nothing seen is no evidence, whatever it was made for."""
    for question, seen in product(Question, ("odd", "not seen", "unread")):
        decision = decide_read(question, work_of(**IN_DOUBT), Entry(), SAID, READINGS[seen], LOCK)
        assert decision.agrees is None and decision.doubt is None


def test_a_dead_connection_costs_nothing_three_times() -> None:
    """Then the call waits as others do."""
    lost = replace(SAID, stale_connection=True)
    for stale in range(MOST_STALE + 1):
        decision = decide_read(Question.DOUBT, work_of(**IN_DOUBT, stale=stale), Entry(), lost, READINGS["open"], LOCK)
        assert decision.is_stale == (stale < MOST_STALE)
        assert decision.budget is (None if stale < MOST_STALE else Budget.NORMAL)


@pytest.mark.parametrize(
    ("known", "action", "expected"),
    [
        (UNTRIED, LOCK, FAILED),
        (SUSPECT, LOCK, read(Question.FAILURE)),
        (SUSPECT, PASSWORD, FAILED),
        (DOUBTED, LOCK, PARK),
        (IN_DOUBT, LOCK, HOLD),
    ],
)
def test_a_spent_budget_leads_to(known: dict[str, object], action: Action, expected: Decision) -> None:
    """Failure, unless a try of ours may have been applied: what is in doubt is left so for the last reading."""
    assert decide_given_up(work_of(**known), SAID, action) == expected


# ---- what an earlier session began -----------------------------------------------------------------------------------


def entry_of(**known: object) -> Entry:
    entry = Entry()
    for name, value in known.items():
        setattr(entry, name, value)
    return entry


ASKED = Answer(http=None, request_id="r-1", code="FailedOperation.PreCheckError", message="as the API puts it")


@pytest.mark.parametrize(
    ("entry", "answer", "known", "action", "expected"),
    [
        (entry_of(unanswered=True), SAID, UNTRIED, LOCK, DOUBT),
        (entry_of(unanswered=True, verdict=V.DONE), SAID, UNTRIED, LOCK, DOUBT),
        (entry_of(unanswered=True), SAID, UNTRIED, PASSWORD, UNKNOWN),
        (entry_of(doubt=True, verdict=V.IN_DOUBT), SAID, IN_DOUBT, LOCK, DOUBT),
        (entry_of(verdict=V.DONE), SAID, SUSPECT, LOCK, replace(PROVE, resend=False)),
        (entry_of(verdict=V.DONE), SAID, SUSPECT, PASSWORD, TAKEN),
        (entry_of(verdict=V.ALREADY), SAID, UNTRIED, LOCK, PROVE),
        (entry_of(verdict=V.TRANSIENT), SAID, DOUBTED, LOCK, DOUBT),
        (entry_of(verdict=V.REJECTED), SAID, UNTRIED, LOCK, FAILED),
        (entry_of(verdict=V.REJECTED), SAID, SUSPECT, LOCK, read(Question.FAILURE)),
        (entry_of(verdict=V.REJECTED), SAID, DOUBTED, LOCK, PARK),
        (entry_of(verdict=V.REJECTED), ASKED, UNTRIED, LOCK, read(Question.REFUSAL)),
    ],
)
def test_a_call_that_an_earlier_session_began_leads_to(
    entry: Entry, answer: Answer, known: dict[str, object], action: Action, expected: Decision
) -> None:
    """A reading, or what the answer in the journal says: nothing is sent before."""
    reads_back = action.is_desired is not None
    assert decide_begun(work_of(**known), entry, answer, action, reads_back=reads_back) == expected
    assert expected.then is not Then.AGAIN


@pytest.mark.parametrize(
    ("known", "action", "expected"),
    [
        (UNTRIED, LOCK, Then.AGAIN),
        (UNTRIED, PASSWORD, Then.AGAIN),
        (SUSPECT, LOCK, Then.READ),
        (DOUBTED, LOCK, Then.PARK),
    ],
)
def test_a_call_that_was_denied_to_an_earlier_session_is_tried(
    known: dict[str, object], action: Action, expected: Then
) -> None:
    """It may have been of a sub-account without the right; not so if another attempt may have been applied."""
    entry = entry_of(verdict=V.REJECTED)
    assert decide_begun(work_of(**known), entry, DENIED, action, reads_back=True).then is expected


def test_what_may_not_be_sent_is_not_sent_again() -> None:
    """A guard forbids it by now, or a later rerun has it: whatever an earlier session left of it and readings show."""
    for verdict, known, answer, unanswered in product(
        V, (UNTRIED, SUSPECT, DOUBTED, IN_DOUBT), (SAID, ASKED, DENIED), (True, False)
    ):
        work, entry = work_of(**known, no_send=True), entry_of(verdict=verdict, unanswered=unanswered)
        decision = decide_begun(work, entry, answer, LOCK, reads_back=True)
        assert decision.then is not Then.AGAIN
        assert decision.then is not Then.PROVE or not decision.resend
        if decision.question is None:
            continue
        for reading in READINGS.values():
            assert decide_read(decision.question, work, entry, answer, reading, LOCK).then is not Then.AGAIN


# ---- the proof -------------------------------------------------------------------------------------------------------


def before(status: int | None) -> records.Before:
    return records.Before(
        call=CallId("0"), status=status, cam=None, type=None, update_time=None, password_update_time=None, why=None
    )


@pytest.mark.parametrize(
    ("entry", "known", "outcome"),
    [
        (entry_of(), SUSPECT, Outcome.CHANGED),
        (entry_of(before=before(2)), SUSPECT, Outcome.CHANGED),
        (entry_of(before=before(None)), SUSPECT, Outcome.CHANGED),
        (entry_of(before=before(5)), SUSPECT, Outcome.ALREADY),
        (entry_of(), SAID_ALREADY, Outcome.ALREADY),
        (entry_of(), {**SUSPECT, **SAID_ALREADY}, Outcome.CHANGED),
        (entry_of(before=before(5)), {**DOUBTED, **SAID_ALREADY}, Outcome.ALREADY),
    ],
)
def test_changed_is_what_was_not_so_before(entry: Entry, known: dict[str, object], outcome: Outcome) -> None:
    """By the reading before, or by the API's word where no try of ours may be the reason."""
    assert success(work_of(**known), entry, LOCK) is outcome
    decision, answer = decide_proved(work_of(**known), entry, "r-1", LOCK)
    is_said = outcome is Outcome.ALREADY and "already" in known
    assert (decision.outcome, decision.proof, decision.agrees) == (outcome, Proof.READ, True)
    assert (decision.words is not None) == is_said
    assert answer == Answer(http=200, request_id="r-1", code=known.get("already") if is_said else None, message=None)


def test_what_is_read_back_as_not_so_is_sent_again_or_fails() -> None:
    """The words say how often it was sent; what was ever in doubt waits for the last reading."""
    entry = entry_of(verdict=V.DONE, accepted_at="2026-09-21T00:00:00.000Z")
    decision, _ = decide_disproved(work_of(**SUSPECT), entry, "r-1", LOCK, again=True)
    assert decision == again(agrees=False)
    words = "accepted 2 times, yet read back as not locked"
    decision, answer = decide_disproved(work_of(**SUSPECT), entry, "r-1", LOCK, again=False)
    assert decision == replace(FAILED, words=words, agrees=False)
    assert (answer.code, answer.request_id) == (NOT_APPLIED, "r-1")
    decision, _ = decide_disproved(work_of(**DOUBTED), entry_of(), None, LOCK, again=False)
    assert decision == replace(PARK, words=words.replace("accepted", "sent"), agrees=False)


# ---- its instance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ruling", "answer", "is_mute", "health"),
    [
        (ruling_of(V.DONE), SAID, False, Health.GOOD),
        (ruling_of(V.ALREADY), SAID, False, Health.GOOD),
        (ruling_of(V.TRANSIENT, B.BUSY, scope=S.INSTANCE), SAID, False, Health.SICK),
        (ruling_of(V.TRANSIENT, B.NORMAL), SAID, False, Health.SICK),
        (ruling_of(V.IN_DOUBT, B.NORMAL), SAID, False, Health.SICK),
        (ruling_of(V.IN_DOUBT, B.NORMAL), SAID, True, Health.SILENT),
        (ruling_of(V.IN_DOUBT, B.NORMAL), replace(SAID, stale_connection=True), False, Health.SILENT),
        (ruling_of(V.TRANSIENT, B.NORMAL, scope=S.LANE), SAID, False, Health.SILENT),
        (ruling_of(V.TRANSIENT, B.NONE), replace(SAID, code=NOT_SENT), False, Health.SILENT),
        (ruling_of(V.TRANSIENT, B.NORMAL), replace(SAID, stage=Stage.BEFORE_SEND), False, Health.SILENT),
        (ruling_of(V.REJECTED), SAID, False, Health.SILENT),
        (ruling_of(V.THROTTLED, scope=S.LANE), SAID, False, Health.SILENT),
        (ruling_of(V.FATAL, scope=S.LANE), SAID, False, Health.SILENT),
    ],
)
def test_an_answer_says_of_its_instance(ruling: Ruling, answer: Answer, is_mute: bool, health: Health) -> None:
    """That it takes calls, that it is sick, or nothing: what the lane or the way is to blame for is not its fault."""
    assert health_of(answer, ruling, is_mute=is_mute) is health
