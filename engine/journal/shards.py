"""A run that is divided into shards: which lines count for the whole, and which calls are of which shard. No I/O.

A shard is whole instances of one route and one wave. One lane session at a time works on it, and writes its lines into
the chain of the shard. The run's own chain (0) has the plan, its confirmation, control, waves and ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.journal import records
from engine.journal.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.model import CallId

_OF_A_CALL = frozenset(
    {records.Sent, records.ReplyLine, records.Settled, records.Verified, records.Before, records.Read}
)
_NOTES = frozenset({"route_closed", "identity", "clock_learned", "slots_reset"})
_NOTES_BEGIN = ("lane_", "lanes_", "keys_")
"""Notes of a shard's chain that say something of lanes, keys and routes, and so of the run."""


def counts_for_run(record: records.AnyRecord) -> bool:
    """Return whether a line counts for the ledger of the whole run.

    All of the run's own chain do. Of a shard's chain those do that are about a call, an instance, lanes, keys or
    routes. Its sessions, ends, confirmations and what was asked of it are of that shard alone.
    """
    if not record.shard or type(record) in _OF_A_CALL:
        return True
    if isinstance(record, records.Note):
        return record.what in _NOTES or record.what.startswith(_NOTES_BEGIN)
    return isinstance(record, records.OmitLine) and record.call is not None


def apply_to_run(ledger: Ledger, record: records.AnyRecord) -> None:
    """Fold a line of any chain into the ledger of the whole run, if it counts for that.

    Hosts' clocks differ and chains interleave, so the newest time counts as the last one, in whatever order they come.
    """
    if counts_for_run(record):
        before = ledger.last_at
        ledger.apply(record)
        ledger.last_at = max(before, ledger.last_at)


def members(ledger: Ledger) -> dict[CallId, int]:
    """Return the number of the shard that each call of the plan is of, in plan order; a call of none is left out."""
    of = {
        (line.wave, line.account, region, instance): line.no
        for line in ledger.shards.values()
        for region, instance in line.instances
    }
    waves = ledger.wave_of
    return {
        call_id: no
        for call_id, call in ledger.calls.items()
        if (no := of.get((waves.get(call_id, 0), call.account, call.region, call.instance))) is not None
    }


def shard_ledger(whole: Iterable[records.AnyRecord], no: int) -> Ledger:
    """Return the ledger of shard `no` as the run's own chain leaves it; all other calls are left out.

    `whole` is that chain from its first line on; lines of shards in it are passed over. Taken are the run, the
    calls of the shard, omits that name one of them, and what changes the settings. The lines of the shard's own chain
    are to be applied to it, in full. Raises ValueError if the plan has no such shard.
    """
    divided = Divided()
    divided.add(whole)
    return divided.ledger(no)


class Divided:
    """The own chain of a run, kept so that the ledger of each of its shards costs no more than its own calls."""

    def __init__(self) -> None:
        self._first: records.Run | None = None
        self._plan: Ledger | None = None
        """What the plan says; None once it is divided."""
        self._lines: dict[CallId, records.CallLine] = {}
        """Calls of the plan; empty once it is divided."""
        self._calls: dict[int, list[records.CallLine]] | None = None
        """Number of a shard → its calls; None until the plan is complete."""
        self._shards: dict[int, records.ShardLine] = {}
        self._later: list[records.AnyRecord] = []
        """Lines behind the plan that count for shards."""

    def add(self, lines: Iterable[records.AnyRecord]) -> None:
        """Take in further lines of the chain; those of shards are passed over."""
        for record in lines:
            if record.shard:
                continue
            if self._first is None:
                assert isinstance(record, records.Run), "a journal begins with its run"
                self._first, self._plan = record, Ledger(record)
            elif self._plan is None:
                if _counts_for_shards(record):
                    self._later.append(record)
            else:
                self._plan.apply(record)
                if isinstance(record, records.CallLine):
                    self._lines[record.call] = record
                elif isinstance(record, records.ShardLine) and record.no == self._first.shards:
                    self._divide(self._plan)

    def _divide(self, plan: Ledger) -> None:
        calls: dict[int, list[records.CallLine]] = {}
        for call_id, no in members(plan).items():
            calls.setdefault(no, []).append(self._lines[call_id])
        self._calls, self._shards, self._plan, self._lines = calls, plan.shards, None, {}

    def ledger(self, no: int) -> Ledger:
        """Return the ledger of shard `no`, as `shard_ledger` does."""
        first = self._first
        if first is None or self._calls is None or no not in self._shards:
            raise ValueError(f"run {first.run if first is not None else ''} has no shard {no}")
        found = Ledger(first)
        for call in self._calls.get(no, ()):
            found.apply(call)
        found.apply(self._shards[no])
        for record in self._later:
            if not isinstance(record, records.OmitLine) or record.call in found.calls:
                found.apply(record)
        return found


def _counts_for_shards(record: records.AnyRecord) -> bool:
    """Return whether a line of the run's chain behind the plan may count for a shard."""
    match record:
        case records.OmitLine():
            return record.call is not None
        case records.Session():
            return record.settings is not None
        case records.Note():
            return record.what == "changed"
        case _:
            return False
