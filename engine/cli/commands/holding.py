"""The commands about holds, and the one that tends what is due after runs. Bodies import what they need."""

from __future__ import annotations

from typing import Any

import click

from engine.cli.flags import READING, REASON, clock, command, flags

_TARGET = click.option(
    "--target",
    "targets",
    metavar="GLOB|@FILE",
    multiple=True,
    help="Release only these accounts, written instance/user, or listed in a file.",
)


@command()
@click.option("--due", is_flag=True, help="Show only holds whose end has come.")
@click.option("--owed", is_flag=True, help="Show only accounts that stay locked, and that nobody holds any more.")
@click.option(
    "--target",
    "targets",
    metavar="GLOB",
    multiple=True,
    help="Show only these accounts, written instance/user, such as '*/app_*'. Repeat it for more.",
)
@flags("config", "state_dir", "database", "json", "output")
def holds(due: bool, owed: bool, targets: tuple[str, ...], **common: Any) -> int:
    """Show who holds which accounts, since when, and until when.

    A run holds what it locked, and what it found locked, until it is undone or released. An account is opened by the
    undo of the last run that holds it.

    \b
    Examples:
      acctops holds
      acctops holds --target '*/app_user'
      acctops holds --owed
    """
    from engine.cli.holding import show_holds

    return show_holds(targets, due=due, owed=owed, clock=clock(), **common)


@command()
@click.argument("run")
@_TARGET
@REASON
@flags(*READING)
def release(run: str, targets: tuple[str, ...], **common: Any) -> int:
    """End the holds of a run. Sends nothing: the accounts stay as they are.

    What nobody holds any more is owed: the last line prints the undo that opens it.

    \b
    Examples:
      acctops release 20261122T0313 --reason "false alarm"
      acctops release 20261122T0313 --target 'postgres-4sfuv15b/*'
    """
    from engine.cli.holding import release_run

    return release_run(run, targets, clock=clock(), **common)


@command()
@click.argument("run")
@click.option("--for", "for_", metavar="4h", help="Let its holds end so long from now.")
@click.option("--until", metavar="TIME", help="Let its holds end then, such as 2026-12-01T08:00+08:00.")
@click.option("--none", is_flag=True, help="Let its holds have no end.")
@click.option(
    "--then",
    type=click.Choice(["tell", "unlock", "unlock_rotated"]),
    help="Do this at the end. Default: as before, else tell.",
)
@REASON
@flags(*READING)
def hold(run: str, for_: str | None, until: str | None, none: bool, then: str | None, **common: Any) -> int:
    """Set when the holds of a run end.

    At the end `acctops tend` tells, or unlocks what nobody else holds.

    \b
    Examples:
      acctops hold 20261122T0313 --for 4h --reason "vendor needs until noon"
      acctops hold 20261122T0313 --none
    """
    from engine.cli.holding import set_hold

    return set_hold(run, for_, until, none=none, then=then, clock=clock(), **common)


@command()
@click.option("--adopt", is_flag=True, help="Let this state directory belong to this host from now on.")
@flags("config", "state_dir", "database", "profile", "json", "output", "quiet")
def tend(adopt: bool, **common: Any) -> int:
    """Do what is due after runs: end holds whose limit has passed, read watched accounts again, and tell of it.

    For a timer, every few minutes: it asks nothing, and only one works at a time. It opens an account only if nobody
    holds it any more, the job says so, and it still stands as it was left. Units: acctops schedule --tend.

    \b
    Examples:
      acctops tend
      acctops tend --quiet
    """
    from engine.cli.holding import tend_all

    return tend_all(adopt=adopt, clock=clock(), **common)
