"""How a plan is divided into shards, the parts of a run that workers take. No I/O.

A shard is whole instances of one route and one wave: so what is counted for an instance (attempts at a time, superusers
that stay, readings) is counted by one session. A lane takes one shard after the other, and a lane that has none left
takes those that another would have taken. So there are several a lane: at least `A_LANE`, as far as that leaves no
shard with fewer than `LEAST` calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from engine.model import Call, Where
    from engine.planning.routes import Route, Routes

MOST = 10_000
"""Calls of a shard, unless one instance has more."""
A_LANE = 4
LEAST = 20
"""Calls, a second of a lane: each shard has a beginning and an end, in which its accounts are read."""


class Part(Struct, frozen=True, kw_only=True):
    """A shard of a plan."""

    no: int
    """From 1 on."""
    wave: int
    """The wave that all of its calls are in; 0 if the plan has none."""
    route: int
    """Index of its route in `Routes.every`."""
    calls: int
    instances: tuple[Where, ...]


def divide(
    calls: Sequence[Call], routes: Routes, waves: Sequence[int], lanes: Mapping[Route, Sequence[str]]
) -> list[Part]:
    """Return the shards of a plan, numbered from 1; `waves`: how many calls each wave has, none: there are none.

    `lanes`: which lanes take the calls of a route.
    """
    groups: dict[tuple[int, int], dict[Where, int]] = {}
    ends = [sum(waves[: number + 1]) for number in range(len(waves))]
    wave = min(1, len(ends))
    for index, call in enumerate(calls):
        while wave and wave < len(ends) and index >= ends[wave - 1]:
            wave += 1
        instances = groups.setdefault((wave, routes.of[index]), {})
        instances[call.where] = instances.get(call.where, 0) + 1
    parts: list[Part] = []
    for (wave, route), instances in groups.items():
        count = len(lanes[routes.every[route]])
        for places in _split(instances, count):
            size = sum(instances[where] for where in places)
            parts.append(Part(no=len(parts) + 1, wave=wave, route=route, calls=size, instances=tuple(places)))
    return parts


def _split(instances: Mapping[Where, int], lanes: int) -> list[list[Where]]:
    """Return the instances in groups with about as many calls each, in their order."""
    total = sum(instances.values())
    wanted = max(-(-total // MOST), min(A_LANE * max(1, lanes), total // LEAST), 1)
    found: list[list[Where]] = [[]]
    taken = here = 0
    for where, count in instances.items():
        is_full = here and (here + count > MOST or taken + count / 2 > total * len(found) / wanted)
        if is_full:
            found.append([])
            here = 0
        found[-1].append(where)
        here += count
        taken += count
    return found


def owner_of(lane: str) -> str:
    """Return whose quota a lane is, by its name."""
    return lane.rsplit("/", 2)[0]


def owner_words(owner: str) -> str:
    """Return the owner of a quota, as a person reads it."""
    kind, _, fingerprint = owner.partition(" ")
    return f"keys of fingerprint {fingerprint[:8]}" if kind == "key" else f"sub-account {owner}"
