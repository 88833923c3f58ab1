"""Whether a request may still leave when it has its connection: who has lost the right to send meanwhile does not."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

MAY_LEAVE: ContextVar[Callable[[], bool] | None] = ContextVar("may_leave", default=None)
"""Asked by a transport before the bytes of a request leave; None: it may."""
