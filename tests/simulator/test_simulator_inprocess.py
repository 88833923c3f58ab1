"""The world as a Transport in memory, under virtual time: waits, timeouts, and requests that arrive after all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from engine.model import Fault, Reply, Stage
from engine.simulator.faults import rules_from
from engine.simulator.inprocess import InProcessTransport, access_of
from engine.simulator.world import World
from tests.support.simulated import ACCESS, INSTANCE, NOW, USER
from tests.support.tc3 import signed_headers
from tests.support.virtual import VirtualLoop

T = TypeVar("T")
ENDPOINT = f"https://{ACCESS}"


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def elapsed() -> float:
    return asyncio.get_running_loop().time() - VirtualLoop.START


def wall() -> float:
    return NOW + elapsed()


async def lock(
    transport: InProcessTransport, user: str = USER, timeout_s: float = 10.0, endpoint: str = ENDPOINT
) -> Reply | Fault:
    body = json.dumps({"DBInstanceId": INSTANCE, "UserName": user}).encode()
    headers = signed_headers("LockAccount", body, host=access_of(endpoint), at=wall())
    return await transport.send(endpoint, headers, body, timeout_s)


def is_locked(world: World, user: str = USER) -> bool:
    account = world.account(INSTANCE, user)
    return account is not None and account.status == 5


def test_a_reply_comes_after_the_latency() -> None:
    async def main() -> None:
        reply = await lock(InProcessTransport(World(latency=0.2), now=wall))
        assert isinstance(reply, Reply)
        assert (reply.status, reply.date) == (200, NOW)
        assert b"Error" not in reply.body
        assert elapsed() == pytest.approx(0.2, abs=1e-4)

    run(main())


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ({"reset_before": True}, "Local.ConnectionReset"),
        ({"reset_after": True}, "Local.ConnectionReset"),
        ({"truncated": True}, "Local.Truncated"),
        ({"hang": True}, "Local.Timeout"),
        ({"slow": 60}, "Local.Timeout"),
    ],
)
def test_what_breaks_after_the_bytes_left_is_a_fault_after_send(rule: dict[str, Any], code: str) -> None:
    async def main() -> None:
        fault = await lock(InProcessTransport(World(faults=rules_from([rule])), now=wall))
        assert isinstance(fault, Fault)
        assert (fault.stage, fault.code) == (Stage.AFTER_SEND, code)
        assert elapsed() == pytest.approx(10.0 if code == "Local.Timeout" else 0.0, abs=1e-4)

    run(main())


def test_an_unreachable_access_region_is_a_fault_before_send() -> None:
    async def main() -> None:
        down = {ACCESS: "Local.Dns"}
        world = World()
        transport = InProcessTransport(world, now=wall, unreachable=down)
        fault = await lock(transport)
        assert isinstance(fault, Fault)
        assert (fault.stage, fault.code) == (Stage.BEFORE_SEND, "Local.Dns")
        assert not world.audit
        down.clear()
        assert isinstance(await lock(transport), Reply)
        await transport.aclose()

    run(main())


def test_a_request_arrives_even_when_its_sender_gave_up() -> None:
    """Timed out or cancelled on the way: the server still gets it, and applies it."""

    async def main() -> None:
        world = World(jitter=4.0, seed=3)
        transport = InProcessTransport(world, now=wall)
        fault = await lock(transport, "timed_out", timeout_s=0.001)
        assert isinstance(fault, Fault)
        assert fault.code == "Local.Timeout"
        cancelled = asyncio.create_task(lock(transport, "cancelled"))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert not world.audit
        await asyncio.sleep(5)
        assert is_locked(world, "timed_out")
        assert is_locked(world, "cancelled")
        assert [NOW < each.at <= NOW + 4.1 for each in world.audit] == [True, True]

    run(main())


def test_arrival_counts_not_sending() -> None:
    """Twenty sends a second, packed by the way they take: some second has more, and the server refuses."""

    async def main() -> None:
        world = World(jitter=0.9, quota_window="sliding-counting-refused")
        transport = InProcessTransport(world, now=wall)
        async with asyncio.TaskGroup() as group:
            for index in range(200):
                group.create_task(lock(transport, f"user_{index}"))
                await asyncio.sleep(0.05)
        assert world.worst_second("LockAccount", ACCESS) > 20
        assert {each.code for each in world.audit} == {None, "RequestLimitExceeded"}

    run(main())


def test_the_access_region_is_host_and_port_and_must_be_the_host_header() -> None:
    async def main() -> None:
        world = World(quotas={"*": 1})
        transport = InProcessTransport(world, now=wall)
        for port in (1001, 1002):
            reply = await lock(transport, endpoint=f"http://127.0.0.1:{port}")
            assert isinstance(reply, Reply)
            assert b"Error" not in reply.body
        assert [each.access for each in world.audit] == ["127.0.0.1:1001", "127.0.0.1:1002"]
        body = b"{}"
        headers = signed_headers("DescribeRegions", body, host="127.0.0.1:1001", at=wall())
        wrong = await transport.send("http://127.0.0.1:1002", headers, body, 1.0)
        assert isinstance(wrong, Reply)
        assert wrong.status == 421

    run(main())


@pytest.mark.parametrize(
    ("endpoint", "access"),
    [
        ("https://postgres.tencentcloudapi.com", "postgres.tencentcloudapi.com"),
        ("https://Postgres.TencentCloudAPI.com:443/", "postgres.tencentcloudapi.com"),
        ("http://localhost:80", "localhost"),
        ("http://localhost:443", "localhost:443"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
    ],
)
def test_access_of_an_endpoint(endpoint: str, access: str) -> None:
    assert access_of(endpoint) == access


def test_a_thousand_paced_calls_take_no_time() -> None:
    async def main() -> float:
        transport = InProcessTransport(World(latency=0.05, jitter=0.02), now=wall)
        for index in range(1_000):
            await lock(transport, f"user_{index}")
        return elapsed()

    assert 50 < run(main()) < 71
