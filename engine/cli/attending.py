"""What stands beside a run: who is told of it, and what is measured of it.

Nothing here may fail, stop or delay a run. The notice of a beginning goes out while calls are sent already, that of an
end once the `end` is on disk; who gave `--yes` is told, too, of a run that came to nothing before it existed. What does
not arrive, and metrics that cannot be written, are noted in the journal (`notice_failed`, `metrics_failed`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from engine.cli.earlier import job_place
from engine.cli.loops import run_loop
from engine.cli.measuring import Measuring
from engine.cli.options import Options, is_own, operator
from engine.cli.talk import remark, say, warn
from engine.cloud.proxy import way_out
from engine.errors import AcctopsError, Exit, JournalWriteError
from engine.inputs.files import STREAM_NAME, homes, is_stream, load_job
from engine.inputs.jobfile.parse import default_name
from engine.journal import records

if TYPE_CHECKING:
    from types import TracebackType

    from engine.inputs.job import Job, NotifySpec
    from engine.inputs.settings import Settings
    from engine.journal.ledger import Ledger
    from engine.journal.store import RunStore
    from engine.journal.writer import Journal

_PATIENCE_S = 2.0
"""After so long a person is told what is still waited for."""


class Attendance:
    """Beside one session of a run."""

    def __init__(
        self, settings: Settings, ledger: Ledger, journal: Journal, store: RunStore, *, flags: str, options: Options
    ) -> None:
        """`flags` are those an exact command needs to find the run. Nobody is told of a simulated run."""
        assert ledger.run is not None
        self._spec = settings.notify if not ledger.run.simulated else None
        self._way_out = settings.way_out
        self._ledger = ledger
        self._journal = journal
        self._store = store
        self._flags = flags
        self._quiet = options.quiet
        self._clock = options.clock
        self._note: Callable[[str, dict[str, object]], None] | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._metrics = Measuring(settings, ledger, store, self._trouble, clock=options.clock)

    @contextlib.asynccontextmanager
    async def during(self, note: Callable[[str, dict[str, object]], None]) -> AsyncIterator[None]:
        """While the session works; `note` writes a note into its journal."""
        self._note = note
        if self._spec is not None and self._spec.wants("start"):
            self._beginning = asyncio.create_task(self._tell(self._spec, "start"))
        measuring = asyncio.create_task(self._metrics.keep())
        try:
            yield
        except BaseException:
            if self._beginning is not None:
                self._beginning.cancel()
            raise
        finally:
            measuring.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await measuring

    async def after(self, code: Exit, stopped: records.Stopped | None) -> None:
        """Once the session's `end` is on disk. Takes as long as a notice may; a cancellation ends it sooner."""
        event = _event(code)
        end = self._ledger.end  # its word, if there is one: a signal since then stopped nothing
        waited = asyncio.get_running_loop().call_later(_PATIENCE_S, self._say_what_is_waited_for)
        ways = [self._metrics.last(code)]
        if self._spec is not None and self._spec.wants(event):
            ways.append(self._tell(self._spec, event, code, end.stopped if end is not None else stopped))
        try:
            await asyncio.gather(*ways, *([self._beginning] if self._beginning is not None else []))
        except asyncio.CancelledError:
            for way in self._spec.ways if self._spec is not None else ():
                self._failed(event, way, "given up, by a signal")
        finally:
            waited.cancel()
        if self._note is not None and self._journal.broken is None:
            with contextlib.suppress(JournalWriteError):  # said already, or nothing but a failed notice is lost
                await self._journal.durable()

    def after_a_fall(self, code: Exit, stopped: records.Stopped | None) -> None:
        """Where the session itself fell, and its journal is closed: outside its loop."""
        self._note = self._beginning = None
        run_loop(self.after(code, stopped))

    async def _tell(
        self, spec: NotifySpec, event: str, code: Exit | None = None, stopped: records.Stopped | None = None
    ) -> None:
        from engine.cli.kin import way_of  # late, as most runs tell nobody, and none before it sends
        from engine.report.notices import notice
        from engine.report.notify import deliver

        document = notice(
            event,
            self._ledger,
            at=records.rfc3339(self._clock()),
            journal=str(self._journal.path),
            head=self._journal.durable_head,
            exit_code=code,
            stopped=stopped,
            way=way_of(self._store, self._ledger, flags=self._flags) if code is not None else None,
        )
        for undelivered in await deliver(spec, document, os.environ, way=self._way_out):
            self._failed(event, undelivered.to, undelivered.why)

    def _failed(self, event: str, to: str, why: str) -> None:
        if (note := self._note) is not None:
            note("notice_failed", {"event": event, "to": to, "why": why})
        remark(f"warning: nobody was told of the {event} by {to}: {why}", quiet=self._quiet)

    def _trouble(self, why: str) -> None:
        """Of the metrics; told once."""
        if (note := self._note) is not None:
            note("metrics_failed", {"why": why})
        remark(f"warning: metrics: {why}", quiet=self._quiet)

    def _say_what_is_waited_for(self) -> None:
        if not self._quiet:
            say("the run is over, and on disk; waiting some seconds for its notice; Ctrl-C is safe")


def _event(code: Exit) -> str:
    return "finish" if code is Exit.OK else "failure"


class Unbegun:
    """Tells of a run that nobody watched and that came to nothing before it existed: a context around its planning.

    Whoever gave `--yes` may not be there. Who was asked, or simulates, reads the refusal himself.
    """

    def __init__(self, options: Options, path: str, job: Job | None = None) -> None:
        """`path` is the job's file, as named."""
        self._options = options
        self._path = path
        self.job = job
        """Set as soon as it is known."""

    def __enter__(self) -> Unbegun:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(error, Exception) or not self._options.yes or self._options.simulate:
            return
        known = isinstance(error, AcctopsError)
        words = str(error) if known else f"a defect of acctops: {type(error).__name__}"
        code = error.exit if isinstance(error, AcctopsError) else Exit.STOPPED
        what = f"{self.job.action if self.job is not None else 'its run'} was not begun, exit {int(code)}"
        _tell_of_no_run(self._options, self._path, self.job, "failure", what, words, code)


def tell_overdue(options: Options, path: str, words: str) -> None:
    """Tell of a job (its file, or its name) that is overdue, as `words` say: that is a failure, too."""
    job = None
    with contextlib.suppress(AcctopsError):  # it may be gone, or be a name
        job = load_job(path) if not is_stream(path) else None
    _tell_of_no_run(options, path, job, "overdue", "is overdue", words, Exit.INCOMPLETE)


def _tell_of_no_run(
    options: Options, path: str, job: Job | None, event: str, what: str, words: str, code: Exit
) -> None:
    try:
        settings = options.settings(job, *homes(path))
        spec, way = settings.notify, settings.way_out
    except AcctopsError:  # who is to be told, and how, stands in what cannot be read, or must not be believed
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
        int(code),
        at=records.rfc3339(options.clock()),
        operator=operator(),
        host=os.uname().nodename,
        action=job.action if job is not None else None,
        reason=job.reason if job is not None else None,
        ticket=job.ticket if job is not None else None,
    )
    # A notice is never worth the news itself: Ctrl-C ends the wait, and the words are shown.
    with contextlib.suppress(KeyboardInterrupt):
        for undelivered in run_loop(deliver(spec, document, os.environ, way=way)):
            warn(f"warning: nobody was told of the {event} by {undelivered.to}: {undelivered.why}")


def _named(path: str) -> records.JobRef:
    """A job that cannot be read, or is but a name."""
    return records.JobRef(STREAM_NAME if is_stream(path) else default_name(path), path, "")
