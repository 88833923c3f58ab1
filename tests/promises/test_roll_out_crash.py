"""A roll-out in waves that dies after each line of its journals: what goes on with it, and what that sends."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.journal.records import unix_seconds
from engine.simulator.estate import LOCKED, NORMAL, ORIGIN
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done, records

ONE, OTHER = "postgres-aaaaaaaa", "postgres-bbbbbbbb"
WAVES = [[f"{ONE}/a1"], [f"{ONE}/a2", f"{OTHER}/b1"], [f"{OTHER}/b2"]]
USERS = [name for wave in WAVES for name in wave]
GATE = """#!/bin/sh
question=$(cat)
nonce=${question##*'"nonce":"'}; nonce=${nonce%%'"'*}
case $question in *'"wave":'$(cat red 2> /dev/null),*) echo "red $nonce"; exit 1;; esac
echo "green $nonce"
"""
PRINTED = re.compile(
    r"(?:; first:|to undo it:|from [0-9:]+Z on:|only this goes on with it:) acctops ((?:resume|rerun|undo) [^;\n]*)"
)
EXTRA = """waves: [{take: 1}, {take: 2}, {take: rest}]
gate: {command: [./gate.sh], timeout: 10s}
on_red: undo
"""


@pytest.fixture
def backend() -> Iterator[Backend]:
    world = World(latency=0)
    for instance in (ONE, OTHER):
        world.seed(instance, "ap-singapore", [name.partition("/")[2] for name in USERS if name.startswith(instance)])
    with Backend(world) as server:
        yield server


class Wreck:
    """A run whose wave 2 was red and undone, and what it would be had it died after any line of its journals."""

    def __init__(self, desk: Desk, backend: Backend, tmp: Path) -> None:
        self.desk = desk
        self.backend = backend
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        desk.write("gate.sh", GATE).chmod(0o755)
        desk.job(*USERS, extra=EXTRA)
        self.red(2)
        done = desk.run("run", "job.yaml", "--yes", "--json")
        assert done.code == 4, done.text
        self.run, self.undo = str(done.json["run"]), str(done.json["undone"]["run"])
        self.whole = tmp / "whole"
        shutil.copytree(desk.state, self.whole)

    def red(self, wave: int | None) -> None:
        self.desk.write("red", str(wave if wave is not None else ""))

    def lines(self, run: str) -> list[dict[str, Any]]:
        return records(self.whole / "runs" / run / "journal.jsonl")

    def dies(self, run: str, after: int, *, is_applied: bool) -> None:
        """Put things as they are if the process dies after so many lines; what is under way is applied, or not."""
        shutil.rmtree(self.desk.state)
        shutil.copytree(self.whole, self.desk.state)
        (self.desk.state / "heads.jsonl").unlink()  # written at the end that did not come
        runs = self.desk.state / "runs"
        if run == self.run:  # its undo has not begun
            shutil.rmtree(runs / self.undo)
            (runs / run / "aside.jsonl").unlink()
        path = runs / run / "journal.jsonl"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:after]))
        for name in USERS:
            self._account(name).status, self._account(name).update_time = NORMAL, ORIGIN
        for each in (self.run, self.undo)[: 1 + (run == self.undo)]:
            self._act(records(runs / each / "journal.jsonl"), is_applied=is_applied)
        self.backend.world.audit.clear()

    def _act(self, lines: list[dict[str, Any]], *, is_applied: bool) -> None:
        names = {line["call"]: f"{line['instance']}/{line['user']}" for line in lines if line["kind"] == "call"}
        answered = {line["call"] for line in lines if line["kind"] == "reply"}
        action = lines[0]["action"] if lines else ""
        for line in lines:
            if line["kind"] == "sent" and (is_applied or line["call"] in answered):
                account = self._account(names[line["call"]])
                account.status = LOCKED if action == "LockAccount" else NORMAL
                account.update_time = unix_seconds(line["at"])

    def _account(self, name: str) -> Any:
        account = self.backend.world.account(*name.split("/"))
        assert account is not None
        return account

    def locked(self) -> set[str]:
        return {name for name in USERS if self._account(name).status == LOCKED}

    def sent(self) -> list[tuple[str, str]]:
        return [(each.action, f"{each.instance}/{each.user}") for each in self.backend.writes()]

    def _clock(self) -> float:
        """The time, a minute and a half later once the session is over: its undo may wait for calls in doubt."""
        lines = self.desk.state.joinpath("runs", self.run, "journal.jsonl").read_bytes().splitlines()
        return time.time() + (90.0 if b'"kind":"end"' in lines[-1] else 0.0)

    def goes_on(self) -> Done:
        """Run the job again, as a timer would, and give the commands that are printed, each as it stands there."""
        done = self.desk.run("run", "job.yaml", "--yes", clock=self._clock)
        given: list[str] = []
        while said := PRINTED.search(done.err):
            assert said[1] not in given, done.text
            given.append(said[1])
            done = self.desk.run(*said[1].split(), "--yes", at=time.time() + 300)
        assert "Traceback" not in done.text and "defect" not in done.text
        return done


@pytest.fixture
def wreck(desk: Desk, backend: Backend, tmp_path: Path) -> Wreck:
    return Wreck(desk, backend, tmp_path)


def test_the_fate_of_a_red_wave_is_the_same_wherever_the_process_dies(wreck: Wreck) -> None:
    """A machine that dies at 3 a.m. leaves no wave half undone, and lets no later wave begin."""
    failures = []
    for run in (wreck.run, wreck.undo):
        lines = wreck.lines(run)
        first = max(
            number for number, line in enumerate(lines, 1) if line.get("state") == "planned" or line["kind"] == "call"
        )
        for after in range(first, len(lines) + 1):
            wreck.dies(run, after, is_applied=bool(after % 2))
            before = wreck.locked()
            done = wreck.goes_on()
            where = f"{run} line {after} {json.dumps(lines[after - 1])[:160]}"
            sent = wreck.sent()
            locks = [name for action, name in sent if action == "LockAccount"]
            if (
                wreck.locked() != set(WAVES[0])
                or set(locks) & (before | set(WAVES[2]))
                or len(locks) != len(set(locks))
            ):
                failures.append(f"{where}: {done.code} {sorted(wreck.locked())} {sent}\n{done.text}")
    assert not failures, f"{len(failures)}\n" + "\n\n".join(failures)
