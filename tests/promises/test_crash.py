"""kill -9 at any moment, then resume: real processes, real sockets, a real disk.

`ACCTOPS_CRASH_ROUNDS=500` runs that many rounds instead of a few; `ACCTOPS_CRASH_SEED=17` begins with another one, so
that a round that failed can be run alone. `-s` prints the figures.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from engine.journal.reader import read, verify
from engine.model import Outcome
from engine.simulator.estate import LOCKED
from engine.simulator.faults import rules_from
from tests.support.command import wait_until
from tests.support.crash import (
    REGION,
    Kill,
    Outpost,
    Simulators,
    Tally,
    WatchedWorld,
    Witness,
    by_user,
    fault,
    tally_of,
)

ROUNDS = int(os.environ.get("ACCTOPS_CRASH_ROUNDS", "10"))
FIRST_SEED = int(os.environ.get("ACCTOPS_CRASH_SEED", "1"))
AT_A_TIME = 6
"""Rounds under way together: they mostly wait, for backoff and for hung answers."""

EFFECTS = (
    {"reset_after": True},
    {"reset_before": True},
    {"truncated": True},
    {"garbage": True},
    {"hang": True},
    {"slow": 2},  # longer than the timeout: applied, and given up
    {"status": 502},
    {"status": 504, "html": True, "apply": True},
    {"status": 504, "apply": True, "apply_after": 0.3},  # a reading in between says that it was not applied
    {"code": "InternalError"},
    {"code": "RequestLimitExceeded"},
)
"""What befalls writes, each in a few of a hundred."""

pytestmark = [pytest.mark.timeout(90 + 6 * ROUNDS), pytest.mark.both_stores]


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
                failures.append(f"seed {seed}: {''.join(traceback.format_exception(error))}")
    assert not failures, "\n\n".join(failures)
    print(f"\n{count} rounds: {tally}")  # noqa: T201 - the figures, for whoever asks with -s
    return tally


def work_through(
    post: Outpost, world: WatchedWorld, simulators: Simulators, rng: random.Random, *, action: str, calls: int
) -> Tally:
    """Run, kill, resume, kill, …, and at last let it end. Checks the journal after every death."""
    kills = unborn = 0
    before = b""
    for _ in range(rng.randint(1, 5)):
        kill = Kill.draw(rng, action=action, calls=calls, is_first=post.run_id is None)
        if not kill.strike(post, world, simulators, post.start(*post.run_or_resume())):
            assert post.processes[-1].returncode == 0, (post.processes[-1].returncode, post.err())
            break
        kills += 1
        # A database hears nothing more of a dead process; a resume within that second or two is told that it works.
        wait_until(lambda: post.run_id is None or not post.store.is_live(post.run_id))
        if post.run_id is None:
            unborn += 1
            assert not simulators.writes(world), "sent before the run existed"
            continue
        found = verify(post.journal)
        assert found.settled_twice == ()
        now = post.journal.read_bytes()
        assert now.startswith(before), "lines that stood there have changed (J4)"
        before = now[: len(now) - found.torn_bytes]
        witness = Witness(read(post.journal))
        witness.compare(simulators.arrivals(world, action))
        calls = len(witness.calls) - len(witness.settled)
    assert post.finish(*post.run_or_resume()) == 0, post.out() + post.err()
    assert post.journal.read_bytes().startswith(before)
    assert not any("Traceback" in post.err(number) for number in range(len(post.processes)))
    return Tally(kills=kills, unborn=unborn)


def check_the_end(post: Outpost, witness: Witness) -> None:
    """What the last process said is what the journal says, and the chain holds up to the head it named."""
    said = json.loads(post.out())
    calls = len(witness.calls)
    assert said["counts"] == {"changed": calls, "already": 0, "failed": 0, "unknown": 0, "unattempted": 0}
    assert said["attempts"] == len(witness.sent)
    assert len(witness.settled) == calls
    assert set(witness.outcomes().values()) == {Outcome.CHANGED}
    flags = ("--head", said["journal_head"], *post.where, "--json")
    assert post.finish("journal", "verify", said["run"], *flags) == 0, post.err()
    assert json.loads(post.out())["settled_twice"] == []


def draw_flags(rng: random.Random) -> tuple[int, tuple[str, ...]]:
    """Workers, and the flags that ask for them: from a slow trickle to everything at once."""
    workers = rng.choice((4, 12, 30))
    return workers, ("--rate", str(rng.choice((60, 250, 1000))), "--workers", str(workers), "--timeout", "700ms")


def lock_round(seed: int, *, tmp: Path, simulators: Simulators) -> Tally:
    rng = random.Random(seed)
    targets = [(f"postgres-{seed:04d}{number:04d}", f"user{user}") for number in range(8) for user in range(6)]
    effects = rng.sample(EFFECTS, 6)
    faults = [fault(effect, share=0.03) for effect in effects]
    faults.append(fault({"status": 503}, share=0.1, action="DescribeAccounts"))
    world = WatchedWorld(
        faults=rules_from(faults),
        quotas={"*": None},
        latency=rng.uniform(0.0, 0.04),
        repeat=rng.choice(("success", "precheck")),
        seed=seed,
        audit=None,
    )
    for instance, user in targets:
        world.seed(instance, REGION, [user])
    workers, flags = draw_flags(rng)
    post = Outpost(tmp / str(seed), simulators.serve(world), flags)
    post.write_job(targets)

    killed = work_through(post, world, simulators, rng, action="LockAccount", calls=len(targets))

    witness = Witness(read(post.journal))
    check_the_end(post, witness)
    for instance, user in targets:
        account = simulators.ask(partial(world.account, instance, user, time.time()))
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


def password_of(instance: str, user: str) -> str:
    return f"A1!{instance}.{user}"


def cam_round(seed: int, *, tmp: Path, simulators: Simulators) -> Tally:
    rng = random.Random(1000 + seed)
    targets = [(f"postgres-{seed:04d}{number:04d}", f"user{user}") for number in range(5) for user in range(4)]
    faults = [fault(effect, share=0.04, action="CloseAccountCAM") for effect in rng.sample(EFFECTS, 6)]
    world = WatchedWorld(
        faults=rules_from(faults), quotas={"*": None}, latency=rng.uniform(0.0, 0.04), seed=seed, audit=None
    )
    for instance, user in targets:
        world.seed(instance, REGION, [user], cam=True)
    workers, flags = draw_flags(rng)
    post = Outpost(tmp / str(seed), simulators.serve(world), flags)
    source = f'passwords: {{command: [echo, "{password_of("{instance}", "{user}")}"]}}\n'
    post.write_job(targets, action="CloseAccountCAM", more=source)

    killed = work_through(post, world, simulators, rng, action="CloseAccountCAM", calls=len(targets))

    witness = Witness(read(post.journal))
    check_the_end(post, witness)
    arrivals = simulators.arrivals(world, "CloseAccountCAM")
    requests = by_user(arrivals)
    for instance, user in targets:
        account = simulators.ask(partial(world.account, instance, user, time.time()))
        assert account is not None and account.cam is False, f"{instance}/{user} is lost: {account}"
        assert account.password == password_of(instance, user)
        applied = [arrival.trace for arrival in requests[instance, user] if arrival.applied]
        assert account.passwords_set == len(applied)
        first = requests[instance, user].index(next(each for each in requests[instance, user] if each.applied))
        for later in requests[instance, user][first + 1 :]:
            call = witness.sent[later.trace].call
            assert witness.read_between(call, applied[0], later.trace), f"{later} sets a password again"
    text = post.journal.read_text() + "".join(
        post.out(number) + post.err(number) for number in range(len(post.processes))
    )
    assert not any(password_of(*target) in text for target in targets), "a password was written down (J6)"
    return killed + tally_of(witness, arrivals, workers=workers)


def test_a_password_is_never_set_twice_whenever_the_process_is_killed(tmp_path: Path, simulators: Simulators) -> None:
    """CloseAccountCAM sets a password, so it must not be repeated blindly: whatever was in flight at a kill is read
    first, and sent again only where the reading said that it had not been applied."""
    count = max(1, ROUNDS // 5)
    tally = rounds(partial(cam_round, tmp=tmp_path, simulators=simulators), count)
    assert tally.kills >= 1
    assert tally.resent <= tally.in_flight


@pytest.mark.files_only("the file of a plan grows before it is renamed; a database shows nothing of a transaction")
def test_a_run_that_was_killed_while_its_plan_was_written_does_not_exist(
    tmp_path: Path, simulators: Simulators
) -> None:
    """Until its whole plan is on disk nothing is sent and there is no run: nothing to list, nothing to resume, and
    the next `run` is not hindered by what was left behind."""
    rng = random.Random(FIRST_SEED)
    world = WatchedWorld(quotas={"*": None}, audit=None)
    post = Outpost(tmp_path, simulators.serve(world), ("--rate", "2000", "--no-verify"))
    post.write("instance,user\n" + "".join(f"postgres-{n // 8:08d},user{n % 8}\n" for n in range(20_000)), "all.csv")
    post.write(f"action: LockAccount\nregion: {REGION}\ntargets:\n  - csv: all.csv\n")
    for left_behind, most in enumerate((1, 2_000_000, 5_000_000)):
        Kill("journal", rng.randint(1, most)).strike(post, world, simulators, post.start(*post.run_or_resume()))
        assert post.run_id is None, "the kill came too late to show anything"
        assert len(list(post.state_dir.glob("runs/*/journal.jsonl.new"))) == 1 + left_behind

    flags = ("--state-dir", str(post.state_dir))
    assert post.finish("status", "--json", *flags) == 0
    assert json.loads(post.out())["runs"] == []
    assert post.finish("resume", "latest", "--yes", *flags) == 2
    assert simulators.writes(world) == []
    process = post.start(*post.run_or_resume())
    assert Kill("after", 3, "LockAccount").strike(post, world, simulators, process)
    assert len(Witness(read(post.journal)).calls) == 20_000


@pytest.mark.files_only("the system calls that write a file")
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("syscall", "nth"),
    [
        ("rename", 1),
        ("fsync", 1),
        ("fsync", 2),
        *(("fdatasync", nth) for nth in (1, 2, 3, 5, 8)),
        ("sendto", 1),
        ("sendto", 4),
    ],
)
def test_a_death_between_two_system_calls_loses_nothing(
    tmp_path: Path, simulators: Simulators, syscall: str, nth: int
) -> None:
    """Killed on the very threshold of a system call, where no timing would hit: between writing and syncing, between
    the plan and its rename, between a durable `sent` and its bytes."""
    world = WatchedWorld(quotas={"*": None}, latency=0.005, audit=None)
    post = Outpost(tmp_path, simulators.serve(world), ("--rate", "500", "--workers", "4"))
    post.write_job([(f"postgres-0000000{number}", "app") for number in range(8)])
    trace = (
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        f"-etrace={syscall}",
        f"-einject={syscall}:signal=SIGKILL:when={nth}",
    )
    assert post.finish(*post.run_or_resume(), wrap=trace) == -signal.SIGKILL, post.err()
    if post.run_id is not None:
        assert verify(post.journal).settled_twice == ()
        Witness(read(post.journal)).compare(simulators.arrivals(world, "LockAccount"))
    assert post.finish(*post.run_or_resume()) == 0, post.err()
    witness = Witness(read(post.journal))
    check_the_end(post, witness)
    tally = tally_of(witness, simulators.arrivals(world, "LockAccount"), workers=4)
    assert tally.repeated == 0
