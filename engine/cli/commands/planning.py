"""The commands that look at a job and send nothing. Bodies import what they need."""

from __future__ import annotations

from typing import Any

import click

from engine.cli.flags import EXCLUDE, EXPECT, PLANNING, SKIP_BAD_ROWS, command, flags


@command()
@click.argument("job")
@flags(*PLANNING)
@EXCLUDE
@EXPECT
@SKIP_BAD_ROWS
@click.option("--offline", is_flag=True, help="Read no accounts; needs no keys.")
@click.option("--all", "show_all", is_flag=True, help="Print every call, not the first of them.")
def plan(job: str, **options: Any) -> int:
    """Validate a job, expand it, read its accounts, and print what `run` would do. Sends nothing.

    \b
    Examples:
      acctops plan lockdown.yaml
      cut -d, -f1,2 list.csv | acctops plan job-that-reads-stdin.yaml --json
    """
    from engine.cli.plans import show_plan

    return show_plan(job, **options)


@command()
@click.argument("job")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "yaml", "jsonl"]),
    default="table",
    show_default=True,
    help="How: a table to read, or a list to edit and feed back.",
)
@flags("config", "endpoint", "profile", "timeout", "quiet")
@EXCLUDE
@SKIP_BAD_ROWS
def discover(job: str, form: str, **options: Any) -> int:
    """Answer the matches of a job: the accounts it would act on, as a list. Sends nothing.

    What the job's guards and exclusions leave out is not in the list. csv and jsonl are lists for `csv:` and `jsonl:`,
    yaml is a `targets:` to put in place of the job's.

    \b
    Examples:
      acctops discover jobs/cam-by-match.yaml
      acctops discover jobs/cam-by-match.yaml --format csv > found.csv
    """
    from engine.cli.found import show_found

    return show_found(job, form=form, **options)
