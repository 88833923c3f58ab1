"""No I/O, no clock. The check of TC3-HMAC-SHA256 signatures, written from the document (SIG-DOC, CN-PARAM).

It does not use the engine's signer on purpose: a misreading of the document in one must fail against the other.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from engine.simulator.wire import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICE = "postgres"
"""Service in the credential scope: the domain's first label, on both sites (D-REQ)."""
MAX_SKEW_S = 300
"""Seconds; "more than 5 minutes off the server clock" expires a signature (SIG-DOC)."""

_AUTHORIZATION = re.compile(
    r"TC3-HMAC-SHA256 Credential=(?P<id>[^/,\s]+)/(?P<date>\d{4}-\d{2}-\d{2})/(?P<service>[^/,\s]+)/tc3_request, ?"
    r"SignedHeaders=(?P<headers>[a-z0-9;-]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)
_TIMESTAMP = re.compile(r"\d{1,12}", re.ASCII)


class Claim(NamedTuple):
    """What an Authorization header claims, and the request's timestamp."""

    secret_id: str
    date: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    timestamp: int


def read_claim(headers: Mapping[str, str], service: str = SERVICE) -> Claim | Refusal:
    """Return the claim in the (lower-cased) headers of a request to `service`, or a refusal of what is malformed."""
    authorization = headers.get("authorization")
    if authorization is None:
        return Refusal("AuthFailure.InvalidAuthorization", "The Authorization header is missing.")
    found = _AUTHORIZATION.fullmatch(authorization)
    if found is None:
        return Refusal("AuthFailure.InvalidAuthorization", "The Authorization header is malformed.")
    stamp = headers.get("x-tc-timestamp")
    if stamp is None:
        return Refusal("MissingParameter", "The request header `X-TC-Timestamp` is missing.")
    if _TIMESTAMP.fullmatch(stamp) is None:
        return Refusal("InvalidParameter", "The request header `X-TC-Timestamp` is not a UNIX timestamp.")
    names = tuple(found["headers"].split(";"))
    if list(names) != sorted(set(names)) or not {"content-type", "host"} <= set(names):
        # content-type and host are the mandatory pair (SIG-DOC)
        text = "SignedHeaders must be sorted, without repeats, and contain `content-type` and `host`."
        return Refusal("AuthFailure.InvalidAuthorization", text)
    if found["service"] != service:
        text = f"The credential scope names service `{found['service']}`, not `{service}`."
        return Refusal("AuthFailure.InvalidAuthorization", text)
    return Claim(found["id"], found["date"], found["service"], names, found["signature"], int(stamp))


def check_claim(
    claim: Claim,
    *,
    secret_key: str,
    method: str,
    query: str,
    headers: Mapping[str, str],
    body: bytes,
    clock: float,
) -> Refusal | None:
    """Return the refusal of a claim that does not hold for this request at the server's `clock`; None if it holds."""
    skew = int(clock) - claim.timestamp
    if abs(skew) > MAX_SKEW_S:
        text = f"Signature expired: the timestamp is {abs(skew)} seconds off the server's clock."
        return Refusal("AuthFailure.SignatureExpire", text)
    if claim.date != utc_date(claim.timestamp):
        text = "The date of the credential is not the UTC date of the timestamp."
        return Refusal("AuthFailure.SignatureFailure", text)
    missing = [name for name in claim.signed_headers if name not in headers]
    if missing:
        text = f"Signed header `{missing[0]}` is not in the request."
        return Refusal("AuthFailure.InvalidAuthorization", text)
    canonical = canonical_request(method, query, headers, claim.signed_headers, body)
    scope = f"{claim.date}/{claim.service}/tc3_request"
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()  # header bytes as they came
    text = f"TC3-HMAC-SHA256\n{claim.timestamp}\n{scope}\n{digest}"
    expected = hmac.digest(_scope_key(secret_key, claim.date, claim.service), text.encode(), "sha256").hex()
    if not hmac.compare_digest(expected, claim.signature):
        text = "The provided credentials could not be validated. Please check your signature is correct."
        return Refusal("AuthFailure.SignatureFailure", text)
    return None


def canonical_request(
    method: str, query: str, headers: Mapping[str, str], signed_headers: tuple[str, ...], body: bytes
) -> str:
    """Return step 2 of the document: Content-Type and Host byte for byte, other values lower-cased and trimmed."""
    if headers.get("x-tc-content-sha256") == "UNSIGNED-PAYLOAD":
        payload_hash = hashlib.sha256(b"UNSIGNED-PAYLOAD").hexdigest()
    else:
        payload_hash = hashlib.sha256(body).hexdigest()
    lines = [method, "/", query]
    for name in signed_headers:
        value = headers[name]
        lines.append(f"{name}:{value if name in ('content-type', 'host') else value.strip().lower()}")
    lines += ["", ";".join(signed_headers), payload_hash]
    return "\n".join(lines)


@lru_cache(maxsize=8)
def utc_date(timestamp: int) -> str:
    """Return the UTC date of a UNIX timestamp, as the scope writes it."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d")


@lru_cache(maxsize=64)
def _scope_key(secret_key: str, date: str, service: str) -> bytes:
    """Return the key of step 4; it depends only on secret, date and service, so it is cached."""
    key = ("TC3" + secret_key).encode()
    for part in (date, service, "tc3_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
