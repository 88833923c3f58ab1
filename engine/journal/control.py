"""What people ask of a live run: one file a request, in the run's `control/`. Imports no asyncio.

A request is written whole and renamed into place. Who asked is the owner of the file, as the kernel has it. A request
that an untrusted user could have written is refused, and so is one that is no request.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from engine.outside.trust import Trust, open_regular, owner_words, replace_whole

MOST_BYTES = 8 << 20
"""A request names accounts, of which a run has many."""
_MOST_AT_ONCE = 100
_END = ".json"


class Asked(Struct, frozen=True, kw_only=True):
    """One request."""

    id: str
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


class _Wish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a request."""

    what: str
    for_s: float | None = None
    rate: float | None = None
    drop: tuple[str, ...] = ()
    first: tuple[str, ...] = ()


_WHATS = ("pause", "resume", "change")
_MOST_S, _MOST_RATE = 366 * 86400.0, 1e9


def write(directory: Path, name: str, mode: int, **wish: Any) -> None:
    """Write a request, whole or not at all; OSError if that fails. Any: the fields of `Asked` but for `by`."""
    replace_whole(directory / (name + _END), msgspec.json.encode(_Wish(**wish)), mode)


def read_all(directory: Path, trust: Trust) -> tuple[Asked, ...]:
    """Return the requests that lie there, in the order in which they were made."""
    try:
        names = os.listdir(directory)  # noqa: PTH208 - polled
    except OSError:
        return ()
    names = sorted(name for name in names if name.endswith(_END) and not name.startswith("."))
    return tuple(asked for name in names[:_MOST_AT_ONCE] if (asked := _read(directory / name, trust)) is not None)


def _read(path: Path, trust: Trust) -> Asked | None:
    name = path.name.removesuffix(_END)[:64]
    by = "nobody"
    try:
        fd = open_regular(path, follow=False)
    except FileNotFoundError:  # withdrawn
        return None
    except OSError as error:
        return Asked(id=name, what="?", by=by, refused=f"cannot be read: {error.strerror}")
    with os.fdopen(fd, "rb") as file:
        by = owner_words(os.fstat(fd).st_uid)
        try:
            doubt = trust.doubt_open(fd, path)
        except OSError as error:
            return Asked(id=name, what="?", by=by, refused=f"cannot be looked at: {error.strerror}")
        if doubt is not None:
            return Asked(id=name, what="?", by=by, refused=f"it is not believed, as {doubt.words}")
        text = file.read(MOST_BYTES + 1)
    try:
        wish = msgspec.json.decode(text, type=_Wish) if len(text) <= MOST_BYTES else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        wish = None
    if wish is None or not _makes_sense(wish):
        return Asked(id=name, what="?", by=by, refused="it is no request of this version")
    return Asked(id=name, by=by, **msgspec.structs.asdict(wish))


def _makes_sense(wish: _Wish) -> bool:
    if wish.what not in _WHATS:
        return False
    if wish.for_s is not None and not 0 < wish.for_s <= _MOST_S:
        return False
    return wish.rate is None or 0 < wish.rate <= _MOST_RATE


def forget(directory: Path, name: str | None = None) -> None:
    """Remove a request, or all of them."""
    if name is not None:
        with suppress(OSError):
            (directory / (name + _END)).unlink(missing_ok=True)
        return
    with suppress(OSError):
        for each in os.listdir(directory):  # noqa: PTH208
            with suppress(OSError):
                (directory / each).unlink()
