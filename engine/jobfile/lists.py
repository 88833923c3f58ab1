"""Rules, floor 1: target lists, CSV and JSON Lines: bytes → targets, bad rows named by line. No I/O.

Rows are read as a stream: of a list, only its bytes and the targets made from it are in memory.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from engine import names
from engine.model import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.jobfile.problems import Problems
    from engine.jobfile.targets import Targets

_COLUMNS = ("instance", "user", "region")
_REQUIRED = ("instance", "user")
TOLD = ("instance_name", "engine_version", "user_type", "status", "cam")
"""Further columns of a list that `acctops discover` wrote: for the person who edits it, passed over here."""
_SECRETS = frozenset({"password", "passwd", "pwd", "secret", "token"})
_HEADER = "the first line must name the columns: instance,user or instance,user,region"


class Row(Struct, frozen=True, gc=False):
    """One line of a JSON Lines list."""

    instance: str
    user: str
    region: str = ""


class _StrictRow(Row, frozen=True, gc=False, forbid_unknown_fields=True):
    """A row with nothing else in it."""


def read_csv(data: bytes, file: str, region: str, targets: Targets, problems: Problems) -> list[str]:
    """Add every row to `targets`; `region` is for rows without one. Returns warnings.

    The header names the columns, in any order and case. BOM, CRLF and blank lines are fine; further columns are
    ignored and named in a warning. Quotes must be closed: a lenient reader would swallow the rest of the list.
    """
    if (odd := not_text(data)) is not None:
        problems.add(Place(file), "", odd)
        return []
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline=""), strict=True)
    line = 1
    try:
        header: list[str] = []
        for header in rows:
            if any(cell.strip() for cell in header):
                break
            line = rows.line_num + 1
        columns = _columns(header, Place(file, line), problems)
        if columns is None:
            return []
        before = rows.line_num
        count = _rows(rows, columns, len(header), (file, region), targets, problems)
        if not count and not problems.count:
            problems.add(Place(file, before), "", "has a header and no rows; add targets below it")
    except csv.Error as exc:
        what = f'{exc}; check the quotes from this line on (a field that begins with " must end with one)'
        problems.add(Place(file, rows.line_num), "", what)
        return []
    except UnicodeDecodeError:
        problems.add(_bad_byte(data, file), "", "is not UTF-8; save the list as UTF-8 (CSV UTF-8)")
        return []
    known = (*_COLUMNS, *TOLD)
    extra = [name.strip() for name in header if name.strip() and name.strip().lower() not in known]
    if not extra:
        return []
    shown = ", ".join(names.shown(name) for name in extra[:10])
    return [f"{Place(file, line)}: column{'s' * (len(extra) > 1)} {shown} ignored"]


def _columns(header: Sequence[str], place: Place, problems: Problems) -> tuple[int, int, int] | None:
    """Where instance, user and region stand (region −1 if absent); None, with that noted, if they cannot be told."""
    if (odd := _no_header(header)) is not None:
        problems.add(place, "", f"{odd}; {_HEADER}")
        return None
    found: dict[str, int] = {}
    before = problems.count
    for index, cell in enumerate(header):
        name = cell.strip().lower()
        if name in found:
            problems.add(place, "", f"column {name} stands twice; keep one")
        elif name in _COLUMNS:
            found[name] = index
        elif name in _SECRETS:
            problems.add(place, "", f"column {name}: a target list holds no secrets; use `passwords: {{file: …}}`")
        elif name in TOLD:
            continue
        elif name == "account":
            problems.add(place, "", "column account is not built yet in this version; remove it")
        else:
            meant = names.nearest(name, _COLUMNS) if name else None
            if meant is not None and meant not in [other.strip().lower() for other in header]:
                problems.add(place, "", f"column {names.shown(cell.strip())}: did you mean {meant}?")
    missing = [name for name in _REQUIRED if name not in found]
    if missing and problems.count == before:
        shown = ", ".join(names.shown(cell.strip()) for cell in header[:10])
        problems.add(place, "", f"no column {' and no column '.join(missing)}, only {shown}; {_HEADER}")
    if problems.count > before:
        return None
    return found["instance"], found["user"], found.get("region", -1)


def _no_header(header: Sequence[str]) -> str | None:
    """What a first line is that is no header at all."""
    cells = [cell.strip() for cell in header]
    if not any(cells):
        return "is empty"
    if len(cells) > 1 and names.is_instance(cells[0]) and names.is_user(cells[1]):
        return f"begins with a target ({cells[0]}) instead of a header"
    if len(cells) == 1 and (other := next((sign for sign in ";\t|" if sign in cells[0]), None)):
        return f"columns are separated by {other!r}; use commas"
    return None


def _rows(
    rows: Iterator[list[str]],
    columns: tuple[int, int, int],
    width: int,
    where: tuple[str, str],
    targets: Targets,
    problems: Problems,
) -> int:
    file, list_region = where
    at_instance, at_user, at_region = columns
    least = max(columns) + 1
    count = 0
    line = rows.line_num + 1  # type: ignore[attr-defined]
    add = targets.add
    for row in rows:
        if len(row) < least:
            if any(cell.strip() for cell in row):
                count += 1
                if at_region >= len(row) > max(at_instance, at_user):
                    add(row[at_instance].strip(), row[at_user].strip(), list_region, file, line, 0)
                else:
                    what = f"has {len(row)} of {width} columns; a row needs instance and user"
                    problems.add(Place(file, line), "", what)
        elif len(row) > width and any(cell.strip() for cell in row[width:]):
            count += 1
            problems.add(Place(file, line), "", f"has {len(row)} columns where the header has {width}; remove the rest")
        else:
            instance, user = row[at_instance].strip(), row[at_user].strip()
            region = row[at_region].strip() if at_region >= 0 else ""
            if instance or user or region:
                count += 1
                add(instance, user, region or list_region, file, line, 0)
        line = rows.line_num + 1  # type: ignore[attr-defined]
    return count


def read_jsonl(data: bytes, file: str, region: str, targets: Targets, problems: Problems) -> list[str]:
    """Add every line to `targets`; `region` is for rows without one. Returns warnings.

    Further fields are ignored and named in a warning; one that looks like a known field is an error, as a region
    left out by a slip would send the call elsewhere.
    """
    if (odd := not_text(data)) is not None:
        problems.add(Place(file), "", odd)
        return []
    strict = msgspec.json.Decoder(_StrictRow).decode
    ignored: dict[str, int] = {}
    count = 0
    for line, text in enumerate(io.BytesIO(data), start=1):
        if line == 1 and text.startswith(b"\xef\xbb\xbf"):
            text = text[3:]  # noqa: PLW2901 - the byte order mark
        if not text.strip():
            continue
        count += 1
        try:
            row: Row | None = strict(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            row = _loose(text, Place(file, line), exc, ignored, problems)
        if row is not None:
            targets.add(row.instance.strip(), row.user.strip(), row.region.strip() or region, file, line, 0)
    if not count:
        problems.add(Place(file), "", 'is empty; one line per target: {"instance":"…","user":"…"}')
    if not ignored:
        return []
    shown = ", ".join(names.shown(name) for name in list(ignored)[:10])
    first = min(ignored.values())
    return [f"{Place(file, first)}: field{'s' * (len(ignored) > 1)} {shown} ignored"]


def _loose(text: bytes, place: Place, exc: Exception, ignored: dict[str, int], problems: Problems) -> Row | None:
    """A row that is more than a row: its extra fields are noted in `ignored`; None if it is no row (noted)."""
    what = str(exc)
    try:
        row = msgspec.json.decode(text, type=Row)
        extra = [name for name in msgspec.json.decode(text, type=dict[str, object]) if name not in (*_COLUMNS, *TOLD)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as other:
        what = "nested too deeply" if isinstance(other, RecursionError) else str(other)
        problems.add(place, "", f'{what}; a line is {{"instance":"…","user":"…"}}')
        return None
    before = problems.count
    for name in extra:
        folded = name.lower()
        if folded in _SECRETS:
            problems.add(place, "", f"field {name}: a target list holds no secrets; use `passwords: {{file: …}}`")
        elif folded == "account":
            problems.add(place, "", "field account is not built yet in this version; remove it")
        elif names.nearest(folded, _COLUMNS) is not None:
            problems.add(place, "", f"field {names.shown(name)}{names.did_you_mean(folded, _COLUMNS)}")
        else:
            ignored.setdefault(name, place.line)
    return row if problems.count == before else None


def not_text(data: bytes) -> str | None:
    """What is wrong with bytes that are plainly no UTF-8 list; None if nothing is."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
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
