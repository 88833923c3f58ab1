"""A run that begins, of a job or of targets by hand; and what ends every one that sends: one `Session`."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from engine import __version__
from engine.api.actions import ACTIONS
from engine.cli.ask import can_ask, confirm
from engine.cli.attending import Unbegun
from engine.cli.hours import hold, time_left, window_of
from engine.cli.leaving import note_run
from engine.cli.options import Options, check_metrics, operator, run_settings, trusted_store
from engine.cli.plans import plan_of, summary
from engine.cli.reading import read_plan
from engine.cli.sources import passwords_of, reach_of
from engine.cli.talk import out, out_json, remark, say, tell, tell_remarks, teller, warn
from engine.cloud.clients import Reach, identity, refuse_strangers
from engine.errors import AcctopsError, Exit, NothingLeftError, RefusedError, UsageError
from engine.inputs.files import from_recorded, job_file, recorded
from engine.inputs.job import Glob, Job, StopAfter
from engine.inputs.jobfile.parse import ad_hoc_job
from engine.inputs.passwords import PasswordSource
from engine.journal import records
from engine.journal.ledger import Ledger
from engine.journal.live import Claim, claimed
from engine.journal.reader import replay
from engine.journal.store import RunRef, RunStore
from engine.model import STAYS, Call, CallId, Omit, Reading, Rival, RunId, Target, call_id
from engine.operations.earlier import Take, job_place, reads_stdin, take_of
from engine.operations.preparing import prepare, refuse_blind, refuse_unread
from engine.outside.foreign import pasted
from engine.planning.plan import Plan
from engine.report.text import document, text

if TYPE_CHECKING:
    from engine.inputs.settings import Settings
    from engine.journal.writer import Journal
    from engine.operations.discovering import Discovered
    from engine.operations.family import Undone
    from engine.operations.session import Ended
    from engine.operations.survey import Survey
    from engine.report.nextstep import WayOn
    from engine.simulator.faults import FaultRule
    from engine.simulator.world import World

_PROCESS_START = time.time() - time.process_time()
"""About when this process began: its CPU time is what it has done since."""
LATE_S = 5.0
"""A question that was answered later than this was asked of a world that may have changed: it is looked at again."""
_NOTHING = "nothing to do: no account is left to act on, and the job allows that; nothing was sent"


# ---- run, lock, unlock, cam-on -------------------------------------------------------------------------------------


def run_ad_hoc(action: str, targets: tuple[str, ...], region: str, **flags: Any) -> int:
    """`lock`, `unlock`, `cam-on`. Any: the flags, by name."""
    options = Options(**flags)
    job = ad_hoc_job(action, targets, region, reason=options.reason, ticket=options.ticket)
    with Unbegun(options, job.path, job):
        return run_loaded(job, options)


def run_loaded(job: Job, options: Options) -> int:
    """A new run of a job; returns the exit code."""
    faults = faults_of(options)
    world = fleet_of(options, job, faults)
    settings = options.settings(job)
    for warning in (*settings.warnings, *job.warnings):
        remark(f"warning: {warning}", quiet=options.quiet)
    for odd in job.remarks:
        remark(f"remark: {odd}", quiet=options.quiet)
    discovered = _discovered(job, settings, options, world) if job.matches else None
    asked: Sequence[records.Matched] = ()
    if discovered is not None:
        job, asked = discovered.job, discovered.lines()
    plan = plan_of(job, settings, options)
    if not options.quiet:
        say(summary(job, settings, plan, asked, simulated=options.simulate))
    is_fine = discovered is not None and discovered.is_fine_without_calls
    may_be_empty = is_fine and not plan.calls and not plan.lacking
    if may_be_empty and not options.yes:
        return _nothing_to_do(options)
    if may_be_empty:
        remark(_NOTHING, quiet=options.quiet)
    else:
        refuse_empty(plan)
    regions = {call.region for call in plan.calls}
    return NewRun(
        options=options,
        settings=settings,
        frozen=run_settings(settings, job, job.action, regions),
        plan=plan,
        job=records.JobRef(job.name, job_place(job), job.digest),
        reason=job.reason,
        ticket=job.ticket,
        simulated=options.simulate,
        stop_after=settings.stop_after_for(job.action),
        stdin_is_list=reads_stdin(job),
        faults=faults,
        listed_order=job.listed_order,
        take=take_of(job, settings, simulated=options.simulate, now=options.clock(), tell=tell),
        guarded_by=_guard_home(job),
        asked=options.asked(),
        exclude=(*job.exclude, *options.excludes()),
        known=discovered.found if discovered is not None else None,
        matched=tuple(asked),
        world=world,
        may_be_empty=may_be_empty,
        guards=partial(options.settings, job),
    ).start()


def _discovered(job: Job, settings: Settings, options: Options, world: World | None) -> Discovered:
    """The job with its matches answered."""
    from engine.cli.loops import run_loop
    from engine.operations.discovering import discover, match_regions, refuse_unlimited  # late: most jobs have no match

    if options.yes:
        refuse_unlimited(job, settings)
    frozen = run_settings(settings, job, job.action, match_regions(job))
    reach = reach_of(frozen, settings, simulated=options.simulate, purpose="match")
    return run_loop(discover(job, settings, reach=reach, world=world, tell=teller(quiet=options.quiet)))


def _nothing_to_do(options: Options) -> int:
    if not options.quiet:
        say(_NOTHING)
    if options.as_json:
        out_json({"run": None, "parent": None, "why": _NOTHING, "exit": int(Exit.OK)})
    return Exit.OK


def _guard_home(job: Job) -> str:
    """Where the guards of this job stand: its file, or without one the directory the command was typed in."""
    return recorded(str(Path(job.path).absolute() if job.is_file else Path.cwd()))


def faults_of(options: Options) -> tuple[FaultRule, ...]:
    """The script a simulated run meets, read before anybody is asked anything."""
    if options.faults is None:
        return ()
    if not options.simulate:
        raise UsageError("--faults goes with --simulate; a server takes it as `acctops simulate --faults FILE`")
    from engine.cli.simulating import read_faults

    return read_faults(options.faults)


def fleet_of(options: Options, job: Job, faults: tuple[FaultRule, ...]) -> World | None:
    """The world of `--fleet`, in which only its instances exist; None without one."""
    if options.fleet is None:
        if options.simulate and job.matches:
            raise UsageError(
                f"{job.matches[0].place}: a match needs a world to look in: --fleet FILE, or --fleet random:400x8"
            )
        return None
    if not options.simulate:
        raise UsageError("--fleet goes with --simulate; a server takes it as `acctops simulate --fleet FILE`")
    from engine.cli.simulating import fleet_world
    from engine.operations.simulated import simulated_keys

    return fleet_world(options.fleet, faults, simulated_keys([account.name for account in job.accounts]))


def refuse_empty(plan: Plan) -> None:
    """RefusedError for a plan without calls."""
    if plan.calls:
        return
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in plan.left_out().items() if count)
    raise RefusedError(f"nothing to do: every target is left out ({reasons or 'none given'}); nothing was sent")


class NewRun(Struct, frozen=True, kw_only=True):
    """A run that does not exist yet: asked for, created, carried out."""

    options: Options
    settings: Settings
    frozen: records.RunSettings
    plan: Plan
    job: records.JobRef
    reason: str | None
    ticket: str | None
    simulated: bool
    stop_after: StopAfter | None
    guarded_by: str
    """`records.Run.guarded_by`."""
    asked: tuple[str, ...] = ()
    """`records.Run.asked`."""
    stdin_is_list: bool = False
    parent: RunRef | None = None
    verb: str = "rerun"
    """How it is linked to its parent."""
    uins: Mapping[str, str] = field(default_factory=dict)
    """Account → the cloud accounts it acted as so far, as far as that is known: another is refused."""
    faults: tuple[FaultRule, ...] = ()
    exclude: tuple[Glob, ...] = ()
    """What was left out of the plan on purpose: a rule that matches no target is said."""
    listed_order: bool = False
    take: Take | None = None
    """How much of the plan it takes; None: all."""
    found: Survey | None = None
    """Readings made already, by whoever made the plan: it is ready to be sent."""
    world: World | None = None
    """The simulated world those readings were made in, or that of `--fleet`."""
    known: Survey | None = None
    """What a match has read."""
    matched: tuple[records.Matched, ...] = ()
    may_be_empty: bool = False
    """Finding nothing is fine: a run without calls, so that a schedule's journals show that the night was kept."""
    guards: Callable[[], Settings] | None = None
    """The guards as their files have them when it is called."""
    undone: Undone | None = None
    """What an undo, or a rerun of one, brings back."""

    def start(self) -> int:
        """Read, ask, create, carry out, report; returns the exit code. What can refuse does so before a run exists."""
        if (options := self._hold()) is not self.options:
            return replace(self, options=options).start()
        check_metrics(self.settings, simulated=self.simulated)
        store = trusted_store(self.settings, simulated=self.simulated)
        run_id = store.new_run_id(self.options.clock(), random.Random())
        told = self.known is not None  # a match has been asked with these keys
        reach = reach_of(self.frozen, self.settings, simulated=self.simulated, purpose=run_id, told=told)
        passwords = passwords_of(self.frozen, self.plan.action, self.settings.trust)
        new = self._prepared(reach)
        if (scarce := store.check_room(len(new.plan.calls))) is not None:
            remark(f"warning: {scarce}", quiet=self.options.quiet)
        asked_at = self.options.clock()  # the wall's: it goes on while a laptop sleeps
        answer = confirm(
            _question(new),
            len(new.plan.calls),
            yes=self.options.yes,
            by=operator(),
            stdin_is_list=self.stdin_is_list,
        )
        self._hold()  # the window may have closed while it was read and asked
        if abs(self.options.clock() - asked_at) > LATE_S:
            new = new._looked_at_again(reach)
        return new._carry_out(run_id, store, reach, passwords, answer)

    def _hold(self) -> Options:
        return hold(
            window_of(self.frozen),
            self.options,
            rerun=self.parent is not None,
            stdin_is_list=self.stdin_is_list,
        )

    def _prepared(self, reach: Reach) -> NewRun:
        """This run with its instances read, its plan in order, and its guards passed."""
        if self.found is not None:
            return self
        world = self.world
        if self.simulated and world is None:
            from engine.operations.simulated import simulated_world

            world = simulated_world(self.plan.action, self.plan.calls, (), self.faults)
        prepared = prepare(
            self.plan,
            self.settings,
            read_plan(self.plan, self.settings, reach if self.frozen.verify else None, world, self.known),
            world=world,
            listed_order=self.listed_order,
            resend_already=self.frozen.resend_already,
            expect=self.options.expect,
            take=self.take,
            exclude=self.exclude,
        )
        refuse_strangers(reach.keyring, self.uins)
        for warning in prepared.warnings:
            remark(f"warning: {warning}", quiet=self.options.quiet)
        if not self.options.quiet:
            for line in prepared.lines():
                say(line)
        prepared.refuse()
        if not self.may_be_empty:
            refuse_empty(prepared.plan)
        unread = refuse_unread(
            prepared,
            can_ask=not self.options.yes and can_ask(stdin_is_list=self.stdin_is_list),
            unread_command=self._unread_command(),
        )
        frozen = msgspec.structs.replace(self.frozen, verify=False) if unread else self.frozen
        refuse_blind(self.plan.action, frozen, max_share=self.settings.max_share)
        return replace(self, plan=prepared.plan, found=prepared.found, world=world, frozen=frozen)

    def _looked_at_again(self, reach: Reach) -> NewRun:
        """This run with its guards and its accounts as they are now, minutes after they were shown."""
        from engine.cli.loops import run_loop
        from engine.operations.anew import look_again  # late: a question that was answered at once needs none

        settings = self.guards() if self.guards is not None else self.settings
        if self.verb == "undo":
            settings = replace(settings, max_share=None)  # it takes back, it does not spread
        frozen = replace(self.frozen, keep_admins=max(self.frozen.keep_admins, settings.keep_admins))
        refuse_blind(self.plan.action, frozen, max_share=settings.max_share)
        plan, found = run_loop(
            look_again(
                self.plan,
                self.found,
                replace(settings, keep_admins=frozen.keep_admins),
                reach=reach if frozen.verify else None,
                world=self.world,
                stays=self.undone.still_so() if self.undone is not None else None,
                tell=teller(quiet=self.options.quiet),
            )
        )
        self._refuse_empty(plan)
        return replace(self, plan=plan, found=found, frozen=frozen)

    def _refuse_empty(self, plan: Plan) -> None:
        """The same as `refuse_empty` of what became of a plan that was not empty."""
        if self.undone is not None and not plan.calls and plan.lacking:
            raise NothingLeftError("all that was to be brought back must stay by now, as said above; nothing was sent")
        if not self.may_be_empty:
            refuse_empty(plan)

    def _standing_back(self, rivals: tuple[Rival, ...]) -> NewRun:
        """This run without what other runs have a claim on: from now on no more of them can."""
        held = self.undone.held() if self.undone is not None else {}
        if not held and not rivals:
            return self
        from engine.operations.anew import stand_back

        plan = stand_back(
            self.plan,
            self.found.readings if self.found is not None else {},
            keep_admins=self.frozen.keep_admins,
            rivals=rivals,
            held=held,
            tell=teller(quiet=self.options.quiet),
        )
        if plan is not self.plan:
            self._refuse_empty(plan)
        return replace(self, plan=plan)

    def _unread_command(self) -> str:
        flags = f"{self.options.repeat(self.settings.state_dir)} --no-verify"
        if self.parent is not None:
            return f"acctops {self.verb} {self.parent.run_id}{flags}"
        is_file = job_file(self.job.path) is not None
        job = pasted((from_recorded(self.job.path), *self.asked))
        return f"acctops run {job}{flags}" if is_file else "this command with --no-verify"

    def _carry_out(
        self,
        run_id: RunId,
        store: RunStore,
        reach: Reach,
        passwords: PasswordSource | None,
        answer: records.Confirmed,
    ) -> int:
        keep_admins = self.frozen.keep_admins
        with claim(store, run_id, self.job, self.plan.action, self.plan.calls, keep_admins=keep_admins) as rivals:
            return self._standing_back(rivals)._claimed(run_id, store, reach, passwords, answer, rivals)

    def _claimed(
        self,
        run_id: RunId,
        store: RunStore,
        reach: Reach,
        passwords: PasswordSource | None,
        answer: records.Confirmed,
        rivals: tuple[Rival, ...],
    ) -> int:
        parent = self._link_parent(run_id)
        ledger = Ledger()
        clock = self.options.clock
        with closing(_create(store, run_id, ledger, self._first_lines(reach, parent), clock)) as journal:
            journal.append(answer, ledger.apply)
            return carry_out(
                self.options,
                self.settings,
                store=store,
                journal=journal,
                ledger=ledger,
                reach=reach,
                passwords=passwords,
                stop_after=self.stop_after,
                world=self.world,
                found=self.found,
                rivals=rivals,
                undone=self.undone,
            )

    def _link_parent(self, run_id: RunId) -> records.Parent | None:
        """Tell the parent's journal, under its lock, before the new run's first write."""
        if self.parent is None:
            return None
        if self.parent.store is None:
            told = f"warning: {self.parent.path} lies outside a state directory; it is not told of this {self.verb}"
            remark(told, quiet=self.options.quiet)
            found = replay(self.parent.path)
            return records.Parent(self.parent.run_id, self.verb, found.head)
        from engine.journal.writer import Journal

        journal, found = Journal.open(self.parent.store, self.parent.run_id, clock=self.options.clock)
        try:
            what = "undone_by" if self.verb == "undo" else "continued_by"
            journal.append_now(records.Note(what=what, data={"run": run_id, "verb": self.verb}))
            return records.Parent(self.parent.run_id, self.verb, journal.head)
        finally:
            journal.close()

    def _first_lines(self, reach: Reach, parent: records.Parent | None) -> Iterator[records.AnyRecord]:
        yield records.Run(
            job=self.job,
            action=self.plan.action,
            reason=self.reason,
            ticket=self.ticket,
            operator=operator(),
            host=os.uname().nodename,
            pid=os.getpid(),
            version=__version__,
            identity=identity(reach.keyring),
            simulated=self.simulated,
            parent=parent,
            settings=self.frozen,
            plan_digest=self.plan.digest,
            counts={"calls": len(self.plan.calls), **self.plan.left_out()},
            match=self.matched,
            guarded_by=self.guarded_by,
            asked=tuple(map(recorded, self.asked)),
        )
        for call in self.plan.calls:
            yield records.CallLine(
                call=call.id,
                action=call.action,
                account=call.account,
                region=call.region,
                instance=call.instance,
                user=call.user,
            )
        for omit in self.plan.omits:
            yield omit_line(omit.target, str(omit.reason), omit.rule, omit.where)


def claim(
    store: RunStore, run_id: RunId, job: records.JobRef, action: str, calls: Sequence[Call], *, keep_admins: int
) -> AbstractContextManager[tuple[Rival, ...]]:
    """The right to work on these accounts, of all runs of the state directory; BusyError if a live one has it."""
    inverse = ACTIONS[action].inverse
    mine = Claim(
        run_id=run_id,
        digest=job.digest,
        path=job.path if job_file(job.path) is not None else "",
        action=action,
        calls=[call.id for call in calls],
        keep_admins=keep_admins,
    )

    def undone_by() -> dict[CallId, str]:
        assert inverse is not None
        return {call_id(call.account, call.region, call.instance, call.user, inverse): call.label for call in calls}

    return claimed(store, mine, inverse=inverse, undone_by=undone_by)


def omit_line(target: Target, reason: str, rule: str, where: str, call: CallId | None = None) -> records.OmitLine:
    """A left-out target as the journal keeps it."""
    return records.OmitLine(
        account=target.account,
        region=target.region,
        instance=target.instance,
        user=target.user,
        reason=reason,
        rule=rule,
        where=where,
        call=call,
    )


def _create(
    store: RunStore, run_id: RunId, ledger: Ledger, lines: Iterable[records.AnyRecord], clock: Callable[[], float]
) -> Journal:
    from engine.journal.writer import Journal

    def folded() -> Iterator[records.AnyRecord]:
        for line in lines:
            yield line
            ledger.apply(line)

    return Journal.create(store, run_id, folded(), clock=clock)


def _question(new: NewRun) -> str:
    plan, action = new.plan, ACTIONS[new.plan.action]
    count, instances = len(plan.calls), plan.instances
    effect = " and drop their sessions" if plan.action == "LockAccount" else ""
    accounts = f"{count:,} account{'s' * (count != 1)} on {instances:,} instance{'s' * (instances != 1)}"
    unread = ""
    if new.settings.verify and not new.frozen.verify:
        unread = ", UNREAD (these keys may read no account): nothing will be proven, and undo will need a list"
    stays = sum(omit.reason in STAYS for omit in plan.omits)
    unseen = plan.lacking - stays
    missing = f"; {unseen:,} of what was asked for could not be looked at or read" if unseen else ""
    missing += f"; {stays:,} of what was asked for stay as they are" if stays else ""
    return f"About to {action.verb} {accounts}{effect}{' (SIMULATED)' if new.simulated else ''}{unread}{missing}"


# ---- the session and its report ------------------------------------------------------------------------------------


def carry_out(
    options: Options,
    settings: Settings,
    *,
    store: RunStore,
    journal: Journal,
    ledger: Ledger,
    reach: Reach,
    passwords: PasswordSource | None,
    stop_after: StopAfter | None,
    no_send: frozenset[CallId] = frozenset(),
    elsewhere: frozenset[CallId] = frozenset(),
    world: World | None = None,
    found: Survey | None = None,
    rivals: tuple[Rival, ...] = (),
    undone: Undone | None = None,
) -> int:
    """One session of a run that exists, and its report; returns the exit code. `settings` say who is told of it."""
    from engine.cli.loops import run_loop
    from engine.cli.watching import Terminal
    from engine.cli.watching import carry_out as work
    from engine.model import Outcome
    from engine.operations.attendance import Attendance
    from engine.operations.session import Ended, Session
    from engine.operations.simulated import simulated_world

    assert ledger.run is not None
    run_id = ledger.run.run
    note_run(run_id)
    flags = options.repeat(store.state_dir)
    tell_all = teller(quiet=options.quiet)
    attendance = Attendance(settings, ledger, journal, store, flags=flags, clock=options.clock, tell=tell_all)
    if not options.quiet:
        say(f"run {run_id}  {journal.path}")
    try:
        if ledger.run.simulated and world is None:
            changed = {call.id for call, _, outcome in ledger.outcomes() if outcome is Outcome.CHANGED}
            world = simulated_world(ledger.run.action, ledger.calls.values(), changed)
        session = Session(
            store=store,
            journal=journal,
            ledger=ledger,
            reach=reach,
            passwords=passwords,
            world=world,
            stop_after=stop_after,
            no_send=no_send,
            elsewhere=elsewhere,
            found=found,
            rivals=rivals,
            stays=undone.still_so() if undone is not None else _nothing_stays,
            clock=options.clock,
            time_left=partial(time_left, window_of(ledger.settings), options),
            attendance=attendance,
            tell=tell_all,
            watch=Terminal(quiet=options.quiet),
        )
        ended = work(session)
    except AcctopsError as error:
        ended = Ended(error.exit, unrecorded=records.Stopped(str(error), None, None))
        with suppress(KeyboardInterrupt):
            run_loop(attendance.after_a_fall(ended.exit, ended.unrecorded))
    with suppress(KeyboardInterrupt):  # impatience with the report changes nothing in what was done
        way = _way(options, store, ledger, journal)
        if ended.back_elsewhere:
            way = way.with_back(ended.back_elsewhere)
        _show(options, ledger, journal, ended, way)
    return ended.exit


def _way(options: Options, store: RunStore, ledger: Ledger, journal: Journal) -> WayOn:
    """What is open of the run and its family now that the session is over, and how to go on."""
    from engine.operations.family import way_of  # late, as nothing of it is needed before the first call

    way = way_of(store, ledger, flags=options.repeat(store.state_dir))
    if journal.broken is None:
        return way
    try:
        replay(journal.path)
    except AcctopsError:  # somebody cut it, or wrote to it: a resume would be refused
        return way.without_journal(ledger)
    return way


def _nothing_stays(_call: Call, _reading: Reading) -> Omit | None:
    """The rule of a run that is no undo."""
    return None


def _show(options: Options, ledger: Ledger, journal: Journal, ended: Ended, way: WayOn) -> None:
    place, head = str(journal.path), journal.durable_head
    if ended.exit is not Exit.OK:
        tell_remarks()
    unrecorded = ended.unrecorded
    if unrecorded is not None:
        stands = "" if journal.is_meddled else f"\n{place}: what was recorded stands"
        warn(f"STOPPED EARLY: {unrecorded.why}{stands}")
    if options.as_json:
        since = ended.first_send_at
        first_send_ms = round((since - _PROCESS_START) * 1000) if since is not None else None
        whole = document(ledger, journal=place, head=head, first_send_ms=first_send_ms, way=way)
        whole["exit"] = int(ended.exit)
        if unrecorded is not None:
            whole["stopped"] = {"why": unrecorded.why, "code": unrecorded.code, "request_id": unrecorded.request_id}
        out_json(whole)
    elif not (options.quiet and ended.exit is Exit.OK):
        out(text(ledger, journal=place, head=head, way=way))
    elif way.open_calls:  # done as asked, and not all of what it is a part of
        out("\n".join(way.lines()))
