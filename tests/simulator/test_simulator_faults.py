"""Fault scripts: what a rule matches, how often it strikes, and that a wrong script is told all it got wrong."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from engine.simulator import faults
from engine.simulator.faults import Effect, FaultRule, FaultScript, FaultScriptError, Shot, parse_faults, rules_from
from engine.simulator.wire import WireKind
from engine.simulator.world import World
from tests.support.simulated import INSTANCE, NOW, USER, Caller
from tests.support.tc3 import signed_headers

TARGET = {"DBInstanceId": INSTANCE, "UserName": USER}
LOCK = Shot("LockAccount", INSTANCE, USER, "ap-singapore")


def script(*rules: dict[str, Any], seed: int = 0) -> FaultScript:
    return FaultScript(rules_from(list(rules)), Random(seed))


def strikes(rule: dict[str, Any], shots: list[Shot]) -> list[bool]:
    running = script({"code": "X", **rule})
    return [running.pick(shot) is not None for shot in shots]


def test_without_a_bound_a_rule_always_strikes() -> None:
    assert strikes({}, [LOCK] * 5) == [True] * 5


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"action": "LockAccount"}, True),
        ({"action": "*Account"}, True),
        ({"action": "lockaccount"}, False),
        ({"action": "UnlockAccount"}, False),
        ({"instance": "postgres-4*"}, True),
        ({"instance": "postgres-5*"}, False),
        ({"user": "app_????"}, True),
        ({"user": "[b-z]*"}, False),
        ({"region": "ap-*"}, True),
        ({"region": "eu-*"}, False),
        ({"action": "Lock*", "user": "other"}, False),
    ],
)
def test_globs_over_action_instance_user_and_region(match: dict[str, str], expected: bool) -> None:
    assert strikes(match, [LOCK]) == [expected]


def test_times_counts_strikes_over_all_targets() -> None:
    other = LOCK._replace(user="other")
    assert strikes({"times": 2}, [LOCK, other, LOCK]) == [True, True, False]
    assert strikes({"times": 0}, [LOCK]) == [False]


def test_times_each_counts_per_target() -> None:
    other = LOCK._replace(user="other")
    assert strikes({"times_each": 1}, [LOCK, other, LOCK, other]) == [True, True, False, False]


def test_after_lets_the_first_matches_through() -> None:
    unlock = LOCK._replace(action="UnlockAccount")
    shots = [LOCK, unlock, LOCK, LOCK, LOCK]
    assert strikes({"action": "LockAccount", "after": 2, "times": 1}, shots) == [False] * 3 + [True, False]


def test_an_instance_is_mended_so_many_seconds_after_its_first_fault() -> None:
    """A drill goes on while somebody repairs the instance; the time counts from when anybody could notice."""
    running = script({"code": "X", "after": 1, "for": 30})
    struck = [running.pick(LOCK, now) is not None for now in (1000.0, 1010.0, 1039.9, 1040.0, 1041.0)]
    assert struck == [False, True, True, False, False]


def test_probability_is_a_share_of_the_matches() -> None:
    assert 400 < sum(strikes({"probability": 0.5}, [LOCK] * 1_000)) < 600
    assert sum(strikes({"probability": 0}, [LOCK] * 100)) == 0


def test_the_first_rule_that_is_not_used_up_strikes() -> None:
    running = script({"code": "First", "times": 1}, {"code": "Second", "times": 1}, {"code": "Third"})
    picked = [running.pick(LOCK) for _ in range(4)]
    assert [rule.code if rule else None for rule in picked] == ["First", "Second", "Third", "Third"]


def world_of(*rules: dict[str, Any], **settings: Any) -> Caller:
    return Caller(World(faults=rules_from(list(rules)), **settings))


def test_a_refused_request_uses_up_no_fault() -> None:
    """What the gate turns away never reached the backend (CN-RATE)."""
    caller = world_of({"code": "InternalError", "times": 1}, quotas={"*": 1})
    assert caller.write("UnlockAccount", secret_key="wrong") == "AuthFailure.SignatureFailure"
    assert caller.write("LockAccount") == "InternalError"
    assert caller.write("LockAccount") == "RequestLimitExceeded"
    assert caller.write("LockAccount", at=NOW + 1) is None


def is_locked(caller: Caller, at: float = NOW) -> bool:
    account = caller.world.account(INSTANCE, USER, at)
    return account is not None and account.status == 5


@pytest.mark.parametrize(
    ("rule", "kind", "status", "body", "applied"),
    [
        ({"code": "InternalError"}, WireKind.ANSWER, 200, b'"InternalError"', False),
        ({"code": "Any.Thing", "message": "so there"}, WireKind.ANSWER, 200, b'"so there"', False),
        ({"code": "InternalError", "apply": True}, WireKind.ANSWER, 200, b'"InternalError"', True),
        ({"status": 502}, WireKind.ANSWER, 502, b"502 from the gateway", False),
        ({"status": 503, "html": True, "apply": True}, WireKind.ANSWER, 503, b"<h1>503 gateway</h1>", True),
        ({"html": True}, WireKind.ANSWER, 200, b"<html>", False),
        ({"truncated": True}, WireKind.TRUNCATED, 200, b"RequestId", True),
        ({"truncated": True, "apply": False}, WireKind.TRUNCATED, 200, b"RequestId", False),
        ({"garbage": True}, WireKind.ANSWER, 200, b'{"Response":', True),
        ({"empty": True}, WireKind.ANSWER, 200, b"", True),
        ({"reset_before": True}, WireKind.RESET, 200, b"", False),
        ({"reset_after": True}, WireKind.RESET, 200, b"", True),
        ({"hang": True}, WireKind.HANG, 200, b"", False),
        ({"hang": True, "apply": True}, WireKind.HANG, 200, b"", True),
        ({"accepted_not_applied": True}, WireKind.ANSWER, 200, b"RequestId", False),
        ({"no_request_id": True}, WireKind.ANSWER, 200, b'{"Response":{}}', True),
        ({"code": "DBError", "no_request_id": True}, WireKind.ANSWER, 200, b'"DBError"', False),
        ({"slow": 3}, WireKind.ANSWER, 200, b"RequestId", True),
    ],
)
def test_each_effect(rule: dict[str, Any], kind: WireKind, status: int, body: bytes, applied: bool) -> None:
    caller = world_of(rule)
    answer = caller.answer("LockAccount", TARGET)
    assert (answer.kind, answer.status, is_locked(caller)) == (kind, status, applied)
    assert body in answer.body
    assert caller.world.audit[-1].applied == applied
    if kind is WireKind.TRUNCATED:
        assert 0 < answer.cut < len(answer.body)
    if "garbage" in rule:
        with pytest.raises(ValueError, match=r"."):
            json.loads(answer.body)
    if "html" in rule:
        assert answer.content_type == "text/html"
    if "no_request_id" in rule:
        assert b"RequestId" not in answer.body
    assert answer.delay_s == (3 if "slow" in rule else 0)


def test_accepted_not_applied_still_refuses_what_the_api_refuses() -> None:
    caller = world_of({"accepted_not_applied": True})
    assert caller.write("LockAccount", user="postgres") is not None
    assert caller.rows() == []


def test_an_effect_delay_shows_status_three_until_it_is_over() -> None:
    """Accepted now, effective later: a reading must poll, and a second write finds the account busy."""
    caller = world_of({"effect_delay": 5, "times": 1})
    assert caller.write("LockAccount") is None
    assert [row["Status"] for row in caller.rows(at=NOW + 4.9)] == [3]
    assert caller.write("LockAccount", at=NOW + 4.9) == "FailedOperation.PreCheckError"
    assert [row["Status"] for row in caller.rows(at=NOW + 5)] == [5]


def test_apply_after_works_unseen() -> None:
    """A request that sat in a queue: the resend and its undoing come first, and then it strikes after all."""
    caller = world_of({"hang": True, "apply": True, "apply_after": 8, "times": 1})
    assert caller.answer("LockAccount", TARGET).kind is WireKind.HANG
    assert [row["Status"] for row in caller.rows(at=NOW + 1)] == [2]
    assert caller.write("LockAccount", at=NOW + 2) is None
    assert caller.write("UnlockAccount", at=NOW + 3) is None
    assert not is_locked(caller, NOW + 7.9)
    assert is_locked(caller, NOW + 8)


def test_a_wrong_clock_expires_right_signatures_and_shows_in_the_date() -> None:
    caller = world_of({"wrong_clock": 1000})
    answer = caller.answer("LockAccount", TARGET)
    assert b"AuthFailure.SignatureExpire" in answer.body
    assert answer.date == NOW + 1000
    headers_at = caller.answer("LockAccount", TARGET, at=NOW)
    assert headers_at.date == NOW + 1000


def test_a_client_that_learns_the_clock_is_let_in() -> None:
    """Signed by the server's time, sent at the true one."""
    caller = world_of({"wrong_clock": -1000})
    body = json.dumps(TARGET).encode()
    headers = signed_headers("LockAccount", body, host=caller.access, at=NOW - 1000)
    answer = caller.world.handle(method="POST", query="", headers=headers, body=body, access=caller.access, now=NOW)
    assert b"Error" not in answer.body


def test_a_wrong_clock_can_be_set_right_and_leaves_other_rules_alone() -> None:
    caller = world_of({"wrong_clock": 1000, "times": 1}, {"code": "InternalError", "times": 1})
    codes = [caller.write("LockAccount") for _ in range(3)]
    assert codes == ["AuthFailure.SignatureExpire", "InternalError", None]


def test_yaml_json_and_plain_values_say_the_same() -> None:
    rule = {"action": "LockAccount", "times": 2, "code": "InternalError"}
    yaml_text = "# drill\n- action: LockAccount\n  times: 2\n  code: InternalError\n"
    assert parse_faults(yaml_text) == parse_faults(json.dumps([rule])) == rules_from([rule])
    assert parse_faults("faults:\n- {code: X}") == rules_from({"faults": [{"code": "X"}]})
    assert parse_faults("[{code: X, times: 1}]") == (FaultRule(effect=Effect.CODE, code="X", times=1, apply=False),)
    assert parse_faults("[]") == ()
    assert rules_from([{"slow": 1, "hang": False}])[0].effect is Effect.NONE


def test_the_examples_of_the_documentation_are_valid() -> None:
    """The module's docstring is the reference of the format."""
    text = faults.__doc__ or ""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("    - action"))
    example = "\n".join(line[4:] for line in lines[start : lines.index("", start)])
    assert len(parse_faults(example)) == 3
    assert {effect.value for effect in Effect if effect is not Effect.NONE} <= {
        line.strip().partition(":")[0] for line in text.splitlines()
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- {cod: X}", "faults[0]: unknown key 'cod'; known are accepted_not_applied, action, after"),
        ("- {code: X}\n- {1: X}", "faults[1]: unknown key 1"),
        ("- LockAccount", "faults[0]: must be a mapping, not str"),
        ("code: X", "faults: must be a list of rules, not dict"),
        ("hello", "faults: must be a list of rules, not str"),
        ("", "faults: must be a list of rules, not NoneType"),
        ("- {action: LockAccount}", "says nothing of what goes wrong"),
        ("- {hang: true, code: X}", "code and hang exclude each other"),
        ("- {code: X, times: 1, times_each: 1}", "times and times_each exclude each other"),
        ("- {code: X, times: -1}", "faults[0].times: must be a whole number from 0, not -1"),
        ("- {code: X, times: true}", "faults[0].times: must be a whole number"),
        ("- {code: X, after: 1.5}", "faults[0].after: must be a whole number"),
        ("- {code: X, probability: 1.5}", "faults[0].probability: must be a number from 0 to 1"),
        ("- {code: X, probability: .nan}", "faults[0].probability: must be a number from 0 to 1"),
        ("- {code: 'no code'}", "does not look like an error code"),
        ('- {code: X, message: "\\ud800"}', "faults: line 1, column 25: "),
        ("- {code: ''}", "faults[0].code: must be a text"),
        ("- {hang: 1}", "faults[0].hang: must be true or false"),
        ("- {slow: 0}", "faults[0].slow: must be seconds, above 0"),
        ("- {slow: soon}", "faults[0].slow: must be seconds, above 0"),
        ("- {wrong_clock: .inf}", "faults[0].wrong_clock: must be a number of seconds"),
        ("- {status: 99}", "faults[0].status: must be from 200 to 599"),
        ("- {reset_after: true, apply: false}", "reset_after already says it"),
        ("- {html: true, message: x}", "faults[0].message: only beside code"),
        ("- {hang: true, slow: 1}", "hang has no answer to delay"),
        ("- {reset_after: true, no_request_id: true}", "reset_after has no answer to leave it out of"),
        ("- {effect_delay: 1, apply_after: 1}", "effect_delay and apply_after exclude each other"),
        ("- {hang: true, apply_after: 1}", "add apply: true or drop it"),
        ("- {code: X", "faults: line 2, column 1: "),
        ("- {code: X, code: Y}", "key 'code' stands twice"),
        ("- code: X\n\t- code: Y", "faults: line 2"),
        ("- {code: X, when: 2024-13-45}", "not readable as YAML or JSON"),
        ("- !!python/object:os.system {}", "could not determine a constructor"),
        ("\x00", "not readable as YAML or JSON"),
        ("[" * 200_000, "nested deeper than 64 levels"),
        ("- " * 100_000, "nested deeper than 64 levels"),
        ("x" * (1024 * 1024 + 1), "at most 1,048,576 are read"),
    ],
)
def test_a_wrong_script_is_told_where(text: str, problem: str) -> None:
    with pytest.raises(FaultScriptError) as caught:
        parse_faults(text)
    assert problem in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(FaultScriptError) as caught:
        parse_faults("- {cod: X}\n- {times: many, code: X}\n- 3\n")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "faults[0]",
        "faults[1].times",
        "faults[2]",
    ]
    with pytest.raises(FaultScriptError) as caught:
        rules_from([{}] * 80)
    assert len(caught.value.problems) == 51
    assert caught.value.problems[-1] == "… and 30 more"


def test_aliases_do_not_blow_up() -> None:
    """Ten aliases of ten aliases, and so on: refused for what it is, not expanded."""
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    with pytest.raises(FaultScriptError):
        parse_faults("\n".join(lines))


def test_the_pure_modules_import_no_io_and_no_engine() -> None:
    """The simulator must not share the engine's errors."""
    folder = Path(faults.__file__).parent
    for module in folder.glob("*.py"):
        text = module.read_text(encoding="utf-8")
        for word in ("engine.api.signing", "engine.api.verdicts", "engine.api.actions"):
            assert word not in text or f"`{word}`" in text, module.name
        if module.name != "inprocess.py":
            assert "engine.model" not in text, module.name
        if module.name != "server.py":
            assert "aiohttp" not in text.replace("imports aiohttp", ""), module.name
        if module.name not in ("inprocess.py", "server.py", "delivery.py"):
            assert "import asyncio" not in text, module.name
            assert "import time" not in text, module.name
