"""Engine, floor 3: before a call is first sent, its account is read; what is so already, or impossible, is settled.

A run brings the readings it was approved with; stragglers, accounts in a transitional state, and everything a resume
finds unsent are read here, at the start of the session. Every unsent call gets its `before` record first. Where admins
are to be kept, what an earlier session has sent passes here, too, before it may be sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping

from engine import records
from engine.actions import Action
from engine.admins import AdminGuard, admin_omit
from engine.callqueue import CallQueues
from engine.inventory import Inventory, read_line
from engine.ledger import Ledger
from engine.model import Call, Outcome, Proof, Reading, Where
from engine.outlook import (
    NO_ACCOUNT_CODE,
    UNREAD_CODE,
    Readings,
    Standing,
    before_line,
    no_account_words,
    no_instance_words,
    standing,
)

READERS = 64
CHANGING_S = 20.0
"""How long an account in a transitional state is waited for before it is sent all the same."""
CHANGING_EVERY_S = 2.0


class Opening:
    """The calls of a session that were never sent, on their way into the queue."""

    def __init__(
        self,
        *,
        calls: list[Call],
        unsent: list[int],
        begun: list[int],
        action: Action,
        ledger: Ledger,
        queue: CallQueues,
        inventory: Inventory,
        readings: Readings,
        located: Mapping[str, str],
        guard: AdminGuard | None,
        resend_already: bool,
        record: Callable[[records.AnyRecord], object],
        settle: Callable[[int, Outcome, Proof | None, str | None, str | None, str | None], None],
        go_on: Callable[[int, bool], None],
        refused: Callable[[Where, Reading], bool],
        wake: Callable[[], None],
        stopping: asyncio.Event,
    ) -> None:
        """`unsent` and `begun` are plan indexes; `located` are instances known to be in other regions.

        `go_on` takes each of the `begun` with whether it may be sent again: they are here for the `guard` alone.
        `refused` looks at a reading first: if it says that the keys are no good, nothing of the account is sent.
        """
        self._calls = calls
        self._action = action
        self._ledger = ledger
        self._queue = queue
        self._inventory = inventory
        self._readings = readings
        self._located = located
        self._guard = guard
        self._go_on = go_on
        self._resend_already = resend_already
        self._record = record
        self._settle = settle
        self._refused = refused
        self._wake = wake
        self._stopping = stopping
        self._begun = frozenset(begun)
        self._groups: dict[Where, list[int]] = {}
        for index in sorted([*unsent, *begun]):
            call = calls[index]
            self._groups.setdefault(call.where, []).append(index)
        self._unread = 0

    @property
    def is_over(self) -> bool:
        """Every unsent call is in the queue or settled."""
        return not self._unread

    def begin(self, spawn: Callable[[Coroutine[None, None, None]], object]) -> None:
        """Take in what was read for the plan; read the rest by a few readers."""
        late = []
        for where, group in self._groups.items():
            reading = self._readings.get(where)
            if reading is None:
                late.append(where)
                continue
            if self._refused(where, reading):
                continue
            self._record(read_line(where, "before", reading))
            changing = self._take_in(group, reading)
            if changing:
                self._groups[where] = changing
                late.append(where)
        self._unread = len(late)
        instances = iter(late)
        for _ in range(min(READERS, len(late))):
            spawn(self._read_on(instances))

    async def _read_on(self, instances: Iterator[Where]) -> None:
        for where in instances:  # shared by all readers
            await self._read(where)
            self._unread -= 1
            self._wake()

    async def _read(self, where: Where) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + CHANGING_S
        group = self._groups[where]
        while group and not self._stopping.is_set():
            users = None if self._guard is not None else {self._calls[index].user for index in group}
            reading = await self._read_unless_stopping(where, users)
            if reading is None or self._refused(where, reading):
                return
            group = self._take_in(group, reading, wait=loop.time() < until)
            self._wake()
            if group:
                await asyncio.sleep(CHANGING_EVERY_S)

    async def _read_unless_stopping(self, where: Where, users: Collection[str] | None) -> Reading | None:
        """A reading of an instance, as far as `users` need. None if the run stops first: the unsent need none."""
        reading = asyncio.ensure_future(self._inventory.read(where, purpose="before", users=users))
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({reading, stop}, return_when=asyncio.FIRST_COMPLETED)
            return None if self._stopping.is_set() else await reading
        finally:
            reading.cancel()
            stop.cancel()

    def _take_in(self, group: list[int], reading: Reading, *, wait: bool = True) -> list[int]:
        """Settle, queue or leave out each call of an instance; returns those whose account is still changing."""
        changing = []
        for index in group:
            call = self._calls[index]
            if index in self._begun:
                self._go_on(index, self._may_go(call, reading))
                continue
            how = standing(self._action, reading, call.user)
            if how is Standing.CHANGING and wait:
                changing.append(index)
                continue
            line = before_line(call, reading)
            if how is Standing.ALREADY:
                line.read_at = records.rfc3339(reading.at)
            self._record(line)
            if how is Standing.ALREADY and not self._resend_already:
                note = self._action.already_note
                self._settle(index, Outcome.ALREADY, Proof.BEFORE, None, note, reading.request_id)
            elif how is Standing.NO_ACCOUNT:
                words = no_account_words(call, reading)
                self._settle(index, Outcome.FAILED, Proof.BEFORE, NO_ACCOUNT_CODE, words, reading.request_id)
            elif how is Standing.NO_INSTANCE:
                words = no_instance_words(call, self._located.get(call.instance))
                self._settle(index, Outcome.FAILED, Proof.BEFORE, reading.code, words, reading.request_id)
            elif self._may_go(call, reading):
                self._queue.of(index).put_back(index, asyncio.get_running_loop().time(), retry=False)
            elif reading.accounts is None:
                words = f"not sent: keep_admins cannot hold, as {call.instance} cannot be read ({reading.code})"
                self._settle(index, Outcome.FAILED, None, UNREAD_CODE, words, reading.request_id)
            else:
                self._leave_out(call)
        return changing

    def _may_go(self, call: Call, reading: Reading) -> bool:
        """Whether the guard lets a call be sent, by a reading of its instance."""
        if self._guard is None:
            return True
        return reading.accounts is not None and self._guard.lets(call.where, reading.accounts, call.user)

    def _leave_out(self, call: Call) -> None:
        assert self._guard is not None
        omit = admin_omit(call, self._guard.keep)
        self._record(
            records.OmitLine(
                account=call.account,
                region=call.region,
                instance=call.instance,
                user=call.user,
                reason=str(omit.reason),
                rule=omit.rule,
                where=omit.where,
                call=call.id,
            )
        )
