"""The plan as a person and a program read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.api.actions import ACTIONS
from engine.cli.options import Options, check_metrics, run_settings
from engine.cli.talk import out, out_json, printed, remark, tell, tell_remarks, teller
from engine.inputs.files import load_job
from engine.journal import records
from engine.planning.plan import Plan, make_plan
from engine.planning.routes import Routes, routes_of
from engine.report.spans import duration

if TYPE_CHECKING:
    from engine.cloud.clients import Reach
    from engine.inputs.job import Job
    from engine.inputs.settings import Settings
    from engine.operations.earlier import Take
    from engine.operations.preparing import Prepared
    from engine.operations.survey import Survey

SHOWN = 20
"""Calls a plan prints without `--all`."""
_RULES_SHOWN = 4
_ENDPOINTS_SHOWN = 3


def show_plan(
    job_path: str, *, exclude: tuple[str, ...], show_all: bool, offline: bool, expect: int | None, **common: Any
) -> int:
    """The `plan` command. Any: the flags, by name."""
    options = Options(exclude=exclude, expect=expect, **common)
    job = load_job(job_path, skip_bad_rows=options.skip_bad_rows)
    settings = options.settings(job)
    check_metrics(settings)
    for warning in (*settings.warnings, *job.warnings):
        remark(f"warning: {warning}", quiet=options.quiet)
    for odd in job.remarks:
        remark(f"remark: {odd}", quiet=options.quiet)
    asked = [records.Matched(str(each.place), each.words(), None, None) for each in job.matches]
    reach, known = None, None
    if job.matches and not offline:
        from engine.cli.loops import run_loop
        from engine.operations.discovering import discover, match_regions

        reach = _reach(job, settings, match_regions(job))
        discovered = run_loop(discover(job, settings, reach=reach, world=None, tell=teller(quiet=options.quiet)))
        job, known, asked = discovered.job, discovered.found, discovered.lines()
    plan = plan_of(job, settings, options)
    head = "PLAN, nothing sent\n" + summary(job, settings, plan, asked, said=True)
    if not options.as_json and not options.quiet:
        out(head)
    if reach is None and not offline and plan.calls and settings.verify:
        reach = _reach(job, settings, {call.region for call in plan.calls})
    prepared = _prepared(job, settings, plan, options, reach, known)
    for warning in prepared.warnings:
        remark(f"warning: {warning}", quiet=options.quiet)
    if options.as_json:
        out_json(plan_document(job, settings, prepared, asked))
        return printed()
    if options.quiet:
        if not prepared.refusals:  # nothing stands in the way of a run
            return printed()
        tell_remarks()
        out(head)
    for line in prepared.lines():
        out(line)
    _list_calls(prepared, show_all=show_all)
    return printed()


def _reach(job: Job, settings: Settings, regions: Iterable[str]) -> Reach:
    from engine.cli.sources import reach_of

    return reach_of(run_settings(settings, job, job.action, regions), settings, simulated=False, purpose="plan")


def _prepared(
    job: Job, settings: Settings, plan: Plan, options: Options, reach: Reach | None, known: Survey | None
) -> Prepared:
    from engine.cli.reading import read_plan
    from engine.operations.preparing import prepare

    return prepare(
        plan,
        settings,
        read_plan(plan, settings, reach, None, known),
        world=None,
        listed_order=job.listed_order,
        resend_already=job.resend_already,
        expect=options.expect,
        take=_take(job, settings, options.clock()),
        exclude=(*job.exclude, *options.excludes()),
    )


def _take(job: Job, settings: Settings, now: float) -> Take | None:
    if job.take is None:
        return None
    from engine.operations.earlier import take_of  # here: it reads journals, which other plans do without

    return take_of(job, settings, simulated=False, now=now, tell=tell)


def _list_calls(prepared: Prepared, *, show_all: bool) -> None:
    plan = prepared.plan
    shown = plan.calls if show_all else plan.calls[:SHOWN]
    for call in shown:
        standing = prepared.outlook.standings[call.id] if prepared.found is not None else ""
        whose = f"{call.account}  " if call.account else ""
        out(f"  {whose}{call.label}  {call.region}  {standing}".rstrip())
    if len(shown) < len(plan.calls):
        out(f"  … and {len(plan.calls) - len(shown):,} more (--all, or --json)")
    for omit in plan.omits if show_all else plan.omits[:SHOWN]:
        out(f"  left out, {omit.reason}: {omit.target.named}  {omit.rule} ({omit.where})")
    if not show_all and len(plan.omits) > SHOWN:
        out(f"  … and {len(plan.omits) - SHOWN:,} more left out")


def plan_of(job: Job, settings: Settings, options: Options) -> Plan:
    """The plan of a job under the guards that hold; what a match means is in it if that was found before."""
    exclude = (*job.exclude, *options.excludes())
    return make_plan(job.action, job.targets, protect=settings.protect, exclude=exclude, omitted=job.omits)


def guards_of_job(job: Job, settings: Settings) -> tuple[str, ...]:
    """What bounds a run of the job, each with where it stands: the guards, how much it takes, when it may run."""
    found = list(settings.guards)
    if job.take is not None:
        found.append(f"limits.take {job.take:,} ({job.places['take']})")
    if job.window is not None:
        found.append(f"window {job.window.label} ({job.window.place})")
    return tuple(found)


def summary(
    job: Job,
    settings: Settings,
    plan: Plan,
    asked: Sequence[records.Matched] = (),
    *,
    simulated: bool = False,
    said: bool = False,
) -> str:
    """What is to be done, what is left out and why, the guards, the time: a dozen lines.

    With `said`, also what bounds the sending, as far as somebody has said it.
    """
    action = ACTIONS[plan.action]
    mark = "SIMULATED" if simulated else None
    head = "  ".join(value for value in (mark, plan.action, job.name, job.ticket, job.reason) if value)
    regions = sorted({call.region for call in plan.calls})
    places = ", ".join(regions[:4]) + (" …" if len(regions) > 4 else "")
    instances = plan.instances
    lines = [
        head,
        f"  to {action.verb}  {len(plan.calls):,} account{'s' * (len(plan.calls) != 1)} "
        f"on {instances:,} instance{'s' * (instances != 1)}  {places}",
        *map(match_line, asked),
    ]
    for reason, count in plan.left_out().items():
        if count:
            rules = dict.fromkeys(f"{o.rule} ({o.where})" for o in plan.omits if o.reason == reason)
            shown = ", ".join(list(rules)[:_RULES_SHOWN]) + (" …" if len(rules) > _RULES_SHOWN else "")
            lines.append(f"  {reason}  {count:,}  {shown}")
    lines += [f"  {guard}" for guard in guards_of_job(job, settings)]
    lines += [f"  {bound}" for bound in (_bounds(settings) if said else ())]
    if asked and not plan.calls:  # found out by nobody yet, or nothing
        return "\n".join(lines)
    return "\n".join([*lines, _time_line(job, settings, plan, simulated=simulated)])


def _bounds(settings: Settings) -> list[str]:
    """What was said of the sending and shows nowhere else in a plan, each with where it was said."""
    spans = {"timeout_s": settings.timeout_s, "deadline_s": settings.deadline_s}
    found = {"workers": f"{settings.workers:,}", **{key: duration(each) for key, each in spans.items() if each}}
    return [
        f"{key.removesuffix('_s')} {words} ({settings.origin[key]})"
        for key, words in found.items()
        if settings.origin.get(key, "default") != "default"
    ]


def _time_line(job: Job, settings: Settings, plan: Plan, *, simulated: bool) -> str:
    """How long the quota makes it last, and through which access points."""
    rate, routes = settings.rate_for(plan.action), _routes(settings, plan)
    signers = (lambda _account: 1) if simulated else _signers(job, settings)
    lanes = sum(route.lanes(signers(route.account)) for route in routes.every)
    endpoints = list(dict.fromkeys(endpoint for route in routes.every for endpoint in route.endpoints))
    where = ", ".join(endpoints[:_ENDPOINTS_SHOWN]) + (" …" if len(endpoints) > _ENDPOINTS_SHOWN else "")
    pace = f"{lanes} lanes × {rate:g}/s" if lanes > 1 else f"{rate:g}/s"
    about = _about(routes.seconds(rate, signers))
    return f"  time  about {about} at {pace}, on {'the built-in simulator' if simulated else where}"


def _signers(job: Job, settings: Settings) -> Callable[[str], int]:
    """How many identities sign for an account."""
    by_account = {account.name: account.signers for account in job.accounts}
    return lambda account: by_account.get(account) or max(1, len(settings.profiles))


def _routes(settings: Settings, plan: Plan) -> Routes:
    return routes_of(plan.calls, settings.access({call.region for call in plan.calls}))


def match_line(asked: records.Matched) -> str:
    """A match and what it found."""
    if asked.accounts is None:
        found = "NOT ASKED (--offline): which accounts, and how many, is not known, and they are not in this plan"
    else:
        accounts, instances = asked.accounts, asked.instances or 0
        found = f"{accounts:,} account{'s' * (accounts != 1)} on {instances:,} instance{'s' * (instances != 1)}"
    return f"  match  {asked.asks} ({asked.where}): {found}"


def _about(seconds: float) -> str:
    return duration(max(1.0, seconds)).replace(".0 s", " s")


def plan_document(job: Job, settings: Settings, prepared: Prepared, asked: Iterable[records.Matched]) -> dict[str, Any]:
    """The `plan --json` document (engine/README.md "JSON"). Any: JSON values."""
    plan, found = prepared.plan, prepared.found
    rate, routes = settings.rate_for(plan.action), _routes(settings, plan)
    signers = _signers(job, settings)
    return {
        "action": plan.action,
        "job": {"name": job.name, "path": str(Path(job.path)), "digest": job.digest},
        "plan_digest": plan.digest,
        "match": [
            {"where": each.where, "asks": each.asks, "instances": each.instances, "accounts": each.accounts}
            for each in asked
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
        "guards": list(guards_of_job(job, settings)),
        "would_refuse": list(prepared.refusals),
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
        "last_admins": list(prepared.outlook.last_admins),
        "calls": [
            {
                "call": call.id,
                "account": call.account,
                "region": call.region,
                "instance": call.instance,
                "user": call.user,
                "standing": str(prepared.outlook.standings[call.id]) if found is not None else None,
            }
            for call in plan.calls
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
