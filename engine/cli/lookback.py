"""Many runs at a time: overdue, status --since, report --since. From journals alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engine.cli.options import Options, options_of
from engine.cli.talk import out, out_csv, out_json, printed, say, warn
from engine.cli.views import (
    going,
    head_document,
    head_line,
    later_runs,
    needed_ledger,
    next_command,
    watch_json,
    watch_text,
)
from engine.errors import AcctopsError, Reason, UsageError
from engine.inputs.jobfile.values import some_seconds
from engine.journal import records
from engine.journal.protocols import RunHead, Runs
from engine.operations.family import way_of
from engine.operations.overdue import TEND_EVERY, overdue, tend_overdue
from engine.operations.pending import open_work
from engine.operations.stores import runs_in, store_of
from engine.report.documents import CSV_COLUMNS, csv_rows, full_document
from engine.report.text import text

if TYPE_CHECKING:
    from engine.journal.reader import Replay
    from engine.report.nextstep import WayOn


def span(value: str, flag: str) -> float:
    """Return the seconds of a duration that a flag has."""
    try:
        return some_seconds(value)
    except ValueError as error:
        more = ", or a date such as 2026-11-23" if flag == "--since" else ""
        raise UsageError(f"{flag}: {error}{more}, got {value!r}") from None


def begin_of(options: Options, since: str) -> float:
    """UNIX time of `--since`: so long ago, or a date or time, in UTC as all times that are shown."""
    if not re.match(r"[12]\d{3}-|\d{8}", since):
        return options.clock() - span(since, "--since")
    from datetime import UTC, datetime  # here: few commands are given a date

    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        raise UsageError(
            f"--since: expected a duration such as 24h, 7d or 1w, or a date (UTC) such as 2026-11-23 or "
            f"2026-11-23T03:00, got {since!r}"
        ) from None
    begin = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    if begin > options.clock():
        raise UsageError(f"--since {since}: is still to come; it is {_utc(options.clock())}")
    return begin


def _store(options: Options, *, simulated: bool = False) -> Runs:
    return store_of(options.settings(None), simulated=simulated)


# ---- overdue -------------------------------------------------------------------------------------------------------


def show_overdue(job: str | None, every: str | None, notify: bool = False, tend: bool = False, **flags: Any) -> int:
    """The `overdue` command. Any: the flags, by name."""
    options = options_of(flags)
    if tend:
        return _show_tend_overdue(options, every or TEND_EVERY, notify)
    if job is None:
        raise UsageError("overdue of what? Name a job, or give --tend")
    if every is None:
        raise UsageError("--every is missing: after how long the job is overdue, such as --every 8d")
    found = overdue(options, job, span(every, "--every"))
    good, last, code = found.good, found.last, found.reason
    if options.as_json:
        out_json(
            {
                "job": job,
                "every_s": found.every_s,
                "state_dir": found.state_dir,
                "last_good": {"run": good.run_id, "ended_at": good.end.at, "age_s": round(found.age_s or 0.0)}
                if good is not None and good.end is not None
                else None,
                "last": {
                    "run": last.run_id,
                    "started_at": last.started_at,
                    "live": last.live,
                    "exit": last.end.exit if last.end is not None and not last.live else None,
                }
                if last is not None
                else None,
                "exit": int(code),
            }
        )
    elif code is not Reason.OK or not options.quiet:
        out.lines(found.words)
    if notify and code is not Reason.OK:
        from engine.cli.loops import run_loop
        from engine.cli.watching import Terminal
        from engine.operations.unbegun import tell_overdue

        run_loop(tell_overdue(options, job, found.words, Terminal(quiet=options.quiet)), options)
    return printed() or code


def _show_tend_overdue(options: Options, every: str, notify: bool) -> int:
    found = tend_overdue(options, span(every, "--every"))
    code = found.reason
    if options.as_json:
        good = {"run": None, "ended_at": found.good_at, "age_s": round(found.age_s or 0.0)}
        out_json(
            {
                "job": None,
                "tend": True,
                "every_s": found.every_s,
                "state_dir": found.state_dir,
                "last_good": good if found.good_at is not None else None,
                "last": None,
                "exit": int(code),
            }
        )
    elif code is not Reason.OK or not options.quiet:
        out.lines(found.words)
    if notify and code is not Reason.OK:
        from engine.cli.loops import run_loop
        from engine.cli.watching import Terminal
        from engine.operations.unbegun import tell_tend_overdue

        run_loop(tell_tend_overdue(options, found, Terminal(quiet=options.quiet)), options)
    return printed() or code


# ---- status and report over a span of time -------------------------------------------------------------------------


def show_status_since(since: str, **flags: Any) -> int:
    """`status --since`: the runs of a span of time, how they ended, and what is open. Any: the flags, by name."""
    options = options_of(flags)
    begin = begin_of(options, since)
    heads = [head for which in (False, True) for head in runs_in(options, simulated=which, since=begin)]
    heads.sort(key=lambda head: (head.started_at, head.run_id))
    work, problems = open_work(_store(options), (head for head in heads if not head.simulated))
    by_run = work.by_run()
    settings = options.settings(None)
    given, state_dir = options.repeat(settings), settings.kept_in
    if options.as_json:
        runs = [
            {
                **head_document(head),
                "ended_at": head.end.at if head.end is not None and not head.live else None,
                "left_later": head.run.counts.get("later", 0) if head.run is not None else None,
                "open": None if head.simulated or head.problem or head.run_id in problems else by_run[head.run_id],
                "problem": head.problem or problems.get(head.run_id),
            }
            for head in reversed(heads)
        ]
        out_json({"state_dir": state_dir, "since": _utc(begin), "runs": runs, "open": by_run.total()})
        return printed()
    say(f"runs in {state_dir} since {_utc(begin)}")
    later = later_runs(heads[::-1])
    for head in reversed(heads):
        ledger = needed_ledger(options, head)
        command = next_command(options, head, ledger, given) if head.run_id not in problems else None
        line = head_line(options, head, ledger, later.get(head.run_id, ""))
        out(_since_line(head, line, by_run[head.run_id], problems.get(head.run_id), command))
    out(_sum_line(heads, by_run.total()))
    return printed()


def show_report_since(since: str, form: str, excel: bool, **flags: Any) -> int:
    """`report --since`: every target of every run of a span of time, for a change record. Simulated runs change nothing
    and are left out. Any: the flags, by name.
    """
    options = options_of(flags)
    if options.as_json:
        form = "json"
    begin = begin_of(options, since)
    heads = sorted(runs_in(options, simulated=False, since=begin), key=lambda head: (head.started_at, head.run_id))
    unreadable = [{"run": head.run_id, "problem": head.problem} for head in heads if head.problem is not None]

    def found() -> Iterator[tuple[RunHead, Replay]]:
        for head in heads:
            if head.problem is not None:
                continue
            try:
                yield head, _store(options).replay(head.run_id)
            except AcctopsError as error:
                unreadable.append({"run": head.run_id, "problem": str(error)})

    if form == "json":
        runs = [
            full_document(
                each.ledger,
                journal=str(each.path),
                head=each.head,
                live=head.live,
                way=_way(options, head, each),
                watch=watch_json(_store(options), each.ledger),
            )
            for head, each in found()
        ]
        out_json({"since": _utc(begin), "runs": runs, "unreadable": unreadable})
    elif form == "csv":
        rows = (target for head, each in found() for target in csv_rows(each.ledger, _way(options, head, each)))
        out_csv(rows, CSV_COLUMNS, excel=excel)
    else:
        for head, each in found():
            way = _way(options, head, each)
            live = going(options, each.ledger) if head.live else None
            watch = watch_text(options, _store(options), each.ledger)
            out(text(each.ledger, journal=str(each.path), head=each.head, live=live, way=way, watch=watch))
        if not heads:
            out(f"no runs since {_utc(begin)}")
    for one in unreadable:
        warn(f"NOT IN THIS REPORT, cannot be read: {one['problem']}")
    return printed() or (Reason.CORRUPT if unreadable else Reason.OK)


def _way(options: Options, head: RunHead, found: Replay) -> WayOn:
    """What is open of a run and its reruns, and how to go on."""
    store = _store(options, simulated=head.simulated)
    return way_of(store, found.ledger, flags=options.repeat(store))


def _since_line(head: RunHead, line: str, open_calls: int, problem: str | None, command: str | None) -> str:
    if problem is not None:
        return f"{line}  UNREADABLE: {problem}"
    later = head.run.counts.get("later", 0) if head.run is not None else 0
    line += f"  {later:,} later" if later else ""
    line += f"  open: {open_calls:,}" if open_calls and not head.live else ""
    return f"{line}  → {command}" if command is not None else line


def _sum_line(heads: list[RunHead], open_calls: int) -> str:
    real = [head for head in heads if not head.simulated]
    if not real:
        return "no runs" + (f" but {len(heads):,} simulated" if heads else "")
    ways = {
        "ended with exit 0": sum(head.end is not None and head.end.exit == 0 and not head.live for head in real),
        "ended otherwise": sum(head.end is not None and head.end.exit != 0 and not head.live for head in real),
        "cut off": sum(head.end is None and not head.live and head.problem is None for head in real),
        "going on": sum(head.live for head in real),
        "unreadable": sum(head.problem is not None and not head.live for head in real),
    }
    named = ", ".join(f"{count:,} {way}" for way, count in ways.items() if count)
    runs = "run" if len(real) == 1 else "runs"
    return f"{len(real):,} {runs}: {named}; open: {open_calls:,} accounts"


def _utc(at: float) -> str:
    return records.rfc3339(at)[:19] + "Z"
