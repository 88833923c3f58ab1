"""How a session stops: why, which parts are told, and how long it reads on. Also the tasks whose errors stop it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from engine.api.codes import row_of
from engine.errors import AcctopsError, Reason
from engine.journal import records
from engine.model import Answer
from engine.run.endings import DRAIN_S, drain_s
from engine.run.queues import CallQueues
from engine.run.recorder import Recorder

_LOG = logging.getLogger("acctops")


class Waiter(Protocol):
    """A part in which calls or lanes wait for their turn."""

    def turn_away(self) -> None:
        """End all waits: the session stops."""


class Reader(Protocol):
    """A part that reads accounts."""

    def drain(self, until: float) -> None:
        """End the readings of now and later by this loop time; a later call may move it."""


def stopped(why: str, answer: Answer | None) -> records.Stopped:
    """Return why something ended early, with the API's answer, if there was one."""
    if answer is None:
        return records.Stopped(why=why, code=None, request_id=None)
    return records.Stopped(why=why, code=answer.code, request_id=answer.request_id)


class Stopping:
    """Whether and why a session stops early. The first reason counts."""

    def __init__(self, recorder: Recorder, queue: CallQueues) -> None:
        self._now = asyncio.get_running_loop().time
        self._recorder = recorder
        self._queue = queue
        self.is_set = False
        """Whether the session stops."""
        self.event = asyncio.Event()
        """Set once the session stops, for tasks that wait for that."""
        self.why: records.Stopped | None = None
        self.reason: Reason | None = None
        self.has_accepted = recorder.ledger.has_accepted()
        """Whether the API has accepted any call of this run."""
        self.waiters: list[Waiter] = []
        """Parts that are told of a stop."""
        self.readers: list[Reader] = []
        """Parts that are told at the stop, and again whenever an attempt ends after it."""
        self._drain_end: float | None = None
        """Loop time by which the drain is over, however late its last attempt ends; None: there is no drain yet."""

    def stop(self, why: str, reason: Reason, answer: Answer | None = None) -> None:
        """Take no new call; let attempts in flight end and be recorded."""
        if self.why is None:
            self.why, self.reason = stopped(why, answer), reason
            self._recorder.note("stopping", {"why": why})
        self.is_set = True
        self.event.set()
        for waiter in self.waiters:
            waiter.turn_away()
        self.drain()
        self._queue.wake.set()

    def drain(self) -> None:
        """Read for `DRAIN_S` from now: called at the stop, and again for each attempt that ends in the drain."""
        now = self._now()
        if self._drain_end is None:
            self._drain_end = now + drain_s(self._recorder.ledger.settings.timeout_s)
        for reader in self.readers:
            reader.drain(min(now + DRAIN_S, self._drain_end))

    async def rest(self, seconds: float) -> None:
        """Wait so many seconds, or until the session stops."""
        try:
            async with asyncio.timeout(seconds):
                await self.event.wait()
        except TimeoutError:
            pass

    def reason_for(self, code: str | None) -> Reason:
        """Return why a run ends with this code: DENIED if it is about the sender and no call was accepted yet."""
        return Reason.DENIED if row_of(code).is_about_sender and not self.has_accepted else Reason.STOPPED

    def failed(self, error: Exception) -> None:
        """Stop the session for an error that a task did not handle."""
        if isinstance(error, AcctopsError):
            refused_late = error.reason is Reason.DENIED and self.has_accepted
            self.stop(str(error), Reason.STOPPED if refused_late else error.reason)
            return
        _LOG.error("internal error", exc_info=error)
        self.stop(f"internal error ({type(error).__name__}); please report it, the run can be resumed", Reason.STOPPED)


class Tasks:
    """The tasks of a session. An error that a task does not handle stops the session, which names the error."""

    def __init__(self, stopping: Stopping, queue: CallQueues) -> None:
        self._stopping = stopping
        self._queue = queue
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> None:
        """Start a group of tasks; a session has one group after the other."""
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        """Wait for all tasks of the group. Any: what a context manager is told of an error."""
        await self._group.__aexit__(*error)

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Start a task that handles its own errors."""
        self._group.create_task(work)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Start a task whose errors stop the session."""
        try:
            self._group.create_task(self._guarded(work))
        except RuntimeError:  # the second Ctrl-C: everything is being cancelled
            work.close()

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - a task's last line
            self._stopping.failed(error)
        finally:
            self._queue.wake.set()
