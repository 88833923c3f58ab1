"""The line that says how a run goes: what it says, at every width, and the same from another shell."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cli.progress import drawn
from engine.errors import Reason
from engine.journal import records
from engine.journal.ledger import Ledger, Pause
from engine.journal.standing import Progress, standing
from engine.report.going import line, pause_words
from engine.simulator.faults import rules_from
from engine.simulator.world import World
from tests.support.drill import Drill, fleet
from tests.support.journals import plan, session


def world(*faults: dict[str, object]) -> World:
    return World(faults=rules_from(list(faults)))


def progress(**said: object) -> Progress:
    """A run of 300 calls in its middle."""
    usual: dict[str, object] = {
        "total": 300,
        "verified": 47,
        "already": 0,
        "sent": 81,
        "settled": 50,
        "failed": 0,
        "throttled": 0,
        "awaiting": 0,
        "rate": 19.8,
        "quota": 20.0,
        "seconds": 60.0,
        "is_verified": True,
        "done_word": "locked",
    }
    return Progress(**{**usual, **said})  # type: ignore[arg-type]


def test_a_pause_is_told_within_80_columns() -> None:
    """By whom, since when and until when, with the day where it ends on another one; the rest goes first."""
    until = "2026-11-30T03:04:05.000Z"
    pause = Pause(by="ann", since="2026-11-29T15:03:59.000Z", until=until, in_effect=True)
    paused = progress(total=3200, verified=101, sent=112, pause=pause, throttled=5)
    short = "PAUSED by ann since 15:03Z until 11-30 03:04Z · locked 101 · sent 112 of 3,200"
    assert line(paused, 80) == short
    assert line(paused, 60).startswith("PAUSED by ann since 15:03Z until 11-30 03:04Z · locked")
    assert " · then it stops" in line(paused, 132)
    whole = "PAUSED by ann since 2026-11-29 15:03:59Z until 2026-11-30 03:04:05Z, then it stops"
    assert pause_words(pause, today=until) == whole


def test_each_number_has_its_word() -> None:
    """At night nobody knows by heart what a bare number means."""
    assert line(progress()) == "locked 47 · sent 81 of 300 · 19.8/s of 20 · ETA 13 s"
    waits = ("6 for postgres-m3vq90sj until 15:01Z",)
    said = line(progress(waits=waits, failed=3, throttled=2, awaiting=6, behind_s=7.0))
    for words in (
        "waiting 6 for postgres-m3vq90sj until 15:01Z",
        "failed 3",
        "throttled 2 (not failures)",
        "accepted and to be read back 6, readings 7 s behind",
    ):
        assert words in said.split(" · ")
    assert line(progress(is_verified=False)).startswith("accepted 47 · ")


@pytest.mark.parametrize("width", [40, 60, 80, 110, 200])
def test_what_matters_least_goes_first_on_a_narrow_screen(width: int) -> None:
    """Verified, sent and the reason for a wait stay; a line never wraps."""
    waits = ("6 for postgres-m3vq90sj until 15:01Z",)
    said = line(progress(waits=waits, throttled=2, awaiting=6, already=12, backing_off=3), width)
    assert len(said) <= width
    assert said.startswith("locked 47 · sent 81 of 300")
    assert width < 80 or waits[0] in said
    assert width < 200 or "throttled 2" in said


@pytest.mark.parametrize("width", [50, 60, 79, 80, 95, 120])
def test_a_count_of_failures_is_never_cut_for_a_reason(width: int) -> None:
    """The reason for a wait is shortened before a number goes."""
    waits = ("6 for postgres-m3vq90sj and 1 more until 15:01Z",)
    said = line(progress(failed=212, waits=waits, awaiting=30, throttled=2), width)
    assert len(said) <= width and "failed 212" in said
    assert "waiting 6 for" in said or width < 66


def test_the_bar_goes_before_any_word() -> None:
    """It has no number of its own."""
    said = line(progress(waits=("6 for postgres-m3vq90sj until 15:01Z",), failed=3))
    for width in range(40, 200):
        assert (said in drawn(progress(waits=("6 for postgres-m3vq90sj until 15:01Z",), failed=3), width)) is (
            width >= len(said)
        )
    assert drawn(progress(verified=150), 199).startswith("━" * 12 + "─" * 12 + " locked 150")


@given(st.integers(30, 200), st.booleans(), st.integers(0, 9), st.integers(0, 3))
def test_no_line_is_wider_than_its_screen(width: int, drains: bool, failed: int, waits: int) -> None:
    """Whatever a run waits for."""
    long = tuple(f": cannot reach https://postgres.tencentcloudapi.com/{'x' * number * 20}" for number in range(waits))
    stopping = "a long reason, such as that of a signal or of a lane" if drains else None
    assert len(line(progress(waits=long, failed=failed, stopping=stopping), width)) <= width


def test_an_end_is_foretold_only_where_something_tells_it() -> None:
    """Calls that wait for their instance are not sent at any pace: `until` is said, and no ETA."""
    assert progress(sent=300).eta_s is None
    assert progress(rate=0.0).eta_s is None
    assert progress(rate=0.0, seconds=1.0).eta_s == pytest.approx(219 / 20 + 2)
    assert progress(stopping="Ctrl-C").eta_s is None
    assert progress(already=219).eta_s is None
    assert progress(held=219).eta_s is None
    assert progress(waits=("cannot reach the API by a lane: refused (9 s)",)).eta_s is None


def test_no_number_falls_while_a_run_goes(tmp_path: Path) -> None:
    """With faults, and through a drain: a count that falls would look like damage."""
    seen: list[Progress] = []

    async def look(runner) -> None:
        while True:
            await asyncio.sleep(0.25)
            seen.append(runner.progress())
            if runner.progress().sent >= 150:
                runner.stop("Ctrl-C", Reason.INTERRUPTED)

    it = world(
        {"action": "LockAccount", "probability": 0.2, "reset_after": True},
        {"action": "LockAccount", "user": "user1", "code": "OperationDenied.InstanceStatusLimitOpError", "times": 9},
    )
    Drill(tmp_path, it, fleet(10, 20), during=look).go()
    assert seen[-1].sent > 100
    for before, after in pairwise(seen):
        for name in ("verified", "sent", "settled", "failed", "throttled", "total"):
            assert getattr(before, name) <= getattr(after, name), name


def test_a_wait_is_said_as_long_as_it_lasts(tmp_path: Path) -> None:
    """Between two tries of a busy instance, too: a line that comes and goes is not believed."""
    seen: list[Progress] = []

    async def look(runner) -> None:
        while True:
            await asyncio.sleep(0.25)
            seen.append(runner.progress())

    sick = fleet(4, 3)[0].instance
    code = "OperationDenied.InstanceStatusLimitOpError"
    Drill(tmp_path, world({"instance": sick, "action": "LockAccount", "code": code}), fleet(4, 3), during=look).go()
    first = next(number for number, each in enumerate(seen) if each.waits)
    assert first < 20 and all(sick in each.waits[0] for each in seen[first:-12])


def test_another_shell_sees_an_outage_and_a_drain() -> None:
    """Whoever closed the first terminal reads why nothing goes on, and no end that nobody can foretell."""

    def noted(what: str, second: int, **data: str) -> records.AnyRecord:
        return at(second, records.Note(what=what, data=data))

    def at(second: int, record: records.AnyRecord) -> records.AnyRecord:
        record.at = f"2026-11-22T03:13:{second:02}.000Z"
        return record

    story = [at(0, each) for each in plan(4)]
    down = noted("lane_down", 5, lane="a-lane", why="refused")
    now = records.unix_seconds("2026-11-22T03:13:09.000Z")
    found = standing(Ledger.of([*story, at(0, session()), down]), now, quota=20)
    assert found.waits == ("cannot reach the API by a-lane: refused (4 s)",) and found.eta_s is None
    over = [down, noted("lane_up", 8, lane="a-lane"), noted("stopping", 8, why="Ctrl-C")]
    found = standing(Ledger.of([*story, at(0, session()), *over]), now, quota=20)
    assert found.waits == () and found.stopping == "Ctrl-C"
    resumed = standing(Ledger.of([*story, *over, at(9, session())]), now, quota=20)
    assert resumed.waits == () and resumed.stopping is None


def test_another_shell_counts_as_the_run_itself(tmp_path: Path) -> None:
    """`status` has the journal alone, and says the same numbers."""
    seen: list[tuple[Progress, Progress]] = []

    async def look(runner) -> None:
        await asyncio.sleep(6)
        seen.append((runner.progress(), standing(drill.ledger, drill.clock(), quota=20)))

    code = "OperationDenied.InstanceStatusLimitOpError"
    sick = fleet(10, 40)[0].instance
    drill = Drill(tmp_path, world({"instance": sick, "action": "LockAccount", "code": code}), fleet(10, 40),
                  during=look)  # fmt: skip
    drill.go()
    ((inside, outside),) = seen
    for name in ("total", "verified", "sent", "settled", "failed", "throttled", "already"):
        assert getattr(inside, name) == getattr(outside, name), name
    assert inside.rate == pytest.approx(outside.rate)
    assert inside.held == outside.held > 0
    assert inside.waits == outside.waits and f" for {sick} until " in outside.waits[0]
