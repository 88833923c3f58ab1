"""The commands that begin a run of a job: run, lock, unlock, cam-on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.cli.ask import can_ask, confirm
from engine.cli.loops import run_loop
from engine.cli.options import Options, options_of
from engine.cli.sending import carry_out
from engine.cli.talk import out_json, say
from engine.cli.watching import Terminal
from engine.errors import Reason
from engine.inputs.files import load_job, read_list
from engine.inputs.jobfile.adhoc import ad_hoc_job
from engine.operations.earlier import reads_stdin
from engine.operations.proposal import Nothing
from engine.operations.start import CutOff, plan_new, plan_run
from engine.operations.unbegun import Unbegun

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from engine.inputs.job import Job
    from engine.operations.proposal import Planned


def run_job(job_path: str, **flags: Any) -> int:
    """The `run` command. Any: the flags, by name."""
    options = options_of(flags)
    return run_loop(_run_job(options, job_path), options)


async def _run_job(options: Options, job_path: str) -> int:
    async with Unbegun(options, job_path, Terminal(quiet=options.quiet)) as unbegun:

        def load() -> Job:
            job = load_job(job_path, skip_bad_rows=options.skip_bad_rows)
            unbegun.job = replace(job, reason=options.reason or job.reason, ticket=options.ticket or job.ticket)
            return unbegun.job

        if not options.once:
            return await _run(options, load())
        from engine.operations.openings import NotNow, once  # here: for schedules that start it more than once

        done = await once(job_path, options, load, partial(_run, options))
        if not isinstance(done, NotNow):
            return done
        if not options.quiet:
            say(f"nothing to do: {done.why}; nothing was sent")
        return Reason.OK


async def _run(options: Options, job: Job) -> int:
    stdin_is_list = reads_stdin(job)
    options = replace(options, attended=can_ask(stdin_is_list=stdin_is_list))
    plan = await plan_run(options, job)
    if not isinstance(plan, CutOff):
        return await _begin(options, plan, stdin_is_list=stdin_is_list)
    from engine.cli.goingon import go_on_with  # here: nearly every run begins anew

    confirm(plan.question, plan.left.open_calls, yes=options.yes, stdin_is_list=stdin_is_list)
    return await go_on_with(options, await plan.resumption())


def run_ad_hoc(
    action: str,
    targets: tuple[str, ...],
    region: str | None,
    *,
    for_: str | None,
    until: str | None,
    then: str | None,
    watch: str | None,
    **flags: Any,
) -> int:
    """`lock`, `unlock`, `cam-on`. Any: the flags, by name."""
    options = options_of(flags)
    said = {"region": region, "for_": for_, "until": until, "then": then, "watch": watch}
    if options.save is not None:
        from engine.cli.approving import whole_paths

        targets = whole_paths(targets)
    job = ad_hoc_job(
        action,
        targets,
        region,
        read=read_list,
        skip_bad_rows=options.skip_bad_rows,
        reason=options.reason,
        ticket=options.ticket,
        for_=for_,
        until=until,
        then=then,
        watch=watch,
    )
    if options.save is not None:
        from engine.cli.approving import save_plan

        def plan(options: Options) -> Awaitable[Planned | Nothing]:
            return plan_new(options, job)

        return save_plan(options, ACTIONS[action].command or action, {"targets": list(targets), **said}, plan)
    return run_loop(_run_ad_hoc(options, job), options)


async def _run_ad_hoc(options: Options, job: Job) -> int:
    async with Unbegun(options, job.path, Terminal(quiet=options.quiet), job):
        options = replace(options, attended=can_ask())
        return await _begin(options, await plan_new(options, job))


async def _begin(options: Options, plan: Planned | Nothing, *, stdin_is_list: bool = False) -> int:
    if not isinstance(plan, Nothing):
        return await carry_out(options, plan, stdin_is_list=stdin_is_list)
    if not options.quiet:
        say(plan.why)
    if options.as_json:
        out_json({"run": None, "parent": None, "why": plan.why, "exit": int(Reason.OK)})
    return Reason.OK
