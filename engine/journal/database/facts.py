"""What `doctor` wants to know of a database."""

from __future__ import annotations

import time

from msgspec import Struct

from engine.journal.database.link import link_to, told
from engine.journal.database.versions import OLDEST, check_version

_FACTS = (
    "select extract(epoch from clock_timestamp())::float8, pg_is_in_recovery(), "
    "(select rolsuper from pg_catalog.pg_roles where rolname = session_user), "
    "current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'), "
    "current_setting('synchronous_standby_names'), "
    "(select count(*) from pg_catalog.pg_stat_replication), "
    "(select pg_catalog.pg_has_role(session_user, nspowner, 'member') from pg_catalog.pg_namespace "
    "where nspname = 'acctops'), "
    "has_function_privilege('acctops.append(text[],int[],bigint[],bigint[],text[],bigint[],text[],bytea[])', 'execute')"
)


class Facts(Struct, frozen=True, kw_only=True):
    """A database, its server, and the role that we have there."""

    place: str
    version: int
    """As the server numbers it: 150004 is 15.4."""
    is_old: bool
    is_encrypted: bool
    address: str
    """Of the server; a path for a socket."""
    ahead_s: float
    """Seconds by which its clock is ahead of ours."""
    round_trip_s: float
    is_standby: bool
    is_superuser: bool
    is_owner: bool
    may_write: bool
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    has_sync_standby: bool
    standbys: int
    """Standbys that this role can see."""


def facts_of(url: str) -> Facts:
    """Return what a database says of itself; ConfigError or UnreachableError if it cannot be asked."""
    check_version(url)
    link = link_to(url)
    with told(url):
        said = link.facts
        asked_at, began = time.time(), time.monotonic()
        row = link.rows(_FACTS)[0]
        took = time.monotonic() - began
    at, is_standby, is_superuser, fsync, pages, commit, names, standbys, is_owner, may_write = row
    return Facts(
        place=link.words,
        version=said["version"],
        is_old=said["version"] < OLDEST[1],
        is_encrypted=said["encrypted"],
        address=str(said["address"] or ""),
        ahead_s=at - asked_at - took / 2,
        round_trip_s=took,
        is_standby=is_standby,
        is_superuser=is_superuser,
        is_owner=is_owner,
        may_write=may_write,
        fsync=fsync == "on",
        full_page_writes=pages == "on",
        synchronous_commit=commit,
        has_sync_standby=bool(names),
        standbys=standbys,
    )
