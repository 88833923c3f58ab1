"""What is known of a run, folded from its records."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from engine.api.actions import ACTIONS
from engine.api.codes import ALL_CODES
from engine.journal import records
from engine.journal.ledger import Ledger, PaceMeter, lacking_code
from engine.journal.records import AnyRecord
from engine.model import LACKING, CallId, OmitReason, Outcome, Proof, Verdict
from tests.support.journals import (
    LANE,
    NOW,
    before,
    call_id,
    end,
    left_out,
    plan,
    reply,
    sent,
    session,
    settings,
    settled,
    story,
    verified,
)

NO_BYTES = {"code": "Local.Connect", "sent_at": None, "request_id": None, "http": None}
U, F, N, C = Outcome.UNKNOWN, Outcome.FAILED, Outcome.UNATTEMPTED, Outcome.CHANGED


@pytest.mark.parametrize(
    ("story", "outcome"),
    [
        # never sent, or only throttled, fatal, not sent: unattempted
        ([], N),
        ([before(0)], N),
        ([sent(0), reply(0, Verdict.THROTTLED)], N),
        ([sent(0), reply(0, Verdict.FATAL)], N),
        ([sent(0), reply(0, Verdict.TRANSIENT, **NO_BYTES)], N),
        ([sent(0), reply(0, Verdict.THROTTLED), sent(0, 2), reply(0, Verdict.FATAL, 2)], N),
        # last reply transient: failed
        ([sent(0), reply(0, Verdict.TRANSIENT, code="InternalError")], F),
        ([sent(0), reply(0, Verdict.TRANSIENT), sent(0, 2), reply(0, Verdict.THROTTLED, 2)], F),
        ([sent(0), reply(0, Verdict.REJECTED)], F),
        # unanswered, in doubt, or done and unread: unknown
        ([sent(0)], U),
        ([sent(0), reply(0, Verdict.THROTTLED), sent(0, 2)], U),
        ([sent(0), reply(0, Verdict.IN_DOUBT)], U),
        ([sent(0), reply(0, Verdict.IN_DOUBT), sent(0, 2), reply(0, Verdict.THROTTLED, 2)], U),
        ([sent(0), reply(0, Verdict.DONE)], U),
        ([sent(0), reply(0, Verdict.ALREADY)], U),
        # a reading that denies it may have come too early: only a settled record says that it failed
        ([sent(0), reply(0, Verdict.IN_DOUBT), verified(0, agrees=False)], U),
        ([sent(0), verified(0, agrees=False), sent(0, 2), reply(0, Verdict.TRANSIENT, 2, **NO_BYTES)], U),
        ([sent(0), reply(0, Verdict.IN_DOUBT), verified(0, agrees=False), settled(0, F, proof=None)], F),
        ([sent(0), reply(0, Verdict.DONE), verified(0)], U),
        # settled: final
        ([sent(0), reply(0), verified(0), settled(0)], C),
        ([sent(0), reply(0, Verdict.IN_DOUBT), settled(0, U, proof=None)], U),
        ([settled(0, Outcome.ALREADY, proof=Proof.BEFORE, attempts=0, request_id=None)], Outcome.ALREADY),
        # a later reading of the same run: the newest has the last word
        ([sent(0), reply(0), verified(0), settled(0), verified(0, agrees=False)], F),
        ([settled(0, Outcome.ALREADY, proof=Proof.BEFORE), verified(0, agrees=False)], F),
        ([sent(0), reply(0), verified(0), settled(0), verified(0, agrees=False), verified(0)], C),
        ([sent(0), reply(0), verified(0), settled(0), verified(0)], C),
        ([sent(0), reply(0, Verdict.REJECTED), settled(0, F, proof=None), verified(0, agrees=False)], F),
    ],
)
def test_the_outcome_as_it_stands(story: list[AnyRecord], outcome: Outcome) -> None:
    """Design §4, "Unsettled at the end": what a crash leaves is never reported better than it is known to be."""
    # A record of the table may have been used by another test run: the fold changes none.
    ledger = Ledger.of([*plan(2), *story])
    assert ledger.entry(call_id(0)).derived() is outcome
    counts = ledger.counts()
    assert counts == {str(which): (which is outcome) + (which is N) for which in Outcome}
    assert [(call.id, found) for call, _, found in ledger.outcomes()] == [(call_id(0), outcome), (call_id(1), N)]


@pytest.mark.parametrize(
    ("story", "needs"),
    [
        ([], False),
        ([sent(0)], True),
        ([sent(0), reply(0, Verdict.IN_DOUBT)], True),
        ([sent(0), reply(0, Verdict.IN_DOUBT), sent(0, 2), reply(0, Verdict.THROTTLED, 2)], True),
        ([sent(0), reply(0, Verdict.IN_DOUBT), verified(0, agrees=False)], True),
        ([sent(0), reply(0, Verdict.DONE)], True),
        ([sent(0), reply(0, Verdict.ALREADY)], True),
        ([sent(0), reply(0, Verdict.REJECTED)], True),
        ([sent(0), reply(0, Verdict.THROTTLED)], False),
        ([sent(0), reply(0, Verdict.TRANSIENT)], False),
        ([sent(0), reply(0, Verdict.DONE), settled(0)], False),
    ],
)
def test_what_a_resume_must_not_simply_send_again(story: list[AnyRecord], needs: bool) -> None:
    """Design §4, "Resume": what may have been applied is judged first."""
    assert Ledger.of([*plan(1), *story]).entry(call_id(0)).needs_reading is needs


def test_a_call_that_a_resume_left_out_is_no_call_any_more() -> None:
    """Counted among the left out, in its place of the plan no gap."""
    ledger = Ledger.of([*plan(3), before(1), settled(2), session(), left_out(1), left_out(99)])
    assert [(call.id, outcome) for call, _, outcome in ledger.outcomes()] == [(call_id(0), N), (call_id(2), C)]
    assert ledger.counts() == {"changed": 1, "already": 0, "failed": 0, "unknown": 0, "unattempted": 1}
    assert ledger.left_out()["excluded"] == 2


VERDICTS = st.sampled_from(Verdict)


@st.composite
def histories(draw: st.DrawFn) -> list[AnyRecord]:
    """Any interleaving of plausible records of a few calls."""
    numbers = st.integers(0, 4)
    step = st.one_of(
        st.builds(sent, numbers, st.integers(1, 4)),
        st.builds(reply, numbers, VERDICTS, code=st.sampled_from([None, "InternalError", "Local.Connect"])),
        st.builds(lambda number, agrees: verified(number, agrees=agrees), numbers, st.booleans()),
        st.builds(before, numbers),
        st.builds(settled, numbers, st.sampled_from(Outcome)),
    )
    history: list[AnyRecord] = []
    done: set[CallId] = set()
    for record in draw(st.lists(step, max_size=30)):
        if isinstance(record, records.Settled):
            if record.call in done:
                continue  # J3
            done.add(record.call)
        history.append(record)
    return history


@hypothesis_settings(deadline=None)
@given(history=histories())
def test_counts_are_those_of_the_outcomes_one_by_one(history: list[AnyRecord]) -> None:
    """The cheap count of a progress line and the slow one of a report agree, and add up to the plan."""
    ledger = Ledger.of([*plan(5), *history])
    slow = Counter(str(outcome) for _, _, outcome in ledger.outcomes())
    assert ledger.counts() == {str(outcome): slow[outcome] for outcome in Outcome}
    assert sum(ledger.counts().values()) == 5
    done = Counter(entry.outcome for _, entry, _ in ledger.outcomes() if entry.settled)
    assert dict(ledger.settled_counts()) == {outcome: done[outcome] for outcome in Outcome}


@hypothesis_settings(deadline=None)
@given(history=histories())
def test_no_attempt_that_may_have_been_applied_is_called_unattempted(history: list[AnyRecord]) -> None:
    """The one error that would make an operator believe nothing happened."""
    ledger = Ledger.of([*plan(5), *history])
    for _, entry, outcome in ledger.outcomes():
        if not entry.settled and (entry.unanswered or entry.doubt or entry.spent):
            assert outcome is not N


def test_an_entry_keeps_what_the_last_attempt_said() -> None:
    """The last RequestId the server gave survives a reply without one; the settling one wins."""
    ledger = Ledger.of(
        [
            *plan(1),
            before(0),
            sent(0),
            reply(0, Verdict.TRANSIENT, code="InternalError", message="later"),
            sent(0, 2),
            reply(0, Verdict.TRANSIENT, 2, **NO_BYTES, message="refused"),
        ]
    )
    entry = ledger.entry(call_id(0))
    assert (entry.request_id, entry.code, entry.message) == ("request-0-1", "Local.Connect", "refused")
    assert (entry.attempts, entry.spent, entry.settled) == (2, True, False)
    assert entry.before is not None
    assert entry.before.cam is False
    assert (ledger.attempts, ledger.throttled) == (2, 0)
    ledger.apply(settled(0, F, proof=None, request_id=None, code="Local.Connect"))
    assert (entry.request_id, entry.message, entry.settled) == ("request-0-1", "refused", True)
    ledger.apply(settled(0, F, request_id="request-9", message="gave up"))
    assert (entry.request_id, entry.message) == ("request-9", "gave up")
    assert ledger.settled_counts()[F] == 1


def test_times_are_those_of_the_records() -> None:
    """First send, settling and last line; a record without a time changes none."""
    first = sent(0)
    first.at = "2026-01-01T00:00:00.000Z"
    second = sent(0, 2)
    second.at = "2026-01-01T00:00:01.000Z"
    last = settled(0)
    last.at = "2026-01-01T00:00:02.000Z"
    ledger = Ledger.of([*plan(1), first, second, last, end()])
    entry = ledger.entry(call_id(0))
    assert (entry.first_sent_at, entry.settled_at, ledger.last_at) == (first.at, last.at, last.at)


def test_a_call_nothing_happened_to_costs_nothing() -> None:
    """A million of them share one fresh entry."""
    ledger = Ledger.of(plan(3))
    assert ledger.entry(call_id(0)) is ledger.entry(call_id(2))
    assert ledger.entry(CallId("nobody")).derived() is N


def test_the_run_as_a_whole() -> None:
    """Run, plan, omits, sessions, notes, links and the last end."""
    records_ = story(6)
    ledger = Ledger.of(records_)
    assert ledger.run is records_[0]
    assert list(ledger.calls) == [call_id(number) for number in range(6)]
    assert ledger.calls[call_id(5)].label == "postgres-00000001/user_1"
    assert ledger.confirmed is not None
    assert [found.verb for found in ledger.sessions] == ["resume", "resume"]
    assert [note.what for note in ledger.notes] == ["signal"]
    assert [link.is_undo for link in ledger.links] == [True]
    assert ledger.end is records_[-1]
    assert ledger.throttled == 2
    assert ledger.attempts == sum(isinstance(record, records.Sent) for record in records_)
    assert ledger.counts() == {"changed": 4, "already": 0, "failed": 2, "unknown": 0, "unattempted": 0}


def test_left_out_targets_are_counted_by_reason() -> None:
    """Every reason named; one this version does not know is counted too."""
    fields: dict[str, Any] = {"account": "", "region": "r", "instance": "i", "user": "u", "rule": "", "where": ""}
    ledger = Ledger.of(
        [*plan(0), *(records.OmitLine(reason=reason, **fields) for reason in ("protected", "protected", "new"))]
    )
    assert ledger.left_out() == {
        "protected": 2,
        "excluded": 0,
        "duplicate": 0,
        "reserved": 0,
        "later": 0,
        "skipped": 0,
        "unseen": 0,
        "bad_row": 0,
        "rerun": 0,
        "dropped": 0,
        "before_unknown": 0,
        "edited": 0,
        "gone": 0,
        "held": 0,
        "unproven": 0,
        "new": 1,
    }


def test_settings_in_force_are_those_of_the_last_session_that_changed_them() -> None:
    """A resume without flags keeps what the resume before it set."""
    ledger = Ledger.of(plan(1))
    assert ledger.settings.rate == 20.0
    ledger.apply(session(settings=settings(10.0)))
    ledger.apply(session())
    assert ledger.settings.rate == 10.0


def test_the_worst_second_is_of_what_left_by_lane() -> None:
    """Attempts of which no byte left, and replies nobody sent for, do not count."""
    other = sent(7)
    other.lane = "other"
    history: list[AnyRecord] = [reply(99)]
    for number in range(30):
        history += [sent(number), reply(number)]  # 20 a second
    history += [sent(30), reply(30, Verdict.TRANSIENT, **NO_BYTES), other, reply(7)]
    ledger = Ledger.of([*plan(31), *history])
    assert ledger.worst_second() == {LANE: 20, "other": 1}
    assert ledger.worst_second() == {LANE: 20, "other": 1}


def worst_by_force(times: list[float]) -> int:
    return max((sum(at - 1.0 < other <= at for other in times) for at in times), default=0)


# On a grid of 1/16 s, so that the edge of the window is exact.
TIMES = st.lists(st.integers(0, 16 * 60).map(lambda tick: NOW + tick / 16), max_size=60)


@hypothesis_settings(deadline=None)
@given(times=TIMES, asked=st.sets(st.integers(0, 59)))
def test_the_pace_meter_agrees_with_counting(times: list[float], asked: set[int]) -> None:
    """Whatever the order of arrival within the horizon, and however often it is asked on the way."""
    meter = PaceMeter()
    for number, at in enumerate(times):
        meter.add(at)
        if number in asked:
            assert meter.worst() == worst_by_force(times[: number + 1])
    assert meter.worst() == worst_by_force(times)


@pytest.mark.parametrize("rate", [1, 20, 200])
def test_the_pace_meter_holds_only_its_horizon(rate: int) -> None:
    """Minutes of sends, late by up to one, counted rightly in bounded memory."""
    rng = random.Random(rate)
    arrivals = sorted((number / rate + rng.random() * 60, NOW + number / rate) for number in range(300 * rate))
    meter = PaceMeter()
    for _, at in arrivals:
        meter.add(at)
        assert len(meter._late) <= rate * (PaceMeter.HORIZON_S + 1) + 2
    assert meter.worst() == rate


def test_a_clock_that_was_set_back_does_not_make_the_pace_meter_slow() -> None:
    """A session an hour before the one before it: a report of its journal takes a second, not minutes."""

    class Counted(float):
        compared = 0

        def __gt__(self, other: float) -> bool:
            Counted.compared += 1
            return float.__gt__(self, other)

        def __lt__(self, other: float) -> bool:
            Counted.compared += 1
            return float.__lt__(self, other)

    meter = PaceMeter()
    for number in range(2400):
        meter.add(Counted(NOW + number / 20))
    for number in range(1000):
        meter.add(Counted(NOW - 3600 + number / 20))
    assert Counted.compared < 100_000
    assert meter.worst() == 20


@pytest.mark.parametrize(
    ("action", "line", "was"),
    [
        ("LockAccount", None, False),
        ("LockAccount", {"status": None}, False),
        ("LockAccount", {"status": 5}, True),
        ("LockAccount", {"status": 2}, False),
        ("UnlockAccount", {"status": 2}, True),
        ("OpenAccountCAM", {"status": 2, "cam": True}, True),
        ("OpenAccountCAM", {"status": 2, "cam": None}, False),
        ("RefreshAccountPassword", {"status": 2, "cam": True}, False),
    ],
)
def test_whether_an_account_was_so_before(action: str, line: dict[str, Any] | None, was: bool) -> None:
    """Only a reading before the first send says so; not knowing is not knowing."""
    ledger = Ledger.of(plan(1))
    if line is not None:
        record = before(0)
        for name, value in line.items():
            setattr(record, name, value)
        ledger.apply(record)
    assert ledger.entry(call_id(0)).was_desired(ACTIONS[action]) is was


@pytest.mark.parametrize(
    ("story", "is_unsent"),
    [
        ([], True),
        ([before(0)], True),
        ([sent(0), reply(0, Verdict.THROTTLED)], True),
        ([sent(0), reply(0, Verdict.FATAL)], True),
        ([sent(0), reply(0, Verdict.TRANSIENT, **NO_BYTES)], True),
        ([sent(0)], False),
        ([sent(0), reply(0)], False),
        ([sent(0), reply(0, Verdict.TRANSIENT)], False),
        ([sent(0), reply(0, Verdict.IN_DOUBT)], False),
        # a reading may have come too early: the request may still take effect
        ([sent(0), verified(0, agrees=False)], False),
        ([sent(0), reply(0, Verdict.IN_DOUBT), verified(0, agrees=False)], False),
        ([settled(0)], False),
    ],
)
def test_what_may_have_reached_the_server_is_not_read_as_before(story: list[AnyRecord], is_unsent: bool) -> None:
    """Its `before` is what it was before the run: read later, our own change would look like somebody else's."""
    assert Ledger.of([*plan(1), *story]).entry(call_id(0)).is_unsent is is_unsent


def test_a_lane_without_an_answer_has_no_pace() -> None:
    """Sent and lost: counted as sent, not as accepted; two accepted at one moment are no rate either."""
    ledger = Ledger.of([*plan(1), sent(0), reply(0, Verdict.IN_DOUBT, http=None)])
    lane = ledger.lanes[LANE]
    assert (lane.sent, lane.accepted, lane.throttled, lane.per_second()) == (1, 0, 0, None)
    for number in (0, 0, 20):
        ledger.apply(sent(0))
        ledger.apply(reply(0, sent_at=records.rfc3339(NOW + number, digits=6)))
        assert (lane.per_second() is None) is (number == 0)
    assert lane.per_second() == pytest.approx(2 / 20)


def test_the_guard_of_a_lane_is_that_of_its_last_change_of_gear() -> None:
    """A lane that never changed has none to tell."""
    ledger = Ledger.of([*plan(1), sent(0), reply(0)])
    assert ledger.lanes[LANE].guard is None
    for what, guard in (("lane_slowed", 0.07), ("lane_recovered", 0.05)):
        ledger.apply(records.Note(what=what, data={"lane": LANE, "guard": guard}))
        assert ledger.lanes[LANE].guard == guard
    assert [note.what for note in ledger.notes] == ["lane_slowed", "lane_recovered"]


def test_an_intent_that_never_left_is_no_attempt() -> None:
    """The run was stopped between its `sent` and its slot."""
    not_sent = NO_BYTES | {"code": "Local.NotSent"}
    ledger = Ledger.of([*plan(1), sent(0), reply(0, Verdict.TRANSIENT, **not_sent)])
    assert ledger.attempts == 0
    assert ledger.entry(call_id(0)).derived() is N


def test_every_reason_of_what_is_lacking_has_a_row_in_the_table_of_codes() -> None:
    """A report explains it by its code: one without a row would be judged by its looks."""
    assert {lacking_code(reason) for reason in LACKING} <= set(ALL_CODES)
    assert lacking_code(OmitReason.BAD_ROW) == "Local.BadRow"
