"""The notices, the metrics, the page and the seal of a run, beside its sending.

Nothing here may fail, stop or delay a run. The notice of a start goes out while calls are being sent. The notice of an
end goes out once the `end` is on disk. The journal notes a notice that was not delivered (`notice_failed`), and metrics
or a page that cannot be written (`metrics_failed`, `page_failed`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from engine.errors import AcctopsError, JournalWriteError, Reason
from engine.journal import records
from engine.operations.events import News, Tell, Warned
from engine.operations.livepage import LivePage
from engine.operations.measuring import Measuring

if TYPE_CHECKING:
    from engine.inputs.job import NotifySpec
    from engine.inputs.settings import Settings
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Journal, Runs
    from engine.operations.sealing import Sealed

_PATIENCE_S = 2.0
"""Seconds after which a person is told that a notice is still waited for."""


class Attendance:
    """The notices and metrics of one session of a run."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        journal: Journal,
        store: Runs,
        *,
        flags: str,
        clock: Callable[[], float],
        tell: Tell,
    ) -> None:
        """`flags` are those that an exact command needs to find the run. A simulated run sends no notice."""
        self._spec = settings.notify if not ledger.run.simulated else None
        self._way_out = settings.way_out
        self._ledger = ledger
        self._journal = journal
        self._store = store
        self._flags = flags
        self._clock = clock
        self._tell_who_started = tell
        self._note: Callable[[str, dict[str, object]], None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        """Notices that are being sent while the session works."""
        self._seal = settings.seal
        self._sealed: Sealed | None = None
        """The line of the list of ends for this session, once it is written."""
        self._metrics = Measuring(settings, ledger, store, self._trouble, clock=clock)
        self._page = LivePage(
            settings, ledger, lambda: journal.durable_head, store, self._no_page, flags=flags, clock=clock
        )

    @contextlib.asynccontextmanager
    async def during(self, note: Callable[[str, dict[str, object]], None]) -> AsyncIterator[None]:
        """Send the notice of the start and keep metrics while the session works; `note` writes into its journal."""
        self._note = note
        self._begin("start")
        if self._ledger.unapproved is not None:
            self._begin("unapproved", always=True)
        beside = [asyncio.create_task(self._metrics.keep()), asyncio.create_task(self._page.keep())]
        try:
            yield
        except BaseException:
            for task in self._under_way:
                task.cancel()
            raise
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    def passed(self, _wave: records.WaveLine) -> None:
        """Send the notice that a wave has passed."""
        self._begin("wave")

    def _begin(self, event: str, *, always: bool = False) -> None:
        """Send a notice while the session works; with `always` whatever `on` says."""
        if self._spec is not None and (always or self._spec.wants(event)):
            task = asyncio.create_task(self._tell(self._spec, event))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def after(self, reason: Reason, stopped: records.Stopped | None) -> None:
        """Send the notice of the end, whose `end` is on disk. Takes as long as a notice may, or until cancelled."""
        event = _event(reason)
        end = self._ledger.end  # it counts, if there is one: a signal after it stopped nothing
        waited = asyncio.get_running_loop().call_later(_PATIENCE_S, self._say_what_is_waited_for)
        try:
            await self._list_end()
            ways = [self._metrics.last(reason), self._page.last(), self._stamp()]
            if self._spec is not None and self._spec.wants(event):
                ways.append(self._tell(self._spec, event, reason, end.stopped if end is not None else stopped))
            await asyncio.gather(*ways, *self._under_way)
        except asyncio.CancelledError:
            for way in self._spec.ways if self._spec is not None else ():
                self._failed(event, way, "given up, by a signal")
        finally:
            waited.cancel()
        if self._note is not None and self._journal.broken is None:
            with contextlib.suppress(JournalWriteError):  # already told, or only the note of a failed notice is lost
                await self._journal.durable()

    async def _list_end(self) -> None:
        """List the `end` of this session, and sign that line. A session that fell has none: its journal is closed."""
        end = self._ledger.end
        if self._note is None or end is None or self._journal.broken is not None:
            return
        from engine.operations.sealing import LATER, list_end  # here: not needed before the first call

        try:
            sealed = self._sealed = await asyncio.to_thread(
                list_end,
                self._store,
                self._ledger.run.run,
                head=self._journal.durable_head,
                lines=self._journal.durable_seq,
                exit_code=end.exit,
                spec=self._seal,
                clock=self._clock,
            )
        except AcctopsError as error:
            self._tell_who_started(Warned(f"the end of the run is not listed: {error}; {LATER}"))
        else:
            if sealed.why is not None:
                self._tell_who_started(Warned(f"the end of the run is listed, and not sealed: {sealed.why}; {LATER}"))

    async def _stamp(self) -> None:
        """Have the line of this session stamped, if an authority is named."""
        if self._sealed is None or self._seal is None or not self._seal.tsa or self._ledger.run.simulated:
            return  # a rehearsal asks nobody outside
        from engine.operations.sealing import stamp

        why = await stamp(self._store, self._sealed.line, self._seal, self._way_out)
        if why is not None:
            self._tell_who_started(Warned(f"the end of the run has no time stamp: {why}"))

    async def after_a_fall(self, reason: Reason, stopped: records.Stopped | None) -> None:
        """Send the notice of a session that failed with an error; its journal is closed, so nothing is noted."""
        self._note = None
        self._under_way.clear()
        await self.after(reason, stopped)

    async def _tell(
        self, spec: NotifySpec, event: str, reason: Reason | None = None, stopped: records.Stopped | None = None
    ) -> None:
        from engine.operations.family import way_of  # here: most runs send no notice, and none before they send
        from engine.report.notices import notice
        from engine.report.notify import deliver

        document = notice(
            event,
            self._ledger,
            at=records.rfc3339(self._clock()),
            journal=self._journal.place,
            head=self._journal.durable_head,
            exit_code=reason,
            stopped=stopped,
            way=way_of(self._store, self._ledger, flags=self._flags) if reason is not None else None,
            seal=self._sealed if reason is not None else None,
        )
        for undelivered in await deliver(spec, document, os.environ, way=self._way_out):
            self._failed(event, undelivered.to, undelivered.why)

    def _failed(self, event: str, to: str, why: str) -> None:
        if (note := self._note) is not None:
            note("notice_failed", {"event": event, "to": to, "why": why})
        self._tell_who_started(Warned(f"nobody was told of the {event} by {to}: {why}"))

    def _trouble(self, why: str) -> None:
        """Note and tell, once a session, why metrics cannot be written."""
        if (note := self._note) is not None:
            note("metrics_failed", {"why": why})
        self._tell_who_started(Warned(f"metrics: {why}"))

    def _no_page(self, why: str) -> None:
        """Note and tell, once a session, why its page cannot be written."""
        if (note := self._note) is not None:
            note("page_failed", {"why": why})
        self._tell_who_started(Warned(f"page: {why}"))

    def _say_what_is_waited_for(self) -> None:
        self._tell_who_started(
            News("the run is over, and on disk; waiting some seconds for its notice; Ctrl-C is safe")
        )


def _event(reason: Reason) -> str:
    return "finish" if reason is Reason.OK else "failure"
