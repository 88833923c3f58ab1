"""Simulated worlds that keep an account of what arrived, as a process: `python -m tests.bench.worlds JSON`.

The argument is a list of {window, jitter, ports}. Prints the URLs of all ports in order; when its standard input ends,
what arrived at each: accepted, refused, first and last accepted arrival, worst second; and how late a timer of this
process was at worst: what the machine, not the client, did to the arrivals.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from typing import Any
from urllib.parse import urlsplit

from engine.simulator.server import Server, serve
from engine.simulator.world import World

ACTION = "LockAccount"
TICK_S = 0.005


async def main(specs: list[dict[str, Any]]) -> None:
    found: list[tuple[World, Server]] = []
    for number, spec in enumerate(specs):
        world = World(
            quota_window="calendar" if spec["window"] == "none" else spec["window"],
            quotas={"*": None} if spec["window"] == "none" else {},
            jitter=spec["jitter"],
            latency=spec.get("latency", 0.0),
            seed=number + 1,
            audit=None,
        )
        found.append((world, await serve(world, ports=[0] * spec["ports"])))
    gc.freeze()
    say([url for _, server in found for url in server.endpoints])
    clock = Clock()
    ticking = asyncio.ensure_future(clock.tick())
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    ticking.cancel()
    say([account(world, url) | {"late_ms": clock.late_ms} for world, server in found for url in server.endpoints])
    for _, server in found:
        await server.aclose()


class Clock:
    """How late timers are."""

    def __init__(self) -> None:
        self.late_ms = 0

    async def tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self.late_ms = max(self.late_ms, round((loop.time() - due) * 1000))


def account(world: World, url: str) -> dict[str, Any]:
    access = urlsplit(url).netloc
    arrivals = [arrival for arrival in world.audit if arrival.access == access and arrival.action == ACTION]
    accepted = [arrival.at for arrival in arrivals if arrival.code is None]
    return {
        "accepted": len(accepted),
        "refused": len(arrivals) - len(accepted),
        "first": min(accepted, default=0.0),
        "last": max(accepted, default=0.0),
        "middle": middle(accepted),
        "worst_second": world.worst_second(ACTION, access),
    }


def middle(accepted: list[float]) -> float:
    """Calls a second in the middle half of the time: without the beginning and the end."""
    if len(accepted) < 4:
        return 0.0
    quarter = (accepted[-1] - accepted[0]) / 4
    begin, end = accepted[0] + quarter, accepted[-1] - quarter
    return sum(begin <= at < end for at in accepted) / (end - begin)


def say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
