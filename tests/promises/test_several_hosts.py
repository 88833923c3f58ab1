"""Runs on several hosts, which share nothing but a database, fill the quota of a lane together, and never break it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from engine.journal.records import unix_seconds
from engine.simulator.world import World
from tests.support.command import Backend, Desk
from tests.support.postgres import Postgres

HOSTS, EACH, QUOTA = 3, 50, 20
INSTANCES = [f"postgres-{name * 8}" for name in "abc"]


@pytest.fixture
def backend() -> Iterator[Backend]:
    world = World(latency=0.01, quotas={"*": None})
    for instance in INSTANCES:
        world.seed(instance, "ap-singapore", [f"u{number:02}" for number in range(EACH)])
    with Backend(world) as server:
        yield server


def hosts(tmp_path: Path, backend: Backend, database: str) -> list[Desk]:
    """Desks with nothing in common but the database, and the server."""
    found = []
    for instance in INSTANCES:
        place = tmp_path / instance
        place.mkdir()
        desk = Desk(place)
        desk.env |= {"ACCTOPS_ENDPOINT": backend.endpoint, "ACCTOPS_DATABASE": database}
        desk.job(*(f"{instance}/u{number:02}" for number in range(EACH)))
        found.append(desk)
    return found


def left(desk: Desk) -> list[float]:
    """When the calls of all runs left, as their journals say: one host reads them all. By the clock of this machine.

    What a server sees is later by the way to it; here the server is a thread of the test, which is late by itself.
    """
    runs = [each["run"] for each in desk.run("status", "--json").json["runs"]]
    rows = [desk.run("report", run, "--format", "json", "--attempts").json["attempts"] for run in runs]
    return sorted(unix_seconds(row["sent_at"]) for each in rows for row in each if row["sent_at"] is not None)


def worst_second(moments: list[float]) -> int:
    """The most arrivals in any second that begins with one."""
    return max(sum(at <= other < at + 1.0 for other in moments) for at in moments)


def test_three_hosts_share_the_quota_of_a_lane(tmp_path: Path, backend: Backend, database: str) -> None:
    """One hundred and fifty calls by three processes take what one process would: at most 20 in any second."""
    desks = hosts(tmp_path, backend, database)
    processes = [desk.popen("run", "job.yaml", "--yes") for desk in desks]
    assert [desk.end(process).code for desk, process in zip(desks, processes, strict=True)] == [0] * HOSTS
    assert len(backend.writes()) == HOSTS * EACH
    moments = left(desks[0])
    assert len(moments) == HOSTS * EACH and worst_second(moments) <= QUOTA
    took = moments[-1] - moments[0]
    assert HOSTS * EACH / took > QUOTA * 0.85, "the quota is filled, too"


def test_a_host_that_stops_leaves_the_quota_to_the_others(tmp_path: Path, backend: Backend, database: str) -> None:
    """Slots are taken one at a time, so a process that was killed keeps none."""
    first, second, _ = hosts(tmp_path, backend, database)
    killed = first.popen("run", "job.yaml", "--yes")
    other = second.popen("run", "job.yaml", "--yes")
    while len(backend.writes()) < 30:
        time.sleep(0.01)
    killed.kill()
    at = time.time()
    first.end(killed)
    assert second.end(other).code == 0
    moments = left(second)
    assert worst_second(moments) <= QUOTA
    later = [moment for moment in moments if moment > at + 1.5]
    assert len(later) < 5 or len(later) / (later[-1] - later[0]) > QUOTA * 0.85


def test_the_slots_of_a_lane_by_themselves(postgres: Postgres, database: str) -> None:
    """Eight askers with ways of different length: what leaves keeps the window, whatever each of them is late by."""
    from engine.journal.database.slots import Asker, DatabaseSlots

    rng, left, askers = Random(17), list[float](), [Asker(database) for _ in range(8)]

    async def asker(seed: int) -> None:
        slots = DatabaseSlots(askers[seed], "a/LockAccount/b", clock=time.monotonic)
        for _ in range(15):
            at = await slots.reserve(rate=QUOTA, interval_s=1.02 / QUOTA, window_s=1.01)
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            left.append(time.monotonic())
            await asyncio.sleep(rng.random() * 0.02 * seed)

    async def all_of_them() -> None:
        await asyncio.gather(*map(asker, range(8)))

    asyncio.run(all_of_them())
    for each in askers:
        each.close()
    assert len(left) == 120 and worst_second(sorted(left)) <= QUOTA + 1  # the test's own clock is late, too


def test_a_clock_of_the_server_that_was_set_back_stops_nobody(postgres: Postgres, database: str) -> None:
    """A row from the future is begun anew."""
    from engine.journal.database.slots import Asker, DatabaseSlots

    asker = Asker(database)
    slots = DatabaseSlots(asker, "lane", clock=time.monotonic)
    asyncio.run(slots.reserve(rate=20, interval_s=0.05, window_s=1.0))
    name = database.rpartition("/")[2]
    postgres.sql(name, "update acctops.lane set schedule = schedule + 7200, leaving = array[schedule + 7200]")
    at = asyncio.run(slots.reserve(rate=20, interval_s=0.05, window_s=1.0))
    asker.close()
    assert at - time.monotonic() < 0.5
