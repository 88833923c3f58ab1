"""All calls of a session that wait for a lane, by route; and the event that tells lanes to look again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from engine.run.callqueue import CallQueue

if TYPE_CHECKING:
    from engine.model import Where


class CallQueues:
    """All calls of a run that are not in flight, not backing off and not settled, by route."""

    def __init__(
        self, instances: Sequence[Where], waiting: Iterable[int], routes: Sequence[int], *, per_instance: int
    ) -> None:
        """Take `instances` and `routes` of all calls, by plan index; `waiting` are the calls to send, in plan order."""
        self._routes = routes
        by_route: list[list[int]] = [[] for _ in range(max(routes, default=0) + 1)]
        for index in waiting:
            by_route[routes[index]].append(index)
        self.wake = asyncio.Event()
        """Set when a call may have become eligible, or no call can come any more."""
        self._queues = [CallQueue(instances, calls, per_instance=per_instance) for calls in by_route]

    def of(self, index: int) -> CallQueue:
        """Return the queue of call `index`."""
        return self._queues[self._routes[index]]

    def take(self, route: int, now: float, *, retries_only: bool = False) -> int | None:
        """Return the next call of a route, as `CallQueue.take` does."""
        return self._queues[route].take(now, retries_only=retries_only)

    def waiting(self, route: int) -> int:
        """Return how many calls of a route wait here."""
        return len(self._queues[route])

    def wake_at(self, route: int) -> float | None:
        """Return when the next instance of a route that is held back comes free; None if none is held back."""
        return self._queues[route].wake_at()

    def close(self, route: int) -> list[int]:
        """Close the queue of a route that has no lane left; return the calls that wait."""
        return self._queues[route].close()

    def __len__(self) -> int:
        """Return how many calls wait here."""
        return sum(map(len, self._queues))

    @property
    def fresh(self) -> int:
        """How many calls wait here that are not retries."""
        return sum(queue.fresh for queue in self._queues)

    def sick_since_of(self, where: Where) -> float | None:
        """Return the time since which an instance has taken no call; None while it is well."""
        found = (queue.sick_since_of(where) for queue in self._queues)
        return next((since for since in found if since is not None), None)

    def well_waiting(self) -> bool:
        """Return whether calls wait here for an instance that is not sick."""
        return any(queue.well_waiting() for queue in self._queues)

    def sick(self) -> set[Where]:
        """Return the instances that have taken no call since they refused one for now."""
        return {where for queue in self._queues for where in queue.sick()}
