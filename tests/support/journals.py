"""Journals for tests: one small true story with every kind of record, and a disk that can lose, fill up and fail."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, get_args

from msgspec.structs import replace

from engine.journal import records
from engine.journal.records import AnyRecord, rfc3339
from engine.journal.store import RunStore
from engine.journal.writer import FileJournal
from engine.model import CallId, Outcome, Proof, RunId, Verdict
from engine.model import call_id as plan_call_id

KINDS: tuple[type[records.Record], ...] = get_args(AnyRecord)
ENVELOPE = ("v", "seq", "at", "run", "shard", "hash")
_ELSEWHERE = {records.Released, records.HoldLine, records.ShardLine}
"""Kinds that stand beside a journal, or in that of a run with shards."""
NOW = 1_790_000_000.0
LANE = "default/LockAccount/127.0.0.1:443"


def ticking(start: float = NOW, step: float = 0.05) -> Callable[[], float]:
    """A clock that goes on by `step` each time it is read."""
    return (start + tick * step for tick in itertools.count()).__next__


def call_id(number: int) -> CallId:
    return plan_call_id("", "ap-singapore", f"postgres-{number // 4:08x}", f"user_{number % 4}", "LockAccount")


def run_record(calls: int, *, job: str = "leak", simulated: bool = False) -> records.Run:
    return records.Run(
        job=records.JobRef(job, f"/jobs/{job}.yaml", "ab" * 32),
        action="LockAccount",
        reason="leak",
        ticket=None,
        operator="ann",
        host="ops1",
        pid=4711,
        version="0.1.0",
        identity="default",
        simulated=simulated,
        parent=None,
        settings=settings(),
        plan_digest="cd" * 32,
        counts={"calls": calls},
    )


def settings(rate: float = 20.0) -> records.RunSettings:
    return records.RunSettings(
        endpoint=("https://127.0.0.1",),
        rate=rate,
        workers=100,
        per_instance=4,
        timeout_s=10.0,
        deadline_s=None,
        transient_s=120.0,
        busy_s=600.0,
        stop_after="5%",
        verify=True,
        profile=None,
        protect=("*/breakglass_* (config.yaml:3)",),
        passwords=None,
    )


def plan(calls: int, **changes: Any) -> Iterator[AnyRecord]:
    """The first lines of a run."""
    yield run_record(calls, **changes)
    for number in range(calls):
        yield records.CallLine(
            call=call_id(number),
            action="LockAccount",
            account="",
            region="ap-singapore",
            instance=f"postgres-{number // 4:08x}",
            user=f"user_{number % 4}",
        )


def sent(number: int, attempt: int = 1) -> records.Sent:
    return records.Sent(call=call_id(number), attempt=attempt, lane=LANE, trace=f"t-{number}-{attempt}", key="…abcd")


def reply(number: int, verdict: Verdict = Verdict.DONE, attempt: int = 1, **changes: Any) -> records.ReplyLine:
    fields: dict[str, Any] = {
        "sent_at": records.rfc3339(NOW + number / 20, digits=6),
        "request_id": f"request-{number}-{attempt}",
        "code": None,
        "message": None,
        "http": 200,
        "ms": 87,
    }
    return records.ReplyLine(call=call_id(number), attempt=attempt, verdict=verdict, **(fields | changes))


def settled(number: int, outcome: Outcome = Outcome.CHANGED, **changes: Any) -> records.Settled:
    fields: dict[str, Any] = {
        "proof": Proof.READ,
        "attempts": 1,
        "request_id": f"request-{number}-1",
        "code": None,
    }
    return records.Settled(call=call_id(number), outcome=outcome, **(fields | changes))


def before(number: int) -> records.Before:
    return records.Before(
        call=call_id(number), status=2, cam=False, type="normal", update_time="", password_update_time="", why=None
    )


def verified(number: int, *, agrees: bool = True) -> records.Verified:
    return records.Verified(call=call_id(number), status=5 if agrees else 2, cam=None, update_time=None, agrees=agrees)


def session(verb: str = "resume", **changes: Any) -> records.Session:
    fields: dict[str, Any] = {"settings": None, "pid": 4712, "host": "ops2", "operator": "bob", "cut_bytes": 0}
    return records.Session(verb=verb, version="0.1.0", clock_offset_s=0.25, **(fields | changes))


def end(**changes: Any) -> records.End:
    fields: dict[str, Any] = {"counts": {"changed": 1}, "exit": 4, "stopped": records.Stopped("fatal", "Auth", "r-1")}
    return records.End(attempts=9, throttled=1, worst_second={LANE: 20}, seconds=1.5, **(fields | changes))


def left_out(number: int, reason: str = "excluded") -> records.OmitLine:
    """A call of the plan that a resume takes out."""
    return records.OmitLine(
        account="",
        region="ap-singapore",
        instance=f"postgres-{number // 4:08x}",
        user=f"user_{number % 4}",
        reason=reason,
        rule="*/x",
        where="--exclude",
        call=call_id(number),
    )


def story(calls: int = 6) -> list[AnyRecord]:
    """A whole run with every kind of record: a plan, a first session that was stopped, and a second one."""
    read = records.Read(
        region="ap-singapore",
        instance="postgres-00000000",
        purpose="before",
        request_id="r-0",
        code=None,
        rows=4,
        ms=12,
    )
    waves = {"waves": [{"take": "rest", "soak": 60.0}], "gate": None, "on_red": "stop"}
    run, *lines = plan(calls)
    story: list[AnyRecord] = [replace(run, settings=replace(settings(), waves=waves)), *lines]
    story.append(records.WaveLine(n=1, calls=calls, state=records.PLANNED))
    story.append(
        records.OmitLine(
            account="",
            region="ap-singapore",
            instance="postgres-00000000",
            user="root",
            reason="protected",
            rule="*/root",
            where="config.yaml:3:5",
        )
    )
    story.append(records.Confirmed(how="--yes", by="ann", terminal=None))
    story.append(records.Approved(statement="{}", signature="none\n", fingerprint=f"SHA256:{'A' * 43}"))
    story.append(read)
    story.append(records.WaveLine(n=1, calls=calls, state=records.BEGUN))
    story.append(records.WaveLine(n=1, calls=calls, state=records.SOAKING, until=rfc3339(NOW), why="so"))
    for number in range(calls):
        story += [before(number), sent(number)]
        if number % 3 == 0:
            story += [reply(number), verified(number), settled(number)]
        elif number % 3 == 1:
            story += [
                reply(number, Verdict.THROTTLED, code="RequestLimitExceeded", message='zu "oft" ⏳\n'),
                sent(number, 2),
                reply(number, Verdict.REJECTED, 2, code="InvalidParameter"),
                settled(number, Outcome.FAILED, proof=Proof.CODE, code="InvalidParameter", message="no such user"),
            ]
    story += [records.Note(what="signal", data={"name": "SIGTERM", "n": [1, 2.5, None]}), end()]
    story += [session(), session("resume", settings=replace(settings(10.0), waves=waves))]
    for number in range(2, calls, 3):
        story += [verified(number, agrees=False), sent(number, 2), reply(number, attempt=2), settled(number)]
    story += [
        records.Note(what="undone_by", data={"run": "x"}),
        end(counts={"changed": 4, "failed": 2}, exit=1, stopped=None),
    ]
    assert {type(record) for record in story} == set(KINDS) - _ELSEWHERE
    return story


def write_run(store: RunStore, story: list[AnyRecord], *, now: float = NOW, seed: int = 1) -> tuple[RunId, bytes]:
    """Write a story as a finished run: create with its plan, append the rest; the id and the file's bytes."""
    run_id = store.new_run_id(now, Random(seed))
    later = (index for index, record in enumerate(story) if index and not isinstance(record, records.CallLine))
    first = next(later, len(story))
    journal = FileJournal.create(store, run_id, story[:first], clock=ticking(now))
    for record in story[first:]:
        journal.append(record)
    journal.close()
    return run_id, store.path(run_id).read_bytes()


class Disk:
    """Stands in for os.write and os.fdatasync on a real file; `lose()` is a power cut: what was not synced is gone."""

    def __init__(self, *, room: int | None = None, at_once: int | None = None, fail_sync: int | None = None) -> None:
        self.room = room
        """Bytes until it is full."""
        self.at_once = at_once
        """Most bytes one write takes."""
        self.fail_sync = fail_sync
        """Which sync, from 1, fails with EIO."""
        self.writes = 0
        self.syncs = 0
        self.synced_lines = 0
        self.synced_bytes = 0
        self.path: Path | None = None
        self.go = threading.Event()
        self.go.set()
        """Cleared: syncs wait."""
        self.syncing = threading.Event()

    def write(self, fd: int, data: memoryview) -> int:
        self.writes += 1
        if self.room is not None:
            if self.room == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[: self.room]
            self.room -= len(data)
        return os.write(fd, data[: self.at_once])

    def sync(self, fd: int) -> None:
        self.syncs += 1
        self.syncing.set()
        assert self.go.wait(30)
        if self.syncs == self.fail_sync:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        path = Path(f"/proc/self/fd/{fd}").resolve()
        self.path = path
        text = path.read_bytes()
        self.synced_lines, self.synced_bytes = text.count(b"\n"), len(text)

    def lose(self) -> None:
        assert self.path is not None
        path = self.path if self.path.exists() else self.path.with_suffix("")
        os.truncate(path, self.synced_bytes)
