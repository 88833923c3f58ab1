"""Runs in files and runs in a database, for tests that both must pass."""

from __future__ import annotations

from pathlib import Path
from random import Random

from engine.journal import records
from engine.journal.protocols import Runs
from engine.journal.records import AnyRecord
from engine.journal.store import runs_at
from engine.model import RunId
from tests.support.journals import NOW, ticking


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
