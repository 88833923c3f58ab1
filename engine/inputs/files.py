"""Reads the job file and its lists from disk or standard input. Never writes."""

from __future__ import annotations

import os
import posixpath
import re
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from msgspec.structs import replace

from engine.errors import JobError
from engine.outside.foreign import with_its_bytes
from engine.outside.trust import ways_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.inputs.job import Job

MOST_JOB = 64 << 20
"""Bytes of a job file, at most; the YAML of 1,000,000 targets is smaller."""
MOST_LIST = 1 << 30
"""Bytes of one list, at most; 1,000,000 rows are about 40 MB."""
STDIN = "-"
_ALIKE = 0.75
"""How alike (0-1) the name of a file must be to what was typed, without its ending, to be called meant."""


STDIN_NAME = "standard input"
STREAM_NAME = "a stream"
"""Name of a job that was read from a pipe, a device or a descriptor."""
_STDIN = re.compile("/dev/stdin|/dev/fd/0|/proc/(?:self|thread-self)/fd/0").fullmatch
_DESCRIPTOR = re.compile("/dev/(?:stdin|stdout|stderr|fd/[0-9]+)|/proc/[^/]+(?:/task/[^/]+)?/fd/[0-9]+").fullmatch
_OWN_DESCRIPTOR = re.compile("/dev/(?:stdin|stdout|stderr|fd/[0-9]+)|/proc/(?:self|thread-self)/fd/[0-9]+").fullmatch
"""A descriptor of this process, which the caller of the command handed in; not one of another process."""


def recorded(path: str) -> str:
    """Return a path as records keep it: the same text in every locale, with `\\udcff` for a byte that is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "surrogateescape").encode("utf-8", "backslashreplace").decode()


def from_recorded(text: str) -> str:
    """Return the path of a text that `recorded` has returned."""
    return os.fsdecode(with_its_bytes(text).encode("utf-8", "surrogateescape"))


def is_stream(path: str | Path) -> bool:
    """Return whether `path` can be read only once: `-`, a descriptor, a pipe or a device, and not a file."""
    if str(path) == STDIN or _leads_to(path, _DESCRIPTOR):
        return True
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _leads_to(path: str | Path, is_meant: Callable[[str], object]) -> bool:
    try:
        return any(is_meant(str(way)) for way in ways_to(Path(path)))
    except (OSError, ValueError):
        return False


def homes(path: str | Path) -> tuple[Path, ...]:
    """Return the directories in which a job's lists and guards are searched.

    They are that of the file as it is named, and that of every link on the way to it; of a stream the current one.
    """
    if is_stream(path):
        return (Path(),)
    try:
        return tuple(dict.fromkeys((Path(path).parent, *(way.parent for way in ways_to(Path(path))[1:]))))
    except (OSError, ValueError):
        return (Path(path).parent,)


def homes_of(job: Job | None) -> tuple[Path, ...]:
    """Return `homes` of a job that was read; without a job, or if it has no file, the current directory."""
    return homes(job.path) if job is not None and job.is_file else (Path(),)


def job_file(path: str) -> Path | None:
    """Return the job file that a journal names; None if it does not exist. A job without a file has a word there.

    Where a list of the job came on standard input, that stands behind the file's name.
    """
    file = Path(from_recorded(path.removesuffix(f" and {STDIN_NAME}")))
    return file if file.is_absolute() and file.is_file() else None


def load_job(
    path: str | Path, *, stdin: BinaryIO | None = None, skip_bad_rows: bool = False, lists: bool = True
) -> Job:
    """Return the job in a file or a stream (`-`: standard input) with its lists; raise JobError with every problem.

    Lists are found relative to the job file. `stdin` is for tests; the default is the process's own. With
    `skip_bad_rows`, bad rows of a list are no problems but `omits` of the job. Without `lists` none is read: the job
    has only the targets that it names itself.
    """
    from engine.inputs.jobfile.parse import (
        parse_job,  # here: commands that only look at runs import this module, and read no job
    )

    name = str(path)
    is_file = not is_stream(name)
    is_stdin = not is_file and (name == STDIN or _leads_to(name, _STDIN))
    file = name if is_file else STDIN_NAME if is_stdin else STREAM_NAME
    try:
        if is_stdin:
            data = _read_stdin(stdin, MOST_JOB)
        else:
            data = read_bytes(Path(name), MOST_JOB) if is_file else _read_stream(Path(name))
    except JobError as exc:
        raise JobError([f"{name}: {problem}" for problem in exc.problems] if not is_stdin else exc.problems) from exc
    places = homes(name)

    def locate(listed: str) -> str:
        """Return the path of a list: beside the job, or beside the file that a link to the job leads to."""
        if listed == STDIN:
            return STDIN_NAME
        found = (str(place / listed) for place in places[1:] if os.path.lexists(place / listed))
        first = posixpath.join(posixpath.dirname(file), listed)
        return first if listed.startswith("~") or os.path.lexists(first) else next(found, first)

    def read(listed: str) -> bytes:
        if listed == STDIN:
            if is_stdin:
                raise JobError(["standard input holds the job itself; put one of the two into a file"])
            return _read_stdin(stdin, MOST_LIST)
        try:
            found = _expanded(locate(listed), listed)
        except RuntimeError as exc:  # ~nobody
            raise JobError([f"{listed}: {exc}"]) from exc
        try:
            return read_bytes(found, MOST_LIST)
        except JobError as exc:
            raise JobError([f"{found}: {problem}" for problem in exc.problems]) from exc

    try:
        job = parse_job(data, file=file, read=read if lists else None, skip_bad_rows=skip_bad_rows, locate=locate)
    except JobError as exc:
        if _looks_like_a_list(file, data):
            raise JobError([f"{file}: is no job file but {_list_words(file)}"]) from exc
        raise
    handed_in = is_stdin or (not is_file and _leads_to(name, _OWN_DESCRIPTOR))
    job = replace(job, is_file=is_file, source="" if handed_in else str(Path(name).absolute()))
    if job.passwords is None or not job.passwords.file:
        return job
    # Absolute, as a resume may run in another directory.
    whole = Path(job.passwords.file).expanduser().absolute()
    return replace(job, passwords=replace(job.passwords, file=str(whole)))


def _list_words(name: str) -> str:
    from engine.inputs.jobfile.layout import list_words  # here: only a slip pays for the import

    if name in (STDIN_NAME, STREAM_NAME):
        return "a list of targets; a job names it, and reads it on its standard input: targets: [{csv: -}]"
    return list_words(name)


def _looks_like_a_list(name: str, data: bytes) -> bool:
    """Return whether what is no job is a list: by its name, or by its first line."""
    from engine.inputs.jobfile.layout import is_list, layout_of  # here: only a slip pays for the import

    text = data[:65536].decode("utf-8-sig", "replace")
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return is_list(name) or layout_of(first, {}) is not None or (first[:1] == "{" and '"instance"' in first)


def read_list(name: str) -> bytes:
    """Return the bytes of a list that the command line names; JobError with its name."""
    if name in ("", STDIN):
        raise JobError([f"@{name}: name a file; a job reads a list on standard input: targets: [{{csv: -}}]"])
    try:
        return read_bytes(Path(name).expanduser(), MOST_LIST)
    except JobError as exc:
        raise JobError([f"{name}: {problem}" for problem in exc.problems]) from exc
    except RuntimeError as exc:  # ~nobody
        raise JobError([f"{name}: {exc}"]) from exc


def _expanded(path: str, listed: str) -> Path:
    return Path(listed).expanduser() if listed.startswith("~") else Path(path)


def _read_stream(path: Path) -> bytes:
    """Return all that a pipe, a device or a descriptor gives, to its end."""
    try:
        with path.open("rb") as file:
            if file.isatty():
                raise JobError(["is a terminal; pipe the text in"])
            return _bounded(file.read(MOST_JOB + 1), MOST_JOB)
    except (OSError, ValueError) as exc:
        raise JobError([f"cannot be read: {getattr(exc, 'strerror', None) or exc}"]) from exc


def read_bytes(path: Path, most: int) -> bytes:
    """Return all bytes of a file; JobError if there are more than `most`. Its words do not name the file."""
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
    """Return the words for the nearest name in the same directory, if any: `.yaml` alone makes no two names alike."""
    from engine.api.names import nearest  # here: only a wrong name pays for the import
    from engine.inputs.jobfile.layout import is_list

    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return f"; the directory {path.parent} cannot be read"
    stems: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (Path(name).suffix != path.suffix, is_list(name))):
        stems.setdefault(Path(name).stem.lower(), name)
    meant = nearest(path.stem, stems, cutoff=_ALIKE)
    return f"; did you mean {stems[meant]}?" if meant is not None else ""
