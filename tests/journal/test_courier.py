"""`journal.database.courier` and `slots`: what the journals and lanes of one process share, and what they do not."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from engine.errors import JournalWriteError
from engine.journal.database.courier import Seat
from engine.journal.database.journal import SILENT_S, DatabaseJournal
from engine.journal.database.link import Link, LostError, RefusesError, close_links
from engine.journal.database.slots import Asker, DatabaseSlots, Slot
from engine.model import RunId
from tests.journal.test_database_journal import age, name_of, runs_of
from tests.support.command import wait_until
from tests.support.cutting import Cutter, cutting
from tests.support.journals import NOW, plan, sent, settled, ticking
from tests.support.postgres import Postgres

MANY = 12
QUOTA = 20
Opened = list[tuple[RunId, DatabaseJournal]]


def open_many(url: str, count: int = MANY) -> Opened:
    runs, found = runs_of(url), []
    for seed in range(count):
        run_id = runs.new_run_id(NOW + seed, Random(seed))
        found.append((run_id, runs.create(run_id, plan(4), clock=ticking())))
    return found


def close_all(opened: Opened) -> None:
    for _, journal in opened:
        journal.close()


def held(opened: Opened) -> Callable[[], None]:
    """Keep the courier from its work, so that all that is appended meanwhile is one statement; call it to go on."""
    gate = threading.Event()
    opened[0][1]._thread.submit(gate.wait, 30)
    return gate.set


async def append_all(opened: Opened, number: int = 0) -> list[BaseException | None]:
    """Append to all, in one statement; what became of each."""
    go_on = held(opened)
    waits = [asyncio.ensure_future(journal.durable(journal.append(sent(number)))) for _, journal in opened]
    await asyncio.sleep(0.01)
    go_on()
    return await asyncio.gather(*waits, return_exceptions=True)


@pytest.fixture
def cut(postgres: Postgres, database: str) -> Iterator[tuple[str, Cutter]]:
    with cutting(postgres.port) as cutter:
        yield database.replace(f":{postgres.port}/", f":{cutter.port}/"), cutter
    close_links()


async def test_journals_of_a_process_share_a_connection_and_commits(postgres: Postgres, database: str) -> None:
    """One connection and one thread however many they are; with the last of them both are gone. Each has its lines."""
    opened = open_many(database)
    close_links()
    mine = f"select count(*) from pg_stat_activity where application_name = 'acctops {os.getpid()}'"
    wait_until(lambda: postgres.sql("postgres", mine) == [(1,)])
    assert [thread.name for thread in threading.enumerate()].count("courier") == 1
    assert await append_all(opened) == [None] * MANY
    name = name_of(database)
    made = "select count(distinct xmin::text) from acctops.batch where first = 6"
    assert postgres.sql(name, made) == [(1,)], "one transaction wrote them all"
    for _, journal in opened:
        assert journal.may_send()
        journal.append(settled(0))
    close_all(opened)
    assert postgres.sql("postgres", mine) == [(0,)]
    wait_until(lambda: "courier" not in [thread.name for thread in threading.enumerate()])
    for run_id, journal in opened:
        found = runs_of(database).find(run_id).replay()
        assert (found.seq, found.head) == (7, journal.head)
        assert not runs_of(database).is_live(run_id)


async def test_who_is_fenced_is_fenced_alone(postgres: Postgres, database: str) -> None:
    """The others of the same statement are durable and go on, also when the taker is in the same process."""
    up = "select extract(epoch from clock_timestamp() - pg_postmaster_start_time())::float8"
    wait_until(lambda: float(str(postgres.sql("postgres", up)[0][0])) > SILENT_S)
    opened = open_many(database)
    go_on = held(opened)
    age(postgres, database, opened[3][0])
    other, _ = runs_of(database).open(opened[3][0], clock=ticking())
    go_on()
    results = await append_all([*opened, (opened[3][0], other)])
    assert [number for number, each in enumerate(results) if each is not None] == [3]
    assert isinstance(results[3], JournalWriteError) and "was taken by process" in str(results[3])
    assert not opened[3][1].may_send() and other.may_send()
    assert await append_all([each for each in opened if each is not opened[3]], 1) == [None] * (MANY - 1)
    close_all([*opened, (opened[3][0], other)])
    for run_id, journal in (*opened[:3], *opened[4:], (opened[3][0], other)):
        assert runs_of(database).find(run_id).replay().head == journal.head


async def test_what_is_refused_of_one_journal_breaks_no_other(postgres: Postgres, database: str) -> None:
    """Neither its lines nor its permit: then each is asked for alone."""
    opened = open_many(database)
    bad, name = opened[5][0], name_of(database)
    postgres.sql(
        name,
        "create function refuse() returns trigger language plpgsql as "
        f"$$ begin if new.run = '{bad}' then raise exception 'not this one'; end if; return new; end $$",
        "create trigger refuse before insert on acctops.batch for each row execute function refuse()",
    )
    results = await append_all(opened)
    assert [number for number, each in enumerate(results) if each is not None] == [5]
    assert "not this one" in str(results[5])
    postgres.sql(
        name,
        "drop trigger refuse on acctops.batch",
        f"create or replace function refuse() returns trigger language plpgsql as $$ begin "
        f"if new.run = '{opened[6][0]}' then raise exception 'nor this one'; end if; return new; end $$",
        "create trigger refuse before update on acctops.shard for each row execute function refuse()",
    )
    async with asyncio.timeout(20):
        while opened[6][1].broken is None:
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.5)  # longer than a leave: permits of the others still come
    assert all(journal.may_send() for number, (_, journal) in enumerate(opened) if number not in (5, 6))
    postgres.sql(name, "drop trigger refuse on acctops.shard")
    close_all(opened)


@pytest.mark.parametrize("where", ["before", "after"])
async def test_commits_whose_answer_is_lost_are_written_once_each(cut: tuple[str, Cutter], where: str) -> None:
    """For each journal of the statement its head says whether it happened."""
    url, cutter = cut
    opened = open_many(url)
    left = [2]

    def twice(data: bytes) -> str:
        if b'"kind":"sent"' not in data or not left[0]:
            return "pass"
        left[0] -= 1
        return where

    cutter.cut = twice
    for number in range(3):
        assert await append_all(opened, number) == [None] * MANY
    cutter.cut = lambda _data: "pass"
    close_all(opened)
    for run_id, journal in opened:
        found = runs_of(url).find(run_id).replay()
        assert (found.seq, found.head, found.ledger.sent_calls) == (8, journal.head, 3)


async def test_rows_of_one_that_were_changed_break_it_alone(postgres: Postgres, database: str) -> None:
    """The chain says so at the next commit."""
    opened = open_many(database, 4)
    sql = f"update acctops.shard set head = repeat('a', 64) where run = '{opened[1][0]}' and no = 0"
    postgres.sql(name_of(database), sql)
    results = await append_all(opened)
    assert [each is None for each in results] == [True, False, True, True]
    assert opened[1][1].is_meddled
    close_all(opened)


def test_many_are_left_in_time_while_the_database_is_gone(postgres: Postgres, database: str) -> None:
    """None of them waits for the lines of another; and once it is back, a new run begins."""
    opened = open_many(database)
    postgres.stop()
    try:
        for _, journal in opened:
            journal.append(sent(0))
        leavers = [threading.Thread(target=journal.leave, args=(0.5,)) for _, journal in opened[1:]]
        began = time.monotonic()
        for each in leavers:
            each.start()
        for each in leavers:
            each.join(30)
        assert time.monotonic() - began < 10
        assert not opened[0][1].may_send() and opened[0][1].broken is None
    finally:
        postgres.start()
    opened[0][1].flush()
    opened[0][1].close()
    assert runs_of(database).find(opened[0][0]).replay().seq == 6
    close_links()


def test_an_error_that_nobody_thought_of_ends_no_thread(database: str) -> None:
    """Whoever waits is told, and the courier goes on."""
    opened = open_many(database, 2)

    def fails() -> None:
        raise ZeroDivisionError

    seat = opened[0][1]._thread
    assert isinstance(seat, Seat)
    with pytest.raises(ZeroDivisionError):
        seat.submit(fails).result(10)
    for _, journal in opened:
        journal.append_now(sent(0))
    close_all(opened)


# ---- slots -----------------------------------------------------------------------------------------------------------


async def test_questions_that_wait_are_one_statement(postgres: Postgres, database: str) -> None:
    """Each gets a slot of its own: those of one lane lie apart, and no question goes without an answer."""
    asker = Asker(database)
    await asker.ask("first", 20, 0.05, 1.0, 0.0)
    asked = [asker.ask(f"lane {number % 3}", 20, 0.5, 1.0, 0.0) for number in range(12)]
    found = await asyncio.gather(*asked)
    for lane in range(3):
        assert [round(each.wait_s, 1) for each in sorted(found[lane::3])] == [0.0, 0.0, 0.0, 0.5], "two are caught up"
    made = "select count(distinct xmin::text) from acctops.lane where name like 'lane%'"
    assert int(str(postgres.sql(name_of(database), made)[0][0])) <= 2
    asker.close()


async def test_a_question_that_is_refused_fails_alone(postgres: Postgres, database: str) -> None:
    """The others of its statement have their slots."""
    postgres.sql(
        name_of(database),
        "create function refuse() returns trigger language plpgsql as "
        "$$ begin if new.name = 'bad' then raise exception 'not this lane'; end if; return new; end $$",
        "create trigger refuse before insert on acctops.lane for each row execute function refuse()",
    )
    asker = Asker(database)
    lanes = ["c", "bad", "a", "b", "bad"]
    found = await asyncio.gather(*(asker.ask(lane, 20, 0.05, 1.0, 0.0) for lane in lanes), return_exceptions=True)
    assert [isinstance(each, RefusesError) for each in found] == [False, True, False, False, True]
    slots = DatabaseSlots(asker, "bad", clock=time.monotonic)
    assert await slots.reserve(rate=20, interval_s=0.05, window_s=1.0) <= time.monotonic()
    asker.close()


async def test_a_server_that_hangs_is_asked_once(postgres: Postgres, database: str) -> None:
    """The first questions wait for their second; those after them are answered at once, until the server is back."""
    asker = Asker(database)
    await asker.ask("a", 20, 0.05, 1.0, 0.0)
    postgres.freeze()
    try:
        found = await asyncio.gather(*(asker.ask(lane, 20, 0.05, 1.0, 0.0) for lane in "abc"), return_exceptions=True)
        assert all(isinstance(each, TimeoutError) for each in found)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await asker.ask("d", 20, 0.05, 1.0, 0.0)
        assert time.monotonic() - began < 0.5
    finally:
        postgres.thaw()
    async with asyncio.timeout(20):
        while True:
            try:
                await asker.ask("a", 20, 0.05, 1.0, 0.0)
            except (TimeoutError, LostError):
                await asyncio.sleep(0.05)
            else:
                break
    asker.close()


async def test_askers_that_lock_many_lanes_do_not_meet(database: str) -> None:
    """Statements of several askers over the same lanes, asked in any order: no deadlock, every question answered."""
    askers, rng, lanes = [Asker(database) for _ in range(4)], Random(3), [f"lane {number}" for number in range(20)]

    async def many(asker: Asker) -> int:
        answered = 0
        for _ in range(15):
            rng.shuffle(lanes)
            answered += len(await asyncio.gather(*(asker.ask(lane, 200, 0.001, 1.0, 0.0) for lane in list(lanes))))
        return answered

    assert sum(await asyncio.gather(*map(many, askers))) == 4 * 15 * 20
    for each in askers:
        each.close()


async def test_what_was_allowed_for_costs_nothing_once_it_is_told(database: str) -> None:
    """The send a quota before counts as late as it was; one of which nothing was told, as late as it may have been."""
    asker = Asker(database)

    async def wait_s(lane: str, told: Callable[[Slot], tuple[float, float] | None]) -> float:
        left, slot = None, Slot(0.0, 0.0)
        for _ in range(QUOTA + 1):
            slot = await asker.ask(lane, QUOTA, 0.0, 30.0, 10.0, left)
            left = told(slot)
        return slot.wait_s

    assert 39.0 < await wait_s("nothing told", lambda _slot: None) <= 40.0
    assert 29.0 < await wait_s("left at once", lambda slot: (slot.until, slot.until - 10.0)) <= 30.0
    assert 32.0 < await wait_s("left 3 s late", lambda slot: (slot.until, slot.until - 7.0)) <= 33.0
    assert 39.0 < await wait_s("another was told", lambda slot: (slot.until + 1, slot.until - 10.0)) <= 40.0
    asker.close()


async def test_what_leaves_late_is_told_by_whoever_sent_it(database: str) -> None:
    """The lane keeps its distance from when calls have left, also for other processes."""
    askers = [Asker(database) for _ in range(2)]
    mine, other = (DatabaseSlots(asker, "lane", clock=time.monotonic) for asker in askers)
    terms = {"rate": 1.0, "interval_s": 1.0, "window_s": 50.0}
    first = await mine.reserve(**terms)
    mine.left_late(first, 5.0)
    second = await mine.reserve(**terms)
    assert 55.0 <= second - first < 55.5
    mine.left_late(second, 0.0)
    third = await mine.reserve(**terms)
    assert 50.0 <= third - second < 50.5
    assert 50.0 <= await other.reserve(**terms) - third < 51.5, "of the third nothing is known"
    for each in askers:
        each.close()


async def test_an_older_process_keeps_the_window_of_a_newer_one(postgres: Postgres, database: str) -> None:
    """Both use the same row while workers are replaced by newer ones; each counts what the other sends."""
    asker, name, waits = Asker(database), name_of(database), list[float]()
    for number in range(QUOTA + 1):
        if number % 2:
            waits.append((await asker.ask("lane", QUOTA, 0.0, 30.0, 0.0)).wait_s)
        else:
            rows = postgres.sql(name, f"select acctops.slot('lane', {QUOTA}, 0.0, 30.0, 0.0)")
            waits.append(float(str(rows[0][0])))
    assert all(each < 1.0 for each in waits[:-1]) and 25.0 < waits[-1] <= 30.0
    asker.close()


@pytest.mark.parametrize("is_ahead", [True, False])
async def test_a_database_that_is_far_away_costs_no_slots(
    database: str, is_ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each slot is asked for while the one before is waited for; without that, the way there and back is lost."""
    if not is_ahead:
        monkeypatch.setattr("engine.journal.database.slots._AHEAD", float("inf"))

    class Far(Asker):
        async def ask(self, *args: Any, **named: Any) -> Slot:  # Any: as it has it
            slot = await super().ask(*args, **named)
            await asyncio.sleep(0.08)
            return slot

    asker = Far(database)
    slots = DatabaseSlots(asker, "lane", clock=time.monotonic)
    found = []
    for _ in range(30):
        at = await slots.reserve(rate=QUOTA, interval_s=0.1, window_s=1.0)
        found.append(at)
        await asyncio.sleep(max(0.0, at - time.monotonic()) + 0.06)  # then the call is handed over, say
    asker.close()
    pace = 0.1 * (len(found) - 1) / (found[-1] - found[0])
    assert pace > 0.9 if is_ahead else pace < 0.8


async def test_a_slot_that_was_asked_for_ahead_is_used_only_while_it_is_good(database: str) -> None:
    """After a pause, or for another rate, a new one is asked for."""
    asker = Asker(database)
    slots = DatabaseSlots(asker, "lane", clock=time.monotonic)
    slots._way_s = 1.0
    await slots.reserve(rate=QUOTA, interval_s=0.01, window_s=0.1)
    assert slots._ahead is not None
    await slots._ahead[1]
    await asyncio.sleep(0.5)
    assert await slots.reserve(rate=QUOTA, interval_s=0.01, window_s=0.1) > time.monotonic() - 0.2
    assert slots._ahead is not None
    ahead = await slots._ahead[1]
    assert await slots.reserve(rate=5.0, interval_s=0.3, window_s=1.0) > ahead
    asker.close()


def test_a_link_says_whether_it_waits_for_the_disk(database: str) -> None:
    """Journals do; slots do not."""
    for waits, said in ((True, "on"), (False, "off")):
        link = Link(database, waits_for_disk=waits)
        assert link.rows("show synchronous_commit") == [(said,)]
        link.close()
