"""Locks on files that only users who may write the file can take. A dead process holds none, whatever killed it.

A lock belongs to the open file description (OFD): an exclusive one needs a descriptor that can write. So a user who may
only read a file can neither take its lock nor make it seem taken. Such a user can hold a *shared* lock, which blocks
ours. We never take a shared lock, so `take` recognises it and ignores it. A system without OFD locks uses `flock`.

Older versions took a `flock`. `take` takes one, too, so that they see us.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import sys
import time
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_RETRY_S = 0.02
_HAS_OFD = sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK")
_FLOCK = struct.Struct("hhqqi4x")
"""`struct flock` of Linux with 64-bit offsets: type, whence, start, length, pid."""


class Hold(Enum):
    """The result of asking for a lock."""

    OURS = "ours"
    """This descriptor holds the lock."""
    THEIRS = "theirs"
    """Another process that may write holds the lock."""
    READERS = "readers"
    """Nobody holds the exclusive lock, but a reader's shared lock kept us from taking it."""


def take(fd: int) -> Hold:
    """Ask for the exclusive lock on a file that is open for writing; never wait."""
    if not _HAS_OFD:
        return Hold.OURS if _flock(fd) else Hold.THEIRS
    for _ in range(2):  # a writer may release the lock between the two questions
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _ask(fcntl.F_WRLCK))
        except (BlockingIOError, PermissionError):
            if is_taken(fd):
                return Hold.THEIRS
        else:
            _flock(fd)
            return Hold.OURS
    return Hold.READERS


def take_within(fd: int, wait_s: float) -> Hold:
    """Take the lock as `take` does; try again for `wait_s` seconds while it is THEIRS."""
    until = time.monotonic() + wait_s
    while (hold := take(fd)) is Hold.THEIRS and time.monotonic() < until:
        time.sleep(_RETRY_S)
    return hold


def is_taken(fd: int) -> bool:
    """Return whether another process holds the exclusive lock on an open file; a read-only descriptor is enough."""
    if not _HAS_OFD:
        return not _may_share(fd)
    # Only an exclusive lock conflicts with a shared one.
    found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _ask(fcntl.F_RDLCK))
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


def is_flocked(fd: int) -> bool:
    """Return whether a process holds a `flock`, as older versions do; anybody who may read the file can hold one."""
    return not _may_share(fd)


def has_flock(fd: int) -> bool:
    """Take the `flock` of the file if nobody has it; return whether it is ours."""
    return _flock(fd)


def open_existing(path: Path) -> int | None:
    """Open a regular file for reading, to ask about its lock; return None if it is missing or cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def open_private(path: Path) -> int:
    """Open a lock file, made if missing, that only its owner may read; raise OSError for a link or no regular file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "is no regular file", str(path))
        if stat.S_IMODE(found.st_mode) != 0o600:
            os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_at(fd: int, path: Path | str) -> bool:
    """Return whether `path` still leads to the open file."""
    try:
        there = os.lstat(path)
    except OSError:
        return False
    here = os.fstat(fd)
    return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)


def _ask(kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _may_share(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True
