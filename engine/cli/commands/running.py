"""The commands that send, and the one that stops them. Bodies import what they need."""

from __future__ import annotations

from typing import Any

import click

from engine.api.actions import ACTIONS
from engine.cli.flags import (
    EXCLUDE,
    EXPECT,
    FAMILY,
    FAULTS,
    FLEET,
    NOW,
    ONCE,
    READING,
    REASON,
    SENDING,
    SIMULATE,
    SKIP_BAD_ROWS,
    TICKET,
    clock,
    command,
    flags,
)


@command()
@click.argument("job")
@flags(*SENDING)
@NOW
@ONCE
@EXCLUDE
@EXPECT
@SKIP_BAD_ROWS
@click.option(
    "--on-unfinished",
    type=click.Choice(["resume", "new", "refuse"]),
    help="What to do if the last run of this job was cut off; default: as the job says, else resume.",
)
@SIMULATE
@FAULTS
@FLEET
@REASON
@TICKET
def run(job: str, **options: Any) -> int:
    """Plan, confirm, apply, report.

    \b
    Examples:
      acctops run lockdown.yaml
      acctops run lockdown.yaml --yes --json > result.json
      acctops run jobs/incident-lockdown.yaml --simulate
      acctops run jobs/cam-by-match.yaml --simulate --fleet random:40x8
    """
    from engine.cli.running import run_job

    return run_job(job, clock=clock(), **options)


def _ad_hoc(action: str) -> click.Command:
    row = ACTIONS[action]

    @command(
        row.command,
        help=f"{row.command_help} a few accounts, without a file.\n\n\b\nExample:\n  "
        f"acctops {row.command} postgres-4sfuv15b/app_user --region ap-singapore",
    )
    @click.argument("targets", nargs=-1, required=True, metavar="INSTANCE/USER…")
    @click.option("--region", required=True, help="Region of the instances, such as ap-singapore.")
    @flags(*SENDING)
    @EXCLUDE
    @SIMULATE
    @FAULTS
    @REASON
    @TICKET
    def act(targets: tuple[str, ...], region: str, **options: Any) -> int:
        from engine.cli.running import run_ad_hoc

        return run_ad_hoc(action, targets, region, clock=clock(), **options)

    return act


lock = _ad_hoc("LockAccount")
unlock = _ad_hoc("UnlockAccount")
cam_on = _ad_hoc("OpenAccountCAM")


@command()
@click.argument("run")
@flags(*SENDING)
@NOW
@EXCLUDE
def resume(run: str, **options: Any) -> int:
    """Go on with a run that was interrupted, from its journal alone.

    RUN is a run id, the beginning of one, `latest`, `latest:JOBNAME`, or a journal's path.

    \b
    Examples:
      acctops resume latest
      acctops resume 20261122T0313 --rate 10 --exclude '*/payroll_*'
    """
    from engine.cli.goingon import resume_run

    return resume_run(run, clock=clock(), **options)


@command()
@click.argument("run")
@click.option(
    "--only",
    metavar="KINDS",
    default="failed,unknown,unattempted",
    show_default=True,
    help="Outcomes to repeat, separated by commas.",
)
@click.option("--code", "codes", metavar="CODE", multiple=True, help="Only calls that ended with this code.")
@flags(*SENDING)
@NOW
@EXCLUDE
@FAULTS
@REASON
@TICKET
def rerun(run: str, **options: Any) -> int:
    """A new run of what did not work out in an older one, linked to it.

    \b
    Examples:
      acctops rerun latest
      acctops rerun 20261122T0313 --only failed --code OperationDenied.InstanceStatusLimitOpError
    """
    from engine.cli.goingon import rerun_run

    return rerun_run(run, clock=clock(), **options)


@command()
@click.argument("run")
@FAMILY
@click.option(
    "--target", "targets", metavar="GLOB|@FILE", multiple=True, help="Only these: instance/user, or a file of them."
)
@click.option("--include-edited", is_flag=True, help="Also accounts that somebody edited since.")
@click.option("--rotated", is_flag=True, help="Only accounts whose password was changed after the run.")
@click.option("--release", "released", metavar="RUN", multiple=True, help="Ignore that this run holds accounts, too.")
@click.option("--password-command", metavar="CMD", help="Undo of CAM: program that prints the new password, no shell.")
@click.option("--password-file", metavar="FILE", help="Undo of CAM: CSV instance,user,password, mode 600.")
@flags(*SENDING)
@EXCLUDE
@FAULTS
@REASON
@TICKET
def undo(run: str, **options: Any) -> int:
    """Bring back what a run changed, and only where it still stands as the run left it.

    The preview names what stays and why: changed since, edited, held by another run. May be repeated until nothing is
    left. An undo is a run of its own; it can be resumed, rerun and undone.

    \b
    Examples:
      acctops undo 20261122T0313
      acctops undo 20261122T0313 --target 'postgres-4sfuv15b/*' --rotated
      acctops undo 20261122T0313 --target @accounts.txt --reason "app owners confirmed"
    """
    from engine.cli.undoing import undo_run

    return undo_run(run, clock=clock(), **options)


@command()
@click.argument("run")
@flags(*READING)
def stop(run: str, **common: Any) -> int:
    """Drain a live run from another shell: no new call; attempts under way end and are recorded.

    \b
    Example:
      acctops stop latest
    """
    from engine.cli.views import stop_run

    return stop_run(run, **common)
