"""Makes frozen Settings from flags, environment, job and config files; each has its origin.

Flags win over the environment, the environment over the job, the job over config files (nearest first), those over
defaults. Guards add up instead: every `protect` rule of every file found holds, and of `keep_admins` and `limits` the
strictest value (promise P2).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from engine.api.actions import ACTIONS, LANGUAGE
from engine.api.endpoints import DEFAULT_SITE, access, is_loopback
from engine.api.names import did_you_mean, shown
from engine.cloud.proxy import WayOut, way_out
from engine.errors import ConfigError, UsageError
from engine.inputs.config import Config, Configs, Credentials, base_directory, find_configs, parse_config
from engine.inputs.guards import STRICTER, guard_words, need_readings, strictest
from engine.inputs.job import StopAfter
from engine.inputs.jobfile.fields import convert, kinds, rule
from engine.inputs.jobfile.filemodel import ConfigFile
from engine.inputs.settingtable import SETTINGS, WITH_FLAG, Setting
from engine.model import AccountSpec, Place
from engine.outside.databaseurls import url_problem, url_words
from engine.outside.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.api.endpoints import Access
    from engine.inputs.approvals import ApprovalRules
    from engine.inputs.job import Glob, Job, NotifySpec
    from engine.inputs.sealing import SealSpec

__all__ = ["Config", "Configs", "Flags", "Settings", "effective", "find_configs", "parse_config"]


LOCAL_SHARE = 0.5


class Flags(Struct, frozen=True, kw_only=True):
    """The flags of the command line as typed; None: not given. `effective` checks them."""

    config: str | None = None
    endpoints: tuple[str, ...] = ()
    state_dir: str | None = None
    database: str | None = None
    """URL of the database that has the runs."""
    profiles: tuple[str, ...] = ()
    rate: str | None = None
    workers: str | None = None
    timeout: str | None = None
    deadline: str | None = None
    no_verify: bool = False
    """Whether accounts are read neither before nor after."""
    page: str | None = None
    """The file of the page that is written while the run goes."""
    page_names: bool = False
    """Whether that page names accounts."""
    local: bool = False
    """Whether the runs are in the state directory, whatever database is named, at a share of the quota."""
    simulate: bool = False
    """Whether the in-process simulator answers: then the quota of the API does not apply."""


class Settings(Struct, frozen=True, kw_only=True):
    """How a run works. Times in seconds, rates in calls a second."""

    state_dir: Path
    """Directory of the runs; with a database only of what belongs to this host."""
    database: str | None = None
    """URL of the database that has the runs; None: the state directory has them."""
    site: str = DEFAULT_SITE
    endpoints: tuple[str, ...] = ()
    """Access points as written (`endpoints.endpoint_word`), each a lane of its own; empty: the site's nearest."""
    profiles: tuple[str, ...] = ()
    """Profiles of the vendor's CLI, each a lane of its own; empty: the first source that has keys."""
    credentials: Credentials = Credentials()
    state_group: str | None = None
    quotas: Mapping[str, float] = {}
    quota_share: float = 1.0
    """Share (0–1) of a quota to use if no `rate` is set."""
    local_share: float = LOCAL_SHARE
    """Share of a quota that a run beside the database (`--local`) uses: the runs there do not know of it."""
    is_local: bool = False
    """Whether this is such a run."""
    rate: float | None = None
    """None: the quota's share."""
    workers: int = 100
    per_instance: int = 4
    timeout_s: float = 10.0
    deadline_s: float | None = None
    """None: 10 min + 3 × calls/quota."""
    written_deadline_s: float | None = None
    """Deadline that the job or a config sets; a flag's or the environment's is for one session alone."""
    retry_transient_s: float = 120.0
    retry_busy_s: float = 600.0
    stop_after: StopAfter | None = None
    """As the operator set it; `stop_after_for` returns what holds for an action."""
    verify: bool = True
    """Whether accounts are read before and after."""
    notify: NotifySpec | None = None
    """Who is told; all of it comes from one file, the job or the nearest config that has the key."""
    metrics_file: Path | None = None
    """Absolute path of a Prometheus textfile."""
    page_file: Path | None = None
    """Absolute path of the page that is written while a run goes."""
    page_names: bool = False
    """Whether that page names accounts, and not only counts and codes."""
    way_out: WayOut = WayOut()
    """Proxy and certificates, for the API, STS and a webhook; `origin` has the origin of each."""
    language: str = LANGUAGE
    """Language of the server's messages."""
    keep_admins: int = 0
    """A guard like the limits below: usable superusers that each instance must keep; the greatest value set."""
    max_targets: int | None = None
    """Calls of a plan, at most; the least value set."""
    max_share: float | None = None
    """Calls of a plan as a share (0–1) of the accounts read, at most; the least value set."""
    approvals: ApprovalRules | None = None
    """Which plans need the signatures of further people: what all config files say, added up. None: none says any."""
    seal: SealSpec | None = None
    """What seals the end of a run: all of it comes from the nearest config that has the key."""
    protect: tuple[Glob, ...] = ()
    """All protect rules of all config files and the job; each has its place."""
    protect_waived: bool = False
    """Whether the job says `protect: none`: then there is no reminder. The rules above still hold."""
    trust_owners: tuple[tuple[str, Place], ...] = ()
    """Users whose configs, jobs and journals are trusted, and where the user's own or the system's config says so."""
    trust: Trust = Trust()
    """The same users as numbers, with the groups that are trusted."""
    looked_in: tuple[str, ...] = ()
    origin: Mapping[str, str] = {}
    """Setting → `--rate`, `ACCTOPS_RATE`, `jobs/x.yaml:3:1` or `default`."""
    said: Mapping[str, tuple[tuple[Any, Place], ...]] = {}
    """Guard that is a number → every value set, nearest config first, the job last. Any: as in `STRICTER`."""
    warnings: tuple[str, ...] = ()

    def access(self, regions: Iterable[str]) -> Access:
        """Return the access points for calls about instances in `regions`."""
        return access(self.site, self.endpoints, regions)

    def rate_for(self, action: str) -> float:
        """Return the calls a second to make in each lane: the `rate` that was set, else the quota's share.

        Beside the database a `rate` of a file or of the environment counts as far as it is below that share.
        """
        shared = self.quota(action) * self.quota_share
        if self.rate is None or (self.is_local and self.origin.get("rate") != "--rate" and self.rate > shared):
            return shared
        return self.rate

    def quota_for(self, action: str) -> float:
        """Return the calls a second in each lane for all runs of this host: a `rate` below it leaves some to others."""
        return max(self.rate_for(action), self.quota(action) * self.quota_share)

    def quota(self, action: str) -> float:
        """Return the calls a second the server allows for `action`: the config's value, else the documented one."""
        return self.quotas.get(action, ACTIONS[action].quota)

    def stop_after_for(self, action: str) -> StopAfter | None:
        """Return how many failed calls end a run of `action`: the value set, else the action's default, if any."""
        count = ACTIONS[action].stop_after
        default = StopAfter(count=count) if count is not None else None
        return self.stop_after or default

    @property
    def kept_in(self) -> str:
        """The state directory, or the database that has the runs, for a person."""
        return url_words(self.database) if self.database is not None else str(self.state_dir)

    @property
    def session_deadline_s(self) -> float | None:
        """The deadline in seconds that a flag or the environment sets for this session alone; None if neither does."""
        return self.deadline_s if self.origin.get("deadline_s") in ("--deadline", "ACCTOPS_DEADLINE") else None

    @property
    def guards(self) -> tuple[str, ...]:
        """Lines for the plan: each guard with its place; if there are no protect rules, the places searched."""
        found = [f"protect {glob.pattern} ({glob.place})" for glob in self.protect]
        if not self.protect and not self.protect_waived:
            found.append(f"no protect rules; looked in {', '.join(self.looked_in)}")
        found += [self.guard(name) for name in STRICTER if getattr(self, name)]
        if self.approvals is not None:
            found.append(f"approvals {self.approvals.words} ({', '.join(map(str, self.approvals.places))})")
        if self.stop_after is not None:
            found.append(f"stop_after {self.stop_after} ({self.origin.get('stop_after', 'default')})")
        return tuple(found)

    def guard(self, name: str) -> str:
        """Return a guard that is a number (`guards.STRICTER`) with its place: `keep_admins 1 (config.yaml:7:1)`."""
        return f"{guard_words(name, getattr(self, name))} ({self.origin.get(name, 'default')})"


_OURS = "ACCTOPS_"
_VARIABLES = {
    f"{_OURS}{name}"
    for name in ("CONFIG", "STATE_DIR", "DATABASE", "ENDPOINT", "PROFILE", "CA_BUNDLE", "DEBUG", "HOST_ID")
} | {each.variable for each in WITH_FLAG.values()}


def _unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return a warning for each variable `ACCTOPS_…` that means nothing: its name is probably misspelt."""
    slips = sorted(name for name in environ if name.startswith(_OURS) and name not in _VARIABLES and environ[name])
    return tuple(f"{shown(name)} in the environment means nothing{did_you_mean(name, _VARIABLES)}" for name in slips)


def effective(flags: Flags, environ: Mapping[str, str], job: Job | None, configs: Configs) -> Settings:
    """Return the settings that hold, with their origins; UsageError or ConfigError if one is wrong. Reads no file."""
    refuse_profiles(flags.profiles, job.accounts if job is not None else ())
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for setting in SETTINGS:
        name = setting.name
        said = _said(setting, flags, environ) or _written(name, job, configs)
        if said is None:
            origin[name] = "default"
        else:
            values[name], origin[name] = said
    written = _written("deadline_s", job, configs)
    values["written_deadline_s"] = written[0] if written is not None else None
    if flags.no_verify:
        values["verify"], origin["verify"] = False, "--no-verify"
    words: dict[str, tuple[tuple[Any, Place], ...]] = {}
    for name in STRICTER:
        words[name] = tuple(_every_word(name, job, configs))
        held = strictest(name, words[name])
        origin[name] = str(held[1]) if held is not None else "default"
        if held is not None:
            values[name] = held[0]
    for name, key, asked in (("endpoints", "endpoint", flags.endpoints), ("profiles", "profile", flags.profiles)):
        values[name], origin[name] = _several(name, key, asked, environ, job, configs)
    values["state_dir"], origin["state_dir"] = _state_dir(flags, environ, configs)
    values["database"], origin["database"] = _database(flags, environ, configs)
    if flags.local:
        share = values.get("local_share", LOCAL_SHARE)
        values["is_local"] = True
        if share < values.get("quota_share", 1.0):
            values["quota_share"], origin["quota_share"] = share, origin["local_share"]
    values["metrics_file"], origin["metrics_file"] = _config_path("metrics_file", environ, configs)
    values["page_file"], origin["page_file"] = _page_file(flags, environ, configs)
    values["page_names"] = flags.page_names
    values["way_out"] = _way_out(environ, configs)
    origin |= {name: values["way_out"].origin.get(name, "default") for name in _NETWORK}
    settings = Settings(
        **values,
        approvals=_approvals(configs),
        seal=next((file.values["seal"] for file in configs.files if file.values.get("seal") is not None), None),
        protect=configs.protect + (job.protect or () if job is not None else ()),
        protect_waived=job is not None and job.protect_waived,
        said={name: every for name, every in words.items() if every},
        trust=configs.trust,
        trust_owners=tuple(
            (name, place) for said, place in _every_word("trust_owners", None, configs) for name in said
        ),
        looked_in=configs.looked_in + ((job.path,) if job is not None else ()),
        origin=origin,
        warnings=configs.warnings
        + _unknown_variables(environ)
        + _idle_profile(origin["profiles"], job)
        + _beside_the_database(flags, values.get("quota_share", 1.0)),
    )
    if job is not None and not flags.simulate:
        check_rate(settings, job.action)
        settings = replace(settings, warnings=settings.warnings + _lost_headroom(settings, job.action))
    if job is not None:
        check_readings(settings, job.action)
    return settings


def with_guards(settings: Settings, configs: Configs, job: Job | None = None) -> Settings:
    """Return `settings` with the guards of further configs and of a job added, and with nothing else of them.

    Of the job `protect` and `keep_admins` are added; its `limits` were checked when its run began.
    """
    said = dict(settings.said)
    held: dict[str, Any] = {}
    origin = dict(settings.origin)
    for name in STRICTER:
        words = [*said.get(name, ()), *_every_word(name, job if name == "keep_admins" else None, configs)]
        found = strictest(name, words)
        if found is not None:
            said[name] = tuple(dict.fromkeys(words))
            held[name], origin[name] = found[0], str(found[1])
    return replace(
        settings,
        **held,
        approvals=_approvals(configs, settings.approvals),
        said=said,
        origin=origin,
        protect=tuple(dict.fromkeys((*settings.protect, *configs.protect, *((job and job.protect) or ())))),
        looked_in=tuple(dict.fromkeys((*settings.looked_in, *configs.looked_in, *([job.path] if job else [])))),
        warnings=tuple(dict.fromkeys((*settings.warnings, *configs.warnings))),
    )


def _approvals(configs: Configs, held: ApprovalRules | None = None) -> ApprovalRules | None:
    """Return what `held` and all config files ask for, added up; None if nothing does."""
    said = [file.values["approvals"] for file in configs.files if file.values.get("approvals") is not None]
    if not said:
        return held
    from engine.inputs.approvals import added_up  # here: most operators have none

    return added_up([*([held] if held is not None else []), *said])


def _idle_profile(origin: str, job: Job | None) -> tuple[str, ...]:
    """Return a warning if ACCTOPS_PROFILE is not used. A variable is often set for another job, so none is refused."""
    if job is None or not job.accounts or origin != "ACCTOPS_PROFILE":
        return ()
    return ("ACCTOPS_PROFILE is not used: the accounts of the job name their own keys",)


def refuse_profiles(profiles: Sequence[str], accounts: Sequence[AccountSpec]) -> None:
    """Raise UsageError for `--profile` if the job names its accounts, each with keys of its own."""
    if profiles and accounts:
        names = ", ".join(account.name for account in accounts)
        raise UsageError(f"--profile: the accounts of the job ({names}) name their own keys; remove the flag")


def _beside_the_database(flags: Flags, share: float) -> tuple[str, ...]:
    """Return the warning of a run that is kept beside the database."""
    if not flags.local or flags.simulate:
        return ()
    return (
        "--local: WORKS BESIDE THE DATABASE. Its holds, claims, live runs and used quota are not known here, and this "
        f"run is not known there; at most {share:.0%} of the quota is used, and the runs of the database leave nothing "
        "free for it. Have the runs of the database stopped, if they still go",
    )


def _lost_headroom(settings: Settings, action: str) -> tuple[str, ...]:
    """Return a warning if a `rate` that was set takes what `quotas.share` leaves free; the rate is kept."""
    shared = settings.quota(action) * settings.quota_share
    if settings.rate is None or settings.rate <= shared or settings.quota_share == 1:
        return ()
    if settings.is_local and settings.rate_for(action) == shared:
        return ()
    return (
        f"{settings.origin['rate']}: rate {settings.rate:g} is more than the {shared:g} calls a second that "
        f"quotas.{'local' if settings.is_local else 'share'} ({settings.origin['quota_share']}) allows, and is kept: "
        "it takes what was to stay free",
    )


def check_rate(settings: Settings, action: str) -> None:
    """Refuse a rate above the quota, which the server does not allow, unless every endpoint is this machine."""
    quota = settings.quota(action)
    if settings.rate is None or settings.rate <= quota:
        return
    if settings.endpoints and all(map(is_loopback, settings.endpoints)):
        return
    said = settings.origin.get("rate", "")
    what = (
        f"{said}: rate {settings.rate:g} is above the quota of {action}, {quota:g} calls a second; lower it, or "
        f"if the vendor has raised yours, say so in config.yaml: quotas: {{{action}: {settings.rate:g}}}"
    )
    raise UsageError(what) if said.startswith("--") else ConfigError(what)


def check_readings(settings: Settings, action: str) -> None:
    """Refuse settings without readings if a guard needs them; UsageError if a flag says so, else ConfigError."""
    needy = need_readings(action, keep_admins=settings.keep_admins, max_share=settings.max_share)
    if settings.verify or not needy:
        return
    said = settings.origin.get("verify", "")
    by_flag = said.startswith("--")
    what = (
        f"{said}: {'' if by_flag else 'verify: false: '}without readings "
        f"{' and '.join(settings.guard(name) for name in needy)} cannot hold; remove one"
    )
    raise UsageError(what) if by_flag else ConfigError(what)


def _said(setting: Setting, flags: Flags, environ: Mapping[str, str]) -> tuple[Any, str] | None:
    """Return a setting from flag or environment, with its origin; None if neither sets it."""
    if not setting.metavar:
        return None
    by_flag = getattr(flags, setting.key)
    if by_flag is not None:
        return _convert(str(by_flag), setting.key, setting.flag), setting.flag
    by_variable = environ.get(setting.variable)
    return (_convert(by_variable, setting.key, setting.variable), setting.variable) if by_variable else None


def _convert(text: str, key: str, origin: str) -> Any:
    try:
        return convert(text, kinds(ConfigFile)[key])
    except ValueError as exc:
        got = f", got {shown(text)}" if str(exc).startswith("expected") else ""
        error = UsageError if origin.startswith("--") else ConfigError
        raise error(f"{origin}: {exc}{got}") from None


def _written(name: str, job: Job | None, configs: Configs) -> tuple[Any, str] | None:
    """Return a setting from the job or the nearest config that has it, with its origin; None if none has it."""
    if job is not None and (by_job := job.settings.get(name, getattr(job, name, None))) is not None:
        return by_job, str(job.places.get(name, job.path))
    for config in configs.files:
        if name in config.values:
            return config.values[name], str(config.places[name])
    return None


def _every_word(name: str, job: Job | None, configs: Configs) -> list[tuple[Any, Place]]:
    """Return each value of a guard with its place, nearest config first, the job last. Any: each guard has its type."""
    said = [(file.values[name], file.places[name]) for file in configs.files if name in file.values]
    if job is not None and (by_job := getattr(job, name)) is not None:
        said.append((by_job, job.places.get(name, Place(job.path))))
    return said


def _several(
    name: str, key: str, asked: Sequence[str], environ: Mapping[str, str], job: Job | None, configs: Configs
) -> tuple[tuple[str, ...], str]:
    """Return a setting of several values, and its origin: a flag is repeated; a variable separates them by commas."""
    flag, variable = f"--{key}", f"ACCTOPS_{key.upper()}"
    said, origin = list(asked), flag
    if not said:
        said = [part.strip() for part in environ.get(variable, "").split(",") if part.strip()]
        origin = variable
    if not said:
        return _written(name, job, configs) or ((), "default")
    each = [_convert(text, key, origin) for text in said]
    try:
        return rule(kinds(ConfigFile)[key])["together"](each), origin
    except ValueError as exc:
        raise (UsageError if origin == flag else ConfigError)(f"{origin}: {exc}") from None


def _state_dir(flags: Flags, environ: Mapping[str, str], configs: Configs) -> tuple[Path, str]:
    for said, origin in ((flags.state_dir, "--state-dir"), (environ.get("ACCTOPS_STATE_DIR"), "ACCTOPS_STATE_DIR")):
        if said:
            return _whole(_expanded(said, environ, origin), origin), origin
    path, origin = _config_path("state_dir", environ, configs)
    if path is not None:
        return path, origin
    base = base_directory(environ, "XDG_STATE_HOME", ".local/state")
    if base is None:
        raise ConfigError(
            "no directory for journals: neither HOME nor XDG_STATE_HOME is set, as under cron or systemd; set "
            "ACCTOPS_STATE_DIR=/var/lib/acctops in the crontab or unit, or state_dir in config.yaml, or pass "
            "--state-dir DIR"
        )
    return base / "acctops", "default"


def _database(flags: Flags, environ: Mapping[str, str], configs: Configs) -> tuple[str | None, str]:
    """Return the URL of the database that has the runs, and its origin; None if the state directory has them.

    A state directory that a flag names has its own runs, whatever environment and config say.
    """
    if flags.database is not None and flags.state_dir is not None:
        raise UsageError("--database and --state-dir: the runs are in one of the two; give one")
    if flags.local and flags.database is not None:
        raise UsageError("--local and --database: --local keeps the run in files, beside any database; give one")
    if flags.state_dir is not None:
        return None, "--state-dir"
    if flags.local:
        return None, "--local"
    written = _written("state", None, configs)
    for said, origin in (
        (flags.database, "--database"),
        (environ.get("ACCTOPS_DATABASE") or None, "ACCTOPS_DATABASE"),
        written or (None, ""),
    ):
        if said is not None:
            if (problem := url_problem(said)) is not None:
                raise (UsageError if origin.startswith("--") else ConfigError)(f"{origin}: the URL {problem}")
            return said, origin
    return None, "default"


def _whole(path: Path, origin: str) -> Path:
    try:
        return path.absolute()
    except FileNotFoundError as error:
        raise _wrong_path(origin, f"{path} is relative, and the current directory was deleted") from error


def _config_path(name: str, environ: Mapping[str, str], configs: Configs) -> tuple[Path | None, str]:
    """Return a path that only config files name, relative to that file, and its origin; (None, "default") if none."""
    for config in configs.files:
        if name in config.values:
            origin = str(config.places[name])
            path = _whole(Path(config.path), origin).parent / _expanded(config.values[name], environ, origin)
            return path, origin
    return None, "default"


def _page_file(flags: Flags, environ: Mapping[str, str], configs: Configs) -> tuple[Path | None, str]:
    """Return where the page of a run is written, by `--page` or config, and its origin; UsageError if only its names
    are asked for.
    """
    if flags.page is not None:
        return _whole(Path(flags.page), "--page"), "--page"
    path, origin = _config_path("page_file", environ, configs)
    if path is None and flags.page_names:
        raise UsageError("--page-names: there is no page; give --page FILE, or page_file in config.yaml")
    return path, origin


_NETWORK = ("proxy", "no_proxy", "ca_bundle")


def _way_out(environ: Mapping[str, str], configs: Configs) -> WayOut:
    """Return proxy and certificates; each key comes from the environment or the nearest config that has it."""
    said = {name: found for name in _NETWORK[:2] if (found := _written(name, None, configs)) is not None}
    bundle, origin = _config_path("ca_bundle", environ, configs)
    return way_out(environ, said if bundle is None else said | {"ca_bundle": (str(bundle), origin)})


def _expanded(text: str, environ: Mapping[str, str], origin: str) -> Path:
    """Return a path with `~` replaced by HOME. Refuse a text that only a shell would understand (`_ODD_PATHS`)."""
    odd = next((words for words, is_so in _ODD_PATHS if is_so(text)), None)
    if odd is not None:
        raise _wrong_path(origin, f"{shown(text)} {odd}; write the path itself, such as /var/lib/acctops")
    if text.partition("/")[0] != "~":
        return Path(text)
    home = environ.get("HOME", "")
    if not Path(home).is_absolute():
        raise _wrong_path(origin, f"{shown(text)} asks for a home directory, and HOME is not set")
    return Path(home, text[2:])


def _wrong_path(origin: str, what: str) -> UsageError | ConfigError:
    return (UsageError if origin.startswith("--") else ConfigError)(f"{origin}: {what}")


_ODD_PATHS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    # words for what is wrong, and the test for it
    (
        "has a character at an end or inside that nobody sees",
        lambda text: not text.isprintable() or text != text.strip(),
    ),
    ("is quoted, and nobody takes the quotes away here", lambda text: text[0] in "\"'" or text[-1] in "\"'"),
    ("has a $, and nobody fills it in here", lambda text: "$" in text),
    ("begins with ~ and a name, which only a shell knows", lambda text: text[0] == "~" and text[1:2] not in ("", "/")),
)
