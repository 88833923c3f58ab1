"""What people ask of a session while it works, carried out in the order of asking, each word on it in the journal.

A request is noted (`control`), then its effect is: `paused`, `unpaused`, `changed`. The next one waits until the effect
of the one before is there. So what is acknowledged holds: no attempt begins after `paused` until `unpaused`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

from engine.errors import Reason
from engine.journal import records
from engine.journal.records import rfc3339
from engine.model import OmitReason
from engine.run.attempts import Attempts
from engine.run.halts import Halts
from engine.run.lanes import Lanes
from engine.run.opencalls import OpenCalls
from engine.run.recorder import Recorder
from engine.run.resting import Resting
from engine.run.stopping import Stopping
from engine.run.work import Work

if TYPE_CHECKING:
    from engine.journal.control import Asked
    from engine.journal.ledger import Ledger

PAUSE = "pause"
CHANGE = "change"
"""Reasons in `Halts`: a change of what is sent takes a moment, in which calls written ahead are given back."""


def refusal(ledger: Ledger, asked: Asked, most_rate: float) -> str | None:
    """Return why a request is not carried out, in words; None if it is.

    Fewer calls, a lower rate and another order of the calls that were signed need no further signature.
    """
    signed = ledger.run.settings.rate
    if asked.refused is not None or asked.rate is None:
        return asked.refused
    if ledger.approved and asked.rate > signed:
        return f"its plan was approved for {signed:g} a second, and {asked.rate:g} is more; a faster one is a new plan"
    if asked.rate > most_rate:
        return (
            f"rate {asked.rate:g} is above {most_rate:g} calls a second, the quota with which this session was begun; "
            "stop it and resume it at that rate"
        )
    return None


class Control:
    """The part of a session that carries out what people ask of it."""

    def __init__(
        self,
        recorder: Recorder,
        halts: Halts,
        lanes: Lanes,
        attempts: Attempts,
        calls: OpenCalls,
        resting: Resting,
        stopping: Stopping,
        *,
        changed_pace: Callable[[float], None],
        asked: Callable[[Container[str]], Sequence[Asked]],
        forget: Callable[[str], None],
        caught_up: Callable[[], None],
        most_rate: float,
        clock: Callable[[], float],
    ) -> None:
        """`asked` returns the requests that lie there, but for those whose names it gets; `forget` removes one.

        `caught_up` is called whenever nothing of what was asked is left to do.

        `changed_pace` is told of a new rate. A rate above `most_rate` is refused, whoever wrote the request.
        """
        self._now = asyncio.get_running_loop().time
        self._recorder = recorder
        self._halts = halts
        self._lanes = lanes
        self._attempts = attempts
        self._calls = calls
        self._resting = resting
        self._changed_pace = changed_pace
        self._stopping = stopping
        self._asked = asked
        self._forget = forget
        self._tell_caught_up = caught_up
        self._most_rate = most_rate
        settings = recorder.ledger.settings
        self._quota = settings.quota or settings.rate
        self._clock = clock
        self._known: set[str] = set()
        self._waiting: deque[Asked] = deque()
        self._under_way: Asked | None = None
        """The request whose effect is not there yet."""
        self._caught_up: asyncio.Future[None] | None = None
        """Done once the ledger knows what was written before a change."""
        self._ends_at: float | None = None
        """Loop time at which the pause runs out."""
        self._paused_by = ""

    def look(self) -> None:
        """Take in what was asked, and carry out as much as can be carried out now. Called a few times a second."""
        for asked in self._asked(self._known):
            self._known.add(asked.name)
            self._waiting.append(asked)
        while self._under_way is not None or self._waiting:
            if self._under_way is None:
                self._under_way = self._begin(self._waiting.popleft())
            if self._under_way is not None:
                is_pause = self._under_way.what == PAUSE
                if not (self._lanes.is_quiet if is_pause else self._is_still()):
                    break
                (self._note_paused if is_pause else self._change)(self._under_way)
                self._under_way = None
        if self._under_way is None:
            self._tell_caught_up()
        if self._ends_at is not None and self._now() >= self._ends_at:
            self._stopping.stop(f"the pause by {self._paused_by} ran out, and nobody lifted it", Reason.STOPPED)

    def _begin(self, asked: Asked) -> Asked | None:
        """Begin what was asked; return it if its effect is to be waited for."""
        note = self._recorder.note
        self._forget(asked.name)
        refused = refusal(self._recorder.ledger, asked, self._most_rate)
        if refused is not None:
            note("control_refused", {"id": asked.id, "by": asked.by, "why": refused})
            return None
        note("control", {"id": asked.id, "what": asked.what, "by": asked.by})
        if asked.what == PAUSE:
            self._halts.begin(PAUSE)
            return asked
        if asked.what == CHANGE:
            self._halts.begin(CHANGE)
            return asked
        if asked.what == "resume":
            was = self._halts.holds(PAUSE)
            self._ends_at = None
            note("unpaused", {"id": asked.id, "by": asked.by, "was_paused": was})
            self._halts.end(PAUSE)
        return None

    def _is_still(self) -> bool:
        """Return whether nothing is written ahead, and the ledger knows all that was written until then.

        Readings are written meanwhile: on a slow disk there is no moment at which the ledger knows everything.
        """
        if not self._lanes.holds_nothing:
            return False
        if self._caught_up is None:
            self._caught_up = asyncio.ensure_future(self._recorder.journal.durable())
            self._caught_up.add_done_callback(_is_over)
        return self._caught_up.done() and not self._recorder.is_broken

    def _change(self, asked: Asked) -> None:
        """Change the rate, and which calls are sent and which of them first. Nothing is written ahead now."""
        now, quota = self._now(), None
        if asked.rate is not None:
            quota = max(asked.rate, self._quota)
            for lane in self._lanes.every:
                lane.pacer.set_rate(asked.rate, quota)
            self._changed_pace(asked.rate)
        named = self._named(asked.drop)
        dropped = [work for work in named if self._drop(work, asked.by)]
        ahead = [work for work in self._named(asked.first) if self._is_open(work)]
        for work in ahead:
            self._calls.queue.of(work.index).move_ahead([work.index], now)
        facts: dict[str, object] = {"id": asked.id, "by": asked.by, "rate": asked.rate, "quota": quota}
        facts |= {"dropped": len(dropped), "sent": sum(not work.is_dropped for work in named), "first": len(ahead)}
        self._recorder.note("changed", facts)
        self._caught_up = None
        self._halts.end(CHANGE)

    def _named(self, names: Sequence[str]) -> list[Work]:
        wanted = frozenset(names)
        return [work for work in self._calls.works if work.id in wanted] if wanted else []

    def _is_open(self, work: Work) -> bool:
        """Return whether nothing was sent for a call yet, and it is still to be sent."""
        ledger = self._recorder.ledger
        return not (work.is_dropped or work.is_settled) and work.id in ledger.calls and ledger.entry(work.id).is_unsent

    def _drop(self, work: Work, by: str) -> bool:
        """Take a call out of the run, if nothing was sent for it."""
        if not self._is_open(work):
            return False
        words = f"dropped by {by} while the run was going on"
        self._recorder.append(records.omit_line(work.call, str(OmitReason.DROPPED), words, by, work.id))
        self._resting.over(work)
        self._calls.take_out(work)
        return True

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


def _is_over(waited: asyncio.Future[None]) -> None:
    """Look at an error of the journal, which the session's own waits raise, too."""
    if not waited.cancelled():
        waited.exception()
