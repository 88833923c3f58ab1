"""How a run goes, for the user: numbers, the reason for any wait, and news to tell at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from msgspec import Struct

from engine.journal.records import rfc3339
from engine.model import Call, Outcome, Where
from engine.pacing.backoff import Policy
from engine.run.lanes import Lanes
from engine.run.queues import CallQueues
from engine.run.readback import ReadBack
from engine.run.recorder import Recorder

RECENT_S = 10.0
"""Seconds over which the present rate is measured."""
_SLOW_DISK_S = 2.0
"""Seconds of a commit from which the disk is shown as a reason for a wait."""
_NAMED = 3


class Progress(Struct, frozen=True, kw_only=True):
    """How a run stands, for the user. Counts are of calls."""

    total: int
    done: int
    """Accepted or settled."""
    settled: int
    failed: int
    throttled: int
    in_flight: int
    backing_off: int
    rate: float
    """Calls done a second, over the last `RECENT_S`."""
    seconds: float
    awaiting: int
    """Accepted, and not proven yet."""
    behind_s: float | None
    """Seconds for which readings have not shown what was accepted; None: no reading has missed anything."""
    waits: tuple[str, ...]
    """Reasons why the run is not at full speed."""
    stopping: str | None

    @property
    def eta_s(self) -> float | None:
        """Seconds until all calls are done at the present rate; None: nothing was done lately."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


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
        deadline_s: float,
    ) -> None:
        """Take `policy`, which says how long a sick or an unreadable instance is tried."""
        self._journal = recorder.journal
        self._ledger = ledger = recorder.ledger
        self._queue = queue
        self._lanes = lanes
        self._read_back = read_back
        self._policy = policy
        self._clock = clock
        self._deadline_s = deadline_s
        done_word = recorder.action.done_word
        self._proven = f"verified {done_word}" if ledger.settings.verify else f"accepted as {done_word}"
        self._started = 0.0
        self._recent: deque[tuple[float, int]] = deque([(0.0, 0)])
        self._told: frozenset[Where] = frozenset()

    def begin(self, now: float) -> None:
        """Take note that the session begins at loop time `now`."""
        self._started = now
        self._recent = deque([(now, self._done())])

    def sample(self, now: float) -> None:
        """Take note of how many calls are done by `now`; the session calls this regularly."""
        self._recent.append((now, self._done()))
        while self._recent[0][0] < now - RECENT_S:
            self._recent.popleft()

    def _done(self) -> int:
        return sum(self._ledger.settled_counts().values()) + len(self._read_back)

    def progress(self, now: float, *, backing_off: int, stopping: str | None) -> Progress:
        """Return how the run stands, from what is durable."""
        settled = self._ledger.settled_counts()
        done = self._done()
        at, count = self._recent[0]
        return Progress(
            total=len(self._ledger.calls),
            done=done,
            settled=sum(settled.values()),
            failed=settled[Outcome.FAILED],
            throttled=self._ledger.throttled,
            in_flight=self._lanes.in_flight,
            backing_off=backing_off,
            rate=(done - count) / (now - at) if now > at else 0.0,
            seconds=now - self._started,
            awaiting=len(self._read_back),
            behind_s=self._read_back.behind(now),
            waits=tuple(self._waits(now)),
            stopping=stopping,
        )

    def _waits(self, now: float) -> list[str]:
        waits = [f"the journal's disk ({disk_s:.0f} s)"] if (disk_s := self._journal.waiting_s) >= _SLOW_DISK_S else []
        waits += [
            f"cannot reach {lane.client.endpoint}: {lane.down_why} ({now - lane.down_since:.0f} s)"
            for lane in self._lanes.every
            if lane.down_since is not None and not lane.closed
        ]
        held = self._queue.held(now)
        if held:
            where, seconds = max(held.items(), key=lambda item: item[1])
            more = f" and {len(held) - 1} more" if len(held) > 1 else ""
            waits.append(f"{where.instance}{more} busy, next try in {seconds:.0f} s")
        waits += [f"{where.instance} cannot be read back" for where in list(self._read_back.unread())[:_NAMED]]
        return waits

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
        until = min(max(ends), self._started + self._deadline_s)
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
