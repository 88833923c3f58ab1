"""What earlier runs of a job mean for the next one: which calls wait in line, and what a crash left unfinished."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import AcctopsError, BusyError, Reason
from engine.inputs.files import STDIN_NAME, recorded
from engine.journal.finding import to_come_words
from engine.journal.live import same_job_words
from engine.journal.records import BEGUN, PLANNED, RED, SOAKING
from engine.operations.events import Tell, Warned
from engine.operations.stores import store_of
from engine.operations.windows import is_closed
from engine.planning.turns import line_after

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.inputs.job import Job
    from engine.inputs.settings import Settings
    from engine.journal.ledger import Ledger, Link
    from engine.journal.protocols import RunHead, Runs
    from engine.model import CallId


def reads_stdin(job: Job) -> bool:
    """Whether the job, or a list of it, came on standard input."""
    return STDIN_NAME in (job.path, *job.sources)


def place_of(path: str) -> str:
    """Return a file's absolute path, however it is typed: a job run as ../job.yaml is asked for from elsewhere, too."""
    as_typed = Path(path).absolute()
    plain = Path(os.path.normpath(as_typed))
    try:
        same = plain.samefile(as_typed)
    except OSError:
        same = True  # the file is gone, or the path is only a name
    return str(plain if same else as_typed)  # `..` behind a link leads elsewhere


def job_place(job: Job) -> str:
    """Return the job's file for the journal, marked if a list came on standard input: it cannot be read again."""
    if not job.is_file:
        return recorded(job.path)
    place = recorded(place_of(job.path))
    return f"{place} and {STDIN_NAME}" if reads_stdin(job) else place


def runs_of(store: Runs, job: Job, now: float, tell: Tell) -> Iterator[RunHead]:
    """Yield the runs of a job, by its file or its content, newest first, without reruns and unreadable journals.

    A run that says it began later than `now` is left out, too, and told of, unless it is live.
    """
    place = job_place(job) if job.is_file else None
    for head in store.heads():
        if (
            head.run is not None
            and head.run.parent is None
            and (head.run.job.digest == job.digest or head.run.job.path == place)
        ):
            if head.is_to_come(now) and not head.live:
                tell(Warned(to_come_words((head.run_id,))))
                continue
            yield head


class Take(Struct, frozen=True, kw_only=True):
    """How much of a job one run takes (`limits.take`)."""

    most: int
    where: str
    """The place of the limit."""
    store: Runs
    job: Job
    now: float
    tell: Tell

    def line(self) -> tuple[CallId, ...]:
        """Return the calls that the last readable run of the job left waiting, in their order."""
        for head in runs_of(self.store, self.job, self.now, self.tell):
            try:
                return line_after(self.store.replay(head.run_id).ledger)
            except AcctopsError:  # unreadable: the line of the run before it counts
                continue
        return ()


def take_of(job: Job, settings: Settings, *, simulated: bool, now: float, tell: Tell) -> Take | None:
    """Return the job's `limits.take` with what finds its line; None if the job has none."""
    if job.take is None:
        return None
    store = store_of(settings, simulated=simulated)
    return Take(most=job.take, where=str(job.places["take"]), store=store, job=job, now=now, tell=tell)


class Unfinished(Struct, frozen=True, kw_only=True):
    """The last run of a job, which was cut off, and which no run continued."""

    run_id: str
    ledger: Ledger

    @property
    def open_calls(self) -> int:
        """How many calls are not settled."""
        return sum(not entry.settled for _, entry, _ in self.ledger.outcomes())


def left_to_a_person(store: Runs, job: Job, now: float, tell: Tell) -> Unfinished | None:
    """Return the last run of a job, if it ended paused or with a red wave, and nobody has gone on with it since."""
    head = next(runs_of(store, job, now, tell), None)
    if head is None or head.live or (head.end is not None and head.end.exit == Reason.OK):
        return None
    try:
        ledger = store.replay(head.run_id).ledger
    except AcctopsError:
        return None
    return Unfinished(run_id=head.run_id, ledger=ledger) if only_a_person(store, ledger) is not None else None


def only_a_person(store: Runs | None, ledger: Ledger, flags: str = "") -> str | None:
    """Return why only a person who names a run goes on with it, and how; None if that is not so.

    It ended paused, or with a red wave, and since then no run has taken up anything of it, or taken it back to the end.
    """
    run, pause = ledger.run.run, ledger.pause
    red = next((line for line in ledger.waves.values() if line.n and line.state == RED), None)
    open_calls = sum(not entry.settled for _, entry, _ in ledger.outcomes())
    if pause is not None and open_calls:
        since, what = pause.since, f"was paused by {pause.by} at {pause.since[:19]}Z, with {open_calls:,} calls open"
    elif red is not None:
        since, what = red.at, f"ended with a red gate, at wave {red.n} ({red.at[:19]}Z)"
    else:
        return None
    later = [link for link in _followers(store, ledger) if link.at >= since]
    if later:
        if store is None or not later[-1].is_undo or (way := _rest_of(store, later[-1].run, flags)) is None:
            return None
        return f"{what}; its undo {later[-1].run} is not finished; nothing was sent; first: {way}"
    undo = f"; or take the wave back: acctops undo {run} --wave {red.n}{flags}" if red is not None else ""
    return f"{what}; nothing was sent; only this goes on with it: acctops resume {run}{flags}{undo}"


def _followers(store: Runs | None, ledger: Ledger) -> list[Link]:
    """Return the reruns and undos of a run that exist, in the order in which they were begun."""
    return [
        link for link in ledger.links if (link.is_rerun or link.is_undo) and store is not None and store.has(link.run)
    ]


def _rest_of(store: Runs, undo: str, flags: str) -> str | None:
    """Return the command that finishes an undo; None if nothing of it is left, or if nobody can know."""
    from engine.operations.family import way_of  # here: few runs are undone

    try:
        ledger = store.replay(undo).ledger
        if ledger.end is None:
            return f"acctops resume {undo}{flags}"
        return way_of(store, ledger, flags=flags).command
    except AcctopsError:  # whoever undoes again is told which journal stands in the way
        return None


def _live_words(store: Runs, run_id: str) -> str:
    with suppress(AcctopsError):
        pause = store.replay(run_id).ledger.pause
        if pause is not None:
            return (
                f"the same job is being run already, as {run_id}, which {pause.by} paused at {pause.since[:19]}Z; it "
                f"waits until somebody lifts that: acctops resume {run_id}, or stops it: acctops stop {run_id}"
            )
    return same_job_words(run_id)


def _is_cut_by_window(head: RunHead) -> bool:
    stopped = head.end.stopped if head.end is not None else None
    return stopped is not None and is_closed(stopped.why)


def _may_go_on(ledger: Ledger) -> bool:
    """Return whether the next opening of its window goes on with a run: a new one would begin its waves anew, or would
    not be the one that was approved."""
    wave = ledger.wave
    is_open = any(not entry.settled for _, entry, _ in ledger.outcomes())
    return wave.state in (PLANNED, BEGUN, SOAKING) if wave is not None else bool(ledger.approved) and is_open


def unfinished(store: Runs, job: Job, now: float, tell: Tell) -> Unfinished | None:
    """Return the cut-off last run of a job; None if it ended in order or was continued, BusyError if it is live.

    A run in waves, or one that was approved, is cut off by the end of its window, too.

    Two runs that start at once are told apart later, by their claims. This check spares the reading and the question.
    """
    head = next(runs_of(store, job, now, tell), None)
    if head is not None and head.live:
        raise BusyError(_live_words(store, head.run_id))
    if head is None or (head.end is not None and not _is_cut_by_window(head)):
        return None
    newer = (each for each in store.heads() if each.run_id > head.run_id)
    if any(each.problem is not None for each in newer):
        return None  # that may be the job's last run: a new run reads the accounts in any case
    ledger = store.replay(head.run_id).ledger
    began_at = ledger.sessions[-1].at if ledger.sessions else ""
    later = (link for link in _followers(store, ledger) if link.is_undo or link.at >= began_at)
    if (ledger.end is not None and not _may_go_on(ledger)) or any(later):
        return None
    return Unfinished(run_id=head.run_id, ledger=ledger)
