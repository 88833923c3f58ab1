"""A run that is watched: its accounts are read again after it, and what came back is told, each thing once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine.inputs.files import load_job
from engine.model import RunId
from engine.operations.begin import begin
from engine.operations.proposal import Approval, Planned
from engine.operations.start import plan_run
from engine.operations.terms import Terms
from engine.simulator.estate import Account
from engine.simulator.faults import rules_from
from engine.simulator.fleet import fleet_from
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done, environment, records
from tests.support.journals import end

pytestmark = pytest.mark.both_stores

A, B = "postgres-aaaaaaaa", "postgres-bbbbbbbb"
ANN, BOB, EVE = f"{A}/ann", f"{A}/bob", f"{B}/eve"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
DENIED = "AuthFailure.UnauthorizedOperation"
WATCH = {"after": [5 * MINUTE, 30 * MINUTE], "every": DAY, "for": 30 * DAY}


def fleet() -> World:
    """ann and bob on one instance, eve on another."""
    instances = [
        {"id": f"postgres-{letter * 8}", "region": "ap-singapore", "accounts": accounts}
        for letter, accounts in {"a": ["ann", "bob"], "b": ["eve"]}.items()
    ]
    return World(fleet=fleet_from({"instances": instances}), faults=rules_from(()), quotas={"*": None})


class Guard:
    """A desk whose runs are watched, with a world beside it and somebody who is told."""

    def __init__(self, desk: Desk, backend: Backend) -> None:
        self.desk, self.backend = desk, backend
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        self.began = time.time()
        self.passed = 0.0
        """Seconds since then, by the clock of the commands."""
        self.bell = desk.write("bell.sh", f"#!/bin/sh\ncat >> {desk.work}/told\necho >> {desk.work}/told\n")
        self.bell.chmod(0o700)

    def at(self) -> float:
        return self.began + self.passed

    def lock(self, *targets: str, watch: Any = WATCH, name: str = "job.yaml", action: str = "LockAccount") -> str:
        """Do a watched job; the id of its run."""
        extra = f"notify: {{command: [{self.bell}]}}\nname: {name.removesuffix('.yaml')}"
        path = self.desk.job(*(targets or (ANN, BOB, EVE)), name=name, action=action, extra=extra)

        async def work() -> str:
            terms = Terms(clock=self.at, yes=True)
            planned = await plan_run(terms, load_job(path))
            assert isinstance(planned, Planned)
            frozen = replace(planned.proposal.frozen, watch=watch)
            planned = replace(planned, proposal=replace(planned.proposal, frozen=frozen))
            ended = await begin(planned, Approval(how="--yes", by="ana"))
            await terms.wire.aclose()
            return ended.ledger.run.run

        with environment(self.desk.env, self.desk.work):
            return asyncio.run(work())

    def tend(self, after: float | None = None, *flags: str, code: int = 0) -> dict[str, list[str]]:
        """Tend, so many seconds after the beginning; what was done, by kind."""
        self.passed = after if after is not None else self.passed
        done = self.run("tend", "--json", *flags, code=code)
        found: dict[str, list[str]] = {}
        for deed in done.json["deeds"]:
            found.setdefault(deed["what"], []).append(deed["words"])
        return found

    def run(self, *argv: str | Path, code: int = 0) -> Done:
        self.passed += 2.0  # a command takes some time, and the next one begins behind it
        done = self.desk.run(*argv, at=self.at())
        assert done.code == code, done.text
        assert "Traceback" not in done.text and "internal error" not in done.text
        return done

    def account(self, label: str) -> Account:
        instance, _, user = label.partition("/")
        account = self.backend.world.account(instance, user)
        assert account is not None
        return account

    def opened(self, *labels: str) -> None:
        """Somebody opens accounts in the console."""
        for label in labels:
            self.account(label).status = 2
            self.account(label).update_time = time.time() + 1

    def locked(self, *labels: str) -> None:
        """Somebody locks them there."""
        for label in labels:
            self.account(label).status = 5

    def told(self) -> list[dict[str, Any]]:
        """What was told since the last look."""
        file = self.desk.work / "told"
        text = file.read_text() if file.exists() else ""
        file.unlink(missing_ok=True)
        return [json.loads(line) for line in text.splitlines() if line.strip()]

    def watch(self, run: str) -> Path:
        """The journal of the run's watch."""
        names = [note["data"]["run"] for note in self.desk.notes(run) if note["what"] == "watched_by"]
        return self.desk.path(str(names[-1]))

    def keep(self, run: str, lines: Sequence[bytes]) -> None:
        """Let the journal of a run end behind some of its lines."""
        self.desk.rewrite(run, b"".join(lines))


@pytest.fixture
def guard(desk: Desk) -> Iterator[Guard]:
    with Backend(fleet()) as backend:
        yield Guard(desk, backend)


# ---- readings --------------------------------------------------------------------------------------------------------


def test_accounts_are_read_again_when_the_job_says_and_not_before(guard: Guard) -> None:
    """Each time once; the watch has a journal of its own, with the RequestId of every reading."""
    run = guard.lock()
    assert guard.tend(4 * MINUTE) == {}
    assert guard.tend(6 * MINUTE) == {"read": ["3 of 3 accounts still locked"]}
    assert guard.tend(11 * MINUTE) == {}
    assert guard.tend(31 * MINUTE)["read"] and guard.tend(36 * MINUTE) == {}
    lines = records(guard.watch(run))
    assert [line["kind"] for line in lines] == [
        *("run", "call", "call", "call", "read", "read", "end"),
        *("session", "read", "read", "end"),
    ]
    (head,) = records(guard.desk.path(run))[-1:]
    assert lines[0]["parent"] == {"run": run, "verb": "watch", "head": head["hash"]}
    assert all(line["request_id"] and line["purpose"] == "watch" for line in lines if line["kind"] == "read")
    assert {line["exit"] for line in lines if line["kind"] == "end"} == {0}
    assert guard.told() == []
    assert guard.run("journal", "verify", guard.watch(run).parent.name).code == 0


def test_a_month_with_a_timer_that_misses_days_is_read_once_for_each_gap(guard: Guard) -> None:
    """Readings that were missed are made up for by one, and after the last one nobody reads any more."""
    run = guard.lock()
    days = (0.001, 0.5, 1, 1.2, 4, 4.01, 9, 9.5, 29, 30.2, 31, 45)
    for day in days:
        guard.tend(day * DAY + MINUTE)
    begun = [records(guard.watch(run), kind) for kind in ("run", "session")]
    assert sum(map(len, begun)) == 6, "30 m, day 1, 4, 9, 29, 30"
    assert "over" in guard.run("status", run).out


def test_a_run_that_is_not_over_is_not_watched_yet(guard: Guard) -> None:
    """A cut off run has no end to count from; once it was resumed, it has."""
    run = guard.lock()
    guard.keep(run, guard.desk.path(run).read_bytes().splitlines(keepends=True)[:-1])
    assert guard.tend(DAY) == {}
    assert "watch: not read yet; begins once the run has ended" in guard.run("status", run).out
    guard.run("resume", run, "--yes")
    assert guard.tend(DAY + 4 * MINUTE) == {}
    assert guard.tend(DAY + 6 * MINUTE)["read"] == ["3 of 3 accounts still locked"]


def test_only_what_the_run_left_as_asked_is_watched(guard: Guard) -> None:
    """A failed account is open work, not one that came back; an account found so is watched, too."""
    guard.locked(BOB)
    guard.lock(ANN, BOB, f"{A}/nobody")
    assert guard.tend(6 * MINUTE) == {"read": ["2 of 2 accounts still locked"]}


# ---- what came back --------------------------------------------------------------------------------------------------


def test_an_account_that_came_back_is_told_once_by_name(guard: Guard) -> None:
    """And printed; `status` and `report` name it, in words and as JSON."""
    run = guard.lock()
    guard.opened(EVE)
    found = guard.tend(6 * MINUTE)
    words = f"1 account no longer locked, and no run here opened them: {EVE}"
    assert found == {"read": ["2 of 3 accounts still locked, 1 back"], "told": [words]}
    (notice,) = guard.told()
    assert (notice["event"], notice["targets"], notice["accounts"]) == ("watch_back", [EVE], 1)
    assert notice["run"] == run and words in notice["text"] and notice["go_on"].startswith(f"acctops verify {run}")
    assert guard.tend(11 * MINUTE) == {} and guard.tend(31 * MINUTE).keys() == {"read"} and guard.told() == []
    for command in ("status", "report"):
        assert f"2 of 3 still locked; back 1: {EVE}; next at " in guard.run(command, run).out
        watch = guard.run(command, run, "--json").json["watch"]
        assert (watch["as_left"], watch["back"], watch["unread"], watch["opened"]) == (2, [EVE], [], 0)
        assert watch["run"] == guard.watch(run).parent.name and watch["next_at"] and watch["until"]


def test_what_lasts_is_told_again_each_day_and_what_returns_is_a_new_story(guard: Guard) -> None:
    """Daily while it lasts, though the timer is early on one day and late on the next; silence in between."""
    guard.lock()
    guard.opened(EVE)
    told = []
    for day, late in ((0, 6), (1, 4), (2, 1), (3, 5)):
        guard.tend(day * DAY + late * MINUTE)
        told.append([notice["targets"] for notice in guard.told()])
    assert told == [[[EVE]]] * 4
    guard.locked(EVE)
    assert guard.tend(4 * DAY + MINUTE).keys() == {"read"}
    guard.opened(EVE, ANN)
    assert guard.tend(5 * DAY + MINUTE)["told"]
    (notice,) = guard.told()
    assert sorted(notice["targets"]) == [ANN, EVE]


def test_nothing_is_told_again_that_was_not_read_again(guard: Guard) -> None:
    """A timer comes every five minutes: between two readings, and after the last, nobody knows whether it lasts."""
    guard.lock(watch={"after": [5 * MINUTE, 3 * DAY], "every": None, "for": None})
    guard.opened(EVE)
    guard.tend(6 * MINUTE)
    for day in (1, 2, 2.9):
        assert guard.tend(day * DAY) == {}
    guard.tend(3 * DAY + MINUTE)
    assert [notice["targets"] for notice in guard.told()] == [[EVE]] * 2
    assert guard.tend(9 * DAY) == {} and guard.told() == []


def test_one_that_comes_back_later_is_told_alone(guard: Guard) -> None:
    """Who was told of one account is not told of it again because of another."""
    guard.lock()
    guard.opened(EVE)
    guard.tend(6 * MINUTE)
    guard.opened(ANN)
    guard.tend(31 * MINUTE)
    assert [notice["targets"] for notice in guard.told()] == [[EVE], [ANN]]
    guard.tend(DAY + MINUTE)
    assert [sorted(notice["targets"]) for notice in guard.told()] == [[ANN, EVE]]


def test_what_was_not_delivered_is_told_the_next_time(guard: Guard) -> None:
    """A bell that is broken loses nothing, and costs no second reading."""
    run = guard.lock()
    guard.opened(EVE)
    guard.bell.write_text("#!/bin/sh\nexit 1\n")
    found = guard.tend(6 * MINUTE, code=1)
    assert "nobody was told" in found["failed"][0] and found["read"]
    for minute in (7, 8, 9):
        assert guard.tend(minute * MINUTE, code=1).keys() == {"failed"}
    guard.bell.write_text(f"#!/bin/sh\ncat >> {guard.desk.work}/told\necho >> {guard.desk.work}/told\n")
    reads = len(guard.backend.reads())
    assert guard.tend(11 * MINUTE).keys() == {"told"} and len(guard.backend.reads()) == reads
    assert [notice["targets"] for notice in guard.told()] == [[EVE]]
    assert guard.tend(16 * MINUTE) == {} and guard.told() == []
    assert len(records(guard.watch(run), "end")) == 1


# ---- what we did ourselves -------------------------------------------------------------------------------------------


def test_what_an_undo_opened_is_silent(guard: Guard) -> None:
    """And the undo is not watched."""
    run = guard.lock()
    guard.run("undo", run, "--yes", "--target", ANN)
    found = guard.tend(6 * MINUTE)
    assert found == {"read": ["2 of 3 accounts still locked, 1 opened by us since"]}
    assert guard.told() == []
    assert "2 of 3 still locked, 1 opened by us since" in guard.run("status", run).out
    guard.opened(EVE)
    assert EVE in guard.tend(31 * MINUTE)["told"][0]


def test_what_another_of_our_runs_opened_is_silent(guard: Guard) -> None:
    """`acctops unlock`, by hand: it is in a journal here."""
    guard.lock()
    guard.run("unlock", EVE, "--region", "ap-singapore", "--yes")
    assert guard.tend(6 * MINUTE)["read"] == ["2 of 3 accounts still locked, 1 opened by us since"]
    assert guard.told() == []


def test_what_an_undo_has_just_sent_is_silent(guard: Guard) -> None:
    """A reading that meets an undo at work, or one that was cut off, is no alarm: its intent is in its journal."""
    run = guard.lock()
    undo = guard.run("undo", run, "--yes", "--json").json["run"]
    lines = guard.desk.path(undo).read_bytes().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if b'"kind":"sent"' in line)
    first = min(number for number, line in enumerate(lines) if b'"kind":"reply"' in line)
    assert first > last or last > 0
    guard.keep(undo, lines[: max(first, last + 1)])
    assert guard.tend(6 * MINUTE)["read"] == ["0 of 3 accounts still locked, 3 opened by us since"]
    assert guard.told() == []


def test_what_the_run_does_not_hold_any_more_is_silent(guard: Guard) -> None:
    """A release says that the account may be opened."""
    run = guard.lock()
    guard.run("release", run, "--target", EVE)
    guard.opened(EVE)
    assert guard.tend(6 * MINUTE).keys() == {"read"} and guard.told() == []


def test_an_account_we_opened_and_locked_again_is_watched_again(guard: Guard) -> None:
    """The undo of the undo took it back: now it is somebody else's word against ours."""
    run = guard.lock()
    undo = guard.run("undo", run, "--yes", "--json").json["run"]
    guard.run("undo", undo, "--yes")
    assert guard.tend(6 * MINUTE)["read"] == ["3 of 3 accounts still locked"]
    guard.opened(BOB)
    assert BOB in guard.tend(31 * MINUTE)["told"][0]


# ---- what cannot be read ---------------------------------------------------------------------------------------------


def test_unread_is_told_when_it_was_so_twice_in_a_row(guard: Guard) -> None:
    """Gone is unread, too; once may be a bad moment, and a reading in between begins anew."""
    run = guard.lock()
    instance = guard.backend.world.instance(A)
    assert instance is not None
    gone = instance.accounts.pop("bob")
    assert guard.tend(6 * MINUTE)["read"] == ["2 of 3 accounts still locked, 1 unread"]
    instance.accounts["bob"] = gone
    guard.tend(31 * MINUTE)
    del instance.accounts["bob"]
    guard.tend(DAY + MINUTE)
    assert guard.told() == []
    found = guard.tend(2 * DAY + MINUTE)
    assert found["told"] == [f"1 account not read twice in a row: gone, or unreadable: {BOB}"]
    (notice,) = guard.told()
    assert (notice["event"], notice["targets"]) == ("watch_unread", [BOB])
    assert f"unread 1: {BOB}" in guard.run("status", run).out


def test_an_instance_that_cannot_be_read_is_a_failure_of_tend(guard: Guard) -> None:
    """Exit 1 names it; what can be read is read, and what came back there is told."""
    guard.lock()
    guard.opened(EVE)
    guard.backend.script({"action": "DescribeAccounts", "instance": A, "code": "InvalidParameter"})
    found = guard.tend(6 * MINUTE, code=1)
    assert found["read"] == ["0 of 3 accounts still locked, 1 back, 2 unread"]
    assert f"2 accounts could not be read again (InvalidParameter): {ANN}, {BOB}" in found["failed"]
    assert EVE in found["told"][0]


def test_refused_keys_are_tried_again_and_told_the_second_time(guard: Guard) -> None:
    """Nothing was read, so the reading stays due; nobody waits a day for it, and nobody asks every five minutes."""
    run = guard.lock()
    good = guard.desk.env["TENCENTCLOUD_SECRET_KEY"]
    guard.desk.env["TENCENTCLOUD_SECRET_KEY"] = "x" * len(good)
    assert "AuthFailure" in guard.tend(6 * MINUTE, code=1)["failed"][0] and guard.told() == []
    assert "AuthFailure" in guard.tend(11 * MINUTE, code=1)["failed"][0]
    assert [notice["event"] for notice in guard.told()] == ["watch_unread"]
    assert "tried 2 times, again after" in guard.tend(13 * MINUTE, code=1)["failed"][0]
    guard.desk.env["TENCENTCLOUD_SECRET_KEY"] = good
    assert guard.tend(25 * MINUTE) == {"read": ["3 of 3 accounts still locked"]}
    assert len(records(guard.watch(run), "end")) == 1


def test_one_run_that_cannot_be_watched_stops_no_other(guard: Guard) -> None:
    """A watch whose journal is damaged is named, and the run beside it is read."""
    first = guard.lock(ANN, name="one.yaml")
    second = guard.lock(EVE, name="two.yaml")
    guard.tend(6 * MINUTE)
    path = guard.watch(first)
    guard.keep(path.parent.name, [path.read_bytes().replace(b"ann", b"bob")])
    guard.opened(EVE)
    found = guard.tend(31 * MINUTE, code=1)
    assert guard.desk.runs().place_of(path.parent.name) in found["failed"][0] and EVE in found["told"][0]
    assert "watch: its journal cannot be read" in guard.run("status", first).out
    assert guard.run("status", second).code == 0


# ---- a watch is no run of its job ------------------------------------------------------------------------------------


def test_a_watch_is_no_run_of_its_job(guard: Guard) -> None:
    """Not the latest, not open, not good, not what a next run goes on with: it only reads."""
    run = guard.lock()
    guard.opened(EVE)
    guard.tend(6 * MINUTE)
    watch = guard.watch(run).parent.name
    assert guard.run("status", "latest", "--json").json["run"] == run
    assert guard.run("overdue", "job", "--every", "1d", "--json").json["last"]["run"] == run
    assert guard.run("pending", "--json").json["open"] == 0
    assert watch not in guard.run("holds", "--json").out
    listed = guard.run("status").out
    assert f"{watch}  watch of {run}  LockAccount  job  2 of 3 as we left them  1 back  last read" in listed
    assert "continued by" not in listed and "rerun" not in listed
    since = guard.run("status", "--since", "1d", "--json").json
    assert [each["run"] for each in since["runs"]] == [run] and since["open"] == 0
    rows = {each["run"]: each["watches"] for each in guard.run("status", "--json").json["runs"]}
    assert rows == {watch: run, run: None}
    assert guard.run("verify", run, code=1).code == 1
    again = guard.lock()
    assert again not in (run, watch), "the job may run again"


@pytest.mark.parametrize("verb", ["rerun", "resume", "undo", "verify", "release", "hold"])
def test_nothing_of_a_watch_can_be_gone_on_with(guard: Guard, verb: str) -> None:
    """In words, with the run that is meant."""
    run = guard.lock()
    guard.tend(6 * MINUTE)
    flags = {"hold": ("--none",), "rerun": ("--yes",), "undo": ("--yes",)}.get(verb, ())
    refused = guard.run(verb, guard.watch(run).parent.name, *flags, code=2)
    assert f"is the watch of run {run}" in refused.err and f"acctops {verb} {run}" in refused.err


def test_a_watch_itself_says_which_run_it_is_of(guard: Guard) -> None:
    """What it has found, in the words and keys of any run; nothing of it is open."""
    run = guard.lock()
    guard.opened(EVE)
    guard.tend(6 * MINUTE)
    watch = guard.watch(run).parent.name
    said = guard.run("status", watch).out
    assert f"the watch of {run}" in said and f"acctops status {run}" in said
    found = guard.run("report", watch, "--json").json
    assert found["counts"] == {"changed": 0, "already": 2, "failed": 1, "unknown": 0, "unattempted": 0}
    assert found["open"] == 0 and found["watch"] is None and found["go_on"] == f"acctops verify {run}"


# ---- crashes and copies ----------------------------------------------------------------------------------------------


def test_a_pass_that_is_killed_anywhere_is_gone_on_with(guard: Guard) -> None:
    """Cut behind each line and within each: nothing is told twice, nothing is lost."""
    run = guard.lock()
    guard.opened(EVE)
    guard.tend(6 * MINUTE)
    guard.opened(ANN)
    guard.tend(31 * MINUTE)
    assert [notice["targets"] for notice in guard.told()] == [[EVE], [ANN]]
    path, aside = guard.watch(run), guard.desk.aside(run)
    whole, notes = path.read_bytes().splitlines(keepends=True), aside.splitlines(keepends=True)
    first = next(number for number, line in enumerate(whole) if b'"kind":"end"' in line) + 1
    for kept in range(first, len(whole)):
        for torn in (b"", whole[kept][:20]) if guard.desk.database is None else (b"",):  # a commit is never torn
            guard.keep(path.parent.name, [*whole[:kept], torn])
            guard.desk.rewrite_aside(run, b"".join(notes[:-1]))  # the second was not told
            guard.desk.unlist()  # and its end is not listed yet
            guard.tend(33 * MINUTE)
            assert [notice["targets"] for notice in guard.told()] == [[ANN]], kept
            guard.tend(34 * MINUTE)
            assert guard.told() == []
            assert guard.run("journal", "verify", path.parent.name).code == 0


def test_a_watch_that_died_before_its_first_reading_begins_anew(guard: Guard) -> None:
    """The run has a link to a watch that was never made, or one without a reading: both mean nothing."""
    run = guard.lock()
    guard.opened(EVE)
    guard.tend(6 * MINUTE)
    path = guard.watch(run)
    whole = path.read_bytes().splitlines(keepends=True)
    notes = guard.desk.aside(run).splitlines(keepends=True)
    guard.told()
    guard.keep(path.parent.name, whole[:4])
    guard.desk.rewrite_aside(run, notes[0])
    assert guard.tend(7 * MINUTE)["read"] and [notice["targets"] for notice in guard.told()] == [[EVE]]
    guard.desk.remove(path.parent.name)
    guard.desk.rewrite_aside(run, notes[0])
    assert guard.tend(8 * MINUTE)["read"] and [notice["targets"] for notice in guard.told()] == [[EVE]]
    assert guard.watch(run) != path and guard.run("status", run).code == 0


def test_a_copy_on_another_host_goes_on_reading_and_tells(guard: Guard) -> None:
    """A watch changes nothing, so it needs no leave of the host."""
    guard.lock()
    guard.tend(6 * MINUTE)
    guard.desk.env["ACCTOPS_HOST_ID"] = "another"
    guard.opened(EVE)
    assert EVE in guard.tend(31 * MINUTE)["told"][0]


# ---- what is watched ------------------------------------------------------------------------------------------------


def test_each_rerun_is_watched_on_its_own(guard: Guard) -> None:
    """It has the settings of the run that it repeats, and times of its own."""
    guard.backend.script({"action": "LockAccount", "user": "eve", "code": "InvalidParameterValue"})
    run = guard.lock()
    guard.backend.script()
    guard.passed = 20 * MINUTE
    again = guard.run("rerun", run, "--yes", "--json").json["run"]
    guard.tend(26 * MINUTE)
    assert records(guard.watch(again), "call")[0]["user"] == "eve"
    guard.opened(EVE)
    guard.tend(31 * MINUTE)
    assert guard.told()[1:] == [], "the reading of the first run does not have eve"
    guard.tend(51 * MINUTE)
    assert [(notice["run"], notice["targets"]) for notice in guard.told()] == [(again, [EVE])]


def test_a_resume_that_does_more_has_it_watched_too(guard: Guard) -> None:
    """The watch goes on in its own journal, with the accounts that were added, and counts from the run's new end."""
    run = guard.lock()
    lines = guard.desk.path(run).read_bytes().splitlines(keepends=True)
    second = [number for number, line in enumerate(lines) if b'"kind":"settled"' in line][1]
    guard.keep(run, lines[: second + 1])
    journal, found = guard.desk.runs().open(RunId(run), clock=guard.at)
    settled = found.ledger.counts()["changed"]
    assert settled == 2
    journal.append_now(end(counts=found.ledger.counts()))
    journal.close()
    assert guard.tend(6 * MINUTE)["read"] == ["2 of 2 accounts still locked"]
    guard.run("resume", run, "--yes")
    assert guard.tend(10 * MINUTE) == {}, "five minutes after its new end"
    assert guard.tend(12 * MINUTE)["read"] == ["3 of 3 accounts still locked"]
    assert len(records(guard.watch(run), "call")) == 3
    assert "3 of 3 still locked" in guard.run("status", run).out
