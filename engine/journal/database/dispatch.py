"""DBOS as the dispatcher: sessions of lanes and runs are asked for, carried out, and given to others if lost.

A session is a row of DBOS' tables (schema `dbos` of the same database): ENQUEUED until a worker takes it, PENDING until
it has ended. There is one at a time for a lane or run and queue: its `deduplication_id` is the lane or the run.

Whoever asks or mends needs no dbos: that is SQL. Asking is DBOS' own function `enqueue_workflow`. Mending does what
`resume_workflow` does, and two things that it does not: it changes a row only if it is still as it was seen, so several
may mend at once, and it keeps the `deduplication_id`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigError, UnreachableError
from engine.journal.database.link import Link, LostError, NoSchemaError, opened, told

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence

    import sqlalchemy
    from dbos import DBOS

VERSION = "1"
"""Which sessions a worker can carry out: raised when what a session does with the journals changes. A worker takes
sessions of its own version only, so releases of acctops with the same one serve the same queues."""
POLL_S = 0.3
"""Seconds between two looks of a worker at each of its queues. DBOS has no notice of a new task: it polls."""
FRESH_S = 2.0
"""Seconds for which whoever has taken a session is believed to be at work, though nothing was heard of it yet."""
KEPT_S = 3600.0
"""Seconds that the row of an ended session is kept."""
_FOREIGN_S = 10.0
"""Seconds that a session of another version waits for a worker of that version."""
_TIDY_S = 600.0
_STATEMENT_S = 5.0
_NOTED_S = 5.0
"""Seconds that `drain` waits until DBOS has noted the ends of sessions."""
_SAID_S = 60.0
_FIRST = 4
"""Sessions that a worker takes at once if it has none of the queue, else as many as it has: others get theirs, and
many are taken within a few looks."""
_THREADS = 16
"""Threads of DBOS that write ends of sessions. Sessions themselves need none."""
_CONNECTIONS = 8
_NAME = "acctops"
_LANE, _RUN = "lane", "run"
_LOCK = "select pg_advisory_xact_lock(720575940, 3)"
"""Whoever asks or mends is alone: no two sessions come of one wish."""
_ASK = """
select a.key, dbos.enqueue_workflow(
    workflow_name => %s, queue_name => a.queue, positional_args => array[to_json(a.key), to_json(a.queue)],
    deduplication_id => a.key, app_version => %s, application_name => 'acctops')
from unnest(%s::text[], %s::text[]) as a(key, queue)
where not exists (
    select from dbos.workflow_status w where w.queue_name = a.queue and w.deduplication_id = a.key)"""
_BACK = """
update dbos.workflow_status w
set status = 'ENQUEUED', owner_xid = null, started_at_epoch_ms = null, recovery_attempts = 0,
    application_version = %s, updated_at = extract(epoch from clock_timestamp()) * 1000
from unnest(%s::text[], %s::text[]) as a(key, queue)
where w.name = %s and w.queue_name = a.queue and w.deduplication_id = a.key and w.status = 'PENDING'
    and coalesce(w.started_at_epoch_ms, 0) < extract(epoch from clock_timestamp()) * 1000 - %s::bigint
    and (w.executor_id is distinct from %s or a.key <> all(coalesce(%s::text[], array[a.key])))
returning a.key, w.executor_id"""
_ADOPT = """
update dbos.workflow_status w set application_version = %s, updated_at = extract(epoch from clock_timestamp()) * 1000
from unnest(%s::text[], %s::text[]) as a(key, queue)
where w.name = %s and w.queue_name = a.queue and w.deduplication_id = a.key and w.status = 'ENQUEUED'
    and w.application_version is distinct from %s
    and w.updated_at < extract(epoch from clock_timestamp()) * 1000 - %s::bigint
returning a.key"""
_GIVE_BACK = """
update dbos.workflow_status
set status = 'ENQUEUED', owner_xid = null, started_at_epoch_ms = null,
    updated_at = extract(epoch from clock_timestamp()) * 1000
where workflow_uuid = %s and executor_id = %s and status = 'PENDING'"""
_MINE = "select count(*) from dbos.workflow_status where executor_id = %s and status = 'PENDING'"
_TIDY = """
with gone as (
    delete from dbos.workflow_status where workflow_uuid in (
        select workflow_uuid from dbos.workflow_status
        where application_name = 'acctops' and name = any(%s) and status not in ('ENQUEUED', 'PENDING', 'DELAYED')
            and coalesce(completed_at, updated_at) < extract(epoch from clock_timestamp()) * 1000 - %s::bigint
        limit 5000 for update skip locked)
    returning workflow_uuid),
inputs as (delete from dbos.workflow_input i using gone where i.workflow_uuid = gone.workflow_uuid),
outputs as (delete from dbos.workflow_output o using gone where o.workflow_uuid = gone.workflow_uuid)
select count(*) from gone"""
_MIGRATE = "acctops database migrate --database URL"
_INSTALL = "pip install 'acctops[workers]'"
_TIDIED: dict[str, float] = {}


def lanes_queue(queue: str) -> str:
    """Return the name of the queue of an identity's lane sessions, as DBOS has it."""
    return f"lanes {queue}"


def runs_queue(queue: str) -> str:
    """Return the name of the queue of an identity's run sessions, as DBOS has it."""
    return f"runs {queue}"


# ---- asking --------------------------------------------------------------------------------------------------------


def enqueue_lane(url: str, lane: str, queue: str, *, version: str = VERSION) -> None:
    """Ask for a session of a lane, unless one waits or goes on. As `enqueue_lanes`."""
    enqueue_lanes(url, {lane: queue}, version=version)


def enqueue_lanes(url: str, lanes: Mapping[str, str], *, version: str = VERSION) -> list[str]:
    """Ask for a session of each lane (lane → queue), unless one waits or goes on; return those that were asked for.

    All or none. UnreachableError if the database cannot be used, ConfigError if it has no tables for it.
    """
    return _enqueue(url, _LANE, {lane: lanes_queue(queue) for lane, queue in lanes.items()}, version)


def enqueue_run(url: str, run_id: str, queue: str, *, version: str = VERSION) -> None:
    """Ask for a session of a run, unless one waits or goes on. Raises as `enqueue_lanes`."""
    _enqueue(url, _RUN, {run_id: runs_queue(queue)}, version)


def _enqueue(url: str, name: str, wanted: Mapping[str, str], version: str) -> list[str]:
    with told(url), _linked(url) as link, link.transaction():
        link.rows(_LOCK)
        return _asked(link, name, wanted, version)


def _asked(link: Link, name: str, wanted: Mapping[str, str], version: str) -> list[str]:
    rows = link.rows(_ASK, name, _version_name(version), list(wanted), list(wanted.values()))
    return [str(key) for key, _ in rows]


def _version_name(version: str) -> str:
    return f"{_NAME}-{version}"  # versions are of the whole schema, which another application may share


@contextmanager
def _linked(url: str) -> Iterator[Link]:
    link = Link(url, statement_s=_STATEMENT_S)
    try:
        yield link
    except NoSchemaError:
        raise ConfigError(_no_tables(link.words)) from None
    finally:
        link.close()


def _no_tables(words: str) -> str:
    return (
        f"database {words}: has no tables of dbos, which workers need; its owner makes them: {_INSTALL}, then "
        f"{_MIGRATE}"
    )


# ---- mending -------------------------------------------------------------------------------------------------------


def mend(
    url: str,
    lanes: Mapping[str, str],
    runs: Mapping[str, str],
    me: str,
    *,
    mine: Collection[str] | None = None,
    version: str = VERSION,
) -> list[str]:
    """Get a session for lanes and runs of which nothing is heard (name → queue); return what was done, in words.

    One that is PENDING with another worker than `me` waits in its queue again, unless it was taken `FRESH_S` ago or
    later; where none exists, one is asked for. Several workers may do this at once. `mine`: names of the sessions that
    go on here (`Dispatcher.running`); one that is PENDING with `me` and not among them is lost, too, such as one taken
    in a transaction whose commit was never confirmed. None: all that are PENDING with `me` go on.

    Rows of sessions that ended `KEPT_S` ago are removed, every ten minutes, so call it without names as well.
    LostError if the database does not answer; ConfigError if it has no tables for it.
    """
    kinds = (
        (_LANE, {lane: lanes_queue(at) for lane, at in lanes.items()}),
        (_RUN, {k: runs_queue(v) for k, v in runs.items()}),
    )
    done: list[str] = []
    is_due = time.monotonic() - _TIDIED.get(url, -_TIDY_S) >= _TIDY_S
    if not (lanes or runs or is_due):
        return done
    with _linked(url) as link:
        with link.transaction():
            link.rows(_LOCK)
            for name, wanted in kinds:
                done += _mended(link, name, wanted, me, mine, _version_name(version), version) if wanted else []
        if is_due:
            _TIDIED[url] = time.monotonic()
            _tidied(link, KEPT_S)
    return done


def _mended(
    link: Link, name: str, wanted: Mapping[str, str], me: str, mine: Collection[str] | None, named: str, version: str
) -> Iterator[str]:
    keys, queues = list(wanted), list(wanted.values())
    known = None if mine is None else list(mine)
    for key, executor in link.rows(_BACK, named, keys, queues, name, int(FRESH_S * 1000), me, known):
        whose = "was lost here" if executor == me else f"was with {executor}, of which nothing is heard"
        yield f"{name} {key}: its session {whose}; it waits for a worker again"
    for (key,) in link.rows(_ADOPT, named, keys, queues, name, named, int(_FOREIGN_S * 1000)):
        yield f"{name} {key}: its session waited for a worker of another version; it waits for one of this one now"
    for key in _asked(link, name, wanted, version):
        yield f"{name} {key}: had no session; one is asked for"


def tidy(url: str, *, kept_s: float = KEPT_S) -> int:
    """Remove the rows of sessions that ended `kept_s` seconds ago or earlier; return how many. `mend` does it too."""
    with _linked(url) as link:
        return _tidied(link, kept_s)


def _tidied(link: Link, kept_s: float) -> int:
    return int(link.rows(_TIDY, [_LANE, _RUN], int(kept_s * 1000))[0][0])


# ---- the tables ----------------------------------------------------------------------------------------------------


def is_installed() -> bool:
    """Return whether dbos is installed here. It is not imported for that."""
    return find_spec("dbos") is not None


def migrate_dispatch(url: str) -> None:
    """Make DBOS' tables, or bring them to the version of the dbos that is installed; let acctops_worker use them.

    For the owner of the database, once acctops' own tables are made. A worker's role can read and change rows there,
    and make nothing. ConfigError if the role may not, or if dbos is not installed.
    """
    _import()
    from dbos._serialization import DefaultSerializer
    from dbos._sys_db import SystemDatabase  # DBOS.migrate takes a URL only, and not each that libpq takes
    from sqlalchemy.exc import SQLAlchemyError

    with told(url), _linked(url) as link:
        link.rows("select 1")  # whatever prevents a connection is said in the usual words
        engine = _engine_of(url, 2)
        try:
            SystemDatabase.create(
                system_database_url=_UNUSED_URL,
                engine_kwargs={},
                engine=engine,
                schema="dbos",
                serializer=DefaultSerializer(),
                executor_id=None,
            ).run_migrations()
        except SQLAlchemyError as error:
            raise ConfigError(
                f"database {link.words}: the tables of dbos cannot be made: {type(error).__name__}; let the owner of "
                "the database, and of its schema dbos, if there is one, do it"
            ) from None
        finally:
            engine.dispose()
        link.script(_GRANTS)


_GRANTS = (
    "revoke create on schema dbos from acctops_worker, public;"
    "grant usage on schema dbos to acctops_worker, acctops_reader;"
    "grant select, insert, update, delete on all tables in schema dbos to acctops_worker;"
    "revoke insert, update, delete on dbos.dbos_migrations from acctops_worker;"
    "grant select on dbos.dbos_migrations to acctops_reader;"
    "grant usage, select on all sequences in schema dbos to acctops_worker;"
    "grant execute on all functions in schema dbos to acctops_worker"
)
_UNUSED_URL = "postgresql://unused/unused"
"""DBOS wants one beside an engine, and does not use it."""


def check_dispatch(url: str) -> str | None:
    """Return why workers cannot work with a database, in words; None if its tables of dbos are there and new enough.

    UnreachableError if the database cannot be used.
    """
    with told(url):
        link = Link(url, statement_s=_STATEMENT_S)
        try:
            rows = link.rows("select version from dbos.dbos_migrations")
        except NoSchemaError:
            return _no_tables(link.words)
        except ConfigError as error:
            return str(error)
        finally:
            link.close()
    try:
        _import()
    except ConfigError as error:
        return str(error)
    from dbos._migration import get_dbos_migrations

    found, needed = int(rows[0][0]) if rows else 0, len(get_dbos_migrations("dbos", True, False))
    if found < needed:
        return (
            f"database {link.words}: its tables of dbos have version {found}, and the dbos that is installed here "
            f"needs {needed}; their owner migrates them: {_MIGRATE}"
        )
    return None  # newer tables serve an older dbos


def _import() -> type[DBOS]:
    try:
        from dbos import DBOS
    except ImportError as error:
        raise ConfigError(f"workers need dbos, which cannot be loaded here ({error}): {_INSTALL}") from error
    for noisy in ("sqlalchemy", "psycopg", "dbos"):
        logger = logging.getLogger(noisy)
        if not logger.handlers:  # without one, Python prints their warnings, with tracebacks, to standard error
            logger.addHandler(logging.NullHandler())
        logger.propagate = False
    return DBOS


def _engine_of(url: str, connections: int) -> sqlalchemy.Engine:
    """Return a pool of connections that libpq makes from our URL itself: service files, PGPASSFILE, TLS as anywhere."""
    import sqlalchemy

    return sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: opened(url),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
    )


# ---- carrying out --------------------------------------------------------------------------------------------------


class SessionFailedError(Exception):
    """What DBOS keeps of a session that failed: the kind of error, and nothing that may be a secret."""


class Dispatcher:
    """Carries out lane sessions and run sessions that others have asked for, on this process's loop.

    One a process at a time. `name` is the worker's, and unique a process start: by it others see whose a session is.
    `lanes` and `runs` carry out one session each, of the lane or run they are given; None: no run sessions here.
    `queues`: identities whose sessions are taken. `most_lanes`: lane sessions at once, of all queues together; two
    queues that are looked at in the same moment may take one another's last places. Runs are not counted. Nobody takes
    all at once: each look takes at most as many sessions as go on, or four, so that workers share what waits.
    `version`: as `VERSION`. `say`: told on the loop what of DBOS is worth a person's attention, in words, each at most
    once a minute; None: nobody is.

    A session that raises is over, and can be asked for again at once. What it raised is not kept: DBOS would write it
    into the database. Nothing here depends on `atexit`: a process may leave by `os._exit` at any time.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        lanes: Callable[[str], Awaitable[None]],
        runs: Callable[[str], Awaitable[None]] | None,
        queues: Sequence[str],
        most_lanes: int,
        version: str = VERSION,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._url, self._name, self._version = url, name, version
        self._lanes, self._runs = lanes, runs
        self._lane_queues = [lanes_queue(queue) for queue in queues]
        self._run_queues = [runs_queue(queue) for queue in queues] if runs is not None else []
        self._most_lanes = most_lanes
        self._say = say
        self._said: dict[str, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dbos: type[DBOS] | None = None
        self._engine: sqlalchemy.Engine | None = None
        self._handler: _Words | None = None
        self._queues: dict[str, Any] = {}  # Any: DBOS' own Queue, whose limit is changed as sessions come and go
        self._heard: set[str] = set()
        """The queues whose sessions are taken now."""
        self._registry: Any = None  # Any: DBOS' own, of workflows and queues
        self._going: dict[str, tuple[str, str]] = {}
        """Mark of a session → its lane or run, and its queue."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_draining = False

    @property
    def running(self) -> frozenset[str]:
        """Names of the lanes and runs whose sessions go on here."""
        return frozenset(key for key, _ in self._going.values())

    async def start(self) -> None:
        """Begin to take sessions.

        They are awaited on the loop that calls this. DBOS has a loop and threads of its own beside it, so that neither
        waits for the other. ConfigError if the database has no tables for it, UnreachableError if it cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._launch)

    def listen(self, queues: Collection[str]) -> None:
        """Take sessions of these identities, and of no others, from about a second from now on.

        For a worker that learns late whose its keys are, or whose keys are replaced. What goes on is not touched.
        """
        if self._dbos is None or self._is_draining:
            return
        lanes = [lanes_queue(queue) for queue in queues]
        runs = [runs_queue(queue) for queue in queues] if self._runs is not None else []
        if self._heard == {*lanes, *runs}:
            return
        self._heard = {*lanes, *runs}
        self._lane_queues += [name for name in lanes if name not in self._queues]
        self._open_queues([name for name in (*lanes, *runs) if name not in self._queues])

    async def ask(self, lanes: Mapping[str, str]) -> list[str]:
        """As `enqueue_lanes`, off the loop; returns in words what was asked for."""
        found = await asyncio.to_thread(enqueue_lanes, self._url, lanes, version=self._version)
        return [f"lane {lane}: a session is asked for" for lane in found]

    async def mend(self, lanes: Mapping[str, str], runs: Mapping[str, str]) -> list[str]:
        """As the function `mend`, for this worker, off the loop."""
        return await asyncio.to_thread(
            mend, self._url, lanes, runs, self._name, mine=self.running, version=self._version
        )

    async def drain(self) -> None:
        """Take no new session; return once none goes on here.

        Whoever calls has told the sessions to end. One that DBOS takes in this very moment is given back unopened.
        """
        self._is_draining = True
        self._limit()
        await self._idle.wait()
        await asyncio.to_thread(self._wait_noted)

    async def stop(self) -> None:
        """End DBOS, without waiting for sessions: those that go on do so, and others take them once they are silent.

        Takes some seconds if the database does not answer. Threads of DBOS that cannot write the end of a session then
        live on, and hold up the end of the process: leave by `os._exit`.
        """
        self._is_draining = True
        await asyncio.to_thread(self._end)

    # ---- on threads of their own

    def _launch(self) -> None:
        if (problem := check_dispatch(self._url)) is not None:
            raise ConfigError(problem)
        self._dbos = _import()
        self._handler = _Words(self._tell)
        logging.getLogger("dbos").addHandler(self._handler)
        self._engine = _engine_of(self._url, _CONNECTIONS)
        try:
            self._compose(self._dbos)
            self._dbos.launch()
        except (AttributeError, TypeError) as error:
            self._end()
            raise ConfigError(
                f"the dbos that is installed here is none that this acctops knows ({error}): {_INSTALL}"
            ) from error
        except Exception as error:  # noqa: BLE001 - DBOS' own, SQLAlchemy's, psycopg's
            self._end()
            raise UnreachableError(
                f"the dispatcher cannot begin: {type(error).__name__}; look at the database, then try again"
            ) from None

    def _compose(self, dbos: type[DBOS]) -> None:
        instance = dbos(
            config={
                "name": _NAME,
                "system_database_engine": self._engine,
                "executor_id": self._name,
                "application_version": _version_name(self._version),
                "log_level": "WARNING",
                "run_migrations": False,
                "use_listen_notify": False,  # it is for messages between workflows, which we have none of
                "max_executor_threads": _THREADS,
            }
        )

        # No attempt is the last one: a lane may be taken over any number of times.
        @dbos.workflow(name=_LANE, max_recovery_attempts=None)
        async def lane(key: str, queue: str) -> None:
            await self._carried(_LANE, self._lanes, key, queue)

        if self._runs is not None:
            runs = self._runs

            @dbos.workflow(name=_RUN, max_recovery_attempts=None)
            async def run(key: str, queue: str) -> None:
                await self._carried(_RUN, runs, key, queue)

        self._registry = instance._registry
        self._heard = {*self._lane_queues, *self._run_queues}
        self._open_queues(self._heard)

    def _open_queues(self, names: Collection[str]) -> None:
        # Queues of this process alone. Those of `register_queue` are rows that all workers share, and so is their
        # `worker_concurrency`: it would be that of the worker who came last. DBOS looks for new ones each second.
        for name in names:
            self._queues[name] = self._registry._register_internal_queue(name, polling_interval_sec=POLL_S)
        self._limit()

    def _end(self) -> None:
        if self._dbos is not None:
            self._dbos.destroy(destroy_registry=True)
            self._dbos = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        if self._handler is not None:
            logging.getLogger("dbos").removeHandler(self._handler)
            self._handler = None

    def _wait_noted(self) -> None:
        """Wait until DBOS has noted all ends; what is not noted is mended by others."""
        until = time.monotonic() + _NOTED_S
        with suppress(LostError, ConfigError), _linked(self._url) as link:
            while time.monotonic() < until and link.rows(_MINE, self._name)[0][0]:
                time.sleep(0.05)

    def _give_back(self, session: str) -> None:
        with suppress(LostError, ConfigError), _linked(self._url) as link:
            link.rows(_GIVE_BACK, session, self._name)

    # ---- on DBOS' loop

    async def _carried(self, name: str, work: Callable[[str], Awaitable[None]], key: str, queue: str) -> None:
        assert self._loop is not None
        assert self._dbos is not None
        session = self._session(f"{name} {key}", work, key, queue, str(self._dbos.workflow_id))
        try:
            future = asyncio.run_coroutine_threadsafe(session, self._loop)
        except RuntimeError:  # the loop is closed
            session.close()
            raise
        # Shielded: DBOS' end cancels what waits here, and not the session itself.
        await asyncio.shield(asyncio.wrap_future(future))

    # ---- on the loop

    async def _session(
        self, words: str, work: Callable[[str], Awaitable[None]], key: str, queue: str, session: str
    ) -> None:
        if self._is_draining:
            await asyncio.to_thread(self._give_back, session)
            return
        mark = f"{session} {time.monotonic_ns()}"  # a session that was taken from us can come back to us
        self._going[mark] = key, queue
        self._idle.clear()
        self._limit()
        try:
            await work(key)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and stays out of the database
            self._tell(f"the session of {words} failed: {type(error).__name__}")
            raise SessionFailedError(type(error).__name__) from None
        finally:
            del self._going[mark]
            self._limit()
            if not self._going:
                self._idle.set()

    def _limit(self) -> None:
        """Say how many sessions DBOS may have of each queue. It counts those of a queue, we those of all."""
        going = Counter(queue for _, queue in self._going.values())
        free = self._most_lanes - sum(going[name] for name in self._lane_queues)
        for name, queue in self._queues.items():
            more = max(_FIRST, going[name])
            if name in self._lane_queues:
                more = max(0, min(more, free))
            is_heard = name in self._heard and not self._is_draining
            queue._worker_concurrency = going[name] + more if is_heard else 0

    def _tell(self, words: str) -> None:
        """Tell a person, from any thread."""
        now = time.monotonic()
        if self._say is None or self._loop is None or now - self._said.get(words, -_SAID_S) < _SAID_S:
            return
        self._said[words] = now
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._say, words)


class _Words(logging.Handler):
    """Makes one sentence of all that DBOS says of a database that does not answer, and passes on nothing else.

    Its messages repeat what libpq says, with the names of roles, and whole statements.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it."""
        said = record.getMessage()
        if any(sign in said for sign in ("OperationalError", "Database connection failed", "pool exhausted")):
            self._tell("the dispatcher's database does not answer; it goes on asking")
