"""`acctops drill`: an incident rehearsed and timed; what its exit code says."""

from __future__ import annotations

import pytest

from engine.errors import UsageError
from engine.operations.drilling import Limit, Measured, limit_of
from tests.support.command import Desk

SHUT = 'window: {days: [mon], from: "00:00", until: "00:01", timezone: UTC}'


def test_a_drill_needs_nobody_and_nothing(desk: Desk) -> None:
    """No keys, no terminal, no window: it can be rehearsed by day, and by a timer."""
    for name in ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY"):
        del desk.env[name]
    done = desk.run("drill", desk.job(extra=SHUT), "--seed", "7", "--contain", "95%:60s")
    assert done.code == 0, done.text
    assert "drill with seed 7" in done.err and "; 95 % within 60 s was asked for" in done.err
    assert done.out.startswith("SIMULATED  ") and "contained: 50 % after " in done.out
    assert desk.records("run", simulated=True)[0]["simulated"] is True and desk.journals() == []


def test_beyond_the_limit_is_exit_1_and_both_figures_are_named(desk: Desk) -> None:
    """Whoever reads the mail knows how far off it was."""
    done = desk.run("drill", desk.job(), "--seed", "7", "--contain", "100%:1ms", "--json")
    assert done.code == done.json["exit"] == 1
    found = done.json["drill"]
    assert (found["seed"], found["share"], found["limit_s"], found["within"]) == (7, 100, 0.001, False)
    assert found["after_s"] == pytest.approx(done.json["contained"]["100"], abs=0.001)
    assert "BEYOND THE LIMIT: 100 % were contained after " in done.err and "within 0.001 s" in done.err
    assert desk.run("drill", desk.job(), "--contain", "100%:1ms", "--quiet").code == 1


def test_what_is_never_contained_is_beyond_any_limit(desk: Desk) -> None:
    """A share that was not reached has no time, and the run's own exit code stands."""
    desk.write("faults.yaml", "- {user: eve, action: LockAccount, code: InvalidParameterValue.AccountNotExistError}\n")
    done = desk.run("drill", desk.job(), "--faults", "faults.yaml", "--contain", "95%:1h", "--json")
    assert done.code == 1 and done.json["counts"]["failed"] == 1
    assert done.json["contained"]["100"] is None and done.json["drill"]["after_s"] is None
    assert "only 2 of 3 accounts were contained at all" in done.err
    half = desk.run("drill", desk.job(), "--faults", "faults.yaml", "--contain", "50%:1h", "--json")
    assert half.code == 1 and half.json["drill"]["within"] is True, "exit 0 means that every account is as asked"


def test_an_instance_that_is_mended_is_locked_then(desk: Desk) -> None:
    """In mid-drill, and no call fails."""
    busy = "OperationDenied.InstanceStatusLimitOpError"
    desk.write("faults.yaml", f"- {{instance: postgres-bbbbbbbb, action: LockAccount, code: {busy}, for: 1}}\n")
    done = desk.run("drill", desk.job(), "--faults", "faults.yaml", "--seed", "7", "--json")
    assert done.code == 0, done.text
    assert done.json["contained"]["100"] > 1 > done.json["contained"]["50"]


def test_a_person_is_asked_as_at_the_real_run(desk: Desk) -> None:
    """Typing the number is a part of what is practised."""
    assert desk.run("drill", desk.job(), typed="n\n").code == 3
    assert desk.run("drill", desk.job(), typed="y\n").code == 0


@pytest.mark.parametrize("text", ["", "95", "95%", "0%:60s", "101%:60s", "95%:0s", "95%:soon", "9.5%:60s", "-5%:1s"])
def test_a_limit_that_is_none_is_told_what_one_looks_like(desk: Desk, text: str) -> None:
    """Before anything is done."""
    with pytest.raises(UsageError, match="such as 95%:60s"):
        limit_of(text)
    assert desk.run("drill", desk.job(), "--contain", text).code == 2


def test_a_limit_is_a_share_and_a_time() -> None:
    """With the units of every other duration."""
    assert limit_of("95%:60s") == Limit(95, 60.0)
    assert limit_of(" 100 % : 1m30s ") == Limit(100, 90.0)


@pytest.mark.parametrize(("after", "limit", "words"), [
    (15.04, 15.0, "BEYOND THE LIMIT: 95 % were contained after 15.1 s; 95 % within 15 s"),
    (14.98, 15.0, "95 % were contained after 15 s; 95 % within 15 s"),
    (0.02, 0.01, "BEYOND THE LIMIT: 95 % were contained after 0.1 s; 95 % within 0.01 s"),
])  # fmt: skip
def test_a_limit_that_is_just_missed_reads_as_missed(after: float, limit: float, words: str) -> None:
    """Nobody is told that 15 s is beyond 15 s."""
    assert words in Measured(Limit(95, limit), after, 19, 20).words
