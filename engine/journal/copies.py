"""Copies journals up to their last whole line, so that what is read and what is handed on are the same bytes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import UsageError
from engine.journal.directory import JOURNAL
from engine.journal.reader import ASIDE, last_end, read, replay
from engine.outside.trust import create_new, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.journal.reader import Replay
    from engine.journal.records import AnyRecord

_BLOCK = 1 << 20


class Copy(Struct, frozen=True, kw_only=True):
    """A copy of the journal of a run, and of what stands beside it."""

    journal: Path
    aside: Path | None
    """None if nothing stands beside it."""

    @property
    def files(self) -> dict[str, Path]:
        """The files by the names that they have in the directory of a run."""
        return {JOURNAL: self.journal} | ({ASIDE: self.aside} if self.aside is not None else {})

    def replay(self) -> Replay:
        """Return it, folded into a ledger; raises what `reader.replay` raises."""
        return replay(self.journal)

    def records(self) -> Iterator[AnyRecord]:
        """Yield its records; raises what `reader.read` raises."""
        return read(self.journal)

    def has_end(self) -> bool:
        """Return whether its last session wrote an `end`."""
        return last_end(self.journal) is not None


def copy_run(run_dir: Path, into: Path) -> Copy:
    """Copy what the directory of a run has, up to the last whole line of each file, into a new directory.

    UsageError if it cannot be read; OSError if the copy cannot be written.
    """
    into.mkdir(mode=0o700)
    beside = os.path.lexists(run_dir / ASIDE)
    journal = _copy(run_dir / JOURNAL, into / JOURNAL)
    return Copy(journal=journal, aside=_copy(run_dir / ASIDE, into / ASIDE) if beside else None)


def _copy(path: Path, to: Path) -> Path:
    try:
        fd = open_regular(path, follow=False)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    new = create_new(to, 0o600)
    whole = 0
    try:
        with os.fdopen(new, "wb") as file:
            while True:
                try:
                    block = os.pread(fd, _BLOCK, file.tell())
                except OSError as error:
                    raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
                if not block:
                    break
                if (end := block.rfind(b"\n") + 1) > 0:
                    whole = file.tell() + end
                file.write(block)
            file.truncate(whole)
    finally:
        os.close(fd)
    return to
