"""What people ask of a live run: one file a request, in the run's `control/`. Imports no asyncio.

A request is written whole and renamed into place. Who asked is the owner of the file, as the kernel has it. A request
that an untrusted user could have written is refused, and so is one that is no request. If `control/` is a link, nothing
behind it is read, written or removed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from engine.errors import UsageError
from engine.outside.foreign import clean
from engine.outside.trust import Trust, open_regular, owner_words, replace_whole

MOST_BYTES = 8 << 20
"""A request names accounts, of which a run has many."""
_MOST_AT_ONCE = 100
_MOST_ID = 64
_END = ".json"
_MODE = 0o644
"""The directory lets in whom it should; a request holds no secret."""


class Asked(Struct, frozen=True, kw_only=True):
    """One request."""

    name: str
    """Of its file, without the ending."""
    what: str
    """`pause`, `resume` or `change`."""
    by: str
    """Who owns the file."""
    for_s: float | None = None
    """Of a pause: seconds after which the run stops; None: no end."""
    rate: float | None = None
    """Of a change: calls a second and lane; None: as it is."""
    drop: tuple[str, ...] = ()
    """Of a change: ids of the calls to leave out."""
    first: tuple[str, ...] = ()
    """Of a change: ids of the calls to send first."""
    refused: str | None = None
    """Why it is not carried out; None: it is."""

    @property
    def id(self) -> str:
        """Its name for the journal: who makes a request by hand names it as he likes."""
        return clean(self.name, _MOST_ID)

    @property
    def at(self) -> float:
        """UNIX time at which it was asked, as its name says; 0 if it does not say."""
        digits = self.name[:20]
        return int(digits) / 1e9 if digits.isascii() and digits.isdecimal() else 0.0


class _Wish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a request."""

    what: str
    for_s: float | None = None
    rate: float | None = None
    drop: tuple[str, ...] = ()
    first: tuple[str, ...] = ()


_WHATS = ("pause", "resume", "change")
_MOST_S, _MOST_RATE = 366 * 86400.0, 1e9


def write(directory: Path, name: str, **wish: Any) -> None:
    """Write a request, whole or not at all; OSError if that fails. Any: the fields of `Asked` but for `by`.

    Who runs the run can read and remove it, also if root asks: `directory` is made to belong to whom the run does.
    UsageError if it names more accounts than a request can, or if `directory` is a link.
    """
    text = text_of(**wish)
    try:
        with _opened(directory) as fd:
            if os.fstat(fd).st_uid == os.geteuid() == 0:
                os.fchown(fd, directory.parent.stat().st_uid, -1)
    except NotADirectoryError:
        raise UsageError(f"{directory}: is no directory, or a link to one; remove it, then ask again") from None
    replace_whole(directory / (name + _END), text, _MODE)


def text_of(**wish: Any) -> bytes:
    """Return a request as it is written. Any: the fields of `Asked` but for `by`. UsageError if it is too long."""
    text = msgspec.json.encode(_Wish(**wish))
    if len(text) > MOST_BYTES:
        raise UsageError("this names too many accounts for one request: ask for a part of them, then for the rest")
    return text


def read_all(directory: Path, trust: Trust, known: Container[str] = ()) -> tuple[Asked, ...]:
    """Return the requests that lie there, in the order in which they were made, but for those that are `known`."""
    try:
        with _opened(directory) as fd:
            found = os.listdir(fd)  # noqa: PTH208 - of a descriptor
    except OSError:
        return ()
    names = [name.removesuffix(_END) for name in found if name.endswith(_END) and not name.startswith(".")]
    new = sorted(name for name in names if name not in known)[:_MOST_AT_ONCE]
    return tuple(asked for name in new if (asked := _read(directory, name, trust)) is not None)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """Give the directory, open; OSError if it is none, and for a link: who can plant one can have any file removed."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _read(directory: Path, name: str, trust: Trust) -> Asked | None:
    path, by = directory / (name + _END), "nobody"
    try:
        fd = open_regular(path, follow=False)
    except FileNotFoundError:  # withdrawn
        return None
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        return Asked(name=name, what="?", by=_owner(path), refused=why)
    with os.fdopen(fd, "rb") as file:
        by = owner_words(os.fstat(fd).st_uid)
        try:
            doubt = trust.doubt_open(fd, path)
        except OSError as error:
            return Asked(name=name, what="?", by=by, refused=f"cannot be looked at: {error.strerror}")
        if doubt is not None:
            return Asked(name=name, what="?", by=by, refused=f"it is not believed, as {doubt.words}")
        text = file.read(MOST_BYTES + 1)
    return asked_of(name, by, text)


def asked_of(name: str, by: str, text: bytes) -> Asked:
    """Return the request that somebody wrote; one that is none is `refused`."""
    if len(text) > MOST_BYTES:
        return Asked(name=name, what="?", by=by, refused=f"it is larger than {MOST_BYTES >> 20} MiB")
    try:
        wish = msgspec.json.decode(text, type=_Wish)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        wish = None
    if wish is None or not _makes_sense(wish):
        return Asked(name=name, what="?", by=by, refused="it is no request of this version")
    return Asked(name=name, by=by, **msgspec.structs.asdict(wish))


def _owner(path: Path) -> str:
    try:
        return owner_words(os.lstat(path).st_uid)
    except OSError:
        return "nobody"


def _makes_sense(wish: _Wish) -> bool:
    if wish.what not in _WHATS:
        return False
    if wish.for_s is not None and not 0 < wish.for_s <= _MOST_S:
        return False
    return wish.rate is None or 0 < wish.rate <= _MOST_RATE


def forget(directory: Path, name: str | None = None) -> None:
    """Remove a request, or all of them."""
    with suppress(OSError), _opened(directory) as fd:
        names = [name + _END] if name is not None else os.listdir(fd)  # noqa: PTH208 - of a descriptor
        for each in names:
            with suppress(OSError):
                os.unlink(each, dir_fd=fd)
