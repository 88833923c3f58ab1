"""Finds `config.yaml`, reads and checks it. Never writes one.

The search goes from the job's directory upward, then to the user's, then to the system's config directory. For most
keys the nearest file's value counts; guards (`protect`, `keep_admins`, `limits`, `approvals`) of all files add up
(promise P2). A
file that exists and cannot be read stops the command, as its guards cannot be known. So does a file that somebody who
is not trusted could have written.
"""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.api.names import did_you_mean, shown
from engine.errors import ConfigError
from engine.inputs.guards import empty_plan_warnings
from engine.inputs.jobfile import filemodel
from engine.inputs.jobfile.fields import Fields, kinds
from engine.inputs.jobfile.filemodel import JOB_ONLY, ConfigFile, MaxShare, Rate
from engine.inputs.jobfile.nodes import Table
from engine.inputs.jobfile.problems import Problems
from engine.outside.trust import Trust, gid_of, home_of, kind_words, open_regular, owner_name, ways_to

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.inputs.job import Glob
    from engine.inputs.jobfile.nodes import Node
    from engine.model import Place
    from engine.outside.trust import Doubt

NAME = "config.yaml"
SHARE = "share"
"""A key of `quotas` that is no action: the share of every quota to use."""
LOCAL = "local"
"""The other one: the share that a run with `--local` uses, of which the database does not know."""
SYSTEM = Path("/etc/acctops") / NAME
MOST_CONFIG = 1 << 20
"""Bytes of a config file, at most; a usual one has two pages."""
_FOREIGN = "acctops reads every config.yaml from the job upward; keep jobs elsewhere if this one is another tool's"


class Credentials(Struct, frozen=True, kw_only=True):
    """Where API keys come from, beside the places that are always searched."""

    command: tuple[str, ...] = ()
    role_arn: str | None = None
    duration_s: int = 7200
    metadata: bool = True
    sts: str | None = None


class Config(Struct, frozen=True, kw_only=True):
    """What one config file says."""

    path: str
    values: Mapping[str, Any] = {}
    """Setting → value, by the names of Settings. Any: each key has its own type."""
    places: Mapping[str, Place] = {}
    protect: tuple[Glob, ...] = ()
    warnings: tuple[str, ...] = ()


class Configs(Struct, frozen=True, kw_only=True):
    """All config files that were found, nearest first, and the places that were searched."""

    files: tuple[Config, ...] = ()
    looked_in: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    trust: Trust = Trust()
    """Whose files are trusted, as the operator's own and the system's config say."""

    @property
    def protect(self) -> tuple[Glob, ...]:
        """The protect rules of all files; each glob has its place."""
        return tuple(glob for config in self.files for glob in config.protect)


def parse_config(data: bytes, file: str) -> Config:
    """Return the config in `data`; raise ConfigError with every problem. An empty file is an empty config."""
    from engine.inputs.jobfile.yamltext import decode, read_tree  # here: most commands find no config to read

    problems = Problems()
    text = decode(data, file, problems)
    root = read_tree(text, file, problems) if text is not None else None
    values: dict[str, Any] = {}
    places: dict[str, Place] = {}
    protect: tuple[Glob, ...] = ()
    fields = Fields(file, problems)
    table = fields.table(root, "", "keys such as site: and protect:") if root is not None else None
    if table is not None:
        fields.keys(table, "", kinds(ConfigFile), JOB_ONLY)
        values, places = fields.values(
            table, ConfigFile, skip=("protect", "quotas", "credentials", "notify", "approvals", "seal")
        )
        if "protect" in table.entries:
            protect = fields.globs(table.entries["protect"].value, "protect", fold=True)
        if "quotas" in table.entries:
            node = table.entries["quotas"].value
            values["quotas"] = _quotas(fields, node)
            places["quotas"] = fields.place(node)
            for key, name in ((SHARE, "quota_share"), (LOCAL, "local_share")):
                if type(node) is Table and (part := node.entries.get(key)) is not None:
                    share = fields.value(part.value, MaxShare, f"quotas.{key}")
                    values[name], places[name] = share, fields.place(part.value)
        if "credentials" in table.entries:
            node = table.entries["credentials"].value
            values["credentials"] = _credentials(fields, node)
            places["credentials"] = fields.place(node)
        if "approvals" in table.entries:
            from engine.inputs.approvals import read_approvals  # here: few configs ask for any

            node = table.entries["approvals"].value
            values["approvals"], places["approvals"] = read_approvals(fields, node), fields.place(node)
        if "seal" in table.entries:
            from engine.inputs.sealing import read_seal  # here: few configs have it

            node = table.entries["seal"].value
            values["seal"], places["seal"] = read_seal(fields, node), fields.place(node)
        if "notify" in table.entries:
            from engine.inputs.jobfile.notifying import read_notify

            node = table.entries["notify"].value
            values["notify"], places["notify"] = read_notify(fields, node), fields.place(node)
    if problems.count:
        raise ConfigError("\n".join(problems.lines()))
    warnings = tuple(empty_plan_warnings(protect, "protects"))
    return Config(path=file, values=values, places=places, protect=protect, warnings=warnings)


_APART = ("protect", "quotas", "credentials", "notify", "approvals", "seal")
"""Keys that are read by rules of their own."""


def _credentials(fields: Fields, node: Node) -> Credentials:
    known = kinds(filemodel.Credentials)
    table = fields.table(node, "credentials", f"a mapping of {', '.join(known)}")
    if table is None:
        return Credentials()
    fields.keys(table, "credentials", known)
    values, _ = fields.values(table, filemodel.Credentials, "credentials", skip=("command",))
    if "command" in table.entries:
        from engine.outside.programs import program_path  # here: few configs name a program

        command = fields.command(table.entries["command"].value, "credentials.command")
        file = fields.place(node).file
        values["command"] = tuple(program_path(part, file) if not at else part for at, part in enumerate(command))
    return Credentials(**values)


def _quotas(fields: Fields, node: Node) -> dict[str, float]:
    table = fields.table(node, "quotas", "a mapping of actions to calls a second")
    quotas = {}
    for name, entry in table.entries.items() if table is not None else ():
        if name in (SHARE, LOCAL):
            continue
        if name not in ACTIONS:
            what = f"unknown action{did_you_mean(name, (*ACTIONS, SHARE)) or '; known are ' + ', '.join(ACTIONS)}"
            fields.problems.add(fields.place(entry.key), f"quotas.{name}", what)
            continue
        quota = fields.value(entry.value, Rate, f"quotas.{name}")
        if quota is not None:
            quotas[name] = quota
    return quotas


def find_configs(
    *starts: Path,
    environ: Mapping[str, str],
    explicit: str | None = None,
    system: Path = SYSTEM,
    caller_home: Callable[[Mapping[str, str]], Path | None] | None = None,
) -> Configs:
    """Return every config file that applies to a job in one of the directories `starts` (no job: the current one).

    `explicit` (`--config`, else ACCTOPS_CONFIG) must exist and is the nearest; the others still count, for their
    guards. `caller_home` returns the home of the user who called sudo (for tests). Raise ConfigError if a file of that
    name is not a config of acctops, cannot be read or is not trusted: its guards cannot be known.
    """
    search = _Search(user_config(environ), system)
    named = explicit or environ.get("ACCTOPS_CONFIG")
    if named:
        search.take_named(Path(named))
    for start in starts:
        for directory in _ways(start):
            search.looked.append(f"{directory / NAME} and upward")
            for above in (directory, *directory.parents):
                search.take(above / NAME)
    for own in search.own:
        search.looked.append(str(own))
        search.take(own)
    search.warn_of_unread(caller_home or _caller_home, environ)
    return Configs(
        files=tuple(search.found),
        looked_in=tuple(dict.fromkeys(search.looked)),
        warnings=tuple(search.warnings),
        trust=search.trust,
    )


def _ways(directory: Path) -> tuple[Path, ...]:
    """Return `directory` as written and by every link on its way: the guards in each of them hold."""
    try:
        return ways_to(directory)
    except OSError as exc:
        if not directory.is_absolute() and _here() is None:
            raise ConfigError(_NO_HERE) from exc
        raise ConfigError(f"{directory}: {exc.strerror}; its guards cannot be known") from exc


def _here() -> Path | None:
    """Return the current directory; None if it was deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


class _Search:
    """A search of one place after the other. First the operator's own and the system's config say whom to trust."""

    def __init__(self, user: Path | None, system: Path) -> None:
        self.own = (user, system) if user is not None else (system,)
        self.looked: list[str] = []
        self.found: list[Config] = []
        self.warnings: list[str] = []
        self.trust = Trust(own=str(self.own[0]))
        self._seen: set[Path] = set()
        self._taken: set[tuple[int, int]] = set()
        self._own: dict[tuple[int, int], Config] = {}
        for path in self.own:
            opened = self._open(path)
            if opened is not None and opened.key not in self._own:
                self._own[opened.key] = self._parse(path, opened.data, "")
        self.trust = self._trusted()

    def take_named(self, path: Path) -> None:
        """Add the file that the operator names; ConfigError if it does not exist."""
        self.looked.append(str(path))
        if path.is_dir():
            raise ConfigError(f"{path}: is a directory, and no such config file; correct --config or ACCTOPS_CONFIG")
        if not self._take(path, "name another"):
            raise ConfigError(f"{path}: no such config file; correct --config or ACCTOPS_CONFIG")

    def take(self, path: Path) -> None:
        """Add the config at `path`, if there is one, and warn of files beside it with a similar name."""
        if path not in self._seen:
            self._seen.add(path)
            there = self._take(path, _ELSEWHERE)
            self.warnings += _near_names(path.parent, known=there)

    def _take(self, path: Path, move: str) -> bool:
        opened = self._open(path, move)
        if opened is None:
            return False
        if opened.key not in self._taken:
            self._taken.add(opened.key)
            config = self._own.get(opened.key) or self._parse(path, opened.data, move)
            if opened.key not in self._own:
                config = _without_trust(config)
            self.found.append(config)
            self.warnings += config.warnings
        return True

    def _parse(self, path: Path, data: bytes, move: str) -> Config:
        try:
            return parse_config(data, str(path))
        except ConfigError as exc:
            is_ours = path in self.own or move.startswith("name")
            raise ConfigError(str(exc) if is_ours else f"{exc}\n{_FOREIGN}") from exc

    def _open(self, path: Path, move: str = "") -> _Opened | None:
        """Return the bytes of a config; None if there is no file. ConfigError if it cannot be read or trusted."""
        try:
            is_link = stat.S_ISLNK(os.lstat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            _refuse_broken_way(path)
            return None
        except (OSError, ValueError) as exc:
            raise _unusable(path, getattr(exc, "strerror", None) or str(exc)) from exc
        try:
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{path}: is {kind_words(mode)}, and no config can be read there; {_THEN}")
            with os.fdopen(open_regular(path), "rb") as file:
                doubt = self.trust.doubt_open(file.fileno(), path)
                if doubt is not None:
                    raise self._mistrusted(path, doubt, move)
                found = os.fstat(file.fileno())
                data = file.read(MOST_CONFIG + 1)
        except FileNotFoundError as exc:
            if not is_link:
                return None  # removed just now
            raise ConfigError(f"{path}: is a link that leads nowhere; {_THEN}") from exc
        except OSError as exc:
            raise _unusable(path, exc.strerror or str(exc)) from exc
        if len(data) > MOST_CONFIG:
            raise ConfigError(f"{path}: larger than {MOST_CONFIG >> 20} MiB; this is no config of acctops")
        return _Opened((found.st_dev, found.st_ino), data)

    def _mistrusted(self, path: Path, doubt: Doubt, move: str) -> ConfigError:
        if path in self.own:
            return ConfigError(
                f"{path}: is not believed, as {doubt.words}; it says who is trusted, so it must be changed by nobody "
                f"but you: {self._way_on_of_own(path, doubt)}"
            )
        return ConfigError(mistrust(path, doubt, move))

    def _way_on_of_own(self, path: Path, doubt: Doubt) -> str:
        if doubt.owner is None:
            return f"chmod go-w {doubt.path}"
        if path == self.own[-1]:  # the system's
            return f"chown root {doubt.path}"
        if os.geteuid() == 0:
            return f"run this as {owner_name(doubt.owner)}, or with a home of root's own: sudo -H, HOME=/root"
        return f"HOME and XDG_CONFIG_HOME must lead to a place of your own, or chown {doubt.path}"

    def _trusted(self) -> Trust:
        """Return whom the operator's own and the system's config trust."""
        uids: set[int] = set()
        gids: set[int] = set()
        for config in self._own.values():
            for name in config.values.get("trust_owners", ()):
                uid = _uid(name)
                if uid is None:
                    where = config.places["trust_owners"]
                    self.warnings.append(f"{where}: trust_owners: there is no user {shown(name)} here")
                else:
                    uids.add(uid)
            gid = _gid(config.values.get("state_group"))
            if gid is not None:
                gids.add(gid)
        return Trust(uids=frozenset(uids), gids=frozenset(gids), own=self.trust.own)

    def warn_of_unread(
        self, caller_home: Callable[[Mapping[str, str]], Path | None], environ: Mapping[str, str]
    ) -> None:
        """Warn of a config in the home of the user who called sudo: it was not read, as root is another user."""
        home = caller_home(environ)
        if home is None:
            return
        path = home / ".config" / "acctops" / NAME
        with suppress(OSError):
            found = path.stat()
            if (found.st_dev, found.st_ino) not in self._taken:
                self.warnings.append(
                    f"{path}: is the config of who called sudo, and is not read: its guards do not hold; name it with "
                    f"--config, or say in {self.own[-1]} what is to hold for everybody"
                )


class _Opened(NamedTuple):
    """The bytes of a config that was read."""

    key: tuple[int, int]
    """Device and inode: a file counts once, under whatever name it is found."""
    data: bytes


def mistrust(path: object, doubt: Doubt, move: str) -> str:
    """Return the words for a file that is not trusted, and what to do: `move` away from it, or have it trusted."""
    return (
        f"{path}: is not believed, as {doubt.words}: it would decide what runs, where keys go or what is protected. "
        f"{move[:1].upper()}{move[1:]}, {doubt.way_on}"
    )


_THEN = "its guards cannot be known; mend or remove it"
_ELSEWHERE = "move the job, or cd, to where no file of others is found"
_NO_HERE = "the current directory was deleted, so guards cannot be looked for; cd to one that exists"


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path}: cannot be read ({why}); its protect rules would not hold: have it readable, or {_ELSEWHERE}"
    )


def _refuse_broken_way(path: Path) -> None:
    """Raise ConfigError if a directory above `path` is a link that leads nowhere: its config cannot be known."""
    for above in path.parents:
        try:
            if stat.S_ISLNK(os.lstat(above).st_mode) and not above.exists():
                raise ConfigError(f"{path}: {above} is a link that leads nowhere; {_THEN}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            raise _unusable(path, exc.strerror or str(exc)) from exc
        return


def _near_names(directory: Path, *, known: bool) -> list[str]:
    """Return warnings of files whose name is similar to a config's: they are not read, so their guards do not hold."""
    try:
        with os.scandir(directory) as entries:
            names = sorted(each.name for each in islice(entries, _MOST_ENTRIES) if each.name.lower() in _NEAR)
    except OSError:
        return []
    is_other = {"config.json"} if known else set()  # beside a config.yaml, it is another tool's
    return [
        f"{directory / name}: is not read, as acctops reads {NAME} alone; rename it if its guards are to hold"
        for name in names
        if name != NAME and name.lower() not in is_other
    ]


_NEAR = frozenset(
    f"{dot}config.{ending}" for dot in ("", ".") for ending in ("yaml", "yml", "yaml.txt", "yml.txt", "json")
)
_MOST_ENTRIES = 2000
"""Entries of a directory that are compared, at most: a command does not wait for a directory of a million files."""


def _without_trust(config: Config) -> Config:
    """Return `config` without its `trust_owners`, and with a warning if it had any: only two configs may say it."""
    if "trust_owners" not in config.values:
        return config
    what = f"{config.places['trust_owners']}: trust_owners means nothing here; it counts in your own or the system's"
    values = {name: value for name, value in config.values.items() if name != "trust_owners"}
    return replace(config, values=values, warnings=(*config.warnings, f"{what} config alone"))


def _uid(name: str) -> int | None:
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _gid(name: str | None) -> int | None:
    try:
        return gid_of(name) if name is not None else None
    except KeyError:
        return None


def _caller_home(environ: Mapping[str, str]) -> Path | None:
    """Return the home of the user who called sudo; None if nobody did."""
    name, number = environ.get("SUDO_USER", ""), environ.get("SUDO_UID", "")
    if os.geteuid() != 0 or not (name or number):
        return None
    try:
        user = pwd.getpwuid(int(number)) if number.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        return None
    return Path(user.pw_dir)


def user_config(environ: Mapping[str, str]) -> Path | None:
    """Return the user's own config file; None without a home. A timer that sets no HOME has its guards, too."""
    base = base_directory(environ, "XDG_CONFIG_HOME", ".config")
    if base is None and (home := home_of(environ)) is not None:
        base = home / ".config"
    return base / "acctops" / NAME if base is not None else None


def base_directory(environ: Mapping[str, str], name: str, under_home: str) -> Path | None:
    """Return a base directory of the XDG specification; relative paths do not count. None without an absolute HOME."""
    said = Path(environ.get(name, ""))
    if said.is_absolute():
        return said
    home = Path(environ.get("HOME", ""))
    return home / under_home if home.is_absolute() else None
