"""The attempts of one call: the first one and its repeats. This module is the only importer of tenacity.

tenacity's loop runs the attempts after the first; a call whose first attempt is final does not need it. A repeat waits
for its turn in the same queue and takes a slot, too. A call that backs off holds neither worker nor slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from engine.api.codes import row_of
from engine.api.verdicts import Ruling
from engine.cloud.leave import MAY_LEAVE
from engine.journal import records
from engine.model import Verdict
from engine.run.callqueue import Health
from engine.run.judge import FINAL, Judge, Step
from engine.run.lanes import Ticket
from engine.run.opencalls import OpenCalls
from engine.run.recorder import Recorder
from engine.run.resting import Resting
from engine.run.stopping import Stopping
from engine.run.work import Work

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from engine.cloud.client import Attempt


class Attempts:
    """The part of a session that makes attempts of a call until the call needs no more."""

    def __init__(
        self,
        recorder: Recorder,
        calls: OpenCalls,
        judge: Judge,
        resting: Resting,
        stopping: Stopping,
        clock: Callable[[], float],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time  # profiled: `get_running_loop` is a system call each time
        self._recorder = recorder
        self._action = recorder.action
        self._calls = calls
        self._queue = calls.queue
        self._judge = judge
        self._resting = resting
        self._stopping = stopping
        self._clock = clock
        self._may_send = recorder.journal.may_send
        self.backing_off = 0
        """Calls that wait before they are tried again."""
        self.first_send_at: float | None = None
        """UNIX time of the first write handed to the transport in this session; None before it."""
        self.last_sent_at: float | None = None
        """UNIX time of the last write of this session that left."""
        self.has_sent = asyncio.Event()
        """Set when `first_send_at` is known."""

    async def carry(self, work: Work, ticket: Ticket) -> None:
        """Bring a call to its end whose turn has come."""
        await self._to_the_end(work, self._exchange(work, ticket))

    async def go_on(self, work: Work) -> None:
        """Bring a call to its end that an earlier session has sent and not settled."""
        await self._to_the_end(work, self._judge.go_on(work))

    async def _to_the_end(self, work: Work, first: Awaitable[Step]) -> None:
        try:
            step = await first
            if step.again:
                await self._persist(work, step)
        except Exception as error:  # noqa: BLE001 - a task's last line: any error stops the run and is named
            self._stopping.failed(error)
        finally:
            self._calls.end(work)

    async def _persist(self, work: Work, first: Step) -> Step:
        """Attempt again; return the final step. tenacity owns the loop, `decide` and `backoff` the policy."""
        from tenacity import AsyncRetrying, retry_if_result  # here: the first calls need not wait for the import

        latest = first
        entered = False

        async def again() -> Step:
            nonlocal latest, entered
            if entered:
                ticket = await self._turn(work, retry=latest.retry)
                latest = FINAL if ticket is None else await self._exchange(work, ticket)
            entered = True  # tenacity's first round stands for the attempt that was made before this loop
            return latest

        retrying = AsyncRetrying(
            retry=retry_if_result(lambda step: step.again),
            wait=lambda _state: latest.delay_s,
            stop=lambda _state: self._stopping.is_set,
            sleep=self._pause,
            retry_error_callback=_last,
        )
        return await retrying(again)

    async def _pause(self, seconds: float) -> None:
        if seconds <= 0:
            return
        self.backing_off += 1
        try:
            await self._stopping.rest(seconds)
        finally:
            self.backing_off -= 1

    async def _turn(self, work: Work, *, retry: bool) -> Ticket | None:
        """Wait in the queue for a worker, a durable `sent` and a slot; return None if the run stops first."""
        queue = self._queue.of(work.index)
        if self._stopping.is_set or queue.is_closed or work.is_dropped:
            return None
        work.ticket = self._loop.create_future()
        queue.put_back(work.index, self._now(), retry=retry)
        self._queue.wake.set()
        try:
            return await work.ticket
        finally:
            work.ticket = None

    async def _exchange(self, work: Work, ticket: Ticket) -> Step:
        """Make one attempt, record its reply, and return what to do next. The worker is free before any reading."""
        call, lane = work.call, ticket.lane
        if self.first_send_at is None:
            self.first_send_at = self._clock()
            self.has_sent.set()
        health = Health.SILENT
        begun_at = self._now()
        try:
            parameters = self._action.parameters(call.instance, call.user, work.secret)
            if self._may_send is not None:
                MAY_LEAVE.set(partial(self._may_leave, ticket))  # a connection may take seconds
            attempt = await lane.client.attempt(
                self._action.name, call.region, parameters, keys=ticket.keys, trace=ticket.trace, secret=work.secret
            )
            lane.pacer.left_late(ticket.slot_at, begun_at + attempt.opening_s - ticket.slot_at)
            ruling = self._judge.rule(attempt.answer, lane)
            health = self._judge.health(work, ticket, attempt.answer, ruling)
            if ruling.verdict in (Verdict.DONE, Verdict.IN_DOUBT) or row_of(attempt.answer.code).may_be_applied:
                self._resting.sent(work)
            self._record_reply(work, attempt, ruling)
        finally:
            if self._may_send is not None:
                MAY_LEAVE.set(None)
            lane.in_flight -= 1
            lane.permits.release()
            self._queue.of(work.index).release(work.index, health, self._now())
            if self._stopping.is_set:
                self._stopping.drain()
            self._queue.wake.set()
        return await self._judge.judge(work, ticket, attempt, ruling)

    async def _may_leave(self, ticket: Ticket) -> bool:
        """Return whether an attempt that has its connection may leave now; wait if its slot has passed by too much."""
        if not await ticket.lane.pacer.is_in_time(ticket.slot_at):
            return False
        return self._may_send is None or self._may_send()

    def _record_reply(self, work: Work, attempt: Attempt, ruling: Ruling) -> None:
        answer = attempt.answer
        unsent = row_of(answer.code).not_sent
        if not unsent and (self.last_sent_at is None or attempt.sent_at > self.last_sent_at):
            self.last_sent_at = attempt.sent_at
        work.already = answer.code if ruling.verdict is Verdict.ALREADY else None
        self._recorder.append(
            records.ReplyLine(
                call=work.id,
                attempt=work.attempt,
                sent_at=None if unsent else records.rfc3339(attempt.sent_at, digits=6),
                request_id=answer.request_id,
                code=answer.code,
                message=answer.message,
                http=answer.http,
                ms=attempt.ms,
                verdict=ruling.verdict,
            )
        )


def _last(state: RetryCallState) -> Step:
    assert state.outcome is not None
    step: Step = state.outcome.result()
    return step
