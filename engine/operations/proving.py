"""Check all runs of a store against the list of their ends, and the list against its seals. Reads only.

What is found is said for each run. A fault is what nobody but an attacker, a defect or a lost disk brings about. What
has an innocent reason, too, is listed and is no fault: runs from before the list, ends that were listed late, sessions
that have not ended.
"""

from __future__ import annotations

import base64
import binascii
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import AcctopsError, JournalCorruptError, Reason
from engine.journal.heads import HEADS
from engine.journal.heads import SEALS as SEALS_FILE
from engine.journal.records import End, unix_seconds
from engine.operations.events import Looking
from engine.operations.stores import store_of
from engine.outside.sshkeys import SEALS, Signers, SshKeyError, check, check_by, fingerprint_of, keys_in, read_signers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.inputs.sealing import SealSpec
    from engine.journal.heads import HeadLine, Seal
    from engine.journal.protocols import RunRef, Runs
    from engine.journal.reader import Verification
    from engine.journal.records import AnyRecord
    from engine.operations.events import Tell
    from engine.operations.terms import Terms

_OFTEN = 500
"""After so many signatures a sign of life is told."""
_AT_A_TIME = 4
"""Signatures that are checked at a time: each starts a program of some milliseconds."""


class Fault(Struct, frozen=True, kw_only=True):
    """What does not hold."""

    run: str | None
    """The run; None if it is about the list of ends itself."""
    words: str
    is_corrupt: bool = True
    """Whether something was changed; else it could not be checked."""


class Proven(Struct, frozen=True, kw_only=True):
    """What the check of one store has shown: its real runs, or its simulated ones."""

    place: str
    """Directory of the runs, or their database."""
    simulated: bool
    runs: int
    """Runs whose chains hold."""
    last: HeadLine | None
    """The last line of the list of ends; None if there is no list."""
    sealed: int
    """Lines whose signature holds and is of a key that counts."""
    unvouched: int
    """Lines whose signature holds, and of whose key no config says that it counts."""
    stamped: int
    """Lines with a time stamp that somebody named in the config vouches for."""
    unvouched_stamps: int
    """Lines with a time stamp of their bytes, and nobody named who vouches for it."""
    unlisted: tuple[str, ...]
    """Runs from before the first line of the list."""
    late: tuple[str, ...]
    """Runs whose last end was listed, or sealed, late."""
    open: tuple[str, ...]
    """Runs with lines that no end covers: a session that goes on, or was cut off."""
    after: int | None
    """Lines that follow the line that was asked for; None if none was."""
    faults: tuple[Fault, ...]

    @property
    def reason(self) -> Reason:
        """CORRUPT if something was changed; INCOMPLETE if something could not be checked; else OK."""
        if any(fault.is_corrupt for fault in self.faults):
            return Reason.CORRUPT
        return Reason.INCOMPLETE if self.faults else Reason.OK


def prove_all(terms: Terms, line: str | None) -> tuple[Proven, ...]:
    """Check the real runs of the state directory, and the simulated ones if there are any.

    `line` is the hash of a line of the list that was kept elsewhere; it must be in the list of the real runs.
    """
    settings = terms.settings(None)
    found = [prove(terms, store_of(settings, simulated=False), settings.seal, line)]
    practice = store_of(settings, simulated=True)
    if practice.names() or practice.lost():
        found.append(prove(terms, practice, settings.seal, None))
    return tuple(found)


def verify_listed(ref: RunRef, head: str | None) -> tuple[Verification, HeadLine | None, str | None]:
    """Check the chain of one journal in one pass; return what was found, its last line in the list, and a problem.

    The problem is None if the journal is as listed. JournalCorruptError if its chain, or that of the list, does not
    hold; of a journal outside of a store nothing is listed.
    """
    lines = [line for line in ref.store.listed() if line.run == ref.run_id] if ref.store is not None else []
    seen = _Seen(lines)
    found = ref.verify(head, each=seen.look)
    return found, lines[-1] if lines else None, seen.problem(ref.place)


class _Seen:
    """The records of one journal, compared with the lines about it in the list."""

    def __init__(self, lines: Sequence[HeadLine]) -> None:
        self._lines = lines
        self._hashes: dict[int, str] = dict.fromkeys((line.lines for line in lines), "")
        self.last_end: End | None = None
        self.count = 0

    def look(self, record: AnyRecord) -> None:
        """Take in the next record."""
        if record.shard:  # the list names lines of the run's own chain, and its ends cover the others
            return
        self.count = record.seq
        if record.seq in self._hashes:
            self._hashes[record.seq] = record.hash
        if isinstance(record, End):
            self.last_end = record

    def problem(self, place: str) -> str | None:
        """Return why the journal is not as listed, in words; None if it is."""
        for line in self._lines:
            if self.count < line.lines:
                return (
                    f"{place}: has {self.count:,} lines, and had {line.lines:,} when line {line.seq} of the list was "
                    "written: its end was cut off, or it is an older copy"
                )
            if self._hashes[line.lines] != line.head:
                return (
                    f"{place}:{line.lines}: is not the line whose hash line {line.seq} of the list has: the journal "
                    "was written anew"
                )
        return None


def prove(terms: Terms, store: Runs, spec: SealSpec | None, kept: str | None) -> Proven:
    """Check one store. Runs may end meanwhile: what is listed after the list was read is no fault."""
    faults: list[Fault] = []
    listed, seals, is_known = _lists(store, faults)
    of_run: dict[str, list[HeadLine]] = {}
    for line in listed:
        of_run.setdefault(line.run, []).append(line)
    first_at = unix_seconds(listed[0].at) if listed else None
    names = store.names()
    words = [_of_run(terms, store, run_id, of_run.get(run_id, []), first_at) for run_id in reversed(names)]
    faults += [Fault(run=each.run, words=each.fault, is_corrupt=each.is_corrupt) for each in words if each.fault]
    if is_known:
        faults += _gone(store, of_run, names)
    sealing = _Sealing(store, spec, terms.tell)
    if is_known:
        sealing.check(listed, seals)
    faults += sealing.faults
    after = next((listed[-1].seq - line.seq for line in listed if line.hash == kept), None)
    if kept is not None and after is None:
        what = (
            f"the line with the hash {kept} is not in {HEADS} of the real runs: lines were removed, it was written "
            "anew, or the hash is that of simulated ones"
        )
        faults.append(Fault(run=None, words=what))
    return Proven(
        place=store.place,
        simulated=store.simulated,
        runs=sum(each.fault is None for each in words),
        last=listed[-1] if listed else None,
        sealed=sealing.sealed,
        unvouched=sealing.unvouched,
        stamped=sealing.stamped,
        unvouched_stamps=sealing.unvouched_stamps,
        unlisted=tuple(each.run for each in words if each.is_unlisted),
        late=tuple(run for run, lines in of_run.items() if lines[-1].late),
        open=tuple(each.run for each in words if each.is_open),
        after=after,
        faults=tuple(faults),
    )


def _lists(store: Runs, faults: list[Fault]) -> tuple[Sequence[HeadLine], Sequence[Seal], bool]:
    """Return the list of ends, its seals, and whether both can be read; what cannot is a fault."""
    listed: Sequence[HeadLine] = ()
    seals: Sequence[Seal] = ()
    before = len(faults)
    try:
        listed = store.listed()
    except AcctopsError as error:
        faults.append(Fault(run=None, words=str(error)))
    try:
        seals = store.seals() if len(faults) == before else ()
    except AcctopsError as error:
        faults.append(Fault(run=None, words=str(error)))
    return listed, seals, len(faults) == before


class _Word(Struct, frozen=True, kw_only=True):
    """What the check of one run has shown."""

    run: str
    fault: str | None = None
    is_corrupt: bool = True
    is_unlisted: bool = False
    is_open: bool = False


def _of_run(terms: Terms, store: Runs, run_id: str, lines: Sequence[HeadLine], first_at: float | None) -> _Word:
    """Check the journal of a run by itself, its approvals, and against the `lines` about it in the list."""
    seen = _Seen(lines)
    try:
        ref = store.ref(run_id)
        if ref.store is None:
            raise JournalCorruptError(f"{ref.place}: is run {ref.run_id} by its first line: a copy, or moved here")
        if ref.verify(None, each=seen.look).approved:
            from engine.operations.approving import check_recorded  # here: most runs need no approval

            check_recorded(terms, run_id)
    except AcctopsError as error:
        return _Word(run=run_id, fault=str(error), is_corrupt=isinstance(error, JournalCorruptError))
    if (why := seen.problem(ref.place)) is not None:
        return _Word(run=run_id, fault=why)
    end, is_live = seen.last_end, store.is_live(run_id)
    is_open = is_live or end is None or bool(lines and seen.count > lines[-1].lines)
    if end is None or (lines and end.seq <= lines[-1].lines):
        return _Word(run=run_id, is_open=is_open)
    if not lines and (first_at is None or unix_seconds(end.at) < first_at):
        return _Word(run=run_id, is_unlisted=True)
    now = store.last_listed(run_id)
    if is_live or (now is not None and now.lines >= end.seq):  # it lists its end in a moment, or has just done so
        return _Word(run=run_id, is_open=True)
    what = (
        f"{ref.place}:{end.seq}: ended at {end.at}, and {HEADS} does not list that end: its line was removed, the "
        f"journal is forged, or the process died just then. If you know this run: acctops tend lists it, late"
    )
    return _Word(run=run_id, fault=what)


def _gone(store: Runs, of_run: Mapping[str, Sequence[HeadLine]], names: Iterable[str]) -> list[Fault]:
    """Return the runs that were removed: those of the list, and those of which files are left."""
    there = set(names)
    found = [
        Fault(run=run, words=f"its journal is gone: line {lines[-1].seq} of {HEADS} lists it ({lines[-1].at})")
        for run, lines in of_run.items()
        if run not in there
    ]
    listed = {fault.run for fault in found}
    return found + [
        Fault(run=run, words="its journal was removed, and its directory is still there")
        for run in store.lost()
        if run not in listed
    ]


class _Sealing:
    """Checks signatures and stamps of a list, and counts them."""

    def __init__(self, store: Runs, spec: SealSpec | None, tell: Tell) -> None:
        self._store = store
        self._spec = spec
        self._tell = tell
        self.sealed = self.unvouched = self.stamped = self.unvouched_stamps = 0
        self.faults: list[Fault] = []

    def check(self, listed: Sequence[HeadLine], seals: Sequence[Seal]) -> None:
        """Check each line of the list, and each seal."""
        lines = {line.hash: line for line in listed}
        for number, seal in enumerate(seals, 1):
            if seal.hash not in lines and not self._is_new(seal, listed):
                what = f"{SEALS_FILE}:{number}: is of line {seal.seq} (run {seal.run}), which {HEADS} does not have"
                self._fault(None, f"{what}: that line was removed")
        signed = {seal.hash: seal.signature for seal in seals if seal.signature is not None}
        stamps = [(lines[seal.hash], seal) for seal in seals if seal.stamp is not None and seal.hash in lines]
        counts = self._who_counts() if signed else None
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            to_check = [line for line in listed if line.hash in signed]
            signers = pool.map(lambda each: _signer(each, signed[each.hash]), to_check)
            for number, (line, by) in enumerate(zip(to_check, signers, strict=True), 1):
                self._signed(line, by, signed[line.hash], counts)
                if number % _OFTEN == 0:  # one takes some milliseconds
                    self._tell(Looking(f"checked {number:,} of {len(to_check):,} signatures"))
            for (line, _), why in zip(stamps, pool.map(self._stamp, stamps), strict=True):
                if why is not None:
                    self._fault(line.run, f"line {line.seq} of {HEADS}: its time stamp: {why}")
                elif self._spec is not None and self._spec.tsa_ca is not None:
                    self.stamped += 1
                else:
                    self.unvouched_stamps += 1
        unsigned = [line for line in listed if line.hash not in signed]
        if any(line.seal is not None for line in unsigned):  # a line is written before its signature
            signed |= {seal.hash: seal.signature for seal in self._store.seals() if seal.signature is not None}
        covered = {line.run: line.seq for line in listed if line.hash in signed}
        for line in unsigned:
            if line.hash not in signed and covered.get(line.run, 0) < line.seq:
                self._unsigned(line)

    def _is_new(self, seal: Seal, listed: Sequence[HeadLine]) -> bool:
        """Return whether a seal is of a line that was added since the list was read."""
        now = self._store.last_listed(seal.run) if seal.seq > len(listed) else None
        return now is not None and now.seq > len(listed)

    def _fault(self, run: str | None, words: str, *, is_corrupt: bool = True) -> None:
        self.faults.append(Fault(run=run, words=words, is_corrupt=is_corrupt))

    def _unsigned(self, line: HeadLine) -> None:
        """Note a line that has no signature, nor has a later line of its run, if it should have one."""
        since = self._spec.required_since if self._spec is not None else None
        if line.seal is not None:
            self._fault(
                line.run, f"line {line.seq} of {HEADS}: was to be signed by {line.seal}, and is not: {_UNSEALED}"
            )
        elif since is not None and unix_seconds(line.at) >= since:
            self._fault(line.run, f"line {line.seq} of {HEADS}: is not signed, and should be (seal.required_since)")

    def _signed(self, line: HeadLine, found: str | SshKeyError, signature: str, counts: _Counts | None) -> None:
        """Count a line whose signature holds, by the key that signed it."""
        where = f"line {line.seq} of {HEADS}: its signature"
        if isinstance(found, SshKeyError):
            self._fault(line.run, f"{where}: {found}")
        elif found != line.seal:
            self._fault(line.run, f"{where} is by {found}, and the line names {line.seal}")
        elif counts is None:
            self.unvouched += 1
        elif (why := counts.why_not(line, found, signature)) is not None:
            self._fault(line.run, f"{where} is by {found}: {why}")
        else:
            self.sealed += 1

    def _stamp(self, pair: tuple[HeadLine, Seal]) -> str | None:
        """Return why a stamp proves nothing; None if it is of the line, and vouched for if the config names by whom."""
        from engine.outside.stamps import StampError, stamped_at  # here: few lists have stamps

        line, seal = pair
        assert seal.stamp is not None
        ca = Path(self._spec.tsa_ca) if self._spec is not None and self._spec.tsa_ca is not None else None
        try:
            stamped_at(line.raw, base64.b64decode(seal.stamp, validate=True), ca)
        except (StampError, binascii.Error, ValueError) as error:
            return str(error)
        return None

    def _who_counts(self) -> _Counts | None:
        """Return whose signatures count; None if no config says so, or if that cannot be read (a fault)."""
        spec = self._spec
        if spec is None or (spec.signers is None and spec.key is None):
            return None
        try:
            if spec.signers is not None:
                return _Counts(read_signers(Path(spec.signers), of_others=False), None)
            assert spec.key is not None
            return _Counts(None, fingerprint_of(Path(spec.key)))
        except SshKeyError as error:
            self._fault(None, f"whose signatures count cannot be known: {error}", is_corrupt=False)
            return None


_UNSEALED = "its seal was removed, or the key did not sign then; acctops tend seals it late, if the key signs now"


class _Counts:
    """Whose signatures count: of the keys in a file of signers, or of one key."""

    def __init__(self, signers: Signers | None, fingerprint: str | None) -> None:
        self._signers = signers
        self._fingerprint = fingerprint
        self._known: tuple[str, ...] | None = None

    def why_not(self, line: HeadLine, fingerprint: str, signature: str) -> str | None:
        """Return why a good signature of a line does not count; None if it does."""
        if self._signers is None:
            if fingerprint == self._fingerprint:
                return None
            return "that is not the key of the config; name all keys that have sealed in a file: seal.signers"
        at = unix_seconds(line.at)
        if re.search(rb"valid-(after|before)", self._signers.data, re.IGNORECASE) is None:
            self._known = self._known if self._known is not None else keys_in(self._signers, at, SEALS)
            return None if fingerprint in self._known else f"{self._signers.path} does not name that key"
        try:
            check_by(line.raw, signature, [self._signers], at, SEALS)
        except SshKeyError as error:
            return str(error)
        return None


def _signer(line: HeadLine, signature: str) -> str | SshKeyError:
    """Return the fingerprint of the key that signed a line, or why the signature does not hold."""
    try:
        return check(line.raw, signature, SEALS)
    except SshKeyError as error:
        return error
