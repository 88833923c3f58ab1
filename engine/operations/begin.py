"""Plan a new run, and begin it once it is approved. All that can refuse a run does so before it exists.

`planned` reads the accounts of a plan and checks its guards. `begin` takes the approval, checks again if it came late,
creates the run under its claim, and works on it.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine import __version__
from engine.api.actions import ACTIONS
from engine.cloud.clients import Reach, identity, refuse_strangers
from engine.errors import AllHeldError, NothingLeftError, Reason, RefusedError
from engine.inputs.files import from_recorded, job_file, recorded
from engine.journal import records
from engine.journal.ledger import Ledger
from engine.journal.protocols import Claim, Runs
from engine.model import Call, CallId, Omit, OmitReason, Rival, RunId, Target, call_id
from engine.operations.carrying import Ended, carry_out
from engine.operations.drafts import fix_command
from engine.operations.events import Warned, nobody
from engine.operations.frozen import check_metrics
from engine.operations.holding import held_words
from engine.operations.preparing import Looked, is_read, prepare, read_for, refuse_blind, refuse_unread, unshown
from engine.operations.proposal import Approval, Planned, Proposal, refuse_empty
from engine.operations.reach import passwords_of, reach_of
from engine.operations.session import Session, nothing_stays
from engine.operations.stores import store_of, trusted_store
from engine.operations.terms import operator
from engine.operations.windows import hold, window_of
from engine.outside.foreign import pasted
from engine.planning.plan import Plan

if TYPE_CHECKING:
    from engine.inputs.job import WavesSpec
    from engine.inputs.settings import Settings
    from engine.journal.protocols import Journal
    from engine.operations.events import Tell
    from engine.operations.handing import Handing
    from engine.operations.permits import Permit
    from engine.operations.session import Watch

LATE_S = 5.0
"""Seconds after which an approval is late: the accounts may have changed, so they are read again."""


# ---- before the approval ---------------------------------------------------------------------------------------------


async def planned(new: Proposal) -> Planned:
    """Read the accounts of a proposal, order its plan, check its guards, and return the run that waits for approval.

    AcctopsError if anything forbids the run. The user is told how the accounts stand before a guard refuses.
    """
    terms = hold(window_of(new.frozen), new.terms, rerun=new.parent is not None)
    new = replace(new, terms=terms)
    check_metrics(new.settings, simulated=terms.simulate)
    store = trusted_store(new.settings, simulated=terms.simulate)
    if terms.detach:
        from engine.operations.handing import check_detached  # here: few runs are

        check_detached(store)
    run_id = store.new_run_id(terms.clock(), random.Random())
    tell = terms.tell if new.known is None else nobody  # a match has told of these keys
    reach = await reach_of(new.frozen, new.settings, terms, purpose=run_id, tell=tell)
    if new.frozen.waves is not None:
        from engine.operations.gates import check_waves  # here: most runs have no waves

        check_waves(new.frozen, simulated=terms.simulate, job_path=new.job.path)
    passwords = passwords_of(new.frozen, new.plan.action, new.settings.trust, tell=terms.tell)
    new = await _read(new, reach)
    if not terms.simulate and not terms.is_saving and not terms.is_applying:  # before anybody is asked for nothing
        await _goes_unapproved(new, new.settings, new.plan.calls, tell=nobody)
        _warn_of_later(new)
    if (scarce := store.check_room(len(new.plan.calls))) is not None:
        terms.tell(Warned(scarce))
    return Planned(
        proposal=new,
        run_id=run_id,
        store=store,
        reach=reach,
        passwords=passwords,
        at=terms.clock(),  # wall clock: it goes on while a laptop sleeps
    )


async def _read(new: Proposal, reach: Reach) -> Proposal:
    """Return the proposal with its instances read, its plan ordered and its guards checked."""
    if new.found is not None:
        return new
    terms, world = new.terms, new.world
    if terms.simulate and world is None:
        from engine.operations.simulated import simulated_world

        world = simulated_world(new.plan.action, new.plan.calls, (), new.faults, seed=terms.seed or 0)
    found = None
    if new.frozen.verify and is_read(new.plan, new.settings):
        found = await read_for(new.plan, new.settings, reach=reach, world=world, known=new.known)
    prepared = prepare(
        new.plan,
        new.settings,
        found,
        world=world,
        listed_order=new.listed_order,
        resend_already=new.frozen.resend_already,
        expect=terms.expect,
        take=new.take,
        exclude=new.exclude,
        waves=_waves(new),
        simulated=terms.simulate,
        way=_fix_command(new) if world is None else "",
    )
    refuse_strangers(reach.keyring, new.uins)
    if new.undone is None and not terms.simulate:
        store = store_of(new.settings, simulated=False)
        if (words := _held_words(new, store, prepared.plan)) is not None:
            terms.tell(Warned(words))
    for warning in prepared.warnings:
        terms.tell(Warned(warning))
    terms.tell(Looked(prepared))
    prepared.refuse()
    if not new.may_be_empty:
        refuse_empty(prepared.plan)
    may_be_asked = terms.attended and not terms.yes
    unread = refuse_unread(prepared, can_ask=may_be_asked, unread_command=_unread_command(new))
    for warning in unshown(prepared.plan, "such a run") if unread else ():
        terms.tell(Warned(warning))
    frozen = replace(new.frozen, verify=False) if unread else new.frozen
    refuse_blind(new.plan.action, frozen, max_share=new.settings.max_share)
    to_change = prepared.outlook.to_change if prepared.found is not None else None
    return replace(new, plan=prepared.plan, found=prepared.found, world=world, frozen=frozen, to_change=to_change)


def _fix_command(new: Proposal) -> str:
    """Return the command that writes the job's list with the regions where instances are; empty if none does."""
    if new.parent is not None or job_file(new.job.path) is None:
        return ""
    return fix_command(from_recorded(new.job.path), new.terms, new.settings)


async def _goes_unapproved(new: Proposal, settings: Settings, calls: Sequence[Call], *, tell: Tell) -> bool:
    """Return whether it goes on without the signatures that a config asks for, as a person says why.

    RefusedError if it must not. An undo at the end of a hold may under the approval of the run that it undoes.
    """
    if settings.approvals is None and new.terms.unapproved is None:
        return False
    from engine.operations.permits import refuse_unapproved, under_parent  # here: most operators ask for none

    return await asyncio.to_thread(
        refuse_unapproved,
        settings.approvals,
        new.plan.action,
        len(calls),
        unapproved=new.terms.unapproved,
        way=_saving_command(new),
        tell=tell,
        under=under_parent(new.undone, new.plan.action, calls, now=new.terms.clock()),
    )


def _warn_of_later(new: Proposal) -> None:
    """Warn if a machine is to take back what the run does, and nobody has signed that."""
    rules, frozen = new.settings.approvals, new.frozen
    if rules is None or new.parent is not None or (frozen.hold_then is None and frozen.waves is None):
        return
    from engine.operations.permits import later_words

    if (words := later_words(rules, new.plan.action, len(new.plan.calls), new.frozen)) is not None:
        new.terms.tell(Warned(words))


def _saving_command(new: Proposal) -> str:
    """Return the command that plans the same for a file, up to `--save`."""
    flags = new.terms.repeat(new.settings)
    if new.parent is not None:
        asked = new.asked if new.verb == "undo" else ()
        return f"acctops {pasted((new.verb, new.parent.run_id, *asked))}{flags}"
    if job_file(new.job.path) is not None:
        return f"acctops plan {pasted((from_recorded(new.job.path), *new.asked))}{flags}"
    return "this command with"


def _held_words(new: Proposal, store: Runs, plan: Plan) -> str | None:
    flags = new.terms.repeat(store)
    return held_words(store, plan.action, plan.calls, new.settings.trust, flags)


def _unread_command(new: Proposal) -> str:
    """Return the command that starts this run without readings."""
    flags = f"{new.terms.repeat(new.settings)} --no-verify"
    if new.parent is not None:
        return f"acctops {new.verb} {new.parent.run_id}{flags}"
    is_file = job_file(new.job.path) is not None
    job = pasted((from_recorded(new.job.path), *new.asked))
    return f"acctops run {job}{flags}" if is_file else "this command with --no-verify"


# ---- after it --------------------------------------------------------------------------------------------------------


async def begin(this: Planned, approval: Approval, watch: Watch | None = None) -> Ended:
    """Create the run that was approved, and work on it to its end.

    RefusedError, and no run is created, if its window has closed or if a change since planning forbids it.
    """
    terms = this.proposal.terms
    new = _with_end(this.proposal, terms.clock())
    hold(window_of(new.frozen), terms, rerun=new.parent is not None)  # it may have closed meanwhile
    settings = new.settings
    if abs(terms.clock() - this.at) > LATE_S:
        settings = new.guards() if new.guards is not None else new.settings
        new = await _looked_at_again(new, settings, this.reach)
    is_unapproved = await _refuse_unsigned(new, settings, this.plan.calls)
    keep_admins = new.frozen.keep_admins
    with claim(this.store, this.run_id, new.job, new.plan.action, new.plan.calls, keep_admins=keep_admins) as rivals:
        new = _standing_back(new, rivals)
        _refuse_held(new)
        if new.permit is not None:
            _use_up(this, new.permit)
        parent = _link_parent(new, this.run_id)
        _end_holds(new)
        if new.undone is not None:
            new.undone.note_seen(new.seen, terms.clock)
        handing = await _handing(this, new)
        lines = _first_lines(
            new, this.reach, parent, handing.lines if handing is not None else (), is_unapproved=is_unapproved
        )
        journal, ledger = _create(this.store, this.run_id, lines, terms.clock)
        with closing(journal):
            journal.append(approval.as_record(), ledger.apply)
            if handing is not None:
                await journal.durable()
            else:
                session = Session(
                    store=this.store,
                    journal=journal,
                    ledger=ledger,
                    reach=this.reach,
                    passwords=this.passwords,
                    stop_after=new.stop_after,
                    world=new.world,
                    seed=terms.seed,
                    found=new.found,
                    rivals=rivals,
                    stays=new.undone.still_so() if new.undone is not None else nothing_stays,
                    may_begin=_until_expired(new, settings),
                )
                ended = await carry_out(session, terms, new.settings, watch)
    if handing is not None:  # without the claim, which the worker that leads the run makes anew
        from engine.operations.handing import hand_over

        ended = await hand_over(handing.board, this.run_id, journal.durable_seq, terms, new.settings, watch)
    is_partial = new.undone is not None and new.undone.older is not None
    return replace(ended, reason=Reason.INCOMPLETE) if is_partial and ended.reason is Reason.OK else ended


async def _handing(this: Planned, new: Proposal) -> Handing | None:
    """Return the shards of a run that is handed over to workers; None for one that this process works on."""
    if (this.store.database is None and not new.terms.detach) or not new.plan.calls:  # without calls nobody takes it
        return None
    from engine.operations.handing import handing, is_for_workers, unserved  # here: most runs have no workers

    board = is_for_workers(this.store, new.terms)
    if board is None:
        return None
    plan = new.plan if new.permit is None else _as_signed(new.plan, new.permit)[0]
    spec, action = _waves(new), new.plan.action
    waves = _sizes(spec, len(plan.calls)) if spec is not None else ()
    found = await handing(board, plan.calls, waves, new.frozen, action, this.reach)
    if not new.terms.detach and (whose := await asyncio.to_thread(unserved, found)):
        new.terms.tell(Warned(f"no worker has keys of {whose}, so this command sends by itself", always=True))
        return None
    return found


async def _refuse_unsigned(new: Proposal, settings: Settings, calls: Sequence[Call]) -> bool:
    """Refuse a plan without the signatures that a config asks for; return whether it goes on without, for a reason.

    This is the last look at them before the run exists: signers and clock as they are now. `calls`: as planned.
    """
    if new.terms.simulate:
        return False
    if new.permit is None:
        return await _goes_unapproved(new, settings, calls, tell=new.terms.tell)
    from engine.operations.permits import permit_of

    new.permit.refuse_beyond(new.plan.action, (call.id for call in new.plan.calls))
    if settings.approvals is not None:
        await asyncio.to_thread(permit_of, new.permit.file, settings.approvals, new.terms.clock())
    return False


def _use_up(this: Planned, permit: Permit) -> None:
    """Use up an approved plan for this run, durably; RefusedError if another run did so before."""
    by = this.store.use_up(permit.file.hash, this.run_id)
    if by is not None:
        from engine.operations.permits import used_words

        raise RefusedError(used_words(this.store, by, this.proposal.terms))


def _until_expired(new: Proposal, settings: Settings) -> Callable[[], None]:
    """Return what is asked before the first call is sent: whether the approval still counts."""
    if new.permit is None:
        return lambda: None
    from engine.operations.permits import refuse_expired

    signed = tuple(each.signed for each in new.permit.proven)
    rules = settings.approvals
    return partial(refuse_expired, signed, rules.keys if rules is not None else len(signed), new.terms.clock)


def _with_end(new: Proposal, confirmed_at: float) -> Proposal:
    """Return the proposal with the end of its hold, which counts from the confirmation. RefusedError if it is past."""
    if new.hold is None:
        return new
    until = new.hold.ends_at(confirmed_at)
    if until <= confirmed_at:
        from engine.report.afterwards import moment

        raise RefusedError(
            f"refused: the hold would end at {moment(until)}, which has passed since it was planned; nothing was sent; "
            f"give a later end: {new.hold.said} ({new.hold.place})"
        )
    return replace(new, frozen=replace(new.frozen, hold_until=records.rfc3339(until)))


async def _looked_at_again(new: Proposal, settings: Settings, reach: Reach) -> Proposal:
    """Return the proposal with accounts as they are now, some time after they were shown, under today's `settings`."""
    from engine.operations.anew import look_again  # here: an approval in time does not need it

    if new.verb == "undo":
        settings = replace(settings, max_share=None)  # an undo takes back: no share bounds it
    frozen = replace(new.frozen, keep_admins=max(new.frozen.keep_admins, settings.keep_admins))
    refuse_blind(new.plan.action, frozen, max_share=settings.max_share)
    plan, found = await look_again(
        new.plan,
        new.found,
        replace(settings, keep_admins=frozen.keep_admins),
        reach=reach if frozen.verify else None,
        world=new.world,
        stays=new.undone.still_so() if new.undone is not None else None,
        tell=new.terms.tell,
    )
    _refuse_emptied(new, plan)
    return replace(new, plan=plan, found=found, frozen=frozen)


def _refuse_emptied(new: Proposal, plan: Plan) -> None:
    """Refuse a plan that has lost its calls, as `refuse_empty` does; NothingLeftError if all of an undo must stay."""
    if new.undone is not None and not plan.calls and plan.lacking:
        raise NothingLeftError("all that was to be brought back must stay by now, as said above; nothing was sent")
    if not new.may_be_empty:
        refuse_empty(plan)


def _standing_back(new: Proposal, rivals: tuple[Rival, ...]) -> Proposal:
    """Return the proposal without what other runs have a claim on. Our own claim keeps further runs out from now on."""
    held = new.undone.held() if new.undone is not None else {}
    planned = {call.id for call in new.plan.calls}
    held = {call: omit for call, omit in held.items() if call in planned}
    if not held and not rivals:
        return new
    if new.undone is not None and not new.undone.is_by_limit:
        new = replace(new, released=(*new.released, *new.undone.originals(held)))
    from engine.operations.anew import stand_back

    plan = stand_back(
        new.plan,
        new.found.readings if new.found is not None else {},
        keep_admins=new.frozen.keep_admins,
        rivals=rivals,
        held=held,
        tell=new.terms.tell,
    )
    if plan is not new.plan and not (held and not plan.calls):
        _refuse_emptied(new, plan)
    return replace(new, plan=plan)


def _refuse_held(new: Proposal) -> None:
    """End the undo of which others hold all by now: its run's holds end, and nothing is to be sent."""
    if new.undone is None or new.plan.calls:
        return
    if not new.undone.is_by_limit:
        _end_holds(new)
    if new.plan.lacking:
        raise NothingLeftError("all that was to be brought back must stay by now, as said above; nothing was sent")
    raise AllHeldError("all that was to be brought back is held by others by now, as said above; nothing was sent")


def _end_holds(new: Proposal) -> None:
    """End the holds of an undo's run on what it does not open; tell what nobody holds now, as others ended theirs."""
    if new.undone is None:
        return
    opening = new.undone.originals({call.id for call in new.plan.calls})
    if owed := new.undone.end_holds(new.released, opening, new.terms.clock):
        flags = new.terms.repeat(new.settings)
        new.terms.tell(Warned(new.undone.owed_words(owed, flags), always=True))


def _link_parent(new: Proposal, run_id: RunId) -> records.Parent | None:
    """Note the run in its parent's journal, under its lock, before its own first line; return the link, if any."""
    if new.parent is None:
        return None
    if new.parent.store is None:
        told = f"{new.parent.place} lies outside a state directory; it is not told of this {new.verb}"
        new.terms.tell(Warned(told))
        found = new.parent.replay()
        return records.Parent(new.parent.run_id, new.verb, found.head)
    store = new.parent.store
    journal, found = store.open(new.parent.run_id, clock=new.terms.clock)  # its lock: no resume may begin meanwhile
    try:
        what = "undone_by" if new.verb == "undo" else "continued_by"
        note = records.Note(what=what, data={"run": run_id, "verb": new.verb})
        store.add_aside(new.parent.run_id, [note], clock=new.terms.clock)
        return records.Parent(new.parent.run_id, new.verb, found.head)
    finally:
        journal.close()


def _first_lines(
    new: Proposal,
    reach: Reach,
    parent: records.Parent | None,
    shards: Sequence[records.ShardLine],
    *,
    is_unapproved: bool,
) -> Iterator[records.AnyRecord]:
    """Yield the lines with which a run comes to exist. Of a plan that was approved all calls stand there, as signed;
    each that is not open any more is left out by a line of its own.
    """
    plan = new.plan
    left: tuple[tuple[CallId, Omit], ...] = ()
    if new.permit is not None:
        plan, left = _as_signed(new.plan, new.permit)
    yield records.Run(
        job=new.job,
        action=new.plan.action,
        reason=new.reason,
        ticket=new.ticket,
        operator=operator(),
        host=os.uname().nodename,
        pid=os.getpid(),
        version=__version__,
        identity=identity(reach.keyring),
        simulated=new.terms.simulate,
        parent=parent,
        settings=new.frozen,
        plan_digest=plan.digest,
        counts={"calls": len(plan.calls), **plan.left_out()},
        match=new.matched,
        guarded_by=new.guarded_by,
        asked=tuple(map(recorded, new.asked)),
        shards=len(shards),
    )
    for call in plan.calls:
        yield records.call_line(call)
    for omit in plan.omits:
        yield records.omit_line(omit.target, str(omit.reason), omit.rule, omit.where)
    yield from _wave_lines(new, len(plan.calls))
    if new.permit is not None:
        yield from new.permit.lines()
    if is_unapproved:
        yield records.Note(what="unapproved", data={"reason": new.terms.unapproved, "by": operator()})
    for closed, omit in left:
        yield records.omit_line(omit.target, str(omit.reason), omit.rule, omit.where, closed)
    yield from shards


def _waves(new: Proposal) -> WavesSpec | None:
    if new.frozen.waves is None:
        return None
    from engine.operations.gates import waves_of  # here: most runs have no waves

    spec = waves_of(new.frozen)
    return replace(spec, place=new.waves_at) if spec is not None and new.waves_at is not None else spec


def _wave_lines(new: Proposal, calls: int) -> Iterator[records.WaveLine]:
    spec = _waves(new)
    if spec is None:
        return
    for n, count in enumerate(_sizes(spec, calls), start=1):
        if count:
            yield records.WaveLine(n=n, calls=count, state=records.PLANNED)


def _sizes(spec: WavesSpec, calls: int) -> Sequence[int]:
    """Return how many of the calls of a plan are in each wave."""
    from engine.planning.waves import sizes

    return sizes(spec.waves, calls)


def _as_signed(plan: Plan, permit: Permit) -> tuple[Plan, tuple[tuple[CallId, Omit], ...]]:
    """Return the plan with all calls that were signed, and those of them that are not open now, each with the reason.

    What the plan of today leaves out beside them stays as it is.
    """
    signed = permit.file.plan
    sent = {call.id for call in plan.calls}
    omits = {_key(omit.target): omit for omit in plan.omits}
    left = []
    for call in signed.whole:
        key = (call.account, call.region, call.instance, call.user)
        if call.id not in sent:
            target = Target(call.instance, call.user, call.region, call.account)
            closed = Omit(target, OmitReason.EXCLUDED, "not open any more", "the plan as it is applied")
            left.append((call.id, omits.pop(key, closed)))
    beside = tuple(omit for omit in plan.omits if _key(omit.target) in omits)
    whole = Plan(action=plan.action, calls=signed.whole, omits=beside, digest=signed.plan_digest)
    return whole, tuple(left)


def _key(target: Target) -> tuple[str, str, str, str]:
    return target.account, target.region, target.instance, target.user


def claim(
    store: Runs, run_id: RunId, job: records.JobRef, action: str, calls: Sequence[Call], *, keep_admins: int
) -> AbstractContextManager[tuple[Rival, ...]]:
    """Claim the right to work on these accounts, and yield the rivals; BusyError if a live run here forbids it."""
    inverse = ACTIONS[action].inverse
    mine = Claim(
        run_id=run_id,
        digest=job.digest,
        path=job.path if job_file(job.path) is not None else "",
        action=action,
        calls=[call.id for call in calls],
        keep_admins=keep_admins,
    )

    def undone_by() -> dict[CallId, str]:
        assert inverse is not None
        return {call_id(call.account, call.region, call.instance, call.user, inverse): call.label for call in calls}

    return store.claim(mine, inverse=inverse, undone_by=undone_by)


def _create(
    store: Runs, run_id: RunId, lines: Iterable[records.AnyRecord], clock: Callable[[], float]
) -> tuple[Journal, Ledger]:
    """Create the run with its first lines; return its journal and the ledger of those lines."""
    lines = iter(lines)
    first = next(lines)
    assert isinstance(first, records.Run)
    ledger = Ledger(first)

    def folded() -> Iterator[records.AnyRecord]:
        yield first
        for line in lines:
            yield line
            ledger.apply(line)

    return store.create(run_id, folded(), clock=clock), ledger
