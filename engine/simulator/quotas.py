"""No I/O, no clock. The frequency limit as the vendor counts it, in four readings of "a second" (CN-RATE).

The limit counts arrivals at the server, per identity, action and access region. Whether the second is fixed or sliding,
and whether refused calls count, is not documented for sure: a pacer must keep the limit under all four. Times are whole
microseconds, so that the edges are exact.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum

_SECOND = 1_000_000


class Window(StrEnum):
    """Which arrivals count against the limit."""

    CALENDAR = "calendar"
    """All arrivals of the same whole second: "the first 20 of each second pass" (CN-RATE)."""
    SLIDING = "sliding"
    """Accepted arrivals of the last second."""
    SLIDING_COUNTING_REFUSED = "sliding-counting-refused"
    """All arrivals of the last second: a lane stays limited as long as calls come too fast."""
    BUCKET = "bucket"
    """A token bucket as deep as the limit, refilled at the limit per second."""


class Lane:
    """One quota scope: its arrivals, counted by one window."""

    __slots__ = ("_counted", "_latest", "_second", "_seen", "_tokens", "_window")

    def __init__(self, window: Window) -> None:
        self._window = window
        self._latest = 0
        self._counted: deque[int] = deque()
        self._second = -1
        self._seen = 0
        self._tokens: int | None = None

    def admit(self, now: float, limit: int) -> int | None:
        """Count an arrival; return None if it passes, else the request count for the refusal's message."""
        at = max(round(now * _SECOND), self._latest)  # a clock that steps back starts no new window
        match self._window:
            case Window.CALENDAR:
                excess = self._admit_calendar(at, limit)
            case Window.BUCKET:
                excess = self._admit_bucket(at, limit)
            case Window.SLIDING | Window.SLIDING_COUNTING_REFUSED:
                excess = self._admit_sliding(at, limit)
        self._latest = at
        return excess

    def _admit_calendar(self, at: int, limit: int) -> int | None:
        if at // _SECOND != self._second:
            self._second, self._seen = at // _SECOND, 0
        self._seen += 1
        return self._seen if self._seen > limit else None

    def _admit_sliding(self, at: int, limit: int) -> int | None:
        counted = self._counted
        while counted and at - counted[0] >= _SECOND:
            counted.popleft()
        excess = len(counted) + 1 if len(counted) >= limit else None
        if excess is None or self._window is Window.SLIDING_COUNTING_REFUSED:
            counted.append(at)
        return excess

    def _admit_bucket(self, at: int, limit: int) -> int | None:
        full = limit * _SECOND  # in millionths of a token, so that the refill a microsecond is a whole number
        tokens = full if self._tokens is None else min(full, self._tokens + limit * (at - self._latest))
        excess = None if tokens >= _SECOND else limit + 1
        self._tokens = tokens - _SECOND if excess is None else tokens
        return excess


class WorstSecond:
    """The most arrivals in any second so far, refused ones included: tests judge a pacer by it."""

    __slots__ = ("_recent", "most")

    def __init__(self) -> None:
        self._recent: deque[int] = deque()
        self.most = 0

    def arrive(self, now: float) -> None:
        """Count an arrival."""
        at = round(now * _SECOND)
        recent = self._recent
        recent.append(at)
        while at - recent[0] >= _SECOND:
            recent.popleft()
        self.most = max(self.most, len(recent))
