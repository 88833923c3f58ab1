"""Real processes against simulators in a thread, killed at chosen moments, and what their journals must show then."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from engine.journal import records
from engine.journal.store import runs_at
from engine.model import CallId, Outcome, Verdict
from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.server import Server, serve
from engine.simulator.wire import WireAnswer
from engine.simulator.world import Arrival, World
from tests.support.command import ASKING
from tests.support.stores import database_apart, lines_of

ROOT = Path(__file__).parents[2]
REGION = "ap-singapore"
PATIENCE_S = 100.0
"""How long anything may take before a test gives up; nothing waits for so long unless it is broken."""
T = TypeVar("T")


class WatchedWorld(World):
    """A world that tells someone of each request: before it is carried out, and after, before it is answered."""

    watch: Callable[[str, str], None] | None = None
    """Called with "before" or "after", and the action; on the simulator's thread."""

    def handle(
        self, *, method: str, query: str, headers: Mapping[str, str], body: bytes, access: str, now: float
    ) -> WireAnswer:
        action = headers.get("X-TC-Action", "")
        if self.watch is not None:
            self.watch("before", action)
        answer = super().handle(method=method, query=query, headers=headers, body=body, access=access, now=now)
        if self.watch is not None:
            self.watch("after", action)
        return answer


class Simulators:
    """Simulators on loopback ports of their own, all on one loop in one thread, so that they outlive any client."""

    def __enter__(self) -> Simulators:
        self._loop = asyncio.new_event_loop()
        self._servers: list[Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulators")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            for server in self._servers:
                self._wait(asyncio.run_coroutine_threadsafe(server.aclose(), self._loop))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE_S)
            self._loop.close()

    def serve(self, world: World) -> str:
        """Listen for this world; its endpoint."""
        server = self._wait(asyncio.run_coroutine_threadsafe(serve(world), self._loop))
        self._servers.append(server)
        return server.endpoints[0]

    def ask(self, question: Callable[[], T]) -> T:
        """An answer about a world, given between two requests."""

        async def answer() -> T:
            return question()

        return self._wait(asyncio.run_coroutine_threadsafe(answer(), self._loop))

    def arrivals(self, world: World, action: str) -> list[Arrival]:
        """The requests of one action so far, in the order of arrival."""
        return [arrival for arrival in self.ask(lambda: list(world.audit)) if arrival.action == action]

    def writes(self, world: World) -> list[Arrival]:
        """All requests so far that change something, in the order of arrival. Readings may come before a run exists."""
        return [each for each in self.ask(lambda: list(world.audit)) if not each.action.startswith(ASKING)]

    @staticmethod
    def _wait(future: Future[T]) -> T:
        return future.result(PATIENCE_S)


class Outpost:
    """A place to run the command from: a job file, a state directory, an environment without anybody's settings."""

    def __init__(self, dir: Path, endpoint: str, flags: Sequence[str] = (), *, state_dir: Path | None = None) -> None:
        self.dir = dir
        self.endpoint = endpoint
        self.flags = flags
        self.state_dir = state_dir or dir / "state"
        self.database = database_apart()
        """URL of the database that has the runs; None: files below `state_dir` have them."""
        self.store = runs_at(self.state_dir, simulated=False, database=self.database)
        self.processes: list[subprocess.Popen[bytes]] = []
        dir.mkdir(parents=True, exist_ok=True)

    def write_job(self, targets: Iterable[tuple[str, str]], *, action: str = "LockAccount", more: str = "") -> Path:
        lines = "".join(f"  - {instance}/{user}\n" for instance, user in targets)
        return self.write(f"action: {action}\nregion: {REGION}\n{more}targets:\n{lines}")

    def write(self, text: str, name: str = "job.yaml") -> Path:
        path = self.dir / name
        path.write_text(text)
        return path

    @property
    def run_id(self) -> str | None:
        """The one run there is."""
        names = self.store.names()
        assert len(names) <= 1, names
        return names[0] if names else None

    @property
    def journal(self) -> Path:
        """The journal of the one run; of a database, a copy as it stands now."""
        run_id = self.run_id
        assert run_id is not None, "no run was created"
        if self.database is None:
            return self.state_dir / "runs" / run_id / "journal.jsonl"
        path = self.dir / "copy.jsonl"
        path.write_bytes(lines_of(self.database)[run_id])
        return path

    @property
    def where(self) -> tuple[str, ...]:
        """The flags that name the place of the runs."""
        return ("--state-dir", str(self.state_dir)) if self.database is None else ("--database", self.database)

    def run_or_resume(self) -> list[str]:
        """The arguments that bring the job on: `run` while no run exists, `resume` from then on."""
        common = [*self.where, "--yes", "--json"]
        if self.run_id is not None:
            return ["resume", self.run_id, *common]
        return ["run", "job.yaml", "--endpoint", self.endpoint, *self.flags, *common]

    def start(self, *arguments: str, wrap: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start `acctops` with these arguments; what it says goes to files."""
        number = len(self.processes)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.dir),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "TENCENTCLOUD_SECRET_ID": DEMO_SECRET_ID,
            "TENCENTCLOUD_SECRET_KEY": DEMO_SECRET_KEY,
        }
        with (self.dir / f"out.{number}").open("wb") as out, (self.dir / f"err.{number}").open("wb") as err:
            process = subprocess.Popen(
                [*wrap, sys.executable, "-m", "engine", *arguments],
                cwd=self.dir,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def finish(self, *arguments: str, wrap: Sequence[str] = (), patience_s: float = PATIENCE_S) -> int:
        """Run `acctops` to its end; its exit code."""
        process = self.start(*arguments, wrap=wrap)
        try:
            return process.wait(patience_s)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with its tracer or what it traces
                process.wait()

    def out(self, number: int = -1) -> str:
        """What a process said on stdout, by default the last one."""
        return (self.dir / f"out.{number % len(self.processes)}").read_text()

    def err(self, number: int = -1) -> str:
        return (self.dir / f"err.{number % len(self.processes)}").read_text()

    def journal_bytes(self) -> int:
        """Size of the journal, and of plans that never became one."""
        if self.database is not None:
            return sum(map(len, lines_of(self.database).values()))
        size = 0
        for path in self.state_dir.glob("runs/*/journal.jsonl*"):
            with suppress(FileNotFoundError):  # renamed meanwhile
                size += path.stat().st_size
        return size


# ---- kills ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """When a process is killed: at the nth of something after its start."""

    kind: str
    """`before` and `after` a request is carried out · `journal` bytes grown · `ms` of life."""
    count: int
    action: str = ""

    @classmethod
    def draw(cls, rng: random.Random, *, action: str, calls: int, is_first: bool) -> Kill:
        """A moment of a session with so many calls left: while it starts, plans, sends, reads or waits."""
        kind = rng.choice(("before", "before", "after", "after", "journal", "journal", "reading", "ms"))
        if kind == "reading":
            # A first session reads for an attempt in doubt; a resume begins with it.
            return cls(rng.choice(("before", "after")), 1 + rng.randrange(3), "DescribeAccounts")
        if kind in ("before", "after"):
            return cls(kind, 1 + rng.randrange(max(1, calls * 2 // 3)), action)
        if kind == "journal":
            # The plan first; later sessions begin with their `session` line. A call takes three lines, about 1 kB.
            return cls(kind, 1 + rng.randrange(400 + calls * (1000 if is_first else 700)))
        return cls(kind, rng.randrange(100, 900))

    def strike(
        self, post: Outpost, world: WatchedWorld, simulators: Simulators, process: subprocess.Popen[bytes]
    ) -> bool:
        """Wait for the moment and kill; False if the process was done before it came."""
        try:
            self._wait(post, world, simulators, process)
        finally:
            process.kill()
        return process.wait(PATIENCE_S) == -signal.SIGKILL

    def _wait(
        self, post: Outpost, world: WatchedWorld, simulators: Simulators, process: subprocess.Popen[bytes]
    ) -> None:
        if self.kind in ("before", "after"):
            left = self.count

            def watch(when: str, action: str) -> None:
                nonlocal left
                if when == self.kind and action == self.action:
                    left -= 1
                    if left == 0:
                        process.kill()

            simulators.ask(lambda: setattr(world, "watch", watch))
            process.wait(PATIENCE_S)
            simulators.ask(lambda: setattr(world, "watch", None))
        elif self.kind == "journal":
            due = post.journal_bytes() + self.count
            while process.poll() is None and post.journal_bytes() < due:
                wait_for(process, 0.001)
        else:
            wait_for(process, self.count / 1000)


def wait_for(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process ended within so long."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


# ---- what a journal must show --------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What a run, over all its sessions, came to."""

    calls: int = 0
    sessions: int = 0
    kills: int = 0
    unborn: int = 0
    """Kills before the run existed."""
    arrivals: int = 0
    attempts: int = 0
    in_flight: int = 0
    """Attempts that a kill left without a reply."""
    resent: int = 0
    """Those of them after which the call was sent again."""
    repeated: int = 0
    """Requests that arrived although an earlier one of the same call had been applied."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


class Witness:
    """Reads the lines of a journal in order, and objects to what must never stand there."""

    def __init__(self, lines: Iterable[records.AnyRecord]) -> None:
        self.lines = list(lines)
        self.calls: dict[CallId, records.CallLine] = {}
        self.sent: dict[str, records.Sent] = {}
        """By trace."""
        self.replies: dict[str, records.ReplyLine] = {}
        """By the trace of their `sent`."""
        self.settled: dict[CallId, records.Settled] = {}
        self.before: set[CallId] = set()
        """Calls whose account was looked at before they were sent, whatever was seen."""
        self.in_flight: list[set[CallId]] = []
        """By session that was followed by another one: the calls it left with a `sent` and no reply."""
        self.resent: list[set[CallId]] = []
        """And which of them were sent again."""
        self._sessions = [0]
        """Where each begins."""
        self._open: dict[CallId, records.Sent] = {}
        """The last `sent` of a call, while it has no reply."""
        self._attempts: Counter[CallId] = Counter()
        self._reached: set[CallId] = set()
        """Calls of which a request may have been applied, by what was answered."""
        self._reads_before = False
        for line in self.lines:
            self._hear(line)

    def _hear(self, line: records.AnyRecord) -> None:
        match line:
            case records.Run():
                self._reads_before = line.settings.verify
            case records.CallLine():
                self.calls[line.call] = line
            case records.Before():
                is_late = line.call in self._open or line.call in self._reached
                assert not is_late, f"line {line.seq}: what is read after a request that may have been applied"
                self.before.add(line.call)
            case records.Session():
                self.in_flight.append({call for call, sent in self._open.items() if sent.seq > self._sessions[-1]})
                self.resent.append(set())
                self._sessions.append(line.seq)
            case records.Sent():
                assert line.call not in self.settled, f"line {line.seq}: sent after it was settled"
                earlier = self._open.get(line.call)
                if earlier is not None:
                    session = bisect(self._sessions, earlier.seq) - 1
                    assert session < len(self.resent), f"line {line.seq}: sent again, unanswered, and no death between"
                    self.resent[session].add(line.call)
                assert line.call in self.before or not self._reads_before, f"line {line.seq}: sent before it was read"
                self._attempts[line.call] += 1
                assert line.attempt == self._attempts[line.call], f"line {line.seq}: attempts are not numbered on"
                assert line.trace not in self.sent, f"line {line.seq}: a trace twice"
                self.sent[line.trace] = self._open[line.call] = line
            case records.ReplyLine():
                sent = self._open.pop(line.call, None)
                assert sent is not None, f"line {line.seq}: a reply to nothing"
                assert sent.attempt == line.attempt, f"line {line.seq}: reply to {line.attempt}, sent {sent.attempt}"
                self.replies[sent.trace] = line
                if line.verdict in (Verdict.DONE, Verdict.ALREADY, Verdict.IN_DOUBT):
                    self._reached.add(line.call)
            case records.Settled():
                assert line.call not in self.settled, f"line {line.seq}: settled twice (J3)"
                assert line.attempts == self._attempts[line.call], f"line {line.seq}: attempts miscounted"
                self.settled[line.call] = line

    @property
    def open(self) -> set[CallId]:
        """Calls in flight where the journal ends."""
        return set(self._open)

    def compare(self, arrivals: Iterable[Arrival]) -> Counter[CallId]:
        """Every write that arrived is here, once, as itself, with the RequestId it got (P1).

        Returns how often a call arrived after one of its requests had been applied. That may only be when the answer
        to the applied one was lost.
        """
        arrived: set[str] = set()
        applied: dict[CallId, Arrival] = {}
        repeated: Counter[CallId] = Counter()
        for arrival in arrivals:
            sent = self.sent.get(arrival.trace)
            assert sent is not None, f"{arrival} has no `sent` in the journal"
            assert arrival.trace not in arrived, f"{arrival} arrived twice"
            arrived.add(arrival.trace)
            call = self.calls[sent.call]
            sent_to = (call.instance, call.user, call.action)
            assert sent_to == (arrival.instance, arrival.user, arrival.action), f"{arrival} was sent as {call}"
            reply = self.replies.get(arrival.trace)
            if reply is not None and reply.request_id is not None:
                assert reply.request_id == arrival.request_id, f"{reply} is not what was answered: {arrival}"
            if reply is not None and reply.verdict is Verdict.DONE:
                assert arrival.applied, f"{reply} says done, but {arrival}"
            before = applied.get(sent.call)
            if before is not None:
                repeated[sent.call] += 1
                earlier = self.replies.get(before.trace)
                assert earlier is None or earlier.verdict is Verdict.IN_DOUBT, f"{arrival} repeats {before}, {earlier}"
            if arrival.applied:
                applied[sent.call] = arrival
        return repeated

    def read_between(self, call: CallId, earlier: str, later: str) -> bool:
        """Whether a reading between two attempts (by trace) said that the first was not applied."""
        first, last = self.sent[earlier].seq, self.sent[later].seq
        return any(
            isinstance(line, records.Verified) and line.call == call and not line.agrees
            for line in self.lines[first : last - 1]
        )

    def outcomes(self) -> dict[str, Outcome]:
        """Of the settled calls, by `instance/user`."""
        return {
            f"{line.instance}/{line.user}": self.settled[call].outcome
            for call, line in self.calls.items()
            if call in self.settled
        }


def tally_of(witness: Witness, arrivals: Sequence[Arrival], *, workers: int) -> Tally:
    """The figures of a run that is over, once they have been checked."""
    repeated = witness.compare(arrivals)
    for in_flight, resent in zip(witness.in_flight, witness.resent, strict=True):
        assert len(in_flight) <= workers, f"{len(in_flight)} in flight, {workers} workers"
        assert resent <= in_flight, f"{resent - in_flight} were not in flight"
    return Tally(
        calls=len(witness.calls),
        sessions=1 + len(witness.in_flight),
        arrivals=len(arrivals),
        attempts=len(witness.sent),
        in_flight=sum(map(len, witness.in_flight)),
        resent=sum(map(len, witness.resent)),
        repeated=repeated.total(),
    )


def by_user(arrivals: Iterable[Arrival]) -> dict[tuple[str, str], list[Arrival]]:
    """Arrivals by account, in order."""
    found: dict[tuple[str, str], list[Arrival]] = defaultdict(list)
    for arrival in arrivals:
        found[arrival.instance, arrival.user].append(arrival)
    return found


def fault(effect: Mapping[str, Any], *, share: float, action: str = "LockAccount") -> dict[str, Any]:
    """A rule of a fault script that strikes now and then."""
    return {"action": action, "probability": share, **effect}
