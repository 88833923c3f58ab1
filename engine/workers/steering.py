"""What people ask of a run that many sessions work on: each carries it out; the run's journal says when all have.

The sessions of all shards see each request, and say with their commits up to which one they are done. A request is
noted (`control`) when the leader sees it. Its effect (`paused`, `unpaused`, `changed`) is noted once no session that
may send has it left to do. A session that begins later sees the requests before its first call. What nobody has sent
when a change takes effect, and is to be dropped, the leader leaves out: no session of its shard may ever begin.

Who leads the run on notes no effect again that the journal has, but for a pause that still holds: the line of its
session has ended that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

from engine.errors import Reason
from engine.journal import records
from engine.journal.records import rfc3339, unix_seconds
from engine.model import CallId, OmitReason
from engine.run.control import CHANGE, PAUSE, refusal

if TYPE_CHECKING:
    from engine.journal.control import Asked
    from engine.journal.protocols import Board, Runs, ShardRow
    from engine.run.halts import Halts
    from engine.run.recorder import Recorder
    from engine.run.stopping import Stopping

_EFFECTS = ("paused", "unpaused", "changed", "control_refused")
ALIVE_S = 2.0
"""Seconds of silence from which a session cannot send: its leave has ended."""


class LeadRequests:
    """What people ask of a run that many sessions work on. The requests stay until the run has ended."""

    def __init__(self, store: Runs, board: Board, run_id: str) -> None:
        self._store = store
        self._board = board
        self._run_id = run_id

    def newest(self) -> int:
        """Return the number of the newest request, as of the last answer of the database."""
        return self._board.newest_request(self._run_id)

    def stop_requested(self) -> bool:
        """Return whether the run is asked to drain."""
        return self._store.stop_requested(self._run_id)

    def asked(self, known: Container[str]) -> Sequence[Asked]:
        """Return what is asked, but for requests of these names."""
        return self._store.asked(self._run_id, known)

    def forget(self, _name: str) -> None:
        """Do nothing: a session that begins later must see it."""

    def caught_up(self) -> None:
        """Do nothing: the journal says what is in effect."""

    def clear(self) -> None:
        """Do nothing: whoever submits the run has begun with none."""


class Steering:
    """The part of a leader that says when what people ask is in effect."""

    def __init__(
        self,
        recorder: Recorder,
        halts: Halts,
        stopping: Stopping,
        requests: LeadRequests,
        *,
        changed_pace: Callable[[float], None],
        most_rate: float,
        clock: Callable[[], float],
    ) -> None:
        """`changed_pace` is told of a new rate. A rate above `most_rate` is refused, whoever wrote the request."""
        self._now = asyncio.get_running_loop().time
        self._recorder = recorder
        self._halts = halts
        self._stopping = stopping
        self._requests = requests
        self._changed_pace = changed_pace
        self._clock = clock
        settings, notes = recorder.ledger.settings, recorder.ledger.notes
        self._quota = settings.quota or settings.rate
        self._most_rate = most_rate
        self._noted = {note.data.get("id"): note for note in notes if note.what in _EFFECTS}
        """Id of each request → its effect, as an earlier session has noted it."""
        self._holds: Asked | None = None
        """A pause whose effect an earlier session has noted, and that nobody has lifted since."""
        self._known: set[str] = set()
        self._waiting: deque[Asked] = deque()
        self._under_way: Asked | None = None
        self._until_no = 0
        """Number up to which every session must be done for the request under way to be in effect."""
        self._ends_at: float | None = None
        self._paused_by = ""

    def look(self, rows: Sequence[ShardRow]) -> None:
        """Take in what was asked, and note what is in effect. Called a few times a second."""
        no = self._requests.newest()
        for asked in self._requests.asked(self._known):
            self._known.add(asked.name)
            self._waiting.append(asked)
        while self._under_way is not None or self._waiting or self._holds is not None:
            if self._under_way is None:
                if self._is_known():
                    continue
                held, self._holds = self._holds, None
                self._under_way = self._begun(held or self._waiting.popleft())
                self._until_no = no
            if self._under_way is not None:
                if not self._are_done(rows):
                    break
                (self._note_paused if self._under_way.what == PAUSE else self._note_changed)(self._under_way)
                self._under_way = None
        if self._ends_at is not None and self._now() >= self._ends_at:
            self._stopping.stop(f"the pause by {self._paused_by} ran out, and nobody lifted it", Reason.STOPPED)

    def _is_known(self) -> bool:
        """Pass over the next request if an earlier session has noted its effect; return whether it was one."""
        if not self._waiting or self._waiting[0].id not in self._noted:
            return False
        asked = self._waiting.popleft()
        if asked.what == PAUSE and self._noted[asked.id].what == "paused":
            self._holds = asked
        elif asked.what == "resume":
            self._holds = None
        return True

    def _are_done(self, rows: Sequence[ShardRow]) -> bool:
        alive = (row for row in rows if row.is_open and row.owner is not None and row.silent_s < ALIVE_S)
        return all(row.ack >= self._until_no for row in alive)

    def _begun(self, asked: Asked) -> Asked | None:
        """Note a request; return it if its effect is to be waited for."""
        note = self._recorder.note
        refused = refusal(self._recorder.ledger, asked, self._most_rate)
        if refused is not None:
            note("control_refused", {"id": asked.id, "by": asked.by, "why": refused})
            return None
        note("control", {"id": asked.id, "what": asked.what, "by": asked.by})
        if asked.what == PAUSE:
            self._halts.begin(PAUSE)
            return asked
        if asked.what == CHANGE:
            return asked
        if asked.what == "resume":
            was = self._halts.holds(PAUSE)
            self._ends_at = None
            note("unpaused", {"id": asked.id, "by": asked.by, "was_paused": was})
            self._halts.end(PAUSE)
        return None

    def _note_paused(self, asked: Asked) -> None:
        ledger, until = self._recorder.ledger, None
        self._ends_at, self._paused_by = None, asked.by
        if asked.for_s is not None:
            left_s = asked.for_s
            if (before := self._noted.get(asked.id)) is not None and before.data.get("until"):
                left_s = min(left_s, unix_seconds(str(before.data["until"])) - self._clock())
            self._ends_at = self._now() + left_s
            until = rfc3339(self._clock() + left_s)
        last = max((pace.last_at for pace in ledger.lanes.values() if pace.last_at is not None), default=None)
        left = rfc3339(last, digits=6) if last is not None else None
        facts: dict[str, object] = {"id": asked.id, "by": asked.by, "until": until, "last_sent_at": left}
        self._recorder.note("paused", {**facts, "in_flight": 0})

    def _note_changed(self, asked: Asked) -> None:
        ledger, quota, dropped = self._recorder.ledger, None, 0
        if asked.rate is not None:
            quota = max(asked.rate, self._quota)
            self._changed_pace(asked.rate)
        for call in asked.drop:
            if call in ledger.calls and ledger.entry(CallId(call)).is_unsent:  # no session of its shard lives
                words = f"dropped by {asked.by} while the run was going on"
                target = ledger.calls[CallId(call)]
                self._recorder.append(records.omit_line(target, str(OmitReason.DROPPED), words, asked.by, target.id))
                dropped += 1
        gone = {omit.call for omit in ledger.omits if omit.reason == OmitReason.DROPPED}
        dropped += sum(call in gone for call in asked.drop)
        facts: dict[str, object] = {"id": asked.id, "by": asked.by, "rate": asked.rate, "quota": quota}
        facts |= {"dropped": dropped, "sent": len(asked.drop) - dropped, "first": len(asked.first)}
        self._recorder.note("changed", facts)
