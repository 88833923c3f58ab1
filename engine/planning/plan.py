"""From a job's targets to the frozen, ordered calls of a plan, with what is left out and why.

Left out, in this order: a target named before (duplicate), a name the API never takes (reserved), a protected
account, an excluded one. The rest is ordered round-robin over instances: attempts in flight on one are bounded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol, TypeVar

from msgspec import Struct

from engine.model import LACKING, Call, CallId, Omit, OmitReason, Place, Target, call_id

_RESERVED = re.compile(r"(?i)^(?:postgres$|pg_|tencentdb_)")
RESERVED_RULE = "postgres, pg_*, tencentdb_*"
RESERVED_WHERE = "the API's naming rule"  # SEED-LOCK and D-CREATE state two rules


class Rule(Protocol):
    """A glob over instance and user, with its place in a file (`job.Glob`)."""

    @property
    def pattern(self) -> str: ...  # noqa: D102
    @property
    def place(self) -> Place: ...  # noqa: D102
    def matches(self, instance: str, user: str) -> bool: ...  # noqa: D102


class Plan(Struct, frozen=True, kw_only=True):
    """The calls to be sent, in order, and the targets that are left out."""

    action: str
    calls: tuple[Call, ...]
    omits: tuple[Omit, ...]
    digest: str

    def left_out(self) -> dict[str, int]:
        """Return the number of targets left out by reason; every reason is named."""
        counts = {str(reason): 0 for reason in OmitReason}
        for omit in self.omits:
            counts[omit.reason] += 1
        return counts

    @property
    def lacking(self) -> int:
        """How many targets left out count as failed (`LACKING`): bad rows, what a match could not look at …"""
        return sum(omit.reason in LACKING for omit in self.omits)

    @property
    def instances(self) -> int:
        """Number of distinct instances among the calls."""
        return len({call.where for call in self.calls})


def plan_digest(calls: Iterable[Call]) -> str:
    """Return the SHA-256 over the call ids in order, joined by LF, as hex digits."""
    return hashlib.sha256("\n".join(call.id for call in calls).encode()).hexdigest()


def make_plan(
    action: str,
    targets: Sequence[Target],
    *,
    protect: Sequence[Rule] = (),
    exclude: Sequence[Rule] = (),
    omitted: Iterable[Omit] = (),
) -> Plan:
    """Return the plan of `action` on `targets`; `omitted` is what was left out while the targets were found."""
    first_named: dict[CallId, Target] = {}
    kept: list[Call] = []
    omits: list[Omit] = [*omitted]
    for target in targets:
        identity = call_id(target.account, target.region, target.instance, target.user, action)
        earlier = first_named.get(identity)
        if earlier is not None:
            omit: Omit | None = Omit(target, OmitReason.DUPLICATE, f"named first at {earlier.place}", str(target.place))
        else:
            first_named[identity] = target
            omit = left_out(target, protect=protect, exclude=exclude)
        if omit is not None:
            omits.append(omit)
            continue
        kept.append(Call(identity, action, target.account, target.region, target.instance, target.user))
    calls = interleave(kept, key=lambda call: call.where)
    return Plan(action=action, calls=calls, omits=tuple(omits), digest=plan_digest(calls))


def plan_again(
    action: str, calls: Iterable[Call], *, protect: Sequence[Rule] = (), exclude: Sequence[Rule] = ()
) -> Plan:
    """Return the plan of calls replayed from a journal: their ids and order stay, and today's guards hold."""
    kept: list[Call] = []
    omits: list[Omit] = []
    for call in calls:
        target = Target(call.instance, call.user, call.region, call.account)
        omit = left_out(target, protect=protect, exclude=exclude)
        if omit is None:
            kept.append(call)
        else:
            omits.append(omit)
    return Plan(action=action, calls=tuple(kept), omits=tuple(omits), digest=plan_digest(kept))


def left_out(target: Target, *, protect: Sequence[Rule], exclude: Sequence[Rule]) -> Omit | None:
    """Return the omit of a target that must not be sent, else None. If it is protected and excluded: protected."""
    if _RESERVED.match(target.user):
        return Omit(target, OmitReason.RESERVED, RESERVED_RULE, RESERVED_WHERE)
    for rules, reason in ((protect, OmitReason.PROTECTED), (exclude, OmitReason.EXCLUDED)):
        for rule in rules:
            if rule.matches(target.instance, target.user):
                return Omit(target, reason, rule.pattern, str(rule.place))
    return None


_R = TypeVar("_R", bound=Rule)


def idle_rules(rules: Iterable[_R], accounts: Collection[Target | Call]) -> list[_R]:
    """Return the rules that match none of these accounts; each rule is checked alone, so that a slip in it shows."""
    return [rule for rule in rules if not any(rule.matches(each.instance, each.user) for each in accounts)]


def interleave(calls: Sequence[Call], *, key: Callable[[Call], tuple[str, ...]]) -> tuple[Call, ...]:
    """Return calls round-robin over groups: groups in order of first appearance, each group's own order kept."""
    groups: dict[tuple[str, ...], list[Call]] = {}
    for call in calls:
        groups.setdefault(key(call), []).append(call)
    lines = list(groups.values())
    ordered: list[Call] = []
    for turn in range(max(map(len, lines), default=0)):
        lines = [line for line in lines if len(line) > turn]
        ordered += [line[turn] for line in lines]
    return tuple(ordered)
