"""What is on disk, and when: seen by a tracer, on a disk that fills up or fails, in a journal cut at every byte."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest

from engine.cli import main
from engine.errors import JournalCorruptError, Reason, UsageError
from engine.journal import records
from engine.journal.ledger import Ledger
from engine.journal.reader import read, replay, verify
from engine.journal.store import RunStore
from engine.journal.writer import FileJournal
from engine.planning.plan import make_plan
from engine.run.runner import Runner
from engine.simulator import DEMO_SECRET_ID, DEMO_SECRET_KEY
from engine.simulator.estate import LOCKED, NORMAL
from engine.simulator.faults import rules_from
from engine.simulator.world import World
from tests.support.command import ROOT, wait_until
from tests.support.crash import Outpost, Simulators, WatchedWorld, Witness, tally_of
from tests.support.drill import Drill, first_lines, fleet, run_line
from tests.support.journals import NOW, session

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.fixture(scope="module")
def simulators() -> Iterator[Simulators]:
    with Simulators() as simulators:
        yield simulators


# ---- seen by a tracer ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Syscall:
    """One system call as strace saw it begin and end (as places in its output)."""

    name: str
    arguments: str
    result: str
    began: int
    ended: int


_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += +(.+)")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*?) *<unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += +(.+)")


def read_trace(path: Path) -> list[Syscall]:
    """The calls of a trace, in the order in which they ended; one interrupted by another thread's is put together."""
    begun: dict[str, tuple[str, int]] = {}
    calls = []
    for place, line in enumerate(path.read_text(errors="backslashreplace").splitlines()):
        if found := _RESUMED.fullmatch(line):
            thread, name, rest, result = found.groups()
            arguments, began = begun.pop(thread)
            calls.append(Syscall(name, arguments + rest, result, began, place))
        elif found := _BEGUN.fullmatch(line):
            begun[found[1]] = (found[3], place)
        elif found := _WHOLE.fullmatch(line):
            calls.append(Syscall(found[2], found[3], found[4], place, place))
    return calls


def on(call: Syscall, path: Path) -> bool:
    """Whether the first argument of a call is a descriptor of this file (`-yy` names it)."""
    return re.match(rf"\d+<{re.escape(str(path))}>", call.arguments) is not None


def requests_of(calls: Sequence[Syscall]) -> dict[str, Syscall]:
    """The call that put a write request on the wire, by trace id."""
    return {
        found[1]: call
        for call in calls
        if call.name in ("sendto", "sendmsg", "write", "writev") and "TCP:" in call.arguments.partition(">")[0]
        if "X-TC-Action: LockAccount" in call.arguments
        for found in re.finditer(r"X-TC-TraceId: ([0-9a-f-]{36})", call.arguments)
    }


def durable_at(calls: Sequence[Syscall], journal: Path, trace_id: str) -> int | None:
    """When the `sent` of a trace id was on disk: the end of the first sync that began after it had been written."""
    intent = rf"\"trace\":\"{trace_id}\""
    written = next(
        (call.ended for call in calls if call.name in WRITES and intent in call.arguments and on(call, journal)), None
    )
    if written is None:
        return None
    return next(
        (
            call.ended
            for call in calls
            if call.name == "fdatasync" and call.began > written and call.result == "0" and on(call, journal)
        ),
        None,
    )


WRITES = ("write", "pwrite64", "writev")
TRACED = "-etrace=write,pwrite64,writev,fdatasync,fsync,rename,sendto,sendmsg"


@needs_strace
def test_each_intent_is_on_disk_before_its_bytes_leave(tmp_path: Path, simulators: Simulators) -> None:
    """For every request on the wire: the write of its `sent`, and then an fdatasync of the journal, were over before
    the first byte went out (J2, P1); and before the first of all, the plan was synced, renamed and its name synced."""
    faults = rules_from(
        [{"user": "user1", "times_each": 1, "status": 502}, {"user": "user2", "times": 2, "hang": True}]
    )
    world = WatchedWorld(faults=faults, quotas={"*": None}, latency=0.005, audit=None)
    post = Outpost(tmp_path, simulators.serve(world), ("--rate", "300", "--workers", "6", "--timeout", "500ms"))
    post.write_job([(f"postgres-0000000{number}", f"user{user}") for number in range(5) for user in range(4)])
    trace = tmp_path / "trace"
    # Strings whole: a request or a batch of lines is longer than what strace shows by itself.
    assert post.finish(*post.run_or_resume(), wrap=("strace", "-f", "-yy", "-s1000000", "-o", str(trace), TRACED)) == 0
    calls = read_trace(trace)
    journal = post.journal
    unborn = journal.with_name("journal.jsonl.new")
    requests = requests_of(calls)
    arrivals = simulators.arrivals(world, "LockAccount")
    assert {arrival.trace for arrival in arrivals} == set(requests)
    assert len(arrivals) >= 27
    for trace_id, request in requests.items():
        durable = durable_at(calls, journal, trace_id)
        assert durable is not None and durable < request.began, f"{trace_id} left at {request.began}: durable {durable}"

    first = min(request.began for request in requests.values())
    plan_synced = next(call for call in calls if call.name == "fdatasync" and on(call, unborn))
    renamed = next(call for call in calls if call.name == "rename" and str(unborn) in call.arguments)
    name_synced = [call for call in calls if call.name == "fsync" and on(call, journal.parent)]
    assert plan_synced.ended < renamed.began
    assert any(renamed.ended < call.began and call.ended < first for call in name_synced)


@needs_strace
def test_after_a_failed_sync_nothing_is_synced_or_written_and_no_new_call_sent(
    tmp_path: Path, simulators: Simulators
) -> None:
    """fdatasync that answers EIO may have lost what was written, and a second one would not tell: so the journal is
    left alone, nothing is sent but what was durable and about to leave, exit 4; a resume goes on from the file (J7)."""
    world = WatchedWorld(quotas={"*": None}, latency=0.005, audit=None)
    post = Outpost(tmp_path, simulators.serve(world), ("--rate", "200", "--workers", "4"))
    post.write_job([(f"postgres-{number:08d}", "app") for number in range(40)])
    trace = tmp_path / "trace"
    wrap = ("strace", "-f", "-yy", "-s1000000", "-o", str(trace), TRACED, "-einject=fdatasync:error=EIO:when=6")
    assert post.finish(*post.run_or_resume(), wrap=wrap) == Reason.STOPPED
    assert "Input/output error (EIO)" in post.err()
    assert f"acctops resume {post.run_id}" in post.err()
    assert "Traceback" not in post.err()
    calls = read_trace(trace)
    failed = next(call for call in calls if call.name == "fdatasync" and "EIO" in call.result)
    for call in calls:
        assert call.began <= failed.ended or not on(call, post.journal), f"{call.name} on the journal after that"
    late = {trace_id: call for trace_id, call in requests_of(calls).items() if call.began > failed.ended}
    assert len(late) <= 4, "more than what was about to leave"
    for trace_id in late:
        durable = durable_at(calls, post.journal, trace_id)
        assert durable is not None and durable < failed.began, f"{trace_id} left without a record"
    arrivals = simulators.arrivals(world, "LockAccount")
    assert 0 < len(arrivals) < 40
    Witness(read(post.journal)).compare(arrivals)

    assert post.finish(*post.run_or_resume()) == Reason.OK, post.err()
    tally = tally_of(Witness(read(post.journal)), simulators.arrivals(world, "LockAccount"), workers=4)
    assert (tally.arrivals, tally.repeated) == (40, 0)


# ---- a full disk ---------------------------------------------------------------------------------------------------


@dataclass
class SmallDisk:
    """A file system of its own in memory, that can be made larger."""

    path: Path

    def grow(self, size: str) -> None:
        self._mount("-o", f"remount,size={size}", str(self.path))

    @classmethod
    def mounted(cls, path: Path, size: str) -> SmallDisk:
        path.mkdir()
        disk = cls(path)
        disk._mount("-t", "tmpfs", "-o", f"size={size},mode=700", "acctops-test", str(path))
        return disk

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.path)], check=True)

    @staticmethod
    def _mount(*arguments: str) -> None:
        if shutil.which("mount") is None:
            pytest.skip("there is no mount here")
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk.mounted(tmp_path / "small", "384k")
    try:
        yield disk
    finally:
        disk.unmount()


def test_a_disk_that_fills_up_in_mid_run_stops_the_run_and_loses_nothing(
    small_disk: SmallDisk, tmp_path: Path, simulators: Simulators
) -> None:
    """Exit 4 with what is wrong and how to go on, nothing sent without a record; still full, a resume says so ahead
    and sends nothing; with room, it goes on to the end, and nothing is done twice."""
    small_disk.grow("4m")
    world = WatchedWorld(quotas={"*": None}, latency=0.01, audit=None)
    post = Outpost(
        tmp_path / "post",
        simulators.serve(world),
        ("--rate", "100", "--workers", "20"),
        state_dir=small_disk.path / "state",
    )
    # One account an instance: each is read back, and settled, on the way.
    post.write_job([(f"postgres-{number:08d}", "app") for number in range(300)])

    process = post.start(*post.run_or_resume())
    wait_until(lambda: len(simulators.writes(world)) > 20)
    others = small_disk.path / "others"
    with suppress(OSError), others.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert process.wait(60) == Reason.STOPPED
    assert "No space left on device (ENOSPC)" in post.err()
    assert f"acctops resume {post.run_id}" in post.err()
    assert "Traceback" not in post.err()
    said = json.loads(post.out())
    arrivals = simulators.arrivals(world, "LockAccount")
    witness = Witness(read(post.journal))
    witness.compare(arrivals)
    assert 20 < len(arrivals) < 300
    assert said["exit"] == Reason.STOPPED
    assert 0 < said["counts"]["changed"] <= len(witness.settled), "more is shown than is on disk (P1)"

    assert post.finish(*post.run_or_resume()) == Reason.USAGE
    assert "MiB free, and the journal of" in post.err()
    assert "Traceback" not in post.err()
    assert simulators.arrivals(world, "LockAccount") == arrivals

    others.unlink()
    assert post.finish(*post.run_or_resume()) == Reason.OK, post.err()
    tally = tally_of(Witness(read(post.journal)), simulators.arrivals(world, "LockAccount"), workers=20)
    assert (tally.calls, tally.arrivals, tally.repeated) == (300, 300, 0)
    assert verify(post.journal).settled_twice == ()


def test_a_plan_that_does_not_fit_on_the_disk_sends_nothing_and_leaves_nothing(
    small_disk: SmallDisk, tmp_path: Path, simulators: Simulators
) -> None:
    """There is no run, and the room it took is free again."""
    world = WatchedWorld(quotas={"*": None}, audit=None)
    post = Outpost(tmp_path / "post", simulators.serve(world), ("--rate", "500"), state_dir=small_disk.path / "state")
    post.write_job([(f"postgres-{number:08d}", "app") for number in range(2000)])
    assert post.finish(*post.run_or_resume()) == Reason.USAGE
    assert "0.4 MiB free, and the journal of 2,000 calls takes about 3.8 MiB; free space there" in post.err()
    assert "Traceback" not in post.err()
    assert post.run_id is None
    assert post.journal_bytes() == 0
    assert simulators.writes(world) == []


# ---- a journal of a real run, cut and edited -----------------------------------------------------------------------

FAULTS = (
    {"user": "user0", "times_each": 1, "action": "LockAccount", "reset_after": True},
    {"instance": "postgres-00000000", "user": "user1", "action": "LockAccount", "code": "InvalidParameter"},
    {"instance": "postgres-00000001", "user": "user1", "times": 1, "action": "LockAccount", "code": "InternalError"},
    {"user": "user1", "times_each": 1, "action": "LockAccount", "code": "RequestLimitExceeded"},
    {"user": "user2", "times_each": 2, "action": "LockAccount", "status": 502, "html": True},
    {"instance": "postgres-00000002", "user": "user3", "times": 1, "action": "LockAccount", "truncated": True},
)
"""One rejects its account for ever, the others strike once or twice."""
STORM = (
    {"user": "user3", "times_each": 1, "action": "LockAccount", "status": 504, "apply": True, "apply_after": 0.15},
    {"instance": "postgres-00000001", "action": "DescribeAccounts", "times": 40, "status": 503},
)
REJECTED = "postgres-00000000/user1"


@dataclass(frozen=True)
class RealRun:
    """A run that met faults, was stopped and resumed: its journal, and what the server saw."""

    drill: Drill
    data: bytes
    lines: tuple[bytes, ...]
    ends: tuple[int, ...]
    """Where each line ends, behind its newline; 0 before the first."""
    parsed: tuple[dict[str, Any], ...]
    """The lines, read by no code of the engine's."""
    plan_lines: int

    def settled(self, lines: int) -> dict[str, str]:
        """Outcome by call of those settled in so many lines."""
        return {line["call"]: line["outcome"] for line in self.parsed[:lines] if line["kind"] == "settled"}

    def count(self, lines: int, kind: str, **fields: str) -> int:
        return sum({"kind": kind, **fields}.items() <= line.items() for line in self.parsed[:lines])


def make_run(tmp: Path, world: World) -> RealRun:
    """Twelve targets, faults for most of them, two sessions; a third for what could not be read in the second."""

    async def stop_early(runner: Runner) -> None:
        while runner.progress().settled < 5:
            await asyncio.sleep(0.01)  # in virtual time
        runner.stop("enough for today", Reason.STOPPED)

    drill = Drill(tmp, world, fleet(3, 4), during=stop_early).go()
    assert drill.reason is Reason.STOPPED
    drill.during = None
    drill.go()
    if drill.ledger.counts()["unknown"]:
        drill.go()
    assert drill.reason is Reason.INCOMPLETE
    # All were open before, so whatever is locked now was locked by this run.
    assert [label for label, outcome in drill.outcomes().items() if outcome != "changed"] == [REJECTED]
    data = drill.path.read_bytes()
    lines = tuple(data.splitlines(keepends=True))
    parsed = tuple(map(json.loads, lines))
    kinds = {line["kind"] for line in parsed}
    assert {"run", "call", "before", "sent", "reply", "read", "verified", "settled", "session", "note", "end"} <= kinds
    return RealRun(
        drill=drill,
        data=data,
        lines=lines,
        ends=(0, *accumulate(map(len, lines))),
        parsed=parsed,
        plan_lines=1 + sum(line["kind"] == "call" for line in parsed),
    )


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> RealRun:
    """In ordinary weather: answers are lost, readings are not."""
    world = World(latency=0.1, faults=rules_from(FAULTS), audit=None)
    return make_run(tmp_path_factory.mktemp("real"), world)


@pytest.fixture(scope="module")
def stormy_run(tmp_path_factory: pytest.TempPathFactory) -> RealRun:
    """One instance cannot be read for a while, and some requests take effect after a reading said they had not."""
    world = World(latency=0.1, faults=rules_from([*STORM, *FAULTS]), repeat="precheck", audit=None)
    return make_run(tmp_path_factory.mktemp("stormy"), world)


def sizes(real_run: RealRun) -> set[int]:
    """Every byte of one line of each kind; of the others every seventh, and those beside their ends."""
    found = {real_run.ends[-1]}
    kinds: set[str] = set()
    for (start, end), line in zip(pairwise(real_run.ends), real_run.parsed, strict=True):
        found |= {start, start + 1, end - 1, *range(start, end, 7 if line["kind"] in kinds else 1)}
        kinds.add(line["kind"])
    return found


def test_a_journal_cut_anywhere_replays_to_a_prefix_of_the_truth(real_run: RealRun, tmp_path: Path) -> None:
    """Whatever survives of a journal says what had happened up to its last whole line, and nothing else (J1); one
    without its whole plan is no run, and says so."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(real_run.data)
    whole = len(real_run.lines)
    for size in sorted(sizes(real_run), reverse=True):
        os.truncate(path, size)
        while real_run.ends[whole] > size:
            whole -= 1
        if whole < real_run.plan_lines:
            with pytest.raises(JournalCorruptError if whole else UsageError):
                replay(path)
            continue
        found = replay(path)
        ledger = found.ledger
        assert (found.seq, found.head) == (whole, real_run.parsed[whole - 1]["hash"])
        assert (found.size, found.torn_bytes) == (real_run.ends[whole], size - real_run.ends[whole])
        if size not in (real_run.ends[whole], real_run.ends[whole] + 1):
            continue  # the same lines: the same ledger
        settled = {call.id: str(entry.outcome) for call, entry, _ in ledger.outcomes() if entry.settled}
        assert settled == real_run.settled(whole)
        assert ledger.attempts == real_run.count(whole, "sent")
        assert ledger.throttled == real_run.count(whole, "reply", verdict="throttled")
        assert sum(ledger.counts().values()) == len(ledger.calls) == 12
    assert whole == 0


def cuts(real_run: RealRun) -> list[int]:
    """After every line of the sending: at its end, or somewhere within the next one, in turn."""
    rng = random.Random(4)
    ends = real_run.ends[real_run.plan_lines :]
    return [rng.randrange(end + 1, after) if number % 2 else end for number, (end, after) in enumerate(pairwise(ends))]


def world_at(real_run: RealRun, lines: int, rng: random.Random) -> tuple[World, set[tuple[str, str]]]:
    """The world as a process that died after so many lines may have left it, and the accounts it had locked.

    What was sent and answered was applied if it was; of what was sent and not answered nobody knows: drawn by lot.
    """
    sent = {
        line["trace"]: (line["call"], line["attempt"]) for line in real_run.parsed[:lines] if line["kind"] == "sent"
    }
    answered = {(line["call"], line["attempt"]) for line in real_run.parsed[:lines] if line["kind"] == "reply"}
    locked = {
        (arrival.instance, arrival.user)
        for arrival in real_run.drill.world.audit
        if arrival.applied and arrival.trace in sent and (sent[arrival.trace] in answered or rng.random() < 0.5)
    }
    # A repeat is refused with a code that only a reading explains: the hardest answer to get right.
    world = World(latency=0.1, faults=rules_from(FAULTS), repeat="precheck", audit=None)
    for target in real_run.drill.targets:
        status = LOCKED if (target.instance, target.user) in locked else NORMAL
        world.seed(target.instance, target.region, [target.user], status=status)
    return world, locked


@pytest.mark.parametrize("which", ["real_run", "stormy_run"])
def test_a_resume_from_any_cut_comes_to_the_same_outcomes(
    request: pytest.FixtureRequest, tmp_path: Path, which: str
) -> None:
    """From whatever line a crash left, with whatever of the last requests applied or not: no call is lost, each ends
    as it did in truth, and none that had been applied is sent again, unless a reading had said that it was not."""
    real_run: RealRun = request.getfixturevalue(which)
    truth, rng = real_run.drill, random.Random(6)
    for number, cut in enumerate(cuts(real_run)):
        lines = sum(end <= cut for end in real_run.ends[1:])
        where = f"cut at byte {cut}, after line {lines}"
        world, locked = world_at(real_run, lines, rng)
        drill = Drill(tmp_path / str(number), world, truth.targets, seed=cut)
        drill.store.make_run_dir(drill.run_id)
        drill.path.write_bytes(real_run.data[:cut])
        drill.go()
        assert drill.outcomes() == truth.outcomes(), where
        assert drill.path.read_bytes().startswith(real_run.data[: real_run.ends[lines]]), where
        assert verify(drill.path).settled_twice == (), where
        assert len(Witness(read(drill.path)).settled) == 12, where
        for target in truth.targets:
            account = world.account(target.instance, target.user)
            assert account is not None
            assert (account.status == LOCKED) is (target.label != REJECTED), f"{where}: {account}"
        denied = {line["call"] for line in real_run.parsed[:lines] if line["kind"] == "verified" and not line["agrees"]}
        denied_targets = {(call.instance, call.user) for call in drill.ledger.calls.values() if call.id in denied}
        sent = {(each.instance, each.user) for each in world.audit if each.action == "LockAccount"}
        assert sent & locked <= denied_targets, where


def test_what_took_effect_after_a_reading_had_denied_it_is_this_runs_change(tmp_path: Path) -> None:
    """Killed with a request out, read too early by the next process, which is killed, too; then it takes effect. The
    account was open before, and nobody else has touched it: `changed`, so that an undo brings it back."""
    world = World(latency=0.05, audit=None)
    drill = Drill(tmp_path, world, fleet(1, 1), seeded=False)
    plan = make_plan("LockAccount", drill.targets)
    (call,) = plan.calls
    lines = [
        *first_lines(plan, Ledger(run_line(plan, drill.settings))),
        records.Before(
            call=call.id, status=2, cam=False, type="normal", update_time="", password_update_time="", why=None
        ),
        records.Sent(call=call.id, attempt=1, lane="test", trace="t", key="k"),
        session(),
        records.Verified(call=call.id, status=2, cam=False, update_time="", agrees=False),
    ]
    FileJournal.create(drill.store, drill.run_id, lines, clock=lambda: NOW).close()
    world.seed(call.instance, call.region, [call.user], status=LOCKED)
    drill.go()
    assert drill.reason is Reason.OK
    ((_, entry, outcome),) = drill.ledger.outcomes()
    assert outcome == "changed"
    assert entry.before is not None
    assert entry.before.status == NORMAL


def names_line(capsys: pytest.CaptureFixture[str], path: Path, lines: Sequence[bytes], *flags: str) -> int | None:
    """The line that `journal verify` names, None if it finds nothing wrong."""
    path.write_bytes(b"".join(lines))
    code = main(["journal", "verify", str(path), *flags])
    said = capsys.readouterr().err
    if code == Reason.OK:
        return None
    assert code == Reason.CORRUPT, said
    found = re.search(rf"{re.escape(str(path))}:(\d+): ", said)
    assert found is not None, said
    return int(found[1])


def test_verify_names_every_line_that_was_changed_dropped_or_swapped(
    real_run: RealRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line of a real journal in turn, by the command: exit 7 and the number of the first line that is wrong. A
    last line that is gone shows only against the head the run printed."""
    path = tmp_path / "journal.jsonl"
    lines, rng = list(real_run.lines), random.Random(5)
    assert names_line(capsys, path, lines) is None
    head = real_run.parsed[-1]["hash"]
    assert names_line(capsys, path, lines, "--head", head) is None
    for index, line in enumerate(lines):
        at = rng.randrange(len(line) - 1)
        changed = line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]
        if b"\n" not in changed[:-1]:
            assert names_line(capsys, path, [*lines[:index], changed, *lines[index + 1 :]]) == index + 1
        dropped = [*lines[:index], *lines[index + 1 :]]
        if index + 1 < len(lines):
            assert names_line(capsys, path, dropped) == index + 1
            swapped = [*lines[:index], lines[index + 1], line, *lines[index + 2 :]]
            assert names_line(capsys, path, swapped) == index + 1
        else:
            assert names_line(capsys, path, dropped) is None
            assert names_line(capsys, path, dropped, "--head", head) == index


def test_a_resume_says_how_the_run_ended_not_how_an_earlier_session_did(
    real_run: RealRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between its last `settled` and its `end`, a run that was once stopped (exit 4) is closed by a resume,
    with its own exit code; and only then does a resume find nothing to do."""
    assert real_run.parsed[-1]["kind"] == "end"
    store = RunStore(tmp_path, simulated=True)
    run_id = real_run.drill.run_id
    store.make_run_dir(run_id)
    store.path(run_id).write_bytes(b"".join(real_run.lines[:-1]))
    for kinds in (["session", "end"], []):
        before = store.path(run_id).read_bytes()
        assert main(["resume", run_id, "--state-dir", str(tmp_path), "--yes", "--json"]) == Reason.INCOMPLETE
        said = json.loads(capsys.readouterr().out)
        assert (said["exit"], said["stopped"]) == (Reason.INCOMPLETE, None)
        added = store.path(run_id).read_bytes().removeprefix(before)
        assert [json.loads(line)["kind"] for line in added.splitlines()] == kinds


# ---- a disk that does not answer -----------------------------------------------------------------------------------

HANGING = """
import os, sys, time
flag, real = sys.argv.pop(1), os.fdatasync

def sync(fd):
    while os.path.exists(flag):
        time.sleep(600)
    real(fd)

os.fdatasync = sync  # before anything of the engine is imported
from engine.cli import entry
entry()
"""


def test_whoever_presses_twice_is_let_go_whatever_the_disk_does(tmp_path: Path, simulators: Simulators) -> None:
    """A disk that hangs is named as the reason for the wait; the second Ctrl-C leaves, and says what is not recorded;
    a resume goes on from what is on disk."""
    world = WatchedWorld(quotas={"*": None}, latency=0.01, audit=None)
    post = Outpost(tmp_path, simulators.serve(world), ("--rate", "10"))
    post.write_job([(f"postgres-0000000{number}", "app") for number in range(8)])
    flag = tmp_path / "hang"
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, str(flag), *post.run_or_resume()],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "TENCENTCLOUD_SECRET_ID": DEMO_SECRET_ID,
            "TENCENTCLOUD_SECRET_KEY": DEMO_SECRET_KEY,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len(simulators.writes(world)) >= 2)
    flag.touch()
    assert process.stderr is not None
    told = ""
    while "waiting: the journal's disk" not in told:
        told = process.stderr.readline()
        assert told, "the heartbeat says why"
    process.send_signal(signal.SIGINT)
    assert "draining" in process.stderr.readline() + process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == Reason.INTERRUPTED
    assert "counts as not recorded" in err + out
    flag.unlink()
    Witness(read(post.journal)).compare(simulators.arrivals(world, "LockAccount"))
    assert post.finish(*post.run_or_resume()) == 0, post.err()
    assert len(Witness(read(post.journal)).settled) == 8


@pytest.mark.parametrize("how", ["removed", "moved", "cut", "written to"])
def test_a_run_stops_when_its_journal_is_taken_away(tmp_path: Path, simulators: Simulators, how: str) -> None:
    """Nothing is sent that nobody could account for: exit 4, and where the records are."""
    world = WatchedWorld(quotas={"*": None}, latency=0.01, audit=None)
    post = Outpost(tmp_path, simulators.serve(world), ("--rate", "20"))
    post.write_job([(f"postgres-{number:08d}", "app") for number in range(60)])
    process = post.start(*post.run_or_resume())
    wait_until(lambda: len(simulators.writes(world)) >= 3)
    path = post.journal
    match how:
        case "removed":
            path.unlink()
        case "moved":
            path.rename(tmp_path / "aside")
        case "written to":
            with path.open("ab") as file:
                file.write(b'{"kind":"note"}\n')
        case _:
            os.truncate(path, 10)
    assert process.wait(60) == Reason.STOPPED
    assert len(simulators.writes(world)) < 60
    said = json.loads(post.out())
    assert "while the run went on" in said["stopped"]["why"]
    if how == "moved":
        (tmp_path / "aside").rename(path)
    if how == "written to":
        (kept,) = path.parent.glob("journal.jsonl.kept-*")
        assert said["go_on"].startswith("acctops run "), "a resume would be refused until the file is put back"
        assert str(kept) in said["stopped"]["why"]
        kept.replace(path)
    if how == "cut":
        assert said["go_on"].startswith("acctops run "), "nothing is left that could be resumed"
    else:
        Witness(read(path)).compare(simulators.arrivals(world, "LockAccount"))
        assert post.finish(*post.run_or_resume()) == 0, post.err()


def test_a_journal_that_was_changed_in_place_is_no_proof(tmp_path: Path, simulators: Simulators) -> None:
    """Same name, same size, another byte: every command after it would refuse the file, so the run may not say that
    all is recorded. Exit 4, and a new run of the job is what goes on."""
    world = WatchedWorld(quotas={"*": None}, latency=0.01, audit=None)
    post = Outpost(tmp_path, simulators.serve(world), ("--rate", "20"))
    post.write_job([(f"postgres-{number:08d}", "app") for number in range(30)])
    process = post.start(*post.run_or_resume())
    wait_until(lambda: len(simulators.writes(world)) >= 3)
    with post.journal.open("r+b") as file:
        at = file.read().index(b'"operator":"') + len(b'"operator":"')
        file.seek(at)
        file.write(b"X")
    assert process.wait(60) == Reason.STOPPED
    said = json.loads(post.out())
    assert "was changed in place while the run went on" in said["stopped"]["why"]
    assert said["go_on"].startswith("acctops run "), "a resume would be refused"
