"""When a job may run: days of the week, from, until, time zone. No I/O but zone data, no clock.

`now` is an argument, in Unix seconds. The window opens on one of its days when the clock of its zone first shows
`from`, or skips it. It closes when that clock then first shows `until`, or skips it. If summer time begins inside the
window, the window is shorter by the skipped time, or does not exist that night. If summer time ends inside, it is
longer by the repeated time. Once closed, it does not open again for the hour that comes twice.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from engine.api import names
from engine.model import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MIDNIGHT = 24 * 60
"""`24:00`: the end of a day, in minutes."""
_UNUSABLE = ("localtime", "posixrules", "posix/", "right/")
"""Files beside the zones that are refused: the machine's own zone, which differs from machine to machine, and clocks
with leap seconds."""
_OFFSET = "[A-Z]{2,5}|(?i:UTC|GMT|Z)? ?[+−-]? ?[0-9]{1,2}(:?[0-9]{2})?"
"""Abbreviations, which several countries share, and offsets; neither says when summer time begins."""
_LOOK_AHEAD_DAYS = 400
_MOST_MERGED = 8


class Span(NamedTuple):
    """One time in which the window is open: from `opens` to just before `closes`, in Unix seconds."""

    opens: float
    closes: float


class Window(Struct, frozen=True, kw_only=True):
    """The hours of the week in which a job may send."""

    days: tuple[int, ...]
    """Days on which it opens, 0 is Monday; ascending, each once."""
    start: int
    """`from` in minutes after midnight, 0–1439."""
    until: int
    """Minutes after midnight, 0–1440; if not after `start`, of the next day."""
    timezone: str
    """Name of the zone, as in the tz database."""
    place: Place = Place("")

    @property
    def over_midnight(self) -> bool:
        """Whether it ends on the day after."""
        return self.until <= self.start

    @property
    def label(self) -> str:
        """The window in words: `sat 01:00–05:00 Asia/Shanghai`."""
        days = ",".join(DAYS[day] for day in self.days)
        return f"{days} {clock_text(self.start)}–{clock_text(self.until)} {self.timezone}"

    def as_record(self) -> dict[str, object]:
        """Return the window for the journal, in the job file's words; `from_record` reads it."""
        return {
            "days": [DAYS[day] for day in self.days],
            "from": clock_text(self.start),
            "until": clock_text(self.until),
            "timezone": self.timezone,
        }


def from_record(record: Mapping[str, object], place: Place) -> Window:
    """Return the window that a journal holds; ValueError with words if this machine does not know its zone."""
    days = record["days"]
    assert isinstance(days, (list, tuple))
    return Window(
        days=tuple(DAYS.index(str(day)) for day in days),
        start=minutes(str(record["from"])),
        until=minutes(str(record["until"])),
        timezone=zone_name(str(record["timezone"])),
        place=place,
    )


# ---- words of a job file -> values -----------------------------------------------------------------------------------


def day_number(text: str) -> int:
    """Return the number of a day, `sat` → 5; ValueError with the nearest day if `text` is none."""
    folded = text.strip().lower()
    if folded in DAYS:
        return DAYS.index(folded)
    meant = next((day for day in DAYS if folded.startswith(day)), None) or names.nearest(folded, DAYS)
    hint = f"; did you mean {meant}?" if meant is not None else ";"
    raise ValueError(f"{names.shown(text)} is not a day{hint} days are {', '.join(DAYS)}")


def minutes(text: str) -> int:
    """Return the minutes after midnight of a time such as `01:00`, up to `24:00`; ValueError with words otherwise."""
    hour, colon, minute = text.partition(":")
    digits = hour + minute
    right = colon and len(hour) in (1, 2) and len(minute) == 2 and digits.isascii() and digits.isdigit()
    total = int(hour) * 60 + int(minute) if right else MIDNIGHT + 1
    if total > MIDNIGHT or int(minute) > 59:
        raise ValueError("expected a time of day from 00:00 to 24:00, such as 01:00")
    return total


def opening_minutes(text: str) -> int:
    """Return `minutes` of an opening; ValueError for 24:00 too: a window may close then, but opens at 00:00."""
    if (found := minutes(text)) == MIDNIGHT:
        raise ValueError("expected a time of day from 00:00 to 23:59; for 24:00 write 00:00 and the day after")
    return found


def clock_text(minute: int) -> str:
    """Return minutes after midnight as text, such as `01:00`."""
    return f"{minute // 60:02}:{minute % 60:02}"


def zone_name(text: str) -> str:
    """Return the name of a zone that this machine knows; ValueError with the nearest one otherwise."""
    from zoneinfo import available_timezones

    if not text.startswith(_UNUSABLE):
        try:
            return _zone(text).key
        except (KeyError, OSError, ValueError):  # no zone; a folder such as Asia; a path outside
            pass
    known = {zone for zone in available_timezones() if not zone.startswith(_UNUSABLE)}
    if not known:
        raise ValueError(f"{names.shown(text)} cannot be looked up: no time zone data here; pip install tzdata")
    by_city = {zone.rpartition("/")[2].lower(): zone for zone in known}
    city = by_city.get(text.rpartition("/")[2].lower().replace(" ", "_"))
    if city is None and re.fullmatch(_OFFSET, text):  # "did you mean UTC?" would open the window hours away
        hint = ", but an offset or an abbreviation; name a place,"
    else:
        hint = f"; did you mean {city}?" if city is not None else names.did_you_mean(text, known) or ";"
    raise ValueError(
        f"{names.shown(text)} is not a time zone{hint}{'' if hint.endswith('?') else ' such as Asia/Shanghai or UTC'}"
    )


def zone_files(zone: str) -> tuple[str, ...]:
    """Return where the system's own programs look for a zone, which Python may know from elsewhere. Empty for UTC."""
    from zoneinfo import TZPATH

    return () if zone in ("UTC", "Etc/UTC") else tuple(f"{place}/{zone}" for place in (*TZPATH, "/usr/share/zoneinfo"))


# ---- the window and the clock ----------------------------------------------------------------------------------------


def spans(window: Window, now: float) -> Iterator[Span]:
    """Yield the spans in which the window is open, in order, from the one that holds `now`, or else the next one.

    Spans without a gap between them (all of Saturday, all of Sunday) are one, up to nine joined. The last span lies
    about 400 days ahead.
    """
    zone = _zone(window.timezone)
    joined: Span | None = None
    merged = 0
    day = datetime.fromtimestamp(now, zone).date() - timedelta(days=_MOST_MERGED + 2)
    for _ in range(_LOOK_AHEAD_DAYS):
        day += timedelta(days=1)
        span = _span_of(window, zone, day)
        if span is None:
            continue
        if joined is not None and span.opens <= joined.closes and merged < _MOST_MERGED:
            joined = Span(joined.opens, span.closes)
            merged += 1
            continue
        if joined is not None and joined.closes > now:
            yield joined
        joined, merged = span, 0


def current(window: Window, now: float) -> Span | None:
    """Return the span that holds `now`, or None if the window is closed."""
    span = next(spans(window, now))
    return span if span.opens <= now else None


def is_open(window: Window, now: float) -> bool:
    """Return whether the window is open at `now`."""
    return current(window, now) is not None


def closes_at(window: Window, now: float) -> float | None:
    """Return when the window that is open at `now` closes, in Unix seconds; None if it is closed."""
    span = current(window, now)
    return span.closes if span is not None else None


def next_opening(window: Window, now: float) -> float:
    """Return when the window next opens after `now`, in Unix seconds."""
    return next(span.opens for span in spans(window, now) if span.opens > now)


class Skipped(NamedTuple):
    """A day on which the zone's clock skips the window's usual opening."""

    day: date
    opens: tuple[int, int] | None
    """When it opens instead: day of the week (0 is Monday) and minute of the day; None: it does not open."""


def skipped(window: Window, now: float, days: int) -> Iterator[Skipped]:
    """Yield the days, from `now` to `days` ahead, on which the begin of summer time skips the window's opening."""
    zone = _zone(window.timezone)
    first = datetime.fromtimestamp(now, zone).date()
    for day in (first + timedelta(days=number) for number in range(days)):
        if day.weekday() not in window.days:
            continue
        opens = _wall(zone, _first(zone, day, window.start))
        if (opens.date(), opens.hour * 60 + opens.minute) != (day, window.start):
            is_open = _span_of(window, zone, day) is not None
            yield Skipped(day, (opens.weekday(), opens.hour * 60 + opens.minute) if is_open else None)


def moment(window: Window, at: float) -> str:
    """Return a moment in words, in the window's zone: `Sat 2026-11-28 01:00 Asia/Shanghai`."""
    local = datetime.fromtimestamp(at, _zone(window.timezone))
    return f"{DAYS[local.weekday()].capitalize()} {local:%Y-%m-%d %H:%M} {window.timezone}"


def _span_of(window: Window, zone: ZoneInfo, day: date) -> Span | None:
    """Return the span that opens on `day`; None if `day` is not one of its days, or the clock skips the whole span."""
    if day.weekday() not in window.days:
        return None
    opens = _first(zone, day, window.start)
    closes = _first(zone, day, window.until + (MIDNIGHT if window.over_midnight else 0))
    return Span(opens, closes) if opens < closes else None


def _first(zone: ZoneInfo, day: date, minute: int) -> float:
    """Return when the zone's clock first shows a minute of `day` (1440 and more: the next day), or is first past it."""
    wall = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(minutes=minute)
    local = wall.replace(tzinfo=zone, fold=0)
    at = local.timestamp()
    if _wall(zone, at) == wall.replace(tzinfo=None):
        return at
    # The minute is skipped: the change lies between the moments that the offsets before and after it give.
    before, after = int(local.replace(fold=1).timestamp()), int(at)
    while after - before > 1:
        middle = (before + after) // 2
        if _wall(zone, middle) < wall.replace(tzinfo=None):
            before = middle
        else:
            after = middle
    return float(after)


def _zone(name: str) -> ZoneInfo:
    from zoneinfo import ZoneInfo  # here: a job without a window starts without it

    return ZoneInfo(name)


def _wall(zone: ZoneInfo, at: float) -> datetime:
    return datetime.fromtimestamp(at, zone).replace(tzinfo=None, fold=0)
