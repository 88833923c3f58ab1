"""DescribeAccounts and DescribeDBInstances as documented: paging, order, filters, what TotalCount counts."""

from __future__ import annotations

from typing import Any

import pytest

from engine.simulator.fleet import fleet_from
from engine.simulator.world import World
from tests.support.simulated import INSTANCE, NOW, Caller

REGION = "ap-singapore"


def crowd(count: int, *, whole: bool = True) -> Caller:
    world = World()
    world.seed(INSTANCE, REGION, [f"user_{index:03}" for index in range(count)], whole=whole)
    return Caller(world)


def fleet_of(count: int) -> Caller:
    """A world that is whole: these accounts are all there are."""
    accounts = [{"name": f"user_{index:03}"} for index in range(count)]
    return Caller(World(fleet=fleet_from({"instances": [{"id": INSTANCE, "region": REGION, "accounts": accounts}]})))


def pages(caller: Caller) -> tuple[list[str], list[int], list[int]]:
    """Names, rows a page, and TotalCount a page, twenty at a time and once behind the end."""
    seen: list[str] = []
    sizes, totals = [], []
    for offset in (0, 20, 40, 60):
        page = caller.call("DescribeAccounts", {"DBInstanceId": INSTANCE, "Offset": offset})
        sizes.append(len(page["Details"]))
        totals.append(page["TotalCount"])
        seen += [row["UserName"] for row in page["Details"]]
    return seen, sizes, totals


@pytest.mark.parametrize("caller", [fleet_of(45), crowd(45)], ids=["fleet", "seeded"])
def test_pages_end_with_a_short_one_and_total_count_is_the_page(caller: Caller) -> None:
    """TotalCount is the number of rows of this call: only a short page says "that was all"."""
    seen, sizes, totals = pages(caller)
    assert sizes == totals == [20, 20, 5, 0]
    assert len(set(seen)) == len(seen) == 45


def test_an_open_world_says_that_there_are_more_accounts_than_it_lists() -> None:
    """Whoever is named exists there, so nobody may conclude from a listing that an account does not."""
    caller = crowd(45, whole=False)
    seen, sizes, totals = pages(caller)
    assert sizes == [20, 20, 5, 0]
    assert totals == [46] * 4
    assert len(set(seen)) == len(seen) == 45
    assert caller.write("LockAccount", user="unlisted") is None
    assert caller.call("DescribeAccounts", {"DBInstanceId": INSTANCE, "Limit": 100})["TotalCount"] == 47
    empty = caller.call("DescribeAccounts", {"DBInstanceId": "postgres-neverseen"})
    assert (empty["TotalCount"], empty["Details"]) == (1, [])


def test_a_row_has_the_documented_fields() -> None:
    assert crowd(1).rows() == [
        {
            "DBInstanceId": INSTANCE,
            "UserName": "user_000",
            "Remark": "",
            "Status": 2,
            "CreateTime": "2025-01-01 08:00:00",
            "UpdateTime": "2025-01-01 08:00:00",
            "PasswordUpdateTime": "0000-00-00 00:00:00",
            "UserType": "normal",
            "OpenCam": False,
        }
    ]


def test_orders() -> None:
    caller = crowd(3)
    caller.write("LockAccount", user="user_001", at=NOW)
    names = {
        (order, direction): [
            row["UserName"][-1] for row in caller.rows(OrderBy=order, OrderByType=direction, at=NOW + 1)
        ]
        for order in ("name", "createTime", "updateTime")
        for direction in ("asc", "desc")
    }
    assert names["name", "asc"] == ["0", "1", "2"]
    assert names["name", "desc"] == ["2", "1", "0"]
    assert names["updateTime", "desc"][0] == "1"
    assert names["updateTime", "asc"][-1] == "1"
    assert names["createTime", "desc"] == ["0", "1", "2"]  # ties keep one order, or pages would overlap


@pytest.mark.parametrize(
    ("page", "is_good"),
    [
        ({"Limit": 1}, True),
        ({"Limit": 100}, True),
        ({"Limit": 0}, False),
        ({"Limit": 101}, False),
        ({"Offset": -1}, False),
        ({"OrderBy": "Name"}, False),
        ({"OrderByType": "DESC"}, False),
    ],
)
def test_the_ranges_of_paging(page: dict[str, Any], is_good: bool) -> None:
    expected = None if is_good else "InvalidParameterValue.InvalidParameterValueError"
    assert crowd(1).code("DescribeAccounts", {"DBInstanceId": INSTANCE, **page}) == expected


def test_listing_looks_in_one_region_only() -> None:
    caller = crowd(1)
    page = {"DBInstanceId": INSTANCE}
    assert caller.code("DescribeAccounts", page, region="ap-tokyo") == "ResourceNotFound.InstanceNotFoundError"


FLEET = fleet_from(
    {
        "instances": [
            {
                "id": f"postgres-fleet{index:03}",
                "region": REGION if index < 25 else "ap-tokyo",
                "name": f"shop-{'prod' if index % 2 else 'test'}-{index}",
                "project": index % 3,
                "pay_mode": "prepaid" if index == 7 else "postpaid",
                "status": "isolated" if index == 3 else "running",
                "tags": {"team": "db"} if index < 5 else {},
            }
            for index in range(30)
        ]
        + [
            {
                "id": "pgro-copy0001",
                "region": REGION,
                "type": "readonly",
                "master": "postgres-fleet000",
                "version": 17,
            }
        ]
    }
)


def found(**parameters: Any) -> list[str]:
    response = Caller(World(fleet=FLEET)).call("DescribeDBInstances", parameters)
    return [row["DBInstanceId"] for row in response["DBInstanceSet"]]


def named(name: str, *values: str) -> dict[str, Any]:
    return {"Name": name, "Values": list(values)}


def test_instances_come_ten_at_a_time_and_total_count_is_what_was_found() -> None:
    caller = Caller(World(fleet=FLEET))
    response = caller.call("DescribeDBInstances", {})
    assert (response["TotalCount"], len(response["DBInstanceSet"])) == (26, 10)
    assert len(found(Limit=0)) == 10  # 0 is the default too
    assert len(found(Limit=100)) == 26
    assert len(found(Limit=100, Offset=20)) == 6
    assert caller.call("DescribeDBInstances", {}, region="ap-tokyo")["TotalCount"] == 5
    last = caller.call("DescribeDBInstances", {"Limit": 100})["DBInstanceSet"][-1]
    assert (last["DBInstanceType"], last["MasterDBInstanceId"]) == ("readonly", "postgres-fleet000")
    assert last["DBMajorVersion"] == "17"


@pytest.mark.parametrize(("version", "major"), [("15.4", "15"), (16, "16"), ("9.5.4", "9.5"), (9.6, "9.6")])
def test_a_fleet_may_say_minor_versions(version: str | float, major: str) -> None:
    """A match asks for major versions; `version: 15.4` in a fleet made a drill that finds nothing."""
    fleet = fleet_from({"instances": [{"id": "postgres-a1", "region": REGION, "version": version}]})
    (row,) = Caller(World(fleet=fleet)).call("DescribeDBInstances", {})["DBInstanceSet"]
    assert (row["DBMajorVersion"], row["DBVersion"]) == (major, str(version))


def test_filters_are_anded_and_their_values_ored() -> None:
    ids = ["postgres-fleet003", "postgres-fleet007"]
    assert found(Filters=[named("db-instance-id", *ids, "postgres-nowhere1")]) == ids
    assert found(Filters=[named("db-instance-id", *ids), named("db-pay-mode", "prepaid")]) == ids[1:]
    assert len(found(Filters=[named("db-instance-name", "prod")], Limit=100)) == 12
    assert len(found(Filters=[named("db-project-id", "1", "2")], Limit=100)) == 16
    assert len(found(Filters=[named("db-tag-key", "team")])) == 5
    assert found(Filters=[named("db-private-ip", "10.0.0.1")]) == []
    assert found(Filters=[named("db-public-address", "x")]) == []
    assert found(Filters=[named("db-dedicated-cluster-id", "x")]) == []


@pytest.mark.parametrize(
    ("filters", "code"),
    [
        ([named("db-status", "running")], "InvalidParameterValue.InvalidParameterValueError"),
        ([{"Values": ["x"]}], "InvalidParameterValue.InvalidParameterValueError"),
        ([{"Name": "db-project-id", "Values": [1]}], "InvalidParameter"),
        ([{"Name": "db-project-id", "Value": "1"}], "InvalidParameter"),
        (["db-project-id"], "InvalidParameter"),
        ({"Name": "db-project-id"}, "InvalidParameter"),
    ],
)
def test_wrong_filters(filters: object, code: str) -> None:
    assert Caller(World(fleet=FLEET)).code("DescribeDBInstances", {"Filters": filters}) == code


def test_instance_orders() -> None:
    names = found(OrderBy="Name", OrderByType="desc", Limit=100)
    assert names[0] == "postgres-fleet008"  # shop-test-8
    assert names[-1] == "pgro-copy0001"  # no name
    assert found(OrderBy="DBInstanceId")[0] == "pgro-copy0001"
    assert found(OrderBy="CreateTime", OrderByType="desc")[0] == "pgro-copy0001"
    assert Caller(World()).code("DescribeDBInstances", {"Limit": 101}) is not None
    assert Caller(World()).code("DescribeDBInstances", {"OrderBy": "createTime"}) is not None
