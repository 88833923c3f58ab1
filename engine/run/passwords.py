"""Passwords that calls need, asked for a little ahead of their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from engine.errors import CredentialsError
from engine.model import Answer, Call
from engine.run.callqueue import Health
from engine.run.opencalls import OpenCalls
from engine.run.settling import Settling
from engine.run.stopping import Stopping, Tasks
from engine.run.work import Work

AHEAD = 32
"""Most passwords of one account that are asked for ahead of their calls."""


class Passwords:
    """The part of a session that asks for the password of each call once, if the action takes passwords."""

    def __init__(
        self,
        ask: Callable[[Call], Awaitable[str]] | None,
        calls: OpenCalls,
        settling: Settling,
        tasks: Tasks,
        stopping: Stopping,
    ) -> None:
        """Take `ask`, the operator's source of passwords; None: the action takes none."""
        self._now = asyncio.get_running_loop().time
        self._ask = ask
        self._calls = calls
        self._settling = settling
        self._tasks = tasks
        self._stopping = stopping

    def has(self, work: Work) -> bool:
        """Return whether a call has all it needs to be sent."""
        return self._ask is None or work.secret is not None

    def is_full(self, work: Work) -> bool:
        """Return whether the account of a call has as many passwords ahead as it may have."""
        return self._calls.secrets_ahead[work.call.account] >= AHEAD

    def ask(self, work: Work) -> None:
        """Ask for the password of a call; put the call back in the queue once the password is there."""
        assert self._ask is not None
        self._calls.secrets_ahead[work.call.account] += 1
        work.secret_ahead = True
        self._tasks.start(self._fetch(work, self._ask))

    async def _fetch(self, work: Work, ask: Callable[[Call], Awaitable[str]]) -> None:
        queue = self._calls.queue.of(work.index)
        try:
            work.secret = await ask(work.call)
            queue.release(work.index, Health.SILENT, self._now())
            self._calls.put_first(work)
        except CredentialsError as error:
            queue.release(work.index, Health.SILENT, self._now())
            answer = Answer(http=None, request_id=None, code="Local.PasswordSource", message=str(error))
            self._settling.fail(work, answer, str(error))
            self._calls.abandon(work)
        except Exception as error:  # noqa: BLE001 - a task's last line
            self._stopping.failed(error)
            self._calls.abandon(work)
