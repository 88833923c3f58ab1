"""Runs in files and runs in a database, for tests that both must pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from engine.journal import records
from engine.journal.database.link import close_links
from engine.journal.database.slots import close_askers
from engine.journal.protocols import Runs
from engine.journal.records import AnyRecord
from engine.journal.store import runs_at
from engine.model import RunId
from tests.support.journals import NOW, ticking
from tests.support.postgres import SUPERUSER, Postgres

_MAKERS: list[Callable[[], str] | None] = [None]
_PLACES: list[str | None] = [None]


@contextmanager
def keep_in(make: Callable[[], str] | None) -> Iterator[None]:
    """Keep the runs of all that is set up during the block in a database that `make` makes; None: in files."""
    _MAKERS.append(make)
    _PLACES.append(make() if make is not None else None)
    try:
        yield
    finally:
        _MAKERS.pop()
        _PLACES.pop()


@contextmanager
def keeping(server: Postgres) -> Iterator[Callable[[], str]]:
    """What lends databases until the block ends."""
    lent: list[str] = []

    def borrow() -> str:
        lent.append(server.borrow())
        return lent[-1]

    try:
        yield borrow
    finally:
        close_askers()
        close_links()
        for url in lent:
            server.give_back(url)


@contextmanager
def kept_in(request: pytest.FixtureRequest, where: str) -> Iterator[None]:
    """Keep the runs of what is set up during the block in `files`, or in a `database`: skipped where there is none."""
    if where == "files":
        with keep_in(None):
            yield
        return
    with keeping(request.getfixturevalue("postgres")) as borrow, keep_in(borrow):
        yield


def database_here() -> str | None:
    """The URL of the database that has the runs of the test that goes on; None: files have them."""
    return _PLACES[-1]


def database_apart() -> str | None:
    """The URL of another one, with nothing in it, if a database has the runs of this test."""
    make = _MAKERS[-1]
    return make() if make is not None else None


def lines_of(database: str, *, simulated: bool = False, chain: int = 0) -> dict[str, bytes]:
    """A chain of each run of a database, by its id, oldest first, with no code of the engine's."""
    with psycopg.connect(database, autocommit=True) as connection:
        rows = connection.execute(
            "select r.id, b.lines from acctops.run r join acctops.batch b on b.run = r.id and b.no = %s "
            "where r.simulated = %s order by r.created_at, r.id, b.first",
            [chain, simulated],
        ).fetchall()
    found: dict[str, bytes] = {}
    for run_id, lines in rows:
        found[run_id] = found.get(run_id, b"") + bytes(lines)
    return found


@contextmanager
def owning(database: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:  # Any: what the columns are
    """A superuser's connection to a database, for one transaction."""
    with psycopg.connect(database.replace("//worker@", f"//{SUPERUSER}@")) as connection:
        yield connection


def rewrite(database: str, run_id: str, lines: bytes, *, chain: int = 0) -> None:
    """Let a chain of a run be these lines, as a superuser can: what a crash leaves, or a forger makes; none: gone.

    Its row is as if they had been appended.
    """
    last = [json.loads(line) for line in lines.splitlines()[-1:]]
    with owning(database) as connection:
        connection.execute("delete from acctops.batch where run = %s and no = %s", [run_id, chain])
        if not last and chain == 0:
            return  # the row of the run stays: it is known that there was one
        seq, head = (last[0]["seq"], last[0]["hash"]) if last else (0, "")
        connection.execute(
            "update acctops.shard set seq = %s, head = %s where run = %s and no = %s", [seq, head, run_id, chain]
        )
        if last:
            connection.execute(
                "insert into acctops.batch (run, no, first, last, lines) values (%s, %s, 1, %s, %s)",
                [run_id, chain, seq, lines],
            )


class Kept:
    """Where runs are kept."""

    def __init__(self, state_dir: Path, database: str | None) -> None:
        self.state_dir = state_dir
        self.database = database

    def runs(self, *, simulated: bool = False) -> Runs:
        """The store, as a command has it."""
        return runs_at(self.state_dir, simulated=simulated, database=self.database)

    @property
    def env(self) -> dict[str, str]:
        """What names it in the environment of a command."""
        return {"ACCTOPS_STATE_DIR": str(self.state_dir)} | (
            {"ACCTOPS_DATABASE": self.database} if self.database is not None else {}
        )


def write(runs: Runs, story: list[AnyRecord], *, now: float = NOW, seed: int = 1) -> RunId:
    """Write a story as a finished run; its id."""
    run_id = runs.new_run_id(now, Random(seed))
    later = (index for index, record in enumerate(story) if index and not isinstance(record, records.CallLine))
    first = next(later, len(story))
    journal = runs.create(run_id, story[:first], clock=ticking(now))
    for record in story[first:]:
        journal.append(record)
    journal.close()
    return run_id
