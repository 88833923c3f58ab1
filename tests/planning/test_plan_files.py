"""A plan in a file and what is signed of it, without keys: the rules alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.inputs.approvals import ApprovalRules
from engine.planning.approvals import (
    HOLD_ENDS,
    HOLD_ENDS_ROTATED,
    WAVE_IS_RED,
    PlanError,
    Proven,
    Signed,
    Statement,
    canonical,
    different_keys,
    lacking_words,
    names,
    plan_hash,
    read_plan,
    read_statement,
    then_of,
)
from tests.support.drill import run_settings

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=8)
    | st.floats(allow_nan=False, width=32),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)
SAID = Statement(
    plan="a" * 64,
    plan_digest="b" * 64,
    count=3,
    action="LockAccount",
    uins={"": "100000000001"},
    not_after="2026-12-01T08:00:00.000Z",
    then=(),
)


def proven(fingerprint: str, name: str) -> Proven:
    return Proven(signed=Signed("{}", "s"), fingerprint=fingerprint, name=name)


@given(JSON.filter(lambda value: "Infinity" not in json.dumps(value)))
def test_one_value_has_one_spelling(value: Any) -> None:
    """However a file is indented or ordered, its hash is that of what it says."""
    spelled = canonical(value)
    assert canonical(json.loads(spelled)) == spelled
    assert plan_hash(json.loads(json.dumps(value, indent=3))) == plan_hash(json.loads(spelled))


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_plan_is_one_error(data: bytes) -> None:
    """A file of others raises one error of ours, whatever is in it."""
    with pytest.raises(PlanError):
        read_plan(data)


@given(st.text(max_size=200) | JSON.map(json.dumps))
def test_what_is_no_statement_is_one_error(text: str) -> None:
    """So does a statement."""
    with pytest.raises(PlanError):
        read_statement(text)


def test_a_statement_has_one_spelling() -> None:
    """Its bytes are what is signed, so it is read in one spelling only."""
    assert read_statement(SAID.text) == SAID
    for other in (SAID.text + " ", SAID.text.replace(":3", ":3.0"), SAID.text.replace('"count"', '"count" ')):
        with pytest.raises(PlanError):
            read_statement(other)
    with pytest.raises(PlanError):
        read_statement(SAID.text.replace("2026-12-01T08:00:00.000Z", "tomorrow"))


def test_keys_are_counted_and_not_names() -> None:
    """One key under two names is one; two keys under one name are two."""
    one, same, other = proven("SHA256:a", "ana"), proven("SHA256:a", "bob"), proven("SHA256:b", "ana")
    assert different_keys([one, same]) == [one]
    assert different_keys([one, other]) == [one, other]
    rules = ApprovalRules(approvers=1)
    words = lacking_words([one, same], rules, ["statement 3: it has expired"])
    assert words is not None and "2 different keys" in words and "it has expired" in words
    assert lacking_words([one, other], rules, ["any"]) is None
    assert lacking_words([one, other], ApprovalRules(approvers=2), []) is not None


@pytest.mark.parametrize(
    ("action", "then", "texts"),
    [
        ("LockAccount", None, ()),
        ("LockAccount", "tell", ()),
        ("LockAccount", "unlock", ("UnlockAccount when its hold ends",)),
        (
            "LockAccount",
            "unlock_rotated",
            ("UnlockAccount when its hold ends, where the password was changed",),
        ),
        ("OpenAccountCAM", "unlock", ()),
    ],
)
def test_a_statement_names_what_a_machine_may_do_later(action: str, then: str | None, texts: tuple[str, ...]) -> None:
    """Nothing where a person decides, and where a password is needed that no machine has."""
    assert then_of(action, run_settings(hold_then=then)) == texts


def test_who_lets_all_be_opened_lets_those_with_a_new_password() -> None:
    """And not the other way round."""
    all_of_them = replace(SAID, then=("UnlockAccount when its hold ends",))
    rotated = replace(SAID, then=("UnlockAccount when its hold ends, where the password was changed",))
    assert names(all_of_them, "UnlockAccount", HOLD_ENDS) and names(all_of_them, "UnlockAccount", HOLD_ENDS_ROTATED)
    assert names(rotated, "UnlockAccount", HOLD_ENDS_ROTATED) and not names(rotated, "UnlockAccount", HOLD_ENDS)
    assert not names(all_of_them, "LockAccount", HOLD_ENDS) and not names(all_of_them, "UnlockAccount", WAVE_IS_RED)
