"""Settings, keys, the simulator, editor and shell. Bodies import what they need."""

from __future__ import annotations

from typing import Any

import click

from engine.cli.flags import Command, command, flags
from engine.inputs.settingtable import WITH_FLAG


@click.group()
def config() -> None:
    """Show the configuration."""


@config.command("show", cls=Command)
@click.argument("job", required=False)
@click.option(
    "--origin",
    "with_origin",
    is_flag=True,
    help="Show where each value comes from, and all words that make up a guard.",
)
@flags("config", "endpoint", "state_dir", "database", "profile", *WITH_FLAG, "no_verify", "json", "output")
def config_show(job: str | None, with_origin: bool, **common: Any) -> int:
    """Show every setting that holds here, or for a job.

    Flags come first, then ACCTOPS_… variables, the job, the config files, the defaults. Sends nothing and needs no
    keys. It shows where keys would come from, and never what they are.

    \b
    Examples:
      acctops config show --origin
      acctops config show lockdown.yaml --rate 10 --json
    """
    from engine.cli.configuring import show_config

    return show_config(job, with_origin=with_origin, **common)


@click.group()
def database() -> None:
    """Make the tables of a PostgreSQL database in which several hosts keep their journals."""


@database.command("migrate", cls=Command)
@click.option(
    "--database",
    "url",
    metavar="URL",
    required=True,
    help="The database, such as postgresql://db/acctops?sslmode=verify-full, with the role that owns the tables.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def database_migrate(url: str, as_json: bool) -> int:
    """Make the tables of acctops in a database, or bring them to this version. Keeps all runs.

    The role must be able to make a schema. It makes the roles acctops_worker and acctops_reader, or an administrator
    makes them before. A password does not stand in the URL: use ~/.pgpass, a service file or a client certificate.

    \b
    Example:
      acctops database migrate --database postgresql://owner@db/acctops?sslmode=verify-full
    """
    from engine.cli.databases import migrate_database

    return migrate_database(url, as_json=as_json)


@command()
@click.option(
    "--lanes",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=50,
    help="Serve at most N lanes at a time. Default: 50.",
)
@click.option(
    "--program",
    "programs",
    metavar="FILE",
    multiple=True,
    help="Run this program if a run names it: its gate, or its source of new passwords. Repeat it for several.",
)
@click.option("--lanes-only", is_flag=True, help="Lead no runs: gates, notices and seals are other workers'.")
@click.option(
    "--ready-file",
    metavar="FILE",
    help="Touch this file each second while the worker is ready. It is removed when it is not.",
)
@flags("config", "endpoint", "state_dir", "database", "profile", "quiet")
def worker(lanes: int, programs: tuple[str, ...], lanes_only: bool, ready_file: str | None, **common: Any) -> int:
    """Carry out the runs that are submitted to a database, together with other workers, until it is stopped.

    Start as many as you like, on any host. Each takes the lanes whose sub-account its own keys are of. If one dies,
    another takes its lanes within seconds. SIGTERM or Ctrl-C lets it give its lanes back in order; a second one ends
    it at once. Exit 75: another worker has taken its lanes, as it was silent for too long; start it anew.

    \b
    Example:
      acctops worker --database postgresql://db/acctops?sslmode=verify-full
    """
    from engine.cli.working import work

    return work(lanes=lanes, programs=programs, leads=not lanes_only, ready_file=ready_file, **common)


@command()
@click.argument("job", required=False)
@click.option("--policy", is_flag=True, help="Print the smallest CAM policy that lets the job run.")
@flags("config", "endpoint", "state_dir", "database", "profile", "timeout", "json", "output")
def doctor(job: str | None, policy: bool, **common: Any) -> int:
    """Check keys, clock, endpoint and state directory; with a job, its permissions too.

    Shows which source of keys is used, whose keys they are, and until when they are valid. Shows what CAM denies, and
    prints the policy to paste.

    \b
    Example:
      acctops doctor lockdown.yaml
    """
    from engine.cli.checks import show_checks

    return show_checks(job, policy=policy, **common)


@command()
@click.argument("jobs", nargs=-1, metavar="[JOB]…")
@click.option(
    "--port",
    "ports",
    metavar="N",
    multiple=True,
    type=click.IntRange(0, 65535),
    help="Listen on this port; 0 takes any free one. Repeat it for more.",
)
@click.option(
    "--ports",
    "port_range",
    metavar="N-M",
    help="Listen on all these ports. Each is an access region of one world, with its own quotas.",
)
@click.option(
    "--fleet",
    metavar="FILE",
    help="Let these instances and accounts exist: YAML or JSON, or random:400x8 (instances x accounts). Default: all.",
)
@click.option("--accounts", metavar="FILE", help="Let these cloud accounts exist: keys and roles (YAML or JSON).")
@click.option("--faults", metavar="FILE", help="Let the faults in this script happen (YAML or JSON).")
@click.option(
    "--window",
    type=click.Choice(["calendar", "sliding", "sliding-counting-refused", "bucket"]),
    default="calendar",
    show_default=True,
    help="Count the quota's second so.",
)
@click.option("--no-quota", is_flag=True, help="Lift the quotas.")
@click.option(
    "--latency", metavar="D", default="50ms", show_default=True, help="Answer so long after a request arrives."
)
@click.option(
    "--jitter", metavar="D", default="0s", show_default=True, help="Let a request arrive up to so much later."
)
@click.option("--seed", type=int, default=0, help="Seed of its random numbers; 0 takes a new one each time.")
def simulate(jobs: tuple[str, ...], **options: Any) -> int:
    """Serve the simulator on loopback until Ctrl-C.

    It lists the accounts of the JOBs from the start (default: of the job files here and in ./jobs). Any other
    well-formed instance and account exists too; it is listed once a write has named it.

    It accepts the key pair in TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY, else a documented demo pair.

    \b
    Example:
      acctops simulate --port 9900 &
      acctops run lockdown.yaml --endpoint http://127.0.0.1:9900
    """
    from engine.cli.simulating import serve

    return serve(job_paths=jobs, **options)


@command()
def schema() -> int:
    """Print the JSON Schema of job files, for an editor.

    \b
    Example:
      acctops schema > job.schema.json
    """
    from engine.cli.talk import out
    from engine.inputs.jobfile.schema import schema_text

    out(schema_text())
    return 0


@command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print a completion script: `source <(acctops completion bash)`."""
    from click.shell_completion import get_completion_class

    from engine.cli.talk import out

    kind = get_completion_class(shell)
    assert kind is not None
    out(kind(click.get_current_context().find_root().command, {}, "acctops", "_ACCTOPS_COMPLETE").source())
    return 0
