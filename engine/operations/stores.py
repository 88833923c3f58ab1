"""Find the runs of a command: the stores of its state directory, and the run that somebody names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import UsageError
from engine.journal.finding import to_come_words
from engine.journal.protocols import RunHead, RunRef, stamp
from engine.journal.store import find_run, runs_at
from engine.operations.events import Warned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.inputs.settings import Settings
    from engine.journal.protocols import Runs
    from engine.journal.records import Run
    from engine.operations.terms import Terms


def store_at(state_dir: Path, *, simulated: bool) -> Runs:
    """Return the runs of a state directory of which nothing more is known."""
    return runs_at(state_dir, simulated=simulated)


def store_of(settings: Settings, *, simulated: bool) -> Runs:
    """Return the runs of the state directory that are simulated, or those that are not."""
    return runs_at(
        settings.state_dir,
        simulated=simulated,
        group=settings.state_group,
        trust=settings.trust,
        database=settings.database,
    )


def trusted_store(settings: Settings, *, simulated: bool) -> Runs:
    """Return the store for a new run; ConfigError if an untrusted user could have put runs there."""
    store = store_of(settings, simulated=simulated)
    store.check_place()
    return store


def runs_in(terms: Terms, *, simulated: bool, since: float | None = None, watches: bool = False) -> Iterator[RunHead]:
    """Yield the runs of the state directory, newest first; for one that cannot be read the time in its name counts.

    `since` (UNIX time): only runs that began or ended since then, or are live.
    """
    for head in store_of(terms.settings(None), simulated=simulated).heads(watches=watches):
        if (
            since is None
            or head.live
            or (head.run_id >= stamp(since) if head.problem is not None else head.ended_at >= since)
        ):
            yield head


def find(terms: Terms, run: str) -> RunRef:
    """Return the run that somebody names, simulated or not; UsageError if there is none, or more than one."""
    settings = terms.settings(None)
    ref = find_run(
        settings.state_dir,
        run,
        group=settings.state_group,
        trust=settings.trust,
        now=terms.clock(),
        database=settings.database,
    )
    if ref.passed_over:
        terms.tell(Warned(to_come_words(ref.passed_over), always=True))
    return ref


def refuse_watch(terms: Terms, ref: RunRef, run: Run, verb: str) -> None:
    """Raise UsageError for a watch that somebody wants to go on with: it only reads. The run it watches is named."""
    if run.watched is not None:
        raise UsageError(
            f"run {run.run} is the watch of run {run.watched}: it only reads, and there is nothing in it to {verb}; "
            f"name the run itself: acctops {verb} {run.watched}{flags_of(terms, ref)}"
        )


def older_copy(store: Runs | None, run_id: str, *, lines: int, head: str) -> str | None:
    """Return words if a journal is an older copy of itself: the list of ends knows more lines of it. Else None."""
    listed = store.last_listed(run_id) if store is not None else None
    if listed is None or listed.lines < lines or (listed.lines == lines and listed.head == head):
        return None
    what = f"had {listed.lines:,} lines when it ended at {listed.at}" if listed.lines > lines else "had another end"
    return (
        f"run {run_id}: its journal {what}, by heads.jsonl, and has {lines:,} now: it is an older copy, or was cut, so "
        f"what was done later is not known here; look: acctops journal verify {run_id}"
    )


def flags_of(terms: Terms, ref: RunRef) -> str:
    """Return the flags that an exact command needs to find a run, with a space before them; empty for a lone file."""
    return terms.repeat(ref.store) if ref.store is not None else ""
