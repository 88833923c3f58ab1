"""The commands of jobs that run by themselves. Bodies import what they need."""

from __future__ import annotations

from typing import Any

import click

from engine.cli.flags import READING, clock, command, flags
from engine.inputs.settingtable import WITH_FLAG


@command()
@click.argument("job")
@click.option(
    "--format", "form", type=click.Choice(["cron", "systemd", "k8s"]), required=True, help="For which scheduler."
)
@click.option("--user", metavar="NAME", help="Who it runs as; default: you. For k8s a number.")
@click.option(
    "--env-file", metavar="FILE", help="Keys, as NAME=value lines; default: /etc/acctops/env, if it is there."
)
@click.option("--every", metavar="8d", help="Overdue after so long; default: the window's longest pause and a day.")
@click.option("--image", metavar="IMAGE", help="k8s: the container image that has acctops.")
@click.option("--into", metavar="DIR", help="Write the files there, such as /etc/systemd/system, instead of printing.")
@flags("config", "endpoint", "state_dir", "profile", *WITH_FLAG)
def schedule(job: str, **options: Any) -> int:
    """Print units that run a job in its window, and look every day whether that has happened.

    Paths are absolute, and the flags given here are given there. Nothing is started.

    \b
    Examples:
      acctops schedule jobs/cam-enablement.yaml --format systemd --user dba --into /etc/systemd/system
      acctops schedule jobs/cam-enablement.yaml --format cron > /etc/cron.d/acctops-cam
    """
    from engine.cli.scheduling import show_schedule

    return show_schedule(job, **options)


@command()
@click.argument("job")
@click.option("--every", metavar="8d", required=True, help="How long ago the last good run may have ended.")
@click.option("--notify", is_flag=True, help="If it is overdue, tell those that `notify` of job or config names.")
@flags(*READING)
def overdue(job: str, every: str, notify: bool, **common: Any) -> int:
    """Exit 1 unless a run of a job ended with exit 0 within a time. For a monitor, or a timer of its own.

    JOB is the job's file or its name. It is answered from journals alone: the file is not read, and may be gone. A
    rerun counts if together with what it repeated everything is done.

    \b
    Examples:
      acctops overdue jobs/cam-night.yaml --every 8d
      acctops overdue cam-night --every 8d --quiet
    """
    from engine.cli.lookback import show_overdue

    return show_overdue(job, every, notify, clock=clock(), **common)
