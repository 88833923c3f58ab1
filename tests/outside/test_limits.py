"""What a process may use: open files are made sure of before the first send, and nothing is imported in trouble."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.simulator.world import World
from tests.support.command import ROOT, Backend, Desk, Done, records, wait_until

HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prlimit and /proc are Linux's")


def job_of(desk: Desk, backend: Backend, instances: int, users: int, extra: str = "") -> Path:
    """A job of so many accounts, which exist; on as many lanes as the backend has ports."""
    names = [f"user{user}" for user in range(users)]
    for number in range(instances):
        backend.world.seed(f"postgres-{number:08}", "ap-singapore", names)
    desk.env["ACCTOPS_ENDPOINT"] = ",".join(backend.endpoints)
    targets = [f"postgres-{number:08}/{name}" for number in range(instances) for name in names]
    return desk.job(*targets, extra=extra)


def limited(desk: Desk, limits: str, *argv: str | Path) -> Done:
    """A command under limits of the shell."""
    return desk.end(desk.popen(*argv, under=["/bin/sh", "-c", f'{limits}; exec "$@"', "sh"]))


def all_changed(desk: Desk, count: int) -> bool:
    return Counter(record["outcome"] for record in desk.records("settled")) == {"changed": count}


@pytest.mark.parametrize("flags", [[], ["--quiet"]])
def test_too_few_open_files_bound_what_is_under_way(desk: Desk, flags: list[str]) -> None:
    """256 files, three lanes, an API that is slow: less is in flight, all is done, and `ulimit -n` is named."""
    with Backend(World(quotas={"*": None}, latency=1.0), ports=3) as backend:
        job = job_of(desk, backend, 60, 10, "rate: 600")
        done = limited(desk, "ulimit -Sn 256; ulimit -Hn 256", "run", job, "--yes", *flags)
        assert done.code == 0, done.text
        assert "Traceback" not in done.text and "internal error" not in done.text
        assert ("`ulimit -n`" in done.err) is (not flags), "a good night is silent"
        assert all_changed(desk, 600)


def test_the_soft_limit_is_raised(desk: Desk) -> None:
    """The usual 1,024 or less is no limit where the hard one is higher: nothing is bounded, nothing said."""
    with Backend(World(quotas={"*": None}, latency=0.2), ports=3) as backend:
        job = job_of(desk, backend, 30, 10, "rate: 600")
        done = limited(desk, "ulimit -Sn 128", "run", job, "--yes")
        assert done.code == 0 and "ulimit" not in done.text
        assert all_changed(desk, 300)


def test_hopelessly_few_open_files_are_refused(desk: Desk) -> None:
    """Before anything is sent, in a sentence that says what to raise."""
    with Backend(World(quotas={"*": None}), ports=3) as backend:
        job = job_of(desk, backend, 3, 1)
        done = limited(desk, "ulimit -n 48", "run", job, "--yes")
        assert done.code == 2 and "too few for 3 lanes; nothing was sent; raise it with `ulimit -n`" in done.text
        assert not backend.writes() and "Traceback" not in done.text


def test_open_files_that_run_out_in_mid_run_lose_nothing(desk: Desk) -> None:
    """Somebody lowers the limit while it goes: no new connection can be opened; once it is raised all is done."""
    with Backend(World(quotas={"*": None}, latency=0.5)) as backend:
        job = job_of(desk, backend, 40, 4, "rate: 20")
        running = desk.popen("run", job, "--yes")
        desk.wait_for("reply", 3)
        before = resource.prlimit(running.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (8, before[1]))
        backend.script({"action": "LockAccount", "times": 20, "reset_after": True})  # whose connections are gone
        wait_until(lambda: any("Too many open files" in (record["message"] or "") for record in desk.records("reply")))
        told = [record["message"] for record in desk.records("reply") if "Too many" in (record["message"] or "")]
        assert "raise it with `ulimit -n`" in told[0]
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, before)
        done = desk.end(running)
        assert done.code == 0, done.text
        assert "Traceback" not in done.text and "internal error" not in done.text
        assert all_changed(desk, 160)


TROUBLE: list[dict[str, Any]] = [
    {"user": "user0", "code": "InternalError"},
    {"user": "user1", "reset_before": True},
    {"user": "user2", "reset_after": True},
    {"instance": "*1", "hang": True},
    {"instance": "*2", "garbage": True},
    {"instance": "*3", "truncated": True},
    {"instance": "*4", "html": True},
    {"instance": "*5", "code": "RequestLimitExceeded"},
    {"instance": "*6", "code": "InvalidParameterValue.Weird"},
    {"instance": "*7", "code": "FailedOperation.PreCheckError"},
    {"instance": "*8", "code": "ResourceNotFound.InstanceNotFoundError"},
]


def test_nothing_is_imported_when_something_goes_wrong(desk: Desk, tmp_path: Path) -> None:
    """With no open file left an import fails, and with it the run: all that trouble needs is there by then."""
    log = tmp_path / "imports"
    desk.env["IMPORT_LOG"] = str(log)
    with Backend(World(quotas={"*": None}, latency=0.3)) as backend:
        job = job_of(desk, backend, 30, 4, "rate: 20\nnotify: {command: [/bin/false], on: [start, finish, failure]}")
        running = subprocess.Popen(
            [sys.executable, "-m", "tests.support.imports", "run", str(job), "--yes", "--timeout", "2s"],
            env=desk.env, cwd=desk.work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert desk.env["PYTHONPATH"] == str(ROOT)
        desk.wait_for("reply", 3)
        known = len(log.read_text().splitlines())
        # What every call meets once; then those that read. Last an end by a signal, with its notice.
        backend.script(
            *({"action": "LockAccount", "times_each": 1, **trouble} for trouble in TROUBLE),
            {"action": "DescribeAccounts", "times": 10, "status": 502},
        )
        desk.wait_for("reply", 110)
        running.terminate()
        done = desk.end(running)
        assert done.code in (1, 143), done.text
        assert len({record["code"] for record in records(desk.journal(), "reply")}) > 5, "trouble there was"
    late = [line for line in log.read_text().splitlines()[known:] if line.startswith("loop ")]
    assert not late, "imported in mid-run: " + ", ".join(late)
