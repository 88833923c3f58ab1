"""How full the quota is, and how often it is broken: over real sockets, in real time, against all four windows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import product

from engine.simulator.quotas import Window
from tests.bench.machine import Row, Say, contend, figures, server

QUOTA = 20.0
JITTERS_MS = (0, 20, 100)
TARGETS = {0: (0.98, 0.5), 20: (0.965, 0.5), 100: (0.85, 1.5)}
"""Design §8, for 400 calls: quota used at least, % throttled at most."""
SIXTEEN_S = 11.0
"""Design §8: 3,000 calls over 16 access regions, which take 150 s through one."""


def measure(say: Say, *, quick: bool) -> list[Row]:
    """Quick: 400 calls, ours only, all at once. Else the obvious script too, and 1,200 calls; four at a time."""
    cases = list(product(JITTERS_MS, Window))
    if quick:
        return list(_together(say, "engine", 400, cases))
    rows: list[Row] = []
    for name, calls in (("engine", 400), ("engine", 1200), ("obvious", 400)):
        for jitter_ms in JITTERS_MS:
            rows += _together(say, name, calls, [case for case in cases if case[0] == jitter_ms])
    return rows


def _together(say: Say, name: str, calls: int, cases: Sequence[tuple[int, Window]]) -> Iterator[Row]:
    say(f"pace: {name}, {calls} calls, {len(cases)} servers, about {calls / QUOTA:.0f} s")
    specs = [{"window": str(window), "jitter": jitter_ms / 1000, "ports": 1} for jitter_ms, window in cases]
    with server("worlds", json.dumps(specs)) as worlds:
        processes = [contend(name, [url], calls, str(QUOTA), "cold") for url in worlds.urls]
        for process in processes:
            figures(process)
        for (jitter_ms, window), seen in zip(cases, worlds.end(), strict=True):
            used = seen["accepted"] / (QUOTA * (seen["last"] - seen["first"]))
            throttled = 100 * seen["refused"] / calls
            at_least, at_most = TARGETS[jitter_ms]
            yield {
                "who": name,
                "calls": calls,
                "jitter_ms": jitter_ms,
                "window": str(window),
                "used": round(used, 4),
                "throttled_%": round(throttled, 2),
                "worst_arrived": seen["worst_second"],
                "server_late_ms": seen["late_ms"],
                "reached": used >= at_least and throttled <= at_most,
            }


def lanes(say: Say, *, quick: bool) -> list[Row]:
    """Fifty lanes in one process: every one as full as a single one; and one job over sixteen access regions."""
    fifty = _lanes(say, 50, 50 * int(QUOTA) * (8 if quick else 25))
    sixteen = _lanes(say, 16, 3000)
    fifty["reached"] = fifty["least_used"] >= 0.97
    sixteen["reached"] = sixteen["wall_s"] <= SIXTEEN_S
    return [fifty, sixteen]


def _used(lane: Row) -> float:
    """Of its quota, from the first accepted call to the last."""
    used: float = lane["accepted"] / (QUOTA * (lane["last"] - lane["first"]))
    return used


def _lanes(say: Say, count: int, calls: int) -> Row:
    say(f"lanes: {count} × {QUOTA:.0f}/s, {calls / count / QUOTA:.0f} s")
    spec = [{"window": "sliding", "jitter": 0.0, "ports": count}]
    with server("worlds", json.dumps(spec)) as worlds:
        ran = figures(contend("engine", worlds.urls, calls, str(QUOTA), "cold"))
        seen = worlds.end()
    used = sorted(_used(lane) for lane in seen)
    unrefused = [_used(lane) for lane in seen if not lane["refused"]]
    return {
        "lanes": count,
        "calls": sum(lane["accepted"] for lane in seen),
        "wall_s": round(ran["wall_s"], 2),
        "least_used": round(used[0], 4),
        "median_used": round(used[count // 2], 4),
        "throttled_%": round(100 * sum(lane["refused"] for lane in seen) / calls, 2),
        "lanes_refused": count - len(unrefused),
        "least_unrefused": round(min(unrefused), 4) if unrefused else None,
        "server_late_ms": seen[0]["late_ms"],
        "cpu_share": round(ran["cpu_s"] / ran["wall_s"], 2),
    }
