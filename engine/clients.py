"""Engine, floor 3: the clients of a process, one for each identity and access point. Composition; sends nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from engine.client import Client

if TYPE_CHECKING:
    from engine.credentials import KeySource
    from engine.endpoints import Access
    from engine.model import Transport

Keyring = Mapping[str, Sequence["KeySource"]]
"""Account → the identities that sign for it, at least one; "" is the account of a job that names none."""


class Clients:
    """Made when first needed, and one each: what a client learns of clock and keys serves everybody."""

    def __init__(
        self,
        transport: Transport,
        keyring: Keyring,
        access: Access,
        *,
        timeout_s: float,
        request_client: str | None = None,
        offset_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`offset_s`: how far the server's clock is ahead, if that is known."""
        self._transport = transport
        self._keyring = keyring
        self._access = access
        self._timeout_s = timeout_s
        self._request_client = request_client
        self._offset_s = offset_s
        self._clock = clock
        self._known: dict[tuple[int, str], Client] = {}
        self._reading: dict[tuple[str, str], tuple[Client, ...]] = {}

    def signing(self, account: str, endpoints: Sequence[str]) -> Iterator[Client]:
        """Every identity of an account through every one of `endpoints`: its lanes."""
        for keys in self._keyring[account]:
            for endpoint in endpoints:
                yield self._client(keys, endpoint)

    def reading(self, account: str, region: str) -> Sequence[Client]:
        """Those that can read instances of an account in a region, the first first."""
        place = (account, region)
        found = self._reading.get(place)
        if found is None:
            # A region the job does not name (an instance is looked for): any access point passes the question on.
            endpoints = self._access.to(region) or self._access.every[:1]
            found = self._reading[place] = tuple(self.signing(account, endpoints))
        return found

    @property
    def offset_s(self) -> float:
        """How far the server's clock is ahead, as far as any client has learnt."""
        return max((client.offset_s for client in self._known.values()), key=abs, default=self._offset_s)

    def _client(self, keys: KeySource, endpoint: str) -> Client:
        client = self._known.get((id(keys), endpoint))
        if client is None:
            client = self._known[id(keys), endpoint] = Client(
                self._transport,
                keys,
                endpoint,
                timeout_s=self._timeout_s,
                request_client=self._request_client,
                offset_s=self._offset_s,
                clock=self._clock,
            )
        return client


def signers(keyring: Keyring) -> Callable[[str], int]:
    """How many identities sign for an account."""
    return lambda account: len(keyring[account])


def identity(keyring: Keyring) -> str:
    """Who a run acts as, for its journal: the labels of all its identities."""
    return ", ".join(dict.fromkeys(keys.identity for sources in keyring.values() for keys in sources))
