"""A fleet: real `acctops worker` processes on a PostgreSQL of the tests' own, beside a simulator on several ports.

Workers are killed, stopped, cut off and told to leave; a supervisor starts anew whoever ended. `check` holds what the
server saw against the journals: nothing lost, doubled, unrecorded, settled twice, or written or sent by who was fenced.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from engine.journal.database.dispatch import migrate_dispatch
from engine.journal.records import unix_seconds
from engine.simulator.estate import NORMAL
from engine.simulator.world import World
from tests.support.command import PATIENCE_S, Backend, Desk, Done
from tests.support.postgres import Postgres

QUOTA = 20
"""Calls a second of LockAccount and UnlockAccount through one access point, by the API's pages."""
LANES = 6
USERS = [f"app_{number}" for number in range(10)]
FENCED = 75
LATE_S = 0.008
"""Calls that come later than this may come in a bunch: the pacer's reserve is 10 ms."""

_WATCH = (
    # Which process, under which epoch, wrote each commit: the journals themselves do not say it.
    "create table acctops.drill (run text, no int, first bigint, epoch bigint, process text)",
    "create index on acctops.drill (run, no, first)",
    "create function acctops.drill() returns trigger language plpgsql as $$ begin "
    "insert into acctops.drill select new.run, new.no, new.first, s.epoch, current_setting('application_name') "
    "from acctops.shard s where s.run = new.run and s.no = new.no; return null; end $$",
    "create trigger drill after insert on acctops.batch for each row execute function acctops.drill()",
)
_SKEWED = "import time; real = time.time; time.time = lambda: real() + {ahead_s}; from engine.cli import entry; entry()"

Leaving = tuple[float, str]
"""When a call left, and who sent it, in words."""


class Cable:
    """The way from one host to PostgreSQL: while it is cut, bytes wait in it, and nobody is told."""

    def __init__(self, port: int) -> None:
        self.server = port
        self._whole = threading.Event()
        self._whole.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()

    def heal(self) -> None:
        self._whole.set()

    def close(self) -> None:
        self._whole.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                self._whole.wait()
                server = socket.create_connection(("127.0.0.1", self.server))
            except ConnectionError:
                client.close()  # the server is down
                continue
            except OSError:
                return
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._whole.wait()
                sink.sendall(data)
        self._whole.wait()
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@dataclass
class Member:
    """A worker, with what its supervisor knows."""

    number: int
    desk: Desk
    log: Path
    cable: Cable
    ahead_s: float = 0.0
    process: subprocess.Popen[bytes] = field(init=False)
    exits: list[int] = field(default_factory=list)
    """Exit codes of its processes so far."""

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def has_ended(self) -> bool:
        """Whether its process has ended; noted once."""
        if self.process.returncode is not None:
            return True
        code = self.process.poll()
        if code is not None:
            self.exits.append(code)
        return code is not None


@dataclass
class Work:
    """One run: what it changes, and its id once it is known."""

    desk: Desk
    labels: list[str]
    action: str = "LockAccount"
    run: str = ""


@dataclass
class Facts:
    """What a check found, for figures."""

    sends: int = 0
    calls: int = 0
    again: int = 0
    """Attempts beside the first of a call."""
    unanswered: int = 0
    """Attempts of which no end is recorded: whoever made them was gone."""
    takeovers: int = 0
    """How often a shard was taken that another had begun."""
    worst: int = 0
    """The most that arrived in a second of a lane while the server was in time."""
    worst_late: int = 0
    """The same, whether it was or not."""
    worst_left: int = 0
    """The most that left in a second, by the times in the journals."""


class Fleet:
    """Workers 0, 1, 2, …, each a host of its own. Use `fleet()`, which ends them."""

    def __init__(self, place: Path, postgres: Postgres, url: str, backend: Backend) -> None:
        self.place = place
        self.postgres = postgres
        self.url = url
        self.database = url.rpartition("/")[2]
        self.backend = backend
        self.members: list[Member] = []
        self._hosts = 0
        self._seeded = 0
        self.gauge = Gauge()

    # ---- hosts -------------------------------------------------------------------------------------------------------

    def host(self, url: str | None = None) -> Desk:
        """The desk of one more host, which has nothing but the database; `url`: its way there."""
        self._hosts += 1
        place = self.place / f"host{self._hosts}"
        place.mkdir()
        desk = Desk(place)
        del desk.env["ACCTOPS_ENDPOINT"]
        desk.env["ACCTOPS_DATABASE"] = url or self.url
        endpoints = ", ".join(self.backend.endpoints)
        config = place / "xdg-config" / "acctops" / "config.yaml"
        config.parent.mkdir(parents=True)
        config.write_text(f"endpoint: [{endpoints}]\n")
        return desk

    def add(self, *, ahead_s: float = 0.0) -> Member:
        """Start one more worker, whose wall clock is ahead of the others' by so much."""
        cable = Cable(self.postgres.port)
        number = len(self.members)
        url = self.url.replace(f":{self.postgres.port}/", f":{cable.port}/")
        member = Member(number, self.host(url), self.place / f"worker{number}.log", cable, ahead_s)
        member.log.touch()
        self.members.append(member)
        self.start(member)
        return member

    def start(self, member: Member, *, lanes: int = LANES) -> None:
        """Start the process of a worker (anew)."""
        code = _SKEWED.format(ahead_s=member.ahead_s)
        how = ["-c", code] if member.ahead_s else ["-m", "engine"]
        with member.log.open("ab") as log:
            member.process = subprocess.Popen(
                [sys.executable, *how, "worker", "--lanes", str(lanes)],
                cwd=member.desk.work,
                env=member.desk.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def supervise(self) -> None:
        """Start anew each worker that has ended, and wait until all are counted among those that live."""

        def are_there() -> bool:
            for member in self.members:
                if member.has_ended():
                    assert member.exits[-1] in (0, FENCED, -signal.SIGKILL), member.said[-2000:]
                    self.start(member)
            living = {row[0] for row in self.sql("select pid from acctops.worker where acctops.silent_s(at) < 3")}
            return {member.pid for member in self.members} <= living

        until(are_there)

    def fresh(self) -> None:
        """Begin a drill: all workers are there, and what the server saw before is forgotten."""
        self.supervise()
        self.backend.world.audit.clear()

    def kill(self, member: Member) -> None:
        """kill -9, and not started anew."""
        member.process.kill()
        member.process.wait(PATIENCE_S)
        member.exits.append(-signal.SIGKILL)

    def end(self) -> None:
        """End all processes: told first, then killed."""
        for member in self.members:
            member.cable.heal()
            if not member.has_ended():
                with suppress(ProcessLookupError):
                    member.signal(signal.SIGCONT)
                    member.process.terminate()
        for member in self.members:
            try:
                member.process.wait(10)
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait(10)
            member.cable.close()
        self.gauge.end()

    # ---- the database ------------------------------------------------------------------------------------------------

    def sql(self, *statements: str) -> list[tuple[object, ...]]:
        """Ask the database; no rows while it is gone."""
        try:
            return self.postgres.sql(self.database, *statements)
        except psycopg.OperationalError:
            return []

    def owners(self, run: str) -> dict[int, int]:
        """Which processes have how many lanes of a run."""
        rows = self.sql(
            "select split_part(owner, ' ', 2)::int, count(distinct lane) from acctops.shard "
            f"where run = '{run}' and no > 0 and open and owner is not null group by 1"
        )
        return {int(str(pid)): int(str(count)) for pid, count in rows}

    def busiest(self, run: str) -> Member:
        """The worker with the most lanes of a run."""
        found: list[Member] = []

        def is_known() -> bool:
            lanes = self.owners(run)
            found[:] = sorted(
                (member for member in self.members if member.pid in lanes), key=lambda each: lanes[each.pid]
            )
            return bool(found)

        until(is_known)
        return found[-1]

    def leader(self, run: str) -> Member:
        """The worker that leads a run."""
        found: list[Member] = []

        def is_known() -> bool:
            sql = f"select split_part(owner, ' ', 2)::int from acctops.shard where run = '{run}' and no = 0"
            pids = [row[0] for row in self.sql(sql + " and owner is not null")]
            found[:] = [member for member in self.members if member.pid in pids]
            return bool(found)

        until(is_known)
        return found[0]

    def lanes_of(self, run: str, member: Member) -> set[str]:
        """Host and port of the lanes of a run that a worker has."""
        rows = self.sql(
            "select distinct lane from acctops.shard where no > 0 and open and "
            f"run = '{run}' and owner like 'process {member.pid} %'"
        )
        return {str(row[0]).rpartition("/")[2] for row in rows}

    # ---- runs --------------------------------------------------------------------------------------------------------

    def job(self, calls: int, *, extra: str = "") -> Work:
        """A job of so many calls, whole tens, on accounts that no other run touches."""
        labels = []
        for _ in range(calls // len(USERS)):
            self._seeded += 1
            instance = f"postgres-{self._seeded:08x}"
            self.backend.world.seed(instance, "ap-singapore", USERS)
            labels += [f"{instance}/{user}" for user in USERS]
        desk = self.host()
        desk.job(*labels, extra=extra)
        return Work(desk, labels)

    def submit(self, calls: int, *, extra: str = "") -> Work:
        """Leave a run of so many calls to the workers."""
        work = self.job(calls, extra=extra)
        self._submitted(work, work.desk.run("run", "job.yaml", "--yes", "--detach", "--json"))
        return work

    def _submitted(self, work: Work, done: Done) -> None:
        assert done.code == 0, done.text
        work.run = str(done.json["run"])

    def writes(self, *works: Work) -> list[Any]:
        """Writes to the accounts of these runs that have arrived, in order. Any: `Arrival`."""
        wanted = {label for work in works for label in work.labels}
        return [each for each in self.backend.writes() if f"{each.instance}/{each.user}" in wanted]

    def wait_for(self, work: Work, writes: int) -> None:
        """Wait until so many writes of a run have arrived."""
        until(lambda: len(self.writes(work)) >= writes)

    def wait_end(self, *works: Work, patience_s: float = 2 * PATIENCE_S) -> None:
        """Wait until these runs have ended."""
        names = ", ".join(f"'{work.run}'" for work in works)

        def have_ended() -> bool:
            # Whoever led it has the run for a moment behind its end: until its notices are sent.
            rows = self.sql(
                f"select count(*) from acctops.run r where id in ({names}) and not acctops.is_live(id, 2) and "
                "not exists (select from acctops.claim c where c.run = r.id and acctops.silent_s(c.at) < 2)"
            )
            return rows == [(len(works),)]

        try:
            until(have_ended, patience_s)
        except AssertionError as error:
            tails = "\n".join(f"worker {member.number}: {member.said[-1500:]}" for member in self.members)
            rows = self.sql(
                "select run, no, open, owner, lane, acctops.silent_s(at)::int, seq from acctops.shard "
                f"where run in ({names}) and (open or no = 0) order by run, no limit 20"
            )
            raise AssertionError(f"no end of {names}; open: {rows}\n{tails}") from error

    # ---- the checker -------------------------------------------------------------------------------------------------

    def check(self, *works: Work, undo: bool = True, one_clock: bool = True) -> Facts:
        """Hold these runs, which have ended, against what the server saw; then undo them from other hosts.

        `one_clock`: whether all workers had the same time, so that their times of one lane can be compared.
        """
        facts = Facts()
        left: dict[str, list[Leaving]] = defaultdict(list)
        ways: dict[str, float] = {}
        for work in works:
            self._check_one(work, facts, left, ways)
        if undo:
            for some in range(0, len(works), 4):  # a test's server has few connections
                for back in self._undone(works[some : some + 4]):
                    self._check_one(back, facts, left, ways)
        self._check_pace(facts, left, ways) if one_clock else self._check_pace(facts, {}, {})
        return facts

    def _check_one(self, work: Work, facts: Facts, left: dict[str, list[Leaving]], ways: dict[str, float]) -> None:
        verified = work.desk.run("journal", "verify", work.run, "--json")
        assert verified.code == 0 and verified.json["settled_twice"] == [], verified.text
        lines = self.lines(work.run)
        sent = {line["trace"]: (line, epoch) for line, epoch, _ in lines if line["kind"] == "sent"}
        who = {line["trace"]: process for line, _, process in lines if line["kind"] == "sent"}
        seen = [each for each in self.writes(work) if each.action == work.action]
        # Nothing unrecorded: each arrival is one recorded attempt; nothing doubled: none arrives twice.
        unrecorded = [each for each in seen if each.trace not in sent]
        assert not unrecorded, f"run {work.run}: sent, and in no journal: {unrecorded[:3]}"
        traces = Counter(each.trace for each in seen)
        assert max(traces.values()) == 1, f"run {work.run}: an attempt arrived twice"
        applied = Counter(f"{each.instance}/{each.user}" for each in seen if each.applied)
        assert applied == Counter(work.labels), f"run {work.run}: a change was made twice, or never"
        settled = Counter(line["call"] for line, _, _ in lines if line["kind"] == "settled")
        calls = [line["call"] for line, _, _ in lines if line["kind"] == "call"]
        assert settled == Counter(calls), f"run {work.run}: a call was settled twice, or never"
        outcomes = Counter(line["outcome"] for line, _, _ in lines if line["kind"] == "settled")
        assert outcomes == {"changed": len(work.labels)}, (work.run, outcomes)
        replies = {(line["call"], line["attempt"]): line for line, _, _ in lines if line["kind"] == "reply"}
        known = {line["request_id"] for line in replies.values() if line["request_id"]}
        assert known <= {each.request_id for each in seen}, f"run {work.run}: an answer that nobody gave"
        self._check_epochs(work.run, seen, {trace: (line["shard"], epoch) for trace, (line, epoch) in sent.items()})
        arrived = {each.trace: each.at for each in seen}
        for trace, (line, _) in sent.items():
            reply = replies.get((line["call"], line["attempt"]))
            at = unix_seconds(reply["sent_at"]) if reply is not None and reply["sent_at"] else None
            if at is not None:
                ways[trace] = arrived.get(trace, 0.0) - at
            elif trace in arrived:  # whoever sent it died before he wrote when
                at = arrived[trace]
            if at is not None:
                by = f"{who[trace]}, shard {line['shard']} of {work.run}, attempt {line['attempt']}"
                left[line["lane"]].append((at, f"{by}, written {unix_seconds(line['at']) - at:+.3f}"))
        facts.sends += len(seen)
        facts.calls += len(calls)
        facts.again += len(sent) - len(calls)
        facts.unanswered += len(sent) - len(replies)
        facts.takeovers += self._takeovers(work.run)

    def lines(self, run: str) -> list[tuple[dict[str, Any], int, str]]:
        """All lines of a run, in the order of the commits, each with the epoch and the process that wrote it."""
        rows = self.postgres.sql(
            self.database,
            "select b.lines, d.epoch, d.process from acctops.batch b join acctops.drill d using (run, no, first) "
            f"where b.run = '{run}' and b.no >= 0 order by b.place",
        )
        found = []
        for lines, epoch, process in rows:
            assert isinstance(lines, bytes)
            found += [(json.loads(line), int(str(epoch)), str(process)) for line in lines.splitlines()]
        return found

    def sends_of(self, work: Work, pid: int) -> list[float]:
        """When the sends of a run by one process arrived."""
        traces = {line["trace"] for line, _, who in self.lines(work.run) if line["kind"] == "sent" and who == name(pid)}
        return [each.at for each in self.writes(work) if each.trace in traces]

    def _check_epochs(self, run: str, seen: Sequence[Any], by: dict[str, tuple[int, int]]) -> None:
        """No record, and no send, by an older epoch behind one by a newer; an epoch is of one process."""
        rows = self.sql(f"select no, epoch, process from acctops.drill where run = '{run}' order by no, first")
        last: dict[object, tuple[int, object]] = {}
        for no, epoch, process in rows:
            was = last.get(no, (0, process))
            now = int(str(epoch)), process
            assert now[0] >= was[0], f"run {run}, chain {no}: a record of epoch {now[0]} behind one of {was[0]}"
            assert now[0] > was[0] or process == was[1], f"run {run}, chain {no}: two writers in epoch {now[0]}"
            last[no] = now
        newest: dict[int, int] = {}
        for each in seen:
            no, number = by[each.trace]
            assert number >= newest.get(no, 0), f"run {run}, shard {no}: a send of epoch {number} behind {newest[no]}"
            newest[no] = number

    def _takeovers(self, run: str) -> int:
        """How often a shard was taken that somebody had written to."""
        rows = self.sql(
            f"select no, count(distinct epoch) from acctops.drill where run = '{run}' and no > 0 group by 1"
        )
        return sum(int(str(epochs)) - 1 for _, epochs in rows)

    def _check_pace(self, facts: Facts, left: dict[str, list[Leaving]], ways: dict[str, float]) -> None:
        """No second of any lane had more than the quota: when calls left, and when they arrived.

        The machine is shared. A second is judged at the server only if each of its calls was there within `LATE_S`
        after it left, and this process, of which the simulator is a thread, was not later than that.
        """
        for name_of_lane, leavings in left.items():
            for begins, count in full_seconds([at for at, _ in leavings]):
                facts.worst_left = max(facts.worst_left, count)
                if count > QUOTA:
                    there = sorted(each for each in leavings if begins - 0.2 <= each[0] < begins + 1.1)
                    rows = "\n".join(f"{at - begins:+.3f} {by}" for at, by in there)
                    raise AssertionError(f"{name_of_lane}: {count} left in the second from {begins:.3f}:\n{rows}")
        arrivals: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for each in self.backend.writes():
            arrivals[each.action, each.access].append(each)
        for lane, found in arrivals.items():
            moments = [each.at for each in found]
            for begins, count in full_seconds(moments):
                facts.worst_late = max(facts.worst_late, count)
                way_s = max((ways.get(e.trace, 0.0) for e in found if begins <= e.at < begins + 1.0), default=0.0)
                late_s = max(way_s, self.gauge.worst(begins - 0.1, begins + 1.1))
                if late_s <= LATE_S:
                    facts.worst = max(facts.worst, count)
                    assert count <= QUOTA, f"{lane}: {count} arrived in a second; all {late_s:.3f} s late at most"

    def _undone(self, works: Sequence[Work]) -> list[Work]:
        """Undo from hosts with directories of their own: each account is as it was."""
        backs = []
        for work in works:
            desk = self.host()
            done = desk.run("undo", work.run, "--yes", "--detach", "--rate", str(QUOTA), "--json")
            assert done.code == 0, done.text
            backs.append(Work(desk, work.labels, "UnlockAccount", str(done.json["run"])))
        self.wait_end(*backs, patience_s=2 * PATIENCE_S + sum(len(work.labels) for work in works) / 40)
        for work in works:
            for label in work.labels:
                instance, _, user = label.partition("/")
                account = self.backend.world.account(instance, user)
                assert account is not None and account.status == NORMAL, f"{label} is not as it was"
        return backs


def name(pid: int) -> str:
    """What a process of this id calls itself at the server."""
    return f"acctops {pid}"


class Gauge:
    """How late this process is, by a thread that wakes each 5 ms: the simulator is a thread beside it."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._ended = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._ended.is_set():
            due = time.monotonic() + 0.005
            time.sleep(0.005)
            late_s = time.monotonic() - due
            if late_s > LATE_S:
                self._late.append((time.time(), late_s))

    def worst(self, since: float, until: float) -> float:
        """The worst between two UNIX times; 0 if it was never later than `LATE_S`."""
        return max((late_s for at, late_s in list(self._late) if since <= at and at - late_s <= until), default=0.0)

    def end(self) -> None:
        self._ended.set()


def full_seconds(moments: Sequence[float]) -> Iterator[tuple[float, int]]:
    """Each second that ends with a moment: when it begins, and how many there are in it."""
    ordered = sorted(moments)
    first = 0
    for last, at in enumerate(ordered):
        while at - ordered[first] >= 1.0:
            first += 1
        yield ordered[first], last - first + 1


def until(is_so: Callable[[], bool], patience_s: float = 2 * PATIENCE_S) -> None:
    """Wait until it is so, looking seldom: the machine is shared with those who are looked at."""
    ends = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < ends, "it never came to that"
        time.sleep(0.05)


def silence(fleet: Fleet, work: Work, lanes: set[str], at: float) -> float:
    """The longest time without an arrival, of lanes that a worker had at the UNIX time `at`, from then on."""
    gaps = []
    for lane in lanes:
        moments = [each.at for each in fleet.writes(work) if each.access == lane and each.action == work.action]
        later = [moment for moment in moments if moment > at + 0.1]
        if later:
            gaps.append(min(later) - max((moment for moment in moments if moment <= at + 0.1), default=at))
    return max(gaps, default=0.0)


def report(text: str) -> None:
    """Print a figure, for who runs pytest with -s, or looks at what a test printed."""
    sys.stdout.write(f"{text}\n")


def _database(postgres: Postgres) -> str:
    """The URL of a new database with all tables, for a worker's role."""
    url = postgres.fresh()
    name = url.rpartition("/")[2]
    migrate_dispatch(postgres.url(name))
    postgres.sql(name, *_WATCH)
    return url


@contextmanager
def fleet(
    place: Path, postgres: Postgres, *, workers: int = 3, lanes: int = LANES, ahead_s: Sequence[float] = (0, 0, 0)
) -> Iterator[Fleet]:
    """A fleet of so many workers for as long as the block goes on, all of them ready."""
    world = World(latency=0.01, audit=None)
    with Backend(world, ports=lanes) as backend:
        made = Fleet(place, postgres, _database(postgres), backend)
        try:
            for number in range(workers):
                made.add(ahead_s=ahead_s[number] if number < len(ahead_s) else 0.0)
            made.supervise()
            yield made
        finally:
            made.end()
