"""Door: the plan as a person and a program read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.actions import ACTIONS
from engine.cli.options import Options, endpoints_of
from engine.cli.talk import out, out_json, printed, warn
from engine.files import load_job
from engine.plan import Plan, make_plan

if TYPE_CHECKING:
    from engine.job import Job
    from engine.settings import Settings

SHOWN = 20
"""Calls a plan prints without `--all`."""
_RULES_SHOWN = 4


def show_plan(job_path: str, *, exclude: tuple[str, ...], show_all: bool, **common: Any) -> int:
    """The `plan` command. Any: the flags, by name."""
    options = Options(exclude=exclude, **common)
    job = load_job(job_path)
    settings = options.settings(job)
    plan = plan_of(job, settings, options)
    for warning in (*settings.warnings, *job.warnings):
        warn(f"warning: {warning}")
    if options.as_json:
        out_json(plan_document(job, settings, plan))
        return printed()
    out("PLAN, nothing sent\n" + summary(job, settings, plan))
    shown = plan.calls if show_all else plan.calls[:SHOWN]
    out("".join(f"  {call.label}  {call.region}\n" for call in shown).rstrip("\n"))
    if len(shown) < len(plan.calls):
        out(f"  … and {len(plan.calls) - len(shown):,} more (--all, or --json)")
    for omit in plan.omits if show_all else plan.omits[:SHOWN]:
        out(f"  left out, {omit.reason}: {omit.target.label}  {omit.rule} ({omit.where})")
    if not show_all and len(plan.omits) > SHOWN:
        out(f"  … and {len(plan.omits) - SHOWN:,} more left out")
    return printed()


def plan_of(job: Job, settings: Settings, options: Options) -> Plan:
    """The plan of a job under the guards that hold."""
    return make_plan(job.action, job.targets, protect=settings.protect, exclude=(*job.exclude, *options.excludes()))


def summary(job: Job, settings: Settings, plan: Plan, *, simulated: bool = False) -> str:
    """What is to be done, what is left out and why, the guards, the time: a dozen lines."""
    action = ACTIONS[plan.action]
    mark = "SIMULATED" if simulated else None
    head = "  ".join(value for value in (mark, plan.action, job.name, job.ticket, job.reason) if value)
    regions = sorted({call.region for call in plan.calls})
    places = ", ".join(regions[:4]) + (" …" if len(regions) > 4 else "")
    lines = [
        head,
        f"  to {action.verb}  {len(plan.calls):,} account{'s' * (len(plan.calls) != 1)} "
        f"on {plan.instances:,} instance{'s' * (plan.instances != 1)}  {places}",
    ]
    for reason, count in plan.left_out().items():
        if count:
            rules = dict.fromkeys(f"{o.rule} ({o.where})" for o in plan.omits if o.reason == reason)
            shown = ", ".join(list(rules)[:_RULES_SHOWN]) + (" …" if len(rules) > _RULES_SHOWN else "")
            lines.append(f"  {reason}  {count:,}  {shown}")
    lines += [f"  {guard}" for guard in settings.guards]
    rate = settings.rate or settings.quota(plan.action)
    lanes = max(1, len(settings.endpoints))
    where = "the built-in simulator" if simulated else ", ".join(endpoints_of(settings, regions))
    lines.append(f"  time  about {_about(len(plan.calls) / rate / lanes)} at {rate:g}/s, on {where}")
    return "\n".join(lines)


def _about(seconds: float) -> str:
    from engine.report import duration

    return duration(max(1.0, seconds)).replace(".0 s", " s")


def plan_document(job: Job, settings: Settings, plan: Plan) -> dict[str, Any]:
    """The `plan --json` document (engine/README.md "JSON"). Any: JSON values."""
    rate = settings.rate or settings.quota(plan.action)
    regions = sorted({call.region for call in plan.calls})
    endpoints = endpoints_of(settings, regions)
    return {
        "action": plan.action,
        "job": {"name": job.name, "path": str(Path(job.path)), "digest": job.digest},
        "plan_digest": plan.digest,
        "counts": {"calls": len(plan.calls), "instances": plan.instances},
        "left_out": plan.left_out(),
        "endpoint": list(endpoints),
        "rate": rate,
        "seconds_at_quota": round(len(plan.calls) / rate / max(1, len(endpoints)), 1),
        "guards": list(settings.guards),
        "warnings": [*settings.warnings, *job.warnings],
        "calls": [
            {
                "call": call.id,
                "account": call.account,
                "region": call.region,
                "instance": call.instance,
                "user": call.user,
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
