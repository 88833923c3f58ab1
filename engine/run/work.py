"""A call of a session, from the plan until it is settled: one object that all parts of the session share."""

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
    """A call, and what this session knows of it beyond the journal. There is one for each call of the plan."""

    index: int
    """Its place in the plan."""
    call: Call
    where: Where
    """Its instance, the same object for all of its calls."""
    attempt: int = 0
    """Number of the last attempt, over all sessions."""
    was_in_doubt: bool = False
    """Whether an attempt was ever in doubt, whatever was read since."""
    may_be_applied: bool = False
    """Whether an attempt may have been applied: in doubt, accepted, or answered with an error that does not say."""
    already: str | None = None
    """Code of the last answer, if it said that the account was so already. The ledger gets an answer only once the
    disk has it, and a reading may be faster: so the code is kept here, too."""
    is_dropped: bool = False
    """Whether somebody took it out of the run before it was sent."""
    is_settled: bool = False
    """Whether its outcome was written in this session."""
    no_send: bool = False
    """Whether it is only read and settled: a guard forbids sending it again, or a later rerun has it."""
    resends: int = 0
    """How often it was sent again in this session because a reading denied what was accepted."""
    doubt: bool = False
    """Whether an attempt may have been applied, and no reading since says that it was not."""
    tries: int = 0
    """How many attempts drew on a retry budget."""
    started: float | None = None
    """Loop time of the first attempt that drew on a retry budget."""
    cures: frozenset[Cure] = frozenset()
    """What was mended for this call."""
    denied: frozenset[str] = frozenset()
    """Identities that do not have the permission for it."""
    stale: int = 0
    """How many attempts were lost because their connection was dead."""
    secret: str | None = None
    """Its password; None: it has none, or the password is not there."""
    secret_ahead: bool = False
    """Whether its password was asked for and it has not been sent since."""
    ticket: asyncio.Future[Ticket | None] | None = None
    """The permission to make its next attempt, if it waits for that."""

    @property
    def id(self) -> CallId:
        """The identity of the call (`call_id`)."""
        return self.call.id

    @property
    def may_have_done_it(self) -> bool:
        """Whether an earlier attempt of ours may have made the account as it is now."""
        return self.was_in_doubt or self.may_be_applied

    def start_over(self) -> None:
        """Forget all tries so far, so that an accepted call that was read back as not so is sent again as if new."""
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
