"""Door: the keys a run signs with, and where it gets new passwords."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from engine.actions import ACTIONS
from engine.cli.talk import warn
from engine.credentials import FixedKeys, KeySource, find_keys
from engine.errors import UsageError
from engine.job import password_spec
from engine.model import Keys, Place
from engine.passwords import PasswordSource, open_passwords

if TYPE_CHECKING:
    from engine import records


def keys_of(profile: str | None, *, simulated: bool) -> KeySource:
    """The keys a run signs with; a simulated one needs none of the operator's."""
    if simulated:
        from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY

        return FixedKeys(Keys(secret_id=DEMO_SECRET_ID, secret_key=DEMO_SECRET_KEY), "simulator")
    keys, warnings = asyncio.run(find_keys(profile, os.environ))
    for warning in warnings:
        warn(f"warning: {warning}")
    return keys


def passwords_of(frozen: records.RunSettings, action: str) -> PasswordSource | None:
    """Where new passwords come from, as the run's settings say; None for an action that takes none."""
    if frozen.passwords is None:
        if ACTIONS[action].needs_password:
            raise UsageError(f"{action} needs new passwords; name their source in the job: passwords: {{command: […]}}")
        return None
    return open_passwords(password_spec(frozen.passwords, Place("passwords")), os.environ)
