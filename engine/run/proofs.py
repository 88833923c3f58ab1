"""Every later reading of the session is compared with what was proven: the newest reading decides."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from types import MappingProxyType

from engine.journal import records
from engine.model import GOOD, AccountState, CallId, Outcome, Proof, Reading, Where
from engine.planning.outlook import shown
from engine.run.recorder import Recorder
from engine.run.work import Work

_ALWAYS = float("-inf")
_NOBODY: Mapping[CallId, float] = MappingProxyType({})


class Proofs:
    """The proven calls of a run, and those of them whose accounts are read as changed back."""

    def __init__(self, recorder: Recorder, elsewhere: Collection[CallId]) -> None:
        """Take `elsewhere`, failed calls that later reruns have done: readings are compared with these, too."""
        self._now = asyncio.get_running_loop().time
        self._recorder = recorder
        self._ledger = recorder.ledger
        self._action = recorder.action
        self._proven: dict[Where, dict[CallId, float]] = {}
        """By instance, its proven calls: call → loop time; readings that began before it are not compared."""
        self.back: dict[CallId, Where] = {}
        """Proven calls whose accounts are read as changed back."""
        self._elsewhere = frozenset(elsewhere)
        self._note_earlier()

    def _note_earlier(self) -> None:
        """Take in what earlier sessions have proven, so that readings of this session are compared with it, too."""
        if not any(self._ledger.settled_counts().values()):
            return
        for call, entry, _ in self._ledger.outcomes():
            if call.id in self._elsewhere or _is_proof(entry.outcome, entry.proof):
                self._proven.setdefault(call.where, {})[call.id] = _ALWAYS
                if entry.is_back:
                    self.back[call.id] = call.where

    @property
    def done_elsewhere(self) -> int:
        """How many failed calls later reruns have done, without those that this session has read as changed back."""
        return len(self._elsewhere - self.back.keys())

    @property
    def back_elsewhere(self) -> int:
        """How many failed calls later reruns have done and this session has read as changed back."""
        return len(self._elsewhere & self.back.keys())

    def settled(self, work: Work, outcome: Outcome, proof: Proof | None) -> None:
        """Take note that a call was settled: if its outcome was proven, later readings are compared with it."""
        if _is_proof(outcome, proof):
            # The reading that proves it has ended, and no other of its instance has begun yet: all later ones count.
            since = _ALWAYS if proof is Proof.READ else self._now()
            self._proven.setdefault(work.where, {})[work.id] = since

    def saw(self, where: Where, reading: Reading, began_at: float) -> None:
        """Compare a reading, made for whatever purpose, with what is proven of its instance.

        `began_at` is loop time. A reading that shows an older state than the proof is not compared.
        """
        for call_id, since in self._proven.get(where, _NOBODY).items():
            user = self._ledger.calls[call_id].user
            before = self._ledger.entry(call_id).state_before
            is_so = shown(self._action, reading, user, before) if since <= began_at else None
            state = reading.find(user)
            if is_so is None or is_so is not (call_id in self.back) or self._is_older(call_id, state):
                continue
            if is_so:
                del self.back[call_id]
            else:
                self.back[call_id] = where
            self.write(call_id, state, agrees=is_so)

    def _is_older(self, call_id: CallId, state: AccountState | None) -> bool:
        """Return whether a row is older than the proof: readings may come from a copy that is behind."""
        entry = self._ledger.entry(call_id)
        proof = entry.verified or entry.before
        return bool(state and proof and state.update_time and state.update_time < (proof.update_time or ""))

    def write(self, call_id: CallId, state: AccountState | None, *, agrees: bool) -> None:
        """Journal how the account of a call was read after it was sent."""
        self._recorder.append(
            records.Verified(
                call=call_id,
                status=state.status if state else None,
                cam=state.cam if state else None,
                update_time=state.update_time if state else None,
                agrees=agrees,
            )
        )


def _is_proof(outcome: Outcome | None, proof: Proof | None) -> bool:
    return outcome in GOOD and proof not in (None, Proof.ACCEPTED)
