"""The `verify` command: what no longer stands as a run left it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.api.actions import ACTIONS
from engine.cli.loops import run_loop
from engine.cli.options import Options, options_of
from engine.cli.talk import out, out_json, printed, say, warn
from engine.errors import Reason, UsageError
from engine.inputs.jobfile.values import some_seconds
from engine.operations.verify import Verified, Verifying, verified, verifying
from engine.planning.outlook import before_line
from engine.report.documents import document
from engine.report.text import hold_lines

if TYPE_CHECKING:
    from engine.model import Call


def verify_run(run: str, *, family: bool, watch: str | None, **flags: Any) -> int:
    """The `verify` command. Any: the flags, by name."""
    options = options_of(flags)
    return run_loop(_verify(options, run, _watch_times(watch), family=family), options)


async def _verify(options: Options, run: str, times: list[float], *, family: bool) -> int:
    this = await verifying(options, run, family=family)
    found: list[Verified] = []
    async for each in verified(this, times):
        found.append(each)
        if not options.as_json and not (options.quiet and each.reason is Reason.OK):
            _show(this, each)
    code = max(each.reason for each in found)
    if options.as_json:
        whole = document(this.ledger, journal=this.ref.place, head=this.found.head)
        results = [_document(each) for each in found]
        about = {"run": whole["run"], "action": whole["action"]}
        out_json({**about, **results[-1], "readings": results, "exit": int(code)})
    else:
        held = this.held() if not options.quiet else None
        if held is not None and (held.others or held.until or held.released):
            for line in hold_lines(this.ledger, held):
                say.lines(line)
        for line in this.advice(found[-1].recheck):
            warn(line)
    return printed() or code


def _watch_times(watch: str | None) -> list[float]:
    if watch is None:
        return []
    times = []
    for part in watch.split(","):
        try:
            times.append(some_seconds(part.strip()))
        except ValueError as error:
            raise UsageError(f"--watch {watch}: {error}, such as 5m,30m") from error
    if times != sorted(set(times)):
        raise UsageError(f"--watch {watch}: give rising times, such as 5m,30m")
    return times


def _document(read: Verified) -> dict[str, Any]:
    """One reading. Any: JSON values."""
    found = read.recheck
    return {
        "at": read.at,
        "verified": {"agree": found.agree, "disagree": len(found.back), "unread": len(found.unread)},
        "undone": found.undone,
        "back": [_where(call) for call in found.back],
        "unread": [_where(call) for call in found.unread],
        "never": [_where(call) for call in found.never],
    }


def _show(this: Verifying, read: Verified) -> None:
    ledger, found = this.ledger, read.recheck
    action = ACTIONS[ledger.run.action]
    mark = "SIMULATED  " if ledger.run.simulated else ""
    more = f"; {found.undone:,} undone since, on purpose" if found.undone else ""
    more += f"; {found.since:,} more {'is' if found.since == 1 else 'are'}, not by this run" if found.since else ""
    more += f"; {len(found.never):,} never were" if found.never else ""
    total = len(ledger.calls) + len(ledger.lacking()) - found.since
    out(f"{mark}{found.agree:,} of {total:,} still {action.done_word} at {read.at[11:]}{more}")
    for call in found.back:
        out(f"  CAME BACK, not {action.done_word}: {call.placed}")
    for call in found.unread:
        why = before_line(call, read.readings.get(call.where)).why or ""  # it may be gone, and not out of reach
        out(f"  not read: {call.placed}  {why.removeprefix('not read: ')}")
    for call in found.never:
        out(f"  NEVER {action.done_word} by this run: {call.placed}")


def _where(call: Call) -> dict[str, str]:
    return {"account": call.account, "region": call.region, "instance": call.instance, "user": call.user}
