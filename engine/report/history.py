"""Looks at several runs together: what is open, and whether all is as asked. No I/O, no clock."""

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
    """The accounts that are not as asked over several runs; of a call in several runs the last one counts."""

    def __init__(self) -> None:
        self._last: dict[CallId, tuple[str, bool]] = {}

    def add(self, run: str, ledger: Ledger) -> None:
        """Add the next run, in order of time."""
        for call, _, outcome in ledger.outcomes():
            self._last[call.id] = (run, outcome in GOOD)
        for omit in ledger.lacking():
            # An account that an undo left or could not read. A bad row, or a match that could not read, names none.
            if omit.reason != OmitReason.BAD_ROW and is_user(omit.user):
                of = call_id(omit.account, omit.region, omit.instance, omit.user, ledger.run.action)
                self._last[of] = (run, False)

    def by_run(self) -> Counter[str]:
        """Return the number of open calls by the last run that has them; each account counts once."""
        return Counter(run for run, is_good in self._last.values() if not is_good)


def is_whole(family: Iterable[Ledger]) -> bool:
    """Return whether a run and the runs that it repeats, oldest first, together have everything as asked.

    A rerun of failed calls alone ends well once those calls are done. The job is done only if all other calls are done,
    too; a target that never became a call is in no rerun.
    """
    whole = merged(list(family))
    return not whole.lacking() and all(outcome in GOOD for _, _, outcome in whole.outcomes())
