"""Device, floor 2: one pacer a lane, the only importer of aiolimiter. Fills the server's quota without breaking it.

`Gear` is the numeric core: free of clock and loop, it says how far apart sends must be. `Pacer` waits.
A bucket of about one slot is the point: `AsyncLimiter(20, 1)` lets 39 sends into one second (measured). The tenth of
a slot above one lets a late timer be caught up; without it timer lateness alone loses 2 % of the quota.
"""

from __future__ import annotations

import asyncio

from aiolimiter import AsyncLimiter

GUARD_LOW = 0.022
"""Starting share of an interval added to it: keeps 20 sends just over a second wide (measured: 0.978, no throttle)."""
GUARD_HIGH = 9.0
"""Upper bound: a tenth of the quota, when others take the rest."""
PAUSE_S = 0.08
"""Pause after a refusal: lets the window that refused slide a little."""
QUIET_S = 1.0
"""Refusals this close together are one event: calls in flight when the first was refused are refused with it."""
_STEP = 0.002
"""Smallest change of guard worth a new limiter."""


class Gear:
    """How far apart sends must be: interval = (1 + guard) / rate, the guard learnt from refusals."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.guard = GUARD_LOW
        self._refused_at = float("-inf")
        self._event_at = float("-inf")

    @property
    def interval_s(self) -> float:
        """Seconds between two sends."""
        return (1 + self.guard) / self.rate

    def refused(self, now: float) -> float:
        """The server refused a call for its quota. Returns how long to pause, in seconds.

        A first refusal costs a short pause and a wider guard. A second within the quiet time pauses for the rest of
        the second, since a server that counts refused calls would refuse everything else in it.
        """
        repeated = now - self._refused_at < QUIET_S
        self._refused_at = now
        if now - self._event_at >= QUIET_S:
            self._event_at = now
            self.guard = min(GUARD_HIGH, self.guard * 1.3 + 0.012)
        return QUIET_S - (now - self._event_at) if repeated else PAUSE_S

    def accepted(self) -> None:
        """The server took a call: lean a little towards the low guard."""
        self.guard -= (self.guard - GUARD_LOW) * 0.004


class Pacer:
    """Slots of one lane, in the order of asking. One task asks at a time (the lane's dispatcher)."""

    def __init__(self, rate: float) -> None:
        self.gear = Gear(rate)
        self._paused_until = 0.0
        self._limiter, self._limiter_guard = self._new_limiter(), self.gear.guard

    def _new_limiter(self) -> AsyncLimiter:
        # Above about 200/s timers are too coarse for single slots: let 10 ms worth of them through together.
        burst = max(1.1, self.gear.rate * 0.01)
        return AsyncLimiter(burst, burst * self.gear.interval_s)

    async def slot(self) -> None:
        """Wait for the next slot. Every attempt takes one, retries too."""
        loop = asyncio.get_running_loop()
        while True:
            while (wait_s := self._paused_until - loop.time()) > 0:  # noqa: ASYNC110 - a pause may grow while it lasts
                await asyncio.sleep(wait_s)
            if abs(self.gear.guard - self._limiter_guard) > _STEP:
                self._limiter, self._limiter_guard = self._new_limiter(), self.gear.guard
                await self._limiter.acquire()  # starts full: the slot before this one was just used
            await self._limiter.acquire()
            if self._paused_until <= loop.time():
                return

    def refused(self) -> None:
        """A call of this lane was throttled."""
        now = asyncio.get_running_loop().time()
        self.pause(self.gear.refused(now))

    def accepted(self) -> None:
        """A call of this lane was not throttled."""
        self.gear.accepted()

    def pause(self, seconds: float) -> None:
        """Give out no slot for so long."""
        until = asyncio.get_running_loop().time() + seconds
        self._paused_until = max(self._paused_until, until)

    def paused_for(self) -> float:
        """Seconds until slots are given out again; 0 when they are."""
        return max(0.0, self._paused_until - asyncio.get_running_loop().time())
