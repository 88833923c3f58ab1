"""Tell those whom a run's job names of its holds, each thing once, and note beside its journal that they were told."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from engine.errors import AcctopsError
from engine.journal import records
from engine.journal.records import rfc3339, unix_seconds
from engine.operations.events import Warned
from engine.operations.today import guards_of
from engine.outside.foreign import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Runs
    from engine.operations.terms import Terms

AGAIN_S = 86400.0
"""Seconds after which what lasts is told again."""
FIRST_RETRY_S, LAST_RETRY_S = 240.0, 6 * 3600.0
"""What failed is tried again after the first, then twice as long each time, at most after the last."""
_MOST_WHY = 1000


class UndeliveredError(AcctopsError):
    """Nobody could be told."""


class Telling:
    """What is told of one run: at one end of its holds, or of its watch."""

    def __init__(self, terms: Terms, store: Runs, ledger: Ledger, *, until: str, then: str, verb: str = "undo") -> None:
        """`until` and `then` are empty for a watch. `verb`: the command that goes on."""
        self._terms = terms
        self._store = store
        self._ledger = ledger
        self._until = until
        self._then = then
        self._verb = verb
        self._flags = terms.repeat(store)

    def told(self, what: str) -> list[records.Note]:
        """Return the notes that this was told, at this end of the holds."""
        return [
            note
            for note in self._ledger.told
            if note.data.get("what") == what and note.data.get("until") == self._until
        ]

    def note(self, what: str, **facts: Any) -> None:
        """Note beside the run's journal that this was told. Any: JSON values."""
        line = records.Note(what="told", data={"what": what, "until": self._until, **facts})
        self._store.add_aside(self._ledger.run.run, [line], clock=self._terms.clock)

    async def once(self, what: str, words: str, count: int, *, mark: str) -> bool:
        """Tell something, unless it was told before with the same `mark`; return whether it was told now.

        It is noted once it was delivered, or nobody is to be told.
        """
        before = self.told(what)
        if before and before[-1].data.get("mark", "") == mark:
            return False
        await self.deliver(f"hold_{what}", words, count)
        self.note(what, mark=mark)
        return True

    async def failure(self, words: str, *, event: str = "hold_failed", first: int = 1, since: str = "") -> None:
        """Note a failure, by which the next try is put off; tell it at the `first` try in a row, and once a day.

        `since`: UTC time of the last success; tries before it count no more.
        """
        tries = self._tries(since)
        told = [note for note in tries if note.data.get("is_told")]
        is_told = len(tries) + 1 >= first and (not told or self._terms.clock() >= unix_seconds(told[-1].at) + AGAIN_S)
        if is_told:
            with suppress(UndeliveredError):  # the command that tends says it, and fails
                await self.deliver(event, words, 0)
        self.note("tried", number=len(tries) + 1, is_told=is_told, why=clean(words, _MOST_WHY))

    def _tries(self, since: str) -> list[records.Note]:
        """Return the tries since the last success, without those of a time to come: the clock was wrong then."""
        now = self._terms.clock()
        return [note for note in self.told("tried") if note.at > since and unix_seconds(note.at) <= now]

    def put_off(self, since: str = "") -> str | None:
        """Return in words that a failed try is too recent for another; None if it may be tried."""
        tries = self._tries(since)
        if not tries:
            return None
        next_at = unix_seconds(tries[-1].at) + min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** (len(tries) - 1))
        if self._terms.clock() >= next_at:
            return None
        often, last = f"{len(tries):,} time{'s' * (len(tries) != 1)}", tries[-1].data.get("why")
        return f"tried {often}, again after {rfc3339(next_at)[:16]}Z; the last: {last}"

    async def deliver(self, event: str, words: str, count: int, targets: Sequence[str] = ()) -> None:
        """Send a notice to those whom the job or its config names; UndeliveredError if that fails."""
        settings = guards_of(self._terms, self._ledger)
        if settings.notify is None or not settings.notify.wants("failure"):
            return
        from engine.report.notices import hold_notice
        from engine.report.notify import deliver

        document = hold_notice(
            event,
            self._ledger,
            words,
            at=rfc3339(self._terms.clock()),
            until=self._until or None,
            then=self._then or None,
            count=count,
            targets=targets,
            go_on=f"acctops {self._verb} {self._ledger.run.run}{self._flags}",
        )
        failed = await deliver(settings.notify, document, os.environ, way=settings.way_out)
        if len(failed) == len(settings.notify.ways):
            raise UndeliveredError(
                f"nobody was told by {' or '.join(f'{each.to} ({each.why})' for each in failed)}: {words}"
            )
        for each in failed:
            self._terms.tell(Warned(f"nobody was told of it by {each.to}: {each.why}"))
