"""The way to the API of one command: one transport for survey and session, so that connections are opened once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.outside.limits import make_room

if TYPE_CHECKING:
    from engine.cloud.proxy import WayOut
    from engine.cloud.transport import HttpTransport
    from engine.model import Transport


class Wire:
    """Opens a transport when it is first needed, in the event loop that needs it. Whoever made it closes it."""

    def __init__(self) -> None:
        self._open: list[tuple[WayOut, HttpTransport]] = []

    def transport(self, way: WayOut, connections: int) -> Transport:
        """The transport by this way, with room for so many connections, or as many as this process may have open."""
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
        """Close its connections."""
        while self._open:
            await self._open.pop()[1].aclose()
