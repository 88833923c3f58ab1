"""The HTML report of one run, a family, several runs, a ticket or a span of time, gathered from journals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from engine.errors import AcctopsError, UsageError
from engine.journal.records import unix_seconds
from engine.journal.standing import RECENT_S, Progress, standing
from engine.operations.family import kin_of, way_and_holds, with_family
from engine.operations.sealing import seal_words
from engine.operations.stores import find, flags_of, runs_in
from engine.report import plots
from engine.report.course import Course
from engine.report.documents import CSV_COLUMNS, csv_rows, csv_text
from engine.report.page import Bar, Page, Part, Rows, moment, part, state_of
from engine.report.text import closing_line

if TYPE_CHECKING:
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import RunRef
    from engine.operations.terms import Terms

MOST_PARTS = 30
"""Runs of which a page says all; of the others it has a line each."""
MOST_BARS = 500


class Made(Struct, frozen=True, kw_only=True):
    """A page, and what does not fit into it."""

    page: Page
    csv: Callable[[], Iterator[str]] | None
    """All targets as CSV; None if the page has them all."""


class _Found(Struct, kw_only=True):
    """What a page is about."""

    title: str
    refs: list[RunRef]
    whole: Ledger | None = None
    """The family of the only run as one."""
    problems: list[str]


def wall(at: float) -> str:
    """Return a UNIX time by this machine's clock on the wall, with its zone."""
    try:
        return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z (UTC%z)")
    except (OverflowError, ValueError, OSError):  # a journal may say any year
        return "?"


def csv_beside(path: Path) -> Path:
    """Return the place of the CSV with all targets: `week.html` → `week.targets.csv`."""
    return path.with_name(f"{path.name.removesuffix('.html')}.targets.csv")


def page_of(
    terms: Terms, runs: Iterable[str], *, family: bool, ticket: str | None, since: float | None, output: str | None
) -> Made:
    """Return the page that is asked for; UsageError if no run fits. `output`: its file, if it has one."""
    names = tuple(runs)
    found = _named(terms, names, family=family) if names else _chosen(terms, ticket, since)
    several = len(found.refs) > 1 and found.whole is None
    parts: list[Part] = []
    bars: list[tuple[RunRef, Ledger, bool, str | None]] = []
    rows = Rows(wall)
    shown = {ref.run_id for ref in found.refs[-MOST_PARTS:]}
    kin: tuple[Ledger, ...] = ()
    store = found.refs[0].store
    if found.whole is not None and store is not None:
        kin = kin_of(store, found.refs[0].replay().ledger, terms.settings(None).trust).ledgers
    for ref in found.refs:
        try:
            one = _part(terms, ref, found.whole, rows, is_shown=ref.run_id in shown, kin=kin)
        except AcctopsError as error:
            if len(found.refs) == 1:
                raise
            found.problems.append(str(error))
            continue
        if one.part is not None:
            parts.append(one.part)
        bars.append((ref, one.ledger, one.live, one.part.anchor if one.part is not None else None))
    if kin:
        bars = [(found.refs[0], each, store is not None and store.is_live(each.run.run), None) for each in kin]
    rest = ""
    if not rows.are_all:
        beside = f"All of them are in {csv_beside(Path(output)).name}, beside this file." if output else ""
        rest = beside or "acctops report RUN --format csv has all of them."
    drawn, axis = _bars(bars[-MOST_BARS:], terms.clock())
    page = Page(
        title=found.title,
        made=moment(terms.clock(), wall),
        parts=tuple(parts),
        bars=drawn if several or len(drawn) > 1 else (),
        axis=axis,
        sums=tuple(Counter(bar.state for bar in drawn).items()) if several else (),
        rows=rows.shown(),
        rows_said=rows.said(rest),
        several=several,
        remarks=tuple(_remarks(found, len(shown))),
    )
    return Made(page=page, csv=None if rows.are_all else lambda: csv_text(_csv_rows(terms, found), CSV_COLUMNS))


def _remarks(found: _Found, shown: int) -> Iterator[str]:
    if len(found.refs) > MOST_BARS:
        yield f"{len(found.refs):,} runs are too many for one timeline: here are the last {MOST_BARS}"
    if len(found.refs) > shown:
        yield f"Only the last {shown} runs are told in full; acctops report RUN has each"
    for problem in found.problems[:20]:
        yield f"NOT IN THIS REPORT, cannot be read: {problem}"


class _One(Struct, kw_only=True):
    part: Part | None
    ledger: Ledger
    live: bool


def _part(
    terms: Terms, ref: RunRef, whole: Ledger | None, rows: Rows, *, is_shown: bool, kin: Sequence[Ledger] = ()
) -> _One:
    found = ref.replay()
    flags = flags_of(terms, ref)
    way = way_and_holds(ref.store, found.ledger, terms.settings(None).trust, clock=terms.clock, flags=flags)
    ledger = whole or found.ledger
    rows.add(ref.run_id, ledger, way)
    live = ref.store is not None and ref.store.is_live(ref.run_id)
    made = None
    if is_shown:
        course = Course()
        for each in [ref.store.find(each.run.run) for each in kin] if ref.store is not None and kin else (ref,):
            course.fold(each.records())
        made = part(
            ledger,
            course,
            way,
            journal=ref.place,
            head=found.head,
            zone=wall,
            now=terms.clock(),
            live=going(ledger, terms.clock()) if live else None,
            watch=_watch(terms, ref, found.ledger, flags),
            kin=kin,
            seals=seal_words(ref.store, ref.run_id),
        )
    return _One(part=made, ledger=ledger, live=live)


def going(ledger: Ledger, now: float) -> Progress:
    """Return how a live run stands, from its ledger alone."""
    lanes = sum(lane.sent_since(now - RECENT_S) > 0 for lane in list(ledger.lanes.values()))
    return standing(ledger, now, quota=ledger.settings.rate * max(1, lanes))


def _watch(terms: Terms, ref: RunRef, ledger: Ledger, flags: str) -> str:
    if ledger.run.settings.watch is None or ledger.run.watched is not None:
        return ""
    from engine.api.actions import ACTIONS
    from engine.operations.watched import standing as watch_standing
    from engine.report.watches import watch_line

    watch = watch_standing(ref.store, ledger)
    return watch_line(watch, ACTIONS[ledger.run.action].done_word, terms.clock(), flags) if watch is not None else ""


def _named(terms: Terms, names: tuple[str, ...], *, family: bool) -> _Found:
    refs = list({ref.run_id: ref for ref in (find(terms, name) for name in names)}.values())
    first = refs[0].replay()
    run = first.ledger.run
    title = f"{run.action} {run.job.name}" + (f" · {run.ticket}" if run.ticket else "")
    whole = None
    if family:
        if len(refs) > 1:
            raise UsageError("--family goes with one run")
        whole = with_family(refs[0], first, terms.settings(None).trust)
        title += ", with its reruns"
    elif len(refs) > 1:
        title = f"{len(refs)} runs"
        refs.sort(key=lambda ref: ref.run_id)
    return _Found(title=title, refs=refs, whole=whole, problems=[])


def _chosen(terms: Terms, ticket: str | None, since: float | None) -> _Found:
    """Return the runs of a ticket with all that goes back to them, or of a span of time, or of both; oldest first."""
    heads = sorted(
        runs_in(terms, simulated=False, since=since, watches=ticket is not None),
        key=lambda head: (head.started_at, head.run_id),
    )
    problems = [head.problem for head in heads if head.problem is not None]
    good = [head for head in heads if head.run is not None]
    if ticket is not None:
        taken: set[str] = set()
        for head in good:
            run = head.run
            assert run is not None
            if run.ticket == ticket or (run.parent is not None and run.parent.run in taken):
                taken.add(head.run_id)
        good = [head for head in good if head.run_id in taken]
    span = f" since {moment(since, wall).utc}" if since is not None else ""
    if not good:
        raise UsageError(f"no run{f' with the ticket {ticket}' if ticket else ''}{span}; acctops status lists the runs")
    title = (f"Ticket {ticket}" if ticket else "Runs") + span
    return _Found(title=title, refs=[find(terms, head.run_id) for head in good], problems=problems)


def _bars(runs: list[tuple[RunRef, Ledger, bool, str | None]], now: float) -> tuple[tuple[Bar, ...], Any]:
    """Return runs on one time axis, and the axis. Any: two moments, or None."""
    if not runs:
        return (), None
    spans = [
        (unix_seconds(ledger.run.at), now if live else unix_seconds(ledger.last_at)) for _, ledger, live, _ in runs
    ]
    begin, end = min(since for since, _ in spans), max(max(pair) for pair in spans)
    found = []
    for (_, ledger, live, anchor), (since, until) in zip(runs, spans, strict=True):
        run = ledger.run
        left, wide = plots.span(since, max(since, until), begin, end)
        what = f"{run.action} {run.job.name}"
        found.append(
            Bar(
                run=run.run,
                anchor=anchor,
                what=f"{run.parent.verb} of {run.parent.run}: {what}" if run.parent is not None else what,
                begun=moment(since, wall),
                ended=moment(until, wall) if ledger.end is not None and not live else None,
                state=state_of(ledger, live=live),
                verdict=closing_line(ledger),
                left=left,
                wide=wide,
            )
        )
    return tuple(found), (moment(begin, wall), moment(end, wall))


def _csv_rows(terms: Terms, found: _Found) -> Iterator[dict[str, Any]]:
    """Yield all targets, run by run. Any: JSON values."""
    for ref in found.refs:
        try:
            replay = ref.replay()
        except AcctopsError:
            continue  # named in the page
        way = way_and_holds(ref.store, replay.ledger, terms.settings(None).trust, clock=terms.clock)
        yield from csv_rows(found.whole or replay.ledger, way)
