"""The runs of a database: the real ones, or the simulated ones, behind the protocol that files have.

What belongs to one host stays below its state directory.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from engine.errors import AcctopsError, ConfigError, JournalWriteError, UsageError
from engine.journal import control
from engine.journal.database.asked import LIVE_JOURNALS, journal_here, requests_of
from engine.journal.database.claims import claimed
from engine.journal.database.journal import HEARD_S, DatabaseJournal
from engine.journal.database.known import Known
from engine.journal.database.link import Link, LostError, Rows, link_to, names_of, told, who
from engine.journal.database.shards import Shards
from engine.journal.database.slots import DatabaseSlots, asker_of
from engine.journal.database.stored import ASIDE, Kept, StoredLines
from engine.journal.database.versions import check_version
from engine.journal.finding import find_among, head_of, newest_first
from engine.journal.home import Home
from engine.journal.lines import Chain
from engine.journal.protocols import RunHead, drawn_suffix, stamp
from engine.journal.reader import (
    Walk,
    first_record,
    last_end,
    read,
    read_aside,
    readable_calls,
    replay,
    verify,
)
from engine.journal.records import rfc3339
from engine.model import RunId
from engine.outside.databaseurls import url_words
from engine.outside.trust import Trust, create_new

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from engine.journal.control import Asked
    from engine.journal.copies import Copy
    from engine.journal.heads import HeadLine, Seal
    from engine.journal.protocols import Board, Claim, RunRef
    from engine.journal.reader import ReadableCalls, Replay, Verification
    from engine.journal.records import AnyRecord, End, Run
    from engine.model import CallId, LaneSlots, Rival
    from engine.outside.trust import Doubt

_MANY = 200
"""Heads of runs that are asked for at once."""
_TAIL = 12
"""Commits that are read for the `end` of a run: notes may follow it."""
_TRIES = 20
_MOST_MARK = 64
_HEADS = (
    "select r.id, acctops.is_live(r.id, %s), "
    "(select b.lines from acctops.batch b where b.run = r.id and b.no = 0 and b.first = 1), "
    "(select string_agg(substr(t.lines, greatest(1, length(t.lines) - 65535)), ''::bytea order by t.first) "
    "from (select b.first, b.lines from acctops.batch b "
    "where b.run = r.id and b.no = 0 order by b.first desc limit %s) t) "
    "from acctops.run r where r.id = any(%s)"
)

_TOKENS: dict[str, str] = {}
"""Tokens of the claims that this process holds, by run."""


class DatabaseRef(Struct, frozen=True, kw_only=True):
    """A run that was found in a database."""

    run_id: RunId
    simulated: bool
    store: DatabaseRuns
    passed_over: tuple[RunId, ...] = ()
    """Runs that `latest` skipped, as they say they began later than now."""

    @property
    def place(self) -> str:
        """Where its journal is, for a person."""
        return self.store.place_of(self.run_id)

    def replay(self) -> Replay:
        """Return its journal, folded into a ledger."""
        return self.store.replay(self.run_id)

    def records(self) -> Iterator[AnyRecord]:
        """Yield the records of its journal."""
        return read(self.store.lines(self.run_id))

    def verify(self, head: str | None, *, each: Callable[[AnyRecord], None] = lambda _: None) -> Verification:
        """Check the chain of its journal, and that it ends with the printed `head` if one is given."""
        return verify(self.store.lines(self.run_id), head, each=each)

    def doubt(self, trust: Trust) -> Doubt | None:
        """Return None: who may write the database is believed."""
        return None


class DatabaseRuns:
    """The runs of a database: the real ones, or the simulated ones."""

    def __init__(self, url: str, state_dir: Path, *, simulated: bool, trust: Trust) -> None:
        """`state_dir` has what belongs to this host alone. ConfigError for tables of another version."""
        self.database: str | None = url
        self.state_dir = state_dir
        self.simulated = simulated
        self.group: str | None = None
        self.trust = trust
        self._url = url
        check_version(url)

    @property
    def place(self) -> str:
        """The database, for a person."""
        return url_words(self._url) + (" (simulated)" if self.simulated else "")

    @property
    def kept_in(self) -> str:
        """The database, for a person."""
        return url_words(self._url)

    def _rows(self, sql: str, *args: Any) -> Rows:
        with told(self._url):
            return link_to(self._url).rows(sql, *args)

    def _one(self, sql: str, *args: Any) -> Any:
        rows = self._rows(sql, *args)
        return rows[0][0] if rows else None

    def _open_here(self, run_id: str) -> DatabaseJournal | None:
        """Return the journal of a run, if this process has it open: then what is asked of it is known."""
        return journal_here(self._url, run_id)

    # Reading.

    def lines(self, run_id: str) -> StoredLines:
        """Return the lines of a run's journal, as readers take them."""
        return StoredLines(self._url, run_id, self.place_of(run_id))

    def names(self) -> tuple[str, ...]:
        """Return the ids of the runs that exist, newest first."""
        return names_of(self._rows("select id from acctops.run where simulated = %s order by id desc", self.simulated))

    def ref(self, run_id: str, *, passed_over: tuple[RunId, ...] = ()) -> DatabaseRef:
        """Return one of them."""
        return DatabaseRef(run_id=RunId(run_id), simulated=self.simulated, store=self, passed_over=passed_over)

    def list(self) -> tuple[RunHead, ...]:
        """Return what `heads` yields."""
        return tuple(self.heads())

    def heads(self, *, watches: bool = False) -> Iterator[RunHead]:
        """Yield the head of every run, newest first. Without `watches`, no watch."""
        names = self.names()
        ahead: dict[str, RunHead] = {}

        def head(run_id: str) -> RunHead:
            if run_id not in ahead:
                at = names.index(run_id)
                ahead.clear()
                ahead.update(self._heads(names[at : at + _MANY]))
            return ahead.get(run_id) or self.head(run_id)

        yield from newest_first(names, head, watches=watches)

    def head(self, run_id: str) -> RunHead:
        """Return what the first and last record of a run say."""
        found = self._heads((run_id,))
        if run_id in found:
            return found[run_id]
        return RunHead(
            run_id=RunId(run_id),
            place=self.place_of(run_id),
            simulated=self.simulated,
            live=False,
            problem=f"{self.place_of(run_id)}: no such journal",
        )

    def _heads(self, names: Sequence[str]) -> dict[str, RunHead]:
        found = {}
        for run_id, live, first, tail in self._rows(_HEADS, HEARD_S, _TAIL, list(names)):
            place = self.place_of(run_id)

            def read_ends(
                first: bytes = first or b"", tail: bytes = tail or b"", at: str = place
            ) -> tuple[Run, End | None]:
                return first_record(Kept(first, at)), last_end(Kept(tail, at))

            found[run_id] = head_of(run_id, place, read_ends, simulated=self.simulated, live=live)
        return found

    def find(self, text: str, *, now: float | None = None) -> RunRef:
        """Return the run of this store that `text` names: see `store.find_run`."""
        from engine.journal.protocols import Runs

        def at_path(_stores: Sequence[Runs], path: Path) -> RunRef:
            raise UsageError(f"{path}: is a path, and the runs are in {self.place}")

        return find_among((self,), text, now, at_path)

    def has(self, run_id: str) -> bool:
        """Return whether there is such a run."""
        sql = "select exists (select 1 from acctops.run where id = %s and simulated = %s)"
        return "\0" not in run_id and bool(self._one(sql, run_id, self.simulated))

    def place_of(self, run_id: str) -> str:
        """Return where the journal of a run is, for a person."""
        return f"{url_words(self._url)} run {run_id}"

    def replay(self, run_id: str) -> Replay:
        """Return the journal of a run, folded into a ledger."""
        return replay(self.lines(run_id))

    def version(self, run_id: str) -> object:
        """Return the ends of its chains."""
        return tuple(self._rows("select no, seq, head from acctops.shard where run = %s order by no", run_id))

    def lost(self) -> tuple[str, ...]:
        """Return the runs whose lines were removed."""
        sql = (
            "select r.id from acctops.run r where r.simulated = %s and not exists "
            "(select 1 from acctops.batch b where b.run = r.id and b.no = 0 and b.first = 1) order by r.id"
        )
        return names_of(self._rows(sql, self.simulated))

    def has_aside(self, run_id: str) -> bool:
        """Return whether anything stands beside the journal of a run."""
        return self.lines(run_id).beside() is not None

    def copy(self, run_id: str, into: Path) -> Copy:
        """Write a run's journal, and what stands beside it, as files into a new directory."""
        from engine.journal.copies import Copy
        from engine.journal.directory import JOURNAL as NAME
        from engine.journal.reader import ASIDE as BESIDE

        lines = self.lines(run_id)
        if not lines.exists():
            raise UsageError(f"{lines}: no such journal")
        into.mkdir(mode=0o700)
        beside = lines.beside()
        journal = _write(into / NAME, lines)
        return Copy(journal=journal, aside=_write(into / BESIDE, beside) if beside is not None else None)

    def readable_calls(self, run_id: str) -> ReadableCalls:
        """Return what can be read of the plan of a run, even if its journal is damaged."""
        return readable_calls(self.lines(run_id))

    def is_live(self, run_id: str) -> bool:
        """Return whether a process works on the run: it was heard of lately, by the server's clock."""
        return bool(self._one("select acctops.is_live(%s, %s)", run_id, HEARD_S))

    def stop_requested(self, run_id: str) -> bool:
        """Return whether a user asked this run to drain; of a run of this process, as of the last answer."""
        if (journal := self._open_here(run_id)) is not None:
            return journal.stop_asked
        return bool(self._one("select stop from acctops.run where id = %s", run_id))

    def asked(self, run_id: str, known: Container[str] = ()) -> tuple[Asked, ...]:
        """Return what users ask of the process that works on the run, but for those whose names are `known`."""
        if (journal := self._open_here(run_id)) is not None:
            return journal.asked(known)
        with told(self._url):
            return tuple(each for each in requests_of(link_to(self._url), run_id) if each.name not in known)

    def aside(self, run_id: str) -> tuple[AnyRecord, ...]:
        """Return what stands beside the journal of a run; raises what reading a journal does."""
        lines = self.lines(run_id)
        return tuple(read_aside(lines, first_record(lines)))

    # Which runs to trust: the database decides who writes there.

    def doubt(self, run_id: str, trust: Trust | None = None) -> str | None:
        """Return None: who may write the database is believed."""
        return None

    def strangers(self, runs: Iterable[str]) -> Mapping[str, str]:
        """Return none."""
        return {}

    def check_place(self) -> None:
        """Raise ConfigError for a standby, and for a role that may not write."""
        sql = (
            "select pg_is_in_recovery(), has_function_privilege("
            "'acctops.append(text[],int[],bigint[],bigint[],text[],bigint[],text[],bytea[])', 'execute')"
        )
        is_standby, may = self._rows(sql)[0]
        if is_standby:
            raise ConfigError(f"database {self.place}: is a read-only standby; name the primary; nothing was sent")
        if not may:
            raise ConfigError(
                f"database {self.place}: this role may only look; let its owner say: grant acctops_worker to it; "
                "nothing was sent"
            )

    def board(self) -> Board | None:
        """Return where its runs are handed to workers."""
        return Shards(self._url, self)

    # Writing.

    def check_room(self, calls: int) -> str | None:
        """Return None: a server's disk is its owner's affair, and a full one is a wait."""
        return None

    def try_out(self) -> None:
        """Write a mark; raise ConfigError if that fails."""
        self.check_place()
        self.set_mark("doctor", rfc3339(time.time()))

    def new_run_id(self, now: float, rng: random.Random) -> RunId:
        """Return an id that no run has, real or simulated."""
        while True:
            run_id = f"{stamp(now)}-{drawn_suffix(rng)}"
            if not self._one("select exists (select 1 from acctops.run where id = %s)", run_id):
                return RunId(run_id)

    def create(self, run_id: RunId, first: Iterable[AnyRecord], *, clock: Callable[[], float]) -> DatabaseJournal:
        """Create a run with its first lines, whole or not at all; return its journal."""
        self.check_place()
        journal = DatabaseJournal.create(
            self._url,
            run_id,
            first,
            simulated=self.simulated,
            token=_TOKENS.get(run_id),
            place=self.place_of(run_id),
            clock=clock,
        )
        return self._opened(run_id, journal)

    def open(self, run_id: RunId, *, clock: Callable[[], float]) -> tuple[DatabaseJournal, Replay]:
        """Open a run that exists, ready to append; raise BusyError if another process works on it."""
        self.check_place()
        place = self.place_of(run_id)
        journal, found = DatabaseJournal.open(self._url, run_id, token=_TOKENS.get(run_id), place=place, clock=clock)
        return self._opened(run_id, journal), found

    def _opened(self, run_id: str, journal: DatabaseJournal) -> DatabaseJournal:
        journal.read_requests = lambda link: requests_of(link, run_id)
        LIVE_JOURNALS[self._url, run_id] = journal
        return journal

    def add_aside(self, run_id: str, lines: Sequence[AnyRecord], *, clock: Callable[[], float]) -> None:
        """Append to what is said of a run beside its own journal, durably."""
        stored = self.lines(run_id)
        first = first_record(stored)
        for _ in range(_TRIES):
            beside = stored.beside()
            head, seq = first.hash, 0
            if beside is not None:
                walk = Walk(beside, of=first)
                for _record in walk.records():
                    pass
                head, seq = walk.head, walk.seq
            chain = Chain(first.run, seq, head, v=first.v)
            at = rfc3339(clock())
            data = b"".join(chain.add(_fresh(record), at) for record in lines)
            sql = (
                "select run from acctops.append(array[%s], array[%s]::int[], array[0]::bigint[], array[%s]::bigint[], "
                "array[%s], array[%s]::bigint[], array[%s], array[%s]::bytea[])"
            )
            if self._write(sql, run_id, ASIDE, seq, head if seq else "", chain.seq, chain.head, data):
                return
        raise JournalWriteError(f"{stored} (beside): others write there all the time; try again")

    def _write(self, sql: str, *args: Any) -> Rows:
        """Carry out what is written once; JournalWriteError if nobody knows whether it was."""
        try:
            return link_to(self._url).rows(sql, *args)
        except LostError as error:
            raise JournalWriteError(f"database {self.place}: cannot be written: {error}; look at the server") from None

    def claim(
        self, mine: Claim, *, inverse: str | None, undone_by: Callable[[], Mapping[CallId, str]]
    ) -> AbstractContextManager[tuple[Rival, ...]]:
        """Hold the claim `mine` during the block; raise BusyError, naming the run, if a live run forbids it."""
        self.check_place()
        return claimed(self._url, mine, simulated=self.simulated, inverse=inverse, undone_by=undone_by, tokens=_TOKENS)

    def lane_slots(self, lane: str, *, clock: Callable[[], float]) -> LaneSlots | None:
        """Return the slots that a lane shares with all hosts."""
        return DatabaseSlots(asker_of(self._url), f"{'simulated ' * self.simulated}{lane}", clock=clock)

    def request_stop(self, run_id: str) -> None:
        """Ask the process that works on the run to drain."""
        self._rows("select acctops.request_stop(%s)", run_id)

    def ask(self, run_id: str, **wish: Any) -> str:
        """Ask something of the process that works on the run; return the id. Any: the fields of `control.Asked`."""
        name = f"{time.time_ns():020d}-{drawn_suffix(random.Random())}"
        self._rows("select acctops.ask(%s, %s, %s, %s)", run_id, name, who(), control.text_of(**wish))
        return name

    def forget_asked(self, run_id: str, name: str) -> None:
        """Remove such a request, which the process has taken in."""
        if (journal := self._open_here(run_id)) is not None:
            journal.forget(name)
        else:
            self._rows("select acctops.forget(%s, %s)", run_id, name)

    def clear_requests(self, run_id: str) -> None:
        """Remove all that was asked, before a session begins and once it has ended."""
        with suppress(LostError):
            link_to(self._url).rows("select acctops.forget(%s, null)", run_id)
        if (journal := self._open_here(run_id)) is not None:
            journal.stop_asked, journal.requests = False, ()

    def home(self, *, adopt: bool = False) -> Home:
        """Return which database this is. One that was restored is not here until it is adopted."""
        if adopt:
            self._rows("select acctops.adopt()")
        sql = "select id, place, acctops.place(), coalesce(extract(epoch from adopted_at), 0)::float8 from acctops.home"
        name, place, here, adopted_at = self._rows(sql)[0]
        why = f"was made elsewhere (database {place}): it is a copy, or was restored" if place != here else ""
        known = Known(self.state_dir, name, adopted_at, self._rows)
        if not why and not adopt and (run := known.lacks()) is not None:
            why = (
                f"lacks what this host has seen of run {run}: it was restored from an older backup, or it is a standby "
                "that had not received everything"
            )
        if not why:
            known.remember()
        return Home(id=name, host=f"database {place}", is_here=not why, why=why)

    @contextmanager
    def tending(self) -> Iterator[bool]:
        """Hold the right to tend the runs during the block; yield whether it was free."""
        self.check_place()
        link = Link(self._url)
        try:
            with told(self._url):
                free = link.rows("select pg_try_advisory_lock(720575940, %s)", 10 + self.simulated)[0][0]
            yield bool(free)
        finally:
            link.close()

    def mark(self, name: str) -> str:
        """Return what `set_mark` last wrote, or ""."""
        sql = "select text from acctops.mark where simulated = %s and name = %s"
        return str(self._one(sql, self.simulated, name) or "")[:_MOST_MARK].strip()

    def set_mark(self, name: str, text: str) -> None:
        """Write a short text under a name, for later commands to read."""
        self._rows("select acctops.set_mark(%s, %s, %s)", self.simulated, name, text)

    def used_by(self, plan: str) -> str | None:
        """Return the run that used up an approved plan, by the plan's hash; None if it is not used up."""
        found = self._one("select run from acctops.used where simulated = %s and plan = %s", self.simulated, plan)
        return str(found) if found is not None else None

    def is_used_here(self, plan: str, run_id: str) -> bool:
        """Return whether this run used up a plan in this very database, of which it is no copy."""
        sql = (
            "select exists (select 1 from acctops.used where simulated = %s and plan = %s and run = %s "
            "and place = acctops.place())"
        )
        return bool(self._one(sql, self.simulated, plan, run_id))

    def use_up(self, plan: str, run_id: str) -> str | None:
        """Use up an approved plan for a run, durably, once; return the run that did so before, None if none did."""
        found = self._write("select acctops.use_up(%s, %s, %s)", self.simulated, plan, run_id)[0][0]
        return str(found) if found is not None else None

    # The list of the ends of runs.

    def listed(self) -> tuple[HeadLine, ...]:
        """Return the list of the ends of runs, oldest first; JournalCorruptError if its chain does not hold."""
        from engine.journal.heads import checked_heads

        rows = self._rows("select line from acctops.head_line where simulated = %s order by seq", self.simulated)
        return checked_heads([bytes(line) for (line,) in rows], f"{self.place} list of ends")

    def last_listed(self, run_id: str) -> HeadLine | None:
        """Return the last line of that list about a run, whether or not its chain holds; None if there is none."""
        from engine.journal.heads import last_among

        sql = "select line from acctops.head_line where simulated = %s and position(%s in line) > 0 order by seq"
        return last_among((bytes(line) for (line,) in self._rows(sql, self.simulated, run_id.encode())), run_id)

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
        from engine.journal.heads import last_line, next_head

        for _ in range(_TRIES):
            sql = "select line from acctops.head_line where simulated = %s order by seq desc limit 1"
            tail = b"".join(bytes(line) + b"\n" for (line,) in self._write(sql, self.simulated))
            before = last_line(f"{self.place} list of ends", tail)
            line = next_head(before, run_id, head, lines, exit_code, late=late, seal=seal, at=rfc3339(clock()))
            sql = "select acctops.list_end(%s, %s, %s, %s, %s)"
            if self._write(sql, self.simulated, line.seq, line.previous, line.hash, line.raw)[0][0]:
                with suppress(AcctopsError):
                    self.home()  # this host has seen that much
                return line
        raise JournalWriteError(f"{self.place} list of ends: others write there all the time; try again")

    def seals(self) -> tuple[Seal, ...]:
        """Return the signatures and stamps of the lines of that list; JournalCorruptError for what is none."""
        from engine.journal.heads import checked_seals

        rows = self._rows("select line from acctops.seal_line where simulated = %s order by no", self.simulated)
        return checked_seals([bytes(line) for (line,) in rows], f"{self.place} seals")

    def add_seal(self, seal: Seal) -> None:
        """Add a signature or a stamp of a line of that list, durably; JournalWriteError if that fails."""
        from engine.journal.heads import seal_line

        self._write("select acctops.add_seal(%s, %s)", self.simulated, seal_line(seal))


def _fresh(record: AnyRecord) -> AnyRecord:
    """Return a record that may have been tried before, without its place in a chain."""
    record.seq = 0
    return record


def _write(path: Path, lines: StoredLines) -> Path:
    with os.fdopen(create_new(path, 0o600), "wb") as file:
        for block in lines.blocks():
            file.write(block)
    return path
