"""No I/O, no clock. The read actions: DescribeAccounts, DescribeDBInstances, DescribeRegions (D-ACCTS)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from engine.simulator import catalog
from engine.simulator.estate import Account, Estate, Instance
from engine.simulator.wire import Refusal

_CST = timezone(timedelta(hours=8))
"""Time zone of listings: not documented; here the vendor's, so that nobody takes the times for UTC (inferred)."""
_ZERO_DATE = "0000-00-00 00:00:00"

Rows = dict[str, Any]
"""A `Response` object. Any: JSON."""


class _Page(NamedTuple):
    limit: int
    offset: int
    order_by: str
    descending: bool


def describe_accounts(
    estate: Estate, parameters: Mapping[str, Any], region: str, now: float, uin: str = ""
) -> Rows | Refusal:
    """Return one page of an instance's accounts. TotalCount is the number of rows of *this* call, as the page says."""
    page = _page(
        parameters,
        default=20,
        allowed=range(1, 101),
        orders=("createTime", "name", "updateTime"),
        direction="desc",
    )
    if isinstance(page, Refusal):
        return page
    instance = estate.find(parameters["DBInstanceId"], region, uin)
    if isinstance(instance, Refusal):
        return instance
    accounts = list(instance.accounts.values())
    for account in accounts:
        if account.pending:
            account.settle(now)
    key = _ACCOUNT_ORDERS[page.order_by]
    accounts.sort(key=lambda account: account.name)
    accounts.sort(key=key, reverse=page.descending)
    rows = [_account_row(instance.id, each) for each in accounts[page.offset : page.offset + page.limit]]
    # An open world cannot list accounts that no request has named yet: it says that there are more than it shows.
    return {"TotalCount": len(rows) if instance.is_whole else len(accounts) + 1, "Details": rows}


def describe_instances(estate: Estate, parameters: Mapping[str, Any], region: str, uin: str = "") -> Rows | Refusal:
    """Return one page of the region's instances that match all filters. TotalCount is the number of matches."""
    page = _page(
        parameters,
        default=10,
        allowed=range(101),
        orders=("CreateTime", "DBInstanceId", "Name", "EndTime"),
        direction="asc",
    )
    if isinstance(page, Refusal):
        return page
    tests = _filters(parameters.get("Filters", []))
    if isinstance(tests, Refusal):
        return tests
    found = [
        instance
        for instance in estate.instances.values()
        if instance.region == region and instance.uin == uin and all(test(instance) for test in tests)
    ]
    found.sort(key=_INSTANCE_ORDERS[page.order_by], reverse=page.descending)
    rows = [_instance_row(each) for each in found[page.offset : page.offset + (page.limit or 10)]]
    return {"TotalCount": len(found), "DBInstanceSet": rows}


def describe_regions() -> Rows:
    """Return all regions, the closed one included."""
    regions = [
        {
            "Region": region,
            "RegionName": name,
            "RegionId": number,
            "RegionState": "AVAILABLE" if region in catalog.REGIONS else "UNAVAILABLE",
            "SupportInternational": 0 if region.endswith("-fsi") else 1,
        }
        for number, (region, name) in enumerate({**catalog.REGIONS, **catalog.CLOSED_REGIONS}.items(), start=1)
    ]
    return {"TotalCount": len(regions), "RegionSet": regions}


def _page(
    parameters: Mapping[str, Any], *, default: int, allowed: range, orders: tuple[str, ...], direction: str
) -> _Page | Refusal:
    """Return the documented paging parameters, or a refusal; the first of `orders` is the default."""
    limit, offset = parameters.get("Limit", default), parameters.get("Offset", 0)
    order_by, order = parameters.get("OrderBy", orders[0]), parameters.get("OrderByType", direction)
    if limit not in allowed or offset < 0 or order_by not in orders or order not in ("asc", "desc"):
        return catalog.refusal("InvalidParameterValue.InvalidParameterValueError")
    return _Page(limit, offset, order_by, order == "desc")


_ACCOUNT_ORDERS: Mapping[str, Callable[[Account], Any]] = MappingProxyType(
    {
        "createTime": lambda account: account.create_time or 0.0,
        "updateTime": lambda account: account.update_time,
        "name": lambda account: account.name,
    }
)
_INSTANCE_ORDERS: Mapping[str, Callable[[Instance], Any]] = MappingProxyType(
    {
        "CreateTime": lambda instance: instance.order,
        "EndTime": lambda instance: instance.order,
        "DBInstanceId": lambda instance: instance.id,
        "Name": lambda instance: (instance.name, instance.order),
    }
)

_FILTERS: Mapping[str, Callable[[Instance, str], bool]] = MappingProxyType(
    {
        "db-instance-id": lambda instance, value: instance.id == value,
        "db-instance-name": lambda instance, value: value in instance.name,  # "fuzzy"
        "db-project-id": lambda instance, value: str(instance.project) == value,
        "db-pay-mode": lambda instance, value: instance.pay_mode == value,
        "db-tag-key": lambda instance, value: any(key == value for key, _ in instance.tags),
        # nothing in this world has an address or a dedicated cluster
        "db-private-ip": lambda _instance, _value: False,
        "db-public-address": lambda _instance, _value: False,
        "db-dedicated-cluster-id": lambda _instance, _value: False,
    }
)
"""Filter name → whether an instance matches one value (D-ACCTS)."""


def _filters(filters: list[Any]) -> list[Callable[[Instance], bool]] | Refusal:
    """Return a test for each filter, of which all must hold; one value of a filter suffices. Any: the caller's JSON."""
    tests: list[Callable[[Instance], bool]] = []
    for each in filters:
        if not isinstance(each, dict) or not set(each) <= {"Name", "Values"}:
            return Refusal("InvalidParameter", "Each of `Filters` must be an object of `Name` and `Values`.")
        name, values = each.get("Name"), each.get("Values", [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            return Refusal("InvalidParameter", "The type of parameter `Filters.N.Values` is wrong.")
        if not isinstance(name, str) or name not in _FILTERS:
            return catalog.refusal("InvalidParameterValue.InvalidParameterValueError")
        tests.append(_any_value(_FILTERS[name], values))
    return tests


def _any_value(asks: Callable[[Instance, str], bool], values: list[str]) -> Callable[[Instance], bool]:
    return lambda instance: any(asks(instance, value) for value in values)


def _account_row(instance_id: str, account: Account) -> Rows:
    row: Rows = {
        "DBInstanceId": instance_id,
        "UserName": account.name,
        "Remark": "",
        "Status": account.shown_status,
        "CreateTime": _text_time(account.create_time),
        "UpdateTime": _text_time(account.update_time),
        "PasswordUpdateTime": _text_time(account.password_update_time),
        "UserType": account.user_type,
    }
    if account.cam is not None:
        row["OpenCam"] = account.cam
    return row


def _instance_row(instance: Instance) -> Rows:
    return {
        "Region": instance.region,
        "Zone": f"{instance.region}-1",
        "ProjectId": instance.project,
        "DBInstanceId": instance.id,
        "DBInstanceName": instance.name,
        "DBInstanceStatus": instance.status,
        "DBInstanceType": instance.type,
        "DBEngine": "postgresql",
        "DBVersion": instance.version,
        "DBMajorVersion": _major(instance.version),
        "MasterDBInstanceId": instance.master,
        "PayType": instance.pay_mode,
        "AppId": 1250000000,
        "Uid": 100000000001,
        "TagList": [{"TagKey": key, "TagValue": value} for key, value in instance.tags],
    }


def _major(version: str) -> str:
    """Return the major version: of `15.4` it is 15, of `9.5.4` it is 9.5."""
    parts = version.split(".")
    return ".".join(parts[: 2 if parts[0] == "9" else 1])


@lru_cache(maxsize=4096)
def _text_time(at: float | None) -> str:
    """Return `YYYY-MM-DD hh:mm:ss` of a UNIX time; the zero date for None."""
    if at is None:
        return _ZERO_DATE
    return datetime.fromtimestamp(at, UTC).astimezone(_CST).strftime("%Y-%m-%d %H:%M:%S")
