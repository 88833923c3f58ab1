"""No I/O, no clock; randomness is an argument. A fault script: what goes wrong, for which requests, how often.

A script is a list of rules, in YAML, JSON or plain values. The first rule that matches and is not used up strikes.

    - action: LockAccount           # globs: action, instance, user, region; each "*" when left out
      times: 2                      # the first 2 matches; or times_each: 2 (per instance and user); or always
      code: InternalError           # any error code; message: its text
    - {user: "app_*", probability: 0.05, reset_after: true}
    - {instance: postgres-busy*, after: 10, status: 502, html: true}

Besides `times`, `times_each`, `probability` (0-1), `after` (first matches that pass) and `for` (seconds from its first
strike, and then all is mended), a rule has one effect:

    code: CODE            an error answer                      not applied
    status: 502           that HTTP status, a short text       not applied   (html: true for a page)
    html: true            HTTP 200 with a gateway's HTML page  not applied
    truncated: true       half the answer, then closed         applied
    garbage: true         200 whose body is not JSON           applied
    empty: true           200 without a body                   applied
    reset_before: true    connection reset, never applied
    reset_after: true     applied, then connection reset
    hang: true            never answers                        not applied
    accepted_not_applied: true   success, and nothing happens
    wrong_clock: 600      the server's clock is so many seconds ahead (signature check and Date header)

    gate: red             the gate of a wave says so, or `silent`; with `wave: 2` only about that wave (0: before the
                          first). No request is meant.

`apply: true|false` overrides "applied" or "not applied" above. Four keys stand alone or beside an effect that allows
them: `no_request_id: true` (answer without RequestId), `slow: 3` (answer so many seconds late), `effect_delay: 5`
(accepted now, effective later, status 3 meanwhile) and `apply_after: 5` (the same without a sign in the status).
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from engine.simulator import documents

if TYPE_CHECKING:
    from random import Random

MAX_CHARS = 1024 * 1024


class FaultScriptError(documents.DocumentError):
    """A fault script is wrong: every problem found, each with the rule's index and key."""


class Effect(StrEnum):
    """What a rule does to the exchange; `NONE` has modifiers only."""

    NONE = "none"
    CODE = "code"
    STATUS = "status"
    HTML = "html"
    TRUNCATED = "truncated"
    GARBAGE = "garbage"
    EMPTY = "empty"
    RESET_BEFORE = "reset_before"
    RESET_AFTER = "reset_after"
    HANG = "hang"
    ACCEPTED_NOT_APPLIED = "accepted_not_applied"
    WRONG_CLOCK = "wrong_clock"
    GATE = "gate"


_APPLIES = frozenset({Effect.NONE, Effect.TRUNCATED, Effect.GARBAGE, Effect.EMPTY, Effect.RESET_AFTER})
"""Effects under which the request is carried out unless `apply` says otherwise."""
_FIXED = frozenset(
    {Effect.RESET_BEFORE, Effect.RESET_AFTER, Effect.ACCEPTED_NOT_APPLIED, Effect.WRONG_CLOCK, Effect.GATE}
)
"""Effects whose name already says whether the request is carried out: `apply` is not allowed beside them."""


class Shot(NamedTuple):
    """One request, as far as rules are matched against it."""

    action: str
    instance: str
    user: str
    region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRule:
    """One rule. `rules_from` makes it, and checks which keys go together."""

    effect: Effect = Effect.NONE
    action: str = "*"
    instance: str = "*"
    user: str = "*"
    region: str = "*"
    times: int | None = None
    times_each: int | None = None
    probability: float = 1.0
    after: int = 0
    for_s: float | None = None
    """Seconds from the first strike, after which it strikes no more; None: no such end."""
    apply: bool = True
    code: str = ""
    message: str = ""
    status: int = 200
    html: bool = False
    has_request_id: bool = True
    slow_s: float = 0.0
    effect_delay_s: float = 0.0
    is_delay_shown: bool = True
    clock_s: float = 0.0
    gate: str = ""
    """red or silent."""
    wave: int | None = None
    """The wave that the gate is asked about; None: any."""


class FaultScript:
    """The rules, and how often each has struck."""

    def __init__(self, rules: Sequence[FaultRule], rng: Random) -> None:
        self._rng = rng
        self._clocks = [_Counter(rule) for rule in rules if rule.effect is Effect.WRONG_CLOCK]
        self._gates = [_Counter(rule) for rule in rules if rule.effect is Effect.GATE]
        apart = (Effect.WRONG_CLOCK, Effect.GATE)
        self._others = [_Counter(rule) for rule in rules if rule.effect not in apart]

    def clock_shift_s(self, shot: Shot, now: float = 0.0) -> float:
        """Return the seconds by which the server's clock is ahead for this request, before its signature is checked."""
        rule = _first(self._clocks, shot, self._rng, now) if self._clocks else None
        return rule.clock_s if rule is not None else 0.0

    def gate(self, wave: int) -> str:
        """Return what the gate says about a wave: green, red or silent."""
        about = [each for each in self._gates if each.rule.wave in (None, wave)]
        rule = _first(about, Shot("", "", "", ""), self._rng, 0.0)
        return rule.gate if rule is not None else "green"

    def pick(self, shot: Shot, now: float = 0.0) -> FaultRule | None:
        """Return the rule that strikes this request, or None; called once for each request that passed the gate."""
        return _first(self._others, shot, self._rng, now) if self._others else None


class _Counter:
    """One rule with its compiled globs and its counts."""

    __slots__ = ("_each", "_matched", "_patterns", "_since", "_struck", "rule")

    def __init__(self, rule: FaultRule) -> None:
        self.rule = rule
        globs = (rule.action, rule.instance, rule.user, rule.region)
        self._patterns = tuple(None if glob == "*" else re.compile(fnmatch.translate(glob)).match for glob in globs)
        self._matched = 0
        self._struck = 0
        self._since: float | None = None
        self._each: dict[tuple[str, str], int] = {}

    def strike(self, shot: Shot, rng: Random, now: float) -> bool:
        """Return whether the rule strikes this request at `now`, and count that."""
        for matches, value in zip(self._patterns, shot, strict=True):
            if matches is not None and matches(value) is None:
                return False
        rule = self.rule
        self._matched += 1
        if self._matched <= rule.after or (rule.times is not None and self._struck >= rule.times):
            return False
        if rule.for_s is not None and self._since is not None and now >= self._since + rule.for_s:
            return False
        target = (shot.instance, shot.user)
        if rule.times_each is not None and self._each.get(target, 0) >= rule.times_each:
            return False
        if rule.probability < 1 and rng.random() >= rule.probability:
            return False
        self._struck += 1
        if self._since is None:
            self._since = now
        if rule.times_each is not None:
            self._each[target] = self._each.get(target, 0) + 1
        return True


def _first(counters: list[_Counter], shot: Shot, rng: Random, now: float) -> FaultRule | None:
    return next((counter.rule for counter in counters if counter.strike(shot, rng, now)), None)


def parse_faults(text: str) -> tuple[FaultRule, ...]:
    """Return the rules of a YAML or JSON text; FaultScriptError lists every problem."""
    try:
        data = documents.load(text, what="faults", max_chars=MAX_CHARS)
    except documents.DocumentError as error:
        raise FaultScriptError(error.problems) from None
    return rules_from(data)


def rules_from(data: object) -> tuple[FaultRule, ...]:
    """Return the rules of a list, or of a mapping whose only key is `faults`; FaultScriptError lists every problem."""
    if isinstance(data, Mapping) and set(data) == {"faults"}:
        data = data["faults"]
    if not isinstance(data, Sequence) or isinstance(data, str | bytes):
        raise FaultScriptError([f"faults: must be a list of rules, not {type(data).__name__}"])
    problems: list[str] = []
    rules = [_read_rule(entry, f"faults[{index}]", problems) for index, entry in enumerate(data)]
    if problems:
        raise FaultScriptError(problems)
    return tuple(rules)


_CODE = re.compile(r"[A-Za-z0-9]+(?:\.[A-Za-z0-9]+)*")
_FLAGS = ("html", "truncated", "garbage", "empty", "reset_before", "reset_after", "hang", "accepted_not_applied")
_KINDS: Mapping[str, str] = {
    **dict.fromkeys(("action", "instance", "user", "region", "code", "message"), "text"),
    **dict.fromkeys(("times", "times_each", "after", "status", "wave"), "whole"),
    **dict.fromkeys(("slow", "effect_delay", "apply_after", "for"), "seconds"),
    **dict.fromkeys((*_FLAGS, "no_request_id", "apply"), "flag"),
    "probability": "share",
    "gate": "word",
    "wrong_clock": "shift",
}


def _kind_problem(kind: str, value: object) -> str | None:
    """Return what is wrong with a value, in words; None if nothing is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    match kind:
        case "text":
            return None if isinstance(value, str) and value else "must be a text"
        case "word":
            return None if value in ("red", "silent") else "must be red or silent"
        case "flag":
            return None if isinstance(value, bool) else "must be true or false"
        case "whole":
            is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            return None if is_whole else "must be a whole number from 0"
        case "share":
            return None if is_number and 0 <= value <= 1 else "must be a number from 0 to 1"  # type: ignore[operator]
        case "seconds":
            return None if is_number and 0 < value <= 86_400 else "must be seconds, above 0"  # type: ignore[operator]
        case _:
            return None if is_number and abs(value) <= 1e8 else "must be a number of seconds"  # type: ignore[arg-type]


def _read_rule(entry: object, at: str, problems: list[str]) -> FaultRule:
    if not isinstance(entry, Mapping):
        problems.append(f"{at}: must be a mapping, not {type(entry).__name__}")
        return FaultRule()
    before = len(problems)
    for key, value in entry.items():
        kind = _KINDS.get(key) if isinstance(key, str) else None
        if kind is None:
            problems.append(f"{at}: unknown key {key!r}; known are {', '.join(sorted(_KINDS))}")
        elif trouble := _kind_problem(kind, value):
            problems.append(f"{at}.{key}: {trouble}, not {value!r}")
    if len(problems) > before:
        return FaultRule()
    given = {key: value for key, value in entry.items() if value is not False or key == "apply"}
    effect = _effect_of(given, at, problems)
    _check_company(given, effect, at, problems)
    return FaultRule(
        effect=effect,
        **{key: given[key] for key in ("action", "instance", "user", "region", "times", "times_each") if key in given},
        probability=given.get("probability", 1.0),
        after=given.get("after", 0),
        for_s=given.get("for"),
        apply=given.get("apply", effect in _APPLIES),
        code=given.get("code", ""),
        message=given.get("message", ""),
        status=given.get("status", 200),
        html=given.get("html", False),
        has_request_id=not given.get("no_request_id", False),
        slow_s=float(given.get("slow", 0.0)),
        effect_delay_s=float(given.get("effect_delay", given.get("apply_after", 0.0))),
        is_delay_shown="apply_after" not in given,
        clock_s=float(given.get("wrong_clock", 0.0)),
        gate=given.get("gate", ""),
        wave=given.get("wave"),
    )


def _effect_of(given: Mapping[str, object], at: str, problems: list[str]) -> Effect:
    """Return the one effect of a rule; `html` beside `status` only says what the body looks like."""
    named = [effect for effect in Effect if effect.value in given]
    if Effect.STATUS in named and Effect.HTML in named:
        named.remove(Effect.HTML)
    if len(named) > 1:
        problems.append(f"{at}: {' and '.join(named)} exclude each other; make two rules")
    if not named and not {"slow", "effect_delay", "apply_after", "no_request_id"} & set(given):
        problems.append(f"{at}: says nothing of what goes wrong; add one of {', '.join(list(Effect)[1:])}, slow, …")
    return named[0] if named else Effect.NONE


def _check_company(given: Mapping[str, object], effect: Effect, at: str, problems: list[str]) -> None:
    """Report keys that contradict each other, or that would do nothing."""
    if "times" in given and "times_each" in given:
        problems.append(f"{at}: times and times_each exclude each other")
    if "wave" in given and effect is not Effect.GATE:
        problems.append(f"{at}.wave: only beside gate")
    of_requests = [key for key in ("action", "instance", "user", "region", "times_each", "slow", "for") if key in given]
    if effect is Effect.GATE and of_requests:
        problems.append(f"{at}.{of_requests[0]}: a gate is no request; it knows wave, times, after, probability")
    if "message" in given and effect is not Effect.CODE:
        problems.append(f"{at}.message: only beside code")
    if "apply" in given and effect in _FIXED:
        problems.append(f"{at}.apply: {effect} already says it")
    if effect is Effect.CODE and _CODE.fullmatch(str(given["code"])) is None:
        problems.append(f"{at}.code: {given['code']!r} does not look like an error code")
    status = given.get("status", 200)
    if not isinstance(status, int) or not 200 <= status <= 599:
        problems.append(f"{at}.status: must be from 200 to 599, not {status!r}")
    if "no_request_id" in given and effect not in (Effect.NONE, Effect.CODE, Effect.ACCEPTED_NOT_APPLIED):
        problems.append(f"{at}.no_request_id: {effect} has no answer to leave it out of")
    if "slow" in given and effect in (Effect.HANG, Effect.WRONG_CLOCK):
        problems.append(f"{at}.slow: {effect} has no answer to delay")
    delays = [key for key in ("effect_delay", "apply_after") if key in given]
    if len(delays) == 2:
        problems.append(f"{at}: effect_delay and apply_after exclude each other")
    if delays and not given.get("apply", effect in _APPLIES):
        problems.append(f"{at}.{delays[0]}: {effect} is not applied at all; add apply: true or drop it")
