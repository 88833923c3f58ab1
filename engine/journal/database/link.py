"""One connection to the database, and what can go wrong with it in our words. The only importer of psycopg."""

from __future__ import annotations

import atexit
import os
import pwd
import re
import select
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError, UnreachableError
from engine.outside.databaseurls import url_words, user_of
from engine.outside.foreign import clean

try:
    import psycopg
except ImportError as error:
    raise ConfigError(
        f"a database needs psycopg, which cannot be loaded here ({error}): pip install 'acctops[workers]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator

Rows = list[tuple[Any, ...]]
"""Rows of a query. Any: what its columns are."""
COMMIT_S = 5.0
"""Seconds that a statement of a journal has: what takes longer is asked again, on a new connection."""
CONNECT_S = 5
_KEEP: dict[str, Any] = {
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}
_MOST_WORDS = 300
_MIGRATE = "acctops database migrate --database URL"


class LostError(Exception):
    """The database does not answer, or cannot write, for now; the text says why. It may be back in a moment."""


class RefusesError(ConfigError):
    """The database refuses what is asked, and will do so again."""


class NoSchemaError(ConfigError):
    """The database has no tables of acctops."""


class Link:
    """A connection that is made when it is needed, and anew once it was lost. Several threads may use it."""

    def __init__(self, url: str, *, statement_s: float = 0.0, waits_for_disk: bool = True) -> None:
        """`statement_s`: seconds that a statement has; 0: as long as it takes.

        `waits_for_disk`: whether what it does is durable once it is answered.
        """
        self.url = url
        self.words = url_words(url)
        self._statement_s = statement_s
        self._synchronous = "on" if waits_for_disk else "off"
        self._lock = threading.RLock()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._pid = 0

    def rows(self, sql: str, *args: Any) -> Rows:
        """Return the rows of a statement; none of one that has none. Any: what the columns are.

        LostError if nobody knows whether it was carried out.
        """
        with self._lock, self._translated():
            cursor = self._ready().execute(sql, args, binary=True)
            return cursor.fetchall() if cursor.description is not None else []

    def stream(self, sql: str, *args: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query as they come. Any: what the columns are."""
        with self._lock, self._translated(), self._ready().cursor(binary=True) as cursor:
            yield from cursor.stream(sql, args)

    def script(self, sql: str) -> None:
        """Carry out several statements."""
        with self._lock, self._translated():
            self._ready().execute(sql.encode())

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Carry out the block's statements together, or none of them."""
        with self._lock, self._translated(), self._ready().transaction():
            yield

    @property
    def facts(self) -> dict[str, Any]:
        """What the connection itself says: `version`, `encrypted`, `address`. Any: text, number or truth."""
        with self._lock, self._translated():
            ready = self._ready()
            return {
                "version": ready.info.server_version,
                "encrypted": bool(ready.pgconn.ssl_in_use),
                "address": ready.info.hostaddr or ready.info.host,
            }

    def close(self) -> None:
        """Close it; the next statement makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None and self._pid == os.getpid():
            with suppress(psycopg.Error):
                connection.close()

    def _ready(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is not None and self._pid == os.getpid() and _has_ended(self._connection):
            self.close()
        if self._connection is None or self._connection.closed or self._pid != os.getpid():
            options = f"-c synchronous_commit={self._synchronous} -c client_encoding=UTF8 -c timezone=UTC"
            options += (
                f" -c statement_timeout={int(self._statement_s * 1000)} -c idle_in_transaction_session_timeout=60000"
            )
            options += "".join(f" -c tcp_{name}={value}" for name, value in _KEEP.items() if name.startswith("keep"))
            try:
                self._connection = psycopg.connect(
                    self.url,
                    autocommit=True,
                    connect_timeout=CONNECT_S,
                    application_name=f"acctops {os.getpid()}",
                    options=options,
                    **_KEEP,
                )
            except psycopg.ProgrammingError as error:
                raise RefusesError(f"database {self.words}: its URL is not understood: {self._said(error)}") from None
            except psycopg.OperationalError as error:
                raise self._unconnected(error) from None
            self._pid = os.getpid()
        return self._connection

    def _unconnected(self, error: psycopg.OperationalError) -> Exception:
        said = self._said(error)
        for sign, advice in _REFUSALS:
            if re.search(sign, said):
                return RefusesError(f"database {self.words}: {said}; {advice}")
        return LostError(said)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn psycopg's errors of the block into ours; close the connection if it is of no use any more."""
        try:
            yield
        except psycopg.Error as error:
            code = error.sqlstate or ""
            said = self._said(error)
            if code.startswith(("08", "53", "57P", "58", "XX")) or code in _PASSING or not code:
                self.close()
                raise LostError(said) from None
            if code in ("3F000", "42P01", "42883"):
                raise NoSchemaError(
                    f"database {self.words}: has no tables of acctops, or of another version; its owner makes them: "
                    f"{_MIGRATE}"
                ) from None
            if code == "42501":
                raise RefusesError(
                    f"database {self.words}: {said}; this role may not: grant acctops_worker (or acctops_reader, to "
                    "look) to it"
                ) from None
            raise RefusesError(f"database {self.words}: {said} ({code})") from None

    def _said(self, error: psycopg.Error) -> str:
        """Return the words of an error, without the user's name and whatever else a URL says."""
        text = (error.diag.message_primary or str(error)).replace(self.url, self.words)
        for name in filter(None, (user_of(self.url), os.environ.get("PGUSER", ""))):
            text = text.replace(f'"{name}"', "…")
        text = re.sub(r"\buser \"[^\"]*\"|\brole \"[^\"]*\"", "the role", text)
        last = [line for line in text.splitlines() if line.strip() and "running on that host" not in line]
        return clean("; ".join(line.strip() for line in last), _MOST_WORDS)


def opened(url: str) -> psycopg.Connection[Any]:
    """Return a new connection, for a library that has a pool of its own; psycopg's errors stay what they are.

    Any: what rows are.
    """
    options = "-c client_encoding=UTF8 -c timezone=UTC -c idle_in_transaction_session_timeout=60000"
    options += "".join(f" -c tcp_{name}={value}" for name, value in _KEEP.items() if name.startswith("keep"))
    return psycopg.connect(
        url,
        connect_timeout=CONNECT_S,
        application_name=f"acctops dispatcher {os.getpid()}",
        options=options,
        **_KEEP,
    )


def _has_ended(connection: psycopg.Connection[Any]) -> bool:
    """Return whether the server has ended an idle connection: it says so, or has closed it. Any: what rows are."""
    if connection.closed or connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        return bool(connection.closed)
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


_PASSING = ("25006", "40001", "40P01", "55P03", "57014")
"""Read-only (a standby, for as long as it is one), conflicts with others, time that ran out."""
_REFUSALS = (
    # what the server or libpq says, and what to do
    ("password authentication failed|no password supplied|authentication failed|pg_hba", "look at role and password "
     "(PGPASSFILE, a service file, a client certificate), and at pg_hba.conf"),
    ("database .* does not exist", "make it, then: " + _MIGRATE),
    ("role .* does not exist|the role does not exist|is not permitted to log in", "name a role that may log in"),
    ("certificate|SSL|sslmode", "look at sslmode, sslrootcert, sslcert and sslkey in the URL"),
    ("could not translate host name|Name or service not known|definition of service", "look at the name"),
    ("invalid (integer|port|sslmode|URI)|private key file", "look at the URL"),
)  # fmt: skip


def who() -> str:
    """Return who this is, for whoever meets the run: the process, its host, its user."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return clean(f"process {os.getpid()} on {os.uname().nodename} ({name})", 200)


_LINKS: dict[tuple[str, float], Link] = {}


def link_to(url: str, statement_s: float = 0.0) -> Link:
    """Return the connection of this process for all but commits; `statement_s` as `Link` takes it."""
    if not _LINKS:
        atexit.register(close_links)
    return _LINKS.setdefault((url, statement_s), Link(url, statement_s=statement_s))


def close_links() -> None:
    """Close the connections that `link_to` has made; the next statement makes a new one."""
    for link in _LINKS.values():
        link.close()


@contextmanager
def told(url: str) -> Iterator[None]:
    """Turn a LostError of the block into an error for whoever gave the command."""
    try:
        yield
    except LostError as error:
        raise UnreachableError(unreachable_words(url, str(error))) from None


def unreachable_words(url: str, why: str) -> str:
    """Return the message that the database cannot be used now."""
    if "read-only" in why:
        cure = "it is a standby, or was made read-only; name the primary"
        return f"database {url_words(url)}: {why}: {cure}; nothing was sent"
    return f"database {url_words(url)}: cannot be used now: {why}; nothing was sent; look at the server, then try again"


def names_of(rows: Rows) -> tuple[str, ...]:
    """Return the first column of rows, as texts."""
    return tuple(str(row[0]) for row in rows)
