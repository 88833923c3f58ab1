"""`wayout`: proxies and certificates by environment; and the transport that goes by them, over loopback sockets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from yarl import URL

from engine.cloud.proxy import way_out
from engine.cloud.transport import HttpTransport, _seconds
from engine.errors import ConfigError
from engine.model import Fault, Reply, Stage
from tests.cloud.test_transport import BODY, CERTIFICATE, HEADERS, KEY, Line, Peer, answer, send, serving

API = "https://postgres.intl.tencentcloudapi.com"
PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY}, PROXY),
        ({"HTTPS_PROXY": "", "ALL_PROXY": PROXY}, PROXY),
        ({"HTTP_PROXY": PROXY}, None),
        ({"HTTPS_PROXY": "proxy.example:3128"}, PROXY),
        ({"HTTPS_PROXY": "https://op:pw@proxy.example"}, "https://op:pw@proxy.example"),
    ],
)
def test_the_proxy_other_tools_would_use(environ: dict[str, str], proxy: str | None) -> None:
    """In capital and small letters, with or without its scheme."""
    assert way_out(environ).proxy_for(API) == proxy


@pytest.mark.parametrize(
    ("exceptions", "excepted"),
    [
        ("", False),
        ("*", True),
        ("tencentcloudapi.com", True),
        (".tencentcloudapi.com", True),
        ("*.tencentcloudapi.com", True),
        ("POSTGRES.intl.TencentCloudAPI.com", True),
        ("example.com, postgres.intl.tencentcloudapi.com", True),
        ("example.com postgres.intl.tencentcloudapi.com", True),
        ("postgres.intl.tencentcloudapi.com:443", True),
        ("postgres.intl.tencentcloudapi.com:8443", False),
        ("cloudapi.com", False),
        ("sts.intl.tencentcloudapi.com", False),
    ],
)
def test_what_no_proxy_excepts(exceptions: str, excepted: bool) -> None:
    """A host, a domain above it, a port; never half a label."""
    environ = {"HTTPS_PROXY": PROXY, "no_proxy": exceptions}
    assert (way_out(environ).proxy_for(API) is None) == excepted


def test_no_proxy_takes_networks_for_addresses() -> None:
    """A private endpoint is often an address."""
    environ = {"HTTPS_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8,fd00::/8"}
    assert way_out(environ).proxy_for("https://10.1.2.3:8443") is None
    assert way_out(environ).proxy_for("https://[fd00::1]") is None
    assert way_out(environ).proxy_for("https://11.1.2.3") == PROXY


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9900", "https://127.0.0.1:9900", "http://localhost:1"])
def test_this_machine_is_never_reached_through_a_proxy(endpoint: str) -> None:
    """Whatever NO_PROXY says: a simulator is not at the proxy's loopback."""
    assert way_out({"HTTPS_PROXY": PROXY, "ALL_PROXY": PROXY}).proxy_for(endpoint) is None


@pytest.mark.parametrize(
    "said",
    [
        *("socks5://hunter2@x:1", "http://", "http://x:hunter2", "ftp://x"),
        "http://CORP\\dba:hunter2@127.0.0.1:9",
        *(f"http://op:hunter2{sign}x@127.0.0.1:9" for sign in "/?#\\"),
        *("http://op:hunter2€@x:1", "http://a%3Ab:hunter2@x:1", "http://hunter2 x:1", "http://hunter2@x\x1b:1"),
        *("http://op:hunter2@[::1:9", "http://op:hunter2@x:0", "http://op:hunter2@x:99999", "//op:hunter2@x"),
    ],
)
def test_a_proxy_that_cannot_be_used(said: str) -> None:
    """Is an error that names the variable, and not the value, which may hold a password."""
    with pytest.raises(ConfigError, match="HTTPS_PROXY: expected http://host:port") as caught:
        way_out({"HTTPS_PROXY": said}).proxy_for(API)
    assert "hunter2" not in str(caught.value) + way_out({"HTTPS_PROXY": said}).proxy_shown


@pytest.mark.parametrize(
    ("said", "login"),
    [("http://CORP%5Cdba:p%40ss%2Fw%23%3A@127.0.0.1:9", ("CORP\\dba", "p@ss/w#:")), ("op:p@ss@h:1", ("op", "p@ss"))],
)
def test_a_proxys_login_goes_out_as_it_is_meant(said: str, login: tuple[str, str]) -> None:
    """As the message says: what is no letter or digit is percent-encoded; an @ may stay."""
    found = way_out({"HTTPS_PROXY": said}).proxy_for(API)
    assert found is not None
    assert (URL(found).user, URL(found).password) == login


def test_bundles_that_cannot_be_used(tmp_path: Path) -> None:
    """Which variable, which file, and why."""
    junk = tmp_path / "junk.pem"
    junk.write_text("not a certificate")
    assert way_out({}).trusted() is None
    with pytest.raises(ConfigError, match=r"ACCTOPS_CA_BUNDLE: .*junk.pem holds no certificates"):
        way_out({"ACCTOPS_CA_BUNDLE": str(junk)}).trusted()
    with pytest.raises(ConfigError, match=r"SSL_CERT_FILE: .*none.pem cannot be read: No such file"):
        way_out({"SSL_CERT_FILE": str(tmp_path / "none.pem")}).trusted()


# ---- over sockets --------------------------------------------------------------------------------------------------


class Proxy:
    """A proxy that opens every tunnel to one port of this machine, whatever it is asked for."""

    def __init__(self, port: int, refuses: int | None = None, reason: str = "No") -> None:
        self.port = port
        self.refuses = refuses
        self.reason = reason
        self.heads: list[bytes] = []

    async def __call__(self, line: Line) -> None:
        self.heads.append(await line.reader.readuntil(b"\r\n\r\n"))
        if self.refuses:
            await line.say(f"HTTP/1.1 {self.refuses} {self.reason}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await line.say(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_pump(line.reader, writer), _pump(reader, line.writer))
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def _tls(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    both, bundle = tmp_path / "both.pem", tmp_path / "bundle.pem"
    both.write_text(KEY + CERTIFICATE)
    bundle.write_text(CERTIFICATE)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(both)
    return server, bundle


@contextlib.asynccontextmanager
async def behind(
    tmp_path: Path, *, refuses: int | None = None, reason: str = "No"
) -> AsyncIterator[tuple[Proxy, Peer, dict[str, str]]]:
    """The API behind a proxy, and the environment to reach it; its name resolves nowhere but at the proxy."""
    server, bundle = _tls(tmp_path)
    async with serving(answer, tls=server) as (peer, endpoint):
        proxy = Proxy(int(endpoint.rpartition(":")[2]), refuses, reason)
        async with serving(proxy) as (_, url):
            address = url.removeprefix("http://")
            yield proxy, peer, {"HTTPS_PROXY": f"http://op:hunter2@{address}", "ACCTOPS_CA_BUNDLE": str(bundle)}


async def test_requests_go_through_a_tunnel(tmp_path: Path) -> None:
    """The proxy sees the API's name, its own password and no request; the tunnel is kept for the next one."""
    async with behind(tmp_path) as (proxy, peer, environ):
        trust = ssl.create_default_context(cafile=environ["ACCTOPS_CA_BUNDLE"])
        trust.check_hostname = False  # the certificate is of localhost, which no proxy is asked for
        way = HttpTransport(way=way_out(environ), tls=trust)
        for _ in range(3):
            assert isinstance(await send(way, API), Reply)
        await way.aclose()
    (head,) = proxy.heads
    assert head.startswith(b"CONNECT postgres.intl.tencentcloudapi.com:443 HTTP/1.1\r\n")
    secret = base64.b64encode(b"op:hunter2")
    assert b"Proxy-Authorization: Basic " + secret in head
    assert b"Credential" not in head
    assert peer.connections == 1


async def test_a_certificate_of_another_name_is_refused_behind_a_proxy_too(tmp_path: Path) -> None:
    """A proxy that opens TLS must be trusted by name; nothing was sent."""
    async with behind(tmp_path) as (_, peer, environ):
        way = HttpTransport(way=way_out(environ))
        outcome = await send(way, API)
        await way.aclose()
    assert isinstance(outcome, Fault)
    assert (outcome.stage, outcome.code) == (Stage.BEFORE_SEND, "Local.Tls")
    assert not peer.connections


async def test_a_bundle_alone(tmp_path: Path) -> None:
    """A private endpoint with a certificate of the company's own: refused without, taken with it."""
    server, bundle = _tls(tmp_path)
    async with serving(answer, tls=server) as (_, endpoint):
        for environ, good in (({}, False), ({"ACCTOPS_CA_BUNDLE": str(bundle)}, True)):
            way = HttpTransport(way=way_out(environ))
            outcome = await way.send(endpoint, HEADERS, BODY, 5.0)
            await way.aclose()
            assert isinstance(outcome, Reply) == good, outcome


@pytest.mark.parametrize("status", [403, 407, 502])
async def test_a_proxy_that_refuses(tmp_path: Path, status: int) -> None:
    """Nothing was sent; the words name the proxy's answer and hold no password."""
    async with behind(tmp_path, refuses=status) as (_, peer, environ):
        way = HttpTransport(way=way_out(environ))
        outcome = await send(way, API)
        await way.aclose()
    assert isinstance(outcome, Fault)
    assert (outcome.stage, outcome.code) == (Stage.BEFORE_SEND, "Local.Connect")
    address = environ["HTTPS_PROXY"].rpartition("@")[2]
    assert f"the proxy refuses: HTTP {status} No ({address})" in outcome.message
    assert "hunter2" not in outcome.message
    assert not peer.connections


async def test_a_proxy_that_is_not_there() -> None:
    """Is told from an API that is not there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    way = HttpTransport(way=way_out({"HTTPS_PROXY": f"http://op:hunter2@127.0.0.1:{port}"}))
    outcome = await send(way, API)
    await way.aclose()
    assert isinstance(outcome, Fault)
    assert (outcome.stage, outcome.code) == (Stage.BEFORE_SEND, "Local.Connect")
    assert f"the proxy cannot be reached: 127.0.0.1:{port}: " in outcome.message
    assert "hunter2" not in outcome.message


async def test_a_proxy_whose_name_is_unknown() -> None:
    """It is the proxy's name that is wrong; the endpoint's is never looked up here."""
    way = HttpTransport(way=way_out({"HTTPS_PROXY": "http://op:hunter2@proxy.invalid:3128"}))
    outcome = await send(way, API)
    await way.aclose()
    assert isinstance(outcome, Fault)
    assert (outcome.stage, outcome.code) == (Stage.BEFORE_SEND, "Local.Connect")
    assert "the proxy cannot be reached: proxy.invalid:3128: its name could not be resolved" in outcome.message
    assert "hunter2" not in outcome.message


async def test_what_a_proxy_says_is_one_clean_line_without_its_password(tmp_path: Path) -> None:
    """Its reason may hold what moves the cursor, what turns text round, and the login it was given."""
    reason = "No\x1b[2J\x07\u202e hunter2 b3A6aHVudGVyMg=="
    async with behind(tmp_path, refuses=403, reason=reason) as (_, _peer, environ):
        way = HttpTransport(way=way_out(environ))
        outcome = await send(way, API)
        await way.aclose()
    assert isinstance(outcome, Fault)
    assert outcome.message.isprintable()
    assert "hunter2" not in outcome.message
    assert "the proxy" in outcome.message


async def test_the_metadata_service_is_asked_past_the_proxy() -> None:
    """It is next door; a proxy would answer for another machine, with another machine's keys."""
    async with serving(_say("cvm")) as (peer, endpoint):
        way = HttpTransport(way=way_out({"HTTPS_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}))
        outcome = await way.get(f"{endpoint}/latest/meta-data/", 5.0)
        await way.aclose()
    assert isinstance(outcome, Reply)
    assert outcome.body == b"cvm"
    assert peer.connections == 1


def _say(text: str):  # type: ignore[no-untyped-def]
    async def talk(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.say(f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())

    return talk


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        (" 120 ", 120.0),
        ("Mon, 21 Sep 2026 14:13:30 GMT", 10.0),
        ("Mon, 21 Sep 2026 14:13:10 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("9" * 40, 999_999_999.0),
    ],
)
def test_retry_after_is_read(header: str | None, seconds: float | None) -> None:
    """In seconds, or as a date by the server's own clock; junk is no wish."""
    assert _seconds(header, 1_790_000_000.0) == seconds
