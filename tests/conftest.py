"""What tests of several packages need.

`@pytest.mark.both_stores`, on a test or as a module's `pytestmark`: it runs twice, with its runs in files and in a
database. `@pytest.mark.files_only(why)`: not this one; the half of the database is skipped, and says why.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Desk
from tests.support.postgres import Postgres, serving
from tests.support.stores import Kept, kept_in


def pytest_configure(config: pytest.Config) -> None:
    """Name the marks."""
    config.addinivalue_line("markers", "both_stores: runs twice, with runs in files and in a database")
    config.addinivalue_line("markers", "files_only(why): of both_stores, a test that is about files")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the tests of both stores their store."""
    if metafunc.definition.get_closest_marker("both_stores") is None:
        return
    only = metafunc.definition.get_closest_marker("files_only")
    marks = [pytest.mark.skip(reason=f"about files: {only.args[0]}")] if only is not None else []
    metafunc.parametrize("runs_in", ["files", pytest.param("database", marks=marks)], indirect=True, scope="function")


@pytest.fixture(autouse=True)
def runs_in(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where the runs of a test are, by its mark: what it sets up with `tests.support` keeps them there."""
    with kept_in(request, getattr(request, "param", "files")):
        yield


_GROWN_MB = 150
_CLEAN = [0]
"""How many MB this process had after the last collection."""


def _resident_mb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


@pytest.fixture(autouse=True)
def garbage() -> Iterator[None]:
    """Undo what a command does to the collector: else what any test has made stays for ever, gigabytes after all.

    The collector counts objects. A command that has ended leaves few, with megabytes of tables, so it is looked how
    large this process has grown.
    """
    yield
    gc.unfreeze()
    gc.set_threshold(700, 10, 10)
    gc.enable()
    if _resident_mb() > _CLEAN[0] + _GROWN_MB:
        gc.collect()
        _CLEAN[0] = _resident_mb()


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
