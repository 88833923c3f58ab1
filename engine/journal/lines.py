"""Turns records into lines and back; each line is chained to the one before. No I/O, no clock.

    {"v":1,"seq":7,"at":"2026-11-22T03:13:21.123Z","run":"ID","kind":"sent",…,"hash":"HEX"}

`hash` is hex SHA-256 over the hash of the line before (64 zeros at first) and the line as written without
`,"hash":"…"` and without newline. The chain is the same in every format: a line with a higher `v` or an unknown kind
is checked the same way, so "from a newer version" and "edited" are never confused.

A run that is divided into shards (format 2) has a chain for each, beside its own. A line of such a chain has its
number, `seq` counts within the chain, and the chain begins with `shard_genesis`:

    {"v":2,"seq":1,"at":"2026-11-22T03:13:21.123Z","run":"ID","shard":3,"kind":"sent",…,"hash":"HEX"}
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from engine.journal.records import FORMAT, AnyRecord, End, ShardLine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.journal.records import Record

GENESIS = "0" * 64
"""The hash that the first line is chained to."""

_HASH = b',"hash":"'
_SEAL = len(_HASH) + 64 + len(b'"}')
"""Bytes of a line from `,"hash":"` to the closing brace; its own hash covers none of them but the brace."""

_SHARD = re.compile(rb'\{"v":[0-9]+,"seq":[0-9]+,"at":"[^"]*","run":"[^"]*","shard":([0-9]{1,10}),').match

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(AnyRecord)


class BadLineError(ValueError):
    """A line is not what was written at this place; the text says why."""


class NewerLineError(ValueError):
    """A line was written by a newer version, and its chain holds."""


def shard_genesis(plan_head: str, no: int) -> str:
    """Return the hash that the first line of shard `no` is chained to; `plan_head` is that of the last `shard` line."""
    return sha256(f"{plan_head}/{no}".encode()).hexdigest()


def shard_of(line: bytes) -> int:
    """Return the number of the shard that a line says it is of, unchecked; 0 if it names none."""
    found = _SHARD(line)
    return int(found[1]) if found is not None else 0


class Chain:
    """The end of a chain: the number of its lines, and the hash of the last."""

    __slots__ = ("_of", "head", "run", "seq", "shard", "v")

    def __init__(self, run: str, seq: int = 0, head: str = GENESIS, *, shard: int = 0, v: int = 1) -> None:
        """`shard`: the shard whose chain it is; `v`: the format, 2 for every chain of a run that has shards."""
        if shard and v < 2:
            raise ValueError(f"format {v} has no shards")
        self.run = run
        self.seq = seq
        self.head = head
        self.shard = shard
        self.v = v
        self._of = _ENCODER.encode(run) + (b',"shard":%d' % shard if shard else b"")

    def add(self, record: Record, at: str) -> bytes:
        """Return the next line, newline included; fill the envelope of `record`, so that it equals what a reader gets.

        Raises TypeError, and adds nothing, if a reader could not decode the line: a wrong type written now would make
        the whole journal unreadable later. Raises ValueError if the record was added before.
        """
        if record.seq:
            raise ValueError(f"{type(record).__name__} was appended before, as line {record.seq}")
        record.shard = 0  # the envelope below has it
        body = _body(record)
        seq = self.seq + 1
        content = b'{"v":%d,"seq":%d,"at":"%b","run":%b,%b' % (self.v, seq, at.encode(), self._of, body[1:])
        head = sha256(self.head.encode() + content).hexdigest()
        record.v, record.seq, record.at, record.run, record.hash = self.v, seq, at, self.run, head
        record.shard = self.shard
        self.seq, self.head = seq, head
        return b'%b,"hash":"%b"}\n' % (content[:-1], head.encode())


def _body(record: Record) -> bytes:
    try:
        body = _ENCODER.encode(record)
    except UnicodeEncodeError:
        # A file name or argument is not UTF-8. The record of a call already sent must not be lost for that.
        body = _ENCODER.encode(_printable(msgspec.to_builtins(record)))
    try:
        _DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise TypeError(f"{type(record).__name__} would not be readable: {error}") from error
    return body


def _printable(value: Any) -> Any:
    # Any: JSON of any shape. The same shape is returned, with lone surrogates as \udcXX text.
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(item) for item in value]
    return value


def decode(line: bytes, seq: int, head: str, run: str | None, *, shard: int = 0, v: int | None = None) -> AnyRecord:
    """Return the record of one line (without newline): number `seq` of the chain of `shard`, chained to `head`.

    It must be of `run` and of format `v`, if given. Raises BadLineError or NewerLineError.
    """
    found = sha256(head.encode() + line[:-_SEAL] + b"}").hexdigest()
    if line[-_SEAL:] != b'%b%b"}' % (_HASH, found.encode()):
        raise BadLineError(_why_bad(line, seq, run))
    try:
        record: AnyRecord = _DECODER.decode(line)
    except RecursionError as error:
        raise BadLineError("is nested too deep: no run writes such a line") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if _is_of_a_newer(line, str(error)):
            raise NewerLineError(str(error)) from error
        raise BadLineError(f"makes no sense: {error}") from error
    if record.v > FORMAT:
        raise NewerLineError(f"format {record.v}, this version knows {FORMAT}")
    if record.v < 1 or record.seq != seq or (run is not None and record.run != run):
        raise BadLineError(_why_bad(line, seq, run))
    if v is not None and record.v != v:
        raise BadLineError(f"is of format {record.v}, in a journal of format {v}")
    if record.shard != shard:
        raise BadLineError(f"is of shard {record.shard}, in the chain of {f'shard {shard}' if shard else 'the run'}")
    return record


def _is_of_a_newer(line: bytes, why: str) -> bool:
    """Return whether a line cannot be decoded because it is newer: a higher format, or an unknown kind or word."""
    try:
        version = msgspec.json.decode(line, type=_Version).v
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return version > FORMAT or why.startswith("Invalid value") or "Invalid enum value" in why


class _Version(msgspec.Struct):
    v: int = 0


def _why_bad(line: bytes, seq: int, run: str | None) -> str:
    """Return the most telling reason why a line is bad."""
    if b"\0" in line:
        return "holds NUL bytes: the disk lost data, or the file was edited"
    try:
        fields = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "not JSON: the line was edited or damaged"
    if not isinstance(fields, dict):
        return "not a JSON object: the line was edited"
    if run is not None and fields.get("run") != run:
        return f"belongs to run {fields['run']!r}, not {run!r}" if fields.get("run") else "names no run"
    found = fields.get("seq")
    if not isinstance(found, int):
        return "has no seq: the line was edited"
    if found > seq:
        return f"seq is {found} where {seq} is due: lines were dropped or moved"
    if found < seq:
        return f"seq is {found} where {seq} is due: a line was repeated or moved"
    if not isinstance(fields.get("v"), int) or fields["v"] < 1:
        return "has no version: the line was edited"
    return "the hash differs: this line, or the one before it, was edited"


def decode_unchecked(line: bytes) -> AnyRecord | None:
    """Return the record of one line without checking the chain; None if this version cannot decode it."""
    try:
        record: AnyRecord = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return record if 1 <= record.v <= FORMAT else None


def decode_block(block: bytes, seq: int, head: str, run: str, *, shard: int = 0, v: int = 1) -> list[AnyRecord] | None:
    """Return the records of whole lines of one chain, the first of which must be number `seq`; None if any is bad.

    This is the fast way, for journals of a million lines. `decode` names the bad line.
    """
    last = head.encode()
    hash_of = sha256
    for line in block[:-1].split(b"\n"):
        last = hash_of(last + line[:-_SEAL] + b"}").hexdigest().encode()
        if line[-_SEAL:] != b',"hash":"' + last + b'"}':
            return None
    try:
        records: list[AnyRecord] = _DECODER.decode_lines(block)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    for record in records:
        if record.seq != seq or record.run != run or record.v != v or record.shard != shard:
            return None
        seq += 1
    return records


def decode_chains(
    block: bytes, ends: Mapping[int, tuple[int, str]], run: str
) -> tuple[list[AnyRecord], dict[int, tuple[int, str]]] | None:
    """Return the records of whole lines of the many chains of a run with shards, and where the chains end then.

    `ends`: number of each shard → seq and hash of its last line; 0 is the run's own chain. None if any line is bad,
    or makes chains begin or says where they end: such lines are to be looked at one by one.
    """
    heads = {no: head.encode() for no, (_, head) in ends.items()}
    of: list[int] = []
    for line in block[:-1].split(b"\n"):
        found = _SHARD(line)
        no = int(found[1]) if found is not None else 0
        if (last := heads.get(no)) is None:
            return None
        heads[no] = last = sha256(last + line[:-_SEAL] + b"}").hexdigest().encode()
        if line[-_SEAL:] != b',"hash":"' + last + b'"}':
            return None
        of.append(no)
    try:
        records: list[AnyRecord] = _DECODER.decode_lines(block)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    seqs = {no: seq for no, (seq, _) in ends.items()}
    for record, no in zip(records, of, strict=True):
        seqs[no] += 1
        if record.seq != seqs[no] or record.shard != no or record.run != run or record.v != FORMAT:
            return None
        kind = type(record)
        if kind is ShardLine or (kind is End and not no):
            return None
    return records, {no: (seqs[no], head.decode()) for no, head in heads.items()}
