"""Door: the keys a run signs with, and where it gets new passwords."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from engine.actions import ACTIONS
from engine.cli.talk import warn
from engine.credentials import FixedKeys, KeySource, Ways, find_keys
from engine.endpoints import Access, is_loopback
from engine.errors import UsageError
from engine.job import password_spec
from engine.model import Keys, Place
from engine.passwords import PasswordSource, open_passwords

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine import records
    from engine.clients import Keyring
    from engine.credentials.network import Network
    from engine.model import Transport
    from engine.settings import Settings


def keyring_of(
    profiles: Sequence[str], *, simulated: bool, settings: Settings, access: Access, purpose: str = "acctops"
) -> Keyring:
    """The keys a run signs with; a simulated one needs none of the operator's.

    `purpose`, the run's id, is in the name of a role's session. `access`: where the run calls.
    """
    if simulated:
        from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY

        return {"": [FixedKeys(Keys(secret_id=DEMO_SECRET_ID, secret_key=DEMO_SECRET_KEY), "simulator")]}
    return {"": asyncio.run(_open(profiles, settings, network_of(settings, access), purpose))}


async def _open(profiles: Sequence[str], settings: Settings, network: Network, purpose: str) -> list[KeySource]:
    sources = []
    for profile in profiles or (None,):
        keys, warnings = await find_keys(profile, os.environ, ways=ways_of(settings), network=network, purpose=purpose)
        for warning in warnings:
            warn(f"warning: {warning}")
        sources.append(keys)
    return sources


def ways_of(settings: Settings) -> Ways:
    """What config files say of credentials."""
    said = settings.credentials
    return Ways(command=said.command, role_arn=said.role_arn, duration_s=said.duration_s, metadata=said.metadata)


def network_of(settings: Settings, access: Access) -> Network:
    """Whom sources of keys ask: the site's STS and the metadata service, or a simulator that stands for both."""
    from engine.credentials.network import METADATA, STS, Network

    simulator = access.every[0] if all(is_loopback(endpoint) for endpoint in access.every) else None
    return Network(
        open=_open_transport,
        sts=settings.credentials.sts or simulator or STS[settings.site],
        metadata=simulator or METADATA,
    )


def _open_transport() -> Transport:
    from engine.cli.survey import open_transport

    return open_transport(None, 2)


def passwords_of(frozen: records.RunSettings, action: str) -> PasswordSource | None:
    """Where new passwords come from, as the run's settings say; None for an action that takes none."""
    if frozen.passwords is None:
        if ACTIONS[action].needs_password:
            raise UsageError(f"{action} needs new passwords; name their source in the job: passwords: {{command: […]}}")
        return None
    return open_passwords(password_spec(frozen.passwords, Place("passwords")), os.environ)
