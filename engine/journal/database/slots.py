"""One lane's quota, shared by the processes of all hosts: a row has the moments at which its last sends leave.

The moments are on the database's clock, and no clock of a host is compared with it. The answer to a question is how
long to wait. It is waited for from when the answer came, so a send is late by the way of the answer, never early. The
row counts each send as that much late, by the longest way of the last answers.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from engine.journal.database.link import Link, LostError, RefusesError
from engine.journal.grouped import JournalThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    _Answer = tuple[asyncio.Future[float], float, Exception | None]

_ANSWER_S = 1.0
"""Seconds that an answer may take."""
_PAUSE_S = 1.0
"""Seconds without sends after a question without an answer: leave to send lasts as long."""
_STATEMENT_S = 5.0
"""Seconds that a question has at the server, so that one which hangs ends."""
_REMEMBERED = 50
_SLACK_S = 0.01
"""Seconds that a call may leave later than that: the guard has room for so much."""
_TRIES = 5
_SLOTS = (
    "select i.n, acctops.slot(i.lane, i.depth, i.interval_s, i.window_s, i.late_s) from unnest("
    "%s::text[], %s::int[], %s::float8[], %s::float8[], %s::float8[]) "
    "with ordinality as i(lane, depth, interval_s, window_s, late_s, n)"
)
_LEAST_LATE_S, _MOST_LATE_S = 0.002, 1.0


class _Question(NamedTuple):
    """What is asked of one lane, and the future of who waits for the answer."""

    args: tuple[str, int, float, float, float]
    answer: asyncio.Future[float]


class Asker:
    """Asks a database for the slots of all lanes of this process, on a connection and in a thread of its own.

    All questions that wait are one statement. The thread is a daemon, so a server that hangs keeps no process from
    ending, and holds up no other thread.
    """

    def __init__(self, url: str) -> None:
        # A slot need not outlive a crash of the server. It cuts all connections, and then every process goes by its
        # own pace anyway, for as long as its leave lasts: a second at most.
        self._link = Link(url, statement_s=_STATEMENT_S, waits_for_disk=False)
        self._thread = JournalThread()
        self._lock = threading.Lock()
        self._waiting: list[_Question] = []
        self._is_asking = False
        self._hangs = False
        """Whether the last question got no answer in time."""

    async def ask(self, lane: str, depth: int, interval_s: float, window_s: float, late_s: float) -> float:
        """Return how many seconds to wait; TimeoutError, LostError or RefusesError without an answer.

        While a question hangs no other is asked.
        """
        if self._hangs and self._is_asking:
            raise TimeoutError
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append(_Question((lane, depth, interval_s, window_s, late_s), answer))
            starts, self._is_asking = not self._is_asking, True
        if starts:
            self._thread.submit(self._go_on)
        try:
            async with asyncio.timeout(_ANSWER_S):
                wait_s = await answer
        except TimeoutError:
            self._hangs = True
            raise
        self._hangs = False
        return wait_s

    def close(self) -> None:
        """End the thread and the connection; a question that hangs is not waited for."""
        self._thread.shutdown(wait=False)
        self._link.close()

    def _go_on(self) -> None:
        """Ask until no question waits; runs in the thread."""
        while True:
            with self._lock:
                questions, self._waiting = self._waiting, []
                if not questions:
                    self._is_asking = False
                    return
            # A slot for somebody who has given up would be left empty. Processes lock lanes in the same order.
            wanted = sorted((each for each in questions if not each.answer.done()), key=lambda each: each.args[0])
            if wanted:
                _give(self._answers(wanted))

    def _answers(self, questions: Sequence[_Question]) -> list[_Answer]:
        try:
            lanes, depths, intervals, windows, lates = zip(*(each.args for each in questions), strict=True)
            rows = self._link.rows(_SLOTS, *map(list, (lanes, depths, intervals, windows, lates)))
            waits = {number: float(wait_s) for number, wait_s in rows}
            return [(each.answer, waits[number], None) for number, each in enumerate(questions, 1)]
        except RefusesError as error:
            if len(questions) == 1:
                return [(questions[0].answer, 0.0, error)]
            # One of them is refused, and so the statement: no slot was taken.
            return [found for each in questions for found in self._answers([each])]
        except Exception as error:  # noqa: BLE001 - whoever asked raises it
            return [(each.answer, 0.0, error) for each in questions]


def _give(answers: Sequence[_Answer]) -> None:
    """Give answers to those who wait, each loop woken once."""
    loops: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
    for found in answers:
        loops.setdefault(found[0].get_loop(), []).append(found)
    for loop, of_loop in loops.items():
        with suppress(RuntimeError):  # that loop is closed by now
            loop.call_soon_threadsafe(_set_all, of_loop)


def _set_all(answers: Sequence[_Answer]) -> None:
    for answer, wait_s, error in answers:
        if not answer.done():  # nobody may wait for it any more
            answer.set_result(wait_s) if error is None else answer.set_exception(error)


_ASKERS: dict[str, Asker] = {}


def asker_of(url: str) -> Asker:
    """Return the one of this process for a database."""
    if not _ASKERS:
        atexit.register(close_askers)
    if url not in _ASKERS:
        _ASKERS[url] = Asker(url)
    return _ASKERS[url]


def close_askers() -> None:
    """Close what `asker_of` has made; it makes a new one when it is asked again."""
    while _ASKERS:
        _ASKERS.popitem()[1].close()


class DatabaseSlots:
    """The slots of one lane, as all processes that use the database see them."""

    def __init__(self, asker: Asker, lane: str, *, clock: Callable[[], float]) -> None:
        """`clock` is a clock of this process that never goes back."""
        self.now = clock
        self._asker = asker
        self._lane = lane
        self._ways: deque[float] = deque([_LEAST_LATE_S], _REMEMBERED)
        """Seconds that the last answers took."""
        self._good_until: dict[float, float] = {}
        """Slot → until when its call may leave, as the others count on."""

    async def reserve(self, *, rate: float, interval_s: float, window_s: float) -> float:
        """Take the next slot: at most `rate` in any `window_s`, `interval_s` apart. Return when, by `now`.

        Without an answer nothing is sent for `_PAUSE_S`, in which the leave of whoever has no database ends. After
        that the process goes by its own pace.
        """
        at = good_until = None
        for _ in range(_TRIES):
            asked, late_s = self.now(), max(self._ways)
            try:
                wait_s = await self._asker.ask(self._lane, max(1, int(rate)), interval_s, window_s, late_s)
            except (TimeoutError, LostError, RefusesError):
                await asyncio.sleep(_PAUSE_S)  # others may draw on the lane, and nobody counts our sends
                continue
            answered = self.now()
            at = answered + wait_s
            good_until = at + late_s - (answered - asked) + _SLACK_S
            self._ways.append(min(answered - asked, _MOST_LATE_S))
            if answered - asked <= late_s:
                break  # else the send would be later than the others count on: that slot is left empty
        if at is None or good_until is None:
            return self.now()
        self._good_until[at] = good_until
        if len(self._good_until) > _REMEMBERED:
            del self._good_until[next(iter(self._good_until))]
        return at

    def is_good(self, slot_at: float) -> bool:
        """Return whether a call may leave now in the slot of `slot_at`: not much later than the others count on."""
        return self.now() <= self._good_until.get(slot_at, float("inf"))

    def left_late(self, slot_at: float, late_s: float) -> None:
        """Note that a call left `late_s` after its slot: for the next questions each send counts as that much late."""
        self._ways.append(min(late_s, _MOST_LATE_S))
