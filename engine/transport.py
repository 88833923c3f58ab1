"""Device, floor 2: the only importer of aiohttp's client. Foreign errors become a `Fault` here, once.

Whether bytes can have left decides between a harmless retry and an attempt in doubt, so it is observed (the connector
says when a connection is in hand), not guessed from the exception's name. When that was is observed too: a call that
opened a connection reached the server so much later than its slot.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import aiohttp

from engine.limits import ADVICE
from engine.model import Fault, Reply, Stage
from engine.wayout import WayOut

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

CONNECT_TIMEOUT_S = 5.0
"""Of TCP and TLS together; the attempt's own timeout bounds all, DNS too."""


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
        """`way`: through which proxy, trusting whom; ConfigError if it cannot be used."""
        self._way = way or WayOut()
        self._proxies: dict[str, str | None] = {}
        tls = tls if tls is not None else self._way.trusted()
        self._way.proxy_for("https://any.invalid")  # a mistake in it ends the command here, not each request
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=connections, ssl=tls if tls is not None else True),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        )
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}
        self._latest_date: tuple[str | None, float | None] = (None, None)

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        """POST and read the whole answer within `timeout_s`."""
        asking = self._session.post(
            endpoint,
            data=body,
            headers=headers,
            timeout=self._timeout(timeout_s),
            allow_redirects=False,
            proxy=self._proxy(endpoint),
        )
        return await self._exchange(asking, endpoint, timeout_s)

    async def get(self, url: str, timeout_s: float) -> Reply | Fault:
        """GET and read the whole answer within `timeout_s`."""
        asking = self._session.get(url, timeout=self._timeout(timeout_s), allow_redirects=False)
        return await self._exchange(asking, url, timeout_s)

    async def _exchange(
        self, asking: Awaitable[aiohttp.ClientResponse], endpoint: str, timeout_s: float
    ) -> Reply | Fault:
        exchange = _Exchange()
        _EXCHANGE.set(exchange)
        try:
            response = await asking
            content = await response.read()  # to its end, or it closes: either gives the connection back
            date = self._date(response.headers.get("Date"))
            return Reply(
                status=response.status,
                body=content,
                date=date,
                opening_s=exchange.opening_s,
                retry_after_s=_seconds(response.headers.get("Retry-After"), date),
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return _fault(error, exchange, endpoint=endpoint, timeout_s=timeout_s)

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
        # Profiled: parsing a date costs as much as signing, and all answers of a second carry the same.
        known, date = self._latest_date
        if header != known:
            date = _date(header)
            self._latest_date = (header, date)
        return date

    async def aclose(self) -> None:
        """Close connections."""
        await self._session.close()
        # TLS connections close in the background; without this turn of the loop they warn at exit.
        await asyncio.sleep(0)


async def post_once(url: str, body: bytes, timeout_s: float, way: WayOut) -> Reply | Fault:
    """POST JSON over a connection of its own, within `timeout_s`; of the answer only the status is read.

    `way`: through which proxy, trusting whom; ConfigError if it cannot be used.

    For notices, whose URL is a secret: the fault's message is empty, as foreign words may repeat it.
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
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s)),
                allow_redirects=False,
                proxy=proxy,
            ) as response,
        ):
            return Reply(status=response.status, body=b"", date=None, opening_s=exchange.opening_s)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        if exchange.connected:
            return Fault(stage=Stage.AFTER_SEND, code=_after_send(error), message="")
        return Fault(stage=Stage.BEFORE_SEND, code=_before_send(error), message="")


class _Exchange:
    """What the connector saw of one request."""

    __slots__ = ("connected", "opening_s")

    def __init__(self) -> None:
        self.connected = False
        self.opening_s = 0.0


_EXCHANGE: ContextVar[_Exchange] = ContextVar("exchange")


class _Connector(aiohttp.TCPConnector):
    """Notes when a connection is in hand. Profiled: aiohttp's tracing says the same at a tenth of a request's cost."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as the class has it
    ) -> Connection:
        asked_at = self._loop.time()
        connection = await super().connect(req, traces, timeout)
        exchange = _EXCHANGE.get()
        exchange.connected, exchange.opening_s = True, self._loop.time() - asked_at
        return connection


def _fault(error: Exception, exchange: _Exchange, *, endpoint: str, timeout_s: float) -> Fault:
    if exchange.connected:
        words = f"no answer within {timeout_s:g} s" if isinstance(error, TimeoutError) else _words(error)
        return Fault(stage=Stage.AFTER_SEND, code=_after_send(error), message=words, opening_s=exchange.opening_s)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        words = f"the proxy cannot be reached: {_words(error)}"
    elif isinstance(error, TimeoutError):
        words = f"no connection within {min(CONNECT_TIMEOUT_S, timeout_s):g} s"
    else:
        words = _words(error)
    return Fault(stage=Stage.BEFORE_SEND, code=_before_send(error), message=f"{endpoint}: {words}")


def _before_send(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError | socket.gaierror):
        return "Local.Dns"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError | aiohttp.ServerFingerprintMismatch):
        return "Local.Tls"
    return "Local.Connect"


def _after_send(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "Local.Timeout"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "Local.Truncated"
    if isinstance(error, aiohttp.ClientResponseError):
        return "Local.Garbage"  # not HTTP
    return "Local.ConnectionReset"


def _words(error: Exception) -> str:
    cause = getattr(error, "os_error", None) or error
    if isinstance(cause, aiohttp.ClientHttpProxyError):
        text = f"the proxy refuses: HTTP {cause.status} {cause.message}"
    elif isinstance(cause, aiohttp.ClientResponseError):
        text = f"not an answer in HTTP: {cause.message}"
    elif isinstance(cause, ConnectionError) and cause.errno:
        text = os.strerror(cause.errno)  # asyncio's own words only repeat the address
    else:
        text = str(getattr(cause, "strerror", None) or cause)
    if getattr(cause, "errno", None) in _NO_FILES:
        text += f": {ADVICE}"
    return " ".join(text.split()) or type(error).__name__


def _seconds(header: str | None, now: float | None) -> float | None:
    """`Retry-After` in seconds, given as such or as a date by the server's clock."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header.strip()[:9])
    at = _date(header)
    return max(0.0, at - now) if at is not None and now is not None else None


def _date(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    # A date without a zone is UTC like any other in HTTP, not the time of this machine.
    return at.timestamp() if at.tzinfo is not None else at.replace(tzinfo=UTC).timestamp()
