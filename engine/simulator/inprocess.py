"""No I/O. The world in memory, as a `model.Transport`: `run --simulate` and most tests talk to it.

It waits on the event loop, so under a loop with virtual time a thousand paced calls take no time at all.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from engine.model import Fault, Reply, Stage
from engine.simulator.delivery import deliver
from engine.simulator.wire import WireKind, misdirected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from engine.simulator.wire import WireAnswer
    from engine.simulator.world import World


class InProcessTransport:
    """An `engine.model.Transport` over a World."""

    def __init__(
        self,
        world: World,
        *,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        unreachable: Mapping[str, str] | None = None,
    ) -> None:
        """Talk to `world` at the wall clock `now`.

        unreachable: access regions that cannot be reached at the moment, read at every send: `host:port` → Local.Dns,
        Local.Connect or Local.Tls.
        """
        self._world = world
        self._now = now
        self._sleep = sleep
        self._unreachable = unreachable if unreachable is not None else {}

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        """POST `body`; the endpoint's host and port are the access region."""
        access = access_of(endpoint)
        return await self._exchange(access, lambda: self._handle(access, headers, body), timeout_s)

    async def get(self, url: str, timeout_s: float) -> Reply | Fault:
        """GET from the metadata service of this world."""
        access, path = access_of(url), urlsplit(url).path
        return await self._exchange(
            access, lambda: self._world.metadata(path, access=access, now=self._now()), timeout_s
        )

    async def _exchange(self, access: str, arrive: Callable[[], WireAnswer], timeout_s: float) -> Reply | Fault:
        down = self._unreachable.get(access)
        if down is not None:
            return Fault(stage=Stage.BEFORE_SEND, code=down, message=f"{access} cannot be reached (simulated)")
        try:
            async with asyncio.timeout(timeout_s):
                travel_s = self._world.draw_travel_s()
                answer = await deliver(arrive, travel_s)
                if answer.delay_s > 0:
                    await self._sleep(answer.delay_s)
                if answer.kind is WireKind.HANG:
                    await asyncio.Event().wait()
        except TimeoutError:
            message = f"no answer within {timeout_s:g} s (simulated)"
            return Fault(stage=Stage.AFTER_SEND, code="Local.Timeout", message=message)
        match answer.kind:
            case WireKind.RESET:
                message = "connection reset by peer (simulated)"
                return Fault(stage=Stage.AFTER_SEND, code="Local.ConnectionReset", message=message)
            case WireKind.TRUNCATED:
                message = f"{answer.cut} of {len(answer.body)} bytes, then the connection closed (simulated)"
                return Fault(stage=Stage.AFTER_SEND, code="Local.Truncated", message=message)
            case WireKind.ANSWER | WireKind.HANG:
                return Reply(status=answer.status, body=answer.body, date=float(answer.date))

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""

    def _handle(self, access: str, headers: Mapping[str, str], body: bytes) -> WireAnswer:
        now = self._now()
        wrong = misdirected(headers, {access}, now)
        if wrong is not None:
            return wrong
        return self._world.handle(method="POST", query="", headers=headers, body=body, access=access, now=now)


def access_of(endpoint: str) -> str:
    """Return `host:port` of an endpoint URL, as its Host header must be: without the scheme's default port."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    if parts.port in (None, {"https": 443, "http": 80}.get(parts.scheme)):
        return host
    return f"{host}:{parts.port}"
