"""The simulated world of a run: its targets as they were before it, and the demo keys of their accounts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from engine.api.actions import ACTIONS

if TYPE_CHECKING:
    from engine.model import Call, CallId
    from engine.simulator.faults import FaultRule
    from engine.simulator.sts import KeyRecord
    from engine.simulator.world import World


def simulated_keys(accounts: Collection[str]) -> dict[str, KeyRecord] | None:
    """The demo keys of simulated cloud accounts, each of which owns its instances; None: the one without a name."""
    from engine.simulator import DEMO_SECRET_KEY, demo_secret_id
    from engine.simulator.sts import KeyRecord

    if not any(accounts):
        return None
    return {
        demo_secret_id(account): KeyRecord(secret_key=DEMO_SECRET_KEY, identity=account, uin=account)
        for account in accounts
    }


def simulated_world(
    action: str, calls: Iterable[Call], changed: Collection[CallId] = (), faults: tuple[FaultRule, ...] = ()
) -> World:
    """A world in which the targets of a run exist, as they were before it, but for what the run has `changed`."""
    from engine.simulator.world import World

    calls = list(calls)
    keys = simulated_keys({call.account for call in calls})
    world = World(faults=faults, latency=0.04, jitter=0.02, keys=keys)
    before, after = _STATES[action]
    for call in calls:
        status, cam = after if call.id in changed else before
        with suppress(ValueError):  # named in two regions, it is in the first, and the other call will be told so
            world.seed(call.instance, call.region, [call.user], status=status, cam=cam, uin=call.account)
    return world


_NORMAL, _LOCKED = (2, False), (5, False)
_CAM_ON = (2, True)
_STATES = {
    "LockAccount": (_NORMAL, _LOCKED),
    "UnlockAccount": (_LOCKED, _NORMAL),
    "OpenAccountCAM": (_NORMAL, _CAM_ON),
    "CloseAccountCAM": (_CAM_ON, _NORMAL),
    "RefreshAccountPassword": (_CAM_ON, _CAM_ON),
}
"""(status, CAM) of a simulated account before and after each action."""
assert set(_STATES) == set(ACTIONS)
