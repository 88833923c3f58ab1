"""Appends to a journal with group commit, off the event loop: what files and a database have in common.

One commit, in a thread, is under way at a time. It takes every line appended before it started, so one commit serves
all callers that wait (J2). Everything but the commit itself happens on the loop's thread. The commit's thread is a
daemon: a disk or a server that does not answer cannot keep the process from ending.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.errors import JournalWriteError
from engine.journal.protocols import Then
from engine.journal.records import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.journal.lines import Chain
    from engine.journal.records import AnyRecord


class Batch(NamedTuple):
    """Lines to be written in one commit, and where the journal ends after them."""

    data: bytes
    seq: int
    head: str


class JournalThread(Executor):
    """One daemon thread, started when needed, that does its work in order. Unlike a pool's, no exit waits for it."""

    def __init__(self, *, idle: Callable[[], None] = lambda: None, every_s: float | None = None) -> None:
        """`idle` is called whenever there was no work for `every_s`."""
        self._idle = idle
        self._every_s = every_s
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Give the thread a function to call; return the future of its result. Any: as `Executor` has it."""
        done: Future[Any] = Future()

        def work() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - the caller that waits raises it
                done.set_exception(error)
            else:
                done.set_result(result)

        self._work.put(work)
        self.start()
        return done

    def start(self) -> None:
        """Start the thread, unless it goes already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._go_on, name="journal", daemon=True)
            self._thread.start()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread once it has done its work; wait for that if `wait`."""
        if self._thread is not None:
            self._work.put(None)
            if wait:
                self._thread.join()

    def _go_on(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=self._every_s)
            except Empty:
                self._idle()
                continue
            if work is None:
                return
            work()


class GroupedJournal:
    """The open journal of a run, as far as it does not matter where its lines go.

    One thread and one event loop at a time may use it. What is below `_commit` runs in the thread.
    """

    def __init__(self, chain: Chain, clock: Callable[[], float]) -> None:
        self.broken: JournalWriteError | None = None
        """Why nothing is written any more; None while it is."""
        self.durable_seq = chain.seq
        self.durable_head = chain.head
        """Hash of the last line that is durable."""
        self.commit_s = 0.0
        """Seconds that a commit takes, as a moving average."""
        self._chain = chain
        self._clock = clock
        self._closed = False
        self._latest_at = (-1, "")
        self._lines: list[bytes] = []
        self._then: deque[tuple[AnyRecord, Then]] = deque()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False
        self._flight: asyncio.Future[None] | None = None
        """The commit under way that the loop started; `_landed` ends it."""
        self._thread = JournalThread()
        self._began_at = 0.0
        self._idle = threading.Event()
        """Set while no commit is under way."""
        self._idle.set()
        # The committing thread writes these; the loop's thread reads them while it is idle.
        self._on_disk = (chain.seq, chain.head)
        self._failure: BaseException | None = None

    epoch = 0
    """Number of who has it; a file has a lock instead."""

    # What a kind of store decides.

    @property
    def place(self) -> str:
        """Where it is, for a person."""
        raise NotImplementedError

    def _write_out(self, batch: Batch) -> None:
        """Write a batch and make it durable; raise what keeps it from being so. Runs in the thread."""
        raise NotImplementedError

    def _hand_over(self, batch: Batch) -> None:
        """Start a commit that somebody blocks for: `_idle` is set at its end."""
        self._thread.submit(self._commit, batch)

    def _take_off(self, batch: Batch, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Start a commit; return the future of its end, for the loop."""
        return loop.run_in_executor(self._thread, self._commit, batch)

    def _advice(self, error: BaseException) -> str:
        """Return what went wrong for good, and what to do."""
        raise NotImplementedError

    def _close_files(self) -> None:
        """Let go of what is open, and of the right to append."""
        raise NotImplementedError

    @property
    def is_fenced(self) -> bool:
        """Whether another process has taken it: a file's lock lets nobody."""
        return False

    # What all have in common.

    @property
    def head(self) -> str:
        """Hash of the last line appended, durable or not."""
        return self._chain.head

    @property
    def seq(self) -> int:
        """Number of the last line appended, durable or not."""
        return self._chain.seq

    @property
    def waiting_s(self) -> float:
        """Seconds that the commit under way has taken; 0 if none is."""
        return 0.0 if self._idle.is_set() else time.monotonic() - self._began_at

    def append(self, record: AnyRecord, then: Then | None = None) -> int:
        """Add a record to the next commit, and return its number. The record is not durable yet.

        Once it is, and before a `durable` that covers it returns, the loop calls `then(record)`, in the order of
        appending; never if the record does not become durable (J2). The record's envelope is filled at once.
        """
        if self.broken is not None:
            raise self._error()
        if self._closed:
            raise RuntimeError(f"{self.place}: append to a closed journal")
        self._lines.append(self._chain.add(record, self._at()))
        if then is not None:
            self._then.append((record, then))
        if not self._scheduled and self._flight is None:
            self._schedule()
        return self._chain.seq

    def _at(self) -> str:
        # Profiled: at thousands of calls a second, most records share their millisecond with the one before.
        now = self._clock()
        known, text = self._latest_at
        if (millisecond := int(now * 1000)) != known:
            text = rfc3339(now)
            self._latest_at = (millisecond, text)
        return text

    async def durable(self, seq: int | None = None) -> None:
        """Wait until line `seq` and all before it are on disk; by default, all lines appended by now (J2).

        Raises JournalWriteError if they cannot be written.
        """
        if seq is None:
            seq = self._chain.seq
        if seq <= self.durable_seq:
            return
        if self.broken is not None:
            raise self._error()
        assert seq <= self._chain.seq, "not appended yet"
        loop = asyncio.get_running_loop()
        if self._loop is not loop or not (self._scheduled or self._flight):
            self._schedule()
        done = loop.create_future()
        self._waiters.append((seq, done))
        await done

    def append_now(self, record: AnyRecord) -> int:
        """Append a record and block until it is durable; return its number. For code outside the loop, and the end."""
        seq = self.append(record)
        self.flush()
        return seq

    def flush(self) -> None:
        """Block until every appended line is durable, also if a commit is under way."""
        if self.broken is not None:
            raise self._error()
        self._idle.wait()
        if self._lines and self._failure is None:
            self._hand_over(self._take())
            self._idle.wait()
        self._settle()
        if self.broken is not None:
            raise self._error()

    async def aclose(self) -> None:
        """Make durable what can be without blocking the loop, then close; raise JournalWriteError if that fails now."""
        try:
            if self.broken is None and not self._closed:
                await self.durable()
        finally:
            self.close()

    def close(self) -> None:
        """Make durable what can be, close the file, release the lock; raise JournalWriteError if that fails now."""
        if self._closed:
            return
        try:
            if self.broken is None:
                self.flush()
        finally:
            self._let_go()

    def leave(self, patience_s: float) -> bool:
        """Close, but wait for the disk at most `patience_s`; return whether every line is known to be on it."""
        until = time.monotonic() + patience_s
        for _ in range(2):  # the commit under way, then the rest
            if self._closed or self.broken is not None or not self._idle.wait(until - time.monotonic()):
                break
            self._settle()
            if self._lines:
                self._hand_over(self._take())
        if self._idle.is_set():
            self._settle()
        is_whole = self.durable_seq == self._chain.seq
        self._let_go()
        return is_whole

    def _let_go(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._idle.is_set():
            self._close_files()
        else:  # the disk does not answer; the thread uses the file until it does
            self._thread.submit(self._close_files)
        self._thread.shutdown(wait=False)

    def _schedule(self) -> None:
        # In the next turn of the loop, so that what else is appended in this turn joins the commit.
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # no loop is running: `flush` or `durable` will commit the lines
        if self._loop is not loop:
            if self._loop is not None:
                self.flush()  # lines that were appended on an earlier loop
            self._loop, self._flight = loop, None
        self._scheduled = True
        loop.call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        if self._flight is not None or not self._lines or self._closed:
            return
        assert self._loop is not None
        self._flight = self._take_off(self._take(), self._loop)
        self._flight.add_done_callback(self._landed)

    def _take(self) -> Batch:
        """Return the appended lines as the batch of a commit that starts now."""
        batch = Batch(b"".join(self._lines), self._chain.seq, self._chain.head)
        self._lines.clear()
        self._began_at = time.monotonic()
        self._idle.clear()
        return batch

    def _commit(self, batch: Batch) -> None:
        """Write a batch; runs in the thread."""
        began = time.perf_counter()
        try:
            self._write_out(batch)
        except BaseException as error:  # noqa: BLE001 - `_settle` makes it `broken`
            self._end(batch, 0.0, error)
        else:
            self._end(batch, time.perf_counter() - began, None)

    def _end(self, batch: Batch, took_s: float, error: BaseException | None) -> None:
        """Note the end of a commit; runs in the thread."""
        if error is not None:
            self._failure = error
        else:
            self._on_disk = (batch.seq, batch.head)
            self.commit_s += 0.3 * (took_s - self.commit_s)
        self._idle.set()

    def _landed(self, _flight: asyncio.Future[None]) -> None:
        """Handle the end of a commit, on the loop."""
        self._flight = None
        try:
            self._settle()
        finally:
            # Scheduled after the waiters wake up, so that what they append then joins the commit.
            if self._lines and not self._scheduled and not self._closed:
                self._schedule()

    def _settle(self) -> None:
        """Call `then` of the records that are durable, wake the waiters, and set `broken` after a failure."""
        self.durable_seq, self.durable_head = self._on_disk
        trouble: Exception | None = None
        while self._then and self._then[0][0].seq <= self.durable_seq:
            record, then = self._then.popleft()
            try:
                then(record)
            except Exception as error:  # noqa: BLE001 - raised below: a bug of one listener must not stop the others
                trouble = trouble or error
        if self._failure is not None and self.broken is None:
            self.broken = JournalWriteError(self._advice(self._failure))
            self._lines.clear()
        waiters, self._waiters = self._waiters, []
        for seq, done in waiters:
            if done.done():
                continue
            if seq <= self.durable_seq:
                done.set_result(None)
            elif self.broken is not None:
                done.set_exception(self._error())
            else:
                self._waiters.append((seq, done))
        if trouble is not None:
            raise trouble

    def _error(self) -> JournalWriteError:
        # A new one for each caller: tracebacks pile up on a shared exception.
        return JournalWriteError(str(self.broken))
