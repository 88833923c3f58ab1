"""What a page costs the run that writes it: CPU of the command with and without `--page`, in turn."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.machine import Row, Say, environment

_WAYS: dict[str, list[str]] = {
    "no page": [],
    "--page": ["--page", "page.html"],
    "--page --page-names": ["--page", "page.html", "--page-names"],
}


def measure(say: Say, *, quick: bool) -> list[Row]:
    """A simulated run at a real pace, so that pages are written as often as at night; CPU of the whole command."""
    rounds, count, rate = (2, 300, 20) if quick else (5, 1200, 20)
    say(f"page: {rounds} rounds of {count} calls at {rate}/s by {', '.join(_WAYS)}")
    taken: dict[str, list[float]] = {name: [] for name in _WAYS}
    size: dict[str, int] = {}
    for _ in range(rounds):
        for name, flags in _WAYS.items():
            with tempfile.TemporaryDirectory(prefix="acctops-bench-") as where:
                place = Path(where)
                lines = "".join(f"  - postgres-{number // 10:08d}/user{number % 10}\n" for number in range(count))
                (place / "job.yaml").write_text(
                    f"action: LockAccount\nregion: ap-singapore\nprotect: none\ntargets:\n{lines}"
                )
                argv = [sys.executable, "-m", "engine", "run", "job.yaml", "--simulate", "--yes", "--quiet"]
                taken[name].append(_cpu([*argv, *flags], place))
                page = place / "page.html"
                size[name] = page.stat().st_size if page.exists() else 0
    plain = statistics.median(taken["no page"])
    return [
        {
            "who": name,
            "calls": count,
            "cpu_s": round(statistics.median(seconds), 2),
            "cpu_us_a_call": round(statistics.median(seconds) / count * 1e6),
            "more_than_without": f"{statistics.median(seconds) / plain - 1:.0%}",
            "page_kb": size[name] // 1000,
        }
        for name, seconds in taken.items()
    ]


def _cpu(argv: list[str], place: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, cwd=place, env=environment(place), check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
