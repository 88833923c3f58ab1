"""Use case: an evidence bundle of a run or a ticket, by allow-list, from what is on disk. Asks nothing of the API."""

from __future__ import annotations

import os
import re
import tempfile
from collections import deque
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from shutil import copyfileobj
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
from msgspec import Struct, field

from engine import __version__
from engine.errors import AcctopsError, JournalCorruptError, Reason, UsageError
from engine.evidence import verify as checker
from engine.inputs.files import MOST_JOB, from_recorded, job_file, load_job, read_bytes
from engine.inputs.jobfile.yamltext import argument_spans
from engine.journal.records import unix_seconds
from engine.operations.family import Kin, kin_of
from engine.operations.sealing import seal_words
from engine.operations.stores import find, store_of
from engine.operations.watched import standing
from engine.outside.foreign import environment_secrets
from engine.outside.sshkeys import MOST_SIGNERS, SEALS, SshKeyError, public_line
from engine.outside.trust import add_whole, kind_words, read_regular
from engine.report import evidence as made
from engine.report.nextstep import way_on
from engine.report.watches import watch_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from engine.journal.copies import Copy
    from engine.journal.heads import HeadLine
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import RunHead, Runs
    from engine.journal.reader import Replay
    from engine.operations.terms import Terms

_MODE = 0o600
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a run must be called to become a folder of the bundle."""
_TRIES = 5
"""How often all is copied anew because a run ended meanwhile."""
_OFTEN = 100
"""Runs that a message names, at most."""


class Missing(Struct, frozen=True, kw_only=True):
    """Something that was recorded and cannot be had."""

    what: str
    """The member, or in words what it would have shown."""
    why: str
    next: str
    """The command to run next, or what to do."""


class Bundle(Struct, frozen=True, kw_only=True):
    """An evidence bundle that was written."""

    path: Path
    sha256: str
    verify_sha256: str
    """SHA-256 of the `verify.py` in it."""
    about: Mapping[str, str]
    as_of: str
    runs: tuple[str, ...]
    members: int
    missing: tuple[Missing, ...]
    damaged: Mapping[str, str]
    """Member → what is wrong with it."""
    live: tuple[str, ...]
    cut_off: tuple[str, ...]
    """Runs that nobody works on, and whose last session has no end."""
    redacted: Mapping[str, tuple[int, ...]]
    """Member → the lines from which something was taken."""
    arguments: tuple[str, ...]
    """Runs whose journals keep arguments of commands (a gate's, of passwords): a journal is handed on as it is."""

    @property
    def reason(self) -> Reason:
        """How the command ends."""
        if self.damaged:
            return Reason.CORRUPT
        return Reason.INCOMPLETE if self.missing else Reason.OK


class _Run(Struct, kw_only=True):
    """One run of the bundle."""

    run_id: str
    why: str
    copy: Copy
    read: checker.Journal
    aside: checker.Journal | None
    replay: Replay | None = None
    problem: str = ""
    state: str = ""
    job_lists: int = 0
    """Lists of the job, whose bytes its digest covers, too."""

    @property
    def links(self) -> tuple[str, ...]:
        """The later runs that its journal names, or what stands beside it."""
        return (*self.read.links, *(self.aside.links if self.aside is not None else ()))

    @property
    def keeps_arguments(self) -> bool:
        """Whether its journal has arguments of commands."""
        if self.replay is None:
            return False
        settings = self.replay.ledger.settings
        gate = (settings.waves or {}).get("gate") or {}
        commands = [(settings.passwords or {}).get("command"), gate.get("command")]
        return "--password-command" in self.replay.ledger.run.asked or any(
            isinstance(command, list) and len(command) > 1 for command in commands
        )


class _Bundling(Struct, kw_only=True):
    """What is gathered for a bundle."""

    terms: Terms
    store: Runs
    place: Path
    """A private directory for copies."""
    about: dict[str, str]
    runs: dict[str, _Run] = field(default_factory=dict)
    members: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    redacted: dict[str, tuple[int, ...]] = field(default_factory=dict)
    never: set[str] = field(default_factory=set)
    """What is not in the bundle and was never recorded, or cannot be made here, in words."""
    listed: Sequence[HeadLine] = ()
    heads: list[HeadLine] = field(default_factory=list)
    """The part of the list that is about these runs."""
    jobs: dict[tuple[str, str], tuple[bytes, int] | str] = field(default_factory=dict)

    def add(self, name: str, data: bytes | str) -> None:
        """Add a member."""
        whole = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
        self.members[name] = lambda: whole

    def miss(self, what: str, why: str, then: str) -> None:
        """Note what was recorded and cannot be had."""
        if all(each.what != what for each in self.missing):
            self.missing.append(Missing(what=what, why=why, next=then))


def write_evidence(terms: Terms, run: str | None, ticket: str | None, out: Path) -> Bundle:
    """Write the evidence bundle of a run or a ticket to a new file, whole or not at all; return what is in it.

    UsageError if there is no such run, or if the file cannot be made or is there already.
    """
    _refuse_place(out)
    store, start = _asked(terms, run, ticket)
    about = {"run": start[0]} if run is not None else {"ticket": ticket or ""}
    try:
        with tempfile.TemporaryDirectory(prefix="acctops-") as place:
            this = _gathered(terms, store, Path(place), about, start)
            _list(this)
            _tell(this)
            as_of = _finish(this)
            whole = this.place / "whole.zip"
            with whole.open("xb") as file:
                made.write_zip(file, this.members, as_of)
            sha256 = made.digest(whole.read_bytes())

            def copy_to(new: BinaryIO) -> None:
                with whole.open("rb") as file:
                    copyfileobj(file, new)

            add_whole(out, copy_to, _MODE)
    except FileExistsError as error:
        raise UsageError(f"--out {out}: is there already, and is not overwritten; name a new file") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"--out {out}: cannot be written: {why}; nothing was kept of it") from error
    return Bundle(
        path=out,
        sha256=sha256,
        verify_sha256=made.digest(_of_ours(made.PROGRAM)),
        about=about,
        as_of=as_of,
        runs=tuple(sorted(this.runs)),
        members=len(this.members),
        missing=tuple(this.missing),
        damaged=this.damaged,
        live=tuple(sorted(each.run_id for each in this.runs.values() if each.state == "live")),
        cut_off=tuple(sorted(each.run_id for each in this.runs.values() if each.state == "cut off")),
        redacted=this.redacted,
        arguments=tuple(sorted(each.run_id for each in this.runs.values() if each.keeps_arguments)),
    )


def _refuse_place(out: Path) -> None:
    """Raise UsageError if something is where the bundle is to be: nothing is overwritten."""
    try:
        mode = os.lstat(out).st_mode
    except FileNotFoundError:
        if not out.parent.is_dir():
            raise UsageError(f"--out {out}: there is no directory {out.parent}; make it first") from None
        return
    except (OSError, ValueError) as error:
        raise UsageError(f"--out {out}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    if out.is_symlink():
        raise UsageError(f"--out {out}: is a link; name a new file")
    if out.is_file():
        raise UsageError(f"--out {out}: is there already, and is not overwritten; name a new file")
    raise UsageError(f"--out {out}: is {kind_words(mode)}; name a new file")


# ---- which runs ------------------------------------------------------------------------------------------------------


def _asked(terms: Terms, run: str | None, ticket: str | None) -> tuple[Runs, list[str]]:
    """Return the store, and the runs that are asked for: the one that is named, or those of the ticket."""
    if run is not None:
        ref = find(terms, run)
        if ref.store is None:
            raise UsageError(
                f"{ref.place}: lies outside of a state directory, so nobody knows which runs belong to it; "
                f"check it alone: acctops journal verify {ref.place}"
            )
        return ref.store, [ref.run_id]
    for simulated in (False, True):
        store = store_of(terms.settings(None), simulated=simulated)
        if chosen := [head.run_id for head in store.heads(watches=True) if head.run and head.run.ticket == ticket]:
            return store, sorted(chosen)
    raise UsageError(f"no run has the ticket {ticket!r} in {terms.settings(None).state_dir}; all runs: acctops status")


def _gathered(terms: Terms, store: Runs, place: Path, about: dict[str, str], start: Iterable[str]) -> _Bundling:
    """Return the runs, and the list of ends as it was when no run had ended since it was copied."""
    for number in range(_TRIES):
        this = _Bundling(terms=terms, store=store, place=place / str(number), about=about)
        (this.place / "runs").mkdir(parents=True)
        _gather(this, start)
        if not _is_overtaken(this):
            break
    return this


def _gather(this: _Bundling, start: Iterable[str]) -> None:
    """Copy the runs that are asked for and all that are linked with them: reruns, undos, watches, in both ways."""
    heads: dict[str, RunHead] = {head.run_id: head for head in this.store.heads(watches=True)}
    children: dict[str, list[str]] = {}
    for head in heads.values():
        if head.run is not None and head.run.parent is not None:
            children.setdefault(head.run.parent.run, []).append(head.run_id)
    left = deque((run, "asked for") for run in start)
    while left:
        run, why = left.popleft()
        if run in this.runs or not _have(this, run, why):
            continue
        taken = this.runs[run]
        first = heads[run].run if run in heads else None
        if first is not None and (parent := first.parent) is not None:
            left.append((parent.run, f"{run} is its {parent.verb}"))
        for child in children.get(run, ()):
            left.append((child, f"{_verb(heads[child])} of {run}"))
        left += [(link, f"linked by {run}") for link in taken.links]
    _name_unreadable(this, heads)


def _verb(head: RunHead) -> str:
    return head.run.parent.verb if head.run is not None and head.run.parent is not None else "run"


def _have(this: _Bundling, run: str, why: str) -> bool:
    """Take a run into the bundle; return whether there is one. One that was recorded and is gone is noted."""
    if not _NAME.fullmatch(run) or not this.store.has(run):
        if why.startswith("linked by") and this.store.last_listed(run) is None and run not in this.store.lost():
            this.never.add(f"run {run}, {why}: it was never begun, or was removed before it ended")
            return False
        this.miss(f"runs/{run}/{checker.JOURNAL}", f"the run is recorded ({why}), and its journal is gone",
                  "acctops journal verify --all")  # fmt: skip
        return False
    live = this.store.is_live(run)
    try:
        copy = this.store.copy(run, this.place / "runs" / run)
    except UsageError as error:
        this.miss(f"runs/{run}/{checker.JOURNAL}", str(error), f"acctops journal verify {run}")
        return False
    with copy.journal.open("rb") as file:
        read = checker.read_journal(file, run)
    aside = None
    if copy.aside is not None and read.hashes:
        with copy.aside.open("rb") as file:
            aside = checker.read_journal(file, run, read.hashes[0])
    found = this.runs[run] = _Run(run_id=run, why=why, copy=copy, read=read, aside=aside)
    try:
        found.replay = copy.replay()
        found.state = "live" if live else "ended" if copy.has_end() else "cut off"
    except AcctopsError as error:
        found.problem = read.problem or str(error).replace(f"{copy.journal.parent}{os.sep}", "")
    if read.problem or (aside is not None and aside.problem):
        found.problem = found.problem or read.problem or f"what stands beside it: {aside.problem if aside else ''}"
    if found.problem:
        found.state = "damaged"
        this.damaged[f"runs/{run}/{checker.JOURNAL}"] = found.problem
    for name, path in copy.files.items():
        this.members[f"runs/{run}/{name}"] = path.read_bytes
    return True


def _name_unreadable(this: _Bundling, heads: Mapping[str, RunHead]) -> None:
    """Note the runs of which nobody knows whether they belong to the bundle, as their first line cannot be read."""
    for run, head in sorted(heads.items()):
        if head.problem is not None and run not in this.runs:
            this.miss(f"run {run}", f"its journal cannot be read, so nobody knows whether it belongs here: "
                      f"{head.problem}", f"acctops journal verify {run}")  # fmt: skip


# ---- the list of the ends of runs ------------------------------------------------------------------------------------


def _is_overtaken(this: _Bundling) -> bool:
    """Read the list of ends; return whether a run that was live has ended since its journal was copied."""
    try:
        this.listed = this.store.listed()
    except JournalCorruptError as error:
        this.damaged[made.HEADS] = str(error)
    live = {run: len(each.read.hashes) for run, each in this.runs.items() if each.state == "live"}
    return any(line.lines > live.get(line.run, line.lines) for line in this.listed)


def _list(this: _Bundling) -> None:
    """Add the part of the list of ends that is about these runs, its seals, and the keys that may sign."""
    lines = this.listed
    mine = [at for at, line in enumerate(lines) if line.run in this.runs]
    this.heads = list(lines[mine[0] : mine[-1] + 1]) if mine else []
    if this.heads:
        this.add(made.HEADS, b"".join(line.raw + b"\n" for line in this.heads))
    for line in this.heads:
        run = this.runs.get(line.run)
        if run is None or run.problem:
            continue
        hashes = run.read.hashes
        if not 0 < line.lines <= len(hashes) or hashes[line.lines - 1] != line.head:
            run.state = "damaged"
            run.problem = f"is not as line {line.seq} of the list of ends says: it was cut or replaced"
            this.damaged[f"runs/{line.run}/{checker.JOURNAL}"] = run.problem
    _name_unlisted(this)
    _add_seals(this)
    _add_signers(this)


def _name_unlisted(this: _Bundling) -> None:
    """Note the ends of runs that the list does not have, and that are not from before its first line."""
    listed = {line.run: line.lines for line in this.heads}
    first_at = unix_seconds(this.listed[0].at) if this.listed else None
    for run, each in sorted(this.runs.items()):
        if each.state != "ended" or each.replay is None or (end := each.replay.ledger.end) is None:
            continue
        is_before = run not in listed and (first_at is None or unix_seconds(end.at) < first_at)
        if not is_before and each.read.end > listed.get(run, 0):
            this.miss(f"end of run {run} in {made.HEADS}", "its line was removed, the end is forged, or the process "
                      "died just then", "acctops journal verify --all")  # fmt: skip


def _add_seals(this: _Bundling) -> None:
    lines = {line.seq: line for line in this.heads if line.run in this.runs}
    sealed: set[int] = set()
    rows: list[bytes] = []
    try:
        seals = this.store.seals() if lines else ()
    except JournalCorruptError as error:
        this.damaged[made.SEALS] = str(error)
        seals = ()
    for seal in seals:
        if (line := lines.get(seal.seq)) is None or line.hash != seal.hash:
            continue
        rows.append(msgspec.json.encode(seal))
        stem = f"seals/{seal.seq:06d}"
        this.add(f"{stem}.line", line.raw)
        if seal.signature is not None:
            sealed.add(seal.seq)
            this.add(f"{stem}-{len(rows)}.sig", seal.signature)
        elif seal.stamp is not None:
            this.add(f"{stem}-{len(rows)}.tsr", checker.unbase64(seal.stamp))
    if rows:
        this.add(made.SEALS, b"".join(row + b"\n" for row in rows))
    for seq, line in lines.items():
        if line.seal is not None and seq not in sealed:
            this.miss(f"seal of line {seq}", f"line {seq} of run {line.run} names the key {line.seal}, and nothing "
                      "seals it", "acctops tend")  # fmt: skip


def _add_signers(this: _Bundling) -> None:
    try:
        settings = this.terms.settings(None, *_homes(this))
    except AcctopsError as error:
        this.miss(made.SIGNERS, f"the config that names them is not used: {error}", "acctops doctor")
        return
    rules, seal, kept = settings.approvals, settings.seal, ""
    paths = {*(rules.signers if rules is not None else ()), *([seal.signers] if seal and seal.signers else [])}
    for path in sorted(paths):
        try:
            kept += made.only_keys(read_regular(Path(path), MOST_SIGNERS))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            this.miss(made.SIGNERS, f"{path} cannot be read: {why}", "acctops doctor")
    if seal is not None and seal.signers is None and seal.key is not None:
        try:
            kept += f'acctops-seal namespaces="{SEALS}" {public_line(Path(seal.key))}\n'
        except SshKeyError as error:
            this.miss(made.SIGNERS, str(error), "acctops doctor")
    if kept:
        this.add(made.SIGNERS, "".join(dict.fromkeys(kept.splitlines(keepends=True))))


def _homes(this: _Bundling) -> tuple[Path, ...]:
    """Return the directories of the jobs of these runs: the configs above them name who may sign, too."""
    places = set()
    for each in this.runs.values():
        if each.replay is not None and (guarded := each.replay.ledger.run.guarded_by):
            path = Path(from_recorded(guarded))
            places.add(path if path.is_dir() else path.parent)
    return tuple(sorted(place for place in places if place.is_dir()))


# ---- what is told of each run ----------------------------------------------------------------------------------------


def _tell(this: _Bundling) -> None:
    """Add job, approvals and reports of each run."""
    kins: dict[str, Kin] = {}
    for run, each in sorted(this.runs.items()):
        if each.replay is None:
            continue
        ledger = each.replay.ledger
        for number, approved in enumerate(ledger.approved, 1):
            this.add(f"runs/{run}/approved-{number}.json", approved.statement)
            this.add(f"runs/{run}/approved-{number}.sig", approved.signature)
        _add_job(this, each, ledger)
        if run not in kins:
            try:
                kin = kin_of(this.store, ledger)
            except AcctopsError:  # one of the family cannot be read
                kin = Kin(ledgers=(ledger,), undone={})
            kins |= {known.run.run: kin for known in kin.ledgers}
        watch = standing(this.store, ledger)
        told = made.Told(
            ledger=ledger,
            journal=f"runs/{run}/{checker.JOURNAL}",
            head=each.replay.head,
            live=each.state == "live",
            way=way_on(_with(kins[run], ledger), run, undone=kins[run].undone),
            watch=watch_document(watch) if watch is not None else None,
            records=each.copy.records,
            seals=seal_words(this.store, run),
        )
        for name, make in made.REPORTS.items():
            text = make(told)
            if text is None:
                this.never.add(f"{name} of any run: what makes it is not installed (pip install 'acctops[report]')")
            else:
                this.add(f"runs/{run}/{name}", text)


def _with(kin: Kin, ledger: Ledger) -> tuple[Ledger, ...]:
    """Return the ledgers of a family, with a run's own in place of a later reading of it."""
    return tuple(ledger if each.run.run == ledger.run.run else each for each in kin.ledgers)


def _add_job(this: _Bundling, each: _Run, ledger: Ledger) -> None:
    """Add the text of the job, if the file is there and its digest is still the one in the journal."""
    job = ledger.run.job
    if not job.path.startswith("/"):
        return  # targets that were typed, standard input, an undo: there never was a file
    key = (job.path, job.digest)
    if key not in this.jobs:
        this.jobs[key] = _job_text(job.path, job.digest)
    found = this.jobs[key]
    name = f"runs/{each.run_id}/job.yaml"
    if isinstance(found, str):
        this.miss(name, found, f"put the file back as it was then, and call acctops evidence again: {job.path}")
        return
    data, each.job_lists = found
    text = data.decode("utf-8-sig", "replace")
    clean = made.without_secrets(text, argument_spans(text), environment_secrets(os.environ))
    if clean.lines:
        name = f"runs/{each.run_id}/job.redacted.yaml"
        this.redacted[name] = clean.lines
        this.add(name, clean.text)
    else:
        this.add(name, data)


def _job_text(place: str, digest: str) -> tuple[bytes, int] | str:
    """Return the bytes of a job file and the number of its lists; in words why they cannot be had."""
    path = job_file(place)
    if path is None:
        return f"{place}: there is no such file any more"
    try:
        data = read_bytes(path, MOST_JOB)
    except AcctopsError as error:
        return f"{place}: {error}"
    if made.digest(data) == digest:
        return data, 0
    with suppress(AcctopsError):
        job = load_job(path, skip_bad_rows=True)
        if job.digest == digest and read_bytes(path, MOST_JOB) == data:
            return data, len(job.sources)
    return f"{place}: it, or a list that it names, is not what the run was planned from: its digest differs"


# ---- the bundle ------------------------------------------------------------------------------------------------------


def _of_ours(name: str) -> bytes:
    """Return the bytes of a member that is in every bundle."""
    return files("engine.evidence").joinpath(name).read_bytes()


def _finish(this: _Bundling) -> str:
    """Add manifest, README, program and sums; return the time of the last record."""
    reads = [read for each in this.runs.values() for read in (each.read, each.aside) if read is not None]
    as_of = made.latest(read.last_at for read in reads)
    this.add(made.PROGRAM, _of_ours(made.PROGRAM))
    this.add(made.README, made.readme(_of_ours(made.README).decode("ascii"), this.about, as_of, len(this.runs)))
    this.missing.sort(key=lambda each: each.what)
    this.add(made.MANIFEST, made.as_json(_manifest(this, as_of)))
    this.add(made.SUMS, made.sums({name: made.digest(read()) for name, read in this.members.items()}))
    return as_of


def _manifest(this: _Bundling, as_of: str) -> dict[str, Any]:
    """Return MANIFEST.json. Any: JSON values."""
    heads = this.heads
    return {
        "format": made.FORMAT,
        "made_by": f"acctops {__version__}",
        "about": this.about,
        "as_of": as_of,
        "simulated": this.store.simulated,
        "runs": [_entry(each) for _, each in sorted(this.runs.items())],
        "heads": {"first": heads[0].seq, "last": heads[-1].seq, "hash": heads[-1].hash} if heads else None,
        "missing": [{"what": each.what, "why": each.why} for each in this.missing],
        "damaged": this.damaged,
        "redacted": {name: list(lines) for name, lines in sorted(this.redacted.items())},
        "left_out": sorted(this.never),
    }


def _entry(each: _Run) -> dict[str, Any]:
    """Return one run of the manifest. Any: JSON values."""
    run = each.replay.ledger.run if each.replay is not None else None
    hashes = each.read.hashes
    aside = each.aside
    shard_heads = each.read.shard_heads
    return {
        "run": each.run_id,
        "why": each.why,
        "state": each.state,
        "why_damaged": each.problem or None,
        "ticket": run.ticket if run is not None else None,
        "job": run.job.name if run is not None else None,
        "action": run.action if run is not None else None,
        "lines": len(hashes),
        "head": hashes[-1] if hashes else None,
        "aside_lines": len(aside.hashes) if aside is not None else None,
        "aside_head": aside.hashes[-1] if aside is not None and aside.hashes else None,
        "job_lists": each.job_lists,
        **({"shard_heads": shard_heads} if shard_heads else {}),
    }
