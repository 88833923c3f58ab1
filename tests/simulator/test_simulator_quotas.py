"""The frequency limit in its four readings, exact at the edges."""

from __future__ import annotations

import random

import pytest

from engine.simulator.gate import KeyRecord
from engine.simulator.quotas import Lane, Window, WorstSecond
from engine.simulator.world import World
from tests.support.simulated import INSTANCE, NOW, Caller

LIMIT = 20
WINDOWS = list(Window)


def passed(window: Window, times: list[float], limit: int = LIMIT) -> list[bool]:
    lane = Lane(window)
    return [lane.admit(NOW + at, limit) is None for at in times]


@pytest.mark.parametrize("window", WINDOWS)
def test_the_limit_passes_and_the_next_one_does_not(window: Window) -> None:
    """Call 21 of a second is refused at limit 20 (CN-RATE), in every reading."""
    assert passed(window, [0.5] * 21) == [True] * 20 + [False]


@pytest.mark.parametrize("window", WINDOWS)
def test_an_even_pace_at_the_limit_is_never_refused(window: Window) -> None:
    assert all(passed(window, [index / LIMIT for index in range(500)]))


def test_calendar_lets_two_bursts_pass_at_the_turn_of_a_second() -> None:
    assert all(passed(Window.CALENDAR, [0.999999] * 20 + [1.0] * 20))
    assert passed(Window.CALENDAR, [0.0] * 20 + [0.999999, 1.0]) == [True] * 20 + [False, True]


@pytest.mark.parametrize("window", [Window.SLIDING, Window.SLIDING_COUNTING_REFUSED])
def test_a_sliding_second_ends_exactly_after_a_second(window: Window) -> None:
    assert passed(window, [0.3] * 20 + [1.3]) == [True] * 21
    assert passed(window, [0.3] * 20 + [1.299999]) == [True] * 20 + [False]


def test_only_one_sliding_window_counts_refused_calls() -> None:
    """Hammering a limited lane keeps it limited where refused calls count, and only there."""
    times = [0.0] * 20 + [0.5] * 20 + [1.0] * 20 + [1.5]
    sliding = passed(Window.SLIDING, times)
    counting = passed(Window.SLIDING_COUNTING_REFUSED, times)
    assert sliding == [True] * 20 + [False] * 20 + [True] * 20 + [False]
    assert counting == [True] * 20 + [False] * 41


def test_a_bucket_refills_one_token_at_a_time() -> None:
    assert passed(Window.BUCKET, [0.0] * 20 + [0.049999, 0.05, 0.05, 0.1]) == [True] * 20 + [
        False,
        True,
        False,
        True,
    ]
    assert passed(Window.BUCKET, [0.0] * 20 + [10.0] * 21) == [True] * 40 + [False]  # no deeper than the limit


@pytest.mark.parametrize("window", WINDOWS)
def test_a_clock_that_steps_back_opens_no_second_window(window: Window) -> None:
    assert passed(window, [0.5] * 20 + [-3.0]) == [True] * 20 + [False]


@pytest.mark.parametrize("window", WINDOWS)
def test_a_limit_of_nothing_refuses_everything(window: Window) -> None:
    assert passed(window, [0.0, 5.0], limit=0) == [False, False]


def test_sliding_windows_against_a_count_by_hand() -> None:
    """1,000 random arrivals, each judged by counting what came before."""
    rng = random.Random(7)
    times = sorted(rng.randrange(0, 20_000_000) for _ in range(1_000))
    lane, counting = Lane(Window.SLIDING), Lane(Window.SLIDING_COUNTING_REFUSED)
    accepted: list[int] = []
    for index, at in enumerate(times):
        before = sum(1 for other in accepted if at - other < 1_000_000)
        verdict = lane.admit(at / 1e6, LIMIT) is None
        assert verdict == (before < LIMIT)
        if verdict:
            accepted.append(at)
        arrived = sum(1 for other in times[:index] if at - other < 1_000_000)
        assert (counting.admit(at / 1e6, LIMIT) is None) == (arrived < LIMIT)


def test_the_worst_second_is_the_fullest_sliding_one() -> None:
    worst = WorstSecond()
    for at in (0.0, 0.5, 0.9, 1.0, 1.4, 1.45, 3.0):
        worst.arrive(NOW + at)
    assert worst.most == 5  # 0.5, 0.9, 1.0, 1.4, 1.45


def caller_of(world: World, access: str, key: str = "AKIDA") -> Caller:
    return Caller(world, access=access, secret_id=key, secret_key="k")


def test_each_identity_action_and_access_region_has_a_quota_of_its_own() -> None:
    """X-TC-Region opens no new quota, and neither does a second key of the same sub-account (CN-RATE)."""
    keys = {
        "AKIDA": KeyRecord(secret_key="k", identity="ops"),
        "AKIDB": KeyRecord(secret_key="k", identity="ops"),
        "AKIDC": KeyRecord(secret_key="k"),
    }
    world = World(keys=keys)
    first = caller_of(world, "127.0.0.1:1")
    assert [first.write("LockAccount") for _ in range(20)] == [None] * 20
    throttled = "RequestLimitExceeded"
    assert first.write("LockAccount") == throttled
    assert first.write("LockAccount", region="ap-tokyo") == throttled
    assert caller_of(world, "127.0.0.1:1", "AKIDB").write("LockAccount") == throttled
    assert caller_of(world, "127.0.0.1:1", "AKIDC").write("LockAccount") is None
    assert caller_of(world, "127.0.0.1:2").write("LockAccount") is None
    assert first.write("UnlockAccount") is None
    assert world.worst_second("LockAccount", "127.0.0.1:1") == 24
    assert world.worst_second("LockAccount", "127.0.0.1:2") == 1
    assert world.worst_second("LockAccount", "nowhere") == 0


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [(None, 20), ({"LockAccount": 3}, 3), ({"*": 5}, 5), ({"*": 5, "LockAccount": None}, 100), ({"*": None}, 100)],
)
def test_a_quota_may_be_changed_or_lifted(quotas: dict[str, int | None] | None, expected: int) -> None:
    caller = Caller(World(quotas=quotas))
    assert [caller.write("LockAccount") for _ in range(100)].count(None) == expected


def test_reads_have_a_thousand_and_writes_twenty() -> None:
    caller = Caller(World())
    page = {"DBInstanceId": INSTANCE}
    codes = [caller.code("DescribeAccounts", page) for _ in range(1_001)]
    assert codes == [None] * 1_000 + ["RequestLimitExceeded"]


def test_the_refusal_counts_itself_and_names_the_limit() -> None:
    """The wording users quote (CN-RATE); nobody may parse it, so it comes in two languages."""
    caller = Caller(World())
    for _ in range(20):
        caller.write("LockAccount")
    target = {"DBInstanceId": INSTANCE, "UserName": "a"}
    english = caller.call("LockAccount", target)["Error"]["Message"]
    assert english == (
        "Your current request times equals to `21` in a second, which exceeds the frequency limit `20` for a second."
        " Please reduce the frequency of calls."
    )
    chinese = caller.call("LockAccount", target, extra={"X-TC-Language": "zh-CN"})["Error"]["Message"]
    assert "`22`" in chinese
    assert "超过" in chinese


def test_a_throttled_call_is_not_applied_and_a_bad_signature_uses_no_quota() -> None:
    caller = Caller(World(quotas={"*": 1}))
    assert caller.write("LockAccount", secret_key="wrong") == "AuthFailure.SignatureFailure"
    assert caller.write("LockAccount", user="first") is None
    assert caller.write("LockAccount", user="second") == "RequestLimitExceeded"
    assert caller.world.account(INSTANCE, "second") is None


def test_settings_that_name_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="LokAccount"):
        World(quotas={"LokAccount": 3})
    with pytest.raises(ValueError, match="fixed"):
        World(quota_window="fixed")
