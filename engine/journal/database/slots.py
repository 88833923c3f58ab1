"""One lane's quota, shared by the processes of all hosts: a row has the moments at which its last sends leave.

The moments are on the database's clock, and no clock of a host is compared with it. The answer to a question is how
long to wait. It is waited for from when the answer came, so a send is late by the way of the answer, never early. The
row counts each send as that much late, by the longest way of the last answers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from engine.journal.database.link import Link, LostError

if TYPE_CHECKING:
    from collections.abc import Callable

_ANSWER_S = 1.0
"""Seconds that an answer may take. Without one the process goes by its own pace; no call leaves without leave."""
_REMEMBERED = 50
_TRIES = 5
_SLOT = "select acctops.slot(%s, %s, %s, %s, %s)"
_LEAST_LATE_S, _MOST_LATE_S = 0.002, 0.25


class DatabaseSlots:
    """The slots of one lane, as all processes that use the database see them."""

    def __init__(self, link: Link, lane: str, *, clock: Callable[[], float]) -> None:
        """`clock` is a clock of this process that never goes back."""
        self.now = clock
        self._link = link
        self._lane = lane
        self._ways: deque[float] = deque([_LEAST_LATE_S], _REMEMBERED)
        """Seconds that the last answers took."""

    async def reserve(self, *, rate: float, interval_s: float, window_s: float) -> float:
        """Take the next slot: at most `rate` in any `window_s`, `interval_s` apart. Return when, by `now`."""
        for _ in range(_TRIES):
            asked, late_s = self.now(), max(self._ways)
            args = (self._lane, max(1, int(rate)), interval_s, window_s, late_s)
            try:
                async with asyncio.timeout(_ANSWER_S):
                    ((wait_s,),) = await asyncio.to_thread(self._link.rows, _SLOT, *args)
            except (TimeoutError, LostError):
                return self.now()
            answered = self.now()
            self._ways.append(min(answered - asked, _MOST_LATE_S))
            if answered - asked <= late_s:
                break  # else the send would be later than the others count on: that slot is left empty
        return answered + float(wait_s)

    def left_late(self, slot_at: float, late_s: float) -> None:
        """Note that a call left `late_s` after its slot: for the next questions each send counts as that much late."""
        self._ways.append(min(late_s, _MOST_LATE_S))
