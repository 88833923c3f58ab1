"""Which plans need the signatures of further people: the `approvals` of config files, added up. No I/O.

Guards add up. Each file's mapping is completed with the defaults first, so that a nearer file can only ask for more:
of actions all count, of `above` and `valid` the least, of `approvers` the most, and a key must stand in every file of
signers.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.inputs.jobfile.fields import Fields, kinds
from engine.inputs.jobfile.filemodel import ApprovalsKeys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.inputs.jobfile.nodes import Node
    from engine.model import Place

ACTIONS = ("OpenAccountCAM", "UnlockAccount")
"""Actions whose plans need it where a file names none. No LockAccount: containment must not wait."""
ABOVE = 200
APPROVERS = 1
VALID_S = 1800.0


class ApprovalRules(Struct, frozen=True, kw_only=True):
    """What is asked for, by one file or by several together."""

    actions: tuple[str, ...] = ACTIONS
    above: int = ABOVE
    """A plan of one of these actions with more calls than this needs it."""
    approvers: int = APPROVERS
    """Keys that must sign beside the requester's."""
    signers: tuple[str, ...] = ()
    """Files of the keys that may sign; a key must stand in every one."""
    valid_s: float = VALID_S
    """How long a signature counts, in seconds."""
    unapproved: bool = False
    """Whether a person may go on without, for a reason that is told."""
    places: tuple[Place, ...] = ()
    """Where it is said."""

    @property
    def keys(self) -> int:
        """How many different keys must have signed: the requester's, and those of the approvers."""
        return 1 + self.approvers

    @property
    def words(self) -> str:
        """What needs it, in words."""
        which = " and ".join(self.actions) if len(self.actions) < 3 else ", ".join(self.actions)
        size = f" of more than {self.above:,} accounts" if self.above else ""
        return f"{which}{size}: {self.keys} keys"

    def asks(self, action: str, count: int) -> bool:
        """Whether a plan of so many calls of this action needs it."""
        return action in self.actions and count > self.above


def read_approvals(fields: Fields, node: Node) -> ApprovalRules | None:
    """Return the `approvals` mapping of a config; None if something is wrong (noted)."""
    before = fields.problems.count
    known = kinds(ApprovalsKeys)
    table = fields.table(node, "approvals", f"a mapping of {', '.join(known)}")
    if table is None:
        return None
    fields.keys(table, "approvals", known)
    values, _ = fields.values(table, ApprovalsKeys, "approvals")
    if fields.problems.count > before:
        return None
    place = fields.place(node)
    if (signers := values.pop("signers", None)) is not None:
        if signers.startswith("~"):
            fields.wrong(table.entries["signers"].value, "approvals.signers", "write the whole path, without ~")
            return None
        values["signers"] = (posixpath.join(posixpath.dirname(place.file), signers),)
    return ApprovalRules(**values, places=(place,))


def added_up(said: Sequence[ApprovalRules]) -> ApprovalRules:
    """Return what all of them ask for together."""
    return ApprovalRules(
        actions=tuple(dict.fromkeys(action for each in said for action in each.actions)),
        above=min(each.above for each in said),
        approvers=max(each.approvers for each in said),
        signers=tuple(dict.fromkeys(file for each in said for file in each.signers)),
        valid_s=min(each.valid_s for each in said),
        unapproved=all(each.unapproved for each in said),
        places=tuple(dict.fromkeys(place for each in said for place in each.places)),
    )
