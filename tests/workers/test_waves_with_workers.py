"""A roll-out in waves that workers carry out: its leader asks the gate, and nobody takes a later wave before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.simulator.world import World
from tests.support.command import Desk, wait_until
from tests.support.crew import Crew, crew_of
from tests.support.postgres import Postgres

WAVES = "waves: [{take: 3}, {take: 4}, {take: rest}]\n"
SOAKING = "waves: [{take: 3, soak: 3s}, {take: rest}]\n"
GATE = "gate: {command: [./gate.sh], every: 1s, timeout: 3s}\n"
SCRIPT = """#!/bin/sh
question=$(cat)
printf '%s\\n' "$question" >> asked.txt
nonce=$(printf %s "$question" | sed -n 's/.*"nonce":"\\([0-9a-f]*\\)".*/\\1/p')
wave=$(printf %s "$question" | sed -n 's/.*"wave":\\([0-9]*\\).*/\\1/p')
if [ "$wave" = "$(cat red 2>/dev/null)" ]; then echo "red $nonce"; exit 1; fi
if [ "$wave" = "$(cat silent 2>/dev/null)" ]; then exit 0; fi
echo "green $nonce"
"""


def office(crew: Crew) -> Crew:
    crew.desk.write("gate.sh", SCRIPT).chmod(0o755)
    for _ in range(2):
        crew.worker("--program", "./gate.sh")
    return crew


@pytest.fixture
def crew(desk: Desk, postgres: Postgres) -> Iterator[Crew]:
    world = World(latency=0)
    for at in range(3):
        world.seed(f"postgres-{at:08}", "ap-singapore", [f"user{each}" for each in range(4)])
    with crew_of(desk, postgres, world) as found:
        yield office(found)


def states(crew: Crew, run: str) -> list[tuple[int, str]]:
    return [(line["n"], line["state"]) for line in crew.records(run, "wave", no=0) if line["state"] != "planned"]


def report(crew: Crew, run: str) -> Any:
    """The report. Any: JSON."""
    return crew.run("report", run, "--format", "json").json


def locked(crew: Crew) -> int:
    accounts = (crew.backend.world.account(f"postgres-{at:08}", f"user{each}") for at in range(3) for each in range(4))
    return sum(account is not None and account.status == 5 for account in accounts)


def test_all_waves_pass(crew: Crew) -> None:
    """Each wave begins once the gate is green on the one before; the follower's exit code is the run's."""
    crew.job(extra=WAVES + GATE)
    done = crew.run("run", "job.yaml", "--yes", "--json", code=0).json
    assert [wave["state"] for wave in done["waves"]] == ["passed"] * 4
    (run,) = crew.runs()
    assert states(crew, run) == [
        (0, "passed"), (1, "begun"), (1, "passed"), (2, "begun"), (2, "passed"), (3, "begun"), (3, "passed"),
    ]  # fmt: skip
    assert locked(crew) == 12
    crew.verify(run)


def test_undo_of_a_wave(crew: Crew) -> None:
    """From any desk: the accounts of that wave are as they were, those of the others stay; then the rest."""
    crew.job(extra=WAVES + GATE)
    run = crew.run("run", "job.yaml", "--yes", "--json", code=0).json["run"]
    back = crew.run("undo", run, "--wave", "2", "--yes", "--json", code=0).json
    assert back["counts"]["changed"] == 4 and locked(crew) == 8
    crew.run("undo", run, "--yes", code=0)
    assert locked(crew) == 0
    for each in crew.runs():
        crew.verify(each)


def test_red_stops(crew: Crew) -> None:
    """Waves above the red one never start; exit 4; the run is gone on with by `resume` alone, which asks again."""
    crew.job(extra=WAVES + GATE)
    crew.desk.write("red", "2")
    done = crew.run("run", "job.yaml", "--yes", "--json", code=4).json
    run = done["run"]
    assert states(crew, run)[-1] == (2, "red") and locked(crew) == 7
    assert done["go_on"].startswith(f"acctops resume {run}")
    again = crew.run("run", "job.yaml", "--yes")
    assert again.code == 3, again.text
    (crew.desk.work / "red").unlink()
    assert crew.run("resume", run).code == 3
    crew.run("resume", run, "--yes", code=0)
    assert locked(crew) == 12
    crew.verify(run)


def test_red_undoes(crew: Crew) -> None:
    """The wave is undone by a child run; exit 4 all the same."""
    crew.job(extra=WAVES + GATE + "on_red: undo\n")
    crew.desk.write("red", "2")
    done = crew.run("run", "job.yaml", "--yes", "--json", code=4)
    run = done.json["run"]
    assert locked(crew) == 3
    assert crew.runs() == [run, done.json["undone"]["run"]]
    for each in crew.runs():
        crew.verify(each)


def test_red_undoes_also_if_nobody_follows(crew: Crew) -> None:
    """The leader begins the undo: the user may be gone."""
    crew.job(extra=WAVES + GATE + "on_red: undo\n")
    crew.desk.write("red", "2")
    run = crew.begin()
    crew.wait_for_end(run)
    wait_until(lambda: len(crew.runs()) == 2)
    undo = crew.runs()[1]
    assert crew.wait_for_end(undo)["exit"] == 0
    assert locked(crew) == 3
    crew.verify(undo)


def test_silence_stops_and_nothing_is_undone(crew: Crew) -> None:
    """A gate that says no word that counts: exit 4, nothing undone."""
    crew.job(extra=WAVES + GATE + "on_red: undo\n")
    crew.desk.write("silent", "1")
    done = crew.run("run", "job.yaml", "--yes", "--json", code=4).json
    assert states(crew, done["run"])[-1] == (1, "silent") and locked(crew) == 3 and done["undone"] is None
    crew.verify(done["run"])


def test_red_before_the_first_wave(crew: Crew) -> None:
    """Nothing is sent, exit 3."""
    crew.job(extra=WAVES + GATE)
    crew.desk.write("red", "0")
    done = crew.run("run", "job.yaml", "--yes", "--json", code=3).json
    assert not crew.backend.writes() and states(crew, done["run"]) == [(0, "red")]


def test_a_failed_call_stops_before_the_next_wave(crew: Crew) -> None:
    """Exit 4, and no word of the gate is asked for about it."""
    crew.job(extra=WAVES + GATE)
    crew.backend.script({"action": "LockAccount", "user": "user0", "code": "InvalidParameterValue.DataConvertError"})
    done = crew.run("run", "job.yaml", "--yes", "--json", code=4).json
    assert states(crew, done["run"])[-1] == (1, "failed")
    assert len({(each.instance, each.user) for each in crew.backend.writes()}) == 3
    crew.verify(done["run"])


@pytest.mark.parametrize("state", ["begun", "soaking", "red"])
def test_the_leader_is_killed(crew: Crew, state: str) -> None:
    """Another leads it on: the gate is asked again, a soak begins anew, red stays red."""
    crew.job(extra=SOAKING + GATE)
    if state == "red":
        crew.desk.write("red", "1")
    run = crew.begin()
    crew.wait_for(run, "wave", state=state)
    crew.leader(run).kill()
    end = crew.wait_for_end(run)
    assert end["exit"] == (4 if state == "red" else 0)
    assert locked(crew) == (3 if state == "red" else 12)
    crew.verify(run)
