"""No I/O, no clock. The instances and accounts of the world, and what the write actions do to them.

Documented behaviour is as documented; inferred behaviour is marked as inferred.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from engine.simulator import catalog
from engine.simulator.wire import Refusal

CREATING, MODIFYING, RESETTING, DELETING = 1, 3, 4, -1
NORMAL, LOCKED = catalog.NORMAL, catalog.LOCKED
"""AccountInfo.Status (D-ACCTS)."""
STATUSES = (CREATING, NORMAL, MODIFYING, RESETTING, LOCKED, DELETING)
ORIGIN = 1_735_689_600.0
"""2025-01-01 00:00 UTC: creation time of all that exists from the start, as a world has no clock of its own."""


class Repeat(StrEnum):
    """What LockAccount answers for a locked account, and UnlockAccount for an unlocked one: not documented."""

    SUCCESS = "success"
    PRECHECK = "precheck"
    """FailedOperation.PreCheckError: no other code of the two lists could mean it."""


class Change(NamedTuple):
    """What an accepted write does to an account; None leaves a field as it is."""

    status: int | None = None
    cam: bool | None = None
    password: str | None = None
    refreshed: bool = False


class Timing(NamedTuple):
    """When an accepted write takes effect: a fault script may delay it, hide the delay, or drop the write."""

    apply: bool = True
    after_s: float = 0.0
    shown: bool = True
    """Whether the account shows status 3 (modifying) until then; else it shows no sign of the write."""


AT_ONCE = Timing()


class _Pending(NamedTuple):
    due: float
    change: Change
    shown: bool


@dataclass(slots=True)
class Account:
    """One account. `cam` None: DescribeAccounts leaves OpenCam out, which the page allows (D-ACCTS)."""

    name: str
    status: int = NORMAL
    cam: bool | None = False
    user_type: str = "normal"
    create_time: float | None = ORIGIN
    """UNIX time; None: the account was made by SQL, and shows the zero date."""
    update_time: float = ORIGIN
    password_update_time: float | None = None
    password: str | None = field(default=None, repr=False)
    """The last password set through CloseAccountCAM or ResetAccountPassword, for tests to compare."""
    passwords_set: int = 0
    """How often a call changed the password: it shows a repeated call."""
    pending: tuple[_Pending, ...] = ()

    def settle(self, now: float) -> None:
        """Apply the pending changes that are due at `now`, in the order of their times."""
        due = sorted((each for each in self.pending if each.due <= now), key=lambda each: each.due)
        if due:
            self.pending = tuple(each for each in self.pending if each.due > now)
            for each in due:
                self._change(each.change, each.due)

    @property
    def shown_status(self) -> int:
        """Status as DescribeAccounts shows it."""
        return MODIFYING if any(each.shown for each in self.pending) else self.status

    def accept(self, change: Change, now: float, timing: Timing) -> None:
        """Accept a write, and apply it now, later, or never."""
        if not timing.apply:
            return
        if timing.after_s > 0:
            self.pending = (*self.pending, _Pending(now + timing.after_s, change, timing.shown))
        else:
            self._change(change, now)

    def _change(self, change: Change, at: float) -> None:
        if change.status is not None and change.status != self.status:
            self.status, self.update_time = change.status, at
        if change.cam is not None and change.cam != self.cam:
            self.cam, self.update_time = change.cam, at
        if change.password is not None or change.refreshed:
            self.password = change.password
            self.passwords_set += 1
            self.password_update_time = self.update_time = at


@dataclass(slots=True)
class Instance:
    """One database instance, in one region."""

    id: str
    region: str
    uin: str = ""
    """The main account that owns the instance; others do not see it."""
    name: str = ""
    status: str = "running"
    type: str = "primary"
    project: int = 0
    pay_mode: str = "postpaid"
    version: str = "16"
    master: str = ""
    """The primary of a read-only instance."""
    tags: tuple[tuple[str, str], ...] = ()
    accounts: dict[str, Account] = field(default_factory=dict)
    is_whole: bool = True
    """Whether `accounts` are all there are. False in an open world, where more exist than requests have named."""
    order: int = 0
    """Index in the order in which the world got its instances; it breaks ties in listings."""


class Estate:
    """All instances. Open: every well-formed instance exists from its first request on; closed: only a fleet exists."""

    def __init__(self, *, is_open: bool, repeat: Repeat, refuse_long_names: bool) -> None:
        self.instances: dict[str, Instance] = {}
        self._is_open = is_open
        self._repeat = repeat
        self._refuse_long_names = refuse_long_names

    def add(self, instance: Instance) -> None:
        """Put an instance into the world; the id must be new."""
        assert instance.id not in self.instances, f"{instance.id} is there already"
        instance.order = len(self.instances)
        self.instances[instance.id] = instance

    def find(self, instance_id: str, region: str, uin: str = "") -> Instance | Refusal:
        """Return the main account's instance; a refusal if it is not in that region (inferred)."""
        instance = self.instances.get(instance_id)
        if instance is None:
            if not catalog.is_instance_id(instance_id):
                return catalog.refusal("InvalidParameter.ParameterCheckError")
            if not self._is_open:
                return catalog.refusal("ResourceNotFound.InstanceNotFoundError")
            instance = Instance(instance_id, region, uin, is_whole=False)
            self.add(instance)
        if instance.region != region or instance.uin != uin:
            return catalog.refusal("ResourceNotFound.InstanceNotFoundError")
        return instance

    def write(
        self,
        spec: catalog.ActionSpec,
        parameters: dict[str, str],
        region: str,
        now: float,
        timing: Timing,
        uin: str = "",
    ) -> Refusal | None:
        """Carry out a write action whose parameters have the right types; return None if it is accepted."""
        user = parameters["UserName"]
        there = self.instances.get(parameters["DBInstanceId"])
        refused = name_or_password_refusal(
            spec, parameters, self._refuse_long_names, by_sql=there is not None and user in there.accounts
        )
        if refused is not None:
            return refused
        instance = self.find(parameters["DBInstanceId"], region, uin)
        if isinstance(instance, Refusal):
            return instance
        if instance.status != "running":  # no other state is known to be safe
            return catalog.refusal(spec.instance_status)
        if instance.type not in ("primary", "temp"):
            # Not documented: roles replicate from the primary, so a write is refused as a wrong target (inferred).
            return catalog.refusal("InvalidParameter.ParameterCheckError")
        account = instance.accounts.get(user)
        if account is None:
            if not self._is_open:
                return catalog.refusal(spec.account_missing)
            account = instance.accounts[user] = Account(user)
        account.settle(now)
        change = decide(spec, account, parameters, self._repeat)
        if isinstance(change, Refusal):
            return change
        account.accept(change, now, timing)
        return None


def name_or_password_refusal(
    spec: catalog.ActionSpec, parameters: dict[str, str], refuse_long: bool, *, by_sql: bool
) -> Refusal | None:
    """Return the refusal of the user name or the password, or None.

    `by_sql`: there is such an account, so a name that only SQL gives is taken, as DescribeAccounts shows it (assumed).
    """
    refused = catalog.name_refusal(spec, parameters["UserName"], refuse_long=refuse_long, by_sql=by_sql)
    if refused is not None or "Password" not in spec.parameters:
        return refused
    if parameters.get("PasswordEncrypt"):  # no page says how to encrypt one, so nobody can have
        return catalog.refusal("InvalidParameter.ParameterCheckError")
    return catalog.password_refusal(spec, parameters["Password"])


def decide(spec: catalog.ActionSpec, account: Account, parameters: dict[str, str], repeat: Repeat) -> Change | Refusal:
    """Return what a write changes in this account as it is, or why it is refused."""
    if account.shown_status not in (NORMAL, LOCKED):
        return catalog.refusal(spec.account_busy)
    (needed, has_cam), (status, cam) = spec.before, spec.after
    if status != needed:  # the action changes the status
        is_so = account.status == status and repeat is Repeat.PRECHECK
        return catalog.refusal(spec.refused) if is_so else Change(status=status)
    if bool(account.cam) is not has_cam:  # a password in the request is not applied either
        return catalog.refusal(spec.refused)
    if spec.refreshes:
        return Change(refreshed=True)
    return Change(cam=cam, password=parameters.get("Password"))
