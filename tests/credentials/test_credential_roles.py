"""`credentials`: keys somebody must be asked for: STS, the metadata service, a program. In memory and virtual time."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from pathlib import Path

import pytest

from engine.api.signing import Signer
from engine.credentials import KeySpec, Ways, open_keys
from engine.credentials import find_keys as chain
from engine.credentials.command import command_keys
from engine.credentials.metadata import keys_of
from engine.credentials.roles import session_name
from engine.credentials.source import FetchedKeys, Found
from engine.errors import CredentialsError, Reason
from engine.model import Keys, Reply
from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.sts import KeyRecord, Role
from tests.support.cloud import ENVIRONMENT, ROLE, Cloud

IN_ROLE = {"role-arn": ROLE.arn, "role-session-name": "ann"}

NOWHERE = Path("/nowhere/credentials")


def find(cloud, tmp_path, *, profile=None, ways=None, **environ):
    """Whatever the chain finds for an operator whose home is `tmp_path`."""
    environ = {"HOME": str(tmp_path)} | environ
    return cloud.run(lambda: chain(profile, environ, ways=ways, network=cloud.network, purpose="RUN-1", system=NOWHERE))


def refused(cloud, tmp_path, **options):
    with pytest.raises(CredentialsError) as caught:
        find(cloud, tmp_path, **options)
    printed = "".join(traceback.format_exception(caught.value))
    assert DEMO_SECRET_KEY not in printed
    assert caught.value.reason is Reason.DENIED
    return str(caught.value)


def credential(tmp_path, profile="default", **found):
    path = tmp_path / ".tccli" / f"{profile}.credential"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"secretId": DEMO_SECRET_ID, "secretKey": DEMO_SECRET_KEY} | found))
    path.chmod(0o600)
    return path


def sdk(tmp_path, text):
    path = tmp_path / ".tencentcloud" / "credentials"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def accepted(cloud, source):
    """Whether the world takes these keys now; who it says they are."""
    from engine.credentials.sts import ask_sts

    return cloud.run(lambda: ask_sts(cloud.network, "GetCallerIdentity", {}, keys=source.get())).data


# ---- roles ---------------------------------------------------------------------------------------------------------


def test_a_role_is_assumed_on_top_of_the_environment(tmp_path):
    """Its session carries the run's id, its quota is the role's, and its keys are those the server knows."""
    cloud = Cloud(roles=(ROLE,))
    source, warnings = find(cloud, tmp_path, ways=Ways(role_arn=ROLE.arn), **ENVIRONMENT)
    assert warnings == ()
    assert source.label == "role acctops of 100000000001, through environment"
    assert source.identity == "role acctops of 100000000001"
    assert source.expires_at == pytest.approx(cloud.clock() + 7200, abs=2)
    assert accepted(cloud, source)["UserId"] == "acctops:acctops-RUN-1"
    assert cloud.opened == cloud.closed == 2


@pytest.mark.parametrize("way", ["variable", "spec", "cli", "sdk", "sdk source"])
def test_every_way_to_name_a_role(tmp_path, way):
    """A variable, an account of a job, a CLI profile, a section of the SDK's file; the tool's session name is kept."""
    cloud = Cloud(roles=(ROLE,))
    keys = f"secret_id={DEMO_SECRET_ID}\nsecret_key={DEMO_SECRET_KEY}\n"
    match way:
        case "variable":
            names = {"TENCENTCLOUD_ROLE_ARN": ROLE.arn, "TENCENTCLOUD_ROLE_SESSION_NAME": "ann"}
            source, _ = find(cloud, tmp_path, **ENVIRONMENT, **names)
        case "spec":
            spec, environ = KeySpec(role_arn=ROLE.arn), {"HOME": str(tmp_path), **ENVIRONMENT}
            source, _ = cloud.run(lambda: open_keys(spec, environ, network=cloud.network, purpose="RUN-1"))
        case "cli":
            credential(tmp_path, **{"role-arn": ROLE.arn, "role-session-name": "ann"})
            source, _ = find(cloud, tmp_path)
        case "sdk":
            sdk(tmp_path, f"[default]\n{keys}role_arn={ROLE.arn}\nrole_session_name=ann\n")
            source, _ = find(cloud, tmp_path)
        case "sdk source":
            sdk(tmp_path, f"[prod]\nsource_profile=base\nrole_arn={ROLE.arn}\n[base]\n{keys}")
            source, _ = find(cloud, tmp_path, profile="prod")
    said = accepted(cloud, source)
    assert said["Type"] == "CAMRole"
    assert said["UserId"] == f"acctops:{'ann' if way in ('variable', 'cli', 'sdk') else 'acctops'}-RUN-1"


def test_a_role_of_the_environment_replaces_that_of_the_default_profile(tmp_path):
    """As with the vendor's CLI: value by value, the environment goes before the file."""
    cloud = Cloud(roles=(ROLE, Role(name="other")))
    credential(tmp_path, **{"role-arn": Role(name="other").arn, "role-session-name": "ann"})
    source, _ = find(cloud, tmp_path, TENCENTCLOUD_ROLE_ARN=ROLE.arn, TENCENTCLOUD_ROLE_SESSION_NAME="ann")
    assert source.identity == "role acctops of 100000000001"
    source, _ = find(cloud, tmp_path, profile="default", TENCENTCLOUD_ROLE_ARN=ROLE.arn)
    assert source.identity == "role other of 100000000001", "but not before a profile that was named"


def test_roles_stand_on_each_other(tmp_path):
    """A role that only another role may assume: the chain goes from the keys up, in one question each."""
    inner = Role(name="inner", trusted=frozenset({"role/outer"}))
    outer = Role(name="outer", trusted=frozenset({"100000000007"}))
    cloud = Cloud(roles=(inner, outer))
    credential(tmp_path, **{"role-arn": outer.arn, "role-session-name": "ann"})
    source, _ = find(cloud, tmp_path, ways=Ways(role_arn=inner.arn))
    assert accepted(cloud, source)["UserId"].startswith("inner:")
    assert len(cloud.asked("AssumeRole")) == 2
    assert "assumed: these keys" not in source.label
    alone = refused(Cloud(roles=(inner,)), tmp_path / "x", ways=Ways(role_arn=inner.arn), **ENVIRONMENT)
    assert "may not assume this role" in alone
    assert "[UnauthorizedOperation] (RequestId " in alone


@pytest.mark.parametrize("kind", ["the same role twice", "sections in a circle", "a section of itself"])
def test_looping_chains_are_refused_before_anybody_is_asked(tmp_path, kind):
    """They are named, link by link."""
    cloud = Cloud(roles=(ROLE,))
    ways = None
    if kind == "the same role twice":
        credential(tmp_path, **IN_ROLE)
        ways, said = Ways(role_arn=ROLE.arn), f"goes in a circle: {ROLE.arn} → {ROLE.arn}"
    elif kind == "sections in a circle":
        text = "".join(
            f"[{a}]\nsource_profile={b}\nrole_arn={ROLE.arn}\n" for a, b in (("default", "b"), ("b", "default"))
        )
        sdk(tmp_path, text)
        said = "source_profile goes in a circle: default → b → default"
    else:
        sdk(tmp_path, f"[default]\nsource_profile=default\nrole_arn={ROLE.arn}\n")
        said = "default → default"
    assert said in refused(cloud, tmp_path, ways=ways)
    assert not cloud.world.audit


@pytest.mark.parametrize(
    ("arn", "environ", "said"),
    [
        (Role(name="gone").arn, {}, "there is no such role; look at the ARN, and at the site"),
        ("acctops", {}, "'acctops' is no role: expected qcs::cam::uin/UIN:roleName/NAME"),
        (ROLE.arn, {"TENCENTCLOUD_SECRET_ID": "AKIDelsewhere"}, "it may be of the other site (international/mainland)"),
        (
            ROLE.arn,
            {"TENCENTCLOUD_SECRET_KEY": "wrong"},
            "does not belong to this key id [AuthFailure.SignatureFailure]",
        ),
    ],
)
def test_a_role_that_cannot_be_assumed(tmp_path, arn, environ, said):
    """Why, with the code and the RequestId where the server said so."""
    cloud = Cloud(roles=(ROLE,))
    assert said in refused(cloud, tmp_path, ways=Ways(role_arn=arn), **(ENVIRONMENT | environ))


@pytest.mark.parametrize(
    "fault",
    [
        {"code": "InternalError", "times": 2},
        {"reset_after": True, "times": 1},
        {"status": 502, "html": True, "times": 2},
        {"garbage": True, "times": 1},
        {"wrong_clock": 3600},
        {"wrong_clock": -86_400},
    ],
)
def test_sts_on_a_bad_day(tmp_path, fault):
    """What passes by itself is asked again; a clock that is off is learnt, and keys end by our clock, not by theirs."""
    cloud = Cloud(roles=(ROLE,), faults=({"action": "AssumeRole"} | fault,))
    source, _ = find(cloud, tmp_path, ways=Ways(role_arn=ROLE.arn), **ENVIRONMENT)
    assert source.expires_at == pytest.approx(cloud.clock() + 7200, abs=3)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            {"hang": True},
            "AssumeRole: http://127.0.0.1:9: no answer in time (no answer within 5 s",
        ),
        ({"code": "InternalError"}, "[InternalError] (RequestId "),
        ({"html": True}, "cannot be reached, or did not answer as STS does (HTTP 200"),
        ({"status": 502, "html": True}, "[Local.Http502]; look at the address (site, credentials.sts), DNS, firewall"),
        (
            {"code": "AuthFailure.TokenFailure"},
            "the session token is expired, or belongs to other keys [AuthFailure.Tok",
        ),
        ({"code": "AuthFailure.SignatureFailure"}, "the secret key does not belong to this key id [AuthFailure.Sig"),
        ({"code": "AuthFailure.UnauthorizedOperation"}, "their policy lacks sts:AssumeRole [AuthFailure.Unauth"),
        ({"code": "RequestLimitExceeded"}, "STS is asked too often by this account; try again in a minute ["),
        ({"code": "AuthFailure.SignatureExpire"}, "this host's clock is off, and the difference cannot be learnt"),
    ],
)
def test_sts_that_does_not_recover(tmp_path, fault, said):
    """A limit, and then words."""
    cloud = Cloud(roles=(ROLE,), faults=({"action": "AssumeRole"} | fault,))
    assert said in refused(cloud, tmp_path, ways=Ways(role_arn=ROLE.arn), **ENVIRONMENT)
    assert cloud.seconds < 20
    assert cloud.opened == cloud.closed


def test_a_role_whose_own_keys_rotate(tmp_path):
    """The CLI profile underneath was rewritten: the next question is signed with what stands there now."""
    cloud = Cloud(roles=(ROLE,))
    path = credential(tmp_path, **IN_ROLE)
    source, _ = find(cloud, tmp_path)
    del cloud.world.keys[DEMO_SECRET_ID]
    no_others = (
        r"AssumeRole: the key does not exist .* \[AuthFailure.SecretIdNotFound\] \(RequestId .*; tccli .* no others"
    )
    with pytest.raises(CredentialsError, match=no_others):
        cloud.run(source.refresh)
    path.write_text(json.dumps({"secretId": "AKIDgone", "secretKey": "x"} | IN_ROLE))
    with pytest.raises(
        CredentialsError, match=r"role acctops of .*, through tccli profile default: AssumeRole: the key"
    ):
        cloud.run(source.refresh)
    cloud.world.keys["AKIDnew"] = KeyRecord(secret_key="brand-new-key", identity="100000000007")
    path.write_text(json.dumps({"secretId": "AKIDnew", "secretKey": "brand-new-key"} | IN_ROLE))
    assert cloud.run(source.refresh)
    assert accepted(cloud, source)["Type"] == "CAMRole"


def test_a_role_on_top_of_keys_that_end_refreshes_both(tmp_path):
    """The instance's keys live 30 s: they are asked for anew before they are used to assume the role."""
    bound = Role(name="cvm", longest_s=90)
    cloud = Cloud(roles=(ROLE,), metadata_role=bound)
    source, _ = find(cloud, tmp_path, ways=Ways(role_arn=ROLE.arn))
    cloud.run(lambda: asyncio.sleep(85))
    assert cloud.run(source.refresh)
    assert accepted(cloud, source)["UserId"] == "acctops:acctops-RUN-1"


def test_the_name_of_a_session_is_always_one():
    """Only characters STS takes, at most 128 of them, the run in it."""
    assert session_name(None, "20261125T000000Z-abcd") == "acctops-20261125T000000Z-abcd"
    assert session_name("Ann Müller", "R") == "Ann_M_ller-R"
    assert len(session_name("x" * 300, "R")) == 128


def test_a_role_is_signed_for_the_service_sts():
    """The scope names the service: signed for postgres, STS refuses it."""
    keys = Keys(secret_id="AKIDx", secret_key="y")
    signer = Signer()
    at = ("sts.tencentcloudapi.com", "AssumeRole", "ap-guangzhou", "2018-08-13", b"{}", 1_700_000_000)
    assert "/sts/tc3_request" in signer.headers(keys, *at, trace="t", service="sts")["Authorization"]
    assert "/postgres/tc3_request" in signer.headers(keys, *at, trace="t")["Authorization"]


# ---- the machine this runs on --------------------------------------------------------------------------------------


def test_the_role_of_the_instance_is_what_is_left(tmp_path):
    """Nothing in environment and files: the metadata service is asked, and its keys are the server's."""
    cloud = Cloud(metadata_role=Role(name="cvm", longest_s=600))
    source, _ = find(cloud, tmp_path)
    assert (source.label, source.identity) == ("role of this instance (metadata service)", "instance role")
    assert source.expires_at == pytest.approx(cloud.clock() + 600, abs=2)
    assert accepted(cloud, source)["UserId"] == "cvm:instance"
    credential(tmp_path, profile="vm", secretId="", type="cvm-role")
    assert find(cloud, tmp_path, profile="vm").source.label == source.label


def test_files_come_before_the_instance(tmp_path):
    """And then the service is not even asked."""
    cloud = Cloud(metadata_role=Role(name="cvm"))
    credential(tmp_path)
    assert find(cloud, tmp_path).source.label == "tccli profile default"
    assert find(cloud, tmp_path, **ENVIRONMENT).source.label == "environment"
    assert not cloud.world.audit


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ((), "no role is bound to this instance (HTTP 404)"),
        (({"hang": True},), "no answer within 2 s"),
        (({"status": 500},), "does not answer as one (HTTP 500)"),
        (({"html": True},), "what answers is no name of a role"),
        (({"reset_before": True},), "connection reset by peer"),
    ],
)
def test_off_an_instance(tmp_path, faults, said):
    """A network that swallows packets costs two seconds, not a minute; every place looked in is named."""
    cloud = Cloud(faults=tuple({"action": "Metadata"} | fault for fault in faults))
    text = refused(cloud, tmp_path)
    assert said in text
    for place in ("TENCENTCLOUD_SECRET_ID", "default.credential", ".tencentcloud/credentials", "tccli configure"):
        assert place in text
    assert cloud.seconds < 4
    quiet = Cloud(metadata_role=Role(name="cvm"))
    assert "metadata" not in refused(quiet, tmp_path, ways=Ways(metadata=False))
    assert not quiet.world.audit


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"garbage": True}, "the metadata service answered with something else than JSON"),
        ({"status": 500}, "it is named, and its keys are not to be had: metadata service http"),
        ({"hang": True}, "no answer within 2 s"),
    ],
)
def test_an_instance_that_gives_no_keys_for_its_role_is_an_error(tmp_path, fault, said):
    """It has a role: going on to somebody else's keys would be wrong, such as to those of the pod on it."""
    role = Role(name="pod", provider="cls-1", tokens={TOKEN})
    fault = {"action": "Metadata", "after": 1} | fault
    cloud = Cloud(roles=(role,), metadata_role=Role(name="cvm"), faults=(fault,))
    text = refused(cloud, tmp_path, **pod(tmp_path, role))
    assert text.startswith("role cvm of this instance: ")
    assert said in text


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"ExpiredTime": 10**30}, "an end of its keys that is no time"),
        ({"ExpiredTime": 1_900_000_000_000}, "an end of its keys that is no time"),
        ({"Token": None}, "answered without a token"),
        ({"TmpSecretKey": 7}, "secret_key is not text; the metadata service answered so"),
    ],
)
def test_what_the_metadata_service_says_is_not_believed_blindly(said, words):
    """A number of another unit would be no end at all, or a crash."""
    whole = {"Code": "Success", "TmpSecretId": "AKIDx", "TmpSecretKey": "k", "Token": "t", "ExpiredTime": 1_900_000_000}
    network = Cloud().network
    with pytest.raises(CredentialsError, match="something else than JSON; try again, or name other keys"):
        keys_of(Reply(status=200, body=b"[" * 100_000), "role cvm of this instance", network)
    reply = Reply(status=200, body=json.dumps(whole).encode())
    assert keys_of(reply, "role cvm of this instance", network).expires_at == 1_900_000_000
    with pytest.raises(CredentialsError, match=words):
        keys_of(Reply(status=200, body=json.dumps(whole | said).encode()), "role cvm of this instance", network)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "STS answered without keys that have an end; look at"),
        ({"ExpiredTime": 10**30}, "STS answered without keys that have an end; look at"),
        ({"ExpiredTime": 5}, "STS answered with keys that have expired; look at"),
        ({"ExpiredTime": 1_900_000_000, "Credentials": {"TmpSecretId": 7}}, "secret_id is not text; STS answered so"),
    ],
)
def test_what_sts_says_is_not_believed_blindly(said, words):
    """What stands in the place of STS: a proxy's page in JSON, a stand-in of somebody's."""
    from engine.credentials.sts import Said, session_of

    keys = {"Credentials": {"TmpSecretId": "AKIDx", "TmpSecretKey": "k", "Token": "t"}}
    with pytest.raises(CredentialsError, match=words) as caught:
        session_of(Said(keys | said, 0.0), "role ops", 1_800_000_000.0)
    assert str(caught.value).count("role ops") == 1


TOKEN = "eyJhbGciOi.web-identity.token"


def pod(tmp_path, role):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    return {
        "TKE_REGION": "ap-guangzhou",
        "TKE_PROVIDER_ID": "cls-1",
        "TKE_WEB_IDENTITY_TOKEN_FILE": str(file),
        "TKE_ROLE_ARN": role.arn,
    }


def test_a_pod_with_a_web_identity(tmp_path):
    """Unsigned, as the token is the credential; the token is read again at each refresh."""
    role = Role(name="pod", provider="cls-1", tokens={TOKEN}, longest_s=600)
    cloud = Cloud(roles=(role,))
    environ = pod(tmp_path, role)
    source, _ = find(cloud, tmp_path, **environ)
    assert source.identity == "role pod of 100000000001"
    assert accepted(cloud, source)["UserId"] == "pod:acctops-RUN-1"
    role.tokens.clear()
    role.tokens.add("another-token")
    with pytest.raises(CredentialsError, match="the web identity token is not accepted") as caught:
        cloud.run(source.refresh)
    assert TOKEN not in str(caught.value)
    Path(environ["TKE_WEB_IDENTITY_TOKEN_FILE"]).write_text("another-token")
    assert cloud.run(source.refresh)


def test_half_a_pod_is_not_a_crash(tmp_path):
    """The vendor's SDK ends with "TKE_REGION not exist" (PY-COMMON); this says what is missing, among the rest."""
    environ = pod(tmp_path, Role(name="pod"))
    del environ["TKE_REGION"]
    assert "TKE's variables (TKE_REGION not set)" in refused(Cloud(), tmp_path, **environ)
    environ = pod(tmp_path, Role(name="pod")) | {"TKE_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "none")}
    text = refused(Cloud(), tmp_path, **environ)
    assert text.endswith("none: cannot be read (No such file or directory); correct TKE_WEB_IDENTITY_TOKEN_FILE")
    assert text.startswith("TKE_WEB_IDENTITY_TOKEN_FILE: ")
    text = refused(Cloud(), tmp_path, **(pod(tmp_path, Role(name="pod")) | {"TKE_ROLE_ARN": "pod"}))
    assert text.startswith("TKE_ROLE_ARN: 'pod' is no role: expected")


# ---- a program -----------------------------------------------------------------------------------------------------


def program(tmp_path, body):
    """A command that runs Python of the test's."""
    path = tmp_path / "keys.py"
    path.write_text(body)
    return (sys.executable, str(path))


SHAPES = [
    {"secret_id": "AKIDx", "secret_key": "k3y", "token": "t0k", "expires_at": 4_000_000_000},
    {"secretId": "AKIDx", "secretKey": "k3y", "token": "t0k", "expiresAt": 4_000_000_000},
    {"TmpSecretId": "AKIDx", "TmpSecretKey": "k3y", "Token": "t0k", "Expiration": "2096-10-02T07:06:40Z"},
    {
        "Credentials": {"TmpSecretId": "AKIDx", "TmpSecretKey": "k3y", "Token": "t0k"},
        "ExpiredTime": 4_000_000_000,
        "Expiration": "2096-10-02T07:06:40Z",
        "RequestId": "r",
    },
    {"Response": {"Credentials": {"TmpSecretId": "AKIDx", "TmpSecretKey": "k3y", "Token": "t0k"}, "ExpiredTime": 4e9}},
]


@pytest.mark.parametrize("shape", SHAPES)
async def test_what_a_credential_command_may_print(tmp_path, shape):
    """Our own shape, a CLI profile, the metadata service's, and what STS answers."""
    source = command_keys(program(tmp_path, f"print({json.dumps(shape)!r})"))
    assert await source.refresh()
    assert source.get() == Keys(secret_id="AKIDx", secret_key="k3y", token="t0k")
    assert source.expires_at == 4_000_000_000
    assert not await source.refresh(), "the same keys again are no others"
    assert source.identity.startswith("command python")


SECRET = "hunter2-hunter2-hunter2"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "printed nothing"),
        (f"print({SECRET!r})", "printed something else than JSON"),
        ("print('[]')", "printed JSON that is no object"),
        ("print('[' * 50000)", "something else than JSON"),
        (f"""print('{{"secret_id": "x", "secret_kay": "{SECRET}"}}')""", "secret_key is missing or empty"),
        (f"""print('{{"secret_id": "x", "secret_key": "{SECRET} {SECRET}"}}')""", "holds characters no key has"),
        ("print('x' * 1000000)", "printed more than 64 KiB"),
        (
            f"""print('{{"k": "{SECRET}"}}'); import sys; sys.exit('no {SECRET} today')""",
            "exit status 1: no [redacted] to",
        ),
        ("import sys; sys.exit(3)", "exit status 3"),
        (f"""print('{{"secret_id": "x", "secret_key": "{SECRET}", "expires_at": 5}}')""", "keys that have expired"),
        (
            f"""print('{{"secret_id": "x", "secret_key": "{SECRET}", "expires_at": 1795700000000}}')""",
            "expires_at is neither UNIX seconds (not milliseconds",
        ),
        (f"""print('{{"secret_id": "x", "secret_key": "{SECRET}", "expires_at": 1e18}}')""", "expires_at is neither"),
        (f"""print('{{"secret_id": 7, "secret_key": "{SECRET}"}}')""", "secret_id is not text; it must print {"),
        ("import sys; sys.exit('token hunter2x0123456789abcdef: denied')", "exit status 1: token [redacted]: denied"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9; run it by hand to see why (credentials.command"),
        (
            f"""print('{{"secret_id": "x", "secret_key": "{SECRET}", "expires_at": "soon"}}')""",
            "expires_at is neither UNIX seconds",
        ),
    ],
)
async def test_a_credential_command_that_fails(tmp_path, body, said):
    """Each says which program and what is wrong; nothing it printed is repeated."""
    source = command_keys(program(tmp_path, body))
    with pytest.raises(CredentialsError, match=r"^credential command python") as caught:
        await source.refresh()
    assert said in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value)) + repr(source)


async def test_a_credential_command_that_is_not_there(tmp_path):
    """Or that cannot be run."""
    with pytest.raises(CredentialsError, match="credential command nobody: cannot be started: No such file"):
        await command_keys((str(tmp_path / "nobody"), "x")).refresh()
    with pytest.raises(CredentialsError, match="cannot be started: its arguments cannot be passed"):
        await command_keys(("true", "a\0b")).refresh()


async def test_a_credential_command_that_never_ends_is_ended(tmp_path):
    """With what it started; the limit is thirty seconds, which a cancelled wait stands for here."""
    mark = tmp_path / "alive"
    body = f"import pathlib, time\nwhile True:\n    pathlib.Path({str(mark)!r}).touch()\n    time.sleep(0.01)\n"
    source = command_keys(program(tmp_path, body))
    asking = asyncio.ensure_future(source._ask())
    while not mark.exists():
        await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    mark.unlink()
    await asyncio.sleep(0.1)
    assert not mark.exists()


async def test_the_command_comes_after_the_environment_and_before_the_files(tmp_path):
    """Keys exported at 3 a.m. win over what a config file says, a command over the profile that happens to be there."""
    credential(tmp_path)
    ways = Ways(command=program(tmp_path, f"print({json.dumps(SHAPES[0])!r})"))
    home = {"HOME": str(tmp_path)}
    assert (await chain(None, home, ways=ways)).source.get().secret_id == "AKIDx"
    assert (await chain(None, home | ENVIRONMENT, ways=ways)).source.get().secret_id == DEMO_SECRET_ID
    assert (await chain("default", home, ways=ways)).source.label == "tccli profile default"


# ---- one question at a time ----------------------------------------------------------------------------------------


async def test_a_hundred_who_ask_are_one_question():
    """And all hear the answer; who stops waiting stops nothing; after a failure the next may ask again."""
    asked = 0
    gate = asyncio.Event()

    async def fetch() -> Found:
        nonlocal asked
        asked += 1
        await gate.wait()
        if asked == 2:
            raise CredentialsError("nobody is at home")
        return Found(Keys(secret_id=f"AKID{asked}", secret_key="k"))

    source = FetchedKeys("test", "test", fetch)
    with pytest.raises(CredentialsError, match="test: not asked for keys yet"):
        source.get()
    waiting = [asyncio.ensure_future(source.refresh()) for _ in range(100)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    gate.set()
    assert await asyncio.gather(*waiting[1:]) == [True] * 99
    assert (asked, source.get().secret_id) == (1, "AKID1")
    failed = await asyncio.gather(*(source.refresh() for _ in range(5)), return_exceptions=True)
    assert {str(each) for each in failed} == {"nobody is at home"}
    assert (asked, source.get().secret_id) == (2, "AKID1"), "a failure leaves the keys"
    assert await source.refresh()
    assert source.get().secret_id == "AKID3"
    assert "AKID3" not in repr(source)
