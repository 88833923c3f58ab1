"""The question before anything is sent, and its answer: an approval."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TextIO

from engine.cli.talk import say
from engine.errors import RefusedError
from engine.operations.proposal import Approval
from engine.outside.foreign import clean_lines
from engine.report.screen import Screen

TYPE_FROM = 10
"""From so many targets on the number itself must be typed; below, `y` will do, too."""


def confirm(text: str, count: int, *, also: int | None = None, yes: bool, stdin_is_list: bool = False) -> Approval:
    """Ask on the terminal; RefusedError without a yes. `--yes` answers for a person who is not there.

    `also`: a second number that stands in the plan, and is taken as well: how many accounts change.
    """
    if yes:
        return Approval(how="--yes", terminal=_terminal(sys.stdin))
    terminal = _open_terminal(stdin_is_list=stdin_is_list)
    if terminal is None:
        raise RefusedError(f"{text}: nobody is there to confirm it (no terminal); nothing was sent; repeat with --yes")
    _show(f"{text}.\n" + (f"Type {count} to go on: " if count >= TYPE_FROM else "Go on? [y/N] "))
    try:
        answer = terminal.readline().strip()
    except (OSError, ValueError):  # the terminal went away, or sent what is no text
        answer = ""
    name = _terminal(terminal)
    if terminal is not sys.stdin:
        terminal.close()
    is_number = answer.replace(",", "") in (str(count), str(also))
    agreed = is_number or (count < TYPE_FROM and answer.lower() in ("y", "yes"))
    if not agreed:
        wanted = f"the number {count}" if count >= TYPE_FROM else f"y or {count}"
        raise RefusedError(f"not confirmed ({wanted} was asked for); nothing was sent")
    return Approval(how=answer, terminal=name)


def can_ask(*, stdin_is_list: bool = False) -> bool:
    """Whether a person is there to be asked."""
    terminal = _open_terminal(stdin_is_list=stdin_is_list)
    if terminal is not None and terminal is not sys.stdin:
        terminal.close()
    return terminal is not None


def _show(question: str) -> None:
    """Put the question where the person is, also when stderr goes to a file."""
    question = clean_lines(question)
    if say.size is not None:  # a terminal breaks a line anywhere
        *lines, last = question.split("\n")
        question = "\n".join([*(part for line in lines for part in Screen(*say.size).fold(line)), last])
    try:
        if say.isatty():
            sys.stderr.write(question)
            sys.stderr.flush()
        else:
            with Path("/dev/tty").open("w", encoding="utf-8") as terminal:
                terminal.write(question)
    except OSError:
        say(question)


def _open_terminal(*, stdin_is_list: bool) -> TextIO | None:
    if not stdin_is_list and sys.stdin is not None and sys.stdin.isatty():
        return sys.stdin
    if not stdin_is_list:
        return None
    try:
        return open("/dev/tty", encoding="utf-8")  # noqa: PTH123 - closed by the caller
    except OSError:
        return None


def _terminal(stream: TextIO | None) -> str | None:
    try:
        return os.ttyname(stream.fileno()) if stream is not None else None
    except (OSError, ValueError):
        return None
