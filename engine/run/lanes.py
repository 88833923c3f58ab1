"""A lane is one quota, and its state in a session; the lanes of a run, and how they end.

A lane closes when it is refused, cannot be reached, or has no keys (any more). The other lanes of its route go on with
its calls. A route without lanes is given up: its calls stay unattempted, the other routes go on. Without any lane the
run stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field

from engine.api.codes import NO_ANSWER, NO_KEYS
from engine.api.verdicts import Scope, rule
from engine.cloud.client import Client
from engine.cloud.clients import Clients
from engine.errors import Reason
from engine.journal import records
from engine.model import Answer, Keys, Reading, Verdict, Where
from engine.pacing.pacer import Pacer
from engine.planning.routes import Routes
from engine.run.queues import CallQueues
from engine.run.recorder import Recorder
from engine.run.stopping import Stopping, stopped

if TYPE_CHECKING:
    from engine.credentials import KeySource

DOWN_PAUSE_CAP_S = 5.0
FIRST_CONTACT_S = 15.0
"""How long an endpoint that never answered is tried: rather a wrong address than an outage."""
MUTE_INSTANCES = 3
"""A lane is mute when it answers the calls of so many instances no more while the other lanes answer theirs: a sick
instance or two would look the same."""
DENIED_INSTANCES = 3
"""A lane that has the permission for none of so many instances, while other sub-accounts have it, is of no use."""


class Lane(Struct):
    """One quota: an identity and action through one endpoint."""

    name: str
    client: Client
    pacer: Pacer
    permits: asyncio.Semaphore
    route: int = 0
    """Which calls it may take, by index in the run's routes."""
    account: str = ""
    closed: bool = False
    """It was refused or could not be reached: it takes no more calls in this session."""
    answered: bool = False
    """Whether the endpoint ever answered in this session."""
    answered_at: float = float("-inf")
    """Loop time of its last answer."""
    unanswered: set[Where] = field(default_factory=set)
    """Instances of calls it took since then and did not answer."""
    down_since: float | None = None
    """Loop time since which no attempt reached the endpoint."""
    down_why: str = ""
    probe_s: float = 0.0
    """How long the last attempt that reached nobody took: what finding out costs the call it is done with."""
    denied: set[Where] = field(default_factory=set)
    """Instances for which its keys have not the permission."""
    accepted: bool = False
    """Whether the API has accepted any call by it in this session."""
    in_flight: int = 0
    """Attempts under way."""
    _down_count: int = 0

    @property
    def is_probed(self) -> bool:
        """Whether its endpoint cannot be reached, and a call is out to see if it can again."""
        return self.down_since is not None and self.in_flight > 0

    @property
    def may_send(self) -> bool:
        """Whether a call may go out by it just now, as far as its slots allow."""
        return not (self.closed or self.is_probed)

    def reached(self) -> None:
        """An attempt reached the server."""
        self.down_since, self._down_count = None, 0

    def heard(self, now: float) -> None:
        """An attempt was answered, whatever the answer."""
        self.answered, self.answered_at = True, now
        self.unanswered.clear()
        self.reached()

    def unreachable(self, why: str, now: float, *, since: float) -> float:
        """An attempt reached nobody (`since` then): pause, longer each time. Returns for how long it has been so."""
        if self.down_since is None:
            self.down_since = since
        self.probe_s = now - since
        self.down_why = why
        self._down_count += 1
        self.pacer.pause(min(DOWN_PAUSE_CAP_S, 0.2 * 2 ** min(self._down_count, 10)))
        return now - self.down_since


class Ticket(Struct):
    """Leave to make one attempt: its `sent` is durable and its slot has come."""

    lane: Lane
    keys: Keys
    trace: str
    slot_at: float
    """Loop time of the slot."""


def lane_name(identity: str, action: str, client: Client) -> str:
    """What a lane is called in journals, and its slots among the processes of one host."""
    return f"{identity}/{action}/{client.host}"


def lanes_of(
    routes: Routes, clients: Clients, *, action: str, workers: int, pacer: Callable[[str], Pacer]
) -> list[Lane]:
    """Every identity through every access point, for each route; `pacer` of a lane's name paces it."""
    lanes = []
    for number, route in enumerate(routes.every):
        for client in clients.signing(route.account, route.endpoints):
            name = lane_name(client.identity, action, client)
            permits = asyncio.Semaphore(workers)
            lanes.append(Lane(name, client, pacer(name), permits, route=number, account=route.account))
    return lanes


class Holder(Protocol):
    """A part that holds calls which wait for a lane."""

    def drop(self, waiting: list[int]) -> None:
        """Leave these calls unattempted: their route has no lane left."""


class Lanes:
    """The lanes of one session: which there are, how they fare, and how they end."""

    def __init__(
        self,
        every: list[Lane],
        routes: Routes,
        recorder: Recorder,
        stopping: Stopping,
        queue: CallQueues,
        *,
        patience_s: float,
    ) -> None:
        """An endpoint that has answered once may be out of reach for `patience_s`."""
        self._now = asyncio.get_running_loop().time
        self.every = every
        self.routes = routes
        self._recorder = recorder
        self._stopping = stopping
        self._queue = queue
        self._patience_s = patience_s
        self._given_up: set[int] = set()
        """Routes that have no lane left."""
        self.holders: list[Holder] = []
        """Told of the calls of a route that is given up."""
        self.why: records.Stopped | None = None
        """Why the first of them was given up, while others went on."""

    # ---- which there are -------------------------------------------------------------------------------------------

    def open(self) -> list[Lane]:
        """Return the lanes that still send."""
        return [lane for lane in self.every if not lane.closed]

    def signing(self, keys: KeySource) -> list[Lane]:
        """Return the lanes that sign with these keys and still send."""
        return [lane for lane in self.every if lane.client.keys is keys and not lane.closed]

    def others(self, lane: Lane) -> list[Lane]:
        """Return the other lanes that take the same calls and still send."""
        return [each for each in self.every if each.route == lane.route and each is not lane and not each.closed]

    def sharing(self, lane: Lane, scope: Scope) -> list[Lane]:
        """Return the lanes that a refusal for the quota of `lane` is about."""
        if scope is Scope.EVERY_LANE:
            return self.every
        if scope is Scope.ACCOUNT:
            return [each for each in self.every if each.account == lane.account]
        return [lane]

    def paces(self) -> dict[int, float]:
        """Return how many calls the lanes of each route send a second."""
        paces: dict[int, float] = {}
        for lane in self.every:
            paces[lane.route] = paces.get(lane.route, 0.0) + lane.pacer.gear.rate
        return paces

    @property
    def in_flight(self) -> int:
        """Attempts under way."""
        return sum(lane.in_flight for lane in self.every)

    def others_may(self, denied: Collection[str], lane: Lane) -> bool:
        """Return whether another sub-account takes a call that CAM has `denied` to these: it asks who signs."""
        return any(each.client.identity not in denied for each in self.others(lane))

    def is_for_others(self, denied: Collection[str], lane: Lane) -> bool:
        """Return whether a call waits for another sub-account, as CAM has denied it to the one of this lane."""
        return lane.client.identity in denied and self.others_may(denied, lane)

    def is_useless(self, lane: Lane) -> bool:
        """Return whether a lane has been denied so much that only other sub-accounts can do anything here."""
        if len(lane.denied) < DENIED_INSTANCES or lane.accepted:
            return False
        return any(each.accepted for each in self.others(lane))

    # ---- how they fare ---------------------------------------------------------------------------------------------

    def note_gear(self, lane: Lane) -> None:
        """Journal that a lane slowed or has recovered, if it did."""
        changed, gear = lane.pacer.gear.changed(), lane.pacer.gear
        if changed is not None:
            data = {"lane": lane.name, "guard": round(gear.guard, 4), "interval_ms": round(gear.interval_s * 1000, 1)}
            self._recorder.append(records.Note(what=f"lane_{changed}", data=data))

    def is_mute(self, where: Where, ticket: Ticket, answer: Answer) -> bool:
        """Return whether an attempt went unanswered for its lane's sake: that answers nobody since, the others do."""
        lane = ticket.lane
        if lane.down_since is not None and answer.code == NO_ANSWER and lane.answered_at <= ticket.slot_at:
            return bool(self.others(lane))
        return self._is_silent(ticket, answer) and len(lane.unanswered | {where}) >= MUTE_INSTANCES

    def _is_silent(self, ticket: Ticket, answer: Answer) -> bool:
        """Return whether an attempt went unanswered, and its lane answered nothing since it left, as others have."""
        lane, left_at = ticket.lane, ticket.slot_at
        if answer.code != NO_ANSWER or lane.answered_at > left_at:
            return False
        return any(other.answered_at > left_at for other in self.others(lane))

    def reached(self, where: Where, ticket: Ticket, answer: Answer) -> None:
        """Take note that an attempt for an instance reached the server, as far as its answer says so."""
        lane, was_down_since = ticket.lane, ticket.lane.down_since
        if answer.code != NO_ANSWER:
            lane.heard(self._now())
        elif self._is_silent(ticket, answer):
            lane.unanswered.add(where)
        elif not self.others(lane):
            lane.reached()
        if lane.down_since is None and was_down_since is not None and not lane.closed:
            data = {"lane": lane.name, "seconds": round(self._now() - was_down_since, 1)}
            self._recorder.append(records.Note(what="lane_up", data=data))

    def down(self, lane: Lane, answer: Answer, *, since: float) -> bool:
        """Pause a lane that reached nobody, or close it when that has lasted; return whether any takes its calls."""
        is_new = lane.down_since is None
        down_s = lane.unreachable(answer.message or str(answer.code), self._now(), since=since)
        if down_s >= (self._patience_s if lane.answered else min(FIRST_CONTACT_S, self._patience_s)):
            why = f"cannot reach the API for {down_s:.0f} s: {lane.down_why}"
            return self.close(lane, why, answer)
        if is_new:
            self._recorder.append(records.Note(what="lane_down", data={"lane": lane.name, "why": lane.down_why}))
        return True

    # ---- how they end ----------------------------------------------------------------------------------------------

    def close(self, lane: Lane, why: str, answer: Answer) -> bool:
        """Close a lane that was refused or cannot be reached; return whether other lanes take its calls."""
        others, reason = self.others(lane), self._stopping.reason_for(answer.code)
        if not lane.closed:
            lane.closed = True
            self._queue.wake.set()
            if others:
                self._recorder.note("lane_closed", {"lane": lane.name, "why": why, "code": answer.code})
                self._recorder.tell(f"{lane.name}: {why}; its calls go to the other lanes")
            else:
                self._give_up([lane.route], why, reason, answer)
        return bool(others)

    def close_keyless(self, lane: Lane, why: str) -> None:
        """Close a lane that has nothing to sign with."""
        self.close(lane, why, Answer(http=None, request_id=None, code=NO_KEYS, message=why))

    def close_all(self, closing: list[Lane], why: str) -> None:
        """Begin no call by these lanes any more: what they sent is still read back, the rest is for other lanes."""
        left = {lane.route for lane in self.every if not lane.closed and lane not in closing}
        for lane in closing:
            if lane.route in left:
                lane.closed = True
                self._recorder.note("lane_closed", {"lane": lane.name, "why": why, "code": None})
        if any(lane.route in left for lane in closing):
            self._recorder.tell(f"{why}; the other lanes go on")
        self._give_up((lane.route for lane in closing if lane.route not in left), why, Reason.STOPPED, None)
        self._queue.wake.set()

    def close_account(self, account: str, why: str, answer: Answer) -> None:
        """Send nothing more of an account; the others go on."""
        routes = (number for number, route in enumerate(self.routes.every) if route.account == account)
        self._give_up(routes, why, self._stopping.reason_for(answer.code), answer)

    def is_refused(self, where: Where, reading: Reading) -> bool:
        """Return whether keys may read nothing at all, and so write nothing either: their account is given up."""
        answer = Answer(http=200, request_id=reading.request_id, code=reading.code, message=reading.message)
        if reading.code is None or (ruling := rule("DescribeAccounts", answer)).verdict is not Verdict.FATAL:
            return False
        why = reading.message if reading.code == NO_KEYS and reading.message else ruling.words
        self.close_account(where.account, why, answer)
        return True

    def _give_up(self, routes: Iterable[int], why: str, reason: Reason, answer: Answer | None) -> None:
        """No lane is left for the calls of `routes`: the run stops, or goes on without them if others have lanes."""
        numbers = [number for number in dict.fromkeys(routes) if number not in self._given_up]
        if not numbers:
            return
        self._given_up.update(numbers)
        for lane in self.every:
            lane.closed = lane.closed or lane.route in numbers
        if all(lane.closed for lane in self.every):
            self._stopping.stop(why, reason, answer)
            return
        self.why = self.why or stopped(why, answer)
        given_up = [self.routes.every[number] for number in numbers]
        endpoints = ", ".join(route.endpoints[0] for route in given_up)
        for name in dict.fromkeys(route.account for route in given_up):
            self._recorder.tell(f"{name or endpoints}: {why.rstrip('.')}; the others go on")
        for number, route in zip(numbers, given_up, strict=True):
            said = answer.code if answer is not None else None
            whose: dict[str, object] = {"account": route.account, "endpoints": list(route.endpoints)}
            self._recorder.note("route_closed", whose | {"why": why, "code": said})
            waiting = self._queue.close(number)
            for holder in self.holders:
                holder.drop(waiting)
        self._queue.wake.set()
