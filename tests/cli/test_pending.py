"""`acctops pending` and the listing of `acctops status`: all open work, and where each run stands."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import pytest

from engine.simulator.faults import rules_from
from engine.simulator.world import World
from tests.support.command import Backend, Desk

pytestmark = pytest.mark.both_stores

DENIED = {"user": "eve", "action": "LockAccount", "times": 1, "code": "OperationDenied.InstanceAccessDeniedError"}


@pytest.fixture
def backend() -> Iterator[Backend]:
    """Denies the first try to lock eve."""
    with Backend(World(quotas={"*": None}, faults=rules_from([{**DENIED}]))) as server:
        yield server


def open_labels(desk: Desk, *flags: str) -> list[str]:
    found = json.loads(desk.run("pending", "--format", "json", *flags).out)
    labels = [f"{each['instance']}/{each['user']}" for run in found["runs"] for each in run["targets"]]
    assert found["open"] == len(labels)
    return labels


def prepared(desk: Desk, backend: Backend) -> str:
    """A run of two accounts, of which one failed: its id."""
    desk.job("postgres-aaaaaaaa/app", "postgres-aaaaaaaa/eve")
    done = desk.run("run", "job.yaml", "--yes", "--json", "--endpoint", backend.endpoint, "--ticket", "INC-7")
    assert done.code == 1, done.text
    return str(done.json["run"])


def test_what_is_open_is_listed_with_its_run_and_the_command_that_goes_on(desk: Desk, backend: Backend) -> None:
    """On Monday nobody remembers what was left on Friday night."""
    run = prepared(desk, backend)
    said = desk.run("pending")
    assert said.code == 0
    assert "  postgres-aaaaaaaa/eve (ap-singapore)  failed  OperationDenied.InstanceAccessDeniedError\n" in said.out
    assert f"  go on:  acctops rerun {run} --only failed" in said.out and "INC-7" in said.out
    assert said.out.endswith("1 account is not as asked, of 1 of 1 runs\n") and "/app" not in said.out
    (row,) = csv.DictReader(io.StringIO(desk.run("pending", "--format", "csv").out))
    assert (row["run"], row["ticket"], row["user"], row["outcome"]) == (run, "INC-7", "eve", "failed")
    assert open_labels(desk, "--ticket", "INC-7") == ["postgres-aaaaaaaa/eve"]
    assert open_labels(desk, "--ticket", "INC-8") == []
    assert open_labels(desk, "--since", "1h") == ["postgres-aaaaaaaa/eve"]
    assert desk.run("rerun", run, "--only", "failed", "--yes", "--endpoint", backend.endpoint).code == 0
    assert open_labels(desk) == []


def test_a_later_unlock_ends_a_lock_that_failed(desk: Desk, backend: Backend) -> None:
    """Who wants the account unlocked now does not want it locked any more."""
    prepared(desk, backend)
    flags = ("--region", "ap-singapore", "--yes", "--endpoint", backend.endpoint)
    assert desk.run("unlock", "postgres-aaaaaaaa/eve", *flags).code == 0
    assert open_labels(desk) == []


def test_a_span_of_time_chooses_runs_and_not_what_became_of_them(desk: Desk, backend: Backend) -> None:
    """A later run that did the work counts, whatever span or ticket is asked for."""
    run = prepared(desk, backend)
    assert desk.run("rerun", run, "--only", "failed", "--yes", "--endpoint", backend.endpoint).code == 0
    assert open_labels(desk, "--ticket", "INC-7", "--since", "1h") == []
    assert open_labels(desk, "--since", "1ms") == []


def test_rows_that_name_no_account_are_counted(desk: Desk, backend: Backend) -> None:
    """They are not as asked either, and nothing else would remember them; the corrected list ends that."""
    flags = ("--region", "ap-singapore", "--yes", "--endpoint", backend.endpoint, "--skip-bad-rows")
    desk.write("l.csv", "instance,user\npostgres-aaaaaaaa,app\npostgres-aaaaaaaa,not an account\n")
    assert desk.run("lock", "@l.csv", *flags).code == 1
    assert "0 accounts are not as asked, of 0 of 1 runs, and 1 rows or matches named none\n" in desk.run("pending").out
    assert "  1 of 2 verified  exit 1  1 failed  " in desk.run("status").out
    desk.write("l.csv", "instance,user\npostgres-aaaaaaaa,app\npostgres-aaaaaaaa,account\n")
    assert desk.run("lock", "@l.csv", *flags).code == 0
    assert "named none" not in desk.run("pending").out


def test_a_run_that_cannot_be_read_is_named(desk: Desk, backend: Backend) -> None:
    """What it has open is not known, and no list without it may pass for whole: exit 7."""
    prepared(desk, backend)
    (journal,) = desk.journals()
    desk.rewrite(journal.parent.name, journal.read_bytes().replace(b"eve", b"EVE", 1))
    said = desk.run("pending")
    assert said.code == 7 and f"run {journal.parent.name} cannot be read" in said.err


def test_a_listing_says_how_much_is_done_when_and_by_whom(desk: Desk, backend: Backend) -> None:
    """And what became of a run: continued, or undone."""
    run = prepared(desk, backend)
    (line,) = desk.run("status").out.splitlines()
    assert "LockAccount  job  1 of 2 verified  exit 1  1 failed  " in line and " ago  " in line
    again = desk.run("rerun", run, "--only", "failed", "--yes", "--json", "--endpoint", backend.endpoint).json["run"]
    lines = {line.split()[0]: line for line in desk.run("status").out.splitlines()}
    assert f"continued by {again}" in lines[run] and "1 of 1 verified  exit 0" in lines[again]


def test_a_listing_says_which_run_was_undone(desk: Desk) -> None:
    """Its accounts are not as it left them."""
    desk.job("postgres-aaaaaaaa/app")
    run = desk.run("run", "job.yaml", "--simulate", "--yes", "--json").json["run"]
    undo = desk.run("undo", run, "--yes", "--json").json["run"]
    lines = {line.split()[0]: line for line in desk.run("status").out.splitlines()}
    assert f"  undone by {undo}" in lines[run]


TOLD = ("run", "job", "ticket", "operator", "region", "settled_at")


def test_every_csv_names_run_ticket_and_operator(desk: Desk, backend: Backend) -> None:
    """Sheets of several runs are put together, and a row alone must say where it comes from."""
    run = prepared(desk, backend)
    for words in (
        ("report", run),
        ("report", run, "--stuck"),
        ("report", run, "--attempts"),
        ("report", run, "--family"),
        ("report", "--since", "1h"),
        ("pending",),
    ):
        rows = list(csv.DictReader(io.StringIO(desk.run(*words, "--format", "csv").out)))
        assert rows and all(row["run"] == run and row["ticket"] == "INC-7" and row["operator"] for row in rows), words
        assert set(TOLD) <= set(rows[0]) and all(row["region"] == "ap-singapore" for row in rows)
        assert [row["user"] for row in rows] == (
            ["eve"] if words[0] == "pending" or "--stuck" in words else ["app", "eve"]
        )
        assert all(row["settled_at"].startswith("20") for row in rows)


def test_excel_opens_what_excel_writes(desk: Desk, backend: Backend) -> None:
    """A double click shows columns and every script; the same table otherwise."""
    run = prepared(desk, backend)
    for words in (("report", run), ("report", run, "--attempts"), ("pending",), ("report", "--since", "1h")):
        plain = desk.run(*words, "--format", "csv").out
        marked = desk.run(*words, "--excel").out
        assert marked.startswith("\ufeffrun;job;ticket;operator;")
        cells = [list(csv.reader(io.StringIO(text, newline=""), delimiter=sign)) for text, sign in
                 ((plain, ","), (marked[1:], ";"))]  # fmt: skip
        assert cells[0] == cells[1]
    assert desk.run("report", run, "--excel", "--format", "json").code == 2
