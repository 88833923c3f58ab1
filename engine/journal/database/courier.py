"""Commits of all journals that a process has open in one database: one thread, one connection, one statement for all.

A journal hands over its batch. The courier takes all batches that wait into one `acctops.append`; each chain moves or
does not move by itself. A journal whose chain did not move is looked at alone: its commit happened and the answer was
lost, or somebody else has taken its run. After a lost connection the heads say what happened; the same lines are sent
again, or not. Permits of all idle journals are one statement, too.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from math import inf
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from engine.journal.database.link import LostError, RefusesError
from engine.journal.grouped import JournalThread

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from engine.journal.database.link import Link
    from engine.journal.grouped import Batch

_EVERY_S = 0.010
"""Seconds between two statements while several journals are open, so that more of them share a commit."""
_PULSE_S = 0.3
"""Seconds without a commit after which a permit is asked for."""
_MOST_BYTES = 8 << 20
"""Bytes of lines in one statement, so that it ends within its time."""
_APPEND = (
    "select run, no, stop, asked from acctops.append(%s::text[], %s::int[], %s::bigint[], %s::bigint[], %s::text[], "
    "%s::bigint[], %s::text[], %b::bytea[], %s::bigint[])"
)
_APPEND_ONE = (
    "select run, no, stop, asked from acctops.append(array[%s], array[%s]::int[], array[%s]::bigint[], "
    "array[%s]::bigint[], array[%s], array[%s]::bigint[], array[%s], array[%s]::bytea[], array[%s]::bigint[])"
)
"""The same for one: lists cost a plain run some microseconds."""
_PERMIT = "select run, no, stop, asked from acctops.permit(%s::text[], %s::int[], %s::bigint[], %s::bigint[])"
_STANDS = (
    "select s.run, s.no, s.epoch, s.seq, s.head, s.taken_by, s.taken_at::text "
    "from unnest(%s::text[], %s::int[]) as i(run, no) join acctops.shard s on s.run = i.run and s.no = i.no"
)

Key = tuple[str, int]
"""Run, and number of the chain."""
Row = tuple[Any, ...]
"""What the database says of one chain. Any: what its columns are."""


def boot_s() -> float:
    """Return seconds since this host started, sleep included: what leave is counted by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Sender(Protocol):
    """A journal, as its courier sees it. The courier's thread calls all of it."""

    @property
    def key(self) -> Key:
        """Its run, and the number of its chain."""

    @property
    def epoch(self) -> int:
        """The epoch in which this process has the chain."""

    @property
    def ack(self) -> int | None:
        """Number of the last request that is carried out there; None: nothing is said of it."""

    def farewell(self) -> tuple[Any, ...]:
        """Return what gives its chain back in order. Any: a statement and its parameters."""

    @property
    def is_closed(self) -> bool:
        """Whether it was let go."""

    @property
    def has_failed(self) -> bool:
        """Whether it asks for nothing more."""

    @property
    def asked_at(self) -> float:
        """When it last asked for leave and got it, by `boot_s`."""

    def heard(self, asked: float, row: Row | None) -> None:
        """Take in an answer, (stop, number of the last request), to what was asked at `asked`."""

    def lost(self, error: LostError) -> None:
        """Note that the database does not answer."""

    def landed(self, batch: Batch, error: BaseException | None) -> None:
        """Note the end of a commit: durable, or why it is not."""

    def refused(self, error: BaseException) -> None:
        """Note that nothing can be appended any more."""

    def why_not(self, stands: Row | None) -> Exception:
        """Return why a chain that stands at (epoch, seq, head, taken by, taken at) is not this journal's any more."""


class _Parcel:
    """A batch on its way."""

    def __init__(
        self, sender: Sender, before: tuple[int, str], batch: Batch, flight: asyncio.Future[None] | None
    ) -> None:
        self.sender = sender
        self.before = before
        self.batch = batch
        self.flight = flight
        self.is_unsure = False
        """Whether it was sent and nobody knows what became of it."""
        self.has_landed = False


class Seat(JournalThread):
    """The place of one journal with its courier, in the form of the thread that it would have for itself."""

    def __init__(self, courier: Courier, sender: Sender) -> None:
        super().__init__()
        self._courier = courier
        self._sender = sender

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Let the courier's thread call a function; return the future of its result. Any: as `Executor` has it."""
        return self._courier.submit(fn, *args, **kwargs)

    def start(self) -> None:
        """Ask for permits from now on."""
        self._courier.submit(self._courier.add, self._sender)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: the courier ends with its last journal."""


class Courier:
    """Commits for the journals of this process in one database. `courier_of` makes it."""

    def __init__(self, link: Link) -> None:
        """`link` is its own from now on."""
        self.link = link
        self.users = 0
        """Journals that have not left yet; under the lock of `courier_of`."""
        self._work: SimpleQueue[Callable[[], None] | _Parcel] = SimpleQueue()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        # The rest is the thread's.
        self._senders: list[Sender] = []
        self._parcels: list[_Parcel] = []
        self._calls: list[Callable[[], None]] = []
        self._flights: list[asyncio.Future[None]] = []
        self._wrote_at = self._pulse_at = self._retry_at = 0.0
        self._lost_at = 0.0
        """When the database was first found to be gone; 0 while it answers."""
        self._is_over = False

    # What journals call, in any thread.

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a function in the courier's thread, after the batches handed over so far. Any: as `Executor` has it."""
        done: Future[Any] = Future()

        def work() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - the caller that waits raises it
                done.set_exception(error)
            else:
                done.set_result(result)

        self._put(work)
        return done

    def commit(
        self, sender: Sender, before: tuple[int, str], batch: Batch, flight: asyncio.Future[None] | None
    ) -> None:
        """Take over a batch that follows `before`. At its end `sender.landed` is called, then `flight` is done."""
        self._put(_Parcel(sender, before, batch, flight))

    def _put(self, work: Callable[[], None] | _Parcel) -> None:
        self._work.put(work)
        if self._thread is None:
            with self._start:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._go_on, name="courier", daemon=True)
                    self._thread.start()

    # What the thread does.

    def add(self, sender: Sender) -> None:
        """Ask for permits of a journal from now on, until it leaves."""
        self._senders.append(sender)

    def leave(self, sender: Sender) -> None:
        """Give a chain back and forget its journal. With the last one the connection is closed, and the thread ends."""
        # Without the database its owner is silent from now on. The other journals do not wait for that to fail.
        if not sender.has_failed and time.monotonic() >= self._retry_at:
            try:
                self.link.rows(*sender.farewell())
            except LostError as error:
                self._lost(error)
            except RefusesError:
                pass
        if sender in self._senders:
            self._senders.remove(sender)
        with _LOCK:
            self.users -= 1
            if self.users:
                return
            self._is_over = True
            if _COURIERS.get(_key(self.link.url)) is self:
                del _COURIERS[_key(self.link.url)]
        self.link.close()

    def _go_on(self) -> None:
        while not self._is_over:
            self._gather()
            try:
                if self._parcels and time.monotonic() >= self._retry_at:
                    self._write()
                if time.monotonic() >= self._pulse_at:
                    self._ask_permits()
            except BaseException as error:  # noqa: BLE001 - nobody may wait for ever for what has failed here
                self._pulse_at = time.monotonic() + _PULSE_S
                for parcel in self._parcels:
                    self._land(parcel, error)
            if self._lost_at:
                # Whoever was left meanwhile waits for the database no longer.
                for parcel in self._parcels:
                    if parcel.sender.is_closed:
                        self._land(parcel, LostError("it was left while the database did not answer"))
            self._parcels = [parcel for parcel in self._parcels if not parcel.has_landed]
            self._wake()
            calls, self._calls = self._calls, []
            for call in calls:
                call()

    def _gather(self) -> None:
        """Wait until there is something to do; take in all that waits."""
        until = min(self._retry_at if self._parcels else inf, self._pulse_at)
        try:
            self._take_in(self._work.get(timeout=max(0.0, until - time.monotonic())))
        except Empty:
            return
        self._drain()
        if self._parcels and len(self._senders) > 1 and not self._lost_at:
            early_s = self._wrote_at + _EVERY_S - time.monotonic()
            if early_s > 0:
                time.sleep(early_s)
                self._drain()

    def _drain(self) -> None:
        while True:
            try:
                self._take_in(self._work.get_nowait())
            except Empty:
                return

    def _take_in(self, work: Callable[[], None] | _Parcel) -> None:
        if isinstance(work, _Parcel):
            self._parcels.append(work)
        else:
            self._calls.append(work)

    def _write(self) -> None:
        """Send all that waits. What cannot be sent now stays."""
        self._wrote_at = time.monotonic()
        try:
            if unsure := [parcel for parcel in self._parcels if parcel.is_unsure]:
                self._resolve(unsure)
            for group in _groups(parcel for parcel in self._parcels if not parcel.has_landed):
                self._append(group)
        except LostError as error:
            self._lost(error)

    def _append(self, group: Sequence[_Parcel]) -> None:
        asked = boot_s()
        for parcel in group:
            parcel.is_unsure = True
        try:
            if len(group) == 1:
                rows = self.link.rows(_APPEND_ONE, *_fields(group[0]))
            else:
                rows = self.link.rows(_APPEND, *map(list, zip(*map(_fields, group), strict=True)))
        except LostError:
            raise
        except Exception as error:  # noqa: BLE001 - the journal is told
            # One of them is refused, and so the statement. Nothing of it happened.
            if len(group) == 1:
                self._land(group[0], error)
            else:
                for parcel in group:
                    self._append([parcel])
            return
        self._lost_at = 0.0
        moved = _by_key(rows)
        for parcel in group:
            if (row := moved.get(parcel.sender.key)) is not None:
                self._arrived(parcel, asked, row)
        self._resolve([parcel for parcel in group if not parcel.has_landed])

    def _resolve(self, parcels: Sequence[_Parcel]) -> None:
        """Find out what became of batches. One that is there has landed; one that is not is to be sent again."""
        if not parcels:
            return
        there, stands = [], self._stands(parcel.sender for parcel in parcels)
        for parcel in parcels:
            sender, batch, row = parcel.sender, parcel.batch, stands.get(parcel.sender.key)
            if row is not None and row[:3] == (sender.epoch, batch.seq, batch.head):
                there.append(parcel)
            elif row is not None and row[:3] == (sender.epoch, *parcel.before):
                parcel.is_unsure = False
            else:
                self._land(parcel, sender.why_not(row))
        for parcel in there:
            asked = boot_s()
            try:
                if (row := self._permit([parcel.sender]).get(parcel.sender.key)) is not None:
                    self._arrived(parcel, asked, row)
                else:
                    self._land(parcel, self._why_not(parcel.sender))
            except LostError:
                raise
            except Exception as error:  # noqa: BLE001 - the journal is told
                self._land(parcel, error)

    def _arrived(self, parcel: _Parcel, asked: float, row: Row) -> None:
        error: BaseException | None = None
        try:
            parcel.sender.heard(asked, row)
        except Exception as found:  # noqa: BLE001 - the journal is told
            error = found
        self._land(parcel, error)

    def _land(self, parcel: _Parcel, error: BaseException | None) -> None:
        if parcel.has_landed:
            return
        parcel.has_landed = True
        parcel.sender.landed(parcel.batch, error)
        if parcel.flight is not None:
            self._flights.append(parcel.flight)

    def _wake(self) -> None:
        """Tell the loops what has landed: each is woken once for all of its journals."""
        if not self._flights:
            return
        flights, self._flights = self._flights, []
        loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for flight in flights:
            loops.setdefault(flight.get_loop(), []).append(flight)
        for loop, landed in loops.items():
            try:
                loop.call_soon_threadsafe(_all_done, landed)
            except RuntimeError:  # the loop is closed
                continue

    def _ask_permits(self) -> None:
        """Ask for the permits of all journals that wrote nothing for a while."""
        now, busy = boot_s(), {id(parcel.sender) for parcel in self._parcels if not parcel.has_landed}
        idle = [each for each in self._senders if not each.is_closed and not each.has_failed and id(each) not in busy]
        due = [each for each in idle if now - each.asked_at >= _PULSE_S / 2]
        try:
            for senders in _apart(due):
                self._ask_permits_of(senders)
        except LostError as error:
            self._lost(error)
            return
        oldest = min((each.asked_at for each in idle if not each.has_failed), default=now)
        self._pulse_at = time.monotonic() + max(0.01, oldest + _PULSE_S - boot_s())

    def _ask_permits_of(self, senders: Sequence[Sender]) -> None:
        asked = boot_s()
        try:
            found = self._permit(senders)
        except LostError:
            raise
        except Exception as error:  # noqa: BLE001 - the journal is told
            if len(senders) == 1:
                senders[0].refused(error)
            else:
                for each in senders:
                    self._ask_permits_of([each])
            return
        for each in senders:
            try:
                if (row := found.get(each.key)) is not None:
                    each.heard(asked, row)
                else:
                    each.refused(self._why_not(each))
            except LostError:
                raise
            except Exception as error:  # noqa: BLE001 - the journal is told
                each.refused(error)

    def _permit(self, senders: Sequence[Sender]) -> dict[Key, Row]:
        epochs, acks = [each.epoch for each in senders], [each.ack for each in senders]
        found = _by_key(self.link.rows(_PERMIT, *_names(senders), epochs, acks))
        self._lost_at = 0.0
        return found

    def _stands(self, senders: Iterable[Sender]) -> dict[Key, Row]:
        return _by_key(self.link.rows(_STANDS, *_names(senders)))

    def _why_not(self, sender: Sender) -> Exception:
        return sender.why_not(self._stands([sender]).get(sender.key))

    def _lost(self, error: LostError) -> None:
        """Wait a moment for the database to be back. A journal that was left meanwhile does not."""
        now = time.monotonic()
        self._lost_at = self._lost_at or now
        self._retry_at = self._pulse_at = now + min(1.0, 0.1 + (now - self._lost_at) / 5)
        for each in self._senders:
            each.lost(error)


def _all_done(flights: Sequence[asyncio.Future[None]]) -> None:
    for flight in flights:
        if not flight.done():
            flight.set_result(None)


def _fields(parcel: _Parcel) -> Row:
    sender, batch = parcel.sender, parcel.batch
    return *sender.key, sender.epoch, *parcel.before, batch.seq, batch.head, batch.data, sender.ack


def _names(senders: Iterable[Sender]) -> tuple[list[str], list[int]]:
    keys = [each.key for each in senders]
    return [run for run, _ in keys], [no for _, no in keys]


def _by_key(rows: Iterable[Row]) -> dict[Key, Row]:
    return {(row[0], row[1]): row[2:] for row in rows}


def _apart(senders: Iterable[Sender]) -> Iterator[list[Sender]]:
    """Yield journals so that those of one chain are apart: an answer says the chain, and not which of them is meant.

    A process has two journals of one chain after it has taken over its own run.
    """
    left = list(senders)
    while left:
        group, keys, later = list[Sender](), set[Key](), list[Sender]()
        for each in left:
            (later if each.key in keys else group).append(each)
            keys.add(each.key)
        yield group
        left = later


def _groups(parcels: Iterable[_Parcel]) -> Iterator[list[_Parcel]]:
    """Yield batches, those of one statement at a time, in the order of their chains."""
    # Two processes that both believe they have these chains lock their rows in the same order.
    left = sorted(parcels, key=lambda parcel: parcel.sender.key)
    while left:
        group, key, later, size = list[_Parcel](), None, list[_Parcel](), 0
        for parcel in left:
            if parcel.sender.key == key or (group and size + len(parcel.batch.data) > _MOST_BYTES):
                later.append(parcel)
                continue
            key = parcel.sender.key
            size += len(parcel.batch.data)
            group.append(parcel)
        yield group
        left = later


_LOCK = threading.Lock()
_COURIERS: dict[tuple[int, str], Courier] = {}


def _key(url: str) -> tuple[int, str]:
    return os.getpid(), url  # a child of this process has none of its threads


def courier_of(link: Link) -> Courier:
    """Return the courier of this process for the database of `link`, and count one more user.

    A new courier keeps the link for its commits; else the link is closed.
    """
    with _LOCK:
        courier = _COURIERS.get(_key(link.url))
        if courier is None:
            courier = _COURIERS[_key(link.url)] = Courier(link)
        courier.users += 1
    if courier.link is not link:
        link.close()
    return courier
