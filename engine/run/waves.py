"""Lets the calls of one wave after the other begin, each once the wave before it has proven itself.

A wave has proven itself when all of its calls are settled and read as asked, its soak is over, and the gate is green
then. While it soaks the gate is asked now and then. A word that is not green ends the session: red, or silence.
The gate is asked before the session sends anything, too, also a session that goes on with a run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Protocol, TypeVar

from engine.errors import Reason
from engine.journal import records
from engine.journal.records import rfc3339
from engine.model import GOOD
from engine.run.bounds import GREEN, RED, WaveTerms
from engine.run.halts import Halts
from engine.run.recorder import Recorder
from engine.run.stopping import Stopping

if TYPE_CHECKING:
    from engine.model import CallId

_T = TypeVar("_T")

WAVES = "waves"
"""The reason in `Halts` while a wave soaks or the gate is asked."""
LOOK_S = 0.1
"""Seconds between two looks at whether a wave, or a pause, is over."""
FRESH_S = 60.0
"""Seconds for which a green word counts for a wave that has not begun yet: passwords may be asked for meanwhile."""
MOST_JUDGING_S = 30.0
"""Seconds that calls of earlier sessions are read before the gate is asked, at most."""


class Going(Protocol):
    """The calls that have been let go, whoever sends them."""

    @property
    def is_over(self) -> bool:
        """Whether no call waits, is open, or is to be judged or read back."""

    @property
    def is_judged(self) -> bool:
        """Whether no call that was sent before waits to be read."""

    async def last_looks(self) -> None:
        """Read once more where a reading decides."""

    def wake(self) -> None:
        """Let those who wait for calls look again."""


class Waves:
    """The part of a session that decides which calls may begin."""

    def __init__(
        self,
        recorder: Recorder,
        halts: Halts,
        going: Going,
        stopping: Stopping,
        terms: WaveTerms,
        *,
        admit: Callable[[Collection[CallId]], None],
        elsewhere: Collection[CallId],
        clock: Callable[[], float],
    ) -> None:
        """`admit` lets calls begin that were never sent; those of `elsewhere` are as asked by a later run."""
        self._now = asyncio.get_running_loop().time
        self._recorder = recorder
        self._ledger = recorder.ledger
        self._halts = halts
        self._going = going
        self._stopping = stopping
        self._terms = terms
        self._admit = admit
        self._elsewhere = elsewhere
        self._clock = clock
        self._green_at = 0.0
        """When the gate was green last, on the loop's clock."""
        self.told: Callable[[records.WaveLine], None] = lambda _: None
        """Called when a wave has passed."""

    def hold(self) -> None:
        """Let no call begin, and keep the session open, until `go` says otherwise."""
        self._halts.set_more(are_to_come=True)
        self._halts.begin(WAVES)

    async def go(self) -> None:
        """Let one wave after the other go; return when all have passed, or when the session stops."""
        try:
            await self._judges_what_was_sent()
            if self._terms.ask is not None:
                self._recorder.tell("the gate is asked before anything is sent")
            if await self._is_green(self._judged_first()):
                while (wave := self._ledger.wave) is not None and await self._goes(wave):
                    pass
        finally:
            self._halts.set_more(are_to_come=False)
            self._going.wake()

    async def _judges_what_was_sent(self) -> None:
        """Wait until the calls that an earlier session has left in doubt are read, so that a red wave can be undone.

        Not for ever: an instance that cannot be read keeps nobody from hearing the gate.
        """
        until = self._now() + MOST_JUDGING_S
        while not self._going.is_judged and self._now() < until and not self._stopping.is_set:
            await self._stopping.rest(LOOK_S)

    def _judged_first(self) -> int:
        """Return the number of the wave that the gate judges first: the last one of which anything was sent."""
        wave = self._ledger.wave
        if wave is None:
            return max(self._ledger.waves, default=0)
        begun = any(self._ledger.entry(call.id).first_sent_at is not None for call in self._ledger.calls_of(wave.n))
        return wave.n if begun else wave.n - 1

    async def _goes(self, wave: records.WaveLine) -> bool:
        """Carry out a wave, and return whether it has passed."""
        if not (await self._is_unpaused(wave.n) and await self._can_be_undone(wave)):
            return False
        while (is_paused := self._halts.is_set_by_others(WAVES)) or self._now() - self._green_at > FRESH_S:
            if not await (self._is_unpaused(wave.n) if is_paused else self._is_green(wave.n - 1)):
                return False
        await self._write(wave, records.BEGUN)
        words = "begins" if wave.state == records.PLANNED else "goes on"
        self._tell(wave, f"{words}: {wave.calls:,} account{'s' * (wave.calls != 1)}")
        self._admit([call.id for call in self._ledger.calls_of(wave.n)])
        self._halts.end(WAVES)
        while not self._going.is_over:
            await self._stopping.rest(LOOK_S)
            if self._stopping.is_set:
                return False
        self._halts.begin(WAVES)
        await self._going.last_looks()
        await self._recorder.journal.durable()
        bad = self._bad_words(wave.n)
        is_last = wave.n == max(self._ledger.waves)
        if bad and not is_last:
            await self._write(wave, records.FAILED, why=bad)
            self._stopping.stop(f"wave {wave.n}: {bad}; no further wave begins", Reason.STOPPED)
            return False
        if not await self._soaks(wave):
            return False
        if bad:
            await self._write(wave, records.FAILED, why=bad)
            return False
        await self._write(wave, records.PASSED)
        self._tell(wave, "has passed")
        self.told(wave)
        return True

    def _bad_words(self, wave: int) -> str | None:
        """Return in words which calls of a wave are not as asked; None if all are."""
        bad = 0
        for call in self._ledger.calls_of(wave):
            entry = self._ledger.entry(call.id)
            is_good = entry.settled and entry.derived() in GOOD and not entry.is_back
            bad += not is_good and call.id not in self._elsewhere
        return f"{bad:,} account{'s are' if bad > 1 else ' is'} not as asked" if bad else None

    async def _soaks(self, wave: records.WaveLine) -> bool:
        """Wait as long as a wave soaks, and return whether its gate was green all the time, and after it."""
        soak_s, terms = self._terms.soaks_s[wave.n - 1], self._terms
        if soak_s:
            await self._write(wave, records.SOAKING, until=rfc3339(self._clock() + soak_s))
            self._tell(wave, f"soaks until {rfc3339(self._clock() + soak_s)[11:19]}Z")
        ends = self._now() + soak_s
        while (left_s := ends - self._now()) > 0:
            await self._stopping.rest(min(left_s, terms.every_s) if terms.ask is not None else left_s)
            if self._stopping.is_set or (self._now() < ends and not await self._is_green(wave.n)):
                return False
        return await self._is_green(wave.n)

    async def _is_unpaused(self, wave: int) -> bool:
        """Wait while the run is paused, and ask the gate again if it was; return whether the next wave may begin."""
        was_paused = False
        while self._halts.is_set_by_others(WAVES):
            was_paused = True
            await self._stopping.rest(LOOK_S)
            if self._stopping.is_set:
                return False
        return not was_paused or await self._is_green(wave - 1)

    async def _can_be_undone(self, wave: records.WaveLine) -> bool:
        """Stop before a wave that could not be undone if it were red."""
        if self._terms.may_undo is None:
            return True
        why = await self._unless_stopping(self._terms.may_undo(list(self._ledger.calls_of(wave.n))))
        if self._stopping.is_set:
            return False
        if why is not None:
            words = f"wave {wave.n} could not be undone if it were red: {why}; nothing of it was sent"
            self._stopping.stop(words, self._reason())
        return why is None

    # ---- the gate ------------------------------------------------------------------------------------------------

    async def _is_green(self, wave: int) -> bool:
        """Ask the gate about a wave, and return whether it is green; any other word stops the session."""
        if self._terms.ask is None:
            self._green_at = self._now()
            return not self._stopping.is_set
        word = await self._unless_stopping(self._terms.ask(wave, list(self._ledger.calls_of(wave)) if wave else []))
        if word is None or self._stopping.is_set:
            return False
        self._recorder.note("gate", {"wave": wave, "word": word.word, "why": word.why or None})
        line = self._ledger.waves.get(wave) or records.WaveLine(n=0, calls=0, state=records.PLANNED)
        if word.word == GREEN:
            self._green_at = self._now()
            if not wave and line.state != records.PASSED:
                await self._write(line, records.PASSED)
            return True
        about = f"wave {wave}" if wave else "before wave 1"
        why = "the gate said red" if word.word == RED else f"the gate was silent: {word.why}"
        await self._write(line, records.RED if word.word == RED else records.SILENT, why=why)
        self._stopping.stop(f"{about}: {why}; no further wave begins", self._reason())
        return False

    async def _unless_stopping(self, asked: Awaitable[_T]) -> _T | None:
        """Return what is awaited; None, and it is cancelled, if the session stops first."""
        asking = asyncio.ensure_future(asked)
        stop = asyncio.ensure_future(self._stopping.event.wait())
        try:
            await asyncio.wait({asking, stop}, return_when=asyncio.FIRST_COMPLETED)
            return await asking if asking.done() else None
        finally:
            asking.cancel()
            stop.cancel()
            await asyncio.gather(asking, stop, return_exceptions=True)

    # ---- what is written -----------------------------------------------------------------------------------------

    def _reason(self) -> Reason:
        return Reason.STOPPED if self._ledger.sent_calls else Reason.REFUSED

    async def _write(
        self, wave: records.WaveLine, state: str, *, until: str | None = None, why: str | None = None
    ) -> None:
        """Write how a wave stands, and wait until the ledger knows it."""
        self._recorder.append(records.WaveLine(n=wave.n, calls=wave.calls, state=state, until=until, why=why))
        await self._recorder.journal.durable()

    def _tell(self, wave: records.WaveLine, words: str) -> None:
        self._recorder.tell(f"wave {wave.n} of {max(self._ledger.waves)} {words}")
