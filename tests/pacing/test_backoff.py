"""How long to wait and when to give up: bounds and budgets, over whole histories of a call."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api.verdicts import Budget
from engine.pacing.backoff import Policy, next_delay

LIMITS = {Budget.NORMAL: "transient_s", Budget.BUSY: "busy_s"}
CURVES = {Budget.FEW: (1.0, 10.0), Budget.NORMAL: (0.5, 20.0), Budget.BUSY: (4.0, 60.0)}
"""Base and cap: the wait before try n+1 is drawn below base · 2ⁿ, and never above the cap."""
TIMED = st.sampled_from(sorted(LIMITS))
POLICIES = st.builds(Policy, transient_s=st.floats(0, 3600), busy_s=st.floats(0, 3600), few=st.integers(1, 5))


class Extreme(random.Random):
    """Draws the same share of every range."""

    def __init__(self, share: float) -> None:
        super().__init__(0)
        self.share = share

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.share


def test_defaults_are_the_documented_budgets() -> None:
    """2 minutes; 10 minutes for a busy instance; 2 tries where a repeat rarely helps."""
    assert Policy() == Policy(transient_s=120.0, busy_s=600.0, few=2)


@given(POLICIES, st.integers(1, 10_000), st.floats(0, 1e6), st.integers())
def test_a_verdict_without_a_budget_is_final(policy: Policy, tries: int, elapsed_s: float, seed: int) -> None:
    """No policy makes a rejected call come again."""
    rng = random.Random(seed)
    assert next_delay(Budget.NONE, tries=tries, elapsed_s=elapsed_s, policy=policy, rng=rng) is None


@given(st.sampled_from(sorted(CURVES)), st.integers(1, 10_000), st.floats(0, 4000), POLICIES, st.integers())
def test_a_wait_is_never_negative_never_above_its_curve_never_past_its_budget(
    budget: Budget, tries: int, elapsed_s: float, policy: Policy, seed: int
) -> None:
    """Whatever the history, however many tries."""
    delay = next_delay(budget, tries=tries, elapsed_s=elapsed_s, policy=policy, rng=random.Random(seed))
    if delay is None:
        return
    base_s, cap_s = CURVES[budget]
    assert 0 <= delay <= min(cap_s, base_s * 2.0 ** min(tries, 60))
    if budget in LIMITS:
        assert elapsed_s + delay <= getattr(policy, LIMITS[budget]) * (1 + 1e-12)


@given(TIMED, st.integers(1, 10_000), st.floats(0, 4000), POLICIES, st.integers())
def test_giving_up_means_the_time_is_spent_and_nothing_else(
    budget: Budget, tries: int, elapsed_s: float, policy: Policy, seed: int
) -> None:
    """A budget in time is not a count: the thousandth try is allowed while time is left, the second is not after it."""
    delay = next_delay(budget, tries=tries, elapsed_s=elapsed_s, policy=policy, rng=random.Random(seed))
    assert (delay is None) == (elapsed_s >= getattr(policy, LIMITS[budget]))


@given(st.integers(1, 10), st.integers(1, 10), st.floats(0, 1e6), st.integers())
def test_few_counts_attempts_not_time(tries: int, few: int, elapsed_s: float, seed: int) -> None:
    """Plain FailedOperation: two tries in all, however slow they were."""
    rng = random.Random(seed)
    delay = next_delay(Budget.FEW, tries=tries, elapsed_s=elapsed_s, policy=Policy(few=few), rng=rng)
    assert (delay is None) == (tries >= few)


@pytest.mark.parametrize("budget", [Budget.NORMAL, Budget.BUSY])
def test_the_last_wait_ends_with_the_budget(budget: Budget) -> None:
    """One more attempt is made at the very end: a call is not given up seconds before its outage is over."""
    limit_s = getattr(Policy(), LIMITS[budget])
    delay = next_delay(budget, tries=9, elapsed_s=limit_s - 0.25, policy=Policy(), rng=Extreme(1.0))
    assert delay == 0.25


@pytest.mark.parametrize(
    ("budget", "caps"),
    [
        (Budget.NORMAL, [1, 2, 4, 8, 16, 20, 20]),
        (Budget.BUSY, [8, 16, 32, 60, 60]),
        (Budget.FEW, [2, 4, 8, 10, 10]),
    ],
)
def test_the_curve_doubles_up_to_its_cap(budget: Budget, caps: list[float]) -> None:
    """The longest wait after try 1, 2, 3, …; the shortest is always none, the middle always half: full jitter."""
    policy = Policy(transient_s=1e9, busy_s=1e9, few=99)
    for share in (0.0, 0.5, 1.0):
        delays = [
            next_delay(budget, tries=tries, elapsed_s=0, policy=policy, rng=Extreme(share))
            for tries in range(1, len(caps) + 1)
        ]
        assert delays == [cap * share for cap in caps]


@given(TIMED, st.integers())
def test_a_herd_is_spread_over_the_whole_range(budget: Budget, seed: int) -> None:
    """Full jitter: of 400 calls that failed together about a quarter comes back in each quarter of the range."""
    rng = random.Random(seed)
    base_s, cap_s = CURVES[budget]
    top = min(cap_s, base_s * 2**5)
    quarters = [0, 0, 0, 0]
    for _ in range(400):
        delay = next_delay(budget, tries=5, elapsed_s=0, policy=Policy(), rng=rng)
        assert delay is not None
        quarters[min(3, int(4 * delay / top))] += 1
    assert min(quarters) > 50


@given(TIMED, POLICIES, st.floats(0, 5), st.integers())
def test_a_whole_outage(budget: Budget, policy: Policy, attempt_s: float, seed: int) -> None:
    """An outage without end: attempts go on to the end of the budget, none begins after it, and it does end."""
    rng = random.Random(seed)
    limit_s = getattr(policy, LIMITS[budget])
    now, begins = 0.0, [0.0]
    for tries in range(1, 100_000):
        now += max(attempt_s, 0.01)
        delay = next_delay(budget, tries=tries, elapsed_s=now, policy=policy, rng=rng)
        if delay is None:
            break
        now += delay
        begins.append(now)
    else:
        pytest.fail("it never gave up")
    assert now >= limit_s
    assert begins[-1] <= limit_s * (1 + 1e-12)
    assert all(earlier < later for earlier, later in pairwise(begins))


def test_the_same_seed_waits_the_same() -> None:
    """A run can be replayed: randomness is an argument."""
    draws = [
        [next_delay(Budget.NORMAL, tries=n, elapsed_s=0, policy=Policy(), rng=rng) for n in range(1, 20)]
        for rng in (random.Random(7), random.Random(7))
    ]
    assert draws[0] == draws[1]
