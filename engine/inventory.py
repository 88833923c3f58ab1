"""Engine, floor 3: reads accounts. DescribeAccounts, one instance at a time, paged to the short page.

Reads have a quota of their own, fifty times that of the writes (facts.md §1.1), so a reading costs next to nothing.
Whoever asks at the same time about the same instance shares one reading, as long as it began after they asked.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine import records
from engine.backoff import Policy, next_delay
from engine.client import Client
from engine.model import AccountState, Verdict
from engine.pacing import Pacer
from engine.verdicts import Cure, rule

PAGE = 100
"""Rows a call, the documented maximum (D-ACCTS)."""
READ_RATE = 100.0
"""Reads a second while sending; the documented limit is 1000 (D-ACCTS)."""
READ_BUDGET_S = 8.0
"""How long one reading tries: a drain allows reading 10 s."""
_MOST_PAGES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The accounts of one instance at one moment, or why they could not be read."""

    accounts: Mapping[str, AccountState] | None
    code: str | None
    message: str | None
    request_id: str | None

    def find(self, user: str) -> AccountState | None:
        """The account of that name, if the instance could be read and has it."""
        return None if self.accounts is None else self.accounts.get(user)


class Inventory:
    """Readings through one client."""

    def __init__(
        self,
        client: Client,
        *,
        record: Callable[[records.AnyRecord], object],
        rng: random.Random,
        concurrency: int = 64,
    ) -> None:
        self._client = client
        self._record = record
        self._rng = rng
        self._pacer = Pacer(READ_RATE)
        self._turn = asyncio.Lock()
        self._gate = asyncio.Semaphore(concurrency)
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._latest: dict[tuple[str, str], tuple[float, Reading]] = {}

    async def read(self, region: str, instance: str, *, purpose: str) -> Reading:
        """Accounts of `instance` as they are after this moment. Never raises for what the API answers."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        key = (region, instance)
        async with self._locks.setdefault(key, asyncio.Lock()):
            began_at, reading = self._latest.get(key, (float("-inf"), None))
            if reading is None or began_at < asked_at:
                began_at = loop.time()
                async with self._gate:
                    reading = await self._read(region, instance, purpose)
                self._latest[key] = (began_at, reading)
        return reading

    async def _read(self, region: str, instance: str, purpose: str) -> Reading:
        loop = asyncio.get_running_loop()
        started = loop.time()
        accounts: dict[str, AccountState] = {}
        reading = Reading(accounts=accounts, code=None, message=None, request_id=None)
        for page in range(_MOST_PAGES):
            rows, reading = await self._page(region, instance, page * PAGE, started)
            if rows is None:
                break
            accounts |= {row.user: row for row in rows}
            # TotalCount is the number of rows of this call (facts.md §1.2): only a short page ends the list.
            if len(rows) < PAGE:
                reading = Reading(accounts=accounts, code=None, message=None, request_id=reading.request_id)
                break
        self._record(
            records.Read(
                region=region,
                instance=instance,
                purpose=purpose,
                request_id=reading.request_id,
                code=reading.code,
                rows=None if reading.accounts is None else len(accounts),
                ms=round((loop.time() - started) * 1000),
            )
        )
        return reading

    async def _page(
        self, region: str, instance: str, offset: int, started: float
    ) -> tuple[list[AccountState] | None, Reading]:
        loop = asyncio.get_running_loop()
        # By name: a list ordered by time shifts under the reader when an account is touched.
        parameters = {
            "DBInstanceId": instance,
            "Limit": PAGE,
            "Offset": offset,
            "OrderBy": "name",
            "OrderByType": "asc",
        }
        tries = 0
        cured: set[Cure] = set()
        while True:
            async with self._turn:
                await self._pacer.slot()
            attempt = await self._client.attempt(
                "DescribeAccounts", region, parameters, keys=self._client.keys.get(), trace=str(uuid.uuid4())
            )
            answer = attempt.answer
            ruling = rule("DescribeAccounts", answer, refreshable_keys=self._client.keys.refreshable)
            if ruling.verdict is Verdict.DONE:
                rows = _rows(answer.data or {})
                if rows is not None:
                    return rows, Reading(accounts={}, code=None, message=None, request_id=answer.request_id)
            failed = Reading(
                accounts=None,
                code=answer.code or "Local.Garbage",
                message=answer.message,
                request_id=answer.request_id,
            )
            elapsed_s = loop.time() - started
            if ruling.cure is Cure.CLOCK and attempt.date is not None and Cure.CLOCK not in cured:
                cured.add(Cure.CLOCK)
                self._client.learn_clock(attempt.date)
            elif ruling.cure is Cure.KEYS and Cure.KEYS not in cured and self._client.keys.refresh():
                cured.add(Cure.KEYS)
            elif ruling.verdict is Verdict.THROTTLED and elapsed_s < READ_BUDGET_S:
                self._pacer.refused()
            elif ruling.verdict in (Verdict.TRANSIENT, Verdict.IN_DOUBT) and elapsed_s < READ_BUDGET_S:
                tries += 1
                policy = Policy(transient_s=READ_BUDGET_S, busy_s=READ_BUDGET_S, few=3)
                delay = next_delay(ruling.budget, tries=tries, elapsed_s=elapsed_s, policy=policy, rng=self._rng)
                if delay is None:
                    return None, failed
                await asyncio.sleep(min(delay, 2.0))
            else:
                return None, failed


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
