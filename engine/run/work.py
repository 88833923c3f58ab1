"""A call of a session, from the plan until it is settled: one object, made once, that every part works on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from engine.model import Verdict

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Collection

    from engine.api.verdicts import Cure
    from engine.journal.ledger import Ledger
    from engine.model import Call, CallId, Where
    from engine.run.lanes import Ticket


class Work(Struct, eq=False):
    """A call, and what this session knows of it beyond the journal. There are as many as the plan has calls."""

    index: int
    """Its place in the plan."""
    call: Call
    where: Where
    """Its instance, the same object for all of its calls."""
    attempt: int = 0
    """Number of the last attempt, over all sessions."""
    was_in_doubt: bool = False
    """Some attempt may have been applied, whatever was read since."""
    may_be_applied: bool = False
    """Some attempt may have been applied: in doubt, accepted, or answered with an error that does not say."""
    already: str | None = None
    """Code of the last answer, if it said that the account was so already. Kept here, too, as the ledger learns of an
    answer when the disk has it: a reading may be faster."""
    no_send: bool = False
    """Only to be read and settled: a guard forbids sending it again, or a later rerun has it."""
    resends: int = 0
    """How often it was sent again in this session because a reading denied what was accepted."""
    doubt: bool = False
    """An attempt may have been applied, and no reading since says it was not."""
    tries: int = 0
    """Attempts that drew on a retry budget."""
    started: float | None = None
    """Loop time of the first of them."""
    cures: frozenset[Cure] = frozenset()
    """What was mended for its sake."""
    denied: frozenset[str] = frozenset()
    """Identities that have not the permission for it."""
    stale: int = 0
    """Attempts that a dead connection took."""
    secret: str | None = None
    secret_ahead: bool = False
    """Its password was asked for and it has not been sent yet."""
    ticket: asyncio.Future[Ticket | None] | None = None
    """Leave that it waits for."""

    @property
    def id(self) -> CallId:
        """The identity of the call."""
        return self.call.id

    @property
    def may_have_done_it(self) -> bool:
        """Whether an earlier attempt of ours may be why the account is as desired now."""
        return self.was_in_doubt or self.may_be_applied

    def start_over(self) -> None:
        """Forget what was tried so far: it was accepted, read back as not so, and is sent again as if it were new."""
        self.doubt = False
        self.tries, self.started, self.stale = 0, None, 0
        self.cures, self.denied = frozenset(), frozenset()


def works_of(ledger: Ledger, no_send: Collection[CallId]) -> list[Work]:
    """Return the calls of a run in plan order, as its journal has them."""
    places: dict[Where, Where] = {}
    works = []
    for index, call in enumerate(ledger.calls.values()):
        entry, where = ledger.entry(call.id), call.where
        work = Work(index, call, places.setdefault(where, where))
        work.attempt = entry.attempts
        work.was_in_doubt, work.may_be_applied = entry.was_in_doubt, entry.may_be_applied
        work.already = entry.code if entry.verdict is Verdict.ALREADY else None
        work.no_send = call.id in no_send
        works.append(work)
    return works
