"""When the accounts of a run are read again, what a reading says of them, and what is told of that. No I/O, no clock.

A run may ask to be watched: read again some times after its end, then every so often, for so long. What was missed, as
the timer did not come, is made up for by one reading.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from engine.api.actions import ACTIONS
from engine.journal.watched import Word
from engine.model import AccountState, Call, CallId
from engine.planning.outlook import Readings, is_no_instance

SLACK_S = 0.01
"""Seconds by which a reading may have begun before its time: the journal cuts times to milliseconds."""
AGAIN_S = 23 * 3600.0
"""Seconds after which what lasts is told again: daily, though a timer is some minutes late one day and not the next."""
TWICE = 2
"""Readings in a row that could not read an account, before that is told."""


# ---- when ------------------------------------------------------------------------------------------------------------


class Schedule(Struct, frozen=True, kw_only=True):
    """When the accounts of a run are read again, in seconds after its end."""

    after: tuple[float, ...] = ()
    """Each of these, in order."""
    every: float | None = None
    """Then all multiples of this; None: no more."""
    until: float | None = None
    """None after this; None: without end."""

    def latest(self, elapsed: float) -> float | None:
        """Return the last time that has come once `elapsed` seconds have passed; None if none has."""
        bound = elapsed if self.until is None else min(elapsed, self.until)
        times = [each for each in self.after if each <= bound]
        if self.every is not None and bound >= self.every:
            count = math.floor(bound / self.every)
            count -= count * self.every > bound
            if count * self.every > self._begun:
                times.append(count * self.every)
        return max(times, default=None)

    def following(self, elapsed: float | None = None) -> float | None:
        """Return the first time after `elapsed` seconds, or the first of all; None if there is no more."""
        since = -1.0 if elapsed is None else elapsed
        times = [each for each in self.after if each > since]
        if self.every is not None:
            least = max(since, self._begun, 0.0)
            count = math.floor(least / self.every) + 1
            count += count * self.every <= least
            times.append(count * self.every)
        found = min(times, default=None)
        return found if found is None or self.until is None or found <= self.until else None

    @property
    def last(self) -> float | None:
        """The last time of all; None if there is no last one, or none at all."""
        if self.until is None:
            return max(self.after, default=None) if self.every is None else None
        return self.latest(self.until)

    @property
    def _begun(self) -> float:
        """The last of the times before those of `every`."""
        return max(self.after, default=0.0)


def schedule_of(said: Mapping[str, Any] | None) -> Schedule | None:
    """Return the schedule that a run's settings name; None for none, or one that makes no sense. Any: as in records."""
    if said is None:
        return None
    after = said.get("after") or []
    if not isinstance(after, list | tuple) or not all(map(_is_seconds, after)):
        return None
    every, until = said.get("every"), said.get("for")
    if not all(each is None or (_is_seconds(each) and each > 0) for each in (every, until)):
        return None
    if not after and every is None:
        return None
    return Schedule(
        after=tuple(sorted(map(float, after))),
        every=float(every) if every is not None else None,
        until=float(until) if until is not None else None,
    )


def is_due(schedule: Schedule, ended_at: float, read_at: float | None, now: float) -> bool:
    """Return whether a reading is due at UNIX time `now`, of a run that ended then and was last read then.

    A reading that says it began later than now counts for nothing: the clock was wrong then, or is now.
    """
    due = schedule.latest(now - ended_at)
    if due is None:
        return False
    return read_at is None or read_at > now + SLACK_S or read_at + SLACK_S < ended_at + due


def _is_seconds(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 <= value < _MOST_S


_MOST_S = 1e10
"""More seconds than any watch lasts."""


# ---- what a reading says ---------------------------------------------------------------------------------------------


class Look(Struct, frozen=True, kw_only=True):
    """What a reading says of one account."""

    word: Word
    state: AccountState | None = None
    is_gone: bool = False
    """Whether the account, or its instance, is proven to be not there any more."""


def looks(calls: Iterable[Call], readings: Readings) -> dict[CallId, Look]:
    """Return what readings say of the accounts of calls, whoever did it."""
    found: dict[CallId, Look] = {}
    for call in calls:
        reading = readings.get(call.where)
        state = reading.find(call.user) if reading is not None else None
        is_so = ACTIONS[call.action].shows(state) if state is not None else None
        word = Word.UNREAD if is_so is None else Word.AS_LEFT if is_so else Word.BACK
        is_gone = (
            reading is not None
            and state is None
            and (is_no_instance(reading) or (reading.accounts is not None and reading.complete))
        )
        found[call.id] = Look(word=word, state=state, is_gone=is_gone)
    return found


def without(looks: Mapping[CallId, Look], ours: Collection[CallId]) -> dict[CallId, Look]:
    """Return the looks, with what is not as left and was opened by us, or is held no more, as `OPENED`."""
    return {
        call: Look(word=Word.OPENED, state=look.state) if call in ours and look.word is not Word.AS_LEFT else look
        for call, look in looks.items()
    }


# ---- what is told ----------------------------------------------------------------------------------------------------


class Told(Struct, frozen=True, kw_only=True):
    """A notice that was delivered: it named what has changed behind line `above`, up to line `upto`."""

    at: float
    above: int
    upto: int


def to_tell(
    changed: Mapping[CallId, int], told: Sequence[Told], now: float, *, is_fresh: bool = True
) -> tuple[list[CallId], int]:
    """Return which accounts are to be told of, and behind which line of the watch's journal they changed.

    `changed`: each account about which there is something to tell, with the line since which that is so. Each is told
    once; all that last are told again a day later, but only by a reading made now (`is_fresh`).
    """
    heard = {
        call: max((each.at for each in told if each.above < seq <= each.upto), default=None)
        for call, seq in changed.items()
    }
    if is_fresh and any(at is not None and now >= at + AGAIN_S for at in heard.values()):
        return list(changed), 0
    new = [call for call, at in heard.items() if at is None]
    return new, max((each.upto for each in told), default=0) if new else 0


# ---- how it stands ---------------------------------------------------------------------------------------------------


class Standing(Struct, frozen=True, kw_only=True):
    """How the watch of a run stands."""

    run: str | None = None
    """The watch's own run; None before its first reading."""
    total: int = 0
    as_left: int = 0
    opened: int = 0
    """Accounts that we have opened since, or hold no more."""
    back: tuple[str, ...] = ()
    """Accounts that came back, as `instance/user`."""
    unread: tuple[str, ...] = ()
    """Accounts that could not be read the last time."""
    read_at: float | None = None
    """UNIX time of the last reading."""
    next_at: float | None = None
    """UNIX time of the next; past, if nobody tends. None: there is no more, or the run has not ended."""
    until: float | None = None
    """UNIX time of the last of all; None: it has no end, or the run has not ended."""
    problem: str | None = None
    """Why the watch's journal cannot be read; None if it can be."""
