"""What of a run can be undone, and what must stay. No I/O, no clock.

An undo touches only accounts that the run changed and that still stand as the run left them (promise P4). Every other
account is named with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from engine.api.actions import ACTIONS, Action
from engine.journal.ledger import Entry, Ledger
from engine.model import GOOD, AccountState, Call, CallId, Omit, OmitReason, Outcome, Reading, Target, Verdict, call_id
from engine.planning.holds import Bar, Holds, key_of
from engine.planning.outlook import Readings, is_no_instance
from engine.planning.plan import Plan, interleave, plan_digest


class Keep(StrEnum):
    """Why a call of the run is not undone."""

    NOT_CHANGED = "not_changed"
    """The run did not change the account."""
    BEFORE_UNKNOWN = "before_unknown"
    """It is not known how the account was before the run."""
    CHANGED_SINCE = "changed_since"
    """The account's lock or CAM state is no longer as the run left it."""
    EDITED = "edited"
    """Something else about the account was changed since."""
    NOT_ROTATED = "not_rotated"
    """`--rotated` was asked for, and the account still has the password it was locked with."""
    HELD = "held"
    """Another run holds the account: this run's hold on it ends, and it stays as it is."""
    NOT_ASKED = "not_asked"
    """`--target` or `--exclude` leaves it out."""
    GONE = "gone"
    """The account or its instance no longer exists."""
    UNREAD = "unread"
    """The instance cannot be read now, or not to the end of its list, so it is not known how the account stands."""
    UNPROVEN = "unproven"
    """The account stands as the run wanted it, and it is not known whether the run changed it."""


STAYS: Mapping[Keep, OmitReason] = MappingProxyType(
    {
        Keep.BEFORE_UNKNOWN: OmitReason.BEFORE_UNKNOWN,
        Keep.EDITED: OmitReason.EDITED,
        Keep.GONE: OmitReason.GONE,
        Keep.UNREAD: OmitReason.UNSEEN,
        Keep.UNPROVEN: OmitReason.UNPROVEN,
    }
)
"""Why an account that may still stand as the run left it is not undone → the reason in the undo's journal. An undo that
leaves such an account is not done, whatever else it brought back."""


class Kept(Struct, frozen=True, kw_only=True):
    """A call that is not undone, and why."""

    call: Call
    why: Keep
    words: str
    holder: str = ""
    """Name of the run that holds the account; empty if none does."""


class UndoPlan(Struct, frozen=True, kw_only=True):
    """The inverse calls, and the calls that are not undone."""

    plan: Plan
    kept: tuple[Kept, ...]
    same_password: int
    """Number of accounts to be undone that still have the password they had before the run."""
    released: tuple[Call, ...] = ()
    """Calls whose accounts are not opened, and that the run shall not hold any more."""
    seen: tuple[Call, ...] = ()
    """Calls whose accounts were read as not standing any more as a run had left them: nothing of them is owed."""

    def counts(self) -> dict[str, int]:
        """Return reason → number of calls that are not undone for it; every reason is named."""
        found = Counter(kept.why for kept in self.kept)
        return {str(why): found[why] for why in Keep}


class Choice(Struct, frozen=True, kw_only=True):
    """What the operator asked of an undo."""

    wanted: Callable[[Call], bool] = lambda _call: True
    """Whether `--target` and `--exclude` let a call through."""
    by_list: bool = False
    """Whether the operator named the targets one by one: then a call is undone even if its `before` is unknown."""
    include_edited: bool = False
    rotated_only: bool = False


def in_question(family: Sequence[Ledger]) -> set[CallId]:
    """Return calls that an attempt of the family may have applied, and that no run of it is known to have changed."""
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
    """Return calls that were open at an attempt the API refused, and already so when the run looked again.

    The API says that an attempt refused in this way is not applied. So somebody else made the change: it stays.
    """
    if ledger.settings.resend_already:  # then attempts are also sent for accounts that were so before
        return []
    return [
        call
        for call, entry, outcome in ledger.outcomes()
        if outcome is Outcome.ALREADY and entry.attempts > (1 if entry.verdict is Verdict.ALREADY else 0)
    ]


class Owing:
    """Whose change of an account an undo of a run takes back, and who holds the account nevertheless.

    It takes back what the run changed, and what another run changed whose release waited on this one.
    """

    def __init__(
        self, ledger: Ledger, holds: Holds, ignored: Collection[str] = (), *, due_at: float | None = None
    ) -> None:
        """`ignored`: runs whose holds do not count, as the operator ends them with this undo.

        `due_at`: UNIX time now, of an undo that opens only accounts whose last limit has passed (`Holds.bar`).
        """
        self._ledger = ledger
        self._run = ledger.run.run
        self._holds = holds
        self._mine = holds.family_of(self._run)
        self._ignored = frozenset(ignored)
        self._ending = [family for run in ignored if (family := holds.family_of(run)) is not None]
        self._due_at = due_at

    def at(self, due_at: float) -> Owing:
        """Return the same for an undo by limit at another UNIX time."""
        return Owing(self._ledger, self._holds, self._ignored, due_at=due_at)

    @property
    def is_by_limit(self) -> bool:
        """Whether the undo opens only accounts whose limit has passed: then it releases nothing."""
        return self._due_at is not None

    @property
    def ends_at(self) -> float | None:
        """UNIX time at which the holds of the run end; None: never."""
        return self._mine.ends_at if self._mine is not None else None

    def bar(self, call: Call) -> Bar | None:
        """Return which hold keeps the account of a call from being opened; None if none does."""
        key = key_of(call)
        if self._due_at is not None:
            return self._holds.bar(key, self._due_at)
        others = [each for each in self._holds.holding(key, but=self._run) if not each.names & self._ignored]
        return Bar(f"held by {' and '.join(map(str, others))}", others[0].run) if others else None

    def needs_rotation(self, call: Call) -> bool:
        """Return whether the account may be opened only if its password was changed after the lock."""
        return self._due_at is not None and self._holds.needs_rotation(key_of(call))

    def holds(self, call: Call) -> bool:
        """Return whether the run, its family, or a run whose holds end with this undo, holds the account of a call."""
        key = key_of(call)
        if self._mine is None or self._ledger.entry(call.id).derived() not in GOOD:
            return self._mine is not None and self._mine.holds(key)
        return any(each.holds(key) for each in (self._mine, *self._ending))

    def was_taken_back(self, call: Call) -> bool:
        """Return whether the run changed the account, and a run of ours has opened it since: what it is now is new."""
        entry = self._ledger.entry(call.id)
        is_change = entry.derived() is Outcome.CHANGED and not entry.was_desired(ACTIONS[call.action])
        return is_change and self._holds.change(key_of(call)) is None

    def entry(self, call: Call) -> Entry | None:
        """Return what is known of the change that is to be taken back; None if there is none to take back."""
        entry = self._ledger.entry(call.id)
        outcome = entry.derived()
        change = self._holds.change(key_of(call)) if outcome in GOOD else None
        if change is None or change.run == self._run:
            return None if outcome is Outcome.ALREADY else entry
        is_mine = self._mine is not None and change.run in self._mine.names
        return None if is_mine and outcome is Outcome.ALREADY else change.entry


def undo_plan(
    ledger: Ledger,
    readings: Readings,
    owing: Owing,
    choice: Choice,
    questioned: Collection[CallId] = frozenset(),
) -> UndoPlan:
    """Return what an undo of the run of `ledger` will do, by readings made now.

    `questioned` are calls that the run may have changed (`in_question`).
    """
    run = ledger.run
    action = ACTIONS[run.action]
    assert action.inverse is not None, "checked by the caller"
    inverse: list[Call] = []
    kept: list[Kept] = []
    released: list[Call] = []
    seen: list[Call] = []
    same_password = 0
    for call, mine, outcome in ledger.outcomes():
        reading = readings.get(call.where)
        owed = owing.entry(call) if outcome in GOOD else None
        entry = owed or mine
        is_mine = None if call.id in questioned else owed is not None
        bar = owing.bar(call) if outcome in GOOD or is_mine is None else None
        chosen = replace(choice, rotated_only=True) if owing.needs_rotation(call) else choice
        found = _why_keep(call, entry, outcome, is_mine, action, reading, bar, chosen)
        if (found is None or found[0] in _NOT_ASKED_OF_OTHERS) and owing.was_taken_back(call):
            found = Keep.CHANGED_SINCE, f"was brought back since, and is {action.done_word} again: by somebody else"
        if found is not None:
            holder = bar.run if bar is not None and found[0] is Keep.HELD else ""
            kept.append(Kept(call=call, why=found[0], words=found[1], holder=holder))
            ends = found[0] in _ENDS and not (found[0] is Keep.HELD and owing.is_by_limit)
            if ends and outcome in GOOD and owing.holds(call):
                released.append(call)
            if found[0] is Keep.CHANGED_SINCE and owed is not None:
                seen.append(call)
            continue
        state = reading.find(call.user) if reading is not None else None
        same_password += state is not None and not _is_rotated(entry, state)
        inverse.append(Call(inverse_id(call), action.inverse, call.account, call.region, call.instance, call.user))
    calls = interleave(inverse, key=lambda call: call.where)
    plan = Plan(action=action.inverse, calls=calls, omits=(), digest=plan_digest(calls))
    return UndoPlan(
        plan=plan, kept=tuple(kept), same_password=same_password, released=tuple(released), seen=tuple(seen)
    )


def is_before_known(entry: Entry) -> bool:
    """Return whether the account was read right before its call was sent; an older reading (`why`) proves nothing."""
    return entry.before is not None and entry.before.status is not None and entry.before.why is None


def inverse_id(call: Call) -> CallId:
    """Return the id of the call that undoes `call`."""
    inverse = ACTIONS[call.action].inverse
    assert inverse is not None, "checked by the caller"
    return call_id(call.account, call.region, call.instance, call.user, inverse)


class StillSo:
    """A check right before each call of an undo is sent: does its account still stand as the run left it?"""

    def __init__(self, ledger: Ledger, owing: Owing, *, include_edited: bool) -> None:
        """Check against `ledger` of the run that is undone; what the undo's preview decided is not asked again."""
        self._ledger = ledger
        self._owing = owing
        self._choice = Choice(by_list=True, include_edited=include_edited)
        self._undone: dict[CallId, Call] | None = None

    def __call__(self, call: Call, reading: Reading) -> Omit | None:
        """Return the omit of a call whose account must stay, by a newer reading; None if it may be brought back."""
        if self._undone is None:
            self._undone = {inverse_id(each): each for each in self._ledger.calls.values()}
        of = self._undone.get(call.id)
        if of is None:
            return None
        entry = self._owing.entry(of) or self._ledger.entry(of.id)
        choice = replace(self._choice, rotated_only=self._owing.needs_rotation(of))
        found = _why_keep(of, entry, entry.derived(), True, ACTIONS[of.action], reading, None, choice)
        return None if found is None else stays(call, found[0], found[1], "looked at again before it was sent")


_ENDS = (Keep.HELD, Keep.NOT_CHANGED, Keep.CHANGED_SINCE)
"""Why an account is left as it is although the hold of the run ends: it is another's, or there is nothing to open."""


_NOT_ASKED_OF_OTHERS = (Keep.EDITED, Keep.NOT_ROTATED)
"""Why an account of the run stays, which say nothing of an account that somebody else has locked since."""


def stays(call: Call, why: Keep, words: str, where: str) -> Omit:
    """Return the omit of a call that an undo does not send, as its account must stay as it is."""
    target = Target(call.instance, call.user, call.region, call.account)
    reason = OmitReason.HELD if why is Keep.HELD else STAYS.get(why, OmitReason.EDITED)
    return Omit(target, reason, words, where)


def _why_keep(
    call: Call,
    entry: Entry,
    outcome: Outcome,
    is_mine: bool | None,
    action: Action,
    reading: Reading | None,
    bar: Bar | None,
    choice: Choice,
) -> tuple[Keep, str] | None:
    if is_mine is False and outcome is not Outcome.ALREADY:
        return Keep.NOT_CHANGED, f"the run left it {outcome}"
    if not choice.wanted(call):
        return Keep.NOT_ASKED, "left out by --target, --wave or --exclude"
    if bar is not None:
        return Keep.HELD, bar.words
    if is_mine is False:
        return Keep.NOT_CHANGED, "the run found it so, and no run here has changed it"
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
    return None


def _is_edited(entry: Entry, state: AccountState) -> bool:
    verified = entry.verified
    return bool(verified and verified.update_time and state.update_time and state.update_time > verified.update_time)


def _is_rotated(entry: Entry, state: AccountState) -> bool:
    """Return whether the password was changed after the run had verified the account.

    PasswordUpdateTime is the zero date unless the password was changed through API or console (D-ACCTS).
    """
    before = entry.before.password_update_time if entry.before is not None else None
    now = state.password_update_time
    if not now or now == before:
        return False
    verified = entry.verified.update_time if entry.verified is not None else None
    return now > (before or "") and (verified is None or now >= verified)


# ---- verify --------------------------------------------------------------------------------------------------------


class Recheck(Struct, frozen=True, kw_only=True):
    """How the accounts of a run stand now."""

    agree: int
    undone: int
    """Number of accounts that an undo of the run has brought back."""
    back: tuple[Call, ...]
    """Calls whose account the run brought to the desired state, or found in it, and that is not in it any more."""
    unread: tuple[Call, ...]
    never: tuple[Call, ...]
    """Calls whose account is not in the desired state now, and that the run neither brought there nor found there."""
    since: int
    """Number of accounts in the desired state now that the run neither brought there nor found there."""


def recheck(ledger: Ledger, readings: Readings, undone: Collection[tuple[str, str, str, str]] = frozenset()) -> Recheck:
    """Compare what a run left with readings made now; `undone` are accounts that undos have brought back."""
    run = ledger.run
    assert ACTIONS[run.action].is_readable, "checked by the caller"
    agree = on_purpose = since = 0
    back: list[Call] = []
    unread: list[Call] = []
    never: list[Call] = []
    for call, entry, outcome in ledger.outcomes():
        was_so = outcome in (Outcome.CHANGED, Outcome.ALREADY) or entry.is_back
        reading = readings.get(call.where)
        state = reading.find(call.user) if reading is not None else None
        is_so = None if state is None else ACTIONS[run.action].shows(state, entry.state_before)
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
    """Return one ledger, of the oldest's name, for runs linked by rerun (oldest first): later outcomes count."""
    whole = Ledger(ledgers[0].run)
    for ledger in ledgers:
        whole.absorb(ledger)
    return whole
