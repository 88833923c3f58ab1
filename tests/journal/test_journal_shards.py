"""A run with shards has a chain for each; whatever the order of their commits, it reads as one, and no line is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from engine.errors import AcctopsError, JournalCorruptError, UsageError
from engine.journal import reader, records
from engine.journal.copies import copy_run
from engine.journal.ledger import Entry, Ledger
from engine.journal.lines import GENESIS, Chain, decode, decode_block, decode_chains, shard_genesis
from engine.journal.records import AnyRecord
from engine.journal.shards import counts_for_run, members, shard_ledger
from engine.journal.store import RunStore
from engine.model import CallId, RunId
from engine.report.course import Course
from tests.support.command import Desk
from tests.support.journals import (
    NOW,
    call_id,
    end,
    left_out,
    plan,
    sent,
    session,
    settings,
    settled,
    story,
    ticking,
)
from tests.support.shards import Stream, bare, divided, parts, resealed

RUN = "20260921T141320Z-e52i"


def timed(lines: Sequence[AnyRecord]) -> list[AnyRecord]:
    """A story whose lines have times of their own, which they keep in whatever chain they stand."""
    clock = ticking()
    for line in lines:
        line.at = records.rfc3339(clock())
    return list(lines)


def with_shards(story: Sequence[AnyRecord], most: int = 3) -> list[list[AnyRecord]]:
    """The chains of a story; each shard has a session, a note of a lane, a stop and an end of its own, too."""
    own, *chains = parts(story, most)
    for no, chain in enumerate(chains, 1):
        if not chain:
            continue
        at = chain[-1].at
        chain.insert(0, session("lane", lane=f"lane-{no}", at=at))
        chain.append(records.Note(what="stopping", data={"why": "drain"}, at=at))
        chain.append(records.Note(what="control", data={"what": "pause", "by": "eve"}, at=at))
        chain.append(end(exit=75, at=at))
    return [own, *chains]


def write(path: Path, chains: Sequence[Sequence[AnyRecord]], seed: int = 0) -> list[AnyRecord]:
    """Write chains as one stream; return its records."""
    stream = Stream(RUN)
    written = list(stream.interleave([[copied(record) for record in chain] for chain in chains], Random(seed)))
    path.write_bytes(b"".join(stream.lines))
    return written


def copied(record: AnyRecord) -> AnyRecord:
    return replace(record)


def known(entry: Entry) -> dict[str, Any]:
    """All that is known of a call, without where it stands."""

    def plain(value: Any) -> Any:
        if isinstance(value, records.Record):
            return replace(value, v=0, seq=0, run="", shard=0, hash="")
        return [plain(each) for each in msgspec.structs.astuple(value)] if isinstance(value, msgspec.Struct) else value

    return {name: plain(getattr(entry, name)) for name in Entry.__slots__}


def summary(ledger: Ledger) -> dict[str, Any]:
    """What the ledger of a run knows, in whatever order it came."""
    return {
        "calls": {id: known(ledger.entry(id)) for id in ledger.calls},
        "counts": ledger.counts(),
        "settled": dict(ledger.settled_counts()),
        "attempts": (ledger.attempts, ledger.throttled, ledger.sent_calls, ledger.settled_unsent),
        "worst": ledger.worst_second(),
        "lanes": {name: (lane.sent, lane.throttled, lane.accepted) for name, lane in ledger.lanes.items()},
        "omits": len(ledger.omits),
        "sessions": [line.verb for line in ledger.sessions],
        "end": (ledger.end.exit, ledger.end.counts) if ledger.end else None,
        "pause": ledger.pause,
        "waves": {n: line.state for n, line in ledger.waves.items()},
        "last_at": ledger.last_at,
        "settings": ledger.settings,
    }


@pytest.mark.parametrize("seed", range(20))
def test_any_interleaving_folds_to_the_ledger_of_the_plain_run(tmp_path: Path, seed: int) -> None:
    """What shards say of themselves alone changes nothing; blocks of any size read the same."""
    lines = timed(story(21))
    path = tmp_path / "journal.jsonl"
    chains = with_shards(lines, most=1 + seed % 6)
    written = write(path, chains, seed)
    plain = Chain(RUN)
    of_one = [bare(line) for line in lines]
    for line in of_one:
        plain.add(line, line.at)
    found = reader.replay(path)
    assert summary(found.ledger) == summary(Ledger.of(of_one))
    for block in (100, 5000, 1 << 20):
        walk = reader.Walk(path, block)
        assert list(walk.records()) == written
        assert (walk.lines, walk.seq, walk.head) == (len(written), found.seq, found.head)
        assert walk.heads == found.heads == {no: found.ends[no] for no in range(1, len(chains))}
        assert {str(no): head for no, (seq, head) in walk.heads.items() if seq} == written[-1].heads  # type: ignore[union-attr]
        assert [seq for _, (seq, _) in sorted(walk.heads.items())] == [len(chain) for chain in chains[1:]]
    assert found.ends[0] == (len(chains[0]), written[-1].hash)


def test_the_lines_are_laid_out_as_the_page_says() -> None:
    """`shard` stands right behind `run`; the run's own chain has none; a plain run is still written as format 1."""
    text, _ = divided(story(9))
    lines = text.splitlines()
    assert all(line.startswith(b'{"v":2,"seq":') for line in lines)
    kinds = [json.loads(line)["kind"] for line in lines]
    last_shard = len(kinds) - 1 - kinds[::-1].index("shard")
    assert not any(b'"shard":' in line for line in lines[: last_shard + 1])
    first = next(line for line in lines if b',"shard":2,' in line)
    assert re.match(rb'\{"v":2,"seq":1,"at":"[^"]{24}","run":"[^"]+","shard":2,"kind":"', first)
    head = json.loads(lines[last_shard])["hash"]
    assert decode(first, 1, shard_genesis(head, 2), RUN, shard=2, v=2).shard == 2
    assert Chain(RUN).add(sent(1), "2026-11-22T03:13:21.123Z").startswith(b'{"v":1,"seq":1,"at":')
    with pytest.raises(ValueError, match="format 1 has no shards"):
        Chain(RUN, shard=1)


def test_a_line_fits_the_chain_of_its_shard_alone() -> None:
    """By number, by block and in the stream of all."""
    chain = Chain(RUN, 4, "f" * 64, shard=3, v=2)
    line = chain.add(sent(1), "2026-11-22T03:13:21.123Z")
    assert decode_block(line, 5, "f" * 64, RUN, shard=3, v=2) is not None
    assert decode_block(line, 5, "f" * 64, RUN, v=2) is None
    assert decode_block(line, 5, "f" * 64, RUN, shard=3) is None
    with pytest.raises(ValueError, match="is of shard 3, in the chain of shard 2"):
        decode(line[:-1], 5, "f" * 64, RUN, shard=2)
    with pytest.raises(ValueError, match="is of format 2, in a journal of format 1"):
        decode(line[:-1], 5, "f" * 64, RUN, shard=3, v=1)
    ends = {0: (9, GENESIS), 3: (4, "f" * 64)}
    decoded = decode_chains(line, ends, RUN)
    assert decoded is not None and decoded[1] == {0: (9, GENESIS), 3: (5, chain.head)}
    assert decode_chains(line, {0: (9, GENESIS)}, RUN) is None


def _altered(lines: list[bytes], rng: Random) -> tuple[str, list[bytes], str]:
    """Alter one line of a shard; return what was done, the lines, and the words that must be told."""
    shard = {at: int(line.partition(b',"shard":')[2].partition(b",")[0]) for at, line in enumerate(lines)
             if b',"shard":' in line.partition(b',"kind":')[0]}  # fmt: skip
    at = rng.choice(list(shard))
    later = [other for other in shard if other > at and shard[other] == shard[at]]
    ends = [other for other, line in enumerate(lines) if other > at and b',"kind":"end",' in line]
    due = min(*later, *ends)  # the next line of its chain, or an end, which lists its head
    others = [no for no in set(shard.values()) if no != shard[at]]
    kind = rng.choice(("cut", "cut", "swapped", "moved", "renumbered", "byte", "repeated", "first"))
    changed = list(lines)
    if kind == "cut":
        del changed[at]
        return kind, changed, f":{due}: "
    if kind == "swapped" and later:
        changed[at], changed[later[0]] = changed[later[0]], changed[at]
        return kind, changed, f":{at + 1}: shard {shard[at]}, "
    if kind == "moved" and later and later[0] == due:
        del changed[at]
        changed.insert(due, lines[at])
        return kind, changed, f":{due}: shard {shard[at]}, "
    if kind == "repeated":
        changed.insert(at, lines[at])
        return kind, changed, f":{at + 2}: shard {shard[at]}, "
    if kind == "first":
        del changed[at]
        changed.insert(3, lines[at])
        return kind, changed, ":4: a line of shard "
    if kind == "byte":
        line = bytearray(changed[at])
        line[rng.randrange(line.index(b'"kind"'), len(line) - 1)] ^= 1
        changed[at] = bytes(line)
        return kind, changed, f":{at + 1}: shard {shard[at]}, "
    no = rng.choice(others)
    changed[at] = lines[at].replace(b',"shard":%d,' % shard[at], b',"shard":%d,' % no, 1)
    return "renumbered", changed, f":{at + 1}: shard {no}, "


@pytest.mark.parametrize("seed", range(60))
def test_each_alteration_of_a_line_is_found_and_named(tmp_path: Path, seed: int) -> None:
    """By the line of the stream, and by the shard; a line cut off the end of a shard by the run's own `end`."""
    rng = Random(seed)
    text, _ = divided(story(18), seed)
    what, lines, told = _altered(text.splitlines(keepends=True), rng)
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(lines))
    for look in (reader.verify, reader.replay):
        with pytest.raises(JournalCorruptError) as error:
            look(path)
        assert f"{path}{told}" in str(error.value), (what, str(error.value))


def test_the_head_of_the_end_covers_every_shard(tmp_path: Path) -> None:
    """A shard that was cut, with the list in the `end` made to fit, has another head; the head of a shard is none."""
    text, _ = divided(story(18))
    path = tmp_path / "journal.jsonl"
    path.write_bytes(text)
    found = reader.verify(path)
    lines = text.splitlines(keepends=True)
    assert (found.lines + found.shard_lines, found.shards) == (len(lines), 3)
    assert reader.verify(path, found.head).after == 0
    first = json.loads(lines[0])["hash"]
    assert reader.verify(path, first).after == len(lines) - 1
    of_shard = next(json.loads(line) for line in lines if json.loads(line).get("shard") == 2)
    with pytest.raises(UsageError, match="is line 1 of shard 2, and says nothing of the rest"):
        reader.verify(path, of_shard["hash"])
    gone = max(at for at, line in enumerate(lines) if json.loads(line).get("shard") == 2)
    cut = lines[:gone] + lines[gone + 1 :]
    before = [json.loads(line)["hash"] for line in cut if json.loads(line).get("shard") == 2][-1]
    cut[-1] = cut[-1].replace(json.loads(lines[gone])["hash"].encode(), before.encode())
    path.write_bytes(b"".join(resealed(cut)))
    reader.verify(path)
    with pytest.raises(JournalCorruptError, match="nowhere in it"):
        reader.verify(path, found.head)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (lambda heads: {**heads, "2": "0" * 64}, "the end lists 0000.* as head of shard 2, whose .* lines end with"),
        (lambda heads: {no: head for no, head in heads.items() if no != "2"}, "the end lists no head of shard 2"),
        (lambda heads: {**heads, "9": "0" * 64}, "the end lists shard '9', which the plan does not have"),
        (lambda heads: {**heads, "x\n": "0" * 64}, r"the end lists shard 'x\\n'"),
    ],
)
def test_an_end_that_lists_other_heads_is_corrupt(tmp_path: Path, what: Any, told: str) -> None:
    """However well it is sealed."""
    stream = Stream(RUN)
    own, *chains = parts(story(12))
    for _ in stream.interleave([own, *chains], Random(1)):
        pass
    *lines, last = stream.lines
    heads = json.loads(last)["heads"]
    text = json.dumps({"heads": what(heads)}, separators=(",", ":"))[1:-1].encode()
    last = re.sub(rb'"heads":\{[^}]*\}', lambda _: text, last)
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(resealed([*lines, last])))
    with pytest.raises(JournalCorruptError, match=f":{len(lines) + 1}: {told}"):
        reader.verify(path)


def _plan(**changes: Any) -> list[AnyRecord]:
    own, *_ = parts(list(plan(12)))
    return [replace(line, **changes) if isinstance(line, records.ShardLine) and line.no == 2 else line for line in own]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (_plan(no=3), "shard 3 is none of a plan of 3 shards, 1 of which stand before it"),
        (_plan(wave=1), "shard 2 is of wave 1, which was not planned"),
        (_plan(calls=0), "shard 2 is none of a plan of 12 calls"),
        (_plan(calls=13), "shard 2 is none of a plan of 12 calls"),
        (_plan(instances=(("ap-singapore", "postgres-zzzzzzzz"),)), "on which the plan has no call"),
        (_plan(instances=(("ap-singapore", "postgres-00000000"),)), "postgres-00000000, which shard 1 has"),
        (_plan(endpoints=("ftp://x",)), "an endpoint that is none"),
        ([*_plan(), records.CallLine(call=call_id(12), action="LockAccount", account="", region="ap-singapore",
                                     instance="postgres-00000003", user="user_0")], "a call behind the shards"),
        ([replace(_plan()[0], shards=0), *_plan()[1:]], "0 shards in a journal of format 2"),
        (_plan()[:-1], "ends within the plan: 2 of 3 shards; the file was cut"),
    ],
)  # fmt: skip
def test_a_plan_of_shards_that_no_run_writes_is_corrupt(tmp_path: Path, lines: list[AnyRecord], told: str) -> None:
    """A call in no shard would never be sent, one in two would be sent twice."""
    stream = Stream(RUN)
    for line in lines:
        stream.add(0, copied(line))
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(stream.lines))
    with pytest.raises(JournalCorruptError, match=re.escape(told)):
        reader.replay(path)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (sent(4), "is not of shard 1"),
        (records.WaveLine(n=0, calls=0, state="passed"), "a wave of a run that has none"),
        (next(iter(_plan()[1:2])), "a second time"),
        (records.Approved(statement="{}", signature="", fingerprint=f"SHA256:{'A' * 43}"), "in no chain of a shard"),
        (end(heads={"1": "0" * 64}), "the heads of shards at the end of one of them"),
    ],
)
def test_what_no_shard_writes_is_corrupt(tmp_path: Path, record: AnyRecord, told: str) -> None:
    """A call of another shard, and what belongs into the run's own chain."""
    stream = Stream(RUN)
    for line in _plan():
        stream.add(0, copied(line))
    stream.add(1, sent(0))
    stream.add(1, copied(record))
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(stream.lines))
    for block in (200, 1 << 20):
        with pytest.raises(
            JournalCorruptError, match=f":{len(stream.lines)}: makes no sense: shard 1, line 2: .*{told}"
        ):
            list(reader.Walk(path, block).records())


def test_a_plain_run_has_no_heads_and_no_shards(tmp_path: Path) -> None:
    """Format 1 is as it was."""
    path = tmp_path / "journal.jsonl"
    for lines, told in (
        ([*plan(2), end(heads={"1": "0" * 64})], "heads of shards, and the run has none"),
        ([replace(next(plan(2)), shards=2)], "2 shards in a journal of format 1"),
    ):
        chain = Chain(RUN)
        path.write_bytes(b"".join(chain.add(line, records.rfc3339(NOW)) for line in lines))
        with pytest.raises(JournalCorruptError, match=told):
            reader.replay(path)


def test_which_lines_of_a_shard_count_for_the_run() -> None:
    """What is about calls, instances, lanes, keys and routes; never what is of the shard's session alone."""
    for what in ("lane_slowed", "lane_down", "lanes_not_compared", "route_closed", "keys_refreshed", "identity"):
        assert counts_for_run(records.Note(what=what, shard=1)), what
    for what in ("stopping", "control", "paused", "unpaused", "changed", "notice_failed", "signal", "gate"):
        assert not counts_for_run(records.Note(what=what, shard=1)), what
        assert counts_for_run(records.Note(what=what)), what
    assert not any(map(counts_for_run, (session(shard=1), end(shard=1))))
    assert all(map(counts_for_run, (session(), end(), replace(sent(1), shard=3), replace(left_out(1), shard=1))))


def _in_waves(calls: int) -> list[AnyRecord]:
    """A plan whose second wave begins within an instance."""
    spec = {"waves": [{"take": "6", "soak": 0}, {"take": "rest", "soak": 0}], "gate": None, "on_red": "stop"}
    run, *lines = plan(calls)
    waves = [records.WaveLine(n=1, calls=6, state="planned"), records.WaveLine(n=2, calls=calls - 6, state="planned")]
    return [replace(run, settings=replace(settings(), waves=spec)), *lines, *waves]


def test_the_ledgers_of_the_shards_are_the_run_once(tmp_path: Path) -> None:
    """Each call of the plan is in one shard; what the run's chain says of it is known there, and nothing of others."""
    slower = replace(settings(3.0), waves=_in_waves(20)[0].settings.waves)  # type: ignore[union-attr]
    own, *shards = parts([*_in_waves(20), session(settings=slower), left_out(5), session(), *map(settled, (4, 6, 7))])
    written = write(tmp_path / "journal.jsonl", [own, *shards])
    whole = reader.replay(tmp_path / "journal.jsonl").ledger
    of = members(whole)
    assert list(of) == list(whole.calls)
    split = {no for call, no in of.items() if whole.calls[call].instance == "postgres-00000001"}
    assert len(split) == 2, "users 4 and 5 are in wave 1, users 6 and 7 in wave 2"
    known: dict[CallId, int] = {}
    for no, line in whole.shards.items():
        ledger = shard_ledger(written, no)
        assert list(ledger.calls) == [call for call, shard in of.items() if shard == no]
        assert len(ledger.calls) + len(ledger.omits) == line.calls
        assert ledger.settings.rate == 3.0
        assert ledger.shards == {no: line}
        for record in written:
            if record.shard == no:
                ledger.apply(record)
        assert all(known_of == whole.entry(call).outcome for call in ledger.calls
                   if (known_of := ledger.entry(call).outcome) is not None)  # fmt: skip
        known |= dict.fromkeys(ledger.calls, no)
    assert known == of
    with pytest.raises(ValueError, match="has no shard 99"):
        shard_ledger(written, 99)


def test_the_end_of_a_shard_is_not_that_of_the_run(tmp_path: Path) -> None:
    """Nor is its session one of the run: for listings, for the page, and for whoever asks who has it."""
    stream = Stream(RUN)
    for line in _plan():
        stream.add(0, copied(line))
    path = tmp_path / "journal.jsonl"

    def last_end(*lines: tuple[int, AnyRecord]) -> records.End | None:
        for no, line in lines:
            stream.add(no, line)
        path.write_bytes(b"".join(stream.lines))
        return reader.last_end(path)

    assert last_end((1, session("lane", lane="x", host="w1")), (1, sent(0)), (1, end(exit=0))) is None
    ended = last_end((0, end(exit=3)), (1, end(exit=0)), (2, records.Note(what="lane_up")), (2, session("lane")))
    assert ended is not None and ended.exit == 3
    assert reader.replay(path).ledger.end == ended
    assert last_end((1, sent(1))) is None
    holder = reader.last_holder(path)
    assert isinstance(holder, records.Run)
    last_end((0, session("resume")))
    holder = reader.last_holder(path)
    assert isinstance(holder, records.Session) and holder.verb == "resume"
    assert [verb for _, verb in Course().fold(reader.read(path)).sessions] == ["run", "resume"]


def test_a_stream_in_a_file_is_a_run_like_any_other(desk: Desk, tmp_path: Path) -> None:
    """Listed, verified, reported, copied, and with links beside it, as it was written; torn bytes are a remark."""
    store = RunStore(desk.state)
    lines = [line for line in story(18) if not isinstance(line, records.Approved)]
    text, written = divided(timed(lines), 3)
    path = store.path(RunId(RUN))
    path.parent.mkdir(mode=0o700, parents=True)
    path.write_bytes(text + b'{"v":2,"torn')
    path.chmod(0o600)
    assert list(reader.read(path)) == written
    (head,) = store.heads()
    assert head.end is not None and head.end.heads
    done = desk.run("journal", "verify", RUN, "--json")
    assert done.code == 0, done.text
    said = done.json
    assert (said["shards"], said["lines"] + said["shard_lines"]) == (3, len(written))
    assert said["torn_bytes"] == 12
    shown = desk.run("journal", "verify", RUN, "--head", written[-1].hash)
    assert shown.code == 0 and f"its 3 shards have {said['shard_lines']} lines beside" in shown.text
    assert desk.run("report", RUN, "--json").json["counts"] == Ledger.of(map(copied, _counting(written))).counts()
    assert desk.run("status", RUN).code == 0
    last = written[-1]
    store.list_end(RunId(RUN), head=last.hash, lines=last.seq, exit_code=1, clock=lambda: NOW)
    listed = desk.run("journal", "verify", RUN)
    assert listed.code == 0 and f"as line 1 of heads.jsonl lists it, up to line {last.seq}" in listed.text
    assert desk.run("journal", "verify", "--all").code == 0
    copy = copy_run(path.parent, tmp_path / "copy")
    assert copy.journal.read_bytes() == text and copy.has_end()
    assert copy.replay().heads == reader.replay(path).heads
    store.add_aside(RunId(RUN), [records.Note(what="continued_by", data={"run": "later"})], clock=lambda: NOW)
    first = reader.first_record(path)
    (beside,) = reader.read_aside(path, first)
    assert (beside.v, beside.shard) == (2, 0)


def _counting(written: Sequence[AnyRecord]) -> list[AnyRecord]:
    return [record for record in written if counts_for_run(record)]


def test_a_call_left_out_while_its_shard_settled_it_is_counted_once(tmp_path: Path) -> None:
    """Two hosts write at the same time; the plan is whole whichever line is committed first."""
    own, *shards = parts([*_in_waves(20), left_out(5), settled(5), session()])
    for seed in range(8):
        write(tmp_path / "journal.jsonl", [own, *shards], seed)
        reader.verify(tmp_path / "journal.jsonl")
        reader.replay(tmp_path / "journal.jsonl")


NONSENSE = (None, True, -1, 0, 1, 2, 10**30, 1.5, "", "x", "\udcff", [], ["x"], [["x", "y"]], {}, {"1": "x"}, {"x": 1})


@pytest.mark.parametrize("seed", range(80))
def test_well_sealed_nonsense_in_a_stream_gives_no_traceback(tmp_path: Path, seed: int) -> None:
    """Whatever stands in a field, the reader reads it, or says in words why not."""
    rng = Random(seed)
    lines = divided(story(12), seed)[0].splitlines()
    special = [at for at, line in enumerate(lines) if any(kind in line for kind in (b'"shard"', b'"heads"', b'"run",'))]
    for _ in range(10):
        at = rng.choice(special)
        fields = json.loads(lines[at])
        key = rng.choice([name for name in fields if name != "hash"])
        fields[key] = rng.choice(NONSENSE)
        line = json.dumps(fields, separators=(",", ":")).encode()
        try:
            changed = resealed([each + b"\n" for each in (*lines[:at], line, *lines[at + 1 :])])
        except ValueError:  # no number of a shard
            changed = [each + b"\n" for each in (*lines[:at], line, *lines[at + 1 :])]
        path = tmp_path / "journal.jsonl"
        path.write_bytes(b"".join(changed))
        for look in (reader.verify, reader.replay, reader.last_end, reader.last_holder, reader.readable_calls):
            try:
                look(path)  # type: ignore[operator]
            except AcctopsError as error:
                assert str(path) in str(error)
