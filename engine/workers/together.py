"""What the lanes of one worker may take: lanes that ask within a moment ask the database together."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.journal.protocols import Board, Offer

EVERY_S = 0.1
"""Seconds between two questions: one hundred lanes that look twice a second ask ten, not two hundred."""


class Offers:
    """Asks for all lanes of a worker. Used on one loop."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._waiting: list[tuple[str, Collection[str], asyncio.Future[list[Offer]]]] = []
        self._task: asyncio.Task[None] | None = None
        self._next_at = 0.0

    async def of(self, lane: str, without: Collection[str]) -> list[Offer]:
        """Return what a lane may take, but for shards of the runs `without`; UnreachableError without an answer."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Offer]] = loop.create_future()
        self._waiting.append((lane, without, answer))
        if self._task is None:
            self._task = loop.create_task(self._ask())
        return await answer

    async def _ask(self) -> None:
        now = asyncio.get_running_loop().time
        try:
            while self._waiting:
                await asyncio.sleep(max(0.0, self._next_at - now()))
                self._next_at = now() + EVERY_S
                asked, self._waiting = [each for each in self._waiting if not each[2].done()], []
                try:
                    found = await asyncio.to_thread(self._board.offers, {lane: without for lane, without, _ in asked})
                except Exception as error:  # noqa: BLE001 - whoever asked raises it
                    for _, _, answer in asked:
                        if not answer.done():
                            answer.set_exception(error)
                else:
                    for lane, _, answer in asked:
                        if not answer.done():
                            answer.set_result(found[lane])
        finally:
            self._task = None
            for _, _, answer in self._waiting:
                answer.cancel()
