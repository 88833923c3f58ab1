"""The `schedule` command: units that start a job in its window, ready to be put in their place."""

from __future__ import annotations

from typing import Any

from engine.cli.options import options_of
from engine.cli.talk import out, printed, say
from engine.errors import Reason
from engine.operations.scheduling import Wish, units_of
from engine.operations.unitfiles import together


def show_schedule(
    job_path: str,
    form: str,
    *,
    user: str | None,
    env_file: str | None,
    every: str | None,
    image: str | None,
    into: str | None,
    **flags: Any,
) -> int:
    """The `schedule` command. Any: the flags, by name."""
    options = options_of(flags)
    units = units_of(options, job_path, Wish(form=form, user=user, env_file=env_file, every=every, image=image))
    if into is None:
        out(together(units.files))
        return printed()
    for line in units.write(into, options.tell):
        say(line)
    return Reason.OK
