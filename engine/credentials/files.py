"""Keys in files: the vendor's CLI profiles, the vendor's SDK file. Read again when they change."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from msgspec import Struct

from engine.credentials.source import HOW, Found, checked_end, checked_keys
from engine.errors import CredentialsError
from engine.outside.trust import owner_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.model import Keys

_T = TypeVar("_T")

MOST = 64 << 10
"""Bytes of a credential file; the vendor's have a few hundred."""
_REST_S = (0.1, 0.4, 1.5)
"""How long the rest of some files is waited for when one is new: a rotation writes them one after the other."""
SYSTEM = Path("/etc/tencentcloud/credentials")


class Private(NamedTuple):
    """A file that holds a secret."""

    text: str
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "Private(…)"


class Profile(Struct, frozen=True, kw_only=True):
    """What a credential file says under one name."""

    keys: Mapping[str, object]
    """By their names in `Keys`; whether they are usable is not looked at yet."""
    expires_at: float | None = None
    role_arn: str | None = None
    """Role to be assumed with these keys."""
    role_session: str | None = None
    source: str | None = None
    """The section whose keys assume the role, if not this one's."""
    kind: str = ""
    """The CLI's `type`: `cvm-role` goes before whatever keys stand beside it, a login needs keys beside it."""
    odd: tuple[str, ...] = ()
    """Names of what else stands there, which nobody here follows."""

    @property
    def has_keys(self) -> bool:
        """Whether keys stand there, usable or not."""
        return bool(self.keys.get("secret_id"))

    def __repr__(self) -> str:
        return f"Profile(role_arn={self.role_arn!r}, …)"


class FileKeys:
    """Keys in files, read again whenever one of them is another file (inode, size, time)."""

    refreshable = True

    def __init__(
        self,
        label: str,
        paths: tuple[Path, ...],
        load: Callable[[], tuple[Found, tuple[str, ...]]],
        *,
        apart: bool = False,
    ) -> None:
        """`load` reads them all; CredentialsError if they have no keys. `apart`: id and key in files of their own."""
        self.label = label
        self._apart = apart
        self.paths = paths
        self._load = load
        self._seen = self._stamps()
        self._found, self.warnings = load()

    def __repr__(self) -> str:
        return f"FileKeys({self.label}, {self._found.keys!r})"

    @property
    def identity(self) -> str:
        """The profile: a rotated key is not a new quota."""
        return self.label

    @property
    def expires_at(self) -> float | None:
        """As the file has it."""
        self.get()
        return self._found.expires_at

    def get(self) -> Keys:
        """The keys as the files have them now.

        A file that is gone or broken for a moment (it is being replaced) leaves the keys as they were, and so do files
        of which not all are replaced yet: the API says whether they still serve, and `refresh` says what is wrong.
        """
        stamps = self._stamps()
        if stamps != self._seen and None not in stamps:
            try:
                found, warnings = self._load()
            except CredentialsError:
                return self._found.keys
            if self._is_half_new(found.keys):
                return self._found.keys
            self._found, self.warnings, self._seen = found, warnings, stamps
        return self._found.keys

    async def refresh(self) -> bool:
        """Read the files now, and wait a little for the rest of them; CredentialsError if they have no keys."""
        import asyncio

        before = self._found.keys
        for wait_s in (*_REST_S, None):
            stamps = self._stamps()
            found, warnings = self._load()
            if not self._is_half_new(found.keys):
                break
            if wait_s is None:
                raise CredentialsError(
                    f"{self.label}: id, key and token are not of one rotation; replace all the files"
                )
            await asyncio.sleep(wait_s)
        self._found, self.warnings, self._seen = found, warnings, stamps
        return found.keys != before

    def _is_half_new(self, found: Keys) -> bool:
        """Whether a part of what is `found` is new and a part is not: the others are about to be written, too."""
        if not self._apart:
            return False
        old = self._found.keys
        pairs = [(old.secret_id, found.secret_id), (old.secret_key, found.secret_key)]
        if old.token or found.token:
            pairs.append((old.token or "", found.token or ""))
        return len({was == now for was, now in pairs}) > 1

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in self.paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def is_there(path: Path) -> bool:
    """Whether there is something at `path`; what cannot be looked at counts, reading it says why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def read_private(path: Path, variable: str = "") -> Private:
    """The text of a file that holds a secret; a warning if others can read or write it.

    `variable`: what of the environment names the file, if it is not where the vendor's tools look.
    """
    where, how = (f"{variable}: {path}", f"correct {variable}") if variable else (str(path), HOW)
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            mode = found.st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)):
                raise CredentialsError(f"{where}: is a pipe; keys are read more than once: put them into a file")
            data = file.read(MOST + 1)
    except OSError as exc:
        raise CredentialsError(f"{where}: cannot be read ({exc.strerror}); {how}") from None
    if len(data) > MOST:
        raise CredentialsError(f"{where}: larger than {MOST >> 10} KiB; this is no credential file")
    try:
        text = data.decode("utf-8-sig")
    except ValueError:  # not `from exc`: it holds what stands there
        raise CredentialsError(f"{where}: is not text; write it anew, as UTF-8") from None
    others = mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH)
    warnings = [f"{path}: others can read or write these keys; chmod 600 {path}"] if others else []
    if found.st_uid not in (0, os.geteuid()):
        warnings.append(f"{path}: belongs to {owner_words(found.st_uid)}, who can put keys there to act with")
    return Private(text, tuple(warnings))


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe nobody writes to, so that it can be refused; a file is opened and read as ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def profile_keys(label: str, path: Path, read: Callable[[str], Profile], role: str | None) -> FileKeys:
    """The keys a file has under one name; they may change under a run, the role on top of them may not."""

    def load() -> tuple[Found, tuple[str, ...]]:
        private = read_private(path)
        profile = said(path, private.text, read)
        if profile.role_arn != role:
            raise CredentialsError(f"{path}: names another role than when this began; begin anew")
        return Found(checked_keys(profile.keys, str(path)), profile.expires_at), private.warnings

    return FileKeys(label, (path,), load)


def said(path: Path, text: str, read: Callable[[str], _T]) -> _T:
    """What `read` finds in the text of `path`; CredentialsError that names the file."""
    try:
        return read(text)
    except MalformedError as error:
        raise CredentialsError(f"{path}: {error}") from None


class MalformedError(Exception):
    """A credential file is not what it should be; the text holds nothing of it."""


# ---- the vendor's CLI ----------------------------------------------------------------------------------------------


def cli_path(home: Path, name: str) -> Path:
    """Where tccli keeps a profile."""
    return home / ".tccli" / f"{name}.credential"


CLI_NAMES = (
    *("secretId", "secretKey", "token", "role-arn", "role-session-name", "type"),
    *("expiresAt", "oauth", "sso", "use-cvm-role"),
)
"""What the vendor's CLI writes into the file (3.1.189: options_define.py, oauth.py, sso.py)."""


def read_cli(text: str) -> Profile:
    """A `.credential` file of the vendor's CLI (TCCLI)."""
    import json

    again = "run `tccli configure` for this profile again"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedError(f"is not JSON; {again}") from None
    if not isinstance(found, dict):
        raise MalformedError(f"is not a JSON object; {again}")
    for name in ("role-arn", "role-session-name", "type"):
        if not isinstance(found.get(name) or "", str):
            raise MalformedError(f"{name} is not text; {again}")
    try:
        expires = checked_end(found["expiresAt"]) if found.get("expiresAt") else None
    except ValueError:
        raise MalformedError(f"expiresAt is no time in UNIX seconds; {again}") from None
    return Profile(
        keys={"secret_id": found.get("secretId"), "secret_key": found.get("secretKey"), "token": found.get("token")},
        expires_at=expires,
        role_arn=found.get("role-arn") or None,
        role_session=found.get("role-session-name") or None,
        kind=found.get("type") or "",
        odd=tuple(name for name in found if name not in CLI_NAMES and found[name]),
    )


# ---- the vendor's SDK ----------------------------------------------------------------------------------------------


def read_sections(text: str) -> dict[str, dict[str, str]]:
    """Section → its values in the vendor's SDK file. Values are taken as they stand: a % means itself."""
    from configparser import DuplicateOptionError, DuplicateSectionError, Error, RawConfigParser

    parser = RawConfigParser(default_section="\0")  # no section lends its values to the others
    try:
        parser.read_string(text)
    except DuplicateSectionError as twice:  # whose keys would win is a guess; the vendor's SDK refuses it, too
        raise MalformedError(
            f"section [{twice.section}] stands there again in line {twice.lineno}; remove one"
        ) from None
    except DuplicateOptionError as twice:
        there = f"{twice.option} of [{twice.section}]"
        raise MalformedError(f"{there} stands there again in line {twice.lineno}; remove one") from None
    except Error:
        raise MalformedError("is not an INI file: [default], then secret_id = … and secret_key = …") from None
    return {name: dict(parser.items(name)) for name in parser.sections()}


SECTION_NAMES = (
    "secret_id",
    "secret_key",
    "token",
    "role_arn",
    "role_session_name",
    "source_profile",
    "region",
)
"""What a section of the SDK's file may say; the region is the job's matter."""


def read_section(name: str) -> Callable[[str], Profile]:
    """A reader of one section, such as `default`, of the vendor's SDK file."""

    def read(text: str) -> Profile:
        sections = read_sections(text)
        if name not in sections:
            raise MalformedError(f"has no section [{name}] with secret_id and secret_key")
        section = sections[name]
        return Profile(
            keys={key: section.get(key) for key in ("secret_id", "secret_key", "token")},
            role_arn=section.get("role_arn") or None,
            role_session=section.get("role_session_name") or None,
            source=section.get("source_profile") or None,
            odd=tuple(key for key in section if key not in SECTION_NAMES and section[key]),
        )

    return read
