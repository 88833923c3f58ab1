"""One attempt: sign now, send, parse. A client never retries, never sleeps, and decides nothing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from engine.api.actions import LANGUAGE, VERSION
from engine.api.signing import Signer
from engine.api.verdicts import Cure, RequestIds, heard, own_answer
from engine.credentials import KeySource
from engine.errors import CredentialsError
from engine.model import Answer, Keys, Reply, Transport
from engine.outside.foreign import Secrets, secrets_of

ASK_AGAIN_S = 5.0
"""Seconds before a source of keys that failed is asked again: many calls in flight are refused at the same time."""
MOST_RETRY_AFTER_S = 60.0
"""Longest wait that a header can ask for, in seconds: a proxy's page may ask for an hour."""
_LATE_PASSWORDS = 50
"""Latest new passwords that are also removed from answers to later attempts."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One signed HTTP exchange that has ended."""

    answer: Answer
    sent_at: float
    """UNIX time at which it had a connection, so that its bytes could leave."""
    opening_s: float
    """Seconds before `sent_at` at which the transport got it."""
    ms: int
    """Milliseconds from when the transport got it to the whole answer."""
    date: float | None
    """UNIX time of the server's clock, if the answer had a `Date`."""
    retry_after_s: float = 0.0
    """Seconds that the server asks us to wait, at most `MOST_RETRY_AFTER_S`."""


class Client:
    """Signs and sends requests with one source of keys to one endpoint."""

    def __init__(
        self,
        transport: Transport,
        keys: KeySource,
        endpoint: str,
        *,
        identity: str = "",
        timeout_s: float,
        clock: Callable[[], float] = time.time,
        request_client: str | None = None,
        offset_s: float = 0.0,
        language: str = LANGUAGE,
        known: RequestIds | None = None,
    ) -> None:
        """Make a client. `language`: of the server's messages (X-TC-Language); `known`: the request ids so far."""
        self.keys = keys
        self.endpoint = endpoint
        self.identity = identity or keys.identity
        """Name of the quota that its calls draw on."""
        self.host = urlsplit(endpoint).netloc
        self.timeout_s = timeout_s
        self.offset_s = offset_s
        """Seconds by which the server's clock is ahead, once learnt; added to our clock for signing."""
        self.ahead_s: float | None = None
        """Seconds by which the server's clock was ahead of ours, by its last `Date`; None: it sent none."""
        self.note: Callable[[str, dict[str, object]], None] = lambda _what, _data: None
        """Journals what the client learnt about clock and keys."""
        self.not_refreshed = ""
        """Why the keys could not be refreshed after their last refusal; empty if they could."""
        self._ask_again_at = 0.0
        self._cured_with: Keys | None = None
        self._transport = transport
        self._clock = clock
        self._request_client = request_client
        self._language = language
        self._known = known if known is not None else RequestIds()
        self._signer = Signer()
        self._passwords: deque[Secrets] = deque(maxlen=_LATE_PASSWORDS)
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
        """Send one request, return the attempt. `secret` is a parameter's value, which is removed from all answers."""
        if secret is not None:
            self._passwords.append(Secrets((secret,)))
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
            language=self._language,
        )
        outcome = await self._transport.send(self.endpoint, headers, body, self.timeout_s)
        if isinstance(outcome, Reply) and outcome.date is not None:
            self.ahead_s = outcome.date - self._clock()
        answer = own_answer(outcome, self._known, action, region, parameters)
        return Attempt(
            answer=heard(answer, outcome, secrets_of(keys), self._passwords),
            sent_at=begun_at + outcome.opening_s,
            opening_s=outcome.opening_s,
            ms=max(0, round((self._clock() - begun_at) * 1000)),  # the wall clock may be set back meanwhile
            date=outcome.date if isinstance(outcome, Reply) else None,
            retry_after_s=min(MOST_RETRY_AFTER_S, outcome.retry_after_s or 0.0) if isinstance(outcome, Reply) else 0.0,
        )

    def now(self) -> float:
        """Return the UNIX time of this host."""
        return self._clock()

    async def cure(self, cure: Cure, attempt: Attempt, keys: Keys) -> bool:
        """Learn the clock or refresh the keys after a refusal of `keys`; return whether another attempt makes sense.

        If the source of the keys fails, its words are in `not_refreshed`.
        """
        if cure is Cure.CLOCK:
            if attempt.date is None:
                return False
            before = self.offset_s
            self.learn_clock(attempt.date)
            if abs(self.offset_s - before) > 1:
                self.note("clock_learned", {"offset_s": round(self.offset_s, 1)})
            return True
        if self.keys.get() == keys and self._clock() >= self._ask_again_at:
            # Else another call refreshed them since this attempt was signed, or just failed to do so.
            self.not_refreshed = ""
            try:
                await self.keys.refresh()
            except CredentialsError as error:
                if self.not_refreshed != str(error):  # calls that asked at the same time get the same error
                    self.note("keys_not_refreshed", {"why": str(error)})
                self.not_refreshed = str(error)
                self._ask_again_at = self._clock() + ASK_AGAIN_S
        now = self.keys.get()
        if now != keys and now != self._cured_with:
            self._cured_with = now
            self.note("keys_refreshed", {"key": now.fingerprint})
        return now != keys

    def learn_clock(self, date: float) -> float:
        """Take the server's `Date` as the right time; return the new offset in seconds."""
        self.offset_s = date - self._clock()
        return self.offset_s
