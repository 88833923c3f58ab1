"""Thousands of holds that end at the same moment: the quota is kept, and a death in the middle opens nothing twice.

`ACCTOPS_DUE=15000` takes as many accounts as one job may have, instead of a few; `-s` prints how long it takes.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from engine.model import Fault, Reply, Transport
from engine.operations.tend import Tended
from engine.simulator.estate import NORMAL
from engine.simulator.world import World
from tests.promises.test_undo_cli import Office, fleet
from tests.support.command import Backend, Desk
from tests.support.room import Room, closed

DUE = int(os.environ.get("ACCTOPS_DUE", "1000"))
A_HUNDRED = 100
ONE = "postgres-00000000/first"
pytestmark = pytest.mark.timeout(180 + DUE // 10)


def accounts(count: int) -> list[str]:
    return [f"postgres-{number // A_HUNDRED + 1:08x}/user{number % A_HUNDRED}" for number in range(count)]


class Killer:
    """A transport whose process dies after so many requests to unlock, with what it had sent written down."""

    def __init__(self, inner: Transport, world: World, deaths: Path) -> None:
        self._inner, self._world, self._log = inner, world, deaths
        self.after: int | None = None
        self.seen = 0

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        outcome = await self._inner.send(endpoint, headers, body, timeout_s)
        if self.after is not None and headers.get("X-TC-Action") == "UnlockAccount":
            arrival = self._world.audit[-1]
            with self._log.open("a") as log:
                log.write(f"{arrival.instance}/{arrival.user} {int(arrival.applied)} {arrival.at}\n")
            self.seen += 1
            if self.seen >= self.after:
                os.kill(os.getpid(), signal.SIGKILL)
        return outcome

    async def aclose(self) -> None:
        await self._inner.aclose()


class Due:
    """A room in which so many holds, of several runs, end at once."""

    def __init__(self, place: Path, count: int, a_run: int) -> None:
        self.place = place
        self.labels = accounts(count)
        self.opened: Counter[str] = Counter()
        """Effective unlocks by account, as the server has them; also those of processes that died."""
        self.at: list[float] = []
        """The server's time of every UnlockAccount."""
        self.world = closed([ONE, *self.labels])
        self.killer: Killer

        def wrap(inner: Transport) -> Transport:
            self.killer = Killer(inner, self.world, place / "deaths")
            return self.killer

        self.room = Room(place, self.world, wrap=wrap)
        self.a_run = a_run

    def __enter__(self) -> Due:
        room = self.room.__enter__()
        like = room.lock(ONE).ledger.run.run
        for at in range(0, len(self.labels), self.a_run):
            room.wait(2)
            room.written(like, self.labels[at : at + self.a_run], room.clock() + 3600 - at / self.a_run, "unlock")
        room.wait(7200)
        self.world.audit.clear()
        return self

    def __exit__(self, *error: object) -> None:
        self.room.__exit__(*error)

    def tend(self) -> Tended:
        done = self.room.tend()
        for arrival in self.world.audit:
            if arrival.action == "UnlockAccount":
                self.at.append(arrival.at)
                self.opened[f"{arrival.instance}/{arrival.user}"] += arrival.applied
        self.world.audit.clear()
        return done

    def die(self, after: int) -> None:
        """Tend in a process of its own, which is killed after so many requests; the world goes on from there."""
        process = os.fork()
        if process == 0:
            self.killer.after = after
            self.room.loop.set_default_executor(ThreadPoolExecutor())  # threads are not inherited
            signal.alarm(60)
            try:
                self.room.tend()
            finally:
                os._exit(9)
        _, status = os.waitpid(process, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "it was to die in the middle"
        last = self.room.now()
        for line in (self.place / "deaths").read_text().splitlines():
            label, applied, at = line.split()
            self.at.append(float(at))
            last = max(last, float(at))
            if int(applied):
                self.opened[label] += 1
                account = self.room.account(label)
                account.status, account.update_time = NORMAL, float(at)
        (self.place / "deaths").unlink()
        self.room.wait(last - self.room.now() + 2)

    @property
    def worst_second(self) -> int:
        """Most requests in any second that begins with one, refused ones included."""
        at = sorted(self.at)
        worst, first = 0, 0
        for number, moment in enumerate(at):
            while at[first] <= moment - 1.0:
                first += 1
            worst = max(worst, number - first + 1)
        return worst

    def check(self) -> None:
        """All are open, each was opened once, and nobody holds them."""
        assert set(self.opened) == set(self.labels), "nothing forgotten"
        assert set(self.opened.values()) == {1}, "nothing twice"
        assert not any(self.room.is_locked(label) for label in self.labels)
        assert [each.family.run for each in self.room.holds().held] and self.room.is_locked(ONE)
        assert self.worst_second <= 20


@pytest.mark.parametrize("a_run", [DUE, A_HUNDRED], ids=["one run", "runs of a hundred"])
def test_all_are_opened_within_the_quota(tmp_path: Path, a_run: int) -> None:
    """One wave of expiries chokes the API for everybody else, or some accounts stay locked for ever."""
    with Due(tmp_path, DUE, a_run) as due:
        wall, cpu, virtual = time.perf_counter(), time.process_time(), due.room.now()
        done = due.tend()
        print(  # noqa: T201 - the figures, for whoever asks with -s
            f"\n{DUE:,} due in {-(-DUE // a_run):,} runs: wall {time.perf_counter() - wall:.1f} s, CPU "
            f"{time.process_time() - cpu:.1f} s, virtual {due.room.now() - virtual:,.0f} s, worst second "
            f"{due.worst_second}, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB"
        )
        assert not done.failed and sum(deed.count for deed in done.deeds) == DUE
        due.check()
        assert due.tend().deeds == ()
        assert not due.at[DUE:]


@pytest.mark.parametrize(("a_run", "seed"), [(400, 1), (400, 2), (25, 3)])
def test_a_death_in_the_middle_opens_nothing_twice_and_forgets_nothing(tmp_path: Path, a_run: int, seed: int) -> None:
    """The machine is rebooted while it opens hundreds: the next timers go on, three times over."""
    rng = Random(seed)
    with Due(tmp_path, 400, a_run) as due:
        for _ in range(3):
            due.die(rng.randint(1, 110))
        for _ in range(4):  # what was in flight when it died is tried again, if need be, some minutes later
            due.tend()
            due.room.wait(900)
        due.check()


def test_tend_killed_over_sockets_goes_on_with_the_next_timer(desk: Desk) -> None:
    """kill -9 of the real command in the middle of hundreds, twice; the third timer finishes."""
    users = [f"user{number}" for number in range(300)]
    with Backend(fleet(a=users)) as backend:
        office = Office(desk, backend)
        run = office.lock(*(f"postgres-aaaaaaaa/{user}" for user in users), flags=("--rate", "150"))
        office.run("hold", run, "--for", "1s", "--then", "unlock")
        time.sleep(2.5)  # the Date of answers has whole seconds: by it the limit may be a second away
        for count in (60, 160):
            process = desk.popen("tend", "--quiet")
            while len(office.unlocks()) < count:
                assert process.poll() is None, desk.end(process).text
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            desk.end(process)
        done = office.run("tend")
        assert "opened" in done.out, done.text
        assert not office.locked() and office.run("holds").out.strip() == "nobody holds anything"
        effective = Counter(each.user for each in backend.writes() if each.action == "UnlockAccount" and each.applied)
        assert set(effective) == set(users), "nothing forgotten"
        assert set(effective.values()) == {1}, "nothing twice"
