"""What was read from a list by guess: each is told once a list, and `acctops plan --fix` writes it out. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from engine.model import Place

MOST_CHANGES: Final = 20
"""Changes of one kind that are kept by list; more are counted."""


class Change(Struct, frozen=True):
    """One cell or line that reads otherwise than it was written."""

    place: Place
    old: str
    new: str


class Guess(Struct, frozen=True, kw_only=True):
    """One thing that a list does not say, and how it was read all the same."""

    place: Place
    """The first line it concerns."""
    what: str
    count: int = 1
    """Lines it concerns."""
    choice: str = ""
    """Words for the question before a run if it decides which account is meant; else empty."""
    is_sure: bool = False
    """Whether the list could hardly be read otherwise: then it is a remark."""
    changes: tuple[Change, ...] = ()
    """The first changes that it makes."""
    changed: int = 0
    """Changes that it makes; 0: no more than `changes`."""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


class _Rows(Struct):
    count: int = 0
    changes: list[Change] = []
    source: str = ""
    """What the first row was read from, for the words."""


_NAMED = 3
"""Guesses that are named in the question, at most; of more it has the number."""
URL: Final = "url"
REGION: Final = "region"
INSTEAD: Final = "instead"
TRIMMED: Final = "trimmed"


class Guesses:
    """A collector of guesses, each told once by list, however many rows it concerns."""

    def __init__(self) -> None:
        self._of_lists: list[Guess] = []
        self._of_rows: dict[tuple[str, str], _Rows] = {}

    def add(self, guess: Guess) -> None:
        """Note what was guessed of a whole list."""
        self._of_lists.append(guess)

    def row(self, kind: str, place: Place, old: str, new: str, source: str = "") -> None:
        """Note what was guessed of one row: `kind` is URL, REGION, INSTEAD or TRIMMED."""
        rows = self._of_rows.setdefault((place.file, kind), _Rows(source=source))
        rows.count += 1
        if len(rows.changes) < MOST_CHANGES:
            rows.changes.append(Change(place, old, new))

    def found(self) -> tuple[Guess, ...]:
        """Return all guesses that are to be told: list by list, from the first line of it to the last."""
        rows = [_told(kind, rows) for (_, kind), rows in self._of_rows.items() if kind != TRIMMED]
        every = [*self._of_lists, *rows]
        files = {guess.place.file: at for at, guess in reversed(list(enumerate(every)))}
        return tuple(sorted(every, key=lambda guess: (files[guess.place.file], guess.place.line, guess.place.column)))

    def trimmed(self) -> tuple[Guess, ...]:
        """Return cells that had invisible characters at their ends: a change of the text, and no guess."""
        return tuple(_told(kind, rows) for (_, kind), rows in self._of_rows.items() if kind == TRIMMED)


def _told(kind: str, rows: _Rows) -> Guess:
    first, count = rows.changes[0], rows.count
    choice = ""
    many = "s" * (count > 1)
    if kind == URL:
        what = f"instance id{many} of {count:,} row{many} taken out of a URL, the first {first.new}"
        named = f" ({', '.join(dict.fromkeys(each.new for each in rows.changes))})" if count <= _NAMED else ""
        choice = f"{count:,} instance id{many} taken out of URLs{named}"
    elif kind in (REGION, INSTEAD):
        instead = " and not the one that is set" if kind == INSTEAD else ""
        what = (
            f"{count:,} row{many} without a region {'take' if many else 'takes'} that of another row of the instance"
            f"{instead}, the first {first.new} ({rows.source})"
        )
        named = f" ({', '.join(dict.fromkeys(each.new for each in rows.changes))})" if count <= _NAMED else ""
        choice = f"{count:,} region{many} taken from other rows{instead}{named}"
    else:
        what = f"{count:,} cell{many} with invisible characters around the name"
    return Guess(place=first.place, what=what, count=count, choice=choice, changes=tuple(rows.changes), changed=count)
