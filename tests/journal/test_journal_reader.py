"""A journal is replayed to the truth or not at all."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import JournalCorruptError, JournalVersionError, Reason, UsageError
from engine.journal import reader
from engine.journal.ledger import Ledger
from engine.journal.records import AnyRecord, CallLine, End, Run, Session, Settled
from engine.journal.store import RunStore
from engine.model import CallId
from tests.support.journals import call_id, left_out, plan, sent, session, settled, story, write_run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, list[AnyRecord]]:
    """The path, bytes and records of a real journal."""
    records = story(9)
    store = RunStore(tmp_path_factory.mktemp("state"))
    run_id, text = write_run(store, records)
    return store.path(run_id), text, records


def rechained(lines: list[bytes]) -> bytes:
    """The lines with hashes made to fit: what a careful forger would write."""
    head, out = "0" * 64, []
    for line in lines:
        content = line[:-75] + b"}"
        head = hashlib.sha256(head.encode() + content).hexdigest()
        out.append(content[:-1] + b',"hash":"' + head.encode() + b'"}\n')
    return b"".join(out)


def settled_calls(records: list[AnyRecord]) -> set[CallId]:
    return {record.call for record in records if isinstance(record, Settled)}


def test_j1_a_real_journal_reads_as_it_was_written(written: tuple[Path, bytes, list[AnyRecord]]) -> None:
    """Record for record, envelope included; the ledger is that of the live run."""
    path, text, records = written
    assert len(records) > 60
    assert list(reader.read(path)) == records
    replay = reader.replay(path)
    assert (replay.head, replay.seq, replay.path) == (records[-1].hash, len(records), path)
    assert (replay.size, replay.torn_bytes) == (len(text), 0)
    assert replay.ledger.counts() == Ledger.of(records).counts()


def test_j1_cut_at_every_byte_it_replays_to_a_prefix_of_the_truth(tmp_path: Path) -> None:
    """Whatever a crash leaves: no call is settled that was not, the torn tail is counted, the plan is whole."""
    records = story(3)
    store = RunStore(tmp_path)
    run_id, text = write_run(store, records)
    path = store.path(run_id)
    ends = [0]
    for line in text.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    whole = len(ends) - 1
    plan_lines = 1 + 3 + 1
    truths = [settled_calls(records[:count]) for count in range(len(records) + 1)]
    for cut in range(len(text), -1, -1):
        os.truncate(path, cut)
        while ends[whole] > cut:
            whole -= 1
        if whole < plan_lines:
            with pytest.raises((JournalCorruptError, UsageError)):
                reader.replay(path)
            continue
        replay = reader.replay(path)
        assert (replay.seq, replay.size, replay.torn_bytes) == (whole, ends[whole], cut - ends[whole])
        assert {call for call in replay.ledger.calls if replay.ledger.entry(call).settled} == truths[whole]
        assert replay.head == records[whole - 1].hash


def test_j1_a_torn_tail_is_a_remark(written: tuple[Path, bytes, list[AnyRecord]], tmp_path: Path) -> None:
    """It is what a crash leaves, not damage."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(written[1] + b'{"v":1,"se')
    found = reader.verify(path)
    assert (found.lines, found.torn_bytes, found.head) == (len(written[2]), 10, written[2][-1].hash)
    assert found.settled_twice == ()
    assert path.read_bytes() == written[1] + b'{"v":1,"se'


def test_j1_a_last_line_with_newline_that_is_bad_is_corruption(
    written: tuple[Path, bytes, list[AnyRecord]], tmp_path: Path
) -> None:
    """Only what was never acknowledged may be ignored."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(written[1] + b'{"v":1,"se\n')
    with pytest.raises(JournalCorruptError, match=f":{len(written[2]) + 1}: not JSON"):
        reader.replay(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_j1_every_changed_byte_is_named_with_its_line(
    written: tuple[Path, bytes, list[AnyRecord]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One byte anywhere but the very last newline, to any other value."""
    _, text, _ = written
    at = data.draw(st.integers(0, len(text) - 2))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != text[at]))
    path = tmp_path_factory.getbasetemp() / "changed.jsonl"
    path.write_bytes(text[:at] + bytes([value]) + text[at + 1 :])
    line = text[:at].count(b"\n") + 1
    with pytest.raises(JournalCorruptError, match=f"^{re.escape(str(path))}:{line}: "):
        reader.verify(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), forge=st.booleans())
def test_j1_every_dropped_swapped_or_repeated_line_is_named(
    written: tuple[Path, bytes, list[AnyRecord]],
    data: st.DataObject,
    forge: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Also if the hashes were made to fit: the numbers are chained too."""
    lines = written[1].splitlines(keepends=True)
    what = data.draw(st.sampled_from(["drop", "swap", "repeat"]))
    at = data.draw(st.integers(0, len(lines) - 2))
    if what == "drop":
        bad, changed = at, lines[:at] + lines[at + 1 :]
    elif what == "repeat":
        bad, changed = at + 1, [*lines[: at + 1], *lines[at:]]
    else:
        other = data.draw(st.integers(at + 1, len(lines) - 1))
        bad, changed = at, list(lines)
        changed[at], changed[other] = changed[other], changed[at]
    path = tmp_path_factory.getbasetemp() / "moved.jsonl"
    path.write_bytes(rechained([line[:-1] for line in changed]) if forge else b"".join(changed))
    with pytest.raises(JournalCorruptError, match=f":{bad + 1}: (seq is|not a `run`)"):
        reader.verify(path)


def test_j1_records_before_the_bad_line_are_read(written: tuple[Path, bytes, list[AnyRecord]], tmp_path: Path) -> None:
    """The reader stops at the line, not at the block it lies in."""
    lines = written[1].splitlines(keepends=True)
    lines[40] = lines[40].replace(b'"seq":41', b'"seq":14')
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(lines))
    for found in (reader.read(path), reader.Walk(path, 4096).records()):
        assert [next(found).seq for _ in range(40)] == list(range(1, 41))
        with pytest.raises(JournalCorruptError, match=":41: "):
            next(found)


@pytest.mark.parametrize("block", [1, 100, 4096, 1 << 20])
def test_j1_blocks_of_any_size_read_the_same(written: tuple[Path, bytes, list[AnyRecord]], block: int) -> None:
    """Lines longer than a block, and a file that ends with one."""
    walk = reader.Walk(written[0], block)
    assert list(walk.records()) == written[2]
    assert (walk.size, walk.torn_bytes) == (len(written[1]), 0)


def test_j1_a_file_that_ends_with_a_block_reads_the_same(written: tuple[Path, bytes, list[AnyRecord]]) -> None:
    """The end is where there are no more bytes."""
    assert list(reader.Walk(written[0], len(written[1])).records()) == written[2]


@pytest.mark.parametrize("collecting", [True, False])
def test_a_replay_leaves_the_collector_as_it_was(
    written: tuple[Path, bytes, list[AnyRecord]], tmp_path: Path, collecting: bool
) -> None:
    """It is switched off meanwhile, for speed; also if the journal is bad."""
    (gc.enable if collecting else gc.disable)()
    try:
        reader.replay(written[0])
        assert gc.isenabled() is collecting
        with pytest.raises(UsageError):
            reader.replay(tmp_path / "none")
        assert gc.isenabled() is collecting
    finally:
        gc.enable()


def test_j1_a_journal_cut_within_its_plan_is_corrupt(tmp_path: Path) -> None:
    """The plan is there whole from the rename on, so calls that are missing were removed: they would be skipped."""
    path = tmp_path / "state"
    run_id, text = write_run(RunStore(path), [*plan(5), sent(0)])
    path = RunStore(path).path(run_id)
    path.write_bytes(b"".join(text.splitlines(keepends=True)[:4]))
    for read in (reader.replay, reader.verify):
        with pytest.raises(JournalCorruptError, match=r":4: ends within the plan: 3 of 5 calls"):
            read(path)


def test_j1_a_call_that_a_resume_left_out_is_not_missing(tmp_path: Path) -> None:
    """It was in the plan, and an `omit` says where it went."""
    store = RunStore(tmp_path)
    run_id, _ = write_run(store, [*plan(3), session(), left_out(1)])
    assert list(reader.replay(store.path(run_id)).ledger.calls) == [call_id(0), call_id(2)]
    assert reader.verify(store.path(run_id)).lines == 6


def test_j1_a_journal_must_begin_with_its_run(tmp_path: Path) -> None:
    """Even with a chain that holds."""
    path = tmp_path / "journal.jsonl"
    from engine.journal.lines import Chain

    path.write_bytes(Chain("r").add(sent(1), "2026-11-22T03:13:21.123Z"))
    with pytest.raises(JournalCorruptError, match=":1: not a `run`"):
        reader.replay(path)


def test_a_newer_versions_journal_is_no_corruption(
    written: tuple[Path, bytes, list[AnyRecord]], tmp_path: Path
) -> None:
    """Exit 2, the line, and what to do; also for the first line."""
    path = tmp_path / "journal.jsonl"
    lines = [line[:-1] for line in written[1].splitlines(keepends=True)]
    path.write_bytes(rechained([*lines[:30], lines[30].replace(b'"kind":"', b'"kind":"x-'), *lines[31:]]))
    with pytest.raises(
        JournalVersionError, match=r":31: journal from a newer version of acctops \(acctops 0.1.0 began"
    ):
        reader.replay(path)
    path.write_bytes(rechained([lines[0].replace(b'"v":1', b'"v":3')]))
    with pytest.raises(JournalVersionError, match=":1: journal from a newer version of acctops: format 3") as error:
        reader.replay(path)
    assert error.value.reason is Reason.USAGE


def test_a_settled_call_that_settles_again_is_named_by_verify(tmp_path: Path) -> None:
    """J3: the chain cannot know, so verify counts."""
    store = RunStore(tmp_path)
    run_id, _ = write_run(store, [*plan(2), settled(0), settled(1), settled(0), settled(0)])
    assert reader.verify(store.path(run_id)).settled_twice == (call_id(0),)


def test_the_head_shows_a_cut_end_and_a_later_one(written: tuple[Path, bytes, list[AnyRecord]], tmp_path: Path) -> None:
    """What the chain alone cannot show."""
    path, text, records = written
    head = records[-1].hash
    assert reader.verify(path, head).head == head
    assert reader.verify(path, f" {head.upper()}\n").head == head
    assert reader.verify(path, records[59].hash).after == len(records) - 60, "a later session follows it"
    assert reader.verify(path, records[-2].hash).after == 1
    cut = tmp_path / "journal.jsonl"
    cut.write_bytes(b"".join(text.splitlines(keepends=True)[:-1]))
    with pytest.raises(JournalCorruptError, match=f":{len(records) - 1}: .*the given {head} is nowhere in it"):
        reader.verify(cut, head)
    for nonsense in ("", "abc", "g" * 64):
        with pytest.raises(UsageError, match="--head"):
            reader.verify(path, nonsense)


@pytest.mark.parametrize(
    "read", [reader.replay, reader.verify, reader.first_record, lambda path: list(reader.read(path))]
)
def test_what_is_no_journal_is_a_usage_error(read: object, tmp_path: Path) -> None:
    """Missing, empty, a directory, a torn first line: named, without a traceback."""
    empty, torn = tmp_path / "empty.jsonl", tmp_path / "torn.jsonl"
    empty.touch()
    torn.write_bytes(b'{"v":1')
    for path, why in ((tmp_path / "no", "no such"), (empty, "no whole line"), (torn, "no whole line"), (tmp_path, "")):
        with pytest.raises(UsageError, match=f"^{re.escape(str(path))}: .*{why}"):
            read(path)  # type: ignore[operator]


def test_an_unreadable_journal_is_a_usage_error(tmp_path: Path) -> None:
    """Whatever forbids it."""
    loop = tmp_path / "loop.jsonl"
    loop.symlink_to(loop)
    with pytest.raises(UsageError, match="cannot be read"):
        reader.replay(loop)


def test_first_and_last_record_are_found_without_reading_the_rest(tmp_path: Path) -> None:
    """Listings read two lines of each run, however long, torn or not."""
    store = RunStore(tmp_path)
    run_id, text = write_run(store, story())
    path = store.path(run_id)
    assert isinstance(reader.first_record(path), Run)
    assert isinstance(reader.last_end(path), End)
    path.write_bytes(text + b"x" * 50_000)
    assert isinstance(reader.last_end(path), End)
    for torn in (text[: text.index(b"\n") + 1], b"torn"):
        path.write_bytes(torn)
        assert reader.last_end(path) is None


def test_the_last_holder_is_that_of_the_last_session(tmp_path: Path) -> None:
    """For the message of J5; text that only looks like a session is passed over."""
    store = RunStore(tmp_path)
    run_id, text = write_run(store, [*plan(1), session(pid=99), *plan(0)])
    path = store.path(run_id)
    holder = reader.last_holder(path)
    assert isinstance(holder, Session)
    assert holder.pid == 99
    path.write_bytes(text + b'{"x":1,"kind":"session",')
    assert reader.last_holder(path) == holder
    path.write_bytes(text[: text.index(b"\n") + 1] + b'{"x":1,"kind":"session",')
    assert isinstance(reader.last_holder(path), Run)
    path.write_bytes(b"x")
    assert reader.last_holder(path) is None
    path.write_bytes(b"")
    assert reader.last_holder(path) is None


def test_j5_reading_imports_no_asyncio(written: tuple[Path, bytes, list[AnyRecord]]) -> None:
    """`status` and `report` start in a fraction of the time of `import asyncio`."""
    code = (
        "import sys; from pathlib import Path; from engine.journal import reader, store\n"
        f"path = Path({str(written[0])!r})\n"
        "reader.replay(path); reader.verify(path); found = store.find_run(path.parent.parent.parent, 'latest')\n"
        "assert found.store.list()[0].live is False\n"
        "print([name for name in ('asyncio', 'logging', 'concurrent.futures') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="needs the right to mount",
)
def test_j5_reading_works_on_a_read_only_mount_and_writing_says_what_to_do(tmp_path: Path) -> None:
    """A copy on evidence media is read as it is."""
    store = RunStore(tmp_path / "state")
    run_id, _ = write_run(store, story())
    code = f"""
import random
from pathlib import Path
from engine.errors import ConfigError
from engine.journal import live, protocols, reader, store, writer
claim = protocols.Claim(run_id="x", digest="ab", path="", action="LockAccount", calls=[])
there = store.RunStore(Path({str(store.state_dir)!r}))
assert [head.live for head in there.list()] == [False]
assert not there.stop_requested({run_id!r})
found = store.find_run(there.state_dir, "latest")
print(reader.verify(found.path).lines)
for act in (
    lambda: writer.FileJournal.open(there, found.run_id, clock=lambda: 0.0),
    lambda: writer.FileJournal.create(there, there.new_run_id(0.0, random.Random(1)), [], clock=lambda: 0.0),
    lambda: live.claimed(there, claim, inverse=None, undone_by=dict).__enter__(),
    lambda: there.request_stop(found.run_id),
):
    try:
        act()
    except Exception as error:
        print(type(error).__name__, error)
"""
    script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$2" -c "$3"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", str(store.state_dir), sys.executable, code],
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == str(len(story()))
    assert len(lines) == 5
    assert all(line.startswith(("ConfigError", "UsageError")) and "Read-only" in line for line in lines[1:])
    assert all("--state-dir" in line for line in lines[1:4])


def test_the_seq_of_a_line_is_its_number(written: tuple[Path, bytes, list[AnyRecord]]) -> None:
    """`sed -n 41p` shows the line an error names."""
    for number, line in enumerate(written[1].splitlines(), 1):
        assert json.loads(line)["seq"] == number
    assert sum(isinstance(record, CallLine) for record in written[2]) == 9
