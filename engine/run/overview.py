"""How a run goes, for the user: numbers, the reason for any wait, and news to tell at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from msgspec.structs import replace

from engine.journal.records import rfc3339
from engine.journal.standing import Progress, Waits, standing, waiting_words
from engine.model import Call, Outcome, Where
from engine.pacing.backoff import Policy
from engine.run.lanes import Lanes
from engine.run.queues import CallQueues
from engine.run.readback import ReadBack
from engine.run.recorder import Recorder

_SLOW_DISK_S = 2.0
"""Seconds of a commit from which the disk is shown as a reason for a wait."""
_LOOK_S = 2.0
_NAMED = 3


class Overview:
    """The part of a session that looks at the other parts for the user, and changes none of them."""

    def __init__(
        self,
        recorder: Recorder,
        queue: CallQueues,
        lanes: Lanes,
        read_back: ReadBack,
        *,
        policy: Policy,
        clock: Callable[[], float],
        ends_at: Callable[[], float],
    ) -> None:
        """Take `policy`, which says how long a sick or an unreadable instance is tried.

        `ends_at` returns the loop time after which the session sends nothing.
        """
        self._journal = recorder.journal
        self._ledger = ledger = recorder.ledger
        self._queue = queue
        self._lanes = lanes
        self._read_back = read_back
        self._policy = policy
        self._clock = clock
        self._ends_at = ends_at
        done_word = recorder.action.done_word
        self._proven = f"verified {done_word}" if ledger.settings.verify else f"accepted as {done_word}"
        self._started = 0.0
        self._told: frozenset[Where] = frozenset()
        self._sick = Waits()
        self._looks_at = 0.0
        """Loop time."""

    def begin(self, now: float) -> None:
        """Take note that the session begins at loop time `now`."""
        self._started = now

    def sample(self, now: float) -> None:
        """Look for whom calls wait. The session calls this often, and every `_LOOK_S` it looks at each call."""
        if now >= self._looks_at:
            self._looks_at, self._sick = now + _LOOK_S, self._sick_waits(now)

    def progress(self, now: float, *, backing_off: int, stopping: str | None) -> Progress:
        """Return how the run stands, from what is durable. `now` is loop time."""
        how = standing(
            self._ledger,
            self._clock(),
            quota=sum(lane.pacer.gear.rate for lane in self._lanes.every if not lane.closed),
            awaiting=len(self._read_back),
            waits=Waits((*self._waits(now), *self._sick.words), self._sick.held),
        )
        return replace(
            how,
            seconds=now - self._started,
            behind_s=self._read_back.behind(now),
            in_flight=self._lanes.in_flight,
            backing_off=backing_off,
            stopping=stopping,
        )

    def _waits(self, now: float) -> list[str]:
        disk_s = self._journal.waiting_s
        waits = [f"{self._journal.waits_for} ({disk_s:.0f} s)"] if disk_s >= _SLOW_DISK_S else []
        waits += [
            f"cannot reach {lane.client.endpoint}: {lane.down_why} ({now - lane.down_since:.0f} s)"
            for lane in self._lanes.every
            if lane.down_since is not None and not lane.closed
        ]
        return waits

    def _sick_waits(self, now: float) -> Waits:
        """Return which instances take no call for now, or cannot be read, with their calls and the end."""
        unread = self._read_back.unread()
        sick = self._queue.sick() | unread.keys()
        if not sick:
            return Waits()
        left, held = Counter[Where](), 0
        for call, entry, _ in self._ledger.outcomes():
            if call.where in sick and not entry.settled:
                left[call.where] += 1
                held += entry.first_sent_at is None
        waits = []
        for places, words in (([w for w in left if w not in unread], ""), (list(unread), "the readings of ")):
            if count := sum(left[where] for where in places):
                until = max((self._tried_until(where, now) for where in places), default=now)
                names = [words + where.instance for where in sorted(places, key=lambda where: -left[where])]
                waits.append(waiting_words(count, names, self._clock() + max(0.0, until - now)))
        return Waits(tuple(waits), held)

    def _tried_until(self, where: Where, now: float) -> float:
        """Return the loop time until which a sick or an unreadable instance is tried."""
        unread = self._read_back.unread()
        since = self._queue.sick_since_of(where)
        if where in unread:
            ends = unread[where] + self._policy.transient_s
        else:
            ends = (now if since is None else since) + self._policy.busy_s
        return min(ends, self._ends_at())

    def only_the_sick_are_left(self, now: float) -> str | None:
        """Return news, once: only calls of instances that take none or cannot be read are unsettled (issue 3 §2)."""
        if self._queue.well_waiting():
            return None
        left = [call for call, entry, _ in self._ledger.outcomes() if not entry.settled]
        total = len(self._ledger.calls)
        instances = frozenset(call.where for call in left)
        since = self._sick_since(left)
        if not left or len(left) == total or instances != set(since) or instances == self._told:
            return None
        self._told = instances
        named = ", ".join(sorted(where.instance for where in instances)[:_NAMED])
        named += f" and {len(instances) - _NAMED} more" if len(instances) > _NAMED else ""
        codes = ", ".join(sorted({code for call in left if (code := self._ledger.entry(call.id).code)}))
        unread = self._read_back.unread()
        ends = [
            at + (self._policy.transient_s if where in unread else self._policy.busy_s) for where, at in since.items()
        ]
        until = min(max(ends), self._ends_at())
        at, settled = self._clock(), self._ledger.settled_counts()
        proofs = self._ledger.proof_times()
        proven_at = proofs[1] if proofs is not None else rfc3339(at)
        failed = f"; {settled[Outcome.FAILED]:,} failed" if settled[Outcome.FAILED] else ""
        return (
            f"{settled[Outcome.CHANGED] + settled[Outcome.ALREADY]:,} of {total:,} {self._proven} "
            f"{proven_at[11:19]}Z{failed}; {len(left):,} wait for {named} ({codes or 'cannot be read'}), "
            f"trying until {rfc3339(at + max(0.0, until - now))[11:16]}Z; Ctrl-C is safe"
        )

    def _sick_since(self, calls: list[Call]) -> dict[Where, float]:
        unread = self._read_back.unread()
        found = {}
        for call in calls:
            since = self._queue.sick_since_of(call.where)
            since = unread.get(call.where) if since is None else since
            if since is not None:
                found[call.where] = since
        return found
