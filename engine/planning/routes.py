"""Which lanes may take which calls. No I/O.

A lane is one quota: an identity, an action, an access point (CN-RATE). A call is not tied to one lane. Calls of one
account that may go through the same access points share a route: the same lanes can take them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from engine.api.endpoints import Access
    from engine.model import Call


class Route(Struct, frozen=True):
    """The account and access points of calls that the same lanes can take."""

    account: str
    endpoints: tuple[str, ...]
    """URLs; each of them serves these calls."""

    def lanes(self, signers: int) -> int:
        """Return how many lanes the route has if `signers` identities sign for its account."""
        return len(self.endpoints) * max(1, signers)


class Routes(Struct, frozen=True):
    """The routes of a run."""

    every: tuple[Route, ...]
    of: Sequence[int]
    """Index of a call in the plan → index of its route in `every`."""

    def counts(self) -> list[int]:
        """Return the number of calls of each route."""
        found = Counter(self.of)
        return [found[number] for number in range(len(self.every))]

    def seconds(self, rate: float, signers: Callable[[str], int]) -> float:
        """Return the seconds of the longest route at `rate` calls a second and lane, `signers(account)` signing."""
        counted = zip(self.every, self.counts(), strict=True)
        return max((count / rate / route.lanes(signers(route.account)) for route, count in counted), default=0.0)


def routes_of(calls: Iterable[Call], access: Access) -> Routes:
    """Return the routes of calls, in the order in which the plan first needs them."""
    numbers: dict[Route, int] = {}
    known: dict[tuple[str, str], int] = {}
    of = []
    for call in calls:
        place = (call.account, call.region)
        number = known.get(place)
        if number is None:
            route = Route(call.account, access.to(call.region))
            number = known[place] = numbers.setdefault(route, len(numbers))
        of.append(number)
    return Routes(tuple(numbers), of)
