"""What goes wrong around holds: wrong limits, wrong runs, damaged files, copied directories, clocks that jump.

Always: no traceback, nothing opened that somebody may still need locked, and words that name the run, the file and
what to do.
"""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.journal.store import RunStore
from engine.simulator.faults import FaultScript, rules_from
from tests.promises.test_undo_cli import ANN, BOB, EVE, Office, fleet
from tests.support.command import Backend, Desk, Done, records, wait_until
from tests.support.room import Room, closed

HOUR = 3600.0


@pytest.fixture
def office(desk: Desk) -> Iterator[Office]:
    with Backend(fleet()) as backend:
        yield Office(desk, backend)


def later(office: Office, *argv: str | Path, code: int = 0, hours: float = 1.5) -> Done:
    """Run a command hours later."""
    done = office.desk.run(*argv, at=time.time() + hours * HOUR)
    assert done.code == code, done.text
    assert "Traceback" not in done.text and "defect" not in done.text and "internal error" not in done.text, done.text
    return done


def due(office: Office, *labels: str) -> str:
    """A run whose limit is over by the time of `later`."""
    run = office.lock(*(labels or (ANN, BOB)))
    office.run("hold", run, "--for", "1h", "--then", "unlock")
    return run


# ---- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--for", "0s"], "longer than 0s"),
        (["--for", "-1h"], "expected a duration"),
        (["--for", "99999999999999999999h"], "at most a year"),
        (["--for", "nan"], "expected a duration"),
        (["--until", "2020-01-01T00:00Z"], "is past"),
        (["--until", "2030-01-01T00:00"], "has no time zone"),
        (["--until", "tomorrow"], "expected a time with its zone"),
        (["--until", ""], "expected a time with its zone"),
        (["--until", "0001-01-01T00:00+14:00"], "expected a time with its zone"),
        (["--until", "9999-12-31T23:59:59Z"], "366 is the most"),
        (["--until", "9999-12-31T23:59:59-14:00"], "expected a time with its zone"),
        (["--until", "99999-01-01T00:00Z"], "expected a time with its zone"),
        ([], "give one of"),
        (["--none", "--for", "1h"], "give one of"),
        (["--none", "--then", "unlock"], "there is no end"),
        (["--for", "1h", "--then", "open"], "'open' is not one of"),
    ],
)
def test_a_wrong_limit_is_refused_and_changes_nothing(office: Office, words: list[str], says: str) -> None:
    """A slip opens accounts at once, or writes a line that no command can read from then on."""
    run = office.lock(ANN)
    assert says in office.run("hold", run, *words, code=2).err
    assert not office.path(run).with_name("aside.jsonl").exists()


# ---- the wrong run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [("release",), ("hold",)])
def test_the_wrong_run_is_refused_in_words(office: Office, verb: tuple[str]) -> None:
    """Who is told "released" believes it: a run that holds nothing, an undo, a drill must not say so."""
    more = ("--for", "1h") if verb == ("hold",) else ()
    run = office.lock(ANN)
    undo = office.undo(run)["run"]
    office.desk.job(ANN)
    drill = office.run("run", "job.yaml", "--yes", "--json", "--simulate").json["run"]
    office.backend.script({"action": "LockAccount", "code": "OperationDenied.InstanceAccessDeniedError"})
    failed = office.apply(ANN, code=1)["run"]
    for name, says in (
        (undo, "an undo holds nothing"),
        (drill, "was simulated"),
        (failed, "none of its accounts was read as locked"),
        ("nonsense", "no run 'nonsense'"),
        ("", "no run ''"),
    ):
        assert says in office.run(*verb, name, *more, code=2).err, name
    assert office.run("holds").out.strip() == "nobody holds anything"


def test_the_release_of_an_unlock_offers_no_lock(office: Office) -> None:
    """A run of UnlockAccount that is released owes nothing: the printed undo would lock the account again."""
    run = office.lock(ANN)
    unlock = office.run("unlock", ANN, "--region", "ap-singapore", "--yes", "--json").json["run"]
    office.undo(run)
    done = office.run("release", unlock)
    assert "owed" not in done.out and "acctops undo" not in done.out


# ---- what stands beside a run ----------------------------------------------------------------------------------------


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage\n")


def edited(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"then":"tell"', b'"then":"unlock"'))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 25)


def everybodys(path: Path) -> None:
    path.chmod(0o666)


@pytest.mark.parametrize("spoil", [garbage, edited, pipe, link, directory, huge, everybodys])
def test_what_stands_beside_a_run_and_cannot_be_believed_opens_nothing(
    office: Office, spoil: Callable[[Path], None]
) -> None:
    """Whoever can change that file decides when accounts open; a timer that says nothing of it is believed to work."""
    run = office.lock(ANN, BOB)
    office.run("hold", run, "--for", "1h", "--then", "unlock" if spoil is not edited else "tell")
    path = office.path(run).with_name("aside.jsonl")
    spoil(path)
    done = later(office, "tend", code=1)
    assert f"FAILED  run {run}: " in done.err and (str(path) in done.err)
    for argv in (("release", run), ("hold", run, "--for", "2h"), ("undo", run, "--yes")):
        refused = office.desk.run(*argv)
        assert refused.code in (2, 3, 4, 7), refused.text
        assert str(path) in refused.err and "Traceback" not in refused.text
    assert office.locked() == {"ann", "bob"} and not office.unlocks()


def test_one_damaged_file_stops_no_other_run(office: Office) -> None:
    """One failing run that stops all expiries is how others lost theirs."""
    bad, good = due(office, ANN), due(office, EVE)
    garbage(office.path(bad).with_name("aside.jsonl"))
    done = later(office, "tend", code=1)
    assert f"FAILED  run {bad}" in done.err and f"opened  run {good}" in done.out
    assert office.locked() == {"ann"}


def test_a_copy_from_another_run_is_no_word_of_this_one(office: Office) -> None:
    """Else a limit of one incident is carried over to another by `cp`."""
    first, second = office.lock(ANN), due(office, EVE)
    path = office.path(first).with_name("aside.jsonl")
    path.write_bytes(office.path(second).with_name("aside.jsonl").read_bytes())
    done = later(office, "tend", code=1)
    assert f"belongs to run '{second}'" in done.err
    assert office.locked() == {"ann"}


def test_a_line_that_was_cut_off_is_no_line(office: Office) -> None:
    """The machine died while a limit was written: the command had not said that it holds, and it does not."""
    run = due(office)
    path = office.path(run).with_name("aside.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    later(office, "tend")
    assert office.locked() == {"ann", "bob"}
    assert "holds 2 accounts until" in office.run("hold", run, "--for", "1h", "--then", "unlock").out
    assert office.run("journal", "verify", run).code == 0
    later(office, "tend")
    assert not office.locked()


# ---- journals --------------------------------------------------------------------------------------------------------


def test_a_damaged_journal_of_another_run_keeps_its_accounts_locked(office: Office) -> None:
    """What it says cannot be read; its plan can: bob stays, ann opens, and the reason is named."""
    run, other = due(office), office.lock(BOB)
    path = office.path(other)
    path.write_bytes(path.read_bytes().replace(b'"outcome":"already"', b'"outcome":"failed!"', 1))
    done = later(office, "tend")
    assert f"held by {other}, whose journal is damaged" in done.out
    assert office.locked() == {"bob"}
    assert run in later(office, "holds", code=7).out


@pytest.mark.parametrize("text", [b"", b"\0" * 5000, b"{}\n"])
def test_a_journal_whose_plan_cannot_be_read_keeps_all_locked(office: Office, text: bytes) -> None:
    """Nobody knows what it holds; the words name it, and a person can go on without it."""
    run, other = due(office), office.lock(EVE)
    office.path(other).write_bytes(text)
    done = later(office, "tend", code=1)
    assert f"nobody knows what run {other} holds" in done.err and str(office.path(other)) in done.err
    assert office.locked() == {"ann", "bob", "eve"}
    refused = later(office, "undo", run, "--yes", code=3)
    (command,) = re.findall(rf"acctops (undo {run} .*--ignore {other}.*)$", refused.err.strip())
    later(office, *command.split(), "--yes")
    assert office.locked() == {"eve"}


def test_a_timer_that_cannot_read_the_only_journal_does_not_say_that_nothing_is_due(office: Office) -> None:
    """It does not know: its limit may have passed. Who reads exit 0 would sleep."""
    run = due(office)
    office.path(run).write_bytes(b"{}\n")
    done = later(office, "tend", code=1)
    assert run in done.err and "nobody knows whether a limit of it has passed" in done.err
    assert "nothing is due" not in done.out + done.err
    office.path(run).unlink()
    done = later(office, "tend", code=1)
    assert run in done.err and "its journal was removed" in done.err
    assert office.locked() == {"ann", "bob"}


def test_a_journal_that_others_can_write_opens_nothing_and_is_told(office: Office) -> None:
    """Its limit is somebody else's word. A timer that is silent about it would be believed to have nothing to do."""
    run = due(office)
    office.path(run).chmod(0o666)
    done = later(office, "tend", code=1)
    assert f"run {run}: " in done.err and "is not believed" in done.err
    assert office.locked() == {"ann", "bob"}


def test_a_run_from_the_future_is_not_opened_early(office: Office) -> None:
    """The clock was a day ahead when it was begun: its limit is a day away by now's clock."""
    office.desk.job(ANN)
    ahead = office.desk.run("run", "job.yaml", "--yes", "--json", at=time.time() + 24 * HOUR)
    run = ahead.json["run"]
    done = office.desk.run("hold", run, "--for", "1h", "--then", "unlock", at=time.time() + 24 * HOUR)
    assert done.code == 0, done.text
    later(office, "tend")
    assert office.locked() == {"ann"}
    later(office, "tend", hours=25.5)
    assert not office.locked()


# ---- the directory ---------------------------------------------------------------------------------------------------


def test_a_copy_on_another_host_only_tells(office: Office) -> None:
    """A backup that is restored beside the original must not open accounts that the original holds by now."""
    run = due(office)
    home = office.desk.state / "home.json"
    office.desk.env["ACCTOPS_HOST_ID"] = "the copy"
    before = home.read_bytes()
    done = later(office, "tend", code=1)
    assert f"run {run}" in done.err and "belongs to another host" in done.err and "acctops tend --adopt" in done.err
    assert office.locked() == {"ann", "bob"} and home.read_bytes() == before
    assert "nothing is opened here" not in later(office, "tend", "--adopt", hours=1.7).text
    assert not office.locked()


@pytest.mark.parametrize("spoil", [garbage, pipe, link, directory])
def test_a_damaged_home_file_stops_the_timer_and_nothing_else(office: Office, spoil: Callable[[Path], None]) -> None:
    """A file that only the timer needs must not keep an operator from locking accounts at 3 a.m."""
    due(office)
    spoil(office.desk.state / "home.json")
    done = later(office, "tend", code=2)
    assert str(office.desk.state / "home.json") in done.err and "remove the file" in done.err
    assert office.locked() == {"ann", "bob"}
    office.lock(EVE)
    assert office.locked() == {"ann", "bob", "eve"}


def test_a_disk_that_is_full_beside_a_run_is_named(office: Office) -> None:
    """RLIMIT_FSIZE stands for it: the release is not noted, that is said, and the accounts count as held."""
    run = due(office)
    path = office.path(run).with_name("aside.jsonl")
    limit = path.stat().st_size + 10

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    for argv in (("release", run), ("hold", run, "--for", "3h")):
        done = office.desk.end(office.desk.popen(*argv, preexec_fn=full))
        assert done.code == 4 and str(path) in done.err and "Traceback" not in done.text, done.text
    assert "2 accounts held by 1 run" in office.run("holds").out
    office.run("release", run)
    assert office.run("journal", "verify", run).code == 0


# ---- beside each other -----------------------------------------------------------------------------------------------


def test_the_timer_waits_for_a_live_run_on_the_same_accounts(office: Office) -> None:
    """Another incident locks the same accounts right now: opening them in between would open them for that, too."""
    run = due(office)
    office.backend.script({"action": "LockAccount", "user": "eve", "slow": 1.5})
    office.desk.job(BOB, EVE, name="other.yaml")
    process = office.desk.popen("run", "other.yaml", "--yes", "--json")
    wait_until(lambda: len(found := office.desk.journals()) == 2 and bool(records(found[-1], "sent")))
    later(office, "tend", code=0)
    other = office.desk.end(process)
    assert other.code == 0 and "bob" in office.locked() and "eve" in office.locked(), (run, other.text)
    assert "bob" not in office.unlocks()


def test_of_two_timers_one_works(office: Office) -> None:
    """A slow pass is still going on when the next timer comes: it leaves at once, and says why."""
    due(office)
    with RunStore(office.desk.state).tending() as is_free:
        assert is_free
        done = later(office, "tend")
        assert "another `acctops tend` is at work" in done.err and not office.unlocks()
        assert later(office, "tend", "--json").json["busy"] is True
    later(office, "tend")
    assert not office.locked()


# ---- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead_s", [3600.0, 61.5, -61.5, -3600.0])
def test_two_clocks_that_disagree_open_nothing(tmp_path: Path, ahead_s: float) -> None:
    """This machine's clock jumped: by the server's, an hour is left; or the other way round. Both must be right."""
    with Room(tmp_path, closed([ANN, BOB])) as room:
        run = room.lock(ANN, BOB).ledger.run.run
        room.limit(run, room.clock() + HOUR, "unlock")
        room.wait(1800 if ahead_s > 0 else 2 * HOUR)
        room.ours_ahead_s = ahead_s
        done = room.tend()
        if room.clock() >= 1_790_000_000 + HOUR + 60:
            assert done.failed and "clock" in done.failed[0].words
        assert not room.unlocks()
        room.ours_ahead_s = 0.0
        room.wait(2 * HOUR)
        assert not room.tend().failed
        assert sorted(room.unlocks()) == [ANN, BOB]


def test_a_server_whose_clock_is_wrong_opens_nothing(office: Office) -> None:
    """The API's Date is minutes off: nobody knows which of the two is right, and the words say so."""
    run = due(office)
    office.backend.world._faults = FaultScript(rules_from([{"wrong_clock": 600}]), office.backend.world._rng)
    done = later(office, "tend", code=1)
    assert f"run {run}" in done.err and "clock" in done.err
    assert office.locked() == {"ann", "bob"}


def test_bad_input_has_one_document(office: Office) -> None:
    """A program reads the answer of each of these: one JSON document, with the exit code in it."""
    run = due(office)
    garbage(office.path(run).with_name("aside.jsonl"))
    answers: list[Any] = [
        office.desk.run("release", run, "--json"),
        office.desk.run("hold", run, "--for", "0s", "--json"),
        office.desk.run("tend", "--json"),
        office.desk.run("holds", "--json"),
    ]
    assert [each.json.get("exit", each.code) for each in answers] == [each.code for each in answers]
