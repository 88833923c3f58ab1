"""A plan's instances, read in an event loop of this command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.operations.preparing import is_read, read_for

if TYPE_CHECKING:
    from engine.cloud.clients import Reach
    from engine.inputs.settings import Settings
    from engine.operations.survey import Survey
    from engine.planning.plan import Plan
    from engine.simulator.world import World


def read_plan(
    plan: Plan, settings: Settings, reach: Reach | None, world: World | None, known: Survey | None = None
) -> Survey | None:
    """What the plan's instances say now, beside what is `known`; None where it is made without (`reach` None, too)."""
    if reach is None or not is_read(plan, settings):
        return None
    from engine.cli.loops import run_loop  # here: a plan that is made offline needs no event loop

    return run_loop(read_for(plan, settings, reach=reach, world=world, known=known))
