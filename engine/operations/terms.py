"""The terms of one command: what its user says, by which clock it goes, and who is told how it goes.

A command line makes them from its flags, a library from its arguments. All use cases take them first.
"""

from __future__ import annotations

import os
import pwd
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec import field
from msgspec.structs import replace

from engine.cloud.wire import Wire
from engine.errors import AcctopsError, ConfigError
from engine.inputs.config import mistrust
from engine.inputs.files import STDIN_NAME, homes_of
from engine.inputs.job import Glob, Job
from engine.inputs.settings import Flags, Settings, effective, find_configs
from engine.operations.events import Tell, nobody
from engine.outside.databaseurls import without_user
from engine.outside.foreign import pasted
from engine.outside.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.inputs.config import Configs


class Kept(Protocol):
    """What says where runs are kept: settings, or a store."""

    @property
    def state_dir(self) -> Path:
        """The state directory."""

    @property
    def database(self) -> str | None:
        """URL of the database; None: the state directory has the runs."""


class Terms(Flags, frozen=True, kw_only=True):
    """What a use case goes by; texts are as typed, and parsed where they are used."""

    faults: str | None = None
    fleet: str | None = None
    seed: int | None = None
    """Of all that is random in a simulated run; None: the world is always the same, and our waits are not."""
    skip_bad_rows: bool = False
    exclude: tuple[str, ...] = ()
    reason: str | None = None
    ticket: str | None = None
    expect: int | None = None
    on_unfinished: str | None = None
    real_gate: bool = False
    """Whether a simulated run asks the job's own gate, and not the simulator's."""
    unapproved: str | None = None
    """Why a person goes on without the signatures that a config asks for; None: nobody says so."""
    is_saving: bool = False
    """Whether it is only planned, for a file that is to be approved: that waits for neither window nor signature."""
    is_applying: bool = False
    """Whether a plan from such a file is carried out: its signatures are looked at before anything is begun."""
    beside: tuple[Path, ...] = ()
    """Further places whose configs hold: beside the file of a plan, and where its command was typed."""
    now: bool = False
    """Whether a person says not to hold to the job's window."""
    detach: bool = False
    """Whether the run is left to the workers of its database, and not followed."""
    yes: bool = False
    """Whether nobody is asked: the user approved the plan before it was known."""
    attended: bool = False
    """Whether a person is there, who may start a run outside its window."""
    clock: Callable[[], float] = time.time
    """Returns UNIX time: the clock of the command."""
    wire: Wire = field(default_factory=Wire)
    """One transport for all that is done by these terms. The maker of the terms closes it."""
    tell: Tell = nobody
    """Is told, while the command goes on, what its user wants to know."""

    def configs(self, *places: Path) -> Configs:
        """Return the config files of a command about what lies in `places`."""
        return find_configs(*places, *self.beside, environ=os.environ, explicit=self.config)

    def settings(self, job: Job | None, *more: Path) -> Settings:
        """Return what holds by flags, environment, job and config files, those above `more` included.

        ConfigError for a job that an untrusted user could have written.
        """
        configs = self.configs(*homes_of(job), *more)
        noted = _strange_lists(job, configs.trust) if job is not None else ()
        if job is not None:
            refuse_strange(job.path if job.is_file else job.source, job.source, configs.trust)
        settings = effective(self, os.environ, job, configs)
        noted += _strange_tools(settings, job, configs.trust)
        return replace(settings, warnings=settings.warnings + noted) if noted else settings

    def excludes(self) -> tuple[Glob, ...]:
        """Return `--exclude` as rules; JobError for one that is no glob."""
        return globs_of(self.exclude, "--exclude")

    def repeat(self, kept: Kept) -> str:
        """Return the flags a follow-up command needs to find a run of a store, with the config that was named.

        The command works here or, if a flag named the directory, anywhere: the report of a schedule is read on Monday,
        from another directory and with another user's config.
        """
        config = _flag("config", Path(self.config).absolute()) if self.config is not None else ""
        flag = (
            _flag("database", without_user(kept.database))
            if kept.database is not None
            else _flag("state-dir", kept.state_dir)
        )
        if (self.state_dir if kept.database is None else self.database) is not None:
            return flag + config
        try:
            found = Terms(config=self.config).settings(None)
        except AcctopsError:
            return flag + config
        is_found = found.database == kept.database and (kept.database is not None or found.state_dir == kept.state_dir)
        return ("" if is_found else flag) + config

    def asked(self) -> tuple[str, ...]:
        """Return the flags that say what this run is, so that it can be asked for again: `records.Run.asked`."""
        named = (("--endpoint", self.endpoints), ("--profile", self.profiles), ("--exclude", self.exclude))
        return tuple(word for flag, values in named for value in values for word in (flag, value))


def globs_of(texts: Sequence[str], flag: str) -> tuple[Glob, ...]:
    """Return the values of a repeated flag as rules; JobError that names the flag for one that is no glob."""
    from engine.inputs.jobfile.parse import read_globs
    from engine.inputs.jobfile.problems import Problems

    problems = Problems()
    globs = read_globs(texts, flag, problems)
    problems.stop_if_any()
    return globs


def refuse_strange(name: str, path: str | Path, trust: Trust) -> None:
    """Raise ConfigError for a file of a job that an untrusted user could have written; path "": it was handed in."""
    try:
        doubt = trust.doubt(Path(path)) if str(path) else None
    except OSError:
        return  # gone since it was read
    if doubt is not None:
        raise ConfigError(mistrust(name, doubt, "move the job to a directory of your own"))


def is_own(job: Job) -> bool:
    """Whether only the operator and root can have written a job; for use where trust settings are not known."""
    try:
        return not job.source or Trust().why_not(Path(job.source)) is None
    except OSError:
        return False


def _strange_lists(job: Job, trust: Trust) -> tuple[str, ...]:
    """Return warnings of lists that others could have written; they are read: the job names them, guards bound them."""
    found = []
    for source in job.sources:
        with suppress(OSError):
            doubt = trust.doubt(Path(source)) if source != STDIN_NAME else None
            if doubt is not None:
                found.append(f"{source}: {doubt.words}: somebody else may have said which accounts these are")
    return tuple(found)


def _strange_tools(settings: Settings, job: Job | None, trust: Trust) -> tuple[str, ...]:
    """Return warnings of programs and certificates that others could change; the user who named them answers for it."""
    named = [("credentials.command", part) for part in settings.credentials.command[:1]]
    passwords = job.passwords if job is not None else None
    gate = job.waves.gate if job is not None and job.waves is not None else None
    if gate is not None:
        from engine.outside.programs import program_path  # here: few name a program

        assert job is not None
        named.append(("gate.command", program_path(gate.command[0], job.path)))
    for key, spec in (("notify.command", settings.notify), ("passwords.command", passwords)):
        if spec is not None and spec.command:
            from engine.outside.programs import program_path  # here: few name a program

            named.append((key, program_path(spec.command[0], spec.place.file)))
    if settings.way_out.ca_bundle:
        named.append(("network.ca_bundle", settings.way_out.ca_bundle))
    found = []
    for key, path in named:
        with suppress(OSError):  # it is told where it is used
            if "/" in path and (doubt := trust.doubt(Path(path))) is not None:
                found.append(f"{key}: {doubt.words}: somebody else may decide what it does")
    return tuple(found)


def _flag(name: str, value: str | Path) -> str:
    return f" --{name} {pasted((str(value),))}"


def operator() -> str:
    """Return who runs this, for the journal: the login name and, behind sudo, the person."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    sudo = os.environ.get("SUDO_USER")
    return f"{sudo} (as {name})" if sudo and sudo != name else name
