"""`acctops doctor` on keys: which source won, whose they are, until when; and what CAM must allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.sts import KeyRecord, Role
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done

ROLE = Role(name="acctops")
USER = "100000000007"


def world(**settings: Any) -> World:
    denied = settings.pop("denied", frozenset())
    key = KeyRecord(secret_key=DEMO_SECRET_KEY, identity=USER, denied=denied)
    return World(keys={DEMO_SECRET_ID: key}, roles=(ROLE,), **settings)


def doctor(desk: Desk, backend: Backend, *argv: str) -> tuple[Done, dict[str, list[str]]]:
    done = desk.run("doctor", *argv, "--json", "--endpoint", backend.endpoint)
    said: dict[str, list[str]] = {}
    for check in done.json["checks"]:
        said.setdefault(check["check"], []).append(f"{check['result']} {check['words']}")
    assert DEMO_SECRET_KEY not in done.text
    return done, said


def no_keys(desk: Desk) -> None:
    del desk.env["TENCENTCLOUD_SECRET_ID"], desk.env["TENCENTCLOUD_SECRET_KEY"]


def test_it_says_which_source_won_for_whom_and_until_when(desk: Desk) -> None:
    """Of the environment, of a role on top, of the instance."""
    with Backend(world(metadata_role=Role(name="cvm", longest_s=600))) as backend:
        done, said = doctor(desk, backend)
        assert done.code == 0
        assert said["credentials"] == ["ok environment, key …0KEY, no end; cannot be renewed in a run that goes on"]
        assert said["identity"][0].startswith(f"ok sub-account {USER} of account 100000000001 (qcs::cam::uin/")
        desk.env |= {"TENCENTCLOUD_ROLE_ARN": ROLE.arn, "TENCENTCLOUD_ROLE_SESSION_NAME": "ann"}
        _, said = doctor(desk, backend)
        assert said["credentials"][0].startswith("ok role acctops of 100000000001, through environment, key …")
        assert "(in 2 h 0 min), renewed before" in said["credentials"][0]
        assert "assumed-role/acctops/ann-doctor" in said["identity"][0]
        del desk.env["TENCENTCLOUD_ROLE_ARN"], desk.env["TENCENTCLOUD_ROLE_SESSION_NAME"]
        no_keys(desk)
        _, said = doctor(desk, backend)
        assert said["credentials"][0].startswith("ok role of this instance (metadata service), key …")
        assert "(in 10 min), renewed before" in said["credentials"][0]
        tokens = [str(record.token) for record in backend.world.keys.values() if record.token]
        assert tokens
        assert not any(token in text for token in tokens for text in desk.said)


def test_files_that_others_can_read_are_a_warning(desk: Desk) -> None:
    """Not an error: at 3 a.m. they still serve."""
    no_keys(desk)
    path = desk.place / "home" / ".tccli" / "default.credential"
    path.parent.mkdir()
    path.write_text(json.dumps({"secretId": DEMO_SECRET_ID, "secretKey": DEMO_SECRET_KEY}))
    path.chmod(0o644)
    with Backend(world()) as backend:
        done, said = doctor(desk, backend)
    assert done.code == 0
    assert said["credentials"][1] == f"warn {path}: others can read or write these keys; chmod 600 {path}"


def test_a_config_may_name_a_command_and_a_role(desk: Desk) -> None:
    """Its program runs, its role is assumed, its way to STS is used, and the rest of the command is as always."""
    no_keys(desk)
    keys = json.dumps({"secret_id": DEMO_SECRET_ID, "secret_key": DEMO_SECRET_KEY})
    with Backend(world(), ports=2) as backend:
        desk.write(
            "config.yaml",
            f"credentials:\n  command: [printf, '%s', '{keys}']\n  role_arn: {ROLE.arn}\n  duration: 15m\n"
            f"  sts: {backend.endpoints[1]}\n",
        )
        _, said = doctor(desk, backend)
        assert "role acctops of 100000000001, through credential command printf" in said["credentials"][0]
        assert "(in 15 min)" in said["credentials"][0]
        asked = [arrival.access for arrival in backend.world.audit if arrival.action == "AssumeRole"]
        assert asked == [backend.endpoints[1].removeprefix("http://")]
        desk.job()
        done = desk.run("run", "job.yaml", "--yes", "--json", "--endpoint", backend.endpoint)
        assert done.code == 0
        run = done.json["run"]
        sessions = {record.role for record in backend.world.keys.values() if record.role}
        assert f"acctops:acctops-{run}" in sessions, "the vendor's audit log names the run"


def test_a_denial_prints_the_smallest_policy_to_paste(desk: Desk) -> None:
    """Exit 5; in JSON too. Never without a job."""
    desk.job()
    with Backend(world(denied=frozenset({"DescribeAccounts"}))) as backend:
        done, said = doctor(desk, backend, "job.yaml")
        assert done.code == 5
        assert said["permission"][0].startswith("fail accounts of postgres-aaaaaaaa in ap-singapore: CAM does not let")
        assert "[AuthFailure.UnauthorizedOperation] (RequestId " in said["permission"][0]
        resources = done.json["policy"]["statement"][0]["resource"]
        assert resources == [
            f"qcs::postgres:ap-singapore:uin/100000000001:DBInstanceId/postgres-{letter * 8}" for letter in "ab"
        ]
        text = desk.run("doctor", "job.yaml", "--endpoint", backend.endpoint)
        assert json.loads(text.out[text.out.index("\n{") :]) == done.json["policy"]
    with Backend(world()) as backend:
        asked, _ = doctor(desk, backend, "job.yaml", "--policy")
        assert asked.json["policy"] == done.json["policy"]
        nothing = desk.run("doctor", "--policy", "--endpoint", backend.endpoint)
        assert nothing.code == 2
        assert "name the job" in nothing.err


@pytest.mark.parametrize("denied", [frozenset[str](), frozenset({"LockAccount"})])
def test_a_write_is_not_said_to_be_allowed_before_it_was_tried(desk: Desk, denied: frozenset[str]) -> None:
    """Only doing it would tell: that is said, with the policy to compare, whether CAM would deny it or not."""
    job = desk.job()
    with Backend(world(denied=denied)) as backend:
        done, said = doctor(desk, backend, "job.yaml")
        assert done.code == 0 and not backend.writes()
        assert said["permission"] == [
            "ok accounts of postgres-aaaaaaaa in ap-singapore may be read",
            "warn whether CAM allows LockAccount cannot be tried without sending it: compare the policy below",
        ]
        assert "postgres:LockAccount" in done.json["policy"]["statement"][0]["action"]
        text = desk.run("doctor", job, "--endpoint", backend.endpoint).out
        assert json.loads(text[text.index("\n{") :]) == done.json["policy"]


def test_each_account_of_a_job_is_asked_about_its_own(desk: Desk) -> None:
    """Its own instances with its own keys; what one is denied is its own policy, by its own uin, and no other's."""
    other = KeyRecord(secret_key="other", uin="100000000002", denied=frozenset({"DescribeAccounts"}))
    good = KeyRecord(secret_key="good", uin="100000000001")
    folder = Path(desk.env["HOME"]) / ".tccli"
    folder.mkdir()
    for name in ("good", "other", "gone"):
        (folder / f"{name}.credential").write_text(json.dumps({"secretId": f"AKID{name}", "secretKey": name}))
        (folder / f"{name}.credential").chmod(0o600)
    desk.write(
        "several.yaml",
        "action: LockAccount\nregion: ap-tokyo\naccounts: [gone, good, other]\ntargets:\n"
        "  - {instance: postgres-aaaaaaaa, user: a, account: good}\n"
        "  - {instance: postgres-bbbbbbbb, user: b, account: other}\n"
        "  - {instance: postgres-cccccccc, user: c, account: gone}\n",
    )
    there = World(keys={"AKIDgood": good, "AKIDother": other})
    there.seed("postgres-aaaaaaaa", "ap-tokyo", ["a"], uin=good.uin)
    there.seed("postgres-bbbbbbbb", "ap-tokyo", ["b"], uin=other.uin)
    with Backend(there) as backend:
        done, said = doctor(desk, backend, "several.yaml")
        assert done.code == 5
        assert said["endpoint"][0].startswith("fail gone: ")
        assert said["permission"][0] == "ok good: accounts of postgres-aaaaaaaa in ap-tokyo may be read"
        assert said["permission"][2].startswith("fail other: accounts of postgres-bbbbbbbb in ap-tokyo: CAM does not")
        assert len(said["permission"]) == 3
        own = "qcs::postgres:ap-tokyo:uin/100000000002:DBInstanceId/postgres-bbbbbbbb"
        assert sorted(done.json["policy"]) == ["good", "other"]
        assert done.json["policy"]["other"]["statement"][0]["resource"] == [own]
        asked, _ = doctor(desk, backend, "several.yaml", "--policy")
        assert sorted(asked.json["policy"]) == ["gone", "good", "other"]


def test_the_policy_of_a_match_names_where_it_looks(desk: Desk) -> None:
    """Nobody knows yet what it finds; a policy without a resource would allow nothing."""
    desk.write(
        "asks.yaml",
        "action: LockAccount\ntargets:\n"
        "  - match: {regions: [ap-tokyo], instances: {ids: postgres-aaaaaaaa}, users: {glob: 'a*'}}\n"
        "  - match: {regions: [ap-seoul], users: {glob: 'a*'}}\n"
        "  - match: {regions: all, users: {glob: 'z*'}}\n",
    )
    with Backend(world()) as backend:
        done, _ = doctor(desk, backend, "asks.yaml", "--policy")
        assert done.json["policy"]["statement"][0]["resource"] == [
            "qcs::postgres:ap-tokyo:uin/100000000001:DBInstanceId/postgres-aaaaaaaa",
            "qcs::postgres:ap-seoul:uin/100000000001:DBInstanceId/*",
            "qcs::postgres::uin/100000000001:DBInstanceId/*",
        ]


def test_a_key_of_the_other_site_is_hinted_at(desk: Desk) -> None:
    """The likeliest reason why a good key "does not exist"."""
    desk.env["TENCENTCLOUD_SECRET_ID"] = "AKIDmainland"
    with Backend(world()) as backend:
        done, said = doctor(desk, backend)
        assert done.code == 5
        assert "if the keys are of the other, say `site: mainland` in config.yaml" in said["endpoint"][0]
        assert "acctops resume" not in done.out, "there is no run"
        desk.write("config.yaml", "site: mainland\n")
        _, said = doctor(desk, backend)
        assert "this is the mainland site" in said["endpoint"][0]


def test_who_it_is_is_no_condition(desk: Desk) -> None:
    """STS away: a warning, everything else is examined."""
    desk.write("config.yaml", "credentials: {sts: 'http://127.0.0.1:9'}\n")
    with Backend(world()) as backend:
        done, said = doctor(desk, backend)
    assert done.code == 0
    assert said["identity"][0].startswith("warn not known: GetCallerIdentity: http://127.0.0.1:9: cannot be reached")


def test_a_run_over_a_roles_keys_is_resumed_and_undone(desk: Desk) -> None:
    """The role is found again from the environment and config; another source is another identity."""
    desk.env |= {"TENCENTCLOUD_ROLE_ARN": ROLE.arn, "TENCENTCLOUD_ROLE_SESSION_NAME": "ann"}
    desk.job()
    there = world()
    there.seed("postgres-aaaaaaaa", "ap-singapore", ["ann", "bob"])
    there.seed("postgres-bbbbbbbb", "ap-singapore", ["eve"])
    with Backend(there) as backend:
        assert desk.run("run", "job.yaml", "--yes", "--endpoint", backend.endpoint).code == 0
        run = desk.journal().parent.name
        assert desk.records("run")[0]["identity"] == "role acctops of 100000000001"
        assert desk.run("verify", run).code == 0
        del desk.env["TENCENTCLOUD_ROLE_ARN"], desk.env["TENCENTCLOUD_ROLE_SESSION_NAME"]
        there.keys["AKIDFOREIGN"] = KeyRecord(secret_key="foreign", uin="100000000099", identity="u99")
        own = {name: desk.env[name] for name in ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY")}
        desk.env |= {"TENCENTCLOUD_SECRET_ID": "AKIDFOREIGN", "TENCENTCLOUD_SECRET_KEY": "foreign"}
        other = desk.run("undo", run, "--yes")
        assert other.code == 5, other.text
        desk.env |= own
        desk.env |= {"TENCENTCLOUD_ROLE_ARN": ROLE.arn, "TENCENTCLOUD_ROLE_SESSION_NAME": "ann"}
        assert desk.run("undo", run, "--yes").code == 0


def test_the_program_of_a_config_stands_beside_it(desk: Desk) -> None:
    """A timer starts in /, a person anywhere: the same config finds the same keys."""
    no_keys(desk)
    keys = json.dumps({"secret_id": DEMO_SECRET_ID, "secret_key": DEMO_SECRET_KEY})
    desk.write("tools/keys", f"#!/bin/sh\necho '{keys}'\n").chmod(0o700)
    config = desk.write("tools/config.yaml", "credentials: {command: [./keys]}\n")
    with Backend(world()) as backend:
        done, said = doctor(desk, backend, "--config", str(config))
    assert said["credentials"][0].startswith("ok credential command keys, key "), done.text
