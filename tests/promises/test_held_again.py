"""What is held again after a limit has ended, and what is held under another name of the same cloud account."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.world import World
from tests.promises.test_hold_limits import HOUR, A, Office, office
from tests.support.command import Backend, Desk

pytestmark = pytest.mark.both_stores

__all__ = ["office"]


def _is_locked(office: Office, run: str) -> bool:
    return office.desk.run("verify", run, clock=office.clock).code == 0


def _profile(office: Office, name: str) -> None:
    """A profile of the vendor's tool with the keys that are in the environment, too."""
    place = Path(office.desk.env["HOME"]) / ".tccli" / f"{name}.credential"
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps({"secretId": DEMO_SECRET_ID, "secretKey": DEMO_SECRET_KEY}))
    place.chmod(0o600)


def test_a_hold_counts_whatever_the_cloud_account_is_called(office: Office) -> None:
    """One job names its cloud account, the other takes the keys of the shell: the account that both lock is one."""
    _profile(office, "prod")
    one = str(office.run("run", office.desk.job(f"{A}/ann", name="a.yaml"), "--yes", "--json").json["run"])
    job = office.desk.job(f"{A}/ann", f"{A}/bob", name="b.yaml", extra="accounts: [prod]")
    other = str(office.run("run", job, "--yes", "--json").json["run"])
    done = office.run("undo", one, "--yes")
    assert f"held by {other}" in done.text and _is_locked(office, other)
    again = office.run("undo", other, "--yes", "--json")
    assert again.json["counts"]["changed"] == 2, "the last of the two opens it, though the other had locked it"
    assert "nobody holds anything" in office.run("holds").out


def test_what_a_rerun_locks_after_the_end_of_its_hold_is_opened_by_tend(office: Office) -> None:
    """Tend had found that nothing was left to do: that is no longer so."""
    run = office.partly("hold: {for: 1h, then: unlock}")
    office.ahead = 2 * HOUR
    for _ in range(3):
        office.run("tend")
    office.backend.script()
    rerun = str(office.run("rerun", run, "--yes", "--json").json["run"])
    assert _is_locked(office, rerun)
    office.ahead += 300
    assert "opened 1 account" in office.run("tend").out
    assert "nobody holds anything" in office.run("holds").out
    assert "nothing is due" in office.run("tend").err


def test_a_lock_made_again_after_the_end_of_its_hold_is_warned_of_and_can_be_kept(office: Office) -> None:
    """Who takes back what tend opened wants it locked: the command that is printed makes it so, before or after."""
    job = office.desk.job(f"{A}/ann", f"{A}/bob", extra="hold: {for: 1h, then: unlock}")
    run = str(office.run("run", job, "--yes", "--json").json["run"])
    office.ahead = 2 * HOUR
    office.run("tend")
    undo = office.desk.journals()[-1].parent.name
    done = office.run("undo", undo, typed="n\n", code=3)
    assert f"first: acctops hold {run} --for 4h" in done.err
    office.run("hold", run, "--for", "4h")
    assert "has ended" not in office.run("undo", undo, "--yes").err
    office.ahead += 300
    assert "opened" not in office.run("tend").out
    assert f"{run}  LockAccount  job" in office.run("holds").out


def test_the_hold_of_a_run_that_left_nothing_so_yet_can_be_made_longer_once_it_has_ended(office: Office) -> None:
    """A run that was cut off before its first call is gone on with after its end: what it then locks is kept."""
    job = office.desk.job(f"{A}/ann", extra="hold: {for: 1h, then: unlock}")
    run = str(office.run("run", job, "--yes", "--json").json["run"])
    office.cut_off()
    office.run("hold", run, "--for", "2h", code=2)
    office.ahead = 2 * HOUR
    office.run("hold", run, "--for", "4h")
    assert "has ended" not in office.run("resume", run, "--yes").err
    assert "nothing is due" in office.run("tend").err


def test_a_run_that_goes_on_is_not_released(desk: Desk) -> None:
    """It would hold what it does after that, and nobody would know: it is stopped first."""
    world = World(latency=0.05)
    world.seed(A, "ap-singapore", [f"u{number}" for number in range(90)])
    with Backend(world) as backend:
        office = Office(desk, backend)
        process = desk.popen("run", desk.job(*(f"{A}/u{number}" for number in range(90))), "--yes")
        desk.wait_for("reply", 5)
        run = desk.journal().parent.name
        assert f"first: acctops stop {run}" in office.run("release", run, code=6).err
        office.run("stop", run)
        desk.end(process)
        assert "no longer holds" in office.run("release", run).out
        assert "nobody holds anything" in office.run("holds").out


def test_a_protected_account_at_its_limit_is_told_once_and_fails_no_tend(office: Office) -> None:
    """Else every pass fails, and the alarm of `overdue --tend` never ends."""
    office.desk.write("config.yaml", "notify: {command: [sh, -c, 'cat >> told']}\n")
    job = office.desk.job(f"{A}/ann", f"{A}/bob", extra="hold: {for: 1h, then: unlock}")
    run = str(office.run("run", job, "--yes", "--json").json["run"])
    office.desk.write("config.yaml", "notify: {command: [sh, -c, 'cat >> told']}\nprotect: ['*/ann']\n")
    office.ahead = 2 * HOUR
    assert "opened 1 account" in office.run("tend").out
    for _ in range(3):
        office.ahead += 300
        office.run("tend")
    told = (office.desk.work / "told").read_text()
    assert told.count("hold_stays") == 1 and "1 protected today" in told
    assert "holds 1" in office.run("status", run).out
    office.run("undo", run, "--due", "--yes", code=1)


def test_what_a_cam_run_left_is_owed_with_the_passwords_that_its_undo_needs(office: Office) -> None:
    """The undo of CAM asks for a source of passwords: the advice says so, and calls the state by its name."""
    job = office.desk.job(f"{A}/ann", action="OpenAccountCAM")
    run = str(office.run("run", job, "--yes", "--json").json["run"])
    done = office.run("release", run)
    assert f"1 account still with CAM verification on, as run {run} left it" in done.out
    assert f"open them with --password-command … or --password-file …: acctops undo {run}" in done.out
