"""No account is opened by a limit before both clocks are past it: this machine's and the server's."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from engine.journal import records as kinds
from engine.journal.lines import Chain
from engine.journal.reader import read
from tests.support.room import Room, closed

ANN, BOB = "postgres-aaaaaaaa/ann", "postgres-aaaaaaaa/bob"
HOUR = 3600.0


def cut_off(room: Room, run: str) -> None:
    """Leave of a run what a crash right after the yes leaves."""
    path = room.desk.state / "runs" / run / "journal.jsonl"
    kept = [line for line in read(path) if isinstance(line, (kinds.Run, kinds.CallLine, kinds.Confirmed))]
    chain = Chain(run)
    path.write_bytes(b"".join(chain.add(replace(each, v=0, seq=0, at="", run="", hash=""), each.at) for each in kept))


def test_an_undo_by_limit_that_was_cut_off_goes_by_the_limit_and_the_clocks_of_today(tmp_path: Path) -> None:
    """Somebody made the hold longer after the crash, and then this machine's clock was put forward."""
    with Room(tmp_path, closed([ANN, BOB])) as room:
        first = room.lock(ANN, BOB).ledger.run.run
        room.limit(first, room.clock() + HOUR, "unlock")
        room.wait(HOUR + 10)
        left = {label: (room.account(label).status, room.account(label).update_time) for label in (ANN, BOB)}
        undo = room.undo(first, family=True, due=True).ledger.run.run  # type: ignore[union-attr]
        cut_off(room, undo)
        for label, (status, updated) in left.items():
            room.account(label).status, room.account(label).update_time = status, updated
        room.limit(first, room.clock() + 4 * HOUR)
        room.world.audit.clear()
        room.ours_ahead_s = 5 * HOUR
        done = room.tend()
        assert not room.unlocks() and room.is_locked(ANN) and room.is_locked(BOB)
        assert ["ahead of the server's" in deed.words for deed in done.failed] == [True]
        room.ours_ahead_s = 0.0
        room.wait(5 * HOUR + 600)
        room.tend()
        assert sorted(room.unlocks()) == [ANN, BOB]


def test_the_server_is_past_the_limits_of_all_who_hold_an_account(tmp_path: Path) -> None:
    """This machine is some seconds ahead: the second incident's limit is past here, and not there yet."""
    with Room(tmp_path, closed([ANN, BOB])) as room:
        first = room.lock(ANN, BOB).ledger.run.run
        room.wait(5)
        second = room.lock(BOB).ledger.run.run
        end = room.clock() + HOUR
        room.limit(first, end, "unlock")
        room.limit(second, end + 30, "unlock")
        room.ours_ahead_s = 50.0
        room.wait(end + 10 - room.now())
        room.tend()
        assert room.unlocks() == [ANN]
        room.wait(30)
        room.tend()
        assert room.unlocks() == [ANN, BOB]


def test_what_failed_while_the_clock_was_wrong_is_tried_again_once_it_is_right(tmp_path: Path) -> None:
    """The next try is put off by minutes, and not until the wrong time comes."""
    with Room(tmp_path, closed([ANN])) as room:
        run = room.lock(ANN).ledger.run.run
        room.limit(run, room.clock() + HOUR, "unlock")
        room.wait(HOUR + 10)
        room.ours_ahead_s = 300 * 24 * HOUR
        assert room.tend().failed
        room.ours_ahead_s = 0.0
        assert not room.tend().failed
        assert room.unlocks() == [ANN]
