"""Writes the list that a job's targets were read as, corrected, to a file of its own."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.cli.talk import say
from engine.errors import JobError, UsageError
from engine.inputs.files import STDIN
from engine.inputs.guesses import MOST_CHANGES, Change
from engine.model import OmitReason, Where
from engine.outside.foreign import clean, without_userinfo
from engine.outside.trust import create_new

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.inputs.job import Job
    from engine.model import Target
    from engine.operations.survey import Survey

_MODE = 0o600
_MOST_CELL = 200
"""Characters of a cell that are shown."""


class Fixing:
    """The list of a job's targets as it should be, written once the accounts were read, or could not be.

    Bad rows are not in it, nor is what matches find. UsageError if the file is there already.
    """

    def __init__(self, job: Job, path: str) -> None:
        self._job = job
        self._path = path
        if path == STDIN:
            raise UsageError("--fix -: name a new file; what was changed is told beside it")
        self._file = Path(path)
        try:
            self._fd = create_new(self._file, _MODE)
        except FileExistsError as exc:
            raise UsageError(f"--fix {path}: is there already, and is not overwritten; name a new file") from exc
        except (OSError, ValueError) as exc:
            why = getattr(exc, "strerror", None) or exc
            raise UsageError(f"--fix {path}: cannot be written: {why}") from exc
        self._located: Mapping[Where, str] = {}

    def found(self, survey: Survey | None) -> None:
        """Take note where instances were found that are not where the job says."""
        self._located = survey.located if survey is not None else {}

    def write(self) -> None:
        """Write the list as one CSV file, in the order of the job; name on stderr what is not as it was written."""
        targets, moved = self._placed()
        try:
            with os.fdopen(self._fd, "w", encoding="utf-8", newline="") as stream:
                stream.writelines(_lines(targets))
                stream.flush()
                os.fsync(stream.fileno())
        except BaseException as exc:
            with suppress(OSError):
                self._file.unlink()
            if isinstance(exc, OSError):
                what = f"cannot be written: {exc.strerror or exc}; nothing was kept of it"
                raise JobError([f"--fix {self._path}: {what}"]) from exc
            raise
        _tell(self._job, self._path, moved)

    def _placed(self) -> tuple[list[Target], list[Change]]:
        """Return the targets, each in the region where its instance was found, and the changes, one an instance."""
        targets, rows = [], Counter[Where]()
        first: dict[Where, Target] = {}
        for target in self._job.targets if self._located else ():
            where = Where(target.account, target.region, target.instance)
            there = self._located.get(where)
            if there is not None:
                rows[where] += 1
                first.setdefault(where, target)
            targets.append(target if there is None else replace(target, region=there))
        changes = [
            Change(
                target.place,
                f"{where.instance} in {where.region}",
                f"found in {self._located[where]}, and taken there ({rows[where]:,} row{'s' * (rows[where] > 1)})",
            )
            for where, target in first.items()
        ]
        return targets or self._job.targets, changes


def _lines(targets: list[Target]) -> Iterator[str]:
    """Yield the lines of the list: names of targets are checked, so no cell needs quotes."""
    with_account = any(target.account for target in targets)
    yield "instance,user,region,account\n" if with_account else "instance,user,region\n"
    for target in targets:
        account = f",{target.account}" if with_account else ""
        yield f"{target.instance},{target.user},{target.region}{account}\n"


def _tell(job: Job, path: str, moved: list[Change]) -> None:
    """Say what was changed, and what is not in the list: first the instances that are `moved` to another region."""
    for change in moved[:MOST_CHANGES]:
        say(f"{change.place}: {change.old} → {change.new}")
    if len(moved) > MOST_CHANGES:
        say(f"… and {len(moved) - MOST_CHANGES:,} more instances in another region")
    changes = [change for guess in job.guesses for change in guess.changes]
    files = {file: at for at, file in enumerate(job.sources)}
    changes.sort(key=lambda change: (files.get(change.place.file, -1), change.place.line))
    for change in changes[:MOST_CHANGES]:
        say(f"{change.place}: {_shown(change.old)} → {_shown(change.new)}")
    more = sum(guess.changed or len(guess.changes) for guess in job.guesses) - len(changes[:MOST_CHANGES])
    if more > 0:
        say(f"… and {more:,} more change{'s' * (more > 1)}")
    bad = sum(omit.reason is OmitReason.BAD_ROW for omit in job.omits)
    rows = len(job.targets)
    said = f"{path}: {rows:,} row{'s' * (rows != 1)} written"
    if bad:
        said += f"; {bad:,} bad row{'s are' if bad > 1 else ' is'} not in it"
    place = os.path.relpath(path, Path(job.path).parent) if job.is_file and not path.startswith("/") else path
    place = f"./{place}" if place.startswith("~") else place
    entry = f"- csv: {dumps(place, ensure_ascii=False)}"
    others = "; what matches find is not in it, so leave these entries" if job.matches else ""
    say(f"{said}{others}. To use it, put under targets: in the job, in place of what it was made from: {entry}")


def _shown(text: str) -> str:
    """Return a cell on one line, with an escape for each character that nobody sees."""
    whole = "".join(
        char if char.isprintable() else f"\\u{ord(char):04x}" for char in without_userinfo(text)[: _MOST_CELL + 1]
    )
    return clean(whole, _MOST_CELL)
