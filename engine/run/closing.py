"""Lanes that close, who takes their calls, and what is given up when nobody is left to take them.

A lane closes when it is refused, cannot be reached, or has no keys (any more). The other lanes of its route go on with
its calls. A route without lanes is given up: its calls stay unattempted, the other routes go on. Without any lane the
run stops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from engine.errors import Exit
from engine.journal import records
from engine.model import Answer
from engine.run.lanes import Lane, others_of

if TYPE_CHECKING:
    from engine.credentials import KeySource
    from engine.planning.routes import Routes


def stopped(why: str, answer: Answer | None) -> records.Stopped:
    """Why something ended early, with what the API said of it, if it said anything."""
    if answer is None:
        return records.Stopped(why=why, code=None, request_id=None)
    return records.Stopped(why=why, code=answer.code, request_id=answer.request_id)


class Closing:
    """Closes the lanes of one session."""

    def __init__(
        self,
        lanes: list[Lane],
        routes: Routes,
        *,
        note: Callable[[str, dict[str, object]], None],
        tell: Callable[[str], None],
        stop: Callable[[str, Exit, Answer | None], None],
        drop: Callable[[int], None],
        wake: Callable[[], None],
    ) -> None:
        """`drop` leaves the calls of a route unattempted; `stop` ends the run; `note` journals, `tell` says."""
        self._lanes = lanes
        self._routes = routes
        self._note = note
        self._tell = tell
        self._stop = stop
        self._drop = drop
        self._wake = wake
        self._given_up: set[int] = set()
        """Routes that have no lane left."""
        self.why: records.Stopped | None = None
        """Why the first of them was given up, while others went on."""

    def lane(self, lane: Lane, why: str, code: Exit, answer: Answer) -> bool:
        """One that was refused or cannot be reached: whether other lanes take its calls."""
        others = others_of(self._lanes, lane)
        if not lane.closed:
            lane.closed = True
            self._wake()
            if others:
                self._note("lane_closed", {"lane": lane.name, "why": why, "code": answer.code})
                self._tell(f"{lane.name}: {why}; its calls go to the other lanes")
            else:
                self._give_up([lane.route], why, code, answer)
        return bool(others)

    def lanes_of(self, keys: KeySource, why: str) -> None:
        """Begin no call with these keys any more: what they sent is still read back, the rest is for other lanes."""
        self.lanes([lane for lane in self._lanes if lane.client.keys is keys and not lane.closed], why)

    def lanes(self, closing: list[Lane], why: str) -> None:
        """Begin no call by these lanes any more, as `lanes_of`."""
        left = {lane.route for lane in self._lanes if not lane.closed and lane not in closing}
        for lane in closing:
            if lane.route in left:
                lane.closed = True
                self._note("lane_closed", {"lane": lane.name, "why": why, "code": None})
        if any(lane.route in left for lane in closing):
            self._tell(f"{why}; the other lanes go on")
        self._give_up((lane.route for lane in closing if lane.route not in left), why, Exit.STOPPED, None)
        self._wake()

    def account(self, account: str, why: str, code: Exit, answer: Answer) -> None:
        """Send nothing more of an account; the others go on."""
        routes = (number for number, route in enumerate(self._routes.every) if route.account == account)
        self._give_up(routes, why, code, answer)

    def _give_up(self, routes: Iterable[int], why: str, code: Exit, answer: Answer | None) -> None:
        """No lane is left for the calls of `routes`: the run stops, or goes on without them if others have lanes."""
        numbers = [number for number in dict.fromkeys(routes) if number not in self._given_up]
        if not numbers:
            return
        self._given_up.update(numbers)
        for lane in self._lanes:
            lane.closed = lane.closed or lane.route in numbers
        if all(lane.closed for lane in self._lanes):
            self._stop(why, code, answer)
            return
        self.why = self.why or stopped(why, answer)
        given_up = [self._routes.every[number] for number in numbers]
        endpoints = ", ".join(route.endpoints[0] for route in given_up)
        for name in dict.fromkeys(route.account for route in given_up):
            self._tell(f"{name or endpoints}: {why.rstrip('.')}; the others go on")
        for number, route in zip(numbers, given_up, strict=True):
            whose = {"account": route.account, "endpoints": list(route.endpoints)}
            self._note("route_closed", {**whose, "why": why, "code": answer.code if answer is not None else None})
            self._drop(number)
        self._wake()
