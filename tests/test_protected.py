"""The wrong account cannot be hit (P2): random fleets, every verb that sends, from several directories."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine import records
from engine.cli import main
from engine.job import Glob
from engine.journal.reader import read, replay
from engine.model import Place, Target
from engine.outlook import SUPERUSER
from engine.plan import left_out
from engine.simulator.world import World
from tests.support.drill import Drill

USERS = ("app", "etl", "breakglass_1", "BreakGlass_2", "dba", "report_ro", "svc")
GLOBS = ("*/breakglass_*", "*/dba", "postgres-0000000a/*", "*b/etl", "*/report_??")


def write_config(path: Path, globs: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("protect:\n" + "".join(f'  - "{glob}"\n' for glob in globs) if globs else "# nothing\n")


def sent_accounts(state: Path) -> set[tuple[str, str]]:
    """Every account that any run here has a `sent` record of: nothing leaves without one (P1)."""
    sent = set()
    for journal in state.glob("**/journal.jsonl"):
        calls = {}
        for line in read(journal):
            if isinstance(line, records.CallLine):
                calls[line.call] = (line.instance, line.user)
            elif isinstance(line, records.Sent):
                sent.add(calls[line.call])
    return sent


@pytest.mark.parametrize("seed", range(5))
def test_no_verb_from_no_directory_reaches_a_protected_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Rules of the job, of a config above it and of the user add up, for run, rerun, undo and accounts by hand."""
    rng = random.Random(seed)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    in_job, above, of_user = ([glob for glob in GLOBS if rng.random() < 0.35] for _ in range(3))
    write_config(tmp_path / "team" / "config.yaml", above)
    write_config(tmp_path / "home" / "config" / "acctops" / "config.yaml", of_user)
    named = [(f"postgres-0000000{end}", user) for end in "abc" for user in USERS if rng.random() < 0.4]
    named = named or [("postgres-0000000a", "app")]
    job = tmp_path / "team" / "jobs" / "job.yaml"
    job.parent.mkdir(parents=True)
    protect = "protect:\n" + "".join(f'  - "{glob}"\n' for glob in in_job) if in_job else ""
    targets = "".join(f"  - {instance}/{user}\n" for instance, user in named)
    job.write_text(f"action: LockAccount\nregion: ap-singapore\n{protect}targets:\n{targets}")
    faults = tmp_path / "faults.yaml"
    faults.write_text("- {action: LockAccount, probability: 0.3, code: InvalidParameter.ParameterCheckError}\n")

    everywhere = [tmp_path, tmp_path / "team", job.parent, tmp_path / "home"]
    monkeypatch.chdir(rng.choice(everywhere))
    main(["run", str(job), "--simulate", "--yes", "--quiet", "--faults", str(faults)])
    for journal in list((tmp_path / "state").glob("**/journal.jsonl")):
        run = replay(journal).ledger.run
        assert run is not None
        for verb in ("rerun", "undo"):
            monkeypatch.chdir(rng.choice(everywhere))
            main([verb, run.run, "--yes", "--quiet"])
    rules = [Glob(glob, Place("here"), fold=True) for glob in (*in_job, *above, *of_user)]
    hit = {label for label in sent_accounts(tmp_path / "state") if left_out(_target(*label), protect=rules, exclude=())}
    assert not hit

    monkeypatch.chdir(rng.choice(everywhere))
    by_hand = [f"{instance}/{user}" for instance, user in named]
    main(["lock", *by_hand, "--region", "ap-singapore", "--simulate", "--yes", "--quiet"])
    rules = [Glob(glob, Place("here"), fold=True) for glob in of_user]
    hit = {label for label in sent_accounts(tmp_path / "state") if left_out(_target(*label), protect=rules, exclude=())}
    assert not hit


def _target(instance: str, user: str) -> Target:
    return Target(instance, user, "ap-singapore")


@pytest.mark.parametrize("seed", range(12))
def test_every_instance_keeps_the_admins_asked_for(tmp_path: Path, seed: int) -> None:
    """Random fleets, some admins locked before, some instances read late: as many usable ones stay as can."""
    rng = random.Random(seed)
    keep = rng.randint(1, 3)
    it = World(latency=0.02)
    targets: list[Target] = []
    usable: dict[str, int] = {}
    for number in range(6):
        instance = f"postgres-{number:08d}"
        usable[instance] = 0
        for user in range(rng.randint(1, 6)):
            is_admin, status = rng.random() < 0.6, rng.choice((2, 2, 2, 5))
            kind = SUPERUSER if is_admin else "normal"
            it.seed(instance, "ap-singapore", [f"user{user}"], user_type=kind, status=status)
            usable[instance] += is_admin and status == 2
            if rng.random() < 0.8:
                targets.append(Target(instance, f"user{user}", "ap-singapore"))
    Drill(tmp_path, it, targets or [_target("postgres-00000000", "user0")], keep_admins=keep, seed=seed).go()
    for instance, before in usable.items():
        known = it.instance(instance)
        assert known is not None
        left = sum(each.user_type == SUPERUSER and each.status == 2 for each in known.accounts.values())
        assert left >= min(keep, before), instance
