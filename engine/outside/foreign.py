"""What others wrote, made fit to keep, to show and to decide from. No I/O.

Foreign is every word, number and time that a server, a proxy, a program, a file of somebody else or the system sends.
It is bounded, cleaned and scrubbed of secrets once, where it enters; what comes after may rely on that. Every command
imports this module to print, so what only a secret needs is imported where one is looked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.model import Keys

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
_NO_TEXT = re.compile(r"\\udc([89a-f][0-9a-f])")
_JSON = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
"""Characters that JSON escapes by a letter."""
_MOST_ESCAPES = 3
"""Layers: JSON within JSON within a URL is the worst that was met."""
_JSON_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|([\"/\\]))")


def clean(text: str, most: int = MOST_WORDS) -> str:
    """`text` on one line of at most `most` characters, with a space for every character that a terminal could obey.

    That is each control, each bidirectional and each invisible mark, each kind of line end, each half of a surrogate.
    """
    kept = text[: most + 1]
    if not kept.isprintable():
        kept = "".join(char if char.isprintable() else " " for char in kept)
    return kept if len(kept) <= most else kept[: most - 1] + _CUT


def field_of(value: object) -> str:
    """A foreign field that is text, cleaned and bounded; empty for everything else."""
    return clean(value, MOST_FIELD) if isinstance(value, str) else ""


def clean_lines(text: str) -> str:
    """`text` for a terminal or a file that a person reads: as `clean`, but its lines stay, and are not cut."""
    if text.isprintable():
        return text
    return "\n".join(map(_clean_line, text.split("\n")))  # line by line: what is printed is mostly clean


def _clean_line(line: str) -> str:
    return line if line.isprintable() else "".join(char if char.isprintable() else _shown(char) for char in line)


def _shown(char: str) -> str:
    """A byte of a file's name that is no text is shown as `$'…'` of a shell takes it; all else is a space."""
    return f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else " "


def pasted(words: Iterable[str]) -> str:
    """Words of a command line, to be pasted into a shell as they are shown, each on one line and none cleaned away.

    A word with a character that no terminal shows, or with a byte that is no text, is written as `$'…'`: so bash, zsh,
    ksh and POSIX since 2024 take it.
    """
    from shlex import quote  # late: few print commands

    return " ".join(quote(word) if word.isprintable() else f"$'{_escaped_word(word)}'" for word in words)


def _escaped_word(word: str) -> str:
    return "".join(_escaped_char(char) for char in word)


def _escaped_char(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if char.isprintable():
        return char
    # In octal: three digits at most, so what follows cannot become a part of it.
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))


def with_its_bytes(recorded: str) -> str:
    r"""A name as a record keeps it (`\udcff` for a byte that is no text), with these bytes as Python has them."""
    return _NO_TEXT.sub(lambda found: chr(0xDC00 + int(found[1], 16)), recorded)


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

    @property
    def values(self) -> tuple[str, ...]:
        """As they are."""
        return self._values

    def scrub(self, text: str) -> str:
        """`text` with `REDACTED` for every secret in it."""
        if not self._values:
            return text
        may_be_escaped = _may_be_escaped(text)
        if may_be_escaped:
            text = self._escaped.sub(REDACTED, text)
        elif any(plain in text.lower() for plain in self._folded):
            text = self._plain.sub(REDACTED, text)
        if any(core in text for core in self._cores):
            text = self._base64.sub(REDACTED, text)
        return REDACTED if may_be_escaped and self._hides_in(text) else text

    def _hides_in(self, text: str) -> bool:
        """Whether undoing escapes upon escapes brings a secret to light."""
        for _ in range(_MOST_ESCAPES):
            if (plain := _unescaped(text)) == text:
                return False
            text = plain
            if any(value in text.lower() for value in self._folded) or any(core in text for core in self._cores):
                return True
        return False

    def are_in(self, body: bytes) -> bool:
        """Whether `scrub` may find something in these bytes; quick, for bodies that are read a hundred times a second.

        Says yes too often, never no where there is something.
        """
        # Profiled: spelled out, as `any` over a generator costs more than all that is looked for.
        plain, cores, is_simple = self._probes
        if not plain:
            return False
        if b"%" in body or b"&" in body:
            return True
        if b"\\" in body:
            if not is_simple or b"\\u" in body:
                return True
            body = body.replace(b"\\/", b"/")  # PHP's, in base64
        for core in cores:
            if core in body:
                return True
        folded = body.lower() if self._is_ascii else body.decode(errors="replace").lower().encode()
        for value in plain:  # noqa: SIM110 - as above
            if value in folded:
                return True
        return False

    @cached_property
    def _probes(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...], bool]:
        """What `are_in` looks for: the secrets in small letters, as base64, and whether they are letters and digits."""
        is_simple = all(value.isascii() and value.isalnum() for value in self._values)
        plain = tuple(value.encode("utf-8", "replace") for value in self._folded)
        return plain, tuple(core.encode() for core in self._cores), is_simple

    @cached_property
    def _is_ascii(self) -> bool:
        return all(value.isascii() for value in self._values)

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
        import base64

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


def proxy_secrets(url: str) -> Secrets:
    """Name and password of a proxy's URL, whatever is wrong with it: all that stands before its last @."""
    before, at, _ = url.rpartition("@")
    if not at:
        return Secrets(())
    from urllib.parse import unquote

    whole = before.rpartition("://")[2]
    password = whole.partition(":")[2]
    return Secrets((whole, password, unquote(whole), unquote(password)))


def environment_secrets(environ: Mapping[str, str]) -> Secrets:
    """Values of variables that are called as secrets are, for texts of which nobody knows what is in them."""
    values: list[str | None] = []
    for name, value in environ.items():
        if any(part in name.upper() for part in ("SECRET", "TOKEN", "PASSW", "KEY")):
            values.append(value)
        elif "@" in value and "PROXY" in name.upper():
            values += proxy_secrets(value).values
    return Secrets(values)


@lru_cache(maxsize=32)
def secrets_of(keys: Keys) -> Secrets:
    """What of a set of keys no text may show: the key and the token, and the id as a whole."""
    return Secrets((keys.secret_key, keys.token, keys.secret_id))


def _longest_first(values: Iterable[str]) -> list[str]:
    return sorted(values, key=len, reverse=True)


def _may_be_escaped(text: str) -> bool:
    return "\\" in text or "%" in text or "&" in text


def _unescaped(text: str) -> str:
    """`text` with one layer of escapes less, of JSON, of URLs and of HTML."""
    import html
    from urllib.parse import unquote

    text = _JSON_ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], text)
    return html.unescape(unquote(text, errors="replace"))


def _spellings(char: str) -> str:
    """Pattern of one character as it is or as a writer of JSON, URLs or HTML escapes it, each perhaps twice."""
    import html
    from urllib.parse import quote

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
