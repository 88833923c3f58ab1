"""What an answer means. The table of codes itself is in `codes`.

`read_reply` parses; `own_answer` also checks that the answer is new; `rule` judges; `explain` tells a person. All of
them return a result for whatever bytes and whatever code arrive. None of them raises.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import Struct

from engine.api import codes
from engine.api.actions import ACTIONS
from engine.api.codes import ALL_CODES, Meaning, Treatment
from engine.model import Answer, Fault, Reply, Stage, Verdict
from engine.outside.foreign import MOST_FIELD, MOST_WORDS, Secrets, clean, whole

__all__ = [
    "ALL_CODES",
    "READS",
    "Budget",
    "Cure",
    "RequestIds",
    "Ruling",
    "Scope",
    "before_a_run",
    "explain",
    "heard",
    "own_answer",
    "read_reply",
    "rule",
]

READS: Final = ("DescribeAccounts", "DescribeDBInstances")
"""The reads that `explain` shows beside the actions."""


class Budget(StrEnum):
    """Which retry budget a verdict draws on."""

    NONE = "none"
    """No budget: the verdict is final, or the next attempt is free."""
    NORMAL = "normal"
    """2 minutes."""
    BUSY = "busy"
    """10 minutes: the instance is busy."""
    FEW = "few"
    """2 attempts: the failure may last."""


class Cure(StrEnum):
    """What must happen before another attempt."""

    NONE = "none"
    CLOCK = "clock"
    """Learn the clock offset: once a run, free. The caller decides that a second time is fatal."""
    KEYS = "keys"
    """Refresh the keys: once a run, free. The caller decides that a second time is fatal."""
    READ = "read"
    """Read the account: that reading decides."""


class Scope(StrEnum):
    """What a verdict holds for."""

    TARGET = "target"
    INSTANCE = "instance"
    REGION = "region"
    LANE = "lane"
    ACCOUNT = "account"
    EVERY_LANE = "every_lane"


class Ruling(Struct, frozen=True, kw_only=True):
    """What one attempt means, for the engine and for a person."""

    verdict: Verdict
    budget: Budget
    cure: Cure
    scope: Scope
    words: str
    """What happened, in at most 90 characters."""
    advice: str
    """What to do next, in at most 140 characters."""
    known: bool
    """Whether the code has a row of its own; else it was judged by the form of its name."""


_Judgement = tuple[Verdict, Budget, Cure, Scope]

_TRANSIENT: Final[_Judgement] = (Verdict.TRANSIENT, Budget.NORMAL, Cure.NONE, Scope.TARGET)
_TRANSIENT_LANE: Final[_Judgement] = (Verdict.TRANSIENT, Budget.NORMAL, Cure.NONE, Scope.LANE)
_FATAL: Final[_Judgement] = (Verdict.FATAL, Budget.NONE, Cure.NONE, Scope.LANE)
_REFRESH: Final[_Judgement] = (Verdict.TRANSIENT, Budget.NONE, Cure.KEYS, Scope.LANE)
_IN_DOUBT: Final[_Judgement] = (Verdict.IN_DOUBT, Budget.NORMAL, Cure.READ, Scope.TARGET)

_JUDGEMENTS: Final[Mapping[Treatment, _Judgement]] = MappingProxyType(
    {
        Treatment.ALREADY: (Verdict.ALREADY, Budget.NONE, Cure.NONE, Scope.TARGET),
        Treatment.REJECTED: (Verdict.REJECTED, Budget.NONE, Cure.NONE, Scope.TARGET),
        Treatment.REJECTED_REGION: (Verdict.REJECTED, Budget.NONE, Cure.NONE, Scope.REGION),
        Treatment.ASK: (Verdict.REJECTED, Budget.NORMAL, Cure.READ, Scope.TARGET),
        Treatment.THROTTLED: (Verdict.THROTTLED, Budget.NONE, Cure.NONE, Scope.LANE),
        Treatment.THROTTLED_ALL: (Verdict.THROTTLED, Budget.NONE, Cure.NONE, Scope.EVERY_LANE),
        Treatment.THROTTLED_ACCOUNT: (Verdict.THROTTLED, Budget.NONE, Cure.NONE, Scope.ACCOUNT),
        Treatment.RETRY: _TRANSIENT,
        Treatment.RETRY_LANE: _TRANSIENT_LANE,
        Treatment.RETRY_FEW: (Verdict.TRANSIENT, Budget.FEW, Cure.NONE, Scope.TARGET),
        Treatment.RETRY_BUSY: (Verdict.TRANSIENT, Budget.BUSY, Cure.NONE, Scope.INSTANCE),
        Treatment.PROXY: (Verdict.TRANSIENT, Budget.FEW, Cure.NONE, Scope.LANE),
        Treatment.LATER: (Verdict.TRANSIENT, Budget.NONE, Cure.NONE, Scope.TARGET),
        Treatment.CLOCK: (Verdict.TRANSIENT, Budget.NONE, Cure.CLOCK, Scope.EVERY_LANE),
        Treatment.KEYS: _FATAL,
        Treatment.FATAL: _FATAL,
        Treatment.FATAL_ALL: (Verdict.FATAL, Budget.NONE, Cure.NONE, Scope.EVERY_LANE),
        Treatment.CONNECT: _IN_DOUBT,
        Treatment.LOST: _IN_DOUBT,
    }
)
"""What each treatment means. `_judge` changes it for refreshable keys, faults before the send, and reads."""

_DONE: Final = Ruling(
    verdict=Verdict.DONE,
    budget=Budget.NONE,
    cure=Cure.NONE,
    scope=Scope.TARGET,
    words=codes.ACCEPTED,
    advice=codes.ACCEPTED_ADVICE,
    known=True,
)


# --- reading -----------------------------------------------------------------------------------------------------

_CODE: Final = re.compile(r"[A-Za-z0-9_.\-]{1,128}", re.ASCII)
_REQUEST_ID: Final = re.compile(r"[\w.:\-]{1,128}", re.ASCII)
_REQUEST_ID_IN_BODY: Final = re.compile(rb'"RequestId"\s*:\s*"([\w.:\-]{1,128})"', re.ASCII)
_TITLE: Final = re.compile(rb"<title[^>]{0,200}>([^<]{1,200})</title", re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x1f]")
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_HEAD: Final = 10_000
"""Bytes at the start of a web page in which its title is searched."""
_BOM: Final = b"\xef\xbb\xbf"
_HTTP_OK: Final = 200
_MOST_COUNTED: Final = 10**9
NO_PARAMETERS: Final[Mapping[str, object]] = MappingProxyType({})
LISTS: Final[Mapping[str, str]] = MappingProxyType(
    {"DescribeAccounts": "Details", "DescribeDBInstances": "DBInstanceSet", "DescribeRegions": "RegionSet"}
)
"""Action that reads a list → the field that holds its rows, beside TotalCount."""


class RequestIds:
    """The request ids of a run's last `MOST` answers. They show when the same answer comes a second time.

    HTTP takes an answer that the server sends twice for the answer to the next request on that connection. The hashes
    of the ids stand in a table of fixed size: in a set they were a quarter of a run's growth in memory (measured).
    """

    __slots__ = ("_at", "_order", "_table")

    MOST = 65_536

    def __init__(self) -> None:
        self._table = array("q")
        """Hashes, with open addressing, half full at most; 0 is an empty place. Made at the first id."""
        self._order = array("q")
        """The same hashes as a ring, in the order in which they came."""
        self._at = 0

    def is_new(self, request_id: str) -> bool:
        """Return whether no answer had this id so far, and remember the id."""
        mark = hash(request_id) or 1
        if not self._table:
            self._order = array("q", bytes(8 * self.MOST))
            self._table = array("q", bytes(8 * (2 << (self.MOST - 1).bit_length())))
        table, last = self._table, len(self._table) - 1
        place = mark & last
        while found := table[place]:
            if found == mark:
                return False
            place = (place + 1) & last
        table[place] = mark
        oldest, self._order[self._at] = self._order[self._at], mark
        self._at = (self._at + 1) % self.MOST
        if oldest:
            self._forget(oldest)
        return True

    def _forget(self, mark: int) -> None:
        table, last = self._table, len(self._table) - 1
        hole = mark & last
        while table[hole] != mark:
            hole = (hole + 1) & last
        place = (hole + 1) & last
        while found := table[place]:  # a hash behind the hole moves into it, unless it would then stand too early
            if (place - found) & last >= (place - hole) & last:
                table[hole], hole = found, place
            place = (place + 1) & last
        table[hole] = 0


def own_answer(
    outcome: Reply | Fault,
    known: RequestIds,
    action: str = "",
    region: str = "",
    parameters: Mapping[str, object] = NO_PARAMETERS,
) -> Answer:
    """Return the answer, if it is the answer to this very request; else an answer of ours, which proves nothing.

    In the second case the connection is closed, as the true answer may still come on it. So call this in the same turn
    of the loop in which the outcome came.
    """
    answer = read_reply(outcome, action, region, parameters)
    if answer.request_id is not None and not known.is_new(answer.request_id):
        words = "an earlier answer of this run had the same RequestId"
        answer = Answer(http=answer.http, request_id=answer.request_id, code="Local.RepeatedRequestId", message=words)
    is_sure = answer.request_id is not None and (answer.code is None or not answer.code.startswith("Local."))
    if isinstance(outcome, Reply) and outcome.distrust is not None and not is_sure:
        outcome.distrust()
    return answer


def read_reply(
    outcome: Reply | Fault, action: str = "", region: str = "", parameters: Mapping[str, object] = NO_PARAMETERS
) -> Answer:
    """Return what a reply or fault says. Never raises; what is no answer of the API gets a `Local.*` code of ours.

    `action`, `region` and `parameters` are those of the request. If they are given, a success must have the documented
    fields of that action, and must be about the instances that were asked for.

    The API answers 200 for errors too (CN-RESP). So an error body counts whatever the status is, and the Content-Type
    is ignored. A request id is kept wherever it stands, also in a broken body.
    """
    if isinstance(outcome, Fault):
        return Answer(
            http=None,
            request_id=None,
            code=outcome.code,
            message=outcome.message,
            stage=outcome.stage,
            stale_connection=outcome.stale_connection,
        )
    response = _response_of(outcome.body)
    if isinstance(response, str):
        return _no_answer(outcome, response)
    request_id = _text(response.get("RequestId"), _REQUEST_ID)
    if "Error" in response:
        error = response["Error"]
        if not isinstance(error, dict):
            return _no_answer(outcome, "Local.Garbage")
        code = _text(error.get("Code"), _CODE)
        if code is None or code.startswith("Local."):
            return _no_answer(outcome, "Local.Garbage")
        message = error.get("Message")
        return Answer(
            http=outcome.status,
            request_id=request_id or _request_id_in(outcome.body),
            code=code,
            message=message if isinstance(message, str) else None,
        )
    if outcome.status != _HTTP_OK or request_id is None:
        return _no_answer(outcome, "Local.NoRequestId")
    misfit = _misfit(action, region, parameters, response)
    if misfit is not None:
        code, words = misfit
        return Answer(http=outcome.status, request_id=request_id, code=code, message=words)
    return Answer(http=outcome.status, request_id=request_id, code=None, message=None, data=response)


_NAMES: Final = ("UserName", "DBInstanceId")
"""Fields that say which account a row is of. Their values are never altered."""


def heard(answer: Answer, outcome: Reply | Fault, keys: Secrets, passwords: Sequence[Secrets] = ()) -> Answer:
    """Return the answer as it may be kept and shown: without secrets in any text, its message clean and bounded.

    Removing secrets never changes what an answer means. A code of the table stays. A request id that holds a secret is
    dropped. A name stays. An answer with a secret of the keys in a name counts as none of the API's.
    """
    body = outcome.body if isinstance(outcome, Reply) else answer.message.encode() if answer.message else b""
    told = [keys] if keys.are_in(body) else []
    if passwords:
        told += [secrets for secrets in passwords if secrets.are_in(body)]
    if not told:
        if answer.message is None:
            return answer  # nearly all of them
        return msgspec.structs.replace(answer, message=clean(answer.message))
    request_id = answer.request_id
    if request_id is not None and _blotted(request_id, told) != request_id:
        request_id = None
    if answer.code is None:
        assert isinstance(outcome, Reply)
        if request_id is None or (keys in told and _is_named_in(answer.data, keys)):
            code = "Local.NoRequestId" if request_id is None else "Local.Garbage"
            return Answer(http=outcome.status, request_id=request_id, code=code, message="the answer repeats a secret")
        return msgspec.structs.replace(answer, data=_blotted_all(answer.data, told))
    return msgspec.structs.replace(
        answer,
        request_id=request_id,
        code=answer.code if _meaning("", answer.code)[1] else _blotted(answer.code, told),
        message=None if answer.message is None else clean(_blotted(answer.message, told), MOST_WORDS),
    )


def _blotted(text: str, told: Sequence[Secrets]) -> str:
    for secrets in told:
        text = secrets.scrub(text)
    return text


def _blotted_all(value: Any, told: Sequence[Secrets], name: str = "") -> Any:
    """Return the API's JSON without secrets, in the same shape; names stay. Any: JSON of any shape."""
    if isinstance(value, str):
        return value if name in _NAMES else _blotted(value, told)
    if isinstance(value, dict):
        return {key: _blotted_all(item, told, key) for key, item in value.items()}
    return [_blotted_all(item, told) for item in value] if isinstance(value, list) else value


def _is_named_in(value: Any, secrets: Secrets, name: str = "") -> bool:
    """Return whether a name in the API's JSON (Any: of any shape) holds a secret."""
    if isinstance(value, str):
        return name in _NAMES and secrets.scrub(value) != value
    if isinstance(value, dict):
        return any(_is_named_in(item, secrets, key) for key, item in value.items())
    return isinstance(value, list) and any(_is_named_in(item, secrets) for item in value)


def _misfit(
    action: str, region: str, parameters: Mapping[str, object], response: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Return why a success is no answer to the request, as our code and words; None if it is. Any: the API's JSON."""
    if action in ACTIONS:
        fits = len(response) == 1  # the RequestId: no action of the table answers with more
        return None if fits else ("Local.Misplaced", f"{action} answers with a RequestId alone; this has other fields")
    if action not in LISTS:
        return None
    field = LISTS[action]
    rows = response.get(field)
    if not isinstance(rows, list) or whole(response.get("TotalCount"), 0, _MOST_COUNTED) is None:
        return "Local.Misplaced", f"{action} answers with the list {field} and its TotalCount; this does not"
    if action == "DescribeAccounts":
        return _other_accounts(rows, parameters.get("DBInstanceId"))
    return _other_instances(rows, region, parameters.get("Filters")) if action == "DescribeDBInstances" else None


def _other_accounts(rows: list[Any], instance: object) -> tuple[str, str] | None:
    """Return our code and words if a row names no account, or not `instance`; the API's description promises both."""
    for row in rows:
        user = row.get("UserName") if isinstance(row, dict) else None
        if not isinstance(user, str) or len(user) > MOST_FIELD or not isinstance(row.get("DBInstanceId"), str):
            return "Local.Misplaced", "DescribeAccounts answers with rows that name an account and its instance"
        if row["DBInstanceId"] != instance:
            return "Local.OtherInstance", f"accounts of another instance came than of {instance}"
    return None


def _other_instances(rows: list[Any], region: str, filters: object) -> tuple[str, str] | None:
    """Return our code and words if a row is of an instance not asked for. The list's reader judges what is no row."""
    asked = _ids_asked(filters)
    for row in rows:
        if not isinstance(row, dict):
            continue
        if asked is not None and row.get("DBInstanceId") not in asked:
            return "Local.OtherInstance", "other instances came than the ids that were asked for"
        if region and row.get("Region", region) != region:
            return "Local.OtherInstance", f"instances of another region came than of {region}"
    return None


def _ids_asked(filters: object) -> Collection[object] | None:
    for each in filters if isinstance(filters, list) else ():
        if isinstance(each, Mapping) and each.get("Name") == "db-instance-id":
            return list(each.get("Values", ()))
    return None


def _response_of(body: bytes) -> dict[str, Any] | str:
    """Return the `Response` object of a body (Any: the API's JSON), or our code for what the body is instead."""
    text = body.removeprefix(_BOM).strip()
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        error = _error_in(text)
        if error is not None:
            return error
        if text.startswith(b"<"):
            return "Local.Html"
        return "Local.Truncated" if not text or text.startswith(b"{") else "Local.Garbage"
    response = document.get("Response") if isinstance(document, dict) else None
    return response if isinstance(response, dict) else "Local.Garbage"


def _error_in(text: bytes) -> dict[str, Any] | None:
    """Return the `Response` of an error answer in which only some characters are damaged; else None. Any: JSON.

    Damaged are half characters and raw control characters in the message: the code is what counts. A success is never
    mended this way, as a name with a replaced character is another name.
    """
    if b'"Error"' not in text:
        return None
    mended = _SURROGATE.sub(r"\\ufffd", _CONTROL.sub(" ", text.decode("utf-8", "replace")))
    try:
        document = msgspec.json.decode(mended)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    response = document.get("Response") if isinstance(document, dict) else None
    return response if isinstance(response, dict) and isinstance(response.get("Error"), dict) else None


def _no_answer(reply: Reply, code: str) -> Answer:
    """Return an answer of ours with `code`, or with the HTTP status if that is not 200: it says more than the body."""
    return Answer(
        http=reply.status,
        request_id=_request_id_in(reply.body),
        code=code if reply.status == _HTTP_OK else f"Local.Http{reply.status}",
        message=f"HTTP {reply.status}, {len(reply.body)} bytes that are no answer of the API{_title_of(reply.body)}",
    )


def _request_id_in(body: bytes) -> str | None:
    """Return a request id that stands anywhere in a body of any shape; None if there is none."""
    found = _REQUEST_ID_IN_BODY.search(body)
    return found[1].decode() if found is not None else None


def _title_of(body: bytes) -> str:
    """Return the title of a web page, or an empty text. The rest is not quoted, as it may repeat a password."""
    found = _TITLE.search(body[:_HEAD])
    if found is None:
        return ""
    title = " ".join(found[1].decode(errors="replace").split())
    return ": " + "".join(character for character in title if character.isprintable())


def _text(value: object, pattern: re.Pattern[str]) -> str | None:
    """Return `value` if it is text of this pattern, fit for a journal, a terminal and a table; else None."""
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


# --- judging -----------------------------------------------------------------------------------------------------


def rule(action: str, answer: Answer, *, refreshable_keys: bool = False) -> Ruling:
    """Return what `answer` means for `action`. A code without a row is judged by its form, always with a limit."""
    if answer.code is None:
        return _DONE
    meaning, is_known = _meaning(action, answer.code)
    judgement, words, advice = _judge(action, meaning, answer.stage, refreshable_keys)
    verdict, budget, cure, scope = judgement
    return Ruling(verdict=verdict, budget=budget, cure=cure, scope=scope, words=words, advice=advice, known=is_known)


def _judge(action: str, meaning: Meaning, stage: Stage, refreshable_keys: bool) -> tuple[_Judgement, str, str]:
    """Return judgement, words and advice of a meaning; stage, kind of action and keys may change them."""
    match meaning.treatment:
        case Treatment.KEYS if refreshable_keys:
            return _REFRESH, meaning.words, meaning.advice
        case Treatment.CONNECT if stage is Stage.BEFORE_SEND:
            return _TRANSIENT_LANE, meaning.words, meaning.advice
        case Treatment.LOST if stage is Stage.BEFORE_SEND:
            return _TRANSIENT_LANE, codes.LOST_BEFORE_SEND, codes.LOST_BEFORE_SEND_ADVICE
        case Treatment.CONNECT | Treatment.LOST if _is_read(action):
            return _TRANSIENT, codes.LOST_READ, codes.LOST_READ_ADVICE
        case Treatment.CONNECT:
            # The code says "no connection", and the transport says that bytes may have left. Believe the worse.
            return _IN_DOUBT, codes.LOST_ANYHOW.words, codes.LOST_ANYHOW.advice
        case treatment:
            return _JUDGEMENTS[treatment], meaning.words, meaning.advice


def before_a_run(advice: str) -> str:
    """Return the advice of a ruling in words for a command that has no run yet to resume or rerun."""
    return re.sub(r"acctops (?:resume|rerun) RUN(?: --only [a-z,]+)?", "this command again", advice)


def _is_read(action: str) -> bool:
    """Return whether asking twice changes nothing. An unknown action counts as a write."""
    return action.startswith("Describe")


def _meaning(action: str, code: str) -> tuple[Meaning, bool]:
    """Return the meaning of a code for an action, and whether the code has a row of its own."""
    row = codes.row_of(code)
    return row.per_action.get(action, row.meaning), row.is_known


# --- telling -----------------------------------------------------------------------------------------------------

_VERDICT_TEXT: Final[Mapping[Verdict, str]] = MappingProxyType(
    {
        Verdict.DONE: "done",
        Verdict.ALREADY: "already as asked",
        Verdict.REJECTED: "rejected: this target fails, the others go on",
        Verdict.THROTTLED: "throttled: sending slows down and the call is tried again, free",
        Verdict.TRANSIENT: "transient: tried again",
        Verdict.IN_DOUBT: "in doubt: it may or may not have been applied",
        Verdict.FATAL: "fatal: nothing more is sent",
    }
)
_BUDGET_TEXT: Final[Mapping[Budget, str]] = MappingProxyType(
    {
        Budget.NONE: "",
        Budget.NORMAL: "retried for up to 2 minutes",
        Budget.BUSY: "retried for up to 10 minutes",
        Budget.FEW: "2 tries in all",
    }
)
_CURE_TEXT: Final[Mapping[Cure, str]] = MappingProxyType(
    {
        Cure.NONE: "",
        Cure.CLOCK: "once, after correcting the clock; a second time is fatal",
        Cure.KEYS: "once, after refreshing the keys; a second time is fatal",
        Cure.READ: "one read of the account has the last word",
    }
)
_SCOPE_TEXT: Final[Mapping[Scope, str]] = MappingProxyType(
    {
        Scope.TARGET: "",
        Scope.INSTANCE: "holds for the whole instance",
        Scope.REGION: "holds for every target of the region",
        Scope.LANE: "holds for the whole lane",
        Scope.ACCOUNT: "holds for every lane of the account",
        Scope.EVERY_LANE: "holds for every lane",
    }
)
_NEAREST = 3


def explain(code: str) -> str:
    """Return what a code means, its verdict for each action and what to do, as text for a person."""
    code = _exact(code.strip())
    is_known = _meaning("", code)[1]
    lines = [code]
    if not is_known:
        lines.append("acctops does not know this code and judges it by its looks:")
    for ruling, actions in _rulings(code).items():
        everyone = len(actions) == len(ACTIONS) + len(READS)
        lines += [
            "",
            "every action" if everyone else ", ".join(actions),
            f"  means    {ruling.words}",
            f"  verdict  {_verdict_text(ruling)}",
            f"  do       {ruling.advice}",
        ]
    lines += [f"\n{note}" for note in _notes(_meaning("", code)[0].treatment)]
    if not is_known and (nearest := _nearest(code)):
        lines.append(f"\nNearest known codes: {', '.join(nearest)}")
    return "\n".join(lines)


def _rulings(code: str) -> dict[Ruling, list[str]]:
    """Return each ruling that a code can get → its actions, in the order of the table of actions."""
    treatment = _meaning("", code)[0].treatment
    stage = Stage.BEFORE_SEND if treatment is Treatment.CONNECT else Stage.AFTER_SEND
    answer = Answer(http=None, request_id=None, code=code, message=None, stage=stage)
    rulings: dict[Ruling, list[str]] = {}
    for action in (*ACTIONS, *READS):
        rulings.setdefault(rule(action, answer), []).append(action)
    return rulings


def _verdict_text(ruling: Ruling) -> str:
    parts = (
        _VERDICT_TEXT[ruling.verdict],
        _CURE_TEXT[ruling.cure],
        _BUDGET_TEXT[ruling.budget],
        _SCOPE_TEXT[ruling.scope],
    )
    return "; ".join(part for part in parts if part)


def _notes(treatment: Treatment) -> tuple[str, ...]:
    """Return notes on what keys or the time of the fault change about a treatment."""
    match treatment:
        case Treatment.KEYS:
            return ("With keys that can be refreshed: refreshed and tried once more; a second time is fatal.",)
        case Treatment.LOST:
            return ("If it struck before anything was sent: transient, free of doubt.",)
        case _:
            return ()


def _exact(code: str) -> str:
    """Return the code as the table spells it, whatever its case; as it was typed if the table has no such code."""
    return next((known for known in ALL_CODES if known.lower() == code.lower()), code)


def _nearest(code: str) -> list[str]:
    """Return known codes that a person may have meant: those with the same last part first, then the most alike."""
    from difflib import get_close_matches  # here: only a mistake pays for the import

    last = code.rpartition(".")[2].lower()
    same = [known for known in ALL_CODES if last and known.rpartition(".")[2].lower() == last]
    alike = [known for known in get_close_matches(code, ALL_CODES, n=_NEAREST) if known not in same]
    return (same + alike)[:_NEAREST]
