"""Rules, floor 1: what others wrote, made fit to keep, to show and to decide from. No I/O.

Foreign is every word, number and time that a server, a proxy, a program, a file of somebody else or the system sends.
It is bounded, cleaned and scrubbed of secrets once, where it enters; what comes after may rely on that.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Iterable
from functools import cached_property
from urllib.parse import quote

REDACTED = "[redacted]"
"""Stands where a secret stood."""
SHORTEST_SECRET = 4
"""Characters. Shorter strings are no secret, and blotting them out would blot out words."""
MOST_WORDS = 1000
"""Characters of a foreign message that are kept."""
MOST_FIELD = 128
"""Characters of a foreign field that are kept: a code, a type, a time."""

_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
_CUT = "…"
_JSON = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
"""Characters that JSON escapes by a letter."""


def clean(text: str, most: int = MOST_WORDS) -> str:
    """`text` on one line of at most `most` characters, with a space for every character that a terminal could obey.

    That is each control, each bidirectional and each invisible mark, each kind of line end, each half of a surrogate.
    """
    kept = text[: most + 1]
    if not kept.isprintable():
        kept = "".join(char if char.isprintable() else " " for char in kept)
    return kept if len(kept) <= most else kept[: most - 1] + _CUT


def clean_lines(text: str) -> str:
    """`text` for a terminal or a file that a person reads: as `clean`, but its lines and their number stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def without_userinfo(text: str) -> str:
    """`text` without the user and the password of any URL in it: `http://[redacted]@host`."""
    return _USERINFO.sub(f"{REDACTED}@", text) if "@" in text else text


def number(value: object, least: float, most: float) -> float | None:
    """A foreign number, or text that is one, if it lies within the bounds; None for everything else, NaN too."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and (len(value) > MOST_FIELD or not value.isascii()):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and least <= found <= most else None


def whole(value: object, least: int, most: int) -> int | None:
    """A foreign whole number, or text that is one, within the bounds; None for everything else."""
    found = number(value, least, most)
    return int(found) if found is not None and found.is_integer() else None


class Secrets:
    """Secrets that no text may show, in any spelling in which a foreign program may say them back.

    Spellings: as they are, in capitals or small letters; escaped as in JSON, in a URL or in HTML, each character in a
    way of its own; in base64, alone or within a longer text.
    """

    __slots__ = ("__dict__", "_values")

    def __init__(self, values: Iterable[str | None]) -> None:
        """Only values of `SHORTEST_SECRET` characters and more count."""
        self._values = tuple(value for value in dict.fromkeys(values) if value and len(value) >= SHORTEST_SECRET)

    def __repr__(self) -> str:
        return f"Secrets({len(self._values)})"

    def scrub(self, text: str) -> str:
        """`text` with `REDACTED` for every secret in it."""
        if not self._values:
            return text
        if _may_be_escaped(text):
            text = self._escaped.sub(REDACTED, text)
        elif any(plain in text.lower() for plain in self._folded):
            text = self._plain.sub(REDACTED, text)
        return self._base64.sub(REDACTED, text) if any(core in text for core in self._cores) else text

    def are_in(self, body: bytes) -> bool:
        """Whether `scrub` may find something in these bytes; quick, for bodies that are read a hundred times a second.

        Says yes too often, never no where there is something.
        """
        if not self._values:
            return False
        if any(sign in body for sign in (b"\\u", b"%", b"&")):
            return True
        text = body.decode(errors="replace")
        if "\\" in text and not all(value.isalnum() for value in self._values):
            return True
        folded = text.lower()
        return any(value in folded for value in self._folded) or any(core in text for core in self._cores)

    @cached_property
    def _folded(self) -> tuple[str, ...]:
        return tuple(value.lower() for value in self._values)

    @cached_property
    def _plain(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, _longest_first(self._values))), re.IGNORECASE)

    @cached_property
    def _escaped(self) -> re.Pattern[str]:
        spelled = ("".join(map(_spellings, value)) for value in _longest_first(self._values))
        return re.compile("|".join(spelled), re.IGNORECASE)

    @cached_property
    def _cores(self) -> tuple[str, ...]:
        """What base64 makes of each secret wherever it begins in what is encoded, without the shared characters."""
        cores: dict[str, None] = {}
        for value in self._values:
            raw = value.encode()
            for lead in range(3):
                text = base64.b64encode(b"\0" * lead + raw).decode().rstrip("=")
                first = (lead * 8 + 5) // 6
                last = (lead + len(raw)) * 8 // 6
                core = text[first:last]
                if len(core) >= SHORTEST_SECRET:
                    cores[core] = cores[core.replace("+", "-").replace("/", "_")] = None
        return tuple(_longest_first(cores))

    @cached_property
    def _base64(self) -> re.Pattern[str]:
        cores = "|".join(map(re.escape, self._cores)) or r"(?!)"
        return re.compile(rf"[A-Za-z0-9+/_-]*(?:{cores})[A-Za-z0-9+/_-]*=*")


def _longest_first(values: Iterable[str]) -> list[str]:
    return sorted(values, key=len, reverse=True)


def _may_be_escaped(text: str) -> bool:
    return "\\" in text or "%" in text or "&" in text


def _spellings(char: str) -> str:
    """Pattern of one character as it is or as a writer of JSON, URLs or HTML escapes it, each perhaps twice."""
    units = char.encode("utf-16-be", "surrogatepass").hex()
    octets = char.encode("utf-8", "surrogatepass").hex()
    forms = {
        char,
        _JSON.get(char, char),
        "\\" + char,  # PHP's \/
        "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)),  # Go's \u003c
        "".join(f"%{octets[at : at + 2]}" for at in range(0, len(octets), 2)),
        quote(char, safe=""),
        html.escape(char),
    }
    if char == " ":
        forms.add("+")
    decimal = f"&#0*{ord(char)};|&#x0*{ord(char):x};"
    return f"(?:{'|'.join(map(re.escape, _longest_first(forms)))}|{decimal})"
