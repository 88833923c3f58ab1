"""Which version the tables of a database have, and how they get to ours. Their owner migrates; all others only look."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import ConfigError
from engine.journal.database.link import Link, NoSchemaError, RefusesError, link_to, told

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 2
"""That of the newest file in `schema/`."""
OLDEST = (14, 140000)
WORKER, READER = "acctops_worker", "acctops_reader"
_LOCK = "select pg_advisory_xact_lock(720575940, 0)"
_CHECKED: set[str] = set()


class Migrated(Struct, frozen=True, kw_only=True):
    """What a migration did."""

    place: str
    before: int
    """Version before; 0: there were no tables."""
    after: int


def check_version(url: str) -> None:
    """Raise ConfigError if the tables are not of this version; once a process and database."""
    if url in _CHECKED:
        return
    link = link_to(url)
    with told(url):
        found = _version(link)
    if found == 0:
        raise NoSchemaError(
            f"database {link.words}: has no tables of acctops; its owner makes them: acctops database migrate "
            "--database URL"
        )
    if found < VERSION:
        raise ConfigError(
            f"database {link.words}: its tables have version {found}, and this acctops needs {VERSION}; its owner "
            "migrates them: acctops database migrate --database URL"
        )
    if found > VERSION:
        raise ConfigError(
            f"database {link.words}: its tables have version {found}, which a newer acctops made, and this one knows "
            f"{VERSION}; install that one here"
        )
    _CHECKED.add(url)


def _version(link: Link) -> int:
    if not link.rows("select 1 from pg_catalog.pg_namespace where nspname = 'acctops'")[0:]:
        return 0
    try:
        return int(link.rows("select coalesce(max(number), 0) from acctops.version")[0][0])
    except NoSchemaError:
        return 0


def migrate(url: str) -> Migrated:
    """Make the tables, or bring them to this version; ConfigError for one that is newer, or what the role may not."""
    link = Link(url)
    try:
        with told(url):
            number, words = link.facts["version"], OLDEST[0]
            if number < OLDEST[1]:
                raise ConfigError(
                    f"database {link.words}: is PostgreSQL {number // 10000}, and {words} is the oldest that does"
                )
            for role in (WORKER, READER):
                _make_role(link, role)
            with link.transaction():
                link.rows(_LOCK)
                before = _version(link)
                if before > VERSION:
                    raise ConfigError(
                        f"database {link.words}: its tables have version {before}, which a newer acctops made; "
                        f"this one knows {VERSION}, and changes nothing"
                    )
                if before < VERSION:
                    _bring_up(link, before)
    finally:
        link.close()
    _CHECKED.discard(url)
    return Migrated(place=link.words, before=before, after=VERSION)


def _make_role(link: Link, role: str) -> None:
    if link.rows("select 1 from pg_catalog.pg_roles where rolname = %s", role):
        return
    try:
        link.script(f"create role {role} nologin")
    except RefusesError as error:
        if link.rows("select 1 from pg_catalog.pg_roles where rolname = %s", role):  # another migration was quicker
            return
        raise ConfigError(
            f"database {link.words}: there is no role {role}, and this role may not make it; let an administrator say: "
            f"create role {WORKER} nologin; create role {READER} nologin;"
        ) from error


def _bring_up(link: Link, before: int) -> None:
    link.script(
        "create schema if not exists acctops; create table if not exists acctops.version (number int primary key, "
        "at timestamptz not null default clock_timestamp(), by text not null default session_user)"
    )
    for number, text in _files():
        if number > before:
            link.script(text)
            link.rows("insert into acctops.version (number) values (%s)", number)
    link.script(
        f"revoke all on all functions in schema acctops from public;"
        f"grant usage on schema acctops to {WORKER}, {READER};"
        f"grant select on all tables in schema acctops to {WORKER}, {READER};"
        f"grant execute on all functions in schema acctops to {WORKER};"
        f"grant execute on function acctops.silent_s(timestamptz), acctops.is_live(text, float8), "
        f"acctops.is_heard(text, float8), acctops.place() "
        f"to {READER}"
    )


def _files() -> Iterator[tuple[int, str]]:
    for path in sorted((Path(__file__).parent / "schema").glob("*.sql")):
        with suppress(ValueError):
            yield int(path.stem), path.read_text(encoding="utf-8")
