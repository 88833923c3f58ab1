"""The `schedule` command: units that start a job in its window, and `tend`, ready to be put in their place."""

from __future__ import annotations

from typing import Any

from engine.cli.options import options_of
from engine.cli.talk import out, printed, say
from engine.errors import Reason, UsageError
from engine.operations.scheduling import Wish, tend_units_of, units_of
from engine.operations.unitfiles import together


def show_schedule(
    job_path: str | None,
    form: str,
    *,
    tend: bool,
    no_tend: bool,
    user: str | None,
    env_file: str | None,
    every: str | None,
    image: str | None,
    into: str | None,
    **flags: Any,
) -> int:
    """The `schedule` command. Any: the flags, by name."""
    options = options_of(flags)
    wish = Wish(form=form, user=user, env_file=env_file, every=every, image=image, no_tend=no_tend)
    if job_path is None and not tend:
        raise UsageError("schedule what? Name a job, or give --tend")
    units = units_of(options, job_path, wish) if job_path is not None else tend_units_of(options, wish)
    if into is None:
        out(together(units.all_files))
        return printed()
    for line in units.write(into, options.tell):
        say(line)
    return Reason.OK
