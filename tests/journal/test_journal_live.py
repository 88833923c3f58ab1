"""`journal.live`: of two runs that must not meet, one is refused, however they start."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random

import pytest

from engine.errors import BusyError, ConfigError, Reason
from engine.journal import locks
from engine.journal.live import claimed
from engine.journal.protocols import Claim
from engine.journal.store import RunStore
from engine.journal.writer import FileJournal
from engine.model import CallId, call_id
from tests.support.command import ROOT
from tests.support.journals import NOW, plan, run_record, ticking

INVERSE = {"LockAccount": "UnlockAccount", "UnlockAccount": "LockAccount", "RefreshAccountPassword": None}


def ids(action: str, users: Iterable[str]) -> dict[CallId, str]:
    return {call_id("", "ap-singapore", "postgres-a1", user, action): f"postgres-a1/{user}" for user in users}


def claim(
    store: RunStore, run: str, users: str, *, action: str = "LockAccount", digest: str | None = None, path: str = ""
) -> AbstractContextManager[None]:
    """A claim on accounts with one-letter names."""
    inverse = INVERSE[action]
    mine = Claim(run_id=run, digest=digest or run, path=path, action=action, calls=list(ids(action, users)))
    return claimed(store, mine, inverse=inverse, undone_by=lambda: ids(inverse, users) if inverse else {})


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "state")


def left(store: RunStore) -> list[str]:
    return sorted(path.name for path in (store.root / "live").iterdir())


def test_a_second_run_of_a_live_job_is_busy(store: RunStore) -> None:
    """By its content, or by its file, as it may have been edited since; it is told which run that is."""
    with claim(store, "run-1", "ab", digest="d1", path="/jobs/a.yaml"):
        for digest, path in (("d1", ""), ("d2", "/jobs/a.yaml")):
            with (
                pytest.raises(BusyError, match="as run-1; wait for it, or stop it: acctops stop run-1") as error,
                claim(store, "run-2", "xy", digest=digest, path=path),
            ):
                pass
            assert error.value.reason is Reason.BUSY
    with claim(store, "run-2", "ab", digest="d1", path="/jobs/a.yaml"):
        pass
    assert left(store) == ["claims.lock"]


def test_what_does_not_meet_is_not_hindered(store: RunStore) -> None:
    """Other accounts, the same action, an action without inverse, a simulated run, a job without a file."""
    with (
        claim(store, "run-1", "ab", digest="d1"),
        claim(store, "run-2", "cd", action="UnlockAccount"),
        claim(store, "run-3", "ab"),
        claim(store, "run-4", "ab", action="RefreshAccountPassword"),
        claim(RunStore(store.state_dir, simulated=True), "run-5", "ab", action="UnlockAccount", digest="d1"),
    ):
        assert len(left(store)) == 5


def test_the_opposite_on_a_shared_account_is_busy(store: RunStore) -> None:
    """Either way round, with an account of both and the run that has it."""
    for first, second in (("LockAccount", "UnlockAccount"), ("UnlockAccount", "LockAccount")):
        with claim(store, "run-1", "abc", action=first):
            with (
                pytest.raises(
                    BusyError, match=f"run run-1 is doing the opposite right now: {first} on 2 of .* postgres-a1/b; .*"
                ),
                claim(store, "run-2", "bcd", action=second),
            ):
                pass
            with claim(store, "run-3", "d", action=second):
                pass


def test_a_claim_of_a_killed_process_hinders_nobody(store: RunStore) -> None:
    """kill −9 lets go of it at once, and the next who looks clears it away."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom engine.journal.store import RunStore\n"
        "from tests.journal.test_journal_live import claim\n"
        "with claim(RunStore(Path(sys.argv[1])), 'run-1', 'ab', digest='d'):\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store.state_dir)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(BusyError), claim(store, "run-2", "ab", digest="d"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert "run-1.claim" in left(store)
    with claim(store, "run-2", "ab", digest="d"):
        assert left(store) == ["claims.lock", "run-2.claim"]
    with claim(store, "run-1", "ab", digest="d"):  # the same run again, as by a resume
        pass


def _race(state: str, run: str, action: str, barrier: object, answers: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    try:
        with claim(RunStore(Path(state)), run, "abc", action=action):
            answers.put("held")  # type: ignore[attr-defined]
            barrier.wait()  # type: ignore[attr-defined]
    except BusyError:
        answers.put("busy")  # type: ignore[attr-defined]
        barrier.wait()  # type: ignore[attr-defined]


def test_of_two_that_start_at_once_exactly_one_goes(store: RunStore) -> None:
    """A lock and an unlock of the same accounts, started together, several times: never both, and never neither."""
    several = multiprocessing.get_context("spawn")
    for number in range(3):
        barrier, answers = several.Barrier(2), several.Queue()
        racers = [
            several.Process(
                target=_race, args=(str(store.state_dir), f"run-{number}{action}", action, barrier, answers)
            )
            for action in ("LockAccount", "UnlockAccount")
        ]
        for racer in racers:
            racer.start()
        assert sorted(answers.get(timeout=60) for _ in racers) == ["busy", "held"]
        for racer in racers:
            racer.join()


def test_a_run_whose_claim_was_removed_is_known_by_its_journal(store: RunStore) -> None:
    """`rm -rf live` lets no second run of the job begin, nor its opposite."""
    run_id = store.new_run_id(NOW, Random(1))
    journal = FileJournal.create(store, run_id, plan(4), clock=ticking())
    digest = run_record(4).job.digest
    with pytest.raises(BusyError, match=f"as {run_id}; wait"), claim(store, "run-2", "ab", digest=digest):
        pass
    journal.close()
    with claim(store, "run-2", "ab", digest=digest):
        pass


@pytest.mark.parametrize(
    "text", [b"", b"nonsense", b"[]\n", b"[" * 100_000, b'{"run": 1}\n', b"\xff\n", b"{}\n" + b"x" * 9]
)
def test_a_claim_of_nonsense_is_no_traceback(store: RunStore, text: bytes) -> None:
    """Held or not: whose it is says the journal, if there is one."""
    path = store.root / "live" / "run-1.claim"
    store.make_dir(path.parent)
    path.write_bytes(text)
    fd = os.open(path, os.O_RDWR)
    locks.take(fd)
    with claim(store, "run-2", "ab"):
        assert "run-1.claim" in left(store)
    os.close(fd)
    with claim(store, "run-2", "ab"):
        assert left(store) == ["claims.lock", "run-2.claim"]


def test_a_lock_of_one_who_may_only_read_keeps_nobody_waiting(store: RunStore) -> None:
    """On the file of the claims: every run failed after half a minute."""
    with claim(store, "run-1", "a"):
        pass
    reading = os.open(store.root / "live" / "claims.lock", os.O_RDONLY)
    fcntl.flock(reading, fcntl.LOCK_EX)
    fcntl.fcntl(reading, fcntl.F_OFD_SETLK, locks._ask(fcntl.F_RDLCK))
    with claim(store, "run-2", "a", digest="d"), pytest.raises(BusyError), claim(store, "run-3", "b", digest="d"):
        pass
    os.close(reading)
    assert (store.root / "live" / "claims.lock").stat().st_mode & 0o777 == 0o600


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file where a directory is due; a group that is not there."""
    (tmp_path / "live").write_text("")
    with (
        pytest.raises(ConfigError, match=f"{tmp_path}/live cannot be written: Not a directory"),
        claim(RunStore(tmp_path), "x", "a"),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="there is no group 'nosuch'"),
        claim(RunStore(tmp_path, group="nosuch"), "x", ""),
    ):
        pass
