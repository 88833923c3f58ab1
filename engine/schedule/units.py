"""Rules, floor 1: what is to be started, when, and by whom, whatever starts it. No I/O, no clock."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from engine.window import DAYS, MIDNIGHT, clock_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.window import Window

MADE = "# Made by `acctops schedule`"
"""How a file of ours begins: such a one may be written anew."""
CHECK_AFTER = 60
"""Minutes after the window's end at which to look whether it was done."""
_MOST_NAME = 36
"""Characters: a CronJob's name has at most 52, `acctops-` and `-overdue` are added."""


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
    env_file: str
    """File of NAME=value lines, absolute."""
    env_file_may_miss: bool
    environment: Mapping[str, str] = {}
    """What else has to be set, as a bare environment lacks it."""

    @property
    def unit(self) -> str:
        """The name of its units: what every scheduler takes."""
        return f"acctops-{re.sub('[^a-z0-9]+', '-', self.name.lower())[:_MOST_NAME].strip('-') or 'job'}"


class UnitFile(NamedTuple):
    """One file of a schedule."""

    name: str
    text: str


class Times(NamedTuple):
    """Days (0 is Monday) and minute of the day, on the clock of the window's zone."""

    days: tuple[int, ...]
    minute: int

    @property
    def clock(self) -> str:
        """`01:00`."""
        return clock_text(self.minute)

    @property
    def every_day(self) -> bool:
        """Whether it is on all days."""
        return len(self.days) == len(DAYS)


def run_times(window: Window) -> Times:
    """When to start."""
    return Times(window.days, window.start)


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


def lasting_problem(path: str) -> str | None:
    """Why a path cannot be written into a unit of every kind, in words; None if it can."""
    if not path.isprintable() or path != path.strip():
        return "holds a control character, or begins or ends with a space"
    odd = next((sign for sign in '\\*?[]"' if sign in path), None)
    return f"holds {odd}, which units read otherwise" if odd is not None else None
