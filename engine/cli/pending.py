"""The `pending` command: the accounts that are not as asked, over all runs."""

from __future__ import annotations

from typing import Any

from engine.cli.lookback import begin_of
from engine.cli.options import options_of
from engine.cli.talk import out, out_csv, out_json, printed, say, warn
from engine.errors import Reason
from engine.operations.pending import OpenRun, pending
from engine.report.documents import CSV_COLUMNS, about, plain, row
from engine.report.text import kind_of

SHOWN = 20
"""Accounts of a run that the text names."""


def show_pending(since: str | None, ticket: str | None, form: str, excel: bool, **flags: Any) -> int:
    """Print what is open, and what goes on with it. Any: the flags, by name."""
    options = options_of(flags)
    form = "json" if options.as_json else form
    begin = begin_of(options, since) if since is not None else None
    found = pending(options, since=begin, ticket=ticket)
    if form == "json":
        out_json(
            {
                "state_dir": found.state_dir,
                "open": found.count,
                "unnamed": found.unnamed,
                "runs": [_document(each) for each in found.runs],
                "unreadable": [{"run": run, "problem": problem} for run, problem in found.unreadable],
            }
        )
    elif form == "csv":
        rows = ({**_about(each), **row(*target, each.way)} for each in found.runs for target in each.targets)
        out_csv(rows, CSV_COLUMNS, excel=excel)
    else:
        say(f"runs in {found.state_dir}")
        for each in found.runs:
            _print(each)
        runs = sum(bool(each.targets) for each in found.runs)
        accounts = "1 account is" if found.count == 1 else f"{found.count:,} accounts are"
        more = f", and {found.unnamed:,} rows or matches named none" if found.unnamed else ""
        out(f"{accounts} not as asked, of {runs:,} of {found.looked_at:,} runs{more}")
    for run, problem in found.unreadable:
        warn(f"run {run} cannot be read, and what it has open is not known: {problem}")
    return printed() or (Reason.CORRUPT if found.unreadable else Reason.OK)


def _about(each: OpenRun) -> dict[str, Any]:
    assert each.head.run is not None
    return about(each.head.run)


def _document(each: OpenRun) -> dict[str, Any]:
    """Return one run with its open accounts. Any: JSON values."""
    return {
        **_about(each),
        "action": each.head.action,
        "live": each.head.live,
        "unnamed": each.unnamed,
        "working_on": each.working,
        "go_on": None if each.head.live else each.way.command,
        "targets": [row(*target, each.way) for target in each.targets],
    }


def _print(each: OpenRun) -> None:
    told = _about(each)
    more = "".join(f"  {told[key]}" for key in ("ticket", "operator") if told[key])
    live = f"  LIVE, works on {each.working:,} more" if each.head.live else ""
    count = f"{len(each.targets):,} open"
    out(plain(f"{told['run']}  {each.head.action}  {told['job']}{more}  {count}{live}"))
    for target in each.targets[:SHOWN]:
        call, entry, _ = target
        code = f"  {entry.code}" if entry.code else ""
        out(plain(f"  {call.placed}  {kind_of(target)}{code}"))
    if each.unnamed:
        out(f"  {each.unnamed:,} of what was asked for named no account: acctops report {told['run']} --stuck")
    if len(each.targets) > SHOWN:
        out(f"  … and {len(each.targets) - SHOWN:,} more (--format csv lists all)")
    if not each.head.live:
        for line in each.way.lines(1):
            out(f"  {line}")
