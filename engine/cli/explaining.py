"""The `explain` command: codes of the API, and words of ours."""

from __future__ import annotations

from engine.api.names import nearest
from engine.api.verdicts import explain
from engine.errors import UsageError
from engine.report import glossary


def explained(code: str) -> str:
    """Return what a code or a word means; of what is neither, what is near."""
    if not code.strip():
        raise UsageError("name a code or a word: acctops explain FailedOperation.FlowError")
    text = glossary.explained(code)
    if text is not None:
        return text
    near = nearest(code, glossary.words()) if "." not in code else None
    return explain(code) + (f"\n\nNearest of acctops' own words: {near}" if near else "")
