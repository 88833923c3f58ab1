"""`credentials`: keys from where the vendor keeps them, fresh, and never in a text."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import traceback
from pathlib import Path

import pytest

from engine.credentials.chain import find_keys as chain
from engine.credentials.files import MOST, FileKeys, read_cli
from engine.credentials.source import FixedKeys
from engine.errors import CredentialsError, Reason
from engine.model import Keys

ID, KEY, TOKEN = "AKIDexampleexampleexample", "s3cr3tkeys3cr3tkey", "t0kent0kent0ken"


def credential(home, profile="default", mode=0o600, **found):
    path = home / ".tccli" / f"{profile}.credential"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found or {"secretId": ID, "secretKey": KEY}))
    path.chmod(mode)
    return path


def sdk(home, text):
    path = home / ".tencentcloud" / "credentials"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def find_keys(profile, environ):
    return asyncio.run(chain(profile, environ))


def refresh(source):
    return asyncio.run(source.refresh())


def environ(home, **more):
    return {"HOME": str(home), **more}


def test_the_environment(tmp_path):
    """With its token; nothing there can change."""
    variables = {"TENCENTCLOUD_SECRET_ID": ID, "TENCENTCLOUD_SECRET_KEY": f" {KEY}\n", "TENCENTCLOUD_TOKEN": TOKEN}
    source, warnings = find_keys(None, environ(tmp_path, **variables))
    assert source.get() == Keys(secret_id=ID, secret_key=KEY, token=TOKEN)
    assert (source.label, source.identity, source.refreshable, refresh(source)) == (
        "environment",
        "environment",
        False,
        False,
    )
    assert warnings == ()


@pytest.mark.parametrize(("there", "missing"), [("SECRET_ID", "SECRET_KEY"), ("SECRET_KEY", "SECRET_ID")])
def test_half_a_pair_is_an_error(tmp_path, there, missing):
    """Silently falling through to another source would act as somebody else."""
    credential(tmp_path)
    with pytest.raises(CredentialsError, match=f"TENCENTCLOUD_{there} is set and TENCENTCLOUD_{missing} is not"):
        find_keys(None, environ(tmp_path, **{f"TENCENTCLOUD_{there}": "x"}))


@pytest.mark.parametrize("name", ["TENCENTCLOUD_TOKEN", "TENCENTCLOUD_TOKEN_FILE"])
def test_a_token_alone_is_an_error(tmp_path, name):
    """Its id and key were not exported: the default profile is somebody else."""
    credential(tmp_path)
    with pytest.raises(CredentialsError, match=f"{name} is set and TENCENTCLOUD_SECRET_ID and .* are not"):
        find_keys(None, environ(tmp_path, **{name: "x"}))


def test_the_order_of_sources(tmp_path):
    """A profile asked for by name, the environment, the default profile, the SDK's file."""
    by_environment = {"TENCENTCLOUD_SECRET_ID": "AKIDenv", "TENCENTCLOUD_SECRET_KEY": KEY}
    credential(tmp_path, "prod", secretId="AKIDprod", secretKey=KEY, token=TOKEN)
    default = credential(tmp_path)
    sdk(tmp_path, f"[default]\nsecret_id = AKIDsdk\nsecret_key = {KEY}\n")

    def found(profile=None, **more):
        source, _ = find_keys(profile, environ(tmp_path, **more))
        return source.get().secret_id, source.label

    assert found("prod", **by_environment) == ("AKIDprod", "tccli profile prod")
    assert found(**by_environment) == ("AKIDenv", "environment")
    assert found(TCCLI_PROFILE="prod") == ("AKIDprod", "tccli profile prod")
    assert found() == (ID, "tccli profile default")
    default.unlink()
    assert found() == ("AKIDsdk", "credentials file")


def test_nothing_found_names_every_place(tmp_path):
    """And what to do."""
    with pytest.raises(CredentialsError) as caught:
        find_keys(None, environ(tmp_path))
    said = str(caught.value)
    assert caught.value.reason == Reason.DENIED
    for place in (
        "TENCENTCLOUD_SECRET_ID",
        ".tccli/default.credential",
        ".tencentcloud/credentials",
        "tccli auth login",
    ):
        assert place in said
    with pytest.raises(CredentialsError, match="no API keys"):
        find_keys(None, {})


def test_a_profile_of_the_environment_that_is_not_there_is_an_error(tmp_path):
    """It was asked for by name: [default] of the SDK's file, or this machine's role, are somebody else."""
    credential(tmp_path, "prod")
    sdk(tmp_path, f"[default]\nsecret_id = AKIDsdk\nsecret_key = {KEY}\n")
    with pytest.raises(CredentialsError, match=r"TCCLI_PROFILE: no file .*/prd.credential; .* there are prod; correct"):
        find_keys(None, environ(tmp_path, TCCLI_PROFILE="prd"))
    assert find_keys(None, environ(tmp_path, TCCLI_PROFILE="default")).source.label == "credentials file"


def test_a_profile_that_is_not_there_names_those_that_are(tmp_path):
    """A slip in the name is the likeliest."""
    with pytest.raises(CredentialsError, match=r"profile prd: no file .*; there is none"):
        find_keys("prd", environ(tmp_path))
    credential(tmp_path, "prod")
    credential(tmp_path, "test")
    with pytest.raises(CredentialsError, match="there are prod, test; run `tccli configure --profile prd`"):
        find_keys("prd", environ(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[" * 60_000, "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "secret_id is missing or empty"),
        (json.dumps({"secretId": ID, "secretKey": " "}), "secret_key is missing or empty"),
        (json.dumps({"secretId": ID, "secretKey": 7}), "secret_key is not text"),
        (json.dumps({"secretId": ID, "secretKey": KEY + "\x7f"}), "secret_key holds characters no key has"),
        (json.dumps({"secretId": "AK ID", "secretKey": KEY}), "secret_id holds characters no key has"),
        (json.dumps({"secretId": f'"{ID}"', "secretKey": KEY}), "secret_id stands in quotes"),
        (json.dumps({"type": "oauth"}), r"holds no keys but a login of type 'oauth'; log in again \(`tccli auth"),
        (json.dumps({"secretId": ID, "secretKey": KEY, "expiresAt": 10**30}), "expiresAt is no time in UNIX seconds"),
        (json.dumps({"secretId": ID, "secretKey": KEY, "expiresAt": "soon"}), "expiresAt is no time in UNIX seconds"),
        (json.dumps({"secretId": KEY, "secretKey": ID}), "in each other's place; swap them"),
        (json.dumps({"secretId": f"{ID}'", "secretKey": KEY}), "secret_id stands in quotes"),
        (
            json.dumps({"secretId": ID, "secretKey": KEY, "role-arn": "ops", "role-session-name": "ann"}),
            "credential: 'ops' is no role",
        ),
        (json.dumps({"type": 7}), "type is not text"),
        (json.dumps({"secretId": ID, "secretKey": KEY, "role-arn": ["x"]}), "role-arn is not text"),
        ("\ufeff{}", "secret_id is missing"),
        ("x" * (MOST + 1), "larger than 64 KiB"),
    ],
)
def test_broken_tccli_files(tmp_path, text, said):
    """Each names the file; none repeats what stands in it."""
    path = credential(tmp_path)
    path.write_text(text)
    with pytest.raises(CredentialsError, match=said) as caught:
        find_keys(None, environ(tmp_path))
    assert str(path) in str(caught.value)
    printed = "".join(traceback.format_exception(caught.value))
    assert KEY not in printed
    assert caught.value.__cause__ is None


def test_a_file_that_is_no_text(tmp_path):
    """Bytes are not repeated either."""
    credential(tmp_path).write_bytes(b"\xff\xfe")
    with pytest.raises(CredentialsError, match="is not text"):
        find_keys(None, environ(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"has no section \[default\]"),
        ("[prod]\nsecret_id = x\n", r"has no section \[default\]"),
        (f"secret_id = {ID}\n", "is not an INI file"),
        (f"[default]\nsecret_id = {ID}\n", "secret_key is missing"),
        (f"[default]\nsecret_id = {ID}\nsecret_key = '{KEY}'\n", "stands in quotes"),
        (f"[default]\nsecret_id = {ID}\n[a]\n[default]\n", r"section \[default\] stands there again in line 4"),
        ("[a]\ntoken=x\nToken=y\n", r"token of \[a\] stands there again in line 3; remove one"),
    ],
)
def test_broken_sdk_files(tmp_path, text, said):
    """The vendor's SDK crashes without [default]; this says so."""
    sdk(tmp_path, text)
    with pytest.raises(CredentialsError, match=said):
        find_keys(None, environ(tmp_path))


def test_a_source_that_is_no_section_is_named_with_who_names_it(tmp_path):
    """Of a file with twenty sections, which one to look at."""
    sdk(tmp_path, f"[a]\nrole_arn=qcs::cam::uin/1:roleName/x\nsource_profile=b\n[c]\nsecret_id={ID}\n")
    with pytest.raises(CredentialsError, match=r"section \[a\] has source_profile b, and there is no such section"):
        find_keys("a", environ(tmp_path))


def test_which_of_the_two_files_it_was_is_said(tmp_path):
    """The user's and the machine's hold keys of different people."""
    system = tmp_path / "etc"
    system.write_text(f"[default]\nsecret_id={ID}\nsecret_key={KEY}\n[ops]\nsecret_id={ID}\nsecret_key={KEY}\n")
    found = [asyncio.run(chain(name, environ(tmp_path), system=system)).source.label for name in (None, "ops")]
    assert found == ["credentials file of this machine", "credentials file of this machine, profile ops"]


def test_a_pipe_is_no_file_of_keys(tmp_path):
    """Nobody may be writing to it, and it gives what it has once: the command would hang, or find nothing later."""
    os.mkfifo(tmp_path / "pipe")
    variables = {"TENCENTCLOUD_SECRET_ID": ID, "TENCENTCLOUD_SECRET_KEY_FILE": str(tmp_path / "pipe")}
    with pytest.raises(CredentialsError, match=r"TENCENTCLOUD_SECRET_KEY_FILE: .*/pipe: is a pipe"):
        find_keys(None, environ(tmp_path, **variables))


def test_the_sdk_file_is_taken_as_it_stands(tmp_path):
    """A % means itself; a token is taken too."""
    sdk(tmp_path, f"[default]\nsecret_id={ID}\nsecret_key=%(x)s100%\ntoken: {TOKEN}\n[other]\nsecret_id=z\n")
    source, _ = find_keys(None, environ(tmp_path))
    assert source.get() == Keys(secret_id=ID, secret_key="%(x)s100%", token=TOKEN)
    assert source.refreshable


def test_keys_rotate_when_the_file_does(tmp_path):
    """As the vendor's CLI writes: another file, renamed over the old one. The identity stays."""
    path = credential(tmp_path)
    source, _ = find_keys(None, environ(tmp_path))
    identity = source.identity
    assert not refresh(source)
    new = tmp_path / "new"
    new.write_text(json.dumps({"secretId": "AKIDnew", "secretKey": KEY}))
    new.chmod(0o600)
    new.replace(path)
    assert source.get().secret_id == "AKIDnew"
    assert not refresh(source)
    path.write_text(json.dumps({"secretId": "AKIDnewer", "secretKey": KEY}))
    assert refresh(source)
    assert (source.get().secret_id, source.identity) == ("AKIDnewer", identity)


def test_files_that_are_replaced_one_after_the_other_are_taken_up_together(tmp_path):
    """An id of one rotation with the key of another is refused, and ended the run in the second between them."""
    names = ("SECRET_ID", "SECRET_KEY", "TOKEN")

    def write(**values):
        for name, value in values.items():
            new = tmp_path / "new"
            new.write_text(value)
            new.chmod(0o600)
            new.replace(tmp_path / name)

    write(SECRET_ID=ID, SECRET_KEY=KEY, TOKEN="")
    named = {f"TENCENTCLOUD_{name}_FILE": str(tmp_path / name) for name in names}
    source, _ = find_keys(None, environ(tmp_path, **named))
    old = Keys(secret_id=ID, secret_key=KEY)
    write(SECRET_ID="AKIDnew")
    assert source.get() == old
    with pytest.raises(CredentialsError, match="environment files: id, key and token are not of one rotation; replace"):
        refresh(source)
    assert source.get() == old
    write(SECRET_KEY="n3wkey")
    assert source.get() == Keys(secret_id="AKIDnew", secret_key="n3wkey")
    write(TOKEN="t0ken-1", SECRET_KEY="n3werkey")
    assert source.get().token is None

    async def rest():
        asking = asyncio.ensure_future(source.refresh())
        await asyncio.sleep(0.05)
        write(SECRET_ID="AKIDnewer")
        return await asking

    assert asyncio.run(rest())
    assert source.get() == Keys(secret_id="AKIDnewer", secret_key="n3werkey", token="t0ken-1")


def test_a_key_in_a_file_beside_an_id_in_the_environment_is_taken_up(tmp_path):
    """The id cannot change there."""
    (tmp_path / "key").write_text(KEY)
    named = {"TENCENTCLOUD_SECRET_ID": ID, "TENCENTCLOUD_SECRET_KEY_FILE": str(tmp_path / "key")}
    source, _ = find_keys(None, environ(tmp_path, **named))
    (tmp_path / "key").write_text("n3wkey")
    assert refresh(source)
    assert source.get().secret_key == "n3wkey"


def test_a_file_broken_for_a_moment_leaves_the_keys(tmp_path):
    """In the middle of a run; `refresh`, which is asked when the API refuses them, says what is wrong."""
    path = credential(tmp_path)
    source, _ = find_keys(None, environ(tmp_path))
    path.write_text("{")
    assert source.get().secret_id == ID
    with pytest.raises(CredentialsError, match="is not JSON"):
        refresh(source)
    path.unlink()
    assert source.get().secret_id == ID
    with pytest.raises(CredentialsError, match="cannot be read"):
        refresh(source)
    credential(tmp_path, secretId="AKIDback", secretKey=KEY)
    assert source.get().secret_id == "AKIDback"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_files_others_can_read_or_write_are_a_warning(tmp_path, mode):
    """The vendor's CLI writes them private."""
    path = credential(tmp_path, mode=mode)
    _, warnings = find_keys(None, environ(tmp_path))
    assert warnings == (f"{path}: others can read or write these keys; chmod 600 {path}",)


def test_what_cannot_be_looked_at_is_an_error_not_a_skip(tmp_path, monkeypatch):
    """Skipping it would act with other keys."""
    credential(tmp_path)

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", denied)
    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(CredentialsError, match=r"default.credential: cannot be read \(Permission denied\)"):
        find_keys(None, environ(tmp_path))


def test_no_secret_in_any_text(tmp_path):
    """repr and str of the sources and their keys."""
    credential(tmp_path, secretId=ID, secretKey=KEY, token=TOKEN)
    source, _ = find_keys(None, environ(tmp_path))
    assert isinstance(source, FileKeys)
    fixed = FixedKeys(source.get(), "test")
    for shown in (repr(source), str(source), repr(fixed), repr(source.get()), repr(vars(source))):
        assert KEY not in shown
        assert TOKEN not in shown
        assert ID not in shown


def test_files_are_never_written(tmp_path):
    """Not by reading, not by refreshing."""
    path = credential(tmp_path)
    before = (path.stat().st_mtime_ns, path.read_bytes(), sorted(tmp_path.rglob("*")))
    source, _ = find_keys(None, environ(tmp_path))
    source.get()
    refresh(source)
    assert before == (path.stat().st_mtime_ns, path.read_bytes(), sorted(tmp_path.rglob("*")))
    assert read_cli(path.read_text()).keys["token"] is None


def test_without_home_no_directory_called_tilde_says_who_acts(tmp_path):
    """A timer without HOME starts anywhere: keys that somebody put into ./~/.tccli there are not used."""
    planted = tmp_path / "~"
    planted.mkdir()
    credential(planted, secretId="AKIDplanted", secretKey=KEY)
    sdk(planted, f"[default]\nsecret_id=AKIDplanted\nsecret_key={KEY}\n")
    with contextlib.chdir(tmp_path):
        try:
            found = asyncio.run(chain(None, {}, system=tmp_path / "none")).source.get().secret_id
        except CredentialsError as refused:
            assert "~" not in str(refused)
        else:
            assert found != "AKIDplanted"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_keys_in_a_file_of_somebody_else_are_said(tmp_path):
    """He can change whose keys they are, and so who acts."""
    path = credential(tmp_path)
    assert asyncio.run(chain(None, {"HOME": str(tmp_path)})).warnings == ()
    os.chown(path, 54321, -1)
    (said,) = asyncio.run(chain(None, {"HOME": str(tmp_path)})).warnings
    assert said == f"{path}: belongs to user 54321, who can put keys there to act with"
