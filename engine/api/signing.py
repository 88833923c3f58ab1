"""TC3-HMAC-SHA256, the signature of the API. No I/O, no clock: time and keys are arguments.

Sources: CN-PARAM, SIG-DOC, PY-COMMON. As in the vendor's SDK, only `content-type` and `host` are signed; action,
region, token and trace id travel unsigned. There is no nonce: a signature is good for five minutes around its
timestamp. So sign directly before sending, never earlier.
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from engine.api.actions import LANGUAGE, SERVICE

if TYPE_CHECKING:
    from engine.model import Keys

ALGORITHM = "TC3-HMAC-SHA256"
CONTENT_TYPE = "application/json"
"""Sent byte for byte as signed, so without a charset (SIG-DOC)."""
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""Hashed in place of the body if the header X-TC-Content-SHA256 says so; the engine never sends that header."""

_SIGNED_HEADERS = "content-type;host"
_TERMINATOR = "tc3_request"
_DAY_S = 86_400
_DAY_KEYS_HELD = 64
"""Signing keys kept: enough for dozens of accounts over midnight. To make a dropped one again takes about 8 µs."""


class Steps(NamedTuple):
    """The texts on the way to a signature, in order. They hold no secret, but the body they are made from may."""

    payload_sha256: str
    canonical_request: str
    canonical_request_sha256: str
    string_to_sign: str


class Signed(Struct, frozen=True, kw_only=True):
    """A signature, ready for the header. Its repr leaves the header out, which the API accepts for five minutes."""

    authorization: str
    date: str
    """UTC date of the timestamp, the first part of the credential scope."""

    def __repr__(self) -> str:
        return f"Signed(authorization=…, date={self.date!r})"


class _DayKey(NamedTuple):
    """The signing key of one secret key, UTC day and service."""

    key: bytes
    date: str
    scope: str

    def __repr__(self) -> str:
        return f"_DayKey(key=…, scope={self.scope!r})"


def utc_date(timestamp: int) -> str:
    """Return `YYYY-MM-DD` of a UNIX time in UTC, whatever the machine's time zone is."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d")


def steps(
    *,
    host: str,
    body: bytes,
    timestamp: int,
    scope: str,
    content_type: str = CONTENT_TYPE,
    method: str = "POST",
    query: str = "",
) -> Steps:
    """Return every string between the request and its signature; `scope` is `DATE/SERVICE/tc3_request`.

    The engine only sends POST. `method` and `query` are here so that tests can check the published examples whole.
    """
    payload_sha256 = sha256(body).hexdigest()
    canonical_request = (
        f"{method}\n/\n{query}\ncontent-type:{content_type}\nhost:{host}\n\n{_SIGNED_HEADERS}\n{payload_sha256}"
    )
    canonical_request_sha256 = sha256(canonical_request.encode()).hexdigest()
    string_to_sign = f"{ALGORITHM}\n{timestamp}\n{scope}\n{canonical_request_sha256}"
    return Steps(payload_sha256, canonical_request, canonical_request_sha256, string_to_sign)


class Signer:
    """Signs requests, and keeps the signing keys of the latest (secret key, UTC day, service)."""

    __slots__ = ("_day_keys",)

    def __init__(self) -> None:
        self._day_keys: dict[tuple[str, int, str], _DayKey] = {}

    def __repr__(self) -> str:
        return f"Signer(day_keys={len(self._day_keys)})"

    def sign(
        self,
        *,
        keys: Keys,
        host: str,
        body: bytes,
        timestamp: int,
        service: str = SERVICE,
        content_type: str = CONTENT_TYPE,
    ) -> Signed:
        """Sign a POST to `/` of `host`; `timestamp` is in whole UNIX seconds of the server's clock."""
        day_key = self._day_key(keys.secret_key, timestamp, service)
        made = steps(host=host, body=body, timestamp=timestamp, scope=day_key.scope, content_type=content_type)
        return Signed(authorization=_authorization(keys, made, day_key), date=day_key.date)

    def authorization(self, keys: Keys, made: Steps, timestamp: int, service: str = SERVICE) -> str:
        """Return the Authorization header for steps that the caller made, of any request; `sign` does both at once."""
        return _authorization(keys, made, self._day_key(keys.secret_key, timestamp, service))

    def headers(
        self,
        keys: Keys,
        host: str,
        action: str,
        region: str,
        version: str,
        body: bytes,
        timestamp: int,
        *,
        trace: str,
        language: str = LANGUAGE,
        request_client: str | None = None,
        service: str = SERVICE,
    ) -> dict[str, str]:
        """Return all headers of one signed request, to be sent unchanged (CN-PARAM).

        `host` goes into the Host header, with the port if it is not the default one. An empty `region` is left out,
        as a few actions of other services take none.
        """
        signed = self.sign(keys=keys, host=host, body=body, timestamp=timestamp, service=service)
        headers = {
            "Authorization": signed.authorization,
            "Content-Type": CONTENT_TYPE,
            "Host": host,
            "X-TC-Action": action,
            "X-TC-Version": version,
            "X-TC-Timestamp": str(timestamp),
            "X-TC-Language": language,
            "X-TC-TraceId": trace,
        }
        if region:
            headers["X-TC-Region"] = region
        if keys.token:
            headers["X-TC-Token"] = keys.token
        if request_client:
            headers["X-TC-RequestClient"] = request_client
        return headers

    def _day_key(self, secret_key: str, timestamp: int, service: str) -> _DayKey:
        identity = (secret_key, timestamp // _DAY_S, service)
        day_key = self._day_keys.get(identity)
        if day_key is None:
            date = utc_date(timestamp)
            key = ("TC3" + secret_key).encode()
            for part in (date, service, _TERMINATOR):
                key = hmac.digest(key, part.encode(), "sha256")
            if len(self._day_keys) >= _DAY_KEYS_HELD:
                del self._day_keys[next(iter(self._day_keys))]
            day_key = self._day_keys[identity] = _DayKey(key, date, f"{date}/{service}/{_TERMINATOR}")
        return day_key


def _authorization(keys: Keys, made: Steps, day_key: _DayKey) -> str:
    signature = hmac.digest(day_key.key, made.string_to_sign.encode(), "sha256").hex()
    return (
        f"{ALGORITHM} Credential={keys.secret_id}/{day_key.scope}, "
        f"SignedHeaders={_SIGNED_HEADERS}, Signature={signature}"
    )
