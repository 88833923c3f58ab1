"""`yamltext`: YAML text to a tree with places; whatever the text, the answer is a tree or named problems."""

from __future__ import annotations

import json
import time

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.errors import JobError
from engine.inputs.jobfile import yamltext
from engine.inputs.jobfile.parse import parse_job
from engine.inputs.jobfile.problems import MOST, Problems
from engine.inputs.jobfile.yamltext import Scalar, Series, Table, Unusable, decode, read_tree


def plain(node):
    """A tree without places."""
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, Series):
        return [plain(item) for item in node.items]
    assert isinstance(node, Table)
    return {key: plain(entry.value) for key, entry in node.entries.items()}


def read(text, file="j.yaml"):
    problems = Problems()
    if isinstance(text, bytes):
        text = decode(text, file, problems)
    node = read_tree(text, file, problems) if text is not None else None
    return node, problems.lines()


def test_scalars_stay_as_written():
    """YAML 1.1's guesses (no → False, 012 → 10, 12:30 → seconds) are not made."""
    node, problems = read("a: no\nb: 012\nc: 1_000\nd: 12:30:00\ne: ~\nf:\ng: 'x y'\nh: 2026-01-01\n")
    assert problems == []
    assert plain(node) == {
        "a": "no", "b": "012", "c": "1_000", "d": "12:30:00", "e": "~", "f": "", "g": "x y", "h": "2026-01-01",
    }  # fmt: skip


def test_every_value_knows_its_place():
    """Lines and columns count from 1, in characters, not bytes."""
    node, _ = read("é: ü\nlist:\n  - {k: v}\n")
    assert node.entries["é"].value == Scalar("ü", 1, 4)
    assert node.entries["list"].key == Scalar("list", 2, 1)
    inner = node.entries["list"].value
    assert (inner.line, inner.column) == (3, 3)
    assert inner.items[0].entries["k"].value == Scalar("v", 3, 9)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a: 1\nb: {c: 1, c: 2}\na: 2\n", ["j.yaml:2:11: c: is given twice, first at 2:5; keep one",
                                           "j.yaml:3:1: a: is given twice, first at 1:1; keep one"]),
        ("a: &x 1\nb: *x\n", ["j.yaml:1:4: anchors (&x) are not used here; remove it",
                              "j.yaml:2:4: aliases (*name) are not used here; write the value out, or quote it"]),
        ("a: {<<: {b: 1}}\n", ["j.yaml:1:5: merge keys (<<) are not used here; write the keys out"]),
        ("a: !!int 1\nb: !x []\nc: !y {}\n", ["j.yaml:1:4: tags (tag:yaml.org,2002:int) are not used here; remove it",
                                             "j.yaml:2:4: tags (!x) are not used here; remove it",
                                             "j.yaml:3:4: tags (!y) are not used here; remove it"]),
        ("? [a]\n: 1\n", ["j.yaml:1:3: a key must be plain text, not a list or a mapping"]),
        ("? {a: b}\n: [1]\n", ["j.yaml:1:3: a key must be plain text, not a list or a mapping"]),
        ("a: 1\n---\nb: 2\n", ["j.yaml:2:1: a second document (---) begins here; one file holds one document"]),
        ("x: &y 1\n*y : 2\n", ["j.yaml:1:4: anchors (&y) are not used here; remove it",
                              "j.yaml:2:1: aliases (*name) are not used here; write the value out, or quote it"]),
        ('"\\n": 1\n"\\n": 2\n', ["j.yaml:2:1: '\\n': is given twice, first at 1:1; keep one"]),
    ],
)  # fmt: skip
def test_what_is_refused_is_named_and_reading_goes_on(text, wanted):
    """Duplicate keys, aliases, merges, tags, odd keys, further documents: each with its place, in one go."""
    node, problems = read(text)
    assert problems == wanted
    assert isinstance(node, Table)


def test_an_alias_leaves_an_unusable_node():
    """What stood for an alias is passed over by readers, so that one mistake is one problem."""
    node, _ = read("a: [*b]\n")
    assert node.entries["a"].value.items == [Unusable(1, 5)]


@pytest.mark.parametrize(
    ("text", "place", "hint"),
    [
        ("exclude:\n  - */root\n", "2:6", '"*/root"'),
        ("a:\n\t- b\n", "2:1", "spaces, not tabs"),
        ("a: @b\n", "1:4", "put the value in quotes"),
        ("a: b: c\n", "1:5", "must be quoted"),
        ("a: [1, 2\n", "2:1", "brackets"),
        ("a: 'x\n", "1:4", "the quote that opens here"),
        ("a: 1\n b: 2\n", "2:3", "indentation"),
    ],
)
def test_broken_syntax_has_a_place_and_a_hint(text, place, hint):
    """The likeliest slips are answered with what to do."""
    node, problems = read(text)
    assert node is None
    assert problems[0].startswith(f"j.yaml:{place}: not valid YAML (")
    assert hint in problems[0]


@pytest.mark.parametrize("escape", ["\\0", "\\e[31m", "\\x7f", "\\N"])
def test_escapes_cannot_bring_in_what_the_text_may_not_hold(escape):
    """A reason is printed on terminals."""
    _, problems = read(f'a: "x{escape}"')
    assert len(problems) == 1
    assert "the escape for U+" in problems[0]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n...\n"])
def test_nothing_is_no_problem(text):
    """An empty document is for the caller to judge."""
    node, problems = read(text)
    assert problems == []
    assert node is None or node == Scalar("", node.line, node.column)


@pytest.mark.parametrize("text", ["[" * 200_000, "{a: " * 50_000, "- " * 100_000, "[{" * 100_000])
def test_deep_nesting_is_an_error_and_no_crash(text):
    """200 kB of `[` kill PyYAML's C loader; here it is one problem, at once."""
    start = time.perf_counter()
    node, problems = read(text)
    assert node is None
    assert len(problems) < 20
    assert "nested deeper than 32" in "".join(problems)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("a: 1".encode("utf-16"), "j.yaml: is UTF-16 text; save it as UTF-8"),
        ("a: 1".encode("utf-16-be"), "j.yaml: is not text: it holds NUL bytes; give a YAML file"),
        (b"\xfe\xff\0a", "j.yaml: is UTF-16 text; save it as UTF-8"),
        (b"a\nb: \xff", "j.yaml:2:4: byte 0xff is not UTF-8; save the file as UTF-8 text"),
        (b"a: \0", "j.yaml: is not text: it holds NUL bytes; give a YAML file"),
        (b"a: 1\n  \x1b[31m", "j.yaml:2:3: character U+001B is not allowed in YAML text; remove it"),
        ("# x\x85targets: []".encode(), "j.yaml:1:4: character U+0085 is not allowed in YAML text; remove it"),
        ("# x\u2028y: 1".encode(), "j.yaml:1:4: character U+2028 is not allowed in YAML text; remove it"),
    ],
)
def test_what_is_no_text_is_said_so(data, wanted):
    """UTF-16, binary, stray bytes, and line breaks no editor shows."""
    node, problems = read(data)
    assert node is None
    assert problems == [wanted]


def test_a_byte_order_mark_and_crlf_are_fine():
    """Files saved by editors on Windows."""
    node, problems = read(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert problems == []
    assert plain(node) == {"a": "1", "b": "2"}
    assert node.entries["b"].key == Scalar("b", 2, 1)


def test_at_most_fifty_problems_are_shown():
    """The rest are counted."""
    _, problems = read("".join("a: 1\n" for _ in range(101)))
    assert len(problems) == MOST + 1
    assert problems[-1] == "… and 50 more; correct these 50 and look again"


@given(st.binary(max_size=300))
@example(b"\xef\xbb\xbf\xef\xbb\xbf")
@example(b"%YAML 3.0\n---\na")
@example(b'"\\ud800"')
@settings(deadline=None)
def test_random_bytes_never_raise(data):
    """Whatever the bytes: a tree, or problems, or nothing."""
    read(data)


_yamlish = st.text(alphabet=st.sampled_from(list(" \n\t-:?[]{}&*!|>'\"%@`#,aé\\~<.0x")), max_size=80)


@given(_yamlish)
@settings(deadline=None, max_examples=300)
@pytest.mark.parametrize("loader", [yamltext.Loader, yaml.SafeLoader])
def test_random_yaml_never_raises(loader, text):
    """YAML's own signs in any order, with libyaml and without."""
    kept, yamltext.Loader = yamltext.Loader, loader
    try:
        read(text)
    finally:
        yamltext.Loader = kept


@pytest.mark.parametrize("text", ['a: "\\UFFFFFFFF"', 'a: "\\ud800"', "a: [*b]\n", "[" * 100_000, "a: @"])
def test_without_libyaml_the_answers_are_problems_too(text, monkeypatch):
    """PyYAML without its C part takes other paths: an escape that is no character is a problem as well."""
    monkeypatch.setattr(yamltext, "Loader", yaml.SafeLoader)
    _, problems = read(text)
    assert len(problems) == 1


_texts = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12)
_trees = st.recursive(
    _texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_texts.filter(lambda key: key != "<<"), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(_trees)
@settings(deadline=None)
def test_trees_come_back_as_they_were_written(tree):
    """JSON is YAML: what is written with quotes is read as the same tree of texts."""
    text = json.dumps(tree, ensure_ascii=False)
    problems = Problems()
    decoded = decode(text.encode(), "j.yaml", problems)
    if decoded is None:
        return  # a character YAML does not have
    node = read_tree(decoded, "j.yaml", problems)
    assert problems.lines() == []
    assert plain(node) == tree


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a:\n\u00a0\u00a0- x\nb: 1\n", "2:1"),
        ("a:\u00a0x\nb:\n  - c\n", "1:3"),
        ("a:\n  -\u00a0x\nb: [\n", "2:4"),
        ("a: 1\n\u00a0\nb: 2\n", "2:1"),
        ("# \u00a0 is fine here\na: {b: 1,\u00a0c: 2\n", "2:10"),
        ("who: M\u00fcller\u00a0und Co\na:\u3000x\nb: 1\n", "2:3"),
    ],
)
def test_an_odd_blank_is_named_where_it_stands(text, place):
    """A no-break space from a chat looks like a blank: YAML's own words named a place past the end of the file."""
    problems = Problems()
    decoded = decode(text.encode(), "j", problems)
    read_tree(decoded, "j", problems)
    line = problems.lines()[0]
    name = "U+3000 (ideographic space)" if "\u3000" in text else "U+00A0 (no-break space)"
    assert line.startswith(f"j:{place}: not valid YAML: {name}")


def test_an_odd_blank_that_is_not_at_fault_is_not_named():
    """A French reason has one before its colon, and the mistake is elsewhere."""
    problems = Problems()
    decoded = decode("reason: fuite\u00a0!\na: [\n".encode(), "j", problems)
    read_tree(decoded, "j", problems)
    assert "U+00A0" not in "".join(problems.lines()) and problems.count == 1


def test_an_odd_blank_that_is_valid_yaml_is_named_beside_what_it_breaks():
    """`unknown key` with a name that looks right: nobody sees the blank in it."""
    with pytest.raises(JobError) as caught:
        text = "action: LockAccount\nregion: ap-tokyo\ntargets:\n  - instance: a-1\n\u00a0\u00a0\u00a0\u00a0user: b\n"
        parse_job(text.encode(), file="j", read=None)
    assert any(line.startswith("j:5:1: U+00A0 (no-break space)") for line in caught.value.problems)


def test_many_odd_blanks_take_no_long_time():
    """One line of a million of them is a mistake, and no reason to hang."""
    problems = Problems()
    decode(("reason: [" + "x,\u00a0y" * 300_000 + "\n").encode(), "j", problems)
    decode(("reason: " + "x\u00a0y" * 300_000 + "\n").encode(), "j", problems)
    assert problems.count == 0
