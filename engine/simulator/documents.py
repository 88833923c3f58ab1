"""No I/O. YAML or JSON text → plain values, with one kind of error that lists every problem.

Fault scripts and fleets are written by hand. So an error must list all problems with their places at once, and a
hostile document (huge, deeply nested, alias bomb) must not take the process down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import yaml

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

MAX_PROBLEMS = 50
"""Most problems that are listed at once; nobody would read more."""
_MAX_DEPTH = 64
"""Deepest nesting of a document; ours need five levels."""


class DocumentError(ValueError):
    """A document is wrong: every problem found, each with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        shown = list(problems[:MAX_PROBLEMS])
        if len(problems) > MAX_PROBLEMS:
            shown.append(f"… and {len(problems) - MAX_PROBLEMS} more")
        self.problems = tuple(shown)
        super().__init__("\n".join(shown))


def load(text: str, *, what: str, max_chars: int) -> object:
    """Return a YAML or JSON text as plain values; DocumentError if it is too large, too deep or not well formed."""
    if len(text) > max_chars:
        raise DocumentError([f"{what}: {len(text):,} characters; at most {max_chars:,} are read"])
    if text.lstrip()[:1] in ("{", "["):
        try:
            return msgspec.json.decode(text)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass  # YAML in flow style begins the same way, and the YAML parser names the place
    try:
        _check_depth(text, what)
        return yaml.load(text, _UniqueKeyLoader)  # noqa: S506 - a safe loader with one check more
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise DocumentError([f"{what}: {place}{error.problem or error}"]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, DocumentError):
            raise
        raise DocumentError([f"{what}: not readable as YAML or JSON: {error}"]) from None


def _check_depth(text: str, what: str) -> None:
    """Refuse deep nesting before a recursive parser meets it: libyaml's composer has no guard of its own."""
    depth = 0
    too_deep = DocumentError([f"{what}: nested deeper than {_MAX_DEPTH} levels"])
    try:
        for event in yaml.parse(text, _LOADER):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _MAX_DEPTH:
                    raise too_deep
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.MarkedYAMLError as error:  # since PyYAML 6.0.4 the scanner runs ahead and has its own limit
        if "nesting depth" in str(error.problem):
            raise too_deep from None
        raise


_LOADER: type[yaml.SafeLoader | yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeyLoader(_LOADER):  # type: ignore[valid-type, misc]  # the base is chosen at import
    """A safe YAML loader that refuses a repeated key: plain YAML silently takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        mapping: dict[Hashable, object] = super().construct_mapping(node, deep=deep)
        return mapping
