"""The directory of runs: their places, ids, locks and stop requests. Imports no asyncio.

    <state_dir>/runs/<run id>/journal.jsonl, lock, stop, control/   real runs
    <state_dir>/live/                                        which runs work now, and on what (`live`)
    <state_dir>/simulated/…                                  the same for simulated runs

A method that only reads creates nothing and works on a read-only mount, no matter who made the files. A method that
writes refuses a place that untrusted users can change.
"""

from __future__ import annotations

import os
import pwd
import random
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec.structs
from msgspec import Struct

from engine.errors import AcctopsError, ConfigError, UsageError
from engine.journal import control, locks
from engine.journal.directory import JOURNAL, RunDirectory, sync_dir
from engine.journal.finding import find_among, head_of, newest_first
from engine.journal.locks import Hold
from engine.journal.protocols import Claim, RunHead, RunRef, Runs, drawn_suffix, stamp
from engine.journal.reader import (
    ASIDE,
    first_record,
    last_end,
    read,
    read_aside,
    readable_calls,
    replay,
    verify,
)
from engine.model import RunId
from engine.outside.trust import Trust, create_new, owner_words, read_regular, replace_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from engine.journal.control import Asked
    from engine.journal.copies import Copy
    from engine.journal.heads import HeadLine, Seal
    from engine.journal.home import Home
    from engine.journal.reader import ReadableCalls, Replay, Verification
    from engine.journal.records import AnyRecord, End, Run
    from engine.journal.writer import FileJournal
    from engine.model import CallId, LaneSlots, Rival
    from engine.outside.trust import Doubt

BYTES_A_CALL = 2000
"""Bytes that a call adds to a journal, its plan included, if the first attempt succeeds (measured: 1,770)."""
_ROOM = 3
"""With less room than this many times the journal's size `check_room` warns, as retries need some, too."""
_MOST_MARK = 64
_USED = "used"
"""Directory of a file for each approved plan that was used up: its name is the plan's hash, its lines are the run and
the real path of the store, which a copy does not have."""
_MOST_USED = 8192
CONTROL = "control"
"""Directory of a run in which requests lie."""
_FILES = 8
"""Files that a run makes: its journal, its lock, its claim, and the directories that hold them."""
_NO_ONE_ELSE = Trust()


class FileRef(Struct, frozen=True, kw_only=True):
    """A run that was found, with the path of its journal."""

    run_id: RunId
    path: Path
    """Path of its journal."""
    simulated: bool
    store: Runs | None
    """The store that can work on it; None for a journal outside a state directory, which can only be read."""
    passed_over: tuple[RunId, ...] = ()
    """Runs that `latest` skipped, as they say they began later than now."""

    @property
    def place(self) -> str:
        """The path of its journal."""
        return str(self.path)

    def replay(self) -> Replay:
        """Return its journal, folded into a ledger."""
        return replay(self.path)

    def records(self) -> Iterator[AnyRecord]:
        """Yield the records of its journal."""
        return read(self.path)

    def verify(self, head: str | None, *, each: Callable[[AnyRecord], None] = lambda _: None) -> Verification:
        """Check the chain of its journal, and that it ends with the printed `head` if one is given.

        `each` is called with each record, in order.
        """
        return verify(self.path, head, each=each)

    def doubt(self, trust: Trust) -> Doubt | None:
        """Return why its journal is not trusted: which other users could have written it. None if it is."""
        return _doubt(self.path, trust)


def _doubt(path: Path, trust: Trust) -> Doubt | None:
    """Return why a journal, or what stands beside it, is not trusted; None if both are."""
    beside = path.with_name(ASIDE)
    return trust.doubt(path) or (trust.doubt(beside) if os.path.lexists(beside) else None)


class RunStore(RunDirectory):
    """The runs of one state directory: the real ones, or the simulated ones."""

    database: str | None = None

    @property
    def place(self) -> str:
        """The directory of the runs."""
        return str(self.runs_dir)

    @property
    def kept_in(self) -> str:
        """The state directory."""
        return str(self.state_dir)

    def new_run_id(self, now: float, rng: random.Random) -> RunId:
        """Return an id that no run has, real or simulated. It starts with the UTC time, so that names sort by age."""
        while True:
            run_id = f"{stamp(now)}-{drawn_suffix(rng)}"
            if not any(RunStore(self.state_dir, simulated=which).run_dir(run_id).exists() for which in (False, True)):
                return RunId(run_id)

    # Reading: creates nothing.

    def list(self) -> tuple[RunHead, ...]:
        """Return what `heads` yields; reads only the first line and the end of each journal."""
        return tuple(self.heads())

    def heads(self, *, watches: bool = False) -> Iterator[RunHead]:
        """Yield the head of every run, newest first; each is read when it is asked for. Without `watches`, no watch."""
        yield from newest_first(self.names(), self.head, watches=watches)

    def head(self, run_id: str) -> RunHead:
        """Return what the first line and the last `end` of a run say; an unreadable journal is its `problem`."""
        path = self.path(run_id)

        def read_ends() -> tuple[Run, End | None]:
            first = first_record(path)
            if first.run != run_id:
                raise UsageError(
                    f"{path}: is run {first.run} by its first line, so {run_id} is a copy of it, or was moved; keep it "
                    f"outside of {self.runs_dir}"
                )
            return first, last_end(path)

        return head_of(run_id, str(path), read_ends, simulated=self.simulated, live=self.is_live(run_id))

    def ref(self, run_id: str, *, passed_over: tuple[RunId, ...] = ()) -> FileRef:
        """Return a run of this store; one whose first line has another id is a copy, and can only be read."""
        path = self.path(run_id)
        try:
            first = first_record(path)
        except AcctopsError:  # raised again when the journal is read
            first = None
        if first is not None and first.run != run_id:  # copied or moved: going on would give one run two journals
            return FileRef(
                run_id=RunId(first.run), path=path, simulated=first.simulated, store=None, passed_over=passed_over
            )
        return FileRef(run_id=RunId(run_id), path=path, simulated=self.simulated, store=self, passed_over=passed_over)

    def has(self, run_id: str) -> bool:
        """Return whether there is such a run; a name with a slash is none, as it would lead elsewhere."""
        return bool(run_id) and "/" not in run_id and self.path(run_id).is_file()

    def place_of(self, run_id: str) -> str:
        """Return the path of its journal."""
        return str(self.path(run_id))

    def replay(self, run_id: str) -> Replay:
        """Return the journal of a run, folded into a ledger."""
        return replay(self.path(run_id))

    def version(self, run_id: str) -> tuple[int, ...]:
        """Return the modification time (ns) and the size (bytes) of its journal and of the one beside it."""
        found: list[int] = []
        for path in (self.path(run_id), self.path(run_id).with_name(ASIDE)):
            try:
                there = os.stat(path)  # noqa: PTH116 - both at once
            except OSError:
                found += (0, 0)
            else:
                found += (there.st_mtime_ns, there.st_size)
        return tuple(found)

    def has_aside(self, run_id: str) -> bool:
        """Return whether anything stands beside the journal of a run; one stat."""
        return os.path.lexists(self.path(run_id).with_name(ASIDE))

    def copy(self, run_id: str, into: Path) -> Copy:
        """Copy what is written of a run, up to the last whole line, into a new directory; UsageError if unreadable."""
        from engine.journal.copies import copy_run  # imported here, as one command needs it

        return copy_run(self.run_dir(run_id), into)

    def readable_calls(self, run_id: str) -> ReadableCalls:
        """Return what can be read of the plan of a run, even if its journal is damaged; raises nothing."""
        return readable_calls(self.path(run_id))

    def doubt(self, run_id: str, trust: Trust | None = None) -> str | None:
        """Return why a run is not trusted, by `trust` or else by the store's own trust; None if it is."""
        doubt = _doubt(self.path(run_id), trust or self.trust)
        return doubt.words if doubt is not None else None

    def find(self, text: str, *, now: float | None = None) -> RunRef:
        """Return the run of this store that `text` names: see `find_run`."""
        return find_among((self,), text, now, _at_path)

    def stop_requested(self, run_id: str) -> bool:
        """Return whether `acctops stop` asked this run to drain; one stat, cheap enough to poll."""
        try:
            os.stat(self.run_dir(run_id) / "stop")  # noqa: PTH116 - half the cost of Path.stat, and polled
        except OSError:
            return False
        return True

    def asked(self, run_id: str, known: Container[str] = ()) -> tuple[Asked, ...]:
        """Return what users ask of the process that works on the run, but for those whose names are `known`.

        One listing, cheap enough to poll.
        """
        return control.read_all(self.run_dir(run_id) / CONTROL, self.trust, known)

    def aside(self, run_id: str) -> tuple[AnyRecord, ...]:
        """Return what stands beside the journal of a run; raises what reading a journal does."""
        path = self.path(run_id)
        return tuple(read_aside(path, first_record(path)))

    def mark(self, name: str) -> str:
        """Return what `set_mark` last wrote, or ""; raise ConfigError if untrusted users could have written it."""
        path = self.root / name
        self.refuse_strangers(path)
        try:
            return read_regular(path, _MOST_MARK, follow=False).decode("ascii", "replace").strip()
        except OSError:
            return ""

    def used_by(self, plan: str) -> str | None:
        """Return the run that used up an approved plan, by the plan's hash; None if it is not used up.

        It is empty if a crash came while that was written down: the plan is used up all the same.
        """
        used = self._used(plan)
        return used[0] if used is not None else None

    def is_used_here(self, plan: str, run_id: str) -> bool:
        """Return whether this run used up a plan in this very directory, of which it is no copy."""
        return self._used(plan) == (run_id, str(self.root.resolve()))

    def _used(self, plan: str) -> tuple[str, str] | None:
        path = self.root / _USED / plan
        self.refuse_strangers(path)
        try:
            data = read_regular(path, _MOST_USED, follow=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"{path}: cannot be read ({why}), so nobody knows whether that plan was used") from error
        run_id, _, place = data.decode(errors="surrogateescape").partition("\n")
        return run_id[:_MOST_MARK].strip(), place.removesuffix("\n")

    # The list of the ends of runs.

    def listed(self) -> tuple[HeadLine, ...]:
        """Return the list of the ends of runs, oldest first; JournalCorruptError if its chain does not hold."""
        from engine.journal.heads import read_heads  # imported here, as few commands need it

        return read_heads(self.root)

    def last_listed(self, run_id: str) -> HeadLine | None:
        """Return the last line of that list about a run, whether or not its chain holds; None if there is none."""
        from engine.journal.heads import last_of

        return last_of(self.root, run_id)

    def seals(self) -> tuple[Seal, ...]:
        """Return the signatures and stamps of the lines of that list; JournalCorruptError for what is none."""
        from engine.journal.heads import read_seals

        return read_seals(self.root)

    def list_end(
        self,
        run_id: str,
        *,
        head: str,
        lines: int,
        exit_code: int | None,
        late: bool = False,
        seal: str | None = None,
        clock: Callable[[], float],
    ) -> HeadLine:
        """Add to that list how a run's journal stands, durably; return the line. JournalWriteError if that fails."""
        from engine.journal.heads import add_head

        return add_head(self, run_id, head=head, lines=lines, exit_code=exit_code, late=late, seal=seal, clock=clock)

    def add_seal(self, seal: Seal) -> None:
        """Add a signature or a stamp of a line of that list, durably; JournalWriteError if that fails."""
        from engine.journal.heads import add_seal

        add_seal(self, seal)

    # Writing.

    def use_up(self, plan: str, run_id: str) -> str | None:
        """Use up an approved plan for a run, durably, once; return the run that did so before, None if none did."""
        path = self.root / _USED / plan
        self.refuse_strangers(path)
        with self.writable():
            self.make_dir(path.parent)
            try:
                fd = create_new(path, 0o640 if self.group else 0o600)
            except FileExistsError:
                return self.used_by(plan) or ""
            with os.fdopen(fd, "wb") as file:
                file.write(f"{run_id}\n{self.root.resolve()}\n".encode(errors="surrogateescape"))
                file.flush()
                os.fsync(file.fileno())
            sync_dir(path.parent)
            sync_dir(self.root)
        return None

    def create(self, run_id: RunId, first: Iterable[AnyRecord], *, clock: Callable[[], float]) -> FileJournal:
        """Create a run with its first lines, whole or not at all; return its journal."""
        with suppress(ConfigError):  # only `tend` needs it, and says so: it keeps nobody from locking accounts now
            self.home()
        from engine.journal.writer import FileJournal  # imported here, as commands that only read do not need it

        return FileJournal.create(self, run_id, first, clock=clock)

    def open(self, run_id: RunId, *, clock: Callable[[], float]) -> tuple[FileJournal, Replay]:
        """Open a run that exists, ready to append; raise BusyError after a second if another process works on it."""
        from engine.journal.writer import FileJournal

        return FileJournal.open(self, run_id, clock=clock)

    def add_aside(self, run_id: str, lines: Sequence[AnyRecord], *, clock: Callable[[], float]) -> None:
        """Append to what is said of a run beside its own journal (links, releases, new ends of holds), durably."""
        from engine.journal.aside import add_aside  # imported here, as commands that only read do not need it

        with self.writable():
            add_aside(self, run_id, lines, clock=clock)

    def claim(
        self, mine: Claim, *, inverse: str | None, undone_by: Callable[[], Mapping[CallId, str]]
    ) -> AbstractContextManager[tuple[Rival, ...]]:
        """Hold the claim `mine` during the block; raise BusyError, naming the run, if a live run forbids it."""
        from engine.journal.live import claimed

        return claimed(self, mine, inverse=inverse, undone_by=undone_by)

    def home(self, *, adopt: bool = False) -> Home:
        """Return which host the directory belongs to; written down if nothing says so yet, or to `adopt` it here."""
        from engine.journal.home import home_of

        return home_of(self, adopt=adopt)

    @contextmanager
    def tending(self) -> Iterator[bool]:
        """Hold the right to tend the directory during the block; yield whether it was free."""
        path = self.root / "tend.lock"
        self.refuse_strangers(path)
        with self.writable():
            self.make_dir(self.root)
            fd = locks.open_private(path)
        try:
            yield locks.take(fd) is not Hold.THEIRS and locks.is_at(fd, path)
        finally:
            os.close(fd)

    def try_out(self) -> None:
        """Make a run's directory, write a file there, remove both; raise OSError or ConfigError if that fails."""
        run_id = self.new_run_id(time.time(), random.Random())
        self.make_run_dir(run_id)
        probe = self.run_dir(run_id) / "doctor"
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
        self.discard_unborn(run_id)

    def set_mark(self, name: str, text: str) -> None:
        """Write a short text to a file of this name below the store's root; raise ConfigError if that fails."""
        path = self.root / name
        with self.writable():
            self.make_dir(path.parent)
            replace_whole(path, f"{text}\n".encode(), 0o640 if self.group else 0o600)

    def board(self) -> None:
        """Return None: files are one host's, and no other can work on them."""

    def check_place(self, owner_of: Callable[[int], pwd.struct_passwd] = pwd.getpwuid) -> None:
        """Raise ConfigError for a place that untrusted users can change, or that root would close to its owner.

        That is a place in another user's home: files that root makes there could not be written by that user. A user
        other than root writes there by the rights that the owner gave, or learns later that it cannot be written.
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

    def strangers(self, runs: Iterable[str]) -> dict[str, str]:
        """Return those of the runs that users beside the store's owner and its `trust` could have written, and why."""
        found = {}
        for run in runs:
            with suppress(OSError):  # gone since
                trust = msgspec.structs.replace(self.trust, uids=self.trust.uids | {self.runs_dir.stat().st_uid})
                if (doubt := trust.doubt(self.path(run)) or trust.doubt_entries(self.runs_dir)) is not None:
                    found[run] = doubt.words
        return found

    def check_room(self, calls: int) -> str | None:
        """Return a warning if room for the journal of `calls` calls is scarce; raise ConfigError if there is none."""
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

    def lane_slots(self, _lane: str, *, clock: Callable[[], float]) -> LaneSlots | None:
        """Return None: a lane shares its slots by a file of this host."""
        return None

    def request_stop(self, run_id: str) -> None:
        """Ask the process that works on the run to drain."""
        path = self.run_dir(run_id) / "stop"
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}") from error

    def ask(self, run_id: str, **wish: Any) -> str:
        """Ask something of the process that works on the run; return the id. Any: the fields of `control.Asked`."""
        directory = self.run_dir(run_id) / CONTROL
        self.refuse_strangers(directory)
        name = f"{time.time_ns():020d}-{drawn_suffix(random.Random())}"
        try:
            self.make_dir(directory)
            control.write(directory, name, **wish)
        except OSError as error:
            raise UsageError(
                f"{error.filename or directory}: cannot be written: {error.strerror}; only who can write there steers "
                f"the run: {owner_words(self.run_dir(run_id).stat().st_uid)}, who runs it; nothing was asked"
            ) from error
        return name

    def forget_asked(self, run_id: str, name: str) -> None:
        """Remove such a request, which the process has taken in."""
        control.forget(self.run_dir(run_id) / CONTROL, name)

    def clear_requests(self, run_id: str) -> None:
        """Remove what was asked of a session, before one begins and once it has ended."""
        (self.run_dir(run_id) / "stop").unlink(missing_ok=True)
        control.forget(self.run_dir(run_id) / CONTROL)


def runs_at(
    state_dir: Path,
    *,
    simulated: bool,
    group: str | None = None,
    trust: Trust = _NO_ONE_ELSE,
    database: str | None = None,
) -> Runs:
    """Return the store with the runs of a state directory; or those of the database of this URL, if one is given."""
    if database is not None:
        from engine.journal.database.runs import DatabaseRuns  # here: who has no database needs no psycopg

        return DatabaseRuns(database, state_dir, simulated=simulated, trust=trust)
    return RunStore(state_dir, simulated=simulated, group=group, trust=trust)


def find_run(
    state_dir: Path,
    text: str,
    *,
    group: str | None = None,
    trust: Trust = _NO_ONE_ELSE,
    now: float | None = None,
    database: str | None = None,
) -> RunRef:
    """Return the run that `text` names: its id, a unique prefix, its path or its journal's, `latest`, `latest:JOBNAME`.

    Real runs come first. `latest` is never a simulated run, nor one that says it began later than `now` unless it is
    live. Raises UsageError, which names the candidates and the directories searched.
    """
    stores = [
        runs_at(state_dir, simulated=which, group=group, trust=trust, database=database) for which in (False, True)
    ]
    return find_among(stores, text, now, _at_path)


def _at_path(stores: Sequence[Runs], path: Path) -> RunRef:
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
        if store is None or known.simulated != store.simulated or not isinstance(known, RunStore):
            continue
        if known.runs_dir.resolve() == store.runs_dir:
            store = known  # unlike the new one it has its group
    return FileRef(run_id=RunId(run.run), path=path, simulated=run.simulated, store=store)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
