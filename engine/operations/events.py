"""What is told, while an operation goes on, to whoever started it: values, which a command line turns into lines."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class Warned(Struct, frozen=True):
    """Something is not as it should be, and the operation goes on."""

    text: str


class News(Struct, frozen=True):
    """Something has happened in a run that a person who watches it wants to know."""

    text: str


class Changed(Struct, frozen=True):
    """What became different since something was shown or confirmed."""

    text: str


class Looking(Struct, frozen=True):
    """A sign of life of an operation that reads and has not found all yet."""

    text: str


Event = Warned | News | Changed | Looking
Tell = Callable[[Event], None]


def nobody(_event: Event) -> None:
    """For whoever wants to hear nothing."""
