"""Which call a lane sends next: its durable `sent`, its slot, and the task that makes its attempts.

A lane's dispatcher takes a worker, then the next eligible call of its route, makes its `sent` durable, waits for the
lane's slot, and hands the call over to a task. `sent` is written a little ahead of the slot, so that a late disk makes
no late send; further ahead where the disk is slow or the limit high. If a call that was written ahead cannot be sent,
the journal says so, and the call goes back to its place in the queue unless the run stops or no lane is left for it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from engine.api.codes import NOT_SENT
from engine.errors import AcctopsError, CredentialsError
from engine.journal import records
from engine.model import Keys, Verdict
from engine.run.attempts import Attempts
from engine.run.before import Turn
from engine.run.halts import Halts
from engine.run.lanes import Lane, Lanes, Ticket
from engine.run.opencalls import OpenCalls
from engine.run.opening import Opening
from engine.run.passwords import Passwords
from engine.run.recorder import Recorder
from engine.run.resting import FRESH_S
from engine.run.stopping import Stopping, Tasks
from engine.run.work import Work

MOST_OPEN = 2000
"""Most open calls of a session: beyond this number only retries are sent."""
_RANDOM = random.Random()
_SOON_S = 0.2
"""Seconds between slots, below which even a stop waits for the next one."""
_LEAVE_S = 0.05
"""Seconds after which a lane looks again whether it has leave to send."""
MOST_AHEAD = 64
"""Most calls of a lane whose `sent` is written and whose slot has not come."""


class _Intent(Struct):
    """A call whose `sent` is written, and may not have reached the disk yet."""

    work: Work
    keys: Keys
    trace: str
    sequence: int


class Dispatch:
    """Feeds the lanes of one session."""

    def __init__(
        self,
        recorder: Recorder,
        calls: OpenCalls,
        opening: Opening,
        attempts: Attempts,
        lanes: Lanes,
        passwords: Passwords,
        tasks: Tasks,
        stopping: Stopping,
        halts: Halts,
        *,
        may_begin: Callable[[], None],
    ) -> None:
        self._may_begin: Callable[[], None] | None = may_begin if not recorder.ledger.sent_calls else None
        """Asked before the first `sent` of a run, and never again."""
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._recorder = recorder
        self._journal = recorder.journal
        self._may_send = recorder.journal.may_send
        self._calls = calls
        self._queue = calls.queue
        self._wake = calls.queue.wake
        self._opening = opening
        self._attempts = attempts
        self._lanes = lanes
        self._passwords = passwords
        self._tasks = tasks
        self._stopping = stopping
        stopping.waiters.append(self)
        self._halts = halts
        halts.told.append(self._look_again)
        self._feeding = 0
        self._waits: set[asyncio.Timeout] = set()
        """Dispatchers that wait for a slot."""
        self._idle: list[asyncio.Future[tuple[Work, Ticket] | None]] = []
        """Tasks whose call is over."""

    def _is_over(self) -> bool:
        """Return whether no call can come any more."""
        return self._calls.is_over and self._opening.is_over and not self._halts.keeps_open

    async def _carry(self, work: Work, ticket: Ticket) -> None:
        """Bring a call to its end, then each next one that is handed over.

        Profiled: a task of its own for each call is a tenth of the call's cost.
        """
        while True:
            await self._attempts.carry(work, ticket)
            following = await self._following()
            if following is None:
                return
            work, ticket = following

    async def _following(self) -> tuple[Work, Ticket] | None:
        """Wait for the next call for a task whose call is over; return None when no lane can hand over any more."""
        if not self._feeding:
            return None
        handed: asyncio.Future[tuple[Work, Ticket] | None] = self._loop.create_future()
        self._idle.append(handed)
        return await handed

    async def feed(self, lane: Lane) -> None:
        """Give each call its durable `sent`, then its slot, until none is left; several `sent` ahead if need be."""
        intents: deque[_Intent] = deque()
        slot_at: float | None = None
        self._feeding += 1
        try:
            if self._is_keyless(lane):
                return
            while not (self._stopping.is_set or lane.closed):
                if lane.down_since is not None or self._halts.is_set:
                    while intents:
                        self._not_sent(lane, intents.popleft())
                    if self._halts.is_set:
                        slot_at = None
                        await self._wait_while_halted(lane)
                    if lane.down_since is not None:
                        await self._wait_while_down(lane)
                await self._intend(lane, intents)
                if not intents:
                    if (lane.down_since is None and not self._halts.is_set) or self._is_over():
                        return
                    continue
                await self._journal.durable(intents[0].sequence)
                if slot_at is None or self._now() - slot_at > FRESH_S:
                    slot_at = await self._slot(lane)
                if slot_at is None:  # the run stops, or no call may begin for a while
                    continue
                if self._journal.broken is not None:
                    raise self._journal.broken
                if not lane.may_send or self._halts.is_set or self._stopping.is_set:
                    slot_at = None
                elif self._may_send is not None and not self._may_send():  # it may have been taken over
                    slot_at = None
                    await self._stopping.rest(_LEAVE_S)
                elif self._opening.stands(intents[0].work):
                    self._hand_over(lane, intents.popleft(), slot_at)
                    slot_at = None
                else:  # its reading is outdated by now: it is looked at again, and another call may use the slot
                    self._not_sent(lane, intents.popleft())
        except AcctopsError as error:  # the journal or the source of keys failed
            self._stopping.stop(str(error), error.reason)
        finally:
            for intent in intents:
                self._not_sent(lane, intent)
            self._feeding -= 1
            if not self._feeding:
                for handed in self._idle:
                    if not handed.done():  # it is done where all tasks are cancelled
                        handed.set_result(None)

    async def _slot(self, lane: Lane) -> float | None:
        """Wait for the lane's slot, which may be minutes away; return None if the run stops or is halted first."""
        if self._stopping.is_set or self._halts.is_set:
            return None
        if lane.pacer.gear.interval_s < _SOON_S and not lane.pacer.paused_for():
            return await lane.pacer.slot()  # profiled: a timeout that ends next to no wait was 2 % of a call's cost
        try:
            async with asyncio.timeout(None) as wait:
                self._waits.add(wait)
                return await lane.pacer.slot()
        except TimeoutError:
            return None
        finally:
            self._waits.discard(wait)

    def turn_away(self) -> None:
        """End all waits for a slot or a turn: the session stops."""
        self._calls.turn_away()
        self._end_waits_for_slots()

    def _end_waits_for_slots(self) -> None:
        waits, self._waits = self._waits, set()
        for wait in waits:
            wait.reschedule(self._now())

    def _look_again(self) -> None:
        """Have all lanes see whether they may begin calls."""
        if self._halts.is_set:
            self._end_waits_for_slots()
        self._wake.set()

    async def _wait_while_halted(self, lane: Lane) -> None:
        """Wait while no new call may begin, without a call."""
        while self._halts.is_set:
            self._wake.clear()
            if self._stopping.is_set or lane.closed or self._is_over():
                return
            await self._wake.wait()

    async def _wait_while_down(self, lane: Lane) -> None:
        """Wait while a lane cannot reach its endpoint, without a call: other lanes can send the calls now.

        One call at a time probes whether the endpoint can be reached again.
        """
        while lane.is_probed or lane.pacer.paused_for() > 0 or self._is_probe_dear(lane):
            self._wake.clear()
            if self._stopping.is_set or lane.closed or self._is_over():
                return
            try:
                async with asyncio.timeout(lane.pacer.paused_for() or None):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _is_probe_dear(self, lane: Lane) -> bool:
        """Return whether the other lanes can send all waiting calls in the time that a probe of this lane takes."""
        # A lane that CAM has denied calls may not be able to send them all.
        others = [each for each in self._lanes.others(lane) if each.down_since is None and not each.denied]
        pace = sum(1 / each.pacer.gear.interval_s for each in others)
        return bool(others) and self._queue.waiting(lane.route) / pace <= lane.probe_s

    def _is_keyless(self, lane: Lane) -> bool:
        """Return whether the lane has no keys, and close it then: no password is asked for on its behalf."""
        try:
            lane.client.keys.get()
        except CredentialsError as error:
            self._lanes.close_keyless(lane, str(error))
            return True
        return False

    async def _intend(self, lane: Lane, intents: deque[_Intent]) -> None:
        """Write `sent` ahead for the time that two commits take: one call at 20 a second on any healthy disk.

        Profiled: with the limit lifted, one commit a call was most of a call's cost. On a disk of 200 ms a commit, one
        call ahead would be five calls a second.
        """
        ahead = min(MOST_AHEAD, 1 + int(2 * self._journal.commit_s / lane.pacer.gear.interval_s))
        if lane.down_since is not None:
            ahead = 1
        while len(intents) < ahead:
            if intents and lane.permits.locked():
                return
            await lane.permits.acquire()
            work = await self._next(lane) if not intents else self._next_now(lane)
            if work is None:
                lane.permits.release()
                return
            try:
                intents.append(self._intent(lane, work))
            except AcctopsError:
                self._give_back(work, lane)
                self._calls.abandon(work)
                raise

    def _intent(self, lane: Lane, work: Work) -> _Intent:
        keys, trace = lane.client.keys.get(), _trace()
        if self._may_begin is not None:
            self._may_begin()
            self._may_begin = None
        work.attempt += 1
        sent = records.Sent(call=work.id, attempt=work.attempt, lane=lane.name, trace=trace, key=keys.fingerprint)
        lane.ahead += 1
        return _Intent(work, keys, trace, self._recorder.append(sent))

    def _hand_over(self, lane: Lane, intent: _Intent, slot_at: float) -> None:
        work, ticket = intent.work, Ticket(lane, intent.keys, intent.trace, slot_at)
        lane.ahead -= 1
        lane.in_flight += 1
        self._calls.secret_used(work)
        if work.ticket is not None and not work.ticket.done():
            work.ticket.set_result(ticket)
        elif self._idle:
            self._idle.pop().set_result((work, ticket))
        else:
            self._tasks.start(self._carry(work, ticket))

    def _not_sent(self, lane: Lane, intent: _Intent) -> None:
        """Take back a call between its `sent` and its slot: the run stops, its lane is out, or it is read again.

        Or no new call may begin for a while.
        """
        work = intent.work
        lane.ahead -= 1
        self._give_back(work, lane)
        if self._stopping.is_set or self._queue.of(work.index).is_closed:
            self._calls.abandon(work)
        else:
            self._queue.of(work.index).put_back(work.index, self._now(), retry=False)
            self._wake.set()
        if self._journal.broken is None:
            self._recorder.append(
                records.ReplyLine(
                    call=work.id,
                    attempt=work.attempt,
                    sent_at=None,
                    request_id=None,
                    code=NOT_SENT,
                    message="stopped, paused, its lane closed or unreachable, or to be read again, before it was sent",
                    http=None,
                    ms=0,
                    verdict=Verdict.TRANSIENT,
                )
            )

    def _give_back(self, work: Work, lane: Lane) -> None:
        self._queue.of(work.index).drop(work.index)
        lane.permits.release()

    async def _next(self, lane: Lane) -> Work | None:
        """Wait for the lane's next call; return None if none is left, the run stops or halts, or the lane is out."""
        was_up = lane.down_since is None
        while not (self._stopping.is_set or lane.closed or self._halts.is_set):
            self._wake.clear()
            if was_up and lane.down_since is not None:
                return None
            work = self._next_now(lane)
            if work is not None:
                return work
            if self._is_over():
                self._wake.set()  # for the dispatchers of the other lanes
                return None
            wake_at = self._queue.wake_at(lane.route)
            try:
                async with asyncio.timeout_at(wake_at):
                    await self._wake.wait()
            except TimeoutError:
                continue
        return None

    def _next_now(self, lane: Lane) -> Work | None:
        """Return the next call of the lane's route that the lane can send at once; None if there is none."""
        passed_over: list[int] = []
        try:
            return self._take(lane, passed_over)
        finally:
            for index in passed_over:
                self._queue.of(index).drop(index)
                self._queue.of(index).put_back(index, self._now(), retry=True)

    def _take(self, lane: Lane, passed_over: list[int]) -> Work | None:
        """Do so, and add the calls for other lanes to `passed_over`. Ask for passwords that are missing."""
        now = self._now()
        while (index := self._queue.take(lane.route, now, retries_only=len(self._calls) >= MOST_OPEN)) is not None:
            turn = self._opening.turn(self._calls.works[index])
            if turn is not Turn.GO:
                self._queue.of(index).drop(index)
                if turn is Turn.WAIT:
                    self._calls.put_back(self._calls.works[index])
                    return None
                continue
            work = self._calls.begin(index)
            if work.denied and self._lanes.is_for_others(work.denied, lane):
                passed_over.append(index)
                continue
            if self._passwords.has(work):
                return work
            if self._passwords.is_full(work):
                self._queue.of(index).drop(index)
                self._queue.of(index).put_back(index, now, retry=False)
                return None
            self._passwords.ask(work)
        return None


def _trace() -> str:
    """Return a random UUID (version 4) as text; `uuid` makes the same at three times the cost (profiled)."""
    digits = f"{_RANDOM.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
