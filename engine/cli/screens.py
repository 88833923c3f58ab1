"""The size of the terminal that shows a report."""

from __future__ import annotations

from engine.cli.talk import out
from engine.report.screen import Screen


def screen() -> Screen | None:
    """Return the size of the terminal that shows results; None if none does."""
    return Screen(*out.size) if out.size is not None else None
