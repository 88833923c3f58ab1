"""Who the keys are, asked of STS (GetCallerIdentity). Best effort: nobody waits long, nothing fails.

Source: the STS page of GetCallerIdentity, 2018-08-13 (PY-COMMON). Every key may ask it, whatever its policies say.
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
"""How long it is asked."""
_MOST = 256
_UIN = re.compile(r"[0-9]{1,20}", re.ASCII)
"""AccountId is the uin of a main account, a number in text."""


class Identity(Struct, frozen=True, kw_only=True):
    """Whom keys belong to."""

    uin: str
    """The main account, which owns the instances."""
    sub_account: str
    """Whose quota it is: the user's uin, `role/ID` for every session of a role, `UIN:NAME` of a federated user."""
    arn: str
    """As the vendor writes it; a role's has the session's name in it."""
    kind: str
    """`CAMUser`, `CAMRole` or what else the vendor says."""

    @property
    def words(self) -> str:
        """For a person."""
        who = "the main account itself" if self.sub_account == self.uin else f"sub-account {self.sub_account}"
        return f"{who} of account {self.uin} ({self.arn})"


class Unidentified(Struct, frozen=True, kw_only=True):
    """Nobody knows whom the keys belong to."""

    why: str
    code: str | None = None
    """As of an answer of the API: a refusal of the keys says more than a network that is down."""


async def identify(network: Network, keys: Keys, *, limit_s: float = LIMIT_S) -> Identity | Unidentified:
    """Ask whose `keys` these are, for at most `limit_s` seconds. Never raises for what STS or the network does."""
    from engine.credentials.sts import ask_sts  # late: it is asked beside the first calls, and by no simulated run

    try:
        said = await ask_sts(network, "GetCallerIdentity", {}, keys=keys, limit_s=limit_s)
    except CredentialsError as error:
        return Unidentified(why=str(error), code=getattr(error, "code", None))
    return _read(said.data)


def _read(data: Mapping[str, Any]) -> Identity | Unidentified:
    """Any: the API's JSON."""
    uin, user, arn, kind = (_text(data.get(name)) for name in ("AccountId", "UserId", "Arn", "Type"))
    if not _UIN.fullmatch(uin) or not user:
        return Unidentified(why="GetCallerIdentity: answered without a number as AccountId, or without UserId")
    is_role = kind == "CAMRole" or ":assumed-role/" in arn
    return Identity(uin=uin, sub_account=f"role/{user.partition(':')[0]}" if is_role else user, arn=arn, kind=kind)


def _text(value: object) -> str:
    """A value fit for a journal and a terminal, or nothing."""
    fit = isinstance(value, str) and value.isprintable() and len(value) <= _MOST
    return str(value) if fit else ""
