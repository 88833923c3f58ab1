"""How a run stands while it works, from its ledger: what the run itself shows, and `status` from another shell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.api.actions import ACTIONS
from engine.journal import records
from engine.model import Outcome, Verdict, Where

if TYPE_CHECKING:
    from engine.journal.ledger import Ledger, Pause
    from engine.journal.records import WaveLine

RECENT_S = 10.0
"""Seconds over which the present rate is measured."""
_READ_BACK_S = 2.0
"""Seconds that pass, as a rule, from the last send until its reading."""


class Progress(Struct, frozen=True, kw_only=True):
    """How a run stands, for the user. Counts are of calls."""

    total: int
    verified: int
    """Settled as asked; with `verify` off, accepted as asked."""
    already: int
    """Of these, never sent: they were as asked before."""
    sent: int
    """Sent at least once, in any session."""
    settled: int
    failed: int
    throttled: int
    """Attempts that the API refused because of the quota. No call fails by that."""
    awaiting: int
    """Accepted, and not proven yet."""
    rate: float
    """Writes sent a second, over the last `RECENT_S`."""
    quota: float
    """Writes a second that the open lanes may send together."""
    seconds: float
    """Since the session began."""
    is_verified: bool
    """Whether accounts are read back."""
    done_word: str = "verified"
    """One word for what the accounts are that are verified: locked."""
    waits: tuple[str, ...] = ()
    """What the run waits for, and until when."""
    held: int = 0
    """Calls never sent whose instance takes none for now."""
    behind_s: float | None = None
    """Seconds for which readings have not shown what was accepted; None: no reading has missed anything."""
    in_flight: int = 0
    backing_off: int = 0
    """Calls that are tried again after a pause."""
    stopping: str | None = None
    """Why the session drains, if it does."""
    dropped: int = 0
    """Taken out of the live run by somebody."""
    pause: Pause | None = None
    """Who paused the run, if somebody did."""
    wave: WaveLine | None = None
    """The wave that the run is in; None if all have passed, or if it has none."""
    waves: int = 0
    """How many waves the run has."""

    @property
    def eta_s(self) -> float | None:
        """Seconds until every call is sent and read back at the present rate; None: nothing says how long it takes.

        It does not count the calls that wait for their instance (`held`): `waits` says until when they are tried.
        """
        unsent = self.total - self.sent - self.already - self.held
        rate = self.rate if self.seconds >= RECENT_S else max(self.rate, self.quota)
        is_halted = self.pause is not None or (self.wave is not None and self.wave.n < self.waves)
        is_cut_off = any(not wait[:1].isdigit() for wait in self.waits)  # no lane, no disk
        if unsent <= 0 or rate <= 0 or is_cut_off or self.stopping is not None or is_halted:
            return None
        return unsent / rate + (_READ_BACK_S + (self.behind_s or 0.0) if self.is_verified else 0.0)


class Waits(Struct, frozen=True):
    """What a run waits for."""

    words: tuple[str, ...] = ()
    held: int = 0
    """Calls never sent whose instance takes none for now."""


def standing(
    ledger: Ledger, at: float, *, quota: float, awaiting: int | None = None, waits: Waits | None = None
) -> Progress:
    """Return how a run stands at UNIX time `at`. `quota` is in writes a second.

    The run itself knows what is accepted (`awaiting`) and what it waits for (`waits`); else the ledger is searched.
    """
    settled = ledger.settled_counts()
    waits = _waits(ledger, at) if waits is None else waits
    seconds = max(0.0, at - _session_at(ledger))
    span = min(RECENT_S, max(1.0, seconds))
    return Progress(
        total=len(ledger.calls),
        verified=settled[Outcome.CHANGED] + settled[Outcome.ALREADY] - ledger.back,
        already=ledger.settled_unsent,
        sent=ledger.sent_calls,
        settled=sum(settled.values()),
        failed=settled[Outcome.FAILED] + ledger.back,
        throttled=ledger.throttled,
        awaiting=_awaiting(ledger) if awaiting is None else awaiting,
        rate=sum(lane.sent_since(at - span) for lane in ledger.lanes.values()) / span,
        quota=quota,
        seconds=seconds,
        is_verified=ledger.settings.verify,
        done_word=_done_word(ledger.run.action),
        waits=waits.words,
        held=waits.held,
        stopping=_stopping(ledger),
        dropped=ledger.dropped,
        pause=ledger.pause,
        wave=ledger.wave,
        waves=max(ledger.waves, default=0),
    )


def _done_word(action: str) -> str:
    words = ACTIONS[action].done_word if action in ACTIONS else ""
    return words if words and " " not in words else "verified"  # a line has few columns


def _session_at(ledger: Ledger) -> float:
    """Return the UNIX time at which the last session began."""
    return records.unix_seconds(ledger.sessions[-1].at if ledger.sessions else ledger.run.at)


def waiting_words(count: int, instances: Sequence[str], until: float | None) -> str:
    """Return for whom so many calls wait, and until when: `6 for postgres-… until 15:01Z`."""
    more = f" and {len(instances) - 1:,} more" if len(instances) > 1 else ""
    ends = f" until {records.rfc3339(until)[11:16]}Z" if until is not None else ""
    return f"{count:,} for {instances[0]}{more}{ends}"


def _awaiting(ledger: Ledger) -> int:
    return sum(not entry.settled and entry.verdict is Verdict.DONE for _, entry, _ in ledger.outcomes())


def _waits(ledger: Ledger, at: float) -> Waits:
    """Return what a run waits for, as far as its journal shows it: instances that refuse for now, and until when.

    An instance is tried for `retry.busy` from its first refusal since it last took a call, and as long as the session
    may send.
    """
    session = _session_at(ledger)
    open_calls, unsent = Counter[Where](), Counter[Where]()
    since: dict[Where, float] = {}
    taken: dict[Where, float] = {}
    for call, entry, _ in ledger.outcomes():
        if entry.accepted_at is not None:
            taken[call.where] = max(taken.get(call.where, 0.0), records.unix_seconds(entry.accepted_at))
        if entry.settled or entry.accepted_at is not None:
            continue
        open_calls[call.where] += 1
        if entry.first_sent_at is None:
            unsent[call.where] += 1
        elif entry.spent and entry.verdict is Verdict.TRANSIENT:
            begun = max(session, records.unix_seconds(entry.first_sent_at))
            since[call.where] = min(since.get(call.where, begun), begun)
    down = tuple(_lanes_down(ledger, at))
    if not since:
        return Waits(down)
    until = max(max(begun, taken.get(where, 0.0)) for where, begun in since.items()) + ledger.settings.busy_s
    said = ledger.settings.session_deadline_s or ledger.settings.deadline_s
    if said is not None:
        until = min(until, session + said)
    sick = sorted(since, key=lambda where: -open_calls[where])
    count = sum(open_calls[where] for where in sick)
    words = waiting_words(count, [where.instance for where in sick], max(at, until))
    return Waits((*down, words), sum(unsent[where] for where in sick))


def _lanes_down(ledger: Ledger, at: float) -> Iterator[str]:
    """Yield the lanes that cannot reach the API, as notes of this session say."""
    down: dict[str, tuple[str, str]] = {}
    for note in ledger.notes:
        if note.what == "lane_down" and records.unix_seconds(note.at) >= _session_at(ledger):
            down[str(note.data.get("lane"))] = (str(note.data.get("why")), note.at)
        elif note.what == "lane_up":
            down.pop(str(note.data.get("lane")), None)
    for lane, (why, since) in down.items():
        yield f"cannot reach the API by {lane}: {why} ({max(0.0, at - records.unix_seconds(since)):.0f} s)"


def _stopping(ledger: Ledger) -> str | None:
    """Return why the last session drains, as its note says; None if it does not."""
    begun = _session_at(ledger)
    notes = (note for note in reversed(ledger.notes) if records.unix_seconds(note.at) >= begun)
    return next((str(note.data.get("why")) for note in notes if note.what == "stopping"), None)
