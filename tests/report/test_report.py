"""What a person, a program and a spreadsheet read of a run, from ledgers made by hand."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.journal import records
from engine.journal.ledger import Ledger
from engine.journal.records import AnyRecord
from engine.journal.standing import Progress
from engine.model import Outcome, Proof, Verdict
from engine.report.contained import Containment, contained
from engine.report.documents import (
    ATTEMPT_COLUMNS,
    CSV_COLUMNS,
    RUN_COLUMNS,
    attempt_rows,
    attempts,
    csv_rows,
    csv_text,
    document,
    full_document,
    pace,
    plain,
    row,
    verified,
)
from engine.report.nextstep import Step, way_on
from engine.report.screen import Screen
from engine.report.text import closing_line, duration, pace_text, stuck_text, text
from tests.support.journals import LANE, end, plan, reply, sent, session, settled
from tests.support.journals import settings as run_settings
from tests.support.journals import verified as verified_line

RUN = "20261122T031300Z-q7c2"
JOURNAL = "/var/lib/acctops/runs/x/journal.jsonl"
HEAD = "3be1" * 16
NEWER = dict.fromkeys(("skipped", "unseen", "bad_row", "rerun", "dropped"), 0)
NEWER |= dict.fromkeys(("before_unknown", "edited", "gone", "held", "unproven"), 0)
"""Reasons of leaving out that a match and a list add."""
DOCUMENT_KEYS = [
    "run",
    "journal",
    "journal_head",
    "simulated",
    "action",
    "counts",
    "left_out",
    "verified",
    "attempts",
    "throttled",
    "worst_second",
    "seconds",
    "contained",
    "first_send_ms",
    "stopped",
    "exit",
    "failures",
    "pace",
    "identities",
    "holds",
    "approved",
    "unapproved",
    "open",
    "go_on",
    "watch",
    "paused",
    "waves",
    "undone",
    "left",
]
FAILURE_KEYS = ["outcome", "account", "region", "instance", "user", "code", "message", "request_id", "advice"]
FAILED, UNKNOWN, ALREADY = Outcome.FAILED, Outcome.UNKNOWN, Outcome.ALREADY
NOT_FOUND = "ResourceNotFound.InstanceNotFoundError"
REFUSED = "InvalidParameterValue.InvalidAccountNameError"
HOSTILE = (
    *(
        "<script>alert(1)</script>",
        "'\"><img src=x onerror=alert(1)>",
        '"',
        "=cmd|' /C calc'!A0",
        "+1;=1+1",
        "x,@SUM(A1)",
    ),
    *("\u202egnp.exe", "a\r\nb", "\x1b[2J", "{{7*7}}", "%s%n", "\\", "x" * 10_240, "=" * 10_240, "用户名"),
)
"""What a user name, a job's name, a ticket or a server's message may hold."""
MOVES = "\x1b[2J\x1b]0;owned\x07\r\nrm -rf /\x9b31m\u202egnp.exe\u2028"
"""Clears a screen, names a window, begins a line, colours, turns the writing round."""


def ledger_of(
    lines: Sequence[AnyRecord], *, calls: int = 4, action: str = "LockAccount", at: str = "", **run: Any
) -> Ledger:
    """A ledger of a run with so many calls and then these lines."""
    story = [*plan(calls), *lines]
    for number, line in enumerate(story):
        line.run = RUN
        line.at = at or f"2026-11-22T03:13:{number % 60:02d}.000Z"
        if isinstance(line, records.CallLine | records.Run):
            line.action = action
        if isinstance(line, records.Run):
            for name, value in run.items():
                setattr(line, name, value)
    return Ledger.of(story)


def omit(reason: str, user: str = "root") -> records.OmitLine:
    return records.OmitLine(
        account="",
        region="ap-singapore",
        instance="postgres-00000000",
        user=user,
        reason=reason,
        rule="*/root",
        where="config.yaml:3:5",
    )


def changed(number: int, proof: Proof = Proof.READ) -> list[AnyRecord]:
    return [sent(number), reply(number), settled(number, proof=proof)]


def failed(number: int, code: str | None = NOT_FOUND, message: str | None = "no such instance") -> list[AnyRecord]:
    return [
        sent(number),
        reply(number, Verdict.REJECTED, code=code, message=message),
        settled(number, FAILED, proof=None, code=code),
    ]


def report(ledger: Ledger, **options: Any) -> str:
    return text(ledger, journal=JOURNAL, head=HEAD, **options)


def explained(lines: Sequence[AnyRecord], **ledger: Any) -> dict[str, Any]:
    """The row of the first call."""
    made = ledger_of(lines, calls=1, **ledger)
    return row(*next(made.outcomes()), way_on([made]))


# ---- the closing line ----------------------------------------------------------------------------------------------


AT = "at 03:17:59Z"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([line for number in range(4) for line in changed(number)], f"4 of 4 verified locked {AT}"),
        (
            [*changed(0), *changed(1), *(settled(n, ALREADY, proof=Proof.BEFORE) for n in (2, 3))],
            f"4 of 4 verified locked {AT} (2 were so before)",
        ),
        (
            [*(line for n in (0, 1, 2) for line in changed(n)), settled(3, ALREADY, proof=Proof.BEFORE)],
            f"4 of 4 verified locked {AT} (1 was so before)",
        ),
        (
            [settled(n, ALREADY, proof=Proof.BEFORE) for n in range(4)],
            f"4 of 4 verified locked {AT} (4 were so before)",
        ),
        (
            [line for number in range(4) for line in changed(number, Proof.ACCEPTED)],
            f"4 of 4 locked: accepted, not read back, {AT}",
        ),
        (
            [*changed(0), *changed(1), *changed(2, Proof.ACCEPTED), *changed(3, Proof.CODE)],
            f"2 of 4 verified locked {AT}; 2 accepted, not read back",
        ),
        (
            [*changed(0), *changed(1), omit("protected"), omit("protected", "dba"), omit("excluded", "etl")],
            f"2 of 4 verified locked {AT}; 2 not: 2 unattempted; 2 protected, NOT locked",
        ),
        ([*changed(0), *failed(1), sent(2)], f"1 of 4 verified locked {AT}; 3 not: 1 failed, 1 unknown, 1 unattempted"),
        ([sent(0), reply(0)], f"0 of 4 verified locked {AT}; 4 not: 1 unknown, 3 unattempted"),
        ([line for number in range(4) for line in failed(number)], f"0 of 4 verified locked {AT}; 4 not: 4 failed"),
        ([], f"0 of 4 verified locked {AT}; 4 not: 4 unattempted"),
        (
            [*changed(0, Proof.ACCEPTED), settled(1, ALREADY, proof=Proof.CODE), *failed(2)],
            f"2 of 4 locked: accepted, not read back, {AT} (1 was so before); 2 not: 1 failed, 1 unattempted",
        ),
        (
            [*changed(0), *changed(1, Proof.ACCEPTED), settled(2, ALREADY, proof=Proof.BEFORE), omit("protected")],
            f"2 of 4 verified locked {AT}; 1 accepted, not read back (1 was so before); 1 not: 1 unattempted; "
            "1 protected, NOT locked",
        ),
    ],
)
def test_closing_line(lines: list[AnyRecord], sentence: str) -> None:
    """The one true sentence of a run: how many are proven, when, how many are not, how many must stay open."""
    assert closing_line(ledger_of(lines, at="2026-11-22T03:17:59.123Z")) == sentence


@pytest.mark.parametrize("what", ["undone_by", "continued_by"])
def test_a_later_undo_does_not_date_the_proof_anew(what: str) -> None:
    """What was verified at three was not verified at noon, when another run appended its note."""
    ledger = ledger_of([line for number in range(4) for line in changed(number)], at="2026-11-22T03:17:59.123Z")
    note = records.Note(what=what, data={"run": "x"})
    note.at = "2026-11-25T12:00:00.000Z"
    ledger.apply(note)
    assert closing_line(ledger) == f"4 of 4 verified locked {AT}"


def test_thousands_are_readable() -> None:
    """3,000 and not 3000."""
    ledger = ledger_of(
        [line for number in range(1200) for line in changed(number)], calls=3000, at="2026-11-22T03:17:59.123Z"
    )
    assert closing_line(ledger) == f"1,200 of 3,000 verified locked {AT}; 1,800 not: 1,800 unattempted"


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("UnlockAccount", "1 of 1 verified unlocked"),
        ("OpenAccountCAM", "1 of 1 verified with CAM verification on"),
        ("CloseAccountCAM", "1 of 1 verified with CAM verification off"),
        ("RefreshAccountPassword", "1 of 1 refreshed: accepted, not read back"),
    ],
)
def test_the_sentence_speaks_of_the_action(action: str, words: str) -> None:
    """A report of an unlock never says locked."""
    proof = Proof.ACCEPTED if action == "RefreshAccountPassword" else Proof.READ
    ledger = ledger_of([*changed(0, proof), omit("protected")], calls=1, action=action)
    sentence = closing_line(ledger)
    assert sentence.startswith(words)
    assert sentence.endswith(f"; 1 protected, NOT {ACTIONS[action].done_word}")


# ---- what is said of one target ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "outcome", "words", "advice"),
    [
        (changed(0), "changed", None, None),
        ([settled(0, ALREADY, proof=Proof.BEFORE)], "already", None, None),
        ([settled(0, ALREADY, proof=Proof.CODE, message="was so before")], "already", "was so before", None),
        ([], "unattempted", "never sent", f"acctops resume {RUN} goes on with it"),
        (
            [sent(0), reply(0, Verdict.THROTTLED, code="RequestLimitExceeded")],
            "unattempted",
            "not accepted so far (RequestLimitExceeded)",
            f"acctops resume {RUN} goes on with it",
        ),
        (
            [sent(0), verified_line(0, agrees=False)],
            "unknown",
            "in doubt; read as not done, and that reading may have come too early",
            f"acctops resume {RUN} reads the account and settles it",
        ),
        (
            [sent(0)],
            "unknown",
            "sent and never answered: it may have been applied",
            f"acctops resume {RUN} reads the account and settles it",
        ),
        (
            [sent(0), reply(0)],
            "unknown",
            "accepted, and not settled before the end",
            f"acctops resume {RUN} reads the account and settles it",
        ),
        (
            [sent(0), reply(0, Verdict.IN_DOUBT, code="Local.Timeout", message="no answer within 10 s")],
            "unknown",
            "No answer in time; the request may have been applied.",
            f"acctops resume {RUN} reads the account and settles it",
        ),
    ],
)
def test_what_is_said_of_a_target(lines: list[AnyRecord], outcome: str, words: str | None, advice: str | None) -> None:
    """Nothing of one that is done; of any other what happened and what to do next."""
    found = explained(lines)
    assert (found["outcome"], found["message"], found["advice"]) == (outcome, words, advice)


def test_a_failure_is_told_in_our_words_with_the_servers_behind() -> None:
    """The server's wording may change or be Chinese; ours says what it means, and what to do."""
    found = explained(failed(0, message="实例不存在"))
    assert found["message"].endswith(" [实例不存在]")
    assert found["message"] != " [实例不存在]"
    assert found["advice"]


def test_our_own_words_are_not_said_twice() -> None:
    """A message that already is our words for the code stands alone."""
    words = explained(failed(0, message=None))["message"]
    assert explained(failed(0, message=f"{words} (twice)"))["message"] == f"{words} (twice)"
    assert explained(failed(0, code="Local.PasswordSource", message="vault: sealed"))["message"] == "vault: sealed"


@pytest.mark.parametrize("action", ["LockAccount", "CloseAccountCAM", "RefreshAccountPassword"])
def test_a_settled_unknown_is_not_sent_to_resume(action: str) -> None:
    """A finished run does nothing when resumed: advice that points there would lead in a circle."""
    found = explained(
        [sent(0), settled(0, UNKNOWN, proof=None, request_id=None, message="no reading can tell")], action=action
    )
    assert (found["outcome"], found["message"]) == ("unknown", "no reading can tell")
    assert f"rerun {RUN} --only unknown" in found["advice"]
    assert "rerun" in found["advice"]


def test_a_failure_that_a_guard_has_caused_needs_no_advice() -> None:
    """ "Nothing to do." would be a lie, and so would the advice of any code."""
    words = "read as not done; a guard forbids sending it again"
    found = explained([sent(0), settled(0, FAILED, proof=None, request_id=None, message=words)])
    assert (found["outcome"], found["message"], found["advice"]) == ("failed", words, None)
    ledger = ledger_of([sent(0), settled(0, FAILED, proof=None, request_id=None, message=words)], calls=1)
    assert f"  1 × {words}\n      postgres-00000000/user_0 (ap-singapore)\n\njournal " in report(ledger)


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("code", [None, NOT_FOUND, "Local.Timeout", "Made.Up"])
@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("outcome", [None, *Outcome])
def test_whatever_is_not_as_asked_has_words_and_advice(
    verdict: Verdict, code: str | None, answered: bool, outcome: Outcome | None
) -> None:
    """No combination leaves a person with an empty line; and what is as asked asks nothing of anybody."""
    lines: list[AnyRecord] = [sent(0)]
    if answered:
        lines.append(reply(0, verdict, code=code))
    if outcome is not None:
        lines.append(settled(0, outcome, code=code))
    found = explained(lines)
    if found["outcome"] in ("changed", "already"):
        assert found["advice"] is None
    else:
        assert found["message"]
        assert found["advice"] or (outcome is FAILED and code is None)


# ---- the text ------------------------------------------------------------------------------------------------------


def test_the_whole_text_of_a_run_that_went_well() -> None:
    """Short, and it names the journal and its head."""
    lines: list[AnyRecord] = [omit("protected"), omit("protected", "dba"), omit("excluded", "etl")]
    lines += [line for number in range(4) for line in changed(number)]
    lines.append(end(counts={}, stopped=None, exit=0))
    ledger = ledger_of(lines, at="2026-11-22T03:17:59.000Z", ticket="INC-1", reason="leak")
    ledger.throttled = 0
    assert report(ledger) == (
        f"run {RUN}  LockAccount  leak  INC-1  leak\n"
        "left out: 1 excluded\n"
        "1.5 s · 4 attempts · worst second 4\n"
        f"journal {JOURNAL}\n"
        f"head    {HEAD}\n"
        "contained: 50 % after 0.0 s, 95 % after 0.0 s, all after 0.0 s\n"
        "4 of 4 verified locked at 03:17:59Z; 2 protected, NOT locked\n"
    )


@pytest.mark.parametrize(
    ("reasons", "line"),
    [
        ([], None),
        (["protected"], None),
        (["later"], "left out: 1 later"),
        (
            ["reserved", "duplicate", "excluded", "protected", "duplicate"],
            "left out: 1 excluded; 2 duplicate; 1 reserved",
        ),
    ],
)
def test_left_out(reasons: list[str], line: str | None) -> None:
    """Who reads "locked" must also read who was not; the protected stand in the sentence itself."""
    whole = report(ledger_of([omit(each) for each in reasons])).splitlines()
    assert [each for each in whole if "left out" in each] == ([] if line is None else [line])
    assert ("1 protected, NOT locked" in whole[-1]) == ("protected" in reasons)


REMINDER = "no protect rule was in force: name your break-glass accounts in config.yaml, protect: […]"


@pytest.mark.parametrize(
    ("rules", "waived", "is_told"),
    [
        (("*/breakglass_* (config.yaml:3)",), False, False),
        (("*/root (job.yaml:7:5)", "*/dba (config.yaml:3)"), False, False),
        ((), False, True),
        ((), True, False),
    ],
)
def test_who_protects_nothing_is_reminded_once(rules: tuple[str, ...], waived: bool, is_told: bool) -> None:
    """Locking the break-glass account is the second outage of the night; `protect: none` says that it is meant."""
    settings = msgspec.structs.replace(run_settings(), protect=rules, protect_waived=waived)
    found = report(ledger_of(changed(0), settings=settings)).splitlines()
    assert found.count(REMINDER) == is_told


def test_the_reminder_goes_by_the_settings_in_force() -> None:
    """A resume that found a rule says nothing any more."""
    settings = run_settings()
    unprotected = msgspec.structs.replace(settings, protect=())
    assert REMINDER not in report(ledger_of([session(settings=settings)], settings=unprotected))
    assert REMINDER in report(ledger_of([session(settings=unprotected)], settings=settings))
    assert REMINDER in report(ledger_of([session()], settings=unprotected))
    # The rule of the command that went on is in no settings, and held all the same.
    assert REMINDER not in report(ledger_of([session(), omit("protected")], settings=unprotected))


# ---- when it was contained -----------------------------------------------------------------------------------------


def timed(*lines: tuple[float, AnyRecord], calls: int, action: str = "LockAccount") -> Ledger:
    """A ledger of a run that began at 03:00:00, and of lines so many seconds later."""
    begun = 1_795_316_400.0  # 2026-11-22T03:00:00Z
    first = list(plan(calls))
    for line in first:
        line.at, line.run = records.rfc3339(begun), RUN
        if isinstance(line, records.CallLine | records.Run):
            line.action = action
    for after, line in lines:
        line.at = records.rfc3339(begun + after)
    return Ledger.of([*first, *(line for _, line in lines)])


def locked(number: int, accepted: float, proven: float) -> list[tuple[float, AnyRecord]]:
    return [(accepted - 0.05, sent(number)), (accepted, reply(number)), (proven, settled(number))]


def reached(ledger: Ledger) -> dict[int, float]:
    """The shares that are reached, and when."""
    return {int(share): after for share, after in contained(ledger).items() if after is not None}


def test_containment_counts_from_when_the_api_took_it_once_it_is_proven() -> None:
    """The account was shut when the API said so, not when we came to read it; but only what is proven counts."""
    lines = [line for number in range(20) for line in locked(number, 1.0 + number, 60.0)]
    assert reached(timed(*lines, calls=20)) == {50: 10.0, 95: 19.0, 100: 20.0}
    unsettled = [line for line in lines if not isinstance(line[1], records.Settled)]
    assert contained(timed(*unsettled, calls=20)) == {"50": None, "95": None, "100": None}
    unread = [(60.0, settled(number, proof=Proof.ACCEPTED)) for number in range(20)]
    assert reached(timed(*unsettled, *unread, calls=20)) == {}


@pytest.mark.parametrize(
    ("calls", "done", "shares"),
    [
        (1, 1, {50: 1.0, 95: 1.0, 100: 1.0}),
        (2, 1, {50: 1.0}),
        (3, 1, {}),
        (3, 2, {50: 2.0}),
        (20, 18, {50: 10.0}),
        (20, 19, {50: 10.0, 95: 19.0}),
        (100, 0, {}),
        (100, 49, {}),
        (100, 50, {50: 50.0}),
        (101, 50, {}),
    ],
)
def test_a_share_is_named_once_it_is_reached(calls: int, done: int, shares: dict[int, float]) -> None:
    """Rounded up: two of three are half, one is not."""
    lines = [line for number in range(done) for line in locked(number, 1.0 + number, 2.0 + number)]
    assert reached(timed(*lines, calls=calls)) == shares


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=60), st.integers(0, 5), st.integers(1, 100))
def test_a_share_is_the_least_time_by_which_so_many_are_proven(proven: list[float], rest: int, share: int) -> None:
    """For any times and any share, with some that never are."""
    lines = [line for number, at in enumerate(proven) for line in locked(number, at, at)]
    ledger = timed(*lines, calls=len(proven) + rest)
    after = Containment(ledger).after(share)
    times = sorted(round(at, 3) for at in proven)
    if after is None:
        assert len(times) * 100 < share * len(ledger.calls)
    else:
        enough = [at for at in times if sum(each <= at for each in times) * 100 >= share * len(ledger.calls)]
        assert after == pytest.approx(min(enough), abs=0.002)


def test_what_was_locked_before_is_contained_at_once() -> None:
    """It was never open while the run went on."""
    lines = [(9.0, settled(number, ALREADY, proof=Proof.BEFORE)) for number in range(3)]
    assert reached(timed(*lines, *locked(3, 7.0, 8.0), calls=4)) == {50: 0.0, 95: 7.0, 100: 7.0}


def test_what_was_read_as_locked_after_a_lost_answer_counts_from_the_proof() -> None:
    """Nobody knows when the lost request was applied; by the reading it was."""
    lost = [(1.0, sent(0)), (11.0, reply(0, Verdict.IN_DOUBT, code="Local.Timeout")), (12.5, settled(0))]
    assert reached(timed(*lost, calls=1)) == {50: 12.5, 95: 12.5, 100: 12.5}


def test_what_the_api_took_and_a_reading_denied_counts_from_the_proof() -> None:
    """The word of the API was not true yet, or never: the account was open in between."""
    late = [(1.0, sent(0)), (1.1, reply(0)), (3.0, verified_line(0, agrees=False)), (7.0, verified_line(0))]
    assert reached(timed(*late, (7.1, settled(0)), calls=1))[100] == 7.0
    again = [*late[:3], (4.0, sent(0, 2)), (4.1, reply(0, attempt=2)), (6.0, verified_line(0)), (6.1, settled(0))]
    assert reached(timed(*again, calls=1))[100] == pytest.approx(4.1, abs=0.002)


def test_what_failed_is_never_contained() -> None:
    """Nor what is unknown, was never sent, was seen not to be there, dropped, or could not become a call."""
    lines = [(1.0, line) for line in [*failed(0), sent(1), settled(2, UNKNOWN, proof=None)]]
    missing = (1.0, settled(0, FAILED, proof=Proof.BEFORE, code="Local.NoAccount"))
    assert reached(timed(missing, calls=1)) == {}
    assert reached(timed(*lines, *locked(3, 2.0, 3.0), calls=4)) == {}
    assert reached(timed(*locked(0, 2.0, 3.0), (4.0, omit("bad_row")), calls=1)) == {50: 2.0}


def test_a_pause_does_not_count_and_a_gap_does() -> None:
    """Somebody decided to wait; nobody decided that a process dies."""

    def note(at: float, kind: str, **data: object) -> tuple[float, AnyRecord]:
        return at, records.Note(what=kind, data={"by": "ann", "id": "1", **data})

    begin = [*locked(0, 1.0, 2.0), note(3.0, "control", what="pause"), note(4.0, "paused", until=None)]
    lifted = timed(*begin, note(60.0, "unpaused"), *locked(1, 61.0, 63.0), calls=2)
    assert reached(lifted) == {50: 1.0, 95: 4.0, 100: 4.0}
    drained = timed(*locked(0, 1.0, 2.0), *begin[3:], *locked(1, 3.5, 3.6), note(9.0, "unpaused"), calls=2)
    assert reached(drained) == {50: 1.0, 95: 3.0, 100: 3.0}, "what was in flight is done while it is paused"
    kept = timed(*locked(0, 1.0, 2.0), *begin[3:], *locked(1, 3.5, 3.6), calls=2)
    assert reached(kept) == {50: 1.0, 95: 3.0, 100: 3.0}, "nobody has lifted the pause yet"
    resumed = timed(*begin, (100.0, session()), *locked(1, 101.0, 103.0), calls=2)
    assert reached(resumed) == {50: 1.0, 95: 4.0, 100: 4.0}, "its process ended in the pause"
    died = timed(*locked(0, 1.0, 2.0), (100.0, session()), *locked(1, 101.0, 103.0), calls=2)
    assert reached(died) == {50: 1.0, 95: 101.0, 100: 101.0}


def test_a_rerun_counts_as_a_further_session() -> None:
    """The accounts were open until then."""
    whole = timed(*locked(0, 1.0, 2.0), *((3.0, line) for line in failed(1)), calls=2)
    later = [(30.0, session()), *locked(1, 40.0, 42.0)]
    whole.absorb(timed(*later, calls=2))
    assert reached(whole)[100] == 40.0


def test_only_of_a_lockdown_a_person_is_told() -> None:
    """An unlock "contained after 3 s" would be nonsense; a program is told how long anything took."""
    opened = timed(*locked(0, 1.0, 2.0), calls=1, action="UnlockAccount")
    assert "contained" not in report(opened)
    assert contained(opened) == {"50": 1.0, "95": 1.0, "100": 1.0}


def test_containment_is_told_at_the_end_of_the_report() -> None:
    """As a person says times, as far as it got."""
    lines = [line for number in range(20) for line in locked(number, 10.0 * (1 + number), 300.0)]
    found = report(timed(*lines, calls=20)).splitlines()
    assert found[-2] == "contained: 50 % after 1 min 40 s, 95 % after 3 min 10 s, all after 3 min 20 s"
    assert "contained: 50 % after 1 min 40 s" in report(timed(*lines[:30], calls=20)).splitlines()
    assert "contained" not in report(timed(*lines[:27], calls=20))


# ---- how the quota was used ----------------------------------------------------------------------------------------


def sent_at(number: int, seconds: float, verdict: Verdict = Verdict.DONE, lane: str = LANE) -> list[AnyRecord]:
    intent = sent(number)
    intent.lane = lane
    return [intent, reply(number, verdict, sent_at=records.rfc3339(1_795_316_400.0 + seconds, digits=6))]


def test_the_use_of_the_quota_is_told_a_lane() -> None:
    """What was accepted a second, from the first to the last of them; throttled and unanswered calls are none."""
    lines = [line for number in range(11) for line in sent_at(number, number / 10)]
    lines += sent_at(11, 5.0, Verdict.THROTTLED)
    slowed = records.Note(what="lane_slowed", data={"lane": LANE, "guard": 0.044})
    (row,) = pace(ledger_of([*lines, slowed], calls=20))
    assert (row["sent"], row["accepted"], row["throttled"]) == (12, 11, 1)
    assert (row["accepted_per_second"], row["used"], row["guard"]) == (10.0, 0.5, 0.044)
    assert pace_text(ledger_of([*lines, slowed], calls=20)) == (
        f"run {RUN}  LockAccount  leak  leak\n"
        f"lane {LANE}  quota 20/s\n"
        "  accepted 11 (10.0/s, 50.0% of the quota) · throttled 1 · sent 12\n"
        "  worst second 10 · guard 4.4%\n"
    )


def test_a_run_that_asks_for_less_says_of_which_quota() -> None:
    """Two calls a second are not "the whole quota" when it is 20; journals of old know the run's rate only."""
    lines = [*sent_at(0, 0.0), *sent_at(1, 0.5)]
    slow = msgspec.structs.replace(run_settings(rate=2.0), quota=20.0)
    (row,) = pace(ledger_of(lines, settings=slow))
    assert (row["quota"], row["used"]) == (20.0, 0.1)
    (row,) = pace(ledger_of(lines, settings=run_settings(rate=2.0)))
    assert (row["quota"], row["used"]) == (2.0, 1.0)


def test_one_call_makes_no_pace() -> None:
    """A share of nothing is none; and each lane is for itself."""
    rows = pace(ledger_of([*sent_at(0, 0.0, lane="b"), *sent_at(1, 0.0, lane="a"), *sent_at(2, 2.0, lane="a")]))
    assert [(row["lane"], row["accepted_per_second"], row["used"]) for row in rows] == [
        ("a", 0.5, 0.025),
        ("b", None, None),
    ]
    assert "  accepted 1 (-) · " in pace_text(ledger_of(sent_at(0, 0.0)))
    assert "guard as it began\n" in pace_text(ledger_of(sent_at(0, 0.0)))
    assert pace_text(ledger_of([])) == f"run {RUN}  LockAccount  leak  leak\nnothing was sent\n"


# ---- what is stuck -------------------------------------------------------------------------------------------------


TITLE = f"run {RUN}  LockAccount  leak  leak"


def stuck(lines: Sequence[AnyRecord], **ledger: Any) -> list[list[str]]:
    """The paragraphs of the stuck list."""
    made = stuck_text(ledger_of(lines, at="2026-11-22T03:17:59.123Z", **ledger))
    assert made.endswith("\n")
    return [part.splitlines() for part in made.rstrip("\n").split("\n\n")]


def test_the_stuck_list_is_grouped_by_cause_the_most_frequent_first() -> None:
    """Ready for a ticket: what, how many, what to do, and every target with the RequestId the vendor asks for."""
    busy = "OperationDenied.InstanceStatusLimitOpError"
    lines = [*failed(0, busy, None), *failed(1, NOT_FOUND), *failed(2, busy, None), *changed(3), *failed(4, busy, None)]
    head, busy_ones, gone = stuck(lines, calls=5)
    assert head == [TITLE, f"1 of 5 verified locked {AT}; 4 not: 4 failed"]
    assert busy_ones[0].startswith(f"3 × {busy}: ")
    assert busy_ones[1].startswith("  → ")
    assert busy_ones[2:] == [
        "  postgres-00000000/user_0  ap-singapore  RequestId request-0-1",
        "  postgres-00000000/user_2  ap-singapore  RequestId request-2-1",
        "  postgres-00000001/user_0  ap-singapore  RequestId request-4-1",
    ]
    assert gone[0].startswith(f"1 × {NOT_FOUND}: ")
    assert gone[0].endswith(" [no such instance]")
    assert "user_1  ap-singapore  RequestId request-1-1" in gone[-1]


def test_the_stuck_list_has_what_was_not_answered_and_not_sent() -> None:
    """They are not as asked either; and where the server gave no RequestId none is made up."""
    head, *groups = stuck([*changed(0), sent(1), sent(2), reply(2)])
    assert head == [TITLE, f"1 of 4 verified locked {AT}; 3 not: 2 unknown, 1 unattempted"]
    assert [group[0] for group in groups] == [
        "1 × no answer: sent and never answered: it may have been applied",
        "1 × accepted, not settled: accepted, and not settled before the end",
        "1 × no code: never sent",
    ]
    assert groups[0][1:] == [
        f"  → acctops resume {RUN} reads the account and settles it",
        "  postgres-00000000/user_1  ap-singapore",
    ]
    assert groups[1][-1] == "  postgres-00000000/user_2  ap-singapore  RequestId request-2-1"


def test_the_stuck_list_is_never_cut() -> None:
    """Unlike the closing report's: it goes into a ticket whole."""
    (_, group) = stuck([line for number in range(300) for line in failed(number)], calls=300)
    assert len(group) == 302
    assert len({line.split("  ")[1] for line in group[2:]}) == 300


def test_a_group_without_advice_has_none() -> None:
    """A guard's words say all."""
    words = "read as not done; a guard forbids sending it again"
    denied = [sent(0), verified_line(0, agrees=False), settled(0, FAILED, proof=None, request_id=None, message=words)]
    (_, group) = stuck(denied, calls=1)
    assert group == [f"1 × no code: {words}", "  postgres-00000000/user_0  ap-singapore"]


def test_nothing_stuck_is_said() -> None:
    """An empty page would leave doubts."""
    assert stuck([line for number in range(4) for line in changed(number)]) == [
        [TITLE, f"4 of 4 verified locked {AT}", "nothing is stuck"]
    ]


def test_a_stuck_message_cannot_move_the_cursor() -> None:
    """It is pasted into tickets and shown on terminals."""
    made = stuck_text(ledger_of(failed(0, message=MOVES)))
    assert "rm -rf" in made
    assert all(line.isprintable() for line in made.split("\n"))


def test_failures_are_listed_with_code_words_advice_and_request_id() -> None:
    """Everything needed to mend it or to open a ticket with the vendor."""
    found = report(ledger_of([*failed(0), *failed(1), sent(2)])).splitlines()
    at = found.index(f"failed (2): 2 × {NOT_FOUND}")
    assert found[at - 1] == ""
    assert found[at + 1].startswith(f"  2 × {NOT_FOUND}: ")
    assert found[at + 1].endswith(" [no such instance]")
    assert found[at + 2].startswith("    → ")
    assert found[at + 3] == "      postgres-00000000/user_0 (ap-singapore)  RequestId request-0-1"
    assert found[at + 4] == "      postgres-00000000/user_1 (ap-singapore)  RequestId request-1-1"
    assert "unknown (1): 1 × no answer" in found
    assert "unattempted (1)" in found
    at = found.index("  1 × never sent")
    assert found[at + 1] == "      postgres-00000000/user_3 (ap-singapore)"


def test_long_lists_are_cut_and_say_where_the_rest_is() -> None:
    """One advice and ten accounts of each cause; the command for the rest is exact."""
    ledger = ledger_of([line for number in range(1500) for line in failed(number)], calls=1500)
    found = report(ledger, way=way_on([ledger], flags=" --state-dir /srv/state"))
    assert (found.count("→ "), found.count("RequestId ")) == (1, 10)
    assert f"  … and 1,490 more: acctops report {RUN} --stuck --state-dir /srv/state\n" in found


def test_causes_are_counted_most_frequent_first() -> None:
    """One look tells whether it is one thing or many."""
    codes = [NOT_FOUND] * 3 + ["InvalidParameter"] * 5 + ["DBError"]
    lines = [line for number, code in enumerate(codes) for line in failed(number, code)]
    found = report(ledger_of(lines, calls=9))
    assert f"failed (9): 5 × InvalidParameter, 3 × {NOT_FOUND}, 1 × DBError\n" in found


def test_a_code_of_an_older_attempt_does_not_explain_a_later_silence() -> None:
    """Throttled first, then sent and never answered: the cause is the silence. Accepted is not silence either."""
    throttled = [sent(0), reply(0, Verdict.THROTTLED, code="RequestLimitExceeded"), sent(0, 2)]
    found = report(ledger_of([*throttled, sent(1), reply(1)], calls=2))
    assert "unknown (2): 1 × no answer, 1 × accepted, not settled\n" in found
    assert "  1 × sent and never answered: it may have been applied\n" in found


@pytest.mark.parametrize(
    ("stopped", "line"),
    [
        (
            records.Stopped("The key was deleted", "AuthFailure.SecretIdNotFound", "r-9"),
            "STOPPED EARLY: The key was deleted [AuthFailure.SecretIdNotFound] (RequestId r-9)",
        ),
        (records.Stopped("stop_after: 3 failed", None, None), "STOPPED EARLY: stop_after: 3 failed"),
        (
            records.Stopped(f"all failed with {NOT_FOUND}", NOT_FOUND, None),
            f"STOPPED EARLY: all failed with {NOT_FOUND}",
        ),
    ],
)
def test_an_early_stop_says_why(stopped: records.Stopped, line: str) -> None:
    """With code and RequestId where there are any, and the code once."""
    assert line in report(ledger_of([end(stopped=stopped)])).splitlines()


def test_an_early_stop_for_the_keys_says_what_to_do() -> None:
    """What was never sent brings no advice of its own, and a resume with the same dead keys does nothing; a stop for
    what failed has it beside each target."""
    lines = report(ledger_of([end(stopped=records.Stopped("ended", "AuthFailure.TokenFailure", None))])).splitlines()
    advice = lines[lines.index("STOPPED EARLY: ended [AuthFailure.TokenFailure]") + 1]
    assert advice.startswith("  → Get fresh temporary keys with their token")
    stopped = records.Stopped(f"all failed with {NOT_FOUND}", NOT_FOUND, None)
    assert "  →" not in report(ledger_of([end(stopped=stopped)]))


def test_each_account_that_was_given_up_is_named_with_its_reason_once() -> None:
    """Two accounts that end for two reasons; an end of the whole run is nobody's in particular."""
    closed = [
        records.Note(what="route_closed", data={"account": name, "endpoints": [], "why": why, "code": None})
        for name, why in (("two", "no keys"), ("three", "denied"))
    ]
    lines = report(ledger_of([*closed, end(stopped=records.Stopped("no keys", None, None))])).splitlines()
    assert "STOPPED EARLY for two: no keys" in lines
    assert [line for line in lines if "nothing more was sent" in line] == ["  nothing more was sent of three: denied"]
    lines = report(ledger_of([*closed, end(stopped=records.Stopped("deadline", None, None))])).splitlines()
    assert "STOPPED EARLY: deadline" in lines
    assert len([line for line in lines if "nothing more was sent of" in line]) == 2


def test_throttles_are_named_and_are_no_failures() -> None:
    """A reader must not take them for trouble with targets."""
    lines = [sent(0), reply(0, Verdict.THROTTLED), *changed(0)]
    assert " · 1 throttled (not failures)\n" in report(ledger_of(lines, calls=1))
    assert "throttled" not in report(ledger_of(changed(0), calls=1))


LIVE = Progress(
    **dict.fromkeys(("already", "failed", "throttled", "awaiting"), 0),
    **dict.fromkeys(("verified", "sent", "settled"), 1),
    total=4,
    rate=1.0,
    quota=20.0,
    seconds=60.0,
    is_verified=True,  # type: ignore[arg-type]
    done_word="locked",
)


def test_each_row_keeps_its_own_reason() -> None:
    """Two bad rows are bad for two reasons; one reason over both would send somebody to the wrong line."""
    bad = [omit("bad_row", "?") for _ in range(2)]
    for at, each in enumerate(bad):
        each.rule, each.where = f"user: 'x{at}!' is not an account name", f"l.csv:{at}"
    found = report(ledger_of(bad))
    for at in range(2):
        assert f"l.csv:{at}: user: 'x{at}!' is not an account name" in found
        assert f"l.csv:{at}: user: 'x{at}!' is not an account name" in stuck_text(ledger_of(bad))


def test_what_is_still_tried_has_not_failed() -> None:
    """`status` of a run that waits for a busy instance, or that Ctrl-C ended while it did, gives nobody up."""
    busy = "OperationDenied.InstanceStatusLimitOpError"
    tried = [sent(0), reply(0, Verdict.TRANSIENT, code=busy), sent(1), reply(1)]
    live = report(ledger_of(tried), live=LIVE)
    assert f"\ntried again (1): 1 × {busy}\n" in live and "failed" not in live
    assert live.count(" × ") == 2, "the line has the numbers of what is on its way, and of what is not sent yet"
    ended = report(ledger_of([*tried, end(stopped=records.Stopped("Ctrl-C", None, None), exit=130)]))
    assert f"\ninterrupted while tried again (1): 1 × {busy}\n" in ended and "failed" not in ended
    assert ended.splitlines()[-1].endswith("; 4 not: 1 interrupted while tried again, 1 unknown, 2 unattempted")
    assert f"\ngo on:  acctops resume {RUN}\n" in ended


def many_ways(causes: int, each: int) -> Ledger:
    """A run whose calls failed, `each` of them for each of so many causes."""
    codes = [f"FailedOperation.MadeUpOperationError{number:02}" for number in range(causes)]
    lines = [line for number in range(causes * each) for line in failed(number, codes[number % causes], "words " * 30)]
    return ledger_of([*lines, end(stopped=None, exit=1)], calls=causes * each + 5)


@pytest.mark.parametrize("size", [(80, 24), (60, 24), (110, 34), (200, 50), (80, 15)])
@pytest.mark.parametrize("causes", [0, 1, 2, 5, 30])
@pytest.mark.parametrize("each", [1, 9, 200])
def test_the_end_of_a_run_fits_on_its_screen(size: tuple[int, int], causes: int, each: int) -> None:
    """Whatever failed: what to do next and the verdict stand in the last rows, and no row has scrolled off."""
    ledger = many_ways(causes, each)
    screen = Screen(*size)
    flags = " --state-dir /srv/a/rather/long/path/of/a/state/directory"
    found = report(ledger, way=way_on([ledger], flags=flags), screen=screen).splitlines()
    assert screen.height(found) <= screen.rows - 1
    end_of = " ".join(found[-4:])
    assert "verified locked" in end_of and "go on:  acctops re" in " ".join(found[-6:])
    if causes:
        assert any("MadeUpOperationError" in line for line in found)
    if causes == 30:
        assert f"all of them: acctops report {RUN} --stuck{flags}" in found
        left = sum(int(line.split()[2].replace(",", "")) for line in found if line.startswith("  … and "))
        told = sum(int(line.split()[1].replace(",", "")) for line in found if " × " in line and line[0] != " ")
        assert told + left == causes * each + 5


def test_of_many_accounts_and_commands_a_screen_names_the_worst_and_says_how_many_more() -> None:
    """A job over thirty cloud accounts, of which twenty were given up: nothing is cut without a word."""
    closed = [
        records.Note(what="route_closed", data={"account": f"acc-{number}", "endpoints": [], "why": "no keys"})
        for number in range(20)
    ]
    lines = [line for number in (3, 4) for line in failed(number)]
    ledger = ledger_of([*closed, *lines, end(stopped=records.Stopped("deadline", None, None))], calls=30)
    ledger.calls = {key: replace(call, account=f"acc-{at}") for at, (key, call) in enumerate(ledger.calls.items())}
    steps = tuple(Step(words=("rerun", f"run-{number}"), takes=1) for number in range(9))
    way = replace(way_on([ledger]), steps=steps)
    screen = Screen(80, 24)
    found = report(ledger, way=way, screen=screen).splitlines()
    assert screen.height(found) <= 23
    rest = f"acctops report {RUN}"
    assert f"  … and 28 more accounts: {rest}" in found and f"  … and 18 more: {rest}" in found
    assert f"… and 6 more commands: {rest}" in found and "go on:  acctops rerun run-0" in found
    assert "verified locked" in found[-1] and any("InstanceNotFound" in line for line in found)
    whole = report(ledger, way=way)
    assert whole.count("acctops rerun run-") == 9 and whole.count("nothing more was sent of") == 20


def test_a_screen_with_room_has_it_all() -> None:
    """Each cause once, with one advice, the first accounts and their RequestIds."""
    found = report(many_ways(2, 9), screen=Screen(100, 60))
    assert found.count("  → ") == 2 and found.count("    RequestId request-") == 2
    assert found.count(" and 6 more\n") == 2 and "all of them" not in found


@given(st.text(max_size=300), st.integers(20, 200))
def test_a_line_that_is_cut_fits_its_row(words: str, columns: int) -> None:
    """Characters of East Asia take two columns each."""
    screen = Screen(columns, 24)
    line = plain(words)
    assert screen.height([screen.cut(line)]) == 1
    if "acctops " not in line:
        assert "".join("".join(screen.fold(line)).split()) == "".join(line.split())


def test_a_command_stands_whole_in_its_own_row_and_the_words_before_it_break_between_words() -> None:
    """A terminal breaks inside a word, and a command that is broken cannot be pasted."""
    line = "  held, so somebody wants them locked; to give back what a run holds: acctops undo 20261129T121901Z-4vbt"
    assert Screen(60, 24).fold(line) == [
        "  held, so somebody wants them locked; to give back what a",
        "    run holds:",
        "    acctops undo 20261129T121901Z-4vbt",
    ]
    assert Screen(40, 24).fold("if `acctops tend` stops, nobody is told of it") == [
        "if `acctops tend` stops, nobody is told",
        "  of it",
    ]
    assert Screen(40, 24).fold(f"  → acctops rerun {'x' * 60}") == [f"  → acctops rerun {'x' * 60}"]


def test_a_live_run_is_marked_and_not_told_to_go_on() -> None:
    """Its journal says how it stood; a resume beside it would be refused."""
    ledger = ledger_of([*changed(0), end()])
    found = report(ledger, live=LIVE)
    assert found.startswith(f"LIVE  run {RUN}")
    assert "go on:" not in found
    assert "STOPPED EARLY" not in found
    assert found.endswith("\nlocked 1 · sent 1 of 4 · 1.0/s of 20 · ETA 5.0 s\n")


def test_a_simulated_run_says_so_first() -> None:
    """Nobody may take a drill for the real thing."""
    assert report(ledger_of([], simulated=True)).startswith("SIMULATED  run ")
    assert report(ledger_of([], simulated=True), live=LIVE).startswith("SIMULATED  LIVE  run ")


@pytest.mark.parametrize(
    ("lines", "command"),
    [
        ([line for number in range(4) for line in changed(number)], None),
        ([line for number in range(3) for line in failed(number)], f"acctops resume {RUN}"),
        ([*failed(0), sent(1), *changed(2), *changed(3)], f"acctops resume {RUN}"),
        (
            [*failed(0, code=REFUSED), *(line for number in (1, 2, 3) for line in failed(number))],
            f"acctops rerun {RUN} --only failed",
        ),
        ([line for number in range(4) for line in failed(number)], None),
        (
            [*failed(0), settled(1, UNKNOWN, proof=None), *changed(2), *changed(3)],
            f"acctops rerun {RUN} --only failed,unknown",
        ),
        (
            [settled(0, UNKNOWN, proof=None), *changed(1), *changed(2), *changed(3)],
            f"acctops rerun {RUN} --only unknown",
        ),
    ],
)
def test_the_command_that_goes_on(lines: list[AnyRecord], command: str | None) -> None:
    """Exact, to be pasted: resume while anything is unsettled, else rerun what did not work out, else nothing."""
    ledger = ledger_of(lines)
    assert way_on([ledger]).command == command
    assert way_on([ledger], flags=" --state-dir /s").command == (f"{command} --state-dir /s" if command else None)
    assert ("go on:  " in report(ledger)) == (command is not None)


def test_control_characters_of_a_server_do_not_reach_the_terminal() -> None:
    """Not in a message, a stop reason, a job name, a ticket: one line stays one line and the cursor stays put."""
    ledger = ledger_of(
        [*failed(0, message=MOVES), end(stopped=records.Stopped(MOVES, None, None))],
        ticket=MOVES,
        reason=MOVES,
        job=records.JobRef(MOVES, "/j", "0"),
    )
    found = report(ledger)
    assert "rm -rf" in found
    assert all(line.isprintable() for line in found.split("\n"))


@given(st.text())
def test_plain_text_is_one_printable_line_of_the_same_length(value: str) -> None:
    """Whatever a server sends."""
    found = plain(value)
    assert found.isprintable()
    assert len(found) == len(value)
    assert [a for a, b in zip(found, value, strict=True) if a != b] == [" "] * sum(not c.isprintable() for c in value)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (0.84, "0.8 s"),
        (10, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (252, "4 min 12 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    """As a person says them."""
    assert duration(seconds) == words


# ---- JSON ----------------------------------------------------------------------------------------------------------


def test_the_document_has_exactly_the_documented_keys() -> None:
    """Scripts read these names: none missing, none more, in this order."""
    found = document(ledger_of([*failed(0), sent(1), end()]), journal=JOURNAL, head=HEAD)
    assert list(found) == DOCUMENT_KEYS
    assert [list(each) for each in found["failures"]] == [FAILURE_KEYS] * 2
    assert list(found["counts"]) == ["changed", "already", "failed", "unknown", "unattempted"]
    assert list(found["left_out"]) == ["protected", "excluded", "duplicate", "reserved", "later", *NEWER]
    assert list(found["verified"]) == ["agree", "disagree", "unread"]
    assert list(found["stopped"]) == ["why", "code", "request_id"]


def test_the_document_of_a_finished_run() -> None:
    """Every number of it, by hand."""
    lines: list[AnyRecord] = [omit("protected"), *changed(0), *changed(1, Proof.ACCEPTED)]
    lines += [*failed(2, "Local.NotApplied"), sent(3), reply(3, Verdict.THROTTLED)]
    lines.append(end(stopped=records.Stopped("deadline of 600 s reached", None, None), exit=4))
    found = document(ledger_of(lines), journal=JOURNAL, head=HEAD, first_send_ms=321)
    failure = found["failures"].pop()
    assert json.loads(json.dumps(found)) == {
        "run": RUN,
        "journal": JOURNAL,
        "journal_head": HEAD,
        "simulated": False,
        "action": "LockAccount",
        "counts": {"changed": 2, "already": 0, "failed": 1, "unknown": 0, "unattempted": 1},
        "left_out": {"protected": 1, "excluded": 0, "duplicate": 0, "reserved": 0, "later": 0, **NEWER},
        "verified": {"agree": 1, "disagree": 1, "unread": 1},
        "attempts": 4,
        "throttled": 1,
        "worst_second": 4,
        "seconds": 1.5,
        "contained": {"50": None, "95": None, "100": None},
        "pace": [
            {
                "lane": LANE,
                "quota": 20.0,
                "sent": 4,
                "accepted": 3,
                "accepted_per_second": 20.0,
                "used": 1.0,
                "throttled": 1,
                "worst_second": 4,
                "guard": None,
            }
        ],
        "identities": [],
        "first_send_ms": 321,
        "stopped": {"why": "deadline of 600 s reached", "code": None, "request_id": None},
        "exit": 4,
        "failures": [],
        "holds": None,
        "approved": [],
        "unapproved": None,
        "open": 2,
        "go_on": f"acctops resume {RUN}",
        "watch": None,
        "paused": None,
        "waves": [],
        "undone": None,
        "left": False,
    }
    assert failure["user"] == "user_2"
    assert failure["advice"]


def test_the_document_of_a_run_that_was_cut_off() -> None:
    """No end, so no seconds, no exit, nothing that stopped it: null, never a guess."""
    found = document(ledger_of([sent(0)]), journal=JOURNAL, head=HEAD)
    assert [found[key] for key in ("seconds", "exit", "stopped", "first_send_ms")] == [None] * 4
    assert found["worst_second"] == 0
    assert found["failures"][0]["outcome"] == "unknown"


def test_the_failures_of_a_document_are_the_failed_and_the_unknown() -> None:
    """Unattempted calls are counted, not listed: a stopped run of 3,000 would drown in them."""
    ledger = ledger_of([*changed(0), *failed(1), sent(2)])
    assert [each["user"] for each in document(ledger, journal="", head="")["failures"]] == ["user_1", "user_2"]


def test_the_full_document_lists_every_target_and_every_omit() -> None:
    """The report of an audit: who, why, what, each target, each one left out and by which rule."""
    ledger = ledger_of(
        [omit("protected"), *changed(0), *failed(1)],
        parent=records.Parent("20261121T000000Z-aaaa", "rerun", "ab" * 32),
        ticket="INC-1",
    )
    found = full_document(ledger, journal=JOURNAL, head=HEAD, live=True)
    assert list(found)[: len(DOCUMENT_KEYS)] == DOCUMENT_KEYS
    assert found["live"] is True
    assert (found["ticket"], found["reason"], found["operator"], found["host"]) == ("INC-1", "leak", "ann", "ops1")
    assert found["job"] == {"name": "leak", "path": "/jobs/leak.yaml", "digest": "ab" * 32}
    assert found["parent"] == {"run": "20261121T000000Z-aaaa", "verb": "rerun", "head": "ab" * 32}
    assert found["started_at"].startswith("2026-11-22T")
    assert [each["outcome"] for each in found["targets"]] == ["changed", "failed", "unattempted", "unattempted"]
    assert [(*RUN_COLUMNS, *each) for each in found["targets"]] == [CSV_COLUMNS] * 4
    assert found["omits"] == [
        {
            "account": "",
            "region": "ap-singapore",
            "instance": "postgres-00000000",
            "user": "root",
            "reason": "protected",
            "rule": "*/root",
            "where": "config.yaml:3:5",
        }
    ]
    assert full_document(ledger_of([]), journal="", head="", live=False)["parent"] is None


@pytest.mark.parametrize(
    ("lines", "counts"),
    [
        (changed(0, Proof.READ), (1, 0, 0)),
        ([settled(0, ALREADY, proof=Proof.BEFORE)], (1, 0, 0)),
        (changed(0, Proof.CODE), (0, 0, 1)),
        (changed(0, Proof.ACCEPTED), (0, 0, 1)),
        (failed(0, "Local.NotApplied"), (0, 1, 0)),
        (failed(0), (0, 0, 0)),
        ([], (0, 0, 0)),
    ],
)
def test_verified(lines: list[AnyRecord], counts: tuple[int, int, int]) -> None:
    """Read back as asked, read back as not so, or not read: nothing counts as read that was only accepted."""
    assert tuple(verified(ledger_of(lines, calls=1)).values()) == counts


# ---- CSV -----------------------------------------------------------------------------------------------------------


def read_back(lines: Sequence[AnyRecord], calls: int = 4) -> list[dict[str, str]]:
    made = ledger_of(lines, calls=calls)
    written = "".join(csv_text(csv_rows(made, way_on([made])), CSV_COLUMNS))
    return list(csv.DictReader(io.StringIO(written, newline=""), strict=True))


def test_csv_reads_back() -> None:
    """One header, one row a target in plan order, nothing lost: commas, quotes and other scripts included."""
    message = 'no "such", instance; 实例不存在'
    found = read_back([*changed(0), *failed(1, message=message)])
    assert [tuple(each) for each in found] == [CSV_COLUMNS] * 4
    assert [each["outcome"] for each in found] == ["changed", "failed", "unattempted", "unattempted"]
    assert [each["user"] for each in found] == ["user_0", "user_1", "user_2", "user_3"]
    assert message in found[1]["message"]
    assert found[0]["settled_at"].startswith("2026-11-22T03:13:")
    assert found[3]["request_id"] == found[3]["code"] == ""


def test_csv_is_rfc_4180() -> None:
    """Lines end with CR LF, the last one too; an empty list still has its header."""
    assert list(csv_text([], CSV_COLUMNS)) == [",".join(CSV_COLUMNS) + "\r\n"]


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t=", "\r=", " =", "\n@", "＝", "\x00+"])
def test_a_servers_message_is_no_formula(begin: str) -> None:
    """`=HYPERLINK(…)` from the network must not run in the spreadsheet of whoever opens the report."""
    # A code of ours, whose message stands alone in its cell.
    message = f'{begin}HYPERLINK("http://evil/","x")'
    cell = read_back(failed(0, code="Local.PasswordSource", message=message))[0]["message"]
    assert cell.startswith("'")
    assert 'HYPERLINK("http://evil/","x")' in cell


@given(st.text(max_size=40))
def test_no_cell_begins_a_formula_or_moves_a_cursor(message: str) -> None:
    """Whatever a server sends; and every row stays one line."""
    rows = [{"message": message, "ms": -3}]
    written = "".join(csv_text(rows, ("message", "ms")))
    assert written.count("\r\n") == 2
    assert all(line.isprintable() for line in written.split("\r\n"))
    (cell, number) = list(csv.reader(io.StringIO(written, newline=""), strict=True))[1]
    assert cell.lstrip()[:1] not in set("=+-@")
    assert cell.replace("'", "") == plain(message).replace("'", "")
    assert number == "-3"


@given(st.text(alphabet="=+-@,; \"'x＝\t\n\u202e", max_size=12), st.booleans())
def test_no_formula_begins_where_another_spreadsheet_cuts_a_cell(message: str, excel: bool) -> None:
    """One that takes semicolons for commas, or the other way round, sees other cells in the same file."""
    written = "".join(csv_text([{"user": "ann", "message": message}], ("user", "message"), excel=excel))
    for part in re.split("[,;]", written.splitlines()[1]):
        assert part.strip(' "')[:1] not in set("=+-@＝"), written


@pytest.mark.parametrize("excel", [False, True])
@given(
    reason=st.text(max_size=40),
    name=st.sampled_from(HOSTILE),
    user=st.sampled_from(HOSTILE),
    message=st.sampled_from(HOSTILE),
)
def test_whatever_people_and_servers_write_is_text_in_every_report(
    excel: bool, reason: str, name: str, user: str, message: str
) -> None:
    """Markup, quotes, writing that turns round, formulas, 10 kB: one row a target, one line a row, JSON that loads."""
    job = records.JobRef(name, f"/jobs/{name}.yaml", "ab" * 32)
    made = ledger_of(
        [*failed(0, message=message), *changed(1)], calls=2, job=job, ticket=name, reason=reason, operator=user
    )
    way = way_on([made])
    written = "".join(csv_text(csv_rows(made, way), CSV_COLUMNS, excel=excel))
    found = list(csv.reader(io.StringIO(written, newline=""), strict=True, delimiter=";" if excel else ","))
    assert [len(cells) for cells in found] == [len(CSV_COLUMNS)] * 3
    assert len(written.splitlines()) == 3 and all(line.isprintable() for line in written.splitlines())
    assert not any(cell.lstrip(' "')[:1] in "=+-@" for cells in found[1:] for cell in cells if cell.strip(' "'))
    whole = json.loads(json.dumps(full_document(made, journal=JOURNAL, head=HEAD, live=False)))
    assert (whole["job"]["name"], whole["ticket"], whole["operator"]) == (name, name, user)
    for shown in (report(made), stuck_text(made), closing_line(made)):
        assert all(line.isprintable() for line in shown.splitlines())


def test_a_big_csv_comes_in_pieces() -> None:
    """A report of a million targets is written as it is made, not held in memory."""
    rows = ({"message": "x" * 100} for _ in range(5000))
    pieces = list(csv_text(rows, ("message",)))
    assert len(pieces) > 5
    assert max(map(len, pieces)) < 100_000
    assert len(list(csv.reader(io.StringIO("".join(pieces), newline="")))) == 5001


def test_one_row_an_attempt() -> None:
    """Every attempt with a reply, in the order of the journal, with what came back."""
    lines = [
        *plan(2),
        sent(0),
        sent(1),
        reply(1, Verdict.THROTTLED, code="RequestLimitExceeded", message="slow down"),
        reply(0),
        settled(0),
        sent(1, 2),
        reply(1, attempt=2),
    ]
    found = list(attempts(lines))
    rows = list(attempt_rows(Ledger.of(lines), lines))
    assert [tuple(each) for each in rows] == [ATTEMPT_COLUMNS] * 3
    assert [each["settled_at"] is None for each in rows] == [True, False, True]
    assert [{key: each[key] for key in found[0]} for each in rows] == found
    assert [(each["user"], each["attempt"], each["verdict"], each["code"]) for each in found] == [
        ("user_1", 1, "throttled", "RequestLimitExceeded"),
        ("user_0", 1, "done", None),
        ("user_1", 2, "done", None),
    ]
    assert found[0]["sent_at"].startswith("2026-")
    assert found[0]["message"] == "slow down"
