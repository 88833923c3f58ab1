"""Read the instances of a plan, a verify or an undo before anything is decided."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from msgspec import Struct, field

from engine import __version__
from engine.api.verdicts import before_a_run, rule
from engine.cloud.clients import Clients, Reach, ask_whose
from engine.cloud.inventory import Inventory
from engine.cloud.wire import Wire
from engine.errors import CredentialsError
from engine.model import Answer, Call, Reading, Verdict, Where
from engine.planning.outlook import is_no_instance

if TYPE_CHECKING:
    from engine.model import Transport
    from engine.simulator.world import World

READERS = 64
PLAN_S = 3.0
"""Seconds that planning waits for readings; late instances are read when the run has begun."""
GRACE_S = 0.5
"""Seconds that it waits longer to learn whose the keys are: the run finds out, too."""


class Survey(Struct, kw_only=True):
    """The readings of several instances."""

    readings: dict[Where, Reading] = field(default_factory=dict)
    late: list[Where] = field(default_factory=list)
    """Instances that were not read in time."""
    located: dict[Where, str] = field(default_factory=dict)
    """Instances that are not where the job says, and the region where they are."""
    seconds: float = 0.0
    offset_s: float = 0.0
    """Seconds by which the server's clock is ahead, if that was learnt."""
    ahead_s: tuple[float, ...] = ()
    """Seconds by which the server's clock was ahead of ours, by the `Date` of its answers; each access point's."""

    def words(self) -> str:
        """Return one line for a person."""
        read = [reading for reading in self.readings.values() if reading.accounts is not None]
        accounts = sum(len(reading.accounts or ()) for reading in read)
        text = (
            f"read {len(read):,} instance{'s' * (len(read) != 1)} ({accounts:,} account{'s' * (accounts != 1)}) "
            f"in {self.seconds:.1f} s"
        )
        unread = sorted({where.instance for where in self.late} | set(self._failed()))
        if unread:
            shown = ", ".join(unread[:5]) + (f" and {len(unread) - 5:,} more" if len(unread) > 5 else "")
            text += f"; not read: {shown}"
        return text

    def joined(self, more: Survey) -> Survey:
        """Return this together with what was read after it."""
        return Survey(
            readings={**self.readings, **more.readings},
            late=[*self.late, *more.late],
            located={**self.located, **more.located},
            seconds=self.seconds + more.seconds,
            offset_s=more.offset_s or self.offset_s,
            ahead_s=self.ahead_s + more.ahead_s,
        )

    def _failed(self) -> Iterator[str]:
        for where, reading in self.readings.items():
            if reading.accounts is None and not is_no_instance(reading):
                yield f"{where.instance} [{reading.code}]"


async def survey(
    calls: Iterable[Call],
    *,
    reach: Reach,
    timeout_s: float,
    world: World | None,
    limit_s: float | None,
    purpose: str,
    known: Survey | None = None,
    whole: bool = False,
) -> Survey:
    """Read every instance of `calls`, for at most `limit_s` seconds, and return the readings together with `known`.

    Each is read as far as its calls need, or `whole`, for a caller that must know of all accounts. CredentialsError if
    all readings say that the keys are refused. Meanwhile it is asked whose the keys are.
    """
    before = known or Survey()
    users: dict[Where, set[str]] = {}
    for call in calls:
        users.setdefault(call.where, set()).add(call.user)
    found = Survey(late=list(users))
    started = time.monotonic()
    async with transport_to(world, READERS, reach) as transport:
        asking = asyncio.ensure_future(ask_whose(reach, limit_s=PLAN_S))
        try:
            clients = Clients(transport, reach, timeout_s=timeout_s, request_client=f"acctops_{__version__};{purpose}")
            inventory = Inventory(clients.reading, rng=random.Random(), concurrency=READERS)
            await read_all(found, inventory, limit_s, purpose, None if whole else users)
            refuse_bad_keys(before.joined(found))
            await _locate(found, inventory, limit_s)
            found.offset_s, found.ahead_s = clients.offset_s, clients.ahead_s
            await asyncio.wait({asking}, timeout=GRACE_S)
        finally:
            asking.cancel()
    found.seconds = time.monotonic() - started
    return before.joined(found)


@asynccontextmanager
async def transport_to(world: World | None, connections: int, reach: Reach) -> AsyncIterator[Transport]:
    """Yield a transport to the simulated `world`, or to the network: by the command's wire, or by one closed after."""
    if world is not None:
        from engine.simulator.inprocess import InProcessTransport

        yield InProcessTransport(world, now=time.time)
    elif reach.wire is not None:
        yield reach.wire.transport(reach.way_out, connections)
    else:
        wire = Wire()
        try:
            yield wire.transport(reach.way_out, connections)
        finally:
            await wire.aclose()


async def read_all(
    found: Survey,
    inventory: Inventory,
    limit_s: float | None,
    purpose: str,
    users: Mapping[Where, Collection[str]] | None = None,
) -> None:
    """Read what is `late` into `found.readings`, for at most `limit_s` seconds; as far as `users` need, if given."""
    instances = iter(list(found.late))
    barred: dict[str, Reading] = {}
    """Account whose keys are refused → the reading that said so: its other instances are not asked for."""

    async def read_on() -> None:
        for where in instances:
            known = barred.get(where.account)
            found.readings[where] = known or await inventory.read(
                where, purpose=purpose, users=users[where] if users is not None else None
            )
            if _is_fatal(found.readings[where]):
                barred[where.account] = found.readings[where]

    try:
        async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
            for _ in range(min(READERS, len(found.late))):
                group.create_task(read_on())
    except TimeoutError:
        pass
    found.late = [where for where in found.late if where not in found.readings]


async def _locate(found: Survey, inventory: Inventory, limit_s: float | None) -> None:
    missing: dict[tuple[str, str], list[str]] = {}
    for where, reading in found.readings.items():
        if is_no_instance(reading):
            missing.setdefault((where.account, where.region), []).append(where.instance)
    try:
        async with asyncio.timeout(limit_s):
            for (account, region), instances in missing.items():
                there = await inventory.locate(instances, account=account, away_from=region)
                found.located |= {Where(account, region, instance): place for instance, place in there.items()}
    except TimeoutError:
        pass


def _is_fatal(reading: Reading) -> bool:
    if reading.code is None:
        return False
    answer = Answer(http=200, request_id=reading.request_id, code=reading.code, message=None)
    return rule("DescribeAccounts", answer).verdict is Verdict.FATAL


def refuse_bad_keys(found: Survey) -> None:
    """Raise CredentialsError if every reading says that the keys themselves are refused."""
    if not all(map(_is_fatal, found.readings.values())):
        return  # an account whose keys are refused fails its own calls only
    for reading in found.readings.values():
        if _is_fatal(reading):
            answer = Answer(http=200, request_id=reading.request_id, code=reading.code, message=None)
            ruling = rule("DescribeAccounts", answer)
            request = f" (RequestId {reading.request_id})" if reading.request_id else ""
            advice = before_a_run(ruling.advice)
            raise CredentialsError(f"{reading.code}: {ruling.words} {advice}{request}; nothing was sent")
