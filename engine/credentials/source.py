"""What a source of keys is, and what all of them share."""

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
"""How the vendor's key ids begin, both sites'."""
_FURTHEST_S = 32_503_680_000
"""The year 3000: beyond it, milliseconds were meant, and no calendar of this machine may go there."""

DURATION_S = 7200
"""Lifetime a role's keys are asked for, the vendor's default; the role's own limit holds all the same."""


class KeySource(Protocol):
    """Where keys come from."""

    @property
    def label(self) -> str:
        """For a person: which source this is."""

    @property
    def identity(self) -> str:
        """Names the quota these keys draw on; stays when the keys rotate, never a key id."""

    @property
    def refreshable(self) -> bool:
        """Whether asking again can give other keys."""

    @property
    def expires_at(self) -> float | None:
        """UNIX time by this host's clock after which the keys serve no more; None: not known, or never."""

    def get(self) -> Keys:
        """The keys to sign with now. Cheap, and without network: called for every signature.

        CredentialsError if there are none.
        """

    async def refresh(self) -> bool:
        """Ask the source again, once however many ask; true if the keys are others now. CredentialsError if it fails,
        which leaves the keys as they were."""


class Found(NamedTuple):
    """Keys, and until when they serve."""

    keys: Keys
    expires_at: float | None = None


class FixedKeys(Struct, frozen=True):
    """Keys that stay for the life of the process: the environment's, or a test's."""

    keys: Keys
    label: str = "environment"

    refreshable = False
    expires_at = None

    @property
    def identity(self) -> str:
        """The label: who these keys belong to is not known before a call says so."""
        return self.label

    def get(self) -> Keys:
        """The keys."""
        return self.keys

    async def refresh(self) -> bool:
        """Nothing to read again."""
        return False


class NoKeys(Struct, frozen=True):
    """In place of a source that has no keys: what they would sign fails in words, and nothing else does."""

    label: str
    why: str

    refreshable = False
    expires_at = None

    @property
    def identity(self) -> str:
        """Nobody's."""
        return self.label

    def get(self) -> Keys:
        """CredentialsError: why there are none."""
        raise CredentialsError(self.why)

    async def refresh(self) -> bool:
        """CredentialsError: a source is opened once; going on with the run opens it again."""
        raise CredentialsError(self.why)


class FetchedKeys:
    """Keys somebody must be asked for: a program, the metadata service, STS. One question at a time."""

    refreshable = True

    def __init__(self, label: str, identity: str, fetch: Callable[[], Awaitable[Found]]) -> None:
        """`open` before the first `get`."""
        self.label = label
        self.identity = identity
        self._fetch = fetch
        self._found: Found | None = None
        self._asking: Task[bool] | None = None

    def __repr__(self) -> str:
        return f"FetchedKeys({self.label}, {self._found.keys if self._found else None!r})"

    @property
    def expires_at(self) -> float | None:
        """As the source said it."""
        return self._found.expires_at if self._found is not None else None

    @property
    def is_empty(self) -> bool:
        """Whether it was never asked with success."""
        return self._found is None

    def get(self) -> Keys:
        """The keys of the last answer, also when they have expired: the server says whether they still serve."""
        if self._found is None:
            raise CredentialsError(f"{self.label}: not asked for keys yet")
        return self._found.keys

    async def open(self) -> None:
        """Ask for the first time. Whoever opens a source is alone with it, and can be interrupted at once."""
        await self._ask()

    async def refresh(self) -> bool:
        """Ask, or wait for the answer somebody asked for already; who stops waiting does not stop the question."""
        import asyncio

        if self._asking is None or self._asking.done():  # done: its loop ended before it could say so
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
    """A moment in UNIX seconds; ValueError for what is none, such as one in milliseconds."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < _FURTHEST_S:
        raise ValueError("no moment in UNIX seconds")
    return float(given)


def _looked_at(asked: Task[bool]) -> None:
    """Nobody may be waiting for a failure any more."""
    if not asked.cancelled():
        asked.exception()


_LONGEST = 8192
"""Characters. A token has some hundred, at most 4,096 says the vendor; each request carries it in a header."""


def checked_keys(found: Mapping[str, object], where: str, how: str = HOW) -> Keys:
    """Keys fit to stand in a header; CredentialsError names what is missing and `how` to get it, never a value."""
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
        # Else four letters of the secret would be shown as the key's name, and all of it sent as an id.
        raise CredentialsError(f"{where}: secret_id and secret_key are in each other's place; swap them")
    return Keys(secret_id=values["secret_id"], secret_key=values["secret_key"], token=values.get("token") or None)
