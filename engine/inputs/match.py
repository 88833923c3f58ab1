"""A match: which instances and accounts a job means, as a question instead of a list. No I/O.

Takes rows of DescribeDBInstances and readings, and returns targets and what was left out. It names what a match asks
for and could not be looked at (`unseen`), and every instance that only its type or status keeps out (`skipped`), so
that each account that should have been found is either a target or named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import translate
from functools import cache
from typing import Any

from msgspec import Struct

from engine.api import names
from engine.api.actions import LOCKED
from engine.model import AccountState, Call, Omit, OmitReason, Place, Reading, Target, Where
from engine.outside.foreign import field_of

ANY = "any"
"""As a status or type: each status or type is meant."""
REPLICAS = ("readonly", "guard")
"""Instance types that are skipped unless named: their roles come from the primary (inferred)."""
RUNNING = "running"
"""The one status in which writes are known to work."""
EVERY_ACCOUNT = "*"
"""As the user of an omit: the omit is about a whole instance, or (as its instance, too) about a whole region."""
_IDS_SHOWN = 5
MOST_IDS = 100
"""Instance ids in one filter; no limit is documented, so this is the length of a page."""


class Pattern(Struct, frozen=True):
    """A text with `*`, `?`, `[abc]`; case counts, so that it takes exactly what the operator wrote."""

    text: str

    def matches(self, value: str) -> bool:
        """Return whether the pattern matches the whole of `value`."""
        return _compiled(self.text).match(value) is not None

    @property
    def literal(self) -> str:
        """The longest part without wildcards, which every matching name contains; empty if there is none."""
        return max(re.split(r"[*?]|\[[^\]]*\]?", self.text), key=len)


@cache
def _compiled(text: str) -> re.Pattern[str]:
    """Return a pattern, compiled; cached, as it is compared with every instance or account."""
    return re.compile(translate(text))


class Tag(Struct, frozen=True):
    """A tag an instance must have: its key, and one of the values if there are any."""

    key: str
    values: tuple[str, ...] = ()


class InstanceMatch(Struct, frozen=True, kw_only=True):
    """Which instances a match means. An empty field narrows nothing, except `statuses` and `types`."""

    ids: tuple[str, ...] = ()
    names: tuple[Pattern, ...] = ()
    tags: tuple[Tag, ...] = ()
    """Tags that an instance must have, all of them."""
    statuses: tuple[str, ...] = ()
    """Empty: only running instances."""
    types: tuple[str, ...] = ()
    """Empty: any type but `REPLICAS`."""
    versions: tuple[str, ...] = ()
    """Major versions, such as 16."""


class UserMatch(Struct, frozen=True, kw_only=True):
    """Which accounts of these instances a match means. An empty field or None narrows nothing."""

    globs: tuple[Pattern, ...] = ()
    types: tuple[str, ...] = ()
    cam: bool | None = None
    locked: bool | None = None
    without: tuple[Pattern, ...] = ()


class Match(Struct, frozen=True, kw_only=True):
    """One `match` of a job."""

    place: Place
    at: int
    """How many targets the job names before this match: the match's own are inserted there."""
    regions: tuple[str, ...] | None
    """None: every region the product has."""
    users: UserMatch
    accounts: tuple[str, ...] = ("",)
    """Cloud accounts to look in."""
    instances: InstanceMatch = InstanceMatch()
    allow_empty: bool = False
    """Whether the match may find nothing, as the work may be done already."""

    def may_mean(self, call: Call) -> bool:
        """Return whether the match may mean the account of a call, as far as names alone tell."""
        of, who = self.instances, self.users
        return (
            call.account in self.accounts
            and (self.regions is None or call.region in self.regions)
            and (not of.ids or call.instance in of.ids)
            and (not who.globs or any(pattern.matches(call.user) for pattern in who.globs))
            and not any(pattern.matches(call.user) for pattern in who.without)
        )

    def words(self) -> str:
        """Return the match in a line for plan and journal: `regions ap-tokyo; instances name prod-*; users app_*`."""
        of, who = self.instances, self.users
        more = f"|… ({len(of.ids):,} ids)" if len(of.ids) > _IDS_SHOWN else ""
        instances = [
            *((f"id {'|'.join(of.ids[:_IDS_SHOWN])}{more}",) if of.ids else ()),
            *(f"name {pattern.text}" for pattern in of.names),
            *(f"tag {tag.key}" + (f"={'|'.join(tag.values)}" if tag.values else "") for tag in of.tags),
            f"status {'|'.join(of.statuses) or RUNNING}",
            *((f"type {'|'.join(of.types)}",) if of.types else ()),
            *((f"version {'|'.join(of.versions)}",) if of.versions else ()),
        ]
        users = [
            *(pattern.text for pattern in who.globs),
            *((f"type {'|'.join(who.types)}",) if who.types else ()),
            *((f"cam {'on' if who.cam else 'off'}",) if who.cam is not None else ()),
            *(("locked" if who.locked else "not locked",) if who.locked is not None else ()),
            *(f"not {pattern.text}" for pattern in who.without),
        ]
        regions = "all" if self.regions is None else ", ".join(self.regions)
        whose = f"accounts {', '.join(self.accounts)}; " if self.accounts != ("",) else ""
        return f"{whose}regions {regions}; instances {', '.join(instances)}; users {', '.join(users)}"


class InstanceRow(Struct, frozen=True, gc=False):
    """One row of DescribeDBInstances (D-ACCTS), and where it was found."""

    id: str
    region: str
    name: str = ""
    status: str = ""
    type: str = ""
    version: str = ""
    """DBMajorVersion."""
    tags: tuple[tuple[str, str], ...] = ()
    account: str = ""
    """Cloud account it belongs to; empty: the account of the keys."""

    @property
    def where(self) -> Where:
        """The instance as the key of its reading."""
        return Where(self.account, self.region, self.id)


def instance_row(data: object, region: str, account: str = "") -> InstanceRow | None:
    """Return a row of the API as a value; None if its shape is not the documented one, or its id is not legal."""
    if not isinstance(data, dict) or not isinstance(data.get("DBInstanceId"), str):
        return None
    if names.instance_problem(data["DBInstanceId"]) is not None:
        return None

    tags = data.get("TagList")
    listed = tags if isinstance(tags, list) else []
    pairs = [(tag.get("TagKey"), tag.get("TagValue")) for tag in listed if isinstance(tag, dict)]
    return InstanceRow(
        id=data["DBInstanceId"],
        region=region,
        name=field_of(data.get("DBInstanceName")),
        status=field_of(data.get("DBInstanceStatus")),
        type=field_of(data.get("DBInstanceType")),
        version=field_of(data.get("DBMajorVersion")),
        tags=tuple((str(key), str(value)) for key, value in pairs if key is not None),
        account=account,
    )


# ---- what to ask the server ----------------------------------------------------------------------------------------


def listing_filters(of: InstanceMatch) -> list[list[dict[str, Any]]]:
    """Return the `Filters` of DescribeDBInstances, listing by listing, that together show each instance `of` may mean.

    The server narrows the list as it documents (filters are ANDed, the values of one ORed); `choose` decides. The
    server compares names "fuzzily", so a literal part of the pattern is asked for. Any: JSON.
    """
    shared: list[dict[str, Any]] = []
    literals = [pattern.literal for pattern in of.names]
    if literals and all(literals):
        shared.append({"Name": "db-instance-name", "Values": sorted(set(literals))})
    if of.tags:  # one tag narrows enough; no page describes two filters of one name
        shared.append({"Name": "db-tag-key", "Values": [of.tags[0].key]})
    ids = list(dict.fromkeys(of.ids))
    chunks = [ids[first : first + MOST_IDS] for first in range(0, len(ids), MOST_IDS)]
    return [[{"Name": "db-instance-id", "Values": chunk}, *shared] for chunk in chunks] or [shared]


# ---- instances -----------------------------------------------------------------------------------------------------


def choose(match: Match, rows: Iterable[InstanceRow]) -> tuple[list[InstanceRow], list[Omit]]:
    """Return the instances a match means, in the order of `rows`, and those that only type or status keeps out."""
    chosen, skipped = [], []
    for row in rows:
        if not _is_meant(match.instances, row):
            continue
        why = _kept_out(match.instances, row)
        if why is None:
            chosen.append(row)
        else:
            skipped.append(_omit(match, row.region, row.id, EVERY_ACCOUNT, OmitReason.SKIPPED, why, row.account))
    return chosen, skipped


def missing_ids(match: Match, rows: Iterable[InstanceRow], regions: Sequence[str]) -> list[Omit]:
    """Return an omit for each instance that a match names by id and no listing shows."""
    found = {row.id for row in rows}
    where = ", ".join(regions) if len(regions) <= 3 else f"{len(regions)} regions"
    region = regions[0] if len(regions) == 1 else ""
    return [
        _omit(match, region, name, EVERY_ACCOUNT, OmitReason.UNSEEN, f"no instance {name} in {where}")
        for name in dict.fromkeys(match.instances.ids)
        if name not in found
    ]


def unlisted(match: Match, account: str, region: str, why: str) -> Omit:
    """Return the omit of a region whose instances could not be listed, or not to the end."""
    whose = f"{account}'s instances" if account else "instances"
    why = f"{whose} of {region}: {why}"
    return _omit(match, region, EVERY_ACCOUNT, EVERY_ACCOUNT, OmitReason.UNSEEN, why, account)


def _is_meant(of: InstanceMatch, row: InstanceRow) -> bool:
    return (
        (not of.ids or row.id in of.ids)
        and (not of.names or any(pattern.matches(row.name) for pattern in of.names))
        and all(_has_tag(row, tag) for tag in of.tags)
        and (not of.versions or row.version in of.versions)
    )


def _has_tag(row: InstanceRow, tag: Tag) -> bool:
    return any(key == tag.key and (not tag.values or value in tag.values) for key, value in row.tags)


def _kept_out(of: InstanceMatch, row: InstanceRow) -> str | None:
    if row.type in REPLICAS if not of.types else row.type not in of.types and ANY not in of.types:
        return f"type {row.type or 'not shown'}"
    if row.status not in (of.statuses or (RUNNING,)) and ANY not in of.statuses:
        return f"status {row.status or 'not shown'}"
    return None


# ---- accounts ------------------------------------------------------------------------------------------------------


def accounts_of(match: Match, row: InstanceRow, reading: Reading | None) -> Iterator[Target | Omit]:
    """Yield a target for each account of a chosen instance that a match means, and an omit for what was not shown."""
    if reading is None or reading.accounts is None:
        why = f"its accounts could not be read: {reading.code}" if reading is not None else "its accounts were not read"
        yield _omit(match, row.region, row.id, EVERY_ACCOUNT, OmitReason.UNSEEN, why, row.account)
        return
    for state in reading.accounts.values():
        if not _is_named(match.users, state):
            continue
        if (problem := names.user_problem(state.user)) is not None:  # such as one with a blank inside
            yield _omit(match, row.region, row.id, EVERY_ACCOUNT, OmitReason.UNSEEN, problem, row.account)
        elif match.users.cam is not None and state.cam is None:
            why = "whether its CAM is on is not shown"
            yield _omit(match, row.region, row.id, state.user, OmitReason.SKIPPED, why, row.account)
        elif match.users.cam is None or state.cam is match.users.cam:
            place = match.place
            yield Target(row.id, state.user, row.region, row.account, place.file, place.line, place.column)
    if not reading.complete:
        why = f"the list of its accounts is not whole ({len(reading.accounts):,} shown)"
        yield _omit(match, row.region, row.id, EVERY_ACCOUNT, OmitReason.UNSEEN, why, row.account)


def _is_named(who: UserMatch, state: AccountState) -> bool:
    return (
        (not who.globs or any(pattern.matches(state.user) for pattern in who.globs))
        and not any(pattern.matches(state.user) for pattern in who.without)
        and (not who.types or state.user_type in who.types)
        and (who.locked is None or (state.status == LOCKED) is who.locked)
    )


def _omit(match: Match, region: str, instance: str, user: str, reason: OmitReason, why: str, account: str = "") -> Omit:
    place = match.place
    target = Target(instance, user, region, account, place.file, place.line, place.column)
    return Omit(target, reason, why, f"match at {place}")


# ---- a job with its matches answered -------------------------------------------------------------------------------


class Answered(Struct, frozen=True):
    """What one match found."""

    match: Match
    instances: int
    """Number of chosen instances, with or without accounts that are meant."""
    targets: list[Target]
    omits: list[Omit]


def answer(
    match: Match,
    rows: Sequence[InstanceRow],
    readings: Mapping[Where, Reading],
    omits: Iterable[Omit] = (),
) -> Answered:
    """Return what a match finds among the listed `rows`; `omits` is what the listing could not show."""
    chosen, skipped = choose(match, rows)
    found = [each for row in chosen for each in accounts_of(match, row, readings.get(row.where))]
    targets = [each for each in found if isinstance(each, Target)]
    return Answered(match, len(chosen), targets, [*omits, *skipped, *(e for e in found if isinstance(e, Omit))])


def spliced(listed: Sequence[Target], answers: Sequence[Answered]) -> list[Target]:
    """Return the job's targets in the order in which it names them, each match replaced by what it found."""
    targets: list[Target] = []
    done = 0
    for each in answers:
        targets += listed[done : each.match.at]
        targets += each.targets
        done = each.match.at
    targets += listed[done:]
    return targets
