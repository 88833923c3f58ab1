"""A plan is saved, signed and applied: what the commands of plans in files print and ask."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.cli.ask import can_ask, confirm
from engine.cli.loops import run_loop
from engine.cli.options import Options, options_of
from engine.cli.sending import carry_out
from engine.cli.talk import out, out_json, printed, say
from engine.errors import Reason, UsageError
from engine.journal.records import unix_seconds
from engine.operations.approving import (
    Request,
    load_plan,
    signed_by,
    signed_words,
    still_lacking,
    terms_beside,
    to_apply,
    to_save,
    write_plan,
)
from engine.operations.proposal import Nothing, Planned
from engine.outside.foreign import clean, pasted
from engine.planning.approvals import then_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from engine.planning.approvals import PlanFile, SavedPlan

SHOWN = 20
"""Calls that `approve` prints without `--all`."""


def whole_paths(targets: tuple[str, ...]) -> tuple[str, ...]:
    """Return targets as a plan keeps them: a list by its absolute path, as it may be applied from elsewhere."""
    return tuple(f"@{Path(each[1:]).expanduser().absolute()}" if each.startswith("@") else each for each in targets)


def save_plan(
    options: Options, verb: str, said: dict[str, Any], plan: Callable[[Options], Awaitable[Planned | Nothing]]
) -> int:
    """Plan a run, sign the plan, and write it to its file. Any: what was typed, by name."""
    path, key = Path(str(options.save)), Path(str(options.key)).expanduser()
    if os.path.lexists(path):
        raise UsageError(f"{path}: is there already; name a new file, or remove that one")

    async def made() -> PlanFile | Nothing:
        planned = await plan(replace(options, attended=can_ask()))
        if not isinstance(planned, Planned):
            return planned
        parent = planned.proposal.parent
        return await to_save(
            planned, Request(verb=verb, said=said if parent is None else said | {"run": parent.run_id})
        )

    file = run_loop(made(), options)
    if isinstance(file, Nothing):
        if options.as_json:
            out_json({"run": None, "parent": None, "why": file.why, "exit": int(Reason.OK)})
        elif not options.quiet:
            say(f"{file.why}; no plan was written")
        return Reason.OK
    terms = terms_beside(options, path, file)
    _announce(options, key)
    file = signed_by(terms, file, key)
    write_plan(path, file, is_new=True)
    return _show_signed(options, path, file, still_lacking(terms, file), f"saved {path}")


def approve_plan(path_text: str, key_text: str, *, show_all: bool, **flags: Any) -> int:
    """The `approve` command. Any: the flags, by name."""
    options = options_of(flags)
    path, key = Path(path_text), Path(key_text).expanduser()
    file = load_plan(path)
    terms = terms_beside(options, path, file)
    terms.settings(None)  # a config that cannot be used stops it before anybody reads and agrees
    if not (options.yes and (options.quiet or options.as_json)):  # nobody signs what he has not been shown
        show = say if options.as_json else out
        show("\n".join(_lines(file, signed_words(terms, file), show_all=show_all)))
    count = len(file.plan.calls)
    action = ACTIONS[file.plan.action]
    confirm(f"About to sign that {count:,} accounts are to be sent {action.name}", count, yes=options.yes)
    _announce(options, key)
    file = signed_by(terms, file, key)
    write_plan(path, file, is_new=False)
    return _show_signed(options, path, file, still_lacking(terms, file), f"signed {path}")


def apply_plan(path_text: str, **flags: Any) -> int:
    """The `apply` command. Any: the flags, by name."""
    options = options_of(flags)
    return run_loop(_apply(options, Path(path_text)), options)


async def _apply(options: Options, path: Path) -> int:
    options = replace(options, attended=can_ask())
    return await carry_out(options, await to_apply(options, path))


def _announce(options: Options, key: Path) -> None:
    if not options.quiet:
        say(f"signing with {key}; it may ask for its passphrase, or for a touch of its token")


def _show_signed(options: Options, path: Path, file: PlanFile, lacking: str | None, words: str) -> int:
    if options.as_json:
        out_json(
            {
                "plan": str(path),
                "hash": file.hash,
                "plan_digest": file.plan.plan_digest,
                "action": file.plan.action,
                "accounts": len(file.plan.calls),
                "statements": len(file.signed),
                "lacking": lacking,
                "exit": 0,
            }
        )
        return printed()
    if options.quiet:
        return printed()
    out(f"{words}: {file.plan.action} of {len(file.plan.calls):,} accounts, plan {file.hash}")
    place = pasted((str(path),))
    if lacking is None:
        out(f"it may be applied: acctops apply {place}")
    else:
        out(f"not yet: {lacking}\nsomebody else: acctops approve {place} --key KEY")
    return printed()


def _afterwards(plan: SavedPlan) -> Iterator[tuple[str, str]]:
    """Yield what a plan says beside its calls: how fast, with which passwords, when, and what comes after it."""
    from engine.operations.gates import waves_of
    from engine.report.afterwards import span, until_words, watch_of, watch_words
    from engine.report.waves import plan_lines

    settings = plan.settings
    if plan.asked:
        yield "asked for with", pasted(plan.asked)
    yield "rate", f"{settings.rate:g} a second, in each lane"
    if settings.passwords is not None:
        yield "passwords", " ".join(f"{name}: {value}" for name, value in settings.passwords.items())
    if settings.window is not None:
        yield "window", "as its job says"
    if (waves := waves_of(settings)) is not None:
        for line in plan_lines(waves, len(plan.calls)):
            name, _, words = line.partition("  ")
            yield (name, words) if words else ("waves", line)
        if waves.gate is not None:
            yield "gate command", pasted(waves.gate.command)
    hold = plan.hold
    if hold is not None and hold.for_s is not None:
        yield "hold", f"for {span(hold.for_s)} from the confirmation on, then: {hold.then}"
    elif hold is not None and hold.until is not None:
        yield "hold", until_words(hold.until, hold.then)
    elif settings.hold_until is not None:
        yield "hold", until_words(unix_seconds(settings.hold_until), settings.hold_then)
    if (watch := watch_of(settings)) is not None:
        yield "watch", watch_words(watch)
    for text in then_of(plan.action, settings):
        yield "LATER, BY A MACHINE, without a further approval:", text


def _lines(file: PlanFile, signed: Sequence[str], *, show_all: bool) -> list[str]:
    """Return a plan for a person, all of it from the file. Its text is foreign: somebody else may have written it."""
    plan = file.plan
    whose = ", ".join(f"{name} {uin}".strip() for name, uin in plan.uins.items()) or "an unknown account"
    lines = [
        f"PLAN {file.hash}",
        f"  {plan.action}  {plan.job.name}  ({plan.job.path})",
        f"  made {plan.made_at[:19]}Z by {plan.by} on {plan.host}, acctops {plan.version}, by `{plan.verb}`",
        f"  cloud account  {whose}",
        f"  by  {', '.join((*plan.settings.endpoint, *plan.settings.endpoint_of.values()))}",
    ]
    lines += [f"  {name}  {text}" for name, text in (("reason", plan.reason), ("ticket", plan.ticket)) if text]
    lines += [f"  goes back to run  {plan.parent}"] if plan.parent is not None else []
    try:
        lines += [f"  {name}  {text}" for name, text in _afterwards(plan)]
    except (ValueError, TypeError, LookupError, OverflowError, OSError, AttributeError) as error:
        raise UsageError(
            f"the plan is none that acctops saved: what comes after it makes no sense ({error})"
        ) from error
    lines += [] if plan.settings.verify else ["  UNREAD: nothing will be proven"]
    left = ", ".join(f"{count:,} {reason}" for reason, count in plan.left_out.items() if count)
    lines.append(f"  accounts  {len(plan.calls):,}{f'  (left out: {left})' if left else ''}")
    lines += [f"  signed by  {text}" for text in signed or ["nobody"]]
    shown = plan.calls if show_all else plan.calls[:SHOWN]
    for each in shown:
        account = f"{each.account}  " if each.account else ""
        lines.append(f"  {account}{each.instance}/{each.user}  {each.region}")
    if len(shown) < len(plan.calls):
        lines.append(f"  … and {len(plan.calls) - len(shown):,} more (--all)")
    return [clean(line, 2000) for line in lines]
