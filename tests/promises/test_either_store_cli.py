"""Whole commands over files and over a database: the same story, the same words, the same at the server."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import Approval, Engine
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done, environment, wait_until
from tests.support.stores import Kept

USERS = [f"app_{number}" for number in range(12)]
NOT_THERE = "InvalidParameterValue.AccountNotExistError"


class Office:
    """A desk, a server, and a place for runs; commands are given from two hosts' worth of local state."""

    def __init__(self, place: Path, kept: Kept, backend: Backend) -> None:
        self.kept = kept
        self.backend = backend
        self.desk = Desk(place)
        self.desk.env |= kept.env | {"ACCTOPS_ENDPOINT": backend.endpoint}
        self.desk.job(*(f"postgres-aaaaaaaa/{user}" for user in USERS))

    def __call__(self, *argv: str | Path, code: int = 0, **more: Any) -> Done:
        done = self.desk.run(*argv, **more)
        assert done.code == code, done.text
        return done

    def start(self, *argv: str, rate: str = "8") -> subprocess.Popen[bytes]:
        """A run that takes a second or two, as a process, once its first calls are on their way."""
        before = len(self.backend.writes())
        process = self.desk.popen("run", "job.yaml", "--yes", "--rate", rate, *argv)
        wait_until(lambda: len(self.backend.writes()) >= before + 2)
        return process

    def run_id(self) -> str:
        """The newest run."""
        return str(self("status", "--json").json["runs"][0]["run"])

    def locked(self) -> list[str]:
        return sorted(
            user
            for user in USERS
            if self.backend.world.account("postgres-aaaaaaaa", user).status == 5  # locked
        )


@pytest.fixture
def office(tmp_path: Path, kept: Kept) -> Iterator[Office]:
    world = World(latency=0.002, quotas={"*": None})
    world.seed("postgres-aaaaaaaa", "ap-singapore", USERS)
    with Backend(world) as backend:
        yield Office(tmp_path, kept, backend)


def test_a_run_and_all_that_looks_at_it(office: Office) -> None:
    """run, status, report, verify, journal verify, pending, holds, evidence, export."""
    done = office("run", "job.yaml", "--yes", "--json").json
    run, head = done["run"], done["journal_head"]
    assert done["counts"]["changed"] == 12 and office.locked() == sorted(USERS)
    assert office("status", "--json").json["runs"][0]["counts"]["changed"] == 12
    assert "12 of 12 verified" in office("status", run).out
    assert office("report", run, "--format", "csv").out.count("changed") == 12
    assert office("verify", run, "--json").json["verified"]["agree"] == 12
    checked = office("journal", "verify", run, "--head", head, "--json").json
    assert checked["head"] == head and checked["listed"]["seq"] == 1
    assert office("journal", "verify", "--all", "--json").json["stores"][0]["runs"] == 1
    assert office("pending", "--json").json["open"] == 0
    assert len(office("holds", "--json").json["holds"][0]["targets"]) == 12
    assert office("evidence", run, "--out", "run.zip", "--json").json["exit"] == 0
    assert office("report", run, "--format", "html", "-o", "run.html").code == 0
    assert office("overdue", "job.yaml", "--every", "1d").code == 0
    exported = office("journal", "export", run, "--into", "out", "--json").json
    assert exported["head"] == head
    alone = desk_elsewhere(office)
    for words in (["journal", "verify"], ["report"], ["status"]):
        assert alone.run(*words, office.desk.work / "out" / run).code == 0
    refused = alone.run("resume", str(office.desk.work / "out" / run), "--yes")
    assert refused.code == 2, refused.text


def desk_elsewhere(office: Office) -> Desk:
    """A desk elsewhere, which knows of no database and no runs."""
    place = office.desk.place / "elsewhere"
    place.mkdir()
    return Desk(place)


@pytest.mark.parametrize("killed_after", [2, 7])
def test_a_killed_run_is_gone_on_with(office: Office, killed_after: int) -> None:
    """kill -9; resume does what is left, and nothing twice but what was in flight."""
    with office.start("--rate", "10") as process:
        wait_until(lambda: len(office.backend.writes()) >= killed_after)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run = office.run_id()
    wait_until(lambda: not office("status", "--json").json["runs"][0]["live"])
    done = office("resume", run, "--yes", "--json").json
    assert done["counts"]["changed"] + done["counts"]["already"] == 12 and office.locked() == sorted(USERS)
    assert len(office.backend.writes()) <= 13
    assert office("journal", "verify", run).code == 0
    assert office("status", "--json").json["runs"][0]["live"] is False


def test_what_failed_is_run_again(office: Office) -> None:
    """rerun --only failed; the families' holds and the undo of both."""
    office.backend.script({"action": "LockAccount", "user": "app_3", "times": 1, "code": NOT_THERE})
    first = office("run", "job.yaml", "--yes", "--json", code=1).json
    assert first["counts"]["failed"] == 1
    assert office("pending", "--json").json["open"] == 1
    again = office("rerun", first["run"], "--only", "failed", "--yes", "--json").json
    assert again["counts"]["changed"] == 1
    assert office("pending", "--json").json["open"] == 0
    back = office("undo", again["run"], "--family", "--yes", "--json").json
    assert back["counts"]["changed"] == 12 and office.locked() == []
    assert office("holds", "--json").json["holds"] == []


def test_accounts_are_given_back(office: Office) -> None:
    """Two incidents hold one account: the last undo opens it. release, owed, hold, tend."""
    first = office("run", "job.yaml", "--yes", "--json").json["run"]
    both = ("lock", "postgres-aaaaaaaa/app_1", "--region", "ap-singapore")
    second = office(*both, "--yes", "--json").json["run"]
    assert "stays" in office("undo", first, "--yes").text
    assert office.locked() == ["app_1"]
    office("release", second, "--reason", "false alarm")
    assert len(office("holds", "--owed", "--json").json["owed"]) == 1
    third = office(*both, "--yes", "--json").json["run"]
    office("hold", third, "--for", "1ms", "--then", "unlock")

    def is_open() -> bool:  # once the limit has passed by the server's clock, too, which counts whole seconds
        office("tend")
        return office.locked() == []

    wait_until(is_open)
    assert office("overdue", "--tend").code == 0


def test_a_watch_is_read_and_told(office: Office) -> None:
    """verify --watch is of one command; a watch belongs to the store, and tend reads it."""
    office.desk.job(*(f"postgres-aaaaaaaa/{user}" for user in USERS), extra="watch: {every: 5m, for: 1d}")
    run = office("run", "job.yaml", "--yes", "--json").json["run"]
    office.backend.world.account("postgres-aaaaaaaa", "app_2").status = 2  # somebody opened it
    clock = _later(7 * 60)
    assert "1 back" in office("tend", clock=clock).out
    told = office("report", run, "--json", clock=clock).json["watch"]
    assert "app_2" in str(told["back"]) and told["accounts"] == 12


def _later(seconds: float) -> Callable[[], float]:
    import time

    return lambda: time.time() + seconds


def test_a_live_run_is_steered_from_elsewhere(office: Office) -> None:
    """status, pause, change, resume, stop while it works; a second start, and the opposite, are refused."""
    with office.start(rate="6") as process:
        run = office.run_id()
        assert office("status", "--json").json["runs"][0]["live"] is True
        assert "as " + run in office("run", "job.yaml", "--yes", code=6).text
        opposite = ("unlock", "postgres-aaaaaaaa/app_11", "--region", "ap-singapore", "--yes")
        assert "doing the opposite" in office(*opposite, code=6).text
        assert "is being run already" in office("resume", run, "--yes", code=6).text
        assert office("pause", run, "--json").json["effect"] == "paused"
        paused = len(office.backend.writes())
        assert office("change", run, "--drop", "*/app_11", "--rate", "1", "--json").json["effect"] == "changed"
        assert len(office.backend.writes()) == paused
        assert office("resume", run, "--json").json["effect"] == "unpaused"
        wait_until(lambda: len(office.backend.writes()) > paused)
        assert "asked to drain" in office("stop", run).err
        ended = office.desk.end(process)
    assert ended.code == 4, ended.text
    done = office("resume", run, "--yes", "--rate", "50", "--json", code=1).json
    assert done["counts"] == {"changed": 11, "already": 0, "failed": 1, "unknown": 0, "unattempted": 0}
    assert "app_11" not in office.locked()


def test_two_places_know_nothing_of_each_other(office: Office) -> None:
    """--state-dir beside a database has its own runs, and follow-up commands find theirs."""
    run = office("run", "job.yaml", "--yes", "--json").json["run"]
    there = office.desk.place / "there"
    assert office("status", "--state-dir", there, "--json").json["runs"] == []
    office.desk.job("postgres-aaaaaaaa/app_1", name="other.yaml")
    done = office("run", "other.yaml", "--yes", "--state-dir", there, "--json")
    assert re.search("already", done.out) and office("status", "--json").json["runs"][0]["run"] == run


async def test_a_program_does_the_same(office: Office) -> None:
    """The library: planned, begun, looked at while it goes, taken back."""
    kept = office.kept
    where = {"database": kept.database} if kept.database is not None else {"state_dir": kept.state_dir}
    with environment(office.desk.env, office.desk.work):
        async with Engine(**where, endpoint=office.backend.endpoint) as acctops:
            run = await acctops.begin(await acctops.plan("job.yaml"), Approval(how="test", by="ana"))
            seen = [progress.settled async for progress in run.progress(every=0.05)]
            ended = await run.result()
            assert ended.counts["changed"] == 12 and seen[-1] == 12 and run.id in ended.journal
            undo = await acctops.begin(await acctops.undo(run.id), Approval(how="test", by="ana"))
            assert (await undo.result()).counts["changed"] == 12
            assert [head.run_id for head in acctops.runs()] == [undo.id, run.id]
    assert office.locked() == []
