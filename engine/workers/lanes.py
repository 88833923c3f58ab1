"""Serve a lane: its session takes shards of all runs that the lane may send, one session of a run after the other.

Every shard has a `Session` of its own, whose journal is the chain of the shard. All of them draw on the slots of the
lane, which all hosts share. The next shard of a run begins shortly before the one before has nothing left to send for
the first time, so that the lane is never idle.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine import __version__
from engine.cloud.clients import Reach, Signer, quota_owner
from engine.errors import AcctopsError, JournalCorruptError, JournalWriteError, Reason, UnreachableError
from engine.journal import records
from engine.journal.lines import decode_block
from engine.operations.reach import passwords_of
from engine.operations.resume import drop_guarded
from engine.operations.session import Session, Share
from engine.operations.terms import operator
from engine.operations.windows import time_left, window_of
from engine.pacing.pacer import Gear
from engine.planning.shards import owner_of
from engine.run.runner import Runner

if TYPE_CHECKING:
    from engine.journal.control import Asked
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Offer, ShardJournal
    from engine.model import LaneSlots
    from engine.operations.session import Conductor
    from engine.workers.host import Host

LOOK_S = 0.5
"""Seconds between two looks for shards that the lane may take."""
AHEAD_S = 1.5
"""A further shard of a run is taken once the calls of those that the lane has take so many seconds to be sent: so it
has begun before there is nothing left to send."""
AGAIN_S = 5.0
"""Seconds after which a shard is tried again that could not be served."""
_READS = 800.0
"""Readings a second of all workers together: the quota of DescribeAccounts is 1,000 (D-ACCTS)."""
_LEAST_READS = 5.0
_NOT_OURS = "the keys of this worker are not of this lane's owner any more, or have come to their end"


class LaneSession:
    """One lane, as long as it has shards to serve."""

    def __init__(self, host: Host, name: str, signer: Signer, access: str) -> None:
        """`access`: host and port of the lane's access point."""
        self._host = host
        self._name = name
        self._signer = signer
        self._access = access
        self._served: dict[tuple[str, int], _Shard] = {}
        self._is_leaving = False
        self._paces: dict[str, RunSlots] = {}
        """Run → the slots of its sessions here: together they keep the rate of the run."""

    async def run(self) -> None:
        """Serve until no shard is left that the lane may take, or until the worker leaves."""
        tasks: dict[asyncio.Task[None], tuple[str, int]] = {}
        later: dict[tuple[str, int], float] = {}
        now = asyncio.get_running_loop().time
        try:
            while True:
                for task in [task for task in tasks if task.done()]:
                    key = tasks.pop(task)
                    self._served.pop(key, None)
                    if (error := task.exception()) is not None:
                        later[key] = now() + AGAIN_S
                        self._host.say(f"{self._name}: shard {key[1]} of run {key[0]}: {_words(error)}")
                offers = await self._offers()
                if offers is not None and not offers and not tasks:
                    return
                for offer in offers or ():
                    key = (offer.run, offer.no)
                    if key in self._served or later.get(key, 0.0) > now() or not self._has_room(offer.run):
                        continue
                    shard = self._served[key] = _Shard(self._host, self, offer)
                    tasks[asyncio.create_task(shard.serve())] = key
                if self.is_leaving and not tasks:
                    return
                if offers and not tasks:
                    return  # nothing of it can be served here: let another worker try
                if tasks:
                    await asyncio.wait(tasks, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(LOOK_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _offers(self) -> list[Offer] | None:
        """Return what the lane may take; None if the database does not answer."""
        if self.is_leaving:
            return []
        try:
            without = {run for run, _ in self._served if not self._has_room(run)}
            return await self._host.offers(self._name, without)
        except UnreachableError:
            return None

    def _has_room(self, run: str) -> bool:
        """Whether the lane takes a further shard of a run: those it has are sent once within a moment."""
        shards = [shard for (of, _), shard in self._served.items() if of == run]
        return sum(shard.unsent for shard in shards) <= AHEAD_S * max((shard.rate for shard in shards), default=0.0)

    @property
    def is_leaving(self) -> bool:
        """Whether it takes nothing new, and what it has is another worker's to go on with."""
        return self._is_leaving or self._host.is_leaving

    def leave(self) -> None:
        """Leave the lane to another worker, whose keys are its owner's."""
        if not self._is_leaving:
            self._is_leaving = True
            for shard in list(self._served.values()):
                shard.leave(_NOT_OURS)

    @property
    def owner(self) -> str:
        """Whose quota the lane is."""
        return owner_of(self._name)

    @property
    def name(self) -> str:
        """The lane's name."""
        return self._name

    @property
    def signer(self) -> Signer:
        """Who signs for it."""
        return self._signer

    @property
    def access(self) -> str:
        """Host and port of its access point."""
        return self._access

    def slots(self, run: str) -> RunSlots:
        """Return the slots for the sessions of a run."""
        if run not in self._paces:
            clock = asyncio.get_running_loop().time
            # One quota, one row: also for a lane that a run calls by a fingerprint, and whose owner is known by now.
            _, action, access = self._name.rsplit("/", 2)
            quota = f"{quota_owner(self._signer, self._host.salt)}/{action}/{access}"
            slots = self._host.store.lane_slots(quota, clock=clock)
            assert slots is not None, "a database has the slots of all hosts"
            self._paces[run] = RunSlots(slots, self._host)
        return self._paces[run]


class RunSlots:
    """The slots of a lane for one run: its sessions here share the run's rate, where that is below the quota.

    They share it one after the other, too: a session that begins does not know what the one before it has sent.
    """

    def __init__(self, slots: LaneSlots, host: Host) -> None:
        self.now = slots.now
        self._slots = slots
        self._host = host
        self._turn = asyncio.Lock()
        self._gear = Gear(1.0)
        """Of the run's rate, where it is below the quota."""
        self.runners: list[Runner] = []
        """The runners whose calls these slots are for."""

    async def reserve(self, *, rate: float, interval_s: float, window_s: float) -> float:
        """Take the next slot; return when, by `now`."""
        self._host.slots_taken += 1
        pace = min((runner.rate for runner in self.runners), default=rate)
        if pace >= rate:
            return await self._slots.reserve(rate=rate, interval_s=interval_s, window_s=window_s)
        if pace != self._gear.rate:
            self._gear.set_rate(pace)
        async with self._turn:
            if (wait_s := self._gear.earliest() - self.now()) > 0:
                await asyncio.sleep(wait_s)
            at = await self._slots.reserve(rate=rate, interval_s=interval_s, window_s=window_s)
            self._gear.sent(at)
            return at

    def is_good(self, slot_at: float) -> bool:
        """Return whether a call may leave now in the slot of `slot_at`."""
        return self._slots.is_good(slot_at)

    def left_late(self, slot_at: float, late_s: float) -> None:
        """Note that the call in the slot of `slot_at` left `late_s` later."""
        self._gear.left_late(slot_at, late_s)
        self._slots.left_late(slot_at, late_s)


class _Requests:
    """What people ask of a run, for the session of one of its shards: it carries it out, and says so."""

    def __init__(self, journal: ShardJournal) -> None:
        self._journal = journal
        self._seen = 0

    def stop_requested(self) -> bool:
        return self._journal.stop_asked

    def asked(self, known: object) -> tuple[Asked, ...]:
        self._seen = self._journal.asked_no
        found = self._journal.asked(known)  # type: ignore[arg-type]
        return tuple(replace(each, for_s=None) for each in found)  # when a pause runs out is the leader's to say

    def forget(self, _name: str) -> None:
        """Do nothing: sessions of other shards must see it, too."""

    def caught_up(self) -> None:
        self._journal.acknowledge(self._seen)

    def clear(self) -> None:
        """Do nothing: what is asked is asked of the whole run."""


class _Shard:
    """The session of one shard, and a `Watch` of it."""

    def __init__(self, host: Host, lane: LaneSession, offer: Offer) -> None:
        self._host = host
        self._lane = lane
        self._offer = offer
        self._journal: ShardJournal | None = None
        self._runner: Runner | None = None

    @property
    def unsent(self) -> int:
        """How many of its calls wait for their first attempt."""
        return self._runner.unsent if self._runner is not None else self._offer.calls

    @property
    def rate(self) -> float:
        """Calls a second that it may send; 0 before it has begun."""
        return self._runner.rate if self._runner is not None else 0.0

    async def serve(self) -> None:
        """Take the shard, and work on it to its end, or until it must be left."""
        host, offer, lane = self._host, self._offer, self._lane
        ledger = await host.facts.ledger_of(offer.run, offer.no)
        host.check_programs(ledger.run)
        taken = await asyncio.to_thread(host.board.take, offer.run, offer.no, lane.name)
        if taken is None:
            return  # another session was quicker
        journal, lines = taken
        self._journal = journal
        host.journals.add(journal)
        try:
            await self._work(ledger, lines)
        except BaseException:
            journal.parting = "give back"
            with suppress(AcctopsError):
                await asyncio.to_thread(journal.close)
            raise
        finally:
            host.journals.discard(journal)
            if journal.is_fenced:
                host.leave_at_once(f"shard {offer.no} of run {offer.run}: {journal.broken}")

    async def _work(self, ledger: Ledger, lines: list[bytes]) -> None:
        host, offer, lane, journal = self._host, self._offer, self._lane, self._journal
        assert journal is not None
        if lines:
            await asyncio.to_thread(_fold, ledger, b"".join(lines), journal, offer)
        guards = await asyncio.to_thread(host.facts.guards_of, ledger)
        line = records.Session(
            verb="lane",
            pid=os.getpid(),
            host=os.uname().nodename,
            operator=operator(),
            version=__version__,
            cut_bytes=0,
            settings=None,
            clock_offset_s=0.0,
            lane=lane.name,
        )
        journal.append(line, ledger.apply)
        account = ledger.shards[offer.no].account
        journal.append(records.Note(what="identity", data=_facts(account, lane.signer)), ledger.apply)
        no_send = drop_guarded(ledger, journal, guards.protect, (), {}, wait=False)
        await journal.durable()  # what people ask is known from now on
        session = Session(
            store=host.store,
            journal=journal,
            ledger=ledger,
            reach=Reach(
                keyring={account: [lane.signer]},
                access=ledger.settings.access,
                network=None,
                way_out=guards.way_out,
                language=guards.language,
                wire=host.terms.wire,
                known=host.reach.known,
            ),
            passwords=passwords_of(ledger.settings, ledger.run.action, guards.trust, tell=host.terms.tell),
            stop_after=None,
            no_send=no_send,
            rivals=await asyncio.to_thread(host.facts.rivals_of, ledger),
            stays=await asyncio.to_thread(host.facts.stays_of, ledger, guards),
            clock=host.terms.clock,
            time_left=lambda _seconds: time_left(window_of(ledger.settings), host.terms, math.inf),
            tell=host.terms.tell,
            watch=self,
            requests=_Requests(journal),
            share=Share(
                host=lane.access,
                slots=lane.slots(offer.run),
                connections=host.connections,
                reads=max(_LEAST_READS, _READS / max(1, host.workers) / max(1, host.sessions)),
                has_others=any(owner != lane.owner and host.is_served(owner) for owner in map(owner_of, journal.lanes)),
            ),
        )
        await session.work()

    @asynccontextmanager
    async def beside(self, runner: Conductor) -> AsyncIterator[None]:
        """Let the worker know of the runner as long as it works."""
        assert isinstance(runner, Runner)
        self._runner = runner
        slots = self._lane.slots(self._offer.run)
        slots.runners.append(runner)
        self._host.runners.add(runner)
        if self._lane.is_leaving:
            runner.stop(self._host.why_leaving or _NOT_OURS, Reason.STOPPED)
        try:
            yield
        finally:
            slots.runners.remove(runner)
            self._host.runners.discard(runner)

    async def working(self, run: Coroutine[None, None, Reason]) -> Reason:
        """Wait for the end, and say what becomes of the shard."""
        reason = await run
        journal, runner = self._journal, self._runner
        assert journal is not None
        assert runner is not None
        if runner.has_lost_its_lanes:
            journal.parting = "without this lane"
        elif self._lane.is_leaving and not journal.stop_asked and runner.has_stopped:
            journal.parting = "give back"
        else:
            journal.parting = "close"
        with suppress(JournalWriteError):
            await journal.durable()
            await asyncio.to_thread(journal.close)  # the loop, and so the other lanes, wait for no database
        return reason

    def leave(self, why: str) -> None:
        """Drain, and give the shard back."""
        if self._runner is not None:
            self._runner.stop(why, Reason.STOPPED)

    async def last(self, notices: Coroutine[None, None, None]) -> None:
        """Wait for the notices: the session of a shard has none."""
        await notices


def _fold(ledger: Ledger, block: bytes, journal: ShardJournal, offer: Offer) -> None:
    """Fold the lines of a shard's chain into its ledger; JournalCorruptError if the chain does not hold."""
    found = decode_block(block, 1, journal.genesis, offer.run, shard=offer.no, v=2)
    if found is None:
        raise JournalCorruptError(
            f"{journal.place}: the chain of shard {offer.no} does not hold: acctops journal verify {offer.run}"
        )
    for record in found:
        ledger.apply(record)


def _facts(account: str, signer: Signer) -> dict[str, object]:
    facts: dict[str, object] = {"account": account, "source": signer.keys.label, "key": signer.keys.get().fingerprint}
    who = signer.who
    if who is None:
        return facts | {"uin": None}
    return facts | {"uin": who.uin, "sub_account": who.sub_account, "arn": who.arn}


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, AcctopsError) else f"internal error ({type(error).__name__})"
