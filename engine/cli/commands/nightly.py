"""The commands of jobs that run by themselves. Bodies import what they need."""

from __future__ import annotations

from typing import Any

import click

from engine.cli.flags import READING, clock, command, flags
from engine.inputs.settingtable import WITH_FLAG


@command()
@click.argument("job", required=False)
@click.option(
    "--tend", is_flag=True, help="Print the units of `acctops tend` alone, for all jobs of a state directory."
)
@click.option("--no-tend", is_flag=True, help="Print the job's units alone.")
@click.option(
    "--worker", is_flag=True, help="Print units of `acctops worker` alone, which carry out the runs of a database."
)
@click.option(
    "--lanes", type=click.IntRange(1, 1000), metavar="N", help="With --worker: as for `acctops worker`. Default: 50."
)
@click.option(
    "--program", "programs", metavar="FILE", multiple=True, help="With --worker: as for `acctops worker`. Repeat it."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["cron", "systemd", "k8s", "compose"]),
    required=True,
    help="Print units for this scheduler. compose is for --worker: three workers and a PostgreSQL of their own.",
)
@click.option("--user", metavar="NAME", help="Run it as this user; in containers a number. Default: you.")
@click.option(
    "--env-file",
    metavar="FILE",
    help="Take the keys from this file of NAME=value lines. Default: /etc/acctops/env, if it exists.",
)
@click.option(
    "--every",
    metavar="8d",
    help="Call the job overdue after so long. Default: the window's longest pause and a day; with --tend 15m.",
)
@click.option("--image", metavar="IMAGE", help="For k8s and compose: use this container image. It must have acctops.")
@click.option(
    "--into", metavar="DIR", help="Write the files to this directory, such as /etc/systemd/system. Default: print them."
)
@flags("config", "endpoint", "state_dir", "database", "profile", *WITH_FLAG)
def schedule(job: str | None, **options: Any) -> int:
    """Print units that run a job in its window, and units that do what is due after runs.

    A second unit checks each day whether the job has run. What is due after runs (`acctops tend`) is done every five
    minutes, by one set of units for all jobs of a state directory, and checked, too. All paths in the units are
    absolute, and the flags given here stand in them. Starts nothing.

    With --worker it prints what keeps a worker going: a service of systemd, three pods of Kubernetes, or three
    containers with a PostgreSQL of their own.

    \b
    Examples:
      acctops schedule jobs/cam-enablement.yaml --format systemd --user dba --into /etc/systemd/system
      acctops schedule jobs/cam-enablement.yaml --format cron --into /etc/cron.d
      acctops schedule --tend --format systemd --into /etc/systemd/system
      acctops schedule --worker --format systemd --user dba --into /etc/systemd/system
    """
    from engine.cli.scheduling import show_schedule

    return show_schedule(job, **options)


@command()
@click.argument("job", required=False)
@click.option("--tend", is_flag=True, help="Instead of a job check `acctops tend`, which does what is due after runs.")
@click.option(
    "--every",
    metavar="8d",
    help="Call it overdue if its last good run ended longer ago than this. Default with --tend: 15m.",
)
@click.option("--notify", is_flag=True, help="If it is overdue, tell those named by `notify` in the job or the config.")
@flags(*READING)
def overdue(job: str | None, every: str | None, notify: bool, tend: bool, **common: Any) -> int:
    """Check that a job has had a good run in time; exit 1 if not. For a monitor or a timer.

    JOB is the path or the name of the job. The answer comes from the journals alone: the file is not read, and need not
    exist. A rerun counts if all is done by it and the run that it repeats.

    \b
    Examples:
      acctops overdue jobs/cam-night.yaml --every 8d
      acctops overdue cam-night --every 8d --quiet
      acctops overdue --tend --notify
    """
    from engine.cli.lookback import show_overdue

    return show_overdue(job, every, notify, tend, clock=clock(), **common)
