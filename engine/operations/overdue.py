"""Find whether a job is overdue: when its last good run was, from journals alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from engine.api.names import did_you_mean
from engine.errors import Reason
from engine.inputs.files import recorded
from engine.journal.protocols import RunHead, Runs
from engine.journal.store import to_come_words
from engine.operations.earlier import place_of
from engine.operations.stores import store_of
from engine.operations.success import is_to_come, last_good
from engine.operations.terms import Terms
from engine.report.spans import duration

_NAMED = 5


class Lateness(Struct, frozen=True, kw_only=True):
    """How long ago a job was done as asked."""

    job: str
    """Its file, or its name, as given."""
    every_s: float
    state_dir: Path
    good: RunHead | None
    """The last run of the job that counts as good: it ended with exit 0."""
    age_s: float | None
    """Seconds since the good run ended."""
    last: RunHead | None
    """The last run of the job, however it ended."""
    words: str

    @property
    def reason(self) -> Reason:
        """INCOMPLETE if the job is overdue, else OK."""
        return Reason.OK if self.age_s is not None and self.age_s <= self.every_s else Reason.INCOMPLETE


def overdue(terms: Terms, job: str, every_s: float) -> Lateness:
    """Return whether a job (its file or its name) was done within the last `every_s` seconds."""
    now, store = terms.clock(), store_of(terms.settings(None), simulated=False)
    heads = store.list()
    runs = [head for head in heads if _is_of(head, job)]
    strange = store.strangers(head.run_id for head in runs)
    runs = [head for head in runs if head.run_id not in strange]
    good = last_good(store, runs, now)
    age_s = now - good.ended_at if good is not None else None
    last = next((head for head in runs if head.live or not head.is_to_come(now)), None)
    words = _words(store, job, every_s, good, age_s, last, heads, terms.repeat(store.state_dir))
    if age_s is None or age_s > every_s:
        words += _doubts(heads, runs, now)
        words += "".join(f"\nrun {run} does not count: it is not believed, as {why}" for run, why in strange.items())
    return Lateness(job=job, every_s=every_s, state_dir=store.state_dir, good=good, age_s=age_s, last=last, words=words)


def _is_of(head: RunHead, job: str) -> bool:
    """Whether a run is of the job that the operator names: its file, or its name."""
    if head.run is None:
        return False
    place = recorded(place_of(job))
    return head.job == recorded(job) or head.run.job.path == place or head.run.job.path.startswith(f"{place} and ")


def _doubts(heads: Sequence[RunHead], runs: Sequence[RunHead], now: float) -> str:
    """Return in words what may hide a good run: journals that cannot be read, ends that are still to come."""
    words = "".join(
        f"\nrun {head.run_id} says it ended at {head.end.at[:16]}Z, which is still to come: the clock of this machine "
        "was wrong then, or is now; it does not count"
        for head in runs
        if head.end is not None and not head.live and is_to_come(head, now)
    )
    early = [head.run_id for head in runs if not head.live and head.is_to_come(now)]
    words += f"\n{to_come_words(early)}" if early else ""
    unreadable = [head for head in heads if head.problem is not None]
    if unreadable:
        words += f"\n{len(unreadable):,} cannot be read, and may be of this job: {unreadable[0].problem}"
    return words


def _words(
    store: Runs,
    job: str,
    every_s: float,
    good: RunHead | None,
    age_s: float | None,
    last: RunHead | None,
    heads: Sequence[RunHead],
    flags: str,
) -> str:
    """Return in words whether the job is in time; `flags` are those that an exact command needs."""
    if good is not None and good.end is not None and age_s is not None:
        when = f"{good.run_id} ended with exit 0 at {good.end.at[:16]}Z, {duration(max(0.0, age_s))} ago"
        if age_s <= every_s:
            return f"{job}: in time: run {when}"
        words = f"OVERDUE  {job}: no run ended with exit 0 within {duration(every_s)}; the last good one, {when}"
    else:
        words = f"OVERDUE  {job}: no run of it ever ended with exit 0"
    if last is None:
        names = sorted({head.job for head in heads if head.job})
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        known = f"; jobs here: {', '.join(names[:_NAMED])}{more}" if names else ""
        none = f"no run of {job} in {store.place}{did_you_mean(Path(job).stem, names)}{known}"
        return f"OVERDUE  {job}: {none}" if good is None else f"{words}; {none}"
    if last.live:
        return f"{words}\nrun {last.run_id} is going on: acctops status {last.run_id}{flags}"
    how = f"ended with exit {last.end.exit} at {last.end.at[:16]}Z" if last.end is not None else "was cut off"
    if good is not None and last.run_id == good.run_id:
        return words
    return f"{words}\nthe last run, {last.run_id}, {how}: acctops status {last.run_id}{flags}"
