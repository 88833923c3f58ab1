"""Ask a live run to drain, from another shell, and wait until it has."""

from __future__ import annotations

import asyncio
from functools import partial

from msgspec import Struct

from engine.errors import Reason, UsageError
from engine.journal.protocols import RunRef
from engine.operations.events import News, Warned
from engine.operations.stores import find
from engine.operations.terms import Terms
from engine.run.endings import orderly_end_s

STOP_POLL_S = 0.2


class Drained(Struct, frozen=True):
    """The result of a request to drain."""

    ref: RunRef
    is_over: bool
    """Whether the run is not live any more, or was not live."""


async def stop(terms: Terms, run: str) -> Drained:
    """Have a run take no new call, and wait as long as an orderly end may take."""
    ref = find(terms, run)
    if ref.store is None:
        raise UsageError(f"{ref.place}: lies outside a state directory; no run can be live there")
    if not ref.store.is_live(ref.run_id):
        terms.tell(News(f"run {ref.run_id} is not going on; nothing to stop"))
        return Drained(ref, is_over=True)
    ref.store.request_stop(ref.run_id)
    terms.tell(News(f"run {ref.run_id}: asked to drain"))
    if ref.store.database is not None and (board := ref.store.board()) is not None:
        from engine.operations.unled import end_words, is_unled  # here: most runs have no workers

        if is_unled(board, ref.run_id):
            why = "`acctops stop` from another shell, and no worker was there to lead it"
            why_not = await asyncio.to_thread(partial(end_words, board, ref.run_id, why, Reason.STOPPED,
                                                      clock=terms.clock))  # fmt: skip
            if why_not is None:
                terms.tell(News(f"run {ref.run_id}: no worker was there to lead it, so it was taken back from them"))
    longest_s = orderly_end_s(ref.replay().ledger.settings.timeout_s)
    try:
        async with asyncio.timeout(longest_s):
            while ref.store.is_live(ref.run_id):  # noqa: ASYNC110 - of another process: nothing tells us
                await asyncio.sleep(STOP_POLL_S)
    except TimeoutError:
        words = f"run {ref.run_id} is still draining after {longest_s:.0f} s; see acctops status {ref.run_id}"
        terms.tell(Warned(words, always=True))
        return Drained(ref, is_over=False)
    return Drained(ref, is_over=True)
