"""What people ask of runs in a database, and which journals this process has open: they learn of it by themselves."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from engine.journal import control
from engine.journal.database.journal import DatabaseJournal

if TYPE_CHECKING:
    from engine.journal.control import Asked
    from engine.journal.database.link import Link

LIVE_JOURNALS: weakref.WeakValueDictionary[tuple[str, str], DatabaseJournal] = weakref.WeakValueDictionary()
"""By URL and run: what is asked of their runs comes with the answers to their commits."""


def journal_here(url: str, run_id: str) -> DatabaseJournal | None:
    """Return the journal of a run, if this process has it open."""
    journal = LIVE_JOURNALS.get((url, run_id))
    return journal if journal is not None and not journal.is_closed else None


def requests_of(link: Link, run_id: str) -> tuple[Asked, ...]:
    """Return what people ask of a run."""
    rows = link.rows("select name, by, wish from acctops.request where run = %s order by name", run_id)
    return tuple(control.asked_of(name, by, bytes(wish)) for name, by, wish in rows)
