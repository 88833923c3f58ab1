"""Device: appends to the journal of one run, durably, with group commit off the event loop.

One commit (a write and an fdatasync, in a thread) is under way at a time; it takes everything appended until it
started, so one sync serves all that wait (J2). Everything but the commit itself happens on the loop's thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import JournalCorruptError, JournalWriteError, UsageError
from engine.journal.lines import Chain
from engine.journal.reader import Replay, replay
from engine.records import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from engine.journal.store import HeldLock, RunStore
    from engine.model import RunId
    from engine.records import AnyRecord

    Then = Callable[[Any], None]  # Any: takes the very record it was given with, of whatever kind.
    Write = Callable[[int, memoryview], int]
    Sync = Callable[[int], None]

_CREATE_BYTES = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class _Batch(NamedTuple):
    """Lines on their way to the disk, and where the journal ends after them."""

    data: bytes
    seq: int
    head: str


class Journal:
    """The open journal of a run, and the lock on it (J5). For one thread and one event loop at a time."""

    def __init__(
        self, path: Path, chain: Chain, lock: HeldLock, *, clock: Callable[[], float], write: Write, sync: Sync
    ) -> None:
        self.path = path
        self.broken: JournalWriteError | None = None
        """Why nothing is written any more."""
        self.durable_seq = chain.seq
        self.durable_head = chain.head
        """Hash of the last line on disk."""
        self.commit_s = 0.0
        """How long a commit takes, lately."""
        self._chain = chain
        self._lock = lock
        self._clock = clock
        self._write = write
        self._sync = sync
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._closed = False
        self._latest_at = (-1, "")
        self._lines: list[bytes] = []
        self._then: deque[tuple[AnyRecord, Then]] = deque()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False
        self._flight: asyncio.Future[None] | None = None
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        # Shared with the committing thread, under the mutex.
        self._mutex = threading.Lock()
        self._batch: _Batch | None = None
        self._on_disk = (chain.seq, chain.head)
        self._failure: BaseException | None = None

    @classmethod
    def create(
        cls,
        store: RunStore,
        run_id: RunId,
        first: Iterable[AnyRecord],
        *,
        clock: Callable[[], float],
        write: Write = os.write,
        sync: Sync = os.fdatasync,
    ) -> Journal:
        """A new run with its `run` line and its whole plan: it exists from the rename on, or not at all (J1).

        Streams: `first` may yield a million lines. A record's envelope is filled by the time the next one is asked
        for, so a generator may fold what it yields into a ledger.
        """
        store.make_run_dir(run_id)
        lock = store.lock(run_id)
        path = store.path(run_id)
        chain = Chain(run_id)
        try:
            if path.exists():
                raise UsageError(f"{path}: the run exists already")
            new = path.with_name(path.name + ".new")
            fd = store.create_file(new)
            try:
                _write_first(fd, chain, first, clock, write)
                sync(fd)
            finally:
                os.close(fd)
            new.rename(path)
            store.sync_run_dir(run_id)
            return cls(path, chain, lock, clock=clock, write=write, sync=sync)
        except BaseException as error:
            store.discard_unborn(run_id)
            lock.release()
            if isinstance(error, OSError):
                raise JournalWriteError(_advice(path, error, "Nothing was sent", "run again")) from error
            raise

    @classmethod
    def open(
        cls,
        store: RunStore,
        run_id: RunId,
        *,
        clock: Callable[[], float],
        write: Write = os.write,
        sync: Sync = os.fdatasync,
    ) -> tuple[Journal, Replay]:
        """Lock the run (J5), replay it, cut its torn tail (J1): ready to append. Appends nothing itself.

        Raises BusyError after a second if another process holds the run.
        """
        path = store.path(run_id)
        if not path.is_file():
            raise UsageError(f"{path}: no such journal")
        lock = store.lock(run_id)
        try:
            found = replay(path)
            assert found.ledger.run is not None
            if found.ledger.run.run != run_id:
                raise JournalCorruptError(f"{path}:1: is the journal of run {found.ledger.run.run}, not of {run_id}")
            journal = cls(path, Chain(run_id, found.seq, found.head), lock, clock=clock, write=write, sync=sync)
        except BaseException as error:
            lock.release()
            if isinstance(error, OSError):
                raise UsageError(f"{path}: cannot be opened for writing: {error.strerror}") from error
            raise
        try:
            if found.torn_bytes:
                os.ftruncate(journal._fd, found.size)
            # Lines of a killed process may be in memory only; from here on things are decided from them (J2).
            sync(journal._fd)
        except OSError as error:
            journal._failure = error
            journal._settle()
            journal.close()
            raise journal._error() from error
        return journal, found

    @property
    def head(self) -> str:
        """Hash of the last line appended, durable or not."""
        return self._chain.head

    @property
    def seq(self) -> int:
        """Number of the last line appended, durable or not."""
        return self._chain.seq

    def append(self, record: AnyRecord, then: Then | None = None) -> int:
        """Add a record to the next commit; returns its number. It is not durable yet.

        `then(record)` is called on the loop once it is, in the order of appending and before any `durable` that
        covers it returns; never if it does not become durable (J2). The record's envelope is filled at once.
        """
        if self.broken is not None:
            raise self._error()
        if self._closed:
            raise RuntimeError(f"{self.path}: append to a closed journal")
        self._lines.append(self._chain.add(record, self._at()))
        if then is not None:
            self._then.append((record, then))
        if not self._scheduled and self._flight is None:
            self._schedule()
        return self._chain.seq

    def _at(self) -> str:
        # Profiled: at thousands of calls a second most records share their millisecond with the one before.
        now = self._clock()
        known, text = self._latest_at
        if (millisecond := int(now * 1000)) != known:
            text = rfc3339(now)
            self._latest_at = (millisecond, text)
        return text

    async def durable(self, seq: int | None = None) -> None:
        """Return once line `seq`, and so all before it, is on disk; by default: all that is appended by now (J2).

        Raises JournalWriteError if that will never be.
        """
        if seq is None:
            seq = self._chain.seq
        if seq <= self.durable_seq:
            return
        if self.broken is not None:
            raise self._error()
        assert seq <= self._chain.seq, "not appended yet"
        loop = asyncio.get_running_loop()
        if self._loop is not loop or not (self._scheduled or self._flight):
            self._schedule()
        done = loop.create_future()
        self._waiters.append((seq, done))
        await done

    def append_now(self, record: AnyRecord) -> int:
        """Append and make durable in one blocking step: for code outside the loop, and for the last words."""
        seq = self.append(record)
        self.flush()
        return seq

    def flush(self) -> None:
        """Make everything appended durable, blocking; also while a commit is under way."""
        if self.broken is not None:
            raise self._error()
        with self._mutex:
            try:
                self._commit_batch()
                self._take()
                self._commit_batch()
            except OSError:
                pass  # kept as _failure, raised below
        self._settle()
        if self.broken is not None:
            raise self._error()

    async def aclose(self) -> None:
        """Make durable what can be, without blocking the loop, then close; raises if something new was lost."""
        try:
            if self.broken is None and not self._closed:
                await self.durable()
        finally:
            self.close()

    def close(self) -> None:
        """Make durable what can be, close the file, release the lock; raises if something new was lost."""
        if self._closed:
            return
        try:
            if self.broken is None:
                self.flush()
        finally:
            self._closed = True
            with self._mutex:
                os.close(self._fd)
            self._executor.shutdown()
            self._lock.release()

    def _schedule(self) -> None:
        # The next turn of the loop, not now: what else is appended in this turn joins the commit.
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # not within a loop: waits for `flush`, or for `durable`
        if self._loop is not loop:
            if self._loop is not None:
                self.flush()  # what an earlier loop left behind
            self._loop, self._flight = loop, None
        self._scheduled = True
        loop.call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        if self._flight is not None or not self._lines or self._closed:
            return
        assert self._loop is not None
        self._take()
        self._flight = self._loop.run_in_executor(self._executor, self._commit)
        self._flight.add_done_callback(self._landed)

    def _take(self) -> None:
        if self._lines and self._failure is None:
            assert self._batch is None
            self._batch = _Batch(b"".join(self._lines), self._chain.seq, self._chain.head)
            self._lines.clear()

    def _commit(self) -> None:
        with self._mutex:
            self._commit_batch()

    def _commit_batch(self) -> None:
        batch, self._batch = self._batch, None
        if batch is None:
            return
        began = time.perf_counter()
        try:
            _write_all(self._fd, batch.data, self._write)
            self._sync(self._fd)
        except BaseException as error:
            self._failure = error
            raise
        self._on_disk = (batch.seq, batch.head)
        self.commit_s += 0.3 * (time.perf_counter() - began - self.commit_s)

    def _landed(self, flight: asyncio.Future[None]) -> None:
        self._flight = None
        flight.exception()  # the same as _failure; fetched, or asyncio would log it
        try:
            self._settle()
        finally:
            # After the waiters' own wake-ups, so that what they append now joins the commit.
            if self._lines and not self._scheduled and not self._closed:
                self._schedule()

    def _settle(self) -> None:
        """Tell everyone how far the disk is."""
        self.durable_seq, self.durable_head = self._on_disk
        trouble: Exception | None = None
        while self._then and self._then[0][0].seq <= self.durable_seq:
            record, then = self._then.popleft()
            try:
                then(record)
            except Exception as error:  # noqa: BLE001 - raised below: one listener's bug must not silence the others
                trouble = trouble or error
        if self._failure is not None and self.broken is None:
            self.broken = JournalWriteError(
                _advice(
                    self.path, self._failure, "Nothing further is sent", f"go on with: acctops resume {self._chain.run}"
                )
            )
            self._lines.clear()
        waiters, self._waiters = self._waiters, []
        for seq, done in waiters:
            if done.done():
                continue
            if seq <= self.durable_seq:
                done.set_result(None)
            elif self.broken is not None:
                done.set_exception(self._error())
            else:
                self._waiters.append((seq, done))
        if trouble is not None:
            raise trouble

    def _error(self) -> JournalWriteError:
        # A fresh one for each who raises it: tracebacks pile up on a shared exception.
        return JournalWriteError(str(self.broken))


def _write_first(fd: int, chain: Chain, first: Iterable[AnyRecord], clock: Callable[[], float], write: Write) -> None:
    lines: list[bytes] = []
    size = 0
    for record in first:
        lines.append(chain.add(record, rfc3339(clock())))
        size += len(lines[-1])
        if size >= _CREATE_BYTES:
            _write_all(fd, b"".join(lines), write)
            lines.clear()
            size = 0
    _write_all(fd, b"".join(lines), write)


def _write_all(fd: int, data: bytes, write: Write) -> None:
    left = memoryview(data)
    while left:
        written = write(fd, left)
        if written <= 0:
            raise OSError(errno.EIO, "the disk took no bytes")
        left = left[written:]


def _advice(path: Path, error: BaseException, sent: str, then: str) -> str:
    code = error.errno if isinstance(error, OSError) else None
    why = f"{os.strerror(code)} ({errno.errorcode.get(code, code)})" if code else str(error) or type(error).__name__
    cure = "free space there" if code in _FULL else "look after that disk"
    return f"{path}: the journal cannot be written: {why}. {sent}; {cure}, then {then}"
