"""Rules, floor 1: a schedule as a file of /etc/cron.d, which has a column for the user.

Crons differ: cronie knows CRON_TZ, Debian's takes it for an ordinary variable and starts at the machine's own hour. So
a line starts every quarter of an hour, at the minutes that the offset of no zone moves, and asks the zone's own clock
whether it is time: the same everywhere, on both sides of a change of summer time.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from engine.schedule.units import MADE, Schedule, Times, UnitFile, check_times, run_times

if TYPE_CHECKING:
    from collections.abc import Sequence

QUARTER = 15
"""Minutes: what offsets of zones are multiples of."""


MOST_LINE = 990
"""Bytes: Debian's cron reads commands of up to 998."""


def files(schedule: Schedule) -> list[UnitFile]:
    """The one file; its name has no dot, as cron passes over those that do. ValueError, in words, if it is too long."""
    text = _text(schedule)
    if max(map(len, text.encode().splitlines())) > MOST_LINE:
        raise ValueError(f"a line would have more than {MOST_LINE} bytes, which some crons cut off; use shorter paths")
    return [UnitFile(schedule.unit, text)]


def _text(schedule: Schedule) -> str:
    zone = schedule.window.timezone
    return f"""\
{MADE} for /etc/cron.d: job {schedule.name}, {schedule.window.label}.
#
# Not every cron knows CRON_TZ. So each line wakes up every quarter of an hour, and asks the clock of {zone}
# whether it is time; for cron, \\% is %. What is printed is mailed, and `--quiet` prints nothing when all is well: the
# mail is the alarm. A run that still goes is not started twice (acctops refuses it, exit 6). Cron makes up for nothing:
# a night on which the machine was off is what the second line tells.
SHELL=/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# MAILTO=dba@example.com

{_line(schedule, run_times(schedule.window), schedule.run)}
{_line(schedule, check_times(schedule.window), schedule.overdue)}
"""


def _line(schedule: Schedule, times: Times, command: Sequence[str]) -> str:
    zone = shlex.quote(schedule.window.timezone)
    minutes = ",".join(str(minute) for minute in range(times.minute % QUARTER, 60, QUARTER))
    clock, now = (times.clock, "%H:%M") if times.every_day else (f"[{_days(times)}]/{times.clock}", "%u/%H:%M")
    # Escaped where cron reads it, and in the shell's eyes a plain percent sign.
    return f"{minutes} * * * * {schedule.user} " + _escaped(
        f'case "$(TZ={zone} date +{now})" in {clock}) {_shell(schedule, command)};; esac'
    )


def _days(times: Times) -> str:
    return "".join(str(day + 1) for day in times.days)  # date's %u: 1 is Monday


def _shell(schedule: Schedule, command: Sequence[str]) -> str:
    env_file = shlex.quote(schedule.env_file)
    source = f"set -a && . {env_file} && set +a"
    parts = [f"cd {shlex.quote(schedule.directory)}"]
    parts.append(f"{{ [ ! -e {env_file} ] || {{ {source}; }}; }}" if schedule.env_file_may_miss else source)
    words = [f"{name}={shlex.quote(value)}" for name, value in schedule.environment.items()]
    words += map(shlex.quote, command)
    return " && ".join([*parts, " ".join(words)])


def _escaped(command: str) -> str:
    return command.replace("%", "\\%")
