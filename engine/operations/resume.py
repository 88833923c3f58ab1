"""Resume goes on with a run in its own journal: accepted calls are read back, open calls are sent.

`resumption` checks the run and what holds for it today; `go_on` works on it under its claim.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from engine import __version__
from engine.cloud.clients import Reach, ask_whose, identity, is_as_before, is_known, refuse_strangers
from engine.errors import AcctopsError, Reason, RefusedError, UsageError
from engine.inputs.files import job_file, load_job
from engine.inputs.job import Glob, Job
from engine.journal import records
from engine.journal.ledger import Ledger
from engine.journal.protocols import RunRef
from engine.journal.reader import Replay
from engine.journal.records import FAILED, RED, unix_seconds
from engine.model import GOOD, LACKING, Call, CallId, Omit, OmitReason, Outcome, Target
from engine.operations.begin import claim
from engine.operations.carrying import Ended, carry_out
from engine.operations.events import News, Warned
from engine.operations.family import Kin, end_of_holds, held_now, kin_of, undone_of, way_of
from engine.operations.frozen import as_said, check_metrics, overridden, stop_after_of, stricter
from engine.operations.preparing import refuse_blind
from engine.operations.proposal import Approval
from engine.operations.reach import passwords_of, reach_of
from engine.operations.session import Session, nothing_stays
from engine.operations.stores import find, flags_of, older_copy, refuse_watch
from engine.operations.terms import Terms, operator
from engine.operations.today import (
    check_endpoint,
    check_gate_program,
    check_passwords,
    guards_of,
    has_new_share,
    refuse_beyond,
    refuse_strange_run,
)
from engine.operations.windows import hold, window_of
from engine.planning.plan import idle_rules, left_out
from engine.report.nextstep import later_words, way_on
from engine.report.spans import duration

if TYPE_CHECKING:
    from engine.inputs.passwords import PasswordSource
    from engine.inputs.settings import Settings
    from engine.journal.protocols import Journal
    from engine.operations.session import Conductor, Requests, Watch
    from engine.report.nextstep import WayOn

IDENTITY_S = 1.5
"""Seconds a resume waits to learn whose the keys are."""


class Finished(Struct, frozen=True, kw_only=True):
    """A run that has nothing left to do."""

    ref: RunRef
    found: Replay
    way: WayOn
    """What is open of the run's family, and what to do next."""
    reason: Reason
    """The reason of its end; if it has reruns, OK only if nothing of the family is open."""


class Resumption(Struct, frozen=True, kw_only=True):
    """A run that can be resumed, and what holds for it today."""

    terms: Terms
    ref: RunRef
    seen: Ledger
    guards: Settings
    settings: records.RunSettings
    reach: Reach
    passwords: PasswordSource | None
    exclude: tuple[Glob, ...]
    is_unapproved: bool
    """Whether a person says now why it goes on without the signatures that a config asks for."""
    job: Job | None
    """The job of the command, if the command is `run`."""
    changes: tuple[str, ...]
    """What has changed since the run began, in words: its job file, the operator, the owner of the keys, a pause, a
    red gate."""

    @property
    def open_calls(self) -> int:
        """How many calls are not settled."""
        return sum(not entry.settled for _, entry, _ in self.seen.outcomes())

    @property
    def question(self) -> str:
        """What is to be approved if something has changed."""
        what = f"About to go on with the {self.open_calls:,} open calls of its journal"
        return f"run {self.seen.run.run}: {'; '.join(self.changes)}. {what}"


async def resumption(terms: Terms, run: str, job: Job | None = None) -> Resumption | Finished:
    """Check a run that is to be resumed. All that can refuse that does so before its journal is touched.

    `job` is the job of the command, if the command is `run`: its guards and limits hold as well, as do the `terms`.
    """
    ref = find(terms, run)
    if ref.store is None:
        raise UsageError(f"{ref.place}: lies outside a state directory, so it can only be read; move it back to resume")
    replayed = ref.replay()
    seen = replayed.ledger
    refuse_watch(terms, ref, seen.run, "resume")
    if (older := older_copy(ref.store, ref.run_id, lines=replayed.seq, head=replayed.head)) is not None:
        terms.tell(Warned(older, always=True))
    terms = replace(terms, simulate=seen.run.simulated)
    kin = kin_of(ref.store, seen)
    _refuse_undone(terms, kin, ref)
    check_endpoint(terms, seen, job)
    if _is_finished(seen, kin):
        return _finished(terms, kin, ref)
    if terms.detach and not seen.shards:
        raise UsageError(
            f"--detach: run {ref.run_id} was not divided among workers when it began, so this command goes on with it "
            "by itself; leave the flag away"
        )
    hold(window_of(seen.settings), terms)
    guards = guards_of(terms, seen, job)
    refuse_strange_run(ref, guards.trust)
    check_passwords(ref, seen, guards.trust, job)
    check_gate_program(ref, seen, guards.trust, job)
    check_metrics(guards, simulated=seen.run.simulated)
    is_unapproved = await refuse_unsigned(terms, ref, seen, guards)
    exclude = terms.excludes()
    tell_of_idle(terms, exclude, seen)
    frozen = overridden(terms, seen.settings)
    settings = stricter(frozen if job is None else as_said(frozen, guards), guards)
    if settings.waves is not None:
        from engine.operations.gates import check_waves  # here: most runs have no waves

        check_waves(settings, simulated=seen.run.simulated)
    _refuse_beyond_approval(seen, settings)
    until, then = end_of_holds(ref.store, seen, guards.trust)
    tell_inherited(terms, ref, replace(settings, hold_until=until, hold_then=then))
    refuse_blind(seen.run.action, settings, max_share=guards.max_share if has_new_share(seen, guards) else None)
    reach = await reach_of(settings, guards, terms, purpose=ref.run_id)
    await ask_whose(reach, limit_s=IDENTITY_S)
    refuse_strangers(reach.keyring, seen.uins)
    await refuse_beyond(terms, seen, guards, reach, exclude, whole=job is not None)
    await _refuse_early(ref, seen, guards, reach, settings, terms)
    passwords = passwords_of(seen.settings, seen.run.action, guards.trust, tell=terms.tell)
    scarce = ref.store.check_room(sum(not entry.settled for _, entry, _ in seen.outcomes()))
    if scarce is not None:
        terms.tell(Warned(scarce, always=True))
    return Resumption(
        terms=terms,
        ref=ref,
        seen=seen,
        guards=guards,
        settings=settings,
        reach=reach,
        passwords=passwords,
        exclude=exclude,
        is_unapproved=is_unapproved,
        job=job,
        changes=tuple(_changes(seen, reach)),
    )


async def go_on(
    this: Resumption,
    approval: Approval | None = None,
    watch: Watch | None = None,
    *,
    lead: Callable[[Session], Conductor] | None = None,
    requests: Requests | None = None,
    is_wanted: Callable[[], None] = lambda: None,
) -> Ended:
    """Go on with a run to its end. RefusedError if something has changed and nobody has approved that.

    A run with shards is handed over to the workers; `lead` makes who leads it, in the worker that has taken it. Once
    nobody else can work on the run, and before anything is written, `is_wanted` may raise: that is passed on.
    """
    terms, ref, seen, guards, settings = this.terms, this.ref, this.seen, this.guards, this.settings
    assert ref.store is not None
    if this.changes and approval is None:
        raise RefusedError(f"{this.question}: nobody has approved of that; nothing was sent")
    if this.changes:  # its approval may have taken a while
        hold(window_of(seen.settings), terms)
        guards = guards_of(terms, seen, this.job)
        settings = stricter(settings, guards)
        await refuse_unsigned(terms, ref, seen, guards)
        refuse_blind(seen.run.action, settings, max_share=guards.max_share if has_new_share(seen, guards) else None)
    board = None
    if lead is None and seen.shards:
        from engine.operations.handing import check_shards  # here: most runs have no workers

        board = check_shards(seen, ref.store.board(), terms)
    calls, keep_admins = list(seen.calls.values()), settings.keep_admins
    with claim(ref.store, ref.run_id, seen.run.job, seen.run.action, calls, keep_admins=keep_admins) as rivals:
        is_wanted()
        journal, replayed = ref.store.open(ref.run_id, clock=terms.clock)
        ledger = replayed.ledger
        with closing(journal):
            kin = kin_of(ref.store, ledger)
            _refuse_undone(terms, kin, ref)
            journal.append(_session_line(replayed, settings), ledger.apply)
            if this.is_unapproved:
                said = records.Note(what="unapproved", data={"reason": terms.unapproved, "by": operator()})
                journal.append(said, ledger.apply)
            taken = _leave_to_later(kin, ledger, journal)
            undone = undone_of(ref.store, ledger.run, guards.trust, terms.clock)
            held = undone.held() if undone is not None else {}
            if undone is not None and held and not undone.is_by_limit:
                owed = undone.end_holds(undone.originals(held), (), terms.clock)
                if owed:
                    terms.tell(Warned(undone.owed_words(owed, flags_of(terms, ref)), always=True))
            no_send = taken | drop_guarded(ledger, journal, guards.protect, this.exclude, held)
            if lead is None and ledger.shards:
                await journal.durable()
            else:
                session = Session(
                    store=ref.store,
                    journal=journal,
                    ledger=ledger,
                    reach=this.reach,
                    passwords=this.passwords,
                    stop_after=stop_after_of(ledger.settings),
                    no_send=no_send,
                    elsewhere=_done_elsewhere(kin, ledger),
                    rivals=rivals,
                    stays=undone.still_so() if undone is not None else nothing_stays,
                    may_begin=_until_expired(ledger, guards, terms),
                    heads=replayed.heads,
                    lead=lead,
                    requests=requests,
                )
                return await carry_out(session, terms, guards, watch)
    from engine.operations.handing import hand_over, open_shards  # here: most runs have no workers

    assert board is not None
    again = open_shards(ledger)
    return await hand_over(board, ref.run_id, journal.durable_seq, terms, guards, watch, again=again)


async def _refuse_early(
    ref: RunRef, seen: Ledger, guards: Settings, reach: Reach, settings: records.RunSettings, terms: Terms
) -> None:
    """Refuse an undo by limit that was cut off, unless the limit has passed by both clocks: it may have been moved."""
    undone = undone_of(ref.store, seen.run, guards.trust, terms.clock)
    if undone is None or not undone.is_by_limit or seen.run.simulated:
        return
    from engine.operations.survey import survey  # here: few runs are undone by a limit

    one_each = {call.region: call for call, entry, _ in seen.outcomes() if not entry.settled}
    if one_each:
        read = await survey(
            list(one_each.values()), reach=reach, timeout_s=settings.timeout_s, world=None, limit_s=None, purpose="undo"
        )
        undone.on_time(undone.owing(), read.ahead_s)


def _refuse_beyond_approval(seen: Ledger, settings: records.RunSettings) -> None:
    """Raise UsageError for a faster pace, or less proof, than what was signed with the plan of the run."""
    if not seen.approved:
        return
    signed = seen.run.settings
    if settings.rate > signed.rate:
        raise UsageError(f"--rate {settings.rate:g}: its plan was approved for {signed.rate:g} a second; a faster one "
                         "is a new plan")  # fmt: skip
    if _lanes(settings.profile) > _lanes(signed.profile):
        raise UsageError("--profile: its plan was approved for fewer keys at a time, each with a rate; name fewer")
    if signed.verify and not settings.verify:
        raise UsageError("--no-verify: its plan was approved with readings; leave the flag away")


def _lanes(profile: str | tuple[str, ...] | None) -> int:
    return len(profile) if isinstance(profile, tuple) else 1


async def refuse_unsigned(terms: Terms, ref: RunRef, ledger: Ledger, guards: Settings) -> bool:
    """Refuse a run without the signatures that a config asks for; return whether it goes on without, for a reason."""
    if guards.approvals is None and terms.unapproved is None:
        return False
    from engine.operations.permits import refuse_unapproved_run, under_parent  # here: most operators ask for none

    undone = undone_of(ref.store, ledger.run, guards.trust, terms.clock)
    return await asyncio.to_thread(
        refuse_unapproved_run,
        ref,
        ledger,
        guards.approvals,
        now=terms.clock(),
        unapproved=terms.unapproved,
        way=f"acctops rerun {ref.run_id}{flags_of(terms, ref)}",
        tell=terms.tell,
        under=under_parent(undone, ledger.run.action, ledger.calls.values(), now=terms.clock()),
    )


def _until_expired(ledger: Ledger, guards: Settings, terms: Terms) -> Callable[[], None]:
    """Return what is asked before the first call of the run is sent: whether its approval still counts."""
    rules = guards.approvals
    if rules is None or not ledger.approved or ledger.run.simulated:
        return lambda: None
    from engine.operations.permits import calls_of, refuse_expired

    if not rules.asks(ledger.run.action, calls_of(ledger)):
        return lambda: None
    from engine.planning.approvals import Signed

    signed = tuple(Signed(each.statement, each.signature) for each in ledger.approved)
    return partial(refuse_expired, signed, rules.keys, terms.clock)


def tell_of_idle(terms: Terms, exclude: Sequence[Glob], ledger: Ledger) -> None:
    """Tell which `--exclude` matches no call of the run: a misspelled one does not leave out what it should."""
    calls = list(ledger.calls.values())
    for glob in idle_rules(exclude, calls):
        what = f"{glob.place}: {glob.pattern} matches none of the {len(calls):,} calls of the run; a slip?"
        terms.tell(Warned(what))


def tell_inherited(terms: Terms, ref: RunRef, settings: records.RunSettings) -> None:
    """Tell which limits hold because the run had them, and which flag changes them; warn if its hold is over."""
    said = []
    if settings.session_deadline_s is None and settings.deadline_s is not None:
        said.append(f"deadline {duration(settings.deadline_s)} (--deadline D)")
    if settings.stop_after is not None:
        said.append(f"stop_after {settings.stop_after}")
    if not settings.verify and not terms.no_verify:
        said.append("accounts are not read back")
    if settings.hold_until is not None or settings.watch is not None:
        from engine.report.afterwards import lines_of  # here: most runs have none

        said += lines_of(settings)
    if said:
        terms.tell(News(f"as run {ref.run_id} was told: {', '.join(said)}"))
    tell_of_past(terms, ref, settings.hold_until)


def tell_of_past(terms: Terms, ref: RunRef, until: str | None) -> None:
    """Warn if the holds of a run ended at `until`: what is changed now is due at once."""
    if until is not None and unix_seconds(until) <= terms.clock():
        longer = f"acctops hold {ref.run_id} --for 4h{flags_of(terms, ref)}"
        what = f"the hold of run {ref.run_id} has ended, and what is changed now is due at once; first: {longer}"
        terms.tell(Warned(what, always=True))


def _session_line(replayed: Replay, settings: records.RunSettings) -> records.Session:
    return records.Session(
        verb="resume",
        pid=os.getpid(),
        host=os.uname().nodename,
        operator=operator(),
        version=__version__,
        cut_bytes=replayed.torn_bytes,
        settings=settings if settings != replayed.ledger.settings else None,
        clock_offset_s=0.0,
    )


def _is_finished(ledger: Ledger, kin: Kin) -> bool:
    """Whether nothing is left for this run: it has an `end`, and every call is settled or a later rerun has it."""
    later = _in_later_hands(kin, ledger)
    return (
        ledger.end is not None
        and (ledger.wave is None or _is_spent(ledger))
        and all(
            entry.settled or (call.id in later and not _reads(ledger, call.id, later[call.id][1]))
            for call, entry, _ in ledger.outcomes()
        )
    )


def _is_spent(ledger: Ledger) -> bool:
    """Whether the last wave has ended with failed calls: a rerun repeats them, and nothing waits for them."""
    wave = ledger.wave
    return wave is not None and wave.state == FAILED and wave.n == max(ledger.waves)


def _in_later_hands(kin: Kin, ledger: Ledger) -> dict[CallId, tuple[str, Outcome]]:
    """Return the open calls that a later rerun has: call → (rerun, its outcome). Only that rerun goes on with them."""
    later = later_words(kin.ledgers, ledger.run.run)
    return {call: word for call, word in later.items() if not ledger.entry(call).settled}


def _done_elsewhere(kin: Kin, ledger: Ledger) -> frozenset[CallId]:
    """Return the failed calls of a run that a later rerun brought to the desired state."""
    later = later_words(kin.ledgers, ledger.run.run)
    return frozenset(
        call for call, (_, outcome) in later.items() if outcome in GOOD and ledger.entry(call).outcome is Outcome.FAILED
    )


def _reads(ledger: Ledger, call: CallId, later: Outcome) -> bool:
    """Whether a run still reads a call that a later run has: its own attempt may have been applied, and the later run
    did not change the account. Without the reading, no run would own the change, and no undo would take it back.
    """
    return ledger.entry(call).needs_reading and later is not Outcome.CHANGED


def _leave_to_later(kin: Kin, ledger: Ledger, journal: Journal) -> frozenset[CallId]:
    """Leave open calls to the later reruns that have them: omit what is as asked there; return the rest, not sent."""
    unsent: set[CallId] = set()
    for call_id, (later, outcome) in _in_later_hands(kin, ledger).items():
        if outcome not in GOOD or _reads(ledger, call_id, outcome):
            unsent.add(call_id)
        else:
            line = records.omit_line(
                ledger.calls[call_id], str(OmitReason.RERUN), "as asked since a later rerun", later, call_id
            )
            journal.append(line, ledger.apply)
    return frozenset(unsent)


def _finished(terms: Terms, kin: Kin, ref: RunRef) -> Finished:
    """Return the end of a run that has nothing left to do; with reruns it is good only if the family is."""
    assert ref.store is not None
    found = ref.replay()
    assert found.ledger.end is not None
    way = way_on(kin.ledgers, ref.run_id, undone=kin.undone, flags=terms.repeat(ref.store))
    way = replace(way, held=held_now(ref.store, found.ledger, terms.settings(None).trust, terms.clock))
    reason = Reason(found.ledger.end.exit)
    if len(kin.ledgers) > 1:
        reason = Reason.INCOMPLETE if way.open_calls else Reason.OK
    return Finished(ref=ref, found=found, way=way, reason=reason)


def _refuse_undone(terms: Terms, kin: Kin, ref: RunRef) -> None:
    """Raise RefusedError for a run that was undone: a resume must not do again what was taken back."""
    assert ref.store is not None
    undo = kin.undone.get(ref.run_id)
    if undo is None:
        return
    flags = terms.repeat(ref.store)
    ways = [way_of(ref.store, ref.store.replay(undo).ledger, flags=flags).command]
    way = way_on(kin.ledgers, ref.run_id, undone=kin.undone, flags=flags)
    ways += [step.command(flags) for step in way.choices if step.words[1] == ref.run_id]
    lines = "; or, ".join(command for command in ways if command is not None)
    raise RefusedError(
        f"run {ref.run_id} was undone by {undo}, so it cannot be resumed; "
        + (f"go on with: {lines}" if lines else f"nothing is left of it: acctops report {ref.run_id}{flags}")
    )


def _changes(ledger: Ledger, reach: Reach) -> list[str]:
    """Return in words which of job file, operator and identity are not those of the run."""
    run = ledger.run
    changes = []
    if (red := next((line for line in ledger.waves.values() if line.n and line.state == RED), None)) is not None:
        changes.append(f"its gate called wave {red.n} red at {red.at[:19]}Z; it is asked again before anything is sent")
    if ledger.pause is not None:
        changes.append(f"it was paused by {ledger.pause.by} at {ledger.pause.since[:19]}Z, and nobody lifted that")
    job_path = job_file(run.job.path)
    if job_path is not None:
        try:
            job = load_job(job_path, skip_bad_rows=True)
        except AcctopsError:
            changes.append(f"{job_path} can no longer be read as a job")
        else:
            if job.digest != run.job.digest:
                changes.append(_job_change(job, ledger))
    if run.operator != operator():
        changes.append(f"it was begun by {run.operator}")
    now = identity(reach.keyring)
    as_before = is_as_before(reach.keyring, run.identity, ledger.sources(), ledger.acted_on() or reach.keyring)
    if not as_before and not is_known(reach.keyring, ledger.uins):
        changes.append(f"it was begun with the keys of {run.identity}, these are of {now}")
    return changes


def _job_change(job: Job, ledger: Ledger) -> str:
    if job.matches or ledger.run.match:
        return f"{job.path} has changed since; a match is never asked again, the journal's list is what is sent"
    now = {(target.account, target.region, target.instance, target.user) for target in job.targets}
    then = {(call.account, call.region, call.instance, call.user) for call in ledger.calls.values()}
    there = [omit for omit in ledger.omits if omit.reason not in LACKING]
    then |= {(omit.account, omit.region, omit.instance, omit.user) for omit in there}
    added, gone = len(now - then), len(then - now)
    return f"{job.path} has changed since (+{added:,} −{gone:,} targets); the journal's list is what is sent"


def drop_guarded(
    ledger: Ledger,
    journal: Journal,
    protect: tuple[Glob, ...],
    exclude: tuple[Glob, ...],
    held: Mapping[CallId, Omit],
    *,
    wait: bool = True,
) -> frozenset[CallId]:
    """Apply today's guards to open calls: omit those never sent; return those that were sent, to be only read.

    With `wait` all lines of the journal are durable then; without it whoever calls waits for that himself.
    """
    no_send: set[CallId] = set()
    for call in list(ledger.calls.values()):
        entry = ledger.entry(call.id)
        if entry.settled:
            continue
        omit = left_out(_target(call), protect=protect, exclude=exclude) or held.get(call.id)
        if omit is None:
            continue
        if entry.spent or entry.needs_reading:
            no_send.add(call.id)
        else:
            journal.append(
                records.omit_line(omit.target, str(omit.reason), omit.rule, omit.where, call.id), ledger.apply
            )
    if wait:
        journal.flush()
    return frozenset(no_send)


def _target(call: Call) -> Target:
    return Target(call.instance, call.user, call.region, call.account)
