"""How long an orderly end takes: of a drain, and of a whole session that was told to stop."""

from __future__ import annotations

import math

DRAIN_S = 10.0
"""How long a drain goes on reading, counted from the last attempt that ended in it."""
NOTICE_S = 10.0
"""Longest wait for one way of telling people of the end."""
MARGIN_S = 10.0
"""For the journal on a slow disk, and the report."""
LEAST_S = 60


def drain_s(timeout_s: float) -> float:
    """The longest drain: attempts under way end within their timeout, and what the last accepts is still read."""
    return timeout_s + DRAIN_S


def orderly_end_s(timeout_s: float) -> int:
    """Seconds after a first signal, or a stop, within which a session has ended in order: drain, report, notice.

    Whoever ends a session by force, as systemd and Kubernetes do, and whoever waits for its end, waits so long.
    """
    return max(LEAST_S, math.ceil(drain_s(timeout_s) + NOTICE_S + MARGIN_S))
