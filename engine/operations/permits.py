"""Whether a plan may be sent: who has signed it, where a config asks for the signatures of several people.

Nothing here plans or sends. `begin` and `resume` ask here before they do.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.api.actions import ACTIONS
from engine.errors import ConfigError, RefusedError
from engine.journal import records
from engine.journal.records import unix_seconds
from engine.operations.events import Warned
from engine.operations.family import kin_of
from engine.outside.sshkeys import SshKeyError, check_by, read_signers
from engine.planning.approvals import (
    HOLD_ENDS,
    HOLD_ENDS_ROTATED,
    WAVE_IS_RED,
    PlanError,
    PlanFile,
    Proven,
    Signed,
    different_keys,
    digest_of,
    lacking_words,
    names,
    read_statement,
    then_of,
    why_not,
)
from engine.planning.holds import TELL, UNLOCK_ROTATED, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from engine.inputs.approvals import ApprovalRules
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import RunRef, Runs
    from engine.model import Call, CallId
    from engine.operations.events import Tell
    from engine.operations.family import Undone
    from engine.operations.terms import Terms
    from engine.outside.sshkeys import Signers
    from engine.outside.trust import Trust


class NeedsApprovalError(RefusedError):
    """A config asks for the signatures of several people, and the plan has none; nothing was sent."""


class Permit(Struct, frozen=True, kw_only=True):
    """A plan that was signed by as many different keys as a config asks for."""

    file: PlanFile
    proven: tuple[Proven, ...]
    """A statement of each key."""

    def lines(self) -> tuple[records.Approved, ...]:
        """Return the signatures as the journal keeps them."""
        return tuple(
            records.Approved(
                statement=each.signed.statement, signature=each.signed.signature, fingerprint=each.fingerprint
            )
            for each in self.proven
        )

    def refuse_beyond(self, action: str, calls: Iterable[CallId]) -> None:
        """Raise RefusedError if a call is not one of those that were signed."""
        signed = set(self.file.plan.ids)
        if action != self.file.plan.action or any(call not in signed for call in calls):
            raise RefusedError("refused: this is not what was signed; nothing was sent")


def signers_of(rules: ApprovalRules) -> tuple[Signers, ...]:
    """Return the files of allowed signers; ConfigError if there is none, or one that cannot be read or believed."""
    if not rules.signers:
        places = ", ".join(map(str, rules.places))
        raise ConfigError(f"{places}: approvals: no file of signers is named, so nobody can approve; add `signers:`")
    try:
        return tuple(read_signers(Path(file)) for file in rules.signers)
    except SshKeyError as error:
        raise ConfigError(f"approvals.signers: {error}") from error


def prove(file: PlanFile, rules: ApprovalRules, now: float) -> tuple[list[Proven], list[str]]:
    """Return the statements of a plan that count now, and in words why the others do not."""
    signers = signers_of(rules)
    proven: list[Proven] = []
    others: list[str] = []
    for at, signed in enumerate(file.signed, 1):
        try:
            statement = read_statement(signed.statement)
            if (why := why_not(statement, file, valid_s=rules.valid_s, now=now)) is not None:
                others.append(f"statement {at}: {why}")
                continue
            fingerprint, name = check_by(signed.statement.encode(), signed.signature, signers, now)
        except (PlanError, SshKeyError) as error:
            others.append(f"statement {at}: {error}")
            continue
        proven.append(Proven(signed=signed, fingerprint=fingerprint, name=name))
    return proven, others


def permit_of(file: PlanFile, rules: ApprovalRules, now: float) -> Permit:
    """Return the permit of a plan; RefusedError unless as many different keys have signed it as the config asks for."""
    proven, others = prove(file, rules, now)
    if (lacking := lacking_words(proven, rules, others)) is not None:
        way = f"somebody else: acctops approve PLAN --key KEY{', or plan and sign it anew' if others else ''}"
        raise RefusedError(f"refused: the plan is not approved: {lacking}; nothing was sent; {way}")
    return Permit(file=file, proven=tuple(different_keys(proven)))


def refuse_expired(signed: Sequence[Signed], keys: int, clock: Callable[[], float]) -> None:
    """Raise RefusedError unless so many of the statements still count: asked before the first call is sent."""
    now = clock()
    ends = [read_statement(each.statement).not_after for each in signed]
    if sum(unix_seconds(end) > now for end in ends) < keys:
        raise RefusedError(
            f"refused: the approval has expired at {min(ends)[:19]}Z, before anything was sent; plan and approve anew"
        )


def refuse_unapproved(
    rules: ApprovalRules | None,
    action: str,
    count: int,
    *,
    unapproved: str | None,
    way: str,
    tell: Tell,
    under: Callable[[ApprovalRules], str | None] | None = None,
) -> bool:
    """Return whether a plan goes on without the signatures that a config asks for, as a person says why.

    NeedsApprovalError if nobody does, RefusedError if the config does not let him. `way`: the command that saves it.
    `under` returns why the plan is not covered by the approval of an earlier run (`why_not_under`), None if it is.
    """
    if rules is None or not rules.asks(action, count):
        if unapproved is not None:
            tell(Warned("--unapproved: no config asks for an approval of this plan; it is not noted"))
        return False
    places = ", ".join(map(str, rules.places))
    if unapproved is None:
        why = under(rules) if under is not None else ""
        if why is None:
            return False
        what = f"{action} of {count:,} account{'s' * (count != 1)}"
        raise NeedsApprovalError(
            f"refused: {what} needs the signatures of {rules.keys} different keys ({places})"
            f"{f', and {why}' if why else ''}; nothing was sent; save and sign the plan: {way} --save plan.json "
            "--key KEY; then, somebody else: acctops approve plan.json --key KEY; then: acctops apply plan.json"
        )
    if not rules.unapproved:
        raise RefusedError(
            f"refused: --unapproved is not allowed here (approvals.unapproved, {places}); nothing was sent"
        )
    tell(Warned(f"WITHOUT THE APPROVAL that {places} asks for: {unapproved}", always=True))
    return True


def later_words(rules: ApprovalRules, action: str, count: int, settings: records.RunSettings) -> str | None:
    """Return that no machine may open what a run without an approval locks, as its hold says; None if one may."""
    inverse = ACTIONS[action].inverse
    if inverse is None or not then_of(action, settings) or not rules.asks(inverse, count):
        return None
    places = ", ".join(map(str, rules.places))
    if settings.hold_then in (None, TELL):
        return (
            f"on_red: {inverse} of {count:,} accounts needs the signatures of {rules.keys} different keys ({places}), "
            "and this run has none: a red wave so large stays as it is, unless the plan is saved and signed first: "
            "--save plan.json --key KEY"
        )
    return (
        f"hold: {inverse} of {count:,} accounts needs the signatures of {rules.keys} different keys ({places}), and "
        "this run has none: at the end of the hold `tend` only tells, unless the plan is saved and signed first: "
        "--save plan.json --key KEY"
    )


def used_words(store: Runs, by: str, terms: Terms) -> str:
    """Return the words for a plan that was used up by a run."""
    if store.has(by):
        return f"used by {by}: acctops resume {by}{terms.repeat(store)}; nothing was sent"
    return (
        f"this plan was used up by run {by or 'of an unknown id'}, which is not here: it broke off before it began, or "
        "was moved away; nothing was sent; plan and approve anew"
    )


# ---- of a run that exists --------------------------------------------------------------------------------------------


def recorded_problem(ref: RunRef, ledger: Ledger) -> str | None:
    """Return why what is signed in a journal is not about its plan, in words; None if it is. Looks at no signature."""
    run = ledger.run
    digest = digest_of([line.call for line in ref.records() if isinstance(line, records.CallLine)])
    for each in ledger.approved:
        try:
            said = read_statement(each.statement)
        except PlanError as error:
            return str(error)
        if digest != run.plan_digest or said.plan_digest != digest:
            return "a statement is of other calls than those of the journal"
        if said.action != run.action or said.count != run.counts.get("calls"):
            return "a statement is of another action, or of another number of calls"
        if said.then != then_of(run.action, run.settings):
            return "a statement lets machines do something else later than the run says"
        if each.at and unix_seconds(said.not_after) <= unix_seconds(each.at):
            return f"a statement had expired at {said.not_after[:19]}Z, before the run began"
    return None


def _proven_in(ref: RunRef, ledger: Ledger, rules: ApprovalRules) -> tuple[list[Proven], list[str]]:
    """Return the statements in the journal of a run that counted when it began, and in words why the others do not.

    Their keys must still stand in today's files of signers, and the plan must have been used up here, by this run.
    """
    if (problem := recorded_problem(ref, ledger)) is not None:
        return [], [problem]
    others: list[str] = []
    proven: list[Proven] = []
    signers = signers_of(rules)
    for each in ledger.approved:
        plan = read_statement(each.statement).plan
        if ref.store is None or not ref.store.is_used_here(plan, ref.run_id):
            others.append(f"plan {plan[:12]} was not used up here by this run: it, or its state directory, is a copy")
            continue
        at = unix_seconds(each.at or ledger.run.at)
        try:
            fingerprint, name = check_by(each.statement.encode(), each.signature, signers, at)
        except SshKeyError as error:
            others.append(str(error))
        else:
            signed = Signed(each.statement, each.signature)
            proven.append(Proven(signed=signed, fingerprint=fingerprint, name=name))
    return proven, others


class Child(Struct, frozen=True, kw_only=True):
    """What is to be sent for an earlier run, by its approval."""

    action: str
    calls: tuple[Call, ...]
    occasion: str
    """`planning.approvals.HOLD_ENDS` and its like: on which the statement of the earlier run must let it."""


def child_of(undone: Undone | None, action: str, calls: Iterable[Call]) -> Child | None:
    """Return what an undo does for its run on an occasion that a statement can name; None for any other run.

    An undo by limit does, and that of a wave that is red, also if a person asks for it, unless it takes more than a
    machine may.
    """
    if undone is None or not _BEYOND.isdisjoint(undone.asked):
        return None
    if (wave := undone.wave) is not None and wave.state == records.RED:
        return Child(action=action, calls=tuple(calls), occasion=WAVE_IS_RED)
    if not undone.is_by_limit:
        return None
    then = undone.then()
    return Child(action=action, calls=tuple(calls), occasion=HOLD_ENDS_ROTATED if then == UNLOCK_ROTATED else HOLD_ENDS)


_BEYOND = {"--include-edited", "--release", "--ignore"}
"""Flags of an undo by which it takes what no machine may open."""


def under_parent(
    undone: Undone | None, action: str, calls: Iterable[Call], *, now: float
) -> Callable[[ApprovalRules], str | None] | None:
    """Return what says why an undo may not act under the approval of its run (`why_not_under`); None if none can."""
    if undone is None or undone.store is None or (child := child_of(undone, action, calls)) is None:
        return None
    return partial(why_not_under, undone.store.find(undone.run_id), child, trust=undone.trust, now=now)


def why_not_under(parent: RunRef, child: Child, rules: ApprovalRules, *, trust: Trust, now: float) -> str | None:
    """Return why a child run may not act under the approval of its parent run, in words; None if it may.

    It may if each of its accounts was signed for in the parent's plan, or in that of a run that its family repeats or
    is repeated by, and if that run's approval counts and names the child's action and occasion. The approval is proven
    again, as at a resume: enough different keys that today's files of signers have, of the plan that this run used up.
    A hold that was shortened since counts to the end that was signed. Whether another occasion is there is for the
    caller to know.
    """
    left = {key_of(call) for call in child.calls}
    whys: dict[str, None] = {}
    for ledger in kin_of(parent.store, parent.replay().ledger, trust).ledgers:
        mine = {key_of(call) for call in ledger.calls.values()} & left
        if not mine:
            continue
        ref = parent.store.find(ledger.run.run) if parent.store is not None else parent
        why = _why_not_for(ref, ledger, child, rules, now)
        if why is None:
            left -= mine
        else:
            whys[f"run {ledger.run.run} {why}"] = None
    if not left:
        return None
    return "; ".join(whys) or f"run {parent.run_id} has other accounts than these"


def _why_not_for(ref: RunRef, ledger: Ledger, child: Child, rules: ApprovalRules, now: float) -> str | None:
    if not ledger.approved:
        return "was begun without an approval that could let a machine do it"
    inverse = ACTIONS[ledger.run.action].inverse if ledger.run.action in ACTIONS else None
    if child.action != inverse:
        return "is of another action"
    proven, others = _proven_in(ref, ledger, rules)
    if (lacking := lacking_words(proven, rules, others)) is not None:
        return f"does not let a machine do it: {lacking}"
    if not all(names(read_statement(each.signed.statement), child.action, child.occasion) for each in proven):
        return f"was approved without the words “{child.action} {child.occasion}”"
    until = ledger.run.settings.hold_until
    if child.occasion in (HOLD_ENDS, HOLD_ENDS_ROTATED) and (until is None or unix_seconds(until) > now):
        return f"was approved for a hold until {until[:16]}Z, which was shortened since" if until else "has no end"
    return None


def refuse_unapproved_run(
    ref: RunRef,
    ledger: Ledger,
    rules: ApprovalRules | None,
    *,
    now: float,
    unapproved: str | None,
    way: str,
    tell: Tell,
    under: Callable[[ApprovalRules], str | None] | None = None,
) -> bool:
    """Refuse to go on with a run that a config asks an approval for and that has none of its own.

    Return whether it goes on without, as a person says why now. Its signatures must be of keys that still stand in
    today's files of signers, and were valid when the run began; how long they count matters only until the first call
    is sent (`refuse_expired`).
    """
    run = ledger.run
    count = calls_of(ledger)
    if run.simulated:
        return False
    if rules is None or not rules.asks(run.action, count) or not ledger.approved:
        noted = ledger.unapproved is not None and rules is not None and rules.unapproved
        if noted and unapproved is None:
            return False
        return refuse_unapproved(rules, run.action, count, unapproved=unapproved, way=way, tell=tell, under=under)
    proven, others = _proven_in(ref, ledger, rules)
    if (lacking := lacking_words(proven, rules, others)) is not None:
        raise NeedsApprovalError(
            f"refused: what is signed in the journal of run {run.run} does not count: {lacking}; nothing was sent; "
            f"plan what is open anew: {way} --save plan.json --key KEY"
        )
    if not ledger.sent_calls:
        try:
            refuse_expired([each.signed for each in proven], rules.keys, lambda: now)
        except RefusedError as error:
            raise NeedsApprovalError(f"{error}: {way} --save plan.json --key KEY") from error
    return False


def calls_of(ledger: Ledger) -> int:
    """Return how many calls the plan of a run had, whatever its first line says."""
    return max(ledger.run.counts.get("calls", 0), len(ledger.calls))
