"""Reads files of NAME=value lines, and knows how each scheduler reads them. No I/O.

Three programs read the same file, each with a grammar of its own: systemd (systemd.exec(5), EnvironmentFile), a shell
(`set -a; . FILE`, as in a line for cron), and kubectl (`create secret --from-env-file`). One may skip a line that
another takes, and a job then starts without keys. So `parse_env` reads a line as its writer means it, and `trouble`
names what a given reader makes of it instead. No message holds a value: values are secrets.
"""

from __future__ import annotations

import re
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from engine.outside.foreign import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST = 64 << 10
"""Most bytes of a file of variables; a larger file is something else."""
_LINE = re.compile(r"(?P<export>export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<before>[ \t]*)=(?P<after>[ \t]*)")
_ACTS = frozenset("&;|<>()*?[]~!{}")
"""Characters with a meaning to a shell outside of quotes."""


class Reader(StrEnum):
    """The program that reads the file, by the form of `acctops schedule`."""

    SYSTEMD = "systemd"
    CRON = "cron"
    K8S = "k8s"


class _Shape(StrEnum):
    """A feature of a file that not every reader takes as its writer means it."""

    BOM = "begins with a byte order mark"
    EXPORT = "export before the name"
    SPACES = "blanks around the ="
    QUOTES = "quotes around the value"
    NOTE = "a # note after the value"
    DOLLAR = "a $ or ` in the value"
    BACKSLASH = "a backslash in the value"
    BLANKS = "blanks in a value without quotes"
    ACTS = "a sign that a shell obeys, in a value without quotes"
    RETURN = "lines that end as on Windows"
    TWICE = "the same name twice"
    NO_LINE = "no NAME=value"
    OPEN = "a quote that is not closed on its line"


_ALL: Final = tuple(Reader)
_READ_OTHERWISE: Final[Mapping[_Shape, Mapping[Reader, str]]] = MappingProxyType(
    {
        _Shape.BOM: {Reader.SYSTEMD: "passes over the first line", Reader.CRON: "does not know the first name"},
        _Shape.EXPORT: {Reader.SYSTEMD: "passes over the line", Reader.K8S: "refuses the file"},
        _Shape.SPACES: {Reader.CRON: "takes the name for a command", Reader.K8S: "refuses the file"},
        _Shape.QUOTES: {Reader.K8S: "takes the quotes for a part of the value"},
        _Shape.NOTE: dict.fromkeys((Reader.SYSTEMD, Reader.K8S), "takes the note for a part of the value"),
        _Shape.DOLLAR: {Reader.CRON: "fills in what it names"},
        _Shape.BACKSLASH: {Reader.K8S: "takes it for a part of the value"},
        _Shape.BLANKS: {Reader.CRON: "takes the second word for a command"},
        _Shape.ACTS: {Reader.CRON: "does what it says"},
        _Shape.RETURN: {Reader.CRON: "takes the end for a part of the value"},
        _Shape.TWICE: {Reader.K8S: "refuses the file"},
        _Shape.NO_LINE: {Reader.SYSTEMD: "passes over it", Reader.CRON: "runs it", Reader.K8S: "refuses the file"},
        _Shape.OPEN: dict.fromkeys(_ALL, "reads on into the next lines"),
    }
)
"""Shape → what a reader does that the writer did not mean, from the programs' own code and manuals: systemd's
env-file.c, POSIX sh (dot), kubectl's env_file.go."""
_NAMES: Final = MappingProxyType({Reader.SYSTEMD: "systemd", Reader.CRON: "the shell", Reader.K8S: "kubectl"})
_PLAIN = "write NAME=value, without quotes, blanks or export"


class EnvFile(Struct, frozen=True, kw_only=True):
    """The content of a file of variables."""

    values: Mapping[str, str]
    """Name → value as the writer means it. Values are secrets and are never shown."""
    _shapes: tuple[tuple[int, str, _Shape], ...] = ()
    """Line number, name, and the shape found there."""

    def __repr__(self) -> str:
        return f"EnvFile({', '.join(self.values)})"

    def trouble(self, reader: str) -> list[str]:
        """Return a sentence, with its line, for each thing that `reader` (a `Reader`) takes otherwise than meant."""
        by = Reader(reader)
        found = []
        for line, name, shape in self._shapes:
            does = _READ_OTHERWISE[shape].get(by)
            if does is not None:
                found.append(f"line {line}{f' ({name})' if name else ''}: {shape}: {_NAMES[by]} {does}; {_PLAIN}")
        return found


def parse_env(data: bytes) -> EnvFile:
    """Return the variables of a file; raise ValueError, in words without a value, if it is no such file."""
    if len(data) > MOST:
        raise ValueError(f"larger than {MOST >> 10} KiB; this is no file of NAME=value lines")
    if b"\0" in data:
        raise ValueError("holds NUL bytes; write it as UTF-8 text")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        place = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {place} is not UTF-8 text; write the file as UTF-8") from None
    shapes: list[tuple[int, str, _Shape]] = []
    if text.startswith("\ufeff"):
        shapes.append((1, "", _Shape.BOM))
        text = text[1:]
    if "\r\n" in text:
        shapes.append((text.partition("\r\n")[0].count("\n") + 1, "", _Shape.RETURN))
    values: dict[str, str] = {}
    for number, raw in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        line = raw.strip(" \t")
        if not line or line[0] in "#;":
            if line.startswith(";"):  # a comment only to systemd
                shapes.append((number, "", _Shape.NO_LINE))
            continue
        found = _LINE.match(line)
        if found is None:
            shapes.append((number, "", _Shape.NO_LINE))
            continue
        name = clean(found["name"], 64)
        value, odd = _value(line[found.end() :])
        if found["export"]:
            odd.insert(0, _Shape.EXPORT)
        if found["before"] or (found["after"] and value):
            odd.insert(0, _Shape.SPACES)
        if found["name"] in values:
            odd.append(_Shape.TWICE)
        shapes += [(number, name, shape) for shape in dict.fromkeys(odd)]
        if _Shape.OPEN not in odd:
            values[found["name"]] = value
    return EnvFile(values=values, _shapes=tuple(shapes))


def _value(text: str) -> tuple[str, list[_Shape]]:
    """Return a value as its writer means it, and the shapes found in it."""
    kept: list[str] = []
    odd: list[_Shape] = []
    at = 0
    while at < len(text):
        sign = text[at]
        if sign in " \t":
            rest = text[at:].lstrip(" \t")
            if not rest or rest.startswith("#"):
                odd += [_Shape.NOTE] if rest else []
                break
            odd.append(_Shape.BLANKS)
            kept.append(sign)
            at += 1
        elif sign in "'\"":
            end, inner, inside = _quoted(text, at)
            if end < 0:
                return "", [*odd, _Shape.OPEN]
            odd += [_Shape.QUOTES, *inside]
            kept.append(inner)
            at = end
        elif sign == "\\" and at + 1 < len(text):
            odd.append(_Shape.BACKSLASH)
            kept.append(text[at + 1])
            at += 2
        else:
            if sign in "$`":
                odd.append(_Shape.DOLLAR)
            elif sign in _ACTS:
                odd.append(_Shape.ACTS)
            elif sign == "\\":
                odd.append(_Shape.OPEN)
            kept.append(sign)
            at += 1
    return "".join(kept), odd


def _quoted(text: str, at: int) -> tuple[int, str, list[_Shape]]:
    """Return the index behind the quoted text that begins at `at` (or -1), the text, and the shapes found in it."""
    quote = text[at]
    odd: list[_Shape] = []
    kept: list[str] = []
    at += 1
    while at < len(text):
        sign = text[at]
        if sign == quote:
            return at + 1, "".join(kept), odd
        if quote == '"' and sign == "\\" and text[at + 1 : at + 2] in ("\\", '"', "$", "`"):
            odd.append(_Shape.BACKSLASH)
            at += 1
        elif quote == '"' and sign in "$`":
            odd.append(_Shape.DOLLAR)
        kept.append(text[at])
        at += 1
    return -1, "", odd
