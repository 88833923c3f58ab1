"""Door: the commands that begin a run: run, lock|unlock|cam-on; and what ends every one that sends: one `Session`."""

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
from engine.job import Job, StopAfter, password_spec
from engine.jobfile import ad_hoc_job
from engine.journal.reader import replay
from engine.journal.store import RunRef, RunStore
from engine.ledger import Ledger
from engine.model import CallId, Keys, Place, RunId, Target
from engine.passwords import PasswordSource, open_passwords
from engine.plan import Plan
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
    faults = faults_of(options)
    settings = options.settings(job)
    plan = plan_of(job, settings, options)
    for warning in (*settings.warnings, *job.warnings):
        warn(f"warning: {warning}")
    if not options.quiet:
        say(summary(job, settings, plan, simulated=options.simulate))
    refuse_empty(plan)
    frozen = run_settings(
        settings, job, job.action, sorted({call.region for call in plan.calls}), verify=not options.no_verify
    )
    new = NewRun(
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


def faults_of(options: Options) -> tuple[FaultRule, ...]:
    """The script a simulated run meets, read before anybody is asked anything."""
    if options.faults is None:
        return ()
    if not options.simulate:
        raise UsageError("--faults goes with --simulate; a server takes it as `acctops simulate --faults FILE`")
    from engine.cli.simulating import read_faults

    return read_faults(options.faults)


def refuse_empty(plan: Plan) -> None:
    """RefusedError for a plan without calls."""
    if plan.calls:
        return
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in plan.left_out().items() if count)
    raise RefusedError(f"nothing to do: every target is left out ({reasons or 'none given'}); nothing was sent")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
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
        """Ask, create, carry out, report; returns the exit code. What can refuse does so before the run exists."""
        keys = keys_of(self.frozen.profile, simulated=self.simulated)
        passwords = passwords_of(self.frozen, self.plan.action)
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
                return carry_out(
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


def keys_of(profile: str | None, *, simulated: bool) -> KeySource:
    """The keys a run signs with; a simulated one needs none of the operator's."""
    if simulated:
        from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY

        return FixedKeys(Keys(secret_id=DEMO_SECRET_ID, secret_key=DEMO_SECRET_KEY), "simulator")
    keys, warnings = find_keys(profile, os.environ)
    for warning in warnings:
        warn(f"warning: {warning}")
    return keys


def passwords_of(frozen: records.RunSettings, action: str) -> PasswordSource | None:
    """Where new passwords come from, as the run's settings say; None for an action that takes none."""
    if frozen.passwords is None:
        if ACTIONS[action].needs_password:
            raise UsageError(f"{action} needs new passwords; name their source in the job: passwords: {{command: […]}}")
        return None
    return open_passwords(password_spec(frozen.passwords, Place("passwords")), os.environ)


# ---- the session and its report ------------------------------------------------------------------------------------


def carry_out(
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
    """One session of a run that exists, and its report; returns the exit code."""
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
        ended = Ended(error.exit, unrecorded=records.Stopped(str(error), None, None))
    with suppress(KeyboardInterrupt):  # impatience with the report changes nothing in what was done
        _show(options, ledger, journal, ended, store.state_dir)
    return ended.exit


def _show(options: Options, ledger: Ledger, journal: Journal, ended: Ended, state_dir: Path) -> None:
    place, head = str(journal.path), journal.durable_head
    unrecorded = ended.unrecorded
    if unrecorded is not None:
        warn(f"STOPPED EARLY: {unrecorded.why}\n{place}: what was recorded stands")
    if options.as_json:
        since = ended.first_send_at
        first_send_ms = round((since - _PROCESS_START) * 1000) if since is not None else None
        whole = document(ledger, journal=place, head=head, first_send_ms=first_send_ms)
        whole["exit"] = int(ended.exit)
        if unrecorded is not None:
            whole["stopped"] = {"why": unrecorded.why, "code": unrecorded.code, "request_id": unrecorded.request_id}
        out_json(whole)
    elif not (options.quiet and ended.exit is Exit.OK):
        out(text(ledger, journal=place, head=head, flags=options.repeat(state_dir)))
