"""What sources that ask somebody need: a way out, and whom to ask.

A question is rare (once in an hour or so), so each opens a way out of its own and closes it: keys outlive the event
loop of one reading and are asked for again in that of another.
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
"""Site → where STS is (PY-COMMON)."""
METADATA = "http://metadata.tencentyun.com"
"""The metadata service of a CVM instance: a name only its own network knows, plain HTTP, next door (PY-COMMON)."""


class Network(Struct, frozen=True, kw_only=True):
    """How the network is reached."""

    open: Callable[[], Transport]
    sts: str
    """STS, as an endpoint."""
    language: str = LANGUAGE
    """Of the messages of STS."""
    metadata: str = METADATA
    clock: Callable[[], float] = time.time
    known: RequestIds = field(default_factory=RequestIds)
    """The ids of all answers of STS so far."""

    @asynccontextmanager
    async def way_out(self) -> AsyncIterator[Transport]:
        """A transport for one question."""
        transport = self.open()
        try:
            yield transport
        finally:
            await transport.aclose()


class RefusedError(CredentialsError):
    """Somebody who was asked for keys said no, or did not answer; `code` is as of an answer of the API."""

    def __init__(self, words: str, code: str | None = None) -> None:
        super().__init__(words)
        self.code = code
