"""Three ways to send so many calls, each as a process: `python -m tests.bench.contenders NAME URL CALLS`.

`bare` signs and posts, and nothing else: the floor. `obvious` is the script one would write in an afternoon (aiohttp,
`AsyncLimiter`, tenacity, a JSON line a call, no fsync). `engine` is ours, its journal durable. Prints one line of
JSON: CPU and wall seconds of the sending alone (imports excluded), and the process's peak memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from tests.bench.machine import Row

ACTION, REGION = "LockAccount", "ap-singapore"
WORKERS = 100
LIFTED = 1_000_000.0
"""Calls a second: no limit."""


def targets(calls: int) -> list[tuple[str, str]]:
    return [(f"postgres-{number // 5:08d}", f"user{number % 5}") for number in range(calls)]


# ---- bare --------------------------------------------------------------------------------------------------------


async def bare(url: str, calls: int, _rate: float, _place: Path) -> None:
    from engine.api.signing import Signer
    from engine.model import Keys
    from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY

    keys, host, signer = Keys(secret_id=DEMO_SECRET_ID, secret_key=DEMO_SECRET_KEY), url.split("//")[1], Signer()
    left = iter(targets(calls))

    async def worker(session: aiohttp.ClientSession) -> None:
        for instance, user in left:
            body = json.dumps({"DBInstanceId": instance, "UserName": user}).encode()
            now = int(time.time())
            headers = signer.headers(keys, host, ACTION, REGION, "2017-03-12", body, now, trace="t")
            async with session.post(url, data=body, headers=headers) as response:
                await response.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=WORKERS)) as session:
        await asyncio.gather(*(worker(session) for _ in range(WORKERS)))


# ---- the obvious script ------------------------------------------------------------------------------------------


class ThrottledError(Exception):
    pass


def sign(url: str, body: bytes) -> dict[str, str]:
    """As the vendor's sample does it."""
    from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY

    def mac(key: bytes, text: str) -> bytes:
        return hmac.new(key, text.encode(), hashlib.sha256).digest()

    host, now = url.split("//")[1], int(time.time())
    date = time.strftime("%Y-%m-%d", time.gmtime(now))
    digest = hashlib.sha256(body).hexdigest()
    canonical = f"POST\n/\n\ncontent-type:application/json\nhost:{host}\n\ncontent-type;host\n{digest}"
    scope = f"{date}/postgres/tc3_request"
    text = f"TC3-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = mac(mac(mac(("TC3" + DEMO_SECRET_KEY).encode(), date), "postgres"), "tc3_request")
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return {
        "Authorization": f"TC3-HMAC-SHA256 Credential={DEMO_SECRET_ID}/{scope}, "
        f"SignedHeaders=content-type;host, Signature={signature}",
        "Content-Type": "application/json",
        "Host": host,
        "X-TC-Action": ACTION,
        "X-TC-Version": "2017-03-12",
        "X-TC-Timestamp": str(now),
        "X-TC-Region": REGION,
    }


async def obvious(url: str, calls: int, rate: float, place: Path) -> None:
    limiter, gate = AsyncLimiter(rate, 1), asyncio.Semaphore(WORKERS)

    async def attempt(session: aiohttp.ClientSession, instance: str, user: str) -> str:
        async with limiter:
            body = json.dumps({"DBInstanceId": instance, "UserName": user}).encode()
            async with session.post(url, data=body, headers=sign(url, body)) as response:
                answer = (await response.json())["Response"]
        code = answer.get("Error", {}).get("Code", "")
        if code.startswith("RequestLimitExceeded"):
            raise ThrottledError(code)
        return str(answer["RequestId"])

    async def call(session: aiohttp.ClientSession, instance: str, user: str) -> None:
        async with gate:
            async for trial in AsyncRetrying(
                stop=stop_after_attempt(10),
                wait=wait_exponential_jitter(initial=1, max=10),
                retry=retry_if_exception_type((ThrottledError, aiohttp.ClientError, TimeoutError)),
                reraise=True,
            ):
                with trial:
                    request_id = await attempt(session, instance, user)
            line = {"at": time.time(), "instance": instance, "user": user, "request_id": request_id}
            log.write(json.dumps(line) + "\n")
            log.flush()

    connector = aiohttp.TCPConnector(limit=WORKERS)
    with (place / "log.jsonl").open("a") as log:
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(call(session, *target) for target in targets(calls)))


# ---- ours --------------------------------------------------------------------------------------------------------


def engine(urls: str, calls: int, rate: float, place: Path) -> None:
    """One run over these endpoints (separated by commas), each a lane: plan, journal, session, as the command."""
    _run(urls, calls, rate, place)


def in_store(urls: str, calls: int, rate: float, place: Path) -> Row:
    """The same, in the database that `ACCTOPS_DATABASE` names, else in files; how late each `sent` was durable."""
    late_s: list[float] = []
    _run(urls, calls, rate, place, os.environ.get("ACCTOPS_DATABASE"), late_s)
    late_s.sort()
    return {f"sent_p{share}_ms": late_s[len(late_s) * share // 100] * 1000 for share in (50, 99)} if late_s else {}


def _run(
    urls: str, calls: int, rate: float, place: Path, database: str | None = None, late_s: list[float] | None = None
) -> None:
    from engine.cli.loops import run_loop
    from engine.cli.watching import Terminal
    from engine.cloud.clients import Reach, Signer
    from engine.journal.ledger import Ledger
    from engine.journal.records import AnyRecord, Sent
    from engine.journal.store import runs_at
    from engine.model import Target
    from engine.operations.session import Session
    from engine.planning.plan import make_plan
    from tests.support.drill import FixedKeys, first_lines, run_line, run_settings

    endpoints = tuple(urls.split(","))
    store = runs_at(place, simulated=False, database=database)
    settings = run_settings(endpoint=endpoints, rate=rate, workers=WORKERS, verify=False)
    plan = make_plan(ACTION, [Target(instance, user, REGION) for instance, user in targets(calls)])
    ledger = Ledger(run_line(plan, settings))
    lines = first_lines(plan, ledger)
    journal: Any = store.create(store.new_run_id(time.time(), random.Random()), lines, clock=time.time)
    append = journal.append

    def noted(record: AnyRecord, then: Callable[[Any], None] | None = None) -> int:
        if not isinstance(record, Sent) or late_s is None:
            return append(record, then)  # type: ignore[no-any-return]
        began = time.perf_counter()

        def landed(done: Any) -> None:
            late_s.append(time.perf_counter() - began)
            if then is not None:
                then(done)

        return append(record, landed)  # type: ignore[no-any-return]

    if late_s is not None:
        journal.append = noted
    session = Session(
        store=store,
        journal=journal,
        ledger=ledger,
        reach=Reach(keyring={"": [Signer(FixedKeys())]}, access=settings.access, network=None),
        passwords=None,
        world=None,
        stop_after=None,
        no_send=frozenset(),
        clock=time.time,
        watch=Terminal(quiet=False),
    )
    ended = run_loop(session.work())
    journal.close()
    if ended.reason != 0:
        raise SystemExit(f"the run ended with {ended.reason!r}: {ended.unrecorded}")


CONTENDERS: dict[str, Callable[[str, int, float, Path], Any]] = {
    "bare": lambda *how: asyncio.run(bare(*how)),
    "obvious": lambda *how: asyncio.run(obvious(*how)),
    "engine": engine,
}
STORES: dict[str, Callable[[str, int, float, Path], Row]] = {"store": in_store}
"""Measured beside each other in a section of their own."""


def main(name: str, url: str, calls: str, rate: str = str(LIFTED), start: str = "warm") -> dict[str, Any]:
    """Send one call, so that all is imported and warm (unless `start` is `cold`), then so many."""
    contender = (CONTENDERS | STORES)[name]
    with tempfile.TemporaryDirectory(prefix="acctops-bench-") as place:
        for part in ("warm", "run"):
            Path(place, part).mkdir()
        if start == "warm":
            contender(url, 1, LIFTED, Path(place, "warm"))
        began, cpu = time.perf_counter(), time.process_time()
        seen = contender(url, int(calls), float(rate), Path(place, "run"))
        return (seen or {}) | {
            "cpu_s": time.process_time() - cpu,
            "wall_s": time.perf_counter() - began,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
