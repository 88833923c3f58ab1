"""Writes a schedule as a file of /etc/cron.d, which has a column for the user.

Crons differ: cronie knows CRON_TZ; Debian's cron takes it for an ordinary variable and starts at the machine's own
hour. So a line starts every quarter of an hour, at minutes that are the same in every time zone, and asks the zone's
clock whether the window is open. This works with every cron, across a change of summer time, and if cron is late. The
first start in an opening runs the job; `run --once` makes the others do nothing.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from engine.inputs.window import DAYS, MIDNIGHT, clock_text
from engine.schedule.units import (
    QUARTER,
    TEND_MINUTES,
    Schedule,
    Started,
    Tending,
    Times,
    UnitFile,
    check_minutes,
    check_times,
    run_times,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_LINE = 990
"""Most bytes of a line: Debian's cron reads commands of up to 998."""


def files(schedule: Schedule) -> list[UnitFile]:
    """Return the one file; its name has no dot, as cron ignores names with one. ValueError if a line is too long."""
    return [UnitFile(schedule.unit, _checked(_text(schedule)))]


def tend_files(tending: Tending) -> list[UnitFile]:
    """Return the one file with the lines of `tend` and of its check, likewise."""
    return [UnitFile(tending.unit, _checked(_tend_text(tending)))]


def _checked(text: str) -> str:
    if max(map(len, text.encode().splitlines())) > MOST_LINE:
        raise ValueError(f"a line would have more than {MOST_LINE} bytes, which some crons cut off; use shorter paths")
    return text


_VARIABLES = """\
SHELL=/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# MAILTO=dba@example.com"""


def _tend_text(tending: Tending) -> str:
    check = ",".join(map(str, check_minutes()))
    return f"""\
{tending.head("for /etc/cron.d: does what is due after runs, such as opening accounts whose time is up")}
#
# These minutes are the same in every time zone. A tend that still works is not joined by a second one: that does
# nothing. What is printed is mailed, and `--quiet` prints nothing when all is well: the mail is the alarm. The second
# line tells if none has ended well for a while, also as the machine was off.
{_VARIABLES}

*/{TEND_MINUTES} * * * * {tending.user} {_escaped(_shell(tending, tending.tend))}
{check} * * * * {tending.user} {_escaped(_shell(tending, tending.overdue))}
"""


def _text(schedule: Schedule) -> str:
    zone = schedule.window.timezone
    run, check = run_times(schedule.window), check_times(schedule.window)
    # At quarters of the zone's hour, too: summer time begins at one, and a window whose opening it skips opens then.
    minutes = sorted({*_quarters(run.minute), *_quarters(0)})
    unknown = (
        f"echo acctops: {shlex.quote(f'the clock of {zone} is not known here, nothing is started: install tzdata')}"
    )
    tell = f"{{ {_known(schedule)}|| {unknown} >&2; }}; " if schedule.zone_file else ""
    return f"""\
{schedule.head(f"for /etc/cron.d: job {schedule.name}, {schedule.window.label}")}
#
# Not every cron knows CRON_TZ. So each line wakes up every quarter of an hour, and asks the clock of {zone}
# whether it is time; for cron, \\% is %. The first start in an opening runs the job, the others do nothing (`--once`).
# What is printed is mailed, and `--quiet` prints nothing when all is well: the mail is the alarm. A run that still goes
# is not started twice. A window that was missed as a whole, as the machine was off, is what the second line tells.
{_VARIABLES}

{_line(schedule, minutes, run, _known(schedule) and f"{_known(schedule)}&& ", "", schedule.run_once)}
{_line(schedule, _quarters(check.minute), check, "", tell, schedule.overdue)}
"""


def _quarters(minute: int) -> list[int]:
    return list(range(minute % QUARTER, 60, QUARTER))


def _known(schedule: Schedule) -> str:
    """Return the shell's test that `date` knows the zone: it silently takes an unknown one for UTC. May be empty."""
    return f"[ -e {shlex.quote(schedule.zone_file)} ] " if schedule.zone_file else ""


def _line(
    schedule: Schedule, minutes: Sequence[int], times: Times, first: str, before: str, command: Sequence[str]
) -> str:
    """Return one line of the file. `first` is a further test ahead of the time's; `before` runs before the command."""
    zone = shlex.quote(schedule.window.timezone)
    # $1 is the day of the week (1 is Monday), $2 the time.
    ask = f"{first}set -- $(TZ={zone} date '+%u %H%M') && {_is_time(times)}"
    # cron needs \% for a percent sign, and passes the shell a plain one.
    return f"{','.join(map(str, minutes))} * * * * {schedule.user} " + _escaped(
        f"if {ask}; then {before}{_shell(schedule, command)}; fi"
    )


def _is_time(times: Times) -> str:
    """Return the shell's test that `$1 $2` is within `times`."""
    end = times.minute + times.length
    begin, until = f'[ "$2" -ge {_clock(times.minute)} ]', f'[ "$2" -lt {_clock(end % MIDNIGHT)} ]'
    if end <= MIDNIGHT:
        on_day = begin if end == MIDNIGHT else f"{begin} && {until}"
        return on_day if times.every_day else f"{_on(times.days)} && {on_day}"
    if times.every_day:
        return f"{{ {begin} || {until}; }}"
    following = tuple(sorted((day + 1) % len(DAYS) for day in times.days))
    return f"{{ {{ {_on(times.days)} && {begin}; }} || {{ {_on(following)} && {until}; }}; }}"


def _on(days: Sequence[int]) -> str:
    numbers = "".join(str(day + 1) for day in days)  # date's %u
    return f'[ -z "${{1#[{numbers}]}}" ]'


def _clock(minute: int) -> str:
    return clock_text(minute).replace(":", "")


def _shell(started: Started, command: Sequence[str]) -> str:
    env_file = shlex.quote(started.env_file)
    source = f"set -a && . {env_file} && set +a"
    parts = [f"cd {shlex.quote(started.directory)}"]
    parts.append(f"{{ [ ! -e {env_file} ] || {{ {source}; }}; }}" if started.env_file_may_miss else source)
    words = [f"{name}={shlex.quote(value)}" for name, value in started.environment.items()]
    words += map(shlex.quote, command)
    return " && ".join([*parts, " ".join(words)])


def _escaped(command: str) -> str:
    return command.replace("%", "\\%")
