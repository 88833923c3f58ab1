"""`globs`: a glob is refused only if no legal name can match it, and always then."""

from __future__ import annotations

import itertools
import re
from fnmatch import translate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.api import names
from engine.inputs.globs import INSTANCE, USER, Grammar, can_match, empty_bracket, pieces, why_never
from engine.inputs.jobfile.fields import glob_problem

WRITTEN = "aB1_-"
CHARACTERS = WRITTEN + "c20é"
"""Letters and digits besides that no glob below names: what `[!…]` takes; 0 is what `[!1-…]` leaves."""
SHORT = ["".join(each) for size in range(1, 5) for each in itertools.product(CHARACTERS, repeat=size)]
INSTANCES = [name for name in SHORT if names.instance_problem(name) is None]
USERS = [name for name in SHORT if names.user_problem(name) is None]
GLOB = st.lists(st.sampled_from([*"*?[]!-aB1_", "[a", "[!a]", "[B-a]", "[a-B]", "[]]", "[!]"]), max_size=6)


@pytest.mark.parametrize(
    ("grammar", "problem"), [(INSTANCE, names.instance_problem), (USER, names.user_problem)], ids=["instance", "user"]
)
def test_the_grammar_is_that_of_names(grammar: Grammar, problem) -> None:
    """Every short name is legal here and there, or in neither place; so is the longest."""
    for name in SHORT:
        assert can_match(name, grammar) is (problem(name) is None), name
    for size in range(grammar.most - 2, grammar.most + 3):
        name = ("a-" + "b" * size)[:size] if grammar is INSTANCE else "b" * size
        assert can_match(name, grammar) is (problem(name) is None), size


@pytest.mark.parametrize("grammar", [INSTANCE, USER], ids=["instance", "user"])
@pytest.mark.parametrize("fold", [False, True])
@given(st.data())
@settings(deadline=None, max_examples=300)
def test_can_match_agrees_with_trying_every_short_name(grammar: Grammar, fold: bool, data: st.DataObject) -> None:
    """As the matcher itself matches; a glob of few characters that any name matches is matched by a short one."""
    glob = "".join(data.draw(GLOB))
    match = re.compile(translate(glob), re.IGNORECASE if fold else 0).match
    tried = any(match(name) for name in (INSTANCES if grammar is INSTANCE else USERS))
    if len(list(pieces(glob))) <= 3 and set(re.sub(r"[*?\[\]!]", "", glob)) <= set(WRITTEN):
        assert can_match(glob, grammar, fold=fold) is tried
    elif tried:
        assert can_match(glob, grammar, fold=fold)


@given(st.text(alphabet="*?[]!-ab", max_size=12))
@example("[]")
@example("[!]")
@example("[!]]a")
def test_a_glob_is_divided_as_fnmatch_divides_it(glob: str) -> None:
    """Part by part it is the same expression as in one."""
    parts = list(pieces(glob))
    assert "".join(parts) == glob
    whole = re.compile(translate(glob))
    by_parts = re.compile("".join(re.sub(r"^\(\?s:(.*)\)\\Z$", r"\1", translate(part)) for part in parts) + r"\Z")
    for name in ("", "a", "ab", "[a", "[]", "a-b", "!a", "]a", "b]", "[!]"):
        assert (whole.match(name) is None) is (by_parts.match(name) is None), name


@pytest.mark.parametrize(
    ("glob", "said"),
    [
        ("*/breakglass_[1", "its [ is not closed"),
        ("*/[z-a]x", "[z-a] takes no character"),
        ("!*/app_user", "! says `not` inside of brackets alone"),
        ("postgres_aaaa1111/*", "no such instance id; ids look like postgres-4sfuv15b"),
        ("aaaa1111/*", "no such instance id"),
        ("*/-*", "no such account name"),
        ("*/1", "no such account name"),
        ("*/" + "a" * 64, "no such account name"),
        ("postgres-/*", "no such instance id"),
    ],
)
def test_a_glob_that_can_never_match_says_why(glob: str, said: str) -> None:
    """A guard that never holds is worse than none."""
    for fold in (False, True):
        problem = glob_problem(glob, fold=fold)
        assert problem is not None and "can never match" in problem and said in problem


@pytest.mark.parametrize(
    "glob",
    [
        "*/*",
        "**/?*",
        "*/*root",
        "b-?/[cd]*",
        "*aaaa1111/*",
        "*/[!a]*",
        "*/postgres",
        "?*-*/_",
        "*/" + "a" * 63,
        "*/svc-*",
        "*/1*a",
        "*/MÜ?ler*",
    ],
)
def test_a_glob_that_can_match_is_taken(glob: str) -> None:
    """Also one of names that are never sent, such as the server's own: it says more than it must."""
    assert glob_problem(glob) is None


def test_a_long_glob_is_looked_at_at_once() -> None:
    """It stands in a file of somebody's, and every start reads it."""
    assert not can_match("*a" * 500, USER)
    assert can_match("*" * 5000 + "a", USER)
    assert why_never("?" * 64, USER) is not None


def test_an_empty_range_is_found_in_free_text() -> None:
    """Names of instances are free, so nothing else can be said of a glob over them."""
    assert empty_bracket("prod-[z-a]*") == "[z-a]"
    assert empty_bracket("prod-[1") is None and empty_bracket("[!z-a]") is None
