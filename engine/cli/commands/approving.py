"""The commands of a plan in a file: sign it, apply it. Bodies import what they need."""

from __future__ import annotations

from typing import Any

import click

from engine.cli.flags import NOW, clock, command, flags


@command()
@click.argument("plan")
@click.option(
    "--key",
    metavar="KEY",
    required=True,
    help="Sign with this SSH key: the file of a private one, or of a public one whose private half an agent has.",
)
@click.option("--all", "show_all", is_flag=True, help="Print every call. Default: the first ones.")
@flags("config", "yes", "json", "output", "quiet")
def approve(plan: str, key: str, *, show_all: bool, **options: Any) -> int:
    """Show a saved plan, ask, and sign it with a key of your own. Sends nothing.

    What is shown comes from the file, and what is signed is all of the file's plan. The key must be another one than
    that of who asks for it.

    \b
    Examples:
      acctops approve plan.json --key ~/.ssh/id_ed25519
      acctops approve plan.json --key ~/.ssh/id_ed25519_sk.pub --all
    """
    from engine.cli.approving import approve_plan

    return approve_plan(plan, key, show_all=show_all, clock=clock(), **options)


@command()
@click.argument("plan")
@flags("config", "state_dir", "database", "json", "output", "quiet", "yes", "detach", "page", "page_names")
@NOW
def apply(plan: str, **options: Any) -> int:
    """Carry out a saved plan that enough people have signed: check, ask, send, read back, report.

    Sends only accounts that were signed and are still open. A plan is applied once.

    \b
    Examples:
      acctops apply plan.json
      acctops apply plan.json --yes --json > result.json
    """
    from engine.cli.approving import apply_plan

    return apply_plan(plan, clock=clock(), **options)
