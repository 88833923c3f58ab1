"""Who acts, compared with the vendor's CLI: `parse_global_arg` and the choice after it, of tccli 3.1.189.1.

The CLI needs the vendor's whole SDK (100 MB), so that its rule stands here, line by line as in its code, and not the
CLI itself (services/postgres/postgres_client.py; credential.py of the SDK has what each choice means).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.credentials import find_keys
from engine.errors import CredentialsError
from engine.simulator.sts import KeyRecord, Role
from tests.support.cloud import Cloud

FILE_ROLE, ENV_ROLE, VM = Role(name="of-file"), Role(name="of-env"), Role(name="vm")
KEYS = {
    "AKIDfile": KeyRecord(secret_key="secret-of-file", identity="file"),
    "AKIDenv": KeyRecord(secret_key="secret-of-env", identity="env"),
}
ENV_KEYS = {"TENCENTCLOUD_SECRET_ID": "AKIDenv", "TENCENTCLOUD_SECRET_KEY": "secret-of-env"}
ENV_IN_ROLE = {"TENCENTCLOUD_ROLE_ARN": ENV_ROLE.arn, "TENCENTCLOUD_ROLE_SESSION_NAME": "ann"}
ENV_HALF_ROLE = {"TENCENTCLOUD_ROLE_ARN": ENV_ROLE.arn}
FILE_KEYS = {"secretId": "AKIDfile", "secretKey": "secret-of-file"}
FILE_IN_ROLE = {"role-arn": FILE_ROLE.arn, "role-session-name": "bob"}
FILE_HALF_ROLE = {"role-arn": FILE_ROLE.arn}
NOBODY = "nobody"


def tccli(file: Mapping[str, Any], environ: Mapping[str, str], *, named: bool) -> str:
    """Whom tccli acts as: a user, `role/USER` for a role assumed with the keys of one, `vm`."""
    cred: dict[str, Any] = dict(file)
    cvm_role_flag = True
    if not named:
        if environ.get("TENCENTCLOUD_SECRET_ID") and environ.get("TENCENTCLOUD_SECRET_KEY"):
            cred["secretId"] = environ["TENCENTCLOUD_SECRET_ID"]
            cvm_role_flag = False
        if environ.get("TENCENTCLOUD_ROLE_ARN") and environ.get("TENCENTCLOUD_ROLE_SESSION_NAME"):
            cred["role-arn"] = environ["TENCENTCLOUD_ROLE_ARN"]
            cred["role-session-name"] = environ["TENCENTCLOUD_ROLE_SESSION_NAME"]
            cvm_role_flag = False
    if cvm_role_flag and cred.get("type") == "cvm-role":
        return "vm"
    if "secretId" not in cred:
        return NOBODY
    user = KEYS[cred["secretId"]].identity
    if cred.get("role-arn") and cred.get("role-session-name"):
        return f"{cred['role-arn'].rpartition('/')[2]}/{user}"
    return str(user)


def acctops(place: Path, file: Mapping[str, Any] | None, environ: Mapping[str, str], *, named: bool) -> Any:
    """The same of us, and the warnings."""
    if file is not None:
        path = place / ".tccli" / "default.credential"
        path.parent.mkdir()
        path.write_text(json.dumps(file))
        path.chmod(0o600)
    trusting = [Role(name=role.name, trusted=frozenset({"file", "env"})) for role in (FILE_ROLE, ENV_ROLE)]
    cloud = Cloud(roles=tuple(trusting), metadata_role=VM, keys=dict(KEYS))
    found = cloud.run(
        lambda: find_keys(
            "default" if named else None,
            {"HOME": str(place), **environ},
            network=cloud.network,
            system=place / "none",
        )
    )
    label = found.source.label
    if " of " in label and ", through " in label:
        user = "env" if label.endswith("through environment") else "file" if "tccli" in label else "vm"
        return f"{label.split()[1]}/{user}", found.warnings
    secret_id = found.source.get().secret_id
    return (KEYS[secret_id].identity if secret_id in KEYS else "vm"), found.warnings


WORLDS = [
    (dict(itertools.chain(*(part.items() for part in file))), dict(itertools.chain(*(p.items() for p in env))), named)
    for file in itertools.product(
        (FILE_KEYS, {}),
        (FILE_IN_ROLE, FILE_HALF_ROLE, {}),
        ({"type": "cvm-role"}, {"type": "default"}, {"type": "oauth"}, {}),
    )
    for env in itertools.product((ENV_KEYS, {}), (ENV_IN_ROLE, ENV_HALF_ROLE, {}))
    for named in (False, True)
]


@pytest.mark.parametrize(("file", "environ", "named"), WORLDS, ids=[str(at) for at in range(len(WORLDS))])
def test_both_act_as_the_same(tmp_path: Path, file: dict[str, Any], environ: dict[str, str], named: bool) -> None:
    """Whatever profile and environment say together, a role without its session name, too.

    Where tccli has no keys at all we may still find the machine's.
    """
    expected = tccli(file, environ, named=named)
    if expected == NOBODY:
        try:
            who, _ = acctops(tmp_path, file, environ, named=named)
        except CredentialsError:
            return
        assert who in ("vm", "of-env/vm")
        return
    who, _ = acctops(tmp_path, file, environ, named=named)
    assert who == expected


def warned(place: Path, file: dict[str, Any] | None, environ: dict[str, str], *, named: bool = False) -> str:
    return "\n".join(acctops(place, file, environ, named=named)[1])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("TENCENTCLOUD_SECURITY_TOKEN", "acctops, like tccli, reads TENCENTCLOUD_TOKEN"),
        ("TENCENTCLOUD_SESSION_TOKEN", "acctops, like tccli, reads TENCENTCLOUD_TOKEN"),
        ("TENCENTCLOUD_SECRETID", "did you mean TENCENTCLOUD_SECRET_ID?"),
        ("tencentcloud_secret_id", "acctops reads TENCENTCLOUD_SECRET_ID"),
        ("TENCENTCLOUD_ASSUME_ROLE_ARN", "reads TENCENTCLOUD_ROLE_ARN"),
        ("TENCENTCLOUD_CREDENTIALS_FILE", "reads TCCLI_PROFILE"),
        ("TCCLI_PROFIL", "did you mean TCCLI_PROFILE?"),
        ("QCLOUD_SECRET_ID", "is not followed"),
    ],
)
def test_a_variable_that_is_not_followed_is_said(tmp_path: Path, name: str, hint: str) -> None:
    """What looks as if it said who acts, and does not, is told once, with what would."""
    said = warned(tmp_path, None, ENV_KEYS | {name: "hunter2"})
    assert said.count(f"'{name}'") == 1
    assert hint in said
    assert "hunter2" not in said


def test_a_variable_without_a_value_and_a_region_are_not_worth_a_word(tmp_path: Path) -> None:
    """A quiet night stays quiet."""
    assert warned(tmp_path, None, ENV_KEYS | {"TENCENTCLOUD_SECURITY_TOKEN": "", "TENCENTCLOUD_REGION": "x"}) == ""


@pytest.mark.parametrize(
    ("file", "environ", "named", "said"),
    [
        (FILE_KEYS, ENV_KEYS, True, "TENCENTCLOUD_SECRET_ID, TENCENTCLOUD_SECRET_KEY: set in the environment, and not"),
        (FILE_KEYS, ENV_IN_ROLE, True, "TENCENTCLOUD_ROLE_ARN: set in the environment, and not followed: profile"),
        (
            FILE_KEYS,
            ENV_KEYS | {"TCCLI_PROFILE": "x"},
            False,
            "TCCLI_PROFILE: set in the environment, and not followed",
        ),
        (FILE_KEYS | {"type": "cvm-role"}, {}, False, "is of type cvm-role: its own keys and role are not used"),
        (FILE_KEYS | FILE_IN_ROLE, ENV_KEYS, False, "its role-arn is assumed with the environment's keys, as tccli"),
        (FILE_KEYS | FILE_HALF_ROLE, ENV_KEYS, False, "is not assumed with the environment's keys: tccli"),
        (FILE_KEYS | FILE_HALF_ROLE, {}, False, "its role-arn is not assumed: tccli assumes a role only if"),
        (FILE_KEYS | {"secret_id": "x"}, {}, False, "'secret_id' is not followed; did you mean secretId?"),
        (FILE_KEYS, ENV_HALF_ROLE, False, "TENCENTCLOUD_ROLE_ARN is not assumed, as with tccli"),
    ],
)
def test_what_says_who_acts_is_never_dropped_silently(
    tmp_path: Path, file: dict[str, Any], environ: dict[str, str], named: bool, said: str
) -> None:
    """Each is one warning, and names what decides instead."""
    warnings = acctops(tmp_path, file, environ, named=named)[1]
    assert sum(said in warning for warning in warnings) == 1, warnings


def test_a_broken_profile_beside_keys_of_the_environment_is_said(tmp_path: Path) -> None:
    """It may name a role, in which tccli would act."""
    path = tmp_path / ".tccli" / "default.credential"
    path.parent.mkdir()
    path.write_text("{")
    path.chmod(0o600)
    assert "is not JSON" in warned(tmp_path, None, ENV_KEYS)
