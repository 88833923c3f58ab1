"""One transport for all requests of a command, survey and session, so that connections are opened once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from engine.outside.limits import make_room

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.cloud.proxy import WayOut
    from engine.cloud.transport import HttpTransport
    from engine.model import Transport


class Wire:
    """Opens a transport when it is first needed, in the event loop that needs it. Who makes a Wire also closes it."""

    clock: Callable[[], float] = staticmethod(time.time)
    """Returns the UNIX time with which requests are signed."""

    def __init__(self) -> None:
        self._open: list[tuple[WayOut, HttpTransport]] = []

    def transport(self, way: WayOut, connections: int) -> Transport:
        """Return the transport for `way`, with room for `connections`, or for as many as this process may open."""
        room = max(1, make_room(connections))
        for known, transport in self._open:
            if known == way:
                transport.widen(room)
                return transport
        from engine.cloud.transport import HttpTransport

        transport = HttpTransport(connections=room, way=way)
        self._open.append((way, transport))
        return transport

    def apart(self, way: WayOut) -> Transport:
        """Return a transport of its own for a single question; the asker closes it."""
        from engine.cloud.transport import HttpTransport

        return HttpTransport(connections=2, way=way)

    async def aclose(self) -> None:
        """Close all transports."""
        while self._open:
            await self._open.pop()[1].aclose()
