"""How the watch of a run stands, from journals alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import AcctopsError
from engine.journal.records import unix_seconds
from engine.journal.watched import Word
from engine.model import GOOD
from engine.planning.watches import Schedule, Standing, schedule_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.journal.ledger import Ledger, Link
    from engine.journal.protocols import Runs
    from engine.model import Call


def watch_of(store: Runs, links: Iterable[Link]) -> str | None:
    """Return the run that watches the one with these `links`; None if none was ever made."""
    return next((link.run for link in reversed(list(links)) if link.is_watch and store.has(link.run)), None)


def watched_calls(ledger: Ledger) -> list[Call]:
    """Return the calls of a run whose accounts are watched: it left them as asked."""
    return [call for call, _, outcome in ledger.outcomes() if outcome in GOOD]


def standing(store: Runs | None, ledger: Ledger) -> Standing | None:
    """Return how the watch of a run stands; None for an undo, a simulated run, and one that asks for none."""
    run = ledger.run
    schedule = schedule_of(run.settings.watch)
    if store is None or schedule is None or run.watched is not None or run.simulated:
        return None
    if run.parent is not None and run.parent.verb == "undo":
        return None
    calls = watched_calls(ledger)
    ended_at = unix_seconds(ledger.end.at) if ledger.end is not None and not store.is_live(run.run) else None
    watch = watch_of(store, ledger.links)
    if watch is None:
        next_at, until = _times(schedule, ended_at, None)
        return Standing(total=len(calls), next_at=next_at, until=until)
    try:
        found = store.replay(watch).ledger
    except AcctopsError as error:
        return Standing(run=watch, total=len(calls), problem=str(error))
    said = found.watched
    if said is None:
        return Standing(run=watch, total=len(calls), problem=f"run {watch} is no watch")
    next_at, until = _times(schedule, ended_at, said.read_at)
    words = [(call, said.said(call.id).word) for call in calls]
    return Standing(
        run=watch,
        total=len(calls),
        as_left=sum(word is Word.AS_LEFT for _, word in words),
        opened=sum(word is Word.OPENED for _, word in words),
        back=tuple(call.label for call, word in words if word is Word.BACK),
        unread=tuple(call.label for call, word in words if word is Word.UNREAD),
        read_at=said.read_at,
        next_at=next_at,
        until=until,
    )


def _times(schedule: Schedule, ended_at: float | None, read_at: float | None) -> tuple[float | None, float | None]:
    """Return the UNIX times of the next reading and of the last of all."""
    if ended_at is None:
        return None, None
    following, last = schedule.following(None if read_at is None else read_at - ended_at), schedule.last
    return (
        ended_at + following if following is not None else None,
        ended_at + last if last is not None else None,
    )
