"""Looks at several runs together: what is open, and whether all is as asked. No I/O, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from engine.api.actions import ACTIONS
from engine.api.names import user_problem
from engine.model import GOOD, OmitReason
from engine.planning.undo import merged

if TYPE_CHECKING:
    from engine.journal.ledger import Entry, Ledger
    from engine.model import Call, Outcome


class OpenWork:
    """The accounts that are not as asked over several runs; of a call in several runs the last one counts."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, ...], tuple[str, bool]] = {}
        self._unnamed: dict[str, tuple[str, int]] = {}
        """Job → its newest run, and how much of what that was asked for names no account."""

    def add(self, run: str, ledger: Ledger) -> None:
        """Add the next run, in order of time."""
        for call, _, outcome in ledger.outcomes():
            self._last[_key(call)] = (run, outcome in GOOD)
        unnamed = 0
        for omit in ledger.lacking():
            # An account that an undo left or could not read. A bad row, or a match that could not read, names none.
            if omit.reason != OmitReason.BAD_ROW and user_problem(omit.user) is None:
                of = (omit.account, omit.region, omit.instance, omit.user, _kind(ledger.run.action))
                self._last[of] = (run, False)
            else:
                unnamed += 1
        if ledger.run.parent is None:  # a rerun and an undo cannot repeat what is no call
            self._unnamed[ledger.run.job.name] = (run, unnamed)

    def unnamed_of(self, run: str) -> int:
        """Return how many rows and matches of a run named no account; 0 if a newer run of its job read them again."""
        return next((count for of, count in self._unnamed.values() if of == run), 0)

    def of(self, run: str, ledger: Ledger) -> list[tuple[Call, Entry, Outcome]]:
        """Return what is open and has this run as its last one, in the order of its plan."""
        return [
            each
            for each in (*ledger.outcomes(), *ledger.shortfall())
            if self._last.get(_key(each[0])) == (run, False) and each[2] not in GOOD
        ]

    def by_run(self) -> Counter[str]:
        """Return the number of open calls by the last run that has them; each account counts once."""
        return Counter(run for run, is_good in self._last.values() if not is_good)


def _key(call: Call) -> tuple[str, ...]:
    return (call.account, call.region, call.instance, call.user, _kind(call.action))


def _kind(action: str) -> str:
    """Return the same for an action and its inverse: of a lock and an unlock of one account the later one counts."""
    row = ACTIONS.get(action)
    return min(action, row.inverse) if row is not None and row.inverse is not None else action


def is_whole(family: Iterable[Ledger]) -> bool:
    """Return whether a run and the runs that it repeats, oldest first, together have everything as asked.

    A rerun of failed calls alone ends well once those calls are done. The job is done only if all other calls are done,
    too; a target that never became a call is in no rerun.
    """
    whole = merged(list(family))
    return not whole.lacking() and all(outcome in GOOD for _, _, outcome in whole.outcomes())
