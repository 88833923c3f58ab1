"""One set of cases against the simulator in memory and over a real loopback socket: both must say the same."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from engine.model import Fault, Reply, Stage, Transport
from engine.simulator.faults import rules_from
from engine.simulator.gate import KeyRecord
from engine.simulator.inprocess import InProcessTransport, access_of
from engine.simulator.quotas import Window
from engine.simulator.server import Server, serve
from engine.simulator.world import World
from tests.support.simulated import DOCUMENTED, INSTANCE, NOW, USER
from tests.support.tc3 import signed_headers


class SocketTransport:
    """A plain client of the server, translating what goes wrong as the engine's own transport is to."""

    def __init__(self) -> None:
        self.session = aiohttp.ClientSession(auto_decompress=False)

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        data = body if len(body) < 1_000_000 else io.BytesIO(body)
        try:
            async with self.session.post(endpoint, data=data, headers=headers, timeout=timeout) as response:
                date = parsedate_to_datetime(response.headers["Date"]).timestamp()
                return Reply(status=response.status, body=await response.read(), date=date)
        except aiohttp.ClientConnectorError as error:
            return Fault(stage=Stage.BEFORE_SEND, code="Local.Connect", message=str(error))
        except TimeoutError as error:
            return Fault(stage=Stage.AFTER_SEND, code="Local.Timeout", message=str(error))
        except aiohttp.ClientPayloadError as error:
            return Fault(stage=Stage.AFTER_SEND, code="Local.Truncated", message=str(error))
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            return Fault(stage=Stage.AFTER_SEND, code="Local.ConnectionReset", message=str(error))

    async def aclose(self) -> None:
        await self.session.close()


@dataclass
class Rig:
    """A world behind one of its two transports, at a clock the test moves."""

    kind: str
    now: float = NOW
    transport: Transport | None = None
    server: Server | None = None
    endpoints: tuple[str, ...] = ("http://127.0.0.1:1", "http://127.0.0.1:2")

    async def open(self, world: World | None = None) -> World:
        world = world or World()
        await self.aclose()
        if self.kind == "inprocess":
            self.transport = InProcessTransport(world, now=lambda: self.now)
        else:
            self.server = await serve(world, ports=[0, 0], now=lambda: self.now)
            self.endpoints = self.server.endpoints
            self.transport = SocketTransport()
        return world

    async def aclose(self) -> None:
        if self.transport is not None:
            await self.transport.aclose()
        if self.server is not None:
            await self.server.aclose()

    async def send(
        self,
        action: str,
        parameters: Mapping[str, Any],
        *,
        access: int = 0,
        timeout_s: float = 10.0,
        at: float | None = None,
        **signing: Any,
    ) -> Reply | Fault:
        body = json.dumps(parameters).encode()
        endpoint = self.endpoints[access]
        at = self.now if at is None else at
        headers = signed_headers(action, body, host=access_of(endpoint), at=at, **signing)
        assert self.transport is not None
        return await self.transport.send(endpoint, headers, body, timeout_s)

    async def lock(self, user: str = USER, **options: Any) -> Reply | Fault:
        return await self.send("LockAccount", {"DBInstanceId": INSTANCE, "UserName": user}, **options)

    async def response(self, action: str, parameters: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        reply = await self.send(action, parameters, **options)
        assert isinstance(reply, Reply)
        assert reply.status == 200
        response: dict[str, Any] = json.loads(reply.body)["Response"]
        return response

    async def code(self, action: str = "LockAccount", user: str = USER, **options: Any) -> str | None:
        parameters = {"DBInstanceId": INSTANCE, "UserName": user}
        if action in ("CloseAccountCAM", "ResetAccountPassword"):
            parameters["Password"] = "Abcdef1!"
        error = (await self.response(action, parameters, **options)).get("Error")
        return error["Code"] if error else None


@pytest_asyncio.fixture(params=["inprocess", "server"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    rig = Rig(request.param)
    yield rig
    await rig.aclose()


async def test_lock_read_unlock(rig: Rig) -> None:
    world = await rig.open()
    world.seed(INSTANCE, "ap-singapore", [USER])
    page = {"DBInstanceId": INSTANCE}
    statuses = []
    for action in ("LockAccount", "LockAccount", "UnlockAccount"):
        assert await rig.code(action) is None
        statuses += [row["Status"] for row in (await rig.response("DescribeAccounts", page))["Details"]]
    assert statuses == [5, 5, 2]
    assert [each.action for each in world.audit if each.applied] == ["LockAccount"] * 2 + ["UnlockAccount"]


async def test_cam_and_password_actions(rig: Rig) -> None:
    await rig.open()
    actions = ["CloseAccountCAM", "OpenAccountCAM", "OpenAccountCAM", "RefreshAccountPassword", "CloseAccountCAM"]
    actions = ["ResetAccountPassword", *actions, "ResetAccountPassword", "OpenAccountCAM", "ResetAccountPassword"]
    assert [await rig.code(action) for action in actions] == [
        None,
        "FailedOperation.CheckAccountCAMOpenError",
        None,
        "FailedOperation.CheckAccountCAMCloseError",
        None,
        None,
        None,
        None,
        "FailedOperation.CheckAccountCAMCloseError",
    ]


async def test_paging_to_the_short_page(rig: Rig) -> None:
    world = await rig.open()
    world.seed(INSTANCE, "ap-singapore", [f"user_{index}" for index in range(205)])
    names: list[str] = []
    offset = 0
    while True:
        page = await rig.response("DescribeAccounts", {"DBInstanceId": INSTANCE, "Limit": 100, "Offset": offset})
        names += [row["UserName"] for row in page["Details"]]
        assert page["TotalCount"] == len(page["Details"])
        if len(page["Details"]) < 100:
            break
        offset += 100
    assert len(set(names)) == len(names) == 205


async def test_an_open_instance_says_that_it_has_more_accounts_than_it_lists(rig: Rig) -> None:
    """Whoever is named exists there: a listing proves nobody's absence."""
    world = await rig.open()
    world.seed(INSTANCE, "ap-singapore", ["app"], whole=False)
    page = await rig.response("DescribeAccounts", {"DBInstanceId": INSTANCE})
    assert (page["TotalCount"], len(page["Details"])) == (2, 1)
    page = await rig.response("DescribeAccounts", {"DBInstanceId": "postgres-neverseen"})
    assert (page["TotalCount"], page["Details"]) == (1, [])


async def test_the_date_is_the_servers_clock(rig: Rig) -> None:
    await rig.open(World(faults=rules_from([{"wrong_clock": 1000, "times": 1}])))
    first, second = await rig.lock(), await rig.lock()
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert b"AuthFailure.SignatureExpire" in first.body
    assert (first.date, second.date) == (NOW + 1000, NOW)


@pytest.mark.parametrize(
    ("signing", "code"),
    [
        ({"secret_key": "wrong"}, "AuthFailure.SignatureFailure"),
        ({"secret_id": "AKIDNOBODY"}, "AuthFailure.SecretIdNotFound"),
        ({"token": "unasked"}, "AuthFailure.TokenFailure"),
        ({"service": "cvm"}, "AuthFailure.InvalidAuthorization"),
        ({"at": NOW - 301}, "AuthFailure.SignatureExpire"),
        ({"at": NOW + 301}, "AuthFailure.SignatureExpire"),
        ({"at": NOW - 300}, None),
        ({"version": "2020-01-01"}, "NoSuchVersion"),
        ({"region": "mars"}, "UnsupportedRegion"),
        ({"content_type": "application/json; charset=utf-8"}, None),
        ({"extra": {"X-TC-Content-SHA256": "UNSIGNED-PAYLOAD"}}, None),
    ],
)
async def test_the_gate(rig: Rig, signing: dict[str, Any], code: str | None) -> None:
    await rig.open()
    assert await rig.code(**signing) == code


async def test_temporary_keys(rig: Rig) -> None:
    await rig.open(World(keys={"AKIDT": KeyRecord(secret_key="s", token="t")}))
    assert await rig.code(secret_id="AKIDT", secret_key="s", token="t") is None
    assert await rig.code(secret_id="AKIDT", secret_key="s") == "AuthFailure.TokenFailure"


@pytest.mark.parametrize("window", list(Window))
async def test_the_quota_is_per_access_region(rig: Rig, window: Window) -> None:
    world = await rig.open(World(quota_window=window))
    first = [await rig.code() for _ in range(22)]
    assert first == [None] * 20 + ["RequestLimitExceeded"] * 2
    assert await rig.code(access=1) is None
    assert await rig.code(region="ap-tokyo") == "RequestLimitExceeded"
    rig.now += 1.0
    assert await rig.code() is None
    assert world.worst_second("LockAccount", access_of(rig.endpoints[0])) == 23
    assert world.worst_second("LockAccount", access_of(rig.endpoints[1])) == 1


@pytest.mark.parametrize(
    ("action", "code"), [(action, code) for action, codes in DOCUMENTED.items() for code in codes.split()]
)
async def test_every_documented_code_can_be_served(rig: Rig, action: str, code: str) -> None:
    """As HTTP 200, with message and RequestId, and nothing applied."""
    world = await rig.open(World(faults=rules_from([{"action": action, "code": code}])))
    parameters = {"DBInstanceId": INSTANCE, "UserName": USER}
    response = await rig.response(action, parameters)
    assert set(response) == {"Error", "RequestId"}
    assert response["Error"]["Code"] == code
    assert response["Error"]["Message"]
    assert world.account(INSTANCE, USER) is None


@pytest.mark.parametrize(
    ("rule", "status", "part", "applied"),
    [
        ({"status": 502}, 502, b"502", False),
        ({"status": 504, "html": True, "apply": True}, 504, b"<html>", True),
        ({"html": True}, 200, b"<html>", False),
        ({"garbage": True}, 200, b'{"Response":', True),
        ({"empty": True}, 200, b"", True),
        ({"no_request_id": True}, 200, b'{"Response":{}}', True),
        ({"accepted_not_applied": True}, 200, b"RequestId", False),
        ({"slow": 0.05}, 200, b"RequestId", True),
    ],
)
async def test_answers_that_are_not_the_apis(
    rig: Rig, rule: dict[str, Any], status: int, part: bytes, applied: bool
) -> None:
    world = await rig.open(World(faults=rules_from([{**rule, "times": 1}])))
    reply = await rig.lock()
    assert isinstance(reply, Reply)
    assert reply.status == status
    assert part in reply.body
    if rule.get("empty"):
        assert reply.body == b""
    assert world.audit[-1].applied == applied
    assert await rig.code() is None  # the next one is served as usual


@pytest.mark.parametrize(
    ("rule", "code", "applied"),
    [
        ({"reset_before": True}, "Local.ConnectionReset", False),
        ({"reset_after": True}, "Local.ConnectionReset", True),
        ({"truncated": True}, "Local.Truncated", True),
        ({"truncated": True, "apply": False}, "Local.Truncated", False),
        ({"hang": True}, "Local.Timeout", False),
        ({"hang": True, "apply": True}, "Local.Timeout", True),
        ({"slow": 30}, "Local.Timeout", True),
    ],
)
async def test_exchanges_that_break(rig: Rig, rule: dict[str, Any], code: str, applied: bool) -> None:
    """All after the bytes have left: whether it was applied, the client cannot know."""
    world = await rig.open(World(faults=rules_from([{**rule, "times": 1}])))
    fault = await rig.lock(timeout_s=0.5 if code == "Local.Timeout" else 10.0)
    assert isinstance(fault, Fault)
    assert (fault.stage, fault.code) == (Stage.AFTER_SEND, code)
    account = world.account(INSTANCE, USER)
    assert (account is not None and account.status == 5) == applied
    assert world.audit[-1].request_id is None or "slow" in rule
    assert await rig.code() is None


async def test_effects_that_come_late(rig: Rig) -> None:
    await rig.open(World(faults=rules_from([{"effect_delay": 5, "times": 1}, {"apply_after": 9, "times": 1}])))
    page = {"DBInstanceId": INSTANCE}

    async def statuses(at: float) -> list[int]:
        rig.now = NOW + at
        rows = (await rig.response("DescribeAccounts", page))["Details"]
        return [row["Status"] for row in sorted(rows, key=lambda row: row["UserName"])]

    # the rules have no action: the reading would use one up
    assert await rig.code(user="first") is None
    assert await rig.code(user="second") is None
    assert await statuses(1) == [3, 2]
    assert await statuses(5) == [5, 2]
    assert await statuses(9) == [5, 5]


async def test_a_lost_request_still_counts_and_may_still_arrive(rig: Rig) -> None:
    """The client's timeout is over before the request is there: the write happens all the same."""
    world = await rig.open(World(jitter=0.8, seed=96))  # the first is there at once, the second after 0.75 s
    assert await rig.code(user="first") is None
    fault = await rig.lock(timeout_s=0.2)
    assert isinstance(fault, Fault)
    assert fault.code == "Local.Timeout"
    assert len(world.audit) == 1
    for _ in range(100):
        await asyncio.sleep(0.05)
        if len(world.audit) == 2:
            break
    assert [(each.user, each.applied) for each in world.audit] == [("first", True), (USER, True)]


async def test_a_host_header_of_another_server_is_misdirected(rig: Rig) -> None:
    await rig.open()
    body = b"{}"
    headers = signed_headers("DescribeRegions", body, host=access_of(rig.endpoints[1]), at=NOW)
    assert rig.transport is not None
    reply = await rig.transport.send(rig.endpoints[0], headers, body, 5.0)
    assert isinstance(reply, Reply)
    assert reply.status == 421


async def test_large_bodies_and_pages(rig: Rig) -> None:
    world = await rig.open()
    world.seed(INSTANCE, "ap-singapore", [f"user_{index}" for index in range(100)])
    page = await rig.response("DescribeAccounts", {"DBInstanceId": INSTANCE, "Limit": 100})
    assert page["TotalCount"] == len(page["Details"]) == 100
    huge = {"DBInstanceId": INSTANCE, "UserName": "x" * (10 * 1024 * 1024)}
    response = await rig.response("LockAccount", huge)
    assert response["Error"]["Code"] == "RequestSizeLimitExceeded"
