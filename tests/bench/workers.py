"""What a run costs, and how well it uses its lanes, as a command alone and carried out by workers, in turn.

All of it is real: commands as processes, PostgreSQL with fsync, sockets. CPU is of the processes that send (and lead),
while the run goes; that of whoever follows the run stands beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

from engine.journal.database.dispatch import migrate_dispatch
from tests.bench.machine import Row, Say, environment, server
from tests.bench.stores import _cpu_s
from tests.support.postgres import Postgres, serving

_QUOTA = 20
_READY_S = 60
_A_PLACE = 5
"""Calls of one instance."""


def measure(say: Say, *, quick: bool) -> list[Row]:
    """Ten lanes × 20/s: files, database, one worker, three; then 50 and 100 lanes, files and one worker."""
    seconds = 12 if quick else 30
    few: tuple[str | int, ...] = ("files", "database", 1, 3)
    ways = [(how, 10, _QUOTA) for how in few]
    ways += [(how, lanes, rate) for lanes, rate in ((50, _QUOTA), (100, 8), (100, _QUOTA)) for how in ("files", 1)]
    rows = []
    with serving() as postgres:
        for how, lanes, rate in ways:
            say(f"workers: {lanes} lanes × {rate}/s, {seconds} s, {how}")
            rows.append(_row(postgres, how, lanes, seconds, rate))
    return rows


def _row(postgres: Postgres, how: str | int, lanes: int, seconds: int, rate: int = _QUOTA) -> Row:
    """Measure one way: `files`, `database`, or so many workers."""
    count = lanes * rate * seconds
    url = postgres.fresh()
    migrate_dispatch(postgres.url(url.rpartition("/")[2]))
    spec = [{"window": "sliding", "jitter": 0.0, "ports": lanes}]
    with tempfile.TemporaryDirectory(prefix="acctops-bench-") as where, ExitStack() as stack:
        place = Path(where)
        worlds = stack.enter_context(server("worlds", json.dumps(spec)))
        _write(place, worlds.urls, count)
        workers = how if isinstance(how, int) else 0
        share = -(-lanes // workers) if workers else 0
        database = [] if how == "files" else ["--database", url]
        fleet = [
            stack.enter_context(_worker(place, f"worker{number}", [*database, "--lanes", str(share)]))
            for number in range(workers)
        ]
        if fleet:
            _wait_for_workers(url, workers)
        before, postgres_s = sum(map(_process_s, fleet)), _cpu_s(postgres)
        idle_mb = max(map(_resident_mb, fleet), default=0)
        began, load = time.monotonic(), os.getloadavg()[0]
        words = [*database, "--rate", str(rate), "--yes", "--quiet", "--no-verify", "job.yaml"]
        run = _started(place, "run", ["run", *words])
        if run.wait():
            raise SystemExit(f"{how}: the run ended with {run.returncode}: {(place / 'run.out').read_text()}")
        wall_s, after, postgres_s = time.monotonic() - began, sum(map(_process_s, fleet)), _cpu_s(postgres) - postgres_s
        connections = _connections(postgres, url)
        seen = worlds.end()
        stack.close()  # workers write their figures as they end
        said = [json.loads((place / f"{name}.json").read_text()) for name in _names(workers)]
        own = json.loads((place / "run.json").read_text())
    late = sorted(each for one in said for each in one["late_ms"])
    used = sorted(each["accepted"] / (rate * (each["last"] - each["first"])) for each in seen)
    middle = sorted(each["middle"] / rate for each in seen)
    return {
        "how": f"{workers} worker{'s' * (workers > 1)}" if workers else how,
        "lanes": f"{lanes} × {rate}/s",
        "calls": count,
        "wall_s": round(wall_s, 1),
        "cpu_us_a_call": round((after - before if fleet else own["cpu_s"]) / count * 1e6),
        "follower_us": round(own["cpu_s"] / count * 1e6) if fleet else None,
        "postgres_us": round(postgres_s / count * 1e6),
        "sent_p50_ms": round(late[len(late) // 2], 1),
        "sent_p99_ms": round(late[int(len(late) * 0.99)], 1),
        "used_least": round(used[0], 3),
        "middle_least": round(middle[0], 3),
        "middle_median": round(middle[len(middle) // 2], 3),
        "refused": sum(each["refused"] for each in seen),
        "worst_second": max(each["worst_second"] for each in seen),
        "server_late_ms": seen[0]["late_ms"],
        "idle_mb": round(idle_mb) or None,
        "peak_mb": round(max(one["peak_mb"] for one in said)),
        "threads": max(one["threads"] for one in said),
        "files": max(one["files"] for one in said),
        "connections": connections if database else None,
        "load": round(load, 1),
    }


def _names(workers: int) -> Sequence[str]:
    return [f"worker{number}" for number in range(workers)] if workers else ["run"]


def _write(place: Path, urls: Sequence[str], count: int) -> None:
    """Write the job and the config."""
    accounts = (f"  - postgres-{number // _A_PLACE:08d}/user{number % _A_PLACE}\n" for number in range(count))
    job = f"action: LockAccount\nregion: ap-singapore\nprotect: none\ntargets:\n{''.join(accounts)}"
    (place / "job.yaml").write_text(job)
    (place / "config.yaml").write_text(f"endpoint: {json.dumps(list(urls))}\n")


def _started(place: Path, name: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.bench.clocked", str(place / f"{name}.json"), words[0]]
    command += ["--config", str(place / "config.yaml"), *words[1:]]
    with (place / f"{name}.out").open("wb") as out:
        return subprocess.Popen(command, cwd=place, env=environment(place), stdout=out, stderr=out)


@contextmanager
def _worker(place: Path, name: str, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = _started(place, name, ["worker", *words])
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def _wait_for_workers(url: str, count: int) -> None:
    """Wait until so many workers have said that they live, and have had a moment to become idle."""
    until = time.monotonic() + _READY_S
    with psycopg.connect(url.replace("worker@", "hunter2@"), autocommit=True) as connection:
        while connection.execute("select count(*) from acctops.worker").fetchone() != (count,):
            if time.monotonic() > until:
                raise SystemExit(f"no {count} workers after {_READY_S} s")
            time.sleep(0.1)
    time.sleep(2.0)


def _connections(postgres: Postgres, url: str) -> int:
    name = url.rpartition("/")[2]
    return int(str(postgres.sql("postgres", f"select count(*) from pg_stat_activity where datname = '{name}'")[0][0]))


def _process_s(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _resident_mb(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
