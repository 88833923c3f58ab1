"""End a run that was handed to workers and that none of them leads: its sessions drain, and its `end` says why."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from engine.errors import AcctopsError, Reason
from engine.journal import records
from engine.model import RunId
from engine.run.endings import drain_s, end_line, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.journal.protocols import Board

_LOOK_S = 0.2
"""Seconds between two looks at whether the sessions of its shards have drained."""


def is_unled(board: Board, run_id: str) -> bool:
    """Return whether workers have a run, nobody leads it, and no worker is there that might. Blocks."""
    lead = board.lead_of(run_id)
    return lead.is_submitted and not lead.is_live and not any(worker.leads for worker in board.workers())


def end_unled(board: Board, run_id: str, why: str, reason: Reason, *, clock: Callable[[], float]) -> None:
    """Take a run over, have its sessions drain, write its `end`, and offer no shard of it any more. Blocks.

    A reason that says that nothing was sent becomes STOPPED if something was. BusyError if somebody leads the run, or
    UnreachableError or JournalWriteError if the database does not take it.
    """
    journal, found = board.store.open(RunId(run_id), clock=clock)
    try:
        board.request_stop(run_id)
        until = time.monotonic() + drain_s(found.ledger.settings.timeout_s)
        while board.close_idle(run_id, journal.epoch) and time.monotonic() < until:
            time.sleep(_LOOK_S)
        found = board.store.replay(run_id)  # with all that the sessions have written by now
        ledger = found.ledger
        if ledger.sent_calls and reason not in (Reason.OK, Reason.DENIED):
            reason = Reason.STOPPED
        line = end_line(
            ledger,
            seconds=0.0,
            reason=reason_of(ledger, reason),
            stopped=records.Stopped(why, None, None),
            guard={},
            heads={str(no): head for no, (seq, head) in found.heads.items() if seq},
        )
        journal.append_now(line)
        board.finish(run_id, journal.epoch)
    finally:
        journal.close()


def end_words(board: Board, run_id: str, why: str, reason: Reason, *, clock: Callable[[], float]) -> str | None:
    """End a run as `end_unled` does; return why that was not done, in words; None if it was. Blocks."""
    try:
        end_unled(board, run_id, why, reason, clock=clock)
    except AcctopsError as error:
        return str(error)
    return None
