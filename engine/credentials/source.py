"""What a source of keys is, and what all sources share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from msgspec import Struct

from engine.errors import CredentialsError
from engine.model import Keys

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Awaitable, Callable, Mapping

HOW = "run `tccli auth login` or `tccli configure`, or set TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY"

_IDS = ("AKID", "IKID")
"""How the vendor's key ids begin, on both sites."""
_FURTHEST_S = 32_503_680_000
"""The year 3000 in UNIX seconds. A later moment is probably in milliseconds, and may be no date at all here."""

DURATION_S = 7200
"""Seconds for which a role's keys are requested: the vendor's default. The role's own limit applies, too."""


class KeySource(Protocol):
    """Where keys come from."""

    @property
    def label(self) -> str:
        """Name of this source for a person."""

    @property
    def identity(self) -> str:
        """Name of the quota that these keys draw on. It stays when the keys rotate, and is never a key id."""

    @property
    def refreshable(self) -> bool:
        """Whether the source can give other keys when it is asked again."""

    @property
    def expires_at(self) -> float | None:
        """UNIX time by this host's clock at which the keys expire; None: not known, or never."""

    def get(self) -> Keys:
        """Return the keys to sign with now; CredentialsError if there are none. Cheap, as every signature calls it."""

    async def refresh(self) -> bool:
        """Ask the source again, once for all who ask at the same time; return whether the keys changed.

        CredentialsError if it fails; the keys stay as they were.
        """


class Found(NamedTuple):
    """Keys, and the UNIX time at which they expire, if it is known."""

    keys: Keys
    expires_at: float | None = None


class FixedKeys(Struct, frozen=True):
    """Keys that stay the same for the life of the process: those of the environment, or of a test."""

    keys: Keys
    label: str = "environment"

    refreshable = False
    expires_at = None

    @property
    def identity(self) -> str:
        """The label: the owner of these keys is not known before a call tells it."""
        return self.label

    def get(self) -> Keys:
        """Return the keys."""
        return self.keys

    async def refresh(self) -> bool:
        """Return False: there is nothing to read again."""
        return False


class NoKeys(Struct, frozen=True):
    """Takes the place of a source that has no keys. Calls that need these keys fail with `why`; others go on."""

    label: str
    why: str

    refreshable = False
    expires_at = None

    @property
    def identity(self) -> str:
        """The label, as there are no keys that draw on a quota."""
        return self.label

    def get(self) -> Keys:
        """Raise CredentialsError, which says why there are no keys."""
        raise CredentialsError(self.why)

    async def refresh(self) -> bool:
        """Raise CredentialsError: a source is opened once a session; the next session of the run opens it again."""
        raise CredentialsError(self.why)


class FetchedKeys:
    """Keys from a program, the metadata service or STS. At most one question is open at a time."""

    refreshable = True

    def __init__(self, label: str, identity: str, fetch: Callable[[], Awaitable[Found]]) -> None:
        """Make a source that has asked nobody yet: call `open` before the first `get`."""
        self.label = label
        self.identity = identity
        self._fetch = fetch
        self._found: Found | None = None
        self._asking: Task[bool] | None = None

    def __repr__(self) -> str:
        return f"FetchedKeys({self.label}, {self._found.keys if self._found else None!r})"

    @property
    def expires_at(self) -> float | None:
        """UNIX time at which the keys of the last answer expire; None if it is not known."""
        return self._found.expires_at if self._found is not None else None

    @property
    def is_empty(self) -> bool:
        """Whether no question had keys for an answer yet."""
        return self._found is None

    def get(self) -> Keys:
        """Return the keys of the last answer, even if they have expired: the server says whether they are valid."""
        if self._found is None:
            raise CredentialsError(f"{self.label}: not asked for keys yet")
        return self._found.keys

    async def open(self) -> None:
        """Ask for the first time. No other task uses the source yet, so cancelling this cancels the question."""
        await self._ask()

    async def refresh(self) -> bool:
        """Ask, or wait for the answer to an open question. Cancelling one that waits does not cancel the question."""
        import asyncio

        if self._asking is None or self._asking.done():  # done: its event loop ended before it could clear itself
            self._asking = asyncio.ensure_future(self._ask())
            self._asking.add_done_callback(_looked_at)
        return await asyncio.shield(self._asking)

    async def _ask(self) -> bool:
        try:
            before, self._found = self._found, await self._fetch()
            return before is None or before.keys != self._found.keys
        finally:
            self._asking = None


def checked_end(given: object) -> float:
    """Return a moment in UNIX seconds; ValueError for anything else, such as one in milliseconds."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < _FURTHEST_S:
        raise ValueError("no moment in UNIX seconds")
    return float(given)


def _looked_at(asked: Task[bool]) -> None:
    """Take note of a failure for which nobody waits any more, as asyncio complains of one that nobody looked at."""
    if not asked.cancelled():
        asked.exception()


_LONGEST = 8192
"""Characters of a key or token, which each request sends in a header. The vendor's tokens have at most 4,096."""


def checked_keys(found: Mapping[str, object], where: str, how: str = HOW) -> Keys:
    """Return keys that a header can hold; CredentialsError names what is wrong and `how` to mend it, never a value."""
    values = {}
    for name in ("secret_id", "secret_key", "token"):
        value = found.get(name)
        if value is None and name == "token":
            continue
        if value is not None and not isinstance(value, str):
            raise CredentialsError(f"{where}: {name} is not text; {how}")
        if value is None or (not value.strip() and name != "token"):
            raise CredentialsError(f"{where}: {name} is missing or empty; {how}")
        value = value.strip()
        if len(value) > _LONGEST:
            raise CredentialsError(f"{where}: {name} has more than {_LONGEST:,} characters, as no key has; {how}")
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise CredentialsError(f"{where}: {name} holds characters no key has; copy it again")
        if value and (value[0] in "\"'" or value[-1] in "\"'"):
            raise CredentialsError(f"{where}: {name} stands in quotes, which would count as part of it; remove them")
        values[name] = value
    if values["secret_key"].startswith(_IDS) and not values["secret_id"].startswith(_IDS):
        # Else four letters of the secret would be shown as the key's name, and the whole secret sent as an id.
        raise CredentialsError(f"{where}: secret_id and secret_key are in each other's place; swap them")
    return Keys(secret_id=values["secret_id"], secret_key=values["secret_key"], token=values.get("token") or None)
