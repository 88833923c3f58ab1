"""Which call a lane sends next: its durable `sent`, its slot, and over to the task that carries it.

A lane's dispatcher takes a worker, then the next eligible call of its route, makes its `sent` durable, waits for the
lane's slot, and hands the call over. `sent` stands a little ahead of its slot, so that the disk's jitter does not
become the wire's; further ahead where the disk is slow or the limit high. What was written ahead and is not sent, as
the run stops or the lane is closed, is told so in the journal and goes back to its place in the queue.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque

from msgspec import Struct

from engine.api.codes import NOT_SENT
from engine.errors import AcctopsError, CredentialsError
from engine.journal import records
from engine.model import Keys, Verdict
from engine.run.attempts import Attempts
from engine.run.before import Turn
from engine.run.lanes import Lane, Lanes, Ticket
from engine.run.opencalls import OpenCalls
from engine.run.opening import Opening
from engine.run.passwords import Passwords
from engine.run.recorder import Recorder
from engine.run.resting import FRESH_S
from engine.run.stopping import Stopping, Tasks
from engine.run.work import Work

MOST_OPEN = 2000
"""Calls begun and not settled, at most: beyond it only retries are sent."""
_RANDOM = random.Random()
_SOON_S = 0.2
"""Slots this close together are waited for by a stop, too."""
MOST_AHEAD = 64
"""Calls whose `sent` is durable and whose slot has not come, at most, a lane."""


class _Intent(Struct):
    """A call whose `sent` is written, and on its way to the disk."""

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
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._recorder = recorder
        self._journal = recorder.journal
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
        self._feeding = 0
        self._waits: set[asyncio.Timeout] = set()
        """Dispatchers that wait for a slot."""
        self._idle: list[asyncio.Future[tuple[Work, Ticket] | None]] = []
        """Tasks whose call is over."""

    def _is_over(self) -> bool:
        """Nothing can come any more."""
        return self._calls.is_over and self._opening.is_over

    async def _carry(self, work: Work, ticket: Ticket) -> None:
        """A call from its first attempt to its end, then the next one that is handed over.

        Profiled: a task of its own for each call is a tenth of the call's cost.
        """
        while True:
            await self._attempts.carry(work, ticket)
            following = await self._following()
            if following is None:
                return
            work, ticket = following

    async def _following(self) -> tuple[Work, Ticket] | None:
        """The next call for a task whose own is over; None when no lane may hand over any more."""
        if not self._feeding:
            return None
        handed: asyncio.Future[tuple[Work, Ticket] | None] = self._loop.create_future()
        self._idle.append(handed)
        return await handed

    async def feed(self, lane: Lane) -> None:
        """Give each call its durable `sent`, then its slot, in this order; several `sent` at a time if need be."""
        intents: deque[_Intent] = deque()
        slot_at: float | None = None
        self._feeding += 1
        try:
            if self._is_keyless(lane):
                return
            while not (self._stopping.is_set or lane.closed):
                if lane.down_since is not None:
                    while intents:
                        self._not_sent(lane, intents.popleft())
                    await self._wait_while_down(lane)
                await self._intend(lane, intents)
                if not intents:
                    if lane.down_since is None or self._is_over():
                        return
                    continue
                await self._journal.durable(intents[0].sequence)
                if slot_at is None or self._now() - slot_at > FRESH_S:
                    slot_at = await self._slot(lane)
                if slot_at is None:
                    return
                if self._journal.broken is not None:
                    raise self._journal.broken
                if not lane.may_send or self._stopping.is_set:
                    slot_at = None
                elif self._opening.stands(intents[0].work):
                    self._hand_over(lane, intents.popleft(), slot_at)
                    slot_at = None
                else:  # the slot was long in coming: what goes in it is looked at first
                    self._not_sent(lane, intents.popleft())
        except AcctopsError as error:  # the journal or the source of keys failed: nothing more can be sent
            self._stopping.stop(str(error), error.reason)
        finally:
            for intent in intents:
                self._not_sent(lane, intent)
            self._feeding -= 1
            if not self._feeding:
                for handed in self._idle:
                    if not handed.done():  # cancelled, where everything is
                        handed.set_result(None)

    async def _slot(self, lane: Lane) -> float | None:
        """Wait for the lane's slot; None if the run stops first: at a low rate the next one is minutes away."""
        if self._stopping.is_set:
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
        """Let nobody wait for a slot or a turn any more: the session stops."""
        self._calls.turn_away()
        waits, self._waits = self._waits, set()
        for wait in waits:
            wait.reschedule(self._now())

    async def _wait_while_down(self, lane: Lane) -> None:
        """A lane whose endpoint cannot be reached takes no call into its pause: other lanes can send it now.

        One call at a time finds out whether it can be reached again.
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
        """Whether the other lanes have sent all that waits before a probe of this one would come to its end."""
        # One that was denied anything may leave to this lane what waits.
        others = [each for each in self._lanes.others(lane) if each.down_since is None and not each.denied]
        pace = sum(1 / each.pacer.gear.interval_s for each in others)
        return bool(others) and self._queue.waiting(lane.route) / pace <= lane.probe_s

    def _is_keyless(self, lane: Lane) -> bool:
        """Whether the lane has nothing to sign with, which closes it: no password is asked for in its name."""
        try:
            lane.client.keys.get()
        except CredentialsError as error:
            self._lanes.close_keyless(lane, str(error))
            return True
        return False

    async def _intend(self, lane: Lane, intents: deque[_Intent]) -> None:
        """Write ahead what will be sent in the time two commits take: one call at 20 a second on any healthy disk.

        Profiled: with the limit lifted one commit a call was most of a call's cost; on a disk of 200 ms a commit, one
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
        work.attempt += 1
        sent = records.Sent(call=work.id, attempt=work.attempt, lane=lane.name, trace=trace, key=keys.fingerprint)
        return _Intent(work, keys, trace, self._recorder.append(sent))

    def _hand_over(self, lane: Lane, intent: _Intent, slot_at: float) -> None:
        work, ticket = intent.work, Ticket(lane, intent.keys, intent.trace, slot_at)
        lane.in_flight += 1
        self._calls.secret_used(work)
        if work.ticket is not None and not work.ticket.done():
            work.ticket.set_result(ticket)
        elif self._idle:
            self._idle.pop().set_result((work, ticket))
        else:
            self._tasks.start(self._carry(work, ticket))

    def _not_sent(self, lane: Lane, intent: _Intent) -> None:
        """Stopped, its lane closed or unreachable, or to be read again, between the call's `sent` and its slot."""
        work = intent.work
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
                    message="stopped, its lane closed or unreachable, or to be read again, before it was sent",
                    http=None,
                    ms=0,
                    verdict=Verdict.TRANSIENT,
                )
            )

    def _give_back(self, work: Work, lane: Lane) -> None:
        self._queue.of(work.index).drop(work.index)
        lane.permits.release()

    async def _next(self, lane: Lane) -> Work | None:
        """The next call for a lane; None when nothing is left to send, it or the run is stopping, or it goes down."""
        was_up = lane.down_since is None
        while not (self._stopping.is_set or lane.closed):
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
        """The next call of a lane's route that it can send at once, if there is one."""
        passed_over: list[int] = []
        try:
            return self._take(lane, passed_over)
        finally:
            for index in passed_over:
                self._queue.of(index).drop(index)
                self._queue.of(index).put_back(index, self._now(), retry=True)

    def _take(self, lane: Lane, passed_over: list[int]) -> Work | None:
        """The same; what is for others only is added to `passed_over`. Has passwords asked for on the way."""
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
    """A random UUID (version 4) as text; `uuid` makes the same at three times the cost (profiled)."""
    digits = f"{_RANDOM.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
