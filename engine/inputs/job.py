"""A job as the engine sees it: what the operator wrote, checked, with nothing decided yet. No I/O."""

from __future__ import annotations

import re
from fnmatch import translate
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.inputs.guesses import Guess
    from engine.inputs.match import Match
    from engine.inputs.window import Window
    from engine.model import AccountSpec, Omit, Place, Target


class Glob(Struct, frozen=True):
    """A pattern `instance/user` with `*`, `?`, `[abc]`, each part matched by itself; with its place in a file.

    `fold` ignores case. A guard ignores it, to protect rather too much: the API's own rules are partly
    case-insensitive (SEED-LOCK, D-CREATE). An exclusion does not, as it must not leave out more than was written.
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
        """Whether it matches every account, as `*/*` does; every part of a name has at least one character."""
        return all("*" in part and part.replace("*", "") in ("", "?") for part in self.pattern.split("/"))

    def matches(self, instance: str, user: str) -> bool:
        """Return whether the glob matches this account."""
        of_instance, of_user = _compiled(self.pattern, self.fold)
        return of_user.match(user) is not None and of_instance.match(instance) is not None


@cache
def _compiled(pattern: str, fold: bool) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the two parts of a glob, compiled; cached, as a guard is compared with every account."""
    instance, _, user = pattern.partition("/")
    flags = re.IGNORECASE if fold else 0
    return re.compile(translate(instance), flags), re.compile(translate(user), flags)


class StopAfter(Struct, frozen=True, kw_only=True):
    """How many failed calls end a run: a count, or a share of the plan (0–1)."""

    count: int | None = None
    share: float | None = None

    def limit(self, calls: int) -> int:
        """Return the number of failed calls at which a run of `calls` calls stops; at least 1."""
        if self.count is not None:
            return self.count
        assert self.share is not None
        # Rounded first: 7 % of 100 is 7.000000000000001 in floats.
        return max(1, ceil(round(self.share * calls, 6)))

    def __str__(self) -> str:
        return str(self.count) if self.share is None else f"{self.share * 100:g}%"


class PasswordSpec(Struct, frozen=True, kw_only=True):
    """Where new passwords come from, never a password itself: one of `command`, `file`, `env` is set."""

    place: Place
    command: tuple[str, ...] = ()
    """Program and arguments with `{instance}`, `{user}`, `{region}`."""
    file: str = ""
    """Path: the job file's directory as the operator named it, then the path as written in the job."""
    env: str = ""
    stored: bool = False
    """Whether the command is a store: it has each password before it prints it, and prints the same one twice."""

    @property
    def label(self) -> str:
        """The words for plan and journal; of a command only the program, as arguments may hold a secret."""
        if self.command:
            return f"command {self.command[0]}"
        return f"file {self.file}" if self.file else f"environment {self.env}"

    def as_record(self) -> dict[str, list[str] | str | bool]:
        """Return the source for the journal, so that a resume can ask it again; `password_spec` reads it."""
        if self.command:
            return {"command": list(self.command), "stored": True} if self.stored else {"command": list(self.command)}
        return {"file": self.file} if self.file else {"env": self.env}


def password_spec(record: Mapping[str, Any], place: Place) -> PasswordSpec:
    """Return the source that a journal names. Any: a list of words, a text, or whether it is a store."""
    command, file, env = (record.get(key, "") for key in ("command", "file", "env"))
    stored = record.get("stored") is True
    return PasswordSpec(place=place, command=tuple(command), file=str(file), env=str(env), stored=stored)


class HoldSpec(Struct, frozen=True, kw_only=True):
    """When the hold of a run ends, and what is done then. One of `for_s` and `until` is set."""

    for_s: float | None = None
    """So many seconds after the run was confirmed."""
    until: float | None = None
    """UNIX time."""
    then: str = "tell"
    """tell, unlock or unlock_rotated."""
    place: Place
    """Place of the end."""
    said: str = "hold"
    """What the operator said it with: `hold.until`, `--for`."""

    def ends_at(self, confirmed_at: float) -> float:
        """Return when the hold of a run ends that was confirmed at a time; UNIX seconds both."""
        if self.until is not None:
            return self.until
        assert self.for_s is not None
        return confirmed_at + self.for_s


class WatchSpec(Struct, frozen=True, kw_only=True):
    """When the accounts of a run are read again, in seconds after its end."""

    after_s: tuple[float, ...] = ()
    """Ascending."""
    every_s: float | None = None
    for_s: float | None = None
    """How long `every_s` goes on."""
    place: Place

    def as_record(self) -> dict[str, object]:
        """Return the watch for the journal; `from_record` reads it."""
        return {"after": list(self.after_s), "every": self.every_s, "for": self.for_s}

    @staticmethod
    def from_record(record: Mapping[str, Any], place: Place) -> WatchSpec:
        """Return the watch that a journal holds. Any: numbers, as `journal.sense` has checked."""
        return WatchSpec(
            after_s=tuple(record.get("after") or ()),
            every_s=record.get("every"),
            for_s=record.get("for"),
            place=place,
        )


class Wave(Struct, frozen=True, kw_only=True):
    """A part of a run that must prove itself before the next begins. Neither `count` nor `share`: all that is left."""

    count: int | None = None
    share: float | None = None
    """Of the run's plan (0–1); rounded up."""
    soak_s: float = 0.0
    """Seconds to wait, once its calls are settled and read."""

    @property
    def is_rest(self) -> bool:
        """Whether it takes all that is left."""
        return self.count is None and self.share is None

    def of(self, calls: int) -> int:
        """Return how many calls of a plan of `calls` it takes, if they are there."""
        if self.count is not None:
            return self.count
        return calls if self.share is None else ceil(round(self.share * calls, 6))

    def __str__(self) -> str:
        if self.is_rest:
            return "rest"
        return str(self.count) if self.share is None else f"{self.share * 100:g}%"


def wave_of(text: str) -> Wave | None:
    """Return the wave that takes so many accounts (`3`, `10%`, `rest`), without its soak; None for any other text."""
    if text == "rest":
        return Wave()
    if re.fullmatch("[0-9]{1,9}", text) and int(text) > 0:
        return Wave(count=int(text))
    found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%", text)
    if found is not None and 0 < float(found[1]) <= 100:
        return Wave(share=float(found[1]) / 100)
    return None


class GateSpec(Struct, frozen=True, kw_only=True):
    """The check that says green or red."""

    command: tuple[str, ...]
    """Program and arguments."""
    every_s: float = 300.0
    """Seconds between two questions while a wave soaks."""
    timeout_s: float = 120.0
    """Seconds after which it is silent."""
    is_real: bool = False
    """Whether a simulated run asks it, and not the simulator's."""

    @property
    def label(self) -> str:
        """The words for plan and report: only the program, as arguments may hold a secret."""
        return self.command[0]


class WavesSpec(Struct, frozen=True, kw_only=True):
    """The waves of a run, and what judges them."""

    waves: tuple[Wave, ...]
    gate: GateSpec | None = None
    on_red: str = "stop"
    """stop or undo."""
    place: Place

    def as_record(self) -> dict[str, Any]:
        """Return the waves for the journal; `from_record` reads them. Any: text and numbers, nested."""
        gate = self.gate
        return {
            "waves": [{"take": str(wave), "soak": wave.soak_s} for wave in self.waves],
            "gate": {
                "command": list(gate.command),
                "every": gate.every_s,
                "timeout": gate.timeout_s,
                "real": gate.is_real,
            }
            if gate
            else None,
            "on_red": self.on_red,
        }

    @staticmethod
    def from_record(record: Mapping[str, Any], place: Place) -> WavesSpec:
        """Return the waves that a journal holds. Any: text and numbers, as `journal.sense` has checked."""
        gate = record.get("gate")
        return WavesSpec(
            waves=tuple(
                replace(wave, soak_s=float(each["soak"]))
                for each in record["waves"]
                if (wave := wave_of(each["take"])) is not None
            ),
            gate=GateSpec(
                command=tuple(gate["command"]),
                every_s=gate["every"],
                timeout_s=gate["timeout"],
                is_real=bool(gate.get("real")),
            )
            if gate
            else None,
            on_red=record["on_red"],
            place=place,
        )


NOTICES = ("start", "wave", "finish", "failure")
"""Events of a run that a notice can tell: it begins, a wave of it has passed, it has ended, it has ended with another
exit code than 0."""


class NotifySpec(Struct, frozen=True, kw_only=True):
    """Who is told how a run goes: a command, a webhook or both; never the webhook's URL, which is a secret."""

    place: Place
    command: tuple[str, ...] = ()
    """Program and arguments."""
    url_file: str = ""
    """File with the webhook's URL: the directory of the file that names it, then the path as written there."""
    url_env: str = ""
    """Environment variable with the webhook's URL."""
    on: tuple[str, ...] = ("failure",)
    """Events of `NOTICES` that are told."""
    env: tuple[str, ...] = ()
    """Environment variables that the command gets in addition to the harmless ones."""

    @property
    def ways(self) -> tuple[str, ...]:
        """Which of `command` and `webhook` are used."""
        return ("command",) * bool(self.command) + ("webhook",) * bool(self.url_file or self.url_env)

    def wants(self, event: str) -> bool:
        """Return whether an `event` is told; a failure is a finish, too."""
        return event in self.on or (event == "failure" and "finish" in self.on)


class Job(Struct, frozen=True, kw_only=True):
    """One job. Where an optional setting is None, the job does not set it: the config or the default decides."""

    name: str
    action: str
    region: str
    """Region of the targets that name none; empty if all do."""
    targets: list[Target]
    """Targets as written and in that order, with duplicates and reserved names: the plan leaves those out by name. A
    list, as there may be a million; no code changes it. Targets of `matches` are added once they are found."""
    digest: str
    """Hex SHA-256 over the bytes of the job file and then of each list: `cat job.yaml list.csv | sha256sum`."""
    path: str
    """The job file as the operator named it; `command line` without a file, a word for a stream."""
    source: str = ""
    """Absolute path of the file or pipe it was read from; empty if the operator handed it in as a descriptor."""
    is_file: bool = False
    """Whether it is a file that can be read again; guards are searched beside that file."""
    matches: tuple[Match, ...] = ()
    """Questions whose answers are targets, in order of appearance."""
    omits: tuple[Omit, ...] = ()
    """What was asked for and gave no target: bad rows of a list, and what a match left out."""
    sources: tuple[str, ...] = ()
    """Lists that were read, in order."""
    exclude: tuple[Glob, ...] = ()
    protect: tuple[Glob, ...] | None = None
    """None: the job says nothing about it."""
    protect_waived: bool = False
    """`protect: none`: there is no reminder that nothing is protected. Rules of configs still hold."""
    keep_admins: int | None = None
    """Number of usable superusers that each instance must keep."""
    max_targets: int | None = None
    """Number of calls above which a plan is refused."""
    max_share: float | None = None
    """Share (0–1) of the accounts read above which a plan is refused."""
    take: int | None = None
    """Number of accounts that one run changes, at most."""
    listed_order: bool = False
    """Whether calls are sent in the order of the list, not superusers first."""
    resend_already: bool = False
    """Whether calls are also sent, last, for accounts that read as desired; their outcome stays `already`."""
    reason: str | None = None
    ticket: str | None = None
    profiles: tuple[str, ...] | None = None
    accounts: tuple[AccountSpec, ...] = ()
    """Cloud accounts of the targets; none: the account of the keys, called ""."""
    endpoints: tuple[str, ...] | None = None
    """As written: `endpoints.endpoint_word`."""
    settings: Mapping[str, Any] = {}
    """Values of settings that config files may set, too (`settingtable`), by their names. Any: their types."""
    passwords: PasswordSpec | None = None
    window: Window | None = None
    """When it may send; None: at any time."""
    hold: HoldSpec | None = None
    """When its hold on the accounts ends; None: never."""
    watch: WatchSpec | None = None
    waves: WavesSpec | None = None
    """The parts of a run, each of which must prove itself before the next; None: it has no parts."""
    on_unfinished: str = "resume"
    """What `run` does if an earlier run of the job was cut off: resume, new or refuse."""
    notify: NotifySpec | None = None
    places: Mapping[str, Place] = {}
    """Place of each setting above, by its name here."""
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    """Lines about what is probably right but should be checked."""
    guesses: tuple[Guess, ...] = ()
    """What lists do not say and how they were read all the same; told as warnings and remarks."""

    @property
    def regions(self) -> tuple[str, ...]:
        """Regions that the job names; sorted."""
        named = {target.region for target in self.targets}
        return tuple(sorted(named.union(*(match.regions or () for match in self.matches))))
