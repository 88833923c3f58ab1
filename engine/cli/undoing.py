"""The `undo` command: bring back what a run changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict, replace

from engine.cli.ask import can_ask
from engine.cli.loops import run_loop
from engine.cli.options import Options, options_of
from engine.cli.sending import carry_out
from engine.cli.talk import out, out_json, say
from engine.errors import UsageError
from engine.operations.undo import NothingToUndo, Selection, plan_undo
from engine.report.nextstep import go_on_lines

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from engine.operations.proposal import Nothing, Planned


def undo_run(
    run: str,
    *,
    family: bool,
    wave: int | None,
    targets: tuple[str, ...],
    include_edited: bool,
    rotated: bool,
    due: bool,
    released: tuple[str, ...],
    ignored: tuple[str, ...],
    password_command: str | None,
    password_file: str | None,
    **flags: Any,
) -> int:
    """The `undo` command. Any: the flags, by name."""
    chosen = Selection(
        family=family,
        wave=wave,
        targets=targets,
        include_edited=include_edited,
        rotated=rotated,
        due=due,
        released=released,
        ignored=ignored,
        password_command=password_command,
        password_file=password_file,
    )
    options = options_of(flags)
    if options.save is not None:
        return _save(options, run, chosen)
    return run_loop(_undo(options, run, chosen), options)


def _save(options: Options, run: str, chosen: Selection) -> int:
    from engine.cli.approving import save_plan, whole_paths  # here: most undos are begun at once

    program, file = (chosen.password_command or "").partition(" ")[0], chosen.password_file
    if "/" in program and not program.startswith("/"):
        raise UsageError(f"--password-command {program}: name it by its whole path, as it is started from elsewhere")
    file = str(Path(file).expanduser().absolute()) if file is not None else None
    chosen = replace(chosen, targets=whole_paths(chosen.targets), password_file=file)

    def plan(options: Options) -> Awaitable[Planned | Nothing]:
        return plan_undo(options, run, chosen)

    return save_plan(options, "undo", {"chosen": asdict(chosen)}, plan)


async def _undo(options: Options, run: str, chosen: Selection) -> int:
    options = replace(options, attended=can_ask())
    plan = await plan_undo(options, run, chosen)
    return _show_nothing(options, plan) if isinstance(plan, NothingToUndo) else await carry_out(options, plan)


def _show_nothing(options: Options, nothing: NothingToUndo) -> int:
    steps, flags = nothing.steps, nothing.flags
    if options.as_json:
        go_on_with = steps[0].command(flags) if steps else None
        found = {
            "parent": nothing.parent,
            "kept": nothing.kept,
            "open": nothing.open,
            "released": nothing.released,
            "go_on": go_on_with,
        }
        out_json({"run": None, **found, "exit": int(nothing.reason)})
    elif nothing.open:
        out.lines(f"run {nothing.parent}: {nothing.why}")
        out.lines(
            "\n".join([*(f"{each.why}: {each.command(flags)}" for each in nothing.choices), *go_on_lines(steps, flags)])
        )
    if not nothing.open and not options.quiet:
        say.lines(f"run {nothing.parent}: {nothing.why}")
    return nothing.reason
