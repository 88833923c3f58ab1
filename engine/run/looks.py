"""Readings that decide about a call. Once the session stops, they end with its drain."""

from __future__ import annotations

import asyncio

from engine.api.codes import NO_ANSWER
from engine.cloud.inventory import Inventory
from engine.model import Reading, Where
from engine.run.stopping import Stopping


class Looks:
    """The part of a session that reads accounts, at most until the session's drain ends."""

    def __init__(self, inventory: Inventory, stopping: Stopping) -> None:
        self._inventory = inventory
        self._until: float | None = None
        self._bounds: set[asyncio.Timeout] = set()
        stopping.readers.append(self)

    async def read(self, where: Where, *users: str, purpose: str) -> Reading:
        """Return how the accounts `users` of an instance are; a reading without accounts if the drain ends first."""
        try:
            async with asyncio.timeout_at(self._until) as bound:
                self._bounds.add(bound)
                return await self._inventory.read(where, purpose=purpose, users=users)
        except TimeoutError:
            return Reading(accounts=None, code=NO_ANSWER, message="not read before the drain ended")
        finally:
            self._bounds.discard(bound)

    def drain(self, until: float) -> None:
        """End the readings of now and later by this loop time; a later call may move it."""
        self._until = until
        for bound in self._bounds:
            if not bound.expired():
                bound.reschedule(until)
