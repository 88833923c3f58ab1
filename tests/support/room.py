"""A room in which incidents happen: the use cases of the commands, in memory and virtual time, over a real store.

Commands go through the production path: settings, keys, plan, approval, journal, session, pacing. Only the wire is
another one: a world in memory instead of sockets. So weeks of holds pass in seconds.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from msgspec.structs import replace

from engine.cloud.wire import Wire
from engine.inputs.files import STDIN, load_job
from engine.journal import records
from engine.journal.records import rfc3339
from engine.model import Outcome, Proof, Transport, Verdict, call_id
from engine.operations.begin import begin
from engine.operations.carrying import Ended
from engine.operations.events import Event
from engine.operations.holds import Holding, Limited, Released, limit_holds, release_holds, who_holds
from engine.operations.proposal import Approval, Nothing, Planned
from engine.operations.rerun import kinds_of, plan_rerun
from engine.operations.start import plan_new
from engine.operations.tend import Tended, tend
from engine.operations.terms import Terms
from engine.operations.undo import NothingToUndo, Selection, plan_undo
from engine.simulator.estate import LOCKED, Account
from engine.simulator.inprocess import InProcessTransport
from engine.simulator.world import World
from tests.support.command import Desk, environment
from tests.support.virtual import VirtualLoop

T = TypeVar("T")
ENDPOINT = "http://127.0.0.1:9"
REGION = "ap-singapore"


class MemoryWire(Wire):
    """Leads to a world in memory, by a clock of its own."""

    def __init__(self, transport: Transport, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self._transport = transport

    def transport(self, way: object, connections: int) -> Transport:
        return self._transport

    def apart(self, way: object) -> Transport:
        return self._transport


class Room:
    """An operator, his state directory and the world, with one clock for all three. A context manager."""

    def __init__(self, place: Path, world: World, *, wrap: Callable[[Transport], Transport] | None = None) -> None:
        self.desk = Desk(place)
        self.world = world
        self.loop = VirtualLoop()
        self._wall = self.loop.wall()
        self.ours_ahead_s = 0.0
        """By how much the clock of this machine is ahead of the server's."""
        transport: Transport = InProcessTransport(world, now=self.now)
        if wrap is not None:
            transport = wrap(transport)
        self.said: list[Event] = []
        self.terms = Terms(
            endpoints=(ENDPOINT,),
            yes=True,
            clock=self.clock,
            wire=MemoryWire(transport, self.clock),
            tell=self.said.append,
        )
        self.store = self.desk.runs()

    def __enter__(self) -> Room:
        self._runner = asyncio.Runner(loop_factory=lambda: self.loop)
        self._runner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._runner.__exit__(*error)

    # ---- time --------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The server's time."""
        return self._wall()

    def clock(self) -> float:
        """This machine's time."""
        return self._wall() + self.ours_ahead_s

    def wait(self, seconds: float) -> None:
        """Nobody does anything for a while."""
        self.loop.now += seconds

    # ---- commands ----------------------------------------------------------------------------------------------------

    def do(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Carry out a command that sends."""
        with self.at_work():
            return self._runner.run(work())

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with environment(self.desk.env, self.desk.work):
            yield

    def lock(self, *labels: str, action: str = "LockAccount", name: str = "incident", **terms: Any) -> Ended:
        """Carry out a job on accounts `instance/user`."""
        targets = "\n".join(f"  - {label}" for label in labels)
        text = f"name: {name}\naction: {action}\nregion: {REGION}\ntargets:\n{targets}\n"

        async def work() -> Ended:
            plan = await plan_new(replace(self.terms, **terms), load_job(STDIN, stdin=io.BytesIO(text.encode())))
            assert isinstance(plan, Planned), plan
            return await begin(plan, Approval(how="--yes", by="ann"))

        return self.do(work)

    def rerun(self, run: str) -> Ended | Nothing:
        async def work() -> Ended | Nothing:
            plan = await plan_rerun(self.terms, run, kinds_of(()), ())
            return plan if isinstance(plan, Nothing) else await begin(plan, Approval(how="--yes", by="ann"))

        return self.do(work)

    def undo(self, run: str, *labels: str, **chosen: Any) -> Ended | NothingToUndo:
        async def work() -> Ended | NothingToUndo:
            plan = await plan_undo(self.terms, run, Selection(targets=tuple(labels), **chosen))
            return plan if isinstance(plan, NothingToUndo) else await begin(plan, Approval(how="--yes", by="ann"))

        return self.do(work)

    def tend(self, **how: Any) -> Tended:
        return self.do(lambda: tend(self.terms, **how))

    def release(self, run: str, *labels: str) -> Released:
        with self.at_work():
            return release_holds(self.terms, run, labels)

    def limit(self, run: str, until: float | None, then: str | None = None) -> Limited:
        with self.at_work():
            text = rfc3339(until)[:19] + "Z" if until is not None else None
            return limit_holds(self.terms, run, until=text, then=then)

    def holds(self) -> Holding:
        with self.at_work():
            return who_holds(self.terms)

    def written(self, run: str, labels: Sequence[str], until: float, then: str) -> str:
        """Write the journal of a run that locked accounts of the world a while ago, as `run` once had it; its id."""
        like = self.store.replay(run).ledger.run
        now = self.clock()
        updated = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now + 8 * 3600))  # listings have the vendor's zone
        calls = [
            (call_id("", REGION, instance, user, "LockAccount"), instance, user)
            for instance, _, user in (label.partition("/") for label in labels)
        ]
        first = replace(
            like,
            seq=0,
            run="",
            at="",
            hash="",
            plan_digest="ab" * 32,
            counts={"calls": len(calls)},
            settings=replace(like.settings, hold_until=records.rfc3339(until), hold_then=then),
        )

        def plan() -> Iterator[records.AnyRecord]:
            yield first
            for call, instance, user in calls:
                yield records.CallLine(
                    call=call, action="LockAccount", account="", region=REGION, instance=instance, user=user
                )

        new = self.store.new_run_id(now, Random())
        journal = self.store.create(new, plan(), clock=self.clock)
        for number, (call, instance, user) in enumerate(calls):
            account = self.account(f"{instance}/{user}")
            account.status, account.update_time = LOCKED, now
            request = f"request-{new}-{number}"
            for record in (
                records.Before(
                    call=call, status=2, cam=False, type="normal", update_time="", password_update_time="", why=None
                ),
                records.Sent(call=call, attempt=1, lane="default", trace=f"t-{new}-{number}", key="…abcd"),
                records.ReplyLine(
                    call=call,
                    attempt=1,
                    verdict=Verdict.DONE,
                    sent_at=records.rfc3339(now, digits=6),
                    request_id=request,
                    code=None,
                    message=None,
                    http=200,
                    ms=9,
                ),
                records.Verified(call=call, status=5, cam=False, update_time=updated, agrees=True),
                records.Settled(
                    call=call, outcome=Outcome.CHANGED, proof=Proof.READ, attempts=1, request_id=request, code=None
                ),
            ):
                journal.append(record)
        counts = {"changed": len(calls)}
        journal.append(
            records.End(
                counts=counts, exit=0, stopped=None, attempts=len(calls), throttled=0, worst_second={}, seconds=1
            )
        )
        journal.close()
        return str(new)

    # ---- the world ---------------------------------------------------------------------------------------------------

    def account(self, label: str) -> Account:
        instance, _, user = label.partition("/")
        account = self.world.account(instance, user)
        assert account is not None, label
        return account

    def is_locked(self, label: str) -> bool:
        return self.account(label).status == LOCKED

    def by_hand(self, label: str, status: int) -> None:
        """Somebody locks or unlocks an account in the console."""
        account = self.account(label)
        if account.status != status:
            account.status, account.update_time = status, self.now()

    def rotate(self, label: str) -> None:
        """An application gets a new password."""
        account = self.account(label)
        account.password_update_time = account.update_time = self.now()

    def unlocks(self) -> list[str]:
        """Accounts that were unlocked through the API, in order."""
        return [
            f"{arrival.instance}/{arrival.user}"
            for arrival in self.world.audit
            if arrival.action == "UnlockAccount" and arrival.applied
        ]


def outcomes(ended: Ended) -> dict[str, Outcome]:
    """Outcome by `instance/user`."""
    return {call.label: outcome for call, _, outcome in ended.ledger.outcomes()}


def closed(accounts: Sequence[str]) -> World:
    """A world of these accounts, `instance/user`, and no others."""
    from engine.simulator.fleet import fleet_from

    users: dict[str, list[str]] = {}
    for label in accounts:
        instance, _, user = label.partition("/")
        users.setdefault(instance, []).append(user)
    return World(
        fleet=fleet_from({"instances": [{"id": each, "region": REGION, "accounts": of} for each, of in users.items()]})
    )
