"""Reads and verifies a journal. Takes no lock, writes nothing, needs only read permission (J5).

Reads in blocks, so memory does not grow with the file. Each block starts at the start of a line, and the bytes after
its last newline are read again with the next block. So a reader never joins the halves of two different lines.

The journal of a run with shards (format 2) is one stream of the lines of many chains, as they were committed; each
chain is checked by itself, and an `end` of the run that lists the heads of all is compared with where they stand.
"""

from __future__ import annotations

import gc
import os
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.errors import JournalCorruptError, JournalVersionError, UsageError
from engine.journal.ledger import Ledger
from engine.journal.lines import (
    GENESIS,
    BadLineError,
    NewerLineError,
    decode,
    decode_block,
    decode_chains,
    decode_unchecked,
    shard_genesis,
    shard_of,
)
from engine.journal.records import Approved, CallLine, End, Note, Run, Session, Settled, ShardLine
from engine.journal.sense import Sense, is_time
from engine.journal.shards import apply_to_run, counts_for_run
from engine.model import Call
from engine.outside.trust import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from engine.journal.records import AnyRecord
    from engine.model import CallId

ASIDE = "aside.jsonl"
"""Name of the journal beside a run's own, for what is said of the run later: links, releases, new ends of holds."""
BLOCK_BYTES = 1 << 20
MOST_LINE = 16 << 20
"""Most bytes of a line; no run writes a longer one."""
_END_BYTES = 1 << 14
_TAIL_BYTES = 1 << 16
"""Enough for an `end` and the notes of many undos behind it."""
_HEX = frozenset("0123456789abcdef")


class Stored:
    """The lines of a journal that is no file; its text says where they are, for a person."""

    def open(self) -> int:
        """Return the descriptor of a file with its lines; raise UsageError if they cannot be read."""
        raise NotImplementedError

    def beside(self) -> Stored | None:
        """Return what stands beside it; None if nothing does."""
        raise NotImplementedError


class Replay(Struct, kw_only=True):
    """A journal folded into a ledger, and where it ends."""

    ledger: Ledger
    head: str
    """Hash of the last whole line of the run's own chain."""
    seq: int
    """Number of the lines of the run's own chain."""
    size: int
    """Bytes up to and with the last newline."""
    torn_bytes: int
    """Bytes after the last newline: a write that a crash cut short, or one under way."""
    path: Path | Stored
    lines: int
    """Number of the lines of all chains."""
    heads: dict[int, tuple[int, str]]
    """Number of each shard → its lines, and the hash that its next line is chained to."""

    @property
    def ends(self) -> dict[int, tuple[int, str]]:
        """Number of each chain → its lines, and the hash that its next line is chained to; 0 is the run's own."""
        return {0: (self.seq, self.head), **self.heads}


class Verification(Struct, frozen=True, kw_only=True):
    """What `journal verify` found in a journal whose chain holds."""

    path: Path | Stored
    run: str
    lines: int
    """Lines of the run's own chain; those of its shards are counted beside."""
    head: str
    torn_bytes: int
    aside_lines: int
    """Lines of the journal beside it, which holds links, releases and new ends of holds."""
    after: int
    """Lines, of shards too, that follow the line whose head was given; 0 if none was."""
    approved: int
    """Signatures of its plan that it has."""
    settled_twice: tuple[CallId, ...]
    """Calls with more than one `settled`; empty unless the writer broke J3."""
    shards: int
    """Shards of its plan; 0: it has one chain."""
    shard_lines: int
    """Lines of the chains of all shards."""


class ReadableCalls(Struct, frozen=True, kw_only=True):
    """The calls of a journal's plan, as far as its lines can be read one by one, whether or not its chain holds."""

    calls: tuple[Call, ...]
    is_all: bool
    """Whether these are all: the first line is as written, and names as many."""


class Walk:
    """One pass over the lines of a journal; afterwards its attributes say where the lines end.

    `seq` and `head` are those of the run's own chain, `heads` those of its shards: number → lines, and the hash that
    the next line is chained to. `heads` is empty until all shards of the plan are named.
    """

    def __init__(self, path: Path | Stored, block_bytes: int = BLOCK_BYTES, *, of: Run | None = None) -> None:
        """`of`: the first line of the run, if `path` is the journal beside its own: the chain begins there."""
        self.path = path
        self.head = of.hash if of is not None else GENESIS
        self.seq = 0
        self.size = 0
        self.torn_bytes = 0
        self.run = of
        self.heads: dict[int, tuple[int, str]] = {}
        self._of_shards = 0
        """How many lines of shards were read."""
        self._v = of.v if of is not None else None
        self._has_shards = False
        self._sense = Sense(of)
        self._block_bytes = block_bytes

    @property
    def lines(self) -> int:
        """How many lines of all chains were read."""
        return self.seq + self._of_shards

    def records(self) -> Generator[AnyRecord, None, None]:
        """Yield the record of every whole line, in order."""
        with closing(self.blocks()) as blocks:
            for block in blocks:
                yield from block

    def blocks(self) -> Generator[Sequence[AnyRecord], None, None]:
        """Yield the records of whole lines, many at a time."""
        length = self._block_bytes
        fd = _open(self.path)
        try:
            while True:
                block = os.pread(fd, length, self.size)
                end = block.rfind(b"\n") + 1
                if end:
                    yield from self._block(block[:end])
                    self.size += end
                elif len(block) == length:
                    if length >= MOST_LINE:
                        raise self.senseless(self.lines + 1, f"it is longer than {MOST_LINE >> 20} MiB")
                    length *= 2
                    continue
                if len(block) < length:
                    self.torn_bytes = len(block) - end
                    break
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read: {error.strerror}") from error
        finally:
            os.close(fd)
        if not self.seq and self.run is None:
            raise UsageError(f"{self.path}: holds no whole line, so no run: not a journal, or cut to nothing")

    def _block(self, block: bytes) -> Iterator[Sequence[AnyRecord]]:
        # The whole block at once is fast. One by one finds the run, and the number of a bad line.
        if self._has_shards:
            yield from self._block_of_chains(block)
            return
        run = self.run
        records = decode_block(block, self.seq + 1, self.head, run.run, v=self._v or 1) if run is not None else None
        if records is None:
            for record in self._one_by_one(block):
                yield (record,)
        else:
            if (found := self._sense.first_problem(records)) is not None:
                at, why = found
                yield records[:at]
                raise self.senseless(records[at].seq, why)
            yield records
            self.seq, self.head = records[-1].seq, records[-1].hash

    def _block_of_chains(self, block: bytes) -> Iterator[Sequence[AnyRecord]]:
        assert self.run is not None
        decoded = decode_chains(block, {0: (self.seq, self.head), **self.heads}, self.run.run)
        if decoded is None:
            for record in self._one_by_one(block):
                yield (record,)
            return
        records, ends = decoded
        if (found := self._first_fault(records)) is not None:
            at, why = found
            yield records[:at]
            raise self.senseless(self.lines + at + 1, _where(records[at].shard, records[at].seq) + why)
        yield records
        before = self.seq
        self.seq, self.head = ends.pop(0)
        self._of_shards += len(records) - (self.seq - before)
        self.heads = ends

    def _first_fault(self, records: Sequence[AnyRecord]) -> tuple[int, str] | None:
        """Return the index of the first record that makes no sense in its chain, and why; None if all do."""
        found = self._sense.first_problem(records)
        if self._has_shards:
            found = self._sense.first_misplaced(records if found is None else records[: found[0]]) or found
        return found

    def _one_by_one(self, block: bytes) -> Iterator[AnyRecord]:
        for line in block[:-1].split(b"\n"):
            number = self.lines + 1
            no = shard_of(line) if self._has_shards else 0
            if no and no not in self.heads:
                raise JournalCorruptError(f"{self.path}:{number}: a line of shard {no}, which {self._why_unknown()}")
            seq, head = self.heads[no] if no else (self.seq, self.head)
            seq += 1
            try:
                record = decode(line, seq, head, self.run.run if self.run else None, shard=no, v=self._v)
                if self.run is None and not isinstance(record, Run):
                    raise BadLineError("not a `run`, which every journal begins with")
            except BadLineError as error:
                raise JournalCorruptError(f"{self.path}:{number}: {_where(no, seq)}{error}") from error
            except NewerLineError as error:
                by = f" (acctops {self.run.version} began it)" if self.run else ""
                raise JournalVersionError(
                    f"{self.path}:{number}: journal from a newer version of acctops{by}: {error}; "
                    "use the version that wrote it, or a newer one"
                ) from error
            if (found := self._first_fault((record,))) is not None:
                raise self.senseless(number, _where(no, seq) + found[1])
            self._take(record, number)
            yield record

    def _take(self, record: AnyRecord, number: int) -> None:
        """Take in where the chain of a record ends now."""
        if record.shard:
            self.heads[record.shard] = (record.seq, record.hash)
            self._of_shards += 1
            return
        self.seq, self.head = record.seq, record.hash
        if isinstance(record, Run):
            self.run, self._v, self._has_shards = record, record.v, record.shards > 0
        elif isinstance(record, ShardLine) and self.run is not None and record.no == self.run.shards:
            self.heads = {no: (0, shard_genesis(record.hash, no)) for no in range(1, record.no + 1)}
        elif isinstance(record, End) and record.heads:
            self._check_heads(record, number)

    def _why_unknown(self) -> str:
        due, named = self.run.shards if self.run is not None else 0, self._sense.shards
        return "the plan does not have" if named == due else f"stands before the plan has named its {due} shards"

    def _check_heads(self, end: End, number: int) -> None:
        """Raise JournalCorruptError unless each shard stands where an `end` of the run says."""
        told = dict(end.heads)
        for no, (seq, head) in self.heads.items():
            listed = told.pop(str(no), None)
            if listed is None and seq:
                raise JournalCorruptError(
                    f"{self.path}:{number}: the end lists no head of shard {no}, which has {seq:,} lines"
                )
            if listed is not None and (listed != head or not seq):
                raise JournalCorruptError(
                    f"{self.path}:{number}: the end lists {listed[:64]} as head of shard {no}, whose {seq:,} lines end "
                    f"with {head}: lines of shard {no} were cut, or written anew"
                )
        if told:
            raise JournalCorruptError(
                f"{self.path}:{number}: the end lists shard {next(iter(told))[:40]!r}, which the plan does not have"
            )

    def senseless(self, number: int, why: str) -> JournalCorruptError:
        """Return the error that a line says what no run writes."""
        return JournalCorruptError(f"{self.path}:{number}: makes no sense: {why}")

    def check_plan(self, calls: int) -> None:
        """Raise JournalCorruptError if the file ends within the plan: it was renamed into place with all of it (J1).

        Its waves are of the plan: a call in no wave would never begin.
        """
        due = self.run.counts.get("calls", 0) if self.run else 0
        if self.run is not None and self._sense.shards < self.run.shards:
            raise JournalCorruptError(
                f"{self.path}:{self.lines}: ends within the plan: {self._sense.shards} of {self.run.shards} shards; "
                "the file was cut"
            )
        if self.run is not None and self.run.settings.waves is not None and self._sense.in_waves < calls:
            raise JournalCorruptError(
                f"{self.path}:{self.lines}: ends within the plan: {self._sense.in_waves} of {calls} calls are in a "
                "wave; the file was cut"
            )
        if calls < due:
            raise JournalCorruptError(
                f"{self.path}:{self.lines}: ends within the plan: {calls} of {due} calls; the file was cut"
            )


def _where(no: int, seq: int) -> str:
    """Return the words for a line of a shard's chain; none for one of the run's own."""
    return f"shard {no}, line {seq}: " if no else ""


def _open(path: Path | Stored) -> int:
    if isinstance(path, Stored):
        return path.open()
    try:
        return open_regular(path)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such journal") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a name with NUL in it
        raise UsageError(f"{str(path)!r}: cannot be read: {error}") from error


def read(path: Path | Stored) -> Iterator[AnyRecord]:
    """Yield the records of a journal, verified, in order; ignore a torn tail (J1).

    Raises UsageError if there is nothing to read, JournalCorruptError at the first bad line, JournalVersionError at
    the first line this version does not know.
    """
    return Walk(path).records()


def read_aside(path: Path | Stored, of: Run) -> Iterator[AnyRecord]:
    """Yield the records beside the journal at `path`, whose first line is `of`; none if there is no such file.

    Raises what `read` raises.
    """
    beside = path.beside() if isinstance(path, Stored) else path.with_name(ASIDE)
    if beside is not None and (isinstance(beside, Stored) or os.path.lexists(beside)):
        yield from Walk(beside, of=of).records()


def replay(path: Path | Stored) -> Replay:
    """Verify a journal and fold it into a ledger, with what stands beside it; raise what `read` raises."""
    walk = Walk(path)
    collecting = gc.isenabled()
    gc.disable()  # measured: a million objects are made here and none is dropped, so no pass would free any
    record: AnyRecord | None = None
    at = 0
    """The line of the stream, if that is another number than the record's in its chain."""
    try:
        records = chain.from_iterable(walk.blocks())
        record = first = next(records)
        assert isinstance(first, Run), "the walk refuses a journal that begins otherwise"
        ledger = Ledger(first)
        apply = ledger.apply
        if first.shards:
            for at, record in enumerate(records, 2):  # noqa: B007 - the error below names it
                apply_to_run(ledger, record)
            at = 0
        else:
            for record in records:
                apply(record)
        for record in read_aside(path, first):
            apply(record)
    except (ValueError, OverflowError) as error:  # a `sent_at` that is no time
        raise walk.senseless(at or (record.seq if record is not None else 0), str(error)) from error
    finally:
        if collecting:
            gc.enable()
    # A call that was left out later is not in the ledger, unless it was settled before, but an `omit` names it.
    left_out = {omit.call for omit in ledger.omits if omit.call is not None}
    walk.check_plan(len(ledger.calls) + len(left_out - ledger.calls.keys()))
    return Replay(
        ledger=ledger,
        head=walk.head,
        seq=walk.seq,
        size=walk.size,
        torn_bytes=walk.torn_bytes,
        path=walk.path,
        lines=walk.lines,
        heads=walk.heads,
    )


def verify(
    path: Path | Stored, head: str | None = None, *, each: Callable[[AnyRecord], None] = lambda _: None
) -> Verification:
    """Check every line of a journal and of the one beside it, and that `head`, if given, is the head of a line.

    `each` is called with each record, in order.

    The chain alone cannot show that the end was cut or the whole rewritten; a head kept elsewhere can.
    """
    if head is not None:
        head = head.strip().lower()
        if len(head) != len(GENESIS) or not _HEX.issuperset(head):
            raise UsageError(f"--head: {head!r} is not a head: 64 hexadecimal digits are")
    walk = Walk(path)
    calls = approved = 0
    head_line: int | None = None
    of_shard: AnyRecord | None = None
    settled: set[CallId] = set()
    twice: dict[CallId, None] = {}
    for line, record in enumerate(walk.records(), 1):
        each(record)
        if record.hash == head:
            if record.shard:
                of_shard = record
            else:
                head_line = line
        if isinstance(record, CallLine):
            calls += 1
        elif isinstance(record, Approved):
            approved += 1
        elif isinstance(record, Settled):
            if record.call in settled:
                twice[record.call] = None
            settled.add(record.call)
    walk.check_plan(calls)
    assert walk.run is not None
    aside = sum(1 for _ in read_aside(path, walk.run))
    if of_shard is not None:
        raise UsageError(
            f"--head: {head} is line {of_shard.seq} of shard {of_shard.shard}, and says nothing of the rest: give the "
            "head that the run printed at its end, or that of another line without a shard"
        )
    if head is not None and head_line is None:
        raise JournalCorruptError(
            f"{path}:{walk.lines}: the chain holds, but ends with {walk.head}, and the given {head} is nowhere in it: "
            "the journal was cut or rewritten, or the head is another journal's"
        )
    return Verification(
        path=path,
        run=walk.run.run,
        lines=walk.seq,
        head=walk.head,
        torn_bytes=walk.torn_bytes,
        aside_lines=aside,
        after=walk.lines - head_line if head_line is not None else 0,
        approved=approved,
        settled_twice=tuple(twice),
        shards=walk.run.shards,
        shard_lines=walk.lines - walk.seq,
    )


def readable_calls(path: Path | Stored) -> ReadableCalls:
    """Return the calls of the plan that can be read line by line; what is no line of a plan is passed over.

    For a journal whose chain does not hold: what its run may hold must be known nevertheless. Stops behind the plan.
    """
    calls: dict[CallId, Call] = {}
    due: int | None = None
    at = number = 0
    try:
        fd = _open(path)
    except UsageError:
        return ReadableCalls(calls=(), is_all=False)
    try:
        while block := os.pread(fd, BLOCK_BYTES, at):
            end = block.rfind(b"\n") + 1
            if not end:
                break  # a line longer than any of a plan
            at += end
            for line in block[: end - 1].split(b"\n"):
                number += 1
                if number == 1:
                    due = _calls_due(line)
                elif b',"kind":"call",' in line and isinstance(record := decode_unchecked(line), CallLine):
                    calls[record.call] = Call(
                        record.call, record.action, record.account, record.region, record.instance, record.user
                    )
            if due is not None and len(calls) >= due:
                break
    except OSError:
        due = None
    finally:
        os.close(fd)
    return ReadableCalls(calls=tuple(calls.values()), is_all=due is not None and len(calls) == due)


def _calls_due(line: bytes) -> int | None:
    """Return how many calls the first line says there are; None if it is not as it was written."""
    try:
        first = decode(line, 1, GENESIS, None)
    except (BadLineError, NewerLineError):
        return None
    return first.counts.get("calls", 0) if isinstance(first, Run) else None


def first_record(path: Path | Stored) -> Run:
    """Return the `run` line alone, verified: cheap, whatever the size of the journal."""
    with closing(Walk(path, _END_BYTES).records()) as lines:
        record = next(lines)
    assert isinstance(record, Run)
    return record


def last_end(path: Path | Stored) -> End | None:
    """Return the `end` of the last session; None if it wrote none.

    Notes may follow an `end`: a notice of it that failed, or the link of a later rerun or undo. Any other record
    behind the last `end` shows that a later session wrote no `end`. So does a line of a shard that counts for the
    run and is no note; what else stands in the chain of a shard, its ends too, says nothing of the run's end.
    """
    fd = _open(path)
    try:
        size = os.fstat(fd).st_size
        lines = os.pread(fd, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).split(b"\n")
    finally:
        os.close(fd)
    for line in reversed(lines[:-1]):
        record = decode_unchecked(line)
        if record is not None and record.shard and (isinstance(record, Note) or not counts_for_run(record)):
            continue
        if not isinstance(record, Note):
            if not isinstance(record, End):
                return None
            if not is_time(record.at):
                raise JournalCorruptError(f"{path}:{record.seq}: makes no sense: at is no time: {record.at[:40]!r}")
            return record
    return None


def last_holder(path: Path | Stored) -> Run | Session | None:
    """Return the last `session` line of the run's chain, else the `run` line; None if neither is found.

    Unchecked, for messages (J5).
    """
    fd = _open(path)
    holder: Run | Session | None = None
    at = 0
    try:
        while block := os.pread(fd, BLOCK_BYTES, at):
            end = block.rfind(b"\n") + 1
            for line in block[:end].split(b"\n") if not at or b',"kind":"session",' in block else ():
                if not at or b',"kind":"session",' in line:
                    record = decode_unchecked(line)
                    if isinstance(record, Session):
                        holder = holder if record.shard else record
                    elif isinstance(record, Run) and holder is None:
                        holder = record
            at += end or len(block)
    finally:
        os.close(fd)
    return holder
