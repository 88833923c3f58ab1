"""What the sessions of one worker share: its keys, its board, what it has read of runs, and that it is to leave."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine.api.actions import ACTIONS
from engine.cloud.clients import Signer, every_signer, quota_owner
from engine.credentials.keeper import keep_fresh
from engine.errors import AcctopsError, ConfigError, Reason, UnreachableError, UsageError
from engine.journal.database.dispatch import Dispatcher
from engine.journal.lines import GENESIS, decode_block
from engine.journal.protocols import Claim
from engine.journal.shards import Divided
from engine.model import call_id
from engine.operations.stores import store_of
from engine.operations.survey import READERS
from engine.operations.today import guards_of
from engine.outside.foreign import pasted
from engine.workers.offers import Offers

if TYPE_CHECKING:
    from engine.cloud.clients import Reach
    from engine.journal import records
    from engine.inputs.settings import Settings
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import Board, Runs
    from engine.model import CallId, Rival
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


class UndeclaredError(UsageError):
    """A run names a program that this worker does not run."""

    def __init__(self, words: str, programs: tuple[str, ...]) -> None:
        super().__init__(words)
        self.programs = programs
        """All programs that the run names."""


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
        leads: bool,
    ) -> None:
        store = store_of(settings, simulated=False)
        board = store.board()
        assert board is not None, "a worker has a database"
        self.terms = terms
        self.settings = settings
        self.reach = reach
        self.store: Runs = store
        self.board: Board = board
        self.offers = Offers(board)
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
        self._programs = frozenset(map(_whole, programs))
        self._is_leading = leads
        self._plans: dict[str, _Plan] = {}
        self._guards: dict[str, Settings] = {}
        self._rivals: dict[str, tuple[float, tuple[Rival, ...]]] = {}
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

    async def ledger_of(self, run_id: str, no: int) -> Ledger:
        """Return the ledger of a shard as chain 0 of its run leaves it now."""
        return await self._plans.setdefault(run_id, _Plan(self.board, run_id)).ledger(no)

    def forget(self, run_id: str) -> None:
        """Forget what is kept of a run: it has ended."""
        for known in (self._plans, self._guards, self._rivals):
            known.pop(run_id, None)

    def guards_of(self, ledger: Ledger) -> Settings:
        """Return today's guards of this host for a run; asked once a run."""
        run = ledger.run.run
        if run not in self._guards:
            self._guards[run] = guards_of(self.terms, ledger)
        return self._guards[run]

    def check_programs(self, run: records.Run, *, gate: bool = False) -> None:
        """Raise UndeclaredError for a program that a journal names and this worker does not declare."""
        named = []
        passwords, waves = run.settings.passwords, run.settings.waves
        if passwords is not None and passwords.get("command"):
            named.append(("passwords.command", str(passwords["command"][0])))
        if gate and waves is not None and waves.get("gate"):
            named.append(("gate.command", str(waves["gate"]["command"][0])))
        for key, program in named:
            if program not in self._programs:
                raise UndeclaredError(
                    f"run {run.run}: its {key} is {program}, which no worker here runs; let one: "
                    f"acctops worker --program {pasted((program,))}; nothing further is sent",
                    tuple(each for _, each in named),
                )

    def is_for_another(self, programs: Collection[str]) -> bool:
        """Return whether another worker lives that leads runs and has all of these programs. Blocks."""
        return any(
            row.name != self.name and row.leads and frozenset(programs) <= frozenset(row.programs)
            for row in self.board.workers()
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
                programs = sorted(self._programs)
                beat = partial(self.board.beat, programs=programs, leads=self._is_leading)
                await asyncio.to_thread(beat, self.name, owners, self._most_lanes)
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


def _whole(program: str) -> str:
    """Return a program as runs name it: with its whole path, unless it is looked for on PATH."""
    return str(Path(program).absolute()) if os.sep in program else program


def owner_of(lane: str) -> str:
    """Return whose quota a lane is, by its name."""
    return lane.rsplit("/", 2)[0]


class _Plan:
    """The chain 0 of a run, kept up with what is written."""

    def __init__(self, board: Board, run_id: str) -> None:
        self._board = board
        self._run = run_id
        self._divided = Divided()
        self._end = (0, GENESIS)
        """Number and hash of the last line that is known."""
        self._turn = asyncio.Lock()

    async def ledger(self, no: int) -> Ledger:
        """Return the ledger of a shard, by what is written now. ConfigError if the chain does not hold."""
        async with self._turn:
            return await asyncio.to_thread(self._ledger, no)

    def _ledger(self, no: int) -> Ledger:
        seq, head = self._end
        if block := b"".join(self._board.chain(self._run, 0, seq)):
            found = decode_block(block, seq + 1, head, self._run, v=2)
            if found is None:
                raise ConfigError(f"run {self._run}: its journal does not hold: acctops journal verify {self._run}")
            self._divided.add(found)
            self._end = found[-1].seq, found[-1].hash
        return self._divided.ledger(no)
