"""How long an orderly end takes: of a drain, and of a whole session that is asked to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.errors import Reason
from engine.journal import records
from engine.model import Outcome

if TYPE_CHECKING:
    from engine.journal.ledger import Ledger

DRAIN_S = 10.0
"""Seconds for which a drain goes on reading, from the stop or from the last attempt that ended after it."""
NOTICE_S = 10.0
"""Longest wait for one notice of the end, in seconds."""
MARGIN_S = 10.0
"""Seconds for the journal on a slow disk, and for the report."""
LEAST_S = 60


def drain_s(timeout_s: float) -> float:
    """Return the longest drain in seconds: attempts end within their timeout, and the last accepted call is read."""
    return timeout_s + DRAIN_S


def orderly_end_s(timeout_s: float) -> int:
    """Return the seconds after a first signal or a stop in which a session ends in order: drain, report, notice.

    systemd and Kubernetes wait so long before they end a session by force; `acctops stop` waits so long for its end.
    """
    return max(LEAST_S, math.ceil(drain_s(timeout_s) + NOTICE_S + MARGIN_S))


def reason_of(ledger: Ledger, stopping: Reason | None, *, done_elsewhere: int = 0, is_cut: bool = False) -> Reason:
    """Return the reason of a session's end, by how its calls stand.

    `stopping`: why it was stopped, if it was; `done_elsewhere`: failed calls that later reruns have done; `is_cut`:
    whether calls stayed unattempted as no lane was left for them.
    """
    counts = ledger.counts()
    good = counts[Outcome.CHANGED] + counts[Outcome.ALREADY] + done_elsewhere
    if good == len(ledger.calls) and ledger.wave is None:
        return Reason.INCOMPLETE if ledger.lacking() else Reason.OK
    if stopping is None and is_cut:
        return Reason.STOPPED
    return stopping if stopping is not None else Reason.INCOMPLETE


def end_line(
    ledger: Ledger,
    *,
    seconds: float,
    reason: Reason,
    stopped: records.Stopped | None,
    guard: Mapping[str, float],
    heads: Mapping[str, str] | None = None,
) -> records.End:
    """Return the `end` of a session; `heads` are those of the chains of the run's shards."""
    return records.End(
        counts=ledger.counts(),
        attempts=ledger.attempts,
        throttled=ledger.throttled,
        worst_second=ledger.worst_second(),
        seconds=round(seconds, 3),
        exit=int(reason),
        stopped=stopped,
        guard=dict(guard),
        heads=dict(heads or {}),
    )
