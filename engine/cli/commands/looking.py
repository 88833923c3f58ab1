"""The commands that look at runs. Bodies import what they need."""

from __future__ import annotations

from typing import Any

import click

from engine.cli.flags import EXCEL, FAMILY, FORMAT, OUTPUT, READING, SINCE, Command, clock, command, flags, into


@command()
@click.argument("run", required=False)
@SINCE
@flags("config", "state_dir", "database", "json", "output")
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
@flags("config", "state_dir", "database", "json", "output")
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
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@SINCE
@EXCEL
@click.option("--ticket", metavar="ID", help="With html: all runs with this change or incident, on one timeline.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "csv", "html"]),
    default="text",
    show_default=True,
    help="Print it so. html: one file to look at, to print and to attach.",
)
@click.option(
    "--attempts", is_flag=True, help="Print one row for each attempt, not for each account. With json or csv."
)
@click.option("--pace", is_flag=True, help="Show how each lane used its quota.")
@click.option("--stuck", is_flag=True, help="Show only what is not as asked, grouped by cause, ready for a ticket.")
@FAMILY
@OUTPUT
@flags("config", "state_dir", "database", "json")
def report(
    runs: tuple[str, ...],
    since: str | None,
    ticket: str | None,
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
      acctops report latest --format html -o run.html
      acctops report --ticket INC-20417 --format html -o incident.html
      acctops report --since 7d --excel -o week.csv
    """
    if form == "html" and not common.get("as_json"):
        if bool(runs) == bool(since or ticket):
            raise click.UsageError("name runs, or give --ticket or --since 7d, not both")
        from engine.cli.picturing import show_page

        file = None if output == "-" else output
        return show_page(runs, family=family, ticket=ticket, since=since, output=file, clock=clock(), **common)
    if len(runs) > 1:
        raise click.UsageError("several runs go with --format html; name one run")
    run = runs[0] if runs else None
    _one_or_many(run, since)
    form = "csv" if excel else form

    def show() -> int:
        if since is not None:
            from engine.cli.lookback import show_report_since

            return show_report_since(since, form, excel, clock=clock(), **common)
        from engine.cli.views import show_report

        assert run is not None
        how = {"by_attempt": attempts, "by_lane": pace, "stuck": stuck, "family": family}
        return show_report(run, form=form, excel=excel, **how, **common)

    return int(into(output, show))


@command()
@click.argument("run")
@FAMILY
@click.option("--watch", metavar="5m,30m", help="Read again after each of these times from now.")
@flags("config", "state_dir", "database", "profile", "timeout", "endpoint", "json", "output", "quiet")
def verify(run: str, **options: Any) -> int:
    """Read the accounts of a run again, and name those that are not as asked any more. Changes nothing.

    \b
    Examples:
      acctops verify latest
      acctops verify 20261122T0313 --watch 5m,30m
    """
    from engine.cli.verifying import verify_run

    return verify_run(run, **options)


@command()
@click.argument("run", required=False)
@click.option("--ticket", metavar="ID", help="Take all runs with this change or incident, and what belongs to them.")
@click.option("--out", "file", metavar="F.zip", required=True, help="Write the bundle to this new file.")
@flags("config", "state_dir", "database", "json")
def evidence(run: str | None, ticket: str | None, file: str, **common: Any) -> int:
    """Write all that proves a run, or a ticket, into one file for an auditor. Sends nothing.

    It has the journals of the run, its reruns, undos and watches, their reports, approvals and seals, and a verify.py
    that checks all of it with Python alone. No key and no password is in it; journals keep the arguments of gates and
    of password commands, and the command says so. What was recorded and cannot be had is named (exit 1).

    \b
    Examples:
      acctops evidence latest --out run.zip
      acctops evidence --ticket INC-20417 --out INC-20417.zip
    """
    if (run is None) == (ticket is None):
        raise click.UsageError("name a run, or give --ticket, not both" if run else "name a run, or give --ticket ID")
    from engine.cli.evidence import show_evidence

    return show_evidence(run, ticket, file, **common)


@click.group()
def journal() -> None:
    """Check journals."""


@journal.command("verify", cls=Command)
@click.argument("run", required=False)
@click.option("--all", "is_all", is_flag=True, help="Check every run, the list of their ends, and its seals.")
@click.option(
    "--head",
    metavar="HASH",
    help="Compare with this head, which the run printed, or which was kept elsewhere; with --all, with the hash of a "
    "line of heads.jsonl.",
)
@flags(*READING)
def journal_verify(run: str | None, is_all: bool, head: str | None, **common: Any) -> int:
    """Check the chain of a journal, and name the first bad line.

    With --all it checks all journals of the state directory, and compares them with heads.jsonl, the list of the ends
    of runs: a run that was removed, cut, written anew or replaced by an older copy is named (exit 7).

    The chain shows any edit inside of the file. Only the head that the run printed can show that the whole file was
    rewritten, or that its end was cut off: give it with --head.

    \b
    Examples:
      acctops journal verify latest
      acctops journal verify latest --head 3be1…
      acctops journal verify --all
    """
    if is_all == (run is not None):
        raise click.UsageError("name a run, or say --all")
    if run is None:
        from engine.cli.proving import verify_all

        return verify_all(head=head, **common)
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


@journal.command("export", cls=Command)
@click.argument("run")
@click.option("--into", metavar="DIR", required=True, help="Write them into a new directory of the run's name there.")
@flags("config", "state_dir", "database", "json", "quiet")
def journal_export(run: str, into: str, **common: Any) -> int:
    """Write the journal of a run as files, which every command that reads takes by their path.

    \b
    Examples:
      acctops journal export latest --into /mnt/archive
      acctops journal verify /mnt/archive/20261122T031300Z-q7c2
    """
    from engine.cli.databases import export_journal

    return export_journal(run, into, **common)
