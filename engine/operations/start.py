"""Start a job: its last run decides whether that run is resumed, or a new run begins."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from engine.errors import RefusedError, UsageError
from engine.inputs.files import recorded
from engine.journal import records
from engine.operations.begin import planned
from engine.operations.drafts import Drafted, draft, settings_of
from engine.operations.earlier import Unfinished, job_place, left_to_a_person, only_a_person, take_of, unfinished
from engine.operations.events import Changed
from engine.operations.frozen import run_settings
from engine.operations.proposal import Nothing, Planned, Proposal, refuse_empty
from engine.operations.simulated import faults_of, fleet_of
from engine.operations.stores import trusted_store
from engine.operations.today import stranger
from engine.operations.windows import hold

if TYPE_CHECKING:
    from engine.inputs.job import Job
    from engine.journal.protocols import Runs
    from engine.operations.resume import Finished, Resumption
    from engine.operations.terms import Terms

NOTHING = "nothing to do: no account is left to act on, and the job allows that; nothing was sent"


class CutOff(Struct, frozen=True, kw_only=True):
    """The last run of a job, which was cut off and with which `run` goes on."""

    left: Unfinished
    job: Job
    terms: Terms
    """The terms of the resume, without those that only describe a new run: here the journal decides these."""

    @property
    def question(self) -> str:
        """What is approved."""
        return f"About to go on with run {self.left.run_id}"

    async def resumption(self) -> Resumption | Finished:
        """Return the run as it can be resumed, or as it has ended."""
        from engine.operations.resume import resumption  # here: nearly every run begins anew

        return await resumption(self.terms, self.left.run_id, self.job)


async def plan_run(terms: Terms, job: Job) -> Planned | CutOff | Nothing:
    """Plan what `run` does with a job. RefusedError if its last run was cut off, and `on_unfinished` is `refuse`."""
    terms = hold(job.window, terms)
    settings = terms.settings(job)
    store = trusted_store(settings, simulated=terms.simulate)
    _refuse_what_a_person_stopped(store, job, terms)
    left = unfinished(store, job, terms.clock(), terms.tell)
    if left is not None and _goes_on(left, job, terms, store):
        _refuse_lost_flags(left, terms)
        return CutOff(left=left, job=job, terms=replace(terms, **_NOT_OF_RESUME))
    return await plan_new(terms, job)


def _refuse_what_a_person_stopped(store: Runs, job: Job, terms: Terms) -> None:
    """Raise RefusedError if the last run of the job ended paused or red: only a person who names it goes on with it."""
    left = left_to_a_person(store, job, terms.clock(), terms.tell) if not terms.simulate else None
    if left is not None:
        why = only_a_person(store, left.ledger, terms.repeat(store))
        raise RefusedError(f"run {left.run_id} of this job {why}; on_unfinished does not decide that")


async def plan_new(terms: Terms, job: Job) -> Planned | Nothing:
    """Plan a new run of a job, whatever ran before it."""
    faults = faults_of(terms)
    world = fleet_of(terms, job, faults)
    settings = settings_of(terms, job)
    made = await draft(terms, job, settings, world=world, purpose="match")
    terms.tell(Drafted(made, simulated=terms.simulate))
    job, plan = made.job, made.plan
    if made.may_be_empty and not terms.yes:
        return Nothing(why=NOTHING)
    if made.may_be_empty:
        terms.tell(Changed(NOTHING))
    else:
        refuse_empty(plan)
    regions = {call.region for call in plan.calls}
    return await planned(
        Proposal(
            terms=terms,
            settings=settings,
            frozen=run_settings(settings, job, job.action, regions, real_gate=terms.real_gate),
            waves_at=job.waves.place if job.waves is not None else None,
            plan=plan,
            job=records.JobRef(job.name, job_place(job), job.digest),
            reason=job.reason,
            ticket=job.ticket,
            stop_after=settings.stop_after_for(job.action),
            faults=faults,
            listed_order=job.listed_order,
            take=take_of(job, settings, simulated=terms.simulate, now=terms.clock(), tell=terms.tell),
            guarded_by=_guard_home(job),
            asked=terms.asked(),
            exclude=(*job.exclude, *terms.excludes()),
            known=made.known,
            guessed=tuple(guess.choice for guess in job.guesses if guess.choice),
            matched=made.matched if made.known is not None else (),
            world=world,
            may_be_empty=made.may_be_empty,
            guards=partial(terms.settings, job),
            hold=job.hold,
        )
    )


def _guard_home(job: Job) -> str:
    """Return where the guards of this job are: its file or, without one, the directory the command was typed in."""
    return recorded(str(Path(job.path).absolute() if job.is_file else Path.cwd()))


def _goes_on(left: Unfinished, job: Job, terms: Terms, store: Runs) -> bool:
    """Return whether `run` goes on with the unfinished run; RefusedError if `on_unfinished` is `refuse`."""
    what = f"run {left.run_id} of this job was cut off with {left.open_calls:,} calls open"
    how = terms.on_unfinished or job.on_unfinished
    if how == "refuse":
        raise RefusedError(
            f"{what} (on_unfinished: refuse); nothing was sent; go on with it: acctops resume {left.run_id}, "
            "or begin anew: --on-unfinished new"
        )
    other = _what_differs(left, job, terms, store)
    if how == "resume" and other is None:
        terms.tell(Changed(f"{what}; going on with it (on_unfinished: resume)"))
        return True
    why = other if how == "resume" else "on_unfinished: new"
    terms.tell(Changed(f"{what}; beginning anew ({why}): what that one changed is read first"))
    return False


def _what_differs(left: Unfinished, job: Job, terms: Terms, store: Runs) -> str | None:
    """Return why the run cannot be resumed for this job: what is no longer as the run had it; None if nothing is."""
    run, settings = left.ledger.run, left.ledger.settings
    now = terms.settings(job)
    if (strange := store.doubt(left.run_id, now.trust)) is not None:
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


def _refuse_lost_flags(left: Unfinished, terms: Terms) -> None:
    """Raise UsageError for a flag that only a new run can have, unless the older run has the same."""
    run = left.ledger.run
    for flag, said, had in (
        ("--ticket", terms.ticket, run.ticket),
        ("--reason", terms.reason, run.reason),
        ("--faults", terms.faults, None),
        ("--fleet", terms.fleet, None),
    ):
        if said is not None and said != had:
            was = f"was begun with {had}" if had else "was begun without it"
            raise UsageError(
                f"{flag} {said}: the cut-off run {left.run_id} of this job, which is to be gone on with, {was}; leave "
                "the flag away, or begin anew: --on-unfinished new"
            )


_NOT_OF_RESUME: dict[str, object] = {
    "simulate": False,
    "faults": None,
    "fleet": None,
    "reason": None,
    "ticket": None,
    "skip_bad_rows": False,
    "on_unfinished": None,
    "endpoints": (),
    "no_verify": False,
}
"""Terms that only describe a new run. An older run has them in its journal, and they were compared with it."""
