"""The commands that look at a job and send nothing. Bodies import what they need."""

from __future__ import annotations

from typing import Any

import click

from engine.cli.flags import (
    EXCEL,
    EXCLUDE,
    EXPECT,
    FLEET,
    PLANNING,
    REASON,
    SKIP_BAD_ROWS,
    TICKET,
    clock,
    command,
    flags,
    saves,
)


@command()
@click.argument("job")
@flags(*PLANNING)
@EXCLUDE
@EXPECT
@SKIP_BAD_ROWS
@click.option("--offline", is_flag=True, help="Read no accounts. Needs no keys.")
@click.option("--all", "show_all", is_flag=True, help="Print every call. Default: the first ones.")
@click.option(
    "--fix",
    metavar="FILE",
    help="Write the targets to a new CSV list, as they were read. Leaves out bad rows, as --skip-bad-rows does.",
)
@flags("no_verify")
@REASON
@TICKET
@saves
def plan(job: str, **options: Any) -> int:
    """Show what `run` would do, and send nothing.

    Checks the job, expands its lists and matches, and reads its accounts.

    \b
    Examples:
      acctops plan lockdown.yaml
      acctops plan lockdown.yaml --fix corrected.csv
      acctops plan jobs/cam-enablement.yaml --save plan.json --key ~/.ssh/id_ed25519
      cut -d, -f1,2 list.csv | acctops plan job-that-reads-stdin.yaml --json
    """
    from engine.cli.plans import show_plan

    return show_plan(job, clock=clock(), **options)


@command()
@click.argument("job")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "yaml", "jsonl"]),
    default="table",
    show_default=True,
    help="Print a table to read, or a list to edit and to name in a job.",
)
@flags("config", "endpoint", "profile", "timeout", "output", "quiet")
@EXCLUDE
@SKIP_BAD_ROWS
@EXCEL
def discover(job: str, form: str, **options: Any) -> int:
    """List the accounts that the matches of a job find. Sends nothing.

    The list has no account that a guard or an exclusion leaves out. Name a csv or jsonl list in a job with `csv:` or
    `jsonl:`; put a yaml list in place of the job's `targets:`.

    \b
    Examples:
      acctops discover jobs/cam-by-match.yaml
      acctops discover jobs/cam-by-match.yaml --format csv > found.csv
    """
    from engine.cli.found import show_found

    return show_found(job, form=form, **options)


@command()
@click.argument("job")
@flags("config", "state_dir", "database", "json", "output", "quiet", "yes")
@EXCLUDE
@SKIP_BAD_ROWS
@click.option(
    "--seed", metavar="N", type=click.IntRange(0), help="Seed of all that is random. Default: a new one, which is said."
)
@click.option("--faults", metavar="FILE", help="Let the faults in this script happen.")
@FLEET
@click.option(
    "--contain",
    metavar="95%:60s",
    help="Exit 1 unless so many percent of the accounts are contained within this time.",
)
def drill(job: str, **options: Any) -> int:
    """Rehearse a job against the built-in simulator, at the real pace, and time it. Nothing real is touched.

    It needs no keys and holds to no window. At a terminal it asks as `run` does; elsewhere nobody is asked.

    \b
    Examples:
      acctops drill jobs/incident-lockdown.yaml
      acctops drill jobs/incident-lockdown.yaml --seed 7 --contain 95%:60s
    """
    from engine.cli.drilling import drill_job

    return drill_job(job, clock=clock(), **options)
