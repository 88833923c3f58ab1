"""kill -9 at any moment, then resume: real processes, real sockets, a real disk.

`ACCTOPS_CRASH_ROUNDS=500` runs that many rounds instead of a few; `ACCTOPS_CRASH_SEED=17` begins with another one, so
that a round that failed can be run alone. `-s` prints the figures.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from engine.journal.reader import read, verify
from engine.model import Outcome
from engine.simulator.estate import LOCKED
from engine.simulator.faults import rules_from
from tests.support.crash import REGION, Desk, Kill, Simulators, Tally, WatchedWorld, Witness, by_user, fault, tally_of

ROUNDS = int(os.environ.get("ACCTOPS_CRASH_ROUNDS", "25"))
FIRST_SEED = int(os.environ.get("ACCTOPS_CRASH_SEED", "1"))
AT_A_TIME = 4
"""Rounds under way together: they mostly wait, for backoff and for hung answers."""
MOST_SESSIONS = 12

EFFECTS = (
    {"reset_after": True},
    {"reset_before": True},
    {"truncated": True},
    {"garbage": True},
    {"hang": True},
    {"slow": 2},  # longer than the timeout: applied, and given up
    {"status": 502},
    {"status": 504, "html": True, "apply": True},
    {"code": "InternalError"},
    {"code": "RequestLimitExceeded"},
)
"""What befalls writes, each in a few of a hundred."""

pytestmark = pytest.mark.timeout(90 + 6 * ROUNDS)


@pytest.fixture(scope="module")
def simulators() -> Iterator[Simulators]:
    with Simulators() as simulators:
        yield simulators


def rounds(one: Callable[[int], Tally], count: int) -> Tally:
    """Run rounds of these many seeds, a few at a time; fails with the seeds that failed."""
    seeds = range(FIRST_SEED, FIRST_SEED + count)
    tally, failures = Tally(), []
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for seed, running in [(seed, pool.submit(one, seed)) for seed in seeds]:
            try:
                tally += running.result()
            except Exception as error:  # noqa: BLE001 - all seeds are named, not the first
                failures.append(f"seed {seed}: {type(error).__name__}: {error}")
    assert not failures, "\n\n".join(failures)
    print(f"\n{count} rounds: {tally}")
    return tally


def work_through(
    desk: Desk, world: WatchedWorld, simulators: Simulators, rng: random.Random, *, action: str, calls: int
) -> Tally:
    """Run, kill, resume, kill, …, and at last let it end. Checks the journal after every death."""
    kills = unborn = 0
    before = b""
    for left in reversed(range(rng.randint(1, 4))):
        kill = Kill.draw(rng, action=action, calls=calls, is_first=desk.run_id is None)
        if not kill.strike(desk, world, simulators, desk.start(*desk.run_or_resume())):
            assert desk.processes[-1].returncode == 0, (desk.processes[-1].returncode, desk.err())
            break
        kills += 1
        if desk.run_id is None:
            unborn += 1
            assert not simulators.ask(lambda: list(world.audit)), "sent before the run existed"
            continue
        found = verify(desk.journal)
        assert found.settled_twice == ()
        now = desk.journal.read_bytes()
        assert now.startswith(before), "lines that stood there have changed (J4)"
        before = now[: len(now) - found.torn_bytes]
        Witness(read(desk.journal)).compare(simulators.arrivals(world, action))
        assert left >= 0
    assert desk.finish(*desk.run_or_resume()) == 0, desk.err()
    assert desk.journal.read_bytes().startswith(before)
    assert not any("Traceback" in desk.err(number) for number in range(len(desk.processes)))
    return Tally(kills=kills, unborn=unborn)


def check_the_end(desk: Desk, witness: Witness) -> None:
    """What the last process said is what the journal says, and the chain holds up to the head it named."""
    said = json.loads(desk.out())
    calls = len(witness.calls)
    assert said["counts"] == {"changed": calls, "already": 0, "failed": 0, "unknown": 0, "unattempted": 0}
    assert said["attempts"] == len(witness.sent)
    assert len(witness.settled) == calls
    assert set(witness.outcomes().values()) == {Outcome.CHANGED}
    flags = ("--state-dir", str(desk.state_dir), "--json")
    assert desk.finish("journal", "verify", said["run"], "--head", said["journal_head"], *flags) == 0, desk.err()
    assert json.loads(desk.out())["settled_twice"] == []


def lock_round(seed: int, *, tmp: Path, simulators: Simulators) -> Tally:
    rng = random.Random(seed)
    targets = [(f"postgres-{seed:04d}{number:04d}", f"user{user}") for number in range(8) for user in range(6)]
    effects = rng.sample(EFFECTS, 6)
    faults = [fault(effect, share=0.03) for effect in effects]
    faults.append(fault({"status": 503}, share=0.1, action="DescribeAccounts"))
    world = WatchedWorld(
        faults=rules_from(faults), quotas={"*": None}, latency=rng.uniform(0.0, 0.04), seed=seed, audit=None
    )
    for instance, user in targets:
        world.seed(instance, REGION, [user])
    workers = rng.choice((4, 12, 30))
    flags = ("--rate", str(rng.choice((60, 250, 1000))), "--workers", str(workers), "--timeout", "700ms")
    desk = Desk(tmp / str(seed), simulators.serve(world), flags)
    desk.write_job(targets)

    killed = work_through(desk, world, simulators, rng, action="LockAccount", calls=len(targets))

    witness = Witness(read(desk.journal))
    check_the_end(desk, witness)
    for instance, user in targets:
        account = simulators.ask(partial(world.account, instance, user))
        assert account is not None and account.status == LOCKED, f"{instance}/{user} is lost: {account}"
    return killed + tally_of(witness, simulators.arrivals(world, "LockAccount"), workers=workers)


def test_no_call_is_lost_and_none_settled_twice_whenever_the_process_is_killed(
    tmp_path: Path, simulators: Simulators
) -> None:
    """Killed at random moments, in the plan, in flight, while reading, and again in every resume: at the end each
    target is settled once and locked; whatever arrived has its `sent`; only what was in flight was sent again."""
    tally = rounds(partial(lock_round, tmp=tmp_path, simulators=simulators), ROUNDS)
    assert tally.kills >= ROUNDS
    assert tally.resent <= tally.in_flight
    assert tally.repeated <= tally.in_flight
