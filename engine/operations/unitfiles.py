"""Write units to disk: each file whole, and only in place of one that acctops made for the same job or state directory.

Many jobs have the units of `tend` in common. So a job's schedule leaves them as they are, and is refused if they would
have to be others; `schedule --tend` makes them anew. Units of workers serve all runs of a database likewise.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import RefusedError, UsageError
from engine.operations.events import Tell, Warned
from engine.outside.foreign import pasted
from engine.outside.trust import Trust, read_regular, replace_whole
from engine.schedule.units import MADE, ForAll, Schedule, UnitFile, job_file_of, state_dir_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


MOST_UNIT = 1 << 20
"""Largest size in bytes of a file that may be one of ours."""


def together(files: Sequence[UnitFile]) -> str:
    """Return all files in one text: with cron and YAML one file of that kind, else each after a line with its name."""
    if "." not in files[0].name:
        return "\n".join(file.text for file in files)
    if files[0].name.endswith(".yaml"):
        return "---\n".join(file.text for file in files)
    return "\n".join(f"# ---- {file.name}\n{file.text}" for file in files)


def write(
    files: Sequence[UnitFile],
    common_files: Sequence[UnitFile],
    into: Path,
    schedule: Schedule | None,
    common: ForAll | None,
    again: str,
    tell: Tell,
) -> None:
    """Write each file whole, under its name; never through a link, and only in place of one that is ours to replace.

    `common_files` serve all runs of a state directory; `again` is the command that makes them anew.
    """
    for file in files:
        if schedule is not None and (text := _ours(into / file.name)) is not None:
            _refuse_other_job(into / file.name, text, schedule)
    for file in common_files:
        if common is not None and (text := _ours(into / file.name)) not in (None, file.text):
            _refuse_other(into / file.name, str(text), common, again if schedule is not None else "")
    for file in (*files, *common_files):
        path = into / file.name
        try:
            replace_whole(path, file.text.encode("utf-8", "surrogateescape"), 0o644)
        except OSError as error:
            way = f"; make the directory first: mkdir -p {pasted((str(into),))}" if not into.is_dir() else ""
            raise UsageError(f"--into {into}: {path.name} cannot be written: {error.strerror}{way}") from error
    try:
        if (why := Trust().why_not(into)) is not None:
            tell(Warned(f"{why}, and so what is started at night", always=True))
        for other in _older_names((*files, *common_files), into, schedule) if schedule is not None else ():
            words = f"{other}: starts this job, too, under the name of an older version; remove it"
            tell(Warned(words, always=True))
    except OSError as error:
        tell(Warned(f"{into}: cannot be looked at: {error.strerror}", always=True))


def _ours(path: Path) -> str | None:
    """Return the text of a file that we made; None if there is no file. RefusedError for a file that is not ours."""
    try:
        text = read_regular(path, MOST_UNIT, follow=False).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        if path.is_symlink():
            raise RefusedError(
                f"{path}: is a link, and nothing is written through links; nothing was written"
            ) from error
        raise UsageError(f"--into {path.parent}: {path.name} cannot be read: {error.strerror}") from error
    if not text.startswith(MADE):
        raise RefusedError(f"{path}: is there already, and not made by acctops schedule; nothing was written")
    return text


def _refuse_other_job(path: Path, text: str, schedule: Schedule) -> None:
    """Raise UsageError for a file that we made for another job."""
    owner = job_file_of(text)
    if owner is None and schedule.job_file not in text:  # made by an older version, which did not name it
        owner = "another job"
    if owner not in (None, schedule.job_file):
        raise UsageError(
            f"{path}: is the unit of {owner}, and {schedule.job_file} would get the same name; nothing was written; "
            "give one of the two another `name`, or remove the file"
        )


def _refuse_other(path: Path, text: str, common: ForAll, again: str) -> None:
    """Raise UsageError for a file of another state directory; if there is a way to make it anew, for any other file."""
    alone = "--no-tend writes the units of the job alone"
    state_dir = state_dir_of(text)
    if state_dir is None:
        owner = job_file_of(text) or "a job"
        raise UsageError(
            f"{path}: is the unit of {owner}, and `{common.command}` would get the same name; nothing was written; "
            f"remove the file, and schedule that job anew, which gets another name now{f'; {alone}' if again else ''}"
        )
    if state_dir != common.state_dir:
        raise UsageError(
            f"{path}: is for the state directory {state_dir}, and this is for {common.state_dir}; nothing was "
            f"written; have one for both (--state-dir {state_dir}), or remove the file if nothing uses that any more"
            f"{f'; {alone}' if again else ', or write these elsewhere and install them under other names'}"
        )
    if again:
        raise UsageError(
            f"{path}: is there already, made by other flags, from another config or by another version, and serves "
            f"all jobs of {state_dir}; nothing was written; {alone}, and leaves these as they are; to have them as "
            f"here: {again}"
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


def then(form: str, files: Sequence[UnitFile], into: Path) -> list[str]:
    """Return, line by line, what was written and what to type next."""
    lines = [f"wrote {into / file.name}" for file in files]
    match form:
        case "systemd":
            timers = [file.name for file in files if file.name.endswith(".timer")]
            enabled = " ".join(timers or [file.name for file in files])
            lines.append(f"now: systemctl daemon-reload && systemctl enable --now {enabled}")
        case "k8s":
            named = " ".join(f"-f {shlex.quote(str(into / file.name))}" for file in files)
            heads = "its head" if len(files) == 1 else "their heads"
            lines.append(f"now: read {heads}, then kubectl apply {named}")
        case "compose":
            lines.append(f"now: read its head, then docker compose -f {shlex.quote(str(into / files[0].name))} up -d")
        case _:
            lines.append(
                f"cron reads {'it by itself, if it lies' if len(files) == 1 else 'them, if they lie'} in /etc/cron.d"
            )
    return lines
