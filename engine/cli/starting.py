"""The `run` command: what a job's last run left behind decides whether this one goes on or begins anew."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine.cli.ask import confirm
from engine.cli.attending import Unbegun
from engine.cli.guarding import stranger
from engine.cli.hours import hold
from engine.cli.options import Options, operator, trusted_store
from engine.cli.sending import run_loaded
from engine.cli.talk import remark, tell
from engine.errors import RefusedError, UsageError
from engine.inputs.files import load_job
from engine.operations.earlier import Unfinished, reads_stdin, unfinished

if TYPE_CHECKING:
    from engine.inputs.job import Job
    from engine.journal.store import RunStore


def run_job(job_path: str, **flags: Any) -> int:
    """The `run` command. Any: the flags, by name."""
    options = Options(**flags)
    with Unbegun(options, job_path) as unbegun:

        def load() -> Job:
            job = load_job(job_path, skip_bad_rows=options.skip_bad_rows)
            unbegun.job = replace(job, reason=options.reason or job.reason, ticket=options.ticket or job.ticket)
            return unbegun.job

        begin = partial(_run, options=options, flags=flags)
        if options.once:
            from engine.cli.openings import once  # here: for schedules that start it more than once

            return once(job_path, options, load, begin)
        return begin(load())


def _run(job: Job, options: Options, flags: dict[str, Any]) -> int:
    hold(job.window, options, stdin_is_list=reads_stdin(job))
    settings = options.settings(job)
    store = trusted_store(settings, simulated=options.simulate)
    left = unfinished(store, job, options.clock(), tell)
    if left is not None and _goes_on(left, job, options, store):
        _refuse_lost_flags(left, options)
        return _resume(left, job, options, flags)
    return run_loaded(job, options)


def _goes_on(left: Unfinished, job: Job, options: Options, store: RunStore) -> bool:
    """Whether the unfinished run is what `run` goes on with; RefusedError if it is not to decide that."""
    what = f"run {left.run_id} of this job was cut off with {left.open_calls:,} calls open"
    how = options.on_unfinished or job.on_unfinished
    if how == "refuse":
        raise RefusedError(
            f"{what} (on_unfinished: refuse); nothing was sent; go on with it: acctops resume {left.run_id}, "
            "or begin anew: --on-unfinished new"
        )
    other = _what_differs(left, job, options, store)
    if how == "resume" and other is None:
        remark(f"{what}; going on with it (on_unfinished: resume)", quiet=options.quiet)
        return True
    why = other if how == "resume" else "on_unfinished: new"
    remark(f"{what}; beginning anew ({why}): what that one changed is read first", quiet=options.quiet)
    return False


def _what_differs(left: Unfinished, job: Job, options: Options, store: RunStore) -> str | None:
    """What of the job or its surroundings is no longer as the run had it, so that it cannot be this run."""
    run, settings = left.ledger.run, left.ledger.settings
    assert run is not None
    now = options.settings(job)
    if (strange := now.trust.why_not(store.path(left.run_id))) is not None:
        return f"its journal is not believed, as {strange}"
    if run.job.digest != job.digest:
        return "the job has changed since"
    if (call := stranger(left.ledger, job)) is not None:
        return f"it has a call that is not of the job: {call.action} {call.placed}"
    regions = {call.region for call in left.ledger.calls.values()}
    if any(set(now.access(regions).to(region)) != set(settings.access.to(region)) for region in regions):
        return "the endpoint has changed since"
    if now.verify != settings.verify:
        return f"reading accounts back was switched {'on' if now.verify else 'off'} since"
    return "the profile has changed since" if now.profiles != settings.profiles else None


def _refuse_lost_flags(left: Unfinished, options: Options) -> None:
    """UsageError for what only a new run can have: it is neither dropped in silence nor made true of an older one."""
    run = left.ledger.run
    assert run is not None
    for flag, said, had in (
        ("--ticket", options.ticket, run.ticket),
        ("--reason", options.reason, run.reason),
        ("--faults", options.faults, None),
        ("--fleet", options.fleet, None),
    ):
        if said is not None and said != had:
            was = f"was begun with {had}" if had else "was begun without it"
            raise UsageError(
                f"{flag} {said}: the cut-off run {left.run_id} of this job, which is to be gone on with, {was}; leave "
                "the flag away, or begin anew: --on-unfinished new"
            )


def _resume(left: Unfinished, job: Job, options: Options, flags: dict[str, Any]) -> int:
    from engine.cli.continuing import resume  # late: nearly every run begins anew

    text = f"About to go on with run {left.run_id}"
    confirm(text, left.open_calls, yes=options.yes, by=operator(), stdin_is_list=reads_stdin(job))
    kept = {name: value for name, value in flags.items() if name not in _NOT_OF_RESUME}
    return resume(Options(**kept), left.run_id, job)


_NOT_OF_RESUME = (
    *("simulate", "faults", "fleet", "reason", "ticket", "skip_bad_rows"),
    *("on_unfinished", "endpoints", "no_verify", "once"),
)
"""Flags that say what a new run is; of an older one its journal knows, and it was compared with them."""
