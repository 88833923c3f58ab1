"""Calls of which nothing can have been applied rest on a reading of their account: which one, and whether it is fresh.

A call is sent by a reading that began no longer than `FRESH_S` ago.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct, field

from engine.model import Reading, Where
from engine.planning.outlook import is_no_instance
from engine.run.work import Work

FRESH_S = 5.0
"""Seconds after its start in which calls may be sent by a reading; after that the instance is read again."""
ADMIN_FRESH_S = 1.0
"""As `FRESH_S`, for a superuser where some must stay: other runs may be locking superusers, too."""


class Look(Struct):
    """What is known of an instance, and which calls wait for its next reading."""

    reading: Reading | None = None
    """The newest reading."""
    at: float = -math.inf
    """Loop time from which its age counts; minus infinity if that is not known."""
    known: Reading | None = None
    """The newest reading that shows accounts."""
    known_at: float = -math.inf
    """Loop time from which its age counts."""
    aside: list[Work] = field(default_factory=list)
    """Calls that wait for the next reading."""
    is_due: bool = False
    """Whether the instance is being read or will be."""

    @property
    def is_blind(self) -> bool:
        """Whether the newest reading failed, for another reason than that there is no such instance."""
        return self.reading is not None and self.reading.accounts is None and not is_no_instance(self.reading)


class Resting:
    """What is known of the instances of calls that are not sent yet."""

    def __init__(self, works: Sequence[Work], unsent: Iterable[int]) -> None:
        """Take `unsent`, the plan indexes of the calls that rest on a reading."""
        self._now = asyncio.get_running_loop().time
        self.looks: dict[Where, Look] = {}
        self._rests = bytearray(len(works))
        """1 for a call that rests on a reading: nothing of it can have been applied."""
        self._count: Counter[Where] = Counter()
        """How many of these calls an instance has."""
        for index in unsent:
            self._rests[index] = 1
            self._count[works[index].where] += 1
        self._decided_by: list[Reading | None] = [None] * len(works)
        """By call: the reading by which it may be sent."""
        self.admins: set[int] = set()
        """Plan indexes of calls that lock a superuser where some must stay."""
        self.began_at = math.inf
        """Loop time at which the session began to read."""

    def rests(self, work: Work) -> bool:
        """Return whether a call rests on a reading."""
        return bool(self._rests[work.index])

    def decided(self, work: Work, reading: Reading | None) -> None:
        """Take note that a call may be sent by a reading."""
        self._decided_by[work.index] = reading

    def decided_by(self, work: Work) -> Reading | None:
        """Return the reading by which a call may be sent."""
        return self._decided_by[work.index]

    def over(self, work: Work) -> None:
        """Take note that a call is settled or left out without a send."""
        self._rests[work.index] = 0

    def sent(self, work: Work) -> None:
        """Take note that a call may have been applied: it does not rest on a reading any more."""
        if not self._rests[work.index]:
            return
        self._rests[work.index], self._decided_by[work.index] = 0, None
        self._count[work.where] -= 1
        if not self._count[work.where]:  # else a large job would keep the readings of all its instances in memory
            look = self.looks[work.where]
            look.reading = look.known = None

    def stands(self, work: Work) -> bool:
        """Return whether what was decided about a call still holds when its slot has come."""
        if not self._rests[work.index]:
            return True
        look = self.looks[work.where]
        return self._is_as_decided(work, look) and self.is_fresh(work, look)

    def _is_as_decided(self, work: Work, look: Look) -> bool:
        """Return whether a call was decided by the newest reading, or by one that shows its account the same."""
        by, newest = self._decided_by[work.index], look.reading
        if look.is_blind and self._now() - look.known_at <= FRESH_S:
            newest = look.known
        if by is newest or by is None or newest is None or work.index in self.admins:
            return by is newest
        return by.find(work.call.user) == newest.find(work.call.user)

    def is_fresh(self, work: Work, look: Look) -> bool:
        """Return whether a call may be sent by the newest reading."""
        if work.index not in self.admins:
            return self.is_recent(look)
        # Readings made for the plan do not count: a run that has ended since then may have locked superusers.
        return look.at >= self.began_at and self._now() - look.at <= ADMIN_FRESH_S

    def is_recent(self, look: Look) -> bool:
        """Return whether a call may be decided by the newest reading.

        A failed reading counts as recent: calls wait for one failure only, as an incident has no time for more.
        """
        return look.is_blind or self._now() - look.at <= FRESH_S
