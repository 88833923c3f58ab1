"""DBOS as the dispatcher, against a real PostgreSQL: who carries out a session, how often, and what happens if not."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from engine.errors import ConfigError, UnreachableError
from engine.journal.database import dispatch
from engine.journal.database.dispatch import Dispatcher, enqueue_lane, enqueue_lanes, enqueue_run, mend, tidy
from engine.journal.database.link import LostError
from tests.support.command import Desk, wait_until
from tests.support.dispatching import Worker
from tests.support.postgres import Postgres

LONG_AGO = "update dbos.workflow_status set started_at_epoch_ms = started_at_epoch_ms - 600000"
JUST_NOW = (
    "update dbos.workflow_status set started_at_epoch_ms = extract(epoch from clock_timestamp()) * 1000 + 60000 "
    "where status = 'PENDING'"
)
"""A moment ago, however slow the machine is."""


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    """The URL of a database with DBOS' tables, for a worker's role."""
    from engine.journal.database.link import close_links

    made = postgres.fresh()
    dispatch.migrate_dispatch(postgres.url(name_of(made)))
    if not postgres.server:
        postgres.start()
    yield made
    close_links()


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def rows(postgres: Postgres, url: str, what: str = "status") -> list[object]:
    return [
        row[0] for row in postgres.sql(name_of(url), f"select {what} from dbos.workflow_status order by created_at")
    ]


class Sessions:
    """Sessions that last until they are let go; counts them."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []
        self.now = 0
        self.most = 0
        self.loops: set[asyncio.AbstractEventLoop] = set()
        self.go = asyncio.Event()
        self.fails: Exception | None = None

    async def __call__(self, key: str) -> None:
        self.began.append(key)
        self.loops.add(asyncio.get_running_loop())
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.go.wait()
            if self.fails is not None:
                raise self.fails
        finally:
            self.now -= 1
            self.ended.append(key)


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def working(
    url: str,
    lanes: Callable[[str], Awaitable[None]],
    runs: Callable[[str], Awaitable[None]] | None = None,
    *,
    name: str = "here",
    queues: tuple[str, ...] = ("q",),
    most: int = 1000,
    version: str = dispatch.VERSION,
    say: Callable[[str], None] | None = None,
) -> AsyncIterator[Dispatcher]:
    worker = Dispatcher(url, name, lanes=lanes, runs=runs, queues=queues, most_lanes=most, version=version, say=say)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(worker.stop)
        await worker.start()
        yield worker


async def test_a_session_is_carried_out_once_and_anew_after_its_end(postgres: Postgres, url: str) -> None:
    """A second wish while one waits or goes on changes nothing; after its end it makes a new session."""
    sessions = Sessions()
    enqueue_lane(url, "lane", "q")
    enqueue_lane(url, "lane", "q")
    assert rows(postgres, url) == ["ENQUEUED"]
    async with working(url, sessions):
        await until(lambda: sessions.began)
        enqueue_lane(url, "lane", "q")
        assert rows(postgres, url) == ["PENDING"] and sessions.began == ["lane"]
        sessions.go.set()
        await until(lambda: rows(postgres, url) == ["SUCCESS"])
        enqueue_lane(url, "lane", "q")
        await until(lambda: rows(postgres, url) == ["SUCCESS", "SUCCESS"])
    assert sessions.began == ["lane", "lane"]
    assert sessions.loops == {asyncio.get_running_loop()}


async def test_runs_are_of_another_kind_than_lanes(postgres: Postgres, url: str) -> None:
    """A run has the name of a lane; a worker without runs leaves them; runs are not counted among its lanes."""
    lanes, runs = Sessions(), Sessions()
    enqueue_lane(url, "same", "q")
    enqueue_run(url, "same", "q")
    async with working(url, lanes):
        await until(lambda: lanes.began)
        lanes.go.set()
        await until(lambda: sorted(map(str, rows(postgres, url))) == ["ENQUEUED", "SUCCESS"])
    async with working(url, lanes, runs, most=0):
        await until(lambda: runs.began == ["same"])
        runs.go.set()
        await until(lambda: rows(postgres, url) == ["SUCCESS", "SUCCESS"])


async def test_a_hundred_sessions_go_on_at_once(url: str) -> None:
    """In one process, with a few threads."""
    sessions = Sessions()
    before = threading.active_count()
    asked = enqueue_lanes(url, {f"lane {number}": "q" for number in range(100)})
    assert len(asked) == 100 and enqueue_lanes(url, dict.fromkeys(asked, "q")) == []
    async with working(url, sessions) as worker:
        await until(lambda: sessions.now == 100)
        assert worker.running == set(asked)
        assert threading.active_count() - before < 40
        sessions.go.set()
        await worker.drain()
    assert Counter(sessions.ended) == Counter(asked)


async def test_a_worker_takes_no_more_lanes_than_it_may(postgres: Postgres, url: str) -> None:
    """Of all its queues together, and by its own word: another worker may take more or fewer."""
    sessions = Sessions()
    enqueue_lanes(url, {f"a{number}": "a" for number in range(10)})
    async with working(url, sessions, queues=("a", "b"), most=3) as worker:
        await until(lambda: sessions.now == 3)
        enqueue_lanes(url, {f"b{number}": "b" for number in range(10)})
        sessions.go.set()
        await until(lambda: len(sessions.ended) == 20)
        await worker.drain()
    assert len(set(sessions.ended)) == 20
    assert set(rows(postgres, url)) == {"SUCCESS"}


async def test_a_session_that_fails_is_over_and_its_words_are_kept_nowhere(postgres: Postgres, url: str) -> None:
    """The lane can be asked for again; what was raised may hold a secret, and only its kind is told."""
    sessions, said = Sessions(), list[str]()
    sessions.fails = ValueError("the password is hunter2!")
    sessions.go.set()
    enqueue_lane(url, "lane", "q")
    async with working(url, sessions, say=said.append):
        await until(lambda: rows(postgres, url) == ["ERROR"])
        sessions.fails = None
        enqueue_lane(url, "lane", "q")
        await until(lambda: rows(postgres, url) == ["ERROR", "SUCCESS"])
    assert said == ["the session of lane lane failed: ValueError"]
    kept = postgres.sql(name_of(url), "select error from dbos.workflow_output where error is not null")
    assert len(kept) == 1
    import base64
    import re

    words = " ".join(str(row[0]) for row in kept)
    plain = words + "".join(repr(base64.b64decode(each + "===")) for each in re.findall(r"[A-Za-z0-9+/]{40,}", words))
    assert "hunter2!" not in plain and "ValueError" in plain


def test_a_killed_workers_session_is_given_to_another(postgres: Postgres, url: str, tmp_path: Path) -> None:
    """kill −9: several others mend at once, and the lane has one session again; those of the living stay."""
    first, second = Worker(url, "first", tmp_path), None
    try:
        enqueue_lanes(url, {"lane": "q", "other": "q"})
        enqueue_run(url, "run", "q")
        wait_until(lambda: sorted(first.began) == ["lane", "other", "run"])
        first.kill()
        second = Worker(url, "second", tmp_path)
        wait_until(lambda: "ready" in second.said)
        postgres.sql(name_of(url), JUST_NOW)
        assert mend(url, {"lane": "q"}, {"run": "q"}, "me") == [], "it was taken a moment ago"
        postgres.sql(name_of(url), LONG_AGO)
        with ThreadPoolExecutor(8) as many:
            done = list(many.map(lambda _: mend(url, {"lane": "q"}, {"run": "q"}, "me"), range(8)))
        assert sorted(word for words in done for word in words) == [
            "lane lane: its session was with first, of which nothing is heard; it waits for a worker again",
            "run run: its session was with first, of which nothing is heard; it waits for a worker again",
        ]
        wait_until(lambda: sorted(second.began) == ["lane", "run"])
        postgres.sql(name_of(url), JUST_NOW)
        assert mend(url, {"lane": "q"}, {"run": "q"}, "me") == [], "taken a moment ago"
        enqueue_lane(url, "lane", "q")  # its name is still taken
        postgres.sql(name_of(url), LONG_AGO)
        assert mend(url, {"lane": "q"}, {"run": "q"}, "second") == [], "mine go on"
        assert second.end() == 0
        assert sorted(second.began) == ["lane", "run"]
        assert Counter(rows(postgres, url)) == {"SUCCESS": 2, "PENDING": 1}
        assert first.errors.read_text() == second.errors.read_text() == ""
    finally:
        first.kill()
        if second is not None:
            second.kill()


def test_two_workers_share_the_lanes(postgres: Postgres, url: str, tmp_path: Path) -> None:
    """Each lane has one session, wherever; SIGTERM ends them in order."""
    workers = [Worker(url, name, tmp_path) for name in ("first", "second")]
    try:
        wait_until(lambda: all("ready" in worker.said for worker in workers))
        lanes = [f"lane {number}" for number in range(60)]
        enqueue_lanes(url, dict.fromkeys(lanes, "q"))
        wait_until(lambda: sum(len(worker.began) for worker in workers) >= 60)
        assert [worker.end() for worker in workers] == [0, 0]
        assert sorted(workers[0].began + workers[1].began) == sorted(lanes)
        assert all(worker.began for worker in workers), "nobody took them all"
        assert set(rows(postgres, url)) == {"SUCCESS"}
    finally:
        for worker in workers:
            worker.kill()


async def test_mend_asks_for_a_session_where_there_is_none(url: str) -> None:
    """Such as one whose submitter died half-way."""
    sessions = Sessions()
    async with working(url, sessions, sessions) as worker:
        assert await worker.mend({"lane": "q"}, {"run": "q"}) == [
            "lane lane: had no session; one is asked for",
            "run run: had no session; one is asked for",
        ]
        assert await worker.mend({"lane": "q"}, {"run": "q"}) == []
        await until(lambda: sorted(sessions.began) == ["lane", "run"])
        sessions.go.set()
        await worker.drain()


async def test_mend_finds_a_session_that_was_lost_here(postgres: Postgres, url: str) -> None:
    """One that is ours by its row, and that does not go on: the commit that took it was never confirmed."""
    enqueue_lanes(url, {"lost": "q", "going": "q"})
    sessions = Sessions()
    async with working(url, sessions) as worker:
        await until(lambda: sessions.now == 2)
        postgres.sql(name_of(url), LONG_AGO)
        assert await worker.mend({"lost": "q", "going": "q"}, {}) == []
        done = mend(url, {"lost": "q", "going": "q"}, {}, "here", mine={"going"})
        assert done == ["lane lost: its session was lost here; it waits for a worker again"]
        await until(lambda: sorted(sessions.began) == ["going", "lost", "lost"])
        sessions.go.set()
        await worker.drain()


async def test_no_number_of_takeovers_is_too_many(postgres: Postgres, url: str) -> None:
    """DBOS would park a workflow that was begun again too often; a lane is not."""
    enqueue_lane(url, "lane", "q")
    postgres.sql(name_of(url), "update dbos.workflow_status set recovery_attempts = 100000")
    sessions = Sessions()
    sessions.go.set()
    async with working(url, sessions):
        await until(lambda: rows(postgres, url) == ["SUCCESS"])


async def test_a_worker_takes_sessions_of_its_own_version(postgres: Postgres, url: str) -> None:
    """One of another version waits for its workers; `mend` of those who are there takes it over in the end."""
    enqueue_lane(url, "old", "q", version="0")
    enqueue_lane(url, "new", "q")
    sessions = Sessions()
    sessions.go.set()
    async with working(url, sessions) as worker:
        await until(lambda: "new" in sessions.ended)
        assert await worker.mend({"old": "q"}, {}) == []
        postgres.sql(name_of(url), "update dbos.workflow_status set updated_at = updated_at - 60000")
        assert len(await worker.mend({"old": "q"}, {})) == 1
        await until(lambda: sessions.ended == ["new", "old"])


async def test_drain_takes_nothing_new(postgres: Postgres, url: str) -> None:
    """What is asked for meanwhile waits for others, also what DBOS had just taken; what went on has ended."""
    sessions = Sessions()
    async with working(url, sessions) as worker:
        enqueue_lane(url, "going", "q")
        await until(lambda: sessions.began)
        enqueue_lanes(url, {f"late {number}": "q" for number in range(5)})
        draining = asyncio.create_task(worker.drain())
        await asyncio.sleep(0)
        begun = set(sessions.began)
        enqueue_lanes(url, {f"later {number}": "q" for number in range(5)})
        sessions.go.set()
        await draining
        assert set(sessions.began) == begun == set(sessions.ended)
        assert Counter(rows(postgres, url)) == {"SUCCESS": len(begun), "ENQUEUED": 11 - len(begun)}
    other = Sessions()
    other.go.set()
    async with working(url, other, name="other"):
        await until(lambda: set(rows(postgres, url)) == {"SUCCESS"})
    assert len(other.ended) == 11 - len(begun)


async def test_what_comes_while_it_drains_is_given_back(postgres: Postgres, url: str) -> None:
    """A session that was taken before the drain began, and did not reach the loop before it."""
    sessions = Sessions()
    async with working(url, sessions) as worker:
        enqueue_lane(url, "lane", "q")
        held = threading.Event()
        loop = asyncio.get_running_loop()

        def block() -> None:  # the loop is busy until DBOS has taken the session
            wait_until(lambda: rows(postgres, url) == ["PENDING"])
            worker._is_draining = True
            held.set()

        loop.call_soon(block)
        await asyncio.sleep(0)
        assert held.is_set()
        await worker.drain()
        assert sessions.began == [] and rows(postgres, url) == ["ENQUEUED"]


async def test_stop_leaves_sessions_alone(postgres: Postgres, url: str) -> None:
    """They go on, their rows stay theirs, and others find them silent."""
    sessions = Sessions()
    async with working(url, sessions):
        enqueue_lane(url, "lane", "q")
        await until(lambda: sessions.began)
    assert sessions.now == 1 and rows(postgres, url) == ["PENDING"]
    sessions.go.set()
    await until(lambda: sessions.now == 0)
    postgres.sql(name_of(url), LONG_AGO)
    assert len(mend(url, {"lane": "q"}, {}, "other")) == 1


async def test_the_server_may_be_gone_for_a_while(
    postgres: Postgres, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Sessions go on, new ones are taken once it is back; one sentence is said, and nothing printed."""
    sessions, said = Sessions(), list[str]()
    async with working(url, sessions, say=said.append) as worker:
        enqueue_lane(url, "before", "q")
        await until(lambda: sessions.began)
        await asyncio.to_thread(postgres.stop, mode="immediate")
        try:
            with pytest.raises(LostError):
                await worker.mend({"before": "q"}, {})
            with pytest.raises(UnreachableError, match="nothing was sent"):
                enqueue_lane(url, "after", "q")
            await until(lambda: said)
        finally:
            await asyncio.to_thread(postgres.start)
        enqueue_lane(url, "after", "q")
        await until(lambda: sessions.began == ["before", "after"])
        sessions.go.set()
        await until(lambda: rows(postgres, url) == ["SUCCESS", "SUCCESS"], 90)
        await worker.drain()
    assert set(said) == {"the dispatcher's database does not answer; it goes on asking"}
    assert capfd.readouterr() == ("", "")


def test_a_workers_role_makes_nothing(postgres: Postgres, url: str) -> None:
    """It reads and changes rows; tables, functions and the version are the owner's. A reader sees the version only."""
    with psycopg.connect(url, autocommit=True) as connection:
        for refused in (
            "create table dbos.mine (x int)",
            "drop table dbos.workflow_status",
            "truncate dbos.workflow_status",
            "update dbos.dbos_migrations set version = 1",
            "create function dbos.mine() returns int language sql as 'select 1'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused.encode())
    looker = postgres.url(name_of(url), "looker")
    assert dispatch.check_dispatch(looker) is None
    with pytest.raises(ConfigError, match="this role may not"):
        enqueue_lane(looker, "lane", "q")


async def test_tables_that_do_not_fit_are_said(postgres: Postgres, url: str) -> None:
    """None, or older than the dbos that is here: what to do, by whom; no worker begins."""
    bare = postgres.fresh()
    words = "has no tables of dbos, which workers need; its owner makes them: pip install"
    assert words in str(dispatch.check_dispatch(bare))
    for call in (lambda: enqueue_lane(bare, "lane", "q"), lambda: mend(bare, {"lane": "q"}, {}, "me")):
        with pytest.raises(ConfigError, match=words):
            call()
    with pytest.raises(ConfigError, match=words):
        async with working(bare, Sessions()):
            pass
    postgres.sql(name_of(url), "update dbos.dbos_migrations set version = 3")
    assert "its tables of dbos have version 3, and the dbos that is installed here needs" in str(
        dispatch.check_dispatch(url)
    )
    with pytest.raises(ConfigError, match="have version 3"):
        async with working(url, Sessions()):
            pass
    with pytest.raises(UnreachableError):
        async with working("postgresql://127.0.0.1:9/x", Sessions()):
            pass


async def test_rows_of_ended_sessions_are_removed(postgres: Postgres, url: str) -> None:
    """After their time, with all that belongs to them; those that wait or go on stay, and those of others."""
    sessions = Sessions()
    sessions.go.set()
    enqueue_lane(url, "lane", "q")
    async with working(url, sessions):
        await until(lambda: rows(postgres, url) == ["SUCCESS"])
    enqueue_lane(url, "waits", "q")
    postgres.sql(name_of(url), "select dbos.enqueue_workflow('theirs', 'theirs', application_name => 'other')")
    postgres.sql(name_of(url), "update dbos.workflow_status set status = 'SUCCESS' where name = 'theirs'")
    assert tidy(url) == 0
    assert tidy(url, kept_s=0) == 1
    assert rows(postgres, url, "name || coalesce(deduplication_id, '')") == ["lanewaits", "theirs"]
    for table in ("workflow_input", "workflow_output"):
        left = postgres.sql(
            name_of(url),
            f"select count(*) from dbos.{table} where workflow_uuid not in (select workflow_uuid from "
            "dbos.workflow_status)",
        )
        assert left == [(0,)]


async def test_a_service_file_names_the_database(
    postgres: Postgres, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What libpq takes, DBOS takes: a service file, and the file of passwords beside it."""
    services, passwords = tmp_path / "services", tmp_path / "passwords"
    services.write_text(f"[fleet]\nhost=127.0.0.1\nport={postgres.port}\ndbname={name_of(url)}\nuser=guarded\n")
    passwords.write_text("*:*:*:guarded:hunter2\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    rules = (postgres.data / "pg_hba.conf").read_text()
    postgres.sql("postgres", "drop role if exists guarded", "create role guarded login password 'hunter2'")
    postgres.sql("postgres", "grant acctops_worker to guarded")
    postgres.write("pg_hba.conf", f"host all guarded 127.0.0.1/32 scram-sha-256\n{rules}")
    postgres.sql("postgres", "select pg_reload_conf()")
    try:
        named = "postgresql:///?service=fleet"
        sessions = Sessions()
        sessions.go.set()
        enqueue_lane(named, "lane", "q")
        async with working(named, sessions) as worker:
            await until(lambda: sessions.ended == ["lane"])
            await worker.drain()
        dispatch.migrate_dispatch(f"{named}&user={postgres.url('x').split('//')[1].split('@')[0]}")
    finally:
        postgres.write("pg_hba.conf", rules)
        postgres.sql("postgres", "select pg_reload_conf()", "drop role guarded")


def test_migrate_makes_the_tables_of_workers(desk: Desk, postgres: Postgres) -> None:
    """With those of the journals; again changes nothing; doctor looks at them."""
    url = postgres.url(postgres.empty())
    assert desk.run("database", "migrate", "--database", url, "--json").json["workers"] is True
    assert desk.run("database", "migrate", "--database", url).code == 0
    assert dispatch.check_dispatch(url) is None
    from engine.operations.databases import findings

    assert not any("no worker can begin" in words for _, words in findings(url, desk.state))
    assert any("no worker can begin here" in words for _, words in findings(postgres.fresh(), desk.state))


def test_a_role_that_may_not_make_tables_is_told(postgres: Postgres) -> None:
    """In words: who can."""
    bare = postgres.fresh()
    with pytest.raises(ConfigError, match="the tables of dbos cannot be made"):
        dispatch.migrate_dispatch(bare)
