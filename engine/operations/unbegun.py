"""Send notices of a run that failed before it existed, and of a job or a `tend` that is overdue.

A user who approved beforehand (`--yes`) may not be there to read the refusal.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from engine.cloud.proxy import way_out
from engine.errors import AcctopsError, ConfigError, Reason
from engine.inputs.files import STREAM_NAME, homes, is_stream, load_job
from engine.inputs.jobfile.parse import default_name
from engine.journal import records
from engine.operations.earlier import job_place
from engine.operations.events import Warned
from engine.operations.stores import store_of
from engine.operations.terms import Terms, is_own, operator

if TYPE_CHECKING:
    from types import TracebackType

    from engine.cloud.proxy import WayOut
    from engine.inputs.job import Job, NotifySpec
    from engine.inputs.settings import Settings
    from engine.operations.overdue import TendLateness
    from engine.operations.session import Watch

_TOLD = "tended.told"
"""Name of the mark that says when it was last told that `tend` is overdue."""
_AGAIN_S = 86400.0
"""Seconds after which it is told again, if it still is."""


class Unbegun:
    """A context around the planning of a run with `--yes`: it sends a notice if the run fails before it exists.

    A user who is asked, or who simulates, reads the refusal without a notice.
    """

    def __init__(self, terms: Terms, path: str, watch: Watch, job: Job | None = None) -> None:
        """`path` is the job's file, as named; `watch` waits for the notice as long as the user wants to."""
        self._terms = terms
        self._path = path
        self._watch = watch
        self.job = job
        """The job, set as soon as it is known."""

    async def __aenter__(self) -> Unbegun:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(error, Exception) or not self._terms.yes or self._terms.simulate:
            return
        known = isinstance(error, AcctopsError)
        words = str(error) if known else f"a defect of acctops: {type(error).__name__}"
        reason = error.reason if isinstance(error, AcctopsError) else Reason.STOPPED
        what = f"{self.job.action if self.job is not None else 'its run'} was not begun, exit {int(reason)}"
        await self._watch.last(_tell_of_no_run(self._terms, self._path, self.job, "failure", what, words, reason))


async def tell_overdue(terms: Terms, path: str, words: str, watch: Watch) -> None:
    """Send a notice of a job (its file or its name) that is overdue, as `words` say: that is a failure, too."""
    job = None
    with contextlib.suppress(AcctopsError):  # it may be gone, or be a name
        job = load_job(path) if not is_stream(path) else None
    await watch.last(_tell_of_no_run(terms, path, job, "overdue", "is overdue", words, Reason.INCOMPLETE))


async def _tell_of_no_run(
    terms: Terms, path: str, job: Job | None, event: str, what: str, words: str, reason: Reason
) -> None:
    try:
        settings = terms.settings(job, *homes(path))
        spec, way = settings.notify, settings.way_out
    except AcctopsError:  # job or config, which say who is told and how, cannot be read or believed
        spec, way = job.notify if job is not None and is_own(job) else None, way_out(os.environ)
    ref = records.JobRef(job.name, job_place(job), job.digest) if job is not None else _named(path)
    await _deliver(terms, spec, way, event, ref, f"{ref.name}: {what}: {words}", words, reason, job)


async def _deliver(
    terms: Terms,
    spec: NotifySpec | None,
    way: WayOut,
    event: str,
    ref: records.JobRef,
    text: str,
    words: str,
    reason: Reason,
    job: Job | None = None,
) -> bool:
    """Send a notice to those who want failures; return whether it arrived anywhere."""
    if spec is None or not spec.wants("failure"):
        return False
    from engine.report.notices import bare_notice
    from engine.report.notify import deliver

    document = bare_notice(
        event,
        ref,
        text,
        words,
        int(reason),
        at=records.rfc3339(terms.clock()),
        operator=operator(),
        host=os.uname().nodename,
        action=job.action if job is not None else None,
        reason=job.reason if job is not None else None,
        ticket=job.ticket if job is not None else None,
    )
    failed = await deliver(spec, document, os.environ, way=way)
    for undelivered in failed:
        terms.tell(Warned(f"nobody was told of the {event} by {undelivered.to}: {undelivered.why}", always=True))
    return len(failed) < len(spec.ways)


async def tell_tend_overdue(terms: Terms, late: TendLateness, watch: Watch) -> None:
    """Send a notice that `tend` is overdue: once, and again every day for as long as it is.

    A timer looks every quarter of an hour, and a hundred notices a day would be read like none.
    """
    settings = terms.settings(None)
    if not _was_told(settings, late, terms.clock()):
        await watch.last(_tell_of_tend(terms, settings, late))


def _was_told(settings: Settings, late: TendLateness, now: float) -> bool:
    """Whether it was told since the last good `tend`, and less than a day ago."""
    try:
        told_at = records.unix_seconds(store_of(settings, simulated=False).mark(_TOLD))
    except (ConfigError, ValueError, OverflowError):
        return False
    good_at = records.unix_seconds(late.good_at) if late.good_at is not None else told_at
    return good_at <= told_at and 0 <= now - told_at < _AGAIN_S


async def _tell_of_tend(terms: Terms, settings: Settings, late: TendLateness) -> None:
    ref = records.JobRef("tend", str(late.state_dir), "")
    text = f"tend of {late.state_dir} on {os.uname().nodename} is overdue: {late.words}"
    arrived = await _deliver(terms, settings.notify, settings.way_out, "overdue", ref, text, late.words, late.reason)
    if arrived:
        _note_told(terms, settings)


def _note_told(terms: Terms, settings: Settings) -> None:
    # A disk that is not mounted gets no directory under its place.
    if settings.database is None and not os.path.lexists(settings.state_dir):
        return
    try:
        store_of(settings, simulated=False).set_mark(_TOLD, records.rfc3339(terms.clock()))
    except ConfigError as error:
        terms.tell(Warned(f"{error}; the next look tells of it again"))


def _named(path: str) -> records.JobRef:
    """Return the reference to a job that cannot be read, or is only a name."""
    return records.JobRef(STREAM_NAME if is_stream(path) else default_name(path), path, "")
