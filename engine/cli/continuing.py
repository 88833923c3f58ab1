"""The commands that go on from a journal: resume, in the same run, and rerun, in a new one linked to it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from engine import __version__
from engine.api.names import did_you_mean
from engine.api.verdicts import ALL_CODES
from engine.cli.ask import confirm
from engine.cli.guarding import (
    check_endpoint,
    check_passwords,
    guard_home,
    guards_of,
    has_new_share,
    refuse_beyond,
    refuse_strange_run,
    stricter,
)
from engine.cli.hours import hold, window_of
from engine.cli.loops import run_loop
from engine.cli.options import Options, check_metrics, operator
from engine.cli.sending import NewRun, carry_out, claim, faults_of, omit_line, refuse_empty
from engine.cli.sources import passwords_of, reach_of
from engine.cli.talk import out, out_json, remark, say, warn
from engine.cloud.clients import Reach, ask_whose, identity, is_as_before, is_known, refuse_strangers
from engine.errors import AcctopsError, Exit, RefusedError, UsageError
from engine.inputs.files import job_file, load_job, recorded
from engine.inputs.job import Glob, Job, StopAfter
from engine.inputs.settings import refuse_profiles
from engine.journal import records
from engine.journal.ledger import Ledger
from engine.journal.reader import Replay, replay
from engine.journal.store import RunRef, find_run, to_come_words
from engine.model import GOOD, LACKING, Call, CallId, Omit, OmitReason, Outcome, Target
from engine.operations.family import Kin, kin_of, way_of
from engine.operations.preparing import refuse_blind
from engine.planning.plan import idle_rules, left_out, plan_again
from engine.report.nextstep import later_words, way_on
from engine.report.spans import duration
from engine.report.text import document, text

if TYPE_CHECKING:
    from engine.inputs.settings import Settings
    from engine.journal.store import RunStore
    from engine.journal.writer import Journal
    from engine.operations.family import Undone
    from engine.outside.trust import Trust

IDENTITY_S = 1.5
"""How long a resume waits to learn whose the keys are."""

# ---- resume --------------------------------------------------------------------------------------------------------


def resume_run(run: str, **flags: Any) -> int:
    """The `resume` command. Any: the flags, by name."""
    return resume(Options(**flags), run)


def resume(options: Options, run: str, job: Job | None = None) -> int:
    """Go on with a run; `job` is that of the command, if it is `run`: its guards, limits and flags hold as well."""
    from engine.journal.writer import Journal

    ref = find(options, run)
    if ref.store is None:
        raise UsageError(f"{ref.path}: lies outside a state directory, so it can only be read; move it back to resume")
    seen = replay(ref.path).ledger
    assert seen.run is not None
    options = replace(options, simulate=seen.run.simulated)
    kin = kin_of(ref.store, seen)
    _refuse_undone(options, kin, ref)
    check_endpoint(options, seen, job)
    if _is_finished(seen, kin):
        return _show_finished(options, kin, ref)
    # Whatever can refuse does so before the journal is touched.
    hold(window_of(seen.settings), options)
    guards = guards_of(options, seen, job)
    refuse_strange_run(ref, guards.trust)
    check_passwords(ref, seen, guards.trust, job)
    check_metrics(guards, simulated=seen.run.simulated)
    exclude = options.excludes()
    warn_of_idle(options, exclude, seen)
    frozen = overridden(options, seen.settings)
    settings = stricter(frozen if job is None else as_said(frozen, guards), guards)
    _say_inherited(options, seen.run.run, settings)
    refuse_blind(seen.run.action, settings, max_share=guards.max_share if has_new_share(seen, guards) else None)
    reach = reach_of(settings, guards, simulated=seen.run.simulated, purpose=ref.run_id)
    run_loop(ask_whose(reach, limit_s=IDENTITY_S))
    refuse_strangers(reach.keyring, seen.uins)
    refuse_beyond(options, seen, guards, reach, exclude, whole=job is not None)
    passwords = passwords_of(seen.settings, seen.run.action, guards.trust)
    scarce = ref.store.check_room(sum(not entry.settled for _, entry, _ in seen.outcomes()))
    if scarce is not None:
        warn(f"warning: {scarce}")
    if _ask_about_changes(options, seen, reach):  # that may have taken a while
        hold(window_of(seen.settings), options)
        guards = guards_of(options, seen, job)
        settings = stricter(settings, guards)
        refuse_blind(seen.run.action, settings, max_share=guards.max_share if has_new_share(seen, guards) else None)
    calls, keep_admins = list(seen.calls.values()), settings.keep_admins
    with claim(ref.store, ref.run_id, seen.run.job, seen.run.action, calls, keep_admins=keep_admins) as rivals:
        journal, replayed = Journal.open(ref.store, ref.run_id, clock=options.clock)
        ledger = replayed.ledger
        with closing(journal):
            kin = kin_of(ref.store, ledger)
            _refuse_undone(options, kin, ref)
            journal.append(_session_line(replayed, settings), ledger.apply)
            taken = _leave_to_later(kin, ledger, journal)
            undone = _undone(ref.store, ledger, guards.trust)
            held = undone.held() if undone is not None else {}
            no_send = taken | _drop_guarded(ledger, journal, guards.protect, exclude, held)
            return carry_out(
                options,
                guards,
                store=ref.store,
                journal=journal,
                ledger=ledger,
                reach=reach,
                passwords=passwords,
                stop_after=_stop_after(ledger.settings),
                no_send=no_send,
                elsewhere=_done_elsewhere(kin, ledger),
                rivals=rivals,
                undone=undone,
            )


def warn_of_idle(options: Options, exclude: Sequence[Glob], ledger: Ledger) -> None:
    """Say which `--exclude` matches no call of the run: a slip in it leaves in what was to be left out."""
    calls = list(ledger.calls.values())
    for glob in idle_rules(exclude, calls):
        what = f"{glob.place}: {glob.pattern} matches none of the {len(calls):,} calls of the run; a slip?"
        remark(f"warning: {what}", quiet=options.quiet)


def _undone(store: RunStore | None, ledger: Ledger, trust: Trust) -> Undone | None:
    """What a run that is an undo, or a rerun of one, brings back."""
    if ledger.run is None or ledger.run.parent is None:
        return None
    from engine.operations.family import undone_of  # late: most runs are none

    return undone_of(store, ledger.run, trust)


def _session_line(replayed: Replay, settings: records.RunSettings) -> records.Session:
    return records.Session(
        verb="resume",
        pid=os.getpid(),
        host=os.uname().nodename,
        operator=operator(),
        version=__version__,
        cut_bytes=replayed.torn_bytes,
        settings=settings if settings != replayed.ledger.settings else None,
        clock_offset_s=0.0,
    )


def find(options: Options, run: str) -> RunRef:
    """The run that the operator names."""
    settings = options.settings(None)
    ref = find_run(settings.state_dir, run, group=settings.state_group, trust=settings.trust, now=options.clock())
    if ref.passed_over:
        warn(f"warning: {to_come_words(ref.passed_over)}")
    return ref


def _is_finished(ledger: Ledger, kin: Kin) -> bool:
    """Whether nothing is left to this run: all is settled, or in the hands of a later rerun."""
    later = _in_later_hands(kin, ledger)
    return ledger.end is not None and all(
        entry.settled or (call.id in later and not _reads(ledger, call.id, later[call.id][1]))
        for call, entry, _ in ledger.outcomes()
    )


def _in_later_hands(kin: Kin, ledger: Ledger) -> dict[CallId, tuple[str, Outcome]]:
    """The open calls of a run that a later rerun has: which one, and its word. Only that one goes on with them."""
    assert ledger.run is not None
    later = later_words(kin.ledgers, ledger.run.run)
    return {call: word for call, word in later.items() if not ledger.entry(call).settled}


def _done_elsewhere(kin: Kin, ledger: Ledger) -> frozenset[CallId]:
    """The failed calls of a run that are as asked since a later rerun."""
    assert ledger.run is not None
    later = later_words(kin.ledgers, ledger.run.run)
    return frozenset(
        call for call, (_, outcome) in later.items() if outcome in GOOD and ledger.entry(call).outcome is Outcome.FAILED
    )


def _reads(ledger: Ledger, call: CallId, later: Outcome) -> bool:
    """Whether a run still reads a call that a later one has: an attempt of its own may have been applied, and it was
    not the later run that changed it. Else nobody would know whose change it was, and no undo would take it back.
    """
    return ledger.entry(call).needs_reading and later is not Outcome.CHANGED


def _leave_to_later(kin: Kin, ledger: Ledger, journal: Journal) -> frozenset[CallId]:
    """Leave to later reruns what they have taken: out of this run what is as asked there, unsent the rest."""
    unsent: set[CallId] = set()
    for call_id, (later, outcome) in _in_later_hands(kin, ledger).items():
        if outcome not in GOOD or _reads(ledger, call_id, outcome):
            unsent.add(call_id)
        else:
            target = _target(ledger.calls[call_id])
            line = omit_line(target, str(OmitReason.RERUN), "as asked since a later rerun", later, call_id)
            journal.append(line, ledger.apply)
    return frozenset(unsent)


def _show_finished(options: Options, kin: Kin, ref: RunRef) -> int:
    """The report of a run that has nothing left to do; with reruns it is good only if the family is."""
    assert ref.store is not None
    found = replay(ref.path)
    ledger = found.ledger
    assert ledger.end is not None
    flags = options.repeat(ref.store.state_dir)
    way = way_on(kin.ledgers, ref.run_id, undone=kin.undone, flags=flags)
    code = Exit(ledger.end.exit)
    if len(kin.ledgers) > 1:
        code = Exit.INCOMPLETE if way.open_calls else Exit.OK
    if options.as_json:
        out_json({**document(ledger, journal=str(ref.path), head=found.head, way=way), "exit": int(code)})
    elif not (options.quiet and code == Exit.OK and not way.open_calls):
        say("this run is finished; nothing to resume")
        out(text(ledger, journal=str(ref.path), head=found.head, way=way))
    return code


def _refuse_undone(options: Options, kin: Kin, ref: RunRef) -> None:
    """RefusedError for a run that was undone: what was taken back is not done again by going on."""
    assert ref.store is not None
    undo = kin.undone.get(ref.run_id)
    if undo is None:
        return
    flags = options.repeat(ref.store.state_dir)
    ways = [way_of(ref.store, replay(ref.store.path(undo)).ledger, flags=flags).command]
    way = way_on(kin.ledgers, ref.run_id, undone=kin.undone, flags=flags)
    ways += [step.command(flags) for step in way.choices if step.words[1] == ref.run_id]
    lines = "; or, ".join(command for command in ways if command is not None)
    raise RefusedError(
        f"run {ref.run_id} was undone by {undo}, so it cannot be resumed; "
        + (f"go on with: {lines}" if lines else f"nothing is left of it: acctops report {ref.run_id}{flags}")
    )


def _say_inherited(options: Options, run: str, settings: records.RunSettings) -> None:
    """In the first lines: limits that hold because the run had them, and what says otherwise."""
    said = []
    if settings.session_deadline_s is None and settings.deadline_s is not None:
        said.append(f"deadline {duration(settings.deadline_s)} (--deadline D)")
    if settings.stop_after is not None:
        said.append(f"stop_after {settings.stop_after}")
    if not settings.verify and not options.no_verify:
        said.append("accounts are not read back")
    if said and not options.quiet:
        say(f"as run {run} was told: {', '.join(said)}")


def _ask_about_changes(options: Options, ledger: Ledger, reach: Reach) -> bool:
    """A resume asks only if job file, operator or identity are not those of the run; whether it did."""
    assert ledger.run is not None
    run = ledger.run
    changes = []
    job_path = job_file(run.job.path)
    if job_path is not None:
        try:
            job = load_job(job_path, skip_bad_rows=True)
        except AcctopsError:
            changes.append(f"{job_path} can no longer be read as a job")
        else:
            if job.digest != run.job.digest:
                changes.append(_job_change(job, ledger))
    if run.operator != operator():
        changes.append(f"it was begun by {run.operator}")
    now = identity(reach.keyring)
    as_before = is_as_before(reach.keyring, run.identity, ledger.sources(), ledger.acted_on() or reach.keyring)
    if not as_before and not is_known(reach.keyring, ledger.uins):
        changes.append(f"it was begun with the keys of {run.identity}, these are of {now}")
    if not changes:
        return False
    left = sum(not entry.settled for _, entry, _ in ledger.outcomes())
    text = f"run {run.run}: {'; '.join(changes)}. About to go on with the {left:,} open calls of its journal"
    confirm(text, left, yes=options.yes, by=operator())
    return True


def _job_change(job: Job, ledger: Ledger) -> str:
    if job.matches or (ledger.run is not None and ledger.run.match):
        return f"{job.path} has changed since; a match is never asked again, the journal's list is what is sent"
    now = {(target.account, target.region, target.instance, target.user) for target in job.targets}
    then = {(call.account, call.region, call.instance, call.user) for call in ledger.calls.values()}
    there = [omit for omit in ledger.omits if omit.reason not in LACKING]
    then |= {(omit.account, omit.region, omit.instance, omit.user) for omit in there}
    added, gone = len(now - then), len(then - now)
    return f"{job.path} has changed since (+{added:,} −{gone:,} targets); the journal's list is what is sent"


def overridden(options: Options, settings: records.RunSettings) -> records.RunSettings:
    """The journal's settings with what `--rate --workers --timeout --deadline --profile --no-verify` say otherwise.

    The deadline that a flag or the environment gave another session ended with that session.
    """
    import msgspec

    from engine.api.endpoints import is_loopback

    said = options.settings(None)
    changes: dict[str, Any] = {"session_deadline_s": said.session_deadline_s}
    for flag, name in _OVERRIDES:
        if getattr(options, flag):
            changes[name] = getattr(said, name)
    if options.profiles:
        refuse_profiles(options.profiles, settings.accounts)
        changes["profile"] = said.profiles
    if options.no_verify:
        changes["verify"] = False
    changed = msgspec.structs.replace(settings, **changes)
    if changed.rate > settings.rate and not options.simulate and not all(map(is_loopback, settings.access.every)):
        raise UsageError(
            f"--rate {changed.rate:g} is above the run's {settings.rate:g}; a quota raised since is for a new run"
        )
    return changed


def as_said(frozen: records.RunSettings, command: Settings) -> records.RunSettings:
    """The journal's settings with what the command says of pace and time, by flag, environment, job or config.

    Of two rates the lower holds.
    """
    import msgspec

    said = {name: getattr(command, name) for _, name in _OVERRIDES if command.origin.get(name, "default") != "default"}
    if "rate" in said:
        said["rate"] = min(frozen.rate, said["rate"])
    if command.written_deadline_s is not None:
        said["deadline_s"] = command.written_deadline_s
    return msgspec.structs.replace(frozen, **said)


_OVERRIDES = (
    # flag, its name in the journal's settings
    ("rate", "rate"),
    ("workers", "workers"),
    ("timeout", "timeout_s"),
)


def _drop_guarded(
    ledger: Ledger,
    journal: Journal,
    protect: tuple[Glob, ...],
    exclude: tuple[Glob, ...],
    held: Mapping[CallId, Omit],
) -> frozenset[CallId]:
    """Guards of today hold for a resume: calls never sent are left out, calls begun are only read."""
    no_send: set[CallId] = set()
    for call in list(ledger.calls.values()):
        entry = ledger.entry(call.id)
        if entry.settled:
            continue
        omit = left_out(_target(call), protect=protect, exclude=exclude) or held.get(call.id)
        if omit is None:
            continue
        if entry.spent or entry.needs_reading:
            no_send.add(call.id)
        else:
            journal.append(omit_line(omit.target, str(omit.reason), omit.rule, omit.where, call.id), ledger.apply)
    journal.flush()
    return frozenset(no_send)


def _target(call: Call) -> Target:
    return Target(call.instance, call.user, call.region, call.account)


def _stop_after(settings: records.RunSettings) -> StopAfter | None:
    from engine.inputs.jobfile.values import stop_after

    return stop_after(settings.stop_after) if settings.stop_after is not None else None


# ---- rerun ---------------------------------------------------------------------------------------------------------


def rerun_run(run: str, only: str, codes: tuple[str, ...], **flags: Any) -> int:
    """The `rerun` command. Any: the flags, by name."""
    options = Options(**flags)
    if run == "latest" and options.yes:
        raise RefusedError("`latest` with --yes could be another run than you think; name the run")
    kinds = _kinds(only)
    ref = find(options, run)
    ledger = replay(ref.path).ledger
    assert ledger.run is not None
    options = replace(options, simulate=ledger.run.simulated)
    check_endpoint(options, ledger)
    faults = faults_of(options)
    _check_codes(options, ledger, codes)
    settled_later = _settled_later(ledger, ref)
    meant = list(_meant(ledger, kinds, codes))
    calls = [call for call in meant if call.id not in settled_later]
    if Outcome.FAILED in kinds:
        _name_lacking(options, ledger, ref)
    if not calls:
        return _nothing_to_repeat(options, ref, ledger, kinds, codes, len(meant))
    guards = guards_of(options, ledger)
    refuse_strange_run(ref, guards.trust)
    check_passwords(ref, ledger, guards.trust)
    exclude = options.excludes()
    warn_of_idle(options, exclude, ledger)
    plan = plan_again(ledger.run.action, calls, protect=guards.protect, exclude=exclude)
    if not options.quiet:
        left = "".join(f", {count:,} {reason}" for reason, count in plan.left_out().items() if count)
        say(f"rerun of {ref.run_id} ({ledger.run.job.name}): {len(plan.calls):,} calls{left}")
    refuse_empty(plan)
    frozen = stricter(overridden(options, ledger.settings), guards)
    _say_inherited(options, ref.run_id, frozen)
    return NewRun(
        options=options,
        settings=guards,
        frozen=frozen,
        plan=plan,
        job=ledger.run.job,
        reason=options.reason or ledger.run.reason,
        ticket=options.ticket or ledger.run.ticket,
        simulated=ledger.run.simulated,
        stop_after=_stop_after(frozen),
        guarded_by=recorded(str(guard_home(ledger))),
        uins=ledger.uins,
        parent=ref,
        faults=faults,
        guards=partial(guards_of, options, ledger),
        undone=_undone(ref.store, ledger, guards.trust),
    ).start()


def _nothing_to_repeat(
    options: Options, ref: RunRef, ledger: Ledger, kinds: set[Outcome], codes: tuple[str, ...], settled_later: int
) -> int:
    """Say that a rerun would be empty, what is open of the family all the same, and what takes it."""
    ended_with = f" with {', '.join(codes)}" if codes else ""
    if settled_later:
        why = f"what was {' or '.join(sorted(kinds))}{ended_with} has been settled by a later rerun ({settled_later:,})"
    else:
        why = f"nothing is {' or '.join(sorted(kinds))}{ended_with}"
    lacking = len(ledger.lacking()) if Outcome.FAILED in kinds else 0
    way = way_of(ref.store, ledger, flags=_flags(options, ref))
    if lacking:
        assert ledger.run is not None
        if way.parent is not None:
            again = f"the undo, done again, can do it: acctops undo {way.parent}{way.flags}"
        else:
            again = f"the job, run again, can do it{f': {way.job}' if way.job is not None else ''}"
        why += f", but {lacking:,} of what was asked for never became a call: only {again}"
    code = Exit.INCOMPLETE if lacking else Exit.OK
    if not options.quiet:
        say(f"run {ref.run_id}: {why}; nothing to repeat")
    if not options.as_json and way.open_calls:
        out("\n".join(way.lines()))
    if options.as_json:
        document = {"run": None, "parent": ref.run_id, "why": why, "open": way.open_calls, "go_on": way.command}
        out_json({**document, "exit": int(code)})
    return code


def _flags(options: Options, ref: RunRef) -> str:
    return options.repeat(ref.store.state_dir) if ref.store is not None else ""


def _name_lacking(options: Options, ledger: Ledger, ref: RunRef) -> None:
    """Say what a rerun cannot repeat, as it is no call: bad rows, and what a match or an undo could not look at."""
    lacking = ledger.lacking()
    for omit in lacking[:_LACKING_SHOWN]:
        warn(f"warning: not in a rerun: {omit.where}: {omit.rule}")
    if len(lacking) > _LACKING_SHOWN:
        more = len(lacking) - _LACKING_SHOWN
        warn(f"warning: … and {more:,} more: acctops report {ref.run_id} --stuck{_flags(options, ref)}")


_LACKING_SHOWN = 5


def _kinds(only: str) -> set[Outcome]:
    kinds = {kind.strip() for kind in only.split(",") if kind.strip()}
    wrong = kinds - {"failed", "unknown", "unattempted"}
    if wrong or not kinds:
        raise UsageError(f"--only {only}: give one or more of failed, unknown, unattempted, separated by commas")
    return {Outcome(kind) for kind in kinds}


def _check_codes(options: Options, ledger: Ledger, codes: tuple[str, ...]) -> None:
    """Say which `--code` no call of the run has; UsageError for one that nobody knows either, which is a slip."""
    there = {entry.code for _, entry, _ in ledger.outcomes() if entry.code is not None}
    for code in codes:
        if code in there:
            continue
        hint = did_you_mean(code, there) or f"; there are {', '.join(sorted(there)) or 'none'}"
        if code not in ALL_CODES:
            raise UsageError(f"--code {code}: no call of the run has this code{hint}")
        remark(f"warning: --code {code}: no call of the run has this code{hint}", quiet=options.quiet)


def _meant(ledger: Ledger, kinds: set[Outcome], codes: tuple[str, ...]) -> Iterator[Call]:
    for call, entry, outcome in ledger.outcomes():
        if outcome in kinds and (not codes or entry.code in codes):
            yield call


def _settled_later(ledger: Ledger, ref: RunRef) -> set[CallId]:
    """Calls that later reruns of this run, or of those, brought to the desired state."""
    done: set[CallId] = set()
    links, seen = list(ledger.links), {str(ref.run_id)}
    while links and ref.store is not None:
        note = links.pop()
        later = str(note.data.get("run", ""))
        if note.what != "continued_by" or later in seen or not ref.store.path(later).is_file():
            continue
        seen.add(later)
        child = replay(ref.store.path(later)).ledger
        links += child.links
        done |= {call.id for call, _, outcome in child.outcomes() if outcome in GOOD}
    return done
