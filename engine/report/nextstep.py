"""Finds what is open of a run and its reruns, and the exact commands that go on. No I/O, no clock.

The end of a run, `status`, `report`, `stop`, `resume` and notices use the same rule, so that all give the same advice.
A call that several runs of a family have belongs to the last of them: its outcome counts, and only it goes on with it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.api.codes import UNREAD, row_of
from engine.journal.records import FAILED, RED
from engine.model import GOOD, OmitReason, Outcome
from engine.outside.foreign import pasted, with_its_bytes

if TYPE_CHECKING:
    from engine.journal import records
    from engine.journal.ledger import Ledger
    from engine.model import Call, CallId
    from engine.planning.holds import HeldNow

BAD = (Outcome.FAILED, Outcome.UNKNOWN, Outcome.UNATTEMPTED)
_NAMED_RUN = re.compile(r"acctops (?:resume|rerun) RUN(?: --(?:only|code) [\w.,]*\w)?")
"""The part of a code's advice that names the command to go on with."""
_NAMED_JOB = re.compile(r"\b(run|plan|doctor) JOB\b")
_STANDARD_INPUT = " and standard input"


class Step(Struct, frozen=True, kw_only=True):
    """One command, and how many accounts it is for."""

    words: tuple[str, ...]
    """The words of the command, without `acctops` and without quoting."""
    takes: int
    """Number of accounts that the command is for."""
    why: str = ""
    """When to give the command, if a person has to judge that; else empty."""

    def command(self, flags: str = "") -> str:
        """Return the command line to paste; `flags` are those it needs to find the run (` --state-dir …`)."""
        return f"acctops {pasted(self.words)}{flags}"


class WayOn(Struct, frozen=True, kw_only=True):
    """What is open of a family of runs, as one of its runs reports it."""

    run: str
    members: tuple[str, ...]
    """The runs of the family, oldest first."""
    steps: tuple[Step, ...]
    """The commands for what is open; each can be given as it is."""
    choices: tuple[Step, ...]
    """Further commands, each of which a person has to want."""
    open: Mapping[Outcome, int]
    """Number of accounts that are not as asked, by outcome, over the family."""
    asked: int
    """Number of accounts asked for, over the family."""
    flags: str = ""
    """Flags that each command needs."""
    again: tuple[str, ...] = ()
    """Words of the command that runs the job again; empty if the job was no file."""
    parent: str | None = None
    """The run that the family's undo undoes; None if it has no undo."""
    held: HeldNow | None = None
    """Who holds the accounts of `run`; None if it was not looked up."""
    owners: Mapping[CallId, str] = {}
    """Call of `run` → the last later run that has it, too."""
    done_later: frozenset[CallId] = frozenset()
    """The calls of `owners` that are as asked in the later run."""

    @property
    def command(self) -> str | None:
        """The next command; None if nothing is left to do."""
        return self.steps[0].command(self.flags) if self.steps else None

    @property
    def job(self) -> str | None:
        """The command that runs the job again; None if there is none."""
        return f"acctops {pasted(self.again)}{self.flags}" if self.again else None

    @property
    def open_calls(self) -> int:
        """Number of accounts that are not as asked."""
        return sum(self.open.values())

    def lines(self, most: int | None = None) -> list[str]:
        """Return the last lines of a report: what is open of the family, and how to go on."""
        lines = []
        if len(self.members) > 1:
            kinds = ", ".join(f"{self.open[kind]:,} {kind}" for kind in BAD if self.open[kind])
            of = f"of run {self.members[0]} and its reruns"
            count = f"{self.open_calls:,} of {self.asked:,}"
            lines.append(f"{of} {count} are still open: {kinds}" if kinds else f"{of} all {self.asked:,} are as asked")
        lines += [f"{step.why}: {step.command(self.flags)}" for step in self.choices[:most]]
        lines += go_on_lines(self.steps[:most], self.flags)
        shown = min(len(self.choices), most or len(self.choices)) + min(len(self.steps), most or len(self.steps))
        if left := len(self.choices) + len(self.steps) - shown:
            lines.append(f"… and {left:,} more commands: acctops report {self.run}{self.flags}")
        return lines

    def with_back(self, count: int) -> WayOn:
        """Return a copy with `count` more failed accounts: a reading showed them as changed back after a rerun."""
        left = Counter(self.open)
        left[Outcome.FAILED] += count
        look = Step(words=("verify", self.run, "--family"), takes=count)
        return replace(self, open=left, steps=(*self.steps, look))

    def without_journal(self, ledger: Ledger) -> WayOn:
        """Return a copy for a run whose journal cannot be read any more: a new run of the job finds what is open.

        If the job was no file, the commands name the accounts. `ledger` is what is known of the run.
        """
        steps: tuple[Step, ...] = (Step(words=self.again, takes=self.open_calls),) if self.again else ()
        if not steps:
            run = ledger.run
            steps = by_name(
                run.action, (call for call, _, outcome in ledger.outcomes() if outcome not in GOOD), run.asked
            )
        return replace(self, steps=steps, choices=())

    def fill(self, advice: str | None, call: Call | None = None) -> str | None:
        """Return the advice of a code for a target of this run, with true ids for RUN and JOB and the right command."""
        if advice is None:
            return None
        if call is not None and call.id in self.done_later:
            return f"nothing: it is as asked since run {self.owners[call.id]}"
        command = self._command_for(call)
        advice = _NAMED_RUN.sub(lambda _: command, advice)
        advice = re.sub(r"\bRUN\b", lambda _: f"{self.run}{self.flags}", advice)
        advice = re.sub(r"\bUNDONE\b", lambda _: f"{self.parent or self.run}{self.flags}", advice)
        if not self.again:
            advice = advice.replace("acctops run JOB", "the job, again").replace("acctops plan JOB", "its plan, again")
            return advice.replace("acctops doctor JOB", "acctops doctor JOB (any job of this action)")
        return _NAMED_JOB.sub(lambda found: f"{found[1]} {self._job_for(found[1])}", advice)

    def _job_for(self, verb: str) -> str:
        """Return the job and its flags as `verb` takes them: only `run` has --simulate, `doctor` has no --exclude."""
        words = [word for word in self.again[1:] if word != "--simulate" or verb == "run"]
        while verb == "doctor" and "--exclude" in words:
            at = words.index("--exclude")
            del words[at : at + 2]
        return f"{pasted(words)}{self.flags}"

    def _command_for(self, call: Call | None) -> str:
        if call is not None and not call.id:  # a target without a call: only the undo or the job can ask for it again
            again = next((step.command(self.flags) for step in self.steps if step.words[0] == "undo"), None)
            return again or self.job or "the job, run again"
        return self.command or self.job or f"acctops report {self.run} --family{self.flags}"


def go_on_lines(steps: Sequence[Step], flags: str = "") -> list[str]:
    """Return one line a step, in the order in which to give the commands."""
    labels = ("go on:", *["then:"] * len(steps))
    return [f"{label:<7} {step.command(flags)}" for label, step in zip(labels, steps, strict=False)]


def way_on(
    family: Sequence[Ledger],
    run: str | None = None,
    *,
    undone: Mapping[str, str] | None = None,
    flags: str = "",
) -> WayOn:
    """Return what is open of a family, oldest run first, as `run` reports it (by default the last one).

    `undone`: run of the family that was undone → its undo. `flags`: what a command needs to find the run.
    """
    lines = [ledger.run for ledger in family]
    names = [line.run for line in lines]
    if (watched := lines[-1].watched) is not None:
        return _way_of_a_watch(family[-1], watched, flags)
    me = names.index(run) if run is not None else len(names) - 1
    owners = {call: name for name, ledger in zip(names, family, strict=True) for call in ledger.calls}
    later = later_words(family, names[me])
    steps: list[Step] = []
    choices: list[Step] = []
    left: Counter[Outcome] = Counter()
    asked, again = len(owners), _job_words(lines[0])
    for name, ledger in zip(names, family, strict=True):
        mine = Counter[Outcome]()
        is_unsettled, elsewhere = False, 0
        blind: list[Call] = []
        for call, entry, outcome in ledger.outcomes():
            if outcome not in GOOD and owners[call.id] == name:
                mine[outcome] += 1
                is_unsettled = is_unsettled or not entry.settled
                elsewhere += row_of(entry.code).no_instance
                if entry.code == UNREAD and not _reads(ledger):
                    blind.append(call)
        left += mine
        left[Outcome.FAILED] += len(ledger.lacking())
        asked += len(ledger.lacking())
        step = _step_of(name, mine, is_unsettled=is_unsettled, undone_by=(undone or {}).get(name))
        if step is not None and elsewhere + len(blind) == mine.total() and again:
            step = Step(words=again, takes=mine.total(), why=_once_corrected(ledger, elsewhere, len(blind)))
        elif step is not None and blind and len(blind) == mine.total() and (named := by_name(*_asked(ledger, blind))):
            steps += named  # they read; a rerun reads as little as the run did
            step = None
        if ledger.waves and name not in (undone or {}):
            before, step, other = _wave_steps(ledger, mine, step)
            steps += before
            choices += other
        if step is not None:
            (choices if step.why else steps).append(step)
        more, other = _undo_again(ledger)
        steps += more
        choices += other
    return WayOn(
        run=names[me],
        members=tuple(names),
        steps=tuple(steps),
        choices=tuple(choices),
        open=left,
        asked=asked,
        flags=flags,
        again=again,
        parent=next(
            (line.parent.run for line in lines if line.parent is not None and line.parent.verb == "undo"), None
        ),
        owners={call: name for call, (name, _) in later.items()},
        done_later=frozenset(call for call, (_, outcome) in later.items() if outcome in GOOD),
    )


def _reads(ledger: Ledger) -> bool:
    """Return whether a run reads accounts before it sends."""
    action = ACTIONS.get(ledger.run.action)
    return ledger.settings.verify and action is not None and action.is_readable


def _asked(ledger: Ledger, calls: list[Call]) -> tuple[str, list[Call], Sequence[str]]:
    return ledger.run.action, calls, ledger.run.asked


def _once_corrected(ledger: Ledger, elsewhere: int, blind: int) -> str:
    """Return when the job can do what a rerun cannot: a rerun has the regions of the run, and reads as little as it."""
    whys = [f"{elsewhere:,} on an instance that is not in its region"] if elsewhere else []
    whys += [f"{blind:,} whose unusual name a run without readings cannot prove"] if blind else []
    may_read = blind and not elsewhere and ACTIONS[ledger.run.action].is_readable
    how = "reads again (no --no-verify, no verify: false)" if may_read else "is corrected"
    return f"{', '.join(whys)}; once the job {how}"


def _way_of_a_watch(ledger: Ledger, watched: str, flags: str) -> WayOn:
    """Return what to do about a watch: nothing of it is open, and the run that it watches is looked at."""
    count = sum(outcome not in GOOD for _, _, outcome in ledger.outcomes())
    look = Step(words=("verify", watched), takes=count)
    return WayOn(
        run=ledger.run.run,
        members=(ledger.run.run,),
        steps=(look,) if count else (),
        choices=(),
        open={},
        asked=len(ledger.calls),
        flags=flags,
    )


def later_words(family: Sequence[Ledger], run: str) -> dict[CallId, tuple[str, Outcome]]:
    """Return each call of a run that a later run of the family has, too → the last such run, and the outcome there."""
    names = [ledger.run.run for ledger in family]
    me = names.index(run)
    return {
        call.id: (name, outcome)
        for name, ledger in zip(names[me + 1 :], family[me + 1 :], strict=True)
        for call, _, outcome in ledger.outcomes()
        if call.id in family[me].calls
    }


def _step_of(run: str, mine: Counter[Outcome], *, is_unsettled: bool, undone_by: str | None) -> Step | None:
    """Return the command for the open calls `mine` that a run has and no later one; None if there are none."""
    if not mine:
        return None
    takes = mine.total()
    if is_unsettled and undone_by is None:
        return Step(words=("resume", run), takes=takes)
    kinds = ",".join(kind for kind in BAD if mine[kind])
    why = ""
    if undone_by is not None:
        why = f"run {run} was undone by {undone_by}; to do all the same what it did not ({takes:,})"
    return Step(words=("rerun", run, "--only", kinds), takes=takes, why=why)


def _wave_steps(
    ledger: Ledger, mine: Counter[Outcome], step: Step | None
) -> tuple[list[Step], Step | None, list[Step]]:
    """Return what comes before the next step of a run in waves, that step, and what may be done instead.

    A wave with a failed call keeps the next one from beginning until a rerun has done that call.
    """
    wave, run = ledger.wave, ledger.run.run
    if wave is None:
        return [], step, []
    if wave.state == FAILED and mine[Outcome.FAILED] and step is not None and step.words[0] == "resume":
        return [Step(words=("rerun", run, "--only", Outcome.FAILED), takes=mine[Outcome.FAILED])], step, []
    if step is None and wave.state != FAILED:
        step = Step(words=("resume", run), takes=0)
    red = [
        Step(
            words=("undo", run, "--wave", str(line.n)),
            takes=line.calls,
            why=f"wave {line.n} is red; to take it back",
        )
        for line in ledger.waves.values()
        if line.state == RED and line.n
    ]
    return [], step, red


def _undo_again(ledger: Ledger) -> tuple[list[Step], list[Step]]:
    """Return the steps for accounts that an undo could not read, and the choices for those that it left."""
    line = ledger.run
    if line.parent is None or line.parent.verb != "undo":
        return [], []
    left = [(OmitReason(omit.reason), f"{omit.instance}/{omit.user}") for omit in ledger.lacking()]
    return undo_steps(("undo", line.parent.run, *map(with_its_bytes, line.asked)), left)


def undo_steps(again: tuple[str, ...], left: Iterable[tuple[OmitReason, str]]) -> tuple[list[Step], list[Step]]:
    """Return steps and choices for the accounts that an undo (the command words `again`) left; one for each reason.

    Each of `left` has its reason and the account.
    """
    groups: dict[OmitReason, list[str]] = {}
    for reason, account in left:
        groups.setdefault(reason, []).append(account)
    steps: list[Step] = []
    choices: list[Step] = []
    for reason, accounts in groups.items():
        step = _undo_step(reason, again, len(accounts), first=accounts[0])
        (choices if step.why else steps).append(step)
    return steps, choices


def _undo_step(reason: OmitReason, again: tuple[str, ...], count: int, *, first: str) -> Step:
    label = f"stays, {reason.replace('_', ' ')}  {count:,}"
    more: tuple[str, ...]
    match reason:
        case OmitReason.EDITED:
            why, more = f"{label}; if the edits may be kept", ("--include-edited",)
        case OmitReason.GONE:
            why, more = f"{label}; once you know why, without it", ("--exclude", first)
        case OmitReason.BEFORE_UNKNOWN | OmitReason.UNPROVEN:
            words = ("undo", again[1], *(("--family",) if "--family" in again else ()), "--target", first)
            return Step(words=words, takes=count, why=f"{label}; named one by one, or in a file (--target @FILE)")
        case _:
            why, more = "", ()
    return Step(words=(*again, *more), takes=count, why=why)


def by_name(action: str, calls: Iterable[Call], flags: Sequence[str] = ()) -> tuple[Step, ...]:
    """Return the commands that do an action on named accounts, one for each region; empty if no command can.

    Of `flags` (as in `records.Run.asked`) only --endpoint and --profile are used.
    """
    verb = ACTIONS[action].command if action in ACTIONS else ""
    groups: dict[str, list[str]] = {}
    for call in calls:
        if call.account:  # only a job names cloud accounts
            return ()
        groups.setdefault(call.region, []).append(call.label)
    if not verb:
        return ()
    more = [
        with_its_bytes(word)
        for flag, value in pairwise(flags)
        if flag in ("--endpoint", "--profile")
        for word in (flag, value)
    ]
    return tuple(
        Step(words=(verb, *dict.fromkeys(labels), "--region", region, *more), takes=len(labels))
        for region, labels in groups.items()
    )


def _job_words(run: records.Run) -> tuple[str, ...]:
    """Return the words of the command that runs the job again; empty if the journal names no file of it."""
    path = run.job.path
    if not path.startswith("/") or path.endswith(_STANDARD_INPUT):
        return ()
    words = map(with_its_bytes, (path, *run.asked))
    return ("run", *words, *(("--simulate",) if run.simulated else ()))


__all__ = ["BAD", "Step", "WayOn", "by_name", "go_on_lines", "later_words", "undo_steps", "way_on"]
