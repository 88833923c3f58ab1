"""Keys that are wrong, end, or cannot be had: what the command answers, by itself and in the middle of a run."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.faults import rules_from
from engine.simulator.sts import KeyRecord, Role
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done, wait_until

ROLE = Role(name="acctops", trusted=frozenset({"100000000007"}))
RUN = ("run", "job.yaml", "--yes", "--quiet")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    made.job()
    return made


def bare(desk: Desk) -> Path:
    """No keys in the environment; the home directory."""
    del desk.env["TENCENTCLOUD_SECRET_ID"], desk.env["TENCENTCLOUD_SECRET_KEY"]
    return desk.place / "home"


def private(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def refused(desk: Desk, done: Done, *words: str, code: int = 5) -> None:
    """One message, in words, on stderr; no traceback, no run, and no secret."""
    assert done.code == code, done.text
    assert done.out == ""
    assert done.err.startswith("acctops: ")
    for word in words:
        assert word in done.err
    assert "Traceback" not in done.err
    assert "hunter2" not in done.err
    assert not desk.journals()


# ---- before anything is sent ---------------------------------------------------------------------------------------


def test_an_expired_login_is_told_and_what_to_do(desk: Desk) -> None:
    """Of the vendor's CLI: when, and how to log in."""
    found = {"type": "oauth", "secretId": "AKIDx", "secretKey": "hunter2", "token": "hunter2", "expiresAt": 1_000}
    private(bare(desk) / ".tccli" / "default.credential", json.dumps(found))
    refused(desk, desk.run(*RUN), "tccli profile default: its keys expired at 1970-01-01T00:16:40Z", "tccli auth login")


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_no_reason_to_take_another(desk: Desk) -> None:
    """It would act as somebody else."""
    home = bare(desk)
    private(home / ".tencentcloud" / "credentials", "[default]\nsecret_id=AKIDx\nsecret_key=hunter2\n")
    private(home / ".tccli" / "default.credential", "{}").chmod(0)
    refused(desk, desk.run(*RUN), "default.credential: cannot be read (Permission denied)")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("command: [nobody-there]", ["credential command nobody-there: cannot be started: No such file"]),
        ("command: [sh, -c, 'echo hunter2hunter2; exit 3']", ["credential command sh: exit status 3"]),
        ("command: [echo, hunter2]", ["credential command echo: printed something else than JSON", "it must print {"]),
        ("role_arn: 'qcs::cam::uin/1:roleName/gone'", ["no API keys: looked in"]),
    ],
)
def test_a_configured_source_that_fails(desk: Desk, config: str, words: list[str]) -> None:
    """The program, what it did, what it should do; never what it printed."""
    bare(desk)
    desk.write("config.yaml", f"credentials:\n  {config}\n")
    refused(desk, desk.run(*RUN), *words)


def test_a_credential_command_that_never_ends_is_left_by_ctrl_c(desk: Desk) -> None:
    """Before anything was sent; the program is gone, too."""
    bare(desk)
    mark = desk.work / "pid"
    desk.write("config.yaml", f"credentials:\n  command: [sh, -c, 'echo $$ > {mark}; exec sleep 1000']\n")
    process = desk.popen(*RUN)
    wait_until(lambda: mark.exists() and mark.read_text().endswith("\n"))
    os.kill(process.pid, signal.SIGINT)
    done = desk.end(process)
    assert done.code == 130
    assert "before anything was sent" in done.err
    assert not desk.journals()
    pid = int(mark.read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"TENCENTCLOUD_SECRET_KEY_FILE": "/x"}, ["TENCENTCLOUD_SECRET_KEY and TENCENTCLOUD_SECRET_KEY_FILE are both"]),
        (
            {"TENCENTCLOUD_SECRET_KEY": "", "TENCENTCLOUD_SECRET_KEY_FILE": "/nowhere/key"},
            [
                "TENCENTCLOUD_SECRET_KEY_FILE: /nowhere/key: cannot be read (No such file",
                "; correct TENCENTCLOUD_SECRET_K",
            ],
        ),
        (
            {"TENCENTCLOUD_SECRET_KEY": "", "TENCENTCLOUD_SECRET_KEY_FILE": "/dev/null"},
            ["TENCENTCLOUD_SECRET_KEY_FILE: /dev/null: is empty; write the value into it"],
        ),
        (
            {"TENCENTCLOUD_ROLE_ARN": "admin", "TENCENTCLOUD_ROLE_SESSION_NAME": "ann"},
            ["TENCENTCLOUD_ROLE_ARN: 'admin' is no role: expected qcs::cam::uin/UIN:roleName/NAME"],
        ),
    ],
)
def test_variables_that_cannot_be(desk: Desk, variables: dict[str, str], words: list[str]) -> None:
    """Which of them, and what it should be."""
    desk.env |= variables
    refused(desk, desk.run(*RUN), *words)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        (
            "HTTPS_PROXY",
            "socks5://op:hunter2@x:1",
            "HTTPS_PROXY: expected http://host:port or",
        ),
        ("ACCTOPS_CA_BUNDLE", "/nowhere/ca.pem", "ACCTOPS_CA_BUNDLE: /nowhere/ca.pem cannot be read: No such file"),
    ],
)
def test_a_way_out_that_cannot_be(desk: Desk, variable: str, value: str, words: str) -> None:
    """A mistake of the environment's is not an outage."""
    desk.env[variable] = value
    done = desk.run(*RUN, "--endpoint", "https://postgres.nowhere.invalid")
    refused(desk, done, words, code=2)


def world(**settings: Any) -> World:
    key = KeyRecord(secret_key=DEMO_SECRET_KEY, identity=settings.pop("identity", "100000000007"))
    made = World(keys={DEMO_SECRET_ID: key}, roles=(ROLE,), **settings)
    made.seed("postgres-aaaaaaaa", "ap-singapore", ["ann", "bob"])
    made.seed("postgres-bbbbbbbb", "ap-singapore", ["eve"])
    return made


def test_a_role_without_permission(desk: Desk) -> None:
    """Its trust policy does not name these keys: told with code and RequestId, before anything is read or sent."""
    desk.env |= {"TENCENTCLOUD_ROLE_ARN": ROLE.arn, "TENCENTCLOUD_ROLE_SESSION_NAME": "ann"}
    with Backend(world(identity="somebody-else")) as backend:
        done = desk.run(*RUN, "--endpoint", backend.endpoint)
        (asked,) = backend.world.audit
    refused(desk, done, "role acctops of 100000000001, through environment", "may not assume this role", "trust policy")
    assert f"[UnauthorizedOperation] (RequestId {asked.request_id})" in done.err


def test_roles_in_a_circle(desk: Desk) -> None:
    """Named link by link, before anybody is asked."""
    home = bare(desk)
    found = {"secretId": DEMO_SECRET_ID, "secretKey": DEMO_SECRET_KEY, "role-arn": ROLE.arn, "role-session-name": "ann"}
    private(home / ".tccli" / "prod.credential", json.dumps(found))
    desk.write("config.yaml", f"profile: prod\ncredentials: {{role_arn: '{ROLE.arn}'}}\n")
    with Backend(world()) as backend:
        refused(desk, desk.run(*RUN, "--endpoint", backend.endpoint), f"in a circle: {ROLE.arn} → {ROLE.arn}")
        assert not backend.world.audit


def test_a_metadata_service_that_hangs_does_not_hang_the_command(desk: Desk) -> None:
    """After two seconds the other places are named, and this one among them."""
    bare(desk)
    with Backend(world(faults=rules_from([{"action": "Metadata", "hang": True}]))) as backend:
        done = desk.run(*RUN, "--endpoint", backend.endpoint)
    refused(desk, done, "no API keys: looked in", "metadata service", "no answer within 2 s")


# ---- in the middle of a run ----------------------------------------------------------------------------------------


def test_temporary_keys_of_the_environment_end_in_the_middle(desk: Desk) -> None:
    """The run stops in order, exit 4, and prints the line that goes on; with new keys in the environment it does."""
    desk.job(*(f"postgres-aaaaaaaa/user{number}" for number in range(30)))
    desk.env["TENCENTCLOUD_TOKEN"] = "token-one"
    key = {"secret_key": DEMO_SECRET_KEY, "identity": "x"}
    there = World(keys={DEMO_SECRET_ID: KeyRecord(token="token-one", **key)})
    there.seed("postgres-aaaaaaaa", "ap-singapore", [f"user{number}" for number in range(30)])
    with Backend(there) as backend:
        process = desk.popen("run", "job.yaml", "--yes", "--rate", "5", "--endpoint", backend.endpoint)
        desk.wait_for("reply", 3)
        there.keys[DEMO_SECRET_ID] = KeyRecord(token="token-one", expires_at=time.time() - 1, **key)
        done = desk.end(process)
        assert done.code == 4
        run = desk.journal().parent.name
        assert "AuthFailure.TokenFailure" in done.text
        assert f"go on:  acctops resume {run}" in done.text
        there.keys[DEMO_SECRET_ID] = KeyRecord(token="token-two", **key)
        desk.env["TENCENTCLOUD_TOKEN"] = "token-two"
        again = desk.run("resume", run, "--yes")
    assert again.code == 0, again.text
    assert "token-one" not in "".join(desk.said) + desk.journal().read_text()


def test_a_file_that_is_renewed_in_the_middle_is_taken_up(desk: Desk) -> None:
    """As `tccli auth login` writes it, in another shell: not one call fails, and the journal notes the new key."""
    path = bare(desk) / ".tccli" / "default.credential"

    def login(name: str) -> None:
        new = path.with_suffix(".new")
        private(new, json.dumps({"secretId": f"AKID{name}", "secretKey": name * 10, "expiresAt": time.time() + 3600}))
        new.replace(path)

    path.parent.mkdir()
    login("one")
    desk.job(*(f"postgres-aaaaaaaa/user{number}" for number in range(25)))
    there = World(keys={"AKIDone": KeyRecord(secret_key="one" * 10, identity="x")})
    there.seed("postgres-aaaaaaaa", "ap-singapore", [f"user{number}" for number in range(25)])
    with Backend(there) as backend:
        process = desk.popen("run", "job.yaml", "--yes", "--rate", "8", "--endpoint", backend.endpoint)
        desk.wait_for("reply", 3)
        there.keys["AKIDtwo"] = KeyRecord(secret_key="two" * 10, identity="x")
        login("two")
        del there.keys["AKIDone"]
        done = desk.end(process)
    assert done.code == 0, done.text
    assert {sent["key"] for sent in desk.records("sent")} == {"…Done", "…Dtwo"}
    assert not any(settled["outcome"] != "changed" for settled in desk.records("settled"))
