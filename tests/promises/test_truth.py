"""What is said of the accounts equals what the server has, or it is said that it is not known; whatever it answers."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection
from pathlib import Path
from random import Random

import pytest

from engine.simulator.estate import LOCKED, NORMAL
from engine.simulator.world import World
from tests.support.command import Desk, Done, records, wait_until
from tests.support.lying import Liar, Lie

ROUNDS = int(os.environ.get("ACCTOPS_LIES_ROUNDS", "8"))
FIRST = int(os.environ.get("ACCTOPS_LIES_SEED", "1"))
GOOD = ("changed", "already")


def _world(seed: int, instances: int = 3, users: int = 4) -> tuple[World, list[str]]:
    """Some accounts, a few of them locked before; their targets."""
    rng = Random(seed)
    world = World(quotas={"*": None})
    targets = []
    for number in range(instances):
        instance = f"postgres-{number:08d}"
        for user in range(users):
            status = LOCKED if rng.random() < 0.2 else NORMAL
            world.seed(instance, "ap-singapore", [f"user{user}"], status=status)
            targets.append(f"{instance}/user{user}")
    return world, targets


def _locked(world: World, targets: Collection[str]) -> set[str]:
    """Which of them are locked, at the server."""
    accounts = {target: world.account(*target.split("/")) for target in targets}
    return {target for target, account in accounts.items() if account is not None and account.status == LOCKED}


def _outcomes(desk: Desk, run: str) -> dict[str, str]:
    """What the report says of each target."""
    report = desk.run("report", run, "--format", "csv")
    assert report.code == 0, report.text
    return {f"{row['instance']}/{row['user']}": row["outcome"] for row in csv.DictReader(io.StringIO(report.out))}


def _job(desk: Desk, targets: Collection[str]) -> Path:
    extra = "rate: 200\nretry: {transient: 3s, busy: 3s}\ndeadline: 25s"
    return desk.job(*targets, extra=extra)


def _check_lock(desk: Desk, world: World, targets: list[str], done: Done, before: Collection[str] = ()) -> str | None:
    """A lock run said nothing that is not so; the id of the run, if one began."""
    assert "Traceback" not in done.text
    assert "internal error" not in done.text
    assert done.code in (0, 1, 4, 5), done.text  # what is refused before anything is sent proves nothing here
    locked = _locked(world, targets)
    if done.code == 0:
        assert locked == set(targets), f"exit 0, and open are {set(targets) - locked}: {done.err}"
    if not (run := done.json.get("run")):
        return None
    for target, outcome in _outcomes(desk, run).items():
        if outcome in GOOD:
            assert target in locked, f"{target} is {outcome}, and open at the server"
        if outcome == "failed":
            assert target not in locked or target in before, f"{target} has failed, and is locked at the server"
    return str(run)


def _check_whole(desk: Desk, world: World, targets: list[str], endpoint: str) -> None:
    """A run, a verify and an undo, all lied to: each says what is so, or that it does not know."""
    before = _locked(world, targets)
    done = desk.run("run", _job(desk, targets), "--yes", "--json", "--timeout", "2s", "--endpoint", endpoint)
    run = _check_lock(desk, world, targets, done, before)
    if run is None:
        return
    outcomes, locked = _outcomes(desk, run), _locked(world, targets)
    verify = desk.run("verify", run, "--json")
    assert "Traceback" not in verify.text
    if verify.code == 0:
        assert locked == set(targets)
    undo = desk.run("undo", run, "--yes", "--json")
    assert "Traceback" not in undo.text
    assert "internal error" not in undo.text
    still = _locked(world, targets)
    assert before <= still, "what was locked before the run was opened by its undo"
    changed = {target for target, outcome in outcomes.items() if outcome == "changed"}
    if undo.code == 0:
        assert not changed & still, f"undo said all is done, and locked are {changed & still}"
    if undo.json.get("run"):
        for target, outcome in _outcomes(desk, undo.json["run"]).items():
            if outcome in GOOD:
                assert target not in still, f"undo says {target} is {outcome}, and it is locked"


@pytest.mark.parametrize("seed", range(FIRST, FIRST + ROUNDS))
def test_what_is_said_is_so_whatever_the_server_answers(tmp_path: Path, seed: int) -> None:
    """Answers twice, of others, of other instances, cut, stale, endless: no account is called locked that is open."""
    rng = Random(f"{seed}/round")
    lies = rng.sample(sorted(Lie), k=rng.randint(1, 5))
    world, targets = _world(seed)
    desk = Desk(tmp_path)
    with Liar(world, lies, odds=rng.choice((0.15, 0.4, 1.0)), seed=seed, most_each=rng.choice((1, 2, 3))) as liar:
        _check_whole(desk, world, targets, liar.endpoint)


def _check_going_on(desk: Desk, world: World, targets: list[str], endpoint: str, *, is_killed: bool) -> None:
    """A run that is cut off, then resumes and a rerun, all lied to: each says what is so, or that it does not know."""
    before = _locked(world, targets)
    argv = ("run", _job(desk, targets), "--yes", "--json", "--timeout", "2s", "--rate", "20", "--endpoint", endpoint)
    if is_killed:
        process = desk.popen(*argv)
        wait_until(lambda: process.poll() is not None or any(records(path, "reply")[2:] for path in desk.journals()))
        process.kill()
        desk.end(process)
    else:
        _check_lock(desk, world, targets, desk.run(*argv, "--deadline", "300ms"), before)
    if not desk.journals():
        return
    run = desk.journals()[0].parent.name
    done = desk.run("resume", run, "--yes", "--json", "--deadline", "6s")
    _check_lock(desk, world, targets, done, before)
    kinds = "failed,unknown,unattempted"
    rerun = desk.run("rerun", run, "--only", kinds, "--yes", "--json", "--deadline", "6s")
    assert "Traceback" not in rerun.text and "internal error" not in rerun.text
    if child := rerun.json.get("run"):
        outcomes, locked = _outcomes(desk, child), _locked(world, targets)
        assert rerun.code != 0 or set(outcomes) <= locked, f"exit 0, and open are {set(outcomes) - locked}"
        assert {target for target, outcome in outcomes.items() if outcome in GOOD} <= locked
        assert not {target for target, outcome in outcomes.items() if outcome == "failed"} & locked - before
    again = desk.run("resume", run, "--yes", "--json", "--deadline", "6s")
    assert "Traceback" not in again.text and "internal error" not in again.text
    assert again.code != 0 or _locked(world, targets) == set(targets), again.err


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
@pytest.mark.parametrize("seed", range(FIRST, FIRST + max(1, ROUNDS // 4)))
def test_what_is_gone_on_with_says_what_is_so_whatever_the_server_answers(
    tmp_path: Path, seed: int, is_killed: bool
) -> None:
    """A resume and a rerun believe no more than a run does; what a run knew when it was cut off misleads neither."""
    rng = Random(f"{seed}/{is_killed}/going on")
    lies = rng.sample(sorted(Lie), k=rng.randint(1, 5))
    world, targets = _world(seed)
    desk = Desk(tmp_path)
    with Liar(world, lies, odds=rng.choice((0.15, 0.4, 1.0)), seed=seed, most_each=rng.choice((1, 2, 3))) as liar:
        _check_going_on(desk, world, targets, liar.endpoint, is_killed=is_killed)


@pytest.mark.parametrize("lie", sorted(Lie), ids=lambda lie: Lie(lie).name.lower())
def test_one_lie_now_and_then_is_seen_through(tmp_path: Path, lie: Lie) -> None:
    """Each lie alone, once to each account: the run ends in time, and says what is so."""
    world, targets = _world(7, instances=2, users=3)
    desk = Desk(tmp_path)
    with Liar(world, [lie], odds=1.0, seed=7, most_each=1) as liar:
        _check_whole(desk, world, targets, liar.endpoint)


def test_every_answer_twice_costs_no_truth(tmp_path: Path) -> None:
    """Behind a proxy that sends each answer again, an answer counts for its own request only."""
    world, targets = _world(3, instances=3, users=3)
    desk = Desk(tmp_path)
    with Liar(world, [Lie.TWICE]) as liar:
        done = desk.run("run", _job(desk, targets), "--yes", "--json", "--timeout", "2s", "--endpoint", liar.endpoint)
    _check_lock(desk, world, targets, done)


MATCH = """action: LockAccount
region: ap-singapore
rate: 200
limits: {max_targets: 500}
retry: {transient: 3s, busy: 3s}
targets:
  - match: {instances: {ids: [postgres-00000000]}, users: {glob: "*"}}
"""


@pytest.mark.parametrize(
    "lie", [Lie.CAPPED, Lie.SHUFFLED, Lie.EMPTY_PAGE, Lie.OTHER_ROWS], ids=lambda lie: lie.name.lower()
)
@pytest.mark.parametrize("odds", [0.5, 1.0], ids=["now and then", "always"])
def test_a_match_finds_every_account_or_says_that_it_does_not_know(tmp_path: Path, lie: Lie, odds: float) -> None:
    """A list cut short, out of order or of somebody else leaves no account out in silence: 0 is for all of them."""
    world, targets = _world(11, instances=2, users=150)
    asked = {target for target in targets if target.startswith("postgres-00000000/")}
    desk = Desk(tmp_path)
    with Liar(world, [lie], odds=odds, seed=5) as liar:
        job = desk.write("match.yaml", MATCH)
        done = desk.run("run", job, "--yes", "--json", "--timeout", "2s", "--endpoint", liar.endpoint)
    assert "Traceback" not in done.text
    assert "internal error" not in done.text
    assert liar.lies.told[lie]
    locked = _locked(world, asked)
    assert done.code != 0 or locked == asked, f"exit 0, and {len(asked - locked)} are open: {done.err}"
