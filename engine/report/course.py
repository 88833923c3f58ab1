"""When calls left by which lane, as far as a picture needs it: folded from records, or sampled from a ledger. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal import records
from engine.journal.records import unix_seconds
from engine.journal.shards import counts_for_run
from engine.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.journal.ledger import Ledger

_MOST_BINS = 2000
"""Bins of a lane; when a run needs more of them, they are made twice as wide."""
_MOST_MARKS = 200
"""Pauses, and sessions, that a picture shows."""


class Course:
    """How many calls left by each lane, and how many of them were throttled, in bins of `width` seconds."""

    def __init__(self) -> None:
        self.width = 1
        self.lanes: dict[str, dict[int, list[int]]] = {}
        """Lane → bin (UNIX time ÷ width) → [sent, throttled]."""
        self.sessions: list[tuple[float, str]] = []
        self.pauses: list[tuple[float, float | None]] = []
        self._lane_of: dict[str, str] = {}
        self._known: dict[str, tuple[int, int]] = {}

    def fold(self, lines: Iterable[records.AnyRecord]) -> Course:
        """Fold in the records of a journal, and return itself."""
        for line in lines:
            if not counts_for_run(line):
                continue
            match line:
                case records.Sent():
                    self._lane_of[line.call] = line.lane
                case records.ReplyLine(sent_at=str(sent_at)) if lane := self._lane_of.pop(line.call, None):
                    self._add(lane, unix_seconds(sent_at), 1, int(line.verdict is Verdict.THROTTLED))
                case records.Run():
                    self._session(unix_seconds(line.at), "run")
                case records.Session():
                    self._end_pause(unix_seconds(line.at))
                    self._session(unix_seconds(line.at), line.verb)
                case records.Note(what="paused"):
                    if len(self.pauses) < _MOST_MARKS:
                        self.pauses.append((unix_seconds(line.at), None))
                case records.Note(what="unpaused"):
                    self._end_pause(unix_seconds(line.at))
                case _:
                    pass
        return self

    def sample(self, ledger: Ledger, at: float) -> None:
        """Add what a live ledger has counted since the last sample; it costs the same however long the run is."""
        for name, lane in list(ledger.lanes.items()):
            sent, throttled = self._known.get(name, (0, 0))
            if lane.sent > sent:
                self._add(name, at, lane.sent - sent, lane.throttled - throttled)
            self._known[name] = (lane.sent, lane.throttled)
        is_paused = ledger.pause is not None and ledger.pause.in_effect
        if is_paused and (not self.pauses or self.pauses[-1][1] is not None) and len(self.pauses) < _MOST_MARKS:
            self.pauses.append((at, None))
        elif not is_paused:
            self._end_pause(at)

    def known(self, ledger: Ledger) -> None:
        """Take what the ledger has counted so far as already in the bins."""
        self._known = {name: (lane.sent, lane.throttled) for name, lane in ledger.lanes.items()}

    def _add(self, lane: str, at: float, sent: int, throttled: int) -> None:
        bins = self.lanes.setdefault(lane, {})
        found = bins.setdefault(int(at // self.width), [0, 0])
        found[0] += sent
        found[1] += throttled
        if len(bins) > _MOST_BINS:
            self.width *= 2
            for name, old in self.lanes.items():
                wider: dict[int, list[int]] = {}
                for number, counts in old.items():
                    into = wider.setdefault(number // 2, [0, 0])
                    into[0] += counts[0]
                    into[1] += counts[1]
                self.lanes[name] = wider

    def _session(self, at: float, verb: str) -> None:
        if len(self.sessions) < _MOST_MARKS:
            self.sessions.append((at, verb))

    def _end_pause(self, at: float) -> None:
        if self.pauses and self.pauses[-1][1] is None:
            self.pauses[-1] = (self.pauses[-1][0], at)
