"""From ledgers to one HTML file that needs nothing else. The only importer of jinja2. Pure, but for its own templates.

A page fetches nothing and asks nobody: its policy forbids all but its one style and its one script, each by its hash.
All words of others pass `_clean`, and jinja2 escapes them. The script only sorts and filters; without it all is there.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from engine.errors import ConfigError
from engine.journal.records import unix_seconds
from engine.model import GOOD, Outcome, Proof
from engine.report.contained import Containment, contained_line
from engine.report.documents import every_target, pace, plain, row
from engine.report.going import line
from engine.report.plots import LanePlot, Marks, Shape, bar, lane_plots, marks, steps
from engine.report.spans import duration
from engine.report.text import (
    account_lines,
    cause_of,
    closing_line,
    hold_lines,
    kind_of,
    note_lines,
    open_causes,
    open_counts,
    pace_line,
    stop_lines,
    told,
    wave_lines,
)

if TYPE_CHECKING:
    from jinja2 import Template

    from engine.journal.ledger import Entry, Ledger
    from engine.journal.standing import Progress
    from engine.model import Call
    from engine.report.course import Course
    from engine.report.nextstep import WayOn

MOST_ROWS = 5000
"""Targets in a page: a browser opens so many in about a second."""
SHOWN = 20
"""Targets of a cause that are named above the table of all."""
_CAUSES = 100
_MOST_WORDS = 600
"""Signs of one text of others, where there are thousands of them."""
_MOST_LINE = 4000
"""Signs of any other line."""

Zone = Callable[[float], str]
"""UNIX time → the same moment by the clock on the wall, with its zone."""


class Moment(Struct, frozen=True):
    """A time, in UTC and by the clock on the wall."""

    utc: str
    local: str

    @property
    def is_elsewhere(self) -> bool:
        """Whether the wall's clock shows another time than UTC."""
        return self.local[:19] != self.utc[:19]


class Cause(Struct, frozen=True, kw_only=True):
    """Targets that are not as asked for one cause."""

    kind: str
    code: str
    count: int
    words: str
    advice: str | None
    targets: tuple[tuple[str, str | None], ...]
    """Names of the first ones, with their RequestIds; empty if accounts are not to be named."""


class Share(Struct, frozen=True, kw_only=True):
    """How many targets ended in one way."""

    what: str
    count: int
    percent: str
    wide: float
    is_good: bool


class Part(Struct, frozen=True, kw_only=True):
    """All that a page says of one run, or of a family as one."""

    run: str
    anchor: str
    title: str
    state: str
    """One of `_STATES`."""
    verdict: str
    marks_words: tuple[str, ...]
    begun: Moment
    ended: Moment | None
    facts: tuple[tuple[str, str], ...]
    shares: tuple[Share, ...]
    total: int
    reached: tuple[tuple[str, str], ...]
    """How many targets were as asked, and after how long."""
    curve: Shape
    axis: tuple[Moment, Moment]
    marks: Marks
    sessions: tuple[tuple[str, Moment], ...]
    lanes: tuple[LanePlot, ...]
    pace: tuple[dict[str, Any], ...]
    """Any: numbers (`documents.pace`)."""
    quota: float
    causes: tuple[Cause, ...]
    causes_more: int
    go_on: tuple[str, ...]
    stops: tuple[str, ...]
    waves: tuple[str, ...]
    holds: tuple[str, ...]
    notes: tuple[str, ...]
    approvals: tuple[str, ...]
    seals: tuple[str, ...]
    journal: str
    head: str


class Bar(Struct, frozen=True, kw_only=True):
    """A run on the timeline of several."""

    run: str
    anchor: str | None
    what: str
    begun: Moment
    ended: Moment | None
    state: str
    verdict: str
    left: float
    wide: float


class Live(Struct, frozen=True, kw_only=True):
    """What a page says that is written while its run goes."""

    at: float
    every_s: float
    over: bool
    """Whether the run has ended, and this is the last page."""


class Page(Struct, frozen=True, kw_only=True):
    """All that a page says."""

    title: str
    made: Moment
    parts: tuple[Part, ...]
    bars: tuple[Bar, ...] = ()
    axis: tuple[Moment, Moment] | None = None
    sums: tuple[tuple[str, int], ...] = ()
    """How many of several runs stand in each of `_STATES`."""
    rows: Sequence[dict[str, Any]] = ()
    """Any: JSON values (`row`)."""
    rows_said: str = ""
    """Which targets the rows are."""
    several: bool = False
    live: Live | None = None
    remarks: tuple[str, ...] = ()

    @property
    def with_accounts(self) -> bool:
        """Whether any row names a cloud account."""
        return any(each["account"] for each in self.rows)


DONE, OPEN, GOING, CUT = "done", "open", "going", "cut"
_STATES = {
    DONE: ("✓", "Done: all as asked"),
    OPEN: ("!", "Ended: not all as asked"),
    GOING: ("…", "Going on"),
    CUT: ("✂", "Cut off: its journal has no end"),
}


def check_installed(what: str) -> None:
    """Raise ConfigError if the package that makes pages is missing; `what` asked for one."""
    if find_spec("jinja2") is None:
        raise ConfigError(f"{what} needs the package jinja2, which is not installed: pip install 'acctops[report]'")


def moment(at: float | str, zone: Zone) -> Moment:
    """Return a time, UNIX seconds or as a journal has it, in UTC and by the wall."""
    from engine.journal.records import rfc3339

    text = at if isinstance(at, str) else rfc3339(at)
    return Moment(f"{text[:10]} {text[11:19]} UTC", zone(unix_seconds(text)))


def state_of(ledger: Ledger, *, live: bool) -> str:
    """Return how a run stands, in one word of `_STATES`."""
    if live:
        return GOING
    if ledger.end is None:
        return CUT
    return DONE if ledger.end.exit == 0 and not open_counts(ledger) else OPEN


def part(
    ledger: Ledger,
    course: Course,
    way: WayOn,
    *,
    journal: str,
    head: str,
    zone: Zone,
    now: float,
    live: Progress | None = None,
    names: bool = True,
    watch: str = "",
    kin: Sequence[Ledger] = (),
    seals: Iterable[str] = (),
) -> Part:
    """Return what a page says of one run. `live`: how it stands, if it goes on; `names`: whether accounts are named.

    `kin`: the runs that are merged in `ledger`, as a merged one has no waves.
    """
    run = ledger.run
    begin = unix_seconds(run.at)
    until = now if live is not None else max(begin, unix_seconds(ledger.last_at))
    proven = Containment(ledger)
    last = max([until, *proven.moments[-1:]])
    total = len(ledger.calls) + len(ledger.lacking())
    quota = ledger.settings.quota or ledger.settings.rate
    causes = list(_causes(ledger, way, names=names, is_live=live is not None))
    ends = ledger.end is not None and live is None
    return Part(
        run=run.run,
        anchor=f"run-{run.run}",
        title=f"{run.action}  {run.job.name}",
        state=state_of(ledger, live=live is not None),
        verdict=line(live) if live is not None else closing_line(ledger),
        marks_words=_marks_words(ledger),
        begun=moment(run.at, zone),
        ended=moment(ledger.last_at, zone) if ends else None,
        facts=tuple(_facts(ledger)),
        shares=_shares(ledger, total, is_live=live is not None),
        total=total,
        reached=tuple(_reached(proven)),
        curve=steps(proven.moments, total, begin, last),
        axis=(moment(begin, zone), moment(last, zone)),
        marks=marks(course, begin, last),
        sessions=tuple((verb, moment(at, zone)) for at, verb in course.sessions[:20]),
        lanes=lane_plots(course, quota, begin, last)[:20],
        pace=tuple(pace(ledger)),
        quota=quota,
        causes=tuple(causes[:_CAUSES]),
        causes_more=max(0, len(causes) - _CAUSES),
        go_on=tuple(way.lines()) if live is None else (f"acctops status {run.run}{way.flags}",),
        stops=tuple(stop_lines(ledger, way)) if live is None else (),
        waves=tuple(_waves(ledger, kin, is_live=live is not None)),
        holds=(*hold_lines(ledger, way.held), *([watch] if watch else [])),
        notes=(*filter(None, [contained_line(ledger)]), *account_lines(ledger), *note_lines(ledger), pace_line(ledger)),
        approvals=tuple(_approvals(ledger)),
        seals=tuple(seals),
        journal=journal,
        head=head,
    )


def _waves(ledger: Ledger, kin: Sequence[Ledger], *, is_live: bool) -> Iterator[str]:
    for each in kin or (ledger,):
        of = f"{each.run.run}: " if len(kin) > 1 else ""
        yield from (f"{of}{words}" for words in wave_lines(each, is_live=is_live and each is (kin or (ledger,))[-1]))


def _reached(found: Containment) -> Iterator[tuple[str, str]]:
    for share in (10, 25, 50, 75, 90, 95, 100):
        if count := -(-found.total * share // 100):
            after = found.after(share)
            yield f"{share} % ({count:,})", duration(after) if after is not None else "not reached"


def _marks_words(ledger: Ledger) -> tuple[str, ...]:
    found = ["SIMULATED: nothing real was touched"] if ledger.run.simulated else []
    if ledger.unapproved is not None:
        found.append(f"WITHOUT THE APPROVAL that was asked for: {ledger.unapproved.data.get('reason')}")
    return tuple(found)


def _facts(ledger: Ledger) -> Iterator[tuple[str, str]]:
    run = ledger.run
    yield "Run", run.run
    if run.parent is not None:
        yield "What", f"{run.parent.verb} of run {run.parent.run}"
    yield "Ticket", run.ticket or "none was given"
    yield "Reason", run.reason or "none was given"
    yield "Who", f"{run.operator} on {run.host}"
    if ledger.confirmed is not None:
        yield "Confirmed", f"{ledger.confirmed.how}, by {ledger.confirmed.by}"
    for facts in ledger.identities[:5]:
        who = facts.get("arn") or facts.get("sub_account") or facts.get("source")
        yield "Signed as", f"{who}" + (f", for {facts['account']}" if facts.get("account") else "")
    yield "Job", f"{run.job.name} ({run.job.path or 'no file'})"
    yield "Job's SHA-256", run.job.digest
    if ledger.end is not None:
        yield "Last session", f"{duration(ledger.end.seconds)}, exit code {ledger.end.exit}"
    yield "acctops", run.version


def _shares(ledger: Ledger, total: int, *, is_live: bool) -> tuple[Share, ...]:
    counts: Counter[tuple[str, bool]] = Counter()
    for call, entry, outcome in every_target(ledger):
        if outcome in GOOD:
            counts[f"{outcome}: {_PROOF.get(entry.proof, 'no proof')}", True] += 1
        else:
            kind = kind_of((call, entry, outcome), is_live=is_live)
            of = outcome is not Outcome.UNATTEMPTED or entry.code
            counts[f"{kind}: {cause_of(entry)}" if of else kind, False] += 1
    most = max(counts.values(), default=0)
    found = sorted(counts.items(), key=lambda one: (not one[0][1], -one[1]))
    return tuple(
        Share(what=what, count=count, percent=f"{100 * count / total:.1f} %", wide=bar(count, most), is_good=is_good)
        for (what, is_good), count in found[:40]
    )


_PROOF: dict[Proof | None, str] = {
    Proof.READ: "read back",
    Proof.BEFORE: "was so before",
    Proof.CODE: "the API's code says so",
    Proof.ACCEPTED: "accepted, not read back",
}


def _causes(ledger: Ledger, way: WayOn, *, names: bool, is_live: bool) -> Iterator[Cause]:
    for kind, causes in open_causes(ledger, is_live=is_live).items():
        for code, members in causes:
            words, advice = told(members, way)
            shown = members[:SHOWN] if names else []
            yield Cause(
                kind=kind,
                code=code,
                count=len(members),
                words=words if names or not members[0][1].code else "",
                advice=advice if names else None,
                targets=tuple((_clean(call.placed, _MOST_WORDS), entry.request_id) for call, entry, _ in shown),
            )


def _approvals(ledger: Ledger) -> Iterator[str]:
    for each in dict.fromkeys(each.fingerprint for each in ledger.approved):
        yield f"approved by the key {each}"
    if ledger.unapproved is not None:
        yield f"without the approval that was asked for: {ledger.unapproved.data.get('reason')}"


class Rows:
    """The targets in a page: all, or if there are too many only those that are not as asked, failed ones first."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._all: list[dict[str, Any]] | None = []
        self._bad: dict[Outcome, list[dict[str, Any]]] = {Outcome.FAILED: [], Outcome.UNKNOWN: []}
        self.count = 0
        self.bad = 0

    def add(self, run: str, ledger: Ledger, way: WayOn) -> None:
        """Add the targets of a run."""
        for call, entry, outcome in every_target(ledger):
            self.count += 1
            is_bad = outcome in self._bad
            self.bad += is_bad
            if self._all is None and not (is_bad and len(self._bad[outcome]) < MOST_ROWS):
                continue
            found = self._row(run, call, entry, outcome, way)
            if is_bad and len(self._bad[outcome]) < MOST_ROWS:
                self._bad[outcome].append(found)
            if self._all is not None:
                self._all.append(found)
                if len(self._all) > MOST_ROWS:
                    self._all = None

    @property
    def are_all(self) -> bool:
        """Whether the page has every target."""
        return self._all is not None

    def shown(self) -> list[dict[str, Any]]:
        """Return the rows of the page. Any: JSON values."""
        if self._all is not None:
            return self._all
        return (self._bad[Outcome.FAILED] + self._bad[Outcome.UNKNOWN])[:MOST_ROWS]

    def said(self, rest: str) -> str:
        """Return in words which targets the page has; `rest`: where the others are."""
        if self.are_all:
            return f"All {self.count:,} targets."
        shown = len(self.shown())
        which = f"the {shown:,}" if shown == self.bad else f"the first {shown:,} of {self.bad:,}"
        return f"{self.count:,} targets are too many for a page. Here are {which} that failed or are unknown. {rest}"

    def _row(self, run: str, call: Call, entry: Entry, outcome: Outcome, way: WayOn) -> dict[str, Any]:
        found = row(call, entry, outcome, way)
        at = found["settled_at"]
        found["settled"] = moment(at, self._zone) if at else None
        found["run"] = run
        return {key: _clean(value, _MOST_WORDS) if isinstance(value, str) else value for key, value in found.items()}


def _clean(value: Any, most: int = _MOST_LINE) -> Any:
    """Return words of others as one line without control signs, not endless. Any: whatever a template prints."""
    if type(value) is not str:
        return value
    value = plain(value)
    # What was cut once, with the words on it, stays as it is.
    return value if len(value) <= most + 30 else f"{value[:most]}… ({len(value):,} signs)"


def html(page: Page) -> Iterator[str]:
    """Yield the text of a page, in parts."""
    template, known = _template()
    stream = template.stream(page=page, **known)
    stream.enable_buffering(500)
    yield from stream


@cache
def _template() -> tuple[Template, dict[str, Any]]:
    """Return the template, compiled once a process, and what all pages have in common. Any: text, and a table of it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("engine.report", "templates")
    environment = Environment(
        autoescape=True,
        loader=loader,
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (loader.get_source(environment, f"page.{kind}")[0] for kind in ("css", "js"))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    states = {name: {"sign": sign, "words": words} for name, (sign, words) in _STATES.items()}
    known = {"policy": policy, "style": style, "script": script, "states": states}
    return environment.get_template("page.html"), known


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
