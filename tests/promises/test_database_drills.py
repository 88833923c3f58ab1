"""Runs over a database that is killed, frozen and restarted, and runs that are: real processes, a real PostgreSQL.

Each drill ends with the same questions: what the server saw is what the journal says, nothing is lost, sent or settled
twice, the chain holds.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.simulator.world import World
from tests.support.command import Backend, Desk, wait_until
from tests.support.postgres import Postgres

INSTANCES = [f"postgres-{number:08x}" for number in range(10)]
USERS = [f"app_{number}" for number in range(6)]


class Site:
    """Two hosts' desks on one database, beside a server."""

    def __init__(self, place: Path, database: str, backend: Backend) -> None:
        self.backend = backend
        self.desks = []
        for name in ("one", "two"):
            (place / name).mkdir()
            desk = Desk(place / name)
            desk.env |= {"ACCTOPS_DATABASE": database, "ACCTOPS_ENDPOINT": backend.endpoint}
            desk.job(*(f"{instance}/{user}" for instance in INSTANCES for user in USERS))
            self.desks.append(desk)

    @property
    def here(self) -> Desk:
        return self.desks[0]

    @property
    def there(self) -> Desk:
        return self.desks[1]

    def start(self, calls: int = 6) -> tuple[object, str]:
        process = self.here.popen("run", "job.yaml", "--yes", "--rate", "12")
        wait_until(lambda: len(self.backend.writes()) >= calls)
        (run,) = [head["run"] for head in self.there.run("status", "--json").json["runs"]]
        return process, str(run)

    def account_for(self, run: str) -> None:
        """The journal and the server tell the same story; every account is locked, once or seen to be."""
        checked = self.there.run("journal", "verify", run, "--json")
        assert checked.code == 0 and checked.json["settled_twice"] == [], checked.text
        report = self.there.run("report", run, "--format", "json").json
        assert Counter(target["outcome"] for target in report["targets"]) == {"changed": 60}
        attempts = self.there.run("report", run, "--format", "json", "--attempts").json["attempts"]
        seen = {arrival.request_id for arrival in self.backend.writes() if arrival.request_id is not None}
        known = {each["request_id"] for each in attempts if each["request_id"] is not None}
        assert known <= seen
        sent = Counter((arrival.instance, arrival.user) for arrival in self.backend.writes())
        lost = [each for each in attempts if each["sent_at"] is None or each["request_id"] is None]
        assert sum(sent.values()) - 60 <= len(lost), "more was sent than the journal says"
        back = self.there.run("undo", run, "--yes", "--json")
        assert back.code == 0 and back.json["counts"]["changed"] == 60, back.text


@pytest.fixture
def site(tmp_path: Path, database: str) -> Iterator[Site]:
    world = World(latency=0.01, quotas={"*": None})
    for instance in INSTANCES:
        world.seed(instance, "ap-singapore", USERS)
    with Backend(world) as backend:
        yield Site(tmp_path, database, backend)


def test_a_host_that_dies_is_followed_by_another(site: Site) -> None:
    """kill -9: the run is gone on with from a host that has nothing but the database."""
    process, run = site.start()
    os.kill(process.pid, signal.SIGKILL)
    site.here.end(process)
    wait_until(lambda: not site.there.run("status", "--json").json["runs"][0]["live"])
    resumed = site.there.run("resume", run, "--yes")
    assert resumed.code == 0, resumed.text
    site.account_for(run)


def test_a_process_that_was_stopped_sends_nothing_when_it_wakes(site: Site) -> None:
    """It was taken over meanwhile: not one call of it arrives any more, and it says who has the run."""
    process, run = site.start()
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: not site.there.run("status", "--json").json["runs"][0]["live"])
    resumed = site.there.run("resume", run, "--yes")
    assert resumed.code == 0, resumed.text
    there = len(site.backend.writes())
    os.kill(process.pid, signal.SIGCONT)
    woken = site.here.end(process)
    assert len(site.backend.writes()) == there
    assert woken.code == 4 and "the run was taken by process" in woken.text, woken.text
    assert f"acctops status {run}" in woken.text
    site.account_for(run)


def test_a_pause_of_a_run_that_is_held_up_is_not_said_to_be_lost(site: Site) -> None:
    """Its silence does not show that it has ended. When it goes on, it pauses; and goes on when that is lifted."""
    process, run = site.start()
    os.kill(process.pid, signal.SIGSTOP)
    told = site.there.run("pause", run)
    assert told.code == 1 and "nothing is heard of its process" in told.err, told.text
    assert f"acctops resume {run}" in told.err and "has ended" not in told.err
    os.kill(process.pid, signal.SIGCONT)
    wait_until(lambda: site.there.run("status", run, "--json").json["paused"] is not None)
    assert site.there.run("resume", run).code == 0
    assert site.here.end(process).code == 0
    site.account_for(run)


def test_a_stopped_run_that_would_meet_a_new_one_is_fenced_first(site: Site) -> None:
    """The opposite on one of its accounts begins once it has been silent; when it wakes, it sends nothing."""
    process, run = site.start()
    opposite = ("unlock", f"{INSTANCES[9]}/{USERS[5]}", "--region", "ap-singapore", "--yes")
    assert site.there.run(*opposite).code == 6
    os.kill(process.pid, signal.SIGSTOP)
    done = site.there.run(*opposite)
    assert done.code == 0, done.text
    there = len(site.backend.writes())
    os.kill(process.pid, signal.SIGCONT)
    woken = site.here.end(process)
    assert len(site.backend.writes()) == there
    assert woken.code == 4 and "the run was taken by process" in woken.text, woken.text
    resumed = site.there.run("resume", run, "--yes")
    assert resumed.code == 0, resumed.text
    site.account_for(run)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_restarts_pauses_the_run(site: Site, postgres: Postgres, mode: str) -> None:
    """Sending stops within a second and goes on by itself; no person is needed."""
    process, run = site.start()
    postgres.stop(mode=mode)
    try:
        time.sleep(1.5)
        silent = len(site.backend.writes())
        time.sleep(1.0)
        assert len(site.backend.writes()) == silent, "no leave, no bytes"
    finally:
        postgres.start()
    done = site.here.end(process)
    assert done.code == 0, done.text
    site.account_for(run)


def test_a_server_that_freezes_pauses_the_run(site: Site, postgres: Postgres) -> None:
    """Neither answers nor refuses for seconds: the same."""
    process, run = site.start()
    postgres.freeze()
    try:
        time.sleep(1.5)
        silent = len(site.backend.writes())
        time.sleep(2.5)
        assert len(site.backend.writes()) == silent, "no leave, no bytes"
    finally:
        postgres.thaw()
    done = site.here.end(process)
    assert done.code == 0, done.text
    site.account_for(run)


def test_a_ctrl_c_while_the_database_is_gone_ends_in_order_or_at_once(site: Site, postgres: Postgres) -> None:
    """The first waits for it; a second leaves, and the run can be gone on with."""
    process, run = site.start()
    postgres.freeze()
    try:
        time.sleep(1.2)
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGINT)
        ended = site.here.end(process)
        assert ended.code == 130, ended.text
    finally:
        postgres.thaw()
    # What the dead process had still asked for is carried out now, and counts as a sign of life.
    left = f"select 1 from pg_stat_activity where application_name = 'acctops {process.pid}'"
    wait_until(lambda: not postgres.sql("postgres", left))
    wait_until(lambda: not site.there.run("status", "--json").json["runs"][0]["live"])
    assert site.there.run("resume", run, "--yes").code == 0
    site.account_for(run)
