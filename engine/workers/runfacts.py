"""What the sessions of one worker know of runs: it is read once for all of them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from engine.api.actions import ACTIONS
from engine.errors import ConfigError
from engine.journal.lines import GENESIS, decode_block
from engine.journal.protocols import Claim
from engine.journal.shards import Divided
from engine.model import call_id
from engine.operations.family import undone_of
from engine.operations.session import nothing_stays
from engine.operations.today import guards_of
from engine.workers.together import Together

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.inputs.settings import Settings
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Board, Runs
    from engine.model import Call, CallId, Omit, Reading, Rival
    from engine.operations.family import Undone
    from engine.operations.terms import Terms

_KEPT_S = 900.0
"""Seconds for which what was read of a run is kept after it was last needed."""
_RIVALS_S = 1.0
"""Seconds for which it is believed which other runs lock accounts."""


class RunFacts:
    """What is known of the runs that a worker has a part of."""

    def __init__(self, terms: Terms, store: Runs, board: Board) -> None:
        self._terms = terms
        self._store = store
        self._board = board
        self._plans: dict[str, _Plan] = {}
        self._used_at: dict[str, float] = {}
        """Run → when a session last asked for its plan, by the host's monotonic clock."""
        self._guards: dict[str, Settings] = {}
        self._rivals: dict[str, tuple[float, tuple[Rival, ...]]] = {}
        self._undone: dict[str, Undone | None] = {}
        self._looking = threading.Lock()

    async def ledger_of(self, run_id: str, no: int) -> Ledger:
        """Return the ledger of a shard as chain 0 of its run leaves it now."""
        self._used_at[run_id] = time.monotonic()
        return await self._plans.setdefault(run_id, _Plan(self._board, run_id)).ledgers.of(no)

    def forget(self, run_id: str) -> None:
        """Forget what is kept of a run: it has ended."""
        for known in (self._plans, self._guards, self._rivals, self._undone, self._used_at):
            known.pop(run_id, None)

    def forget_old(self) -> None:
        """Forget runs that no session has asked of for a while: their ends were another worker's to write."""
        now = time.monotonic()
        for run_id in [run for run, at in list(self._used_at.items()) if now - at > _KEPT_S]:
            self.forget(run_id)

    def guards_of(self, ledger: Ledger) -> Settings:
        """Return today's guards of this host for a run; asked once a run."""
        run = ledger.run.run
        if run not in self._guards:
            self._guards[run] = guards_of(self._terms, ledger)
        return self._guards[run]

    def rivals_of(self, ledger: Ledger) -> tuple[Rival, ...]:
        """Return the other runs that lock accounts now. Blocks."""
        run = ledger.run.run
        known = self._rivals.get(run)
        if known is not None and time.monotonic() - known[0] < _RIVALS_S:
            return known[1]
        calls = ledger.calls.values()
        inverse = ACTIONS[ledger.run.action].inverse
        mine = Claim(
            run_id=run,
            digest=ledger.run.job.digest,
            path="",
            action=ledger.run.action,
            calls=[call.id for call in calls],
            keep_admins=ledger.settings.keep_admins,
        )

        def undone_by() -> dict[CallId, str]:
            assert inverse is not None
            return {call_id(c.account, c.region, c.instance, c.user, inverse): c.label for c in calls}

        found = self._board.rivals(mine, inverse=inverse, undone_by=undone_by)
        self._rivals[run] = time.monotonic(), found
        return found

    def stays_of(self, ledger: Ledger, guards: Settings) -> Callable[[Call, Reading], Omit | None]:
        """Return the rule by which each call of an undo is checked before it is sent. Blocks.

        What a look has read of other runs serves the next shard of the same run: a look may read many journals.
        """
        run = ledger.run.run
        with self._looking:
            if run not in self._undone:
                self._undone[run] = undone_of(self._store, ledger.run, guards.trust, self._terms.clock)
            undone = self._undone[run]
            return undone.still_so() if undone is not None else nothing_stays


class _Plan:
    """The chain 0 of a run, kept up with what is written."""

    def __init__(self, board: Board, run_id: str) -> None:
        self._board = board
        self._run = run_id
        self._divided = Divided()
        self._end = (0, GENESIS)
        """Number and hash of the last line that is known."""
        self.ledgers: Together[int, Ledger] = Together(self._ledgers)
        """Number of a shard → its ledger, by what is written now. ConfigError if the chain does not hold."""

    def _ledgers(self, nos: Sequence[int]) -> list[Ledger]:
        seq, head = self._end
        if block := b"".join(self._board.chain(self._run, 0, seq)):
            found = decode_block(block, seq + 1, head, self._run, v=2)
            if found is None:
                raise ConfigError(f"run {self._run}: its journal does not hold: acctops journal verify {self._run}")
            self._divided.add(found)
            self._end = found[-1].seq, found[-1].hash
        return [self._divided.ledger(no) for no in nos]
