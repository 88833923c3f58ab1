"""How a plan is divided among workers: whole instances, one route and wave a shard, several shards a lane."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from engine.api.endpoints import Access
from engine.model import Call, call_id
from engine.planning.routes import Route, routes_of
from engine.planning.shards import A_LANE, LEAST, MOST, Part, divide

ACCESS = Access(("https://a", "https://b"), {"ap-tokyo": "https://c"})


def calls_of(rng: random.Random, instances: int, most: int) -> list[Call]:
    """A plan whose instances are in two regions and two accounts, in any order."""
    found = []
    for number in range(instances):
        region, account = rng.choice(["ap-singapore", "ap-tokyo"]), rng.choice(["", "other"])
        name = f"postgres-{number:08x}"
        for user in range(rng.randint(1, most)):
            key = (account, region, name, f"u{user}", "LockAccount")
            found.append(Call(call_id(*key), "LockAccount", account, region, name, f"u{user}"))
    rng.shuffle(found)
    return found


def divided(calls: list[Call], waves: list[int], lanes: int = 2) -> list[Part]:
    routes = routes_of(calls, ACCESS)
    return divide(calls, routes, waves, {route: [f"lane {n}" for n in range(lanes)] for route in routes.every})


@pytest.mark.parametrize("seed", range(30))
def test_each_call_is_in_one_shard_with_its_whole_instance(seed: int) -> None:
    """So what is counted for an instance is counted by one session; and every shard is of one route and wave."""
    rng = random.Random(seed)
    calls = calls_of(rng, rng.randint(1, 60), rng.randint(1, 30))
    cut = rng.randint(0, len(calls))
    waves = rng.choice([[], [cut, len(calls) - cut]])
    routes = routes_of(calls, ACCESS)
    parts = divided(calls, waves)
    assert [part.no for part in parts] == list(range(1, len(parts) + 1))
    due = Counter((0 if not waves else 1 if at < cut else 2, call.where) for at, call in enumerate(calls))
    found: Counter[tuple[int, object]] = Counter()
    for part in parts:
        assert part.calls == sum(due[part.wave, where] for where in part.instances)
        found.update((part.wave, where) for where in part.instances)
    assert set(found) == set(due) and set(found.values()) == {1}
    of = {call.where: routes.of[at] for at, call in enumerate(calls)}
    assert all({of[where] for where in part.instances} == {part.route} for part in parts)


@pytest.mark.parametrize(
    ("instances", "each", "lanes", "shards"),
    [
        (1, 5, 1, 1),
        (100, 1, 1, A_LANE),
        (100, 1, 2, 5),
        (1000, 1, 3, 12),
        (3, 1, 9, 1),
        (40_000, 1, 1, 4),
        (4, 50, 1, 4),
    ],
)
def test_a_lane_has_several_shards_of_a_second_or_more(instances: int, each: int, lanes: int, shards: int) -> None:
    """So that a lane which is done takes from another; but a shard of a few calls would be all beginning and end."""
    calls = []
    for number in range(instances):
        name = f"postgres-{number:08x}"
        for user in range(each):
            key = ("", "ap-singapore", name, f"u{user}", "LockAccount")
            calls.append(Call(call_id(*key), "LockAccount", "", "ap-singapore", name, f"u{user}"))
    parts = divided(calls, [], lanes)
    assert len(parts) == shards
    assert all(part.calls <= MOST for part in parts)
    assert len(parts) == 1 or min(part.calls for part in parts) >= LEAST / 2
    sizes = [part.calls for part in parts]
    assert max(sizes) - min(sizes) <= max(each, 1)


def test_an_instance_that_is_larger_than_a_shard_stays_whole() -> None:
    """Its shard is larger then: to divide it would let two sessions count its superusers."""
    calls = []
    for name, count in (("postgres-aaaaaaaa", MOST + 1), ("postgres-bbbbbbbb", 3)):
        for user in range(count):
            key = ("", "ap-singapore", name, f"u{user}", "LockAccount")
            calls.append(Call(call_id(*key), "LockAccount", "", "ap-singapore", name, f"u{user}"))
    assert [part.calls for part in divided(calls, [], 1)] == [MOST + 1, 3]


def test_a_plan_of_nothing_has_no_shard() -> None:
    """There is nothing that a worker could take."""
    assert divided([], []) == []


def test_lanes_of_a_route_decide_and_not_those_of_another() -> None:
    """A region with one access point has fewer lanes than one with two."""
    calls = [
        Call(
            call_id("", region, f"postgres-{n:08x}", "u", "LockAccount"),
            "LockAccount",
            "",
            region,
            f"postgres-{n:08x}",
            "u",
        )
        for n, region in enumerate(["ap-singapore", "ap-tokyo"] * 200)
    ]
    routes = routes_of(calls, ACCESS)
    one, two = routes.every if len(routes.every[0].endpoints) == 1 else reversed(routes.every)
    assert isinstance(one, Route)
    parts = divide(calls, routes, [], {one: ["x"], two: ["y", "z"]})
    assert Counter(part.route for part in parts) == {routes.every.index(one): 4, routes.every.index(two): 8}
