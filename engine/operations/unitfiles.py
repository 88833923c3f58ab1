"""Write units to disk: each file whole, and only in place of a file that acctops made for the same job."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import RefusedError, UsageError
from engine.operations.events import Tell, Warned
from engine.outside.trust import Trust, read_regular, replace_whole
from engine.schedule.units import MADE, Schedule, UnitFile, job_file_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


MOST_UNIT = 1 << 20
"""Largest size in bytes of a file that may be one of ours."""


def together(files: Sequence[UnitFile]) -> str:
    """Return all files in one text, each after a line with its name; a single file without that line."""
    if len(files) == 1:
        return files[0].text
    return "\n".join(f"# ---- {file.name}\n{file.text}" for file in files)


def write(files: Sequence[UnitFile], into: Path, schedule: Schedule, tell: Tell) -> None:
    """Write each file whole, under its name; never through a link, and only in place of one we made for this job."""
    for file in files:
        _refuse_foreign(into / file.name, schedule)
    for file in files:
        path = into / file.name
        try:
            replace_whole(path, file.text.encode("utf-8", "surrogateescape"), 0o644)
        except OSError as error:
            raise UsageError(f"--into {into}: {path.name} cannot be written: {error.strerror}") from error
    try:
        if (why := Trust().why_not(into)) is not None:
            tell(Warned(f"{why}, and so what is started at night", always=True))
        for other in _older_names(files, into, schedule):
            words = f"{other}: starts this job, too, under the name of an older version; remove it"
            tell(Warned(words, always=True))
    except OSError as error:
        tell(Warned(f"{into}: cannot be looked at: {error.strerror}", always=True))


def _refuse_foreign(path: Path, schedule: Schedule) -> None:
    """Raise RefusedError for a file that is not ours, UsageError for one that we made for another job."""
    try:
        text = read_regular(path, MOST_UNIT, follow=False).decode("utf-8", "replace")
    except FileNotFoundError:
        return
    except OSError as error:
        if path.is_symlink():
            raise RefusedError(
                f"{path}: is a link, and nothing is written through links; nothing was written"
            ) from error
        raise UsageError(f"--into {path.parent}: {path.name} cannot be read: {error.strerror}") from error
    if not text.startswith(MADE):
        raise RefusedError(f"{path}: is there already, and not made by acctops schedule; nothing was written")
    owner = job_file_of(text)
    if owner is None and schedule.job_file not in text:  # made by an older version, which did not name it
        owner = "another job"
    if owner not in (None, schedule.job_file):
        raise UsageError(
            f"{path}: is the unit of {owner}, and {schedule.job_file} would get the same name; nothing was written; "
            "give one of the two another `name`, or remove the file"
        )


def _older_names(files: Sequence[UnitFile], into: Path, schedule: Schedule) -> Iterator[str]:
    """Yield other files of ours that start the same job, under names of older versions."""
    ours = {file.name for file in files}
    for path in sorted(into.glob("acctops-*")):
        if path.name in ours or path.suffix in (".wants", ".requires"):
            continue
        try:
            text = read_regular(path, MOST_UNIT, follow=False).decode("utf-8", "replace")
        except OSError:
            continue
        is_same = job_file_of(text) == schedule.job_file or f" run {shlex.quote(schedule.job_file)} " in text
        if text.startswith(MADE) and is_same and path.suffix in {Path(name).suffix for name in ours}:
            yield str(path)


def then(form: str, schedule: Schedule, files: Sequence[UnitFile], into: Path) -> list[str]:
    """Return, line by line, what was written and what to type next."""
    lines = [f"wrote {into / file.name}" for file in files]
    unit = schedule.unit
    match form:
        case "systemd":
            timers = f"{unit}.timer {unit}-overdue.timer"
            lines.append(f"now: systemctl daemon-reload && systemctl enable --now {timers}")
        case "k8s":
            lines.append(f"now: read its head, then kubectl apply -f {shlex.quote(str(into / files[0].name))}")
        case _:
            lines.append("cron reads it by itself, if it lies in /etc/cron.d")
    return lines
