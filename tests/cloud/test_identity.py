"""`identity` and `policy`: whose keys these are, and what CAM must let them do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import cast

import pytest

from engine.cloud.identity import Identity, Unidentified, identify
from engine.credentials.network import STS, Network
from engine.model import Keys, Reply, Transport
from engine.planning.policy import MOST_CHARACTERS, smallest_policy
from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.sts import KeyRecord
from tests.support.cloud import WALL, Cloud
from tests.support.virtual import VirtualLoop

KEYS = Keys(secret_id=DEMO_SECRET_ID, secret_key=DEMO_SECRET_KEY)
UIN, USER = "100000000001", "100000000007"


def ask(cloud: Cloud, keys: Keys = KEYS) -> Identity | Unidentified:
    return cloud.run(lambda: identify(cloud.network, keys))


def test_a_user_is_named_by_its_uin() -> None:
    """The main account owns the instances, the sub-account the quota."""
    found = ask(Cloud())
    assert found == Identity(uin=UIN, sub_account=USER, arn=f"qcs::cam::uin/{UIN}:uin/{USER}", kind="CAMUser")
    assert isinstance(found, Identity)
    assert found.words == f"sub-account {USER} of account {UIN} (qcs::cam::uin/{UIN}:uin/{USER})"


def test_the_main_account_is_its_own() -> None:
    """When its own key signs (CN-RATE)."""
    found = ask(Cloud(keys={DEMO_SECRET_ID: KeyRecord(secret_key=DEMO_SECRET_KEY, identity="2", uin="2")}))
    assert isinstance(found, Identity)
    assert (found.uin, found.sub_account) == ("2", "2")
    assert found.words.startswith("the main account itself of account 2")


def test_sessions_of_a_role_are_one_identity() -> None:
    """Whatever their names: they draw on one quota, as far as anybody knows."""
    record = {"secret_key": DEMO_SECRET_KEY, "token": "t"}
    found = [
        ask(
            Cloud(keys={DEMO_SECRET_ID: KeyRecord(**record, role=f"4611686018427397919:run-{number}")}),
            Keys(secret_id=DEMO_SECRET_ID, secret_key=DEMO_SECRET_KEY, token="t"),
        )
        for number in (1, 2)
    ]
    assert {each.sub_account for each in found if isinstance(each, Identity)} == {"role/4611686018427397919"}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"hang": True}, "Local.Timeout"),
        ({"code": "AuthFailure.UnauthorizedOperation"}, "AuthFailure.UnauthorizedOperation"),
        ({"status": 502, "html": True}, "Local.Http502"),
    ],
)
def test_who_it_is_may_stay_unknown(fault: dict[str, object], code: str) -> None:
    """Soon, in words, and never by an exception."""
    cloud = Cloud(faults=({"action": "GetCallerIdentity"} | fault,))
    found = ask(cloud)
    assert isinstance(found, Unidentified)
    assert found.code == code
    assert DEMO_SECRET_KEY not in found.why
    assert cloud.seconds <= 3.1


def answers(*bodies: bytes, date: float | None = None) -> Network:
    """An STS that says so, one after the other, the last for ever."""

    class Says:
        said = iter(bodies)

        async def send(self, *_: object) -> Reply:
            return Reply(status=200, body=next(self.said, bodies[-1]), date=date)

        async def aclose(self) -> None:
            """Nothing to close."""

    return Network(open=cast("Callable[[], Transport]", Says), sts="http://127.0.0.1:9", clock=lambda: WALL)


def identified(*bodies: bytes) -> Identity | Unidentified:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(identify(answers(*bodies), KEYS))


def whoami(**changes: object) -> bytes:
    said = {"Arn": "qcs::cam::uin/1:uin/2", "AccountId": "1", "UserId": "2", "Type": "CAMUser", "RequestId": "r-1"}
    return json.dumps({"Response": said | changes}).encode()


@pytest.mark.parametrize("uin", ["", "root", 1, None, "1" * 21, "1\n2", "١", ["1"]])
def test_an_account_that_is_no_number_is_nobody(uin: object) -> None:
    """It would name lanes, policies and the quota's files."""
    assert isinstance(identified(whoami(AccountId=uin)), Unidentified)


def test_the_answer_to_something_else_names_nobody() -> None:
    """One without any field of GetCallerIdentity is asked for again; one that came before is, too."""
    other = b'{"Response":{"TotalCount":0,"Details":[],"RequestId":"r-0"}}'
    found = identified(other, other, whoami())
    assert isinstance(found, Identity)
    assert (found.uin, found.sub_account) == ("1", "2")
    nobody = identified(other)
    assert isinstance(nobody, Unidentified)
    assert nobody.code in ("Local.Misplaced", "Local.RepeatedRequestId")


def test_a_deep_or_damaged_answer_names_nobody() -> None:
    """And raises nothing."""
    for body in (b'{"Response":' * 100_000, b"[" * 100_000, b'{"Response":{"Arn":"\xff","RequestId":"r"}}', b""):
        assert isinstance(identified(body), Unidentified)


def test_refused_keys_are_told_with_the_code() -> None:
    """So that a caller can tell them from a network that is down."""
    found = ask(Cloud(), Keys(secret_id="AKIDelsewhere", secret_key="x"))
    assert isinstance(found, Unidentified)
    assert found.code == "AuthFailure.SecretIdNotFound"
    assert "other site" in found.why


def test_each_site_has_its_sts() -> None:
    """As the STS page has it."""
    assert STS == {
        "international": "https://sts.intl.tencentcloudapi.com",
        "mainland": "https://sts.tencentcloudapi.com",
    }


# ---- what CAM must allow -------------------------------------------------------------------------------------------


def places(count: int) -> list[tuple[str, str]]:
    regions = ("ap-singapore", "ap-tokyo")
    return [(regions[number % 2], f"postgres-{number:08}") for number in range(count)]


def test_the_smallest_policy_names_the_jobs_instances_and_nothing_else() -> None:
    """The action and its reading; each instance once, in its region, of this account."""
    policy = smallest_policy("LockAccount", places(2), uin=UIN)
    assert policy["version"] == "2.0"
    assert policy["statement"] == [
        {
            "effect": "allow",
            "action": ["postgres:LockAccount", "postgres:DescribeAccounts"],
            "resource": [
                f"qcs::postgres:ap-singapore:uin/{UIN}:DBInstanceId/postgres-00000000",
                f"qcs::postgres:ap-tokyo:uin/{UIN}:DBInstanceId/postgres-00000001",
            ],
        },
        {"effect": "allow", "action": ["postgres:DescribeDBInstances"], "resource": ["*"]},
    ]


def test_close_account_cam_names_no_region() -> None:
    """A trap of the CAM pages: its resource leaves the region empty, that of the reading does not."""
    write, read, _ = smallest_policy("CloseAccountCAM", places(1), uin=UIN)["statement"]
    assert write["action"] == ["postgres:CloseAccountCAM"]
    assert write["resource"] == [f"qcs::postgres::uin/{UIN}:DBInstanceId/postgres-00000000"]
    assert read["resource"] == [f"qcs::postgres:ap-singapore:uin/{UIN}:DBInstanceId/postgres-00000000"]


def test_a_policy_of_many_instances_still_fits_into_the_console() -> None:
    """Else all of the job's regions, as a policy that cannot be pasted helps nobody; without a uin it is left empty."""
    policy = smallest_policy("LockAccount", places(400))
    assert len(json.dumps(policy, separators=(",", ":"))) <= MOST_CHARACTERS
    assert policy["statement"][0]["resource"] == [
        "qcs::postgres:ap-singapore::DBInstanceId/*",
        "qcs::postgres:ap-tokyo::DBInstanceId/*",
    ]
