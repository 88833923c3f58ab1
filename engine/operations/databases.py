"""The use cases of a database: its tables made, and the journal of a run written as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import UsageError
from engine.journal.reader import verify
from engine.operations.stores import find
from engine.outside.databaseurls import url_problem

if TYPE_CHECKING:
    from engine.journal.database.versions import Migrated
    from engine.operations.terms import Terms


def migrated(url: str) -> Migrated:
    """Bring the tables of a database to this version; return what was done. UsageError for no URL of a database."""
    if (problem := url_problem(url)) is not None:
        raise UsageError(f"--database: the URL {problem}")
    from engine.journal.database.versions import migrate  # here: who has no database needs no psycopg

    return migrate(url)


class Exported(Struct, frozen=True, kw_only=True):
    """A journal that was written as a file."""

    run_id: str
    path: Path
    lines: int
    head: str


def exported(terms: Terms, run: str, into: str) -> Exported:
    """Write the journal of a run, and what stands beside it, as files into a new directory below `into`; check them.

    They can be read and verified by their path, and not gone on with: the run stays where it is.
    """
    ref = find(terms, run)
    if ref.store is None:
        raise UsageError(f"{ref.place}: is a file already, and of no store")
    place = Path(into) / ref.run_id
    try:
        Path(into).mkdir(mode=0o700, parents=True, exist_ok=True)
        found = ref.store.copy(ref.run_id, place)
    except FileExistsError:
        raise UsageError(f"{place}: exists already; remove it, or name another directory") from None
    except OSError as error:
        raise UsageError(f"{error.filename or place}: cannot be written: {error.strerror}") from error
    checked = verify(found.journal)
    return Exported(run_id=ref.run_id, path=found.journal, lines=checked.lines, head=checked.head)
