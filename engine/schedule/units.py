"""What a scheduler starts: a job, `tend`, a worker; when, and as which user. No I/O, no clock."""

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
"""The beginning of a file of ours, which may be replaced for the same job."""
OF = "# Of the job file "
"""The beginning of its second line; the path of the job file follows."""
OF_STATE = "# Of the state directory "
"""The beginning of the second line in a file that is for all jobs of a state directory; its path follows."""
ONCE = "--once"
"""The flag of `run` that makes all starts but the first in an opening of the window do nothing."""
QUARTER = 15
"""Minutes: the offset of every time zone is a multiple of this."""
CHECK_AFTER = 60
"""Minutes after the window's end at which to check whether the job was done."""
TEND_MINUTES = 5
"""Minutes between two starts of `tend`: the offset of every time zone is a multiple of this, too."""
TEND_UNIT = "acctops-tend"
"""Name of the units of `tend`: one set serves all jobs of a state directory."""
WORKER_UNIT = "acctops-worker"
"""Name of the units of workers: one set serves all runs of a database."""
READY_FILE = "/tmp/acctops-ready"  # noqa: S108  # in a container, whose /tmp is its own
"""The file that a worker in a container touches each second while it is ready."""
_AGE = f'"$(($(date +%s) - $(stat -c %Y {READY_FILE})))"'
IS_READY = f"[ {_AGE} -lt 15 ]"
"""The shell's test that a worker is ready; also false for one that hangs, and left its file behind."""
IS_ALIVE = f"[ ! -e {READY_FILE} ] || [ {_AGE} -lt 60 ]"
"""That it does not hang: one whose database is gone has no such file, and goes on by itself."""
REPLICAS = 3
"""Workers that Kubernetes and compose start: one may be lost or replaced, and two share the work."""
_TAKEN = (TEND_UNIT, f"{TEND_UNIT}-overdue", WORKER_UNIT, f"{WORKER_UNIT}-overdue")
_MOST_NAME = 36
"""Most characters of the job's part: a CronJob's name has at most 52, with `acctops-` and `-overdue`."""


class Times(NamedTuple):
    """The times of a start, on the clock of the window's zone: days (0 is Monday) and minute of the day.

    A start is in time for `length` minutes from then on.
    """

    days: tuple[int, ...]
    minute: int
    length: int = QUARTER

    @property
    def clock(self) -> str:
        """The minute of the day as a clock shows it: `01:00`."""
        return clock_text(self.minute)

    @property
    def every_day(self) -> bool:
        """Whether `days` has all days of the week."""
        return len(self.days) == len(DAYS)


class Started(Struct, frozen=True, kw_only=True):
    """What a scheduler starts, and the environment in which it does."""

    overdue: tuple[str, ...] = ()
    """The command that checks whether it was done: the program (an absolute path except in a container), arguments.

    Empty: nothing checks.
    """
    user: str
    """Name or number of the user that it runs as."""
    directory: str
    """Absolute path of the working directory."""
    env_file: str
    """Absolute path of a file of NAME=value lines."""
    env_file_may_miss: bool
    environment: Mapping[str, str] = {}
    """Further variables that have to be set, as a scheduler does not set them."""
    stop_s: int = 60
    """Seconds that an orderly end may take after SIGTERM."""

    @property
    def unit(self) -> str:
        """The name of its units, which every scheduler accepts."""
        raise NotImplementedError

    @property
    def of(self) -> str:
        """The second line of its files, which says whose they are."""
        raise NotImplementedError

    @property
    def words(self) -> tuple[str, ...]:
        """All that is written into units as it is."""
        return (*self.overdue, self.directory, self.env_file, *self.environment.values())

    def head(self, what: str) -> str:
        """Return the first lines of a file: that acctops made it, `what` it is for, and whose it is."""
        return f"{MADE}: {what}.\n{self.of}"


class Schedule(Started, frozen=True, kw_only=True):
    """A job that is run in its window, and the command that checks whether it was."""

    name: str
    """Name of the job, as written."""
    action: str
    run: tuple[str, ...]
    window: Window
    job_file: str
    """Absolute path of the job file; its directory is the working directory."""
    late_openings: tuple[Times, ...] = ()
    """When the window opens on days on which the clock skips its usual time (`window.skipped`)."""
    zone_file: str = ""
    """The file that `date` needs for the window's time zone; empty if it needs none."""

    @property
    def unit(self) -> str:
        """As said above.

        Without the letters that no scheduler accepts, `开启CAM` and `关闭CAM` would be alike: a hash tells them apart.
        It also tells a job that is called `tend` or `worker` from these.
        """
        name = self.name
        slug = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
        is_plain = name.isascii() and slug and f"acctops-{slug}" not in _TAKEN
        mark = "" if is_plain else f"-{sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
        return f"acctops-{slug[: _MOST_NAME - len(mark)].strip('-') or 'job'}{mark}"

    @property
    def of(self) -> str:
        """The job file."""
        return f"{OF}{self.job_file}"

    @property
    def words(self) -> tuple[str, ...]:
        """All that is written into units as it is."""
        return (*self.run, *super().words)

    @property
    def run_once(self) -> tuple[str, ...]:
        """The command to use if several starts can come in one opening of the window."""
        return (*self.run, ONCE)


class ForAll(Started, frozen=True, kw_only=True):
    """What serves all runs of a state directory. Nothing in it is of one job, so all its jobs have the same units."""

    state_dir: str
    """Absolute path of the state directory; with a database its URL, without the user's name."""

    @property
    def command(self) -> str:
        """The command of acctops that it starts, for a message."""
        raise NotImplementedError

    @property
    def of(self) -> str:
        """The state directory."""
        return f"{OF_STATE}{self.state_dir}"


class Tending(ForAll, frozen=True, kw_only=True):
    """What is due after runs, done every few minutes, and the command that checks whether it is."""

    tend: tuple[str, ...]

    @property
    def unit(self) -> str:
        """The same for every state directory."""
        return TEND_UNIT

    @property
    def command(self) -> str:
        """As said above."""
        return "acctops tend"

    @property
    def words(self) -> tuple[str, ...]:
        """All that is written into units as it is."""
        return (*self.tend, *super().words)


class Working(ForAll, frozen=True, kw_only=True):
    """A worker, which is started at once, and again when it has ended."""

    work: tuple[str, ...]
    migrate: tuple[str, ...]
    """The command that makes the tables of a database; its `--database` is to be added."""

    @property
    def unit(self) -> str:
        """The same for every database."""
        return WORKER_UNIT

    @property
    def command(self) -> str:
        """As said above."""
        return "acctops worker"

    @property
    def words(self) -> tuple[str, ...]:
        """All that is written into units as it is."""
        return (*self.work, *super().words)


class UnitFile(NamedTuple):
    """One file of a schedule."""

    name: str
    text: str


def run_times(window: Window) -> Times:
    """Return when to start: from the opening on, as long as the window is open."""
    return Times(window.days, window.start, minutes_open(window))


def check_times(window: Window) -> Times:
    """Return when to check whether the job is overdue: every day, an hour after the window's end."""
    return Times(tuple(range(len(DAYS))), (window.until + CHECK_AFTER) % MIDNIGHT)


def every_days(window: Window) -> int:
    """Return the days without a good run after which a job is overdue: the longest pause between windows, plus one."""
    week = len(DAYS)
    following = (*window.days[1:], window.days[0] + week)
    return max(after - day for day, after in zip(window.days, following, strict=True)) + 1


def minutes_open(window: Window) -> int:
    """Return the length of the window in minutes, as its clock shows it."""
    return (window.until - window.start - 1) % MIDNIGHT + 1


def check_minutes() -> tuple[int, ...]:
    """Return the minutes of an hour at which to check whether `tend` works: when one that just began can have ended."""
    return tuple(range(2, 60, QUARTER))


def job_file_of(text: str) -> str | None:
    """Return the job file that a unit file of ours is for; None if it names none, as those of older versions do not."""
    return _of(text, OF)


def state_dir_of(text: str) -> str | None:
    """Return the state directory that a unit file of ours is for; None if it is for none, but for a job."""
    return _of(text, OF_STATE)


def _of(text: str, mark: str) -> str | None:
    second = text.split("\n", 2)[1:2]
    return second[0].removeprefix(mark) if second and second[0].startswith(mark) else None


def lasting_problem(path: str) -> str | None:
    """Return why a path cannot be written into units of every kind, in words; None if it can."""
    if not path.isprintable() or path != path.strip():
        return "holds a control character, or begins or ends with a space"
    odd = next((sign for sign in '\\*?[]"' if sign in path), None)
    return f"holds {odd}, which units read otherwise" if odd is not None else None
