"""Device: which runs of a state directory work right now, and on what. Imports neither asyncio nor, to look, filelock.

    <state_dir>/live/<run id>.claim     what a run works on, locked by its process for as long as it does
    <state_dir>/live/claims.lock        held for a moment by whoever claims

A claim is written and locked before the others are looked at, and one process at a time does both: of two that start at
once one finds the other. A claim whose lock nobody holds is of a process that died, and is cleared away.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from engine.admins import Rival
from engine.errors import BusyError
from engine.foreign import clean, number
from engine.guards import takes_admins
from engine.journal.store import acquire, is_held

if TYPE_CHECKING:
    from engine.journal.store import RunStore
    from engine.model import CallId

CLAIM_WAIT_S = 30.0
"""How long others may take to look around: far less than a second, but for a million calls on a slow disk."""
_ID_BYTES = 8
_MOST_KEPT = 1000.0
"""Superusers that a claim can ask to be left an instance."""
_SUFFIX = ".claim"


class Claim(Struct, frozen=True, kw_only=True):
    """What a run is about to work on."""

    run_id: str
    digest: str
    """Of its job."""
    path: str
    """Of its job file; empty if there is none."""
    action: str
    calls: Collection[CallId]
    keep_admins: int = 0
    """How many superusers its run must leave every instance."""


@contextmanager
def claimed(
    store: RunStore, mine: Claim, *, inverse: str | None, undone_by: Callable[[], Mapping[CallId, str]]
) -> Iterator[tuple[Rival, ...]]:
    """Work on what `mine` says; BusyError, naming the run, if one that is live forbids it.

    Yields the live runs that lock accounts, if this one does: together they must leave every instance its superusers.

    That is a run of the same job (its content or its file), as two would race for the same accounts, and one of the
    `inverse` action on an account of both. `undone_by` gives the calls of the inverse action on the accounts of `mine`,
    each with its label; it is asked for only if such a run is live.
    """
    path = store.root / "live" / f"{mine.run_id}{_SUFFIX}"
    rivals: list[Rival] = []
    fd = _register(store, path, mine, lambda other: _look_at(other, mine, inverse, undone_by, rivals))
    try:
        yield tuple(rivals)
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


def _register(store: RunStore, path: Path, mine: Claim, look_at: Callable[[Path], None]) -> int:
    """Write the claim, then look at the others, while nobody else does either; the claim's descriptor."""
    live = path.parent
    with store.writable():
        store.make_dir(live)
        gate = acquire(live / "claims.lock", CLAIM_WAIT_S, 0o640 if store.group else 0o600)
        if gate is None:
            raise BusyError(f"{live}: another run has been starting for {CLAIM_WAIT_S:.0f} s; try again")
        try:
            fd = _write(store, path, mine)
            try:
                for other in sorted(live.glob(f"*{_SUFFIX}")):
                    if other != path:
                        look_at(other)
            except BaseException:
                path.unlink(missing_ok=True)
                os.close(fd)
                raise
        finally:
            gate.release()
    return fd


def _write(store: RunStore, path: Path, mine: Claim) -> int:
    """The claim, whole and locked; its lock lives as long as the returned descriptor."""
    if is_held(path):
        raise BusyError(same_job_words(mine.run_id))
    fd = store.create_file(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def _look_at(
    other: Path,
    mine: Claim,
    inverse: str | None,
    undone_by: Callable[[], Mapping[CallId, str]],
    rivals: list[Rival],
) -> None:
    """BusyError if the run of a claim is live and forbids mine; it is added to the `rivals` if it is one."""
    if not is_held(other):
        with suppress(OSError):
            other.unlink(missing_ok=True)
        return
    found = _read(other)
    if found is None:
        return
    head, ids = found
    run = str(head.get("run", ""))
    if head.get("digest") == mine.digest or (mine.path and head.get("path") == mine.path):
        raise BusyError(same_job_words(run))
    is_rival = takes_admins(mine.action) and head.get("action") == mine.action
    if not is_rival and (inverse is None or head.get("action") != inverse):
        return
    theirs = frozenset(ids[at : at + _ID_BYTES] for at in range(0, len(ids), _ID_BYTES))
    if is_rival:
        keep = int(number(head.get("keep_admins", 0), 0, _MOST_KEPT) or 0)
        rivals.append(Rival(run=clean(run, 60), keep_admins=keep, calls=theirs))
        return
    both = [label for call, label in undone_by().items() if bytes.fromhex(call) in theirs]
    if both:
        raise BusyError(
            f"run {run} is doing the opposite right now: {inverse} on {len(both):,} of these accounts, such as "
            f"{both[0]}; wait for it, or stop it: acctops stop {run}"
        )


def _read(path: Path) -> tuple[dict[str, Any], bytes] | None:
    """The head and the calls of a claim; None if it went away just now. Any: JSON values."""
    try:
        first, _, ids = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    head: dict[str, Any] = json.loads(first)
    return head, ids


def same_job_words(run: str) -> str:
    """That a run of the same job goes on."""
    return f"the same job is being run already, as {run}; wait for it, or stop it: acctops stop {run}"
