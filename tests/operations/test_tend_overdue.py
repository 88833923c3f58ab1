"""`overdue --tend`: whether what is due after runs is still done, and that nobody is told of it too often."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine import Engine
from engine.errors import Reason
from engine.journal.records import rfc3339
from engine.journal.store import runs_at
from engine.operations.overdue import TENDED
from tests.support.command import Desk, Done

NOON = datetime(2026, 12, 5, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def tended(desk: Desk, ago_s: float) -> Path:
    """The mark of a `tend` that ended with exit 0 so long before noon, as the command leaves it."""
    runs_at(desk.state, simulated=False).set_mark(TENDED, rfc3339(NOON - ago_s))
    return desk.state / TENDED


def asked(desk: Desk, *flags: str, at: float = NOON) -> Done:
    return desk.run("overdue", "--tend", *flags, at=at)


def test_a_tend_within_the_time_is_in_time(desk: Desk) -> None:
    """Exit 0 with words; none with --quiet."""
    tended(desk, 182)
    done = asked(desk)
    said = "tend: in time: the last good `acctops tend` ended at 2026-12-05T11:56Z, 3 min 2 s ago\n"
    assert (done.code, done.out) == (0, said)
    assert asked(desk, "--quiet").text == ""
    assert asked(desk, "--every", "3m").code == 1


def test_a_tend_that_stopped_is_overdue(desk: Desk) -> None:
    """After a quarter of an hour, unless said otherwise; with the last good one, and what to type."""
    tended(desk, 7500)
    done = asked(desk, "--quiet")
    assert done.code == 1
    assert done.out == (
        "OVERDUE  tend: no `acctops tend` ended with exit 0 within 15 min; the last good one ended at "
        "2026-12-05T09:55Z, 2 h 5 min ago; acctops tend\n"
    )
    assert asked(desk, "--every", "3h").code == 0
    elsewhere = asked(desk, "--state-dir", str(desk.state))
    assert elsewhere.out.endswith(f"; acctops tend --state-dir {desk.state}\n"), "it works from anywhere"


def test_what_is_known_is_json_for_a_monitor(desk: Desk) -> None:
    """The keys are those of a job, without a job."""
    never = asked(desk, "--json").json
    assert never == {
        "job": None, "tend": True, "every_s": 900, "state_dir": str(desk.state), "last_good": None, "last": None,
        "exit": 1,
    }  # fmt: skip
    tended(desk, 60)
    good = asked(desk, "--json").json
    assert (good["exit"], good["last_good"]["ended_at"]) == (0, "2026-12-05T11:59:00.000Z")
    assert good["last_good"]["age_s"] == pytest.approx(60, abs=5)


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        ("2026-12-05T12:20:00.000Z", "says 2026-12-05T12:20Z, which is still to come: the clock of this machine"),
        ("2999-01-01T00:00:00.000Z", "which is still to come"),
        ("2026-12-05", "holds no time, but '2026-12-05'"),
        ("2026-99-05T12:20:00.000Z", "holds no time, but '2026-99"),
        ("0000-01-01T00:00:00Z", "holds no time, but '0000"),
        ("\x1b[2J" + "x" * 100, "holds no time, but '\\x1b[2Jxxx"),
        ("", "cannot be read"),
    ],
)
def test_a_mark_that_proves_nothing_is_named(desk: Desk, mark: str, words: str) -> None:
    """A wrong clock, half a file, another program's: overdue, and why, with the place."""
    path = tended(desk, 60)
    path.write_text(mark)
    done = asked(desk)
    assert done.code == 1
    assert done.out.startswith(f"OVERDUE  tend: no `acctops tend` ended with exit 0 that is known: {path} ")
    assert words in done.out and done.out.endswith("; acctops tend\n")
    assert asked(desk, "--json").json["last_good"] is None


def test_a_clock_that_is_a_little_ahead_is_in_time(desk: Desk) -> None:
    """Hosts differ by seconds, and a clock is set back by some."""
    tended(desk, -200)
    assert asked(desk).code == 0


@pytest.mark.parametrize("kind", ["no directory", "no mark", "a directory", "a link", "a pipe"])
def test_no_mark_is_overdue(desk: Desk, kind: str) -> None:
    """It says whether there is no state directory at all, as after a slip, or no tend yet; nothing is created."""
    words = f"there is no {desk.state}/tended, so none ever did"
    if kind != "no directory":
        path = tended(desk, 60)
        path.rename(desk.place / "elsewhere")
        words = f"{path} cannot be read" if kind != "no mark" else words
    else:
        words = f"there is no state directory {desk.state}"
    if kind == "a directory":
        path.mkdir()
    elif kind == "a link":
        path.symlink_to(desk.place / "elsewhere")
    elif kind == "a pipe":
        os.mkfifo(path)
    done = asked(desk)
    assert done.code == 1 and words in done.out
    assert desk.state.exists() == (kind != "no directory")


def test_a_state_directory_that_cannot_be_looked_at_is_named(desk: Desk) -> None:
    """That is another trouble than a tend that does not work."""
    done = asked(desk, "--state-dir", str(desk.write("file", "") / "state"))
    assert done.code == 1 and f"state directory {desk.work}/file/state: cannot be looked at: Not a dir" in done.out


def test_a_mark_that_a_stranger_could_write_proves_nothing(desk: Desk) -> None:
    """Else whoever can write there keeps the alarm quiet."""
    path = tended(desk, 60)
    path.chmod(0o666)
    done = asked(desk)
    assert done.code == 1 and f"everybody can write {path}" in done.out
    path.chmod(0o600)
    assert asked(desk).code == 0
    if os.geteuid() == 0:
        os.chown(path, 54321, -1)
        assert asked(desk).code == 1
        os.chown(desk.state, 54321, -1)
        assert asked(desk).code == 0, "root asks about the tend of whom the state directory belongs to"


def test_it_is_a_job_or_the_tend(desk: Desk) -> None:
    """Exactly one; and of a job nobody knows how often it runs."""
    job = desk.job()
    for argv, words in (
        ([str(job), "--tend", "--every", "1d"], "give a job or --tend, not both"),
        (["--every", "1d"], "Name a job, or give --tend"),
        ([str(job)], "--every is missing"),
        (["--tend", "--every", "soon"], "--every: expected a duration"),
    ):
        refused = desk.run("overdue", *argv)
        assert (refused.code, refused.out) == (2, ""), argv
        assert words in refused.err


def test_it_is_told_once_and_again_every_day(desk: Desk) -> None:
    """The timer looks every quarter of an hour: a hundred notices a day are read like none."""
    told = desk.work / "told"
    desk.write("config.yaml", f"notify: {{command: [tee, -a, {told}]}}\n")
    tended(desk, 1000)
    assert asked(desk).code == 1 and not told.exists(), "not asked to"
    hours = 3600.0
    count = 0
    for after, is_told in ((0, True), (0.25, False), (23.9, False), (24.1, True), (24.3, False)):
        late = asked(desk, "--notify", "--quiet", at=NOON + after * hours)
        count += is_told
        assert late.code == 1 and told.read_text().count('"event"') == count, after
    notice = json.loads(told.read_text().replace("}{", "}\n{").splitlines()[0])
    assert (notice["event"], notice["exit"], notice["run"]) == ("overdue", 1, None)
    assert notice["job"] == {"name": "tend", "path": str(desk.state), "digest": ""}
    assert notice["error"].startswith("OVERDUE  tend: ") and f"tend of {desk.state} on " in notice["text"]
    # It went again, and then stopped again: that is news.
    tended(desk, -24.5 * hours)
    assert asked(desk, "--notify", at=NOON + 24.6 * hours).code == 0
    assert asked(desk, "--notify", at=NOON + 25 * hours).code == 1
    assert told.read_text().count('"event"') == count + 1


def test_a_notice_that_did_not_arrive_is_sent_again(desk: Desk) -> None:
    """Nor is nobody told, because somebody could have been."""
    told = desk.work / "told"
    tended(desk, 1000)
    assert asked(desk, "--notify").code == 1
    desk.write("config.yaml", "notify: {command: ['false']}\n")
    assert "nobody was told of the overdue by command" in asked(desk, "--notify").err
    desk.write("config.yaml", f"notify: {{command: [tee, {told}]}}\n")
    assert asked(desk, "--notify").code == 1 and told.exists()


def test_a_state_directory_that_is_not_there_is_told_and_not_made(desk: Desk) -> None:
    """A disk that was not mounted must not get a directory under its place."""
    told = desk.work / "told"
    desk.write("config.yaml", f"notify: {{command: [tee, {told}]}}\n")
    assert asked(desk, "--notify").code == 1
    assert told.exists() and not desk.state.exists()


def test_a_program_can_ask(desk: Desk) -> None:
    """The library has it, too."""
    tended(desk, 60)
    engine = Engine(state_dir=desk.state, clock=lambda: NOON)
    assert engine.overdue_tend().reason is Reason.OK
    assert engine.overdue_tend(within=30).reason is Reason.INCOMPLETE
