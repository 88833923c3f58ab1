"""Check an evidence bundle of acctops. Needs Python 3.8 or newer, and nothing else: no acctops, no network.

    python3 -I -S verify.py                    checks the folder in which this file lies
    python3 -I -S verify.py FOLDER             checks another folder: a bundle that you do not trust
    python3 -I -S verify.py --with-ssh-keygen  has ssh-keygen check the signatures, too

It changes nothing. It exits 0 if all is as it was written, 1 if something is not (each is named), 2 if it cannot look.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    Lines = dict[int, tuple[bytes, dict[str, Any]]]
    Point = tuple[int, int, int, int]

GENESIS = "0" * 64
SUMS = "SHA256SUMS"
MANIFEST = "MANIFEST.json"
JOURNAL = "journal.jsonl"
TOP = ("MANIFEST.json", "README.txt", "SHA256SUMS", "heads.jsonl", "seals.jsonl", "signers", "verify.py")
OF_RUN = re.compile(
    r"runs/[^/]+/(?:journal\.jsonl|aside\.jsonl|job\.yaml|job\.redacted\.yaml|report\.(?:json|csv|html)"
    r"|approved-[0-9]+\.(?:json|sig))"
)
OF_SEAL = re.compile(r"seals/[0-9]{6,}(?:-[0-9]+)?\.(?:line|sig|tsr)")
LINKS = ("continued_by", "undone_by", "watched_by")
SEAL_SPACE, APPROVAL_SPACE = "acctops-seal@1", "acctops-approve@1"
MOST_LINE, MOST_HEAD = 1 << 26, 1 << 16
MOST_PROBLEMS = 1000
LARGE = re.compile(r"heads\.jsonl|runs/[^/]+/(?:journal\.jsonl|aside\.jsonl|report\.(?:json|csv|html))")
"""Members that are read line by line, or in parts. Others are read at once, so that one of a size that no bundle has
would fill the memory."""
MOST_WHOLE = {"MANIFEST.json": 1 << 22, "SHA256SUMS": 1 << 22, "signers": 1 << 22}


class TooManyError(Exception):
    """So much is wrong that no more need be looked for."""


class Found:
    """What was found: what is wrong, and what should be known."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.remarks: list[str] = []
        self.by_hand: list[tuple[str, str, tuple[str, str], str, str]] = []
        self.manifest: dict[str, Any] = {}
        self.runs = 0
        self.simulated = False
        """Whether a run in the bundle was against the simulator."""

    def bad(self, text: str) -> None:
        """Note something that is not as it was written."""
        self.problems.append(text)
        if len(self.problems) >= MOST_PROBLEMS:
            raise TooManyError

    def note(self, text: str) -> None:
        """Note something that is no fault."""
        self.remarks.append(text)


# ---- the folder ------------------------------------------------------------------------------------------------------


def members(folder: str, found: Found) -> list[str]:
    """Return the names of all files of the folder, sorted; what is no plain file is named."""
    names = []
    for place, directories, files in os.walk(folder):
        for name in sorted(directories + files):
            path = os.path.join(place, name)
            shown = os.path.relpath(path, folder).replace(os.sep, "/")
            found_there = os.lstat(path)
            mode = found_there.st_mode
            if stat.S_ISREG(mode) and not LARGE.fullmatch(shown) and found_there.st_size > _most(shown):
                found.bad(f"{shown}: has {found_there.st_size:,} bytes, as no bundle has; it is not read")
            elif stat.S_ISREG(mode):
                names.append(shown)
            elif not stat.S_ISDIR(mode):
                found.bad(f"{shown}: is no plain file")
            elif not os.listdir(path):
                found.bad(f"{shown}: an empty folder, which no bundle has")
    return sorted(names)


def _most(name: str) -> int:
    return MOST_WHOLE.get(name, MOST_LINE)


def opened(folder: str, name: str) -> BinaryIO:
    """Return a member, open for reading."""
    return open(os.path.join(folder, *name.split("/")), "rb")


def whole_lines(file: BinaryIO, most: int = MOST_LINE) -> Iterator[bytes | None]:
    """Yield each line without its end; None for what is no whole line, or is longer than `most`, and then no more."""
    while line := file.readline(most + 1):
        if not line.endswith(b"\n"):
            yield None
            return
        yield line[:-1]


def content(folder: str, name: str) -> bytes:
    """Return the bytes of a member."""
    with opened(folder, name) as file:
        return file.read()


def digest_of(folder: str, name: str) -> str:
    """Return the SHA-256 of a member in hex."""
    digest = hashlib.sha256()
    with opened(folder, name) as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


def check_sums(folder: str, names: list[str], found: Found) -> None:
    """Name every member that is not what SHA256SUMS lists, is missing, or was added."""
    if SUMS not in names:
        found.bad(f"{SUMS}: is missing, so no member can be compared")
        return
    listed: dict[str, str] = {}
    order: list[str] = []
    for number, line in enumerate(content(folder, SUMS).decode("utf-8", "replace").split("\n")[:-1], 1):
        said = re.fullmatch(r"([0-9a-f]{64})  ([^\x00-\x1f]+)", line)
        if said is None or said.group(2) in listed:
            found.bad(f"{SUMS}:{number}: is no line of this list: {line[:100]!r}")
            continue
        listed[said.group(2)] = said.group(1)
        order.append(said.group(2))
    text = "".join(f"{listed[name]}  {name}\n" for name in order).encode()
    if order != sorted(order) or text != content(folder, SUMS):
        found.bad(f"{SUMS}: is not written as acctops writes it")
    for name in sorted(set(names) | set(listed)):
        if name == SUMS:
            continue
        if name not in listed:
            found.bad(f"{name}: was added: {SUMS} does not list it")
        elif name not in names:
            found.bad(f"{name}: is missing: {SUMS} lists it")
        elif digest_of(folder, name) != listed[name]:
            found.bad(f"{name}: is not what was written: its SHA-256 differs from {SUMS}")
    for name in names:
        if name not in TOP and not OF_RUN.fullmatch(name) and not OF_SEAL.fullmatch(name):
            found.bad(f"{name}: no bundle has a member of this name")


# ---- journals --------------------------------------------------------------------------------------------------------


class Journal:
    """What a pass over a journal found."""

    def __init__(self) -> None:
        self.hashes: list[str] = []
        self.first: dict[str, Any] = {}
        self.approved: list[dict[str, Any]] = []
        self.links: list[str] = []
        self.last_at = ""
        self.end = 0
        """The number of its last `end`; 0 if it has none, or if more than notes follows it."""
        self.torn = 0
        self.calls = 0
        self.problem = ""
        self.shards: dict[int, tuple[int, str]] = {}
        """Number of each shard of its plan → how many lines its chain has, and the hash of the last one."""
        self.named = 0
        """How many shards its plan has named."""

    @property
    def shard_heads(self) -> dict[str, str]:
        """Number of each shard that has lines → the hash of the last one."""
        return {str(no): head for no, (lines, head) in sorted(self.shards.items()) if lines}


def read_journal(file: BinaryIO, run: str, start: str = GENESIS) -> Journal:
    """Return what stands in a journal of a run, whose chain begins at the hash `start`.

    A run that was divided into shards (format 2) has a chain for each. The file has the lines of all, interleaved.
    """
    read = Journal()
    last, at, version = start, 0, 0
    for number, line in enumerate(whole_lines(file), 1):
        if line is None:
            read.torn = file.seek(0, os.SEEK_END) - at
            break
        at += len(line) + 1
        try:
            fields = json.loads(line)
            said = fields["hash"]
            envelope = (fields["seq"], fields["run"], fields["kind"])
            shard = fields.get("shard", 0)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            read.problem = f"line {number} is no record: it was edited or damaged"
            return read
        where = f" (of shard {shard})" if shard else ""
        if type(shard) is not int or (shard and shard not in read.shards):
            read.problem = f"line {number} is of a shard that the plan before it does not have: {str(shard)[:60]!r}"
            return read
        seq, last = read.shards[shard] if shard else (len(read.hashes), read.hashes[-1] if read.hashes else start)
        ending = f',"hash":"{said}"}}'.encode("utf-8", "replace")
        last = hashlib.sha256(last.encode() + line[: -len(ending)] + b"}").hexdigest()
        if not line.endswith(ending) or said != last or envelope[0] != seq + 1:
            read.problem = (
                f"line {number}{where} is not what was written there: lines were edited, removed, added or moved"
            )
            return read
        if envelope[1] != run:
            read.problem = f"line {number} is of run {str(envelope[1])[:60]!r}, not of {run}"
            return read
        version = version or fields.get("v")
        if fields.get("v") != version:
            read.problem = f"line {number} is of another format than the lines before it"
            return read
        read.last_at = max(read.last_at, str(fields.get("at"))) if read.named else str(fields.get("at"))
        if shard:
            read.shards[shard] = (seq + 1, said)
            if counts_for_run(envelope[2], fields):
                read.end = 0
            continue
        if number == 1:
            read.first = fields
            if start == GENESIS and envelope[2] != "run":
                read.problem = "line 1 is no `run`, with which every journal begins"
                return read
        if envelope[2] != "note":
            read.end = seq + 1 if envelope[2] == "end" else 0
        if envelope[2] == "shard":
            read.named += 1
            if fields.get("no") != read.named or read.named > _whole(read.first, "shards"):
                read.problem = f"line {number} names a shard that the plan does not have"
                return read
            if read.named == _whole(read.first, "shards"):
                read.shards = {no: (0, shard_genesis(said, no)) for no in range(1, read.named + 1)}
        if envelope[2] == "end" and fields.get("heads", {}) not in ({}, read.shard_heads):
            read.problem = f"line {number}, an end, lists other heads of shards: lines of shards were cut or added"
            return read
        if envelope[2] == "approved":
            read.approved.append(fields)
        read.calls += envelope[2] == "call"
        if envelope[2] == "note" and fields.get("what") in LINKS and isinstance(fields.get("data"), dict):
            read.links.append(str(fields["data"].get("run")))
        read.hashes.append(said)
    if start == GENESIS and not read.hashes:
        read.problem = "holds no whole line"
    elif start == GENESIS and read.calls < _whole(read.first.get("counts"), "calls"):
        read.problem = f"ends within its plan: {read.calls} of {read.first['counts']['calls']} calls; it was cut"
    elif start == GENESIS and read.named != _whole(read.first, "shards"):
        read.problem = f"ends within its plan: {read.named} of {read.first['shards']} shards; it was cut"
    return read


def shard_genesis(plan_head: str, no: int) -> str:
    """Return the hash that the chain of a shard begins with; `plan_head` is the hash of the last `shard` line."""
    return hashlib.sha256(f"{plan_head}/{no}".encode()).hexdigest()


def counts_for_run(kind: str, fields: dict[str, Any]) -> bool:
    """Return whether a line of a shard shows that somebody worked on the run: it is of a call or an instance."""
    return kind in ("sent", "reply", "settled", "verified", "before", "read") or (
        kind == "omit" and fields.get("call") is not None
    )


def _whole(fields: Any, key: str) -> int:
    value = fields.get(key) if isinstance(fields, dict) else None
    return value if isinstance(value, int) else 0


def check_runs(folder: str, names: list[str], manifest: dict[str, Any], found: Found) -> dict[str, Journal]:
    """Check each journal, what lies beside it, and that it belongs here; return what was read, by run."""
    entries: dict[str, dict[str, Any]] = {}
    for each in _all(manifest.get("runs")):
        if isinstance(each, dict):
            entries[str(each.get("run"))] = each
    there = {name.split("/")[1] for name in names if name.startswith("runs/")}
    for run in sorted(there - set(entries)):
        found.bad(f"runs/{run}: {MANIFEST} does not name this run")
    reads: dict[str, Journal] = {}
    for run, entry in sorted(entries.items()):
        name = f"runs/{run}/journal.jsonl"
        if name not in names:
            found.bad(f"{name}: is missing: {MANIFEST} names the run")
            continue
        with opened(folder, name) as file:
            read = reads[run] = read_journal(file, run)
        check_run(folder, names, run, entry, read, manifest, found)
    check_belonging(manifest, entries, reads, found)
    check_whole(manifest, reads, found)
    if any(OF_RUN.fullmatch(name) and "/report." in name for name in names):
        found.note("reports are not compared with the journals: they are for reading, and the journals are what counts")
    return reads


def check_run(
    folder: str,
    names: list[str],
    run: str,
    entry: dict[str, Any],
    read: Journal,
    manifest: dict[str, Any],
    found: Found,
) -> None:
    """Check one journal and the members beside it."""
    name = f"runs/{run}/journal.jsonl"
    if read.problem:
        known = " (so it was already when the bundle was made)" if entry.get("state") == "damaged" else ""
        found.bad(f"{name}: {read.problem}{known}")
        return
    if entry.get("state") == "damaged":
        found.bad(f"{name}: acctops could not read it when the bundle was made: {entry.get('why_damaged')}")
    if read.torn:
        found.bad(f"{name}: {read.torn} bytes follow its last line")
    end = read.hashes[-1]
    if (entry.get("lines"), entry.get("head")) != (len(read.hashes), end):
        found.bad(f"{name}: has {len(read.hashes)} lines and the head {end}; {MANIFEST} says {entry.get('lines')} "
                  f"lines and {entry.get('head')}")  # fmt: skip
    if entry.get("shard_heads", {}) != read.shard_heads:
        found.bad(f"{name}: its shards end otherwise than {MANIFEST} says: lines of shards were cut or added")
    if entry.get("state") != "damaged":
        check_entry(run, entry, read, found)
        check_there(names, run, manifest, read, found)
    beside = f"runs/{run}/aside.jsonl"
    has_aside = entry.get("aside_lines") is not None
    if (beside in names) != has_aside:
        found.bad(f"{beside}: {'is missing' if has_aside else 'was added'}, by {MANIFEST}")
    elif has_aside:
        with opened(folder, beside) as file:
            side = read_journal(file, run, read.hashes[0])
        read.links += side.links
        read.last_at = max(read.last_at, side.last_at)
        if side.problem or side.torn:
            found.bad(f"{beside}: {side.problem or 'bytes follow its last line'}")
        elif len(side.hashes) != entry.get("aside_lines") or [entry.get("aside_head")] != side.hashes[-1:]:
            found.bad(f"{beside}: has {len(side.hashes)} lines; {MANIFEST} says {entry.get('aside_lines')}")
    check_report(folder, names, run, end, found)
    check_job(folder, names, run, entry, read, found)


def check_entry(run: str, entry: dict[str, Any], read: Journal, found: Found) -> None:
    """Compare what the manifest tells of a run with its journal."""
    job = read.first.get("job")
    told = {
        "action": read.first.get("action"),
        "ticket": read.first.get("ticket"),
        "job": job.get("name") if isinstance(job, dict) else None,
    }
    for key, said in told.items():
        if entry.get(key) != said:
            found.bad(f"{MANIFEST}: says of run {run} that its {key} is {entry.get(key)!r}; its journal says {said!r}")
    state = entry.get("state")
    if not read.end:
        found.note(f"run {run}: {state}: its journal has no end of its last session")
    elif state == "live":
        found.note(f"run {run}: live: somebody worked on it when the bundle was made")
    if state not in (("ended", "live") if read.end else ("cut off", "live")):
        how = f"it ended with line {read.end}" if read.end else "it has no end"
        found.bad(f"{MANIFEST}: says of run {run} that it is {state!r}; by its journal {how}")


def check_there(names: list[str], run: str, manifest: dict[str, Any], read: Journal, found: Found) -> None:
    """Name each member that is in every bundle beside a journal that can be read, and is not in this one."""
    left_out, missing = json.dumps(manifest.get("left_out")), missing_of(manifest)
    job = read.first.get("job")
    is_file = isinstance(job, dict) and str(job.get("path")).startswith("/")
    due: list[tuple[str, ...]] = [("report.json",), ("report.csv",)]
    due += [("report.html",)] if "report.html of any run" not in left_out else []
    due += [("job.yaml", "job.redacted.yaml")] if is_file and f"runs/{run}/job.yaml" not in missing else []
    for each in due:
        if not any(f"runs/{run}/{name}" in names for name in each):
            found.bad(f"runs/{run}/{each[0]}: is missing: every bundle has it, or says why not")


def missing_of(manifest: dict[str, Any]) -> set[str]:
    """Return what the manifest says could not be had."""
    return {str(each.get("what")) for each in _all(manifest.get("missing")) if isinstance(each, dict)}


def check_report(folder: str, names: list[str], run: str, head: str, found: Found) -> None:
    """Check that the report of a run is about this journal."""
    name = f"runs/{run}/report.json"
    if name not in names:
        return
    about: dict[bytes, str] = {}
    with opened(folder, name) as file:  # line by line, as one of 100,000 targets has 60 MB
        for line in whole_lines(file):
            at = re.fullmatch(rb' "(run|journal_head)": "([ -~]*)",?', line or b"")
            if at is not None:
                about[at.group(1)] = "?" if at.group(1) in about else at.group(2).decode()
    if len(about) < 2:
        found.bad(f"{name}: is no report")
        return
    if (about[b"run"], about[b"journal_head"]) != (run, head):
        found.bad(f"{name}: is of run {about[b'run']} with the head {about[b'journal_head']}, not of this journal")


def check_job(folder: str, names: list[str], run: str, entry: dict[str, Any], read: Journal, found: Found) -> None:
    """Check the text of the job by the digest in the journal, where it can be."""
    job = read.first.get("job")
    digest = job.get("digest") if isinstance(job, dict) else None
    name = f"runs/{run}/job.yaml"
    if name in names and entry.get("job_lists"):
        found.note(f"{name}: not compared: the digest in the journal is of this text and {entry['job_lists']} "
                   "list(s), which are not in the bundle")  # fmt: skip
    elif name in names and digest_of(folder, name) != digest:
        found.bad(f"{name}: is not the job of the journal: its SHA-256 is not {digest}")
    if f"runs/{run}/job.redacted.yaml" in names:
        found.note(f"runs/{run}/job.redacted.yaml: not compared: secrets were taken out of it")


def check_belonging(
    manifest: dict[str, Any], entries: dict[str, dict[str, Any]], reads: dict[str, Journal], found: Found
) -> None:
    """Name each run that is neither what the bundle is about nor linked to a run of it."""
    about = manifest.get("about")
    about = about if isinstance(about, dict) else {}
    gone = json.dumps([manifest.get("missing"), manifest.get("left_out")])
    near: dict[str, list[str]] = {}
    for run, read in reads.items():
        parent = read.first.get("parent")
        near[run] = read.links + ([str(parent.get("run"))] if isinstance(parent, dict) else [])
        for other in near[run]:
            if other not in entries and (not other or other not in gone):
                found.bad(f"runs/{other}: is missing: the journal of {run} names this run, and {MANIFEST} does not")
    inside = set()
    for run, read in reads.items():
        is_asked = run == about.get("run") if "run" in about else read.first.get("ticket") == about.get("ticket")
        if is_asked or not read.first:
            inside.add(run)
    if not inside:
        found.bad(f"{MANIFEST}: no run in the bundle is what it is about: {json.dumps(about, sort_keys=True)}")
    links: dict[str, set[str]] = {}
    for run, others in near.items():
        for other in others:
            links.setdefault(run, set()).add(other)
            links.setdefault(other, set()).add(run)
    left = list(inside)
    while left:
        for other in links.get(left.pop(), ()):
            if other in entries and other not in inside:
                inside.add(other)
                left.append(other)
    for run in sorted(set(reads) - inside):
        found.bad(f"runs/{run}: does not belong here: it is of ticket {reads[run].first.get('ticket')!r}, and no run "
                  "of the bundle is linked to it")  # fmt: skip


def check_whole(manifest: dict[str, Any], reads: dict[str, Journal], found: Found) -> None:
    """Check what the manifest says of all runs together."""
    for run, read in sorted(reads.items()):
        found.simulated = found.simulated or bool(read.first.get("simulated"))
        if read.first and bool(read.first.get("simulated")) != manifest.get("simulated"):
            is_so = "was simulated: nothing real was touched" if read.first.get("simulated") else "was not simulated"
            found.bad(f"{MANIFEST}: says simulated: {json.dumps(manifest.get('simulated'))}; run {run} {is_so}")
    last = max((read.last_at for read in reads.values()), default="")
    if not any(read.problem for read in reads.values()) and last != manifest.get("as_of"):
        found.bad(f"{MANIFEST}: says as of {manifest.get('as_of')}; the last record is of {last}")


def _all(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


# ---- the list of the ends of runs, and what seals it -----------------------------------------------------------------


def check_heads(
    folder: str, names: list[str], manifest: dict[str, Any], reads: dict[str, Journal], found: Found
) -> Lines:
    """Check the chain of the list and that each journal is as its line says; return the lines by number."""
    said = manifest.get("heads")
    said = said if isinstance(said, dict) else {}
    if "heads.jsonl" not in names:
        if said:
            found.bad(f"heads.jsonl: is missing, by {MANIFEST}")
        return {}
    lines: Lines = {}
    first, previous, seq, other = None, None, None, set()
    listed: dict[str, Any] = {}
    file = opened(folder, "heads.jsonl")
    for number, raw in enumerate(whole_lines(file, MOST_HEAD), 1):
        if raw is None:
            found.bad("heads.jsonl: its last line is cut, or one is longer than any")
            break
        try:
            line = json.loads(raw)
            ending = f',"hash":"{line["hash"]}"}}'.encode()
            before, run = line["previous"], line["run"]
            digest = hashlib.sha256(before.encode() + raw[: -len(ending)] + b"}").hexdigest()
            is_next = seq is None or (line["seq"] == seq + 1 and before == previous)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            found.bad(f"heads.jsonl:{number}: is no line of this list")
            break
        if not raw.endswith(ending) or digest != line["hash"] or not is_next or not isinstance(line["seq"], int):
            found.bad(f"heads.jsonl:{number}: is not what was written there: a line was edited, removed or moved")
            break
        if line["seq"] == 1 and before != GENESIS:
            found.bad(f"heads.jsonl:{number}: is not the first line of the list")
        seq, previous = line["seq"], line["hash"]
        first = first or seq
        read = reads.get(run)
        if read is None:
            other.add(str(run))
            continue
        lines[seq] = (raw, line)
        listed[run] = line["lines"]
        if not read.problem:
            count = line["lines"]
            if not isinstance(count, int) or not 0 < count <= len(read.hashes):
                found.bad(f"runs/{run}/journal.jsonl: was cut: heads.jsonl:{number} says {count} lines, and it has "
                          f"{len(read.hashes)}")  # fmt: skip
            elif read.hashes[count - 1] != line["head"]:
                found.bad(f"runs/{run}/journal.jsonl: is another one: heads.jsonl:{number} has {line['head']} for line "
                          f"{count}")  # fmt: skip
            if line.get("late"):
                found.note(f"run {run}: heads.jsonl:{number} was added late, and not by the session itself")
    file.close()
    if (said.get("first"), said.get("last"), said.get("hash")) != (first, seq, previous):
        found.bad(f"heads.jsonl: has the lines {first} to {seq} ({previous}); {MANIFEST} says {said.get('first')} to "
                  f"{said.get('last')} ({said.get('hash')})")  # fmt: skip
    for run, read in sorted(reads.items()):
        count = listed.get(run)
        if count is None:
            found.note(f"run {run}: no line of heads.jsonl is about it")
        elif (
            not read.problem
            and isinstance(count, int)
            and read.end > count
            and run not in live_of(manifest)
            and f"end of run {run} in heads.jsonl" not in missing_of(manifest)
        ):
            found.bad(f"runs/{run}/journal.jsonl: line {read.end} is an end that heads.jsonl does not list: its "
                          "line was removed, or the end is forged")  # fmt: skip
    if other:
        few = ", ".join(sorted(other)[:20])
        found.note(f"heads.jsonl lists {len(other)} runs whose journals are not in the bundle, and should be of other "
                   f"incidents: {few}")  # fmt: skip
    return lines


def live_of(manifest: dict[str, Any]) -> set[str]:
    """Return the runs that were live when the bundle was made."""
    return {
        str(each.get("run"))
        for each in _all(manifest.get("runs"))
        if isinstance(each, dict) and each.get("state") == "live"
    }


def check_seals(
    folder: str,
    names: list[str],
    manifest: dict[str, Any],
    reads: dict[str, Journal],
    lines: Lines,
    keys: dict[str, str],
    found: Found,
) -> None:
    """Check each signature and each time stamp of a line of the list."""
    sealed = set()
    due: dict[str, bytes] = {}
    if "seals.jsonl" in names:
        for number, raw in enumerate(content(folder, "seals.jsonl").split(b"\n")[:-1], 1):
            try:
                seal = json.loads(raw)
                seq, digest, signature, stamp = seal["seq"], seal["hash"], seal["signature"], seal["stamp"]
                message, line = lines.get(seq) or (b"", {})
            except (ValueError, KeyError, TypeError, RecursionError):
                found.bad(f"seals.jsonl:{number}: is no seal")
                continue
            here = f"seals.jsonl:{number}"
            if line.get("hash") != digest or line.get("run") != seal.get("run"):
                found.bad(f"{here}: is of no line of heads.jsonl")
                continue
            stem = f"seals/{seq:06d}"
            due[f"{stem}.line"] = message
            if signature is not None:
                due[f"{stem}-{number}.sig"] = signature.encode()
                key = check_signature(here, message, signature, SEAL_SPACE, keys, found,
                                      (f"{stem}.line", f"{stem}-{number}.sig"))  # fmt: skip
                if key is not None and key != line.get("seal"):
                    found.bad(f"{here}: was signed by {key}; the line names {line.get('seal')}")
                elif key is not None:
                    sealed.add(seq)
            elif stamp is not None:
                due[f"{stem}-{number}.tsr"] = unbase64(stamp)
                check_stamp(here, message, stamp, seal.get("tsa"), (f"{stem}.line", f"{stem}-{number}.tsr"), found)
            else:
                found.bad(f"{here}: has neither a signature nor a stamp")
    compare(folder, names, "seals/", due, "seals.jsonl", found)
    missing = missing_of(manifest)
    for seq, (_, line) in sorted(lines.items()):
        if line.get("run") in reads and line.get("seal") and seq not in sealed and f"seal of line {seq}" not in missing:
            found.bad(
                f"heads.jsonl: line {seq} of run {line['run']} names the key {line['seal']}, and has no seal of it"
            )


def compare(folder: str, names: list[str], prefix: str, due: dict[str, bytes], of: str, found: Found) -> None:
    """Name each member below a prefix that is not what another member says it is."""
    for name in sorted(set(due) | {each for each in names if each.startswith(prefix)}):
        if name not in due:
            found.bad(f"{name}: {of} has nothing of this name")
        elif name not in names or content(folder, name) != due[name]:
            found.bad(f"{name}: is not as {of} has it")


def check_approvals(
    folder: str, names: list[str], reads: dict[str, Journal], keys: dict[str, str], found: Found
) -> None:
    """Check each signature of a plan that a journal has."""
    due: dict[str, bytes] = {}
    for run, read in sorted(reads.items()):
        for number, each in enumerate(read.approved if not read.problem else (), 1):
            stem = f"runs/{run}/approved-{number}"
            try:
                statement, signature = each["statement"].encode(), each["signature"]
                due[f"{stem}.json"], due[f"{stem}.sig"] = statement, signature.encode()
            except (KeyError, AttributeError, UnicodeError):
                found.bad(f"runs/{run}: an `approved` record is none")
                continue
            key = check_signature(f"{stem}.sig", statement, signature, APPROVAL_SPACE, keys, found,
                                  (f"{stem}.json", f"{stem}.sig"))  # fmt: skip
            if key is not None and key != each.get("fingerprint"):
                found.bad(f"{stem}.sig: was signed by {key}; the journal says {each.get('fingerprint')}")
    for name in names:
        if re.match(r"runs/[^/]+/approved-", name) and name not in due and name.split("/")[1] in reads:
            found.bad(f"{name}: the journal has no such approval")
    for name, data in sorted(due.items()):
        if name not in names or content(folder, name) != data:
            found.bad(f"{name}: is not as the journal has it")


# ---- signatures of SSH keys ------------------------------------------------------------------------------------------


def check_signature(
    here: str, message: bytes, signature: str, space: str, keys: dict[str, str], found: Found, files: tuple[str, str]
) -> str | None:
    """Check a signature of OpenSSH over a message; return the fingerprint of its key, None if it is none."""
    try:
        body = re.fullmatch(
            r"-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/=\n]+)\n-----END SSH SIGNATURE-----\n?", signature
        )
        if body is None:
            raise ValueError("no signature")
        blob = base64.b64decode(body.group(1).replace("\n", ""), validate=True)
        if blob[:10] != b"SSHSIG\0\0\0\1":
            raise ValueError("no SSHSIG")
        key, rest = _string(blob[10:])
        namespace, rest = _string(rest)
        reserved, rest = _string(rest)
        algorithm, rest = _string(rest)
        signed, rest = _string(rest)
        kind = _string(key)[0].decode("ascii")
        hashed = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}[algorithm](message).digest()
    except (ValueError, AttributeError, KeyError, TypeError):
        found.bad(f"{here}: the signature is none")
        return None
    fingerprint = "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    if namespace != space.encode() or rest:
        found.bad(f"{here}: the signature is for something else: {namespace!r}")
        return None
    names = keys.get(fingerprint)
    who = f"key {fingerprint}, " + (f"of {names} in signers" if names else "which `signers` does not name")
    name = names or "NAME"
    by_hand = f"ssh-keygen -Y verify -f signers -I {name} -n {space} -s {files[1]} < {files[0]}"
    if kind == "ssh-ed25519":
        whole = b"SSHSIG" + b"".join(map(_packed, (namespace, reserved, algorithm, hashed)))
        try:
            is_good = _string(signed)[0] == b"ssh-ed25519" and ed25519_holds(
                _string(_string(key)[1])[0], whole, _string(_string(signed)[1])[0]
            )
        except ValueError:
            is_good = False
        if not is_good:
            found.bad(f"{here}: the signature does not hold ({who})")
            return None
        found.note(f"{here}: the signature holds: {who}")
    else:
        found.note(f"{here}: signature not checked, as it is of a key of kind {kind}: {who}; check it: {by_hand}")
    found.by_hand.append((here, by_hand, files, name, space))
    return fingerprint


def _string(data: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(data[:4], "big")
    if len(data) < 4 + size:
        raise ValueError("cut")
    return data[4 : 4 + size], data[4 + size :]


def _packed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def read_keys(folder: str, names: list[str]) -> dict[str, str]:
    """Return the keys of `signers`: fingerprint → name."""
    keys: dict[str, str] = {}
    for line in content(folder, "signers").decode("utf-8", "replace").split("\n") if "signers" in names else ():
        said = re.search(r"(?:^|\s)(?:ssh-|ecdsa-|sk-)\S+ (AAAA[A-Za-z0-9+/=]+)", line)
        if said is None or line.lstrip().startswith("#"):
            continue
        digest = hashlib.sha256(unbase64(said.group(1))).digest()
        name = re.sub(r"[^A-Za-z0-9@._+-]", "?", line.split()[0].split(",")[0])[:100]
        keys.setdefault("SHA256:" + base64.b64encode(digest).decode().rstrip("="), name)
    return keys


def unbase64(text: str) -> bytes:
    """Return the bytes of base64; none if it is not."""
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError):
        return b""


# Ed25519 by RFC 8032, 5.1.7 and 6: points are (X, Y, Z, T) with x = X/Z, y = Y/Z, x*y = T/Z.
P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def _add(one: Point, two: Point) -> Point:
    a, b = (one[1] - one[0]) * (two[1] - two[0]) % P, (one[1] + one[0]) * (two[1] + two[0]) % P
    c, d = 2 * one[3] * two[3] * D % P, 2 * one[2] * two[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(factor: int, point: Point) -> Point:
    result = (0, 1, 1, 0)
    while factor:
        if factor & 1:
            result = _add(result, point)
        point = _add(point, point)
        factor >>= 1
    return result


def _point(data: bytes) -> Point | None:
    """Return the point that 32 bytes stand for; None if they stand for none."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if len(data) != 32 or y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P or (not x and sign):
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


def ed25519_holds(key: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether a signature of 64 bytes over a message is of this public key of 32 bytes."""
    base = _point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))
    point, r = _point(key), _point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if base is None or point is None or r is None or len(signature) != 64 or s >= Q:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % Q
    left, right = _times(s, base), _add(r, _times(h, point))
    return not (left[0] * right[2] - right[0] * left[2]) % P and not (left[1] * right[2] - right[1] * left[2]) % P


# ---- time stamps (RFC 3161) ------------------------------------------------------------------------------------------

SHA256_OID = bytes.fromhex("0609608648016503040201")
TST_INFO_OID = bytes.fromhex("060b2a864886f70d0109100104")


def _der(data: bytes) -> tuple[int, bytes, bytes]:
    """Return tag, content and rest of the first value of DER; ValueError if it is none."""
    if len(data) < 2:
        raise ValueError("cut")
    size, at = data[1], 2
    if size & 0x80:
        at += size & 0x7F
        size = int.from_bytes(data[2:at], "big")
    if at > len(data) or size > len(data) - at:
        raise ValueError("cut")
    return data[0], data[at : at + size], data[at + size :]


def imprint_of(stamp: bytes) -> tuple[bytes, str]:
    """Return the SHA-256 that a time stamp is about, and its time; ValueError if it is none, or of another digest."""
    _, answer, more = _der(stamp)
    _, _, content_info = _der(answer)  # behind the status
    _, content_info, _ = _der(content_info)
    _, _, explicit = _der(content_info)  # behind the kind of content
    _, signed, _ = _der(_der(explicit)[1])
    _, _, signed = _der(signed)  # version
    _, _, signed = _der(signed)  # digests
    _, encapsulated, _ = _der(signed)
    if more or not encapsulated.startswith(TST_INFO_OID):
        raise ValueError("it holds no TSTInfo")
    _, octets, _ = _der(_der(encapsulated[len(TST_INFO_OID) :])[1])
    _, info, _ = _der(octets)
    _, _, info = _der(info)  # version
    _, _, info = _der(info)  # policy
    _, imprint, info = _der(info)
    _, algorithm, rest = _der(imprint)
    _, digest, _ = _der(rest)
    if not algorithm.startswith(SHA256_OID):
        raise ValueError("it is of another digest than SHA-256")
    _, _, info = _der(info)  # serial number
    return digest, _der(info)[1].decode("ascii", "replace")


def check_stamp(here: str, message: bytes, stamp: str, tsa: object, files: tuple[str, str], found: Found) -> None:
    """Check that a time stamp is about a line. Whether its authority signed it Python alone cannot tell."""
    try:
        digest, when = imprint_of(unbase64(stamp))
    except ValueError as error:
        found.bad(f"{here}: the time stamp is none: {error}")
        return
    if digest != hashlib.sha256(message).digest():
        found.bad(f"{here}: the time stamp is not of this line")
        return
    when = re.sub("[^0-9Z.]", "?", when)[:30]
    found.note(f"{here}: a time stamp of this line, which says {when}, from {str(tsa)[:200]!r}; its signature: "
               f"openssl ts -verify -in {files[1]} -data {files[0]} -CAfile CA.pem (the certificate of that authority)"
               )  # fmt: skip


# ---- all of it -------------------------------------------------------------------------------------------------------


def read_manifest(folder: str, names: list[str], found: Found) -> dict[str, Any]:
    """Return MANIFEST.json; empty, and named, if it is none."""
    try:
        said = json.loads(content(folder, MANIFEST)) if MANIFEST in names else None
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or not said:
        found.bad(f"{MANIFEST}: is missing, or is none")
        return {}
    return said


def check(folder: str) -> Found:
    """Return what is found in the folder of a bundle."""
    found = Found()
    with contextlib.suppress(TooManyError):
        look(folder, found)
    return found


def look(folder: str, found: Found) -> None:
    """Check the folder of a bundle, and note what is found."""
    names = members(folder, found)
    check_sums(folder, names, found)
    manifest = read_manifest(folder, names, found)
    for name in ("README.txt", "verify.py"):
        if name not in names:
            found.bad(f"{name}: is missing")
    found.manifest = manifest
    keys = read_keys(folder, names)
    reads = check_runs(folder, names, manifest, found)
    found.runs = len(reads)
    lines = check_heads(folder, names, manifest, reads, found)
    check_seals(folder, names, manifest, reads, lines, keys, found)
    check_approvals(folder, names, reads, keys, found)
    for each in _all(manifest.get("missing")):
        if isinstance(each, dict):
            found.note(f"not in the bundle: {each.get('what')}: {each.get('why')}")


def ask_ssh_keygen(folder: str, found: Found) -> None:
    """Have ssh-keygen check each signature; name what it does not find good."""
    import subprocess

    for here, by_hand, files, name, space in found.by_hand:
        argv = ["ssh-keygen", "-Y", "verify", "-f", os.path.join(folder, "signers"), "-I", name, "-n", space, "-s",
                os.path.join(folder, *files[1].split("/"))]  # fmt: skip
        try:
            said = subprocess.run(  # noqa: S603 - no shell, and files of this folder
                argv, input=content(folder, files[0]), capture_output=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            found.bad(f"{here}: ssh-keygen cannot be asked: {error}")
            return
        if said.returncode:
            found.bad(f"{here}: ssh-keygen does not find it good: {by_hand}")
        else:
            found.note(f"{here}: ssh-keygen finds it good")


def shown(text: str) -> str:
    """Return a text on one line that no terminal obeys."""
    return "".join(char if char.isprintable() and char.isascii() else "?" for char in text)[:2000]


def main(argv: list[str]) -> int:
    """Check the folder and say what is found; return the exit code."""
    words = [each for each in argv if each != "--with-ssh-keygen"]
    if len(words) > 1 or any(each.startswith("-") for each in words):
        print(__doc__)
        return 2
    folder = words[0] if words else os.path.dirname(os.path.abspath(__file__))
    if not os.path.isdir(folder):
        print(shown(f"{folder}: no such folder; unpack the bundle, and name its folder"))
        return 2
    try:
        found = check(folder)
        if "--with-ssh-keygen" in argv:
            ask_ssh_keygen(folder, found)
    except OSError as error:
        print(shown(f"{error.filename}: cannot be read: {error.strerror}"))
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing is known")
        return 2
    except Exception as error:  # noqa: BLE001 - whatever somebody wrote into a member, no traceback
        print(shown(f"WRONG: {folder}: a member is not of the form that acctops writes: {error!r}"))
        return 1
    for text in found.remarks:
        print(shown(f"note: {text}"))
    for text in found.problems:
        print(shown(f"WRONG: {text}"))
    about = shown(json.dumps(found.manifest.get("about"), sort_keys=True))
    runs = f"{found.runs} runs{', SIMULATED' if found.simulated else ''}"
    if found.problems:
        more = " or more; the rest was not looked at" if len(found.problems) >= MOST_PROBLEMS else ""
        print(f"NOT as it was written: {len(found.problems)} wrong{more}, {runs}, about {about}")
        return 1
    gone = len(_all(found.manifest.get("missing")))
    print(f"all is as it was written: {runs}, about {about}, as of {shown(str(found.manifest.get('as_of')))}")
    if gone:
        print(f"{gone} things that were recorded are not in it: the notes above name them")
    print("This compares the bundle with itself. Compare its SHA-256 with one that was kept elsewhere.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
