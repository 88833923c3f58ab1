"""The plan of a job before anything is read for it: what its lists and matches mean, and what guards leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from engine.errors import JobError
from engine.journal import records
from engine.operations.events import Event, Remarked, Warned
from engine.operations.frozen import run_settings
from engine.outside.foreign import pasted
from engine.planning.plan import Plan, make_plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.cloud.clients import Reach
    from engine.inputs.job import HoldSpec, Job
    from engine.inputs.match import InstanceRow
    from engine.inputs.settings import Settings
    from engine.model import Where
    from engine.operations.discovering import Discovered
    from engine.operations.preparing import Prepared
    from engine.operations.survey import Survey
    from engine.operations.terms import Terms
    from engine.simulator.world import World


class Draft(Struct, frozen=True, kw_only=True):
    """A job, its settings and its plan."""

    job: Job
    """The job, with its matches answered if they were asked."""
    settings: Settings
    plan: Plan
    matched: tuple[records.Matched, ...] = ()
    """What the matches ask, and what they found if they were asked."""
    known: Survey | None = None
    """What the matches have read."""
    rows: Mapping[Where, InstanceRow] = field(default_factory=dict)
    """The instances that the matches found, as listed."""
    reach: Reach | None = None
    """How the matches reached the API. None: none was asked."""
    is_fine_without_calls: bool = False
    """Whether the job allows that nothing is found."""
    at: float = 0.0
    """UNIX time at which it was made."""

    @property
    def may_be_empty(self) -> bool:
        """Whether there is nothing to do and nothing lacking, and the job allows that."""
        return self.is_fine_without_calls and not self.plan.calls and not self.plan.lacking

    def guards(self) -> tuple[str, ...]:
        """Return what limits a run, each with its place: the guards, `limits.take` and the window."""
        job, found = self.job, list(self.settings.guards)
        if job.take is not None:
            found.append(f"limits.take {job.take:,} ({job.places['take']})")
        if job.window is not None:
            found.append(f"window {job.window.label} ({job.window.place})")
        return tuple(found)


class Drafted(Event, frozen=True):
    """The plan of a job is known; its accounts are read next."""

    draft: Draft
    simulated: bool


def settings_of(terms: Terms, job: Job) -> Settings:
    """Return the settings for a job that is to be run; tell what is odd about them or the job.

    JobError if its hold would end in the past, or too far ahead.
    """
    if job.hold is not None:
        _refuse_end(job.hold, terms.clock())
    settings = terms.settings(job)
    check_soaks(job, terms)
    chosen = {str(guess) for guess in job.guesses if guess.choice}
    for warning in (*settings.warnings, *job.warnings):
        terms.tell(Warned(warning, always=terms.yes and warning in chosen))  # nobody is asked: a quiet run says it, too
    for odd in job.remarks:
        terms.tell(Remarked(odd))
    return settings


def check_soaks(job: Job, terms: Terms) -> None:
    """Warn if the soaks take longer than the window is open; JobError if one alone does: it could never end."""
    waves, window = job.waves, job.window
    if waves is None or window is None:
        return
    from engine.report.afterwards import span  # here: most jobs have none
    from engine.schedule.units import minutes_open

    longest = max(wave.soak_s for wave in waves.waves)
    soaks_s, open_s = sum(wave.soak_s for wave in waves.waves), minutes_open(window) * 60
    if longest >= open_s:
        what = f"a soak of {span(longest)} never ends in a window that is open for {span(open_s)}"
        raise JobError([f"{waves.place}: waves: {what}"])
    if soaks_s >= open_s:
        what = f"the waves soak {span(soaks_s)}, and the window is open for {span(open_s)}: one opening is not enough"
        terms.tell(Warned(f"{waves.place}: {what}, and each goes on where the one before stopped"))


def _refuse_end(hold: HoldSpec, now: float) -> None:
    """Raise JobError for a hold whose end is past, or more than a year ahead."""
    from engine.report.afterwards import end_problem  # here: most jobs have none

    if (problem := end_problem(hold, now)) is not None:
        raise JobError([problem])


def draft_of(terms: Terms, job: Job, settings: Settings, discovered: Discovered | None = None) -> Draft:
    """Return the plan of a job; it has the targets of its matches only if these were `discovered`."""
    asked = tuple(records.Matched(str(each.place), each.words(), None, None) for each in job.matches)
    if discovered is not None:
        job, asked = discovered.job, tuple(discovered.lines())
    exclude = (*job.exclude, *terms.excludes())
    return Draft(
        job=job,
        settings=settings,
        plan=make_plan(job.action, job.targets, protect=settings.protect, exclude=exclude, omitted=job.omits),
        matched=asked,
        known=discovered.found if discovered is not None else None,
        rows=discovered.rows if discovered is not None else {},
        is_fine_without_calls=discovered is not None and discovered.is_fine_without_calls,
        at=terms.clock(),
    )


async def draft(terms: Terms, job: Job, settings: Settings, *, world: World | None = None, purpose: str) -> Draft:
    """Return the plan of a job, with its matches answered through the API or in the simulated `world`."""
    if not job.matches:
        return draft_of(terms, job, settings)
    from engine.operations.discovering import discover, match_regions, refuse_unlimited  # here: most jobs have no match
    from engine.operations.reach import reach_of

    if terms.yes:
        refuse_unlimited(job, settings)
    frozen = run_settings(settings, job, job.action, match_regions(job))
    reach = await reach_of(frozen, settings, terms, purpose=purpose)
    discovered = await discover(job, settings, reach=reach, world=world, tell=terms.tell)
    return replace(draft_of(terms, job, settings, discovered), reach=reach)


def prepared(terms: Terms, made: Draft, found: Survey | None) -> Prepared:
    """Compare a draft with what was `found` (None: nothing was read): order its plan, and see what guards refuse."""
    from engine.operations.preparing import prepare

    job = made.job
    take = None
    if job.take is not None:
        from engine.operations.earlier import take_of  # here: it reads journals, which other plans do without

        take = take_of(job, made.settings, simulated=terms.simulate, now=terms.clock(), tell=terms.tell)
    return prepare(
        made.plan,
        made.settings,
        found,
        world=None,
        listed_order=job.listed_order,
        resend_already=job.resend_already,
        expect=terms.expect,
        take=take,
        exclude=(*job.exclude, *terms.excludes()),
        waves=job.waves,
        way=fix_command(job.path, terms, made.settings) if job.is_file else "",
    )


def fix_command(path: str, terms: Terms, settings: Settings) -> str:
    """Return the command that writes the list of a job file as it should be."""
    return f"acctops plan {pasted((path, *terms.asked()))}{terms.repeat(settings)} --fix fixed.csv"
