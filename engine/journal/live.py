"""The claims of the live runs of a state directory: which run works on which calls. Imports no asyncio.

    <state_dir>/live/<run id>.claim     what a run works on; its process holds the lock while it works
    <state_dir>/live/claims.lock        the lock that a process holds for a moment while it claims

A process writes and locks its claim, then looks at the others. One process at a time does both, so of two that start at
once one finds the other. A claim without a lock is of a dead process, and is removed. If the claim of a live run was
removed or cannot be read, its journal is read instead: its process holds a lock on the journal, too.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from engine.api.actions import takes_admins
from engine.errors import AcctopsError, BusyError
from engine.journal import locks
from engine.journal.directory import LOCK_WAIT_S
from engine.journal.locks import Hold
from engine.journal.protocols import Claim
from engine.journal.reader import replay
from engine.model import CallId, Rival
from engine.outside.foreign import clean, number
from engine.outside.trust import read_regular

if TYPE_CHECKING:
    from engine.journal.directory import RunDirectory

CLAIM_WAIT_S = 30.0
"""Seconds to wait for another process that claims: it needs less than one, or more with a million calls."""
_LOOK_S = 0.02
_ID_BYTES = 8
_MOST_BYTES = 64 << 20
"""Largest claim that is read: eight million calls."""
_MOST_KEPT = 1000.0
"""Most superusers that a claim can ask every instance to keep."""
_SUFFIX = ".claim"


@contextmanager
def claimed(
    store: RunDirectory, mine: Claim, *, inverse: str | None, undone_by: Callable[[], Mapping[CallId, str]]
) -> Iterator[tuple[Rival, ...]]:
    """Hold the claim `mine` during the block; raise BusyError, naming the run, if a live run forbids it.

    Two kinds of live runs forbid it: one of the same job (same content or file), and one of the `inverse` action on an
    account of `mine`. `undone_by` returns the calls of the inverse action on the accounts of `mine`, each with its
    label; it is called only if a run of the inverse action is live. If `mine` can lock superusers, yields the live runs
    of the same action: together they must leave every instance its superusers.
    """
    path = store.root / "live" / f"{mine.run_id}{_SUFFIX}"
    rivals: list[Rival] = []
    fd = _register(store, path, mine, inverse, lambda other: look_at(other, mine, inverse, undone_by, rivals))
    try:
        yield tuple(rivals)
    finally:
        with suppress(OSError):
            if locks.is_at(fd, path):
                path.unlink(missing_ok=True)
        os.close(fd)


def _register(store: RunDirectory, path: Path, mine: Claim, inverse: str | None, each: Callable[[Claim], None]) -> int:
    """Write the claim, then look at the others, both under the lock; return the claim's descriptor."""
    live = path.parent
    store.refuse_strangers(live)
    with store.writable():
        store.make_dir(live)
        gate = locks.open_private(live / "claims.lock")
        try:
            if locks.take_within(gate, CLAIM_WAIT_S) is Hold.THEIRS:
                raise BusyError(f"{live}: another run has been starting for {CLAIM_WAIT_S:.0f} s; try again")
            fd = _write(store, path, mine)
            try:
                meant = (inverse, mine.action if takes_admins(mine.action) else None)
                for other in _others(store, live, mine.run_id, meant):
                    each(other)
            except BaseException:
                path.unlink(missing_ok=True)
                os.close(fd)
                raise
        finally:
            os.close(gate)
    return fd


def _write(store: RunDirectory, path: Path, mine: Claim) -> int:
    """Write and lock the claim; return its descriptor, which holds the lock until it is closed."""
    if _is_held(path):
        raise SameJobError(mine.run_id)
    fd = store.create_file(path)
    try:
        locks.take(fd)
        head: dict[str, object] = {"run": mine.run_id, "digest": mine.digest, "path": mine.path, "action": mine.action}
        if mine.keep_admins:
            head["keep_admins"] = mine.keep_admins
        with open(fd, "wb", closefd=False) as file:
            file.write(json.dumps(head).encode() + b"\n")
            file.write(b"".join(bytes.fromhex(call) for call in mine.calls))
    except BaseException:
        path.unlink(missing_ok=True)
        os.close(fd)
        raise
    return fd


def _is_held(path: Path) -> bool:
    if (fd := locks.open_existing(path)) is None:
        return False
    try:
        return locks.is_taken(fd)
    finally:
        os.close(fd)


def _others(store: RunDirectory, live: Path, mine: str, meant: Collection[str | None]) -> Iterator[Claim]:
    """Yield the claims of the other live runs; remove the claims of dead ones."""
    claimed: set[str] = set()
    for path in sorted(live.glob(f"*{_SUFFIX}")):
        run_id = path.name.removesuffix(_SUFFIX)
        if run_id == mine:
            continue
        if not _is_held(path):
            if not store.is_live(run_id):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        elif (claim := _read(path, meant)) is not None:
            claimed.add(run_id)
            yield claim
    for run_id in store.names():
        if run_id != mine and run_id not in claimed and _stays_live(store, run_id):
            claim = _of_journal(store, run_id)
            if claim is not None:
                yield claim


def _stays_live(store: RunDirectory, run_id: str) -> bool:
    """Return whether a run without a claim is worked on; a command that only links a later run to it is waited for."""
    until = time.monotonic() + LOCK_WAIT_S
    while store.is_live(run_id):
        if time.monotonic() >= until:
            return True
        time.sleep(_LOOK_S)
    return False


def _read(path: Path, meant: Collection[str | None]) -> Claim | None:
    """Return a claim, with its calls only if its action is in `meant`; None if the file is no claim, or is gone."""
    try:
        text = read_regular(path, _MOST_BYTES, follow=False)
        first, _, ids = text.partition(b"\n")
        head = json.loads(first) if len(text) <= _MOST_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    run = path.name.removesuffix(_SUFFIX)
    if not isinstance(head, dict) or head.get("run") != run or len(ids) % _ID_BYTES:
        return None
    said = [head.get(name) for name in ("digest", "path", "action")]
    if not all(isinstance(value, str) for value in said):
        return None
    digest, place, action = map(str, said)
    parts = range(0, len(ids), _ID_BYTES) if action in meant else ()
    calls = [CallId(ids[at : at + _ID_BYTES].hex()) for at in parts]
    keep = int(number(head.get("keep_admins", 0), 0, _MOST_KEPT) or 0)
    return Claim(run_id=run, digest=digest, path=place, action=action, calls=calls, keep_admins=keep)


def _of_journal(store: RunDirectory, run_id: str) -> Claim | None:
    """Return the claim of a live run from its journal, if its claim file is gone or cannot be read.

    None for a watch: it only reads.
    """
    path = store.path(run_id)
    try:
        ledger = replay(path).ledger
    except AcctopsError as error:
        raise BusyError(
            f"run {run_id} goes on, and on what cannot be read, so nobody knows whether it would meet this one: "
            f"{error}; wait for it, or stop it: acctops stop {run_id}"
        ) from error
    run = ledger.run
    if run.watched is not None:
        return None
    return Claim(
        run_id=run_id,
        digest=run.job.digest,
        path=run.job.path,
        action=run.action,
        calls=list(ledger.calls),
        keep_admins=ledger.settings.keep_admins,
    )


class SameJobError(BusyError):
    """A run of the same job is live: another one, or the very run that was to go on."""

    def __init__(self, run: str) -> None:
        super().__init__(same_job_words(run))
        self.run = run


def look_at(
    other: Claim,
    mine: Claim,
    inverse: str | None,
    undone_by: Callable[[], Mapping[CallId, str]],
    rivals: list[Rival],
) -> None:
    """Raise BusyError if the live run `other` forbids `mine`; add it to `rivals` if both can lock superusers."""
    if other.digest == mine.digest or (mine.path and other.path == mine.path):
        raise SameJobError(other.run_id)
    if takes_admins(mine.action) and other.action == mine.action:
        ids = frozenset(map(bytes.fromhex, other.calls))
        rivals.append(Rival(run=clean(other.run_id, 60), keep_admins=other.keep_admins, calls=ids))
        return
    if inverse is None or other.action != inverse:
        return
    theirs = set(other.calls)
    both = [label for call, label in undone_by().items() if call in theirs]
    if both:
        raise BusyError(
            f"run {other.run_id} is doing the opposite right now: {inverse} on {len(both):,} of these accounts, such "
            f"as {both[0]}; wait for it, or stop it: acctops stop {other.run_id}"
        )


def same_job_words(run: str) -> str:
    """Return the message that a run of the same job is live."""
    return f"the same job is being run already, as {run}; wait for it, or stop it: acctops stop {run}"
