"""The commands about holds: `holds`, `release`, `hold`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from engine.api.actions import ACTIONS
from engine.cli.options import Options, options_of
from engine.cli.screens import folded
from engine.cli.talk import out, out_json, printed, say, warn
from engine.errors import Reason, UsageError
from engine.journal.records import unix_seconds
from engine.operations.holds import Held, Holding, Owed, limit_holds, release_holds, who_holds
from engine.operations.undo import accounts
from engine.planning.holds import Key, label_of
from engine.report.afterwards import moment
from engine.report.documents import plain
from engine.report.spans import duration
from engine.report.text import THEN

if TYPE_CHECKING:
    from engine.report.nextstep import Step

SHOWN = 10
"""Accounts of an incident that the text names."""


def show_holds(targets: tuple[str, ...], *, due: bool, owed: bool, **flags: Any) -> int:
    """The `holds` command. Any: the flags, by name."""
    options = options_of(flags)
    found = who_holds(options, targets)
    held = [each for each in found.held if each.is_due or not due] if not owed else []
    loose = found.owed if not due else ()
    if options.as_json:
        out_json(
            {
                "state_dir": found.state_dir,
                "at": found.at,
                "holds": [_held_document(each) for each in held],
                "owed": [_owed_document(each, found.flags) for each in loose],
                "unreadable": [
                    {"run": run, "problem": why, "accounts_known": run not in found.blind}
                    for run, why in found.damaged.items()
                ],
            }
        )
    else:
        say(f"runs in {found.state_dir}")
        now = unix_seconds(found.at)
        for each in held:
            _print_held(each, now)
        if not owed:
            out(_sum(found, held, due=due))
            for each in held:
                for step in _for_a_person(each, found.flags):
                    out.lines(step)
        _print_owed(loose, found.flags, when_none="nothing is owed" if owed else "")
    for run, why in found.damaged.items():
        what = "nobody knows what it holds" if run in found.blind else "every account of its plan counts as held"
        warn(f"run {run}: {why}; {what}")
    return printed() or (Reason.CORRUPT if found.damaged else Reason.OK)


def _sum(found: Holding, held: list[Held], *, due: bool) -> str:
    keys = {key for each in held for key, _ in each.accounts}
    if not keys:
        return "no hold is due" if due else "nobody holds anything"
    runs = f"{len(held):,} run{'s' * (len(held) != 1)}"
    return f"{accounts(len(keys))} held by {runs}" + (", whose end has come" if due else "")


def _print_held(each: Held, now: float) -> None:
    family = each.family
    about = "".join(f"  {text}" for text in (family.head.job, family.head.ticket, family.head.operator) if text)
    problem = "  DAMAGED" if family.problem is not None else ""
    head = plain(f"{family.run}  {each.action}{about}  holds {len(each.accounts):,} since {each.since[:16]}Z{problem}")
    for line in (head, f"  {ends_words(family.until, family.then, now)}"):
        for part in folded(line):
            out(part)
    for key, _ in each.accounts[:SHOWN]:
        out(plain(f"  {_named(key)}"))
    if len(each.accounts) > SHOWN:
        out(f"  … and {len(each.accounts) - SHOWN:,} more (--json lists all)")


def _for_a_person(each: Held, flags: str) -> list[str]:
    """Return the commands for a hold whose end has come: with `then: unlock` too, as `tend` may have to leave it."""
    if not each.is_due:
        return []
    run, whole = each.family.run, " --family" if len(each.family.members) > 1 else ""
    return [
        f"give them back: acctops undo {run}{whole}{flags}",
        f"or hold them longer: acctops hold {run} --for 4h{flags}",
    ]


def ends_words(until: str | None, then: str, now: float) -> str:
    """Return in words when holds end, and what is done then."""
    if until is None:
        return "without end"
    left = unix_seconds(until) - now
    when = f"in {duration(left)}" if left > 0 else f"{duration(-left)} ago"
    return f"until {moment(unix_seconds(until))}, {when}; {THEN[then]}"


def _print_owed(owed: tuple[Owed, ...], flags: str, *, when_none: str = "") -> None:
    for each in owed:
        ticket = f" ({each.ticket})" if each.ticket else ""
        still = f"{accounts(len(each.accounts))} still {ACTIONS[each.action].done_word}"
        them = "it" if len(each.accounts) == 1 else "them"
        out.lines(plain(f"owed: {still}, as run {each.run}{ticket} left {them}, and held by nobody any more"))
        for key in each.accounts[:SHOWN]:
            out(plain(f"  {_named(key)}"))
        if len(each.accounts) > SHOWN:
            out(f"  … and {len(each.accounts) - SHOWN:,} more (--json lists all)")
    if not owed and when_none:
        out(when_none)
    steps = [(step, _needs(each.action)) for each in owed for step in each.steps]
    for step, needs in steps[:SHOWN]:
        out(f"open them{needs}: {step.command(flags)}")
    if len(steps) > SHOWN:
        out(f"  … and {len(steps) - SHOWN:,} more commands (--json has all)")


def _needs(action: str) -> str:
    inverse = ACTIONS[action].inverse
    needs = inverse is not None and ACTIONS[inverse].needs_password
    return " with --password-command … or --password-file …" if needs else ""


def release_run(run: str, targets: tuple[str, ...], **flags: Any) -> int:
    """The `release` command. Any: the flags, by name."""
    options = options_of(flags)
    done = release_holds(options, run, targets)
    steps: list[Step] = [step for each in done.owed for step in each.steps]
    if options.as_json:
        out_json(
            {
                "run": done.run,
                "released": done.count,
                "held": [
                    {"run": family.run, "ticket": family.head.ticket, "accounts": count, "until": family.until}
                    for family, count in done.held
                ],
                "owed": [_owed_document(each, done.flags) for each in done.owed],
                "go_on": steps[0].command(done.flags) if steps else None,
                "exit": int(Reason.OK),
            }
        )
        return printed()
    if options.quiet:
        return printed()
    if done.count:
        stay = "it stays as it is" if done.count == 1 else "they stay as they are"
        out.lines(f"run {done.run} no longer holds {accounts(done.count)}; nothing was sent, and {stay}")
    else:
        out.lines(f"run {done.run} holds none of these any more; nothing was sent")
    for family, count in done.held:
        end = f" until {family.until[:16]}Z" if family.until is not None else ""
        out.lines(plain(f"  {accounts(count)} still held by {family}{end}"))
    _print_owed(done.owed, done.flags)
    return printed()


def set_hold(run: str, for_: str | None, until: str | None, *, none: bool, then: str | None, **flags: Any) -> int:
    """The `hold` command. Any: the flags, by name."""
    if (for_ is not None) + (until is not None) + none != 1:
        raise UsageError("give one of --for 4h, --until TIME, --none")
    if none and then is not None:
        raise UsageError("--then says what is done at the end; with --none there is no end")
    options = options_of(flags)
    now = options.clock()
    done = limit_holds(options, run, for_=for_, until=until, then=then)
    words = ends_words(done.until, done.then, now)
    if options.as_json:
        out_json({"run": done.run, "until": done.until, "then": done.then, "accounts": done.count, "exit": 0})
    elif not options.quiet:
        out.lines(f"run {done.run} holds {accounts(done.count)} {words}")
        if done.until is not None:
            say.lines(f"a limit needs a timer for `tend`: acctops schedule --tend --format systemd{done.flags}")
    return printed()


def _named(key: Key) -> str:
    return f"{key[0]}:{label_of(key)}" if key[0] else label_of(key)


def _target(key: Key) -> dict[str, Any]:
    return dict(zip(("account", "region", "instance", "user"), key, strict=True))


def _held_document(each: Held) -> dict[str, Any]:
    """Any: JSON values."""
    family = each.family
    return {
        "run": family.run,
        "runs": [part.run_id for part in family.members],
        "job": family.head.job,
        "action": each.action,
        "ticket": family.head.ticket,
        "operator": family.head.operator,
        "since": each.since,
        "until": family.until,
        "then": family.then if family.until is not None else None,
        "due": each.is_due,
        "damaged": family.problem is not None,
        "targets": [{**_target(key), "since": since} for key, since in each.accounts],
    }


def _owed_document(each: Owed, flags: str) -> dict[str, Any]:
    """Any: JSON values."""
    return {
        "run": each.run,
        "ticket": each.ticket,
        "action": each.action,
        "targets": [_target(key) for key in each.accounts],
        "go_on": [step.command(flags) for step in each.steps],
    }


def tend_all(*, adopt: bool, **flags: Any) -> int:
    """The `tend` command. Any: the flags, by name."""
    from engine.cli.loops import run_loop

    options = options_of(flags)
    return run_loop(_tend(options, adopt=adopt), options)


async def _tend(options: Options, *, adopt: bool) -> int:
    from engine.cli.watching import Terminal
    from engine.operations.tend import tend

    done = await tend(options, adopt=adopt, watch=Terminal(quiet=True))
    if options.as_json:
        out_json(
            {
                "state_dir": done.state_dir,
                "at": done.at,
                "busy": done.is_busy,
                "deeds": [asdict(deed) for deed in done.deeds],
                "exit": int(done.reason),
            }
        )
        return printed() or done.reason
    if done.is_busy:
        say("another `acctops tend` is at work in this state directory; nothing was done")
    for deed in done.deeds:
        if deed.what == "failed":
            warn(plain(f"FAILED  run {deed.run}: {deed.words}"))
        elif not options.quiet or deed.what not in ("waits", "read"):
            child = f" ({deed.child})" if deed.child else ""
            for part in folded(plain(f"{deed.what}  run {deed.run}: {deed.words}{child}")):
                out(part)
    if not done.deeds and not done.is_busy and not options.quiet:
        say(f"nothing is due in {done.state_dir}")
    return printed() or done.reason
