"""Fits a report into a terminal. Pure: the size is handed in."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Sequence

from msgspec import Struct

_COMMAND = re.compile(r"(.*?(?:^|\s))([^\s`]*acctops .*)").fullmatch
"""A line with a command: what stands before it, and from its first sign on. In backquotes it is only named."""


class Screen(Struct, frozen=True):
    """The size of a terminal."""

    columns: int
    rows: int

    def height(self, lines: Sequence[str]) -> int:
        """Return how many rows some lines take. A line that is too long goes on in the next row."""
        return sum(max(1, -(-cells(line) // self.columns)) for line in lines)

    def fold(self, line: str) -> list[str]:
        """Break a line between words. A command stays whole, in a line of its own, so that it can be pasted."""
        if cells(line) <= self.columns:
            return [line]
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        words, command = line, []
        if (found := _COMMAND(line)) is not None:
            words, command = found[1], [indent + found[2]]
            if not words.strip() or words.strip() == "→":
                return [line]
        return [
            *textwrap.wrap(
                words, self.columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            ),
            *command,
        ]

    def cut(self, line: str) -> str:
        """Return as much of a line as one row holds, with `…` at its end if it is not the whole."""
        if cells(line) <= self.columns:
            return line
        while cells(line) >= self.columns:
            line = line[:-1]
        return line + "…"


class Group(Struct, frozen=True):
    """Accounts that are not as asked for one cause, in the words of a report."""

    count: int
    head: str
    advice: tuple[str, ...]
    members: tuple[str, ...]
    """The first few, and their RequestIds."""


def cells(text: str) -> int:
    """Return how many columns a text takes: a character of East Asia takes two, a combining one none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def fitted(groups: Sequence[Group], screen: Screen, rows: int, rest: str) -> list[str]:
    """Return the lines of as many groups as `rows` hold, in their order, each with as much as there is room for.

    Every group that is shown has its head and, before anything else is added, as many as possible have their advice.
    `rest` says where all is told; it is added if something is left away.
    """
    shown = [[screen.cut(group.head)] for group in groups]
    whole = [[*screen.fold(group.head), *_folded(group.advice, screen), *group.members] for group in groups]
    if screen.height([line for lines in whole for line in lines]) <= rows:
        return [line for lines in whole for line in lines]
    rows -= screen.height([rest])
    kept = shown[: max(1, rows)] if len(shown) <= rows else shown[: max(0, rows - 1)]
    room = rows - len(kept)
    for part in ("advice", "members"):
        for of, group in zip(kept, groups, strict=False):
            more = _folded(getattr(group, part), screen)
            if more and (needed := screen.height(more)) <= room:
                of.extend(more)
                room -= needed
    lines = [line for of in kept for line in of]
    left = groups[len(kept) :]
    if left:
        lines.append(screen.cut(f"  … and {sum(group.count for group in left):,} more, of {len(left):,} other causes"))
    return [*lines, rest]


def _folded(lines: Sequence[str], screen: Screen) -> list[str]:
    return [each for line in lines for each in screen.fold(line)]
