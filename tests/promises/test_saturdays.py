"""Saturday nights with nobody there: windows, one at a time, missed and unfinished runs, and Monday.

The command runs in this process against a simulator on a port; its clock is handed to it (`cli.main`), so each night is
the date it says. What ticks inside a run is real.
"""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from engine.inputs.window import Window
from engine.operations.terms import Terms
from engine.operations.windows import time_left
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done, on_terminal, records

WINDOW = '{days: [sat], from: "01:00", until: "05:00", timezone: Asia/Shanghai}'
SATURDAY = "2026-11-28 01:05"
NEXT_SATURDAY = "2026-12-05 01:05"
MONDAY = "2026-11-30 09:00"
DAY_S = 86400


def at(text: str) -> float:
    """UNIX time of a moment in Shanghai."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Asia/Shanghai")).timestamp()


@pytest.fixture
def backend(desk: Desk) -> Iterator[Backend]:
    with Backend(World(quotas={"*": None})) as server:
        desk.env["ACCTOPS_ENDPOINT"] = server.endpoint
        yield server


def accounts(count: int) -> list[str]:
    return [f"postgres-{number:08}/user{number}" for number in range(count)]


def cam_night(desk: Desk, count: int = 6, extra: str = "", *, window: str = WINDOW) -> Path:
    """The job of the issue: CAM verification on, every Saturday, inside a window."""
    return desk.job(
        *accounts(count), name="cam-night.yaml", action="OpenAccountCAM", extra=f"window: {window}\n{extra}"
    )


def closed_now() -> str:
    """A window that is closed while this test runs: the third day from now, in UTC."""
    day = datetime.fromtimestamp(next_days(3), UTC).strftime("%a").lower()
    return f'{{days: [{day}], from: "00:00", until: "24:00", timezone: UTC}}'


def next_days(days: int) -> float:
    return time.time() + days * DAY_S


def seed(backend: Backend, count: int = 6) -> None:
    for target in accounts(count):
        instance, _, user = target.partition("/")
        backend.world.seed(instance, "ap-singapore", [user])


def night(desk: Desk, job: Path, when: str | float, *flags: str) -> Done:
    """What cron starts: nobody there, quiet."""
    return desk.run("run", job, "--yes", "--quiet", *flags, at=at(when) if isinstance(when, str) else when)


# ---- the window ------------------------------------------------------------------------------------------------------


def test_a_start_outside_the_window_is_refused_and_says_when_it_opens(desk: Desk, backend: Backend) -> None:
    """Nothing was asked of the API, no run exists, and the next window stands there."""
    job = cam_night(desk)
    done = night(desk, job, "2026-11-28 05:00")
    assert done.code == 3 and done.out == ""
    assert "outside the window sat 01:00–05:00 Asia/Shanghai" in done.err
    assert "it is Sat 2026-11-28 05:00 Asia/Shanghai; nothing was sent" in done.err
    assert "it next opens Sat 2026-12-05 01:00 Asia/Shanghai, in 6 d " in done.err
    assert not desk.journals() and not backend.world.audit


def test_now_is_for_a_person_at_a_terminal(desk: Desk, backend: Backend) -> None:
    """In a crontab it lets nothing pass; typed at a terminal it does, and the run goes on past `until`."""
    seed(backend)
    job = cam_night(desk, window=closed_now())
    refused = desk.run("run", job, "--yes", "--now")
    assert refused.code == 3 and "nobody is there" in refused.err and not backend.world.audit
    with on_terminal(desk, "run", job, "--now", "--yes") as terminal:
        assert terminal.end() == 0, terminal.screen


def test_a_simulated_run_holds_to_the_window_too(desk: Desk) -> None:
    """A drill of the schedule is worth something; `--now` there needs nobody, as nothing real is touched."""
    job = cam_night(desk)
    assert desk.run("run", job, "--simulate", "--yes", at=at(MONDAY)).code == 3
    assert desk.run("run", job, "--simulate", "--yes", "--now", at=at(MONDAY)).code == 0
    assert desk.run("run", job, "--simulate", "--yes", at=at(SATURDAY)).code == 0


def test_a_window_that_closes_under_way_drains_and_the_next_one_goes_on(desk: Desk, backend: Backend) -> None:
    """Exit 4, the rest listed; resume is refused until the window opens again, from the journal alone."""
    seed(backend, 40)
    job = cam_night(desk, 40, "rate: 4")
    overrun = desk.run("run", job, "--yes", at=at("2026-11-28 05:00") - 6)
    assert overrun.code == 4
    assert (
        "STOPPED EARLY: the window sat 01:00–05:00 Asia/Shanghai closed; it next opens Sat 2026-12-05 01:00"
        in overrun.out
    )
    assert "unattempted" in overrun.out and "go on:  acctops resume" in overrun.out
    sent = len(backend.writes())
    assert 0 < sent < 40
    job.unlink()
    refused = desk.run("resume", "latest", "--yes", at=at(MONDAY))
    assert refused.code == 3 and "it next opens Sat 2026-12-05 01:00" in refused.err
    assert len(backend.writes()) == sent
    resumed = desk.run("resume", "latest", "--yes", "--rate", "200", at=at(NEXT_SATURDAY))
    assert resumed.code == 0 and "40 of 40 verified" in resumed.out
    assert len(backend.writes()) == 40


@pytest.mark.parametrize(
    ("when", "now", "closes_s", "words"),
    [
        ("2026-11-28 04:59", False, 60.0, "closed; it next opens Sat 2026-12-05 01:00 Asia/Shanghai"),
        ("2026-11-28 01:00", False, 14400.0, "closed; it next opens Sat 2026-12-05 01:00 Asia/Shanghai"),
        ("2026-11-28 05:00", False, 0.0, "closed; it next opens Sat 2026-12-05 01:00 Asia/Shanghai"),
        ("2026-11-28 05:00", True, math.inf, ""),
    ],
)
def test_how_long_a_session_may_send(when: str, now: bool, closes_s: float, words: str) -> None:
    """Its own deadline, and the end of the window beside it; nothing, if it closed while one was asked."""
    window = Window(days=(5,), start=60, until=300, timezone="Asia/Shanghai")
    left = time_left(window, Terms(clock=lambda: at(when), now=now), 600.0)
    assert left.deadline_s == 600.0
    assert left.closes_s == closes_s and words in left.closes_why


def test_monday_s_rerun_needs_a_person_and_the_undo_waits_for_nobody(desk: Desk, backend: Backend) -> None:
    """Off a terminal a rerun is held like any start; at one it says so and goes; undo takes back at any hour."""
    seed(backend)
    backend.script({"user": "user1", "code": "InvalidParameterValue.AccountNotExistError"})
    job = cam_night(desk, window=closed_now())
    assert night(desk, job, next_days(3)).code == 1
    backend.script()
    monday = ("rerun", desk.journal().parent.name, "--only", "failed,unknown,unattempted")
    alone = desk.run(*monday, "--yes")
    assert alone.code == 3 and "outside the window" in alone.err
    job.unlink()
    with on_terminal(desk, *monday) as terminal:
        terminal.wait_for("[y/N]")
        terminal.type("y")
        assert terminal.end() == 0, terminal.screen
    assert "outside the window" in terminal.screen
    first = next(path.parent.name for path in desk.journals() if len(records(path, "call")) == 6)
    undone = desk.run("undo", first, "--yes", "--password-command", "echo Aa1(bcdefg")
    assert undone.code == 0, undone.text


# ---- the Saturdays, each with its exit code, its mail and what `overdue` says ---------------------------------------


def overdue(desk: Desk, when: str, *flags: str) -> Done:
    """The monitor's question."""
    return desk.run("overdue", "cam-night.yaml", "--every", "8d", *flags, at=at(when))


NOT_THERE = "InvalidParameterValue.AccountNotExistError"


def test_a_good_saturday_sends_no_mail(desk: Desk, backend: Backend) -> None:
    """Exit 0, not one character, warnings included; in time until eight days later, when it names the last good one."""
    seed(backend)
    job = cam_night(desk, extra='protect: ["*/nobody_*"]')  # a rule that matches nothing is a warning elsewhere
    done = night(desk, job, SATURDAY)
    assert (done.code, done.text) == (0, "")
    in_time = overdue(desk, "2026-12-06 01:00")
    assert in_time.code == 0 and "cam-night.yaml: in time: run 20261127T1705" in in_time.out
    assert overdue(desk, MONDAY, "--quiet").text == ""
    late = overdue(desk, "2026-12-06 01:30")
    assert late.code == 1
    words = "OVERDUE  cam-night.yaml: no run ended with exit 0 within 8 d 0 h; the last good one, 20261127T1705"
    assert words in late.out
    answer = overdue(desk, "2026-12-06 01:30", "--json").json
    assert answer["exit"] == 1 and answer["every_s"] == 8 * DAY_S
    assert answer["last_good"]["run"] == desk.journal().parent.name and answer["last_good"]["age_s"] > 8 * DAY_S


def test_a_missed_saturday_is_told(desk: Desk, backend: Backend) -> None:
    """Nobody started it: there is no mail, and the monitor says so, also when no run ever was."""
    job = cam_night(desk)
    never = overdue(desk, MONDAY)
    assert never.code == 1
    assert "OVERDUE  cam-night.yaml: no run of cam-night.yaml in" in never.out
    seed(backend)
    assert night(desk, job, SATURDAY).code == 0
    assert overdue(desk, "2026-12-07 09:00").code == 1
    job.unlink()
    assert overdue(desk, "2026-12-07 09:00").code == 1, "answered from journals alone"
    typo = desk.run("overdue", "cam-nihgt", "--every", "8d", at=at(MONDAY))
    assert typo.code == 1 and "did you mean cam-night?" in typo.out


def test_a_good_run_of_a_wrong_clock_hides_no_missed_saturday(desk: Desk, backend: Backend) -> None:
    """A machine that thought it was next year: that run is not "in time" for a year, and overdue says why not."""
    seed(backend)
    job = cam_night(desk)
    assert night(desk, job, "2027-11-27 01:05").code == 0
    answer = overdue(desk, MONDAY)
    assert answer.code == 1 and "which is still to come: the clock of this machine was wrong" in answer.out
    assert overdue(desk, MONDAY, "--json").json["last_good"] is None
    assert night(desk, job, SATURDAY).code == 0
    assert overdue(desk, MONDAY).code == 0


def test_a_job_is_the_same_however_its_path_is_typed(desk: Desk, backend: Backend) -> None:
    """Run from one folder as ../job, edited since, asked for from another: its runs are found."""
    seed(backend)
    job = cam_night(desk)
    (desk.work / "sub").mkdir()
    assert desk.run("run", "sub/../cam-night.yaml", "--yes", at=at(SATURDAY)).code == 0
    job.write_text(job.read_text() + "ticket: CHG-2\n")
    assert desk.run("overdue", job, "--every", "8d", at=at(MONDAY)).code == 0
    assert desk.run("overdue", "sub/../cam-night.yaml", "--every", "8d", at=at(MONDAY)).code == 0


def test_overdue_names_what_it_could_not_read(desk: Desk, backend: Backend) -> None:
    """The good run's journal is damaged: overdue, and the reason is said, instead of "no run ever"."""
    seed(backend)
    night(desk, cam_night(desk), SATURDAY)
    path = desk.journal()
    path.write_bytes(path.read_bytes().replace(b"cam-night", b"cam-nihgt", 1))
    answer = overdue(desk, MONDAY)
    assert answer.code == 1
    assert f"1 cannot be read, and may be of this job: {path}:1:" in answer.out


def test_the_commands_of_a_mail_work_from_anywhere(desk: Desk, backend: Backend) -> None:
    """A schedule names the state directory, so its mail does, too: by day it is read in another folder."""
    seed(backend, 5)
    backend.script({"user": "user0", "code": "InvalidParameterValue.AccountNotExistError"})
    desk.write("config.yaml", f"state_dir: {desk.state}\n")
    done = night(desk, cam_night(desk), SATURDAY, "--state-dir", str(desk.state))
    assert done.code == 1
    mail = done.out + overdue(desk, MONDAY, "--state-dir", str(desk.state)).out
    named = [line for line in mail.splitlines() if "acctops rerun " in line or "acctops status " in line]
    assert len(named) == 2 and all(line.endswith(f" --state-dir {desk.state}") for line in named)


def test_a_half_failed_saturday_mails_the_whole_report(desk: Desk, backend: Backend) -> None:
    """Exit 1; the mail has what failed, why, what to do, its RequestId, and what was kept back in good nights."""
    seed(backend)
    backend.script(*({"user": f"user{number}", "code": NOT_THERE} for number in (0, 2, 4)))
    job = cam_night(desk, extra='protect: ["*/nobody_*"]')
    done = night(desk, job, SATURDAY)
    assert done.code == 1
    assert "3 of 6 verified" in done.out and f"failed (3): 3 × {NOT_THERE}" in done.out
    assert done.out.count("RequestId") == 3 and "go on:  acctops rerun" in done.out
    assert "protect */nobody_* matches none" in done.err
    answer = overdue(desk, MONDAY)
    assert answer.code == 1 and "ended with exit 1 at 2026-11-27T17:05Z: acctops status" in answer.out

    # Monday: what stands open, and the rerun, from the journal alone. Then the job is done, and the monitor is content.
    job.unlink()
    week = desk.run("status", "--since", "7d", at=at(MONDAY))
    assert week.code == 0 and "cam-night  3 of 6 verified  exit 1  3 failed  " in week.out
    assert "1 run: 1 ended otherwise; open: 3 accounts" in week.out
    backend.script()
    monday = ("rerun", "latest:cam-night", "--only", "failed,unknown,unattempted")
    rerun = desk.run(*monday, typed="y\n", at=at(MONDAY))
    assert rerun.code == 0 and "3 of 3 verified" in rerun.out
    assert overdue(desk, "2026-11-30 10:00").code == 0
    week = desk.run("status", "--since", "7d", at=at("2026-11-30 10:00"))
    assert "2 runs: 1 ended with exit 0, 1 ended otherwise; open: 0 accounts" in week.out


def test_a_rerun_of_a_part_does_not_make_the_job_good(desk: Desk, backend: Backend) -> None:
    """Of two causes one was mended: that rerun ends with 0, and the job is overdue all the same."""
    seed(backend)
    backend.script({"user": "user0", "code": NOT_THERE}, {"user": "user1", "code": "InvalidParameterValue"})
    assert night(desk, cam_night(desk, extra="stop_after: 50%"), SATURDAY).code == 1
    backend.script()
    part = ("rerun", "latest:cam-night", "--code", NOT_THERE)
    assert desk.run(*part, typed="y\n", at=at(MONDAY)).code == 0
    answer = overdue(desk, "2026-11-30 10:00")
    assert answer.code == 1 and "no run of it ever ended with exit 0" in answer.out
    first = desk.journals()[0].parent.name
    other = ("rerun", first, "--code", "InvalidParameterValue")
    assert desk.run(*other, typed="y\n", at=at("2026-11-30 11:00")).code == 0
    assert overdue(desk, "2026-11-30 12:00").code == 0, "the two reruns together have done it"
    nothing = desk.run("rerun", first, "--quiet", "--yes", at=at("2026-11-30 12:00"))
    assert (nothing.code, nothing.text) == (0, "")


def test_a_rerun_does_not_make_a_job_good_whose_list_has_bad_rows(desk: Desk, backend: Backend) -> None:
    """They are in no rerun: the monitor is content when the corrected job has been run."""
    seed(backend)
    backend.script({"user": "user0", "code": NOT_THERE})
    listed = desk.write("list.csv", "\n".join([*(target.replace("/", ",") for target in accounts(6)), "nonsense"]))
    job = desk.job("{csv: list.csv}", name="cam-night.yaml", action="OpenAccountCAM", extra=f"window: {WINDOW}")
    assert night(desk, job, SATURDAY, "--skip-bad-rows").code == 1
    backend.script()
    rerun = desk.run("rerun", "latest:cam-night", typed="y\n", at=at(MONDAY))
    assert rerun.code == 0 and "not in a rerun: " in rerun.err, rerun.text
    assert overdue(desk, "2026-11-30 10:00").code == 1
    listed.write_text(listed.read_text().removesuffix("\nnonsense"))
    assert desk.run("run", job, "--now", "--yes", typed="", at=at(MONDAY)).code == 0
    assert overdue(desk, "2026-11-30 12:00").code == 0


def test_a_late_start_is_taken_if_the_window_is_open_and_told_if_not(desk: Desk, backend: Backend) -> None:
    """The machine was down at one o'clock: at half past four it runs; at ten past five the mail says why not."""
    seed(backend)
    job = cam_night(desk)
    late = night(desk, job, "2026-11-28 05:10")
    assert late.code == 3 and late.out == ""
    assert "outside the window sat 01:00–05:00 Asia/Shanghai" in late.err and "next opens Sat 2026-12-05" in late.err
    assert overdue(desk, MONDAY).code == 1
    in_time = night(desk, job, "2026-12-05 04:30")
    assert (in_time.code, in_time.text) == (0, "")
    assert overdue(desk, "2026-12-07 09:00").code == 0


def test_an_overrun_saturday_mails_the_rest_and_the_next_one_does_it(desk: Desk, backend: Backend) -> None:
    """Exit 4 when the window closes, the rest listed; cron's next start finds what is done and does the rest."""
    seed(backend, 40)
    job = cam_night(desk, 40, "rate: 4")
    overrun = night(desk, job, at("2026-11-28 05:00") - 6)
    assert overrun.code == 4
    assert "STOPPED EARLY: the window" in overrun.out and "unattempted (" in overrun.out
    assert overdue(desk, MONDAY).code == 1
    sent = len(backend.writes())
    again = night(desk, job, NEXT_SATURDAY, "--json", "--rate", "200")
    assert again.code == 0 and again.json["counts"]["already"] == sent and again.json["counts"]["changed"] == 40 - sent
    assert overdue(desk, "2026-12-07 09:00").code == 0
    week = desk.run("status", "--since", "14d", "--json", at=at("2026-12-07 09:00")).json
    assert [run["exit"] for run in week["runs"]] == [0, 4] and week["open"] == 0


def test_a_roll_out_saturday_by_saturday(desk: Desk, backend: Backend) -> None:
    """`take: 3` of eight, one of which always fails: three at a time; who failed comes after all that waited."""
    seed(backend, 8)
    backend.script({"user": "user1", "code": NOT_THERE})
    job = cam_night(desk, 8, "limits: {take: 3}")
    changed = []
    for saturday, code in (("2026-11-28 02:00", 1), ("2026-12-05 02:00", 0), ("2026-12-12 02:00", 1)):
        done = desk.run("run", job, "--yes", "--json", at=at(saturday))
        assert done.code == code, done.text
        changed.append((done.json["counts"]["changed"], done.json["left_out"]["later"]))
    assert changed == [(2, 5), (3, 3), (2, 0)]
    assert {record["reason"] for record in records(desk.journals()[0], "omit")} == {"later"}
    plan = desk.run("plan", job, at=at("2026-12-14 09:00"))
    assert plan.code == 0 and f"limits.take 3 ({job}:4:16)" in plan.out and "window sat 01:00–05:00" in plan.out


def test_a_monday_rerun_does_not_upset_the_line(desk: Desk, backend: Backend) -> None:
    """The line stands in the journal of the last Saturday, not in that of a rerun since."""
    seed(backend, 6)
    backend.script({"user": "user0", "code": NOT_THERE})
    job = cam_night(desk, 6, "limits: {take: 2}")
    assert night(desk, job, SATURDAY).code == 1
    assert desk.run("rerun", "latest:cam-night", typed="y\n", at=at(MONDAY)).code == 1
    assert night(desk, job, NEXT_SATURDAY).code == 0
    sent = {call["user"] for call in records(desk.journals()[-1], "call")}
    assert {"user2", "user3"} <= sent and "user0" not in sent


# ---- what a crash leaves ---------------------------------------------------------------------------------------------


@pytest.fixture
def crashed(desk: Desk, backend: Backend) -> Path:
    """A run of the job that was killed with calls open."""
    seed(backend, 12)
    job = desk.job(*accounts(12), name="cam-night.yaml", action="OpenAccountCAM", extra="rate: 5")
    running = desk.popen("run", job, "--yes")
    desk.wait_for("reply", 2)
    running.kill()
    desk.end(running)
    return job


def test_the_next_start_goes_on_with_what_a_crash_left(desk: Desk, backend: Backend, crashed: Path) -> None:
    """By default: the same run ends, all done, and nothing that was proven done is sent again."""
    run = desk.journal().parent.name
    settled = {record["call"] for record in records(desk.journal(), "settled")}
    done = desk.run("run", crashed, "--yes", "--json")
    assert done.code == 0 and done.json["run"] == run and done.json["counts"]["changed"] == 12
    assert f"run {run} of this job was cut off with" in done.err
    lines = desk.records()
    begun = next(number for number, line in enumerate(lines) if line["kind"] == "session")
    assert not settled & {line["call"] for line in lines[begun:] if line["kind"] == "sent"}


def test_nobody_there_and_no_yes_goes_on_with_nothing(desk: Desk, backend: Backend, crashed: Path) -> None:
    """Going on is asked for like any run."""
    sent = len(backend.writes())
    assert desk.run("run", crashed).code == 3
    assert len(backend.writes()) == sent


def test_a_changed_job_begins_anew_and_says_so(desk: Desk, backend: Backend, crashed: Path) -> None:
    """The unfinished run is named, and stays; what it changed is found so."""
    crashed.write_text(crashed.read_text() + "ticket: CHG-1\n")
    done = desk.run("run", crashed, "--yes", "--json")
    assert done.code == 0 and len(desk.journals()) == 2
    assert "beginning anew (the job has changed since)" in done.err
    assert done.json["counts"]["already"] >= 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--no-verify"], "reading accounts back was switched off since"),
        (["--profile", "other"], "the profile has changed since"),
    ],
)
def test_other_surroundings_begin_anew_too(desk: Desk, crashed: Path, flags: list[str], words: str) -> None:
    """Tonight's settings hold, never those of a night long ago against another server."""
    done = desk.run("run", crashed, "--yes", *flags)
    assert words in done.err, done.err


def test_a_journal_that_cannot_be_read_may_have_been_the_last_run(desk: Desk, crashed: Path) -> None:
    """Nobody knows what a newer one said: an older unfinished run is not dug up, a new one is begun."""
    broken = desk.state / "runs" / "20990101T000000Z-aaaa" / "journal.jsonl"
    broken.parent.mkdir()
    broken.write_text("no journal\n")
    done = desk.run("run", crashed, "--yes", "--quiet")
    assert (done.code, done.text) == (0, "") and len(list(desk.state.glob("runs/*"))) == 3


def test_a_run_against_another_server_is_not_gone_on_with(desk: Desk, crashed: Path) -> None:
    """What a drill left unfinished must not send the real job to the drill's server, nor the other way round."""
    with Backend(World(quotas={"*": None})) as other:
        desk.env["ACCTOPS_ENDPOINT"] = other.endpoint
        seed(other, 12)
        done = desk.run("run", crashed, "--yes")
        assert done.code == 0 and "the endpoint has changed since" in done.err
        assert len(other.writes()) == 12


@pytest.mark.parametrize("by_flag", [False, True])
def test_refuse_and_new(desk: Desk, backend: Backend, crashed: Path, by_flag: bool) -> None:
    """As the job says, and the flag before it."""
    run, sent = desk.journal().parent.name, len(backend.writes())
    flags = ["--on-unfinished", "refuse"]
    if not by_flag:
        crashed.write_text("on_unfinished: refuse\n" + crashed.read_text())
        flags = []
    refused = desk.run("run", crashed, "--yes", *flags)
    assert refused.code == 3 and f"acctops resume {run}" in refused.err and len(backend.writes()) == sent
    anew = desk.run("run", crashed, "--yes", "--on-unfinished", "new", "--quiet")
    assert (anew.code, anew.text) == (0, "") and len(desk.journals()) == 2
    assert desk.run("run", crashed, "--yes", *flags).code == 0, "the last run ended in order: nothing is unfinished"


def test_a_run_that_goes_on_is_busy(desk: Desk, backend: Backend) -> None:
    """The job was edited meanwhile: it is the same job all the same."""
    seed(backend, 12)
    job = desk.job(*accounts(12), action="OpenAccountCAM", extra="rate: 4")
    running = desk.popen("run", job, "--yes")
    try:
        desk.wait_for("sent")
        job.write_text(job.read_text() + "ticket: CHG-1\n")
        done = desk.run("run", job, "--yes", "--quiet")
        assert done.code == 6 and "the same job is being run already" in done.err and done.out == ""
    finally:
        assert desk.end(running).code == 0


# ---- many runs -------------------------------------------------------------------------------------------------------


def test_the_change_record_of_a_week(desk: Desk, backend: Backend) -> None:
    """Every target of every run since then, as CSV and JSON; older runs and simulated ones are not in it."""
    seed(backend)
    job = cam_night(desk, extra="ticket: CHG-4711")
    night(desk, job, "2026-11-21 01:05")
    night(desk, job, SATURDAY)
    assert desk.run("run", job, "--simulate", "--yes", at=at("2026-11-28 01:30")).code == 0
    table = list(csv.DictReader(io.StringIO(desk.run("report", "--since", "7d", "--format", "csv", at=at(MONDAY)).out)))
    assert len(table) == 6 and {line["outcome"] for line in table} == {"already"}
    assert {(line["job"], line["ticket"]) for line in table} == {("cam-night", "CHG-4711")}
    both = desk.run("report", "--since", "14d", "--format", "json", at=at(MONDAY)).json
    assert [run["counts"]["changed"] for run in both["runs"]] == [6, 0] and both["unreadable"] == []
    assert desk.run("report", "--since", "14d", at=at(MONDAY)).out.count("6 of 6 verified") == 2
    listed = desk.run("status", "--since", "7d", at=at(MONDAY)).out
    assert listed.count("cam-night") == 2 and "SIMULATED" in listed and "1 run: 1 ended with exit 0" in listed


def test_a_journal_that_cannot_be_read_is_missed_aloud(desk: Desk, backend: Backend) -> None:
    """A change record without it must not pass for whole: exit 7, named; the others are in it."""
    seed(backend)
    job = cam_night(desk)
    night(desk, job, "2026-11-21 01:05")
    night(desk, job, SATURDAY)
    path = desk.journals()[0]
    path.write_bytes(path.read_bytes().replace(b"user3", b"user9", 1))
    done = desk.run("report", "--since", "14d", "--format", "csv", at=at(MONDAY))
    assert done.code == 7 and "NOT IN THIS REPORT" in done.err
    assert len(list(csv.DictReader(io.StringIO(done.out)))) == 6
    assert "UNREADABLE" in desk.run("status", "--since", "14d", at=at(MONDAY)).out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["status", "--since", "7"], "--since: expected a duration with its unit"),
        (["status", "latest", "--since", "7d"], "name a run, or give --since, not both"),
        (["report"], "name a run, or give --since 7d"),
        (["report", "latest", "--since", "7d"], "not both"),
        (["report", "--since", "7d", "--stuck"], "go with one run"),
        (["overdue", "x", "--every", "week"], "--every: expected a duration"),
        (["overdue", "x"], "--every"),
    ],
)
def test_wrong_questions(desk: Desk, argv: list[str], words: str) -> None:
    """One sentence each."""
    done = desk.run(*argv)
    assert done.code == 2 and done.out == "" and words in done.err


# ---- one start of several --------------------------------------------------------------------------------------------


def test_once_in_an_opening_runs_once_and_again_in_the_next(desk: Desk, backend: Backend) -> None:
    """Cron asks every quarter of an hour: the first start runs, late or not; the others do nothing, in silence."""
    seed(backend)
    job = cam_night(desk)
    for when in ("2026-11-28 01:01", "2026-11-28 01:16", "2026-11-28 04:59", "2026-12-05 03:30", "2026-12-05 03:45"):
        done = night(desk, job, when, "--once")
        assert (done.code, done.text) == (0, ""), done.text
    assert len(desk.journals()) == 2
    said = desk.run("run", job, "--yes", "--once", at=at("2026-12-05 04:00"))
    assert said.code == 0 and "nothing to do: the window that opened Sat 2026-12-05 01:00" in said.err


def test_once_after_a_run_that_failed_or_was_refused_is_quiet_until_the_next_opening(
    desk: Desk, backend: Backend
) -> None:
    """One mail for one bad night, not sixteen; a run by hand meanwhile is no answer to the opening."""
    seed(backend)
    job = cam_night(desk, extra="limits: {max_targets: 2}")
    refused = night(desk, job, SATURDAY, "--once")
    assert refused.code == 3 and "max_targets" in refused.err
    assert (night(desk, job, "2026-11-28 01:30", "--once").text) == ""
    assert night(desk, job, NEXT_SATURDAY, "--once").code == 3
    backend.script({"user": "user0", "code": NOT_THERE})
    job = cam_night(desk)
    third = night(desk, job, "2026-12-12 01:00", "--once")
    assert third.code == 1 and third.out
    assert night(desk, job, "2026-12-12 01:15", "--once").text == "" and len(desk.journals()) == 1


@pytest.mark.parametrize("mode", ["everybody", "sticky", "owner"])
def test_once_takes_no_word_of_a_stranger_that_the_night_is_done(desk: Desk, backend: Backend, mode: str) -> None:
    """Who can put a mark into the state directory would keep every night from being worked, with exit 0."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    seed(backend)
    job = cam_night(desk)
    assert night(desk, job, SATURDAY, "--once").code == 0
    openings = desk.state / "openings"
    if mode == "owner":
        os.chown(openings, 54321, -1)
    else:
        openings.chmod(0o777 if mode == "everybody" else 0o1777)
    done = night(desk, job, "2026-11-28 01:30", "--once")
    assert done.code == 2 and "is not believed" in done.err and str(openings) in done.err


def test_a_run_that_a_stranger_put_there_is_no_success(desk: Desk, backend: Backend) -> None:
    """`overdue` is what tells of a night that was lost: a planted run of exit 0 must not keep it quiet."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    seed(backend)
    job = cam_night(desk)
    assert night(desk, job, SATURDAY).code == 0
    asked = ("overdue", job, "--every", "8d")
    assert desk.run(*asked, at=at("2026-11-28 05:00")).code == 0
    journal = desk.journal()
    os.chown(journal, 54321, -1)
    done = desk.run(*asked, at=at("2026-11-28 05:00"))
    assert done.code == 1 and f"run {journal.parent.name} does not count: it is not believed" in done.out
    os.chown(journal, 0, -1)
    journal.parent.parent.chmod(0o1777)
    assert "everybody can put files into" in desk.run(*asked, at=at("2026-11-28 05:00")).out
    journal.parent.parent.chmod(0o755)
    for path in (desk.state, *desk.state.rglob("*")):
        os.chown(path, 54321, -1)
    assert desk.run(*asked, at=at("2026-11-28 05:00")).code == 0, "root asks about the runs of whom they belong to"


@pytest.mark.parametrize("broken", ["job", "list", "config"])
def test_a_job_that_cannot_be_read_is_told_of_once_in_an_opening(desk: Desk, backend: Backend, broken: str) -> None:
    """A slip in a file is one mail, not sixteen; once it is mended the rest of the night is not lost."""
    seed(backend)
    desk.write("night.csv", "instance,user\npostgres-00000000,user0\n")
    config = desk.write("config.yaml", "rate: 15\n")
    job = desk.write(
        "night.yaml", f"action: OpenAccountCAM\nregion: ap-singapore\nwindow: {WINDOW}\ntargets: [{{csv: night.csv}}]"
    )
    path = {"job": job, "list": job.parent / "night.csv", "config": config}[broken]
    whole = path.read_text()
    assert night(desk, job, SATURDAY, "--once").code == 0
    path.write_text("{" if broken != "list" else "instance,user\nnonsense\n")
    told = night(desk, job, NEXT_SATURDAY, "--once")
    assert told.code == 2 and path.name in told.err
    assert (night(desk, job, "2026-12-05 01:20", "--once").text) == ""
    assert night(desk, job, "2026-12-12 01:20", "--once").code == 2
    path.write_text(whole)
    done = night(desk, job, "2026-12-12 01:35", "--once")
    assert (done.code, done.text) == (0, "") and len(desk.journals()) == 2


def test_a_job_that_never_could_be_read_is_told_of_once_a_day(desk: Desk) -> None:
    """Nobody knows its window yet."""
    job = desk.write("night.yaml", "{")
    for when, code in (("2026-11-28 09:00", 2), ("2026-11-28 09:15", 0), ("2026-11-29 09:00", 2)):
        assert night(desk, job, when, "--once").code == code


def test_once_goes_on_with_what_a_crash_left(desk: Desk, backend: Backend) -> None:
    """Killed in the window: the next quarter's start takes the run up, and no night is lost."""
    seed(backend, 12)
    every_day = "[mon, tue, wed, thu, fri, sat, sun]"
    held = f'{{days: {every_day}, from: "00:00", until: "24:00", timezone: Asia/Shanghai}}'
    job = desk.job(*accounts(12), name="cam-night.yaml", action="OpenAccountCAM", extra=f"rate: 5\nwindow: {held}")
    running = desk.popen("run", job, "--yes", "--quiet", "--once")
    desk.wait_for("reply", 2)
    busy = desk.run("run", job, "--yes", "--quiet", "--once")
    assert (busy.code, busy.text) == (0, ""), "a run that goes on is no alarm"
    running.kill()
    desk.end(running)
    done = desk.run("run", job, "--yes", "--quiet", "--once")
    assert done.code == 0 and len(desk.journals()) == 1
    assert desk.run("run", job, "--yes", "--quiet", "--once").text == ""


def test_once_in_the_hour_that_comes_twice_is_quiet(desk: Desk, backend: Backend) -> None:
    """The clock shows an hour of a window that is over a second time; where nobody came in time, that is told once."""
    seed(backend)
    held = '{days: [sun], from: "01:00", until: "02:30", timezone: Europe/Berlin}'
    job = cam_night(desk, window=held)
    first, again = (datetime(2027, 10, 31, 0, 15, tzinfo=UTC), datetime(2027, 10, 31, 1, 15, tzinfo=UTC))
    missed = night(desk, job, again.timestamp(), "--once")
    assert missed.code == 3 and "outside the window" in missed.err
    assert night(desk, job, again.timestamp() + 60, "--once").text == ""
    (desk.state / "openings").rename(desk.state / "gone")
    for moment in (first, again):
        done = night(desk, job, moment.timestamp(), "--once")
        assert (done.code, done.text) == (0, "")
    assert len(desk.journals()) == 1


def test_once_needs_a_window(desk: Desk) -> None:
    """Once in what? Exit 2."""
    done = desk.run("run", desk.job(), "--yes", "--once")
    assert done.code == 2 and "--once means once in each opening of a window" in done.err


# ---- cron's own environment ------------------------------------------------------------------------------------------


def test_a_bare_environment_is_told_what_to_set_and_then_works(desk: Desk, backend: Backend) -> None:
    """As cron or systemd start it: no HOME, no LANG, a short PATH, in /. Absolute paths, a state directory, keys."""
    seed(backend)
    every_day = "[mon, tue, wed, thu, fri, sat, sun]"
    job = cam_night(desk, window=f'{{days: {every_day}, from: "00:00", until: "24:00", timezone: Asia/Shanghai}}')
    given = ("PYTHONPATH", "ACCTOPS_ENDPOINT", "TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY")
    bare = {"PATH": "/usr/bin:/bin", **{name: desk.env[name] for name in given}}
    untold = desk.end(desk.popen("run", job, "--yes", "--quiet", env=bare, cwd="/"))
    assert untold.code == 2 and untold.out == "" and not backend.writes()
    assert "neither HOME nor XDG_STATE_HOME is set" in untold.err
    assert "ACCTOPS_STATE_DIR=/var/lib/acctops" in untold.err
    bare["ACCTOPS_STATE_DIR"] = str(desk.state)
    done = desk.end(desk.popen("run", job, "--yes", "--quiet", env=bare, cwd="/"))
    assert (done.code, done.text) == (0, "")
    answer = desk.end(desk.popen("overdue", job, "--every", "8d", "--quiet", env=bare, cwd="/"))
    assert (answer.code, answer.text) == (0, "")


# ---- one at a time ---------------------------------------------------------------------------------------------------


def test_the_opposite_on_a_shared_account_waits(desk: Desk, backend: Backend) -> None:
    """An unlock of what a live run is locking is exit 6, and nothing of it is sent; of other accounts it goes."""
    seed(backend)
    job = desk.job(*accounts(6), extra="rate: 2")
    locking = desk.popen("run", job, "--yes")
    try:
        desk.wait_for("sent")
        meeting = desk.run("unlock", *accounts(2), "--region", "ap-singapore", "--yes")
        assert (
            meeting.code == 6 and "is doing the opposite right now: LockAccount on 2 of these accounts" in meeting.err
        )
        assert all(arrival.action == "LockAccount" for arrival in backend.writes())
        apart = desk.run("unlock", "postgres-99999999/other", "--region", "ap-singapore", "--yes", "--no-verify")
        assert apart.code == 0, apart.text
    finally:
        assert desk.end(locking).code == 0
