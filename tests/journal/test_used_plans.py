"""An approved plan is used up by one run, in one directory."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.journal.store import RunStore

PLAN = "a" * 64


def store_at(place: Path) -> RunStore:
    place.mkdir(mode=0o700, exist_ok=True)
    return RunStore(place)


def test_of_many_runs_one_uses_a_plan_up(tmp_path: Path) -> None:
    """However many come at the same moment: the mark is made where none was, or not at all."""
    stores = [store_at(tmp_path / "state") for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda at: stores[at].use_up(PLAN, f"run-{at}"), range(16)))
    (winner,) = (at for at, by in enumerate(found) if by is None)
    assert stores[0].used_by(PLAN) == f"run-{winner}"
    assert stores[0].use_up(PLAN, "run-late") == f"run-{winner}"
    assert stores[0].is_used_here(PLAN, f"run-{winner}") and not stores[0].is_used_here(PLAN, "run-late")


def test_a_mark_that_was_cut_off_counts_as_used(tmp_path: Path) -> None:
    """A crash may leave it empty: nobody applies the plan again, and no run is the one that did."""
    store = store_at(tmp_path / "state")
    assert store.used_by(PLAN) is None
    store.use_up("b" * 64, "run-1")
    (store.root / "used" / PLAN).touch(mode=0o600)
    assert store.used_by(PLAN) == "" and store.use_up(PLAN, "run-2") == ""
    assert not store.is_used_here(PLAN, "")


def test_a_copy_used_nothing_up(tmp_path: Path) -> None:
    """It has the mark, so the plan is not applied there; and its runs are not gone on with there."""
    store = store_at(tmp_path / "state")
    store.use_up(PLAN, "run-1")
    shutil.copytree(store.root, tmp_path / "copy")
    copy = RunStore(tmp_path / "copy")
    assert copy.used_by(PLAN) == "run-1" and not copy.is_used_here(PLAN, "run-1")


@pytest.mark.parametrize("plant", ["link", "directory"])
def test_a_mark_that_is_no_file_stops_it(tmp_path: Path, plant: str) -> None:
    """Nobody knows whether the plan was used, and nothing is written through it."""
    store = store_at(tmp_path / "state")
    store.use_up("b" * 64, "run-1")
    path = store.root / "used" / PLAN
    if plant == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir(mode=0o700)
    with pytest.raises(ConfigError):
        store.used_by(PLAN)
    with pytest.raises(ConfigError):
        store.use_up(PLAN, "run-2")
    assert not (tmp_path / "elsewhere").exists()
