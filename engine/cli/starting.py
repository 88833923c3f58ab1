"""Door: the `run` command: what a job's last run left behind decides whether this one goes on or begins anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine.cli.ask import confirm
from engine.cli.attending import Unbegun
from engine.cli.earlier import Unfinished, reads_stdin, unfinished
from engine.cli.hours import hold
from engine.cli.options import Options, operator
from engine.cli.sending import run_loaded
from engine.cli.talk import remark
from engine.errors import RefusedError
from engine.files import load_job
from engine.journal.store import RunStore

if TYPE_CHECKING:
    from engine.job import Job


def run_job(job_path: str, **flags: Any) -> int:
    """The `run` command. Any: the flags, by name."""
    options = Options(**flags)
    with Unbegun(options, job_path) as unbegun:
        job = load_job(job_path, skip_bad_rows=options.skip_bad_rows)
        unbegun.job = job = replace(job, reason=options.reason or job.reason, ticket=options.ticket or job.ticket)
        return _run(job, options, flags)


def _run(job: Job, options: Options, flags: dict[str, Any]) -> int:
    hold(job.window, options, stdin_is_list=reads_stdin(job))
    settings = options.settings(job)
    store = RunStore(settings.state_dir, simulated=options.simulate, group=settings.state_group)
    left = unfinished(store, job, options.clock())
    if left is not None and _goes_on(left, job, options):
        return _resume(left, job, options, flags)
    return run_loaded(job, options)


def _goes_on(left: Unfinished, job: Job, options: Options) -> bool:
    """Whether the unfinished run is what `run` goes on with; RefusedError if it is not to decide that."""
    what = f"run {left.run_id} of this job was cut off with {left.open_calls:,} calls open"
    how = options.on_unfinished or job.on_unfinished
    if how == "refuse":
        raise RefusedError(
            f"{what} (on_unfinished: refuse); nothing was sent; go on with it: acctops resume {left.run_id}, "
            "or begin anew: --on-unfinished new"
        )
    other = _what_differs(left, job, options)
    if how == "resume" and other is None:
        remark(f"{what}; going on with it (on_unfinished: resume)", quiet=options.quiet)
        return True
    why = f"{other} since" if how == "resume" else "on_unfinished: new"
    remark(f"{what}; beginning anew ({why}): what that one changed is read first", quiet=options.quiet)
    return False


def _what_differs(left: Unfinished, job: Job, options: Options) -> str | None:
    """What of the job or its surroundings is no longer as the run had it, so that it cannot be this run."""
    run, settings = left.ledger.run, left.ledger.settings
    assert run is not None
    if run.job.digest != job.digest:
        return "the job has changed"
    now = options.settings(job)
    regions = {call.region for call in left.ledger.calls.values()}
    if any(set(now.access(regions).to(region)) != set(settings.access.to(region)) for region in regions):
        return "the endpoint has changed"
    if now.verify != settings.verify:
        return "reading accounts back was switched " + ("on" if now.verify else "off")
    return "the profile has changed" if now.profiles != settings.profiles else None


def _resume(left: Unfinished, job: Job, options: Options, flags: dict[str, Any]) -> int:
    from engine.cli.continuing import resume_run  # late: nearly every run begins anew

    text = f"About to go on with run {left.run_id}"
    confirm(text, left.open_calls, yes=options.yes, by=operator(), stdin_is_list=reads_stdin(job))
    kept = {name: value for name, value in flags.items() if name not in _NOT_OF_RESUME}
    return resume_run(left.run_id, **kept)


_NOT_OF_RESUME = (
    *("simulate", "faults", "fleet", "reason", "ticket", "expect", "skip_bad_rows"),
    *("on_unfinished", "endpoints", "no_verify"),
)
"""Flags that say what a new run is; of an older one its journal knows."""
