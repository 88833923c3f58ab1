"""Written text → value, for keys whose rule is more than a pattern. No I/O.

Each reader raises ValueError with words for a person. If the words begin with "expected", the caller adds the value, as
only the caller knows whether it may be shown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.api import names
from engine.api.actions import ACTIONS
from engine.inputs.job import StopAfter, Wave, wave_of

if TYPE_CHECKING:
    from collections.abc import Sequence

DURATION_PATTERN = "(?:([0-9.]+)w)?(?:([0-9.]+)d)?(?:([0-9.]+)h)?(?:([0-9.]+)m)?(?:([0-9.]+)s)?(?:([0-9.]+)ms)?"
_parts = re.compile(DURATION_PATTERN).fullmatch
_UNITS_S = (7 * 86400.0, 86400.0, 3600.0, 60.0, 1.0, 0.001)
MOST_S = 366 * 24 * 3600.0
"""A year (366 days): a longer duration has a wrong unit."""
LEAST_EVERY_S = 60.0
"""Seconds between two readings of a watch, at least."""


def seconds(text: str) -> float:
    """Return a duration (`90s`, `15m`, `1h30m`, `8d`, `1w`) in seconds; ValueError with words if it is none."""
    found = _parts(text)
    words = "a duration with its unit: 500ms, 90s, 15m, 1h30m, 12h, 8d, 1w"
    if found is None or not text:
        raise ValueError(f"expected {words}")
    try:
        total = sum(float(part) * unit for part, unit in zip(found.groups(), _UNITS_S, strict=True) if part)
    except ValueError:  # 1.2.3s
        raise ValueError(f"expected {words}") from None
    if not total <= MOST_S:
        raise ValueError("expected a duration of at most a year (366d)")
    return total


def some_seconds(text: str) -> float:
    """Return a duration above 0 in seconds; ValueError with words otherwise."""
    total = seconds(text)
    if total <= 0:
        raise ValueError("expected a duration longer than 0s")
    return total


def second_or_more(text: str) -> float:
    """Return a duration of at least a second in seconds; ValueError with words otherwise."""
    total = seconds(text)
    if total < 1.0:
        raise ValueError("expected a duration of at least 1s")
    return total


def rare_enough(text: str) -> float:
    """Return a duration of at least a minute in seconds; ValueError with words otherwise."""
    total = seconds(text)
    if total < LEAST_EVERY_S:
        raise ValueError("expected a duration of at least 1m")
    return total


def moment(text: str) -> float:
    """Return a moment (`2026-12-01T08:00+08:00`, `2026-12-01T00:00Z`) in UNIX seconds; else ValueError with words.

    A time without a zone is none: the words then show what it may mean.
    """
    from datetime import datetime

    found = re.fullmatch(r"([0-9-]{10})[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2})?) ?(Z|[+-][0-9]{2}(?::?[0-9]{2})?)?", text)
    try:
        if found is None:
            raise ValueError
        day, clock, zone = found.groups()
        at = datetime.fromisoformat(f"{day}T{clock}{zone or ''}").astimezone()
    except (ValueError, OverflowError):
        raise ValueError(
            "expected a time with its zone, such as 2026-12-01T08:00Z (UTC) or 2026-12-01T08:00+08:00"
        ) from None
    if zone is not None:
        return at.timestamp()
    here = at.isoformat()[-6:]
    meant = (
        "Z if it is UTC, which is the time here, too, or with its offset"
        if here == "+00:00"
        else f"Z if it is UTC, or {day}T{clock}{here} if it is the time here"
    )
    example = f", such as {day}T{clock}+08:00" if here == "+00:00" else ""
    raise ValueError(f"{names.shown(text)} has no time zone; write {day}T{clock}{meant}{example}")


def day_or_moment(text: str) -> float:
    """Return a day (`2026-12-01`, from its first second in UTC on) or a moment in UNIX seconds; else ValueError."""
    if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return moment(f"{text}T00:00Z")
    return moment(text)


def stamp_url(text: str) -> str:
    """Return the URL of a time-stamping authority; else ValueError, whose words never repeat a name or a password."""
    if "@" in text or "?" in text or "#" in text:
        raise ValueError("a URL of a time-stamping authority has no user, question mark or # in it")
    if re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+(?:/[!-~]*)?", text) is None:
        raise ValueError("expected a URL, such as https://tsa.example.org/tsr")
    return text


def role_duration(text: str) -> int:
    """Return how long a role's session lives, in whole seconds, within the limits of STS (PY-COMMON)."""
    total = round(seconds(text))
    if not 1 <= total <= 12 * 3600:
        raise ValueError("expected a duration from 1s to 12h")
    return total


def stop_after(text: str) -> StopAfter:
    """Return the limit in `20` (failed calls) or `5%` (of the plan); ValueError with words otherwise."""
    if text.endswith("%"):
        return StopAfter(share=share(text))
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ValueError("expected a number of failed calls (20) or a share of the plan (5%)")
    if int(text) < 1:
        raise ValueError("expected at least 1 failed call")
    return StopAfter(count=int(text))


def wave_share(text: str) -> Wave:
    """Return how many accounts a wave takes (`3`, `10%`, `rest`), without its soak; ValueError with words otherwise."""
    found = wave_of(text)
    if found is None:
        raise ValueError("expected a number of accounts above 0, a share from 0.001% to 100%, or rest")
    return found


def share(text: str) -> float:
    """Return a percentage (`5%`, `0.5%`) as a share, 0–1; ValueError with words otherwise."""
    if not re.fullmatch("[0-9]{1,9}(?:[.][0-9]{1,3})?%", text):
        raise ValueError("expected a percentage such as 5% or 0.5%")
    part = float(text[:-1]) / 100
    if not 0 < part <= 1:
        raise ValueError("expected a percentage above 0% and at most 100%")
    return part


def distinct(values: Sequence[str]) -> tuple[str, ...]:
    """Return the values in order, each once."""
    return tuple(dict.fromkeys(values))


def true_or_false(text: str) -> bool:
    """Return the meaning of `true` or `false`; ValueError with words otherwise."""
    found = {"true": True, "false": False}.get(text.lower())
    if found is None:
        raise ValueError("expected true or false")
    return found


def on_or_off(text: str) -> bool:
    """Return the meaning of `on` or `off`, `true` or `false`; ValueError with words otherwise."""
    found = {"on": True, "off": False, "true": True, "false": False}.get(text.lower())
    if found is None:
        raise ValueError("expected on or off")
    return found


def proxy_url(text: str) -> str:
    """Return a proxy's URL; else ValueError, whose words never repeat the text, as it may hold a password."""
    if "@" in text:
        raise ValueError(
            "a proxy's name and password are a secret and never stand in this file; put the whole URL into HTTPS_PROXY,"
            " in the environment or in the file that a unit reads it from (acctops schedule --env-file)"
        )
    found = re.fullmatch(r"https?://(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?/?", text)
    if found is None or not 0 < int(found[1] or 1) < 65_536:
        raise ValueError("a proxy is http://host:port or https://host:port")
    return text.rstrip("/")


def past_proxy(text: str) -> str:
    """Return what is reached without a proxy: a host or a domain, perhaps with a port, a network, or `*`."""
    words = "expected a host, a domain above it, a network such as 10.0.0.0/8, or *"
    if "/" in text:
        import ipaddress  # here: few configs name a network

        try:
            return str(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise ValueError(words) from None
    if not re.fullmatch(r"[*]|[*]?[.]?[A-Za-z0-9][A-Za-z0-9._-]*(?::[0-9]{1,5})?|[0-9A-Fa-f:.]+", text):
        raise ValueError(words)
    return text


def is_listed_order(text: str) -> bool:
    """Return whether the order is `listed`, not `contain`, the default; ValueError with words otherwise."""
    if text not in ("contain", "listed"):
        raise ValueError("expected contain (superusers first) or listed (as the job lists them)")
    return text == "listed"


def action_name(text: str) -> str:
    """Return an action's name as the API spells it; ValueError with the nearest one otherwise."""
    if text not in ACTIONS:
        hint = names.did_you_mean(text, ACTIONS)
        raise ValueError(f"{names.shown(text)} is not an action{hint or ';'} there are {', '.join(ACTIONS)}")
    return text


def region_name(text: str) -> str:
    """Return a region's name; ValueError with words (`names.region_problem`) otherwise."""
    if (problem := names.region_problem(text)) is not None:
        raise ValueError(problem)
    return text
