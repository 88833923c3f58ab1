"""The commands that go on from a journal: resume, in the same run, and rerun, in a new one linked to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine.cli.ask import can_ask, confirm
from engine.cli.loops import run_loop
from engine.cli.options import Options, options_of
from engine.cli.screens import screen
from engine.cli.sending import carry_out, show_all
from engine.cli.talk import out, out_json, say
from engine.cli.watching import Terminal
from engine.errors import Reason
from engine.operations.control import lift
from engine.operations.rerun import NothingToRepeat, kinds_of, plan_rerun
from engine.operations.resume import Finished, Resumption, go_on, resumption
from engine.report.documents import document
from engine.report.text import text

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from engine.model import Outcome
    from engine.operations.proposal import Nothing, Planned


def resume_run(run: str, **flags: Any) -> int:
    """The `resume` command. Any: the flags, by name."""
    options = options_of(flags)
    return run_loop(_resume(options, run), options)


async def _resume(options: Options, run: str) -> int:
    options = replace(options, attended=can_ask())
    lifted = await lift(options, run)
    if lifted is not None:
        from engine.cli.steering import show_steered  # here: few runs are paused

        return show_steered(options, lifted)
    return await go_on_with(options, await resumption(options, run))


async def go_on_with(options: Options, found: Resumption | Finished) -> int:
    """Ask about what has changed, go on with a run, and print the report; returns the exit code."""
    if isinstance(found, Finished):
        return _show_finished(options, found)
    approval = confirm(found.question, found.open_calls, yes=options.yes) if found.changes else None
    return await show_all(options, await go_on(found, approval, Terminal(quiet=options.quiet)))


def _show_finished(options: Options, found: Finished) -> int:
    """Print the report of a run that has nothing left to do."""
    ledger, head, way, place = found.found.ledger, found.found.head, found.way, found.ref.place
    if options.as_json:
        out_json({**document(ledger, journal=place, head=head, way=way), "exit": int(found.reason)})
    elif not (options.quiet and found.reason == Reason.OK and not way.open_calls):
        say("this run is finished; nothing to resume")
        out(text(ledger, journal=place, head=head, way=way, screen=screen()))
    return found.reason


def rerun_run(run: str, only: str, codes: tuple[str, ...], **flags: Any) -> int:
    """The `rerun` command. Any: the flags, by name."""
    options = options_of(flags)
    kinds = kinds_of(only.split(","))
    if options.save is not None:
        from engine.cli.approving import save_plan

        def plan(options: Options) -> Awaitable[Planned | Nothing]:
            return plan_rerun(options, run, kinds, codes)

        return save_plan(options, "rerun", {"only": sorted(kinds), "codes": list(codes)}, plan)
    return run_loop(_rerun(options, run, kinds, codes), options)


async def _rerun(options: Options, run: str, only: frozenset[Outcome], codes: tuple[str, ...]) -> int:
    options = replace(options, attended=can_ask())
    plan = await plan_rerun(options, run, only, codes)
    if isinstance(plan, NothingToRepeat):
        return _show_nothing(options, plan)
    return await carry_out(options, plan)


def _show_nothing(options: Options, nothing: NothingToRepeat) -> int:
    way = nothing.way
    if not options.quiet:
        say(f"run {nothing.parent}: {nothing.why}; nothing to repeat")
    if not options.as_json and way.open_calls:
        out("\n".join(way.lines()))
    if options.as_json:
        found = {"parent": nothing.parent, "why": nothing.why, "open": way.open_calls, "go_on": way.command}
        out_json({"run": None, **found, "exit": int(nothing.reason)})
    return nothing.reason
