"""Several runs together: what is open, and which run was good. No I/O, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from engine.api.names import is_user
from engine.model import GOOD, OmitReason, call_id
from engine.planning.undo import merged

if TYPE_CHECKING:
    from engine.journal.ledger import Ledger
    from engine.model import CallId


class OpenWork:
    """What is not as asked, over runs: of a call in several of them the last run's word counts."""

    def __init__(self) -> None:
        self._last: dict[CallId, tuple[str, bool]] = {}

    def add(self, run: str, ledger: Ledger) -> None:
        """The next run, in order of time."""
        for call, _, outcome in ledger.outcomes():
            self._last[call.id] = (run, outcome in GOOD)
        for omit in ledger.lacking():
            # An account that an undo left, or could not look at. What a match could not see, and a bad row, name none.
            if omit.reason != OmitReason.BAD_ROW and is_user(omit.user):
                of = call_id(omit.account, omit.region, omit.instance, omit.user, ledger.run.action)
                self._last[of] = (run, False)

    def by_run(self) -> Counter[str]:
        """Open calls by the last run that has them; nobody is counted twice."""
        return Counter(run for run, is_good in self._last.values() if not is_good)


def is_whole(family: Iterable[Ledger]) -> bool:
    """Whether a run with what it repeated, oldest first, has everything as asked.

    A rerun of what failed ends well by itself when that much is done; the job is done only if the rest is, too, and
    what never became a call is in no rerun.
    """
    whole = merged(list(family))
    return not whole.lacking() and all(outcome in GOOD for _, _, outcome in whole.outcomes())
