"""Reads target lists, CSV and JSON Lines: bytes → targets; bad rows are named by line. No I/O.

Rows are read as a stream: only a list's bytes and the targets made from them are in memory. What is wrong with a
row goes to `targets.refuse`, what is wrong with the whole list to `problems`.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from json import loads
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct

from engine.api import names
from engine.inputs.guesses import TRIMMED, Change, Guess
from engine.inputs.jobfile.columns import (
    COLUMNS,
    Names,
    choice_words,
    columns_words,
    guessed_words,
    ignored_words,
)
from engine.inputs.jobfile.layout import (
    BLANKS,
    SLASH,
    WORDS,
    UnclosedError,
    clean,
    is_likely_id,
    rows_of,
)
from engine.inputs.jobfile.sheets import MARK, Sheet, is_utf16, not_text
from engine.model import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from engine.inputs.jobfile.problems import Problems
    from engine.inputs.jobfile.sheets import Opening
    from engine.inputs.jobfile.targets import Defaults, Targets

_HEADER = "the first line must name the columns: instance,user or instance,user,region"
_CALLED = "or say in the job what they are called: "
_CALLED_THERE = "rename these, or write a job with this entry under its targets, and run it: "
_QUOTES = 'check the quotes from here on (a field that begins with " must end with one)'
_NONE_SAID: Mapping[str, str] = {}


class Row(Struct, frozen=True, gc=False):
    """One line of a JSON Lines list."""

    instance: str
    user: str
    region: str | None = None
    """None, as `null`, is an empty cell."""
    account: str | None = None


class _StrictRow(Row, frozen=True, gc=False, forbid_unknown_fields=True):
    """A row without further fields."""


class _At(NamedTuple):
    """Indexes of the cells of a row; region and account are −1 if absent."""

    instance: int
    user: int
    region: int
    account: int
    width: int
    least: int
    """Cells that a row needs."""
    told_by: str = "the header has"


def read_csv(
    data: bytes,
    file: str,
    of: Defaults,
    targets: Targets,
    problems: Problems,
    said: Mapping[str, str] = _NONE_SAID,
    written: str = "",
) -> list[str]:
    """Add every row to `targets`, and what was guessed to `targets.guesses`; return warnings.

    `of` holds defaults for rows, `said` is the job's `columns:`, `written` the path of the list as the job has it.

    The header names the columns, in any order and case. A list without header has instance, user and perhaps region, if
    its first line leaves no doubt. Commas, semicolons, tabs or blanks separate; BOM, CRLF, `sep=;` and blank lines are
    fine. Further columns are ignored and named in a warning. Quotes must be closed: a lenient reader would take the
    rest of the list as one cell. A list that is not UTF-8 is read as Windows-1252: names are ASCII in any encoding.
    """
    if not is_utf16(data) and (odd := not_text(data)) is not None:
        problems.add(Place(file), "", odd)
        return []
    reader = _Csv(data, file, of, targets, problems, said, written)
    try:
        return reader.read()
    except UnclosedError as exc:
        problems.add(Place(file, exc.line), "", f"{exc}; {_QUOTES}")
    except UnicodeDecodeError:
        problems.add(Place(file), "", "is UTF-16 text that is damaged; save the list as UTF-8 (CSV UTF-8)")
    return []


class _Rows:
    """Takes the rows of one list: the one place where cells are trimmed."""

    def __init__(self, file: str, of: Defaults, targets: Targets, *, is_guessed: bool) -> None:
        """`is_guessed`: so is the encoding, and a byte that shows as invisible may be a letter of the name."""
        self._file = file
        self._region, self._account = of
        self._targets = targets
        self._add = targets.add
        self._is_guessed = is_guessed
        self.bare = _ascii_bare if is_guessed else clean
        """Returns a cell without what stands around it."""

    def take(self, line: int, instance: str, user: str, region: str, account: str) -> bool:
        """Add a row to the targets; return False, and do nothing, if it names no target."""
        if instance.isascii() and user.isascii() and region.isascii():  # profiled: a million of them
            instance, user, region = instance.strip(), user.strip(), region.strip()
        else:
            instance, user, region = (self._trimmed(cell, line) for cell in (instance, user, region))
        if not (instance or user or region):
            return False
        if self._is_guessed and not user.isascii():
            what = f"{names.shown(user)} is not ASCII, and the list is not UTF-8, so its letters would be a guess"
            note = ("user", f"{what}; save the list as UTF-8 (CSV UTF-8)")
            self._targets.refuse(Place(self._file, line), (instance, user, region or self._region), [note])
            return True
        whose = (self.bare(account) if account else "") or self._account
        self._add(instance, user, region, self._file, line, 0, "", "", whose, self._region)
        return True

    def _trimmed(self, cell: str, line: int) -> str:
        """Return a cell without what stands around it; note it if that is more than ordinary blanks."""
        bare = self.bare(cell)
        if bare != cell and not cell.isascii():
            self._targets.guesses.row(TRIMMED, Place(self._file, line), cell, bare)
        return bare

    def refuse(self, line: int, cells: tuple[str, str, str], what: str) -> None:
        """Note a row that is no target, and why."""
        self._targets.refuse(Place(self._file, line), (*cells[:2], cells[2] or self._region), [("", what)])


def _ascii_bare(cell: str) -> str:
    """Return a cell without the blanks of ASCII around it."""
    return cell.strip(" \t\r\n\v\f")


class _Csv:
    """One reading of one CSV list."""

    def __init__(
        self,
        data: bytes,
        file: str,
        of: Defaults,
        targets: Targets,
        problems: Problems,
        said: Mapping[str, str],
        written: str,
    ) -> None:
        self._sheet = Sheet(data)
        self._file = file
        self._of = of
        self._targets = targets
        self._problems = problems
        self._said = said
        self._written = written
        self._rows = _Rows(file, of, targets, is_guessed=self._sheet.is_guessed)
        self._count = 0
        """Rows, good and bad, that are not counted elsewhere."""
        self._has_columns = False
        self._unnamed_at = self._unnamed_rows = 0
        """First row that names no target but is not blank, and how many there are."""

    def read(self) -> list[str]:
        """Read it all; return warnings."""
        sheet = self._sheet
        opening = sheet.opened(self._said)
        if (what := sheet.unsure_separator(opening.layout)) is not None:
            self._problems.add(sheet.guessed(opening.layout, self._file)[0], "", what)
            return []
        rows = rows_of(opening.lines, opening.layout, sheet.lines, self._broken)
        first: tuple[int, list[str]] = (1, [])
        for first in rows:
            if any(map(clean, first[1])):
                break
        place = Place(self._file, first[0])
        at, warnings = self._columns([clean(cell) for cell in first[1]], opening, place, rows)
        if at is None:
            return []
        self._has_columns = True
        if not opening.layout.has_header:
            self._count += self._taken(*first, at)
        least, most = max(at.least, max(at[:4]) + 1), at.width
        at_instance, at_user, at_region, at_account = at[:4]
        take, count = self._rows.take, 0
        for line, row in rows:  # profiled: a million of them
            if least <= len(row) <= most:
                region = row[at_region] if at_region >= 0 else ""
                account = row[at_account] if at_account >= 0 else ""
                is_taken = take(line, row[at_instance], row[at_user], region, account)
            else:
                is_taken = self._taken(line, row, at)
            if is_taken:
                count += 1
            else:
                self._unnamed(line, row)
        if not count + self._count and not self._problems.count:
            self._problems.add(place, "", "has a header and no rows; add targets below it")
        self._guess(opening, place)
        return warnings

    def _taken(self, line: int, cells: Sequence[str], at: _At) -> bool:
        """Take a row that may have too few or too many cells; return whether it names a target, or is refused."""
        row = [self._rows.bare(cell) for cell in cells]
        instance, user, region, account = (cells[index] if 0 <= index < len(row) else "" for index in at[:4])
        if not any(row):
            return False
        if any(row[at.width :]):
            what = f"has {len(row)} columns where {at.told_by} {at.width}; remove the rest"
        elif len(row) < at.least and at.least == at.width > 2:
            what = f"has {len(row)} of {at.width} columns, and blanks do not tell which is missing; separate by commas"
        elif len(row) < at.least:
            what = f"has {len(row)} of {at.width} columns; a row needs instance and user"
        else:
            return self._rows.take(line, instance, user, region, account)
        self._rows.refuse(line, (self._rows.bare(instance), self._rows.bare(user), self._rows.bare(region)), what)
        return True

    def _unnamed(self, line: int, row: Sequence[str]) -> None:
        """Note a row that has something, and nothing where a target is named."""
        if any(map(clean, row)):
            self._unnamed_at = self._unnamed_at or line
            self._unnamed_rows += 1

    def _broken(self, line: int, why: str) -> None:
        """Note a row that cannot be split into cells; UnclosedError if it is the header."""
        if not self._has_columns:
            raise UnclosedError(line, why)
        self._count += 1
        hint = "shorten the cell, or leave its column out" if "limit" in why else "check the quotes"
        self._rows.refuse(line, ("", "", ""), f"{why}; {hint}")

    def _columns(
        self, header: Sequence[str], opening: Opening, place: Place, rows: Iterator[tuple[int, list[str]]]
    ) -> tuple[_At | None, list[str]]:
        """Return the indexes of a row's cells, and warnings; None in place of the indexes if they are unclear (noted).

        `rows` are those below the header: the first shows what a column may be.
        """
        layout = opening.layout
        if not layout.has_header and opening.named_at:
            what = "begins with #, so it is skipped, and seems to name the columns; remove the #, or the line"
            self._problems.add(Place(self._file, opening.named_at), "", what)
            return None, []
        if not layout.has_header:
            return _At(0, 1, 2, -1, 3, 2, "a list without a header has"), []
        has_job = self._targets.has_job
        if (odd := _no_header(header, has_job=has_job)) is not None:
            self._problems.add(place, "", f"{odd}; {_HEADER}")
            return None, []
        found = Names(header, self._said, has_accounts=bool(self._targets.accounts), has_job=has_job)
        for what in found.problems:
            hint = ""
            if found.missing:
                hint = "" if self._said else f"; {_HEADER}"
                columns = {**self._said, **likely_columns(header, _first_of(rows), found)}
                entry = entry_words("csv", self._written or self._file, _defaults(self._of, self._targets), columns)
                hint += f"; {_CALLED if has_job else _CALLED_THERE}{entry}"
            self._problems.add(place, "", what + hint)
        if found.problems:
            return None, []
        if found.guessed:
            change = Change(place, ", ".join(found.guessed.values()), ", ".join(found.guessed))
            words = guessed_words(found.guessed, "column", has_job=has_job)
            guess = Guess(place=place, what=words, changes=(change,), choice=choice_words(found.guessed))
            self._targets.guesses.add(guess)
        warnings = [f"{place}: {ignored_words(found.ignored, 'column')}"] if found.ignored else []
        at = found.at
        cells = (at["instance"], at["user"], at.get("region", -1), at.get("account", -1))
        # Between blanks only its position tells what a cell is: with one left empty the next is taken for it.
        is_exact = layout.separator == BLANKS and bool(found.ignored)
        least = len(header) if is_exact else max(cells[:2]) + 1
        return _At(*cells, len(header), least), warnings

    def _guess(self, opening: Opening, header: Place) -> None:
        """Note what was guessed of the list as a whole."""
        guesses = self._targets.guesses
        if count := self._unnamed_rows:
            what = f"{count:,} row{'s name' if count > 1 else ' names'} no instance and no user, and count for nothing"
            guesses.add(Guess(place=Place(self._file, self._unnamed_at), what=what, count=count))
        separator = WORDS.get(opening.layout.separator, "")
        if opening.titles:
            (line, title), count = opening.titles[0], len(opening.titles)
            what = f"{count} line{'s' * (count > 1)} above the header skipped, the first {names.shown(title)}"
            changes = tuple(Change(Place(self._file, at), text, "(left out)") for at, text in opening.titles)
            guesses.add(Guess(place=Place(self._file, line), what=what, count=count, changes=changes))
        if self._sheet.is_guessed:
            place, count, what = self._sheet.guessed(opening.layout, self._file)
            old = f"Windows-1252{f', {separator}' if separator else ''}"
            what += "; names are taken where they are ASCII"
            change = Change(place, old, "UTF-8, commas")
            guesses.add(Guess(place=place, what=what, count=count, changes=(change,)))
        elif separator and not opening.is_said:
            change = Change(header, separator, "commas")
            guesses.add(Guess(place=header, what=f"separated by {separator}", is_sure=True, changes=(change,)))
        if not opening.layout.has_header and opening.layout.separator != SLASH:
            change = Change(header, "no header", "instance,user,region")
            what = "no header: columns are taken as instance, user and region, as in this line"
            guesses.add(Guess(place=header, what=what, is_sure=True, changes=(change,)))


def _first_of(rows: Iterator[tuple[int, list[str]]]) -> list[str]:
    """Return the first row that is not blank; empty if there is none."""
    try:
        return next((row for _, row in rows if any(map(clean, row))), [])
    except (UnclosedError, UnicodeDecodeError):
        return []


def _is_id(cell: str) -> bool:
    """Return whether a cell is an instance id as the vendor gives them, or has one in a link."""
    is_ours = cell.lower().startswith(("postgres-", "pgro-")) and names.is_instance(cell) is not None
    return is_ours or names.instance_in_url(cell) is not None


_LOOKS: Mapping[str, tuple[Callable[[str], object], ...]] = {
    "instance": (_is_id, is_likely_id),
    "user": (names.is_user, lambda cell: names.user_problem(cell) is None),
}
"""What a cell of a column looks like, the surest sign first."""


def likely_columns(header: Sequence[str], row: Sequence[str], found: Names) -> dict[str, str]:
    """Return ours → theirs of the columns that are missing, as far as their names and a row show which they are."""
    cells = [clean(row[index]) if index < len(row) else "" for index in range(len(header))]
    free = [index for index, name in enumerate(header) if name and index not in found.at.values()]
    columns = {}
    for ours in found.missing:
        index = next((index for looks_so in _LOOKS[ours] for index in free if looks_so(cells[index])), None)
        columns[ours] = "…" if index is None else header[index]
        free = [other for other in free if other != index]
    return columns


def entry_words(kind: str, path: str, of: Defaults, columns: Mapping[str, str]) -> str:
    """Return an entry of `targets:` that names a list, as it is written in a job."""
    from json import dumps  # here: only a mistake needs it

    is_plain = re.fullmatch(r"[A-Za-z0-9_./~][A-Za-z0-9_./~-]*", path) is not None
    parts = [f"{kind}: {path if is_plain else dumps(path, ensure_ascii=False)}"]
    parts += [f"{key}: {value}" for key, value in (("region", of.region), ("account", of.account)) if value]
    return f"- {{{', '.join([*parts, columns_words(columns)])}}}"


def _defaults(of: Defaults, targets: Targets) -> Defaults:
    """Return what an entry for a list says: what is said of it, and on a command line the region for all."""
    return of if targets.has_job else of._replace(region=of.region or targets.region)


def _no_header(header: Sequence[str], *, has_job: bool) -> str | None:
    """Return what a first line is if it is not a header, in words; None if it may be one."""
    if not any(header):
        return "is empty"
    if header[0].startswith(("{", "[")):
        here = "one object a line is read by `jsonl:` in place of `csv:`" if has_job else f"of JSON, {_LINE}"
        return f"is JSON, not CSV; {here}"
    if len(header) > 1 and names.is_instance(header[0]) and not names.user_problem(header[1]):
        return f"begins with a target ({header[0]}) instead of a header"
    return None


def read_jsonl(
    data: bytes,
    file: str,
    of: Defaults,
    targets: Targets,
    problems: Problems,
    said: Mapping[str, str] = _NONE_SAID,
    written: str = "",
) -> list[str]:
    """Add every line to `targets`, and what was guessed to `targets.guesses`; return warnings. As `read_csv`.

    Further fields are ignored and named in a warning. A field similar to a known one is an error: if `region` is
    misspelt, the call would go to another region.
    """
    if (odd := not_text(data)) is not None:
        problems.add(Place(file), "", odd)
        return []
    strict = msgspec.json.Decoder(_StrictRow).decode
    loose = _Loose(said, targets, entry_of=(written or file, _defaults(of, targets)))
    rows = _Rows(file, of, targets, is_guessed=False)
    count = 0
    for line, text in enumerate(io.BytesIO(data), start=1):
        if line == 1 and text.startswith(MARK):
            text = text[3:]  # noqa: PLW2901 - the byte order mark
        if not text.strip():
            continue
        count += 1
        try:
            row = loose.row(text, line) if said else strict(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            row = loose.row(text, line)
        if not isinstance(row, list) and (twice := loose.twice(text, is_strict=type(row) is _StrictRow)) is not None:
            row = [f"field {twice} stands twice; keep one"]
        if isinstance(row, list):
            targets.refuse(Place(file, line), ("", "", of.region), [("", what) for what in row])
            continue
        if not rows.take(line, row.instance, row.user, row.region or "", row.account or ""):
            targets.add("", "", "", file, line, 0, account=of.account, default=of.region)  # which names what is missing
    if not count:
        problems.add(Place(file), "", 'is empty; one line per target: {"instance":"…","user":"…"}')
    for guessed, (first, lines) in loose.guessed.items():
        place, pairs = Place(file, first), dict(guessed)
        change = Change(place, ", ".join(pairs.values()), ", ".join(pairs))
        words = f"{guessed_words(pairs, 'field', has_job=targets.has_job)} ({lines:,} line{'s' * (lines > 1)})"
        choice = choice_words(pairs)
        targets.guesses.add(Guess(place=place, what=words, count=lines, changes=(change,), choice=choice))
    if not loose.ignored:
        return []
    return [f"{Place(file, min(loose.ignored.values()))}: {ignored_words(list(loose.ignored), 'field')}"]


class _Loose:
    """A reader of lines that have other fields than a row, or more."""

    def __init__(self, said: Mapping[str, str], targets: Targets, *, entry_of: tuple[str, Defaults]) -> None:
        self._has_accounts = bool(targets.accounts)
        self._has_job = targets.has_job
        self._entry_of = entry_of
        self.ignored: dict[str, int] = {}
        """Field that means nothing here → the first line that has it."""
        self.guessed: dict[tuple[tuple[str, str], ...], list[int]] = {}
        """Pairs ours, theirs of fields that were taken by a synonym → the first line that has them, and how many do."""
        self._said = said
        self._known: dict[tuple[str, ...], Names] = {}

    def twice(self, text: bytes, *, is_strict: bool) -> str | None:
        """Return a field that a line has twice, as decoders take the last without a word; else None.

        A line that `is_strict` has no fields but ours: only if one of these stands twice it is looked at again.
        """
        if is_strict and b"\\" not in text and all(text.count(quoted) < 2 for quoted in _QUOTED):
            return None
        try:
            keys = Counter(key for key, _ in loads(text, object_pairs_hook=list))
        except RecursionError:  # nested deeper than this decoder goes
            return "(nested too deeply to look)"
        return next((key for key, count in keys.items() if count > 1), None)

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
            found = self._known[fields] = Names(
                fields, self._said, "field", has_accounts=self._has_accounts, has_job=self._has_job
            )
        if found.problems and (not found.missing or self._said):
            return found.problems
        if found.missing and found.ignored:  # other words for ours, perhaps
            cells = [value if isinstance(value, str) else "" for value in data.values()]
            line_to_write = entry_words("jsonl", *self._entry_of, likely_columns(fields, cells, found))
            return [f"{found.problems[0]}; {_LINE}, {_CALLED if self._has_job else _CALLED_THERE}{line_to_write}"]
        ours = {name: data[fields[index]] for name, index in found.at.items()}
        try:
            row = msgspec.convert(ours, Row)
        except msgspec.ValidationError as exc:
            return [f"{exc}; {_LINE}"]
        for name in found.ignored:
            self.ignored.setdefault(name, line)
        if found.guessed:
            self.guessed.setdefault(tuple(found.guessed.items()), [line, 0])[1] += 1
        return row


_QUOTED = tuple(f'"{name}"'.encode() for name in COLUMNS)
_MOST_SHAPES = 1000
"""Sets of fields that are remembered, at most; a list has one or two."""
_LINE = 'a line is {"instance":"…","user":"…"}'
