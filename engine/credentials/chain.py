"""Devices, floor 2: the sources of keys in their order.

A profile asked for by name · the environment · the vendor's CLI profile · the vendor's SDK file, of the user, of the
machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.credentials.environment import NAMES, environment_keys
from engine.credentials.files import SYSTEM, cli_path, is_there, profile_keys, read_cli, read_section
from engine.credentials.source import HOW, KeySource
from engine.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Mapping


async def find_keys(
    profile: str | None, environ: Mapping[str, str], *, system: Path = SYSTEM
) -> tuple[KeySource, tuple[str, ...]]:
    """The first source that has keys, with warnings about it; CredentialsError names every place looked in.

    `profile` is what flag, job or config asked for; asked for by name, it wins over the environment, as with tccli.
    """
    home = Path(environ.get("HOME") or "~")
    if profile is not None:
        path = cli_path(home, profile)
        if not is_there(path):
            others = sorted(other.stem for other in path.parent.glob("*.credential"))
            there = f"there are {', '.join(others)}" if others else "there is none"
            raise CredentialsError(
                f"profile {profile}: no file {path}; {there}; run `tccli configure --profile {profile}`"
            )
        source = profile_keys(f"tccli profile {profile}", path, read_cli, None)
        return source, source.warnings
    by_environment = environment_keys(environ)
    if by_environment is not None:
        return by_environment
    name = environ.get("TCCLI_PROFILE") or "default"
    tccli = cli_path(home, name)
    if is_there(tccli):
        source = profile_keys(f"tccli profile {name}", tccli, read_cli, None)
        return source, source.warnings
    for path in (home / ".tencentcloud" / "credentials", system):
        if is_there(path):
            source = profile_keys("credentials file", path, read_section("default"), None)
            return source, source.warnings
    sdk = home / ".tencentcloud" / "credentials"
    raise CredentialsError(f"no API keys: looked in {', '.join(NAMES[:2])}, {tccli}, {sdk} and {system}; {HOW}")
