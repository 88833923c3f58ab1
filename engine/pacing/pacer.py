"""One pacer for each lane: it uses the server's whole quota and stays within it. The only importer of aiolimiter.

`Gear` computes how far apart sends must be, without clock and loop. `Pacer` waits. Three things keep a lane busy and
within its quota, whichever way the server counts "a second" (CN-RATE):

* Even slots, one interval apart: `AsyncLimiter(20, 1)` lets 39 sends into one second (measured). A lane may catch up a
  few slots after a late timer or a busy loop. Without that, lateness alone loses 2 % of the quota.
* The window: at 20 a second, of any 21 slots the last comes a second, and most of the guard, after the first has
  *left*. So neither catching up nor a connection that took 200 ms to open can put 21 sends into a second.
* The guard: a share of the interval that is added to it, for delays on the way. A refusal widens the guard. Accepted
  calls narrow it, faster the longer nothing is refused. Jitter of the network needs 0.1. A wider guard means that
  others use the quota too; the lane then sends less and leaves them a share.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from contextlib import suppress
from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter

if TYPE_CHECKING:
    from engine.model import LaneSlots


GUARD_START = 0.022
"""The guard at first, as a share of the interval: 20 sends take just over a second, with 22 ms to spare for jitter."""
GUARD_LOW = 0.012
"""Lower bound, which the guard reaches slowly where nothing is ever refused. Measured: with less than 10 ms to spare, a
busy machine's lateness leads to refusals now and then. One refusal costs more than the last hundredth gains."""
GUARD_HIGH = 9.0
"""Upper bound: the lane keeps a tenth of the quota when others take the rest."""
JITTER = 0.15
"""A guard wider than this is due to calls of others, not to jitter. It is narrowed sooner."""
PAUSE_S = 0.08
"""Seconds of pause after a refusal: the window in which the server counts slides a little."""
QUIET_S = 1.0
"""Refusals within so many seconds are one event: calls in flight at the first refusal are refused with it."""
CATCH_UP = 5.0
"""Slots that a lane may catch up: at 20 a second, a machine that was busy for a quarter of a second loses nothing."""
_WIDEN_FIRST = (1.5, 0.006)
_WIDEN_AGAIN = (1.25, 0.02)
"""Factor and summand that widen the guard. Tuned in virtual time: three events adapt it to a jitter of 100 ms, and
beside another client with half the quota 3 to 5 % of the calls are refused."""
_PATIENCE = 250
"""Accepted calls in a row before the guard goes below its start: little is gained there, and a refusal costs more."""
_WINDOW_SHARE = 0.8
"""Share of the guard that the window keeps. The rest lets slots become even again."""
_REMEMBERED = 256
"""Slots whose reservation is kept until it is known when their call left."""
_STALE_S = 0.5
"""A slot shared with other processes is not used any more once it is so many seconds late."""
_STEP = 0.001
"""Smallest change of the guard for which a new limiter is made."""
_TRIES = 3
"""Further slots that are waited for at most, if each has passed when its call could leave."""
_SHORT_S = 0.2
"""A wait of at most so many seconds is not cut short when the run stops."""
_COARSE = 200.0
"""Slots a second above which timers are too coarse for single slots: those of 10 ms pass together, without a window."""


class Gear:
    """Tells how far apart sends must be: interval = (1 + guard) / rate. It learns the guard from refusals."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.guard = GUARD_START
        self._well = 0
        """Accepted calls since the last event."""
        self._widened_at = float("-inf")
        self._event_at = float("-inf")
        self._slowed = False
        self._changed: str | None = None
        self._depth = max(1, int(rate))
        self._left: list[float] = []
        """When the sends of the last second and a half left, by the loop's time, in order."""

    def set_rate(self, rate: float) -> None:
        """Keep another rate from now on; what was learnt of the guard stays."""
        self.rate = rate
        self._depth = max(1, int(rate))
        if rate > _COARSE:
            self._left.clear()

    @property
    def interval_s(self) -> float:
        """Seconds between two sends."""
        return (1 + self.guard) / self.rate

    # ---- the window ----------------------------------------------------------------------------------------------

    def sent(self, at: float) -> None:
        """Note that a slot was used at `at`."""
        if self.rate > _COARSE:
            return
        insort(self._left, at)
        if len(self._left) > self._depth * 3 // 2:
            del self._left[0]

    def left_late(self, slot_at: float, late_s: float) -> None:
        """Note that the call in the slot of `slot_at` left `late_s` later: the loop or a new connection delayed it."""
        if late_s > 0 and slot_at in self._left:
            self._left.remove(slot_at)
            insort(self._left, slot_at + late_s)

    def earliest(self) -> float:
        """Return when the next send may leave so that no second holds more than the quota."""
        if len(self._left) < self._depth:
            return float("-inf")
        return self._left[-self._depth] + (1 + self.guard * _WINDOW_SHARE) * self._depth / self.rate

    # ---- the guard -----------------------------------------------------------------------------------------------

    def refused(self, now: float, sent_at: float | None = None) -> float:
        """Note that the server refused a call for its quota; return how long to pause, in seconds.

        A first refusal leads to a short pause and a wider guard. A second one within `QUIET_S` pauses for the rest of
        that time, as a server that counts refused calls would refuse every other call in it. It also shows that jitter
        is not the cause, so the guard widens again. A call that left (`sent_at`) before the first refusal was known
        says nothing new. Where `sent_at` is not known, all refusals within `QUIET_S` are one event.
        """
        if sent_at is not None and sent_at <= self._widened_at:
            return 0.0
        if now - self._event_at >= QUIET_S:
            self._event_at = now
            self._widen(_WIDEN_FIRST, now)
            return PAUSE_S
        if sent_at is not None and self._widened_at == self._event_at:
            self._widen(_WIDEN_AGAIN, now)
        return QUIET_S - (now - self._event_at)

    def _widen(self, by: tuple[float, float], now: float) -> None:
        self._widened_at = now
        self.guard = min(GUARD_HIGH, self.guard * by[0] + by[1])
        self._well = 0
        self._slowed = True
        self._changed = "slowed"

    def accepted(self) -> None:
        """Note that the server took a call: narrow the guard, by more the longer nothing was refused."""
        self._well += 1
        if self.guard > JITTER:
            # The lane regains its share of the quota by time, not by calls, as a slow lane has few calls to learn from.
            well_s = self._well * self.interval_s
            share = 1 / (1 + self.guard) + (0.01 + 0.004 * well_s) * self.interval_s
            self.guard = max(JITTER, 1 / share - 1)
            return
        haste = self._well * 2.5e-5 if self.guard > GUARD_START else max(0, self._well - _PATIENCE) * 1e-5
        self.guard -= (self.guard - GUARD_LOW) * min(0.01, haste)
        if self._slowed and self.guard <= GUARD_START:
            self._slowed = False
            self._changed = "recovered"

    def changed(self) -> str | None:
        """Return `slowed` or `recovered` if the gear did so since the last call of this; else None."""
        changed, self._changed = self._changed, None
        return changed


class Pacer:
    """Gives out the slots of one lane, in the order of asking. One task asks at a time (the lane's dispatcher)."""

    def __init__(self, rate: float, shared: LaneSlots | None = None, *, quota: float | None = None) -> None:
        """Make a pacer of `rate` slots a second. All processes of this host share `shared`: `quota` slots a second.

        If `rate` is below `quota`, the other processes may use the rest.
        """
        self.gear = Gear(rate)
        self._quota = max(rate, quota or rate)
        self._shared: LaneSlots | None = None
        self.share(shared)
        self._taken: dict[float, float] = {}
        """When a slot was given out → the moment reserved for it among all processes; only of the latest slots."""
        self._paused_until = 0.0
        self.stopping: asyncio.Event | None = None
        """Set when the run stops: `slot` then returns soon, and its caller must not use that slot."""
        self._limiter: AsyncLimiter | None = None
        self._limiter_guard = 0.0

    def set_rate(self, rate: float, quota: float) -> None:
        """Give out `rate` slots a second from now on; all processes of this host share `quota`."""
        self.gear.set_rate(rate)
        self._quota = max(rate, quota)
        self.share(self._shared)
        self._limiter_guard = float("-inf")

    def share(self, shared: LaneSlots | None) -> None:
        """Use these shared slots from now on; called again once it is known whose quota the lane draws on."""
        self._shared = shared if self._quota <= _COARSE else None

    async def _new_limiter(self) -> AsyncLimiter:
        # A new limiter starts with nothing to catch up, or its first slots would come all at once.
        gear = self.gear
        burst = max(CATCH_UP + 0.1, gear.rate * 0.01)
        limiter = AsyncLimiter(burst, burst * gear.interval_s)
        await limiter.acquire(burst if self._limiter is not None else burst - 1)
        self._limiter, self._limiter_guard = limiter, gear.guard
        return limiter

    async def slot(self) -> float:
        """Wait for the next slot; return the loop's time. Every attempt takes one slot, retries too."""
        loop = asyncio.get_running_loop()
        limiter = self._limiter
        while True:
            while (wait_s := self._paused_until - loop.time()) > 0:  # a pause may grow while it lasts
                if not await self._sleep(wait_s):
                    return loop.time()
            if limiter is None or abs(self.gear.guard - self._limiter_guard) > _STEP:
                limiter = await self._new_limiter()
            await limiter.acquire()
            while (wait_s := self.gear.earliest() - loop.time()) > 0:  # a call that left late may move it
                if not await self._sleep(wait_s):
                    return loop.time()
            reserved = await self._turn(self._shared) if self._shared is not None else 0.0
            now = loop.time()
            if self._paused_until <= now:
                self.gear.sent(now)
                self._taken[now] = reserved
                if len(self._taken) > _REMEMBERED:
                    del self._taken[next(iter(self._taken))]
                return now

    async def _turn(self, shared: LaneSlots) -> float:
        """Wait for a slot that no other process of this host has; return the moment reserved for it."""
        guard, quota = self.gear.guard, self._quota
        window_s = (1 + guard * _WINDOW_SHARE) * max(1, int(quota)) / quota
        while True:
            at = await shared.reserve(rate=quota, interval_s=(1 + guard) / quota, window_s=window_s)
            while (wait_s := at - shared.now()) > 0:  # a timer may fire a little early
                if not await self._sleep(wait_s):
                    return at
            if wait_s > -_STALE_S:
                return at
            # This process was stopped meanwhile (Ctrl-Z, a paused container): the others have filled that second.

    async def is_in_time(self, slot_at: float) -> bool:
        """Return whether the call in the slot of `slot_at` may leave now; False if the run stops meanwhile.

        If that slot has passed by more than the other processes count on, another one is waited for.
        """
        for _ in range(_TRIES):
            shared, reserved = self._shared, self._taken.get(slot_at)
            if shared is None or reserved is None or shared.is_good(reserved):
                return True
            self._taken[slot_at] = await self._turn(shared)
            if self.stopping is not None and self.stopping.is_set():
                return False
        return True  # a loop that is late each time: the server throttles if that is too fast

    async def _sleep(self, seconds: float) -> bool:
        """Wait for `seconds` and return True; return False if the run stops before."""
        if seconds <= _SHORT_S or self.stopping is None:
            await asyncio.sleep(seconds)
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        return not self.stopping.is_set()

    def left_late(self, slot_at: float, late_s: float) -> None:
        """Note that the call in the slot of `slot_at` left `late_s` later."""
        self.gear.left_late(slot_at, late_s)
        reserved = self._taken.pop(slot_at, None)
        if self._shared is not None and reserved is not None:
            self._shared.left_late(reserved, slot_at + late_s - reserved)

    def refused(self, sent_at: float | None = None) -> None:
        """Note that a call of this lane was throttled. It left at the loop's time `sent_at`, if that is known."""
        now = asyncio.get_running_loop().time()
        self.pause(self.gear.refused(now, sent_at))

    def accepted(self) -> None:
        """Note that a call of this lane was not throttled."""
        self.gear.accepted()

    def pause(self, seconds: float) -> None:
        """Give out no slot for `seconds`. Slots of that time are not caught up."""
        self._limiter_guard = float("-inf")
        until = asyncio.get_running_loop().time() + seconds
        self._paused_until = max(self._paused_until, until)

    def paused_for(self) -> float:
        """Return the seconds until slots are given out again; 0 without a pause."""
        return max(0.0, self._paused_until - asyncio.get_running_loop().time())
