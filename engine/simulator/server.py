"""I/O on loopback sockets. The world as an HTTP server, for `acctops simulate`, load tests and foreign clients.

Each port is an access region of one world; so is each of the API's own host names, at any port. The server has the
API's surface and nothing more: no control endpoint, no health check. It is built for several thousand requests a
second: no routing, no middleware, no access log.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
import time
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

from aiohttp import web

from engine.simulator import catalog
from engine.simulator.delivery import deliver
from engine.simulator.sts import METADATA_PATH
from engine.simulator.wire import MAX_BODY, WireAnswer, WireKind, misdirected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http import RawRequestMessage
    from aiohttp.streams import StreamReader
    from aiohttp.web_protocol import RequestHandler

    from engine.simulator.world import World

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on, zero seconds: closing sends RST instead of FIN."""
_BACKLOG = 1024
_TURNS = 3
"""Turns of the loop that an accepted connection takes to its handler."""
ACCESS_POINTS = frozenset(
    f"{service}{place}.tencentcloudapi.com"
    for service in ("postgres", "sts")
    for place in ("", ".intl", *(f".{region}" for region in catalog.REGIONS))
)
"""The API's own host names: the nearest on either site, and one in each region (request structure page, CN-FSI)."""


class Server:
    """A listening world. `serve` makes it; `aclose` ends it, hung answers included."""

    def __init__(self, world: World, now: Callable[[], float], keepalive_s: float) -> None:
        self._world = world
        self._now = now
        self._keepalive_s = keepalive_s
        self._runners: list[web.ServerRunner] = []
        self._listeners: list[socket.socket] = []
        self._closing = asyncio.Event()
        self.ports: tuple[int, ...] = ()
        """Bound ports, in the order of the calls of `listen`."""
        self.endpoints: tuple[str, ...] = ()
        """URLs of the ports, as `--endpoint` takes them."""

    async def aclose(self) -> None:
        """Stop listening and drop every connection."""
        self._closing.set()
        # asyncio loses a connection that was accepted a turn before its server is closed: nobody could close it then.
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        for runner in self._runners:
            await runner.cleanup()

    async def listen(self, host: str, port: int) -> None:
        """Open one more access region."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        except OSError:
            listener.close()
            raise
        bound = listener.getsockname()[1]
        access = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
        low = web.Server(
            self._handler(access, frozenset({access, f"localhost:{bound}"})),
            request_factory=_make_request,
            access_log=None,
            auto_decompress=False,  # the signature covers the bytes as they came
            handler_cancellation=True,
            keepalive_timeout=self._keepalive_s,
        )
        runner = web.ServerRunner(low, shutdown_timeout=0.1)
        self._runners.append(runner)
        self._listeners.append(listener)
        await runner.setup()
        await web.SockSite(runner, listener, backlog=_BACKLOG).start()
        self.ports = (*self.ports, bound)
        self.endpoints = (*self.endpoints, f"http://{access}")

    def _handler(
        self, access: str, hosts: frozenset[str]
    ) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            body = await request.read()
            answer = await deliver(lambda: self._ask(request, body, access, hosts), self._world.draw_travel_s())
            if answer.delay_s > 0:
                await asyncio.sleep(answer.delay_s)
            if answer.kind is WireKind.ANSWER:
                return _response(answer)
            return await self._misbehave(request, answer)

        return handle

    def _ask(self, request: web.BaseRequest, body: bytes, access: str, hosts: frozenset[str]) -> WireAnswer:
        now = self._now()
        headers = request.headers
        name = headers.get("Host", "").lower().partition(":")[0]
        if name in ACCESS_POINTS:  # a proxy or a hosts file directs this name to the simulator
            access = name
        elif (wrong := misdirected(headers, hosts, now)) is not None:
            return wrong
        path, _, query = request.raw_path.partition("?")
        if path.startswith(METADATA_PATH) and request.method == "GET":
            return self._world.metadata(path, access=access, now=now)
        if path != "/":
            return WireAnswer(status=404, content_type="text/plain", body=b"404 Not Found\n", date=int(now))
        return self._world.handle(
            method=request.method, query=query, headers=headers, body=body, access=access, now=now
        )

    async def _misbehave(self, request: web.BaseRequest, answer: WireAnswer) -> web.StreamResponse:
        """Truncate, reset or hang, until the connection is lost or the server closes; never return an answer."""
        transport = request.transport
        if transport is not None and answer.kind is WireKind.TRUNCATED:
            response = web.StreamResponse(status=answer.status, headers=_headers(answer))
            response.content_length = len(answer.body)
            await response.prepare(request)
            await response.write(answer.body[: answer.cut])
            transport.close()
        elif transport is not None and answer.kind is WireKind.RESET:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
        await self._closing.wait()
        raise ConnectionResetError("the simulator closes")


async def serve(
    world: World,
    host: str = "127.0.0.1",
    ports: Sequence[int] = (0,),
    *,
    now: Callable[[], float] = time.time,
    keepalive_s: float = 75.0,
) -> Server:
    """Listen for the world on loopback; return the server. Port 0 is any free port. OSError if a port is taken."""
    if not ports:
        raise ValueError("at least one port is needed")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ValueError(f"the simulator listens on loopback only, not on {host!r}")
    server = Server(world, now, keepalive_s)
    try:
        for port in ports:
            await server.listen(host, port)
    except OSError:
        await server.aclose()
        raise
    return server


def _make_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """Make a request as aiohttp does, but with room for a body so large that the API itself refuses it."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY + 65_536)


def _response(answer: WireAnswer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=_headers(answer))


def _headers(answer: WireAnswer) -> dict[str, str]:
    return {"Content-Type": answer.content_type, "Date": _http_date(answer.date)}


@lru_cache(maxsize=16)
def _http_date(at: int) -> str:
    return formatdate(at, usegmt=True)
