"""Door: the commands and their flags. Bodies import what they need, so that `--help` and `plan` start at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from engine import __version__

_F = TypeVar("_F", bound=Callable[..., Any])

EXITS = """\b
Exit codes:
  0    every selected target is in the desired state
  1    finished; some failed or are unknown
  2    usage, config or job-file error; nothing sent
  3    refused by a guard, or not confirmed; nothing sent
  4    stopped early (failures, deadline, fatal code, disk); resumable
  5    credentials or permission refused before any accepted write
  6    another process holds this run, or runs the same job
  7    the journal is corrupt or was tampered with
  130/143  interrupted / terminated; resumable
"""

_SHARED: dict[str, Callable[[_F], _F]] = {
    "config": click.option("--config", metavar="FILE", help="Config file (its guards add to those found)."),
    "endpoint": click.option(
        "--endpoint",
        "endpoints",
        metavar="WHERE",
        multiple=True,
        help="URL, nearest, regional or an access region; repeated: each is a lane.",
    ),
    "state_dir": click.option("--state-dir", metavar="DIR", help="Where journals live."),
    "profile": click.option(
        "--profile",
        "profiles",
        metavar="NAME",
        multiple=True,
        help="Credential profile of the vendor's CLI; repeated: each is a lane.",
    ),
    "rate": click.option("--rate", metavar="N", help="Calls a second and lane; default: the quota."),
    "workers": click.option("--workers", metavar="N", help="Attempts in flight, at most (100)."),
    "timeout": click.option("--timeout", metavar="10s", help="Of one attempt."),
    "deadline": click.option("--deadline", metavar="D", help="Stop sending after so long, such as 15m."),
    "yes": click.option("--yes", is_flag=True, help="Do not ask."),
    "json": click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout."),
    "quiet": click.option("--quiet", is_flag=True, help="On success print nothing; else the full report."),
    "no_verify": click.option("--no-verify", is_flag=True, help="Do not read accounts back."),
}
READING = ("config", "state_dir", "json", "quiet")
PLANNING = ("config", "endpoint", "state_dir", "profile", "rate", "workers", "timeout", "deadline", "json", "quiet")
SENDING = (*PLANNING, "yes", "no_verify")


def _clock() -> Callable[[], float]:
    """What the command tells the time by (`cli.main`)."""
    return click.get_current_context().obj or time.time


def flags(*names: str) -> Callable[[_F], _F]:
    """Common flags, in this order in the help."""

    def add(command: _F) -> _F:
        for name in reversed(names):
            command = _SHARED[name](command)
        return command

    return add


_SIMULATE = click.option("--simulate", is_flag=True, help="Against the built-in simulator; needs no account.")
_FAULTS = click.option("--faults", metavar="FILE", help="With --simulate: a script of faults to meet.")
_FLEET = click.option(
    "--fleet",
    metavar="FILE",
    help="With --simulate: the instances and accounts that exist: a file, or random:400x8 (instances x accounts).",
)
_EXCLUDE = click.option(
    "--exclude", metavar="GLOB", multiple=True, help="Leave out instance/user, such as '*/etl_*'; may be repeated."
)
_EXPECT = click.option(
    "--expect", metavar="N", type=click.IntRange(min=0), help="Refuse unless the plan has exactly N calls."
)
_SKIP_BAD_ROWS = click.option(
    "--skip-bad-rows", is_flag=True, help="Go on without rows of lists that are no targets; they count as failed."
)
_SINCE = click.option("--since", metavar="7d", help="All runs of so long until now.")
_FAMILY = click.option(
    "--family", is_flag=True, help="Over this run and its reruns: the latest outcome of every target."
)
_NOW = click.option("--now", is_flag=True, help="Do not hold to the job's window; for a person at a terminal.")
_REASON = click.option("--reason", metavar="TEXT", help="Why; goes into the journal.")
_TICKET = click.option("--ticket", metavar="ID", help="Change or incident; goes into the journal.")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXITS,
)
@click.version_option(__version__, prog_name="acctops", message="%(prog)s %(version)s")
def app() -> None:
    """Bulk account operations for TencentDB for PostgreSQL: paced, journalled, resumable.

    \b
    First try, without any account:
      acctops run jobs/incident-lockdown.yaml --simulate
    Lock what a file lists, then go on with whatever was interrupted:
      acctops plan lockdown.yaml
      acctops run lockdown.yaml
      acctops resume latest
    Lock three accounts, without a file:
      acctops lock postgres-4sfuv15b/app_user postgres-4sfuv15b/etl --region ap-singapore
    """


@app.command()
@click.argument("job")
@flags(*PLANNING)
@_EXCLUDE
@_EXPECT
@_SKIP_BAD_ROWS
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


@app.command()
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
@_EXCLUDE
@_SKIP_BAD_ROWS
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


@app.command()
@click.argument("job")
@flags(*SENDING)
@_NOW
@_EXCLUDE
@_EXPECT
@_SKIP_BAD_ROWS
@click.option(
    "--on-unfinished",
    type=click.Choice(["resume", "new", "refuse"]),
    help="What to do if the last run of this job was cut off; default: as the job says, else resume.",
)
@_SIMULATE
@_FAULTS
@_FLEET
@_REASON
@_TICKET
def run(job: str, **options: Any) -> int:
    """Plan, confirm, apply, report.

    \b
    Examples:
      acctops run lockdown.yaml
      acctops run lockdown.yaml --yes --json > result.json
      acctops run jobs/incident-lockdown.yaml --simulate
      acctops run jobs/cam-by-match.yaml --simulate --fleet random:40x8
    """
    from engine.cli.starting import run_job

    return run_job(job, clock=_clock(), **options)


def _ad_hoc(name: str, action: str, what: str) -> None:
    @app.command(
        name,
        help=f"{what} a few accounts, without a file.\n\n\b\nExample:\n  "
        f"acctops {name} postgres-4sfuv15b/app_user --region ap-singapore",
    )
    @click.argument("targets", nargs=-1, required=True, metavar="INSTANCE/USER…")
    @click.option("--region", required=True, help="Region of the instances, such as ap-singapore.")
    @flags(*SENDING)
    @_EXCLUDE
    @_SIMULATE
    @_FAULTS
    @_REASON
    @_TICKET
    def command(targets: tuple[str, ...], region: str, **options: Any) -> int:
        from engine.cli.sending import run_ad_hoc

        return run_ad_hoc(action, targets, region, clock=_clock(), **options)


_ad_hoc("lock", "LockAccount", "Lock")
_ad_hoc("unlock", "UnlockAccount", "Unlock")
_ad_hoc("cam-on", "OpenAccountCAM", "Turn CAM verification on for")


@app.command()
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
@flags("config", "endpoint", "state_dir", "profile", "rate", "workers", "timeout", "deadline")
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


@app.command()
@click.argument("run")
@flags(*SENDING)
@_NOW
@_EXCLUDE
def resume(run: str, **options: Any) -> int:
    """Go on with a run that was interrupted, from its journal alone.

    RUN is a run id, the beginning of one, `latest`, `latest:JOBNAME`, or a journal's path.

    \b
    Examples:
      acctops resume latest
      acctops resume 20261122T0313 --rate 10 --exclude '*/payroll_*'
    """
    from engine.cli.continuing import resume_run

    return resume_run(run, clock=_clock(), **options)


@app.command()
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
@_NOW
@_EXCLUDE
@_FAULTS
@_REASON
@_TICKET
def rerun(run: str, **options: Any) -> int:
    """A new run of what did not work out in an older one, linked to it.

    \b
    Examples:
      acctops rerun latest
      acctops rerun 20261122T0313 --only failed --code OperationDenied.InstanceStatusLimitOpError
    """
    from engine.cli.continuing import rerun_run

    return rerun_run(run, clock=_clock(), **options)


@app.command()
@click.argument("run")
@_FAMILY
@click.option(
    "--target", "targets", metavar="GLOB|@FILE", multiple=True, help="Only these: instance/user, or a file of them."
)
@click.option("--include-edited", is_flag=True, help="Also accounts that somebody edited since.")
@click.option("--rotated", is_flag=True, help="Only accounts whose password was changed after the run.")
@click.option("--release", "released", metavar="RUN", multiple=True, help="Ignore that this run holds accounts, too.")
@click.option("--password-command", metavar="CMD", help="Undo of CAM: program that prints the new password, no shell.")
@click.option("--password-file", metavar="FILE", help="Undo of CAM: CSV instance,user,password, mode 600.")
@flags(*SENDING)
@_EXCLUDE
@_FAULTS
@_REASON
@_TICKET
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

    return undo_run(run, clock=_clock(), **options)


@app.command()
@click.argument("run")
@_FAMILY
@click.option("--watch", metavar="5m,30m", help="Read again after each of these times, counted from now.")
@flags("config", "state_dir", "profile", "timeout", "endpoint", "json", "quiet")
def verify(run: str, **options: Any) -> int:
    """Read the accounts of a run again now, and name those that came back. Writes nothing.

    \b
    Examples:
      acctops verify latest
      acctops verify 20261122T0313 --watch 5m,30m
    """
    from engine.cli.undoing import verify_run

    return verify_run(run, **options)


@app.command()
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


@app.command()
@click.argument("run", required=False)
@_SINCE
@flags(*READING)
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
        return show_status_since(since, clock=_clock(), **common)
    from engine.cli.views import show_status

    return show_status(run, **common)


@app.command()
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

    return show_overdue(job, every, notify, clock=_clock(), **common)


def _one_or_many(run: str | None, since: str | None) -> None:
    if (run is None) == (since is None):
        raise click.UsageError("name a run, or give --since, not both" if run else "name a run, or give --since 7d")


@app.command()
@click.argument("run", required=False)
@_SINCE
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "csv"]), default="text", show_default=True, help="How."
)
@click.option("--attempts", is_flag=True, help="One row an attempt instead of one a target (json, csv).")
@click.option("--pace", is_flag=True, help="How each lane used its quota.")
@click.option("--stuck", is_flag=True, help="Only what is not as asked, grouped by cause, ready for a ticket.")
@_FAMILY
@flags(*READING)
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

        if attempts or pace or stuck or family:
            raise click.UsageError("--attempts, --pace, --stuck and --family go with one run, not with --since")
        return show_report_since(since, form, clock=_clock(), **common)
    from engine.cli.views import show_report

    assert run is not None

    return show_report(run, form=form, by_attempt=attempts, by_lane=pace, stuck=stuck, family=family, **common)


@app.group()
def config() -> None:
    """Look at the configuration."""


@config.command("show")
@click.argument("job", required=False)
@click.option("--origin", "with_origin", is_flag=True, help="Say where each was said, and all that adds up to a guard.")
@flags("config", "endpoint", "state_dir", "profile", "rate", "workers", "timeout", "deadline", "no_verify", "json")
def config_show(job: str | None, with_origin: bool, **common: Any) -> int:
    """Every setting that holds here, or for a job: flags, then ACCTOPS_…, the job, config files, defaults.

    Asks nobody and needs no keys. Of keys it says where they would come from, never what they are.

    \b
    Examples:
      acctops config show --origin
      acctops config show lockdown.yaml --rate 10 --json
    """
    from engine.cli.configuring import show_config

    return show_config(job, with_origin=with_origin, **common)


@app.group()
def journal() -> None:
    """Look after journals."""


@journal.command("verify")
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


@app.command()
@click.argument("code")
def explain(code: str) -> int:
    """What an error code means, what acctops does about it, and what you should do.

    \b
    Example:
      acctops explain FailedOperation.CheckAccountCAMCloseError
    """
    from engine.cli.talk import out
    from engine.verdicts import explain as words

    out(words(code))
    return 0


@app.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]…")
@click.option("--port", "ports", metavar="N", multiple=True, type=click.IntRange(0, 65535), help="Port; 0: any free.")
@click.option(
    "--ports",
    "port_range",
    metavar="N-M",
    help="So many ports: access regions of one world, each with quotas of its own.",
)
@click.option(
    "--fleet",
    metavar="FILE",
    help="Instances and accounts that exist: YAML or JSON, or random:400x8 (instances x accounts); default: all do.",
)
@click.option("--accounts", metavar="FILE", help="Cloud accounts: keys and roles (YAML or JSON).")
@click.option("--faults", metavar="FILE", help="Script of faults (YAML or JSON).")
@click.option(
    "--window",
    type=click.Choice(["calendar", "sliding", "sliding-counting-refused", "bucket"]),
    default="calendar",
    show_default=True,
    help="How the quota's second is counted.",
)
@click.option("--no-quota", is_flag=True, help="Lift the quotas.")
@click.option("--latency", metavar="D", default="50ms", show_default=True, help="From arrival to answer.")
@click.option("--jitter", metavar="D", default="0s", show_default=True, help="An arrival is late by up to so much.")
@click.option("--seed", type=int, default=0, help="Of its dice; 0: others every time.")
def simulate(jobs: tuple[str, ...], **options: Any) -> int:
    """Serve the simulator on loopback, until Ctrl-C.

    The accounts of the JOBs (default: those of the job files here and in ./jobs) are listed from the start; any other
    well-formed instance and account exists, too, and is listed once a write has named it.

    It accepts the key pair in TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY, else a documented demo pair.

    \b
    Example:
      acctops simulate --port 9900 &
      acctops run lockdown.yaml --endpoint http://127.0.0.1:9900
    """
    from engine.cli.simulating import serve

    return serve(job_paths=jobs, **options)


@app.command()
@click.argument("job", required=False)
@click.option("--policy", is_flag=True, help="Print the smallest CAM policy that lets the job run.")
@flags("config", "endpoint", "state_dir", "profile", "timeout", "json")
def doctor(job: str | None, policy: bool, **common: Any) -> int:
    """Check credentials, clock, endpoint and state directory; with a job, its endpoint and permissions too.

    Says which source of keys won, whose they are and until when they serve; what CAM denies, and the policy to paste.

    \b
    Example:
      acctops doctor lockdown.yaml
    """
    from engine.cli.checks import examine

    return examine(job, policy=policy, **common)


@app.command()
def schema() -> int:
    """Print the JSON Schema of job files, for editors.

    \b
    Example:
      acctops schema > job.schema.json
    """
    from engine.cli.talk import out
    from engine.jobfile.schema import schema_text

    out(schema_text())
    return 0


@app.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print a completion script: `source <(acctops completion bash)`."""
    from click.shell_completion import get_completion_class

    from engine.cli.talk import out

    kind = get_completion_class(shell)
    assert kind is not None
    out(kind(app, {}, "acctops", "_ACCTOPS_COMPLETE").source())
    return 0
