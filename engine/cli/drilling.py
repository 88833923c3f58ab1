"""The `drill` command: an incident rehearsed against the simulator, and timed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine.cli.ask import can_ask, confirm
from engine.cli.loops import run_loop
from engine.cli.options import Options, options_of
from engine.cli.sending import ended_by_undo, show
from engine.cli.talk import out_json, say, warn
from engine.cli.watching import Terminal
from engine.errors import Reason
from engine.inputs.files import load_job
from engine.operations.begin import begin
from engine.operations.drilling import limit_of, measured
from engine.operations.earlier import reads_stdin
from engine.operations.proposal import Approval, Nothing
from engine.operations.start import plan_new

if TYPE_CHECKING:
    from engine.inputs.job import Job
    from engine.operations.drilling import Limit
    from engine.operations.proposal import Planned

_SEEDS = 10_000


def drill_job(job_path: str, seed: int | None, contain: str | None, **flags: Any) -> int:
    """The `drill` command. Any: the flags, by name."""
    limit = limit_of(contain) if contain is not None else None
    seed = seed if seed is not None else random.randrange(1, _SEEDS)
    # The window is for what is real: a night's job is rehearsed by day.
    options = options_of({**flags, "simulate": True, "now": True, "seed": seed})
    job = load_job(job_path, skip_bad_rows=options.skip_bad_rows)
    if not options.quiet:
        say(f"drill with seed {seed}: against the built-in simulator; nothing real is touched")
    return run_loop(_drill(options, job, limit), options)


async def _drill(options: Options, job: Job, limit: Limit | None) -> int:
    stdin_is_list = reads_stdin(job)
    options = replace(options, attended=can_ask(stdin_is_list=stdin_is_list))
    plan = await plan_new(options, job)
    if isinstance(plan, Nothing):
        say(plan.why)
        if options.as_json:
            out_json({"run": None, "parent": None, "why": plan.why, "exit": int(Reason.OK)})
        return Reason.OK
    ended = await begin(plan, _approval(options, plan, stdin_is_list=stdin_is_list), Terminal(quiet=options.quiet))
    ended = await ended_by_undo(options, ended)
    found = measured(ended.ledger, limit) if limit is not None else None
    is_beyond = found is not None and not found.is_within
    if ended.reason is Reason.OK and is_beyond:
        ended = replace(ended, reason=Reason.INCOMPLETE)
    facts = {
        "seed": options.seed,
        "share": found.limit.share if found is not None else None,
        "limit_s": found.limit.seconds if found is not None else None,
        "after_s": found.after_s if found is not None else None,
        "within": found.is_within if found is not None else None,
    }
    code = show(options, ended, more={"drill": facts})
    if found is not None and is_beyond:
        warn(found.words)
    elif found is not None and not options.quiet:
        say(found.words)
    return code


def _approval(options: Options, plan: Planned, *, stdin_is_list: bool) -> Approval:
    """Ask a person who is there, as the real run would; without one a drill needs nobody's word."""
    if not (options.attended or options.yes):
        return Approval(how="drill, nobody was asked")
    also = plan.proposal.to_change or None
    return confirm(plan.question, len(plan.calls), also=also, yes=options.yes, stdin_is_list=stdin_is_list)
