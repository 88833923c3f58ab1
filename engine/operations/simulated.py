"""The simulated world of a run: its targets as they were before it, the demo keys of their accounts, and its files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from engine.errors import ConfigError, UsageError
from engine.operations.events import Warned

if TYPE_CHECKING:
    from engine.inputs.job import Job
    from engine.model import Call, CallId
    from engine.operations.events import Tell
    from engine.operations.terms import Terms
    from engine.simulator.faults import FaultRule
    from engine.simulator.fleet import Fleet
    from engine.simulator.sts import KeyRecord
    from engine.simulator.world import World

_T = TypeVar("_T")
_MADE_UP = "random:40x8"


def simulated_keys(accounts: Collection[str]) -> dict[str, KeyRecord] | None:
    """Return the demo keys of simulated accounts, which own their instances; None for the account without a name."""
    from engine.simulator import DEMO_SECRET_KEY, demo_secret_id
    from engine.simulator.sts import KeyRecord

    if not any(accounts):
        return None
    return {
        demo_secret_id(account): KeyRecord(secret_key=DEMO_SECRET_KEY, identity=account, uin=account)
        for account in accounts
    }


def simulated_world(
    action: str,
    calls: Iterable[Call],
    changed: Collection[CallId] = (),
    faults: tuple[FaultRule, ...] = (),
    *,
    seed: int = 0,
) -> World:
    """Return a world with the targets of a run as they were before it, except for what the run has `changed`."""
    from engine.simulator import catalog
    from engine.simulator.world import World

    calls = list(calls)
    keys = simulated_keys({call.account for call in calls})
    world = World(faults=faults, latency=0.04, jitter=0.02, keys=keys, seed=seed)
    row = catalog.ACTIONS[action]
    for call in calls:
        status, cam = row.after if call.id in changed else row.before
        with suppress(ValueError):  # named in two regions, it is in the first, and the other call finds none
            world.seed(call.instance, call.region, [call.user], status=status, cam=cam, uin=call.account)
    return world


# ---- the files of a simulation ---------------------------------------------------------------------------------------


def faults_of(terms: Terms) -> tuple[FaultRule, ...]:
    """Return the fault script of a simulated run. It is read before anybody is asked anything."""
    if terms.faults is None:
        return ()
    if not terms.simulate:
        raise UsageError("--faults goes with --simulate; a server takes it as `acctops simulate --faults FILE`")
    return read_faults(terms.faults)


def fleet_of(terms: Terms, job: Job, faults: tuple[FaultRule, ...]) -> World | None:
    """Return the world of `--fleet`, in which only the fleet's instances exist; None without the flag."""
    if terms.fleet is None and not (terms.simulate and job.matches):
        return None
    if not terms.simulate:
        raise UsageError("--fleet goes with --simulate; a server takes it as `acctops simulate --fleet FILE`")
    from engine.simulator.world import World

    made_up = terms.fleet is None
    text = terms.fleet or _made_up(job)
    if made_up:
        words = f"{job.matches[0].place}: a match is looked for in a made-up fleet, --fleet {text}; it is not yours"
        terms.tell(Warned(words))

    keys = simulated_keys([account.name for account in job.accounts])
    owners = [record.uin for record in (keys or {}).values()]
    fleet = fleet_from(text, terms.seed or 0, owners, tell=terms.tell)
    world = World(fleet=fleet, faults=faults, latency=0.04, jitter=0.02, keys=keys, seed=terms.seed or 0)
    from engine.simulator import catalog

    status, cam = catalog.ACTIONS[job.action].before
    for target in job.targets if made_up else ():  # what the job names itself is there, too
        with suppress(ValueError):
            world.seed(target.instance, target.region, [target.user], status=status, cam=cam, uin=target.account)
    return world


def _made_up(job: Job) -> str:
    """Return the words for a fleet in the regions that a job names, so that its matches have where to look."""
    from engine.simulator import catalog

    regions = sorted({each for match in job.matches for each in match.regions or ()} & set(catalog.REGIONS))
    everywhere = any(match.regions is None for match in job.matches)
    return _MADE_UP + (f"@{','.join(regions)}" if regions and not everywhere else "")


def fleet_from(text: str, seed: int = 0, owners: Iterable[str] = (), *, tell: Tell) -> Fleet:
    """Return the fleet in a file, or one made up for `owners` by `random:400x8`; UsageError or ConfigError in words."""
    from engine.simulator.fleet import parse_fleet
    from engine.simulator.randomfleet import RANDOM, random_fleet

    if not text.startswith(RANDOM):
        return _with_owners(text, parsed(text, parse_fleet), set(owners), tell)
    try:
        return random_fleet(text, seed, tuple(owners))
    except ValueError as error:
        raise UsageError(f"--fleet {text}: {error}") from error


def _with_owners(path: str, fleet: Fleet, uins: set[str], tell: Tell) -> Fleet:
    """Return the fleet; warn of instances that none of these main accounts sees: a drill would find nothing."""
    from engine.simulator.sts import owner

    owners = {owner(uin) for uin in uins}
    lost = [instance for instance in fleet if owner(instance.uin) not in owners] if owners else []
    if lost:
        first = f"{lost[0].id}{f' of {lost[0].uin}' if lost[0].uin else ' without a uin:'}"
        some = f"{len(lost):,} of {len(fleet):,} instances, such as {first}"
        words = f"{path}: {some}, belong to none of these accounts, which do not see them; uin: one of "
        tell(Warned(words + ", ".join(sorted(uins)), always=True))
    return fleet


def read_faults(path: str) -> tuple[FaultRule, ...]:
    """Return the fault script in a file; ConfigError with every problem."""
    from engine.simulator.faults import parse_faults

    return parsed(path, parse_faults)


def parsed(path: str, parse: Callable[[str], _T]) -> _T:
    """Return what `parse` makes of a file; ConfigError with every problem of it."""
    try:
        return parse(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    except ValueError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error
