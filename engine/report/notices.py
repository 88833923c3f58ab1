"""Writes the notices of runs, one JSON document each. Pure.

A notice leaves the machine, so it names no account and repeats no text of the server. It has counts, codes, and the
command that goes on. engine/json.md lists the keys.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from engine.journal.records import PASSED
from engine.model import Outcome
from engine.report.contained import contained
from engine.report.documents import plain, unapproved, verified, wave_keys
from engine.report.nextstep import BAD, WayOn, way_on
from engine.report.text import closing_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.journal.heads import HeadLine
    from engine.journal.ledger import Ledger
    from engine.journal.records import JobRef, Run, Stopped


class Listed(Protocol):
    """A line of the list of ends, and its signature if it has one."""

    @property
    def line(self) -> HeadLine:
        """The line."""

    @property
    def signature(self) -> str | None:
        """The signature of its bytes."""


_NAMED = (Outcome.FAILED, Outcome.UNKNOWN)


def notice(
    event: str,
    ledger: Ledger,
    *,
    at: str,
    journal: str,
    head: str | None = None,
    exit_code: int | None = None,
    stopped: Stopped | None = None,
    way: WayOn | None = None,
    seal: Listed | None = None,
) -> dict[str, Any]:
    """Return the notice of a run that exists, at UTC time `at` (RFC 3339). Any: JSON values.

    `exit_code` is None while the run is live; `way` is what is open of its family; `seal` is its line in `heads.jsonl`.
    """
    codes = Counter(entry.code for _, entry, outcome in ledger.outcomes() if outcome in _NAMED and entry.code)
    go_on = (way or way_on([ledger])).command if exit_code is not None else None
    return {
        "event": event,
        "at": at,
        "text": _text(event, ledger, at, exit_code, stopped, go_on),
        **_facts(ledger.run),
        "journal": journal,
        "journal_head": head,
        "counts": ledger.counts(),
        "left_out": ledger.left_out(),
        "verified": verified(ledger),
        "attempts": ledger.attempts,
        "throttled": ledger.throttled,
        "seconds": ledger.end.seconds if ledger.end is not None else None,
        "contained": contained(ledger),
        "stopped": {"why": stopped.why, "code": stopped.code, "request_id": stopped.request_id} if stopped else None,
        "codes": [{"code": code, "targets": count} for code, count in codes.most_common()],
        "waves": wave_keys(ledger),
        "unapproved": unapproved(ledger),
        "go_on": go_on,
        "seal": {"line": seal.line.raw.decode(), "signature": seal.signature} if seal is not None else None,
        "error": None,
        "exit": exit_code,
    }


def bare_notice(
    event: str,
    job: JobRef,
    text: str,
    error: str,
    exit_code: int,
    *,
    at: str,
    operator: str,
    host: str,
    action: str | None = None,
    reason: str | None = None,
    ticket: str | None = None,
) -> dict[str, Any]:
    """Return a notice without a run: it was refused before it existed (window, guard, lock, keys), or is overdue.

    `text` is for a chat, `error` is the full message. Any: JSON values.
    """
    nothing = dict.fromkeys(
        (
            *("journal", "journal_head", "counts", "left_out", "verified", "attempts", "throttled", "seconds"),
            *("contained", "stopped"),
        )
    )
    return {
        "event": event,
        "at": at,
        "text": plain(text),
        "run": None,
        "job": {"name": job.name, "path": job.path, "digest": job.digest},
        "action": action,
        "reason": reason,
        "ticket": ticket,
        "operator": operator,
        "host": host,
        "simulated": False,
        **nothing,
        "codes": [],
        "waves": [],
        "unapproved": None,
        "go_on": None,
        "seal": None,
        "error": error,
        "exit": exit_code,
    }


def hold_notice(
    event: str,
    ledger: Ledger,
    words: str,
    *,
    at: str,
    until: str | None,
    then: str | None,
    count: int,
    targets: Sequence[str],
    go_on: str,
) -> dict[str, Any]:
    """Return the notice of what `tend` did, or did not do, for a run. Any: JSON values.

    `until` and `then` are those of its hold; None in a notice of its watch.
    `targets` names accounts, where that is what the notice is for: accounts that came back.
    """
    run = ledger.run
    return {
        "event": event,
        "at": at,
        "text": plain(f"{run.job.name} ({run.run}): {words}"),
        **_facts(run),
        "until": until,
        "then": then,
        "accounts": count,
        "targets": list(targets),
        "go_on": go_on,
    }


def _facts(run: Run) -> dict[str, Any]:
    """Return what all notices of a run say of it. Any: JSON values."""
    return {
        "run": run.run,
        "job": {"name": run.job.name, "path": run.job.path, "digest": run.job.digest},
        "action": run.action,
        "reason": run.reason,
        "ticket": run.ticket,
        "operator": run.operator,
        "host": run.host,
        "simulated": run.simulated,
    }


def _text(
    event: str, ledger: Ledger, at: str, exit_code: int | None, stopped: Stopped | None, go_on: str | None
) -> str:
    """Return one line for a person, such as a chat shows."""
    name = f"{ledger.run.job.name} ({ledger.run.run})"
    if (why := unapproved(ledger)) is not None:
        name += f", WITHOUT THE APPROVAL that was asked for ({why})"
    if exit_code is None:
        calls = sum(ledger.counts()[kind] for kind in BAD)
        passed = [line.n for line in ledger.waves.values() if line.state == PASSED]
        if event == "wave" and passed:
            return plain(f"{name}: wave {max(passed)} of {max(ledger.waves)} has passed, {calls:,} still to do")
        return plain(f"{name}: {ledger.run.action} begins, {calls:,} to do")
    words = f"{name}: exit {exit_code}, {closing_line(ledger, today=at[:10])}"
    if stopped is not None:
        words += f"; stopped early: {stopped.why}"
    return plain(words + (f"; go on: {go_on}" if go_on else ""))
