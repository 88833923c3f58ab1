"""Every word that acctops itself writes into plans, reports and journals is explained by `acctops explain`."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.model import OmitReason, Outcome, Proof, Verdict
from engine.planning.outlook import Standing
from engine.planning.undo import Keep
from engine.report.glossary import explained, senses
from tests.support.command import Desk

OURS = sorted({each.value for kind in (Outcome, Verdict, Proof, OmitReason, Keep, Standing) for each in kind})


@pytest.mark.parametrize("word", OURS)
def test_every_word_of_ours_is_explained(word):
    """A word that a report shows, and that nobody explains, is taken for a code of the API, and asked about there."""
    assert senses(word)
    assert "own word" in str(explained(word))


@pytest.mark.parametrize("kind", [Outcome, Verdict, Proof, Standing])
def test_each_meaning_of_a_word_is_told(kind):
    """`already` is an outcome, a verdict and how an account stands: whoever asks has one of them in mind."""
    for word in kind:
        assert len(senses(word.value)) == sum(word.value in set(each) for each in (Outcome, Verdict, Proof, Standing,
                                              {*OmitReason, *Keep}))  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("failed", "an outcome of a call"),
        ("no_instance", "There is no such instance in that region"),
        ("no such instance", "There is no such instance in that region"),
        ("In-Doubt", "may or may not have been applied"),
        ("BAD_ROW", "A row of a list is no target"),
        ("faild", "Nearest of acctops' own words: failed"),
        ("Local.BadRow", "every action"),
        ("owed", "acctops holds --owed prints the undo"),
        ("holds", "acctops release RUN only ends the hold"),
        ("stays, held", "Another run holds the account"),
        ("unlock_rotated", "whose password was changed after the lock"),
        ("due", "The limit of a hold has passed"),
        ("tend", "acctops overdue --tend checks it"),
        ("back", "no longer as the run left it"),
    ],
)
def test_explain_takes_words_as_they_are_shown(tmp_path: Path, typed, words):
    """Neither case nor the blank in place of a hyphen makes it another word."""
    done = Desk(tmp_path).run("explain", typed)
    assert done.code == 0
    assert words in done.out
    assert ("does not know this code" in done.out) == (typed == "faild")
