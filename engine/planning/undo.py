"""What of a run can be undone, and what must stay. No I/O, no clock.

Undo touches only what the run changed, and only where it still stands as the run left it (promise P4). Everything else
is named with its reason; nothing is left out in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct

from engine.api.actions import ACTIONS, Action
from engine.journal.ledger import Entry, Ledger
from engine.model import AccountState, Call, CallId, Omit, OmitReason, Outcome, Reading, Target, Verdict, call_id
from engine.planning.outlook import Readings, is_no_instance
from engine.planning.plan import Plan, interleave, plan_digest


class Keep(StrEnum):
    """Why a call of the run is not undone."""

    NOT_CHANGED = "not_changed"
    """The run did not change it."""
    BEFORE_UNKNOWN = "before_unknown"
    """Nobody knows how it was before."""
    CHANGED_SINCE = "changed_since"
    """Its lock or CAM state is no longer as the run left it."""
    EDITED = "edited"
    """Something about the account was changed since."""
    NOT_ROTATED = "not_rotated"
    """`--rotated` was asked for, and its password is the one it was locked with."""
    HELD = "held"
    """Another run holds it."""
    NOT_ASKED = "not_asked"
    """`--target` or `--exclude` leave it out."""
    GONE = "gone"
    """The account or its instance is no longer there."""
    UNREAD = "unread"
    """Its instance cannot be read now, or not to its end, so nobody knows how it stands."""
    UNPROVEN = "unproven"
    """It stands as the run wanted it, and whether the run changed it nobody knows."""


STAYS: Mapping[Keep, OmitReason] = MappingProxyType(
    {
        Keep.BEFORE_UNKNOWN: OmitReason.BEFORE_UNKNOWN,
        Keep.EDITED: OmitReason.EDITED,
        Keep.GONE: OmitReason.GONE,
        Keep.HELD: OmitReason.HELD,
        Keep.UNREAD: OmitReason.UNSEEN,
        Keep.UNPROVEN: OmitReason.UNPROVEN,
    }
)
"""Accounts that still stand as the run left them, or may, and as what an undo keeps them in its journal: an undo that
leaves one of these is not done, whatever else it brought back."""


class Hold(Struct, frozen=True, kw_only=True):
    """Another run of the same action that has an account as changed or already so."""

    run: str
    ticket: str | None

    def __str__(self) -> str:
        return f"{self.run} ({self.ticket})" if self.ticket else self.run


class Kept(Struct, frozen=True, kw_only=True):
    """A call that is not undone, and why."""

    call: Call
    why: Keep
    words: str
    holder: str = ""
    """The run that holds it, if one does."""


class UndoPlan(Struct, frozen=True, kw_only=True):
    """The inverse calls, and what stays."""

    plan: Plan
    kept: tuple[Kept, ...]
    same_password: int
    """Accounts to be undone whose password is still the one they had before the run."""

    def counts(self) -> dict[str, int]:
        """What stays, by reason, every reason named."""
        found = Counter(kept.why for kept in self.kept)
        return {str(why): found[why] for why in Keep}


class Choice(Struct, frozen=True, kw_only=True):
    """What the operator asked of an undo."""

    wanted: Callable[[Call], bool] = lambda _call: True
    """Whether `--target` and `--exclude` let it through."""
    by_list: bool = False
    """The targets are named one by one: then an unknown `before` is the operator's business."""
    include_edited: bool = False
    rotated_only: bool = False


def in_question(family: Sequence[Ledger]) -> set[CallId]:
    """Calls that an attempt of some run of the family may have changed, and that no run of it is known to have."""
    maybe: set[CallId] = set()
    known: set[CallId] = set()
    for ledger in family:
        for call, entry, outcome in ledger.outcomes():
            if outcome is Outcome.CHANGED:
                known.add(call.id)
            elif entry.may_be_applied and outcome is not Outcome.ALREADY:
                maybe.add(call.id)
    return maybe - known


def found_so_late(ledger: Ledger) -> list[Call]:
    """Calls that a refused try of the run had found open, and that were so when it looked again.

    The API says that what it refuses so is not applied. So the change counts as somebody else's, and is not undone.
    """
    if ledger.settings.resend_already:  # what was so before is sent, too
        return []
    return [
        call
        for call, entry, outcome in ledger.outcomes()
        if outcome is Outcome.ALREADY and entry.attempts > (1 if entry.verdict is Verdict.ALREADY else 0)
    ]


def undo_plan(
    ledger: Ledger,
    readings: Readings,
    holds: dict[CallId, Hold],
    choice: Choice,
    questioned: Collection[CallId] = frozenset(),
) -> UndoPlan:
    """What undoing the run of `ledger` would do, by readings made now. `holds` are by the run's own call ids.

    `questioned`: calls that the run may have changed (`in_question`).
    """
    run = ledger.run
    action = ACTIONS[run.action]
    assert action.inverse is not None, "checked by the caller"
    inverse: list[Call] = []
    kept: list[Kept] = []
    same_password = 0
    for call, entry, outcome in ledger.outcomes():
        reading = readings.get(call.where)
        hold = holds.get(call.id)
        is_mine = None if call.id in questioned else outcome is Outcome.CHANGED
        found = _why_keep(call, entry, outcome, is_mine, action, reading, hold, choice)
        if found is not None:
            holder = hold.run if hold is not None and found[0] is Keep.HELD else ""
            kept.append(Kept(call=call, why=found[0], words=found[1], holder=holder))
            continue
        state = reading.find(call.user) if reading is not None else None
        same_password += state is not None and not _is_rotated(entry, state)
        inverse.append(Call(inverse_id(call), action.inverse, call.account, call.region, call.instance, call.user))
    calls = interleave(inverse, key=lambda call: call.where)
    plan = Plan(action=action.inverse, calls=calls, omits=(), digest=plan_digest(calls))
    return UndoPlan(plan=plan, kept=tuple(kept), same_password=same_password)


def is_before_known(entry: Entry) -> bool:
    """Whether a call's account was read right before it was sent: a reading that was old by then proves nothing."""
    return entry.before is not None and entry.before.status is not None and entry.before.why is None


def inverse_id(call: Call) -> CallId:
    """The id of the call that undoes one."""
    inverse = ACTIONS[call.action].inverse
    assert inverse is not None, "checked by the caller"
    return call_id(call.account, call.region, call.instance, call.user, inverse)


class StillSo:
    """Asked of each call of an undo right before it is sent: does its account still stand as the run left it?"""

    def __init__(self, ledger: Ledger, *, include_edited: bool) -> None:
        """`ledger` is of the run that is undone. What its preview decided for good is not asked again."""
        self._ledger = ledger
        self._choice = Choice(by_list=True, include_edited=include_edited)
        self._undone: dict[CallId, Call] | None = None

    def __call__(self, call: Call, reading: Reading) -> Omit | None:
        """Why it must stay, by a newer reading; None if it may be brought back."""
        if self._undone is None:
            self._undone = {inverse_id(each): each for each in self._ledger.calls.values()}
        of = self._undone.get(call.id)
        if of is None:
            return None
        entry = self._ledger.entry(of.id)
        found = _why_keep(of, entry, entry.derived(), True, ACTIONS[of.action], reading, None, self._choice)
        return None if found is None else stays(call, found[0], found[1], "looked at again before it was sent")


def stays(call: Call, why: Keep, words: str, where: str) -> Omit:
    """A call of an undo that is not sent, as its account must stay as it is."""
    target = Target(call.instance, call.user, call.region, call.account)
    return Omit(target, STAYS.get(why, OmitReason.EDITED), words, where)


def _why_keep(
    call: Call,
    entry: Entry,
    outcome: Outcome,
    is_mine: bool | None,
    action: Action,
    reading: Reading | None,
    hold: Hold | None,
    choice: Choice,
) -> tuple[Keep, str] | None:
    if is_mine is False:
        return Keep.NOT_CHANGED, f"the run left it {outcome}"
    if not choice.wanted(call):
        return Keep.NOT_ASKED, "left out by --target or --exclude"
    if entry.back is not None:
        at = f"{entry.back.latest.at[:19]}Z"
        return Keep.CHANGED_SINCE, f"the run itself read it as changed back, at {at}: how it is now is somebody else's"
    if reading is None or (reading.accounts is None and not is_no_instance(reading)):
        why = reading.code if reading is not None else "not in time"
        return Keep.UNREAD, f"its instance cannot be read now ({why}); undo the run again once it can"
    state = reading.find(call.user)
    if state is None and reading.accounts is not None and not reading.complete:
        return Keep.UNREAD, "its instance shows only a part of its accounts now; undo the run again once it shows all"
    if state is None:
        return Keep.GONE, "not found now"
    assert action.is_desired is not None
    if not action.is_desired(state):
        return Keep.CHANGED_SINCE, f"no longer {action.done_word}: changed since by somebody else, or undone"
    if is_mine is None and not choice.by_list:
        return Keep.UNPROVEN, "whether the run changed it is not known; name it with --target to undo it"
    if not is_before_known(entry) and not choice.by_list:
        known = f" ({entry.before.why})" if entry.before is not None and entry.before.status is not None else ""
        return Keep.BEFORE_UNKNOWN, f"how it was before the run is not known{known}; name it with --target to undo it"
    rotated = _is_rotated(entry, state)
    if choice.rotated_only and not rotated:
        return Keep.NOT_ROTATED, "has the password it was locked with"
    if _is_edited(entry, state) and not rotated and not choice.include_edited:
        return Keep.EDITED, f"changed since, at {state.update_time}, but not its password; --include-edited takes it"
    if hold is not None:
        return Keep.HELD, f"held by {hold}"
    return None


def _is_edited(entry: Entry, state: AccountState) -> bool:
    verified = entry.verified
    return bool(verified and verified.update_time and state.update_time and state.update_time > verified.update_time)


def _is_rotated(entry: Entry, state: AccountState) -> bool:
    """The password was changed after the run had verified the account.

    PasswordUpdateTime is the zero date unless the password was changed through API or console (D-ACCTS).
    """
    before = entry.before.password_update_time if entry.before is not None else None
    now = state.password_update_time
    if not now or now == before:
        return False
    verified = entry.verified.update_time if entry.verified is not None else None
    return now > (before or "") and (verified is None or now >= verified)


def holds_of(ledger: Ledger, others: Iterable[Ledger], released: Sequence[str] = ()) -> dict[CallId, Hold]:
    """Which accounts other runs of the same action hold, by the call ids of `ledger` (identity makes them equal).

    A run holds what it has as changed or already so, until an undo of it has changed it back. Runs linked to this one
    by rerun are the same incident and hold nothing against it.
    """
    run = ledger.run
    by_run = {str(other.run.run): other for other in others}
    family = linked(run.run, by_run, ledger)
    holds: dict[CallId, Hold] = {}
    for name, other in sorted(by_run.items()):
        if name in family or other.run.action != run.action or any(name.startswith(text) for text in released):
            continue
        undone = {key for each in linked(name, by_run) for key in undone_keys(each, by_run)}
        for call, _, outcome in other.outcomes():
            key = (call.account, call.region, call.instance, call.user)
            if outcome in (Outcome.CHANGED, Outcome.ALREADY) and key not in undone:
                holds.setdefault(call.id, Hold(run=name, ticket=other.run.ticket))
    return holds


def linked(run: str, by_run: dict[str, Ledger], ledger: Ledger | None = None) -> set[str]:
    """The run, those it reran, and those that reran it, near and far."""
    parents = {
        name: other.run.parent.run
        for name, other in by_run.items()
        if other.run.parent is not None and other.run.parent.verb == "rerun"
    }
    if ledger is not None and ledger.run.parent and ledger.run.parent.verb == "rerun":
        parents[run] = ledger.run.parent.run
    family = {run}
    while True:
        more = {name for name, parent in parents.items() if parent in family}
        more |= {parent for name, parent in parents.items() if name in family}
        if more <= family:
            return family
        family |= more


def undone_keys(run: str, by_run: dict[str, Ledger]) -> set[tuple[str, str, str, str]]:
    """Accounts that undos of `run` have brought back, and no undo of those has taken again."""
    keys: set[tuple[str, str, str, str]] = set()
    for name, other in by_run.items():
        if other.run.parent is None:
            continue
        if other.run.parent.verb != "undo" or other.run.parent.run != run:
            continue
        family = linked(name, by_run).intersection(by_run)  # what failed, an undo's reruns bring back
        again = {key for each in family for key in undone_keys(each, by_run)}
        keys |= {key for each in family for key in _done(by_run[each])} - again
    return keys


def _done(ledger: Ledger) -> set[tuple[str, str, str, str]]:
    """Accounts that a run left in its desired state."""
    return {
        (call.account, call.region, call.instance, call.user)
        for call, _, outcome in ledger.outcomes()
        if outcome in (Outcome.CHANGED, Outcome.ALREADY)
    }


# ---- verify --------------------------------------------------------------------------------------------------------


class Recheck(Struct, frozen=True, kw_only=True):
    """How the accounts of a run stand now."""

    agree: int
    undone: int
    """Brought back on purpose, by an undo of the run."""
    back: tuple[Call, ...]
    """Brought to the desired state by the run, or found in it, and not in it any more."""
    unread: tuple[Call, ...]
    never: tuple[Call, ...]
    """Asked for, never brought to the desired state by the run nor found in it, and not in it now."""
    since: int
    """Asked for, and as asked now, though the run did not bring it there."""


def recheck(ledger: Ledger, readings: Readings, undone: Collection[tuple[str, str, str, str]] = frozenset()) -> Recheck:
    """Compare what a run left with readings made now; `undone` are accounts that undos have brought back."""
    run = ledger.run
    assert ACTIONS[run.action].is_desired is not None, "checked by the caller"
    agree = on_purpose = since = 0
    back: list[Call] = []
    unread: list[Call] = []
    never: list[Call] = []
    for call, entry, outcome in ledger.outcomes():
        was_so = outcome in (Outcome.CHANGED, Outcome.ALREADY) or entry.is_back
        reading = readings.get(call.where)
        state = reading.find(call.user) if reading is not None else None
        is_so = None if state is None else ACTIONS[run.action].shows(state)
        if is_so:
            agree += was_so
            since += not was_so
        elif is_so is False and (call.account, call.region, call.instance, call.user) in undone:
            on_purpose += 1
        elif not was_so:
            never.append(call)
        else:
            (unread if is_so is None else back).append(call)
    never += [call for call, _, _ in ledger.shortfall()]
    return Recheck(
        agree=agree, undone=on_purpose, back=tuple(back), unread=tuple(unread), never=tuple(never), since=since
    )


# ---- families ------------------------------------------------------------------------------------------------------


def merged(ledgers: Sequence[Ledger]) -> Ledger:
    """One ledger of runs linked by rerun, oldest first: the latest outcome of every call, under the oldest's name."""
    whole = Ledger(ledgers[0].run)
    for ledger in ledgers:
        whole.absorb(ledger)
    return whole
