"""A worker: takes lanes and runs from a database, and carries out their sessions, until it is told to leave.

DBOS gives it sessions (`dispatch`). Each half second it looks for lanes and runs of which nothing is heard, and has
their sessions given to somebody. A worker that learns that another has taken something of its own was away for too
long: it leaves at once, and its supervisor starts it anew.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.cloud.clients import ask_whose
from engine.errors import AcctopsError, Reason, UsageError
from engine.journal.database.dispatch import Dispatcher
from engine.operations.events import Event, News, Warned
from engine.operations.frozen import check_metrics
from engine.operations.reach import reach_of_worker
from engine.planning.shards import owner_words
from engine.workers.host import IDENTITY_S, Host
from engine.workers.lanes import LaneSession
from engine.workers.leads import Lead
from engine.workers.signs import Signs

if TYPE_CHECKING:
    from engine.operations.terms import Terms


async def _carry_out_lane(host: Host, name: str) -> None:
    """Carry out the session of a lane."""
    owner, action, access = name.rsplit("/", 2)
    signer = host.names().get(owner)
    if signer is None or action not in ACTIONS:
        host.say(f"lane {name}: not taken: these keys are not of {owner_words(owner)} any more")
        return
    session = LaneSession(host, name, signer, access)
    host.served[session] = signer
    host.say(f"lane {name}: taken")
    try:
        await session.run()
    finally:
        del host.served[session]
        host.say(f"lane {name}: given back")


async def _carry_out_run(host: Host, run_id: str) -> None:
    """Carry out the session of a run: lead it."""
    lead = Lead(host, run_id)
    host.leads.add(lead)
    host.say(f"run {run_id}: led here")
    try:
        await lead.carry_out_apart()
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
    ready_file: str | None = None,
) -> Reason:
    """Work until `told` is set; then leave in order. `leads`: whether it leads runs, too; `say` gets what happens.

    `ready_file`: its time is now as long as the worker is ready, once a second; it is removed when it is not.

    Returns the reason for which it has ended: OK if it was told to, DENIED if none of its keys is valid any more.
    ConfigError, CredentialsError, UnreachableError or UsageError if it cannot begin.
    """
    terms = replace(terms, tell=partial(_told, say))
    settings = terms.settings(None)
    if settings.database is None:
        raise UsageError("a worker takes its work from a database: add --database URL")
    check_metrics(settings)
    programs = [_program(each) for each in programs]
    signs = Signs(settings, ready_file, say, clock=terms.clock)
    reach = await reach_of_worker(settings, terms)
    await ask_whose(reach, limit_s=IDENTITY_S)
    host = await asyncio.to_thread(
        lambda: Host(terms, settings, reach, say=say, most_lanes=lanes, programs=programs, leads=leads)
    )
    await asyncio.to_thread(host.store.check_place)
    await asyncio.to_thread(host.check_home)
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
    tasks = (
        host.beat(),
        host.mend(dispatcher),
        host.keep_keys(),
        host.know_keys(),
        host.know_database(),
        signs.show(host),
    )
    beside = [asyncio.ensure_future(each) for each in tasks]
    trouble = asyncio.Event()
    for task in beside:
        task.add_done_callback(lambda ended: trouble.set() if _error_of(ended) is not None else None)
    say(f"ready: worker {host.name}, {lanes} lanes, for {', '.join(map(owner_words, owners))}")
    for signer in host.signers:
        if signer.who is None:
            say(
                f"STS does not say whose the keys of {signer.keys.label} are: it is asked again; until then only lanes "
                "of runs that were submitted with the very same keys are taken"
            )
    try:
        await _first_of(told, host.has_no_keys, trouble)
        host.leave("its worker leaves")
        await dispatcher.drain()
    finally:
        errors = [error for task in beside if (error := _error_of(task)) is not None]
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        with suppress(AcctopsError):
            await asyncio.to_thread(host.board.leave, host.name)
        await signs.remove(host)
        await dispatcher.stop()
        await terms.wire.aclose()
    say("left: what it had is given back")
    if errors:  # a worker that does not say that it lives, or looks for nothing, is none: it is to be started anew
        raise errors[0]
    return Reason.OK if told.is_set() else Reason.DENIED


def _error_of(task: asyncio.Future[None]) -> BaseException | None:
    """Return the error that ended a task; None while it goes on, and if it was cancelled or is done."""
    return task.exception() if task.done() and not task.cancelled() else None


async def _first_of(*events: asyncio.Event) -> None:
    """Wait for the first of several events."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _program(name: str) -> str:
    """Return a program as journals name it; UsageError if there is none."""
    found = str(Path(name).absolute()) if "/" in name else name
    if not name or shutil.which(found) is None:
        raise UsageError(f"--program {name}: is no program here that may be run")
    return found


def _told(say: Callable[[str], None], event: Event) -> None:
    """Say what a session tells, as far as it is for a person."""
    if isinstance(event, (News, Warned)):
        say(event.text)
