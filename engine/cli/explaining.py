"""The `explain` command: codes of the API, and words of ours."""

from __future__ import annotations

from textwrap import fill as wrap

from engine.api.names import nearest
from engine.api.verdicts import explain
from engine.cli.talk import out
from engine.errors import UsageError
from engine.report import glossary


def shown(code: str) -> str:
    """Return what `explained` returns, broken between words for the terminal that shows it."""
    text, screen = explained(code), out.size
    if screen is None:
        return text
    return "\n".join(
        wrap(
            line,
            screen[0],
            subsequent_indent=" " * 11 if line.startswith("  ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.split("\n")
    )


def explained(code: str) -> str:
    """Return what a code or a word means; of what is neither, what is near."""
    if not code.strip():
        raise UsageError("name a code or a word: acctops explain FailedOperation.FlowError")
    text = glossary.explained(code)
    if text is not None:
        return text
    near = nearest(code, glossary.words()) if "." not in code else None
    return explain(code) + (f"\n\nNearest of acctops' own words: {near}" if near else "")
