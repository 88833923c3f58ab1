"""What a call costs: CPU, memory, with the limit lifted; planning and replaying a million; starting."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.contenders import CONTENDERS
from tests.bench.machine import Row, Say, contend, environment, figures, in_turn, server, timed

MILLION = 1_000_000


def calls(say: Say, *, quick: bool) -> list[Row]:
    """In turn, medians: a bare loop, the obvious script, ours with its journal durable."""
    rounds, count = (3, 3000) if quick else (7, 20_000)
    say(f"cost: {rounds} rounds of {count} calls by {', '.join(CONTENDERS)}")
    taken: dict[str, list[Row]] = {name: [] for name in CONTENDERS}
    with server("answers") as answers:
        for _ in range(rounds):
            for name, rows in taken.items():
                rows.append(figures(contend(name, answers.urls, count)))
    cpu_us = {name: statistics.median(row["cpu_s"] for row in rows) / count * 1e6 for name, rows in taken.items()}
    return [
        {
            "who": name,
            "calls": count,
            "cpu_us_a_call": round(cpu_us[name], 1),
            "x_bare": round(cpu_us[name] / cpu_us["bare"], 2),
            "x_bare_round_by_round": round(
                statistics.median(row["cpu_s"] / bare["cpu_s"] for row, bare in zip(rows, taken["bare"], strict=True)),
                2,
            ),
            "calls_a_second": round(count / statistics.median(row["wall_s"] for row in rows)),
            "peak_mb": round(statistics.median(row["peak_mb"] for row in rows), 1),
        }
        for name, rows in taken.items()
    ]


# ---- a million -----------------------------------------------------------------------------------------------------

_REPLAY = """
import gc, sys, time, resource
from pathlib import Path
from engine.journal.reader import replay
gc.disable()  # as every command does that only looks back (engine.cli.entry)
began = time.perf_counter()
replay(Path(sys.argv[1]))
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def million(say: Say, *, quick: bool) -> list[Row]:
    """A plan of a million targets from CSV, and the replay of a million records."""
    count = MILLION // 10 if quick else MILLION
    say(f"million: plan of {count:,} targets, replay of {count:,} records")
    with tempfile.TemporaryDirectory(prefix="acctops-bench-") as name:
        place = Path(name)
        with (place / "list.csv").open("w") as out:
            out.write("instance,user\n")
            out.writelines(f"postgres-{number // 5:08d},user{number % 5}\n" for number in range(count))
        (place / "job.yaml").write_text("action: LockAccount\nregion: ap-singapore\ntargets:\n  - csv: list.csv\n")
        plan_s, plan_mb = timed([sys.executable, "-m", "engine", "plan", "job.yaml", "--offline", "--quiet"], place)
        journal = _write_journal(place, count)
        command = [sys.executable, "-c", _REPLAY, str(journal)]
        said = subprocess.run(command, cwd=place, env=environment(place), stdout=subprocess.PIPE, check=True, text=True)
        replay_s, replay_mb = map(float, said.stdout.split())
    share = count / MILLION
    return [
        {
            "what": "plan",
            "count": count,
            "seconds": round(plan_s, 2),
            "peak_mb": round(plan_mb),
            "reached": plan_s <= 10 * share and plan_mb <= 600,
        },
        {
            "what": "replay",
            "count": count,
            "seconds": round(replay_s, 2),
            "peak_mb": round(replay_mb),
            "reached": replay_s <= 3 * share,
        },
    ]


def _write_journal(place: Path, count: int) -> Path:
    """A finished run of so many records: of each call its line, `sent`, `reply` and `settled`."""
    from engine.journal import records
    from engine.journal.ledger import Ledger
    from engine.journal.lines import Chain
    from engine.model import CallId, Outcome, Proof, Target, Verdict
    from engine.planning.plan import make_plan
    from tests.support.drill import first_lines, run_line, run_settings

    targets = [
        Target(f"postgres-{number // 5:08d}", f"user{number % 5}", "ap-singapore") for number in range(count // 4)
    ]
    plan, chain, at = make_plan("LockAccount", targets), Chain("20261122T000000Z-bench"), 1_790_000_000.0
    path = place / "journal.jsonl"
    with path.open("wb") as out:
        out.writelines(
            chain.add(line, "2026-11-22T00:00:00.000Z")
            for line in first_lines(plan, Ledger(run_line(plan, run_settings())))
        )
        for number, call in enumerate(plan.calls):
            stamp, known = records.rfc3339(at + number / 20, digits=6), CallId(call.id)
            trace = f"{number:032x}"
            for record in (
                records.Sent(call=known, attempt=1, lane="a/LockAccount/b", trace=trace, key="…0000"),
                records.ReplyLine(
                    call=known,
                    attempt=1,
                    sent_at=stamp,
                    request_id=trace,
                    code=None,
                    message=None,
                    http=200,
                    ms=40,
                    verdict=Verdict.DONE,
                ),
                records.Settled(
                    call=known,
                    outcome=Outcome.CHANGED,
                    proof=Proof.ACCEPTED,
                    attempts=1,
                    request_id=trace,
                    code=None,
                ),
            ):
                out.write(chain.add(record, stamp[:-4] + "Z"))
    return path


# ---- starting ------------------------------------------------------------------------------------------------------


def start(say: Say, *, quick: bool) -> list[Row]:
    """Commands, against importing aiohttp in the same environment."""
    rounds = 3 if quick else 7
    say(f"start: {rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="acctops-bench-") as name:
        place = Path(name)
        lines = "".join(f"  - postgres-{number // 5:08d}/user{number % 5}\n" for number in range(1000))
        (place / "job.yaml").write_text(f"action: LockAccount\nregion: ap-singapore\ntargets:\n{lines}")
        (place / "small.yaml").write_text(
            "action: LockAccount\nregion: ap-singapore\ntargets:\n  - postgres-00000000/a\n"
        )
        commands = {
            "import aiohttp": ["-c", "import aiohttp"],
            "--help": ["-m", "engine", "--help"],
            "plan --offline": ["-m", "engine", "plan", "small.yaml", "--offline"],
            "status": ["-m", "engine", "status"],
            "explain": ["-m", "engine", "explain", "RequestLimitExceeded"],
        }
        seconds = in_turn(
            rounds,
            {what: lambda argv=argv: timed([sys.executable, *argv], place)[0] for what, argv in commands.items()}
            | {"first write, 1,000 targets": lambda: _first_write(place)},
        )
    floor = seconds["import aiohttp"]
    limits = {"import aiohttp": None, "first write, 1,000 targets": 1.5}
    rows = []
    for what, taken in seconds.items():
        limit = limits.get(what, 0.45)
        row: Row = {"what": what, "ms": round(taken * 1000, 1), "x_import_aiohttp": round(taken / floor, 2)}
        if limit is not None:
            row["reached"] = taken / floor <= limit
        rows.append(row)
    return rows


def _first_write(place: Path) -> float:
    """From the start of the command to the arrival of its first write."""
    spec = json.dumps([{"window": "none", "jitter": 0.0, "ports": 1}])
    with server("worlds", spec) as worlds:
        flags = ["--yes", "--no-verify", "--quiet", "--rate", "2000", "--endpoint", worlds.urls[0]]
        began = time.time()
        timed([sys.executable, "-m", "engine", "run", "job.yaml", *flags], place)
        first: float = worlds.end()[0]["first"]
    return first - began
