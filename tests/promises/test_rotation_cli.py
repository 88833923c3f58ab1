"""New passwords by the command, against a real server: what is refused, what is told, and what stays secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.simulator.faults import rules_from
from engine.simulator.world import World
from tests.support.command import Backend, Desk

pytestmark = pytest.mark.both_stores

A = "postgres-aaaaaaaa"
USERS = [f"{A}/app", f"{A}/etl"]
RESET = "ResetAccountPassword"
SOURCE = "passwords: {{command: [./give.sh, '{{user}}'], stored: {stored}}}\n"
LOST = {"action": RESET, "reset_after": True, "user": "app"}


def serve(*faults: dict[str, Any]) -> Backend:
    world = World(latency=0, faults=rules_from(list(faults)))
    world.seed(A, "ap-singapore", ["app", "etl"])
    return Backend(world)


@pytest.fixture
def backend(desk: Desk) -> Iterator[Backend]:
    with serve() as server:
        desk.env["ACCTOPS_ENDPOINT"] = server.endpoint
        yield server


def job(desk: Desk, *, stored: bool, extra: str = "") -> Path:
    desk.write("give.sh", "#!/bin/sh\necho asked >> asked.txt\nprintf 'aA1~secret-%s' \"$1\"\n").chmod(0o755)
    return desk.job(*USERS, action=RESET, extra=SOURCE.format(stored=str(stored).lower()) + extra)


def test_a_rotation_keeps_its_passwords_to_itself(desk: Desk, backend: Backend) -> None:
    """Set, proven, verified; no password in anything printed or kept; and nothing takes it back."""
    path = job(desk, stored=True)
    done = desk.run("run", path, "--yes", "--json")
    assert done.code == 0, done.text
    assert done.json["counts"]["changed"] == 2 and done.json["counts"]["already"] == 0
    assert backend.world.account(A, "app").password == "aA1~secret-app"  # type: ignore[union-attr]
    for words in (
        ("verify", "latest"),
        ("report", "latest", "--format", "csv"),
        ("status", "latest"),
        ("resume", "latest"),
    ):
        said = desk.run(*words)
        assert said.code == 0 and "secret-" not in said.text, said.text
    kept = [each.read_bytes() for each in (*desk.journals(), *desk.state.rglob("*")) if each.is_file()]
    assert kept and not any(b"secret-app" in data or b"secret-etl" in data for data in kept)
    assert len(backend.writes()) == 2
    assert desk.run("undo", "latest").code == 2
    assert json.loads(desk.run("holds", "--json").out)["holds"] == []


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("hold: {for: 4h}\n", "cannot be held: no action takes it back"),
        ("watch: {after: [5m]}\n", "nothing to watch"),
        ("resend_already: true\n", "must not be repeated"),
        ("waves: [{take: rest}]\ngate: {command: [./g.sh]}\non_red: undo\n", "cannot be undone"),
    ],
)
def test_what_needs_a_way_back_is_refused(desk: Desk, backend: Backend, extra: str, said: str) -> None:
    """By file and line, and before anything is sent."""
    done = desk.run("plan", job(desk, stored=True, extra=extra), "--offline")
    assert done.code == 2 and said in done.err, done.text


def test_keep_admins_means_nothing_to_a_rotation(desk: Desk, backend: Backend) -> None:
    """It takes nobody's login for good: a warning, and the admin gets a new password."""
    done = desk.run("plan", job(desk, stored=True, extra="keep_admins: 1\n"), "--offline")
    assert done.code == 0 and f"keep_admins means nothing to {RESET}" in done.text


def test_a_doubt_without_a_store_is_never_sent_again(desk: Desk) -> None:
    """Not by a resume, which reads; a rerun is refused: a fresh password could replace one that nobody else has."""
    with serve(LOST) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        cut = desk.run("run", job(desk, stored=False), "--yes", "--json", "--no-verify")
        assert (cut.code, cut.json["counts"]["unknown"], cut.json["counts"]["changed"]) == (1, 1, 1), cut.text
        run = cut.json["run"]
        again = desk.run("rerun", run, "--yes")
        assert again.code == 3 and "is no store (stored: true)" in again.err, again.text
        resumed = desk.run("resume", run, "--yes", "--json")
        assert resumed.json["counts"]["unknown"] == 1, resumed.text
        assert len(backend.writes()) == 2
