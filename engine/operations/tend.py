"""Use case: tend what is due after runs. It asks nobody, and doing it twice does no more than doing it once.

A hold whose limit has passed is told of, or its accounts are opened by an ordinary undo, as `planning.holds` allows.
The accounts of a run that asks to be watched are read again when that is due (`watch`). Each run is tended on its own:
one that fails stops no other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from engine.errors import AcctopsError, BusyError, NotYetError, Reason
from engine.journal import records
from engine.journal.records import rfc3339, unix_seconds
from engine.model import GOOD, OmitReason
from engine.operations.begin import begin
from engine.operations.deeds import Deed
from engine.operations.events import Warned, nobody
from engine.operations.holding import gather
from engine.operations.measuring import measure_tend
from engine.operations.overdue import TENDED
from engine.operations.permits import NeedsApprovalError
from engine.operations.proposal import Approval, Planned
from engine.operations.resume import Finished, go_on, resumption
from engine.operations.stores import store_of
from engine.operations.tellings import Telling
from engine.operations.terms import Terms
from engine.operations.undo import NothingToUndo, Selection, accounts, plan_undo
from engine.operations.unlisted import list_late
from engine.operations.watch import Watches
from engine.planning.holds import TELL, Family, Key, key_of
from engine.report.spans import duration

if TYPE_CHECKING:
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Runs
    from engine.operations.carrying import Ended
    from engine.operations.holding import Gathered
    from engine.operations.session import Watch

SOON_S = 3600.0
"""Seconds before the end of a hold at which those who are told of the run are told of it."""
LATE_S = 600.0
"""Seconds after the end of a hold from which on it is called late: a timer comes every five minutes."""


class Tended(Struct, frozen=True, kw_only=True):
    """What `tend` has done."""

    state_dir: str
    """The state directory, or the database."""
    at: str
    deeds: tuple[Deed, ...]
    is_busy: bool = False
    """Whether another process tends this state directory now; then nothing was done."""
    stopped: Reason | None = None
    """Why it ended before all was looked at: a signal; None if it was not."""

    @property
    def failed(self) -> tuple[Deed, ...]:
        """What could not be done."""
        return tuple(deed for deed in self.deeds if deed.what == "failed")

    @property
    def reason(self) -> Reason:
        """OK if all that was due is done; else INCOMPLETE, or the signal that ended it."""
        return self.stopped or (Reason.INCOMPLETE if self.failed else Reason.OK)


async def tend(terms: Terms, *, adopt: bool = False, watch: Watch | None = None) -> Tended:
    """Do what is due after runs in a state directory. `adopt`: from now on it belongs to this host."""
    settings = terms.settings(None)
    store = store_of(settings, simulated=False)
    nothing = Tended(state_dir=store.kept_in, at=rfc3339(terms.clock()), deeds=())
    store.check_place()
    with store.tending() as is_free:
        if not is_free:
            return replace(nothing, is_busy=True)
        tender = _Tender(terms, store, adopt=adopt, watch=watch)
        deeds = await tender.limits()
        if tender.stopped is None:
            deeds += await tender.watches()
        deeds += await asyncio.to_thread(tender.ends)
        done = replace(nothing, deeds=tuple(deeds), stopped=tender.stopped)
        if done.reason is Reason.OK:
            store.set_mark(TENDED, rfc3339(terms.clock()))
            if (why := measure_tend(settings, terms.clock())) is not None:
                terms.tell(Warned(f"metrics: {why}"))
    return done


class _Tender:
    """One pass over the runs of a state directory."""

    def __init__(self, terms: Terms, store: Runs, *, adopt: bool, watch: Watch | None) -> None:
        self._terms = replace(terms, yes=True, attended=False, tell=nobody)
        self._store = store
        self._flags = terms.repeat(store)
        self._watch = watch
        self._trust = terms.settings(None).trust
        self._seal = terms.settings(None).seal
        self._home = store.home(adopt=adopt)
        self._adopts = adopt
        self.stopped: Reason | None = None
        """The signal that ended a session, and with it this pass."""

    async def watches(self) -> list[Deed]:
        """Read again what is due of the runs that are watched, and tell what came back."""
        return await Watches(self._terms, self._store, self._trust).tend()

    def ends(self) -> list[Deed]:
        """List the ends of runs that their own sessions did not list."""
        return list(list_late(self._store, self._seal, self._terms.clock))

    # ---- holds whose limit has passed --------------------------------------------------------------------------------

    async def limits(self) -> list[Deed]:
        """Tend the holds that end soon, or have ended."""
        deeds: list[Deed] = []
        near = self._near_their_end(deeds)
        for action in dict.fromkeys(ledger.run.action for ledger in near.values()):
            ledgers = {run: ledger for run, ledger in near.items() if ledger.run.action == action}
            gathered = gather(self._store, action, self._trust, _keys(ledgers.values()))
            found = [(family, ledger) for run, ledger in ledgers.items() if (family := gathered.holds.family_of(run))]
            for family, ledger in sorted(found, key=lambda each: (each[0].until or "", each[0].run)):
                if self.stopped is not None:
                    break
                try:
                    deeds += await self._one(family, ledger, gathered)
                except (BusyError, NotYetError) as error:
                    deeds.append(Deed(run=family.run, what="waits", words=str(error)))
                except AcctopsError as error:
                    deeds.append(await self._failed(family, ledger, str(error)))
                except Exception as error:  # noqa: BLE001 - a defect at one run must not keep the others locked
                    words = f"a defect of acctops: {type(error).__name__}: {error}"
                    deeds.append(await self._failed(family, ledger, words))
        return deeds

    def _near_their_end(self, deeds: list[Deed]) -> dict[str, Ledger]:
        """Return the runs whose holds end within the hour, or have ended, and about which something is left to do."""
        found: dict[str, Ledger] = {}
        until_s = self._terms.clock() + SOON_S
        worked: dict[str, str] = {}
        """Run → when the last rerun or undo after it, or after one of these, ended."""
        for run_id in self._store.lost():
            words = "its journal was removed, so nobody knows whether a limit of it has passed"
            deeds.append(Deed(run=run_id, what="failed", words=words))
        for head in self._store.heads():  # the newest first, so what came after a run before the run
            run = head.run
            if run is None or head.problem is not None:
                words = f"nobody knows whether a limit of it has passed: {head.problem}"
                deeds += [] if head.live else [Deed(run=head.run_id, what="failed", words=words)]
                continue
            if run.parent is not None:
                ended = head.end.at if head.end is not None and not head.live else _NOT_YET
                known = worked.get(run.parent.run, "")
                worked[run.parent.run] = max(known, ended, worked.get(head.run_id, ""))
            if run.parent is not None and run.parent.verb == "rerun" and self._store.has(run.parent.run):
                continue  # its family is tended by its oldest run
            has_aside = self._store.has_aside(head.run_id)
            if run.settings.hold_until is None and not has_aside:
                continue
            try:
                lines = self._store.aside(head.run_id) if has_aside else ()
                until, then = _limit(run.settings, lines)
                if (
                    until is None
                    or unix_seconds(until) > until_s
                    or _is_over(lines, until, then, after=worked.get(head.run_id, ""))
                ):
                    continue
                if (doubt := self._store.doubt(head.run_id, self._trust)) is not None:
                    words = f"ends at {until[:16]}Z, and is not believed, as {doubt}; nothing of it is opened"
                    deeds.append(Deed(run=head.run_id, what="failed", words=words))
                else:
                    found[head.run_id] = self._store.replay(head.run_id).ledger
            except AcctopsError as error:
                deeds.append(Deed(run=head.run_id, what="failed", words=str(error)))
        return found

    async def _one(self, family: Family, ledger: Ledger, gathered: Gathered) -> list[Deed]:
        assert family.until is not None
        now, telling = self._terms.clock(), self._telling(family, ledger)
        held = family.held()
        if not held:
            telling.note("over")
            return []
        count, left_s = accounts(len(held)), unix_seconds(family.until) - now
        if left_s > 0:
            words = f"the hold on {count} ends at {family.until[:16]}Z, in {duration(left_s)}; {_then(family)}"
            return await self._tell(telling, family, "soon", words, len(held))
        ended = f"the hold on {count} ended at {family.until[:16]}Z"
        ended += f", {duration(-left_s)} ago: late" if -left_s > LATE_S else ""
        if family.then == TELL:
            whole = " --family" if len(family.members) > 1 else ""
            way = f"acctops undo {family.run}{whole}{self._flags}"
            words = f"{ended}; they stay as they are until a person gives them back or holds them longer: {way}"
            return await self._tell(telling, family, "due", words, len(held))
        if not self._home.is_here:
            kind, moved = "state directory", "it has moved here for good"
            if self._store.database is not None:
                kind, moved = "database", "it is the one that counts from now on"
            raise _NotOpenedError(
                f"{ended}; this {kind} {self._home.why}, so nothing is opened here; if {moved}: "
                f"acctops tend --adopt{self._flags}"
            )
        if gathered.blind:
            run, why = next(iter(gathered.blind.items()))
            ignored = " ".join(f"--ignore {each}" for each in gathered.blind)
            raise _NotOpenedError(
                f"{ended}; nothing is opened in this state directory while nobody knows what run {run} holds: {why}; "
                f"once you know that it holds none of these: acctops undo {family.run} {ignored}{self._flags}"
            )
        bars = Counter(bar.words for key in held if (bar := gathered.holds.bar(key, now)) is not None)
        deeds = [
            Deed(run=family.run, what="waits", words=f"{accounts(number)}: {words}", count=number)
            for words, number in bars.items()
        ]
        if sum(bars.values()) == len(held):
            return deeds
        if not self._adopts and (put_off := telling.put_off()) is not None:
            return [*deeds, Deed(run=family.run, what="failed", words=put_off)]
        try:
            return [*deeds, *await self._open(family, ledger, telling, ended, gathered)]
        except NeedsApprovalError as error:  # a machine has no key: it tells, and people decide
            return [*deeds, *await self._tell(telling, family, "stays", f"{ended}; {error}", len(held), "approval")]

    async def _tell(
        self, telling: Telling, family: Family, what: str, words: str, count: int, mark: str = ""
    ) -> list[Deed]:
        is_told = await telling.once(what, words, count, mark=mark)
        return [Deed(run=family.run, what="told", words=words, count=count)] if is_told else []

    async def _open(
        self, family: Family, ledger: Ledger, telling: Telling, ended: str, gathered: Gathered
    ) -> list[Deed]:
        """Open what may be opened, by an undo of the run: first one that was cut off, then a new one.

        `gathered` was read for the accounts of the family's oldest run, which has all of its reruns' as well.
        """
        deeds = []
        why = f"the hold of {family.run} ended at {family.until}"
        approval = Approval(how=f"tend: {why}", by="acctops tend")
        cut_off = self._cut_off(ledger)
        if cut_off is not None:
            found = await resumption(self._terms, cut_off)
            if not isinstance(found, Finished):
                deeds += await self._result(family, telling, ended, await go_on(found, approval, self._watch))
        terms = replace(self._terms, reason=why)
        plan = await plan_undo(terms, family.run, Selection(family=True, due=True), gathered)
        if isinstance(plan, NothingToUndo):
            if plan.released:
                words = f"{ended}; {accounts(plan.released)} stand as before the run, or were opened since"
                deeds.append(Deed(run=family.run, what="told", words=words, count=plan.released))
            return [*deeds, *await self._stays(family, telling, ended, Counter(plan.kept))]
        assert isinstance(plan, Planned)
        return [*deeds, *await self._result(family, telling, ended, await begin(plan, approval, self._watch))]

    async def _result(self, family: Family, telling: Telling, ended: str, done: Ended) -> list[Deed]:
        child = done.ledger
        deeds: list[Deed] = []
        if done.reason in (Reason.INTERRUPTED, Reason.TERMINATED):
            self.stopped = done.reason
        opened = sum(outcome in GOOD for _, _, outcome in child.outcomes())
        if opened:
            words = f"{ended}; opened {accounts(opened)}"
            deeds.append(Deed(run=family.run, what="opened", words=words, count=opened, child=child.run.run))
        left = Counter(omit.reason for omit in child.lacking())
        bad = sum(outcome not in GOOD for _, _, outcome in child.outcomes()) + left.pop(OmitReason.UNSEEN, 0)
        if bad or done.unrecorded is not None:
            go = done.way.command or f"acctops report {child.run.run}"
            words = f"{ended}; {accounts(bad)} could not be opened by undo {child.run.run}"
            raise _NotOpenedError(f"{words}{f' ({done.why})' if done.why else ''}; look: {go}")
        return [*deeds, *await self._stays(family, telling, ended, left)]

    async def _stays(self, family: Family, telling: Telling, ended: str, kept: Counter[str]) -> list[Deed]:
        """Tell once what a machine does not open, though nobody holds it any more."""
        left = {why: number for why, number in kept.items() if number and why in _FOR_A_PERSON}
        if kept.get("unread"):
            raise _NotOpenedError(f"{ended}; {accounts(kept['unread'])} cannot be read now, so they are not opened yet")
        if not left:
            return []
        named = ", ".join(f"{number:,} {_FOR_A_PERSON[why]}" for why, number in left.items())
        count = sum(left.values())
        return await self._tell(telling, family, "stays", f"{ended}; not opened: {named}", count, mark=named)

    def _cut_off(self, ledger: Ledger) -> str | None:
        """Return the run's last undo by limit, if its process died."""
        for link in reversed(ledger.links):
            if link.is_undo and self._store.has(link.run) and not self._store.is_live(link.run):
                child = self._store.replay(link.run).ledger
                return link.run if child.end is None and "--due" in child.run.asked else None
        return None

    def _telling(self, family: Family, ledger: Ledger) -> Telling:
        return Telling(self._terms, self._store, ledger, until=family.until or "", then=family.then)

    async def _failed(self, family: Family, ledger: Ledger, words: str) -> Deed:
        try:
            await self._telling(family, ledger).failure(words)
        except AcctopsError as error:
            words = f"{words}; {error}"
        return Deed(run=family.run, what="failed", words=words)


class _NotOpenedError(AcctopsError):
    """Why the accounts of a run were not opened, though its limit has passed."""

    reason = Reason.INCOMPLETE


_FOR_A_PERSON = {
    "edited": "edited since (undo --include-edited takes them)",
    "before_unknown": "of which nobody knows how they were before",
    "unproven": "of which nobody knows whether the run locked them",
    "gone": "not there any more",
    "not_rotated": "with the password they were locked with",
    "protected": "protected today",
}
"""Why a machine leaves an account as it is → in words, behind a number."""


def _then(family: Family) -> str:
    if family.then == TELL:
        return "then a person decides"
    what = "then they are unlocked, if nobody else holds them"
    return what if family.then == "unlock" else f"{what} and their password was changed"


def _limit(settings: records.RunSettings, lines: Sequence[records.AnyRecord]) -> tuple[str | None, str]:
    until, then = settings.hold_until, settings.hold_then
    for line in lines:
        if isinstance(line, records.HoldLine):
            until, then = line.until, line.then
    return until, then or TELL


_NOT_YET = "~"
"""Sorts behind every time."""


def _is_over(lines: Sequence[records.AnyRecord], until: str, then: str, *, after: str) -> bool:
    """Return whether nothing is left to do at this end of a hold, by what was noted since `after`.

    A rerun inherits the end of its run, even a past one: what it locks is to be looked at.
    """
    ends = {"over", "due"} if then == TELL else {"over"}
    told = (line.data for line in lines if isinstance(line, records.Note) and line.what == "told" and line.at > after)
    return any(data.get("until") == until and data.get("what") in ends for data in told)


def _keys(ledgers: Iterable[Ledger]) -> set[Key]:
    return {key_of(call) for ledger in ledgers for call in ledger.calls.values()}
