"""The flags of a command as one value: the terms of what it does, and how it prints."""

from __future__ import annotations

from typing import Any

from engine.cli.telling import teller
from engine.operations.terms import Terms


class Options(Terms, frozen=True, kw_only=True):
    """Every flag, as typed; a command without one leaves its default."""

    as_json: bool = False
    quiet: bool = False
    save: str | None = None
    """The file that a plan is saved to; nothing is sent then."""
    key: str | None = None
    """The file of the SSH key that signs it."""
    once: bool = False
    """Of several starts in one opening of the window only the first runs the job."""


def options_of(flags: dict[str, Any]) -> Options:
    """The options of a command, told on its terminal. Any: the flags, by name."""
    return Options(**flags, is_saving=flags.get("save") is not None, tell=teller(quiet=bool(flags.get("quiet"))))
