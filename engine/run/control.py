"""What people ask of a session while it works, carried out in the order of asking, each word on it in the journal.

A request is noted (`control`), then its effect is: `paused`, `unpaused`. The next one waits until the effect of the one
before is there. So what is acknowledged holds: no attempt begins after `paused` until `unpaused`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from engine.errors import Reason
from engine.journal.records import rfc3339
from engine.run.attempts import Attempts
from engine.run.halts import Halts
from engine.run.lanes import Lanes
from engine.run.recorder import Recorder
from engine.run.stopping import Stopping

if TYPE_CHECKING:
    from engine.journal.control import Asked

PAUSE = "pause"
"""The reason in `Halts`."""


class Control:
    """The part of a session that carries out what people ask of it."""

    def __init__(
        self,
        recorder: Recorder,
        halts: Halts,
        lanes: Lanes,
        attempts: Attempts,
        stopping: Stopping,
        *,
        asked: Callable[[], Sequence[Asked]],
        forget: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        """`asked` returns the requests that lie there, and `forget` removes one."""
        self._now = asyncio.get_running_loop().time
        self._recorder = recorder
        self._halts = halts
        self._lanes = lanes
        self._attempts = attempts
        self._stopping = stopping
        self._asked = asked
        self._forget = forget
        self._clock = clock
        self._known: set[str] = set()
        self._waiting: deque[Asked] = deque()
        self._under_way: Asked | None = None
        """The request whose effect is not there yet."""
        self._ends_at: float | None = None
        """Loop time at which the pause runs out."""
        self._paused_by = ""

    def look(self) -> None:
        """Take in what was asked, and carry out as much as can be carried out now. Called a few times a second."""
        for asked in self._asked():
            if asked.id not in self._known:
                self._known.add(asked.id)
                self._waiting.append(asked)
        while self._under_way is not None or self._waiting:
            if self._under_way is None:
                self._under_way = self._begin(self._waiting.popleft())
            if self._under_way is not None:
                if not self._lanes.is_quiet:
                    break
                self._note_paused(self._under_way)
                self._under_way = None
        if self._ends_at is not None and self._now() >= self._ends_at:
            self._stopping.stop(f"the pause by {self._paused_by} ran out; acctops resume goes on", Reason.STOPPED)

    def _begin(self, asked: Asked) -> Asked | None:
        """Begin what was asked; return it if its effect is to be waited for."""
        note = self._recorder.note
        self._forget(asked.id)
        if asked.refused is not None:
            note("control_refused", {"id": asked.id, "by": asked.by, "why": asked.refused})
            return None
        note("control", {"id": asked.id, "what": asked.what, "by": asked.by})
        if asked.what == PAUSE:
            self._halts.begin(PAUSE)
            return asked
        if asked.what == "resume":
            was = self._halts.holds(PAUSE)
            self._ends_at = None
            note("unpaused", {"id": asked.id, "by": asked.by, "was_paused": was})
            self._halts.end(PAUSE)
        return None

    def _note_paused(self, asked: Asked) -> None:
        last, until = self._attempts.last_sent_at, None
        self._ends_at, self._paused_by = None, asked.by
        if asked.for_s is not None:
            self._ends_at, until = self._now() + asked.for_s, rfc3339(self._clock() + asked.for_s)
        left = rfc3339(last, digits=6) if last is not None else None
        facts: dict[str, object] = {
            "id": asked.id,
            "by": asked.by,
            "until": until,
            "last_sent_at": left,
            "in_flight": 0,
        }
        self._recorder.note("paused", facts)
