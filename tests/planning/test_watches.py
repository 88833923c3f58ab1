"""When a watch reads, and what is told of it: the arithmetic, by examples and over months of virtual time."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.journal import records
from engine.journal.ledger import Ledger
from engine.journal.records import rfc3339, unix_seconds
from engine.journal.watched import Word
from engine.model import CallId
from engine.planning.watches import AGAIN_S, Schedule, Told, is_due, schedule_of, to_tell
from tests.support.journals import call_id, end, run_record, verified
from tests.support.journals import plan as plan_lines

DAY = 86400.0
USUAL = Schedule(after=(300.0, 1800.0), every=DAY, until=30 * DAY)

schedules = st.builds(
    Schedule,
    after=st.lists(st.integers(0, 5 * 86400).map(float), max_size=4, unique=True).map(lambda each: tuple(sorted(each))),
    every=st.none() | st.integers(600, 3 * 86400).map(float),
    until=st.none() | st.integers(60, 40 * 86400).map(float),
)


def times_of(schedule: Schedule, until: float) -> list[float]:
    """All times up to one, by the simplest rule there is."""
    last = max(schedule.after, default=0.0)
    found = set(schedule.after)
    count = 1
    while schedule.every is not None and count * schedule.every <= until:
        found |= {count * schedule.every} if count * schedule.every > last else set()
        count += 1
    return sorted(each for each in found if each <= until and (schedule.until is None or each <= schedule.until))


@settings(deadline=None)
@given(schedules, st.integers(0, 45 * 86400).map(float))
def test_the_times_are_those_of_the_simplest_rule(schedule: Schedule, elapsed: float) -> None:
    """Each of `after`, then the multiples of `every`, until `for`."""
    times = times_of(schedule, 60 * DAY)
    assert schedule.latest(elapsed) == max((each for each in times if each <= elapsed), default=None)
    assert schedule.following(elapsed) == min((each for each in times if each > elapsed), default=None)
    assert schedule.following() == min(times, default=None)
    if schedule.until is not None or schedule.every is None:
        assert schedule.last == max(times, default=None)


@settings(deadline=None)
@given(schedules, st.lists(st.floats(1.0, 4 * DAY), max_size=60), st.floats(1.0e9, 2.0e9))
def test_what_was_missed_is_made_up_for_once_and_nothing_is_read_twice(
    schedule: Schedule, pauses: list[float], ended_at: float
) -> None:
    """A month with a timer that comes when it likes: one reading for each gap in which any time came, and no other."""
    ended_at = unix_seconds(rfc3339(ended_at))
    now, read_at, before = ended_at, None, -1.0
    times = times_of(schedule, sum(pauses) + 60.0 * len(pauses))
    for pause in pauses:
        now += pause
        near = bisect_right(times, now - ended_at + 0.1)
        now += 0.2 if near and abs(times[near - 1] - (now - ended_at)) <= 0.1 else 0.0
        came = bisect_right(times, now - ended_at) > bisect_right(times, before)
        assert is_due(schedule, ended_at, read_at, now) == came
        if came:
            read_at = unix_seconds(rfc3339(now))
            assert not is_due(schedule, ended_at, read_at, now)
        before = now - ended_at


@given(st.integers(0, 10**9), st.integers(0, 10**6))
def test_a_reading_at_the_very_moment_is_not_made_again(whole: int, fraction: int) -> None:
    """The journal cuts times to milliseconds: that makes none earlier than it was due."""
    ended_at = unix_seconds(rfc3339(1.0e9 + whole + fraction / 1e6))
    now = ended_at + 300.0
    assert is_due(USUAL, ended_at, None, now)
    assert not is_due(USUAL, ended_at, unix_seconds(rfc3339(now)), now)


def test_a_reading_from_the_future_counts_for_nothing() -> None:
    """A clock that was wrong once must not blind the watch for as long as it was ahead."""
    assert is_due(USUAL, 0.0, 400 * DAY, 2 * DAY)
    assert not is_due(USUAL, 10.0, None, 5.0), "nor is a run watched that is still to end"


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        {"after": [], "every": None, "for": 9},
        {"after": "5m"},
        {"after": [-1]},
        {"after": [True]},
        {"after": [1e300]},
        {"after": [1], "every": 0},
        {"after": [1], "every": "1d"},
        {"after": [1], "for": -1},
        {"after": [float("nan")]},
    ],
)
def test_times_that_make_no_sense_are_no_watch(said: dict[str, object] | None) -> None:
    """Such as somebody else could write into a journal."""
    assert schedule_of(said) is None


def test_the_times_of_a_job_are_read() -> None:
    """As the journal has them, in any order."""
    assert schedule_of({"after": [1800, 300], "every": 86400, "for": 30 * 86400}) == USUAL
    assert schedule_of({"after": [60], "every": None, "for": None}) == Schedule(after=(60.0,))
    assert Schedule(every=60.0).last is None and Schedule(after=(60.0,)).last == 60.0


# ---- what is told ----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(60.0, DAY), st.sets(st.integers(0, 5))), max_size=40))
def test_each_is_told_once_and_again_while_it_lasts(story: list[tuple[float, set[int]]]) -> None:
    """Any accounts come back and return at any times: who is back is told at once, and then once in a day at most,
    unless another that lasts longer is due; nobody who lasts waits longer than that."""
    now, line = 0.0, 0
    back: dict[CallId, int] = {}
    told: list[Told] = []
    heard: dict[CallId, float] = {}
    for pause, are_back in story:
        now, line = now + pause, line + 10
        names = {CallId(str(each)) for each in are_back}
        fresh = names - set(back)
        back = {each: back.get(each, line) for each in names}
        tell, above = to_tell(back, told, now)
        lasting = {each for each in names - fresh if now >= heard[each] + AGAIN_S}
        assert set(tell) == (names if lasting else fresh)
        if tell:
            told.append(Told(at=now, above=above, upto=max([*back.values(), *(each.upto for each in told)])))
            heard |= dict.fromkeys(tell, now)


# ---- the fold --------------------------------------------------------------------------------------------------------


def watching(*lines: records.AnyRecord) -> Ledger:
    """The ledger of a watch of four accounts, with these lines numbered on."""
    first, *calls = plan_lines(4)
    assert isinstance(first, records.Run)
    first.parent = records.Parent("20261122T031321Z-k3f9", "watch", "ab" * 32)
    found = [first, *calls, *lines]
    for number, line in enumerate(found, 1):
        line.seq, line.at = number, rfc3339(1_790_000_000.0 + number)
    return Ledger.of(found)


def unread(number: int) -> records.Verified:
    return records.Verified(call=call_id(number), status=None, cam=None, update_time=None, agrees=False)


def test_nothing_of_a_watch_is_open() -> None:
    """An account is as it was left until a line says otherwise: none is unsettled, and none was sent."""
    ledger = watching()
    assert ledger.counts() == {"changed": 0, "already": 4, "failed": 0, "unknown": 0, "unattempted": 0}
    ledger = watching(verified(0, agrees=False), unread(1), end())
    assert ledger.counts() == {"changed": 0, "already": 2, "failed": 1, "unknown": 1, "unattempted": 0}
    ledger = watching(verified(0, agrees=False), end(), verified(0), end())
    assert ledger.counts()["already"] == 4 and not ledger.entry(call_id(0)).code
    assert all(entry.settled and not entry.needs_reading for _, entry, _ in ledger.outcomes())
    assert run_record(4).watched is None and ledger.run.watched == "20261122T031321Z-k3f9"


def test_what_is_back_stays_back_while_it_cannot_be_read() -> None:
    """Else it would be a new story, told anew, after each reading that failed."""
    lines = [verified(0, agrees=False), end(), unread(0), end(), end(), verified(0, agrees=False), end()]
    said = watching(*lines).watched
    assert said is not None and said.said(call_id(0)).back_seq == 6
    middle = watching(*lines[:5]).watched
    assert middle is not None and middle.times(call_id(0)) == 2 and middle.said(call_id(0)).word is Word.UNREAD
    again = watching(*lines, verified(0), end(), verified(0, agrees=False), end()).watched
    assert again is not None and again.said(call_id(0)).back_seq == 15


def test_a_reading_that_was_cut_off_is_none() -> None:
    """Its lines count for what they say; its time, and how often in a row, by `end` alone."""
    said = watching(unread(0)).watched
    assert said is not None and said.read_at is None and said.times(call_id(0)) == 0
