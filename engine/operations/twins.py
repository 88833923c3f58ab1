"""Find two names of one access point, which are one quota, beside the sending, which never waits for it.

`nearest` leads to one of the access regions, and which one depends on where this machine stands. If that region is
named, too, two lanes draw on one quota, and each is throttled for the other's calls. The same addresses show it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from engine.cloud.proxy import WayOut
    from engine.run.runner import Runner

LIMIT_S = 5.0
"""Longest lookup of a name, in seconds."""

Addresses = frozenset[tuple[str, int]]


async def addresses_of(endpoint: str) -> Addresses:
    """Return the addresses and port of an endpoint, as this machine's resolver has them; empty if it does not know."""
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(LIMIT_S):
            found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port)
    except (OSError, ValueError, TimeoutError):
        return frozenset()
    return frozenset((str(address[0]), port) for *_, address in found)


async def close_twins(runner: Runner, way: WayOut, look: Callable[[str], Awaitable[Addresses]] = addresses_of) -> None:
    """Close every lane whose access point another lane of the same keys and calls has under another name.

    If addresses are not known, because a proxy or nobody looks the names up, the journal notes that.
    """
    lanes = runner.open_lanes()
    endpoints = list(dict.fromkeys(lane.client.endpoint for lane in lanes))
    if len(endpoints) < 2:
        return
    unknown = [endpoint for endpoint in endpoints if way.proxy_for(endpoint) is not None]
    asked = [endpoint for endpoint in endpoints if endpoint not in unknown]
    found = dict(zip(asked, await asyncio.gather(*map(look, asked)), strict=True))
    unknown += [endpoint for endpoint, addresses in found.items() if not addresses]
    if len(unknown) > 1 or (unknown and len(unknown) < len(endpoints)):
        runner.note("lanes_not_compared", {"endpoints": unknown, "why": "their addresses are not known here"})
    for number, lane in enumerate(lanes):
        mine = found.get(lane.client.endpoint)
        for other in lanes[:number]:
            is_rival = other.route == lane.route and other.client.identity == lane.client.identity
            if mine and is_rival and other.client.endpoint != lane.client.endpoint and not other.closed:
                theirs = found.get(other.client.endpoint)
                if theirs and mine & theirs:
                    why = f"{lane.client.host} leads to the same servers as {other.client.host}: one quota"
                    runner.close_lanes([lane], why)
                    break
