"""The directory of one store's runs: places, modes, locks, and whom it believes. Imports no asyncio."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.errors import BusyError, ConfigError, UsageError
from engine.journal import locks
from engine.journal.locks import Hold
from engine.journal.reader import last_holder
from engine.journal.records import Session
from engine.outside.trust import Trust, gid_of

JOURNAL = "journal.jsonl"
LOCK_WAIT_S = 1.0
_MARK = b"ofd\n"
"""In a lock file of this version. In one without it a `flock` counts, too: that of an older version may be at work."""
_NO_ONE_ELSE = Trust()


class HeldLock:
    """A lock this process holds until `release`; a dead process holds none, whatever killed it (J5)."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def release(self) -> None:
        """Let go; a second time does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> HeldLock:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class RunDirectory:
    """Where the runs of one state directory lie: the real ones, or the simulated ones."""

    def __init__(
        self, state_dir: Path, *, simulated: bool = False, group: str | None = None, trust: Trust = _NO_ONE_ELSE
    ) -> None:
        """`trust`: who beside the operator may have made what is written to, and gone on from."""
        self.state_dir = state_dir
        self.trust = trust
        self.simulated = simulated
        self.group = group
        self.root = state_dir / "simulated" if simulated else state_dir
        self.runs_dir = self.root / "runs"

    def run_dir(self, run_id: str) -> Path:
        """Where everything of a run lies."""
        return self.runs_dir / run_id

    def path(self, run_id: str) -> Path:
        """The journal of a run."""
        return self.runs_dir / run_id / JOURNAL

    def names(self) -> tuple[str, ...]:
        """Ids of the runs that exist (J1), newest first."""
        try:
            with os.scandir(self.runs_dir) as found:
                names = [entry.name for entry in found if entry.is_dir()]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise UsageError(f"{self.runs_dir}: cannot be read: {error.strerror}; see --state-dir") from error
        return tuple(sorted((name for name in names if self.path(name).is_file()), reverse=True))

    def is_live(self, run_id: str) -> bool:
        """Whether a process works on the run; asks without blocking, and without creating the lock file."""
        for path in (self.path(run_id), self.run_dir(run_id) / "lock"):
            if (fd := locks.open_existing(path)) is None:
                continue
            try:
                if locks.is_taken(fd) or (not os.fstat(fd).st_size and locks.is_flocked(fd)):
                    return True
            finally:
                os.close(fd)
        return False

    def refuse_strangers(self, path: Path) -> None:
        """ConfigError if people who are not trusted can change a file of the store, or what leads to it."""
        while not os.path.lexists(path):
            path = path.parent
        with self.writable():
            inside = (each for each in (path, *path.parents) if self.state_dir in each.parents and each.is_dir())
            doubt = self.trust.doubt(path) or next(filter(None, map(self.trust.doubt_entries, inside)), None)
        if doubt is not None:
            raise ConfigError(
                f"state directory {self.state_dir}: is not believed, as {doubt.words}: what is sent must not hang on "
                f"what others can change. Name another with --state-dir, {doubt.way_on}; nothing was sent"
            )

    def lock(self, run_id: str) -> HeldLock:
        """The right to write the run's journal (J5); BusyError after a second, naming who has it.

        Who can be trusted is asked first. The journal's own descriptor is locked by its writer, too: this file can be
        removed by anybody who may write in the directory.
        """
        self.refuse_strangers(self.path(run_id))
        path = self.run_dir(run_id) / "lock"
        until = time.monotonic() + LOCK_WAIT_S
        while True:
            with self.writable():
                fd = locks.open_private(path)
            hold = locks.take_within(fd, until - time.monotonic())
            if hold is not Hold.THEIRS and _is_free_of_older(fd, until) and locks.is_at(fd, path):
                return HeldLock(fd)
            os.close(fd)
            if time.monotonic() >= until:
                raise self.busy(run_id)

    def busy(self, run_id: str) -> BusyError:
        """That somebody works on a run, and who."""
        return BusyError(f"run {run_id} is being worked on{self._by_whom(run_id)}; wait for it, or stop it first")

    def _by_whom(self, run_id: str) -> str:
        try:
            holder = last_holder(self.path(run_id))
        except UsageError:
            holder = None
        if holder is None:
            return " by another process"
        verb = holder.verb if isinstance(holder, Session) else "run"
        return f" by process {holder.pid} on {holder.host} ({holder.operator}, {verb}, since {holder.at})"

    def make_run_dir(self, run_id: str) -> None:
        """Make the place of a new run; a directory alone is no run yet (J1)."""
        self.refuse_strangers(self.run_dir(run_id))
        with self.writable():
            self.make_dir(self.run_dir(run_id))

    def create_file(self, path: Path) -> int:
        """A new empty file for a journal, open for writing, with the modes of the store whatever the umask."""
        with self.writable():
            path.unlink(missing_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.fchown(fd, -1, _gid(self.group) if self.group else -1)
                os.fchmod(fd, 0o640 if self.group else 0o600)
            except BaseException:
                os.close(fd)
                raise
            return fd

    def sync_run_dir(self, run_id: str) -> None:
        """Make the names in the run's directory durable: a rename is, only after this."""
        _sync_dir(self.run_dir(run_id))

    def discard_unborn(self, run_id: str) -> None:
        """Remove what a run left that never came to exist; a run that exists is not touched."""
        run_dir = self.run_dir(run_id)
        if (run_dir / JOURNAL).exists():
            return
        with suppress(OSError):
            (run_dir / f"{JOURNAL}.new").unlink(missing_ok=True)
            (run_dir / "lock").unlink(missing_ok=True)
            run_dir.rmdir()

    def make_dir(self, path: Path) -> None:
        """Make a directory of the store, and those above it, with the modes of the store."""
        if path.is_dir():
            return
        if path != self.state_dir:
            self.make_dir(path.parent)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        gid = _gid(self.group) if self.group else -1
        with suppress(FileExistsError):
            path.mkdir(0o700)
            os.chown(path, -1, gid)
            path.chmod(0o2750 if self.group else 0o700)
            _sync_dir(path.parent)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))

    @contextmanager
    def writable(self) -> Iterator[None]:
        """ConfigError in the operator's words for what cannot be written inside."""
        try:
            yield
        except OSError as error:
            where = error.filename or self.root
            raise ConfigError(
                f"state directory {self.state_dir}: {where} cannot be written: {error.strerror}; "
                "name another with --state-dir"
            ) from error


def _is_free_of_older(fd: int, until: float) -> bool:
    """Whether no older version works under this lock, which is ours: it took a `flock`. Marks the file as ours."""
    if os.fstat(fd).st_size:
        return True
    while not locks.has_flock(fd):
        if time.monotonic() >= until:
            return False
        time.sleep(0.02)
    os.write(fd, _MARK)
    return True


def _sync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _gid(group: str) -> int:
    try:
        return gid_of(group)
    except KeyError as error:
        raise ConfigError(f"state_group: there is no group {group!r} here") from error
