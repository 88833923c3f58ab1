"""`hold` and `watch`: what an operator may say of the time after a run, in a job and by flags, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import get_args

import pytest

from engine.errors import JobError
from engine.inputs.job import HoldSpec, Job, WatchSpec
from engine.inputs.jobfile.adhoc import ad_hoc_job
from engine.inputs.jobfile.filemodel import Then
from engine.inputs.jobfile.parse import parse_job
from engine.journal.records import THENS
from engine.model import Place

DAY = 86400.0


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's clock is that of Berlin."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def parse(line: str, action: str = "LockAccount") -> Job:
    passwords = "passwords: {command: [p, '{user}']}\n" if action == "CloseAccountCAM" else ""
    text = f"action: {action}\nregion: ap-singapore\ntargets: [postgres-a1/u]\n{line}\n{passwords}"
    return parse_job(text.encode(), file="j.yaml", read=lambda _: b"")


def problems(line: str, action: str = "LockAccount") -> list[str]:
    with pytest.raises(JobError) as caught:
        parse(line, action)
    return list(caught.value.problems)


# ---- hold ------------------------------------------------------------------------------------------------------------


def test_without_the_key_a_hold_has_no_end() -> None:
    assert parse("order: listed").hold is None


def test_a_hold_for_a_time_ends_that_long_after_the_confirmation() -> None:
    """And a person is told, unless something else is said."""
    hold = parse("hold: {for: 1h30m}").hold
    assert hold == HoldSpec(for_s=5400.0, until=None, then="tell", place=Place("j.yaml", 4, 13), said="hold.for")
    assert hold is not None and hold.ends_at(1000.0) == 6400.0


@pytest.mark.parametrize(
    "text",
    [
        '"2026-12-01T08:00+08:00"',
        "2026-12-01T08:00+08:00",
        "2026-12-01 08:00:00 +0800",
        "2026-12-01T08:00+08",
        "2026-12-01T00:00Z",
        "2026-11-30T19:00-05:00",
    ],
)
def test_a_hold_until_a_moment_ends_then_whatever_zone_it_is_said_in(text: str) -> None:
    hold = parse(f"hold: {{until: {text}, then: unlock_rotated}}").hold
    assert hold == HoldSpec(
        until=at("2026-12-01T00:00"), then="unlock_rotated", place=Place("j.yaml", 4, 15), said="hold.until"
    )
    assert hold is not None and hold.ends_at(5.0) == at("2026-12-01T00:00")


NO_HOLD = [
    ("{}", "j.yaml:4:7: hold: says neither for nor until, such as {for: 12h, then: tell}"),
    ("{then: unlock}", "j.yaml:4:7: hold: says neither for nor until"),
    ("12h", "j.yaml:4:7: hold: expected a mapping; write {for: 12h}; without an end, leave hold away"),
    ("none", "j.yaml:4:7: hold: expected a mapping such as {for: 12h, then: tell}; without an end, leave hold away"),
    ("2026-12-01T08:00Z", "j.yaml:4:7: hold: expected a mapping; write {until: 2026-12-01T08:00Z}; without an end"),
    ("[12h]", "j.yaml:4:7: hold: expected a mapping such as {for: 12h, then: tell}, got a list"),
    ("{for: 4h, until: 2026-12-01T08:00Z}", "j.yaml:4:17: hold.until: for and until together; keep one of the two"),
    ("{until: 2026-12-01T08:00Z, for: 4h}", "j.yaml:4:34: hold.for: until and for together; keep one of the two"),
    ("{untill: 4h}", "j.yaml:4:8: hold.untill: unknown key; did you mean until?"),
    ("{for: 0s}", "j.yaml:4:13: hold.for: expected a duration longer than 0s, got '0s'"),
    ("{for: -4h}", "j.yaml:4:13: hold.for: expected a duration with its unit"),
    ("{for: 4}", "j.yaml:4:13: hold.for: expected a duration with its unit"),
    ("{for: 367d}", "j.yaml:4:13: hold.for: expected a duration of at most a year (366d), got '367d'"),
    ("{for: [4h]}", "j.yaml:4:13: hold.for: expected a duration, got a list"),
    ("{for: }", "j.yaml:4:13: hold.for: has no value"),
    ("{for: 4h, then: open}", "j.yaml:4:23: hold.then: expected tell, unlock or unlock_rotated, got 'open'"),
    ("{until: tomorrow}", "j.yaml:4:15: hold.until: expected a time with its zone, such as 2026-12-01T08:00Z (UTC)"),
    ("{until: 2026-12-01}", "j.yaml:4:15: hold.until: expected a time with its zone"),
    ("{until: 2026-02-30T08:00Z}", "j.yaml:4:15: hold.until: expected a time with its zone"),
    ("{until: 2026-12-01T24:01Z}", "j.yaml:4:15: hold.until: expected a time with its zone"),
    ("{until: 2026-12-01T08:00 Asia/Shanghai}", "j.yaml:4:15: hold.until: expected a time with its zone"),
    ("{until: 0000-12-01T08:00Z}", "j.yaml:4:15: hold.until: expected a time with its zone"),
    ("{until: ٢٠٢٦-12-01T08:00Z}", "j.yaml:4:15: hold.until: expected a time with its zone"),
]


@pytest.mark.parametrize(("text", "words"), NO_HOLD)
def test_what_is_no_hold_is_named_in_its_place(text: str, words: str) -> None:
    found = problems(f"hold: {text}")
    assert len(found) == 1 and words in found[0], found


def test_a_time_without_a_zone_is_refused_with_both_readings(in_berlin: None) -> None:
    """Summer time counts for the day that is meant, not for today."""
    (said,) = problems("hold: {until: 2026-12-01T08:00}")
    assert said == (
        "j.yaml:4:15: hold.until: '2026-12-01T08:00' has no time zone; write 2026-12-01T08:00Z if it is UTC, "
        "or 2026-12-01T08:00+01:00 if it is the time here"
    )
    assert "or 2026-07-01T08:00+02:00 if it is the time here" in problems("hold: {until: 2026-07-01T08:00}")[0]


def test_on_a_machine_in_utc_the_other_reading_is_an_offset(in_utc: None) -> None:
    """The time of most servers: whoever typed it may sit elsewhere."""
    (said,) = problems("hold: {until: 2026-12-01T08:00}")
    assert said.endswith(
        "write 2026-12-01T08:00Z if it is UTC, which is the time here, too, or with its offset, "
        "such as 2026-12-01T08:00+08:00"
    )


@pytest.mark.parametrize("then", ["tell", "unlock", "unlock_rotated"])
@pytest.mark.parametrize(
    "action", ["LockAccount", "UnlockAccount", "OpenAccountCAM", "CloseAccountCAM", "RefreshAccountPassword"]
)
def test_what_a_machine_may_do_at_the_end_depends_on_the_action(action: str, then: str) -> None:
    """Only a lock is taken back by a machine; what nothing takes back is not held."""
    line = f"hold: {{for: 4h, then: {then}}}"
    if action == "RefreshAccountPassword":
        assert problems(line, action) == [
            "j.yaml:4:7: hold: RefreshAccountPassword cannot be held: no action takes it back; remove it"
        ]
    elif action == "LockAccount" or then == "tell":
        hold = parse(line, action).hold
        assert hold is not None and hold.then == then
    else:
        why = (
            "turning CAM verification off sets new passwords, so no machine does it"
            if action == "OpenAccountCAM"
            else f"what {action} did is taken back by a person alone"
        )
        assert problems(line, action) == [f"j.yaml:4:23: hold.then: {then} is for LockAccount: {why}; write then: tell"]


def test_a_past_end_can_still_be_read() -> None:
    """The job's guards hold for a resume next month, whatever became of its hold. Who begins a run knows the time."""
    hold = parse("hold: {until: 1999-01-01T00:00Z}").hold
    assert hold is not None and hold.until == at("1999-01-01T00:00")


def test_the_words_are_those_of_the_journal() -> None:
    assert get_args(Then) == THENS


# ---- watch -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "after", "every", "last"),
    [
        ("{after: [5m, 30m], every: 1d, for: 30d}", (300.0, 1800.0), DAY, 30 * DAY),
        ("{after: [5m]}", (300.0,), None, None),
        ("{every: 1m, for: 1m}", (), 60.0, 60.0),
    ],
)
def test_a_watch_says_when_accounts_are_read_again(
    text: str, after: tuple[float, ...], every: float | None, last: float | None
) -> None:
    """And a journal keeps it as it is."""
    watch = parse(f"watch: {text}").watch
    assert watch == WatchSpec(after_s=after, every_s=every, for_s=last, place=Place("j.yaml", 4, 8))
    assert watch is not None
    assert watch.as_record() == {"after": list(after), "every": every, "for": last}
    assert WatchSpec.from_record(watch.as_record(), watch.place) == watch


NO_WATCH = [
    ("{}", "j.yaml:4:8: watch: says neither after nor every, such as {after: [5m, 30m], every: 1d, for: 30d}"),
    ("30d", "j.yaml:4:8: watch: expected a mapping such as"),
    ("{after: 5m}", "j.yaml:4:16: watch.after: expected a list; write [5m]"),
    ("{after: []}", "j.yaml:4:16: watch.after: expected a list of durations such as [5m, 30m], got an empty list"),
    ("{after: [30m, 5m]}", "j.yaml:4:22: watch.after[1]: is not later than the one before"),
    ("{after: [5m, 300s]}", "j.yaml:4:21: watch.after[1]: is not later than the one before"),
    ("{after: [0s]}", "j.yaml:4:17: watch.after[0]: expected a duration longer than 0s"),
    ("{after: [soon]}", "j.yaml:4:17: watch.after[0]: expected a duration with its unit"),
    ("{after: [400d]}", "j.yaml:4:17: watch.after[0]: expected a duration of at most a year"),
    (
        f"{{after: [{', '.join(f'{n}s' for n in range(1, 102))}]}}",
        "watch.after: expected at most 100 durations, got 101",
    ),
    ("{every: 59s, for: 1d}", "j.yaml:4:16: watch.every: expected a duration of at least 1m, got '59s'"),
    ("{every: 1d}", "j.yaml:4:16: watch.every: needs for: how long after the run it goes on, such as for: 30d"),
    ("{after: [5m], for: 30d}", "j.yaml:4:27: watch.for: says how long every goes on, and there is no every"),
    ("{for: 30d}", "j.yaml:4:8: watch: says neither after nor every"),
    ("{every: 1d, for: 12h}", "j.yaml:4:25: watch.for: is shorter than every, so nothing would be read"),
    ("{evry: 1d, for: 30d}", "j.yaml:4:9: watch.evry: unknown key; did you mean every?"),
]


@pytest.mark.parametrize(("text", "words"), NO_WATCH)
def test_what_is_no_watch_is_named_in_its_place(text: str, words: str) -> None:
    found = problems(f"watch: {text}")
    assert any(words in each for each in found), found


def test_what_no_reading_shows_is_not_watched() -> None:
    assert problems("watch: {after: [5m]}", "RefreshAccountPassword") == [
        "j.yaml:4:8: watch: no reading shows whether RefreshAccountPassword still holds, so there is nothing to watch; "
        "remove it"
    ]


def test_a_run_that_reads_nothing_back_can_be_watched() -> None:
    assert parse("verify: false\nwatch: {after: [5m]}").watch is not None


def test_hold_and_watch_in_a_config_are_pointed_to_the_job(tmp_path: object) -> None:
    """A hold for every job of a site would end locks nobody thought of."""
    from engine.errors import ConfigError
    from engine.inputs.settings import parse_config

    for line in ("hold: {for: 4h}", "watch: {after: [5m]}"):
        with pytest.raises(ConfigError, match="belongs to a job, and is never taken from a config"):
            parse_config(f"{line}\n".encode(), "config.yaml")


# ---- the flags -------------------------------------------------------------------------------------------------------


def by_flags(action: str = "LockAccount", **flags: str) -> Job:
    return ad_hoc_job(action, ["postgres-a1/u"], "ap-singapore", **flags)  # type: ignore[arg-type]


def test_flags_say_what_the_keys_say() -> None:
    by_hand = by_flags(for_="4h", then="unlock").hold
    assert by_hand == HoldSpec(for_s=14400.0, then="unlock", place=Place("command line"), said="--for")
    by_hand = by_flags(until="2026-12-01T08:00+08:00").hold
    assert by_hand is not None and (by_hand.until, by_hand.then) == (at("2026-12-01T00:00"), "tell")
    assert by_flags().hold is by_flags().watch is None


@pytest.mark.parametrize(
    ("span", "after", "every", "last"),
    [
        ("30d", (300.0, 1800.0), DAY, 30 * DAY),
        ("1d", (300.0, 1800.0), DAY, DAY),
        ("4h", (300.0, 1800.0, 14400.0), None, None),
        ("30m", (300.0, 1800.0), None, None),
        ("1m", (60.0,), None, None),
    ],
)
def test_a_watch_by_flag_is_as_long_as_it_says(
    span: str, after: tuple[float, ...], every: float | None, last: float | None
) -> None:
    """Soon after the run, then every day; for less than a day, once more at its end."""
    watch = by_flags(watch=span).watch
    assert watch == WatchSpec(after_s=after, every_s=every, for_s=last, place=Place("command line"))


@pytest.mark.parametrize(
    ("action", "flags", "words"),
    [
        ("LockAccount", {"for_": "0s"}, "--for: expected a duration longer than 0s, got '0s'"),
        ("LockAccount", {"for_": "367d"}, "--for: expected a duration of at most a year (366d), got '367d'"),
        ("LockAccount", {"until": "2026-12-01T08:00"}, "--until: '2026-12-01T08:00' has no time zone; write"),
        ("LockAccount", {"until": "soon"}, "--until: expected a time with its zone, such as"),
        ("LockAccount", {"for_": "4h", "until": "2026-12-01T08:00Z"}, "--until: --for and --until together; keep one"),
        ("LockAccount", {"then": "unlock"}, "--then: goes with --for or --until"),
        ("LockAccount", {"for_": "4h", "then": "x"}, "--then: expected tell, unlock or unlock_rotated, got 'x'"),
        ("OpenAccountCAM", {"for_": "4h", "then": "unlock"}, "--then: unlock is for LockAccount: turning CAM"),
        ("UnlockAccount", {"for_": "4h", "then": "unlock"}, "--then: unlock is for LockAccount: what UnlockAccount"),
        ("RefreshAccountPassword", {"for_": "4h"}, "--for: RefreshAccountPassword cannot be held"),
        ("RefreshAccountPassword", {"watch": "4h"}, "--watch: no reading shows whether RefreshAccountPassword"),
        ("LockAccount", {"watch": "4"}, "--watch: expected a duration with its unit"),
        ("LockAccount", {"watch": "0s"}, "--watch: expected a duration longer than 0s, got '0s'"),
    ],
)
def test_what_the_flags_cannot_mean_is_named_by_flag(action: str, flags: dict[str, str], words: str) -> None:
    with pytest.raises(JobError) as caught:
        by_flags(action, **flags)
    (said,) = caught.value.problems
    assert said.startswith("command line: --") and words in said


def test_another_end_makes_another_job() -> None:
    """Two commands on the same accounts that hold them differently are not one job begun twice."""
    assert by_flags(for_="4h").digest != by_flags(for_="8h").digest != by_flags().digest
