"""List ends of runs that their own sessions did not list, or could not seal. `tend` does so; each is marked late.

A late line says only how a journal stands now: what was done to it since its end does not show.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import AcctopsError
from engine.journal.records import unix_seconds
from engine.operations.deeds import Deed
from engine.operations.sealing import list_end
from engine.outside.sshkeys import SEALS, SshKeyError, sign_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.inputs.sealing import SealSpec
    from engine.journal.heads import HeadLine
    from engine.journal.protocols import RunHead, Runs


def list_late(store: Runs, spec: SealSpec | None, clock: Callable[[], float]) -> Iterator[Deed]:
    """Yield what was done: a line for each run that has ended since the first line of the list and is not in it.

    A line whose signature is missing gets another one, too, if the key signs now.
    """
    try:
        listed = store.listed()
        signed = {seal.hash for seal in store.seals() if seal.signature is not None}
    except AcctopsError as error:
        yield Deed(run="-", what="failed", words=f"ends of runs are not listed: {error}")
        return
    if not listed:
        return
    last = {line.run: line for line in listed}
    first_at = unix_seconds(listed[0].at)
    may_sign: bool | None = None
    for head in store.heads(watches=True):
        if head.live or head.problem is not None or head.end is None:
            continue
        line = last.get(head.run_id)
        what = _lacks(head, line, first_at)
        if what is None and line is not None and line.hash not in signed and _is_to_be_signed(line, spec):
            may_sign = _may_sign(spec) if may_sign is None else may_sign
            what = "sealed" if may_sign else None
        if what is not None:
            yield _listed(store, head, what, spec, clock)


def _lacks(head: RunHead, line: HeadLine | None, first_at: float) -> str | None:
    """Return `listed` if the last end of a run is not in the list, though it came after the list's first line."""
    assert head.end is not None
    if line is None:
        return "listed" if head.ended_at >= first_at else None
    return "listed" if head.end.seq > line.lines else None


def _is_to_be_signed(line: HeadLine, spec: SealSpec | None) -> bool:
    """Return whether a line that has no signature should have one."""
    if spec is None or spec.key is None:
        return False
    is_required = spec.required_since is not None and unix_seconds(line.at) >= spec.required_since
    return line.seal is not None or is_required


def _may_sign(spec: SealSpec | None) -> bool:
    """Return whether the key signs now, so that no pass adds a line that stays without a signature."""
    assert spec is not None and spec.key is not None
    try:
        sign_alone(b"a trial", Path(spec.key), SEALS)
    except SshKeyError:
        return False
    return True


def _listed(store: Runs, head: RunHead, what: str, spec: SealSpec | None, clock: Callable[[], float]) -> Deed:
    assert head.end is not None
    try:
        found = store.ref(head.run_id).verify(None)
        done = list_end(
            store,
            head.run_id,
            head=found.head,
            lines=found.lines,
            exit_code=head.end.exit,
            spec=spec,
            clock=clock,
            late=True,
        )
    except AcctopsError as error:
        return Deed(run=head.run_id, what="failed", words=f"its end is not listed: {error}")
    words = f"line {done.line.seq} of the list of ends, late"
    if done.why is not None:
        return Deed(run=head.run_id, what="failed", words=f"{words}; it is not sealed: {done.why}")
    return Deed(run=head.run_id, what=what, words=words)
