"""How a list of rows is laid out: commas, semicolons, tabs, bars, blanks, `instance/user`. No I/O.

The first line alone decides, and only if it leaves no doubt: it names the columns, or it is a target.
"""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from engine.api import names
from engine.inputs.jobfile.columns import COLUMNS, Names, alias
from engine.outside.foreign import pasted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

BLANKS: Final = " "
"""Any run of blanks separates; no quotes, and lines that begin with # are remarks."""
SLASH: Final = "/"
"""One `instance/user` a line; remarks as with BLANKS."""
_SEPARATORS: Final = (",", ";", "\t", "|")
_INVISIBLE: Final = "\u200b\u200e\u200f\u2060\ufeff"
"""Invisible characters that come with cells copied from a web page."""


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
        if each != SLASH and len(cells) > 1 and _is_header(cells, said):
            return Layout(each)
        if _is_target(cells, each):
            # Without header and quotes these are no real columns: another row may have blanks in place of tabs.
            return Layout(BLANKS if each == "\t" and '"' not in line else each, has_header=False)
    return None


def likely_layout(line: str) -> Layout:
    """Return a layout for a line that makes no sense: the one with most columns, which gives the best message."""
    return Layout(max(_SEPARATORS, key=lambda separator: len(_cells(line, separator))))


def rows_of(lines: Iterable[str], layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row, as written. csv.Error for quotes that do not close."""
    if layout.separator in (BLANKS, SLASH):
        for number, line in enumerate(lines, start=1):
            text = line.strip()
            yield number, [] if text.startswith("#") else _split(text, layout.separator)
        return
    reader = csv.reader(lines, strict=True, delimiter=layout.separator, skipinitialspace=True)
    number = 1
    for row in reader:
        yield number, row
        number = reader.line_num + 1


def _split(text: str, separator: str) -> list[str]:
    return text.split("/", 1) if separator == SLASH else text.split()


def clean(cell: str) -> str:
    """Return a cell without blanks and invisible characters around it."""
    return cell.strip().strip(_INVISIBLE).strip()


def _cells(line: str, separator: str) -> list[str]:
    if separator in (BLANKS, SLASH):
        return [clean(cell) for cell in _split(line.strip(), separator)]
    try:
        row = next(csv.reader([line], strict=True, delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return []
    return [clean(cell) for cell in row]


def _is_header(cells: Sequence[str], said: Mapping[str, str]) -> bool:
    found = Names(cells, said)
    return {"instance", "user"} <= set(found.at) and -1 not in found.at.values()


def _is_target(cells: Sequence[str], separator: str) -> bool:
    """Return whether these cells can only be a target: instance, user, and perhaps a region."""
    filled = list(cells)
    while filled and not filled[-1]:
        filled.pop()
    if not 2 <= len(filled) <= (2 if separator == SLASH else 3):
        return False
    instance, user, *region = filled
    is_name = user.lower() in COLUMNS or bool(alias(user) or alias(instance))
    return (
        names.is_instance(instance) is not None
        and (instance.lower().startswith("postgres-") or any(char.isdigit() for char in instance))
        and names.is_user(user) is not None
        and not is_name
        and all(names.is_region(each) for each in region)
    )
