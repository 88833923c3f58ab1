"""Use case: what is still open over all runs. From journals alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import AcctopsError
from engine.operations.family import way_of
from engine.operations.stores import runs_in, store_of
from engine.report.history import OpenWork

if TYPE_CHECKING:
    from pathlib import Path

    from engine.journal.ledger import Entry
    from engine.journal.protocols import RunHead
    from engine.model import Call, Outcome
    from engine.operations.terms import Terms
    from engine.report.nextstep import WayOn


class OpenRun(Struct, frozen=True, kw_only=True):
    """A run that is the last one to have accounts which are not as asked."""

    head: RunHead
    way: WayOn
    """What goes on with them."""
    targets: tuple[tuple[Call, Entry, Outcome], ...]
    """These accounts; of a live run, without those that it still works on."""
    working: int
    """Accounts that the run, which is live, still works on."""


class Pending(Struct, frozen=True, kw_only=True):
    """What is still open."""

    state_dir: Path
    runs: tuple[OpenRun, ...]
    """The newest first."""
    looked_at: int
    """Runs whose journals were read."""
    unreadable: tuple[tuple[str, str], ...]
    """Run → why its journal cannot be read: what it has open is not known."""

    @property
    def count(self) -> int:
        """Accounts that are not as asked, and on which no live run works."""
        return sum(len(each.targets) for each in self.runs)


def pending(terms: Terms, *, since: float | None = None, ticket: str | None = None) -> Pending:
    """Return the accounts that are not as asked over all runs, each with the last run that has it.

    `since` (UNIX time) and `ticket` choose the runs whose accounts are told. All runs are searched for each account: a
    later one may have done it. Simulated runs change nothing and are left out.
    """
    settings = terms.settings(None)
    store = store_of(settings, simulated=False)
    work, unreadable, ledgers = OpenWork(), [], {}
    heads = sorted(runs_in(terms, simulated=False), key=lambda head: (head.started_at, head.run_id))
    for head in heads:
        if head.problem is None:
            try:
                ledgers[head.run_id] = store.replay(head.run_id).ledger
            except AcctopsError as error:
                unreadable.append((head.run_id, str(error)))
                continue
            work.add(head.run_id, ledgers[head.run_id])
        else:
            unreadable.append((head.run_id, head.problem))
    chosen = {head.run_id for head in runs_in(terms, simulated=False, since=since)}
    runs, flags = [], terms.repeat(store.state_dir)
    for head in reversed(heads):
        ledger = ledgers.get(head.run_id)
        if ledger is None or head.run_id not in chosen or (ticket is not None and ledger.run.ticket != ticket):
            continue
        mine = work.of(head.run_id, ledger)
        told = tuple(each for each in mine if not head.live or each[1].settled)
        if mine:
            way = way_of(store, ledger, flags=flags)
            runs.append(OpenRun(head=head, way=way, targets=told, working=len(mine) - len(told)))
    return Pending(state_dir=store.state_dir, runs=tuple(runs), looked_at=len(ledgers), unreadable=tuple(unreadable))
