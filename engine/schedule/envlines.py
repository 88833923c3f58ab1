"""Finds how the program that starts a job reads its file of keys: cron's shell, systemd or kubectl.

The three readers have three grammars. One may silently drop a line that another takes, and the job then starts without
keys. So `read_as` names each line that the given reader takes otherwise than it looks. No message holds a value: it is
a key.

Sources: POSIX sh 2.2 and 2.3; systemd.exec(5) EnvironmentFile=; kubectl's `--from-env-file`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

READERS = {"cron": "cron's shell", "systemd": "systemd", "k8s": "kubectl", "compose": "docker compose"}
"""Format of a schedule → the program that reads the file."""
_BOM = "\ufeff"
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_EXPORT = re.compile(r"export[ \t]+")
_SHELL = re.compile(r"[;&|<>()*?\[\]~]")


class EnvLines(NamedTuple):
    """How a reader takes a file."""

    names: frozenset[str]
    """The variables that the reader sets."""
    problems: tuple[tuple[int, str], ...]
    """Line number, and in words what the reader takes otherwise than it looks."""


def read_as(form: str, data: bytes) -> EnvLines:
    """Return how the reader for the format `form` takes a file."""
    form = "k8s" if form == "compose" else form  # with `format: raw` it takes values as they are, too
    names: set[str] = set()
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), start=1):
        is_marked = line.startswith(_BOM)
        text = line.removeprefix(_BOM)
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        if is_marked and form != "k8s":
            words = "begins with a byte order mark, so its first line counts for nothing; save it as plain UTF-8"
            problems.append((number, words))
            continue
        name, words_ = _read(form, text)
        problems += [(number, each) for each in words_]
        if name:
            names.add(name)
    return EnvLines(frozenset(names), tuple(problems))


def _read(form: str, line: str) -> tuple[str, list[str]]:
    """Return the variable that a line sets ("" if none), and in words what is odd about the line."""
    text = line.strip(" \t\r")
    is_exported = _EXPORT.match(text) is not None
    text = _EXPORT.sub("", text, count=1)
    left, equals, right = text.partition("=")
    name = left.strip()
    if not equals or not _NAME.fullmatch(name):
        return "", ["is not NAME=value, and counts for nothing"]
    if is_exported and form != "cron":
        return "", [f"`export` is not taken, so {name} is not set; write {name}=… alone"]
    if left != name and form != "systemd":
        return "", [f"a space before the `=`: {name} is not set; write {name}=…"]
    value = right.strip()
    if right[:1].isspace() and value and form != "systemd":
        what = f"{name} is not set" if form == "cron" else f"{name} begins with it"
        return ("" if form == "cron" else name), [f"a space after the `=`: {what}; write {name}=…"]
    problems = _of_shell(name, value) if form == "cron" else _of_others(form, name, value)
    if form == "cron" and line.endswith("\r"):
        problems.append(f"ends with a carriage return, which {name} gets, too; save it with line ends of Unix")
    if form == "k8s" and line.rstrip("\r") != line.rstrip("\r").rstrip():
        problems.append(f"ends with a space, which {name} gets, too; remove it")
    return name, problems


def _of_shell(name: str, value: str) -> list[str]:
    bare, open_quote = _unquoted(value)
    if open_quote:
        return [f"the quote is not closed: {name} takes in what follows"]
    problems = []
    words = re.sub(r"\s#.*", "", bare).strip()
    if re.search(r"\s", words):
        problems.append(f"a space in the value: what follows it is started as a command; write {name}='…'")
    if "$" in _expanded(value) or "`" in _expanded(value) or "\\" in bare or _SHELL.search(words):
        problems.append(f"a sign in the value means something to the shell; write {name}='…'")
    return problems


def _of_others(form: str, name: str, value: str) -> list[str]:
    problems = []
    bare, open_quote = _unquoted(value)
    if form == "k8s" and value[:1] in ("'", '"'):
        problems.append(f"the quotes become part of {name}; remove them")
    elif form == "systemd" and open_quote:
        problems.append(f"the quote is not closed: {name} takes in what follows")
    if re.search(r"\s#", bare):
        problems.append(f"what follows the `#` becomes part of {name}; put the note on a line of its own")
    if form == "systemd" and "\\" in bare:
        problems.append(f"a backslash in the value is taken out; write {name}='…'")
    return problems


def _unquoted(value: str) -> tuple[str, bool]:
    """Return the part of a value outside of quotes, and whether a quote is not closed."""
    found, quote = [], ""
    for sign in value:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        else:
            found.append(sign)
    return "".join(found), bool(quote)


def _expanded(value: str) -> str:
    """Return the part of a value outside of single quotes, where the shell fills in variables."""
    return re.sub("'[^']*'", "", value)
