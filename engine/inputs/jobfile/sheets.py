"""A list as a spreadsheet or a person leaves it: bytes → lines, how they are laid out, what is above. No I/O."""

from __future__ import annotations

import io
import re
from codecs import getincrementaldecoder
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from engine.inputs.jobfile.columns import is_name, synonym
from engine.inputs.jobfile.layout import WORDS, Layout, clean, layout_of, likely_layout, may_be_title
from engine.model import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MOST_TITLES = 10
"""Lines above the header that are skipped, at most."""


MARK = b"\xef\xbb\xbf"
_UTF8 = "utf-8-sig"
_WESTERN = "cp1252"
_PIECE = 1 << 20
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UTF32 = b"\xff\xfe\0\0"


class Opening(NamedTuple):
    """How a list begins."""

    layout: Layout
    lines: Iterator[str]
    """From the first on, as in the file; what is skipped is blank."""
    titles: tuple[tuple[int, str], ...] = ()
    """Lines above the header that are skipped, with their numbers."""
    is_said: bool = False
    """Whether a `sep=` line names the separator."""
    named_at: int = 0
    """Line above that begins with # and names columns; 0: none."""


class Sheet:
    """The text of a list. UTF-8 and UTF-16 show; what is neither is read as Windows-1252, by guess."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._encoding = _encoding_of(data)

    @property
    def is_guessed(self) -> bool:
        """Whether the encoding is a guess: then only ASCII is certain."""
        return self._encoding == _WESTERN

    def lines(self) -> Iterator[str]:
        """Return the lines from the first one on, as written."""
        errors = "replace" if self.is_guessed else "strict"
        data = self._data.removeprefix(MARK) if self.is_guessed else self._data
        return io.TextIOWrapper(io.BytesIO(data), encoding=self._encoding, errors=errors, newline="")

    def opened(self, said: Mapping[str, str]) -> Opening:
        """Return how it begins; `said` is the job's `columns:`."""
        return _opened(self.lines(), said)

    def unsure_separator(self, layout: Layout) -> str | None:
        """Return why the separator may be half a letter of the guessed encoding, in words; None if it cannot."""
        if not self.is_guessed or layout.separator < "@":
            return None
        return f"is not UTF-8, and in some encodings a letter holds a {layout.separator}; save the list as UTF-8"

    def guessed(self, layout: Layout, file: str) -> tuple[Place, int, str]:
        """Return the place of the first byte that is not UTF-8, how many lines have such, and what is said of them."""
        count = sum(not line.isascii() for line in self.lines())
        rows = f"{count:,} line{' has' if count == 1 else 's have'} letters beyond ASCII"
        separator = WORDS.get(layout.separator, "")
        what = f"is not UTF-8, and {rows}: read as Windows-1252{f' with {separator}' if separator else ''}"
        return bad_byte(self._data, file), count, f"{what}, as Excel saves lists in Europe"


def _opened(lines: Iterator[str], said: Mapping[str, str]) -> Opening:
    """Return how a list begins: its layout, and its lines numbered as in the file.

    A spreadsheet's `sep=;` line names the separator; remarks (#) above the first row are skipped, and so are titles
    above a header.
    """
    blank = 0
    """Lines that are skipped for good."""
    odd: list[str] = []
    """Lines from the first that makes no sense: titles, if a header follows."""
    titles: list[tuple[int, str]] = []
    separator, named_at = "", 0
    for line in lines:
        bare = line.strip().strip('"').lower()
        said_so = line.strip("\r\n").strip('"')
        if len(said_so) == 5 and said_so.lower().startswith("sep=") and not separator and not odd:
            separator = said_so[4]
        elif bare:
            layout = layout_of(line, said, separator)
            if layout is not None and (layout.has_header or not odd):
                above = chain(["\n"] * (blank + len(odd)), (line,), lines)
                return Opening(layout, above, tuple(titles), bool(separator), named_at)
            if not odd and bare.startswith("#") and _names_columns(bare):
                named_at = named_at or blank + 1
            if odd or not bare.startswith("#"):
                odd.append(line)
                if not may_be_title(line) or len(titles) == _MOST_TITLES:
                    break
                titles.append((blank + len(odd), clean(line.strip(',;|\t\r\n "'))))
                continue
        if odd:
            odd.append(line)
        else:
            blank += 1
    if not odd:
        return Opening(Layout(), iter(["\n"] * blank))
    layout = Layout(separator) if separator else likely_layout(odd[0])
    return Opening(layout, chain(["\n"] * blank, odd, lines), (), bool(separator))


def _names_columns(remark: str) -> bool:
    """Return whether a line that begins with # looks like the header of a list: two cells, one the name of a column."""
    cells = [cell for cell in re.split(r"[,;\t| ]+", remark.lstrip("# ")) if cell]
    return len(cells) in (2, 3) and any(is_name(cell) or synonym(cell) for cell in cells)


def is_utf16(data: bytes) -> bool:
    """Return whether bytes have the mark of UTF-16."""
    return data.startswith(_UTF16) and not data.startswith(_UTF32)


def _encoding_of(data: bytes) -> str:
    """Return the encoding of a CSV list: UTF-16 has its mark, as a spreadsheet's "Unicode text" has; UTF-8 shows."""
    if is_utf16(data):
        return "utf-16"
    if data.isascii():
        return _UTF8
    whole, decode = memoryview(data), getincrementaldecoder("utf-8")().decode
    try:
        for at in range(0, len(data), _PIECE):  # piece by piece: the text would take four times as much
            decode(whole[at : at + _PIECE], at + _PIECE >= len(data))
    except UnicodeDecodeError:
        return _WESTERN
    return _UTF8


def not_text(data: bytes) -> str | None:
    """Return why bytes cannot be a UTF-8 list, in words; None if nothing shows that."""
    if data.startswith(_UTF32):
        return "is UTF-32 text; save it as UTF-8 (CSV UTF-8)"
    if data.startswith(_UTF16):
        return "is UTF-16 text; save it as UTF-8 (CSV UTF-8)"
    if b"\0" in data:
        return "is not text: it holds NUL bytes; export the list as CSV or JSON Lines"
    return None


def bad_byte(data: bytes, file: str) -> Place:
    """Return the place of the first byte that is not UTF-8, whatever ends the lines: an old Mac's have CR alone."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as exc:
        above = data[: exc.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return Place(file, above.count(b"\n") + 1, len(above) - above.rfind(b"\n"))
    return Place(file)  # pragma: no cover - called for undecodable bytes only
