"""A job that makes so many changes a run, and whose turn it is. No I/O, no clock.

The line stands in the journals: what a run left for later is first in the next one, in the same order, behind what it
took and never tried. What was tried stands behind all that waited, done or not: an account that fails every Saturday
does not keep the others from their turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.journal.ledger import Ledger
from engine.model import Call, CallId, Omit, OmitReason, Outcome, Target, call_id
from engine.planning.outlook import Outlook, Standing
from engine.planning.plan import plan_digest

RULE = "limits.take"
_COSTS = (Standing.OPEN, Standing.CHANGING, Standing.UNREAD)
"""What a change may be made to. What is so already, or is not there, is settled without one."""


def line_after(ledger: Ledger) -> tuple[CallId, ...]:
    """Who waits after a run: calls it took and never tried, then those it left for later, in their order."""
    action = ledger.run.action
    untried = [call.id for call, _, outcome in ledger.outcomes() if outcome is Outcome.UNATTEMPTED]
    later = [
        call_id(omit.account, omit.region, omit.instance, omit.user, action)
        for omit in ledger.omits
        if omit.reason == OmitReason.LATER
    ]
    return (*untried, *later)


def take(outlook: Outlook, most: int, where: str, line: Sequence[CallId] = ()) -> Outlook:
    """The plan with at most `most` calls that may change something; the rest of those is left out, for later.

    Those in `line` come first, in its order, then the others in the order of the plan. `where` the limit stands.
    """
    waiting = [call for call in outlook.plan.calls if outlook.standings[call.id] in _COSTS]
    if len(waiting) <= most:
        return outlook
    position = {call: number for number, call in enumerate(line)}
    waiting.sort(key=lambda call: position.get(call.id, len(position)))
    later = {call.id: call for call in waiting[most:]}
    calls = tuple(call for call in outlook.plan.calls if call.id not in later)
    omits = tuple(_omit(call, most, where) for call in later.values())
    plan = replace(outlook.plan, calls=calls, omits=(*outlook.plan.omits, *omits), digest=plan_digest(calls))
    standings = {call.id: outlook.standings[call.id] for call in calls}
    return replace(outlook, plan=plan, standings=standings)


def takes_turns(action: str, *, verify: bool) -> bool:
    """Whether a plan of `action` is worth dividing before its accounts are read: if they never will be."""
    return not verify or ACTIONS[action].is_desired is None


def _omit(call: Call, most: int, where: str) -> Omit:
    return Omit(Target(call.instance, call.user, call.region, call.account), OmitReason.LATER, f"{RULE}: {most}", where)
