"""Protocols of stored runs, addressed by run id: what the rest of the engine knows of them. Files are one way.

A store of another kind (rows of a database) implements `Runs`, `RunRef` and `Journal`, and is chosen in
`store.runs_at`. No other package knows a path or the name of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from engine.journal.records import rfc3339, unix_seconds

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from engine.errors import JournalWriteError
    from engine.journal.control import Asked
    from engine.journal.copies import Copy
    from engine.journal.heads import HeadLine, Seal
    from engine.journal.home import Home
    from engine.journal.reader import ReadableCalls, Replay, Verification
    from engine.journal.records import AnyRecord, End, Run
    from engine.model import CallId, LaneSlots, Rival, RunId
    from engine.outside.trust import Doubt, Trust

AHEAD_S = 300.0
"""Seconds a run's time may lie ahead of now, as clocks of hosts differ, or the clock of one host was corrected."""

Then = Callable[[Any], None]
"""A function called with a record once the record is durable. Any: the record can be of any kind."""


class Claim(Struct, frozen=True, kw_only=True):
    """What a run works on, or is about to."""

    run_id: str
    digest: str
    """Digest of its job."""
    path: str
    """Path of its job file; empty if there is none."""
    action: str
    calls: Collection[CallId]
    keep_admins: int = 0
    """Superusers that its run must leave every instance."""


class RunHead(Struct, frozen=True, kw_only=True):
    """What a listing says of a run, from its first and last line."""

    run_id: RunId
    place: str
    """Where its journal is, for a person."""
    simulated: bool
    live: bool
    """Whether a process holds the run's lock right now."""
    job: str = ""
    action: str = ""
    started_at: str = ""
    calls: int = 0
    end: End | None = None
    """The `end` of the last session; None for a run that was cut off, or is live."""
    run: Run | None = None
    """The first line."""
    problem: str | None = None
    """Why the journal cannot be read; None if it can. The fields from `job` on are empty then."""

    @property
    def ended_at(self) -> float:
        """UNIX time of the last session's `end`; if there is none, of the run's first line."""
        return unix_seconds(self.end.at if self.end is not None else self.started_at)

    @property
    def watched(self) -> str | None:
        """The run that this one watches; None for any other run, and if its first line cannot be read."""
        return self.run.watched if self.run is not None else None

    def is_to_come(self, now: float) -> bool:
        """Return whether its start lies more than `AHEAD_S` after now: the clock was wrong then, or is now."""
        began = self.started_at[:19].replace("-", "").replace(":", "") or self.run_id
        return began[:15] > stamp(now + AHEAD_S)[:15]


class RunRef(Protocol):
    """A run that was found."""

    @property
    def run_id(self) -> RunId:
        """Its id."""

    @property
    def simulated(self) -> bool:
        """Whether it is simulated."""

    @property
    def store(self) -> Runs | None:
        """The store that can work on it; None for a journal outside of a store, which can only be read."""

    @property
    def passed_over(self) -> tuple[RunId, ...]:
        """Runs that `latest` skipped, as they say they began later than now."""

    @property
    def place(self) -> str:
        """Where its journal is, for a person."""

    def replay(self) -> Replay:
        """Return its journal, folded into a ledger."""

    def records(self) -> Iterator[AnyRecord]:
        """Yield the records of its journal."""

    def verify(self, head: str | None, *, each: Callable[[AnyRecord], None] = ...) -> Verification:
        """Check the chain of its journal, and that it ends with the printed `head` if one is given.

        `each` is called with each record, in order.
        """

    def doubt(self, trust: Trust) -> Doubt | None:
        """Return why its journal is not trusted: which other users could have written it. None if it is."""


class Journal(Protocol):
    """The journal of a run that a session works on: records are appended in order, then made durable."""

    broken: JournalWriteError | None
    """Why nothing can be appended any more; None while it can."""
    durable_head: str
    """Hash of the last record that is on disk."""
    durable_seq: int
    """Its number."""
    commit_s: float
    """Seconds that a commit takes, as a moving average."""

    @property
    def may_send(self) -> Callable[[], bool] | None:
        """What says whether a write may leave now, as nobody else can have taken the run; None: it always may."""

    @property
    def waits_for(self) -> str:
        """What a commit waits for, and why, in words."""

    @property
    def place(self) -> str:
        """Where it is, for a person."""

    @property
    def epoch(self) -> int:
        """Number of who has it, raised by whoever takes it; 0 for a file, whose lock says who has it."""

    @property
    def head(self) -> str:
        """Hash of the last record."""

    @property
    def waiting_s(self) -> float:
        """Seconds that the commit under way has taken; 0 if none is."""

    @property
    def is_fenced(self) -> bool:
        """Whether another process has taken it: what that one writes counts, and nothing more is sent here."""

    @property
    def is_meddled(self) -> bool:
        """Whether another process has changed it: its records may be lost."""

    def append(self, record: AnyRecord, then: Then | None = None) -> int:
        """Append a record; return its sequence number. Call `then` with the record once it is durable."""

    def append_now(self, record: AnyRecord) -> int:
        """Append a record, wait until it is durable, and return its sequence number."""

    async def durable(self, seq: int | None = None) -> None:
        """Wait until record `seq` is durable, or all that are appended; raise JournalWriteError if it cannot be."""

    async def is_as_written(self) -> bool:
        """Read it once more; return whether it holds what was written to it."""

    def flush(self) -> None:
        """Make all records durable, and wait."""

    def leave(self, patience_s: float) -> bool:
        """Close it without waiting longer than `patience_s`; return whether all records are durable."""

    def close(self) -> None:
        """Make the records durable, close it, and release the run."""


class ShardRow(Struct, frozen=True, kw_only=True):
    """How a shard stands."""

    no: int
    wave: int
    lanes: tuple[str, ...]
    """Lanes that may take it; one that the API refused there is none of them any more."""
    lane: str | None
    """The lane that has it; None: none."""
    is_open: bool
    owner: str | None
    silent_s: float
    """Seconds since its owner was heard of; of one without an owner, since it was given back or offered."""
    seq: int
    head: str
    ack: int
    """Number of the last request of people that its session has carried out."""
    calls: int
    epoch: int


class Offer(Struct, frozen=True, kw_only=True):
    """A shard that a lane may take now."""

    run: str
    no: int
    simulated: bool
    wave: int
    calls: int
    stop: bool
    """Whether somebody asked the run to drain."""


class WorkerRow(Struct, frozen=True, kw_only=True):
    """A worker that lives."""

    name: str
    host: str
    pid: int
    version: str
    queues: tuple[str, ...]
    """The identities whose lanes it takes."""
    lanes: int
    """Sessions of lanes that it has."""
    programs: tuple[str, ...]
    """Programs that it runs if a run names them."""
    leads: bool
    """Whether it leads runs."""
    since: float
    """UNIX time of the server's clock at which it was first heard of."""
    silent_s: float


class LeadState(Struct, frozen=True, kw_only=True):
    """Who leads a run that was handed to workers."""

    is_submitted: bool
    """Whether workers have it: it was submitted, and nobody has ended it since."""
    is_live: bool
    """Whether a worker leads it now."""
    since: int
    """Number of the last line of chain 0 when it was submitted."""


class ShardJournal(Journal, Protocol):
    """The journal of a shard: its chain, as long as a session has it."""

    parting: str
    """What becomes of the shard once the journal is closed: `close`, `give back`, `without this lane`."""

    @property
    def lanes(self) -> tuple[str, ...]:
        """Lanes that might take the shard when it was taken: those that were refused are out."""

    @property
    def genesis(self) -> str:
        """The hash that the first line of the chain is chained to."""

    @property
    def stop_asked(self) -> bool:
        """Whether somebody asked the run to drain, as of the last answer."""

    @property
    def asked_no(self) -> int:
        """Number of the newest request of people, as of the last answer."""

    def asked(self, known: Container[str]) -> tuple[Asked, ...]:
        """Return what people ask of the run, but for requests whose names are `known`."""

    def acknowledge(self, no: int) -> None:
        """Say that the requests up to number `no` are carried out here; the next commit or permit tells it."""


class Tail(Protocol):
    """What is appended to a run, by whomever, as it comes."""

    def read(self, known: Mapping[int, int]) -> list[tuple[int, bytes]]:
        """Return all new lines of all chains, those of one commit at a time, each with the number of its chain.

        `known`: number of the last known line, by chain. Blocks; UnreachableError if the database does not answer.
        """


class Board(Protocol):
    """Where runs are handed to workers, and where workers find their work. All methods block.

    Each raises UnreachableError if the database does not answer. `epoch` is that of a run's chain 0, of who leads it.
    """

    @property
    def store(self) -> Runs:
        """The runs."""

    def salt(self) -> str:
        """Return what fingerprints of keys are keyed with here."""

    def submit(self, run_id: str, again: Mapping[int, Sequence[str]]) -> None:
        """Give a run to the workers; `again`: shards to open once more, each with its lanes."""

    def withdraw(self, run_id: str) -> None:
        """Offer no shard of a run any more."""

    def request_stop(self, run_id: str) -> None:
        """Ask all sessions of a run to drain."""

    def lead_of(self, run_id: str) -> LeadState:
        """Return who leads a run."""

    def newest_request(self, run_id: str) -> int:
        """Return the number of the newest request of people, as the journal of who leads the run knows it."""

    def let_go(self, run_id: str, epoch: int, wave: int) -> bool:
        """Let the waves up to `wave` be sent; return False if another session has the run."""

    def finish(self, run_id: str, epoch: int) -> bool:
        """Offer no shard of the run any more, as it has ended; return False if another session has the run."""

    def close_idle(self, run_id: str, epoch: int) -> int:
        """Close the shards that nobody works on; return how many are still open."""

    def rows(self, run_id: str) -> list[ShardRow]:
        """Return how the shards of a run stand, by number."""

    def chain(self, run_id: str, no: int, after: int) -> list[bytes]:
        """Return the lines of one chain behind line `after`, those of one commit at a time."""

    def tail(self, run_id: str) -> Tail:
        """Return what is appended to a run, as it comes."""

    def rivals(
        self, mine: Claim, *, inverse: str | None, undone_by: Callable[[], Mapping[CallId, str]]
    ) -> tuple[Rival, ...]:
        """Return the other runs that work on accounts of the same instances now."""

    def offers(self, lanes: Mapping[str, Collection[str]]) -> dict[str, list[Offer]]:
        """Return shards that each lane may take now: first those it has lost, then those of older runs.

        `lanes`: the lanes, each with the runs of which it wants none.
        """

    def take(self, run_id: str, no: int, lane: str) -> tuple[ShardJournal, list[bytes]] | None:
        """Take a shard for a lane; return its journal and its lines so far; None if somebody was quicker."""

    def stale(self) -> tuple[list[str], dict[str, str]]:
        """Return the lanes, and the runs with a lane of each, that should have a session and seem to have none."""

    def beat(self, name: str, queues: Sequence[str], lanes: int, *, programs: Sequence[str], leads: bool) -> None:
        """Say that this worker is there, which programs it runs, and whether it leads runs."""

    def leave(self, name: str) -> None:
        """Say that a worker has gone."""

    def workers(self) -> list[WorkerRow]:
        """Return the workers that were heard of lately."""


class Runs(Protocol):
    """The runs of one state directory, or of another store: the real ones, or the simulated ones."""

    simulated: bool

    database: str | None
    """URL of the database that has the runs; None: files have them."""
    state_dir: Path
    """The directory that `--state-dir` names; it also holds what the commands of one host share."""
    group: str | None
    """Group that may read what is written there; None: only the operator."""
    trust: Trust
    """Users whose files are trusted."""

    @property
    def place(self) -> str:
        """Where the runs are, for a person."""

    @property
    def kept_in(self) -> str:
        """The state directory, or the database, for a person."""

    # Reading: creates nothing.

    def names(self) -> tuple[str, ...]:
        """Return the ids of the runs that exist, newest first."""

    def ref(self, run_id: str, *, passed_over: tuple[RunId, ...] = ()) -> RunRef:
        """Return one of them; `passed_over` names newer runs that were skipped."""

    def list(self) -> tuple[RunHead, ...]:
        """Return what `heads` yields."""

    def heads(self, *, watches: bool = False) -> Iterator[RunHead]:
        """Yield the head of every run, newest first; each is read when it is asked for.

        A watch is no run of its job, holds nothing and has nothing open: it is left out, unless `watches` are wanted.
        """

    def head(self, run_id: str) -> RunHead:
        """Return what the first and last record of a run say."""

    def find(self, text: str, *, now: float | None = None) -> RunRef:
        """Return the run that `text` names; raise UsageError if there is none, or more than one."""

    def has(self, run_id: str) -> bool:
        """Return whether there is such a run."""

    def place_of(self, run_id: str) -> str:
        """Return where the journal of a run is, for a person."""

    def replay(self, run_id: str) -> Replay:
        """Return the journal of a run, folded into a ledger."""

    def version(self, run_id: str) -> object:
        """Return a value that differs once the journal of a run, or what stands beside it, has changed."""

    def lost(self) -> tuple[str, ...]:
        """Return the runs whose journals were removed, as far as what is left of them shows it."""

    def has_aside(self, run_id: str) -> bool:
        """Return whether anything stands beside the journal of a run; cheap."""

    def copy(self, run_id: str, into: Path) -> Copy:
        """Copy what is written of a run, up to the last whole line, into a new directory; UsageError if unreadable."""

    def readable_calls(self, run_id: str) -> ReadableCalls:
        """Return what can be read of the plan of a run, even if its journal is damaged; raises nothing."""

    def is_live(self, run_id: str) -> bool:
        """Return whether a process works on the run."""

    def stop_requested(self, run_id: str) -> bool:
        """Return whether a user asked this run to drain; cheap enough to poll."""

    def asked(self, run_id: str, known: Container[str] = ()) -> tuple[Asked, ...]:
        """Return what users ask of the process that works on the run, but for those whose names are `known`, in order.

        Cheap enough to poll.
        """

    # Which runs to trust.

    def doubt(self, run_id: str, trust: Trust | None = None) -> str | None:
        """Return why a run is not trusted: which other users could have written it. None if it is."""

    def strangers(self, runs: Iterable[str]) -> Mapping[str, str]:
        """Return those of the runs that users beside the store's owner and its `trust` could have written, and why."""

    def check_place(self) -> None:
        """Raise ConfigError for a place where a new run must not be made."""

    def board(self) -> Board | None:
        """Return where its runs are handed to workers; None: files have none."""

    # Writing.

    def check_room(self, calls: int) -> str | None:
        """Return a warning if room for the journal of `calls` calls is scarce; raise ConfigError if there is none."""

    def try_out(self) -> None:
        """Write something and remove it; raise ConfigError or OSError if that fails."""

    def new_run_id(self, now: float, rng: Random) -> RunId:
        """Return an id that no run has. It starts with the UTC time, so that names sort by age."""

    def create(self, run_id: RunId, first: Iterable[AnyRecord], *, clock: Callable[[], float]) -> Journal:
        """Create a run with its first lines, whole or not at all; return its journal."""

    def open(self, run_id: RunId, *, clock: Callable[[], float]) -> tuple[Journal, Replay]:
        """Open a run that exists, ready to append; raise BusyError if another process works on it."""

    def add_aside(self, run_id: str, lines: Sequence[AnyRecord], *, clock: Callable[[], float]) -> None:
        """Append to what is said of a run beside its own journal (links, releases, new ends of holds), durably."""

    def claim(
        self, mine: Claim, *, inverse: str | None, undone_by: Callable[[], Mapping[CallId, str]]
    ) -> AbstractContextManager[tuple[Rival, ...]]:
        """Hold the claim `mine` during the block; raise BusyError, naming the run, if a live run forbids it."""

    def lane_slots(self, lane: str, *, clock: Callable[[], float]) -> LaneSlots | None:
        """Return the slots that a lane shares with all hosts; None: it shares a file with the others of its host."""

    def request_stop(self, run_id: str) -> None:
        """Ask the process that works on the run to drain."""

    def ask(self, run_id: str, **wish: Any) -> str:
        """Ask something of the process that works on the run (`control.Asked`); return the id of the request."""

    def forget_asked(self, run_id: str, name: str) -> None:
        """Remove such a request, which the process has taken in."""

    def clear_requests(self, run_id: str) -> None:
        """Remove all that was asked, before a session begins and once it has ended."""

    def home(self, *, adopt: bool = False) -> Home:
        """Return which host the store belongs to; written down if nothing says so yet, or to `adopt` it here."""

    def aside(self, run_id: str) -> tuple[AnyRecord, ...]:
        """Return what stands beside the journal of a run; raises what reading a journal does."""

    def tending(self) -> AbstractContextManager[bool]:
        """Hold the right to tend the store during the block; yield whether it was free."""

    def mark(self, name: str) -> str:
        """Return what `set_mark` last wrote, or ""; raise ConfigError if untrusted users could have written it."""

    def used_by(self, plan: str) -> str | None:
        """Return the run that used up an approved plan, by the plan's hash; None if it is not used up."""

    def is_used_here(self, plan: str, run_id: str) -> bool:
        """Return whether this run used up a plan in this very store, of which it is no copy."""

    def use_up(self, plan: str, run_id: str) -> str | None:
        """Use up an approved plan for a run, durably, once; return the run that did so before, None if none did."""

    def listed(self) -> tuple[HeadLine, ...]:
        """Return the list of the ends of runs, oldest first; JournalCorruptError if its chain does not hold."""

    def last_listed(self, run_id: str) -> HeadLine | None:
        """Return the last line of that list about a run, whether or not its chain holds; None if there is none."""

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

    def seals(self) -> tuple[Seal, ...]:
        """Return the signatures and stamps of the lines of that list; JournalCorruptError for what is none."""

    def add_seal(self, seal: Seal) -> None:
        """Add a signature or a stamp of a line of that list, durably; JournalWriteError if that fails."""

    def set_mark(self, name: str, text: str) -> None:
        """Write a short text under a name, for later commands to read; raise ConfigError if that fails."""


_SIGNS = "abcdefghijkmnpqrstuvwxyz23456789"


def drawn_suffix(rng: Random) -> str:
    """Return the end of a name of a run, or of a request: four signs that nobody mistakes for one another."""
    return "".join(rng.choices(_SIGNS, k=4))


def stamp(at: float) -> str:
    """Return a UNIX time as the names of runs begin with it."""
    return rfc3339(at)[:19].replace("-", "").replace(":", "") + "Z"
