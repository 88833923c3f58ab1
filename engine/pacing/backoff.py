"""How long to wait before the next attempt, and when to give up. No clock, no randomness of its own.

Each wait is drawn uniformly below a cap that doubles (full jitter), so that many calls do not return at once. The limit
is a time budget, not a count: a call outlives an outage of twenty minutes if the operator allows it, and a short outage
does not use up all attempts in a second.
"""

from __future__ import annotations

import random
from typing import assert_never

from msgspec import Struct

from engine.api.verdicts import Budget


class Policy(Struct, frozen=True, kw_only=True):
    """Retry budgets of a call, in seconds from its first attempt (or from when its instance became busy)."""

    transient_s: float = 120.0
    busy_s: float = 600.0
    few: int = 2
    """Attempts in all, for answers after which a repeat rarely helps (plain FailedOperation, DBError)."""


class _Curve(Struct, frozen=True):
    base_s: float
    cap_s: float


_NORMAL = _Curve(0.5, 20.0)
_BUSY = _Curve(4.0, 60.0)  # scaling an instance takes a while: ask again after 30 s and more
_FEW = _Curve(1.0, 10.0)


def next_delay(budget: Budget, *, tries: int, elapsed_s: float, policy: Policy, rng: random.Random) -> float | None:
    """Return the seconds until the next attempt, or None to give up.

    `tries` counts attempts that drew on a budget (throttled ones do not); `elapsed_s` is the time since the first of
    them. The last wait is shortened to end with the budget, so that one more attempt is made at its very end.
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
