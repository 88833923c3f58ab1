"""The tree a YAML text is read into, in which every value has its place. No I/O.

It stands apart from the YAML reader: importing that costs a command that reads no YAML a fifth of its start.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct


class Scalar(Struct, frozen=True, gc=False):
    """One value as written, without its quotes; nothing is interpreted."""

    text: str
    line: int
    column: int


class Series(Struct, gc=False):
    """A YAML sequence."""

    items: list[Node]
    line: int
    column: int


class Entry(Struct, frozen=True, gc=False):
    """A key with its value."""

    key: Scalar
    value: Node


class Table(Struct, gc=False):
    """A YAML mapping, in the order written."""

    entries: dict[str, Entry]
    line: int
    column: int


class Unusable(Struct, frozen=True, gc=False):
    """A place holder for something that was refused (an alias): its problem is noted, and readers skip it."""

    line: int
    column: int


Node: TypeAlias = Scalar | Series | Table | Unusable


def shown_key(key: str) -> str:
    """Return a key as a message shows it: short and printable, whatever was written."""
    return key if key.isprintable() and 0 < len(key) <= 60 else repr(key[:60])
