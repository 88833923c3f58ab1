"""Plan a rerun: a new run that repeats what did not work out in an older run, and is linked to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.api.actions import ACTIONS, stored_by
from engine.api.names import did_you_mean
from engine.api.verdicts import ALL_CODES
from engine.errors import Reason, RefusedError, UsageError
from engine.inputs.files import recorded
from engine.journal.ledger import Ledger
from engine.journal.protocols import RunRef
from engine.model import GOOD, Call, CallId, Outcome
from engine.operations.begin import planned
from engine.operations.earlier import only_a_person
from engine.operations.events import News, Warned
from engine.operations.family import end_of_holds, undone_of, way_of
from engine.operations.frozen import overridden, stop_after_of, stricter
from engine.operations.proposal import Nothing, Planned, Proposal, refuse_empty
from engine.operations.resume import tell_inherited, tell_of_idle
from engine.operations.simulated import faults_of
from engine.operations.stores import find, flags_of, older_copy, refuse_watch
from engine.operations.terms import Terms
from engine.operations.today import (
    check_endpoint,
    check_gate_program,
    check_passwords,
    guard_home,
    guards_of,
    refuse_strange_run,
)
from engine.planning.plan import plan_again

if TYPE_CHECKING:
    from engine.report.nextstep import WayOn

REPEATABLE = (Outcome.FAILED, Outcome.UNKNOWN, Outcome.UNATTEMPTED)
_LACKING_SHOWN = 5


class NothingToRepeat(Nothing, frozen=True, kw_only=True):
    """No rerun is planned, as it would be empty."""

    parent: str
    way: WayOn
    """What is open of the family nevertheless, and which command does it."""
    reason: Reason


def kinds_of(only: Iterable[str]) -> frozenset[Outcome]:
    """Return the outcomes that are repeated, all of REPEATABLE if none are named; UsageError for any other name."""
    kinds = {kind.strip() for kind in only if kind.strip()} or set(REPEATABLE)
    if wrong := kinds - set(REPEATABLE):
        named = ", ".join(REPEATABLE)
        raise UsageError(f"--only {', '.join(sorted(wrong))}: give one or more of {named}, separated by commas")
    return frozenset(map(Outcome, kinds))


async def plan_rerun(
    terms: Terms, run: str, only: frozenset[Outcome], codes: tuple[str, ...]
) -> Planned | NothingToRepeat:
    """Plan a run of the calls that ended as `only` says, and with one of `codes` if any are given."""
    refuse_latest(terms, run)
    ref = find(terms, run)
    found = ref.replay()
    ledger = found.ledger
    refuse_watch(terms, ref, ledger.run, "rerun")
    if (older := older_copy(ref.store, ref.run_id, lines=found.seq, head=found.head)) is not None:
        terms.tell(Warned(older, always=True))
    terms = replace(terms, simulate=ledger.run.simulated)
    check_endpoint(terms, ledger)
    faults = faults_of(terms)
    _check_codes(terms, ledger, codes)
    settled_later = _settled_later(ledger, ref)
    meant = list(_meant(ledger, only, codes))
    calls = [call for call in meant if call.id not in settled_later]
    if Outcome.FAILED in only:
        _name_lacking(terms, ledger, ref)
    if not calls:
        return _nothing_to_repeat(terms, ref, ledger, only, codes, len(meant))
    if not ledger.run.simulated and (why := only_a_person(ref.store, ledger, flags_of(terms, ref))) is not None:
        raise RefusedError(f"run {ref.run_id} {why}")
    _refuse_doubt(ledger, calls)
    guards = guards_of(terms, ledger)
    refuse_strange_run(ref, guards.trust)
    check_passwords(ref, ledger, guards.trust)
    check_gate_program(ref, ledger, guards.trust)
    exclude = terms.excludes()
    tell_of_idle(terms, exclude, ledger)
    plan = plan_again(ledger.run.action, calls, protect=guards.protect, exclude=exclude)
    left = "".join(f", {count:,} {reason}" for reason, count in plan.left_out().items() if count)
    terms.tell(News(f"rerun of {ref.run_id} ({ledger.run.job.name}): {len(plan.calls):,} calls{left}"))
    refuse_empty(plan)
    until, then = end_of_holds(ref.store, ledger, guards.trust)
    frozen = stricter(overridden(terms, ledger.settings), guards)
    frozen = replace(frozen, hold_until=until, hold_then=then)
    tell_inherited(terms, ref, frozen)
    return await planned(
        Proposal(
            terms=terms,
            settings=guards,
            frozen=frozen,
            plan=plan,
            job=ledger.run.job,
            reason=terms.reason or ledger.run.reason,
            ticket=terms.ticket or ledger.run.ticket,
            stop_after=stop_after_of(frozen),
            guarded_by=recorded(str(guard_home(ledger))),
            uins=ledger.uins,
            parent=ref,
            faults=faults,
            guards=partial(guards_of, terms, ledger),
            undone=undone_of(ref.store, ledger.run, guards.trust, terms.clock),
        )
    )


def refuse_latest(terms: Terms, run: str) -> None:
    """Raise RefusedError for `latest` if nobody is asked: it could be another run than the user means."""
    if run == "latest" and terms.yes:
        raise RefusedError("`latest` with --yes could be another run than you think; name the run")


def _nothing_to_repeat(
    terms: Terms, ref: RunRef, ledger: Ledger, kinds: frozenset[Outcome], codes: tuple[str, ...], settled_later: int
) -> NothingToRepeat:
    ended_with = f" with {', '.join(codes)}" if codes else ""
    if settled_later:
        why = f"what was {' or '.join(sorted(kinds))}{ended_with} has been settled by a later rerun ({settled_later:,})"
    else:
        why = f"nothing is {' or '.join(sorted(kinds))}{ended_with}"
    lacking = len(ledger.lacking()) if Outcome.FAILED in kinds else 0
    way = way_of(ref.store, ledger, flags=flags_of(terms, ref))
    if lacking:
        if way.parent is not None:
            again = f"the undo, done again, can do it: acctops undo {way.parent}{way.flags}"
        else:
            again = f"the job, run again, can do it{f': {way.job}' if way.job is not None else ''}"
        why += f", but {lacking:,} of what was asked for never became a call: only {again}"
    reason = Reason.INCOMPLETE if lacking else Reason.OK
    return NothingToRepeat(parent=ref.run_id, why=why, way=way, reason=reason)


def _refuse_doubt(ledger: Ledger, calls: list[Call]) -> None:
    """Raise RefusedError for calls that may have set a password, if another one could be sent in its place."""
    if not stored_by(ACTIONS[ledger.run.action], ledger.settings.passwords).is_sent_once:
        return
    count = sum(ledger.entry(call.id).derived() is Outcome.UNKNOWN for call in calls)
    if count:
        run = ledger.run.run
        raise RefusedError(
            f"whether {count:,} of these got a new password is not known, and the source of passwords is no store "
            f"(stored: true): it could give another one; acctops resume {run} reads them, or take the others alone: "
            f"acctops rerun {run} --only failed,unattempted; nothing was sent"
        )


def _name_lacking(terms: Terms, ledger: Ledger, ref: RunRef) -> None:
    """Tell what a rerun cannot repeat, as it is no call: bad rows, what a match could not see, what an undo left."""
    lacking = ledger.lacking()
    for omit in lacking[:_LACKING_SHOWN]:
        terms.tell(Warned(f"not in a rerun: {omit.where}: {omit.rule}", always=True))
    if len(lacking) > _LACKING_SHOWN:
        command = f"acctops report {ref.run_id} --stuck{flags_of(terms, ref)}"
        terms.tell(Warned(f"… and {len(lacking) - _LACKING_SHOWN:,} more: {command}", always=True))


def _check_codes(terms: Terms, ledger: Ledger, codes: tuple[str, ...]) -> None:
    """Tell which `--code` no call of the run has; UsageError for a code that acctops does not know either: a slip."""
    there = {entry.code for _, entry, _ in ledger.outcomes() if entry.code is not None}
    for code in codes:
        if code in there:
            continue
        hint = did_you_mean(code, there) or f"; there are {', '.join(sorted(there)) or 'none'}"
        if code not in ALL_CODES:
            raise UsageError(f"--code {code}: no call of the run has this code{hint}")
        terms.tell(Warned(f"--code {code}: no call of the run has this code{hint}"))


def _meant(ledger: Ledger, kinds: frozenset[Outcome], codes: tuple[str, ...]) -> Iterator[Call]:
    for call, entry, outcome in ledger.outcomes():
        if outcome in kinds and (not codes or entry.code in codes):
            yield call


def _settled_later(ledger: Ledger, ref: RunRef) -> set[CallId]:
    """Return the calls that reruns of this run, or reruns of those, brought to the desired state."""
    done: set[CallId] = set()
    links, seen = list(ledger.links), {str(ref.run_id)}
    while links and ref.store is not None:
        link = links.pop()
        if not link.is_rerun or link.run in seen or not ref.store.has(link.run):
            continue
        seen.add(link.run)
        child = ref.store.replay(link.run).ledger
        links += child.links
        done |= {call.id for call, _, outcome in child.outcomes() if outcome in GOOD}
    return done
