"""Keys that a program of the operator prints as JSON. It runs once, and again shortly before its keys expire.

The output may be that of the vendor's `tccli sts AssumeRole`, or a flat object with our names or the vendor's.
"""

from __future__ import annotations

import hashlib
import re
import time
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from engine.credentials.source import FetchedKeys, Found, checked_end, checked_keys
from engine.errors import CredentialsError
from engine.outside.programs import run_program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TIMEOUT_S = 30.0
MOST_OUTPUT = 64 << 10
_NAMES = {
    "secret_id": ("secretid", "tmpsecretid"),
    "secret_key": ("secretkey", "tmpsecretkey"),
    "token": ("token", "sessiontoken", "securitytoken"),
}
_EXPIRES = ("expiresat", "expiredtime", "expiration")
_RUN = "run it by hand to see why (credentials.command; acctops config show --origin says where it stands)"
_SHAPE = 'it must print {"secret_id": …, "secret_key": …, "token": …, "expires_at": UNIX seconds}'


def command_keys(command: tuple[str, ...], clock: Callable[[], float] = time.time) -> FetchedKeys:
    """Return a source of the keys that `command` prints, run without a shell. Its identity is the command itself."""
    name = PurePath(command[0]).name
    label = f"credential command {name}"
    digest = hashlib.sha256("\0".join(command).encode("utf-8", "surrogateescape")).hexdigest()[:8]

    async def fetch() -> Found:
        try:
            printed = await run_program(command, limit_s=TIMEOUT_S, most=MOST_OUTPUT)
        except TimeoutError:  # before OSError, of which it is a subclass
            raise CredentialsError(f"{label}: no answer within {TIMEOUT_S:g} s; {_RUN}") from None
        except (OSError, ValueError) as exc:
            why = getattr(exc, "strerror", None) or "its arguments cannot be passed"
            raise CredentialsError(f"{label}: cannot be started: {why}; {_RUN}") from None
        if printed.status:
            raise CredentialsError(f"{label}: {printed.complaint()}; {_RUN}")
        if len(printed.output) > MOST_OUTPUT:
            raise CredentialsError(f"{label}: printed more than {MOST_OUTPUT >> 10} KiB; {_SHAPE}")
        found = _read(printed.output, label)
        if found.expires_at is not None and found.expires_at <= clock():
            raise CredentialsError(f"{label}: printed keys that have expired; {_RUN}")
        return found

    return FetchedKeys(label, f"command {name} {digest}", fetch)


def _read(output: bytes, label: str) -> Found:
    if not output.strip():
        raise CredentialsError(f"{label}: printed nothing; {_SHAPE}")
    try:
        said: Any = msgspec.json.decode(output.strip())
    except (ValueError, msgspec.MsgspecError, RecursionError):
        raise CredentialsError(f"{label}: printed something else than JSON; {_SHAPE}") from None
    flat = _flat(said)
    if flat is None:
        raise CredentialsError(f"{label}: printed JSON that is no object; {_SHAPE}")
    found = {part: next((flat[name] for name in names if name in flat), None) for part, names in _NAMES.items()}
    return Found(checked_keys(found, label, _SHAPE), _expiry(flat, label))


def _flat(said: Any) -> dict[str, Any] | None:
    """Return one flat object, names in one spelling, `Response` and `Credentials` unpacked; None for no object."""
    if not isinstance(said, dict):
        return None
    flat: dict[str, Any] = {}
    for key, value in said.items():
        name = re.sub("[-_]", "", str(key)).lower()
        if name in ("response", "credentials") and isinstance(value, dict):
            flat |= _flat(value) or {}
        else:
            flat.setdefault(name, value)
    return flat


def _expiry(flat: Mapping[str, Any], label: str) -> float | None:
    given = next((flat[name] for name in _EXPIRES if flat.get(name) is not None), None)
    if given is None:
        return None
    try:
        if not isinstance(given, str):
            return checked_end(given)
        at = datetime.fromisoformat(given)
        if at.tzinfo is not None:
            return at.timestamp()
    except ValueError:
        pass
    expected = "UNIX seconds (not milliseconds, not in quotes) nor a time such as 2026-11-25T12:00:00Z"
    raise CredentialsError(f"{label}: expires_at is neither {expected}")
