"""The words everything else is said in: frozen values, closed sets, and keys that never show themselves."""

from __future__ import annotations

import gc
from enum import StrEnum
from typing import Any

import pytest

from engine.model import (
    AccountState,
    Answer,
    Call,
    CallId,
    Fault,
    Keys,
    Omit,
    OmitReason,
    Outcome,
    Place,
    Proof,
    Reply,
    Stage,
    Target,
    Verdict,
)

KEYS = Keys(
    secret_id="AKIDz8krbsJ5yKBZQpn74WFkmLPx3gnPhESA", secret_key="Gu5t9xGARNpq86cd98joQYCN3EXAMPLE", token="tok-1"
)
TARGET = Target("postgres-4sfuv15b", "app_user", "ap-singapore", "", "list.csv", 7, 3)
CALL = Call(CallId("0" * 16), "LockAccount", "", "ap-singapore", "postgres-4sfuv15b", "app_user")
VALUES = [
    Place("job.yaml", 1, 2),
    TARGET,
    CALL,
    Omit(TARGET, OmitReason.PROTECTED, "*/root", "config.yaml:3:5"),
    Reply(status=200, body=b"{}"),
    Fault(stage=Stage.BEFORE_SEND, code="Local.Dns", message="no such name"),
    Answer(http=200, request_id="r", code=None, message=None),
    KEYS,
    AccountState(user="app_user", status=2, cam=None),
]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (Verdict, "done already rejected throttled transient in_doubt fatal"),
        (Outcome, "changed already failed unknown unattempted"),
        (Proof, "read before code accepted"),
        (
            OmitReason,
            "protected excluded duplicate reserved later skipped unseen bad_row rerun "
            "dropped before_unknown edited gone held unproven",
        ),
        (Stage, "before_send after_send"),
    ],
)
def test_the_closed_sets_are_those_of_the_glossary(words: type[StrEnum], names: str) -> None:
    """A journal written today is read by these names for years: none is added, renamed or dropped by accident."""
    assert [str(word) for word in words] == names.split()


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (Place("job.yaml", 3, 5), "job.yaml:3:5"),
        (Place("list.csv", 7), "list.csv:7"),
        (Place("command line"), "command line"),
        (Place("job.yaml", 0, 5), "job.yaml"),
    ],
)
def test_a_place_is_written_as_editors_jump_to_it(place: Place, text: str) -> None:
    """`file:line:column` as far as it is known."""
    assert str(place) == text


def test_targets_and_calls_are_named_as_the_job_file_writes_them() -> None:
    """`instance/user`, and a target knows where it was written."""
    assert (TARGET.label, CALL.label) == ("postgres-4sfuv15b/app_user",) * 2
    assert TARGET.place == Place("list.csv", 7, 3)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_no_value_can_be_changed_or_extended(value: Any) -> None:
    """Values are shared freely between tasks, because nobody can change one; and a mistyped name cannot stick."""
    for name in [*value.__struct_fields__, "mistyped"]:
        with pytest.raises((AttributeError, TypeError)):
            setattr(value, name, None)


@pytest.mark.parametrize("value", VALUES[:4], ids=lambda value: type(value).__name__)
def test_what_exists_a_million_times_costs_the_collector_nothing(value: object) -> None:
    """Targets and calls are out of the garbage collector's sight, so a million of them do not slow every pass."""
    assert not gc.is_tracked(value)


def test_keys_never_show_themselves() -> None:
    """Neither repr, str, format nor an enclosing repr gives away the secret key, the token or the whole key id."""
    for text in (repr(KEYS), str(KEYS), f"{KEYS}", repr([KEYS]), repr({"keys": KEYS})):
        assert KEYS.secret_key not in text
        assert KEYS.secret_id not in text
        assert KEYS.token is not None
        assert KEYS.token not in text
    assert repr(Keys(secret_id="AKID1234", secret_key="x")) == "Keys(secret_id='…1234', secret_key=…, token=None)"


def test_a_fingerprint_tells_keys_apart_and_no_more() -> None:
    """Four characters of the key id: what a journal may hold."""
    assert KEYS.fingerprint == "…hESA"


def test_an_answer_is_in_doubt_until_said_otherwise() -> None:
    """Whoever forgets to say when a fault struck has said "bytes may have left", the safe side."""
    assert Answer(http=None, request_id=None, code="Local.Timeout", message=None).stage is Stage.AFTER_SEND
