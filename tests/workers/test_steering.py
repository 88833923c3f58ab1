"""People steer a run that workers carry out: stop, pause, lift, change; the journal says what is in effect."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from engine.simulator.world import World
from tests.support.command import Desk, wait_until
from tests.support.crew import Crew, crew_of
from tests.support.postgres import Postgres


@pytest.fixture
def crew(desk: Desk, postgres: Postgres) -> Iterator[Crew]:
    with crew_of(desk, postgres, World(quotas={"*": None})) as found:
        yield found


def begun(crew: Crew, instances: int = 12, users: int = 5) -> str:
    """A run of which some calls are settled, and others in shards that nobody has taken yet."""
    crew.job(instances, users)
    run = crew.begin("--rate", "8")  # so slowly that the last shard is not begun when it is paused
    crew.wait_for(run, "settled", 3)
    return run


def sent(crew: Crew) -> set[str]:
    return {f"{each.instance}/{each.user}" for each in crew.backend.writes()}


def test_stop_drains_all_shards(crew: Crew) -> None:
    """Exit 4; what was sent is settled; `resume` goes on with it to the end."""
    crew.worker()
    run = begun(crew)
    crew.run("stop", run, code=0)
    end = crew.wait_for_end(run)
    assert end["exit"] == 4 and "acctops stop" in end["stopped"]["why"]
    assert end["counts"]["unknown"] == 0 and 0 < end["counts"]["unattempted"] < 60
    assert end["counts"]["changed"] == len(sent(crew))
    crew.verify(run)
    done = crew.run("resume", run, "--yes", "--json", code=0).json
    assert done["counts"]["changed"] == 60
    assert len(crew.backend.writes()) == 60
    crew.verify(run)


def test_pause_change_and_lift(crew: Crew) -> None:
    """Nothing leaves while it holds; a change counts also in shards that nobody has begun; then it goes on."""
    crew.worker()
    run = begun(crew)
    paused = crew.run("pause", run, "--json", code=0).json
    assert paused["effect"] == "paused" and paused["facts"]["in_flight"] == 0
    there = len(crew.backend.writes())
    assert "PAUSED by " in crew.run("status", run).out
    dropped = crew.run("change", run, "--rate", "10", "--drop", "postgres-00000011/*", "--json", code=0).json
    assert dropped["facts"]["dropped"] == 5 and dropped["facts"]["sent"] == 0 and dropped["facts"]["rate"] == 10
    assert crew.run("run", "job.yaml", "--yes").code in (3, 6)
    time.sleep(0.5)
    assert len(crew.backend.writes()) == there
    assert "its pause is lifted" in crew.run("resume", run, code=0).out
    end = crew.wait_for_end(run)
    assert end["exit"] == 1 and end["counts"]["changed"] == 55
    assert not any(name.startswith("postgres-00000011/") for name in sent(crew))
    crew.verify(run)


def test_what_was_dropped_stays_out_after_a_stop(crew: Crew) -> None:
    """Though no session had begun its shard: the request is gone with the stop, the line is not."""
    crew.worker()
    run = begun(crew)
    crew.run("pause", run, code=0)
    crew.run("change", run, "--drop", "postgres-00000011/*", code=0)
    crew.run("stop", run, code=0)
    crew.wait_for_end(run)
    crew.run("resume", run, "--yes")
    assert not any(name.startswith("postgres-00000011/") for name in sent(crew)) and len(sent(crew)) == 55
    crew.verify(run)


def test_a_pause_holds_though_the_leader_is_killed(crew: Crew) -> None:
    """Who leads it on notes the pause again, with the same end; nothing leaves meanwhile."""
    crew.worker()
    crew.worker()
    run = begun(crew)
    crew.run("pause", run, "--for", "1h", code=0)
    there, until = len(crew.backend.writes()), crew.notes(run, "paused")[0]["data"]["until"]
    crew.leader(run).kill()
    wait_until(lambda: len(crew.notes(run, "paused")) == 2)
    again = crew.notes(run, "paused")[1]["data"]["until"]
    assert again[:18] == until[:18] and len(crew.backend.writes()) == there
    assert "PAUSED by " in crew.run("status", run).out
    crew.run("resume", run, code=0)
    assert crew.wait_for_end(run)["exit"] == 0
    crew.verify(run)


def test_a_pause_runs_out(crew: Crew) -> None:
    """It drains and stops, exit 4, and never goes on by itself."""
    crew.worker()
    run = begun(crew)
    crew.run("pause", run, "--for", "2s", code=0)
    end = crew.wait_for_end(run)
    assert end["exit"] == 4 and "ran out" in end["stopped"]["why"]
    assert crew.run("run", "job.yaml", "--yes").code == 3
    crew.run("resume", run, "--yes", code=0)


def test_what_is_asked_before_anybody_leads_it(crew: Crew) -> None:
    """A pause of a run that no worker has taken yet counts before its first call."""
    crew.job()
    run = crew.begin()
    asking = crew.desk.popen("pause", run, "--json")
    wait_until(lambda: bool(crew.sql("select 1 from acctops.request")))
    crew.worker()
    assert crew.desk.end(asking).code == 0
    assert not crew.backend.writes()
    crew.run("resume", run, code=0)
    assert crew.wait_for_end(run)["exit"] == 0


def test_stop_of_a_run_that_no_worker_has(crew: Crew) -> None:
    """It is taken back at once, its `end` says why, and workers that come later leave it alone."""
    crew.job()
    run = crew.begin()
    done = crew.run("stop", run, code=0)
    assert "no worker was there" in done.err
    end = crew.wait_for_end(run)
    assert end["exit"] == 4 and end["counts"]["unattempted"] == 12
    crew.worker()
    assert crew.run("status", run).code == 0
    assert not crew.backend.writes()
    crew.run("resume", run, "--yes", code=0)
    assert len(sent(crew)) == 12
