"""What the sessions of one worker share: its keys, its board, what it knows of runs, and that it is to leave."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from engine.api.endpoints import is_loopback
from engine.cloud.clients import Signer, ask_whose, every_signer, key_owner, quota_owner
from engine.credentials.keeper import keep_fresh
from engine.errors import AcctopsError, ConfigError, Reason, UnreachableError, UsageError
from engine.journal.database.dispatch import Dispatcher
from engine.journal.database.link import LostError
from engine.operations.stores import store_of
from engine.operations.survey import READERS
from engine.operations.whose import AGAIN_S
from engine.outside.foreign import pasted
from engine.planning.shards import owner_of, owner_words
from engine.workers.runfacts import RunFacts
from engine.workers.together import Together

if TYPE_CHECKING:
    from engine.cloud.clients import Reach
    from engine.inputs.settings import Settings
    from engine.journal import records
    from engine.journal.protocols import Board, Offer, Runs, ShardJournal
    from engine.operations.terms import Terms
    from engine.run.runner import Runner

OFFERS_S = 0.1
"""Seconds between two questions what lanes may take: 100 lanes that look twice a second ask ten times, not 200."""
LOOK_S = 0.5
"""Seconds between two looks for lanes and runs of which nothing is heard."""
BEAT_S = 1.0
"""Seconds between two signs of life."""
FENCED = 75
"""Exit code of a worker whose work another has taken (EX_TEMPFAIL of sysexits.h): start it anew."""
IDENTITY_S = 5.0
"""Seconds that STS has for one answer."""
_KEYS_LOOK_S = 2.0
"""Seconds between two looks whether a source has replaced its keys."""
_DATABASE_LOOK_S = 30.0
"""Seconds between two looks whether the database is still the one it was."""
_ANSWER_S = 10.0
"""Seconds without an answer of the database after which a worker is not ready any more."""
_WAITS_S = 3.0
"""Seconds for which a commit has waited when that is said."""
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


class Serves(Leaves, Protocol):
    """The session of a lane."""

    @property
    def owner(self) -> str:
        """Whose quota it is."""


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
        self.facts = RunFacts(terms, store, board)
        self._offers: Together[tuple[str, Collection[str]], list[Offer]] = Together(self._offered, every_s=OFFERS_S)
        self.say = say
        self.name = f"{os.uname().nodename}:{os.getpid()}:{secrets.token_hex(3)}"
        self.connections = READERS + _LANE_CONNECTIONS * most_lanes
        self.workers = 1
        """How many workers there are, this one included."""
        self.served: dict[Serves, Signer] = {}
        """The lane sessions that go on here, each with who signs for it."""
        self.runners: set[Runner] = set()
        self.leads: set[Leaves] = set()
        self.journals: set[ShardJournal] = set()
        """Those that its sessions write."""
        self.slots_taken = 0
        """How many slots its calls have had: about as many calls as it has sent."""
        self.answered_at = time.monotonic()
        """When the database last answered its sign of life, by the host's monotonic clock."""
        self.has_no_keys = asyncio.Event()
        """Set once none of its keys is valid any more."""
        self._ended: set[Signer] = set()
        self._told: set[str] = set()
        self._waits = False
        """Whether it was said that it waits for the database."""
        self._elsewhere: frozenset[str] = frozenset()
        """Whose lanes other workers take."""
        self.is_leaving = False
        self.why_leaving = ""
        self.dispatcher: Dispatcher | None = None
        self._programs = frozenset(programs)
        self._is_leading = leads
        self.salt = board.salt()
        self._most_lanes = most_lanes

    # ---- whose keys --------------------------------------------------------------------------------------------------

    @property
    def sessions(self) -> int:
        """How many lane sessions go on here."""
        return len(self.served)

    @property
    def signers(self) -> list[Signer]:
        """Those whose keys can sign now."""
        return [signer for signer in every_signer(self.reach.keyring) if signer not in self._ended]

    def owners(self) -> dict[str, Signer]:
        """Return the owners of the quotas that the keys of this worker draw on, each with who signs for it."""
        found: dict[str, Signer] = {}
        for signer in self.signers:
            found.setdefault(quota_owner(signer, self.salt), signer)
        return found

    def names(self) -> dict[str, Signer]:
        """Return all names by which runs may call these owners, each with who signs for it.

        A run that was submitted while STS did not answer has lanes that are called by the fingerprint of the keys.
        """
        found = self.owners()
        for signer in self.signers:
            found.setdefault(key_owner(signer, self.salt), signer)
        return found

    def is_served(self, owner: str) -> bool:
        """Return whether a worker that lives, this one or another, takes the lanes of an owner."""
        return owner in self._elsewhere or owner in self.names()

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

    async def offers(self, lane: str, without: Collection[str]) -> list[Offer]:
        """Return what a lane may take, but for shards of the runs `without`; UnreachableError without an answer."""
        return await self._offers.of((lane, without))

    def _offered(self, lanes: Sequence[tuple[str, Collection[str]]]) -> list[list[Offer]]:
        found = self.board.offers(dict(lanes))
        return [found[lane] for lane, _ in lanes]

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
            try:
                programs = sorted(self._programs)
                beat = partial(self.board.beat, programs=programs, leads=self._is_leading)
                await asyncio.to_thread(beat, self.name, list(self.names()), self._most_lanes)
                rows = await asyncio.to_thread(self.board.workers)
                self.workers = max(1, len(rows))
                self._elsewhere = frozenset(name for row in rows if row.name != self.name for name in row.queues)
                self.answered_at = time.monotonic()
                self.facts.forget_old()
                self._say_waits(None)
            except UnreachableError as error:
                self._say_waits(str(error))
            except AcctopsError as error:  # a right that was taken away, say
                self.say_once(str(error))
            await asyncio.sleep(BEAT_S)

    def check_home(self) -> None:
        """Raise ConfigError for a database that lacks what was done, as far as is known here. Blocks."""
        home = self.store.home()
        if not home.is_here:
            raise ConfigError(
                f"database {self.store.place}: {home.why}; what was done since is not in it; if it is the one that "
                "counts from now on: acctops tend --adopt --database URL"
            )

    async def know_database(self) -> None:
        """Look whether the database is still the one it was, and keep what is seen of it; until it is cancelled.

        Raises ConfigError if it is not: it was replaced by a backup, say, and this worker must leave.
        """
        while True:
            await asyncio.sleep(_DATABASE_LOOK_S)
            with suppress(UnreachableError):
                await asyncio.to_thread(self.check_home)

    def _say_waits(self, why: str | None) -> None:
        """Say that the database takes nothing (`why` it gave no answer), or does so again; each once."""
        waits = [journal for journal in self.journals if journal.waiting_s > _WAITS_S]
        if why is None and waits:
            why = f"its sessions wait for {waits[0].waits_for}"
        if (why is not None) != self._waits:
            self._waits = why is not None
            self.say(f"nothing is sent: {why}" if why is not None else "the database answers again")

    @property
    def is_ready(self) -> bool:
        """Whether it can take lanes: its database answers, and it does not leave."""
        return not self.is_leaving and time.monotonic() - self.answered_at < _ANSWER_S

    def say_once(self, words: str) -> None:
        """Say something that would be said again and again."""
        if words not in self._told:
            self._told.add(words)
            self.say(words)

    async def mend(self, dispatcher: Dispatcher) -> None:
        """Have the sessions of silent lanes and runs given to somebody. Goes on until it is cancelled."""
        while not self.is_leaving:
            try:
                lanes, runs = await asyncio.to_thread(self.board.stale)
                of_lanes = {lane: owner_of(lane) for lane in lanes}
                of_runs = {run: owner_of(lane) for run, lane in runs.items()}
                mine, wanted = self.names(), {*of_lanes.values(), *of_runs.values()}
                dispatcher.listen([*self.owners(), *(name for name in wanted if name in mine)])
                self._say_strangers(wanted - mine.keys(), [*lanes, *runs.values()])
                for words in await dispatcher.mend(of_lanes, of_runs):
                    self.say(words)
            except (UnreachableError, LostError):
                pass
            except AcctopsError as error:
                self.say(str(error))
            await asyncio.sleep(LOOK_S)

    def _say_strangers(self, owners: Collection[str], lanes: Sequence[str]) -> None:
        """Say, once each, whose lanes wait for keys that this worker does not have, if no other worker has them."""
        others = [owner for owner in sorted(owners) if owner not in self._elsewhere]
        for owner in others:
            access = next((lane.rsplit("/", 1)[1] for lane in lanes if owner_of(lane) == owner), "")
            words = (
                f"lanes of {owner_words(owner)} wait, and no worker has such keys; those of this one are of "
                f"{', '.join(owner_words(name) for name in self.owners()) or 'nobody'}"
            )
            if is_loopback(f"http://{access}") and not any(map(is_loopback, self.reach.access.every)):
                words += f"; if a simulator answers at {access}, give this worker --endpoint http://{access}"
            self.say_once(words)

    async def know_keys(self) -> None:
        """Learn whose the keys are, if that is not known, or if their source has replaced them; until cancelled.

        Lanes that are of somebody else's quota now are given back.
        """
        seen = {signer: signer.keys.get() for signer in self.signers}
        ask_at = time.monotonic() + AGAIN_S
        while True:
            await asyncio.sleep(_KEYS_LOOK_S)
            for signer in self.signers:
                if (keys := signer.keys.get()) != seen.get(signer):
                    seen[signer], ask_at = keys, 0.0
                    before = signer.who
                    signer.who = None
                    await ask_whose(self.reach, limit_s=IDENTITY_S)
                    if signer.who != before:
                        self.say(f"the keys of {signer.keys.label} were replaced, and are of {_who(signer)} now")
            unknown = [signer for signer in self.signers if signer.who is None]
            if unknown and time.monotonic() >= ask_at:
                await ask_whose(self.reach, limit_s=IDENTITY_S)
                ask_at = time.monotonic() + AGAIN_S
                for signer in unknown:
                    if signer.who is not None:
                        self.say(f"the keys of {signer.keys.label} are of {_who(signer)}, as STS says now")
            names = self.names()
            for session in list(self.served):
                if session.owner not in names:
                    session.leave()

    async def keep_keys(self) -> None:
        """Refresh the keys before they expire. Goes on until it is cancelled.

        Lanes whose keys have come to their end are given back, and none is taken with them any more.
        """

        def note(_what: str, _data: dict[str, object]) -> None:
            """Do nothing: keys are no run's."""

        async with asyncio.TaskGroup() as group:
            for signer in every_signer(self.reach.keyring):

                def ended(why: str, signer: Signer = signer) -> None:
                    self.say(why)
                    self._ended.add(signer)
                    for session in [session for session, by in self.served.items() if by is signer]:
                        session.leave()
                    if not self.signers:
                        self.has_no_keys.set()

                group.create_task(keep_fresh(signer.keys, clock=self.terms.clock, note=note, stop=ended, tell=self.say))


def _who(signer: Signer) -> str:
    return signer.who.words if signer.who is not None else "somebody of whom STS does not say who it is"
