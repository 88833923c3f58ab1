"""Appends to the journal of one run, durably, with group commit off the event loop.

One commit (a write and an fdatasync, in a thread) is under way at a time. It takes every line appended before it
started, so one sync serves all callers that wait (J2). Everything but the commit itself happens on the loop's thread.
The commit's thread is a daemon: a disk that does not answer cannot keep the process from ending.

A record is durable only if it can be found again. So each commit also checks that the file still has its name and the
size written so far. A journal that was removed, replaced, moved, cut or written to by others ends the run.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
import time
from collections import deque
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import JournalCorruptError, JournalWriteError, UsageError
from engine.journal import locks
from engine.journal.lines import Chain
from engine.journal.locks import Hold
from engine.journal.protocols import Then
from engine.journal.reader import Replay, replay
from engine.journal.records import rfc3339
from engine.outside.trust import create_new

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from hashlib import _Hash

    from engine.journal.directory import HeldLock, RunDirectory
    from engine.journal.records import AnyRecord
    from engine.model import RunId

    Write = Callable[[int, memoryview], int]
    Sync = Callable[[int], None]

_CREATE_BYTES = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class _Batch(NamedTuple):
    """Lines to be written in one commit, and where the journal ends after them."""

    data: bytes
    seq: int
    head: str


class _MeddledError(Exception):
    """The file is no longer what this process wrote; the text says what happened to it, and where the records are."""


class _Thread(Executor):
    """One daemon thread, started when needed, that does its work in order. Unlike a pool's, no exit waits for it."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Give the thread a function to call; return the future of its result. Any: as `Executor` has it."""
        done: Future[Any] = Future()

        def work() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - the caller that waits raises it
                done.set_exception(error)
            else:
                done.set_result(result)

        self._work.put(work)
        if self._thread is None:
            self._thread = threading.Thread(target=self._go_on, name="journal", daemon=True)
            self._thread.start()
        return done

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread once it has done its work; wait for that if `wait`."""
        if self._thread is not None:
            self._work.put(None)
            if wait:
                self._thread.join()

    def _go_on(self) -> None:
        while (work := self._work.get()) is not None:
            work()


class FileJournal:
    """The open journal of a run, with its lock (J5). One thread and one event loop at a time may use it."""

    def __init__(
        self, path: Path, fd: int, chain: Chain, lock: HeldLock, *, clock: Callable[[], float], write: Write, sync: Sync
    ) -> None:
        """`fd` is the open and locked file at `path`."""
        self.path = path
        self.broken: JournalWriteError | None = None
        """Why nothing is written any more; None while it is."""
        self.durable_seq = chain.seq
        self.durable_head = chain.head
        """Hash of the last line on disk."""
        self.commit_s = 0.0
        """Seconds that a commit takes, as a moving average."""
        self._chain = chain
        self._lock = lock
        self._clock = clock
        self._write = write
        self._sync = sync
        self._fd = fd
        self._closed = False
        self._latest_at = (-1, "")
        self._lines: list[bytes] = []
        self._then: deque[tuple[AnyRecord, Then]] = deque()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False
        self._flight: asyncio.Future[None] | None = None
        """The commit under way that the loop started; `_landed` ends it."""
        self._thread = _Thread()
        self._began_at = 0.0
        self._idle = threading.Event()
        """Set while no commit is under way."""
        self._idle.set()
        # The committing thread writes these; the loop's thread reads them while it is idle.
        self._name = str(path)
        self._size = os.fstat(fd).st_size
        self._digest = _digest_of(fd, self._size)
        """Digest of what the file held when it was opened and of what was written since."""
        self._on_disk = (chain.seq, chain.head)
        self._failure: BaseException | None = None

    @classmethod
    def create(
        cls,
        store: RunDirectory,
        run_id: RunId,
        first: Iterable[AnyRecord],
        *,
        clock: Callable[[], float],
        write: Write = os.write,
        sync: Sync = os.fdatasync,
    ) -> FileJournal:
        """Create a run with its `run` line and its whole plan: it exists from the rename on, or not at all (J1).

        Writes while it reads `first`, which may yield a million records. The envelope of a record is filled before
        the next one is asked for, so a generator may fold its records into a ledger.
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
                _interruptibly(partial(sync, fd))
            finally:
                os.close(fd)
            new.rename(path)
            store.sync_run_dir(run_id)
            fd = _open_locked(store, run_id)
            return cls(path, fd, chain, lock, clock=clock, write=write, sync=sync)
        except BaseException as error:
            store.discard_unborn(run_id)
            lock.release()
            if isinstance(error, OSError):
                raise JournalWriteError(_advice(path, error, "Nothing was sent", "run again")) from error
            raise

    @classmethod
    def open(
        cls,
        store: RunDirectory,
        run_id: RunId,
        *,
        clock: Callable[[], float],
        write: Write = os.write,
        sync: Sync = os.fdatasync,
    ) -> tuple[FileJournal, Replay]:
        """Lock the run (J5), replay it, and cut its torn tail (J1); return its journal and the replay.

        Appends nothing. Raises BusyError after a second if another process holds the run.
        """
        path = store.path(run_id)
        if not path.is_file():
            raise UsageError(f"{path}: no such journal")
        lock = store.lock(run_id)
        fd = -1
        try:
            fd = _open_locked(store, run_id)
            found = replay(path)
            if found.ledger.run.run != run_id:
                raise JournalCorruptError(f"{path}:1: is the journal of run {found.ledger.run.run}, not of {run_id}")
            if not locks.is_at(fd, path) or os.fstat(fd).st_size != found.size + found.torn_bytes:
                raise JournalCorruptError(f"{path}: somebody else changed it while it was read")
            journal = cls(path, fd, Chain(run_id, found.seq, found.head), lock, clock=clock, write=write, sync=sync)
        except BaseException as error:
            if fd >= 0:
                os.close(fd)
            lock.release()
            if isinstance(error, OSError):
                raise UsageError(f"{path}: cannot be opened for writing: {error.strerror}") from error
            raise
        try:
            if found.torn_bytes:
                os.ftruncate(fd, found.size)
                journal._size = found.size
                journal._digest = _digest_of(fd, found.size)
            # Lines of a killed process may be in memory only, and the session will decide from them (J2).
            _interruptibly(partial(sync, fd))
        except BaseException as error:
            journal._failure = error
            journal._settle()
            journal.close()
            if isinstance(error, OSError):
                raise journal._error() from error
            raise
        return journal, found

    @property
    def place(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def is_meddled(self) -> bool:
        """Whether another process changed the file: its records may be lost."""
        return isinstance(self._failure, _MeddledError)

    @property
    def head(self) -> str:
        """Hash of the last line appended, durable or not."""
        return self._chain.head

    @property
    def seq(self) -> int:
        """Number of the last line appended, durable or not."""
        return self._chain.seq

    def append(self, record: AnyRecord, then: Then | None = None) -> int:
        """Add a record to the next commit, and return its number. The record is not durable yet.

        Once it is, and before a `durable` that covers it returns, the loop calls `then(record)`, in the order of
        appending; never if the record does not become durable (J2). The record's envelope is filled at once.
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

    @property
    def waiting_s(self) -> float:
        """Seconds that the commit under way has taken; 0 if none is."""
        return 0.0 if self._idle.is_set() else time.monotonic() - self._began_at

    def _at(self) -> str:
        # Profiled: at thousands of calls a second, most records share their millisecond with the one before.
        now = self._clock()
        known, text = self._latest_at
        if (millisecond := int(now * 1000)) != known:
            text = rfc3339(now)
            self._latest_at = (millisecond, text)
        return text

    async def durable(self, seq: int | None = None) -> None:
        """Wait until line `seq` and all before it are on disk; by default, all lines appended by now (J2).

        Raises JournalWriteError if they cannot be written.
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

    async def is_as_written(self) -> bool:
        """Read the file once more; return whether it holds what was written, byte for byte. If not, it is `broken`.

        For the end of a session, when all lines are durable: each commit checks only the file's size and name.
        """
        await self.durable()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._compare)
        self._settle()
        return self.broken is None

    def _compare(self) -> None:
        """Compare the file with what was written; runs in the thread."""
        try:
            self._check_file()
            if _digest_of(self._fd, self._size).digest() != self._digest.digest():
                look = f"look at it: acctops journal verify {self._chain.run}"
                raise _MeddledError(f"was changed in place while the run went on; {look}")
        except BaseException as error:  # noqa: BLE001 - `_settle` makes it `broken`
            self._failure = error

    def append_now(self, record: AnyRecord) -> int:
        """Append a record and block until it is durable; return its number. For code outside the loop, and the end."""
        seq = self.append(record)
        self.flush()
        return seq

    def flush(self) -> None:
        """Block until every appended line is durable, also if a commit is under way."""
        if self.broken is not None:
            raise self._error()
        self._idle.wait()
        if self._lines and self._failure is None:
            self._thread.submit(self._commit, self._take())
            self._idle.wait()
        self._settle()
        if self.broken is not None:
            raise self._error()

    async def aclose(self) -> None:
        """Make durable what can be without blocking the loop, then close; raise JournalWriteError if that fails now."""
        try:
            if self.broken is None and not self._closed:
                await self.durable()
        finally:
            self.close()

    def close(self) -> None:
        """Make durable what can be, close the file, release the lock; raise JournalWriteError if that fails now."""
        if self._closed:
            return
        try:
            if self.broken is None:
                self.flush()
        finally:
            self._let_go()

    def leave(self, patience_s: float) -> bool:
        """Close, but wait for the disk at most `patience_s`; return whether every line is known to be on it."""
        until = time.monotonic() + patience_s
        for _ in range(2):  # the commit under way, then the rest
            if self._closed or self.broken is not None or not self._idle.wait(until - time.monotonic()):
                break
            self._settle()
            if self._lines:
                self._thread.submit(self._commit, self._take())
        if self._idle.is_set():
            self._settle()
        is_whole = self.durable_seq == self._chain.seq
        self._let_go()
        return is_whole

    def _let_go(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._idle.is_set():
            self._close_files()
        else:  # the disk does not answer; the thread uses the file until it does
            self._thread.submit(self._close_files)
        self._thread.shutdown(wait=False)

    def _close_files(self) -> None:
        os.close(self._fd)
        self._lock.release()

    def _schedule(self) -> None:
        # In the next turn of the loop, so that what else is appended in this turn joins the commit.
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # no loop is running: `flush` or `durable` will commit the lines
        if self._loop is not loop:
            if self._loop is not None:
                self.flush()  # lines that were appended on an earlier loop
            self._loop, self._flight = loop, None
        self._scheduled = True
        loop.call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        if self._flight is not None or not self._lines or self._closed:
            return
        assert self._loop is not None
        self._flight = self._loop.run_in_executor(self._thread, self._commit, self._take())
        self._flight.add_done_callback(self._landed)

    def _take(self) -> _Batch:
        """Return the appended lines as the batch of a commit that starts now."""
        batch = _Batch(b"".join(self._lines), self._chain.seq, self._chain.head)
        self._lines.clear()
        self._began_at = time.monotonic()
        self._idle.clear()
        return batch

    def _commit(self, batch: _Batch) -> None:
        """Write and sync a batch; runs in the thread."""
        began = time.perf_counter()
        try:
            self._check_file()
            _write_all(self._fd, batch.data, self._write)
            self._size += len(batch.data)
            self._digest.update(batch.data)
            self._sync(self._fd)
            took_s = time.perf_counter() - began
            self._check_file()
        except BaseException as error:  # noqa: BLE001 - `_settle` makes it `broken`
            self._failure = error
        else:
            self._on_disk = (batch.seq, batch.head)
            self.commit_s += 0.3 * (took_s - self.commit_s)
        self._idle.set()

    def _check_file(self) -> None:
        """Raise _MeddledError if the file has lost its name, or has another size than was written."""
        here = os.fstat(self._fd)
        try:
            there = os.lstat(self._name)
        except OSError:
            there = None
        is_there = there is not None and (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)
        if is_there and here.st_size == self._size:
            return
        if here.st_size < self._size:
            what = f"was cut by {self._size - here.st_size:,} bytes"
            raise _MeddledError(f"{what} while the run went on; look at it: acctops journal verify {self._chain.run}")
        if is_there:
            what = f"was written to by somebody else ({here.st_size - self._size:,} bytes)"
            raise _MeddledError(f"{what} while the run went on; {self._saved(here, is_free=False)}")
        how = "was removed or moved away" if there is None else "was replaced by another file"
        raise _MeddledError(f"{how} while the run went on; {self._where_it_is(here, is_free=there is None)}")

    def _where_it_is(self, here: os.stat_result, *, is_free: bool) -> str:
        """Say where the records of a file that lost its name are: under another name, or else saved now."""
        with suppress(OSError):
            name = Path(f"/proc/self/fd/{self._fd}").readlink()
            if here.st_nlink and name.is_file():
                return f"its records are in {name}: put it back as {self._name}"
        return self._saved(here, is_free=is_free)

    def _saved(self, here: os.stat_result, *, is_free: bool) -> str:
        """Save what this run has written, under the journal's name if free, else beside; say where."""
        kept = self.path if is_free else self.path.with_name(f"{self.path.name}.kept-{os.getpid()}")
        try:
            for folder in reversed(kept.parents):  # the state directory may be gone, too
                folder.mkdir(mode=0o700, exist_ok=True)
            fd = create_new(kept, stat.S_IMODE(here.st_mode))
            try:
                at = 0
                while part := os.pread(self._fd, min(_CREATE_BYTES, self._size - at), at):
                    _write_all(fd, part, os.write)
                    at += len(part)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            return f"its records are lost, as they could not be saved ({error.strerror})"
        return "its records were saved there" if is_free else f"its records were saved as {kept}: put it back"

    def _landed(self, _flight: asyncio.Future[None]) -> None:
        """Handle the end of a commit, on the loop."""
        self._flight = None
        try:
            self._settle()
        finally:
            # Scheduled after the waiters wake up, so that what they append then joins the commit.
            if self._lines and not self._scheduled and not self._closed:
                self._schedule()

    def _settle(self) -> None:
        """Call `then` of the records that are durable, wake the waiters, and set `broken` after a failure."""
        self.durable_seq, self.durable_head = self._on_disk
        trouble: Exception | None = None
        while self._then and self._then[0][0].seq <= self.durable_seq:
            record, then = self._then.popleft()
            try:
                then(record)
            except Exception as error:  # noqa: BLE001 - raised below: a bug of one listener must not stop the others
                trouble = trouble or error
        if self._failure is not None and self.broken is None:
            words = _advice(
                self.path, self._failure, "Nothing further is sent", f"go on with: acctops resume {self._chain.run}"
            )
            self.broken = JournalWriteError(words)
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
        # A new one for each caller: tracebacks pile up on a shared exception.
        return JournalWriteError(str(self.broken))


def _digest_of(fd: int, size: int) -> _Hash:
    """Return the SHA-256 of the first `size` bytes of a file."""
    digest, at = sha256(), 0
    while part := os.pread(fd, min(_CREATE_BYTES, size - at), at):
        digest.update(part)
        at += len(part)
    return digest


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


def _open_locked(store: RunDirectory, run_id: RunId) -> int:
    """Open the journal of a run for appending, and lock the file itself: its lock file may have been removed.

    Raises BusyError if another process writes it. A shared lock of a user who may only read it is ignored: that user
    cannot open the lock file, which we hold.
    """
    fd = os.open(store.path(run_id), os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    if locks.take(fd) is Hold.THEIRS:
        os.close(fd)
        raise store.busy(run_id)
    return fd


def _interruptibly(work: Callable[[], None]) -> None:
    """Do work that may wait for a disk that never answers, in a thread, so that a signal still ends the wait."""
    thread = _Thread()
    thread.submit(work).result()
    thread.shutdown()


def _advice(path: Path, error: BaseException, sent: str, then: str) -> str:
    if isinstance(error, _MeddledError):  # its text says what can still be read; a person decides how to go on
        return f"{path}: the journal {error}. {sent}"
    code = error.errno if isinstance(error, OSError) else None
    why = f"{os.strerror(code)} ({errno.errorcode.get(code, code)})" if code else str(error) or type(error).__name__
    cure = "free space there" if code in _FULL else "look after that disk"
    if code == errno.EFBIG:
        cure = "lift the limit on the size of files (ulimit -f unlimited)"
    return f"{path}: the journal cannot be written: {why}. {sent}; {cure}, then {then}"
