"""Accepted is not done. Every accepted call waits here until its account is read as desired.

An instance is read once all of its calls are over (one reading before and one after, when all goes well). If the
account is not as desired, it is read again for half a minute. Then the call is sent again, at most twice; then it fails
in words. A call whose account cannot be read stays unsettled, hence unknown, and a resume reads it. So does a call that
the readings do not show, as they may be incomplete or show a state that is not documented: that is no denial.
"""

from __future__ import annotations

import asyncio
import heapq

from msgspec import Struct, field

from engine.api.codes import row_of
from engine.cloud.inventory import Inventory
from engine.model import Reading, Where
from engine.run.endings import DRAIN_S
from engine.run.halts import Halts
from engine.run.queues import CallQueues
from engine.run.settling import Settling
from engine.run.stopping import Stopping, Tasks
from engine.run.work import Work

REREAD_S = 30.0
"""Seconds that an accepted change may take to show; no page says that it takes any time."""
REREAD_EVERY_S = 2.0
UNREAD_EVERY_S = 10.0
MOST_RESENDS = 2


class _Accepted(Struct):
    """A call that was accepted, and is to be proven."""

    work: Work
    request_id: str | None
    """Request id of the answer that accepted it."""
    at: float
    """Loop time at which it came here."""
    denied_since: float | None = None
    """Loop time of the first reading that denied it."""
    unshown_since: float | None = None
    """Loop time since which no reading has told how its account is; None: the last one told."""


class _Ward(Struct):
    """The accepted and unread calls of one instance."""

    where: Where
    waiting: dict[int, _Accepted] = field(default_factory=dict)
    """Accepted calls by plan index."""
    unread_since: float | None = None
    """Loop time since which the instance could not be read; None: the last reading succeeded."""
    is_due: bool = False
    """Whether it waits for a reading, is being read, or rests before the next reading."""


class ReadBack:
    """The accepted calls of a run that are not proven yet."""

    MOST_AT_ONCE = 64
    """Most readings under way at a time."""

    def __init__(
        self,
        settling: Settling,
        queue: CallQueues,
        inventory: Inventory,
        tasks: Tasks,
        stopping: Stopping,
        halts: Halts,
        *,
        patience_s: float,
    ) -> None:
        """Try an instance that cannot be read, or whose readings do not tell, for `patience_s` seconds."""
        self._now = asyncio.get_running_loop().time
        self._settling = settling
        self._queue = queue
        self._inventory = inventory
        self._tasks = tasks
        self._stopping = stopping
        self._patience_s = patience_s
        self._wards: dict[Where, _Ward] = {}
        self._due: list[tuple[int, _Ward]] = []
        """Heap by the first waiting call: a plan has the superusers first, so their instances are read first."""
        self._active = 0
        self._drain_until: float | None = None
        stopping.readers.append(self)
        self._halts = halts
        halts.told.append(self._read_what_is_left)

    def __len__(self) -> int:
        """Return how many calls are accepted and not proven."""
        return sum(len(ward.waiting) for ward in self._wards.values())

    @property
    def is_idle(self) -> bool:
        """Whether no call is to be proven and no reading is under way."""
        return not self._wards

    def unread(self) -> dict[Where, float]:
        """Return the instances that cannot be read, or whose readings do not tell, with the loop time since when."""
        found = {}
        for ward in self._wards.values():
            times = [ward.unread_since, *(each.unshown_since for each in ward.waiting.values())]
            if since := [at for at in times if at is not None]:
                found[ward.where] = min(since)
        return found

    def behind(self, now: float) -> float | None:
        """Return for how many seconds readings have not shown what was accepted; None if none has missed anything."""
        every = (each for ward in self._wards.values() for each in ward.waiting.values())
        late = [each.at for each in every if each.denied_since is not None]
        return now - min(late) if late else None

    def accepted(self, work: Work, request_id: str | None, *, resend: bool = True) -> None:
        """Take in an accepted call that is to be proven. Without `resend` it is never sent again."""
        if not resend:
            work.resends = MOST_RESENDS
        ward = self._wards.get(work.where)
        if ward is None:
            ward = self._wards[work.where] = _Ward(work.where)
        ward.waiting[work.index] = _Accepted(work, request_id, self._now())
        self.touch(work)

    def touch(self, work: Work) -> None:
        """See whether it is time to read the instance of a call, as one of its calls is over."""
        ward = self._wards.get(work.where)
        if ward is None:
            return
        if self._stopping.is_set or self._halts.is_set or not self._queue.of(work.index).is_busy(work.index):
            self._make_due(ward)

    def _read_what_is_left(self) -> None:
        """Read what was accepted once no new call may begin: no other call of its instance is to be waited for."""
        if self._halts.is_set:
            for ward in list(self._wards.values()):
                self._make_due(ward)

    def drain(self, until: float) -> None:
        """Read everything that waits by this loop time, as the run stops; a later call may move the time."""
        self._drain_until = until
        for ward in list(self._wards.values()):
            self._make_due(ward)

    def _make_due(self, ward: _Ward) -> None:
        if ward.is_due or not ward.waiting:
            return
        ward.is_due = True
        heapq.heappush(self._due, (min(ward.waiting), ward))
        self._pump()

    def _pump(self) -> None:
        while self._due and self._active < self.MOST_AT_ONCE:
            self._active += 1
            self._tasks.spawn(self._prove(heapq.heappop(self._due)[1]))

    async def _prove(self, ward: _Ward) -> None:
        """Read an instance until none of its calls waits, or what waits is left unproven."""
        while True:
            pause_s = await self._read_once(ward)
            self._active -= 1
            if pause_s is None or not ward.waiting:
                break
            self._pump()
            await self._rest(pause_s)
            self._active += 1
        ward.is_due = False
        del self._wards[ward.where]
        self._pump()

    async def _read_once(self, ward: _Ward) -> float | None:
        """Read an instance once; return the seconds before the next reading, None to leave what waits unproven."""
        asked = dict(ward.waiting)
        until = self._drain_until
        try:
            async with asyncio.timeout_at(until):
                reading = await self._inventory.read(
                    ward.where, purpose="after", users=[each.work.call.user for each in asked.values()]
                )
        except TimeoutError:
            pause_s = None
        else:
            pause_s = self._judge(ward, asked, reading)
        if pause_s is None and self._drain_until != until and ward.waiting.keys() - asked.keys():
            return 0.0  # a call was accepted during the reading, late in a drain: it needs one, too
        return pause_s

    def _judge(self, ward: _Ward, asked: dict[int, _Accepted], reading: Reading) -> float | None:
        """Judge the calls that waited when the reading was asked for; return as `_read_once` does."""
        now = self._now()
        if reading.accounts is None:
            ward.unread_since = now if ward.unread_since is None else ward.unread_since
            is_given_up = any(self._queue.of(index).is_closed for index in asked)
            patience_s = DRAIN_S if is_given_up else self._patience_s
            if self._stopping.is_set or row_of(reading.code).is_denial or now - ward.unread_since >= patience_s:
                return None  # a permission to read does not come back in a minute
            return UNREAD_EVERY_S
        ward.unread_since = None
        for each in asked.values():
            self._weigh(ward, each, reading, now)
        if self._drain_until is not None and now >= self._drain_until:
            return None
        if all(each.unshown_since is not None for each in ward.waiting.values()):
            return None if self._stopping.is_set else UNREAD_EVERY_S
        return REREAD_EVERY_S

    def _weigh(self, ward: _Ward, each: _Accepted, reading: Reading, now: float) -> None:
        """Settle one call that waits, send it again or let it wait on, by a reading."""
        work = each.work
        state, is_so = reading.find(work.call.user), self._settling.is_shown(work, reading)
        if is_so is None:
            if each.unshown_since is None:
                each.unshown_since = now
            if now - each.unshown_since >= self._patience_s:
                ward.waiting.pop(work.index, None)
            return
        each.unshown_since = None
        if is_so and state is not None:
            ward.waiting.pop(work.index, None)
            self._settling.proved(work, state, each.request_id)
            return
        if each.denied_since is None:
            each.denied_since = now
        if now - each.denied_since >= REREAD_S:
            ward.waiting.pop(work.index, None)
            work.resends += 1
            again = work.resends <= MOST_RESENDS and not self._stopping.is_set
            self._settling.disproved(work, state, each.request_id, again=again)
            if again:
                work.start_over()
                self._queue.of(work.index).put_back(work.index, self._now(), retry=True)
                self._queue.wake.set()

    async def _rest(self, seconds: float) -> None:
        if self._stopping.is_set:
            await asyncio.sleep(min(seconds, REREAD_EVERY_S))
        else:
            await self._stopping.rest(seconds)
