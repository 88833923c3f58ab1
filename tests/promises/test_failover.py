"""A fleet of three workers whose PostgreSQL fails over to its standby, runs out of room, or comes from a backup."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.command import Desk, wait_until
from tests.support.crew import crew_of
from tests.support.fleet import fleet, report, until
from tests.support.postgres import Postgres, serving

CALLS, BEGUN = 240, 40
DISK_MB = 192
LEAVE_S = 1.5
"""Longer than anybody has leave to send without a commit."""


@pytest.fixture
def own(postgres: Postgres) -> Iterator[Postgres]:
    """A server of this test alone: it may be lost. Skipped where there is none."""
    with serving() as server:
        yield server


def test_a_standby_that_is_promoted_takes_the_run_over(tmp_path: Path, own: Postgres) -> None:
    """It has all that was recorded, as it was synchronous; workers and commands find it, and no second has too many."""
    with fleet(tmp_path, own) as site, own.standby() as port:
        own.sql("postgres", "alter system set synchronous_standby_names = '*'", "select pg_reload_conf()")
        wait_until(lambda: own.sql("postgres", "select sync_state from pg_stat_replication") == [("sync",)])
        site.url = site.url.replace(f":{own.port}/", f":{own.port},127.0.0.1:{port}/")
        site.url += "?target_session_attrs=read-write"
        work = site.submit(CALLS)
        site.wait_for(work, BEGUN)
        own.stop(mode="immediate")
        promoted = copy.copy(own)
        promoted.port = port
        promoted.sql("postgres", "alter system set synchronous_standby_names = ''", "select pg_promote()")
        site.postgres = promoted
        for member in site.members:
            member.cable.server = port
        site.wait_end(work)
        report(f"failover: {site.check(work)}")
        site.supervise()


@pytest.fixture
def small() -> Iterator[Path]:
    """A small disk; only root can make one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system takes root")
    place = Path(tempfile.mkdtemp(prefix="acctops-small-", dir="/tmp"))
    size = f"size={DISK_MB}m"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", place], capture_output=True).returncode:
        place.rmdir()
        pytest.skip("no file system can be mounted here")
    place.chmod(0o755)
    yield place
    subprocess.run(["umount", "-l", place], check=True)
    shutil.rmtree(place)


def fill(place: Path) -> Path:
    """Leave no room on a disk; the file that takes it."""
    found = place / "filler"
    with found.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return found


def test_a_server_without_room_sends_nothing_and_goes_on_once_it_has_some(
    tmp_path: Path, small: Path, postgres: Postgres
) -> None:
    """What cannot be recorded is not sent; nobody needs to be told once there is room again."""
    with serving(str(small)) as own, fleet(tmp_path, own) as site:
        work = site.submit(CALLS)
        site.wait_for(work, BEGUN)
        filler = fill(small)
        until(lambda: any("No space left on device" in member.said for member in site.members))
        doctor = site.host().run("doctor").text
        assert "fail  database" in doctor and "No space left on device" in doctor
        silent = len(site.writes(work))
        time.sleep(LEAVE_S)
        assert len(site.writes(work)) == silent < CALLS
        filler.unlink()
        if own.server is not None and own.server.poll() is not None:
            own.start()  # it may end where it cannot write its log
        site.wait_end(work)
        report(f"no room: {site.check(work)}")
        site.supervise()


def test_a_database_from_an_older_backup_is_told_from_the_one_that_was_seen(tmp_path: Path, own: Postgres) -> None:
    """Its server says it is the original. This host has seen a run that it lacks: nobody works there until told to."""
    desk = Desk(tmp_path)
    with crew_of(desk, own) as crew:
        (tmp_path / "other").mkdir()
        other = Desk(tmp_path / "other")
        other.env |= {name: desk.env[name] for name in ("ACCTOPS_DATABASE", "ACCTOPS_ENDPOINT")}
        crew.job(1, 2)
        worker = crew.worker()
        first = crew.run("run", "job.yaml", "--yes", "--json", code=0).json["run"]
        worker.end()
        own.stop()
        backup = own.place / "backup"
        subprocess.run(["cp", "-a", own.data, backup], check=True)
        own.start()
        worker = crew.worker()
        crew.job(2, 2)
        lost = crew.run("run", "job.yaml", "--yes", "--json", code=0).json["run"]
        assert "lacks" not in other.run("doctor").text
        own.stop()
        shutil.rmtree(own.data)
        backup.rename(own.data)
        own.start()
        assert worker.process.wait(60) == 2 and f"lacks what this host has seen of run {lost}" in worker.said
        again = desk.end(desk.popen("worker"))
        assert again.code == 2 and lost in again.err and "acctops tend --adopt" in again.err, again.text
        assert "it lacks what this host has seen" in crew.run("doctor").text
        assert "it lacks what this host has seen" in other.run("doctor").text
        assert first in crew.run("status").text, "what is there can be looked at"
        crew.run("tend", "--adopt", code=0)
        crew.worker()
        crew.run("run", "job.yaml", "--yes", code=0)
        assert "lacks" not in other.run("doctor").text, "what was adopted counts for all hosts"
