"""Use case: read again the accounts of runs that ask to be watched, and tell what came back. It changes nothing.

The watch of a run is a run of its own with a journal of its own, in which each reading stands. Accounts are read first
and then written down, with the `end` of the reading last: one that a crash cuts off is due still. What was told stands
beside the journal of the watched run, by lines of the watch's journal: so nothing is told twice, and nothing is lost.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from msgspec import Struct

from engine import __version__
from engine.api.actions import ACTIONS
from engine.cloud.clients import check_identity, identity
from engine.cloud.inventory import read_line
from engine.errors import AcctopsError, BusyError, Reason
from engine.journal import records
from engine.journal.ledger import Link
from engine.journal.records import unix_seconds
from engine.journal.watched import Word, began_at
from engine.model import GOOD
from engine.operations.deeds import Deed
from engine.operations.frozen import overridden
from engine.operations.holding import gather
from engine.operations.reach import reach_of
from engine.operations.sealing import list_end
from engine.operations.survey import survey
from engine.operations.tellings import Telling
from engine.operations.terms import operator
from engine.operations.today import check_endpoint
from engine.operations.undo import accounts
from engine.operations.watched import watch_of, watched_calls
from engine.planning.holds import key_of
from engine.planning.outlook import is_no_instance
from engine.planning.plan import plan_digest
from engine.planning.watches import TWICE, Look, Schedule, Told, is_due, looks, schedule_of, to_tell, without

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.cloud.clients import Reach
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Journal, RunHead, Runs
    from engine.journal.watched import Watched
    from engine.model import Call, CallId, RunId
    from engine.operations.survey import Survey
    from engine.operations.terms import Terms
    from engine.outside.trust import Trust

READ_S = 300.0
"""Seconds that the readings of one run may take; what is not read by then is unread."""
NAMED = 300
"""Most accounts that a notice names."""
_SHOWN = 10
"""Most accounts that a line names."""


class _Due(Struct, frozen=True, kw_only=True):
    """A run for whose watch there is something to do."""

    run_id: str
    watch: RunHead | None
    """The watch; None before its first reading."""
    is_due: bool
    """Whether its accounts are to be read; else only what was not delivered is told."""


class Watches:
    """One pass over the watched runs of a state directory."""

    def __init__(self, terms: Terms, store: Runs, trust: Trust) -> None:
        """`terms` ask nobody, and tell nobody."""
        self._terms = terms
        self._store = store
        self._trust = trust

    async def tend(self) -> list[Deed]:
        """Read what is due, and tell of it: each run on its own, so that one that fails stops no other."""
        deeds: list[Deed] = []
        for each in list(self._due(deeds)):
            try:
                deeds += await self._one(each)
            except BusyError as error:
                deeds.append(Deed(run=each.run_id, what="waits", words=str(error)))
            except AcctopsError as error:
                deeds.append(await self._failed(each, str(error)))
            except Exception as error:  # noqa: BLE001 - a defect at one run must not leave the others unwatched
                words = f"a defect of acctops: {type(error).__name__}: {error}"
                deeds.append(await self._failed(each, words))
        return deeds

    # ---- which runs --------------------------------------------------------------------------------------------------

    def _due(self, deeds: list[Deed]) -> Iterator[_Due]:
        """Yield the runs for whose watch there is something to do; those of which that cannot be known are `deeds`."""
        now = self._terms.clock()
        for head in self._store.heads():
            schedule = _schedule_of(head)
            if schedule is None or head.end is None:
                continue
            try:
                watch = self._watch_of(head)
                if watch is not None and watch.problem is not None:
                    deeds.append(Deed(run=head.run_id, what="failed", words=f"its watch: {watch.problem}"))
                    continue
                end = watch.end if watch is not None else None
                due = is_due(schedule, head.ended_at, began_at(end) if end is not None else None, now)
                if not due and (end is None or end.exit == Reason.OK):
                    continue
                for run in (head.run_id, *([watch.run_id] if watch is not None else [])):
                    if (doubt := self._store.doubt(run, self._trust)) is not None:
                        raise _UnreadError(f"run {run} is not believed, as {doubt}; its accounts are not read again")
            except AcctopsError as error:
                deeds.append(Deed(run=head.run_id, what="failed", words=str(error)))
            else:
                yield _Due(run_id=head.run_id, watch=watch, is_due=due)

    def _watch_of(self, head: RunHead) -> RunHead | None:
        if not self._store.has_aside(head.run_id):
            return None
        notes = (line for line in self._store.aside(head.run_id) if isinstance(line, records.Note))
        links = [Link(str(note.data.get("run")), note.what) for note in notes if note.what in records.LINKS]
        watch = watch_of(self._store, links)
        return self._store.head(watch) if watch is not None else None

    # ---- one run -----------------------------------------------------------------------------------------------------

    async def _one(self, due: _Due) -> list[Deed]:
        ledger = self._store.replay(due.run_id).ledger
        telling, watch = self._telling(ledger), due.watch
        if not due.is_due:
            assert watch is not None
            return await self._told(ledger, self._store.replay(watch.run_id).ledger, telling, is_fresh=False)
        since = _last_read(watch)
        if (put_off := telling.put_off(since)) is not None:
            return [Deed(run=due.run_id, what="failed", words=put_off)]
        calls, began = watched_calls(ledger), self._terms.clock()
        reach, read = await self._read(ledger, calls)
        found = self._compared(ledger, calls, read)
        watching = self._write(ledger, watch, reach, read, found, began)
        deeds = [_read_deed(ledger, found, watching.run.run)]
        if (failed := _failures(ledger, calls, read, found)) is not None:
            deeds.append(failed)
        return [*deeds, *await self._told(ledger, watching, telling, is_fresh=True)]

    async def _read(self, ledger: Ledger, calls: Sequence[Call]) -> tuple[Reach, Survey]:
        """Read the accounts of a run; AcctopsError if none can be read."""
        terms = self._terms
        check_endpoint(terms, ledger)
        frozen = overridden(terms, ledger.settings)
        reach = await reach_of(frozen, terms.settings(None), terms, purpose=ledger.run.run)
        check_identity(reach.keyring, ledger)
        read = await survey(
            calls, reach=reach, timeout_s=frozen.timeout_s, world=None, limit_s=READ_S, purpose=records.WATCH
        )
        check_identity(reach.keyring, ledger, is_asked=True)
        readings = read.readings.values()
        if not any(reading.accounts is not None or is_no_instance(reading) for reading in readings):
            codes = ", ".join(sorted({str(reading.code) for reading in readings})) or "no answer in time"
            raise _UnreadError(f"none of {accounts(len(calls))} could be read again: {codes}")
        return reach, read

    def _compared(self, ledger: Ledger, calls: Sequence[Call], read: Survey) -> dict[CallId, Look]:
        """Return what the readings say, with what we did ourselves; by the journals as they are after the readings."""
        found = looks(calls, read.readings)
        doubtful = {call.id: key_of(call) for call in calls if found[call.id].word is not Word.AS_LEFT}
        if not doubtful:
            return found
        run = ledger.run
        holds = gather(self._store, run.action, self._trust, set(doubtful.values())).holds
        family = holds.family_of(run.run)
        ours = {
            call
            for call, key in doubtful.items()
            if (family is not None and not family.holds(key)) or holds.is_opened(key)
        }
        return without(found, ours)

    # ---- its journal -------------------------------------------------------------------------------------------------

    def _write(
        self,
        ledger: Ledger,
        watch: RunHead | None,
        reach: Reach,
        read: Survey,
        found: Mapping[CallId, Look],
        began: float,
    ) -> Ledger:
        """Write a reading into the journal of the watch, durably; return what that journal says now."""
        calls = watched_calls(ledger)
        if watch is None:
            run_id, journal = self._create(ledger, calls, reach)
        else:
            run_id = watch.run_id
            journal, replayed = self._store.open(run_id, clock=self._terms.clock)
            journal.append(_session_line(replayed.torn_bytes, read.offset_s))
        with closing(journal):
            known = self._store.replay(run_id).ledger
            said = _watched(known)
            for call in calls:
                if call.id not in known.calls:  # a resume of the run has done more since
                    journal.append(records.call_line(call))
            for where, reading in read.readings.items():
                journal.append(read_line(where, records.WATCH, reading))
            for call_id, look in found.items():
                if look.word is not said.said(call_id).word:
                    journal.append(_verified_line(call_id, look))
            end = _end_line(found, max(0.0, self._terms.clock() - began))
            journal.append(end)
            journal.flush()
            with suppress(AcctopsError):  # then the pass that goes on lists it, late, or says why it cannot
                list_end(
                    self._store,
                    run_id,
                    head=journal.durable_head,
                    lines=journal.durable_seq,
                    exit_code=end.exit,
                    spec=self._terms.settings(None).seal,
                    clock=self._terms.clock,
                )
        return self._store.replay(run_id).ledger

    def _create(self, ledger: Ledger, calls: Sequence[Call], reach: Reach) -> tuple[RunId, Journal]:
        """Create the watch of a run. The run is told first: a link to a watch that never existed means nothing."""
        import random  # here: most passes create none

        run, clock = ledger.run, self._terms.clock
        run_id = self._store.new_run_id(clock(), random.Random())
        note = records.Note(what="watched_by", data={"run": run_id, "verb": records.WATCH})
        self._store.add_aside(run.run, [note], clock=clock)
        first = records.Run(
            job=run.job,
            action=run.action,
            reason=run.reason,
            ticket=run.ticket,
            operator=operator(),
            host=os.uname().nodename,
            pid=os.getpid(),
            version=__version__,
            identity=identity(reach.keyring),
            simulated=run.simulated,
            parent=records.Parent(run.run, records.WATCH, self._store.replay(run.run).head),
            settings=run.settings,
            plan_digest=plan_digest(calls),
            counts={"calls": len(calls)},
            guarded_by=run.guarded_by,
        )
        return run_id, self._store.create(run_id, [first, *map(records.call_line, calls)], clock=clock)

    # ---- telling -----------------------------------------------------------------------------------------------------

    async def _told(self, ledger: Ledger, watching: Ledger, telling: Telling, *, is_fresh: bool) -> list[Deed]:
        """Tell what is to be told; what could not be delivered is a failure of the telling, not of the reading."""
        deeds: list[Deed] = []
        try:
            await self._tell(deeds, ledger, watching, telling, is_fresh=is_fresh)
        except AcctopsError as error:
            deeds.append(Deed(run=ledger.run.run, what="failed", words=str(error), child=watching.run.run))
        return deeds

    async def _tell(
        self, deeds: list[Deed], ledger: Ledger, watching: Ledger, telling: Telling, *, is_fresh: bool
    ) -> None:
        """Tell what came back, and what could not be read twice in a row, as far as that is still to be told.

        `is_fresh`: whether the accounts were read just now; else only what was not delivered is told.
        """
        said, action = _watched(watching), ACTIONS[ledger.run.action]
        calls = {call.id: call for call in watched_calls(ledger) if call.id in watching.calls}
        back = {call: said.said(call).back_seq for call in calls if said.said(call).back_seq}
        unread = {
            call: said.said(call).seq
            for call in calls
            if said.said(call).word is Word.UNREAD and said.times(call) >= TWICE
        }
        for what, changed, words in (
            ("watch_back", back, f"no longer {action.done_word}, and no run here opened them"),
            ("watch_unread", unread, "not read twice in a row: gone, or unreadable"),
        ):
            told = _told(telling, what, watching.run.run)
            now, above = to_tell(changed, told, self._terms.clock(), is_fresh=is_fresh)
            if not now:
                continue
            labels = [calls[call].label for call in now]
            text = f"{accounts(len(labels))} {words}: {_named(labels)}"
            if lasting := len(changed) - len(now):
                text += f"; {accounts(lasting)} more since before"
            await telling.deliver(what, text, len(labels), labels[:NAMED])
            upto = max(*changed.values(), *(each.upto for each in told), 0)
            telling.note(what, watch=watching.run.run, above=above, upto=upto, accounts=len(labels))
            deeds.append(Deed(run=ledger.run.run, what="told", words=text, count=len(labels), child=watching.run.run))

    def _telling(self, ledger: Ledger) -> Telling:
        return Telling(self._terms, self._store, ledger, until="", then="", verb="verify")

    async def _failed(self, due: _Due, words: str) -> Deed:
        """Note a failure; those whom the job names are told of it the second time in a row, and once a day."""
        try:
            telling = self._telling(self._store.replay(due.run_id).ledger)
            await telling.failure(words, event="watch_unread", first=TWICE, since=_last_read(due.watch))
        except AcctopsError as error:
            words = f"{words}; {error}"
        return Deed(run=due.run_id, what="failed", words=words)


class _UnreadError(AcctopsError):
    """Why the accounts of a run were not read again."""

    reason = Reason.INCOMPLETE


def _schedule_of(head: RunHead) -> Schedule | None:
    """Return when the accounts of a run are read again; None for a run that is not watched, or not yet."""
    run = head.run
    if run is None or head.live or head.end is None or run.settings.watch is None:
        return None
    if run.parent is not None and run.parent.verb == "undo":
        return None
    if ACTIONS[run.action].is_desired is None or not any(head.end.counts.get(kind) for kind in GOOD):
        return None
    return schedule_of(run.settings.watch)


def _last_read(watch: RunHead | None) -> str:
    """Return when the last reading ended, in UTC; empty if there is none."""
    return watch.end.at if watch is not None and watch.end is not None else ""


def _watched(watching: Ledger) -> Watched:
    if watching.watched is None:
        raise _UnreadError(f"run {watching.run.run} is no watch, though a link says so; look at it")
    return watching.watched


def _told(telling: Telling, what: str, watch: str) -> list[Told]:
    found = [note for note in telling.told(what) if note.data.get("watch") == watch]
    return [
        Told(at=unix_seconds(note.at), above=_line(note.data.get("above")), upto=_line(note.data.get("upto")))
        for note in found
    ]


def _line(value: object) -> int:
    return value if isinstance(value, int) else 0


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _SHOWN:,} more" if len(labels) > _SHOWN else ""
    return ", ".join(labels[:_SHOWN]) + more


def _read_deed(ledger: Ledger, found: Mapping[CallId, Look], watch: str) -> Deed:
    counts = {word: sum(look.word is word for look in found.values()) for word in Word}
    done_word = ACTIONS[ledger.run.action].done_word
    words = f"{counts[Word.AS_LEFT]:,} of {accounts(len(found))} still {done_word}"
    others = ((Word.OPENED, "opened by us since"), (Word.BACK, "back"), (Word.UNREAD, "unread"))
    words += "".join(f", {counts[word]:,} {text}" for word, text in others if counts[word])
    return Deed(run=ledger.run.run, what="read", words=words, count=len(found), child=watch)


def _failures(ledger: Ledger, calls: Sequence[Call], read: Survey, found: Mapping[CallId, Look]) -> Deed | None:
    """Return that accounts could not be read, though nothing says that they are gone; None if all could be."""
    lost = [call for call in calls if found[call.id].word is Word.UNREAD and not found[call.id].is_gone]
    if not lost:
        return None
    codes = set()
    for call in lost:
        reading = read.readings.get(call.where)
        if reading is None or reading.accounts is None:
            codes.add(reading.code or "no answer" if reading is not None else "no answer in time")
        else:
            codes.add("shown only in part, or as being changed")
    words = f"{accounts(len(lost))} could not be read again ({', '.join(sorted(codes))}): "
    return Deed(run=ledger.run.run, what="failed", words=words + _named([call.label for call in lost]), count=len(lost))


def _session_line(cut_bytes: int, offset_s: float) -> records.Session:
    return records.Session(
        verb=records.WATCH,
        pid=os.getpid(),
        host=os.uname().nodename,
        operator=operator(),
        version=__version__,
        cut_bytes=cut_bytes,
        settings=None,
        clock_offset_s=offset_s,
    )


def _verified_line(call: CallId, look: Look) -> records.Verified:
    """Return the line for a changed word; an account that cannot be read has no status."""
    state = look.state if look.word is not Word.UNREAD else None
    return records.Verified(
        call=call,
        status=state.status if state is not None else None,
        cam=state.cam if state is not None else None,
        update_time=(state.update_time or None) if state is not None else None,
        agrees=look.word in (Word.AS_LEFT, Word.OPENED),
    )


def _end_line(found: Mapping[CallId, Look], seconds: float) -> records.End:
    counts = {word: sum(look.word is word for look in found.values()) for word in Word}
    is_good = not counts[Word.BACK] and not counts[Word.UNREAD]
    return records.End(
        counts={
            "changed": 0,
            "already": counts[Word.AS_LEFT] + counts[Word.OPENED],
            "failed": counts[Word.BACK],
            "unknown": counts[Word.UNREAD],
            "unattempted": 0,
        },
        attempts=0,
        throttled=0,
        worst_second={},
        seconds=seconds,
        exit=int(Reason.OK if is_good else Reason.INCOMPLETE),
        stopped=None,
    )
