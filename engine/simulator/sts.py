"""No I/O, no clock; randomness is an argument. Callers, roles, temporary keys: STS and the metadata service.

It follows the pages of STS 2018-08-13 (AssumeRole, GetCallerIdentity), and what the vendor's clients read from the
metadata service. No page says whether sessions of one role share a quota (CN-RATE): here they do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from engine.simulator.catalog import ActionSpec, Parameter
from engine.simulator.wire import Refusal

VERSION = "2018-08-13"
SERVICE = "sts"
UNSIGNED = "AssumeRoleWithWebIdentity"
"""The only action without a signature: its token is the credential."""
METADATA_ACTION = "Metadata"
"""Name of a request to the metadata service in the fault script and the audit."""
METADATA_PATH = "/latest/meta-data/cam/security-credentials/"
LONGEST_S = 43_200
DEFAULT_S = 7_200
OWN_UIN = "100000000001"
"""Main account of a key that has no `uin`."""

_SESSION = {
    "RoleArn": Parameter(str, required=True),
    "RoleSessionName": Parameter(str, required=True),
    "DurationSeconds": Parameter(int),
    "Policy": Parameter(str),
}
ACTIONS: Mapping[str, ActionSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            ActionSpec("AssumeRole", 600, _SESSION),
            ActionSpec(
                UNSIGNED,
                80,
                {
                    **_SESSION,
                    "ProviderId": Parameter(str, required=True),
                    "WebIdentityToken": Parameter(str, required=True),
                },
            ),
            ActionSpec("GetCallerIdentity", 20, {}),
        )
    }
)
_SESSION_NAME = re.compile(r"[\w+=,.@-]{2,128}", re.ASCII)


def owner(uin: str) -> str:
    """Return a main account as instances name theirs: empty for `OWN_UIN`."""
    return "" if uin == OWN_UIN else uin


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """An API key that the world accepts."""

    secret_key: str
    token: str | None = None
    """Session token of a temporary key; every request must have it."""
    identity: str = ""
    """The sub-account that owns the key: keys of one identity share its quotas. Empty: the key is its own identity."""
    uin: str = ""
    """The main account whose instances the key sees. Empty: `OWN_UIN`, which owns all instances without a uin."""
    expires_at: float | None = None
    """UNIX time, by the server's clock, from which the key is refused."""
    denied: frozenset[str] = frozenset()
    """Actions that CAM denies to the key."""
    role: str = ""
    """`ROLE_ID:SESSION_NAME` if the key is of a role's session."""

    def __repr__(self) -> str:
        return f"KeyRecord(identity={self.identity!r}, …)"


class Caller(NamedTuple):
    """Whose key signed a request."""

    secret_id: str
    record: KeyRecord

    @property
    def identity(self) -> str:
        """The identity whose quotas the caller's requests count against."""
        return self.record.identity or self.secret_id


NOBODY = Caller("", KeyRecord(secret_key=""))
"""The caller of an unsigned request."""


@dataclass(slots=True, kw_only=True)
class Role:
    """A CAM role. Callers may change it between requests."""

    name: str
    uin: str = ""
    trusted: frozenset[str] | None = None
    """Identities that may assume it; None: everybody."""
    longest_s: int = LONGEST_S
    """Longest life of a session in seconds, whatever the request asks for."""
    denied: frozenset[str] = frozenset()
    """Actions that CAM denies to its sessions."""
    provider: str = ""
    """Identity provider whose tokens let a caller assume it; empty: none."""
    tokens: set[str] = field(default_factory=set)
    """Web identity tokens that the provider accepts at the moment."""

    @property
    def arn(self) -> str:
        """The role as AssumeRole names it."""
        return f"qcs::cam::uin/{self.uin or OWN_UIN}:roleName/{self.name}"


class Issuer:
    """The part of a world that issues temporary keys; the world accepts them from then on."""

    def __init__(self, keys: dict[str, KeyRecord], roles: tuple[Role, ...], bound: Role | None, rng: Random) -> None:
        """Take `bound`, the role of the instance that this world's metadata service belongs to; None: it has none."""
        self.roles = {role.arn: role for role in (*roles, *((bound,) if bound is not None else ()))}
        self.bound = bound
        self._keys = keys
        self._rng = rng
        self._count = 0
        self._metadata: tuple[float, dict[str, Any]] | None = None

    def answer(self, spec: ActionSpec, parameters: Mapping[str, Any], caller: Caller, clock: float) -> Any:
        """Return the answer of STS: a `Response` object, or a Refusal. Any: JSON."""
        if spec.name == "GetCallerIdentity":
            return _identity_of(caller)
        role = self.roles.get(parameters["RoleArn"])
        if role is None:
            return Refusal("ResourceNotFound.RoleNotFound", "The role does not exist.")
        if _SESSION_NAME.fullmatch(parameters["RoleSessionName"]) is None:
            return Refusal("InvalidParameter.ParamError", "RoleSessionName must be 2-128 of [\\w+=,.@-].")
        duration = parameters.get("DurationSeconds", DEFAULT_S)
        if not 0 < duration <= LONGEST_S:
            return Refusal("InvalidParameter.OverTimeError", "DurationSeconds is out of range.")
        if spec.name == UNSIGNED:
            if not role.provider or parameters["ProviderId"] != role.provider:
                return Refusal("ResourceNotFound.RoleNotFound", "The identity provider does not exist.")
            if parameters["WebIdentityToken"] not in role.tokens:
                return Refusal("InvalidParameter.WebIdentityTokenError", "The web identity token is not valid.")
        elif role.trusted is not None and caller.identity not in role.trusted:
            return Refusal("UnauthorizedOperation", "You are not authorized to assume this role.")
        return self._session(role, parameters["RoleSessionName"], min(duration, role.longest_s), clock)

    def metadata(self, path: str, clock: float) -> bytes | None:
        """Return what the metadata service answers about the instance's role; None for HTTP 404."""
        name = path.removeprefix(METADATA_PATH)
        if self.bound is None or name not in ("", self.bound.name):
            return None
        if not name:
            return self.bound.name.encode()
        life_s = min(DEFAULT_S, self.bound.longest_s)
        # The service gives the same keys out, and renews them when a third of their life is left.
        if self._metadata is None or self._metadata[0] - clock < life_s / 3:
            session = self._session(self.bound, "instance", life_s, clock)
            self._metadata = (session["ExpiredTime"], session)
        said = self._metadata[1]
        flat = {**said["Credentials"], "ExpiredTime": said["ExpiredTime"], "Expiration": said["Expiration"]}
        return msgspec.json.encode({**flat, "Code": "Success"})

    def _session(self, role: Role, session: str, life_s: float, clock: float) -> dict[str, Any]:
        self._count += 1
        expires = int(clock + life_s)
        secret_id = f"AKIDtmp{self._count:06}{self._rng.getrandbits(64):016x}"
        token = f"{self._rng.getrandbits(256):064x}"
        record = KeyRecord(
            secret_key=f"{self._rng.getrandbits(128):032x}",
            token=token,
            identity=f"role/{role.name}",
            uin=role.uin,
            expires_at=expires,
            denied=role.denied,
            role=f"{role.name}:{session}",
        )
        self._keys[secret_id] = record
        return {
            "Credentials": {"Token": token, "TmpSecretId": secret_id, "TmpSecretKey": record.secret_key},
            "ExpiredTime": expires,
            "Expiration": datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def _identity_of(caller: Caller) -> dict[str, Any]:
    """Return the answer of GetCallerIdentity: a user by its uin, a role by `roleId:roleSessionName`."""
    record = caller.record
    uin = record.uin or OWN_UIN
    if record.role:
        arn = f"qcs::sts:{uin}:assumed-role/{record.role.replace(':', '/')}"
        return {"Arn": arn, "AccountId": uin, "UserId": record.role, "PrincipalId": uin, "Type": "CAMRole"}
    user = record.identity or uin
    return {
        "Arn": f"qcs::cam::uin/{uin}:uin/{user}",
        "AccountId": uin,
        "UserId": user,
        "PrincipalId": user,
        "Type": "CAMUser",
    }
