"""Door: `acctops config show`: what holds here, and who said it. Asks nobody, needs no keys, changes nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from engine.cli.options import options_of
from engine.cli.talk import out, out_json, printed, warn
from engine.errors import ConfigError
from engine.inputs.config import find_configs
from engine.inputs.files import homes_of, load_job
from engine.inputs.settingwords import Line, lines_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.inputs.config import Configs
    from engine.inputs.job import Job
    from engine.inputs.settings import Settings

_MOST_WIDE = 48
"""Characters of the column of values; a longer one pushes only its own origin aside."""


def show_config(job_path: str | None, *, with_origin: bool, **flags: Any) -> int:
    """The `config show` command. Any: the flags, by name."""
    options = options_of(flags)
    job = load_job(job_path) if job_path is not None else None
    settings = options.settings(job)
    configs = find_configs(*homes_of(job), environ=os.environ, explicit=options.config)
    lines = lines_of(settings, job, os.environ)
    warnings = [*settings.warnings, *(job.warnings if job is not None else ()), *_not_usable(settings)]
    for warning in warnings:
        warn(f"warning: {warning}")
    if options.as_json:
        out_json(_document(job, configs, lines, warnings))
        return printed()
    keys = max(len(line.key) for line in lines)
    rows = [(line.key, value, where) for line in lines for value, where in _rows(line)]
    values = min(_MOST_WIDE, max(len(value) for _, value, _ in rows))
    for (key, value, where), before in zip(rows, ["", *(key for key, _, _ in rows)], strict=False):
        shown = f"{key if key != before else '':{keys}}  {value:{values}}  {where}" if with_origin else ""
        out((shown or f"{key if key != before else '':{keys}}  {value}").rstrip())
    if with_origin:
        found = ", ".join(config.path for config in configs.files) or "none"
        out(f"\nconfig files, nearest first: {found}\nlooked in: {', '.join(configs.looked_in)}")
    return printed()


def _not_usable(settings: Settings) -> list[str]:
    """What every command that asks the API would refuse; here it is said, and the rest is shown."""
    try:
        settings.way_out.check()
    except ConfigError as error:
        return [str(error)]
    return []


def _rows(line: Line) -> Iterator[tuple[str, str]]:
    """A setting's values, each with where it was said; of a guard first what holds, then what else was said."""
    if isinstance(line.value, list):
        places = line.places or tuple((value, line.origin) for value in line.value)
        yield from ((str(value), where) for value, where in places or ((_words(None, line.nothing), line.origin),))
        return
    yield _words(line.value, line.nothing), line.origin
    yield from (
        (f"({_words(value, '')} is asked for, too)", where) for value, where in line.places if where != line.origin
    )


def _words(value: Any, nothing: str) -> str:
    """Any: as in Line."""
    if value is None:
        return f"({nothing})"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _document(job: Job | None, configs: Configs, lines: list[Line], warnings: list[str]) -> dict[str, Any]:
    """The `config show --json` document (engine/json.md). Any: JSON values."""
    return {
        "job": {"name": job.name, "path": job.path, "digest": job.digest} if job is not None else None,
        "files": [config.path for config in configs.files],
        "looked_in": list(configs.looked_in),
        "settings": [
            {
                "key": line.key,
                "value": line.value,
                "origin": line.origin,
                "places": [{"value": value, "where": where} for value, where in line.places],
            }
            for line in lines
        ],
        "warnings": warnings,
    }
