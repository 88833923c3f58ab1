"""The clients of a process, one for each identity and access point. Only `ask_whose` sends anything."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, field

from engine.api.actions import LANGUAGE
from engine.api.verdicts import RequestIds
from engine.cloud.client import Client
from engine.cloud.identity import Identity, identify
from engine.cloud.proxy import NO_DETOUR, WayOut
from engine.credentials import NoKeys
from engine.errors import CredentialsError

if TYPE_CHECKING:
    from engine.api.endpoints import Access
    from engine.cloud.wire import Wire
    from engine.credentials import KeySource
    from engine.credentials.network import Network
    from engine.journal.ledger import Ledger
    from engine.model import Transport


class Signer:
    """One identity that signs for an account: the source of its keys, and their owner once that is known."""

    __slots__ = ("keys", "who")

    def __init__(self, keys: KeySource, who: Identity | None = None) -> None:
        self.keys = keys
        self.who = who

    def __repr__(self) -> str:
        return f"Signer({self.identity})"

    @property
    def has_keys(self) -> bool:
        """Whether it has keys to sign with."""
        return not isinstance(self.keys, NoKeys)

    @property
    def identity(self) -> str:
        """Name of its quota: the sub-account, or the source of its keys while their owner is not known."""
        return self.who.sub_account if self.who is not None else self.keys.identity


def quota_owner(signer: Signer, salt: str) -> str:
    """Return by which name the workers of a database know the quota of a signer's keys.

    It is the sub-account, as STS says. Where STS does not answer, it is a fingerprint of the secret id, keyed with the
    `salt` of the database: it tells keys apart, and nobody finds the id by it.
    """
    return signer.who.sub_account if signer.who is not None else key_owner(signer, salt)


def key_owner(signer: Signer, salt: str) -> str:
    """Return the keyed fingerprint of a signer's secret id; `quota_owner` has the reason."""
    return "key " + hmac.new(salt.encode(), signer.keys.get().secret_id.encode(), "sha256").hexdigest()[:24]


Keyring = Mapping[str, Sequence[Signer]]
"""Account → the identities that sign for it, at least one. A job that names no account has the account ""."""


class Reach(Struct, frozen=True, kw_only=True):
    """How a run reaches the API: who signs, which access points it calls, and where it asks whose the keys are."""

    keyring: Keyring
    access: Access
    network: Network | None
    """Where to ask whose the keys are; None: nobody is asked, as in a run in memory."""
    way_out: WayOut = NO_DETOUR
    """The proxy, and the certificates to trust."""
    language: str = LANGUAGE
    """Language of the server's messages."""
    wire: Wire | None = None
    """The transport that the command uses for all its requests, if it has one."""
    known: RequestIds = field(default_factory=RequestIds)
    """The request ids of all answers to this command: planning, sending and reading share them."""


class Clients:
    """The clients of a process. Each is made when it is first needed, and all users share what it learns."""

    def __init__(
        self,
        transport: Transport,
        reach: Reach,
        *,
        timeout_s: float,
        request_client: str | None = None,
        offset_s: float = 0.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Make no client yet; `offset_s` is how many seconds the server's clock is ahead, if that is known.

        `clock` signs; without it that of the wire.
        """
        self._transport = transport
        self._keyring = reach.keyring
        self._access = reach.access
        self._language = reach.language
        self._ids = reach.known
        self._timeout_s = timeout_s
        self._request_client = request_client
        self._offset_s = offset_s
        self._clock = clock or (reach.wire.clock if reach.wire is not None else time.time)
        self._known: dict[tuple[int, str], Client] = {}
        self._reading: dict[tuple[str, str], tuple[Client, ...]] = {}

    def signing(self, account: str, endpoints: Sequence[str]) -> Iterator[Client]:
        """Yield a client for each identity of an account at each of `endpoints`. These are the account's lanes."""
        for signer in self._keyring[account]:
            for endpoint in endpoints:
                yield self._client(signer, endpoint)

    def reading(self, account: str, region: str) -> Sequence[Client]:
        """Return the clients that can read instances of an account in a region, the preferred one first."""
        place = (account, region)
        found = self._reading.get(place)
        if found is None:
            # A search may ask a region that the job does not name: any access point serves that region.
            endpoints = self._access.to(region) or self._access.every[:1]
            found = self._reading[place] = tuple(self.signing(account, endpoints))
        return found

    @property
    def offset_s(self) -> float:
        """Seconds by which the server's clock is ahead: the largest offset that a client has learnt."""
        return max((client.offset_s for client in self._known.values()), key=abs, default=self._offset_s)

    @property
    def ahead_s(self) -> tuple[float, ...]:
        """Seconds by which the server's clock was ahead of ours, by the last `Date` that each client got."""
        return tuple(client.ahead_s for client in self._known.values() if client.ahead_s is not None)

    def _client(self, signer: Signer, endpoint: str) -> Client:
        client = self._known.get((id(signer), endpoint))
        if client is None:
            client = self._known[id(signer), endpoint] = Client(
                self._transport,
                signer.keys,
                endpoint,
                identity=signer.identity,
                timeout_s=self._timeout_s,
                request_client=self._request_client,
                offset_s=self._offset_s,
                clock=self._clock,
                language=self._language,
                known=self._ids,
            )
        return client


def signers(keyring: Keyring) -> Callable[[str], int]:
    """Return a function: account → how many identities with keys sign for it."""
    return lambda account: sum(signer.has_keys for signer in keyring[account])


_AND = "; "
_ANDS = (_AND, ", ")
"""Separators of the sources of a run in its journal; older journals have commas."""


def identity(keyring: Keyring) -> str:
    """Return the sources of all keys of a run, for its journal. Notes there tell whose the keys are, once known."""
    return _AND.join(dict.fromkeys(signer.keys.identity for signer in every_signer(keyring)))


def is_as_before(keyring: Keyring, then: str, later: Collection[str], accounts: Iterable[str]) -> bool:
    """Return whether a run already had all sources that sign for `accounts`: `then` at its start, or `later`.

    A source that has no keys now acts for nobody, and does not count.
    """
    known = {source for between in _ANDS for source in then.split(between)} | set(later)
    now = (signer.keys for account in accounts for signer in keyring.get(account, ()) if signer.has_keys)
    return all(keys.identity in known or keys.label in known for keys in now)


def every_signer(keyring: Keyring) -> Iterator[Signer]:
    """Yield the signers that have keys."""
    return (signer for signers in keyring.values() for signer in signers if signer.has_keys)


def is_known(keyring: Keyring, uins: Mapping[str, str]) -> bool:
    """Return whether the owners of every account's keys are known, both those of the run (`uins`) and those of now."""
    return all(
        bool(uins.get(account)) and all(signer.who is not None for signer in signers if signer.has_keys)
        for account, signers in keyring.items()
    )


def strangers(keyring: Keyring, uins: Mapping[str, str]) -> list[tuple[Signer, str]]:
    """Return the signers whose keys are of another cloud account than `uins` name, each with words that say so."""
    return [
        (
            signer,
            f"the run acted {f'for {account} ' if account else ''}on account {uins[account]}, these keys are of "
            f"{signer.who.uin}",
        )
        for account, signers in keyring.items()
        for signer in signers
        if signer.who is not None and signer.who.uin != uins.get(account, signer.who.uin)
    ]


def refuse_strangers(keyring: Keyring, uins: Mapping[str, str]) -> None:
    """Raise CredentialsError if keys are known to be of another cloud account than those that the run used."""
    found = strangers(keyring, uins)
    if found:
        words = "; ".join(dict.fromkeys(words for _, words in found))
        raise CredentialsError(
            f"{words}; what goes back to a run is done as the same account (--profile); else run the job anew"
        )


def check_identity(keyring: Keyring, ledger: Ledger, *, is_asked: bool = False) -> None:
    """Raise CredentialsError if these keys do not belong to the identity that the run used.

    If the run knew its cloud accounts, they decide once STS `is_asked`; before that such a run passes. Else the source
    of the keys decides.
    """
    refuse_strangers(keyring, ledger.uins)
    now = identity(keyring)
    acted_on = ledger.acted_on()
    may_be_known = all(ledger.uins.get(account) for account in acted_on) and not is_asked
    as_before = is_as_before(keyring, ledger.run.identity, ledger.sources(), acted_on)
    if as_before or may_be_known or is_known(keyring, ledger.uins):
        return
    raise CredentialsError(
        f"the run used the keys of {ledger.run.identity}, these are of {now}; what it changed is undone "
        "with the same ones (--profile)"
    )


async def ask_whose(reach: Reach, *, limit_s: float) -> None:
    """Ask STS whose keys these are, if it is not known. What STS does not tell within `limit_s` stays unknown."""
    network = reach.network
    if network is None:
        return

    async def ask(signer: Signer) -> None:
        found = await identify(network, signer.keys.get(), limit_s=limit_s)
        if isinstance(found, Identity):
            signer.who = found

    unknown = [signer for signer in every_signer(reach.keyring) if signer.who is None]
    await asyncio.gather(*map(ask, unknown))
