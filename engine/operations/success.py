"""Find when a job last succeeded, from journals alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import AcctopsError, Reason
from engine.journal.protocols import AHEAD_S
from engine.report.history import is_whole

if TYPE_CHECKING:
    from engine.journal.protocols import RunHead, Runs


def runs_named(store: Runs, job: str) -> list[RunHead]:
    """Return the runs of the job of this name, newest first."""
    return [head for head in store.heads() if head.job == job]


def is_to_come(head: RunHead, now: float) -> bool:
    """Whether a run says it ended later than now: the clock was wrong then or is now, so the run proves nothing."""
    return head.ended_at > now + AHEAD_S


def last_good(store: Runs, runs: list[RunHead], now: float) -> RunHead | None:
    """Return the last run that ended with exit 0 by `now`. A rerun counts if, with the runs it repeats, all is done."""
    ended = [
        head
        for head in runs
        if not head.live and head.end is not None and head.end.exit == Reason.OK and not is_to_come(head, now)
    ]
    for head in sorted(ended, key=lambda head: head.ended_at, reverse=True):
        if is_good(store, head, runs):
            return head
    return None


def is_good(store: Runs, head: RunHead, runs: list[RunHead]) -> bool:
    """Whether a run that ended with exit 0 leaves nothing of its job open; `runs` are all runs of the job."""
    assert head.run is not None
    if head.run.parent is None:
        return True
    links = ((each.run_id, each.run.parent) for each in runs if each.run is not None)
    parents: dict[str, str] = {run: parent.run for run, parent in links if parent is not None}
    first = first_of(head.run_id, parents)
    family = [each for each in runs if first_of(each.run_id, parents) == first and each.started_at <= head.started_at]
    try:
        return is_whole(store.replay(each.run_id).ledger for each in reversed(family))
    except AcctopsError:  # a run that it repeats cannot be read, so it proves nothing
        return False


def first_of(run: str, parents: dict[str, str]) -> str:
    """Return the run that a rerun repeats, however many reruns lie between; `run` itself if it repeats none."""
    path = {run: 0}
    while run in parents:
        run = parents[run]
        if run in path:  # no run can have written that: all that lead into the circle are one family
            return min(list(path)[path[run] :])
        path[run] = len(path)
    return run
