"""The use cases of a database: its tables made, and the journal of a run written as files."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from engine import __version__
from engine.errors import AcctopsError, UsageError
from engine.journal.reader import verify
from engine.operations.stores import find
from engine.outside.databaseurls import url_problem
from engine.outside.trust import Trust
from engine.planning.shards import owner_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.journal.database.versions import Migrated
    from engine.operations.terms import Terms


def migrated(url: str) -> tuple[Migrated, bool]:
    """Bring the tables of a database to this version; return what was done, and whether workers can use it.

    They cannot where dbos is not installed here: its tables are made by itself. UsageError for no URL of a database.
    """
    if (problem := url_problem(url)) is not None:
        raise UsageError(f"--database: the URL {problem}")
    from engine.journal.database.dispatch import is_installed, migrate_dispatch
    from engine.journal.database.versions import migrate  # here: who has no database needs no psycopg

    done = migrate(url)
    if is_installed():
        migrate_dispatch(url)
    return done, is_installed()


def findings(url: str, state_dir: Path) -> Iterator[tuple[str, str]]:
    """Yield what `doctor` says of a database: `ok`, `warn` or `fail`, and words.

    `state_dir` has what this host has seen of it.
    """
    from engine.journal.database.facts import facts_of  # here: who has no database needs no psycopg

    try:
        found = facts_of(url)
    except AcctopsError as error:
        yield "fail", str(error)
        return
    version = f"{found.version // 10000}.{found.version % 10000}"
    if found.is_standby or not found.may_write:
        why = (
            "is a read-only standby; name the primary"
            if found.is_standby
            else ("this role may only look: grant acctops_worker to it")
        )
        yield "fail", f"{found.place}: {why}"
    else:
        yield "ok", f"{found.place}: PostgreSQL {version}, answers in {found.round_trip_s * 1000:.1f} ms"
    if found.is_old:
        yield "fail", f"PostgreSQL {version} is older than any that acctops was tried with (14)"
    if found.is_superuser or found.is_owner:
        what = "is a superuser" if found.is_superuser else "owns the tables"
        yield "warn", f"the role {what}, and could change what was recorded: use one with acctops_worker alone"
    if not found.is_encrypted and not found.address.startswith("/"):
        here = "; it goes to this machine alone" if _is_loopback(found.address) else ""
        yield "warn", f"the connection to {found.address} is not encrypted{here}: add ?sslmode=verify-full to the URL"
    if not (found.fsync and found.full_page_writes):
        off = "fsync" if not found.fsync else "full_page_writes"
        yield "warn", f"{off} is off: a crash of the server can lose what it has confirmed"
    if found.synchronous_commit not in ("on", "remote_apply"):
        yield (
            "warn",
            (
                f"synchronous_commit is {found.synchronous_commit}, as server or role insist: a crash can "
                "lose what it has confirmed"
            ),
        )
    if found.standbys and not found.has_sync_standby:
        yield (
            "warn",
            ("its standby is asynchronous: a failover can lose the last records; set synchronous_standby_names"),
        )
    if abs(found.ahead_s) > _CLOCK_S:
        side = "ahead of" if found.ahead_s > 0 else "behind"
        yield "warn", f"its clock is {abs(found.ahead_s):,.0f} s {side} this one; nothing depends on it but times shown"
    yield from _workers(url, state_dir)
    from engine.journal.database.dispatch import check_dispatch, is_installed

    if is_installed() and (problem := check_dispatch(url)) is not None:
        yield "warn", f"no worker can begin here: {problem}"


def _workers(url: str, state_dir: Path) -> Iterator[tuple[str, str]]:
    """Yield what `doctor` says of the workers of a database, and whether it is where it was made."""
    from engine.journal.database.runs import DatabaseRuns
    from engine.journal.database.shards import Shards

    try:
        home, workers = DatabaseRuns(url, state_dir, simulated=False, trust=Trust()).home(), Shards(url).workers()
    except AcctopsError as error:
        yield "fail", str(error)
        return
    if not home.is_here:
        yield (
            "warn",
            (
                f"it {home.why}; no worker begins there; if it is the one that counts from now on: acctops tend "
                "--adopt --database URL"
            ),
        )
    for worker in workers:
        whose = ", ".join(owner_words(owner) for owner in worker.queues)
        words = f"worker {worker.name}: acctops {worker.version}, up to {worker.lanes} lanes, for {whose or 'nobody'}"
        other = worker.version != __version__
        yield (
            "warn" if other else "ok",
            words + (f"; this command is of acctops {__version__}: have both the same" if other else ""),
        )


_CLOCK_S = 5.0


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


class Exported(Struct, frozen=True, kw_only=True):
    """A journal that was written as a file."""

    run_id: str
    path: Path
    lines: int
    head: str


def exported(terms: Terms, run: str, into: str) -> Exported:
    """Write the journal of a run, and what stands beside it, as files into a new directory below `into`; check them.

    They can be read and verified by their path, and not gone on with: the run stays where it is.
    """
    ref = find(terms, run)
    if ref.store is None:
        raise UsageError(f"{ref.place}: is a file already, and of no store")
    place = Path(into) / ref.run_id
    try:
        Path(into).mkdir(mode=0o700, parents=True, exist_ok=True)
        found = ref.store.copy(ref.run_id, place)
    except FileExistsError:
        raise UsageError(f"{place}: exists already; remove it, or name another directory") from None
    except OSError as error:
        raise UsageError(f"{error.filename or place}: cannot be written: {error.strerror}") from error
    checked = verify(found.journal)
    return Exported(run_id=ref.run_id, path=found.journal, lines=checked.lines, head=checked.head)
