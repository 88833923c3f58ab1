"""Plan an undo, which brings back what a run changed, and nothing else."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.cloud.clients import Reach, check_identity
from engine.errors import BusyError, Reason, RefusedError, TooSoonError, UsageError
from engine.inputs.files import recorded
from engine.journal import records
from engine.model import GOOD, LACKING, Call, Omit, OmitReason, Outcome
from engine.operations import choosing
from engine.operations.begin import planned
from engine.operations.events import News, Warned
from engine.operations.family import Kin, Undone, changed_by_reruns, end_of_holds, kin_of, with_family
from engine.operations.frozen import overridden, stricter, undo_settings
from engine.operations.proposal import Nothing, Planned, Proposal, refuse_empty
from engine.operations.reach import reach_of
from engine.operations.rerun import refuse_latest
from engine.operations.resume import tell_of_idle, tell_of_past
from engine.operations.simulated import faults_of, simulated_world
from engine.operations.stores import find, flags_of, older_copy, refuse_watch
from engine.operations.survey import Survey, survey
from engine.operations.terms import Terms
from engine.operations.today import check_endpoint, guard_home, guards_of, refuse_strange_run
from engine.outside.foreign import pasted
from engine.planning.outlook import look_ahead
from engine.planning.plan import plan_again
from engine.planning.refusals import refusals
from engine.planning.undo import (
    STAYS,
    Choice,
    Keep,
    UndoPlan,
    found_so_late,
    in_question,
    is_before_known,
    stays,
    undo_plan,
)
from engine.report.nextstep import Step, later_words, undo_steps

if TYPE_CHECKING:
    from engine.inputs.settings import Settings
    from engine.journal.ledger import Ledger
    from engine.journal.protocols import RunRef
    from engine.journal.reader import Replay
    from engine.operations.holding import Gathered
    from engine.outside.trust import Trust
    from engine.planning.plan import Plan
    from engine.simulator.world import World

_SHOWN = 10
_LATE_S = 60.0
"""Seconds after which a call that was given up takes effect no more."""


def accounts(count: int) -> str:
    """Return a number of accounts in words."""
    return f"{count:,} account{'s' * (count != 1)}"


class Selection(Struct, frozen=True, kw_only=True):
    """What of a run an undo takes back; texts are as typed."""

    family: bool = False
    """Also its reruns, and the runs it reran."""
    targets: tuple[str, ...] = ()
    """Only these: `instance/user`, globs of them, or `@FILE` with one a line."""
    wave: int | None = None
    """Only the accounts of this wave."""
    include_edited: bool = False
    """Also accounts that somebody edited since."""
    rotated: bool = False
    """Only accounts whose password was changed after the run."""
    released: tuple[str, ...] = ()
    """Runs whose holds on these accounts end, too."""
    ignored: tuple[str, ...] = ()
    """Runs with damaged journals, whose holds do not count."""
    due: bool = False
    """Only accounts whose last limit has passed, and that may then be opened without a person (`Holds.bar`)."""
    password_command: str | None = None
    password_file: str | None = None
    passwords: dict[str, object] | None = None
    """The source of new passwords as a journal names it, in place of the two."""


class NothingToUndo(Nothing, frozen=True, kw_only=True):
    """Nothing is sent: because all is undone, or because what is left stays."""

    parent: str
    kept: Mapping[str, int]
    """Reason → how many accounts stay for it."""
    open: int
    """How many of them a complete undo would have brought back."""
    released: int = 0
    """On how many accounts the run's holds have ended."""
    steps: tuple[Step, ...]
    """What to do next."""
    choices: tuple[Step, ...]
    """Further steps, on which a person may decide."""
    flags: str
    reason: Reason
    """INCOMPLETE if something stays that a complete undo would have brought back, else OK."""


async def plan_undo(
    terms: Terms, run: str, chosen: Selection, known: Gathered | None = None
) -> Planned | NothingToUndo:
    """Plan a run that brings back what a run changed, where it still stands as the run left it.

    `known`: what was gathered of holds before, of its accounts and more: only what changed since is read again.
    """
    refuse_latest(terms, run)
    if terms.no_verify:
        raise UsageError("an undo goes by what it reads; remove --no-verify")
    ref = find(terms, run)
    found = ref.replay()
    refuse_watch(terms, ref, found.ledger.run, "undo")
    ledger = with_family(ref, found, terms.settings(None).trust) if chosen.family else found.ledger
    kin = kin_of(ref.store, found.ledger)
    terms = replace(terms, simulate=ledger.run.simulated)
    older = _tell_older(terms, ref, found, tuple(_ignored(terms, ref, name) for name in chosen.ignored))
    _check_undoable(terms, ref, ledger, kin)
    faults_of(terms)
    guards = guards_of(terms, ledger)
    refuse_strange_run(ref, guards.trust)
    chosen = replace(chosen, ignored=tuple(_ignored(terms, ref, name) for name in chosen.ignored))
    released = tuple(find(terms, name).run_id for name in chosen.released)
    choice, named = _choice(terms, ledger, chosen)
    _refuse_without_before(ledger, named=named)
    inverse = ACTIONS[ledger.run.action].inverse
    assert inverse is not None
    passwords = _password_record(chosen, inverse)
    asked = _asked(terms, chosen, released)
    frozen = stricter(overridden(terms, ledger.settings), guards)
    reach = await reach_of(frozen, guards, terms, purpose=ref.run_id)
    check_identity(reach.keyring, ledger)
    questioned = in_question(kin.ledgers)
    undone = Undone(
        run_id=ref.run_id,
        ledger=ledger,
        store=ref.store,
        trust=guards.trust,
        asked=asked,
        clock=terms.clock,
        gathered=known,
        older=older,
    )
    owing = undone.owing()
    _refuse_blind_holds(terms, undone)
    changed = [
        call
        for call, _, outcome in ledger.outcomes()
        if (call.id in questioned or (outcome in GOOD and (chosen.due or owing.entry(call) is not None)))
        and owing.bar(call)
        is None  # by a limit all is read, also what ends without being opened: for the server's time
    ]
    read, world = await _read(terms, ledger, changed, reach, frozen)
    check_identity(reach.keyring, ledger, is_asked=True)
    if chosen.due:
        owing = undone.on_time(owing, read.ahead_s)
    undo = undo_plan(ledger, read.readings, owing, choice, questioned)
    undone.waiting |= {kept.call.id for kept in undo.kept if kept.why is Keep.HELD}
    plan = plan_again(inverse, undo.plan.calls, protect=guards.protect, exclude=())
    plan = replace(plan, omits=(*plan.omits, *_stays(undo, ref)))
    terms.tell(News("\n".join(_preview(undone, ref, undo, plan, read))))
    if not chosen.family and (more := changed_by_reruns(kin, ledger)):
        whole = f"acctops undo {ref.run_id} --family{flags_of(terms, ref)}"
        terms.tell(News(f"  {more:,} more were changed by reruns of it: {whole}"))
    _refuse_beyond(terms, guards, plan, read)
    if not plan.calls:  # what sends nothing asks nothing; what others hold is theirs nevertheless
        owed = undone.end_holds(undo.released, (), terms.clock)
        if not undo.plan.calls:
            undone.note_seen(undo.seen, terms.clock)
            return await plan_undo(terms, run, chosen) if owed else _nothing_to_undo(terms, ref, undo, asked, older)
        if chosen.due:
            return _all_protected(_nothing_to_undo(terms, ref, undo, asked, older), plan)
    refuse_empty(plan)
    _tell_of_incident(terms, kin, ref, guards.trust)
    stop_after = guards.stop_after_for(inverse)
    return await planned(
        Proposal(
            terms=terms,
            settings=guards,
            frozen=undo_settings(frozen, stop_after, passwords),
            plan=plan,
            job=_undo_job(ledger.run, chosen),
            reason=terms.reason or ledger.run.reason,
            ticket=terms.ticket or ledger.run.ticket,
            stop_after=stop_after,
            guarded_by=recorded(str(guard_home(ledger))),
            asked=asked,
            parent=ref,
            verb="undo",
            undone=undone,
            released=undo.released,
            seen=undo.seen,
            guards=partial(guards_of, terms, ledger),
            found=read,
            world=world,
        )
    )


def _refuse_beyond(terms: Terms, guards: Settings, plan: Plan, read: Survey) -> None:
    """Raise RefusedError if the guards on size refuse an undo, or if a plan without calls is to be saved."""
    refused = refusals(
        look_ahead(plan, read.readings), max_targets=guards.max_targets, max_share=None, expect=terms.expect
    )
    if refused:
        raise RefusedError("refused: " + "; ".join(refused) + "; nothing was sent")
    if not plan.calls and terms.is_saving:
        raise RefusedError("nothing is to be sent, so there is no plan to save; leave --save away to end its holds")


def _tell_older(terms: Terms, ref: RunRef, found: Replay, ignored: tuple[str, ...]) -> str | None:
    """Tell if the journal is an older copy of itself, and return why; None if it is none, or `--ignore` names the run.

    An undo goes by what its journal says was changed. An older copy says less, and the rest stays as it is: so the undo
    is not whole, whatever it brings back.
    """
    older = older_copy(ref.store, ref.run_id, lines=found.seq, head=found.head)
    if older is None:
        return None
    way = f"acctops undo {ref.run_id} --ignore {ref.run_id}{flags_of(terms, ref)}"
    terms.tell(
        Warned(
            f"{older}. Only what it says is undone, and the exit code is 1. Put the newer journal back and undo again; "
            f"if you know that nothing else was changed: {way}",
            always=True,
        )
    )
    return None if ref.run_id in ignored else older


def _ignored(terms: Terms, ref: RunRef, name: str) -> str:
    """Return the run that `--ignore` names, also one whose journal was removed."""
    if ref.store is not None and name in ref.store.lost():
        return name
    return find(terms, name).run_id


def _asked(terms: Terms, chosen: Selection, released: tuple[str, ...]) -> tuple[str, ...]:
    """Return the flags that say what this undo takes, as the same undo needs them again, from any directory."""
    switches = (
        ("--family", chosen.family),
        ("--include-edited", chosen.include_edited),
        ("--rotated", chosen.rotated),
        ("--due", chosen.due),
    )
    named = (("--password-command", chosen.password_command), ("--password-file", chosen.password_file))
    words = [flag for flag, is_on in switches if is_on]
    words += ["--wave", str(chosen.wave)] if chosen.wave is not None else []
    for text in chosen.targets:
        words += ["--target", f"@{Path(text[1:]).absolute()}" if text.startswith("@") else text]
    words += [word for run in released for word in ("--release", run)]
    words += [word for run in chosen.ignored for word in ("--ignore", run)]
    return (*terms.asked(), *words, *(word for flag, value in named if value for word in (flag, value)))


def _check_undoable(terms: Terms, ref: RunRef, ledger: Ledger, kin: Kin) -> None:
    action = ACTIONS[ledger.run.action]
    if action.inverse is None:
        raise UsageError(f"{action.name} cannot be undone: no action is its inverse")
    if ref.store is not None and ref.store.is_live(ref.run_id):
        stop = f"acctops stop {ref.run_id}{flags_of(terms, ref)}"
        raise BusyError(f"run {ref.run_id} is still going on; stop it first: {stop}")
    check_endpoint(terms, ledger)
    later = later_words(kin.ledgers, ref.run_id)
    unread = [
        call.id
        for call, entry, _ in ledger.outcomes()
        if entry.needs_reading and (call.id not in later or later[call.id][1] is not Outcome.CHANGED)
    ]
    if unread and ref.run_id not in kin.undone:
        _refuse_so_soon(terms, ref, ledger, len(unread))
        if _red(ledger) is not None:
            return
        whose = next(each.run.run for each in reversed(kin.ledgers) if each.entry(unread[0]).needs_reading)
        raise RefusedError(
            f"of {len(unread):,} calls of run {ref.run_id} nobody knows whether they were applied; "
            f"first: acctops resume {whose}{flags_of(terms, ref)}"
        )


def _red(ledger: Ledger) -> records.WaveLine | None:
    """Return the red wave of a run; None if there is none."""
    return next((line for line in ledger.waves.values() if line.n and line.state == records.RED), None)


def _refuse_so_soon(terms: Terms, ref: RunRef, ledger: Ledger, unread: int) -> None:
    """Raise TooSoonError for calls in doubt of a red wave, as long as what was sent may still take effect.

    A resume sends none of them again while the gate is red. So this undo reads them, and goes by that.
    """
    if (red := _red(ledger)) is None:
        return
    until = records.unix_seconds(red.at) + ledger.settings.timeout_s + _LATE_S
    if terms.clock() < until:
        raise TooSoonError(
            f"of {unread:,} calls of run {ref.run_id} nobody knows whether they were applied, and they may still be; "
            f"from {records.rfc3339(until)[11:19]}Z on: acctops undo {ref.run_id} --wave {red.n}{flags_of(terms, ref)}",
            until,
        )


def _tell_of_incident(terms: Terms, kin: Kin, ref: RunRef, trust: Trust) -> None:
    """Warn if the undo of an undo goes on with an incident whose holds have ended."""
    parent = kin.ledgers[0].run.parent
    if parent is None or parent.verb != "undo" or ref.store is None or not ref.store.has(parent.run):
        return
    incident = ref.store.find(parent.run)
    until, _ = end_of_holds(ref.store, incident.replay().ledger, trust)
    tell_of_past(terms, incident, until)


def _refuse_without_before(ledger: Ledger, *, named: bool) -> None:
    changed = [entry for _, entry, outcome in ledger.outcomes() if outcome is Outcome.CHANGED]
    if named or not changed or any(map(is_before_known, changed)):
        return
    raise RefusedError(
        f"run {ledger.run.run} did not read its accounts before it changed them (--no-verify), so nobody knows what it "
        "changed; name the accounts: --target @FILE, one instance/user a line"
    )


def _choice(terms: Terms, ledger: Ledger, chosen: Selection) -> tuple[Choice, bool]:
    """Return what the flags ask for, and whether they name accounts one by one."""
    excluded = terms.excludes()
    tell_of_idle(terms, excluded, ledger)
    named = choosing.chosen(chosen.targets, ledger.calls.values())
    wave = _wave(ledger, chosen.wave)

    def wanted(call: Call) -> bool:
        if wave is not None and ledger.wave_of.get(call.id) != wave:
            return False
        return named.has(call) and not any(glob.matches(call.instance, call.user) for glob in excluded)

    by_list = bool(named.names) and not named.globs
    choice = Choice(wanted=wanted, by_list=by_list, include_edited=chosen.include_edited, rotated_only=chosen.rotated)
    return choice, bool(named.names)


def _wave(ledger: Ledger, wave: int | None) -> int | None:
    """Return the wave that is named; UsageError if the run has no such wave."""
    if wave is None or (wave and wave in ledger.waves):
        return wave
    last = max(ledger.waves, default=0)
    there = f"has waves 1 to {last}" if last > 1 else "has one wave, 1" if last else "has no waves"
    raise UsageError(f"--wave {wave}: run {ledger.run.run} {there}")


def _password_record(chosen: Selection, inverse: str) -> dict[str, object] | None:
    """Return the source of new passwords, which an undo of CAM needs before anything is sent; None for any other."""
    if chosen.passwords is not None and ACTIONS[inverse].needs_password:
        return chosen.passwords
    command, file = chosen.password_command, chosen.password_file
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


async def _read(
    terms: Terms, ledger: Ledger, calls: list[Call], reach: Reach, frozen: records.RunSettings
) -> tuple[Survey, World | None]:
    """Read all instances of what the run changed: what cannot be read now cannot be undone now."""
    world = None
    if terms.simulate:
        changed = {call.id for call in calls}
        world = simulated_world(ledger.run.action, ledger.calls.values(), changed, faults_of(terms))
    read = await survey(calls, reach=reach, timeout_s=frozen.timeout_s, world=world, limit_s=None, purpose="undo")
    return read, world


def _stays(undo: UndoPlan, ref: RunRef) -> Iterator[Omit]:
    """Yield omits of what stays, or may stay, as the run left it: they count as lacking, so the undo is incomplete."""
    for kept in undo.kept:
        if kept.why in STAYS:
            yield stays(kept.call, kept.why, kept.words, kept.holder or f"undo of {ref.run_id}")


def _undo_job(run: records.Run, chosen: Selection) -> records.JobRef:
    wave = (f"wave {chosen.wave}",) if chosen.wave is not None else ()
    digest = hashlib.sha256("\n".join(("undo", run.run, *wave, *chosen.targets)).encode()).hexdigest()
    return records.JobRef(f"undo of {run.job.name}"[:100], f"undo of run {run.run}", digest)


def _preview(undone: Undone, ref: RunRef, undo: UndoPlan, plan: Plan, read: Survey) -> list[str]:
    ledger, gathered = undone.ledger, undone.gathered
    action = ACTIONS[plan.action]
    lines = [
        f"UNDO of {ref.run_id}  {ledger.run.action}  {ledger.run.job.name}",
        f"  {read.words()}",
        f"  to {action.verb}  {len(plan.calls):,}",
    ]
    if plan.calls:
        still = "has the password it" if undo.same_password == 1 else "have the password they"
        lines.append(f"  {undo.same_password:,} of these still {still} had before the run")
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
    if late := found_so_late(ledger):
        first = f"{late[0].named}{', …' if len(late) > 1 else ''}"
        words = f"was not {ACTIONS[ledger.run.action].done_word} before a try that was refused as not applied"
        lines.append(f"  stays, counts as somebody else's  {len(late):,}  {first}: {words}")
    for omit in [omit for omit in plan.omits if omit.reason not in LACKING][:_SHOWN]:  # those: above
        lines.append(f"  stays, {omit.reason}  {omit.target.named}  {omit.rule} ({omit.where})")
    if gathered is None:
        lines.append("  the journal lies outside a state directory: no other run was looked at")
    else:
        assert ref.store is not None
        others = gathered.looked_at - 1
        lines.append(f"  {others:,} other journal{'s' * (others != 1)} looked at for holds, in {ref.store.place}")
        lines += [
            f"  DAMAGED, what it says of its accounts counts as a hold without end: {run}: {why}"
            for run, why in gathered.damaged.items()
        ]
    if undo.released:
        lines.append(f"  the run's holds end on {accounts(len(undo.released))} that this undo does not {action.verb}")
    return lines


def _refuse_blind_holds(terms: Terms, undone: Undone) -> None:
    """Raise RefusedError if a journal cannot be read even for its accounts: nobody knows what it holds."""
    if undone.gathered is None or not undone.gathered.blind:
        return
    run, why = next(iter(undone.gathered.blind.items()))
    more = len(undone.gathered.blind) - 1
    assert undone.store is not None
    flags = terms.repeat(undone.store)
    asked = pasted(("undo", undone.run_id, *undone.asked, "--ignore", run))
    raise RefusedError(
        f"run {run}{f' and {more:,} more' if more else ''}: its journal cannot be read, so nobody knows which accounts "
        f"it holds: {why}; nothing was sent. Once you know that it holds none of these: acctops {asked}{flags}"
    )


def _all_protected(nothing: NothingToUndo, plan: Plan) -> NothingToUndo:
    """Return the end of an undo by limit that may open nothing: a person is told, and the limit is no failure."""
    count = plan.left_out()[OmitReason.PROTECTED]
    kept = {**nothing.kept, OmitReason.PROTECTED: count}
    why = f"{accounts(count)} stay as they are, protected today; nothing was sent"
    return replace(nothing, kept=kept, why=why, reason=Reason.INCOMPLETE)


def _as_it_is(count: int) -> str:
    return "stays as it is" if count == 1 else "stay as they are"


def _nothing_to_undo(
    terms: Terms, ref: RunRef, undo: UndoPlan, asked: tuple[str, ...], older: str | None
) -> NothingToUndo:
    left = [(STAYS[kept.why], kept.call.label) for kept in undo.kept if kept.why in STAYS]
    steps, choices = undo_steps(("undo", ref.run_id, *asked), left)
    why = "nothing is left to undo"
    if undo.released:
        why = f"its holds have ended on {accounts(len(undo.released))}, and nothing is to be sent"
    bars = [f"held by {kept.holder}" if kept.holder else kept.words for kept in undo.kept if kept.why is Keep.HELD]
    if bars:
        stay = [f"{accounts(count)} {_as_it_is(count)}, {words}" for words, count in Counter(bars).items()]
        why += "; " + "; ".join(stay)
    if left:
        reasons = [(count, why) for why, count in undo.counts().items() if count and why in STAYS]
        named = ", ".join(f"{count:,} {why.replace('_', ' ')}" for count, why in reasons)
        why = f"nothing can be undone now, and not all is undone: {named}"
    return NothingToUndo(
        why=why,
        parent=ref.run_id,
        kept=undo.counts(),
        open=len(left),
        released=len(undo.released),
        steps=tuple(steps),
        choices=tuple(choices),
        flags=flags_of(terms, ref),
        reason=Reason.INCOMPLETE if left or older is not None else Reason.OK,
    )
