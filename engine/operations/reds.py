"""What follows a red word of the gate where the job says `on_red: undo`: an ordinary undo of the wave it is about."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.errors import AcctopsError, Reason, TooSoonError
from engine.journal.records import RED, rfc3339
from engine.operations.begin import begin
from engine.operations.events import News, Warned
from engine.operations.family import undone_since, way_and_holds
from engine.operations.gates import waves_of
from engine.operations.proposal import Approval
from engine.operations.session import Unwatched
from engine.operations.stores import find, flags_of
from engine.operations.undo import NothingToUndo, Selection, plan_undo

if TYPE_CHECKING:
    from engine.journal.protocols import Runs
    from engine.operations.carrying import Ended
    from engine.operations.session import Watch
    from engine.operations.terms import Terms


_LEADER_S = 20.0
"""Seconds in which the leader of a run of workers begins the undo of its red wave; then who follows it does."""
_LOOK_S = 0.2
"""Seconds between two looks at the clock."""


async def _until(soon: TooSoonError, terms: Terms, wave: int) -> None:
    """Wait until the undo may be planned: calls in doubt can still take effect, and are read only after that."""
    words = f"calls of wave {wave} are in doubt, so its undo waits until {rfc3339(soon.at)[11:19]}Z, then reads them"
    terms.tell(News(words))
    while terms.clock() < soon.at:  # noqa: ASYNC110 - time passes, by the clock of the command; no event tells of it
        await asyncio.sleep(_LOOK_S)


async def undo_if_red(ended: Ended, terms: Terms, watch: Watch | None = None, *, is_leader: bool = False) -> Ended:
    """Undo the red wave of a session that has ended, if its job asks for that; return how all of it ended.

    Whoever begins a run, or goes on with one, calls this at its end: an undo begins where no run is live any more.
    A word of an earlier session does not count: this one was stopped before the gate said another.

    The reason stays that of the session if the wave is undone, and is INCOMPLETE if it is not. Of a run that workers
    carry out its leader undoes the wave (`is_leader`), and whoever follows it follows the undo. Without any worker he
    undoes the wave himself.
    """
    ledger = ended.ledger
    if ledger.settings.waves is None:
        return ended
    began_at = ledger.sessions[-1].at if ledger.sessions else ""
    red = next((line for line in ledger.waves.values() if line.n and line.state == RED and line.at >= began_at), None)
    spec = waves_of(ledger.settings)
    if red is None or spec is None or spec.on_red != "undo" or ended.unrecorded is not None or ended.is_meddled:
        return ended
    run = ledger.run.run
    quiet = replace(terms, yes=True, attended=False, expect=None, exclude=(), no_verify=False, rate=None, deadline=None)
    terms.tell(News(f"wave {red.n} is red: it is undone, as on_red: undo says"))
    reason, undone = Reason.INCOMPLETE, None
    ref = find(terms, run)
    try:
        chosen = Selection(wave=red.n, passwords=ledger.settings.passwords)
        if ledger.shards and not is_leader and (followed := await _followed(ended, terms, watch)) is not None:
            return followed
        try:
            plan = await plan_undo(quiet, run, chosen)
        except TooSoonError as soon:
            await (watch or Unwatched()).last(_until(soon, terms, red.n))
            plan = await plan_undo(quiet, run, chosen)
        if isinstance(plan, NothingToUndo):
            reason = ended.reason if plan.reason is Reason.OK else plan.reason
            terms.tell(News(f"run {run}: {plan.why}"))
        else:
            undone = await begin(plan, Approval(how=f"on_red: undo, wave {red.n} of run {run}"), watch)
            reason = ended.reason if undone.reason is Reason.OK else Reason.INCOMPLETE
    except AcctopsError as error:
        again = f"acctops undo {run} --wave {red.n}{flags_of(terms, ref)}"
        then = "" if again in str(error) else f"; to undo it: {again}"
        terms.tell(Warned(f"wave {red.n} is NOT undone: {error}{then}", always=True))
    return _with_undo(ended, terms, reason, undone)


async def _followed(ended: Ended, terms: Terms, watch: Watch | None) -> Ended | None:
    """Follow the undo that the leader of a run of workers begins; None if it begins none for a while."""
    from engine.operations.handing import follow_to_end  # here: most runs have no workers

    ref = find(terms, ended.ledger.run.run)
    board = ref.store.board() if ref.store is not None else None
    if board is None:
        return None
    known = {link.run for link in ended.ledger.links}
    until = asyncio.get_running_loop().time() + _LEADER_S
    while asyncio.get_running_loop().time() < until:
        links = (await asyncio.to_thread(ref.replay)).ledger.links
        found = next((link.run for link in links if link.what == "undone_by" and link.run not in known), None)
        if found is not None and await asyncio.to_thread(_is_there, ref.store, found):  # it is linked before it exists
            undone = await follow_to_end(board, found, terms, terms.settings(None), watch)
            reason = ended.reason if undone.reason is Reason.OK else Reason.INCOMPLETE
            return _with_undo(ended, terms, reason, undone)
        if not await asyncio.to_thread(board.workers):
            return None
        await asyncio.sleep(_LOOK_S)
    return None


def _is_there(store: Runs | None, run_id: str) -> bool:
    """Return whether a run exists."""
    try:
        return store is not None and bool(store.replay(run_id).seq)
    except AcctopsError:
        return False


def _with_undo(ended: Ended, terms: Terms, reason: Reason, undone: Ended | None) -> Ended:
    """Return how a session ended whose red wave was to be undone."""
    ref = find(terms, ended.ledger.run.run)
    found = ref.replay()
    trust = terms.settings(None).trust
    found.ledger.undone = frozenset(undone_since(ref, found.ledger, trust))
    way = way_and_holds(ref.store, found.ledger, trust, clock=terms.clock, flags=flags_of(terms, ref))
    return replace(ended, reason=reason, ledger=found.ledger, way=way, undone=undone)
