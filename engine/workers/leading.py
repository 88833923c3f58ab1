"""Lead a run that lane sessions carry out: one process has its chain 0, decides for the run as a whole, and ends it.

The leader folds the chains of all shards into one ledger, as their sessions write them. It lets one wave after the
other go, counts failures, holds to deadline and window, says when what people ask is in effect everywhere, and writes
the `end`, which has the heads of all chains. It sends nothing. Who takes the run over raises the epoch of chain 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

from engine.errors import JournalWriteError, Reason, RefusedError, UnreachableError
from engine.journal import records
from engine.journal.standing import Progress, Waits, standing
from engine.model import Outcome
from engine.operations.following import Followed
from engine.operations.session import Session, deadline_s
from engine.run.endings import end_line, reason_of
from engine.run.halts import Halts
from engine.run.queues import CallQueues
from engine.run.recorder import Recorder
from engine.run.settling import OneCause
from engine.run.stopping import Stopping
from engine.run.waves import Waves
from engine.workers.steering import LeadRequests, Steering

if TYPE_CHECKING:
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Board, Journal, ShardRow
    from engine.model import CallId

LOOK_S = 0.25
"""Seconds between two looks at what the sessions of the shards have written."""
ONLY_WAVE = 1
"""The wave of all calls of a run without waves."""


class Leader:
    """A `Conductor` of a run whose calls the lane sessions of workers send."""

    def __init__(
        self,
        session: Session,
        board: Board,
        followed: Followed,
        requests: LeadRequests,
        *,
        since: int,
        ask: Callable[[Collection[str]], Awaitable[None]],
    ) -> None:
        """`followed` has the ledger of `session`, and where each chain of its shards ended for it.

        `since`: number of the last line of chain 0 when the run was submitted: what is younger goes on.

        `ask` has sessions of lanes begun, unless they go on already.
        """
        self._ask = ask
        self._since = since
        self._now = asyncio.get_running_loop().time
        self._session = session
        self._board = board
        self._followed = followed
        self._journal: Journal = session.journal
        self._ledger: Ledger = session.ledger
        self._run = self._ledger.run.run
        self._recorder = Recorder(self._journal, self._ledger)
        self._stopping = Stopping(self._recorder, CallQueues((), (), (), per_instance=1))
        self._halts = Halts(self._now)
        self._cause = OneCause(self._ledger)
        self._failures = self._ledger.settled_counts()[Outcome.FAILED]
        self._rows: list[ShardRow] = []
        self._wave = self._let_go = 0
        """The wave that may go, and the one that the database knows of."""
        self._asked_to_stop = False
        self._lost: dict[int, records.End] = {}
        """Shard → the end of its last session, if that stopped by itself. One that is taken again is no loss."""
        self._started = 0.0
        limit = session.stop_after
        self._stop_after = limit.limit(len(self._ledger.calls)) if limit is not None else None
        settings = self._ledger.settings
        self._left = session.time_left(deadline_s(settings, self._seconds(settings.rate)))
        self._deadline_s = self._left.deadline_s
        self._spent_s = self._led_s()
        """Seconds that earlier leaders have used up of the deadline."""
        self._requests = requests
        self._steering = Steering(
            self._recorder,
            self._halts,
            self._stopping,
            requests,
            changed_pace=self._keep_pace,
            most_rate=session.most_rate(),
            clock=session.clock,
        )
        self._going = _Going(self)
        self.waves = self._waves_of()
        """What lets one wave after the other go; None: the run has no waves."""

    def _waves_of(self) -> Waves | None:
        terms = self._session.waves
        if terms is None:
            return None
        return Waves(
            self._recorder,
            self._halts,
            self._going,
            self._stopping,
            terms,
            admit=self._admit,
            elsewhere=self._session.elsewhere,
            clock=self._session.clock,
        )

    def _seconds(self, rate: float) -> float:
        """Return how many seconds the calls take at this rate, by the lanes that take them."""
        calls: dict[tuple[str, ...], int] = {}
        for line in self._ledger.shards.values():
            calls[line.lanes] = calls.get(line.lanes, 0) + line.calls
        return max((count / rate / max(1, len(lanes)) for lanes, count in calls.items()), default=0.0)

    def _led_s(self) -> float:
        """Return for how many seconds the run was led before, pauses apart; 0 for waves, whose soaks do not count."""
        before = [line for line in self._ledger.sessions if line.seq > self._since]
        if not before or self._ledger.waves:
            return 0.0
        began, now = records.unix_seconds(before[0].at), self._session.clock()
        paused = (
            (records.unix_seconds(end) if end is not None else now) - records.unix_seconds(begin)
            for begin, end in self._ledger.pauses
            if records.unix_seconds(begin) >= began
        )
        return max(0.0, now - began - sum(paused))

    def _keep_pace(self, rate: float) -> None:
        self._deadline_s = max(self._deadline_s, deadline_s(self._ledger.settings, self._seconds(rate)))

    def _admit(self, calls: Collection[CallId]) -> None:
        """Let the calls of a wave go."""
        found = next(iter(calls), None)
        if found is not None:
            self._wave = max(self._wave, self._ledger.wave_of[found])

    # ---- the session -------------------------------------------------------------------------------------------------

    async def run(self) -> Reason:
        """Lead until all is done or stopped; return the reason for the end. `end` is durable then."""
        self._started = self._now()
        lines = self._ledger.waves.values()
        begun = [line.n for line in lines if line.n and line.seq > self._since and line.state != records.PLANNED]
        self._wave = max(begun, default=0)  # what an earlier leader has let go, goes on
        going: asyncio.Task[None] | None = None
        if self.waves is not None:
            self.waves.hold()
            going = asyncio.create_task(self._guarded(self.waves))
        elif self._may_begin():
            self._wave = ONLY_WAVE
        try:
            while True:
                if await self._looked(is_over=going is None or going.done()):
                    break
                await asyncio.sleep(LOOK_S)
        finally:
            if going is not None:
                going.cancel()
                await asyncio.gather(going, return_exceptions=True)
        return await self._finish()

    async def _guarded(self, waves: Waves) -> None:
        try:
            if self._may_begin():
                await waves.go()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the run stops for what a wave did not handle, and says so
            self._stopping.failed(error)

    def _may_begin(self) -> bool:
        """Return whether the first call may be sent, as far as nothing was sent yet; stop the run if it may not."""
        try:
            if not self._ledger.sent_calls and not self._stopping.is_set:
                self._session.may_begin()
        except RefusedError as error:
            self._stopping.stop(str(error), error.reason)
        return not self._stopping.is_set

    async def _looked(self, *, is_over: bool) -> bool:
        """Look once at all shards, and act; return whether the run is over. `is_over`: no wave is to come."""
        if self._journal.broken is not None:
            raise JournalWriteError(str(self._journal.broken))
        try:
            rows = await asyncio.to_thread(self._board.rows, self._run)
            news = await self._followed.look()
            self._rows = rows
            for record in news:
                self._heed(record)
            self._steering.look(rows)
            self._watch()
            await self._carry_out()
        except UnreachableError:
            return False  # the database is gone for now; nobody sends
        return self._is_all_in() and (is_over or self._stopping.is_set)

    async def _carry_out(self) -> None:
        """Tell the database which wave may go, and whether the run stops."""
        if self._stopping.is_set:
            if not self._asked_to_stop:
                await asyncio.to_thread(self._board.request_stop, self._run)
                self._asked_to_stop = True
            await asyncio.to_thread(self._board.close_idle, self._run, self._journal.epoch)
        elif self._wave > self._let_go:
            wave = self._wave
            await self._journal.durable()
            if await asyncio.to_thread(self._board.let_go, self._run, self._journal.epoch, wave):
                self._let_go = wave
                await self._ask({lane for row in self._rows if row.is_open for lane in row.lanes})

    def _is_all_in(self) -> bool:
        """Whether every shard that was let go is closed, and the ledger has all of its lines."""
        if not self._stopping.is_set and self._let_go < self._wave:
            return False
        return all(
            not row.is_open and self._followed.seq(row.no) == row.seq
            for row in self._rows
            if self._stopping.is_set or row.wave <= self._wave
        ) and bool(self._rows)

    def _watch(self) -> None:
        """Stop at the deadline, when the window closes, for `acctops stop`, and for a pause that ran out."""
        stop, left, now = self._stopping.stop, self._left, self._now()
        if not self._may_begin():
            return
        if self._spent_s + self._halts.counted(self._started) >= self._deadline_s:
            stop(f"deadline of {self._deadline_s:.0f} s reached", Reason.STOPPED)
        elif now - self._started >= left.closes_s:
            stop(left.closes_why, Reason.STOPPED)
        elif self._requests.stop_requested():
            stop("`acctops stop` from another shell", Reason.STOPPED)
        elif self._lost and not self._has_lanes() and self._is_short():
            first = self._first_lost()
            if first is not None and first.stopped is not None:
                stop(first.stopped.why, Reason(first.exit))

    def _first_lost(self) -> records.End | None:
        """Return the end of the session of a shard that stopped by itself, and that nobody has taken again."""
        return next(iter(self._lost.values()), None)

    def _has_lanes(self) -> bool:
        """Whether any shard that was let go may still be worked on."""
        return any(row.is_open for row in self._rows if row.wave <= self._wave)

    def _is_short(self) -> bool:
        """Whether calls that were let go have no attempt."""
        waves = self._ledger.wave_of
        return any(
            outcome is Outcome.UNATTEMPTED and waves.get(call.id, 0) <= self._wave
            for call, _, outcome in self._ledger.outcomes()
        )

    def _heed(self, record: records.AnyRecord) -> None:
        """Count what the sessions of the shards have written, and stop the run if it should stop for it."""
        match record:
            case records.ReplyLine(code=None) if record.call in self._ledger.calls:
                self._cause.taken(self._ledger.calls[record.call])
            case records.Settled() if record.call in self._ledger.calls:
                self._count(record)
            case records.Session() if record.shard:
                self._lost.pop(record.shard, None)
            case records.End(stopped=records.Stopped()) if record.shard and not self._stopping.is_set:
                self._lost[record.shard] = record
            case records.Note(what="lane_closed" | "route_closed", data=data):
                self._recorder.tell(f"{data.get('lane') or data.get('endpoints')}: {data.get('why')}")
            case _:
                pass

    def _count(self, record: records.Settled) -> None:
        call, answer_of = self._ledger.calls[record.call], record
        if record.outcome is Outcome.FAILED and record.attempts:
            self._failures += 1
        if not record.attempts:
            return  # settled without an attempt: it counts for no rule
        why = self._cause.settled(record.outcome, call, record.code)
        if why is None and self._stop_after is not None and self._failures >= self._stop_after:
            why = f"stop_after: {self._failures} failed"
        if why is not None and not self._stopping.is_set:
            self._stopping.stop(why, self._stopping.reason_for(record.code))
            self._stopping.why = records.Stopped(why, answer_of.code, answer_of.request_id)

    async def _finish(self) -> Reason:
        try:
            reason = reason_of(
                self._ledger,
                self._stopping.reason,
                done_elsewhere=len(self._session.elsewhere),
                is_cut=bool(self._lost) and self._unattempted(),
            )
            if (lost := self._first_lost()) is not None and self._stopping.reason is None and self._unattempted():
                reason = Reason(lost.exit)
            heads = {str(row.no): row.head for row in self._rows if row.seq}
            guard = {lane: pace.guard for lane, pace in self._ledger.lanes.items() if pace.guard is not None}
            line = end_line(
                self._ledger,
                seconds=self._now() - self._started,
                reason=reason,
                stopped=self.stopped,
                guard=guard,
                heads=heads,
            )
            self._recorder.append(line)
            await self._journal.durable()
            await asyncio.to_thread(self._board.finish, self._run, self._journal.epoch)
        except (JournalWriteError, UnreachableError) as error:
            self._stopping.stop(str(error), Reason.STOPPED)
            return Reason.STOPPED
        return reason

    def _unattempted(self) -> bool:
        return any(outcome is Outcome.UNATTEMPTED for _, _, outcome in self._ledger.outcomes())

    # ---- for those who watch -----------------------------------------------------------------------------------------

    @property
    def stopped(self) -> records.Stopped | None:
        """Why the run ended early; None if it did not."""
        lost = self._first_lost()
        return self._stopping.why or (lost.stopped if lost is not None and self._unattempted() else None)

    back_elsewhere = 0
    first_send_at: float | None = None

    @property
    def tell(self) -> Callable[[str], None]:
        """Called with each piece of news for the user before the run is over, once each."""
        return self._recorder.tell

    @tell.setter
    def tell(self, tell: Callable[[str], None]) -> None:
        self._recorder.tell = tell

    def progress(self) -> Progress:
        """Return how the run stands, from what is durable."""
        lanes = {lane for line in self._ledger.shards.values() for lane in line.lanes}
        quota = self._ledger.settings.rate * len(lanes)
        return standing(self._ledger, self._session.clock(), quota=quota, waits=Waits())

    @property
    def leaving(self) -> str:
        """What becomes of the run if it is left now, in words."""
        return "another worker leads it on"

    def note(self, what: str, data: dict[str, object]) -> None:
        """Journal something that happened to the run as a whole; do nothing if the journal is broken."""
        self._recorder.note(what, data)

    def stop(self, why: str, reason: Reason) -> None:
        """Have the sessions of all shards drain. The first reason counts."""
        self._stopping.stop(why, reason)


class _Going:
    """The calls that a leader has let go, for its waves."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader

    @property
    def is_over(self) -> bool:
        return self._leader._is_all_in()

    @property
    def is_judged(self) -> bool:
        leader = self._leader
        begun = (row for row in leader._rows if row.seq and row.wave <= leader._wave)
        return bool(leader._rows) and all(not row.is_open for row in begun)

    async def last_looks(self) -> None:
        """Do nothing: the session of each shard has looked before its end."""

    def wake(self) -> None:
        """Do nothing: who takes shards looks by himself."""
