"""Devices, floor 2: the job file and its lists, from disk or standard input. Reads, never writes."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from msgspec.structs import replace

from engine.errors import JobError
from engine.job import PasswordSpec
from engine.jobfile.parse import parse_job

if TYPE_CHECKING:
    from engine.job import Job

MOST_JOB = 64 << 20
"""Bytes of a job file; the YAML of 1,000,000 targets is smaller."""
MOST_LIST = 1 << 30
"""Bytes of one list; 1,000,000 rows are about 40 MB."""
STDIN = "-"


_NO_TEXT = re.compile(r"\\udc([89a-f][0-9a-f])")


def recorded(path: str) -> str:
    """A path as records and documents keep it: one text in every locale, with `\\udcff` for a byte that is no UTF-8."""
    return os.fsencode(path).decode("utf-8", "surrogateescape").encode("utf-8", "backslashreplace").decode()


def from_recorded(text: str) -> str:
    """The path that `recorded` has made a text of."""
    whole = _NO_TEXT.sub(lambda found: chr(0xDC00 + int(found[1], 16)), text)
    return os.fsdecode(whole.encode("utf-8", "surrogateescape"))


def is_stream(path: str) -> bool:
    """Whether a path leads to what can be read but once: standard input, and whatever exists and is no regular file."""
    return path == STDIN or (Path(path).exists() and not Path(path).is_file())


def load_job(path: str | Path, *, stdin: BinaryIO | None = None, skip_bad_rows: bool = False) -> Job:
    """The job in a file (`-`: standard input) with the lists it names, or JobError with every problem.

    Lists are found relative to the job file. `stdin` is for tests; the default is the process's own. With
    `skip_bad_rows`, bad rows of a list are no problems but `omits` of the job.
    """
    name = str(path)
    if name == STDIN:
        data = _read_stdin(stdin, MOST_JOB)
        file, directory = "standard input", Path()
    else:
        file, directory = name, Path(name).parent
        try:
            data = read_bytes(Path(name), MOST_JOB)
        except JobError as exc:
            raise JobError([f"{file}: {problem}" for problem in exc.problems]) from exc

    def read(listed: str) -> bytes:
        if listed == STDIN:
            if name == STDIN:
                raise JobError(["standard input holds the job itself; put one of the two into a file"])
            return _read_stdin(stdin, MOST_LIST)
        try:
            path = directory / Path(listed).expanduser()
        except RuntimeError as exc:  # ~nobody
            raise JobError([f"{listed}: {exc}"]) from exc
        try:
            return read_bytes(path, MOST_LIST)
        except JobError as exc:
            raise JobError([f"{path}: {problem}" for problem in exc.problems]) from exc

    job = parse_job(data, file=file, read=read, skip_bad_rows=skip_bad_rows)
    if job.passwords is None or not job.passwords.file:
        return job
    # Whole, as a resume may run in another directory.
    path = Path(job.passwords.file).expanduser().absolute()
    return replace(job, passwords=PasswordSpec(place=job.passwords.place, file=str(path)))


def read_bytes(path: Path, most: int) -> bytes:
    """All bytes of a file, at most `most`; JobError in words without a place (the caller knows it)."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError as exc:
        raise JobError([f"no such file{_hint(path)}"]) from exc
    except IsADirectoryError as exc:
        raise JobError(["is a directory; name a file in it"]) from exc
    except PermissionError as exc:
        raise JobError(["cannot be read: permission denied"]) from exc
    except (OSError, ValueError) as exc:
        raise JobError([f"cannot be read: {getattr(exc, 'strerror', None) or exc}"]) from exc
    return _bounded(data, most)


def _read_stdin(stdin: BinaryIO | None, most: int) -> bytes:
    stream = stdin if stdin is not None else getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise JobError(["standard input is closed"])
    if stream.isatty():
        raise JobError(["standard input is a terminal; pipe the text in"])
    try:
        return _bounded(stream.read(most + 1), most)
    except (OSError, ValueError) as exc:
        raise JobError([f"standard input cannot be read: {exc}"]) from exc


def _bounded(data: bytes, most: int) -> bytes:
    if len(data) > most:
        raise JobError([f"is larger than {most >> 20:,} MiB; split it, or put targets into a csv: list"])
    return data


def _hint(path: Path) -> str:
    """The nearest name in the same directory, if any."""
    from engine.names import did_you_mean  # here: only a mistake pays

    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return f"; the directory {path.parent} cannot be read"
    return did_you_mean(path.name, names)
