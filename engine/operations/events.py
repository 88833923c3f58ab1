"""Events that an operation tells its caller while it goes on: values, which a command line turns into lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    pass


class Event(Struct, frozen=True):
    """Something that is told. Events of one use case are defined in its module."""


class Warned(Event, frozen=True):
    """Something is not as it should be, and the operation goes on."""

    text: str
    always: bool = False
    """Whether to say it even if everything else goes well."""


class Remarked(Event, frozen=True):
    """Something is odd about what was asked for, and may be meant."""

    text: str


class News(Event, frozen=True):
    """Something has happened in a run that a person who watches it wants to know."""

    text: str


class Changed(Event, frozen=True):
    """What became different since something was shown or confirmed."""

    text: str


class Looking(Event, frozen=True):
    """A sign of life from an operation that is still reading."""

    text: str


class Began(Event, frozen=True):
    """A run was created, or is resumed: from now on it may send."""

    run: str
    journal: str
    """Where its journal is."""
    flags: str = ""
    """The flags that a command needs to find the run, with a space before them."""


Tell = Callable[[Event], None]


def nobody(_event: Event) -> None:
    """Ignore an event, for callers that want to hear nothing."""
