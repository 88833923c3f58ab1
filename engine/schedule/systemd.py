"""Writes a schedule as systemd units: a service and its timer for the run, and for the check.

Rules for quoting: systemd.syntax(7), systemd.service(5) "Command lines", systemd.unit(5) "Specifiers".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.inputs.window import DAYS
from engine.schedule.units import Schedule, Times, UnitFile, check_times, run_times

if TYPE_CHECKING:
    from collections.abc import Sequence


def files(schedule: Schedule) -> list[UnitFile]:
    """Return service and timer of the run, service and timer of the check."""
    unit, check = schedule.unit, f"{schedule.unit}-overdue"
    return [
        UnitFile(f"{unit}.service", _run_service(schedule)),
        UnitFile(f"{unit}.timer", _run_timer(schedule)),
        UnitFile(f"{check}.service", _check_service(schedule)),
        UnitFile(f"{check}.timer", _check_timer(schedule)),
    ]


def _run_service(schedule: Schedule) -> str:
    return f"""\
{schedule.head(f"job {schedule.name}, {schedule.window.label}")}
[Unit]
Description={_plain(f"{schedule.action} by acctops, job {schedule.name}")}
Wants=network-online.target
After=network-online.target

[Service]
{_how(schedule, schedule.run_once if schedule.late_openings else schedule.run)}
# SIGTERM goes to acctops alone: it drains, records what is in flight, and leaves a journal to resume.
KillMode=mixed
TimeoutStopSec={schedule.stop_s}
"""


def _run_timer(schedule: Schedule) -> str:
    return f"""\
{schedule.head(f"job {schedule.name}, {schedule.window.label}")}
[Unit]
Description={_plain(f"Starts job {schedule.name} in its window, {schedule.window.label}")}

[Timer]
{_calendars(schedule)}
AccuracySec=1s
# Missed while the machine was off: made up for as soon as it is on. If the window is over by then, acctops refuses
# (exit 3), and the unit shows as failed. Overlap: a timer never starts a service that still runs.
Persistent=true

[Install]
WantedBy=timers.target
"""


def _check_service(schedule: Schedule) -> str:
    return f"""\
{schedule.head(f"fails if job {schedule.name} is overdue")}
[Unit]
Description={_plain(f"Is acctops job {schedule.name} overdue?")}

[Service]
{_how(schedule, schedule.overdue)}
"""


def _check_timer(schedule: Schedule) -> str:
    return f"""\
{schedule.head(f"looks every day whether job {schedule.name} is overdue")}
[Unit]
Description={_plain(f"Looks whether acctops job {schedule.name} is overdue")}

[Timer]
OnCalendar={_calendar(schedule, check_times(schedule.window))}
Persistent=true

[Install]
WantedBy=timers.target
"""


def _how(schedule: Schedule, command: Sequence[str]) -> str:
    optional = "-" if schedule.env_file_may_miss else ""
    lines = [
        "Type=oneshot",
        f"User={schedule.user}",
        f"WorkingDirectory={_plain(schedule.directory)}",
        f"EnvironmentFile={optional}{_plain(schedule.env_file)}",
        *(f'Environment="{name}={_quoted(value)}"' for name, value in schedule.environment.items()),
        f"ExecStart={' '.join([_word(command[0], program=True), *map(_word, command[1:])])}",
    ]
    return "\n".join(lines)


def _calendars(schedule: Schedule) -> str:
    """Return lines for the usual opening, and for days on which summer time skips it; `--once` runs the job once."""
    times = (run_times(schedule.window), *schedule.late_openings)
    return "\n".join(f"OnCalendar={_calendar(schedule, each)}" for each in times)


def _calendar(schedule: Schedule, times: Times) -> str:
    days = "" if times.every_day else ",".join(DAYS[day].capitalize() for day in times.days) + " "
    return f"{days}*-*-* {times.clock}:00 {schedule.window.timezone}"


def _plain(value: str) -> str:
    """Return a setting's value so that systemd takes it literally: % is doubled, each backslash becomes _."""
    return value.replace("%", "%%").replace("\\", "_")


def _quoted(value: str) -> str:
    """Return a value as it stands between double quotes."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _word(value: str, *, program: bool = False) -> str:
    """Return one word of a command line; systemd fills in no variable in the first one, the program."""
    escaped = _quoted(value) if program else _quoted(value).replace("$", "$$")
    return escaped if re.fullmatch("[A-Za-z0-9_./:=@,+$%-]+", value) else f'"{escaped}"'
