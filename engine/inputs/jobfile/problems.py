"""Collects what is wrong with an operator's file, so that one command shows it all. No I/O."""

from __future__ import annotations

from engine.errors import JobError
from engine.model import Place

MOST = 50
"""Problems that are named, at most; more are counted: one wrong column spoils each row of a list of a million."""


class Problems:
    """Collector of problems, each `file:line:column: path: what; what to do`."""

    def __init__(self) -> None:
        self._found: list[tuple[Place, str]] = []
        self._files: dict[str, int] = {}
        self.count = 0
        """Number of all problems, also of those beyond `MOST`."""
        self.suspect: tuple[Place, str] | None = None
        """What is no problem by itself, and is likely the cause if there is one."""
        self.hint = ""
        """The last line: another way than to correct what was found."""

    def add(self, place: Place, path: str, what: str) -> None:
        """Note one problem; `path` says where in the structure it is (`targets[3].user`), or is empty."""
        self.count += 1
        self._files.setdefault(place.file, len(self._files))
        if len(self._found) < MOST:
            self._found.append((place, f"{path}: {what}" if path else what))

    def lines(self) -> list[str]:
        """Return the problems in the order of their places, file by file, the first file first."""
        found = [*self._found, self.suspect] if self.count and self.suspect is not None else self._found
        ordered = sorted(found, key=lambda item: (self._files.get(item[0].file, 0), item[0].line, item[0].column))
        lines = [f"{place}: {text}" for place, text in ordered]
        if self.count > len(self._found):
            lines.append(
                f"… and {self.count - len(self._found):,} more; correct these {len(self._found)} and look again"
            )
        return [*lines, self.hint] if self.hint else lines

    def stop_if_any(self) -> None:
        """Raise everything found as one JobError."""
        if self.count:
            raise JobError(self.lines())
