"""The end of a call: its final outcome is written, then the session sees whether the run should stop for it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from engine.errors import Reason
from engine.journal import records
from engine.model import AccountState, Answer, Call, Outcome, Proof, Reading, Where
from engine.planning.outlook import shown
from engine.run.decide import Decision, Question, Then, decide_disproved, decide_proved, decide_read, settle_failed
from engine.run.lanes import Lanes
from engine.run.looks import Looks
from engine.run.proofs import Proofs
from engine.run.recorder import Recorder
from engine.run.stopping import Stopping
from engine.run.work import Work

if TYPE_CHECKING:
    from engine.journal.ledger import Ledger

SAME_CODE_CALLS = 20
SAME_CODE_INSTANCES = 3
"""When the first 20 settled calls over 3 instances all failed with one code, the cause is not in the targets."""


class OneCause:
    """Watches whether the first calls of an account all fail alike: then the cause is not in the targets."""

    def __init__(self, ledger: Ledger) -> None:
        """Watch nothing in a run that has settled calls already."""
        self._first: dict[str, list[tuple[str | None, str]] | None] = {}
        """Account → code and instance of its first settled calls, as long as all failed with one code; then None."""
        if any(ledger.settled_counts().values()):
            self._first = dict.fromkeys({call.account for call in ledger.calls.values()})

    def taken(self, call: Call) -> None:
        """Take note that the API took a call of an account: not all of its calls fail alike."""
        self._first[call.account] = None

    def settled(self, outcome: Outcome, call: Call, code: str | None) -> str | None:
        """Take note of an outcome; return in words why no more calls of its account should be sent, if so."""
        first = self._first.setdefault(call.account, [])
        if first is None:
            return None
        if outcome is not Outcome.FAILED or (first and first[0][0] != code):
            self._first[call.account] = None
            return None
        first.append((code, call.instance))
        instances = {instance for _, instance in first}
        if len(first) < SAME_CODE_CALLS or len(instances) < SAME_CODE_INSTANCES:
            return None
        whose = f" of {call.account}" if call.account else ""
        return (
            f"the first {len(first)} calls{whose}, on {len(instances)} instances, all failed with {code}: "
            "look at the region, the permission or the list"
        )


class _Parked(Struct, frozen=True):
    """A call that is not sent again, and that only the last reading of the session may settle as failed."""

    work: Work
    answer: Answer
    words: str | None


class Settling:
    """The part of a session that writes outcomes. Calls in doubt wait here for the last reading of the session."""

    def __init__(
        self,
        recorder: Recorder,
        lanes: Lanes,
        stopping: Stopping,
        looks: Looks,
        proofs: Proofs,
        *,
        stop_after: int | None,
    ) -> None:
        """Take `stop_after`, the number of failed calls that stops the run; None: no number does."""
        self._recorder = recorder
        self._ledger = ledger = recorder.ledger
        self.action = recorder.action
        self._lanes = lanes
        self._stopping = stopping
        self._looks = looks
        self._proofs = proofs
        self._stop_after = stop_after
        self._failures = ledger.settled_counts()[Outcome.FAILED]
        self._cause = OneCause(ledger)
        self._parked: dict[int, _Parked] = {}
        """Calls that wait for the last reading, by plan index."""

    # ---- what was decided ------------------------------------------------------------------------------------------

    def carry_out(self, work: Work, decision: Decision, answer: Answer, state: AccountState | None = None) -> None:
        """Write what was decided about a call; `state` is its account in the reading that decided, if any did."""
        if decision.agrees is not None:
            self._proofs.write(work.id, state, agrees=decision.agrees)
        if decision.doubt is not None:
            work.doubt = decision.doubt
            work.was_in_doubt = work.was_in_doubt or decision.doubt
        match decision.then:
            case Then.SETTLE:
                assert decision.outcome is not None
                by = replace(answer, code=None) if decision.is_refuted else answer
                self._write(work, decision.outcome, decision.proof, by, decision.words)
                self._count(decision.outcome, work, by)
            case Then.PARK:
                self._parked[work.index] = _Parked(work, answer, decision.words)
                work.secret = None
                self._count(Outcome.FAILED, work, answer)
            case Then.HOLD:
                self._parked[work.index] = _Parked(work, answer, decision.words)
            case _:
                pass

    def fail(self, work: Work, answer: Answer, words: str | None) -> None:
        """Settle a call as failed whatever earlier attempts did; if it was ever in doubt, the last reading decides."""
        self.carry_out(work, settle_failed(work, words), answer)

    def unsent(self, work: Work, outcome: Outcome, proof: Proof | None, answer: Answer) -> None:
        """Settle a call that needs no attempt, or can have none; it does not count towards `stop_after`."""
        self._write(work, outcome, proof, answer, answer.message)

    def proved(self, work: Work, state: AccountState, request_id: str | None) -> None:
        """Settle an accepted call that was read back as desired."""
        decision, answer = decide_proved(work, self._ledger.entry(work.id), request_id, self.action)
        self.carry_out(work, decision, answer, state)

    def disproved(self, work: Work, state: AccountState | None, request_id: str | None, *, again: bool) -> None:
        """Write that a call was read back as not so for half a minute; `again`: whether it is sent once more."""
        decision, answer = decide_disproved(work, self._ledger.entry(work.id), request_id, self.action, again=again)
        self.carry_out(work, decision, answer, state)

    def is_shown(self, work: Work, reading: Reading) -> bool | None:
        """Return whether a reading shows that a call was applied; None if it does not tell."""
        return shown(self.action, reading, work.call.user, self._ledger.entry(work.id).state_before)

    # ---- the last reading of a session -----------------------------------------------------------------------------

    def last_looks(self) -> list[Coroutine[None, None, None]]:
        """Return the last readings of a session, one for each instance where a reading decides.

        They settle the calls that were in doubt and are given up, and read again what was read as changed back.
        """
        places: dict[Where, list[_Parked]] = {where: [] for where in self._proofs.back.values()}
        for parked in self._parked.values():
            places.setdefault(parked.work.where, []).append(parked)
        return [self._look_last(where, group) for where, group in places.items()]

    async def _look_last(self, where: Where, group: list[_Parked]) -> None:
        back = [self._ledger.calls[call].user for call, at in self._proofs.back.items() if at == where]
        users = [parked.work.call.user for parked in group]
        reading = await self._looks.read(where, *back, *users, purpose=Question.LAST.purpose)
        for parked in group:
            work, answer = parked.work, parked.answer
            decision = decide_read(Question.LAST, work, self._ledger.entry(work.id), answer, reading, self.action)
            if decision.then is Then.END:
                continue
            del self._parked[work.index]
            state = reading.find(work.call.user)
            if decision.agrees:
                self.carry_out(work, decision, answer, state)
            else:  # written only: it was counted as failed when it was given up
                self._proofs.write(work.id, state, agrees=False)
                self._write(work, Outcome.FAILED, None, answer, parked.words)

    # ---- writing and counting --------------------------------------------------------------------------------------

    def _write(self, work: Work, outcome: Outcome, proof: Proof | None, answer: Answer, words: str | None) -> None:
        self._recorder.append(
            records.Settled(
                call=work.id,
                outcome=outcome,
                proof=proof,
                attempts=work.attempt,
                request_id=answer.request_id,
                code=answer.code,
                message=words,
            )
        )
        work.secret, work.is_settled = None, True
        self._proofs.settled(work, outcome, proof)

    def _count(self, outcome: Outcome, work: Work, answer: Answer) -> None:
        """Count an outcome, and stop the run if it should stop for it."""
        if outcome is Outcome.FAILED:
            self._failures += 1
        if (why := self._cause.settled(outcome, work.call, answer.code)) is not None:
            self._lanes.close_account(work.call.account, why, answer)
        if self._stop_after is not None and outcome is Outcome.FAILED and self._failures >= self._stop_after:
            self._stopping.stop(f"stop_after: {self._failures} failed", Reason.STOPPED, answer)

    def something_was_taken(self, call: Call) -> None:
        """Take note that the API took a call of an account: not all of its calls fail alike."""
        self._cause.taken(call)
