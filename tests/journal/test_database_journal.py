"""`journal.database`: fenced appends, leave to send, lost connections, roles, versions. A real PostgreSQL."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import psycopg
import pytest

from engine.errors import AcctopsError, BusyError, ConfigError, JournalWriteError, Reason, UnreachableError
from engine.journal.database.journal import LEAVE_S, SILENT_S, DatabaseJournal
from engine.journal.database.link import close_links
from engine.journal.database.runs import DatabaseRuns
from engine.journal.database.versions import VERSION, migrate
from engine.model import RunId
from engine.outside.trust import Trust
from tests.support.command import Desk, wait_until
from tests.support.cutting import Cutter, cutting
from tests.support.journals import NOW, plan, sent, settled, ticking
from tests.support.postgres import Postgres


def runs_of(url: str) -> DatabaseRuns:
    return DatabaseRuns(url, Path("/nonexistent"), simulated=False, trust=Trust())


def begin(url: str, calls: int = 4, seed: int = 1) -> tuple[RunId, DatabaseJournal]:
    runs = runs_of(url)
    run_id = runs.new_run_id(NOW, Random(seed))
    return run_id, runs.create(run_id, plan(calls), clock=ticking())


def name_of(url: str) -> str:
    return url.rpartition("/")[2].partition("?")[0]


# ---- one writer ------------------------------------------------------------------------------------------------------


def age(postgres: Postgres, url: str, run_id: str) -> None:
    """Let a run's owner be silent for long enough."""
    back = "update acctops.shard set at = at - interval '1 hour', taken_at = taken_at - interval '1 hour'"
    postgres.sql(name_of(url), f"{back} where run = '{run_id}'")


@pytest.fixture
def long_ago(postgres: Postgres, database: str) -> Callable[[str], None]:
    """Ages a run; the server has been up for longer than a silence takes."""
    up = "select extract(epoch from clock_timestamp() - pg_postmaster_start_time())::float8"
    wait_until(lambda: float(str(postgres.sql("postgres", up)[0][0])) > SILENT_S)
    return lambda run_id: age(postgres, database, run_id)


def test_who_was_taken_over_appends_nothing(database: str, long_ago: Callable[[str], None]) -> None:
    """It is told by whom and when, may not send any more, and the chain is the new owner's."""
    run_id, journal = begin(database)
    journal.append_now(sent(0))
    assert journal.may_send()
    journal._thread.submit(time.sleep, 2.0)  # a process that was stopped: it asks for no permit
    long_ago(run_id)
    other, found = runs_of(database).open(run_id, clock=ticking())
    assert found.seq == 6
    with pytest.raises(JournalWriteError, match=rf"run was taken by process {os.getpid()} on .* as it was silent"):
        journal.append_now(sent(1))
    assert not journal.may_send() and journal.broken is not None and not journal.is_meddled
    journal.close()
    other.append_now(settled(0))
    assert other.may_send() and runs_of(database).is_live(run_id), "closing the old one gave nothing back"
    other.close()
    assert runs_of(database).find(run_id).verify(other.head).lines == 7


async def test_who_was_taken_over_while_idle_learns_it(database: str, long_ago: Callable[[str], None]) -> None:
    """Without anything to append: the next permit is refused."""
    run_id, journal = begin(database)
    journal.append(sent(0))
    await journal.durable()
    while True:  # until it is taken between two of its permits
        long_ago(run_id)
        try:
            other, _ = runs_of(database).open(run_id, clock=ticking())
            break
        except BusyError:
            continue
    import asyncio

    async with asyncio.timeout(20):
        while journal.broken is None:
            await asyncio.sleep(0.05)
    assert not journal.may_send()
    with pytest.raises(JournalWriteError, match="was taken by"):
        journal.append(sent(1))
    journal.close()
    other.close()


def test_a_living_owner_is_never_taken_over(database: str) -> None:
    """However little it writes: a permit is heard of, too. And who asks is told at once, not after a silence."""
    run_id, journal = begin(database)
    for _ in range(2):
        with pytest.raises(BusyError, match="is being worked on by process"):
            runs_of(database).open(run_id, clock=ticking())
    assert journal.may_send()
    journal.append_now(sent(0))
    journal.close()


# ---- leave -----------------------------------------------------------------------------------------------------------


def test_without_the_database_there_is_no_leave(postgres: Postgres, database: str) -> None:
    """It ends within a second, by this host's own clock; and is back once the server answers again."""
    _, journal = begin(database)
    journal.append_now(sent(0))
    assert journal.may_send()
    postgres.freeze()
    try:
        frozen = time.monotonic()
        wait_until(lambda: not journal.may_send())
        assert time.monotonic() - frozen < LEAVE_S + 1.0
    finally:
        postgres.thaw()
    wait_until(journal.may_send)
    assert journal.append_now(sent(1)) == 7
    journal.close()


# ---- lost connections ------------------------------------------------------------------------------------------------


@pytest.fixture
def cut(postgres: Postgres, database: str) -> Iterator[tuple[str, Cutter]]:
    with cutting(postgres.port) as cutter:
        yield database.replace(f":{postgres.port}/", f":{cutter.port}/"), cutter
    close_links()


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_commit_whose_answer_is_lost_is_written_once(cut: tuple[str, Cutter], where: str, times: int) -> None:
    """Whether it happened says the head: the same lines are sent again, or not."""
    url, cutter = cut
    run_id, journal = begin(url)
    left = [times]

    def once(data: bytes) -> str:
        if b'"kind":"sent"' not in data or not left[0]:
            return "pass"
        left[0] -= 1
        return where

    cutter.cut = once
    for number in range(3):
        assert journal.append_now(sent(number)) == 6 + number
    assert left == [0] or where == "after", "an append that happened is not sent again"
    cutter.cut = lambda _data: "pass"
    journal.close()
    found = runs_of(url).find(run_id).replay()
    assert (found.seq, found.head) == (8, journal.head)
    assert found.ledger.sent_calls == 3


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_run_whose_creation_got_no_answer_exists_or_not(cut: tuple[str, Cutter], where: str) -> None:
    """Either it exists, whole, and goes on; or it does not, and nothing was sent."""
    url, cutter = cut
    runs = runs_of(url)
    run_id = runs.new_run_id(NOW, Random(1))
    cutter.cut = lambda data: where if b"COMMIT" in data else "pass"

    def restore(data: bytes) -> str:
        if b"COMMIT" not in data:
            return "pass"
        cutter.cut = lambda _data: "pass"
        return where

    cutter.cut = restore
    if where == "after":
        journal = runs.create(run_id, plan(4), clock=ticking())
        journal.append_now(sent(0))
        journal.close()
        assert runs.replay(run_id).seq == 6
    else:
        with pytest.raises(JournalWriteError, match=r"Nothing was sent; look at the server, then run again"):
            runs.create(run_id, plan(4), clock=ticking())
        assert runs.names() == ()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_restarts_is_a_wait(postgres: Postgres, database: str, mode: str) -> None:
    """In order or not: nothing that was durable is lost, and the journal goes on by itself."""
    run_id, journal = begin(database)
    journal.append_now(sent(0))
    postgres.stop(mode=mode)
    try:
        journal.append(sent(1))
        wait_until(lambda: journal.waiting_s > 0.5)
        assert journal.waits_for.startswith("the database: ")
        wait_until(lambda: not journal.may_send())
        assert journal.broken is None
    finally:
        postgres.start()
    journal.flush()
    wait_until(journal.may_send)
    journal.close()
    assert runs_of(database).find(run_id).verify(journal.head).lines == 7


def test_ended_sessions_are_a_wait(postgres: Postgres, database: str) -> None:
    """All of them, again and again."""
    run_id, journal = begin(database)
    for number in range(4):
        postgres.sql(
            "postgres",
            f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name_of(database)}'",
        )
        journal.append_now(sent(number))
    journal.close()
    assert runs_of(database).find(run_id).verify(journal.head).lines == 9


def test_a_full_server_is_a_wait(postgres: Postgres, database: str) -> None:
    """The journal is not broken by it: sending pauses until there is room. Nothing begins meanwhile."""
    run_id, journal = begin(database)
    postgres.sql(
        name_of(database),
        "create function full_up() returns trigger language plpgsql as "
        "$$ begin raise exception 'could not extend file' using errcode = '53100'; end $$",
        "create trigger full_up before insert on acctops.batch execute function full_up()",
    )
    journal.append(sent(0))
    flushing = threading.Thread(target=journal.flush)
    flushing.start()
    wait_until(lambda: journal.waiting_s > 0.5)
    assert "could not extend file" in journal.waits_for and journal.broken is None
    with pytest.raises(JournalWriteError, match="could not extend file"):
        begin(database, seed=2)
    postgres.sql(name_of(database), "drop trigger full_up on acctops.batch")
    flushing.join()
    journal.close()
    assert runs_of(database).names() == (run_id,)


def test_a_database_that_is_gone_is_left_in_time(postgres: Postgres, database: str) -> None:
    """A second Ctrl-C waits for nobody: what is not known to be there counts as not recorded."""
    _, journal = begin(database)
    postgres.freeze()
    try:
        journal.append(sent(0))
        began = time.monotonic()
        assert not journal.leave(0.5)
        assert time.monotonic() - began < 5
    finally:
        postgres.thaw()


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_no_server_is_one_sentence() -> None:
    """Exit 4, by the place without the user's name."""
    with pytest.raises(UnreachableError) as error:
        runs_of("postgresql://hunter3@127.0.0.1:9/acctops")
    assert error.value.reason is Reason.STOPPED
    assert re.search(r"database postgresql://127\.0\.0\.1:9/acctops: cannot be used now: .*refused", str(error.value))
    assert "hunter" not in str(error.value) and "\n" not in str(error.value)


def test_tables_of_another_version_are_named(postgres: Postgres) -> None:
    """None: who makes them, and how. Older: likewise. Newer: use that acctops; and migrate changes nothing."""
    name = postgres.empty()
    url = postgres.url(name)
    for words in ("has no tables of acctops; its owner makes them: acctops database migrate --database URL",) * 2:
        with pytest.raises(ConfigError, match=words):
            runs_of(url)
    done = migrate(url)
    assert (done.before, done.after) == (0, VERSION)
    assert migrate(url).before == VERSION
    runs_of(url)
    postgres.sql(name, "insert into acctops.version (number) values (99)")
    from engine.journal.database import versions

    versions._CHECKED.clear()
    with pytest.raises(ConfigError, match="have version 99, which a newer acctops made"):
        runs_of(url)
    with pytest.raises(ConfigError, match="have version 99, which a newer acctops made; this one knows 2, and changes"):
        migrate(url)
    close_links()


def test_a_database_or_role_that_is_not_there(postgres: Postgres, database: str) -> None:
    """Each in one sentence, exit 2, without the role's name."""
    for url, words in (
        (postgres.url("nosuch"), "database .* does not exist; make it"),
        (postgres.url(name_of(database), "hunter3"), "name a role that may log in"),
        (database + "?sslmode=verify-full", "look at sslmode"),
        (database + "?port=nonsense", "look at the URL|is not understood"),
    ):
        with pytest.raises(ConfigError, match=words) as error:
            runs_of(url)
        assert "hunter" not in str(error.value)


def test_who_may_look_may_not_write(postgres: Postgres, database: str) -> None:
    """A reader sees runs, and begins none; a worker appends, and changes or removes no line; others see nothing."""
    run_id, journal = begin(database)
    journal.append_now(sent(0))
    looker = runs_of(postgres.url(name_of(database), "looker"))
    assert looker.names() == (run_id,) and looker.is_live(run_id) and looker.replay(run_id).seq == 6
    assert looker.list()[0].live
    with pytest.raises(ConfigError, match="this role may only look"):
        looker.create(looker.new_run_id(NOW, Random(5)), plan(2), clock=ticking())
    with pytest.raises(ConfigError, match=r"permission denied.*grant acctops_worker"):
        looker.request_stop(run_id)
    journal.close()
    with psycopg.connect(database, autocommit=True) as worker:
        for statement in (
            "update acctops.batch set lines = ''",
            "delete from acctops.batch",
            "truncate acctops.batch",
            "insert into acctops.batch values ('x', 0, 1, 1, now(), '')",
            "update acctops.shard set head = ''",
            "delete from acctops.head_line",
            "update acctops.used set run = ''",
            "drop table acctops.batch",
            "create table acctops.mine (x int)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                worker.execute(statement.encode())
    postgres.sql(name_of(database), "do $$ begin create role nobody login; exception when duplicate_object then end $$")
    with pytest.raises(ConfigError):
        runs_of(postgres.url(name_of(database), "nobody")).names()


def test_an_owner_who_may_make_no_roles_is_told_how(postgres: Postgres) -> None:
    """The owner need not be a superuser: an administrator makes the two roles once."""
    name = postgres.empty()
    postgres.sql(
        "postgres",
        "do $$ begin create role keeper login; exception when duplicate_object then end $$",
        f"alter database {name} owner to keeper",
    )
    assert migrate(postgres.url(name, "keeper")).after == VERSION
    postgres.sql(
        name,
        "do $$ begin create role worker login in role acctops_worker; exception when duplicate_object then end $$",
    )
    run_id, journal = begin(postgres.url(name, "worker"))
    journal.close()
    assert runs_of(postgres.url(name, "worker")).names() == (run_id,)
    close_links()


def test_a_read_only_database_begins_nothing(postgres: Postgres, database: str) -> None:
    """It is looked at, and a run that begins is refused in words."""
    run_id, journal = begin(database)
    journal.close()
    name = name_of(database)
    postgres.sql("postgres", f"alter database {name} set default_transaction_read_only = on")
    close_links()
    runs = runs_of(database)
    assert runs.names() == (run_id,) and runs.replay(run_id).seq == 5
    for act in (
        lambda: begin(database, seed=2),
        lambda: runs.open(run_id, clock=ticking()),
        lambda: runs.set_mark("x", "y"),
    ):
        with pytest.raises(AcctopsError, match="read-only"):
            act()


def test_a_standby_is_looked_at_and_nothing_more(desk: Desk, postgres: Postgres, database: str) -> None:
    """All that reads works there; what writes is refused in one sentence, before anything is sent."""
    run_id, journal = begin(database)
    journal.close()
    with postgres.standby() as port:
        url = database.replace(f":{postgres.port}/", f":{port}/")
        desk.env["ACCTOPS_DATABASE"] = url
        wait_until(lambda: run_id in desk.run("status").out)
        assert desk.run("journal", "verify", run_id).code == 0
        for words in (["run", desk.job(), "--simulate", "--yes"], ["tend"], ["resume", run_id, "--yes"]):
            refused = desk.run(*words)
            assert refused.code == 2 and "is a read-only standby; name the primary" in refused.err, refused.text
        found = desk.run("doctor", "--json").json["checks"]
        assert [each["result"] for each in found if "read-only standby" in each["words"]] == ["fail"]
        desk.env["ACCTOPS_DATABASE"] = postgres.url(name_of(database))
        found = desk.run("doctor", "--json").json["checks"]
        assert any("its standby is asynchronous" in each["words"] for each in found)
    close_links()


def test_tls_is_checked_as_the_url_says(desk: Desk, postgres: Postgres, database: str, tmp_path: Path) -> None:
    """verify-full with the right authority connects, and doctor has no word about it; with another one nothing does."""
    from engine.journal.database.dispatch import migrate_dispatch
    from tests.cloud.test_transport import CERTIFICATE, KEY

    migrate_dispatch(postgres.url(name_of(database)))
    authority = tmp_path / "ca.pem"
    authority.write_text(CERTIFICATE)
    for name, text in (("server.crt", CERTIFICATE), ("server.key", KEY)):
        postgres.write(name, text)
    postgres.stop()
    postgres.start("-c", "ssl=on")
    try:
        url = database.replace("127.0.0.1", "localhost") + f"?sslmode=verify-full&sslrootcert={authority}"
        desk.env["ACCTOPS_DATABASE"] = url
        done = desk.run("run", desk.job(), "--simulate", "--yes", "--json")
        assert done.code == 0, done.text
        found = [each for each in desk.run("doctor", "--json").json["checks"] if each["check"] == "database"]
        assert [each["result"] for each in found] == ["ok"], found
        authority.write_text("of nobody\n")
        close_links()
        refused = desk.run("status")
        assert refused.code == 2 and "look at sslmode, sslrootcert" in refused.err, refused.text
    finally:
        postgres.stop()
        postgres.start()


def test_without_its_library_it_is_said_how_to_get_it(desk: Desk) -> None:
    """psycopg is an extra: whoever names a database without it is told, and no traceback."""
    hidden = desk.write("hidden/psycopg.py", "raise ImportError('hidden')\n")
    desk.env |= {"ACCTOPS_DATABASE": "postgresql://127.0.0.1:9/x"}
    desk.env["PYTHONPATH"] = f"{hidden.parent}:{desk.env['PYTHONPATH']}"
    done = desk.end(desk.popen("status"))
    assert done.code == 2 and "pip install 'acctops[workers]'" in done.err and "Traceback" not in done.err


def test_commands_to_paste_leave_out_the_role(desk: Desk, database: str) -> None:
    """They find the database again; who one is there says PGUSER or a service file."""
    desk.env["PGUSER"] = "worker"
    desk.write("faults.yaml", "[{action: LockAccount, code: InvalidParameterValue.AccountNotExistError, times: 1}]")
    flags = ("--simulate", "--faults", "faults.yaml", "--yes", "--database", f"{database}?sslmode=prefer&user=worker")
    done = desk.run("run", desk.job(), *flags)
    place = database.replace("worker@", "")
    assert done.code == 1 and f"--database '{place}?sslmode=prefer'" in done.text, done.text
    assert "worker@" not in done.text and "user=worker" not in done.text
    again = desk.run("status", "--database", f"{place}?sslmode=prefer", "--json").json
    assert again["state_dir"] == place and len(again["runs"]) == 1
    close_links()


def test_rows_that_were_removed_or_added_are_found(postgres: Postgres, database: str) -> None:
    """By whoever opens the run; and a session that goes on finds that its rows were changed."""
    run_id, journal = begin(database)
    for number in range(3):
        journal.append_now(sent(number))
    name = name_of(database)
    postgres.sql(name, f"update acctops.batch set lines = lines || 'x' where run = '{run_id}' and first = 7")
    import asyncio

    assert not asyncio.run(journal.is_as_written())
    assert journal.is_meddled and "was changed in place" in str(journal.broken)
    with pytest.raises(JournalWriteError):
        journal.close()
        raise JournalWriteError("closed before")
    postgres.sql(name, f"delete from acctops.batch where run = '{run_id}' and first >= 8")
    with pytest.raises(AcctopsError):
        runs_of(database).open(run_id, clock=ticking())
    postgres.sql(name, f"delete from acctops.batch where run = '{run_id}'")
    assert runs_of(database).lost() == (run_id,)
    assert "no such journal" in str(runs_of(database).list()[0].problem)


def test_a_copy_of_the_database_is_another_place(postgres: Postgres, database: str) -> None:
    """One that was restored from a backup: it is not home until it is adopted, and has used up no plan."""
    run_id, journal = begin(database)
    journal.close()
    here = runs_of(database)
    here.use_up("a" * 64, run_id)
    close_links()
    postgres.sql("postgres", f"create database copied template {name_of(database)}")
    copied = runs_of(postgres.url("copied", "worker"))
    assert here.home().is_here and not copied.home().is_here and copied.home().id == here.home().id
    assert copied.used_by("a" * 64) == run_id and not copied.is_used_here("a" * 64, run_id)
    assert here.is_used_here("a" * 64, run_id)
    assert copied.home(adopt=True).is_here and copied.home().is_here
    close_links()


@pytest.mark.parametrize("adopted_at", [0.0, 4e9], ids=["never adopted", "adopted by a clock ahead"])
def test_a_database_that_lacks_what_this_host_has_seen(database: str, tmp_path: Path, adopted_at: float) -> None:
    """It is not home, whatever it says itself, until this host adopts it. Nonsense in its memory says nothing."""
    begin(database)[1].close()
    runs = DatabaseRuns(database, tmp_path, simulated=False, trust=Trust())
    assert runs.home().is_here and runs.home().is_here
    (memory,) = (tmp_path / "databases").iterdir()
    seen = json.loads(memory.read_text())
    for later in ({"place": seen["place"] + 1}, {"run": "20990101T000000Z-aaaa"}):
        memory.write_text(json.dumps(seen | later | {"adopted_at": adopted_at}))
        assert not runs.home().is_here and (seen | later)["run"] in runs.home().why
        assert json.loads(memory.read_text())["adopted_at"] == adopted_at, "what was seen is kept"
    assert runs.home(adopt=True).is_here and runs.home().is_here
    for nonsense in ("", "[]", '{"run": 1}', '{"run": "x", "place": "y", "adopted_at": 0}', "[" * 900):
        memory.write_text(nonsense)
        assert runs.home().is_here and json.loads(memory.read_text())["run"] == seen["run"]
    memory.unlink()
    memory.symlink_to(tmp_path / "elsewhere")
    assert runs.home().is_here and not (tmp_path / "elsewhere").exists()
    close_links()


# ---- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_looks_at_the_database(desk: Desk, postgres: Postgres, database: str) -> None:
    """Version, role, TLS, and what the server promises; what cannot be used is a failure, in one sentence."""

    def checks(url: str) -> list[tuple[str, str]]:
        desk.env["ACCTOPS_DATABASE"] = url
        found = desk.run("doctor", "--json").json["checks"]
        return [(each["result"], each["words"]) for each in found if each["check"] == "database"]

    def said(url: str, result: str, words: str) -> bool:
        return any(got == result and words in text for got, text in checks(url))

    assert said(database, "ok", f"{name_of(database)}: PostgreSQL ")
    assert said(database, "warn", "is not encrypted; it goes to this machine alone")
    assert not said(database, "warn", "superuser")
    assert said(postgres.url(name_of(database)), "warn", "the role is a superuser, and could change")
    assert said(postgres.url(name_of(database), "looker"), "fail", "this role may only look")
    assert said("postgresql://127.0.0.1:9/x", "fail", "cannot be used now")
    assert said(postgres.url(postgres.empty()), "fail", "acctops database migrate")
    postgres.sql("postgres", "alter system set fsync = off", "select pg_reload_conf()")
    try:
        wait_until(lambda: said(database, "warn", "fsync is off"))
    finally:
        postgres.sql("postgres", "alter system reset fsync", "select pg_reload_conf()")
    close_links()


def test_migrate_says_what_it_did(desk: Desk, postgres: Postgres) -> None:
    """Made, or there already; a URL with a password is refused, and not repeated."""
    url = postgres.url(postgres.empty())
    assert "has the tables of acctops now, version 2" in desk.run("database", "migrate", "--database", url).out
    again = desk.run("database", "migrate", "--database", url, "--json").json
    assert (again["before"], again["after"], again["exit"]) == (2, 2, 0)
    refused = desk.run("database", "migrate", "--database", url.replace("@", ":hunter2@"))
    assert refused.code == 2 and "has a password in it" in refused.err and "hunter2" not in refused.text
    desk.env["ACCTOPS_DATABASE"] = postgres.url(postgres.empty())
    early = desk.run("status")
    assert early.code == 2 and "acctops database migrate --database URL" in early.err
