"""How long an orderly end takes: of a drain, and of a whole session that is asked to stop."""

from __future__ import annotations

import math

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
