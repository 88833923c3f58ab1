"""The settings that hold, as lines for a person: keys and values in the words of job and config.

The lines hold no secret: they say where keys come from, and leave out a program's arguments and a proxy's password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from engine.api.endpoints import NEAREST_WORD
from engine.inputs.guards import STRICTER
from engine.inputs.settingtable import SETTINGS, Setting
from engine.outside.databaseurls import url_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.inputs.job import Job
    from engine.inputs.settings import Settings

DEFAULT = "default"


class Line(Struct, frozen=True, kw_only=True):
    """One setting. Any: text, a number, true or false, a list of these, or null for nothing."""

    key: str
    """The key as files write it, such as `retry.busy`."""
    value: Any
    origin: str
    """`--rate`, `ACCTOPS_RATE`, a place in a file or `default`."""
    places: tuple[tuple[Any, str], ...] = ()
    """For what adds up (guards, exclusions): each value that was set, with its place. Any: as above."""
    nothing: str = "none"
    """What holds if the value is null, in words."""


def lines_of(settings: Settings, job: Job | None, environ: Mapping[str, str]) -> list[Line]:
    """Return every setting that holds for the job; without a job, every setting but those that only a job has."""
    lines = [
        *_plain(settings),
        *_pace(settings, job),
        *_keys(settings, job, environ),
        *_notify(settings),
        *_guards(settings),
    ]
    return lines + (list(_of_job(job)) if job is not None else [])


def _program(command: Sequence[str]) -> str | None:
    """Return a command without its arguments, which may hold a secret."""
    return f"{command[0]}{' …' * (len(command) > 1)}" if command else None


def _plain(settings: Settings) -> Iterator[Line]:
    """Yield the settings whose value says all."""
    way, origin = settings.way_out, settings.origin
    metrics = str(settings.metrics_file) if settings.metrics_file else None
    found = {
        "endpoint": ("endpoints", list(settings.endpoints) or [NEAREST_WORD]),
        "network.proxy": ("proxy", way.proxy_shown or None),
        "network.no_proxy": ("no_proxy", list(way.no_proxy)),
        "network.ca_bundle": ("ca_bundle", way.ca_bundle or None),
        "state_dir": ("state_dir", str(settings.state_dir)),
        "state": ("database", url_words(settings.database) if settings.database is not None else None),
        "metrics_file": ("metrics_file", metrics),
        "page_file": ("page_file", str(settings.page_file) if settings.page_file else None),
        **{each.key: (each.name, _value(settings, each)) for each in SETTINGS if each.shown},
        "quotas": ("quotas", [f"{action}: {quota:g}" for action, quota in settings.quotas.items()]),
        "quotas.share": ("quota_share", _percent(settings.quota_share)),
        "quotas.local": ("local_share", _percent(settings.local_share)),
    }
    for key in dict.fromkeys((*_FIRST, *(each.key for each in SETTINGS if each.shown), *found)):
        name, value = found[key]
        yield Line(key=key, value=value, origin=origin[name])


_FIRST = (
    *("site", "endpoint", "network.proxy", "network.no_proxy", "network.ca_bundle", "network.language"),
    *("state", "state_dir", "state_group", "metrics_file", "page_file"),
)
"""Keys that are shown first; the rest follow in the order of the table."""


def _value(settings: Settings, setting: Setting) -> Any:
    value = getattr(settings, setting.name)
    return written_duration(value) if setting.name.endswith("_s") else value


def _pace(settings: Settings, job: Job | None) -> Iterator[Line]:
    """Yield the settings whose default depends on the action, which only a job has."""
    origin = settings.origin
    rate = settings.rate_for(job.action) if job is not None else settings.rate
    yield Line(key="rate", value=rate, origin=origin["rate"], nothing="the action's quota")
    deadline = written_duration(settings.deadline_s) if settings.deadline_s is not None else None
    yield Line(
        key="deadline", value=deadline, origin=origin["deadline_s"], nothing="10 min, and three times what it needs"
    )
    stop_after = settings.stop_after_for(job.action) if job is not None else settings.stop_after
    nothing = "none" if job is not None else "none to lock or unlock, 20 for the CAM actions"
    value = str(stop_after) if stop_after is not None else None
    yield Line(key="stop_after", value=value, origin=origin["stop_after"], nothing=nothing)


def _keys(settings: Settings, job: Job | None, environ: Mapping[str, str]) -> Iterator[Line]:
    """Yield who signs: the first source of keys by settings and environment. No program runs, no file is read."""
    accounts = job.accounts if job is not None else ()
    if accounts:
        assert job is not None
        found = [f"{each.name}: {', '.join(each.profiles) or 'the keys found'}" for each in accounts]
        yield Line(key="accounts", value=found, origin=str(job.places.get("accounts", job.path)))
    else:
        profiles = list(settings.profiles) or None
        yield Line(key="profile", value=profiles, origin=settings.origin["profiles"])
    said, where = settings.credentials, settings.origin["credentials"]
    source, origin = _source(settings, environ, named=bool(accounts))
    yield Line(key="credentials", value=source, origin=origin)
    yield Line(key="credentials.command", value=_program(said.command), origin=where if said.command else DEFAULT)
    role, role_at = said.role_arn, where if said.role_arn else DEFAULT
    both = [environ.get(name, "").strip() for name in ("TENCENTCLOUD_ROLE_ARN", "TENCENTCLOUD_ROLE_SESSION_NAME")]
    if all(both) and not settings.profiles:
        role, role_at = both[0], "TENCENTCLOUD_ROLE_ARN"
    yield Line(key="credentials.role_arn", value=role, origin=role_at)
    for name, value, plain in (
        ("duration", written_duration(said.duration_s), "2h"),
        ("metadata", said.metadata, True),
        ("sts", said.sts, None),
    ):
        origin = where if value != plain else DEFAULT
        yield Line(key=f"credentials.{name}", value=value, origin=origin, nothing="the site's")


def _source(settings: Settings, environ: Mapping[str, str], *, named: bool) -> tuple[str, str]:
    """Return the name of the source of keys, as far as settings and environment decide it, and its origin."""
    if named:
        return "as each account says", "accounts"
    if settings.profiles:
        return f"profile {', '.join(settings.profiles)}", settings.origin["profiles"]
    for ending, words in (("", "environment"), ("_FILE", "environment files")):
        variable = f"TENCENTCLOUD_SECRET_ID{ending}"
        if environ.get(variable, "").strip():
            return words, variable
    if settings.credentials.command:
        return f"credential command {settings.credentials.command[0]}", settings.origin["credentials"]
    if environ.get("TCCLI_PROFILE"):
        return f"tccli profile {environ['TCCLI_PROFILE']}, if it is there", "TCCLI_PROFILE"
    return "whatever is found; acctops doctor says it", DEFAULT


def _notify(settings: Settings) -> Iterator[Line]:
    spec, origin = settings.notify, settings.origin["notify"]
    webhook = None
    if spec is not None and "webhook" in spec.ways:
        webhook = f"url_env {spec.url_env}" if spec.url_env else f"url_file {spec.url_file}"
    yield Line(key="notify.command", value=_program(spec.command) if spec is not None else None, origin=origin)
    yield Line(key="notify.webhook", value=webhook, origin=origin)
    yield Line(key="notify.env", value=list(spec.env) if spec is not None else [], origin=origin)
    yield Line(key="notify.on", value=list(spec.on) if spec is not None else [], origin=origin)


def _guards(settings: Settings) -> Iterator[Line]:
    """Yield the guards; as they add up, each has everything that contributes to it."""
    rules = tuple((rule.pattern, str(rule.place)) for rule in settings.protect)
    first = rules[0][1] if rules else DEFAULT
    owners = tuple((name, str(place)) for name, place in settings.trust_owners)
    origin = owners[0][1] if owners else DEFAULT
    yield Line(key="trust_owners", value=[name for name, _ in owners], origin=origin, places=owners)
    nothing = "none, and the job says so" if settings.protect_waived else "none"
    yield Line(key="protect", value=[each for each, _ in rules], origin=first, places=rules, nothing=nothing)
    for name, guard in STRICTER.items():
        value = getattr(settings, name)
        words = _percent if guard.is_share else _as_is
        places = tuple((words(each), str(place)) for each, place in settings.said.get(name, ()))
        held = words(value) if value is not None else None
        yield Line(key=guard.group + name, value=held, origin=settings.origin[name], places=places)
    asked = settings.approvals
    places = tuple((asked.words, str(place)) for place in asked.places) if asked is not None else ()
    at = places[0][1] if places else DEFAULT
    yield Line(key="approvals", value=asked.words if asked is not None else None, origin=at, places=places)
    seal = settings.seal
    where = str(seal.place) if seal is not None else DEFAULT
    yield Line(key="seal", value=seal.words if seal is not None else None, origin=where)


def _as_is(value: Any) -> Any:
    return value


def _of_job(job: Job) -> Iterator[Line]:
    """Yield the settings that only a job has."""

    def at(name: str) -> str:
        return str(job.places[name]) if name in job.places else DEFAULT

    excluded = tuple((rule.pattern, str(rule.place)) for rule in job.exclude)
    first = excluded[0][1] if excluded else DEFAULT
    yield Line(key="exclude", value=[each for each, _ in excluded], origin=first, places=excluded)
    yield Line(key="limits.take", value=job.take, origin=at("take"))
    yield Line(key="order", value="listed" if job.listed_order else "contain", origin=at("listed_order"))
    yield Line(key="resend_already", value=job.resend_already, origin=at("resend_already"))
    window = job.window
    yield Line(
        key="window",
        value=window.label if window is not None else None,
        origin=str(window.place) if window is not None else DEFAULT,
        nothing="at any time",
    )
    yield Line(key="on_unfinished", value=job.on_unfinished, origin=at("on_unfinished"))
    source = job.passwords
    value, where = (None, DEFAULT)
    if source is not None:
        value, where = source.label + ", stored" * source.stored, str(source.place)
    yield Line(key="passwords", value=value, origin=where)


def _percent(share: float | None) -> str | None:
    return f"{round(share * 100, 6):g}%" if share is not None else None


def written_duration(seconds: float) -> str:
    """Return a duration as an operator writes it: `10s`, `1h30m`, `500ms`."""
    left, parts = round(seconds * 1000), []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    return "".join(parts) or "0s"
