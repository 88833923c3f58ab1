"""Door: the keys a run signs with, and where it gets new passwords."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from engine.actions import ACTIONS
from engine.cli.talk import warn
from engine.clients import Reach, Signer
from engine.credentials import FixedKeys, Ways, find_keys
from engine.endpoints import Access, is_loopback
from engine.errors import UsageError
from engine.job import password_spec
from engine.model import Keys, Place
from engine.passwords import PasswordSource, open_passwords

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine import records
    from engine.credentials.network import Network
    from engine.model import Transport
    from engine.settings import Settings


def reach_of(frozen: records.RunSettings, settings: Settings, *, simulated: bool, purpose: str = "acctops") -> Reach:
    """How a run of these `frozen` settings reaches the API; a simulated one needs none of the operator's keys.

    `settings` say where keys are to be had here; `purpose`, the run's id, is in the name of a role's session.
    """
    access = frozen.access
    if simulated:
        from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY

        keys = FixedKeys(Keys(secret_id=DEMO_SECRET_ID, secret_key=DEMO_SECRET_KEY), "simulator")
        return Reach(keyring={"": [Signer(keys)]}, access=access, network=None)
    network = network_of(settings, access)
    return Reach(
        keyring={"": asyncio.run(_open(frozen.profiles, settings, network, purpose))}, access=access, network=network
    )


async def _open(profiles: Sequence[str], settings: Settings, network: Network, purpose: str) -> list[Signer]:
    signers = []
    for profile in profiles or (None,):
        keys, warnings = await find_keys(profile, os.environ, ways=ways_of(settings), network=network, purpose=purpose)
        for warning in warnings:
            warn(f"warning: {warning}")
        signers.append(Signer(keys))
    return signers


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
