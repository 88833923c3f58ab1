"""One record is one line, and each line is chained to the one before."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.journal import lines, records
from engine.journal.lines import GENESIS, BadLineError, Chain, NewerLineError
from engine.journal.records import AnyRecord
from engine.journal.store import RunStore
from engine.model import CallId
from tests.support.journals import ENVELOPE, KINDS, sent, story, write_run

AT = "2026-11-22T03:13:21.123Z"
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
# Within what every field of that type may say.
st.register_type_strategy(float, st.floats(0.001, 1e5))
st.register_type_strategy(int, st.integers(1, 255))


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return structs_of(hint)
    if hint in (dict[str, Any], dict[str, Any] | None):
        return st.dictionaries(st.text(), json_values, max_size=3) | (
            st.none() if hint != dict[str, Any] else st.nothing()
        )
    members = getattr(hint, "__args__", ())
    if type(None) in members and any(isinstance(m, type) and issubclass(m, msgspec.Struct) for m in members):
        return st.one_of(*(st.none() if member is type(None) else values_of(member) for member in members))
    return st.from_type(hint)


def structs_of(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    fields = {field.name: values_of(field.type) for field in msgspec.structs.fields(kind) if field.name not in ENVELOPE}
    return st.builds(kind, **fields)


def forged(content: dict[str, Any], head: str = GENESIS) -> bytes:
    """A line with a correct hash, whatever it says."""
    text = json.dumps(content, separators=(",", ":")).encode()
    seal = hashlib.sha256(head.encode() + text).hexdigest()
    return text[:-1] + b',"hash":"' + seal.encode() + b'"}'


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(deadline=None)
@given(data=st.data())
def test_j1_every_kind_comes_back_as_it_was_written(kind: type[AnyRecord], data: st.DataObject) -> None:
    """Whatever a record holds, its line is one line, and reads as an equal record, envelope included."""
    record = data.draw(structs_of(kind))
    chain = Chain("run", 6, "f" * 64)
    line = chain.add(record, AT)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    found = lines.decode(line[:-1], 7, "f" * 64, "run")
    assert found == record
    assert (found.v, found.seq, found.at, found.run, found.hash) == (1, 7, AT, "run", chain.head)
    assert lines.decode_block(line, 7, "f" * 64, "run") == [record]


def test_the_line_is_laid_out_as_the_readme_says() -> None:
    """Envelope first, then kind and fields, the hash last: an operator's eye and grep depend on it."""
    line = Chain("20261122T031321Z-k3f9").add(sent(1), AT)
    assert line.startswith(
        b'{"v":1,"seq":1,"at":"2026-11-22T03:13:21.123Z","run":"20261122T031321Z-k3f9","kind":"sent","call":"'
    )
    assert list(json.loads(line))[-1] == "hash"


def test_ten_lines_of_plain_python_check_a_journal(tmp_path: Path) -> None:
    """The chain needs nothing of ours to be checked."""
    store = RunStore(tmp_path)
    run_id, _ = write_run(store, story())
    previous = "0" * 64
    with store.path(run_id).open("rb") as journal:
        for number, line in enumerate(journal, 1):
            record = json.loads(line)
            assert record["seq"] == number
            content = line.replace(b',"hash":"' + record["hash"].encode() + b'"', b"").rstrip(b"\n")
            previous = hashlib.sha256(previous.encode() + content).hexdigest()
            assert record["hash"] == previous
    assert number == len(story())


def test_a_default_is_left_out_and_null_is_written() -> None:
    """Old journals stay readable and new ones small: only fields added later may be missing."""
    line = json.loads(Chain("r").add(records.Note(what="pause"), AT))
    assert "data" not in line
    call = json.loads(Chain("r").add(records.Confirmed(how="y", by="ann", terminal=None), AT))
    assert call["terminal"] is None


def test_text_that_is_no_unicode_is_kept_readable() -> None:
    """A file name in some old encoding cannot keep the record of a call already sent off the disk."""
    note = records.Note(what="bad \udcff name", data={"k\udc80": ["\udcfe", 1, None, {"a": "b"}]})
    line = Chain("r").add(note, AT)
    found = lines.decode(line[:-1], 1, GENESIS, "r")
    assert isinstance(found, records.Note)
    assert found.what == r"bad \udcff name"
    assert found.data == {r"k\udc80": [r"\udcfe", 1, None, {"a": "b"}]}


@pytest.mark.parametrize(
    "record",
    [
        records.Sent(call=CallId("c"), attempt="one", lane="", trace="", key=""),  # type: ignore[arg-type]
        records.Session(
            verb="", pid=1, host="", operator="", version="", cut_bytes=0, settings=None, clock_offset_s=math.nan
        ),
        records.Note(what="x", data={"a": object()}),
    ],
)
def test_j1_what_no_reader_could_read_is_refused_and_leaves_the_chain_as_it_was(record: AnyRecord) -> None:
    """A wrong type is an error now, not a journal that nobody can open later."""
    chain = Chain("r")
    with pytest.raises(TypeError):
        chain.add(record, AT)
    assert (chain.seq, chain.head) == (0, GENESIS)


def test_a_record_is_appended_once() -> None:
    """Its envelope is that of one line."""
    chain = Chain("r")
    record = sent(1)
    chain.add(record, AT)
    with pytest.raises(ValueError, match="line 1"):
        chain.add(record, AT)


GOOD = {"v": 1, "seq": 1, "at": AT, "run": "r", "kind": "note", "what": "pause"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"\0" * 200, "NUL bytes"),
        (forged(GOOD | {"run": "other"}), "belongs to run 'other', not 'r'"),
        (forged(GOOD | {"seq": 3}), "seq is 3 where 1 is due: lines were dropped or moved"),
        (forged(GOOD | {"seq": 0}), "seq is 0 where 1 is due: a line was repeated or moved"),
        (b'{"run":"r"}', "has no seq"),
        (forged(GOOD | {"v": 0}), "has no version"),
        (forged(GOOD | {"what": 1}), "makes no sense: Expected `str`, got `int` - at `$.what`"),
        (forged(GOOD | {"seq": 10**30}), "makes no sense"),
        (forged(GOOD, head="1" * 64), "the hash differs"),
        (forged(GOOD).replace(b"pause", b"paus3"), "the hash differs"),
        (json.dumps(GOOD).encode(), "the hash differs"),
    ],
)
def test_j1_a_bad_line_says_why(line: bytes, why: str) -> None:
    """The reason is for the person who has to find out what happened to the file."""
    with pytest.raises(BadLineError) as error:
        lines.decode(line, 1, GENESIS, "r")
    assert why in str(error.value)
    assert lines.decode_block(line + b"\n", 1, GENESIS, "r") is None


@pytest.mark.parametrize(
    "fields",
    [GOOD | {"v": 3}, GOOD | {"kind": "tide"}, GOOD | {"v": 3, "kind": "tide", "seq": "x"}],
)
def test_a_line_that_is_right_but_unknown_is_of_a_newer_version(fields: dict[str, Any]) -> None:
    """The chain is checked first, so an edit is never taken for a newer version."""
    line = forged(fields)
    with pytest.raises(NewerLineError):
        lines.decode(line, 1, GENESIS, "r")
    assert lines.decode_block(line + b"\n", 1, GENESIS, "r") is None
    with pytest.raises(BadLineError):
        lines.decode(line, 1, "1" * 64, "r")


def test_a_later_versions_additional_field_is_passed_over() -> None:
    """Fields may be added without a new format."""
    found = lines.decode(forged(GOOD | {"extra": 1}), 1, GENESIS, "r")
    assert isinstance(found, records.Note)


def test_unchecked_reading_never_raises() -> None:
    """Listings show what they can."""
    assert lines.decode_unchecked(b"junk") is None
    assert lines.decode_unchecked(b'"\xff"') is None
    assert lines.decode_unchecked(forged(GOOD | {"v": 3})) is None
    assert isinstance(lines.decode_unchecked(forged(GOOD)), records.Note)
