"""Which files of this machine may be believed, and how files beside others' are opened and made.

Whoever can write a config, a job or a journal, or replace it in a directory above it, decides what is run and where
keys go. So a file is believed if it, and every directory that leads to it, can be changed by nobody but people who are
trusted: who runs the command, root, and whom the operator's own or the system's config names (`trust_owners`).
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import BinaryIO


class Doubt(Struct, frozen=True, kw_only=True):
    """Why a file is not believed."""

    words: str
    owner: str | None = None
    """Who would have to be trusted; None if its owner is not what is wrong."""
    group: str | None = None
    """Which group may write it; None if that is not what is wrong."""
    path: Path
    """What somebody else owns or can write: the file, a link, or a directory that leads to it."""

    own: str
    """The config in which the operator says whom he trusts."""

    @property
    def way_on(self) -> str:
        """What the operator can do to have it believed."""
        if self.owner is not None:
            as_he = (
                f"or run this as {owner_name(self.owner)}, " if os.geteuid() == 0 else ""
            )  # in a container, with sudo
            return f"{as_he}or trust its owner: `trust_owners: [{self.owner}]` in {self.own}"
        if self.group is not None:
            return f"or chmod g-w {self.path}, or trust the group: `state_group: {self.group}` in {self.own}"
        return f"or chmod o-w {self.path}"


def ways_to(path: Path) -> tuple[Path, ...]:
    """Every name that leads to a file: as it is written, then with one link after the other followed.

    The last one has no link in it. What is not there ends the way; a loop of links is OSError.
    """
    found = [path.absolute()]
    base, rest = Path(found[0].anchor), list(found[0].parts[1:])
    while rest:
        part = rest.pop(0)
        if part == "..":
            base = base.parent
            continue
        try:
            target = os.readlink(base / part)  # noqa: PTH115 - one call tells whether it is a link, too
        except OSError:
            base /= part
            continue
        if len(found) > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        way = base / target
        found.append(way.joinpath(*rest))
        base, rest = Path(way.anchor), [*way.parts[1:], *rest]
    plain = base  # of a name with `..` in it
    return tuple(dict.fromkeys((*found, plain)))


_MOST_LINKS = 40
"""As many as the system itself follows."""


class Trust(Struct, frozen=True, kw_only=True):
    """Who may decide what runs, where keys go and what is protected."""

    uids: frozenset[int] = frozenset()
    """Trusted beside root and who runs the command."""
    gids: frozenset[int] = frozenset()
    """Groups whose members may own and write what is believed: the `state_group` of the operator's own config."""
    own: str = "/etc/acctops/config.yaml"
    """The config in which the operator says whom he trusts."""

    def why_not(self, path: Path) -> str | None:
        """Why what `path` leads to may not be believed, in words that name who could change it; None if it may.

        Looks at the file, at every directory above it, and at the same of every link on the way. What is not there is
        nobody's: OSError if `path` itself cannot be looked at.
        """
        doubt = self.doubt(path)
        return doubt.words if doubt is not None else None

    def doubt(self, path: Path) -> Doubt | None:
        """The same, with what the operator can do about it."""
        seen: set[Path] = set()
        for place in ways_to(path):
            for step in (place, *place.parents):
                if step in seen or step.name == "..":
                    continue
                seen.add(step)
                if (why := self._doubt_step(step, is_above=step != place)) is not None:
                    return why
        return None

    def doubt_entries(self, directory: Path) -> Doubt | None:
        """Why what stands in a directory may be somebody else's: a sticky bit keeps what is there, and lets more in."""
        return self._doubt_writers(directory.stat(), directory, lambda who: f"{who} can put files into {directory}")

    def why_not_open(self, fd: int, path: Path) -> str | None:
        """The same of a file that is open: `path` may lead to another one by now."""
        doubt = self.doubt_open(fd, path)
        return doubt.words if doubt is not None else None

    def doubt_open(self, fd: int, path: Path) -> Doubt | None:
        """The same, with what the operator can do about it."""
        return self._doubt_file(os.fstat(fd), path) or self.doubt(path)

    def _doubt_step(self, step: Path, *, is_above: bool) -> Doubt | None:
        found = os.lstat(step)
        if stat.S_ISLNK(found.st_mode):
            return self._doubt_owner(found, step, lambda who: f"{step} is a link of {who}")
        if not is_above:
            return self._doubt_file(found, step)
        if step.parent == step:
            return None  # whoever owns / owns the machine; in a container it may be nobody's
        owned = self._doubt_owner(found, step, lambda who: f"{step} belongs to {who}, who can replace what lies in it")
        if owned is not None or found.st_mode & stat.S_ISVTX:
            return owned  # in a sticky one each may replace only what is his own, and that is looked at
        doubt = self._doubt_writers(found, step, lambda who: f"{who} can replace what lies in {step}")
        return None if doubt is not None and _is_sealed(found, step) else doubt

    def _doubt_file(self, found: os.stat_result, path: Path) -> Doubt | None:
        owned = self._doubt_owner(found, path, lambda who: f"{path} belongs to {who}")
        if owned is not None or (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX):
            return owned
        return self._doubt_writers(found, path, lambda who: f"{who} can write {path}")

    def _doubt_owner(self, found: os.stat_result, path: Path, words: Callable[[str], str]) -> Doubt | None:
        if self._is_trusted(found.st_uid):
            return None
        owner = owner_words(found.st_uid)
        return Doubt(words=words(owner), owner=owner.removeprefix("user "), path=path, own=self.own)

    def _doubt_writers(self, found: os.stat_result, path: Path, words: Callable[[str], str]) -> Doubt | None:
        """Whether others than its owner can write something."""
        if found.st_mode & stat.S_IWOTH:
            return Doubt(words=words("everybody"), path=path, own=self.own)
        if found.st_mode & stat.S_IWGRP and found.st_gid not in self.gids and not is_private(found):
            group = group_words(found.st_gid)
            return Doubt(words=words(f"the group {group}"), group=group, path=path, own=self.own)
        return None

    def _is_trusted(self, uid: int) -> bool:
        return uid in (0, os.geteuid()) or uid in self.uids or self._is_member(uid)

    def _is_member(self, uid: int) -> bool:
        """Whether a user belongs to a group that is trusted."""
        if not self.gids:
            return False
        with suppress(KeyError):
            user = pwd.getpwuid(uid)
            if user.pw_gid in self.gids:
                return True
            for gid in self.gids:
                with suppress(KeyError):
                    if user.pw_name in grp.getgrgid(gid).gr_mem:
                        return True
        return False


def _is_sealed(found: os.stat_result, directory: Path) -> bool:
    """Whether a directory is root's and read-only, as a ConfigMap is mounted: its mode lets nobody write there."""
    return found.st_uid == 0 and bool(os.statvfs(directory).f_flag & os.ST_RDONLY)


def is_private(found: os.stat_result) -> bool:
    """Whether the group is root's, or nobody's but its owner's or who runs the command, as many systems give each."""
    return found.st_gid == 0 or any(_is_alone_in(uid, found.st_gid) for uid in (found.st_uid, os.geteuid()))


def _is_alone_in(uid: int, gid: int) -> bool:
    """Whether a group is a user's own: by its name, or where one of them has no name, as in a pod, by its number."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return gid == uid
    return (group.gr_name == name if name else gid == uid) and set(group.gr_mem) <= {name}


def home_of(environ: Mapping[str, str]) -> Path | None:
    """The home of who runs this: HOME, or, as under a bare timer, where the system has it; None if neither is one."""
    said = Path(environ.get("HOME", ""))
    if said.is_absolute():
        return said
    try:
        known = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return None
    return known if known.is_absolute() else None


def owner_name(owner: str) -> str:
    """A `Doubt.owner` in a sentence."""
    return f"user {owner}" if owner.isdecimal() else owner


def owner_words(uid: int) -> str:
    """A user by name, or by number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def gid_of(group: str) -> int:
    """A group by its name, or by its number, as in a pod, where it has no name; KeyError if there is none."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if not group.isdecimal() or int(group) >= _NO_GID:
            raise
        return int(group)


_NO_GID = (1 << 32) - 1


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
    raise OSError(errno.EINVAL, f"is {kind_words(mode)}, no file", str(path))


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
    _replace(path, (data,), mode, durable=True)


def write_whole(path: Path, text: str | Iterable[str], *, mode: int = 0o600, durable: bool = True) -> None:
    """Put a text, which may come in parts, into a file at `path`, whole or not at all.

    A file that is there is replaced. Anything else that is there is left alone, and OSError says what it is: a
    directory, a link, a named pipe, a device. `durable` false: the file may be lost when the machine loses power.
    """
    with suppress(FileNotFoundError):
        found = os.lstat(path).st_mode
        if stat.S_ISDIR(found):
            raise IsADirectoryError(errno.EISDIR, "is a directory; name a file", str(path))
        if stat.S_ISLNK(found):
            raise OSError(errno.ELOOP, "is a link; name the file itself", str(path))
        if not stat.S_ISREG(found):
            raise OSError(errno.EINVAL, f"is {kind_words(found)}, no file", str(path))
    parts = (text,) if isinstance(text, str) else text
    _replace(path, (part.encode("utf-8", "replace") for part in parts), mode, durable=durable)


def _replace(path: Path, parts: Iterable[bytes], mode: int, *, durable: bool) -> None:
    new = path.with_name(f".{path.name[:80]}.{os.urandom(8).hex()}")
    fd = create_new(new, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def add_whole(path: Path, write: Callable[[BinaryIO], None], mode: int) -> None:
    """Put what `write` writes into a new file at `path`, whole or not at all; FileExistsError if anything is there."""
    new = path.with_name(f".{path.name[:80]}.{os.urandom(8).hex()}")
    fd = create_new(new, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(new, path, follow_symlinks=False)  # unlike a rename it replaces nothing
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.close(create_new(path, mode))  # a file system without hard links: the name is taken, then replaced
            new.replace(path)
    finally:
        with suppress(OSError):
            new.unlink()


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def kind_words(mode: int) -> str:
    """What something that is no regular file is."""
    kinds = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISDIR, "a directory"))
    return next((words for test, words in kinds if test(mode)), "a device")
