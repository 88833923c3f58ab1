"""Appends to the journal of a run in the database, fenced: who was taken over can append nothing, and sends nothing.

A commit moves the run's chain only if its epoch, number and head are still as we know them. An accepted commit is leave
to send for `LEAVE_S` from when it was asked for, by this host's clock alone; where nothing is to be written, a permit
is asked for instead. Whoever takes the run waits until its owner has been silent for `SILENT_S` by the server's clock.
So no two clocks are compared. A database that is gone pauses sending; only a fence is final.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import BusyError, JournalCorruptError, JournalWriteError, UsageError
from engine.journal.database.courier import Seat, boot_s, courier_of
from engine.journal.database.link import COMMIT_S, Link, LostError, RefusesError, told, who
from engine.journal.database.stored import JOURNAL, StoredLines
from engine.journal.grouped import Batch, GroupedJournal, JournalThread
from engine.journal.lines import Chain, shard_genesis
from engine.journal.reader import replay
from engine.journal.records import Run, ShardLine, rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from engine.journal.control import Asked
    from engine.journal.reader import Replay
    from engine.journal.records import AnyRecord
    from engine.model import RunId

LEAVE_S = 1.0
"""Seconds for which a commit, or a permit, is leave to send."""
SILENT_S = 3.0
"""Seconds of silence after which a run may be taken: its owner's leave has ended, and so has the quota's second."""
HEARD_S = 1.5
"""Seconds within which an owner was heard of who is said to be alive: a pulse may be late."""
_AGAIN_S = 0.3
"""Seconds after which rows are read again whose reading was cut off."""
_TAKE_S = 1.0
"""Seconds to wait for a run whose owner is alive, as files do."""
_FOUND_OUT_S = 15.0
"""Seconds to find out whether a run exists whose creation got no answer."""
_PART_BYTES = 1 << 20
_APPEND = (
    "select stop, asked from acctops.append(array[%s], array[%s]::int[], array[%s]::bigint[], array[%s]::bigint[], "
    "array[%s], array[%s]::bigint[], array[%s], array[%s]::bytea[], array[%s]::bigint[])"
)
_HAS_SHARDS = "select exists (select 1 from acctops.shard where run = %s and no > 0)"
_TAKE_SHARD = "select epoch, seq, head, genesis, lanes from acctops.take_shard(%s, %s, %s, %s, %s)"
_STANDS = "select epoch, seq, head, taken_by, taken_at::text from acctops.shard where run = %s and no = %s"


class _FencedError(Exception):
    """Somebody else has taken the run; the text says who, and when."""


class _UndoneError(Exception):
    """Ends a transaction that is not to be."""


class _MeddledError(Exception):
    """The rows are not what this process wrote."""


class DatabaseJournal(GroupedJournal):
    """The open journal of a run in the database, or of one of its shards.

    One thread and one event loop at a time may use it.
    """

    def __init__(
        self,
        link: Link,
        run_id: str,
        chain: Chain,
        epoch: int,
        place: str,
        clock: Callable[[], float],
        no: int = JOURNAL,
    ) -> None:
        """`link` is not the caller's any more: it is the courier's, or is closed. `no`: which chain of the run."""
        super().__init__(chain, clock)
        self._courier = courier_of(link)
        self._thread = Seat(self._courier, self)
        self._link = self._courier.link
        self._run_id = run_id
        self._no = no
        self.epoch = epoch
        self._ack: int | None = None
        self._lane = ""
        self.genesis = chain.head
        """Of a shard: the hash that its first line is chained to."""
        self.lanes: tuple[str, ...] = ()
        """Lanes that may take the shard."""
        self.parting = ""
        """What becomes of a shard once this is closed: `close`, `give back`, `without this lane`; else it is its
        lane's."""
        self._place = place
        # The thread writes these, too.
        self._leave_until = 0.0
        self._trouble = ""
        self._lost_at: float | None = None
        self._digest = sha256()
        self.stop_asked = False
        """Whether somebody asked the run to drain, as of the last answer."""
        self.requests: tuple[Asked, ...] = ()
        """What people ask of the run, as of the last answer."""
        self._asked_no = self._newest_no = 0
        """The number of the last request that is in `requests`, and of the last one that is known to be there."""
        self._looked_at = 0
        """The number of the last request that the session of a shard has taken in."""
        self.read_requests: Callable[[Link], tuple[Asked, ...]] = lambda _link: ()

    @classmethod
    def create(
        cls,
        url: str,
        run_id: RunId,
        first: Iterable[AnyRecord],
        *,
        simulated: bool,
        token: str | None,
        place: str,
        clock: Callable[[], float],
    ) -> DatabaseJournal:
        """Create a run with its `run` line and its whole plan: it exists from the commit on, or not at all (J1).

        `token`: of the claim that it is created under; BusyError if that was taken away.
        """
        link = Link(url, statement_s=COMMIT_S)
        lines = iter(first)
        run = next(lines)
        shards: list[ShardLine] = []
        chain = Chain(run_id, v=2 if isinstance(run, Run) and run.shards else 1)
        digest = sha256()
        asked = boot_s()
        try:
            try:
                with link.transaction():
                    sql = "select acctops.create_run(%s, %s, %s, %s)"
                    if link.rows(sql, run_id, simulated, who(), token)[0][0] is None:
                        raise BusyError(f"run {run_id}: another run has begun meanwhile; nothing was sent; try again")
                    for before, data in _parts(chain, _noted(run, lines, shards), clock):
                        digest.update(data)
                        found = link.rows(_APPEND, run_id, JOURNAL, 1, *before, chain.seq, chain.head, data, None)
                        assert found, "a new chain is nobody else's"
                    if shards:
                        _divide(link, run_id, shards)
            except LostError as error:
                if not _exists(link, run_id, chain):
                    raise JournalWriteError(
                        f"{place}: the journal cannot be written: {error}. Nothing was sent; look at the server, then "
                        "run again"
                    ) from None
            except RefusesError as error:
                if "(23505)" in str(error):
                    raise UsageError(f"{place}: the run exists already") from None
                raise
        except BaseException:
            link.close()
            raise
        journal = cls(link, run_id, chain, 1, place, clock)
        journal._digest = digest
        journal._heard(asked, None)
        journal._thread.start()
        return journal

    @classmethod
    def open(
        cls, url: str, run_id: RunId, *, token: str | None, place: str, clock: Callable[[], float]
    ) -> tuple[DatabaseJournal, Replay]:
        """Take the run (J5) and replay it; return its journal and the replay. BusyError while its owner is alive."""
        link = Link(url, statement_s=COMMIT_S)
        try:
            with told(url):
                asked, epoch, seq, head = _take(link, run_id, token, place)
                v = 2 if link.rows(_HAS_SHARDS, run_id)[0][0] else 1
        except BaseException:
            link.close()
            raise
        journal = cls(link, run_id, Chain(run_id, seq, head, v=v), epoch, place, clock)
        journal._heard(asked, None)
        journal._thread.start()  # it stays ours however long the replay takes
        try:
            stored = _Digesting(url, run_id, place, digest=journal._digest)
            found = replay(stored)
            if found.ledger.run.run != run_id:
                raise JournalCorruptError(f"{place}:1: is the journal of run {found.ledger.run.run}, not of {run_id}")
            if (found.seq, found.head) != (seq, head):
                raise JournalCorruptError(
                    f"{place}:{found.seq}: ends otherwise than its row says, with line {seq}: rows were removed"
                )
        except BaseException:
            journal.close()
            raise
        return journal, found

    @classmethod
    def open_shard(
        cls,
        link: Link,
        run_id: str,
        no: int,
        lane: str,
        patience_s: float,
        *,
        place: str,
        clock: Callable[[], float],
    ) -> tuple[DatabaseJournal, list[bytes]] | None:
        """Take a shard for a lane, over `link`; return its journal and its lines, those of one commit at a time.

        None if the lane may not have it, or somebody was quicker.
        """
        # Not on a connection of its own: a new one costs the server ten times what the statement does.
        url = link.url
        with told(url):
            asked = boot_s()
            found = link.rows(_TAKE_SHARD, run_id, no, lane, who(), patience_s)
        if not found:
            return None
        epoch, seq, head, genesis, lanes = found[0]
        chain = Chain(run_id, seq, head, shard=no, v=2)
        journal = cls(Link(url, statement_s=COMMIT_S), run_id, chain, epoch, place, clock, no)
        journal._lane, journal.genesis, journal.lanes = lane, genesis, tuple(lanes)
        journal._heard(asked, None)
        journal._thread.start()
        try:
            commits = list(_Digesting(url, run_id, place, no, digest=journal._digest).blocks())
            if sum(lines.count(b"\n") for lines in commits) != seq or (
                commits and not commits[-1].endswith(b'"%b"}\n' % head.encode())
            ):
                raise JournalCorruptError(f"{place}: ends otherwise than its row says, with line {seq}")
        except BaseException:
            journal.close()
            raise
        return journal, commits

    @property
    def run_id(self) -> str:
        """The run."""
        return self._run_id

    @property
    def no(self) -> int:
        """Which chain of the run it is: 0, or the number of a shard."""
        return self._no

    @property
    def asked_no(self) -> int:
        """The number of the last request of people, as of the last answer: `requests` has it, and all before it."""
        return self._asked_no

    def acknowledge(self, no: int) -> None:
        """Say that the requests up to number `no` were carried out here; stored with the next commit or permit."""
        self._ack = no

    @property
    def place(self) -> str:
        """Where it is, for a person."""
        return self._place

    def may_send(self) -> bool:
        """Return whether a write may leave now: nobody else can have taken the run."""
        if self._no and self._newest_no > self._looked_at:
            return False  # what people ask counts before the next call: the leader may have said that it is in effect
        return boot_s() < self._leave_until

    @property
    def waits_for(self) -> str:
        """What a commit waits for, and why."""
        return f"the database: {self._trouble}" if self._trouble else "the database"

    @property
    def waiting_s(self) -> float:
        """Seconds that the commit under way has taken, or for which the database has been gone."""
        gone_s = time.monotonic() - lost_at if (lost_at := self._lost_at) is not None else 0.0
        return max(super().waiting_s, gone_s)

    @property
    def is_meddled(self) -> bool:
        """Whether somebody changed its rows."""
        return isinstance(self._failure, _MeddledError)

    @property
    def is_fenced(self) -> bool:
        """Whether somebody else has taken it."""
        return isinstance(self._failure, _FencedError)

    @property
    def is_closed(self) -> bool:
        """Whether it was let go."""
        return self._closed

    def asked(self, known: Container[str]) -> tuple[Asked, ...]:
        """Return what people ask of the run, but for those whose names are `known`."""
        self._looked_at = self._asked_no
        return tuple(each for each in self.requests if each.name not in known)

    def forget(self, name: str) -> None:
        """Remove a request, in the background: the loop waits for no database."""

        def work() -> None:
            with suppress(LostError, RefusesError):
                self._link.rows("select acctops.forget(%s, %s)", self._run_id, name)

        if not self._closed:
            self._thread.submit(work)

    async def is_as_written(self) -> bool:
        """Read all rows once more; return whether they hold what was written, byte for byte. If not, it is `broken`."""
        loop, thread = asyncio.get_running_loop(), JournalThread()
        try:
            while True:
                await self.durable()
                if not self._idle.is_set():
                    continue  # more was appended meanwhile
                written = self._on_disk, self._digest.digest()
                found = await loop.run_in_executor(thread, self._read_back)
                if found == written[1]:
                    break
                if self._idle.is_set() and self._on_disk == written[0]:
                    look = f"look at it: acctops journal verify {self._run_id}"
                    raise _MeddledError(f"was changed in place while the run went on; {look}")
        except JournalWriteError:
            raise
        except Exception as error:  # noqa: BLE001 - `_settle` makes it `broken`
            self._failure = error
        finally:
            thread.shutdown(wait=False)
        self._settle()
        return self.broken is None

    def _read_back(self) -> bytes:
        """Return the digest of all rows. Has a connection and a thread of its own: the rows may be many."""
        link = Link(self._link.url, statement_s=0.0)
        try:
            while True:
                digest = sha256()
                try:
                    sql = "select lines from acctops.batch where run = %s and no = %s order by first"
                    for (lines,) in link.stream(sql, self._run_id, self._no):
                        digest.update(lines)
                except LostError as error:
                    self.lost(error)
                    if self._closed:
                        raise
                    time.sleep(_AGAIN_S)
                else:
                    return digest.digest()
        finally:
            link.close()

    # A commit: the courier has it, with those of other journals. It calls what follows in its thread.

    def _hand_over(self, batch: Batch) -> None:
        self._courier.commit(self, self._on_disk, batch, None)

    def _take_off(self, batch: Batch, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        flight = loop.create_future()
        self._courier.commit(self, self._on_disk, batch, flight)
        return flight

    @property
    def key(self) -> tuple[str, int]:
        """Its run, and the number of its chain."""
        return self._run_id, self._no

    @property
    def ack(self) -> int | None:
        """Number of the last request that is carried out here; None: nothing is said of it."""
        return self._ack

    @property
    def has_failed(self) -> bool:
        """Whether it asks for nothing more."""
        return self._failure is not None

    @property
    def asked_at(self) -> float:
        """When it last asked for leave and got it, by `boot_s`."""
        return self._leave_until - LEAVE_S

    def landed(self, batch: Batch, error: BaseException | None) -> None:
        """Note the end of a commit: durable, or why it is not."""
        if error is None:
            self._digest.update(batch.data)
        elif not isinstance(error, LostError):
            self._leave_until = 0.0
        self._end(batch, time.monotonic() - self._began_at, error)

    def refused(self, error: BaseException) -> None:
        """Note that nothing can be appended any more, and tell the loop."""
        self._leave_until = 0.0
        self._failure = error
        if (loop := self._loop) is not None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._settle)

    def heard(self, asked: float, row: tuple[Any, ...] | None) -> None:
        """Take in an answer: leave to send, and what people ask. Any: what its columns are."""
        self._heard(asked, row)

    def _heard(self, asked: float, row: tuple[Any, ...] | None) -> None:
        if row is not None:
            self._newest_no = row[1]  # before there is leave: another thread asks for it
        self._leave_until = asked + LEAVE_S
        self._trouble, self._lost_at = "", None
        if row is None:
            return
        self.stop_asked = bool(row[0])
        if row[1] != self._asked_no:
            with suppress(LostError):  # the next answer says it again
                self.requests = self.read_requests(self._link)
                self._asked_no = row[1]

    def lost(self, error: LostError) -> None:
        """Note that the database does not answer, and since when."""
        self._trouble = str(error)
        if self._lost_at is None:
            self._lost_at = time.monotonic()

    def why_not(self, stands: tuple[Any, ...] | None) -> Exception:
        """Return why a chain that stands so is not this journal's any more. Any: what the columns are."""
        if stands is None or stands[0] == self.epoch:
            words = "was changed by somebody else while the run went on: its rows are not what was written"
            return _MeddledError(words)
        return _FencedError(f"was taken by {stands[3]} at {stands[4][:19]}Z, as it was silent")

    def _advice(self, error: BaseException) -> str:
        if isinstance(error, _FencedError):
            return f"{self._place}: the run {error}. Nothing further is sent here; see: acctops status {self._run_id}"
        if isinstance(error, _MeddledError):
            return f"{self._place}: the journal {error}. Nothing further is sent"
        return (
            f"{self._place}: the journal cannot be written: {error}. Nothing further is sent; look at the database, "
            f"then go on with: acctops resume {self._run_id}"
        )

    def _let_go(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._leave_until = 0.0
        gone = self._thread.submit(self._close_files)
        with suppress(NotYet):  # the database does not answer; the owner is silent from now on
            gone.result(1.0 if self._idle.is_set() else 0.0)
        self._thread.shutdown(wait=False)

    def farewell(self) -> tuple[Any, ...]:
        """Return what gives the chain back in order. Any: a statement and its parameters."""
        mine = (self._run_id, self._no, self.epoch)
        if self.parting == "close":
            return ("select acctops.close_shard(%s, %s, %s)", *mine)
        if self.parting:
            without = self._lane if self.parting == "without this lane" else None
            return ("select acctops.give_back(%s, %s, %s, %s)", *mine, without)
        return ("select acctops.release(%s, %s, %s)", *mine)

    def _close_files(self) -> None:
        self._courier.leave(self)


class _Digesting(StoredLines):
    """The lines of a run, or of a shard; a digest is made of those of its own chain as they are read."""

    def __init__(self, url: str, run_id: str, place: str, no: int = JOURNAL, *, digest: Any) -> None:
        """`digest` has an `update`. Any: hashlib's type has no public name."""
        super().__init__(url, run_id, place, no)
        self._digest = digest

    def commits(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines, those of one commit at a time, each with the number of its chain."""
        for no, lines in super().commits():
            if no == self._no:
                self._digest.update(lines)
            yield no, lines


def _noted(run: AnyRecord, lines: Iterator[AnyRecord], shards: list[ShardLine]) -> Iterator[AnyRecord]:
    """Yield the first lines of a run; put its `shard` lines into `shards`."""
    yield run
    for record in lines:
        if isinstance(record, ShardLine):
            shards.append(record)
        yield record


def _divide(link: Link, run_id: str, shards: Sequence[ShardLine]) -> None:
    """Make the chains of the shards of a run that is being created. Its `shard` lines are in its chain already."""
    rows = [
        {
            "no": line.no,
            "wave": line.wave,
            "lanes": line.lanes,
            "calls": line.calls,
            "head": shard_genesis(shards[-1].hash, line.no),
        }
        for line in shards
    ]
    sql = "select acctops.add_shards(%s, 1, %s::jsonb)"
    made = link.rows(sql, run_id, msgspec.json.encode(rows).decode())[0][0]
    assert made == len(rows), "a new run has no other shards"


def _parts(
    chain: Chain, first: Iterable[AnyRecord], clock: Callable[[], float]
) -> Iterator[tuple[tuple[int, str], bytes]]:
    """Yield the first lines in parts, each with the end of the chain before it. The first part is the first line."""
    before, lines, size = (chain.seq, chain.head), list[bytes](), 0
    for record in first:
        lines.append(chain.add(record, rfc3339(clock())))
        size += len(lines[-1])
        if size >= _PART_BYTES or chain.seq == 1:
            yield before, b"".join(lines)
            before, size = (chain.seq, chain.head), 0
            lines.clear()
    if lines:
        yield before, b"".join(lines)


def _exists(link: Link, run_id: str, chain: Chain) -> bool:
    """Return whether a run was created whose commit got no answer. JournalWriteError if nobody can say.

    It is made once more, and that undone: this waits for a commit that is still under way, and fails if it happened.
    """
    until = time.monotonic() + _FOUND_OUT_S
    while True:
        try:
            with suppress(_UndoneError), link.transaction():
                link.rows("select acctops.create_run(%s, false, '', null)", run_id)
                raise _UndoneError
        except RefusesError:
            return tuple(link.rows(_STANDS, run_id, JOURNAL)[0][:3]) == (1, chain.seq, chain.head)
        except LostError as error:
            if time.monotonic() < until:
                time.sleep(0.3)
                continue
            raise JournalWriteError(
                f"{link.words}: the journal cannot be written: {error}. Nothing was sent, and nobody knows whether run "
                f"{run_id} exists; once the database is back: acctops status {run_id}"
            ) from None
        else:
            return False


def _take(link: Link, run_id: str, token: str | None, place: str) -> tuple[float, int, int, str]:
    """Take a run; return when that was asked for, its epoch, and the end of its chain. BusyError while it is worked on.

    An owner who is heard of again lives. One who is silent for long enough is taken over.
    """
    began, heard = time.monotonic(), ""
    while True:
        asked = boot_s()
        sql = "select epoch, seq, head, owner, silent_s, heard from acctops.take(%s, %s, %s, %s, %s)"
        found = link.rows(sql, run_id, JOURNAL, who(), SILENT_S, token)
        if not found:
            raise UsageError(f"{place}: no such journal")
        epoch, seq, head, owner, _, at = found[0]
        if epoch is not None:
            return asked, int(epoch), int(seq), str(head)
        if owner is None:
            raise BusyError(f"run {run_id}: another run has begun meanwhile; try again")
        waited = time.monotonic() - began
        if (heard and at != heard and waited >= _TAKE_S) or waited >= SILENT_S + _TAKE_S:
            raise BusyError(f"run {run_id} is being worked on by {owner}; wait for it, or stop it first")
        heard = heard or at
        time.sleep(0.1)
