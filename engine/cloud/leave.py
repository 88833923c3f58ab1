"""Whether a request may still leave when it has its connection: who has lost the right to send meanwhile does not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar

MAY_LEAVE: ContextVar[Callable[[], Awaitable[bool]] | None] = ContextVar("may_leave", default=None)
"""Asked by a transport before the bytes of a request leave, and waited for; None: it may."""
