"""`window`: when a job may run, in every zone and through every change of its clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.errors import JobError
from engine.inputs.jobfile.parse import parse_job
from engine.inputs.window import (
    DAYS,
    Window,
    closes_at,
    current,
    from_record,
    is_open,
    minutes,
    moment,
    next_opening,
    spans,
)
from engine.model import Place

HEAD = "action: OpenAccountCAM\nregion: ap-singapore\ntargets: [postgres-a1/u]\nwindow: "
SAT, SUN, FRI = 5, 6, 4


def window(days, start, until, timezone):
    return Window(days=days, start=minutes(start), until=minutes(until), timezone=timezone)


def at(text, zone="UTC", fold=0):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def parse(text):
    return parse_job((HEAD + text + "\n").encode(), file="j.yaml", read=lambda _: b"").window


def problems(text):
    with pytest.raises(JobError) as caught:
        parse(text)
    return list(caught.value.problems)


# ---- the job key -----------------------------------------------------------------------------------------------------


def test_the_window_of_the_issue():
    """Days, hours and zone as written, and where it stands."""
    found = parse('{days: [sat], from: "01:00", until: "05:00", timezone: Asia/Shanghai}')
    assert found == Window(days=(5,), start=60, until=300, timezone="Asia/Shanghai", place=Place("j.yaml", 4, 9))
    assert found.label == "sat 01:00–05:00 Asia/Shanghai"
    assert from_record(found.as_record(), found.place) == found


def test_forms_that_mean_the_same():
    """Unquoted times (no number to base 60), days in any order and case, one digit for the hour."""
    found = parse("{days: [SUN, sat, Sun], from: 1:00, until: 05:00, timezone: Asia/Shanghai}")
    assert (found.days, found.start, found.until) == ((5, 6), 60, 300)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{days: [saturday], from: 1:00, until: 5:00, timezone: UTC}", "j.yaml:4:17: window.days[0]: 'saturday' is no"),
        ("{days: [saturday], from: 1:00, until: 5:00, timezone: UTC}", "did you mean sat?"),
        ("{days: [saat], from: 1:00, until: 5:00, timezone: UTC}", "did you mean sat?"),
        ("{days: [zz], from: 1:00, until: 5:00, timezone: UTC}", "is not a day; days are mon, tue"),
        ("{days: sat, from: 1:00, until: 5:00, timezone: UTC}", "4:16: window.days: expected a list; write [sat]"),
        ("{days: [], from: 1:00, until: 5:00, timezone: UTC}", "window.days: expected a list of days"),
        ("{days: [[sat]], from: 1:00, until: 5:00, timezone: UTC}", "window.days[0]: expected a day, got a list"),
        ("{days: [sat], from: 25:00, until: 5:00, timezone: UTC}", "window.from: expected a time of day"),
        ("{days: [sat], from: 24:00, until: 5:00, timezone: UTC}", "write 00:00 and the day after"),
        ("{days: [sat], from: 1:60, until: 5:00, timezone: UTC}", "window.from: expected a time of day"),
        ("{days: [sat], from: 1:00, until: 24:01, timezone: UTC}", "window.until: expected a time of day"),
        ("{days: [sat], from: ١:00, until: 5:00, timezone: UTC}", "window.from: expected a time of day"),
        ("{days: [sat], from: 1:00, until: 1:00, timezone: UTC}", "4:42: window.until: is empty"),
        ("{days: [sat], from: 1:00, until: 5:00, timezone: Asia/Shangai}", "did you mean Asia/Shanghai?"),
        ("{days: [sat], from: 1:00, until: 5:00, timezone: shanghai}", "did you mean Asia/Shanghai?"),
        ("{days: [sat], from: 1:00, until: 5:00, timezone: new york}", "did you mean America/New_York?"),
        (
            "{days: [sat], from: 1:00, until: 5:00, timezone: UTC+8}",
            "abbreviation; name a place, such as Asia/Shanghai",
        ),
        ("{days: [sat], from: 1:00, until: 5:00, timezone: CST}", "abbreviation; name a place, such as Asia/Shanghai"),
        ("{days: [sat], from: 1:00, until: 5:00, timezone: tokyo}", "did you mean Asia/Tokyo?"),
        ("{days: [sat], from: 1:00, until: 5:00, timezone: Asia}", "'Asia' is not a time zone"),
        ("{days: [sat], from: 1:00, until: 5:00, timezone: localtime}", "'localtime' is not a time zone"),
        ("{days: [sat], from: 1:00, until: 5:00, timezone: ../../etc/passwd}", "is not a time zone"),
        ("{days: [sat], from: 1:00, until: 5:00}", "4:9: window.timezone: is missing"),
        ("{days: [sat], from: 1:00, til: 5:00, timezone: UTC}", "window.til: unknown key; did you mean until?"),
        ("[{days: [sat]}, {days: [sun]}]", "4:9: window: a job has one window"),
        ("sat", "4:9: window: expected a mapping such as"),
    ],
)
def test_what_is_no_window(text, words):
    """Each mistake in its place, with what was probably meant."""
    assert any(words in problem for problem in problems(text)), problems(text)


def test_two_windows_by_a_double_key():
    """The second is refused, not taken."""
    first = '{days: [sat], from: "01:00", until: "05:00", timezone: UTC}'
    assert any("j.yaml:5:1" in problem for problem in problems(f"{first}\nwindow: {first}"))


# ---- the clock -------------------------------------------------------------------------------------------------------


def test_inside_and_outside():
    """`from` is inside, `until` is not; each of them on the zone's clock, not the machine's."""
    saturday = window((SAT,), "01:00", "05:00", "Asia/Shanghai")
    opens, closes = at("2026-11-28 01:00", "Asia/Shanghai"), at("2026-11-28 05:00", "Asia/Shanghai")
    assert opens == at("2026-11-27 17:00")
    assert not is_open(saturday, opens - 0.001)
    assert next_opening(saturday, opens - 0.001) == opens
    assert is_open(saturday, opens) and closes_at(saturday, opens) == closes
    assert is_open(saturday, closes - 0.001)
    assert not is_open(saturday, closes) and closes_at(saturday, closes) is None
    assert next_opening(saturday, opens) == opens + 7 * 86400
    assert moment(saturday, opens) == "Sat 2026-11-28 01:00 Asia/Shanghai"


def test_over_midnight():
    """The day is that of its beginning: sat 23:00–02:00 is open on Sunday at one, not on Saturday at one."""
    night = window((SAT,), "23:00", "02:00", "UTC")
    assert night.over_midnight
    assert (
        closes_at(night, at("2026-11-28 23:30")) == at("2026-11-29 02:00") == closes_at(night, at("2026-11-29 01:00"))
    )
    assert not is_open(night, at("2026-11-28 01:00"))
    assert current(window((SAT,), "22:00", "00:00", "UTC"), at("2026-11-28 22:00")) == (
        at("2026-11-28 22:00"),
        at("2026-11-29 00:00"),
    )


def test_days_that_join_are_one_window():
    """A weekend from 00:00 to 24:00 does not close at midnight between its days."""
    weekend = window((SAT, SUN), "00:00", "24:00", "Europe/Berlin")
    found = current(weekend, at("2026-11-28 12:00", "Europe/Berlin"))
    assert found == (at("2026-11-28 00:00", "Europe/Berlin"), at("2026-11-30 00:00", "Europe/Berlin"))
    always = window(tuple(range(7)), "00:00", "24:00", "UTC")
    assert closes_at(always, at("2026-11-28 12:00")) > at("2026-12-05 00:00")


@pytest.mark.parametrize(
    ("start", "until", "opens", "closes"),
    [
        ("01:00", "05:00", "01:00", "05:00"),  # three hours, as 02:00–03:00 is skipped
        ("02:30", "05:00", "03:00", "05:00"),  # opens when the clock has jumped
        ("01:00", "02:30", "01:00", "03:00"),  # closes when it jumps
        ("02:00", "03:00", None, None),  # does not exist that night
        ("02:10", "02:50", None, None),
    ],
)
def test_the_night_summer_time_begins(start, until, opens, closes):
    """Berlin, 28 March 2027: after 01:59 the clock shows 03:00."""
    found = next(spans(window((SUN,), start, until, "Europe/Berlin"), at("2027-03-27 12:00")))
    if opens is None:
        assert found.opens == at(f"2027-04-04 {start}", "Europe/Berlin")
    else:
        assert found == (at(f"2027-03-28 {opens}", "Europe/Berlin"), at(f"2027-03-28 {closes}", "Europe/Berlin"))


@pytest.mark.parametrize(
    ("start", "until", "hours"),
    [
        ("01:00", "05:00", 5.0),  # an hour longer
        ("01:00", "02:30", 1.5),  # closes at the first 02:30
        ("02:30", "05:00", 3.5),  # opens at the first 02:30, and stays open
        ("02:10", "02:50", 40 / 60),  # opens once
        ("03:00", "05:00", 2.0),
    ],
)
def test_the_night_summer_time_ends(start, until, hours):
    """Berlin, 25 October 2026: 02:00 to 03:00 comes twice."""
    first, second = islice(spans(window((SUN,), start, until, "Europe/Berlin"), at("2026-10-24 12:00")), 2)
    assert first.opens == at(f"2026-10-25 {start}", "Europe/Berlin")
    assert first.closes - first.opens == pytest.approx(hours * 3600)
    assert second.opens == at(f"2026-11-01 {start}", "Europe/Berlin")


def test_a_day_that_never_was():
    """Samoa went from Thursday 29 to Saturday 31 December 2011: that Friday's window does not exist."""
    friday = window((FRI,), "01:00", "05:00", "Pacific/Apia")
    assert next_opening(friday, at("2011-12-29 12:00", "Pacific/Apia")) == at("2012-01-06 01:00", "Pacific/Apia")


ZONES = ["UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo",
         "Africa/Cairo", "Pacific/Apia", "Asia/Kathmandu", "America/Havana", "Asia/Beirut"]  # fmt: skip
windows = st.builds(
    Window,
    days=st.sets(st.integers(0, 6), min_size=1).map(lambda days: tuple(sorted(days))),
    start=st.integers(0, 1439),
    until=st.integers(0, 1440),
    timezone=st.sampled_from(ZONES),
).filter(lambda found: found.start != found.until)
moments = st.integers(int(at("2005-01-01")), int(at("2030-01-01")))


@given(windows, moments)
@example(Window(days=(6,), start=150, until=300, timezone="Europe/Berlin"), int(at("2027-03-28 01:00")))
def test_the_spans_of_any_window(found, now):
    """In order, apart, never empty; the first has not ended; the three questions are answered from it."""
    first, *rest = several = list(islice(spans(found, now), 4))
    assert first.closes > now
    assert all(span.opens < span.closes for span in several)
    assert all(one.closes <= two.opens for one, two in zip(several, rest, strict=False))
    assert is_open(found, now) == (first.opens <= now)
    assert closes_at(found, now) == (first.closes if first.opens <= now else None)
    assert next_opening(found, now) == (first.opens if first.opens > now else rest[0].opens)
    # Seen from just before it opens and just before it closes it is the same span.
    for moment_of in (first.opens, first.closes - 1):
        assert current(found, moment_of) == first or len(found.days) == 7
    assert not is_open(found, first.closes) or len(found.days) == 7


@given(windows, moments)
def test_open_is_what_a_clock_on_the_wall_says(found, now):
    """Where the zone's clock has not been changed within two days, the wall decides: day and time of day."""
    zone = ZoneInfo(found.timezone)
    near = {
        (datetime.fromtimestamp(now, UTC) + timedelta(hours=hours)).astimezone(zone).utcoffset()
        for hours in range(-49, 50)
    }
    if len(near) > 1:
        return
    wall = datetime.fromtimestamp(now, zone)
    minute = wall.hour * 60 + wall.minute
    today, yesterday = wall.weekday() in found.days, (wall.weekday() - 1) % 7 in found.days
    if found.over_midnight:
        expected = (today and minute >= found.start) or (yesterday and minute < found.until)
    else:
        expected = today and found.start <= minute < found.until
    assert is_open(found, now) == expected


@given(windows)
def test_the_journal_knows_it(found):
    """What a journal keeps of it says the same, in words of the job file."""
    record = found.as_record()
    assert set(record["days"]) <= set(DAYS)
    assert from_record(record, found.place) == found
