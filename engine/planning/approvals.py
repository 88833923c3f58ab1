"""A plan in a file, its hash, and what people sign of it. Pure: who has signed is found out elsewhere.

The hash is over the canonical bytes of `plan`. A statement is canonical JSON, too, and what is signed are its bytes.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from engine.api.actions import ACTIONS
from engine.journal.records import THENS, JobRef, RunSettings, rfc3339, unix_seconds
from engine.model import Call, CallId, call_id
from engine.planning.holds import TELL, UNLOCK, UNLOCK_ROTATED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.inputs.approvals import ApprovalRules

FORMAT = 1
MOST_PLAN = 256 << 20
"""Bytes of a plan's file, at most: one of 1,000,000 calls has about 200 MB."""
MOST_STATEMENTS = 50
AHEAD_S = 60.0
"""Seconds by which the clock of who signs may be ahead of that of who applies."""
_MOST_NAME = 1024


class PlanError(Exception):
    """Why a file is no plan that can be approved, in words."""


class PlannedCall(Struct, frozen=True, forbid_unknown_fields=True):
    """One call that is approved."""

    account: str
    region: str
    instance: str
    user: str


class PlannedHold(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The end of a hold: one of a span from the confirmation and a UNIX time, and what is done then."""

    for_s: float | None
    until: float | None
    then: str


class SavedPlan(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is to be sent, all of it, and how it is asked for again: the `plan` of a file."""

    v: int
    version: str
    """The version of acctops that made it; another one does not apply it."""
    state: str
    """Id of the state directory in which it is used up."""
    state_at: str
    """Real path of that directory: a copy of it has the same id."""
    made_at: str
    by: str
    host: str
    verb: str
    """plan, rerun, undo, lock, unlock or cam-on."""
    request: dict[str, Any]
    """What was typed, by the names of the use case. Any: texts, switches and lists of texts."""
    asked: tuple[str, ...]
    """Its flags that say what is taken, as the run's journal has them."""
    job: JobRef
    action: str
    reason: str | None
    ticket: str | None
    parent: str | None
    """The run that it repeats or undoes."""
    guarded_by: str
    uins: dict[str, str]
    """Account → the cloud account that its keys belong to."""
    settings: RunSettings
    hold: PlannedHold | None
    """When its hold ends, as the job says; a rerun has that of its parent in `settings`."""
    plan_digest: str
    calls: tuple[PlannedCall, ...]
    left_out: dict[str, int]

    @property
    def ids(self) -> tuple[CallId, ...]:
        """The ids of its calls, in order."""
        return tuple(call_id(each.account, each.region, each.instance, each.user, self.action) for each in self.calls)

    @property
    def whole(self) -> tuple[Call, ...]:
        """Its calls, in order."""
        return tuple(
            Call(id_, self.action, each.account, each.region, each.instance, each.user)
            for id_, each in zip(self.ids, self.calls, strict=True)
        )


class Signed(Struct, frozen=True, forbid_unknown_fields=True):
    """A statement as somebody signed it."""

    statement: str
    """Canonical JSON: its bytes are what is signed."""
    signature: str


class Statement(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is signed: which plan, and until when."""

    plan: str
    """Hash of the plan."""
    plan_digest: str
    count: int
    action: str
    uins: dict[str, str]
    not_after: str
    """UTC time from which on it does not count any more."""
    then: tuple[str, ...]
    """What machines may do later without a further approval (`then_of`)."""

    @property
    def text(self) -> str:
        """Its canonical JSON."""
        return canonical(msgspec.to_builtins(self)).decode("ascii")


class PlanFile(Struct, frozen=True, kw_only=True):
    """A file with a plan and what was signed of it."""

    raw: dict[str, Any]
    """The plan as it stands in the file. Any: JSON."""
    plan: SavedPlan
    hash: str
    signed: tuple[Signed, ...]

    @property
    def data(self) -> bytes:
        """Its bytes."""
        whole = {"plan": self.raw, "statements": [msgspec.to_builtins(each) for each in self.signed]}
        return json.dumps(whole, indent=1, sort_keys=True, allow_nan=False).encode("ascii") + b"\n"

    def statement(self, not_after: float) -> Statement:
        """Return what is to be signed of it."""
        return Statement(
            plan=self.hash,
            plan_digest=self.plan.plan_digest,
            count=len(self.plan.calls),
            action=self.plan.action,
            uins=self.plan.uins,
            not_after=rfc3339(not_after),
            then=then_of(self.plan.action, self.plan.settings),
        )


class Proven(Struct, frozen=True, kw_only=True):
    """A statement whose signature holds, by a key that may sign."""

    signed: Signed
    fingerprint: str
    name: str
    """The name of the key in the file of signers: for people. Two names of one key are one key."""


HOLD_ENDS = "when its hold ends"
HOLD_ENDS_ROTATED = "when its hold ends, where the password was changed"
WAVE_IS_RED = "when a wave is red"
"""Occasions on which a machine acts for a run that was approved, behind the name of the action."""


def then_of(action: str, settings: RunSettings) -> tuple[str, ...]:
    """Return what machines may do later under the approval of a run: sorted texts of an action and its occasion."""
    inverse = ACTIONS[action].inverse
    if inverse is None:
        return ()
    on: list[str] = []
    if not ACTIONS[inverse].needs_password:  # at the end of a hold no machine has the passwords
        on += {UNLOCK: [HOLD_ENDS], UNLOCK_ROTATED: [HOLD_ENDS_ROTATED]}.get(settings.hold_then or "", [])
    if settings.waves is not None and settings.waves["on_red"] == "undo":
        on.append(WAVE_IS_RED)
    return tuple(sorted(f"{inverse} {occasion}" for occasion in on))


def names(said: Statement, action: str, occasion: str) -> bool:
    """Return whether a statement lets a machine do this later. Who lets it open all lets it open the changed ones."""
    wider = {HOLD_ENDS_ROTATED: HOLD_ENDS}.get(occasion, occasion)
    return f"{action} {occasion}" in said.then or f"{action} {wider}" in said.then


def canonical(value: Any) -> bytes:
    """Return the one spelling of a JSON value: keys in order, no spaces, ASCII. ValueError for what is no JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def plan_hash(raw: Any) -> str:
    """Return the hash of a plan, as hex digits."""
    return hashlib.sha256(canonical(raw)).hexdigest()


def file_of(plan: SavedPlan) -> PlanFile:
    """Return the file of a new plan, which nobody has signed yet."""
    raw = json.loads(canonical(msgspec.to_builtins(plan)))
    return PlanFile(raw=raw, plan=plan, hash=plan_hash(raw), signed=())


def read_plan(data: bytes) -> PlanFile:
    """Return the plan and the statements in a file; PlanError if it is none, or says what no plan says."""
    if len(data) > MOST_PLAN:
        raise PlanError(f"it is larger than {MOST_PLAN >> 20} MiB")
    try:
        whole = json.loads(data.decode("utf-8"), parse_constant=_refuse)
        if not isinstance(whole, dict) or set(whole) != {"plan", "statements"}:
            raise PlanError("it is no JSON object of plan and statements: not a plan that acctops saved")
        raw = whole["plan"]
        if isinstance(raw, dict) and raw.get("v") != FORMAT:
            raise PlanError(f"its format {str(raw.get('v'))[:20]!r} is not that of this version; plan anew")
        plan = msgspec.convert(raw, SavedPlan)
        signed = msgspec.convert(whole["statements"], tuple[Signed, ...])
        hashed = plan_hash(raw)
    except (ValueError, RecursionError, TypeError, KeyError, OverflowError, msgspec.ValidationError) as error:
        raise PlanError(f"it is no plan that acctops saved: {str(error)[:200]}") from error
    if (why := _senseless(plan, signed)) is not None:
        raise PlanError(why)
    return PlanFile(raw=raw, plan=plan, hash=hashed, signed=signed)


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _senseless(plan: SavedPlan, signed: Sequence[Signed]) -> str | None:
    """Return why no command can have saved this, in words."""
    if plan.action not in ACTIONS:
        return f"action {plan.action[:40]!r} is none of this version"
    if not plan.calls:
        return "it has no calls"
    if {plan.hold.then if plan.hold is not None else TELL, plan.settings.hold_then or TELL} - {*THENS}:
        return "its hold ends as no hold does"
    if any(
        len(names := each.account + each.region + each.instance + each.user) > _MOST_NAME or not names.isprintable()
        for each in plan.calls
    ):
        return "it names an account that cannot be"
    if len(set(plan.ids)) < len(plan.calls):
        return "it names an account twice"
    if digest_of(plan.ids) != plan.plan_digest:
        return "its digest is not that of its calls: it was edited"
    if len(signed) > MOST_STATEMENTS:
        return f"it has more than {MOST_STATEMENTS} statements"
    return None


def digest_of(ids: Sequence[CallId]) -> str:
    """Return the digest of a plan with calls of these ids, in this order (as `plan.plan_digest`)."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def read_statement(text: str) -> Statement:
    """Return a statement; PlanError if the text is none, or not spelled as the one spelling."""
    try:
        found = msgspec.convert(json.loads(text), Statement)
        unix_seconds(found.not_after)
    except (ValueError, RecursionError, TypeError, OverflowError, msgspec.ValidationError) as error:
        raise PlanError(f"a statement is none: {str(error)[:200]}") from error
    if found.text != text:
        raise PlanError("a statement is not spelled as acctops spells it")
    return found


def why_not(statement: Statement, file: PlanFile, *, valid_s: float, now: float) -> str | None:
    """Return why a statement does not count for a plan now, in words; None if it does."""
    if (other := differs(statement, file)) is not None:
        return other
    left_s = unix_seconds(statement.not_after) - now
    if left_s <= 0:
        return f"it has expired at {statement.not_after[:19]}Z"
    if left_s > valid_s + AHEAD_S:
        return f"it ends at {statement.not_after[:19]}Z, later than the config lets a signature count"
    return None


def differs(statement: Statement, file: PlanFile) -> str | None:
    """Return in which point a statement is of another plan, in words; None if it is of this one."""
    right = file.statement(0.0)
    for name, what in (
        ("plan", "it is of another plan, or the plan was edited since"),
        ("plan_digest", "it is of other calls"),
        ("count", "it is of another number of calls"),
        ("action", "it is of another action"),
        ("uins", "it is of another cloud account"),
        ("then", "it lets machines do something else later"),
    ):
        if getattr(statement, name) != getattr(right, name):
            return what
    return None


def different_keys(proven: Sequence[Proven]) -> list[Proven]:
    """Return the statements by different keys, the first of each: one key under two names counts once."""
    found: dict[str, Proven] = {}
    for each in proven:
        found.setdefault(each.fingerprint, each)
    return list(found.values())


def lacking_words(proven: Sequence[Proven], rules: ApprovalRules, others: Sequence[str]) -> str | None:
    """Return what is missing to the keys that must sign, in words; None if nothing is. `others`: what did not count."""
    found = different_keys(proven)
    if len(found) >= rules.keys:
        return None
    by = ", ".join(f"{each.name} ({each.fingerprint})" for each in found) or "nobody"
    words = f"it needs the signatures of {rules.keys} different keys, and is signed by {by}"
    return words + "".join(f"; not counted: {other}" for other in dict.fromkeys(others))


MAY_DIFFER = frozenset({"protect", "protect_waived", "keep_admins", "max_targets", "max_share", "session_deadline_s"})
"""Settings that may be others when a plan is applied: guards, of which the stricter holds. So may the end of a hold
that the job gives, as it counts from the confirmation."""


def changed_setting(plan: SavedPlan, now: RunSettings) -> str | None:
    """Return the name of a setting that is no longer as it was approved; None if none is."""
    then, may_differ = plan.settings, MAY_DIFFER if plan.hold is None else MAY_DIFFER | {"hold_until"}
    for name in RunSettings.__struct_fields__:
        if name not in may_differ and msgspec.to_builtins(getattr(then, name)) != msgspec.to_builtins(
            getattr(now, name)
        ):
            return name
    return None
