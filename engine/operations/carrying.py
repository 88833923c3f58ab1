"""Carry out one session of a run that exists, from its first call to the notice of its end."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from engine.errors import AcctopsError, Reason
from engine.journal import records
from engine.model import Outcome
from engine.operations.attendance import Attendance
from engine.operations.events import Began
from engine.operations.session import Session, SessionEnd, Unwatched, Watch
from engine.operations.simulated import simulated_world
from engine.operations.windows import time_left, window_of

if TYPE_CHECKING:
    from engine.inputs.settings import Settings
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Runs
    from engine.model import Call
    from engine.operations.terms import Terms
    from engine.planning.holds import HeldNow
    from engine.report.nextstep import WayOn
    from engine.run.bounds import WaveTerms
    from engine.simulator.world import World


class Ended(Struct, frozen=True, kw_only=True):
    """How a session ended, and how its run stands now."""

    reason: Reason
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
    """Why it stopped, if the journal has no `end` that says so."""
    undone: Ended | None = None
    """How the undo of its red wave ended; None if there was none."""
    is_left: bool = False
    """Whether the run goes on without this process: workers have it."""
    is_meddled: bool = False
    """Whether somebody else has changed the journal, so that what was recorded does not stand."""

    @property
    def why(self) -> str | None:
        """Return in words why the session ended before all was tried; None if all was tried."""
        end = self.ledger.end
        stopped = self.unrecorded or (end.stopped if end is not None else None)
        return stopped.why if stopped is not None else None

    @property
    def failures(self) -> tuple[tuple[Call, str | None, str | None], ...]:
        """Return each failed call of the run, with its code and the RequestId of its last answer."""
        return tuple(
            (call, entry.code, entry.request_id)
            for call, entry, outcome in self.ledger.outcomes()
            if outcome is Outcome.FAILED
        )

    @property
    def counts(self) -> Mapping[str, int]:
        """Return how many calls of the run have each outcome."""
        return {str(outcome): count for outcome, count in self.ledger.counts().items()}


async def carry_out(session: Session, terms: Terms, settings: Settings, watch: Watch | None = None) -> Ended:
    """Work on a run until it is done or stopped, send its notices whatever ended it, and return how it stands.

    `session` has what its run needs. The clock of `terms`, the notices of `settings` and `watch` are added here.
    """
    ledger, journal, watch = session.ledger, session.journal, watch or Unwatched()
    flags = terms.repeat(session.store)
    attendance = Attendance(settings, ledger, journal, session.store, flags=flags, clock=terms.clock, tell=terms.tell)
    terms.tell(Began(ledger.run.run, journal.place, flags))
    world = session.world if session.world is not None or not ledger.run.simulated else _world(ledger)
    session = replace(
        session,
        world=world,
        waves=_waves(ledger, world, settings),
        clock=terms.clock,
        time_left=partial(time_left, window_of(ledger.settings), terms),
        attendance=attendance,
        tell=terms.tell,
        watch=watch,
    )
    try:
        ended = await session.work()
    except AcctopsError as error:
        ended = SessionEnd(error.reason, unrecorded=records.Stopped(str(error), None, None))
        await watch.last(attendance.after_a_fall(ended.reason, ended.unrecorded))
    way = replace(_way(session, flags), held=_held(session, settings, terms))
    return Ended(
        reason=ended.reason,
        ledger=ledger,
        journal=journal.place,
        head=journal.durable_head,
        way=way.with_back(ended.back_elsewhere) if ended.back_elsewhere else way,
        first_send_at=ended.first_send_at,
        unrecorded=ended.unrecorded,
        is_meddled=journal.is_meddled,
    )


def _waves(ledger: Ledger, world: World | None, settings: Settings) -> WaveTerms | None:
    if ledger.settings.waves is None:
        return None
    from engine.operations.gates import wave_terms  # here: most runs have no waves

    return wave_terms(ledger, world, settings.trust)


def _world(ledger: Ledger) -> World:
    """Return the simulated world of a run that goes on, as the run has left it."""
    changed = {call.id for call, _, outcome in ledger.outcomes() if outcome is Outcome.CHANGED}
    return simulated_world(ledger.run.action, ledger.calls.values(), changed)


def way_now(store: Runs, ledger: Ledger, settings: Settings, terms: Terms) -> WayOn:
    """Return what is open of a run and its family, how to go on, and what is held."""
    from engine.operations.family import held_now, way_of  # here: not needed before the first call

    way = way_of(store, ledger, flags=terms.repeat(store))
    return replace(way, held=held_now(store, ledger, settings.trust, terms.clock))


def _held(session: Session, settings: Settings, terms: Terms) -> HeldNow | None:
    from engine.operations.family import held_now  # here: not needed before the first call

    return held_now(session.store, session.ledger, settings.trust, terms.clock)


def _way(session: Session, flags: str) -> WayOn:
    """Return what is open of the run and its family, and how to go on."""
    from engine.operations.family import way_of  # here: not needed before the first call

    way = way_of(session.store, session.ledger, flags=flags)
    if session.journal.broken is None:
        return way
    try:
        session.store.replay(session.ledger.run.run)
    except AcctopsError:  # somebody else cut it or wrote to it: a resume would be refused
        return way.without_journal(session.ledger)
    return way
