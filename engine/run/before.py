"""What a reading decides about a call before it is sent: it may be sent, it is over, or its account is read once more.

Every unsent call gets its `before` record first. A call that is impossible, or whose account is already as desired, is
settled without a send. Where an instance cannot be read again, its calls are sent by the older reading. Their `before`
says so, and an undo does not accept that as proof.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from enum import Enum

from msgspec.structs import replace

from engine.api.names import is_unusual
from engine.cloud.inventory import read_line
from engine.journal import records
from engine.journal.ledger import lacking_code
from engine.model import LACKING, Answer, Call, Omit, Outcome, Proof, Reading, Where
from engine.planning.admins import SUPERUSER, AdminGuard, admin_omit
from engine.planning.outlook import (
    CAM_ON_CODE,
    NO_ACCOUNT_CODE,
    UNREAD_CODE,
    Standing,
    before_line,
    no_account_words,
    no_instance_words,
    standing,
    unprovable_words,
    unshown_words,
)
from engine.run.opencalls import OpenCalls
from engine.run.recorder import Recorder
from engine.run.resting import Look, Resting
from engine.run.settling import Settling
from engine.run.work import Work

CHANGING_S = 20.0
"""Seconds that a call waits for an account in a transitional state; then the call is sent all the same."""


class Turn(Enum):
    """What becomes of a call whose turn has come."""

    GO = "go"
    """It is sent."""
    OUT = "out"
    """It is settled or left out, or `opening` puts it back in the queue once its instance has been read again."""
    WAIT = "wait"
    """It waits for a newer reading; in the queue, if no more instances may be read again at the moment."""


class Before:
    """The part of a session that decides about calls of which nothing can have been applied, by their accounts."""

    def __init__(
        self,
        recorder: Recorder,
        settling: Settling,
        calls: OpenCalls,
        resting: Resting,
        *,
        guard: AdminGuard | None,
        located: Mapping[Where, str],
        stays: Callable[[Call, Reading], Omit | None],
        resend_already: bool,
    ) -> None:
        """Take `located`, instance → the other region where it is; `stays` says why an account must stay as it is."""
        self._now = asyncio.get_running_loop().time
        self._recorder = recorder
        self._ledger = recorder.ledger
        self._action = recorder.action
        self._settling = settling
        self._calls = calls
        self._resting = resting
        self.guard = guard
        self._located = located
        self._stays = stays
        self._resend_already = resend_already
        self._changing_since: dict[int, float] = {}

    def note_read(self, where: Where, reading: Reading) -> None:
        """Journal a reading that was made for the plan."""
        self._recorder.append(read_line(where, "before", reading))

    def decide(self, work: Work, look: Look) -> Turn:
        """Return whether a call may go by the newest reading, is over, or waits for the next; end it if over."""
        call, reading = work.call, look.reading
        assert reading is not None
        how = standing(self._action, reading, call.user)
        if how in _ENDS and not self._resting.is_recent(look):
            return Turn.WAIT  # the plan's reading may be minutes old: the user was asked in between
        if how is Standing.CHANGING:
            since = self._changing_since.setdefault(work.index, self._now())
            if self._now() - since < CHANGING_S:
                return Turn.WAIT
        self._changing_since.pop(work.index, None)
        self._note_before(call, how, look)
        if how is Standing.ALREADY and not self._resend_already:
            self._end(work, Outcome.ALREADY, Proof.BEFORE, None, self._action.already_note, reading)
        elif how is Standing.NO_ACCOUNT:
            words = no_account_words(call, reading)
            self._end(work, Outcome.FAILED, Proof.BEFORE, NO_ACCOUNT_CODE, words, reading)
        elif how is Standing.NO_INSTANCE:
            words = no_instance_words(call, self._located.get(call.where))
            self._end(work, Outcome.FAILED, Proof.BEFORE, reading.code, words, reading)
        elif how is Standing.CAM_ON:
            words = "not sent: CAM verification is on for it, and its password is not set in this way then"
            self._end(work, Outcome.FAILED, Proof.BEFORE, CAM_ON_CODE, words, reading)
        elif not self._is_provable(call, look):
            self._end(work, Outcome.FAILED, None, UNREAD_CODE, unprovable_words(call, reading), reading)
        elif how is Standing.UNREAD and is_unusual(call.user) and not _is_known(call, look):
            self._end(work, Outcome.FAILED, None, UNREAD_CODE, unshown_words(call, reading), reading)
        elif how is not Standing.UNREAD and (omit := self._stays(call, reading)) is not None:
            self._leave_out(work, omit, reading)
        elif self.may_go(work, look):
            self._resting.decided(work, reading)
            return Turn.GO
        elif reading.accounts is None:
            words = f"not sent: keep_admins cannot hold, as {call.instance} cannot be read ({reading.code})"
            self._end(work, Outcome.FAILED, None, UNREAD_CODE, words, reading)
        else:
            self._keep_admin(work, reading)
        return Turn.OUT

    def _is_provable(self, call: Call, look: Look) -> bool:
        """Return whether a later reading can prove the call, by what is known of its account now."""
        if self._action.proof is None:
            return True
        state = look.known.find(call.user) if look.known is not None else None
        return state is not None and self._action.proof(state, state) is not None

    def _note_before(self, call: Call, how: Standing, look: Look) -> None:
        """Journal how the account is before the call, unless the journal says the same already."""
        line = before_line(call, look.reading)
        if how is Standing.UNREAD and _is_known(call, look):
            assert look.reading is not None and look.known is not None
            age_s = self._now() - look.known_at
            when = f"{age_s:.0f} s" if math.isfinite(age_s) else "a while"
            why = f"read {when} before it could be sent, and not again: {look.reading.code or 'not all shown'}"
            line = replace(before_line(call, look.known), why=why)
        written = self._ledger.entry(call.id).before
        if how is Standing.ALREADY:  # it is settled by this reading
            assert look.reading is not None
            line.read_at = records.rfc3339(look.reading.at)
            self._recorder.append(line)
        elif written is None or any(getattr(line, name) != getattr(written, name) for name in _OF_ACCOUNT):
            self._recorder.append(line)

    def may_go(self, work: Work, look: Look) -> bool:
        """Return whether the guard lets a call be sent, by the newest reading of its instance."""
        if self.guard is None:
            return True
        call, reading = work.call, look.reading
        state = look.known.find(call.user) if look.known is not None else None
        if state is not None and state.user_type == SUPERUSER:
            self._resting.admins.add(work.index)
        if reading is None or reading.accounts is None:
            return state is not None and state.user_type != SUPERUSER  # an earlier reading shows that it is no admin
        return self.guard.lets(work.where, reading.accounts, call.user)

    def _keep_admin(self, work: Work, reading: Reading) -> None:
        assert self.guard is not None and reading.accounts is not None
        refused = self.guard.why_not(work.where, reading.accounts, work.call.user)
        assert refused is not None
        self._leave_out(work, admin_omit(work.call, *refused), reading)

    def _leave_out(self, work: Work, omit: Omit, reading: Reading) -> None:
        call, entry = work.call, self._ledger.entry(work.id)
        if entry.spent:  # an attempt of it reached the server: it stays a call, and fails
            code = lacking_code(str(omit.reason)) if omit.reason in LACKING else entry.code
            words = f"{omit.rule} ({omit.where}): not sent again, and it was not applied before"
            self._end(work, Outcome.FAILED, None, code, words, reading)
            return
        self._recorder.append(records.omit_line(call, str(omit.reason), omit.rule, omit.where, call.id))
        self._resting.over(work)
        self._calls.over_unsent(work)

    def _end(
        self, work: Work, outcome: Outcome, proof: Proof | None, code: str | None, words: str | None, reading: Reading
    ) -> None:
        self._resting.over(work)
        answer = Answer(http=None, request_id=reading.request_id, code=code, message=words)
        self._settling.unsent(work, outcome, proof, answer)
        self._calls.over_unsent(work)


def _is_known(call: Call, look: Look) -> bool:
    """Return whether the newest reading that shows accounts shows this one."""
    return look.known is not None and look.known.find(call.user) is not None


_ENDS = frozenset({Standing.ALREADY, Standing.NO_ACCOUNT, Standing.NO_INSTANCE, Standing.CAM_ON})
"""Standings that end a call without a send."""
_OF_ACCOUNT = ("status", "cam", "type", "update_time", "password_update_time", "why")
