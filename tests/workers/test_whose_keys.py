"""A worker takes only lanes whose quota its own keys draw on, whoever's they turn out to be, and whenever."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.journal.database.dispatch import migrate_dispatch
from engine.simulator import catalog
from engine.simulator.tenants import parse_tenants
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done, wait_until
from tests.support.postgres import Postgres

pytest.importorskip("dbos")
KEYS = """
keys:
  - {id: AKIDONE, secret: secret-one, uin: "100000000001", user: "100000000011"}
  - {id: AKIDTWO, secret: secret-two, uin: "100000000001", user: "100000000022"}
"""
BEATS_S = 2.5
"""Until each worker has heard of the others."""
TARGETS = [f"postgres-{number:08x}/app_{user}" for number in range(8) for user in range(2)]


class Room:
    """A desk for who submits, and one for each worker, on one database and beside one server."""

    def __init__(self, place: Path, database: str, backend: Backend) -> None:
        self._place = place
        self._database = database
        self.backend = backend

    def desk(self, name: str, *keys: str) -> Desk:
        """A desk whose profiles are the keys of these names, each ONE or TWO."""
        (self._place / name).mkdir()
        desk = Desk(self._place / name)
        del desk.env["TENCENTCLOUD_SECRET_ID"], desk.env["TENCENTCLOUD_SECRET_KEY"]
        desk.env |= {"ACCTOPS_DATABASE": self._database, "ACCTOPS_ENDPOINT": self.backend.endpoint}
        desk.env["ACCTOPS_PROFILE"] = ",".join(key.lower() for key in keys)
        home = Path(desk.env["HOME"]) / ".tccli"
        home.mkdir()
        for key in keys:
            said = {"secretId": f"AKID{key}", "secretKey": f"secret-{key.lower()}"}
            path = home / f"{key.lower()}.credential"
            path.write_text(json.dumps(said))
            path.chmod(0o600)
        desk.job(*TARGETS)
        return desk


@contextmanager
def room_of(place: Path, database: str, postgres: Postgres, kind: type[World] = World) -> Iterator[Room]:
    """The room, with sub-accounts ONE (…11) and TWO (…22) of one cloud account."""
    migrate_dispatch(postgres.url(database.rpartition("/")[2]))
    found = parse_tenants(KEYS)
    world = kind(latency=0.01, keys=found.keys, roles=found.roles)
    for target in TARGETS:
        world.seed(target.partition("/")[0], "ap-singapore", ["app_0", "app_1"])
    with Backend(world) as backend:
        yield Room(place, database, backend)


@pytest.fixture
def room(tmp_path: Path, database: str, postgres: Postgres) -> Iterator[Room]:
    """The room, whose sub-accounts may do everything."""
    with room_of(tmp_path, database, postgres) as found:
        yield found


@contextmanager
def working(desk: Desk) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that is ready, until the block ends; then it leaves in order."""
    ready = desk.work / "ready"
    process = desk.popen("worker", "--ready-file", ready)
    try:
        wait_until(lambda: ready.exists() or process.poll() is not None)
        assert process.poll() is None, desk.end(process).text
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        desk.last = desk.end(process)  # type: ignore[attr-defined]


def said(desk: Desk) -> Done:
    """What the last worker of a desk has said."""
    found: Done = desk.last  # type: ignore[attr-defined]
    return found


def test_keys_of_another_sub_account_take_no_lane(room: Room) -> None:
    """Whoever follows is told whose keys no worker has, and whose are there; a worker with them then does the rest."""
    user, other = room.desk("user", "ONE"), room.desk("other", "TWO")
    first, second = room.desk("first", "ONE"), room.desk("second", "ONE")
    with working(other), ExitStack() as later:
        with working(first), (user.work / "err").open("wb") as err:
            following = user.popen("run", "job.yaml", "--yes", "--rate", "2", stderr=err)
            wait_until(room.backend.writes)
        wait_until(lambda: "no worker has such keys" in (user.work / "err").read_text())
        told = (user.work / "err").read_text()
        assert "calls wait for sub-account 100000000011" in told
        assert "theirs are of sub-account 100000000022" in told
        assert len(room.backend.writes()) < len(TARGETS)
        later.enter_context(working(second))
        assert user.end(following).code == 0
    assert {arrival.identity for arrival in room.backend.writes()} == {"100000000011"}
    assert said(other).code == 0 and "taken" not in said(other).err


def test_without_a_worker_that_has_the_keys_the_command_sends_by_itself(room: Room) -> None:
    """Who has keys at 3 a.m. does not wait for a worker that has not; and is told."""
    user, other = room.desk("user", "ONE"), room.desk("other", "TWO")
    with working(other):
        done = user.run("run", "job.yaml", "--yes")
    assert done.code == 0 and "no worker has keys of sub-account 100000000011" in done.err, done.text
    assert {arrival.identity for arrival in room.backend.writes()} == {"100000000011"}
    assert "taken" not in said(other).err


def test_two_sub_accounts_of_a_job_have_a_worker_each(room: Room) -> None:
    """Each sends by its own quota alone, and both send."""
    user = room.desk("user", "ONE", "TWO")
    one, two = room.desk("one", "ONE"), room.desk("two", "TWO")
    with working(one), working(two):
        done = user.run("run", "job.yaml", "--yes", "--json")
    assert done.code == 0, done.text
    assert done.json["counts"]["changed"] == len(TARGETS)
    for desk, its, other in ((one, "11", "22"), (two, "22", "11")):
        assert f"lane 1000000000{its}/LockAccount/{room.backend.endpoint[7:]}: taken" in said(desk).err
        assert f"lane 1000000000{other}/LockAccount/{room.backend.endpoint[7:]}: taken" not in said(desk).err


NO_STS = "credentials: {sts: 'http://127.0.0.1:9'}\n"


@pytest.mark.parametrize("knows", [True, False])
def test_a_run_that_was_submitted_while_sts_was_silent_is_for_its_very_keys(room: Room, knows: bool) -> None:
    """A worker with these keys takes its lanes, whether or not STS has told the worker more meanwhile."""
    user, right = room.desk("user", "ONE"), room.desk("right", "ONE")
    user.write("config.yaml", NO_STS)
    if not knows:
        right.write("config.yaml", NO_STS)
    with working(right):
        done = user.run("run", "job.yaml", "--yes", "--json")
        assert done.code == 0, done.text
    assert ("STS does not say whose" in said(right).err) is not knows
    assert {arrival.identity for arrival in room.backend.writes()} == {"100000000011"}


def test_keys_that_are_replaced_are_somebody_elses(room: Room) -> None:
    """A worker whose profile has other keys now gives up the lanes of the former ones, and takes those of the new."""
    user, worker = room.desk("user", "TWO"), room.desk("worker", "ONE")
    with working(worker):
        path = Path(worker.env["HOME"]) / ".tccli" / "one.credential"
        path.write_text(json.dumps({"secretId": "AKIDTWO", "secretKey": "secret-two"}))
        done = user.run("run", "job.yaml", "--yes", "--json")
        assert done.code == 0, done.text
    assert {arrival.identity for arrival in room.backend.writes()} == {"100000000022"}


class Strict(World):
    """A world whose CAM denies sub-account …11 every write."""

    def _carry_out(self, spec: Any, caller: Any, request: Any, parameters: Any, rule: Any, now: float) -> Any:
        if spec.is_write and caller.identity.endswith("11"):
            return catalog.refusal("UnauthorizedOperation", "no permission"), False
        return super()._carry_out(spec, caller, request, parameters, rule, now)


def test_what_cam_denies_one_sub_account_another_one_sends(tmp_path: Path, database: str, postgres: Postgres) -> None:
    """As without workers: the first gives its shards away. Without a worker for the others its calls fail, in words."""
    many = [f"postgres-{number:08x}/app_0" for number in range(100)]
    with room_of(tmp_path, database, postgres, Strict) as room:
        user, first, second = room.desk("user", "ONE", "TWO"), room.desk("first", "ONE"), room.desk("second", "TWO")
        with working(first):
            alone = user.run("run", "job.yaml", "--yes", "--json")
            assert alone.code == 1 and alone.json["counts"]["failed"] == len(TARGETS), alone.text
            assert "no permission" in user.run("report", alone.json["run"]).text
            room.backend.world.audit.clear()
            for target in many:
                room.backend.world.seed(target.partition("/")[0], "ap-singapore", ["app_0"])
            user.job(*many)
            with working(second):
                time.sleep(BEATS_S)
                done = user.run("run", "job.yaml", "--yes", "--json")
        assert done.code == 0 and done.json["counts"]["changed"] == len(many), done.text
        assert {each.identity[-2:] for each in room.backend.writes() if each.code is not None} == {"11"}
        assert {each.identity[-2:] for each in room.backend.writes() if each.applied} == {"22"}
        assert user.run("journal", "verify", "--all").code == 0
