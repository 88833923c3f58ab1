"""No I/O. A fleet: the instances and accounts of a closed world, from YAML, JSON or plain values.

    instances:
      - id: postgres-4sfuv15b
        region: ap-singapore
        accounts:
          - app_user
          - {name: old_ro, status: locked, cam: true}
      - {id: postgres-busy0001, region: ap-tokyo, status: restarting, accounts: [root]}

An instance may also have: name, type, project, pay_mode, version, master, tags. `cam: null` is an account whose OpenCam
field the API leaves out; `sql: true` is an account made by plain SQL (its CreateTime is the zero date).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from engine.simulator import catalog, documents, estate

MAX_CHARS = 64 * 1024 * 1024
MAX_ACCOUNTS = 2_000_000
"""Most accounts of a fleet: aliases can make a small file very large."""

STATUS_WORDS: Mapping[str, int] = MappingProxyType(
    {
        "creating": estate.CREATING,
        "normal": estate.NORMAL,
        "modifying": estate.MODIFYING,
        "resetting": estate.RESETTING,
        "locked": estate.LOCKED,
        "deleting": estate.DELETING,
    }
)
INSTANCE_STATUSES = frozenset(
    (
        *("applying", "init", "initing", "running", "limited run", "isolating", "isolated", "disisolating"),
        *("recycling", "recycled", "job running", "offline", "migrating", "expanding", "waitSwitch", "switching"),
        *("readonly", "restarting", "network changing", "upgrading", "audit-switching", "primary-switching"),
        *("offlining", "deployment changing", "cloning", "parameter modifying", "log-switching", "restoring"),
    )
)
"""DBInstanceStatus values (D-ACCTS)."""
INSTANCE_TYPES = ("primary", "readonly", "guard", "temp")


class FleetError(documents.DocumentError):
    """A fleet is wrong: every problem found, each with its place such as `instances[3].accounts[0].status`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetAccount:
    """One account of a fleet, as it is before the first request."""

    name: str
    status: int = estate.NORMAL
    cam: bool | None = False
    user_type: str = "normal"
    by_sql: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetInstance:
    """One instance of a fleet."""

    id: str
    region: str
    uin: str = ""
    name: str = ""
    status: str = "running"
    type: str = "primary"
    project: int = 0
    pay_mode: str = "postpaid"
    version: str = "16"
    master: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    accounts: tuple[FleetAccount, ...] = ()


Fleet = tuple[FleetInstance, ...]


def parse_fleet(text: str) -> Fleet:
    """Return the fleet of a YAML or JSON text; FleetError lists every problem."""
    try:
        data = documents.load(text, what="fleet", max_chars=MAX_CHARS)
    except documents.DocumentError as error:
        raise FleetError(error.problems) from None
    return fleet_from(data)


def fleet_from(data: object) -> Fleet:
    """Return the fleet of plain values, as a YAML or JSON reader makes them; FleetError lists every problem."""
    reader = _Reader()
    fleet = reader.read(data)
    if reader.problems:
        raise FleetError(reader.problems)
    return fleet


class _Reader:
    """A reader that collects problems, so that all can be reported at once."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._accounts_left = MAX_ACCOUNTS

    def read(self, data: object) -> Fleet:
        top = self._mapping(data, "fleet", {"instances"})
        entries = self._list(top.get("instances"), "instances") if "instances" in top else []
        if not self.problems and not entries:
            self.problems.append("fleet: `instances` is missing or empty")
        fleet: dict[str, FleetInstance] = {}
        for index, entry in enumerate(entries):
            instance = self._instance(entry, f"instances[{index}]")
            if instance.id in fleet:
                self.problems.append(f"instances[{index}].id: {instance.id} stands twice")
            fleet[instance.id] = instance
        return tuple(fleet.values())

    def _instance(self, entry: object, at: str) -> FleetInstance:
        known = {
            "id",
            "region",
            "uin",
            "name",
            "status",
            "type",
            "project",
            "pay_mode",
            "version",
            "master",
            "tags",
            "accounts",
        }
        got = self._mapping(entry, at, known)
        tags = self._mapping(got.get("tags", {}), f"{at}.tags", None)
        accounts: dict[str, FleetAccount] = {}
        for index, item in enumerate(self._list(got.get("accounts", []), f"{at}.accounts")):
            self._accounts_left -= 1
            if self._accounts_left < 0:
                self.problems.append(f"{at}.accounts: more than {MAX_ACCOUNTS:,} accounts in all")
                break
            account = self._account(item, f"{at}.accounts[{index}]")
            if account.name in accounts:
                self.problems.append(f"{at}.accounts[{index}]: {account.name} stands twice")
            accounts[account.name] = account
        instance = FleetInstance(
            id=self._text(got, "id", at, None),
            region=self._text(got, "region", at, None, tuple(catalog.REGIONS)),
            uin=self._text(got, "uin", at, ""),
            name=self._text(got, "name", at, ""),
            status=self._text(got, "status", at, "running", tuple(sorted(INSTANCE_STATUSES))),
            type=self._text(got, "type", at, "primary", INSTANCE_TYPES),
            project=self._whole(got, "project", at),
            pay_mode=self._text(got, "pay_mode", at, "postpaid", ("prepaid", "postpaid")),
            version=str(got.get("version", "16")),
            master=self._text(got, "master", at, ""),
            tags=tuple((key, str(value)) for key, value in tags.items()),
            accounts=tuple(accounts.values()),
        )
        if instance.id and not catalog.is_instance_id(instance.id):
            self.problems.append(f"{at}.id: {instance.id!r} is no instance id (postgres-xxxxxxxx)")
        return instance

    def _account(self, item: object, at: str) -> FleetAccount:
        if isinstance(item, str):
            item = {"name": item}
        got = self._mapping(item, at, {"name", "status", "cam", "type", "sql"})
        status = got.get("status", estate.NORMAL)
        if isinstance(status, str):
            status = STATUS_WORDS.get(status, status)
        if status not in estate.STATUSES or isinstance(status, bool):
            self.problems.append(f"{at}.status: {status!r} is none of {', '.join(STATUS_WORDS)} or their numbers")
        cam, by_sql = got.get("cam", False), got.get("sql", False)
        if cam is not None and not isinstance(cam, bool):
            self.problems.append(f"{at}.cam: {cam!r} is not true, false or null")
        if not isinstance(by_sql, bool):
            self.problems.append(f"{at}.sql: {by_sql!r} is not true or false")
        return FleetAccount(
            name=self._text(got, "name", at, None),
            status=status if isinstance(status, int) else estate.NORMAL,
            cam=cam if isinstance(cam, bool) else None,
            user_type=self._text(got, "type", at, "normal", ("normal", "tencentDBSuper")),
            by_sql=by_sql is True,
        )

    def _mapping(self, value: object, at: str, known: set[str] | None) -> Mapping[str, object]:
        if not isinstance(value, Mapping):
            self.problems.append(f"{at}: must be a mapping, not {type(value).__name__}")
            return {}
        for key in value:
            if not isinstance(key, str) or (known is not None and key not in known):
                names = f"; known are {', '.join(sorted(known))}" if known is not None else ""
                self.problems.append(f"{at}: unknown key {key!r}{names}")
        return value

    def _list(self, value: object, at: str) -> list[object]:
        if isinstance(value, list):
            return value
        self.problems.append(f"{at}: must be a list, not {type(value).__name__}")
        return []

    def _text(
        self, got: Mapping[str, object], key: str, at: str, default: str | None, allowed: tuple[str, ...] = ()
    ) -> str:
        if key not in got and default is None and isinstance(got, Mapping):
            self.problems.append(f"{at}: `{key}` is missing")
            return ""
        value = got.get(key, default)
        if not isinstance(value, str) or (default is None and not value):
            self.problems.append(f"{at}.{key}: must be a text, not {value!r}")
            return ""
        if allowed and value not in allowed:
            self.problems.append(f"{at}.{key}: {value!r} is none of {', '.join(allowed)}")
        return value

    def _whole(self, got: Mapping[str, object], key: str, at: str) -> int:
        value = got.get(key, 0)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        self.problems.append(f"{at}.{key}: must be a whole number, not {value!r}")
        return 0
