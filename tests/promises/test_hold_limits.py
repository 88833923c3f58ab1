"""A limit on a hold, and a watch, as an operator says them: what the journal keeps, what is shown, what goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine.journal import records as kinds
from engine.journal.lines import Chain
from engine.journal.reader import read
from engine.journal.records import rfc3339, unix_seconds
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done, records

pytestmark = pytest.mark.both_stores

A = "postgres-aaaaaaaa"
HOUR = 3600.0
NOT_THERE = {"action": "LockAccount", "user": "bob", "times": 1, "code": "InvalidParameterValue.AccountNotExistError"}
WATCH = {"after": [300.0, 1800.0], "every": 86400.0, "for": 2592000.0}


class Office:
    """A desk beside a world of one instance, with a clock that a test can put forward."""

    def __init__(self, desk: Desk, backend: Backend) -> None:
        self.desk, self.backend = desk, backend
        self.ahead = 0.0
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint

    def clock(self) -> float:
        return time.time() + self.ahead

    def run(self, *argv: str | Path, code: int = 0, typed: str | Callable[[], str] | None = None) -> Done:
        done = self.desk.run(*argv, typed=typed, clock=self.clock)
        assert done.code == code, done.text
        return done

    def settings(self, at: int = -1) -> dict[str, Any]:
        """The settings of a run, the latest by default, as its first line has them."""
        settings: dict[str, Any] = records(self.desk.journals()[at], "run")[0]["settings"]
        return settings

    def limits(self, at: int = -1) -> tuple[Any, Any, Any]:
        settings = self.settings(at)
        return settings.get("hold_until"), settings.get("hold_then"), settings.get("watch")

    def later(self, seconds: float, answer: str = "y\n") -> Callable[[], str]:
        """A person who takes so long to answer."""

        def answered() -> str:
            self.ahead += seconds
            return answer

        return answered

    def partly(self, *keys: str) -> str:
        """A run of a job with these keys, in which bob failed."""
        self.backend.script(NOT_THERE)
        job = self.desk.job(f"{A}/ann", f"{A}/bob", extra="\n".join(keys))
        return str(self.run("run", job, "--yes", "--json", code=1).json["run"])

    def held_until(self, run: str, until: float | None, then: str = "tell") -> None:
        """A new end, as it stands beside the run."""
        line = kinds.HoldLine(until=rfc3339(until) if until is not None else None, then=then, by="ann", why=None)
        self.desk.runs().add_aside(run, [line], clock=self.clock)

    def cut_off(self) -> None:
        """The latest run as a crash leaves it, right after the yes."""
        path = self.desk.journals()[-1]
        kept = [line for line in read(path) if isinstance(line, (kinds.Run, kinds.CallLine, kinds.Confirmed))]
        chain = Chain(path.parent.name)
        lines = [chain.add(replace(each, v=0, seq=0, at="", run="", hash=""), each.at) for each in kept]
        self.desk.rewrite(path.parent.name, b"".join(lines))


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    world = World(quotas={"*": None}, latency=0)
    world.seed(A, "ap-singapore", ["ann", "bob"])
    with Backend(world) as backend:
        yield Office(Desk(tmp_path), backend)


# ---- the journal -----------------------------------------------------------------------------------------------------


def test_a_hold_for_a_time_ends_so_long_after_the_confirmation_and_not_after_the_plan(office: Office) -> None:
    """Whoever reads a plan for an hour does not lock for an hour less."""
    job = office.desk.job(extra="hold: {for: 4h, then: unlock}\nwatch: {after: [5m, 30m], every: 1d, for: 30d}")
    office.run("run", job, "--simulate", typed=office.later(HOUR))
    (path,) = office.desk.journals(simulated=True)
    settings, (confirmed,) = records(path, "run")[0]["settings"], records(path, "confirmed")
    after = unix_seconds(settings["hold_until"]) - unix_seconds(confirmed["at"])
    assert 4 * HOUR - 30 < after <= 4 * HOUR
    assert unix_seconds(settings["hold_until"]) > time.time() + 4.9 * HOUR
    assert (settings["hold_then"], settings["watch"]) == ("unlock", WATCH)


def test_a_hold_until_a_moment_stands_as_that_moment_in_utc(office: Office) -> None:
    until = datetime.fromtimestamp(int(time.time()) + 3 * 86400, UTC).replace(second=0)
    written = f"{until:%Y-%m-%dT%H:%M}".replace("T", " ")
    office.run("run", office.desk.job(f"{A}/ann", extra=f'hold: {{until: "{written}Z"}}'), "--yes")
    assert office.limits() == (f"{until:%Y-%m-%dT%H:%M}:00.000Z", "tell", None)


def test_a_run_without_the_keys_has_none_of_the_three(office: Office) -> None:
    office.run("run", office.desk.job(f"{A}/ann"), "--yes")
    assert office.limits() == (None, None, None)


def test_an_end_that_passes_while_the_question_stands_sends_nothing(office: Office) -> None:
    """It would be opened at once."""
    until = datetime.fromtimestamp(time.time() + HOUR, UTC)
    job = office.desk.job(f"{A}/ann", extra=f"hold: {{until: {until:%Y-%m-%dT%H:%M}Z, then: unlock}}")
    done = office.run("run", job, typed=office.later(2 * HOUR), code=3)
    assert f"the hold would end at {until:%Y-%m-%d %H:%M} UTC" in done.err
    assert "has passed since it was planned; nothing was sent" in done.err and "job.yaml:3:15)" in done.err
    assert not office.backend.writes() and not office.desk.journals()


@pytest.mark.parametrize("verb", ["run", "plan", "lock"])
@pytest.mark.parametrize(
    ("hours", "words"), [(-1, "is past: it was "), (24 * 368, "is 368 days ahead, and 366 is the most")]
)
def test_an_end_in_the_past_or_years_ahead_is_named_in_its_place(
    office: Office, verb: str, hours: int, words: str
) -> None:
    """Before anything is read."""
    until = f"{datetime.fromtimestamp(time.time() + hours * HOUR + 60, UTC):%Y-%m-%dT%H:%MZ}"
    if verb == "lock":
        done = office.run("lock", f"{A}/ann", "--region", "ap-singapore", "--until", until, "--yes", code=2)
        assert f"command line: --until: {words}" in done.err
    else:
        job = office.desk.job(f"{A}/ann", extra=f"hold: {{until: {until}}}")
        done = office.run(verb, job, *(["--yes"] if verb == "run" else []), code=2)
        assert f"job.yaml:3:15: hold.until: {words}" in done.err
    assert not office.backend.world.audit


def test_flags_of_a_command_without_a_job_say_the_same(office: Office) -> None:
    office.run("lock", f"{A}/ann", "--region", "ap-singapore", "--for", "4h", "--then", "unlock", "--watch", "--yes")
    until, then, watch = office.limits()
    assert 4 * HOUR - 30 < unix_seconds(until) - time.time() <= 4 * HOUR
    assert (then, watch) == ("unlock", WATCH)


def test_a_bare_watch_takes_no_account_for_its_duration(office: Office) -> None:
    """`--watch` stands anywhere among the words."""
    office.run("lock", "--watch", f"{A}/ann", "--region", "ap-singapore", "--yes")
    assert office.limits() == (None, None, WATCH)
    office.run("unlock", "--watch", "2h", f"{A}/ann", "--region", "ap-singapore", "--yes")
    assert office.limits()[2] == {"after": [300.0, 1800.0, 7200.0], "every": None, "for": None}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--for", "4h", "--until", "2026-12-01T08:00Z"), "--for and --until do not go together"),
        (("--then", "unlock"), "--then goes with --for or --until"),
        (("--then", "open", "--for", "4h"), "'open' is not one of 'tell', 'unlock', 'unlock_rotated'"),
        (("--for", "0s"), "command line: --for: expected a duration longer than 0s, got '0s'"),
        (("--watch=soon",), "command line: --watch: expected a duration with its unit"),
    ],
)
def test_flags_that_mean_nothing_end_with_2(office: Office, flags: tuple[str, ...], words: str) -> None:
    done = office.run("lock", f"{A}/ann", "--region", "ap-singapore", *flags, "--yes", code=2)
    assert words in done.err and not office.backend.world.audit


# ---- what goes on from a run -----------------------------------------------------------------------------------------


def test_a_rerun_has_the_end_that_the_hold_of_its_run_has_by_then(office: Office) -> None:
    """The incident has one end: the last that was said, in its run, in a rerun, or beside either."""
    run = office.partly("hold: {for: 4h, then: unlock}", "watch: {after: [5m]}")
    first = office.limits()
    office.backend.script(NOT_THERE)
    done = office.run("rerun", run, "--yes", code=1)
    assert office.limits() == first
    assert f"as run {run} was told: hold until {first[0][:10]} {first[0][11:16]} UTC" in done.err
    second = office.desk.journals()[-1].parent.name
    end = time.time() + 9 * HOUR
    office.held_until(run, end, "unlock_rotated")
    office.run("rerun", second, "--yes")
    assert office.limits() == (rfc3339(end), "unlock_rotated", first[2])


def test_a_rerun_of_what_was_made_endless_is_endless(office: Office) -> None:
    run = office.partly("hold: {for: 4h, then: unlock}")
    office.held_until(run, None)
    office.run("rerun", run, "--yes")
    assert office.limits()[0] is None


@pytest.mark.parametrize("verb", ["rerun", "resume"])
def test_what_goes_on_after_the_end_of_its_hold_is_warned_of(office: Office, verb: str) -> None:
    """What it locks is due at once; quiet or not, and with the command that holds it longer."""
    run = office.partly("hold: {for: 4h, then: unlock}")
    if verb == "resume":
        office.cut_off()
    office.ahead = 5 * HOUR
    done = office.run(verb, run, "--yes", "--quiet")
    assert f"the hold of run {run} has ended" in done.err and f"first: acctops hold {run} --for 4h" in done.err


def test_a_longer_hold_is_not_warned_of(office: Office) -> None:
    run = office.partly("hold: {for: 4h, then: unlock}")
    office.held_until(run, time.time() + 9 * HOUR)
    office.ahead = 5 * HOUR
    assert "has ended" not in office.run("rerun", run, "--yes").err


def test_an_undo_holds_nothing_and_nothing_is_watched_after_it(office: Office) -> None:
    """Nor does a rerun of it; its undo goes on with the incident, whose end is that of the first run."""
    run = office.partly("hold: {for: 4h, then: unlock}", "watch: {after: [5m]}")
    first = office.limits()
    office.backend.script({**NOT_THERE, "action": "UnlockAccount", "user": "ann"})
    office.run("undo", run, "--yes", code=1)
    assert office.limits() == (None, None, None)
    undo = office.desk.journals()[-1].parent.name
    done = office.run("rerun", undo, "--yes")
    assert office.limits() == (None, None, None) and "was told: hold" not in done.err
    again = office.desk.journals()[-1].parent.name
    office.backend.script({**NOT_THERE, "user": "ann"})
    office.run("undo", again, "--yes", code=1)
    office.run("rerun", office.desk.journals()[-1].parent.name, "--yes")
    assert office.limits() == (*first[:2], None)


def test_a_run_that_goes_on_with_a_cut_off_one_keeps_its_end(office: Office) -> None:
    """The hours count from its confirmation, not from the day on which somebody noticed."""
    job = office.desk.job(f"{A}/ann", extra="hold: {for: 4h}\nwatch: {after: [5m]}")
    office.run("run", job, "--yes")
    first = office.limits()
    office.cut_off()
    office.ahead = HOUR
    done = office.run("run", job, "--yes")
    assert "going on with it" in done.err and len(office.desk.journals()) == 1
    assert office.limits() == first
    assert all(line["settings"] is None for line in office.desk.records("session"))


def test_a_job_whose_end_has_passed_still_guards_what_goes_on(office: Office) -> None:
    """It can be read, and its rules hold: only a new run of it is refused."""
    until = datetime.fromtimestamp(time.time() + HOUR, UTC)
    run = office.partly(f"hold: {{until: {until:%Y-%m-%dT%H:%M}Z}}", 'protect: ["*/bob"]'[:0])
    office.ahead = 2 * HOUR
    office.run("rerun", run, "--yes")
    job = office.desk.work / "job.yaml"
    assert "hold.until: is past" in office.run("run", job, "--yes", code=2).err


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_plan_and_question_say_the_end_and_what_happens_then(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """In UTC and on this machine's clock, and what it rests on."""
    office.desk.env["TZ"] = "Asia/Shanghai"
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    job = office.desk.job(
        f"{A}/ann", extra='hold: {until: "2033-05-18T03:30Z", then: unlock}\nwatch: {after: [5m, 30m]}'
    )
    office.ahead = 2_000_000_000 - HOUR - time.time()
    hold = "until 2033-05-18 03:30 UTC (11:30 here), then unlock what nobody else holds"
    try:
        plan = office.run("plan", job, "--offline")
        asked = office.run("run", job, typed="n\n", code=3)
        document = office.run("plan", job, "--offline", "--json").json
    finally:
        monkeypatch.undo()
        time.tzset()
    assert f"\n  hold  {hold}\n" in plan.out
    assert plan.out.count("\n  needs its timer: acctops schedule --tend --format systemd\n") == 1, "a whole command"
    assert "\n  watch  after 5m and 30m\n" in plan.out
    assert f"\n  hold  {hold}\n" in asked.err and "\n  needs its timer: acctops schedule" in asked.err
    assert f"drop their sessions; hold: {hold}; watch: after 5m and 30m.\n" in asked.err
    assert document["hold"] == {"for_s": None, "until": "2033-05-18T03:30:00.000Z", "then": "unlock"}
    assert document["watch"] == {"after": [300.0, 1800.0], "every": None, "for": None}


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            "hold: {for: 1h30m}",
            "hold  for 1h30m, until about 2033-05-18 05:03 UTC, then a person is told, and decides\n",
        ),
        (
            "hold: {for: 30d, then: unlock_rotated}",
            "hold  for 30d, until about 2033-06-17 03:33 UTC, then unlock what nobody else holds, if its password was ",
        ),
        (
            "watch: {after: [90s, 5m, 1d12h], every: 12h, for: 7d}",
            "watch  after 1m30s, 5m and 1d12h, then every 12h for 7d\n  needs its timer: acctops schedule --tend",
        ),
        ("watch: {every: 1d, for: 30d}", "watch  every 1d for 30d\n  needs its timer: acctops schedule --tend"),
    ],
)
def test_a_plan_says_spans_as_a_job_does(office: Office, keys: str, line: str) -> None:
    office.ahead = 2_000_000_000 - time.time()
    found = office.run("plan", office.desk.job(f"{A}/ann", extra=keys), "--offline").out
    assert f"\n  {line}" in found, found


def test_a_plan_without_the_keys_says_nothing_of_them(office: Office) -> None:
    job = office.desk.job(f"{A}/ann")
    plan = office.run("plan", job, "--offline").out
    assert "hold" not in plan and "watch" not in plan
    document = office.run("plan", job, "--offline", "--json").json
    assert document["hold"] is document["watch"] is None
    assert json.dumps(document)


def test_doctor_says_whether_a_run_could_have_the_end_that_is_asked_for(office: Office) -> None:
    """Before the night on which nobody is there to read the refusal."""
    good = office.run("doctor", office.desk.job(f"{A}/ann", extra="hold: {for: 4h, then: unlock}"), "--json").json
    (check,) = (each for each in good["checks"] if each["check"] == "hold")
    assert check["result"] == "ok" and check["words"].startswith("for 4h, until about ")
    past = office.run("doctor", office.desk.job(f"{A}/ann", extra="hold: {until: 2020-01-01T00:00Z}"), "--json", code=1)
    (check,) = (each for each in past.json["checks"] if each["check"] == "hold")
    assert check["result"] == "fail" and "job.yaml:3:15: hold.until: is past" in check["words"]


def test_a_schedule_is_warned_of_an_end_that_comes_once(office: Office) -> None:
    """Each Saturday after it would be refused."""
    window = 'window: {days: [sat], from: "23:00", until: "05:00", timezone: UTC}'
    job = office.desk.job(f"{A}/ann", extra=f"{window}\nhold: {{until: 2026-12-01T08:00Z}}")
    words = "hold.until: each start after that time is refused; a job that starts again and again says hold: {for: …}"
    assert words in office.run("schedule", job, "--format", "cron").err
    job = office.desk.job(f"{A}/ann", extra=f"{window}\nhold: {{for: 12h}}")
    assert "hold." not in office.run("schedule", job, "--format", "cron").err
