"""One attempt: sign now, send, parse. Never retries, never sleeps, decides nothing."""

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
"""A source of keys that has failed is not asked again sooner: many calls in flight are refused at once."""
MOST_RETRY_AFTER_S = 60.0
"""Longer waits are not taken from a header: a proxy's page may ask for an hour."""
_LATE_PASSWORDS = 50
"""New passwords are blotted out of what is heard after their own attempt, too: of so many, the last ones."""


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
    retry_after_s: float = 0.0
    """How long the server asks not to be asked again, at most `MOST_RETRY_AFTER_S`."""


class Client:
    """Signs and sends for one set of keys to one endpoint."""

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
        """`language`: of the server's messages, as X-TC-Language has it; `known`: the ids of all answers so far."""
        self.keys = keys
        self.endpoint = endpoint
        self.identity = identity or keys.identity
        """Names the quota that its calls draw on."""
        self.host = urlsplit(endpoint).netloc
        self.timeout_s = timeout_s
        self.offset_s = offset_s
        """Added to the clock for signing: how far the server is ahead, once learnt."""
        self.note: Callable[[str, dict[str, object]], None] = lambda _what, _data: None
        """Told what was learnt about clock and keys."""
        self.not_refreshed = ""
        """Why the keys could not be refreshed when they were refused last."""
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
        """Send one request. `secret` is a parameter's value to be blotted out of whatever the server says."""
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
        """UNIX time here."""
        return self._clock()

    async def cure(self, cure: Cure, attempt: Attempt, keys: Keys) -> bool:
        """Mend what a refusal says of clock or keys; whether another try, not with `keys` as they were, makes sense.

        What the source of the keys says when it fails is in `not_refreshed`.
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
            # Else somebody refreshed them since this attempt was signed, or has just failed to.
            self.not_refreshed = ""
            try:
                await self.keys.refresh()
            except CredentialsError as error:
                if self.not_refreshed != str(error):  # all that asked at the same time hear the same
                    self.note("keys_not_refreshed", {"why": str(error)})
                self.not_refreshed = str(error)
                self._ask_again_at = self._clock() + ASK_AGAIN_S
        now = self.keys.get()
        if now != keys and now != self._cured_with:
            self._cured_with = now
            self.note("keys_refreshed", {"key": now.fingerprint})
        return now != keys

    def learn_clock(self, date: float) -> float:
        """Take the server's `Date` as the truth; returns the new offset in seconds."""
        self.offset_s = date - self._clock()
        return self.offset_s
