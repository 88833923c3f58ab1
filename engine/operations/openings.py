"""`run --once`: of several starts in one opening of the job's window the first runs the job, the others do nothing.

So a scheduler may start the job again and again while the window is open. A start that comes late, or at an hour that
summer time skips, costs no night. An opening is answered when a run in it has ended, however it ended, or was refused.
Then a mark in the state directory says so. A start that died leaves no mark, and the next start goes on.
A job or config that cannot be read is told of once in an opening. Once mended, the job runs in the same opening.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from engine.errors import AcctopsError, BusyError, ConfigError, UsageError
from engine.inputs.files import homes, is_stream, load_job, recorded
from engine.inputs.window import Span, current, moment, spans
from engine.journal.protocols import Runs
from engine.journal.records import rfc3339
from engine.operations.earlier import place_of, runs_of
from engine.operations.events import Warned
from engine.operations.stores import store_at, store_of, trusted_store
from engine.operations.windows import window_of

if TYPE_CHECKING:
    from engine.inputs.job import Job
    from engine.inputs.window import Window
    from engine.operations.events import Tell
    from engine.operations.terms import Terms

_T = TypeVar("_T")
_LAST_DAYS = 16
"""How many days back the last opening is looked for: a week, and another whose opening summer time skipped."""


class NotNow(Struct, frozen=True):
    """Nothing was done, as this opening of the window needs nothing more."""

    why: str


async def once(path: str, terms: Terms, load: Callable[[], Job], begin: Callable[[Job], Awaitable[_T]]) -> _T | NotNow:
    """Load the job and `begin` it, unless this opening of its window is answered or a run of the job is live."""
    try:
        job = load()
        settings, now = terms.settings(job), terms.clock()
    except AcctopsError:
        if _was_told(path, terms):
            return NotNow("the job cannot be read, as was told in this opening of its window (--once)")
        raise
    if job.window is None:
        raise UsageError(f"{job.path}: --once means once in each opening of a window, and it has none; remove the flag")
    store = trusted_store(settings, simulated=terms.simulate)
    span = current(job.window, now) or _last(job.window, now)
    if span is None:
        return await begin(job)  # which says that the window is closed
    opened = f"opened {moment(job.window, span.opens)}"
    mark, word = _mark(job.path), rfc3339(span.opens)
    if store.mark(mark) == word:
        return NotNow(f"the window that {opened} is answered already (--once)")
    if (latest := next(runs_of(store, job, now, terms.tell), None)) is not None and latest.live:
        return NotNow(f"run {latest.run_id} of this job is going on (--once)")
    try:
        done = await begin(job)
    except BusyError:
        raise  # the run in the way will end: the next start may find the window still open
    except Exception:
        _set(store, mark, word, terms.tell)
        raise
    _set(store, mark, word, terms.tell)
    return done


def _was_told(path: str, terms: Terms) -> bool:
    """Return whether it was told in this opening that the job cannot be read, and mark it as told."""
    store = None if is_stream(path) else _store_without(path, terms)
    if store is None:
        return False
    now = terms.clock()
    window = _window_without(path, store)
    span = (current(window, now) or _last(window, now)) if window is not None else None
    word = rfc3339(span.opens if span is not None else now // 86400 * 86400)
    mark = f"{_mark(path)}.unread"
    try:
        if store.mark(mark) == word:
            return True
    except ConfigError:
        return False  # without a mark it is told again
    _set(store, mark, word, terms.tell)
    return False


def _store_without(path: str, terms: Terms) -> Runs | None:
    """Return the store although job or config cannot be read; None if only these say where it is."""
    try:
        settings = terms.settings(None, *homes(path))
    except AcctopsError:
        if terms.database or os.environ.get("ACCTOPS_DATABASE"):
            return None
        said = terms.state_dir or os.environ.get("ACCTOPS_STATE_DIR") or ""
        return store_at(Path(said), simulated=terms.simulate) if Path(said).is_absolute() else None
    return store_of(settings, simulated=terms.simulate)


def _window_without(path: str, store: Runs) -> Window | None:
    """Return the window of a job that cannot be read: by its file if only its lists are bad, else by its last run."""
    try:
        return load_job(path, lists=False).window
    except AcctopsError:
        place = recorded(place_of(path))
    for head in store.heads():
        if head.run is not None and head.run.parent is None and head.run.job.path == place:
            return window_of(head.run.settings)
    return None


def _last(window: Window, now: float) -> Span | None:
    """Return the last opening that is over: when summer time ends, the clock shows an hour of it a second time."""
    before = takewhile(lambda span: span.closes <= now, spans(window, now - _LAST_DAYS * 86400))
    return max(before, default=None)


def _mark(path: str) -> str:
    return f"openings/{sha256(place_of(path).encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"


def _set(store: Runs, mark: str, word: str, tell: Tell) -> None:
    """Set a mark. A failure is only told: without the mark a later start finds all accounts as desired."""
    try:
        store.set_mark(mark, word)
    except ConfigError as error:
        tell(Warned(f"{error}; the next start in this opening begins a run, too"))
