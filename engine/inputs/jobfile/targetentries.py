"""The forms an entry of `targets:` may take. No I/O of its own.

`instance/user` · `instance: user` · `instance: [user, …]` · `{instance, user, region}` ·
`{csv|jsonl, region, columns}` · `{match: {…}}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.api import names
from engine.inputs.jobfile.fields import kind_words, kinds
from engine.inputs.jobfile.filemodel import AccountName, Columns, JobFile, Region, TargetEntry
from engine.inputs.jobfile.nodes import Entry, Scalar, Series, Table, Unusable
from engine.inputs.jobfile.targets import Defaults

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.inputs.jobfile.fields import Fields
    from engine.inputs.jobfile.nodes import Node
    from engine.inputs.jobfile.targets import Targets
    from engine.inputs.match import Match

_FORMS = "instance/user, or instance: [user, …], or {instance, user, region}, or {csv: file}, or {match: {…}}"
_PART_KEYS = frozenset(TargetEntry.__struct_fields__)


class TargetEntries:
    """A reader of the `targets` list into `targets`; `read_list(path, node, defaults, targets, columns)` reads a file.

    `region` is the job's: a match that names no region looks there.
    """

    def __init__(
        self,
        fields: Fields,
        targets: Targets,
        read_list: Callable[[str, Scalar, Defaults, Targets, Mapping[str, str]], list[str]],
        region: str,
    ) -> None:
        self.warnings: list[str] = []
        self.matches: list[Match] = []
        self._region = region
        self._fields = fields
        self._targets = targets
        self._read_list = read_list

    def read(self, node: Node) -> None:
        """Read the whole list."""
        items = self._fields.series(node, "targets", f"a list of targets (- {_FORMS})")
        if items is None:
            return
        file = self._fields.file
        add = self._targets.add
        for index, item in enumerate(items.items):
            if type(item) is Scalar and item.text.count("/") == 1:  # the common form, 100,000 times
                instance, _, user = item.text.partition("/")
                add(instance, user, "", file, item.line, item.column, f"targets[{index}]")
            else:
                self._entry(item, f"targets[{index}]")

    def _entry(self, item: Node, path: str) -> None:
        if isinstance(item, Scalar):
            got = f"{names.shown(item.text)} is not a target" if item.text else "has no value"
            self._fields.wrong(item, path, f"{got}; write {_FORMS}")
        elif isinstance(item, (Series, Unusable)):
            self._fields.wrong(item, path, f"expected {_FORMS}, got {kind_words(item)}")
        elif not item.entries:
            self._fields.wrong(item, path, f"expected {_FORMS}, got nothing")
        elif _PART_KEYS.isdisjoint(item.entries):
            for entry in item.entries.values():
                self._instance(entry, path)
        else:
            self._parts(item, path)

    def _instance(self, entry: Entry, path: str) -> None:
        """Read `instance: user` or `instance: [user, …]`."""
        instance = entry.key.text
        if (problem := names.instance_problem(instance)) is not None:
            hint = names.did_you_mean(instance, kinds(TargetEntry))
            self._fields.problems.add(self._fields.place(entry.key), path, problem + hint)
            return
        self._users(instance, entry.value, Defaults(), f"{path}.{instance}")

    def _users(self, instance: str, node: Node, of: Defaults, path: str) -> None:
        if type(node) is not Series:
            self._user(instance, node, of, path)
            return
        if not node.items:
            self._fields.wrong(node, path, "expected account names, got an empty list")
        for index, item in enumerate(node.items):
            self._user(instance, item, of, f"{path}[{index}]")

    def _user(self, instance: str, node: Node, of: Defaults, path: str) -> None:
        user = self._fields.text(node, path, "an account name")
        if user is None:
            return
        if (problem := names.user_problem(user)) is not None:
            self._fields.wrong(node, path, problem)
        else:
            self._targets.add(instance, user, of.region, self._fields.file, node.line, node.column, account=of.account)

    def _parts(self, table: Table, path: str) -> None:
        """Read `{instance, user, region, account}`, a list in a file, or a match."""
        fields = self._fields
        known = kinds(TargetEntry)
        inner = {} if table.entries.keys() <= known.keys() else _lines_beside()
        fields.keys(table, path, known, inner=inner)
        if "match" in table.entries:
            self._match(table, path)
            return
        region = ""
        if "region" in table.entries:
            region = fields.value(table.entries["region"].value, Region, f"{path}.region") or ""
            # An unusable region is noted; "?" keeps its targets from being counted as having none.
            region = region or "?"
        account = self._account(table, path)
        if account is None:
            return
        of = Defaults(region, account)
        sources = [kind for kind in ("csv", "jsonl") if kind in table.entries]
        if "columns" in table.entries and not sources:
            fields.wrong(table, path, "columns goes with csv: or jsonl:")
        elif sources:
            self._file(table, sources, of, path)
        elif "instance" in table.entries and "user" in table.entries:
            instance_node = table.entries["instance"].value
            instance = fields.text(instance_node, f"{path}.instance", "an instance id")
            if instance is not None and (problem := names.instance_problem(instance)) is not None:
                fields.wrong(instance_node, f"{path}.instance", problem)
            elif instance is not None and region != "?":
                self._users(instance, table.entries["user"].value, of, f"{path}.user")
        elif not _unknown_only(table):
            missing = next(name for name in ("instance", "user") if name not in table.entries)
            fields.wrong(table, path, f"{missing} is missing; write {{instance: …, user: …}}")

    def _account(self, table: Table, path: str) -> str | None:
        """Return the account of an entry, empty if it names none; None if it is not one of the job's (noted)."""
        if "account" not in table.entries:
            return ""
        node = table.entries["account"].value
        account = self._fields.value(node, AccountName, f"{path}.account")
        if account is None:
            return None
        if account not in self._targets.accounts:
            self._fields.wrong(node, f"{path}.account", self._targets.account_problem(account))
            return None
        return str(account)

    def _match(self, table: Table, path: str) -> None:
        """Read `{match: {…}}`; its targets are found when the job is planned."""
        others = [name for name in kinds(TargetEntry) if name in table.entries and name != "match"]
        if others:
            hint = (
                f"; a match says {others[0]}s: inside"
                if others[0] in ("region", "account")
                else "; make two entries of them"
            )
            self._fields.wrong(table, path, f"match and {others[0]} together{hint}")
            return
        from engine.inputs.jobfile.matchentries import MatchReader  # here: a job of plain targets needs no match

        reader = MatchReader(self._fields, self._region, self._targets)
        match = reader.read(table.entries["match"].value, f"{path}.match", len(self._targets.found))
        if match is not None:
            self.matches.append(match)

    def _file(self, table: Table, sources: Sequence[str], of: Defaults, path: str) -> None:
        others = [name for name in (*sources[1:], "instance", "user") if name in table.entries]
        if others:
            self._fields.wrong(table, path, f"{sources[0]} and {others[0]} together; make two entries of them")
            return
        kind = sources[0]
        node = table.entries[kind].value
        name = self._fields.text(node, f"{path}.{kind}", "the path of a list, or - for standard input")
        columns = self._columns(table, path)
        if name and type(node) is Scalar and of.region != "?" and columns is not None:
            self.warnings += self._read_list(f"{path}.{kind}", node, of, self._targets, columns)

    def _columns(self, table: Table, path: str) -> Mapping[str, str] | None:
        """Return `columns:`, ours → theirs; None if it is wrong (noted)."""
        entry = table.entries.get("columns")
        if entry is None:
            return {}
        fields, here = self._fields, f"{path}.columns"
        before = fields.problems.count
        part = fields.table(entry.value, here, "a mapping such as {instance: DBInstanceId, user: UserName}")
        if part is None:
            return None
        fields.keys(part, here, kinds(Columns))
        said = {
            name: fields.text(pair.value, f"{here}.{name}", "the name of a column")
            for name, pair in part.entries.items()
            if name in kinds(Columns)
        }
        if len(set(said.values())) < len(said):
            fields.wrong(part, here, "says one column twice; each of instance, user, region, account has its own")
        if fields.problems.count > before:
            return None
        return {name: text for name, text in said.items() if text is not None}


def _lines_beside() -> dict[str, str]:
    """Return each key of a job or of a match that does not stand in a target → where it stands."""
    lines = {key: f"{key}: … at the top of the job" for key in kinds(JobFile)}
    lines |= {key: f"{{match: {{{key}: …}}}}" for key in ("instances", "users", "regions")}
    lines |= {key: f"{{match: {{users: {{{key}: …}}}}}}" for key in ("glob", "locked", "cam")}
    return {key: line for key, line in lines.items() if key not in kinds(TargetEntry)}


def _unknown_only(table: Table) -> bool:
    """Return whether an entry has only unknown keys: these are noted, so no missing part is noted, too."""
    return not (set(table.entries) & set(kinds(TargetEntry)))
