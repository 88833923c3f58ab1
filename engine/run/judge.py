"""What becomes of a call after an attempt: settle it, try again, read first, or stop the run.

The rules are the table of engine/README.md, "The attempt loop". `verdicts` says what an answer means, `backoff` how
long to wait; this module joins them with what is known of the call, reads accounts where only a reading decides, and
writes the `settled` record. Three things hold for every call:

* `changed` means that a try of ours may have been applied, and that a reading shows the account so.
* A call that was ever in doubt fails only by a reading made after all else of the session is over.
* What was proven is compared with every later reading of the session: the newest reading has the last word.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Coroutine, Mapping
from types import MappingProxyType

from msgspec import Struct, field
from msgspec.structs import replace

from engine.api.actions import ACTIONS, TRANSITIONAL, Action
from engine.api.codes import NO_ANSWER, NOT_APPLIED, row_of
from engine.api.verdicts import Budget, Cure, Ruling, Scope, rule
from engine.cloud.client import Attempt
from engine.cloud.inventory import Inventory
from engine.errors import Exit
from engine.journal import records
from engine.journal.ledger import Entry, Ledger
from engine.model import AccountState, Answer, Call, CallId, Keys, Outcome, Proof, Reading, Stage, Verdict, Where
from engine.pacing.backoff import Policy, next_delay
from engine.planning.outlook import no_account_words, shown
from engine.run.callqueue import CallQueues, Health
from engine.run.lanes import Lane, others_of

SAME_CODE_CALLS = 20
SAME_CODE_INSTANCES = 3
"""When the first 20 settled calls over 3 instances all failed with one code, it is not the targets (design §4)."""
FIRST_CONTACT_S = 15.0
"""How long an endpoint that never answered is tried: rather a wrong address than an outage."""
MUTE_INSTANCES = 3
"""A lane is mute when it answers the calls of so many instances no more while the other lanes answer theirs: a sick
instance or two would look the same."""
DENIED_INSTANCES = 3
"""A lane that has the permission for none of so many instances, while other sub-accounts have it, is of no use."""
MOST_STALE = 3
"""How often a call is sent again at once after its connection turned out to be dead; then it waits as others do."""


class Ticket(Struct):
    """Leave to make one attempt: its `sent` is durable and its slot has come."""

    lane: Lane
    keys: Keys
    trace: str
    slot_at: float
    """Loop time of the slot."""


class Work(Struct):
    """A call that is open: begun and not settled."""

    index: int
    call: Call
    attempt: int
    """Number of the last attempt, over all sessions."""
    tries: int = 0
    """Attempts of this session that drew on a retry budget."""
    started: float | None = None
    """Loop time of the first of them."""
    cures: set[Cure] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    """Identities that have not the permission for it."""
    doubt: bool = False
    """An attempt may have been applied, and no reading since says it was not."""
    was_in_doubt: bool = False
    may_be_applied: bool = False
    """Some attempt may have been applied: in doubt, accepted, or answered with an error that does not say."""
    stale: int = 0
    """Attempts of this session that a dead connection took."""
    secret: str | None = None
    secret_ahead: bool = False
    """Its password was asked for and it has not been sent yet."""
    no_send: bool = False
    """Only to be read and settled: a guard forbids sending it again, or a later rerun has it."""
    ticket: asyncio.Future[Ticket | None] | None = None

    @property
    def may_have_done_it(self) -> bool:
        """Whether an earlier attempt of ours may be why the account is as desired now."""
        return self.was_in_doubt or self.may_be_applied


class Step(Struct, frozen=True):
    """What to do next with a call."""

    again: bool
    delay_s: float = 0.0
    retry: bool = True
    """Whether it waits among the retries, or lost nothing and keeps its place."""


class Parked(Struct, frozen=True):
    """A call of which nothing more is sent, and that only the last reading of the session may settle as failed."""

    work: Work
    answer: Answer
    message: str | None


def _patient(step: Step, attempt: Attempt) -> Step:
    """The same, but not sooner than the API asks for."""
    return replace(step, delay_s=max(step.delay_s, attempt.retry_after_s)) if step.again else step


FINAL = Step(again=False)
FREE = Step(again=True, retry=False)
AT_ONCE = Step(again=True)


class Judge:
    """Decides over the calls of one run."""

    def __init__(
        self,
        *,
        action: str,
        ledger: Ledger,
        queue: CallQueues,
        inventory: Inventory,
        record: Callable[[records.AnyRecord], object],
        stop: Callable[[str, Exit, Answer | None], None],
        close_lane: Callable[[Lane, str, Exit, Answer], bool],
        close_account: Callable[[str, str, Exit, Answer], None],
        policy: Policy,
        stop_after: int | None,
        rng: random.Random,
        lanes: list[Lane],
        await_proof: Callable[..., None] | None,
        elsewhere: Collection[CallId] = (),
    ) -> None:
        """`stop` ends the run; `close_lane` one lane, true if another can take its calls; `close_account` all of one.

        `elsewhere`: failed calls that later reruns have brought about; readings are compared with that, too.
        `await_proof` takes an accepted call to be read back; None: accepted is enough (`--no-verify`).
        """
        self._now = asyncio.get_running_loop().time
        self.action: Action = ACTIONS[action]
        self._ledger = ledger
        self._queue = queue
        self._inventory = inventory
        self._record = record
        self._stop = stop
        self._close_lane = close_lane
        self._close_account = close_account
        self._policy = policy
        self._stop_after = stop_after
        self._rng = rng
        self._lanes = lanes
        self._await_proof = await_proof
        self._failures = ledger.settled_counts()[Outcome.FAILED]
        self._first: dict[str, list[tuple[str | None, str]] | None] = {}
        """Account → the code and instance of each of its first settled calls, while all failed with one code."""
        if any(ledger.settled_counts().values()):
            self._first = dict.fromkeys({call.account for call in ledger.calls.values()})
        self.accepted = ledger.has_accepted()
        """Whether the API has accepted any call of this run."""
        self.accepted_at = 0.0
        """Loop time of the last accepted call, or of the start."""
        self._drain_until: float | None = None
        self._looks: set[asyncio.Timeout] = set()
        self.throttled_at = float("-inf")
        """Loop time of the last refusal for the quota."""
        self._parked: dict[CallId, Parked] = {}
        self._proven: dict[Where, dict[CallId, float]] = {}
        """By instance, what is proven of it: call → loop time; readings that began before say nothing against it."""
        self._back: dict[CallId, Where] = {}
        """What was proven and is read as changed back."""
        self._elsewhere = frozenset(elsewhere)
        self._note_what_was_proven()
        inventory.saw = self.saw

    # ---- what an attempt means -------------------------------------------------------------------------------------

    def rule(self, answer: Answer, lane: Lane) -> Ruling:
        """The ruling on an answer."""
        return rule(self.action.name, answer, refreshable_keys=lane.client.keys.refreshable)

    def health(self, work: Work, ticket: Ticket, answer: Answer, ruling: Ruling) -> Health:
        """What an answer says about its instance."""
        if answer.stale_connection:
            return Health.SILENT
        if self._is_mute(work, ticket, answer):
            return Health.SILENT
        if ruling.verdict in (Verdict.DONE, Verdict.ALREADY):
            return Health.GOOD
        of_instance = ruling.scope in (Scope.TARGET, Scope.INSTANCE) and answer.stage is Stage.AFTER_SEND
        if of_instance and ruling.verdict in (Verdict.TRANSIENT, Verdict.IN_DOUBT) and ruling.budget is not Budget.NONE:
            return Health.SICK
        return Health.SILENT

    async def judge(self, work: Work, ticket: Ticket, attempt: Attempt, ruling: Ruling) -> Step:
        """What to do after an attempt whose reply is recorded."""
        lane, answer = ticket.lane, attempt.answer
        if answer.stage is Stage.BEFORE_SEND:
            return self._unreachable(ticket, answer)
        if self._is_mute(work, ticket, answer):
            return await self._unheard(work, ticket, answer)
        self._note_reached(work, ticket, answer)
        work.may_be_applied = work.may_be_applied or row_of(answer.code).may_be_applied
        if ruling.verdict is not Verdict.THROTTLED:
            lane.pacer.accepted()
            self._note_gear(lane)
        match ruling.verdict:
            case Verdict.DONE:
                self._note_accepted(work)
                lane.accepted = True
                return self._accept(work, answer)
            case Verdict.ALREADY:
                self._note_accepted(work)
                lane.accepted = True
                return self._already(work, answer, ruling)
            case Verdict.REJECTED:
                if row_of(answer.code).is_denial and self._may_be_allowed_others(work, lane, ruling, answer):
                    return Step(again=True)
                if ruling.cure is Cure.READ:
                    return await self._decide_refusal(work, answer, ruling)
                return await self._fail(work, answer)
            case Verdict.THROTTLED:
                self.throttled_at = self._now()
                for each in self._sharing(lane, ruling.scope):
                    each.pacer.refused(ticket.slot_at)
                    if attempt.retry_after_s:
                        each.pacer.pause(attempt.retry_after_s)
                    self._note_gear(each)
                return FREE
            case Verdict.TRANSIENT:
                if ruling.cure is not Cure.NONE:
                    return await self._cure(work, ticket, attempt, ruling)
                return _patient(await self._back_off(work, answer, ruling.budget), attempt)
            case Verdict.IN_DOUBT:
                return _patient(await self.resolve_doubt(work, answer), attempt)
            case Verdict.FATAL:
                if ruling.scope is Scope.EVERY_LANE:
                    self._stop(ruling.words, self.fatal_exit(answer.code), answer)
                    return FINAL
                return self._leave(lane, ruling.words, answer)

    def _may_be_allowed_others(self, work: Work, lane: Lane, ruling: Ruling, answer: Answer) -> bool:
        """Whether another sub-account takes the same calls and has not been denied this one: CAM asks who signs."""
        others = self.others(lane)
        work.denied.add(lane.client.identity)
        lane.denied.add(work.call.where)
        if len(lane.denied) >= DENIED_INSTANCES and not lane.accepted and any(each.accepted for each in others):
            self._close_lane(lane, ruling.words, self.fatal_exit(answer.code), answer)
        return self._is_for_others(work, others)

    def is_for_others(self, work: Work, lane: Lane) -> bool:
        """Whether a call waits for another sub-account, as CAM has denied it to the one of this lane."""
        return lane.client.identity in work.denied and self._is_for_others(work, self.others(lane))

    @staticmethod
    def _is_for_others(work: Work, others: list[Lane]) -> bool:
        return any(each.client.identity not in work.denied for each in others)

    def _leave(self, lane: Lane, why: str, answer: Answer) -> Step:
        """The lane is of no use any more: another one takes the call, if there is one."""
        return FREE if self._close_lane(lane, why, self.fatal_exit(answer.code), answer) else FINAL

    def others(self, lane: Lane) -> list[Lane]:
        """The other lanes that take the same calls."""
        return others_of(self._lanes, lane)

    def _sharing(self, lane: Lane, scope: Scope) -> list[Lane]:
        """The lanes that a refusal for the quota of `lane` is about."""
        if scope is Scope.EVERY_LANE:
            return self._lanes
        if scope is Scope.ACCOUNT:
            return [each for each in self._lanes if each.account == lane.account]
        return [lane]

    def _accept(self, work: Work, answer: Answer, *, resend: bool = True) -> Step:
        """The API took the call: done means read back, unless nobody wants it or nothing can be read."""
        if self._await_proof is None:
            return self.settle(work, Outcome.CHANGED, Proof.ACCEPTED, answer)
        self._await_proof(work.index, answer.request_id, resend=resend)
        return FINAL

    def _already(self, work: Work, answer: Answer, ruling: Ruling) -> Step:
        """The API says that it was so before: by somebody else, or by a try of ours of which this is the echo.

        The code proves nothing by itself, as it may be meant for another account: a reading shows that it is so.
        """
        if self._await_proof is not None or work.may_have_done_it:
            return self._accept(work, answer)
        return self.settle(work, Outcome.ALREADY, Proof.CODE, answer, ruling.words)

    def _success(self, work: Work) -> Outcome:
        """Changed, unless it was so before: it was sent all the same (`resend_already`), or the API said so."""
        entry = self._ledger.entry(work.call.id)
        is_others = entry.verdict is Verdict.ALREADY and not work.may_have_done_it
        return Outcome.ALREADY if is_others or entry.was_desired(self.action) else Outcome.CHANGED

    def proved(self, work: Work, state: AccountState, request_id: str | None) -> None:
        """An accepted call was read back as desired."""
        self._verified(work, state, agrees=True)
        entry, outcome = self._ledger.entry(work.call.id), self._success(work)
        accepted = Answer(http=200, request_id=request_id, code=None, message=None)
        if outcome is Outcome.ALREADY and entry.verdict is Verdict.ALREADY:
            answer = replace(accepted, code=entry.code)
            self.settle(work, outcome, Proof.READ, answer, rule(self.action.name, answer).words)
            return
        self.settle(work, outcome, Proof.READ, accepted)

    def disproved(self, work: Work, state: AccountState | None, request_id: str | None, *, again: bool) -> None:
        """An accepted call was read back for half a minute as not so; `again`: it will be sent once more."""
        self._verified(work, state, agrees=False)
        if not again:
            accepted = Answer(http=200, request_id=request_id, code=None, message=None)
            said = "accepted" if self._ledger.entry(work.call.id).accepted_at is not None else "sent"
            words = f"{said} {work.attempt} times, yet read back as not {self.action.done_word}"
            self.settle_failed(work, replace(accepted, code=NOT_APPLIED), words)

    def _note_gear(self, lane: Lane) -> None:
        changed, gear = lane.pacer.gear.changed(), lane.pacer.gear
        if changed is not None:
            data = {"lane": lane.name, "guard": round(gear.guard, 4), "interval_ms": round(gear.interval_s * 1000, 1)}
            self._record(records.Note(what=f"lane_{changed}", data=data))

    def _note_accepted(self, work: Work) -> None:
        self._first[work.call.account] = None  # something was taken: not everything fails alike
        self.accepted = True
        self.accepted_at = self._now()

    def fatal_exit(self, code: str | None) -> Exit:
        """The exit of a run that ends for this code: 5 if it is about who asks and nothing was accepted yet."""
        return Exit.DENIED if row_of(code).is_about_sender and not self.accepted else Exit.STOPPED

    # ---- a lane that reaches nobody --------------------------------------------------------------------------------

    def _note_reached(self, work: Work, ticket: Ticket, answer: Answer) -> None:
        lane, was_down_since = ticket.lane, ticket.lane.down_since
        if answer.code != NO_ANSWER:
            lane.heard(self._now())
        elif self._is_silent(ticket, answer):
            lane.unanswered.add(work.call.where)
        elif not self.others(lane):
            lane.reached()
        if lane.down_since is None and was_down_since is not None and not lane.closed:
            data = {"lane": lane.name, "seconds": round(self._now() - was_down_since, 1)}
            self._record(records.Note(what="lane_up", data=data))

    def _is_mute(self, work: Work, ticket: Ticket, answer: Answer) -> bool:
        """Whether an attempt went unanswered for its lane's sake: that answers nobody since, and the others do."""
        lane = ticket.lane
        if lane.down_since is not None and answer.code == NO_ANSWER and lane.answered_at <= ticket.slot_at:
            return bool(self.others(lane))
        return self._is_silent(ticket, answer) and len(lane.unanswered | {work.call.where}) >= MUTE_INSTANCES

    def _is_silent(self, ticket: Ticket, answer: Answer) -> bool:
        """Whether an attempt went unanswered, and its lane has answered nothing since it left, as others have."""
        lane, left_at = ticket.lane, ticket.slot_at
        if answer.code != NO_ANSWER or lane.answered_at > left_at:
            return False
        return any(other.answered_at > left_at for other in self.others(lane))

    async def _unheard(self, work: Work, ticket: Ticket, answer: Answer) -> Step:
        # Its calls are the others' from now on. What became of this one only a reading tells.
        self._down(ticket.lane, answer, since=ticket.slot_at)
        return await self.resolve_doubt(work, answer)

    def _unreachable(self, ticket: Ticket, answer: Answer) -> Step:
        # Nothing was sent, so the call has lost nothing: the lane waits, not the call.
        return FREE if self._down(ticket.lane, answer, since=ticket.slot_at) else FINAL

    def _down(self, lane: Lane, answer: Answer, *, since: float) -> bool:
        """The lane pauses, and is closed when it has been down for too long; whether its calls have any lane left."""
        is_new = lane.down_since is None
        down_s = lane.unreachable(answer.message or str(answer.code), self._now(), since=since)
        if down_s >= (self._policy.transient_s if lane.answered else min(FIRST_CONTACT_S, self._policy.transient_s)):
            why = f"cannot reach the API for {down_s:.0f} s: {lane.down_why}"
            return self._close_lane(lane, why, self.fatal_exit(answer.code), answer)
        if is_new:
            self._record(records.Note(what="lane_down", data={"lane": lane.name, "why": lane.down_why}))
        return True

    async def _cure(self, work: Work, ticket: Ticket, attempt: Attempt, ruling: Ruling) -> Step:
        """Clock or keys: once each and call, free; a second time it is fatal (design §4)."""
        client, answer = ticket.lane.client, attempt.answer
        cured = ruling.cure not in work.cures and await client.cure(ruling.cure, attempt, ticket.keys)
        if not cured and ruling.cure is Cure.CLOCK:
            self._stop(ruling.words, self.fatal_exit(answer.code), answer)
            return FINAL
        if not cured:
            why = f"{ruling.words} {client.not_refreshed}" if client.not_refreshed else ruling.words
            return self._leave(ticket.lane, why, answer)
        work.cures.add(ruling.cure)
        return FREE

    async def _back_off(self, work: Work, answer: Answer, budget: Budget) -> Step:
        now = self._now()
        work.tries += 1
        work.started = now if work.started is None else work.started
        # A call of an instance that has been sick for longer than the call was open does not start a budget anew.
        since = min(work.started, self._queue.of(work.index).sick_since(work.index) or work.started)
        delay = next_delay(budget, tries=work.tries, elapsed_s=now - since, policy=self._policy, rng=self._rng)
        if delay is None:
            return self._leave_in_doubt(work, answer) if work.doubt else await self._fail(work, answer)
        return Step(again=True, delay_s=delay)

    async def take_up(self, work: Work, entry: Entry) -> Step:
        """A call that an earlier session left begun, or in doubt whatever was read of it then."""
        answer = Answer(http=None, request_id=entry.request_id, code=entry.code, message=entry.message)
        if entry.unanswered or entry.doubt:
            return await self.resolve_doubt(work, _UNANSWERED if entry.unanswered else answer)
        if entry.verdict is Verdict.DONE:
            return self._accept(work, answer, resend=False)
        ruling = rule(self.action.name, answer)
        if entry.verdict is Verdict.ALREADY:
            return self._already(work, answer, ruling)
        if entry.verdict is not Verdict.REJECTED:
            return await self.resolve_doubt(work, answer)
        if ruling.cure is Cure.READ:
            return await self._decide_refusal(work, answer, ruling)
        return await self._fail(work, answer)

    # ---- what only a reading tells -----------------------------------------------------------------------------

    async def _decide_refusal(self, work: Work, answer: Answer, ruling: Ruling) -> Step:
        """A refusal that may mean "already so", "busy" or "no such account", as PreCheckError: a reading decides."""
        reading = await self._look(work.call.where, work.call.user, purpose="refusal")
        state, is_so = reading.find(work.call.user), shown(self.action, reading, work.call.user)
        if is_so and state is not None:
            is_ours = work.may_have_done_it
            self._verified(work, state, agrees=True)
            outcome = self._success(work) if is_ours else Outcome.ALREADY
            return self.settle(work, outcome, Proof.READ, answer, None if is_ours else ruling.words)
        if state is not None and state.status in TRANSITIONAL:
            return await self._back_off(work, answer, Budget.NORMAL)
        if is_so is None:
            return self.settle_failed(work, answer, f"{answer.message or ruling.words} ({self._unshown(reading)})")
        words = no_account_words(work.call, reading) if state is None and reading.accounts is not None else None
        return self.settle_failed(work, answer, words)

    async def _fail(self, work: Work, answer: Answer) -> Step:
        """Nothing more is sent of a call: it has failed, unless a reading shows that a try of ours was applied."""
        if not work.may_be_applied or work.was_in_doubt or self.action.is_desired is None:
            return self.settle_failed(work, answer)
        reading = await self._look(work.call.where, work.call.user, purpose="refusal")
        state, is_so = reading.find(work.call.user), shown(self.action, reading, work.call.user)
        if is_so and state is not None:
            return self._it_was_so(work, state, answer)
        if is_so is None:
            words = answer.message or rule(self.action.name, answer).words
            return self.settle_failed(work, answer, f"{words} ({self._unshown(reading)})")
        self._verified(work, state, agrees=False)
        return self.settle_failed(work, answer)

    @staticmethod
    def _unshown(reading: Reading) -> str:
        if reading.accounts is None:
            return f"and the account could not be read: {reading.code}"
        return "and the reading of its instance does not show how the account stands"

    async def resolve_doubt(self, work: Work, answer: Answer) -> Step:
        """An attempt may have been applied: read, and settle or go on."""
        work.doubt = work.was_in_doubt = True
        if self.action.is_desired is None:
            return self.settle(work, Outcome.UNKNOWN, None, answer, "no reading can tell whether it was applied")
        reading = await self._look(work.call.where, work.call.user, purpose="doubt")
        state, is_so = reading.find(work.call.user), shown(self.action, reading, work.call.user)
        if is_so and state is not None:
            self._queue.of(work.index).recovered(work.index, self._now())
            return self._it_was_so(work, state, answer)
        if is_so is None and (work.no_send or not self.action.resendable):
            return self._leave_in_doubt(work, answer)
        if is_so is None:
            # It only sets a state: to set it twice is harmless, to leave it open for want of a reading is not.
            return await self._back_off(work, answer, Budget.NORMAL)
        self._verified(work, state, agrees=False)
        work.doubt = False
        if work.no_send:
            return self.settle_failed(work, answer, "read as not done; a guard, or a later rerun, forbids it")
        if answer.stale_connection and work.stale < MOST_STALE:
            work.stale += 1
            return AT_ONCE
        return await self._back_off(work, answer, Budget.NORMAL)

    def _it_was_so(self, work: Work, state: AccountState, answer: Answer) -> Step:
        """A reading shows that a try of ours was applied, whatever was answered."""
        self._verified(work, state, agrees=True)
        return self.settle(work, self._success(work), Proof.READ, answer, code=None)

    # ---- the last reading of a session -------------------------------------------------------------------------

    def _leave_in_doubt(self, work: Work, answer: Answer) -> Step:
        """Nothing more is sent of a call of which nobody knows whether it was applied: the last reading may tell."""
        done = self.action.done_word
        self._parked[work.call.id] = Parked(work, answer, f"in doubt, and read at the end as not {done}")
        return FINAL

    def settle_failed(self, work: Work, answer: Answer, message: str | None = None) -> Step:
        """It has failed; if it was ever in doubt, it waits for the last reading: the doubt's reading may be too old."""
        if not work.was_in_doubt:
            return self.settle(work, Outcome.FAILED, None, answer, message)
        self._parked[work.call.id] = Parked(work, answer, message)
        work.secret = None
        self._count(Outcome.FAILED, work, answer)
        return FINAL

    def last_looks(self) -> list[Coroutine[None, None, None]]:
        """The last readings of a session: one of each instance where it decides.

        They settle what was in doubt and is given up, and look again at what is read as changed back.
        """
        places: dict[Where, list[Parked]] = {where: [] for where in self._back.values()}
        for parked in self._parked.values():
            places.setdefault(parked.work.call.where, []).append(parked)
        return [self._look_last(where, group) for where, group in places.items()]

    async def _look_last(self, where: Where, group: list[Parked]) -> None:
        back = [self._ledger.calls[call].user for call, at in self._back.items() if at == where]
        reading = await self._look(where, *back, *(parked.work.call.user for parked in group), purpose="end")
        for parked in group:
            work = parked.work
            state, is_so = reading.find(work.call.user), shown(self.action, reading, work.call.user)
            if is_so is None:
                continue  # unsettled, hence unknown: a resume reads it
            del self._parked[work.call.id]
            if is_so and state is not None:
                self._it_was_so(work, state, parked.answer)
            else:
                self._verified(work, state, agrees=False)
                self._write(work, Outcome.FAILED, None, parked.answer, parked.message, parked.answer.code)

    def _note_what_was_proven(self) -> None:
        """What earlier sessions have proven is compared with the readings of this one, too."""
        if not any(self._ledger.settled_counts().values()):
            return
        for call, entry, _ in self._ledger.outcomes():
            if call.id in self._elsewhere or self._is_proof(entry.outcome, entry.proof):
                self._proven.setdefault(call.where, {})[call.id] = _ALWAYS
                if entry.is_back:
                    self._back[call.id] = call.where

    @property
    def done_elsewhere(self) -> int:
        """Failed calls that later reruns have brought about, unless this session has read that it is so no longer."""
        return len(self._elsewhere - self._back.keys())

    @property
    def back_elsewhere(self) -> int:
        """The other ones."""
        return len(self._elsewhere & self._back.keys())

    def saw(self, where: Where, reading: Reading, began_at: float) -> None:
        """Compare a reading, made for whatever purpose, with what is proven of its instance.

        `began_at` is loop time. A reading of an older state than the proof's says nothing.
        """
        for call_id, since in self._proven.get(where, _NOBODY).items():
            user = self._ledger.calls[call_id].user
            is_so = shown(self.action, reading, user) if since <= began_at else None
            state = reading.find(user)
            if is_so is None or is_so is not (call_id in self._back) or self._is_older(call_id, state):
                continue
            if is_so:
                del self._back[call_id]
            else:
                self._back[call_id] = where
            self._verified_call(call_id, state, agrees=is_so)

    def _is_older(self, call_id: CallId, state: AccountState | None) -> bool:
        """Whether a row is of before the proof: readings may come from a copy that is behind."""
        entry = self._ledger.entry(call_id)
        proof = entry.verified or entry.before
        return bool(state and proof and state.update_time and state.update_time < (proof.update_time or ""))

    @staticmethod
    def _is_proof(outcome: Outcome | None, proof: Proof | None) -> bool:
        return outcome in (Outcome.CHANGED, Outcome.ALREADY) and proof not in (None, Proof.ACCEPTED)

    # ---- readings ----------------------------------------------------------------------------------------------

    async def _look(self, where: Where, *users: str, purpose: str) -> Reading:
        try:
            async with asyncio.timeout_at(self._drain_until) as bound:
                self._looks.add(bound)
                return await self._inventory.read(where, purpose=purpose, users=users)
        except TimeoutError:
            return Reading(accounts=None, code=NO_ANSWER, message="not read before the drain ended")
        finally:
            self._looks.discard(bound)

    def drain(self, until: float) -> None:
        """The run is stopping: readings under way and to come end by this loop time; a later word may move it."""
        self._drain_until = until
        for bound in self._looks:
            if not bound.expired():
                bound.reschedule(until)

    def _verified(self, work: Work, state: AccountState | None, *, agrees: bool) -> None:
        self._verified_call(work.call.id, state, agrees=agrees)

    def _verified_call(self, call_id: CallId, state: AccountState | None, *, agrees: bool) -> None:
        self._record(
            records.Verified(
                call=call_id,
                status=state.status if state else None,
                cam=state.cam if state else None,
                update_time=state.update_time if state else None,
                agrees=agrees,
            )
        )

    # ---- the end of a call -------------------------------------------------------------------------------------

    def settle(
        self,
        work: Work,
        outcome: Outcome,
        proof: Proof | None,
        answer: Answer,
        message: str | None = None,
        *,
        code: str | None = "",
        attempted: bool = True,
    ) -> Step:
        """Write the outcome, last and final; then see whether the run should stop for it.

        What was settled without an attempt (not there, or so before) counts towards no limit.
        """
        self._write(work, outcome, proof, answer, message, answer.code if code == "" else code)
        if attempted:
            self._count(outcome, work, answer if code == "" else replace(answer, code=code))
        return FINAL

    def _write(
        self, work: Work, outcome: Outcome, proof: Proof | None, answer: Answer, message: str | None, code: str | None
    ) -> None:
        self._record(
            records.Settled(
                call=work.call.id,
                outcome=outcome,
                proof=proof,
                attempts=work.attempt,
                request_id=answer.request_id,
                code=code,
                message=message,
            )
        )
        work.secret = None
        if self._is_proof(outcome, proof):
            # A reading that proves it is over, and none of its instance has begun since.
            since = _ALWAYS if proof is Proof.READ else self._now()
            self._proven.setdefault(work.call.where, {})[work.call.id] = since

    def _count(self, outcome: Outcome, work: Work, answer: Answer) -> None:
        """See whether the run should stop for an outcome."""
        if outcome is Outcome.FAILED:
            self._failures += 1
        self._watch_for_one_cause(outcome, answer.code, work.call, answer)
        if self._stop_after is not None and outcome is Outcome.FAILED and self._failures >= self._stop_after:
            self._stop(f"stop_after: {self._failures} failed", Exit.STOPPED, answer)

    def _watch_for_one_cause(self, outcome: Outcome, code: str | None, call: Call, answer: Answer) -> None:
        first = self._first.setdefault(call.account, [])
        if first is None:
            return
        if outcome is not Outcome.FAILED or (first and first[0][0] != code):
            self._first[call.account] = None
            return
        first.append((code, call.instance))
        instances = {instance for _, instance in first}
        if len(first) >= SAME_CODE_CALLS and len(instances) >= SAME_CODE_INSTANCES:
            whose = f" of {call.account}" if call.account else ""
            why = (
                f"the first {len(first)} calls{whose}, on {len(instances)} instances, all failed with {code}: "
                "look at the region, the permission or the list"
            )
            self._close_account(call.account, why, self.fatal_exit(code), answer)


_UNANSWERED = Answer(http=None, request_id=None, code=None, message=None)
_ALWAYS = float("-inf")
_NOBODY: Mapping[CallId, float] = MappingProxyType({})
