"""Reads target lists, CSV and JSON Lines: bytes → targets; bad rows are named by line. No I/O.

Rows are read as a stream: only a list's bytes and the targets made from them are in memory. What is wrong with a
row goes to `targets.refuse`, what is wrong with the whole list to `problems`.
"""

from __future__ import annotations

import csv
import io
from itertools import chain
from json import loads
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct

from engine.api import names
from engine.inputs.jobfile.columns import COLUMNS, Names, ignored_words
from engine.inputs.jobfile.layout import Layout, clean, layout_of, likely_layout, rows_of
from engine.model import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.inputs.jobfile.problems import Problems
    from engine.inputs.jobfile.targets import Defaults, Targets

_HEADER = "the first line must name the columns: instance,user or instance,user,region"
_COLUMNS = "or say in the job what they are called: columns: {instance: …, user: …}"
_NONE_SAID: Mapping[str, str] = {}


class Row(Struct, frozen=True, gc=False):
    """One line of a JSON Lines list."""

    instance: str
    user: str
    region: str = ""
    account: str = ""


class _StrictRow(Row, frozen=True, gc=False, forbid_unknown_fields=True):
    """A row without further fields."""


class _At(NamedTuple):
    """Indexes of the cells of a row; region and account are −1 if absent."""

    instance: int
    user: int
    region: int
    account: int
    width: int
    told_by: str = "the header has"


def read_csv(
    data: bytes, file: str, of: Defaults, targets: Targets, problems: Problems, said: Mapping[str, str] = _NONE_SAID
) -> list[str]:
    """Add every row to `targets`; `of` holds defaults for rows, `said` is the job's `columns:`. Return warnings.

    The header names the columns, in any order and case. A list without header has instance, user and perhaps region, if
    its first line leaves no doubt. Commas, semicolons, tabs or blanks separate; BOM, CRLF, `sep=;` and blank lines are
    fine. Further columns are ignored and named in a warning. Quotes must be closed: a lenient reader would take the
    rest of the list as one cell.
    """
    is_utf16 = data.startswith(_UTF16) and not data.startswith(_UTF32)
    encoding = "utf-16" if is_utf16 else "utf-8-sig"  # a spreadsheet's "Unicode text" is UTF-16
    if encoding != "utf-16" and (odd := not_text(data)) is not None:
        problems.add(Place(file), "", odd)
        return []
    line = 0
    try:
        layout, lines = _opened(io.TextIOWrapper(io.BytesIO(data), encoding=encoding, newline=""), said)
        rows = rows_of(lines, layout)
        first: tuple[int, list[str]] = (1, [])
        for first in rows:
            if any(map(clean, first[1])):
                break
        line = first[0]
        header = [clean(cell) for cell in first[1]]
        has_accounts = bool(targets.accounts)
        at, warnings = _columns(header, layout, Place(file, line), problems, said, has_accounts=has_accounts)
        if at is None:
            return []
        count = 0 if layout.has_header else _add(first[1], at, file, of, line, targets)
        least, most = max(at[:4]) + 1, at.width
        at_instance, at_user, at_region, at_account = at[:4]
        region, account = of
        add = targets.add
        for line, row in rows:  # profiled: a million of them
            if least <= len(row) <= most:
                instance, user = row[at_instance].strip(), row[at_user].strip()
                here = row[at_region].strip() if at_region >= 0 else ""
                if instance.isascii() and user.isascii() and here.isascii():
                    if instance or user or here:
                        count += 1
                        whose = row[at_account].strip() or account if at_account >= 0 else account
                        add(instance, user, here or region, file, line, 0, account=whose)
                    continue
            count += _add(row, at, file, of, line, targets)
        if not count and not problems.count:
            problems.add(Place(file, first[0]), "", "has a header and no rows; add targets below it")
    except csv.Error as exc:
        what = f'{exc}; check the quotes from this line on (a field that begins with " must end with one)'
        problems.add(Place(file, line + 1), "", what)
        return []
    except UnicodeDecodeError:
        problems.add(_bad_byte(data, file), "", "is not UTF-8; save the list as UTF-8 (CSV UTF-8)")
        return []
    return warnings


def _opened(lines: Iterator[str], said: Mapping[str, str]) -> tuple[Layout, Iterator[str]]:
    """Return the layout of a list and its lines, numbered as in the file.

    A spreadsheet's `sep=;` line names the separator; remarks (#) above the first row are skipped.
    """
    skipped: list[str] = []
    separator = ""
    for line in lines:
        bare = line.strip().strip('"').lower()
        if len(bare) == 5 and bare.startswith("sep=") and not separator:
            separator = bare[4]
        elif bare and ((layout := layout_of(line, said, separator)) is not None or not bare.startswith("#")):
            return layout or (Layout(separator) if separator else likely_layout(line)), chain(skipped, (line,), lines)
        skipped.append("\n")
    return Layout(), iter(skipped)


def _columns(
    header: Sequence[str],
    layout: Layout,
    place: Place,
    problems: Problems,
    said: Mapping[str, str],
    *,
    has_accounts: bool,
) -> tuple[_At | None, list[str]]:
    """Return the indexes of a row's cells, and warnings; None in place of the indexes if they are unclear (noted)."""
    if not layout.has_header:
        return _At(0, 1, 2, -1, 3, "a list without a header has"), []
    if (odd := _no_header(header)) is not None:
        problems.add(place, "", f"{odd}; {_HEADER}")
        return None, []
    found = Names(header, said, has_accounts=has_accounts)
    for what in found.problems:
        hint = f"; {_COLUMNS}" if said else f"; {_HEADER}; {_COLUMNS}"
        problems.add(place, "", what + hint if what.startswith("no column") and "`columns:`" not in what else what)
    if found.problems:
        return None, []
    warnings = [f"{place}: {ignored_words(found.ignored, 'column')}"] if found.ignored else []
    at = found.at
    return _At(at["instance"], at["user"], at.get("region", -1), at.get("account", -1), len(header)), warnings


def _no_header(header: Sequence[str]) -> str | None:
    """Return what a first line is if it is not a header, in words; None if it may be one."""
    if not any(header):
        return "is empty"
    if header[0].startswith(("{", "[")):
        return "is JSON, not CSV; one object a line is read by `jsonl:` in place of `csv:`"
    if len(header) > 1 and names.is_instance(header[0]) and names.is_user(header[1]):
        return f"begins with a target ({header[0]}) instead of a header"
    return None


def _add(cells: Sequence[str], at: _At, file: str, of: Defaults, line: int, targets: Targets) -> int:
    """Add one row to `targets`, which may have too few or too many cells; return 1, or 0 if it is blank."""
    row = [clean(cell) for cell in cells]
    instance, user, region, account = (row[index] if 0 <= index < len(row) else "" for index in at[:4])
    if not any(row):
        return 0
    what = None
    if any(row[at.width :]):
        what = f"has {len(row)} columns where {at.told_by} {at.width}; remove the rest"
    elif len(row) <= max(at.instance, at.user):
        what = f"has {len(row)} of {at.width} columns; a row needs instance and user"
    elif not (instance or user or region):
        return 0
    if what is None:
        targets.add(instance, user, region or of.region, file, line, 0, account=account or of.account)
    else:
        targets.refuse(Place(file, line), (instance, user, region or of.region), [("", what)])
    return 1


def read_jsonl(
    data: bytes, file: str, of: Defaults, targets: Targets, problems: Problems, said: Mapping[str, str] = _NONE_SAID
) -> list[str]:
    """Add every line to `targets`; `of` holds defaults for rows, `said` is the job's `columns:`. Return warnings.

    Further fields are ignored and named in a warning. A field similar to a known one is an error: if `region` is
    misspelt, the call would go to another region.
    """
    if (odd := not_text(data)) is not None:
        problems.add(Place(file), "", odd)
        return []
    strict = msgspec.json.Decoder(_StrictRow).decode
    loose = _Loose(said, has_accounts=bool(targets.accounts))
    count = 0
    for line, text in enumerate(io.BytesIO(data), start=1):
        if line == 1 and text.startswith(b"\xef\xbb\xbf"):
            text = text[3:]  # noqa: PLW2901 - the byte order mark
        if not text.strip():
            continue
        count += 1
        try:
            row = loose.row(text, line) if said else strict(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            row = loose.row(text, line)
        if not isinstance(row, list) and (twice := loose.twice(text)) is not None:
            row = [f"field {twice} stands twice; keep one"]
        if isinstance(row, list):
            targets.refuse(Place(file, line), ("", "", of.region), [("", what) for what in row])
        else:
            region, account = row.region.strip() or of.region, row.account.strip() or of.account
            targets.add(row.instance.strip(), row.user.strip(), region, file, line, 0, account=account)
    if not count:
        problems.add(Place(file), "", 'is empty; one line per target: {"instance":"…","user":"…"}')
    if not loose.ignored:
        return []
    return [f"{Place(file, min(loose.ignored.values()))}: {ignored_words(list(loose.ignored), 'field')}"]


class _Loose:
    """A reader of lines that have other fields than a row, or more."""

    def __init__(self, said: Mapping[str, str], *, has_accounts: bool) -> None:
        self._has_accounts = has_accounts
        self.ignored: dict[str, int] = {}
        """Field that means nothing here → the first line that has it."""
        self._said = said
        self._known: dict[tuple[str, ...], Names] = {}
        self._quoted = {name: f'"{name}"'.encode() for name in (*COLUMNS, *said.values())}

    def twice(self, text: bytes) -> str | None:
        """Return a field of ours that a line has twice, as decoders take the last without a word; else None."""
        suspects = [name for name, quoted in self._quoted.items() if text.count(quoted) > 1]
        if not suspects:
            return None
        try:
            keys = [key for key, _ in loads(text, object_pairs_hook=list)]
        except RecursionError:  # nested deeper than this decoder goes
            return suspects[0]
        return next((name for name in suspects if keys.count(name) > 1), None)  # the name may also occur as a value

    def row(self, text: bytes, line: int) -> Row | list[str]:
        """Return the row, or a list of what is wrong with it."""
        try:
            data = msgspec.json.decode(text, type=dict[str, object])
        except RecursionError:
            return [f"nested too deeply; {_LINE}"]
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            return [f"{exc}; {_LINE}"]
        fields = tuple(data)
        found = self._known.get(fields)
        if found is None:
            if len(self._known) >= _MOST_SHAPES:
                self._known.clear()
            found = self._known[fields] = Names(fields, self._said, "field", has_accounts=self._has_accounts)
        missing = [what for what in found.problems if what.startswith("no field") and not self._said]
        if found.problems and found.problems != missing:
            return found.problems
        ours = {name: data[fields[index]] for name, index in found.at.items()}
        try:
            row = msgspec.convert(ours, Row)
        except msgspec.ValidationError as exc:
            return [f"{exc}; {_LINE}"]
        for name in found.ignored:
            self.ignored.setdefault(name, line)
        return row


_MOST_SHAPES = 1000
"""Sets of fields that are remembered, at most; a list has one or two."""
_LINE = 'a line is {"instance":"…","user":"…"}'


_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UTF32 = b"\xff\xfe\0\0"


def not_text(data: bytes) -> str | None:
    """Return why bytes cannot be a UTF-8 list, in words; None if nothing shows that."""
    if data.startswith(_UTF32):
        return "is UTF-32 text; save it as UTF-8 (CSV UTF-8)"
    if data.startswith(_UTF16):
        return "is UTF-16 text; save it as UTF-8 (CSV UTF-8)"
    if b"\0" in data:
        return "is not text: it holds NUL bytes; export the list as CSV or JSON Lines"
    return None


def _bad_byte(data: bytes, file: str) -> Place:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        return Place(file, line, exc.start - data.rfind(b"\n", 0, exc.start))
    return Place(file)  # pragma: no cover - called for undecodable bytes only
