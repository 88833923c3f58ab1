"""What is to be started, when, and by whom, whatever starts it. No I/O, no clock."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from engine.inputs.window import DAYS, MIDNIGHT, clock_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.inputs.window import Window

MADE = "# Made by `acctops schedule`"
"""How a file of ours begins: such a one may be written anew for the same job."""
OF = "# Of the job file "
"""How its second line begins; the job's path follows."""
ONCE = "--once"
"""The flag of `run` that lets several starts meet one opening of a window."""
QUARTER = 15
"""Minutes: what offsets of zones are multiples of."""
CHECK_AFTER = 60
"""Minutes after the window's end at which to look whether it was done."""
_MOST_NAME = 36
"""Characters: a CronJob's name has at most 52, `acctops-` and `-overdue` are added."""


class Times(NamedTuple):
    """Days (0 is Monday) and minute of the day, on the clock of the window's zone; and for how many minutes from then
    on a start is in time.
    """

    days: tuple[int, ...]
    minute: int
    length: int = QUARTER

    @property
    def clock(self) -> str:
        """`01:00`."""
        return clock_text(self.minute)

    @property
    def every_day(self) -> bool:
        """Whether it is on all days."""
        return len(self.days) == len(DAYS)


class Schedule(Struct, frozen=True, kw_only=True):
    """A job that is to be run in its window, and the command that looks whether that happened."""

    name: str
    """Of the job, as written."""
    action: str
    run: tuple[str, ...]
    """Program, an absolute path but in a container, and arguments."""
    overdue: tuple[str, ...]
    window: Window
    user: str
    """Name or number of the user it runs as."""
    directory: str
    """Where it works: the job's, absolute."""
    job_file: str
    """The job's file, absolute."""
    env_file: str
    """File of NAME=value lines, absolute."""
    env_file_may_miss: bool
    environment: Mapping[str, str] = {}
    """What else has to be set, as a bare environment lacks it."""
    stop_s: int = 60
    """Seconds that an orderly end may take after SIGTERM."""
    late_openings: tuple[Times, ...] = ()
    """When the window opens on days on which the clock skips its usual time (`window.skipped`)."""
    zone_file: str = ""
    """What `date` needs to know the window's zone; empty: it needs nothing."""

    @property
    def unit(self) -> str:
        """The name of its units: what every scheduler takes, and another one for a job of another name.

        Letters that no scheduler takes would leave `开启CAM` and `关闭CAM` alike: a hash of the name tells them apart.
        """
        name = self.name
        slug = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
        mark = "" if name.isascii() and slug else f"-{sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
        return f"acctops-{slug[: _MOST_NAME - len(mark)].strip('-') or 'job'}{mark}"

    def head(self, what: str) -> str:
        """The first lines of a file: that we made it, for which job, and from which job file."""
        return f"{MADE}: {what}.\n{OF}{self.job_file}"

    @property
    def run_once(self) -> tuple[str, ...]:
        """The command of a start that is not the only one in an opening."""
        return (*self.run, ONCE)


class UnitFile(NamedTuple):
    """One file of a schedule."""

    name: str
    text: str


def run_times(window: Window) -> Times:
    """When to start: from the opening on, as long as the window is open."""
    return Times(window.days, window.start, minutes_open(window))


def check_times(window: Window) -> Times:
    """When to look whether it is overdue: every day, an hour after the window's end."""
    return Times(tuple(range(len(DAYS))), (window.until + CHECK_AFTER) % MIDNIGHT)


def every_days(window: Window) -> int:
    """After how many days without a good run something is wrong: the longest pause between two windows, and a day."""
    week = len(DAYS)
    following = (*window.days[1:], window.days[0] + week)
    return max(after - day for day, after in zip(window.days, following, strict=True)) + 1


def minutes_open(window: Window) -> int:
    """How long the window is, by the clock on its wall."""
    return (window.until - window.start - 1) % MIDNIGHT + 1


def job_file_of(text: str) -> str | None:
    """The job file whose unit a file of ours is; None if it does not say, as files of older versions do not."""
    second = text.split("\n", 2)[1:2]
    return second[0].removeprefix(OF) if second and second[0].startswith(OF) else None


def lasting_problem(path: str) -> str | None:
    """Why a path cannot be written into a unit of every kind, in words; None if it can."""
    if not path.isprintable() or path != path.strip():
        return "holds a control character, or begins or ends with a space"
    odd = next((sign for sign in '\\*?[]"' if sign in path), None)
    return f"holds {odd}, which units read otherwise" if odd is not None else None
