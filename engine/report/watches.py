"""How the watch of a run stands, in words and as JSON. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.journal.records import rfc3339
from engine.report.documents import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.planning.watches import Standing

LATE_S = 1800.0
"""Seconds after which a reading that was not made is called late: a timer comes every five minutes."""
_SHOWN = 10
"""Most accounts that the line names."""


def watch_line(standing: Standing, done_word: str, now: float, flags: str = "") -> str:
    """Return one line on how a watch stands at UNIX time `now`; `flags` are those that an exact command needs."""
    if standing.problem is not None:
        return plain(f"watch: its journal cannot be read: {standing.problem}")
    parts = []
    if standing.read_at is not None:
        opened = f", {standing.opened:,} opened by us since" if standing.opened else ""
        parts.append(
            f"last read {_utc(standing.read_at)}: {standing.as_left:,} of {standing.total:,} still {done_word}{opened}"
        )
        parts += [
            f"{what} {len(labels):,}: {_named(labels)}"
            for what, labels in (("back", standing.back), ("unread", standing.unread))
            if labels
        ]
    else:
        parts.append("not read yet")
    until = f", until {_utc(standing.until)}" if standing.until is not None else ""
    if standing.next_at is None:
        parts.append("over" if standing.until is not None else "begins once the run has ended")
    elif now > standing.next_at + LATE_S:
        tend = f"acctops tend{flags}"
        parts.append(f"LATE, due at {_utc(standing.next_at)}: nobody tends ({tend}){until}")
    else:
        parts.append(f"next at {_utc(standing.next_at)}{until}")
    return plain(f"watch: {'; '.join(parts)}")


def watch_document(standing: Standing | None) -> dict[str, Any] | None:
    """Return how a watch stands; None for a run that asks for none. Any: JSON values."""
    if standing is None:
        return None
    return {
        "run": standing.run,
        "read_at": _time(standing.read_at),
        "accounts": standing.total,
        "as_left": standing.as_left,
        "opened": standing.opened,
        "back": list(standing.back),
        "unread": list(standing.unread),
        "next_at": _time(standing.next_at),
        "until": _time(standing.until),
        "problem": standing.problem,
    }


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _SHOWN:,} more" if len(labels) > _SHOWN else ""
    return ", ".join(labels[:_SHOWN]) + more


def _time(at: float | None) -> str | None:
    return rfc3339(at) if at is not None else None


def _utc(at: float) -> str:
    return f"{rfc3339(at)[:19]}Z"
