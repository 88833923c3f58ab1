"""How the accounts of a watch stand, folded from its journal. No I/O, no clock.

A watch reads again the accounts that a run left. Its journal has a `verified` for each account whose word changed
against the reading before, and an `end` for each reading. An account that no line names is as it was left.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.api.actions import ACTIONS
from engine.journal.records import unix_seconds
from engine.model import AccountState

if TYPE_CHECKING:
    from engine.journal import records
    from engine.model import CallId


class Word(StrEnum):
    """How an account stands, against what the watched run left."""

    AS_LEFT = "as_left"
    OPENED = "opened"
    """We have opened it since, or hold it no more: that is nobody's news."""
    BACK = "back"
    """It is as before the run, and nobody of us did that."""
    UNREAD = "unread"
    """It cannot be read, or is not there any more."""


class Said(Struct, frozen=True, kw_only=True):
    """What the watch says of one account."""

    word: Word
    seq: int
    """The line that says so."""
    back_seq: int = 0
    """The line since which it is back; kept while it cannot be read; 0 if it is not."""


class Watched:
    """What a watch says of the accounts that are not, or were not, as they were left."""

    def __init__(self, action: str) -> None:
        """`action`: that of the watched run."""
        self._action = action
        self._said: dict[CallId, Said] = {}
        self._ends: list[int] = []
        self.read_at: float | None = None
        """UNIX time at which the last reading began; None if there is none, or it was cut off."""

    def look(self, record: records.Verified) -> Word:
        """Fold in a changed word; return it."""
        word = word_of(self._action, record)
        before = self.said(record.call)
        back_seq = (before.back_seq or record.seq) if word is Word.BACK else before.back_seq
        self._said[record.call] = Said(
            word=word, seq=record.seq, back_seq=back_seq if word in (Word.BACK, Word.UNREAD) else 0
        )
        return word

    def end(self, record: records.End) -> None:
        """Fold in the end of a reading."""
        self._ends.append(record.seq)
        self.read_at = began_at(record)

    def said(self, call: CallId) -> Said:
        """Return what is said of an account."""
        return self._said.get(call, _AS_LEFT)

    def times(self, call: CallId) -> int:
        """Return how many readings in a row have said the same of an account that is not as it was left."""
        seq = self.said(call).seq
        return sum(end > seq for end in self._ends) if seq else 0


_AS_LEFT = Said(word=Word.AS_LEFT, seq=0)


def word_of(action: str, record: records.Verified) -> Word:
    """Return what a line of a watch says of its account."""
    if not record.agrees:
        return Word.UNREAD if record.status is None else Word.BACK
    is_desired = ACTIONS[action].is_desired
    if record.status is None or is_desired is None:
        return Word.OPENED
    is_so = is_desired(AccountState(user="", status=record.status, cam=record.cam))
    return Word.AS_LEFT if is_so else Word.OPENED


def began_at(end: records.End) -> float:
    """Return the UNIX time at which the reading of this `end` began."""
    return unix_seconds(end.at) - end.seconds
