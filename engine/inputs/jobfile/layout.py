"""How a list of rows is laid out: commas, semicolons, tabs, bars, blanks, `instance/user`. No I/O.

The first line alone decides, and only if it leaves no doubt: it names the columns, or it is a target.
"""

from __future__ import annotations

import csv
import re
from itertools import islice
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from engine.api import names
from engine.inputs.jobfile.columns import Names, alias, is_name, synonym
from engine.outside.foreign import pasted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

BLANKS: Final = " "
"""Any run of blanks separates; no quotes, and lines that begin with # are remarks."""
SLASH: Final = "/"
"""One `instance/user` a line; remarks as with BLANKS."""
_SEPARATORS: Final = (",", ";", "\t", "|")
_AROUND: Final = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\xad\u061c\u1680\u180e\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008"
    "\u2009\u200a\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u202f\u205f\u2060\u2061\u2062"
    "\u2063\u2064\u2066\u2067\u2068\u2069\u3000\ufeff"
)
"""Blanks of any width, marks of direction and invisible characters: cells copied from a web page have them around."""
WORDS: Final = {";": "semicolons", "\t": "tabs", "|": "bars", BLANKS: "blanks", SLASH: "a slash"}


_NAMES_INSTANCE: Final = re.compile("(?:postgres|pgro)-[a-z0-9]", re.IGNORECASE).search
_JSON_LISTS: Final = (".jsonl", ".ndjson")
_LISTS: Final = (".csv", ".tsv", *_JSON_LISTS)


def is_list(name: str) -> bool:
    """Return whether a file is a list of targets by its name."""
    return name.lower().endswith(_LISTS)


def list_words(name: str) -> str:
    """Return what to do with a list of targets that was taken for something else."""
    kind = "jsonl" if name.lower().endswith(_JSON_LISTS) else "csv"
    plain = re.fullmatch(r"[\w./~-]+", name)
    shown = name if plain else "'" + name.replace("'", "''") + "'"
    by_command = f"; or type acctops lock {pasted((f'@{name}',))} --region R"
    return f"a list of targets; a job names it: targets: [{{{kind}: {shown}}}]{by_command}"


class Layout(Struct, frozen=True):
    """How rows are separated into cells."""

    separator: str = ","
    has_header: bool = True


def layout_of(line: str, said: Mapping[str, str], separator: str = "") -> Layout | None:
    """Return the layout in which a list's first line makes sense, with `separator` if that is known; else None."""
    for each in (separator,) if separator else (*_SEPARATORS, BLANKS, SLASH):
        cells = _cells(line, each)
        if each != SLASH and len(cells) > 1 and _is_header(cells, said, each):
            return Layout(each)
        if _is_target(cells, each):
            # Without header and quotes these are no real columns: another row may have blanks in place of tabs.
            return Layout(BLANKS if each == "\t" and '"' not in line else each, has_header=False)
    return None


def likely_layout(line: str) -> Layout:
    """Return a layout for a line that makes no sense: the one with most columns, which gives the best message."""
    return Layout(max(_SEPARATORS, key=lambda separator: len(_cells(line, separator))))


def rows_of(
    lines: Iterable[str], layout: Layout, again: Callable[[], Iterator[str]], broken: Callable[[int, str], None]
) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row, as written.

    `broken` is told the line and the fault of a row that cannot be read; `again` gives the lines from the first one
    again. UnclosedError for quotes that are open to the end.
    """
    if layout.separator in (BLANKS, SLASH):
        for number, line in enumerate(lines, start=1):
            text = line.strip()
            yield number, [] if text.startswith("#") else _split(text, layout.separator)
        return
    reader = csv.reader(lines, strict=True, delimiter=layout.separator, skipinitialspace=True)
    number = 1
    try:
        for row in reader:
            if reader.line_num > number and (why := _swallowed(row, number, reader.line_num)):
                broken(number, why)
            else:
                yield number, row
            number = reader.line_num + 1
    except csv.Error:  # from here on line by line, which takes longer
        yield from _carefully(islice(again(), number - 1, None), number, layout.separator, broken)


def _carefully(
    lines: Iterator[str], number: int, separator: str, broken: Callable[[int, str], None]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows from line `number` on as `rows_of` does.

    Where a broken row ends is not certain: a cell in quotes may have several lines. So it ends with the first line up
    to which quotes are even, and no line before that is taken for a row of its own.
    """
    held: list[str] = []

    def fed() -> Iterator[str]:
        for line in lines:
            held.append(line)
            yield line

    feed = fed()
    reader = csv.reader(feed, strict=True, delimiter=separator, skipinitialspace=True)
    while True:
        held.clear()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            quotes = sum(line.count('"') for line in held)
            while quotes % 2:
                line = next(feed, None)
                if line is None:
                    raise UnclosedError(number, str(exc)) from exc
                quotes += line.count('"')
            last = number + len(held) - 1
            to = f", so lines {number} to {last} are not read" if last > number else ""
            broken(number, f"{exc}{to}")
        else:
            if len(held) > 1 and (why := _swallowed(row, number, number + len(held) - 1)):
                broken(number, why)
            else:
                yield number, row
        number += len(held)


def _swallowed(row: Sequence[str], first: int, last: int) -> str | None:
    """Return why a row over several lines is not believed: behind the first line of a cell an instance is named.

    Two stray quotes make one cell of all that stands between them.
    """
    for cell in row:
        if _NAMES_INSTANCE("\n".join(cell.splitlines()[1:])):
            return f"a cell in quotes goes over lines {first} to {last} and names an instance there"
    return None


class UnclosedError(ValueError):
    """Quotes that are open to the end of a list."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line
        """Where they open."""


def _split(text: str, separator: str) -> list[str]:
    return text.split("/", 1) if separator == SLASH else text.split()


def clean(cell: str) -> str:
    """Return a cell without blanks and invisible characters around it."""
    bare = cell.strip()
    return bare if bare.isascii() else cell.strip(_AROUND)


def _cells(line: str, separator: str) -> list[str]:
    if separator in (BLANKS, SLASH):
        return [clean(cell) for cell in _split(line.strip(), separator)]
    try:
        row = next(csv.reader([line], strict=True, delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return []
    return [clean(cell) for cell in row]


def _is_header(cells: Sequence[str], said: Mapping[str, str], separator: str) -> bool:
    found = Names(cells, said)
    if separator == BLANKS and found.guessed and found.ignored:
        return False  # `Cluster login list` is a title
    return {"instance", "user"} <= set(found.at) and -1 not in found.at.values()


def _is_target(cells: Sequence[str], separator: str) -> bool:
    """Return whether these cells can only be a target: instance, user, and perhaps a region."""
    filled = list(cells)
    while filled and not filled[-1]:
        filled.pop()
    if not 2 <= len(filled) <= (2 if separator == SLASH else 3):
        return False
    instance, user, *region = filled
    return (
        is_likely_id(instance)
        and (names.is_user(user) is not None or (separator == SLASH and names.user_problem(user) is None))
        and not is_name(user)
        and not (alias(instance) or synonym(instance))
        and all(names.is_region(each) for each in region)
    )


def may_be_title(line: str) -> bool:
    """Return whether a line that makes no sense may stand above a header: it names no instance, and is no JSON."""
    return not line.lstrip().startswith(("{", "[")) and _NAMES_INSTANCE(line) is None


def is_likely_id(cell: str) -> bool:
    """Return whether a cell is an instance id and hardly a word with a hyphen."""
    return names.is_instance(cell) is not None and (
        cell.lower().startswith("postgres-") or any(char.isdigit() for char in cell)
    )
