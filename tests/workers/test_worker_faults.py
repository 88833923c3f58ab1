"""What goes wrong around a worker ends in words and an exit code, and the process ends whatever its database does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.journal.database.dispatch import VERSION, migrate_dispatch
from engine.simulator.world import World
from tests.support.command import Backend, Desk, wait_until
from tests.support.crew import Worker, crew_of
from tests.support.postgres import Postgres

pytest.importorskip("dbos")


@pytest.fixture
def url(database: str, postgres: Postgres) -> Iterator[str]:
    """A database with all tables, for a worker's role; the server is as it was afterwards."""
    migrate_dispatch(postgres.url(named(database)))
    yield database
    if not postgres.server:
        postgres.start()


@pytest.fixture
def at_work(desk: Desk, url: str) -> Iterator[Desk]:
    """A desk whose runs are in the database, beside a server."""
    with Backend(World(latency=0.01)) as backend:
        desk.env |= {"ACCTOPS_DATABASE": url, "ACCTOPS_ENDPOINT": backend.endpoint}
        yield desk


def named(url: str) -> str:
    return url.rpartition("/")[2]


def started(desk: Desk, *more: str | Path) -> subprocess.Popen[bytes]:
    """A worker that is ready."""
    ready = desk.work / "ready"
    process = desk.popen("worker", "--ready-file", ready, *more)
    wait_until(lambda: ready.exists() or process.poll() is not None)
    assert process.poll() is None, desk.end(process).text
    return process


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--database", "postgresql://worker@127.0.0.1:9/x"], 4, "cannot be used now"),
        (["--database", "postgresql://worker:hunter2@127.0.0.1:9/x"], 2, "has a password in it"),
        (["--database", "URL?sslmode=verify-full"], 2, "look at sslmode"),
        (["--database", "LOOKER"], 2, "this role may only look"),
        (["--database", "NONE"], 2, "database migrate"),
        (["--lanes", "0"], 2, "--lanes"),
        (["--simulate"], 2, "--simulate"),
        (["--program", "no-such-program"], 2, "is no program"),
        (["--ready-file", "/nonesuch/ready"], 2, "--ready-file"),
        (["--state-dir", "here"], 2, "add --database URL"),
    ],
)
def test_a_worker_that_cannot_begin_says_why(at_work: Desk, url: str, argv: list[str], code: int, said: str) -> None:
    """In one message, with what to do, and never a secret or a traceback."""
    known = {"URL?sslmode=verify-full": f"{url}?sslmode=verify-full", "LOOKER": url.replace("worker@", "looker@")}
    known["NONE"] = url.replace(named(url), "postgres")
    done = at_work.run("worker", *(known.get(word, word) for word in argv))
    assert (done.code, said in done.err) == (code, True), done.text
    assert "Traceback" not in done.text and "hunter2" not in done.text and done.err.count("\nacctops:") == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("drop schema dbos cascade", "no tables of dbos"),
        ("delete from dbos.dbos_migrations", "needs"),
        ("update acctops.version set number = 9 where number = 2", "a newer acctops made"),
        ("delete from acctops.version where number = 2", "its owner migrates them"),
        ("update acctops.home set place = 'elsewhere'", "tend --adopt"),
        ("revoke all on schema dbos from acctops_worker", "may not"),
    ],
)
def test_a_database_that_is_not_ready_for_workers_is_refused(
    at_work: Desk, url: str, postgres: Postgres, change: str, said: str
) -> None:
    """Wrong versions, tables that are missing, a restored copy, rights that are not given: exit 2, and the cure."""
    postgres.sql(named(url), change)
    process = at_work.popen("worker")
    done = at_work.end(process)
    assert (done.code, said in done.err) == (2, True), done.text
    assert "Traceback" not in done.text


def test_a_standby_is_refused(at_work: Desk, url: str, postgres: Postgres) -> None:
    """It can be read, so it looks usable: the worker names the cure before it begins."""
    with postgres.standby() as port:
        done = at_work.end(at_work.popen("worker", "--database", url.replace(f":{postgres.port}", f":{port}")))
    assert done.code == 2 and "read-only standby; name the primary" in done.err, done.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_it_leave_in_order(at_work: Desk, number: signal.Signals) -> None:
    """Exit 0, its file is gone, and doctor lists it no more."""
    process = started(at_work)
    assert "worker " in at_work.run("doctor").out
    process.send_signal(number)
    done = at_work.end(process)
    assert done.code == 0 and "left: what it had is given back" in done.err, done.text
    assert not (at_work.work / "ready").exists()
    assert "up to 50 lanes" not in at_work.run("doctor").out


def test_a_signal_at_any_moment_of_the_start_ends_it(at_work: Desk) -> None:
    """In words and within seconds, whatever is being loaded or asked."""
    for wait_s in (0.05, 0.4, 0.9, 1.5):
        process = at_work.popen("worker")
        time.sleep(wait_s)
        process.send_signal(signal.SIGTERM)
        done = at_work.end(process)
        assert done.code in (0, 143, -signal.SIGTERM) and "Traceback" not in done.text, done.text


def test_it_ends_though_its_database_is_gone(at_work: Desk, postgres: Postgres) -> None:
    """Not ready once nothing answers; told to leave it leaves, and no thread that waits for the database holds it."""
    process = started(at_work)
    postgres.stop(mode="immediate")
    wait_until(lambda: not (at_work.work / "ready").exists())
    process.send_signal(signal.SIGTERM)
    done = at_work.end(process)
    assert done.code in (0, 75) and "Traceback" not in done.text, done.text


def test_a_second_signal_ends_it_at_once(at_work: Desk, postgres: Postgres) -> None:
    """Though a frozen server holds up the orderly way; exit 143 as for any command that is terminated."""
    process = started(at_work)
    postgres.freeze()
    try:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        done = at_work.end(process)
    finally:
        postgres.thaw()
    assert done.code == 143 and "left at once" in done.err, done.text


def test_a_server_that_is_restarted_is_met_again(at_work: Desk, postgres: Postgres) -> None:
    """The worker goes on, is ready again, and serves the next run."""
    process = started(at_work)
    postgres.stop()
    wait_until(lambda: not (at_work.work / "ready").exists())
    postgres.start()
    wait_until((at_work.work / "ready").exists)
    at_work.job()
    done = at_work.run("run", "job.yaml", "--yes")
    assert done.code == 0, done.text
    process.send_signal(signal.SIGTERM)
    ended = at_work.end(process)
    assert ended.code == 0 and "Traceback" not in ended.text, ended.text
    assert "taken" in ended.err


def test_its_metrics_are_there_while_it_is(at_work: Desk) -> None:
    """By its name, beside those of runs; they go with it, and those of a killed one ten minutes later."""
    pytest.importorskip("prometheus_client")
    at_work.write("config.yaml", "metrics_file: acctops.prom\n")
    old = at_work.write(
        "acctops.prom",
        'acctops_worker_update_time_seconds{worker="dead"} 1.0\nacctops_worker_lanes{worker="dead"} 7.0\n'
        'acctops_run_live{job="kept"} 0.0\n',
    )
    process = started(at_work)
    wait_until(lambda: f":{process.pid}:" in old.read_text())
    text = old.read_text()
    assert "acctops_worker_ready{" in text and 'worker="dead"' not in text and 'job="kept"' in text
    process.send_signal(signal.SIGTERM)
    assert at_work.end(process).code == 0
    assert f":{process.pid}:" not in old.read_text() and old.stat().st_size


_OLDER = """
import engine
engine.__version__ = "0.0.9"
import engine.journal.database.dispatch as dispatch
for each in (*vars(dispatch).values(), *vars(dispatch.Dispatcher).values()):
    if "version" in (getattr(each, "__kwdefaults__", None) or {}):
        each.__kwdefaults__["version"] = "VERSION"
from engine.cli import entry
entry()
"""
"""A worker of an older release, whose sessions are of this version."""


@pytest.mark.parametrize("version", [VERSION, "0"])
def test_workers_of_two_releases_hand_a_run_on(desk: Desk, postgres: Postgres, version: str) -> None:
    """While they are replaced: who began a run, and who is left, may be of different ones. `doctor` names them."""
    with crew_of(desk, postgres) as crew:
        crew.job(12, 5)
        crew.worker()
        log = desk.place / "older.log"
        code = _OLDER.replace("VERSION", version)
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", code, "worker"], cwd=desk.work, env=desk.env, stdout=file, stderr=file
            )
        crew.workers.append(Worker(process, log))
        wait_until(lambda: "ready: worker" in log.read_text())
        wait_until(lambda: "acctops 0.0.9" in crew.run("doctor").text)
        assert "have both the same" in crew.run("doctor").text
        run = crew.begin()
        crew.wait_for(run, "settled", 3)
        busy = next(worker for worker in crew.workers if ": taken" in worker.said)
        (other,) = (worker for worker in crew.workers if worker is not busy)
        busy.kill()
        assert crew.wait_for_end(run)["exit"] == 0
        assert ": taken" in other.said
        made = Counter((each.instance, each.user) for each in crew.backend.writes() if each.applied)
        assert len(made) == made.total() == 60
        crew.verify(run)
