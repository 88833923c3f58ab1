"""`workers.lanes` and `workers.together`: what the sessions of one worker share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.pacing.pacer import Pacer
from engine.pacing.slots import SharedSlots
from engine.workers.lanes import RunSlots
from engine.workers.together import Together
from tests.support.virtual import VirtualLoop

QUOTA, CALLS = 20.0, 40


@pytest.mark.parametrize("rate", [8.0, 3.0, 0.5])
@pytest.mark.parametrize("left_over", [0, 5, CALLS])
def test_sessions_of_a_lane_keep_the_rate_of_their_run_together(tmp_path: Path, rate: float, left_over: int) -> None:
    """They follow one another, overlap, or go on at once: no second has more than the rate."""
    loop, moments = VirtualLoop(), list[float]()
    host: Any = SimpleNamespace(slots_taken=0)  # Any: of a host, the slots count its calls, no more
    slots = RunSlots(SharedSlots(tmp_path, "lane", clock=loop.time), host)

    async def session(left: int, follows: asyncio.Event) -> None:
        runner: Any = SimpleNamespace(rate=rate)  # Any: of a runner, the slots ask its rate, no more
        slots.runners.append(runner)
        pacer = Pacer(rate, slots, quota=QUOTA)
        for number in range(CALLS):
            if number == CALLS - left:
                follows.set()
            at = await pacer.slot()
            pacer.left_late(at, loop.time() - at)
            moments.append(loop.time())
        slots.runners.remove(runner)
        follows.set()

    async def sessions() -> None:
        events = [asyncio.Event() for _ in range(3)]
        tasks = []
        for event in events:
            tasks.append(asyncio.create_task(session(left_over, event)))
            await event.wait()
        await asyncio.gather(*tasks)

    try:
        loop.run_until_complete(sessions())
    finally:
        loop.close()
    window_s, most = max(1.0, 1 / rate), max(1, int(rate))
    assert max(sum(at - window_s < each <= at for each in moments) for at in moments) <= most
    assert len(moments) / (moments[-1] - moments[0]) > 0.95 * rate


async def test_who_asks_within_a_moment_asks_together() -> None:
    """Fifty who wait for one question are answered by the next one, with what was so after they had asked."""
    state, asked, go_on = [0], list[list[int]](), threading.Event()

    def ask(questions: Sequence[int]) -> list[tuple[int, int]]:
        asked.append(list(questions))
        seen = state[0]
        go_on.wait(30)
        return [(question, seen) for question in questions]

    together = Together(ask)
    first = asyncio.ensure_future(together.of(0))
    while not asked:
        await asyncio.sleep(0.001)
    state[0] = 1
    others = [asyncio.ensure_future(together.of(number)) for number in range(1, 51)]
    given_up = others.pop()
    await asyncio.sleep(0)
    given_up.cancel()
    go_on.set()
    assert await first == (0, 0)
    assert await asyncio.gather(*others) == [(number, 1) for number in range(1, 50)]
    assert asked == [[0], list(range(1, 50))]


async def test_what_fails_fails_for_those_who_asked_it() -> None:
    """All who asked are told, and the next question is asked."""

    def ask(questions: Sequence[int]) -> list[int]:
        if 0 in questions:
            raise ZeroDivisionError
        return list(questions)

    together = Together(ask)
    found = await asyncio.gather(together.of(0), together.of(1), return_exceptions=True)
    assert [type(each) for each in found] == [ZeroDivisionError, ZeroDivisionError]
    assert await together.of(2) == 2
