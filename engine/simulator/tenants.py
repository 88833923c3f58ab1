"""No I/O. Cloud accounts from a file: keys with their owners, and roles.

    keys:
      - {id: AKIDONE, secret: secret-one, uin: "100000000001", user: "100000000011"}
      - {id: AKIDTWO, secret: secret-two, uin: "100000000002", denied: [LockAccount]}
    roles:
      - {name: acctops, uin: "100000000002", longest: 20, trusted: ["100000000011"]}
      - {name: cvm, metadata: true}                       # the role of the instance this simulator's metadata is of
      - {name: pod, provider: cls-1, tokens: [a-web-identity-token]}

`uin` is the main account, whose instances the key sees; `user` is the sub-account, whose quotas it uses. A key may have
a `token` and an end (`expires`, UNIX seconds). A role's sessions live `longest` seconds at most. The `trusted`
sub-accounts may assume it; without `trusted` everybody may.
"""

from __future__ import annotations

import msgspec

from engine.simulator import documents
from engine.simulator.sts import LONGEST_S, KeyRecord, Role

MAX_CHARS = 1 << 20


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    secret: str
    uin: str = ""
    user: str = ""
    token: str | None = None
    expires: float | None = None
    denied: frozenset[str] = frozenset()


class _Role(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    uin: str = ""
    longest: int = LONGEST_S
    trusted: frozenset[str] | None = None
    denied: frozenset[str] = frozenset()
    metadata: bool = False
    provider: str = ""
    tokens: frozenset[str] = frozenset()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[_Key, ...] = ()
    roles: tuple[_Role, ...] = ()


class Tenants(msgspec.Struct, frozen=True):
    """The keys and roles that a world knows."""

    keys: dict[str, KeyRecord]
    roles: tuple[Role, ...]
    metadata_role: Role | None


def parse_tenants(text: str) -> Tenants:
    """Return the accounts of a YAML or JSON text; DocumentError says what is wrong and where."""
    data = documents.load(text, what="accounts", max_chars=MAX_CHARS)
    try:
        said = msgspec.convert(data, _File)
    except msgspec.ValidationError as error:
        raise documents.DocumentError([f"accounts: {str(error).replace('`$.', '`')}"]) from None
    bound = [role.name for role in said.roles if role.metadata]
    names = [key.id for key in said.keys] + [f"{role.uin}/{role.name}" for role in said.roles]
    problems = [f"accounts: {name} stands twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if len(bound) > 1:
        problems.append(f"accounts: {', '.join(bound)}: an instance has one role, so one has `metadata: true`")
    if problems:
        raise documents.DocumentError(problems)
    roles = {role: _role(role) for role in said.roles}
    return Tenants(
        keys={key.id: _key(key) for key in said.keys},
        roles=tuple(roles.values()),
        metadata_role=next((made for role, made in roles.items() if role.metadata), None),
    )


def _key(key: _Key) -> KeyRecord:
    return KeyRecord(
        secret_key=key.secret,
        token=key.token,
        identity=key.user,
        uin=key.uin,
        expires_at=key.expires,
        denied=key.denied,
    )


def _role(role: _Role) -> Role:
    return Role(
        name=role.name,
        uin=role.uin,
        trusted=role.trusted,
        longest_s=role.longest,
        denied=role.denied,
        provider=role.provider,
        tokens=set(role.tokens),
    )
