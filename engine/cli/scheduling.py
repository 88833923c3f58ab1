"""Door: `acctops schedule`: units that start a job in its window, ready to be put in their place."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.options import Options
from engine.cli.talk import out, printed, say, warn
from engine.config import find_configs, user_config
from engine.errors import Exit, RefusedError, UsageError
from engine.files import STDIN, homes_of, is_stream, load_job
from engine.schedule.units import MADE, Schedule, UnitFile, every_days, lasting_problem
from engine.wayout import BUNDLES, EXCEPTIONS, PROXIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.config import Configs
    from engine.job import Job
    from engine.settings import Settings

ENV_FILE = "/etc/acctops/env"
"""Where keys are looked for unless another file is named; it may be missing."""
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_.-]{0,31}|[0-9]{1,10}")
_EVERY = re.compile("[1-9][0-9]{0,3}[dhm]|[1-9][0-9]{0,2}d[1-9][0-9]?h")


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
    options = Options(**flags)
    if is_stream(job_path):
        raise UsageError(f"{job_path}: can be read only once, and not at night; put the job into a file")
    job = load_job(job_path)
    settings = options.settings(job)
    configs = find_configs(*homes_of(job), environ=os.environ, explicit=options.config)
    if form == "k8s" and image is None:
        raise UsageError("--format k8s needs --image: the container image that has acctops, such as registry/acctops:1")
    program = ("acctops",) if form == "k8s" else _program()
    schedule = _schedule(job, options, settings, program, user=user, env_file=env_file, every=every)
    for warning in (*settings.warnings, *job.warnings, *_warnings(job, settings, schedule)):
        warn(f"warning: {warning}")
    if form == "k8s":
        from engine.schedule import k8s

        for words in _not_mounted(job, settings):
            warn(f"warning: {words}")
        found = k8s.files(schedule, _pod(schedule, settings, configs, job, str(image)))
    elif form == "systemd":
        from engine.schedule import systemd

        found = systemd.files(schedule)
    else:
        from engine.schedule import cron

        try:
            found = cron.files(schedule)
        except ValueError as error:
            raise UsageError(f"{job.path}: {error}") from None
    if into is None:
        out(_together(found))
        return printed()
    _write(found, Path(into))
    for line in _then(form, schedule, found, Path(into)):
        say(line)
    return Exit.OK


def _schedule(
    job: Job,
    options: Options,
    settings: Settings,
    program: tuple[str, ...],
    *,
    user: str | None,
    env_file: str | None,
    every: str | None,
) -> Schedule:
    if job.window is None:
        raise UsageError(
            f"{job.path}: has no window, so nothing says when it is to run; add: "
            'window: {days: [sat], from: "01:00", until: "05:00", timezone: Asia/Shanghai}'
        )
    if STDIN in (options.config, job.path) or "standard input" in (job.path, *job.sources):
        raise UsageError(f"{job.path}: reads standard input, and nobody is there to give it; put the list into a file")
    if every is not None and not _EVERY.fullmatch(every):
        raise UsageError(f"--every {every}: expected a time such as 8d or 36h")
    named = Path(env_file or ENV_FILE).expanduser().absolute()
    path = Path(job.path).absolute()
    common = _common(options, settings)
    pause = every or f"{every_days(job.window)}d"
    schedule = Schedule(
        name=job.name,
        action=job.action,
        run=(*program, "run", str(path), "--yes", "--quiet", *common, *_sending(options)),
        overdue=(*program, "overdue", str(path), "--every", pause, "--quiet", "--notify", *common),
        window=job.window,
        user=_user(user),
        directory=str(path.parent),
        env_file=str(named),
        env_file_may_miss=env_file is None,
        environment=_environment(),
    )
    if "'" in schedule.run[0]:
        raise UsageError(f"{schedule.run[0]}: systemd starts no program with ' in its path; install it elsewhere")
    for said in (*schedule.run, schedule.directory, schedule.env_file, *schedule.environment.values()):
        if (problem := lasting_problem(said)) is not None:
            raise UsageError(f"{said!r} cannot stand in a unit: it {problem}; move or rename it")
    return schedule


def _common(options: Options, settings: Settings) -> list[str]:
    """Flags that say where things are: cron's current directory is anywhere, and its environment almost empty."""
    config = options.config or os.environ.get("ACCTOPS_CONFIG")
    found = ["--state-dir", str(settings.state_dir)]
    return [*found, "--config", str(Path(config).absolute())] if config else found


def _sending(options: Options) -> list[str]:
    """What else was said here, by flags or in the environment, to be said there."""
    found: list[str] = []
    for flag, several in (("endpoint", options.endpoints), ("profile", options.profiles)):
        variable = os.environ.get(f"ACCTOPS_{flag.upper()}", "").split(",")
        for each in several or filter(None, map(str.strip, variable)):
            found += [f"--{flag}", each]
    for flag in ("rate", "workers", "timeout", "deadline"):
        if said := getattr(options, flag) or os.environ.get(f"ACCTOPS_{flag.upper()}"):
            found += [f"--{flag}", said]
    return found


def _program() -> tuple[str, ...]:
    """The command that runs now, by its absolute path: PATH is short at night."""
    python = Path(sys.executable)
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
    """Where the user's own config lies, if it does not lie where it is looked for without being told."""
    base = os.environ.get("XDG_CONFIG_HOME")
    path = user_config(os.environ)
    return {"XDG_CONFIG_HOME": base} if base and path is not None and path.is_file() else {}


def _warnings(job: Job, settings: Settings, schedule: Schedule) -> list[str]:
    found = []
    env_file = Path(schedule.env_file)
    if env_file.is_file() and env_file.stat().st_mode & 0o077:
        found.append(f"{env_file}: others can read these keys; chmod 600")
    elif not schedule.env_file_may_miss and not env_file.exists():
        found.append(f"{env_file}: does not exist yet; NAME=value lines such as TENCENTCLOUD_SECRET_ID=…")
    shell = [name for name in (*PROXIES, *EXCEPTIONS, *BUNDLES) if os.environ.get(name)]
    if shell:
        found.append(
            f"{', '.join(shell)}: set in this shell, and not at night; say what is needed in {env_file}, "
            "or under `network` in a config"
        )
    home = user_config(os.environ)
    if home is not None and home.is_file() and schedule.user not in (_user(None), str(os.getuid())):
        found.append(f"{home}: is your own config; {schedule.user} will not see its guards; move it to /etc/acctops")
    if settings.notify is None:
        found.append("no `notify` in job or config: a bad night shows only where the scheduler reports it")
    if job.action in ("LockAccount", "OpenAccountCAM") and not settings.protect and not settings.protect_waived:
        found.append("no protect rule holds: name your break-glass accounts before nobody is there")
    return found


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
    paths = tuple(dict.fromkeys(str(Path(path).expanduser().absolute()) for path in mounted))
    for path in paths:
        if (problem := lasting_problem(path)) is not None:
            raise UsageError(f"{path!r} cannot be mounted: it {problem}; move or rename it")
    return Pod(image=image, user_id=number, state_dir=str(settings.state_dir), mounted=paths)


def _not_mounted(job: Job, settings: Settings) -> list[str]:
    """What a container will not find: secrets are no matter for a ConfigMap."""
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


def _together(files: Sequence[UnitFile]) -> str:
    """All files in one text, each after a line with its name."""
    if len(files) == 1:
        return files[0].text
    return "\n".join(f"# ---- {file.name}\n{file.text}" for file in files)


def _write(files: Sequence[UnitFile], into: Path) -> None:
    """Each under its name; a file that is there and not ours stays."""
    for file in files:
        path = into / file.name
        try:
            if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(MADE):
                raise RefusedError(f"{path}: is there already, and not made by acctops schedule; nothing was written")
        except OSError as error:
            raise UsageError(f"--into {into}: {path.name} cannot be read: {error.strerror}") from error
    for file in files:
        path = into / file.name
        new = into / f".{file.name}.new"
        try:
            new.write_text(file.text, encoding="utf-8")
            new.chmod(0o644)
            new.rename(path)
        except OSError as error:
            raise UsageError(f"--into {into}: {path.name} cannot be written: {error.strerror}") from error


def _then(form: str, schedule: Schedule, files: Sequence[UnitFile], into: Path) -> list[str]:
    """What was written, and what to type next."""
    lines = [f"wrote {into / file.name}" for file in files]
    unit = schedule.unit
    match form:
        case "systemd":
            timers = f"{unit}.timer {unit}-overdue.timer"
            lines.append(f"now: systemctl daemon-reload && systemctl enable --now {timers}")
        case "k8s":
            lines.append(f"now: read its head, then kubectl apply -f {shlex.quote(str(into / files[0].name))}")
        case _:
            lines.append("cron reads it by itself, if it lies in /etc/cron.d")
    return lines
