"""One session of a run that exists, from its first call to what is told of its end."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import AcctopsError, Exit
from engine.journal import records
from engine.model import Outcome
from engine.operations.attendance import Attendance
from engine.operations.events import Began
from engine.operations.session import Session, SessionEnd, Unwatched, Watch
from engine.operations.simulated import simulated_world
from engine.operations.windows import time_left, window_of

if TYPE_CHECKING:
    from engine.cloud.clients import Reach
    from engine.inputs.job import StopAfter
    from engine.inputs.passwords import PasswordSource
    from engine.inputs.settings import Settings
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Journal, Runs
    from engine.model import Call, CallId, Omit, Reading, Rival
    from engine.operations.family import Undone
    from engine.operations.survey import Survey
    from engine.operations.terms import Terms
    from engine.report.nextstep import WayOn
    from engine.simulator.world import World


class OpenRun(Struct, frozen=True, kw_only=True):
    """A run that exists, and all that a session of it needs."""

    terms: Terms
    settings: Settings
    """They say who is told of it."""
    store: Runs
    journal: Journal
    ledger: Ledger
    reach: Reach
    passwords: PasswordSource | None
    stop_after: StopAfter | None
    no_send: frozenset[CallId] = frozenset()
    """Calls that are only read and settled."""
    elsewhere: frozenset[CallId] = frozenset()
    """Failed calls that later reruns have brought about."""
    world: World | None = None
    """The simulated world, where there is one already."""
    found: Survey | None = None
    """What was read when the run was planned."""
    rivals: tuple[Rival, ...] = ()
    """Other runs that lock accounts right now."""
    undone: Undone | None = None
    """What an undo, or a rerun of one, brings back."""


class Ended(Struct, frozen=True, kw_only=True):
    """How a session ended, and how its run stands now."""

    exit: Exit
    ledger: Ledger
    journal: str
    """Where the journal is."""
    head: str
    """Hash of the last line that is on disk."""
    way: WayOn
    """What is open, and what to do next."""
    first_send_at: float | None = None
    """UNIX time of its first send, if any."""
    unrecorded: records.Stopped | None = None
    """Why it stopped without an `end` in the journal, which would have said why."""
    is_meddled: bool = False
    """Somebody else has changed the journal: what was recorded does not stand."""

    @property
    def reason(self) -> str | None:
        """Why it ended before all was tried; None if it did not."""
        end = self.ledger.end
        stopped = self.unrecorded or (end.stopped if end is not None else None)
        return stopped.why if stopped is not None else None

    @property
    def failures(self) -> tuple[tuple[Call, str | None, str | None], ...]:
        """Each failed call of the run, with its code and the RequestId of its last answer."""
        return tuple(
            (call, entry.code, entry.request_id)
            for call, entry, outcome in self.ledger.outcomes()
            if outcome is Outcome.FAILED
        )

    @property
    def counts(self) -> Mapping[str, int]:
        """Calls of the run, by outcome."""
        return {str(outcome): count for outcome, count in self.ledger.counts().items()}


async def carry_out(work: OpenRun, watch: Watch | None = None) -> Ended:
    """Work on a run until it is done or stopped, and tell who is to be told, whatever it was that ended it."""
    terms, ledger, journal = work.terms, work.ledger, work.journal
    flags = terms.repeat(work.store.state_dir)
    attendance = Attendance(work.settings, ledger, journal, work.store, flags=flags, clock=terms.clock, tell=terms.tell)
    terms.tell(Began(ledger.run.run, journal.place))
    watch = watch or Unwatched()
    try:
        ended = await _session(work, attendance, watch).work()
    except AcctopsError as error:
        ended = SessionEnd(error.exit, unrecorded=records.Stopped(str(error), None, None))
        await watch.last(attendance.after_a_fall(ended.exit, ended.unrecorded))
    way = _way(work, flags)
    return Ended(
        exit=ended.exit,
        ledger=ledger,
        journal=journal.place,
        head=journal.durable_head,
        way=way.with_back(ended.back_elsewhere) if ended.back_elsewhere else way,
        first_send_at=ended.first_send_at,
        unrecorded=ended.unrecorded,
        is_meddled=journal.is_meddled,
    )


def _session(work: OpenRun, attendance: Attendance, watch: Watch) -> Session:
    ledger, world = work.ledger, work.world
    if ledger.run.simulated and world is None:
        changed = {call.id for call, _, outcome in ledger.outcomes() if outcome is Outcome.CHANGED}
        world = simulated_world(ledger.run.action, ledger.calls.values(), changed)
    return Session(
        store=work.store,
        journal=work.journal,
        ledger=ledger,
        reach=work.reach,
        passwords=work.passwords,
        world=world,
        stop_after=work.stop_after,
        no_send=work.no_send,
        elsewhere=work.elsewhere,
        found=work.found,
        rivals=work.rivals,
        stays=work.undone.still_so() if work.undone is not None else _nothing_stays,
        clock=work.terms.clock,
        time_left=partial(time_left, window_of(ledger.settings), work.terms),
        attendance=attendance,
        tell=work.terms.tell,
        watch=watch,
    )


def _way(work: OpenRun, flags: str) -> WayOn:
    """What is open of the run and its family now that the session is over, and how to go on."""
    from engine.operations.family import way_of  # here: nothing of it is needed before the first call

    way = way_of(work.store, work.ledger, flags=flags)
    if work.journal.broken is None:
        return way
    try:
        work.store.replay(work.ledger.run.run)
    except AcctopsError:  # somebody cut it, or wrote to it: a resume would be refused
        return way.without_journal(work.ledger)
    return way


def _nothing_stays(_call: Call, _reading: Reading) -> Omit | None:
    """The rule of a run that is no undo."""
    return None
