"""How a run reaches the API, which keys sign for it, and where it gets new passwords."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from engine.api.actions import ACTIONS
from engine.api.endpoints import Access, is_loopback
from engine.cloud.clients import Reach, Signer
from engine.credentials import FixedKeys, KeySpec, NoKeys, Ways, open_keys
from engine.errors import CredentialsError, UsageError
from engine.inputs.job import password_spec
from engine.inputs.passwords import PasswordSource, open_passwords
from engine.model import AccountSpec, Keys, Place
from engine.operations.events import Tell, Warned, nobody

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.cloud.clients import Keyring
    from engine.cloud.wire import Wire
    from engine.credentials.network import Network
    from engine.inputs.settings import Settings
    from engine.journal import records
    from engine.operations.terms import Terms
    from engine.outside.trust import Trust


async def reach_of(
    frozen: records.RunSettings, settings: Settings, terms: Terms, *, purpose: str, tell: Tell | None = None
) -> Reach:
    """Return how a run of these `frozen` settings reaches the API; a simulated run needs none of the operator's keys.

    `settings` say where keys are found here. `purpose`, such as the run's id, is in the name of a role's session. What
    is odd about the keys goes to `tell`, or else to `terms.tell`. CredentialsError if no account has keys. An account
    without keys beside others fails only its own calls.
    """
    access, accounts = frozen.access, frozen.every_account
    if terms.simulate:
        keyring = {spec.name: [_simulated(spec.name)] for spec in accounts}
        return Reach(keyring=keyring, access=access, network=None, language=settings.language)
    settings.way_out.check()  # before anything is asked, and before a run exists
    network = network_of(settings, access, terms.wire)
    return Reach(
        keyring=await _open(accounts, settings, network, purpose, tell or terms.tell),
        access=access,
        network=network,
        way_out=settings.way_out,
        wire=terms.wire,
        language=settings.language,
    )


async def reach_of_worker(settings: Settings, terms: Terms) -> Reach:
    """Return the keys of a worker, and how it asks whose they are; CredentialsError if it has none.

    It signs for the calls of any account whose lanes are of their sub-accounts.
    """
    settings.way_out.check()
    access = settings.access(())
    network = network_of(settings, access, terms.wire)
    accounts = (AccountSpec(name="", profiles=settings.profiles),)
    return Reach(
        keyring=await _open(accounts, settings, network, "worker", terms.tell),
        access=access,
        network=network,
        way_out=settings.way_out,
        wire=terms.wire,
        language=settings.language,
    )


def _simulated(account: str) -> Signer:
    from engine.simulator import DEMO_SECRET_KEY, demo_secret_id

    label = f"simulator, {account}" if account else "simulator"
    return Signer(FixedKeys(Keys(secret_id=demo_secret_id(account), secret_key=DEMO_SECRET_KEY), label))


async def _open(
    accounts: Sequence[AccountSpec], settings: Settings, network: Network, purpose: str, tell: Tell
) -> Keyring:
    keyring: dict[str, list[Signer]] = {}
    failures: list[str] = []
    warnings: list[str] = []
    for account in accounts:
        signers = keyring[account.name] = []
        for spec in key_specs(account):
            try:
                opened = await open_keys(spec, os.environ, ways=ways_of(settings), network=network, purpose=purpose)
            except CredentialsError as error:
                failures.append(f"{account.name}: {error}" if account.name else str(error))
                signers.append(Signer(NoKeys(_named(account, spec), str(error))))
                continue
            warnings += opened.warnings
            signers.append(Signer(opened.source))
    for warning in dict.fromkeys(warnings):  # each once: most accounts share one environment
        tell(Warned(warning, always=True))
    if not any(signer.has_keys for signers in keyring.values() for signer in signers):
        raise CredentialsError("; ".join(failures))
    for name, signers in keyring.items():
        lost = [signer.keys for signer in signers if isinstance(signer.keys, NoKeys)]
        then = "nothing of this account can be sent" if len(lost) == len(signers) else "the others sign alone"
        for keys in lost:
            tell(Warned(f"{name + ': ' if name else ''}no keys, {then}: {keys.why}", always=True))
    return keyring


def _named(account: AccountSpec, spec: KeySpec) -> str:
    """Return the name, for a person, of a source of keys that could not be opened."""
    role = f"role {spec.role_arn}" if spec.role_arn else ""
    return " and ".join(part for part in (f"profile {spec.profile}" if spec.profile else "", role) if part) or (
        account.name or "default keys"
    )


def key_specs(account: AccountSpec) -> list[KeySpec]:
    """Return which keys sign for an account, one spec for each profile."""
    return [KeySpec(profile=profile, role_arn=account.role_arn) for profile in account.profiles or (None,)]


def ways_of(settings: Settings) -> Ways:
    """Return what config files say of credentials."""
    said = settings.credentials
    return Ways(command=said.command, role_arn=said.role_arn, duration_s=said.duration_s, metadata=said.metadata)


def network_of(settings: Settings, access: Access, wire: Wire) -> Network:
    """Return whom sources of keys ask: the site's STS and the metadata service, or a simulator in place of both."""
    from engine.credentials.network import METADATA, STS, Network

    simulator = access.every[0] if all(is_loopback(endpoint) for endpoint in access.every) else None
    return Network(
        open=lambda: wire.apart(settings.way_out),
        clock=wire.clock,
        sts=settings.credentials.sts or simulator or STS[settings.site],
        metadata=simulator or METADATA,
        language=settings.language,
    )


def passwords_of(frozen: records.RunSettings, action: str, trust: Trust, *, tell: Tell) -> PasswordSource | None:
    """Return where new passwords come from, by the run's settings; None for an action that takes none. `tell` guesses.

    CredentialsError for a source that cannot be used, also for one that only the undo of a red wave would ask.
    """
    source = password_source(frozen, trust, tell=tell)
    if not ACTIONS[action].needs_password:
        return None
    if source is None:
        raise UsageError(f"{action} needs new passwords; name their source in the job: passwords: {{command: […]}}")
    return source


def password_source(frozen: records.RunSettings, trust: Trust, *, tell: Tell = nobody) -> PasswordSource | None:
    """Return the source of new passwords that a run's settings name, ready to be asked; None if they name none.

    CredentialsError for a file that an untrusted user could have written, who would then know the passwords.
    """
    if frozen.passwords is None:
        return None
    spec = password_spec(frozen.passwords, Place("passwords"))
    with suppress(OSError):  # it is told where the file is read
        doubt = trust.doubt(Path(spec.file)) if spec.file else None
        if doubt is not None:
            raise CredentialsError(
                f"{spec.label}: is not believed, as {doubt.words}; copy it to a file of your own, {doubt.way_on}"
            )
    source = open_passwords(spec, os.environ)
    for warning in source.warnings:
        tell(Warned(warning, always=True))  # which password an account gets is nothing to be guessed quietly
    return source
