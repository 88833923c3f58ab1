"""Accepted is not done. Every accepted call waits here until its account is read as desired.

An instance is read once all of its calls are over (one reading an instance each way, when all goes well). What is
accepted and yet not so is read again for half a minute, then sent again, twice at the most, then failed in words.
What cannot be read stays unsettled, hence unknown, and a resume reads it. So does what the readings do not show, while
they may not be whole or say what nobody documents: that nothing is seen is no reason to send again, nor to fail.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine

from msgspec import Struct, field

from engine.api.codes import row_of
from engine.cloud.inventory import Inventory
from engine.model import AccountState, Call, Reading, Where
from engine.run.callqueue import CallQueues
from engine.run.endings import DRAIN_S

REREAD_S = 30.0
"""How long an accepted change may take to show; no page says that it takes any time."""
REREAD_EVERY_S = 2.0
UNREAD_EVERY_S = 10.0
MOST_RESENDS = 2


class _Ward(Struct):
    """The accepted and unread calls of one instance."""

    where: Where
    waiting: dict[int, str | None] = field(default_factory=dict)
    """Plan index → RequestId that accepted it."""
    accepted_at: dict[int, float] = field(default_factory=dict)
    """Plan index → loop time at which it came here."""
    since: dict[int, float] = field(default_factory=dict)
    """Plan index → loop time of the first reading that disagreed."""
    unshown: dict[int, float] = field(default_factory=dict)
    """Plan index → loop time of the first reading, of those without a break, that did not tell."""
    unread_since: float | None = None
    is_due: bool = False
    """A reading of it is asked for, under way, or resting before the next."""

    def leave(self, index: int) -> None:
        """Nothing more is to be proven of a call here."""
        for kept in (self.waiting, self.accepted_at, self.since, self.unshown):
            kept.pop(index, None)


class ReadBack:
    """Accepted calls of a run that are not proven yet."""

    MOST_AT_ONCE = 64
    """Readings under way at a time."""

    def __init__(
        self,
        *,
        calls: list[Call],
        queue: CallQueues,
        inventory: Inventory,
        shown: Callable[[Reading, str], bool | None],
        confirm: Callable[[int, AccountState, str | None], None],
        deny: Callable[[int, AccountState | None, str | None, bool], None],
        spawn: Callable[[Coroutine[None, None, None]], object],
        stopping: asyncio.Event,
        patience_s: float,
    ) -> None:
        """`shown`: whether a reading shows the account of a name as desired; None if it does not tell.

        `confirm` settles a call that is so; `deny` one that is not: to be sent again (True), or failed (False).
        An instance that cannot be read, or whose readings do not tell, is tried for `patience_s`.
        """
        self._calls = calls
        self._queue = queue
        self._inventory = inventory
        self._shown = shown
        self._confirm = confirm
        self._deny = deny
        self._spawn = spawn
        self._stopping = stopping
        self._patience_s = patience_s
        self._wards: dict[Where, _Ward] = {}
        self._due: list[tuple[int, _Ward]] = []
        """Heap by the first waiting call: a plan has the superusers first, so theirs are read first."""
        self._active = 0
        self._resends: dict[int, int] = {}
        self._drain_until: float | None = None

    def __len__(self) -> int:
        """Calls accepted and not proven."""
        return sum(len(ward.waiting) for ward in self._wards.values())

    @property
    def is_idle(self) -> bool:
        """Nothing is to be proved, and no reading is under way."""
        return not self._wards

    def unread(self) -> dict[Where, float]:
        """Instances that cannot be read, or whose readings do not tell, with the loop time since when."""
        since = {ward.where: [*ward.unshown.values(), ward.unread_since] for ward in self._wards.values()}
        found = {where: [at for at in times if at is not None] for where, times in since.items()}
        return {where: min(times) for where, times in found.items() if times}

    def behind(self, now: float) -> float | None:
        """For how long the readings have not shown what was accepted; None if no reading has missed anything."""
        late = [ward.accepted_at[index] for ward in self._wards.values() for index in ward.since]
        return now - min(late) if late else None

    def accepted(self, index: int, request_id: str | None, *, resend: bool = True) -> None:
        """Call `index` was accepted: it is to be proven. Without `resend` it is never sent again."""
        if not resend:
            self._resends[index] = MOST_RESENDS
        call = self._calls[index]
        ward = self._wards.get(call.where)
        if ward is None:
            ward = self._wards[call.where] = _Ward(call.where)
        ward.waiting[index] = request_id
        ward.accepted_at[index] = asyncio.get_running_loop().time()
        self.touch(index)

    def touch(self, index: int) -> None:
        """Something of the instance of call `index` came to an end: see whether it is time to read."""
        call = self._calls[index]
        ward = self._wards.get(call.where)
        if ward is not None and (self._stopping.is_set() or not self._queue.of(index).is_busy(index)):
            self._make_due(ward)

    def drain(self, until: float) -> None:
        """The run is stopping: read everything that waits, until this loop time; a later word may move it."""
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
            self._spawn(self._prove(heapq.heappop(self._due)[1]))

    async def _prove(self, ward: _Ward) -> None:
        """Read an instance until nothing of it waits any more."""
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
        """One reading; returns the pause before the next, None to leave what waits unproven."""
        asked = dict(ward.waiting)
        until = self._drain_until
        try:
            async with asyncio.timeout_at(until):
                reading = await self._inventory.read(
                    ward.where, purpose="after", users=[self._calls[index].user for index in asked]
                )
        except TimeoutError:
            pause_s = None
        else:
            pause_s = self._judge(ward, asked, reading)
        if pause_s is None and self._drain_until != until and ward.waiting.keys() - asked.keys():
            return 0.0  # accepted while it was read, late in a drain: it is read, too
        return pause_s

    def _judge(self, ward: _Ward, asked: dict[int, str | None], reading: Reading) -> float | None:
        """What a reading says of the calls that waited when it was asked for."""
        now = asyncio.get_running_loop().time()
        if reading.accounts is None:
            ward.unread_since = now if ward.unread_since is None else ward.unread_since
            is_given_up = any(self._queue.of(index).is_closed for index in asked)
            patience_s = DRAIN_S if is_given_up else self._patience_s
            if self._stopping.is_set() or row_of(reading.code).is_denial or now - ward.unread_since >= patience_s:
                return None  # the right to read does not come back in a minute
            return UNREAD_EVERY_S
        ward.unread_since = None
        for index, request_id in asked.items():
            self._weigh(ward, index, request_id, reading, now)
        if self._drain_until is not None and now >= self._drain_until:
            return None
        if all(index in ward.unshown for index in ward.waiting):
            return None if self._stopping.is_set() else UNREAD_EVERY_S
        return REREAD_EVERY_S

    def _weigh(self, ward: _Ward, index: int, request_id: str | None, reading: Reading, now: float) -> None:
        """What a reading means for one call that waits."""
        user = self._calls[index].user
        state, is_so = reading.find(user), self._shown(reading, user)
        if is_so is None:
            if now - ward.unshown.setdefault(index, now) >= self._patience_s:
                ward.leave(index)
            return
        ward.unshown.pop(index, None)
        if is_so and state is not None:
            ward.leave(index)
            self._confirm(index, state, request_id)
        elif now - ward.since.setdefault(index, now) >= REREAD_S:
            ward.leave(index)
            resends = self._resends.get(index, 0)
            self._resends[index] = resends + 1
            self._deny(index, state, request_id, resends < MOST_RESENDS and not self._stopping.is_set())

    async def _rest(self, seconds: float) -> None:
        if self._stopping.is_set():
            await asyncio.sleep(min(seconds, REREAD_EVERY_S))
            return
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
