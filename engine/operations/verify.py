"""Verify reads the accounts of a run again, and says which are no longer as it left them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from engine.api.actions import ACTIONS
from engine.cloud.clients import Reach, check_identity
from engine.errors import Reason, UsageError
from engine.inputs.files import job_file
from engine.journal.protocols import RunRef
from engine.journal.reader import Replay
from engine.journal.records import RunSettings
from engine.model import Call, Outcome, Reading, Where
from engine.operations.family import held_now, undone_since, way_of, with_family
from engine.operations.frozen import overridden
from engine.operations.reach import reach_of
from engine.operations.simulated import simulated_world
from engine.operations.stores import find, flags_of, refuse_watch
from engine.operations.survey import survey
from engine.operations.terms import Terms
from engine.operations.today import check_endpoint
from engine.planning.undo import Recheck, recheck
from engine.report.nextstep import by_name

if TYPE_CHECKING:
    from engine.journal.ledger import Ledger
    from engine.planning.holds import HeldNow
    from engine.report.nextstep import WayOn


class Verifying(Struct, frozen=True, kw_only=True):
    """A run whose accounts can be compared, any number of times, with what it left."""

    terms: Terms
    ref: RunRef
    found: Replay
    ledger: Ledger
    """The ledger of the run, or of its family."""
    frozen: RunSettings
    reach: Reach
    undone: frozenset[tuple[str, str, str, str]]
    """Accounts that were undone since, on purpose."""

    async def compared(self) -> Verified:
        """Read all accounts of the run once, and return how they compare."""
        ledger = self.ledger
        world = None
        if self.terms.simulate:
            good = (Outcome.CHANGED, Outcome.ALREADY)
            done = [call for call, _, outcome in ledger.outcomes() if outcome in good]
            stands = {call.id for call in done if _key(call) not in self.undone}
            world = simulated_world(ledger.run.action, ledger.calls.values(), stands)
        read = await survey(
            list(ledger.calls.values()),
            reach=self.reach,
            timeout_s=self.frozen.timeout_s,
            world=world,
            limit_s=None,
            purpose="verify",
        )
        check_identity(self.reach.keyring, ledger, is_asked=True)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return Verified(at=at, recheck=recheck(ledger, read.readings, set(self.undone)), readings=read.readings)

    def held(self) -> HeldNow | None:
        """Return who holds the accounts of the run."""
        trust = self.terms.settings(None).trust
        return held_now(self.ref.store, self.ledger, trust, self.terms.clock)

    def advice(self, last: Recheck) -> list[str]:
        """Return lines with the whole command for what came back, and for what never was as asked."""
        ledger, lines = self.ledger, []
        if not (last.back or last.never):
            return []
        way = way_of(self.ref.store, self.found.ledger, flags=flags_of(self.terms, self.ref))
        if count := len(last.back):
            lines.append(f"{count:,} account{'s' * (count != 1)} came back: {_again(ledger, last.back, way)}")
        if last.never:
            done_word = ACTIONS[ledger.run.action].done_word
            command = way.command or _again(ledger, last.never, way)
            lines.append(f"{len(last.never):,} of what was asked for never came to be {done_word}: {command}")
        return lines


class Verified(Struct, frozen=True, kw_only=True):
    """What one reading of a run's accounts shows."""

    at: str
    """When the accounts were read, in UTC."""
    recheck: Recheck
    readings: Mapping[Where, Reading]

    @property
    def reason(self) -> Reason:
        """OK if all accounts were read and are as asked, or undone on purpose; else INCOMPLETE."""
        found = self.recheck
        return Reason.INCOMPLETE if found.back or found.unread or found.never else Reason.OK


async def verifying(terms: Terms, run: str, *, family: bool = False) -> Verifying:
    """Prepare to compare a run with its accounts now; UsageError for an action that leaves nothing to read."""
    ref = find(terms, run)
    found = ref.replay()
    refuse_watch(terms, ref, found.ledger.run, "verify")
    settings = terms.settings(None)
    ledger = with_family(ref, found, settings.trust) if family else found.ledger
    if not ACTIONS[ledger.run.action].is_readable:
        raise UsageError(f"nothing readable tells what {ledger.run.action} has done; there is nothing to verify")
    terms = replace(terms, simulate=ledger.run.simulated)
    check_endpoint(terms, ledger)
    frozen = overridden(terms, ledger.settings)
    reach = await reach_of(frozen, settings, terms, purpose=ref.run_id)
    check_identity(reach.keyring, ledger)
    undone = frozenset(undone_since(ref, ledger, settings.trust))
    return Verifying(terms=terms, ref=ref, found=found, ledger=ledger, frozen=frozen, reach=reach, undone=undone)


async def verified(this: Verifying, after_s: Sequence[float]) -> AsyncIterator[Verified]:
    """Yield the comparison now, and again after each of `after_s` seconds, counted from now."""
    begun = time.monotonic()
    for after in (0.0, *after_s):
        await asyncio.sleep(max(0.0, begun + after - time.monotonic()))
        yield await this.compared()


def _again(ledger: Ledger, calls: Sequence[Call], way: WayOn) -> str:
    """Return the command that does it once more: the job, if its file is still there, else one with the accounts."""
    run = ledger.run
    if way.job is not None and job_file(run.job.path) is not None:
        return way.job
    named = by_name(run.action, [call for call in calls if call.id], run.asked)
    if not named:
        return f"run a job with `action: {run.action}` and these accounts"
    mark = " --simulate" if run.simulated else ""
    return "; ".join(f"{step.command()}{mark}{way.flags}" for step in named)


def _key(call: Call) -> tuple[str, str, str, str]:
    return call.account, call.region, call.instance, call.user
