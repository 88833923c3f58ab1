"""Asks STS (2018-08-13) for keys of roles and web identities, and who the caller is.

Requests use the engine's signer and transport, as all others do. After a transient failure, STS is asked again within a
limit of time. If our clock is off, the offset is learnt from the `Date` of the refusal.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from engine import __version__
from engine.api.codes import SAID_BY_STS
from engine.api.signing import CONTENT_TYPE, Signer
from engine.api.verdicts import Cure, heard, own_answer, rule
from engine.credentials.network import RefusedError
from engine.credentials.source import Found, checked_end, checked_keys
from engine.errors import CredentialsError
from engine.model import Answer, Reply, Verdict
from engine.outside.foreign import Secrets, secrets_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.credentials.network import Network
    from engine.model import Keys

VERSION = "2018-08-13"
SERVICE = "sts"
REGION = "ap-guangzhou"
"""STS is the same for all regions; the vendor's SDKs name this one, on both sites (PY-COMMON)."""
LIMIT_S = 15.0
"""Seconds for one question, with all its attempts."""
_ATTEMPT_S = 5.0
_FIRST_PAUSE_S = 0.3
_SKIP = "SKIP"
"""Authorization header of the only action that is not signed (PY-COMMON)."""


class Said(NamedTuple):
    """What STS answered."""

    data: Mapping[str, Any]
    """The `Response` object. Any: the API's JSON."""
    ahead_s: float
    """Seconds by which its clock is ahead of ours."""


async def ask_sts(
    network: Network,
    action: str,
    parameters: Mapping[str, object],
    *,
    keys: Keys | None,
    region: str = REGION,
    limit_s: float = LIMIT_S,
) -> Said:
    """Ask STS for at most `limit_s` and return its answer; RefusedError, without secrets, says why there is none.

    `keys` is None for an action without a signature. None of the actions here changes anything, so all may be repeated.
    """
    import asyncio

    body = msgspec.json.encode(parameters)
    token = parameters.get("WebIdentityToken")
    secrets = secrets_of(keys) if keys is not None else Secrets((token if isinstance(token, str) else None,))
    ahead_s, learnt, pause_s = 0.0, False, _FIRST_PAUSE_S
    refused = RefusedError(f"{action}: no answer from {network.sts} within {limit_s:g} s", "Local.Timeout")
    try:
        async with asyncio.timeout(limit_s), network.way_out() as transport:
            while True:
                headers = _headers(network, action, region, body, keys, ahead_s)
                outcome = await transport.send(network.sts, headers, body, _ATTEMPT_S)
                answer = heard(_own(own_answer(outcome, network.known), action), outcome, secrets)
                date = outcome.date if isinstance(outcome, Reply) else None
                if answer.code is None:
                    assert answer.data is not None
                    return Said(answer.data, date - network.clock() if date is not None else ahead_s)
                ruling = rule(action, answer)
                refused = _refusal(network, action, answer)
                if ruling.cure is Cure.CLOCK and date is not None and not learnt:
                    ahead_s, learnt = date - network.clock(), True
                    continue
                if ruling.cure is Cure.CLOCK or ruling.verdict not in _PASSING:
                    raise refused
                asked_s = (outcome.retry_after_s or 0.0) if isinstance(outcome, Reply) else 0.0
                await asyncio.sleep(max(pause_s, asked_s))
                pause_s *= 2
    except TimeoutError:
        raise refused from None


_FIELDS = {
    "GetCallerIdentity": ("AccountId", "UserId", "Arn"),
    "AssumeRole": ("Credentials", "ExpiredTime"),
    "AssumeRoleWithWebIdentity": ("Credentials", "ExpiredTime"),
}
"""Action → fields of its answers."""


def _own(answer: Answer, action: str) -> Answer:
    """Return the answer; one of ours in its place if it has none of the fields with which this action answers."""
    if answer.data is None or any(name in answer.data for name in _FIELDS.get(action, answer.data)):
        return answer
    words = f"{action} answers with {' and '.join(_FIELDS[action])}; this is the answer to something else"
    return Answer(http=answer.http, request_id=answer.request_id, code="Local.Misplaced", message=words)


_PASSING = (Verdict.TRANSIENT, Verdict.THROTTLED, Verdict.IN_DOUBT)


def _headers(
    network: Network, action: str, region: str, body: bytes, keys: Keys | None, ahead_s: float
) -> dict[str, str]:
    host, at, trace = urlsplit(network.sts).netloc, int(network.clock() + ahead_s), str(uuid.uuid4())
    tag = f"acctops_{__version__}"
    if keys is not None:
        signer = Signer()
        return signer.headers(
            keys,
            host,
            action,
            region,
            VERSION,
            body,
            at,
            trace=trace,
            language=network.language,
            request_client=tag,
            service=SERVICE,
        )
    return {
        "Authorization": _SKIP,
        "Content-Type": CONTENT_TYPE,
        "Host": host,
        "X-TC-Action": action,
        "X-TC-Version": VERSION,
        "X-TC-Timestamp": str(at),
        "X-TC-Region": region,
        "X-TC-Language": network.language,
        "X-TC-TraceId": trace,
        "X-TC-RequestClient": tag,
    }


def _refusal(network: Network, action: str, answer: Answer) -> RefusedError:
    """Return the refusal in our words: the server's words may repeat what was sent, such as a token."""
    code = str(answer.code)
    request = f" (RequestId {answer.request_id})" if answer.request_id else ""
    if code.startswith("Local."):  # our own message, which may be shown
        why = (answer.message or "").removeprefix(f"{network.sts}: ")
        cure = "look at the address (site, credentials.sts), DNS, firewall and proxy of this host"
        return RefusedError(f"{action}: {network.sts}: {_hint(code)} ({why}) [{code}]{request}; {cure}", code)
    return RefusedError(f"{action}: {_hint(code).format(action=action)} [{code}]{request}", code)


def _hint(code: str) -> str:
    return next((words for beginning, words in SAID_BY_STS.items() if code.startswith(beginning)), "STS refuses")


_AGAIN = "; look at where it is asked (credentials.sts, site), then try again"


def session_of(said: Said, where: str, clock: float) -> Found:
    """Return the temporary keys of an answer, with their expiry by our clock; CredentialsError if it has none."""
    credentials = said.data.get("Credentials")
    try:
        expires = checked_end(said.data.get("ExpiredTime"))
    except ValueError:
        credentials = None
    if not isinstance(credentials, dict):
        raise CredentialsError(f"{where}: STS answered without keys that have an end{_AGAIN}")
    found = {
        "secret_id": credentials.get("TmpSecretId"),
        "secret_key": credentials.get("TmpSecretKey"),
        "token": credentials.get("Token"),
    }
    keys = checked_keys(found, where, f"STS answered so{_AGAIN}")
    if keys.token is None:
        raise CredentialsError(f"{where}: STS answered without a token{_AGAIN}")
    if expires - said.ahead_s <= clock:
        raise CredentialsError(f"{where}: STS answered with keys that have expired{_AGAIN}")
    return Found(keys, expires - said.ahead_s)
