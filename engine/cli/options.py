"""The flags of a command as one value: the terms of what it does, and how it prints."""

from __future__ import annotations

from typing import Any

from engine.cli.telling import teller
from engine.operations.terms import Terms


class Options(Terms, frozen=True, kw_only=True):
    """Every flag, as typed; a command without one leaves its default."""

    as_json: bool = False
    quiet: bool = False
    once: bool = False
    """Of several starts in one opening of the window only the first runs the job."""


def options_of(flags: dict[str, Any]) -> Options:
    """The options of a command, told on its terminal. Any: the flags, by name."""
    return Options(**flags, tell=teller(quiet=bool(flags.get("quiet"))))
