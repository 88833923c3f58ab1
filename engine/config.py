"""Devices, floor 2: `config.yaml`, wherever it stands: found, read, checked. Reads, never writes.

Searched from the job's directory upward, then the user's, then the system's config directory. Of most keys the nearest
file's word counts; guards (`protect`, `keep_admins`, `limits`) of all files add up (promise P2). A file that cannot be
read stops the command: the guards in it would not hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from engine.actions import ACTIONS
from engine.errors import ConfigError
from engine.guards import empty_plan_warnings
from engine.jobfile import filemodel
from engine.jobfile.fields import Fields, kinds
from engine.jobfile.filemodel import JOB_ONLY, ConfigFile, MaxShare, Rate
from engine.jobfile.nodes import Table
from engine.jobfile.problems import Problems
from engine.names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.job import Glob
    from engine.jobfile.nodes import Node
    from engine.model import Place

NAME = "config.yaml"
SHARE = "share"
"""The key of `quotas` that is no action: how much of every quota to use."""
SYSTEM = Path("/etc/acctops") / NAME
MOST_CONFIG = 1 << 20
"""Bytes of a config file; ours has two pages."""
_FOREIGN = "acctops reads every config.yaml from the job upward; keep jobs elsewhere if this one is another tool's"


class Credentials(Struct, frozen=True, kw_only=True):
    """Where API keys come from, beside the places everybody looks in."""

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
    """All config files found, nearest first, and the places looked in."""

    files: tuple[Config, ...] = ()
    looked_in: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def protect(self) -> tuple[Glob, ...]:
        """The guards of all files; each glob's place says where it stands."""
        return tuple(glob for config in self.files for glob in config.protect)


def parse_config(data: bytes, file: str) -> Config:
    """The config in `data`, or ConfigError with every problem. An empty file is an empty config."""
    from engine.jobfile.yamltext import decode, read_tree  # here: most commands find no config to read

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
        values, places = fields.values(table, ConfigFile, skip=("protect", "quotas", "credentials", "notify"))
        if "protect" in table.entries:
            protect = fields.globs(table.entries["protect"].value, "protect", fold=True)
        if "quotas" in table.entries:
            node = table.entries["quotas"].value
            values["quotas"] = _quotas(fields, node)
            places["quotas"] = fields.place(node)
            if type(node) is Table and (part := node.entries.get(SHARE)) is not None:
                share = fields.value(part.value, MaxShare, f"quotas.{SHARE}")
                values["quota_share"], places["quota_share"] = share, fields.place(part.value)
        if "credentials" in table.entries:
            node = table.entries["credentials"].value
            values["credentials"] = _credentials(fields, node)
            places["credentials"] = fields.place(node)
        if "notify" in table.entries:
            from engine.jobfile.notifying import read_notify

            node = table.entries["notify"].value
            values["notify"], places["notify"] = read_notify(fields, node), fields.place(node)
    if problems.count:
        raise ConfigError("\n".join(problems.lines()))
    warnings = tuple(empty_plan_warnings(protect, "protects"))
    return Config(path=file, values=values, places=places, protect=protect, warnings=warnings)


def _credentials(fields: Fields, node: Node) -> Credentials:
    known = kinds(filemodel.Credentials)
    table = fields.table(node, "credentials", f"a mapping of {', '.join(known)}")
    if table is None:
        return Credentials()
    fields.keys(table, "credentials", known)
    values, _ = fields.values(table, filemodel.Credentials, "credentials", skip=("command",))
    if "command" in table.entries:
        from engine.programs import program_path  # here: few configs name a program

        command = fields.command(table.entries["command"].value, "credentials.command")
        file = fields.place(node).file
        values["command"] = tuple(program_path(part, file) if not at else part for at, part in enumerate(command))
    return Credentials(**values)


def _quotas(fields: Fields, node: Node) -> dict[str, float]:
    table = fields.table(node, "quotas", "a mapping of actions to calls a second")
    quotas = {}
    for name, entry in table.entries.items() if table is not None else ():
        if name == SHARE:
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
    *starts: Path, environ: Mapping[str, str], explicit: str | None = None, system: Path = SYSTEM
) -> Configs:
    """Every config file that applies to a job in one of the directories `starts` (no job: the current one).

    `explicit` (`--config`, else ACCTOPS_CONFIG) must exist and is the nearest; the others still count, for their
    guards. ConfigError if a file found is not ours or cannot be read: its guards cannot be known.
    """
    named = explicit or environ.get("ACCTOPS_CONFIG")
    looked: list[str] = []
    seen: set[Path] = set()
    found: list[Config] = []
    warnings: list[str] = []
    for path, why in _candidates(named, starts, environ, system, looked):
        real = path.resolve()
        if real in seen:
            continue
        seen.add(real)
        data = _read(path, must_exist=why == "named")
        if data is None:
            continue
        if why == "upward" and (odd := _writable_by_others(path)):
            warnings.append(odd)
        try:
            config = parse_config(data, str(path))
        except ConfigError as exc:
            raise ConfigError(f"{exc}\n{_FOREIGN}" if why == "upward" else str(exc)) from exc
        found.append(config)
        warnings += config.warnings
    return Configs(files=tuple(found), looked_in=tuple(looked), warnings=tuple(warnings))


def _candidates(
    named: str | None, starts: Sequence[Path], environ: Mapping[str, str], system: Path, looked: list[str]
) -> Iterator[tuple[Path, str]]:
    if named:
        looked.append(named)
        yield Path(named), "named"
    for start in starts:
        # As written and as linked: a guard beside either holds.
        for directory in dict.fromkeys((start.absolute(), start.resolve())):
            looked.append(f"{directory / NAME} and upward")
            for above in (directory, *directory.parents):
                yield above / NAME, "upward"
    if (home := user_config(environ)) is not None:
        looked.append(str(home))
        yield home, "user"
    looked.append(str(system))
    yield system, "system"


def user_config(environ: Mapping[str, str]) -> Path | None:
    """The user's own config file; None without a home."""
    base = base_directory(environ, "XDG_CONFIG_HOME", ".config")
    return base / "acctops" / NAME if base is not None else None


def base_directory(environ: Mapping[str, str], name: str, under_home: str) -> Path | None:
    """A base directory as the XDG specification has it: relative ones do not count."""
    said = Path(environ.get(name, ""))
    if said.is_absolute():
        return said
    home = Path(environ.get("HOME", ""))
    return home / under_home if home.is_absolute() else None


def _read(path: Path, *, must_exist: bool) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_CONFIG + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as exc:
        if must_exist:
            raise ConfigError(f"{path}: no such config file; correct --config or ACCTOPS_CONFIG") from exc
        return None
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise ConfigError(f"{path}: cannot be read ({why}); its protect rules would not hold") from exc
    if len(data) > MOST_CONFIG:
        raise ConfigError(f"{path}: larger than {MOST_CONFIG >> 20} MiB; this is no config of acctops")
    return data


def _writable_by_others(path: Path) -> str | None:
    """A config upward that anybody can change could name an endpoint of theirs."""
    return f"{path}: anybody can write it; chmod o-w" if path.stat().st_mode & 0o002 else None
