"""`network` of a config: the way to API, STS and webhook where no environment says it, as under cron or systemd."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from engine.cloud.proxy import way_out
from engine.errors import ConfigError
from engine.inputs.config import parse_config
from engine.inputs.settings import Configs, Flags, effective
from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.sts import KeyRecord
from engine.simulator.world import World
from tests.support.command import Backend, Desk, wait_until
from tests.support.tunnel import API, HOOK, STS, Tunnel

API_MAINLAND = "https://postgres.tencentcloudapi.com"
TO_THE_DRILL = f"endpoint: {API}\ncredentials: {{sts: '{STS}'}}\n"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    del desk.env["ACCTOPS_ENDPOINT"]
    return desk


def there() -> World:
    world = World(keys={DEMO_SECRET_ID: KeyRecord(secret_key=DEMO_SECRET_KEY, identity="100000000007")})
    world.seed("postgres-aaaaaaaa", "ap-singapore", ["ann", "bob"])
    world.seed("postgres-bbbbbbbb", "ap-singapore", ["eve"])
    return world


def dead_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_unit_needs_no_environment(desk: Desk, tmp_path: Path) -> None:
    """API, STS and webhook are reached through the config's proxy, trusted by its bundle, in its language."""
    desk.job()
    desk.write("hook.url", f"{HOOK}/T0/secret")
    with Tunnel(there(), tmp_path) as tunnel:
        desk.write(
            "config.yaml",
            f"{TO_THE_DRILL}notify: {{webhook: {{url_file: hook.url}}, on: finish}}\n"
            f"network: {{proxy: '{tunnel.proxy}', ca_bundle: ../ca.pem, language: zh-CN}}\n",
        )
        done = desk.run("run", "job.yaml", "--yes", "--json")
        assert done.code == 0, done.text
        wait_until(lambda: len(tunnel.hosts()) == 3)
    assert done.json["counts"]["changed"] == done.json["verified"]["agree"] == 3
    assert "warning" not in done.err
    names = {each.removeprefix("https://") for each in (API, STS, HOOK)}
    assert tunnel.hosts() == names
    assert set(tunnel.asked_for) == {f"{name}:443" for name in names}
    spoken = {headers.get("x-tc-language") for host, headers in tunnel.requests if f"https://{host}" != HOOK}
    assert spoken == {"zh-CN"}


def test_messages_are_english_unless_another_language_is_asked_for(desk: Desk, tmp_path: Path) -> None:
    """The header is always sent: without it the server decides by the site."""
    desk.job()
    with Tunnel(there(), tmp_path) as tunnel:
        desk.write("config.yaml", f"{TO_THE_DRILL}network: {{proxy: '{tunnel.proxy}', ca_bundle: ../ca.pem}}\n")
        assert desk.run("plan", "job.yaml").code == 0
    assert {headers["x-tc-language"] for _, headers in tunnel.requests} == {"en-US"}


def test_access_regions_by_their_own_names(desk: Desk, tmp_path: Path) -> None:
    """`regional` over real sockets: each region's host is asked for its own, a financial zone at its own only."""
    regions = ("ap-singapore", "ap-tokyo", "ap-shanghai-fsi")
    targets = [
        f"  - {{instance: postgres-{n:08d}, user: [ann, bob], region: {each}}}" for n, each in enumerate(regions)
    ]
    job = "\n".join(["action: LockAccount", "endpoint: regional", "targets:", *targets])
    desk.write("job.yaml", job)
    with Backend(there()) as backend:
        for number, region in enumerate(regions):
            backend.world.seed(f"postgres-{number:08d}", region, ["ann", "bob"])
        port = int(backend.endpoint.rpartition(":")[2])
        with Tunnel(backend.world, tmp_path, behind=port) as tunnel:
            desk.write("config.yaml", f"site: mainland\nnetwork: {{proxy: '{tunnel.proxy}', ca_bundle: ../ca.pem}}\n")
            done = desk.run("run", "job.yaml", "--yes", "--json")
            assert done.code == 0, done.text
            assert done.json["verified"]["agree"] == 6
            for arrival in backend.writes() + backend.reads():
                assert arrival.access == f"postgres.{arrival.region}.tencentcloudapi.com"
            assert {lane["lane"].rpartition("/")[2] for lane in done.json["pace"]} == {
                f"postgres.{each}.tencentcloudapi.com" for each in regions
            }
            desk.write("wrong.yaml", job.replace("regional", API_MAINLAND).replace("LockAccount", "UnlockAccount"))
            refused = desk.run("run", "wrong.yaml", "--yes", "--json")
            assert refused.code == 1, refused.text
            told = desk.run("report", refused.json["run"], "--format", "json").json["targets"]
            failed = [each for each in told if each["code"]]
            assert {each["code"] for each in failed} == {"UnsupportedRegion"}
            assert {each["region"] for each in failed} == {"ap-shanghai-fsi"}


def test_the_environment_wins_each_variable_over_its_key(desk: Desk, tmp_path: Path) -> None:
    """A proxy and a bundle of the config that are no good do not count where the environment names others."""
    with Tunnel(there(), tmp_path) as tunnel:
        desk.write(
            "config.yaml",
            f"{TO_THE_DRILL}network: {{proxy: 'http://127.0.0.1:{dead_port()}', ca_bundle: none.pem}}\n",
        )
        refused = desk.run("doctor")
        desk.env["ACCTOPS_CA_BUNDLE"] = str(tunnel.bundle)
        unreached = desk.run("doctor")
        desk.env["HTTPS_PROXY"] = tunnel.proxy.replace("http://", "http://op:hunter2@")
        done = desk.run("doctor")
    assert (refused.code, unreached.code, done.code) == (1, 1, 0), done.text
    assert re.search(r"fail  network: .*config.yaml:3:\d+: .*none.pem cannot be read: No such file", refused.out)
    assert "the proxy cannot be reached" in unreached.out
    assert f"ok    network: through the proxy {tunnel.proxy} (HTTPS_PROXY)" in done.out
    assert f"trusting {tunnel.bundle} (ACCTOPS_CA_BUNDLE)" in done.out
    assert "hunter2" not in "".join(desk.said)


@pytest.mark.parametrize("verb", [("run", "--yes"), ("run", "--yes", "--no-verify"), ("plan",), ("discover",)])
@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read: No such file"), ("junk", "holds no certificates")]
)
def test_a_bundle_that_is_no_good_is_refused_before_anything_is_asked(
    desk: Desk, tmp_path: Path, verb: tuple[str, ...], content: str | None, words: str
) -> None:
    """Exit 2, by its place; no run, no connection, whatever the verb."""
    job = desk.job()
    if verb == ("discover",):
        job.write_text(job.read_text() + "  - match: {users: {glob: ann}}\n")
    if content is not None:
        desk.write("company.pem", content)
    with Tunnel(there(), tmp_path) as tunnel:
        desk.write("config.yaml", f"{TO_THE_DRILL}network: {{proxy: '{tunnel.proxy}', ca_bundle: company.pem}}\n")
        done = desk.run(verb[0], "job.yaml", *verb[1:])
    assert done.code == 2, done.text
    assert re.search(rf"config.yaml:3:\d+: .*company.pem {words}", done.err)
    assert not tunnel.asked_for and not desk.journals()


def test_a_bundle_that_trusts_others_is_an_outage_and_not_a_way_around(desk: Desk, tmp_path: Path) -> None:
    """Nothing is sent over a connection whose certificate the bundle does not vouch for."""
    from tests.cloud.test_transport import CERTIFICATE as ANOTHERS

    desk.job()
    desk.write("others.pem", ANOTHERS)
    with Tunnel(there(), tmp_path) as tunnel:
        desk.write("config.yaml", f"{TO_THE_DRILL}network: {{proxy: '{tunnel.proxy}', ca_bundle: others.pem}}\n")
        done = desk.run("doctor")
    assert done.code == 1
    assert "[Local.Tls]" in done.out
    assert tunnel.asked_for and not tunnel.requests


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("{proxy: 'http://op:hunter2@proxy:3128'}", "network.proxy: a proxy's name and password are a secret"),
        ("{proxy: 'http://hunter2@proxy'}", "put the whole URL into HTTPS_PROXY"),
        ("{proxy: 'socks5://hunter2:1'}", "network.proxy: a proxy is http://host:port or https://host:port"),
        ("{proxy: 'hunter2:3128'}", "network.proxy: a proxy is http://host:port"),
        ("{proxy: 'http://hunter2:99999'}", "network.proxy: a proxy is http://host:port"),
        ("{proxy: 'http://hunter2/path'}", "network.proxy: a proxy is http://host:port"),
        ("{proxy: }", "network.proxy: has no value; expected the URL of a proxy"),
        ("{no_proxy: [.lan, 10.0.0.0/99]}", "network.no_proxy[1]: expected a host, a domain above it, a network"),
        ("{no_proxy: 'a, b'}", "network.no_proxy: expected a host, a domain above it"),
        ("{no_proxy: []}", "network.no_proxy: expected a host, a domain or a network, or a list of them"),
        ("{ca_bundle: [a, b]}", "network.ca_bundle: expected the path of a file of certificates"),
        ("{language: zh}", "network.language: expected en-US or zh-CN, got 'zh'"),
        ("{no_prox: x}", "network.no_prox: unknown key; did you mean no_proxy?"),
        ("{password: hunter2}", "network.password: secrets never stand in this file"),
        ("http://proxy:3128", "network: expected a mapping of proxy, no_proxy, ca_bundle, language"),
    ],
)
def test_what_is_wrong_about_the_network_is_said(network: str, said: str) -> None:
    """With its place, and of a proxy never a character: there may be a password in it."""
    with pytest.raises(ConfigError) as caught:
        parse_config(f"network: {network}".encode(), "c.yaml")
    assert str(caught.value).startswith("c.yaml:1:")
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_nearest_config_counts_key_by_key() -> None:
    """The machine names the proxy, a directory its own bundle, relative to itself."""
    near = parse_config(b"network: {ca_bundle: ca.pem, no_proxy: '*.lan'}\n", "/jobs/config.yaml")
    far = parse_config(
        b"network: {proxy: 'https://proxy:443', ca_bundle: /x, language: zh-CN, no_proxy: [b]}\n", "/etc/config.yaml"
    )
    settings = effective(Flags(), {"HOME": "/h"}, None, Configs(files=(near, far)))
    way = settings.way_out
    assert (way.proxy, way.no_proxy, way.ca_bundle) == ("https://proxy:443", ("*.lan",), "/jobs/ca.pem")
    assert settings.language == "zh-CN"
    origins = [settings.origin[name] for name in ("proxy", "no_proxy", "ca_bundle", "language")]
    assert origins == [
        "/etc/config.yaml:1:18", "/jobs/config.yaml:1:40", "/jobs/config.yaml:1:22", "/etc/config.yaml:1:64",
    ]  # fmt: skip
    assert way.proxy_for("https://a.lan") is None
    assert way.proxy_for("https://b") == "https://proxy:443"


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        ("http://op:hunter2@proxy.example:3128/hunter2?hunter2", "http://proxy.example:3128"),
        ("hunter2@proxy.example", "http://proxy.example"),
        ("https://op:hunter2@[fd00::1]:1", "https://[fd00::1]:1"),
        ("http://x:hunter2", "(cannot be used)"),
        ("socks5://op:hunter2@x:1", "(cannot be used)"),
    ],
)
def test_a_password_of_the_proxy_is_in_no_repr(proxy: str, shown: str) -> None:
    """Of whatever a variable holds only scheme, host and port are shown."""
    way = way_out({"HTTPS_PROXY": proxy})
    assert way.proxy_shown == shown
    settings = effective(Flags(), {"HOME": "/h", "HTTPS_PROXY": proxy}, None, Configs())
    assert "hunter2" not in f"{way!r} {way} {settings!r}"
