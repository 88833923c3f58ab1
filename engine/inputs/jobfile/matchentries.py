"""Reads the `match` of a target entry: YAML → `Match`; notes every mistake. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.api import names
from engine.inputs import globs
from engine.inputs.jobfile.fields import kinds
from engine.inputs.jobfile.filemodel import InstancesOf, MatchEntry, UsersOf
from engine.inputs.jobfile.nodes import Scalar, Series, Table, Unusable
from engine.inputs.match import ANY, InstanceMatch, Match, Pattern, Tag, UserMatch

if TYPE_CHECKING:
    from collections.abc import Collection

    from engine.inputs.jobfile.fields import Fields
    from engine.inputs.jobfile.nodes import Node
    from engine.inputs.jobfile.targets import Targets

ALL = "all"
_WORDS = "a mapping: {regions: […], instances: {…}, users: {glob: app_*}}"
_odd_in_user = re.compile(r"[^A-Za-z0-9_\-*?\[\]!.$+#\u00aa-\uffff]")


class MatchReader:
    """A reader of one job's matches; `targets` has the job's accounts, and notes regions that are not documented."""

    def __init__(self, fields: Fields, region: str, targets: Targets) -> None:
        self._fields = fields
        self._region = region
        """The job's region; empty if it names none."""
        self._targets = targets

    def read(self, node: Node, path: str, at: int) -> Match | None:
        """Return the match in `node`, before target number `at` (from 0); None if it is wrong (noted)."""
        fields = self._fields
        table = fields.table(node, path, _WORDS)
        if table is None:
            return None
        before = fields.problems.count
        fields.keys(table, path, kinds(MatchEntry))
        values, _ = fields.values(table, MatchEntry, path, skip=("accounts", "regions", "instances", "users"))
        accounts = self._accounts(table, f"{path}.accounts")
        regions = self._regions(table, path)
        instances = self._instances(table, f"{path}.instances")
        users = self._users(table, f"{path}.users")
        if fields.problems.count > before:
            return None
        return Match(
            place=fields.place(node),
            at=at,
            accounts=accounts,
            regions=regions,
            instances=instances,
            users=users,
            allow_empty=bool(values.get("allow_empty", False)),
        )

    def _accounts(self, table: Table, path: str) -> tuple[str, ...]:
        """Return the accounts that the match names, else all of the job; a job without accounts has one named ""."""
        every = self._targets.accounts or ("",)
        if "accounts" not in table.entries:
            return every
        items = self._listed(table, "accounts", path.rpartition(".")[0], "an account of the job, or a list of them")
        for item in items:
            if item.text not in self._targets.accounts:
                self._fields.wrong(item, path, self._targets.account_problem(item.text))
        return tuple(dict.fromkeys(item.text for item in items))

    def _regions(self, table: Table, path: str) -> tuple[str, ...] | None:
        entry = table.entries.get("regions")
        if entry is None:
            if not self._region:
                what = "which regions? Write regions: [ap-singapore], regions: all, or set the job's region:"
                self._fields.wrong(table, f"{path}.regions", what)
            return (self._region,)
        if type(entry.value) is Scalar and entry.value.text == ALL:
            return None
        found = []
        for item in self._texts(entry.value, f"{path}.regions", "a region, a list of them, or all"):
            if item.text == ALL:
                self._fields.wrong(item, f"{path}.regions", "all stands alone: regions: all")
            elif (problem := names.region_problem(item.text)) is not None:
                self._fields.wrong(item, f"{path}.regions", problem)
            else:
                if item.text not in names.REGIONS:
                    self._targets.note_region(item.text, self._fields.place(item))
                found.append(item.text)
        return tuple(dict.fromkeys(found))

    def _instances(self, table: Table, path: str) -> InstanceMatch:
        of = self._part(table, "instances", path, kinds(InstancesOf))
        if of is None:
            return InstanceMatch()
        ids = []
        for item in self._listed(of, "ids", path, "an instance id"):
            if (problem := names.instance_problem(item.text)) is not None:
                self._fields.wrong(item, f"{path}.ids", problem)
            ids.append(item.text)
        return InstanceMatch(
            ids=tuple(ids),
            names=self._name_globs(of, path),
            tags=self._tags(of, f"{path}.tag"),
            statuses=self._words(of, "status", path, (*names.INSTANCE_STATUSES, ANY)),
            types=self._words(of, "type", path, (*names.INSTANCE_TYPES, ANY)),
            versions=self._versions(of, path),
        )

    def _users(self, table: Table, path: str) -> UserMatch:
        if "users" not in table.entries:
            what = 'which accounts? Write users: {glob: "app_*"}; glob: "*" is every account'
            self._fields.wrong(table, path, what)
        of = self._part(table, "users", path, kinds(UsersOf))
        if of is None:
            return UserMatch()
        if not of.entries:
            self._fields.wrong(of, path, 'asks for nothing; write {glob: "app_*"}, or glob: "*" for every account')
        values, _ = self._fields.values(of, UsersOf, path, skip=("glob", "type", "not"))
        return UserMatch(
            globs=self._user_globs(of, "glob", path),
            types=self._words(of, "type", path, names.USER_TYPES),
            cam=values.get("cam"),
            locked=values.get("locked"),
            without=self._user_globs(of, "not", path),
        )

    def _part(self, table: Table, key: str, path: str, known: Collection[str]) -> Table | None:
        entry = table.entries.get(key)
        part = self._fields.table(entry.value, path, f"a mapping of {', '.join(known)}") if entry is not None else None
        if part is not None:
            self._fields.keys(part, path, known)
        return part

    def _texts(self, node: Node, path: str, expected: str) -> list[Scalar]:
        """Return the texts of a node that is one text or a list, without those that are wrong (noted)."""
        if type(node) is not Series:
            text = self._fields.text(node, path, expected)
            return [node] if text is not None and type(node) is Scalar else []
        series = self._fields.series(node, path, expected)
        items = series.items if series is not None else []
        return [item for item in items if self._fields.text(item, path, expected) is not None and type(item) is Scalar]

    def _listed(self, table: Table, key: str, path: str, expected: str) -> list[Scalar]:
        entry = table.entries.get(key)
        return self._texts(entry.value, f"{path}.{key}", expected) if entry is not None else []

    def _words(self, table: Table, key: str, path: str, known: tuple[str, ...]) -> tuple[str, ...]:
        found = []
        for item in self._listed(table, key, path, f"one of {', '.join(known)}"):
            if item.text not in known:
                hint = names.did_you_mean(item.text, known) or f"; there are {', '.join(known)}"
                self._fields.wrong(item, f"{path}.{key}", f"{names.shown(item.text)} is no {key}{hint}")
            found.append(item.text)
        return tuple(dict.fromkeys(found))

    def _versions(self, table: Table, path: str) -> tuple[str, ...]:
        found = []
        for item in self._listed(table, "engine_version", path, "a major version such as 16"):
            if not re.fullmatch(r"[0-9]{1,3}|9\.[0-9]", item.text):  # up to 9.6 a major version has two numbers
                what = f"expected a major version such as 16, got {names.shown(item.text)}"
                self._fields.wrong(item, f"{path}.engine_version", what)
            found.append(item.text)
        return tuple(found)

    def _user_globs(self, table: Table, key: str, path: str) -> tuple[Pattern, ...]:
        found = []
        for item in self._listed(table, key, path, "a glob such as app_*"):
            if (odd := _odd_in_user.search(item.text)) is not None:
                what = f"{names.shown(item.text)} can never match: {odd[0]!r} occurs in no account name"
                self._fields.wrong(item, f"{path}.{key}", what)
            elif (why := globs.why_never(item.text, globs.USER)) is not None:
                self._fields.wrong(item, f"{path}.{key}", f"{names.shown(item.text)} can never match: {why}")
            found.append(Pattern(item.text))
        return tuple(found)

    def _name_globs(self, table: Table, path: str) -> tuple[Pattern, ...]:
        found = []
        for item in self._listed(table, "name", path, "a glob such as prod-*"):
            if (empty := globs.empty_bracket(item.text)) is not None:
                what = f"{names.shown(item.text)} can never match: {empty} takes no character"
                self._fields.wrong(item, f"{path}.name", what)
            found.append(Pattern(item.text))
        return tuple(found)

    def _tags(self, table: Table, path: str) -> tuple[Tag, ...]:
        entry = table.entries.get("tag")
        if entry is None:
            return ()
        words = "env, or env=prod, or {env: prod}"
        if type(entry.value) is not Table:
            texts = self._texts(entry.value, path, words)
            parts = [(item, *item.text.partition("=")) for item in texts]
            for item, key, _, _ in parts:
                if not key:
                    self._fields.wrong(item, path, f"{names.shown(item.text)} has no key; write {words}")
            return tuple(Tag(key, (value,) if sign else ()) for _, key, sign, value in parts)
        if not entry.value.entries:
            self._fields.wrong(entry.value, path, f"expected {words}, got nothing")
        return tuple(
            Tag(key, tuple(item.text for item in self._texts(pair.value, f"{path}.{key}", "a tag's value")))
            for key, pair in entry.value.entries.items()
            if type(pair.value) is not Unusable
        )
