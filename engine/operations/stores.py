"""Where the runs of a command are: the stores of its state directory, and the run that somebody names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal.protocols import RunHead, RunRef, stamp
from engine.journal.store import find_run, runs_at, to_come_words
from engine.operations.events import Warned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.inputs.settings import Settings
    from engine.journal.protocols import Runs
    from engine.operations.terms import Terms


def store_at(state_dir: Path, *, simulated: bool) -> Runs:
    """The runs of a state directory of which nothing more is known."""
    return runs_at(state_dir, simulated=simulated)


def store_of(settings: Settings, *, simulated: bool) -> Runs:
    """The runs of the state directory that are simulated, or those that are not."""
    return runs_at(settings.state_dir, simulated=simulated, group=settings.state_group, trust=settings.trust)


def trusted_store(settings: Settings, *, simulated: bool) -> Runs:
    """The same, for a new run; ConfigError if somebody who is not trusted could have put runs there."""
    store = store_of(settings, simulated=simulated)
    store.check_place()
    return store


def runs_in(terms: Terms, *, simulated: bool, since: float | None = None) -> Iterator[RunHead]:
    """The runs of the state directory, newest first; of those that cannot be read the time in their name counts.

    `since` (UNIX time): only what began or ended since then, or goes on.
    """
    for head in store_of(terms.settings(None), simulated=simulated).heads():
        if (
            since is None
            or head.live
            or (head.run_id >= stamp(since) if head.problem is not None else head.ended_at >= since)
        ):
            yield head


def find(terms: Terms, run: str) -> RunRef:
    """The run that somebody names, simulated or not; UsageError if there is none, or more than one."""
    settings = terms.settings(None)
    ref = find_run(settings.state_dir, run, group=settings.state_group, trust=settings.trust, now=terms.clock())
    if ref.passed_over:
        terms.tell(Warned(to_come_words(ref.passed_over), always=True))
    return ref


def flags_of(terms: Terms, ref: RunRef) -> str:
    """The flags that an exact command needs to find a run, with a space before them; none for a lone file."""
    return terms.repeat(ref.store.state_dir) if ref.store is not None else ""
