"""Rules, floor 1: several runs together: what is open, and which run was good. No I/O, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from engine.model import Outcome
from engine.undo import merged

if TYPE_CHECKING:
    from engine.ledger import Ledger
    from engine.model import CallId

_GOOD = (Outcome.CHANGED, Outcome.ALREADY)


class OpenWork:
    """What is not as asked, over runs: of a call in several of them the last run's word counts."""

    def __init__(self) -> None:
        self._last: dict[CallId, tuple[str, bool]] = {}

    def add(self, run: str, ledger: Ledger) -> None:
        """The next run, in order of time."""
        for call, _, outcome in ledger.outcomes():
            self._last[call.id] = (run, outcome in _GOOD)

    def by_run(self) -> Counter[str]:
        """Open calls by the last run that has them; nobody is counted twice."""
        return Counter(run for run, is_good in self._last.values() if not is_good)


def is_whole(family: Iterable[Ledger]) -> bool:
    """Whether a run with what it repeated, oldest first, has every call as asked.

    A rerun of what failed ends well by itself when that much is done; the job is done only if the rest is, too.
    """
    return all(outcome in _GOOD for _, _, outcome in merged(list(family)).outcomes())
