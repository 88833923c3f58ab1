"""Answer the matches of a job: list the instances, read their accounts, and find the targets."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import replace

from engine import __version__
from engine.api.codes import NO_KEYS, row_of
from engine.api.endpoints import ACCESS_REGIONS
from engine.api.names import REGIONS
from engine.api.verdicts import before_a_run, rule
from engine.cloud.clients import Clients, Reach
from engine.cloud.inventory import Inventory
from engine.errors import CredentialsError, JobError, UnreachableError, UsageError
from engine.inputs import match
from engine.inputs.match import Answered, InstanceRow, Match
from engine.journal import records
from engine.model import Answer, Omit, OmitReason, Place, Verdict, Where
from engine.operations.events import Looking, Tell, Warned
from engine.operations.survey import READERS, Survey, read_all, refuse_bad_keys, transport_to
from engine.planning.discovery import Listing, list_instances, list_regions

if TYPE_CHECKING:
    from engine.inputs.job import Job
    from engine.inputs.settings import Settings
    from engine.simulator.world import World

_HEARTBEAT_S = 5.0
_SHOWN = 3


class Discovered(Struct, frozen=True, kw_only=True):
    """A job whose matches are answered."""

    job: Job
    """The job with the targets that its matches found in their place, and no match left to ask."""
    answers: tuple[Answered, ...] = ()
    rows: Mapping[Where, InstanceRow] = field(default_factory=dict)
    """Instances as listed."""
    found: Survey | None = None
    """Readings of the instances that were chosen. None: the job has no match."""
    warnings: tuple[str, ...] = ()

    @property
    def is_fine_without_calls(self) -> bool:
        """Whether the job allows that nothing is found: it has only matches, each with `allow_empty`."""
        listed = len(self.job.targets) - sum(len(each.targets) for each in self.answers)
        return bool(self.answers) and not listed and all(each.match.allow_empty for each in self.answers)

    def lines(self) -> list[records.Matched]:
        """Return the matches as the journal keeps them."""
        return [
            records.Matched(str(each.match.place), each.match.words(), each.instances, len(each.targets))
            for each in self.answers
        ]


def refuse_unlimited(job: Job, settings: Settings) -> None:
    """Raise UsageError for a match without `max_targets`, which may find any number of accounts: nobody confirms it."""
    if job.matches and settings.max_targets is None:
        raise UsageError(
            f"{job.matches[0].place}: a match with --yes needs a bound, as nobody sees what it found before it is "
            "sent; set limits: {max_targets: N} in the job or a config"
        )


def match_regions(job: Job) -> set[str]:
    """Return the regions in which a job's matches may look; for `regions: all` those that are documented."""
    everywhere = any(each.regions is None for each in job.matches)
    return {*job.regions, *(ACCESS_REGIONS if everywhere else ())}


async def discover(job: Job, settings: Settings, *, reach: Reach, world: World | None, tell: Tell) -> Discovered:
    """Answer the matches of a job, tell what is odd about them, and return the job with what they found.

    JobError if a match finds nothing and may not, CredentialsError if none may look.
    """
    if not job.matches:
        return Discovered(job=job)

    started = time.monotonic()
    async with transport_to(world, READERS, reach) as transport:
        clients = Clients(transport, reach, timeout_s=settings.timeout_s, request_client=f"acctops_{__version__};match")
        looking = _Looking(job, Inventory(clients.reading, rng=random.Random(), concurrency=READERS))
        beat = asyncio.create_task(_heartbeat(looking, tell))
        try:
            discovered = await looking.look()
        finally:
            beat.cancel()
        looking.found.offset_s = clients.offset_s
        looking.found.seconds = time.monotonic() - started
    for warning in discovered.warnings:
        tell(Warned(warning))
    _refuse_nothing(discovered)
    return discovered


class _Looking:
    """One search for all matches of a job: regions, then instances, then accounts. Each question is asked once."""

    def __init__(self, job: Job, inventory: Inventory) -> None:
        self._job = job
        self._inventory = inventory
        self._listings: dict[tuple[str, str, str], Listing] = {}
        """(Account, region, filters as JSON) → listing."""
        self.found = Survey()
        self.warnings: list[str] = []
        self.stage = "asking which regions there are"

    async def look(self) -> Discovered:
        regions = await self._regions()
        await self._list(regions)
        rows = {id(each): self._rows(each, regions[id(each)]) for each in self._job.matches}
        every = {row.where: row for listed in rows.values() for row in listed}
        _refuse_twins(self._job.matches[0].place, every)
        chosen = {row.where for each in self._job.matches for row in match.choose(each, rows[id(each)])[0]}
        self.found.late = [key for key in every if key in chosen]
        self.stage = f"reading the accounts of {len(chosen):,} instances"
        await read_all(self.found, self._inventory, None, "match")
        if self._is_all_of({where.account for where in self.found.readings}):
            refuse_bad_keys(self.found)
        answers = [
            match.answer(each, rows[id(each)], self.found.readings, self._unseen(each, rows[id(each)], regions))
            for each in self._job.matches
        ]
        omits = [omit for each in answers for omit in each.omits]
        job = replace(
            self._job,
            targets=match.spliced(self._job.targets, answers),
            matches=(),
            omits=(*self._job.omits, *omits),
        )
        return Discovered(job=job, answers=tuple(answers), rows=every, found=self.found, warnings=tuple(self.warnings))

    async def _regions(self) -> dict[int, tuple[str, ...]]:
        """Return the regions to look in, by the `id()` of each match."""
        every: tuple[str, ...] = ()
        if any(each.regions is None for each in self._job.matches):
            every = await self._every_region()
        return {id(each): each.regions if each.regions is not None else every for each in self._job.matches}

    async def _every_region(self) -> tuple[str, ...]:
        """Return the regions that any account of `regions: all` is told of; bad keys of one account hinder no other."""
        meant = [each for each in self._job.matches if each.regions is None]
        accounts = list(dict.fromkeys(account for each in meant for account in each.accounts))
        said = await asyncio.gather(*(list_regions(self._inventory, account=account) for account in accounts))
        refusals = [each for each in said if isinstance(each, Answer)]
        listed = tuple(dict.fromkeys(region for each in said if not isinstance(each, Answer) for region in each))
        if len(refusals) == len(said):
            if self._is_all_of(accounts):
                _refuse_fatal(list(zip(accounts, refusals, strict=True)))
            _refuse_unreachable(refusals)
            codes = ", ".join(sorted({str(refused.code) for refused in refusals}))
            self.warnings.append(f"regions: all: DescribeRegions says {codes}; the documented regions are taken")
            listed = REGIONS
        financial = [region for region in listed if region.endswith("-fsi")]
        if financial:
            names = ", ".join(financial)
            self.warnings.append(f"regions: all: without {names}, which are isolated; name them to look there, too")
        return tuple(region for region in listed if region not in financial)

    async def _list(self, regions: Mapping[int, tuple[str, ...]]) -> None:
        questions = {
            (account, region, json.dumps(filters)): filters
            for each in self._job.matches
            for account in each.accounts
            for region in regions[id(each)]
            for filters in match.listing_filters(each.instances)
        }
        count = len({region for _, region, _ in questions})
        self.stage = f"listing the instances of {count:,} region{'s' * (count != 1)}"

        async def ask(key: tuple[str, str, str], filters: Sequence[Mapping[str, Any]]) -> None:
            account, region, _ = key
            self._listings[key] = await list_instances(self._inventory, region, filters, account=account)

        async with asyncio.TaskGroup() as group:
            for key, filters in questions.items():
                group.create_task(ask(key, filters))
        refusals = [listing.refused for listing in self._listings.values()]
        is_all = self._is_all_of({account for account, _, _ in self._listings})
        if is_all:
            _refuse_fatal([(account, listing.refused) for (account, *_), listing in self._listings.items()])
        _refuse_unreachable(refusals)
        self._tell_refusals()
        if is_all and refusals and all(refused is not None and row_of(refused.code).is_denial for refused in refusals):
            codes = sorted({str(refused.code) for refused in refusals if refused is not None})
            raise CredentialsError(
                f"instances may not be listed with these keys (DescribeDBInstances: {', '.join(codes)}); allow it, or "
                "list the targets in the job; nothing was sent"
            )

    def _is_all_of(self, accounts: Iterable[str]) -> bool:
        """Whether these are all accounts of the job; if there is another, its part of the job is done without them."""
        asked = {account for each in self._job.matches for account in each.accounts}
        return {*asked, *(target.account for target in self._job.targets)}.issubset(accounts)

    def _tell_refusals(self) -> None:
        """Warn once of each code that refused an account's listings, in words, as a bare code helps nobody."""
        refused: dict[tuple[str, str], list[str]] = {}
        words: dict[tuple[str, str], str] = {}
        for (account, region, _), listing in self._listings.items():
            answer = listing.refused
            if answer is None or answer.code is None or answer.code == NO_KEYS:  # missing keys were told of before
                continue
            key = (account, answer.code)
            refused.setdefault(key, []).append(region)
            words.setdefault(key, _in_words(answer))
        for (account, code), regions in refused.items():
            whose = f"{account}'s instances" if account else "instances"
            where = ", ".join(dict.fromkeys(regions)) if len(regions) <= _SHOWN else f"{len(regions):,} regions"
            self.warnings.append(f"{whose} of {where} cannot be listed: {code}: {words[account, code]}")

    def _of(self, each: Match, account: str, region: str) -> list[Listing]:
        filters = map(json.dumps, match.listing_filters(each.instances))
        return [self._listings[account, region, said] for said in filters]

    def _rows(self, each: Match, regions: Iterable[str]) -> list[InstanceRow]:
        """Return the instances that a match may mean, each once, in the order of its regions."""
        rows: dict[Where, InstanceRow] = {}
        for account, region in product(each.accounts, regions):
            for listing in self._of(each, account, region):
                rows |= {row.where: row for row in listing.rows.values()}
        return list(rows.values())

    def _unseen(self, each: Match, rows: Sequence[InstanceRow], regions: Mapping[int, tuple[str, ...]]) -> list[Omit]:
        whys = {
            (account, region): listing.why
            for account, region in product(each.accounts, regions[id(each)])
            for listing in self._of(each, account, region)
            if listing.why is not None
        }
        omits = [match.unlisted(each, account, region, why) for (account, region), why in whys.items()]
        # An id counts as missing only if every region could be listed; else the region is what is unseen.
        return omits or match.missing_ids(each, rows, regions[id(each)])


def _refuse_fatal(asked: Sequence[tuple[str, Answer | None]]) -> None:
    """Raise CredentialsError if the keys of every account in `asked` (account, refusal) are refused."""
    refused = {account: answer for account, answer in asked if answer is not None}
    rulings = [rule("DescribeDBInstances", answer) for _, answer in asked if answer is not None]
    if not rulings or len(rulings) < len(asked) or any(ruling.verdict is not Verdict.FATAL for ruling in rulings):
        return
    said = []
    for account, answer in refused.items():
        said.append(f"{account + ': ' if account else ''}{answer.code}: {_in_words(answer)}")
    raise CredentialsError("; ".join((*said, "nothing was sent")))


def _in_words(answer: Answer) -> str:
    """Return what a refusal means and what to do about it, before there is a run."""
    ruling = rule("DescribeDBInstances", answer)
    request = f" (RequestId {answer.request_id})" if answer.request_id else ""
    return f"{ruling.words} {before_a_run(ruling.advice)}{request}"


def _refuse_twins(place: Place, rows: Iterable[Where]) -> None:
    """Raise JobError if two accounts list one instance: one has the other's keys, and its own instances stay unseen."""
    owners: dict[tuple[str, str], str] = {}
    twins: dict[tuple[str, str], str] = {}
    for where in rows:
        owner = owners.setdefault((where.region, where.instance), where.account)
        if owner != where.account:
            twins.setdefault((owner, where.account), f"{where.instance} ({where.region})")
    if twins:
        raise JobError(
            [
                f"{place}: {one} and {other} are one cloud account, or their keys are: both have {instance}; correct "
                "the keys of the wrong one (acctops doctor JOB says whose they are). Sub-accounts of one cloud account "
                "are one of the job: {name: …, profile: [ONE, OTHER]}"
                for (one, other), instance in twins.items()
            ]
        )


def _refuse_unreachable(answers: Sequence[Answer | None]) -> None:
    """Raise UnreachableError if no question reached the API: the network is at fault, not the match."""
    first = answers[0] if answers else None
    if first is not None and all(answer is not None and row_of(answer.code).not_sent for answer in answers):
        raise UnreachableError(
            f"cannot reach the API: {first.message or first.code} [{first.code}]; the match could not be asked, and "
            "nothing was sent; check network and endpoint (acctops doctor JOB), then run this again"
        )


def _refuse_nothing(discovered: Discovered) -> None:
    problems = []
    for each in discovered.answers:
        if each.targets:
            continue
        unseen = _examples(each.omits, OmitReason.UNSEEN)
        skipped = _examples(each.omits, OmitReason.SKIPPED)
        where = f"{each.match.place}: the match finds no account"
        if unseen and discovered.job.targets:  # the others are done, and what is unseen has failed
            continue
        if unseen:
            problems.append(f"{where}, and could not look everywhere: {unseen}; mend that, or what it asks")
        elif not each.match.allow_empty:
            on = (
                f" on {each.instances:,} instance{'s' * (each.instances != 1)}"
                if each.instances
                else ", and no instance it means"
            )
            left = f" (left out: {skipped})" if skipped else ""
            problems.append(f"{where}{on}{left}; look at what it asks, or write allow_empty: true if that may be")
    if problems:
        raise JobError(problems)


def _examples(omits: Sequence[Omit], reason: OmitReason) -> str:
    """Return in words the first targets that were left out for a reason."""
    meant = [omit for omit in omits if omit.reason == reason]
    shown = [
        omit.rule if omit.target.instance == match.EVERY_ACCOUNT else f"{omit.target.named}: {omit.rule}"
        for omit in meant[:_SHOWN]
    ]
    return ", ".join(shown) + (f" and {len(meant) - _SHOWN:,} more" if len(meant) > _SHOWN else "")


async def _heartbeat(looking: _Looking, tell: Tell) -> None:
    """Tell every few seconds how far the search is: thousands of instances take a while at the pace of reads."""
    while True:
        await asyncio.sleep(_HEARTBEAT_S)
        read = f", {len(looking.found.readings):,} done" if looking.found.readings else ""
        tell(Looking(f"match: {looking.stage}{read}"))
