"""The summary of a plan, as a person reads it before the question."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.api.actions import ACTIONS
from engine.planning.routes import Routes, routes_of
from engine.report.spans import duration

if TYPE_CHECKING:
    from engine.inputs.job import Job
    from engine.inputs.settings import Settings
    from engine.journal import records
    from engine.operations.drafts import Draft
    from engine.planning.plan import Plan

_RULES_SHOWN = 4
_ENDPOINTS_SHOWN = 3


def summary(made: Draft, *, simulated: bool = False, said: bool = False) -> str:
    """What is to be done, what is left out and why, the guards, the time: a dozen lines.

    With `said`, also what bounds the sending, as far as somebody has said it.
    """
    job, settings, plan, asked = made.job, made.settings, made.plan, made.matched
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
    lines += [f"  {guard}" for guard in made.guards()]
    if job.hold is not None or job.watch is not None:
        from engine.report.afterwards import plan_lines  # here: most jobs have none

        lines += [f"  {line}" for line in plan_lines(job, made.at, simulated=simulated)]
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
    rate, routes = settings.rate_for(plan.action), routes_for(settings, plan)
    signers = (lambda _account: 1) if simulated else signers_of(job, settings)
    lanes = sum(route.lanes(signers(route.account)) for route in routes.every)
    endpoints = list(dict.fromkeys(endpoint for route in routes.every for endpoint in route.endpoints))
    where = ", ".join(endpoints[:_ENDPOINTS_SHOWN]) + (" …" if len(endpoints) > _ENDPOINTS_SHOWN else "")
    pace = f"{lanes} lanes × {rate:g}/s" if lanes > 1 else f"{rate:g}/s"
    about = _about(routes.seconds(rate, signers))
    return f"  time  about {about} at {pace}, on {'the built-in simulator' if simulated else where}"


def signers_of(job: Job, settings: Settings) -> Callable[[str], int]:
    """How many identities sign for an account, by its name."""
    by_account = {account.name: account.signers for account in job.accounts}
    return lambda account: by_account.get(account) or max(1, len(settings.profiles))


def routes_for(settings: Settings, plan: Plan) -> Routes:
    """The routes of a plan, through the access points of these settings."""
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
