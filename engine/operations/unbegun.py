"""Send notices of a run that failed before it existed, and of a job that is overdue.

A user who approved beforehand (`--yes`) may not be there to read the refusal.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from engine.cloud.proxy import way_out
from engine.errors import AcctopsError, Reason
from engine.inputs.files import STREAM_NAME, homes, is_stream, load_job
from engine.inputs.jobfile.parse import default_name
from engine.journal import records
from engine.operations.earlier import job_place
from engine.operations.events import Warned
from engine.operations.terms import Terms, is_own, operator

if TYPE_CHECKING:
    from types import TracebackType

    from engine.inputs.job import Job
    from engine.operations.session import Watch


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
    if spec is None or not spec.wants("failure"):
        return
    from engine.report.notices import bare_notice
    from engine.report.notify import deliver

    ref = records.JobRef(job.name, job_place(job), job.digest) if job is not None else _named(path)
    document = bare_notice(
        event,
        ref,
        f"{ref.name}: {what}: {words}",
        words,
        int(reason),
        at=records.rfc3339(terms.clock()),
        operator=operator(),
        host=os.uname().nodename,
        action=job.action if job is not None else None,
        reason=job.reason if job is not None else None,
        ticket=job.ticket if job is not None else None,
    )
    for undelivered in await deliver(spec, document, os.environ, way=way):
        words = f"nobody was told of the {event} by {undelivered.to}: {undelivered.why}"
        terms.tell(Warned(words, always=True))


def _named(path: str) -> records.JobRef:
    """Return the reference to a job that cannot be read, or is only a name."""
    return records.JobRef(STREAM_NAME if is_stream(path) else default_name(path), path, "")
