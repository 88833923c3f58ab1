"""How long to wait before the next attempt, and when to give up. No clock, no randomness of its own.

Full jitter (a uniform draw below a doubling cap) spreads a herd; the bound is a time budget, not a count, so that a
twenty-minute outage is outlived if the operator allows it and a short one does not burn the attempts in a second.
"""

from __future__ import annotations

import random
from typing import assert_never

from msgspec import Struct

from engine.api.verdicts import Budget


class Policy(Struct, frozen=True, kw_only=True):
    """Time budgets of a call, in seconds from its first attempt (or from when its instance fell sick)."""

    transient_s: float = 120.0
    busy_s: float = 600.0
    few: int = 2
    """Attempts in all where a repeat rarely helps (plain FailedOperation, DBError)."""


class _Curve(Struct, frozen=True):
    base_s: float
    cap_s: float


_NORMAL = _Curve(0.5, 20.0)
_BUSY = _Curve(4.0, 60.0)  # an instance being scaled is worth asking again after 30 s and more
_FEW = _Curve(1.0, 10.0)


def next_delay(budget: Budget, *, tries: int, elapsed_s: float, policy: Policy, rng: random.Random) -> float | None:
    """Seconds until the next attempt, or None to give up.

    `tries` counts attempts that drew on a budget (throttles do not); `elapsed_s` is the time since the first of them.
    The last wait is shortened to end with the budget, so that one more attempt is made at its very end.
    """
    match budget:
        case Budget.NONE:
            return None
        case Budget.FEW:
            if tries >= policy.few:
                return None
            return _draw(_FEW, tries, rng)
        case Budget.NORMAL:
            curve, limit_s = _NORMAL, policy.transient_s
        case Budget.BUSY:
            curve, limit_s = _BUSY, policy.busy_s
        case _:  # pragma: no cover - closed set
            assert_never(budget)
    left_s = limit_s - elapsed_s
    if left_s <= 0:
        return None
    return min(_draw(curve, tries, rng), left_s)


def _draw(curve: _Curve, tries: int, rng: random.Random) -> float:
    return rng.uniform(0, min(curve.cap_s, curve.base_s * 2 ** min(tries, 30)))
