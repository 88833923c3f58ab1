"""Door: the commands that send: run, lock|unlock|cam-on, resume, rerun. Each ends in one `Session`."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import __version__, records
from engine.actions import ACTIONS
from engine.cli.ask import confirm
from engine.cli.options import Options, operator, run_settings
from engine.cli.plans import plan_of, summary
from engine.cli.talk import out, out_json, say, warn
from engine.credentials import FixedKeys, KeySource, find_keys
from engine.errors import AcctopsError, Exit, RefusedError, UsageError
from engine.files import load_job
from engine.job import Glob, Job, StopAfter, password_spec
from engine.jobfile import ad_hoc_job
from engine.journal.reader import Replay, replay
from engine.journal.store import RunRef, RunStore, find_run
from engine.ledger import Ledger
from engine.model import Call, CallId, Keys, Outcome, Place, RunId, Target
from engine.passwords import PasswordSource, open_passwords
from engine.plan import Plan, left_out, plan_again
from engine.report import document, text

if TYPE_CHECKING:
    from engine.cli.session import Ended
    from engine.journal.writer import Journal
    from engine.settings import Settings
    from engine.simulator.faults import FaultRule

STDIN_NAME = "standard input"
_PROCESS_START = time.time() - time.process_time()
"""About when this process began: its CPU time is what it has done since."""


# ---- run, lock, unlock, cam-on -------------------------------------------------------------------------------------


def run_job(job_path: str, **flags: Any) -> int:
    """The `run` command. Any: the flags, by name."""
    options = Options(**flags)
    job = load_job(job_path)
    return _run(replace(job, reason=options.reason or job.reason, ticket=options.ticket or job.ticket), options)


def run_ad_hoc(action: str, targets: tuple[str, ...], region: str, **flags: Any) -> int:
    """`lock`, `unlock`, `cam-on`. Any: the flags, by name."""
    options = Options(**flags)
    return _run(ad_hoc_job(action, targets, region, reason=options.reason, ticket=options.ticket), options)


def _run(job: Job, options: Options) -> int:
    faults = _faults(options)
    settings = options.settings(job)
    plan = plan_of(job, settings, options)
    for warning in (*settings.warnings, *job.warnings):
        warn(f"warning: {warning}")
    if not options.quiet:
        say(summary(job, settings, plan, simulated=options.simulate))
    _refuse_empty(plan)
    frozen = run_settings(
        settings, job, job.action, sorted({call.region for call in plan.calls}), verify=not options.no_verify
    )
    new = _NewRun(
        options=options,
        settings=settings,
        frozen=frozen,
        plan=plan,
        job=records.JobRef(job.name, _job_place(job), job.digest),
        reason=job.reason,
        ticket=job.ticket,
        simulated=options.simulate,
        stop_after=settings.stop_after,
        stdin_is_list=_reads_stdin(job),
        faults=faults,
    )
    return new.start()


def _reads_stdin(job: Job) -> bool:
    return STDIN_NAME in (job.path, *job.sources)


def _job_place(job: Job) -> str:
    """The job's file for the journal; one that read a list from standard input cannot be read again."""
    if not Path(job.path).is_file():
        return job.path
    place = str(Path(job.path).absolute())
    return f"{place} and {STDIN_NAME}" if _reads_stdin(job) else place


def _faults(options: Options) -> tuple[FaultRule, ...]:
    """The script a simulated run meets, read before anybody is asked anything."""
    if options.faults is None:
        return ()
    if not options.simulate:
        raise UsageError("--faults goes with --simulate; a server takes it as `acctops simulate --faults FILE`")
    from engine.cli.simulating import read_faults

    return read_faults(options.faults)


def _refuse_empty(plan: Plan) -> None:
    if plan.calls:
        return
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in plan.left_out().items() if count)
    raise RefusedError(f"nothing to do: every target is left out ({reasons or 'none given'}); nothing was sent")


@dataclass(frozen=True, slots=True, kw_only=True)
class _NewRun:
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
    stdin_is_list: bool = False
    parent: RunRef | None = None
    faults: tuple[FaultRule, ...] = ()

    def start(self) -> int:
        keys = _keys(self.frozen.profile, simulated=self.simulated)
        passwords = _passwords(self.frozen, self.plan.action)
        store = RunStore(self.settings.state_dir, simulated=self.simulated, group=self.settings.state_group)
        answer = confirm(
            _question(self.plan, simulated=self.simulated),
            len(self.plan.calls),
            yes=self.options.yes,
            by=operator(),
            stdin_is_list=self.stdin_is_list,
        )
        run_id = store.new_run_id(time.time(), random.Random())
        with store.job_lock(self.job.digest, run_id):
            parent = self._link_parent(run_id)
            ledger = Ledger()
            with closing(_create(store, run_id, ledger, self._first_lines(keys, parent))) as journal:
                journal.append(answer, ledger.apply)
                return _carry_out(
                    self.options,
                    store=store,
                    journal=journal,
                    ledger=ledger,
                    keys=keys,
                    passwords=passwords,
                    stop_after=self.stop_after,
                    faults=self.faults,
                )

    def _link_parent(self, run_id: RunId) -> records.Parent | None:
        """Tell the parent's journal, under its lock, before the new run's first write."""
        if self.parent is None:
            return None
        if self.parent.store is None:
            warn(f"warning: {self.parent.path} lies outside a state directory; it is not told of this rerun")
            found = replay(self.parent.path)
            return records.Parent(self.parent.run_id, "rerun", found.head)
        from engine.journal.writer import Journal

        journal, found = Journal.open(self.parent.store, self.parent.run_id, clock=time.time)
        try:
            journal.append_now(records.Note(what="continued_by", data={"run": run_id, "verb": "rerun"}))
            return records.Parent(self.parent.run_id, "rerun", journal.head)
        finally:
            journal.close()

    def _first_lines(self, keys: KeySource, parent: records.Parent | None) -> Iterator[records.AnyRecord]:
        yield records.Run(
            job=self.job,
            action=self.plan.action,
            reason=self.reason,
            ticket=self.ticket,
            operator=operator(),
            host=os.uname().nodename,
            pid=os.getpid(),
            version=__version__,
            identity=keys.identity,
            simulated=self.simulated,
            parent=parent,
            settings=self.frozen,
            plan_digest=self.plan.digest,
            counts={"calls": len(self.plan.calls), **self.plan.left_out()},
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


def _create(store: RunStore, run_id: RunId, ledger: Ledger, lines: Iterable[records.AnyRecord]) -> Journal:
    from engine.journal.writer import Journal

    def folded() -> Iterator[records.AnyRecord]:
        for line in lines:
            yield line
            ledger.apply(line)

    return Journal.create(store, run_id, folded(), clock=time.time)


def _question(plan: Plan, *, simulated: bool) -> str:
    action = ACTIONS[plan.action]
    count, instances = len(plan.calls), plan.instances
    effect = " and drop their sessions" if plan.action == "LockAccount" else ""
    accounts = f"{count:,} account{'s' * (count != 1)} on {instances:,} instance{'s' * (instances != 1)}"
    return f"About to {action.verb} {accounts}{effect}{' (SIMULATED)' if simulated else ''}"


def _keys(profile: str | None, *, simulated: bool) -> KeySource:
    if simulated:
        from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY

        return FixedKeys(Keys(secret_id=DEMO_SECRET_ID, secret_key=DEMO_SECRET_KEY), "simulator")
    keys, warnings = find_keys(profile, os.environ)
    for warning in warnings:
        warn(f"warning: {warning}")
    return keys


def _passwords(frozen: records.RunSettings, action: str) -> PasswordSource | None:
    if frozen.passwords is None:
        if ACTIONS[action].needs_password:
            raise UsageError(f"{action} needs new passwords; name their source in the job: passwords: {{command: […]}}")
        return None
    return open_passwords(password_spec(frozen.passwords, Place("passwords")), os.environ)


# ---- the session and its report ------------------------------------------------------------------------------------


def _carry_out(
    options: Options,
    *,
    store: RunStore,
    journal: Journal,
    ledger: Ledger,
    keys: KeySource,
    passwords: PasswordSource | None,
    stop_after: StopAfter | None,
    no_send: frozenset[CallId] = frozenset(),
    faults: tuple[FaultRule, ...] = (),
) -> int:
    from engine.cli.session import Ended, Session, simulated_world

    assert ledger.run is not None
    run_id = ledger.run.run
    if not options.quiet:
        say(f"run {run_id}  {journal.path}")
    try:
        world = simulated_world(ledger, faults) if ledger.run.simulated else None
        ended = Session(
            store=store,
            journal=journal,
            ledger=ledger,
            keys=keys,
            passwords=passwords,
            world=world,
            stop_after=stop_after,
            no_send=no_send,
            quiet=options.quiet,
        ).carry_out()
    except AcctopsError as error:
        ended = Ended(error.exit, stopped=records.Stopped(str(error), None, None))
    with suppress(KeyboardInterrupt):  # impatience with the report changes nothing in what was done
        _show(options, ledger, journal, ended, store.state_dir)
    return ended.exit


def _show(options: Options, ledger: Ledger, journal: Journal, ended: Ended, state_dir: Path) -> None:
    place, head = str(journal.path), journal.durable_head
    unwritten = ended.stopped if journal.broken is not None or ledger.end is None else None
    if unwritten is not None:
        warn(f"STOPPED EARLY: {unwritten.why}\n{place}: what was recorded stands")
    if options.as_json:
        since = ended.first_send_at
        first_send_ms = round((since - _PROCESS_START) * 1000) if since is not None else None
        whole = document(ledger, journal=place, head=head, first_send_ms=first_send_ms)
        whole["exit"] = int(ended.exit)
        if unwritten is not None:
            whole["stopped"] = {
                "why": unwritten.why,
                "code": unwritten.code,
                "request_id": unwritten.request_id,
            }
        out_json(whole)
    elif not (options.quiet and ended.exit is Exit.OK):
        out(text(ledger, journal=place, head=head, flags=options.repeat(state_dir)))


# ---- resume --------------------------------------------------------------------------------------------------------


def resume_run(run: str, **flags: Any) -> int:
    """The `resume` command. Any: the flags, by name."""
    from engine.journal.writer import Journal

    options = Options(**flags)
    ref = _found(options, run)
    if ref.store is None:
        raise UsageError(f"{ref.path}: lies outside a state directory, so it can only be read; move it back to resume")
    seen = replay(ref.path).ledger
    assert seen.run is not None
    options = replace(options, simulate=seen.run.simulated)
    _refuse_continued(seen, ref)
    _check_endpoint(options, seen)
    if _is_finished(seen):
        return _show_finished(options, seen, ref)
    # Whatever can refuse does so before the journal is touched.
    guards = options.settings(None, Path(seen.run.job.path).parent)
    exclude = options.excludes()
    settings = _changed_settings(options, seen.settings)
    keys = _keys(settings.profile, simulated=seen.run.simulated)
    passwords = _passwords(seen.settings, seen.run.action)
    _ask_about_changes(options, seen, keys)
    with ref.store.job_lock(seen.run.job.digest, ref.run_id):
        journal, replayed = Journal.open(ref.store, ref.run_id, clock=time.time)
        ledger = replayed.ledger
        with closing(journal):
            _refuse_continued(ledger, ref)
            journal.append(_session_line(replayed, settings), ledger.apply)
            no_send = _drop_guarded(ledger, journal, guards.protect, exclude)
            return _carry_out(
                options,
                store=ref.store,
                journal=journal,
                ledger=ledger,
                keys=keys,
                passwords=passwords,
                stop_after=_stop_after(ledger.settings),
                no_send=no_send,
            )


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


def _found(options: Options, run: str) -> RunRef:
    settings = options.settings(None)
    return find_run(settings.state_dir, run, group=settings.state_group)


def _is_finished(ledger: Ledger) -> bool:
    return ledger.end is not None and all(entry.settled for _, entry, _ in ledger.outcomes())


def _show_finished(options: Options, ledger: Ledger, ref: RunRef) -> int:
    found = replay(ref.path)
    assert ledger.end is not None
    if options.as_json:
        out_json(document(ledger, journal=str(ref.path), head=found.head))
    elif not (options.quiet and ledger.end.exit == Exit.OK):
        say("this run is finished; nothing to resume")
        assert ref.store is not None
        flags = options.repeat(ref.store.state_dir)
        out(text(ledger, journal=str(ref.path), head=found.head, flags=flags))
    return ledger.end.exit


def _refuse_continued(ledger: Ledger, ref: RunRef) -> None:
    assert ref.store is not None
    for note in reversed(ledger.links):
        later = str(note.data.get("run", ""))
        if ref.store.path(later).is_file():
            raise RefusedError(
                f"run {ref.run_id} was continued by {later}; go on with that one: acctops resume {later} "
                f"(this one can still be read: acctops report {ref.run_id})"
            )


def _check_endpoint(options: Options, ledger: Ledger) -> None:
    if options.endpoints and set(options.settings(None).endpoints) != set(ledger.settings.endpoint):
        raise UsageError(
            f"--endpoint: the run used {', '.join(ledger.settings.endpoint)}, and what continues it must; leave the "
            "flag away, or make a new run of the job"
        )


def _ask_about_changes(options: Options, ledger: Ledger, keys: KeySource) -> None:
    """A resume asks only if job file, operator or identity are not those of the run (design §6)."""
    assert ledger.run is not None
    run = ledger.run
    changes = []
    job_path = Path(run.job.path)
    if job_path.is_file():
        try:
            job = load_job(job_path)
        except AcctopsError:
            changes.append(f"{job_path} can no longer be read as a job")
        else:
            if job.digest != run.job.digest:
                changes.append(_job_change(job, ledger))
    if run.operator != operator():
        changes.append(f"it was begun by {run.operator}")
    if run.identity != keys.identity:
        changes.append(f"it was begun with the keys of {run.identity}, these are of {keys.identity}")
    if not changes:
        return
    left = sum(not entry.settled for _, entry, _ in ledger.outcomes())
    text = f"run {run.run}: {'; '.join(changes)}. About to go on with the {left:,} open calls of its journal"
    confirm(text, left, yes=options.yes, by=operator())


def _job_change(job: Job, ledger: Ledger) -> str:
    now = {(target.account, target.region, target.instance, target.user) for target in job.targets}
    then = {(call.account, call.region, call.instance, call.user) for call in ledger.calls.values()}
    then |= {(omit.account, omit.region, omit.instance, omit.user) for omit in ledger.omits}
    added, gone = len(now - then), len(then - now)
    return f"{job.path} has changed since (+{added:,} −{gone:,} targets); the journal's list is what is sent"


def _changed_settings(options: Options, settings: records.RunSettings) -> records.RunSettings:
    """The journal's settings with what `--rate --workers --timeout --deadline --profile` say otherwise."""
    import msgspec

    from engine.endpoints import is_loopback

    said = options.settings(None)
    changes: dict[str, Any] = {}
    for flag, name in _OVERRIDES:
        if getattr(options, flag) is not None:
            changes[name] = getattr(said, name)
    changed = msgspec.structs.replace(settings, **changes)
    if changed.rate > settings.rate and not options.simulate and not all(is_loopback(url) for url in settings.endpoint):
        raise UsageError(
            f"--rate {changed.rate:g} is above the run's {settings.rate:g}; a quota raised since is for a new run"
        )
    return changed


_OVERRIDES = (
    # flag, its name in the journal's settings
    ("rate", "rate"),
    ("workers", "workers"),
    ("timeout", "timeout_s"),
    ("deadline", "deadline_s"),
    ("profile", "profile"),
)


def _drop_guarded(
    ledger: Ledger, journal: Journal, protect: tuple[Glob, ...], exclude: tuple[Glob, ...]
) -> frozenset[CallId]:
    """Guards of today hold for a resume: calls never sent are left out, calls begun are only read."""
    no_send: set[CallId] = set()
    for call in list(ledger.calls.values()):
        entry = ledger.entry(call.id)
        if entry.settled:
            continue
        omit = left_out(_target(call), protect=protect, exclude=exclude)
        if omit is None:
            continue
        if entry.spent or entry.needs_reading:
            no_send.add(call.id)
        else:
            journal.append(omit_line(omit.target, str(omit.reason), omit.rule, omit.where, call.id), ledger.apply)
    journal.flush()
    return frozenset(no_send)


def _target(call: Call) -> Target:
    return Target(call.instance, call.user, call.region, call.account)


def _stop_after(settings: records.RunSettings) -> StopAfter | None:
    from engine.values import stop_after

    return stop_after(settings.stop_after) if settings.stop_after is not None else None


# ---- rerun ---------------------------------------------------------------------------------------------------------


def rerun_run(run: str, only: str, codes: tuple[str, ...], **flags: Any) -> int:
    """The `rerun` command. Any: the flags, by name."""
    options = Options(**flags)
    if run == "latest" and options.yes:
        raise RefusedError("`latest` with --yes could be another run than you think; name the run")
    kinds = _kinds(only)
    ref = _found(options, run)
    ledger = replay(ref.path).ledger
    assert ledger.run is not None
    _check_endpoint(options, ledger)
    options = replace(options, simulate=ledger.run.simulated)
    faults = _faults(options)
    settled_later = _settled_later(ledger, ref)
    meant = list(_meant(ledger, kinds, codes))
    calls = [call for call in meant if call.id not in settled_later]
    if not calls:
        return _nothing_to_repeat(options, ref, kinds, codes, len(meant))
    guards = options.settings(None, Path(ledger.run.job.path).parent)
    plan = plan_again(ledger.run.action, calls, protect=guards.protect, exclude=options.excludes())
    if not options.quiet:
        left = "".join(f", {count:,} {reason}" for reason, count in plan.left_out().items() if count)
        say(f"rerun of {ref.run_id} ({ledger.run.job.name}): {len(plan.calls):,} calls{left}")
    _refuse_empty(plan)
    frozen = _changed_settings(options, ledger.settings)
    return _NewRun(
        options=options,
        settings=guards,
        frozen=frozen,
        plan=plan,
        job=ledger.run.job,
        reason=options.reason or ledger.run.reason,
        ticket=options.ticket or ledger.run.ticket,
        simulated=ledger.run.simulated,
        stop_after=_stop_after(frozen),
        parent=ref,
        faults=faults,
    ).start()


def _nothing_to_repeat(
    options: Options, ref: RunRef, kinds: set[Outcome], codes: tuple[str, ...], settled_later: int
) -> int:
    ended_with = f" with {', '.join(codes)}" if codes else ""
    if settled_later:
        why = f"what was {' or '.join(sorted(kinds))}{ended_with} has been settled by a later rerun ({settled_later:,})"
    else:
        why = f"nothing is {' or '.join(sorted(kinds))}{ended_with}"
    say(f"run {ref.run_id}: {why}; nothing to repeat")
    if options.as_json:
        out_json({"run": None, "parent": ref.run_id, "why": why, "exit": int(Exit.OK)})
    return Exit.OK


def _kinds(only: str) -> set[Outcome]:
    kinds = {kind.strip() for kind in only.split(",") if kind.strip()}
    wrong = kinds - {"failed", "unknown", "unattempted"}
    if wrong or not kinds:
        raise UsageError(f"--only {only}: give one or more of failed, unknown, unattempted, separated by commas")
    return {Outcome(kind) for kind in kinds}


def _meant(ledger: Ledger, kinds: set[Outcome], codes: tuple[str, ...]) -> Iterator[Call]:
    for call, entry, outcome in ledger.outcomes():
        if outcome in kinds and (not codes or entry.code in codes):
            yield call


def _settled_later(ledger: Ledger, ref: RunRef) -> set[CallId]:
    """Calls that later reruns of this run, or of those, brought to the desired state."""
    done: set[CallId] = set()
    links, seen = list(ledger.links), {str(ref.run_id)}
    while links and ref.store is not None:
        note = links.pop()
        later = str(note.data.get("run", ""))
        if note.what != "continued_by" or later in seen or not ref.store.path(later).is_file():
            continue
        seen.add(later)
        child = replay(ref.store.path(later)).ledger
        links += child.links
        good = (Outcome.CHANGED, Outcome.ALREADY)
        done |= {call.id for call, _, outcome in child.outcomes() if outcome in good}
    return done
