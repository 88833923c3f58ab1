"""The page of one session, written again and again while it goes, and once more at its end.

A thread folds and renders; the loop only counts what each lane has sent. When a page takes long, the next one waits, so
that pages take at most a twentieth of a processor. Nothing here may delay or fail a run: trouble is told once.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from time import thread_time
from typing import TYPE_CHECKING

from engine.operations.measuring import aside
from engine.outside.trust import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from engine.inputs.settings import Settings
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Runs
    from engine.report.course import Course

EVERY_S = 2.0
_PLAIN, _NAMING = 0o644, 0o600
"""Modes of new pages: of counts and codes, and of one that names accounts."""
_COST = 20.0
"""A page that took so long is followed by a pause of this many times that."""
_DISK_S = 5.0
_TRIES = 3
"""How often a page is folded anew because the ledger grew meanwhile."""


class LivePage:
    """The page of one session."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        head: Callable[[], str],
        store: Runs,
        trouble: Callable[[str], None],
        *,
        flags: str,
        clock: Callable[[], float],
    ) -> None:
        """`head` returns the hash of the last line that is on disk; `trouble` is told, once, why the page cannot be
        written.
        """
        is_meant = not ledger.run.simulated or settings.origin.get("page_file") == "--page"
        self._path = settings.page_file if is_meant else None  # a drill replaces no page of a config
        self._names = settings.page_names
        self._ledger = ledger
        self._head = head
        self._store = store
        self._trouble = trouble
        self._flags = flags
        self._clock = clock
        self._had_trouble = False
        self._course: Course | None = None
        self._busy = False
        """Whether a thread still writes: one that hangs must not get company."""
        self._took = 0.0

    async def keep(self) -> None:
        """Write the page every two seconds, until cancelled."""
        if self._path is None:
            return
        while True:
            await self._write(over=False)
            await asyncio.sleep(self._every)

    async def last(self) -> None:
        """Write the page of the session that has ended."""
        if self._path is None:
            return
        for _ in range(20):  # the page before may still be under way
            if not self._busy:
                break
            await asyncio.sleep(0.1)
        await self._write(over=True)

    @property
    def _every(self) -> float:
        return max(EVERY_S, _COST * self._took)

    async def _write(self, *, over: bool) -> None:
        path = self._path
        if path is None or self._busy:
            return
        self._busy = True
        if self._course is not None:
            self._course.sample(self._ledger, self._clock())
        try:
            async with asyncio.timeout(_DISK_S):
                await aside(lambda: self._work(path, over=over))
        except TimeoutError:
            self._failed(f"{path} cannot be written: the disk does not answer")
        except OSError as error:
            self._failed(f"{path} cannot be written: {error.strerror or error}")
        except Exception as error:  # noqa: BLE001 - a defect in a page, or in a library, must not end a run either
            self._failed(f"{path} cannot be written: {type(error).__name__}: {error}")

    def _failed(self, why: str) -> None:
        if not self._had_trouble:
            self._had_trouble = True
            self._trouble(why)

    def _work(self, path: Path, *, over: bool) -> None:
        """Fold, render and write; called in a thread."""
        begun = thread_time()
        try:
            if self._course is None:
                self._course = self._so_far()
            text = self._text(over=over)
            write_whole(path, text, mode=_mode(path, names=self._names), durable=over)
        finally:
            self._took = thread_time() - begun
            self._busy = False

    def _so_far(self) -> Course:
        """Return the course of the sessions before this one, from the journal, and of what this one has sent."""
        from engine.report.course import Course

        course = Course()
        if len(self._ledger.sessions) > 0:
            course.fold(self._store.find(self._ledger.run.run).records())
        else:
            course.sessions.append((_begun(self._ledger), "run"))
            course.sample(self._ledger, self._clock())
        course.known(self._ledger)
        return course

    def _text(self, *, over: bool) -> str:
        for _ in range(_TRIES):
            try:
                return "".join(self._parts(over=over))
            except RuntimeError:  # a dict or deque of the ledger grew meanwhile
                continue
        return "".join(self._parts(over=over))

    def _parts(self, *, over: bool) -> list[str]:
        from engine.operations.pages import going, wall
        from engine.report.nextstep import way_on
        from engine.report.page import Live, Page, Rows, html, moment, part

        ledger, now = self._ledger, self._clock()
        assert self._course is not None
        way = way_on([ledger], flags=self._flags)
        one = part(
            ledger,
            self._course,
            way,
            journal=self._store.place_of(self._ledger.run.run),
            head=self._head() if over else "",
            zone=wall,
            now=now,
            live=None if over else going(ledger, now),
            names=self._names,
        )
        rows = Rows(wall)
        if self._names:
            rows.add(ledger.run.run, ledger, way)
        run = ledger.run
        page = Page(
            title=f"{run.action} {run.job.name}" + (f" · {run.ticket}" if run.ticket else ""),
            made=moment(now, wall),
            parts=(one,),
            rows=rows.shown(),
            rows_said=rows.said(f"acctops report {run.run} --format csv has all of them.") if self._names else "",
            live=Live(at=now, every_s=self._every, over=over),
        )
        return list(html(page))


def _begun(ledger: Ledger) -> float:
    from engine.journal.records import unix_seconds

    return unix_seconds(ledger.run.at)


def _mode(path: Path, *, names: bool) -> int:
    """Return the mode of the page: what its own file has, else for all to read, unless it names accounts.

    A file with the mode that pages without names get was made for all to read: it does not become one with names.
    """
    with suppress(OSError):
        found = os.lstat(path)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            mode = stat.S_IMODE(found.st_mode) & 0o664
            return _NAMING if names and mode == _PLAIN else mode
    return _NAMING if names else _PLAIN
