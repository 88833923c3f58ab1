"""Keys in the environment, or in files that variables name (secrets mounted into a container)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.api.names import did_you_mean, shown
from engine.credentials.files import FileKeys, read_private
from engine.credentials.source import FixedKeys, Found, checked_keys
from engine.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

NAMES = ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY", "TENCENTCLOUD_TOKEN")
_PARTS = dict(zip(("secret_id", "secret_key", "token"), NAMES, strict=True))


_FILES = tuple(f"{name}_FILE" for name in NAMES)
ROLE, SESSION, PROFILE = "TENCENTCLOUD_ROLE_ARN", "TENCENTCLOUD_ROLE_SESSION_NAME", "TCCLI_PROFILE"
_DECIDING = (*NAMES, *_FILES, ROLE, PROFILE)
"""Variables that decide who acts."""
_PREFIXES = ("TENCENTCLOUD_", "TENCENT_CLOUD_", "TCCLI_", "QCLOUD_")
_KNOWN = (*_DECIDING, SESSION, f"{_PREFIXES[0]}REGION")
"""Variables that need no warning. A region needs none: each target names its own, and tccli's default is not used."""
_OTHERS = {
    "SECURITY_TOKEN": NAMES[2],
    "SESSION_TOKEN": NAMES[2],
    "ASSUME_ROLE_ARN": ROLE,
    "ASSUME_ROLE_SESSION_NAME": SESSION,
    "PROFILE": PROFILE,
    "CREDENTIALS_FILE": PROFILE,
    "SHARED_CREDENTIALS_DIR": PROFILE,
    "CAM_ROLE_NAME": ROLE,
}
"""Name in the vendor's other tools (Terraform's provider, the SDK for Go) → the variable that says the same here."""


def unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return a warning for each variable that seems to name an identity, but that neither acctops nor tccli reads."""
    found = []
    for name in sorted(environ):
        if not name.upper().startswith(_PREFIXES) or name in _KNOWN or not environ[name].strip():
            continue
        if (ours := _OTHERS.get(name.upper().removeprefix(_PREFIXES[0]))) is not None:
            hint = f"; acctops, like tccli, reads {ours}"
        else:
            hint = f"; acctops reads {name.upper()}" if name.upper() in _KNOWN else did_you_mean(name, _KNOWN)
        found.append(f"{shown(name)} in the environment is not followed{hint or '; acctops does not know it'}")
    return tuple(found)


def idle_variables(environ: Mapping[str, str], followed: Collection[str], instead: str) -> tuple[str, ...]:
    """Return one warning of the variables that name an identity and are not followed; `instead` says who acts."""
    idle = [name for name in _DECIDING if environ.get(name, "").strip() and name not in followed]
    return (f"{', '.join(idle)}: set in the environment, and not followed: {instead}",) if idle else ()


def environment_keys(environ: Mapping[str, str]) -> tuple[FixedKeys | FileKeys, tuple[str, ...]] | None:
    """Return the keys of the environment with warnings; None if it names none. CredentialsError for half a pair.

    Each of the three variables may be `NAME_FILE` instead: the path of a file that holds only the value.
    """
    values = {part: environ.get(name, "").strip() for part, name in _PARTS.items()}
    files = {part: environ.get(f"{name}_FILE", "").strip() for part, name in _PARTS.items()}
    for part, name in _PARTS.items():
        if values[part] and files[part]:
            raise CredentialsError(f"{name} and {name}_FILE are both set; unset one")
    there = {part for part in _PARTS if values[part] or files[part]}
    if not there:
        return None
    if there == {"token"}:
        given = _PARTS["token"] + ("_FILE" if files["token"] else "")
        raise CredentialsError(f"{given} is set and {NAMES[0]} and {NAMES[1]} are not; set all, or none of them")
    there -= {"token"}
    if len(there) == 1:
        (part,) = there
        missing = NAMES[1] if part == "secret_id" else NAMES[0]
        given = _PARTS[part] + ("_FILE" if files[part] else "")
        raise CredentialsError(f"{given} is set and {missing} is not; set both, or neither to use a tccli profile")
    if not any(files.values()):
        return FixedKeys(checked_keys(values, "environment")), ()
    paths = {part: Path(path) for part, path in files.items() if path}

    def load() -> tuple[Found, tuple[str, ...]]:
        read = {part: read_private(path, f"{_PARTS[part]}_FILE") for part, path in paths.items()}
        for part, private in read.items():
            if not private.text.strip() and part != "token":
                raise CredentialsError(f"{_PARTS[part]}_FILE: {paths[part]}: is empty; write the value into it, alone")
        found = values | {part: private.text for part, private in read.items()}
        where = "files of the environment (" + ", ".join(f"{_PARTS[part]}_FILE" for part in paths) + ")"
        return Found(checked_keys(found, where, "correct them")), tuple(
            text for each in read.values() for text in each.warnings
        )

    apart = {"secret_id", "secret_key"} <= paths.keys()
    source = FileKeys("environment files", tuple(paths.values()), load, apart=apart)
    return source, source.warnings
