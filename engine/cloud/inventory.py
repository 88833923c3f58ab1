"""Reads accounts with DescribeAccounts, one instance at a time, page by page to the proven end of the list.

Reads have a quota of their own, fifty times that of the writes (SEED-LOCK), so a reading costs next to nothing. Tasks
that ask for the same instance at the same time share one reading, if it began after they asked.

A row proves that an account exists. Only the end of the list proves that it does not. A short page is no end, as a
server may give fewer rows a page than it was asked for. TotalCount is none either, as the API describes it as the rows
of the call. So a reading ends when every account that it was asked for was found, else at an empty page. Pages overlap
by one row, which shows a list that shifts or changes its order. Rows that contradict each other prove nothing.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from msgspec import Struct

from engine.api.codes import NO_ANSWER, NO_KEYS
from engine.api.names import REGIONS
from engine.api.verdicts import LISTS, Cure, rule
from engine.cloud.client import Client
from engine.errors import CredentialsError
from engine.journal import records
from engine.model import AccountState, Answer, Reading, Stage, Verdict, Where
from engine.outside.foreign import MOST_FIELD, field_of, whole
from engine.pacing.backoff import Policy, next_delay
from engine.pacing.pacer import Pacer

PAGE = 100
"""Rows a page, the documented maximum (D-ACCTS)."""
SENDING_RATE = 100.0
"""Reads a second while writes are sent; the documented limit is 1000 (D-ACCTS)."""
PLANNING_RATE = 300.0
"""Reads a second while nothing is being sent."""
READ_BUDGET_S = 8.0
"""Seconds within which one read is tried again: a drain allows 10 s for reading."""
MOST_STALE = 8
"""Kept connections that may break in a row before a read counts as lost: after three none is kept any more."""
_LOOKS = 3
"""How often a list is read at most, if its pages do not fit together."""
_MOST_PAGES = 1000
_MOST_ROWS = 100_000
_MOST_LIST_S = 60.0
"""Seconds for reading one list. The pages of the largest take two seconds at the pace of reads beside writes."""
_MOST_PAUSE_S = 2.0
_MOST_STATUS = 1000
_SHIFTED = "the list kept changing while it was read"
T = TypeVar("T")


class Listed(Struct, Generic[T], kw_only=True):
    """A list of the API, as far as its pages were read."""

    rows: dict[str, T | None]
    """Name → row; None where the row could not be understood."""
    is_whole: bool = False
    """Whether its end was seen."""
    why: str | None = None
    """Why rows may be missing; None also if all that was wanted was found."""
    counted: int = 0
    """The greatest TotalCount."""
    answer: Answer
    """The last answer; without data, it was a failure that ended the list."""


class Inventory:
    """Reads instances, each through a client of the instance's account and region."""

    def __init__(
        self,
        clients_of: Callable[[str, str], Sequence[Client]],
        *,
        record: Callable[[records.AnyRecord], object] | None = None,
        rng: random.Random,
        concurrency: int = 64,
        most: float = PLANNING_RATE,
    ) -> None:
        """Take clients that can read an account in a region from `clients_of`; journal every reading with `record`.

        `most`: reads a second, whatever is sent meanwhile.
        """
        self._clients_of = clients_of
        self._preferred: dict[tuple[str, str], int] = {}
        """Account and region → number of the client to ask: the first that reaches the API and has good keys."""
        self._record = record
        self._rng = rng
        self._most = most
        self._calm, self._brisk = Pacer(min(SENDING_RATE, most)), Pacer(min(PLANNING_RATE, most))
        self.is_sending: Callable[[], bool] = lambda: False
        """Tells whether writes are being sent, which reads must not disturb."""
        self.saw: Callable[[Where, Reading, float], None] = lambda _where, _reading, _began_at: None
        """Gets every reading before the tasks that asked for it, with the loop time at which it began."""
        self._turn = asyncio.Lock()
        self._gate = asyncio.Semaphore(concurrency)
        self._shared: dict[Where, _Shared] = {}

    def keep_up_with(self, writes: float) -> None:
        """Read at least as fast as `writes` calls a second are sent, as each call needs a fresh reading."""
        self._calm = Pacer(min(PLANNING_RATE, self._most, max(SENDING_RATE, 1.6 * writes)))

    def clock(self, where: Where) -> float:
        """Return the UNIX time that dates readings of an instance."""
        return self._clients_of(where.account, where.region)[0].now()

    async def read(self, where: Where, *, purpose: str, users: Collection[str] | None = None) -> Reading:
        """Return a reading of an instance that began after this moment. Never raises for what the API answers.

        With `users`, the reading ends as soon as these are found; it then proves of no other account that it is
        missing. Without `users`, or if one is not found, the reading goes on to the proven end of the list.
        """
        shared = self._shared.setdefault(where, _Shared())
        mine, asked_at = object(), shared.begun
        shared.wanted[mine] = users
        try:
            async with shared.lock:
                if shared.reading is None or shared.number <= asked_at:
                    async with self._gate:
                        await asyncio.sleep(0)  # tasks that ask in the same turn of the loop share this reading
                        shared.begun += 1
                        number = shared.begun
                        began_at = asyncio.get_running_loop().time()
                        reading = await self._read(where, purpose, shared.everyone())
                    shared.reading, shared.number = reading, number
                    self.saw(where, reading, began_at)
                return shared.reading
        finally:
            del shared.wanted[mine]
            if not shared.wanted:
                del self._shared[where]

    async def _read(self, where: Where, purpose: str, users: Collection[str] | None) -> Reading:
        loop = asyncio.get_running_loop()
        started, at = loop.time(), self.clock(where)
        # By name: a list ordered by time shifts while it is read when somebody changes an account.
        parameters = {"DBInstanceId": where.instance, "OrderBy": "name", "OrderByType": "asc"}
        is_enough = _has_all(users) if users is not None else None
        listed = await self._listed("DescribeAccounts", where, parameters, "UserName", _state, is_enough)
        accounts = {user: state for user, state in listed.rows.items() if state is not None}
        last, is_read = listed.answer, listed.answer.data is not None
        reading = Reading(
            accounts=accounts if is_read else None,
            complete=is_read and listed.is_whole and listed.why is None and bool(accounts),
            why=listed.why if is_read else None,
            code=None if is_read else last.code or "Local.Garbage",
            message=None if is_read else last.message,
            request_id=last.request_id,
            at=at,
            ms=round((loop.time() - started) * 1000),
        )
        if self._record is not None:
            self._record(read_line(where, purpose, reading))
        return reading

    async def listed(
        self,
        action: str,
        where: Where,
        parameters: Mapping[str, object],
        *,
        key: str,
        read: Callable[[Mapping[str, Any]], T | None],
        is_enough: Callable[[Mapping[str, T | None]], bool] | None = None,
    ) -> Listed[T]:
        """Read a list to its proven end, or until the rows are `is_enough`; read it again if its pages do not fit.

        The field `key` names a row. `read` gives what is kept of a row, None if it cannot be understood. Any: the
        API's JSON.
        """
        async with self._gate:
            return await self._listed(action, where, parameters, key, read, is_enough)

    async def _listed(
        self,
        action: str,
        where: Where,
        parameters: Mapping[str, object],
        key: str,
        read: Callable[[Mapping[str, Any]], T | None],
        is_enough: Callable[[Mapping[str, T | None]], bool] | None,
    ) -> Listed[T]:
        until = asyncio.get_running_loop().time() + _MOST_LIST_S
        rows: dict[str, T | None] = {}
        for _ in range(_LOOKS):
            listed = await self._look(action, where, parameters, key, read, is_enough, until)
            rows |= listed.rows
            if listed.why != _SHIFTED:
                break
            listed.rows = rows  # a row that any look saw was there
        odd = sum(row is None for row in listed.rows.values())
        if listed.why is None and odd:
            listed.why = f"{odd:,} row{'s' * (odd != 1)} cannot be understood"
        if listed.why is None and listed.is_whole and listed.counted > len(listed.rows):
            listed.why = f"the API counts {listed.counted:,}"
        return listed

    async def _look(
        self,
        action: str,
        where: Where,
        parameters: Mapping[str, object],
        key: str,
        read: Callable[[Mapping[str, Any]], T | None],
        is_enough: Callable[[Mapping[str, T | None]], bool] | None,
        until: float,
    ) -> Listed[T]:
        """Read the list once, page by page."""
        loop = asyncio.get_running_loop()
        listed: Listed[T] = Listed(rows={}, answer=_NOTHING)
        rows, last, is_capped = listed.rows, "", False
        offset = end = 0  # where the next page begins, and where the rows seen so far end
        for _ in range(_MOST_PAGES):
            if len(rows) > _MOST_ROWS or loop.time() > until:
                break
            parameters = {**parameters, "Limit": PAGE, "Offset": offset}
            listed.answer = answer = await self._asked(action, where, parameters, loop.time())
            if answer.data is None:
                return listed
            listed.counted = max(listed.counted, whole(answer.data["TotalCount"], 0, _MOST_ROWS * 10) or 0)
            page = [(_name(row, key, offset + at), row) for at, row in enumerate(answer.data[LISTS[action]])]
            overlap = end - offset
            if page and end and not overlap and not is_capped:
                # The short page before was not the last: the server gives fewer rows a page than it is asked for.
                is_capped, offset = True, end - 1
                continue
            before = len(rows)
            for at, (name, row) in enumerate(page):
                said = _understood(row, read)
                # Of two rows of one name that differ, neither counts. In the overlap the newer row counts.
                rows[name] = said if at < overlap or rows.get(name, said) == said else None
            if is_enough is not None and is_enough(rows):
                return listed
            is_fit = not overlap or bool(page and page[0][0] == last)
            if not is_fit or len(rows) - before != len(page) - overlap:
                listed.why = _SHIFTED  # go on all the same: every row that is seen exists
            if not page:
                listed.is_whole = listed.why is None
                return listed
            last, end = page[-1][0], offset + len(page)
            # After a page that may be the last, an empty one must follow; else the next page overlaps by a row.
            may_be_last = len(page) == overlap or (len(page) < PAGE and not is_capped)
            offset = end if may_be_last else end - 1
        listed.why = f"the list did not end within {len(rows):,} rows"
        return listed

    async def locate(self, instances: Iterable[str], *, account: str, away_from: str) -> dict[str, str]:
        """Return instance → the region in which its id was found; best effort, one call a region and 100 instances."""
        wanted = sorted(set(instances))
        found: dict[str, str] = {}

        async def look(region: str, ids: list[str]) -> None:
            filters = [{"Name": "db-instance-id", "Values": ids}]
            listed = await self.listed(
                "DescribeDBInstances",
                Where(account, region, ""),
                {"Filters": filters, "OrderBy": "DBInstanceId", "OrderByType": "asc"},
                key="DBInstanceId",
                read=lambda row: row["DBInstanceId"] in ids,
                is_enough=lambda rows: len(rows) >= len(ids),
            )
            found.update(dict.fromkeys(listed.rows.keys() & ids, region))

        async with asyncio.TaskGroup() as group:
            for region in REGIONS:
                if region == away_from or region.endswith("-fsi"):
                    continue
                for first in range(0, len(wanted), PAGE):
                    group.create_task(look(region, wanted[first : first + PAGE]))
        return found

    async def ask(self, action: str, where: Where, parameters: Mapping[str, object]) -> Answer:
        """Send a read of any action at the reads' pace; return its answer, without `data` if it never succeeded."""
        async with self._gate:
            return await self._asked(action, where, parameters, asyncio.get_running_loop().time())

    async def _asked(self, action: str, where: Where, parameters: Mapping[str, object], started: float) -> Answer:
        """Send a read, again within `READ_BUDGET_S` of `started`; return its answer, without `data` on failure."""
        loop = asyncio.get_running_loop()
        place = (where.account, where.region)
        clients = self._clients_of(*place)
        lost: dict[int, Answer] = {}
        """Number of a client that has no keys, or whose keys are refused → the answer that says so."""
        unreached = 0
        policy = Policy(transient_s=READ_BUDGET_S, busy_s=READ_BUDGET_S, few=3)
        tries = stale = 0
        cured: set[tuple[int, Cure]] = set()
        while True:
            turn = self._preferred.get(place, 0)
            number = turn % len(clients)
            if number in lost:
                # The read fails only if every client fails: one with good keys is enough.
                if len(lost) == len(clients):
                    return next((answer for answer in lost.values() if answer.code != NO_KEYS), lost[number])
                self._pass_over(place, turn)
                continue
            client = clients[number]
            try:
                keys = client.keys.get()
            except CredentialsError as error:
                lost[number] = Answer(http=None, request_id=None, code=NO_KEYS, message=str(error))
                continue
            async with self._turn:
                pacer = self._calm if self.is_sending() else self._brisk
                await pacer.slot()
            attempt = await client.attempt(action, where.region, parameters, keys=keys, trace=str(uuid.uuid4()))
            answer = attempt.answer
            ruling = rule(action, answer, refreshable_keys=client.keys.refreshable)
            elapsed_s = loop.time() - started
            if ruling.verdict is Verdict.DONE:
                return answer
            if answer.stale_connection and stale < MOST_STALE and (not stale or elapsed_s < READ_BUDGET_S):
                stale += 1  # a broken connection is no failure of the read: the next goes out on a new one
                continue
            is_mute = answer.stage is Stage.BEFORE_SEND or answer.code == NO_ANSWER
            if is_mute and unreached < len(clients) - len(lost) - 1:
                unreached += 1
                self._pass_over(place, turn)
            elif ruling.verdict is Verdict.FATAL:
                lost[number] = answer
            elif ruling.cure in (Cure.CLOCK, Cure.KEYS):
                is_cured = (number, ruling.cure) not in cured and await client.cure(ruling.cure, attempt, keys)
                cured.add((number, ruling.cure))
                if not is_cured:
                    lost[number] = answer
            elif ruling.verdict is Verdict.THROTTLED and elapsed_s < READ_BUDGET_S:
                pacer.refused()
                if attempt.retry_after_s:
                    pacer.pause(min(attempt.retry_after_s, READ_BUDGET_S))
            elif ruling.verdict in (Verdict.TRANSIENT, Verdict.IN_DOUBT):
                tries += 1
                delay = next_delay(ruling.budget, tries=tries, elapsed_s=elapsed_s, policy=policy, rng=self._rng)
                if delay is None or elapsed_s + attempt.retry_after_s >= READ_BUDGET_S:
                    return answer
                await asyncio.sleep(max(min(delay, _MOST_PAUSE_S), attempt.retry_after_s))
            else:
                return answer

    def _pass_over(self, place: tuple[str, str], turn: int) -> None:
        """Ask the next client of a place from now on, unless another read changed the client meanwhile."""
        if self._preferred.get(place, 0) == turn:
            self._preferred[place] = turn + 1


class _Shared:
    """A reading for which several tasks may ask."""

    __slots__ = ("begun", "lock", "number", "reading", "wanted")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted: dict[object, Collection[str] | None] = {}
        """Token of a task that waits → the users it asks for; None: all users."""
        self.begun = 0
        """Number of readings that have begun."""
        self.reading: Reading | None = None
        self.number = 0
        """Number of `reading` among them, from 1."""

    def everyone(self) -> frozenset[str] | None:
        """Return the users for which any task waits; None: all users."""
        every = self.wanted.values()
        return None if None in every else frozenset(user for users in every if users is not None for user in users)


_NOTHING = Answer(http=None, request_id=None, code=None, message=None)


def read_line(where: Where, purpose: str, reading: Reading) -> records.Read:
    """Return the record of a reading for the journal."""
    return records.Read(
        account=where.account,
        region=where.region,
        instance=where.instance,
        purpose=purpose,
        request_id=reading.request_id,
        code=reading.code,
        rows=None if reading.accounts is None else len(reading.accounts),
        ms=reading.ms,
    )


def _has_all(users: Collection[str]) -> Callable[[Mapping[str, AccountState | None]], bool]:
    return lambda rows: all(rows.get(user) is not None for user in users)


def _name(row: object, key: str, at: int) -> str:
    """Return the name of a row. One without a usable name is named by its place, in a way that no real name has."""
    name = row.get(key) if isinstance(row, dict) else None
    return name if isinstance(name, str) and len(name) <= MOST_FIELD else f"\0{at}"


def _understood(row: object, read: Callable[[Mapping[str, Any]], T | None]) -> T | None:
    return read(row) if isinstance(row, dict) else None


def _state(row: Mapping[str, Any]) -> AccountState | None:
    """Return the account of a row of DescribeAccounts; None if its Status, which the API always sends, is no number.

    The API may leave OpenCam out; a value that is neither true nor false counts as left out. Any: the API's JSON.
    """
    status, cam = whole(row.get("Status"), -_MOST_STATUS, _MOST_STATUS), row.get("OpenCam")
    if status is None:
        return None
    return AccountState(
        user=row["UserName"],
        status=status,
        cam=cam if isinstance(cam, bool) else None,
        user_type=field_of(row.get("UserType")),
        update_time=field_of(row.get("UpdateTime")),
        password_update_time=field_of(row.get("PasswordUpdateTime")),
    )
