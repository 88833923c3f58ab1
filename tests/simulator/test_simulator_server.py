"""The simulator on real sockets: what only bytes can show, and the vendor's SDK as a stranger at the door."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import time
import warnings
from contextlib import suppress
from typing import Any

import pytest
from tencentcloud.common.credential import Credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.postgres.v20170312 import models
from tencentcloud.postgres.v20170312.postgres_client import PostgresClient

from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.faults import rules_from
from engine.simulator.gate import KeyRecord
from engine.simulator.server import serve
from engine.simulator.world import World
from tests.support.simulated import INSTANCE, USER
from tests.support.tc3 import signed_headers

BODY = json.dumps({"DBInstanceId": INSTANCE, "UserName": USER}).encode()


def raw_request(port: int, *, path: str = "/", method: str = "POST") -> bytes:
    headers = signed_headers("LockAccount", BODY, host=f"127.0.0.1:{port}", at=time.time())
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [f"Content-Length: {len(BODY)}", "", ""]
    return "\r\n".join(lines).encode() + BODY


async def exchange(port: int, request: bytes) -> bytes:
    """All bytes the server sends until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()


async def head_and_body(port: int, request: bytes) -> tuple[str, bytes]:
    """One answer on a connection that stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(next(line for line in head.splitlines() if line.startswith("Content-Length")).split(":")[1])
    body = await reader.readexactly(length)
    writer.close()
    return head, body


def world_of(*rules: dict[str, Any]) -> World:
    return World(faults=rules_from(list(rules)))


async def test_headers_of_an_answer() -> None:
    """Content-Type without a charset: with one, the vendor's SDK takes errors for results (CN-RESP)."""
    server = await serve(World())
    head, body = await head_and_body(server.ports[0], raw_request(server.ports[0]))
    await server.aclose()
    lines = head.splitlines()
    assert lines[0] == "HTTP/1.1 200 OK"
    assert "Content-Type: application/json" in lines
    assert any(line.startswith("Date: ") and line.endswith(" GMT") for line in lines)
    assert b"RequestId" in body


async def test_a_reset_is_a_real_one() -> None:
    server = await serve(world_of({"reset_after": True}))
    with pytest.raises(ConnectionResetError):
        await exchange(server.ports[0], raw_request(server.ports[0]))
    await server.aclose()


async def test_a_truncated_answer_promises_more_than_it_sends() -> None:
    server = await serve(world_of({"truncated": True}))
    head, _, body = (await exchange(server.ports[0], raw_request(server.ports[0]))).partition(b"\r\n\r\n")
    await server.aclose()
    promised = next(int(line.split(b":")[1]) for line in head.splitlines() if line.startswith(b"Content-Length"))
    assert 0 < len(body) < promised


async def test_a_hanging_answer_keeps_the_connection_and_does_not_keep_the_server() -> None:
    server = await serve(world_of({"hang": True}))
    _, writer = await asyncio.open_connection("127.0.0.1", server.ports[0])
    writer.write(raw_request(server.ports[0]))
    await asyncio.sleep(0.05)
    started = time.monotonic()
    await server.aclose()
    assert time.monotonic() - started < 2
    writer.close()


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_that_comes_as_it_closes_is_dropped_too(turns: int) -> None:
    """Its client is told at once, in whatever turn of the loop it was accepted, and no socket stays open."""
    server = await serve(World())
    with warnings.catch_warnings(record=True) as warned, socket.socket() as client:
        warnings.simplefilter("always")
        client.setblocking(False)
        with suppress(BlockingIOError):
            client.connect(("127.0.0.1", server.ports[0]))
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.aclose()
        gc.collect()
        client.settimeout(5)
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""
    assert not [each for each in warned if each.category is ResourceWarning]


async def test_a_client_that_hangs_up_leaves_nothing_behind() -> None:
    """Hundreds of abandoned hanging requests must not pile up in a load test."""
    server = await serve(world_of({"hang": True}))
    before = len(asyncio.all_tasks())
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", server.ports[0])
        writer.write(raw_request(server.ports[0]))
        await asyncio.sleep(0.005)
        writer.transport.abort()
    for _ in range(100):
        await asyncio.sleep(0.01)
        if len(asyncio.all_tasks()) <= before:
            break
    assert len(asyncio.all_tasks()) <= before
    await server.aclose()


@pytest.mark.parametrize(
    ("host", "access"),
    [
        ("postgres.ap-tokyo.tencentcloudapi.com", "postgres.ap-tokyo.tencentcloudapi.com"),
        ("Postgres.tencentcloudapi.com:443", "postgres.tencentcloudapi.com"),
        ("postgres.ap-nowhere.tencentcloudapi.com", None),
        ("postgres.ap-tokyo.tencentcloudapi.com.example", None),
    ],
)
async def test_the_apis_own_names_are_access_regions_on_any_port(host: str, access: str | None) -> None:
    """Whoever leads the vendor's names here meets its regions, each a quota of its own; other names are not ours."""
    world = World(audit=None)
    server = await serve(world)
    headers = signed_headers("LockAccount", BODY, host=host, at=time.time())
    lines = ["POST / HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    request = "\r\n".join([*lines, f"Content-Length: {len(BODY)}", "", ""]).encode() + BODY
    head, _ = await head_and_body(server.ports[0], request)
    await server.aclose()
    if access is None:
        assert head.startswith("HTTP/1.1 421")
        assert not world.audit
    else:
        assert [arrival.access for arrival in world.audit] == [access]


async def test_nothing_but_the_apis_surface() -> None:
    server = await serve(World())
    port = server.ports[0]
    head, _ = await head_and_body(port, raw_request(port, path="/health"))
    assert head.startswith("HTTP/1.1 404")
    head, body = await head_and_body(port, raw_request(port, method="PUT"))
    assert head.startswith("HTTP/1.1 200")
    assert b"UnsupportedProtocol" in body
    head, _ = await head_and_body(port, raw_request(port).replace(b"Host: 127.0.0.1", b"Host: example.com"))
    assert head.startswith("HTTP/1.1 421")
    await server.aclose()


async def test_several_ports_are_several_access_regions_of_one_world() -> None:
    world = World(quotas={"*": 1})
    server = await serve(world, ports=[0, 0, 0])
    assert len(set(server.ports)) == 3
    assert server.endpoints == tuple(f"http://127.0.0.1:{port}" for port in server.ports)
    for port in server.ports:
        _, body = await head_and_body(port, raw_request(port))
        assert b"Error" not in body
    await server.aclose()
    assert [each.access for each in world.audit] == [f"127.0.0.1:{port}" for port in server.ports]


async def test_localhost_is_the_ipv4_loopback() -> None:
    server = await serve(World(), host="localhost")
    port = server.ports[0]
    assert server.endpoints == (f"http://127.0.0.1:{port}",)
    headers = signed_headers("LockAccount", BODY, host=f"localhost:{port}", at=time.time())
    lines = ["POST / HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    head, body = await head_and_body(
        port, "\r\n".join([*lines, f"Content-Length: {len(BODY)}", "", ""]).encode() + BODY
    )
    await server.aclose()
    assert head.startswith("HTTP/1.1 200")
    assert b"Error" not in body


async def test_it_listens_on_ipv6_loopback_too() -> None:
    try:
        server = await serve(World(), host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    assert server.endpoints == (f"http://[::1]:{server.ports[0]}",)
    await server.aclose()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
async def test_it_listens_on_loopback_only(host: str) -> None:
    with pytest.raises(ValueError, match="loopback only"):
        await serve(World(), host=host)


async def test_a_taken_port_is_an_error_and_leaves_none_open() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            free = probe.getsockname()[1]
        with pytest.raises(OSError, match=r"."):
            await serve(World(), ports=[free, taken.getsockname()[1]])
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", free)
    with pytest.raises(ValueError, match="at least one port"):
        await serve(World(), ports=[])


def sdk(port: int, secret_id: str, secret_key: str, token: str | None = None) -> PostgresClient:
    http = HttpProfile(protocol="http", endpoint=f"127.0.0.1:{port}", reqTimeout=10)
    return PostgresClient(Credential(secret_id, secret_key, token), "ap-singapore", ClientProfile(httpProfile=http))


async def test_the_vendors_sdk_is_let_in_with_the_right_key_and_reads_what_it_did() -> None:
    world = World()
    server = await serve(world)

    def talk() -> list[tuple[str, int]]:
        client = sdk(server.ports[0], DEMO_SECRET_ID, DEMO_SECRET_KEY)
        lock = models.LockAccountRequest()
        lock.DBInstanceId, lock.UserName = INSTANCE, USER
        assert client.LockAccount(lock).RequestId
        page = models.DescribeAccountsRequest()
        page.DBInstanceId = INSTANCE
        instances = models.DescribeDBInstancesRequest()
        found = models.Filter()
        found.Name, found.Values = "db-instance-id", [INSTANCE]
        instances.Filters = [found]
        assert client.DescribeDBInstances(instances).TotalCount == 1
        assert client.DescribeRegions(models.DescribeRegionsRequest()).TotalCount == 19
        return [(row.UserName, row.Status) for row in client.DescribeAccounts(page).Details]

    assert await asyncio.to_thread(talk) == [(USER, 5)]
    await server.aclose()
    assert all(each.trace for each in world.audit)


async def test_the_vendors_sdk_sees_every_refusal_as_an_error() -> None:
    keys = {"AKIDTMP": KeyRecord(secret_key="tmp", token="right"), "AKIDOLD": KeyRecord(secret_key="old")}
    server = await serve(World(keys=keys))

    def refusal(secret_id: str, secret_key: str, token: str | None = None) -> str | None:
        lock = models.LockAccountRequest()
        lock.DBInstanceId, lock.UserName = INSTANCE, USER
        try:
            sdk(server.ports[0], secret_id, secret_key, token).LockAccount(lock)
        except TencentCloudSDKException as error:
            assert error.requestId
            return str(error.code)
        return None

    def talk() -> list[str | None]:
        return [
            refusal("AKIDTMP", "tmp", "right"),
            refusal("AKIDOLD", "old"),
            refusal("AKIDOLD", "wrong"),
            refusal("AKIDNEW", "old"),
            refusal("AKIDTMP", "tmp", "stale"),
        ]

    assert await asyncio.to_thread(talk) == [
        None,
        None,
        "AuthFailure.SignatureFailure",
        "AuthFailure.SecretIdNotFound",
        "AuthFailure.TokenFailure",
    ]
    await server.aclose()
