"""A call is sent by a fresh reading: its account is read before, and again if that was a while ago.

A run brings the readings of its approved plan. At the start of the session this module reads what they leave open, the
accounts in a transitional state, and everything a resume finds unsent; `before` decides by the readings. Where admins
are to be kept, calls that an earlier session has sent pass here, too, before they may be sent again.

A long run comes to most of its calls minutes later. So a call passes here again when its turn has come, unless it may
have been applied by then. If its instance was read more than `FRESH_S` ago, it waits for a new reading and is decided
anew. The instances of the next calls are read ahead, once for all their calls, so that a lane does not wait.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterator, Sequence
from itertools import chain

from msgspec.structs import replace

from engine.api.codes import NO_ANSWER
from engine.cloud.inventory import PLANNING_RATE, Inventory
from engine.model import Reading, Where
from engine.run.before import Before, Turn
from engine.run.lanes import Lanes
from engine.run.opencalls import OpenCalls
from engine.run.resting import FRESH_S, Look, Resting
from engine.run.resumed import Resumed
from engine.run.stopping import Stopping, Tasks
from engine.run.work import Work

READERS = 64
CHANGING_EVERY_S = 2.0
AHEAD_S = 1.0
"""Calls whose turn comes within so many seconds are read ahead, so that their readings are fresh by then."""
AGAIN_S = 3.0
"""Seconds that a call waits for a new reading; then it is sent by the older one."""
MOST_AGAIN = READERS
"""Most instances that are read again at a time: as many as the inventory reads at once. More would only wait."""


class Opening:
    """The part of a session that reads accounts before calls are queued and sent."""

    def __init__(
        self,
        before: Before,
        resting: Resting,
        calls: OpenCalls,
        resumed: Resumed,
        inventory: Inventory,
        lanes: Lanes,
        tasks: Tasks,
        stopping: Stopping,
    ) -> None:
        self._now = asyncio.get_running_loop().time
        self._before = before
        self._resting = resting
        self._calls = calls
        self._resumed = resumed
        self._inventory = inventory
        self._lanes = lanes
        self._tasks = tasks
        self._stopping = stopping
        self._groups: dict[Where, list[Work]] = {}
        self._under_way = 0
        """How many instances are being read or will be."""
        self._again = 0
        """How many of these are read again."""
        self._next: dict[int, Iterator[int]] = {}
        """By route: the calls that reading ahead has not reached, in plan order."""
        self._most_ahead = {route: _calls_in(AHEAD_S, pace) for route, pace in lanes.paces().items()}

    @property
    def is_over(self) -> bool:
        """Whether no instance is being read: every unsent call is in the queue or settled."""
        return not self._under_way

    @property
    def aside(self) -> int:
        """How many calls wait for a reading of their account."""
        return sum(len(look.aside) for look in self._resting.looks.values())

    # ---- at the start of the session -------------------------------------------------------------------------------

    def begin(self, unsent: Sequence[int], guarded: Sequence[int], readings: dict[Where, Reading]) -> None:
        """Use the `readings` made for the plan, and start up to `READERS` tasks that read the rest.

        `unsent` and `guarded` are plan indexes; an earlier session has sent the guarded calls, and the guard on admins
        decides about them here. `readings` is emptied, so that no reading is kept in memory twice.
        """
        late = []
        self._resting.began_at = self._now()
        self._sort(unsent, guarded)
        for where, group in self._groups.items():
            look = self._resting.looks[where] = Look(aside=list(group))
            reading = readings.pop(where, None)
            if reading is not None:
                if self._lanes.is_refused(where, reading):
                    continue
                self._before.note_read(where, reading)
                age_s = self._inventory.clock(where) - reading.at
                is_recent = 0 <= age_s <= FRESH_S  # below 0 the clock was set back: the age is not known
                if reading.accounts is not None or is_recent:
                    self._take_in(look, reading, self._now() - age_s if age_s >= 0 else -math.inf)
            if look.aside:
                look.is_due = True
                late.append(where)
        readings.clear()
        self._read_all(late)

    def admit(self, unsent: Sequence[int]) -> None:
        """Read the instances of further calls, none of which was ever sent, and queue them."""
        works, late = self._calls.works, []
        for route, indexes in self._by_route(unsent).items():
            self._next[route] = chain(self._next.get(route, ()), indexes)
        for index in sorted(unsent):
            work = works[index]
            self._groups.setdefault(work.where, []).append(work)
            look = self._resting.looks.setdefault(work.where, Look())
            look.aside.append(work)
            if not look.is_due:
                look.is_due = True
                late.append(work.where)
        self._read_all(late)

    def _read_all(self, places: Sequence[Where]) -> None:
        self._under_way += len(places)
        instances = iter(places)
        for _ in range(min(READERS, len(places))):
            self._tasks.spawn(self._read_on(instances))

    def _sort(self, unsent: Sequence[int], guarded: Sequence[int]) -> None:
        works = self._calls.works
        self._next = {route: iter(indexes) for route, indexes in self._by_route(unsent).items()}
        for index in sorted([*unsent, *guarded]):
            self._groups.setdefault(works[index].where, []).append(works[index])

    def _by_route(self, unsent: Sequence[int]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for index in sorted(unsent):
            found.setdefault(self._lanes.routes.of[index], []).append(index)
        return found

    async def _read_on(self, instances: Iterator[Where]) -> None:
        for where in instances:  # shared by all readers
            await self._read(where)

    # ---- when its turn has come ------------------------------------------------------------------------------------

    def turn(self, work: Work) -> Turn:
        """Return what becomes of a call whose turn has come, by its reading; if it may go, read ahead for the next."""
        resting = self._resting
        if not resting.rests(work):
            return Turn.GO
        look = resting.looks[work.where]
        if resting.is_recent(look) and resting.decided_by(work) is not look.reading:
            turn = self._before.decide(work, look)
            if turn is not Turn.GO:
                return turn if turn is Turn.OUT else self._set_aside(work, look)
        if not resting.is_fresh(work, look):
            return self._set_aside(work, look)
        self._look_ahead(self._lanes.routes.of[work.index])
        return Turn.GO

    def stands(self, work: Work) -> bool:
        """Return whether what was decided about a call still holds when its slot has come."""
        return self._resting.stands(work)

    def _set_aside(self, work: Work, look: Look) -> Turn:
        if not look.is_due:
            if self._again >= MOST_AGAIN:
                return Turn.WAIT
            self._read_again(work.where, look)
        look.aside.append(work)
        return Turn.OUT

    def _look_ahead(self, route: int) -> None:
        """Read the instances of the next calls whose readings would be too old by then."""
        now, most = self._now(), 1
        if route in self._most_ahead:
            most = self._most_ahead.pop(route)  # the first time all calls of `AHEAD_S`; then one for each that is sent
        for index in self._next[route]:
            work = self._calls.works[index]
            if not self._resting.rests(work):
                continue
            look = self._resting.looks[work.where]
            is_old = now - look.at > FRESH_S - 2 * AHEAD_S
            if is_old and not look.is_due and self._again < MOST_AGAIN:
                self._read_again(work.where, look)
            most -= 1
            if not most:
                return

    # ---- reading ---------------------------------------------------------------------------------------------------

    def _read_again(self, where: Where, look: Look) -> None:
        look.is_due = True
        self._under_way += 1
        self._again += 1
        self._tasks.spawn(self._read_anew(where))

    async def _read_anew(self, where: Where) -> None:
        try:
            await self._read(where)
        finally:
            self._again -= 1

    async def _read(self, where: Where) -> None:
        """Read an instance until none of its calls waits for a reading."""
        look, wake = self._resting.looks[where], self._calls.queue.wake
        try:
            while not self._stopping.is_set:
                began = self._now()
                limit_s = AGAIN_S if look.known is not None else None
                reading = await self._read_unless_stopping(where, self._users(where), limit_s)
                if reading is None:
                    return
                if self._lanes.is_refused(where, reading):  # nothing of the account is sent any more
                    aside, look.aside = look.aside, []
                    for work in aside:
                        self._calls.put_back(work)
                    return
                # A reading that failed counts from its end, another from its start.
                self._take_in(look, reading, began if reading.accounts is not None else self._now())
                wake.set()
                if not look.aside:
                    return
                await self._stopping.rest(CHANGING_EVERY_S)
        finally:
            look.is_due = False
            self._under_way -= 1
            wake.set()

    def _users(self, where: Where) -> Collection[str] | None:
        """Return the users whom a reading must show: those of the calls that rest on it; None: all, for the guard."""
        if self._before.guard is not None:
            return None
        return {work.call.user for work in self._groups[where] if self._resting.rests(work)}

    async def _read_unless_stopping(
        self, where: Where, users: Collection[str] | None, limit_s: float | None
    ) -> Reading | None:
        """Return a reading of an instance that shows `users`; None if the run stops first, as it sends nothing then."""
        reading = asyncio.ensure_future(self._inventory.read(where, purpose="before", users=users))
        stop = asyncio.ensure_future(self._stopping.event.wait())
        try:
            done, _ = await asyncio.wait({reading, stop}, return_when=asyncio.FIRST_COMPLETED, timeout=limit_s)
            if self._stopping.is_set:
                return None
            return await reading if reading in done else _NOT_IN_TIME
        finally:
            reading.cancel()
            stop.cancel()

    def _take_in(self, look: Look, reading: Reading, at: float) -> None:
        """Settle, queue or leave out each call that waits; a call whose account is still changing waits on."""
        reading = _sharing(reading, look.known)
        look.reading, look.at = reading, at
        if reading.accounts is not None:
            look.known, look.known_at = reading, at
        waiting, look.aside = [work for work in look.aside if not work.is_dropped], []
        for work in waiting:
            if self._resumed.is_guarded(work):
                if self._now() - at > FRESH_S:
                    look.aside.append(work)
                else:
                    self._resumed.go_on(work, may_send=self._before.may_go(work, look))
                continue
            turn = self._before.decide(work, look)
            if turn is Turn.GO:
                self._calls.put_back(work)
            elif turn is Turn.WAIT:
                look.aside.append(work)


def _calls_in(seconds: float, pace: float) -> int:
    """Return how many calls come in so many seconds, at most as many as can be read in them."""
    return max(1, math.ceil(min(pace, PLANNING_RATE) * seconds))


def _sharing(reading: Reading, known: Reading | None) -> Reading:
    """Return a reading that shares its equal rows with an earlier one: most are equal, and memory holds them once.

    The user names are shared, too: new ones would keep the memory of a whole answer from being freed.
    """
    if known is None or known.accounts is None or reading.accounts is None:
        return reading
    earlier = known.accounts
    if reading.accounts == earlier:
        return replace(reading, accounts=earlier)
    rows = (earlier[user] if earlier.get(user) == row else row for user, row in reading.accounts.items())
    return replace(reading, accounts={row.user: row for row in rows})


_NOT_IN_TIME = Reading(accounts=None, complete=False, code=NO_ANSWER, message="not read again in time")
