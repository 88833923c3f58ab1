"""Checks whether a run can have written a record: its times, its names and how it fits to the records before.

The chain shows that a line is what was written, not that it makes sense: anybody who knows the rule can seal any text.
So `reader` checks every record once as it reads it, and the rest of the engine may rely on that. The decoder checks
types and bounds of numbers (`records`).
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from engine.api.actions import ACTIONS
from engine.journal import records
from engine.journal.records import unix_seconds
from engine.model import call_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}").fullmatch
_MOST_NAMES = 1024
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}").fullmatch
_MOST_SIGNED = 1 << 16
"""Characters of a statement, and of a signature, at most."""
_FRACTIONS = frozenset(f"{milliseconds:03}Z" for milliseconds in range(1000))
_MOST_DEPTH = 6
_MOST_WAVES = 100
_TAKE = re.compile(r"rest|0*[1-9][0-9]{0,8}|(?!0+(?:[.]0+)?%)[0-9]{1,3}(?:[.][0-9]{1,3})?%").fullmatch
_MOST_AFTER, _LEAST_EVERY_S, _MOST_SPAN_S = 100, 60, 366 * 86400
"""Bounds of a watch, as a job is held to them."""
_ASIDE = frozenset({records.Note, records.Released, records.HoldLine})
"""The kinds of the journal beside a run's own."""
_NOT_OF_A_SHARD = frozenset(
    {
        records.Run,
        records.CallLine,
        records.WaveLine,
        records.ShardLine,
        records.Approved,
        records.Released,
        records.HoldLine,
    }
)
"""The kinds that stand in the run's own chain, or beside it, and in that of no shard."""
_OF_A_CALL = frozenset({records.Before, records.Sent, records.ReplyLine, records.Verified, records.Settled})


class Sense:
    """What is known from the records read so far, as far as the check of the next record needs it."""

    def __init__(self, of: records.Run | None = None) -> None:
        """`of`: the run, if the records are of the journal beside its own, where only few kinds stand."""
        self._run = of
        self._is_aside = of is not None
        self._calls: set[str] = set()
        self._waves: dict[int, records.WaveLine] = {}
        """Number of a wave → how it stands."""
        self.in_waves = 0
        """How many calls are in a wave."""
        self.shards = 0
        """How many shards of the plan are named; a line of theirs may follow once all are."""
        self._in_shards = 0
        """How many calls are in a shard."""
        self._place_of: dict[str, tuple[str, str, str]] = {}
        """Call → account, region and instance; empty if the run has no shards."""
        self._shards_of: dict[tuple[str, str, str], dict[int, int]] = {}
        """Account, region and instance → wave → its shard."""
        self._second = ""
        """The text of the last valid time up to its dot."""

    def first_problem(self, lines: Sequence[records.AnyRecord]) -> tuple[int, str] | None:
        """Return the index of the first record that no run can have written, and why; None if all make sense."""
        # Profiled: runs for every line. Most share their second with the one before, and are of a call of the plan.
        second, calls = self._second, self._calls
        for index, record in enumerate(lines):
            at = record.at
            if at[:20] != second or at[20:] not in _FRACTIONS:
                if not is_time(at):
                    return index, f"at is no time: {at[:40]!r}"
                self._second = second = at[:20]
            kind = type(record)
            if self._is_aside and kind not in _ASIDE:
                return index, f"a {kind.__struct_config__.tag!r}, which stands in the journal of the run itself"
            if kind in _OF_A_CALL:
                call: Any = record.call  # type: ignore[union-attr]
                if call not in calls:
                    return index, f"call {call[:40]!r} is not of the plan"
            elif (check := _CHECKS.get(kind)) is not None and (why := check(self, record)) is not None:
                return index, why
        return None

    def first_misplaced(self, lines: Sequence[records.AnyRecord]) -> tuple[int, str] | None:
        """Return the index of the first record that no run writes into the chain it is in, and why; None if all fit.

        For a run that has shards; `first_problem` has found no fault in the records.
        """
        for index, record in enumerate(lines):
            if not record.shard:
                continue
            if type(record) in _NOT_OF_A_SHARD:
                return index, f"a {record.__struct_config__.tag!r}, which stands in no chain of a shard"
            if isinstance(record, records.End) and record.heads:
                return index, "the heads of shards at the end of one of them"
            call: str | None = getattr(record, "call", None)
            if call is not None and record.shard not in self._shards_of[self._place_of[call]].values():
                return index, f"call {call} is not of shard {record.shard}"
        return None

    def _of_run(self, run: records.Run) -> str | None:
        if self._run is not None:
            return "a second `run`"
        self._run = run
        if (run.shards > 0) != (run.v > 1):
            return f"{run.shards} shards in a journal of format {run.v}"
        if _RUN_ID(run.run) is None:
            return f"run {run.run[:40]!r} is no id of a run"
        if run.action not in ACTIONS:
            return f"action {run.action[:40]!r} is none of this version"
        if run.parent is not None and _RUN_ID(run.parent.run) is None:
            return f"parent {run.parent.run[:40]!r} is no id of a run"
        if run.parent is not None and run.parent.run == run.run:
            return "its parent is the run itself"
        if any("\0" in path for path in (run.job.path, run.guarded_by)):
            return "a path holds NUL"
        return _of_settings(run.settings)

    def _of_call(self, line: records.CallLine) -> str | None:
        if self._run is None or line.action != self._run.action:
            return f"action {line.action[:40]!r} is not that of the run"
        account, region, instance, user = line.account, line.region, line.instance, line.user
        names = account + region + instance + user
        if len(names) > _MOST_NAMES or not names.isprintable():
            return "a name that no account has"
        if line.call != call_id(account, region, instance, user, line.action):
            return f"call {line.call[:40]!r} is not the id of {line.instance}/{line.user}"
        if line.call in self._calls:
            return f"call {line.call} a second time"
        if self.shards:
            return "a call behind the shards of the plan"
        self._calls.add(line.call)
        if self._run.shards:
            place = (account, region, instance)
            self._shards_of.setdefault(place, {})
            self._place_of[line.call] = place
        return None

    def _of_omit(self, line: records.OmitLine) -> str | None:
        if line.call is not None and line.call not in self._calls:
            return f"call {line.call[:40]!r} is not of the plan"
        return None

    def _of_approved(self, line: records.Approved) -> str | None:
        if max(len(line.statement), len(line.signature)) > _MOST_SIGNED or not line.statement.isprintable():
            return "a statement that nobody signs"
        return None if _FINGERPRINT(line.fingerprint) else "the fingerprint is none"

    def _of_session(self, line: records.Session) -> str | None:
        if line.settings is None:
            return None
        if self._run is not None and line.settings.waves != self._run.settings.waves:
            return "its waves are not those of the run"
        return _of_settings(line.settings)

    def _of_wave(self, line: records.WaveLine) -> str | None:
        spec = self._run.settings.waves if self._run is not None else None
        if spec is None:
            return "a wave of a run that has none"
        if line.state not in records.WAVE_STATES:
            return f"state {line.state[:40]!r} is none of a wave"
        if (line.until is not None) != (line.state == records.SOAKING):
            return "the end of a soak, and no soak, or a soak without its end"
        if line.until is not None and not is_time(line.until):
            return f"the end of a soak is no time: {line.until[:40]!r}"
        if line.state == records.PLANNED:
            return self._of_planned(line, most=len(spec["waves"]))
        before = self._waves.get(line.n)
        if (before.calls if before is not None else 0) != line.calls or (line.n and before is None):
            return f"wave {line.n} was not planned so"
        if not self._may_become(line, before, has_gate=spec["gate"] is not None):
            return f"wave {line.n} cannot be {line.state} yet"
        self._waves[line.n] = line
        return None

    def _of_shard(self, line: records.ShardLine) -> str | None:
        due = self._run.shards if self._run is not None else 0
        if line.no != self.shards + 1 or line.no > due:
            return f"shard {line.no} is none of a plan of {due} shards, {self.shards} of which stand before it"
        if not all(map(_is_url, line.endpoints)):
            return f"shard {line.no} has an endpoint that is none"
        if line.wave != 0 and line.wave not in self._waves:
            return f"shard {line.no} is of wave {line.wave}, which was not planned"
        self._in_shards += line.calls
        if not 0 < line.calls <= self._in_shards <= len(self._calls):
            return f"shard {line.no} is none of a plan of {len(self._calls):,} calls"
        for region, instance in line.instances:
            waves = self._shards_of.get((line.account, region, instance))
            if waves is None:
                return f"shard {line.no} has instance {instance[:40]!r}, on which the plan has no call"
            if line.wave in waves:
                return f"shard {line.no} has instance {instance}, which shard {waves[line.wave]} has"
            waves[line.wave] = line.no
        self.shards += 1
        return None

    def _of_end(self, line: records.End) -> str | None:
        if line.heads and (self._run is None or not self._run.shards):
            return "heads of shards, and the run has none"
        return None

    def _of_planned(self, line: records.WaveLine, *, most: int) -> str | None:
        self.in_waves += line.calls
        is_next = line.n == len(self._waves) + 1 <= most and all(
            each.state == records.PLANNED for each in self._waves.values()
        )
        if not is_next or not line.calls or self.in_waves > len(self._calls):
            return f"wave {line.n} is none of a plan of {len(self._calls):,} calls"
        self._waves[line.n] = line
        return None

    def _may_become(self, line: records.WaveLine, before: records.WaveLine | None, *, has_gate: bool) -> bool:
        """Return whether a wave may stand so now: it begins once the one before has passed, and passes once begun."""
        is_word = line.state in (records.RED, records.SILENT)
        if is_word and not has_gate:
            return False
        if before is None:  # of 0: only the gate's word before wave 1 is written
            return has_gate and (is_word or line.state == records.PASSED)
        if line.n == 0:
            return is_word or line.state == records.PASSED
        if line.state == records.BEGUN:
            ready = self._waves.get(line.n - 1)
            return ready.state == records.PASSED if ready is not None else not has_gate
        if line.state in (records.SOAKING,):
            return before.state == records.BEGUN
        if line.state in (records.PASSED, records.FAILED):
            return before.state in (records.BEGUN, records.SOAKING)
        return before.state != records.PLANNED

    def _of_released(self, line: records.Released) -> str | None:
        if not all(map(_RUN_ID, line.runs)):
            return "runs are none"
        return None if all(map(_is_label, line.targets)) else "targets are none"

    def _of_hold(self, line: records.HoldLine) -> str | None:
        return _of_limit(line.until, line.then)

    def _of_note(self, line: records.Note) -> str | None:
        if _depth(line.data) > _MOST_DEPTH:
            return "data is nested too deep"
        return next(
            (f"{what} is none" for what, is_right in _NOTES.get(line.what, ()) if not is_right(line.data)), None
        )


def is_time(text: str) -> bool:
    """Return whether a text is a time as the journal writes it, on a day that exists."""
    try:
        return len(text) == 24 and text[10] == "T" and text[19] == "." and text[23] == "Z" and unix_seconds(text) >= 0
    except (ValueError, OverflowError):
        return False


def _is_url(text: str) -> bool:
    return re.fullmatch(r"https?://[!-~]{1,500}", text) is not None


def _is_label(text: str) -> bool:
    return len(text) <= _MOST_NAMES and text.isprintable() and "/" in text


def _of_limit(until: str | None, then: str | None) -> str | None:
    if until is not None and not is_time(until):
        return f"the end of the hold is no time: {until[:40]!r}"
    return None if then is None or then in records.THENS else f"`then` is none: {then[:40]!r}"


def _of_settings(settings: records.RunSettings) -> str | None:
    # Whether the engine may send to an endpoint is checked before it sends: reading the journal is always allowed.
    if not all(map(_is_url, (*settings.endpoint, *settings.endpoint_of.values()))):
        return "an endpoint is none"
    if not settings.endpoint and not settings.endpoint_of:
        return "no endpoint"
    if len({spec.name for spec in settings.accounts}) < len(settings.accounts):
        return "an account twice"
    if settings.stop_after is not None and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?%?", settings.stop_after) is None:
        return "stop_after is no number of calls"
    if (why := _of_limit(settings.hold_until, settings.hold_then)) is not None:
        return why
    if settings.watch is not None and not _is_watch(settings.watch):
        return "the watch is none"
    if settings.waves is not None and not _is_waves(settings.waves):
        return "the waves are none"
    if settings.passwords is not None:
        source = {name: said for name, said in settings.passwords.items() if (name, said) != ("stored", True)}
        if not all(map(_is_words, source.values())):
            return "passwords name no source"
    if settings.window is not None:
        days, *others = (settings.window.get(key) for key in ("days", "from", "until", "timezone"))
        if not isinstance(days, list) or not _is_words(days) or not all(isinstance(text, str) for text in others):
            return "the window is none"
    return None


def _is_watch(watch: Mapping[str, Any]) -> bool:
    # Any: JSON values.
    after, every, last = (watch.get(key) for key in ("after", "every", "for"))
    if not isinstance(after, list) or len(after) > _MOST_AFTER or not all(map(_is_span, after)):
        return False
    if after != sorted(set(after)):
        return False
    if every is None:
        return bool(after) and last is None
    return _is_span(every) and every >= _LEAST_EVERY_S and _is_span(last) and last >= every


def _is_waves(found: Mapping[str, Any]) -> bool:
    # Any: JSON values.
    waves, gate = found.get("waves"), found.get("gate")
    if not isinstance(waves, list) or not 0 < len(waves) <= _MOST_WAVES or found.get("on_red") not in ("stop", "undo"):
        return False
    for wave in waves:
        if not isinstance(wave, dict) or not isinstance(wave.get("take"), str) or not _TAKE(wave["take"]):
            return False
        if wave.get("soak") != 0 and not _is_span(wave.get("soak")):
            return False
    if gate is None:
        return True
    if not isinstance(gate, dict) or not all(_is_span(gate.get(key)) for key in ("every", "timeout")):
        return False
    command = gate.get("command")
    return isinstance(command, list) and bool(command) and _is_words(command)


def _is_span(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MOST_SPAN_S


def _is_words(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _is_guard(data: Mapping[str, Any]) -> bool:
    # Any: JSON values, here and below.
    guard = data.get("guard")
    is_number = isinstance(guard, int | float) and not isinstance(guard, bool) and abs(guard) < 1e6
    return guard is None or (is_number and math.isfinite(guard))


def _is_link(data: Mapping[str, Any]) -> bool:
    return _RUN_ID(str(data.get("run"))) is not None


def _has_rate(data: Mapping[str, Any]) -> bool:
    found = (data.get("rate"), data.get("quota"))
    return found == (None, None) or all(_is_span(each) for each in found)


def _is_time_or_none(key: str) -> Callable[[Mapping[str, Any]], bool]:
    def is_right(data: Mapping[str, Any]) -> bool:
        at = data.get(key)
        return at is None or (isinstance(at, str) and is_time(at[:23] + at[-1:]))

    return is_right


def _has_endpoints(data: Mapping[str, Any]) -> bool:
    return _is_words(data.get("endpoints", []))


_NOTES: Mapping[str, tuple[tuple[str, Callable[[Mapping[str, Any]], bool]], ...]] = {
    "lane_slowed": (("guard", _is_guard),),
    "lane_recovered": (("guard", _is_guard),),
    "changed": (("rate", _has_rate),),
    "paused": (("until", _is_time_or_none("until")), ("last_sent_at", _is_time_or_none("last_sent_at"))),
    "route_closed": (("endpoints", _has_endpoints),),
    **dict.fromkeys(records.LINKS, (("run", _is_link),)),
}
"""Kind of note → the facts that the engine decides from: the name of each, and its check."""


def _depth(value: object, depth: int = 0) -> int:
    """Return how deep lists and objects are nested; stop counting one level beyond `_MOST_DEPTH`."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if depth > _MOST_DEPTH:
        return depth
    return max((_depth(each, depth + 1) for each in inner), default=depth)


_CHECKS: Mapping[type[records.AnyRecord], Callable[[Sense, Any], str | None]] = {
    records.Run: Sense._of_run,
    records.CallLine: Sense._of_call,
    records.OmitLine: Sense._of_omit,
    records.Approved: Sense._of_approved,
    records.Session: Sense._of_session,
    records.Note: Sense._of_note,
    records.Released: Sense._of_released,
    records.HoldLine: Sense._of_hold,
    records.WaveLine: Sense._of_wave,
    records.ShardLine: Sense._of_shard,
    records.End: Sense._of_end,
}
"""Kind of record → its check. Any: each check takes its own kind."""
