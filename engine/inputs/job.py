"""A job as the engine sees it: what the operator wrote, checked, with nothing decided yet. No I/O."""

from __future__ import annotations

import re
from fnmatch import translate
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.inputs.match import Match
    from engine.inputs.window import Window
    from engine.model import AccountSpec, Omit, Place, Target


class Glob(Struct, frozen=True):
    """`instance/user` with `*`, `?`, `[abc]`, each part matched by itself; keeps where it stands.

    `fold` ignores case: a guard errs toward protecting, as the API's own rules are partly case-insensitive
    (SEED-LOCK, D-CREATE), while an exclusion must not take out more than was written.
    """

    pattern: str
    place: Place
    fold: bool = False

    def __post_init__(self) -> None:
        instance, slash, user = self.pattern.partition("/")
        if not (instance and slash and user) or "/" in user:
            raise ValueError(f"{self.pattern!r} is not instance/user")

    @property
    def matches_everything(self) -> bool:
        """Whether no account can escape, as with `*/*`; every part of a name has at least one character."""
        return all("*" in part and part.replace("*", "") in ("", "?") for part in self.pattern.split("/"))

    def matches(self, instance: str, user: str) -> bool:
        """Whether this account is meant."""
        of_instance, of_user = _compiled(self.pattern, self.fold)
        return of_user.match(user) is not None and of_instance.match(instance) is not None


@cache
def _compiled(pattern: str, fold: bool) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The two parts of a glob; kept, as a guard is held against every account."""
    instance, _, user = pattern.partition("/")
    flags = re.IGNORECASE if fold else 0
    return re.compile(translate(instance), flags), re.compile(translate(user), flags)


class StopAfter(Struct, frozen=True, kw_only=True):
    """How many failed calls end a run: a count, or a share of the plan (0–1)."""

    count: int | None = None
    share: float | None = None

    def limit(self, calls: int) -> int:
        """Failed calls at which a run of `calls` calls stops; at least 1."""
        if self.count is not None:
            return self.count
        assert self.share is not None
        # Rounded first: 7 % of 100 is 7.000000000000001 in floats.
        return max(1, ceil(round(self.share * calls, 6)))

    def __str__(self) -> str:
        return str(self.count) if self.share is None else f"{self.share * 100:g}%"


class PasswordSpec(Struct, frozen=True, kw_only=True):
    """Where new passwords come from, never a password: one of the three is set."""

    place: Place
    command: tuple[str, ...] = ()
    """Program and arguments with `{instance}`, `{user}`, `{region}`."""
    file: str = ""
    """Path: as the operator named the job file's directory, then as written there."""
    env: str = ""

    @property
    def label(self) -> str:
        """For plan and journal; of a command only the program, as arguments may hold a secret."""
        if self.command:
            return f"command {self.command[0]}"
        return f"file {self.file}" if self.file else f"environment {self.env}"

    def as_record(self) -> dict[str, list[str] | str]:
        """For the journal, so that a resume can ask the same source; `password_spec` is the way back."""
        if self.command:
            return {"command": list(self.command)}
        return {"file": self.file} if self.file else {"env": self.env}


def password_spec(record: Mapping[str, list[str] | str], place: Place) -> PasswordSpec:
    """The source as a journal names it."""
    command, file, env = (record.get(key, "") for key in ("command", "file", "env"))
    return PasswordSpec(place=place, command=tuple(command), file=str(file), env=str(env))


NOTICES = ("start", "finish", "failure")
"""What can be told of a run: that it begins, that it has ended, that it has not ended with exit 0."""


class NotifySpec(Struct, frozen=True, kw_only=True):
    """Who is told how a run goes: a command, a webhook or both; never the webhook's URL, which is a secret."""

    place: Place
    command: tuple[str, ...] = ()
    """Program and arguments."""
    url_file: str = ""
    """File with the webhook's URL: as the operator named the directory of the file it is in, then as written there."""
    url_env: str = ""
    """Environment variable with the webhook's URL."""
    on: tuple[str, ...] = ("failure",)
    """Of `NOTICES`."""
    env: tuple[str, ...] = ()
    """Variables of the environment that the command gets beside the harmless ones."""

    @property
    def ways(self) -> tuple[str, ...]:
        """Of `command` and `webhook` those that are meant."""
        return ("command",) * bool(self.command) + ("webhook",) * bool(self.url_file or self.url_env)

    def wants(self, event: str) -> bool:
        """Whether somebody is to hear of an `event`; a failure is a finish, too."""
        return event in self.on or (event == "failure" and "finish" in self.on)


class Job(Struct, frozen=True, kw_only=True):
    """One job. None of an optional setting means: not said here, the config or the default decides."""

    name: str
    action: str
    region: str
    """Region of the targets that name none; empty if all do."""
    targets: list[Target]
    """As written and in that order, duplicates and reserved names included: the plan leaves those out, by name. A
    list, as there may be a million; nobody changes it. Those of `matches` join them once they are found."""
    digest: str
    """Hex SHA-256 over the bytes of the job file and then of each list: `cat job.yaml list.csv | sha256sum`."""
    path: str
    """The job file as named by the operator; `command line` without one, a word for a stream."""
    source: str = ""
    """Absolute path of the file or pipe that it was read from; empty if the operator handed it in."""
    is_file: bool = False
    """Whether it is a file that can be read again, and beside which guards are looked for."""
    matches: tuple[Match, ...] = ()
    """Targets to be found, in order of appearance."""
    omits: tuple[Omit, ...] = ()
    """Asked for, and no target: bad rows of a list, and what a match left out."""
    sources: tuple[str, ...] = ()
    """Lists that were read, in order."""
    exclude: tuple[Glob, ...] = ()
    protect: tuple[Glob, ...] | None = None
    """None: the job says nothing about it."""
    protect_waived: bool = False
    """`protect: none`: the operator knows, spare the reminder. Takes no rule of a config away."""
    keep_admins: int | None = None
    """Never lock the last so many usable superusers of an instance."""
    max_targets: int | None = None
    """Refuse a plan of more calls."""
    max_share: float | None = None
    """Refuse a plan of more than this share (0–1) of the accounts read."""
    take: int | None = None
    """Change so many accounts in one run, at most."""
    listed_order: bool = False
    """Send as listed, not superusers first."""
    resend_already: bool = False
    """Send also to accounts that read as desired, last; their outcome stays `already`."""
    reason: str | None = None
    ticket: str | None = None
    profiles: tuple[str, ...] | None = None
    accounts: tuple[AccountSpec, ...] = ()
    """Cloud accounts of the targets; none: that of the keys, called ""."""
    endpoints: tuple[str, ...] | None = None
    """As written: `endpoints.endpoint_word`."""
    settings: Mapping[str, Any] = {}
    """What it says of settings that config files may say, too (`settingtable`), by their names. Any: their types."""
    passwords: PasswordSpec | None = None
    window: Window | None = None
    """When it may send; None: at any time."""
    on_unfinished: str = "resume"
    """What `run` does about a run of it that was cut off: resume, new or refuse."""
    notify: NotifySpec | None = None
    places: Mapping[str, Place] = {}
    """Where each setting above stands, by its name here."""
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    """What is worth a look and most likely right."""

    @property
    def regions(self) -> tuple[str, ...]:
        """Regions it is about, as far as it names them."""
        named = {target.region for target in self.targets}
        return tuple(sorted(named.union(*(match.regions or () for match in self.matches))))
