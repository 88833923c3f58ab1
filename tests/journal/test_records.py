"""The record kinds, and the two forms of time."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.journal import records
from engine.journal.records import rfc3339, unix_seconds
from tests.support.journals import ENVELOPE, KINDS

SECONDS = st.floats(0, 4_000_000_000)


def test_the_kinds_are_those_of_the_readme() -> None:
    """One word a kind, and every kind in the union that is read."""
    tags = " ".join(str(kind.__struct_config__.tag) for kind in KINDS)
    assert (
        tags
        == "run call omit confirmed approved read before sent reply verified settled session note end released hold "
        "wave shard"
    )
    assert set(KINDS) == set(records.Record.__subclasses__())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_tagged_and_leaves_the_envelope_to_the_journal(kind: type[records.Record]) -> None:
    """What stands before `kind` on a line is not a field of the record when it is made."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    assert all(not fields[name].required for name in ENVELOPE)
    assert kind.__struct_config__.tag_field == "kind"
    assert kind.__struct_config__.omit_defaults


def test_a_note_has_its_own_data() -> None:
    """No dict is shared between notes."""
    first, second = records.Note(what="pause"), records.Note(what="pause")
    first.data["x"] = 1
    assert second.data == {}


@pytest.mark.parametrize(
    ("at", "digits", "text"),
    [
        (0.0, 3, "1970-01-01T00:00:00.000Z"),
        (1_790_000_000.25, 3, "2026-09-21T14:13:20.250Z"),
        (1_790_000_000.9999, 3, "2026-09-21T14:13:20.999Z"),
        (1_790_000_000.5, 6, "2026-09-21T14:13:20.500000Z"),
        (1_709_164_800.0, 3, "2024-02-29T00:00:00.000Z"),
    ],
)
def test_times_are_utc_text_cut_not_rounded(at: float, digits: int, text: str) -> None:
    """A record never claims to be later than it was."""
    assert rfc3339(at, digits=digits) == text


@settings(deadline=None)
@given(at=SECONDS, digits=st.sampled_from([3, 6]))
def test_a_time_comes_back_to_the_digit(at: float, digits: int) -> None:
    """Within one unit of the last place, never later."""
    text = rfc3339(at, digits=digits)
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{{digits}}}Z", text)
    assert -1e-6 <= at - unix_seconds(text) <= 10.0**-digits + 1e-6


@settings(deadline=None)
@given(first=SECONDS, second=SECONDS)
def test_text_order_is_time_order(first: float, second: float) -> None:
    """So a journal can be searched with sort and awk."""
    if first <= second:
        assert rfc3339(first) <= rfc3339(second)


@settings(deadline=None)
@given(at=SECONDS)
def test_seconds_agree_with_the_standard_library(at: float) -> None:
    """Also right after another second was asked for, which is remembered."""
    rfc3339(0.5)
    assert rfc3339(at)[:19] == datetime.fromtimestamp(at // 1, UTC).isoformat()[:19]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1_790_000_000, 1_790_000_002),
            st.sampled_from(
                ["Z", ".250Z", ".250000Z", ".000001Z", "+08:00", ".250000+08:00", "", ".250000", ",250000Z"]
            ),
        )
    )
)
def test_a_time_is_read_as_the_standard_library_reads_it(times: list[tuple[int, str]]) -> None:
    """Whatever was read before it: what is remembered of a second is not of the same hour in another zone."""
    for second, rest in times:
        text = rfc3339(second)[:19] + rest
        assert unix_seconds(text) == datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("text", ["", "now", "2026-13-01T00:00:00.000Z", "2026-09-21T14:13:20.250ZZ"])
def test_what_is_no_time_is_a_value_error(text: str) -> None:
    """For the reader of a hand-made file."""
    with pytest.raises(ValueError):
        unix_seconds(text)
