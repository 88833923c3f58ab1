"""The `schedule` command: units that start a job in its window, `tend` or workers, ready to be put in their place."""

from __future__ import annotations

from typing import Any

from engine.cli.options import options_of
from engine.cli.talk import out, printed, say
from engine.errors import Reason, UsageError
from engine.operations.scheduling import Wish, tend_units_of, units_of, worker_units_of
from engine.operations.unitfiles import together


def show_schedule(
    job_path: str | None,
    form: str,
    *,
    tend: bool,
    no_tend: bool,
    worker: bool,
    lanes: int | None,
    programs: tuple[str, ...],
    user: str | None,
    env_file: str | None,
    every: str | None,
    image: str | None,
    into: str | None,
    **flags: Any,
) -> int:
    """The `schedule` command. Any: the flags, by name."""
    options = options_of(flags)
    wish = Wish(
        form=form,
        user=user,
        env_file=env_file,
        every=every,
        image=image,
        no_tend=no_tend,
        lanes=lanes,
        programs=programs,
    )
    if worker:
        units = worker_units_of(options, wish)
    elif job_path is not None:
        units = units_of(options, job_path, wish)
    elif tend:
        units = tend_units_of(options, wish)
    else:
        raise UsageError("schedule what? Name a job, or give --tend or --worker")
    if into is None:
        out(together(units.all_files))
        return printed()
    for line in units.write(into, options.tell):
        say(line)
    return Reason.OK
