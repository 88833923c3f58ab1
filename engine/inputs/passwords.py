"""New passwords, asked for one call at a time. No text that this module makes holds a password.

A password is never in a job file, a flag or the journal. It comes from a program, from a file that only its owner can
read, or from an environment variable. It is used once and not kept.
"""

from __future__ import annotations

import csv
import os
import re
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine.errors import CredentialsError
from engine.inputs.jobfile.columns import alias, choice_words, synonym
from engine.inputs.jobfile.layout import BLANKS, SLASH, WORDS, clean
from engine.inputs.jobfile.sheets import Sheet, is_utf16, not_text
from engine.outside.programs import Printed, run_program
from engine.outside.trust import is_private, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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

    @property
    def warnings(self) -> Sequence[str]:
        """What was guessed to read it, in words."""

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
        return CommandPasswords(spec.command, spec.label, stored=spec.stored)
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
        self.warnings: tuple[str, ...] = ()
        self._password = environ[name]

    async def ask(self, call: Call) -> str:
        """Return the variable's value."""
        return _checked(self._password, self.label, call)


class FilePasswords:
    """A CSV file instance,user,password[,region], read once; only its owner, or the owner's own group, may read it."""

    def __init__(self, path: Path, label: str) -> None:
        self.label = label
        self._passwords, self.warnings = _read_file(path, label)
        """The second: what was guessed of the file, in words."""

    async def ask(self, call: Call) -> str:
        """Return the password in the row of this account; a row with its region goes before one without region."""
        for region in (call.region, ""):
            password = self._passwords.get((call.instance, call.user, region))
            if password is not None:
                return _checked(password, self.label, call)
        raise CredentialsError(f"{self.label}: no row for {call.label}")


class CommandPasswords:
    """A program that is run once per call: no shell, nothing on standard input, one line on standard output.

    One that is a store is run twice: a password that it does not give again is not used.
    """

    def __init__(self, command: tuple[str, ...], label: str, *, stored: bool = False) -> None:
        self.label = label
        self.warnings: tuple[str, ...] = ()
        self._command = command
        self._stored = stored

    async def ask(self, call: Call) -> str:
        """Return the line that the program prints for this account."""
        password = await self._ask_once(call)
        if self._stored and not compare_digest(password.encode(), (await self._ask_once(call)).encode()):
            raise CredentialsError(
                f"{self.label} for {call.label}: asked twice, it gave two passwords, and the job says stored: true; "
                "a store has a password before it gives it, and gives the same one again"
            )
        return password

    async def _ask_once(self, call: Call) -> str:
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


def _read_file(path: Path, label: str) -> tuple[dict[tuple[str, str, str], str], list[str]]:
    """Return (instance, user, region or empty) → password, and what was guessed; CredentialsError names lines only."""
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
    return _Passwords(data, label).read()


_COLUMNS = ("instance", "user", "password", "region")
_REQUIRED = _COLUMNS[:3]
_WORDS = frozenset({"passwd", "pwd", "newpassword", "passwort", "kennwort", "neuespasswort", "motdepasse"})
"""Words for the password, folded as columns are."""


class _Passwords:
    """One reading of one password file, as lists are read; no text that it makes holds a cell of the file."""

    def __init__(self, data: bytes, label: str) -> None:
        self._data = data
        self._label = label
        self._sheet = Sheet(data)

    def read(self) -> tuple[dict[tuple[str, str, str], str], list[str]]:
        """Return (instance, user, region or empty) → password, and what was guessed, in words."""
        if not is_utf16(self._data) and (odd := not_text(self._data)) is not None:
            raise self._wrong(odd)
        try:
            return self._read()
        except UnicodeDecodeError:
            raise self._wrong("is UTF-16 text that is damaged; save it as UTF-8 (CSV UTF-8)") from None
        except csv.Error as exc:
            raise self._wrong(f"not valid CSV ({exc}); check the quotes") from None

    def _wrong(self, what: str) -> CredentialsError:
        return CredentialsError(f"{self._label}: {what}")

    def _read(self) -> tuple[dict[tuple[str, str, str], str], list[str]]:
        opening = self._sheet.opened({})
        layout = opening.layout
        if (what := self._sheet.unsure_separator(layout)) is not None:
            raise self._wrong(what)
        rows = _rows(opening.lines, layout.separator)
        first, header = next(((line, row) for line, row in rows if any(map(clean, row))), (1, []))
        at, guessed = self._columns(header if layout.has_header else [], first)
        warnings = [f"line {first}: {guessed}"] if guessed else []
        if opening.titles:
            count = len(opening.titles)
            warnings.append(f"line {opening.titles[0][0]}: {count} line{'s' * (count > 1)} above the header skipped")
        if self._sheet.is_guessed:
            place, _, what = self._sheet.guessed(layout, self._label)
            warnings.append(f"line {place.line}: {what}; names and passwords are taken where they are ASCII")
        found: dict[tuple[str, str, str], str] = {}
        for line, row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) < len(header) or any(cell.strip() for cell in row[len(header) :]):
                named = WORDS.get(layout.separator, "commas").removesuffix("s")
                what = f"quote a password that holds a {named}"
                raise self._wrong(f"line {line} has {len(row)} of {len(header)} columns; {what}")
            if self._sheet.is_guessed:
                self._refuse_guessed(row, at, line)
            region = clean(row[at["region"]]) if "region" in at else ""
            key = (clean(row[at["instance"]]), clean(row[at["user"]]), region)
            if key in found:
                raise self._wrong(f"line {line} names {key[0]}/{key[1]} a second time; keep one")
            found[key] = row[at["password"]]
        return found, [f"{self._label}: {warning}" for warning in warnings]

    def _columns(self, header: Sequence[str], line: int) -> tuple[dict[str, int], str]:
        """Return the index of each column of ours, and which were taken by a synonym, in words."""
        at: dict[str, int] = {}
        guessed: dict[str, str] = {}
        for ours in _COLUMNS:
            found = [at for at, cell in enumerate(header) if (alias(cell) or clean(cell).lower()) == ours]
            by_word = [] if found else [at for at, cell in enumerate(header) if _meant(cell) == ours]
            if len(found) + len(by_word) > 1:
                raise self._wrong(f"line {line}: column {ours} stands twice; keep one")
            if found or by_word:
                at[ours] = (found or by_word)[0]
            if by_word:
                guessed[ours] = clean(header[by_word[0]])
        if missing := [name for name in _REQUIRED if name not in at]:
            what = "the first line must name the columns instance,user,password[,region]"
            raise self._wrong(f"no column {', '.join(missing)}; {what}")
        return at, f"columns taken: {choice_words(guessed)}" if guessed else ""

    def _refuse_guessed(self, row: Sequence[str], at: Mapping[str, int], line: int) -> None:
        """Raise CredentialsError for a cell that would be a guess, as the encoding is one."""
        for ours, index in at.items():
            if not row[index].isascii():
                what = f"the {ours} has letters beyond ASCII, and the file is not UTF-8, so they would be a guess"
                raise self._wrong(f"line {line}: {what}; save it as UTF-8 (CSV UTF-8)")


def _meant(cell: str) -> str:
    """Return which of our columns a word of people means; empty if it is not among those."""
    return "password" if re.sub(r"[\s_.-]", "", clean(cell).lower()) in _WORDS else synonym(clean(cell))


def _rows(lines: Iterator[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row; a password keeps the blanks around it."""
    if separator in (BLANKS, SLASH):
        for line, text in enumerate(lines, start=1):
            yield line, text.split()
        return
    reader = csv.reader(lines, strict=True, delimiter=separator)
    for row in reader:
        yield reader.line_num, row
