"""`--local`: a run in files beside the database that everything names, at a share of the quota, and loudly."""

from __future__ import annotations

import pytest

from engine.errors import UsageError
from engine.inputs.config import Configs, parse_config
from engine.inputs.settings import Flags, effective
from engine.simulator.world import World
from tests.support.command import Backend, Desk

NOBODY = "postgresql://127.0.0.1:9/nobody-listens"
"""Nobody listens on the discard port."""


def test_a_run_goes_on_without_the_database_that_all_name(desk: Desk) -> None:
    """Its journal is a file, what it prints to go on with names the directory, and it says what it does not know."""
    desk.write("config.yaml", f"state: {NOBODY}\n")
    desk.job()
    del desk.env["ACCTOPS_STATE_DIR"]
    world = World(quotas={"*": None}, latency=0.01)
    world.seed("postgres-aaaaaaaa", "ap-singapore", ["ann", "bob"])
    world.seed("postgres-bbbbbbbb", "ap-singapore", ["eve"])
    with Backend(world) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        assert desk.run("run", "job.yaml", "--yes").code == 4
        assert not backend.writes()
        done = desk.run("run", "job.yaml", "--yes", "--local", "--json")
        assert done.code == 0, done.text
        assert "WORKS BESIDE THE DATABASE" in done.err and "50% of the quota" in done.err
        kept = desk.place / "xdg-state" / "acctops"
        assert done.json["journal"].startswith(str(kept))
        assert desk.run("undo", done.json["run"], "--local", "--yes").code == 0
        assert desk.run("status", done.json["run"], "--state-dir", kept).code == 0


@pytest.mark.parametrize(
    ("config", "environ", "flags", "rate"),
    [
        ("", {}, {}, 10),
        ("quotas: {local: 20%}\n", {}, {}, 4),
        ("quotas: {share: 10%, local: 50%}\n", {}, {}, 2),
        ("rate: 18\n", {}, {}, 10),
        ("rate: 3\n", {}, {}, 3),
        ("", {"ACCTOPS_RATE": "18"}, {}, 10),
        ("", {}, {"rate": "18"}, 18),
    ],
)
def test_it_uses_a_declared_share_of_the_quota(
    config: str, environ: dict[str, str], flags: dict[str, str], rate: float
) -> None:
    """Half by default; a rate of a file counts below it only, and one that a flag names is the operator's word."""
    configs = Configs(files=(parse_config(config.encode(), "c.yaml"),), looked_in=("c.yaml",))
    settings = effective(Flags(local=True, **flags), {"HOME": "/home/op", **environ}, None, configs)
    assert settings.database is None and settings.origin["database"] == "--local"
    assert settings.rate_for("LockAccount") == rate
    assert len(settings.warnings) == 1


def test_it_is_one_or_the_other(desk: Desk) -> None:
    """`--local` and a database that a flag names contradict one another; one of the environment is passed over."""
    with pytest.raises(UsageError, match="--local and --database"):
        effective(Flags(local=True, database=NOBODY), {"HOME": "/home/op"}, None, Configs(files=(), looked_in=()))
    desk.job()
    refused = desk.run("run", "job.yaml", "--yes", "--local", "--detach")
    assert refused.code == 2 and "--detach" in refused.err and "Traceback" not in refused.text
