"""No I/O; the same text and seed make the same fleet. A made-up fleet: `random:400x8`.

It has 400 instances with 8 accounts each, in every region or in those named (`random:400x8@ap-tokyo,ap-seoul`). Names
and tags are as people give them. Some instances are replicas or do not run; some accounts are locked, have CAM on, or
do not show it. Each of several owners gets instances in all of these regions.
"""

from __future__ import annotations

import re
from random import Random
from typing import TYPE_CHECKING

from engine.simulator import catalog
from engine.simulator.estate import LOCKED, NORMAL
from engine.simulator.fleet import MAX_ACCOUNTS, Fleet, FleetAccount, FleetInstance

if TYPE_CHECKING:
    from collections.abc import Sequence

RANDOM = "random:"
_SPEC = re.compile(r"random:([1-9][0-9]{0,6})x([1-9][0-9]{0,3})(?:@([a-z0-9,-]+))?")
_ENVIRONMENTS = ("prod", "prod", "prod", "staging", "test")
_TEAMS = ("payments", "search", "orders", "crm", "data")
_STATUSES = ("restarting", "isolated", "upgrading", "recycled")
_ROLES = ("user", "ro", "batch", "api", "report", "admin", "worker", "sync")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def random_fleet(text: str, seed: int = 0, owners: Sequence[str] = ()) -> Fleet:
    """Return the fleet that `text` asks for; ValueError with words if the text is not of this form.

    `owners`: uins of the cloud accounts that own the instances, in turn; a replica has the owner of its primary.
    """
    found = _SPEC.fullmatch(text)
    if found is None:
        raise ValueError("expected random:INSTANCESxACCOUNTS, such as random:400x8, or random:400x8@ap-tokyo,ap-seoul")
    instances, accounts = int(found[1]), int(found[2])
    if instances * accounts > MAX_ACCOUNTS:
        raise ValueError(f"{instances * accounts:,} accounts are more than {MAX_ACCOUNTS:,}")
    regions = found[3].split(",") if found[3] else [name for name in catalog.REGIONS if not name.endswith("-fsi")]
    for region in regions:
        if region not in catalog.REGIONS:
            raise ValueError(f"there is no region {region!r}")
    rng = Random(f"{seed}/{text}")
    fleet: dict[str, FleetInstance] = {}
    while len(fleet) < instances:
        turn = len(fleet) // len(regions)
        owner = owners[turn % len(owners)] if owners else ""
        made = _instance(rng, len(fleet), accounts, regions, fleet, owner)
        fleet[made.id] = made
    return tuple(fleet.values())


def _instance(
    rng: Random, number: int, accounts: int, regions: list[str], there: dict[str, FleetInstance], owner: str
) -> FleetInstance:
    environment, team = rng.choice(_ENVIRONMENTS), rng.choice(_TEAMS)
    dice = rng.random()
    kind = "readonly" if dice < 0.05 else "guard" if dice < 0.07 else "primary"
    primaries = [each for each in there.values() if each.type == "primary"] if kind != "primary" else []
    master = rng.choice(primaries) if primaries else None
    if master is None:
        kind = "primary"
    return FleetInstance(
        id="postgres-" + "".join(rng.choices(_LETTERS, k=8)),
        region=master.region if master is not None else regions[number % len(regions)],
        uin=master.uin if master is not None else owner,
        name=f"{environment}-{team}-{number + 1:04d}",
        status=rng.choice(_STATUSES) if rng.random() < 0.03 else "running",
        type=kind,
        pay_mode=rng.choice(("prepaid", "postpaid")),
        version=rng.choice(("13", "14", "15", "16", "17")),
        master=master.id if master is not None else "",
        tags=(("env", environment), ("team", team)) if rng.random() < 0.9 else (),
        accounts=tuple(_account(rng, each) for each in range(accounts)),
    )


def _account(rng: Random, number: int) -> FleetAccount:
    if number == 0:  # every instance has one superuser that can log in
        return FleetAccount(name="dbadmin", user_type="tencentDBSuper")
    role = _ROLES[(number - 1) % len(_ROLES)]
    turn = (number - 1) // len(_ROLES)
    name = f"{rng.choice(('app', 'etl', 'svc'))}_{role}" + (f"_{turn + 1}" if turn else "")
    dice = rng.random()
    return FleetAccount(
        name=name,
        status=LOCKED if rng.random() < 0.05 else NORMAL,
        cam=None if dice < 0.02 else dice < 0.3,
        user_type="tencentDBSuper" if rng.random() < 0.03 else "normal",
        by_sql=rng.random() < 0.1,
    )
