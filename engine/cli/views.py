"""The commands that only look: status, report, journal verify; and stop, which asks a live run to drain."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict, replace

from engine.api.actions import ACTIONS
from engine.cli.options import Options, options_of
from engine.cli.screens import folded, screen
from engine.cli.talk import out, out_csv, out_json, printed, say, warn
from engine.errors import AcctopsError, JournalCorruptError, Reason
from engine.journal.ledger import Pause
from engine.journal.protocols import RunHead, RunRef
from engine.journal.reader import Replay
from engine.journal.records import Run, rfc3339, unix_seconds
from engine.journal.standing import RECENT_S, Progress, standing
from engine.model import GOOD, Outcome
from engine.operations.stores import find, flags_of, runs_in, store_of
from engine.report.documents import (
    ATTEMPT_COLUMNS,
    CSV_COLUMNS,
    attempt_rows,
    attempts,
    csv_rows,
    document,
    full_document,
    pace,
)
from engine.report.going import pause_words
from engine.report.nextstep import BAD
from engine.report.spans import rough
from engine.report.text import closing_line, open_counts, pace_text, stuck_text, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Runs
    from engine.planning.watches import Standing
    from engine.report.nextstep import WayOn
    from engine.report.screen import Screen

LISTED = 30
"""Runs `status` prints."""


def _is_live(ref: RunRef) -> bool:
    return ref.store is not None and ref.store.is_live(ref.run_id)


# ---- status --------------------------------------------------------------------------------------------------------


def show_status(run: str | None, **flags: Any) -> int:
    """The `status` command. Any: the flags, by name."""
    options = options_of(flags)
    if run is not None:
        ref = find(options, run)
        found = ref.replay()
        if options.as_json:
            live = _is_live(ref)
            out_json(_document(options, ref, found, live=live))
        else:
            _text(options, ref, found, screen=screen())
        return printed()
    settings = options.settings(None)
    given, state_dir = options.repeat(settings), settings.kept_in
    heads = [head for simulated in (False, True) for head in runs_in(options, simulated=simulated, watches=True)]
    heads.sort(key=lambda head: head.run_id, reverse=True)
    if options.as_json:
        out_json({"state_dir": state_dir, "runs": [head_document(head) for head in heads]})
        return printed()
    say(f"runs in {state_dir}")
    later = later_runs(heads)
    for head in heads[:LISTED]:
        ledger = needed_ledger(options, head)
        command = next_command(options, head, ledger, given)
        for part in folded(head_line(options, head, ledger, later.get(head.run_id, ""), command)):
            out(part)
    if len(heads) > LISTED:
        out(f"… and {len(heads) - LISTED:,} older (--json lists all)")
    if not heads:
        out("no runs yet")
    return printed()


def head_document(head: RunHead) -> dict[str, Any]:
    """One run of a listing. Any: JSON values."""
    return {
        "run": head.run_id,
        "journal": head.place,
        "simulated": head.simulated,
        "live": head.live,
        "job": head.job,
        "action": head.action,
        "started_at": head.started_at,
        "calls": head.calls,
        "watches": head.watched,
        "counts": head.end.counts if head.end else None,
        "exit": head.end.exit if head.end else None,
        "problem": head.problem,
    }


def needed_ledger(options: Options, head: RunHead) -> Ledger | None:
    """Return the state of a run of a listing if its first and last line do not tell all; None too if it is damaged."""
    is_good = head.end is not None and head.end.exit == Reason.OK and not any(map(head.end.counts.get, BAD))
    is_told = is_good and not head.live and head.run is not None and head.run.parent is None
    if head.problem is not None or is_told:
        return None
    try:
        return store_of(options.settings(None), simulated=head.simulated).replay(head.run_id).ledger
    except AcctopsError:  # damaged behind its first line: its report says how
        return None


def next_command(options: Options, head: RunHead, ledger: Ledger | None, flags: str) -> str | None:
    """Return what goes on with a run of a listing: the same that its report advises. `ledger`: `needed_ledger`."""
    if head.live or head.problem is not None or head.watched is not None:
        return None
    if ledger is None:
        is_good = head.end is not None and head.end.exit == Reason.OK and not any(map(head.end.counts.get, BAD))
        return None if is_good else f"acctops status {head.run_id}{flags}"
    from engine.operations.family import way_of  # late: most runs end well

    return way_of(store_of(options.settings(None), simulated=head.simulated), ledger, flags=flags).command


def later_runs(heads: Sequence[RunHead]) -> dict[str, str]:
    """Return in words by which later run a run was undone, or continued. `heads`: the newest first."""
    words: dict[str, str] = {}
    for head in heads:
        parent = head.run.parent if head.run is not None else None
        if parent is not None and head.watched is None:
            words.setdefault(parent.run, f"{'undone' if parent.verb == 'undo' else 'continued'} by {head.run_id}")
    return words


def head_line(
    options: Options, head: RunHead, ledger: Ledger | None, later: str = "", command: str | None = None
) -> str:
    """Return a run of a listing for a person: how much is done, how it ended, when, by whom, and what goes on."""
    mark = "SIMULATED  " if head.simulated else ""
    if head.problem is not None or head.run is None:
        return f"{head.run_id}  {mark}UNREADABLE: {head.problem}"
    if head.watched is not None:
        return _watch_words(options, head, ledger)
    parts = [f"{head.run_id}  {mark}{head.action}  {head.job}", _done_words(options, head, head.run, ledger)]
    if head.live:
        parts.append("LIVE")
        if ledger is not None and ledger.pause is not None:
            parts.append(pause_words(ledger.pause, rfc3339(options.clock())))
    elif head.end is None:
        parts.append("CUT OFF")
    else:
        of_end = {str(kind): head.end.counts.get(kind, 0) for kind in BAD}
        bad = open_counts(ledger) if ledger is not None else of_end
        parts += [f"exit {head.end.exit}", ", ".join(f"{count:,} {kind}" for kind, count in bad.items() if count)]
    age = max(0.0, options.clock() - unix_seconds(head.started_at))
    parts += [f"{rough(age)} ago", head.run.operator, later, f"→ {command}" if command is not None else ""]
    return "  ".join(part for part in parts if part)


def _watch_words(options: Options, head: RunHead, ledger: Ledger | None) -> str:
    """Return a watch of a listing for a person: of which run, when it last read, and what it found."""
    parts = [f"{head.run_id}  watch of {head.watched}  {head.action}  {head.job}"]
    if ledger is not None:
        counts = ledger.counts()
        good = sum(counts[kind] for kind in GOOD)
        parts.append(f"{good:,} of {len(ledger.calls):,} as we left them")
        named = ((Outcome.FAILED, "back"), (Outcome.UNKNOWN, "unread"))
        parts += [f"{counts[kind]:,} {word}" for kind, word in named if counts[kind]]
    if head.end is None:
        parts.append("a reading was cut off" if not head.live else "reads now")
    else:
        parts.append(f"last read {rough(max(0.0, options.clock() - unix_seconds(head.end.at)))} ago")
    return "  ".join(parts)


def _done_words(options: Options, head: RunHead, run: Run, ledger: Ledger | None) -> str:
    """Return how many calls of a run are done: from its end, or from its journal if it has none."""
    total, is_read = head.calls, run.settings.verify
    if ledger is not None:
        total = len(ledger.calls) + len(ledger.lacking())
    if head.end is not None and not head.live:
        done = f"{sum(head.end.counts.get(kind, 0) for kind in GOOD):,}"
    elif ledger is not None:
        done, is_read = f"{going(options, ledger).verified:,}", ledger.settings.verify
    else:
        done = "?"
    return f"{done} of {total:,} {'verified' if is_read else 'accepted'}"


def _text(
    options: Options, ref: RunRef, found: Replay, way: WayOn | None = None, *, screen: Screen | None = None
) -> None:
    if found.torn_bytes:
        say(f"{ref.place}: its last line is unfinished ({found.torn_bytes} bytes) and not counted")
    way = way or _way(options, ref, found)
    live = going(options, found.ledger) if _is_live(ref) else None
    if live is not None and live.pause is None and ref.store is not None:
        asked = next((each for each in ref.store.asked(ref.run_id) if each.what == "pause"), None)
        if asked is not None:
            live = replace(live, pause=Pause(by=asked.by, since=rfc3339(asked.at or options.clock())))
    out(
        text(
            found.ledger,
            journal=ref.place,
            head=found.head,
            live=live,
            way=way,
            today=_today(),
            screen=screen,
            watch=watch_text(options, ref.store, found.ledger),
        )
    )


def _watch(store: Runs | None, ledger: Ledger) -> Standing | None:
    if ledger.run.settings.watch is None:
        return None
    from engine.operations.watched import standing  # here: few runs are watched

    return standing(store, ledger)


def watch_text(options: Options, store: Runs | None, ledger: Ledger) -> str:
    """Return how the watch of a run stands, or of which run a watch is; empty for any other run."""
    flags = options.repeat(store) if store is not None else ""
    if ledger.run.watched is not None:
        return f"go by the run that it watches: acctops status {ledger.run.watched}{flags}"
    watch = _watch(store, ledger)
    if watch is None:
        return ""
    from engine.report.watches import watch_line

    return watch_line(watch, ACTIONS[ledger.run.action].done_word, options.clock(), flags)


def watch_json(store: Runs | None, ledger: Ledger) -> dict[str, Any] | None:
    """Return how the watch of a run stands; None if it asks for none. Any: JSON values."""
    watch = _watch(store, ledger)
    if watch is None:
        return None
    from engine.report.watches import watch_document

    return watch_document(watch)


def going(options: Options, ledger: Ledger) -> Progress:
    """Return how a live run stands, from its journal: what its own terminal shows."""
    now = options.clock()
    # Not all lanes of the journal: an older session may have had others, and a lane gets its name once keys are known.
    lanes = sum(lane.sent_since(now - RECENT_S) > 0 for lane in ledger.lanes.values())
    return standing(ledger, now, quota=ledger.settings.rate * max(1, lanes))


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def _way(options: Options, ref: RunRef, found: Replay) -> WayOn:
    """What is open of the run and its reruns, and how to go on."""
    from engine.operations.family import way_and_holds  # late: a listing of good runs needs none of it

    trust, flags = options.settings(None).trust, flags_of(options, ref)
    return way_and_holds(ref.store, found.ledger, trust, clock=options.clock, flags=flags)


def _document(options: Options, ref: RunRef, found: Replay, *, live: bool) -> dict[str, Any]:
    """A run as `status` and `stop` print it. Any: JSON values."""
    watch = watch_json(ref.store, found.ledger)
    whole = document(found.ledger, journal=ref.place, head=found.head, way=_way(options, ref, found), watch=watch)
    return {**whole, "live": live, "go_on": None if live else whole["go_on"]}


# ---- report --------------------------------------------------------------------------------------------------------


def show_report(
    run: str, *, form: str, excel: bool, by_attempt: bool, by_lane: bool, stuck: bool, family: bool, **flags: Any
) -> int:
    """The `report` command. Any: the flags, by name."""
    options = options_of(flags)
    ref = find(options, run)
    if options.as_json:
        form = "json"
    if by_attempt:
        if form == "csv":
            out_csv(attempt_rows(ref.replay().ledger, ref.records()), ATTEMPT_COLUMNS, excel=excel)
        else:
            out_json({"run": ref.run_id, "attempts": list(attempts(ref.records()))})
        return printed()
    found = ref.replay()
    way = _way(options, ref, found)
    if family:
        from engine.operations.family import with_family

        found = replace(found, ledger=with_family(ref, found, options.settings(None).trust))
    if by_lane and form == "json":
        out_json({"run": ref.run_id, "pace": pace(found.ledger)})
    elif form == "csv":
        out_csv(csv_rows(found.ledger, way, only=BAD if stuck else tuple(Outcome)), CSV_COLUMNS, excel=excel)
    elif by_lane or stuck:
        out(pace_text(found.ledger) if by_lane else stuck_text(found.ledger, way, today=_today()))
    elif form == "json":
        live = _is_live(ref)
        watch = watch_json(ref.store, found.ledger)
        out_json(full_document(found.ledger, journal=ref.place, head=found.head, live=live, way=way, watch=watch))
    else:
        _text(options, ref, found, way)
    return printed()


# ---- journal verify ------------------------------------------------------------------------------------------------


def verify_journal(run: str, *, head: str | None, **flags: Any) -> int:
    """The `journal verify` command. Any: the flags, by name."""
    options = options_of(flags)
    ref = find(options, run)
    from engine.operations.proving import verify_listed  # here: only this command needs it

    found, line, problem = verify_listed(ref, head)
    keys: tuple[str, ...] = ()
    if found.approved:
        from engine.operations.approving import check_recorded  # here: most runs need no approval

        keys = check_recorded(options, run)
    if problem is not None:
        raise JournalCorruptError(problem)
    if options.as_json:
        said = {key: str(value) if key == "path" else value for key, value in asdict(found).items()}
        place = {"seq": line.seq, "lines": line.lines, "late": line.late} if line is not None else None
        out_json({**said, "approved": list(keys), "listed": place, "exit": 0})
        return printed()
    if options.quiet:
        return printed()
    if found.settled_twice:
        warn(f"remark: settled more than once: {', '.join(found.settled_twice)}")
    if found.torn_bytes:
        say(f"remark: the last line is unfinished ({found.torn_bytes} bytes); a resume cuts it")
    out(f"{found.path}: {found.lines:,} lines, the chain holds\nhead {found.head}")
    if found.shards:
        out(f"its {found.shards:,} shards have {found.shard_lines:,} lines beside, and each of their chains holds")
    if keys:
        out(f"its plan was signed by {', '.join(keys)}; each signature holds and is of this plan")
    if found.aside_lines:
        out(f"beside it {found.aside_lines:,} lines of links, releases and holds, whose chain holds")
    if found.after:
        line_of = "of a line" if found.shards else f"that of line {found.lines - found.after:,}"
        out(f"the given head is {line_of}; {found.after:,} lines follow it")
    if line is not None:
        late = ", late: what was done before that does not show" if line.late else ""
        behind = f"; {found.lines - line.lines:,} lines follow" if found.lines > line.lines else ""
        out(f"it is as line {line.seq:,} of heads.jsonl lists it, up to line {line.lines:,}{late}{behind}")
    elif head is None:
        say("a rewritten whole or a cut end does not show without the head that the run printed: --head HASH")
    return printed()


# ---- stop ----------------------------------------------------------------------------------------------------------


def stop_run(run: str, **flags: Any) -> int:
    """The `stop` command. Any: the flags, by name."""
    from engine.cli.loops import run_loop
    from engine.operations.stop import stop

    options = options_of(flags)
    drained = run_loop(stop(options, run))
    ref, code = drained.ref, Reason.OK if drained.is_over else Reason.INCOMPLETE
    found = ref.replay()
    if options.as_json:
        out_json(_document(options, ref, found, live=_is_live(ref)))
    elif not options.quiet or code is not Reason.OK:
        out(("SIMULATED  " if found.ledger.run.simulated else "") + closing_line(found.ledger, today=_today()))
        for line in _way(options, ref, found).lines() if not _is_live(ref) else ():
            say(line)
    return code
