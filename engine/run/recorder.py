"""Where a session writes what happens, and tells what a person should hear."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.api.actions import ACTIONS, Action
from engine.journal import records

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Journal


class Recorder:
    """The journal of a run, and the ledger that is folded from what is durable in it."""

    def __init__(self, journal: Journal, ledger: Ledger) -> None:
        self.journal = journal
        self.ledger = ledger
        self.action: Action = ACTIONS[ledger.run.action]
        """What the run does to each of its accounts."""
        self.reads_back = ledger.settings.verify and self.action.is_desired is not None
        """Whether what was accepted is done only once a reading shows it."""
        self.tell: Callable[[str], None] = _nobody
        """Told, once each, what a person should hear before the run is over."""

    @property
    def is_broken(self) -> bool:
        """Whether nothing can be written any more."""
        return self.journal.broken is not None

    def append(self, record: records.AnyRecord) -> int:
        """Journal a record, and return its number; the ledger learns of it when it is durable."""
        return self.journal.append(record, self.ledger.apply)

    def note(self, what: str, data: dict[str, object]) -> None:
        """Journal something that happened to the run as a whole, if it still can be."""
        if not self.is_broken:
            self.append(records.Note(what=what, data=data))


def _nobody(_text: str) -> None:
    """Nobody listens."""
