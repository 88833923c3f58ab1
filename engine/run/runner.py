"""One session of a run: its parts, its beginning and its end.

The parts are made below in order, and each part gets the earlier ones that it needs: no part knows a later one. A later
part that must be told of a stop or of a route that is given up adds itself to `Stopping.waiters`, `Stopping.readers` or
`Lanes.holders`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

from engine.api.actions import takes_admins
from engine.api.names import is_unusual
from engine.cloud.inventory import Inventory
from engine.errors import JournalWriteError, Reason
from engine.journal import records
from engine.model import Answer, Outcome
from engine.planning.admins import AdminGuard
from engine.planning.outlook import UNREAD_CODE, unshown_words
from engine.planning.routes import Routes
from engine.run.attempts import Attempts
from engine.run.before import Before
from engine.run.bounds import Bounds
from engine.run.control import Control
from engine.run.dispatch import Dispatch
from engine.run.endings import end_line, reason_of
from engine.run.halts import Halts
from engine.run.judge import Judge, Patience
from engine.run.lanes import Lane, Lanes
from engine.run.looks import Looks
from engine.run.opencalls import OpenCalls
from engine.run.opening import Opening
from engine.run.overview import Overview
from engine.run.passwords import Passwords
from engine.run.proofs import Proofs
from engine.run.queues import CallQueues
from engine.run.readback import ReadBack
from engine.run.recorder import Recorder
from engine.run.resting import Resting
from engine.run.resumed import Resumed
from engine.run.settling import Settling
from engine.run.stopping import Stopping, Tasks
from engine.run.waves import Waves
from engine.run.work import Work, works_of

if TYPE_CHECKING:
    from engine.credentials import KeySource
    from engine.journal.standing import Progress
    from engine.model import CallId

WATCH_EVERY_S = 0.25
CLOCK_GAP_S = 60.0
"""Seconds between wall clock and monotonic clock from which the machine has probably slept."""
STARVED_S = 600.0
"""Seconds of throttling without one accepted call after which something else uses the whole quota."""


class _Sorted:
    """The calls of a session as plan indexes, sorted by what is to be done with them first."""

    def __init__(self, recorder: Recorder, works: list[Work], guard: AdminGuard | None, *, in_waves: bool) -> None:
        begun: list[int] = []
        unsent: list[int] = []
        unsettled: list[int] = []
        for work in works:
            entry = recorder.ledger.entry(work.id)
            is_once = recorder.action.is_sent_once and entry.may_be_applied and not entry.settled
            if entry.needs_reading or is_once:
                begun.append(work.index)
            elif not entry.settled and not work.no_send:
                # A call that was only refused has changed nothing; others may have changed its account since.
                (unsettled if entry.may_be_applied else unsent).append(work.index)
        self.to_take_up = [] if guard is not None else begun
        """Calls that an earlier session has sent and not settled, and that are judged first."""
        self.guarded = begun + unsettled if guard is not None else []
        """Calls that an earlier session has sent, and that the guard on admins looks at first."""
        goes_on = [] if guard is not None else unsettled
        rests = unsent if recorder.reads_back else []
        self.resting = rests
        """Calls that are surely not applied: they rest on a reading of their account, also those of later waves."""
        self.unread = rests if not in_waves else []
        """Those of them that may begin at once: their accounts are read before they are sent."""
        self.held = unsent if in_waves else []
        """Calls that begin with their wave."""
        blind = [] if in_waves or recorder.reads_back else unsent
        self.unshown = [index for index in blind if is_unusual(works[index].call.user)]
        """Calls that only a reading would let be sent, in a session that reads none."""
        unshown = set(self.unshown)
        self.waiting = sorted([*goes_on, *(index for index in blind if index not in unshown)])
        """Calls that are sent without a reading before."""


class _Going:
    """The calls of a session, for its waves."""

    def __init__(self, calls: OpenCalls, opening: Opening, settling: Settling) -> None:
        self._calls = calls
        self._opening = opening
        self._settling = settling

    @property
    def is_over(self) -> bool:
        return self._calls.is_over and self._opening.is_over

    @property
    def is_judged(self) -> bool:
        return self._calls.is_judged

    async def last_looks(self) -> None:
        await asyncio.gather(*self._settling.last_looks())

    def wake(self) -> None:
        self._calls.queue.wake.set()


class Runner:
    """One session of a run: it sends what is open until all is settled or something stops it."""

    def __init__(
        self,
        recorder: Recorder,
        lanes: list[Lane],
        routes: Routes,
        inventory: Inventory,
        *,
        bounds: Bounds,
        rng: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self._now = asyncio.get_running_loop().time  # profiled: `get_running_loop` is a system call each time
        self.recorder = recorder
        self._journal = recorder.journal
        self._ledger = recorder.ledger
        self._bounds = bounds
        self._clock = clock
        self._works = works = works_of(self._ledger, bounds.no_send)
        guard = self._admin_guard(works)
        self._sorted = found = _Sorted(recorder, works, guard, in_waves=bounds.waves is not None)
        instances = [work.where for work in works]
        settings, policy = self._ledger.settings, bounds.policy
        self._queue = CallQueues(instances, found.waiting, routes.of, per_instance=settings.per_instance)
        self._stopping = Stopping(recorder, self._queue)
        self._tasks = Tasks(self._stopping, self._queue)
        self.halts = Halts(self._now)
        """Why no new call is begun, if so."""
        self._lanes = Lanes(
            lanes, routes, recorder, self._stopping, self._queue, self.halts, patience_s=policy.transient_s
        )
        looks = Looks(inventory, self._stopping)
        self._proofs = Proofs(recorder, bounds.elsewhere)
        self._settling = Settling(
            recorder, self._lanes, self._stopping, looks, self._proofs, stop_after=bounds.stop_after
        )
        self._read_back = ReadBack(
            self._settling,
            self._queue,
            inventory,
            self._tasks,
            self._stopping,
            self.halts,
            patience_s=policy.transient_s,
        )
        calls = OpenCalls(works, self._queue, self._read_back)
        self._lanes.holders.append(calls)
        self._calls = calls
        resting = Resting(works, found.resting)
        patience = Patience(policy, rng, self._queue, self.halts)
        self._judge = Judge(
            recorder, self._queue, self._lanes, self._stopping, looks, self._settling, self._read_back, patience
        )
        self._attempts = Attempts(recorder, calls, self._judge, resting, self._stopping, clock)
        self._resumed = Resumed(self._ledger, calls, self._attempts, self._settling, self._tasks, guarded=found.guarded)
        before = Before(
            recorder,
            self._settling,
            calls,
            resting,
            guard=guard,
            located=bounds.located,
            stays=bounds.stays,
            resend_already=bounds.resend_already,
        )
        self._opening = Opening(
            before, resting, calls, self._resumed, inventory, self._lanes, self._tasks, self._stopping
        )
        passwords = Passwords(bounds.ask_secret, calls, self._settling, self._tasks, self._stopping)
        self._dispatch = Dispatch(
            recorder,
            calls,
            self._opening,
            self._attempts,
            self._lanes,
            passwords,
            self._tasks,
            self._stopping,
            self.halts,
            may_begin=bounds.may_begin,
        )
        self._control = Control(
            recorder,
            self.halts,
            self._lanes,
            self._attempts,
            calls,
            resting,
            self._stopping,
            changed_pace=partial(self._keep_pace, inventory),
            asked=bounds.asked,
            forget=bounds.forget_asked,
            caught_up=bounds.caught_up,
            most_rate=bounds.most_rate,
            clock=clock,
        )
        self.waves = self._waves_of(bounds, calls)
        """What lets one wave after the other begin; None: the run has no waves."""
        self._overview = Overview(
            recorder,
            self._queue,
            self._lanes,
            self._read_back,
            policy=policy,
            clock=clock,
            ends_at=self._ends_at,
        )
        self._started = 0.0
        self._has_begun = False
        self._deadline_s = bounds.left.deadline_s
        self._attend(inventory)

    def _waves_of(self, bounds: Bounds, calls: OpenCalls) -> Waves | None:
        if bounds.waves is None:
            return None
        return Waves(
            self.recorder,
            self.halts,
            _Going(calls, self._opening, self._settling),
            self._stopping,
            bounds.waves,
            admit=self._admit,
            elsewhere=bounds.elsewhere,
            clock=self._clock,
        )

    def _admit(self, wave: Collection[CallId]) -> None:
        """Let the calls of a wave begin that were never sent, and that nobody has dropped."""
        wanted = frozenset(wave)
        held = [work for work in map(self._works.__getitem__, self._sorted.held) if work.id in wanted]
        held = [work for work in held if not work.is_dropped]
        if self.recorder.reads_back:
            self._opening.admit([work.index for work in held])
            return
        for work in held:
            if is_unusual(work.call.user):
                self._fail_unshown(work.index)
            else:
                self._calls.put_back(work)
        self._queue.wake.set()

    def _attend(self, inventory: Inventory) -> None:
        """Connect the inventory, clients and pacers to the session: they tell what they see and learn of a stop."""
        inventory.keep_up_with(sum(self._lanes.paces().values()))
        inventory.is_sending = self._is_sending
        inventory.saw = self._proofs.saw
        for lane in self._lanes.every:
            lane.client.note = self.recorder.note
            lane.pacer.stopping = self._stopping.event

    def _keep_pace(self, inventory: Inventory, rate: float) -> None:
        """Read as fast as calls are sent at another rate, and give a slower run the time that it takes."""
        inventory.keep_up_with(sum(self._lanes.paces().values()))
        self._deadline_s = max(self._deadline_s, self._bounds.deadline_at(rate))

    def _is_sending(self) -> bool:
        return bool(len(self._queue) or self._lanes.in_flight)

    def _admin_guard(self, works: list[Work]) -> AdminGuard | None:
        """Return the guard on superusers; None if none must stay. Calls that may be applied count as locked."""
        keep, rivals = self._bounds.keep_admins, self._bounds.rivals
        if not takes_admins(self.recorder.action.name) or max([keep, *(each.keep_admins for each in rivals)]) <= 0:
            return None
        sent = ((work.where, work.call.user) for work in works if work.may_be_applied)
        return AdminGuard(keep, sent, rivals=rivals)

    # ---- the session -------------------------------------------------------------------------------------------

    async def run(self) -> Reason:
        """Work until done or stopped; return the reason for the end. All records are durable then, `end` included."""
        self._started = self._judge.accepted_at = self._now()
        self._overview.begin(self._started)
        self._control.look()  # a pause that was asked for before holds from the first call on
        async with asyncio.TaskGroup() as outer:
            watch = outer.create_task(self._watch())
            async with self._tasks:
                for index in self._sorted.unshown:
                    self._fail_unshown(index)
                if self.waves is not None:
                    self.waves.hold()
                    self._tasks.spawn(self.waves.go())
                self._opening.begin(self._sorted.unread, self._sorted.guarded, self._bounds.readings)
                self._has_begun = True
                self._resumed.begin(self._sorted.to_take_up)
                for number, lane in enumerate(self._lanes.every):
                    # Lanes in step would send fifty calls at once every 50 ms, and the server take them (measured).
                    lane.pacer.pause(number / len(self._lanes.every) * lane.pacer.gear.interval_s)
                    self._tasks.start(self._dispatch.feed(lane))
            async with self._tasks:
                for look in self._settling.last_looks():
                    self._tasks.spawn(look)
            watch.cancel()
        return await self._finish(self._now() - self._started)

    def _fail_unshown(self, index: int) -> None:
        work = self._works[index]
        answer = Answer(http=None, request_id=None, code=UNREAD_CODE, message=unshown_words(work.call, None))
        self._settling.unsent(work, Outcome.FAILED, None, answer)

    async def _watch(self) -> None:
        """Stop at the deadline, for `acctops stop`, when the machine slept, or when others use up the quota."""
        bounds, stop = self._bounds, self._stopping.stop
        offset = self._clock() - self._now()
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            now = self._now()
            self._overview.sample(now)
            if self._stopping.is_set:
                continue
            self._control.look()
            if self._opening.is_over and (news := self._overview.only_the_sick_are_left(now)):
                self.tell(news)
            if self.halts.counted(self._started) >= self._deadline_s:
                stop(f"deadline of {self._deadline_s:.0f} s reached", Reason.STOPPED)
            elif now - self._started >= bounds.left.closes_s:
                stop(bounds.left.closes_why, Reason.STOPPED)
            elif bounds.stop_requested():
                stop("`acctops stop` from another shell", Reason.STOPPED)
            elif abs(self._clock() - now - offset) > CLOCK_GAP_S:
                gap = self._clock() - now - offset
                stop(f"the clock jumped by {gap:.0f} s: did this machine sleep?", Reason.STOPPED)
            elif self._is_starved():
                stop("throttled for 10 min with no call accepted: who else uses this quota?", Reason.STOPPED)

    def _is_starved(self) -> bool:
        counted, judge = self.halts.counted, self._judge
        return counted(judge.accepted_at) > STARVED_S and counted(judge.throttled_at) < STARVED_S / 10

    def _ends_at(self) -> float:
        """Return the loop time after which nothing more is sent, as far as it is known."""
        left, now = self._bounds.left, self._now()
        return min(now + self._deadline_s - self.halts.counted(self._started), self._started + left.closes_s)

    async def _finish(self, seconds: float) -> Reason:
        try:
            await self._journal.durable()
            reason = self._reason()
            guard = {lane.name: round(lane.pacer.gear.guard, 4) for lane in self._lanes.every}
            self.recorder.append(
                end_line(self._ledger, seconds=seconds, reason=reason, stopped=self.stopped, guard=guard)
            )
            await self._journal.durable()
        except JournalWriteError as error:
            self.stop(str(error), Reason.STOPPED)
            return Reason.STOPPED
        return reason

    def _reason(self) -> Reason:
        return reason_of(
            self._ledger,
            self._stopping.reason,
            done_elsewhere=self._proofs.done_elsewhere,
            is_cut=self._lanes.why is not None,
        )

    # ---- for those who watch -----------------------------------------------------------------------------------

    @property
    def stopped(self) -> records.Stopped | None:
        """Why the session ended early, as a whole or for some of its calls; None if it did not."""
        return self._stopping.why or self._lanes.why

    @property
    def has_stopped(self) -> bool:
        """Whether the whole session was stopped early."""
        return self._stopping.is_set

    @property
    def unsent(self) -> int:
        """How many of its calls wait for their first attempt, as far as they need one."""
        if not self._has_begun:
            return len(self._sorted.unread) + self._queue.fresh
        return self._opening.aside + self._queue.fresh

    @property
    def rate(self) -> float:
        """Calls a second and lane that the session may send now."""
        return min(lane.pacer.gear.rate for lane in self._lanes.every)

    @property
    def has_lost_its_lanes(self) -> bool:
        """Whether it stopped because each of its lanes was refused, or cannot reach the API."""
        return self._lanes.are_lost

    @property
    def back_elsewhere(self) -> int:
        """How many accounts a later rerun had changed and this session has read as changed back."""
        return self._proofs.back_elsewhere

    @property
    def first_send_at(self) -> float | None:
        """UNIX time of the first write handed to the transport in this session; None before it."""
        return self._attempts.first_send_at

    @property
    def has_sent(self) -> asyncio.Event:
        """Set when `first_send_at` is known."""
        return self._attempts.has_sent

    @property
    def tell(self) -> Callable[[str], None]:
        """Called with each piece of news for the user before the run is over, once each."""
        return self.recorder.tell

    @tell.setter
    def tell(self, tell: Callable[[str], None]) -> None:
        self.recorder.tell = tell

    def progress(self) -> Progress:
        """Return how the run stands, from what is durable."""
        return self._overview.progress(
            self._now(),
            backing_off=self._attempts.backing_off,
            stopping=self._stopping.why.why if self._stopping.why else None,
        )

    @property
    def leaving(self) -> str:
        """What becomes of the run if it is left now, in words."""
        return f"left at once with {self.progress().in_flight} in flight; resume reads what they did"

    def note(self, what: str, data: dict[str, object]) -> None:
        """Journal something that happened to the run as a whole; do nothing if the journal is broken."""
        self.recorder.note(what, data)

    def stop(self, why: str, reason: Reason, answer: Answer | None = None) -> None:
        """Take no new call; let attempts in flight end and be recorded. The first reason counts."""
        self._stopping.stop(why, reason, answer)

    def close_lanes_of(self, keys: KeySource, why: str) -> None:
        """Send no new call with these keys: what they sent is still read back, other lanes take the rest."""
        self._lanes.close_all(self._lanes.signing(keys), why)

    def close_lanes(self, lanes: list[Lane], why: str) -> None:
        """Send no new call through these lanes."""
        self._lanes.close_all(lanes, why)

    def open_lanes(self) -> list[Lane]:
        """Return the lanes that still send."""
        return self._lanes.open()

    def lanes_of(self, keys: KeySource) -> list[Lane]:
        """Return the lanes that sign with these keys and still send."""
        return self._lanes.signing(keys)
