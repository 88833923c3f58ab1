"""Which accounts of a run somebody names: instance/user, globs of them, or a file with one a line."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from msgspec import Struct

from engine.api.names import did_you_mean
from engine.errors import UsageError
from engine.inputs.job import Glob
from engine.model import Call
from engine.operations.terms import globs_of
from engine.planning.plan import idle_rules


class Chosen(Struct, frozen=True, kw_only=True):
    """The accounts that `--target` names."""

    globs: tuple[Glob, ...]
    names: frozenset[str]
    """Accounts named one by one, as `instance/user`."""

    def has(self, call: Call) -> bool:
        """Return whether an account is named; all are if nothing is."""
        if not self.globs and not self.names:
            return True
        return call.label in self.names or any(glob.matches(call.instance, call.user) for glob in self.globs)


def chosen(targets: Sequence[str], calls: Collection[Call], what: str = "the run", *, flag: str = "--target") -> Chosen:
    """Return what the texts of `flag` name. UsageError for one that names none of `calls`: a slip."""
    globs: list[Glob] = []
    names: set[str] = set()
    for text in targets:
        if text.startswith("@"):
            names |= _names_in(Path(text[1:]), flag)
        elif not set("*?[") & set(text) and text.count("/") == 1:
            names.add(text)
        else:
            globs += globs_of((text,), flag)
    labels = {call.label for call in calls}
    idle = [glob.pattern for glob in idle_rules(globs, list(calls))] + sorted(names - labels)
    if idle:
        more = f", and {len(idle) - 1:,} more" if len(idle) > 1 else ""
        hint = did_you_mean(idle[0], labels)
        raise UsageError(f"{flag} {idle[0]}{more}: matches none of the {len(calls):,} calls of {what}{hint}")
    return Chosen(globs=tuple(globs), names=frozenset(names))


def _names_in(path: Path, flag: str) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{flag} @{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    names = {line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")}
    wrong = sorted(name for name in names if name.count("/") != 1)
    if wrong:
        raise UsageError(f"{flag} @{path}: {wrong[0]!r} is not instance/user")
    if not names:
        raise UsageError(f"{flag} @{path}: names no account")
    return names
