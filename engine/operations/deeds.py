"""What `tend` has done for one run."""

from __future__ import annotations

from msgspec import Struct


class Deed(Struct, frozen=True, kw_only=True):
    """What was done for one run."""

    run: str
    what: str
    """`opened`, `told`, `waits`, `read`, `listed`, `sealed` or `failed`."""
    words: str
    count: int = 0
    """Accounts it is about."""
    child: str | None = None
    """The undo that opened them, or the watch that read them."""
