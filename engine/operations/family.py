"""Find the runs linked to a run: its family, what is open of the family, and which runs hold its accounts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.errors import AcctopsError, JournalCorruptError, NotYetError, RefusedError
from engine.journal.ledger import Ledger
from engine.journal.reader import Replay
from engine.journal.records import Note, Run
from engine.model import Omit, Outcome
from engine.operations.holding import Gathered, batched, gather, release
from engine.operations.terms import operator
from engine.outside.foreign import pasted
from engine.planning.holds import TELL, HeldNow, Holds, end_of, key_of, part_of
from engine.planning.undo import Keep, Owing, StillSo, inverse_id, merged, stays
from engine.report.nextstep import Step, WayOn, way_on
from engine.report.spans import duration

if TYPE_CHECKING:
    from engine.journal import records
    from engine.journal.protocols import RunRef, Runs
    from engine.model import Call, CallId
    from engine.outside.trust import Trust


class Kin(Struct, frozen=True, kw_only=True):
    """The family of a run: the run, its reruns, and the runs it repeats."""

    ledgers: tuple[Ledger, ...]
    """Oldest first."""
    undone: Mapping[str, str]
    """Run → its last undo."""


def kin_of(store: Runs | None, ledger: Ledger, trust: Trust | None = None) -> Kin:
    """Return the family of a run, by the links in its journals.

    AcctopsError for a journal that cannot be read. With `trust`, such a journal, and one that is not believed, is left
    out instead.
    """
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
            elif link.is_rerun:
                near.append(link.run)
        for name in near:
            if name in found or not store.has(name):
                continue
            try:
                if trust is not None and store.doubt(name, trust) is not None:
                    continue
                found[name] = store.replay(name).ledger
            except AcctopsError:
                if trust is None:
                    raise
                continue
            left.append(found[name])
    return Kin(ledgers=tuple(sorted(found.values(), key=lambda each: _age(each, found))), undone=undone)


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


def way_and_holds(
    store: Runs | None, ledger: Ledger, trust: Trust, *, clock: Callable[[], float], flags: str = ""
) -> WayOn:
    """Return the way on of a run, with who holds its accounts: for the report of one run."""
    return replace(way_of(store, ledger, flags=flags), held=held_now(store, ledger, trust, clock))


def end_of_holds(store: Runs | None, ledger: Ledger, trust: Trust) -> tuple[str | None, str | None]:
    """Return when the holds of a run's incident end, and what is done then, as it stands now; an undo holds nothing.

    It asks the journals of the family alone, also of runs that hold nothing yet. One that cannot be read says nothing.
    """
    seen: set[str] = set()
    while True:
        family = kin_of(store, ledger, trust).ledgers
        parent = family[0].run.parent
        if parent is None or parent.verb != "undo":
            return end_of([part_of(each, ()) for each in family])
        # The undo of an undo goes on with the incident that the first of the two had ended.
        seen |= {each.run.run for each in family}
        if store is None or not store.has(parent.run) or parent.run in seen:
            return None, None
        undo = kin_of(store, store.replay(parent.run).ledger, trust).ledgers[0]
        seen.add(undo.run.run)
        undone = undo.run.parent
        if undone is None or undone.verb != "undo" or not store.has(undone.run) or undone.run in seen:
            return None, None
        ledger = store.replay(undone.run).ledger


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


def _age(ledger: Ledger, family: Mapping[str, Ledger]) -> tuple[str, int, str]:
    """Return what sorts runs by age; a rerun comes after its run, even if the clock was set back in between."""
    latest, depth, seen = ledger.run.at, 0, {ledger.run.run}
    parent = ledger.run.parent
    while parent is not None and parent.verb == "rerun" and parent.run in family and parent.run not in seen:
        seen.add(parent.run)
        depth += 1
        latest = max(latest, family[parent.run].run.at)
        parent = family[parent.run].run.parent
    return latest, depth, ledger.run.run


CLOCKS_S = 60.0
"""Seconds by which this machine's clock and the server's may differ, for a limit that ends by itself."""


class Undone(Struct, kw_only=True):
    """The run that an undo, or a rerun of that undo, brings back; and which other runs hold its accounts."""

    run_id: str
    ledger: Ledger
    store: Runs | None
    trust: Trust
    asked: tuple[str, ...]
    """`records.Run.asked` of the undo."""
    clock: Callable[[], float]
    gathered: Gathered | None = None
    """Who holds its accounts, as it was when that was last looked up."""
    older: str | None = None
    """Why its journal is known to say less than was done; None if it is not."""
    waiting: set[CallId] = field(default_factory=set)
    """Calls of the run whose accounts others held at any look, so that this undo does not open them."""

    @property
    def released(self) -> tuple[str, ...]:
        """The runs whose holds the operator ends with this undo."""
        return tuple(run for flag, run in zip(self.asked, self.asked[1:], strict=False) if flag == "--release")

    @property
    def wave(self) -> records.WaveLine | None:
        """The wave of the run that this undo is about, as it stands; None if it is about no single wave."""
        named = next((int(n) for flag, n in pairwise(self.asked) if flag == "--wave"), 0)
        return self.ledger.waves.get(named) if named else None

    @property
    def ignored(self) -> tuple[str, ...]:
        """The damaged journals that count for nothing, as the operator says."""
        return tuple(run for flag, run in zip(self.asked, self.asked[1:], strict=False) if flag == "--ignore")

    def owing(self) -> Owing:
        """Return what the undo takes back, and who holds the accounts, by the journals as they are now."""
        run = self.ledger.run
        if self.store is None:
            return Owing(self.ledger, Holds(run.action, [part_of(self.ledger)]))
        keys = {key_of(call) for call in self.ledger.calls.values()}
        self.gathered = gather(self.store, run.action, self.trust, keys, known=self.gathered, ignored=self.ignored)
        due_at = self.clock() if self.is_by_limit else None
        return Owing(self.ledger, self.gathered.holds, self.released, due_at=due_at)

    def end_holds(self, calls: Iterable[Call], undone: Iterable[Call], clock: Callable[[], float]) -> list[Call]:
        """End the run's holds on the accounts of its `calls`, and those of `--release` on `calls` and `undone`, too.

        By the journals as they were when `owing` last looked. Return those of `calls` that wait for others and that
        nobody holds now, as somebody else ended his hold at the same time: now it is ours to open them.
        """
        if self.gathered is None or self.store is None:
            return []
        calls = list(calls)
        held = [call for call in calls if call.id in self.waiting]
        mine = {key_of(call) for call in calls}
        all_keys = mine | {key_of(call) for call in undone}
        family = self.gathered.holds.family_of(self.ledger.run.run)
        why = f"undo {self.run_id}"
        if family is not None:
            release(self.store, family, mine, why=why, by=operator(), clock=clock)
        for run in self.released:
            if (other := self.gathered.holds.family_of(run)) is not None:
                release(self.store, other, all_keys, why=f"{why} --release {run}", by=operator(), clock=clock)
        if not held:
            return []
        after = self.owing()
        return [call for call in held if after.bar(call) is None and after.entry(call) is not None]

    def owed_words(self, calls: Collection[Call], flags: str) -> str:
        """Return in words that others ended their holds on accounts meanwhile, with the command that opens them."""
        first = next(iter(calls)).label
        return (
            f"{len(calls):,} of these accounts, such as {first}, are held by nobody any more, as their other holds "
            f"ended at the same time; open them: acctops {pasted(('undo', self.run_id, *self.asked))}{flags}"
        )

    def note_seen(self, calls: Iterable[Call], clock: Callable[[], float]) -> None:
        """Note of accounts that they were read as not standing as a run had left them: they are owed no more."""
        if self.gathered is None or self.store is None:
            return
        seen: dict[str, list[str]] = {}
        for call in calls:
            if (change := self.gathered.holds.change(key_of(call))) is not None:
                seen.setdefault(change.run, []).append(call.label)
        for run, labels in seen.items():
            notes = [Note(what="seen", data={"targets": part}) for part in batched(labels)]
            self.store.add_aside(run, notes, clock=clock)

    def then(self) -> str:
        """Return what is to be done when the hold of its run ends, as it stands now."""
        ledger = self.store.replay(self.run_id).ledger if self.store is not None else self.ledger  # not a merged one
        return end_of_holds(self.store, ledger, self.trust)[1] or TELL

    @property
    def is_by_limit(self) -> bool:
        """Whether it opens only what a limit lets a machine open; then it releases nothing that others hold."""
        return "--due" in self.asked

    def on_time(self, owing: Owing, ahead_s: Collection[float]) -> Owing:
        """Return what an undo by limit takes back by both clocks; `ahead_s`: by how much the server's are ahead.

        RefusedError unless this machine's clock and the server's agree; NotYetError if it has not passed by both.
        """
        if not any(owing.bar(call) is None for call in self.ledger.calls.values()):
            return owing
        if not ahead_s:
            raise RefusedError("the server did not say what time it is, so nobody knows that the limit has passed")
        worst = max(ahead_s, key=abs)
        if abs(worst) > CLOCKS_S:
            way = "ahead of" if worst < 0 else "behind"
            raise RefusedError(
                f"the clock of this machine is {duration(abs(worst))} {way} the server's: nothing is opened by a limit "
                "until the clock is right (timedatectl); nothing was sent"
            )
        now = self.clock() + min(0.0, *ahead_s)
        if (end := owing.ends_at) is not None and now < end:
            raise NotYetError("by the server's clock the limit has not passed yet; nothing was sent")
        return owing.at(now)

    def originals(self, inverse: Collection[CallId]) -> list[Call]:
        """Return the calls of the run that the calls `inverse` would take back."""
        return [call for call in self.ledger.calls.values() if inverse_id(call) in inverse]

    def still_so(self) -> StillSo:
        """Return the rule by which each call is checked before it is sent."""
        return StillSo(self.ledger, self.owing(), include_edited="--include-edited" in self.asked)

    def held(self) -> dict[CallId, Omit]:
        """Return the calls of the undo whose accounts another run holds by now, each with its omit."""
        owing = self.owing()
        found = {call: bar for call in self.ledger.calls.values() if (bar := owing.bar(call)) is not None}
        self.waiting |= {call.id for call in found}
        return {inverse_id(call): stays(call, Keep.HELD, bar.words, bar.run or "holds") for call, bar in found.items()}


def undone_of(store: Runs | None, run: Run, trust: Trust, clock: Callable[[], float]) -> Undone | None:
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
            return Undone(run_id=ref.run_id, ledger=ledger, store=store, trust=trust, asked=run.asked, clock=clock)
        run = found.ledger.run
    return None


def held_now(store: Runs | None, ledger: Ledger, trust: Trust, clock: Callable[[], float]) -> HeldNow | None:
    """Return who holds the accounts of a run, or for an undo those of the run it undid; None if that means nothing."""
    if store is None:
        return None
    try:
        undone = undone_of(store, ledger.run, trust, clock)
    except AcctopsError:
        return None
    about = undone.ledger if undone is not None else ledger
    if about.run.action not in ACTIONS or ACTIONS[about.run.action].inverse is None:
        return None
    keys = {key_of(call) for call in about.calls.values()}
    return gather(store, about.run.action, trust, keys).holds.now(about.run.run, keys)


def with_family(ref: RunRef, found: Replay, trust: Trust) -> Ledger:
    """Return one ledger of a run's family: the latest outcome of every call, and what was undone since.

    A run of the family whose journal cannot be read, or is not believed, is left out.
    """
    if ref.store is None:
        return found.ledger
    members = kin_of(ref.store, found.ledger, trust).ledgers
    whole = merged(members)
    whole.undone = frozenset(undone_since(ref, whole, trust))
    return whole


def undone_since(ref: RunRef, ledger: Ledger, trust: Trust) -> set[tuple[str, str, str, str]]:
    """Return the accounts that undos of a run, or of the runs merged into its ledger, have brought back.

    Each is named as the run names it: cloud account, region, instance, user.
    """
    if ref.store is None or ACTIONS[ledger.run.action].inverse is None:
        return set()
    keys = {key_of(call) for call in ledger.calls.values()}
    holds = gather(ref.store, ledger.run.action, trust, keys).holds
    family = holds.family_of(ledger.run.run)
    found = holds.given_back(family) if family is not None else set()
    return {
        (call.account, call.region, call.instance, call.user) for call in ledger.calls.values() if key_of(call) in found
    }
