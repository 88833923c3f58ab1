"""The values of a run that does not exist yet: what it would do, what waits for approval, and the approval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, field

from engine.api.actions import ACTIONS
from engine.cloud.clients import Reach
from engine.errors import RefusedError
from engine.inputs.job import Glob, HoldSpec, StopAfter
from engine.journal import records
from engine.journal.protocols import RunRef, Runs
from engine.journal.records import unix_seconds
from engine.model import STAYS, Call, Omit, Place, RunId
from engine.operations.earlier import Take
from engine.operations.terms import Terms, operator
from engine.planning.plan import Plan

if TYPE_CHECKING:
    from engine.inputs.passwords import PasswordSource
    from engine.inputs.settings import Settings
    from engine.operations.family import Undone
    from engine.operations.permits import Permit
    from engine.operations.survey import Survey
    from engine.simulator.faults import FaultRule
    from engine.simulator.world import World


class Approval(Struct, frozen=True, kw_only=True):
    """Somebody's word that what was planned shall be done, as the journal keeps it."""

    how: str
    """What they said, or where that stands: `reviewed in #incident`."""
    by: str | None = None
    """Who approved; None: the user that this process runs as."""
    terminal: str | None = None

    def as_record(self) -> records.Confirmed:
        """Return the approval's line in the journal."""
        return records.Confirmed(how=self.how, by=self.by or operator(), terminal=self.terminal)


class Proposal(Struct, frozen=True, kw_only=True):
    """What a new run would do: made from a job, from a run to repeat, or from a run to undo."""

    terms: Terms
    settings: Settings
    frozen: records.RunSettings
    plan: Plan
    job: records.JobRef
    reason: str | None
    ticket: str | None
    stop_after: StopAfter | None
    guarded_by: str
    """`records.Run.guarded_by`."""
    asked: tuple[str, ...] = ()
    """`records.Run.asked`."""
    parent: RunRef | None = None
    to_change: int | None = None
    """How many of its calls change an account, by the readings; None if it was not read."""
    released: tuple[Call, ...] = ()
    """Calls of the run to undo that are not taken back, and whose holds end nevertheless."""
    seen: tuple[Call, ...] = ()
    """Calls of the run to undo whose accounts do not stand any more as a run had left them."""
    verb: str = "rerun"
    """How it is linked to its parent: rerun or undo; also the name of the command."""
    uins: Mapping[str, str] = field(default_factory=dict)
    """Account → the cloud account that it is, as far as that is known: keys of another are refused."""
    faults: tuple[FaultRule, ...] = ()
    exclude: tuple[Glob, ...] = ()
    """Rules by which targets were left out of the plan; a rule that matches no target is told."""
    listed_order: bool = False
    take: Take | None = None
    """How much of the plan it takes; None: all."""
    found: Survey | None = None
    """Readings made together with the plan, which is then ready to be sent. None: `planned` reads."""
    world: World | None = None
    """The simulated world those readings were made in, or that of `--fleet`."""
    known: Survey | None = None
    """What a match has read with these keys; what is odd about the keys was told then."""
    matched: tuple[records.Matched, ...] = ()
    guessed: tuple[str, ...] = ()
    """What a list does not say and decides who is meant, in words: it stands in the question."""
    may_be_empty: bool = False
    """Whether a run without calls is fine: its journal then shows that the scheduled run took place."""
    guards: Callable[[], Settings] | None = None
    """Returns the guards as their files have them when it is called."""
    undone: Undone | None = None
    """What an undo, or a rerun of one, brings back."""
    waves_at: Place | None = None
    """Where its waves stand."""
    permit: Permit | None = None
    """Who has signed it, if it comes from the file of a plan."""
    hold: HoldSpec | None = None
    """When its hold ends, as its job says; a rerun has that of its parent in `frozen`."""


class Planned(Struct, frozen=True, kw_only=True):
    """A run that waits for its approval: its accounts are read, its guards have let it pass."""

    proposal: Proposal
    run_id: RunId
    store: Runs
    reach: Reach
    passwords: PasswordSource | None
    at: float
    """UNIX time at which it was planned."""

    @property
    def plan(self) -> Plan:
        """What it will do, and what it leaves out."""
        return self.proposal.plan

    @property
    def calls(self) -> tuple[Call, ...]:
        """What will be sent, in this order."""
        return self.proposal.plan.calls

    @property
    def left_out(self) -> tuple[Omit, ...]:
        """What was asked for and will not be sent, and why."""
        return self.proposal.plan.omits

    @property
    def question(self) -> str:
        """What is approved, in one sentence."""
        return question_of(self.proposal)


class Nothing(Struct, frozen=True, kw_only=True):
    """No run is planned, as there is nothing to do."""

    why: str


def refuse_empty(plan: Plan) -> None:
    """Raise RefusedError for a plan without calls."""
    if plan.calls:
        return
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in plan.left_out().items() if count)
    raise RefusedError(f"nothing to do: every target is left out ({reasons or 'none given'}); nothing was sent")


def question_of(new: Proposal) -> str:
    """Return what is approved, in one sentence."""
    plan, action = new.plan, ACTIONS[new.plan.action]
    count, instances = len(plan.calls), plan.instances
    accounts = f"{count:,} account{'s' * (count != 1)} on {instances:,} instance{'s' * (instances != 1)}"
    unread = ""
    if new.settings.verify and not new.frozen.verify:
        unread = ", UNREAD (these keys may read no account): nothing will be proven, and undo will need a list"
    stays = sum(omit.reason in STAYS for omit in plan.omits)
    unseen = plan.lacking - stays
    missing = f"; {unseen:,} of what was asked for could not be looked at or read" if unseen else ""
    missing += f"; {stays:,} of what was asked for stay as they are" if stays else ""
    missing += f"; GUESSED: {', '.join(new.guessed)}" if new.guessed else ""
    if new.to_change is not None and new.to_change != count:
        accounts += f" ({new.to_change:,} of them change now)"
    mark = " (SIMULATED)" if new.terms.simulate else ""
    waves = _waves(new.frozen)
    return f"About to {action.verb} {accounts}{action.effect}{mark}{waves}{_afterwards(new)}{unread}{missing}"


def _waves(frozen: records.RunSettings) -> str:
    """Return in how many waves a run goes, as a part of the question."""
    if frozen.waves is None:
        return ""
    count, gate = len(frozen.waves["waves"]), frozen.waves["gate"]
    red = ", each undone if its gate says red" if frozen.waves["on_red"] == "undo" else ""
    return f"; in {count:,} wave{'s' * (count != 1)} {'with' if gate else 'without'} a gate{red}"


def _afterwards(new: Proposal) -> str:
    """Return what comes after the run, as a part of the question."""
    if new.hold is None and new.frozen.hold_until is None and new.frozen.watch is None:
        return ""
    from engine.report.afterwards import hold_words, until_words, watch_of, watch_words  # here: most runs have none

    frozen = new.frozen
    said = ""
    if new.hold is not None:
        said = f"; hold: {hold_words(new.hold, new.terms.clock())}"
    elif frozen.hold_until is not None:
        said = f"; hold: {until_words(unix_seconds(frozen.hold_until), frozen.hold_then)}"
    watch = watch_of(frozen)
    return said if watch is None else f"{said}; watch: {watch_words(watch)}"
