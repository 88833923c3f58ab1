"""The commands by name. Only the family of the one that is asked for is imported, so that it starts at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine import __version__

if TYPE_CHECKING:
    from types import ModuleType

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

_PLANNING = ("plan", "discover", "drill")
_RUNNING = ("run", "lock", "unlock", "cam-on", "resume", "rerun", "undo", "pause", "change", "stop")
_APPROVING = ("approve", "apply")
_HOLDING = ("holds", "release", "hold", "tend")
_LOOKING = ("status", "pending", "report", "verify", "evidence", "explain", "journal")
_NIGHTLY = ("schedule", "overdue")
_EQUIPPING = ("doctor", "config", "database", "worker", "simulate", "schema", "completion")
_GROUPS = (
    ("Before a run (nothing is sent)", _PLANNING),
    ("Run, go on, take back", _RUNNING),
    ("Four eyes", _APPROVING),
    ("Give accounts back", _HOLDING),
    ("See what happened", _LOOKING),
    ("Every night", _NIGHTLY),
    ("Set up", _EQUIPPING),
)
"""The commands by what they are for, in the order of the help."""


class _Commands(click.Group):
    """Imports the module of the one command that is asked for.

    Profiled: making the flags of all commands was a fortieth of the start of any.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for _, names in _GROUPS for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.list_commands(ctx)))
        for title, names in _GROUPS:
            with formatter.section(title):
                rows = []
                for name in names:
                    command = self.get_command(ctx, name)
                    assert command is not None
                    rows.append((name.ljust(width), command.get_short_help_str(limit=200)))
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from engine.cli.slips import instead_of_command  # here: only a slip pays for the import

            if args[0].startswith("-"):  # a flag: said where flags are read
                raise
            hint = instead_of_command(args[0], self.list_commands(ctx))
            raise click.UsageError(error.message.rstrip(".") + hint, ctx) from None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = ", ".join(name for parameter in self.get_params(ctx) for name in parameter.opts)
            words = f"No such option '{error.option_name}' before the command, where {known} may stand"
            hint = "; flags come after it: acctops run JOB --yes"
            raise click.UsageError(words + hint, ctx) from None

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        family = _family(cmd_name)
        command: click.Command | None = getattr(family, cmd_name.replace("-", "_")) if family is not None else None
        return command


def _family(name: str) -> ModuleType | None:
    if name in _PLANNING:
        from engine.cli.commands import planning

        return planning
    if name in _RUNNING:
        from engine.cli.commands import running

        return running
    if name in _APPROVING:
        from engine.cli.commands import approving

        return approving
    if name in _HOLDING:
        from engine.cli.commands import holding

        return holding
    if name in _LOOKING:
        from engine.cli.commands import looking

        return looking
    if name in _NIGHTLY:
        from engine.cli.commands import nightly

        return nightly
    if name in _EQUIPPING:
        from engine.cli.commands import equipping

        return equipping
    return None


@click.group(
    cls=_Commands,
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
    Lock accounts without a file:
      acctops lock postgres-4sfuv15b/app_user postgres-4sfuv15b/etl --region ap-singapore
    """
