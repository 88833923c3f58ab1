"""One lane's quota, shared by the processes of all hosts: a row has the moments at which its last sends leave.

The moments are on the database's clock, and no clock of a host is compared with it. The answer to a question is how
long to wait. It is waited for from when the answer came, so a send is late by the way of the answer, never early. The
row counts each send as late by more than any of the last ones was. With a later question the process says by when the
send had left at the latest: so what was allowed for costs the lane nothing, but for a send of which nothing is heard.
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

    _Answer = tuple[asyncio.Future["Slot"], "Slot | None", Exception | None]

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
    "select i.n, s.wait_s, s.until from unnest("
    "%s::text[], %s::int[], %s::float8[], %s::float8[], %s::float8[], %s::float8[], %s::float8[]) "
    "with ordinality as i(lane, depth, interval_s, window_s, late_s, told, left_at, n), "
    "lateral acctops.next_slot(i.lane, i.depth, i.interval_s, i.window_s, i.late_s, i.told, i.left_at) s"
)
_FIRST_LATE_S, _LEAST_LATE_S, _MOST_LATE_S = 0.1, 0.01, 1.0
"""Seconds by which a send is allowed to be late: the first ones, as a connection is to be opened, and the bounds."""
_AHEAD = 0.25
"""If answers take more than this share of the time between two slots, each slot is asked for one ahead."""
_WEIGHT = 0.1
"""Of the last answer, in how long answers take."""
_ROOM = 2.0
"""A send is allowed to be so many times as late as the latest of the last ones: it seldom needs another slot."""


class Slot(NamedTuple):
    """A slot, as the database answers."""

    wait_s: float
    """Seconds until it comes."""
    until: float
    """Until when its call counts as not yet gone, by the clock of the database."""


class _Question(NamedTuple):
    """What is asked of one lane, and the future of who waits for the answer."""

    args: tuple[str, int, float, float, float, float | None, float | None]
    answer: asyncio.Future[Slot]


class _Taken(NamedTuple):
    """A slot that was given out, for as long as it is not known when its call left."""

    good_until: float
    """Until when the call may leave, by the clock of this process."""
    until: float
    """The same by the clock of the database."""
    begins_at: float
    """The slot by the clock of the database, and the way of the question: the call leaves then, or later."""


class Asker:
    """Asks a database for the slots of all lanes of this process, on a connection and in a thread of its own.

    All questions that wait are one statement. The thread is a daemon, so a server that hangs keeps no process from
    ending, and holds up no other thread.
    """

    def __init__(self, url: str) -> None:
        # The last slots need not outlive a crash of the server: it cuts all connections, and who is cut off sends
        # nothing for a second.
        self._link = Link(url, statement_s=_STATEMENT_S, waits_for_disk=False)
        self._thread = JournalThread()
        self._lock = threading.Lock()
        self._waiting: list[_Question] = []
        self._is_asking = False
        self._hangs = False
        """Whether the last question got no answer in time."""

    async def ask(
        self,
        lane: str,
        depth: int,
        interval_s: float,
        window_s: float,
        late_s: float,
        left: tuple[float, float] | None = None,
    ) -> Slot:
        """Return the next slot of a lane; TimeoutError, LostError or RefusesError without an answer.

        `left`: the `until` of an earlier slot, and when its call had left at the latest, both by the clock of the
        database. While a question hangs no other is asked.
        """
        if self._hangs and self._is_asking:
            raise TimeoutError
        answer: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        told, left_at = left or (None, None)
        with self._lock:
            self._waiting.append(_Question((lane, depth, interval_s, window_s, late_s, told, left_at), answer))
            starts, self._is_asking = not self._is_asking, True
        if starts:
            self._thread.submit(self._go_on)
        try:
            async with asyncio.timeout(_ANSWER_S):
                slot = await answer
        except TimeoutError:
            self._hangs = True
            raise
        self._hangs = False
        return slot

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
            rows = self._link.rows(_SLOTS, *map(list, zip(*(each.args for each in questions), strict=True)))
            slots = {number: Slot(wait_s, until) for number, wait_s, until in rows}
            return [(each.answer, slots[number], None) for number, each in enumerate(questions, 1)]
        except RefusesError as error:
            if len(questions) == 1:
                return [(questions[0].answer, None, error)]
            # One of them is refused, and so the statement: no slot was taken.
            return [found for each in questions for found in self._answers([each])]
        except Exception as error:  # noqa: BLE001 - whoever asked raises it
            return [(each.answer, None, error) for each in questions]


def _give(answers: Sequence[_Answer]) -> None:
    """Give answers to those who wait, each loop woken once."""
    loops: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
    for found in answers:
        loops.setdefault(found[0].get_loop(), []).append(found)
    for loop, of_loop in loops.items():
        with suppress(RuntimeError):  # that loop is closed by now
            loop.call_soon_threadsafe(_set_all, of_loop)


def _set_all(answers: Sequence[_Answer]) -> None:
    for answer, slot, error in answers:
        if answer.done():  # nobody waits for it any more
            continue
        if slot is not None:
            answer.set_result(slot)
        elif error is not None:
            answer.set_exception(error)


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
        self._lates: deque[float] = deque([_FIRST_LATE_S / _ROOM], _REMEMBERED)
        """How late the last answers came, and the last calls left, in seconds."""
        self._taken: dict[float, _Taken] = {}
        """What was given out last, by the moment that was given out."""
        self._left: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)
        """Of which calls it is to be told when they left: see `Asker.ask`."""
        self._way_s = 0.0
        """How long answers take, by the last ones."""
        self._ahead: tuple[float, asyncio.Future[float]] | None = None
        """The next slot, asked for ahead, and the rate for which it was."""

    async def reserve(self, *, rate: float, interval_s: float, window_s: float) -> float:
        """Take the next slot: at most `rate` in any `window_s`, `interval_s` apart. Return when, by `now`.

        Without an answer nothing is sent for `_PAUSE_S`, in which the leave of whoever has no database ends. After
        that the process goes by its own pace.
        """
        at = await self._asked_ahead(rate)
        if at is None:
            at = await self._ask(rate, interval_s, window_s)
        if self._ahead is None and self._way_s > _AHEAD * interval_s:
            self._ahead = rate, asyncio.ensure_future(self._ask(rate, interval_s, window_s))
        return at

    async def _asked_ahead(self, rate: float) -> float | None:
        """Return the slot that was asked for ahead; None if there is none, or a call can leave in it no more."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead[0] != rate:
            return None
        at = await asyncio.shield(ahead[1])
        return at if self.is_good(at) else None

    async def _ask(self, rate: float, interval_s: float, window_s: float) -> float:
        """Ask for the next slot; return when it is, by `now`."""
        at = taken = None
        for _ in range(_TRIES):
            asked, late_s = self.now(), min(max(_LEAST_LATE_S, _ROOM * max(self._lates)), _MOST_LATE_S)
            left = self._left.popleft() if self._left else None
            try:
                slot = await self._asker.ask(self._lane, max(1, int(rate)), interval_s, window_s, late_s, left)
            except (TimeoutError, LostError, RefusesError):
                await asyncio.sleep(_PAUSE_S)  # others may draw on the lane, and nobody counts our sends
                continue
            way_s = self.now() - asked
            at = asked + way_s + slot.wait_s
            taken = _Taken(at + late_s - way_s + _SLACK_S, slot.until, slot.until - late_s + way_s)
            self._lates.append(min(way_s, _MOST_LATE_S))
            self._way_s += _WEIGHT * (way_s - self._way_s)
            if way_s <= late_s:
                break  # else the send would be later than the others count on: that slot is left empty
        if at is None or taken is None:
            return self.now()
        self._taken[at] = taken
        if len(self._taken) > _REMEMBERED:
            del self._taken[next(iter(self._taken))]
        return at

    def is_good(self, slot_at: float) -> bool:
        """Return whether a call may leave now in the slot of `slot_at`: not much later than the others count on."""
        taken = self._taken.get(slot_at)
        return taken is None or self.now() <= taken.good_until

    def left_late(self, slot_at: float, late_s: float) -> None:
        """Note that a call left `late_s` after its slot: it is told with the next question, and more is allowed for."""
        self._lates.append(min(late_s, _MOST_LATE_S))
        if (taken := self._taken.pop(slot_at, None)) is not None:
            self._left.append((taken.until, taken.begins_at + max(0.0, late_s)))
