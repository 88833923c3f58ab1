"""The way to the API over real loopback sockets: what befalls it, and whether bytes can have left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import socket
import ssl
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cloud.leave import MAY_LEAVE
from engine.cloud.transport import LOST_IN_A_ROW, MOST_BODY, HttpTransport, _date, _seconds
from engine.model import Fault, Reply, Stage

BEFORE, AFTER = Stage.BEFORE_SEND, Stage.AFTER_SEND
HEADERS = {
    "Authorization": "TC3-HMAC-SHA256 Credential=x",
    "Content-Type": "application/json",
    "Host": "postgres.intl.tencentcloudapi.com",
    "X-TC-Action": "LockAccount",
}
BODY = b'{"DBInstanceId":"postgres-4sfuv15b","UserName":"app_user"}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: Mon, 21 Sep 2026 14:13:20 GMT\r\n\r\n{}"
DATE = 1_790_000_000.0

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBoTCCAUegAwIBAgIUVG8GEC6ELdJiZnPEgHJcU3QHAUwwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMYWNjdG9wcy10ZXN0MCAXDTI2MTEyMjAzMjYyNloYDzIxMjYx
MDI5MDMyNjI2WjAXMRUwEwYDVQQDDAxhY2N0b3BzLXRlc3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAAQaisiBRzW/Pu0TaWyEPf4w+tbot2A8agIqORIswqWR2rnx
grdf4NvdvW9gTOgdUj9AmzhgngL0x+Iymg6v4thoo28wbTAdBgNVHQ4EFgQU5NQ0
flIx81lltrEpd07qoX9WEwEwHwYDVR0jBBgwFoAU5NQ0flIx81lltrEpd07qoX9W
EwEwDwYDVR0TAQH/BAUwAwEB/zAaBgNVHREEEzARhwR/AAABgglsb2NhbGhvc3Qw
CgYIKoZIzj0EAwIDSAAwRQIhALxqpvwfJ4ztIZVTcLM8BzAKqT8z3pRgh+7kFfFw
3YBtAiBK6yaakujX2r7LztjnPQz+oRJrq58mu5yUq7iGjPxg6w==
-----END CERTIFICATE-----
"""
"""Of 127.0.0.1 and localhost, signed by itself, good until 2126."""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgujBniAo9n8cVtsed
Ty2iQLaP93BKhFIMd878qLcUMZmhRANCAAQaisiBRzW/Pu0TaWyEPf4w+tbot2A8
agIqORIswqWR2rnxgrdf4NvdvW9gTOgdUj9AmzhgngL0x+Iymg6v4tho
-----END PRIVATE KEY-----
"""
"""Made for these tests; opens nothing."""

Talk = Callable[["Line"], Awaitable[None]]


class Line:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> bytes:
        """Head and body of the next request."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        return head + await self.reader.readexactly(len(BODY))

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Peer:
    """A server that does on every connection what `talk` says, and remembers what it was asked."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.connections = 0
        self.lines: list[Line] = []
        self.requests: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        line = Line(reader, writer)
        self.lines.append(line)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self.talk(line)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    def hang_up(self) -> None:
        for task in self._tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def serving(talk: Talk, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Peer, str]]:
    """The peer and its endpoint."""
    peer = Peer(talk)
    server = await asyncio.start_server(peer, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield peer, f"http{'s' if tls else ''}://127.0.0.1:{port}"
    finally:
        server.close()
        peer.hang_up()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def transport(**options: object) -> AsyncIterator[HttpTransport]:
    made = HttpTransport(**options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.aclose()
        gc.collect()  # whatever was left open warns here, and a warning is an error


async def send(way: HttpTransport, endpoint: str, timeout_s: float = 5.0) -> Reply | Fault:
    return await way.send(endpoint, HEADERS, BODY, timeout_s)


async def ask(talk: Talk, timeout_s: float = 5.0) -> tuple[Reply | Fault, Peer]:
    """One request to a peer that does `talk`."""
    async with serving(talk) as (peer, endpoint), transport() as way:
        return await send(way, endpoint, timeout_s), peer


def said(outcome: Reply | Fault) -> Reply:
    """A reply without what it has of its connection."""
    assert isinstance(outcome, Reply)
    assert 0 <= outcome.opening_s < 5
    return msgspec.structs.replace(outcome, opening_s=0.0, distrust=None)


def kind(outcome: Reply | Fault) -> tuple[Stage, str]:
    assert isinstance(outcome, Fault), outcome
    return outcome.stage, outcome.code


async def answer(line: Line) -> None:
    """Answer every request."""
    while True:
        await line.request()
        await line.say(OK)


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context that fit together."""
    (tmp_path / "both.pem").write_text(KEY + CERTIFICATE)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "both.pem")
    return server, ssl.create_default_context(cadata=CERTIFICATE)


# ---- an answer -----------------------------------------------------------------------------------------------------


async def test_a_reply_is_status_whole_body_and_the_servers_clock() -> None:
    """What the rest of the engine works with."""
    outcome, _ = await ask(answer)
    assert said(outcome) == Reply(status=200, body=b"{}", date=DATE)


async def test_without_leave_nothing_leaves() -> None:
    """Asked when there is a connection: who has lost the right to send meanwhile sends no byte; then it goes on."""
    leaves = iter([False, False, True])

    async def may_leave() -> bool:
        return next(leaves)

    async def talk(line: Line) -> None:
        peer.requests.append(await line.request())
        await line.say(OK)

    async with serving(talk) as (peer, endpoint), transport() as way:
        MAY_LEAVE.set(may_leave)
        assert [kind(await send(way, endpoint)) for _ in range(2)] == [(BEFORE, "Local.NotSent")] * 2
        assert said(await send(way, endpoint)).status == 200
        MAY_LEAVE.set(None)
    assert len(peer.requests) == 1


async def test_exactly_the_given_headers_leave_and_the_body_is_untouched() -> None:
    """The signature covers them; nothing that a proxy or the vendor may judge by is added but the length."""

    async def talk(line: Line) -> None:
        peer.requests.append(await line.request())
        await line.say(OK)

    async with serving(talk) as (peer, endpoint), transport() as way:
        await send(way, endpoint)
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first == "POST / HTTP/1.1"
    assert dict(line.split(": ", 1) for line in lines) == HEADERS | {"Content-Length": str(len(BODY))}
    assert body == BODY


@pytest.mark.parametrize("status", [201, 302, 400, 403, 407, 429, 500, 502, 503])
async def test_any_status_is_a_reply(status: int) -> None:
    """Judging it is not the transport's; a redirect is not followed: it would take the signature elsewhere."""

    async def talk(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 %d X\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 3\r\n\r\nno!" % status)

    outcome, peer = await ask(talk)
    assert said(outcome) == Reply(status=status, body=b"no!", date=None)
    assert peer.connections == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    ],
    ids=["chunked", "until close", "after 100"],
)
async def test_every_framing_of_http_is_read(raw: bytes) -> None:
    """Gateways differ."""

    async def talk(line: Line) -> None:
        await line.request()
        await line.say(raw)
        line.writer.close()
        await line.writer.wait_closed()

    outcome, _ = await ask(talk)
    assert isinstance(outcome, Reply)
    assert outcome.body == b"{}"


async def test_a_slow_answer_within_the_timeout_is_an_answer() -> None:
    """Byte by byte."""

    async def talk(line: Line) -> None:
        await line.request()
        for byte in OK:
            await line.say(bytes([byte]))

    outcome, _ = await ask(talk)
    assert said(outcome) == Reply(status=200, body=b"{}", date=DATE)


async def test_no_cookie_is_kept() -> None:
    """Attempts know nothing of each other."""

    async def talk(line: Line) -> None:
        for _ in range(2):
            peer.requests.append(await line.request())
            await line.say(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n"))

    async with serving(talk) as (peer, endpoint), transport() as way:
        named = endpoint.replace("127.0.0.1", "localhost")  # of a bare address aiohttp keeps none anyway
        await send(way, named)
        await send(way, named)
    assert len(peer.requests) == 2
    assert b"ookie" not in peer.requests[1]


async def test_connections_are_kept_alive() -> None:
    """A hundred calls, one connection: a handshake each would cost more than the call."""
    async with serving(answer) as (peer, endpoint), transport() as way:
        for _ in range(100):
            assert isinstance(await send(way, endpoint), Reply)
    assert peer.connections == 1


# ---- before a byte can have left -----------------------------------------------------------------------------------


async def test_refused() -> None:
    """Nobody listens there: harmless, and the endpoint is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with transport() as way:
            outcome = await send(way, endpoint)
    assert kind(outcome) == (BEFORE, "Local.Connect")
    assert isinstance(outcome, Fault)
    assert outcome.message == f"{endpoint}: Connection refused"


async def test_a_name_that_does_not_exist() -> None:
    """`.invalid` never does."""
    async with transport() as way:
        outcome = await send(way, "https://nonexistent.invalid")
    assert kind(outcome) == (BEFORE, "Local.Dns")
    assert isinstance(outcome, Fault)
    assert outcome.message.startswith("https://nonexistent.invalid: ")
    assert len(outcome.message) > len("https://nonexistent.invalid: ")


async def test_not_tls_on_the_other_side() -> None:
    """https to a server that speaks plain HTTP."""

    async def talk(line: Line) -> None:
        await line.reader.read(1)
        await line.say(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with serving(talk) as (_, endpoint), transport() as way:
        assert kind(await send(way, endpoint.replace("http:", "https:"))) == (BEFORE, "Local.Tls")


async def test_a_certificate_nobody_vouches_for(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Not a byte of the request goes to whoever intercepts."""
    async with serving(answer, tls=tls[0]) as (peer, endpoint), transport() as way:
        outcome = await send(way, endpoint)
    assert kind(outcome) == (BEFORE, "Local.Tls")
    assert isinstance(outcome, Fault)
    assert "certificate" in outcome.message.lower()
    assert peer.requests == []


async def test_a_handshake_that_hangs() -> None:
    """Connected, but not a byte of the request has left: still harmless, and the words say it is the connection."""

    async def talk(line: Line) -> None:
        await line.reader.read()

    async with serving(talk) as (_, endpoint), transport() as way:
        outcome = await send(way, endpoint.replace("http:", "https:"), 0.2)
    assert kind(outcome) == (BEFORE, "Local.Connect")
    assert isinstance(outcome, Fault)
    assert outcome.message.endswith(": no connection within 0.2 s")


async def test_a_connection_that_is_never_taken() -> None:
    """A full backlog: the kernel drops the handshake, as a firewall does."""
    with socket.socket() as deaf, contextlib.ExitStack() as stack:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(deaf.getsockname())
        async with transport() as way:
            outcome = await send(way, f"http://127.0.0.1:{deaf.getsockname()[1]}", 0.2)
    assert kind(outcome) == (BEFORE, "Local.Connect")


async def test_waiting_for_a_free_connection_is_before_the_send() -> None:
    """With all connections busy the next request has not begun."""

    async def talk(line: Line) -> None:
        await line.request()
        await line.reader.read()

    async with serving(talk) as (_, endpoint), transport(connections=1) as way:
        first = asyncio.ensure_future(send(way, endpoint, 0.4))
        await asyncio.sleep(0)
        second = await send(way, endpoint, 0.1)
        assert kind(second) == (BEFORE, "Local.Connect")
        assert kind(await first) == (AFTER, "Local.Timeout")


# ---- after bytes may have left -------------------------------------------------------------------------------------


async def hang(line: Line) -> None:
    await line.request()
    await line.reader.read()


async def hang_in_the_body(line: Line) -> None:
    await line.request()
    await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await line.reader.read()


async def drip(line: Line) -> None:
    """Never silent for long, never done."""
    await line.request()
    await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await line.say(b"x")
        await asyncio.sleep(0.01)


async def reset_unread(line: Line) -> None:
    line.reset()


async def reset_read(line: Line) -> None:
    await line.request()
    line.reset()


async def close_unanswered(line: Line) -> None:
    await line.request()


async def cut_body(line: Line) -> None:
    await line.request()
    await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    line.writer.close()
    await line.writer.wait_closed()


async def cut_chunks(line: Line) -> None:
    await line.request()
    await line.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    line.writer.close()
    await line.writer.wait_closed()


async def cut_head(line: Line) -> None:
    await line.request()
    await line.say(b"HTTP/1.1 200 OK\r\nContent-Le")
    line.writer.close()
    await line.writer.wait_closed()


async def bad_gzip(line: Line) -> None:
    await line.request()
    await line.say(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nhalf")


def noise(data: bytes) -> Talk:
    async def talk(line: Line) -> None:
        await line.request()
        await line.say(data)
        await asyncio.sleep(0)

    return talk


@pytest.mark.parametrize(
    ("talk", "timeout_s", "code"),
    [
        (hang, 0.2, "Local.Timeout"),
        (hang_in_the_body, 0.2, "Local.Timeout"),
        (drip, 0.2, "Local.Timeout"),
        (reset_unread, 5.0, "Local.ConnectionReset"),
        (reset_read, 5.0, "Local.ConnectionReset"),
        (close_unanswered, 5.0, "Local.ConnectionReset"),
        (cut_head, 5.0, "Local.ConnectionReset"),
        (cut_body, 5.0, "Local.Truncated"),
        (cut_chunks, 5.0, "Local.Truncated"),
        (bad_gzip, 5.0, "Local.Truncated"),
        (noise(b"SSH-2.0-OpenSSH_9.9\r\n"), 5.0, "Local.Garbage"),
        (noise(b"\x00\xff" * 5000), 5.0, "Local.Garbage"),
        (noise(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000), 5.0, "Local.Garbage"),
        (noise(b"HTTP/1.1 200 OK\r\nContent-Length: minus one\r\n\r\n"), 5.0, "Local.Garbage"),
        (noise(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), 5.0, "Local.Garbage"),
    ],
)
async def test_in_doubt(talk: Talk, timeout_s: float, code: str) -> None:
    """Once connected the request may have been applied, whatever came back; sent once, never again by the library."""
    outcome, peer = await ask(talk, timeout_s)
    assert kind(outcome) == (AFTER, code)
    assert isinstance(outcome, Fault)
    assert outcome.message
    assert outcome.message.isprintable()
    assert peer.connections == 1
    if code == "Local.Timeout":
        assert outcome.message == "no answer within 0.2 s"


async def test_a_reset_in_the_middle_of_an_answer_is_in_doubt() -> None:
    """Told apart from a cut answer only by chance of timing; both are in doubt."""

    async def talk(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        line.reset()

    outcome, _ = await ask(talk)
    stage, code = kind(outcome)
    assert stage is AFTER
    assert code in ("Local.Truncated", "Local.ConnectionReset")


# ---- kept-alive connections ----------------------------------------------------------------------------------------


async def test_a_kept_connection_that_was_closed_meanwhile_is_replaced() -> None:
    """The close was seen: the next request goes over a new connection and is not in doubt."""
    closed = asyncio.Event()

    async def talk(line: Line) -> None:
        await line.request()
        await line.say(OK)
        line.writer.close()
        await line.writer.wait_closed()
        closed.set()

    async with serving(talk) as (peer, endpoint), transport() as way:
        assert isinstance(await send(way, endpoint), Reply)
        await closed.wait()
        with contextlib.suppress(TimeoutError):  # until the client's end has seen it too
            async with asyncio.timeout(0.05):
                await asyncio.Event().wait()
        assert isinstance(await send(way, endpoint), Reply)
        assert peer.connections == 2


@pytest.mark.parametrize("by_reset", [False, True])
async def test_a_kept_connection_closed_under_the_next_request(by_reset: bool) -> None:
    """The race every server with an idle timeout runs: a fault in doubt or a clean new connection, never an exception,
    and the request is never sent twice by the library."""

    async def talk(line: Line) -> None:
        await line.request()
        await line.say(OK)
        if by_reset:
            line.reset()

    outcomes = []
    async with serving(talk) as (peer, endpoint), transport() as way:
        for _ in range(50):
            before = peer.connections
            outcome = await send(way, endpoint)
            outcomes.append(outcome)
            assert peer.connections - before <= 1
    for outcome in outcomes:
        assert isinstance(outcome, Reply) or kind(outcome) == (AFTER, "Local.ConnectionReset")
    assert isinstance(outcomes[0], Reply)


async def test_a_server_that_takes_the_second_request_and_closes() -> None:
    """It was read, so it may have been applied: in doubt, and not sent again over a new connection."""

    async def talk(line: Line) -> None:
        peer.requests.append(await line.request())
        await line.say(OK)
        peer.requests.append(await line.request())

    async with serving(talk) as (peer, endpoint), transport() as way:
        assert isinstance(await send(way, endpoint), Reply)
        assert kind(await send(way, endpoint)) == (AFTER, "Local.ConnectionReset")
        assert len(peer.requests) == 2
        assert peer.connections == 1


async def test_a_fault_does_not_spoil_the_next_request() -> None:
    """A late answer to a timed-out request must never be taken for the answer to another."""

    async def talk(line: Line) -> None:
        peer.requests.append(await line.request())
        if len(peer.requests) == 1:
            await late.wait()
            await line.say(OK.replace(b"{}", b"[]"))
        await line.say(OK)

    late = asyncio.Event()
    async with serving(talk) as (peer, endpoint), transport(connections=1) as way:
        assert kind(await send(way, endpoint, 0.1)) == (AFTER, "Local.Timeout")
        late.set()
        outcome = await send(way, endpoint)
        assert isinstance(outcome, Reply)
        assert outcome.body == b"{}"


TWO = OK.replace(b"{}", b"22")


async def test_what_nobody_asked_for_is_never_an_answer() -> None:
    """A proxy that sends an answer twice: the second copy is not taken for the answer to the next request."""

    async def talk(line: Line) -> None:
        number = 0
        while True:
            await line.request()
            number += 1
            await line.say(OK.replace(b"{}", b"%02d" % number))
            await asyncio.sleep(0.01)
            await line.say(OK.replace(b"{}", b"%02d" % number))

    async with serving(talk) as (peer, endpoint), transport() as way:
        for _ in range(5):
            outcome = await send(way, endpoint)
            assert isinstance(outcome, Reply)
            assert outcome.body == b"01"  # each over a connection of its own
            await asyncio.sleep(0.03)
        assert peer.connections == 5


async def test_two_answers_in_one_breath_are_not_two_answers() -> None:
    """Both are in the client's hands before the connection goes back."""

    async def talk(line: Line) -> None:
        await line.request()
        await line.say(OK + TWO)
        await line.request()

    async with serving(talk) as (peer, endpoint), transport() as way:
        for _ in range(3):
            assert said(await send(way, endpoint)).body == b"{}"
        assert peer.connections == 3


async def test_what_lies_unread_in_the_kernel_is_seen() -> None:
    """It came, and the loop had no turn yet to read it: the next request would meet it."""

    async def talk(line: Line) -> None:
        await line.request()
        await line.say(OK)
        await line.request()

    async with serving(talk) as (peer, endpoint), transport() as way:
        assert isinstance(await send(way, endpoint), Reply)
        await asyncio.sleep(0)  # the connection is kept
        for line in peer.lines:
            line.writer.get_extra_info("socket")._sock.send(TWO)
        time.sleep(0.02)
        task = asyncio.ensure_future(send(way, endpoint))
        assert said(await task).body == b"{}"
        assert peer.connections == 2


async def test_a_connection_that_is_distrusted_is_closed() -> None:
    """Who reads an answer finds that it is another's: the true one may come yet, and must find nobody."""

    async def talk(line: Line) -> None:
        await line.request()
        await line.say(TWO)
        await line.request()
        await line.say(OK)  # that to the first

    async with serving(talk) as (peer, endpoint), transport() as way:
        outcome = await send(way, endpoint)
        assert isinstance(outcome, Reply)
        assert outcome.distrust is not None
        outcome.distrust()
        assert said(await send(way, endpoint)).body == b"22"
        assert peer.connections == 2


@pytest.mark.parametrize("by_reset", [False, True])
async def test_a_connection_that_the_server_had_given_up_is_told_of(by_reset: bool) -> None:
    """It says nothing of the instance that was asked about; and the next request goes out on a new connection."""

    async def talk(line: Line) -> None:
        await line.request()
        await line.say(OK)
        await line.request()
        if by_reset:
            line.reset()

    async with serving(talk) as (peer, endpoint), transport() as way:
        first, second = await send(way, endpoint), await send(way, endpoint)
        assert isinstance(first, Reply)
        assert isinstance(second, Fault)
        assert (kind(second), second.stale_connection) == ((AFTER, "Local.ConnectionReset"), True)
        assert isinstance(await send(way, endpoint), Reply)
        assert peer.connections == 2


async def test_a_server_that_closes_after_each_answer_is_given_new_connections() -> None:
    """After three such losses in a row none is kept: half of all calls would be in doubt."""

    async def talk(line: Line) -> None:
        await line.request()
        await line.say(OK)
        await line.request()

    async with serving(talk) as (_, endpoint), transport() as way:
        outcomes = [await send(way, endpoint) for _ in range(40)]
    assert sum(isinstance(outcome, Fault) for outcome in outcomes) == LOST_IN_A_ROW


@pytest.mark.parametrize("said_before", [b"", b"HTTP/1.1 200 OK\r\nContent-Le"])
async def test_a_loss_on_a_new_connection_or_within_an_answer_is_not_the_connections(said_before: bytes) -> None:
    """There the request may well be what broke it."""

    async def talk(line: Line) -> None:
        if said_before:
            await line.request()
            await line.say(OK)
        await line.request()
        await line.say(said_before)

    async with serving(talk) as (_, endpoint), transport() as way:
        if said_before:
            assert isinstance(await send(way, endpoint), Reply)
        outcome = await send(way, endpoint)
    assert isinstance(outcome, Fault)
    assert not outcome.stale_connection


# ---- bounds --------------------------------------------------------------------------------------------------------


def gzipped(data: bytes, encoding: bytes = b"gzip") -> bytes:
    packed = gzip.compress(data) if encoding == b"gzip" else zlib.compress(data)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (encoding, len(packed))
    return head + packed


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
async def test_an_answer_that_is_packed_unasked_is_unpacked(encoding: bytes) -> None:
    """A proxy may."""

    async def talk(line: Line) -> None:
        await line.request()
        await line.say(gzipped(b"{}", encoding))

    outcome, _ = await ask(talk)
    assert said(outcome).body == b"{}"


async def endless_body(line: Line) -> None:
    await line.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await line.say(b"10000\r\n" + b" " * 65536 + b"\r\n")


async def endless_until_closed(line: Line) -> None:
    await line.say(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await line.say(b" " * 65536)


async def bomb(line: Line) -> None:
    await line.say(gzipped(b" " * 300_000_000))


async def endless_continues(line: Line) -> None:
    while True:
        await line.say(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


async def endless_chunk_extension(line: Line) -> None:
    await line.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
    while True:
        await line.say(b"x" * 65536)


async def endless_headers(line: Line) -> None:
    await line.say(b"HTTP/1.1 200 OK\r\n")
    while True:
        await line.say(b"X: y\r\n" * 1000)


@pytest.mark.parametrize(
    "flood",
    [endless_body, endless_until_closed, bomb, endless_continues, endless_chunk_extension, endless_headers],
    ids=lambda flood: flood.__name__,
)
async def test_an_answer_without_end_is_given_up_in_doubt(flood: Talk) -> None:
    """After some MiB, packed or not, and long before the timeout: it would fill the memory, and the run be lost."""

    async def talk(line: Line) -> None:
        await line.request()
        await flood(line)

    tracemalloc.start()
    try:
        outcome, _ = await ask(talk, 60.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    stage, code = kind(outcome)
    assert (stage, code in ("Local.TooMuch", "Local.Garbage", "Local.Truncated")) == (AFTER, True)
    assert peak < 10 * MOST_BODY or flood is bomb  # which the server makes here


async def test_an_answer_as_large_as_allowed_is_read() -> None:
    """And one byte more is not."""

    async def talk(line: Line) -> None:
        for size in (MOST_BODY, MOST_BODY + 1):
            await line.request()
            await line.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b" " * size)

    async with serving(talk) as (_, endpoint), transport() as way:
        assert len(said(await send(way, endpoint)).body) == MOST_BODY
        assert kind(await send(way, endpoint)) == (AFTER, "Local.TooMuch")


async def test_a_cancelled_attempt_is_cancelled() -> None:
    """The second Ctrl-C leaves at once: no fault is made of it, and nothing is left open."""
    async with serving(hang) as (_, endpoint), transport() as way:
        task = asyncio.ensure_future(send(way, endpoint))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# ---- TLS, and the end ----------------------------------------------------------------------------------------------


async def test_over_tls(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """With the right certificate all is as over plain HTTP, faults too."""
    server, client = tls
    async with serving(answer, tls=server) as (peer, endpoint), transport(tls=client) as way:
        for _ in range(3):
            assert said(await send(way, endpoint)) == Reply(status=200, body=b"{}", date=DATE)
        assert peer.connections == 1
    async with serving(close_unanswered, tls=server) as (_, endpoint), transport(tls=client) as way:
        assert kind(await send(way, endpoint)) == (AFTER, "Local.ConnectionReset")
    async with serving(hang, tls=server) as (_, endpoint), transport(tls=client) as way:
        assert kind(await send(way, endpoint, 0.2)) == (AFTER, "Local.Timeout")


SCRIPT = """
import asyncio, ssl, sys
from engine.cloud.transport import HttpTransport

async def main(cert):
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(cert)
    async def talk(reader, writer):
        try:
            while await reader.readline() != b"\\r\\n":
                pass
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
            await reader.read()
        finally:
            writer.close()
    listening = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=server)
    way = HttpTransport(tls=ssl.create_default_context(cafile=cert))
    endpoint = "https://127.0.0.1:%d" % listening.sockets[0].getsockname()[1]
    print(await asyncio.gather(*[way.send(endpoint, {"Host": "x"}, b"", 5.0) for _ in range(5)]))
    await way.aclose()
    listening.close()

asyncio.run(main(sys.argv[1]))
"""


def test_a_process_ends_without_a_word(tmp_path: Path) -> None:
    """In development mode, which reports every socket, session and task left open: nothing on stderr."""
    both = tmp_path / "both.pem"
    both.write_text(KEY + CERTIFICATE)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "always", "-c", SCRIPT, str(both)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.count("Reply(status=200") == 5
    assert done.stderr == ""
    assert done.returncode == 0


# ---- the server's clock --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "at"),
    [
        (None, None),
        ("Mon, 21 Sep 2026 14:13:20 GMT", DATE),
        ("Mon, 21 Sep 2026 22:13:20 +0800", DATE),
        ("Mon, 21 Sep 2026 14:13:20 -0000", DATE),
        ("Mon, 21 Sep 2026 14:13:20", DATE),
        ("soon", None),
        ("", None),
        ("Mon, 99 Sep 2026 14:13:20 GMT", None),
    ],
)
def test_the_date_header(header: str | None, at: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In UTC wherever this machine is, and nothing where it is no date: a wrong clock would break every signature."""
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        assert _date(header) == at
    finally:
        monkeypatch.undo()
        time.tzset()


@given(
    st.one_of(
        st.text(max_size=60),
        st.builds(
            "{}, {} {} {} {}:{}:{} {}".format,
            st.sampled_from(("Mon", "Xxx", "")),
            st.integers(-1, 99),
            st.sampled_from(("Jan", "Feb", "Dec", "xyz")),
            st.integers(0, 99_999) | st.integers(0, 10**30),
            st.integers(0, 99),
            st.integers(0, 99),
            st.integers(0, 99),
            st.sampled_from(("GMT", "UTC", "-0000", "+2359", "-9999", "", "EST", "+99999999999")),
        ),
    )
)
def test_no_date_header_can_break_an_attempt(header: str) -> None:
    """Whatever stands there: a number or nothing."""
    at = _date(header)
    assert at is None or formatdate(at) is not None
    assert _seconds(header, 0.0) is None or _seconds(header, 0.0) >= 0  # type: ignore[operator]
