"""Device, floor 2: the only importer of aiohttp's client. Foreign errors become a `Fault` here, once.

Whether bytes can have left decides between a harmless retry and an attempt in doubt, so it is observed (aiohttp's
tracing says when a connection is in hand), not guessed from the exception's name.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any

import aiohttp

from engine.model import Fault, Reply, Stage

CONNECT_TIMEOUT_S = 5.0
"""Of TCP and TLS together; the attempt's own timeout bounds all, DNS too."""


class HttpTransport:
    """`model.Transport` over HTTP/1.1 with kept-alive connections."""

    def __init__(self, *, connections: int = 100, tls: ssl.SSLContext | None = None) -> None:
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(_connected)
        trace.on_connection_reuseconn.append(_connected)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=tls if tls is not None else True),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
            trace_configs=[trace],
        )

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        """POST and read the whole answer within `timeout_s`."""
        stage = SimpleNamespace(connected=False)
        try:
            async with self._session.post(
                endpoint,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s)),
                allow_redirects=False,
                trace_request_ctx=stage,
            ) as response:
                content = await response.read()
                return Reply(status=response.status, body=content, date=_date(response.headers.get("Date")))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return _fault(error, connected=stage.connected, endpoint=endpoint, timeout_s=timeout_s)

    async def aclose(self) -> None:
        """Close connections."""
        await self._session.close()
        # TLS connections close in the background; without this turn of the loop they warn at exit.
        await asyncio.sleep(0)


async def _connected(_session: Any, context: SimpleNamespace, _params: Any) -> None:
    # Any: aiohttp's tracing passes its own types, of which nothing is used.
    context.trace_request_ctx.connected = True


def _fault(error: Exception, *, connected: bool, endpoint: str, timeout_s: float) -> Fault:
    if connected:
        words = f"no answer within {timeout_s:g} s" if isinstance(error, TimeoutError) else _words(error)
        return Fault(stage=Stage.AFTER_SEND, code=_after_send(error), message=words)
    if isinstance(error, TimeoutError):
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
    if isinstance(cause, aiohttp.ClientResponseError):
        text = f"not an answer in HTTP: {cause.message}"
    elif isinstance(cause, ConnectionError) and cause.errno:
        text = os.strerror(cause.errno)  # asyncio's own words only repeat the address
    else:
        text = str(getattr(cause, "strerror", None) or cause)
    return " ".join(text.split()) or type(error).__name__


def _date(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    # A date without a zone is UTC like any other in HTTP, not the time of this machine.
    return at.timestamp() if at.tzinfo is not None else at.replace(tzinfo=UTC).timestamp()
