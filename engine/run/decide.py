"""What an answer, or a reading, leads to. No I/O, no clock, no loop: `judge` carries out what is decided here.

The rules are the table of engine/sending.md, "The attempt loop". `verdicts` says what an answer means; this module
joins that with what is known of the call and its lane. Three things hold for every call:

* `changed` means that a try of ours may have been applied, and that a reading shows the account so.
* A call that was ever in doubt fails only by a reading made after all else of the session is over.
* Nothing seen is no evidence: where a reading does not tell, a call is neither denied nor settled by it.
"""

from __future__ import annotations

from enum import Enum
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from engine.api.actions import TRANSITIONAL, Action
from engine.api.codes import NOT_APPLIED, row_of
from engine.api.verdicts import Budget, Cure, Ruling, Scope, rule
from engine.journal.ledger import Entry
from engine.model import Answer, Outcome, Proof, Reading, Stage, Verdict
from engine.planning.outlook import no_account_words, shown
from engine.run.callqueue import Health
from engine.run.work import Work

MOST_STALE = 3
"""How often a call is sent again at once after its connection turned out to be dead; then it waits as others do."""


FORBIDDEN = "read as not done; a guard, or a later rerun, forbids it"
"""Said of a call that is not sent again, though it would be otherwise."""


class Then(Enum):
    """What becomes of a call."""

    SETTLE = "settle"
    """Its outcome is written."""
    PARK = "park"
    """It has failed, unless the last reading of the session shows that it was applied."""
    HOLD = "hold"
    """It stays in doubt, and only the last reading of the session may settle it."""
    PROVE = "prove"
    """It was accepted, and is read back."""
    READ = "read"
    """Its account is read, which decides the `question`."""
    AGAIN = "again"
    """It is tried again: when its `budget` says so, or at once."""
    CURE = "cure"
    """It is tried again once clock or keys are mended."""
    HAND_OVER = "hand_over"
    """Another lane sends it, if one is left that may; it has lost nothing."""
    END = "end"
    """Nothing more is done of it in this session."""


class Question(Enum):
    """What a reading is to decide."""

    REFUSAL = "refusal"
    """Whether a refusal means "already so", "busy" or "no such account"."""
    FAILURE = "failure"
    """Whether a call that has failed was applied by an earlier try."""
    DOUBT = "doubt"
    """Whether an attempt was applied of which nobody knows."""
    LAST = "end"
    """The same at the end of the session, when nothing is under way any more."""

    @property
    def purpose(self) -> str:
        """What the journal says the reading was made for."""
        return "refusal" if self is Question.FAILURE else self.value


class Fate(Enum):
    """What becomes of a lane."""

    DOWN = "down"
    """It pauses, and is closed once that has lasted."""
    CLOSE = "close"
    """It sends no more."""
    ALL = "all"
    """No lane sends any more: the session stops."""


class Decision(Struct, frozen=True, kw_only=True):
    """What to do with a call, and with lanes on its account."""

    then: Then
    outcome: Outcome | None = None
    """SETTLE."""
    proof: Proof | None = None
    """SETTLE: on what the outcome rests."""
    words: str | None = None
    """SETTLE, PARK and HOLD: what the journal says of it, if not what the API said."""
    is_refuted: bool = False
    """SETTLE: a reading says otherwise than the answer's code, which is not kept."""
    agrees: bool | None = None
    """What a reading says of the account, written before anything else; None: it does not tell, or need not."""
    doubt: bool | None = None
    """Whether the call is in doubt from here on; None: as it was."""
    question: Question | None = None
    """READ."""
    budget: Budget | None = None
    """AGAIN: the budget it draws on; None: it is free, and goes at once."""
    is_stale: bool = False
    """AGAIN: a dead connection took the attempt."""
    heeds_server: bool = False
    """However it comes to be tried again, it is not sooner than the server asks for."""
    keeps_place: bool = False
    """AGAIN: it lost nothing, and does not wait among the retries."""
    cure: Cure = Cure.NONE
    """CURE."""
    resend: bool = True
    """PROVE: whether it may be sent again if a reading denies it."""
    slow: Scope | None = None
    """Which lanes slow down."""
    lane: Fate | None = None
    """What becomes of the lane that sent it."""
    why: str = ""
    """Why it is closed, or the session stops."""


class Beside(Struct, frozen=True, kw_only=True):
    """What is known beside the call: of its lane, and of the other lanes that take the same calls."""

    is_mute: bool = False
    """The lane answers nobody, and the others do."""
    others_may: bool = False
    """Another sub-account takes the call, and has not been denied it."""
    is_useless: bool = False
    """The lane has been denied everything, and other sub-accounts have not."""


ALONE = Beside()
END = Decision(then=Then.END)
_PROVE = Decision(then=Then.PROVE)
_PROVE_ONLY = Decision(then=Then.PROVE, resend=False)
_TAKEN = Decision(then=Then.SETTLE, outcome=Outcome.CHANGED, proof=Proof.ACCEPTED)
_FREE = Decision(then=Then.AGAIN, keeps_place=True)
_AT_ONCE = Decision(then=Then.AGAIN)
_LATER = Decision(then=Then.AGAIN, budget=Budget.NORMAL)
_ASK = Decision(then=Then.READ, question=Question.REFUSAL)
_FAILED = Decision(then=Then.READ, question=Question.FAILURE)
_DOUBT = Decision(then=Then.READ, question=Question.DOUBT, doubt=True)


# ---- after an answer -----------------------------------------------------------------------------------------------


def decide(
    work: Work, answer: Answer, ruling: Ruling, *, action: Action, reads_back: bool, beside: Beside = ALONE
) -> Decision:
    """Return what an attempt leads to that came back with `answer`; `reads_back`: accepted calls are to be proven."""
    if answer.stage is Stage.BEFORE_SEND:
        # Nothing was sent, so the call has lost nothing: the lane waits, not the call.
        return Decision(then=Then.HAND_OVER, lane=Fate.DOWN)
    if beside.is_mute:
        # Its calls are the others' from now on. What became of this one only a reading tells.
        return replace(_doubtful(action), lane=Fate.DOWN)
    match ruling.verdict:
        case Verdict.DONE:
            return _PROVE if reads_back else _TAKEN
        case Verdict.ALREADY:
            return _already(work, ruling, reads_back)
        case Verdict.REJECTED:
            return _rejected(work, answer, ruling, action, beside)
        case Verdict.THROTTLED:
            return replace(_FREE, slow=ruling.scope)
        case Verdict.TRANSIENT:
            if ruling.cure is not Cure.NONE:
                return Decision(then=Then.CURE, cure=ruling.cure)
            return Decision(then=Then.AGAIN, budget=ruling.budget, heeds_server=True)
        case Verdict.IN_DOUBT:
            return replace(_doubtful(action), heeds_server=True)
        case Verdict.FATAL:
            if ruling.scope is Scope.EVERY_LANE:
                return _stop(ruling.words)
            return _close(ruling.words)
        case _:  # pragma: no cover - closed set
            assert_never(ruling.verdict)


def decide_uncured(ruling: Ruling, why: str) -> Decision:
    """Return what comes of a clock or keys that cannot be mended; `why` says what the source of the keys said."""
    if ruling.cure is Cure.CLOCK:
        return _stop(ruling.words)
    return _close(f"{ruling.words} {why}" if why else ruling.words)


def decide_given_up(work: Work, answer: Answer, action: Action) -> Decision:
    """Return what comes of a call whose budget is spent."""
    return _hold(action) if work.doubt else _failed(work, action)


def decide_begun(work: Work, entry: Entry, answer: Answer, action: Action, *, reads_back: bool) -> Decision:
    """Return what comes of a call that an earlier session left begun, or in doubt whatever was read of it then.

    `answer` is the last one that the journal has of it.
    """
    if entry.unanswered or entry.doubt:
        return _doubtful(action)
    if entry.verdict is Verdict.DONE:
        return _PROVE_ONLY if reads_back else _TAKEN
    ruling = rule(action.name, answer)
    if entry.verdict is Verdict.ALREADY:
        return _already(work, ruling, reads_back)
    if entry.verdict is not Verdict.REJECTED:
        return _doubtful(action)
    return _ASK if ruling.cure is Cure.READ else _failed(work, action)


def _already(work: Work, ruling: Ruling, reads_back: bool) -> Decision:
    """It was so before: by somebody else's doing, or by a try of ours of which this answer is the echo.

    The code proves nothing by itself, as it may be meant for another account: a reading shows that it is so.
    """
    if reads_back:
        return _PROVE_ONLY if work.no_send else _PROVE
    if work.may_have_done_it:
        return _TAKEN
    return Decision(then=Then.SETTLE, outcome=Outcome.ALREADY, proof=Proof.CODE, words=ruling.words)


def _rejected(work: Work, answer: Answer, ruling: Ruling, action: Action, beside: Beside) -> Decision:
    is_denial = row_of(answer.code).is_denial
    if is_denial and beside.others_may:
        decision = _AT_ONCE
    else:
        decision = _ASK if ruling.cure is Cure.READ else _failed(work, action)
    if is_denial and beside.is_useless:
        return replace(decision, lane=Fate.CLOSE, why=ruling.words)
    return decision


def _failed(work: Work, action: Action) -> Decision:
    """Nothing more is sent of it: it has failed, unless a reading shows that a try of ours was applied."""
    if not work.may_be_applied or work.was_in_doubt or action.is_desired is None:
        return settle_failed(work)
    return _FAILED


def settle_failed(work: Work, words: str | None = None, *, agrees: bool | None = None) -> Decision:
    """Return that a call has failed; once in doubt, only by the last reading, as that of the doubt may be too old."""
    if work.was_in_doubt:
        return Decision(then=Then.PARK, words=words, agrees=agrees)
    return Decision(then=Then.SETTLE, outcome=Outcome.FAILED, words=words, agrees=agrees)


def _doubtful(action: Action) -> Decision:
    if action.is_desired is None:
        words = "no reading can tell whether it was applied"
        return Decision(then=Then.SETTLE, outcome=Outcome.UNKNOWN, words=words, doubt=True)
    return _DOUBT


def _hold(action: Action) -> Decision:
    return Decision(then=Then.HOLD, words=f"in doubt, and read at the end as not {action.done_word}")


def _stop(why: str) -> Decision:
    return Decision(then=Then.END, lane=Fate.ALL, why=why)


def _close(why: str) -> Decision:
    return Decision(then=Then.HAND_OVER, lane=Fate.CLOSE, why=why)


# ---- after a reading -----------------------------------------------------------------------------------------------


def decide_read(
    question: Question, work: Work, entry: Entry, answer: Answer, reading: Reading, action: Action
) -> Decision:
    """Return what a reading leads to that was made for the sake of `question`, after `answer`."""
    is_so = shown(action, reading, work.call.user)
    match question:
        case Question.REFUSAL:
            return _read_for_refusal(work, entry, answer, reading, action)
        case Question.FAILURE:
            if is_so is None:
                words = answer.message or rule(action.name, answer).words
                return settle_failed(work, f"{words} ({_unshown(reading)})")
            return _it_was_so(work, entry, action) if is_so else settle_failed(work, agrees=False)
        case Question.DOUBT:
            return _read_for_doubt(work, entry, answer, is_so, action)
        case Question.LAST:
            if is_so is None:
                return END  # unsettled, hence unknown: a resume reads it
            if is_so:
                return _it_was_so(work, entry, action)
            return Decision(then=Then.SETTLE, outcome=Outcome.FAILED, agrees=False)
        case _:  # pragma: no cover - closed set
            assert_never(question)


def _read_for_refusal(work: Work, entry: Entry, answer: Answer, reading: Reading, action: Action) -> Decision:
    """A refusal that may mean "already so", "busy" or "no such account", as PreCheckError."""
    state, is_so = reading.find(work.call.user), shown(action, reading, work.call.user)
    words = rule(action.name, answer).words
    if is_so:
        is_ours = work.may_have_done_it
        return Decision(
            then=Then.SETTLE,
            outcome=success(work, entry, action) if is_ours else Outcome.ALREADY,
            proof=Proof.READ,
            words=None if is_ours else words,
            agrees=True,
        )
    if state is not None and state.status in TRANSITIONAL:
        return settle_failed(work, FORBIDDEN) if work.no_send else _LATER
    if is_so is None:
        return settle_failed(work, f"{answer.message or words} ({_unshown(reading)})")
    is_absent = state is None and reading.accounts is not None
    return settle_failed(work, no_account_words(work.call, reading) if is_absent else None)


def _read_for_doubt(work: Work, entry: Entry, answer: Answer, is_so: bool | None, action: Action) -> Decision:
    """An attempt may have been applied."""
    if is_so:
        return _it_was_so(work, entry, action)
    if is_so is None:
        # It only sets a state: to set it twice is harmless, to leave it open for want of a reading is not.
        return _LATER if action.resendable and not work.no_send else _hold(action)
    if work.no_send:
        return replace(settle_failed(work, FORBIDDEN, agrees=False), doubt=False)
    if answer.stale_connection and work.stale < MOST_STALE:
        return Decision(then=Then.AGAIN, is_stale=True, agrees=False, doubt=False)
    return Decision(then=Then.AGAIN, budget=Budget.NORMAL, agrees=False, doubt=False)


def _it_was_so(work: Work, entry: Entry, action: Action) -> Decision:
    """A reading shows that a try of ours was applied, whatever was answered."""
    return Decision(
        then=Then.SETTLE, outcome=success(work, entry, action), proof=Proof.READ, is_refuted=True, agrees=True
    )


def _unshown(reading: Reading) -> str:
    if reading.accounts is None:
        return f"and the account could not be read: {reading.code}"
    return "and the reading of its instance does not show how the account stands"


def success(work: Work, entry: Entry, action: Action) -> Outcome:
    """Return `changed`, or `already` if it was so before: sent all the same (`resend_already`), or the API said so."""
    is_others = work.already is not None and not work.may_have_done_it
    return Outcome.ALREADY if is_others or entry.was_desired(action) else Outcome.CHANGED


# ---- after the proof -----------------------------------------------------------------------------------------------


def decide_proved(work: Work, entry: Entry, request_id: str | None, action: Action) -> tuple[Decision, Answer]:
    """Return what comes of an accepted call that is read back as desired, and the answer that it is settled by."""
    accepted = Answer(http=200, request_id=request_id, code=None, message=None)
    outcome = success(work, entry, action)
    proved = Decision(then=Then.SETTLE, outcome=outcome, proof=Proof.READ, agrees=True)
    if outcome is Outcome.ALREADY and work.already is not None:
        answer = replace(accepted, code=work.already)
        return replace(proved, words=rule(action.name, answer).words), answer
    return proved, accepted


def decide_disproved(
    work: Work, entry: Entry, request_id: str | None, action: Action, *, again: bool
) -> tuple[Decision, Answer]:
    """Return the same of one that was read back for half a minute as not so; `again`: it may be sent once more."""
    answer = Answer(http=200, request_id=request_id, code=NOT_APPLIED, message=None)
    if again:
        return replace(_AT_ONCE, agrees=False), answer
    said = "accepted" if entry.accepted_at is not None else "sent"
    words = f"{said} {work.attempt} times, yet read back as not {action.done_word}"
    return settle_failed(work, words, agrees=False), answer


# ---- its instance --------------------------------------------------------------------------------------------------


def health_of(answer: Answer, ruling: Ruling, *, is_mute: bool) -> Health:
    """Return what an answer says about its instance."""
    if answer.stale_connection or is_mute:
        return Health.SILENT
    if ruling.verdict in (Verdict.DONE, Verdict.ALREADY):
        return Health.GOOD
    of_instance = ruling.scope in (Scope.TARGET, Scope.INSTANCE) and answer.stage is Stage.AFTER_SEND
    if of_instance and ruling.verdict in (Verdict.TRANSIENT, Verdict.IN_DOUBT) and ruling.budget is not Budget.NONE:
        return Health.SICK
    return Health.SILENT
