"""Writes the journal beside a run's own: links to later runs, releases, new ends of holds, what `tend` has told.

It is a file of its own, so that the head of a run that has ended stays its head. Its chain begins with the hash of the
run's first line, which never changes. It is short, and written rarely: each time it is read whole, under its lock.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from engine.errors import JournalCorruptError, JournalWriteError
from engine.journal import locks
from engine.journal.lines import Chain
from engine.journal.locks import Hold
from engine.journal.reader import ASIDE, Walk, first_record
from engine.journal.records import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engine.journal.directory import RunDirectory
    from engine.journal.records import AnyRecord

_LOCK_WAIT_S = 5.0
"""Seconds to wait for another command that writes there: it takes a few milliseconds."""


def add_aside(store: RunDirectory, run_id: str, lines: Sequence[AnyRecord], *, clock: Callable[[], float]) -> None:
    """Append records to the journal beside a run's own, durably. JournalWriteError if that cannot be done.

    BusyError if another command has been writing there for seconds, JournalCorruptError if its chain does not hold.
    """
    store.refuse_strangers(store.path(run_id))
    first = first_record(store.path(run_id))
    path = store.path(run_id).with_name(ASIDE)
    try:
        fd = _locked(store, run_id, path)
    except OSError as error:
        raise _failed(path, error) from error
    try:
        walk = Walk(path, of=first)
        for _ in walk.records():
            pass
        chain = Chain(first.run, walk.seq, walk.head, v=first.v)
        at = rfc3339(clock())
        data = memoryview(b"".join(chain.add(record, at) for record in lines))
        if walk.torn_bytes:
            os.ftruncate(fd, walk.size)
        os.lseek(fd, walk.size, os.SEEK_SET)
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
        store.sync_run_dir(run_id)
        if not locks.is_at(fd, path):
            raise JournalCorruptError(f"{path}: somebody else replaced it while it was written; look at it")
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        os.close(fd)


def _locked(store: RunDirectory, run_id: str, path: Path) -> int:
    """Open the file, made if missing, and lock it; return its descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags, 0o600)
    try:
        if locks.take_within(fd, _LOCK_WAIT_S) is Hold.THEIRS or not locks.is_at(fd, path):
            raise store.busy(run_id)
        if not os.fstat(fd).st_size:  # new, or made by a command that died before it wrote
            store.set_modes(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _failed(path: Path, error: OSError) -> JournalWriteError:
    return JournalWriteError(f"{path}: cannot be written: {error.strerror}; nothing was sent; look after that disk")
