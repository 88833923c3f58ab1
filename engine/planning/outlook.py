"""What readings say of a plan before anything is sent. No I/O, no clock.

Decides which calls have work to do, and which are done or impossible already; which accounts are left out so that an
instance keeps its admins; and which order of calls contains an attack soonest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct

from engine.api.actions import ACTIONS, TRANSITIONAL, Action, takes_admins
from engine.journal import records
from engine.model import AccountState, Call, CallId, Omit, Reading, Where
from engine.planning.admins import SUPERUSER, admin_omit, admins_to_keep, usable_admins
from engine.planning.plan import Plan, interleave, plan_digest

NO_ACCOUNT_CODE = "Local.NoAccount"
UNREAD_CODE = "Local.Unread"
CAM_ON_CODE = "Local.CamOn"

Readings = Mapping[Where, Reading]


class Standing(StrEnum):
    """How a call's account stands before the call."""

    OPEN = "open"
    """Not as desired: the call has work to do."""
    ALREADY = "already"
    CHANGING = "changing"
    """In a transitional state: waiting a short time may be enough."""
    NO_ACCOUNT = "no_account"
    NO_INSTANCE = "no_instance"
    CAM_ON = "cam_on"
    """CAM verification is on, and the API refuses the action then."""
    UNREAD = "unread"


def is_no_instance(reading: Reading) -> bool:
    """Return whether a reading failed because there is no such instance."""
    if reading.code is None:
        return False
    from engine.api.codes import row_of  # here: a plan made offline needs no table of codes

    return row_of(reading.code).no_instance


def standing(action: Action, reading: Reading | None, user: str) -> Standing:
    """Return how the account `user` stands by a reading of its instance."""
    if reading is None or reading.accounts is None:
        return Standing.NO_INSTANCE if reading is not None and is_no_instance(reading) else Standing.UNREAD
    state = reading.accounts.get(user)
    if state is None:
        return Standing.NO_ACCOUNT if reading.complete else Standing.UNREAD
    if action.shows(state):
        return Standing.ALREADY
    if action.bars_cam and state.cam is True:
        return Standing.CAM_ON
    return Standing.CHANGING if state.status in TRANSITIONAL else Standing.OPEN


def shown(action: Action, reading: Reading | None, user: str, before: AccountState | None = None) -> bool | None:
    """Return whether a reading shows the account `user` as `action` leaves it; None if the reading does not tell.

    `before`: the account as it was read before the call, for an action that only a change proves.
    A reading does not tell of an account that is missing from an incomplete list, nor of a state that no page
    documents. A caller that needs proof that the account is not so may act on False, never on None.
    """
    if reading is None:
        return None
    if reading.accounts is None:
        return False if is_no_instance(reading) else None
    state = reading.accounts.get(user)
    if state is None:
        return False if reading.complete else None
    return action.shows(state, before)


def before_line(call: Call, reading: Reading | None) -> records.Before:
    """Return the journal's record of the account before its call; with nulls and the reason if it was not read."""
    state = reading.find(call.user) if reading is not None else None
    if state is None:
        if reading is None or reading.accounts is None:
            why = f"not read: {reading.code}" if reading is not None else "not read"
        elif reading.complete:
            why = no_account_words(call, reading)
        else:
            why = f"not among the {len(reading.accounts):,} accounts that were listed, which are not all"
        return records.Before(
            call=call.id, status=None, cam=None, type=None, update_time=None, password_update_time=None, why=why
        )
    return records.Before(
        call=call.id,
        status=state.status,
        cam=state.cam,
        type=state.user_type or None,
        update_time=state.update_time or None,
        password_update_time=state.password_update_time or None,
        why=None,
    )


def no_account_words(call: Call, reading: Reading) -> str:
    """Return the words for an account that does not exist, with the nearest name that does."""
    from difflib import get_close_matches  # here: only a wrong name pays for the import

    near = get_close_matches(call.user, list(reading.accounts or ()), n=1, cutoff=0.6)
    return f"no account {call.user} on {call.instance}" + (f"; did you mean {near[0]}?" if near else "")


def unshown_words(call: Call, reading: Reading | None) -> str:
    """Return why a call of an unusual name is not sent where no reading shows it."""
    words = f"not sent: {call.user} is no name the API gives, so only a reading can show that this name exists"
    if reading is None:
        return f"{words}, and this run reads no account before it sends"
    if reading.accounts is None:
        return f"{words}, and {call.instance} cannot be read ({reading.code})"
    return f"{words}, and the list of {call.instance} is not whole"


def unprovable_words(call: Call, reading: Reading) -> str:
    """Return why a call is not sent whose change no reading could prove, as the one before it tells too little."""
    if reading.accounts is None:
        why = f"{call.instance} cannot be read ({reading.code})"
    elif reading.find(call.user) is None:
        why = f"the list of {call.instance} is not whole"
    else:
        why = f"{call.instance} does not say when its password was changed last"
    return f"not sent: {why}, so nothing could prove a change; --no-verify sends it all the same"


def no_instance_words(call: Call, region: str | None) -> str:
    """Return the words for an instance that is not in its region; `region` is where it was found, or None."""
    if region is None:
        return f"no instance {call.instance} in {call.region}, nor seen in any other region"
    return f"no instance {call.instance} in {call.region}: found in {region}"


# ---- a plan, seen with readings ------------------------------------------------------------------------------------


class Outlook(Struct, frozen=True, kw_only=True):
    """A plan, and how its accounts stand."""

    plan: Plan
    """In the order of sending, without the admins that must stay."""
    standings: Mapping[CallId, Standing]
    accounts_read: int
    last_admins: tuple[str, ...]
    """Instances that would be left without a usable superuser."""
    unread: tuple[str, ...]
    """Instances that could not be read."""
    denied: bool
    """Whether every reading of the plan was refused for want of permission."""

    @property
    def to_change(self) -> int:
        """How many calls change an account, as far as it was read."""
        counts = self.counts()
        return counts[Standing.OPEN] + counts[Standing.CHANGING]

    def counts(self) -> dict[str, int]:
        """Return the number of calls by standing; every standing is named."""
        found = Counter(self.standings.values())
        return {str(kind): found[kind] for kind in Standing}


def look_ahead(
    plan: Plan, readings: Readings, *, keep_admins: int = 0, listed_order: bool = False, resend_already: bool = False
) -> Outlook:
    """Return the outlook of `plan` by `readings`, without the admins that must stay.

    Calls of superusers come first, then others, then unread ones; last those already so, if they are sent again
    (`resend_already`). `listed_order` keeps the plan's order.
    """
    action = ACTIONS[plan.action]
    by_instance: dict[Where, list[Call]] = {}
    for call in plan.calls:
        by_instance.setdefault(call.where, []).append(call)
    kept_admins: dict[CallId, Omit] = {}
    last_admins = []
    for where, calls in by_instance.items():
        reading = readings.get(where)
        if reading is None or reading.accounts is None:
            continue
        users = [call.user for call in calls]
        keep = admins_to_keep(action.name, reading.accounts, users, keep_admins)
        kept_admins |= {call.id: admin_omit(call, keep_admins) for call in calls if call.user in keep}
        usable = usable_admins(reading.accounts)
        if takes_admins(action.name) and usable and not set(usable) - (set(users) - keep):
            last_admins.append(where.instance)
    kept = [call for call in plan.calls if call.id not in kept_admins] if kept_admins else plan.calls
    standings = {
        call.id: standing(action, reading, call.user)
        for where, calls in by_instance.items()
        for reading in (readings.get(where),)
        for call in calls
        if call.id not in kept_admins
    }
    calls_in_order = kept if listed_order else _contain_first(kept, readings, standings, resend_already=resend_already)
    ordered = tuple(calls_in_order)
    return Outlook(
        plan=Plan(
            action=plan.action,
            calls=ordered,
            omits=(*plan.omits, *kept_admins.values()),
            digest=plan_digest(ordered),
        ),
        standings=standings,
        accounts_read=sum(len(reading.accounts or ()) for reading in readings.values()),
        last_admins=tuple(last_admins),
        unread=tuple(where.instance for where in by_instance if _is_unread(readings.get(where))),
        denied=bool(by_instance) and all(_is_denied(readings.get(where)) for where in by_instance),
    )


def _contain_first(
    calls: Sequence[Call], readings: Readings, standings: Mapping[CallId, Standing], *, resend_already: bool
) -> Iterable[Call]:
    def rank(call: Call) -> int:
        if standings[call.id] is Standing.UNREAD:
            return 2
        if standings[call.id] is Standing.ALREADY and resend_already:
            return 3
        reading = readings.get(call.where)
        state = reading.find(call.user) if reading is not None else None
        return 0 if state is not None and state.user_type == SUPERUSER else 1

    bands: tuple[list[Call], ...] = ([], [], [], [])
    for call in calls:
        bands[rank(call)].append(call)
    return (call for band in bands for call in interleave(band, key=lambda call: call.where))


def _is_unread(reading: Reading | None) -> bool:
    return reading is None or (reading.accounts is None and not is_no_instance(reading))


def _is_denied(reading: Reading | None) -> bool:
    if reading is None or reading.accounts is not None:
        return False
    from engine.api.codes import row_of  # here: see `is_no_instance`

    return row_of(reading.code).is_denial
