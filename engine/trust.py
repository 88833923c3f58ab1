"""Devices, floor 2: which files of this machine may be believed, and how files beside others' are opened and made.

Whoever can write a config, a job or a journal, or replace it in a directory above it, decides what is run and where
keys go. So a file is believed if it, and every directory that leads to it, can be changed by nobody but people who are
trusted: who runs the command, root, and whom the operator's own or the system's config names (`trust_owners`).
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from msgspec import Struct


class Trust(Struct, frozen=True, kw_only=True):
    """Who may decide what runs, where keys go and what is protected."""

    uids: frozenset[int] = frozenset()
    """Trusted beside root and who runs the command."""
    gids: frozenset[int] = frozenset()
    """Groups whose members may write what is believed: the `state_group` of the operator's own config."""

    def why_not(self, path: Path) -> str | None:
        """Why what `path` leads to may not be believed, in words that name who could change it; None if it may.

        Looks at the file, at every directory above it, and at the same where `path` is a link. What is not there is
        nobody's: OSError if `path` itself cannot be looked at.
        """
        seen: set[Path] = set()
        for place in dict.fromkeys((Path(os.path.abspath(path)), Path(os.path.realpath(path)))):  # noqa: PTH100
            for step in (place, *place.parents):
                if step in seen:
                    continue
                seen.add(step)
                if (why := self._why_not_step(step, is_above=step != place)) is not None:
                    return why
        return None

    def why_not_open(self, fd: int, path: Path) -> str | None:
        """The same of a file that is open: `path` may lead to another one by now."""
        found = os.fstat(fd)
        return self._why_not_file(found, path) or self.why_not(path)

    def _why_not_step(self, step: Path, *, is_above: bool) -> str | None:
        found = os.lstat(step)
        if stat.S_ISLNK(found.st_mode):
            return None if self._is_trusted(found.st_uid) else f"{step} is a link of {owner_words(found.st_uid)}"
        if not is_above:
            return self._why_not_file(found, step)
        if step.parent == step:
            return None  # whoever owns / owns the machine; in a container it may be nobody's
        if not self._is_trusted(found.st_uid):
            return f"{step} belongs to {owner_words(found.st_uid)}, who can replace what lies in it"
        if found.st_mode & stat.S_ISVTX:
            return None  # each may replace only what is his own, and that is looked at
        who = self._other_writers(found)
        return f"{who} can replace what lies in {step}" if who else None

    def _why_not_file(self, found: os.stat_result, path: Path) -> str | None:
        if not self._is_trusted(found.st_uid):
            return f"{path} belongs to {owner_words(found.st_uid)}"
        is_sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        who = None if is_sticky else self._other_writers(found)
        return f"{who} can write {path}" if who else None

    def _is_trusted(self, uid: int) -> bool:
        return uid in (0, os.geteuid()) or uid in self.uids

    def _other_writers(self, found: os.stat_result) -> str | None:
        """Who but its owner can write something, in words."""
        if found.st_mode & stat.S_IWOTH:
            return "everybody"
        if found.st_mode & stat.S_IWGRP and found.st_gid not in self.gids and not _is_private(found):
            return f"the group {group_words(found.st_gid)}"
        return None


def _is_private(found: os.stat_result) -> bool:
    """Whether the group is its owner's own, as many systems give everybody one, or root's."""
    if found.st_gid == 0:
        return True
    with suppress(KeyError):
        owner, group = pwd.getpwuid(found.st_uid), grp.getgrgid(found.st_gid)
        return owner.pw_gid == group.gr_gid and set(group.gr_mem) <= {owner.pw_name} and group.gr_name == owner.pw_name
    return False


def owner_words(uid: int) -> str:
    """A user by name, or by number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def group_words(gid: int) -> str:
    """A group by name, or by number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def open_regular(path: Path, flags: int = os.O_RDONLY, *, follow: bool = True) -> int:
    """A regular file, opened without waiting for anybody; OSError for anything else: a pipe, a device, a directory.

    With `follow` false a link is refused, too.
    """
    nofollow = 0 if follow else os.O_NOFOLLOW
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | nofollow)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, f"is {_kind(mode)}, no file", str(path))


def read_regular(path: Path, most: int, *, follow: bool = True) -> bytes:
    """The bytes of a regular file, at most one more than `most`; OSError as `open_regular`."""
    with os.fdopen(open_regular(path, follow=follow), "rb") as file:
        return file.read(most + 1)


def create_new(path: Path, mode: int) -> int:
    """A file that was not there, open for writing, with this mode whatever the umask; a link is FileExistsError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    os.fchmod(fd, mode)
    return fd


def replace_whole(path: Path, data: bytes, mode: int) -> None:
    """Put a file with `data` at `path`, whole or not at all; nothing that was planted there is written through."""
    new = path.with_name(f".{path.name[:80]}.{secrets.token_hex(8)}")
    fd = create_new(new, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"))
    return next((words for test, words in kinds if test(mode)), "a device")
