"""The smallest CAM policy that lets a job run, for the operator to paste into the console.

Source: CAM. The product authorises by resource, `qcs::postgres:REGION:uin/UIN:DBInstanceId/ID`; for
CloseAccountCAM alone the region stays empty. DescribeDBInstances lists, so it is allowed for all resources.
"""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING, Any

from engine.api.actions import ACTIONS, SERVICE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.inputs.job import Job

MOST_CHARACTERS = 6_000
"""A custom policy may have 6,144 characters (CAM)."""


def places_of(job: Job, account: str) -> list[tuple[str, str]]:
    """Return (region, instance) that a job may act on in an account; a match without them gives "" and `*`."""
    listed = [(each.region, each.instance) for each in job.targets if each.account == account]
    asked = [
        (region, instance)
        for each in job.matches
        if account in each.accounts
        for region, instance in product(
            each.regions if each.regions is not None else ("",), each.instances.ids or ("*",)
        )
    ]
    return list(dict.fromkeys((*listed, *asked)))


def smallest_policy(action: str, places: Sequence[tuple[str, str]], *, uin: str = "") -> dict[str, Any]:
    """Return the policy for `action` on `places` (region, instance); `uin` "": the account it is pasted into.

    Any: JSON. The policy names each instance if that fits, else it allows all instances of the regions.
    """
    exact = _policy(action, places, uin)
    if len(json.dumps(exact, separators=(",", ":"))) <= MOST_CHARACTERS:
        return exact
    return _policy(action, list(dict.fromkeys((region, "*") for region, _ in places)), uin)


def _policy(action: str, places: Sequence[tuple[str, str]], uin: str) -> dict[str, Any]:
    account = f"uin/{uin}" if uin else ""

    def resources(*, with_region: bool) -> list[str]:
        found = (
            f"qcs::{SERVICE}:{region if with_region else ''}:{account}:DBInstanceId/{instance}"
            for region, instance in places
        )
        return list(dict.fromkeys(found))

    reads, write = f"{SERVICE}:DescribeAccounts", f"{SERVICE}:{action}"
    statements: list[dict[str, Any]] = []
    if not ACTIONS[action].has_region:
        statements.append({"effect": "allow", "action": [write], "resource": resources(with_region=False)})
        statements.append({"effect": "allow", "action": [reads], "resource": resources(with_region=True)})
    else:
        statements.append({"effect": "allow", "action": [write, reads], "resource": resources(with_region=True)})
    statements.append({"effect": "allow", "action": [f"{SERVICE}:DescribeDBInstances"], "resource": ["*"]})
    return {"version": "2.0", "statement": statements}
