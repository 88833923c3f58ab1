"""From a run's ledger to what a person reads. Pure.

Everything here comes from the journal, so the report of a live run, a finished one and a crashed one is the same code.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from engine.api.actions import ACTIONS
from engine.api.verdicts import rule
from engine.journal import records
from engine.journal.ledger import Entry, Ledger
from engine.model import LACKING, Answer, Call, OmitReason, Outcome, Verdict
from engine.report.contained import contained_line
from engine.report.documents import every_target, explain, pace, plain, verified
from engine.report.going import line, pause_words
from engine.report.nextstep import BAD, WayOn, way_on
from engine.report.screen import Group, Screen, fitted
from engine.report.spans import duration

if TYPE_CHECKING:
    from engine.journal.standing import Progress
    from engine.planning.holds import HeldNow

_Member = tuple[Call, Entry, Outcome]
SHOWN = 10
"""Most targets of each outcome that are printed after a run; the rest is in the CSV report."""


def text(
    ledger: Ledger,
    *,
    journal: str,
    head: str,
    live: Progress | None = None,
    way: WayOn | None = None,
    today: str = "",
    screen: Screen | None = None,
    watch: str = "",
) -> str:
    """Return the closing report, for a terminal or a mail. Its last line is the verdict.

    `way` is what is open of its family, and how to go on. `live` is how a run stands that is going on. `today` is as in
    `closing_line`. `watch` is a line on how its watch stands. With `screen` the report is at most as high as that, and
    `report` has what is left away.
    """
    way = way or way_on([ledger])
    stop = stop_lines(ledger, way) if live is None else []
    if live is None:
        found = (f"journal {journal}", f"head    {head}", *_some(contained_line(ledger)))
        last = (*_some(watch), closing_line(ledger, today=today))
        tail = [*found, *way.lines(), *last]
    else:
        again = f"acctops status {ledger.run.run}{way.flags}"
        tail = [f"journal {journal}", f"from any terminal: {again}", *_some(contained_line(ledger)), line(live)]
    top = [_title(ledger, live=live is not None)]
    waves = wave_lines(ledger, is_live=live is not None)
    if screen is None:
        notes = [*waves, *account_lines(ledger), *hold_lines(ledger, way.held), *note_lines(ledger), pace_line(ledger)]
        return "\n".join([*top, *notes, *stop, *_bad_lines(ledger, way, is_live=live is not None), *tail]) + "\n"
    report = f"acctops report {ledger.run.run}{way.flags}"
    stop = [each for one in _first(stop, _FEW + 1, f"  … and {{}} more: {report}") for each in screen.fold(one)]
    top = screen.fold(top[0])
    if live is None:
        lines = [fold for each in last for fold in screen.fold(each)]
        tail = [*found, *way.lines(_FEW), *lines]
    groups = [
        _group(kind, cause, members, way)
        for kind, causes in open_causes(ledger, is_live=live is not None).items()
        for cause, members in causes
    ]
    room = screen.rows - 1 - screen.height([*top, *stop, *tail])  # the shell's prompt takes a row
    needed = min(len(groups), 3) + bool(groups)
    accounts = _first(account_lines(ledger, worst_first=True), _FEW, f"  … and {{}} more accounts: {report}")
    notes = [*waves, *accounts, *hold_lines(ledger, way.held), *note_lines(ledger), pace_line(ledger)]
    notes = [each for one in notes for each in screen.fold(one)]
    while notes and screen.height(notes) > room - needed:
        notes.pop()
    rest = f"all of them: acctops report {ledger.run.run} --stuck{way.flags}"
    shown = fitted(groups, screen, max(needed, room - screen.height(notes)), rest) if groups else []
    return "\n".join([*top, *notes, *stop, *shown, *tail]) + "\n"


def wave_lines(ledger: Ledger, *, is_live: bool) -> list[str]:
    """Return how the waves of a run stand; nothing for a run without waves."""
    if not ledger.waves:
        return []
    from engine.report.waves import lines  # here: most runs have no waves

    return [plain(each) for each in lines(ledger, is_live=is_live)]


def _some(line: str) -> tuple[str, ...]:
    return (line,) if line else ()


def stop_lines(ledger: Ledger, way: WayOn) -> list[str]:
    """Return why a run ended early, and what to do about it; nothing if it did not."""
    return [*_paused_lines(ledger, way), *_why_lines(ledger, way)]


def _paused_lines(ledger: Ledger, way: WayOn) -> list[str]:
    if ledger.pause is None or not any(not entry.settled for _, entry, _ in ledger.outcomes()):
        return []
    again = f"acctops resume {ledger.run.run}{way.flags}"
    paused = pause_words(ledger.pause, "another day")
    return [f"{paused}; its process has ended, and only this goes on with it: {again}"]


def _why_lines(ledger: Ledger, way: WayOn) -> list[str]:
    if ledger.end is None or ledger.end.stopped is None:
        return []
    stopped = ledger.end.stopped
    request = f" (RequestId {stopped.request_id})" if stopped.request_id else ""
    code = f" [{stopped.code}]" if stopped.code and stopped.code not in stopped.why else ""
    given_up = dict(ledger.given_up)
    whose = next((name for name, why in given_up.items() if why == stopped.why), None)
    if whose is not None:
        del given_up[whose]
    of = f" for {plain(whose)}" if whose is not None else ""
    lines = [f"STOPPED EARLY{of}: {plain(stopped.why)}{code}{request}"]
    if stopped.code is not None:
        answer = Answer(http=None, request_id=None, code=stopped.code, message=None)
        ruling = rule(ledger.run.action, answer)
        # A failed target brings its own advice; a target that was never sent for this reason has none.
        lines += [f"  → {way.fill(ruling.advice)}"] if ruling.verdict is Verdict.FATAL else []
    return lines + [f"  nothing more was sent of {name}: {plain(why)}" for name, why in given_up.items()]


def _first(lines: list[str], most: int, more: str) -> list[str]:
    """Return at most so many lines; `more` tells, with `{}` for their number, how many were left away."""
    return lines if len(lines) <= most else [*lines[: most - 1], more.format(len(lines) - most + 1)]


def account_lines(ledger: Ledger, *, worst_first: bool = False) -> list[str]:
    """Return how each cloud account stands, with its uin if STS gave another; empty for a run over one account.

    With `worst_first` those with the most targets that are not as asked are the first.
    """
    counts: dict[str, Counter[Outcome]] = {}
    for call, _, outcome in every_target(ledger):
        counts.setdefault(call.account, Counter())[outcome] += 1
    if len(counts) < 2:
        return []
    done_word = ACTIONS[ledger.run.action].done_word
    lines = []
    names = sorted(counts)
    if worst_first:
        names.sort(key=lambda name: -sum(counts[name][kind] for kind in BAD))
    for name in names:
        of = counts[name]
        whose = f" ({ledger.uins[name]})" if ledger.uins.get(name, name) != name else ""
        bad = "".join(f", {of[kind]:,} {kind}" for kind in BAD if of[kind])
        good = of[Outcome.CHANGED] + of[Outcome.ALREADY]
        lines.append(f"  {name or 'no account told'}{whose}: {good:,} of {of.total():,} {done_word}{bad}")
    return lines


THEN = {
    "tell": "then a person decides",
    "unlock": "then unlocked, if nobody else holds it",
    "unlock_rotated": "then unlocked, if the password was changed after the lock and nobody else holds it",
}
"""What is done once a hold has ended, in words."""


def ends_words(until: str | None, then: str) -> str:
    """Return in words when holds end, and what is done then."""
    return "without end" if until is None else f"until {until[:10]} {until[11:16]} UTC; {THEN[then]}"


def _accounts(count: int) -> str:
    return f"{count:,} account{'s' * (count != 1)}"


def hold_lines(ledger: Ledger, held: HeldNow | None) -> list[str]:
    """Return who holds the accounts of a run, or of the run that an undo undid."""
    action = ACTIONS.get(ledger.run.action)
    if held is None or action is None or ledger.run.simulated:
        return []
    shown = held.others[:_FEW]
    others = ", ".join(f"{count:,} by {run}{f' ({ticket})' if ticket else ''}" for run, ticket, count in shown)
    others += f" and {len(held.others) - _FEW:,} more runs" if len(held.others) > _FEW else ""
    if ledger.run.parent is not None and ledger.run.parent.verb == "undo":
        return [plain(f"held by others: {others}; these stay as they are")] if others else []
    if action.inverse is None or not (action.keeps_out or held.until):
        return []
    lines = []
    if held.accounts:
        lines.append(f"holds {_accounts(held.accounts)} {ends_words(held.until, held.then)}")
    if held.released:
        ended = "its hold has ended and it stays" if held.released == 1 else "their hold has ended and they stay"
        lines.append(f"no longer holds {_accounts(held.released)}: {ended} as before")
    if others:
        lines.append(plain(f"some are held by other runs, too: {others}"))
    return lines


def note_lines(ledger: Ledger) -> list[str]:
    """Return the lines on what was left out, and on a missing protect rule."""
    lines = []
    elsewhere = (OmitReason.PROTECTED, *LACKING)  # these stand in `closing_line`, and among the failed
    left = {reason: count for reason, count in ledger.left_out().items() if count and reason not in elsewhere}
    if left:
        lines.append("left out: " + "; ".join(f"{count:,} {reason}" for reason, count in left.items()))
    is_guarded = ledger.settings.protect or ledger.settings.protect_waived or ledger.left_out()[OmitReason.PROTECTED]
    if not is_guarded:
        lines.append("no protect rule was in force: name your break-glass accounts in config.yaml, protect: […]")
    return lines


def stuck_text(ledger: Ledger, way: WayOn | None = None, *, today: str = "") -> str:
    """Return the targets that are not as asked, grouped by cause, with advice and RequestIds: ready for a ticket."""
    way = way or way_on([ledger])
    groups: dict[str, list[tuple[Call, Entry, Outcome]]] = {}
    for call, entry, outcome in every_target(ledger):
        if outcome in BAD:
            groups.setdefault(cause_of(entry), []).append((call, entry, outcome))
    lines = [_title(ledger, live=False), closing_line(ledger, today=today)]
    for cause, members in sorted(groups.items(), key=lambda item: -len(item[1])):
        words, advice = told(members, way)
        lines += ["", f"{len(members):,} × {cause}: {words}"]
        if advice:
            lines.append(f"  → {advice}")
        for member in members:
            call, entry, _ = member
            request = f"  RequestId {entry.request_id}" if entry.request_id else ""
            account = f"{call.account}  " if call.account else ""
            lines.append(f"  {call.label}  {account}{call.region}{request}{own_words(member, words, way)}")
    if not groups:
        lines.append("nothing is stuck")
    return "\n".join(lines) + "\n"


def _title(ledger: Ledger, *, live: bool) -> str:
    run = ledger.run
    marks = ("SIMULATED  " if run.simulated else "") + ("LIVE  " if live else "")
    extra = "".join(f"  {value}" for value in (run.ticket, run.reason) if value)
    what = f"run {run.run}" if run.watched is None else f"run {run.run}, the watch of {run.watched}"
    if ledger.unapproved is not None:
        extra += f"  WITHOUT THE APPROVAL that was asked for: {ledger.unapproved.data.get('reason')}"
    elif ledger.approved:
        extra += f"  approved by {len({each.fingerprint for each in ledger.approved}):,} keys"
    return plain(f"{marks}{what}  {run.action}  {run.job.name}{extra}")


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
    bad = [f"{count:,} {kind}" for kind, count in open_counts(ledger).items()]
    if bad:
        sentence += f"; {total - good:,} not: " + ", ".join(bad)
    back = sum(entry.is_back for _, entry, _ in ledger.outcomes())
    if back:
        sentence += f"; {back:,} of these {'was' if back == 1 else 'were'} proven, and then read as changed back"
    protected = ledger.left_out()["protected"]
    sentence += _dropped_words(ledger)
    return sentence + (f"; {protected:,} protected, NOT {action.done_word}" if protected else "")


def _dropped_words(ledger: Ledger) -> str:
    """Return how many targets were taken out of the live run, and by whom."""
    dropped = [omit for omit in ledger.omits if omit.reason == OmitReason.DROPPED]
    if not dropped:
        return ""
    who = ", ".join(sorted({omit.where for omit in dropped}))
    return plain(f"; {len(dropped):,} of these dropped by {who}")


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


def pace_line(ledger: Ledger) -> str:
    """Return how long the last session took, and how often it sent."""
    worst = max(ledger.worst_second().values(), default=0)
    throttled = f" · {ledger.throttled:,} throttled (not failures)" if ledger.throttled else ""
    seconds = f"{duration(ledger.end.seconds)} · " if ledger.end else ""
    return f"{seconds}{ledger.attempts:,} attempt{'s' * (ledger.attempts != 1)} · worst second {worst}{throttled}"


_FEW = 3
"""Accounts of a cause that are named on a screen."""
_CAUSES = 5
"""Causes that are named before they are told one by one."""


def open_causes(ledger: Ledger, *, is_live: bool) -> dict[str, list[tuple[str, list[_Member]]]]:
    """Return what is not as asked: in which words → by cause, the most frequent first.

    Of a live run these are the calls that failed or are tried again: its line has the number of the others.
    """
    kinds: dict[str, dict[str, list[_Member]]] = {}
    for member in every_target(ledger):
        _, entry, outcome = member
        if outcome in BAD and (not is_live or entry.settled or outcome is Outcome.FAILED):
            causes = kinds.setdefault(kind_of(member, is_live=is_live), {})
            causes.setdefault(cause_of(member[1]), []).append(member)
    return {kind: sorted(kinds[kind].items(), key=lambda one: -len(one[1])) for kind in sorted(kinds, key=_KINDS.index)}


_TRIED, _INTERRUPTED = "tried again", "interrupted while tried again"
_KINDS = [Outcome.FAILED, _TRIED, _INTERRUPTED, Outcome.UNKNOWN, Outcome.UNATTEMPTED]


def open_counts(ledger: Ledger) -> dict[str, int]:
    """Return how many targets are not as asked, by the words of a report for a run that has ended."""
    counts = Counter(kind_of(member) for member in every_target(ledger) if member[2] in BAD)
    return {kind: counts[kind] for kind in _KINDS if counts[kind]}


def kind_of(member: _Member, *, is_live: bool = False) -> str:
    """Return how a target that is not as asked stands. Nothing has failed that is still tried, or would have been."""
    _, entry, outcome = member
    if outcome is Outcome.FAILED and not entry.settled:
        return _TRIED if is_live else _INTERRUPTED
    return str(outcome)


def told(members: list[_Member], way: WayOn) -> tuple[str, str | None]:
    """Return the words and the advice for targets of one cause: in general words where each has words of its own."""
    words, advice = explain(*members[0], way)
    entry = members[0][1]
    if entry.code and any(explain(*member, way)[0] != words for member in members[1:]):
        words = rule(members[0][0].action, Answer(http=None, request_id=None, code=entry.code, message=None)).words
    return plain(words or ""), advice


def own_words(member: _Member, words: str, way: WayOn) -> str:
    """Return what is said of one target beside what is said of all; empty if nothing is."""
    own = plain(explain(*member, way)[0] or "").removeprefix(words).strip()
    return f"  {own}" if own else ""


def _group(kind: str, cause: str, members: list[_Member], way: WayOn) -> Group:
    words, advice = told(members, way)
    code = f"{cause}: " if cause == members[0][1].code else ""
    if advice and way.command and advice.startswith(f"{way.command} "):
        advice = None  # what the report ends with
    named = ", ".join(call.placed if call.account else call.label for call, _, _ in members[:_FEW])
    more = f" and {len(members) - _FEW:,} more" if len(members) > _FEW else ""
    ids = [entry.request_id for _, entry, _ in members[:_FEW] if entry.request_id]
    lines = [f"    {named}{more}", *([f"    RequestId {' '.join(ids)}"] if ids else [])]
    head = f"{kind} {len(members):,} × {code}{words}"
    return Group(len(members), head, (f"  → {advice}",) if advice else (), tuple(lines))


def _bad_lines(ledger: Ledger, way: WayOn, *, is_live: bool) -> list[str]:
    """Return what is not as asked, by cause: words, advice, and the first targets with their RequestIds."""
    lines: list[str] = []
    for kind, causes in open_causes(ledger, is_live=is_live).items():
        named = ", ".join(f"{len(members):,} × {cause}" for cause, members in causes[:_CAUSES])
        is_sent = kind != Outcome.UNATTEMPTED
        total = sum(len(members) for _, members in causes)
        lines += ["", f"{kind} ({total:,})" + (f": {named}" if is_sent else "")]
        for cause, members in causes:
            group = _group(kind, cause, members, way)
            lines += [f"  {group.head.removeprefix(kind).strip()}", *(f"  {each}" for each in group.advice)]
            words = told(members, way)[0]
            for member in members[:SHOWN]:
                call, entry, _ = member
                request = f"  RequestId {entry.request_id}" if entry.request_id else ""
                lines.append(f"      {call.placed}{request}{own_words(member, words, way)}")
            if more := len(members) - SHOWN:
                rest = f"acctops report {ledger.run.run} --stuck{way.flags}"
                lines += [f"      … and {more:,} more: {rest}"] if more > 0 else []
    return [*lines, ""] if lines else []


def cause_of(entry: Entry) -> str:
    """Return the cause under which a target that is not as asked is counted.

    This is its code, unless the code is that of an older attempt.
    """
    if entry.unanswered:
        return "no answer"
    return entry.code or ("accepted, not settled" if entry.verdict is Verdict.DONE else "no code")


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
