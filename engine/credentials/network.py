"""What sources of keys need to ask over the network: a transport, and the addresses to ask.

Each question opens a transport of its own and closes it, as questions are rare (about one an hour). Keys are used in
more than one event loop, and a transport belongs to one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from msgspec import Struct, field

from engine.api.actions import LANGUAGE
from engine.api.verdicts import RequestIds
from engine.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from engine.model import Transport

STS = {
    "international": "https://sts.intl.tencentcloudapi.com",
    "mainland": "https://sts.tencentcloudapi.com",
}
"""Site → the endpoint of STS (PY-COMMON)."""
METADATA = "http://metadata.tencentyun.com"
"""The metadata service of a CVM instance: plain HTTP, by a name that only the instance's network knows (PY-COMMON)."""


class Network(Struct, frozen=True, kw_only=True):
    """How the network is reached."""

    open: Callable[[], Transport]
    sts: str
    """STS, as an endpoint."""
    language: str = LANGUAGE
    """Language of STS's messages."""
    metadata: str = METADATA
    clock: Callable[[], float] = time.time
    known: RequestIds = field(default_factory=RequestIds)
    """The request ids of all answers of STS so far."""

    @asynccontextmanager
    async def way_out(self) -> AsyncIterator[Transport]:
        """Open a transport for one question, and close it after."""
        transport = self.open()
        try:
            yield transport
        finally:
            await transport.aclose()


class RefusedError(CredentialsError):
    """STS or the metadata service refused keys, or did not answer; `code` is that of its answer, or one of ours."""

    def __init__(self, words: str, code: str | None = None) -> None:
        super().__init__(words)
        self.code = code
