"""What tests of several packages need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Desk
from tests.support.postgres import Postgres, serving
from tests.support.stores import Kept


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """An operator's desk, with nothing on it."""
    return Desk(tmp_path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of the tests' own; skipped where there is none."""
    with serving() as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The URL of a fresh database, for a worker's role."""
    from engine.journal.database.link import close_links
    from engine.journal.database.slots import close_askers

    yield postgres.fresh()
    close_askers()
    close_links()


@pytest.fixture(params=["files", "database"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    """Where runs are kept: one set of tests, two stores."""
    database = request.getfixturevalue("database") if request.param == "database" else None
    return Kept(tmp_path / "state", database)
