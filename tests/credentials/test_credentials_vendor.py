"""The vendor's SDK and ours read the same set-ups and come to the same identity, apart from its documented bugs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine.cloud.transport import HttpTransport
from engine.credentials import find_keys
from engine.credentials.network import Network
from engine.credentials.sts import ask_sts
from engine.errors import CredentialsError
from engine.simulator.sts import KeyRecord, Role
from engine.simulator.world import World
from tests.support.command import Backend

TOKEN = "web-identity-token"
KEYS = {f"AKID{name}": KeyRecord(secret_key=f"secret-{name}", identity=name) for name in ("ENV", "HOME", "ETC", "CLI")}
CVM = Role(name="cvm")
POD = Role(name="pod", provider="cls-1", tokens={TOKEN})

VENDOR = """
import json, os, sys
import tencentcloud.common.credential as credential
from tencentcloud.common.common_client import CommonClient
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile

port, system = sys.argv[1], sys.argv[2]
# Where it asks and looks: the simulator stands for the metadata service and STS, a file of the test's for /etc.
credential.CVMRoleCredential._role_endpoint = f"http://127.0.0.1:{port}/latest/meta-data/cam/security-credentials/"
credential.OIDCRoleArnCredential._endpoint = f"127.0.0.1:{port}"
exists = os.path.exists
os.path.exists = lambda path: exists(system if path == "/etc/tencentcloud/credentials" else path)
read = credential.configparser.ConfigParser.read
credential.configparser.ConfigParser.read = lambda self, path, *rest: read(
    self, system if path == "/etc/tencentcloud/credentials" else path, *rest
)
made = HttpProfile(protocol="http", endpoint=f"127.0.0.1:{port}")
credential.HttpProfile = lambda: made
profile = ClientProfile(httpProfile=made)
try:
    found = credential.DefaultCredentialProvider().get_credential()
    client = CommonClient("sts", "2018-08-13", found, "ap-guangzhou", profile)
    print(json.dumps({"user": client.call_json("GetCallerIdentity", {})["Response"]["UserId"]}))
except BaseException as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"[:200]}))
"""


@dataclass(frozen=True)
class Setup:
    """One desk of an operator."""

    name: str
    ours: str
    """UserId, without the session's name; or words of the refusal."""
    vendor: str = "same"
    """What the vendor's SDK makes of it where it differs, and that is a bug of its own (PY-COMMON)."""
    environ: tuple[tuple[str, str], ...] = ()
    home: str | None = None
    etc: str | None = None
    cvm: bool = False
    pod: bool = False


def keys(name: str, section: str = "default") -> str:
    return f"[{section}]\nsecret_id = AKID{name}\nsecret_key = secret-{name}\n"


ENV = (("TENCENTCLOUD_SECRET_ID", "AKIDENV"), ("TENCENTCLOUD_SECRET_KEY", "secret-ENV"))
SETUPS = [
    Setup("environment", "ENV", environ=ENV),
    Setup("environment before everything", "ENV", environ=ENV, home=keys("HOME"), etc=keys("ETC"), cvm=True, pod=True),
    Setup("the user's file", "HOME", home=keys("HOME")),
    Setup("the user's file before the machine's", "HOME", home=keys("HOME"), etc=keys("ETC"), cvm=True),
    Setup("the machine's file", "ETC", etc=keys("ETC")),
    Setup("a file before the instance and the pod", "ETC", etc=keys("ETC"), cvm=True, pod=True),
    Setup("further sections", "HOME", home=keys("ETC", "other") + keys("HOME")),
    Setup("blanks around values", "HOME", home=keys("HOME").replace("= ", "=   ").replace("\n", "  \n")),
    Setup("the instance's role", "cvm", cvm=True),
    Setup("the instance before the pod", "cvm", cvm=True, pod=True),
    Setup("the pod", "pod", pod=True),
    Setup("nothing", "no API keys", vendor="TKE_REGION not exist"),
    # Bugs of the vendor's: a section [default] that is missing is an AttributeError and breaks the whole chain.
    Setup("no [default]", "ETC", vendor="AttributeError", home=keys("HOME", "prod"), etc=keys("ETC")),
    Setup("no [default], an instance", "cvm", vendor="AttributeError", home=keys("HOME", "prod"), cvm=True),
    # Half a pair is passed over in silence, which acts as somebody else.
    Setup("half a pair", "TENCENTCLOUD_SECRET_KEY is not", vendor="HOME", environ=ENV[:1], home=keys("HOME")),
    # Quotes, as its own docstring has them, become part of the key.
    Setup(
        "quotes",
        "stands in quotes",
        vendor="TencentCloudSDKException",
        home='[default]\nsecret_id="AKIDHOME"\nsecret_key="secret-HOME"\n',
    ),
    # A role of the file is read and never assumed: it acts as the user underneath.
    Setup("a role in the file", "pod", vendor="HOME", home=keys("HOME") + f"role_arn = {POD.arn}\n"),
]


def prepared(setup: Setup, place: Path) -> tuple[dict[str, str], Path]:
    """Environment and the machine's file of a set-up."""
    environ = {"HOME": str(place), "PATH": os.environ["PATH"], **dict(setup.environ)}
    etc = place / "etc-credentials"
    for path, text in ((place / ".tencentcloud" / "credentials", setup.home), (etc, setup.etc)):
        if text is not None:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o600)
    if setup.pod:
        token = place / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        environ |= {
            "TKE_REGION": "ap-guangzhou",
            "TKE_PROVIDER_ID": "cls-1",
            "TKE_WEB_IDENTITY_TOKEN_FILE": str(token),
            "TKE_ROLE_ARN": POD.arn,
        }
    return environ, etc


def ours(environ: dict[str, str], etc: Path, endpoint: str) -> str:
    """Whom our chain acts as, as STS says it; or the words of its refusal."""

    async def ask() -> str:
        network = Network(open=lambda: HttpTransport(connections=2), sts=endpoint, metadata=endpoint)
        try:
            source, _ = await find_keys(None, environ, network=network, system=etc)
        except CredentialsError as error:
            return str(error)
        said = await ask_sts(network, "GetCallerIdentity", {}, keys=source.get())
        return str(said.data["UserId"])

    return asyncio.run(ask())


def theirs(environ: dict[str, str], etc: Path, endpoint: str) -> dict[str, Any]:
    """The same of the vendor's SDK, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", VENDOR, endpoint.rpartition(":")[2], str(etc)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_both_reach_the_same_identity(tmp_path: Path, setup: Setup) -> None:
    """From the same files and variables, against the same STS and metadata service."""
    environ, etc = prepared(setup, tmp_path)
    world = World(keys=dict(KEYS), roles=(POD,), metadata_role=CVM if setup.cvm else None)
    with Backend(world) as backend:
        we = ours(environ, etc, backend.endpoint)
        they = theirs(environ, etc, backend.endpoint)
    who = we.partition(":")[0] if setup.ours in ("cvm", "pod") else we
    assert setup.ours in who
    if setup.vendor == "same":
        assert they.get("user", "").partition(":")[0] == who, they
    else:
        assert setup.vendor in (they.get("user") or they["error"]), they
