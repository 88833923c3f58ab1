"""Two names of one access point: one quota, one lane."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine.api.endpoints import Access
from engine.cloud.proxy import NO_DETOUR, WayOut
from engine.errors import Reason
from engine.journal import records
from engine.journal.reader import read
from engine.operations.twins import Addresses, addresses_of, close_twins
from engine.simulator.world import World
from tests.support.drill import Drill, fleet

NEAREST, TOKYO, SEOUL = (f"http://127.0.0.1:99{number:02d}" for number in range(3))
SERVERS: dict[str, Addresses] = {
    NEAREST: frozenset({("10.0.0.1", 443), ("10.0.0.2", 443)}),
    TOKYO: frozenset({("10.0.0.2", 443)}),
    SEOUL: frozenset({("10.0.1.1", 443)}),
}


async def look(endpoint: str) -> Addresses:
    await asyncio.sleep(0.2)
    return SERVERS.get(endpoint, frozenset())


def notes(drill: Drill, what: str) -> list[dict[str, Any]]:
    return [line.data for line in read(drill.path) if isinstance(line, records.Note) and line.what == what]


def drilled(tmp_path: Path, *endpoints: str, during: Any) -> Drill:
    targets = fleet(6, 10)
    return Drill(tmp_path, World(audit=None), targets, access=Access(endpoints, {}), during=during).go()


def test_two_names_of_one_access_point_are_one_lane(tmp_path: Path) -> None:
    """The second only costs throttled calls: it is closed, which the journal says; the third goes on."""
    drill = drilled(tmp_path, NEAREST, TOKYO, SEOUL, during=lambda runner: close_twins(runner, NO_DETOUR, look))
    assert drill.reason is Reason.OK
    (closed,) = notes(drill, "lane_closed")
    assert closed["why"] == "127.0.0.1:9901 leads to the same servers as 127.0.0.1:9900: one quota"
    assert notes(drill, "lanes_not_compared") == []


def test_what_cannot_be_looked_up_is_said_and_stays(tmp_path: Path) -> None:
    """Nobody knows whether they are one; the journal says so, and both lanes send."""
    other = "http://127.0.0.1:9999"
    drill = drilled(tmp_path, NEAREST, other, during=lambda runner: close_twins(runner, NO_DETOUR, look))
    assert drill.reason is Reason.OK
    assert notes(drill, "lane_closed") == []
    assert [note["endpoints"] for note in notes(drill, "lanes_not_compared")] == [[other]]


def test_behind_a_proxy_nobody_is_asked(tmp_path: Path) -> None:
    """Names are looked up by the proxy, and often nowhere else."""
    way = WayOut(proxy="http://proxy:1", origin={"proxy": "HTTPS_PROXY"})
    assert way.proxy_for("https://postgres.ap-tokyo.tencentcloudapi.com") is not None

    async def never(_endpoint: str) -> Addresses:
        pytest.fail("asked")

    class Lane:
        route, closed = 0, False

        def __init__(self, name: str) -> None:
            self.client = type("C", (), {"endpoint": f"https://{name}.example", "identity": "x", "host": name})

    told: list[dict[str, object]] = []

    class Runner:
        def open_lanes(self) -> list[Any]:
            return [Lane("a"), Lane("b")]

        def note(self, _what: str, data: dict[str, object]) -> None:
            told.append(data)

    asyncio.run(close_twins(Runner(), way, never))  # type: ignore[arg-type]
    assert [data["endpoints"] for data in told] == [["https://a.example", "https://b.example"]]


def test_the_resolver_of_this_machine_is_asked() -> None:
    """The port counts: two simulators of one machine are two."""
    one, two = (asyncio.run(addresses_of(f"http://127.0.0.1:{port}")) for port in (1, 2))
    assert one == {("127.0.0.1", 1)}
    assert not one & two
