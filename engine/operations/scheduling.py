"""Make the units by which a scheduler starts a job in its window, and find what they will not have at night.

With them go the units of `tend`, which does what is due after runs: one set serves all jobs of a state directory. And
units of workers, which are kept going.
"""

from __future__ import annotations

import os
import pwd
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.cloud.proxy import BUNDLES, EXCEPTIONS, PROXIES
from engine.errors import UsageError
from engine.inputs.config import NAME, user_config
from engine.inputs.files import STDIN, homes_of, is_stream, load_job
from engine.inputs.settings import Flags, effective
from engine.inputs.settingtable import WITH_FLAG
from engine.inputs.window import Skipped, clock_text, skipped, zone_files
from engine.operations.drafts import check_soaks
from engine.operations.earlier import place_of
from engine.operations.events import Tell, Warned
from engine.operations.overdue import TEND_EVERY
from engine.operations.unitfiles import then, write
from engine.outside.foreign import pasted
from engine.outside.trust import read_regular
from engine.run.endings import orderly_end_s
from engine.schedule.envlines import READERS, EnvLines, read_as
from engine.schedule.units import (
    READY_FILE,
    ForAll,
    Schedule,
    Started,
    Tending,
    Times,
    UnitFile,
    Working,
    every_days,
    lasting_problem,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.inputs.job import Job
    from engine.inputs.settings import Settings
    from engine.operations.terms import Terms
    from engine.schedule.k8s import Pod

ENV_FILE = "/etc/acctops/env"
"""Where keys are looked for unless another file is named; it may be missing."""
_DECIDING = ("TENCENTCLOUD_", "TCCLI_", "TKE_")
"""Prefixes of the variables that say who acts, or as whom."""
_AHEAD_DAYS = 5 * 366
"""How many days ahead changes of summer time are looked at; the rules of zones are seldom known further."""
_SKIPS_NAMED = 3
MOST_ENV = 1 << 20
_LIBPQ = ("PGHOST", "PGPORT", "PGUSER", "PGSERVICE", "PGSSLMODE", "PGGSSENCMODE", "PGCHANNELBINDING")
"""Variables that say which database is meant, and as which role: they go into the units."""
_LIBPQ_FILES = ("PGSERVICEFILE", "PGPASSFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY")
"""Variables that name files of this machine, likewise, where the units are for this machine."""
_IN_CONTAINERS = ("k8s", "compose")
"""The formats whose programs run in containers."""
_HOST_ID = "ACCTOPS_HOST_ID"
"""The variable with the name of this host, to which a state directory belongs."""
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_.-]{0,31}|[0-9]{1,10}")
_EVERY = re.compile("[1-9][0-9]{0,3}[dhm]|[1-9][0-9]{0,2}d[1-9][0-9]?h")


class Wish(Struct, frozen=True, kw_only=True):
    """What a user asks of a schedule; texts are as typed."""

    form: str
    """systemd, cron, k8s or compose."""
    user: str | None = None
    env_file: str | None = None
    every: str | None = None
    image: str | None = None
    no_tend: bool = False
    """Whether the units of a job go without those of `tend`."""
    lanes: int | None = None
    """How many lanes a worker may have at a time."""
    programs: tuple[str, ...] = ()
    """What a worker runs if a run names it."""


class Units(Struct, frozen=True, kw_only=True):
    """The files that start a job and `tend`, one of them, or a worker, and what they are made from."""

    form: str
    schedule: Schedule | None
    files: tuple[UnitFile, ...]
    """Those of the job."""
    common: ForAll | None
    common_files: tuple[UnitFile, ...]
    """Those of `tend`, or of workers."""
    wish: Wish

    @property
    def all_files(self) -> tuple[UnitFile, ...]:
        """Those of the job, then those of `tend` or of workers."""
        return (*self.files, *self.common_files)

    def write(self, into: str, tell: Tell) -> list[str]:
        """Write the files to a directory; return what was written, and what to type next."""
        directory = Path(_canonical(into))
        again = _again(self.common, self.wish, directory) if isinstance(self.common, Tending) else ""
        write(self.files, self.common_files, directory, self.schedule, self.common, again, tell)
        return then(self.form, self.all_files, directory)


def units_of(terms: Terms, job_path: str, wish: Wish) -> Units:
    """Return the units of a job, and those of `tend`; tell what they will not find at night."""
    if is_stream(job_path):
        raise UsageError(f"{job_path}: is a stream, and nobody is there to give it at night; put the job into a file")
    form, job = wish.form, load_job(job_path)
    settings = terms.settings(job)
    check_soaks(job, terms)
    _need_image(wish)
    skips = list(skipped(job.window, terms.clock(), _AHEAD_DAYS)) if job.window is not None else []
    schedule = _schedule(job, terms, settings, skips, wish)
    folder = Path(schedule.directory)
    tending = _tending(terms, folder, settings, TEND_EVERY, wish) if not wish.no_tend else None
    about = [*_warnings(job, settings, schedule), *_of_keys(form, job, settings, schedule)]
    about += [*_of_times(form, schedule, skips), *_not_mounted(form, job, settings)]
    if tending is not None and settings.notify is not None:
        about += _untold(_settings_of_tend(terms, folder, settings))
    for warning in (*settings.warnings, *job.warnings, *about):
        terms.tell(Warned(warning, always=True))
    configs = terms.configs(*homes_of(job)).files
    mounted = [job.path, *job.sources, *(config.path for config in configs)]
    return Units(
        form=form,
        schedule=schedule,
        files=_files(schedule, settings, mounted, job.path, wish),
        common=tending,
        common_files=_files_of_all(tending, terms, folder, settings, wish) if tending is not None else (),
        wish=wish,
    )


def tend_units_of(terms: Terms, wish: Wish) -> Units:
    """Return the units of `tend` alone, by what holds in the current directory; tell likewise."""
    form, folder, settings = wish.form, _here(), terms.settings(None)
    _need_image(wish)
    _check_every(wish.every)
    tending = _tending(terms, folder, settings, wish.every or TEND_EVERY, wish)
    about = [*_of_own_config(tending), *_of_keys(form, None, settings, tending)]
    about += [*_not_mounted(form, None, settings), *_untold(settings)]
    for warning in (*settings.warnings, *about):
        terms.tell(Warned(warning, always=True))
    files = _files_of_all(tending, terms, folder, settings, wish)
    return Units(form=form, schedule=None, files=(), common=tending, common_files=files, wish=wish)


def worker_units_of(terms: Terms, wish: Wish) -> Units:
    """Return the units of a worker, by what holds in the current directory; tell what it will not find.

    A compose file has a database of its own, whatever config and environment say. UsageError if there is none.
    """
    form, folder, settings = wish.form, _here(), terms.settings(None)
    if form == "cron":
        raise UsageError("--worker keeps a process going, and cron does not: --format systemd, k8s or compose")
    _need_image(wish)
    if form == "compose":
        from engine.schedule.compose import WORKER_URL

        settings = replace(settings, database=WORKER_URL)
    if settings.database is None:
        raise UsageError("a worker takes its work from a database: add --database URL")
    working = _working(terms, folder, settings, wish)
    about = [*_of_own_config(working), *_of_keys(form, None, settings, working), *_not_mounted(form, None, settings)]
    if form in _IN_CONTAINERS:
        about += [f"--program {name} must be in the image" for name in wish.programs]
    for warning in (*settings.warnings, *about):
        terms.tell(Warned(warning, always=True))
    files = _files_of_all(working, terms, folder, settings, wish)
    return Units(form=form, schedule=None, files=(), common=working, common_files=files, wish=wish)


def _files_of_all(common: ForAll, terms: Terms, folder: Path, settings: Settings, wish: Wish) -> tuple[UnitFile, ...]:
    mounted = [config.path for config in terms.configs(folder).files]
    return _files(common, settings, mounted, common.command, wish)


def _files(started: Started, settings: Settings, mounted: Sequence[str], what: str, wish: Wish) -> tuple[UnitFile, ...]:
    """Return the files in the format that is asked for; `mounted` is for containers, `what` for an error."""
    if wish.form in _IN_CONTAINERS:
        return tuple(_in_containers(started, _pod(started, settings, mounted, str(wish.image)), wish.form))
    if wish.form == "systemd":
        from engine.schedule import systemd

        match started:
            case Schedule():
                return tuple(systemd.files(started))
            case Tending():
                return tuple(systemd.tend_files(started))
            case Working():
                return tuple(systemd.worker_files(started))
    from engine.schedule import cron

    try:
        match started:
            case Schedule():
                return tuple(cron.files(started))
            case Tending():
                return tuple(cron.tend_files(started))
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None
    raise AssertionError(f"{wish.form} starts no {what}")


def _in_containers(started: Started, pod: Pod, form: str) -> list[UnitFile]:
    from engine.schedule import compose, k8s

    match started:
        case Schedule() if form == "k8s":
            return k8s.files(started, pod)
        case Tending() if form == "k8s":
            return k8s.tend_files(started, pod)
        case Working():
            return compose.worker_files(started, pod) if form == "compose" else k8s.worker_files(started, pod)
    raise UsageError(f"--format {form} is for workers alone: it starts nothing at set times")


def _need_image(wish: Wish) -> None:
    if wish.form in _IN_CONTAINERS and wish.image is None:
        raise UsageError(
            f"--format {wish.form} needs --image: the container image that has acctops, such as registry/acctops:1"
        )


def _check_every(every: str | None) -> None:
    if every is not None and not _EVERY.fullmatch(every):
        raise UsageError(f"--every {every}: expected a time such as 8d or 36h")


def _settings_of_tend(terms: Terms, folder: Path, settings: Settings) -> Settings:
    """Return what holds for `tend`: as for what lies in `folder`, but nothing that only a job or its flags say."""
    flags = Flags(config=terms.config, profiles=terms.profiles)
    return effective(flags, os.environ, None, terms.configs(folder))


def _tending(terms: Terms, folder: Path, settings: Settings, every: str, wish: Wish) -> Tending:
    """Return what the jobs of a state directory have in common.

    A profile of the environment stays there: for a run whose accounts name their own keys it counts for nothing, while
    the flag would be refused.
    """
    common, program = _common(terms, settings), _program(wish.form)
    profiles = [word for each in terms.profiles for word in ("--profile", each)]
    found = Tending(
        tend=(*program, "tend", "--quiet", *common, *profiles),
        overdue=(*program, "overdue", "--tend", "--every", every, "--quiet", "--notify", *common),
        state_dir=settings.kept_in if settings.database is not None else _canonical(settings.state_dir),
        directory=_home_of_configs(folder),
        stop_s=orderly_end_s(_settings_of_tend(terms, folder, settings).timeout_s),
        **_environs(wish, settings),
    )
    if not profiles and (said := _variable("profile")):
        found = replace(found, environment={**found.environment, "ACCTOPS_PROFILE": said})
    _check_words(found, settings)
    return found


def _working(terms: Terms, folder: Path, settings: Settings, wish: Wish) -> Working:
    """Return a worker; a profile of the environment stays there, as for `tend`."""
    program = _program(wish.form)
    profiles = [word for each in terms.profiles for word in ("--profile", each)]
    endpoints = [word for each in terms.endpoints for word in ("--endpoint", each)]
    lanes = ["--lanes", str(wish.lanes)] if wish.lanes is not None else []
    programs = [word for each in wish.programs for word in ("--program", each)]
    ready = ["--ready-file", READY_FILE] if wish.form in _IN_CONTAINERS else []
    found = Working(
        work=(*program, "worker", *_common(terms, settings), *lanes, *programs, *ready, *endpoints, *profiles),
        migrate=(*program, "database", "migrate"),
        state_dir=settings.kept_in,
        directory=_home_of_configs(folder),
        stop_s=orderly_end_s(settings.timeout_s),
        **_environs(wish, settings),
    )
    if not profiles and (said := _variable("profile")):
        found = replace(found, environment={**found.environment, "ACCTOPS_PROFILE": said})
    _check_words(found, settings)
    return found


def _here() -> Path:
    """Return the current directory as the shell names it: a link in it may be moved on purpose."""
    said = os.environ.get("PWD", "")
    with suppress(OSError):
        if Path(said).is_absolute() and ".." not in Path(said).parts and Path(said).samefile("."):
            return Path(said)
    return Path(_canonical("."))


def _home_of_configs(folder: Path) -> str:
    """Return the nearest folder above `folder` with a config, in which `tend` finds what a job there does; else /."""
    return next((str(above) for above in (folder, *folder.parents) if (above / NAME).is_file()), "/")


def _again(tending: Tending, wish: Wish, into: Path) -> str:
    """Return the command that makes the units of `tend` anew as they are here."""
    flags = tending.tend[tending.tend.index("--quiet") + 1 :]
    words = ["acctops", "schedule", "--tend", "--format", wish.form, *flags, "--user", tending.user]
    words += ["--env-file", tending.env_file] if wish.env_file is not None else []
    words += ["--image", wish.image] if wish.image is not None else []
    said = [f"{name}={pasted((value,))} " for name, value in tending.environment.items() if name.startswith("ACCTOPS_")]
    return f"cd {pasted((tending.directory,))} && {''.join(said)}{pasted((*words, '--into', str(into)))}"


def _schedule(job: Job, terms: Terms, settings: Settings, skips: Sequence[Skipped], wish: Wish) -> Schedule:
    if job.window is None:
        raise UsageError(
            f"{job.path}: has no window, so nothing says when it is to run; add: "
            'window: {days: [sat], from: "01:00", until: "05:00", timezone: Asia/Shanghai}'
        )
    if STDIN in (terms.config, job.path) or "standard input" in (job.path, *job.sources):
        raise UsageError(f"{job.path}: reads standard input, and nobody is there to give it; put the list into a file")
    _check_every(wish.every)
    path = _canonical(job.path)
    common = _common(terms, settings)
    pause = wish.every or f"{every_days(job.window)}d"
    program = _program(wish.form)
    schedule = Schedule(
        name=job.name,
        action=job.action,
        run=(*program, "run", path, "--yes", "--quiet", *common, *_sending(terms, job)),
        overdue=(*program, "overdue", path, "--every", pause, "--quiet", "--notify", *common),
        window=job.window,
        directory=str(Path(path).parent),
        job_file=path,
        stop_s=orderly_end_s(settings.timeout_s),
        late_openings=_late_openings(skips),
        zone_file=_zone_file(job.window.timezone),
        **_environs(wish, settings),
    )
    _check_words(schedule, settings)
    return schedule


def _environs(wish: Wish, settings: Settings) -> dict[str, Any]:
    """Return the fields of `Started` that are the same for whatever is started. Any: their values."""
    return {
        "user": _user(wish.user),
        "env_file": _canonical(wish.env_file or ENV_FILE),
        "env_file_may_miss": wish.env_file is None,
        "environment": _environment(wish.form, settings),
    }


def _check_words(started: Started, settings: Settings) -> None:
    """Raise UsageError for what cannot stand in a unit."""
    program = started.words[0]
    if "'" in program:
        raise UsageError(f"{program}: systemd starts no program with ' in its path; install it elsewhere")
    for said in started.words:
        # A URL is an argument, always quoted, and no path: its parameters begin with a question mark.
        plain = said.replace("?", "", 1) if said == settings.database else said
        if (problem := lasting_problem(plain)) is not None:
            raise UsageError(f"{said!r} cannot stand in a unit: it {problem}; move or rename it")


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
    if settings.database is not None:
        found = ["--database", settings.database]
    return [*found, "--config", _canonical(config)] if config else found


def _sending(terms: Terms, job: Job) -> list[str]:
    """Return, as flags for the units, what else flags or the environment say here, unless the job does not use it."""
    found: list[str] = []
    asked = {"endpoint": terms.endpoints} | ({} if job.accounts else {"profile": terms.profiles})
    for flag, several in asked.items():
        said = filter(None, map(str.strip, _variable(flag).split(",")))
        found += [word for each in several or said for word in (f"--{flag}", each)]
    for flag in WITH_FLAG:
        if said_once := getattr(terms, flag) or _variable(flag):
            found += [f"--{flag}", said_once]
    return found


def _variable(flag: str) -> str:
    return os.environ.get(f"ACCTOPS_{flag.upper()}", "")


def _program(form: str) -> tuple[str, ...]:
    """Return the command that runs now, by its absolute path, as PATH is short at night; in a container the name."""
    if form in _IN_CONTAINERS:
        return ("acctops",)
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


def _environment(form: str, settings: Settings) -> dict[str, str]:
    """Return the variables that have to be set at night, too.

    XDG_CONFIG_HOME, if it is set and the user's own config lies there; and the name of the host, if it is said, as in
    pods, which have none that lasts: there it is that of the volume. With a database what says where it is, which host
    this is does not matter, and a container has a directory for what is its own.
    """
    if form == "compose":
        from engine.schedule.compose import STATE_DIR

        return {"ACCTOPS_STATE_DIR": STATE_DIR}  # a database of its own, and the configs that it mounts
    found = {}
    if settings.database is not None:
        found = {name: os.environ[name] for name in _LIBPQ if os.environ.get(name)}
        if form not in _IN_CONTAINERS:
            found |= {name: _canonical(os.environ[name]) for name in _LIBPQ_FILES if os.environ.get(name)}
        else:
            found["ACCTOPS_STATE_DIR"] = _canonical(settings.state_dir)
    base = os.environ.get("XDG_CONFIG_HOME")
    path = user_config(os.environ)
    if base and path is not None and path.is_file():
        found["XDG_CONFIG_HOME"] = base
    host = os.environ.get(_HOST_ID)
    if form == "k8s" and not host and settings.database is None:
        from engine.schedule.k8s import STATE

        host = STATE
    return found | {_HOST_ID: host} if host else found


def _of_own_config(started: Started) -> list[str]:
    """Return a warning if the user's own config is not that of the user who runs what is started."""
    home = user_config(os.environ)
    if home is None or not home.is_file() or started.user in (_user(None), str(os.getuid())):
        return []
    return [f"{home}: is your own config; {started.user} will not see its guards; move it to /etc/acctops"]


def _untold(settings: Settings) -> list[str]:
    """Return a warning if nobody is told that `tend` is overdue: a job's own `notify` is not its."""
    if settings.notify is not None:
        return []
    return [
        "no `notify` in a config: if `acctops tend` stops, nobody is told; only the scheduler's own log or mail has it"
    ]


def _warnings(job: Job, settings: Settings, schedule: Schedule) -> list[str]:
    found = _of_own_config(schedule)
    if settings.notify is None:
        found.append("no `notify` in job or config: a bad night shows only where the scheduler reports it")
    if ACTIONS[job.action].keeps_out and not settings.protect and not settings.protect_waived:
        found.append("no protect rule holds: name your break-glass accounts before nobody is there")
    if job.hold is not None and job.hold.until is not None:
        again = "a job that starts again and again says hold: {for: …}"
        found.append(f"{job.hold.place}: {job.hold.said}: each start after that time is refused; {again}")
    rules = settings.approvals
    if rules is not None and job.action in rules.actions:
        size = f" with more than {rules.above:,} accounts" if rules.above else ""
        found.append(
            f"{', '.join(map(str, rules.places))}: a plan of {job.action}{size} needs the signatures of {rules.keys} "
            "different keys, and a timer has no key: a start that plans one is refused (exit 3), a start that goes on "
            "with an approved run is not; for one window, sign the plan before it (`valid` must reach to its start) "
            "and have `acctops apply PLAN --yes` started in it: README, Four eyes"
        )
    return found


def _of_keys(form: str, job: Job | None, settings: Settings, started: Started) -> Iterator[str]:
    """Yield what is wrong with keys and network variables: set in this shell only, or not read as they look."""
    env_file = started.env_file
    there = _env_lines(form, env_file)
    if isinstance(there, str):
        yield f"{env_file}: {there}"
    elif there is not None:
        with_others = Path(env_file).stat().st_mode & 0o077
        if with_others:
            yield f"{env_file}: others can read these keys; chmod 600"
        for line, words in there.problems:
            yield f"{env_file}:{line}: {words} ({READERS[form]} reads it)"
    elif not started.env_file_may_miss:
        yield f"{env_file}: does not exist yet; NAME=value lines such as TENCENTCLOUD_SECRET_ID=…"
    names = there.names if isinstance(there, EnvLines) else frozenset[str]()
    for name in _asked_for(job, settings):
        if os.environ.get(name, "").strip() and name not in names:
            or_else = ", or under `network` in a config" if name in (*PROXIES, *EXCEPTIONS, *BUNDLES) else ""
            yield f"{name}: set in this shell, and not at night; say what is needed in {env_file}{or_else}"


def _asked_for(job: Job | None, settings: Settings) -> list[str]:
    """Return the variables that say who acts, how the network is reached, what new passwords are, and who is told."""
    deciding = sorted(name for name in os.environ if name.startswith(_DECIDING) and not name.endswith("_REGION"))
    passwords = job.passwords if job is not None else None
    own = [passwords.env if passwords is not None else "", settings.notify.url_env if settings.notify else ""]
    own += ["PGPASSWORD"] if settings.database is not None else []
    return [*dict.fromkeys((*deciding, *PROXIES, *EXCEPTIONS, *BUNDLES, *filter(None, own)))]


def _env_lines(form: str, env_file: str) -> EnvLines | str | None:
    """Return the file of keys as the scheduler will read it, or why it cannot be read; None if there is no file."""
    try:
        data = read_regular(Path(env_file), MOST_ENV)
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


def _pod(started: Started, settings: Settings, mounted: Sequence[str], image: str) -> Pod:
    from engine.schedule.k8s import Pod

    if started.user.isdigit():
        number = int(started.user)
    else:
        try:
            number = pwd.getpwnam(started.user).pw_uid
        except KeyError as error:
            raise UsageError(f"--user {started.user}: no such user here; name the container's by number") from error
    if number == 0:
        raise UsageError("a container should not run as root: give --user, the number of another user of the image")
    paths = tuple(dict.fromkeys(map(_canonical, mounted)))
    for path in paths:
        if (problem := lasting_problem(path)) is not None:
            raise UsageError(f"{path!r} cannot be mounted: it {problem}; move or rename it")
    return Pod(
        image=image,
        user_id=number,
        state_dir=_canonical(settings.state_dir),
        mounted=paths,
        has_database=settings.database is not None,
    )


def _not_mounted(form: str, job: Job | None, settings: Settings) -> list[str]:
    """Return in words what a container will not find: secrets do not belong in a ConfigMap."""
    if form not in _IN_CONTAINERS:
        return []
    found = []
    if form == "k8s" and settings.database is not None:
        for name in filter(os.environ.get, _LIBPQ_FILES):
            instead = (
                "say the password as PGPASSWORD in acctops-env" if name == "PGPASSFILE" else "it must be in the image"
            )
            found.append(f"{name}: is not in the pod; {instead}")
    notify = settings.notify
    if notify is not None and notify.url_file:
        found.append(
            f"{settings.origin['notify']}: notify.webhook.url_file is not in the pod; use url_env and acctops-env"
        )
    if notify is not None and "/" in "".join(notify.command[:1]):
        found.append(f"{settings.origin['notify']}: notify.command {notify.command[0]} must be in the image")
    if job is not None and job.passwords is not None and not job.passwords.env:
        found.append(f"{job.passwords.place}: the source of passwords is not in the pod")
    gate = job.waves.gate if job is not None and job.waves is not None else None
    if gate is not None and "/" in gate.command[0]:
        found.append(f"gate.command {gate.command[0]} must be in the image")
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
