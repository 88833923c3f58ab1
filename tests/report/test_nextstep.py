"""What is open of a run and its reruns, and which commands take it: the one rule behind every advice."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.journal import records
from engine.journal.ledger import Ledger
from engine.model import GOOD, Outcome, Proof, Verdict
from engine.report.nextstep import later_words, way_on
from tests.support.journals import call_id, reply, run_record, sent, settled

CHANGED, ALREADY, FAILED, UNKNOWN = Outcome.CHANGED, Outcome.ALREADY, Outcome.FAILED, Outcome.UNKNOWN
OPEN = "open"
"""Never sent."""
DOUBT = "doubt"
"""Sent, and never answered."""


def run(name: str, calls: dict[int, Any], *, parent: str = "", verb: str = "rerun", **more: Any) -> Ledger:
    """The ledger of a run: call number → its outcome, `OPEN` or `DOUBT`."""
    link = records.Parent(parent, verb, "") if parent else None
    ledger = Ledger.of(
        [replace(run_record(len(calls)), run=name, at=f"2026-11-22T03:00:0{name[-1]}Z", parent=link, **more)]
    )
    for number, outcome in calls.items():
        line = records.CallLine(
            call=call_id(number), action="LockAccount", account="", region="r", instance="i", user=f"u{number}"
        )
        ledger.apply(line)
        if outcome != OPEN:
            ledger.apply(sent(number))
        if isinstance(outcome, Outcome):
            ledger.apply(reply(number, Verdict.DONE))
            ledger.apply(settled(number, outcome, proof=Proof.READ))
    return ledger


def commands(*family: Ledger, **more: Any) -> list[str]:
    return [step.command() for step in way_on(family, **more).steps]


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ([run("r1", {0: CHANGED, 1: ALREADY})], []),
        ([run("r1", {0: CHANGED, 1: OPEN})], ["acctops resume r1"]),
        ([run("r1", {0: FAILED, 1: DOUBT})], ["acctops resume r1"]),
        ([run("r1", {0: FAILED, 1: UNKNOWN})], ["acctops rerun r1 --only failed,unknown"]),
        # A rerun of a part: what it has is its own, what it has not stays with the first.
        ([run("r1", {0: FAILED, 1: OPEN}), run("r2", {0: CHANGED}, parent="r1")], ["acctops resume r1"]),
        ([run("r1", {0: FAILED, 1: OPEN}), run("r2", {1: CHANGED}, parent="r1")], ["acctops rerun r1 --only failed"]),
        ([run("r1", {0: FAILED, 1: OPEN}), run("r2", {0: ALREADY, 1: CHANGED}, parent="r1")], []),
        (
            [run("r1", {0: FAILED, 1: OPEN}), run("r2", {0: FAILED}, parent="r1")],
            ["acctops resume r1", "acctops rerun r2 --only failed"],
        ),
        ([run("r1", {0: FAILED, 1: OPEN}), run("r2", {0: OPEN, 1: OPEN}, parent="r1")], ["acctops resume r2"]),
        # The last of several has the word.
        (
            [run("r1", {0: FAILED}), run("r2", {0: FAILED}, parent="r1"), run("r3", {0: CHANGED}, parent="r1")],
            [],
        ),
    ],
)
def test_what_is_open_is_taken_by_the_run_that_has_it_last(family: list[Ledger], expected: list[str]) -> None:
    """Resume as long as anything of a run is unsettled, else a rerun of what did not work out, else nothing."""
    for each in family:
        assert each.run is not None
        assert commands(*family, run=each.run.run) == expected


def test_a_run_that_was_undone_is_not_gone_on_with() -> None:
    """What it never did is a new run's, for a person to decide."""
    family = [run("r1", {0: CHANGED, 1: OPEN})]
    way = way_on(family, undone={"r1": "r9"})
    assert way.steps == () and way.command is None
    assert way.lines() == [
        "run r1 was undone by r9; to do all the same what it did not (1): acctops rerun r1 --only unattempted"
    ]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("unseen", "acctops undo r1 --rotated"),
        ("edited", "acctops undo r1 --rotated --include-edited"),
        ("gone", "acctops undo r1 --rotated --exclude 'i/it'\"'\"'s'"),
        ("before_unknown", "acctops undo r1 --target 'i/it'\"'\"'s'"),
        ("unproven", "acctops undo r1 --target 'i/it'\"'\"'s'"),
    ],
)
def test_what_an_undo_leaves_is_taken_by_the_same_undo(reason: str, expected: str) -> None:
    """With the flags it was given; only what could not be read is to be followed without a thought."""
    undo = run("r2", {0: CHANGED}, parent="r1", verb="undo", asked=("--rotated",))
    line = records.OmitLine(
        account="", region="r", instance="i", user="it's", reason=reason, rule="why", where="undo of r1"
    )
    undo.apply(line)
    way = way_on([undo], flags=" --state-dir /s")
    assert way.open_calls == 1
    (step,) = (*way.steps, *way.choices)
    assert step.command() == expected
    assert (way.command is None) == (reason != "unseen")
    assert way.lines()[-1].endswith(f"{expected} --state-dir /s")


def test_the_job_is_named_by_its_file_and_as_it_was_run() -> None:
    """What never became a call, only the job can do."""
    ref = records.JobRef("night", "/jobs/my night.yaml", "")
    one = run("r1", {0: CHANGED}, job=ref, asked=("--endpoint", "nearest"))
    way = way_on([one], flags=" --state-dir /s")
    assert way.fill("Correct the row, then: acctops run JOB") == (
        "Correct the row, then: acctops run '/jobs/my night.yaml' --endpoint nearest --state-dir /s"
    )
    by_hand = run("r1", {0: CHANGED}, job=records.JobRef("by hand", "command line", ""))
    assert "JOB" not in str(way_on([by_hand]).fill("then: acctops run JOB"))


@pytest.mark.parametrize(
    "name", [b"my job.yaml", b"it's.yaml", b'"q".yaml', b"a\nb.yaml", b"lat\xff1.yaml", b"-x;$HOME.yaml"]
)
def test_the_command_that_names_a_job_can_be_pasted_whatever_its_file_is_called(name: bytes) -> None:
    """A shell takes it on one line, and what a terminal must not show is not lost from it."""
    path = b"/jobs/" + name
    ref = records.JobRef("night", path.decode("utf-8", "backslashreplace").replace("\\xff", "\\udcff"), "")
    command = way_on([run("r1", {0: CHANGED}, job=ref)]).job
    assert command is not None and command.isprintable()
    shown = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {command}"], stdout=subprocess.PIPE, check=True, env={"HOME": "/h"}
    )
    assert shown.stdout.split(b"\0") == [b"acctops", b"run", path, b""]


def test_each_command_that_names_a_job_gets_the_flags_that_it_takes() -> None:
    """A plan is never simulated and doctor leaves no account out: with these flags they would refuse."""
    ref = records.JobRef("night", "/jobs/n.yaml", "")
    asked = ("--endpoint", "nearest", "--exclude", "*/etl")
    way = way_on([run("r1", {0: CHANGED}, job=ref, asked=asked, simulated=True)], flags=" --state-dir /s")
    flags = "--endpoint nearest --exclude '*/etl'"
    assert way.fill("acctops run JOB") == f"acctops run /jobs/n.yaml {flags} --simulate --state-dir /s"
    assert way.fill("acctops plan JOB") == f"acctops plan /jobs/n.yaml {flags} --state-dir /s"
    assert way.fill("acctops doctor JOB says") == "acctops doctor /jobs/n.yaml --endpoint nearest --state-dir /s says"


@given(st.data())
def test_nothing_open_is_left_without_a_step(data: st.DataObject) -> None:
    """Whatever runs repeat whatever parts: each open account belongs to one run, and a step goes on with that run."""
    kinds = st.sampled_from([CHANGED, ALREADY, FAILED, UNKNOWN, OPEN, DOUBT])
    count = data.draw(st.integers(1, 4))
    family = [
        run(f"r{n}", data.draw(st.dictionaries(st.integers(0, 5), kinds, min_size=1)), parent="r0" if n else "")
        for n in range(count)
    ]
    way = way_on(family)
    last: dict[str, tuple[str, Outcome]] = {}
    for ledger in family:
        assert ledger.run is not None
        last |= {call.id: (ledger.run.run, outcome) for call, _, outcome in ledger.outcomes()}
    still = [name for name, outcome in last.values() if outcome not in GOOD]
    assert way.open_calls == len(still) and way.asked == len(last)
    assert {step.words[1] for step in way.steps} == set(still)
    assert sum(step.takes for step in way.steps) == len(still)
    assert (way.command is None) == (not still)
    for step in way.steps:
        assert shlex.split(step.command())[1:] == list(step.words)
    assert set(later_words(family, "r0")) == set(family[0].calls) & {c for each in family[1:] for c in each.calls}
