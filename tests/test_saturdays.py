"""Saturday nights with nobody there: windows, one at a time, missed and unfinished runs, and Monday.

The command runs in this process against a simulator on a port; its clock is handed to it (`cli.main`), so each night is
the date it says. What ticks inside a run is real.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

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
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


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
    assert "it next opens Sat 2026-12-05 01:00 Asia/Shanghai, in 6 d 20 h" in done.err
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
    job = cam_night(desk, 40, "rate: 10")
    overrun = desk.run("run", job, "--yes", at=at("2026-11-28 05:00") - 2)
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
    resumed = desk.run("resume", "latest", "--yes", at=at(NEXT_SATURDAY))
    assert resumed.code == 0 and "40 of 40 verified" in resumed.out
    assert len(backend.writes()) == 40


def test_monday_s_rerun_needs_a_person_and_the_undo_waits_for_nobody(desk: Desk, backend: Backend) -> None:
    """Off a terminal a rerun is held like any start; at one it says so and goes; undo takes back at any hour."""
    seed(backend)
    backend.script({"user": "user1", "code": "InvalidParameterValue.AccountNotExistError"})
    job = cam_night(desk, window=closed_now())
    assert night(desk, job, next_days(3)).code == 1
    backend.script()
    monday = ("rerun", "latest:cam-night", "--only", "failed,unknown,unattempted")
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
