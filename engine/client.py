"""Engine, floor 3: one attempt: sign now, send, parse. Never retries, never sleeps, decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from engine.actions import VERSION
from engine.credentials import KeySource
from engine.model import Answer, Keys, Reply, Transport
from engine.signing import Signer
from engine.verdicts import read_reply

MESSAGE_LIMIT = 1000
"""Characters of a server message that are kept."""
REDACTED = "[redacted]"
_SHORTEST_SECRET = 4
"""Shorter strings are no secret, and blotting them out would blot out words."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One signed HTTP exchange, over."""

    answer: Answer
    sent_at: float
    """UNIX time at which its bytes could leave: when it had a connection."""
    opening_s: float
    """How much earlier it was handed to the transport."""
    ms: int
    """From then to the answer, whole."""
    date: float | None
    """The server's clock, if its answer carried it."""


class Client:
    """Signs and sends for one set of keys to one endpoint."""

    def __init__(
        self,
        transport: Transport,
        keys: KeySource,
        endpoint: str,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.time,
        request_client: str | None = None,
        offset_s: float = 0.0,
    ) -> None:
        self.keys = keys
        self.endpoint = endpoint
        self.host = urlsplit(endpoint).netloc
        self.timeout_s = timeout_s
        self.offset_s = offset_s
        """Added to the clock for signing: how far the server is ahead, once learnt."""
        self._transport = transport
        self._clock = clock
        self._request_client = request_client
        self._signer = Signer()
        self._encode = msgspec.json.Encoder().encode

    async def attempt(
        self,
        action: str,
        region: str,
        parameters: Mapping[str, object],
        *,
        keys: Keys,
        trace: str,
        secret: str | None = None,
    ) -> Attempt:
        """Send one request. `secret` is a parameter's value to be blotted out of whatever the server says."""
        body = self._encode(parameters)
        begun_at = self._clock()
        headers = self._signer.headers(
            keys,
            self.host,
            action,
            region,
            VERSION,
            body,
            int(begun_at + self.offset_s),
            trace=trace,
            request_client=self._request_client,
        )
        outcome = await self._transport.send(self.endpoint, headers, body, self.timeout_s)
        answer = read_reply(outcome)
        if answer.message is not None:
            answer = _cleaned(answer, (secret, keys.secret_key, keys.token))
        return Attempt(
            answer=answer,
            sent_at=begun_at + outcome.opening_s,
            opening_s=outcome.opening_s,
            ms=round((self._clock() - begun_at) * 1000),
            date=outcome.date if isinstance(outcome, Reply) else None,
        )

    def learn_clock(self, date: float) -> float:
        """Take the server's `Date` as the truth; returns the new offset in seconds."""
        self.offset_s = date - self._clock()
        return self.offset_s


def _cleaned(answer: Answer, secrets: tuple[str | None, ...]) -> Answer:
    return Answer(
        http=answer.http,
        request_id=answer.request_id,
        code=answer.code,
        message=redact(answer.message or "", secrets)[:MESSAGE_LIMIT],
        data=answer.data,
        stage=answer.stage,
    )


def redact(text: str, secrets: tuple[str | None, ...]) -> str:
    """`text` without any of `secrets`, as they are or as JSON writes them."""
    for secret in secrets:
        if secret is None or len(secret) < _SHORTEST_SECRET:
            continue
        escaped = msgspec.json.encode(secret).decode()[1:-1]
        for form in (secret, escaped):
            text = text.replace(form, REDACTED)
    return text
