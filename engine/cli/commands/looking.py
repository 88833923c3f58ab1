"""The commands that look at runs. Bodies import what they need."""

from __future__ import annotations

from typing import Any

import click

from engine.cli.flags import FAMILY, READING, SINCE, Command, clock, command, flags


@command()
@click.argument("run", required=False)
@SINCE
@flags("config", "state_dir", "json")
def status(run: str | None, since: str | None, **common: Any) -> int:
    """List runs, or say how one stands, also while it is going on.

    \b
    Examples:
      acctops status
      acctops status latest
      acctops status --since 7d
    """
    if since is not None:
        from engine.cli.lookback import show_status_since

        _one_or_many(run, since)
        return show_status_since(since, clock=clock(), **common)
    from engine.cli.views import show_status

    return show_status(run, **common)


def _one_or_many(run: str | None, since: str | None) -> None:
    if (run is None) == (since is None):
        raise click.UsageError("name a run, or give --since, not both" if run else "name a run, or give --since 7d")


@command()
@click.argument("run", required=False)
@SINCE
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "csv"]), default="text", show_default=True, help="How."
)
@click.option("--attempts", is_flag=True, help="One row an attempt instead of one a target (json, csv).")
@click.option("--pace", is_flag=True, help="How each lane used its quota.")
@click.option("--stuck", is_flag=True, help="Only what is not as asked, grouped by cause, ready for a ticket.")
@FAMILY
@flags("config", "state_dir", "json")
def report(
    run: str | None,
    since: str | None,
    form: str,
    attempts: bool,
    pace: bool,
    stuck: bool,
    family: bool,
    **common: Any,
) -> int:
    """Every target's outcome, from the journal; with --since, of all runs of a time, for a change record.

    \b
    Examples:
      acctops report latest
      acctops report latest --format csv > outcomes.csv
      acctops report latest --format csv --attempts
      acctops report --since 7d --format csv > week.csv
    """
    _one_or_many(run, since)
    if since is not None:
        from engine.cli.lookback import show_report_since

        return show_report_since(since, form, clock=clock(), **common)
    from engine.cli.views import show_report

    assert run is not None

    return show_report(run, form=form, by_attempt=attempts, by_lane=pace, stuck=stuck, family=family, **common)


@command()
@click.argument("run")
@FAMILY
@click.option("--watch", metavar="5m,30m", help="Read again after each of these times, counted from now.")
@flags("config", "state_dir", "profile", "timeout", "endpoint", "json", "quiet")
def verify(run: str, **options: Any) -> int:
    """Read the accounts of a run again now, and name those that came back. Writes nothing.

    \b
    Examples:
      acctops verify latest
      acctops verify 20261122T0313 --watch 5m,30m
    """
    from engine.cli.verifying import verify_run

    return verify_run(run, **options)


@click.group()
def journal() -> None:
    """Look after journals."""


@journal.command("verify", cls=Command)
@click.argument("run")
@click.option("--head", metavar="HASH", help="The head that was printed or kept elsewhere.")
@flags(*READING)
def journal_verify(run: str, head: str | None, **common: Any) -> int:
    """Check the chain of a journal; name the first bad line.

    The chain shows edits inside the file. It cannot show that the whole was rewritten or its end cut off: for that,
    give the head that the run printed.

    \b
    Examples:
      acctops journal verify latest
      acctops journal verify latest --head 3be1…
    """
    from engine.cli.views import verify_journal

    return verify_journal(run, head=head, **common)


@command()
@click.argument("code")
def explain(code: str) -> int:
    """What an error code means, what acctops does about it, and what you should do.

    \b
    Example:
      acctops explain FailedOperation.CheckAccountCAMCloseError
    """
    from engine.api.verdicts import explain as words
    from engine.cli.talk import out

    out(words(code))
    return 0
