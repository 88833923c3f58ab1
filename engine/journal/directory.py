"""The directory of one store's runs: paths, file modes, locks, and which users it trusts. Imports no asyncio."""

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
from engine.journal.reader import ASIDE, last_holder
from engine.journal.records import Session
from engine.outside.trust import Trust, gid_of

JOURNAL = "journal.jsonl"
LOCK_WAIT_S = 1.0
_MARK = b"ofd\n"
"""Content of a lock file of this version. A `flock` on a file without it counts: an older version may hold it."""
_NO_ONE_ELSE = Trust()


class HeldLock:
    """A lock this process holds until `release`; a dead process holds none, whatever killed it (J5)."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> HeldLock:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class RunDirectory:
    """The directory with the runs of one state directory: the real runs, or the simulated ones."""

    def __init__(
        self, state_dir: Path, *, simulated: bool = False, group: str | None = None, trust: Trust = _NO_ONE_ELSE
    ) -> None:
        """`trust`: who beside the operator may own the files that a session writes to or goes on from."""
        self.state_dir = state_dir
        self.trust = trust
        self.simulated = simulated
        self.group = group
        self.root = state_dir / "simulated" if simulated else state_dir
        self.runs_dir = self.root / "runs"

    def run_dir(self, run_id: str) -> Path:
        """Return the directory with all files of a run."""
        return self.runs_dir / run_id

    def path(self, run_id: str) -> Path:
        """Return the path of a run's journal."""
        return self.runs_dir / run_id / JOURNAL

    def names(self) -> tuple[str, ...]:
        """Return the ids of the runs that exist (J1), newest first."""
        try:
            with os.scandir(self.runs_dir) as found:
                names = [entry.name for entry in found if entry.is_dir()]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise UsageError(f"{self.runs_dir}: cannot be read: {error.strerror}; see --state-dir") from error
        return tuple(sorted((name for name in names if self.path(name).is_file()), reverse=True))

    def lost(self) -> tuple[str, ...]:
        """Return the runs whose journals were removed, while their directories are there.

        The directory of a run that is being created, or that died so, has the journal's `.new`.
        """
        found = []
        with suppress(OSError), os.scandir(self.runs_dir) as entries:
            for entry in entries:
                path = self.path(entry.name)
                is_left = os.path.lexists(path.with_name("lock")) or os.path.lexists(path.with_name(ASIDE))
                if is_left and not os.path.lexists(path) and not os.path.lexists(f"{path}.new"):
                    found.append(entry.name)
        return tuple(sorted(found))

    def is_live(self, run_id: str) -> bool:
        """Return whether a process works on the run; does not block and does not create the lock file."""
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
        """Raise ConfigError if users who are not trusted can change a path of the store or a directory above it."""
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
        """Take the right to write the run's journal (J5); raise BusyError after a second, naming the holder.

        Calls `refuse_strangers` first. The writer locks the journal's own descriptor, too: anybody who may write in
        the directory can remove the lock file.
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
        """Return the error that says which process works on a run."""
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
        """Make the directory of a new run; a directory alone is no run yet (J1)."""
        self.refuse_strangers(self.run_dir(run_id))
        with self.writable():
            self.make_dir(self.run_dir(run_id))

    def create_file(self, path: Path) -> int:
        """Create an empty file for a journal, with the store's modes whatever the umask; return its descriptor."""
        with self.writable():
            path.unlink(missing_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                self.set_modes(fd)
            except BaseException:
                os.close(fd)
                raise
            return fd

    def set_modes(self, fd: int) -> None:
        """Give a new file of a journal the store's group and mode, whatever the umask."""
        os.fchown(fd, -1, _gid(self.group) if self.group else -1)
        os.fchmod(fd, 0o640 if self.group else 0o600)

    def sync_run_dir(self, run_id: str) -> None:
        """Make the names in the run's directory durable; a rename is durable only after this."""
        sync_dir(self.run_dir(run_id))

    def discard_unborn(self, run_id: str) -> None:
        """Remove the files of a run that has no journal; leave a run that exists untouched."""
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
            sync_dir(path.parent)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))

    @contextmanager
    def writable(self) -> Iterator[None]:
        """Turn an OSError of the block into a ConfigError that tells the operator what cannot be written."""
        try:
            yield
        except OSError as error:
            where = error.filename or self.root
            raise ConfigError(
                f"state directory {self.state_dir}: {where} cannot be written: {error.strerror}; "
                "name another with --state-dir"
            ) from error


def _is_free_of_older(fd: int, until: float) -> bool:
    """Return whether no older version holds a `flock` on our lock file; if so, mark the file as ours."""
    if os.fstat(fd).st_size:
        return True
    while not locks.has_flock(fd):
        if time.monotonic() >= until:
            return False
        time.sleep(0.02)
    os.write(fd, _MARK)
    return True


def sync_dir(path: Path) -> None:
    """Have the names in a directory on the disk."""
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
