"""Which lanes may take which calls. No I/O.

A lane is one quota: an identity, an action, an access point (CN-RATE). Calls are not tied to a lane: a route is the
calls that the same lanes can take, those of one account that may go through the same access points.
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
    """What calls have in common that the same lanes can take."""

    account: str
    endpoints: tuple[str, ...]
    """URLs, any of which serves them."""

    def lanes(self, signers: int) -> int:
        """How many lanes it has with so many identities that sign for its account."""
        return len(self.endpoints) * max(1, signers)


class Routes(Struct, frozen=True):
    """The routes of a run."""

    every: tuple[Route, ...]
    of: Sequence[int]
    """Call, by its index in the plan → route, by its index in `every`."""

    def counts(self) -> list[int]:
        """Calls of each route."""
        found = Counter(self.of)
        return [found[number] for number in range(len(self.every))]

    def seconds(self, rate: float, signers: Callable[[str], int]) -> float:
        """How long the longest route takes at `rate` calls a second and lane; `signers` of an account sign for it."""
        counted = zip(self.every, self.counts(), strict=True)
        return max((count / rate / route.lanes(signers(route.account)) for route, count in counted), default=0.0)


def routes_of(calls: Iterable[Call], access: Access) -> Routes:
    """The routes of calls, in the order in which the plan first needs them."""
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
