"""One transport for all requests of a command, survey and session, so that connections are opened once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.outside.limits import make_room

if TYPE_CHECKING:
    from engine.cloud.proxy import WayOut
    from engine.cloud.transport import HttpTransport
    from engine.model import Transport


class Wire:
    """Opens a transport when it is first needed, in the event loop that needs it. Who makes a Wire also closes it."""

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

    async def aclose(self) -> None:
        """Close all transports."""
        while self._open:
            await self._open.pop()[1].aclose()
