"""Appending: what is acknowledged survives, whatever the disk does; what is not is never relied on."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BusyError, ConfigError, JournalCorruptError, JournalWriteError, Reason, UsageError
from engine.journal import locks, reader
from engine.journal.records import AnyRecord, Note
from engine.journal.store import RunStore
from engine.journal.writer import FileJournal
from engine.model import RunId
from tests.support.journals import NOW, Disk, plan, sent, session, settled, story, ticking, write_run


def note(number: int) -> Note:
    return Note(what="pause", data={"n": number})


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "state")


def create(store: RunStore, disk: Disk | None = None, calls: int = 2) -> FileJournal:
    disk = disk or Disk()
    run_id = store.new_run_id(NOW, Random(1))
    return FileJournal.create(store, run_id, plan(calls), clock=ticking(), write=disk.write, sync=disk.sync)


def reopen(store: RunStore, run_id: str, disk: Disk | None = None) -> tuple[FileJournal, reader.Replay]:
    disk = disk or Disk()
    return FileJournal.open(store, RunId(run_id), clock=ticking(), write=disk.write, sync=disk.sync)


def run_of(journal: FileJournal) -> str:
    return journal.path.parent.name


def python(code: str, *args: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), *args]


class TestDurability:
    """J2."""

    async def test_j2_durable_returns_and_then_is_called_only_after_the_sync(self, store: RunStore) -> None:
        """While the disk is still at it, nobody is told anything."""
        disk = Disk()
        journal = create(store, disk)
        disk.go.clear()
        disk.syncing.clear()
        told: list[AnyRecord] = []
        seq = journal.append(sent(0), told.append)
        waiting = asyncio.ensure_future(journal.durable(seq))
        assert await asyncio.to_thread(disk.syncing.wait, 30)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        assert (told, journal.durable_seq) == ([], seq - 1)
        disk.go.set()
        await waiting
        assert [record.seq for record in told] == [seq]
        assert (journal.durable_seq, journal.durable_head) == (seq, journal.head)
        await journal.aclose()

    async def test_j2_everything_acknowledged_survives_a_power_cut(self, store: RunStore) -> None:
        """Forty workers, a disk that keeps only what was synced, cut after the fact: no acknowledged line is gone."""
        disk = Disk(at_once=97)
        journal = create(store, disk)
        acknowledged: list[AnyRecord] = []

        async def work(worker: int) -> None:
            rng = random.Random(worker)
            for step in range(20):
                record = note(worker * 100 + step)
                seq = journal.append(record)
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
                await journal.durable(seq)
                assert disk.synced_lines >= seq
                acknowledged.append(record)

        workers = [asyncio.ensure_future(work(worker)) for worker in range(40)]
        await asyncio.gather(*workers[:10])
        for record in [note(-1), note(-2)]:
            journal.append(record)
        held = list(acknowledged)
        disk.lose()
        kept = {record.seq: record for record in reader.read(journal.path)}
        assert all(kept[record.seq] == record for record in held)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def test_j2_then_is_called_in_the_order_of_appending_with_the_record_as_it_is_read(
        self, store: RunStore
    ) -> None:
        """The live ledger sees the very sequence a reader will see."""
        disk = Disk()
        journal = create(store, disk)
        told: list[AnyRecord] = []

        def tell(record: AnyRecord) -> None:
            assert disk.synced_lines >= record.seq
            told.append(record)

        async def work(worker: int) -> None:
            for step in range(10):
                journal.append(note(step), tell if (worker + step) % 3 else None)
                seq = journal.append(note(step), tell)
                await journal.durable(seq)
                assert told[-1].seq >= seq or any(record.seq == seq for record in told)

        await asyncio.gather(*(work(worker) for worker in range(20)))
        await journal.aclose()
        by_seq = {record.seq: record for record in reader.read(journal.path)}
        assert [record.seq for record in told] == sorted(record.seq for record in told)
        assert told == [by_seq[record.seq] for record in told]

    async def test_j2_then_has_been_called_by_the_time_durable_returns(self, store: RunStore) -> None:
        """Who waits for a line may look into the ledger for it."""
        journal = create(store)
        told: list[int] = []
        for number in range(5):
            seq = journal.append(note(number), lambda record: told.append(record.seq))
            await journal.durable(seq)
            assert told[-1] == seq
        await journal.aclose()

    async def test_group_commit_a_thousand_appends_take_few_syncs(self, store: RunStore) -> None:
        """One sync serves all that waits."""
        disk = Disk()
        journal = create(store, disk)
        before = disk.syncs

        async def one(number: int) -> None:
            await journal.durable(journal.append(note(number)))

        await asyncio.gather(*(one(number) for number in range(1000)))
        assert disk.syncs - before <= 3
        await journal.aclose()
        assert reader.replay(journal.path).seq == 1003

    async def test_group_commit_what_wakes_together_commits_together(self, store: RunStore) -> None:
        """Workers released by one sync share the next one, so the batches do not fall apart over time."""
        disk = Disk()
        journal = create(store, disk)
        before = disk.syncs

        async def work() -> None:
            for number in range(10):
                await journal.durable(journal.append(note(number)))

        await asyncio.gather(*(work() for _ in range(50)))
        assert disk.syncs - before <= 12
        await journal.aclose()

    async def test_what_is_appended_during_a_commit_goes_with_the_next(self, store: RunStore) -> None:
        """And who waits for it waits on, when those of the first are released."""
        disk = Disk()
        journal = create(store, disk)
        disk.go.clear()
        disk.syncing.clear()
        first = asyncio.ensure_future(journal.durable(journal.append(note(1))))
        await asyncio.to_thread(disk.syncing.wait, 30)
        synced_to: list[int] = []
        second = asyncio.ensure_future(journal.durable(journal.append(note(2))))
        first.add_done_callback(lambda _: synced_to.append(journal.durable_seq))
        await asyncio.sleep(0)
        syncs = disk.syncs
        disk.go.set()
        await second
        assert first.done()
        assert synced_to == [4]
        assert (disk.syncs - syncs, journal.durable_seq) == (1, 5)
        await journal.aclose()

    async def test_durable_by_default_means_all_that_is_appended(self, store: RunStore) -> None:
        """And costs nothing if that is on disk already."""
        disk = Disk()
        journal = create(store, disk)
        await journal.durable()
        journal.append(note(1))
        journal.append(note(2))
        await journal.durable()
        syncs = disk.syncs
        assert disk.synced_lines == journal.seq == journal.durable_seq
        await journal.durable()
        await journal.durable(1)
        assert disk.syncs == syncs
        await journal.aclose()

    async def test_a_cancelled_waiter_disturbs_nobody(self, store: RunStore) -> None:
        """A worker that is cancelled leaves the record it appended, and the others their answer."""
        disk = Disk()
        journal = create(store, disk)
        disk.go.clear()
        seq = journal.append(note(1))
        first = asyncio.ensure_future(journal.durable(seq))
        second = asyncio.ensure_future(journal.durable(seq))
        await asyncio.to_thread(disk.syncing.wait, 30)
        first.cancel()
        disk.go.set()
        await second
        assert first.cancelled()
        await journal.aclose()

    async def test_a_listener_that_fails_silences_nobody(self, store: RunStore) -> None:
        """The others are told, the waiters go on, and the error is reported by the loop."""
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
        journal = create(store)
        told: list[int] = []

        def fail(record: AnyRecord) -> None:
            raise ZeroDivisionError(record.seq)

        journal.append(note(1), fail)
        journal.append(note(2), lambda record: told.append(record.seq))
        await journal.durable()
        assert told == [journal.seq]
        assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]
        await journal.aclose()

    async def test_a_listener_may_append(self, store: RunStore) -> None:
        """What it appends goes with a later commit."""
        journal = create(store)
        journal.append(note(1), lambda _: journal.append(note(2)))
        await journal.durable()
        await journal.aclose()
        assert reader.replay(journal.path).seq == 5

    @pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
    def test_j2_the_kernel_saw_an_fdatasync_before_every_acknowledgement(self, store: RunStore, tmp_path: Path) -> None:
        """Not our word for it: the system calls of a process that prints what it was told is durable."""
        code = """
            import asyncio, os, sys, time
            from pathlib import Path
            from random import Random
            from engine.journal.store import RunStore
            from engine.journal.writer import FileJournal
            from tests.support.journals import plan, sent
            store = RunStore(Path(sys.argv[1]))
            async def main():
                journal = FileJournal.create(store, store.new_run_id(1.0, Random(1)), plan(3), clock=time.time)
                async def work(worker):
                    for number in range(5):
                        seq = journal.append(sent(worker * 5 + number))
                        await journal.durable(seq)
                        os.write(1, b"ack %d\\n" % seq)
                await asyncio.gather(*(work(worker) for worker in range(4)))
                await journal.aclose()
            asyncio.run(main())
        """
        trace = tmp_path / "trace"
        command = ["strace", "-f", "-s", "100000", "-o", str(trace), "-e", "trace=openat,write,fdatasync"]
        done = subprocess.run([*command, *python(code, str(store.state_dir))], capture_output=True, text=True)
        if "ptrace" in done.stderr:
            pytest.skip("strace is not allowed here")
        assert done.stdout.count("ack") == 20, done.stderr
        journal_fd, written, durable, acknowledged, syncing = None, 0, 0, 0, {}
        for line in trace.read_text().splitlines():
            thread, _, event = line.partition(" ")
            event = event.strip()
            if opened := re.match(r'openat\(.*/journal\.jsonl", .*\) = (\d+)', event):
                journal_fd, written, durable = opened[1], 4, 4
            elif journal_fd and event.startswith(f"write({journal_fd},"):
                written = max(int(seq) for seq in re.findall(r'\\"seq\\":(\d+)', event))
            elif journal_fd and event.startswith(f"fdatasync({journal_fd}"):
                syncing[thread] = written
                if event.endswith("= 0"):
                    durable = syncing[thread]
            elif event.startswith("<... fdatasync resumed>") and event.endswith("= 0") and thread in syncing:
                durable = syncing[thread]
            elif ack := re.match(r'write\(1, "ack (\d+)', event):
                assert int(ack[1]) <= durable
                acknowledged += 1
        assert acknowledged == 20


class TestBrokenDisk:
    """After a failed write or fsync nothing more is written, synced or acknowledged."""

    @pytest.mark.parametrize("room", [0, 1, 700, 5000])
    async def test_disk_full_in_mid_batch(self, store: RunStore, room: int) -> None:
        """All who wait are told, with what to do; nothing lost is shown; a resume goes on from what is there."""
        disk = Disk()
        journal = create(store, disk)
        disk.room = room
        told: list[AnyRecord] = []
        results = await asyncio.gather(
            *(journal.durable(journal.append(note(number), told.append)) for number in range(100)),
            return_exceptions=True,
        )
        assert all(isinstance(result, JournalWriteError) for result in results)
        text = str(results[0])
        assert str(journal.path) in text
        assert "No space left on device (ENOSPC)" in text
        assert f"free space there, then go on with: acctops resume {run_of(journal)}" in text
        assert isinstance(journal.broken, JournalWriteError)
        assert journal.broken.reason is Reason.STOPPED
        assert told == []
        calls = disk.writes, disk.syncs
        with pytest.raises(JournalWriteError):
            journal.append(note(0))
        with pytest.raises(JournalWriteError):
            await journal.durable()
        with pytest.raises(JournalWriteError):
            journal.flush()
        await journal.durable(3)
        await journal.aclose()
        assert (disk.writes, disk.syncs) == calls
        again, found = reopen(store, run_of(journal))
        assert again.append_now(session()) == found.seq + 1
        again.close()
        assert reader.verify(journal.path).lines == found.seq + 1

    async def test_a_failed_sync_is_not_repeated(self, store: RunStore) -> None:
        """The kernel reports it once and may have dropped the pages: a second one would succeed and lie."""
        disk = Disk()
        journal = create(store, disk)
        disk.fail_sync = disk.syncs + 2
        told: list[int] = []
        await journal.durable(journal.append(note(1), lambda record: told.append(record.seq)))
        lost = journal.append(note(2), lambda record: told.append(record.seq))
        with pytest.raises(JournalWriteError, match=r"Input/output error \(EIO\).*look after that disk"):
            await journal.durable(lost)
        journal.close()
        assert disk.syncs == disk.fail_sync
        assert told == [lost - 1]
        assert journal.durable_seq == lost - 1

    async def test_what_is_appended_during_the_failing_commit_is_lost_loudly(self, store: RunStore) -> None:
        """Nothing written after the failure, everyone told."""
        disk = Disk()
        journal = create(store, disk)
        disk.fail_sync = disk.syncs + 1
        disk.go.clear()
        disk.syncing.clear()
        first = asyncio.ensure_future(journal.durable(journal.append(note(1))))
        await asyncio.to_thread(disk.syncing.wait, 30)
        second = asyncio.ensure_future(journal.durable(journal.append(note(2))))
        await asyncio.sleep(0)
        size = journal.path.stat().st_size
        disk.go.set()
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(result) for result in results] == [JournalWriteError] * 2
        journal.close()
        assert journal.path.stat().st_size == size

    async def test_flush_beside_a_failing_commit_writes_nothing(self, store: RunStore) -> None:
        """The failure is known in the thread before the loop hears of it."""
        disk = Disk()
        journal = create(store, disk)
        disk.fail_sync = disk.syncs + 1
        disk.go.clear()
        disk.syncing.clear()
        journal.append(note(1))
        await asyncio.sleep(0)
        await asyncio.to_thread(disk.syncing.wait, 30)
        journal.append(note(2))
        size = journal.path.stat().st_size
        disk.go.set()
        with pytest.raises(JournalWriteError):
            journal.flush()
        await asyncio.sleep(0)
        journal.close()
        assert (disk.syncs, journal.path.stat().st_size) == (disk.fail_sync, size)

    def test_a_disk_that_takes_nothing_is_broken(self, store: RunStore) -> None:
        """No endless loop."""
        journal = create(store)
        journal._write = lambda _fd, _data: 0
        journal.append(note(1))
        with pytest.raises(JournalWriteError, match="EIO"):
            journal.close()

    def test_a_blocking_failure_is_told_at_once(self, store: RunStore) -> None:
        """`append_now` and `close` say so, once; the lock is released all the same."""
        disk = Disk()
        journal = create(store, disk)
        disk.fail_sync = disk.syncs + 1
        with pytest.raises(JournalWriteError):
            journal.append_now(note(1))
        journal.close()
        reopen(store, run_of(journal))[0].close()

    async def test_aclose_reports_what_it_could_not_write(self, store: RunStore) -> None:
        """The last words too."""
        disk = Disk(fail_sync=2)
        journal = create(store, disk)
        journal.append(note(1))
        with pytest.raises(JournalWriteError):
            await journal.aclose()
        await journal.aclose()
        reopen(store, run_of(journal))[0].close()


class TestBlocking:
    """Without a loop, and between loop and thread."""

    async def test_flush_while_a_commit_is_under_way_keeps_the_order(self, store: RunStore) -> None:
        """The commit in the thread and the one on the loop's thread take turns."""
        disk = Disk()
        journal = create(store, disk)
        told: list[int] = []
        disk.go.clear()
        disk.syncing.clear()
        journal.append(note(1), lambda record: told.append(record.seq))
        await asyncio.sleep(0)
        await asyncio.to_thread(disk.syncing.wait, 30)
        journal.append(note(2), lambda record: told.append(record.seq))
        disk.go.set()
        journal.flush()
        assert told == [4, 5]
        assert journal.durable_seq == 5
        await journal.durable()
        await journal.aclose()
        assert reader.replay(journal.path).seq == 5

    async def test_close_with_a_commit_not_yet_started(self, store: RunStore) -> None:
        """What the thread had not begun is written by close, once."""
        journal = create(store)
        journal.append(note(1))
        await asyncio.sleep(0)
        journal.close()
        await asyncio.sleep(0)
        assert reader.replay(journal.path).seq == 4
        with pytest.raises(RuntimeError, match="closed"):
            journal.append(note(2))

    async def test_close_before_the_loop_came_to_it(self, store: RunStore) -> None:
        """Nor is it written twice."""
        journal = create(store)
        journal.append(note(1))
        journal.close()
        journal.close()
        await asyncio.sleep(0)
        assert reader.replay(journal.path).seq == 4

    def test_appended_without_a_loop_it_waits_for_one_or_for_flush(self, store: RunStore) -> None:
        """Two loops one after another, and none between them."""
        journal = create(store)
        journal.append(note(1))
        assert journal.durable_seq == 3
        asyncio.run(journal.durable())
        assert journal.durable_seq == 4
        journal.append(note(2))

        async def append_and_leave() -> None:
            journal.append(note(3))

        asyncio.run(append_and_leave())
        journal.append(note(4))

        async def wait() -> None:
            journal.append(note(5))
            await journal.durable()

        asyncio.run(wait())

        async def leave_at_work() -> None:
            journal.append(note(6))
            await asyncio.sleep(0)  # the commit begins, and nobody waits for it

        asyncio.run(leave_at_work())
        asyncio.run(wait())
        assert journal.durable_seq == journal.seq == 10
        journal.close()
        assert [record.seq for record in reader.read(journal.path)] == list(range(1, 11))


class TestMeddling:
    """The journal is known by its name and its size, too: what is durable can be found again."""

    @staticmethod
    def meddle(how: str, path: Path) -> None:
        aside = path.with_name("aside")
        match how:
            case "removed":
                path.unlink()
            case "its directory removed":
                shutil.rmtree(path.parent)
            case "moved":
                path.rename(aside)
            case "replaced by an empty file":
                path.rename(aside)
                path.touch()
            case "replaced by a copy":
                shutil.copy(path, aside)
                aside.replace(path)
            case "cut":
                os.truncate(path, 100)
            case _:
                with path.open("ab") as file:
                    file.write(b"mine\n")

    @pytest.mark.parametrize(
        ("how", "words", "kept"),
        [
            ("removed", "was removed or moved away while the run went on; its records were saved there", "{path}"),
            ("its directory removed", "was removed or moved away .* its records were saved there", "{path}"),
            (
                "moved",
                "was removed or moved away .* its records are in .*/aside: put it back",
                "{path.parent}/aside",
            ),
            ("replaced by an empty file", "was replaced by another file .* are in .*/aside", "{path.parent}/aside"),
            (
                "replaced by a copy",
                r"was replaced by another file .* saved as .*kept-\d+: put",
                "{path}.kept-*",
            ),
            ("cut", r"was cut by [\d,]+ bytes while the run went on", None),
            ("written to by others", r"was written to by somebody else \(5 bytes\) .*kept-\d+: put", "{path}.kept-*"),
        ],
    )
    async def test_a_journal_that_is_meddled_with_ends_the_run(
        self, store: RunStore, how: str, words: str, kept: str | None
    ) -> None:
        """Noticed by the next commit, so nothing is sent on its strength; what was recorded is not lost."""
        journal = create(store)
        told: list[AnyRecord] = []
        await journal.durable(journal.append(sent(0), told.append))
        whole = journal.path.read_bytes()
        self.meddle(how, journal.path)
        with pytest.raises(JournalWriteError, match=words) as error:
            await journal.durable(journal.append(sent(1), told.append))
        assert error.value.reason is Reason.STOPPED
        assert "Nothing further is sent" in str(error.value)
        assert [record.seq for record in told] == [4]
        with pytest.raises(JournalWriteError):
            journal.append(sent(1))
        journal.close()
        if kept is not None:
            pattern = Path(kept.format(path=journal.path))
            (found,) = pattern.parent.glob(pattern.name)
            assert found.read_bytes() == whole
            assert (found.stat().st_mode & 0o777) == 0o600

    async def test_a_run_goes_on_from_what_was_saved(self, store: RunStore) -> None:
        """As the message says: its own name is free again, and holds all that was recorded."""
        journal = create(store)
        await journal.durable(journal.append(sent(0)))
        run_id = run_of(journal)
        journal.path.unlink()
        with pytest.raises(JournalWriteError):
            await journal.durable(journal.append(sent(1)))
        journal.close()
        again, found = reopen(store, run_id)
        assert found.seq == 4
        again.close()

    @pytest.mark.parametrize("name", ["lock", "journal.jsonl"])
    def test_j5_a_lock_that_was_removed_is_held_all_the_same(self, store: RunStore, name: str) -> None:
        """Anybody who may write in the directory can unlink a lock file; the journal itself is locked, too."""
        journal = create(store)
        if name == "lock":
            journal.path.with_name(name).unlink()
        with pytest.raises(BusyError, match="is being worked on"):
            reopen(store, run_of(journal))
        assert store.is_live(run_of(journal))
        journal.close()
        assert not store.is_live(run_of(journal))
        reopen(store, run_of(journal))[0].close()

    def test_j5_a_lock_of_one_who_may_only_read_stops_nobody(self, store: RunStore) -> None:
        """Of the group of `state_group`: neither the run nor its resume is hindered, and it is not called LIVE."""
        run_id, _ = write_run(store, story())
        assert (store.run_dir(run_id) / "lock").stat().st_mode & 0o777 == 0o600, "only its owner may open it at all"
        reading = os.open(store.path(run_id), os.O_RDONLY)
        fcntl.flock(reading, fcntl.LOCK_EX)
        fcntl.fcntl(reading, fcntl.F_OFD_SETLK, locks._ask(fcntl.F_RDLCK))
        assert not store.is_live(run_id)
        journal, _ = reopen(store, run_id)
        assert store.is_live(run_id)
        journal.close()
        assert not store.is_live(run_id)
        os.close(reading)

    def test_j5_an_older_version_at_work_is_seen(self, store: RunStore) -> None:
        """It knew `flock` only, on a lock file that it left empty."""
        run_id, _ = write_run(store, story())
        lock = store.run_dir(run_id) / "lock"
        lock.write_bytes(b"")
        older = os.open(lock, os.O_RDWR)
        fcntl.flock(older, fcntl.LOCK_EX)
        assert store.is_live(run_id)
        with pytest.raises(BusyError):
            reopen(store, run_id)
        os.close(older)
        reopen(store, run_id)[0].close()

    async def test_whoever_leaves_does_not_wait_for_the_disk(self, store: RunStore) -> None:
        """What it has not taken counts as not recorded; the lock is free as soon as the disk answers."""
        disk = Disk()
        journal = create(store, disk)
        told: list[AnyRecord] = []
        disk.go.clear()
        journal.append(sent(0), told.append)
        while not journal.waiting_s:
            await asyncio.sleep(0)
        assert not journal.leave(0.05)
        assert told == []
        assert store.is_live(run_of(journal))
        journal.close()
        disk.go.set()
        while store.is_live(run_of(journal)):
            await asyncio.sleep(0.01)

    async def test_whoever_leaves_a_healthy_disk_loses_nothing(self, store: RunStore) -> None:
        """The last replies are recorded."""
        journal = create(store)
        journal.append(sent(0))
        assert journal.leave(30)
        assert reader.replay(journal.path).seq == 4


class TestCreation:
    """A run exists from the rename on."""

    def test_j1_killed_at_any_step_there_is_no_run_or_a_whole_one(self, tmp_path: Path) -> None:
        """kill -9 before every system call of the creation in turn."""
        code = """
            import os, signal, sys
            from pathlib import Path
            from random import Random
            from engine.journal.store import RunStore
            from engine.journal.writer import FileJournal
            from tests.support.journals import plan
            names = "open mkdir chmod fchmod write fdatasync fsync rename close unlink".split()
            for step in range(1000):
                store = RunStore(Path(sys.argv[1]) / str(step))
                child = os.fork()
                if not child:
                    left = [step]
                    def killing(real):
                        def call(*args, **kwargs):
                            left[0] -= 1
                            if left[0] < 0:
                                os.kill(os.getpid(), 9)
                            return real(*args, **kwargs)
                        return call
                    for name in names:
                        setattr(os, name, killing(getattr(os, name)))
                    run_id = store.new_run_id(0.0, Random(1))
                    FileJournal.create(store, run_id, plan(20), clock=lambda: 0.0, write=os.write, sync=os.fdatasync)
                    os._exit(0)
                if os.waitpid(child, 0)[1] == 0:
                    break
            print(step)
        """
        done = subprocess.run(python(code, str(tmp_path)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        steps = int(done.stdout)
        assert steps > 12
        born = []
        for step in range(steps + 1):
            store = RunStore(tmp_path / str(step))
            names = store.names()
            born.append(bool(names))
            for name in names:
                found = reader.replay(store.path(name))
                assert (found.seq, found.torn_bytes, len(found.ledger.calls)) == (21, 0, 20)
        assert born == sorted(born)
        assert not born[0]
        assert born[-1]
        assert born.count(True) > 1

    def test_j1_the_file_is_durable_before_the_rename(self, store: RunStore) -> None:
        """Else a power cut after it would leave a run with half a plan."""
        disk = Disk()
        journal = create(store, disk, calls=5)
        assert disk.synced_lines == 6
        assert disk.path is not None
        assert disk.path.name == "journal.jsonl.new"
        journal.close()

    @pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
    def test_j1_names_are_made_durable_too(self, store: RunStore, tmp_path: Path) -> None:
        """A directory is synced after every name made in it: the run would be gone after a power cut."""
        code = """
            import sys, time
            from pathlib import Path
            from engine.journal.store import RunStore
            from engine.journal.writer import FileJournal
            from tests.support.journals import plan
            FileJournal.create(RunStore(Path(sys.argv[1])), "r", plan(1), clock=time.time).close()
        """
        trace = tmp_path / "trace"
        command = ["strace", "-f", "-y", "-s", "1000", "-o", str(trace), "-e", "trace=mkdir,rename,fsync,fdatasync"]
        done = subprocess.run([*command, *python(code, str(store.state_dir))], capture_output=True, text=True)
        if "ptrace" in done.stderr:
            pytest.skip("strace is not allowed here")
        assert done.returncode == 0, done.stderr
        text = re.sub(r" *<unfinished \.\.\.>\n(?:.*\n)*?.*<\.\.\. \w+ resumed>", "", trace.read_text())
        done_calls = [line for line in text.splitlines() if line.endswith("= 0")]
        above = re.escape(str(store.state_dir.parent))
        found = (re.search(rf"(\w+)\(.*?{above}([\w./]*)", line) for line in done_calls)
        seen = [f"{call[1]} {call[2]}" for call in found if call]
        assert seen == [
            "mkdir /state",
            "fsync ",
            "mkdir /state/runs",
            "fsync /state",
            "mkdir /state/runs/r",
            "fsync /state/runs",
            "fdatasync /state/runs/r/journal.jsonl.new",
            "rename /state/runs/r/journal.jsonl.new",
            "fsync /state/runs/r",
        ]

    def test_a_leftover_of_a_killed_creation_is_nobodys_run(self, store: RunStore) -> None:
        """And does not hinder the next."""
        run_id = store.new_run_id(NOW, Random(1))
        store.make_run_dir(run_id)
        store.path(run_id).with_name("journal.jsonl.new").write_text("half")
        assert store.list() == ()
        with pytest.raises(UsageError, match="no such journal"):
            reopen(store, run_id)
        journal = FileJournal.create(store, run_id, plan(1), clock=ticking())
        journal.close()
        assert reader.replay(store.path(run_id)).seq == 2
        assert sorted(path.name for path in journal.path.parent.iterdir()) == ["journal.jsonl", "lock"]

    @pytest.mark.parametrize("room", [0, 500, 100_000])
    def test_a_creation_that_fails_leaves_nothing(self, store: RunStore, room: int) -> None:
        """Disk full while the plan is written: exit 4, no run, no litter."""
        disk = Disk(room=room)
        with pytest.raises(JournalWriteError, match=r"ENOSPC.*Nothing was sent; free space there, then run again"):
            create(store, disk, calls=10_000)
        assert list(store.runs_dir.iterdir()) == []
        assert disk.syncs == 0

    def test_a_plan_that_fails_leaves_nothing(self, store: RunStore) -> None:
        """The records come from a generator, which may raise anything."""

        def first() -> Any:
            yield from plan(2)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            FileJournal.create(store, store.new_run_id(NOW, Random(1)), first(), clock=ticking())
        assert list(store.runs_dir.iterdir()) == []

    def test_a_run_is_created_once(self, store: RunStore) -> None:
        """J4: not over one that exists."""
        journal = create(store)
        journal.close()
        text = journal.path.read_bytes()
        with pytest.raises(UsageError, match="exists already"):
            FileJournal.create(store, RunId(run_of(journal)), plan(1), clock=ticking())
        assert journal.path.read_bytes() == text

    def test_the_plan_is_streamed_and_may_be_folded_on_the_way(self, store: RunStore) -> None:
        """A record's envelope is filled when the next is asked for; a million need not be held."""
        seen: list[int] = []

        def first() -> Any:
            for record in plan(20_000):
                yield record
                seen.append(record.seq)

        disk = Disk()
        journal = FileJournal.create(
            store, store.new_run_id(NOW, Random(1)), first(), clock=ticking(), write=disk.write, sync=disk.sync
        )
        journal.close()
        assert seen == list(range(1, 20_002))
        assert disk.writes > 3

    @pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
    def test_modes_are_private_whatever_the_umask(self, store: RunStore, umask: int) -> None:
        """0600 in 0700: names of accounts are nobody else's business."""
        before = os.umask(umask)
        try:
            journal = create(store)
            journal.close()
            store.add_aside(run_of(journal), [Note(what="told", data={})], clock=ticking())
            store.add_aside(run_of(journal), [Note(what="told", data={})], clock=ticking())
        finally:
            os.umask(before)
        path = journal.path
        assert path.stat().st_mode & 0o7777 == 0o600
        assert path.with_name(reader.ASIDE).stat().st_mode & 0o7777 == 0o600
        assert path.with_name("lock").stat().st_mode & 0o7777 == 0o600
        for directory in (path.parent, path.parent.parent, store.state_dir):
            assert directory.stat().st_mode & 0o7777 == 0o700

    def test_a_state_group_may_read(self, tmp_path: Path) -> None:
        """0640 in 2750, of that group."""
        import grp

        group = grp.getgrgid(os.getgid())
        store = RunStore(tmp_path / "state", group=group.gr_name)
        journal = create(store)
        journal.close()
        before = os.umask(0o077)
        try:
            store.add_aside(run_of(journal), [Note(what="told", data={})], clock=ticking())
        finally:
            os.umask(before)
        aside = journal.path.with_name(reader.ASIDE)
        for path, mode in (
            (journal.path, 0o640),
            (aside, 0o640),
            (journal.path.parent, 0o2750),
            (tmp_path / "state", 0o2750),
        ):
            assert path.stat().st_mode & 0o7777 == mode
            assert path.stat().st_gid == group.gr_gid
        with pytest.raises(ConfigError, match="state_group: there is no group 'nosuch'"):
            create(RunStore(tmp_path / "other", group="nosuch"))


class TestReopening:
    """J1, J4, J5."""

    @settings(max_examples=25, deadline=None)
    @given(data=st.data())
    def test_j4_bytes_up_to_the_last_newline_never_change(
        self, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Over any number of sessions, each ended by a crash with some torn tail."""
        store = RunStore(tmp_path_factory.mktemp("state"))
        journal = create(store)
        run_id = run_of(journal)
        journal.close()
        truth = journal.path.read_bytes()
        for _ in range(data.draw(st.integers(1, 5))):
            torn = data.draw(st.binary(max_size=50).map(lambda torn: torn.replace(b"\n", b"")))
            with journal.path.open("ab") as file:
                file.write(torn)
            journal, found = reopen(store, run_id)
            assert (found.torn_bytes, found.size) == (len(torn), len(truth))
            assert journal.path.read_bytes() == truth
            for number in range(data.draw(st.integers(0, 3))):
                journal.append(note(number))
            journal.close()
            now = journal.path.read_bytes()
            assert now.startswith(truth)
            truth = now
        assert reader.verify(journal.path).torn_bytes == 0

    def test_j1_a_torn_tail_is_cut_only_by_the_lock_holder(self, store: RunStore) -> None:
        """Readers leave it; who opens cuts it, and says how much."""
        run_id, text = write_run(store, story())
        path = store.path(run_id)
        path.write_bytes(text + b"torn")
        reader.replay(path)
        store.list()
        assert path.read_bytes() == text + b"torn"
        journal, found = reopen(store, run_id)
        assert found.torn_bytes == 4
        assert path.read_bytes() == text
        assert (journal.seq, journal.head) == (found.seq, found.head)
        journal.close()

    def test_j2_what_a_killed_process_left_unsynced_is_synced_before_it_is_relied_on(self, store: RunStore) -> None:
        """It may be in memory only, and a resume decides from it."""
        run_id, text = write_run(store, story())
        disk = Disk()
        journal, _ = reopen(store, run_id, disk)
        assert disk.synced_bytes == len(text)
        journal.close()

    def test_a_disk_that_fails_on_opening(self, store: RunStore) -> None:
        """Exit 4, and the lock is free again."""
        run_id, _ = write_run(store, story())
        with pytest.raises(JournalWriteError, match="EIO"):
            reopen(store, run_id, Disk(fail_sync=1))
        reopen(store, run_id)[0].close()

    def test_a_corrupt_or_misplaced_journal_is_not_opened(self, store: RunStore) -> None:
        """And the lock is free again."""
        run_id, text = write_run(store, story())
        path = store.path(run_id)
        path.write_bytes(text.replace(b"leak", b"lark", 1))
        for _ in range(2):
            with pytest.raises(JournalCorruptError, match=":1: the hash differs"):
                reopen(store, run_id)
        store.make_run_dir("elsewhere")
        store.path("elsewhere").write_bytes(text)
        with pytest.raises(JournalCorruptError, match=f":1: is the journal of run {run_id}, not of elsewhere"):
            reopen(store, "elsewhere")

    def test_a_journal_that_may_not_be_written(self, store: RunStore) -> None:
        """A usage error that says so."""
        run_id, _ = write_run(store, story())
        subprocess.run(["chattr", "+i", str(store.path(run_id))], capture_output=True)
        try:
            if os.access(store.path(run_id), os.W_OK):
                pytest.skip("nothing can be made unwritable here")
            with pytest.raises(UsageError, match="cannot be opened for writing"):
                reopen(store, run_id)
        finally:
            subprocess.run(["chattr", "-i", str(store.path(run_id))], capture_output=True)

    def test_j5_a_second_process_waits_a_second_then_gives_up_and_a_killed_holder_frees_the_lock(
        self, store: RunStore
    ) -> None:
        """Exit 6 naming the holder; readers are not hindered; after kill -9 the run is free at once."""
        run_id, _ = write_run(store, list(plan(2)))
        code = """
            import sys, time, os
            from pathlib import Path
            from engine.journal.store import RunStore
            from engine.journal.writer import FileJournal
            from tests.support.journals import session
            journal, _ = FileJournal.open(RunStore(Path(sys.argv[1])), sys.argv[2], clock=time.time)
            journal.append_now(session(pid=os.getpid(), host="ops9"))
            journal.append(session())
            print("held", flush=True)
            sys.stdin.read()
        """
        holder = subprocess.Popen(
            python(code, str(store.state_dir), run_id), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            began = time.monotonic()
            with pytest.raises(BusyError) as error:
                reopen(store, run_id)
            assert 0.8 <= time.monotonic() - began <= 10
            assert error.value.reason is Reason.BUSY
            assert f"by process {holder.pid} on ops9 (bob, resume, since 20" in str(error.value)
            assert reader.replay(store.path(run_id)).seq == 4
            assert [head.live for head in store.list()] == [True]
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.communicate()
        assert not store.is_live(run_id)
        began = time.monotonic()
        journal, found = reopen(store, run_id)
        assert time.monotonic() - began < 0.8
        assert found.seq == 4
        journal.close()

    def test_kill_minus_nine_at_full_speed_loses_nothing_acknowledged(self, store: RunStore) -> None:
        """What the process printed as durable is there, in a whole chain."""
        code = """
            import asyncio, os, sys, time
            from pathlib import Path
            from random import Random
            from engine.journal.store import RunStore
            from engine.journal.writer import FileJournal
            from tests.support.journals import plan, sent
            store = RunStore(Path(sys.argv[1]))
            async def main():
                journal = FileJournal.create(store, store.new_run_id(1.0, Random(1)), plan(3), clock=time.time)
                async def work(worker):
                    for number in range(1000000):
                        seq = journal.append(sent(number % 3))
                        await journal.durable(seq)
                        os.write(1, b"%d\\n" % seq)
                await asyncio.gather(*(work(worker) for worker in range(20)))
            asyncio.run(main())
        """
        child = subprocess.Popen(python(code, str(store.state_dir)), stdout=subprocess.PIPE)
        assert child.stdout is not None
        seen = [int(child.stdout.readline()) for _ in range(2000)]
        child.kill()
        rest, _ = child.communicate()
        seen += [int(line) for line in rest.split(b"\n")[:-1]]
        found = store.find("latest")
        assert reader.verify(found.path).lines >= max(seen)
        journal, replay = reopen(store, found.run_id)
        assert replay.seq >= max(seen)
        journal.append_now(session())
        journal.close()


def test_j3_what_is_settled_once_reads_as_settled_once(store: RunStore) -> None:
    """The helper other tests use: no call twice."""
    run_id, _ = write_run(store, [*plan(2), settled(0), settled(1)])
    assert reader.verify(store.path(run_id)).settled_twice == ()


@pytest.mark.parametrize("make", [lambda path: path.write_text(""), lambda path: path.symlink_to(path)])
def test_a_state_directory_that_cannot_be_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """With the flag that names another."""
    path = tmp_path / "state"
    make(path)
    with pytest.raises(ConfigError, match=f"state directory {re.escape(str(path))}: .*--state-dir"):
        create(RunStore(path))
