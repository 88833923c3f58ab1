"""New passwords for CloseAccountCAM, asked for one call at a time. No text that this module makes holds a password.

A password is never in a job file, a flag or the journal. It comes from a program, from a file that only its owner can
read, or from an environment variable. It is used once and not kept.
"""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine.errors import CredentialsError
from engine.inputs.jobfile.columns import alias
from engine.inputs.jobfile.layout import clean
from engine.outside.programs import Printed, run_program
from engine.outside.trust import is_private, open_regular

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.inputs.job import PasswordSpec
    from engine.model import Call

COMMAND_TIMEOUT_S = 30.0
MOST_OUTPUT = 4096
"""Bytes of a command's output that are read; a password has at most 32 characters."""
MOST_FILE = 256 << 20
_SPECIAL = "()`~!@#$%^&*-+=_|{}[]:<>,.?/"
"""The documented special characters (PY-INTL)."""


class PasswordSource(Protocol):
    """Gives the new password of one account."""

    @property
    def label(self) -> str:
        """The name of this source, for plan and journal."""

    async def ask(self, call: Call) -> str:
        """Return the password, checked by the documented rule; CredentialsError in words without the password."""


def password_problem(password: str) -> str | None:
    """Return which documented rule a password breaks, in words without the password; None if it breaks none.

    Documented for CreateAccount and ResetAccountPassword; CloseAccountCAM's page states no rule (SEED-LOCK).
    """
    if not 8 <= len(password) <= 32:
        return f"has {len(password)} characters; 8–32 are allowed"
    if password.startswith("/"):
        return "begins with /, which is not allowed"
    if odd := re.sub(rf"[A-Za-z0-9{re.escape(_SPECIAL)}]", "", password):
        return f"holds {len(odd)} character{'s' * (len(odd) > 1)} outside letters, digits and {_SPECIAL}"
    classes = {
        "a lower-case letter": "[a-z]",
        "an upper-case letter": "[A-Z]",
        "a digit": "[0-9]",
        f"one of {_SPECIAL}": f"[{re.escape(_SPECIAL)}]",
    }
    missing = [words for words, pattern in classes.items() if not re.search(pattern, password)]
    return f"lacks {' and '.join(missing)}" if missing else None


def open_passwords(spec: PasswordSpec, environ: Mapping[str, str]) -> PasswordSource:
    """Return the source a job names, ready to be asked; CredentialsError if it cannot be used."""
    if spec.command:
        return CommandPasswords(spec.command, spec.label)
    if spec.file:
        return FilePasswords(Path(spec.file), spec.label)
    return EnvironmentPassword(spec.env, spec.label, environ)


def _checked(password: str, label: str, call: Call) -> str:
    problem = password_problem(password)
    if problem is not None:
        raise CredentialsError(f"{label}: the password for {call.label} {problem}")
    return password


class EnvironmentPassword:
    """A source that gives one variable's value, for a job with one target."""

    def __init__(self, name: str, label: str, environ: Mapping[str, str]) -> None:
        if not environ.get(name):
            raise CredentialsError(f"{label}: the variable is not set or empty")
        self.label = label
        self._password = environ[name]

    async def ask(self, call: Call) -> str:
        """Return the variable's value."""
        return _checked(self._password, self.label, call)


class FilePasswords:
    """A CSV file instance,user,password[,region], read once; only its owner, or the owner's own group, may read it."""

    def __init__(self, path: Path, label: str) -> None:
        self.label = label
        self._passwords = _read_file(path, label)

    async def ask(self, call: Call) -> str:
        """Return the password in the row of this account; a row with its region goes before one without region."""
        for region in (call.region, ""):
            password = self._passwords.get((call.instance, call.user, region))
            if password is not None:
                return _checked(password, self.label, call)
        raise CredentialsError(f"{self.label}: no row for {call.label}")


class CommandPasswords:
    """A program that is run once per call: no shell, nothing on standard input, one line on standard output."""

    def __init__(self, command: tuple[str, ...], label: str) -> None:
        self.label = label
        self._command = command

    async def ask(self, call: Call) -> str:
        """Return the line that the program prints for this account."""
        parts = {"{instance}": call.instance, "{user}": call.user, "{region}": call.region}
        argv = [re.sub(r"\{(?:instance|user|region)\}", lambda found: parts[found[0]], arg) for arg in self._command]
        where = f"{self.label} for {call.label}"
        try:
            printed = await run_program(argv, limit_s=COMMAND_TIMEOUT_S, most=MOST_OUTPUT)
        except TimeoutError:  # an OSError too, so first
            raise CredentialsError(f"{where}: no answer within {COMMAND_TIMEOUT_S:g} s") from None
        except (OSError, ValueError) as exc:
            why = getattr(exc, "strerror", None) or "its arguments cannot be passed"
            raise CredentialsError(f"{where}: cannot be started: {why}") from None
        return _checked(_line(printed, where), self.label, call)


def _line(printed: Printed, where: str) -> str:
    """Return the one line of a program that succeeded; CredentialsError in words without its standard output."""
    text = printed.output.decode("utf-8", "replace")
    line = text.removesuffix("\n").removesuffix("\r")
    if printed.status:
        raise CredentialsError(f"{where}: {printed.complaint()}")
    if not line:
        raise CredentialsError(f"{where}: printed nothing")
    if len(printed.output) > MOST_OUTPUT or "\n" in line or "\r" in line:
        raise CredentialsError(f"{where}: printed more than one line; it must print the password alone")
    return line


def _read_file(path: Path, label: str) -> dict[tuple[str, str, str], str]:
    """Return (instance, user, region or empty) → password; CredentialsError names lines, never their text."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(MOST_FILE + 1)
    except OSError as exc:
        raise CredentialsError(f"{label}: cannot be read: {exc.strerror}") from None
    if found.st_mode & 0o007 or (found.st_mode & 0o070 and not is_private(found)):
        raise CredentialsError(f"{label}: others can read these passwords; chmod 600 {path}")
    if len(data) > MOST_FILE:
        raise CredentialsError(f"{label}: larger than {MOST_FILE >> 20} MiB")
    try:
        is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))  # a spreadsheet's "Unicode text"
        return _passwords(data.decode("utf-16" if is_utf16 else "utf-8-sig"), label)
    except UnicodeDecodeError:
        raise CredentialsError(f"{label}: is not UTF-8 text") from None
    except csv.Error as exc:
        raise CredentialsError(f"{label}: not valid CSV ({exc}); check the quotes") from None


_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_COLUMNS = ("instance", "user", "password", "region")
_REQUIRED = _COLUMNS[:3]


def _headed(line: str, separator: str) -> list[str]:
    """Return the columns that a line names, ours by our names, if `separator` separates them."""
    try:
        cells = next(csv.reader([line], strict=True, delimiter=separator), [])
    except csv.Error:
        return []
    return [alias(cell) or clean(cell).lower() for cell in cells]


def _passwords(text: str, label: str) -> dict[tuple[str, str, str], str]:
    lines = io.StringIO(text, newline="")
    above, line = 0, lines.readline()
    while line and (not line.strip() or line.strip().lower().startswith("sep=")):  # a spreadsheet's
        above, line = above + 1, lines.readline()
    headers = {separator: _headed(line, separator) for separator in _SEPARATORS}
    separator = next((each for each, header in headers.items() if set(_REQUIRED) <= set(header)), ",")
    header = headers[separator]
    above += 1
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        what = "the first line must name the columns instance,user,password[,region]"
        raise CredentialsError(f"{label}: no column {', '.join(missing)}; {what}")
    twice = next((name for name in _COLUMNS if header.count(name) > 1), None)
    if twice is not None:
        raise CredentialsError(f"{label}: column {twice} stands twice; keep one")
    rows = csv.reader(lines, strict=True, delimiter=separator)
    at = {name: header.index(name) for name in _COLUMNS if name in header}
    found: dict[tuple[str, str, str], str] = {}
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            what = f"quote a password that holds a {_SEPARATORS[separator]}"
            line_num = rows.line_num + above
            raise CredentialsError(f"{label}: line {line_num} has {len(row)} of {len(header)} columns; {what}")
        region = clean(row[at["region"]]) if "region" in at else ""
        key = (clean(row[at["instance"]]), clean(row[at["user"]]), region)
        if key in found:
            raise CredentialsError(
                f"{label}: line {rows.line_num + above} names {key[0]}/{key[1]} a second time; keep one"
            )
        found[key] = row[at["password"]]
    return found
