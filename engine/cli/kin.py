"""Door: runs linked to a run, found in the state directory: its reruns, and those that hold its accounts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, field

from engine.actions import ACTIONS
from engine.errors import AcctopsError
from engine.journal.reader import Replay, replay
from engine.ledger import Ledger
from engine.records import Run, Undoes
from engine.undo import Choice, StillSo, holds_of, inverse_id, linked, merged

if TYPE_CHECKING:
    from pathlib import Path

    from engine.journal.store import RunRef, RunStore
    from engine.model import CallId


class Others(Struct, frozen=True, kw_only=True):
    """The other runs of a state directory that act on the same state."""

    looked_at: int
    """Journals in the directory."""
    unreadable: tuple[str, ...]
    """Journals that could not be read: what they hold is not known."""
    read: Mapping[str, tuple[tuple[int, int], Ledger]] = field(default_factory=dict)
    """By run: its journal's time and size when it was read, and what it says."""

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        """What they say."""
        return tuple(ledger for _, ledger in self.read.values())


def others_of(store: RunStore, run_id: str, actions: set[str], known: Others | None = None) -> Others:
    """Every other run of `actions` in the store; a journal that is as it was in `known` is not read again."""
    read: dict[str, tuple[tuple[int, int], Ledger]] = {}
    unreadable, looked_at = [], 0
    for head in store.heads():
        if head.run_id == run_id:
            continue
        looked_at += 1
        if head.problem is not None:
            unreadable.append(f"{head.run_id}: {head.problem}")
        elif head.action in actions:
            try:
                stamp = _stamp(store.path(head.run_id))
                before = known.read.get(head.run_id) if known is not None else None
                is_same = before is not None and before[0] == stamp
                read[head.run_id] = before if is_same and before else (stamp, replay(store.path(head.run_id)).ledger)
            except AcctopsError as error:
                unreadable.append(f"{head.run_id}: {error}")
    return Others(looked_at=looked_at, unreadable=tuple(unreadable), read=read)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - both at once
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


class Undone(Struct, kw_only=True):
    """The run that an undo brings back, a rerun of that undo too; and who else holds its accounts."""

    run_id: str
    ledger: Ledger
    store: RunStore | None
    asked: Undoes
    others: Others | None = None
    """As they were when it was last asked who holds what."""

    def still_so(self) -> StillSo:
        """The rule by which each call is looked at before it is sent."""
        asked = self.asked
        choice = Choice(by_list=asked.by_list, include_edited=asked.include_edited, rotated_only=asked.rotated)
        return StillSo(self.ledger, choice)

    def held(self) -> dict[CallId, str]:
        """Calls of the undo whose accounts another run holds by now, each with why."""
        run = self.ledger.run
        if self.store is None or run is None:
            return {}
        actions = {run.action, str(ACTIONS[run.action].inverse)}
        self.others = others_of(self.store, self.run_id, actions, self.others)
        holds = holds_of(self.ledger, self.others.ledgers, self.asked.released)
        calls = self.ledger.calls
        return {inverse_id(calls[call]): f"held by {hold}" for call, hold in holds.items() if call in calls}


def undone_of(store: RunStore | None, run: Run) -> Undone | None:
    """What an undo, or a rerun of one, brings back; None for every other run, and where that cannot be found."""
    while store is not None and run.parent is not None and store.path(run.parent.run).is_file():
        found = replay(store.path(run.parent.run))
        assert found.ledger.run is not None
        if run.parent.verb == "undo":
            # Of an undo by an earlier version nobody knows what was asked: its own plan is the list.
            asked = run.undoes or Undoes(by_list=True)
            ref = store.find(run.parent.run)
            ledger = with_family(ref, found) if asked.family else found.ledger
            return Undone(run_id=ref.run_id, ledger=ledger, store=store, asked=asked)
        run = found.ledger.run
    return None


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
    return merged(sorted(members, key=lambda ledger: (ledger.run.at, ledger.run.run) if ledger.run else ("", "")))
