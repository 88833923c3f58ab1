"""Runs that are divided into shards, for tests: any plain story, written as the many chains of format 2."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from random import Random

from msgspec.structs import replace

from engine.journal import records
from engine.journal.lines import Chain, shard_genesis
from engine.journal.records import AnyRecord
from engine.model import RunId
from tests.support.journals import LANE, ticking

OF_A_CALL = (records.Before, records.Sent, records.ReplyLine, records.Verified, records.Settled)
Place = tuple[int, str, str, str]
"""Wave, account, region and instance."""


def bare(record: AnyRecord) -> AnyRecord:
    """A record without its envelope, but for its time."""
    return replace(record, v=0, seq=0, run="", shard=0, hash="")


def parts(story: Sequence[AnyRecord], most: int = 3) -> list[list[AnyRecord]]:
    """The records of each chain of a story, that of the run first: its plan ends with at most `most` shards.

    `read` lines and what is of a call go to the shard of their instance, everything else to the run's own chain.
    """
    run, *rest = (bare(record) for record in story)
    assert isinstance(run, records.Run)
    calls = [record for record in rest if isinstance(record, records.CallLine)]
    waves = [record for record in rest if isinstance(record, records.WaveLine) and record.state == records.PLANNED]
    wave_of = [wave.n for wave in waves for _ in range(wave.calls)] or [0] * len(calls)
    place_of = {
        call.call: (wave, call.account, call.region, call.instance) for call, wave in zip(calls, wave_of, strict=True)
    }
    places = list(dict.fromkeys(place_of.values()))
    groups: dict[tuple[int, str, int], list[Place]] = {}
    for number, place in enumerate(places):
        groups.setdefault((place[0], place[1], number % most), []).append(place)
    shard_of = {place: no for no, group in enumerate(groups.values(), 1) for place in group}
    lines: list[AnyRecord] = [
        records.ShardLine(
            no=no,
            wave=group[0][0],
            account=group[0][1],
            endpoints=run.settings.endpoint,
            lanes=(LANE,),
            calls=sum(place in group for place in place_of.values()),
            instances=tuple((region, instance) for _, _, region, instance in group),
        )
        for no, group in enumerate(groups.values(), 1)
    ]
    chains: list[list[AnyRecord]] = [[replace(run, shards=len(lines), v=0)], *([] for _ in lines)]
    left = len(calls) + len(waves)
    for record in rest:
        no = 0
        if isinstance(record, OF_A_CALL):
            no = shard_of[place_of[record.call]]
        elif isinstance(record, records.Read):
            found = [no for place, no in shard_of.items() if place[2:] == (record.region, record.instance)]
            no = found[0] if found else 0
        chains[no].append(record)
        left -= record in calls or record in waves
        if not left and lines:
            chains[0] += lines
            lines = []
    return chains


class Stream:
    """Writes lines of many chains in one stream, as their commits come; an `end` of the run lists the heads."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.chains = {0: Chain(run_id, v=2)}
        self.lines: list[bytes] = []
        self.clock = ticking()

    def add(self, no: int, record: AnyRecord) -> bytes:
        """Write the next line of a chain."""
        chain = self.chains[no]
        if isinstance(record, records.End) and not no and record.heads == {}:
            record.heads = {str(shard): each.head for shard, each in self.chains.items() if shard and each.seq}
        line = chain.add(record, record.at or records.rfc3339(self.clock()))
        if isinstance(record, records.ShardLine):
            for shard in range(1, record.no + 1):
                genesis = shard_genesis(chain.head, shard)
                self.chains[shard] = Chain(self.run_id, 0, genesis, shard=shard, v=2)
        self.lines.append(line)
        return line

    def interleave(self, chains: Sequence[Sequence[AnyRecord]], rng: Random) -> Iterator[AnyRecord]:
        """Write the plan, then the chains in some order, then the last line of the run's own; yield each record."""
        own = list(chains[0])
        last_shard = max(at for at, record in enumerate(own) if isinstance(record, records.ShardLine))
        for record in own[: last_shard + 1]:
            self.add(0, record)
            yield record
        left = [own[last_shard + 1 : -1], *map(list, chains[1:])]
        while any(left):
            no = rng.choice([no for no, records in enumerate(left) if records])
            for _ in range(min(len(left[no]), rng.randrange(1, 5))):
                record = left[no].pop(0)
                self.add(no, record)
                yield record
        self.add(0, own[-1])
        yield own[-1]


def divided(
    story: Sequence[AnyRecord], seed: int = 0, *, most: int = 3, run_id: str = "20260921T141320Z-e52i"
) -> tuple[bytes, list[AnyRecord]]:
    """A story as the stream of a run with shards; its bytes and its records."""
    stream = Stream(RunId(run_id))
    written = list(stream.interleave(parts(story, most), Random(seed)))
    return b"".join(stream.lines), written


def resealed(lines: Sequence[bytes]) -> list[bytes]:
    """The lines with hashes and genesis made to fit, each in the chain it says it is of: as a careful forger would."""
    heads: dict[int, str] = {0: "0" * 64}
    plan = ""
    out = []
    for line in lines:
        before, _, after = line.partition(b',"shard":')
        no = int(after.partition(b",")[0]) if after and b'"kind"' not in before else 0
        head = heads.get(no) or shard_genesis(plan, no)
        content = line[:-76] + b"}"
        heads[no] = head = hashlib.sha256(head.encode() + content).hexdigest()
        if b',"kind":"shard",' in line:
            plan = head
        out.append(content[:-1] + b',"hash":"' + head.encode() + b'"}\n')
    return out
