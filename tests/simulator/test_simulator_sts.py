"""The simulator's accounts: keys that end, roles, STS and the metadata service, judged by the pages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.simulator.documents import DocumentError
from engine.simulator.sts import METADATA_PATH, KeyRecord, Role
from engine.simulator.tenants import parse_tenants
from engine.simulator.world import World
from tests.support.simulated import INSTANCE, NOW, Caller

STS = {"version": "2018-08-13", "service": "sts", "region": "ap-guangzhou"}
ONE = {"secret_id": "AKIDONE", "secret_key": "secret-one"}
TWO = {"secret_id": "AKIDTWO", "secret_key": "secret-two"}
KEYS = {
    "AKIDONE": KeyRecord(secret_key="secret-one", identity="11", uin="1"),
    "AKIDTWO": KeyRecord(secret_key="secret-two", identity="22", uin="2", denied=frozenset({"LockAccount"})),
}
PORT = "127.0.0.1:9900"


def caller(**settings: Any) -> Caller:
    return Caller(World(keys=dict(KEYS), **settings), access=PORT)


def assume(it: Caller, role: Role, **parameters: Any) -> dict[str, Any]:
    return it.call("AssumeRole", {"RoleArn": role.arn, "RoleSessionName": "run-1", **parameters}, **STS, **ONE)


def test_accounts_see_their_own_instances_only() -> None:
    """Of another account's instance nothing is there, and it is in nobody else's list."""
    it = caller()
    it.world.seed(INSTANCE, "ap-singapore", ["app_user"], uin="1")
    assert it.write("LockAccount", **ONE) is None
    assert it.code("DescribeAccounts", {"DBInstanceId": INSTANCE}, **TWO) == "ResourceNotFound.InstanceNotFoundError"
    assert it.call("DescribeDBInstances", {}, **TWO)["TotalCount"] == 0
    assert it.call("DescribeDBInstances", {}, **ONE)["TotalCount"] == 1


def test_what_cam_denies_is_refused_whatever_the_target() -> None:
    """And nothing is applied."""
    it = caller()
    assert it.write("LockAccount", **TWO) == "AuthFailure.UnauthorizedOperation"
    assert it.write("UnlockAccount", **TWO) is None


def test_keys_end() -> None:
    """From that second on, by the server's clock."""
    keys = {"AKIDONE": KeyRecord(secret_key="secret-one", token="t", expires_at=NOW + 5)}
    it = Caller(World(keys=keys), access=PORT)
    assert it.write("LockAccount", at=NOW + 4, token="t", **ONE) is None
    assert it.write("LockAccount", at=NOW + 5, token="t", **ONE) == "AuthFailure.TokenFailure"


def test_a_role_gives_keys_that_serve_and_end() -> None:
    """As the AssumeRole page says; they are its main account's."""
    role = Role(name="acctops", uin="2", longest_s=20)
    it = caller(roles=(role,))
    said = assume(it, role)
    assert said["ExpiredTime"] == NOW + 20
    made = said["Credentials"]
    session = {"secret_id": made["TmpSecretId"], "secret_key": made["TmpSecretKey"], "token": made["Token"]}
    who = it.call("GetCallerIdentity", {}, **STS, **session)
    assert (who["AccountId"], who["UserId"], who["Type"]) == ("2", "acctops:run-1", "CAMRole")
    assert it.write("LockAccount", **session) is None
    assert it.write("LockAccount", **(session | {"token": None})) == "AuthFailure.TokenFailure"
    assert it.write("LockAccount", at=NOW + 21, **session) == "AuthFailure.TokenFailure"


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"RoleArn": "qcs::cam::uin/1:roleName/gone"}, "ResourceNotFound.RoleNotFound"),
        ({"RoleSessionName": "with blank"}, "InvalidParameter.ParamError"),
        ({"DurationSeconds": 43_201}, "InvalidParameter.OverTimeError"),
        ({"DurationSeconds": "7200"}, "InvalidParameter"),
        ({"Duration": 1}, "UnknownParameter"),
    ],
)
def test_what_assume_role_refuses(parameters: dict[str, Any], code: str) -> None:
    """With the codes its page lists."""
    role = Role(name="acctops")
    assert assume(caller(roles=(role,)), role, **parameters)["Error"]["Code"] == code


def test_a_role_may_trust_some_only() -> None:
    """Its trust policy."""
    role = Role(name="acctops", trusted=frozenset({"22"}))
    assert assume(caller(roles=(role,)), role)["Error"]["Code"] == "UnauthorizedOperation"


def test_a_request_is_of_one_service() -> None:
    """The scope of the signature must say which; STS and the product answer their own actions only."""
    it = caller()
    assert it.code("GetCallerIdentity", {}, **(STS | {"service": "postgres"}), **ONE) == (
        "AuthFailure.InvalidAuthorization"
    )
    assert it.code("DescribeRegions", {}, service="sts", **ONE) == "AuthFailure.InvalidAuthorization"
    assert it.code("DescribeRegions", {}, **STS, **ONE) == "NoSuchVersion"
    for host, action, signing in (
        ("postgres.intl.tencentcloudapi.com", "GetCallerIdentity", STS),
        ("sts.intl.tencentcloudapi.com", "DescribeRegions", {}),
    ):
        there = Caller(it.world, access=host)
        assert there.code(action, {}, **signing, **ONE) == "InvalidAction"
    assert Caller(it.world, access="sts.tencentcloudapi.com").code("GetCallerIdentity", {}, **STS, **ONE) is None


def test_the_metadata_service() -> None:
    """The role's name, then its keys: the same for most of their life, new ones before they end."""
    world = World(keys={}, metadata_role=Role(name="cvm", longest_s=90))

    def get(path: str, at: float = NOW) -> Any:
        answer = world.metadata(path, access=PORT, now=at)
        return answer.body if answer.status == 200 else answer.status

    assert get(METADATA_PATH) == b"cvm"
    assert get(METADATA_PATH + "other") == 404
    first, later, last = (json.loads(get(METADATA_PATH + "cvm", NOW + after)) for after in (0, 50, 70))
    assert first == later
    assert (first["Code"], first["ExpiredTime"]) == ("Success", NOW + 90)
    assert last["TmpSecretId"] != first["TmpSecretId"]
    assert last["ExpiredTime"] == NOW + 160
    bare = World(keys={})
    assert bare.metadata(METADATA_PATH, access=PORT, now=NOW).status == 404


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keys: [{id: A}]", "missing required field `secret`"),
        ("keys: [{id: A, secret: b, uni: c}]", "unknown field `uni`"),
        ("roles: [{name: a, longest: soon}]", "Expected `int`"),
        ("keys: [{id: A, secret: b}, {id: A, secret: c}]", "accounts: A stands twice"),
        ("roles: [{name: a, metadata: true}, {name: b, metadata: true}]", "a, b: an instance has one role"),
        ("[", "accounts: line"),
    ],
)
def test_a_wrong_file_of_accounts(text: str, said: str) -> None:
    """What and where."""
    with pytest.raises(DocumentError, match=said):
        parse_tenants(text)
