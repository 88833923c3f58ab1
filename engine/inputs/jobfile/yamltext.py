"""YAML text → a plain tree in which every value has its place. No I/O, no types.

Built on PyYAML's event stream, not on its loaders: the C loader recurses and crashes on 200 kB of `[`, loaders accept
duplicate keys without a word, and YAML 1.1 reads `user: no` as False and `012` as 10. Here every scalar stays the text
that was written; the reader of a key decides what its text means.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml
from msgspec import Struct
from yaml.reader import Reader

from engine.inputs.jobfile.nodes import Entry, Node, Scalar, Series, Table, Unusable, shown_key
from engine.model import Place

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.inputs.jobfile.problems import Problems

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C loader; PyYAML without libyaml works too, five times slower."""

MOST_DEPTH = 32
"""Levels of nesting, at most; a job file needs four."""

_QUOTES = ('"', "'")
_HIDDEN_BREAK = re.compile("[\x85\u2028\u2029]")
"""Line breaks of YAML that no editor shows (NEL, LS, PS): text after one could look like a part of a comment."""


_ODD = "\xa0\xad\u1680\u180e\u2000-\u200f\u202a-\u202f\u205f-\u2064\u2066-\u2069\u3000\ufeff"
_ODD_BLANKS = re.compile(f"[{_ODD}]+")
"""Blanks and invisible characters of other kinds than YAML takes."""
_KEY_BEFORE = re.compile(r"[ \t-]*[\w.-]+ ?: ?").fullmatch
_MOST_BEFORE = 200
"""Characters of a line that are looked at before an odd blank."""


def _odd_blank(text: str, file: str) -> tuple[Place, str] | None:
    """Return the place of the first odd blank that may spoil the structure, and the words for it; None: there is none.

    It is no problem by itself: a text for people may have them.
    """
    if text.isascii():
        return None
    found = next((each for each in _ODD_BLANKS.finditer(text) if _is_structural(text, *each.span())), None)
    if found is None:
        return None
    from unicodedata import name  # here: hardly a file has one

    at = found.start()
    place = Place(file, text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
    char, count = text[at], text.count(text[at])
    many = f"; there are {count:,} in the file" if count > 1 else ""
    return place, f"U+{ord(char):04X} ({name(char, 'no name').lower()}) stands here, which is no blank of YAML{many}"


def _is_structural(text: str, at: int, end: int) -> bool:
    """Return whether what stands at `at` is where a line begins or ends, or beside a key or a bracket."""
    least = max(0, at - _MOST_BEFORE)
    before = text[max(least, text.rfind("\n", least, at) + 1) : at]
    if "#" in before:
        return False
    after = text[end : end + 8].lstrip(" \t")[:1]
    in_flow = "{" in before or "[" in before
    return (
        not before.strip(" \t?-")
        or after in ("", "\r", "\n", ":")
        or _KEY_BEFORE(before) is not None
        or (in_flow and before.rstrip(" ")[-1:] in ("{", "[", ",", ":"))
    )


def _unprintable(text: str) -> re.Match[str] | None:
    """Return the first character that is not allowed in a file, nor by an escape; None if there is none."""
    # PyYAML's own pattern, as it is compiled already: that saves three milliseconds of every start.
    found: re.Match[str] | None = Reader.NON_PRINTABLE.search(text) or _HIDDEN_BREAK.search(text)
    return found


_HINTS = (
    ("while scanning an alias", 'a value that begins with * must be quoted, such as "*/root"'),
    ("cannot start any token", "put the value in quotes"),
    ("mapping values are not allowed", "a value that holds `: ` must be quoted; otherwise check the indentation"),
    ("", "check the indentation, the quotes and the brackets around here"),
)


def decode(data: bytes, file: str, problems: Problems) -> str | None:
    """Return the bytes of a file as text without byte order mark; None if they are no UTF-8 text (noted)."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        problems.add(Place(file), "", "is UTF-16 text; save it as UTF-8")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        column = exc.start - data.rfind(b"\n", 0, exc.start)
        what = f"byte 0x{data[exc.start]:02x} is not UTF-8; save the file as UTF-8 text"
        problems.add(Place(file, line, column), "", what)
        return None
    odd = _unprintable(text)
    if odd is not None and odd.group() == "\0":
        problems.add(Place(file), "", "is not text: it holds NUL bytes; give a YAML file")
        return None
    if odd is not None:
        line = text.count("\n", 0, odd.start()) + 1
        column = odd.start() - text.rfind("\n", 0, odd.start())
        what = f"character U+{ord(odd.group()):04X} is not allowed in YAML text; remove it"
        problems.add(Place(file, line, column), "", what)
        return None
    problems.suspect = problems.suspect or _odd_blank(text, file)
    return text


def read_tree(text: str, file: str, problems: Problems) -> Node | None:
    """Return the one document of `text`; None if it holds only comments, or if its syntax is broken (noted)."""
    builder = _Builder(file, problems)
    try:
        _feed(builder, text)
    except _TooDeepError:
        return None
    except yaml.YAMLError as exc:
        place, suspect = _mark(file, exc), problems.suspect
        if suspect is not None and suspect[0].file == file and suspect[0].line <= place.line:
            problems.suspect = None
            problems.add(suspect[0], "", f"not valid YAML: {suspect[1]}")
        else:
            problems.add(place, "", _words(exc, text, builder.quoted))
        return None
    except (ValueError, OverflowError):
        # Only PyYAML without libyaml: it gives an escape such as "\U00110000" to chr() unchecked.
        problems.add(Place(file), "", "holds an escape sequence that is no character; remove it")
        return None
    return builder.root


def _feed(builder: _Builder, text: str) -> None:
    try:
        # `Any`: PyYAML's stubs leave the loader of parse() open; a str is encoded inside.
        builder.feed(yaml.parse(text, Loader=Loader))
    except yaml.MarkedYAMLError as exc:
        # libyaml's scanner reads ahead, and since PyYAML 6.0.4 stops at a depth limit of its own. The text up to there
        # is too deep for us, too: reading it once more notes the problem in our words, with its place.
        if exc.problem_mark is None or "nesting depth" not in str(exc.problem):
            raise
        builder.feed(yaml.parse(text[: exc.problem_mark.index], Loader=Loader))


class _Frame(Struct, gc=False):
    """A container that is still open; of a table also the key that waits for its value."""

    node: Series | Table
    key: Scalar | Unusable | None = None


class _TooDeepError(Exception):
    """Nesting beyond MOST_DEPTH, which is noted already; it ends the reading."""


class _Builder:
    """A builder of the tree from events. It never recurses: the depth is the length of a list."""

    def __init__(self, file: str, problems: Problems) -> None:
        self.root: Node | None = None
        self.quoted: yaml.ScalarEvent | None = None
        """The last quoted text that goes over several lines."""
        self._file = file
        self._problems = problems
        self._open: list[_Frame] = []
        self._documents = 0

    def feed(self, events: Iterable[yaml.Event]) -> None:
        for event in events:
            if isinstance(event, yaml.ScalarEvent):
                self._check(event)
                if event.style is not None and event.style in _QUOTES:
                    self._check_quoted(event)
                self._put(Scalar(event.value, *_at(event)))
            elif isinstance(event, yaml.MappingStartEvent):
                self._check(event)
                self._begin(Table({}, *_at(event)))
            elif isinstance(event, yaml.SequenceStartEvent):
                self._check(event)
                self._begin(Series([], *_at(event)))
            elif isinstance(event, yaml.CollectionEndEvent):
                self._open.pop()
            elif isinstance(event, yaml.AliasEvent):
                self._refuse(event, "aliases (*name) are not used here; write the value out, or quote it")
                self._put(Unusable(*_at(event)))
            elif isinstance(event, yaml.DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    self._refuse(event, "a second document (---) begins here; one file holds one document")
                    return

    def _check(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.anchor is not None:
            self._refuse(event, f"anchors (&{event.anchor}) are not used here; remove it")
        if event.tag is not None:
            self._refuse(event, f"tags ({event.tag}) are not used here; remove it")

    def _check_quoted(self, event: yaml.ScalarEvent) -> None:
        if event.style == '"' and (odd := _unprintable(event.value)) is not None:
            self._refuse(event, f"the escape for U+{ord(odd.group()):04X} is not allowed; remove it")
        if event.start_mark is not None and event.end_mark is not None and event.end_mark.line > event.start_mark.line:
            self.quoted = event

    def _refuse(self, event: yaml.Event, what: str) -> None:
        self._problems.add(Place(self._file, *_at(event)), "", what)

    def _begin(self, node: Series | Table) -> None:
        self._put(node)
        self._open.append(_Frame(node))
        if len(self._open) > MOST_DEPTH:
            what = f"nested deeper than {MOST_DEPTH} levels; a job file needs four"
            self._problems.add(Place(self._file, node.line, node.column), "", what)
            raise _TooDeepError

    def _put(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        frame = self._open[-1]
        if type(frame.node) is Series:
            frame.node.items.append(node)
        elif frame.key is None:
            frame.key = self._key(node)
        else:
            self._set(frame.node, frame.key, node)
            frame.key = None

    def _key(self, node: Node) -> Scalar | Unusable:
        """Return a usable key as it is, else Unusable, so that its value is read and dropped."""
        place = Place(self._file, node.line, node.column)
        if not isinstance(node, Scalar):
            if not isinstance(node, Unusable):
                self._problems.add(place, "", "a key must be plain text, not a list or a mapping")
            return Unusable(node.line, node.column)
        if node.text == "<<":
            self._problems.add(place, "", "merge keys (<<) are not used here; write the keys out")
            return Unusable(node.line, node.column)
        return node

    def _set(self, table: Series | Table, key: Scalar | Unusable, value: Node) -> None:
        if isinstance(key, Unusable) or not isinstance(table, Table):
            return
        first = table.entries.get(key.text)
        if first is None:
            table.entries[key.text] = Entry(key, value)
            return
        what = f"is given twice, first at {first.key.line}:{first.key.column}; keep one"
        self._problems.add(Place(self._file, key.line, key.column), shown_key(key.text), what)


def _at(event: yaml.Event) -> tuple[int, int]:
    """Return line and column of an event, from 1; PyYAML counts from 0."""
    mark = event.start_mark
    assert mark is not None, "events of a parser have marks"
    return mark.line + 1, mark.column + 1


def _mark(file: str, exc: yaml.YAMLError) -> Place:
    mark = getattr(exc, "problem_mark", None) or getattr(exc, "context_mark", None)
    if _never_closed(exc):
        mark = getattr(exc, "context_mark", None) or mark
    return Place(file) if mark is None else Place(file, mark.line + 1, mark.column + 1)


def _never_closed(exc: yaml.YAMLError) -> bool:
    """Return whether a quote was still open where the text ended."""
    return getattr(exc, "context", None) == "while scanning a quoted scalar" and "unexpected" in str(
        getattr(exc, "problem", "")
    )


def _words(exc: yaml.YAMLError, text: str, quoted: yaml.ScalarEvent | None) -> str:
    """Return what is wrong; `quoted` is the last quoted text over several lines, which may have ended too late."""
    context, problem = getattr(exc, "context", None), getattr(exc, "problem", None)
    said = ", ".join(part for part in (context, problem) if part)
    mark, begun = getattr(exc, "problem_mark", None), getattr(exc, "context_mark", None)
    if _never_closed(exc):
        return f"not valid YAML ({problem}); the quote that opens here is never closed"
    if mark is not None and text[mark.index : mark.index + 1] == "\t":
        return f"not valid YAML ({said}); indent with spaces, not tabs"
    hint = next(hint for sign, hint in _HINTS if sign in said)
    if begun is not None and mark is not None and "flow" in str(context) and begun.line < mark.line:
        hint = f"the bracket that opens at {begun.line + 1}:{begun.column + 1} is not closed before this; {hint}"
    if quoted is not None and quoted.end_mark is not None and mark is not None and quoted.end_mark.line == mark.line:
        line, column = _at(quoted)
        hint = f"a quote that opens at {line}:{column} closes here: is one missing there?"
    return f"not valid YAML ({said or 'unreadable'}); {hint}"


def argument_spans(text: str) -> list[tuple[int, int]]:
    """Return where the arguments of each `command` list stand: where each begins and ends; its program is none.

    Of a text that is no YAML: of what stands before the mistake.
    """
    spans: list[tuple[int, int]] = []
    is_command, inside, count = False, 0, 0
    try:
        for event in yaml.parse(text, Loader=Loader):
            is_list = isinstance(event, yaml.SequenceStartEvent)
            if inside:
                inside += is_list - isinstance(event, yaml.SequenceEndEvent)
                if isinstance(event, yaml.ScalarEvent):
                    count += 1
                    if count > 1 and event.start_mark is not None and event.end_mark is not None:
                        spans.append((event.start_mark.index, event.end_mark.index))
            elif is_command and is_list:
                inside, count = 1, 0
            is_command = isinstance(event, yaml.ScalarEvent) and event.value == "command"
    except (yaml.YAMLError, ValueError):
        return spans
    return spans
