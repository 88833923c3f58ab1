"""When a share of a run's accounts was as asked, and is proven to be, in seconds from its beginning. Pure.

A run begins when it is confirmed. An account counts only if a reading proves it, and then from the moment at which the
API accepted its call: it was shut by then, and how soon acctops comes to read it says nothing of that. If the answer
was lost, or a reading in between denied the change, it counts from the reading that proved it. An account that was so
before counts from the beginning. A target that failed, is unknown, was dropped, or could not become a call is never
contained, so a run with one of these has no time for 100 %. Time in which somebody had paused the run does not count;
the time between two sessions does, unless the earlier one ended in a pause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.api.actions import ACTIONS
from engine.journal.records import unix_seconds
from engine.model import Outcome, Proof
from engine.report.spans import duration

if TYPE_CHECKING:
    from engine.journal.ledger import Entry, Ledger

SHARES = (50, 95, 100)
"""The shares that are told, in percent."""


class Containment:
    """The times from which on the accounts of a run were as asked, each proven by a reading."""

    def __init__(self, ledger: Ledger) -> None:
        """`ledger`: of the run, or of a run and its reruns, which then count as its sessions."""
        self.total = 0
        """Targets that were asked for."""
        self.seconds: list[float] = []
        """For each account that is contained, after how many seconds it was; the earliest first."""
        self.moments: list[float] = []
        """The UNIX times of the same, by the clock: pauses are not left out."""
        if ledger.run.watched is not None:  # a watch changes nothing
            return
        self.total = len(ledger.calls) + len(ledger.lacking())
        begun = unix_seconds(ledger.confirmed.at if ledger.confirmed is not None else ledger.run.at)
        pauses = [
            (unix_seconds(since), unix_seconds(until if until is not None else ledger.last_at))
            for since, until in ledger.pauses
        ]
        for _, entry, outcome in ledger.outcomes():
            if entry.proof not in (Proof.READ, Proof.BEFORE):
                continue
            if outcome is Outcome.ALREADY:
                self.seconds.append(0.0)
                self.moments.append(begun)
            elif outcome is Outcome.CHANGED and (at := _contained_at(entry)) is not None:
                end = unix_seconds(at)
                paused = sum(max(0.0, min(until, end) - max(since, begun)) for since, until in pauses)
                self.seconds.append(max(0.0, end - begun - paused))
                self.moments.append(max(begun, end))
        self.seconds.sort()
        self.moments.sort()

    def after(self, share: int) -> float | None:
        """Return after how many seconds so many percent were contained; None if they are not."""
        needed = -(-self.total * share // 100)
        return self.seconds[needed - 1] if 0 < needed <= len(self.seconds) else None


def _contained_at(entry: Entry) -> str | None:
    """Return from when on a changed account was as asked, as far as anybody knows."""
    if entry.accepted_at is not None and (entry.denied_at is None or entry.denied_at < entry.accepted_at):
        return entry.accepted_at
    if entry.verified is not None and entry.verified.agrees:
        return entry.verified.at or entry.settled_at
    return entry.settled_at


def contained(ledger: Ledger) -> dict[str, float | None]:
    """Return `contained` of a document: the seconds by the share in percent, None where that is not reached."""
    found = Containment(ledger)
    times = {share: found.after(share) for share in SHARES}
    return {str(share): round(after, 3) if after is not None else None for share, after in times.items()}


def contained_line(ledger: Ledger) -> str:
    """Return when the accounts of a lockdown were contained, in words; empty for an action that is no lockdown."""
    if ledger.run.action not in ACTIONS or not ACTIONS[ledger.run.action].is_incident:
        return ""
    found = Containment(ledger)
    times = ((share, found.after(share)) for share in SHARES)
    words = [
        f"{'all' if share == 100 else f'{share} %'} after {duration(after)}"
        for share, after in times
        if after is not None
    ]
    return f"contained: {', '.join(words)}" if words else ""
