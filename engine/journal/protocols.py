"""What the rest of the engine knows of runs that are kept: protocols, addressed by run id. Files are one way.

A store of another kind (rows of a database) implements `Runs` and `Journal`; nothing outside this package knows a
path, or the name of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from engine.journal.records import rfc3339, unix_seconds

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from engine.errors import JournalWriteError
    from engine.journal.reader import Replay, Verification
    from engine.journal.records import AnyRecord, End, Run
    from engine.model import CallId, Rival, RunId
    from engine.outside.trust import Doubt, Trust

AHEAD_S = 300.0
"""How far a run's time may lie ahead of now: clocks of hosts, and of one host that was set right a little."""

Then = Callable[[Any], None]
"""Told of a record once it is durable. Any: it takes the very record it was given with, of whatever kind."""


class Claim(Struct, frozen=True, kw_only=True):
    """What a run is about to work on."""

    run_id: str
    digest: str
    """Of its job."""
    path: str
    """Of its job file; empty if there is none."""
    action: str
    calls: Collection[CallId]
    keep_admins: int = 0
    """How many superusers its run must leave every instance."""


class RunHead(Struct, frozen=True, kw_only=True):
    """What a listing says of a run, from its first and last line."""

    run_id: RunId
    place: str
    """Where its journal is."""
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
        """Where it can be worked on; None for a journal that lies by itself, which can only be read."""

    @property
    def passed_over(self) -> tuple[RunId, ...]:
        """Newer ones by their name, that say they began later than now."""

    @property
    def place(self) -> str:
        """Where its journal is, for a person."""

    def replay(self) -> Replay:
        """Its journal, folded."""

    def records(self) -> Iterator[AnyRecord]:
        """Its journal, record by record."""

    def verify(self, head: str | None) -> Verification:
        """Its journal, its chain checked, up to a `head` that was printed if one is given."""

    def doubt(self, trust: Trust) -> Doubt | None:
        """Why it is not believed: who is not trusted could have written it."""


class Journal(Protocol):
    """The journal of a run that is worked on: records appended in order, and durable once that is awaited."""

    broken: JournalWriteError | None
    """Why nothing can be appended any more."""
    durable_head: str
    """Hash of the last record that is on disk."""
    commit_s: float
    """How long a commit takes, lately."""

    @property
    def place(self) -> str:
        """Where it is, for a person."""

    @property
    def head(self) -> str:
        """Hash of the last record."""

    @property
    def waiting_s(self) -> float:
        """How long the oldest record has waited for the disk."""

    @property
    def is_meddled(self) -> bool:
        """Whether somebody else has changed it: what was recorded may be there no more."""

    def append(self, record: AnyRecord, then: Then | None = None) -> int:
        """Append a record; its sequence number. `then` is called with it once it is durable."""

    def append_now(self, record: AnyRecord) -> int:
        """Append a record, and wait until it is durable."""

    async def durable(self, seq: int | None = None) -> None:
        """Wait until that record is durable, or all that are appended; JournalWriteError if it cannot be."""

    async def is_as_written(self) -> bool:
        """Whether it holds what was written to it, read once more."""

    def flush(self) -> None:
        """Make all durable, and wait."""

    def leave(self, patience_s: float) -> bool:
        """Close it without waiting longer than that; whether all is durable."""

    def close(self) -> None:
        """Let the run go."""


class Runs(Protocol):
    """The runs of one state directory, or of what stands for one: the real ones, or the simulated ones."""

    simulated: bool

    state_dir: Path
    """What `--state-dir` names: beside the runs it has what the commands of one host share."""
    group: str | None
    """Who beside the operator may read what is written there."""
    trust: Trust
    """Who may have written what is believed."""

    @property
    def place(self) -> str:
        """Where the runs are, for a person."""

    # Reading: creates nothing.

    def names(self) -> tuple[str, ...]:
        """Ids of the runs that exist, newest first."""

    def ref(self, run_id: str, *, passed_over: tuple[RunId, ...] = ()) -> RunRef:
        """One of them; newer ones were `passed_over`."""

    def list(self) -> tuple[RunHead, ...]:
        """Every run, newest first."""

    def heads(self) -> Iterator[RunHead]:
        """Every run, newest first, read as it is asked for."""

    def head(self, run_id: str) -> RunHead:
        """What the first and last record of a run say."""

    def find(self, text: str, *, now: float | None = None) -> RunRef:
        """The run that `text` names; UsageError if there is none, or more than one."""

    def has(self, run_id: str) -> bool:
        """Whether there is such a run."""

    def place_of(self, run_id: str) -> str:
        """Where the journal of a run is, for a person."""

    def replay(self, run_id: str) -> Replay:
        """The journal of a run, folded."""

    def version(self, run_id: str) -> object:
        """What differs once the journal of a run has grown, or was changed."""

    def is_live(self, run_id: str) -> bool:
        """Whether a process works on the run."""

    def stop_requested(self, run_id: str) -> bool:
        """Whether somebody asked this run to drain; cheap enough to poll."""

    # Whom to believe.

    def doubt(self, run_id: str, trust: Trust | None = None) -> str | None:
        """Why a run is not believed: who is not trusted could have written it."""

    def strangers(self, runs: Iterable[str]) -> Mapping[str, str]:
        """Which of these runs others could have written, and why; whoever the store belongs to may have."""

    def check_place(self) -> None:
        """ConfigError for a place where a new run must not be made."""

    # Writing.

    def check_room(self, calls: int) -> str | None:
        """ConfigError if there is no room for the journal of so many calls; a warning if it is scarce."""

    def try_out(self) -> None:
        """Write something and remove it; ConfigError or OSError if that cannot be."""

    def new_run_id(self, now: float, rng: Random) -> RunId:
        """An id no run has; starts with the UTC time, so that names sort by age."""

    def create(self, run_id: RunId, first: Iterable[AnyRecord], *, clock: Callable[[], float]) -> Journal:
        """A new run with its first lines: it exists whole, or not at all."""

    def open(self, run_id: RunId, *, clock: Callable[[], float]) -> tuple[Journal, Replay]:
        """A run that is there, ready to append; BusyError if another process works on it."""

    def claim(
        self, mine: Claim, *, inverse: str | None, undone_by: Callable[[], Mapping[CallId, str]]
    ) -> AbstractContextManager[tuple[Rival, ...]]:
        """The right to work on these accounts; BusyError, naming the run, if a live one forbids it."""

    def request_stop(self, run_id: str) -> None:
        """Ask the process that works on the run to drain."""

    def clear_stop(self, run_id: str) -> None:
        """Forget that request."""

    def mark(self, name: str) -> str:
        """What was last written under this name; empty if nothing was, or if others could have written it."""

    def set_mark(self, name: str, text: str) -> None:
        """Write a short text under a name, to be read by later commands; ConfigError if that cannot be."""


def stamp(at: float) -> str:
    """A time as the names of runs begin with it."""
    return rfc3339(at)[:19].replace("-", "").replace(":", "") + "Z"
