"""What the sessions of one worker share: its keys, its board, what it has read of runs, and that it is to leave."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from engine.api.actions import ACTIONS
from engine.cloud.clients import Signer, every_signer, quota_owner
from engine.credentials.keeper import keep_fresh
from engine.errors import AcctopsError, ConfigError, Reason, UnreachableError, UsageError
from engine.journal import records
from engine.journal.database.dispatch import Dispatcher
from engine.journal.lines import GENESIS, decode_block
from engine.journal.protocols import Claim
from engine.model import call_id
from engine.operations.family import undone_of
from engine.operations.session import nothing_stays
from engine.operations.stores import store_of
from engine.operations.survey import READERS
from engine.operations.today import guards_of

if TYPE_CHECKING:
    from engine.cloud.clients import Reach
    from engine.inputs.settings import Settings
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Board, Runs
    from engine.model import Call, CallId, Omit, Reading, Rival
    from engine.operations.family import Undone
    from engine.operations.terms import Terms
    from engine.run.runner import Runner

LOOK_S = 0.5
"""Seconds between two looks for lanes and runs of which nothing is heard."""
BEAT_S = 1.0
"""Seconds between two signs of life."""
FENCED = 75
"""Exit code of a worker whose work another has taken (EX_TEMPFAIL of sysexits.h): start it anew."""
_LANE_CONNECTIONS = 40
"""Room for connections of one lane: at 20 calls a second, answers of one second and readings."""


class Leaves(Protocol):
    """Something that goes on in a worker and can be left to another."""

    def leave(self) -> None:
        """Leave it to another worker."""


class Host:
    """What the sessions of one worker share."""

    def __init__(
        self,
        terms: Terms,
        settings: Settings,
        reach: Reach,
        *,
        say: Callable[[str], None],
        most_lanes: int,
        programs: Sequence[str],
    ) -> None:
        store = store_of(settings, simulated=False)
        board = store.board()
        assert board is not None, "a worker has a database"
        self.terms = terms
        self.settings = settings
        self.reach = reach
        self.store: Runs = store
        self.board: Board = board
        self.say = say
        self.name = f"{os.uname().nodename}:{os.getpid()}:{secrets.token_hex(3)}"
        self.connections = READERS + _LANE_CONNECTIONS * most_lanes
        self.workers = 1
        """How many workers there are, this one included."""
        self.sessions = 0
        """How many lane sessions go on here."""
        self.runners: set[Runner] = set()
        self.leads: set[Leaves] = set()
        self.is_leaving = False
        self.why_leaving = ""
        self.dispatcher: Dispatcher | None = None
        self._programs = frozenset(programs)
        self._plans: dict[str, _Plan] = {}
        self._guards: dict[str, Settings] = {}
        self._rivals: dict[str, tuple[float, tuple[Rival, ...]]] = {}
        self._undone: dict[str, Undone | None] = {}
        self._looking = threading.Lock()
        self.salt = board.salt()
        self._most_lanes = most_lanes

    # ---- whose keys --------------------------------------------------------------------------------------------------

    def owners(self) -> dict[str, Signer]:
        """Return the owners of the quotas that the keys of this worker draw on, each with who signs for it."""
        found: dict[str, Signer] = {}
        for signer in every_signer(self.reach.keyring):
            found.setdefault(quota_owner(signer, self.salt), signer)
        return found

    # ---- sessions ----------------------------------------------------------------------------------------------------

    def leave_at_once(self, why: str) -> None:
        """End this process now: another worker has taken what it had, and it must touch nothing any more."""
        self.say(f"{why}; this worker leaves at once (exit {FENCED}), and is to be started anew")
        os._exit(FENCED)

    async def ask_for(self, lanes: Collection[str]) -> None:
        """Have sessions of these lanes begun, unless they go on already."""
        assert self.dispatcher is not None
        for words in await self.dispatcher.ask({lane: owner_of(lane) for lane in lanes}):
            self.say(words)

    # ---- what sessions ask -------------------------------------------------------------------------------------------

    async def plan_of(self, run_id: str) -> list[records.AnyRecord]:
        """Return the records of chain 0 of a run, as they are now."""
        plan = self._plans.setdefault(run_id, _Plan(self.board, run_id))
        return await plan.now()

    def forget(self, run_id: str) -> None:
        """Forget what is kept of a run: it has ended."""
        for known in (self._plans, self._guards, self._rivals, self._undone):
            known.pop(run_id, None)

    def guards_of(self, ledger: Ledger) -> Settings:
        """Return today's guards of this host for a run; asked once a run."""
        run = ledger.run.run
        if run not in self._guards:
            self._guards[run] = guards_of(self.terms, ledger)
        return self._guards[run]

    def check_programs(self, ledger: Ledger, *, gate: bool = False) -> None:
        """Raise UsageError for a program that a journal names and this worker does not declare."""
        named = []
        passwords, waves = ledger.settings.passwords, ledger.settings.waves
        if passwords is not None and passwords.get("command"):
            named.append(("passwords.command", str(passwords["command"][0])))
        if gate and waves is not None and waves.get("gate"):
            named.append(("gate.command", str(waves["gate"]["command"][0])))
        for key, program in named:
            if program not in self._programs:
                raise UsageError(
                    f"run {ledger.run.run}: its {key} is {program}, which this worker does not run; let it: "
                    f"acctops worker --program {program}"
                )

    def rivals_of(self, ledger: Ledger) -> tuple[Rival, ...]:
        """Return the other runs that lock accounts now. Blocks."""
        run = ledger.run.run
        known = self._rivals.get(run)
        if known is not None and time.monotonic() - known[0] < BEAT_S:
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

        found = self.board.rivals(mine, inverse=inverse, undone_by=undone_by)
        self._rivals[run] = time.monotonic(), found
        return found

    def stays_of(self, ledger: Ledger, guards: Settings) -> Callable[[Call, Reading], Omit | None]:
        """Return the rule by which each call of an undo is checked before it is sent. Blocks.

        What a look has read of other runs serves the next shard of the same run: a look may read many journals.
        """
        run = ledger.run.run
        with self._looking:
            if run not in self._undone:
                self._undone[run] = undone_of(self.store, ledger.run, guards.trust, self.terms.clock)
            undone = self._undone[run]
            return undone.still_so() if undone is not None else nothing_stays

    # ---- its life ----------------------------------------------------------------------------------------------------

    def leave(self, why: str) -> None:
        """Take nothing new, let the runners drain, and give back what they have."""
        if self.is_leaving:
            return
        self.is_leaving, self.why_leaving = True, why
        for runner in list(self.runners):
            runner.stop(why, Reason.STOPPED)
        for lead in list(self.leads):
            lead.leave()

    async def beat(self) -> None:
        """Tell the database that this worker is there, and learn how many are. Goes on until it is cancelled."""
        while True:
            with suppress(UnreachableError):
                owners = list(self.owners())
                await asyncio.to_thread(self.board.beat, self.name, owners, self._most_lanes)
                self.workers = max(1, len(await asyncio.to_thread(self.board.workers)))
            await asyncio.sleep(BEAT_S)

    async def mend(self, dispatcher: Dispatcher) -> None:
        """Have the sessions of silent lanes and runs given to somebody. Goes on until it is cancelled."""
        while not self.is_leaving:
            try:
                lanes, runs = await asyncio.to_thread(self.board.stale)
                of_lanes = {lane: owner_of(lane) for lane in lanes}
                of_runs = {run: owner_of(lane) for run, lane in runs.items()}
                for words in await dispatcher.mend(of_lanes, of_runs):
                    self.say(words)
            except UnreachableError:
                pass
            except AcctopsError as error:
                self.say(str(error))
            await asyncio.sleep(LOOK_S)

    async def keep_keys(self) -> None:
        """Refresh the keys before they expire. Goes on until it is cancelled."""

        def note(_what: str, _data: dict[str, object]) -> None:
            """Do nothing: keys are no run's."""

        async with asyncio.TaskGroup() as group:
            for signer in every_signer(self.reach.keyring):

                def ended(why: str, keys: object = signer.keys) -> None:
                    for runner in list(self.runners):
                        runner.close_lanes_of(keys, why)  # type: ignore[arg-type]

                group.create_task(keep_fresh(signer.keys, clock=self.terms.clock, note=note, stop=ended, tell=self.say))


def owner_of(lane: str) -> str:
    """Return whose quota a lane is, by its name."""
    return lane.rsplit("/", 2)[0]


class _Plan:
    """The chain 0 of a run, kept up with what is written."""

    def __init__(self, board: Board, run_id: str) -> None:
        self._board = board
        self._run = run_id
        self._records: list[records.AnyRecord] = []
        self._turn = asyncio.Lock()

    async def now(self) -> list[records.AnyRecord]:
        """Return its records. ConfigError if the chain does not hold."""
        async with self._turn:
            new = await asyncio.to_thread(self._read)
            self._records += new
            return self._records

    def _read(self) -> list[records.AnyRecord]:
        last = self._records[-1] if self._records else None
        seq, head = (last.seq, last.hash) if last is not None else (0, GENESIS)
        block = b"".join(self._board.chain(self._run, 0, seq))
        if not block:
            return []
        found = decode_block(block, seq + 1, head, self._run, v=2)
        if found is None:
            raise ConfigError(f"run {self._run}: its journal does not hold: acctops journal verify {self._run}")
        return found
