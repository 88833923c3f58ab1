"""Keys in files: profiles of the vendor's CLI, and the vendor's SDK file. A file that changes is read again."""

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
"""Bytes of a credential file, at most; the vendor's have a few hundred."""
_REST_S = (0.1, 0.4, 1.5)
"""Seconds of each wait for the other files when one is new: a rotation writes them one after the other."""
SYSTEM = Path("/etc/tencentcloud/credentials")


class Private(NamedTuple):
    """The text of a file that holds a secret, and warnings about the file."""

    text: str
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "Private(…)"


class Profile(Struct, frozen=True, kw_only=True):
    """What a credential file says under one name."""

    keys: Mapping[str, object]
    """Values by their names in `Keys`; not checked yet."""
    expires_at: float | None = None
    role_arn: str | None = None
    """Role to assume with these keys."""
    role_session: str | None = None
    source: str | None = None
    """Another section, whose keys assume the role; None: the keys of this one do."""
    kind: str = ""
    """The CLI's `type`: `cvm-role` wins over the keys beside it, a login needs keys beside it."""
    odd: tuple[str, ...] = ()
    """Names of the other values that stand there. acctops ignores them."""

    @property
    def has_keys(self) -> bool:
        """Whether there are keys, usable or not."""
        return bool(self.keys.get("secret_id"))

    def __repr__(self) -> str:
        return f"Profile(role_arn={self.role_arn!r}, …)"


class FileKeys:
    """Keys in files. They are read again whenever inode, size or time of one of the files changes."""

    refreshable = True

    def __init__(
        self,
        label: str,
        paths: tuple[Path, ...],
        load: Callable[[], tuple[Found, tuple[str, ...]]],
        *,
        apart: bool = False,
    ) -> None:
        """Read the keys with `load`; CredentialsError if the files have none. `apart`: id and key are in two files."""
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
        """The label, as a rotated key draws on the same quota."""
        return self.label

    @property
    def expires_at(self) -> float | None:
        """The UNIX time that the file names now; None if it names none."""
        self.get()
        return self._found.expires_at

    def get(self) -> Keys:
        """Return the keys as the files have them now.

        The old keys stay while a file is gone or broken, or while only some of the files are new: somebody may be
        replacing them. The API says whether the old keys are still valid, and `refresh` says what is wrong.
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
        """Read the files now, and wait a little while only some are new; return whether the keys changed.

        CredentialsError if the files have no keys, or not those of one rotation.
        """
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
        """Return whether only a part of the keys `found` is new: then the other files are about to be written."""
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
    """Return whether there is something at `path`. A path that cannot be checked counts: reading it says why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def read_private(path: Path, variable: str = "") -> Private:
    """Return the text of a file that holds a secret, with a warning if others can read or write it.

    `variable` names the file; empty if it stands where the vendor's tools look. CredentialsError if it is not readable.
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
    except ValueError:  # not `from exc`: the exception holds the file's content
        raise CredentialsError(f"{where}: is not text; write it anew, as UTF-8") from None
    others = mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH)
    warnings = [f"{path}: others can read or write these keys; chmod 600 {path}"] if others else []
    if found.st_uid not in (0, os.geteuid()):
        warnings.append(f"{path}: belongs to {owner_words(found.st_uid)}, who can put keys there to act with")
    return Private(text, tuple(warnings))


def _without_waiting(path: str, flags: int) -> int:
    """Open a file without waiting: a pipe that nobody writes to opens too, and can then be refused."""
    return os.open(path, flags | os.O_NONBLOCK)


def profile_keys(label: str, path: Path, read: Callable[[str], Profile], role: str | None) -> FileKeys:
    """Return a source of the keys that a file has under one name. They may change during a run; their role may not."""

    def load() -> tuple[Found, tuple[str, ...]]:
        private = read_private(path)
        profile = said(path, private.text, read)
        if profile.role_arn != role:
            raise CredentialsError(f"{path}: names another role than when this began; begin anew")
        return Found(checked_keys(profile.keys, str(path)), profile.expires_at), private.warnings

    return FileKeys(label, (path,), load)


def said(path: Path, text: str, read: Callable[[str], _T]) -> _T:
    """Return what `read` finds in the text of `path`; CredentialsError names the file."""
    try:
        return read(text)
    except MalformedError as error:
        raise CredentialsError(f"{path}: {error}") from None


class MalformedError(Exception):
    """A credential file has the wrong form. The message repeats no value of the file."""


# ---- the vendor's CLI ----------------------------------------------------------------------------------------------


def cli_path(home: Path, name: str) -> Path:
    """Return the path at which tccli keeps a profile."""
    return home / ".tccli" / f"{name}.credential"


CLI_NAMES = (
    *("secretId", "secretKey", "token", "role-arn", "role-session-name", "type"),
    *("expiresAt", "oauth", "sso", "use-cvm-role"),
)
"""Names that the vendor's CLI writes into the file (3.1.189: options_define.py, oauth.py, sso.py)."""


def read_cli(text: str) -> Profile:
    """Read a `.credential` file of the vendor's CLI (TCCLI); MalformedError if it has another form."""
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
    """Return section → its values in the vendor's SDK file. Values are taken as they stand: a % means itself."""
    from configparser import DuplicateOptionError, DuplicateSectionError, Error, RawConfigParser

    parser = RawConfigParser(default_section="\0")  # no section lends its values to the others
    try:
        parser.read_string(text)
    except DuplicateSectionError as twice:  # nobody knows which of them is meant; the vendor's SDK refuses it, too
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
"""Names that a section of the SDK's file may have. Its region is not used: the job names regions."""


def read_section(name: str) -> Callable[[str], Profile]:
    """Return a function that reads one section, such as `default`, of the vendor's SDK file."""

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
