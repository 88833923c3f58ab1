"""Which column of a list (or field of a row) is the instance, the user, the region. No I/O.

A column may have our name, the API's name (`DBInstanceId`), or the name that the job's `columns:` gives it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from engine.api import names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

COLUMNS: Final = ("instance", "user", "region", "account")
REQUIRED: Final = ("instance", "user")
TOLD: Final = ("instance_name", "engine_version", "user_type", "status", "cam")
"""More columns of a list that `acctops discover` wrote: for the person who edits the list; they are ignored here."""
SECRETS: Final = frozenset({"password", "passwd", "pwd", "secret", "token"})
_ALIASES: Final = {
    "instanceid": "instance",
    "dbinstance": "instance",
    "dbinstanceid": "instance",
    "username": "user",
    "dbuser": "user",
    "dbusername": "user",
}
"""Spellings that have one meaning; `account` is not among them, as it may be the cloud account."""
_WORDS: Final = {
    "instance": (
        *("cluster", "clusterid", "dbcluster", "dbclusterid", "databaseinstance", "databaseinstanceid"),
        *("pginstance", "pginstanceid", "postgresinstance", "postgresinstanceid", "postgresqlinstance"),
        *("instanz", "instanzid", "dbinstanz", "dbinstanzid", "datenbankinstanz", "instancia"),
    ),
    "user": (
        *("login", "loginname", "dblogin", "databaselogin", "pguser", "postgresuser", "databaseuser"),
        *("databaseusername", "dbaccount", "databaseaccount", "benutzer", "benutzername", "dbbenutzer"),
        *("dbbenutzername", "datenbankbenutzer", "utilisateur", "usuario", "utente", "gebruiker"),
    ),
    "region": ("regionid", "cloudregion", "dbregion", "instanceregion"),
}
_SYNONYMS: Final = {word: ours for ours, words in _WORDS.items() for word in words}
"""Words that people use, folded as `_folded` does: taken if no column has a name of ours, and said."""


_NO_ACCOUNTS = (
    "the job names no cloud accounts; list them under accounts:, or if it names the database account, say columns: "
    "{user: account}"
)
_NO_ACCOUNTS_HERE = (
    "a command line names no cloud accounts; remove it, or write a job that names them, or if it names the database "
    "account, call it user"
)
_ALIKE = 0.75
"""How similar (0–1) to `instance` or `user` a column's name must be to count as misspelt."""


class Names:
    """The columns of a list, found once from their names: the index of each of ours, and what is wrong with them."""

    def __init__(
        self,
        header: Sequence[str],
        said: Mapping[str, str],
        what: str = "column",
        *,
        has_accounts: bool = False,
        has_job: bool = True,
    ) -> None:
        """Find the columns. `said` is the job's `columns:`: ours → theirs; `what` is column or field, for messages.

        `has_accounts`: the job names cloud accounts, so a column `account` holds one of them. Without a job
        (`has_job`), as on a command line, messages name none of its keys.
        """
        self._has_job = has_job
        self._ours = COLUMNS if has_accounts else COLUMNS[:-1]
        self.at: dict[str, int] = {}
        self.problems: list[str] = []
        self.ignored: list[str] = []
        """Columns that mean nothing here; one warning names them."""
        self.guessed: dict[str, str] = {}
        """Ours → theirs, of columns that were taken by a synonym."""
        cells = [cell.strip() for cell in header]
        folded = [cell.lower() for cell in cells]
        self._by_word(cells, said, what)
        self._by_name(cells, folded, what)
        self._by_alias(cells, what, alias)
        before = set(self.at)
        self._by_alias(cells, what, synonym)
        self.guessed = {ours: cells[index] for ours, index in self.at.items() if ours not in before}
        self._rest(cells, folded, what)
        self.missing = [name for name in REQUIRED if name not in self.at] if not self.problems else []
        """Columns that are not there; with any, that is the one problem."""
        if self.missing:
            shown = ", ".join(names.shown(cell) for cell in cells[:10])
            self.problems.append(f"no {what} {f' and no {what} '.join(self.missing)}, only {shown}")

    def _by_word(self, cells: list[str], said: Mapping[str, str], what: str) -> None:
        for ours, theirs in said.items():
            found = [index for index, cell in enumerate(cells) if cell == theirs] or [
                index for index, cell in enumerate(cells) if cell.lower() == theirs.lower()
            ]
            if not found:
                hint = names.did_you_mean(theirs, cells) or f"; there are {', '.join(map(names.shown, cells[:10]))}"
                self.problems.append(f"no {what} {names.shown(theirs)}, which `columns:` says is the {ours}{hint}")
            elif len(found) > 1:
                self.problems.append(f"{what} {theirs} stands twice; keep one")
            self.at[ours] = found[0] if found else -1

    def _by_name(self, cells: list[str], folded: list[str], what: str) -> None:
        said = set(self.at.values())
        for ours in self._ours:
            found = [index for index, cell in enumerate(folded) if cell == ours and index not in said]
            if ours in self.at or not found:
                continue
            if len(found) > 1:
                self.problems.append(f"{what} {ours} stands twice; keep one")
            other = [cell for index, cell in enumerate(cells) if alias(cell) == ours and index not in said]
            if other:
                self._both(ours, [cells[found[0]], *other], what)
            self.at[ours] = found[0]

    def _both(self, ours: str, theirs: list[str], what: str) -> None:
        both = " and ".join(map(names.shown, theirs))
        how = f"say which: columns: {{{ours}: …}}" if self._has_job else f"call the one that is meant {ours}"
        self.problems.append(f"{what}s {both} may both be the {ours}; {how}")

    def _by_alias(self, cells: list[str], what: str, meaning: Callable[[str], str]) -> None:
        taken = set(self.at.values())
        for ours in self._ours:
            if ours in self.at:
                continue
            found = [index for index, cell in enumerate(cells) if meaning(cell) == ours and index not in taken]
            if len(found) > 1:
                self._both(ours, [cells[index] for index in found], what)
            if found:
                self.at[ours] = found[0]

    def _rest(self, cells: list[str], folded: list[str], what: str) -> None:
        taken = set(self.at.values())
        for index, (cell, name) in enumerate(zip(cells, folded, strict=True)):
            if index in taken or not name or name in TOLD or name in self._ours:
                continue
            meant = names.nearest(name, [ours for ours in self._ours if ours not in self.at])
            if meant in REQUIRED and names.nearest(name, REQUIRED, cutoff=_ALIKE) is None:
                meant = None  # `cluster` is no misspelt `user`: the message that both are missing helps more
            if name in SECRETS:
                instead = "use `passwords: {file: …}`" if self._has_job else "remove it"
                self.problems.append(f"{what} {name}: a target list holds no secrets; {instead}")
            elif name == "account":
                self.problems.append(f"{what} account, but {_NO_ACCOUNTS if self._has_job else _NO_ACCOUNTS_HERE}")
            elif meant is not None:
                self.problems.append(f"{what} {names.shown(cell)}; did you mean {meant}?")
            else:
                self.ignored.append(cell)


def alias(cell: str) -> str:
    """Return which of our columns another spelling means; empty if that is not certain."""
    return _ALIASES.get(_folded(cell), "")


def is_name(cell: str) -> bool:
    """Return whether a cell is the name of a column of ours, and no synonym: an account may be called `login`."""
    return cell.strip().lower() in COLUMNS or bool(alias(cell))


def synonym(cell: str) -> str:
    """Return which of our columns a word of people means; empty if it is not among those."""
    return _SYNONYMS.get(_folded(cell), "")


def _folded(cell: str) -> str:
    return re.sub(r"[\s_.-]", "", cell.strip().lower())


def choice_words(guessed: Mapping[str, str]) -> str:
    """Return the same for the question before a run: the column decides which account is meant."""
    return ", ".join(f"{names.shown(theirs)} taken for the {ours}" for ours, theirs in guessed.items())


def guessed_words(guessed: Mapping[str, str], what: str, *, has_job: bool) -> str:
    """Return the words about columns that were taken by a synonym, with what makes them certain: a key, if in a job."""
    taken = ", ".join(f"{names.shown(theirs)} for the {ours}" for ours, theirs in guessed.items())
    if has_job:
        how = f"add to the list's entry: {columns_words(guessed)}"
    else:
        how = "call " + ", ".join(f"{names.shown(theirs)} {ours}" for ours, theirs in guessed.items())
    return f"{what}{'s' * (len(guessed) > 1)} taken: {taken}; to make that certain, {how}"


def columns_words(columns: Mapping[str, str]) -> str:
    """Return `columns: {instance: "Cluster ID", …}` as it is written in a job."""
    from json import dumps  # here: only a guess or a mistake pays for the import

    pairs = ", ".join(f"{ours}: {dumps(theirs, ensure_ascii=False)}" for ours, theirs in columns.items())
    return f"columns: {{{pairs}}}"


def ignored_words(ignored: Sequence[str], what: str) -> str:
    """Return the warning about columns that are ignored."""
    shown = ", ".join(names.shown(name) for name in ignored[:10])
    return f"{what}{'s' * (len(ignored) > 1)} {shown} ignored"
