"""Use cases: who holds which accounts, a hold released, a hold's end set. Nothing is sent to the API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.api.actions import ACTIONS
from engine.errors import BusyError, JobError, UsageError
from engine.inputs.jobfile.afterwards import hold_of_flags
from engine.inputs.jobfile.parse import COMMAND_LINE
from engine.inputs.jobfile.problems import Problems
from engine.journal import records
from engine.journal.records import rfc3339
from engine.model import Place
from engine.operations.choosing import chosen
from engine.operations.family import kin_of
from engine.operations.holding import Gathered, gather, release
from engine.operations.stores import find, refuse_watch, store_of
from engine.operations.terms import Terms, globs_of, operator
from engine.operations.today import refuse_strange_run
from engine.planning.holds import TELL, Family, Holds, Key, end_of, key_of, label_of, part_of
from engine.planning.undo import is_before_known
from engine.report.afterwards import end_problem
from engine.report.nextstep import Step

if TYPE_CHECKING:
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Runs

_SPELT_OUT = 20
"""Most accounts that a command names one by one."""


class Held(Struct, frozen=True, kw_only=True):
    """What one incident holds."""

    action: str
    family: Family
    accounts: tuple[tuple[Key, str], ...]
    """Each account, and since when it is held, in UTC."""
    is_due: bool
    """Whether its end has come."""

    @property
    def since(self) -> str:
        """The time of the first of its holds, in UTC."""
        return min((since for _, since in self.accounts if since), default=self.family.head.at)


class Owed(Struct, frozen=True, kw_only=True):
    """Accounts that stand as a run left them, and that nobody holds any more."""

    action: str
    run: str
    """The run that changed them last: its undo opens them."""
    ticket: str | None
    accounts: tuple[Key, ...]
    steps: tuple[Step, ...]
    """The commands that open them."""


class Holding(Struct, frozen=True, kw_only=True):
    """Who holds what in a state directory."""

    state_dir: str
    """The state directory, or the database."""
    at: str
    held: tuple[Held, ...]
    """By incident, the oldest first."""
    owed: tuple[Owed, ...]
    damaged: dict[str, str]
    """Run whose journal cannot be read, or is not believed → why: what can be read of its plan counts as held."""
    blind: frozenset[str]
    """Those of whose plan not all can be read: nobody knows what they hold."""
    flags: str


def who_holds(terms: Terms, targets: Sequence[str] = ()) -> Holding:
    """Return who holds what, by the journals of the real runs; `targets` are globs of instance/user.

    Runs of UnlockAccount and CloseAccountCAM keep nobody out: they are listed only if their holds have an end.
    """
    settings = terms.settings(None)
    store = store_of(settings, simulated=False)
    globs = globs_of(targets, "--target")

    def is_meant(key: Key) -> bool:
        return not globs or any(glob.matches(key[2], key[3]) for glob in globs)

    held: list[Held] = []
    owed: list[Owed] = []
    damaged: dict[str, str] = {}
    blind: set[str] = set()
    gathered: Gathered | None = None
    now = terms.clock()
    for action in ACTIONS.values():
        if action.inverse is None:
            continue
        gathered = gather(store, action.name, settings.trust, known=gathered)
        damaged |= gathered.damaged
        blind |= set(gathered.blind)
        for family in gathered.holds.families:
            if not action.keeps_out and family.until is None:
                continue
            mine = tuple((key, since) for key, since in family.held().items() if is_meant(key))
            if mine:
                held.append(Held(action=action.name, family=family, accounts=mine, is_due=family.is_past(now)))
        if action.keeps_out:
            owed += owed_by(gathered.holds, filter(is_meant, gathered.holds.owed()))
    return Holding(
        state_dir=store.kept_in,
        at=rfc3339(now),
        held=tuple(sorted(held, key=lambda each: (each.family.head.at, each.family.run))),
        owed=tuple(owed),
        damaged=damaged,
        blind=frozenset(blind),
        flags=terms.repeat(store),
    )


def owed_by(holds: Holds, keys: Iterable[Key]) -> list[Owed]:
    """Return the accounts of `keys` that are owed, by the run that changed them, with the commands that open them."""
    groups: dict[str, list[Key]] = {}
    named: set[str] = set()
    for key in sorted(keys):
        if not holds.holding(key) and (change := holds.change(key)) is not None:
            groups.setdefault(change.run, []).append(key)
            if not is_before_known(change.entry):  # an undo takes such an account only by its name
                named.add(change.run)
    found = []
    for run, accounts in groups.items():
        family = holds.family_of(run)
        found.append(
            Owed(
                action=holds.action,
                run=run,
                ticket=family.head.ticket if family is not None else None,
                accounts=tuple(accounts),
                steps=_opening(run, accounts, is_all=run not in named and (family is None or not family.held())),
            )
        )
    return found


def _opening(run: str, accounts: Sequence[Key], *, is_all: bool) -> tuple[Step, ...]:
    """Return the undo commands for accounts, which name them one by one unless `is_all`: the run holds no others."""
    if is_all:
        return (Step(words=("undo", run), takes=len(accounts)),)
    steps = []
    for at in range(0, len(accounts), _SPELT_OUT):
        labels = [label_of(key) for key in accounts[at : at + _SPELT_OUT]]
        words = [word for label in labels for word in ("--target", label)]
        steps.append(Step(words=("undo", run, *words), takes=len(labels)))
    return tuple(steps)


class Released(Struct, frozen=True, kw_only=True):
    """What a release has done."""

    run: str
    count: int
    """On how many accounts the run's holds have ended now."""
    held: tuple[tuple[Family, int], ...]
    """Who still holds how many of the accounts."""
    owed: tuple[Owed, ...]
    """Those of the accounts that nobody holds any more, and that stand locked as far as journals know."""
    flags: str


def release_holds(terms: Terms, run: str, targets: Sequence[str] = ()) -> Released:
    """End the holds of a run and its reruns on `targets` (none: all). UsageError for a run that never held anything."""
    ledger, store, gathered = _found(terms, run, "release")
    family = gathered.holds.family_of(ledger.run.run)
    if family is None:
        raise _held_nothing(ledger, terms.repeat(store))
    if (live := next((each for each in sorted(family.names) if store.is_live(each)), None)) is not None:
        flags = terms.repeat(store)
        raise BusyError(
            f"run {live} is still going on, and would hold what it does after this; stop it first: "
            f"acctops stop {live}{flags}"
        )
    meant = chosen(targets, list(ledger.calls.values()))
    keys = [key_of(call) for call in ledger.calls.values() if meant.has(call)]
    why = terms.reason or "released"
    count = release(store, family, keys, why=why, by=operator(), clock=terms.clock)
    # All accounts, not only those of this run: the undo of another run must name what is owed if that run holds more.
    after = gather(store, ledger.run.action, terms.settings(None).trust)
    others = [each for each in after.holds.families if ledger.run.run not in each.names]
    held = tuple((each, sum(map(each.holds, keys))) for each in others)
    return Released(
        run=ledger.run.run,
        count=count,
        held=tuple((each, number) for each, number in held if number),
        owed=tuple(owed_by(after.holds, keys)) if ACTIONS[ledger.run.action].keeps_out else (),
        flags=terms.repeat(store),
    )


class Limited(Struct, frozen=True, kw_only=True):
    """A new end of a run's holds."""

    run: str
    until: str | None
    """UTC time; None: no end."""
    then: str
    count: int
    """How many accounts it holds."""
    flags: str


def limit_holds(
    terms: Terms, run: str, *, for_: str | None = None, until: str | None = None, then: str | None = None
) -> Limited:
    """Give the holds of a run and its reruns a new end, none if neither `for_` nor `until` says one; texts as typed.

    UsageError for a run that holds nothing, unless its end has passed: what goes on with it then takes accounts again.
    JobError for an end or a `then` that cannot be.
    """
    ledger, store, gathered = _found(terms, run, "hold")
    family = gathered.holds.family_of(ledger.run.run) or _empty_family(terms, store, ledger)
    held = family.held()
    flags = terms.repeat(store)
    if not held and not family.is_past(terms.clock()):
        if not any(part.had for part in family.members):
            raise _held_nothing(ledger, flags)
        raise UsageError(
            f"run {ledger.run.run} holds nothing any more: its accounts were released or undone; see acctops status "
            f"{ledger.run.run}{flags}"
        )
    has_end = for_ is not None or until is not None
    then = then or (family.then if family.until is not None and has_end else None)
    problems = Problems()
    action, place, now = ledger.run.action, Place(COMMAND_LINE), terms.clock()
    spec = hold_of_flags(action, for_=for_, until=until, then=then, problems=problems, place=place)
    problems.stop_if_any()
    if spec is not None and (problem := end_problem(spec, now)) is not None:
        raise JobError([problem])
    text = rfc3339(spec.ends_at(now)) if spec is not None else None
    then = spec.then if spec is not None else TELL
    line = records.HoldLine(until=text, then=then, by=operator(), why=terms.reason)
    store.add_aside(family.run, [line], clock=terms.clock)
    return Limited(run=ledger.run.run, until=text, then=then, count=len(held), flags=flags)


def _keys(ledger: Ledger) -> set[Key]:
    return {key_of(call) for call in ledger.calls.values()}


def _found(terms: Terms, run: str, verb: str) -> tuple[Ledger, Runs, Gathered]:
    """Return a run, and who holds its accounts; UsageError for a run that cannot hold any."""
    ref = find(terms, run)
    ledger = ref.replay().ledger
    refuse_watch(terms, ref, ledger.run, verb)
    if ref.store is None:
        raise UsageError(f"{ref.place}: lies outside a state directory, so its holds cannot be changed")
    settings = terms.settings(None)
    refuse_strange_run(ref, settings.trust)
    action = ACTIONS[ledger.run.action]
    if ledger.run.simulated:
        raise UsageError(f"run {ledger.run.run} was simulated: it holds nothing real")
    if action.inverse is None:
        raise UsageError(f"run {ledger.run.run}: {action.name} cannot be undone, so no run of it holds anything")
    return ledger, ref.store, gather(ref.store, action.name, settings.trust, _keys(ledger))


def _empty_family(terms: Terms, store: Runs, ledger: Ledger) -> Family:
    """Return the incident of a run that left no account so yet. UsageError for an undo, which begins none."""
    members = kin_of(store, ledger, terms.settings(None).trust).ledgers
    parent = members[0].run.parent
    if parent is not None and parent.verb == "undo":
        raise _held_nothing(ledger, terms.repeat(store))
    parts = tuple(part_of(each, ()) for each in members)
    until, then = end_of(parts)
    return Family(run=parts[0].run_id, members=parts, until=until, then=then or TELL)


def _held_nothing(ledger: Ledger, flags: str) -> UsageError:
    run, parent = ledger.run.run, ledger.run.parent
    if parent is not None and parent.verb == "undo":
        what = f"it is the undo of run {parent.run}, and an undo holds nothing; who holds what: acctops holds{flags}"
    else:
        done = ACTIONS[ledger.run.action].done_word
        what = f"none of its accounts was read as {done}; see acctops status {run}{flags}"
    return UsageError(f"run {run} holds nothing: {what}")
