"""A plan is asked about and begun, and the report of its end is printed: what all commands that send have in common."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from engine.cli.ask import confirm
from engine.cli.screens import screen
from engine.cli.talk import out, out_json, tell_remarks, warn
from engine.cli.watching import Terminal
from engine.errors import Reason
from engine.operations.begin import begin
from engine.report.documents import document
from engine.report.text import text

if TYPE_CHECKING:
    from engine.cli.options import Options
    from engine.operations.carrying import Ended
    from engine.operations.proposal import Planned

_PROCESS_START = time.time() - time.process_time()
"""About when this process began: its CPU time is what it has done since."""


async def carry_out(options: Options, plan: Planned, *, stdin_is_list: bool = False) -> int:
    """Ask, do what was planned, and print the report; returns the exit code."""
    also = plan.proposal.to_change or None
    count = len(plan.calls)
    approval = confirm(plan.question, count, also=also, yes=options.yes, stdin_is_list=stdin_is_list)
    return await show_all(options, await begin(plan, approval, Terminal(quiet=options.quiet)))


async def show_all(options: Options, ended: Ended) -> int:
    """Print how a session ended, and undo its red wave first if its job asks for that; returns the exit code."""
    return show(options, await ended_by_undo(options, ended))


async def ended_by_undo(options: Options, ended: Ended) -> Ended:
    """Undo the red wave of a session if its job asks for that; returns how all of it ended."""
    if ended.ledger.settings.waves is None:
        return ended
    from engine.operations.reds import undo_if_red  # here: most runs have no waves

    return await undo_if_red(ended, options, Terminal(quiet=options.quiet))


def show(options: Options, ended: Ended, *, more: dict[str, Any] | None = None) -> int:
    """Print how a session ended, with `more` keys in its document; returns its exit code. Any: JSON values."""
    ledger, place, head, way = ended.ledger, ended.journal, ended.head, ended.way
    if ended.reason is not Reason.OK:
        tell_remarks()
    unrecorded = ended.unrecorded
    if unrecorded is not None:
        stands = "" if ended.is_meddled else f"\n{place}: what was recorded stands"
        warn(f"STOPPED EARLY: {unrecorded.why}{stands}")
    if options.as_json:
        since = ended.first_send_at
        first_send_ms = round((since - _PROCESS_START) * 1000) if since is not None else None
        whole = document(ledger, journal=place, head=head, first_send_ms=first_send_ms, way=way)
        whole["exit"] = int(ended.reason)
        whole["undone"] = _undone(ended)
        whole["left"] = ended.is_left
        if unrecorded is not None:
            whole["stopped"] = {"why": unrecorded.why, "code": unrecorded.code, "request_id": unrecorded.request_id}
        out_json(whole | (more or {}))
    elif ended.is_left:  # it goes on: a report of now would read as one of its end
        pass
    elif not (options.quiet and ended.reason is Reason.OK):
        out(text(ledger, journal=place, head=head, way=way, screen=screen()))
        if (undone := ended.undone) is not None:
            out(text(undone.ledger, journal=undone.journal, head=undone.head, way=undone.way, screen=screen()))
    elif way.open_calls:  # done as asked, and not all of what it is a part of
        out("\n".join(way.lines()))
    return ended.reason


def _undone(ended: Ended) -> dict[str, Any] | None:
    """Return how the undo of a red wave ended (engine/json.md). Any: JSON values."""
    if (undone := ended.undone) is None:
        return None
    return {"run": undone.ledger.run.run, "counts": undone.ledger.counts(), "exit": int(undone.reason)}
