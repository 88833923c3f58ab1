"""One lane's quota, shared by the processes of all hosts: a row has the moments at which its last sends leave.

The moments are on the database's clock, and no clock of a host is compared with it. The answer to a question is how
long to wait. It is waited for from when the answer came, so a send is late by the way of the answer, never early. The
row counts each send as that much late, by the longest way of the last answers.
"""

from __future__ import annotations

import asyncio
import atexit
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from engine.journal.database.link import Link, LostError, RefusesError
from engine.journal.grouped import JournalThread

if TYPE_CHECKING:
    from collections.abc import Callable

_ANSWER_S = 1.0
"""Seconds that an answer may take. Without one the process goes by its own pace; no call leaves without leave."""
_STATEMENT_S = 5.0
"""Seconds that a question has at the server, so that one which hangs ends."""
_REMEMBERED = 50
_TRIES = 5
_SLOT = "select acctops.slot(%s, %s, %s, %s, %s)"
_LEAST_LATE_S, _MOST_LATE_S = 0.002, 0.25


class Asker:
    """Asks a database for the slots of all lanes of this process, on a connection and in a thread of its own.

    The thread is a daemon, so a server that hangs keeps no process from ending, and holds up no other thread.
    """

    def __init__(self, url: str) -> None:
        self._link = Link(url, statement_s=_STATEMENT_S)
        self._thread = JournalThread()
        self._under_way = 0
        self._hangs = False
        """Whether the last question got no answer in time."""

    async def ask(self, *args: Any) -> float:
        """Return how many seconds to wait; TimeoutError or LostError without an answer. Any: as the function has it.

        While a question hangs no other is asked.
        """
        if self._hangs and self._under_way:
            raise TimeoutError
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[float] = loop.create_future()

        def give(wait_s: float | None, error: Exception | None) -> None:
            if not answer.done():  # nobody may wait for it any more
                answer.set_result(wait_s or 0.0) if error is None else answer.set_exception(error)

        def work() -> None:
            wait_s: float | None = None
            failed: Exception | None = None
            try:
                wait_s = float(self._link.rows(_SLOT, *args)[0][0])
            except Exception as error:  # noqa: BLE001 - whoever asked raises it
                failed = error
            self._under_way -= 1
            with suppress(RuntimeError):  # that loop is closed by now
                loop.call_soon_threadsafe(give, wait_s, failed)

        self._under_way += 1
        self._thread.submit(work)
        self._hangs = True
        async with asyncio.timeout(_ANSWER_S):
            wait_s = await answer
        self._hangs = False
        return wait_s

    def close(self) -> None:
        """End the thread and the connection; a question that hangs is not waited for."""
        self._thread.shutdown(wait=False)
        self._link.close()


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

    async def reserve(self, *, rate: float, interval_s: float, window_s: float) -> float:
        """Take the next slot: at most `rate` in any `window_s`, `interval_s` apart. Return when, by `now`."""
        for _ in range(_TRIES):
            asked, late_s = self.now(), max(self._ways)
            try:
                wait_s = await self._asker.ask(self._lane, max(1, int(rate)), interval_s, window_s, late_s)
            except (TimeoutError, LostError, RefusesError):
                return self.now()
            answered = self.now()
            self._ways.append(min(answered - asked, _MOST_LATE_S))
            if answered - asked <= late_s:
                break  # else the send would be later than the others count on: that slot is left empty
        return answered + wait_s

    def left_late(self, slot_at: float, late_s: float) -> None:
        """Note that a call left `late_s` after its slot: for the next questions each send counts as that much late."""
        self._ways.append(min(late_s, _MOST_LATE_S))
