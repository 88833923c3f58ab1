"""A cloud with accounts, roles and a metadata service in memory, and the way to it, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from engine.credentials.network import Network
from engine.model import Fault, Reply, Transport
from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.faults import rules_from
from engine.simulator.inprocess import InProcessTransport
from engine.simulator.sts import KeyRecord, Role
from engine.simulator.world import World
from tests.support.virtual import VirtualLoop

WALL = 1_790_000_000.0
STS = "http://127.0.0.1:9"
BASE = {DEMO_SECRET_ID: KeyRecord(secret_key=DEMO_SECRET_KEY, identity="100000000007")}
"""The demo keys, of a sub-account."""
ROLE = Role(name="acctops")
ENVIRONMENT = {"TENCENTCLOUD_SECRET_ID": DEMO_SECRET_ID, "TENCENTCLOUD_SECRET_KEY": DEMO_SECRET_KEY}
_T = TypeVar("_T")


@dataclass
class Watched:
    """A transport that counts how many questions are under way at a time."""

    inner: Transport
    cloud: Cloud

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        async with self.cloud.counted():
            return await self.inner.send(endpoint, headers, body, timeout_s)

    async def get(self, url: str, timeout_s: float) -> Reply | Fault:
        async with self.cloud.counted():
            return await self.inner.get(url, timeout_s)

    async def aclose(self) -> None:
        self.cloud.closed += 1
        await self.inner.aclose()


@dataclass
class Cloud:
    """One world at one moment after another; `run` moves its time."""

    roles: tuple[Role, ...] = ()
    metadata_role: Role | None = None
    keys: dict[str, KeyRecord] = field(default_factory=lambda: dict(BASE))
    faults: tuple[dict[str, Any], ...] = ()
    latency: float = 0.05
    world: World = field(init=False)
    loop: VirtualLoop | None = None
    """The loop that is running, or ran last."""
    under_way: int = 0
    most_under_way: int = 0
    opened: int = 0
    closed: int = 0

    def __post_init__(self) -> None:
        self.world = World(
            keys=self.keys,
            roles=self.roles,
            metadata_role=self.metadata_role,
            faults=rules_from(self.faults) if self.faults else (),
            latency=self.latency,
        )

    @property
    def seconds(self) -> float:
        """How long all that was done has taken."""
        return self.loop.now - VirtualLoop.START if self.loop is not None else 0.0

    def clock(self) -> float:
        """UNIX time."""
        return WALL + self.seconds

    def open(self) -> Transport:
        self.opened += 1
        return Watched(InProcessTransport(self.world, now=self.clock), self)

    def counted(self) -> _Counted:
        return _Counted(self)

    @property
    def network(self) -> Network:
        return Network(open=self.open, sts=STS, metadata=STS, clock=self.clock)

    def run(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Carry out `work` in this cloud's time, which goes on from one call to the next."""
        loop = VirtualLoop()
        loop.now += self.seconds
        self.loop = loop

        async def whole() -> _T:
            return await work()

        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(whole())

    def asked(self, action: str) -> list[Any]:
        """Arrivals of an action, in order."""
        return [arrival for arrival in self.world.audit if arrival.action == action]


@dataclass
class _Counted:
    cloud: Cloud

    async def __aenter__(self) -> None:
        self.cloud.under_way += 1
        self.cloud.most_under_way = max(self.cloud.most_under_way, self.cloud.under_way)

    async def __aexit__(self, *exc: object) -> None:
        self.cloud.under_way -= 1
