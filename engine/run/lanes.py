"""A lane is one quota and its state in a session. This module has the lanes of a session, and closes them.

A lane closes when the API refuses it, it cannot reach the API, or it has no keys (any more). The other lanes of its
route take its calls. A route without lanes is given up: its calls stay unattempted, and the other routes go on. Without
any lane the run stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

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
from engine.run.halts import Halts
from engine.run.queues import CallQueues
from engine.run.recorder import Recorder
from engine.run.stopping import Stopping, stopped

if TYPE_CHECKING:
    from engine.credentials import KeySource

DOWN_PAUSE_CAP_S = 5.0
FIRST_CONTACT_S = 15.0
"""Seconds for which an endpoint that never answered is tried: its address is probably wrong."""
MUTE_INSTANCES = 3
"""A lane is mute when the calls of so many instances get no answer through it, while other lanes get answers. With
fewer, the instances may be sick instead."""
DENIED_INSTANCES = 3
"""A lane is of no use when CAM denies it so many instances and it has done none, while another sub-account has."""


class Lane(Struct):
    """One quota: an identity and action through one endpoint."""

    name: str
    client: Client
    pacer: Pacer
    permits: asyncio.Semaphore
    route: int = 0
    """Index of its route in the run's routes: it may take the calls of this route."""
    account: str = ""
    closed: bool = False
    """Whether it takes no more calls in this session."""
    answered: bool = False
    """Whether the endpoint has answered in this session."""
    answered_at: float = float("-inf")
    """Loop time of its last answer."""
    unanswered: set[Where] = field(default_factory=set)
    """Instances whose calls got no answer since `answered_at`."""
    down_since: float | None = None
    """Loop time since which no attempt reached the endpoint; None: it is not down."""
    down_why: str = ""
    probe_s: float = 0.0
    """Seconds that the last failed attempt to reach the endpoint took: a probe delays its call by so much."""
    denied: set[Where] = field(default_factory=set)
    """Instances for which its keys do not have the permission."""
    accepted: bool = False
    """Whether the API has accepted any call by it in this session."""
    has_others: bool = False
    """Whether sessions of other sub-accounts take what is left once it is closed."""
    in_flight: int = 0
    """Attempts under way."""
    ahead: int = 0
    """Calls whose `sent` is written and that have not left."""
    _down_count: int = 0

    @property
    def is_probed(self) -> bool:
        """Whether its endpoint cannot be reached, and a call in flight probes whether it can again."""
        return self.down_since is not None and self.in_flight > 0

    @property
    def may_send(self) -> bool:
        """Whether it may send a call now, apart from its slots."""
        return not (self.closed or self.is_probed)

    def reached(self) -> None:
        """Take note that an attempt reached the server."""
        self.down_since, self._down_count = None, 0

    def heard(self, now: float) -> None:
        """Take note that an attempt was answered, whatever the answer."""
        self.answered, self.answered_at = True, now
        self.unanswered.clear()
        self.reached()

    def unreachable(self, why: str, now: float, *, since: float) -> None:
        """Pause after an attempt that left at `since` and did not reach the server."""
        if self.down_since is None:
            self.down_since = since
        self.probe_s = now - since
        self.down_why = why
        self._down_count += 1
        self.pacer.pause(min(DOWN_PAUSE_CAP_S, 0.2 * 2 ** min(self._down_count, 10)))


class Ticket(Struct):
    """The permission to make one attempt: its `sent` is durable and its slot has come."""

    lane: Lane
    keys: Keys
    trace: str
    slot_at: float
    """Loop time of the slot."""


def lane_name(identity: str, action: str, client: Client) -> str:
    """Return the name of a lane in journals, and of its slots among the processes of one host."""
    return f"{identity}/{action}/{client.host}"


def lanes_of(
    routes: Routes,
    clients: Clients,
    *,
    action: str,
    workers: int,
    pacer: Callable[[str], Pacer],
    host: str | None = None,
    has_others: bool = False,
) -> list[Lane]:
    """Return a lane for each route, identity and access point; `pacer` makes the pacer of a lane from its name.

    With a `host`, only lanes of the access point at this host and port. `has_others`: as `Lane` has it.
    """
    lanes = []
    for number, route in enumerate(routes.every):
        endpoints = [each for each in route.endpoints if host is None or urlsplit(each).netloc == host]
        for client in clients.signing(route.account, endpoints):
            name = lane_name(client.identity, action, client)
            permits = asyncio.Semaphore(workers)
            lane = Lane(name, client, pacer(name), permits, route=number, account=route.account, has_others=has_others)
            lanes.append(lane)
    return lanes


class Holder(Protocol):
    """A part of the session that holds calls which wait for a lane."""

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
        halts: Halts,
        *,
        patience_s: float,
    ) -> None:
        """Close a lane whose endpoint has answered before only after `patience_s` seconds without reach."""
        self._now = asyncio.get_running_loop().time
        self.every = every
        self.routes = routes
        self._recorder = recorder
        self._stopping = stopping
        self._queue = queue
        self._counted = halts.counted
        self._patience_s = patience_s
        self._given_up: set[int] = set()
        """Routes that have no lane left."""
        self.holders: list[Holder] = []
        """Parts that are told of the calls of a route that is given up."""
        self.why: records.Stopped | None = None
        """Why the first route was given up while others went on; None: no route was."""
        self.are_lost = False
        """Whether the last lane of a route was closed for what happened to that lane, not to an account."""

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
        """Return the lanes whose quota a refusal on `lane` is about, by its scope."""
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
        """How many attempts are under way."""
        return sum(lane.in_flight for lane in self.every)

    @property
    def holds_nothing(self) -> bool:
        """Whether no `sent` stands for a call that has not left."""
        return not any(lane.ahead for lane in self.every)

    @property
    def is_quiet(self) -> bool:
        """Whether no attempt is under way, and no `sent` stands for a call that has not left."""
        return not any(lane.in_flight or lane.ahead for lane in self.every)

    def others_may(self, denied: Collection[str], lane: Lane) -> bool:
        """Return whether a lane of another sub-account takes a call that CAM has `denied` to these identities."""
        return any(each.client.identity not in denied for each in self.others(lane))

    def is_for_others(self, denied: Collection[str], lane: Lane) -> bool:
        """Return whether a call waits for a lane of another sub-account, as CAM denies it to that of this lane."""
        return lane.client.identity in denied and self.others_may(denied, lane)

    def is_useless(self, lane: Lane) -> bool:
        """Return whether CAM has denied a lane so many instances that only other sub-accounts can send here."""
        if len(lane.denied) < DENIED_INSTANCES or lane.accepted:
            return False
        return any(each.accepted for each in self.others(lane))

    # ---- how they fare ---------------------------------------------------------------------------------------------

    def note_gear(self, lane: Lane) -> None:
        """Journal that a lane has slowed down or recovered, if it has."""
        changed, gear = lane.pacer.gear.changed(), lane.pacer.gear
        if changed is not None:
            data = {"lane": lane.name, "guard": round(gear.guard, 4), "interval_ms": round(gear.interval_s * 1000, 1)}
            self._recorder.append(records.Note(what=f"lane_{changed}", data=data))

    def is_mute(self, where: Where, ticket: Ticket, answer: Answer) -> bool:
        """Return whether an attempt got no answer because of its lane, and other lanes can take the calls."""
        lane = ticket.lane
        if lane.down_since is not None and answer.code == NO_ANSWER and lane.answered_at <= ticket.slot_at:
            return bool(self.others(lane))
        return self._is_silent(ticket, answer) and len(lane.unanswered | {where}) >= MUTE_INSTANCES

    def _is_silent(self, ticket: Ticket, answer: Answer) -> bool:
        """Return whether an attempt got no answer, and since it left only other lanes have answered, not its own."""
        lane, left_at = ticket.lane, ticket.slot_at
        if answer.code != NO_ANSWER or lane.answered_at > left_at:
            return False
        return any(other.answered_at > left_at for other in self.others(lane))

    def reached(self, where: Where, ticket: Ticket, answer: Answer) -> None:
        """Take note of what the answer of an attempt says about whether its lane reaches the server."""
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
        """Pause a lane that cannot reach the API, or close it after a while; return whether a lane takes its calls."""
        is_new = lane.down_since is None
        lane.unreachable(answer.message or str(answer.code), self._now(), since=since)
        down_s = self._counted(since if lane.down_since is None else lane.down_since)
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
                self.are_lost = True
                self._give_up([lane.route], why, reason, answer)
        return bool(others)

    def close_keyless(self, lane: Lane, why: str) -> None:
        """Close a lane that has nothing to sign with."""
        self.close(lane, why, Answer(http=None, request_id=None, code=NO_KEYS, message=why))

    def close_all(self, closing: list[Lane], why: str) -> None:
        """Send no new call through these lanes: what they sent is still read back, other lanes take the rest."""
        left = {lane.route for lane in self.every if not lane.closed and lane not in closing}
        for lane in closing:
            if lane.route in left:
                lane.closed = True
                self._recorder.note("lane_closed", {"lane": lane.name, "why": why, "code": None})
        if any(lane.route in left for lane in closing):
            self._recorder.tell(f"{why}; the other lanes go on")
        self.are_lost = self.are_lost or any(lane.route not in left for lane in closing)
        self._give_up((lane.route for lane in closing if lane.route not in left), why, Reason.STOPPED, None)
        self._queue.wake.set()

    def close_account(self, account: str, why: str, answer: Answer) -> None:
        """Send no more calls of an account; the other accounts go on."""
        routes = (number for number, route in enumerate(self.routes.every) if route.account == account)
        self._give_up(routes, why, self._stopping.reason_for(answer.code), answer)

    def is_refused(self, where: Where, reading: Reading) -> bool:
        """Return whether the keys of an account may not even read; if so, give up the account, as they cannot write."""
        answer = Answer(http=200, request_id=reading.request_id, code=reading.code, message=reading.message)
        if reading.code is None or (ruling := rule("DescribeAccounts", answer)).verdict is not Verdict.FATAL:
            return False
        why = reading.message if reading.code == NO_KEYS and reading.message else ruling.words
        self.close_account(where.account, why, answer)
        return True

    def _give_up(self, routes: Iterable[int], why: str, reason: Reason, answer: Answer | None) -> None:
        """Give up `routes`, for whose calls no lane is left; stop the run if no other route has a lane."""
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
