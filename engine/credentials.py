"""Devices, floor 2: API keys from the environment or the vendor's files. Reads, never writes; no secret in any text.

Sources and key names: facts.md §5. Files are read again when they change, so keys can rotate under a long run; the
environment of a process cannot. Order: a profile asked for by name · the environment · the default tccli profile ·
`~/.tencentcloud/credentials`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine.errors import CredentialsError
from engine.model import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MOST = 64 << 10
"""Bytes of a credential file; the vendor's have a few hundred."""
_NAMES = ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY", "TENCENTCLOUD_TOKEN")
_HOW = "run `tccli auth login` or `tccli configure`, or set TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY"


class KeySource(Protocol):
    """Where keys come from. Cheap: called for every signature."""

    @property
    def label(self) -> str:
        """For a person: which source this is."""

    @property
    def identity(self) -> str:
        """Names the quota these keys draw on; stays when the keys rotate, never a key id."""

    @property
    def refreshable(self) -> bool:
        """Whether asking again can give other keys."""

    def get(self) -> Keys:
        """The keys to sign with now."""

    def refresh(self) -> bool:
        """Read the source again; true if the keys are others now."""


@dataclass(frozen=True, slots=True)
class FixedKeys:
    """Keys that stay for the life of the process: the environment's, or a test's."""

    keys: Keys
    label: str = "environment"

    refreshable = False

    @property
    def identity(self) -> str:
        """The label: who these keys belong to is not known before a call says so."""
        return self.label

    def get(self) -> Keys:
        """The keys."""
        return self.keys

    def refresh(self) -> bool:
        """Nothing to read again."""
        return False


class FileKeys:
    """Keys in a file of the vendor's, read again whenever the file is another one (inode, size, time)."""

    refreshable = True

    def __init__(self, path: Path, label: str, parse: Callable[[str], Mapping[str, object]]) -> None:
        self.label = label
        self.path = path
        self.warnings: tuple[str, ...] = ()
        self._parse = parse
        self._seen = self._stamp()
        self._keys = self._read()

    def __repr__(self) -> str:
        return f"FileKeys({self.label}, {self._keys!r})"

    @property
    def identity(self) -> str:
        """The profile: a rotated key is not a new quota."""
        return self.label

    def get(self) -> Keys:
        """The keys as the file has them now.

        A file that is gone or broken for a moment (it is being replaced) leaves the keys as they were: the API says
        whether they still serve, and `refresh` says what is wrong with the file.
        """
        stamp = self._stamp()
        if stamp != self._seen and stamp is not None:
            try:
                self._keys = self._read()
            except CredentialsError:
                return self._keys
            self._seen = stamp
        return self._keys

    def refresh(self) -> bool:
        """Read the file now; CredentialsError if it has no keys."""
        before = self._keys
        self._seen = self._stamp()
        self._keys = self._read()
        return self._keys != before

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _read(self) -> Keys:
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(MOST + 1)
        except OSError as exc:
            raise CredentialsError(f"{self.path}: cannot be read ({exc.strerror}); {_HOW}") from None
        if len(data) > MOST:
            raise CredentialsError(f"{self.path}: larger than {MOST >> 10} KiB; this is no credential file")
        if mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
            self.warnings = (f"{self.path}: others can read or write these keys; chmod 600 {self.path}",)
        try:
            found = self._parse(data.decode("utf-8-sig"))
        except ValueError as exc:
            # Not `from exc`: a parser's error quotes the text, which holds the keys.
            why = str(exc) if isinstance(exc, _MalformedError) else "is not text"
            raise CredentialsError(f"{self.path}: {why}") from None
        return _keys(found, str(self.path))


class _MalformedError(ValueError):
    """A credential file is not what it should be; the text holds nothing of it."""


def tccli_keys(text: str) -> Mapping[str, object]:
    """Keys of a `.credential` file of the vendor's CLI, by their names in `Keys`."""
    import json

    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise _MalformedError("is not JSON; run `tccli configure` for this profile again") from None
    if not isinstance(found, dict):
        raise _MalformedError("is not a JSON object; run `tccli configure` for this profile again")
    if not found.get("secretId") and found.get("type"):
        kind = str(found["type"])[:20]
        raise _MalformedError(
            f"holds no keys but a login of type {kind!r}, which is not built yet in this version; "
            "use keys, or `tccli auth login`, which stores temporary keys"
        )
    if found.get("role-arn"):
        # The CLI would call as that role: other permissions, another quota. Never quietly as somebody else.
        raise _MalformedError("assumes a role (role-arn), which is not built yet in this version; use keys of the role")
    return {"secret_id": found.get("secretId"), "secret_key": found.get("secretKey"), "token": found.get("token")}


def sdk_keys(text: str) -> Mapping[str, object]:
    """Keys of section [default] of the vendor's SDK file. Values are taken as they stand: a % means itself."""
    from configparser import Error, RawConfigParser

    parser = RawConfigParser(strict=False)
    try:
        parser.read_string(text)
    except Error:
        raise _MalformedError("is not an INI file: [default], then secret_id = … and secret_key = …") from None
    if not parser.has_section("default"):
        raise _MalformedError("has no section [default] with secret_id and secret_key")
    section = dict(parser.items("default"))
    return {key: section.get(key) for key in ("secret_id", "secret_key", "token")}


def find_keys(profile: str | None, environ: Mapping[str, str]) -> tuple[KeySource, tuple[str, ...]]:
    """The first source that has keys, with warnings about it; CredentialsError names every place looked in.

    `profile` is what flag, job or config asked for; asked for by name, it wins over the environment, as with tccli.
    """
    home = Path(environ.get("HOME") or "~")
    if profile is not None:
        path = home / ".tccli" / f"{profile}.credential"
        if not _is_there(path):
            others = sorted(other.stem for other in path.parent.glob("*.credential"))
            there = f"there are {', '.join(others)}" if others else "there is none"
            raise CredentialsError(
                f"profile {profile}: no file {path}; {there}; run `tccli configure --profile {profile}`"
            )
        return _from_file(FileKeys(path, f"tccli profile {profile}", tccli_keys))
    by_environment = _environment(environ)
    if by_environment is not None:
        return FixedKeys(by_environment), ()
    name = environ.get("TCCLI_PROFILE") or "default"
    tccli = home / ".tccli" / f"{name}.credential"
    if _is_there(tccli):
        return _from_file(FileKeys(tccli, f"tccli profile {name}", tccli_keys))
    sdk = home / ".tencentcloud" / "credentials"
    if _is_there(sdk):
        return _from_file(FileKeys(sdk, "credentials file", sdk_keys))
    raise CredentialsError(f"no API keys: looked in {', '.join(_NAMES[:2])}, {tccli} and {sdk}; {_HOW}")


def _is_there(path: Path) -> bool:
    """Whether there is something at `path`; what cannot be looked at counts, reading it says why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _from_file(source: FileKeys) -> tuple[KeySource, tuple[str, ...]]:
    return source, source.warnings


def _environment(environ: Mapping[str, str]) -> Keys | None:
    secret_id, secret_key, token = (environ.get(name, "").strip() for name in _NAMES)
    if not secret_id and not secret_key:
        return None
    if not secret_id or not secret_key:
        there, missing = _NAMES[:2] if secret_id else _NAMES[1::-1]
        raise CredentialsError(f"{there} is set and {missing} is not; set both, or neither to use a tccli profile")
    return _keys({"secret_id": secret_id, "secret_key": secret_key, "token": token}, "environment")


def _keys(found: Mapping[str, object], where: str) -> Keys:
    """Keys fit to stand in a header, or CredentialsError that names what is missing, never a value."""
    values = {}
    for name in ("secret_id", "secret_key", "token"):
        value = found.get(name)
        if value is None and name == "token":
            continue
        if not isinstance(value, str) or (not value.strip() and name != "token"):
            raise CredentialsError(f"{where}: {name} is missing or empty; {_HOW}")
        value = value.strip()
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise CredentialsError(f"{where}: {name} holds characters no key has; copy it again")
        if value[:1] in "\"'" and value:
            raise CredentialsError(f"{where}: {name} stands in quotes, which would count as part of it; remove them")
        values[name] = value
    return Keys(secret_id=values["secret_id"], secret_key=values["secret_key"], token=values.get("token") or None)
