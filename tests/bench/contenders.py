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
import random
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

ACTION, REGION = "LockAccount", "ap-singapore"
WORKERS = 100
LIFTED = 1_000_000.0
"""Calls a second: no limit."""


def targets(calls: int) -> list[tuple[str, str]]:
    return [(f"postgres-{number // 5:08d}", f"user{number % 5}") for number in range(calls)]


# ---- bare --------------------------------------------------------------------------------------------------------


async def bare(url: str, calls: int, _rate: float, _place: Path) -> None:
    from engine.model import Keys
    from engine.signing import Signer
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
    canonical = (
        f"POST\n/\n\ncontent-type:application/json\nhost:{host}\n\ncontent-type;host\n{hashlib.sha256(body).hexdigest()}"
    )
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


async def engine(url: str, calls: int, rate: float, place: Path) -> None:
    await engine_lanes([url], calls, rate, place)


async def engine_lanes(urls: list[str], calls: int, rate: float, place: Path) -> None:
    """One run over these endpoints, each a lane."""
    from engine.backoff import Policy
    from engine.client import Client
    from engine.inventory import Inventory
    from engine.journal.store import RunStore
    from engine.journal.writer import Journal
    from engine.judge import Lane
    from engine.ledger import Ledger
    from engine.model import RunId, Target
    from engine.pacing import Pacer
    from engine.plan import make_plan
    from engine.runner import Runner
    from engine.transport import HttpTransport
    from tests.support.drill import FixedKeys, first_lines, run_settings

    keys, ledger, store = FixedKeys(), Ledger(), RunStore(place)
    settings = run_settings(endpoint=tuple(urls), rate=rate, workers=WORKERS, verify=False)
    run_id = RunId("20261122T000000Z-bench")
    found = [Target(instance, user, REGION) for instance, user in targets(calls)]
    plan = make_plan(ACTION, found)
    journal = Journal.create(store, run_id, first_lines(plan, settings, ledger), clock=time.time)
    transport = HttpTransport(connections=len(urls) * WORKERS + 64)
    lanes = []
    for url in urls:
        client = Client(transport, keys, url, timeout_s=10.0)
        lanes.append(Lane(f"bench/{ACTION}/{client.host}", client, Pacer(rate), asyncio.Semaphore(WORKERS)))
    rng = random.Random(0)
    runner = Runner(
        journal=journal,
        ledger=ledger,
        lanes=lanes,
        inventory=Inventory(lanes[0].client, record=lambda line: journal.append(line, ledger.apply), rng=rng),
        policy=Policy(transient_s=120.0, busy_s=600.0),
        rng=rng,
        clock=time.time,
        deadline_s=3600.0,
    )
    try:
        code = await runner.run()
    finally:
        await journal.aclose()
        await transport.aclose()
    if code != 0:
        raise SystemExit(f"the run ended with {code!r}: {runner.stopped}")


CONTENDERS: dict[str, Callable[[str, int, float, Path], Awaitable[None]]] = {
    "bare": bare,
    "obvious": obvious,
    "engine": engine,
}


def main(name: str, url: str, calls: str, rate: str = str(LIFTED)) -> dict[str, Any]:
    contender = CONTENDERS[name]
    with tempfile.TemporaryDirectory(prefix="acctops-bench-") as place:
        # Imports and the first connections, so that sending alone is measured.
        asyncio.run(contender(url, 1, LIFTED, Path(place, "warm")) if name == "engine" else _warm(contender, url, place))
        began, cpu = time.perf_counter(), time.process_time()
        asyncio.run(contender(url, int(calls), float(rate), Path(place)))
        return {
            "cpu_s": time.process_time() - cpu,
            "wall_s": time.perf_counter() - began,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def _warm(contender: Callable[[str, int, float, Path], Awaitable[None]], url: str, place: str) -> Any:
    return contender(url, 1, LIFTED, Path(place))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
