"""The list of the ends of runs: `<state_dir>/heads.jsonl`, and what seals it, `seals.jsonl`.

A session that ends adds a line to the list: the run, the hash of its journal's last line, how many lines there are, the
exit code. The lines are chained as those of a journal are. So a run that was removed shows, and so does a journal that
was cut, written anew, or replaced by an older copy of itself.

    {"v":1,"seq":3,"at":"…Z","run":"ID","head":"HEX","lines":61,"exit":0,"late":false,"seal":"SHA256:…",
     "previous":"HEX","hash":"HEX"}

A seal is a signature or a time stamp of one such line. It proves itself, so its file has no chain. A seal that was
removed shows, as the line names the key that was to sign it.
"""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct

from engine.errors import JournalCorruptError, JournalWriteError
from engine.journal import locks
from engine.journal.directory import sync_dir
from engine.journal.lines import GENESIS
from engine.journal.locks import Hold
from engine.journal.records import rfc3339
from engine.outside.trust import read_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from engine.journal.directory import RunDirectory

HEADS = "heads.jsonl"
SEALS = "seals.jsonl"
FORMAT = 1
_LOCK_WAIT_S = 5.0
"""Seconds to wait for another session that ends just now: it takes a few milliseconds."""
_MOST_LINE = 1 << 16
"""Bytes of a line, at most: a time stamp has some thousand."""
_MOST = 1 << 30
"""Bytes of a file, at most: two million ends of runs."""


class HeadLine(Struct, frozen=True, kw_only=True):
    """How the journal of a run stood when one of its sessions ended."""

    v: int
    seq: int
    at: str
    run: str
    head: str
    """Hash of line number `lines` of its journal, then the last one."""
    lines: int
    exit: int | None
    late: bool
    """Whether `tend` added it, as the session itself had not: what was done to the journal meanwhile does not show."""
    seal: str | None
    """Fingerprint of the key that is to sign this line; None if the config named none."""
    previous: str
    hash: str
    raw: bytes = b""
    """The line as it stands in the file, without newline: what is signed and stamped."""


class Seal(Struct, frozen=True, kw_only=True):
    """A signature or a time stamp of one line of the list."""

    v: int = FORMAT
    seq: int
    run: str
    hash: str
    """Hash of that line."""
    signature: str | None = None
    """As `ssh-keygen -Y sign` writes it."""
    stamp: str | None = None
    """The whole answer of a time-stamping authority (RFC 3161), in base64."""
    tsa: str | None = None
    """URL of that authority."""


_T = TypeVar("_T")
_ENCODER = msgspec.json.Encoder()
_HEAD = msgspec.json.Decoder(HeadLine)
_SEAL = msgspec.json.Decoder(Seal)


def read_heads(root: Path) -> tuple[HeadLine, ...]:
    """Return the list of a store, whose directory is `root`; empty if there is none.

    Raises JournalCorruptError, naming the line, if its chain does not hold.
    """
    return checked_heads(_lines(root / HEADS), str(root / HEADS))


def checked_heads(lines: Iterable[bytes], path: str) -> tuple[HeadLine, ...]:
    """Return the lines of the list at `path`; JournalCorruptError, naming the line, if the chain does not hold."""
    found: list[HeadLine] = []
    previous = GENESIS
    for number, raw in enumerate(lines, 1):
        try:
            line = _HEAD.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise JournalCorruptError(f"{path}:{number}: is no line of this list: {error}") from error
        if line.v > FORMAT:
            raise JournalCorruptError(
                f"{path}:{number}: was written by a newer version (format {line.v}); use that one"
            )
        if (why := _why_bad(line, raw, number, previous)) is not None:
            raise JournalCorruptError(f"{path}:{number}: {why}")
        found.append(msgspec.structs.replace(line, raw=raw))
        previous = line.hash
    return tuple(found)


def read_seals(root: Path) -> tuple[Seal, ...]:
    """Return the seals of a store; empty if there are none. JournalCorruptError for a line that is no seal."""
    return checked_seals(_lines(root / SEALS), str(root / SEALS))


def checked_seals(lines: Iterable[bytes], path: str) -> tuple[Seal, ...]:
    """Return seals from their lines; JournalCorruptError, naming the line in `path`, for one that is no seal."""
    found = []
    for number, raw in enumerate(lines, 1):
        try:
            found.append(_SEAL.decode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise JournalCorruptError(f"{path}:{number}: is no seal: {error}") from error
    return tuple(found)


def last_of(root: Path, run_id: str) -> HeadLine | None:
    """Return the last line of the list about a run, whether or not the chain holds; None if there is none.

    For commands that go on with a run: one pass over the file, and only lines with the run's id are looked at.
    """
    try:
        return last_among(_lines(root / HEADS), run_id)
    except JournalCorruptError:
        return None


def last_among(lines: Iterable[bytes], run_id: str) -> HeadLine | None:
    """Return the last of the lines that is about a run; lines that are none are passed over."""
    wanted, found = run_id.encode(), None
    for raw in lines:
        if wanted in raw:
            try:
                line = _HEAD.decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            found = line if line.run == run_id else found
    return found


def add_head(
    store: RunDirectory,
    run_id: str,
    *,
    head: str,
    lines: int,
    exit_code: int | None,
    late: bool = False,
    seal: str | None = None,
    clock: Callable[[], float],
) -> HeadLine:
    """Add a line about a run to the list, durably, and return it. JournalWriteError if that cannot be done.

    JournalCorruptError if the last line of the list is none: nothing is added behind it.
    """

    def next_line(tail: bytes) -> tuple[bytes, HeadLine]:
        before = last_line(str(store.root / HEADS), tail)
        line = next_head(before, run_id, head, lines, exit_code, late=late, seal=seal, at=rfc3339(clock()))
        return line.raw + b"\n", line

    return _append(store, HEADS, next_line)


def next_head(
    before: HeadLine | None,
    run_id: str,
    head: str,
    lines: int,
    exit_code: int | None,
    *,
    late: bool,
    seal: str | None,
    at: str,
) -> HeadLine:
    """Return the line about a run that follows the last one of the list."""
    line = HeadLine(
        v=FORMAT,
        seq=before.seq + 1 if before is not None else 1,
        at=at,
        run=run_id,
        head=head,
        lines=lines,
        exit=exit_code,
        late=late,
        seal=seal,
        previous=before.hash if before is not None else GENESIS,
        hash="",
    )
    content = _ENCODER.encode({name: getattr(line, name) for name in _FIELDS})
    digest = sha256(line.previous.encode() + content).hexdigest()
    raw = content[:-1] + b',"hash":"%b"}' % digest.encode()
    return msgspec.structs.replace(line, hash=digest, raw=raw)


_FIELDS = tuple(name for name in HeadLine.__struct_fields__ if name not in ("hash", "raw"))


def add_seal(store: RunDirectory, seal: Seal) -> None:
    """Add a signature or a stamp of a line, durably. JournalWriteError if that cannot be done."""
    _append(store, SEALS, lambda _tail: (seal_line(seal) + b"\n", None))


def seal_line(seal: Seal) -> bytes:
    """Return a seal as it is written, without newline."""
    return _ENCODER.encode(seal)


def _why_bad(line: HeadLine, raw: bytes, number: int, previous: str) -> str | None:
    """Return why a line is not what was written as number `number` behind the line with hash `previous`; None if so."""
    if line.seq != number:
        return f"seq is {line.seq} where {number} is due: lines were dropped, added or moved"
    if line.previous != previous:
        return "does not follow the line before it: a line was dropped or edited"
    seal = b',"hash":"%b"}' % line.hash.encode()
    content = raw.removesuffix(seal) + b"}"
    if not raw.endswith(seal) or sha256(previous.encode() + content).hexdigest() != line.hash:
        return "the hash differs: the line was edited"
    return None


def last_line(path: str, tail: bytes) -> HeadLine | None:
    """Return the last whole line of the list; None if it is empty."""
    if not tail:
        return None
    raw = tail[:-1].rpartition(b"\n")[2]
    try:
        line = _HEAD.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise JournalCorruptError(
            f"{path}: its last line is damaged ({error}), so nothing is added; look: acctops journal verify --all"
        ) from error
    if (why := _why_bad(line, raw, line.seq, line.previous)) is not None:
        raise JournalCorruptError(f"{path}: its last line: {why}; nothing is added; look: acctops journal verify --all")
    return line


def _append(store: RunDirectory, name: str, line_of: Callable[[bytes], tuple[bytes, _T]]) -> _T:
    """Append one line to a file of the store, under the file's lock.

    `line_of` gets the end of the file up to its last newline; what a crash left behind that is cut.
    """
    path = store.root / name
    store.refuse_strangers(path)
    try:
        with store.writable():
            store.make_dir(store.root)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            if locks.take_within(fd, _LOCK_WAIT_S) is Hold.THEIRS or not locks.is_at(fd, path):
                raise JournalWriteError(f"{path}: another process has been writing there for {_LOCK_WAIT_S:.0f} s")
            size = os.fstat(fd).st_size
            if not size:  # new, or made by a session that died before it wrote
                store.set_modes(fd)
            tail = os.pread(fd, _MOST_LINE, max(0, size - _MOST_LINE))
            whole = size - (len(tail) - tail.rfind(b"\n") - 1)
            tail = tail[: tail.rfind(b"\n") + 1]
            if not tail and size >= _MOST_LINE:
                raise JournalCorruptError(f"{path}: has no end of a line in its last {_MOST_LINE >> 10} KiB")
            data, value = line_of(tail)
            if whole < size:
                os.ftruncate(fd, whole)
            if os.pwrite(fd, data, whole) != len(data):
                raise JournalWriteError(f"{path}: the disk took a part of a line")
            os.fsync(fd)
            if not size:
                sync_dir(store.root)
            if not locks.is_at(fd, path):
                raise JournalCorruptError(f"{path}: somebody else replaced it while it was written; look at it")
            return value
        finally:
            os.close(fd)
    except OSError as error:
        raise JournalWriteError(f"{path}: cannot be written: {error.strerror}") from error


def _lines(path: Path) -> list[bytes]:
    """Return the whole lines of a file; none if it is missing. JournalCorruptError if it cannot be read."""
    try:
        data = read_regular(path, _MOST, follow=False)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalCorruptError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > _MOST:
        raise JournalCorruptError(f"{path}: larger than {_MOST >> 30} GiB: no list of runs is")
    return data.split(b"\n")[:-1]
