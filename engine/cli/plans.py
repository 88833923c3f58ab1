"""The plan as a person and a program read it."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.options import Options, options_of
from engine.cli.summary import routes_for, signers_of, summary
from engine.cli.talk import out, out_json, printed, tell_remarks
from engine.inputs.files import load_job
from engine.operations.drafts import Draft, draft, draft_of, prepared, settings_of
from engine.operations.events import Warned
from engine.operations.frozen import check_metrics, run_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.inputs.job import Job
    from engine.inputs.settings import Settings
    from engine.operations.preparing import Prepared
    from engine.operations.proposal import Nothing, Planned
    from engine.operations.survey import Survey

SHOWN = 20
"""Calls a plan prints without `--all`."""


def show_plan(
    job_path: str,
    *,
    exclude: tuple[str, ...],
    show_all: bool,
    offline: bool,
    expect: int | None,
    fix: str | None,
    **common: Any,
) -> int:
    """The `plan` command. Any: the flags, by name."""
    options = options_of({"exclude": exclude, "expect": expect, **common})
    if options.save is not None:
        return _save(options, job_path)
    job = load_job(job_path, skip_bad_rows=options.skip_bad_rows or fix is not None)
    if fix is not None:
        from engine.cli.fixing import Fixing  # here: hardly a plan writes a list

        fixing = Fixing(job, fix)
        try:
            return _plan(options, job, offline=offline, show_all=show_all, found=fixing.found)
        finally:  # also where nothing could be read: the list is corrected as far as it is known
            fixing.write()
    return _plan(options, job, offline=offline, show_all=show_all, found=lambda _: None)


def _save(options: Options, job_path: str) -> int:
    from engine.cli.approving import save_plan  # here: most plans are only looked at
    from engine.operations.earlier import place_of
    from engine.operations.start import plan_new

    async def plan(options: Options) -> Planned | Nothing:
        return await plan_new(options, load_job(job_path, skip_bad_rows=options.skip_bad_rows))

    return save_plan(options, "plan", {"job": place_of(job_path)}, plan)


def _plan(options: Options, job: Job, *, offline: bool, show_all: bool, found: Callable[[Survey | None], None]) -> int:
    settings = settings_of(options, job)
    check_metrics(settings)
    if offline:  # no event loop is needed, and none is loaded
        made = draft_of(options, job, settings)
        _show_head(options, made)
        return _show(options, made, prepared(options, made, None), show_all=show_all)
    from engine.cli.loops import run_loop

    return run_loop(_look(options, job, settings, show_all=show_all, tell=found), options)


async def _look(
    options: Options, job: Job, settings: Settings, *, show_all: bool, tell: Callable[[Survey | None], None]
) -> int:
    """Show the plan, then what its accounts say; `tell` what was read."""
    from engine.operations.preparing import is_read, read_for
    from engine.operations.reach import reach_of

    made = await draft(options, job, settings, purpose="plan")
    _show_head(options, made)
    found = None
    if is_read(made.plan, settings):
        reach = made.reach
        if reach is None:
            frozen = run_settings(settings, job, job.action, {call.region for call in made.plan.calls})
            reach = await reach_of(frozen, settings, options, purpose="plan")
        found = await read_for(made.plan, settings, reach=reach, world=None, known=made.known)
        tell(found)
    return _show(options, made, prepared(options, made, found), show_all=show_all)


def _show_head(options: Options, made: Draft) -> None:
    if not options.as_json and not options.quiet:
        out.lines(_head(made))


def _head(made: Draft) -> str:
    return "PLAN, nothing sent\n" + summary(made, said=True)


def _show(options: Options, made: Draft, found: Prepared, *, show_all: bool) -> int:
    if (held := _held(options, made, found)) is not None:
        options.tell(Warned(held))
    for warning in found.warnings:
        options.tell(Warned(warning))
    if options.as_json:
        out_json(plan_document(made, found))
        return printed()
    if options.quiet:
        if not found.refusals:  # nothing stands in the way of a run
            return printed()
        tell_remarks()
        out.lines(_head(made))
    for line in found.lines():
        out.lines(line)
    _list_calls(found, show_all=show_all)
    return printed()


def _held(options: Options, made: Draft, found: Prepared) -> str | None:
    """Who holds these accounts already."""
    if found.found is None:  # made offline: no journal is looked at either
        return None
    from engine.operations.holding import held_words  # here: most plans give nothing back
    from engine.operations.stores import store_of

    store = store_of(made.settings, simulated=False)
    flags = options.repeat(store)
    return held_words(store, found.plan.action, found.plan.calls, made.settings.trust, flags)


def _list_calls(prepared: Prepared, *, show_all: bool) -> None:
    plan = prepared.plan
    shown = plan.calls if show_all else plan.calls[:SHOWN]
    waves = _waves_of(prepared)
    for call, wave in zip(shown, waves, strict=False):
        standing = prepared.outlook.standings[call.id] if prepared.found is not None else ""
        whose = f"{call.account}  " if call.account else ""
        out.lines(f"  {wave}{whose}{call.label}  {call.region}  {standing}".rstrip())
    if len(shown) < len(plan.calls):
        out(f"  … and {len(plan.calls) - len(shown):,} more (--all, or --json)")
    for omit in plan.omits if show_all else plan.omits[:SHOWN]:
        out.lines(f"  left out, {omit.reason}: {omit.target.named}  {omit.rule} ({omit.where})")
    if not show_all and len(plan.omits) > SHOWN:
        out(f"  … and {len(plan.omits) - SHOWN:,} more left out")


def _waves_of(prepared: Prepared) -> Iterator[str]:
    """Yield for each call of a plan the words that name its wave; nothing where there are no waves."""
    if prepared.waves is None:
        return repeat("")
    from engine.report.waves import waves_of

    return (f"wave {wave}  " for wave in waves_of(prepared.waves, len(prepared.plan.calls)))


def plan_document(made: Draft, prepared: Prepared) -> dict[str, Any]:
    """The `plan --json` document (engine/json.md). Any: JSON values."""
    from engine.report.afterwards import plan_keys  # here: only the document needs it
    from engine.report.waves import plan_keys as wave_keys
    from engine.report.waves import waves_of

    job, settings, plan, found = made.job, made.settings, prepared.plan, prepared.found
    rate, routes = settings.rate_for(plan.action), routes_for(settings, plan)
    signers = signers_of(job, settings)
    return {
        "action": plan.action,
        "job": {"name": job.name, "path": str(Path(job.path)), "digest": job.digest},
        "plan_digest": plan.digest,
        "match": [
            {"where": each.where, "asks": each.asks, "instances": each.instances, "accounts": each.accounts}
            for each in made.matched
        ],
        "counts": {"calls": len(plan.calls), "instances": plan.instances},
        "left_out": plan.left_out(),
        "endpoint": list(dict.fromkeys(endpoint for route in routes.every for endpoint in route.endpoints)),
        "lanes": sum(route.lanes(signers(route.account)) for route in routes.every),
        "rate": rate,
        "workers": settings.workers,
        "timeout_s": settings.timeout_s,
        "deadline_s": settings.deadline_s,
        "seconds_at_quota": round(routes.seconds(rate, signers), 1),
        "guards": list(made.guards()),
        **plan_keys(job),
        "waves": wave_keys(job.waves, len(plan.calls)),
        "would_refuse": list(prepared.refusals),
        "guesses": [
            {"where": str(guess.place), "what": guess.what, "count": guess.count, "choice": guess.choice}
            for guess in job.guesses
        ],
        "warnings": [*settings.warnings, *job.warnings, *prepared.warnings],
        "read": {
            "instances": len(found.readings),
            "accounts": prepared.outlook.accounts_read,
            "seconds": round(found.seconds, 2),
            "unread": list(prepared.outlook.unread),
        }
        if found is not None
        else None,
        "standing": prepared.outlook.counts() if found is not None else None,
        "elsewhere": [
            {"account": call.account, "region": call.region, "instance": call.instance, "found_in": region}
            for call in {call.where: call for call in prepared.elsewhere()}.values()
            if found is not None and (region := found.located[call.where])
        ],
        "last_admins": list(prepared.outlook.last_admins),
        "calls": [
            {
                "call": call.id,
                "account": call.account,
                "region": call.region,
                "instance": call.instance,
                "user": call.user,
                "standing": str(prepared.outlook.standings[call.id]) if found is not None else None,
                "wave": wave,
            }
            for call, wave in zip(plan.calls, waves_of(job.waves, len(plan.calls)), strict=True)
        ],
        "omits": [
            {
                "account": omit.target.account,
                "region": omit.target.region,
                "instance": omit.target.instance,
                "user": omit.target.user,
                "reason": str(omit.reason),
                "rule": omit.rule,
                "where": omit.where,
            }
            for omit in plan.omits
        ],
    }
