"""What every kind of store promises: the suites of the files' store, writer, claims and used plans, over both."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random

import pytest

from engine.errors import AcctopsError, BusyError, JournalCorruptError, UsageError
from engine.journal import records
from engine.journal.protocols import Claim, Runs
from engine.journal.reader import first_record, verify
from engine.journal.store import find_run
from engine.model import CallId, Rival, call_id
from tests.support.command import ROOT
from tests.support.journals import NOW, end, plan, sent, settled, story, ticking
from tests.support.stores import Kept, write

PLAN = "a" * 64


def ids(action: str, users: Iterable[str]) -> dict[CallId, str]:
    return {call_id("", "ap-singapore", "postgres-a1", user, action): f"postgres-a1/{user}" for user in users}


def claim(
    runs: Runs, run: str, users: str, *, action: str = "LockAccount", digest: str | None = None, path: str = ""
) -> AbstractContextManager[tuple[Rival, ...]]:
    """A claim on accounts with one-letter names."""
    inverse = {"LockAccount": "UnlockAccount", "UnlockAccount": "LockAccount"}[action]
    mine = Claim(run_id=run, digest=digest or run, path=path, action=action, calls=list(ids(action, users)))
    return runs.claim(mine, inverse=inverse, undone_by=lambda: ids(inverse, users))


# ---- writing and reading ---------------------------------------------------------------------------------------------


def test_a_story_is_read_as_it_was_written(kept: Kept) -> None:
    """Every kind of record; by replay, by line, by the head of a listing, with its chain checked."""
    runs = kept.runs()
    told = story()
    run_id = write(runs, told)
    ref = runs.find(run_id)
    assert [type(record) for record in ref.records()] == [type(record) for record in told]
    found = ref.replay()
    assert found.seq == len(told) and found.ledger.run.run == run_id
    checked = ref.verify(found.head)
    assert (checked.lines, checked.head, checked.after) == (len(told), found.head, 0)
    (head,) = runs.list()
    assert (head.run_id, head.job, head.calls, head.live, head.problem) == (run_id, "leak", 6, False, None)
    assert head.end is not None and head.end.exit == 1
    assert run_id in head.place and runs.has(run_id) and not runs.has("20200101T000000Z-aaaa")


def test_a_run_exists_whole_or_not_at_all(kept: Kept) -> None:
    """A plan that fails half-way leaves no run behind, and its id can be used."""
    runs = kept.runs()
    run_id = runs.new_run_id(NOW, Random(1))

    def failing() -> Iterable[records.AnyRecord]:
        yield from plan(4)
        raise UsageError("no more")

    with pytest.raises(UsageError, match="no more"):
        runs.create(run_id, failing(), clock=ticking())
    assert runs.names() == () and not runs.has(run_id)
    runs.create(run_id, plan(4), clock=ticking()).close()
    assert runs.names() == (run_id,)
    with pytest.raises(UsageError, match="exists already"):
        runs.create(run_id, plan(4), clock=ticking())


async def test_one_commit_serves_all_that_wait(kept: Kept) -> None:
    """What is durable was told in order, before its waiter goes on; and a new reader sees it at once."""
    runs = kept.runs()
    run_id = runs.new_run_id(NOW, Random(1))
    journal = runs.create(run_id, plan(4), clock=ticking())
    assert journal.may_send is None or journal.may_send()
    told: list[int] = []
    for number in range(4):
        journal.append(sent(number), lambda record: told.append(record.seq))
    await asyncio.gather(*(journal.durable(seq) for seq in range(6, 10)))
    assert told == [6, 7, 8, 9] and journal.durable_seq == 9
    assert runs.replay(run_id).head == journal.durable_head == journal.head
    assert await journal.is_as_written()
    journal.close()


def test_what_another_writes_is_refused(kept: Kept) -> None:
    """A live run has one writer (J5): the second is told which process that is, and may read."""
    runs = kept.runs()
    run_id = runs.new_run_id(NOW, Random(1))
    journal = runs.create(run_id, plan(4), clock=ticking())
    assert runs.is_live(run_id) and runs.head(run_id).live
    with pytest.raises(BusyError, match=r"is being worked on by process \d+ on "):
        kept.runs().open(run_id, clock=ticking())
    assert runs.replay(run_id).seq == 5
    journal.append_now(sent(0))
    journal.close()
    assert not runs.is_live(run_id)
    again, found = runs.open(run_id, clock=ticking())
    assert found.seq == 6
    assert again.append_now(settled(0)) == 7
    again.close()
    assert runs.find("latest").verify(again.durable_head).lines == 7


def test_a_killed_writer_is_followed_by_the_next(kept: Kept) -> None:
    """kill -9: all that was durable is there, and another process goes on within seconds."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom random import Random\n"
        "from tests.support.stores import Kept\nfrom tests.support.journals import NOW, plan, sent, ticking\n"
        "runs = Kept(Path(sys.argv[1]), sys.argv[2] or None).runs()\n"
        "journal = runs.create(runs.new_run_id(NOW, Random(1)), plan(4), clock=ticking())\n"
        "journal.append_now(sent(0))\nprint('there', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(kept.state_dir), kept.database or ""],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"there\n"
        runs = kept.runs()
        (run_id,) = runs.names()
        assert runs.is_live(run_id)
        process.send_signal(signal.SIGKILL)
        process.wait()
    journal, found = runs.open(run_id, clock=ticking())
    assert found.seq == 6 and isinstance([*runs.find(run_id).records()][-1], records.Sent)
    journal.append_now(settled(0))
    journal.close()
    assert runs.find(run_id).verify(journal.head).lines == 7


def test_what_stands_beside_is_a_chain_of_its_own(kept: Kept) -> None:
    """Links, releases and holds move no head; several writers lose nothing; a ledger has them."""
    runs = kept.runs()
    run_id = write(runs, story())
    head, version = runs.replay(run_id).head, runs.version(run_id)
    assert not runs.has_aside(run_id) and runs.aside(run_id) == ()
    with ThreadPoolExecutor(4) as pool:
        notes = [records.Note(what="undone_by", data={"run": f"run-{n}"}) for n in range(8)]
        for done in [pool.submit(kept.runs().add_aside, run_id, [note], clock=ticking()) for note in notes]:
            done.result()
    assert {line.data["run"] for line in runs.aside(run_id)} == {f"run-{n}" for n in range(8)}
    assert runs.has_aside(run_id) and runs.version(run_id) != version
    found = runs.find(run_id).verify(head)
    assert (found.head, found.aside_lines) == (head, 8)


def test_a_run_is_found_by_its_words(kept: Kept) -> None:
    """Its id, a beginning, latest, latest:JOB; a slip names what there is."""
    runs = kept.runs()
    first = write(runs, list(plan(2, job="one")), now=NOW)
    second = write(runs, list(plan(2, job="two")), now=NOW + 60)
    simulated = write(kept.runs(simulated=True), list(plan(2, job="two", simulated=True)), now=NOW + 120)

    def found(text: str) -> str:
        return find_run(kept.state_dir, text, database=kept.database).run_id

    assert [found(text) for text in ("latest", "latest:one", second, second[:15])] == [second, first, second, second]
    assert found(simulated) == simulated and runs.names() == (second, first)
    for text, words in (
        ("latest:tow", "there are runs of two, one"),
        ("20200101", "there are"),
        (first[:8], "of 2 runs"),
    ):
        with pytest.raises(UsageError, match=words):
            found(text)


def test_requests_reach_the_run(kept: Kept) -> None:
    """A stop, a pause, a change: seen by whoever looks, forgotten one by one, or all."""
    runs = kept.runs()
    run_id = write(runs, story())
    assert not runs.stop_requested(run_id) and runs.asked(run_id) == ()
    runs.request_stop(run_id)
    names = [runs.ask(run_id, what="pause", for_s=60.0), runs.ask(run_id, what="change", rate=5.0)]
    other = kept.runs()
    asked = other.asked(run_id)
    assert other.stop_requested(run_id)
    assert [(each.name, each.what, each.for_s, each.rate) for each in asked] == [
        (names[0], "pause", 60.0, None),
        (names[1], "change", None, 5.0),
    ]
    assert all(each.by and each.refused is None and each.at > 0 for each in asked)
    runs.forget_asked(run_id, names[0])
    assert [each.name for each in other.asked(run_id)] == names[1:] and other.asked(run_id, names) == ()
    runs.clear_requests(run_id)
    assert other.asked(run_id) == () and not other.stop_requested(run_id)


async def test_a_live_run_hears_what_others_ask(kept: Kept) -> None:
    """Also where nothing is being written; what it has taken in is gone."""
    runs = kept.runs()
    run_id = runs.new_run_id(NOW, Random(1))
    journal = runs.create(run_id, plan(4), clock=ticking())
    name = kept.runs().ask(run_id, what="pause")
    kept.runs().request_stop(run_id)
    async with asyncio.timeout(20):
        while not (runs.asked(run_id) and runs.stop_requested(run_id)):
            await asyncio.sleep(0.05)
        assert [each.name for each in runs.asked(run_id)] == [name]
        runs.forget_asked(run_id, name)
        journal.append_now(sent(0))
        while kept.runs().asked(run_id, ()) and [*_fresh(kept, run_id)]:
            await asyncio.sleep(0.05)
    journal.close()
    runs.clear_requests(run_id)
    assert not runs.stop_requested(run_id)


def _fresh(kept: Kept, run_id: str) -> Iterable[str]:
    """What lies there, asked from elsewhere."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.support.stores import Kept\n"
        "runs = Kept(Path(sys.argv[1]), sys.argv[2] or None).runs()\n"
        "print(*(each.name for each in runs.asked(sys.argv[3])))\n"
    )
    argv = [sys.executable, "-c", code, str(kept.state_dir), kept.database or "", run_id]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout.split()


# ---- claims ----------------------------------------------------------------------------------------------------------


def test_of_two_runs_that_must_not_meet_one_is_refused(kept: Kept) -> None:
    """The same job by content or file, the opposite on a shared account; what does not meet is not hindered."""
    runs, others = kept.runs(), kept.runs()
    with claim(runs, "run-1", "abc", digest="d1", path="/jobs/a.yaml"):
        for digest, path in (("d1", ""), ("d2", "/jobs/a.yaml")):
            with pytest.raises(BusyError, match="as run-1"), claim(others, "run-2", "xy", digest=digest, path=path):
                pass
        opposite = "run run-1 is doing the opposite right now: LockAccount on 2 of .* postgres-a1/b"
        with pytest.raises(BusyError, match=opposite), claim(others, "run-2", "bcd", action="UnlockAccount"):
            pass
        with (
            claim(others, "run-3", "d", action="UnlockAccount"),
            claim(others, "run-4", "abc") as rivals,
            claim(kept.runs(simulated=True), "run-5", "ab", action="UnlockAccount", digest="d1"),
        ):
            assert [rival.run for rival in rivals] == ["run-1"], "both can lock the same superusers"
    with claim(others, "run-2", "abc", action="UnlockAccount", digest="d1"):
        pass


def test_of_many_that_start_at_once_one_goes(kept: Kept) -> None:
    """A lock and an unlock of the same accounts: never both, and never neither."""

    def start(number: int) -> str:
        action = ("LockAccount", "UnlockAccount")[number % 2]
        try:
            with claim(kept.runs(), f"run-{number}", "abc", action=action, digest="same"):
                started.append(number)
                ended.wait(30)
                return "held"
        except BusyError:
            return "busy"

    ended, started = threading.Event(), list[int]()
    with ThreadPoolExecutor(8) as pool:
        going = [pool.submit(start, number) for number in range(4)]
        while sum(each.done() for each in going) < 3:
            ended.wait(0.05)
        ended.set()
        assert sorted(each.result() for each in going) == ["busy", "busy", "busy", "held"]
    assert len(started) == 1


def test_a_claim_of_a_killed_process_hinders_nobody(kept: Kept) -> None:
    """Neither another run of the job nor its opposite; a database finds out after seconds of silence."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.support.stores import Kept\n"
        "from tests.journal.test_either_store import claim\n"
        "with claim(Kept(Path(sys.argv[1]), sys.argv[2] or None).runs(), 'run-1', 'ab', digest='d'):\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(kept.state_dir), kept.database or ""],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(BusyError), claim(kept.runs(), "run-2", "ab", digest="d"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    tries = 0
    while True:
        try:
            with claim(kept.runs(), "run-2", "ab", digest="d"):
                break
        except BusyError:
            tries += 1
            assert kept.database is not None and tries < 100
            signal.sigtimedwait([], 0.1)


# ---- plans, marks, lists ---------------------------------------------------------------------------------------------


def test_of_many_runs_one_uses_a_plan_up(kept: Kept) -> None:
    """However many come at the same moment."""
    kept.state_dir.mkdir(mode=0o700)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda at: kept.runs().use_up(PLAN, f"run-{at}"), range(8)))
    (winner,) = (at for at, by in enumerate(found) if by is None)
    runs = kept.runs()
    assert runs.used_by(PLAN) == f"run-{winner}" and runs.used_by("b" * 64) is None
    assert runs.use_up(PLAN, "run-late") == f"run-{winner}"
    assert runs.is_used_here(PLAN, f"run-{winner}") and not runs.is_used_here(PLAN, "run-late")
    assert kept.runs(simulated=True).used_by(PLAN) is None


def test_the_list_of_ends_is_a_chain(kept: Kept) -> None:
    """Many that end at once each add a line; it has the last of each run; seals stand beside."""
    from engine.journal.heads import Seal

    def list_one(number: int) -> int:
        line = kept.runs().list_end(f"run-{number % 3}", head="ab" * 32, lines=number, exit_code=0, clock=ticking())
        return line.seq

    kept.runs().set_mark("made", "1")
    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(list_one, range(12))) == list(range(1, 13))
    runs = kept.runs()
    listed = runs.listed()
    assert [line.seq for line in listed] == list(range(1, 13))
    last = runs.last_listed("run-1")
    assert last is not None and last.hash == [line for line in listed if line.run == "run-1"][-1].hash
    assert runs.last_listed("run-9") is None and kept.runs(simulated=True).listed() == ()
    seal = Seal(seq=1, run="run-0", hash=listed[0].hash, signature="none")
    runs.add_seal(seal)
    assert runs.seals() == (seal,)


def test_marks_home_and_tending(kept: Kept) -> None:
    """A mark is what was last set; the store has one id; one tends at a time."""
    runs = kept.runs()
    assert runs.mark("openings/x") == ""
    runs.set_mark("openings/x", "a")
    runs.set_mark("openings/x", "b")
    assert kept.runs().mark("openings/x") == "b" and kept.runs(simulated=True).mark("openings/x") == ""
    home = runs.home()
    assert home.is_here and home == kept.runs().home() == runs.home(adopt=True)
    with runs.tending() as free, kept.runs().tending() as second:
        assert free and not second
    with kept.runs().tending() as free:
        assert free
    runs.try_out()
    runs.check_place()
    assert runs.check_room(10) is None and runs.lost() == () and not runs.strangers(["x"])


def test_a_copy_is_a_file_that_every_reader_takes(kept: Kept, tmp_path: Path) -> None:
    """With what stands beside it; it can be read and verified, and not gone on with."""
    runs = kept.runs()
    run_id = write(runs, story())
    runs.add_aside(run_id, [records.Note(what="undone_by", data={"run": "x"})], clock=ticking())
    there = tmp_path / run_id
    copy = runs.copy(run_id, there)
    assert set(copy.files) == {"journal.jsonl", "aside.jsonl"} == {path.name for path in there.iterdir()}
    assert (there / "journal.jsonl").stat().st_mode & 0o777 == 0o600
    checked, here = verify(copy.journal), runs.find(run_id).verify(None)
    assert (checked.lines, checked.head, checked.aside_lines) == (here.lines, here.head, 1)
    assert first_record(copy.journal).run == run_id and copy.has_end()
    ref = find_run(kept.state_dir, str(there), database=kept.database)
    assert ref.store is None and ref.replay().head == here.head
    calls = runs.readable_calls(run_id)
    assert calls.is_all and len(calls.calls) == 6


@pytest.mark.parametrize("text", ["", "nonsense", "../x", "a/b", "x\0y", "\ud800"])
def test_a_name_of_nonsense_is_no_run(kept: Kept, text: str) -> None:
    """And no traceback."""
    write(kept.runs(), story())
    with pytest.raises(AcctopsError):
        find_run(kept.state_dir, text, database=kept.database)


def test_a_line_that_was_edited_is_found(kept: Kept, request: pytest.FixtureRequest) -> None:
    """In a file and in a row alike: which line, and of which run."""
    runs = kept.runs()
    run_id = write(runs, story())
    if kept.database is None:
        path = kept.state_dir / "runs" / run_id / "journal.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"rows":4', b'"rows":5', 1))
    else:
        server = request.getfixturevalue("postgres")
        edit = "update acctops.batch set lines = convert_to(replace(convert_from(lines, 'UTF8'), '\"rows\":4', "
        server.sql(kept.database.rpartition("/")[2], edit + "'\"rows\":5'), 'UTF8')")
    with pytest.raises(JournalCorruptError, match=rf"{run_id}.*:12: the hash differs"):
        runs.find(run_id).verify(None)
    assert runs.head(run_id).problem is None, "its first and last lines are as written"


def test_ends_are_known_behind_many_notes(kept: Kept) -> None:
    """The `end` of the last session, however many notes follow it; a session without one has none."""
    runs = kept.runs()
    run_id = write(runs, [*plan(2), end()])
    journal, _ = runs.open(run_id, clock=ticking())
    for _ in range(5):
        journal.append_now(records.Note(what="notice_failed", data={}))
    ended = runs.head(run_id).end
    assert ended is not None and ended.exit == 4
    journal.append_now(sent(0))
    journal.close()
    assert runs.head(run_id).end is None
