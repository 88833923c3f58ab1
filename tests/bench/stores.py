"""What a call costs, and how soon its `sent` is durable, with the journal in files and in a database, in turn."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.machine import Row, Say, contend, figures, server
from tests.support.postgres import Postgres, serving

_QUOTA = 20.0


def measure(say: Say, *, quick: bool) -> list[Row]:
    """With the limit lifted, and 20 lanes × 20/s."""
    rounds, count, paced_s = (3, 3000, 8) if quick else (7, 20_000, 25)
    with serving() as postgres:
        url = postgres.fresh()
        say(f"stores: {rounds} rounds of {count} calls, then {paced_s} s of 20 lanes, in files and in a database")
        rows = [_lifted(postgres, url, rounds, count), _paced(postgres, url, paced_s)]
    return [row for pair in rows for row in pair]


@contextmanager
def _kept(url: str) -> Iterator[None]:
    if url:
        os.environ["ACCTOPS_DATABASE"] = url
    try:
        yield
    finally:
        os.environ.pop("ACCTOPS_DATABASE", None)


def _lifted(postgres: Postgres, url: str, rounds: int, count: int) -> list[Row]:
    taken: dict[str, list[Row]] = {"files": [], "database": []}
    with server("answers") as answers:
        for _ in range(rounds):
            for name, rows in taken.items():
                with _kept(url if name == "database" else ""):
                    before = _cpu_s(postgres)
                    row = figures(contend("store", answers.urls, count))
                    rows.append(row | {"server_cpu_s": _cpu_s(postgres) - before})
    return [
        {"journal": name, "how": f"{count} calls, no limit"} | _medians(rows, count) for name, rows in taken.items()
    ]


def _paced(postgres: Postgres, url: str, seconds: int) -> list[Row]:
    count = 20 * int(_QUOTA) * seconds
    spec = [{"window": "sliding", "jitter": 0.0, "ports": 20}]
    found = []
    for name in ("files", "database"):
        with _kept(url if name == "database" else ""), server("worlds", json.dumps(spec)) as worlds:
            before = _cpu_s(postgres)
            row = figures(contend("store", worlds.urls, count, str(_QUOTA), "cold"))
            row["server_cpu_s"] = _cpu_s(postgres) - before
            seen = worlds.end()
        used = sorted(lane["accepted"] / (_QUOTA * (lane["last"] - lane["first"])) for lane in seen)
        how = {"journal": name, "how": f"20 lanes x 20/s, {seconds} s"}
        found.append(how | _medians([row], count) | {"least_used": round(used[0], 3)})
    return found


def _medians(rows: list[Row], count: int) -> Row:
    def median(key: str) -> float:
        return float(statistics.median(row[key] for row in rows))

    return {
        "cpu_us_a_call": round(median("cpu_s") / count * 1e6, 1),
        "postgres_us_a_call": round(median("server_cpu_s") / count * 1e6, 1),
        "calls_a_second": round(count / median("wall_s")),
        "sent_p50_ms": round(median("sent_p50_ms"), 2),
        "sent_p99_ms": round(median("sent_p99_ms"), 2),
        "peak_mb": round(median("peak_mb"), 1),
    }


def _cpu_s(postgres: Postgres) -> float:
    """CPU seconds of the server and of all its processes, those that have ended included."""
    time.sleep(0.3)  # a session that has just ended is counted by its parent once it was waited for
    main = int((postgres.data / "postmaster.pid").read_text().splitlines()[0])
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    ticks = 0
    for pid in (str(main), *children):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:13])) + (sum(map(int, fields[13:15])) if pid == str(main) else 0)
    return ticks / os.sysconf("SC_CLK_TCK")
