"""What is known of a run, folded from its records. No I/O, no clock.

The live run, a resume, a report and `status` use the same fold. The live run applies each record once it is durable,
a reader applies the lines of the file. So a live run shows what its journal says.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any

import msgspec.structs
from msgspec import Struct

from engine.api import codes
from engine.api.actions import Action
from engine.api.codes import row_of
from engine.journal import records
from engine.journal.records import unix_seconds
from engine.journal.watched import Watched, Word
from engine.model import LACKING, STAYS, AccountState, Call, CallId, OmitReason, Outcome, Proof, Verdict


def lacking_code(reason: str) -> str:
    """Return our code for a reason of `lacking`: `bad_row` is reported as Local.BadRow."""
    return "Local." + "".join(word.capitalize() for word in reason.split("_"))


class Back(Struct):
    """The newest reading of an account that one showed as changed back, after its call was settled as done."""

    latest: records.Verified
    code: str | None
    message: str | None
    """`code` and `message` of the call's `settled`."""


class Entry:
    """What is known of one call. Its size does not grow with its attempts."""

    __slots__ = (
        "accepted_at",
        "attempts",
        "back",
        "before",
        "code",
        "denied_at",
        "doubt",
        "first_sent_at",
        "message",
        "outcome",
        "proof",
        "request_id",
        "settled_at",
        "spent",
        "suspect",
        "unanswered",
        "verdict",
        "verified",
        "was_in_doubt",
    )

    def __init__(self) -> None:
        self.attempts = 0
        """Number of the last attempt, over all sessions."""
        self.unanswered = False
        """Whether the last attempt has a `sent` and no `reply`."""
        self.doubt = False
        """Whether an attempt may have been applied and no reading since denies it."""
        self.was_in_doubt = False
        """Whether any attempt may have been applied, even if a reading denied it: that may have come too early."""
        self.verdict: Verdict | None = None
        """Verdict on the last reply."""
        self.spent = False
        """Whether any attempt reached the server and was neither throttled nor fatal."""
        self.suspect = False
        """Whether any answer was an error that does not say whether the attempt was applied."""
        self.request_id: str | None = None
        """The last request id from the server; once settled, that of the settling attempt."""
        self.code: str | None = None
        self.message: str | None = None
        self.before: records.Before | None = None
        self.verified: records.Verified | None = None
        """The last reading after an attempt."""
        self.outcome: Outcome | None = None
        self.proof: Proof | None = None
        self.first_sent_at: str | None = None
        self.accepted_at: str | None = None
        """When the API accepted the call; None if it has not."""
        self.denied_at: str | None = None
        """When the last reading before the call was settled showed the account as not desired; None: none did."""
        self.settled_at: str | None = None
        self.back: Back | None = None
        """Set once a later reading shows the account as changed back."""

    @property
    def settled(self) -> bool:
        """Whether the outcome is final."""
        return self.outcome is not None

    @property
    def needs_reading(self) -> bool:
        """Whether a resume must read the account, or judge the last answer, before it may send the call."""
        if self.settled:
            return False
        return self.unanswered or self.was_in_doubt or self.verdict in _TO_BE_JUDGED

    @property
    def is_back(self) -> bool:
        """Whether the newest reading says that the account is no longer as the call left it."""
        return self.back is not None and not self.back.latest.agrees

    @property
    def proved_at(self) -> str | None:
        """Time of the newest reading that shows the account as desired; None if there is none."""
        if self.back is not None:
            return self.back.latest.at if self.back.latest.agrees else None
        if self.proof is Proof.READ:
            return self.verified.at if self.verified is not None else self.settled_at
        if self.proof is Proof.BEFORE and self.before is not None:
            return self.before.read_at or self.before.at
        return self.settled_at if self.proof is Proof.BEFORE else None

    def was_desired(self, action: Action) -> bool:
        """Return whether the account was as desired before the first send; False if that is not known."""
        before = self.before
        if before is None or before.status is None or action.is_desired is None:
            return False
        return action.is_desired(AccountState(user="", status=before.status, cam=before.cam))

    @property
    def state_before(self) -> AccountState | None:
        """The account as it was read before the call; None if it was not."""
        before = self.before
        if before is None or before.status is None:
            return None
        return AccountState(
            user="", status=before.status, cam=before.cam, password_update_time=before.password_update_time or ""
        )

    @property
    def is_unsent(self) -> bool:
        """Whether no attempt was spent, in doubt or unanswered, so that the call's `before` may still be read.

        A reading that denied an attempt in doubt does not change this: it may have come too early.
        """
        return not (self.settled or self.spent or self.was_in_doubt or self.needs_reading)

    @property
    def may_be_applied(self) -> bool:
        """Whether an attempt was applied, or may still take effect after a reading that denies it."""
        return self.was_in_doubt or self.unanswered or self.suspect or self.accepted_at is not None

    def derived(self) -> Outcome:
        """Return the outcome as it stands: the settled one, or FAILED if the account was changed back since.

        Unsettled: UNKNOWN if any attempt was in doubt or the last answer is done or already; FAILED if any was spent.
        """
        if self.outcome is not None:
            return Outcome.FAILED if self.is_back else self.outcome
        if self.unanswered or self.was_in_doubt or self.verdict in (Verdict.DONE, Verdict.ALREADY):
            return Outcome.UNKNOWN
        return Outcome.FAILED if self.spent else Outcome.UNATTEMPTED


_FRESH = Entry()
_TO_BE_JUDGED = (Verdict.DONE, Verdict.ALREADY, Verdict.REJECTED)
_GOOD = (Outcome.CHANGED, Outcome.ALREADY)


_OF_A_WORD: Mapping[Word, tuple[Outcome, str | None]] = MappingProxyType(
    {
        Word.AS_LEFT: (Outcome.ALREADY, None),
        Word.OPENED: (Outcome.ALREADY, None),
        Word.BACK: (Outcome.FAILED, codes.CHANGED_BACK),
        Word.UNREAD: (Outcome.UNKNOWN, codes.UNREAD),
    }
)
"""Word of a watch → the outcome of its call, and the code."""
_ANSWERED_BADLY = (Verdict.TRANSIENT, Verdict.REJECTED)


def _is_said_later(record: records.AnyRecord) -> bool:
    """Return whether a later command wrote the record, and not a session of the run."""
    if isinstance(record, records.Note):
        return record.what in records.LINKS or record.what in records.SAID_LATER
    return isinstance(record, records.Released | records.HoldLine)


def _is_unsigned(record: records.ReplyLine) -> bool:
    """Return whether the API refused keys or clock and a retry makes sense; such an attempt was not applied."""
    return record.verdict is Verdict.TRANSIENT and row_of(record.code).is_refusal


_FEW = 128
"""Send times that `add` steps over one by one; as a rule no more attempts are in flight at once."""


class PaceMeter:
    """A meter of the most sends in any one-second window; send times may arrive up to `HORIZON_S` out of order."""

    HORIZON_S = 120.0

    def __init__(self) -> None:
        self._late: deque[float] = deque()
        """Send times of the last `HORIZON_S`, in order."""
        self._window: deque[float] = deque()
        self._worst = 0

    def add(self, at: float) -> None:
        """Count one send at UNIX time `at`."""
        late = self._late
        if not late or late[-1] <= at:
            late.append(at)
        elif late[-_FEW if len(late) >= _FEW else 0] <= at:  # profiled: most late times are late by a few places
            after = []
            while late and late[-1] > at:
                after.append(late.pop())
            late.append(at)
            late.extend(reversed(after))
        else:  # the clock was set back: stepping over two minutes of sends for each time would take minutes
            insort(late, at)
        while late[0] < at - self.HORIZON_S:
            count = _slid(self._window, late.popleft())
            if count > self._worst:
                self._worst = count

    def since(self, at: float) -> int:
        """Return how many sends are at UNIX time `at` or later; those older than `HORIZON_S` are not known any more."""
        count = 0
        for sent_at in reversed(self._late):
            if sent_at < at:
                break
            count += 1
        return count

    def worst(self) -> int:
        """Return the most sends in any second so far; `add` may still bring earlier times afterwards."""
        window, worst = self._window.copy(), self._worst
        for at in self._late:
            worst = max(worst, _slid(window, at))
        return worst


class LanePace:
    """How a lane kept its quota, from its attempts and their answers."""

    __slots__ = ("_meter", "accepted", "first_at", "guard", "last_at", "sent", "throttled")

    def __init__(self) -> None:
        self._meter = PaceMeter()
        self.sent = 0
        self.throttled = 0
        self.accepted = 0
        """Attempts that the server answered and did not throttle."""
        self.first_at: float | None = None
        self.last_at: float | None = None
        """UNIX times at which the first and the last accepted call left."""
        self.guard: float | None = None
        """The pacer's guard from the last `end` or lane note, a share of the interval; None if neither was written."""

    def add(self, sent_at: float, *, answered: bool, throttled: bool) -> None:
        """Count one attempt."""
        self.sent += 1
        self._meter.add(sent_at)
        if throttled:
            self.throttled += 1
        elif answered:
            self.accepted += 1
            if self.first_at is None or sent_at < self.first_at:
                self.first_at = sent_at
            if self.last_at is None or sent_at > self.last_at:
                self.last_at = sent_at

    def worst(self) -> int:
        """Return the most sends in any second."""
        return self._meter.worst()

    def sent_since(self, at: float) -> int:
        """Return how many attempts left at UNIX time `at` or later, at most `PaceMeter.HORIZON_S` ago."""
        return self._meter.since(at)

    def per_second(self) -> float | None:
        """Return the accepted calls a second, from the first to the last; None for fewer than two."""
        if self.first_at is None or self.last_at is None or self.last_at <= self.first_at:
            return None
        return (self.accepted - 1) / (self.last_at - self.first_at)


def _slid(window: deque[float], at: float) -> int:
    """Add a send at `at` to the window; return the sends in the second that ends there."""
    if window and window[-1] > at:
        window.clear()  # another host has the lane now, whose clock is behind: such times say nothing of each other
    window.append(at)
    while window[0] <= at - 1.0:
        window.popleft()
    return len(window)


class Link(Struct, frozen=True):
    """A later run of this one. The link is written before the other run begins, so that run may not exist."""

    run: str
    what: str
    """The kind of its note: one of `records.LINKS`."""
    at: str = ""
    """When it was written."""

    @property
    def is_undo(self) -> bool:
        """Whether the other run undoes this one."""
        return self.what == "undone_by"

    @property
    def is_rerun(self) -> bool:
        """Whether the other run repeats calls of this one."""
        return self.what == "continued_by"

    @property
    def is_watch(self) -> bool:
        """Whether the other run watches this one."""
        return self.what == "watched_by"


class Pause(Struct, frozen=True, kw_only=True):
    """A pause of the run that nobody has lifted."""

    by: str
    since: str
    """When it came into effect; before that, when it was asked for."""
    until: str | None = None
    """When it runs out; None: never."""
    last_sent_at: str | None = None
    """When the last call of its session left; None: none did."""
    in_effect: bool = False
    """Whether nothing is under way any more: no call leaves from then on."""


class Ledger:
    """The state of one run: its calls in plan order, and what is known of each."""

    def __init__(self, run: records.Run) -> None:
        """`run`: the first line of the journal, without which there is no run."""
        self.run = run
        self.watched = Watched(run.action) if run.watched is not None else None
        """How the accounts of a watch stand; None for any other run."""
        self.calls: dict[CallId, Call] = {}
        self.omits: list[records.OmitLine] = []
        self.dropped = 0
        """Targets that somebody took out of the live run."""
        self.confirmed: records.Confirmed | None = None
        self.approved: list[records.Approved] = []
        """What was signed of its plan."""
        self.unapproved: records.Note | None = None
        """Who went on without the signatures that a config asks for, and why; None if nobody did."""
        self.sessions: list[records.Session] = []
        self.end: records.End | None = None
        self.notes: deque[records.Note] = deque(maxlen=1000)
        self.given_up: dict[str, str] = {}
        """Account (or access point, if there is one account) → why this session sends nothing more to it."""
        self.pause: Pause | None = None
        """The pause that holds, or in which its last process ended; None: nobody paused it, or it goes on."""
        self.pauses: list[tuple[str, str | None]] = []
        """When each pause of the run was asked for, and when it ended; None: it holds. All in order."""
        self.waves: dict[int, records.WaveLine] = {}
        """The waves by number, as they stand; 0, if it is there, is the question before the first. Empty: no waves."""
        self.wave_of: dict[CallId, int] = {}
        """Call → its wave; empty if the run has no waves."""
        self.shards: dict[int, records.ShardLine] = {}
        """The shards of its plan by number; empty if one process has all of it."""
        self._changed: records.RunSettings | None = None
        """The settings, as a person changed them while the run was live."""
        self.links: list[Link] = []
        """Its reruns, undos and watch, as far as this journal names them."""
        self.releases: list[records.Released] = []
        """Which of the family's holds were ended without a call, as far as this journal says."""
        self.limits: list[records.HoldLine] = []
        """New ends of the family's holds, the last one counts."""
        self.told: list[records.Note] = []
        """What `tend` has told of this run, and what later commands have seen of its accounts."""
        self.identities: list[dict[str, Any]] = []
        """Identities whose keys signed, in the order in which they were learnt. Any: facts of a note."""
        self.uins: dict[str, str] = {}
        """Account → uin of the cloud account whose keys signed for it first, if known."""
        self.undone: frozenset[tuple[str, str, str, str]] = frozenset()
        """Accounts that undos have brought back since: (account, region, instance, user). `operations.family` sets it,
        as the journal of one run does not know them."""
        self.attempts = 0
        self.throttled = 0
        self.sent_calls = 0
        """Calls that were sent at least once."""
        self.settled_unsent = 0
        """Calls that were settled without a send: they were as asked before, or a guard forbids them."""
        self.last_at = run.at
        self._entries: dict[CallId, Entry] = {}
        self._settled: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self._back: set[CallId] = set()
        """Settled calls whose account was changed back."""
        self.lanes: dict[str, LanePace] = {}
        self._lanes: dict[CallId, str] = {}

    def apply(self, record: records.AnyRecord) -> None:
        """Fold in one record."""
        # Profiled: a table, as a replay does this a million times.
        fold = _FOLD.get(type(record))
        if fold is not None:
            self.last_at = record.at or self.last_at
            fold(self, record)
        else:
            self._apply_rare(record)

    def _apply_sent(self, record: records.Sent) -> None:
        entry = self._open(record.call)
        entry.attempts = record.attempt
        if entry.unanswered:  # an attempt of a process that died; the account could not be read, so it is sent again
            entry.doubt = entry.was_in_doubt = True
        entry.unanswered = True
        self.attempts += 1
        self._lanes[record.call] = record.lane
        if entry.first_sent_at is None:
            entry.first_sent_at = record.at
            self.sent_calls += 1

    def _apply_settled(self, record: records.Settled) -> None:
        entry = self._open(record.call)
        if entry.outcome is None:
            self._settled[record.outcome] += 1
            self.settled_unsent += entry.first_sent_at is None
        entry.outcome, entry.proof = record.outcome, record.proof
        entry.request_id = record.request_id or entry.request_id
        entry.code = record.code
        if record.message is not None:
            entry.message = record.message
        entry.settled_at = record.at
        self._lanes.pop(record.call, None)

    def _apply_verified(self, record: records.Verified) -> None:
        entry = self._open(record.call)
        if entry.outcome is not None:
            self._apply_later_look(entry, record)
            return
        entry.was_in_doubt = entry.was_in_doubt or entry.unanswered
        entry.verified = record
        # A reading that agrees leaves the doubt: `settled` follows, or a resume reads again. It is never sent again.
        if not record.agrees:
            entry.denied_at = record.at
            entry.doubt = entry.unanswered = False
            if entry.verdict in (Verdict.IN_DOUBT, None):
                entry.verdict = Verdict.TRANSIENT

    def _apply_watched(self, entry: Entry, record: records.Verified, watched: Watched) -> None:
        """Fold in the word of a watch on an account: it is the outcome until the next one."""
        word = watched.look(record)
        assert entry.outcome is not None, "as left, from its `call` on"
        self._settled[entry.outcome] -= 1
        entry.outcome, entry.code = _OF_A_WORD[word]
        self._settled[entry.outcome] += 1
        entry.verified, entry.settled_at = record, record.at

    def _apply_later_look(self, entry: Entry, record: records.Verified) -> None:
        """Fold in a reading made after the call was settled; the newest reading counts."""
        if self.watched is not None:
            self._apply_watched(entry, record, self.watched)
            return
        if entry.back is None:
            if record.agrees or entry.outcome not in _GOOD:
                return
            entry.back = Back(record, entry.code, entry.message)
        entry.back.latest = record
        if record.agrees:
            entry.code, entry.message = entry.back.code, entry.back.message
            self._back.discard(record.call)
        else:
            entry.code, entry.message = codes.CHANGED_BACK, None
            self._back.add(record.call)

    def _apply_before(self, record: records.Before) -> None:
        self._open(record.call).before = record

    def _apply_call(self, record: records.CallLine) -> None:
        self.calls[record.call] = Call(
            record.call, record.action, record.account, record.region, record.instance, record.user
        )
        if self.watched is not None:  # nothing of a watch is open: an account is as left until a reading says otherwise
            entry = self._open(record.call)
            entry.outcome, entry.proof = Outcome.ALREADY, Proof.READ
            self._settled[Outcome.ALREADY] += 1
            self.settled_unsent += 1

    def _apply_reply(self, record: records.ReplyLine) -> None:
        entry = self._open(record.call)
        entry.unanswered = False
        if record.code == codes.NOT_SENT:
            self.attempts -= 1  # the intent was written, but no byte left
            if entry.first_sent_at is not None and not (entry.spent or entry.was_in_doubt or entry.request_id):
                entry.first_sent_at = None
                self.sent_calls -= 1
        entry.verdict = record.verdict
        entry.code, entry.message = record.code, record.message
        entry.request_id = record.request_id or entry.request_id
        if record.verdict is Verdict.DONE:
            entry.accepted_at = record.at
        if record.verdict is Verdict.IN_DOUBT:
            entry.doubt = entry.was_in_doubt = True
        if record.code is not None and not entry.suspect and record.verdict in _ANSWERED_BADLY:
            entry.suspect = row_of(record.code).may_be_applied
        if record.verdict is Verdict.THROTTLED:
            self.throttled += 1
        elif not entry.spent and record.verdict is not Verdict.FATAL and not row_of(record.code).not_sent:
            entry.spent = not _is_unsigned(record)
        lane = self._lanes.pop(record.call, None)
        if record.sent_at is not None and lane is not None:
            throttled = record.verdict is Verdict.THROTTLED
            pace = self.lanes.setdefault(lane, LanePace())
            pace.add(unix_seconds(record.sent_at), answered=record.http is not None, throttled=throttled)

    def _apply_rare(self, record: records.AnyRecord) -> None:
        if record.at and not _is_said_later(record):
            self.last_at = record.at
        match record:
            case records.Released():
                self.releases.append(record)
            case records.HoldLine():
                self.limits.append(record)
            case records.OmitLine():
                self.omits.append(record)
                self.dropped += record.reason == OmitReason.DROPPED
                if record.call is not None and not self.entry(record.call).settled:
                    self.calls.pop(record.call, None)
                    self._entries.pop(record.call, None)
            case records.WaveLine():
                if record.state == records.PLANNED:
                    start = len(self.wave_of)
                    self.wave_of.update(dict.fromkeys(islice(self.calls, start, start + record.calls), record.n))
                self.waves[record.n] = record
            case records.ShardLine():
                self.shards[record.no] = record
            case records.Confirmed():
                self.confirmed = record
            case records.Approved():
                self.approved.append(record)
            case records.Note(what="unapproved"):
                self.unapproved = record
            case records.Session():
                self.sessions.append(record)
                self.end = None  # an `end` before it is that of an earlier session
                self.given_up.clear()
                self._end_pause(record.at)
                if record.settings is not None:
                    self._changed = None
            case records.End():
                self.end = record
                if self.watched is not None:
                    self.watched.end(record)
                for lane, guard in record.guard.items():
                    if lane in self.lanes:
                        self.lanes[lane].guard = guard
            case records.Note(what="lane_slowed" | "lane_recovered", data=data):
                self.lanes.setdefault(str(data.get("lane")), LanePace()).guard = data.get("guard")
                self.notes.append(record)
            case records.Note(what="route_closed", data=data):
                for name in [data["account"]] if data.get("account") else data.get("endpoints") or ():
                    self.given_up.setdefault(str(name), str(data.get("why")))
                self.notes.append(record)
            case records.Note(what="identity", data=data):
                if data not in self.identities:
                    self.identities.append(data)
                if data.get("uin"):  # the first one counts: later keys may be those of another cloud account
                    self.uins.setdefault(str(data.get("account")), str(data["uin"]))
                self.notes.append(record)
            case records.Note(what="changed", data=data):
                if data.get("rate") is not None:
                    self._changed = msgspec.structs.replace(self.settings, rate=data["rate"], quota=data["quota"])
                self.notes.append(record)
            case records.Note(what="control" | "paused" | "unpaused", data=data):
                self._apply_control(record, data)
                self.notes.append(record)
            case records.Note():
                if record.what in records.LINKS:
                    self.links.append(Link(str(record.data.get("run", "")), record.what, record.at))
                elif record.what in records.SAID_LATER:
                    self.told.append(record)
                else:
                    self.notes.append(record)
            case _:  # Read: for people and audits; the ledger does not need it.
                pass

    def _apply_control(self, record: records.Note, data: dict[str, Any]) -> None:
        # Any: facts of a note, which `sense` has checked.
        if record.what == "unpaused":
            self._end_pause(record.at)
            return
        is_new = self.pause is None
        if record.what == "paused":
            until, last = data.get("until"), data.get("last_sent_at")
            self.pause = Pause(by=str(data.get("by")), since=record.at, until=until, last_sent_at=last, in_effect=True)
        elif data.get("what") == "pause" and is_new:
            self.pause = Pause(by=str(data.get("by")), since=record.at)
        if is_new and self.pause is not None:
            self.pauses.append((record.at, None))

    def _end_pause(self, at: str) -> None:
        if self.pause is not None:
            self.pauses[-1] = (self.pauses[-1][0], at)
            self.pause = None

    def has_accepted(self) -> bool:
        """Return whether the API has accepted any call of this run."""
        done = self._settled[Outcome.CHANGED] or self._settled[Outcome.ALREADY]
        return bool(done) or any(entry.accepted_at is not None for entry in self._entries.values())

    def sources(self) -> set[str]:
        """Return the sources of keys that its sessions used, as far as its notes name them."""
        return {str(facts["source"]) for facts in self.identities if facts.get("source")}

    def acted_on(self) -> set[str]:
        """Return the cloud accounts on which any call was attempted."""
        return {call.account for call in self.calls.values() if (of := self._entries.get(call.id)) and of.attempts}

    def _open(self, call: CallId) -> Entry:
        entry = self._entries.get(call)
        if entry is None:
            entry = self._entries[call] = Entry()
        return entry

    def absorb(self, later: Ledger) -> None:
        """Add the calls and entries of a later run of the family; of a call in both, the later entry counts."""
        self.calls |= later.calls
        # A change of this run that the later run found as already done stays the change of this run.
        mine = {
            call: entry
            for call, entry in self._entries.items()
            if entry.outcome is Outcome.CHANGED and later.entry(call).outcome is Outcome.ALREADY
        }
        self._entries |= later._entries | mine
        self.omits += later.omits
        self.omits = [omit for omit in self.omits if omit.reason != OmitReason.RERUN or omit.call not in self.calls]
        self.identities += [facts for facts in later.identities if facts not in self.identities]
        self.uins = later.uins | self.uins
        self.pauses += later.pauses
        self.confirmed = self.confirmed or later.confirmed
        self.approved += later.approved
        self.unapproved = self.unapproved or later.unapproved
        self.lanes |= {f"{lane} of {later.run.run}": pace for lane, pace in later.lanes.items()}
        self.attempts += later.attempts
        self.throttled += later.throttled
        self.last_at = later.last_at
        self.end = later.end
        self._settled = dict.fromkeys(Outcome, 0)
        self.sent_calls = self.settled_unsent = 0
        for entry in self._entries.values():
            self.sent_calls += entry.first_sent_at is not None
            if entry.outcome is not None:
                self._settled[entry.outcome] += 1
                self.settled_unsent += entry.first_sent_at is None
        self._back = {call for call, entry in self._entries.items() if entry.is_back}

    def entry(self, call: CallId) -> Entry:
        """Return what is known of a call; a fresh entry if no record names it. Do not change the entry."""
        return self._entries.get(call, _FRESH)

    def outcomes(self) -> Iterator[tuple[Call, Entry, Outcome]]:
        """Yield every call in plan order, with its entry and its outcome as it stands."""
        for call_id, call in self.calls.items():
            entry = self.entry(call_id)
            yield call, entry, entry.derived()

    def calls_of(self, wave: int) -> Iterator[Call]:
        """Yield the calls of a wave that were not left out since, in plan order."""
        return (call for call_id, call in self.calls.items() if self.wave_of.get(call_id) == wave)

    @property
    def wave(self) -> records.WaveLine | None:
        """The wave that the run is in: the first that has not passed; None if all have, or if it has none."""
        return next((line for n, line in sorted(self.waves.items()) if n and line.state != records.PASSED), None)

    def is_undone(self, call: Call) -> bool:
        """Return whether an undo has brought the account back since."""
        return bool(self.undone) and (call.account, call.region, call.instance, call.user) in self.undone

    def proof_times(self) -> tuple[str, str] | None:
        """Return the times of the oldest and the newest reading that show an account as desired; None if none does."""
        times = [
            at
            for call, entry, outcome in self.outcomes()
            if outcome in _GOOD and (at := entry.proved_at) and not self.is_undone(call)
        ]
        return (min(times), max(times)) if times else None

    def lacking(self) -> list[records.OmitLine]:
        """Return what was asked for and has no call, such as bad rows and unread places; each counts as failed."""
        return [omit for omit in self.omits if omit.reason in LACKING]

    def shortfall(self) -> Iterator[tuple[Call, Entry, Outcome]]:
        """Yield what is `lacking` as failed calls, so that a report can list both alike."""
        action = self.run.action
        for omit in self.lacking():
            entry = Entry()
            entry.outcome, entry.code = Outcome.FAILED, lacking_code(omit.reason)
            entry.message = omit.rule if omit.reason in (*STAYS, OmitReason.DROPPED) else f"{omit.where}: {omit.rule}"
            yield Call(CallId(""), action, omit.account, omit.region, omit.instance, omit.user), entry, Outcome.FAILED

    def counts(self) -> dict[str, int]:
        """Return the number of calls by outcome as it stands, zeros included; what is `lacking` counts as failed."""
        counts = dict.fromkeys(Outcome, 0)
        counts.update(self._settled)
        unsettled = len(self.calls) - sum(self._settled.values())
        touched = 0
        for entry in self._entries.values():
            if entry.outcome is None:
                touched += 1
                counts[entry.derived()] += 1
        counts[Outcome.UNATTEMPTED] += unsettled - touched
        for call in self._back:
            if (outcome := self._entries[call].outcome) is not None:
                counts[outcome] -= 1
                counts[Outcome.FAILED] += 1
        counts[Outcome.FAILED] += len(self.lacking())
        return {str(outcome): count for outcome, count in counts.items()}

    def settled_counts(self) -> Mapping[Outcome, int]:
        """Return the number of settled calls by outcome; cheap enough for every progress line."""
        return self._settled

    @property
    def back(self) -> int:
        """Settled calls whose account was read as changed back."""
        return len(self._back)

    def left_out(self) -> dict[str, int]:
        """Return the number of targets left out of the plan, by reason, zeros included."""
        left_out = dict.fromkeys(map(str, OmitReason), 0)
        for omit in self.omits:
            left_out[omit.reason] = left_out.get(omit.reason, 0) + 1
        return left_out

    def worst_second(self) -> dict[str, int]:
        """Return the most sends in any second, by lane."""
        return {lane: pace.worst() for lane, pace in sorted(self.lanes.items())}

    @property
    def settings(self) -> records.RunSettings:
        """The settings in force: those of the last session or person that changed them, else those of the run."""
        if self._changed is not None:
            return self._changed
        for session in reversed(self.sessions):
            if session.settings is not None:
                return session.settings
        return self.run.settings

    @classmethod
    def of(cls, lines: Iterable[records.AnyRecord]) -> Ledger:
        """Return the ledger of a sequence of records."""
        first, *rest = lines
        assert isinstance(first, records.Run), "a journal begins with its run"
        ledger = cls(first)
        for record in rest:
            ledger.apply(record)
        return ledger


_FOLD: Mapping[type[records.AnyRecord], Callable[[Ledger, Any], None]] = MappingProxyType(
    {
        records.Sent: Ledger._apply_sent,
        records.ReplyLine: Ledger._apply_reply,
        records.Settled: Ledger._apply_settled,
        records.Verified: Ledger._apply_verified,
        records.Before: Ledger._apply_before,
        records.CallLine: Ledger._apply_call,
    }
)
"""Kind of record → how it is folded in. Any: each function takes its own kind."""
