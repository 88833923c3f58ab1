"""The `discover` command: what the matches of a job find, as a table to read or a list to edit and feed back."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from engine.api.actions import LOCKED
from engine.cli.loops import run_loop
from engine.cli.options import options_of
from engine.cli.summary import match_line
from engine.cli.talk import out, out_csv, printed, say, warn
from engine.errors import Reason, UsageError
from engine.inputs.files import load_job
from engine.inputs.jobfile.columns import TOLD
from engine.model import LACKING, Call, OmitReason
from engine.operations.drafts import Draft, draft
from engine.operations.preparing import idle_excludes
from engine.outside.foreign import pasted
from engine.planning.plan import Plan
from engine.report.documents import csv_text, plain

_STATES = {1: "creating", 2: "normal", 3: "modifying", 4: "resetting", LOCKED: "locked", -1: "deleting"}
"""AccountInfo.Status in words (D-ACCTS)."""
_NAMED = 20


def show_found(job_path: str, *, form: str, excel: bool, **flags: Any) -> int:
    """The `discover` command. Any: the flags, by name."""
    options = options_of(flags)
    job = load_job(job_path, skip_bad_rows=options.skip_bad_rows)
    if not job.matches:
        raise UsageError(f"{job_path}: has no match to answer; `acctops plan {pasted((job_path,))}` shows its targets")
    settings = options.settings(job)
    for warning in (*settings.warnings, *job.warnings):
        warn(f"warning: {warning}")
    made = run_loop(draft(options, job, settings, purpose="discover"), options)
    plan = made.plan
    for warning in idle_excludes(plan, (*job.exclude, *options.excludes())):
        warn(f"warning: {warning}")
    hidden = () if job.accounts else ("account",)
    calls = sorted(plan.calls, key=lambda each: (each.account, each.region, each.instance))
    rows = [_row(made, call, hidden) for call in calls]
    if excel:
        out_csv(rows, _columns(rows), excel=True)
    else:
        for part in _FORMS[form](rows):
            out(part)
    if not options.quiet:
        for asked in made.matched:
            say(match_line(asked).strip())
    _name_left_out(plan, job_path, quiet=options.quiet)
    return printed() or (Reason.INCOMPLETE if plan.lacking else Reason.OK)


def _row(made: Draft, call: Call, hidden: Collection[str]) -> dict[str, str]:
    """One account with what a person needs to decide about it; without the columns of `hidden`."""
    listed = made.rows.get(call.where)
    reading = made.known.readings.get(call.where) if made.known is not None else None
    state = reading.find(call.user) if reading is not None else None
    row = {
        "instance": call.instance,
        "user": call.user,
        "region": call.region,
        "account": call.account,
        "instance_name": plain(listed.name) if listed is not None else "",
        "engine_version": listed.version if listed is not None else "",
        "user_type": state.user_type if state is not None else "",
        "status": _STATES.get(state.status, str(state.status)) if state is not None else "",
        "cam": {True: "on", False: "off", None: ""}[state.cam] if state is not None else "",
    }
    return {name: value for name, value in row.items() if name not in hidden}


def _columns(rows: Sequence[dict[str, str]]) -> tuple[str, ...]:
    """As the rows have them; of an empty list those that every job has."""
    return tuple(rows[0]) if rows else ("instance", "user", "region", *TOLD)


def _table(rows: Sequence[dict[str, str]]) -> Iterator[str]:
    columns = _columns(rows)
    lines = [dict(zip(columns, columns, strict=True)), *rows]
    widths = {name: max(len(line[name]) for line in lines) for name in columns}
    yield "\n".join("  ".join(line[name].ljust(widths[name]) for name in columns).rstrip() for line in lines)


def _csv(rows: Sequence[dict[str, str]]) -> Iterator[str]:
    for part in csv_text(rows, _columns(rows)):
        yield part.replace("\r\n", "\n")


def _jsonl(rows: Iterable[dict[str, str]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False)


def _yaml(rows: Iterable[dict[str, str]]) -> Iterator[str]:
    """Entries a job takes as they are: one line an instance, so that deleting one is easy."""
    by_instance: dict[tuple[str, str, str], list[str]] = {}
    names: dict[tuple[str, str, str], str] = {}
    for row in rows:
        key = (row["instance"], row["region"], row.get("account", ""))
        by_instance.setdefault(key, []).append(row["user"])
        names[key] = row["instance_name"]
    yield "targets:"
    for (instance, region, account), users in by_instance.items():
        name = names[instance, region, account]
        comment = f"  # {name}" if name else ""
        whose = f"account: {account}, " if account else ""
        yield f"  - {{instance: {instance}, region: {region}, {whose}user: [{', '.join(users)}]}}{comment}"


_FORMS = {"table": _table, "csv": _csv, "jsonl": _jsonl, "yaml": _yaml}


def _name_left_out(plan: Plan, job_path: str, *, quiet: bool) -> None:
    """Say what is not in the list; what could not be looked at is a warning, also when nothing else is said."""
    lacking = [omit for omit in plan.omits if omit.reason in LACKING]
    for omit in lacking[:_NAMED]:
        warn(f"warning: {omit.target.placed}: {omit.rule}")
    if len(lacking) > _NAMED:
        warn(f"warning: … and {len(lacking) - _NAMED:,} more: acctops plan {pasted((job_path,))} --all")
    rest = [omit for omit in plan.omits if omit.reason not in LACKING and omit.reason != OmitReason.DUPLICATE]
    if quiet:
        return
    for omit in rest[:_NAMED]:
        say(f"left out, {omit.reason}: {omit.target.placed}  {omit.rule}")
    if len(rest) > _NAMED:
        say(f"… and {len(rest) - _NAMED:,} more left out: acctops plan {pasted((job_path,))} --all")
