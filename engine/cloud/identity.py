"""Asks STS to whom keys belong (GetCallerIdentity). Best effort: nobody waits long, and no error is raised.

Source: the STS page of GetCallerIdentity, 2018-08-13 (PY-COMMON). Every key may ask this, whatever its policies say.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from engine.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.credentials.network import Network
    from engine.model import Keys

LIMIT_S = 3.0
"""Seconds for the question."""
_MOST = 256
_UIN = re.compile(r"[0-9]{1,20}", re.ASCII)
"""AccountId is the uin of a main account: a number, as text."""


class Identity(Struct, frozen=True, kw_only=True):
    """The account and user to whom keys belong."""

    uin: str
    """The main account, which owns the instances."""
    sub_account: str
    """Owner of the quota: the user's uin, `role/ID` for every session of a role, `UIN:NAME` of a federated user."""
    arn: str
    """The vendor's ARN; that of a role has the session's name in it."""
    kind: str
    """The vendor's word: `CAMUser`, `CAMRole` or another."""

    @property
    def words(self) -> str:
        """The identity as a person reads it."""
        who = "the main account itself" if self.sub_account == self.uin else f"sub-account {self.sub_account}"
        return f"{who} of account {self.uin} ({self.arn})"


class Unidentified(Struct, frozen=True, kw_only=True):
    """The owner of the keys is not known."""

    why: str
    code: str | None = None
    """Code of STS's answer, or one of ours: a refusal of the keys says more than a network that is down."""


async def identify(network: Network, keys: Keys, *, limit_s: float = LIMIT_S) -> Identity | Unidentified:
    """Ask whose `keys` these are, for at most `limit_s` seconds. No failure of STS or the network raises."""
    from engine.credentials.sts import ask_sts  # late: it runs beside the first calls; simulated runs never need it

    try:
        said = await ask_sts(network, "GetCallerIdentity", {}, keys=keys, limit_s=limit_s)
    except CredentialsError as error:
        return Unidentified(why=str(error), code=getattr(error, "code", None))
    return _read(said.data)


def _read(data: Mapping[str, Any]) -> Identity | Unidentified:
    """Return the identity in an answer, or why there is none. Any: the API's JSON."""
    uin, user, arn, kind = (_text(data.get(name)) for name in ("AccountId", "UserId", "Arn", "Type"))
    if not _UIN.fullmatch(uin) or not user:
        return Unidentified(why="GetCallerIdentity: answered without a number as AccountId, or without UserId")
    is_role = kind == "CAMRole" or ":assumed-role/" in arn
    return Identity(uin=uin, sub_account=f"role/{user.partition(':')[0]}" if is_role else user, arn=arn, kind=kind)


def _text(value: object) -> str:
    """Return `value` if a journal and a terminal can take it; else an empty text."""
    fit = isinstance(value, str) and value.isprintable() and len(value) <= _MOST
    return str(value) if fit else ""
