"""Check a confirmed plan again before it is sent, as minutes may have passed since it was shown.

The plan never grows. Each change is told. A plan is refused if a guard no longer lets it pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from engine.api.actions import ACTIONS, Action
from engine.errors import RefusedError
from engine.model import Call, CallId, Omit, Reading, Rival
from engine.operations.events import Changed, Tell
from engine.operations.preparing import is_read, of_plan, prepare, read_for
from engine.planning.admins import AdminGuard, admin_omit
from engine.planning.outlook import Readings, Standing, look_ahead
from engine.planning.plan import Plan, plan_again, plan_digest

if TYPE_CHECKING:
    from engine.cloud.clients import Reach
    from engine.inputs.settings import Settings
    from engine.operations.survey import Survey
    from engine.simulator.world import World

_SHOWN = 10
_OPEN = (Standing.OPEN, Standing.CHANGING)
_GONE = (Standing.NO_ACCOUNT, Standing.NO_INSTANCE)


async def look_again(
    plan: Plan,
    found: Survey | None,
    settings: Settings,
    *,
    reach: Reach | None,
    world: World | None,
    stays: Callable[[Call, Reading], Omit | None] | None,
    tell: Tell,
) -> tuple[Plan, Survey | None]:
    """Return what guards and new readings leave of a confirmed plan, and those readings (None: nothing was read).

    With `reach` None nothing is read. `stays` is the rule of an undo. RefusedError if a guard forbids what is left.
    """
    before = look_ahead(plan, of_plan(plan, found) if found is not None else {}, listed_order=True)
    guarded = plan_again(plan.action, plan.calls, protect=settings.protect)
    read = None
    if reach is not None and is_read(guarded, settings):
        read = await read_for(guarded, settings, reach=reach, world=world)
    now = prepare(guarded, settings, read, world=world, listed_order=True)
    kept: dict[CallId, Omit] = {}
    if now.found is not None and stays is not None:
        for call in now.plan.calls:
            reading = now.found.readings.get(call.where)
            if reading is None or now.outlook.standings[call.id] not in _OPEN:
                continue
            if (omit := stays(call, reading)) is not None:
                kept[call.id] = omit
    left = without(now.plan, kept)
    lines = [*_left_out(left.omits)]
    if found is not None and now.found is not None:
        lines += _changes(ACTIONS[plan.action], left, before.standings, now.outlook.standings)
    for line in lines:
        tell(Changed(f"since you were asked: {line}"))
    now.refuse()
    worse = set(now.outlook.last_admins) - set(before.last_admins)
    if worse and found is not None:
        raise RefusedError(
            f"refused: since you were asked, others have locked superusers of {', '.join(sorted(worse)[:_SHOWN])}, and "
            "this would lock the last; run it again to be asked anew; nothing was sent"
        )
    return replace(left, omits=(*plan.omits, *left.omits)), now.found


def stand_back(
    plan: Plan,
    readings: Readings,
    *,
    keep_admins: int,
    rivals: Sequence[Rival],
    held: Mapping[CallId, Omit],
    tell: Tell,
) -> Plan:
    """Return the plan without what other runs rule out: accounts they hold, superusers that must stay for them."""
    guard = AdminGuard(keep_admins, rivals=rivals)
    out: dict[CallId, Omit] = {}
    for call in plan.calls:
        reading = readings.get(call.where)
        if call.id in held:
            out[call.id] = held[call.id]
        elif rivals and reading is not None and reading.accounts is not None:
            refused = guard.why_not(call.where, reading.accounts, call.user)
            if refused is not None:
                out[call.id] = admin_omit(call, *refused)
    for line in _left_out(out.values()):
        tell(Changed(f"since the plan was made: {line}"))
    return without(plan, out)


def without(plan: Plan, out: Mapping[CallId, Omit]) -> Plan:
    """Return the plan without the calls in `out`, whose omits it gets instead."""
    if not out:
        return plan
    calls = tuple(call for call in plan.calls if call.id not in out)
    return replace(plan, calls=calls, omits=(*plan.omits, *out.values()), digest=plan_digest(calls))


def _left_out(omits: Iterable[Omit]) -> Iterator[str]:
    omits = list(omits)
    for omit in omits[:_SHOWN]:
        yield f"left out, {omit.reason}: {omit.target.named}  {omit.rule} ({omit.where})"
    if len(omits) > _SHOWN:
        yield f"left out: {len(omits) - _SHOWN:,} more"


def _changes(
    action: Action, plan: Plan, before: Mapping[CallId, Standing], now: Mapping[CallId, Standing]
) -> Iterator[str]:
    """Yield what others have done to the accounts of a plan, one line for each kind of change."""

    def count(was: Callable[[Standing], bool], became: Callable[[Standing], bool]) -> int:
        return sum(was(before[call.id]) and became(now[call.id]) for call in plan.calls)

    kinds = (
        (
            count(lambda was: was is not Standing.ALREADY, lambda is_: is_ is Standing.ALREADY),
            f"{{}} {action.done_word} by somebody else: left as {{}}, and an undo of this run leaves that",
        ),
        (
            count(lambda was: was is Standing.ALREADY, lambda is_: is_ in _OPEN),
            f"{{}} not {action.done_word} any more, and will be",
        ),
        (count(lambda was: was not in _GONE, lambda is_: is_ in _GONE), "{} not there any more"),
        (
            count(lambda was: was is not Standing.CAM_ON, lambda is_: is_ is Standing.CAM_ON),
            "{} given CAM verification by somebody else, and nothing will be sent for that",
        ),
        (
            count(lambda was: was is not Standing.UNREAD, lambda is_: is_ is Standing.UNREAD),
            "{} not read again yet, and read before anything is sent",
        ),
    )
    for number, words in kinds:
        if number:
            many = number != 1
            accounts = f"{number:,} account{'s were' * many or ' was'}"
            yield words.format(accounts, "they are" if many else "it is")
