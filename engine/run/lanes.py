"""A lane is one quota, and its state in a session; the lanes of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from msgspec import Struct, field

from engine.cloud.client import Client
from engine.cloud.clients import Clients
from engine.model import Where
from engine.pacing.pacer import Pacer
from engine.planning.routes import Routes

DOWN_PAUSE_CAP_S = 5.0


class Lane(Struct):
    """One quota: an identity and action through one endpoint."""

    name: str
    client: Client
    pacer: Pacer
    permits: asyncio.Semaphore
    route: int = 0
    """Which calls it may take, by index in the run's routes."""
    account: str = ""
    closed: bool = False
    """It was refused or could not be reached: it takes no more calls in this session."""
    answered: bool = False
    """Whether the endpoint ever answered in this session."""
    answered_at: float = float("-inf")
    """Loop time of its last answer."""
    unanswered: set[Where] = field(default_factory=set)
    """Instances of calls it took since then and did not answer."""
    down_since: float | None = None
    """Loop time since which no attempt reached the endpoint."""
    down_why: str = ""
    probe_s: float = 0.0
    """How long the last attempt that reached nobody took: what finding out costs the call it is done with."""
    denied: set[Where] = field(default_factory=set)
    """Instances for which its keys have not the permission."""
    accepted: bool = False
    """Whether the API has accepted any call by it in this session."""
    in_flight: int = 0
    """Attempts under way."""
    _down_count: int = 0

    @property
    def is_probed(self) -> bool:
        """Whether its endpoint cannot be reached, and a call is out to see if it can again."""
        return self.down_since is not None and self.in_flight > 0

    @property
    def may_send(self) -> bool:
        """Whether a call may go out by it just now, as far as its slots allow."""
        return not (self.closed or self.is_probed)

    def reached(self) -> None:
        """An attempt reached the server."""
        self.down_since, self._down_count = None, 0

    def heard(self, now: float) -> None:
        """An attempt was answered, whatever the answer."""
        self.answered, self.answered_at = True, now
        self.unanswered.clear()
        self.reached()

    def unreachable(self, why: str, now: float, *, since: float) -> float:
        """An attempt reached nobody (`since` then): pause, longer each time. Returns for how long it has been so."""
        if self.down_since is None:
            self.down_since = since
        self.probe_s = now - since
        self.down_why = why
        self._down_count += 1
        self.pacer.pause(min(DOWN_PAUSE_CAP_S, 0.2 * 2 ** min(self._down_count, 10)))
        return now - self.down_since


def lane_name(identity: str, action: str, client: Client) -> str:
    """What a lane is called in journals, and its slots among the processes of one host."""
    return f"{identity}/{action}/{client.host}"


def others_of(lanes: Iterable[Lane], lane: Lane) -> list[Lane]:
    """The lanes beside `lane` that take the same calls."""
    return [each for each in lanes if each.route == lane.route and each is not lane and not each.closed]


def lanes_of(
    routes: Routes, clients: Clients, *, action: str, workers: int, pacer: Callable[[str], Pacer]
) -> list[Lane]:
    """Every identity through every access point, for each route; `pacer` of a lane's name paces it."""
    lanes = []
    for number, route in enumerate(routes.every):
        for client in clients.signing(route.account, route.endpoints):
            name = lane_name(client.identity, action, client)
            permits = asyncio.Semaphore(workers)
            lanes.append(Lane(name, client, pacer(name), permits, route=number, account=route.account))
    return lanes
