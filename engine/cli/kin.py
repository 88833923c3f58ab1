"""Door: runs linked to a run, found in the state directory: its reruns, and those that hold its accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import AcctopsError
from engine.journal.reader import Replay, replay
from engine.ledger import Ledger
from engine.undo import linked, merged

if TYPE_CHECKING:
    from engine.journal.store import RunRef, RunStore
    from engine.trust import Trust


class Others(Struct, frozen=True, kw_only=True):
    """The other runs of a state directory that act on the same state."""

    ledgers: tuple[Ledger, ...]
    looked_at: int
    """Journals in the directory."""
    unreadable: tuple[str, ...]
    """Journals that could not be read: what they hold is not known."""


def others_of(store: RunStore, run_id: str, actions: set[str], trust: Trust) -> Others:
    """Every other run of `actions` in the store that may be believed."""
    ledgers, unreadable, looked_at = [], [], 0
    for head in store.heads():
        if head.run_id == run_id:
            continue
        looked_at += 1
        if head.problem is not None:
            unreadable.append(f"{head.run_id}: {head.problem}")
        elif head.action in actions:
            try:
                if (why := trust.why_not(store.path(head.run_id))) is not None:
                    unreadable.append(f"{head.run_id}: is not believed, as {why}")
                    continue
                ledgers.append(replay(store.path(head.run_id)).ledger)
            except (AcctopsError, OSError) as error:
                unreadable.append(f"{head.run_id}: {error}")
    return Others(ledgers=tuple(ledgers), looked_at=looked_at, unreadable=tuple(unreadable))


def with_family(ref: RunRef, found: Replay, trust: Trust) -> Ledger:
    """The run with its reruns, and the runs it reran: the latest outcome of every call."""
    run = found.ledger.run
    if ref.store is None or run is None:
        return found.ledger
    by_run = {str(run.run): found.ledger}
    for other in others_of(ref.store, ref.run_id, {run.action}, trust).ledgers:
        assert other.run is not None
        by_run[other.run.run] = other
    family = linked(run.run, by_run)
    members = [by_run[name] for name in family]
    return merged(sorted(members, key=lambda ledger: (ledger.run.at, ledger.run.run) if ledger.run else ("", "")))
