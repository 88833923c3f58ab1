"""The judge carries out what `decide` says of a call: it writes, reads, waits, and slows down or closes lanes."""

from __future__ import annotations

import asyncio
import random
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from engine.api.codes import row_of
from engine.api.verdicts import Budget, Cure, Ruling, rule
from engine.cloud.client import Attempt
from engine.model import Answer, Stage, Verdict
from engine.pacing.backoff import Policy, next_delay
from engine.run.callqueue import Health
from engine.run.decide import (
    ALONE,
    Beside,
    Decision,
    Fate,
    Question,
    Then,
    decide,
    decide_begun,
    decide_given_up,
    decide_read,
    decide_uncured,
    health_of,
)
from engine.run.halts import Halts
from engine.run.lanes import Lane, Lanes, Ticket
from engine.run.looks import Looks
from engine.run.queues import CallQueues
from engine.run.readback import ReadBack
from engine.run.recorder import Recorder
from engine.run.settling import Settling
from engine.run.stopping import Stopping
from engine.run.work import Work


class Step(Struct, frozen=True):
    """What to do next with a call."""

    again: bool
    delay_s: float = 0.0
    retry: bool = True
    """Whether it waits among the retries; else it lost nothing and keeps its place."""


FINAL = Step(again=False)
FREE = Step(again=True, retry=False)
AT_ONCE = Step(again=True)


class Patience:
    """How long a call waits before it is tried again, and when the session gives it up."""

    def __init__(self, policy: Policy, rng: random.Random, queue: CallQueues, halts: Halts) -> None:
        self._now = asyncio.get_running_loop().time
        self._policy = policy
        self._rng = rng
        self._queue = queue
        self._counted = halts.counted

    def draw(self, work: Work, budget: Budget) -> float | None:
        """Count an attempt of a call on a budget; return the seconds to wait, None if the budget is spent."""
        now = self._now()
        work.tries += 1
        work.started = now if work.started is None else work.started
        # If the instance was sick before the call's first try, the budget counts from when it fell sick.
        since = min(work.started, self._queue.of(work.index).sick_since(work.index) or work.started)
        return next_delay(budget, tries=work.tries, elapsed_s=self._counted(since), policy=self._policy, rng=self._rng)


class Judge:
    """The part of a session that carries out what `decide` says of each call."""

    def __init__(
        self,
        recorder: Recorder,
        queue: CallQueues,
        lanes: Lanes,
        stopping: Stopping,
        looks: Looks,
        settling: Settling,
        read_back: ReadBack,
        patience: Patience,
    ) -> None:
        self._now = asyncio.get_running_loop().time
        self._ledger = recorder.ledger
        self._action = recorder.action
        self._reads_back = recorder.reads_back
        self._queue = queue
        self._lanes = lanes
        self._stopping = stopping
        self._looks = looks
        self._settling = settling
        self._read_back = read_back
        self._patience = patience
        self.accepted_at = 0.0
        """Loop time of the last accepted call, or of the start."""
        self.throttled_at = float("-inf")
        """Loop time of the last refusal for the quota."""

    # ---- after an attempt ------------------------------------------------------------------------------------------

    def rule(self, answer: Answer, lane: Lane) -> Ruling:
        """Return what an answer means."""
        return rule(self._action.name, answer, refreshable_keys=lane.client.keys.refreshable)

    def health(self, work: Work, ticket: Ticket, answer: Answer, ruling: Ruling) -> Health:
        """Return what an answer says about its instance."""
        return health_of(answer, ruling, is_mute=self._lanes.is_mute(work.where, ticket, answer))

    async def judge(self, work: Work, ticket: Ticket, attempt: Attempt, ruling: Ruling) -> Step:
        """Decide about a call after an attempt whose reply is recorded; return what to do next with it."""
        answer = attempt.answer
        beside = self._note(work, ticket, answer, ruling)
        decision = decide(work, answer, ruling, action=self._action, reads_back=self._reads_back, beside=beside)
        if decision.slow is not None:
            self._slow(decision, ticket, attempt)
        is_left = decision.lane is None or self._end_lane(decision, ticket, answer)
        if decision.then is Then.HAND_OVER:
            return FREE if is_left else FINAL
        if decision.then is Then.CURE:
            return await self._cure(work, ticket, attempt, ruling)
        step = await self._carry_out(work, decision, answer)
        if decision.heeds_server and step.again:
            return replace(step, delay_s=max(step.delay_s, attempt.retry_after_s))
        return step

    def _note(self, work: Work, ticket: Ticket, answer: Answer, ruling: Ruling) -> Beside:
        """Take note of what an answer says of the call and of its lane; return what is known beside the call."""
        lane = ticket.lane
        if answer.stage is Stage.BEFORE_SEND:
            return ALONE
        if self._lanes.is_mute(work.where, ticket, answer):
            return Beside(is_mute=True)
        self._lanes.reached(work.where, ticket, answer)
        row = row_of(answer.code)
        work.may_be_applied = work.may_be_applied or row.may_be_applied
        if ruling.verdict is not Verdict.THROTTLED:
            lane.pacer.accepted()
            self._lanes.note_gear(lane)
        if ruling.verdict in (Verdict.DONE, Verdict.ALREADY):
            self._settling.something_was_taken(work.call)
            self._stopping.has_accepted = lane.accepted = True
            self.accepted_at = self._now()
        elif ruling.verdict is Verdict.REJECTED and row.is_denial:
            work.denied |= {lane.client.identity}
            lane.denied.add(work.where)
            return Beside(
                others_may=self._lanes.others_may(work.denied, lane),
                is_useless=self._lanes.is_useless(lane),
                is_for_elsewhere=lane.has_others,
            )
        return ALONE

    def _slow(self, decision: Decision, ticket: Ticket, attempt: Attempt) -> None:
        assert decision.slow is not None
        self.throttled_at = self._now()
        for each in self._lanes.sharing(ticket.lane, decision.slow):
            each.pacer.refused(ticket.slot_at)
            if attempt.retry_after_s:
                each.pacer.pause(attempt.retry_after_s)
            self._lanes.note_gear(each)

    def _end_lane(self, decision: Decision, ticket: Ticket, answer: Answer) -> bool:
        """Pause or close lanes as was decided; return whether a lane is left for the calls."""
        match decision.lane:
            case Fate.DOWN:
                return self._lanes.down(ticket.lane, answer, since=ticket.slot_at)
            case Fate.CLOSE:
                return self._lanes.close(ticket.lane, decision.why, answer)
            case Fate.ALL:
                self._stopping.stop(decision.why, self._stopping.reason_for(answer.code), answer)
                return False
            case None:
                return True
            case _:  # pragma: no cover - closed set
                assert_never(decision.lane)

    async def _cure(self, work: Work, ticket: Ticket, attempt: Attempt, ruling: Ruling) -> Step:
        """Mend the clock or the keys, each once for a call and free; else close the lane, or stop the session."""
        client, cure = ticket.lane.client, ruling.cure
        assert cure is not Cure.NONE
        if cure not in work.cures and await client.cure(cure, attempt, ticket.keys):
            work.cures |= {cure}
            return FREE
        decision = decide_uncured(ruling, client.not_refreshed)
        is_left = self._end_lane(decision, ticket, attempt.answer)
        return FREE if decision.then is Then.HAND_OVER and is_left else FINAL

    # ---- what was decided ------------------------------------------------------------------------------------------

    async def go_on(self, work: Work) -> Step:
        """Decide about a call that an earlier session has sent and not settled; return what to do next with it."""
        entry = self._ledger.entry(work.id)
        answer = Answer(http=None, request_id=entry.request_id, code=entry.code, message=entry.message)
        decision = decide_begun(work, entry, answer, self._action, reads_back=self._reads_back)
        return await self._carry_out(work, decision, _UNANSWERED if entry.unanswered else answer)

    async def _carry_out(self, work: Work, decision: Decision, answer: Answer) -> Step:
        """Write, read and decide anew; return what to do next with a call once that is known."""
        state = None
        while True:
            self._settling.carry_out(work, decision, answer, state)
            match decision.then:
                case Then.READ:
                    question = decision.question
                    assert question is not None
                    reading = await self._looks.read(work.where, work.call.user, purpose=question.purpose)
                    state, entry = reading.find(work.call.user), self._ledger.entry(work.id)
                    decision = decide_read(question, work, entry, answer, reading, self._action)
                    if question is Question.DOUBT and decision.agrees:
                        self._queue.of(work.index).recovered(work.index, self._now())
                case Then.AGAIN:
                    if decision.budget is None:
                        work.stale += decision.is_stale
                        return FREE if decision.keeps_place else AT_ONCE
                    delay_s = self._patience.draw(work, decision.budget)
                    if delay_s is not None:
                        return Step(again=True, delay_s=delay_s)
                    decision = decide_given_up(work, answer, self._action)
                case Then.PROVE:
                    self._read_back.accepted(work, answer.request_id, resend=decision.resend)
                    return FINAL
                case _:
                    return FINAL


_UNANSWERED = Answer(http=None, request_id=None, code=None, message=None)
