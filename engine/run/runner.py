"""The worker pool, the attempt loop, drain and stop. The only importer of tenacity.

`dispatch` hands a call whose turn has come to a task of its own, which signs and sends. A call whose first attempt was
final never meets tenacity; the others go on in its loop, and wait for their turn in the same queue: every attempt pays
a slot, and a call that backs off holds neither worker nor slot. Tasks are bounded by the workers and by
`dispatch.MOST_OPEN`, not by the number of targets.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from engine.api.actions import ACTIONS, takes_admins
from engine.api.codes import NO_KEYS, row_of
from engine.api.verdicts import Ruling, rule
from engine.cloud.inventory import Inventory
from engine.errors import AcctopsError, Exit, JournalWriteError
from engine.journal import records
from engine.journal.ledger import Ledger
from engine.journal.runs import Journal
from engine.model import AccountState, Answer, Call, CallId, Omit, Outcome, Proof, Reading, Rival, Verdict, Where
from engine.pacing.backoff import Policy
from engine.planning.admins import AdminGuard
from engine.planning.outlook import shown
from engine.planning.routes import Routes
from engine.run.callqueue import CallQueues, Health
from engine.run.closing import Closing, stopped
from engine.run.dispatch import Dispatch, OpenCalls
from engine.run.endings import DRAIN_S, drain_s
from engine.run.judge import FINAL, Judge, Step, Ticket, Work
from engine.run.lanes import Lane
from engine.run.opening import Opening
from engine.run.overview import Overview, Progress
from engine.run.readback import ReadBack

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from engine.credentials import KeySource

_LOG = logging.getLogger("acctops")

TAKEN_UP_AT_ONCE = 200
"""Calls of an earlier session that are taken up at a time."""
WATCH_EVERY_S = 0.25
CLOCK_GAP_S = 60.0
"""Wall clock ahead of the monotonic one by this much: the machine slept (design §6)."""
STARVED_S = 600.0
"""Throttled for so long without one accepted call: something else uses the whole quota."""


class Runner:
    """One session of a run: sends what is open until all is settled or something stops it."""

    def __init__(
        self,
        *,
        journal: Journal,
        ledger: Ledger,
        lanes: list[Lane],
        routes: Routes,
        inventory: Inventory,
        policy: Policy,
        rng: random.Random,
        clock: Callable[[], float],
        deadline_s: float,
        deadline_why: str = "",
        stop_after: int | None = None,
        ask_secret: Callable[[Call], Awaitable[str]] | None = None,
        no_send: frozenset[CallId] = frozenset(),
        elsewhere: frozenset[CallId] = frozenset(),
        readings: dict[Where, Reading] | None = None,
        located: Mapping[str, str] | None = None,
        keep_admins: int = 0,
        rivals: Sequence[Rival] = (),
        stays: Callable[[Call, Reading], Omit | None] = lambda _call, _reading: None,
        resend_already: bool = False,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        assert ledger.run is not None
        self._now = asyncio.get_running_loop().time  # profiled: asked for anew it is a system call each time
        self._journal = journal
        self._ledger = ledger
        self._lanes = lanes
        self._clock = clock
        self._deadline_s = deadline_s
        self._deadline_why = deadline_why or f"deadline of {deadline_s:.0f} s reached"
        self._no_send = no_send
        self._stop_requested = stop_requested
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._calls: list[Call] = list(ledger.calls.values())
        self._action = ACTIONS[ledger.run.action]
        verify = ledger.settings.verify and self._action.is_desired is not None
        self._to_read, unsent, unsettled = self._sort_calls()
        guard = self._admin_guard(keep_admins, rivals)
        begun: list[int] = []
        if guard is not None:
            begun, self._to_read, unsettled = self._to_read + unsettled, [], []
        instances = [call.where for call in self._calls]
        self._queue = CallQueues(
            instances,
            unsettled if verify else sorted(unsent + unsettled),
            routes.of,
            per_instance=ledger.settings.per_instance,
        )
        self._closing = Closing(
            lanes,
            routes,
            note=self.note,
            tell=lambda text: self.tell(text),  # noqa: PLW0108 - who is told is said later
            stop=self.stop,
            drop=self._drop,
            wake=self._wake.set,
        )
        self._judge = Judge(
            action=self._action.name,
            ledger=ledger,
            queue=self._queue,
            inventory=inventory,
            record=self.record,
            stop=self.stop,
            close_lane=self._closing.lane,
            close_account=self._closing.account,
            policy=policy,
            stop_after=stop_after,
            rng=rng,
            lanes=lanes,
            await_proof=self._await_proof if verify else None,
            elsewhere=elsewhere,
        )
        self._read_back = ReadBack(
            calls=self._calls,
            queue=self._queue,
            inventory=inventory,
            shown=lambda reading, user: shown(self._action, reading, user),
            confirm=self._proved,
            deny=self._disproved,
            spawn=self._spawn,
            stopping=self._stopping,
            patience_s=policy.transient_s,
        )
        paces: dict[int, float] = {}
        for lane in lanes:
            paces[lane.route] = paces.get(lane.route, 0.0) + lane.pacer.gear.rate
        self._opening = Opening(
            calls=self._calls,
            instances=instances,
            unsent=unsent if verify else [],
            begun=begun,
            action=self._action,
            ledger=ledger,
            inventory=inventory,
            readings=readings or {},
            located=located or {},
            guard=guard,
            resend_already=resend_already,
            stays=stays,
            routes=routes.of,
            paces=paces,
            record=self.record,
            settle=self._settle_unsent,
            put_back=lambda index: self._dispatch.put_back(index),  # noqa: PLW0108 - there is none yet
            over=self._over_unsent,
            go_on=self._go_on,
            refused=self._reading_refused,
            wake=self._wake.set,
            spawn=self._spawn,
            stopping=self._stopping,
        )
        inventory.keep_up_with(sum(paces.values()))
        inventory.is_sending = lambda: bool(len(self._queue) or self._dispatch.in_flight)
        for lane in lanes:
            lane.client.note = self.note
            lane.pacer.stopping = self._stopping
        self._open = OpenCalls(self._calls, ledger)
        self._to_take_up = 0
        self._backing_off = 0
        """Calls that wait before they are tried again."""
        self._dispatch = Dispatch(
            journal=journal,
            queue=self._queue,
            open_calls=self._open,
            judge=self._judge,
            opening=self._opening,
            record=self.record,
            stop=self.stop,
            failed=self._failed,
            no_keys=self._no_keys,
            over=self._close,
            carry=self._carry,
            is_over=self._is_over,
            stopping=self._stopping,
            wake=self._wake,
            ask_secret=ask_secret,
            start=self._start,
        )
        self._stopped: records.Stopped | None = None
        self._exit: Exit | None = None
        self._drain_end: float | None = None
        """Loop time by which a drain is over, however late its last attempt ends."""
        self._overview = Overview(
            ledger=ledger,
            queue=self._queue,
            lanes=lanes,
            read_back=self._read_back,
            clock=clock,
            busy_s=policy.busy_s,
            read_s=policy.transient_s,
            deadline_s=deadline_s,
            disk_s=lambda: journal.waiting_s,
        )
        self._started = 0.0
        self.tell: Callable[[str], None] = lambda _text: None
        """Told, once each, what a person should hear before the run is over."""
        self.first_send_at: float | None = None
        """UNIX time of the first write handed to the transport in this session."""
        self.has_sent = asyncio.Event()
        """Set by then."""

    def _sort_calls(self) -> tuple[list[int], list[int], list[int]]:
        """Plan indexes: begun by an earlier session and to be judged first · not applied for sure · to go on."""
        begun: list[int] = []
        unsent: list[int] = []
        unsettled: list[int] = []
        for index, call in enumerate(self._calls):
            entry = self._ledger.entry(call.id)
            if entry.needs_reading:
                begun.append(index)
            elif not entry.settled and call.id not in self._no_send:
                # Refused so far, it is as it was; and who knows what others did since.
                (unsettled if entry.may_be_applied else unsent).append(index)
        return begun, unsent, unsettled

    def _admin_guard(self, keep_admins: int, rivals: Sequence[Rival]) -> AdminGuard | None:
        """The guard on superusers, if there is one; what was ever sent counts against it."""
        if not takes_admins(self._action.name) or max([keep_admins, *(each.keep_admins for each in rivals)]) <= 0:
            return None
        sent = (call for call in self._calls if self._ledger.entry(call.id).may_be_applied)
        return AdminGuard(keep_admins, ((call.where, call.user) for call in sent), rivals=rivals)

    # ---- the session -------------------------------------------------------------------------------------------

    async def run(self) -> Exit:
        """Work until done or stopped; every record is durable when this returns, the `end` included."""
        self._started = self._judge.accepted_at = self._now()
        self._overview.begin(self._started)
        async with asyncio.TaskGroup() as outer:
            watch = outer.create_task(self._watch())
            async with asyncio.TaskGroup() as self._tasks:
                self._opening.begin()
                self._read_what_was_begun()
                for number, lane in enumerate(self._lanes):
                    # Lanes in step would send, and the server take, fifty calls at once every 50 ms (measured).
                    lane.pacer.pause(number / len(self._lanes) * lane.pacer.gear.interval_s)
                    self._tasks.create_task(self._dispatch.feed(lane))
            async with asyncio.TaskGroup() as self._tasks:
                for look in self._judge.last_looks():
                    self._spawn(look)
            watch.cancel()
        return await self._finish(self._now() - self._started)

    async def _finish(self, seconds: float) -> Exit:
        try:
            await self._journal.durable()
            code = self._exit_code()
            self._journal.append(
                records.End(
                    counts=self._ledger.counts(),
                    attempts=self._ledger.attempts,
                    throttled=self._ledger.throttled,
                    worst_second=self._ledger.worst_second(),
                    seconds=round(seconds, 3),
                    exit=int(code),
                    stopped=self.stopped,
                    guard={lane.name: round(lane.pacer.gear.guard, 4) for lane in self._lanes},
                ),
                self._ledger.apply,
            )
            await self._journal.durable()
        except JournalWriteError as error:
            self._disk_failed(error)
            return Exit.STOPPED
        return code

    def _exit_code(self) -> Exit:
        counts = self._ledger.counts()
        good = counts[Outcome.CHANGED] + counts[Outcome.ALREADY] + self._judge.done_elsewhere
        if good == len(self._ledger.calls):
            return Exit.INCOMPLETE if self._ledger.lacking() else Exit.OK
        if self._exit is None and self._closing.why is not None:
            return Exit.STOPPED
        return self._exit if self._exit is not None else Exit.INCOMPLETE

    @property
    def back_elsewhere(self) -> int:
        """Accounts that a later rerun had changed, and that this session has read as changed back."""
        return self._judge.back_elsewhere

    @property
    def stopped(self) -> records.Stopped | None:
        """Why the session ended early, as a whole or for some of its calls, if it did."""
        return self._stopped or self._closing.why

    def record(self, record: records.AnyRecord) -> int:
        """Journal a record; the ledger, and so everything shown, learns of it when it is durable."""
        return self._journal.append(record, self._ledger.apply)

    def note(self, what: str, data: dict[str, object]) -> None:
        """Journal something that happened to the run as a whole, if it still can be."""
        if self._journal.broken is None:
            self.record(records.Note(what=what, data=data))

    # ---- stopping ----------------------------------------------------------------------------------------------

    def stop(self, why: str, code: Exit, answer: Answer | None = None) -> None:
        """Take no new call; let attempts in flight end and be recorded. The first reason counts."""
        if self._stopped is None:
            self._stopped = stopped(why, answer)
            self._exit = code
            self.note("stopping", {"why": why})
        self._stopping.set()
        self._open.turn_away()
        self._dispatch.stop_waiting()
        self._drain()
        self._wake.set()

    def _drain(self) -> None:
        """Read for `DRAIN_S` from now on: from the stop, and again from each attempt that ends in the drain."""
        now = self._now()
        if self._drain_end is None:
            self._drain_end = now + drain_s(self._ledger.settings.timeout_s)
        until = min(now + DRAIN_S, self._drain_end)
        self._judge.drain(until)
        self._read_back.drain(until)

    def close_lanes_of(self, keys: KeySource, why: str) -> None:
        """Begin no call with these keys any more: what they sent is still read back, the rest is for other lanes."""
        self._closing.lanes_of(keys, why)

    def close_lanes(self, lanes: list[Lane], why: str) -> None:
        """Begin no call by these lanes any more."""
        self._closing.lanes(lanes, why)

    def open_lanes(self) -> list[Lane]:
        """The lanes that still send."""
        return [lane for lane in self._lanes if not lane.closed]

    def lanes_of(self, keys: KeySource) -> list[Lane]:
        """The lanes that sign with these keys and still send."""
        return [lane for lane in self._lanes if lane.client.keys is keys and not lane.closed]

    def _no_keys(self, lane: Lane, why: str) -> None:
        answer = Answer(http=None, request_id=None, code=NO_KEYS, message=why)
        self._closing.lane(lane, why, self._judge.fatal_exit(NO_KEYS), answer)

    def _drop(self, route: int) -> None:
        """Nothing more of a route is sent; what of it was accepted is still read back."""
        for index in self._queue.close(route):
            if (work := self._open.find(index)) is not None:
                self._dispatch.abandon(work)
            else:  # reading back waited for it: it will not be sent before
                self._read_back.touch(index)

    def _disk_failed(self, error: JournalWriteError) -> None:
        self.stop(str(error), Exit.STOPPED)

    async def _watch(self) -> None:
        """Deadline, a stop from another shell, a slept machine, a quota that others use up."""
        offset = self._clock() - self._now()
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            now = self._now()
            self._overview.sample(now)
            if self._stopping.is_set():
                continue
            if self._opening.is_over and (news := self._overview.only_the_sick_are_left(now)):
                self.tell(news)
            if now - self._started >= self._deadline_s:
                self.stop(self._deadline_why, Exit.STOPPED)
            elif self._stop_requested():
                self.stop("`acctops stop` from another shell", Exit.STOPPED)
            elif abs(self._clock() - now - offset) > CLOCK_GAP_S:
                gap = self._clock() - now - offset
                self.stop(f"the clock jumped by {gap:.0f} s: did this machine sleep?", Exit.STOPPED)
            elif now - self._judge.accepted_at > STARVED_S and now - self._judge.throttled_at < STARVED_S / 10:
                self.stop("throttled for 10 min with no call accepted: who else uses this quota?", Exit.STOPPED)

    def _is_over(self) -> bool:
        """Nothing waits, nothing is begun, nothing is to be read any more."""
        begun = len(self._queue) or len(self._open) or self._to_take_up
        return not begun and self._opening.is_over and self._read_back.is_idle

    # ---- a call ------------------------------------------------------------------------------------------------

    async def _carry(self, work: Work, ticket: Ticket) -> None:
        """A call from its first attempt to its end, then the next one that is handed over.

        Profiled: a task of its own for each call is a tenth of the call's cost.
        """
        while True:
            await self._to_the_end(work, partial(self._exchange, work, ticket))
            following = await self._dispatch.following()
            if following is None:
                return
            work, ticket = following

    async def _to_the_end(self, work: Work, begin: Callable[[], Awaitable[Step]]) -> None:
        try:
            step = await begin()
            if step.again:
                await self._persist(work, step)
        except Exception as error:  # noqa: BLE001 - a task's last line: whatever it is stops the run and is named
            self._failed(error)
        finally:
            self._close(work)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, AcctopsError):
            refused_late = error.exit is Exit.DENIED and self._judge.accepted
            self.stop(str(error), Exit.STOPPED if refused_late else error.exit)
            return
        _LOG.error("internal error", exc_info=error)
        self.stop(f"internal error ({type(error).__name__}); please report it, the run can be resumed", Exit.STOPPED)

    def _close(self, work: Work) -> None:
        self._open.end(work)
        self._read_back.touch(work.index)
        self._wake.set()

    # ---- before and after --------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.create_task(work)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        try:
            self._tasks.create_task(self._guarded(work))
        except RuntimeError:  # the second Ctrl-C: everything is being cancelled
            work.close()

    def _reading_refused(self, where: Where, reading: Reading) -> bool:
        """Keys that may read nothing at all may write nothing either: give up their account before it is tried."""
        answer = Answer(http=200, request_id=reading.request_id, code=reading.code, message=reading.message)
        if reading.code is None or (ruling := rule("DescribeAccounts", answer)).verdict is not Verdict.FATAL:
            return False
        code = self._judge.fatal_exit(reading.code)
        why = reading.message if reading.code == NO_KEYS and reading.message else ruling.words
        self._closing.account(where.account, why, code, answer)
        return True

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - a task's last line
            self._failed(error)
        finally:
            self._wake.set()

    def _settle_unsent(
        self,
        index: int,
        outcome: Outcome,
        proof: Proof | None,
        code: str | None,
        message: str | None,
        request_id: str | None,
    ) -> None:
        answer = Answer(http=None, request_id=request_id, code=code, message=message)
        self._judge.settle(self._open.as_known(index), outcome, proof, answer, message, attempted=False)

    def _over_unsent(self, index: int) -> None:
        """Nothing comes any more of a call of which nothing was applied; one that waits for a retry is told."""
        if (work := self._open.find(index)) is not None:
            self._dispatch.abandon(work)

    def _await_proof(self, index: int, request_id: str | None, *, resend: bool) -> None:
        self._read_back.accepted(index, request_id, resend=resend)

    def _proved(self, index: int, state: AccountState, request_id: str | None) -> None:
        self._judge.proved(self._open.as_known(index), state, request_id)

    def _disproved(self, index: int, state: AccountState | None, request_id: str | None, again: bool) -> None:
        self._judge.disproved(self._open.as_known(index), state, request_id, again=again)
        if again:
            self._queue.of(index).put_back(index, self._now(), retry=True)
            self._wake.set()

    async def _persist(self, work: Work, first: Step) -> Step:
        """Attempt again until the step is final. tenacity owns the loop, `judge` and `backoff` the policy."""
        from tenacity import AsyncRetrying, retry_if_result  # late: calls go out without it

        latest = first
        entered = False

        async def again() -> Step:
            nonlocal latest, entered
            if entered:
                ticket = await self._turn(work, retry=latest.retry)
                latest = FINAL if ticket is None else await self._exchange(work, ticket)
            entered = True  # tenacity begins with the attempt that was made before it was needed
            return latest

        retrying = AsyncRetrying(
            retry=retry_if_result(lambda step: step.again),
            wait=lambda _state: latest.delay_s,
            stop=lambda _state: self._stopping.is_set(),
            sleep=self._pause,
            retry_error_callback=_last,
        )
        return await retrying(again)

    async def _pause(self, seconds: float) -> None:
        if seconds <= 0:
            return
        self._backing_off += 1
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
        finally:
            self._backing_off -= 1

    async def _turn(self, work: Work, *, retry: bool) -> Ticket | None:
        """Wait among the calls for a worker, a durable `sent` and a slot; None if the run stops first."""
        queue = self._queue.of(work.index)
        if self._stopping.is_set() or queue.is_closed:
            return None
        work.ticket = asyncio.get_running_loop().create_future()
        queue.put_back(work.index, self._now(), retry=retry)
        self._wake.set()
        try:
            return await work.ticket
        finally:
            work.ticket = None

    async def _exchange(self, work: Work, ticket: Ticket) -> Step:
        """Make one attempt, record its reply, and decide. The worker is free before anything is read."""
        call, lane = work.call, ticket.lane
        parameters = self._action.parameters(call.instance, call.user, work.secret)
        if self.first_send_at is None:
            self.first_send_at = self._clock()
            self.has_sent.set()
        health = Health.SILENT
        begun_at = self._now()
        try:
            attempt = await lane.client.attempt(
                self._action.name, call.region, parameters, keys=ticket.keys, trace=ticket.trace, secret=work.secret
            )
            lane.pacer.left_late(ticket.slot_at, begun_at + attempt.opening_s - ticket.slot_at)
            ruling = self._judge.rule(attempt.answer, lane)
            health = self._judge.health(work, ticket, attempt.answer, ruling)
            if ruling.verdict in (Verdict.DONE, Verdict.IN_DOUBT) or row_of(attempt.answer.code).may_be_applied:
                self._opening.sent(work.index)
            self._record_reply(work, attempt.answer, ruling, attempt.sent_at, attempt.ms)
        finally:
            self._dispatch.in_flight -= 1
            lane.in_flight -= 1
            lane.permits.release()
            self._queue.of(work.index).release(work.index, health, self._now())
            if self._stopping.is_set():
                self._drain()
            self._wake.set()
        return await self._judge.judge(work, ticket, attempt, ruling)

    def _record_reply(self, work: Work, answer: Answer, ruling: Ruling, sent_at: float, ms: int) -> None:
        unsent = row_of(answer.code).not_sent
        self.record(
            records.ReplyLine(
                call=work.call.id,
                attempt=work.attempt,
                sent_at=None if unsent else records.rfc3339(sent_at, digits=6),
                request_id=answer.request_id,
                code=answer.code,
                message=answer.message,
                http=answer.http,
                ms=ms,
                verdict=ruling.verdict,
            )
        )

    # ---- what an earlier session began -------------------------------------------------------------------------

    def _read_what_was_begun(self) -> None:
        """Take up what earlier sessions left begun, a few at a time: a reading serves all calls of its instance."""
        indexes = iter(self._to_read)
        self._to_take_up = len(self._to_read)
        for _ in range(min(TAKEN_UP_AT_ONCE, len(self._to_read))):
            self._spawn(self._take_up(indexes))

    def _go_on(self, index: int, may_send: bool) -> None:
        """A call of an earlier session, and whether the guard on admins lets it be sent again."""
        call = self._calls[index]
        entry = self._ledger.entry(call.id)
        if entry.needs_reading:
            if not may_send:
                self._no_send |= {call.id}
            self._to_take_up += 1
            self._spawn(self._take_up(iter([index])))
        elif may_send:
            self._queue.of(index).put_back(index, self._now(), retry=False)
            self._wake.set()
        else:
            words = "keep_admins forbids sending it again, and it was not applied before"
            self._settle_unsent(index, Outcome.FAILED, None, entry.code, words, entry.request_id)

    async def _take_up(self, indexes: Iterator[int]) -> None:
        for index in indexes:  # shared by all that take up
            work = self._open.begin(index)
            work.no_send = work.call.id in self._no_send
            await self._to_the_end(work, partial(self._judge.take_up, work, self._ledger.entry(work.call.id)))
            self._to_take_up -= 1

    # ---- for a person ------------------------------------------------------------------------------------------

    def progress(self) -> Progress:
        """How the run stands, from what is durable."""
        return self._overview.progress(
            self._now(),
            in_flight=self._dispatch.in_flight,
            backing_off=self._backing_off,
            stopping=self._stopped.why if self._stopped else None,
        )


def _last(state: RetryCallState) -> Step:
    assert state.outcome is not None
    step: Step = state.outcome.result()
    return step
