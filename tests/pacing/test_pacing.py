"""Filling a quota without breaking it: the gear by itself, the pacer in virtual time."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.pacing.pacer import GUARD_HIGH, GUARD_LOW, PAUSE_S, QUIET_S, Gear, Pacer
from tests.support.virtual import VirtualLoop

T = TypeVar("T")
RATES = [5.0, 20.0, 33.3, 100.0, 150.0, 1000.0]
"""From where a guard of 2.2 % covers the tenth of a slot that a late timer may catch up."""


def in_virtual_time(main: Callable[[], Awaitable[T]]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def slots(pacer: Pacer, count: int) -> Awaitable[list[float]]:
    """Loop times of so many slots, taken one after the other."""

    async def take() -> list[float]:
        times = []
        for _ in range(count):
            await pacer.slot()
            times.append(asyncio.get_running_loop().time())
        return times

    return take()


def worst_second(times: list[float]) -> int:
    """Most of these (ascending) times in any half-open second that begins with one of them."""
    return max(bisect_left(times, at + 1.0) - index for index, at in enumerate(times))


# ---- the gear ------------------------------------------------------------------------------------------------------


class Story:
    """A gear and its clock."""

    def __init__(self, rate: float) -> None:
        self.gear = Gear(rate)
        self.now = 1000.0


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("refused"), st.floats(0, 3)),
        st.tuples(st.just("accepted"), st.integers(1, 500)),
    ),
    max_size=60,
)


@given(st.floats(1, 1000), EVENTS)
def test_the_guard_stays_between_its_bounds(rate: float, events: list[tuple[str, float]]) -> None:
    """Whatever the server does, sends are never closer than the quota and never slower than a tenth of it."""
    story = Story(rate)
    for event, amount in events:
        if event == "refused":
            story.now += amount
            pause_s = story.gear.refused(story.now)
            assert 0 < pause_s <= QUIET_S
        else:
            for _ in range(int(amount)):
                story.gear.accepted()
        assert story.gear.guard * (1 + 1e-12) >= GUARD_LOW
        assert story.gear.guard <= GUARD_HIGH
        assert story.gear.interval_s == pytest.approx((1 + story.gear.guard) / rate)
        assert story.gear.interval_s > 1 / rate


def test_refusals_close_together_are_one_event() -> None:
    """Twenty calls in flight are refused with the first: the lane slows once for them, not twenty times."""
    gear = Gear(20.0)
    gear.refused(10.0)
    after_first = gear.guard
    assert after_first > GUARD_LOW
    for step in range(1, 20):
        gear.refused(10.0 + step / 20)
    assert gear.guard == after_first
    gear.refused(11.0)
    assert gear.guard > after_first


def test_a_first_refusal_costs_little_and_a_second_the_rest_of_the_second() -> None:
    """A server that counts refused calls would refuse everything else in its second."""
    gear = Gear(20.0)
    assert gear.refused(10.0) == PAUSE_S
    assert gear.refused(10.25) == 0.75
    assert gear.refused(10.5) == 0.5
    assert gear.refused(20.0) == PAUSE_S


def test_the_guard_is_forgotten_slowly_by_accepted_calls() -> None:
    """After one refusal a minute's worth of accepted calls bring the lane back to full speed."""
    gear = Gear(20.0)
    gear.refused(10.0)
    widest = gear.guard
    guards = []
    for _ in range(1200):
        gear.accepted()
        guards.append(gear.guard)
    assert all(later <= earlier for earlier, later in pairwise([widest, *guards]))
    assert guards[-1] < GUARD_LOW + (widest - GUARD_LOW) * 0.1


# ---- the pacer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", RATES)
def test_no_second_has_more_slots_than_the_rate(rate: float) -> None:
    """P5, never broken: in any second, wherever it begins, the first one included."""
    times = in_virtual_time(lambda: slots(Pacer(rate), int(rate * 30)))
    assert worst_second(times) <= math.ceil(rate)


@pytest.mark.parametrize("rate", RATES)
def test_the_quota_is_filled(rate: float) -> None:
    """P5, filled: at least 97 % of it from the first slot to the last."""
    count = int(rate * 60)
    times = in_virtual_time(lambda: slots(Pacer(rate), count))
    assert (count - 1) / (times[-1] - times[0]) / rate >= 0.97


def test_the_first_slot_is_at_once() -> None:
    """One target is not made to wait for a quota nobody uses."""
    assert in_virtual_time(lambda: slots(Pacer(20.0), 1)) == [VirtualLoop.START]


def test_a_late_taker_does_not_get_the_missed_slots_at_once() -> None:
    """After idleness, a slow disk or a slept process there is no burst: five slots are made up for, no more."""

    async def story() -> list[float]:
        pacer = Pacer(20.0)
        times = await slots(pacer, 20)
        await asyncio.sleep(5)
        return times + await slots(pacer, 60)

    times = in_virtual_time(story)
    assert worst_second(times) <= 20
    assert times[26] - times[25] > 0.04


def test_late_timers_are_caught_up() -> None:
    """Each wake-up a few milliseconds late, as on a busy machine: the quota is still filled, and not broken."""

    async def story() -> list[float]:
        pacer = Pacer(20.0)
        times = []
        for number in range(600):
            await pacer.slot()
            await asyncio.sleep(0.004 * (number % 2))
            times.append(asyncio.get_running_loop().time())
        return times

    times = in_virtual_time(story)
    assert (len(times) - 1) / (times[-1] - times[0]) / 20 >= 0.97
    assert worst_second(times) <= 20


def test_a_refusal_pauses_the_lane_and_widens_the_gaps() -> None:
    """No slot within the pause; after it the lane is slower than before."""

    async def story() -> tuple[float, list[float], float]:
        pacer = Pacer(20.0)
        await slots(pacer, 10)
        refused_at = asyncio.get_running_loop().time()
        pacer.refused()
        assert pacer.paused_for() == pytest.approx(PAUSE_S)
        return refused_at, await slots(pacer, 40), pacer.gear.interval_s

    refused_at, times, interval_s = in_virtual_time(story)
    assert times[0] >= refused_at + PAUSE_S
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert interval_s > (1 + GUARD_LOW) / 20
    assert sum(gaps) / len(gaps) == pytest.approx(interval_s, rel=0.01)


def test_a_lane_recovers_from_a_refusal() -> None:
    """A minute later it fills the quota again."""

    async def story() -> list[float]:
        pacer = Pacer(20.0)
        await slots(pacer, 10)
        pacer.refused()
        for _ in range(1200):
            await pacer.slot()
            pacer.accepted()
        return await slots(pacer, 200)

    times = in_virtual_time(story)
    assert 199 / (times[-1] - times[0]) / 20 >= 0.97
    assert worst_second(times) <= 20


def test_a_shared_quota_is_shared() -> None:
    """A server that gives us half of the quota and refuses the rest: we settle near the half, mostly accepted."""

    async def story() -> tuple[int, int]:
        pacer = Pacer(20.0)
        loop = asyncio.get_running_loop()
        accepted_at: list[float] = []
        refused = 0
        for _ in range(2000):
            await pacer.slot()
            now = loop.time()
            if len(accepted_at) - bisect_left(accepted_at, now - 1.0) >= 10:
                refused += 1
                pacer.refused()
            else:
                accepted_at.append(now)
                pacer.accepted()
        seconds = loop.time() - VirtualLoop.START
        return round(len(accepted_at) / seconds, 1), refused

    rate, refused = in_virtual_time(story)
    assert 7 <= rate <= 10
    assert refused < 2000 * 0.1


def test_pauses_add_up_to_the_longest() -> None:
    """A short pause does not cut a long one short, and a pause may grow while somebody waits for its end."""

    async def story() -> float:
        pacer = Pacer(20.0)
        pacer.pause(2.0)
        pacer.pause(0.5)
        assert pacer.paused_for() == 2.0
        waiting = asyncio.ensure_future(slots(pacer, 1))
        await asyncio.sleep(1.0)
        pacer.pause(4.0)
        (at,) = await waiting
        assert pacer.paused_for() == 0.0
        return at

    assert in_virtual_time(story) == pytest.approx(VirtualLoop.START + 5.0, abs=0.1)


def test_a_pause_that_begins_while_a_slot_is_waited_for_holds_it_back() -> None:
    """The refusal of call n reaches the lane while call n+1 waits for its slot."""

    async def story() -> list[float]:
        pacer = Pacer(1.0)
        await pacer.slot()
        asyncio.get_running_loop().call_later(0.5, pacer.pause, 10.0)
        return await slots(pacer, 2)

    first, second = in_virtual_time(story)
    assert first >= VirtualLoop.START + 10.5
    assert second > first
