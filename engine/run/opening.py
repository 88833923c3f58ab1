"""A call is sent by what is so now: its account is read before, and again where that was a while ago.

A run brings the readings it was approved with; stragglers, accounts in a transitional state, and everything a resume
finds unsent are read here, at the start of the session. Every unsent call gets its `before` record first. What is so
already, or impossible, is settled without a send. Where admins are to be kept, what an earlier session has sent passes
here, too, before it may be sent again.

A long run comes to most of its calls minutes later. So a call whose turn has come passes here once more, for as long
as nothing of it can have been applied: one whose instance was read more than `FRESH_S` ago waits until it has been
read again, and is decided anew. Instances of the calls that come next are read ahead, once for all their calls, so
that a lane does not wait. What cannot be read again is sent by the older reading, and its `before` says so: an undo
takes that for no proof.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from enum import Enum

from msgspec import Struct, field
from msgspec.structs import replace

from engine.api.actions import Action
from engine.api.codes import NO_ANSWER
from engine.cloud.inventory import PLANNING_RATE, Inventory, read_line
from engine.journal import records
from engine.journal.ledger import Ledger, lacking_code
from engine.model import LACKING, Call, Omit, Outcome, Proof, Reading, Where
from engine.planning.admins import SUPERUSER, AdminGuard, admin_omit
from engine.planning.outlook import (
    NO_ACCOUNT_CODE,
    UNREAD_CODE,
    Standing,
    before_line,
    is_no_instance,
    no_account_words,
    no_instance_words,
    standing,
)

READERS = 64
CHANGING_S = 20.0
"""How long an account in a transitional state is waited for before it is sent all the same."""
CHANGING_EVERY_S = 2.0
FRESH_S = 5.0
"""A reading that began longer ago is made again before anything is sent by it."""
ADMIN_FRESH_S = 1.0
"""The same for a superuser where some must stay: others may be taking them, too."""
AHEAD_S = 1.0
"""Calls that come within this time are looked at now, so that they are fresh when they come."""
AGAIN_S = 3.0
"""How long a call waits to be read again before it is sent by the older reading."""
MOST_AGAIN = READERS
"""Instances that are read again at a time: as many as the inventory reads at once. More would only wait."""


class Turn(Enum):
    """What becomes of a call whose turn has come."""

    GO = "go"
    """It is sent."""
    OUT = "out"
    """It is settled or left out, or comes back to the queue by itself when its instance has been read again."""
    WAIT = "wait"
    """As many instances are being read again as may be: it stays in the queue."""


class _Look(Struct):
    """What is known of an instance, and who waits to know more."""

    reading: Reading | None = None
    """The newest one."""
    at: float = -math.inf
    """Loop time at which it began, as far as a call may be sent by it."""
    known: Reading | None = None
    """The newest one that shows accounts."""
    known_at: float = -math.inf
    aside: list[int] = field(default_factory=list)
    """Calls that wait for the next one."""
    is_due: bool = False
    """It is being read, or will be."""

    @property
    def is_blind(self) -> bool:
        """Whether it could not be read when that was last tried."""
        return self.reading is not None and self.reading.accounts is None and not is_no_instance(self.reading)


class Opening:
    """The calls of a session of which nothing can have been applied, on their way into the queue and to their send."""

    def __init__(
        self,
        *,
        calls: list[Call],
        instances: Sequence[Where],
        unsent: list[int],
        begun: list[int],
        action: Action,
        ledger: Ledger,
        inventory: Inventory,
        readings: dict[Where, Reading],
        located: Mapping[str, str],
        guard: AdminGuard | None,
        resend_already: bool,
        stays: Callable[[Call, Reading], Omit | None],
        routes: Sequence[int],
        paces: Mapping[int, float],
        record: Callable[[records.AnyRecord], object],
        settle: Callable[[int, Outcome, Proof | None, str | None, str | None, str | None], None],
        put_back: Callable[[int], None],
        over: Callable[[int], None],
        go_on: Callable[[int, bool], None],
        refused: Callable[[Where, Reading], bool],
        wake: Callable[[], None],
        spawn: Callable[[Coroutine[None, None, None]], object],
        stopping: asyncio.Event,
    ) -> None:
        """`unsent` and `begun` are plan indexes; `located` are instances known to be in other regions.

        `readings` is emptied: what is read again must not be kept twice.

        `stays` says why an account must stay as it is by a newer reading: an undo's rule. `instances[i]` and
        `routes[i]` are those of call `i`, `paces` what the lanes of a route send a second. `put_back` takes a call into
        the queue, `over` one of which nothing comes any more. `go_on` takes each of the `begun` with whether it may be
        sent again: they are here for the `guard` alone. `refused` looks at a reading first: if it says that the keys
        are no good, nothing of the account is sent.
        """
        self._now = asyncio.get_running_loop().time
        self._calls = calls
        self._where = instances
        self._action = action
        self._ledger = ledger
        self._inventory = inventory
        self._readings = readings
        self._located = located
        self._guard = guard
        self._resend_already = resend_already
        self._stays = stays
        self._record = record
        self._settle = settle
        self._put_back = put_back
        self._over = over
        self._go_on = go_on
        self._refused = refused
        self._wake = wake
        self._spawn = spawn
        self._stopping = stopping
        self._begun = frozenset(begun)
        self._groups: dict[Where, list[int]] = {}
        for index in sorted([*unsent, *begun]):
            self._groups.setdefault(instances[index], []).append(index)
        self._looks: dict[Where, _Look] = {}
        self._rests = bytearray(len(calls))
        """1 for a call that rests on a reading: nothing of it can have been applied."""
        self._resting: Counter[Where] = Counter()
        """How many of them an instance has."""
        for index in unsent:
            self._rests[index] = 1
            self._resting[instances[index]] += 1
        self._decided_by: list[Reading | None] = [None] * len(calls)
        """By call: the reading by which it may be sent."""
        self._admins: set[int] = set()
        """Calls that take a superuser where some must stay."""
        self._changing_since: dict[int, float] = {}
        self._began_at = math.inf
        self._under_way = 0
        """Instances that are being read, or will be."""
        self._again = 0
        """Those of them that are read again."""
        self._routes = routes
        by_route: dict[int, list[int]] = {}
        for index in unsent:
            by_route.setdefault(routes[index], []).append(index)
        self._next = {route: iter(sorted(indexes)) for route, indexes in by_route.items()}
        """By route: the calls that have not been looked ahead at, in plan order."""
        self._most_ahead = {route: _calls_in(AHEAD_S, pace) for route, pace in paces.items()}

    @property
    def is_over(self) -> bool:
        """No instance is being read: every unsent call is in the queue or settled."""
        return not self._under_way

    # ---- at the start of the session -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take in what was read for the plan; read the rest by a few readers."""
        late = []
        self._began_at = self._now()
        for where, group in self._groups.items():
            look = self._looks[where] = _Look(aside=list(group))
            reading = self._readings.pop(where, None)
            if reading is not None:
                if self._refused(where, reading):
                    continue
                self._record(read_line(where, "before", reading))
                age_s = self._inventory.clock(where) - reading.at
                is_recent = 0 <= age_s <= FRESH_S  # a clock that was set back says nothing of its age
                if reading.accounts is not None or is_recent:
                    self._take_in(where, reading, self._now() - age_s if age_s >= 0 else -math.inf)
            if look.aside:
                look.is_due = True
                late.append(where)
        self._readings.clear()
        self._under_way = len(late)
        instances = iter(late)
        for _ in range(min(READERS, len(late))):
            self._spawn(self._read_on(instances))

    async def _read_on(self, instances: Iterator[Where]) -> None:
        for where in instances:  # shared by all readers
            await self._read(where)

    # ---- when its turn has come ------------------------------------------------------------------------------------

    def turn(self, index: int) -> Turn:
        """Whether a call whose turn has come may be sent by what is known of its account; if so, looks ahead."""
        if not self._rests[index]:
            return Turn.GO
        look = self._looks[self._where[index]]
        if self._is_recent(look) and self._decided_by[index] is not look.reading:
            turn = self._decide(index, look)
            if turn is not Turn.GO:
                return turn if turn is Turn.OUT else self._set_aside(index, look)
        if not self._is_fresh(index, look):
            return self._set_aside(index, look)
        self._look_ahead(self._routes[index])
        return Turn.GO

    def stands(self, index: int) -> bool:
        """Whether what was decided of a call is still fresh: asked once more when its slot has come."""
        if not self._rests[index]:
            return True
        look = self._looks[self._where[index]]
        return self._is_as_decided(index, look) and self._is_fresh(index, look)

    def sent(self, index: int) -> None:
        """A call may have been applied: from now on it is known by what comes after, not by what was before."""
        if not self._rests[index]:
            return
        self._rests[index], self._decided_by[index] = 0, None
        where = self._where[index]
        self._resting[where] -= 1
        if not self._resting[where]:  # a large job would keep the readings of all its instances
            look = self._looks[where]
            look.reading = look.known = None

    def _is_as_decided(self, index: int, look: _Look) -> bool:
        """Whether the newest reading is the one a call was decided by, or shows its account the same."""
        by, newest = self._decided_by[index], look.reading
        if look.is_blind and self._now() - look.known_at <= FRESH_S:
            newest = look.known
        if by is newest or by is None or newest is None or index in self._admins:
            return by is newest
        user = self._calls[index].user
        return by.find(user) == newest.find(user)

    def _is_fresh(self, index: int, look: _Look) -> bool:
        if index not in self._admins:
            return self._is_recent(look)
        # What was read for the plan does not count: a run that has ended since had its claim then.
        return look.at >= self._began_at and self._now() - look.at <= ADMIN_FRESH_S

    def _is_recent(self, look: _Look) -> bool:
        """Whether a call may be decided by the newest reading.

        What cannot be read is waited for once, and meanwhile read ahead: an incident has no time for more.
        """
        return look.is_blind or self._now() - look.at <= FRESH_S

    def _set_aside(self, index: int, look: _Look) -> Turn:
        if not look.is_due:
            if self._again >= MOST_AGAIN:
                return Turn.WAIT
            self._read_again(self._where[index], look)
        look.aside.append(index)
        return Turn.OUT

    def _look_ahead(self, route: int) -> None:
        """Have the instances of the calls read that come next, if they would not be fresh any more."""
        now, most = self._now(), 1
        if route in self._most_ahead:
            most = self._most_ahead.pop(route)  # the first time: all of them; from then on one for each that goes
        for index in self._next[route]:
            if not self._rests[index]:
                continue
            where = self._where[index]
            look = self._looks[where]
            is_old = now - look.at > FRESH_S - 2 * AHEAD_S
            if is_old and not look.is_due and self._again < MOST_AGAIN:
                self._read_again(where, look)
            most -= 1
            if not most:
                return

    # ---- reading ---------------------------------------------------------------------------------------------------

    def _read_again(self, where: Where, look: _Look) -> None:
        look.is_due = True
        self._under_way += 1
        self._again += 1
        self._spawn(self._read_anew(where))

    async def _read_anew(self, where: Where) -> None:
        try:
            await self._read(where)
        finally:
            self._again -= 1

    async def _read(self, where: Where) -> None:
        """Read an instance until none of its calls waits for that any more."""
        look = self._looks[where]
        try:
            while not self._stopping.is_set():
                began = self._now()
                limit_s = AGAIN_S if look.known is not None else None
                reading = await self._read_unless_stopping(where, self._users(where), limit_s)
                if reading is None:
                    return
                if self._refused(where, reading):  # nothing of the account is sent any more
                    aside, look.aside = look.aside, []
                    for index in aside:
                        self._put_back(index)
                    return
                # What failed is no look of a moment ago; it is what is known now.
                self._take_in(where, reading, began if reading.accounts is not None else self._now())
                self._wake()
                if not look.aside:
                    return
                await self._rest(CHANGING_EVERY_S)
        finally:
            look.is_due = False
            self._under_way -= 1
            self._wake()

    def _users(self, where: Where) -> Collection[str] | None:
        """Whose accounts a reading must show: those of the calls that rest on it; a guard looks at all there are."""
        if self._guard is not None:
            return None
        return {self._calls[index].user for index in self._groups[where] if self._rests[index]}

    async def _read_unless_stopping(
        self, where: Where, users: Collection[str] | None, limit_s: float | None
    ) -> Reading | None:
        """A reading of an instance, as far as `users` need. None if the run stops first: the unsent need none."""
        reading = asyncio.ensure_future(self._inventory.read(where, purpose="before", users=users))
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            done, _ = await asyncio.wait({reading, stop}, return_when=asyncio.FIRST_COMPLETED, timeout=limit_s)
            if self._stopping.is_set():
                return None
            return await reading if reading in done else _NOT_IN_TIME
        finally:
            reading.cancel()
            stop.cancel()

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    # ---- what a reading decides ------------------------------------------------------------------------------------

    def _take_in(self, where: Where, reading: Reading, at: float) -> None:
        """Settle, queue or leave out each call that waits; one whose account is still changing goes on waiting."""
        look = self._looks[where]
        reading = _sharing(reading, look.known)
        look.reading, look.at = reading, at
        if reading.accounts is not None:
            look.known, look.known_at = reading, at
        waiting, look.aside = look.aside, []
        for index in waiting:
            if index in self._begun:
                if self._now() - at > FRESH_S:
                    look.aside.append(index)
                else:
                    self._go_on(index, self._may_go(index, look))
                continue
            turn = self._decide(index, look)
            if turn is Turn.GO:
                self._put_back(index)
            elif turn is Turn.WAIT:
                look.aside.append(index)

    def _decide(self, index: int, look: _Look) -> Turn:
        """By the newest reading: may the call be sent, is it over, or must its account be read once more first?"""
        call, reading = self._calls[index], look.reading
        assert reading is not None
        how = standing(self._action, reading, call.user)
        if how in _ENDS and not self._is_recent(look):
            return Turn.WAIT  # what was so when a person was asked settles nothing minutes later
        if how is Standing.CHANGING:
            since = self._changing_since.setdefault(index, self._now())
            if self._now() - since < CHANGING_S:
                return Turn.WAIT
        self._changing_since.pop(index, None)
        self._note_before(call, how, look)
        if how is Standing.ALREADY and not self._resend_already:
            self._end(index, Outcome.ALREADY, Proof.BEFORE, None, self._action.already_note, reading)
        elif how is Standing.NO_ACCOUNT:
            words = no_account_words(call, reading)
            self._end(index, Outcome.FAILED, Proof.BEFORE, NO_ACCOUNT_CODE, words, reading)
        elif how is Standing.NO_INSTANCE:
            words = no_instance_words(call, self._located.get(call.instance))
            self._end(index, Outcome.FAILED, Proof.BEFORE, reading.code, words, reading)
        elif how is not Standing.UNREAD and (omit := self._stays(call, reading)) is not None:
            self._leave_out(index, omit, reading)
        elif self._may_go(index, look):
            self._decided_by[index] = reading
            return Turn.GO
        elif reading.accounts is None:
            words = f"not sent: keep_admins cannot hold, as {call.instance} cannot be read ({reading.code})"
            self._end(index, Outcome.FAILED, None, UNREAD_CODE, words, reading)
        else:
            self._keep_admin(index, reading)
        return Turn.OUT

    def _note_before(self, call: Call, how: Standing, look: _Look) -> None:
        """How the account is before the call, unless the journal has it so."""
        line = before_line(call, look.reading)
        if how is Standing.UNREAD and look.known is not None and look.known.find(call.user) is not None:
            assert look.reading is not None
            age_s = self._now() - look.known_at
            when = f"{age_s:.0f} s" if math.isfinite(age_s) else "a while"
            why = f"read {when} before it could be sent, and not again: {look.reading.code or 'not all shown'}"
            line = replace(before_line(call, look.known), why=why)
        written = self._ledger.entry(call.id).before
        if how is Standing.ALREADY:  # it is settled by this reading
            assert look.reading is not None
            line.read_at = records.rfc3339(look.reading.at)
            self._record(line)
        elif written is None or any(getattr(line, name) != getattr(written, name) for name in _OF_ACCOUNT):
            self._record(line)

    def _may_go(self, index: int, look: _Look) -> bool:
        """Whether the guard lets a call be sent, by the newest reading of its instance."""
        if self._guard is None:
            return True
        call, reading = self._calls[index], look.reading
        state = look.known.find(call.user) if look.known is not None else None
        if state is not None and state.user_type == SUPERUSER:
            self._admins.add(index)
        if reading is None or reading.accounts is None:
            return state is not None and state.user_type != SUPERUSER  # it was read before, and takes no admin
        return self._guard.lets(call.where, reading.accounts, call.user)

    def _keep_admin(self, index: int, reading: Reading) -> None:
        call = self._calls[index]
        assert self._guard is not None and reading.accounts is not None
        refused = self._guard.why_not(call.where, reading.accounts, call.user)
        assert refused is not None
        self._leave_out(index, admin_omit(call, *refused), reading)

    def _leave_out(self, index: int, omit: Omit, reading: Reading) -> None:
        call, entry = self._calls[index], self._ledger.entry(self._calls[index].id)
        if entry.spent:  # it has a history, and stays a call
            code = lacking_code(str(omit.reason)) if omit.reason in LACKING else entry.code
            words = f"{omit.rule} ({omit.where}): not sent again, and it was not applied before"
            self._end(index, Outcome.FAILED, None, code, words, reading)
            return
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
        self._rests[index] = 0
        self._over(index)

    def _end(
        self, index: int, outcome: Outcome, proof: Proof | None, code: str | None, words: str | None, reading: Reading
    ) -> None:
        self._rests[index] = 0
        self._settle(index, outcome, proof, code, words, reading.request_id)
        self._over(index)


def _calls_in(seconds: float, pace: float) -> int:
    """How many calls come in so many seconds; no more than could be read."""
    return max(1, math.ceil(min(pace, PLANNING_RATE) * seconds))


_ENDS = frozenset({Standing.ALREADY, Standing.NO_ACCOUNT, Standing.NO_INSTANCE})
"""How an account stands that needs no send, or can have none."""
_OF_ACCOUNT = ("status", "cam", "type", "update_time", "password_update_time", "why")


def _sharing(reading: Reading, known: Reading | None) -> Reading:
    """A reading that keeps the rows of an earlier one that are the same: most are, and nothing is kept twice.

    Their names, too: a new reading's would keep memory in use all over what its answers took.
    """
    if known is None or known.accounts is None or reading.accounts is None:
        return reading
    earlier = known.accounts
    if reading.accounts == earlier:
        return replace(reading, accounts=earlier)
    rows = (earlier[user] if earlier.get(user) == row else row for user, row in reading.accounts.items())
    return replace(reading, accounts={row.user: row for row in rows})


_NOT_IN_TIME = Reading(accounts=None, complete=False, code=NO_ANSWER, message="not read again in time")
