"""What an answer, or a reading, leads to. No I/O, no clock, no loop: `judge` carries out what is decided here.

The rules are the table of engine/sending.md, "The attempt loop". `verdicts` says what an answer means; this module
joins that with what is known of the call and its lane. Three things hold for every call:

* `changed` means that an attempt of ours may have been applied, and that a reading shows the account as desired.
* A call that was ever in doubt fails only by the last reading, made after all else of the session is over.
* A reading that does not show the account proves nothing: it neither denies nor settles a call.
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
"""How often a call is sent again at once after its connection turned out to be dead; after that it backs off."""


FORBIDDEN = "read as not done; a guard, or a later rerun, forbids it"
"""The journal's words for a call that would be sent again if it were allowed."""

NOT_AGAIN = (
    "no clear answer, and read at the end as not applied; not sent again, as passwords does not say stored: true"
)
"""The journal's words for a call that would be sent again if its password were sure to be the same."""
MAYBE_OTHERS = "no clear answer; read as changed since it was sent: by this call, or by somebody else just then"
"""The journal's words for a call that a change proves, where no answer says that the change is ours."""


class Then(Enum):
    """What becomes of a call."""

    SETTLE = "settle"
    """Its outcome is written."""
    PARK = "park"
    """It has failed, unless the last reading of the session shows that it was applied."""
    HOLD = "hold"
    """It stays in doubt, and only the last reading of the session may settle it."""
    PROVE = "prove"
    """It was accepted, and its account is read back."""
    READ = "read"
    """Its account is read, and the reading decides the `question`."""
    AGAIN = "again"
    """It is tried again: when its `budget` says so, or at once."""
    CURE = "cure"
    """It is tried again once the clock or the keys are mended."""
    HAND_OVER = "hand_over"
    """It goes back to the queue for a lane that may send it, if one is left; it has lost nothing."""
    END = "end"
    """Nothing more is done about it in this session."""


class Question(Enum):
    """What a reading is to decide."""

    REFUSAL = "refusal"
    """Whether a refusal means "already so", "busy" or "no such account"."""
    FAILURE = "failure"
    """Whether an earlier attempt of a call that has failed was applied."""
    DOUBT = "doubt"
    """Whether an attempt whose effect is unknown was applied."""
    LAST = "end"
    """As DOUBT, at the end of the session, when nothing is under way any more."""

    @property
    def purpose(self) -> str:
        """The purpose of the reading, as the journal names it."""
        return "refusal" if self is Question.FAILURE else self.value


class Fate(Enum):
    """What becomes of a lane."""

    DOWN = "down"
    """It pauses; it is closed once it has been down for too long."""
    CLOSE = "close"
    """It sends no more."""
    ALL = "all"
    """No lane sends any more: the session stops."""


class Decision(Struct, frozen=True, kw_only=True):
    """What to do with a call, and with its lane and others. Fields that need a certain `then` name it."""

    then: Then
    outcome: Outcome | None = None
    """SETTLE: the outcome of the call."""
    proof: Proof | None = None
    """SETTLE: on what the outcome rests."""
    words: str | None = None
    """SETTLE, PARK and HOLD: the message for the journal; None: the API's message stays."""
    is_refuted: bool = False
    """SETTLE: whether a reading contradicts the answer's code; the code is then not kept."""
    agrees: bool | None = None
    """Whether a reading shows the account as desired, written first; None: it does not tell, or was not made."""
    doubt: bool | None = None
    """Whether the call is in doubt from now on; None: unchanged."""
    question: Question | None = None
    """READ: what the reading is to decide."""
    budget: Budget | None = None
    """AGAIN: the budget it draws on; None: it is free, and goes at once."""
    is_stale: bool = False
    """AGAIN: whether the attempt was lost because its connection was dead."""
    heeds_server: bool = False
    """Whether the next attempt waits at least as long as the server asked for."""
    keeps_place: bool = False
    """AGAIN: whether it lost nothing, and does not wait among the retries."""
    cure: Cure = Cure.NONE
    """CURE: what is to be mended."""
    resend: bool = True
    """PROVE: whether it may be sent again if a reading denies it."""
    slow: Scope | None = None
    """Which lanes slow down; None: no lane."""
    lane: Fate | None = None
    """What becomes of the lane that sent it; None: nothing."""
    why: str = ""
    """Why the lane is closed, or the session stops."""


class Beside(Struct, frozen=True, kw_only=True):
    """What is known beside the call: of its lane, and of the other lanes that take the same calls."""

    is_mute: bool = False
    """Whether the lane gets no answers, while other lanes can take its calls."""
    others_may: bool = False
    """Whether a lane of another sub-account takes the call, to which CAM has not denied it."""
    is_useless: bool = False
    """Whether CAM denies the lane everything, and has not denied other sub-accounts."""
    is_for_elsewhere: bool = False
    """Whether sessions of other sub-accounts take the calls of the lane once it is closed."""


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
    """Return what an attempt leads to, by its `answer`; `reads_back`: whether accepted calls are to be proven."""
    if answer.stage is Stage.BEFORE_SEND:
        # Nothing was sent, so the call has lost nothing: the lane waits, not the call.
        return Decision(then=Then.HAND_OVER, lane=Fate.DOWN)
    if beside.is_mute:
        # The other lanes take its calls from now on. Only a reading tells whether this call was applied.
        return replace(_doubtful(action), lane=Fate.DOWN)
    match ruling.verdict:
        case Verdict.DONE:
            if not reads_back:
                return _TAKEN
            return _PROVE_ONLY if action.is_sent_once else _PROVE
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
    """Return what follows when the clock or the keys cannot be mended; `why` is what the source of the keys said."""
    if ruling.cure is Cure.CLOCK:
        return _stop(ruling.words)
    return _close(f"{ruling.words} {why}" if why else ruling.words)


def decide_given_up(work: Work, answer: Answer, action: Action) -> Decision:
    """Return what becomes of a call whose budget is spent."""
    return _hold(action) if work.doubt else _failed(work, action)


def decide_begun(work: Work, entry: Entry, answer: Answer, action: Action, *, reads_back: bool) -> Decision:
    """Return what becomes of a call that an earlier session has sent and not settled.

    A call in doubt stays so, whatever that session has read of it. `answer` is the last one in its journal.
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
    is_untouched = not (work.may_be_applied or work.was_in_doubt or work.no_send)
    if row_of(answer.code).is_denial and is_untouched:
        return _AT_ONCE  # that session may have been of another sub-account
    return _ASK if ruling.cure is Cure.READ else _failed(work, action)


def _already(work: Work, ruling: Ruling, reads_back: bool) -> Decision:
    """Return what an answer "already so" leads to: somebody else changed the account, or an earlier attempt of ours.

    The code alone proves nothing, as it may be meant for another account: a reading shows how the account is.
    """
    if reads_back:
        return _PROVE_ONLY if work.no_send else _PROVE
    if work.may_have_done_it:
        return _TAKEN
    return Decision(then=Then.SETTLE, outcome=Outcome.ALREADY, proof=Proof.CODE, words=ruling.words)


def _rejected(work: Work, answer: Answer, ruling: Ruling, action: Action, beside: Beside) -> Decision:
    is_denial = row_of(answer.code).is_denial
    if is_denial and beside.is_for_elsewhere:
        return _close(ruling.words)
    if is_denial and beside.others_may:
        decision = _AT_ONCE
    else:
        decision = _ASK if ruling.cure is Cure.READ else _failed(work, action)
    if is_denial and beside.is_useless:
        return replace(decision, lane=Fate.CLOSE, why=ruling.words)
    return decision


def _failed(work: Work, action: Action) -> Decision:
    """Return what becomes of a call that is not sent again: failed, unless a reading shows an attempt as applied."""
    if not work.may_be_applied or work.was_in_doubt or not action.is_readable:
        return settle_failed(work)
    return _FAILED


def settle_failed(work: Work, words: str | None = None, *, agrees: bool | None = None) -> Decision:
    """Return that a call has failed; if it was ever in doubt, the last reading decides, as others may be too old."""
    if work.was_in_doubt:
        return Decision(then=Then.PARK, words=words, agrees=agrees)
    return Decision(then=Then.SETTLE, outcome=Outcome.FAILED, words=words, agrees=agrees)


def _doubtful(action: Action) -> Decision:
    if not action.is_readable:
        words = "no reading can tell whether it was applied"
        return Decision(then=Then.SETTLE, outcome=Outcome.UNKNOWN, words=words, doubt=True)
    return _DOUBT


def _hold(action: Action) -> Decision:
    if action.is_sent_once:
        return Decision(then=Then.HOLD, words=NOT_AGAIN)
    return Decision(then=Then.HOLD, words=f"in doubt, and read at the end as not {action.done_word}")


def _stop(why: str) -> Decision:
    return Decision(then=Then.END, lane=Fate.ALL, why=why)


def _close(why: str) -> Decision:
    return Decision(then=Then.HAND_OVER, lane=Fate.CLOSE, why=why)


# ---- after a reading -----------------------------------------------------------------------------------------------


def decide_read(
    question: Question, work: Work, entry: Entry, answer: Answer, reading: Reading, action: Action
) -> Decision:
    """Return what a reading leads to that was made for `question` after `answer`."""
    is_so = shown(action, reading, work.call.user, entry.state_before)
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
                return END  # it stays unsettled, hence `unknown`: a resume reads it
            if is_so:
                return _it_was_so(work, entry, action)
            return Decision(then=Then.SETTLE, outcome=Outcome.FAILED, agrees=False)
        case _:  # pragma: no cover - closed set
            assert_never(question)


def _read_for_refusal(work: Work, entry: Entry, answer: Answer, reading: Reading, action: Action) -> Decision:
    """Decide about a refusal that may mean "already so", "busy" or "no such account", such as PreCheckError."""
    state, is_so = reading.find(work.call.user), shown(action, reading, work.call.user, entry.state_before)
    words = rule(action.name, answer).words
    is_ours = work.may_have_done_it
    if is_so and action.proof is not None and not is_ours:  # somebody else's change is not what was asked for
        return settle_failed(work)
    if is_so:
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
    """Decide about a call whose last attempt may have been applied."""
    if is_so:
        return _it_was_so(work, entry, action)
    if is_so is None:
        # A resendable action only sets a state. To set it twice is harmless; to leave the call open is not.
        return _LATER if action.resendable and not work.no_send else _hold(action)
    if work.no_send:
        return replace(settle_failed(work, FORBIDDEN, agrees=False), doubt=False)
    if action.is_sent_once:
        return replace(_hold(action), agrees=False)
    if answer.stale_connection and work.stale < MOST_STALE:
        return Decision(then=Then.AGAIN, is_stale=True, agrees=False, doubt=False)
    return Decision(then=Then.AGAIN, budget=Budget.NORMAL, agrees=False, doubt=False)


def _it_was_so(work: Work, entry: Entry, action: Action) -> Decision:
    """Settle a call as done: a reading shows that an attempt of ours was applied, whatever the API answered."""
    return Decision(
        then=Then.SETTLE,
        outcome=success(work, entry, action),
        proof=Proof.READ,
        words=MAYBE_OTHERS if action.proof is not None else None,
        is_refuted=True,
        agrees=True,
    )


def _unshown(reading: Reading) -> str:
    if reading.accounts is None:
        return f"and the account could not be read: {reading.code}"
    return "and the reading of its instance does not show how the account stands"


def success(work: Work, entry: Entry, action: Action) -> Outcome:
    """Return `already` if its reading (`resend_already`) or the API says that it was so before; else `changed`."""
    is_others = work.already is not None and not work.may_have_done_it
    return Outcome.ALREADY if is_others or entry.was_desired(action) else Outcome.CHANGED


# ---- after the proof -----------------------------------------------------------------------------------------------


def decide_proved(work: Work, entry: Entry, request_id: str | None, action: Action) -> tuple[Decision, Answer]:
    """Return what becomes of an accepted call that is read back as desired, and the answer that settles it."""
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
    """Return both for a call read back as not so for half a minute; `again`: whether it may be sent once more."""
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
