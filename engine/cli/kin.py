"""Door: runs linked to a run, found in the state directory: its reruns, what is open of them all, and who holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from engine.errors import AcctopsError
from engine.journal.reader import Replay, replay
from engine.ledger import Ledger
from engine.model import Outcome
from engine.nextstep import Step, WayOn, way_on
from engine.undo import linked, merged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.journal.store import RunRef, RunStore


class Kin(Struct, frozen=True, kw_only=True):
    """A run with its reruns, and the runs it repeats."""

    ledgers: tuple[Ledger, ...]
    """Oldest first."""
    undone: Mapping[str, str]
    """Run → the undo of it, the last one."""


def kin_of(store: RunStore | None, ledger: Ledger) -> Kin:
    """The family of a run, by the links in its journals. AcctopsError for one that cannot be read."""
    assert ledger.run is not None
    found = {ledger.run.run: ledger}
    undone: dict[str, str] = {}
    left = [ledger]
    while left and store is not None:
        each = left.pop()
        run = each.run
        assert run is not None
        near = [run.parent.run] if run.parent is not None and run.parent.verb == "rerun" else []
        for note in each.links:
            later = str(note.data.get("run", ""))
            if not _is_there(store, later):  # linked, and never came to exist
                continue
            if note.what == "undone_by":
                undone[run.run] = later
            else:
                near.append(later)
        for name in near:
            if name not in found and _is_there(store, name):
                found[name] = replay(store.path(name)).ledger
                left.append(found[name])
    return Kin(ledgers=tuple(sorted(found.values(), key=_age)), undone=undone)


def way_of(store: RunStore | None, ledger: Ledger, *, flags: str = "") -> WayOn:
    """What is open of a run and its family, and what to do next; of the run alone, if a journal cannot be read."""
    assert ledger.run is not None
    more = None
    try:
        kin = kin_of(store, ledger)
        more = _left_by_the_undo(store, ledger)
    except AcctopsError:
        kin = Kin(ledgers=(ledger,), undone={})
    way = way_on(kin.ledgers, ledger.run.run, undone=kin.undone, flags=flags)
    return way if more is None else replace(way, choices=(*way.choices, more))


def changed_by_reruns(kin: Kin, ledger: Ledger) -> int:
    """Accounts that other runs of the family changed: an undo of the run alone leaves them."""
    mine = {call.id for call, _, outcome in ledger.outcomes() if outcome is Outcome.CHANGED}
    others = (each for each in kin.ledgers if each.run != ledger.run)
    return len(
        {call.id for each in others for call, _, outcome in each.outcomes() if outcome is Outcome.CHANGED} - mine
    )


def _left_by_the_undo(store: RunStore | None, ledger: Ledger) -> Step | None:
    """Of the undo of a run alone: what takes back what reruns of that run changed."""
    assert ledger.run is not None
    parent = ledger.run.parent
    if store is None or parent is None or parent.verb != "undo" or "--family" in ledger.run.asked:
        return None
    if not _is_there(store, parent.run):
        return None
    undone = replay(store.path(parent.run)).ledger
    count = changed_by_reruns(kin_of(store, undone), undone)
    if not count:
        return None
    why = f"{count:,} more were changed by reruns of run {parent.run}, and stay unless these are undone, too"
    return Step(words=("undo", parent.run, "--family"), takes=count, why=why)


def _is_there(store: RunStore, run: str) -> bool:
    return bool(run) and "/" not in run and store.path(run).is_file()


def _age(ledger: Ledger) -> tuple[str, str]:
    return (ledger.run.at, ledger.run.run) if ledger.run is not None else ("", "")


class Others(Struct, frozen=True, kw_only=True):
    """The other runs of a state directory that act on the same state."""

    ledgers: tuple[Ledger, ...]
    looked_at: int
    """Journals in the directory."""
    unreadable: tuple[str, ...]
    """Journals that could not be read: what they hold is not known."""


def others_of(store: RunStore, run_id: str, actions: set[str]) -> Others:
    """Every other run of `actions` in the store."""
    ledgers, unreadable, looked_at = [], [], 0
    for head in store.heads():
        if head.run_id == run_id:
            continue
        looked_at += 1
        if head.problem is not None:
            unreadable.append(f"{head.run_id}: {head.problem}")
        elif head.action in actions:
            try:
                ledgers.append(replay(store.path(head.run_id)).ledger)
            except AcctopsError as error:
                unreadable.append(f"{head.run_id}: {error}")
    return Others(ledgers=tuple(ledgers), looked_at=looked_at, unreadable=tuple(unreadable))


def with_family(ref: RunRef, found: Replay) -> Ledger:
    """The run with its reruns, and the runs it reran: the latest outcome of every call."""
    run = found.ledger.run
    if ref.store is None or run is None:
        return found.ledger
    by_run = {str(run.run): found.ledger}
    for other in others_of(ref.store, ref.run_id, {run.action}).ledgers:
        assert other.run is not None
        by_run[other.run.run] = other
    family = linked(run.run, by_run)
    members = [by_run[name] for name in family]
    return merged(sorted(members, key=_age))
