"""Writes systemd units: a service and its timer for the run or `tend`, and for the check; a service for a worker.

Rules for quoting: systemd.syntax(7), systemd.service(5) "Command lines", systemd.unit(5) "Specifiers".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.inputs.window import DAYS
from engine.schedule.units import (
    QUARTER,
    TEND_MINUTES,
    Schedule,
    Started,
    Tending,
    Times,
    UnitFile,
    Working,
    check_times,
    run_times,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_FILES = 65_536
"""Files that a worker may open: a connection for each call in flight of each lane."""


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
{_ending(schedule)}
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


def tend_files(tending: Tending) -> list[UnitFile]:
    """Return service and timer of `tend`, service and timer of the check."""
    unit, check = tending.unit, f"{tending.unit}-overdue"
    return [
        UnitFile(f"{unit}.service", _tend_service(tending)),
        UnitFile(f"{unit}.timer", _tend_timer(tending)),
        UnitFile(f"{check}.service", _tend_check_service(tending)),
        UnitFile(f"{check}.timer", _tend_check_timer(tending)),
    ]


def _tend_service(tending: Tending) -> str:
    return f"""\
{tending.head("does what is due after runs, such as opening accounts whose time is up")}
[Unit]
Description={_plain(f"acctops tend, for {tending.state_dir}")}
Wants=network-online.target
After=network-online.target

[Service]
{_how(tending, tending.tend)}
{_ending(tending)}
"""


def _tend_timer(tending: Tending) -> str:
    return f"""\
{tending.head(f"does what is due after runs, every {TEND_MINUTES} minutes")}
[Unit]
Description={_plain(f"Starts acctops tend, for {tending.state_dir}")}

[Timer]
OnCalendar=*:0/{TEND_MINUTES}
AccuracySec=1s
# Missed while the machine was off: made up for as soon as it is on. A timer never starts a service that still runs.
Persistent=true

[Install]
WantedBy=timers.target
"""


def _tend_check_service(tending: Tending) -> str:
    return f"""\
{tending.head("fails if what is due after runs is not done any more")}
[Unit]
Description={_plain(f"Is acctops tend overdue, for {tending.state_dir}?")}

[Service]
{_how(tending, tending.overdue)}
"""


def _tend_check_timer(tending: Tending) -> str:
    return f"""\
{tending.head(f"looks every {QUARTER} minutes whether what is due after runs is done")}
[Unit]
Description={_plain(f"Looks whether acctops tend is overdue, for {tending.state_dir}")}

[Timer]
# From the boot, or from when this timer is enabled: by then the first tend has ended, and a start is no alarm.
OnActiveSec={QUARTER}min
OnUnitActiveSec={QUARTER}min
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def worker_files(working: Working) -> list[UnitFile]:
    """Return the service of a worker: one a host."""
    return [UnitFile(f"{working.unit}.service", _worker_service(working))]


def _worker_service(working: Working) -> str:
    return f"""\
{working.head("carries out the runs of a database, together with the workers of other hosts")}
[Unit]
Description={_plain(f"acctops worker, for {working.state_dir}")}
Wants=network-online.target
After=network-online.target
# However often it ends, it is started again: the database may be gone for a night.
StartLimitIntervalSec=0

[Service]
{_how(working, working.work, kind="exec")}
{_ending(working)}
# Exit 75: another worker has taken its lanes, as it was silent for too long. It is started anew, as after a crash.
Restart=on-failure
RestartForceExitStatus=75
RestartSec=2s
LimitNOFILE={_MOST_FILES}
UMask=0077
NoNewPrivileges=yes
ProtectSystem=full
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictSUIDSGID=yes
LockPersonality=yes

[Install]
WantedBy=multi-user.target
"""


def _ending(started: Started) -> str:
    return f"""\
# SIGTERM goes to acctops alone: it drains, records what is in flight, and leaves a journal to resume.
KillMode=mixed
TimeoutStopSec={started.stop_s}"""


def _how(started: Started, command: Sequence[str], *, kind: str = "oneshot") -> str:
    optional = "-" if started.env_file_may_miss else ""
    lines = [
        f"Type={kind}",
        f"User={started.user}",
        f"WorkingDirectory={_plain(started.directory)}",
        f"EnvironmentFile={optional}{_plain(started.env_file)}",
        *(f'Environment="{name}={_quoted(value)}"' for name, value in started.environment.items()),
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
