"""Compose one session of a run: journal, transport, lanes, keys, notices. The runner does the work.

This is the only place where a session is put together, for the command, a library and the bench.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Container, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from msgspec import Struct, field

from engine import __version__
from engine.api.actions import ACTIONS
from engine.api.endpoints import is_loopback
from engine.cloud.clients import Clients, Reach, Signer, every_signer, signers
from engine.cloud.inventory import PLANNING_RATE, Inventory
from engine.credentials.keeper import keep_fresh
from engine.errors import ConfigError, Reason
from engine.journal import records
from engine.model import Rival
from engine.operations.events import News, Tell, Warned, nobody
from engine.operations.survey import READERS, Survey, transport_to
from engine.operations.twins import close_twins
from engine.operations.whose import tell_whose
from engine.outside.limits import ADVICE, RESERVE, load_rare, make_room, open_files_limit
from engine.pacing.backoff import Policy
from engine.pacing.pacer import Pacer
from engine.pacing.slots import SharedSlots
from engine.planning.routes import Routes, routes_of
from engine.run.bounds import Bounds, TimeLeft, WaveTerms
from engine.run.lanes import lane_name, lanes_of
from engine.run.recorder import Recorder
from engine.run.runner import Runner

if TYPE_CHECKING:
    from engine.inputs.job import StopAfter
    from engine.inputs.passwords import PasswordSource
    from engine.journal.control import Asked
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Journal, Runs
    from engine.journal.standing import Progress
    from engine.model import Call, CallId, LaneSlots, Omit, Reading, Transport
    from engine.operations.attendance import Attendance
    from engine.run.waves import Waves
    from engine.simulator.world import World

DEADLINE_BASE_S = 600.0
DEADLINE_FACTOR = 3.0
"""Default deadline: 10 min + 3 × the time the quota needs."""

_OURS_RARE = ("engine.api.names", "engine.operations.sealing", "engine.report.notices", "engine.report.notify")
"""Our modules that a run needs only if something goes wrong, or at its end."""
_LAST_COMMIT_S = 0.7
"""Seconds that a session which is left at once waits for the disk."""
UNRECORDED = "what had not reached the journal's disk counts as not recorded"
_FILES_OF_LANE = 2
"""Open files of a lane: its slots, and their directory."""


class _Room(NamedTuple):
    """How much may be under way at a time."""

    connections: int
    workers: int
    """Attempts in flight in each lane."""
    readers: int


class SessionEnd(Struct, frozen=True):
    """How a session ended."""

    reason: Reason
    first_send_at: float | None = None
    """UNIX time of its first send, if any."""
    unrecorded: records.Stopped | None = None
    """Why it stopped, if the journal has no `end` that says so."""
    back_elsewhere: int = 0
    """How many accounts a later rerun had changed and this session has read as changed back."""


class LeftAtOnceError(Exception):
    """The watcher of a session leaves it now. A resume finds out what became of the attempts in flight."""

    def __init__(self, words: str, reason: Reason) -> None:
        super().__init__(words)
        self.reason = reason


class Watch(Protocol):
    """Somebody who looks on while a session works, and may have it stop."""

    def beside(self, runner: Conductor) -> AbstractAsyncContextManager[None]:
        """Return what goes on beside the session, from before its first call to after its last notice."""

    async def working(self, run: Coroutine[None, None, Reason]) -> Reason:
        """Wait for the run and return its reason; LeftAtOnceError if it is left before it has ended."""

    async def last(self, notices: Coroutine[None, None, None]) -> None:
        """Wait for the notices of the end, as long as the user wants to."""


class Unwatched:
    """A Watch of nobody: the run ends by itself, or by its deadline, or by `acctops stop`."""

    def beside(self, _runner: Conductor) -> AbstractAsyncContextManager[None]:
        """Do nothing beside the session."""
        return nullcontext()

    async def working(self, run: Coroutine[None, None, Reason]) -> Reason:
        """Wait for the run to its end."""
        return await run

    async def last(self, notices: Coroutine[None, None, None]) -> None:
        """Wait as long as the notices take."""
        await notices


def nothing_stays(_call: Call, _reading: Reading) -> Omit | None:
    """Return None, the rule of a run that is no undo: no account must stay as it is."""
    return None


class Requests(Protocol):
    """What people ask of a session while it works."""

    def stop_requested(self) -> bool:
        """Return whether the session is asked to drain; called a few times a second."""

    def asked(self, known: Container[str]) -> Sequence[Asked]:
        """Return what is asked, but for requests of these names; called a few times a second."""

    def forget(self, name: str) -> None:
        """Take note that the session has taken in a request."""

    def caught_up(self) -> None:
        """Take note that all that was asked so far is carried out."""

    def clear(self) -> None:
        """Remove what was asked: called before the session begins, and once it has ended."""


class StoreRequests:
    """What people ask of a run that one session works on: it is the session's alone."""

    def __init__(self, store: Runs, run_id: str) -> None:
        self._store = store
        self._run_id = run_id

    def stop_requested(self) -> bool:
        """Return whether the session is asked to drain."""
        return self._store.stop_requested(self._run_id)

    def asked(self, known: Container[str]) -> Sequence[Asked]:
        """Return what is asked, but for requests of these names."""
        return self._store.asked(self._run_id, known)

    def forget(self, name: str) -> None:
        """Remove a request."""
        self._store.forget_asked(self._run_id, name)

    def caught_up(self) -> None:
        """Do nothing: the journal says what is carried out."""

    def clear(self) -> None:
        """Remove all requests."""
        self._store.clear_requests(self._run_id)


class Conductor(Protocol):
    """Who carries out a session: the runner, which sends, or who leads the sessions of other processes."""

    waves: Waves | None
    """What lets one wave after the other begin; None: the run has no waves."""

    async def run(self) -> Reason:
        """Work until done or stopped; return the reason for the end. All records are durable then, `end` included."""

    @property
    def stopped(self) -> records.Stopped | None:
        """Why the session ended early, as a whole or for some of its calls; None if it did not."""

    @property
    def back_elsewhere(self) -> int:
        """How many accounts a later rerun had changed and this session has read as changed back."""

    @property
    def first_send_at(self) -> float | None:
        """UNIX time of the first write of this session; None before it."""

    @property
    def tell(self) -> Callable[[str], None]:
        """Called with each piece of news for the user before the run is over, once each."""

    @tell.setter
    def tell(self, tell: Callable[[str], None]) -> None: ...

    def progress(self) -> Progress:
        """Return how the run stands, from what is durable."""

    @property
    def leaving(self) -> str:
        """What becomes of the run if it is left now, in words."""

    def note(self, what: str, data: dict[str, object]) -> None:
        """Journal something that happened to the run as a whole; do nothing if the journal is broken."""

    def stop(self, why: str, reason: Reason) -> None:
        """Take no new call; let attempts in flight end and be recorded. The first reason counts."""


class Devices(Struct, frozen=True, kw_only=True):
    """What a session gets from outside, if it must not use real network, time or chance, as in a test."""

    transport: Transport
    rng: random.Random
    clock: Callable[[], float]
    """UNIX time of signatures."""
    workers: int


class Share(Struct, frozen=True, kw_only=True):
    """The part of a run that one session of a worker has: calls of one lane."""

    host: str
    """Host and port of the lane's access point; its keys are the only ones of the session."""
    slots: LaneSlots
    """The slots of the lane, for all sessions of all hosts."""
    connections: int
    """Room for connections that all sessions of the process share."""
    reads: float
    """Most readings a second, as other sessions and other workers draw on the same quota."""
    has_others: bool = False
    """Whether lanes of other sub-accounts may take the calls that CAM denies this one."""


class Session(Struct, frozen=True, kw_only=True):
    """What one process needs to work on a run."""

    store: Runs
    journal: Journal
    ledger: Ledger
    reach: Reach
    passwords: PasswordSource | None
    world: World | None = None
    """The simulated world, if the run is simulated."""
    seed: int | None = None
    """Of the pauses between attempts; None: a new one each time."""
    stop_after: StopAfter | None
    no_send: frozenset[CallId] = frozenset()
    """Calls that are only read and settled."""
    elsewhere: frozenset[CallId] = frozenset()
    """Failed calls that later reruns have brought to the desired state."""
    found: Survey | None = None
    """What was read when the run was planned."""
    rivals: tuple[Rival, ...] = ()
    """Other runs that lock accounts right now."""
    stays: Callable[[Call, Reading], Omit | None] = nothing_stays
    """The rule of an undo: returns by a newer reading why an account must stay as it is, or None."""
    waves: WaveTerms | None = None
    """What the waves of the run go by; None: it has none."""
    may_begin: Callable[[], None] = lambda: None
    """Raises RefusedError if the first call of the run may not be sent any more."""
    clock: Callable[[], float] = time.time
    time_left: Callable[[float], TimeLeft] = TimeLeft
    """The session's own deadline → how long it may send: the window may close before."""
    attendance: Attendance | None = None
    """The session's notices and metrics, if any."""
    tell: Tell = nobody
    """Is told, while the session goes on, what the user wants to know."""
    devices: Devices | None = None
    watch: Watch = Unwatched()
    """Who looks on, and may have it stop."""
    requests: Requests | None = None
    """What people ask of it; None: what the store has for its run."""
    lead: Callable[[Session], Conductor] | None = None
    """Makes who leads the sessions of other processes; None: this session sends, with a `Runner`."""
    heads: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    """Of a run with shards: number of each → how many of its lines the ledger has, and the hash of the last."""
    share: Share | None = None
    """Which lane it works on, if it works on a part of a run; None: on all of them."""

    async def work(self) -> SessionEnd:
        """Work until the run is done, stopped or left at once by its watcher, close the journal, and return the end."""
        requests = self._requests
        requests.clear()
        try:
            return await self._work()
        except LeftAtOnceError as left:
            why = str(left)
            if not self.journal.leave(_LAST_COMMIT_S):
                why += f"; {UNRECORDED}"
            return SessionEnd(left.reason, unrecorded=records.Stopped(why, None, None))
        finally:
            self.journal.close()
            requests.clear()

    @property
    def _requests(self) -> Requests:
        return self.requests or StoreRequests(self.store, self.ledger.run.run)

    async def _work(self) -> SessionEnd:
        if self.lead is not None:
            return await self._watched(self.lead(self))
        routes = routes_of(self.ledger.calls.values(), self.ledger.settings.access)
        if self.devices is not None:
            room = _Room(0, self.devices.workers, READERS)
            return await self._sending(self._runner(self.devices.transport, routes, room))
        room = self._room(routes)
        async with transport_to(self.world, room.connections, self.reach) as transport:
            return await self._sending(self._runner(transport, routes, room))

    async def _sending(self, runner: Runner) -> SessionEnd:
        """Do what goes on beside a runner: its keys are kept fresh, and it is found out whose they are."""
        if self.found is not None and self.found.offset_s:
            runner.note("clock_learned", {"offset_s": round(self.found.offset_s, 1)})
        beside = [
            asyncio.ensure_future(self._keep_keys(runner) if self.share is None else _nothing()),
            asyncio.ensure_future(close_twins(runner, self.reach.way_out) if self.world is None else _nothing()),
            asyncio.ensure_future(tell_whose(runner, self.reach, self.ledger, known=partial(self._share, runner))),
        ]
        if self.world is None:
            beside.append(asyncio.ensure_future(_prepare_for_trouble(runner)))
        try:
            return await self._watched(runner)
        finally:
            for task in beside:
                task.cancel()

    async def _watched(self, runner: Conductor) -> SessionEnd:
        if self.attendance is not None and runner.waves is not None:
            runner.waves.told = self.attendance.passed
        runner.tell = lambda text: self.tell(News(text))
        async with self.watch.beside(runner):
            async with self._attended(runner):
                reason = await self.watch.working(self._run(runner))
            if self.attendance is not None:
                await self.watch.last(self.attendance.after(reason, runner.stopped))
            unrecorded = None
            if self.journal.broken is not None:
                unrecorded = records.Stopped(str(self.journal.broken), None, None)
            return SessionEnd(reason, runner.first_send_at, unrecorded, runner.back_elsewhere)

    async def _run(self, runner: Conductor) -> Reason:
        """Run to the end, then check the journal, on which all reports rest; STOPPED if others have changed it."""
        reason = await runner.run()
        if self.journal.broken is None and not await self.journal.is_as_written():
            return Reason.STOPPED
        return reason

    async def _keep_keys(self, runner: Runner) -> None:
        """Refresh the keys before they expire, beside the sending; if they expire nevertheless, close their lanes."""
        async with asyncio.TaskGroup() as group:
            for signer in every_signer(self.reach.keyring):
                ended = partial(runner.close_lanes_of, signer.keys)
                group.create_task(
                    keep_fresh(signer.keys, clock=self.clock, note=runner.note, stop=ended, tell=runner.tell)
                )

    def _attended(self, runner: Conductor) -> AbstractAsyncContextManager[None]:
        return self.attendance.during(runner.note) if self.attendance is not None else nullcontext()

    def _room(self, routes: Routes) -> _Room:
        """Return how much may be under way at a time: what was asked for, or what the limit on open files allows."""
        count, workers = signers(self.reach.keyring), self.ledger.settings.workers
        lanes = sum(route.lanes(count(route.account)) for route in routes.every)
        wanted = workers * lanes + READERS
        if self.share is not None:
            return _Room(self.share.connections, workers, READERS)
        if self.world is not None:
            return _Room(wanted, workers, READERS)
        reserve = RESERVE + _FILES_OF_LANE * lanes
        allowed = make_room(wanted, reserve)
        if allowed == wanted:
            return _Room(wanted, workers, READERS)
        readers = min(READERS, max(1, allowed // 4))
        fewer = (allowed - readers) // lanes
        limit = f"this process may open {open_files_limit():,} files (the hard limit of `ulimit -n`)"
        if fewer < 1:
            raise ConfigError(f"{limit}, too few for {lanes} lanes; nothing was sent; {ADVICE}")
        words = f"{limit}, so in each lane {fewer} attempts are in flight at most, not {workers}; {ADVICE}, to "
        self.tell(Warned(f"{words}{wanted + reserve:,} or more"))
        return _Room(fewer * lanes + readers, fewer, readers)

    def _shared(self, lane: str) -> LaneSlots | None:
        """Return the slots a lane shares with all runs of this host and state directory, or of the database.

        None: it shares with none.
        """
        if self.world is not None:
            return None
        if self.share is not None:
            return self.share.slots
        clock = asyncio.get_running_loop().time  # the host's monotonic clock
        if (slots := self.store.lane_slots(lane, clock=clock)) is not None:
            return slots
        try:
            return SharedSlots(
                self.store.state_dir / "lanes",
                lane,
                group=self.store.group,
                trust=self.store.trust,
                tell=self._slots_trouble,
                clock=clock,
            )
        except ConfigError as error:  # no reason to stop a run: the server still throttles
            self._warn(f"{error}; other runs on this host are not known to this one")
            return None

    def _slots_trouble(self, why: str) -> None:
        if self.journal.broken is None:
            self.journal.append(records.Note(what="slots_reset", data={"why": why}), self.ledger.apply)
        self._warn(why)

    def _warn(self, text: str) -> None:
        self.tell(Warned(text))

    def _share(self, runner: Runner, signer: Signer) -> None:
        """Give the lanes of a signer the slots of its sub-account, which is now known, as all other runs use them."""
        for lane in runner.lanes_of(signer.keys):
            lane.pacer.share(self._shared(lane_name(signer.identity, self.ledger.run.action, lane.client)))

    def _runner(self, transport: Transport, routes: Routes, room: _Room) -> Runner:
        run, settings = self.ledger.run, self.ledger.settings
        clients = Clients(
            transport,
            self.reach,
            timeout_s=settings.timeout_s,
            request_client=f"acctops_{__version__};{run.run}",
            offset_s=self.found.offset_s if self.found is not None else 0.0,
            clock=self.devices.clock if self.devices is not None else None,
        )
        rng = self.devices.rng if self.devices is not None else random.Random(self.seed)
        recorder = Recorder(self.journal, self.ledger)
        calls = len(self.ledger.calls)
        seconds = routes.seconds(settings.rate, signers(self.reach.keyring))
        pacer = partial(self._pacer, settings)
        share = self.share
        requests = self._requests
        return Runner(
            recorder,
            lanes_of(
                routes,
                clients,
                action=run.action,
                workers=room.workers,
                pacer=pacer,
                host=share.host if share is not None else None,
                has_others=share is not None and share.has_others,
            ),
            routes,
            Inventory(
                clients.reading,
                record=recorder.append,
                rng=rng,
                concurrency=room.readers,
                most=share.reads if share is not None else PLANNING_RATE,
            ),
            bounds=Bounds(
                policy=Policy(transient_s=settings.transient_s, busy_s=settings.busy_s),
                left=self.time_left(deadline_s(settings, seconds)),
                deadline_at=lambda rate: deadline_s(settings, routes.seconds(rate, signers(self.reach.keyring))),
                stop_after=self.stop_after.limit(calls) if self.stop_after is not None else None,
                stop_requested=requests.stop_requested,
                asked=requests.asked,
                caught_up=requests.caught_up,
                most_rate=self.most_rate(),
                forget_asked=requests.forget,
                waves=self.waves,
                ask_secret=self.passwords.ask if self.passwords is not None else None,
                no_send=self.no_send,
                elsewhere=self.elsewhere,
                readings=self.found.readings if self.found is not None else {},
                located=self.found.located if self.found is not None else {},
                keep_admins=settings.keep_admins,
                rivals=self.rivals,
                stays=self.stays,
                may_begin=self.may_begin,
                resend_already=settings.resend_already,
            ),
            rng=rng,
            clock=self.clock,
        )

    def most_rate(self) -> float:
        """Return the calls a second and lane up to which the rate of the live run may be raised: as at its start."""
        settings, action = self.ledger.settings, self.ledger.run.action
        if all(map(is_loopback, settings.access.every)):
            return math.inf
        return max(settings.rate, settings.quota or 0.0, ACTIONS[action].quota)

    def _pacer(self, settings: records.RunSettings, lane: str) -> Pacer:
        return Pacer(settings.rate, self._shared(lane), quota=settings.quota)


async def _nothing() -> None:
    """Do nothing: a simulated run has no addresses to compare."""


async def _prepare_for_trouble(runner: Runner) -> None:
    """Load, while the first call is under way, what is needed only when something goes wrong, or for the end."""
    await runner.has_sent.wait()
    await asyncio.to_thread(load_rare, _OURS_RARE)


def deadline_s(settings: records.RunSettings, at_quota_s: float) -> float:
    """Return the seconds after which a session sends no more; `at_quota_s` is what its calls take at the quota."""
    said = settings.session_deadline_s if settings.session_deadline_s is not None else settings.deadline_s
    if said is not None:
        return said
    return DEADLINE_BASE_S + DEADLINE_FACTOR * at_quota_s
