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
    lines = (record for record in whole if not record.shard)
    first = next(lines)
    assert isinstance(first, records.Run), "a journal begins with its run"
    plan = Ledger(first)
    mine: dict[CallId, records.CallLine] = {}
    calls: dict[CallId, records.CallLine] = {}
    found: Ledger | None = None
    for record in lines:
        if found is None:
            plan.apply(record)
            if isinstance(record, records.CallLine):
                calls[record.call] = record
            elif isinstance(record, records.ShardLine) and record.no == first.shards:
                of = members(plan)
                mine = {call: line for call, line in calls.items() if of.get(call) == no}
                found = Ledger(first)
                for each in mine.values():
                    found.apply(each)
                if no in plan.shards:
                    found.apply(plan.shards[no])
        elif _is_for_shard(record, mine):
            found.apply(record)
    if found is None or no not in found.shards:
        raise ValueError(f"run {first.run} has no shard {no}")
    return found


def _is_for_shard(record: records.AnyRecord, mine: dict[CallId, records.CallLine]) -> bool:
    """Return whether a line of the run's chain behind the plan counts for a shard with these calls."""
    match record:
        case records.OmitLine():
            return record.call in mine
        case records.Session():
            return record.settings is not None
        case records.Note():
            return record.what == "changed"
        case _:
            return False
