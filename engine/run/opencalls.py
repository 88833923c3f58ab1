"""The calls of a session, and which of them are begun and not over."""

from __future__ import annotations

import asyncio
from collections import Counter

from engine.run.queues import CallQueues
from engine.run.readback import ReadBack
from engine.run.work import Work


class OpenCalls:
    """The calls that are open: begun, and not over in this session."""

    def __init__(self, works: list[Work], queue: CallQueues, read_back: ReadBack) -> None:
        self._now = asyncio.get_running_loop().time
        self.works = works
        """All calls of the plan, in its order."""
        self.queue = queue
        self._read_back = read_back
        self._open: dict[int, Work] = {}
        self.to_take_up = 0
        """Calls of an earlier session that are to be judged yet."""
        self.secrets_ahead: Counter[str] = Counter()
        """Passwords asked for ahead of their calls, by account: one whose calls wait keeps nobody else waiting."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def is_over(self) -> bool:
        """Nothing waits, nothing is begun, nothing is to be read back any more."""
        return not (len(self.queue) or self._open or self.to_take_up) and self._read_back.is_idle

    def begin(self, index: int) -> Work:
        """Return the call of a plan index, open from here on."""
        work = self._open[index] = self.works[index]
        return work

    def end(self, work: Work) -> None:
        """Do nothing more about a call in this session."""
        self._open.pop(work.index, None)
        work.secret = None
        self._read_back.touch(work)
        self.queue.wake.set()

    def abandon(self, work: Work) -> None:
        """End a call of which nothing more comes; a task of its own that waits to go on with it ends."""
        self.secret_used(work)
        _turn_away(work)
        self.end(work)

    def over_unsent(self, work: Work) -> None:
        """Abandon a call of which nothing was applied, if it was begun: one that waits for a retry is told."""
        if work.index in self._open:
            self.abandon(work)

    def put_back(self, work: Work) -> None:
        """Let a call wait again where it waited before it was looked at."""
        queue = self.queue.of(work.index)
        is_open = work.index in self._open
        queue.put_back(work.index, self._now(), retry=is_open and work.tries > 0)
        if queue.is_closed and is_open:
            self.abandon(work)

    def put_first(self, work: Work) -> None:
        """Let a call that was begun wait again as an untried one; over, if its route has no lane left."""
        queue = self.queue.of(work.index)
        queue.put_back(work.index, self._now(), retry=False)
        if queue.is_closed:
            self.abandon(work)
        self.queue.wake.set()

    def turn_away(self) -> None:
        """Let whoever waits for a turn get none: the session stops."""
        for work in self._open.values():
            _turn_away(work)

    def drop(self, waiting: list[int]) -> None:
        """Send nothing more of these calls; what of their instances was accepted is still read back."""
        for index in waiting:
            work = self.works[index]
            if index in self._open:
                self.abandon(work)
            else:  # reading back waited for it: it will not be sent before
                self._read_back.touch(work)

    def secret_used(self, work: Work) -> None:
        """A password is on its way, or nobody needs it any more: another one may be asked for."""
        if work.secret_ahead:
            work.secret_ahead = False
            self.secrets_ahead[work.call.account] -= 1


def _turn_away(work: Work) -> None:
    if work.ticket is not None and not work.ticket.done():
        work.ticket.set_result(None)
