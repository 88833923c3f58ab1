"""Calls that an earlier session has sent and not settled: they are judged, by a reading if need be, before a send."""

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
"""Most calls of earlier sessions that are judged at a time."""


class Resumed:
    """The part of a session that goes on with the calls that earlier sessions left open."""

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
        """Take `guarded`, plan indexes of calls that go on only once the guard on admins has looked at them."""
        self._ledger = ledger
        self._calls = calls
        self._attempts = attempts
        self._settling = settling
        self._tasks = tasks
        self._guarded = frozenset(guarded)

    def begin(self, indexes: Sequence[int]) -> None:
        """Go on with these calls, up to `AT_ONCE` at a time: a reading serves all calls of its instance."""
        works = (self._calls.works[index] for index in indexes)
        self._calls.to_take_up = len(indexes)
        for _ in range(min(AT_ONCE, len(indexes))):
            self._tasks.spawn(self._take_up(works))

    def is_guarded(self, work: Work) -> bool:
        """Return whether a call needs the guard on admins before it goes on."""
        return work.index in self._guarded

    def go_on(self, work: Work, *, may_send: bool) -> None:
        """Go on with a call that the guard has looked at; `may_send`: whether the guard lets it be sent again."""
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
        for work in works:  # all tasks share this iterator
            await self._attempts.go_on(self._calls.begin(work.index))
            self._calls.to_take_up -= 1
