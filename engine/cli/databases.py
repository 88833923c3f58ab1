"""The commands `database migrate` and `journal export`."""

from __future__ import annotations

from typing import Any

from engine.cli.options import options_of
from engine.cli.talk import out, out_json, printed, warn


def migrate_database(url: str, *, as_json: bool) -> int:
    """The `database migrate` command."""
    from engine.operations.databases import migrated

    done, has_workers = migrated(url)
    if as_json:
        out_json(
            {"database": done.place, "before": done.before, "after": done.after, "workers": has_workers, "exit": 0}
        )
    elif done.before == done.after:
        out(f"{done.place}: its tables have version {done.after} already")
    elif done.before:
        out(f"{done.place}: its tables have version {done.after} now, and had {done.before}")
    else:
        out(f"{done.place}: has the tables of acctops now, version {done.after}")
        out("let those who run commands in: grant acctops_worker to ROLE; those who only look: grant acctops_reader")
    if not has_workers:
        warn(
            "dbos is not installed here, so the tables that workers need were neither made nor brought up: "
            "pip install 'acctops[workers]', then say this again"
        )
    return printed()


def export_journal(run: str, into: str, **flags: Any) -> int:
    """The `journal export` command. Any: the flags, by name."""
    from engine.operations.databases import exported

    options = options_of(flags)
    done = exported(options, run, into)
    if options.as_json:
        out_json({"run": done.run_id, "path": str(done.path), "lines": done.lines, "head": done.head, "exit": 0})
    elif not options.quiet:
        out(f"{done.path}: {done.lines:,} lines\nhead {done.head}")
    return printed()
