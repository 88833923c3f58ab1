"""Reports of runs that are not as usual: cut off, of an older version, and with ten thousand failures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

import msgspec
import pytest

from engine.journal import records
from engine.journal.ledger import Ledger
from engine.journal.records import AnyRecord
from engine.model import Outcome, Verdict
from engine.report.contained import contained
from engine.report.documents import CSV_COLUMNS, csv_rows, csv_text, full_document
from engine.report.nextstep import BAD, way_on
from engine.report.screen import Screen
from engine.report.text import stuck_text, text
from tests.support.journals import end, plan, reply, sent, session, settled

NOT_FOUND = "ResourceNotFound.InstanceNotFoundError"


def ledger_of(lines: Sequence[AnyRecord]) -> Ledger:
    for number, line in enumerate(lines):
        line.run, line.at = "20261122T031300Z-q7c2", records.rfc3339(1_795_316_400.0 + number / 1000)
    return Ledger.of(lines)


def rows_of(ledger: Ledger, *, stuck: bool = False) -> list[dict[str, str]]:
    only = BAD if stuck else tuple(Outcome)
    written = "".join(csv_text(csv_rows(ledger, way_on([ledger]), only=only), CSV_COLUMNS))
    return list(csv.DictReader(io.StringIO(written, newline=""), strict=True))


def failure(number: int) -> list[AnyRecord]:
    words = {"code": NOT_FOUND, "message": f"=no {number}"}
    return [
        sent(number),
        reply(number, Verdict.REJECTED, **words),
        settled(number, Outcome.FAILED, proof=None, **words),
    ]


def test_ten_thousand_failures_fit_on_a_screen_and_into_a_sheet() -> None:
    """A person sees causes and counts; the table has each of them."""
    lines = [line for number in range(10_000) for line in failure(number)]
    ledger = ledger_of([*plan(10_001), *lines, sent(10_000), reply(10_000), settled(10_000), end(exit=1)])
    shown = text(ledger, journal="j", head="h", screen=Screen(80, 24))
    assert len(shown.splitlines()) < 24 and "failed 10,000" in shown
    assert len(text(ledger, journal="j", head="h").splitlines()) < 60
    assert len(rows_of(ledger)) == 10_001 and len(rows_of(ledger, stuck=True)) == 10_000
    assert stuck_text(ledger).count(NOT_FOUND) >= 1
    assert contained(ledger) == {"50": None, "95": None, "100": None}


def test_a_run_that_was_cut_off_is_told_as_far_as_it_came() -> None:
    """No end, a call in flight: nothing is lost, and nothing is made up."""
    ledger = ledger_of([*plan(3), sent(0), reply(0), settled(0), sent(1)])
    assert [row["outcome"] for row in rows_of(ledger)] == ["changed", "unknown", "unattempted"]
    assert [row["settled_at"] != "" for row in rows_of(ledger)] == [True, False, False]
    found = full_document(ledger, journal="j", head="h", live=False)
    assert found["seconds"] is found["exit"] is None and json.loads(json.dumps(found)) == found
    assert found["contained"]["50"] is None, "one of three is less than half"
    assert text(ledger, journal="j", head="h").splitlines()[-1].startswith("1 of 3 verified locked")


def test_a_run_of_an_older_version_has_its_times_too() -> None:
    """Its journal has no confirmation, no identity and no later fields; its first line begins the time."""
    first, *calls = (record for record in plan(2) if not isinstance(record, records.Confirmed))
    assert isinstance(first, records.Run)
    old = msgspec.json.decode(msgspec.json.encode(first))
    for key in ("ticket", "reason", "match", "guarded_by", "asked", "watched"):
        old.pop(key, None)
    run = msgspec.convert({"ticket": None, "reason": None, **old}, records.Run)
    ledger = ledger_of([run, *calls, session(), sent(0), reply(0), settled(0), sent(1), reply(1), settled(1), end()])
    assert contained(ledger)["100"] == pytest.approx(0.008, abs=0.002), "the second answer is the ninth line"
    assert [row["job"] for row in rows_of(ledger)] == ["leak", "leak"]
