"""A server that lies, on purpose and by a seed: what a broken proxy, a cache, a wrong build or a bad network can do.

It carries out a request against a `World`, or does not, and then says something else than the truth. It never makes up
a reading that is right in form and wrong in every row: nobody could know that. Every other lie must be seen through, or
the caller must say that it does not know.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any

from engine.simulator.world import World
from tests.support.command import ASKING, Backend

HUGE = 300 << 20
"""Bytes of an answer that is too large for any memory."""


class Lie(StrEnum):
    """One way not to tell the truth."""

    TWICE = "each answer is sent a second time, 10 ms later, on its connection"
    ANOTHERS = "an answer given before, to another request, is given again; the request goes nowhere"
    REPEATED = "success, under a RequestId that was given before; the request goes nowhere"
    OF_A_READ = "a write is answered like a read; the request goes nowhere"
    OTHER_ROWS = "the rows of another instance"
    NO_INSTANCE = "rows that do not name their instance"
    CAPPED = "a page of fewer rows than asked for, with their number as TotalCount"
    EMPTY_PAGE = "a page without rows, with 0 as TotalCount"
    SHUFFLED = "each page comes in another order"
    STALE = "rows as they were a second ago"
    AS_TEXT = "numbers as text"
    NO_STATUS = "rows without a status"
    UNAPPLIED = "success, and nothing happens"
    LOST_AFTER = "carried out, and the connection closes without an answer"
    MUTE_ON_REUSE = "a request that is not the first of its connection is dropped with it, unread"
    GATEWAY = "HTTP 502 with a page, and the request goes on its way"
    ODD_HEADERS = "dates and waits that no clock has"
    CUT_MESSAGE = "an error whose words end within a character; the request goes nowhere"
    ENDLESS = "an answer without an end"
    BOMB = "300 MB in a few kB of gzip"
    NESTED = "JSON a hundred thousand levels deep"


READ_LIES = frozenset({Lie.OTHER_ROWS, Lie.NO_INSTANCE, Lie.CAPPED, Lie.EMPTY_PAGE, Lie.SHUFFLED, Lie.STALE,
                       Lie.AS_TEXT, Lie.NO_STATUS})  # fmt: skip
WRITE_LIES = frozenset({Lie.OF_A_READ, Lie.UNAPPLIED, Lie.REPEATED})
UNSENT = frozenset({Lie.ANOTHERS, Lie.REPEATED, Lie.OF_A_READ, Lie.UNAPPLIED, Lie.CUT_MESSAGE, Lie.MUTE_ON_REUSE})
"""Lies about a request that is not carried out."""


@dataclass
class Said:
    """What goes on the wire."""

    body: bytes = b""
    status: str = "200 OK"
    headers: dict[str, str] = field(default_factory=dict)
    lie: Lie | None = None


class Lies:
    """Which lie comes when: by a seed, with these odds, and at most so many to one instance and user."""

    def __init__(self, world: World, lies: Collection[Lie], *, odds: float, seed: int, most_each: int) -> None:
        self.world = world
        self.told: Counter[Lie] = Counter()
        self.is_honest = False
        """From here on the truth is told."""
        self._lies = sorted(lies)
        self._odds = odds
        self._most_each = most_each
        self._rng = Random(f"{seed}/lies")
        self._told_to: Counter[tuple[str, str]] = Counter()
        self._given: deque[tuple[str, bytes]] = deque(maxlen=50)
        """Subjects and bodies of honest answers."""
        self._readings: dict[str, deque[tuple[float, bytes]]] = {}

    def answer(self, headers: Mapping[str, str], body: bytes, *, access: str, is_reused: bool = False) -> Said:
        """Carry out a request, or not, and say what is said of it."""
        action = next((value for name, value in headers.items() if name.lower() == "x-tc-action"), "")
        asked = json.loads(body) if body else {}
        instance, user = str(asked.get("DBInstanceId", "")), str(asked.get("UserName", ""))
        lie = self._choose(action, instance, user, is_reused)
        if lie in UNSENT:
            return self._unsent(lie, action, instance, user)
        true = self.world.handle(
            method="POST", query="", headers=headers, body=body, access=access, now=time.time()
        ).body
        said = Said(true, lie=lie)
        if lie is None:
            if b'"Error"' not in true:
                self._given.append((f"{action} {instance} {user}", true))
        elif lie in READ_LIES:
            said.body = self._rows(lie, true, instance)
        else:
            self._wrap(said)
        if action == "DescribeAccounts":
            self._readings.setdefault(instance, deque(maxlen=50)).append((time.time(), true))
        return said

    def _choose(self, action: str, instance: str, user: str, is_reused: bool) -> Lie | None:
        is_read = action.startswith(ASKING)
        fitting = [
            lie
            for lie in self._lies
            if (is_read or lie not in READ_LIES)
            and (not is_read or lie not in WRITE_LIES)
            and (is_reused or lie is not Lie.MUTE_ON_REUSE)
            and (action.startswith("DescribeAccounts") or lie not in READ_LIES)
        ]
        if (
            self.is_honest
            or not fitting
            or self._told_to[instance, user] >= self._most_each
            or self._rng.random() >= self._odds
        ):
            return None
        lie = self._rng.choice(fitting)
        self.told[lie] += 1
        self._told_to[instance, user] += 1
        return lie

    def _unsent(self, lie: Lie, action: str, instance: str, user: str) -> Said:
        mine = f"{action} {instance} {user}"
        others = [body for subject, body in self._given if subject != mine]
        fresh = f"{self._rng.getrandbits(128):032x}"
        match lie:
            case Lie.ANOTHERS if others:
                return Said(self._rng.choice(others), lie=lie)
            case Lie.REPEATED if others:
                used = json.loads(self._rng.choice(others))["Response"]["RequestId"]
                return Said(_response({"RequestId": used}), lie=lie)
            case Lie.OF_A_READ:
                row = {"DBInstanceId": instance, "UserName": user, "Status": 5}
                return Said(_response({"TotalCount": 1, "Details": [row], "RequestId": fresh}), lie=lie)
            case Lie.UNAPPLIED:
                return Said(_response({"RequestId": fresh}), lie=lie)
            case Lie.MUTE_ON_REUSE:
                return Said(lie=lie)
        error = b'{"Response":{"Error":{"Code":"LimitExceeded","Message":"zu viele Schl\xc3"},"RequestId":"%b"}}'
        return Said(error % fresh.encode(), lie=Lie.CUT_MESSAGE)

    def _rows(self, lie: Lie, true: bytes, instance: str) -> bytes:
        document: dict[str, Any] = json.loads(true)
        response = document["Response"]
        rows = response.get("Details")
        if rows is None:
            return true
        match lie:
            case Lie.OTHER_ROWS:
                others = [found for other, found in self._readings.items() if other != instance]
                if not others:
                    return true
                response["Details"] = json.loads(self._rng.choice(others)[-1][1])["Response"].get("Details", [])
                response["TotalCount"] = len(response["Details"])
            case Lie.NO_INSTANCE:
                response["Details"] = [{k: v for k, v in row.items() if k != "DBInstanceId"} for row in rows]
            case Lie.CAPPED:
                response["Details"] = rows[: max(1, len(rows) // 2)]
                response["TotalCount"] = len(response["Details"])
            case Lie.EMPTY_PAGE:
                response["Details"], response["TotalCount"] = [], 0
            case Lie.SHUFFLED:
                self._rng.shuffle(rows)
            case Lie.STALE:
                old = [body for at, body in self._readings.get(instance, ()) if at < time.time() - 1.0]
                return old[-1] if old else true
            case Lie.AS_TEXT:
                response["TotalCount"] = str(response["TotalCount"])
                for row in rows:
                    row["Status"] = str(row["Status"])
            case Lie.NO_STATUS:
                for row in rows:
                    del row["Status"]
        return json.dumps(document).encode()

    def _wrap(self, said: Said) -> None:
        match said.lie:
            case Lie.GATEWAY:
                said.status, said.body = "502 Bad Gateway", b"<html><title>502 Bad Gateway</title></html>"
            case Lie.ODD_HEADERS:
                odd = (
                    "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
                    "\x80\xff",
                    "9" * 4000,
                    "-1",
                    "Mon, 99 Foo 1 1:1:1",
                )
                said.headers = {"Date": self._rng.choice(odd), "Retry-After": self._rng.choice(odd)}
            case Lie.BOMB:
                said.headers, said.body = {"Content-Encoding": "gzip"}, _bomb()
            case Lie.NESTED:
                said.body = b'{"Response":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def _response(fields: Mapping[str, object]) -> bytes:
    return json.dumps({"Response": fields}).encode()


_BOMBS: list[bytes] = []


def _bomb() -> bytes:
    if not _BOMBS:
        _BOMBS.append(gzip.compress(b" " * HUGE, 1))
    return _BOMBS[0]


class Liar(Backend):
    """The lying server on a loopback port, in a thread with a loop of its own. A context manager."""

    def __init__(
        self, world: World, lies: Collection[Lie], *, odds: float = 1.0, seed: int = 0, most_each: int = 10**9
    ) -> None:
        super().__init__(world)
        self.lies = Lies(world, lies, odds=odds, seed=seed, most_each=most_each)

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self._access = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.endpoints = (f"http://{self._access}",)
        self._connections: set[asyncio.Task[None]] = set()
        self._ready.set()
        await self._ended.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            is_reused = False
            while await self._exchange(reader, writer, is_reused=is_reused):
                is_reused = True
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the test is over
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reused: bool) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        length = int(next((value for name, value in headers.items() if name.lower() == "content-length"), "0"))
        body = await reader.readexactly(length)
        said = self.lies.answer(headers, body, access=self._access, is_reused=is_reused)
        if said.lie in (Lie.MUTE_ON_REUSE, Lie.LOST_AFTER):
            return False
        await self._write(writer, said)
        return said.lie is not Lie.ENDLESS

    async def _write(self, writer: asyncio.StreamWriter, said: Said) -> None:
        lines = [f"HTTP/1.1 {said.status}", "Content-Type: application/json", *map(": ".join, said.headers.items())]
        if said.lie is Lie.ENDLESS:
            writer.write("\r\n".join([*lines, "Content-Length: 9000000000000", "", ""]).encode("latin-1"))
            while True:
                writer.write(b" " * 65_536)
                await writer.drain()
        lines += [f"Content-Length: {len(said.body)}", "", ""]
        answer = "\r\n".join(lines).encode("latin-1") + said.body
        writer.write(answer)
        if said.lie is Lie.TWICE:
            asyncio.get_running_loop().call_later(0.01, _again, writer, answer)
        await writer.drain()


def _again(writer: asyncio.StreamWriter, answer: bytes) -> None:
    if not writer.is_closing():
        writer.write(answer)
