"""The keeper refreshes keys before they expire, in parallel with the sending. No send ever waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.credentials.source import KeySource

AHEAD_S = 600.0
"""Seconds before expiry at which keys are refreshed; short-lived keys when a third of their life is left."""
LOOK_S = 60.0
"""Seconds between two checks of `expires_at`: a replaced file may have brought another one."""
LAST_S = 12.0
"""Keys with fewer seconds left, or with a sixth of their life, begin no call: the rest is for reading back."""
_SOONEST_S = 0.5
_TICK_S = 0.001
"""Shortest sleep: the difference of two times may round to 0, and a sleep of 0 s would never reach the later one."""


async def keep_fresh(
    source: KeySource,
    *,
    clock: Callable[[], float],
    note: Callable[[str, dict[str, object]], None],
    stop: Callable[[str], None],
    tell: Callable[[str], None] = lambda _text: None,
) -> None:
    """Keep the keys of `source` fresh until cancelled, or until they are about to expire all the same: call `stop`.

    `note` journals `keys_refreshed` and `keys_not_refreshed`. After a failure the keys stay in use as long as they are
    valid. `tell` tells a person once of each failure, and the keeper tries again.
    """
    import asyncio

    known, due_at, last_s, failure = None, 0.0, 0.0, ""
    while True:
        expires_at, now = source.expires_at, clock()
        if expires_at is None:
            await asyncio.sleep(LOOK_S)
            continue
        if expires_at != known:
            known, failure = expires_at, ""
            due_at = expires_at - min(AHEAD_S, (expires_at - now) / 3)
            last_s = min(LAST_S, (expires_at - now) / 6)
        if now < due_at:
            await asyncio.sleep(min(LOOK_S, due_at - now))
            continue
        left_s = expires_at - now
        if left_s <= last_s:
            stop(_ended(source, failure))
            return
        why = await _refresh(source, left_s - last_s, note)
        if why and why != failure:
            failure = why
            note("keys_not_refreshed", {"why": why, "left_s": round(left_s)})
            tell(f"keys not refreshed, {left_s:.0f} s left: {why}")
        if source.expires_at == known:
            until_last_s = known - clock() - last_s
            await asyncio.sleep(max(_TICK_S, min(LOOK_S, max(_SOONEST_S, until_last_s / 4), until_last_s)))


async def _refresh(source: KeySource, limit_s: float, note: Callable[[str, dict[str, object]], None]) -> str:
    """Refresh within `limit_s`; return why it failed, or an empty text."""
    import asyncio

    if not source.refreshable:
        return "keys of this kind cannot change in a process that runs"
    try:
        async with asyncio.timeout(limit_s):
            changed = await source.refresh()
    except TimeoutError:
        return f"{source.label}: no answer in time"
    except CredentialsError as error:
        return str(error)
    if changed:
        note("keys_refreshed", {"key": source.get().fingerprint})
    return ""


def _ended(source: KeySource, failure: str) -> str:
    why = f" ({failure})" if failure else ""
    return f"the keys of {source.label} have come to their end{why}; get new ones, then go on"
