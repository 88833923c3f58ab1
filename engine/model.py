"""The frozen values that all modules share, and the Transport protocol. No I/O, no clock.

Each word has one meaning, as in engine/README.md "Words". Values that exist once per call are msgspec structs: a
million of them must fit in memory and be made in a second or two.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, NewType, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    class _Account(Protocol):
        """One account of one instance."""

        @property
        def instance(self) -> str: ...
        @property
        def user(self) -> str: ...
        @property
        def region(self) -> str: ...
        @property
        def account(self) -> str: ...


CallId = NewType("CallId", str)
RunId = NewType("RunId", str)


class Verdict(StrEnum):
    """What one attempt means."""

    DONE = "done"
    """The API accepted the call."""
    ALREADY = "already"
    """The API says the target was in the desired state before."""
    REJECTED = "rejected"
    """This target cannot be done as asked; a repeat would be refused again."""
    THROTTLED = "throttled"
    """Over the quota: the lane slows down, and the call is tried again, free."""
    TRANSIENT = "transient"
    """Not applied, and worth another try within a time budget."""
    IN_DOUBT = "in_doubt"
    """May or may not have been applied: the account is read before anything is decided."""
    FATAL = "fatal"
    """Every further call of the lane would fail the same way."""


class Outcome(StrEnum):
    """The state of a call at the end of a run."""

    CHANGED = "changed"
    ALREADY = "already"
    FAILED = "failed"
    UNKNOWN = "unknown"
    UNATTEMPTED = "unattempted"


GOOD = (Outcome.CHANGED, Outcome.ALREADY)
"""Outcomes with which the account is as asked."""


class Proof(StrEnum):
    """What a settled outcome rests on."""

    READ = "read"
    """DescribeAccounts shows it."""
    BEFORE = "before"
    """The reading before the first send shows it."""
    CODE = "code"
    """The API's error code says it."""
    ACCEPTED = "accepted"
    """The API accepted the request; nothing was read back."""


class OmitReason(StrEnum):
    """Why a target of the job is not a call of the plan."""

    PROTECTED = "protected"
    EXCLUDED = "excluded"
    DUPLICATE = "duplicate"
    RESERVED = "reserved"
    LATER = "later"
    SKIPPED = "skipped"
    """A match found it, and its instance is a replica or not running, or its state is not shown."""
    UNSEEN = "unseen"
    """A match asks for it, and it could not be looked at, so accounts may be missing."""
    BAD_ROW = "bad_row"
    """A row of a list that is no target; with `--skip-bad-rows` the job is sent without it."""
    RERUN = "rerun"
    """A later rerun has it, and a resume leaves it to that rerun."""
    DROPPED = "dropped"
    """Somebody took it out of the live run (`acctops change --drop`)."""
    BEFORE_UNKNOWN = "before_unknown"
    """This and the next four: an undo leaves it as it is (`undo.Keep`)."""
    EDITED = "edited"
    GONE = "gone"
    HELD = "held"
    UNPROVEN = "unproven"


STAYS = (OmitReason.BEFORE_UNKNOWN, OmitReason.EDITED, OmitReason.GONE, OmitReason.UNPROVEN)
"""What an undo leaves as it is though the run may have changed it."""
LACKING = (OmitReason.UNSEEN, OmitReason.BAD_ROW, OmitReason.DROPPED, *STAYS)
"""Asked for, and not done, nor left out before the plan was approved: these count as failed."""


class Place(Struct, frozen=True, gc=False):
    """Where something stands in a file; line and column count from 1, 0 is "the whole file"."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if not self.line:
            return self.file
        return f"{self.file}:{self.line}:{self.column}" if self.column else f"{self.file}:{self.line}"


class Where(NamedTuple):
    """One instance, whose accounts are read together."""

    account: str
    region: str
    instance: str


_new_tuple = tuple.__new__


class AccountSpec(Struct, frozen=True, kw_only=True):
    """A cloud account of a job: what it is called there, and who signs for it."""

    name: str
    profiles: tuple[str, ...] = ()
    """Profiles of the vendor's CLI, which are sub-accounts of one cloud account; empty: the keys that are found."""
    role_arn: str | None = None
    """The role that these keys assume, if any."""

    @property
    def signers(self) -> int:
        """How many identities sign for it."""
        return max(1, len(self.profiles))


class _Names:
    """The names of a target or a call in texts."""

    __slots__ = ()

    @property
    def label(self: _Account) -> str:
        """`instance/user`, as the job file writes it."""
        return f"{self.instance}/{self.user}"

    @property
    def named(self: _Account) -> str:
        """`instance/user`, after its account where a job has several: an instance id does not say whose it is."""
        return f"{self.account} {self.instance}/{self.user}" if self.account else f"{self.instance}/{self.user}"

    @property
    def placed(self: _Account) -> str:
        """`instance/user (region)`, with the account where a job has several."""
        whose = f"{self.account}, " if self.account else ""
        return f"{self.instance}/{self.user} ({whose}{self.region})"


class Target(Struct, _Names, frozen=True, gc=False):
    """Instance and user, with region and account, and the place in the operator's input that named it."""

    instance: str
    user: str
    region: str
    account: str = ""
    """Cloud account the instance belongs to; empty is "the account of the keys"."""
    file: str = ""
    line: int = 0
    column: int = 0

    @property
    def place(self) -> Place:
        """Where the operator named this target."""
        return Place(self.file, self.line, self.column)


def call_id(account: str, region: str, instance: str, user: str, action: str) -> CallId:
    """Return the identity of a call: what it does to which account, never where it stands in a list."""
    key = f"{account}\n{region}\n{instance}\n{user}\n{action}"
    return CallId(hashlib.sha256(key.encode()).hexdigest()[:16])


class Call(Struct, _Names, frozen=True, gc=False):
    """One action on one target, with its identity (`call_id`)."""

    id: CallId
    action: str
    account: str
    region: str
    instance: str
    user: str

    @property
    def where(self) -> Where:
        """Its instance."""
        # Profiled: asked for several times a call; a NamedTuple's own constructor takes twice as long.
        return _new_tuple(Where, (self.account, self.region, self.instance))


class Omit(Struct, frozen=True, gc=False):
    """A target left out of the plan, and why."""

    target: Target
    reason: OmitReason
    rule: str
    """The glob or rule that took it out."""
    where: str
    """Where that rule stands (`file:line:column`, a flag, or a documented fact)."""


class Stage(StrEnum):
    """When a transport fault came: before or after bytes of the request may have left, which matters to a write."""

    BEFORE_SEND = "before_send"
    """No byte of the request can have reached the server."""
    AFTER_SEND = "after_send"
    """Bytes may have left: the request may have been applied."""


class Reply(Struct, frozen=True, kw_only=True, gc=False):
    """An HTTP response as it came: status, whole body, and the `Date` header in UNIX seconds if it had one."""

    status: int
    body: bytes
    date: float | None = None
    opening_s: float = 0.0
    """Seconds it waited for a connection before its bytes could leave."""
    retry_after_s: float | None = None
    """Seconds of the header `Retry-After`, if it came: it is not documented, and is obeyed nevertheless."""
    distrust: Callable[[], None] | None = None
    """Closes the connection it came on. A caller that finds it is not the answer to its request calls this at once,
    before it waits for anything: the true answer may still be on its way, and the next request would get it."""


class Fault(Struct, frozen=True, kw_only=True, gc=False):
    """What happened if no (whole) response came: the transport translates it once into our own `Local.*` codes."""

    stage: Stage
    code: str
    """One of the `Local.*` codes of `verdicts`."""
    message: str
    opening_s: float = 0.0
    """As in Reply."""
    stale_connection: bool = False
    """Whether the connection was kept from an earlier request, and broke before a byte of an answer came. Most likely
    the other end had closed it, so the break says nothing of the request."""


class Answer(Struct, frozen=True, kw_only=True, gc=False):
    """What a reply or fault says, parsed: the facts that are journalled."""

    http: int | None
    request_id: str | None
    code: str | None
    """None is success; else the API's error code, or a `Local.*` code of ours."""
    message: str | None
    data: Mapping[str, Any] | None = None
    """The `Response` object of a success. Any: the API's JSON."""
    stage: Stage = Stage.AFTER_SEND
    stale_connection: bool = False
    """As in Fault."""


class Keys(Struct, frozen=True, kw_only=True, gc=False):
    """One set of API keys as it is now; never shown whole, never journalled."""

    secret_id: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Keys(secret_id={self.fingerprint!r}, secret_key=…, token={'…' if self.token else None})"

    @property
    def fingerprint(self) -> str:
        """Last four characters of the secret id: enough to tell keys apart, useless to anyone else."""
        return "…" + self.secret_id[-4:]


class AccountState(Struct, frozen=True, kw_only=True, gc=False):
    """One row of DescribeAccounts (D-ACCTS)."""

    user: str
    status: int
    """1 creating, 2 normal, 3 modifying, 4 password resetting, 5 locked, -1 deleting."""
    cam: bool | None
    """CAM verification on or off; None where the API left the field out."""
    user_type: str = ""
    update_time: str = ""
    password_update_time: str = ""


class Reading(Struct, frozen=True, kw_only=True):
    """The accounts of one instance at one moment, or why they could not be read."""

    accounts: Mapping[str, AccountState] | None
    complete: bool = True
    """Whether an account that is not among them does not exist: the list was read to its proven end, and its pages fit
    together. False if the API says that there are more, or shows none at all, as an instance has at least its admin.
    False, too, if the reading ended early because every account that was asked for was found."""
    why: str | None = None
    """Why it is not complete, in words; None if it is, or if all that was asked for was found."""
    code: str | None = None
    message: str | None = None
    request_id: str | None = None
    at: float = 0.0
    """UNIX time at which it began."""
    ms: int = 0

    def find(self, user: str) -> AccountState | None:
        """Return the account of that name, if the instance could be read and has it; else None."""
        return None if self.accounts is None else self.accounts.get(user)


class Transport(Protocol):
    """The only way to the API. It never raises for what the network or the server does, but returns a Fault."""

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        """POST `body` with exactly `headers` (Host among them) to `endpoint`, a URL without a path."""
        ...

    async def get(self, url: str, timeout_s: float) -> Reply | Fault:
        """GET `url`, never through a proxy: for the metadata service of the machine, which is near it."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...


class Rival(Struct, frozen=True, kw_only=True):
    """Another run that locks accounts right now, as its claim says."""

    run: str
    keep_admins: int
    """How many superusers it must leave every instance."""
    calls: Collection[bytes]
    """Ids of its calls."""

    def takes(self, where: Where, user: str) -> bool:
        """Whether it locks an account, or has locked it just now."""
        return bytes.fromhex(call_id(where.account, where.region, where.instance, user, "LockAccount")) in self.calls


class LaneSlots(Protocol):
    """The slots of one lane among all processes that use it."""

    now: Callable[[], float]
    """The clock by which they are."""

    async def reserve(self, *, rate: float, interval_s: float, window_s: float) -> float:
        """Take the next slot: at most `rate` in any `window_s`, `interval_s` apart. Return when, by `now`."""

    def is_good(self, slot_at: float) -> bool:
        """Return whether a call may leave now in the slot of `slot_at`: not much later than the others count on."""

    def left_late(self, slot_at: float, late_s: float) -> None:
        """Note that the call in the slot of `slot_at` left `late_s` later."""
