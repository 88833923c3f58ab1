"""What a run says at its end is true: whose change it was, what a later reading says, what no reading shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.api.codes import CHANGED_BACK, NOT_APPLIED
from engine.errors import Reason
from engine.journal import records
from engine.journal.reader import read, replay
from engine.model import AccountState, Fault, Outcome, Proof, Reading, Reply, Stage, Target, Transport, Where
from engine.planning.undo import Choice, Keep, recheck, undo_plan
from engine.report.documents import document
from engine.report.going import line
from engine.report.text import closing_line
from engine.run.runner import Runner
from engine.simulator.faults import rules_from
from engine.simulator.world import World
from tests.support.drill import Drill, fleet, run_settings
from tests.support.holds import owing

SICK = "postgres-00000000"
BUSY, LOST = "OperationDenied.InstanceStatusLimitOpError", "FailedOperation.DatabaseAccessError"


def world(*faults: dict[str, Any], latency: float = 0.1) -> World:
    return World(faults=rules_from(list(faults)), latency=latency)


def lines(drill: Drill, kind: type) -> list[Any]:
    return [each for each in read(drill.path) if isinstance(each, kind)]


def writes(it: World, action: str = "LockAccount") -> list[Any]:
    return [arrival for arrival in it.audit if arrival.action == action]


def now(it: World, *users: str) -> dict[Where, Reading]:
    """What DescribeAccounts would say now of accounts of the one instance."""
    states = {}
    for user in users:
        account = it.account(SICK, user)
        assert account is not None
        states[user] = AccountState(user=user, status=account.status, cam=account.cam)
    return {Where("", "ap-singapore", SICK): Reading(accounts=states)}


def end_of(drill: Drill) -> tuple[Outcome, Proof | None, str | None]:
    """Outcome, proof and code of the only call."""
    ((_, entry, outcome),) = drill.ledger.outcomes()
    return outcome, entry.proof, entry.code


def somebody(it: World, after: float, user: str = "user0", **state: Any) -> Callable[[Runner], Any]:
    """Somebody else sets an account's state, so many seconds after the run has begun."""

    async def act(_runner: Runner) -> None:
        await asyncio.sleep(after)
        account = it.account(SICK, user)
        assert account is not None
        for name, value in state.items():
            setattr(account, name, value)

    return act


class Edited:
    """A transport whose answers to DescribeAccounts are edited on their way."""

    def __init__(self, transport: Transport, edit: Callable[[dict[str, Any]], None]) -> None:
        self._transport = transport
        self._edit = edit

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        answer = await self._transport.send(endpoint, headers, body, timeout_s)
        if isinstance(answer, Reply) and headers["X-TC-Action"] == "DescribeAccounts":
            document_ = json.loads(answer.body)
            if "Details" in document_["Response"]:
                self._edit(document_["Response"])
            return Reply(status=answer.status, body=json.dumps(document_).encode(), date=answer.date)
        return answer

    async def get(self, url: str, timeout_s: float) -> Reply | Fault:
        return await self._transport.get(url, timeout_s)

    async def aclose(self) -> None:
        await self._transport.aclose()


class Stale:
    """A transport on which writes die, as on a kept-alive connection that nobody listens to any more."""

    def __init__(self, transport: Transport, is_dead: Callable[[int], bool]) -> None:
        self._transport = transport
        self._is_dead = is_dead
        self._writes = 0

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        if not headers["X-TC-Action"].startswith("Describe"):
            self._writes += 1
            if self._is_dead(self._writes):
                return Fault(
                    stage=Stage.AFTER_SEND,
                    code="Local.ConnectionReset",
                    message="broke off before an answer",
                    stale_connection=True,
                )
        return await self._transport.send(endpoint, headers, body, timeout_s)

    async def get(self, url: str, timeout_s: float) -> Reply | Fault:
        return await self._transport.get(url, timeout_s)

    async def aclose(self) -> None:
        await self._transport.aclose()


# ---- whose change it was -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "end"),
    [
        (BUSY, (Outcome.ALREADY, Proof.BEFORE)),
        ("RequestLimitExceeded", (Outcome.ALREADY, Proof.READ)),
        ("ResourceUnavailable", (Outcome.ALREADY, Proof.BEFORE)),
        ("FailedOperation.CamSigAndAuthError", (Outcome.ALREADY, Proof.READ)),
        ("InternalError", (Outcome.CHANGED, Proof.READ)),
        ("FailedOperation.FlowCreateError", (Outcome.CHANGED, Proof.READ)),
    ],
)
def test_it_is_our_change_only_after_a_try_that_may_have_been_applied(
    tmp_path: Path, refusal: str, end: tuple[Outcome, Proof]
) -> None:
    """Refused once, then somebody else turns CAM on: an undo must not turn it off in our name.

    A try that was refused before anything was done is no try of ours; one that failed at nobody knows which step is.
    """
    it = world({"action": "OpenAccountCAM", "code": refusal, "times": 1})
    drill = Drill(tmp_path, it, fleet(1, 1), action="OpenAccountCAM", during=somebody(it, 0.15, cam=True)).go()
    assert end_of(drill)[:2] == end
    undo = undo_plan(drill.ledger, now(it, "user0"), owing(drill.ledger), Choice())
    assert len(undo.plan.calls) == (end[0] is Outcome.CHANGED)


@pytest.mark.parametrize("after", [3.0, 8.0, 20.0])
def test_a_try_that_takes_effect_while_its_call_waits_for_the_next_is_our_change(tmp_path: Path, after: float) -> None:
    """The API says that something failed inside, and locks the account some seconds later: an undo must unlock it."""
    it = world({"action": "LockAccount", "code": "InternalError", "times": 7})
    drill = Drill(tmp_path, it, fleet(1, 1), during=somebody(it, after, status=5)).go()
    assert (drill.reason, end_of(drill)[:2]) == (Reason.OK, (Outcome.CHANGED, Proof.READ))
    assert len(undo_plan(drill.ledger, now(it, "user0"), owing(drill.ledger), Choice()).plan.calls) == 1


def test_already_is_no_proof_while_no_reading_shows_it(tmp_path: Path) -> None:
    """An answer of another account's, or a wrong one: the account would be called protected, and is not."""
    it = world({"action": "OpenAccountCAM", "code": "FailedOperation.CheckAccountCAMCloseError", "times": 1})
    drill = Drill(tmp_path, it, fleet(1, 1), action="OpenAccountCAM").go()
    assert len(writes(it, "OpenAccountCAM")) == 2
    account = it.account(SICK, "user0")
    assert account is not None
    assert (account.cam, drill.reason, end_of(drill)[:2]) == (True, Reason.OK, (Outcome.CHANGED, Proof.READ))


def test_already_without_reading_back_is_what_the_api_says(tmp_path: Path) -> None:
    """`--no-verify` says so in its proof."""
    it = world({"action": "OpenAccountCAM", "code": "FailedOperation.CheckAccountCAMCloseError", "times": 1})
    drill = Drill(tmp_path, it, fleet(1, 1), action="OpenAccountCAM", settings=run_settings(verify=False)).go()
    assert end_of(drill)[:2] == (Outcome.ALREADY, Proof.CODE)


def test_without_reading_back_an_echo_is_accepted_and_not_read(tmp_path: Path) -> None:
    """`--no-verify` says so in its proof, and never `code`."""
    it = world({"action": "OpenAccountCAM", "code": "InternalError", "apply": True, "times": 1})
    drill = Drill(tmp_path, it, fleet(1, 1), action="OpenAccountCAM", settings=run_settings(verify=False)).go()
    assert end_of(drill)[:2] == (Outcome.CHANGED, Proof.ACCEPTED)


def test_a_try_that_was_applied_all_the_same_is_no_failure(tmp_path: Path) -> None:
    """Every try is answered with an error, and the first one locked the account: changed, by a reading."""
    drill = Drill(tmp_path, world({"action": "LockAccount", "code": "DBError", "apply": True}), fleet(1, 1)).go()
    assert (drill.reason, end_of(drill)) == (Reason.OK, (Outcome.CHANGED, Proof.READ, None))


# ---- once in doubt -------------------------------------------------------------------------------------------------

LATE = {"action": "LockAccount", "hang": True, "apply": True, "apply_after": 60, "user": "user0", "times": 1}
"""In doubt after 10 s, read as not done, and done a minute later all the same."""


@pytest.mark.parametrize(
    ("refusal", "end"),
    [
        (LOST, (Outcome.CHANGED, Proof.READ, None)),
        ("InvalidParameter.ParameterCheckError", (Outcome.FAILED, None, "InvalidParameter.ParameterCheckError")),
        ("OperationDenied.CamDeniedError", (Outcome.FAILED, None, "OperationDenied.CamDeniedError")),
    ],
    ids=["until the budget ends", "rejected", "denied"],
)
def test_a_doubtful_call_fails_by_the_last_reading_only(
    tmp_path: Path, refusal: str, end: tuple[Outcome, Proof | None, str | None]
) -> None:
    """Read too early as not done, and then refused: without a last reading an undo would leave it locked for ever.

    Refused for good it ends in seconds, before the write takes effect; retried for two minutes it ends after that.
    """
    it = world(LATE, {"action": "LockAccount", "code": refusal})
    drill = Drill(tmp_path, it, fleet(1, 1)).go()
    assert end_of(drill) == end
    assert lines(drill, records.Read)[-1].purpose == "end"


def test_a_late_effect_is_found_while_others_still_go(tmp_path: Path) -> None:
    """The refusal came in the first seconds, the effect after a minute: the session's end is what counts."""
    it = world(
        LATE,
        {"action": "LockAccount", "user": "user0", "code": "InvalidParameter.ParameterCheckError"},
        {"action": "LockAccount", "user": "user1", "code": LOST},
    )
    targets = [*fleet(1, 1), Target("postgres-00000001", "user1", "ap-singapore")]
    drill = Drill(tmp_path, it, targets).go()
    assert drill.outcomes() == {f"{SICK}/user0": "changed", "postgres-00000001/user1": "failed"}
    settled = [each.call for each in lines(drill, records.Settled)]
    assert len(settled) == len(set(settled)) == 2


def test_a_doubt_that_cannot_be_read_at_the_end_stays_unknown_and_a_resume_settles_it(tmp_path: Path) -> None:
    """A guess would be final. Unsettled it is read by the next session, and sent no further time."""
    it = world(
        {"action": "LockAccount", "hang": True, "apply": False, "times": 1},
        {"action": "LockAccount", "code": "InvalidParameter.ParameterCheckError"},
        {"action": "DescribeAccounts", "after": 2, "times": 1, "code": "UnauthorizedOperation"},
    )
    drill = Drill(tmp_path, it, fleet(1, 1)).go()
    assert (drill.reason, end_of(drill)[0]) == (Reason.INCOMPLETE, Outcome.UNKNOWN)
    sent = len(writes(it))
    drill.go()
    assert end_of(drill) == (Outcome.FAILED, None, "InvalidParameter.ParameterCheckError")
    assert len(writes(it)) == sent == 2


def test_a_drain_bounds_the_last_reading(tmp_path: Path) -> None:
    """Who stops a run waits ten seconds for its readings, whatever is in doubt."""
    it = world(
        {"action": "LockAccount", "hang": True, "apply": False, "times": 1},
        {"action": "LockAccount", "code": "InvalidParameter.ParameterCheckError"},
        {"action": "DescribeAccounts", "after": 2, "slow": 9},
    )

    async def stop(runner: Runner) -> None:
        await asyncio.sleep(12)
        runner.stop("enough", Reason.STOPPED)

    drill = Drill(tmp_path, it, fleet(1, 1), during=stop, settings=run_settings(timeout_s=8.0)).go()
    assert drill.seconds < 12 + 10.5
    assert end_of(drill)[0] is Outcome.UNKNOWN


def test_a_refused_call_without_doubt_costs_no_last_reading(tmp_path: Path) -> None:
    """One reading an instance each way, when nothing is in doubt."""
    it = world({"action": "LockAccount", "code": "InvalidParameter.ParameterCheckError", "user": "user0"})
    drill = Drill(tmp_path, it, fleet(1, 3)).go()
    assert [each.purpose for each in lines(drill, records.Read)] == ["before", "after"]


# ---- the newest reading --------------------------------------------------------------------------------------------

REREAD = {"action": "LockAccount", "user": "user1", "apply_after": 20, "times": 1}
"""So the instance is read again and again for a while, after user0 is proven."""


def test_what_a_later_reading_shows_changed_back_is_named(tmp_path: Path) -> None:
    """Proven locked, and the run itself reads it unlocked a moment later: it must not say "verified locked"."""
    it = world(REREAD)
    drill = Drill(tmp_path, it, fleet(1, 2), during=somebody(it, 5, status=2)).go()
    assert (drill.reason, drill.outcomes()) == (
        Reason.INCOMPLETE,
        {f"{SICK}/user0": "failed", f"{SICK}/user1": "changed"},
    )
    told = document(drill.ledger, journal="", head="")
    assert (told["counts"]["changed"], told["counts"]["failed"], told["exit"]) == (1, 1, 1)
    assert told["verified"] == {"agree": 1, "disagree": 1, "unread": 0}
    assert [(each["user"], each["code"]) for each in told["failures"]] == [("user0", CHANGED_BACK)]
    words = closing_line(drill.ledger)
    assert words.startswith("1 of 2 verified locked at ") and "1 of these was proven, and then read as changed" in words
    records_of = [each.kind for each in _of(drill, "user0")]
    assert records_of[-3:] == ["Verified", "Settled", "Verified"]


def _of(drill: Drill, user: str) -> list[Any]:
    call = next(call.id for call in drill.ledger.calls.values() if call.user == user)
    found = [each for each in read(drill.path) if getattr(each, "call", None) == call]
    return [type("Kind", (), {"kind": type(each).__name__}) for each in found]


def test_a_replay_says_the_same_and_a_resume_does_not_send_it_again(tmp_path: Path) -> None:
    """`settled` is final: what was changed back is for a rerun, which asks first."""
    it = world(REREAD)
    drill = Drill(tmp_path, it, fleet(1, 2), during=somebody(it, 5, status=2)).go()
    again = replay(drill.path).ledger
    assert again.counts() == drill.ledger.counts()
    sent = len(writes(it))
    drill.during = None
    drill.go()
    assert (len(writes(it)), drill.reason) == (sent, Reason.INCOMPLETE)
    assert drill.outcomes()[f"{SICK}/user0"] == "failed", "the resume has looked again"


def test_changed_back_and_done_again_is_done_and_not_ours_to_undo(tmp_path: Path) -> None:
    """The newest reading counts for the report; the lock that stands now is somebody else's."""

    async def twice(runner: Runner) -> None:
        await somebody(it, 5, status=2)(runner)
        await somebody(it, 5, status=5)(runner)

    it = world(REREAD)
    drill = Drill(tmp_path, it, fleet(1, 2), during=twice).go()
    assert (drill.reason, set(drill.outcomes().values())) == (Reason.OK, {"changed"})
    undo = undo_plan(drill.ledger, now(it, "user0", "user1"), owing(drill.ledger), Choice())
    assert [(kept.call.user, kept.why) for kept in undo.kept] == [("user0", Keep.CHANGED_SINCE)]


def test_a_row_that_is_older_than_the_proof_says_nothing(tmp_path: Path) -> None:
    """Readings may come from a copy that is behind: that is no change back."""
    answers: list[int] = []

    def behind(response: dict[str, Any]) -> None:
        answers.append(len(answers))
        for row in response["Details"]:
            if row["UserName"] == "user0" and len(answers) > 2:  # one before, one that proves it
                row |= {"Status": 2, "UpdateTime": "2001-01-01 00:00:00"}

    drill = Drill(tmp_path, world(REREAD), fleet(1, 2), transport=lambda inner: Edited(inner, behind)).go()
    assert len(answers) > 5
    assert (drill.reason, set(drill.outcomes().values())) == (Reason.OK, {"changed"})
    assert len(lines(drill, records.Verified)) == 2


def test_what_was_so_before_is_watched_as_well(tmp_path: Path) -> None:
    """Found locked, and unlocked by somebody while the run goes: it is no longer so, whoever had locked it."""
    it = world(REREAD)
    it.seed(SICK, "ap-singapore", ["user0"], status=5)
    drill = Drill(tmp_path, it, fleet(1, 2), during=somebody(it, 5, status=2)).go()
    assert (drill.reason, drill.outcomes()[f"{SICK}/user0"]) == (Reason.INCOMPLETE, "failed")


def test_the_time_said_is_that_of_the_proofs(tmp_path: Path) -> None:
    """A run that waits ten minutes for a sick instance has proven the others ten minutes ago, and says so."""
    it = world({"action": "LockAccount", "instance": SICK, "code": BUSY})
    drill = Drill(tmp_path, it, fleet(2, 2), settings=run_settings(busy_s=400)).go()
    proofs = drill.ledger.proof_times()
    assert proofs is not None and drill.ledger.end is not None
    assert records.unix_seconds(drill.ledger.end.at) - records.unix_seconds(proofs[1]) > 300
    assert f"2 of 4 verified locked at {proofs[1][11:19]}Z;" in closing_line(drill.ledger, today=proofs[1][:10])
    assert f" at {proofs[1][:10]} {proofs[1][11:19]}Z;" in closing_line(drill.ledger, today="2031-01-01")


# ---- what no reading shows -----------------------------------------------------------------------------------------


def _hide(response: dict[str, Any]) -> None:
    response["Details"] = [row for row in response["Details"] if row["UserName"] != "user0"]
    response["TotalCount"] = 3


def _mumble(response: dict[str, Any]) -> None:
    for row in response["Details"]:
        row["Status"] = 77 if row["UserName"] == "user0" else row["Status"]


def _leave_out(response: dict[str, Any]) -> None:
    for row in response["Details"]:
        row.pop("OpenCam", None)


@pytest.mark.parametrize(
    ("action", "edit"),
    [("LockAccount", _hide), ("LockAccount", _mumble), ("OpenAccountCAM", _leave_out)],
    ids=["not whole", "not documented", "left out"],
)
def test_what_the_readings_do_not_show_is_unknown_and_not_sent_again(
    tmp_path: Path, action: str, edit: Callable[[dict[str, Any]], None]
) -> None:
    """Missing evidence is no evidence against: accepted, and neither sent three times nor "read back as not so"."""
    it = world()
    it.seed(SICK, "ap-singapore", ["other"])
    drill = Drill(tmp_path, it, fleet(1, 1), action=action, transport=lambda inner: Edited(inner, edit)).go()
    assert (drill.reason, end_of(drill)) == (Reason.INCOMPLETE, (Outcome.UNKNOWN, None, None))
    assert len(writes(it, action)) == 1
    assert not [each for each in lines(drill, records.Verified) if not each.agrees]
    assert drill.seconds < 140
    drill.transport = None
    assert end_of(drill.go())[:2] == (Outcome.CHANGED, Proof.READ), "a resume reads it"
    assert len(writes(it, action)) == 1


def test_a_refusal_that_no_reading_explains_says_so(tmp_path: Path) -> None:
    """PreCheckError may mean "locked already": the words say that nobody could look."""
    it = world({"action": "LockAccount", "code": "FailedOperation.PreCheckError"})
    it.seed(SICK, "ap-singapore", ["other"])
    drill = Drill(tmp_path, it, fleet(1, 1), transport=lambda inner: Edited(inner, _hide)).go()
    ((_, entry, outcome),) = drill.ledger.outcomes()
    assert outcome is Outcome.FAILED and "does not show how the account stands" in (entry.message or "")


def test_what_is_read_back_as_not_so_is_still_failed(tmp_path: Path) -> None:
    """A whole reading with a documented state is evidence."""
    drill = Drill(tmp_path, world({"action": "LockAccount", "accepted_not_applied": True}), fleet(1, 1)).go()
    assert end_of(drill) == (Outcome.FAILED, None, NOT_APPLIED)


# ---- a dead connection ---------------------------------------------------------------------------------------------


def test_a_dead_connection_costs_neither_the_instance_nor_the_call(tmp_path: Path) -> None:
    """Every second write is lost on a reused connection: read, and sent again at once on a new one."""
    drill = Drill(
        tmp_path, world(), fleet(1, 40), transport=lambda inner: Stale(inner, lambda number: number % 2 == 0)
    ).go()
    assert (drill.reason, set(drill.outcomes().values())) == (Reason.OK, {"changed"})
    assert drill.seconds < 6, "79 writes at 20 a second: nothing was held back"
    assert not drill.runner.progress().waits


def test_a_connection_that_is_always_dead_ends_in_words(tmp_path: Path) -> None:
    """At once three times, then as any other fault: a call is not sent for ever."""
    drill = Drill(
        tmp_path,
        world(),
        fleet(1, 1),
        transport=lambda inner: Stale(inner, lambda _number: True),
        settings=run_settings(transient_s=20.0),
    ).go()
    assert end_of(drill)[0] is Outcome.FAILED
    assert 4 <= drill.ledger.attempts < 40


# ---- progress ------------------------------------------------------------------------------------------------------


def test_progress_says_what_waits_for_its_proof_and_how_far_the_readings_are_behind(tmp_path: Path) -> None:
    """Accepted is not done: 0 verified with the reason, and not 2 for a minute without a word."""
    it = world({"action": "LockAccount", "apply_after": 25}, latency=1.0)
    seen: list[str] = []

    async def look(runner: Runner) -> None:
        for _ in range(2):
            await asyncio.sleep(2.5 if not seen else 20)
            seen.append(line(runner.progress()))

    drill = Drill(tmp_path, it, fleet(1, 2), during=look).go()
    assert drill.reason is Reason.OK
    assert seen[0].startswith("locked 0 · sent 2 of 2 · accepted and to be read back 2 · ")
    assert seen[1].startswith("locked 0 · sent 2 of 2 · accepted and to be read back 2, readings 20 s behind · ")


# ---- verify --------------------------------------------------------------------------------------------------------


def test_verify_knows_what_was_never_done(tmp_path: Path) -> None:
    """`2 of 2 still locked` of a run that failed with a third would be a lie; locked by now, it is as asked."""
    it = world({"action": "LockAccount", "user": "user2", "code": "InvalidParameter.ParameterCheckError"})
    drill = Drill(tmp_path, it, fleet(1, 3)).go()
    everyone = ("user0", "user1", "user2")
    found = recheck(drill.ledger, now(it, *everyone))
    assert (found.agree, [call.user for call in found.never], found.since) == (2, ["user2"], 0)
    assert [call.user for call in recheck(drill.ledger, {}).never] == ["user2"], "unread it is no better"
    it.account(SICK, "user2").status = 5  # type: ignore[union-attr]
    found = recheck(drill.ledger, now(it, *everyone))
    assert (found.agree, found.never, found.since) == (2, (), 1)
