"""The commands that look at runs. Bodies import what they need."""

from __future__ import annotations

from typing import Any

import click

from engine.cli.flags import EXCEL, FAMILY, FORMAT, OUTPUT, READING, SINCE, Command, clock, command, flags


@command()
@click.argument("run", required=False)
@SINCE
@flags("config", "state_dir", "json", "output")
def status(run: str | None, since: str | None, **common: Any) -> int:
    """List the runs, or show how one stands, also while it works.

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


@command()
@SINCE
@click.option("--ticket", metavar="ID", help="Show only runs with this change or incident.")
@FORMAT
@EXCEL
@flags("config", "state_dir", "json", "output")
def pending(since: str | None, ticket: str | None, form: str, excel: bool, **common: Any) -> int:
    """List the accounts that are not as asked, over all runs.

    Each account is listed with the last run that has it, and with the command that goes on. The answer comes from
    the journals: `acctops verify RUN` reads the accounts again.

    \b
    Examples:
      acctops pending
      acctops pending --since 30d --ticket INC-20417 --format csv > open.csv
    """
    from engine.cli.pending import show_pending

    return show_pending(since, ticket, "csv" if excel else form, excel, clock=clock(), **common)


def _one_or_many(run: str | None, since: str | None) -> None:
    if (run is None) == (since is None):
        raise click.UsageError("name a run, or give --since, not both" if run else "name a run, or give --since 7d")


@command()
@click.argument("run", required=False)
@SINCE
@FORMAT
@EXCEL
@click.option(
    "--attempts", is_flag=True, help="Print one row for each attempt, not for each account. With json or csv."
)
@click.option("--pace", is_flag=True, help="Show how each lane used its quota.")
@click.option("--stuck", is_flag=True, help="Show only what is not as asked, grouped by cause, ready for a ticket.")
@FAMILY
@OUTPUT
@flags("config", "state_dir", "json")
def report(
    run: str | None,
    since: str | None,
    form: str,
    excel: bool,
    attempts: bool,
    pace: bool,
    stuck: bool,
    family: bool,
    output: str | None,
    **common: Any,
) -> int:
    """Show the outcome of each account of a run, from its journal.

    With --since it shows all runs of that time, for a change record.

    \b
    Examples:
      acctops report latest
      acctops report latest --format csv -o outcomes.csv
      acctops report latest --format csv --attempts
      acctops report latest --stuck --format csv -o stuck.csv
      acctops report --since 7d --excel -o week.csv
    """
    _one_or_many(run, since)
    form = "csv" if excel else form
    from engine.cli.talk import out

    with out.into(output):
        if since is not None:
            from engine.cli.lookback import show_report_since

            return show_report_since(since, form, excel, clock=clock(), **common)
        from engine.cli.views import show_report

        assert run is not None

        return show_report(
            run, form=form, excel=excel, by_attempt=attempts, by_lane=pace, stuck=stuck, family=family, **common
        )


@command()
@click.argument("run")
@FAMILY
@click.option("--watch", metavar="5m,30m", help="Read again after each of these times from now.")
@flags("config", "state_dir", "profile", "timeout", "endpoint", "json", "output", "quiet")
def verify(run: str, **options: Any) -> int:
    """Read the accounts of a run again, and name those that are not as asked any more. Changes nothing.

    \b
    Examples:
      acctops verify latest
      acctops verify 20261122T0313 --watch 5m,30m
    """
    from engine.cli.verifying import verify_run

    return verify_run(run, **options)


@click.group()
def journal() -> None:
    """Check journals."""


@journal.command("verify", cls=Command)
@click.argument("run")
@click.option(
    "--head", metavar="HASH", help="Compare with this head, which the run printed, or which was kept elsewhere."
)
@flags(*READING)
def journal_verify(run: str, head: str | None, **common: Any) -> int:
    """Check the chain of a journal, and name the first bad line.

    The chain shows any edit inside of the file. Only the head that the run printed can show that the whole file was
    rewritten, or that its end was cut off: give it with --head.

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
    """Explain an error code: what it means, what acctops does, what you should do.

    It explains the words of a report and a plan, too: outcomes, verdicts, why an account is left out.

    \b
    Examples:
      acctops explain FailedOperation.CheckAccountCAMCloseError
      acctops explain unattempted
    """
    from engine.cli.explaining import shown
    from engine.cli.talk import out

    out(shown(code))
    return 0
