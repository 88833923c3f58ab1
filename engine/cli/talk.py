"""What is printed where. Results on stdout, talk on stderr, and neither may ever stop a run.

A closed stdout (`| head`) or a vanished terminal is no reason to leave calls unrecorded: writing there simply ends.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from engine.errors import Reason, UsageError
from engine.outside.foreign import clean, clean_lines, environment_secrets, without_userinfo
from engine.outside.trust import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_UTF8_MARK = "\ufeff"
_READER_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    """What stands for signs that the encoding of a stream has not: `?`; a byte of a file's name is that byte again."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = ord(error.object[error.start])
    return (bytes([sign - 0xDC00]) if 0xDC80 <= sign <= 0xDCFF else "?"), error.start + 1


_REPLACED = "acctops.replaced"
codecs.register_error(_REPLACED, _replaced)


def take_any_text() -> None:
    """Let the standard streams take every sign, whatever their encoding is: a help text is no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError, ValueError):  # closed; what was written before cannot be flushed
                stream.reconfigure(errors=_REPLACED)
                try:
                    "a…".encode(stream.encoding, _REPLACED)
                except (UnicodeError, LookupError):  # no encoding of texts, such as idna
                    stream.reconfigure(encoding="utf-8", errors=_REPLACED)


class Stream:
    """A stream that may go away."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._gone = False
        self.trouble: OSError | None = None
        """What went wrong with it, other than that nobody reads it: a full disk behind `> file`."""
        self._kept: list[str] | None = None

    @property
    def _stream(self) -> TextIO | None:
        stream: TextIO | None = getattr(sys, self._name)
        return stream

    def __call__(self, text: str) -> None:
        """Print a text, with a newline if it has none."""
        if self._kept is not None:
            text = "\r\n".join(map(clean_lines, text.split("\r\n")))
            self._kept.append(text if text.endswith("\n") else text + "\n")
            return
        stream = self._stream
        if self._gone or stream is None:
            return
        try:
            text = "\r\n".join(map(clean_lines, text.split("\r\n")))  # CSV ends its lines so
            stream.write(text if text.endswith("\n") else text + "\n")
            stream.flush()
        except (OSError, ValueError) as error:
            self._gone = True
            if isinstance(error, OSError) and error.errno not in _READER_GONE:
                self.trouble = error

    def mark(self) -> None:
        """Begin a text with the mark by which Excel knows UTF-8, whatever encoding the environment asks for."""
        stream = self._stream
        if self._kept is not None:
            self._kept.append(_UTF8_MARK)
        elif stream is not None and not self._gone:
            with suppress(OSError, ValueError):  # what follows finds out why
                if isinstance(stream, io.TextIOWrapper):
                    stream.reconfigure(encoding="utf-8")
                stream.write(_UTF8_MARK)

    def lines(self, text: str) -> None:
        """Print lines for a person: on a terminal each is broken between words."""
        size = self.size
        if size is not None:
            from engine.report.screen import Screen  # here: hardly a command without a terminal folds

            text = "\n".join(part for line in text.split("\n") for part in Screen(*size).fold(line))
        self(text)

    @contextmanager
    def kept(self) -> Iterator[list[str]]:
        """Keep what is printed meanwhile, and print none of it."""
        parts: list[str] = []
        self._kept = parts
        try:
            yield parts
        finally:
            self._kept = None

    @property
    def gone(self) -> bool:
        """Whether nobody reads it any more."""
        return self._gone

    def isatty(self) -> bool:
        """Whether a person looks at it."""
        stream = self._stream if self._kept is None else None
        try:
            return not self._gone and stream is not None and stream.isatty()
        except ValueError:
            return False

    @property
    def size(self) -> tuple[int, int] | None:
        """Columns and rows of the terminal that shows it; None if a file or a program takes it."""
        if not self.isatty():
            return None
        stream = self._stream
        try:
            columns, rows = os.get_terminal_size(stream.fileno()) if stream is not None else (0, 0)
        except (OSError, ValueError):
            return None
        return (columns, rows) if columns > 0 and rows > 0 else None

    def can_redraw(self) -> bool:
        """Return whether a line can be written again in its place."""
        return self.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


def written_to(path: str, work: Callable[[], Any], *, is_sending: bool) -> Any:
    """Do the work of a command, and put what it prints on stdout into the file of `-o`; returns its exit code.

    What cannot be a file is refused before anything is done. If it cannot be written in the end, the result is printed,
    so that it is not lost; a command that sends has its own exit code then, too. Any: as click has it.
    """
    place = Path(path)
    if place.is_dir() or place.is_symlink() or (place.exists() and not place.is_file()) or not place.parent.is_dir():
        write_out(path, ())  # its words say what is wrong, and it writes nothing
    with out.kept() as parts:
        code = work()
    try:
        write_out(path, parts)
    except UsageError as error:
        warn(f"{error}, so it stands here")
        out("".join(parts))
        return code or (Reason.OK if is_sending else Reason.STOPPED)
    return code


def write_out(path: str, parts: str | Iterable[str]) -> None:
    """Write a report to the file of `-o`, whole, for its owner alone; UsageError, with what to do, if that fails."""
    try:
        write_whole(Path(path), parts)
    except OSError as error:
        raise UsageError(f"-o {path}: cannot be written: {error.strerror or error}; nothing was written") from error


out = Stream("stdout")
"""Results."""
say = Stream("stderr")
"""Talk."""


def warn(text: str) -> None:
    """Talk that names the speaker: what stands in a cron mail must."""
    for line in text.splitlines():
        say.lines(f"acctops: {line}")


_held: list[str] = []
"""Remarks a quiet command keeps to itself unless something goes wrong."""


def remark(text: str, *, quiet: bool) -> None:
    """A warning; a quiet command says it only beside bad news, so that a good night sends no mail."""
    if quiet:
        _held.append(text)
    else:
        warn(text)


def tell_remarks(*, drop: bool = False) -> None:
    """Say what was kept back, or forget it."""
    for text in () if drop else _held:
        warn(text)
    _held.clear()


def out_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout. Any: JSON values."""
    import json  # late: what a person reads needs none of it

    out(json.dumps(document, indent=2))


def out_csv(rows: Iterable[dict[str, Any]], columns: Sequence[str], *, excel: bool) -> None:
    """A table on stdout; with `excel` as that program opens it by a double click. Any: JSON values."""
    from engine.report.documents import csv_text  # here: most commands print no table

    if excel:
        out.mark()
    for part in csv_text(rows, columns, excel=excel):
        if part:
            out(part)


def printed() -> Reason:
    """The exit code of a command that only prints: a result cut short by a full disk must not pass for whole."""
    if out.trouble is None:
        return Reason.OK
    warn(f"standard output cannot be written ({out.trouble.strerror}): the result is cut short; print it elsewhere")
    return Reason.STOPPED


def in_debug() -> bool:
    """Whether whoever looks wants to see the traceback of a defect."""
    return bool(os.environ.get("ACCTOPS_DEBUG"))


def defect_words(error: BaseException) -> str:
    """What is wrong, in one line without a secret; a defect may name anything."""
    return clean(_blotted(f"{type(error).__name__}: {error}"))


def show_traceback(error: BaseException) -> None:
    """The traceback of a defect, without secrets, if one is asked for."""
    if in_debug():
        import traceback

        say(_blotted("".join(traceback.format_exception(error))))


def _blotted(text: str) -> str:
    return environment_secrets(os.environ).scrub(without_userinfo(text))


def refuse(text: str, code: Reason, *, as_json: bool) -> int:
    """Say why nothing was done."""
    tell_remarks()
    warn(text)
    if as_json:
        out_json({"error": text, "exit": int(code)})
    return int(code)


def hush_closed_streams() -> None:
    """Keep the interpreter from complaining at its exit about a pipe whose reader has gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, stream.fileno())
            os.close(devnull)
