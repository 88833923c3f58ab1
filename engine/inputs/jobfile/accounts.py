"""Reads the `accounts` list of a job file into AccountSpecs and notes every mistake. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.api.names import shown
from engine.inputs.jobfile.fields import kinds
from engine.inputs.jobfile.filemodel import AccountEntry
from engine.inputs.jobfile.nodes import Scalar
from engine.model import AccountSpec

if TYPE_CHECKING:
    from engine.inputs.jobfile.fields import Fields
    from engine.inputs.jobfile.nodes import Node

_SAMPLE = "{name: prod-a, profile: prod-a}, or {role_arn: qcs::cam::uin/UIN:roleName/NAME}"


def read_accounts(fields: Fields, node: Node) -> tuple[AccountSpec, ...]:
    """Return the accounts of a job, each with a name of its own."""
    items = fields.series(node, "accounts", f"a list of accounts such as {_SAMPLE}")
    found: dict[str, AccountSpec] = {}
    for index, item in enumerate(items.items if items is not None else ()):
        here = f"accounts[{index}]"
        spec = _account(fields, item, here)
        if spec is None:
            continue
        if spec.name in found:
            fields.wrong(item, here, f"{shown(spec.name)} stands twice; give each account a name: of its own")
        elif (twin := next((each for each in found.values() if _same_keys(each, spec)), None)) is not None:
            fields.wrong(item, here, f"is {shown(twin.name)} again: the same keys, and so the same instances; keep one")
        found[spec.name] = spec
    return tuple(found.values())


def _account(fields: Fields, item: Node, here: str) -> AccountSpec | None:
    if type(item) is Scalar:  # the name of a profile, the most common form
        profiles = fields.value(item, kinds(AccountEntry)["profile"], here)
        return AccountSpec(name=profiles[0], profiles=profiles) if profiles else None
    table = fields.table(item, here, f"a profile's name, or {_SAMPLE}")
    if table is None:
        return None
    before = fields.problems.count
    fields.keys(table, here, kinds(AccountEntry))
    values, _ = fields.values(table, AccountEntry, here)
    profiles, role_arn = values.get("profiles", ()), values.get("role_arn")
    if not profiles and role_arn is None and fields.problems.count == before:
        fields.wrong(item, here, f"says neither profile nor role_arn: whose keys? Write {_SAMPLE}")
    if fields.problems.count > before:
        return None
    name = values.get("name") or (profiles[0] if len(profiles) == 1 else _uin(role_arn))
    if not name:
        fields.wrong(item, f"{here}.name", "is missing; an account of several profiles needs a name")
        return None
    return AccountSpec(name=name, profiles=profiles, role_arn=role_arn)


def _same_keys(one: AccountSpec, other: AccountSpec) -> bool:
    """Return whether the same identity signs for both: the same role (with any profile), or a profile of both."""
    if one.role_arn is not None or other.role_arn is not None:
        return one.role_arn == other.role_arn
    return not set(one.profiles).isdisjoint(other.profiles)


def _uin(role_arn: str | None) -> str:
    """Return the cloud account in `qcs::cam::uin/UIN:roleName/NAME`; empty without a role."""
    return role_arn.partition("uin/")[2].partition(":")[0] if role_arn else ""
