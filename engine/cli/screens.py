"""The size of the terminal that shows a report."""

from __future__ import annotations

from engine.cli.talk import out
from engine.report.screen import Screen


def screen() -> Screen | None:
    """Return the size of the terminal that shows results; None if none does."""
    return Screen(*out.size) if out.size is not None else None


def folded(line: str) -> list[str]:
    """Return a line of a listing, broken between words where a narrow terminal shows it; its command stands alone."""
    shown = screen()
    if shown is None:
        return [line]
    words, arrow, command = line.partition("  → ")
    return [*shown.fold(words), f"    → {command}"] if arrow and len(line) > shown.columns else shown.fold(line)
