"""What is said of a command that a signal ends outside of any session."""

from __future__ import annotations

from engine.cli.leaving import interrupted_words, note_run, stay


def test_nothing_was_sent_is_said_only_where_it_is_so() -> None:
    """Who presses Ctrl-C while the report is printed must not read that nothing was done."""
    assert interrupted_words("interrupted") == "interrupted before anything was sent"
    note_run("20261128T000000Z-abcd")
    assert interrupted_words("terminated") == (
        "terminated; what run 20261128T000000Z-abcd did is recorded: acctops status 20261128T000000Z-abcd"
    )
    stay()
    assert interrupted_words("interrupted") == "interrupted before anything was sent"
