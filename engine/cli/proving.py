"""The `journal verify --all` command: all runs, the list of their ends, and its seals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.cli.options import options_of
from engine.cli.talk import out, out_json, printed, say
from engine.errors import Reason, UsageError
from engine.operations.proving import Proven, prove_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_HASH_DIGITS = 64
_NAMED = 5
"""Runs that are named in a line; --json names all."""


def verify_all(*, head: str | None, **flags: Any) -> int:
    """The `journal verify --all` command. Any: the flags, by name."""
    options = options_of(flags)
    if head is not None:
        head = head.strip().lower()
        if len(head) != _HASH_DIGITS or not set(head) <= set("0123456789abcdef"):
            raise UsageError(f"--head: {head!r} is no hash of a line of heads.jsonl: 64 hexadecimal digits are")
    found = prove_all(options, head)
    reason = max((each.reason for each in found), key=int, default=Reason.OK)
    if options.as_json:
        state_dir = options.settings(None).kept_in
        out_json({"state_dir": state_dir, "stores": [document(each) for each in found], "exit": int(reason)})
        printed()
        return reason
    for each in found:
        for line in lines(each) if not options.quiet else fault_lines(each):
            out(line)
    if not options.quiet and any(each.last is not None and not each.simulated for each in found):
        say(
            "Keep the hash of the last line elsewhere: only it shows that the last lines were removed together with "
            "their runs. Compare: acctops journal verify --all --head HASH"
        )
    printed()
    return reason


def document(found: Proven) -> dict[str, Any]:
    """Return what the check of one store has shown. Any: JSON values."""
    last = found.last
    return {
        "place": found.place,
        "simulated": found.simulated,
        "runs": found.runs,
        "listed": last.seq if last is not None else 0,
        "last": {"seq": last.seq, "at": last.at, "run": last.run, "hash": last.hash} if last is not None else None,
        "sealed": found.sealed,
        "unvouched": found.unvouched,
        "stamped": found.stamped,
        "unvouched_stamps": found.unvouched_stamps,
        "unlisted": list(found.unlisted),
        "late": list(found.late),
        "open": list(found.open),
        "after": found.after,
        "faults": [{"run": fault.run, "words": fault.words, "corrupt": fault.is_corrupt} for fault in found.faults],
        "exit": int(found.reason),
    }


def fault_lines(found: Proven) -> Iterator[str]:
    """Yield a line for each fault."""
    for fault in found.faults:
        word = "CORRUPT" if fault.is_corrupt else "UNKNOWN"
        yield f"{word}  {f'run {fault.run}: ' if fault.run is not None else ''}{fault.words}"


def lines(found: Proven) -> Iterator[str]:
    """Yield what the check of one store has shown, for a person: the faults first."""
    yield from fault_lines(found)
    kind = "simulated run" if found.simulated else "run"
    if not found.runs and not found.faults and found.last is None:
        yield f"{found.place}: no runs"
        return
    yield f"{found.place}: the chains of {_count(found.runs, kind)} hold"
    if found.last is None:
        if all(fault.run is not None for fault in found.faults):
            yield "no list of ends (heads.jsonl): none of these runs ended under this version, or the list was removed"
        return
    last = found.last
    yield f"heads.jsonl: {_count(last.seq, 'line')}; the last is of run {last.run}, at {last.at}"
    yield f"hash {last.hash}" if not found.simulated else f"hash {last.hash} (--head compares that of real runs alone)"
    if found.sealed or found.unvouched:
        words = f"signed: {found.sealed:,} of {_count(last.seq, 'line')}, by a key that counts"
        if found.unvouched:
            words += f"; {found.unvouched:,} by keys that no config names (seal.signers), so nobody here knows whose"
        yield words
    if found.stamped or found.unvouched_stamps:
        words = f"stamped: {_count(found.stamped, 'line')}, vouched for by seal.tsa_ca"
        if found.unvouched_stamps:
            words += f"; {found.unvouched_stamps:,} of which no config says who vouches for it (seal.tsa_ca)"
        yield words
    if found.after is not None:
        yield f"the given hash is that of line {last.seq - found.after:,}; {_count(found.after, 'line')} after it"
    for runs, words in (
        (found.unlisted, "from before the list, so only their own chains speak for them"),
        (found.late, "listed late, by tend: what was done to the journal before that does not show"),
        (found.open, "with lines that no end covers, as a session goes on or was cut off"),
    ):
        if runs:
            yield f"{_count(len(runs), kind)} {words}: {_named(runs)}"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' * (number != 1)}"


def _named(runs: Sequence[str]) -> str:
    return ", ".join(runs[:_NAMED]) + (f" … (--json names all {len(runs):,})" if len(runs) > _NAMED else "")
