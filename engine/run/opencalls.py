"""The calls of a session, and which of them are open."""

from __future__ import annotations

import asyncio
from collections import Counter

from engine.run.queues import CallQueues
from engine.run.readback import ReadBack
from engine.run.work import Work


class OpenCalls:
    """The open calls: this session has started to work on them and has not ended them."""

    def __init__(self, works: list[Work], queue: CallQueues, read_back: ReadBack) -> None:
        self._now = asyncio.get_running_loop().time
        self.works = works
        """All calls of the plan, in its order."""
        self.queue = queue
        self._read_back = read_back
        self._open: dict[int, Work] = {}
        self.to_take_up = 0
        """How many calls of earlier sessions are still to be judged."""
        self.secrets_ahead: Counter[str] = Counter()
        """Passwords asked for ahead of their calls, by account: an account whose calls wait delays no other account."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def is_over(self) -> bool:
        """Whether no call waits, is open, or is to be judged or read back."""
        return not (len(self.queue) or self._open or self.to_take_up) and self._read_back.is_idle

    @property
    def is_judged(self) -> bool:
        """Whether each open call only waits for its turn, and none of earlier sessions is about to be opened."""
        is_waiting = all(work.ticket is not None for work in self._open.values())
        return is_waiting and (bool(self._open) or not self.to_take_up) and self._read_back.is_idle

    def begin(self, index: int) -> Work:
        """Open the call of a plan index and return it."""
        work = self._open[index] = self.works[index]
        return work

    def end(self, work: Work) -> None:
        """Close an open call: this session does nothing more about it, apart from reading it back."""
        self._open.pop(work.index, None)
        work.secret = None
        self._read_back.touch(work)
        self.queue.wake.set()

    def abandon(self, work: Work) -> None:
        """End a call that is not sent again; its task, if one waits for the call's turn, ends, too."""
        self.secret_used(work)
        _turn_away(work)
        self.end(work)

    def over_unsent(self, work: Work) -> None:
        """Abandon a call of which nothing was applied, if it is open: its task may wait for a retry."""
        if work.index in self._open:
            self.abandon(work)

    def take_out(self, work: Work) -> None:
        """Do nothing more about a call that was never sent, wherever it waits."""
        work.is_dropped = True
        self.queue.of(work.index).remove(work.index, self._now())
        self.over_unsent(work)
        self.queue.wake.set()

    def put_back(self, work: Work) -> None:
        """Put a call back in the queue where it waited before."""
        if work.is_dropped:
            return
        queue = self.queue.of(work.index)
        is_open = work.index in self._open
        queue.put_back(work.index, self._now(), retry=is_open and work.tries > 0)
        if queue.is_closed and is_open:
            self.abandon(work)

    def put_first(self, work: Work) -> None:
        """Put an open call back in the queue as an untried one; abandon it if its route has no lane left."""
        if work.is_dropped:
            return
        queue = self.queue.of(work.index)
        queue.put_back(work.index, self._now(), retry=False)
        if queue.is_closed:
            self.abandon(work)
        self.queue.wake.set()

    def turn_away(self) -> None:
        """End all waits of calls for a turn: the session stops."""
        for work in self._open.values():
            _turn_away(work)

    def drop(self, waiting: list[int]) -> None:
        """Send these calls no more; accepted calls of their instances are still read back."""
        for index in waiting:
            work = self.works[index]
            if index in self._open:
                self.abandon(work)
            else:  # its instance may have waited with reading back until this call was sent
                self._read_back.touch(work)

    def secret_used(self, work: Work) -> None:
        """Take note that the password of a call was sent or is not needed any more: another may be asked for."""
        if work.secret_ahead:
            work.secret_ahead = False
            self.secrets_ahead[work.call.account] -= 1


def _turn_away(work: Work) -> None:
    if work.ticket is not None and not work.ticket.done():
        work.ticket.set_result(None)
