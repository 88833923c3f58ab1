"""The parts of runs that many workers share: who has which, which are offered, and which workers live.

A shard is taken as a run is: its epoch is raised, so who had it before can append nothing. All methods block. Where the
database does not answer they raise UnreachableError; whoever does not know whether his question was heard may ask it
again, as each changes only what is still his.
"""

from __future__ import annotations

import os
import time
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from engine import __version__
from engine.errors import UsageError
from engine.journal.database.asked import journal_here, requests_of
from engine.journal.database.journal import DatabaseJournal
from engine.journal.database.link import COMMIT_S, Rows, link_to, names_of, told, who
from engine.journal.database.versions import check_version
from engine.journal.protocols import LeadState, Offer, ShardRow, WorkerRow
from engine.outside.databaseurls import url_words

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from engine.journal.database.link import Link
    from engine.journal.protocols import Claim, Runs
    from engine.model import CallId, Rival

GONE_S = 2.0
"""Seconds of silence after which a shard may be taken: its owner's leave to send has ended, and so has the quota's
second."""
WORKER_GONE_S = 3.0
"""Seconds of silence after which a worker counts as gone."""
UP_S = 4.0
"""Seconds for which a server that has started calls nobody silent: all have to connect anew."""

_OFFERS = (
    "select r.id, r.simulated, r.stop, s.wave, s.lane, s.planned, s.lanes, array_agg(s.no order by s.no), "
    "array_agg(s.calls order by s.no) from acctops.run r join acctops.shard s on s.run = r.id "
    "where r.submitted and r.id <> all(%s::text[]) and s.open and s.no > 0 and r.wave >= greatest(s.wave, 1) "
    "and (s.owner is null or acctops.silent_s(s.at) >= %s) "
    "group by r.created_at, r.id, r.simulated, r.stop, s.wave, s.lane, s.planned, s.lanes order by r.created_at, r.id"
)
"""Not by lane: one hundred lanes that each look at four hundred shards would take the server a third of a second."""
_HEARD = (
    "select distinct s.lane from acctops.shard s where s.open and s.owner is not null and s.lane is not null "
    "and acctops.silent_s(s.at) < %s order by 1"
)
_STALE_LANES = (
    "with waiting as (select s.owner, case when s.lane is null then s.lanes else array[s.lane] end as lanes "
    "from acctops.run r join acctops.shard s on s.run = r.id "
    "where r.submitted and s.open and s.no > 0 and r.wave >= greatest(s.wave, 1)  and acctops.silent_s(s.at) >= %s), "
    "heard as (select array(select s.lane from acctops.shard s where s.open and s.owner is not null "
    "and acctops.silent_s(s.at) < %s) as lanes) "
    "select distinct l.lane from waiting w cross join heard h, unnest(w.lanes) as l(lane) "
    "where w.owner is not null or not w.lanes && h.lanes order by 1"
)
_STALE_RUNS = (
    "select r.id, (select p.planned[1] from acctops.shard p where p.run = r.id and p.no = 1) "
    "from acctops.run r join acctops.shard s on s.run = r.id and s.no = 0 "
    "where r.submitted and (s.owner is null or acctops.silent_s(s.at) >= %s) order by r.created_at, r.id"
)
_LEAD = (
    "select r.submitted, s.owner is not null and acctops.silent_s(s.at) < %s, r.since "
    "from acctops.run r join acctops.shard s on s.run = r.id and s.no = 0 where r.id = %s"
)
_CHAIN_AFTER = "select lines from acctops.batch where run = %s and no = %s and first > %s order by first"
_IS_UP = "select extract(epoch from clock_timestamp() - pg_catalog.pg_postmaster_start_time())::float8 >= %s"
_ROWS = (
    "select no, wave, lanes, lane, open, owner, acctops.silent_s(at), seq, head, ack, calls, epoch "
    "from acctops.shard where run = %s and no > 0 order by no"
)
_WORKERS = (
    "select name, host, pid, version, queues, lanes, programs, leads, extract(epoch from since)::float8, "
    "acctops.silent_s(at) "
    "from acctops.worker where acctops.silent_s(at) < %s order by name"
)
_NEW = (
    "select b.no, b.lines from acctops.shard s "
    "left join unnest(%s::int[], %s::bigint[]) as k(no, seq) on k.no = s.no "
    "join lateral (select x.no, x.lines, x.place from acctops.batch x "
    "where x.run = s.run and x.no = s.no and x.first > coalesce(k.seq, 0)) b on true "
    "where s.run = %s and s.no >= 0 and s.seq > coalesce(k.seq, 0) order by b.place"
)


class _Asking:
    """A connection for questions of its own; ConfigError for tables of another version."""

    def __init__(self, url: str, link: Link | None = None) -> None:
        check_version(url)
        self._url = url
        self._link = link or link_to(url, COMMIT_S)

    def _rows(self, sql: str, *args: Any) -> Rows:
        # Any: what the parameters are.
        with told(self._url):
            return self._link.rows(sql, *args)

    def disconnect(self) -> None:
        """Close the connection; the next question makes a new one."""
        self._link.close()


class Shards(_Asking):
    """The shards of all runs of a database, and its workers. Several threads may use it, one waiting for the other."""

    # Whoever submits a run.

    def __init__(self, url: str, store: Runs | None = None, link: Link | None = None) -> None:
        """`store`: the runs, if whoever uses this asks for them. `link`: the connection; None: the process's own."""
        super().__init__(url, link)
        self._store = store

    @property
    def store(self) -> Runs:
        """The runs."""
        assert self._store is not None
        return self._store

    def salt(self) -> str:
        """Return what fingerprints of keys are keyed with here: the name of the database."""
        return str(self._rows("select id from acctops.home")[0][0])

    def submit(self, run_id: str, again: Mapping[int, Sequence[str]] | None = None) -> None:
        """Give a run to the workers. Nothing is sent before `let_go`; what people had asked of it is forgotten.

        `again`: shards that have work left, to open once more, with the lanes that the plan gave them.
        """
        if again:
            self.reopen(run_id, again)
        self._rows("select acctops.submit(%s)", run_id)

    def request_stop(self, run_id: str) -> None:
        """Ask all sessions of a run to drain."""
        self._rows("select acctops.request_stop(%s)", run_id)

    def lead_of(self, run_id: str) -> LeadState:
        """Return who leads a run; UsageError if there is none of this name."""
        rows = self._rows(_LEAD, GONE_S, run_id)
        if not rows:
            raise UsageError(f"database {url_words(self._url)}: no run {run_id}")
        is_submitted, is_live, since = rows[0]
        return LeadState(is_submitted=is_submitted, is_live=is_live, since=since)

    def newest_request(self, run_id: str) -> int:
        """Return the number of the newest request of people, as this process's journal of the run knows it."""
        journal = journal_here(self._url, run_id)
        return journal.asked_no if journal is not None else 0

    def chain(self, run_id: str, no: int, after: int) -> list[bytes]:
        """Return the lines of one chain behind line `after`, those of one commit at a time."""
        return [bytes(lines) for (lines,) in self._rows(_CHAIN_AFTER, run_id, no, after)]

    def tail(self, run_id: str) -> Tail:
        """Return what is appended to a run, as it comes."""
        return Tail(self._url, run_id)

    def rivals(
        self, mine: Claim, *, inverse: str | None, undone_by: Callable[[], Mapping[CallId, str]]
    ) -> tuple[Rival, ...]:
        """Return the other runs that work on accounts of the same instances now."""
        from engine.journal.database.claims import rivals_of

        with told(self._url):
            return rivals_of(self._link, mine, inverse=inverse, undone_by=undone_by)

    def reopen(self, run_id: str, nos: Iterable[int]) -> int:
        """Open shards, for all lanes that the plan names; return how many there are. Who has one keeps it."""
        return int(self._rows("select acctops.reopen(%s, %s::int[])", run_id, list(nos))[0][0])

    def withdraw(self, run_id: str) -> None:
        """Offer no shard of a run any more."""
        self._rows("select acctops.withdraw(%s)", run_id)

    # The session that has a run: `epoch` is that of the run's own chain.

    def let_go(self, run_id: str, epoch: int, wave: int) -> bool:
        """Let the waves up to `wave` be sent; return False if another session has the run."""
        return bool(self._rows("select acctops.let_go(%s, %s, %s)", run_id, epoch, wave)[0][0])

    def finish(self, run_id: str, epoch: int) -> bool:
        """Offer no shard of the run any more, as it has ended; return False if another session has the run."""
        return bool(self._rows("select acctops.finish(%s, %s)", run_id, epoch)[0][0])

    def close_idle(self, run_id: str, epoch: int) -> int:
        """Close the shards that nobody works on; return how many are still open.

        Who had a shard and is silent is fenced. If another session has the run, nothing is closed.
        """
        return int(self._rows("select acctops.close_idle(%s, %s, %s, %s)", run_id, epoch, who(), GONE_S)[0][0])

    def rows(self, run_id: str) -> list[ShardRow]:
        """Return how the shards of a run stand, by number."""
        return [
            ShardRow(
                no=no,
                wave=wave,
                lanes=tuple(lanes),
                lane=lane,
                is_open=is_open,
                owner=owner,
                silent_s=silent_s,
                seq=seq,
                head=head,
                ack=ack,
                calls=calls,
                epoch=epoch,
            )
            for no, wave, lanes, lane, is_open, owner, silent_s, seq, head, ack, calls, epoch in self._rows(
                _ROWS, run_id
            )
        ]

    # The session that has a lane.

    def offers(self, lanes: Mapping[str, Collection[str]], *, most: int = 10) -> dict[str, list[Offer]]:
        """Return at most `most` shards that each lane may take now: first those it has lost, then those of older runs.

        `lanes`: the lanes, each with the runs of which it wants none.
        """
        ranked: dict[str, list[tuple[tuple[bool, int, int, int], Offer]]] = {lane: [] for lane in lanes}
        unwanted = set.intersection(*map(set, lanes.values())) if lanes else set()
        ages: dict[str, int] = {}
        for run, simulated, stop, wave, owner, planned, able, nos, calls in self._rows(_OFFERS, list(unwanted), GONE_S):
            age = ages.setdefault(run, len(ages))
            for lane in set(able) & lanes.keys() & ({owner} if owner is not None else lanes.keys()):
                if run in lanes[lane]:
                    continue
                # Each lane of n is offered every n-th shard first, from its own place among them on: so they go in the
                # order of the plan, and not all lanes reach for one shard.
                count, place = len(planned), planned.index(lane) + 1
                first = nsmallest(most, ((owner is None, age, (no - place) % count, no) for no in nos))
                size = dict(zip(nos, calls, strict=True))
                ranked[lane] += [
                    (key, Offer(run=run, no=key[-1], simulated=simulated, wave=wave, calls=size[key[-1]], stop=stop))
                    for key in first
                ]
        return {
            lane: [offer for _, offer in sorted(found, key=lambda each: each[0])[:most]]
            for lane, found in ranked.items()
        }

    def take(
        self,
        run_id: str,
        no: int,
        lane: str,
        patience_s: float = GONE_S,
        *,
        clock: Callable[[], float] = time.time,
    ) -> tuple[DatabaseJournal, list[bytes]] | None:
        """Take a shard for a lane; return its journal and its lines so far, those of one commit at a time.

        None if somebody was quicker, or it is not offered to the lane any more. `patience_s`: seconds for which an
        owner must have been silent, at least 2. The lines are as they are in the rows: the caller checks their chain;
        JournalCorruptError if they end otherwise than the row says.
        """
        place = f"{url_words(self._url)} run {run_id} shard {no}"
        taken = DatabaseJournal.open_shard(
            self._link, run_id, no, lane, max(GONE_S, patience_s), place=place, clock=clock
        )
        if taken is not None:
            taken[0].read_requests = lambda link: requests_of(link, run_id)
        return taken

    def give_back(self, journal: DatabaseJournal, *, without: str | None) -> bool:
        """Offer a shard again whose journal was closed; return False if it was taken meanwhile.

        `without`: the lane that the API refused there. If no lane is left, the shard is closed.
        """
        sql = "select acctops.give_back(%s, %s, %s, %s)"
        return bool(self._rows(sql, journal.run_id, journal.no, journal.epoch, without)[0][0])

    def close(self, journal: DatabaseJournal) -> bool:
        """Close a shard that has no work left, and whose journal was closed; return False if it was taken meanwhile."""
        sql = "select acctops.close_shard(%s, %s, %s)"
        return bool(self._rows(sql, journal.run_id, journal.no, journal.epoch)[0][0])

    # Whoever looks for what was left.

    def stale(self, patience_s: float = GONE_S) -> tuple[list[str], dict[str, str]]:
        """Return the lanes, and the submitted runs with a lane of each, that should have a session and seem to have
        none.

        A lane has none if the owner of its shard is silent, or if nobody has a shard and none of its lanes is heard
        of. It may be wrong: whoever takes a shard fences who had it. Nothing is said of a server that started lately.
        """
        if not self._rows(_IS_UP, UP_S)[0][0]:
            return [], {}
        lanes = self._rows(_STALE_LANES, patience_s, patience_s)
        runs = {str(run): str(lane) for run, lane in self._rows(_STALE_RUNS, patience_s)}
        return list(names_of(lanes)), runs

    def heard_lanes(self, patience_s: float = GONE_S) -> list[str]:
        """Return the lanes that have a shard and were heard of within `patience_s`."""
        return list(names_of(self._rows(_HEARD, patience_s)))

    # Workers.

    def beat(
        self, name: str, queues: Sequence[str], lanes: int, *, programs: Sequence[str] = (), leads: bool = True
    ) -> None:
        """Say that this process lives, as a worker: whose lanes it takes, and how many sessions of lanes it has.

        `programs`: those that it runs if a run names them; `leads`: whether it leads runs.
        """
        sql = "select acctops.beat(%s, %s, %s, %s, %s::text[], %s, %s::text[], %s)"
        me = name, os.uname().nodename, os.getpid(), __version__
        self._rows(sql, *me, list(queues), lanes, list(programs), leads)

    def leave(self, name: str) -> None:
        """Say that a worker has gone."""
        self._rows("select acctops.leave(%s)", name)

    def workers(self, patience_s: float = WORKER_GONE_S) -> list[WorkerRow]:
        """Return the workers that were heard of within `patience_s`, by name."""
        return [
            WorkerRow(
                name=name,
                host=host,
                pid=pid,
                version=version,
                queues=tuple(queues),
                lanes=lanes,
                programs=tuple(programs),
                leads=leads,
                since=since,
                silent_s=silent_s,
            )
            for name, host, pid, version, queues, lanes, programs, leads, since, silent_s in self._rows(
                _WORKERS, patience_s
            )
        ]


class Tail(_Asking):
    """What is appended to a run, by whomever, as it comes."""

    def __init__(self, url: str, run_id: str) -> None:
        super().__init__(url)
        self._run_id = run_id

    def read(self, known: Mapping[int, int]) -> list[tuple[int, bytes]]:
        """Return all new lines of the run and its shards, those of one commit at a time, in the order of the commits.

        Each comes with the number of its chain. `known`: the number of the last line that is known, by chain; of a
        chain that it does not name, none is. A commit may become visible behind one that has a later place, so what
        is new is asked of each chain.
        """
        nos, seqs = list(known), list(known.values())
        return [(no, bytes(lines)) for no, lines in self._rows(_NEW, nos, seqs, self._run_id)]
