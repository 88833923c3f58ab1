"""Keys of the role bound to this CVM instance, from its metadata service (PY-COMMON)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from engine.api.names import shown
from engine.credentials.network import RefusedError
from engine.credentials.source import FetchedKeys, Found, checked_end, checked_keys
from engine.errors import CredentialsError
from engine.model import Fault

if TYPE_CHECKING:
    from engine.credentials.network import Network
    from engine.model import Reply, Transport

PATH = "/latest/meta-data/cam/security-credentials/"
LIMIT_S = 2.0
"""Seconds for both questions. The service is near a CVM; elsewhere nobody answers, and every command waits so long."""
_ELSE = "; try again, or name other keys (--profile, or in the environment)"
_ROLE = re.compile(r"[\w+=,.@-]{1,128}", re.ASCII)
_HTTP_OK = 200
_HTTP_NOT_FOUND = 404


class NobodyThereError(RefusedError):
    """There is no metadata service here, or no role is bound to this instance. Another source may have keys."""


def instance_keys(network: Network) -> FetchedKeys:
    """Return a source of keys of the instance's role. It raises NobodyThereError if there is no instance or no role."""

    async def fetch() -> Found:
        import asyncio

        role: str | None = None
        base = f"{network.metadata}{PATH}"
        silent = f"metadata service {network.metadata}: no answer within {LIMIT_S:g} s"
        try:
            async with asyncio.timeout(LIMIT_S), network.way_out() as transport:
                role = _role(await _get(transport, base), base)
                reply = await _of_role(transport, base, role)
        except TimeoutError:
            raise (
                NobodyThereError(silent) if role is None else CredentialsError(f"{_of(role)}: {silent}{_ELSE}")
            ) from None
        return keys_of(reply, _of(role), network)

    # One instance has one role, so the identity can do without the role's name, which would have to be asked for.
    return FetchedKeys("role of this instance (metadata service)", "instance role", fetch)


async def _get(transport: Transport, url: str) -> Reply:
    outcome = await transport.get(url, LIMIT_S)
    if isinstance(outcome, Fault):
        raise NobodyThereError(f"metadata service {url}: {outcome.message.removeprefix(url).lstrip(': ')}")
    if outcome.status != _HTTP_OK:
        why = "no role is bound to this instance" if outcome.status == _HTTP_NOT_FOUND else "does not answer as one"
        raise NobodyThereError(f"metadata service {url}: {why} (HTTP {outcome.status})")
    return outcome


def _of(role: str) -> str:
    return f"role {role} of this instance"


async def _of_role(transport: Transport, base: str, role: str) -> Reply:
    """Return the answer about a role that the service named; CredentialsError if none: no other source replaces it."""
    try:
        return await _get(transport, base + quote(role))
    except NobodyThereError as error:
        raise CredentialsError(f"{_of(role)}: it is named, and its keys are not to be had: {error}{_ELSE}") from None


def _role(reply: Reply, url: str) -> str:
    role = reply.body[:200].decode("utf-8", "replace").strip()
    if _ROLE.fullmatch(role) is None:
        raise NobodyThereError(f"metadata service {url}: what answers is no name of a role")
    return role


def keys_of(reply: Reply, where: str, network: Network) -> Found:
    """Return the keys of an answer, with their expiry by our clock; CredentialsError if it has no usable keys."""
    try:
        said = msgspec.json.decode(reply.body)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        said = None
    service = f"{where}: the metadata service"
    if not isinstance(said, dict):
        raise CredentialsError(f"{service} answered with something else than JSON{_ELSE}")
    if said.get("Code") != "Success":
        raise CredentialsError(f"{service} has no keys for it (Code {shown(str(said.get('Code')))}){_ELSE}")
    found = {"secret_id": said.get("TmpSecretId"), "secret_key": said.get("TmpSecretKey"), "token": said.get("Token")}
    expires = said.get("ExpiredTime")
    ahead_s = reply.date - network.clock() if reply.date is not None else 0.0
    try:
        expires_at = checked_end(expires) - ahead_s if expires is not None else None
    except ValueError:
        raise CredentialsError(f"{service} answered with an end of its keys that is no time{_ELSE}") from None
    if expires_at is not None and expires_at <= network.clock():
        raise CredentialsError(f"{service} answered with keys that have expired{_ELSE}")
    keys = checked_keys(found, where, f"the metadata service answered so{_ELSE}")
    if keys.token is None:
        raise CredentialsError(f"{service} answered without a token{_ELSE}")
    return Found(keys, expires_at)
