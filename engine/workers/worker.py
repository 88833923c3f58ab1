"""A worker: takes lanes and runs from a database, and carries out their sessions, until it is told to leave.

DBOS gives it sessions (`dispatch`). Each half second it looks for lanes and runs of which nothing is heard, and has
their sessions given to somebody. A worker that learns that another has taken something of its own was away for too
long: it leaves at once, and its supervisor starts it anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.cloud.clients import ask_whose
from engine.errors import AcctopsError, Reason, UsageError
from engine.journal.database.dispatch import Dispatcher
from engine.operations.events import Event, News, Warned
from engine.operations.reach import reach_of_worker
from engine.workers.host import Host
from engine.workers.lanes import LaneSession
from engine.workers.leads import Lead

if TYPE_CHECKING:
    from engine.operations.terms import Terms

IDENTITY_S = 5.0
"""Seconds that the start waits to learn whose the keys are."""


async def _carry_out_lane(host: Host, name: str) -> None:
    """Carry out the session of a lane."""
    owner, action, access = name.rsplit("/", 2)
    signer = host.owners().get(owner)
    if signer is None or action not in ACTIONS:
        host.say(f"lane {name}: not taken: these keys are not of {owner} any more")
        return
    host.sessions += 1
    host.say(f"lane {name}: taken")
    try:
        await LaneSession(host, name, signer, access).run()
    finally:
        host.sessions -= 1
        host.say(f"lane {name}: given back")


async def _carry_out_run(host: Host, run_id: str) -> None:
    """Carry out the session of a run: lead it."""
    lead = Lead(host, run_id)
    host.leads.add(lead)
    host.say(f"run {run_id}: led here")
    try:
        await lead.carry_out()
    finally:
        host.leads.discard(lead)
        host.say(f"run {run_id}: no more led here")


async def work(
    terms: Terms,
    *,
    lanes: int,
    programs: Sequence[str],
    leads: bool,
    say: Callable[[str], None],
    told: asyncio.Event,
) -> Reason:
    """Work until `told` is set; then leave in order. `leads`: whether it leads runs, too; `say` gets what happens.

    ConfigError or UsageError if it cannot begin.
    """
    terms = replace(terms, tell=partial(_told, say))
    settings = terms.settings(None)
    if settings.database is None:
        raise UsageError("a worker takes its work from a database: add --database URL")
    reach = await reach_of_worker(settings, terms)
    await ask_whose(reach, limit_s=IDENTITY_S)
    host = await asyncio.to_thread(
        lambda: Host(terms, settings, reach, say=say, most_lanes=lanes, programs=programs, leads=leads)
    )
    host.store.check_place()
    owners = host.owners()
    dispatcher = Dispatcher(
        settings.database,
        host.name,
        lanes=partial(_carry_out_lane, host),
        runs=partial(_carry_out_run, host) if leads else None,
        queues=list(owners),
        most_lanes=lanes,
        say=say,
    )
    host.dispatcher = dispatcher
    await dispatcher.start()
    beside = [asyncio.ensure_future(each) for each in (host.beat(), host.mend(dispatcher), host.keep_keys())]
    say(f"ready: worker {host.name}, {lanes} lanes, for {', '.join(owners)}")
    try:
        await told.wait()
        host.leave("its worker leaves")
        await dispatcher.drain()
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        with suppress(AcctopsError):
            await asyncio.to_thread(host.board.leave, host.name)
        await dispatcher.stop()
        await terms.wire.aclose()
    say("left: what it had is given back")
    return Reason.OK


def _told(say: Callable[[str], None], event: Event) -> None:
    """Say what a session tells, as far as it is for a person."""
    if isinstance(event, (News, Warned)):
        say(event.text)
