"""Which call goes next. No clock, no loop: `now` is an argument.

Calls are named by their index in the plan, whose order is the order of sending. A call is eligible when its instance
is below its limit of attempts in flight and is not held back. So one sick instance costs the healthy ones nothing:

* `per_instance` (4) bounds attempts in flight on an instance while other instances have eligible calls. Where nothing
  else can be sent, it may rise to 16.
* The limit of an instance that keeps answering "busy" or "try later" is halved, down to one probe at a time. Then the
  instance is held back, each time twice as long. Its calls wait without taking slots; an accepted call frees it.

Retries stand in a band of their own and take at most every second turn while untried calls wait. So neither band
starves the other.

Calls of each route (`routes`) stand in a queue of their own (`queues`): a lane can take the calls of its route only.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from engine.model import Where

RELIEF = 16
"""Attempts in flight on one instance when nothing else can be sent."""
SICK_AFTER = 3
"""Number of "busy" or "try later" answers in a row after which an instance is held back."""
HOLD_BASE_S = 1.0
HOLD_CAP_S = 30.0


class Health(Enum):
    """What an attempt said about its instance."""

    GOOD = "good"
    """It took the call."""
    SICK = "sick"
    """It said "busy" or "try later"."""
    SILENT = "silent"
    """It said nothing about the instance (throttled, rejected, fault on the way)."""


class _Line:
    """The calls of one instance."""

    __slots__ = ("bands", "held_until", "in_flight", "key", "limit", "sick_since", "streak")

    def __init__(self, key: Where, limit: int) -> None:
        self.key = key
        self.bands: tuple[list[int], list[int]] = ([], [])
        """Heaps of keys (`CallQueue._key`): untried calls, and retries."""
        self.in_flight = 0
        self.limit = limit
        self.streak = 0
        self.held_until = 0.0
        self.sick_since: float | None = None


_Offer: TypeAlias = tuple[int, int, _Line]
"""Key, tie-breaker, line of the call."""
_FRESH, _RETRY = 0, 1


class CallQueue:
    """The calls of one route that are not in flight, not backing off and not settled."""

    def __init__(self, instances: Sequence[Where], waiting: Iterable[int], *, per_instance: int) -> None:
        """Take `instances`, by plan index the instance of each call; `waiting` are the calls to send, in plan order."""
        self.is_closed = False
        self._first: set[int] = set()
        """Calls that somebody moved ahead: their key is the plan index less the number of calls."""
        self._per_instance = per_instance
        self._lines: dict[Where, _Line] = {}
        self._of = instances
        self._offers: tuple[list[_Offer], list[_Offer]] = ([], [])
        self._tie = count()
        self._held: list[tuple[float, int, _Line]] = []
        self._crowded: dict[Where, _Line] = {}
        self._last_was_retry = False
        self._waiting = [0, 0]
        for index in waiting:
            self._line(index).bands[_FRESH].append(index)  # ascending, hence a heap
            self._waiting[_FRESH] += 1
        for line in self._lines.values():
            self._offer(line, 0.0)

    def _line(self, index: int) -> _Line:
        key = self._of[index]
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(key, self._per_instance)
        return line

    def _key(self, index: int) -> int:
        return index - len(self._of) if index in self._first else index

    def move_ahead(self, indexes: Iterable[int], now: float) -> None:
        """Let these calls go before all others from now on, among themselves in plan order."""
        moved = set(indexes) - self._first
        self._first |= moved
        for line in {id(found): found for found in map(self._line, moved)}.values():
            for band in line.bands:
                band[:] = [self._key(key % len(self._of)) for key in band]
                heapq.heapify(band)
            self._offer(line, now)

    def remove(self, index: int, now: float) -> None:
        """Take a call out, if it waits here."""
        line, key = self._line(index), self._key(index)
        for number, band in enumerate(line.bands):
            if key in band:
                band.remove(key)
                heapq.heapify(band)
                self._waiting[number] -= 1
        self._offer(line, now)

    def __len__(self) -> int:
        """Return how many calls wait here."""
        return self._waiting[_FRESH] + self._waiting[_RETRY]

    @property
    def fresh(self) -> int:
        """How many calls wait here that are not retries."""
        return self._waiting[_FRESH]

    def take(self, now: float, *, retries_only: bool = False) -> int | None:
        """Return the next eligible call, which counts as in flight from now on; None if none is eligible now."""
        while self._held and self._held[0][0] <= now:
            self._offer(heapq.heappop(self._held)[2], now)
        if retries_only:
            order: tuple[int, ...] = (_RETRY,)
        else:
            order = (_FRESH, _RETRY) if self._last_was_retry else (_RETRY, _FRESH)
        for band in order:
            index = self._take_from(band, now)
            if index is not None:
                self._last_was_retry = band == _RETRY
                return index
        return self._take_relief(order)

    def _take_from(self, band: int, now: float) -> int | None:
        offers = self._offers[band]
        while offers:
            key, _, line = heapq.heappop(offers)
            calls = line.bands[band]
            if not calls or calls[0] != key or line.held_until > now:
                continue  # stale: the call was taken, or its line is held back and is offered again after that
            if line.in_flight >= line.limit:
                self._crowded[line.key] = line
                continue
            return self._pop(line, band, now)
        return None

    def _take_relief(self, order: tuple[int, ...]) -> int | None:
        # Reached only when nothing else is eligible. At most workers ÷ limit instances can be crowded.
        most = max(RELIEF, self._per_instance)
        lines = [line for line in self._crowded.values() if not line.streak and line.in_flight < most]
        for band in order:
            waiting = [line for line in lines if line.bands[band]]
            if waiting:
                self._last_was_retry = band == _RETRY
                return self._pop(min(waiting, key=lambda line: line.bands[band][0]), band, float("-inf"))
        return None

    def _pop(self, line: _Line, band: int, now: float) -> int:
        index = heapq.heappop(line.bands[band]) % len(self._of)
        self._waiting[band] -= 1
        line.in_flight += 1
        self._offer(line, now)
        return index

    def _offer(self, line: _Line, now: float) -> None:
        if line.held_until > now:
            return
        if line.in_flight >= line.limit:
            if line.bands[_FRESH] or line.bands[_RETRY]:
                self._crowded[line.key] = line
            else:
                self._crowded.pop(line.key, None)
            return
        self._crowded.pop(line.key, None)
        for band in (_FRESH, _RETRY):
            if line.bands[band]:
                heapq.heappush(self._offers[band], (line.bands[band][0], next(self._tie), line))

    def release(self, index: int, health: Health, now: float) -> None:
        """End the attempt of call `index`; `health` is what it said about the instance."""
        line = self._line(index)
        line.in_flight -= 1
        if health is Health.GOOD:
            self.recovered(index, now)
            return
        if health is Health.SICK:
            line.streak += 1
            line.sick_since = now if line.sick_since is None else line.sick_since
            line.limit = max(1, line.limit // 2)
            if line.streak >= SICK_AFTER:
                hold_s = min(HOLD_CAP_S, HOLD_BASE_S * 2 ** min(line.streak - SICK_AFTER, 10))
                line.held_until = max(line.held_until, now + hold_s)
                heapq.heappush(self._held, (line.held_until, next(self._tie), line))
                self._crowded.pop(line.key, None)
        self._offer(line, now)

    def put_back(self, index: int, now: float, *, retry: bool) -> None:
        """Let call `index` wait again: as a retry, or at its old place if it lost nothing (throttled)."""
        if self.is_closed:
            return
        line = self._line(index)
        band = _RETRY if retry else _FRESH
        heapq.heappush(line.bands[band], self._key(index))
        self._waiting[band] += 1
        self._offer(line, now)

    def close(self) -> list[int]:
        """Close the queue of a route that has no lane left; return the calls that wait. Calls put back are ignored."""
        self.is_closed = True
        waiting = [key % len(self._of) for line in self._lines.values() for band in line.bands for key in band]
        for line in self._lines.values():
            line.bands = ([], [])
        self._waiting = [0, 0]
        return waiting

    def drop(self, index: int) -> None:
        """Count call `index` as in flight no more; this says nothing about the health of its instance."""
        line = self._line(index)
        line.in_flight -= 1
        self._offer(line, float("inf"))  # offers a line that is held back, too: `take` checks that again

    def recovered(self, index: int, now: float) -> None:
        """Free the instance of call `index`: it has shown that it takes calls, whatever their replies looked like."""
        line = self._line(index)
        line.streak, line.sick_since, line.held_until = 0, None, 0.0
        line.limit = min(self._per_instance, line.limit + 1)
        self._offer(line, now)

    def is_busy(self, index: int) -> bool:
        """Return whether the instance of call `index` has calls in flight, or untried calls that can go soon."""
        line = self._line(index)
        return line.in_flight > 0 or (bool(line.bands[_FRESH]) and line.streak < SICK_AFTER)

    def sick_since(self, index: int) -> float | None:
        """Return the time since which the instance of call `index` has taken no call; None while it is well."""
        return self._line(index).sick_since

    def sick_since_of(self, instance: Where) -> float | None:
        """Return the time since which an instance has taken no call; None while it is well."""
        line = self._lines.get(instance)
        return None if line is None else line.sick_since

    def wake_at(self) -> float | None:
        """Return when the next instance that is held back comes free; None if none is held back."""
        while self._held and self._held[0][0] != self._held[0][2].held_until:
            heapq.heappop(self._held)  # stale: its line was freed, or is held back for longer
        return self._held[0][0] if self._held else None

    def well_waiting(self) -> bool:
        """Return whether calls wait here for an instance that is not sick."""
        return any((line.bands[_FRESH] or line.bands[_RETRY]) and not line.streak for line in self._lines.values())

    def sick(self) -> set[Where]:
        """Return the instances that have taken no call since they refused one for now."""
        return {line.key for line in self._lines.values() if line.sick_since is not None}
