"""The commands that steer a live run: pause, change, and resume where it lifts a pause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.cli.loops import run_loop
from engine.cli.options import Options, options_of
from engine.cli.talk import out, out_json
from engine.errors import Reason
from engine.operations.control import FEW, Steered, change, pause
from engine.operations.stores import flags_of
from engine.report.going import pause_words

if TYPE_CHECKING:
    from engine.journal.records import Note


def pause_run(run: str, for_: str | None, **flags: Any) -> int:
    """The `pause` command. Any: the flags, by name."""
    options = options_of(flags)
    return show_steered(options, run_loop(pause(options, run, for_)))


def change_run(run: str, drop: tuple[str, ...], first: tuple[str, ...], **flags: Any) -> int:
    """The `change` command. Any: the flags, by name."""
    options = options_of(flags)
    return show_steered(options, run_loop(change(options, run, drop=drop, first=first)))


def show_steered(options: Options, done: Steered) -> int:
    """Print what became of a request; returns the exit code."""
    is_whole = done.effect is not None and not done.effect.data.get("sent")
    code = Reason.OK if is_whole else Reason.INCOMPLETE
    run = done.ref.run_id
    if options.as_json:
        effect = done.effect
        facts = {key: value for key, value in effect.data.items() if key != "id"} if effect is not None else {}
        said = {"effect": effect.what if effect is not None else None, "at": effect.at if effect is not None else None}
        out_json({"run": run, **said, "facts": facts, "live": done.is_live, "exit": int(code)})
    elif done.effect is not None and not options.quiet:
        out(f"run {run}: {_words(options, done, done.effect)}")
    return code


def _words(options: Options, done: Steered, effect: Note) -> str:
    if effect.what == "paused" and done.ledger.pause is not None:
        last = done.ledger.pause.last_sent_at
        left = f"the last call left at {last[11:19]}Z" if last else "no call of this session has left"
        again = f"acctops resume {done.ref.run_id}{flags_of(options, done.ref)}"
        return f"{pause_words(done.ledger.pause)}; {left}, none is under way; go on: {again}"
    if effect.what == "changed":
        return _change_words(options, done, effect)
    if effect.what == "unpaused":
        where = "with its workers" if done.ledger.shards else "in its own process"
        if not effect.data.get("was_paused"):
            return f"was not paused any more: somebody lifted the pause before; it goes on {where}"
        return f"its pause is lifted by {effect.data.get('by')}, and it goes on {where}"
    return f"{effect.what}, and lifted since"


def _change_words(options: Options, done: Steered, effect: Note) -> str:
    data = effect.data
    parts = [f"rate {data['rate']:g} a second in each lane"] if data.get("rate") is not None else []
    for key, words in (("dropped", "dropped"), ("first", "go first")):
        if data.get(key):
            parts.append(f"{data[key]:,} {words}")
    if data.get("sent"):
        targets = "".join(f" --target {call.label}" for call in done.sent[:FEW])
        more = f", and so on for the other {len(done.sent) - FEW:,}" if len(done.sent) > FEW else ""
        again = f"acctops undo {done.ref.run_id}{targets}{flags_of(options, done.ref)}{more}"
        parts.append(f"{data['sent']:,} sent before, which cannot be dropped; undo once the run has ended: {again}")
    return "changed: " + ("; ".join(parts) or "nothing: all of them were sent meanwhile")
