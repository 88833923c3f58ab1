"""Door: the commands that look back at a run: undo brings back what it changed, verify reads it again."""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine import records
from engine.actions import ACTIONS
from engine.cli.continuing import check_endpoint, find, guard_home, guards_of, overridden, stricter
from engine.cli.kin import Others, others_of, with_family
from engine.cli.options import Options
from engine.cli.sending import NewRun, faults_of, refuse_empty
from engine.cli.sources import reach_of
from engine.cli.survey import Survey, survey
from engine.cli.talk import out, out_json, printed, say, warn
from engine.clients import Reach, identity, is_as_before, is_known, refuse_strangers
from engine.errors import BusyError, CredentialsError, Exit, RefusedError, UsageError
from engine.job import Glob, StopAfter
from engine.journal.reader import replay
from engine.model import Call, Omit, OmitReason, Outcome, Target
from engine.outlook import before_line, look_ahead, refusals
from engine.plan import plan_again
from engine.report import document
from engine.undo import Choice, Keep, UndoPlan, holds_of, linked, recheck, undo_plan, undone_keys

if TYPE_CHECKING:
    from engine.journal.store import RunRef
    from engine.ledger import Ledger
    from engine.plan import Plan
    from engine.simulator.world import World

_SHOWN = 10
_STAYS = (Keep.HELD, Keep.BEFORE_UNKNOWN, Keep.EDITED, Keep.GONE, Keep.UNREAD)
"""Accounts that still stand as the run left them, or may: an undo that leaves only these is not done."""


# ---- undo ----------------------------------------------------------------------------------------------------------


def undo_run(
    run: str,
    *,
    family: bool,
    targets: tuple[str, ...],
    include_edited: bool,
    rotated: bool,
    released: tuple[str, ...],
    password_command: str | None,
    password_file: str | None,
    **flags: Any,
) -> int:
    """The `undo` command. Any: the flags, by name."""
    options = Options(**flags)
    if run == "latest" and options.yes:
        raise RefusedError("`latest` with --yes could be another run than you think; name the run")
    if options.no_verify:
        raise UsageError("an undo goes by what it reads; remove --no-verify")
    ref = find(options, run)
    found = replay(ref.path)
    ledger = with_family(ref, found) if family else found.ledger
    assert ledger.run is not None
    _check_undoable(options, ref, ledger)
    options = replace(options, simulate=ledger.run.simulated)
    faults_of(options)
    guards = guards_of(options, ledger)
    ignored = tuple(find(options, name).run_id for name in released)
    choice, named = _choice(options, targets, include_edited=include_edited, rotated=rotated)
    _refuse_without_before(ledger, named=named)
    inverse = ACTIONS[ledger.run.action].inverse
    assert inverse is not None
    passwords = _password_record(password_command, password_file, inverse)
    frozen = stricter(overridden(options, ledger.settings), guards)
    reach = reach_of(frozen, guards, simulated=options.simulate, purpose=ref.run_id)
    _check_identity(ledger, reach)
    changed = [call for call, _, outcome in ledger.outcomes() if outcome is Outcome.CHANGED]
    read, world = _read(options, ledger, changed, reach, frozen)
    _check_identity(ledger, reach, is_asked=True)
    others = others_of(ref.store, ref.run_id, {ledger.run.action, inverse}) if ref.store is not None else None
    holds = holds_of(ledger, others.ledgers if others is not None else (), ignored)
    undo = undo_plan(ledger, read.readings, holds, choice)
    plan = plan_again(inverse, undo.plan.calls, protect=guards.protect, exclude=())
    plan = replace(plan, omits=(*plan.omits, *_unread(undo, ref)))
    refused = refusals(
        look_ahead(plan, read.readings), max_targets=guards.max_targets, max_share=None, expect=options.expect
    )
    if not options.quiet:
        say("\n".join(_preview(ref, ledger, undo, plan, read, others)))
    if refused:
        raise RefusedError("refused: " + "; ".join(refused) + "; nothing was sent")
    if not undo.plan.calls:
        return _nothing_to_undo(options, ref, undo)
    refuse_empty(plan)
    return NewRun(
        options=options,
        settings=guards,
        frozen=_undo_settings(options, frozen, guards.stop_after_for(inverse), passwords),
        plan=plan,
        job=_undo_job(ledger.run, targets),
        reason=options.reason or ledger.run.reason,
        ticket=options.ticket or ledger.run.ticket,
        simulated=options.simulate,
        stop_after=guards.stop_after_for(inverse),
        guarded_by=str(guard_home(ledger)),
        parent=ref,
        verb="undo",
        found=read,
        world=world,
    ).start()


def _check_undoable(options: Options, ref: RunRef, ledger: Ledger) -> None:
    assert ledger.run is not None
    action = ACTIONS[ledger.run.action]
    if action.inverse is None:
        raise UsageError(f"{action.name} cannot be undone: no action is its inverse")
    if ref.store is not None and ref.store.is_live(ref.run_id):
        raise BusyError(f"run {ref.run_id} is still going on; stop it first: acctops stop {ref.run_id}")
    check_endpoint(options, ledger)
    open_calls = sum(entry.needs_reading for _, entry, _ in ledger.outcomes())
    if open_calls:
        raise RefusedError(
            f"of {open_calls:,} calls of run {ref.run_id} nobody knows whether they were applied; "
            f"first: acctops resume {ref.run_id}"
        )


def _refuse_without_before(ledger: Ledger, *, named: bool) -> None:
    changed = [entry for _, entry, outcome in ledger.outcomes() if outcome is Outcome.CHANGED]
    if named or not changed or any(entry.before is not None and entry.before.status is not None for entry in changed):
        return
    assert ledger.run is not None
    raise RefusedError(
        f"run {ledger.run.run} did not read its accounts before it changed them (--no-verify), so nobody knows what it "
        "changed; name the accounts: --target @FILE, one instance/user a line"
    )


def _check_identity(ledger: Ledger, reach: Reach, *, is_asked: bool = False) -> None:
    """CredentialsError if these keys are not of whom the run used.

    Where the run knew whose its keys were, that decides, once it `is_asked`; else the source of the keys.
    """
    assert ledger.run is not None
    refuse_strangers(reach.keyring, ledger.uins)
    now = identity(reach.keyring)
    acted_on = ledger.acted_on()
    may_be_known = all(ledger.uins.get(account) for account in acted_on) and not is_asked
    as_before = is_as_before(reach.keyring, ledger.run.identity, ledger.sources(), acted_on)
    if as_before or may_be_known or is_known(reach.keyring, ledger.uins):
        return
    raise CredentialsError(
        f"the run used the keys of {ledger.run.identity}, these are of {now}; what it changed is undone "
        "with the same ones (--profile)"
    )


def _choice(options: Options, targets: tuple[str, ...], *, include_edited: bool, rotated: bool) -> tuple[Choice, bool]:
    """What the flags ask for, and whether they name accounts one by one."""
    excluded = options.excludes()
    globs: list[Glob] = []
    names: set[str] = set()
    for text in targets:
        if text.startswith("@"):
            names |= _names_in(Path(text[1:]))
        else:
            globs += replace(options, exclude=(text,)).excludes()

    def wanted(call: Call) -> bool:
        if any(glob.matches(call.instance, call.user) for glob in excluded):
            return False
        return not targets or call.label in names or any(glob.matches(call.instance, call.user) for glob in globs)

    return Choice(wanted=wanted, by_list=bool(names), include_edited=include_edited, rotated_only=rotated), bool(names)


def _names_in(path: Path) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--target @{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    names = {line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")}
    wrong = sorted(name for name in names if name.count("/") != 1)
    if wrong:
        raise UsageError(f"--target @{path}: {wrong[0]!r} is not instance/user")
    if not names:
        raise UsageError(f"--target @{path}: names no account")
    return names


def _password_record(command: str | None, file: str | None, inverse: str) -> dict[str, object] | None:
    """The source of new passwords, which an undo of CAM needs before anything is sent."""
    if not ACTIONS[inverse].needs_password:
        if command or file:
            raise UsageError(f"{inverse} takes no password; remove --password-command and --password-file")
        return None
    if command and file:
        raise UsageError("give --password-command or --password-file, not both")
    if command:
        return {"command": shlex.split(command)}
    if file:
        return {"file": str(Path(file).expanduser().absolute())}
    raise UsageError(f"{inverse} sets a new password for every account: give --password-command or --password-file")


def _read(
    options: Options, ledger: Ledger, calls: list[Call], reach: Reach, frozen: records.RunSettings
) -> tuple[Survey, World | None]:
    """Read the instances of what the run changed, all of them: what cannot be read now cannot be undone now."""
    world = None
    if options.simulate:
        from engine.cli.session import simulated_world

        assert ledger.run is not None
        changed = {call.id for call in calls}
        world = simulated_world(ledger.run.action, ledger.calls.values(), changed, faults_of(options))
    return _survey(calls, reach, frozen, world, "undo"), world


def _survey(calls: list[Call], reach: Reach, frozen: records.RunSettings, world: World | None, purpose: str) -> Survey:
    return survey(
        calls,
        reach=reach,
        timeout_s=frozen.timeout_s,
        world=world,
        limit_s=None,
        purpose=purpose,
    )


def _unread(undo: UndoPlan, ref: RunRef) -> Iterator[Omit]:
    """What should be undone and cannot be looked at now: lacking, so that an undo without it is not complete."""
    for kept in undo.kept:
        if kept.why is Keep.UNREAD:
            call = kept.call
            target = Target(call.instance, call.user, call.region, call.account)
            yield Omit(target, OmitReason.UNSEEN, kept.words, f"undo of {ref.run_id}")


def _undo_settings(
    options: Options, frozen: records.RunSettings, stop_after: StopAfter | None, passwords: dict[str, object] | None
) -> records.RunSettings:
    import msgspec

    return msgspec.structs.replace(
        frozen,
        verify=not options.no_verify,
        stop_after=str(stop_after) if stop_after is not None else None,
        passwords=passwords,
        resend_already=False,
        window=None,  # what must be taken back waits for no Saturday
    )


def _undo_job(run: records.Run, targets: tuple[str, ...]) -> records.JobRef:
    digest = hashlib.sha256("\n".join(("undo", run.run, *targets)).encode()).hexdigest()
    return records.JobRef(f"undo of {run.job.name}"[:100], f"undo of run {run.run}", digest)


def _preview(ref: RunRef, ledger: Ledger, undo: UndoPlan, plan: Plan, read: Survey, others: Others | None) -> list[str]:
    assert ledger.run is not None
    action = ACTIONS[plan.action]
    lines = [
        f"UNDO of {ref.run_id}  {ledger.run.action}  {ledger.run.job.name}",
        f"  {read.words()}",
        f"  to {action.verb}  {len(plan.calls):,}",
    ]
    if plan.calls:
        lines.append(f"  {undo.same_password:,} of these still have the password they had before the run")
    for why, count in undo.counts().items():
        if count and why != Keep.NOT_CHANGED:
            kept = [kept for kept in undo.kept if kept.why == why]
            if why == Keep.NOT_ASKED:
                lines.append(f"  stays, {kept[0].words}  {count:,}")
                continue
            lines.append(f"  stays, {why.replace('_', ' ')}  {count:,}  {kept[0].call.named}: {kept[0].words}")
            lines += [f"      {each.call.named}: {each.words}" for each in kept[1:_SHOWN]]
            if count > _SHOWN:
                lines.append(f"      … and {count - _SHOWN:,} more")
    for omit in [omit for omit in plan.omits if omit.reason is not OmitReason.UNSEEN][:_SHOWN]:  # those: above
        lines.append(f"  stays, {omit.reason}  {omit.target.named}  {omit.rule} ({omit.where})")
    if others is None:
        lines.append("  the journal lies outside a state directory: no other run was looked at")
    else:
        assert ref.store is not None
        lines.append(f"  {others.looked_at:,} other journals looked at for holds, in {ref.store.runs_dir}")
        lines += [f"  UNREADABLE, its holds are not known: {text}" for text in others.unreadable]
    return lines


def _nothing_to_undo(options: Options, ref: RunRef, undo: UndoPlan) -> int:
    stays = {why: count for why, count in undo.counts().items() if count and why in _STAYS}
    if stays:
        named = ", ".join(f"{count:,} {why.replace('_', ' ')}" for why, count in stays.items())
        raise RefusedError(f"run {ref.run_id}: nothing can be undone now, and not all is undone: {named}")
    if not options.quiet:
        say(f"run {ref.run_id}: nothing is left to undo")
    if options.as_json:
        out_json({"run": None, "parent": ref.run_id, "kept": undo.counts(), "exit": int(Exit.OK)})
    return Exit.OK


# ---- verify --------------------------------------------------------------------------------------------------------


def verify_run(run: str, *, family: bool, watch: str | None, **flags: Any) -> int:
    """The `verify` command. Any: the flags, by name."""
    options = Options(**flags)
    times = _watch_times(watch)
    ref = find(options, run)
    found = replay(ref.path)
    ledger = with_family(ref, found) if family else found.ledger
    assert ledger.run is not None
    if ACTIONS[ledger.run.action].is_desired is None:
        raise UsageError(f"nothing readable tells what {ledger.run.action} has done; there is nothing to verify")
    check_endpoint(options, ledger)
    options = replace(options, simulate=ledger.run.simulated)
    frozen = overridden(options, ledger.settings)
    reach = reach_of(frozen, options.settings(None), simulated=options.simulate, purpose=ref.run_id)
    _check_identity(ledger, reach)
    undone = _undone(ref, ledger)
    begun = time.monotonic()
    code = Exit.OK
    results = []
    for after in (0.0, *times):
        _wait(begun + after)
        result, once = _verify_once(options, ledger, reach, frozen, undone)
        results.append(result)
        code = max(code, once)
    if options.as_json:
        whole = document(ledger, journal=str(ref.path), head=found.head)
        latest = results[-1]
        out_json({"run": whole["run"], "action": whole["action"], **latest, "readings": results, "exit": int(code)})
    return printed() or code


def _undone(ref: RunRef, ledger: Ledger) -> set[tuple[str, str, str, str]]:
    """Accounts that undos of this run, or of what it is merged of, have brought back."""
    assert ledger.run is not None
    inverse = ACTIONS[ledger.run.action].inverse
    if ref.store is None or inverse is None:
        return set()
    others = others_of(ref.store, ref.run_id, {ledger.run.action, inverse}).ledgers
    by_run = {other.run.run: other for other in others if other.run is not None}
    by_run[ledger.run.run] = ledger
    return {key for name in linked(ledger.run.run, by_run) for key in undone_keys(name, by_run)}


def _watch_times(watch: str | None) -> list[float]:
    from engine.jobfile.values import some_seconds

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
) -> tuple[dict[str, Any], Exit]:
    """Read and compare once. Any: JSON values."""
    good = (Outcome.CHANGED, Outcome.ALREADY)
    calls = [call for call, _, outcome in ledger.outcomes() if outcome in good]
    assert ledger.run is not None
    world = None
    if options.simulate:
        from engine.cli.session import simulated_world

        stands = {call.id for call in calls if (call.account, call.region, call.instance, call.user) not in undone}
        world = simulated_world(ledger.run.action, ledger.calls.values(), stands)
    read = _survey(calls, reach, frozen, world, "verify")
    _check_identity(ledger, reach, is_asked=True)
    found = recheck(ledger, read.readings, undone)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    action = ACTIONS[ledger.run.action]
    result = {
        "at": at,
        "verified": {"agree": found.agree, "disagree": len(found.back), "unread": len(found.unread)},
        "undone": found.undone,
        "back": [_where(call) for call in found.back],
        "unread": [_where(call) for call in found.unread],
    }
    if not options.as_json:
        mark = "SIMULATED  " if options.simulate else ""
        undone_words = f"; {found.undone:,} undone since, on purpose" if found.undone else ""
        out(f"{mark}{found.agree:,} of {len(calls):,} still {action.done_word} at {at[11:]}{undone_words}")
        for call in found.back:
            out(f"  CAME BACK, not {action.done_word}: {call.placed}")
        for call in found.unread:
            why = before_line(call, read.readings.get(call.where)).why or ""  # it may be gone, and not out of reach
            out(f"  not read: {call.placed}  {why.removeprefix('not read: ')}")
    if found.back and not options.as_json:
        count = len(found.back)
        warn(f"{count:,} account{'s' * (count != 1)} came back: acctops run the job again, or lock them by name")
    return result, Exit.INCOMPLETE if found.back or found.unread else Exit.OK


def _where(call: Call) -> dict[str, str]:
    return {"account": call.account, "region": call.region, "instance": call.instance, "user": call.user}
