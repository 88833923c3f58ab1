"""Door: `run --once`: of several starts in one opening of the job's window the first runs it, the others do nothing.

So a scheduler may start it again and again while the window is open: a start that comes late, or at an hour that summer
time skips, costs no night. An opening is answered when a run of it has ended, however it ended, or was refused and that
was told; then a mark in the state directory says so. A start that died leaves none, and the next one goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from itertools import takewhile
from typing import TYPE_CHECKING

from engine.cli.earlier import place_of, runs_of
from engine.cli.options import trusted_store
from engine.cli.talk import remark, say
from engine.errors import BusyError, ConfigError, Exit, UsageError
from engine.records import rfc3339
from engine.trust import read_regular, replace_whole
from engine.window import Span, current, moment, spans

if TYPE_CHECKING:
    from pathlib import Path

    from engine.cli.options import Options
    from engine.job import Job
    from engine.journal.store import RunStore
    from engine.window import Window

_LAST_DAYS = 16
"""So far back the last opening is looked for: a week, and one that summer time skipped."""


def once(job: Job, options: Options, begin: Callable[[], int]) -> int:
    """`begin`, unless this opening of the job's window is answered, or being answered."""
    if job.window is None:
        raise UsageError(f"{job.path}: --once means once in each opening of a window, and it has none; remove the flag")
    settings, now = options.settings(job), options.clock()
    store = trusted_store(settings, simulated=options.simulate)
    span = current(job.window, now) or _last(job.window, now)
    if span is None:
        return begin()  # which says that the window is closed
    opened = f"opened {moment(job.window, span.opens)}"
    mark, word = _mark(store, job), rfc3339(span.opens)
    store.refuse_strangers(mark)  # else anybody could say that the night is done
    if _read(mark) == word:
        return _nothing(options, f"the window that {opened} is answered already (--once)")
    if (latest := next(runs_of(store, job, now), None)) is not None and latest.live:
        return _nothing(options, f"run {latest.run_id} of this job is going on (--once)")
    try:
        code = begin()
    except BusyError:
        raise  # whoever is in the way will be gone: the next start may find the window still open
    except Exception:
        _write(store, mark, word, quiet=options.quiet)
        raise
    _write(store, mark, word, quiet=options.quiet)
    return code


def _nothing(options: Options, why: str) -> Exit:
    if not options.quiet:
        say(f"nothing to do: {why}; nothing was sent")
    return Exit.OK


def _last(window: Window, now: float) -> Span | None:
    """The opening that is over: where summer time ends, the clock shows an hour of it a second time."""
    before = takewhile(lambda span: span.closes <= now, spans(window, now - _LAST_DAYS * 86400))
    return max(before, default=None)


def _mark(store: RunStore, job: Job) -> Path:
    return store.root / "openings" / sha256(place_of(job.path).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _read(mark: Path) -> str:
    try:
        return read_regular(mark, 64, follow=False).decode("ascii", "replace").strip()
    except OSError:
        return ""


def _write(store: RunStore, mark: Path, word: str, *, quiet: bool) -> None:
    """Of no weight: without the mark a later start finds all as desired."""
    try:
        with store.writable():
            store.make_dir(mark.parent)
            replace_whole(mark, f"{word}\n".encode(), 0o640 if store.group else 0o600)
    except ConfigError as error:
        remark(f"warning: {error}; the next start in this opening begins a run, too", quiet=quiet)
