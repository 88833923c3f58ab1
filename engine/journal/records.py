"""All kinds of journal records, as values. No I/O, no clock.

engine/journal.md says what each kind is for, and when it is written. A line of the file is one of these with the
envelope (`v, seq, at, run`) before it and the chain's `hash` behind it; `lines.Chain` adds both. Fields without a
default are always written, null included. A field that is added later needs a default, and is left out while it has
it, so that old journals stay readable and new ones stay small.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from engine.api.endpoints import Access
from engine.model import AccountSpec, Call, CallId, Outcome, Proof, RunId, Target, Verdict

FORMAT = 2
"""The newest `v` this version reads. A run that is divided into shards is written with it, any other with 1."""

Count = Annotated[int, Meta(ge=0, le=2**53)]
Whole = Annotated[int, Meta(ge=-(2**53), le=2**53)]
"""A number from a server or from a clock, which may be negative."""
Some = Annotated[int, Meta(ge=1, le=2**31)]
Seconds = Annotated[float, Meta(ge=0, le=1e15)]
Rate = Annotated[float, Meta(gt=0, le=1e9)]
"""The decoder refuses any number outside of these bounds, so that nothing is decided from a senseless one."""


class Record(Struct, kw_only=True, omit_defaults=True, tag_field="kind", gc=False):
    """The envelope of a line, with its `hash`. The decoder fills it in a line that is read; `Chain.add` when it writes.

    The garbage collector ignores records (`gc=False`): they hold JSON, which has no cycles, and a run has a million.
    """

    v: int = 0
    seq: Whole = 0
    at: str = ""
    run: str = ""
    shard: Count = 0
    """Number of the shard whose chain the line is of; 0: the run's own chain."""
    hash: str = ""


class JobRef(Struct, frozen=True):
    """The job that a run executes. The file may be gone later; the digest still identifies its content."""

    name: str
    path: str
    digest: str


class Parent(Struct, frozen=True):
    """The run that this one reruns or undoes, and the head of its journal at that moment."""

    run: str
    verb: str
    head: str


class Matched(Struct, frozen=True):
    """A match of the job, with what it found when the run was planned. The calls of the plan are its answer."""

    where: str
    """Place in the job file."""
    asks: str
    """The question of the match, in words."""
    instances: Count | None
    """Instances it chose; None if the match was not looked up (a plan made offline)."""
    accounts: Count | None
    """Accounts it found, before guards and duplicates; None if the match was not looked up."""


class RunSettings(Struct, frozen=True, kw_only=True):
    """The settings that decide what a run does; a resume takes them from here."""

    endpoint: tuple[str, ...]
    """URLs of the API without a path, each a lane, for every region that has no URL of its own."""
    rate: Rate
    """Calls a second and lane."""
    workers: Some
    """Most attempts in flight at a time."""
    per_instance: Some
    """Most attempts in flight on one instance, while others have work."""
    timeout_s: Seconds
    """Time limit of one attempt."""
    deadline_s: Seconds | None
    """Time limit of every session, from job and config; None is the default, 10 min + 3 × calls ÷ quota."""
    transient_s: Seconds
    """Time budget of a call for retries of transient faults."""
    busy_s: Seconds
    """Time budget for retries while an instance is busy."""
    stop_after: str | None
    """The number of failures that stops the run, "N" or "N%"."""
    verify: bool
    profile: str | tuple[str, ...] | None
    """Credential profile that the operator asked for, or several."""
    protect: tuple[str, ...]
    """Protect rules that held at planning, as `glob (where)`."""
    passwords: dict[str, Any] | None
    """Source of new passwords (command, file or environment variable), never a value. Any: shape per source."""
    protect_waived: bool = False
    """Whether the job says `protect: none`, so that no reminder is shown."""
    keep_admins: Count = 0
    """Usable superusers that every instance keeps."""
    resend_already: bool = False
    """Whether calls are sent, too, whose account was as desired before."""
    endpoint_of: dict[str, str] = {}
    """Region → the only URL that serves it."""
    accounts: tuple[AccountSpec, ...] = ()
    """Cloud accounts of the targets, and who signs for each; empty: only the account of the keys, called ""."""

    quota: Rate | None = None
    """Calls a second and lane that all runs of this host may make together: the quota's share, or the rate where that
    is above it. None: not known, as an older version wrote the journal."""
    max_targets: int | None = None
    """Most calls of a plan, as it was when the run was planned; None: not asked, or not known."""
    max_share: float | None = None
    """Most calls of a plan as a share of the accounts read, when the run was planned; None: not asked, or not known."""
    hold_until: str | None = None
    """UTC time at which the run's holds end; None: never. A later `hold` record of its family counts more."""
    hold_then: str | None = None
    """What is done at that time: `tell`, `unlock` or `unlock_rotated`; None: tell."""
    watch: dict[str, Any] | None = None
    """When its accounts are read again after the run (`job.WatchSpec.as_record`). Any: numbers, and a list of them."""
    waves: dict[str, Any] | None = None
    """Its waves and their gate (`job.WavesSpec.as_record`); None: it has none. Any: text and numbers, nested."""
    window: dict[str, Any] | None = None
    """When it may send, in the words of the job file (`window.Window.as_record`). Any: text, and a list of days."""

    session_deadline_s: Seconds | None = None
    """Time limit of this session alone, from a flag or the environment. Older journals have it in `deadline_s`."""

    @property
    def access(self) -> Access:
        """The access points of these settings."""
        return Access(self.endpoint, self.endpoint_of)

    @property
    def profiles(self) -> tuple[str, ...]:
        """The credential profiles that the operator asked for."""
        if self.profile is None:
            return ()
        return (self.profile,) if isinstance(self.profile, str) else self.profile

    @property
    def every_account(self) -> tuple[AccountSpec, ...]:
        """The cloud accounts; if none is named, the account of the keys, called ""."""
        return self.accounts or (AccountSpec(name="", profiles=self.profiles),)

    def signers(self, account: str) -> int:
        """Return how many identities sign for an account."""
        return next(spec.signers for spec in self.every_account if spec.name == account)


class Run(Record, tag="run", kw_only=True):
    """The first line: what is to be done, by whom, and how."""

    job: JobRef
    action: str
    reason: str | None
    ticket: str | None
    operator: str
    host: str
    pid: Whole
    version: str
    identity: str
    simulated: bool
    parent: Parent | None
    settings: RunSettings
    plan_digest: str
    counts: dict[str, Count]
    """Number of `calls`, and of targets left out for each reason."""
    match: tuple[Matched, ...] = ()
    """The matches and their answers. They are never looked up again: the plan that was approved is what runs."""
    guarded_by: str = ""
    """Absolute path whose guards hold for a resume, rerun or undo of this run: the job file, or the directory in which
    a command without one was typed. An undo and a rerun have that of the run they go back to."""
    asked: tuple[str, ...] = ()
    """Flags that say what a run or an undo takes, and where (`--endpoint X`, `--rotated`), to ask for it again."""
    shards: Count = 0
    """Number of the shards that its plan is divided into, each with a chain of its own; 0: one process has it all."""

    @property
    def watched(self) -> str | None:
        """The run that this one watches: then it only reads, and is no run of its job. None for any other run."""
        return self.parent.run if self.parent is not None and self.parent.verb == WATCH else None


class CallLine(Record, tag="call", kw_only=True):
    """One call of the plan."""

    call: CallId
    action: str
    account: str
    region: str
    instance: str
    user: str


def call_line(call: Call) -> CallLine:
    """Return the record of a call of the plan."""
    return CallLine(
        call=call.id,
        action=call.action,
        account=call.account,
        region=call.region,
        instance=call.instance,
        user=call.user,
    )


class OmitLine(Record, tag="omit", kw_only=True):
    """A target left out of the plan."""

    account: str
    region: str
    instance: str
    user: str
    reason: str
    rule: str
    where: str
    call: CallId | None = None
    """Id of a call of the plan that was left out later (by a resume, `keep_admins` or the rule of an undo)."""


def omit_line(target: Target | Call, reason: str, rule: str, where: str, call: CallId | None = None) -> OmitLine:
    """Return the record of a target that is left out; `call`: its call, if the plan has it."""
    return OmitLine(
        account=target.account,
        region=target.region,
        instance=target.instance,
        user=target.user,
        reason=reason,
        rule=rule,
        where=where,
        call=call,
    )


class WaveLine(Record, tag="wave", kw_only=True):
    """How a wave of the run stands now. Number 0 stands for the question of the gate before the first wave."""

    n: Count
    calls: Count
    """Number of its calls. The waves divide the plan in its order."""
    state: str
    """One of `WAVE_STATES`."""
    until: str | None = None
    """When its soak ends."""
    why: str | None = None
    """Why it is red, silent or failed, in words."""


PLANNED, BEGUN, SOAKING, PASSED, RED, SILENT, FAILED = (
    "planned",
    "begun",
    "soaking",
    "passed",
    "red",
    "silent",
    "failed",
)
"""States of a wave. `failed`: a call of it is not as asked. `silent`: its gate did not say a word that counts."""
WAVE_STATES = (PLANNED, BEGUN, SOAKING, PASSED, RED, SILENT, FAILED)


class ShardLine(Record, tag="shard", kw_only=True):
    """One shard of the plan: whole instances of one route and one wave, which one lane session works on at a time.

    These lines end the plan. The hash of the last one is the head of the plan, which every shard's chain begins from.
    """

    no: Some
    wave: Count
    """The wave of its calls; 0 if the run has none."""
    account: str
    endpoints: tuple[str, ...]
    """URLs of the API that may serve it."""
    lanes: tuple[str, ...]
    """Lanes that may take it."""
    calls: Count
    """Number of its calls."""
    instances: tuple[tuple[str, str], ...]
    """Region and id of each of its instances; the calls of the wave on them are its calls, in plan order."""


class Confirmed(Record, tag="confirmed", kw_only=True):
    """Who confirmed the plan, how, and at which terminal."""

    how: str
    by: str
    terminal: str | None


class Approved(Record, tag="approved", kw_only=True):
    """A statement about the plan, as somebody signed it; it stands among the first lines, before anything is sent."""

    statement: str
    """Canonical JSON: hash and digest of the plan, number of calls, action, cloud accounts, until when it counts, and
    what machines may do later without a further approval. Its bytes are what was signed."""
    signature: str
    """The signature by `ssh-keygen -Y sign`, in the namespace `acctops-approve@1`."""
    fingerprint: str
    """Of the key that signed, as ssh-keygen prints it."""


class Read(Record, tag="read", kw_only=True):
    """One reading of an instance's accounts (all its pages)."""

    region: str
    instance: str
    purpose: str
    request_id: str | None
    code: str | None
    rows: Count | None
    ms: Whole
    account: str = ""


class Before(Record, tag="before", kw_only=True):
    """An account as it was before the call's first `sent`; nulls and a `why` if it was not read."""

    call: CallId
    status: Whole | None
    cam: bool | None
    type: str | None
    update_time: str | None
    password_update_time: str | None
    why: str | None
    read_at: str = ""
    """When the reading was made, if it settles the call and was made before the run existed."""


class Sent(Record, tag="sent", kw_only=True):
    """The intent of one attempt; durable before its bytes leave."""

    call: CallId
    attempt: Count
    lane: str
    trace: str
    key: str
    """Fingerprint of the key that signs, never the key."""


class ReplyLine(Record, tag="reply", kw_only=True):
    """The answer to one attempt, or the fault that ended it."""

    call: CallId
    attempt: Count
    sent_at: str | None
    """When the bytes left; None if none did."""
    request_id: str | None
    code: str | None
    message: str | None
    http: Whole | None
    ms: Whole
    verdict: Verdict


class Verified(Record, tag="verified", kw_only=True):
    """A reading of an account after an attempt; `agrees` says whether the account is as the action leaves it.

    Behind its `settled` stand only a later reading of the run that does not agree, and each that changes this again.
    """

    call: CallId
    status: Whole | None
    cam: bool | None
    update_time: str | None
    agrees: bool


class Settled(Record, tag="settled", kw_only=True):
    """The final outcome of a call, at most once a call."""

    call: CallId
    outcome: Outcome
    proof: Proof | None
    attempts: Count
    request_id: str | None
    code: str | None
    message: str | None = None
    """Why, in words of ours, if the code does not say it."""


class Session(Record, tag="session", kw_only=True):
    """A further process that works on the run."""

    verb: str
    pid: Whole
    host: str
    operator: str
    version: str
    cut_bytes: Count
    settings: RunSettings | None
    """The settings from here on, if they changed."""
    clock_offset_s: Annotated[float, Meta(ge=-1e15, le=1e15)]
    lane: str = ""
    """In the chain of a shard: the lane whose session took it."""


class Note(Record, tag="note", kw_only=True):
    """Something that happened to the run as a whole."""

    what: str
    """lane_slowed, lane_recovered, lane_down, lane_up, lane_closed, lanes_not_compared, route_closed, clock_learned,
    keys_refreshed, keys_not_refreshed, identity, signal, stopping, gate, control, control_refused, paused, unpaused,
    changed, notice_failed, metrics_failed, page_failed, slots_reset, unapproved, continued_by, undone_by, watched_by,
    told, seen."""
    data: dict[str, Any] = field(default_factory=dict)
    """Facts of the note. Any: each kind of note has its own; `sense` checks some of them."""


class Released(Record, tag="released", kw_only=True):
    """Holds of the run, or of runs of its family, that were ended without a call to the API."""

    targets: tuple[str, ...]
    """The accounts, as `instance/user`."""
    by: str
    """Who released them."""
    why: str | None
    runs: tuple[str, ...]
    """The runs whose holds on them end: those of the family that held them at that time."""


class HoldLine(Record, tag="hold", kw_only=True):
    """A new end of all holds of the run's family. The last one counts."""

    until: str | None
    """UTC time; None: no end."""
    then: str
    by: str
    why: str | None


class Stopped(Struct, frozen=True):
    """Why a session ended before its work was done."""

    why: str
    code: str | None
    request_id: str | None


THENS = ("tell", "unlock_rotated", "unlock")
"""What may be done once a hold has reached its end; the strictest first."""
WATCH = "watch"
"""Verb of the parent, and of the sessions, of a run that watches another."""
LINKS = ("continued_by", "undone_by", "watched_by")
"""Notes that a later run leaves beside the journal of the one it continues, undoes or watches."""
SAID_LATER = ("told", "seen")
"""Notes beside a journal: what `tend` has told of the run, and which of its accounts were read as no longer so."""


class End(Record, tag="end", kw_only=True):
    """The close of one session; the last one counts. In a shard's chain it closes the session of that shard alone."""

    counts: dict[str, Count]
    attempts: Count
    throttled: Count
    worst_second: dict[str, Count]
    """Most sends in any second, by lane."""
    seconds: Seconds
    exit: Annotated[int, Meta(ge=0, le=255)]
    stopped: Stopped | None
    guard: dict[str, Annotated[float, Meta(ge=-1e6, le=1e6)]] = {}
    """The pacer's guard at the end of the session, a share of the interval, by lane."""
    heads: dict[str, str] = {}
    """Number of each shard that has lines → the hash of the last one, so that the hash of this line covers all."""


AnyRecord = (
    Run
    | CallLine
    | OmitLine
    | Confirmed
    | Approved
    | Read
    | Before
    | Sent
    | ReplyLine
    | Verified
    | Settled
    | Session
    | Note
    | End
    | Released
    | HoldLine
    | WaveLine
    | ShardLine
)


def rfc3339(at: float, *, digits: int = 3) -> str:
    """Return UNIX seconds as RFC 3339 UTC text, cut (not rounded) to `digits` decimals: 3 for `at`, 6 for `sent_at`."""
    second = int(at // 1)
    fraction = int((at - second) * 10**digits)
    return f"{_second_text(second)}.{fraction:0{digits}d}Z"


_LAST_PARSED: list[tuple[str, int]] = [("1970-01-01T00:00:00", 0)]
_LAST_SECOND: list[tuple[int, str]] = [(0, "1970-01-01T00:00:00")]


def _second_text(second: int) -> str:
    # Profiled: thousands of records share a second, and strftime is most of the cost of a record's time.
    known, text = _LAST_SECOND[0]
    if known != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _LAST_SECOND[0] = (second, text)
    return text


def unix_seconds(text: str) -> float:
    """Return the UNIX seconds of an ISO 8601 time, such as `rfc3339` returns; raise ValueError for any other text."""
    # Profiled: of a million send times in a journal most share their second with the one before.
    known, second = _LAST_PARSED[0]
    if text[:19] != known or text[19:20] != "." or text[26:] != "Z" or not text[20:26].isdecimal():
        at = datetime.fromisoformat(text).timestamp()
        if text[19:20] == "." and text[-1] == "Z":  # in another time zone the same digits are another second
            _LAST_PARSED[0] = (text[:19], int(at // 1))
        return at
    return (second * 1_000_000 + int(text[20:26])) / 1_000_000


__all__ = [
    "FORMAT",
    "LINKS",
    "THENS",
    "WATCH",
    "AnyRecord",
    "Approved",
    "Before",
    "CallLine",
    "Confirmed",
    "End",
    "HoldLine",
    "JobRef",
    "Matched",
    "Note",
    "OmitLine",
    "Parent",
    "Read",
    "Record",
    "Released",
    "ReplyLine",
    "Run",
    "RunId",
    "RunSettings",
    "Sent",
    "Session",
    "Settled",
    "ShardLine",
    "Stopped",
    "Verified",
    "WaveLine",
    "call_line",
    "omit_line",
    "rfc3339",
    "unix_seconds",
]
