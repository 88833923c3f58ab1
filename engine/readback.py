"""Engine, floor 3: accepted is not done. Every accepted call waits here until its account is read as desired.

An instance is read once all of its calls are over (one reading an instance each way, when all goes well). What is
accepted and yet not so is read again for half a minute, then sent again, twice at the most, then failed in words.
What cannot be read stays unsettled, hence unknown, and a resume reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.callqueue import CallQueue
from engine.inventory import Inventory
from engine.model import AccountState, Call

REREAD_S = 30.0
"""How long an accepted change may take to show (facts.md §8)."""
REREAD_EVERY_S = 2.0
UNREAD_EVERY_S = 10.0
DRAIN_S = 10.0
"""How long a drain goes on reading (design §6)."""
MOST_RESENDS = 2


@dataclass(slots=True)
class _Ward:
    """The accepted and unread calls of one instance."""

    region: str
    instance: str
    waiting: dict[int, str | None] = field(default_factory=dict)
    """Plan index → RequestId that accepted it."""
    since: dict[int, float] = field(default_factory=dict)
    """Plan index → loop time of the first reading that disagreed."""
    unread_since: float | None = None
    reading: bool = False


class ReadBack:
    """Accepted calls of a run that are not proven yet."""

    def __init__(
        self,
        *,
        calls: list[Call],
        queue: CallQueue,
        inventory: Inventory,
        is_desired: Callable[[AccountState], bool],
        confirm: Callable[[int, AccountState, str | None], None],
        deny: Callable[[int, AccountState | None, str | None, bool], None],
        spawn: Callable[[ReadBack, _Ward], None],
        stopping: asyncio.Event,
        patience_s: float,
    ) -> None:
        """`confirm` settles a call that is so; `deny` one that is not: to be sent again (True), or failed (False)."""
        self._calls = calls
        self._queue = queue
        self._inventory = inventory
        self._is_desired = is_desired
        self._confirm = confirm
        self._deny = deny
        self._spawn = spawn
        self._stopping = stopping
        self._patience_s = patience_s
        self._wards: dict[tuple[str, str], _Ward] = {}
        self._resends: dict[int, int] = {}
        self._drain_until: float | None = None

    def __len__(self) -> int:
        """Calls accepted and not proven."""
        return sum(len(ward.waiting) for ward in self._wards.values())

    @property
    def idle(self) -> bool:
        """Nothing to prove, and no reading under way."""
        return not self._wards

    def unread(self) -> dict[str, float]:
        """Instances that cannot be read, with the loop time since when."""
        return {ward.instance: ward.unread_since for ward in self._wards.values() if ward.unread_since is not None}

    def accepted(self, index: int, request_id: str | None) -> None:
        """Call `index` was accepted: it is to be proven."""
        call = self._calls[index]
        key = (call.region, call.instance)
        ward = self._wards.get(key)
        if ward is None:
            ward = self._wards[key] = _Ward(call.region, call.instance)
        ward.waiting[index] = request_id
        self.touch(index)

    def touch(self, index: int) -> None:
        """Something of the instance of call `index` came to an end: see whether it is time to read."""
        call = self._calls[index]
        ward = self._wards.get((call.region, call.instance))
        if ward is None or ward.reading or not ward.waiting:
            return
        if self._stopping.is_set() or not self._queue.is_busy(index):
            ward.reading = True
            self._spawn(self, ward)

    def drain(self) -> None:
        """The run is stopping: read everything that waits, once more."""
        self._drain_until = asyncio.get_running_loop().time() + DRAIN_S
        for ward in list(self._wards.values()):
            if not ward.reading and ward.waiting:
                ward.reading = True
                self._spawn(self, ward)

    async def prove(self, ward: _Ward) -> None:
        """Read an instance until nothing of it waits any more, or its calls go on elsewhere."""
        try:
            while ward.waiting:
                pause_s = await self._read_once(ward)
                if pause_s is None:
                    break
                await self._rest(pause_s)
        finally:
            ward.reading = False
            if not ward.waiting:
                self._wards.pop((ward.region, ward.instance), None)

    async def _read_once(self, ward: _Ward) -> float | None:
        """One reading; returns the pause before the next, None to leave it."""
        loop = asyncio.get_running_loop()
        asked = list(ward.waiting.items())
        try:
            async with asyncio.timeout_at(self._drain_until):
                reading = await self._inventory.read(ward.region, ward.instance, purpose="after")
        except TimeoutError:
            return self._give_up(ward)
        if reading.accounts is None:
            ward.unread_since = loop.time() if ward.unread_since is None else ward.unread_since
            if self._stopping.is_set() or loop.time() - ward.unread_since > self._patience_s:
                return self._give_up(ward)
            return UNREAD_EVERY_S
        ward.unread_since = None
        for index, request_id in asked:
            state = reading.accounts.get(self._calls[index].user)
            if state is not None and self._is_desired(state):
                ward.waiting.pop(index, None)
                ward.since.pop(index, None)
                self._confirm(index, state, request_id)
            else:
                self._disagreed(ward, index, state, request_id, loop.time())
        if self._stopping.is_set() and (self._drain_until is None or loop.time() >= self._drain_until):
            return self._give_up(ward)
        return REREAD_EVERY_S

    def _disagreed(
        self, ward: _Ward, index: int, state: AccountState | None, request_id: str | None, now: float
    ) -> None:
        since = ward.since.setdefault(index, now)
        if now - since < REREAD_S:
            return
        del ward.since[index], ward.waiting[index]
        resends = self._resends.get(index, 0)
        again = resends < MOST_RESENDS and not self._stopping.is_set()
        self._resends[index] = resends + 1
        self._deny(index, state, request_id, again)

    def _give_up(self, ward: _Ward) -> None:
        ward.waiting.clear()

    async def _rest(self, seconds: float) -> None:
        if self._stopping.is_set():
            await asyncio.sleep(min(seconds, REREAD_EVERY_S))
            return
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
