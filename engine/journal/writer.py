"""Appends to the journal of one run in a file. A commit (`grouped`) is a write and an fdatasync.

A record is durable only if it can be found again. So each commit also checks that the file still has its name and the
size written so far. A journal that was removed, replaced, moved, cut or written to by others ends the run.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import JournalCorruptError, JournalWriteError, UsageError
from engine.journal import locks
from engine.journal.grouped import Batch, GroupedJournal, JournalThread
from engine.journal.lines import Chain
from engine.journal.locks import Hold
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


class _MeddledError(Exception):
    """The file is no longer what this process wrote; the text says what happened to it, and where the records are."""


class FileJournal(GroupedJournal):
    """The open journal of a run, with its lock (J5). One thread and one event loop at a time may use it."""

    may_send = None
    """A write may always leave: the kernel lets nobody else have the lock."""
    waits_for = "the journal's disk"

    def __init__(
        self, path: Path, fd: int, chain: Chain, lock: HeldLock, *, clock: Callable[[], float], write: Write, sync: Sync
    ) -> None:
        """`fd` is the open and locked file at `path`."""
        super().__init__(chain, clock)
        self.path = path
        self._lock = lock
        self._write = write
        self._sync = sync
        self._fd = fd
        # The committing thread writes these; the loop's thread reads them while it is idle.
        self._name = str(path)
        self._size = os.fstat(fd).st_size
        self._digest = _digest_of(fd, self._size)
        """Digest of what the file held when it was opened and of what was written since."""

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

    def _close_files(self) -> None:
        os.close(self._fd)
        self._lock.release()

    def _write_out(self, batch: Batch) -> None:
        self._check_file()
        _write_all(self._fd, batch.data, self._write)
        self._size += len(batch.data)
        self._digest.update(batch.data)
        self._sync(self._fd)
        self._check_file()

    def _advice(self, error: BaseException) -> str:
        return _advice(self.path, error, "Nothing further is sent", f"go on with: acctops resume {self._chain.run}")

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
    thread = JournalThread()
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
