"""Door: the flags of a command as one value, and what is composed from them before anything is sent."""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import AcctopsError
from engine.job import Glob, Job
from engine.settings import Flags, Settings, effective, find_configs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from engine.records import RunSettings


class Options(Struct, frozen=True, kw_only=True):
    """Every flag, as typed; a command without one leaves its default."""

    config: str | None = None
    endpoints: tuple[str, ...] = ()
    state_dir: str | None = None
    profiles: tuple[str, ...] = ()
    rate: str | None = None
    workers: str | None = None
    timeout: str | None = None
    deadline: str | None = None
    yes: bool = False
    as_json: bool = False
    quiet: bool = False
    no_verify: bool = False
    simulate: bool = False
    faults: str | None = None
    fleet: str | None = None
    skip_bad_rows: bool = False
    exclude: tuple[str, ...] = ()
    reason: str | None = None
    ticket: str | None = None
    expect: int | None = None
    on_unfinished: str | None = None
    now: bool = False
    """Do not hold to the job's window: a person says so."""
    clock: Callable[[], float] = time.time
    """UNIX time; no flag: what the command was given to tell the time by."""

    def settings(self, job: Job | None, *guard_dirs: Path) -> Settings:
        """What holds after flags, environment, job and config files; guards of `guard_dirs` add up."""
        starts = [Path(job.path).parent if job is not None and Path(job.path).exists() else Path()]
        configs = find_configs(*starts, *guard_dirs, environ=os.environ, explicit=self.config)
        flags = Flags(
            config=self.config,
            endpoints=self.endpoints,
            state_dir=self.state_dir,
            profiles=self.profiles,
            rate=self.rate,
            workers=self.workers,
            timeout=self.timeout,
            deadline=self.deadline,
            no_verify=self.no_verify,
            simulate=self.simulate,
        )
        return effective(flags, os.environ, job, configs)

    def excludes(self) -> tuple[Glob, ...]:
        """`--exclude` as rules; JobError for one that is no glob."""
        from engine.jobfile.parse import read_globs
        from engine.jobfile.problems import Problems

        problems = Problems()
        globs = read_globs(self.exclude, "--exclude", problems)
        problems.stop_if_any()
        return globs

    def repeat(self, state_dir: Path) -> str:
        """The flags an exact follow-up command needs to find a run of `state_dir`, with the config that was named.

        Typed here, or, where it was named by flag, anywhere: a schedule's report is read on Monday, from another
        directory and by another user's config.
        """
        config = _flag("config", Path(self.config).absolute()) if self.config is not None else ""
        if self.state_dir is not None:
            return _flag("state-dir", state_dir) + config
        try:
            found = Options(config=self.config).settings(None).state_dir
        except AcctopsError:
            found = None
        return ("" if found == state_dir else _flag("state-dir", state_dir)) + config

    def asked(self) -> tuple[str, ...]:
        """The flags that say what this run is, so that it can be asked for again: `records.Run.asked`."""
        named = (("--endpoint", self.endpoints), ("--profile", self.profiles), ("--exclude", self.exclude))
        return tuple(word for flag, values in named for value in values for word in (flag, value))


def _flag(name: str, value: str | Path) -> str:
    from shlex import quote  # late: few keep their runs elsewhere

    return f" --{name} {quote(str(value))}"


def run_settings(settings: Settings, job: Job, action: str, regions: Iterable[str]) -> RunSettings:
    """The settings that go into the journal."""
    from engine.records import RunSettings

    stop_after = settings.stop_after_for(action)
    access = settings.access(regions)
    return RunSettings(
        endpoint=access.shared,
        endpoint_of=dict(access.own),
        accounts=job.accounts,
        rate=settings.rate_for(action),
        quota=settings.quota_for(action),
        workers=settings.workers,
        per_instance=settings.per_instance,
        timeout_s=settings.timeout_s,
        deadline_s=settings.written_deadline_s,
        session_deadline_s=settings.session_deadline_s,
        transient_s=settings.retry_transient_s,
        busy_s=settings.retry_busy_s,
        stop_after=str(stop_after) if stop_after else None,
        verify=settings.verify,
        profile=settings.profiles[0] if len(settings.profiles) == 1 else settings.profiles or None,
        protect=tuple(f"{glob.pattern} ({glob.place})" for glob in settings.protect),
        passwords=password_record(job),
        protect_waived=settings.protect_waived,
        keep_admins=settings.keep_admins,
        resend_already=job.resend_already,
        window=job.window.as_record() if job.window is not None else None,
    )


def check_metrics(settings: Settings, *, simulated: bool = False) -> None:
    """ConfigError if metrics are asked for and cannot be made; a simulated run has none."""
    if settings.metrics_file is not None and not simulated:
        from engine.metrics import check_installed

        check_installed(settings.metrics_file, settings.origin["metrics_file"])


def password_record(job: Job) -> dict[str, object] | None:
    """The source of new passwords as the journal keeps it: a file by its absolute path, never a value."""
    if job.passwords is None:
        return None
    record: dict[str, object] = dict(job.passwords.as_record())
    if job.passwords.command:
        from engine.programs import program_path  # here: most jobs ask for no password

        program, *arguments = job.passwords.command
        record["command"] = [program_path(program, job.path), *arguments]
    if job.passwords.file:
        record["file"] = str((Path(job.path).parent / Path(job.passwords.file).expanduser()).absolute())
    return record


def operator() -> str:
    """Who runs this, for the journal: the login name, and behind sudo the person."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    sudo = os.environ.get("SUDO_USER")
    return f"{sudo} (as {name})" if sudo and sudo != name else name
