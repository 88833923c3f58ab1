"""Hand a run over to the workers of its database: it is divided into shards, submitted, and followed.

A run is handed over if workers are there, or if its user leaves it to them (`--detach`). Otherwise the command works on
it by itself, as with files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct

from engine.cloud.clients import ask_whose, quota_owner
from engine.errors import ConfigError, CredentialsError, Reason, UsageError
from engine.journal import records
from engine.journal.shards import members
from engine.operations.events import Began, News, Warned
from engine.operations.following import Followed, ended_of, follow
from engine.operations.session import SessionEnd
from engine.planning.routes import Route, routes_of
from engine.planning.shards import divide, owner_of, owner_words

if TYPE_CHECKING:
    from engine.cloud.clients import Reach
    from engine.inputs.settings import Settings
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Board, Runs
    from engine.model import Call, RunId
    from engine.operations.carrying import Ended
    from engine.operations.session import Watch
    from engine.operations.terms import Terms

IDENTITY_S = 3.0
"""Seconds that a submit waits to learn whose the keys are: only a worker with keys of the same owner takes a lane."""


class Handing(Struct, frozen=True, kw_only=True):
    """What is needed to hand a run over."""

    board: Board
    lines: tuple[records.ShardLine, ...]
    """The shards of its plan."""


def check_detached(store: Runs) -> None:
    """Raise UsageError for `--detach` of a run that no worker can take."""
    if store.simulated:
        raise UsageError("--detach: a rehearsal runs in this process; leave the flag away")
    if store.database is None:
        raise UsageError("--detach leaves the run to workers, which need a database: add --database URL")


def is_for_workers(store: Runs, terms: Terms) -> Board | None:
    """Return where workers take runs from, if a new run of this command is handed over to them; else None."""
    board = store.board() if not store.simulated else None
    if board is None:
        return None
    if terms.now:
        if terms.detach:
            raise UsageError("--detach: workers keep the window of a run, and --now is for who stays; leave one away")
        return None  # the person who decided that is here
    if terms.detach:
        if not board.workers():
            terms.tell(
                Warned("no worker is there: nothing is sent until one is: acctops worker --database URL", always=True)
            )
        return board
    return board if any(worker.leads for worker in board.workers()) else None


def unserved(found: Handing) -> str:
    """Return in words whose keys no worker has, though calls wait for them; "" if each call has a worker. Blocks."""
    there = {owner for worker in found.board.workers() for owner in worker.queues}
    owners = [{owner_of(lane) for lane in line.lanes} for line in found.lines]
    lacking = {owner_words(owner) for each in owners if not each & there for owner in each}
    return " and ".join(sorted(lacking))


async def handing(
    board: Board, calls: Sequence[Call], waves: Sequence[int], settings: records.RunSettings, action: str, reach: Reach
) -> Handing:
    """Return the shards of a plan; `waves`: how many calls each wave has.

    CredentialsError for an account whose keys are not there: nobody could tell which lanes take its calls.
    """
    await ask_whose(reach, limit_s=IDENTITY_S)
    salt = await asyncio.to_thread(board.salt)
    routes = routes_of(calls, settings.access)
    lanes = {route: tuple(_lanes(route, action, reach, salt)) for route in routes.every}
    for route, names in lanes.items():
        if not names:
            raise CredentialsError(
                f"{route.account or 'the default account'}: no keys here that sign for it, so nobody knows which "
                "worker may; nothing was sent"
            )
    lines = []
    for part in divide(calls, routes, waves, lanes):
        route = routes.every[part.route]
        lines.append(
            records.ShardLine(
                no=part.no,
                wave=part.wave,
                account=route.account,
                endpoints=route.endpoints,
                lanes=lanes[route],
                calls=part.calls,
                instances=tuple((where.region, where.instance) for where in part.instances),
            )
        )
    return Handing(board=board, lines=tuple(lines))


def _lanes(route: Route, action: str, reach: Reach, salt: str) -> Iterator[str]:
    """Yield the names of the lanes that take the calls of a route."""
    seen = set()
    for signer in reach.keyring[route.account]:
        if not signer.has_keys:
            continue
        for endpoint in route.endpoints:
            name = lane_of(quota_owner(signer, salt), action, endpoint)
            if name not in seen:  # two profiles of one sub-account are one quota
                seen.add(name)
                yield name


def lane_of(owner: str, action: str, endpoint: str) -> str:
    """Return the name of a lane for workers: whose quota, of which action, through which access point."""
    return f"{owner}/{action}/{urlsplit(endpoint).netloc}"


async def hand_over(
    board: Board,
    run_id: RunId,
    since: int,
    terms: Terms,
    settings: Settings,
    watch: Watch | None,
    *,
    again: Mapping[int, Sequence[str]] | None = None,
) -> Ended:
    """Submit a run whose journal has its plan and its approval, and follow it to its end, unless it is detached.

    `since`: number of the last line of its chain 0; `again`: shards of a run that goes on, each with its lanes.
    """
    await asyncio.to_thread(board.submit, run_id, again or {})
    flags = terms.repeat(board.store)
    terms.tell(Began(run_id, board.store.place_of(run_id), flags))
    found = await asyncio.to_thread(board.store.replay, run_id)
    followed = Followed(board.tail(run_id), found.ledger, {0: (found.seq, found.head), **found.heads})
    if terms.detach:
        terms.tell(News(f"run {run_id} is left to the workers; how it stands: acctops status {run_id}{flags}"))
        return ended_of(board, followed, terms, settings, SessionEnd(Reason.OK), is_left=True)
    return await follow(board, run_id, followed, terms, settings, watch, since=since)


async def follow_to_end(board: Board, run_id: str, terms: Terms, settings: Settings, watch: Watch | None) -> Ended:
    """Follow a run that others have begun, to its end."""
    lead = await asyncio.to_thread(board.lead_of, run_id)
    found = await asyncio.to_thread(board.store.replay, run_id)
    followed = Followed(board.tail(run_id), found.ledger, {0: (found.seq, found.head), **found.heads})
    return await follow(board, run_id, followed, terms, settings, watch, since=lead.since)


def open_shards(ledger: Ledger) -> dict[int, Sequence[str]]:
    """Return the shards of a run that have open calls, each with the lanes that may take it."""
    wanted = members(ledger)
    numbers = {wanted[call.id] for call, entry, _ in ledger.outcomes() if not entry.settled}
    return {no: ledger.shards[no].lanes for no in sorted(numbers)}


def check_shards(ledger: Ledger, board: Board | None, terms: Terms) -> Board:
    """Return where the workers of a run with shards take it from; ConfigError if it lies where none are.

    UsageError for `--now`, which no worker goes by.
    """
    if terms.now and ledger.settings.window is not None:
        raise UsageError(
            f"--now: run {ledger.run.run} is divided among workers, which keep its window; nothing was sent; for what "
            f"is open now: acctops rerun {ledger.run.run} --now, which works in this process"
        )
    if board is None:
        raise ConfigError(
            f"run {ledger.run.run}: is divided among workers, and its database is not here: name it with --database URL"
        )
    return board
