"""Where a session writes what happens, and tells the user what cannot wait for the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.api.actions import ACTIONS, Action, stored_by
from engine.journal import records

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Journal


class Recorder:
    """The journal of a run, and the ledger that is folded from its durable records."""

    def __init__(self, journal: Journal, ledger: Ledger) -> None:
        self.journal = journal
        self.ledger = ledger
        self.action: Action = stored_by(ACTIONS[ledger.run.action], ledger.settings.passwords)
        """What the run does to each of its accounts."""
        self.reads_back = ledger.settings.verify and self.action.is_readable
        """Whether an accepted call is done only once a reading shows it."""
        self.tell: Callable[[str], None] = _nobody
        """Called with each piece of news for the user before the run is over, once each."""

    @property
    def is_broken(self) -> bool:
        """Whether the journal cannot be written any more."""
        return self.journal.broken is not None

    def append(self, record: records.AnyRecord) -> int:
        """Journal a record and return its number; the ledger gets it when it is durable."""
        return self.journal.append(record, self.ledger.apply)

    def note(self, what: str, data: dict[str, object]) -> None:
        """Journal something that happened to the run as a whole; do nothing if the journal is broken."""
        if not self.is_broken:
            self.append(records.Note(what=what, data=data))


def _nobody(_text: str) -> None:
    """Tell nobody: nobody listens."""
