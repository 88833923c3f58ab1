"""The claims of live runs in the database: which run works on which calls, on whichever host.

A claim counts as long as its process, or the run's journal, was heard of lately by the server's clock. A silent run
that would meet a new one is fenced before the new claim is made: if its process wakes, it sends nothing any more.
"""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from engine.errors import BusyError
from engine.journal.database.journal import SILENT_S
from engine.journal.database.link import Link, LostError, RefusesError, link_to, told, who
from engine.journal.live import CLAIM_WAIT_S, SameJobError, look_at
from engine.journal.protocols import Claim
from engine.model import CallId, Rival
from engine.outside.foreign import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ID_BYTES = 8
_PULSE_S = 0.5
_HEARD_S = 2.0
"""Seconds that a pulse may take. All claims of a process share one connection for it: a worker leads many runs."""
_LOOK_S = 0.3
"""Seconds after which a run is looked at again that may be dead."""
_GATE = "select pg_advisory_xact_lock(720575940, 2)"
_OTHERS = (
    "select c.run, c.digest, c.path, c.action, c.keep_admins, c.calls, "
    "least(acctops.silent_s(c.at), coalesce(acctops.silent_s(s.at), 1e9)), greatest(c.at, s.at)::text, "
    "least(acctops.silent_s(c.at), coalesce(acctops.silent_s(s.led_at), 1e9)) "
    "from acctops.claim c left join lateral ("
    "select max(x.at) as at, max(x.at) filter (where x.no = 0) as led_at from acctops.shard x "
    "where x.run = c.run and x.no >= 0 and x.owner is not null) s on true "
    "where c.simulated = %s order by c.run"
)


@contextmanager
def claimed(
    url: str,
    mine: Claim,
    *,
    simulated: bool,
    inverse: str | None,
    undone_by: Callable[[], Mapping[CallId, str]],
    tokens: dict[str, str],
) -> Iterator[tuple[Rival, ...]]:
    """Hold the claim `mine` during the block; raise BusyError, naming the run, if a live run forbids it.

    `tokens` has the claim's token, by run, during the block: the run's journal is opened under it.
    """
    link = Link(url, statement_s=CLAIM_WAIT_S)
    token = secrets.token_hex(16)
    ended = threading.Event()
    try:
        with told(url):
            rivals = _made(link, mine, token, simulated, inverse, undone_by)
        link.close()
        tokens[mine.run_id] = token
        pulse = threading.Thread(target=_keep, args=(url, mine.run_id, token, ended), name="claim", daemon=True)
        pulse.start()
        try:
            yield tuple(rivals)
        finally:
            tokens.pop(mine.run_id, None)
            ended.set()
            with suppress(LostError, RefusesError):  # it is silent from now on
                link_to(url, _HEARD_S).rows("select acctops.unclaim(%s, %s)", mine.run_id, token)
    finally:
        link.close()


class _MetError(Exception):
    """A run that seems to live forbids the claim."""

    def __init__(self, error: BusyError, heard: tuple[str, str]) -> None:
        """`heard`: the run, and when it was heard of."""
        super().__init__(str(error))
        self.error = error
        self.heard = heard


def _made(
    link: Link,
    mine: Claim,
    token: str,
    simulated: bool,
    inverse: str | None,
    undone_by: Callable[[], Mapping[CallId, str]],
) -> list[Rival]:
    """Make a claim; return its rivals. A run that forbids it lives if it is heard of again, else it is waited out."""
    until, heard = time.monotonic() + SILENT_S + _LOOK_S, ("", "")
    while True:
        rivals: list[Rival] = []
        try:
            with link.transaction():
                link.rows(_GATE)
                _look_at_others(link, mine, simulated, inverse, undone_by, rivals)
                calls = b"".join(bytes.fromhex(call) for call in mine.calls)
                link.rows(
                    "select acctops.claim(%s, %s, %s, %s, %s, %s, %s, %s)",
                    *(mine.run_id, simulated, token, mine.digest, mine.path, mine.action, mine.keep_admins, calls),
                )
        except _MetError as met:
            is_heard_again = met.heard[0] == heard[0] and met.heard != heard
            if is_heard_again or time.monotonic() > until:
                raise met.error from None
            heard = met.heard
            time.sleep(_LOOK_S)
        else:
            return rivals


def _look_at_others(
    link: Link,
    mine: Claim,
    simulated: bool,
    inverse: str | None,
    undone_by: Callable[[], Mapping[CallId, str]],
    rivals: list[Rival],
) -> None:
    for run, digest, path, action, keep, ids, silent_s, heard, unled_s in link.rows(_OTHERS, simulated):
        is_live = silent_s < SILENT_S
        if run == mine.run_id:
            if unled_s < SILENT_S:  # sessions of its shards go on while one leader follows another
                raise _MetError(SameJobError(run), (run, heard))
            continue
        calls = [CallId(ids[at : at + _ID_BYTES].hex()) for at in range(0, len(ids), _ID_BYTES)]
        other = Claim(run_id=clean(run, 60), digest=digest, path=path, action=action, calls=calls, keep_admins=keep)
        met: list[Rival] = []
        try:
            look_at(other, mine, inverse, undone_by, met)
        except BusyError as error:
            if is_live:
                raise _MetError(error, (run, heard)) from None
        else:
            if is_live or not met:
                rivals += met
                continue
        if not link.rows("select acctops.fence(%s, %s, %s)", run, who(), SILENT_S)[0][0]:
            raise SameJobError(run)  # it woke just now


def rivals_of(
    link: Link, mine: Claim, *, inverse: str | None, undone_by: Callable[[], Mapping[CallId, str]]
) -> tuple[Rival, ...]:
    """Return the live runs that a run may go on beside, with what they work on; those that forbid it are not asked."""
    found: list[Rival] = []
    for run, digest, path, action, keep, ids, silent_s, _, _ in link.rows(_OTHERS, False):
        if run == mine.run_id or silent_s >= SILENT_S:
            continue
        calls = [CallId(ids[at : at + _ID_BYTES].hex()) for at in range(0, len(ids), _ID_BYTES)]
        other = Claim(run_id=clean(run, 60), digest=digest, path=path, action=action, calls=calls, keep_admins=keep)
        with suppress(BusyError):
            look_at(other, mine, inverse, undone_by, found)
    return tuple(found)


def _keep(url: str, run_id: str, token: str, ended: threading.Event) -> None:
    """Let the claim be heard of until the block has ended."""
    while not ended.wait(_PULSE_S):
        with suppress(LostError, RefusesError):
            link_to(url, _HEARD_S).rows("select acctops.holds_claim(%s, %s)", run_id, token)
