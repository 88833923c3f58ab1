"""acctops: bulk account operations for TencentDB for PostgreSQL.

`from engine import Engine, Approval`: the library (engine/README.md, "Library"). `acctops`: the command.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from engine.errors import (
        AcctopsError,
        BusyError,
        ConfigError,
        CredentialsError,
        JobError,
        JournalCorruptError,
        JournalWriteError,
        NothingLeftError,
        Reason,
        RefusedError,
        UsageError,
    )
    from engine.inputs.job import Job
    from engine.journal.standing import Progress
    from engine.model import Outcome
    from engine.operations.carrying import Ended
    from engine.operations.drafts import Draft, Drafted
    from engine.operations.engine import Engine, Run
    from engine.operations.events import Began, Changed, Event, Looking, News, Remarked, Warned
    from engine.operations.examine import Examined
    from engine.operations.overdue import Lateness, TendLateness
    from engine.operations.pending import Pending
    from engine.operations.preparing import Looked
    from engine.operations.proposal import Approval, Nothing, Planned
    from engine.operations.resume import Finished
    from engine.operations.stop import Drained
    from engine.operations.verify import Verified

_HOMES = {
    "errors": (
        *("AcctopsError", "BusyError", "ConfigError", "CredentialsError", "Reason", "JobError", "JournalCorruptError"),
        *("JournalWriteError", "NothingLeftError", "RefusedError", "UsageError"),
    ),
    "inputs.job": ("Job",),
    "model": ("Outcome",),
    "operations.proposal": ("Approval", "Nothing", "Planned"),
    "operations.carrying": ("Ended",),
    "operations.drafts": ("Draft", "Drafted"),
    "operations.engine": ("Engine", "Run"),
    "operations.events": ("Began", "Changed", "Event", "Looking", "News", "Remarked", "Warned"),
    "operations.examine": ("Examined",),
    "operations.overdue": ("Lateness", "TendLateness"),
    "operations.pending": ("Pending",),
    "operations.preparing": ("Looked",),
    "operations.resume": ("Finished",),
    "operations.stop": ("Drained",),
    "operations.verify": ("Verified",),
    "journal.standing": ("Progress",),
}
"""Module → the names of the library that it holds. They are imported when they are asked for: `--help` needs none."""
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AcctopsError",
    "Approval",
    "Began",
    "BusyError",
    "Changed",
    "ConfigError",
    "CredentialsError",
    "Draft",
    "Drafted",
    "Drained",
    "Ended",
    "Engine",
    "Event",
    "Examined",
    "Finished",
    "Job",
    "JobError",
    "JournalCorruptError",
    "JournalWriteError",
    "Lateness",
    "Looked",
    "Looking",
    "News",
    "Nothing",
    "NothingLeftError",
    "Outcome",
    "Pending",
    "Planned",
    "Progress",
    "Reason",
    "RefusedError",
    "Remarked",
    "Run",
    "TendLateness",
    "UsageError",
    "Verified",
    "Warned",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(f"engine.{_HOME[name]}"), name)
