"""The members of an evidence bundle that are made, and not copied, and how the bundle is put together. Pure.

All times are as of the last record, so that two calls give the same bytes.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, BinaryIO

from msgspec import Struct

from engine.errors import ConfigError
from engine.journal.records import rfc3339, unix_seconds
from engine.outside.foreign import REDACTED
from engine.report.course import Course
from engine.report.documents import CSV_COLUMNS, csv_rows, csv_text, full_document
from engine.report.page import Page, Rows, check_installed, html, moment, part

if TYPE_CHECKING:
    from engine.journal.ledger import Ledger
    from engine.journal.records import AnyRecord
    from engine.outside.foreign import Secrets
    from engine.report.nextstep import WayOn

FORMAT = 1
MANIFEST, SUMS, README, PROGRAM = "MANIFEST.json", "SHA256SUMS", "README.txt", "verify.py"
HEADS, SEALS, SIGNERS = "heads.jsonl", "seals.jsonl", "signers"


class Told(Struct, frozen=True, kw_only=True):
    """What the reports of one run are made from."""

    ledger: Ledger
    journal: str
    """The member that is its journal."""
    head: str
    live: bool
    way: WayOn
    watch: dict[str, Any] | None
    """How its watch stands. Any: JSON values."""
    records: Callable[[], Iterable[AnyRecord]]
    """Reads its journal."""
    seals: tuple[str, ...]
    """How its end is listed and sealed, in words."""


def _json_report(told: Told) -> str:
    whole = full_document(
        told.ledger, journal=told.journal, head=told.head, live=told.live, way=told.way, watch=told.watch
    )
    return as_json(whole)


def _csv_report(told: Told) -> str:
    return "".join(csv_text(csv_rows(told.ledger, told.way), CSV_COLUMNS))


def _html_report(told: Told) -> str | None:
    """Return the page of the run, as of its last record and in UTC alone; None if its extra is not installed."""
    try:
        check_installed("report.html")
    except ConfigError:
        return None
    course, at = Course(), told.ledger.last_at
    course.fold(told.records())
    rows = Rows(_utc)
    rows.add(told.ledger.run.run, told.ledger, told.way)
    run = told.ledger.run
    page = Page(
        title=f"{run.action} {run.job.name}" + (f" · {run.ticket}" if run.ticket else ""),
        made=moment(at, _utc),
        parts=(
            part(
                told.ledger,
                course,
                told.way,
                journal=told.journal,
                head=told.head,
                zone=_utc,
                now=unix_seconds(at),
                seals=told.seals,
            ),
        ),
        rows=rows.shown(),
        rows_said=rows.said("All of them are in report.csv, beside this file."),
    )
    return "".join(html(page))


def _utc(at: float) -> str:
    return f"{rfc3339(at)[:19].replace('T', ' ')} UTC"


REPORTS: Mapping[str, Callable[[Told], str | None]] = {
    "report.json": _json_report,
    "report.csv": _csv_report,
    "report.html": _html_report,
}
"""Member of a run → how it is made; None if it cannot be made here, which the manifest says."""


def as_json(value: Any) -> str:
    """Return a document as the bundle has it: sorted, in ASCII, so that no name in it is obeyed. Any: JSON values."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True) + "\n"


# ---- what may be a secret --------------------------------------------------------------------------------------------

_MAY_BE_SECRET = re.compile(
    r"(?P<url>https?://[^\s/\"'\\]*/)[^\s\"',\]}]+"
    r"|(?P<id>AKID)[A-Za-z0-9]{8,}"
    r"|(?P<key>(?:secret|token|passw|pwd|passphrase|api[_-]?key|credential|bearer|authorization)[\w-]*"
    r"[\"']?(?:[ \t]*[:=][ \t]*|[ \t]+(?:is[ \t]+)?(?=\S*[0-9])))(?![\[{#])[^\s,\]}#]+"
    r"|(?P<long>)\b(?=[A-Za-z0-9_=-]*[0-9])(?=[A-Za-z0-9_=-]*[a-z])(?=[A-Za-z0-9_=-]*[A-Z])[A-Za-z0-9_=-]{24,}",
    re.IGNORECASE,
)
_MIXED = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9]"))


class Redacted(Struct, frozen=True, kw_only=True):
    """A text without what is, or may be, a secret."""

    text: str
    lines: tuple[int, ...]
    """Numbers of the lines from which something was taken; empty if nothing was."""


def without_secrets(text: str, spans: Iterable[tuple[int, int]], secrets: Secrets) -> Redacted:
    """Return a job's text without the arguments of commands (`spans`) and whatever else may be a secret."""
    parts: list[str] = []
    at, lines = 0, set[int]()
    for begin, end in spans:
        parts += [text[at:begin], f'"{REDACTED}"']
        lines |= set(range(text.count("\n", 0, begin) + 1, text.count("\n", 0, max(begin, end - 1)) + 2))
        # What spans several lines stays as many lines, so that the numbers of the others are right.
        parts.append("\n" * text.count("\n", begin, end))
        at = end
    kept = "".join((*parts, text[at:])).split("\n")
    for number, line in enumerate(kept, 1):
        clean = _cleaned(line, secrets)
        if clean != line:
            kept[number - 1] = clean
            lines.add(number)
    return Redacted(text="\n".join(kept), lines=tuple(sorted(lines)))


def _cleaned(line: str, secrets: Secrets) -> str:
    line = re.sub(r"(?<=://)[^\s/@\"']+@", f"{REDACTED}@", secrets.scrub(line))
    return _MAY_BE_SECRET.sub(_replaced, line)


def _replaced(found: re.Match[str]) -> str:
    if found["long"] is not None and not all(each.search(found[0]) for each in _MIXED):
        return found[0]
    return f"{found['url'] or found['id'] or found['key'] or ''}{REDACTED}"


_KEY = re.compile(
    r"((?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp[0-9]{3}|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com) "
    r"AAAA[A-Za-z0-9+/=]+)"
)


def only_keys(data: bytes) -> str:
    """Return the lines of a file of allowed signers that have a public key, each up to its key: no comment, no more."""
    lines = []
    for line in data.decode("utf-8", "replace").splitlines():
        found = _KEY.search(line)
        if found is not None and not line.lstrip().startswith("#") and line.isprintable():
            lines.append(line[: found.end()].strip())
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


# ---- the bundle ------------------------------------------------------------------------------------------------------


def sums(digests: Mapping[str, str]) -> str:
    """Return SHA256SUMS: member → SHA-256 in hex."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))


def write_zip(file: BinaryIO, members: Mapping[str, Callable[[], bytes]], as_of: str) -> None:
    """Write the members as a zip file of which every byte follows from them and from `as_of`, the time in it."""
    year, *rest = (int(as_of[at:end]) for at, end in ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19)))
    when = (year, *rest) if 1980 <= year <= 2107 else (1980, 1, 1, 0, 0, 0)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as bundle:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, when)  # type: ignore[arg-type]  # six numbers
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # a Unix, wherever it is made
            entry.external_attr = 0o100600 << 16
            bundle.writestr(entry, members[name]())


def digest(data: bytes) -> str:
    """Return SHA-256 in hex."""
    return sha256(data).hexdigest()


def latest(times: Iterable[str]) -> str:
    """Return the latest of the times that are one; the epoch if none is."""
    found = []
    for each in times:
        try:
            found.append((unix_seconds(each), each))
        except (ValueError, OverflowError):
            continue
    return max(found)[1] if found else "1980-01-01T00:00:00.000Z"


def readme(text: str, about: Mapping[str, str], as_of: str, runs: int) -> str:
    """Return README.txt from its `text`: what the bundle is, how it is checked, what that proves and what not."""
    what = ascii(about.get("ticket") or about.get("run"))
    kind = "ticket" if "ticket" in about else "run"
    return text.format(kind=kind, what=what, as_of=as_of, runs=runs)
