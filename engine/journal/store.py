"""The directory of runs: their places, ids, locks and stop requests. Imports no asyncio.

    <state_dir>/runs/<run id>/journal.jsonl, lock, stop      real runs
    <state_dir>/live/                                        which runs work now, and on what (`live`)
    <state_dir>/simulated/…                                  the same for simulated runs

What only reads creates nothing and works on a read-only mount, whoever made the files. What writes refuses a place that
people who are not trusted can change.
"""

from __future__ import annotations

import errno
import os
import pwd
import time
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec.structs
from msgspec import Struct

from engine.errors import AcctopsError, BusyError, ConfigError, UsageError
from engine.journal import locks
from engine.journal.locks import Hold
from engine.journal.reader import first_record, last_end, last_holder
from engine.journal.records import End, Run, Session, rfc3339, unix_seconds
from engine.model import RunId
from engine.outside.trust import Trust, gid_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from random import Random

JOURNAL = "journal.jsonl"
LOCK_WAIT_S = 1.0
AHEAD_S = 300.0
"""How far a run's time may lie ahead of now: clocks of hosts, and of one host that was set right a little."""
BYTES_A_CALL = 2000
"""What a call adds to a journal, its plan included, where it is done at the first try (measured: 1,770)."""
_ROOM = 3
"""Times that size: with less room than this a warning is due, as retries need some, too."""
_SUFFIX = "abcdefghijkmnpqrstuvwxyz23456789"
_FILES = 8
"""Files a run makes: its journal, its lock, its claim, and the directories they lie in."""
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


class RunHead(Struct, frozen=True, kw_only=True):
    """What a listing says of a run, from its first and last line."""

    run_id: RunId
    dir: Path
    simulated: bool
    live: bool
    """A process holds the run's lock right now."""
    job: str = ""
    action: str = ""
    started_at: str = ""
    calls: int = 0
    end: End | None = None
    """The last line, if it is an `end`; none is a run that was cut off, or is live."""
    run: Run | None = None
    """The first line."""
    problem: str | None = None
    """Why the journal cannot be read, if it cannot; the fields above are empty then."""

    @property
    def ended_at(self) -> float:
        """UNIX time at which it last did something, as far as its first and last line tell."""
        return unix_seconds(self.end.at if self.end is not None else self.started_at)

    def is_to_come(self, now: float) -> bool:
        """Whether it says it began later than now: the clock was wrong then, or is now."""
        began = self.started_at[:19].replace("-", "").replace(":", "") or self.run_id
        return began[:15] > stamp(now + AHEAD_S)[:15]


class RunRef(Struct, frozen=True, kw_only=True):
    """A run that was found."""

    run_id: RunId
    path: Path
    """Its journal."""
    simulated: bool
    store: RunStore | None
    """Where it can be worked on; None for a journal that lies outside a state directory, which can only be read."""
    passed_over: tuple[RunId, ...] = ()
    """Newer ones by their name, that say they began later than now."""


class RunStore:
    """The runs of one state directory: the real ones, or the simulated ones."""

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

    def new_run_id(self, now: float, rng: Random) -> RunId:
        """An id no run has, real or simulated; starts with the UTC time, so names sort by age."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        while True:
            run_id = f"{stamp}-{''.join(rng.choices(_SUFFIX, k=4))}"
            if not any(RunStore(self.state_dir, simulated=which).run_dir(run_id).exists() for which in (False, True)):
                return RunId(run_id)

    # Reading: creates nothing.

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

    def list(self) -> tuple[RunHead, ...]:
        """Every run, newest first; reads two lines of each."""
        return tuple(self.heads())

    def heads(self) -> Iterator[RunHead]:
        """Every run, newest first, read as it is asked for."""
        for _, names in groupby(self.names(), key=_stamp):
            # The time in the name counts whole seconds; within one, the first record's time decides.
            yield from sorted(map(self.head, names), key=lambda head: (head.started_at, head.run_id), reverse=True)

    def head(self, run_id: str) -> RunHead:
        """What the first and last line of a run say."""
        path = self.path(run_id)
        live = self.is_live(run_id)
        try:
            first = first_record(path)
            if first.run != run_id:
                raise UsageError(
                    f"{path}: is run {first.run} by its first line, so {run_id} is a copy of it, or was moved; keep it "
                    f"outside of {self.runs_dir}"
                )
            end = last_end(path)
        except AcctopsError as error:
            return RunHead(
                run_id=RunId(run_id), dir=path.parent, simulated=self.simulated, live=live, problem=str(error)
            )
        return RunHead(
            run_id=RunId(run_id),
            dir=path.parent,
            simulated=self.simulated,
            live=live,
            job=first.job.name,
            action=first.action,
            started_at=first.at,
            calls=first.counts.get("calls", 0),
            end=end,
            run=first,
        )

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

    def find(self, text: str, *, now: float | None = None) -> RunRef:
        """The run of this store that `text` names: see `find_run`."""
        return _find((self,), text, now)

    def stop_requested(self, run_id: str) -> bool:
        """Whether `acctops stop` asked this run to drain; one stat, cheap enough to poll."""
        try:
            os.stat(self.run_dir(run_id) / "stop")  # noqa: PTH116 - half the cost of Path.stat, and polled
        except OSError:
            return False
        return True

    # Writing.

    def check_place(self, owner_of: Callable[[int], pwd.struct_passwd] = pwd.getpwuid) -> None:
        """ConfigError for a place in somebody else's home, which root could write to: its owner could not, after that.

        Whoever is not root works there by the rights the owner gave, or is told that it cannot be written. So is a
        place that people who are not trusted can change.
        """
        there = next(place for place in (self.root, *self.root.parents) if place.exists())
        owner = there.stat().st_uid
        try:
            who = owner_of(owner) if os.geteuid() == 0 and owner != 0 else None
        except KeyError:
            who = None
        if (
            who is not None
            and Path(who.pw_dir) in (there.resolve(), *there.resolve().parents)
            and Path(who.pw_dir) != Path("/")
        ):
            raise ConfigError(
                f"state directory {self.state_dir}: lies in the home of {who.pw_name}, and this runs as root: what it "
                f"writes there would be closed to {who.pw_name}. Run it as {who.pw_name}, or name another place: "
                "--state-dir, ACCTOPS_STATE_DIR, or state_dir in config.yaml"
            )
        self.refuse_strangers(self.runs_dir)

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

    def strangers(self, runs: Iterable[str]) -> dict[str, str]:
        """Which of these runs others could have written, and why; whoever the store belongs to may have."""
        found = {}
        for run in runs:
            with suppress(OSError):  # gone since
                trust = msgspec.structs.replace(self.trust, uids=self.trust.uids | {self.runs_dir.stat().st_uid})
                if (doubt := trust.doubt(self.path(run)) or trust.doubt_entries(self.runs_dir)) is not None:
                    found[run] = doubt.words
        return found

    def check_room(self, calls: int) -> str | None:
        """ConfigError if the disk has no room for the journal of so many calls; a warning if it is scarce."""
        there = next(place for place in (self.runs_dir, *self.runs_dir.parents) if place.exists())
        try:
            disk = os.statvfs(there)
        except OSError:
            return None
        need, free = max(1, calls) * BYTES_A_CALL, disk.f_bavail * disk.f_frsize
        figures = f"{there}: {_mib(free)} free, and the journal of {calls:,} calls takes about {_mib(need)}"
        if free < need or (disk.f_files and disk.f_favail < _FILES):
            few = "" if free < need else f", in {disk.f_favail:,} files more"
            raise ConfigError(f"{figures}{few}; free space there, or name another place with --state-dir")
        return f"{figures}; a run that retries much takes more" if free < _ROOM * need else None

    def request_stop(self, run_id: str) -> None:
        """Ask the process that works on the run to drain."""
        path = self.run_dir(run_id) / "stop"
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}") from error

    def clear_stop(self, run_id: str) -> None:
        """Forget a request to stop, before a session begins or once it obeyed."""
        (self.run_dir(run_id) / "stop").unlink(missing_ok=True)

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


def find_run(
    state_dir: Path, text: str, *, group: str | None = None, trust: Trust = _NO_ONE_ELSE, now: float | None = None
) -> RunRef:
    """The run that `text` names: an id, a unique prefix, `latest`, `latest:JOBNAME`, a journal's path or a run's.

    Real runs come first, and `latest` is never a simulated one, nor one that begins later than `now`. Raises UsageError
    with the candidates and the directory looked in.
    """
    stores = [RunStore(state_dir, simulated=which, group=group, trust=trust) for which in (False, True)]
    return _find(stores, text, now)


def _find(stores: Sequence[RunStore], text: str, now: float | None) -> RunRef:
    if text == "latest" or text.startswith("latest:"):
        return _latest(stores, text, now)
    if "/" in text or text.endswith(".jsonl"):
        return _at_path(stores, Path(text))
    for store in stores:
        matching = [name for name in store.names() if text and name.startswith(text)]
        if text in matching:
            matching = [text]
        if len(matching) > 1:
            raise UsageError(f"{text!r} is the beginning of {len(matching)} runs in {store.runs_dir}: {_few(matching)}")
        if matching:
            return _ref(store, matching[0])
    if text and Path(text).is_dir():
        return _at_path(stores, Path(text))
    names = [name for store in stores for name in store.names()]
    looked = " and ".join(str(store.runs_dir) for store in stores)
    raise UsageError(f"no run {text!r} in {looked}; {f'there are {_few(names)}' if names else 'there are none'}")


def _ref(store: RunStore, name: str) -> RunRef:
    try:
        first = first_record(store.path(name))
    except AcctopsError:  # said where it is read
        first = None
    if first is not None and first.run != name:  # a copy, or moved: to go on with it would give one run two journals
        return RunRef(run_id=RunId(first.run), path=store.path(name), simulated=first.simulated, store=None)
    return RunRef(run_id=RunId(name), path=store.path(name), simulated=store.simulated, store=store)


def _latest(stores: Sequence[RunStore], text: str, now: float | None) -> RunRef:
    job = text.partition(":")[2]
    jobs: dict[str, None] = {}
    early: list[RunId] = []
    real = [store for store in stores if not store.simulated]
    for store in real:
        for head in store.heads():
            if job and head.job != job:
                jobs[head.job] = None
            elif now is not None and not head.live and head.is_to_come(now):
                early.append(head.run_id)
            else:
                return msgspec.structs.replace(_ref(store, head.run_id), passed_over=tuple(early))
    looked = " and ".join(str(store.runs_dir) for store in real) or "a simulated store"
    if early:
        raise UsageError(f"{to_come_words(early)}; there is no other in {looked}; name the one you mean")
    if jobs:
        raise UsageError(f"no run of job {job!r} in {looked}; there are runs of {_few(list(jobs))}")
    raise UsageError(f"no runs in {looked} (simulated ones are never `latest`)")


def _at_path(stores: Sequence[RunStore], path: Path) -> RunRef:
    if path.is_dir():
        path = path / JOURNAL
    run = first_record(path)
    run_dir = path.resolve().parent
    store = None
    if path.name == JOURNAL and run_dir.name == run.run and run_dir.parent.name == "runs":
        root = run_dir.parent.parent
        if not run.simulated:
            store = RunStore(root, trust=stores[0].trust)
        elif root.name == "simulated":
            store = RunStore(root.parent, simulated=True, trust=stores[0].trust)
    for known in stores:
        if store is not None and known.simulated == store.simulated and known.runs_dir.resolve() == store.runs_dir:
            store = known  # it knows its group
    return RunRef(run_id=RunId(run.run), path=path, simulated=run.simulated, store=store)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def stamp(at: float) -> str:
    """A time as the names of runs begin with it."""
    return rfc3339(at)[:19].replace("-", "").replace(":", "") + "Z"


def to_come_words(runs: Sequence[str]) -> str:
    """That runs begin later than now, and are passed over."""
    verb = "says it" if len(runs) == 1 else "say they"
    return f"{_few(runs)} {verb} began later than now: the clock of this machine was wrong then, or is now; passed over"


def _stamp(name: str) -> str:
    return name.partition("-")[0]


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


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
