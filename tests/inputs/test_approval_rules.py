"""Which plans need the signatures of further people, as config files say it."""

from __future__ import annotations

import pytest

from engine.errors import ConfigError
from engine.inputs.approvals import ApprovalRules, added_up
from engine.inputs.config import parse_config
from engine.inputs.settings import Configs, Flags, effective

HOME = {"HOME": "/home/ana"}


def rules(*texts: str) -> ApprovalRules | None:
    """What holds by configs with these `approvals`, nearest first."""
    files = tuple(
        parse_config((f"approvals: {text}\n" if text else "rate: 5\n").encode(), f"/{at}/config.yaml")
        for at, text in enumerate(texts)
    )
    return effective(Flags(), HOME, None, Configs(files=files)).approvals


def test_nothing_is_asked_for_unless_a_config_says_so() -> None:
    """Nobody who has not heard of it is stopped by it."""
    assert rules() is None
    assert rules("") is None


def test_what_is_left_out_has_the_default() -> None:
    """One line in the system's config is enough, and containment does not wait."""
    found = rules("{signers: keys}")
    assert found is not None
    assert (found.actions, found.above, found.approvers, found.valid_s) == (
        ("OpenAccountCAM", "UnlockAccount"),
        200,
        1,
        1800.0,
    )
    assert found.signers == ("/0/keys",)
    assert not found.unapproved
    assert found.asks("OpenAccountCAM", 201)
    assert not found.asks("OpenAccountCAM", 200)
    assert not found.asks("LockAccount", 5000)


@pytest.mark.parametrize("first", [0, 1])
def test_all_files_add_up(first: int) -> None:
    """A config nearer to the job can ask for more, never for less, whatever it leaves out."""
    texts = [
        "{signers: /etc/keys, above: 50, unapproved: true}",
        "{actions: LockAccount, above: 1000, approvers: 2, valid: 8h, signers: /srv/keys}",
    ]
    found = rules(*(texts if first == 0 else reversed(texts)))
    assert found is not None
    assert set(found.actions) == {"OpenAccountCAM", "UnlockAccount", "LockAccount"}
    assert (found.above, found.approvers, found.keys, found.valid_s) == (50, 2, 3, 1800.0)
    assert set(found.signers) == {"/etc/keys", "/srv/keys"}
    assert not found.unapproved, "a file that does not allow it forbids it"


def test_a_default_is_not_loosened_by_a_nearer_file() -> None:
    """`above: 100000` beside a job does not undo the default of the system's config."""
    found = rules("{above: 100000, valid: 7d}", "{signers: /etc/keys}")
    assert found is not None
    assert (found.above, found.valid_s) == (200, 1800.0)


def test_adding_up_is_the_same_in_any_order_and_twice() -> None:
    """Places are found by several ways, and one file may be met twice."""
    a = ApprovalRules(actions=("LockAccount",), above=3, signers=("a",))
    b = ApprovalRules(approvers=4, valid_s=5.0, signers=("b",))
    ab, ba = added_up([a, b]), added_up([b, a])
    assert (set(ab.actions), ab.above, ab.approvers) == (set(ba.actions), ba.above, ba.approvers)
    assert added_up([ab, a]) == ab


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{actions: LokAccount}", "did you mean LockAccount"),
        ("{actions: []}", "actions"),
        ("{above: -1}", "a whole number from 0"),
        ("{above: many}", "a whole number from 0"),
        ("{approvers: 0}", "a whole number from 1 to 20"),
        ("{valid: 30}", "a duration with its unit"),
        ("{valid: 0s}", "longer than 0s"),
        ("{signers: ~/keys}", "the whole path"),
        ("{unapproved: maybe}", "true or false"),
        ("{approver: 2}", "did you mean approvers"),
        ("[OpenAccountCAM]", "a mapping of actions"),
    ],
)
def test_what_makes_no_sense_is_named_by_its_place(text: str, words: str) -> None:
    """A guard that is misspelt must stop the command, never be passed over."""
    with pytest.raises(ConfigError, match=words) as caught:
        rules(text)
    assert "/0/config.yaml:1" in str(caught.value)
    assert "approvals" in str(caught.value)
