"""YAML text → Job. No I/O: the caller passes a function that reads lists.

One reading finds every problem and names it `file:line:column: path: what; what to do`. `filemodel` says which
keys there are; this module says what they mean together.
"""

from __future__ import annotations

import posixpath
import re
from bisect import bisect_left
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from engine.api import names
from engine.api.actions import ACTIONS, takes_admins
from engine.errors import JobError
from engine.inputs.guards import empty_plan_warnings, guard_words, need_readings
from engine.inputs.job import Glob, Job, PasswordSpec, StopAfter
from engine.inputs.jobfile.columns import COLUMNS
from engine.inputs.jobfile.fields import Fields, glob_problem, kinds
from engine.inputs.jobfile.filemodel import JobFile, Passwords
from engine.inputs.jobfile.nodes import Scalar, Series, Table
from engine.inputs.jobfile.problems import Problems
from engine.inputs.jobfile.targetentries import TargetEntries
from engine.inputs.jobfile.targets import Defaults, Targets, unlisted_region
from engine.inputs.jobfile.yamltext import decode, read_tree
from engine.model import Place
from engine.outside.foreign import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.inputs.guesses import Guess
    from engine.inputs.job import HoldSpec, NotifySpec, WatchSpec, WavesSpec
    from engine.inputs.jobfile.nodes import Node
    from engine.inputs.match import Match
    from engine.inputs.window import Window
    from engine.model import AccountSpec, Omit, Target

__all__ = ["COMMAND_LINE", "Glob", "Job", "PasswordSpec", "StopAfter", "parse_job"]

COMMAND_LINE = "command line"
"""The "file" of targets given as arguments."""
_READ_BY_THEMSELVES = ("window", "hold", "watch", "waves", "gate", "on_red", "notify")
"""Keys that a module of their own reads."""
_PLACEHOLDERS = frozenset({"instance", "user", "region"})


def parse_job(
    text: bytes,
    *,
    file: str,
    read: Callable[[str], bytes] | None,
    skip_bad_rows: bool = False,
    locate: Callable[[str], str] | None = None,
) -> Job:
    """Return the job in `text`; raise JobError with every problem.

    `file` is the name for messages. `read` returns the bytes of a list by its path as written (relative to the job
    file; `-` is standard input), or raises JobError in its own words; None: lists are skipped. `locate` returns a
    list's name for messages; without it, that is its path beside `file`. With `skip_bad_rows`, rows of lists that are
    no targets become `omits` of the job, as long as there are other targets.
    """
    problems = Problems()
    decoded = decode(text, file, problems)
    root = read_tree(decoded, file, problems) if decoded is not None else None
    if root is None:
        if not problems.count:
            problems.add(Place(file), "", "is empty; a job needs action, region and targets")
        raise JobError(problems.lines())
    return _JobReader(file, problems, read, text, skip_bad_rows=skip_bad_rows, locate=locate).job(root)


class _JobReader:
    """One reading of one job file."""

    def __init__(
        self,
        file: str,
        problems: Problems,
        read: Callable[[str], bytes] | None,
        text: bytes,
        *,
        skip_bad_rows: bool,
        locate: Callable[[str], str] | None,
    ) -> None:
        self._file = file
        self._skip_bad_rows = skip_bad_rows
        self._bad_rows: list[Omit] = []
        self._problems = problems
        self._fields = Fields(file, problems)
        self._read = read
        self._locate = locate or self._beside
        self._digest = sha256(text)
        self._sources: list[str] = []
        self._guesses: tuple[Guess, ...] = ()

    def job(self, root: Node) -> Job:
        fields = self._fields
        table = fields.table(root, "", "keys such as action:, region: and targets:")
        if table is None:
            raise JobError(self._problems.lines())
        known = kinds(JobFile)
        fields.keys(table, "", known, inner={} if table.entries.keys() <= known.keys() else _lines_inside(table))
        special = ("targets", "accounts", "exclude", "protect", "passwords", "version", *_READ_BY_THEMSELVES)
        values, places = fields.values(table, JobFile, skip=special)
        if "version" in table.entries:
            fields.value(table.entries["version"].value, kinds(JobFile)["version"], "version")
        self._require(table, "action", f"what to do: one of {', '.join(ACTIONS)}")
        accounts = self._accounts(table, places)
        targets, matches, warnings, remarks = self._targets(table, values, places, accounts)
        protect, waived = self._protect(table)
        exclude = self._globs(table, "exclude")
        warnings += empty_plan_warnings(protect or (), "protects") + empty_plan_warnings(exclude, "excludes")
        action = values.get("action")
        if action is not None:
            warnings += self._together(action, values, places)
        waves = self._waves(table, values)
        passwords = self._passwords(table, action, targets, matches, warnings, waves)
        window = self._window(table)
        hold = self._hold(table, action, places)
        watch = self._watch(table, action, places)
        notify = self._notify(table, places)
        self._problems.stop_if_any()
        assert isinstance(action, str)
        named = [name for name in values if name not in Job.__struct_fields__]
        return Job(
            settings={name: values.pop(name) for name in named},
            **{"name": default_name(self._file), "region": "", **values},
            accounts=accounts,
            targets=targets,
            matches=tuple(matches),
            omits=tuple(self._bad_rows),
            digest=self._digest.hexdigest(),
            path=self._file,
            sources=tuple(self._sources),
            exclude=exclude,
            protect=protect,
            protect_waived=waived,
            passwords=passwords,
            window=window,
            hold=hold,
            watch=watch,
            waves=waves,
            notify=notify,
            places=places,
            warnings=tuple(warnings),
            remarks=tuple(remarks),
            guesses=self._guesses,
        )

    def _accounts(self, table: Table, places: dict[str, Place]) -> tuple[AccountSpec, ...]:
        entry = table.entries.get("accounts")
        if entry is None:
            return ()
        from engine.inputs.jobfile.accounts import read_accounts  # here: most jobs have none

        if "profile" in table.entries:
            what = "profile beside accounts; each account names its own, so remove one of the two"
            self._problems.add(self._fields.place(table.entries["profile"].key), "profile", what)
        places["accounts"] = self._fields.place(entry.key)
        return read_accounts(self._fields, entry.value)

    def _window(self, table: Table) -> Window | None:
        if "window" not in table.entries:
            return None
        from engine.inputs.jobfile.windows import read_window  # here: most jobs have none

        return read_window(self._fields, table.entries["window"].value)

    def _hold(self, table: Table, action: str | None, places: dict[str, Place]) -> HoldSpec | None:
        entry = table.entries.get("hold")
        if entry is None:
            return None
        from engine.inputs.jobfile.afterwards import read_hold  # here: most jobs have none

        places["hold"] = self._fields.place(entry.value)
        return read_hold(self._fields, entry.value, action)

    def _watch(self, table: Table, action: str | None, places: dict[str, Place]) -> WatchSpec | None:
        entry = table.entries.get("watch")
        if entry is None:
            return None
        from engine.inputs.jobfile.afterwards import read_watch  # here: most jobs have none

        places["watch"] = self._fields.place(entry.value)
        return read_watch(self._fields, entry.value, action)

    def _waves(self, table: Table, values: dict[str, Any]) -> WavesSpec | None:
        if not table.entries.keys() & {"waves", "gate", "on_red"}:
            return None
        from engine.inputs.jobfile.wavekeys import read_waves  # here: most jobs have none

        return read_waves(self._fields, table, values.get("action"), verify=values.get("verify", True))

    def _notify(self, table: Table, places: dict[str, Place]) -> NotifySpec | None:
        if "notify" not in table.entries:
            return None
        from engine.inputs.jobfile.notifying import read_notify  # here: most jobs have none

        notify = read_notify(self._fields, table.entries["notify"].value)
        if notify is not None:
            places["notify"] = notify.place
        return notify

    def _require(self, table: Table, key: str, what: str) -> None:
        if key not in table.entries:
            self._problems.add(Place(self._file, table.line, table.column), key, f"is missing; it says {what}")

    def _targets(
        self, table: Table, values: dict[str, Any], places: dict[str, Place], accounts: Sequence[AccountSpec]
    ) -> tuple[list[Target], list[Match], list[str], list[str]]:
        region = values.get("region", "")
        names_of = [account.name for account in accounts]
        targets = Targets(self._problems, region, names_of, skip_bad_rows=self._skip_bad_rows)
        matches: list[Match] = []
        warnings, remarks = [], []
        if region and region not in names.REGIONS:
            remarks.append(unlisted_region(region, places["region"]))
        self._require(table, "targets", "which accounts: a list of instance/user")
        if "targets" in table.entries:
            # A region that was written and refused is noted already: "?" spares a match that needs it a second note.
            there = region or ("?" if "region" in table.entries else "")
            entries = TargetEntries(self._fields, targets, self._list, there)
            entries.read(table.entries["targets"].value)
            warnings += entries.warnings
            matches = entries.matches
        # A region that was written and refused is one problem, not one more of all targets without a region.
        if "region" not in table.entries or region:
            out = targets.settle_regions()
            matches = [replace(match, at=match.at - bisect_left(out, match.at)) for match in matches]
        if accounts or "accounts" not in table.entries:
            targets.check_accounts()
        self._bad_rows = judge_rows(targets, self._problems, asks=bool(matches))
        self._guesses, unsure, sure = guessed(targets)
        warnings += unsure
        remarks += sure
        return targets.found, matches, warnings + targets.warnings(), remarks + targets.remarks()

    def _beside(self, listed: str) -> str:
        return "standard input" if listed == "-" else posixpath.join(posixpath.dirname(self._file), listed)

    def _list(
        self, here: str, node: Scalar, defaults: Defaults, targets: Targets, columns: Mapping[str, str]
    ) -> list[str]:
        """Read the list that `node` (at `here`: targets[3].csv) names into `targets`; return warnings."""
        if self._read is None:
            return []
        path = node.text
        shown = self._locate(path)
        if path == "-" and shown in self._sources:
            self._fields.wrong(node, here, "standard input can be read only once; remove this entry")
            return []
        try:
            data = self._read(path)
        except JobError as exc:
            for problem in exc.problems:
                self._fields.wrong(node, here, problem)
            return []
        self._sources.append(shown)
        self._digest.update(data)
        reader = list_reader(is_csv=here.endswith("csv"))
        return reader(data, shown, defaults, targets, self._problems, columns, path)

    def _globs(self, table: Table, key: str) -> tuple[Glob, ...]:
        if key not in table.entries:
            return ()
        return self._fields.globs(table.entries[key].value, key, fold=key == "protect")

    def _protect(self, table: Table) -> tuple[tuple[Glob, ...] | None, bool]:
        entry = table.entries.get("protect")
        if entry is None:
            return None, False
        if _is_none(entry.value):
            return (), True
        items = entry.value.items if type(entry.value) is Series else []
        nones = [index for index, item in enumerate(items) if _is_none(item)]
        if not nones:
            return self._globs(table, "protect"), False
        rule = next((item for item in items if not _is_none(item)), None)
        for index in nones:
            other = f", but there is one at {rule.line}:{rule.column}; keep one" if rule else "; write protect: none"
            self._fields.wrong(items[index], f"protect[{index}]", f"`none` says there are no rules{other}")
        return (), False

    def _together(self, action: str, values: dict[str, Any], places: dict[str, Place]) -> list[str]:
        """Note keys that contradict each other or the action; return warnings of keys that mean nothing for it."""
        if values.get("resend_already") and not ACTIONS[action].resendable:
            what = f"{action} must not be repeated on an account that has it already; remove it"
            self._problems.add(places["resend_already"], "resend_already", what)
        keep_admins = values.get("keep_admins")
        if values.get("verify") is False:
            needy = need_readings(action, keep_admins=keep_admins, max_share=values.get("max_share"))
            for guard in needy:
                place = places[guard]
                what = (
                    f"false, but {guard_words(guard, values[guard])} at {place.line}:{place.column} cannot hold unless "
                    "accounts are read; keep one"
                )
                self._problems.add(places["verify"], "verify", what)
        if keep_admins and not takes_admins(action):
            return [f"{places['keep_admins']}: keep_admins means nothing to {action}, which takes no admin away"]
        return []

    def _passwords(
        self,
        table: Table,
        action: str | None,
        targets: Sequence[Target],
        matches: Sequence[Match],
        warnings: list[str],
        waves: WavesSpec | None,
    ) -> PasswordSpec | None:
        setter = setter_of_passwords(action, waves)
        needed = setter is not None
        entry = table.entries.get("passwords")
        if entry is None:
            if needed:
                what = f"is missing; {setter} sets a new password: passwords: {{command: [program, …]}}, file or env"
                self._problems.add(Place(self._file, table.line, table.column), "passwords", what)
            return None
        is_unknown = waves is None and "on_red" in table.entries  # what is wrong with the waves is noted
        if action is not None and not needed and not is_unknown:
            place = Place(self._file, entry.key.line, entry.key.column)
            self._problems.add(place, "passwords", f"{action} takes no password; remove it")
            return None
        spec = read_passwords(self._fields, entry.value)
        if spec is None:
            return None
        if spec.env and (matches or len({(t.region, t.instance, t.user) for t in targets}) > 1):
            what = "one password for several accounts; use command or file"
            self._problems.add(spec.place, "passwords.env", what)
        if spec.command and not spec.stored and action is not None and ACTIONS[action].proof is not None:
            warnings.append(
                f"{spec.place}: passwords.command does not say stored: true: a call whose answer is lost is not sent "
                "again, and only the program knows which password it has then"
            )
        if spec.command and (matches or len(targets) > 1) and not any("{user}" in part for part in spec.command):
            warnings.append(
                f"{spec.place}: passwords.command does not use {{user}}: accounts may get the same password"
            )
        return spec


def setter_of_passwords(action: str | None, waves: WavesSpec | None) -> str | None:
    """Return in words what sets new passwords: the job's action, or the undo of a red wave; None if nothing does."""
    if action is None:
        return None
    inverse = ACTIONS[action].inverse
    if waves is not None and waves.on_red == "undo" and inverse is not None and ACTIONS[inverse].needs_password:
        return f"on_red: undo ({inverse})"
    return action if ACTIONS[action].needs_password else None


def _lines_inside(job: Table) -> dict[str, str]:
    """Return each key that stands further inside of a job → the line to write; with what was written, as far as it
    goes."""
    lines = dict.fromkeys(("instance", "user"), "targets: [{instance: postgres-…, user: […]}]")
    lines |= {key: f"targets: [{{{key}: list.{key}}}]" for key in ("csv", "jsonl")}
    lines["columns"] = f"targets: [{{{_list_named(job)}, columns: {{{_columns_said(job)}}}}}]"
    lines["match"] = 'targets: [{match: {users: {glob: "app_*"}}}]'
    lines |= {key: f"targets: [{{match: {{{key}: …}}}}]" for key in ("instances", "users", "allow_empty")}
    lines |= {key: f"targets: [{{match: {{users: {{{key}: …}}}}}}]" for key in ("glob", "locked", "cam")}
    lines |= {key: f"targets: [{{match: {{instances: {{{key}: …}}}}}}]" for key in ("ids", "tag", "engine_version")}
    for name, kind in kinds(JobFile).items():
        if isinstance(kind, type) and issubclass(kind, Struct):
            lines |= {key: f"{name}: {{{key}: …}}" for key in kinds(kind) if key not in lines}
    return {key: line for key, line in lines.items() if key not in kinds(JobFile)}


def _list_named(job: Table) -> str:
    """Return the first list that a job names, as it is written there."""
    entries = job.entries["targets"].value if "targets" in job.entries else None
    for item in entries.items if type(entries) is Series else ():
        for kind in ("csv", "jsonl"):
            if type(item) is Table and kind in item.entries:
                node = item.entries[kind].value
                return f"{kind}: {node.text if type(node) is Scalar else '…'}"
    return "csv: list.csv"


def _columns_said(job: Table) -> str:
    from json import dumps  # here: only a slip pays for the import

    node = job.entries["columns"].value if "columns" in job.entries else None
    said = node.entries if type(node) is Table else {}
    pairs = {ours: pair.value.text for ours, pair in said.items() if type(pair.value) is Scalar and ours in COLUMNS}
    named = pairs or {"instance": "…", "user": "…"}
    return ", ".join(f"{ours}: {dumps(clean(theirs), ensure_ascii=False)}" for ours, theirs in named.items())


def list_reader(*, is_csv: bool) -> Callable[..., list[str]]:
    from engine.inputs.jobfile import lists  # here: a job without a list starts without csv

    return lists.read_csv if is_csv else lists.read_jsonl


def guessed(targets: Targets) -> tuple[tuple[Guess, ...], list[str], list[str]]:
    """Return all guesses of the lists; those to be warned of, in words, and those that are sure."""
    told = targets.guesses.found()
    unsure = [str(guess) for guess in told if not guess.is_sure]
    return (*told, *targets.guesses.trimmed()), unsure, [str(guess) for guess in told if guess.is_sure]


def judge_rows(targets: Targets, problems: Problems, *, asks: bool) -> list[Omit]:
    """Return the bad rows, which are left out if good targets are left; set a hint if they are the only problems.

    `asks`: whether a match may give targets, too.
    """
    bad_rows: list[Omit] = []
    if targets.found or asks:
        bad_rows = targets.bad_rows
    elif targets.bad_rows:
        for omit in targets.bad_rows:
            problems.add(omit.target.place, "", omit.rule)
        problems.hint = "no row is a target, so --skip-bad-rows leaves nothing to send: correct these"
    # Twice in the list is once; the name of a bad region stands among them, without it.
    would_be_sent = len(
        {(each.account, each.region, each.instance, each.user) for each in targets.found if each.region}
    )
    if (would_be_sent or asks) and 0 < targets.row_problems == problems.count:
        sent = f"sends the good ones ({would_be_sent:,})" if would_be_sent else "goes on without them"
        problems.hint = f"correct these rows; or --skip-bad-rows {sent} and counts these as failed"
    return bad_rows


def _is_none(node: Node) -> bool:
    return type(node) is Scalar and node.text == "none"


def read_passwords(fields: Fields, node: Node) -> PasswordSpec | None:
    """Return the `passwords` mapping as a value, else None; no message repeats its text, which may be a password."""
    words = "a mapping with one of command, file, env (never a password itself)"
    table = fields.table(node, "passwords", words)
    if table is None:
        return None
    fields.keys(table, "passwords", kinds(Passwords))
    given = [name for name in ("command", "file", "env") if name in table.entries]
    if len(given) != 1:
        found = f"{', '.join(given)} together" if given else "none of them"
        fields.wrong(node, "passwords", f"expected {words}, got {found}")
        return None
    entry = table.entries[given[0]]
    place = fields.place(entry.value)
    here = f"passwords.{given[0]}"
    if given[0] == "command":
        command, stored = _command(fields, entry.value, here), _stored(fields, table)
        return PasswordSpec(place=place, command=command, stored=stored) if command else None
    if "stored" in table.entries:
        what = f"is for a command; {given[0]} is asked as it is, and counts as a store; remove it"
        fields.wrong(table.entries["stored"].value, "passwords.stored", what)
        return None
    if given[0] == "file":
        file = fields.text(entry.value, here, "the path of a CSV file instance,user,password")
        # `~/` is the home directory, as in paths of lists; `load_job` expands it.
        joined = file if file is None or file.startswith("~/") else posixpath.join(posixpath.dirname(fields.file), file)
        return PasswordSpec(place=place, file=joined) if joined else None
    env = fields.text(entry.value, here, "the name of an environment variable")
    if env is None:
        return None
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,99}", env):
        fields.wrong(entry.value, here, "expected the name of an environment variable, such as NEW_PASSWORD")
        return None
    return PasswordSpec(place=place, env=env)


def _stored(fields: Fields, table: Table) -> bool:
    entry = table.entries.get("stored")
    return entry is not None and fields.value(entry.value, kinds(Passwords)["stored"], "passwords.stored") is True


def _command(fields: Fields, node: Node, path: str) -> tuple[str, ...]:
    """Return program and arguments; empty if they are refused (noted)."""
    items = fields.series(node, path, "a list: [program, argument, …]; it is run without a shell")
    if items is None:
        return ()
    before = fields.problems.count
    argv = []
    for index, item in enumerate(items.items):
        here = f"{path}[{index}]"
        if type(item) is not Scalar:
            fields.text(item, here, "one argument")
            continue
        for name in re.findall(r"\{(\w+)\}", item.text):
            if name not in _PLACEHOLDERS:
                fields.wrong(item, here, f"{{{name}}} is not filled in; known are {{instance}}, {{user}}, {{region}}")
        argv.append(item.text)
    if argv and (not argv[0] or "{" in argv[0]):
        fields.wrong(items.items[0], f"{path}[0]", "expected the program to run, without placeholders")
    return tuple(argv) if fields.problems.count == before else ()


def default_name(file: str) -> str:
    """Return the name of a job that gives none: the file's, without directory and ending."""
    name = posixpath.splitext(posixpath.basename(file))[0]
    return clean(name.encode("utf-8", "backslashreplace").decode(), 100).strip() or "job"


def read_globs(texts: Sequence[str], flag: str, problems: Problems) -> tuple[Glob, ...]:
    """Return the globs of a repeated flag; their place is the flag. Wrong ones are noted."""
    found = []
    for text in texts:
        if (problem := glob_problem(text)) is not None:
            problems.add(Place(COMMAND_LINE), flag, problem)
        else:
            found.append(Glob(text, Place(flag)))
    return tuple(found)
