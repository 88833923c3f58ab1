"""Door: `acctops doctor`: what would stop a run, found before the run."""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine import __version__
from engine.cli.options import Options
from engine.cli.talk import out, out_json
from engine.credentials import KeySource, find_keys
from engine.errors import AcctopsError, Exit
from engine.files import load_job
from engine.journal.store import RunStore
from engine.model import Stage, Verdict
from engine.verdicts import Cure, rule

if TYPE_CHECKING:
    from engine.job import Job
    from engine.model import Answer
    from engine.settings import Settings
    from engine.verdicts import Ruling

CLOCK_WARN_S = 60.0
CLOCK_FAIL_S = 300.0
"""A signature is refused beyond five minutes (facts.md §2.1)."""
_ENDPOINT_TIMEOUT_S = 10.0
_REGION = "ap-guangzhou"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    result: str
    """ok, warn or fail."""
    words: str


def examine(job_path: str | None, **flags: Any) -> int:
    """The `doctor` command. Any: the flags, by name."""
    options = Options(**flags)
    checks: list[Check] = []
    job: Job | None = None
    denied = False
    if job_path is not None:
        job = load_job(job_path)
        matches = f" and {len(job.matches)} to be found by match" if job.matches else ""
        checks.append(Check("job", "ok", f"{job_path}: {job.action}, {len(job.targets):,} targets{matches}"))
    settings = options.settings(job)
    checks += [Check("config", "warn", warning) for warning in (*settings.warnings, *(job.warnings if job else ()))]
    checks.append(_guards(settings))
    checks.append(_state_dir(settings))
    sources: list[KeySource] = []
    try:
        for profile in settings.profiles or (None,):
            keys, warnings = find_keys(profile, os.environ)
            sources.append(keys)
            checks.append(Check("credentials", "ok", f"{keys.label}, key {keys.get().fingerprint}"))
            checks += [Check("credentials", "warn", warning) for warning in warnings]
    except AcctopsError as error:
        denied = True
        checks.append(Check("credentials", "fail", str(error)))
    for keys in sources:
        found, refused = asyncio.run(_endpoints(settings, keys, job))
        checks += found
        denied = denied or refused
    failed = any(check.result == "fail" for check in checks)
    code = Exit.OK if not failed else Exit.DENIED if denied else Exit.INCOMPLETE
    if options.as_json:
        rows = [{"check": check.name, "result": check.result, "words": check.words} for check in checks]
        out_json({"checks": rows, "exit": int(code)})
    else:
        for check in checks:
            out(f"{check.result:4}  {check.name}: {check.words}")
    return code


def _guards(settings: Settings) -> Check:
    if settings.protect:
        return Check("guards", "ok", "; ".join(settings.guards))
    return Check("guards", "warn", "; ".join(settings.guards) or "no protect rules (waived by the job)")


def _state_dir(settings: Settings) -> Check:
    try:
        store = RunStore(settings.state_dir, group=settings.state_group)
        run_id = store.new_run_id(time.time(), random.Random())
        store.make_run_dir(run_id)
        probe = store.run_dir(run_id) / "doctor"
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
        store.discard_unborn(run_id)
    except OSError as error:
        return Check("state dir", "fail", f"{settings.state_dir}: {error.strerror}; free space, or pass --state-dir")
    except AcctopsError as error:
        return Check("state dir", "fail", str(error))
    return Check("state dir", "ok", f"{settings.state_dir} can be written")


async def _endpoints(settings: Settings, keys: KeySource, job: Job | None) -> tuple[list[Check], bool]:
    """One harmless read through every endpoint: DescribeDBInstances, one row."""
    from engine.client import Client
    from engine.transport import HttpTransport

    regions = (job.regions if job is not None else ()) or (_REGION,)
    checks: list[Check] = []
    refused = False
    transport = HttpTransport(connections=4)
    try:
        for endpoint in settings.access(regions).every:
            client = Client(
                transport,
                keys,
                endpoint,
                timeout_s=min(settings.timeout_s, _ENDPOINT_TIMEOUT_S),
                request_client=f"acctops_{__version__};doctor",
            )
            question = ("DescribeDBInstances", regions[0], {"Limit": 1})
            attempt = await client.attempt(*question, keys=keys.get(), trace=str(uuid.uuid4()))
            ruling = rule("DescribeDBInstances", attempt.answer, refreshable_keys=False)
            checks += _clock(attempt.date, attempt.sent_at)
            if ruling.cure is Cure.CLOCK and attempt.date is not None:  # as a run does: learn, and ask again
                client.learn_clock(attempt.date)
                attempt = await client.attempt(*question, keys=keys.get(), trace=str(uuid.uuid4()))
                ruling = rule("DescribeDBInstances", attempt.answer, refreshable_keys=False)
            answer = attempt.answer
            if ruling.verdict is Verdict.DONE:
                checks.append(Check("endpoint", "ok", f"{endpoint} answers and takes the keys ({attempt.ms} ms)"))
            else:
                checks.append(Check("endpoint", "fail", _why(endpoint, answer, ruling)))
                refused = refused or (answer.code or "").startswith(("AuthFailure", "UnauthorizedOperation"))
    finally:
        await transport.aclose()
    return checks, refused


def _why(endpoint: str, answer: Answer, ruling: Ruling) -> str:
    if answer.stage is Stage.BEFORE_SEND:
        cure = "look at the address, DNS, firewall and proxy of this host"
        return f"cannot be reached: {answer.message} [{answer.code}]; {cure}"
    request = f" (RequestId {answer.request_id})" if answer.request_id else ""
    return f"{endpoint}: {ruling.words} [{answer.code}]{request}; {ruling.advice}"


def _clock(date: float | None, here: float) -> list[Check]:
    if date is None:
        return []
    gap = here - date
    words = f"{abs(gap):.0f} s {'ahead of' if gap > 0 else 'behind'} the server's"
    if abs(gap) < CLOCK_WARN_S:
        return [Check("clock", "ok", f"within {CLOCK_WARN_S:.0f} s of the server's")]
    if abs(gap) < CLOCK_FAIL_S:
        return [Check("clock", "warn", f"{words}; signatures fail from 300 s on: set it by NTP")]
    return [Check("clock", "warn", f"{words}: a run learns the difference from the server, yet set it by NTP")]
