"""Whether a glob can match any legal name at all. No I/O.

A guard that never matches looks like protection and gives none. So a glob is followed step by step together with the
grammar of the names it is compared with. It is refused if no name reaches the end of both.
"""

from __future__ import annotations

import re
from fnmatch import translate
from functools import cache
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_ALNUM = _LETTERS | frozenset("0123456789")
_ANY = None
"""In place of a set of characters: `*`, which takes any number of any characters."""


class Grammar(Struct, frozen=True, kw_only=True):
    """Which names are legal: an automaton. State 0 is the beginning."""

    steps: Sequence[Mapping[frozenset[str], int]]
    """By state: characters → the state that they lead to."""
    ends: frozenset[int]
    """States in which a name may end."""
    most: int
    """Number of characters of the longest name."""
    words: str
    """What such a name is called, and what it looks like."""


INSTANCE = Grammar(
    steps=(
        {_LETTERS: 1},
        {_ALNUM: 1, frozenset("-"): 2},
        {_ALNUM: 3},
        {_ALNUM: 3, frozenset("-"): 2},
    ),
    ends=frozenset({3}),
    most=64,
    words="instance id; ids look like postgres-4sfuv15b",
)
"""`names.INSTANCE_PATTERN` and `names.MOST_INSTANCE`."""
_SIGNS = frozenset(".$+#-")
_OTHER = "é"
"""Stands for all letters beyond ASCII."""
_LETTER = _LETTERS | {_OTHER}
_PLAIN = _ALNUM - _LETTERS | {"_"}
USER = Grammar(
    steps=(
        {_LETTER: 1, frozenset("_"): 2, _ALNUM - _LETTERS: 3},
        {_LETTER | _PLAIN: 1, _SIGNS: 4},
        {_LETTER: 1, _PLAIN: 2, _SIGNS: 3},
        {_LETTER: 1, _PLAIN | _SIGNS: 3},
        {_LETTER | _PLAIN: 1, _SIGNS: 4},
    ),
    ends=frozenset({1, 2}),
    most=63,
    words="account name; names have a letter, letters, digits and _, and inside . $ + # -",
)
"""`names.user_problem`, which refuses a few more: ids of instances, regions, letters of several scripts."""


def pieces(glob: str) -> Iterator[str]:
    """Yield the parts of a glob as fnmatch divides it: `*`, `?`, a bracket, or one character."""
    at = 0
    while at < len(glob):
        end = at + 1
        if glob[at] == "[":
            closing = at + 1
            closing += glob[closing : closing + 1] == "!"
            closing = glob.find("]", closing + (glob[closing : closing + 1] == "]"))
            end = closing + 1 if closing > 0 else end
        yield glob[at:end]
        at = end


def can_match(glob: str, grammar: Grammar, *, fold: bool = False) -> bool:
    """Return whether some legal name matches the whole of `glob`; `fold` ignores case."""
    parts = [_taken(piece, fold) for piece in pieces(glob)]
    seen: set[tuple[int, int]] = set()
    now = _reached({(0, 0)}, parts, seen)
    for _ in range(grammar.most + 1):
        if any(at == len(parts) and state in grammar.ends for at, state in now):
            return True
        stepped = set()
        for at, state in now:
            if at == len(parts):
                continue
            taken = parts[at]
            for characters, then in grammar.steps[state].items():
                if taken is _ANY:
                    stepped.add((at, then))
                elif not taken.isdisjoint(characters):
                    stepped.add((at + 1, then))
        now = _reached(stepped, parts, seen)
    return False


def _reached(
    states: set[tuple[int, int]], parts: Sequence[frozenset[str] | None], seen: set[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Return `states` and those behind each `*`, which may take nothing; without those that a shorter name reached."""
    found = []
    for at, state in states:
        while (at, state) not in seen:
            seen.add((at, state))
            found.append((at, state))
            if at == len(parts) or parts[at] is not _ANY:
                break
            at += 1  # noqa: PLW2901 - past the star
    return found


@cache
def _taken(piece: str, fold: bool) -> frozenset[str] | None:
    """Return which characters of names one part of a glob takes, as `fnmatch` itself says; `_ANY` for `*`."""
    if piece == "*":
        return _ANY
    match = re.compile(translate(piece), re.IGNORECASE if fold else 0).match
    beyond = {char for char in piece if char.isalpha() and not char.isascii()} | {_OTHER}
    return frozenset(char for char in _ALNUM | {"_"} | _SIGNS if match(char)) | (
        {_OTHER} if any(map(match, beyond)) else frozenset()
    )


def why_never(glob: str, grammar: Grammar, *, fold: bool = False) -> str | None:
    """Return why no legal name can match `glob`, in words; None if one can."""
    if can_match(glob, grammar, fold=fold):
        return None
    for piece in pieces(glob):
        if piece == "[":
            return "its [ is not closed"
        if len(piece) > 1 and not _taken(piece, fold):
            return f"{piece} takes no character that a name has"
    if glob.startswith("!"):
        return "! says `not` inside of brackets alone, as in [!abc]"
    return f"no such {grammar.words}"


def empty_bracket(glob: str) -> str | None:
    """Return the part of a glob over free text that takes no character, such as `[z-a]`; None if there is none."""
    return next((piece for piece in pieces(glob) if len(piece) > 1 and "(?!)" in translate(piece)), None)
