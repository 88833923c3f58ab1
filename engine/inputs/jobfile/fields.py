"""Reads a YAML tree by the table of keys (`filemodel`): unknown keys, wrong types, values. No I/O."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, UnsetType

from engine.api import names
from engine.inputs import globs
from engine.inputs.job import Glob
from engine.inputs.jobfile.nodes import Scalar, Series, Table, Unusable, shown_key
from engine.model import Place

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from engine.inputs.jobfile.nodes import Node
    from engine.inputs.jobfile.problems import Problems

_SECRETS = frozenset(
    [
        "password",
        "passwd",
        "pwd",
        "secret",
        "secretid",
        "secretkey",
        "secret_id",
        "secret_key",
        "secret-id",
        "secret-key",
        "token",
    ]
)

_KINDS = {Scalar: "a single value", Series: "a list", Table: "a mapping (key: value)"}


@cache
def kinds(model: type[Struct]) -> Mapping[str, Any]:
    """Return key → its type, without "may be missing". Any: these are typing's annotation objects."""
    found = {}
    for field in msgspec.structs.fields(model):
        options = [option for option in get_args(field.type) if option is not UnsetType]
        missing_ok = len(options) == 1 and UnsetType in get_args(field.type)
        found[field.encode_name] = options[0] if missing_ok else field.type
    return found


def _metas(kind: Any) -> tuple[Meta, ...]:
    return kind.__metadata__ if get_origin(kind) is Annotated else ()


def rule(kind: Any) -> Mapping[str, Any]:
    """Return words, reader and inner name of a key's type (`filemodel._rule`)."""
    return next((meta.extra for meta in reversed(_metas(kind)) if meta.extra), {})


_NOWHERE: Mapping[str, str] = {}


class Fields:
    """A reader of one file's mappings; it notes what is wrong in `problems` and goes on reading."""

    def __init__(self, file: str, problems: Problems) -> None:
        self.file = file
        self.problems = problems

    def place(self, node: Node) -> Place:
        """Return the place of a node."""
        return Place(self.file, node.line, node.column)

    def wrong(self, node: Node, path: str, what: str) -> None:
        """Note a problem at a node; not at an Unusable one, as its problem has been noted already."""
        if type(node) is not Unusable:
            self.problems.add(self.place(node), path, what)

    def table(self, node: Node, path: str, expected: str) -> Table | None:
        """Return the node as a mapping; None if it is none (noted)."""
        if type(node) is Table:
            return node
        self.wrong(node, path, f"expected {expected}, got {kind_words(node)}")
        return None

    def series(self, node: Node, path: str, expected: str) -> Series | None:
        """Return the node as a list with at least one item; None if it is none (noted)."""
        if type(node) is Series and node.items:
            return node
        got = "an empty list" if type(node) is Series else kind_words(node)
        self.wrong(node, path, f"expected {expected}, got {got}")
        return None

    def text(self, node: Node, path: str, expected: str) -> str | None:
        """Return the node as text that is not empty; None if it is none (noted)."""
        if type(node) is Scalar and node.text:
            return node.text
        if type(node) is Scalar:
            self.wrong(node, path, f"has no value; expected {expected}")
        else:
            self.wrong(node, path, f"expected {expected}, got {kind_words(node)}")
        return None

    def keys(
        self,
        table: Table,
        path: str,
        known: Collection[str],
        elsewhere: Collection[str] = (),
        inner: Mapping[str, str] = _NOWHERE,
    ) -> None:
        """Note each key that is not known: it is a secret, belongs to another file (`elsewhere`), or is misspelt.

        `inner`: a key that stands further inside → the line to write.
        """
        for name, entry in table.entries.items():
            if name in known:
                continue
            at = self.place(entry.key)
            here = f"{path}.{shown_key(name)}" if path else shown_key(name)
            if name.lower() in _SECRETS:
                what = (
                    "secrets never stand in this file, where backups and version control keep them; remove it. "
                    "New passwords come through `passwords:` {command|file|env}, keys through the environment "
                    "or a tccli profile"
                )
            elif name in elsewhere:
                what = f"`{name}` belongs to a job, and is never taken from a config; write it in the job file"
            elif (meant := names.nearest(name, (*known, *inner))) is not None and meant in inner:
                what = f"unknown key here; write {inner[meant]}"
            else:
                hint = f"; did you mean {meant}?" if meant is not None else f"; known are {', '.join(sorted(known))}"
                what = f"unknown key{hint}"
            self.problems.add(at, here, what)

    def value(self, node: Node, kind: Any, path: str) -> Any:
        """Return the value of a single-valued key as the engine uses it; None if it is wrong (noted)."""
        how = rule(kind)
        if "each" in how:
            return self._several(node, how, path)
        text = self.text(node, path, how["words"])
        if text is None:
            return None
        try:
            return convert(text, kind)
        except ValueError as exc:
            said = str(exc)
            self.wrong(node, path, f"{said}, got {names.shown(text)}" if said.startswith("expected") else said)
            return None

    def _several(self, node: Node, how: Mapping[str, Any], path: str) -> Any:
        """Return the values of a key that takes one or a list of them; None if one is wrong (noted)."""
        if type(node) is Series:
            items = self.series(node, path, how["words"])
            each = [
                self.value(item, how["each"], f"{path}[{at}]") for at, item in enumerate(items.items if items else ())
            ]
        else:
            each = [self.value(node, how["each"], path)]
        if not each or None in each:
            return None
        try:
            return how["together"](each)
        except ValueError as exc:
            self.wrong(node, path, str(exc))
            return None

    def values(
        self, table: Table, model: type[Struct], path: str = "", skip: Collection[str] = ()
    ) -> tuple[dict[str, Any], dict[str, Place]]:
        """Return inner name → value, and inner name → place, of a mapping's single-valued keys, nested ones too."""
        found: dict[str, Any] = {}
        places: dict[str, Place] = {}
        for name, kind in kinds(model).items():
            entry = table.entries.get(name)
            if entry is None or name in skip:
                continue
            here = f"{path}.{name}" if path else name
            if isinstance(kind, type) and issubclass(kind, Struct):
                nested = self.table(entry.value, here, f"a mapping of {', '.join(kinds(kind))}")
                if nested is not None:
                    self.keys(nested, here, kinds(kind))
                    inner, inner_places = self.values(nested, kind, here)
                    found |= inner
                    places |= inner_places
                continue
            value = self.value(entry.value, kind, here)
            if value is not None:
                inside = rule(kind)["attribute"] or name
                found[inside] = value
                places[inside] = self.place(entry.value)
        return found, places

    def command(self, node: Node, path: str) -> tuple[str, ...]:
        """Return a program and its arguments; empty if it is none (noted)."""
        items = self.series(node, path, "a list: program and arguments")
        parts = [self.text(item, f"{path}[{index}]", "text") for index, item in enumerate(items.items if items else ())]
        return tuple(part for part in parts if part is not None) if None not in parts else ()

    def globs(self, node: Node, path: str, *, fold: bool) -> tuple[Glob, ...]:
        """Return a list of `instance/user` globs, without those that are wrong (noted)."""
        items = self.series(node, path, 'a list of globs such as "*/breakglass_*"')
        if items is None:
            return ()
        found = []
        for index, item in enumerate(items.items):
            here = f"{path}[{index}]"
            text = self.text(item, here, 'a glob such as "*/breakglass_*"')
            if text is None:
                continue
            if (problem := glob_problem(text, fold=fold)) is not None:
                self.wrong(item, here, problem)
            else:
                found.append(Glob(text, self.place(item), fold))
        return tuple(found)


def kind_words(node: Node) -> str:
    """Return what a node is, in words for a message."""
    return _KINDS.get(type(node), "nothing usable")


def convert(text: str, kind: Any) -> Any:
    """Return one written value as the engine uses it; ValueError with words if the key's type refuses it."""
    how = rule(kind)
    if "each" in how:  # one of a flag's values: the flag is repeated for more
        return convert(text, how["each"])
    if how["reader"] is not None:
        return how["reader"](text)
    if any(not re.fullmatch(pattern, text) for pattern in _patterns(kind)):
        raise ValueError(f"expected {how['words']}")
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        raise ValueError(f"expected {how['words']}") from None


def _patterns(kind: Any) -> list[str]:
    """Return the patterns that a text of this type must match."""
    found = ((meta.extra_json_schema or {}).get("pattern") for meta in _metas(kind))
    return [pattern for pattern in found if pattern is not None]


def _whole_glob(half: str) -> str:
    """Return words that say how to complete a glob of one half."""
    if "/" in half:
        return "it has one slash"
    if half.lower().startswith(("postgres-", "pgro-")) or ("-" in half and re.search("[0-9]", half)):
        return f'for every account of it write "{half}/*"'
    return f'for every instance write "*/{half or "user"}"'


def glob_problem(text: str, *, fold: bool = False) -> str | None:
    """Return why `text` is not a glob that can match, in words; None if it is one.

    A guard that never matches is worse than none, so a glob that no legal instance id or account name matches is wrong.
    """
    if text.count("/") != 1 or text.startswith("/") or text.endswith("/"):
        return f"{names.shown(text)} is not instance/user; {_whole_glob(text.strip('/'))}"
    instance, user = text.split("/")
    for part, kind, signs in ((instance, "instance id", ""), (user, "account name", ".$+#\u00aa-\uffff")):
        if odd := re.sub(rf"[A-Za-z0-9_\-*?\[\]!{signs}]", "", part)[:1]:
            what = f"{names.shown(text)} can never match: {odd!r} occurs in no {kind}"
            return f"{what}; globs know * ? [abc] [!abc]"
    for part, grammar in zip((instance, user), (globs.INSTANCE, globs.USER), strict=True):
        if (why := globs.why_never(part, grammar, fold=fold)) is not None:
            return f"{names.shown(text)} can never match: in {names.shown(part)}, {why}; globs know * ? [abc] [!abc]"
    return None
