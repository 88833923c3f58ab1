"""Engine, floor 3: reads accounts. DescribeAccounts, one instance at a time, paged to the short page.

Reads have a quota of their own, fifty times that of the writes (facts.md §1.1), so a reading costs next to nothing.
Whoever asks at the same time about the same instance shares one reading, as long as it began after they asked.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from engine import records
from engine.backoff import Policy, next_delay
from engine.client import Client
from engine.errors import CredentialsError
from engine.model import AccountState, Answer, Reading, Stage, Verdict, Where
from engine.names import REGIONS
from engine.pacing import Pacer
from engine.verdicts import Cure, rule

PAGE = 100
"""Rows a call, the documented maximum (D-ACCTS)."""
SENDING_RATE = 100.0
"""Reads a second while writes are sent; the documented limit is 1000 (D-ACCTS)."""
PLANNING_RATE = 300.0
"""Reads a second while nothing is being sent."""
READ_BUDGET_S = 8.0
"""How long one reading tries: a drain allows reading 10 s."""
NO_KEYS = "Local.NoKeys"
"""There is nothing to sign a reading with; its message says why."""
NO_ANSWER = "Local.Timeout"
"""Sent, and nothing came back in time."""
_MOST_PAGES = 1000
_MOST_PAUSE_S = 2.0


class Inventory:
    """Readings, each through a client of its instance's account and region."""

    def __init__(
        self,
        clients_of: Callable[[str, str], Sequence[Client]],
        *,
        record: Callable[[records.AnyRecord], object] | None = None,
        rng: random.Random,
        concurrency: int = 64,
    ) -> None:
        """`clients_of` an account and a region can read them; `record`, if given, journals every reading."""
        self._clients_of = clients_of
        self._preferred: dict[tuple[str, str], int] = {}
        """Account and region → which of their clients is asked: the first that can be reached and is let in."""
        self._record = record
        self._rng = rng
        self._calm, self._brisk = Pacer(SENDING_RATE), Pacer(PLANNING_RATE)
        self.is_sending: Callable[[], bool] = lambda: False
        """Whether writes are being sent, which reads must not disturb."""
        self._turn = asyncio.Lock()
        self._gate = asyncio.Semaphore(concurrency)
        self._shared: dict[Where, _Shared] = {}

    def keep_up_with(self, writes: float) -> None:
        """So many calls a second are sent, each by a reading that is fresh: read at least as fast."""
        self._calm = Pacer(min(PLANNING_RATE, max(SENDING_RATE, 1.6 * writes)))

    def clock(self, where: Where) -> float:
        """UNIX time, by which readings of an instance are dated."""
        return self._clients_of(where.account, where.region)[0].now()

    async def read(self, where: Where, *, purpose: str) -> Reading:
        """Accounts of an instance as they are after this moment. Never raises for what the API answers."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        shared = self._shared.setdefault(where, _Shared())
        shared.readers += 1
        try:
            async with shared.lock:
                if shared.reading is None or shared.began_at < asked_at:
                    shared.began_at = loop.time()
                    async with self._gate:
                        shared.reading = await self._read(where, purpose)
                return shared.reading
        finally:
            shared.readers -= 1
            if not shared.readers:
                del self._shared[where]

    async def _read(self, where: Where, purpose: str) -> Reading:
        loop = asyncio.get_running_loop()
        started, at = loop.time(), self.clock(where)
        accounts: dict[str, AccountState] | None = {}
        total = 0
        last = _NOTHING
        for page in range(_MOST_PAGES):
            # By name: a list ordered by time shifts under the reader when an account is touched.
            window = {"Limit": PAGE, "Offset": page * PAGE, "OrderBy": "name", "OrderByType": "asc"}
            last = await self._ask("DescribeAccounts", where, {"DBInstanceId": where.instance, **window}, started)
            rows = _rows(last.data) if last.data is not None else None
            if rows is None:
                accounts = None
                break
            assert accounts is not None
            accounts |= {row.user: row for row in rows}
            count = last.data.get("TotalCount") if last.data is not None else None
            total = max(total, count if isinstance(count, int) else 0)
            # TotalCount is the number of rows of this call (facts.md §1.2): only a short page ends the list.
            if len(rows) < PAGE:
                break
        else:
            total = _MOST_PAGES * PAGE + 1  # pages without end: whatever this is, it is not the whole list
        reading = Reading(
            accounts=accounts,
            complete=accounts is not None and 0 < len(accounts) >= total,
            code=None if accounts is not None else last.code or "Local.Garbage",
            message=None if accounts is not None else last.message,
            request_id=last.request_id,
            at=at,
            ms=round((loop.time() - started) * 1000),
        )
        if self._record is not None:
            self._record(read_line(where, purpose, reading))
        return reading

    async def locate(self, instances: Iterable[str], *, account: str, away_from: str) -> dict[str, str]:
        """Regions in which instances are found by id; best effort, one call a region and hundred instances."""
        wanted = sorted(set(instances))
        found: dict[str, str] = {}

        async def look(region: str, ids: list[str]) -> None:
            filters = [{"Name": "db-instance-id", "Values": ids}]
            started = asyncio.get_running_loop().time()
            answer = await self._ask(
                "DescribeDBInstances", Where(account, region, ""), {"Filters": filters, "Limit": PAGE}, started
            )
            rows = answer.data.get("DBInstanceSet") if answer.data is not None else None
            for row in rows if isinstance(rows, list) else ():
                if isinstance(row, dict) and row.get("DBInstanceId") in ids:
                    found[str(row["DBInstanceId"])] = region

        async with asyncio.TaskGroup() as group:
            for region in REGIONS:
                if region == away_from or region.endswith("-fsi"):
                    continue
                for first in range(0, len(wanted), PAGE):
                    group.create_task(look(region, wanted[first : first + PAGE]))
        return found

    async def ask(self, action: str, where: Where, parameters: Mapping[str, object]) -> Answer:
        """One read of whatever action, at the reads' pace; `data` is None if it never succeeded."""
        async with self._gate:
            return await self._ask(action, where, parameters, asyncio.get_running_loop().time())

    async def _ask(self, action: str, where: Where, parameters: Mapping[str, object], started: float) -> Answer:
        """One read, tried again within `READ_BUDGET_S` of `started`; `data` is None if it never succeeded."""
        loop = asyncio.get_running_loop()
        place = (where.account, where.region)
        clients = self._clients_of(*place)
        lost: dict[int, Answer] = {}
        """Which of them have no keys, or keys that are refused, and what was said."""
        unreached = 0
        policy = Policy(transient_s=READ_BUDGET_S, busy_s=READ_BUDGET_S, few=3)
        tries = 0
        cured: set[tuple[int, Cure]] = set()
        while True:
            turn = self._preferred.get(place, 0)
            number = turn % len(clients)
            if number in lost:
                # Only what all of them say is said of the account: beside keys that are good, others cost nothing.
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
                if delay is None:
                    return answer
                await asyncio.sleep(min(delay, _MOST_PAUSE_S))
            else:
                return answer

    def _pass_over(self, place: tuple[str, str], turn: int) -> None:
        """Ask the next client of a place from now on, unless somebody who asked meanwhile has found another."""
        if self._preferred.get(place, 0) == turn:
            self._preferred[place] = turn + 1


class _Shared:
    """A reading that several ask for."""

    __slots__ = ("began_at", "lock", "readers", "reading")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.readers = 0
        self.began_at = float("-inf")
        self.reading: Reading | None = None


_NOTHING = Answer(http=None, request_id=None, code=None, message=None)


def read_line(where: Where, purpose: str, reading: Reading) -> records.Read:
    """A reading as the journal keeps it."""
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


def _rows(data: Mapping[str, Any]) -> list[AccountState] | None:
    """AccountInfo rows of an answer, None if it has not the documented shape. Any: the API's JSON."""
    details = data.get("Details")
    if not isinstance(details, list):
        return None
    rows = []
    for item in details:
        if not isinstance(item, dict) or not isinstance(item.get("UserName"), str):
            return None
        status, cam = item.get("Status"), item.get("OpenCam")
        rows.append(
            AccountState(
                user=item["UserName"],
                status=status if isinstance(status, int) else 0,
                cam=cam if isinstance(cam, bool) else None,
                user_type=str(item.get("UserType") or ""),
                update_time=str(item.get("UpdateTime") or ""),
                password_update_time=str(item.get("PasswordUpdateTime") or ""),
            )
        )
    return rows
