"""`guards`: of several the strictest holds, and each is named as the operator writes it."""

from __future__ import annotations

import pytest

from engine.api.actions import ACTIONS, takes_admins
from engine.inputs.guards import STRICTER, empty_plan_warnings, guard_words, need_readings, strictest
from engine.inputs.job import Glob
from engine.model import Place

A, B, C = (Place(f"{name}.yaml", 1, 1) for name in "abc")


@pytest.mark.parametrize(("guard", "wanted"), [("keep_admins", (3, B)), ("max_targets", (1, A)), ("max_share", (1, A))])
def test_the_strictest_holds(guard, wanted):
    """With its place; of equals the first, which is the config's."""
    assert strictest(guard, [(1, A), (3, B), (3, C), (1, C)]) == wanted
    assert strictest(guard, []) is None


@pytest.mark.parametrize(
    ("guard", "value", "words"),
    [
        ("keep_admins", 1, "keep_admins 1"),
        ("max_targets", 2000, "limits.max_targets 2,000"),
        ("max_share", 0.07, "limits.max_share 7%"),
        ("max_share", 0.00125, "limits.max_share 0.125%"),
    ],
)
def test_guards_in_words(guard, value, words):
    """Whole percentages stay whole, whatever floats say."""
    assert guard in STRICTER
    assert guard_words(guard, value) == words


def test_which_guards_need_readings():
    """The share always, the admins where an action can lock them."""
    assert [name for name in ACTIONS if takes_admins(name)] == ["LockAccount"]
    assert need_readings("LockAccount", keep_admins=1, max_share=0.5) == ("keep_admins", "max_share")
    assert need_readings("UnlockAccount", keep_admins=1, max_share=0.5) == ("max_share",)
    assert need_readings("LockAccount", keep_admins=0, max_share=None) == ()
    assert need_readings("LockAccount", keep_admins=None, max_share=None) == ()


def test_globs_that_leave_nothing_to_do_are_named():
    """Only those that match every account."""
    globs = [Glob("*/a", A), Glob("*/*", B)]
    assert empty_plan_warnings(globs, "protects") == ["b.yaml:1:1: */* protects every account: nothing will be sent"]
