"""Find the runs linked to a run: its family, what is open of the family, and which runs hold its accounts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.errors import AcctopsError, JournalCorruptError
from engine.journal.ledger import Ledger
from engine.journal.reader import Replay
from engine.journal.records import Run
from engine.model import Omit, Outcome
from engine.planning.undo import Keep, StillSo, holds_of, inverse_id, linked, merged, stays, undone_keys
from engine.report.nextstep import Step, WayOn, way_on

if TYPE_CHECKING:
    from engine.journal.protocols import RunRef, Runs
    from engine.model import CallId
    from engine.outside.trust import Trust


class Kin(Struct, frozen=True, kw_only=True):
    """The family of a run: the run, its reruns, and the runs it repeats."""

    ledgers: tuple[Ledger, ...]
    """Oldest first."""
    undone: Mapping[str, str]
    """Run → its last undo."""


def kin_of(store: Runs | None, ledger: Ledger) -> Kin:
    """Return the family of a run, by the links in its journals. AcctopsError for a journal that cannot be read."""
    found = {ledger.run.run: ledger}
    undone: dict[str, str] = {}
    left = [ledger]
    while left and store is not None:
        each = left.pop()
        run = each.run
        near = [run.parent.run] if run.parent is not None and run.parent.verb == "rerun" else []
        for link in each.links:
            if not store.has(link.run):  # it was linked, but never created
                continue
            if link.is_undo:
                undone[run.run] = link.run
            else:
                near.append(link.run)
        for name in near:
            if name not in found and store.has(name):
                found[name] = store.replay(name).ledger
                left.append(found[name])
    return Kin(ledgers=tuple(sorted(found.values(), key=_age)), undone=undone)


def way_of(store: Runs | None, ledger: Ledger, *, flags: str = "") -> WayOn:
    """Return what is open of a run and its family, and what to do next; without family if a journal is unreadable."""
    more = None
    try:
        kin = kin_of(store, ledger)
        more = _left_by_the_undo(store, ledger)
    except AcctopsError:
        kin = Kin(ledgers=(ledger,), undone={})
    way = way_on(kin.ledgers, ledger.run.run, undone=kin.undone, flags=flags)
    return way if more is None else replace(way, choices=(*way.choices, more))


def changed_by_reruns(kin: Kin, ledger: Ledger) -> int:
    """Return how many accounts only other runs of the family changed: an undo of the run alone leaves them."""
    mine = {call.id for call, _, outcome in ledger.outcomes() if outcome is Outcome.CHANGED}
    others = (each for each in kin.ledgers if each.run != ledger.run)
    return len(
        {call.id for each in others for call, _, outcome in each.outcomes() if outcome is Outcome.CHANGED} - mine
    )


def _left_by_the_undo(store: Runs | None, ledger: Ledger) -> Step | None:
    """Return the step that takes back what reruns changed, for an undo without `--family`; None if there is none."""
    parent = ledger.run.parent
    if store is None or parent is None or parent.verb != "undo" or "--family" in ledger.run.asked:
        return None
    if not store.has(parent.run):
        return None
    undone = store.replay(parent.run).ledger
    count = changed_by_reruns(kin_of(store, undone), undone)
    if not count:
        return None
    why = f"{count:,} more were changed by reruns of run {parent.run}, and stay unless these are undone, too"
    return Step(words=("undo", parent.run, "--family"), takes=count, why=why)


def _age(ledger: Ledger) -> tuple[str, str]:
    return ledger.run.at, ledger.run.run


class Others(Struct, frozen=True, kw_only=True):
    """The other runs of a state directory that act on the same state."""

    looked_at: int
    """How many other journals are in the directory."""
    unreadable: tuple[str, ...]
    """Journals that could not be read or are not believed, and why: what they hold is not known."""
    read: Mapping[str, tuple[object, Ledger]] = field(default_factory=dict)
    """Run → its journal's time and size when it was read, and its ledger."""

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        """The ledgers of the runs that were read."""
        return tuple(ledger for _, ledger in self.read.values())


def others_of(store: Runs, run_id: str, actions: set[str], trust: Trust, known: Others | None = None) -> Others:
    """Return every other run of `actions` in the store that may be believed.

    A journal that has not changed since `known` is not read again.
    """
    read: dict[str, tuple[object, Ledger]] = {}
    unreadable, looked_at = [], 0
    for head in store.heads():
        if head.run_id == run_id:
            continue
        looked_at += 1
        if head.problem is not None:
            unreadable.append(f"{head.run_id}: {head.problem}")
        elif head.action in actions:
            try:
                if (why := store.doubt(head.run_id, trust)) is not None:
                    unreadable.append(f"{head.run_id}: is not believed, as {why}")
                    continue
                stamp = store.version(head.run_id)
                before = known.read.get(head.run_id) if known is not None else None
                is_same = before is not None and before[0] == stamp
                read[head.run_id] = before if is_same and before else (stamp, store.replay(head.run_id).ledger)
            except (AcctopsError, OSError) as error:
                unreadable.append(f"{head.run_id}: {error}")
    return Others(looked_at=looked_at, unreadable=tuple(unreadable), read=read)


class Undone(Struct, kw_only=True):
    """The run that an undo, or a rerun of that undo, brings back; and which other runs hold its accounts."""

    run_id: str
    ledger: Ledger
    store: Runs | None
    trust: Trust
    asked: tuple[str, ...]
    """`records.Run.asked` of the undo."""
    others: Others | None = None
    """The other runs, as they were when holds were last looked up."""

    def still_so(self) -> StillSo:
        """Return the rule by which each call is checked before it is sent."""
        return StillSo(self.ledger, include_edited="--include-edited" in self.asked)

    def held(self) -> dict[CallId, Omit]:
        """Return the calls of the undo whose accounts another run holds by now, each with its omit."""
        run = self.ledger.run
        if self.store is None:
            return {}
        actions = {run.action, str(ACTIONS[run.action].inverse)}
        self.others = others_of(self.store, self.run_id, actions, self.trust, self.others)
        released = [run for flag, run in zip(self.asked, self.asked[1:], strict=False) if flag == "--release"]
        holds = holds_of(self.ledger, self.others.ledgers, released)
        calls = self.ledger.calls
        return {
            inverse_id(calls[call]): stays(calls[call], Keep.HELD, f"held by {hold}", hold.run)
            for call, hold in holds.items()
            if call in calls
        }


def undone_of(store: Runs | None, run: Run, trust: Trust) -> Undone | None:
    """Return what an undo, or a rerun of one, brings back; None for every other run, and if it cannot be found.

    JournalCorruptError if the parents of a run lead back to it, as no run can have written that.
    """
    seen = {run.run}
    while store is not None and run.parent is not None and store.has(run.parent.run):
        if run.parent.run in seen:
            raise JournalCorruptError(f"{store.place_of(run.run)}:1: makes no sense: its parents lead back to it")
        seen.add(run.parent.run)
        found = store.replay(run.parent.run)
        if run.parent.verb == "undo":
            ref = store.find(run.parent.run)
            ledger = with_family(ref, found, trust) if "--family" in run.asked else found.ledger
            return Undone(run_id=ref.run_id, ledger=ledger, store=store, trust=trust, asked=run.asked)
        run = found.ledger.run
    return None


def with_family(ref: RunRef, found: Replay, trust: Trust) -> Ledger:
    """Return one ledger of a run's family: the latest outcome of every call, and what was undone since."""
    run = found.ledger.run
    if ref.store is None:
        return found.ledger
    by_run = {str(run.run): found.ledger}
    for other in others_of(ref.store, ref.run_id, {run.action}, trust).ledgers:
        by_run[other.run.run] = other
    family = linked(run.run, by_run)
    members = [by_run[name] for name in family]
    whole = merged(sorted(members, key=_age))
    whole.undone = frozenset(undone_since(ref, whole, trust))
    return whole


def undone_since(ref: RunRef, ledger: Ledger, trust: Trust) -> set[tuple[str, str, str, str]]:
    """Return the accounts that undos of a run, or of the runs merged into its ledger, have brought back."""
    inverse = ACTIONS[ledger.run.action].inverse
    if ref.store is None or inverse is None:
        return set()
    others = others_of(ref.store, ref.run_id, {ledger.run.action, inverse}, trust).ledgers
    by_run = {other.run.run: other for other in others}
    by_run[ledger.run.run] = ledger
    return {key for name in linked(ledger.run.run, by_run) for key in undone_keys(name, by_run)}
