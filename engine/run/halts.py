"""Reasons for which a session begins no new call for a while: a pause. It goes on when the last reason ends.

While any reason holds, no attempt begins: calls whose `sent` is written and that have not left are given back. Attempts
in flight end, accounts are read, what is accepted is proven. That time does not count for the deadline, for the budgets
of calls and lanes, and for the clock of starvation. It counts for the window, and a stop ends the session at once.
"""

from __future__ import annotations

from collections.abc import Callable


class Halts:
    """Whether new calls may begin, and how much of a span of time counts. All times are the loop's."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._reasons: dict[str, bool] = {}
        """Reason → whether the session lasts as long as it holds."""
        self._since = 0.0
        """When the first of the reasons began that hold now."""
        self._over: list[tuple[float, float]] = []
        """Begin and end of each earlier halt."""
        self.is_set = False
        """Whether no new call may begin."""
        self.keeps_open = False
        """Whether the session goes on even if no call is left: a reason is to be waited for."""
        self.told: list[Callable[[], None]] = []
        """Called whenever new calls may not begin any more, or may again, and when what keeps the session open ends."""

    def begin(self, reason: str, *, keeps_open: bool = False) -> None:
        """Begin no new call as long as this reason holds; do nothing if it holds already.

        With `keeps_open` the session waits for the end of the reason even if all of its calls are settled.
        """
        if reason in self._reasons:
            return
        if not self._reasons:
            self._since = self._now()
        self._reasons[reason] = keeps_open
        self._tell()

    def end(self, reason: str) -> None:
        """End a reason, if it holds; if it was the last one, new calls begin at once."""
        if reason not in self._reasons:
            return
        del self._reasons[reason]
        if not self._reasons:
            self._over.append((self._since, self._now()))
        self._tell()

    def holds(self, reason: str) -> bool:
        """Return whether this reason holds."""
        return reason in self._reasons

    def counted(self, since: float) -> float:
        """Return the seconds from `since` until now that count: those in which new calls could begin."""
        if self._over and self._over[-1][1] > since:
            halted = sum(max(0.0, end - max(begin, since)) for begin, end in self._over)
        else:
            halted = 0.0
        now = self._now()
        if self.is_set:
            halted += now - max(self._since, since)
        return now - since - halted

    def _tell(self) -> None:
        self.is_set = bool(self._reasons)
        self.keeps_open = any(self._reasons.values())
        for tell in self.told:
            tell()
