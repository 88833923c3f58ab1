"""Compare a plan with what its instances show now, before anybody is asked to approve it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from engine.api.actions import ACTIONS
from engine.api.names import REGIONS, did_you_mean, is_unusual
from engine.errors import CredentialsError, JobError, RefusedError, UsageError
from engine.inputs.guards import need_readings
from engine.model import OmitReason, Target
from engine.operations.events import Event
from engine.planning.outlook import Outlook, Standing, is_no_instance, look_ahead
from engine.planning.plan import idle_rules
from engine.planning.refusals import refusals

if TYPE_CHECKING:
    from engine.cloud.clients import Reach
    from engine.inputs.job import Glob, WavesSpec
    from engine.inputs.settings import Settings
    from engine.journal.records import RunSettings
    from engine.model import Call, Reading, Where
    from engine.operations.earlier import Take
    from engine.operations.survey import Survey
    from engine.planning.plan import Plan
    from engine.simulator.world import World

_SHOWN = 5


class Prepared(Struct, frozen=True, kw_only=True):
    """A plan and what was read for it."""

    plan: Plan
    """Ordered for sending, without what readings leave out."""
    outlook: Outlook
    found: Survey | None
    """None: nothing was read (`--offline`, `--no-verify`, an action without a readable state)."""
    refusals: tuple[str, ...]
    """Why guards would refuse the plan, in words."""
    waves: WavesSpec | None = None
    """The waves in which it goes, if the job has any."""
    is_simulated: bool = False
    way: str = ""
    """The command that corrects the regions of instances that are found elsewhere; empty: no command does."""
    warnings: tuple[str, ...] = ()
    """Rules that match nothing, in words: such a rule may be misspelled."""

    def lines(self) -> list[str]:
        """Return the lines that the readings add to a plan's summary."""
        lines = [] if self.found is None else [f"  {self.found.words()}", *_standing_lines(self)]
        later = [omit for omit in self.plan.omits if omit.reason is OmitReason.LATER]
        if later:
            lines.append(f"  later  {len(later):,}, first in line next time  ({later[0].rule}, {later[0].where})")
        if self.waves is not None:
            from engine.report.waves import plan_lines  # here: most plans have no waves

            lines += [f"  {line}" for line in plan_lines(self.waves, len(self.plan.calls), simulated=self.is_simulated)]
        return lines + [f"  WOULD REFUSE  {why}" for why in self.refusals]

    def elsewhere(self) -> list[Call]:
        """Return the calls whose instance is not where the job says, and was found in another region."""
        located = self.found.located if self.found is not None else {}
        return [call for call in self.plan.calls if call.where in located] if located else []

    def refuse(self) -> None:
        """Raise RefusedError if a guard does not let the plan pass."""
        if self.refusals:
            raise RefusedError("refused: " + "; ".join(self.refusals) + "; nothing was sent")


class Looked(Event, frozen=True):
    """The accounts of a plan were read: how they stand, and which guards would refuse it."""

    prepared: Prepared


def is_read(plan: Plan, settings: Settings) -> bool:
    """Whether a plan's accounts are read: it has calls, the operator wants it, and the state can be read."""
    return bool(plan.calls) and settings.verify and ACTIONS[plan.action].is_readable


async def read_for(
    plan: Plan, settings: Settings, *, reach: Reach, world: World | None, known: Survey | None = None
) -> Survey:
    """Read the plan's instances for at most three seconds, but not again what a match has read (`known`)."""
    from engine.operations.survey import PLAN_S, Survey, survey

    found = known or Survey()
    unread = [call for call in plan.calls if call.where not in found.readings]
    if not unread:
        return found
    return await survey(
        unread,
        reach=reach,
        timeout_s=settings.timeout_s,
        world=world,
        limit_s=PLAN_S,
        purpose="plan",
        known=found,
        # Only whole lists tell how many superusers stay, and what share of the accounts is taken.
        whole=bool(settings.keep_admins or settings.max_share),
    )


def prepare(
    plan: Plan,
    settings: Settings,
    found: Survey | None,
    *,
    world: World | None,
    listed_order: bool = False,
    resend_already: bool = False,
    expect: int | None = None,
    take: Take | None = None,
    exclude: Sequence[Glob] = (),
    waves: WavesSpec | None = None,
    simulated: bool = False,
    way: str = "",
) -> Prepared:
    """Compare a plan with what was `found` (None: nothing was read). UsageError for a region the API does not know.

    JobError if the `waves` leave accounts out.

    `way` is the command that writes the job's list with the regions in which instances were found.
    """
    outlook = look_ahead(
        plan,
        of_plan(plan, found) if found is not None else {},
        keep_admins=settings.keep_admins,
        listed_order=listed_order,
        resend_already=resend_already,
    )
    if take is not None:
        from engine.planning import turns  # here: it reads ledgers, which other plans do without

        if found is not None or turns.takes_turns(plan.action, verify=settings.verify):
            outlook = turns.take(outlook, take.most, take.where, take.line())
    refused = refusals(
        outlook,
        max_targets=settings.max_targets,
        max_share=settings.max_share if found is not None and world is None else None,
        expect=expect,
    )
    if found is not None:
        refuse_unknown_regions(plan, found.readings)
    reads = settings.verify and ACTIONS[plan.action].is_readable
    by = plan.action if settings.verify else settings.origin.get("verify", "")
    odd = (*(() if reads else unshown(outlook.plan, by)), *_idle(plan, settings, found, exclude))
    if waves is not None:
        from engine.planning.waves import problem

        if (why := problem(waves, len(outlook.plan.calls))) is not None:
            raise JobError([why])
    return Prepared(
        plan=outlook.plan,
        outlook=outlook,
        found=found,
        refusals=tuple(refused),
        waves=waves,
        is_simulated=simulated,
        way=way,
        warnings=odd,
    )


def unshown(plan: Plan, by: str) -> Iterator[str]:
    """Yield that unusual names are not sent, of a run that reads no account; `by` is what says so."""
    unusual = [call.named for call in plan.calls if is_unusual(call.user)]
    if unusual:
        count = len(unusual)
        shown = ", ".join(unusual[:_SHOWN]) + (" …" if count > _SHOWN else "")
        yield (
            f"{count:,} unusual account name{'s' * (count > 1)} will not be sent, and count as failed: only a reading "
            f"can show that such a name exists, and {by} reads no accounts: {shown}"
        )


def of_plan(plan: Plan, found: Survey) -> dict[Where, Reading]:
    """Return readings of the plan's instances only: a match reads others, too, which must not soften `max_share`."""
    instances = dict.fromkeys(call.where for call in plan.calls)
    return {where: found.readings[where] for where in instances if where in found.readings}


def _idle(plan: Plan, settings: Settings, found: Survey | None, exclude: Sequence[Glob]) -> Iterator[str]:
    """Yield rules that match nothing: a `protect` that matches no account, an `exclude` that matches no target.

    Nothing is said of a rule unless all accounts or targets are known.
    """
    yield from idle_excludes(plan, exclude)
    if found is None or found.late or not all(map(_is_whole, found.readings.values())):
        return
    there: list[Target] = [
        Target(where.instance, user, where.region)
        for where, reading in found.readings.items()
        for user in reading.accounts or ()
    ]
    all_there: list[Target] = there + [omit.target for omit in plan.omits]
    for glob in idle_rules(settings.protect, all_there):
        yield f"{glob.place}: protect {glob.pattern} matches none of the {len(there):,} accounts read; a slip?"


def idle_excludes(plan: Plan, exclude: Sequence[Glob]) -> Iterator[str]:
    """Yield exclusions that match no target of a plan, if all targets are known."""
    named: list[Target | Call] = [*plan.calls, *(omit.target for omit in plan.omits)]
    if named and not plan.lacking:
        for glob in idle_rules(exclude, named):
            yield f"{glob.place}: exclude {glob.pattern} matches none of the {len(named):,} targets; a slip?"


def _is_whole(reading: Reading) -> bool:
    """Whether all accounts of an instance are known; an instance that does not exist has none.

    A list that was not read to its end, because all accounts in question were found, counts if it is no full page.
    """
    from engine.cloud.inventory import PAGE

    if reading.accounts is None:
        return is_no_instance(reading)
    return reading.complete or (reading.why is None and 0 < len(reading.accounts) < PAGE)


def refuse_unknown_regions(plan: Plan, readings: Mapping[Where, Reading]) -> None:
    """Raise UsageError for a region that is not in REGIONS and in which no instance of the plan is found: a slip."""
    by_region: dict[str, list[Reading | None]] = {}
    for where in dict.fromkeys(call.where for call in plan.calls):
        by_region.setdefault(where.region, []).append(readings.get(where))
    for region, found in by_region.items():
        if region in REGIONS or not all(map(_is_nowhere, found)):
            continue  # nearly always
        (first, *_) = (call for call in plan.calls if call.region == region)
        codes = ", ".join(sorted({str(reading.code) for reading in found if reading is not None}))
        raise UsageError(
            f"region {region}: none of its {len(found):,} instance{'s' * (len(found) != 1)}, such as {first.instance}, "
            f"is found there [{codes}]{did_you_mean(region, REGIONS)}; nothing was sent"
        )


def _is_nowhere(reading: Reading | None) -> bool:
    if reading is None or reading.accounts is not None:
        return False
    from engine.api.codes import row_of  # here: most plans read every instance

    row = row_of(reading.code)
    return row.no_instance or row.no_region


def refuse_unread(prepared: Prepared, *, can_ask: bool, unread_command: str) -> bool:
    """Return whether the run must go on unread, as no instance may be read; CredentialsError if nobody can be asked."""
    if prepared.found is None or not prepared.outlook.denied:
        return False
    codes = sorted({str(reading.code) for reading in prepared.found.readings.values()})
    if can_ask:
        return True
    raise CredentialsError(
        f"not one instance may be read with these keys (DescribeAccounts: {', '.join(codes)}); allow it, or go on "
        f"unread: then nothing is proven, and undo will need a list of targets: {unread_command}"
    )


def refuse_blind(action: str, frozen: RunSettings, *, max_share: float | None) -> None:
    """Raise RefusedError for a run without readings if a guard needs readings, whichever verb it is."""
    needy = need_readings(action, keep_admins=frozen.keep_admins, max_share=max_share)
    if needy and not frozen.verify:
        raise RefusedError(f"refused: without readings {' and '.join(needy)} cannot hold; nothing was sent")


_ENDED = (
    (Standing.NO_ACCOUNT, "no such account"),
    (Standing.NO_INSTANCE, "no such instance"),
    (Standing.CAM_ON, "CAM verification on, so not sent"),
)


def _standing_lines(prepared: Prepared) -> list[str]:
    assert prepared.found is not None
    outlook = prepared.outlook
    action = ACTIONS[prepared.plan.action]
    counts = outlook.counts()
    lines = [f"  to change  {outlook.to_change:,}"]
    if counts[Standing.ALREADY]:
        lines.append(f"  already {action.done_word}  {counts[Standing.ALREADY]:,}")
    for kind, words in _ENDED:
        if counts[kind]:
            lines.append(f"  {words}  {counts[kind]:,}  {_examples(prepared, kind)}")
    if elsewhere := prepared.elsewhere():
        count = len({call.where for call in elsewhere})
        way = f"{prepared.way} writes the list with the regions found" if prepared.way else "correct their regions"
        lines.append(f"  found elsewhere  {count:,} instance{'s' * (count > 1)}, and not taken there: {way}")
    if counts[Standing.UNREAD]:
        lines.append(f"  not read yet  {counts[Standing.UNREAD]:,}  (sent last)")
    if outlook.last_admins:
        count = len(outlook.last_admins)
        lines.append(
            f"  locks the last superuser of {count:,} instance{'s' * (count != 1)}  (keep_admins: 1 keeps one)"
        )
    return lines


def _examples(prepared: Prepared, kind: Standing) -> str:
    assert prepared.found is not None
    labels = []
    for call in prepared.plan.calls:
        if prepared.outlook.standings[call.id] is not kind:
            continue
        region = prepared.found.located.get(call.where)
        labels.append(call.named + (f" (found in {region})" if region is not None else ""))
        if len(labels) > _SHOWN:
            return ", ".join(labels[:_SHOWN]) + " …"
    return ", ".join(labels)
