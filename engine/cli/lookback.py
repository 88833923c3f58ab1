"""Many runs at a time: overdue, status --since, report --since. From journals alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.api.names import did_you_mean
from engine.cli.options import Options
from engine.cli.talk import out, out_json, printed, say, warn
from engine.cli.views import head_document, head_line, next_command
from engine.errors import AcctopsError, Exit, UsageError
from engine.inputs.files import recorded
from engine.inputs.jobfile.values import some_seconds
from engine.journal import records
from engine.journal.reader import replay
from engine.journal.store import RunHead, RunStore, stamp, to_come_words
from engine.operations.earlier import place_of
from engine.operations.family import way_of
from engine.operations.success import ended_at, is_to_come, last_good
from engine.report.history import OpenWork
from engine.report.spans import duration
from engine.report.text import CSV_COLUMNS, csv_text, full_document, row, text

if TYPE_CHECKING:
    from engine.journal.reader import Replay
    from engine.report.nextstep import WayOn

RUN_COLUMNS = ("run", "job", "ticket", "operator", "started_at")
"""What `report --since` says of the run, before what `report` says of a target."""


def _span(value: str, flag: str) -> float:
    try:
        return some_seconds(value)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}, got {value!r}") from None


def _store(options: Options, *, simulated: bool = False) -> RunStore:
    settings = options.settings(None)
    return RunStore(settings.state_dir, simulated=simulated, group=settings.state_group, trust=settings.trust)


# ---- overdue -------------------------------------------------------------------------------------------------------


def show_overdue(job: str, every: str, notify: bool = False, **flags: Any) -> int:
    """The `overdue` command. Any: the flags, by name."""
    options = Options(**flags)
    every_s, now = _span(every, "--every"), options.clock()
    store = _store(options)
    heads = store.list()
    runs = [head for head in heads if _is_of(head, job)]
    strange = store.strangers(head.run_id for head in runs)
    runs = [head for head in runs if head.run_id not in strange]
    good = last_good(store, runs, now)
    age_s = now - ended_at(good) if good is not None else None
    code = Exit.OK if age_s is not None and age_s <= every_s else Exit.INCOMPLETE
    last = next((head for head in runs if head.live or not head.is_to_come(now)), None)
    if options.as_json:
        out_json(
            {
                "job": job,
                "every_s": every_s,
                "state_dir": str(store.state_dir),
                "last_good": {"run": good.run_id, "ended_at": good.end.at, "age_s": round(age_s or 0.0)}
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
    words = _overdue_words(store, job, every_s, good, age_s, last, heads, options.repeat(store.state_dir))
    if code is not Exit.OK:
        words += _doubts(heads, runs, now)
        words += "".join(f"\nrun {run} does not count: it is not believed, as {why}" for run, why in strange.items())
    if not options.as_json and (code is not Exit.OK or not options.quiet):
        out(words)
    if notify and code is not Exit.OK:
        from engine.cli.attending import tell_overdue

        tell_overdue(options, job, words)
    return printed() or code


def _is_of(head: RunHead, job: str) -> bool:
    """Whether a run is of the job that the operator names: its file, or its name."""
    if head.run is None:
        return False
    place = recorded(place_of(job))
    return head.job == recorded(job) or head.run.job.path == place or head.run.job.path.startswith(f"{place} and ")


def _doubts(heads: Sequence[RunHead], runs: Sequence[RunHead], now: float) -> str:
    """What may hide a good run: journals that cannot be read, ends that are still to come."""
    words = "".join(
        f"\nrun {head.run_id} says it ended at {head.end.at[:16]}Z, which is still to come: the clock of this machine "
        "was wrong then, or is now; it does not count"
        for head in runs
        if head.end is not None and not head.live and is_to_come(head, now)
    )
    early = [head.run_id for head in runs if not head.live and head.is_to_come(now)]
    words += f"\n{to_come_words(early)}" if early else ""
    unreadable = [head for head in heads if head.problem is not None]
    if unreadable:
        words += f"\n{len(unreadable):,} cannot be read, and may be of this job: {unreadable[0].problem}"
    return words


def _overdue_words(
    store: RunStore,
    job: str,
    every_s: float,
    good: RunHead | None,
    age_s: float | None,
    last: RunHead | None,
    heads: Sequence[RunHead],
    flags: str,
) -> str:
    """`flags` are those an exact command needs."""
    if good is not None and good.end is not None and age_s is not None:
        when = f"{good.run_id} ended with exit 0 at {good.end.at[:16]}Z, {duration(max(0.0, age_s))} ago"
        if age_s <= every_s:
            return f"{job}: in time: run {when}"
        words = f"OVERDUE  {job}: no run ended with exit 0 within {duration(every_s)}; the last good one, {when}"
    else:
        words = f"OVERDUE  {job}: no run of it ever ended with exit 0"
    if last is None:
        names = {head.job for head in heads if head.job}
        known = f"; there are runs of {', '.join(sorted(names)[:5])}" if names else ""
        return f"{words}; there is none in {store.runs_dir}{did_you_mean(Path(job).stem, names) or known}"
    if last.live:
        return f"{words}\nrun {last.run_id} is going on: acctops status {last.run_id}{flags}"
    how = f"ended with exit {last.end.exit} at {last.end.at[:16]}Z" if last.end is not None else "was cut off"
    if good is not None and last.run_id == good.run_id:
        return words
    return f"{words}\nthe last run, {last.run_id}, {how}: acctops status {last.run_id}{flags}"


# ---- status and report over a span of time -------------------------------------------------------------------------


def show_status_since(since: str, **flags: Any) -> int:
    """`status --since`: the runs of a span of time, how they ended, and what is open. Any: the flags, by name."""
    options = Options(**flags)
    begin = options.clock() - _span(since, "--since")
    heads = [head for which in (False, True) for head in _since(_store(options, simulated=which), begin)]
    heads.sort(key=lambda head: (head.started_at, head.run_id))
    work, problems = OpenWork(), {}
    for head in heads:
        if head.simulated or head.problem is not None:
            continue
        try:
            work.add(head.run_id, replay(head.dir / "journal.jsonl").ledger)
        except AcctopsError as error:
            problems[head.run_id] = str(error)
    by_run = work.by_run()
    state_dir = options.settings(None).state_dir
    given = options.repeat(state_dir)
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
        out_json({"state_dir": str(state_dir), "since": _utc(begin), "runs": runs, "open": by_run.total()})
        return printed()
    say(f"runs in {state_dir} since {_utc(begin)}")
    for head in reversed(heads):
        command = next_command(head, state_dir, given) if head.run_id not in problems else None
        out(_since_line(head, by_run[head.run_id], problems.get(head.run_id), command))
    out(_sum_line(heads, by_run.total()))
    return printed()


def show_report_since(since: str, form: str, **flags: Any) -> int:
    """`report --since`: every target of every run of a span of time, for a change record. Simulated runs change nothing
    and are left out. Any: the flags, by name.
    """
    options = Options(**flags)
    if options.as_json:
        form = "json"
    begin = options.clock() - _span(since, "--since")
    heads = sorted(_since(_store(options), begin), key=lambda head: (head.started_at, head.run_id))
    unreadable = [{"run": head.run_id, "problem": head.problem} for head in heads if head.problem is not None]

    def found() -> Iterator[tuple[RunHead, Replay]]:
        for head in heads:
            if head.problem is not None:
                continue
            try:
                yield head, replay(head.dir / "journal.jsonl")
            except AcctopsError as error:
                unreadable.append({"run": head.run_id, "problem": str(error)})

    if form == "json":
        runs = [
            full_document(
                each.ledger, journal=str(each.path), head=each.head, live=head.live, way=_way(options, head, each)
            )
            for head, each in found()
        ]
        out_json({"since": _utc(begin), "runs": runs, "unreadable": unreadable})
    elif form == "csv":
        for part in csv_text(_rows(options, found()), (*RUN_COLUMNS, *CSV_COLUMNS)):
            if part:
                out(part)
    else:
        for head, each in found():
            way = _way(options, head, each)
            out(text(each.ledger, journal=str(each.path), head=each.head, live=head.live, way=way))
        if not heads:
            out(f"no runs since {_utc(begin)}")
    for one in unreadable:
        warn(f"NOT IN THIS REPORT, cannot be read: {one['problem']}")
    return printed() or (Exit.CORRUPT if unreadable else Exit.OK)


def _way(options: Options, head: RunHead, found: Replay) -> WayOn:
    """What is open of a run and its reruns, and how to go on."""
    store = _store(options, simulated=head.simulated)
    return way_of(store, found.ledger, flags=options.repeat(store.state_dir))


def _rows(options: Options, found: Iterator[tuple[RunHead, Replay]]) -> Iterator[dict[str, Any]]:
    """Any: JSON values."""
    for head, each in found:
        way = _way(options, head, each)
        run = each.ledger.run
        assert run is not None
        about = (run.run, run.job.name, run.ticket, run.operator, run.at)
        for target in each.ledger.outcomes():
            yield {**dict(zip(RUN_COLUMNS, about, strict=True)), **row(*target, way)}


def _since(store: RunStore, begin: float) -> Iterator[RunHead]:
    """Runs that began or ended since then, or go on; and those that cannot be read, by the time in their name."""
    for head in store.heads():
        if head.live or (head.run_id >= stamp(begin) if head.problem is not None else ended_at(head) >= begin):
            yield head


def _since_line(head: RunHead, open_calls: int, problem: str | None, command: str | None) -> str:
    line = head_line(head)
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
