"""Use case: what is still open over all runs. From journals alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import AcctopsError
from engine.operations.family import way_of
from engine.operations.stores import runs_in, store_of
from engine.report.history import OpenWork

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.journal.ledger import Entry
    from engine.journal.protocols import RunHead, Runs
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
    unnamed: int
    """Rows of lists, and places of a match, that named no account: each counts as failed."""
    working: int
    """Accounts that the run, which is live, still works on."""


class Pending(Struct, frozen=True, kw_only=True):
    """What is still open."""

    state_dir: str
    """The state directory, or the database."""
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

    @property
    def unnamed(self) -> int:
        """Rows and matches that named no account."""
        return sum(each.unnamed for each in self.runs)


def open_work(store: Runs, heads: Iterable[RunHead]) -> tuple[OpenWork, dict[str, str]]:
    """Return what is open over some runs, the oldest first, and which of them cannot be read, with the reason."""
    work = OpenWork()
    unreadable: dict[str, str] = {}
    for head in heads:
        try:
            if head.problem is None:
                work.add(head.run_id, store.replay(head.run_id).ledger)
            else:
                unreadable[head.run_id] = head.problem
        except AcctopsError as error:
            unreadable[head.run_id] = str(error)
    return work, unreadable


def pending(terms: Terms, *, since: float | None = None, ticket: str | None = None) -> Pending:
    """Return the accounts that are not as asked over all runs, each with the last run that has it.

    `since` (UNIX time) and `ticket` choose the runs whose accounts are told. Every later run is searched, too: it may
    have done what they left. Simulated runs change nothing and are left out.
    """
    store = store_of(terms.settings(None), simulated=False)
    chosen = {head.run_id: head for head in runs_in(terms, simulated=False, since=since)}
    oldest = min((head.started_at for head in chosen.values() if head.problem is None), default="")
    heads = [each for each in runs_in(terms, simulated=False) if each.run_id in chosen or each.started_at >= oldest]
    heads.sort(key=lambda head: (head.started_at, head.run_id))
    work, unreadable = open_work(store, heads)
    counts = work.by_run()
    runs, flags = [], terms.repeat(store)
    for head in reversed(heads):
        is_asked = head.run is not None and (ticket is None or head.run.ticket == ticket)
        unnamed = work.unnamed_of(head.run_id)
        if head.run_id in chosen and is_asked and (counts[head.run_id] or unnamed):
            # A second reading, so that not all runs are in memory at once.
            ledger = store.replay(head.run_id).ledger
            mine = work.of(head.run_id, ledger)
            told = tuple(each for each in mine if not head.live or each[1].settled)
            way = way_of(store, ledger, flags=flags)
            runs.append(OpenRun(head=head, way=way, targets=told, unnamed=unnamed, working=len(mine) - len(told)))
    return Pending(
        state_dir=store.kept_in,
        runs=tuple(runs),
        looked_at=len(heads) - len(unreadable),
        unreadable=tuple(unreadable.items()),
    )
