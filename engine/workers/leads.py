"""Take a run on to lead it: what must hold is looked at as for a resume, and its session begins under its claim."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.cloud.wire import Wire
from engine.errors import AcctopsError, BusyError, Reason, UnreachableError
from engine.journal.live import SameJobError
from engine.journal.records import RED
from engine.operations.following import Followed
from engine.operations.frozen import overridden, stricter
from engine.operations.proposal import Approval
from engine.operations.reds import undo_if_red
from engine.operations.resume import Resumption, go_on, refuse_unsigned
from engine.operations.session import LeftAtOnceError, Session
from engine.operations.unled import end_words
from engine.operations.windows import hold, window_of
from engine.workers.host import UndeclaredError
from engine.workers.leading import Leader
from engine.workers.steering import LeadRequests

if TYPE_CHECKING:
    from engine.journal.protocols import Journal
    from engine.journal.reader import Replay
    from engine.operations.carrying import Ended
    from engine.operations.session import Conductor
    from engine.workers.host import Host

AGAIN_S = 2.0
"""Seconds after which a run is tried again that somebody else has, or whose database does not answer."""
_TRIES = 30
_ALL = 2**62
_BY = Approval(how="submitted to the workers of its database")


class Lead:
    """The session of a run in a worker, and a `Watch` of it."""

    def __init__(self, host: Host, run_id: str) -> None:
        self._host = host
        self._run = run_id
        self._terms = replace(host.terms, wire=Wire())  # connections belong to one loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._working: asyncio.Future[Reason] | None = None
        self._is_leaving = self._has_left = False
        self._journal: Journal | None = None

    def leave(self) -> None:
        """Let another worker lead the run on. May be called in any thread."""
        self._is_leaving = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._working is not None:
            self._working.cancel()

    async def carry_out_apart(self) -> None:
        """Lead the run in a thread and on a loop of its own: a large journal that is read holds up no lane."""
        here = asyncio.get_running_loop()
        over: asyncio.Future[None] = here.create_future()

        def lead() -> None:
            error: BaseException | None = None
            try:
                asyncio.run(self._on_its_loop())
            except BaseException as found:  # noqa: BLE001 - whoever waits raises it
                error = found
            with suppress(RuntimeError):  # that loop is closed: the process ends
                here.call_soon_threadsafe(_settle, over, error)

        threading.Thread(target=lead, name=f"lead {self._run}", daemon=True).start()
        await over

    async def _on_its_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await self.carry_out()
        finally:
            await self._terms.wire.aclose()

    async def carry_out(self) -> None:
        """Lead the run to its end, or until this worker leaves."""
        host = self._host
        for _ in range(_TRIES):
            if self._is_leaving:
                return
            try:
                has_ended = await self._led()
            except (BusyError, UnreachableError) as error:
                is_led = isinstance(error, SameJobError) and error.run == self._run
                why = "another worker has led it until a moment ago, or does" if is_led else str(error)
                host.say(f"run {self._run}: {why}; tried again in {AGAIN_S:.0f} s")
                await asyncio.sleep(AGAIN_S)
            except UndeclaredError as error:
                if not await asyncio.to_thread(host.is_for_another, error.programs):
                    await self._end(str(error), error.reason)
                return
            except AcctopsError as error:
                await self._end(str(error), error.reason)
                return
            else:
                if has_ended:
                    host.facts.forget(self._run)
                return

    async def _led(self) -> bool:
        """Lead the run; return whether it has ended."""
        host = self._host
        found = await asyncio.to_thread(host.store.replay, self._run)
        lead = await asyncio.to_thread(host.board.lead_of, self._run)
        if not lead.is_submitted:
            return True
        if (end := found.ledger.end) is not None and end.seq > lead.since:
            await asyncio.to_thread(host.board.withdraw, self._run)  # who led it died before it said so
            return True
        since = lead.since
        red = next((line for line in found.ledger.waves.values() if line.state == RED and line.seq > since), None)
        this = await self._resumption(found)
        requests = LeadRequests(host.store, host.board, self._run)

        def led(session: Session) -> Conductor:
            board, self._journal = host.board, session.journal
            ends = {0: (_ALL, ""), **session.heads}  # its own chain it writes itself
            followed = Followed(board.tail(self._run), session.ledger, ends)
            leader = Leader(session, board, followed, requests, since=since, ask=host.ask_for)
            if red is not None:
                leader.stop(f"wave {red.n}: the gate said red; no further wave begins", Reason.STOPPED)
            return leader

        def is_wanted() -> None:
            if not host.board.lead_of(self._run).is_submitted:
                raise _OverError

        try:
            ended = await go_on(this, _BY, self, lead=led, requests=requests, is_wanted=is_wanted)
        except _OverError:
            return True
        finally:
            if self._journal is not None and self._journal.is_fenced:
                host.leave_at_once(f"run {self._run}: {self._journal.broken}")
        if self._has_left:
            return False
        if ended.unrecorded is not None:
            await self._end(ended.unrecorded.why, ended.reason)
            return True
        host.say(f"run {self._run}: ended with exit {int(ended.reason)}")
        await self._undo_if_red(ended)
        return True

    async def _resumption(self, found: Replay) -> Resumption:
        """Return the run as this worker may go on with it. AcctopsError if it may not."""
        host, seen = self._host, found.ledger
        terms = self._terms
        hold(window_of(seen.settings), terms)
        guards = await asyncio.to_thread(host.facts.guards_of, seen)
        host.check_programs(seen.run, gate=True)
        await refuse_unsigned(terms, host.store.ref(self._run), seen, guards)
        settings = stricter(overridden(terms, seen.settings), guards)
        # A flag's deadline is one session's: that of all who lead the run, one after the other.
        settings = replace(settings, session_deadline_s=seen.settings.session_deadline_s)
        return Resumption(
            terms=terms,
            ref=host.store.ref(self._run),
            seen=seen,
            guards=guards,
            settings=settings,
            reach=host.reach,
            passwords=None,
            exclude=(),
            is_unapproved=False,
            job=None,
            changes=(),
        )

    async def _end(self, why: str, reason: Reason) -> None:
        """Write the `end` of a run that cannot be led, with the reason, so that whoever follows it knows."""
        host = self._host
        host.say(f"run {self._run}: cannot be led: {why}")
        end = partial(end_words, host.board, self._run, why, reason, clock=host.terms.clock)
        if (why_not := await asyncio.to_thread(end)) is not None:
            host.say(f"run {self._run}: its end cannot be written: {why_not}")

    async def _undo_if_red(self, ended: Ended) -> None:
        """Undo the red wave of a run that has ended, if its job asks for that: its user may be gone."""
        undone = (await undo_if_red(ended, self._terms, self, is_leader=True)).undone
        if undone is not None:
            self._host.say(f"run {self._run}: its red wave is undone by run {undone.ledger.run.run}")

    # ---- a Watch -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def beside(self, _runner: Conductor) -> AsyncIterator[None]:
        """Do nothing beside the session."""
        yield

    async def working(self, run: Coroutine[None, None, Reason]) -> Reason:
        """Wait for the end of the run; LeftAtOnceError if this worker leaves before."""
        self._working = asyncio.ensure_future(run)
        if self._is_leaving:
            self._working.cancel()
        try:
            return await self._working
        except asyncio.CancelledError:
            if not self._is_leaving:
                raise
            self._has_left = True
            raise LeftAtOnceError("its worker leaves; another leads it on", Reason.STOPPED) from None

    async def last(self, notices: Coroutine[None, None, None]) -> None:
        """Wait for the notices."""
        await notices


class _OverError(Exception):
    """Another worker has led the run to its end meanwhile."""


def _settle(over: asyncio.Future[None], error: BaseException | None) -> None:
    if not over.done():
        over.set_result(None) if error is None else over.set_exception(error)
