"""Devices, floor 2: keys in the environment, or in files that variables name (secrets mounted into a container)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.credentials.files import FileKeys, read_private
from engine.credentials.source import FixedKeys, Found, checked_keys
from engine.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY", "TENCENTCLOUD_TOKEN")
_PARTS = dict(zip(("secret_id", "secret_key", "token"), NAMES, strict=True))


def environment_keys(environ: Mapping[str, str]) -> tuple[FixedKeys | FileKeys, tuple[str, ...]] | None:
    """Keys of the environment with warnings; None if it names none. CredentialsError for half a pair.

    Each of the three variables may be `NAME_FILE` instead, the path of a file that holds the value alone.
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
