"""Make the units by which a scheduler starts a job in its window, and find what they will not have at night."""

from __future__ import annotations

import os
import pwd
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from engine.api.actions import ACTIONS
from engine.cloud.proxy import BUNDLES, EXCEPTIONS, PROXIES
from engine.errors import UsageError
from engine.inputs.config import user_config
from engine.inputs.files import STDIN, homes_of, is_stream, load_job
from engine.inputs.settingtable import WITH_FLAG
from engine.inputs.window import Skipped, clock_text, skipped, zone_files
from engine.operations.earlier import place_of
from engine.operations.events import Tell, Warned
from engine.operations.unitfiles import then, write
from engine.outside.trust import read_regular
from engine.run.endings import orderly_end_s
from engine.schedule.envlines import READERS, EnvLines, read_as
from engine.schedule.units import Schedule, Times, UnitFile, every_days, lasting_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.inputs.config import Configs
    from engine.inputs.job import Job
    from engine.inputs.settings import Settings
    from engine.operations.terms import Terms

ENV_FILE = "/etc/acctops/env"
"""Where keys are looked for unless another file is named; it may be missing."""
_DECIDING = ("TENCENTCLOUD_", "TCCLI_", "TKE_")
"""Prefixes of the variables that say who acts, or as whom."""
_AHEAD_DAYS = 5 * 366
"""How many days ahead changes of summer time are looked at; the rules of zones are seldom known further."""
_SKIPS_NAMED = 3
MOST_ENV = 1 << 20
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_.-]{0,31}|[0-9]{1,10}")
_EVERY = re.compile("[1-9][0-9]{0,3}[dhm]|[1-9][0-9]{0,2}d[1-9][0-9]?h")


class Wish(Struct, frozen=True, kw_only=True):
    """What a user asks of a schedule; texts are as typed."""

    form: str
    """systemd, cron or k8s."""
    user: str | None = None
    env_file: str | None = None
    every: str | None = None
    image: str | None = None


class Units(Struct, frozen=True, kw_only=True):
    """The files that start a job, and the schedule they are made from."""

    form: str
    schedule: Schedule
    files: tuple[UnitFile, ...]

    def write(self, into: str, tell: Tell) -> list[str]:
        """Write the files to a directory; return what was written, and what to type next."""
        directory = Path(_canonical(into))
        write(self.files, directory, self.schedule, tell)
        return then(self.form, self.schedule, self.files, directory)


def units_of(terms: Terms, job_path: str, wish: Wish) -> Units:
    """Return the units of a job; tell what they will not find at night."""
    if is_stream(job_path):
        raise UsageError(f"{job_path}: is a stream, and nobody is there to give it at night; put the job into a file")
    form, job = wish.form, load_job(job_path)
    settings = terms.settings(job)
    if form == "k8s" and wish.image is None:
        raise UsageError("--format k8s needs --image: the container image that has acctops, such as registry/acctops:1")
    program = ("acctops",) if form == "k8s" else _program()
    skips = list(skipped(job.window, terms.clock(), _AHEAD_DAYS)) if job.window is not None else []
    schedule = _schedule(job, terms, settings, program, skips, wish)
    about = [*_warnings(job, settings, schedule), *_of_keys(form, job, settings, schedule)]
    about += _of_times(form, schedule, skips)
    for warning in (*settings.warnings, *job.warnings, *about):
        terms.tell(Warned(warning, always=True))
    if form == "k8s":
        from engine.schedule import k8s

        for words in _not_mounted(job, settings):
            terms.tell(Warned(words, always=True))
        configs = terms.configs(*homes_of(job))
        files = k8s.files(schedule, _pod(schedule, settings, configs, job, str(wish.image)))
    elif form == "systemd":
        from engine.schedule import systemd

        files = systemd.files(schedule)
    else:
        from engine.schedule import cron

        try:
            files = cron.files(schedule)
        except ValueError as error:
            raise UsageError(f"{job.path}: {error}") from None
    return Units(form=form, schedule=schedule, files=tuple(files))


def _schedule(
    job: Job,
    terms: Terms,
    settings: Settings,
    program: tuple[str, ...],
    skips: Sequence[Skipped],
    wish: Wish,
) -> Schedule:
    every, env_file = wish.every, wish.env_file
    if job.window is None:
        raise UsageError(
            f"{job.path}: has no window, so nothing says when it is to run; add: "
            'window: {days: [sat], from: "01:00", until: "05:00", timezone: Asia/Shanghai}'
        )
    if STDIN in (terms.config, job.path) or "standard input" in (job.path, *job.sources):
        raise UsageError(f"{job.path}: reads standard input, and nobody is there to give it; put the list into a file")
    if every is not None and not _EVERY.fullmatch(every):
        raise UsageError(f"--every {every}: expected a time such as 8d or 36h")
    named = _canonical(env_file or ENV_FILE)
    path = _canonical(job.path)
    common = _common(terms, settings)
    pause = every or f"{every_days(job.window)}d"
    schedule = Schedule(
        name=job.name,
        action=job.action,
        run=(*program, "run", path, "--yes", "--quiet", *common, *_sending(terms)),
        overdue=(*program, "overdue", path, "--every", pause, "--quiet", "--notify", *common),
        window=job.window,
        user=_user(wish.user),
        directory=str(Path(path).parent),
        job_file=path,
        env_file=named,
        env_file_may_miss=env_file is None,
        environment=_environment(),
        stop_s=orderly_end_s(settings.timeout_s),
        late_openings=_late_openings(skips),
        zone_file=_zone_file(job.window.timezone),
    )
    if "'" in schedule.run[0]:
        raise UsageError(f"{schedule.run[0]}: systemd starts no program with ' in its path; install it elsewhere")
    for said in (*schedule.run, schedule.directory, schedule.env_file, *schedule.environment.values()):
        if (problem := lasting_problem(said)) is not None:
            raise UsageError(f"{said!r} cannot stand in a unit: it {problem}; move or rename it")
    return schedule


def _canonical(path: str | Path) -> str:
    """Return a path that is valid at night: absolute, without `~` and `..`, which systemd refuses.

    The file's own name stays as typed: it may be a link that somebody moves on purpose. Links on the way stay, too,
    unless `..` leads out of one.
    """
    try:
        plain = Path(place_of(str(Path(path).expanduser())))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: the current directory is gone; type the whole path, or cd elsewhere") from error
    except RuntimeError as error:  # ~nobody
        raise UsageError(f"{path}: {error}") from error
    return str(plain if ".." not in plain.parts else plain.parent.resolve() / plain.name)


def _common(terms: Terms, settings: Settings) -> list[str]:
    """Return flags that say where state and config are: cron's directory is anywhere, its environment almost empty."""
    config = terms.config or os.environ.get("ACCTOPS_CONFIG")
    found = ["--state-dir", _canonical(settings.state_dir)]
    return [*found, "--config", _canonical(config)] if config else found


def _sending(terms: Terms) -> list[str]:
    """Return, as flags for the units, what else flags or the environment say here."""
    found: list[str] = []
    for flag, several in (("endpoint", terms.endpoints), ("profile", terms.profiles)):
        variable = os.environ.get(f"ACCTOPS_{flag.upper()}", "").split(",")
        for each in several or filter(None, map(str.strip, variable)):
            found += [f"--{flag}", each]
    for flag in WITH_FLAG:
        if said := getattr(terms, flag) or os.environ.get(f"ACCTOPS_{flag.upper()}"):
            found += [f"--{flag}", said]
    return found


def _program() -> tuple[str, ...]:
    """Return the command that runs now, by its absolute path: PATH is short at night."""
    python = Path(_canonical(sys.executable))
    script = python.with_name("acctops")
    return (str(script),) if os.access(script, os.X_OK) else (str(python), "-m", "engine")


def _user(said: str | None) -> str:
    if said is not None and not _NAME.fullmatch(said):
        raise UsageError(f"--user {said}: expected the name or the number of a user")
    if said is not None:
        return said
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _environment() -> dict[str, str]:
    """Return XDG_CONFIG_HOME, if it is set and the user's own config lies there; else nothing."""
    base = os.environ.get("XDG_CONFIG_HOME")
    path = user_config(os.environ)
    return {"XDG_CONFIG_HOME": base} if base and path is not None and path.is_file() else {}


def _warnings(job: Job, settings: Settings, schedule: Schedule) -> list[str]:
    found = []
    home = user_config(os.environ)
    if home is not None and home.is_file() and schedule.user not in (_user(None), str(os.getuid())):
        found.append(f"{home}: is your own config; {schedule.user} will not see its guards; move it to /etc/acctops")
    if settings.notify is None:
        found.append("no `notify` in job or config: a bad night shows only where the scheduler reports it")
    if ACTIONS[job.action].keeps_out and not settings.protect and not settings.protect_waived:
        found.append("no protect rule holds: name your break-glass accounts before nobody is there")
    if job.hold is not None and job.hold.until is not None:
        again = "a job that starts again and again says hold: {for: …}"
        found.append(f"{job.hold.place}: {job.hold.said}: each start after that time is refused; {again}")
    return found


def _of_keys(form: str, job: Job, settings: Settings, schedule: Schedule) -> Iterator[str]:
    """Yield what is wrong with keys and network variables: set in this shell only, or not read as they look."""
    env_file = schedule.env_file
    there = _env_lines(form, schedule)
    if isinstance(there, str):
        yield f"{env_file}: {there}"
    elif there is not None:
        with_others = Path(env_file).stat().st_mode & 0o077
        if with_others:
            yield f"{env_file}: others can read these keys; chmod 600"
        for line, words in there.problems:
            yield f"{env_file}:{line}: {words} ({READERS[form]} reads it)"
    elif not schedule.env_file_may_miss:
        yield f"{env_file}: does not exist yet; NAME=value lines such as TENCENTCLOUD_SECRET_ID=…"
    names = there.names if isinstance(there, EnvLines) else frozenset[str]()
    for name in _asked_for(job, settings):
        if os.environ.get(name, "").strip() and name not in names:
            or_else = ", or under `network` in a config" if name in (*PROXIES, *EXCEPTIONS, *BUNDLES) else ""
            yield f"{name}: set in this shell, and not at night; say what is needed in {env_file}{or_else}"


def _asked_for(job: Job, settings: Settings) -> list[str]:
    """Return the variables that say who acts, how the network is reached, what new passwords are, and who is told."""
    deciding = sorted(name for name in os.environ if name.startswith(_DECIDING) and not name.endswith("_REGION"))
    own = [job.passwords.env if job.passwords is not None else "", settings.notify.url_env if settings.notify else ""]
    return [*dict.fromkeys((*deciding, *PROXIES, *EXCEPTIONS, *BUNDLES, *filter(None, own)))]


def _env_lines(form: str, schedule: Schedule) -> EnvLines | str | None:
    """Return the file of keys as the scheduler will read it, or why it cannot be read; None if there is no file."""
    try:
        data = read_regular(Path(schedule.env_file), MOST_ENV)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"cannot be read here: {getattr(error, 'strerror', None) or error}"
    return read_as(form, data) if len(data) <= MOST_ENV else f"is larger than {MOST_ENV >> 20} MiB"


def _late_openings(skips: Sequence[Skipped]) -> tuple[Times, ...]:
    by_minute: dict[int, set[int]] = {}
    for each in skips:
        if each.opens is not None:
            day, minute = each.opens
            by_minute.setdefault(minute, set()).add(day)
    return tuple(Times(tuple(sorted(days)), minute) for minute, days in sorted(by_minute.items()))


def _of_times(form: str, schedule: Schedule, skips: Sequence[Skipped]) -> Iterator[str]:
    """Yield warnings of nights on which summer time skips the window or its opening, and of an unknown time zone."""
    window = schedule.window
    none = [f"{each.day}" for each in skips if each.opens is None]
    if none:
        more = f" and {len(none) - _SKIPS_NAMED} more" if len(none) > _SKIPS_NAMED else ""
        yield (
            f"{window.place}: the clock of {window.timezone} skips the whole window on "
            f"{', '.join(none[:_SKIPS_NAMED])}{more}: no run then, as `acctops overdue` will tell"
        )
    late = [f"{each.day} at {clock_text(each.opens[1])}" for each in skips if each.opens is not None]
    if late:
        yield (
            f"{window.place}: the clock of {window.timezone} skips the window's opening on "
            f"{', '.join(late[:_SKIPS_NAMED])}: it opens then, and the job starts then"
        )
    if form != "k8s" and schedule.zone_file and not Path(schedule.zone_file).exists():
        then = "cron starts nothing, and tells of it every day" if form == "cron" else "systemd refuses the timer"
        yield f"{window.timezone}: not known to this system's clock ({schedule.zone_file}): {then}; install tzdata"


def _zone_file(zone: str) -> str:
    """Return the file by which the system's `date` knows a zone, or the place where it should be; empty for UTC."""
    places = zone_files(zone)
    return next((place for place in places if Path(place).exists()), "".join(places[-1:]))


def _pod(schedule: Schedule, settings: Settings, configs: Configs, job: Job, image: str) -> Any:  # Any: k8s.Pod
    from engine.schedule.k8s import Pod

    if schedule.user.isdigit():
        number = int(schedule.user)
    else:
        try:
            number = pwd.getpwnam(schedule.user).pw_uid
        except KeyError as error:
            raise UsageError(f"--user {schedule.user}: no such user here; name the container's by number") from error
    if number == 0:
        raise UsageError("a container should not run as root: give --user, the number of another user of the image")
    mounted = [job.path, *job.sources, *(config.path for config in configs.files)]
    paths = tuple(dict.fromkeys(map(_canonical, mounted)))
    for path in paths:
        if (problem := lasting_problem(path)) is not None:
            raise UsageError(f"{path!r} cannot be mounted: it {problem}; move or rename it")
    return Pod(image=image, user_id=number, state_dir=_canonical(settings.state_dir), mounted=paths)


def _not_mounted(job: Job, settings: Settings) -> list[str]:
    """Return in words what a container will not find: secrets do not belong in a ConfigMap."""
    found = []
    notify = settings.notify
    if notify is not None and notify.url_file:
        found.append(
            f"{settings.origin['notify']}: notify.webhook.url_file is not in the pod; use url_env and acctops-env"
        )
    if notify is not None and "/" in "".join(notify.command[:1]):
        found.append(f"{settings.origin['notify']}: notify.command {notify.command[0]} must be in the image")
    if job.passwords is not None and not job.passwords.env:
        found.append(f"{job.passwords.place}: the source of passwords is not in the pod")
    if settings.profiles:
        named = ", ".join(settings.profiles)
        found.append(f"profile {named} ({settings.origin['profiles']}) is not in the pod; give keys as env")
    if settings.way_out.ca_bundle and settings.origin["ca_bundle"] not in BUNDLES:
        found.append(
            f"{settings.origin['ca_bundle']}: network.ca_bundle {settings.way_out.ca_bundle} must be in the image"
        )
    if settings.metrics_file is not None:
        found.append(f"{settings.origin['metrics_file']}: nobody scrapes metrics_file in a pod")
    return found
