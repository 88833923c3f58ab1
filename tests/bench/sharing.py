"""What many journals, and many lanes, of one process cost the database and the process that has them.

`python -m tests.bench.sharing journals|lanes URL COUNT SECONDS` is the process that is measured; `journals` of one goes
as fast as it can. It prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

from tests.bench.machine import ROOT, Row, Say, figures
from tests.support.journals import NOW, plan, sent, settled

_RATE = 20.0


def measure(say: Say, *, quick: bool) -> list[Row]:
    """One hundred journals × 20 calls/s, one alone, and fifty lanes × 20 slots/s."""
    from tests.bench.stores import _cpu_s
    from tests.support.postgres import serving

    seconds, rows = 5 if quick else 20, []
    with serving() as postgres:
        for what, count in (("journals", 100), ("journals", 1), ("lanes", 50)):
            url = postgres.fresh()
            name = url.rpartition("/")[2]
            say(f"sharing: {count} {what}, {seconds} s")
            commits = f"select xact_commit from pg_stat_database where datname = '{name}'"
            command = [sys.executable, "-m", "tests.bench.sharing", what, url, str(count), str(seconds)]
            before, at_first = _cpu_s(postgres), int(str(postgres.sql("postgres", commits)[0][0]))
            row = figures(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
            calls, wall_s = row.pop("calls"), row.pop("wall_s")
            row["postgres_us_a_call"] = round((_cpu_s(postgres) - before) / calls * 1e6, 1)
            time.sleep(1.0)  # the server counts commits with a delay
            made = int(str(postgres.sql("postgres", commits)[0][0])) - at_first
            rows.append({"what": f"{count} {what}", "commits_a_second": round(made / wall_s)} | row)
    return rows


async def journals(url: str, count: int, seconds: float) -> Row:
    """Each call appends `sent`, waits until it is durable, and appends two more lines."""
    from engine.journal.database.runs import DatabaseRuns
    from engine.outside.trust import Trust

    runs = DatabaseRuns(url, Path("/nonexistent"), simulated=False, trust=Trust())
    opened = []
    for seed in range(count):
        run_id = runs.new_run_id(NOW + seed, Random(seed))
        opened.append(runs.create(run_id, plan(4), clock=time.time))
    took: list[float] = []

    async def calls(journal: Any, began: float) -> None:  # Any: how journals are made is being measured
        number = 0
        while time.monotonic() < began + seconds:
            asked = time.perf_counter()
            seq = journal.append(sent(number % 4))
            await journal.durable(seq)
            took.append(time.perf_counter() - asked)
            journal.append(settled(number % 4))
            journal.append(settled(number % 4))
            number += 1
            if count > 1:
                await asyncio.sleep(max(0.0, began + number / _RATE - time.monotonic()))

    cpu_s, wall = time.process_time(), time.monotonic()
    await asyncio.gather(*(calls(each, wall + Random(n).random() / _RATE) for n, each in enumerate(opened)))
    found = _found(took, time.process_time() - cpu_s, time.monotonic() - wall)
    for each in opened:
        await each.aclose()
    return found


async def lanes(url: str, count: int, seconds: float) -> Row:
    """Each lane takes a slot after the other, as a pacer does."""
    from engine.journal.database.slots import Asker, DatabaseSlots, Slot

    class Counting(Asker):
        unanswered = 0

        async def ask(self, *args: Any, **named: Any) -> Slot:  # Any: as it has it
            try:
                return await super().ask(*args, **named)
            except Exception:
                self.unanswered += 1
                raise

    asker, took = Counting(url), list[float]()

    async def lane(number: int, began: float) -> None:
        await asyncio.sleep(Random(number).random())
        slots = DatabaseSlots(asker, f"lane {number}", clock=time.monotonic)
        while time.monotonic() < began + seconds:
            asked = time.perf_counter()
            at = await slots.reserve(rate=_RATE, interval_s=1.02 / _RATE, window_s=1.01)
            took.append(time.perf_counter() - asked)
            await asyncio.sleep(max(0.001, at - time.monotonic()))

    cpu_s, wall = time.process_time(), time.monotonic()
    await asyncio.gather(*(lane(number, wall) for number in range(count)))
    found = _found(took, time.process_time() - cpu_s, time.monotonic() - wall)
    asker.close()
    return found | {"unanswered": asker.unanswered}


def _found(took: list[float], cpu_s: float, wall_s: float) -> Row:
    took.sort()
    return {
        "calls": len(took),
        "wall_s": wall_s,
        "calls_a_second": round(len(took) / wall_s),
        "cpu_us_a_call": round(cpu_s / len(took) * 1e6, 1),
        "answer_p50_ms": round(took[len(took) // 2] * 1000, 2),
        "answer_p99_ms": round(took[int(len(took) * 0.99)] * 1000, 2),
    }


def main(what: str, url: str, count: str, seconds: str) -> None:
    """Measure in this process."""
    work = {"journals": journals, "lanes": lanes}[what]
    sys.stdout.write(json.dumps(asyncio.run(work(url, int(count), float(seconds)))) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
