"""Keys of a role: by AssumeRole with the keys of another source, or by a web identity of TKE (PY-COMMON)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from engine.api.names import ROLE_PATTERN
from engine.api.verdicts import Cure, rule
from engine.credentials.files import read_private
from engine.credentials.network import RefusedError
from engine.credentials.source import DURATION_S, FetchedKeys, Found
from engine.credentials.sts import ask_sts, session_of
from engine.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.credentials.network import Network
    from engine.credentials.source import KeySource
    from engine.model import Keys

LONGEST_S = 43_200
NEARLY_OVER_S = 60.0
"""Keys with fewer seconds left are refreshed, if they can be, before they ask for a role's keys."""
TKE = ("TKE_REGION", "TKE_PROVIDER_ID", "TKE_WEB_IDENTITY_TOKEN_FILE", "TKE_ROLE_ARN")
_SESSION = re.compile(r"[^\w+=,.@-]", re.ASCII)


def session_name(given: str | None, purpose: str) -> str:
    """Return the name of a role session, with the run's id. The vendor's audit log shows it with what was done."""
    return _SESSION.sub("_", f"{given or 'acctops'}-{purpose}")[:128]


def role_words(role_arn: str, where: str = "") -> str:
    """Return `NAME of UIN` of a role's ARN; CredentialsError, with the place `where`, if it is no ARN of a role."""
    found = re.fullmatch(ROLE_PATTERN, role_arn)
    if found is None:
        expected = "expected qcs::cam::uin/UIN:roleName/NAME, as the CAM console shows it"
        raise CredentialsError(f"{where + ': ' if where else ''}{role_arn[:100]!r} is no role: {expected}")
    return f"{found[2]} of {found[1]}"


def assumed_keys(base: KeySource, role_arn: str, session: str, network: Network, duration_s: int) -> FetchedKeys:
    """Return a source of keys of `role_arn`, assumed with those of `base`, which is refreshed if necessary."""
    words = role_words(role_arn)
    label = f"role {words}, through {base.label}"

    async def fetch() -> Found:
        if isinstance(base, FetchedKeys) and base.is_empty:
            await base.open()
        elif base.refreshable and base.expires_at is not None and base.expires_at - network.clock() < NEARLY_OVER_S:
            try:
                await base.refresh()
            except CredentialsError:
                if base.expires_at <= network.clock():
                    raise
        keys = base.get()
        try:
            return await _assume(keys)
        except RefusedError as refused:
            if not (base.refreshable and _is_of_keys(refused.code)):
                raise CredentialsError(f"{label}: {refused}") from None
            said = refused
        await base.refresh()
        if base.get() == keys:
            raise CredentialsError(f"{label}: {said}; {base.label} has no others")
        try:
            return await _assume(base.get())
        except RefusedError as refused:
            raise CredentialsError(f"{label}: {refused}") from None

    async def _assume(keys: Keys) -> Found:
        parameters = {"RoleArn": role_arn, "RoleSessionName": session, "DurationSeconds": duration_s}
        said = await ask_sts(network, "AssumeRole", parameters, keys=keys)
        return session_of(said, label, network.clock())

    return FetchedKeys(label, f"role {words.replace('/', '.')}", fetch)


def _is_of_keys(code: str | None) -> bool:
    from engine.model import Answer

    answer = Answer(http=200, request_id=None, code=code, message=None)
    return code is not None and rule("AssumeRole", answer, refreshable_keys=True).cure is Cure.KEYS


def web_identity_keys(environ: Mapping[str, str], session: str, network: Network) -> FetchedKeys | None:
    """Return a source of a TKE pod's role, which reads the token at each refresh; None unless all variables are set."""
    region, provider, token_file, role_arn = (environ.get(name, "").strip() for name in TKE)
    if not (region and provider and token_file and role_arn):
        return None
    words = role_words(role_arn, TKE[3])
    label = f"TKE web identity, role {words}"

    async def fetch() -> Found:
        token = read_private(Path(token_file), TKE[2]).text.strip()
        if not token:
            raise CredentialsError(f"{label}: {TKE[2]}: {token_file}: is empty; is the token mounted into this pod?")
        parameters = {
            "ProviderId": provider,
            "WebIdentityToken": token,
            "RoleArn": role_arn,
            "RoleSessionName": session,
            "DurationSeconds": DURATION_S,
        }
        try:
            said = await ask_sts(network, "AssumeRoleWithWebIdentity", parameters, keys=None, region=region)
        except RefusedError as refused:
            raise CredentialsError(f"{label}: {refused}") from None
        return session_of(said, label, network.clock())

    return FetchedKeys(label, f"role {words.replace('/', '.')}", fetch)
