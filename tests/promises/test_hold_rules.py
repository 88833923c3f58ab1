"""The rules of holds one by one: each is a story of two or three sentences, which the model tells only by chance."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.journal.records import rfc3339
from tests.support.room import Room, closed

ANN, BOB = "postgres-aaaaaaaa/ann", "postgres-aaaaaaaa/bob"
HOUR = 3600.0


@pytest.mark.parametrize("strict", ["tell", "unlock_rotated"])
@pytest.mark.parametrize("strict_first", [True, False])
def test_of_all_who_held_an_account_the_strictest_end_decides(
    tmp_path: Path, strict: str, *, strict_first: bool
) -> None:
    """Both limits have passed. Bob was locked by both, and one of them leaves him to a person, or wants a password."""
    with Room(tmp_path, closed([ANN, BOB])) as room:
        first = room.lock(*((BOB,) if strict_first else (ANN, BOB))).ledger.run.run
        room.wait(5)
        second = room.lock(*((ANN, BOB) if strict_first else (BOB,))).ledger.run.run
        other, careful = (second, first) if strict_first else (first, second)
        room.limit(other, room.clock() + HOUR, "unlock")
        room.limit(careful, room.clock() + HOUR, strict)
        room.wait(2 * HOUR)
        for _ in range(3):
            room.tend()
            room.wait(6 * HOUR)
        assert room.unlocks() == [ANN] and room.is_locked(BOB)


def test_the_last_word_on_a_limit_counts(tmp_path: Path) -> None:
    """Somebody gave the incident another night: what was said before ends nothing."""
    with Room(tmp_path, closed([ANN])) as room:
        run = room.lock(ANN).ledger.run.run
        room.limit(run, room.clock() + HOUR, "unlock")
        room.wait(60)
        late = room.clock() + 10 * HOUR
        room.limit(run, late, "unlock")
        (held,) = room.holds().held
        assert held.family.until == rfc3339(late)
        room.wait(3 * HOUR)
        room.tend()
        assert room.is_locked(ANN)
        room.wait(8 * HOUR)
        room.tend()
        assert room.unlocks() == [ANN]


def test_an_account_that_was_locked_before_is_not_opened_by_a_limit(tmp_path: Path) -> None:
    """The run found it so: it was never ours to open."""
    with Room(tmp_path, closed([ANN, BOB])) as room:
        room.account(BOB).status = 5
        run = room.lock(ANN, BOB).ledger.run.run
        room.limit(run, room.clock() + HOUR, "unlock")
        room.wait(2 * HOUR)
        room.tend()
        assert room.unlocks() == [ANN] and room.is_locked(BOB)


def test_who_is_to_be_told_is_told_an_hour_ahead_and_not_a_day(tmp_path: Path) -> None:
    """An hour is time to say no; a day ahead nobody reads it, and afterwards it is too late."""
    with Room(tmp_path, closed([ANN])) as room:
        run = room.lock(ANN).ledger.run.run
        room.limit(run, room.clock() + 5 * HOUR, "unlock")
        room.wait(HOUR)
        assert not room.tend().deeds
        room.wait(3.5 * HOUR)
        (told,) = room.tend().deeds
        assert told.what == "told" and "ends at" in told.words
        assert not room.tend().deeds and room.is_locked(ANN)


def test_tend_that_failed_is_no_tend_that_works(tmp_path: Path) -> None:
    """`overdue --tend` asks when it last ended well: a timer that fails every five minutes must not look alive."""
    with Room(tmp_path, closed([ANN])) as room:
        run = room.lock(ANN).ledger.run.run
        room.tend()
        before = {path: path.read_bytes() for path in room.desk.state.rglob("*tend*") if path.is_file()}
        assert before
        room.limit(run, room.clock() + HOUR, "unlock")
        (room.desk.state / "runs" / run / "journal.jsonl").chmod(0o666)
        room.wait(2 * HOUR)
        assert room.tend().failed
        assert {path: path.read_bytes() for path in before} == before
