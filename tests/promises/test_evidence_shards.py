"""The bundle of a run with shards is checked by Python alone, chain by chain, and every alteration of one is named."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from engine.evidence import verify
from engine.journal import records
from engine.journal.store import RunStore
from tests.promises.test_evidence import PROGRAM, asked, mended, unpacked
from tests.support.command import Desk
from tests.support.journals import plan, sent, session, story
from tests.support.shards import Stream, divided, parts, resealed

RUN = "20260921T141320Z-e52i"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked bundle of a run with three shards."""
    place = tmp_path_factory.mktemp("shards")
    (place / "desk").mkdir()
    desk = Desk(place / "desk")
    lines = [line for line in story(18) if not isinstance(line, records.Approved | records.Note)]
    text, _ = divided(lines, 3)
    path = RunStore(desk.state).path(RUN)
    path.parent.mkdir(mode=0o700, parents=True)
    path.write_bytes(text)
    path.chmod(0o600)
    done = desk.run("evidence", RUN, "--out", "b.zip")
    assert (desk.work / "b.zip").is_file(), done.text
    return unpacked(desk.work / "b.zip", place / "good")


def test_a_bundle_with_shards_is_good_by_python_alone(good: Path) -> None:
    """The manifest names where each shard ends."""
    code, text = asked(good, PROGRAM)
    assert code == 0, text
    (entry,) = json.loads((good / "MANIFEST.json").read_text())["runs"]
    lines = (good / f"runs/{RUN}/journal.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert entry["shard_heads"] == last["heads"] and len(last["heads"]) == 3
    assert (entry["lines"], entry["head"]) == (last["seq"], last["hash"])


def _shard(line: bytes) -> int:
    return int(json.loads(line).get("shard", 0))


def _altered(lines: list[bytes], rng: Random) -> tuple[str, list[bytes]]:
    """Alter one line of a shard, or the list of heads in an `end`; return what was done, and the lines."""
    at = rng.choice([at for at, line in enumerate(lines) if _shard(line)])
    later = [other for other in range(at + 1, len(lines)) if _shard(lines[other]) == _shard(lines[at])]
    kind = rng.choice(("cut", "swapped", "renumbered", "heads", "byte", "repeated"))
    changed = list(lines)
    if kind == "cut" or (kind == "swapped" and not later):
        del changed[at]
    elif kind == "swapped":
        changed[at], changed[later[0]] = changed[later[0]], changed[at]
    elif kind == "renumbered":
        no = _shard(lines[at])
        changed[at] = lines[at].replace(b',"shard":%d,' % no, b',"shard":%d,' % (no % 3 + 1), 1)
    elif kind == "heads":  # well sealed
        heads = json.loads(lines[-1])["heads"]
        no = rng.choice(sorted(heads))
        changed[-1] = lines[-1].replace(heads[no].encode(), b"0" * 64)
        changed = resealed(changed)
    elif kind == "repeated":
        changed.insert(at, lines[at])
    else:
        line = bytearray(changed[at])
        line[rng.randrange(10, len(line) - 1)] ^= 1
        changed[at] = bytes(line)
    return kind, changed


@pytest.mark.parametrize("seed", range(30))
def test_every_alteration_of_a_shard_is_named(good: Path, tmp_path: Path, seed: int) -> None:
    """With the hash list mended, and once with the manifest as well, so that the chains alone show it."""
    folder = shutil.copytree(good, tmp_path / "bundle")
    path = folder / f"runs/{RUN}/journal.jsonl"
    what, lines = _altered(path.read_bytes().splitlines(keepends=True), Random(seed))
    path.write_bytes(b"".join(lines))
    mended(folder)
    code, text = asked(folder, PROGRAM)
    assert code == 1 and re.search(f"WRONG: runs/{RUN}/journal.jsonl: line [0-9]+", text), (what, text)
    read = verify.read_journal(io.BytesIO(b"".join(lines)), RUN)
    assert read.problem, what


@pytest.mark.parametrize(
    ("forge", "told"),
    [
        (lambda lines: [*lines[:13], lines[13].replace(b'"no":1', b'"no":2'), *lines[14:]], "names a shard that"),
        (lambda lines: lines[:15], "ends within its plan: 2 of 3 shards"),
        (lambda lines: [*lines[:16], lines[16].replace(b'"shard":1', b'"shard":9')], "is of a shard that the plan"),
        (lambda lines: [*lines[:16], lines[16].replace(b'"shard":1', b'"shard":true')], "is of a shard that the plan"),
        (lambda lines: [*lines[:16], lines[16].replace(b'"shard":1', b'"shard":[]')], "is of a shard that the plan"),
        (lambda lines: [*lines[:13], lines[16]], "is of a shard that the plan"),
        (lambda lines: [*lines[:16], lines[16].replace(b'"v":2', b'"v":1')], "is of another format"),
    ],
)
def test_a_plan_of_shards_that_was_forged_is_named(forge: Callable[[list[bytes]], list[bytes]], told: str) -> None:
    """By line, however well it is sealed."""
    stream = Stream(RUN)
    own, *_ = parts(list(plan(12)))
    for record in own:
        stream.add(0, record)
    stream.add(1, sent(0))
    found = verify.read_journal(io.BytesIO(b"".join(resealed(stream.lines))), RUN)
    assert (found.problem, found.end) == ("", 0)
    lines = forge(stream.lines)
    with contextlib.suppress(ValueError):  # no number of a shard: what it is chained to plays no part
        lines = resealed(lines)
    assert told in verify.read_journal(io.BytesIO(b"".join(lines)), RUN).problem


def test_lines_of_shards_behind_the_end_show_as_in_the_reader() -> None:
    """Work on a call shows that the run went on; a session of a shard alone, or its end, does not."""
    stream = Stream(RUN)
    own, *_ = parts([*plan(12), session()])
    for record in own:
        stream.add(0, record)
    stream.add(1, sent(0))
    ending = records.End(counts={}, attempts=1, throttled=0, worst_second={}, seconds=1.0, exit=0, stopped=None)
    stream.add(0, ending)
    stream.add(1, session("lane"))
    assert verify.read_journal(io.BytesIO(b"".join(stream.lines)), RUN).end == ending.seq
    stream.add(1, sent(1))
    assert verify.read_journal(io.BytesIO(b"".join(stream.lines)), RUN).end == 0
