"""Protected accounts cannot be hit, by no verb, from no directory, and every instance keeps its admins (promise P2).

Random fleets, rules in every place where rules may stand, some of them written only after the run has begun, every
verb that sends. What counts is what arrived at the server, not what anybody says was sent.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import Reason
from engine.inputs.job import Glob
from engine.model import Place, Target
from engine.planning.admins import SUPERUSER
from engine.run.runner import Runner
from engine.simulator.estate import LOCKED, MODIFYING, NORMAL
from engine.simulator.faults import FaultScript, rules_from
from engine.simulator.fleet import fleet_from
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done
from tests.support.drill import Drill

SEEDS = int(os.environ.get("ACCTOPS_PROTECTED_SEEDS", "60"))
EXAMPLES = int(os.environ.get("ACCTOPS_PROTECTED_EXAMPLES", "120"))
REGION = "ap-singapore"
LOCK_TROUBLE: tuple[dict[str, Any], ...] = (
    {"reset_after": True},
    {"reset_before": True},
    {"hang": True, "apply": True},
    {"accepted_not_applied": True},
    {"code": "InternalError"},
    {"code": "RequestLimitExceeded"},
    {"code": "FailedOperation.DatabaseAccessError"},
    {"status": 504, "apply": True, "apply_after": 2.5},
)


def random_fleet(rng: random.Random, *, statuses: Sequence[int] = (NORMAL,)) -> dict[str, dict[str, dict[str, Any]]]:
    """Accounts by instance: some admins, some of them shut, some accounts with CAM."""
    fleet: dict[str, dict[str, dict[str, Any]]] = {}
    for number in range(rng.randint(1, 4)):
        accounts = {}
        for user in ("root", "dba", "breakglass_1", "app", "etl", "ro")[: rng.randint(2, 6)]:
            is_admin = user in ("root", "dba") or rng.random() < 0.2
            accounts[user] = {
                "status": rng.choice(statuses),
                "cam": rng.random() < 0.2,
                "type": SUPERUSER if is_admin else "normal",
            }
        fleet[f"postgres-{number:08d}"] = accounts
    return fleet


def world_of(fleet: dict[str, dict[str, dict[str, Any]]], **more: Any) -> World:
    instances = [
        {"id": instance, "region": REGION, "accounts": [{"name": user, **what} for user, what in accounts.items()]}
        for instance, accounts in fleet.items()
    ]
    return World(fleet=fleet_from({"instances": instances}), **more)


def admins(world: World, fleet: dict[str, Any]) -> dict[str, int]:
    """Usable superusers of each instance, now; one whose lock is still to take effect is none any more."""
    found = {}
    for instance in fleet:
        its = world.instance(instance)
        assert its is not None
        found[instance] = sum(
            account.user_type == SUPERUSER and account.status == NORMAL and not account.pending
            for account in its.accounts.values()
        )
    return found


# ---- admins, whatever befalls a run --------------------------------------------------------------------------------


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 30))
def test_every_instance_keeps_its_admins_in_any_weather(tmp_path: Path, seed: int) -> None:
    """Lost answers, late effects, unreadable instances, accounts that are being changed, sessions that are cut and
    resumed with a stricter guard: as many usable superusers stay as were asked for, or as there were."""
    rng = random.Random(seed)
    fleet = random_fleet(rng, statuses=(NORMAL, NORMAL, NORMAL, LOCKED, MODIFYING))
    faults: list[dict[str, Any]] = [
        {"action": "LockAccount", "probability": 0.15, **trouble} for trouble in rng.sample(LOCK_TROUBLE, 3)
    ]
    if rng.random() < 0.3:
        denied = rng.choice(list(fleet))
        faults.append({"action": "DescribeAccounts", "instance": denied, "code": "UnauthorizedOperation"})
    world = world_of(fleet, faults=rules_from(faults), latency=0.05, seed=seed)
    targets = [Target(instance, user, REGION) for instance, accounts in fleet.items() for user in accounts]
    rng.shuffle(targets)
    targets = [target for target in targets if rng.random() < 0.9] or targets[:1]

    async def meanwhile(runner: Runner) -> None:
        await asyncio.sleep(rng.uniform(0, 3))
        for instance in fleet:
            its = world.instance(instance)
            assert its is not None
            for account in its.accounts.values():
                if account.status == MODIFYING:
                    account.status = NORMAL
        await asyncio.sleep(rng.uniform(0, 3))
        if rng.random() < 0.7:
            runner.stop("enough", Reason.INTERRUPTED)

    drill = Drill(
        Path(tempfile.mkdtemp(dir=tmp_path)), world, targets, seeded=False, seed=seed, during=meanwhile, deadline_s=300
    )
    for _ in range(3):
        before = admins(world, fleet)
        drill.keep_admins = max(drill.keep_admins, rng.choice((0, 1, 1, 2)))
        drill.resend_already = rng.random() < 0.2
        drill.go()
        for instance, left in admins(world, fleet).items():
            assert left >= min(drill.keep_admins, before[instance]), f"{instance}: {before[instance]} → {left}"


# ---- every verb, from everywhere -----------------------------------------------------------------------------------

GLOBS = ("*/breakglass_*", "*/root", "*/dba", "*/ETL", "postgres-00000000/*", "*[13]/a*", "*/r?")
"""Guards ignore case."""


@dataclass
class Site:
    """A desk with rules in several places, and a server behind it. Remembers what each command may not reach."""

    desk: Desk
    backend: Backend
    rng: random.Random
    fleet: dict[str, dict[str, dict[str, Any]]]
    rules: dict[str, list[str]] = field(default_factory=lambda: {"user": [], "team": [], "job": []})
    keep: dict[str, int] = field(default_factory=lambda: {"user": 0, "team": 0, "job": 0})
    seen: int = 0

    def __post_init__(self) -> None:
        self.team = self.desk.work / "team"
        self.jobs = self.team / "jobs"
        self.places = (self.desk.work, self.team, self.jobs, self.desk.place / "home", Path("/"))
        self.jobs.mkdir(parents=True)
        accounts = [f"{instance}/{user}" for instance, its in self.fleet.items() for user in its]
        self.rng.shuffle(accounts)
        self.targets = accounts
        for place in self.rules:
            if self.rng.random() < 0.5:
                self.rules[place] = self.rng.sample(GLOBS, 1)
            if self.rng.random() < 0.4:
                self.keep[place] = self.rng.choice((1, 2))
        self.write()

    def write(self) -> None:
        """The files as the rules say."""
        user = Path(self.desk.env["XDG_CONFIG_HOME"]) / "acctops"
        user.mkdir(parents=True, exist_ok=True)
        for directory, place in ((user, "user"), (self.team, "team")):
            (directory / "config.yaml").write_text(self._guards(place))
        job = ["action: LockAccount", f"region: {REGION}", "targets:", *(f"  - {target}" for target in self.targets)]
        (self.jobs / "job.yaml").write_text(self._guards("job") + "\n".join(job) + "\n")

    def _guards(self, place: str) -> str:
        globs = "".join(f'  - "{glob}"\n' for glob in self.rules[place])
        keep = f"keep_admins: {self.keep[place]}\n" if self.keep[place] else ""
        return (f"protect:\n{globs}" if globs else "") + keep

    def add_rule(self) -> None:
        """Somebody names another account that must stay open."""
        place = self.rng.choice(list(self.rules))
        self.rules[place] = sorted({*self.rules[place], self.rng.choice(GLOBS)})
        self.write()

    def do(self, *argv: str, cwd: Path, of_job: bool) -> Done:
        """A command from a directory; whatever it does, it does not reach what the rules that apply there protect."""
        places = ["user"]
        if of_job or self.team in (cwd, *cwd.parents):
            places.append("team")
        if of_job:
            places.append("job")
        globs = [Glob(glob, Place(place), fold=True) for place in places for glob in self.rules[place]]
        keep = max(self.keep[place] for place in places)
        before = admins(self.backend.world, self.fleet)
        done = self.desk.run(*argv, "--yes", "--json", cwd=cwd)
        told = f"{' '.join(argv)} in {cwd}: {done.text}"
        assert done.code in (0, 1, 3, 4, 5), told
        writes = self.backend.writes()
        for arrival in writes[self.seen :]:
            hit = [glob for glob in globs if glob.matches(arrival.instance, arrival.user)]
            assert not hit, f"{arrival.action} reached {arrival.instance}/{arrival.user}, protected by {hit}: {told}"
        self.seen = len(writes)
        for instance, left in admins(self.backend.world, self.fleet).items():
            assert left >= min(keep, before[instance]), f"{instance} has {left} of {before[instance]} admins: {told}"
        return done

    def run_of(self, done: Done) -> str | None:
        """The run that a command made, if it made one."""
        return done.json.get("run") if done.code in (0, 1, 4, 5) else None


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_verb_from_no_directory_reaches_a_protected_account(tmp_path: Path, seed: int) -> None:
    """run, resume, rerun, undo, undo of the undo, ad hoc; rules of the user, of the team and of the job, some of them
    written while the run was stopped."""
    rng = random.Random(seed)
    fleet = random_fleet(rng)
    fatal = {"action": "LockAccount", "after": rng.randint(0, 3), "times": 1, "code": "AuthFailure.TokenFailure"}
    trouble = {"action": "LockAccount", "probability": 0.1, "code": "InvalidParameter"}
    world = world_of(fleet, faults=rules_from([fatal, trouble]), quotas={"*": None}, seed=seed, audit=None)
    with Backend(world) as backend:
        desk = Desk(tmp_path)
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        desk.env["ACCTOPS_RATE"] = "1000"
        site = Site(desk, backend, rng, fleet)

        def anywhere() -> Path:
            return rng.choice(site.places)

        run = site.run_of(site.do("run", str(site.jobs / "job.yaml"), cwd=anywhere(), of_job=True))
        for _ in range(8):
            if rng.random() < 0.4:
                site.add_rule()
            verb = rng.choice(("resume", "rerun", "undo", "lock", "unlock", "cam-on"))
            if verb in ("lock", "unlock", "cam-on"):
                some = rng.sample(site.targets, rng.randint(1, len(site.targets)))
                site.do(verb, *some, "--region", REGION, cwd=anywhere(), of_job=False)
            elif run is not None:
                run = site.run_of(site.do(verb, run, cwd=anywhere(), of_job=True)) or run
        assert site.seen or not run


# ---- one way at a time ---------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Two accounts that are to be locked, one of them an admin beside another; no rule anywhere."""
    fleet = {"postgres-00000000": {user: {"type": SUPERUSER} for user in ("root", "dba")} | {"app": {}}}
    with Backend(world_of(fleet, quotas={"*": None}, audit=None)) as backend:
        desk = Desk(tmp_path)
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        desk.env["ACCTOPS_RATE"] = "1000"
        site = Site(desk, backend, random.Random(0), fleet)
        for place in site.rules:
            site.rules[place], site.keep[place] = [], 0
        site.targets = [f"postgres-00000000/{user}" for user in ("root", "app")]
        site.write()
        yield site


def states(site: Site) -> dict[str, int]:
    its = site.backend.world.instance("postgres-00000000")
    assert its is not None
    return {name: account.status for name, account in its.accounts.items()}


@pytest.mark.parametrize("place", ["user", "team", "job"])
def test_a_rule_written_after_the_run_holds_for_its_undo_and_for_the_undo_of_that(site: Site, place: str) -> None:
    """From another directory, too: an undo stands under the guards of the job it goes back to."""
    elsewhere = site.desk.place / "home"
    run = site.run_of(site.do("run", str(site.jobs / "job.yaml"), cwd=elsewhere, of_job=True))
    assert run is not None
    undone = site.run_of(site.do("undo", run, cwd=elsewhere, of_job=True))
    assert undone is not None
    assert states(site) == {"root": NORMAL, "dba": NORMAL, "app": NORMAL}
    site.rules[place] = ["*/root"]
    site.write()
    redone = site.run_of(site.do("undo", undone, cwd=elsewhere, of_job=True))
    assert redone is not None
    assert states(site) == {"root": NORMAL, "dba": NORMAL, "app": LOCKED}
    site.rules[place] = ["*/app"]
    site.write()
    site.do("undo", redone, cwd=elsewhere, of_job=True)
    assert states(site) == {"root": NORMAL, "dba": NORMAL, "app": LOCKED}


def test_what_goes_on_from_an_ad_hoc_run_stands_under_the_guards_of_its_directory(site: Site) -> None:
    """`acctops lock` has no job file: the directory it was typed in is remembered."""
    run = site.run_of(site.do("lock", *site.targets, "--region", REGION, cwd=site.team, of_job=False))
    assert run is not None
    site.rules["team"] = ["*/app"]
    site.write()
    site.do("undo", run, cwd=site.desk.place / "home", of_job=True)
    assert states(site) == {"root": NORMAL, "dba": NORMAL, "app": LOCKED}


def test_a_guard_the_job_has_got_since_holds_for_its_rerun(site: Site) -> None:
    """keep_admins, not only protect."""
    site.backend.world._faults = FaultScript(
        rules_from([{"action": "LockAccount", "times": 2, "code": "InvalidParameter"}]), random.Random(0)
    )
    run = site.run_of(site.do("run", str(site.jobs / "job.yaml"), cwd=site.desk.work, of_job=True))
    assert run is not None
    assert states(site) == dict.fromkeys(("root", "dba", "app"), NORMAL)
    site.keep["job"] = 2
    site.write()
    site.do("rerun", run, cwd=Path("/"), of_job=True)
    assert states(site) == {"root": NORMAL, "dba": NORMAL, "app": LOCKED}


@pytest.mark.parametrize("trouble", [{"code": "InternalError"}, {"status": 502}, {"code": "RequestLimitExceeded"}])
def test_a_stricter_keep_admins_holds_for_what_an_earlier_session_had_begun(
    tmp_path: Path, trouble: dict[str, Any]
) -> None:
    """Sent once and not applied: the guard of today decides whether it is sent again, and says so."""
    fleet = {"postgres-00000000": {"root": {"type": SUPERUSER}, "app": {}}}
    faults = rules_from([{"action": "LockAccount", "user": "root", "times": 1, **trouble}])
    world = world_of(fleet, faults=faults, latency=0.05)
    targets = [Target("postgres-00000000", user, REGION) for user in ("root", "app")]

    async def stop(runner: Runner) -> None:
        while not world.audit or world.audit[-1].action != "LockAccount":
            await asyncio.sleep(0.01)
        runner.stop("enough", Reason.INTERRUPTED)

    drill = Drill(tmp_path, world, targets, seeded=False, during=stop).go()
    assert [arrival.user for arrival in world.audit if arrival.action == "LockAccount"][:1] == ["root"]
    drill.keep_admins, drill.during = 1, None
    drill.go()
    assert admins(world, fleet) == {"postgres-00000000": 1}
    (sent,) = [arrival for arrival in world.audit if (arrival.action, arrival.user) == ("LockAccount", "root")]
    assert not sent.applied
    assert [call.user for call, _, outcome in drill.ledger.outcomes() if outcome == "changed"] == ["app"]
    said = [entry.message for call, entry, _ in drill.ledger.outcomes() if call.user == "root"]
    assert said or [omit.rule for omit in drill.ledger.omits] == ["keep_admins: 1"]
