"""A world behind a loopback port whose answers go astray: sent twice, of another instance, page by page, or not at all.

As bytes on sockets, in a thread with a loop of its own, since what ties an answer to its request is their order on a
connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from engine.simulator.world import World
from tests.support.command import ASKING, PATIENCE_S

Parameters = dict[str, Any]
"""Of a request, as JSON has them. Any: JSON."""


class Exchange:
    """One request, and the whole answer of a world that knows its trade; `say` sends something."""

    def __init__(
        self, action: str, parameters: Parameters, body: bytes, number: int, writer: asyncio.StreamWriter
    ) -> None:
        self.action = action
        self.parameters = parameters
        self.body = body
        self.number = number
        """Which request of its connection it is, from 1."""
        self._writer = writer

    @property
    def response(self) -> dict[str, Any]:
        """The answer's `Response`. Any: JSON."""
        found: dict[str, Any] = json.loads(self.body)["Response"]
        return found

    async def say(self, body: bytes | dict[str, Any] | None = None, *, head: str = "") -> None:
        """Send an answer: the world's, or another body or `Response`."""
        if isinstance(body, dict):
            body = json.dumps({"Response": body}).encode()
        body = self.body if body is None else body
        lines = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{head}\r\n"
        self._writer.write(lines.encode() + body)
        await self._writer.drain()

    def later(self, seconds: float) -> None:
        """Send the world's answer once more."""
        lines = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(self.body)}\r\n\r\n"
        asyncio.get_running_loop().call_later(seconds, self._writer.write, lines.encode() + self.body)

    def hang_up(self) -> None:
        self._writer.close()


class Liar:
    """Answers every request as `answer` does. A context manager."""

    def __init__(self, world: World, answer: Callable[[Exchange], Awaitable[None]]) -> None:
        self.world = world
        self.endpoint = ""
        self.connections = 0
        self._answer = answer
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="liar")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None

    def __enter__(self) -> Liar:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._loop is not None and self._ended is not None
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def writes(self) -> list[Any]:
        """Arrivals of writes, in order."""
        return [arrival for arrival in tuple(self.world.audit) if not arrival.action.startswith(ASKING)]

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._ended.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.sleep(0.01)  # aborted transports close in later turns

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = 0
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while not writer.is_closing():
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                    lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
                    headers = {name.lower(): value for name, _, value in lines}
                    body = await reader.readexactly(int(headers.get("content-length", 0)))
                    number += 1
                    said = self.world.handle(
                        method="POST", query="", headers=headers, body=body, access=headers["host"], now=time.time()
                    )
                    action = headers.get("x-tc-action", "")
                    await self._answer(Exchange(action, json.loads(body), said.body, number, writer))
        finally:
            writer.transport.abort()
