"""Verify reads the accounts of a run again, and says which are no longer as it left them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.cli.continuing import find, overridden
from engine.cli.guarding import check_endpoint
from engine.cli.loops import run_loop
from engine.cli.options import Options
from engine.cli.sources import reach_of
from engine.cli.talk import out, out_json, printed, warn
from engine.cloud.clients import Reach, check_identity
from engine.errors import Exit, UsageError
from engine.inputs.files import job_file
from engine.journal import records
from engine.journal.reader import replay
from engine.model import Call, Outcome
from engine.operations.family import undone_since, way_of, with_family
from engine.operations.survey import survey
from engine.planning.outlook import before_line
from engine.planning.undo import Recheck, recheck
from engine.report.nextstep import by_name
from engine.report.text import document

if TYPE_CHECKING:
    from engine.journal.ledger import Ledger
    from engine.report.nextstep import WayOn


def verify_run(run: str, *, family: bool, watch: str | None, **flags: Any) -> int:
    """The `verify` command. Any: the flags, by name."""
    options = Options(**flags)
    times = _watch_times(watch)
    ref = find(options, run)
    found = replay(ref.path)
    settings = options.settings(None)
    ledger = with_family(ref, found, settings.trust) if family else found.ledger
    assert ledger.run is not None
    if ACTIONS[ledger.run.action].is_desired is None:
        raise UsageError(f"nothing readable tells what {ledger.run.action} has done; there is nothing to verify")
    options = replace(options, simulate=ledger.run.simulated)
    check_endpoint(options, ledger)
    frozen = overridden(options, ledger.settings)
    reach = reach_of(frozen, settings, simulated=options.simulate, purpose=ref.run_id)
    check_identity(reach.keyring, ledger)
    undone = undone_since(ref, ledger, settings.trust)
    begun = time.monotonic()
    code = Exit.OK
    results = []
    for after in (0.0, *times):
        _wait(begun + after)
        result, once, last = _verify_once(options, ledger, reach, frozen, undone)
        results.append(result)
        code = max(code, once)
    if (last.back or last.never) and not options.as_json:
        repeat = options.repeat(ref.store.state_dir) if ref.store is not None else ""
        _say_what_to_do(ledger, last, way_of(ref.store, found.ledger, flags=repeat))
    if options.as_json:
        whole = document(ledger, journal=str(ref.path), head=found.head)
        latest = results[-1]
        out_json({"run": whole["run"], "action": whole["action"], **latest, "readings": results, "exit": int(code)})
    return printed() or code


def _watch_times(watch: str | None) -> list[float]:
    from engine.inputs.jobfile.values import some_seconds

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


def _wait(until: float, sleep: Callable[[float], None] = time.sleep) -> None:
    while (left := until - time.monotonic()) > 0:
        sleep(min(left, 1.0))


def _verify_once(
    options: Options,
    ledger: Ledger,
    reach: Reach,
    frozen: records.RunSettings,
    undone: set[tuple[str, str, str, str]],
) -> tuple[dict[str, Any], Exit, Recheck]:
    """Read and compare once, all that the run was to do. Any: JSON values."""
    calls = list(ledger.calls.values())
    assert ledger.run is not None
    world = None
    if options.simulate:
        from engine.operations.simulated import simulated_world

        good = (Outcome.CHANGED, Outcome.ALREADY)
        done = [call for call, _, outcome in ledger.outcomes() if outcome in good]
        stands = {call.id for call in done if (call.account, call.region, call.instance, call.user) not in undone}
        world = simulated_world(ledger.run.action, ledger.calls.values(), stands)
    read = run_loop(survey(calls, reach=reach, timeout_s=frozen.timeout_s, world=world, limit_s=None, purpose="verify"))
    check_identity(reach.keyring, ledger, is_asked=True)
    found = recheck(ledger, read.readings, undone)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    action = ACTIONS[ledger.run.action]
    result = {
        "at": at,
        "verified": {"agree": found.agree, "disagree": len(found.back), "unread": len(found.unread)},
        "undone": found.undone,
        "back": [_where(call) for call in found.back],
        "unread": [_where(call) for call in found.unread],
        "never": [_where(call) for call in found.never],
    }
    is_good = not (found.back or found.unread or found.never)
    if not options.as_json and not (options.quiet and is_good):
        mark = "SIMULATED  " if options.simulate else ""
        more = f"; {found.undone:,} undone since, on purpose" if found.undone else ""
        more += f"; {found.since:,} more {'is' if found.since == 1 else 'are'}, not by this run" if found.since else ""
        more += f"; {len(found.never):,} never were" if found.never else ""
        total = len(calls) + len(ledger.lacking()) - found.since
        out(f"{mark}{found.agree:,} of {total:,} still {action.done_word} at {at[11:]}{more}")
        for call in found.back:
            out(f"  CAME BACK, not {action.done_word}: {call.placed}")
        for call in found.unread:
            why = before_line(call, read.readings.get(call.where)).why or ""  # it may be gone, and not out of reach
            out(f"  not read: {call.placed}  {why.removeprefix('not read: ')}")
        for call in found.never:
            out(f"  NEVER {action.done_word} by this run: {call.placed}")
    return result, Exit.OK if is_good else Exit.INCOMPLETE, found


def _say_what_to_do(ledger: Ledger, found: Recheck, way: WayOn) -> None:
    """The whole command for what came back, and for what never was as asked."""
    count = len(found.back)
    if count:
        warn(f"{count:,} account{'s' * (count != 1)} came back: {_again(ledger, found.back, way)}")
    if found.never:
        assert ledger.run is not None
        done_word = ACTIONS[ledger.run.action].done_word
        command = way.command or _again(ledger, found.never, way)
        warn(f"{len(found.never):,} of what was asked for never came to be {done_word}: {command}")


def _again(ledger: Ledger, calls: Sequence[Call], way: WayOn) -> str:
    """What does it once more: the job, if its file is still there, else a command that names the accounts."""
    run = ledger.run
    assert run is not None
    if way.job is not None and job_file(run.job.path) is not None:
        return way.job
    named = by_name(run.action, [call for call in calls if call.id], run.asked)
    if not named:
        return f"run a job with `action: {run.action}` and these accounts"
    mark = " --simulate" if run.simulated else ""
    return "; ".join(f"{step.command()}{mark}{way.flags}" for step in named)


def _where(call: Call) -> dict[str, str]:
    return {"account": call.account, "region": call.region, "instance": call.instance, "user": call.user}
