"""Questions to the database that sessions of one worker ask together: those that come within a moment are one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Together(Generic[Question, Answer]):
    """Asks for all who wait. What is answered was asked after each of them had asked. Used on one loop."""

    def __init__(self, ask: Callable[[Sequence[Question]], Sequence[Answer]], *, every_s: float = 0.0) -> None:
        """`ask` blocks, and answers in the order of the questions; it is called at most once in `every_s` seconds."""
        self._ask = ask
        self._every_s = every_s
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None
        self._next_at = 0.0

    async def of(self, question: Question) -> Answer:
        """Return the answer; raises what `ask` raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((question, answer))
        if self._task is None:
            self._task = loop.create_task(self._ask_all())
        return await answer

    async def _ask_all(self) -> None:
        now = asyncio.get_running_loop().time
        try:
            while self._waiting:
                await asyncio.sleep(max(0.0, self._next_at - now()))
                self._next_at = now() + self._every_s
                asked, self._waiting = [each for each in self._waiting if not each[1].done()], []
                try:
                    found = await asyncio.to_thread(self._ask, [question for question, _ in asked])
                except Exception as error:  # noqa: BLE001 - whoever asked raises it
                    for _, answer in asked:
                        if not answer.done():
                            answer.set_exception(error)
                else:
                    for (_, answer), each in zip(asked, found, strict=True):
                        if not answer.done():
                            answer.set_result(each)
        finally:
            self._task = None
            for _, answer in self._waiting:
                answer.cancel()
