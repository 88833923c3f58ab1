"""`Retry-After`, which no page documents, is honoured if it is ever sent. In memory and virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from engine.cloud.client import MOST_RETRY_AFTER_S
from engine.errors import Reason
from engine.model import Fault, Reply, Transport
from engine.simulator.faults import rules_from
from engine.simulator.world import World
from tests.support.drill import Drill, fleet


@dataclass
class Asking:
    """A gateway that asks to wait whenever it refuses."""

    inner: Transport
    seconds: float

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        outcome = await self.inner.send(endpoint, headers, body, timeout_s)
        if isinstance(outcome, Reply) and (outcome.status == 503 or b'"Error"' in outcome.body):
            return msgspec.structs.replace(outcome, retry_after_s=self.seconds)
        return outcome

    async def get(self, url: str, timeout_s: float) -> Reply | Fault:
        return await self.inner.get(url, timeout_s)

    async def aclose(self) -> None:
        await self.inner.aclose()


def pause(tmp_path: Path, code: str, seconds: float, users: int) -> tuple[Drill, float]:
    """How long the first refused call waited, when the fifth request is refused once."""
    world = World(faults=rules_from([{"action": "LockAccount", "code": code, "after": 4, "times": 1}]))
    drill = Drill(tmp_path, world, fleet(1, users), transport=lambda inner: Asking(inner, seconds)).go()
    assert drill.reason is Reason.OK
    writes = [arrival for arrival in world.audit if arrival.action == "LockAccount"]
    (refused,) = [arrival for arrival in writes if arrival.code]
    again = next(arrival for arrival in writes if arrival.user == refused.user and not arrival.code)
    return drill, again.at - refused.at


@pytest.mark.parametrize(("asked_s", "waits_s"), [(7.0, 7.0), (3600.0, MOST_RETRY_AFTER_S)])
def test_a_throttled_lane_waits_as_long_as_it_is_asked_to(tmp_path: Path, asked_s: float, waits_s: float) -> None:
    """All calls of it, and not for the hour some proxy's page wishes for."""
    drill, waited = pause(tmp_path, "RequestLimitExceeded", asked_s, users=20)
    assert waits_s <= waited < waits_s + 1
    at = sorted(arrival.at for arrival in drill.world.audit if arrival.action == "LockAccount")
    assert max(later - earlier for earlier, later in itertools.pairwise(at)) >= waits_s - 0.5


def test_a_call_that_is_tried_again_waits_as_long_as_it_is_asked_to(tmp_path: Path) -> None:
    """Its own backoff would have been half a second; the others go on."""
    drill, waited = pause(tmp_path, "InternalError", 7.0, users=20)
    assert 7.0 <= waited < 8.0
    at = sorted(arrival.at for arrival in drill.world.audit if arrival.action == "LockAccount")
    assert at[15] - at[0] < 2


def test_a_call_that_a_gateway_turns_away_waits_as_long_as_it_is_asked_to(tmp_path: Path) -> None:
    """503 may have been applied, so it is read first; and not sent again sooner for that."""
    world = World(faults=rules_from([{"action": "LockAccount", "status": 503, "after": 4, "times": 1}]))
    drill = Drill(tmp_path, world, fleet(1, 20), transport=lambda inner: Asking(inner, 7.0)).go()
    assert drill.reason is Reason.OK
    writes = [arrival for arrival in world.audit if arrival.action == "LockAccount"]
    assert len(writes) == 21
    (turned_away,) = [arrival for arrival in writes if arrival.fault]
    again = [arrival for arrival in writes if arrival.user == turned_away.user][-1]
    assert 7.0 <= again.at - turned_away.at < 8.0
