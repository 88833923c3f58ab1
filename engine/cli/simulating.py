"""Door: `acctops simulate`, and the files a simulator reads."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from engine.cli.loops import run_loop
from engine.cli.talk import out, say
from engine.cli.telling import teller
from engine.errors import AcctopsError, UsageError
from engine.inputs.files import load_job
from engine.inputs.jobfile.values import seconds
from engine.operations.simulated import fleet_from, parsed, read_faults
from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY

if TYPE_CHECKING:
    from engine.simulator.world import World

_T = TypeVar("_T")


def serve(
    *,
    ports: tuple[int, ...],
    port_range: str | None,
    job_paths: tuple[str, ...],
    fleet: str | None,
    accounts: str | None,
    faults: str | None,
    window: str,
    no_quota: bool,
    latency: str,
    jitter: str,
    seed: int,
) -> int:
    """The `simulate` command: serves until a signal."""
    wanted = (*ports, *_range(port_range)) or (0,)
    from engine.simulator.sts import KeyRecord
    from engine.simulator.tenants import parse_tenants
    from engine.simulator.world import World

    secret_id = os.environ.get("TENCENTCLOUD_SECRET_ID")
    secret_key = os.environ.get("TENCENTCLOUD_SECRET_KEY")
    keys = None
    if secret_id and secret_key:
        keys = {secret_id: KeyRecord(secret_key=secret_key, token=os.environ.get("TENCENTCLOUD_TOKEN") or None)}
    tenants = parsed(accounts, parse_tenants) if accounts is not None else None
    if tenants is not None:
        keys = tenants.keys | (keys or {})
    owners: dict[str, None] = {}
    if tenants is not None:
        owners = dict.fromkeys([key.uin for key in tenants.keys.values()] + [role.uin for role in tenants.roles])
    world = World(
        fleet=fleet_from(fleet, seed, owners, tell=teller(quiet=False)) if fleet is not None else None,
        faults=read_faults(faults) if faults is not None else (),
        keys=keys,
        quota_window=window,
        quotas={"*": None} if no_quota else None,
        seed=seed if seed else random.randrange(1 << 30),
        latency=_duration("--latency", latency),
        jitter=_duration("--jitter", jitter),
        audit=0,
        roles=tenants.roles if tenants is not None else (),
        metadata_role=tenants.metadata_role if tenants is not None else None,
    )
    if fleet is None:
        say(_seed(world, job_paths))
    if tenants is not None:
        roles = "".join(f"\n  role {arn}" for arn in world.roles)
        say(f"accepts the {len(keys or {}):,} keys of {accounts}{roles}")
    elif keys is None:
        say(
            "accepts the demo keys:\n"
            f"  export TENCENTCLOUD_SECRET_ID={DEMO_SECRET_ID} TENCENTCLOUD_SECRET_KEY={DEMO_SECRET_KEY}"
        )
    else:
        say("accepts the keys of TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY in this environment")
    gc.enable()
    return run_loop(_serve(world, wanted))


def _range(said: str | None) -> range:
    """The ports of `--ports 9900-9915`."""
    if said is None:
        return range(0)
    first, dash, last = said.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 65_536):
        raise UsageError(f"--ports {said}: give the first and the last port, such as 9900-9915")
    return range(int(first), int(last) + 1)


def _seed(world: World, job_paths: tuple[str, ...]) -> str:
    """Let the accounts of jobs exist from the start; returns what to say about it."""
    known = []
    here = sorted(str(path) for path in (*Path().glob("*.yaml"), *Path("jobs").glob("*.yaml")) if path.is_file())
    for path in job_paths or here:
        try:
            targets = load_job(path).targets
        except AcctopsError:
            if job_paths:
                raise
            continue  # a file here that is no job, or not one of this version
        for target in targets:
            with suppress(ValueError):  # the instance is in another region already
                world.seed(target.instance, target.region, [target.user], whole=False)
        known.append(path)
    rest = "whatever else is well formed exists, too, and is listed once a write has named it"
    return f"lists the accounts of {', '.join(known)}; {rest}" if known else rest


async def _serve(world: World, ports: tuple[int, ...]) -> int:
    from engine.simulator.server import serve as listen

    try:
        server = await listen(world, ports=ports)
    except OSError as error:
        raise UsageError(f"--port: cannot listen: {error.strerror or error}") from error
    for endpoint in server.endpoints:
        out(endpoint)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    await ended.wait()
    await server.aclose()
    return 0


def _duration(flag: str, text: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise UsageError(f"{flag} {text}: {error}") from error
