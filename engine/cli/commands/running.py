"""The commands that send, and the one that stops them. Bodies import what they need."""

from __future__ import annotations

from collections.abc import Callable
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
    REAL_GATE,
    REASON,
    SENDING,
    SIMULATE,
    SKIP_BAD_ROWS,
    TICKET,
    clock,
    command,
    flags,
    saves,
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
    help="Do this if the last run of this job was cut off. Default: as the job says, else resume.",
)
@SIMULATE
@FAULTS
@FLEET
@REAL_GATE
@REASON
@TICKET
def run(job: str, **options: Any) -> int:
    """Carry out a job: plan, ask, send, read back, report.

    \b
    Examples:
      acctops run lockdown.yaml
      acctops run lockdown.yaml --yes --json > result.json
      acctops run jobs/incident-lockdown.yaml --simulate
      acctops run jobs/cam-by-match.yaml --simulate --fleet random:40x8
    """
    from engine.cli.running import run_job

    return run_job(job, clock=clock(), **options)


def _afterwards(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that say what comes after the run."""
    for option in reversed(
        (
            click.option(
                "--for", "for_", metavar="SPAN", help="Hold the accounts so long, such as 4h. Default: without end."
            ),
            click.option(
                "--until", metavar="TIME", help="Hold them until then, with the zone: 2026-12-01T08:00+08:00, or …Z."
            ),
            click.option(
                "--then",
                type=click.Choice(["tell", "unlock", "unlock_rotated"]),
                help="Do this at that end (`acctops tend` does it). Default: tell, and a person decides.",
            ),
            click.option(
                "--watch",
                metavar="[SPAN]",
                is_flag=False,
                flag_value="30d",
                help="Have `acctops tend` read the accounts after 5m and 30m, then every day so long. Default: 30d.",
            ),
        )
    ):
        command = option(command)
    return command


def _ad_hoc(action: str) -> click.Command:
    row = ACTIONS[action]

    @command(
        row.command,
        help=f"{row.command_help} the named accounts, without a job file.\n\n\b\nExamples:\n  "
        f"acctops {row.command} postgres-4sfuv15b/app_user --region ap-singapore\n  "
        f"acctops {row.command} @list.csv",
    )
    @click.argument("targets", nargs=-1, required=True, metavar="INSTANCE/USER|@FILE…")
    @click.option("--region", metavar="REGION", help="The region of the instances. A list may name its own.")
    @flags(*SENDING)
    @_afterwards
    @EXCLUDE
    @SKIP_BAD_ROWS
    @SIMULATE
    @FAULTS
    @REASON
    @TICKET
    @saves
    def act(targets: tuple[str, ...], region: str | None, **options: Any) -> int:
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
    """Go on with a run that was interrupted, or lift the pause of a live one. Its journal is enough.

    Which of the two was done is said. Going on with a run whose process ended in a pause asks first.

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
    help="Repeat the calls with these outcomes. Separate them by commas.",
)
@click.option(
    "--code",
    "codes",
    metavar="CODE",
    multiple=True,
    help="Repeat only the calls that ended with this error code. Repeat the flag for more.",
)
@flags(*SENDING)
@NOW
@EXCLUDE
@FAULTS
@REASON
@TICKET
@saves
def rerun(run: str, **options: Any) -> int:
    """Try again what an older run did not achieve, in a new run that is linked to it.

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
    "--target",
    "targets",
    metavar="GLOB|@FILE",
    multiple=True,
    help="Undo only these accounts, written instance/user, or listed in a file.",
)
@click.option("--wave", metavar="N", type=click.IntRange(min=1), help="Undo only the accounts of this wave of the run.")
@click.option("--include-edited", is_flag=True, help="Undo accounts too that somebody has edited since.")
@click.option("--rotated", is_flag=True, help="Undo only accounts whose password was changed after the run.")
@click.option(
    "--due",
    is_flag=True,
    help="Undo only accounts whose limit has passed and that need no person, as `acctops tend` does.",
)
@click.option(
    "--release",
    "released",
    metavar="RUN",
    multiple=True,
    help="End the holds of this other run on these accounts, too. Repeat it for more.",
)
@click.option(
    "--ignore",
    "ignored",
    metavar="RUN",
    multiple=True,
    help="Do not count what this run holds, whose journal is damaged. Repeat it for more.",
)
@click.option(
    "--password-command",
    metavar="CMD",
    help="For an undo of CAM: get each new password from this program. No shell is used.",
)
@click.option(
    "--password-file",
    metavar="FILE",
    help="For an undo of CAM: read the new passwords from this CSV (instance,user,password; mode 600).",
)
@flags(*SENDING)
@EXCLUDE
@FAULTS
@REASON
@TICKET
@saves
def undo(run: str, **options: Any) -> int:
    """Take back what a run changed, where the account still is as the run left it.

    The preview names each account that stays, and why: changed since, edited, held by another run. Where another run
    holds an account, only this run's hold ends: the undo of the last holder opens it. An undo is a run: it can be
    resumed, repeated and undone.

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
@click.option(
    "--for", "for_", metavar="SPAN", help="Stop the run in order (exit 4) if nobody lifts the pause within it: 30m."
)
@flags("config", "state_dir", "database", "json")
def pause(run: str, for_: str | None, **common: Any) -> int:
    """Hold a live run from another shell: it begins no new call until `resume`.

    It returns once the journal says so: calls in flight have ended then, and no call leaves any more.

    \b
    Examples:
      acctops pause latest
      acctops pause latest --for 30m
    """
    from engine.cli.steering import pause_run

    return pause_run(run, for_, **common)


@command()
@click.argument("run")
@click.option(
    "--drop",
    metavar="GLOB|@FILE",
    multiple=True,
    help="Leave out these accounts, written instance/user, or listed in a file. They count as failed.",
)
@click.option("--first", metavar="GLOB|@FILE", multiple=True, help="Send these accounts before all others.")
@flags("config", "state_dir", "database", "rate", "json")
def change(run: str, drop: tuple[str, ...], first: tuple[str, ...], **common: Any) -> int:
    """Change a live run from another shell, also while it is paused.

    It returns once the journal says so. An account for which a call was sent cannot be dropped: undo it.

    \b
    Examples:
      acctops change latest --rate 5
      acctops change latest --drop 'postgres-4sfuv15b/*' --first @urgent.txt
    """
    from engine.cli.steering import change_run

    return change_run(run, drop, first, **common)


@command()
@click.argument("run")
@flags(*READING)
def stop(run: str, **common: Any) -> int:
    """Stop a run from another shell, in order.

    The run sends no new call. Calls in flight end and are recorded. Go on later with `resume`.

    \b
    Example:
      acctops stop latest
    """
    from engine.cli.views import stop_run

    return stop_run(run, **common)
