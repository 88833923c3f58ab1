"""Listing instances: to the last page, narrowed by the server, and whole even while the list changes."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from engine.cloud.client import Client
from engine.cloud.inventory import Inventory
from engine.inputs.match import InstanceMatch, Pattern, Tag, listing_filters
from engine.model import Answer, Reply, Transport
from engine.planning.discovery import Listing, list_instances, list_regions
from engine.simulator.faults import rules_from
from engine.simulator.fleet import fleet_from
from engine.simulator.inprocess import InProcessTransport
from engine.simulator.randomfleet import random_fleet
from engine.simulator.world import World
from tests.support.drill import ENDPOINT, FixedKeys
from tests.support.virtual import VirtualLoop

REGION = "ap-tokyo"


def world(count: int, **settings) -> World:
    fleet = [
        {"id": f"postgres-{n:08d}", "region": REGION, "name": f"prod-{n}", "tags": {"env": "prod"} if n % 2 else {}}
        for n in range(count)
    ]
    return World(fleet=fleet_from({"instances": fleet}), latency=0.05, **settings)


def within(there: World, story, wrap=lambda transport: transport):
    """A story told an Inventory of that world, in virtual time."""
    loop = VirtualLoop()

    async def main():
        transport: Transport = wrap(InProcessTransport(there, now=loop.wall()))
        client = Client(transport, FixedKeys(), ENDPOINT, timeout_s=3.0, clock=loop.wall())
        return await story(Inventory(lambda _account, _region: [client], rng=random.Random(1)))

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main())


def listed(there: World, of: InstanceMatch | None = None, wrap=lambda transport: transport) -> Listing:
    (filters,) = listing_filters(of or InstanceMatch())
    return within(there, lambda inventory: list_instances(inventory, REGION, filters), wrap)


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
def test_every_instance_is_listed(count: int) -> None:
    """To the short page, also when the last one is full."""
    found = listed(world(count) if count else World(fleet=random_fleet("random:3x1@ap-seoul"), latency=0))
    assert (len(found.rows), found.why) == (count, None)


def test_the_server_narrows() -> None:
    """Asked with filters it sends what may be meant, and no more."""
    there = world(250)
    of = InstanceMatch(names=(Pattern("prod-24*"),), tags=(Tag("env"),))
    assert sorted(listed(there, of).rows) == [f"postgres-{n:08d}" for n in (241, 243, 245, 247, 249)]
    assert len(there.audit) == 2  # and an empty page behind


class Astray:
    """Answers with rows of another place."""

    def __init__(self, transport: Transport, **changes: str) -> None:
        self._transport, self._changes = transport, changes

    async def send(self, endpoint, headers, body, timeout_s):
        reply = await self._transport.send(endpoint, headers, body, timeout_s)
        document = json.loads(reply.body)
        for row in document["Response"]["DBInstanceSet"]:
            row.update(self._changes)
        return Reply(status=200, body=json.dumps(document).encode(), date=reply.date)

    async def aclose(self) -> None:
        await self._transport.aclose()


def test_instances_of_another_region_are_no_answer() -> None:
    """They would be asked for where they are not, and those of this region be missed."""
    found = listed(world(3), wrap=lambda transport: Astray(transport, Region="ap-seoul"))
    assert (found.rows, found.why) == ({}, "Local.OtherInstance")


def test_instances_that_nobody_asked_for_are_no_answer() -> None:
    """Asked by id, the API names these or fewer."""
    of = InstanceMatch(ids=("postgres-00000001",))
    found = listed(world(3), of, wrap=lambda transport: Astray(transport, DBInstanceId="postgres-00000002"))
    assert (found.rows, found.why) == ({}, "Local.OtherInstance")


class Capped:
    """At most so many rows a page, and TotalCount is their number."""

    def __init__(self, transport: Transport, rows: int) -> None:
        self._transport, self._rows = transport, rows

    async def send(self, endpoint, headers, body, timeout_s):
        reply = await self._transport.send(endpoint, headers, body, timeout_s)
        document = json.loads(reply.body)
        page = document["Response"]["DBInstanceSet"][: self._rows]
        document["Response"].update(DBInstanceSet=page, TotalCount=len(page))
        return Reply(status=200, body=json.dumps(document).encode(), date=reply.date)

    async def aclose(self) -> None:
        await self._transport.aclose()


@pytest.mark.parametrize("rows", [1, 7, 50])
def test_a_server_that_gives_fewer_instances_a_page_yields_all(rows: int) -> None:
    """A short page is no end: instances behind it would be missing from a lockdown in silence."""
    found = listed(world(60), wrap=lambda transport: Capped(transport, rows))
    assert (len(found.rows), found.why) == (60, None)


class Meddler:
    """Somebody who deletes an instance after each of the first so many pages."""

    def __init__(self, transport: Transport, there: World, times: int) -> None:
        self._transport, self._there, self._times = transport, there, times

    async def send(self, endpoint, headers, body, timeout_s):
        reply = await self._transport.send(endpoint, headers, body, timeout_s)
        if self._times:
            self._times -= 1
            first = min(self._there._estate.instances)
            del self._there._estate.instances[first]
        return reply

    async def aclose(self) -> None:
        await self._transport.aclose()


def test_an_instance_that_slips_to_the_page_before_is_not_lost() -> None:
    """One of the first page is deleted while it is read: the first of the second page would be missed. Read again."""
    there = world(150)
    found = listed(there, wrap=lambda transport: Meddler(transport, there, 1))
    assert found.why is None
    assert {f"postgres-{n:08d}" for n in range(1, 150)} <= set(found.rows)
    assert len(there.audit) == 6


def test_a_list_that_never_rests_is_not_called_whole() -> None:
    """What was seen is used, and that more may be there is said."""
    there = world(350)
    found = listed(there, wrap=lambda transport: Meddler(transport, there, 100))
    assert len(found.rows) > 300 and found.why is not None and "kept changing" in found.why


class Garbler:
    """An answer with a row that is no instance."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def send(self, endpoint, headers, body, timeout_s):
        reply = await self._transport.send(endpoint, headers, body, timeout_s)
        return Reply(status=200, body=reply.body.replace(b'"postgres-00000000"', b'"??"'), date=reply.date)

    async def aclose(self) -> None:
        await self._transport.aclose()


def test_a_row_that_is_no_instance_is_not_passed_over_in_silence() -> None:
    """The others are used, and the list is not called whole."""
    found = listed(world(3), wrap=Garbler)
    assert (len(found.rows), found.why) == (2, "2 shown, and 1 row cannot be understood")


def test_a_refusal_keeps_its_answer() -> None:
    """One region that may not be listed leaves the others, keys that are refused may end it all: who asks decides."""
    for code in ("UnauthorizedOperation", "AuthFailure.SecretIdNotFound"):
        denied = listed(world(1, faults=rules_from([{"code": code}])))
        assert denied.refused is not None
        assert (denied.rows, denied.why, denied.refused.code) == ({}, code, code)


def test_a_passing_error_is_tried_again() -> None:
    """As of every reading."""
    found = listed(world(1, faults=rules_from([{"code": "InternalError", "times": 2}])))
    assert (len(found.rows), found.why) == (1, None)


def test_regions_are_those_that_are_available() -> None:
    """Toronto is listed as unavailable; nothing can be there."""
    regions = within(world(1), list_regions)
    assert "ap-tokyo" in regions and "na-toronto" not in regions and len(regions) == 18
    refused = within(world(1, faults=rules_from([{"code": "UnauthorizedOperation"}])), list_regions)
    assert isinstance(refused, Answer) and refused.code == "UnauthorizedOperation"
