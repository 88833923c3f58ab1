"""Calls that an earlier session left begun: they are judged, by a reading if need be, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.journal.ledger import Ledger
from engine.model import Answer, Outcome
from engine.run.attempts import Attempts
from engine.run.opencalls import OpenCalls
from engine.run.settling import Settling
from engine.run.stopping import Tasks
from engine.run.work import Work

AT_ONCE = 200
"""Calls of an earlier session that are taken up at a time."""


class Resumed:
    """Takes up what earlier sessions left."""

    def __init__(
        self,
        ledger: Ledger,
        calls: OpenCalls,
        attempts: Attempts,
        settling: Settling,
        tasks: Tasks,
        *,
        guarded: Sequence[int],
    ) -> None:
        """`guarded` are plan indexes of calls that are taken up only once the guard on admins has looked at them."""
        self._ledger = ledger
        self._calls = calls
        self._attempts = attempts
        self._settling = settling
        self._tasks = tasks
        self._guarded = frozenset(guarded)

    def begin(self, indexes: Sequence[int]) -> None:
        """Take up these calls, a few at a time: a reading serves all calls of its instance."""
        works = (self._calls.works[index] for index in indexes)
        self._calls.to_take_up = len(indexes)
        for _ in range(min(AT_ONCE, len(indexes))):
            self._tasks.spawn(self._take_up(works))

    def is_guarded(self, work: Work) -> bool:
        """Return whether a call waits for the guard."""
        return work.index in self._guarded

    def go_on(self, work: Work, *, may_send: bool) -> None:
        """Go on with a call that the guard has looked at; `may_send`: it lets it be sent again."""
        entry = self._ledger.entry(work.id)
        if entry.needs_reading:
            work.no_send = work.no_send or not may_send
            self._calls.to_take_up += 1
            self._tasks.spawn(self._take_up(iter([work])))
        elif may_send:
            self._calls.put_back(work)
            self._calls.queue.wake.set()
        else:
            words = "keep_admins forbids sending it again, and it was not applied before"
            answer = Answer(http=None, request_id=entry.request_id, code=entry.code, message=words)
            self._settling.unsent(work, Outcome.FAILED, None, answer)

    async def _take_up(self, works: Iterator[Work]) -> None:
        for work in works:  # shared by all that take up
            await self._attempts.go_on(self._calls.begin(work.index))
            self._calls.to_take_up -= 1
