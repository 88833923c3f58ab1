"""`journal.database.shards`: who has which part of a run for workers, and what comes of it. A real PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from random import Random

import msgspec
import psycopg
import pytest

from engine.errors import ConfigError, JournalCorruptError, JournalWriteError
from engine.journal import records
from engine.journal.database import versions
from engine.journal.database.journal import DatabaseJournal
from engine.journal.database.link import COMMIT_S, Link, LostError, RefusesError, close_links, link_to
from engine.journal.database.runs import DatabaseRuns
from engine.journal.database.shards import UP_S, Shards, Tail
from engine.journal.lines import Chain, shard_genesis
from engine.journal.protocols import Offer
from engine.journal.reader import Stored
from engine.journal.records import AnyRecord, rfc3339
from engine.model import RunId
from engine.outside.trust import Trust
from tests.support.command import wait_until
from tests.support.journals import NOW, end, plan, sent, settled, ticking
from tests.support.postgres import Postgres

LANES = ("default/LockAccount/a:443", "default/LockAccount/b:443")
A, B = LANES


def runs_of(url: str) -> DatabaseRuns:
    return DatabaseRuns(url, Path("/nonexistent"), simulated=False, trust=Trust())


def name_of(url: str) -> str:
    return url.rpartition("/")[2].partition("?")[0]


def divided(shards: int, *, waves: bool = False) -> Iterator[AnyRecord]:
    """The first lines of a run for workers: four calls on one instance a shard."""
    for record in plan(shards * 4):
        if isinstance(record, records.Run):
            record.shards = shards
        yield record
    for no in range(1, shards + 1):
        yield records.ShardLine(
            no=no,
            wave=no if waves else 0,
            account="",
            endpoints=("https://127.0.0.1",),
            lanes=LANES,
            calls=4,
            instances=(("ap-singapore", f"postgres-{no - 1:08x}"),),
        )


def begin(url: str, shards: int = 3, *, seed: int = 1, waves: bool = False) -> tuple[RunId, DatabaseJournal]:
    runs = runs_of(url)
    run_id = runs.new_run_id(NOW, Random(seed))
    return run_id, runs.create(run_id, divided(shards, waves=waves), clock=ticking())


@pytest.fixture
def shards(database: str) -> Iterator[Shards]:
    found = Shards(database)
    yield found
    found.disconnect()


def offer(url: str, shards: Shards, count: int = 3, **how: bool) -> tuple[RunId, DatabaseJournal]:
    """A run whose first wave the workers may send; its own journal is open."""
    run_id, journal = begin(url, count, **how)
    shards.submit(run_id)
    assert shards.let_go(run_id, journal.epoch, 1)
    return run_id, journal


def taken(shards: Shards, run_id: str, no: int, lane: str = A) -> tuple[DatabaseJournal, list[bytes]]:
    found = shards.take(run_id, no, lane, clock=ticking())
    assert found is not None
    return found


def silence(postgres: Postgres, url: str, run_id: str, no: int | None = None) -> None:
    """Let owners have been silent for an hour."""
    which = f"run = '{run_id}'" + (f" and no = {no}" if no is not None else "")
    postgres.sql(name_of(url), f"update acctops.shard set at = at - interval '1 hour' where {which}")


@pytest.fixture
def up(postgres: Postgres) -> None:
    """The server has been up for longer than it takes to call an owner silent."""
    sql = "select extract(epoch from clock_timestamp() - pg_postmaster_start_time())::float8"
    wait_until(lambda: float(str(postgres.sql("postgres", sql)[0][0])) > UP_S)


def stopped(journal: DatabaseJournal) -> threading.Event:
    """Let a journal's process be as if it were stopped, until the event is set: it asks for no permit."""
    began, go_on = threading.Event(), threading.Event()

    def stop() -> None:
        began.set()
        go_on.wait()

    journal._thread.submit(stop)
    assert began.wait(10), "a permit that was under way would be heard of later"
    return go_on


# ---- migration -------------------------------------------------------------------------------------------------------

OLD_APPEND = (
    "select stop, asked from acctops.append(array[%s], array[%s]::int[], array[%s]::bigint[], array[%s]::bigint[], "
    "array[%s], array[%s]::bigint[], array[%s], array[%s]::bytea[])"
)


def at_version_1(postgres: Postgres) -> str:
    """The URL of a database as the version before made it, for a worker's role."""
    name = postgres.empty()
    first = (Path(versions.__file__).parent / "schema" / "001.sql").read_text(encoding="utf-8")
    for role in (versions.WORKER, versions.READER):
        with suppress(psycopg.errors.DuplicateObject):
            postgres.sql(name, f"create role {role} nologin")
    postgres.sql(
        name,
        "create schema acctops",
        "create table acctops.version (number int primary key, at timestamptz not null default clock_timestamp(), "
        "by text not null default session_user)",
        first,
        "insert into acctops.version (number) values (1)",
        "do $$ begin create role worker login in role acctops_worker; exception when duplicate_object then end $$",
        "revoke all on all functions in schema acctops from public",
        "grant usage on schema acctops to acctops_worker, acctops_reader",
        "grant select on all tables in schema acctops to acctops_worker, acctops_reader",
        "grant execute on all functions in schema acctops to acctops_worker",
    )
    return postgres.url(name, "worker")


class Old:
    """A process of the version before, and its run."""

    def __init__(self, url: str, run_id: str, calls: int) -> None:
        self.link = Link(url)
        self.chain = Chain(run_id)
        self.run_id = run_id
        with self.link.transaction():
            self.link.rows("select acctops.create_run(%s, false, 'an older process', null)", run_id)
            for record in plan(calls):
                assert self.append(record)

    def append(self, record: AnyRecord) -> bool:
        before = (self.chain.seq, self.chain.head)
        data = self.chain.add(record, rfc3339(NOW))
        return bool(self.link.rows(OLD_APPEND, self.run_id, 0, 1, *before, self.chain.seq, self.chain.head, data))

    def permit(self) -> bool:
        sql = "select stop, asked from acctops.permit(array[%s], array[0], array[1]::bigint[])"
        return bool(self.link.rows(sql, self.run_id))

    def leave(self) -> None:
        self.link.rows("select acctops.release(%s, 0, 1)", self.run_id)
        self.link.close()


def test_runs_of_the_version_before_come_through(postgres: Postgres) -> None:
    """They are read, verified and gone on with; commits get the order of their runs and lines."""
    url = at_version_1(postgres)
    olds = [Old(url, f"20260101-00000{number}-aaaa", 4) for number in (2, 1)]
    for old in olds:
        old.append(sent(0))
        old.leave()
    assert (lambda done: (done.before, done.after))(versions.migrate(postgres.url(name_of(url)))) == (1, 2)
    runs = runs_of(url)
    for old in olds:
        found = runs.find(old.run_id).verify(old.chain.head)
        assert (found.lines, found.head) == (6, old.chain.head)
        journal, replay = runs.open(RunId(old.run_id), clock=ticking())
        assert replay.seq == 6
        journal.append_now(settled(0))
        journal.close()
        assert runs.find(old.run_id).verify(journal.head).lines == 7
        lines = b"".join(runs.lines(old.run_id).blocks()).splitlines()
        assert {msgspec.json.decode(line)["v"] for line in lines} == {1}
    places = postgres.sql(name_of(url), "select run, no, first from acctops.batch order by place")
    assert places[:12] == sorted(places[:12]), "rows that were there"
    assert len(places) == 14 and {row[2] for row in places[12:]} == {7}, "and those that came later"
    close_links()


def test_an_older_process_appends_while_its_tables_are_migrated(postgres: Postgres) -> None:
    """And after that: its statements are still there. The migration gets between its commits, and kills none."""
    url = at_version_1(postgres)
    old = Old(url, "20260101-000001-aaaa", 400)
    ended = threading.Event()
    counted = [0]

    def go_on() -> None:
        while not ended.is_set() and counted[0] < 395:
            assert old.append(sent(counted[0])) and old.permit()
            counted[0] += 1
            time.sleep(0.002)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(go_on)
        wait_until(lambda: counted[0] > 5)
        assert versions.migrate(postgres.url(name_of(url))).after == 2
        after = counted[0]
        wait_until(lambda: counted[0] > after + 5 or working.done())
        ended.set()
        working.result(20)
    assert counted[0] > after
    old.leave()
    assert runs_of(url).find(old.run_id).verify(old.chain.head).lines == 401 + counted[0]
    close_links()


# ---- creation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4000])
def test_a_run_is_divided_as_it_is_created(database: str, shards: Shards, count: int) -> None:
    """Format 2; each shard is open, without an owner, and its chain begins with the head of the plan, however long."""
    run_id, journal = begin(database, count)
    assert journal.seq == 1 + 5 * count
    rows = shards.rows(run_id)
    assert [row.no for row in rows] == list(range(1, count + 1))
    assert [row.head for row in rows] == [shard_genesis(journal.head, row.no) for row in rows]
    assert {(row.wave, row.lanes, row.lane, row.is_open, row.owner) for row in rows} == {(0, LANES, None, True, None)}
    assert {(row.seq, row.ack, row.calls, row.epoch) for row in rows} == {(0, 0, 4, 0)}
    journal.close()
    assert runs_of(database).find(run_id).verify(journal.head).lines == 1 + 5 * count
    again, found = runs_of(database).open(run_id, clock=ticking())
    again.append_now(records.Confirmed(how="--yes", by="ann", terminal=None))
    assert found.ledger.run.shards == count and b'{"v":2,' in list(runs_of(database).lines(run_id).blocks())[-1]
    again.close()


def test_a_plain_run_has_no_shards(database: str, shards: Shards) -> None:
    """It stays of format 1, and nobody may divide it later but who has it."""
    runs = runs_of(database)
    run_id = runs.new_run_id(NOW, Random(1))
    journal = runs.create(run_id, plan(4), clock=ticking())
    assert shards.rows(run_id) == [] and b'{"v":1,' in b"".join(runs.lines(run_id).blocks())
    row = '[{"no": 1, "wave": 0, "lanes": [], "calls": 1, "head": "x"}]'
    assert link_to(database).rows("select acctops.add_shards(%s, 7, %s::jsonb)", run_id, row) == [(0,)]
    journal.close()


# ---- offers, takers, waves -------------------------------------------------------------------------------------------


def offered(shards: Shards, lane: str, **how: int) -> list[Offer]:
    return shards.offers({lane: ()}, **how)[lane]


def nos(shards: Shards, lane: str) -> list[int]:
    return [each.no for each in offered(shards, lane)]


def test_what_is_offered_to_a_lane(database: str, shards: Shards) -> None:
    """Open shards of waves that were let go, of submitted runs, to the lanes of the plan; the oldest run first."""
    run_id, journal = begin(database, 3, waves=True)
    assert nos(shards, A) == []
    shards.submit(run_id)
    assert nos(shards, A) == [], "no wave was let go"
    assert shards.let_go(run_id, journal.epoch, 2) and not shards.let_go(run_id, journal.epoch + 1, 3)
    assert nos(shards, A) == [1, 2] and nos(shards, B) == [2, 1], "each begins elsewhere"
    assert nos(shards, "default/LockAccount/c:443") == []
    later, other = offer(database, shards, 2, seed=2)
    assert [(each.run, each.no) for each in offered(shards, B)] == [(run_id, 2), (run_id, 1), (later, 2), (later, 1)]
    assert [(each.run, each.no) for each in offered(shards, B, most=1)] == [(run_id, 2)]
    both = shards.offers({A: [run_id], B: [run_id, later]})
    assert [(each.run, each.no) for each in both[A]] == [(later, 1), (later, 2)] and both[B] == []
    mine, _ = taken(shards, later, 2, B)
    assert [(each.run, each.no) for each in offered(shards, A)] == [(run_id, 1), (run_id, 2), (later, 1)]
    mine.close()
    assert [each.no for each in offered(shards, B)] == [2, 2, 1, 1], "its own first"
    assert [(each.run, each.no) for each in offered(shards, A)] == [(run_id, 1), (run_id, 2), (later, 1)]
    shards.withdraw(run_id)
    runs_of(database).request_stop(later)
    assert [(each.run, each.no, each.stop) for each in offered(shards, A)] == [(later, 1, True)]
    assert shards.finish(later, other.epoch) and nos(shards, A) == [] and not shards.finish(later, 9)
    shards.submit(later)
    assert shards.let_go(later, other.epoch, 1) and [each.stop for each in offered(shards, A)] == [False]
    journal.close()
    other.close()


def test_a_run_without_waves_waits_for_its_session_too(database: str, shards: Shards) -> None:
    """Its shards are of wave 0; before `let_go` nothing of it is offered or taken."""
    run_id, journal = begin(database, 1)
    shards.submit(run_id)
    assert nos(shards, A) == [] and shards.take(run_id, 1, A) is None
    assert shards.let_go(run_id, journal.epoch, 1) and nos(shards, A) == [1]
    journal.close()


def test_of_two_takers_exactly_one_has_it(database: str, shards: Shards) -> None:
    """However close: each of many rounds has one winner, whose epoch is the next."""
    run_id, run = offer(database, shards, 8)
    for no in range(1, 9):
        start = threading.Barrier(4)

        def take(lane: str, no: int = no, start: threading.Barrier = start) -> DatabaseJournal | None:
            mine = Shards(database, link=Link(database, statement_s=COMMIT_S))
            start.wait()
            found = mine.take(run_id, no, lane, clock=ticking())
            mine.disconnect()
            return found[0] if found is not None else None

        with ThreadPoolExecutor(4) as pool:
            won = [journal for journal in pool.map(take, (A, B, A, B)) if journal is not None]
        assert [journal.epoch for journal in won] == [1]
        assert shards.rows(run_id)[no - 1].lane in LANES
        won[0].close()
    run.close()


@pytest.mark.usefixtures("up")
def test_who_lost_a_shard_appends_nothing(postgres: Postgres, database: str, shards: Shards) -> None:
    """The other shards of the process are not touched; the new owner gets the lines and goes on with the chain."""
    run_id, run = offer(database, shards)
    mine, lines = taken(shards, run_id, 1)
    other, _ = taken(shards, run_id, 2)
    assert lines == [] and mine.may_send()
    mine.append_now(sent(0))
    mine.append_now(settled(0))
    other.append_now(sent(4))
    assert shards.take(run_id, 1, A) is None and shards.take(run_id, 1, B) is None, "its owner lives"
    go_on = stopped(mine)
    silence(postgres, database, run_id, 1)
    assert shards.take(run_id, 1, B) is None, "another lane's"
    new, lines = taken(shards, run_id, 1)
    assert new.epoch == mine.epoch + 1
    assert [msgspec.json.decode(line)["kind"] for line in b"".join(lines).splitlines()] == ["sent", "settled"]
    go_on.set()
    with pytest.raises(JournalWriteError, match="was taken by process"):
        mine.append_now(sent(1))
    assert not mine.may_send() and not mine.is_meddled
    mine.close()
    assert not shards.give_back(mine, without=None) and not shards.close(mine), "it is not his any more"
    new.append_now(sent(1))
    other.append_now(settled(4))
    for journal in (new, other, run):
        journal.close()
    assert shards.rows(run_id)[0].seq == 3
    assert verified(database, run_id) == {0: 16, 1: 3, 2: 2}


def test_a_shard_given_back_is_for_the_next(database: str, shards: Shards) -> None:
    """At once, and for any lane but one that the API refused; a shard that no lane may have is closed."""
    run_id, run = offer(database, shards, 2)
    mine, _ = taken(shards, run_id, 1)
    mine.append_now(sent(0))
    mine.close()
    row = shards.rows(run_id)[0]
    assert (row.owner, row.lane, row.is_open) == (None, A, True)
    assert nos(shards, B) == [2], "the lane may still give it back, or close it"
    assert shards.give_back(mine, without=A) and shards.give_back(mine, without=A)
    assert (nos(shards, A), nos(shards, B)) == ([2], [2, 1])
    new, lines = taken(shards, run_id, 1, B)
    assert len(lines) == 1 and not shards.give_back(mine, without=None)
    new.close()
    assert shards.give_back(new, without=B)
    row = shards.rows(run_id)[0]
    assert (row.lanes, row.is_open, row.seq) == ((), False, 1) and nos(shards, B) == [2]
    done, _ = taken(shards, run_id, 2)
    done.close()
    assert shards.close(done) and nos(shards, A) == [] and shards.take(run_id, 2, A) is None
    assert shards.reopen(run_id, [1, 2, 99]) == 2 and (nos(shards, A), nos(shards, B)) == ([1, 2], [2, 1])
    run.close()


@pytest.mark.usefixtures("up")
def test_the_session_of_a_run_closes_what_nobody_works_on(postgres: Postgres, database: str, shards: Shards) -> None:
    """Free shards and those of silent owners, which are fenced; not one whose owner lives. Only if it has the run."""
    run_id, run = offer(database, shards)
    lives, _ = taken(shards, run_id, 1)
    silent, _ = taken(shards, run_id, 2, B)
    go_on = stopped(silent)
    silence(postgres, database, run_id, 2)
    assert shards.close_idle(run_id, run.epoch + 1) == 3, "another session's run"
    assert shards.close_idle(run_id, run.epoch) == 1
    assert [row.is_open for row in shards.rows(run_id)] == [True, False, False]
    go_on.set()
    with pytest.raises(JournalWriteError, match="was taken by process"):
        silent.append_now(sent(4))
    silent.close()
    lives.append_now(sent(0))
    lives.close()
    assert shards.close(lives) and shards.close_idle(run_id, run.epoch) == 0
    run.close()


@pytest.mark.usefixtures("up")
def test_a_run_lives_while_any_lane_works_on_it(postgres: Postgres, database: str, shards: Shards) -> None:
    """Then no other claim may take its place; once all are silent all are fenced, and nothing of it is offered."""
    run_id, run = offer(database, shards)
    mine, _ = taken(shards, run_id, 1)
    run.close()
    assert runs_of(database).is_live(run_id)
    link = Link(database)
    assert link.rows("select acctops.fence(%s, 'me', 2.0)", run_id) == [(False,)]
    mine.append_now(sent(0))
    go_on = stopped(mine)
    silence(postgres, database, run_id)
    assert runs_of(database).is_live(run_id), "workers still have it, and may go on with it at any moment"
    assert link.rows("select acctops.fence(%s, 'me', 2.0)", run_id) == [(True,)]
    assert not runs_of(database).is_live(run_id)
    go_on.set()
    with pytest.raises(JournalWriteError, match="was taken by me"):
        mine.append_now(settled(0))
    mine.close()
    assert nos(shards, A) == [] and not any(row.is_open for row in shards.rows(run_id))
    link.close()


def test_rows_of_a_shard_that_were_removed_are_found(postgres: Postgres, database: str, shards: Shards) -> None:
    """By whoever takes it, who keeps no hold of it; and by its session, if they are changed under it."""
    import asyncio

    run_id, run = offer(database, shards)
    mine, _ = taken(shards, run_id, 1)
    mine.append_now(sent(0))
    mine.append_now(settled(0))
    assert asyncio.run(mine.is_as_written())
    mine.close()
    again, _ = taken(shards, run_id, 1)
    assert asyncio.run(again.is_as_written()), "what was there before is of it, too"
    again.close()
    postgres.sql(name_of(database), f"delete from acctops.batch where run = '{run_id}' and no = 1 and first = 2")
    with pytest.raises(JournalCorruptError, match=r"run .* shard 1: ends otherwise than its row says, with line 2"):
        shards.take(run_id, 1, A)
    assert shards.rows(run_id)[0].owner is None
    run.close()


# ---- requests --------------------------------------------------------------------------------------------------------


def test_what_people_ask_reaches_each_shard(database: str, shards: Shards) -> None:
    """With the answers to its commits; and what it has carried out can be seen in its row."""
    runs = runs_of(database)
    run_id, run = offer(database, shards)
    mine, _ = taken(shards, run_id, 1)
    assert not mine.stop_asked and mine.requests == ()
    name = runs.ask(run_id, what="pause")
    runs.request_stop(run_id)
    mine.append_now(sent(0))
    assert [each.name for each in mine.requests] == [name] and mine.stop_asked and mine.asked_no > 0
    wait_until(lambda: bool(run.requests) and run.stop_asked)
    assert shards.rows(run_id)[0].ack == 0
    mine.acknowledge(mine.asked_no)
    wait_until(lambda: shards.rows(run_id)[0].ack == mine.asked_no)
    mine.append_now(settled(0))
    assert shards.rows(run_id)[0].ack == mine.asked_no
    mine.acknowledge(mine.asked_no + 1)
    mine.append_now(sent(1))
    assert shards.rows(run_id)[0].ack == mine.asked_no + 1, "an append stores it as a permit does"
    for journal in (mine, run):
        journal.close()
    shards.submit(run_id)
    assert runs.asked(run_id) == () and not runs.stop_requested(run_id)


# ---- liveness --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("up")
def test_which_lanes_and_runs_have_no_session(postgres: Postgres, database: str, shards: Shards) -> None:
    """Owners that are silent, and shards that nobody has although no lane of theirs lives. Not what is not offered."""
    run_id, run = begin(database, 3, waves=True)
    for no in (1, 2, 3):
        silence(postgres, database, run_id, no)
    assert shards.stale() == ([], {}), "not submitted"
    shards.submit(run_id)
    assert shards.let_go(run_id, run.epoch, 2)
    assert shards.stale() == ([], {}), "just offered, and its session was just heard of"
    silence(postgres, database, run_id, 1)
    assert shards.stale() == ([A, B], {}), "nobody came for it"
    mine, _ = taken(shards, run_id, 1)
    silence(postgres, database, run_id, 2)
    silence(postgres, database, run_id, 3)
    assert shards.heard_lanes() == [A] and shards.stale() == ([], {}), "a lane lives that may take the other"
    go_on = stopped(mine)
    silence(postgres, database, run_id, 1)
    assert shards.heard_lanes() == [] and shards.stale() == ([A, B], {}), "its owner is silent"
    other, _ = taken(shards, run_id, 2, B)
    assert shards.heard_lanes() == [B] and shards.stale() == ([A], {})
    assert [(each.no, each.wave) for each in offered(shards, A)] == [(1, 1)]
    run.close()
    silence(postgres, database, run_id, 0)
    assert shards.stale() == ([A], {run_id: A}), "the run itself was let go"
    shards.withdraw(run_id)
    assert shards.stale() == ([], {})
    go_on.set()
    with suppress(JournalWriteError):
        mine.close()
    other.close()


def test_a_server_that_has_just_started_calls_nobody_silent(postgres: Postgres, database: str, shards: Shards) -> None:
    """While it was down nobody could be heard of; so for some seconds nothing is said, however old a row is."""
    run_id, run = offer(database, shards)
    run.close()
    postgres.stop()
    postgres.start()
    silence(postgres, database, run_id)
    with suppress(Exception):
        shards.stale()  # the connection that was lost
    assert shards.stale(0.0) == ([], {})
    wait_until(lambda: shards.stale() == ([A, B], {run_id: A}))


def test_workers_are_heard_of(postgres: Postgres, database: str, shards: Shards) -> None:
    """As long as they beat, and since when; one that was silent for an hour is forgotten."""
    assert shards.workers() == []
    shards.beat("w1", ["100/a", "200/b"], 3)
    shards.beat("w2", ["100/a"], 0)
    first = shards.workers()
    assert [(each.name, each.queues, each.lanes) for each in first] == [
        ("w1", ("100/a", "200/b"), 3),
        ("w2", ("100/a",), 0),
    ]
    assert first[0].pid and first[0].host and first[0].version and first[0].silent_s < 3
    shards.beat("w1", ["100/a"], 4)
    again = shards.workers()[0]
    assert (again.since, again.lanes, again.queues) == (first[0].since, 4, ("100/a",))
    shards.leave("w2")
    assert [each.name for each in shards.workers()] == ["w1"]
    postgres.sql(name_of(database), "update acctops.worker set at = at - interval '5 s'")
    wait_until(lambda: shards.workers() == [])
    assert len(shards.workers(1e9)) == 1


# ---- one stream ------------------------------------------------------------------------------------------------------


def verified(url: str, run_id: str) -> dict[int, int]:
    """Lines by chain, each checked against the rule by hand; and the whole by the reader."""
    runs = runs_of(url)
    lines = b"".join(runs.lines(run_id).blocks()).splitlines()
    ends, seqs, plan_head = {0: "0" * 64}, dict[int, int](), ""
    for line in lines:
        said = msgspec.json.decode(line)
        no = said.get("shard", 0)
        assert said["v"] == 2 and said["seq"] == seqs.get(no, 0) + 1
        head = ends[no] if no in ends else sha256(f"{plan_head}/{no}".encode()).hexdigest()
        content = line.removesuffix(b',"hash":"%b"}' % said["hash"].encode()) + b"}"
        assert sha256(head.encode() + content).hexdigest() == said["hash"]
        if said["kind"] == "shard":
            plan_head = said["hash"]
        ends[no], seqs[no] = said["hash"], said["seq"]
    runs.find(run_id).verify(None)
    return seqs


def test_the_tail_brings_every_commit_once(database: str, shards: Shards) -> None:
    """Of all chains, also of one that is not known yet, in the order of commits; nothing of what stands beside."""
    run_id, run = offer(database, shards)
    tail = Tail(database, run_id)
    known: dict[int, int] = {}

    def read() -> list[tuple[int, int]]:
        found = []
        for no, lines in tail.read(known):
            count = lines.count(b"\n")
            known[no] = known.get(no, 0) + count
            found.append((no, count))
        return found

    assert read() == [(0, 1), (0, 15)] and read() == []
    one, _ = taken(shards, run_id, 1)
    two, _ = taken(shards, run_id, 2, B)
    one.append_now(sent(0))
    two.append(sent(4))
    two.append_now(settled(4))
    one.append_now(settled(0))
    runs_of(database).add_aside(run_id, [records.Note(what="told", data={"what": "x"})], clock=ticking())
    run.append_now(records.Note(what="seen"))
    assert read() == [(1, 1), (2, 2), (1, 1), (0, 1)] and read() == []
    two.append_now(sent(5))
    assert read() == [(2, 1)]
    assert tail.read(known | {1: 1}) == [tail.read({0: 99, 2: 99, 3: 99})[1]]
    for journal in (one, two, run):
        journal.close()
    tail.disconnect()
    assert verified(database, run_id) == known


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_appends_is_one_valid_stream(database: str, shards: Shards, tmp_path: Path, seed: int) -> None:
    """Two journals and the run's own, at once, changing hands: the lines of all read back as one, from a file too."""
    rng = Random(seed)
    run_id, run = offer(database, shards, 2)

    def work(no: int) -> None:
        mine, dice = Shards(database), Random(seed * 10 + no)
        journal = taken(mine, run_id, no, LANES[no - 1])[0]
        for step in range(12):
            number = (no - 1) * 4 + step % 4
            journal.append(sent(number, step + 1))
            if dice.random() < 0.6:
                journal.flush()
            if dice.random() < 0.2:
                journal.close()
                mine.give_back(journal, without=None)
                journal = taken(mine, run_id, no, LANES[no - 1])[0]
        journal.close()
        assert mine.close(journal)
        mine.disconnect()

    with ThreadPoolExecutor(2) as pool:
        working = [pool.submit(work, no) for no in (1, 2)]
        while not all(each.done() for each in working):
            run.append_now(records.Note(what="gate", data={}))
            time.sleep(rng.random() / 100)
            runs_of(database).replay(run_id)
        for each in working:
            each.result()
    heads = {str(row.no): row.head for row in shards.rows(run_id)}
    run.append_now(end(heads=heads))
    run.close()
    assert shards.close_idle(run_id, run.epoch) == 0
    found = verified(database, run_id)
    assert (found[1], found[2]) == (12, 12)
    ref = runs_of(database).find(run_id)
    assert ref.verify(run.head).head == run.head and ref.replay().ledger.sent_calls == 8
    assert runs_of(database).head(run_id).end is not None
    copy = runs_of(database).copy(run_id, tmp_path / "copy")
    from engine.journal.reader import verify

    assert not isinstance(copy.journal, Stored) and verify(copy.journal, run.head).lines == found[0]


def test_reading_a_run_uses_the_index(postgres: Postgres, database: str, shards: Shards) -> None:
    """A run among many: only its own commits are looked at."""
    run_id, run = offer(database, shards)
    run.close()
    name = name_of(database)
    postgres.sql(
        name,
        "insert into acctops.batch (run, no, first, last, lines) select 'r' || n % 200, n % 20, n, n, repeat('x', 300)"
        "::bytea from generate_series(1, 40000) n",
        "analyze acctops.batch",
    )
    for which in (run_id, "r7"):
        sql = f"explain select no, lines from acctops.batch where run = '{which}' and no >= 0 order by place"
        told = "\n".join(str(row[0]) for row in postgres.sql(name, sql))
        assert "batch_by_place" in told and "Seq Scan" not in told, told


# ---- roles -----------------------------------------------------------------------------------------------------------


def test_who_may_look_may_take_nothing(postgres: Postgres, database: str, shards: Shards) -> None:
    """A reader sees shards, workers and lines; a worker changes rows by functions alone, and no line ever."""
    run_id, run = offer(database, shards)
    mine, _ = taken(shards, run_id, 1)
    mine.append_now(sent(0))
    url = postgres.url(name_of(database), "looker")
    looker, tail = Shards(url), Tail(url, run_id)
    assert len(looker.rows(run_id)) == 3 and nos(looker, B) == [2, 3] and looker.workers() == []
    assert looker.heard_lanes() == [A] and looker.stale()[1] == {} and len(tail.read({0: 99})) == 1
    asks: tuple[Callable[[], object], ...] = (
        lambda: looker.submit(run_id),
        lambda: looker.withdraw(run_id),
        lambda: looker.reopen(run_id, [1]),
        lambda: looker.let_go(run_id, run.epoch, 1),
        lambda: looker.finish(run_id, run.epoch),
        lambda: looker.close_idle(run_id, run.epoch),
        lambda: looker.take(run_id, 2, B),
        lambda: looker.give_back(mine, without=None),
        lambda: looker.close(mine),
        lambda: looker.beat("w", [], 0),
        lambda: looker.leave("w"),
    )
    for ask in asks:
        with pytest.raises(ConfigError, match=r"permission denied.*grant acctops_worker"):
            ask()
    with psycopg.connect(database, autocommit=True) as worker:
        for statement in (
            "update acctops.batch set place = default",
            "update acctops.batch set lines = ''",
            "delete from acctops.batch",
            "insert into acctops.batch (run, no, first, last, lines) values ('x', 0, 1, 1, '')",
            "update acctops.shard set open = false",
            "update acctops.run set wave = 9",
            "delete from acctops.worker",
            "select nextval(pg_get_serial_sequence('acctops.batch', 'place'))",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                worker.execute(statement.encode())
    for journal in (mine, run):
        journal.close()
    for each in (looker, tail):
        each.disconnect()


def test_the_functions_of_shards_leave_the_runs_own_chains_alone(database: str, shards: Shards) -> None:
    """Neither chain 0 nor what stands beside can be taken, given back or closed as a shard."""
    run_id, run = offer(database, shards)
    link = Link(database)
    for no in (0, -1):
        assert link.rows("select * from acctops.take_shard(%s, %s, %s, 'x', 0)", run_id, no, A) == []
        for function in ("give_back(%s, %s, 1, null)", "close_shard(%s, %s, 1)"):
            assert link.rows(f"select acctops.{function}", run_id, no) == [(None,)]
    assert shards.reopen(run_id, [0, -1]) == 0
    with pytest.raises((RefusesError, LostError)):
        link.rows("select acctops.add_shards(%s, 1, %s::jsonb)", run_id, '[{"no": 1}]')
    run.append_now(records.Note(what="gate"))
    link.close()
    run.close()
