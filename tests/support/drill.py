"""A run against a simulated world, in memory and virtual time: what runner tests are made of."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from msgspec.structs import replace

from engine.api.endpoints import Access
from engine.cloud.clients import Reach, Signer
from engine.errors import Reason
from engine.inputs.job import StopAfter, WavesSpec
from engine.journal import records
from engine.journal.ledger import Ledger
from engine.journal.protocols import Journal
from engine.journal.store import RunStore, runs_at
from engine.model import Call, CallId, Keys, Omit, Place, Reading, RunId, Target, Transport
from engine.operations.session import Devices, Session
from engine.planning.plan import Plan, make_plan
from engine.planning.waves import sizes
from engine.run.bounds import TimeLeft, WaveTerms
from engine.run.runner import Runner
from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.inprocess import InProcessTransport
from engine.simulator.world import World
from tests.support.stores import database_here, lines_of, rewrite
from tests.support.virtual import VirtualLoop

ENDPOINT = "http://127.0.0.1:9"


@dataclass
class FixedKeys:
    """A source of keys that a test can rotate."""

    keys: Keys = field(default_factory=lambda: Keys(secret_id=DEMO_SECRET_ID, secret_key=DEMO_SECRET_KEY))
    upcoming: Keys | None = None
    refreshable: bool = False
    expires_at: float | None = None
    label: str = "test"
    identity: str = "test"

    def get(self) -> Keys:
        return self.keys

    async def refresh(self) -> bool:
        if self.upcoming is None:
            return False
        self.keys, self.upcoming = self.upcoming, None
        return True


def fleet(instances: int, users: int, region: str = "ap-singapore") -> list[Target]:
    """Targets `postgres-000000NN/userM`."""
    return [
        Target(f"postgres-{number:08d}", f"user{user}", region, "", "list.csv", number * users + user + 1)
        for number in range(instances)
        for user in range(users)
    ]


def run_settings(**changes: object) -> records.RunSettings:
    """Defaults, changed."""
    settings: dict[str, object] = {
        "endpoint": (ENDPOINT,),
        "rate": 20.0,
        "workers": 100,
        "per_instance": 4,
        "timeout_s": 10.0,
        "deadline_s": None,
        "transient_s": 120.0,
        "busy_s": 600.0,
        "stop_after": None,
        "verify": True,
        "profile": None,
        "protect": (),
        "passwords": None,
    }
    return records.RunSettings(**(settings | changes))  # type: ignore[arg-type]


def run_line(plan: Plan, settings: records.RunSettings) -> records.Run:
    """The first line of a run of this plan."""
    return records.Run(
        job=records.JobRef("test", "test.yaml", "0" * 64),
        action=plan.action,
        reason=None,
        ticket=None,
        operator="tester",
        host="here",
        pid=1,
        version="0",
        identity="test",
        simulated=True,
        parent=None,
        settings=settings,
        plan_digest=plan.digest,
        counts={"calls": len(plan.calls), **plan.left_out()},
    )


def first_lines(plan: Plan, ledger: Ledger) -> Iterable[records.AnyRecord]:
    """The first lines of the ledger's run, folded into it as they are written."""
    yield ledger.run
    for call in plan.calls:
        line = records.CallLine(
            call=call.id,
            action=call.action,
            account=call.account,
            region=call.region,
            instance=call.instance,
            user=call.user,
        )
        yield line
        ledger.apply(line)
    spec = ledger.settings.waves
    waves = WavesSpec.from_record(spec, Place("test")).waves if spec is not None else ()
    for n, calls in enumerate(sizes(waves, len(plan.calls)), start=1):
        if calls:
            wave = records.WaveLine(n=n, calls=calls, state=records.PLANNED)
            yield wave
            ledger.apply(wave)


@dataclass
class _Passwords:
    """Where new passwords come from."""

    ask: Callable[[Call], Awaitable[str]]
    label: str = "test"


@dataclass
class Drill:
    """One run, perhaps over several sessions."""

    tmp: Path
    world: World
    targets: Sequence[Target]
    action: str = "LockAccount"
    settings: records.RunSettings = field(default_factory=run_settings)
    lanes: int = 1
    keys: FixedKeys = field(default_factory=FixedKeys)
    keyring: Mapping[str, Sequence[FixedKeys]] | None = None
    """By account, instead of `keys`."""
    access: Access | None = None
    """Instead of so many `lanes` on loopback."""
    unreachable: Mapping[str, str] | None = None
    deadline_s: float = 3600.0
    closes_s: float = math.inf
    """Seconds until the window closes."""
    stop_after: int | None = None
    waves: WaveTerms | None = None
    seed: int = 0
    secret: Callable[[Call], Awaitable[str]] | None = None
    no_send: frozenset[CallId] = frozenset()
    during: Callable[[Runner], Awaitable[None]] | None = None
    transport: Callable[[Transport], Transport] | None = None
    seeded: bool = True
    keep_admins: int = 0
    stays: Callable[[Call, Reading], Omit | None] = lambda _call, _reading: None
    resend_already: bool = False
    wall_skew: Callable[[float], float] = lambda _now: 0.0
    ledger: Ledger = field(init=False)
    reason: Reason = field(init=False)
    runner: Runner = field(init=False)
    run_id: RunId = field(init=False)
    seconds: float = field(init=False)

    name: str = "test"
    """Of the run, if there are several in one place."""

    def __post_init__(self) -> None:
        self.database = database_here()
        self.store = runs_at(self.tmp, simulated=True, database=self.database)
        # One database is the place of all drills of a test.
        where = f"-{crc32(str(self.tmp).encode()):08x}" if self.database is not None else ""
        self.run_id = RunId(f"20260921T000000Z-{self.name}{where}")

    @property
    def path(self) -> Path:
        """Its journal; of a database, a copy as it stands now."""
        if isinstance(self.store, RunStore):
            return self.store.path(self.run_id)
        assert self.database is not None
        self.tmp.mkdir(parents=True, exist_ok=True)
        path = self.tmp / f"{self.run_id}.jsonl"
        path.write_bytes(lines_of(self.database, simulated=True)[self.run_id])
        return path

    def rewrite(self, lines: bytes) -> None:
        """Let its journal be these lines: what a crash leaves."""
        if self.database is not None:
            rewrite(self.database, self.run_id, lines)
        else:
            self.path.write_bytes(lines)

    def go(self) -> Drill:
        """Run the first session, or the next one."""
        loop = VirtualLoop()
        self.loop = loop
        wall = loop.wall()
        clock = self.clock = lambda: wall() + self.wall_skew(loop.time())
        journal: Journal
        if self.store.has(self.run_id):
            journal, replay = self.store.open(self.run_id, clock=clock)
            self.ledger = replay.ledger
            settings = self._settings()
            journal.append(
                records.Session(
                    verb="resume",
                    pid=1,
                    host="here",
                    operator="tester",
                    version="0",
                    cut_bytes=replay.torn_bytes,
                    settings=settings if settings != replay.ledger.settings else None,
                    clock_offset_s=0.0,
                ),
                self.ledger.apply,
            )
            journal.flush()  # the settings hold once they are on disk
        else:
            plan = make_plan(self.action, self.targets)
            self.ledger = Ledger(run_line(plan, self._settings()))
            for target in self.targets if self.seeded else ():
                self.world.seed(target.instance, target.region, [target.user])
            lines = first_lines(plan, self.ledger)
            journal = self.store.create(self.run_id, lines, clock=clock)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            self.reason = runner.run(self._session(journal, wall, clock))
        return self

    def _settings(self) -> records.RunSettings:
        """Those of the run, with what the drill says by itself."""
        endpoints = [ENDPOINT] if self.lanes == 1 else [f"{ENDPOINT}{number:02d}" for number in range(self.lanes)]
        access = self.access or Access(tuple(endpoints), {})
        return replace(
            self.settings,
            endpoint=access.shared,
            endpoint_of=dict(access.own),
            keep_admins=self.keep_admins or self.settings.keep_admins,
            resend_already=self.resend_already or self.settings.resend_already,
        )

    async def _session(self, journal: Journal, wall: Callable[[], float], clock: Callable[[], float]) -> Reason:
        transport: Transport = InProcessTransport(self.world, now=wall, unreachable=self.unreachable)
        if self.transport is not None:
            transport = self.transport(transport)
        settings, rng = self.ledger.settings, random.Random(self.seed)
        keyring = {
            account: [Signer(keys) for keys in each] for account, each in (self.keyring or {"": [self.keys]}).items()
        }
        session = Session(
            store=self.store,
            journal=journal,
            ledger=self.ledger,
            reach=Reach(keyring=keyring, access=settings.access, network=None),
            passwords=_Passwords(self.secret) if self.secret is not None else None,
            world=self.world,
            stop_after=StopAfter(count=self.stop_after) if self.stop_after is not None else None,
            no_send=self.no_send,
            stays=self.stays,
            waves=self.waves,
            clock=clock,
            time_left=lambda _deadline_s: TimeLeft(self.deadline_s, self.closes_s, "the window closed"),
            devices=Devices(transport=transport, rng=rng, clock=clock, workers=settings.workers),
            watch=self,
        )
        started = asyncio.get_running_loop().time()
        try:
            return (await session.work()).reason
        finally:
            self.seconds = asyncio.get_running_loop().time() - started

    # ---- its own watch -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def beside(self, runner: Runner) -> AsyncIterator[None]:
        self.runner = runner
        yield

    async def working(self, run: Coroutine[None, None, Reason]) -> Reason:
        if self.during is None:
            return await run
        task = asyncio.create_task(self.during(self.runner))
        try:
            return await run
        finally:
            task.cancel()

    async def last(self, notices: Coroutine[None, None, None]) -> None:
        await notices

    def outcomes(self) -> dict[str, str]:
        """Outcome by `instance/user`."""
        return {call.label: str(outcome) for call, _, outcome in self.ledger.outcomes()}
