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


Event = Warned | News
Tell = Callable[[Event], None]


def nobody(_event: Event) -> None:
    """For whoever wants to hear nothing."""
