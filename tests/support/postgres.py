"""A PostgreSQL of the tests' own, in a temporary directory: started once a process, with a fresh database a test."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine.journal.database.versions import migrate

SUPERUSER = "hunter2"
"""Not to be shown: nobody asks for the name of a role."""

_HOME = "update acctops.home set id = gen_random_uuid()::text, place = acctops.place()"
"""A database that was copied says so, and nothing is opened there: this makes it one of its own."""


def programs() -> Path | None:
    """Where initdb and postgres are: on the PATH, or where Debian has them, of the newest version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Postgres:
    """A server; `stop` and `start` it, ask it for databases."""

    def __init__(self, where: str = "/tmp") -> None:
        programs_at = programs()
        if programs_at is None:
            pytest.skip("no PostgreSQL here: neither initdb on the PATH nor /usr/lib/postgresql/*/bin")
        self._bin = programs_at
        self._as: dict[str, Any] = {}  # Any: as subprocess has it
        if os.geteuid() == 0:
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
            self._as = {"user": "postgres", "group": "postgres", "extra_groups": []}
        self.place = Path(tempfile.mkdtemp(prefix="acctops-pg-", dir=where))
        if self._as:
            os.chown(self.place, owner.pw_uid, owner.pw_gid)
        self.data = self.place / "data"
        self._names = count(1)
        self._template: str | None = None
        self._spare: list[str] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", SUPERUSER, "--no-instructions", "-E", "UTF8")
        self.server: subprocess.Popen[bytes] | None = None
        self.start()

    def _run(self, name: str, *args: str) -> None:
        subprocess.run(
            [str(self._bin / name), *args],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            timeout=60,
            **self._as,
        )

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers."""
        words = [
            "-p",
            str(self.port),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"unix_socket_directories={self.place}",
        ]
        words += ["-c", "max_connections=80", "-c", "shared_buffers=32MB", *options]
        log = (self.place / "log").open("ab")
        self.server = subprocess.Popen(
            [str(self._bin / "postgres"), "-D", str(self.data), *words],
            cwd="/",
            stdout=log,
            stderr=log,
            start_new_session=True,
            **self._as,
        )
        log.close()
        until = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self, *, mode: str = "fast") -> None:
        """Stop it: `fast`, or `immediate`, as if the machine had lost its power."""
        if self.server is not None:
            self._run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop")
            self.server.wait(30)
            self.server = None

    def url(self, database: str, user: str = SUPERUSER) -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def sql(self, database: str, *statements: str) -> list[tuple[object, ...]]:
        """Carry out statements as a superuser; the rows of the last."""
        rows: list[tuple[object, ...]] = []
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def empty(self) -> str:
        """A new database without tables; its name."""
        name = f"t{next(self._names)}"
        self.sql("postgres", f"create database {name}")
        return name

    def fresh(self) -> str:
        """The URL of a new database with tables, for a worker's role: a copy of one that is made once."""
        if self._template is None:
            template = self.empty()
            migrate(self.url(template))
            self.sql(
                template,
                "do $$ begin create role worker login in role acctops_worker; "
                "exception when duplicate_object then end $$",
                "do $$ begin create role looker login in role acctops_reader; "
                "exception when duplicate_object then end $$",
            )
            self._template = template
        name = f"t{next(self._names)}"
        self.sql("postgres", f"create database {name} template {self._template}")
        self.sql(name, _HOME)
        return self.url(name, "worker")

    def borrow(self) -> str:
        """The URL of a database as `fresh` makes them, perhaps one that was used before, for `give_back` to take."""
        return self._spare.pop() if self._spare else self.fresh()

    def give_back(self, url: str) -> None:
        """Empty a database, whoever is still connected, for the next test: to make or to drop one costs ten times that.

        Its tables and functions must be as they were made.
        """
        name = url.rpartition("/")[2]
        self.sql(
            name,
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()",
            "do $$ begin execute (select 'truncate ' || string_agg('acctops.' || quote_ident(tablename), ', ') "
            "|| ' restart identity' from pg_tables where schemaname = 'acctops' "
            "and tablename not in ('version', 'home')); end $$",
            _HOME,
        )
        self._spare.append(url)

    def remove(self) -> None:
        if self.server is not None:
            self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")
            self.server.wait(30)
        shutil.rmtree(self.place, ignore_errors=True)

    @contextmanager
    def standby(self) -> Iterator[int]:
        """A standby of it, which can be read; its port."""
        place = self.place / "standby"
        self._run(
            "pg_basebackup",
            "-D",
            str(place),
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            SUPERUSER,
            "-R",
            "-c",
            "fast",
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        words = ["-o", f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.place}"]
        self._run("pg_ctl", "-D", str(place), *words, "-l", str(self.place / "standby.log"), "-w", "start")
        try:
            yield port
        finally:
            self._run("pg_ctl", "-D", str(place), "-m", "immediate", "-w", "stop")
            shutil.rmtree(place, ignore_errors=True)

    def write(self, name: str, text: str) -> None:
        """Write a file into its data directory, as it wants them."""
        path = self.data / name
        path.write_text(text)
        path.chmod(0o600)
        if self._as:
            shutil.chown(path, "postgres", "postgres")

    def freeze(self) -> None:
        """Let it answer nobody, and accept nobody, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self.server is not None
        main = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for pid in (main, *map(int, children)):
            with suppress(ProcessLookupError):  # a client has gone, and its process with it
                os.kill(pid, number)


@contextmanager
def serving(where: str = "/tmp") -> Iterator[Postgres]:
    """A server for as long as the block goes on; its files are in a new directory in `where`."""
    server = Postgres(where)
    try:
        yield server
    finally:
        server.remove()
