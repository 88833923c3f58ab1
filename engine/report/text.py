"""Turns a run's ledger into text, JSON and CSV. Pure.

Everything here comes from the journal, so a live run, a finished one and a crashed one are reported by the same code.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from engine.api.actions import ACTIONS
from engine.api.codes import CHANGED_BACK, NOT_APPLIED
from engine.api.verdicts import rule
from engine.journal import records
from engine.journal.ledger import Entry, Ledger
from engine.model import GOOD, LACKING, Answer, Call, OmitReason, Outcome, Proof, Verdict
from engine.report.nextstep import BAD, WayOn, way_on
from engine.report.spans import duration

_FORMULA = tuple("=+-@＝＋－＠")
"""Characters with which a formula begins in a spreadsheet, in half and full width."""
SHOWN = 10
"""Most targets of each outcome that are printed after a run; the rest is in the CSV report."""
_NO_ANSWER = "Local.NoAnswer"
"""The code by which a call without a code is explained: its attempt was lost on the way."""
CSV_COLUMNS = (
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
    calls: dict[str, records.CallLine] = {}
    for line in lines:
        if isinstance(line, records.CallLine):
            calls[line.call] = line
        elif isinstance(line, records.ReplyLine):
            call = calls[line.call]
            yield {
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
            }


# ---- a run as JSON -------------------------------------------------------------------------------------------------


def document(
    ledger: Ledger, *, journal: str, head: str, first_send_ms: int | None = None, way: WayOn | None = None
) -> dict[str, Any]:
    """Return the `run --json` document (engine/json.md). `way`: what is open of its family. Any: JSON values."""
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
        "first_send_ms": first_send_ms,
        "stopped": {"why": stopped.why, "code": stopped.code, "request_id": stopped.request_id} if stopped else None,
        "exit": end.exit if end else None,
        "failures": failures,
        "pace": pace(ledger),
        "identities": identities(ledger),
        "open": way.open_calls,
        "go_on": way.command,
    }


def identities(ledger: Ledger) -> list[dict[str, str | None]]:
    """Return who signed for which account, as far as the journal says."""
    return [
        {key: None if facts.get(key) is None else str(facts[key]) for key in _IDENTITY} for facts in ledger.identities
    ]


_IDENTITY = ("account", "uin", "sub_account", "arn", "source", "key")


def full_document(ledger: Ledger, *, journal: str, head: str, live: bool, way: WayOn | None = None) -> dict[str, Any]:
    """Return the `report --format json` document: `document`, its job, and every target. Any: JSON values."""
    run = ledger.run
    way = way or way_on([ledger])
    return {
        **document(ledger, journal=journal, head=head, way=way),
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


def pace_text(ledger: Ledger) -> str:
    """Return what `pace` returns as text."""
    lines = [_title(ledger, live=False)]
    for row in pace(ledger):
        used = f"{row['accepted_per_second']}/s, {row['used']:.1%} of the quota" if row["used"] is not None else "-"
        guard = f"{row['guard']:.1%}" if row["guard"] is not None else "as it began"
        lines += [
            f"lane {row['lane']}  quota {row['quota']:g}/s",
            f"  accepted {row['accepted']:,} ({used}) · throttled {row['throttled']:,} · sent {row['sent']:,}",
            f"  worst second {row['worst_second']} · guard {guard}",
        ]
    return "\n".join(lines if ledger.lanes else [*lines, "nothing was sent"]) + "\n"


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


def csv_text(rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """Yield CSV text (RFC 4180) in parts, with a header. Any: JSON values."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\r\n")
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
    if not isinstance(value, str):
        return value
    cell = plain(value)
    return "'" + cell if cell.lstrip()[:1] in _FORMULA else cell


# ---- a run as text -------------------------------------------------------------------------------------------------


def text(
    ledger: Ledger, *, journal: str, head: str, live: bool = False, way: WayOn | None = None, today: str = ""
) -> str:
    """Return the closing report, for a terminal or a mail. `way`: what is open of its family, and how to go on.

    `today` is as in `closing_line`.
    """
    way = way or way_on([ledger])
    lines = [_title(ledger, live=live), closing_line(ledger, today=today), *_account_lines(ledger), *_notes(ledger)]
    lines.append(_pace_line(ledger))
    if ledger.end is not None and ledger.end.stopped is not None and not live:
        stopped = ledger.end.stopped
        request = f" (RequestId {stopped.request_id})" if stopped.request_id else ""
        code = f" [{stopped.code}]" if stopped.code and stopped.code not in stopped.why else ""
        given_up = dict(ledger.given_up)
        whose = next((name for name, why in given_up.items() if why == stopped.why), None)
        if whose is not None:
            del given_up[whose]
        of = f" for {plain(whose)}" if whose is not None else ""
        lines.append(f"STOPPED EARLY{of}: {plain(stopped.why)}{code}{request}")
        if stopped.code is not None:
            answer = Answer(http=None, request_id=None, code=stopped.code, message=None)
            ruling = rule(ledger.run.action, answer)
            # A failed target brings its own advice; a target that was never sent for this reason has none.
            lines += [f"  → {way.fill(ruling.advice)}"] if ruling.verdict is Verdict.FATAL else []
        lines += [f"  nothing more was sent of {name}: {plain(why)}" for name, why in given_up.items()]
    lines += _bad_lines(ledger, way)
    lines += [f"journal {journal}", f"head    {head}"]
    if not live:
        lines += way.lines()
    return "\n".join(lines) + "\n"


def _account_lines(ledger: Ledger) -> list[str]:
    """Return how each cloud account stands, with its uin if STS gave another; empty for a run over one account."""
    counts: dict[str, Counter[Outcome]] = {}
    for call, _, outcome in every_target(ledger):
        counts.setdefault(call.account, Counter())[outcome] += 1
    if len(counts) < 2:
        return []
    done_word = ACTIONS[ledger.run.action].done_word
    lines = []
    for name, of in sorted(counts.items()):
        whose = f" ({ledger.uins[name]})" if ledger.uins.get(name, name) != name else ""
        bad = "".join(f", {of[kind]:,} {kind}" for kind in BAD if of[kind])
        good = of[Outcome.CHANGED] + of[Outcome.ALREADY]
        lines.append(f"  {name or 'no account told'}{whose}: {good:,} of {of.total():,} {done_word}{bad}")
    return lines


def _notes(ledger: Ledger) -> list[str]:
    """Return the lines on what was left out, on containment, and on a missing protect rule."""
    lines = []
    elsewhere = (OmitReason.PROTECTED, *LACKING)  # these stand in `closing_line`, and among the failed
    left = {reason: count for reason, count in ledger.left_out().items() if count and reason not in elsewhere}
    if left:
        lines.append("left out: " + "; ".join(f"{count:,} {reason}" for reason, count in left.items()))
    times = containment(ledger)
    if times:
        lines.append("contained: " + ", ".join(f"{share} % after {duration(after)}" for share, after in times.items()))
    is_guarded = ledger.settings.protect or ledger.settings.protect_waived or ledger.left_out()[OmitReason.PROTECTED]
    if not is_guarded:
        lines.append("no protect rule was in force: name your break-glass accounts in config.yaml, protect: […]")
    return lines


def containment(ledger: Ledger) -> dict[int, float]:
    """Return the seconds from a lockdown's beginning until 50, 95 and 100 % of its accounts were locked, if reached.

    A proven account counts from when the API accepted its call; one that was locked before counts from the beginning.
    Empty for an action that is no lockdown.
    """
    run = ledger.run
    if run.action not in ACTIONS or not ACTIONS[run.action].is_incident:
        return {}
    begun = records.unix_seconds(run.at)
    after: list[float] = []
    for _, entry, outcome in ledger.outcomes():
        if entry.proof not in (Proof.READ, Proof.BEFORE):
            continue
        if outcome is Outcome.ALREADY:
            after.append(0.0)
        elif outcome is Outcome.CHANGED:
            at = entry.accepted_at or entry.settled_at
            after.append(records.unix_seconds(at) - begun if at else 0.0)
    after.sort()
    total = len(ledger.calls) + len(ledger.lacking())
    needed = {share: -(-total * share // 100) for share in (50, 95, 100)}
    return {share: after[count - 1] for share, count in needed.items() if 0 < count <= len(after)}


def stuck_text(ledger: Ledger, way: WayOn | None = None, *, today: str = "") -> str:
    """Return the targets that are not as asked, grouped by cause, with advice and RequestIds: ready for a ticket."""
    way = way or way_on([ledger])
    groups: dict[str, list[tuple[Call, Entry, Outcome]]] = {}
    for call, entry, outcome in every_target(ledger):
        if outcome in BAD:
            groups.setdefault(_cause(entry), []).append((call, entry, outcome))
    lines = [_title(ledger, live=False), closing_line(ledger, today=today)]
    for cause, members in sorted(groups.items(), key=lambda item: -len(item[1])):
        words, advice = explain(*members[0], way)
        lines += ["", f"{len(members):,} × {cause}: {plain(words or '')}"]
        if advice:
            lines.append(f"  → {advice}")
        for call, entry, _ in members:
            request = f"  RequestId {entry.request_id}" if entry.request_id else ""
            lines.append(f"  {call.label}  {f'{call.account}  ' if call.account else ''}{call.region}{request}")
    if not groups:
        lines.append("nothing is stuck")
    return "\n".join(lines) + "\n"


def _title(ledger: Ledger, *, live: bool) -> str:
    run = ledger.run
    marks = ("SIMULATED  " if run.simulated else "") + ("LIVE  " if live else "")
    extra = "".join(f"  {value}" for value in (run.ticket, run.reason) if value)
    return plain(f"{marks}run {run.run}  {run.action}  {run.job.name}{extra}")


_TOGETHER_S = 10.0
"""Seconds: proofs no further apart than this are reported with one time."""


def closing_line(ledger: Ledger, *, today: str = "") -> str:
    """Return the sentence that sums up a run: what is proven, when it was last read so, and what is not as asked.

    `today` is the UTC date (`2026-09-21`), by default that of the run's end. A time on another day has its date.
    """
    counts = ledger.counts()
    total = len(ledger.calls) + len(ledger.lacking())
    action = ACTIONS[ledger.run.action]
    good = counts[Outcome.CHANGED] + counts[Outcome.ALREADY]
    read = verified(ledger)
    proven, unread, undone = read["agree"], read["unread"], good - read["agree"] - read["unread"]
    today = today or ledger.last_at[:10]
    if proven or not unread:
        sentence = f"{proven:,} of {total:,} verified {action.done_word}{_proof_words(ledger, today)}"
        if unread:
            sentence += f"; {unread:,} accepted, not read back"
    else:
        at = _stamp(ledger.last_at, today)
        sentence = f"{good:,} of {total:,} {action.done_word}: accepted, not read back, at {at}"
    if counts[Outcome.ALREADY]:
        before = counts[Outcome.ALREADY]
        sentence += f" ({before:,} {'was' if before == 1 else 'were'} so before)"
    if undone:
        sentence += f"; {undone:,} undone since, on purpose"
    bad = [f"{counts[kind]:,} {kind}" for kind in BAD if counts[kind]]
    if bad:
        sentence += f"; {total - good:,} not: " + ", ".join(bad)
    back = sum(entry.is_back for _, entry, _ in ledger.outcomes())
    if back:
        sentence += f"; {back:,} of these {'was' if back == 1 else 'were'} proven, and then read as changed back"
    protected = ledger.left_out()["protected"]
    return sentence + (f"; {protected:,} protected, NOT {action.done_word}" if protected else "")


def _proof_words(ledger: Ledger, today: str) -> str:
    """Return words for the time of the newest proof, and of the oldest if it is more than `_TOGETHER_S` older."""
    times = ledger.proof_times()
    if times is None:
        return f" at {_stamp(ledger.last_at, today)}"
    first, last = times
    words = f" at {_stamp(last, today)}"
    if records.unix_seconds(last) - records.unix_seconds(first) > _TOGETHER_S:
        words += f", the first at {_stamp(first, today)}"
    return words


def _stamp(at: str, today: str) -> str:
    return f"{at[11:19]}Z" if at[:10] == today else f"{at[:10]} {at[11:19]}Z"


def _pace_line(ledger: Ledger) -> str:
    worst = max(ledger.worst_second().values(), default=0)
    throttled = f" · {ledger.throttled:,} throttled (not failures)" if ledger.throttled else ""
    seconds = f"{duration(ledger.end.seconds)} · " if ledger.end else ""
    return f"{seconds}{ledger.attempts:,} attempts · worst second {worst}{throttled}"


def _bad_lines(ledger: Ledger, way: WayOn) -> list[str]:
    by_kind: dict[Outcome, list[tuple[Call, Entry]]] = {kind: [] for kind in BAD}
    codes: dict[Outcome, Counter[str]] = {kind: Counter() for kind in BAD}
    for call, entry, outcome in every_target(ledger):
        if outcome in by_kind:
            codes[outcome][_cause(entry)] += 1
            if len(by_kind[outcome]) < SHOWN:
                by_kind[outcome].append((call, entry))
    lines: list[str] = []
    for kind, shown in by_kind.items():
        total = codes[kind].total()
        if not total:
            continue
        causes = ", ".join(f"{count:,} × {code}" for code, count in codes[kind].most_common(5))
        lines += ["", f"{kind} ({total:,})" + (f": {causes}" if kind is not Outcome.UNATTEMPTED else "")]
        for call, entry in shown:
            lines += _target_lines(call, entry, kind, way)
        if total > len(shown):
            run = ledger.run.run
            lines.append(f"  … and {total - len(shown):,} more: acctops report {run} --format csv{way.flags}")
    return [*lines, ""] if lines else []


def _cause(entry: Entry) -> str:
    """Return the cause under which a target that is not as asked counts: its code, unless an older attempt's."""
    if entry.unanswered:
        return "no answer"
    return entry.code or ("accepted, not settled" if entry.verdict is Verdict.DONE else "no code")


def _target_lines(call: Call, entry: Entry, outcome: Outcome, way: WayOn) -> list[str]:
    words, advice = explain(call, entry, outcome, way)
    where = call.placed
    if outcome is Outcome.UNATTEMPTED:
        return [f"  {where}  {plain(words or '')}"]
    cause = _cause(entry)
    code = f"{cause}: " if cause == entry.code else ""
    lines = [f"  {where}  {code}{plain(words or '')}"]
    if advice:
        lines.append(f"      → {advice}")
    if entry.request_id:
        lines.append(f"      RequestId {entry.request_id}")
    return lines


# ---- words ---------------------------------------------------------------------------------------------------------


def plain(value: str) -> str:
    """Return one line without control characters: a server's text must not move a terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in value)
