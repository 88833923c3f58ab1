"""No I/O but the event loop's timer. How a request travels to the world, the same for both transports."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.simulator.wire import WireAnswer


async def deliver(arrive: Callable[[], WireAnswer], travel_s: float) -> WireAnswer:
    """Let a request arrive after `travel_s` seconds, even if its sender has given up by then; return its answer."""
    if travel_s <= 0:
        return arrive()
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[WireAnswer] = loop.create_future()

    def arrive_now() -> None:
        answer = arrive()
        with contextlib.suppress(asyncio.InvalidStateError):  # cancelled: the sender does not wait for the answer
            arrived.set_result(answer)

    loop.call_later(travel_s, arrive_now)
    return await arrived
