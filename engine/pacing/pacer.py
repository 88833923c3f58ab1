"""One pacer a lane, the only importer of aiolimiter. Fills the server's quota without breaking it.

`Gear` is the numeric core: free of clock and loop, it says how far apart sends must be. `Pacer` waits. Three things
keep a lane full and within its quota, whichever way the server counts "a second" (CN-RATE):

* Even slots, one interval apart: `AsyncLimiter(20, 1)` lets 39 sends into one second (measured). A few slots' worth of
  catching up make good for late timers and a busy loop; without any, lateness alone loses 2 % of the quota.
* The window: the slot after 20 others comes a second, and most of the guard, after the first of those has *left*, so
  neither catching up nor a connection that took 200 ms to open can put 21 into a second.
* The guard: a share of the interval added to it, for what happens on the way. It is learnt: a refusal widens it,
  accepted calls narrow it, the faster the longer nothing is refused. Jitter of the network is worth 0.1; a wider guard
  means that someone else uses the quota, and then asking less is also sharing.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from contextlib import suppress

from aiolimiter import AsyncLimiter

from engine.pacing.slots import SharedSlots

GUARD_START = 0.022
"""Share of an interval added to it at first: 20 sends take just over a second, with 22 ms to spare for jitter."""
GUARD_LOW = 0.012
"""What the guard narrows to, slowly, where nothing is ever refused. Measured: with less to spare than 10 ms, a busy
machine's own lateness is refused now and then, and one refusal costs more than the last hundredth brings."""
GUARD_HIGH = 9.0
"""Upper bound: a tenth of the quota, when others take the rest."""
JITTER = 0.15
"""A guard wider than this is not for jitter, so it is someone else's calls: it is narrowed sooner."""
PAUSE_S = 0.08
"""Pause after a refusal: lets the window that refused slide a little."""
QUIET_S = 1.0
"""Refusals this close together are one event: calls in flight when the first was refused are refused with it."""
CATCH_UP = 5.0
"""Slots that may be made up for: at 20 a second, a machine that was busy for a quarter of a second loses nothing."""
_WIDEN_FIRST = (1.5, 0.006)
_WIDEN_AGAIN = (1.25, 0.02)
"""Factor and summand for the guard. Tuned in virtual time: jitter of 100 ms is met by three events, and beside someone
who takes half the quota 3 to 5 % of the calls are refused."""
_PATIENCE = 250
"""Accepted calls in a row before the guard goes below where it began: less to win there, and a refusal costs more."""
_WINDOW_SHARE = 0.8
"""Of the guard that the window insists on; the rest lets slots drift back to even ones."""
_REMEMBERED = 256
"""Slots whose reservation is kept until it is known when their call left."""
_STALE_S = 0.5
"""A slot among several processes that is missed by this much is not used any more."""
_STEP = 0.001
"""Smallest change of guard worth a new limiter."""
_SHORT_S = 0.2
"""A wait that a stop can sit out."""
_COARSE = 200.0
"""Slots a second above which timers are too coarse for single ones: 10 ms worth of them pass together, unwatched."""


class Gear:
    """How far apart sends must be: interval = (1 + guard) / rate, the guard learnt from refusals."""

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
        """When the sends of the last second and a half left, in order of leaving."""

    @property
    def interval_s(self) -> float:
        """Seconds between two sends."""
        return (1 + self.guard) / self.rate

    # ---- the window ----------------------------------------------------------------------------------------------

    def sent(self, at: float) -> None:
        """A slot was used at `at`."""
        if self.rate > _COARSE:
            return
        insort(self._left, at)
        if len(self._left) > self._depth * 3 // 2:
            del self._left[0]

    def left_late(self, slot_at: float, late_s: float) -> None:
        """What took the slot of `slot_at` left so much later: it waited for the loop, or for a new connection."""
        if late_s > 0 and slot_at in self._left:
            self._left.remove(slot_at)
            insort(self._left, slot_at + late_s)

    def earliest(self) -> float:
        """When the next send may leave so that no second holds more than the quota."""
        if len(self._left) < self._depth:
            return float("-inf")
        return self._left[-self._depth] + (1 + self.guard * _WINDOW_SHARE) * self._depth / self.rate

    # ---- the guard -----------------------------------------------------------------------------------------------

    def refused(self, now: float, sent_at: float | None = None) -> float:
        """The server refused a call for its quota. Returns how long to pause, in seconds.

        A first refusal costs a short pause and a wider guard. A second within the quiet time pauses for the rest of
        the second, since a server that counts refused calls would refuse everything else in it; that the pause was
        not enough also says that jitter is not the cause. A call that left before the first refusal was known
        (`sent_at`) says nothing new; where that is not known, all refusals of the quiet time are one.
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
        """The server took a call: lean towards the low guard, the more the longer nothing was refused."""
        self._well += 1
        if self.guard > JITTER:
            # By the share of the quota and by time, so that it does not matter how few calls are left to learn from.
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
        """`slowed` or `recovered`, if the gear did so since it was last asked."""
        changed, self._changed = self._changed, None
        return changed


class Pacer:
    """Slots of one lane, in the order of asking. One task asks at a time (the lane's dispatcher)."""

    def __init__(self, rate: float, shared: SharedSlots | None = None, *, quota: float | None = None) -> None:
        """`shared` are the lane's slots as the other processes of this host see them: `quota` a second, for all.

        What is left of the quota by one that asks for less (`rate`) is for the others.
        """
        self.gear = Gear(rate)
        self._quota = max(rate, quota or rate)
        self._shared: SharedSlots | None = None
        self.share(shared)
        self._taken: dict[float, float] = {}
        """When a slot was given out → the moment reserved for it among all processes, of the last few."""
        self._paused_until = 0.0
        self.stopping: asyncio.Event | None = None
        """Once it is set, nobody waits long for a slot any more: what `slot` gives then is not to be used."""
        self._limiter: AsyncLimiter | None = None
        self._limiter_guard = 0.0

    def share(self, shared: SharedSlots | None) -> None:
        """From now on these are the slots of the lane, as it is now known whose quota it is."""
        self._shared = shared if self._quota <= _COARSE else None

    async def _new_limiter(self) -> AsyncLimiter:
        # It starts with nothing to catch up, or the first slots would come in a bunch.
        gear = self.gear
        burst = max(CATCH_UP + 0.1, gear.rate * 0.01)
        limiter = AsyncLimiter(burst, burst * gear.interval_s)
        await limiter.acquire(burst if self._limiter is not None else burst - 1)
        self._limiter, self._limiter_guard = limiter, gear.guard
        return limiter

    async def slot(self) -> float:
        """Wait for the next slot; returns the loop's time. Every attempt takes one, retries too."""
        loop = asyncio.get_running_loop()
        limiter = self._limiter
        while True:
            while (wait_s := self._paused_until - loop.time()) > 0:  # a pause may grow while it lasts
                if not await self._sleep(wait_s):
                    return loop.time()
            if limiter is None or abs(self.gear.guard - self._limiter_guard) > _STEP:
                limiter = await self._new_limiter()
            await limiter.acquire()
            while (wait_s := self.gear.earliest() - loop.time()) > 0:  # what left late may move it
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

    async def _turn(self, shared: SharedSlots) -> float:
        """Wait for the slot that no other process of this host has; returns the moment reserved for it."""
        guard, quota = self.gear.guard, self._quota
        window_s = (1 + guard * _WINDOW_SHARE) * max(1, int(quota)) / quota
        while True:
            at = await shared.reserve(rate=quota, interval_s=(1 + guard) / quota, window_s=window_s)
            while (wait_s := at - shared.now()) > 0:  # a timer may be early by a hair
                if not await self._sleep(wait_s):
                    return at
            if wait_s > -_STALE_S:
                return at
            # This process was stopped meanwhile (Ctrl-Z, a paused container): the others have filled that second.

    async def _sleep(self, seconds: float) -> bool:
        """Wait so long, or until the run stops: then False."""
        if seconds <= _SHORT_S or self.stopping is None:
            await asyncio.sleep(seconds)
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        return not self.stopping.is_set()

    def left_late(self, slot_at: float, late_s: float) -> None:
        """What took the slot of `slot_at` left so much later than that."""
        self.gear.left_late(slot_at, late_s)
        reserved = self._taken.pop(slot_at, None)
        if self._shared is not None and reserved is not None:
            self._shared.left_late(reserved, slot_at + late_s - reserved)

    def refused(self, sent_at: float | None = None) -> None:
        """A call of this lane, which left at the loop's time `sent_at` if that is known, was throttled."""
        now = asyncio.get_running_loop().time()
        self.pause(self.gear.refused(now, sent_at))

    def accepted(self) -> None:
        """A call of this lane was not throttled."""
        self.gear.accepted()

    def pause(self, seconds: float) -> None:
        """Give out no slot for so long. What is not sent meanwhile is not caught up."""
        self._limiter_guard = float("-inf")
        until = asyncio.get_running_loop().time() + seconds
        self._paused_until = max(self._paused_until, until)

    def paused_for(self) -> float:
        """Seconds until slots are given out again; 0 when they are."""
        return max(0.0, self._paused_until - asyncio.get_running_loop().time())
