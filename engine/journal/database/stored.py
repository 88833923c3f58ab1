"""The journal of a run in the database, as the readers of files take it: its lines, in a file that nobody else sees."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from engine.errors import UsageError
from engine.journal.database.link import link_to, told
from engine.journal.reader import Stored

if TYPE_CHECKING:
    from collections.abc import Iterator

JOURNAL, ASIDE = 0, -1
"""Numbers of the chains of a run: its journal, and what stands beside it."""
_CHAIN = "select no, lines from acctops.batch where run = %s and no = %s order by first"
_ALL = "select no, lines from acctops.batch where run = %s and no >= 0 order by place"


class StoredLines(Stored):
    """All lines of a run, those of all its shards among them; or those of one shard, or of what stands beside it."""

    def __init__(self, url: str, run_id: str, place: str, no: int = JOURNAL) -> None:
        self._url = url
        self._run_id = run_id
        self._place = place
        self._no = no

    def __str__(self) -> str:
        return f"{self._place} (beside)" if self._no == ASIDE else self._place

    def open(self) -> int:
        """Return the descriptor of a file with the lines; UsageError if there are none."""
        try:
            with tempfile.TemporaryFile(prefix="acctops-") as file:
                for lines in self.blocks():
                    file.write(lines)
                file.flush()
                if not file.tell():
                    raise UsageError(f"{self}: no such journal")
                return os.dup(file.fileno())
        except OSError as error:
            raise UsageError(
                f"{self}: cannot be read: {tempfile.gettempdir()}: {error.strerror}; free space there, or set TMPDIR"
            ) from error

    def blocks(self) -> Iterator[bytes]:
        """Yield the lines, those of one commit at a time; of a whole run, in the order of the commits."""
        for _, lines in self.commits():
            yield lines

    def commits(self) -> Iterator[tuple[int, bytes]]:
        """Yield what `blocks` does, each with the number of its chain."""
        link = link_to(self._url)
        with told(self._url):
            is_all = self._no == JOURNAL
            for no, lines in link.stream(_ALL, self._run_id) if is_all else link.stream(_CHAIN, self._run_id, self._no):
                yield no, bytes(lines)

    def beside(self) -> StoredLines | None:
        """Return what stands beside it; None if nothing does."""
        aside = StoredLines(self._url, self._run_id, self._place, ASIDE)
        return aside if aside.exists() else None

    def exists(self) -> bool:
        """Return whether it has any line."""
        with told(self._url):
            sql = "select exists (select 1 from acctops.batch where run = %s and no = %s)"
            return bool(link_to(self._url).rows(sql, self._run_id, self._no)[0][0])


class Kept(Stored):
    """Some lines of a journal, which are here already."""

    def __init__(self, lines: bytes, place: str) -> None:
        self._lines = lines
        self._place = place

    def __str__(self) -> str:
        return self._place

    def open(self) -> int:
        """Return the descriptor of a file with the lines; UsageError if there are none."""
        if not self._lines:
            raise UsageError(f"{self}: no such journal")
        fd = os.memfd_create("acctops", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(self._lines)
        return fd

    def beside(self) -> None:
        """Return None: nothing beside is known."""
