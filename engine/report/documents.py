"""From a run's ledger to what a program reads: one row a target, JSON documents, CSV. Pure.

Everything here comes from the journal, so a live run, a finished one and a crashed one are told by the same code.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from engine.api.codes import CHANGED_BACK, NOT_APPLIED
from engine.api.verdicts import rule
from engine.journal import records
from engine.journal.ledger import Entry, Ledger
from engine.model import GOOD, Answer, Call, CallId, Outcome, Proof
from engine.report.contained import contained
from engine.report.nextstep import WayOn, way_on

if TYPE_CHECKING:
    from engine.planning.holds import HeldNow

_FORMULA = re.compile(r"(^|[,;])([\s\"]*[=+\-@＝＋－＠])")
"""How a formula begins in a spreadsheet, in half and full width: at the begin of a cell, or behind what another
spreadsheet takes for the end of one."""
RUN_COLUMNS = ("run", "job", "ticket", "operator", "started_at")
"""What every CSV says of the run, before what it says of a target."""
_NO_ANSWER = "Local.NoAnswer"
"""The code by which a call without a code is explained: its attempt was lost on the way."""
CSV_COLUMNS = (
    *RUN_COLUMNS,
    "outcome",
    "account",
    "region",
    "instance",
    "user",
    "action",
    "proof",
    "attempts",
    "request_id",
    "code",
    "message",
    "advice",
    "settled_at",
)
ATTEMPT_COLUMNS = (
    *RUN_COLUMNS,
    "account",
    "region",
    "instance",
    "user",
    "attempt",
    "sent_at",
    "verdict",
    "code",
    "message",
    "http",
    "ms",
    "request_id",
    "settled_at",
)


# ---- one target ----------------------------------------------------------------------------------------------------


def every_target(ledger: Ledger) -> Iterator[tuple[Call, Entry, Outcome]]:
    """Yield all targets that were asked for: the calls, and those that could not become a call, as failed."""
    yield from ledger.outcomes()
    yield from ledger.shortfall()


def row(call: Call, entry: Entry, outcome: Outcome, way: WayOn) -> dict[str, Any]:
    """Return one target with its outcome and, if it is not as asked, words and advice. Any: JSON values."""
    words, advice = explain(call, entry, outcome, way)
    return {
        "outcome": str(outcome),
        "account": call.account,
        "region": call.region,
        "instance": call.instance,
        "user": call.user,
        "action": call.action,
        "proof": str(entry.proof) if entry.proof else None,
        "attempts": entry.attempts,
        "request_id": entry.request_id,
        "code": entry.code,
        "message": words,
        "advice": advice,
        "settled_at": entry.settled_at,
    }


def explain(call: Call, entry: Entry, outcome: Outcome, way: WayOn) -> tuple[str | None, str | None]:
    """Return words on a target and advice on what to do next; both may be None for one that is as asked."""
    words, advice = _explained(call, entry, outcome)
    return words, way.fill(advice, call)


def _explained(call: Call, entry: Entry, outcome: Outcome) -> tuple[str | None, str | None]:
    """Return what `explain` returns, with the placeholders RUN and JOB in the advice."""
    if outcome is Outcome.UNATTEMPTED:
        sent = f"not accepted so far ({entry.code})" if entry.code else "sent, and read as not done"
        return sent if entry.attempts else "never sent", "acctops resume RUN goes on with it"
    if outcome in GOOD:
        return entry.message, None
    ruling = rule(call.action, Answer(http=None, request_id=None, code=entry.code or _NO_ANSWER, message=None))
    if outcome is Outcome.UNKNOWN and not entry.settled:
        if entry.unanswered:
            words = "sent and never answered: it may have been applied"
        elif entry.was_in_doubt and not entry.doubt:
            words = "in doubt; read as not done, and that reading may have come too early"
        else:
            words = ruling.words if entry.code else "accepted, and not settled before the end"
        return words, "acctops resume RUN reads the account and settles it"
    words = entry.message or ruling.words
    if entry.message and entry.code and not entry.code.startswith("Local.") and ruling.words not in entry.message:
        words = f"{ruling.words} [{entry.message}]"
    if not entry.settled:  # failed so far: a further attempt may succeed
        return f"tried again, and not settled yet: {words}", "acctops resume RUN goes on with it"
    # Failed without a code: a guard forbids sending it, and its words are enough.
    return words, None if outcome is Outcome.FAILED and not entry.code else ruling.advice


def attempts(lines: Iterable[records.AnyRecord]) -> Iterator[dict[str, Any]]:
    """Yield every attempt that has a reply, in the order of the journal. Any: JSON values."""
    return (found for _, found in _attempts(lines))


def _attempts(lines: Iterable[records.AnyRecord]) -> Iterator[tuple[CallId, dict[str, Any]]]:
    """Yield every attempt with the id of its call. Any: JSON values."""
    calls: dict[str, records.CallLine] = {}
    for line in lines:
        if isinstance(line, records.CallLine):
            calls[line.call] = line
        elif isinstance(line, records.ReplyLine):
            call = calls[line.call]
            yield (
                line.call,
                {
                    "account": call.account,
                    "region": call.region,
                    "instance": call.instance,
                    "user": call.user,
                    "attempt": line.attempt,
                    "sent_at": line.sent_at,
                    "verdict": str(line.verdict),
                    "code": line.code,
                    "message": line.message,
                    "http": line.http,
                    "ms": line.ms,
                    "request_id": line.request_id,
                },
            )


# ---- a run as JSON -------------------------------------------------------------------------------------------------


def document(
    ledger: Ledger,
    *,
    journal: str,
    head: str,
    first_send_ms: int | None = None,
    way: WayOn | None = None,
    watch: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the `run --json` document (engine/json.md). Any: JSON values.

    `way`: what is open of its family. `watch`: how its watch stands.
    """
    run = ledger.run
    way = way or way_on([ledger])
    end = ledger.end
    failures = []
    for call, entry, outcome in every_target(ledger):
        if outcome in (Outcome.FAILED, Outcome.UNKNOWN):
            full = row(call, entry, outcome, way)
            failures.append(
                {
                    key: full[key]
                    for key in (
                        "outcome",
                        "account",
                        "region",
                        "instance",
                        "user",
                        "code",
                        "message",
                        "request_id",
                        "advice",
                    )
                }
            )
    stopped = end.stopped if end else None
    return {
        "run": run.run,
        "journal": journal,
        "journal_head": head,
        "simulated": run.simulated,
        "action": run.action,
        "counts": ledger.counts(),
        "left_out": ledger.left_out(),
        "verified": verified(ledger),
        "attempts": ledger.attempts,
        "throttled": ledger.throttled,
        "worst_second": max(ledger.worst_second().values(), default=0),
        "seconds": end.seconds if end else None,
        "contained": contained(ledger) if run.watched is None else None,
        "first_send_ms": first_send_ms,
        "stopped": {"why": stopped.why, "code": stopped.code, "request_id": stopped.request_id} if stopped else None,
        "exit": end.exit if end else None,
        "failures": failures,
        "pace": pace(ledger),
        "identities": identities(ledger),
        "holds": holds_document(way.held),
        "approved": list(dict.fromkeys(each.fingerprint for each in ledger.approved)),
        "unapproved": unapproved(ledger),
        "open": way.open_calls,
        "go_on": way.command,
        "watch": watch,
        "paused": asdict(ledger.pause) if ledger.pause is not None else None,
        "waves": wave_keys(ledger),
        "undone": None,
        "left": False,
    }


def wave_keys(ledger: Ledger) -> list[dict[str, Any]]:
    """Return `waves` of a document: how each wave stands, 0 for the question before the first. Any: JSON values."""
    return [
        {"n": line.n, "calls": line.calls, "state": line.state, "until": line.until, "why": line.why}
        for _, line in sorted(ledger.waves.items())
    ]


def unapproved(ledger: Ledger) -> str | None:
    """Return why somebody went on without the signatures that a config asks for; None if nobody did."""
    return str(ledger.unapproved.data.get("reason")) if ledger.unapproved is not None else None


def identities(ledger: Ledger) -> list[dict[str, str | None]]:
    """Return who signed for which account, as far as the journal says."""
    return [
        {key: None if facts.get(key) is None else str(facts[key]) for key in _IDENTITY} for facts in ledger.identities
    ]


_IDENTITY = ("account", "uin", "sub_account", "arn", "source", "key")


def holds_document(held: HeldNow | None) -> dict[str, Any] | None:
    """Return who holds the accounts of a run. Any: JSON values."""
    if held is None:
        return None
    others = [{"run": run, "ticket": ticket, "accounts": count} for run, ticket, count in held.others]
    then = held.then if held.until is not None else None
    return {
        "accounts": held.accounts,
        "until": held.until,
        "then": then,
        "released": held.released,
        "others": others,
    }


def full_document(
    ledger: Ledger,
    *,
    journal: str,
    head: str,
    live: bool,
    way: WayOn | None = None,
    watch: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the `report --format json` document: `document`, its job, and every target. Any: JSON values."""
    run = ledger.run
    way = way or way_on([ledger])
    return {
        **document(ledger, journal=journal, head=head, way=way, watch=watch),
        "live": live,
        "job": {"name": run.job.name, "path": run.job.path, "digest": run.job.digest},
        "match": [
            {"where": each.where, "asks": each.asks, "instances": each.instances, "accounts": each.accounts}
            for each in run.match
        ],
        "reason": run.reason,
        "ticket": run.ticket,
        "operator": run.operator,
        "host": run.host,
        "started_at": run.at,
        "parent": {"run": run.parent.run, "verb": run.parent.verb, "head": run.parent.head} if run.parent else None,
        "targets": [row(*each, way) for each in every_target(ledger)],
        "omits": [
            {
                "account": omit.account,
                "region": omit.region,
                "instance": omit.instance,
                "user": omit.user,
                "reason": omit.reason,
                "rule": omit.rule,
                "where": omit.where,
            }
            for omit in ledger.omits
        ],
    }


def pace(ledger: Ledger) -> list[dict[str, Any]]:
    """Return how each lane used its quota, from the journal alone. Any: JSON values.

    `used` is the accepted calls a second, from the first to the last accepted call, as a share of the quota that the
    run may share with other runs. An older journal has no such quota; then the share is one of the run's rate.
    """
    quota = ledger.settings.quota or ledger.settings.rate
    rows = []
    for name, lane in sorted(ledger.lanes.items()):
        per_second = lane.per_second()
        rows.append(
            {
                "lane": name,
                "quota": quota,
                "sent": lane.sent,
                "accepted": lane.accepted,
                "accepted_per_second": round(per_second, 2) if per_second is not None else None,
                "used": round(per_second / quota, 3) if per_second is not None else None,
                "throttled": lane.throttled,
                "worst_second": lane.worst(),
                "guard": lane.guard,
            }
        )
    return rows


def verified(ledger: Ledger) -> dict[str, int]:
    """Return how many targets were read back as asked, as not as asked, or not read; the newest reading counts."""
    counts = {"agree": 0, "disagree": 0, "unread": 0}
    for call, entry, outcome in ledger.outcomes():
        if outcome in (Outcome.CHANGED, Outcome.ALREADY) and ledger.is_undone(call):
            continue
        if outcome in (Outcome.CHANGED, Outcome.ALREADY):
            counts["agree" if entry.proof in (Proof.READ, Proof.BEFORE) else "unread"] += 1
        elif entry.code in (NOT_APPLIED, CHANGED_BACK):
            counts["disagree"] += 1
    return counts


def about(run: records.Run) -> dict[str, Any]:
    """Return what every CSV says of the run. Any: JSON values."""
    return dict(zip(RUN_COLUMNS, (run.run, run.job.name, run.ticket, run.operator, run.at), strict=True))


def csv_rows(ledger: Ledger, way: WayOn, *, only: Collection[Outcome] = tuple(Outcome)) -> Iterator[dict[str, Any]]:
    """Yield the targets of a run with these outcomes, as `CSV_COLUMNS` says. Any: JSON values."""
    told = about(ledger.run)
    return ({**told, **row(*each, way)} for each in every_target(ledger) if each[2] in only)


def attempt_rows(ledger: Ledger, lines: Iterable[records.AnyRecord]) -> Iterator[dict[str, Any]]:
    """Yield every attempt of a run, as `ATTEMPT_COLUMNS` says. Any: JSON values."""
    told = about(ledger.run)
    for call, found in _attempts(lines):
        yield {**told, **found, "settled_at": ledger.entry(call).settled_at}


def csv_text(rows: Iterable[dict[str, Any]], columns: Sequence[str], *, excel: bool = False) -> Iterator[str]:
    """Yield CSV text (RFC 4180) in parts, with a header. Any: JSON values.

    `excel`: with semicolons, as Excel takes it where a comma separates decimals.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\r\n", delimiter=";" if excel else ",")
    writer.writeheader()
    for each in rows:
        writer.writerow({key: _cell(each[key]) for key in columns})
        if buffer.tell() > 1 << 16:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _cell(value: Any) -> Any:
    # A server's message must neither move the cursor of a terminal nor run as a formula in a spreadsheet.
    return _FORMULA.sub(r"\1'\2", plain(value)) if isinstance(value, str) else value


def plain(value: str) -> str:
    """Return one line without control characters: a server's text must not move a terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in value)
