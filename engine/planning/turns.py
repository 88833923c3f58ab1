"""How many changes one run of a job makes (`limits.take`), and whose turn it is. No I/O, no clock.

The waiting line is kept in the journals. The next run takes first what the last run took and never tried, then what
the last run left for later, in the same order. What was tried, done or not, goes behind all that waited: an account
that fails every Saturday does not keep the others from their turn.
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
"""Standings of calls that may change something. Accounts already so, or that do not exist, need no change."""


def line_after(ledger: Ledger) -> tuple[CallId, ...]:
    """Return the calls that wait after a run: those it took and never tried, then those it left for later, in order."""
    action = ledger.run.action
    untried = [call.id for call, _, outcome in ledger.outcomes() if outcome is Outcome.UNATTEMPTED]
    later = [
        call_id(omit.account, omit.region, omit.instance, omit.user, action)
        for omit in ledger.omits
        if omit.reason == OmitReason.LATER
    ]
    return (*untried, *later)


def take(outlook: Outlook, most: int, where: str, line: Sequence[CallId] = ()) -> Outlook:
    """Return the outlook with at most `most` calls that may change something; more of those are left out, for later.

    Calls in `line` are taken first, in its order, then others in the plan's order. `where` is the place of the limit.
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
    """Return whether a plan of `action` is divided without readings, as its accounts will never be read."""
    return not verify or ACTIONS[action].is_desired is None


def _omit(call: Call, most: int, where: str) -> Omit:
    return Omit(Target(call.instance, call.user, call.region, call.account), OmitReason.LATER, f"{RULE}: {most}", where)
