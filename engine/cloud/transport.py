"""The only importer of aiohttp's client. Errors of aiohttp and the system become a `Fault` here.

If bytes can have left, an attempt is in doubt; else a retry is harmless. So the connector notes when a request has a
connection; nothing is guessed from the exception's name. The time is noted too, as a call that had to open a connection
reached the server later than its slot.

HTTP/1.1 ties an answer to its request only by their order on the connection. So a connection is used again only if
nothing came on it without a request, and if the reader of the last answer does not distrust it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import ssl
import zlib
from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from engine.cloud.leave import MAY_LEAVE
from engine.cloud.proxy import WayOut
from engine.model import Fault, Reply, Stage
from engine.outside.foreign import clean, proxy_secrets, without_userinfo
from engine.outside.limits import ADVICE

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

CONNECT_TIMEOUT_S = 5.0
"""Seconds for TCP and TLS together; the attempt's own timeout bounds everything, DNS too."""
MOST_BODY = 4 * 1024 * 1024
"""Most bytes of an answer, packed or unpacked; a hundred instances with all their tags have less than a tenth of it."""
_MOST_HEAD = 256 * 1024
"""Most bytes of the rest of an answer: lines of headers, of `100 Continue`, of chunks."""
_MOST_DATE = 64
_LATEST_DATE = 4_102_444_800.0
"""1 January 2100 in UNIX seconds. A later date is wrong, and must not be learnt as the server's clock."""
LOST_IN_A_ROW = 3
"""After so many kept connections in a row broke or stayed silent before the first byte, none to that place is kept …"""
NOT_KEPT_S = 60.0
"""… for so many seconds: the other end closes them before we can know, and each loss leaves a call in doubt."""
_NO_FILES = (errno.EMFILE, errno.ENFILE)


class HttpTransport:
    """`model.Transport` over HTTP/1.1 with kept-alive connections."""

    def __init__(
        self,
        *,
        connections: int = 100,
        tls: ssl.SSLContext | None = None,
        way: WayOut | None = None,
    ) -> None:
        """Make a transport by `way`, its proxy and certificates; ConfigError if they cannot be used."""
        self._way = way or WayOut()
        self._proxies: dict[str, str | None] = {}
        tls = tls if tls is not None else self._way.trusted()
        self._way.proxy_for("https://any.invalid")  # a mistake in it ends the command here, not each request
        self._connector = _Connector(limit=connections, ssl=tls if tls is not None else True)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
            auto_decompress=False,  # `_unpacked` does it, within bounds
        )
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}
        self._latest_date: tuple[str | None, float | None] = (None, None)

    def widen(self, connections: int) -> None:
        """Allow at least so many connections at a time."""
        self._connector.widen(connections)

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        """Send a POST and read the whole answer within `timeout_s`."""
        asking = self._session.post(
            endpoint,
            data=body,
            headers=headers,
            timeout=self._timeout(timeout_s),
            allow_redirects=False,
            proxy=self._proxy(endpoint),
        )
        return await self._exchange(asking, endpoint, timeout_s, self._proxy(endpoint))

    async def get(self, url: str, timeout_s: float) -> Reply | Fault:
        """Send a GET and read the whole answer within `timeout_s`."""
        asking = self._session.get(url, timeout=self._timeout(timeout_s), allow_redirects=False)
        return await self._exchange(asking, url, timeout_s)

    async def _exchange(
        self, asking: Awaitable[aiohttp.ClientResponse], endpoint: str, timeout_s: float, proxy: str | None = None
    ) -> Reply | Fault:
        exchange = _Exchange()
        _EXCHANGE.set(exchange)
        try:
            response = await asking
            content = _unpacked(await response.read(), response.headers.get("Content-Encoding", ""))
            date = self._date(response.headers.get("Date"))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, zlib.error) as error:
            return self._connector.fault(error, exchange, endpoint=endpoint, timeout_s=timeout_s, proxy=proxy)
        self._connector.answered(exchange)
        return Reply(
            status=response.status,
            body=content,
            date=date,
            opening_s=exchange.opening_s,
            retry_after_s=_seconds(response.headers.get("Retry-After"), date),
            distrust=exchange.distrust,
        )

    def _proxy(self, endpoint: str) -> str | None:
        if endpoint not in self._proxies:
            self._proxies[endpoint] = self._way.proxy_for(endpoint)
        return self._proxies[endpoint]

    def _timeout(self, timeout_s: float) -> aiohttp.ClientTimeout:
        timeout = self._timeouts.get(timeout_s)
        if timeout is None:
            connect_s = min(CONNECT_TIMEOUT_S, timeout_s)
            timeout = self._timeouts[timeout_s] = aiohttp.ClientTimeout(total=timeout_s, sock_connect=connect_s)
        return timeout

    def _date(self, header: str | None) -> float | None:
        # Profiled: parsing a date costs as much as signing, and all answers of a second have the same date.
        known, date = self._latest_date
        if header != known:
            date = _date(header)
            self._latest_date = (header, date)
        return date

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()
        # TLS connections close in the background; without this turn of the loop they warn at exit.
        await asyncio.sleep(0)


async def post_once(
    url: str, body: bytes, timeout_s: float, way: WayOut, *, kind: str = "application/json", most: int = 0
) -> Reply | Fault:
    """Send a POST on a new connection, within `timeout_s`; read the status of the answer, and `most` bytes and one.

    `way` gives proxy and certificates; ConfigError if they cannot be used.

    This is for notices, whose URL is a secret. The fault's message is empty, as foreign words may repeat the URL.
    """
    tls, proxy = way.trusted(), way.proxy_for("/".join(url.split("/")[:3]))
    connector = _Connector(limit=1, ssl=tls if tls is not None else True)
    exchange = _Exchange()
    _EXCHANGE.set(exchange)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.post(
                url,
                data=body,
                headers={"Content-Type": kind},
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s)),
                allow_redirects=False,
                proxy=proxy,
            ) as response,
        ):
            found = b""
            while most and len(found) <= most and (part := await response.content.read(most + 1 - len(found))):
                found += part
            return Reply(status=response.status, body=found, date=None, opening_s=exchange.opening_s)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        if exchange.connected:
            return Fault(stage=Stage.AFTER_SEND, code=_after_send(error), message="")
        return Fault(stage=Stage.BEFORE_SEND, code=_before_send(error), message="")


class NoLeaveError(aiohttp.ClientError):
    """The sender has lost the right to send while a connection was made: the request has not left."""


class TooMuchError(aiohttp.ClientError):
    """An answer is larger than the bounds allow."""


def _unpacked(body: bytes, encoding: str) -> bytes:
    """Return a body, unpacked if the server packed it unasked; TooMuchError for more than `MOST_BODY` bytes.

    A body in another encoding than gzip or deflate is returned as it is.
    """
    if len(body) > MOST_BODY:
        raise TooMuchError(f"an answer of more than {MOST_BODY:,} bytes")
    if not encoding:
        return body
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    packer = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # finds out by the header which of the two it is
    found = packer.decompress(body, MOST_BODY + 1)
    if len(found) > MOST_BODY:
        raise TooMuchError(f"an answer of more than {MOST_BODY:,} bytes, packed in {len(body):,}")
    if not packer.eof:
        raise aiohttp.ClientPayloadError("a packed answer that is cut off")
    return found


class _Exchange:
    """One request and its answer, as the connector sees them."""

    __slots__ = ("connected", "is_distrusted", "is_over", "key", "opening_s", "parked", "reused", "wire")

    def __init__(self) -> None:
        self.connected = False
        self.opening_s = 0.0
        self.reused = False
        """Whether its connection was kept from an earlier request."""
        self.key: ConnectionKey | None = None
        self.wire: _Wire | None = None
        self.parked = False
        """Whether the answer is whole, and its connection waits until the reader had time to distrust it."""
        self.is_over = False
        self.is_distrusted = False

    def distrust(self) -> None:
        """Have the connection closed. Call this in the same turn of the loop in which the reply came."""
        self.is_distrusted = True


_EXCHANGE: ContextVar[_Exchange] = ContextVar("exchange")


class _Wire(ResponseHandler):
    """One connection. It knows whether a request waits for bytes on it, and bounds their number."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.exchange: _Exchange | None = None
        self.heard = 0
        """Bytes that came since its latest request took it."""
        self.is_idle = False
        """Whether it is kept for a next request, and no request is open on it."""
        self._poll = select.poll()  # unlike select, it takes file descriptors of any number

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self._poll.register(sock.fileno(), select.POLLIN)

    def is_connected(self) -> bool:
        """Return whether a request can go out on it. aiohttp's pool asks; on a kept one no bytes may be waiting."""
        return super().is_connected() and not (self.is_idle and self._poll.poll(0))

    def data_received(self, data: bytes) -> None:
        self.heard += len(data)
        if self.is_idle:
            self.close()  # nobody asked for these bytes: the next request would take them for its answer
        elif self.heard > MOST_BODY + _MOST_HEAD:
            error = TooMuchError(f"an answer of more than {MOST_BODY:,} bytes")
            if self._payload is not None:
                self._payload.set_exception(error)
            self.set_exception(error)
            self.abort_wire()
        else:
            super().data_received(data)

    def abort_wire(self) -> None:
        """Close it at once, and keep the error that is set."""
        if self.transport is not None:
            self.transport.abort()


class _Connector(aiohttp.TCPConnector):
    """Notes when a request has its connection, and keeps no connection that could bring a wrong answer.

    Profiled: aiohttp's tracing could note it too, but costs a tenth of a request.
    """

    def __init__(self, *, limit: int, ssl: ssl.SSLContext | bool) -> None:
        super().__init__(limit=limit, ssl=ssl)
        self._factory = partial(_Wire, self._loop)  # type: ignore[assignment] # a subclass of aiohttp's
        self._lost: dict[ConnectionKey, tuple[int, float]] = {}
        """Place → how many kept connections were lost there in a row, and the loop time of the last loss."""
        self._answered: list[_Exchange] = []
        """Exchanges with a whole answer. Their connections go back at the next request or turn of the loop."""

    def widen(self, limit: int) -> None:
        """Allow at least `limit` connections at a time."""
        self._limit = max(self._limit, limit)

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as the class has it
    ) -> Connection:
        self._settle_all()  # the readers of these answers had time to distrust them before this request
        exchange = _EXCHANGE.get()
        exchange.key, asked_at = req.connection_key, self._loop.time()
        connection = await super().connect(req, traces, timeout)
        if (may_leave := MAY_LEAVE.get()) is not None:
            may = False
            try:
                may = await may_leave()
            finally:
                if not may:
                    connection.release()
            if not may:
                raise NoLeaveError("there was no leave to send any more when there was a connection; nothing was sent")
        wire = connection.protocol
        assert isinstance(wire, _Wire)
        exchange.wire, exchange.reused = wire, wire.is_idle
        wire.exchange, wire.heard, wire.is_idle = exchange, 0, False
        exchange.connected, exchange.opening_s = True, self._loop.time() - asked_at
        return connection

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        exchange = protocol.exchange if isinstance(protocol, _Wire) else None
        if exchange is not None and not exchange.is_over and not should_close:
            exchange.parked = True
            return
        if exchange is not None:
            assert isinstance(protocol, _Wire)
            protocol.exchange, protocol.is_idle = None, True
            should_close = should_close or exchange.is_distrusted or self._are_lost(key)
        super()._release(key, protocol, should_close=should_close)

    def answered(self, exchange: _Exchange) -> None:
        """Note that the answer is whole; its connection goes back after this turn of the loop, unless distrusted."""
        if exchange.reused and exchange.key is not None:
            self._lost.pop(exchange.key, None)
        if not self._answered:
            self._loop.call_soon(self._settle_all)
        self._answered.append(exchange)

    def _settle_all(self) -> None:
        while self._answered:
            self._settle(self._answered.pop())

    def _settle(self, exchange: _Exchange) -> None:
        exchange.is_over = True
        if exchange.parked and exchange.key is not None and exchange.wire is not None:
            self._release(exchange.key, exchange.wire)

    def fault(
        self, error: Exception, exchange: _Exchange, *, endpoint: str, timeout_s: float, proxy: str | None
    ) -> Fault:
        """Close the connection of a request that failed; return what happened, in our words."""
        exchange.is_distrusted = True
        self._settle(exchange)
        is_stale = exchange.reused and exchange.wire is not None and not exchange.wire.heard
        if is_stale and exchange.key is not None:
            self._note_lost(exchange.key)
            # One silent connection may be due to a slow instance. Several in a row, and none that answers, are not.
            is_stale = self._are_lost(exchange.key) or not isinstance(error, TimeoutError)
        return _fault(error, exchange, endpoint=endpoint, timeout_s=timeout_s, proxy=proxy, is_stale=is_stale)

    def _note_lost(self, key: ConnectionKey) -> None:
        """Note that a kept connection was dead. Close the other kept ones, too, so the next request opens a new one."""
        count, _ = self._lost.get(key, (0, 0.0))
        self._lost[key] = (count + 1, self._loop.time())
        for kept, _ in self._conns.pop(key, ()):
            kept.close()

    def _are_lost(self, key: ConnectionKey) -> bool:
        count, at = self._lost.get(key, (0, 0.0))
        return count >= LOST_IN_A_ROW and self._loop.time() - at < NOT_KEPT_S


def _fault(
    error: Exception, exchange: _Exchange, *, endpoint: str, timeout_s: float, proxy: str | None, is_stale: bool
) -> Fault:
    if exchange.connected:
        words = f"no answer within {timeout_s:g} s" if isinstance(error, TimeoutError) else _words(error, proxy)
        return Fault(
            stage=Stage.AFTER_SEND,
            code=_after_send(error),
            message=words,
            opening_s=exchange.opening_s,
            stale_connection=is_stale,
        )
    code = _before_send(error)
    if isinstance(error, TimeoutError):
        words = f"no connection within {min(CONNECT_TIMEOUT_S, timeout_s):g} s"
        words += f" by the proxy {_address(proxy)}" if proxy is not None else ""
    elif proxy is not None and isinstance(error, aiohttp.ClientHttpProxyError):
        words = f"the proxy refuses: {_words(error, proxy)} ({_address(proxy)})"
    elif proxy is not None and _is_of_proxy(error, proxy):
        why = "its name could not be resolved: " if code == "Local.Dns" else ""
        words = f"the proxy cannot be reached: {_address(proxy)}: {why}{_words(error, proxy)}"
        code = "Local.Connect" if why else code  # Local.Dns means the endpoint's own name
    else:
        words = _words(error, proxy)
    return Fault(stage=Stage.BEFORE_SEND, code=code, message=f"{endpoint}: {words}")


def _is_of_proxy(error: Exception, proxy: str) -> bool:
    """Return whether the proxy itself could not be reached, and not the host behind it."""
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return True
    return isinstance(error, aiohttp.ClientConnectorError) and f"{error.host}:{error.port}" == _address(proxy)


def _address(proxy: str) -> str:
    """Return `host:port` of a proxy."""
    url = URL(proxy)
    return f"{url.host}:{url.port}"


def _before_send(error: Exception) -> str:
    if isinstance(error, NoLeaveError):
        return "Local.NotSent"
    if isinstance(error, aiohttp.ClientConnectorDNSError | socket.gaierror):
        return "Local.Dns"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError | aiohttp.ServerFingerprintMismatch):
        return "Local.Tls"
    return "Local.Connect"


def _after_send(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "Local.Timeout"
    if isinstance(error, TooMuchError):
        return "Local.TooMuch"
    if isinstance(error, aiohttp.ClientPayloadError | zlib.error):
        return "Local.Truncated"
    if isinstance(error, aiohttp.ClientResponseError):
        return "Local.Garbage"  # not HTTP
    return "Local.ConnectionReset"


def _words(error: Exception, proxy: str | None = None) -> str:
    """Return the words of a library or of the system, as one clean line without the proxy's password."""
    cause = getattr(error, "os_error", None) or error
    if isinstance(cause, aiohttp.ClientHttpProxyError):
        text = f"HTTP {cause.status} {cause.message}"
    elif isinstance(cause, aiohttp.ClientResponseError):
        text = f"not an answer in HTTP: {cause.message}"
    elif isinstance(cause, ConnectionError) and cause.errno:
        text = os.strerror(cause.errno)  # asyncio's own words say no more than the address
    else:
        text = str(getattr(cause, "strerror", None) or cause)
    text = without_userinfo(text)
    if proxy is not None:
        text = proxy_secrets(proxy).scrub(text)
    if getattr(cause, "errno", None) in _NO_FILES:
        text += f": {ADVICE}"
    return " ".join(clean(text).split()) or type(error).__name__


def _seconds(header: str | None, now: float | None) -> float | None:
    """Return `Retry-After` in seconds; it may be a date by the server's clock (`now`). None if it is neither."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header.strip()[:9])
    at = _date(header)
    return max(0.0, at - now) if at is not None and now is not None else None


def _date(header: str | None) -> float | None:
    """Return an HTTP date in UNIX seconds; None for anything else, and for a date before 1970 or from 2100 on."""
    if header is None or len(header) > _MOST_DATE:
        return None
    try:
        at = parsedate_to_datetime(header)
        # A date without a zone is UTC like any other in HTTP, not the time of this machine.
        seconds = at.timestamp() if at.tzinfo is not None else at.replace(tzinfo=UTC).timestamp()
    except Exception:  # noqa: BLE001 - no page says what the standard library's parser raises for nonsense
        return None
    return seconds if 0 <= seconds < _LATEST_DATE else None
