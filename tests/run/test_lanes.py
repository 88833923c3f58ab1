"""Several lanes for one job: access regions, sub-accounts, accounts. In memory and virtual time."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.api.endpoints import Access, access, regional
from engine.credentials import NoKeys
from engine.errors import Reason
from engine.journal import records
from engine.journal.reader import read
from engine.model import Fault, Keys, Reply, Stage, Target
from engine.planning.plan import make_plan
from engine.planning.routes import Route, routes_of
from engine.simulator.estate import NORMAL
from engine.simulator.faults import rules_from
from engine.simulator.gate import KeyRecord
from engine.simulator.inprocess import InProcessTransport
from engine.simulator.world import World
from tests.support.drill import Drill, FixedKeys, fleet, run_settings

REGIONS = ("ap-singapore", "ap-tokyo", "ap-guangzhou")
URLS = tuple(f"http://127.0.0.1:9{number:02d}" for number in range(16))


def keys(name: str, **more: Any) -> FixedKeys:
    return FixedKeys(Keys(secret_id=f"AKID{name}", secret_key=f"secret of {name}"), label=name, identity=name, **more)


def world_for(*names: str, faults: Sequence[dict[str, Any]] = (), **more: Any) -> World:
    known = {f"AKID{name}": KeyRecord(secret_key=f"secret of {name}", identity=name) for name in names}
    return World(keys=known, faults=rules_from(list(faults)), latency=more.pop("latency", 0.1), audit=None, **more)


def writes(world: World) -> list[Any]:
    return [arrival for arrival in world.audit if arrival.action == "LockAccount"]


def notes(drill: Drill, what: str) -> list[dict[str, Any]]:
    return [line.data for line in read(drill.path) if isinstance(line, records.Note) and line.what == what]


def outcomes(drill: Drill) -> Counter[str]:
    return Counter(drill.outcomes().values())


def outcomes_by_account(drill: Drill) -> Counter[tuple[str, str]]:
    return Counter((call.account, str(outcome)) for call, _, outcome in drill.ledger.outcomes())


# ---- routes --------------------------------------------------------------------------------------------------------


def test_calls_that_the_same_lanes_can_take_are_one_route() -> None:
    """Regions share lanes, unless each has its own; accounts never do, nor do financial zones and the rest."""
    targets = [
        Target(f"postgres-{account or 'none'}{number}", "app", region, account)
        for number, region in enumerate((*REGIONS, "ap-shanghai-fsi"))
        for account in ("", "b")
    ]
    calls = make_plan("LockAccount", targets).calls
    nearest = access("mainland", ["nearest", "ap-tokyo"], {call.region for call in calls})
    routes = routes_of(calls, nearest)
    assert {(route.account, len(route.endpoints)) for route in routes.every} == {("", 2), ("", 1), ("b", 2), ("b", 1)}
    assert sorted(routes.counts()) == [1, 1, 3, 3]
    by_region = routes_of(calls, access("mainland", ["regional"], {call.region for call in calls}))
    assert set(by_region.every) == {
        Route(account, (regional(region),)) for account in ("", "b") for region in (*REGIONS, "ap-shanghai-fsi")
    }
    for call, number in zip(calls, by_region.of, strict=True):
        assert by_region.every[number] == Route(call.account, (regional(call.region),))


def test_the_longest_route_is_how_long_it_takes() -> None:
    """Three calls through two access points by two sub-accounts, beside one that has a lane of its own."""
    calls = make_plan("LockAccount", [Target(f"postgres-{n}", "app", "ap-tokyo") for n in range(400)]).calls
    assert routes_of(calls, Access(URLS[:2], {})).seconds(20, lambda _account: 2) == 5
    assert routes_of(calls, Access(URLS[:2], {"ap-tokyo": URLS[3]})).seconds(20, lambda _account: 1) == 20
    assert routes_of([], Access(URLS[:2], {})).seconds(20, lambda _account: 1) == 0


# ---- many lanes ----------------------------------------------------------------------------------------------------


def test_sixteen_access_regions_are_sixteen_quotas(tmp_path: Path) -> None:
    """3,000 calls in some ten seconds, each lane within its own quota, every one of them used."""
    world = world_for("a", latency=0.05)
    drill = Drill(tmp_path, world, fleet(400, 8)[:3000], keyring={"": [keys("a")]}, access=Access(URLS, {})).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 3000}
    worst = drill.ledger.worst_second()
    assert len(worst) == 16
    assert max(worst.values()) <= 20
    assert drill.ledger.throttled == 0
    first, last = writes(world)[0].at, writes(world)[-1].at
    assert 9.0 <= last - first <= 10.5


def test_each_target_through_its_own_region(tmp_path: Path) -> None:
    """`regional`: nothing reaches another region's access point, and three regions are three quotas."""
    targets = [
        Target(f"postgres-{region}{number}".replace("ap-", ""), f"user{user}", region)
        for region in REGIONS
        for number in range(10)
        for user in range(10)
    ]
    world = world_for("a")
    drill = Drill(
        tmp_path, world, targets, keyring={"": [keys("a")]}, access=access("international", ["regional"], REGIONS)
    ).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 300}
    for arrival in world.audit:
        assert arrival.access == f"postgres.{arrival.region}.tencentcloudapi.com"
    assert drill.seconds < 7


def test_sub_accounts_of_one_account_are_lanes(tmp_path: Path) -> None:
    """The vendor counts by sub-account: two sign twice as many a second, and each signs its own."""
    world = world_for("a", "b")
    drill = Drill(
        tmp_path, world, fleet(40, 10), keyring={"": [keys("a"), keys("b")]}, access=Access(URLS[:1], {})
    ).go()
    assert drill.reason is Reason.OK
    share = Counter(arrival.identity for arrival in writes(world))
    assert share.total() == 400
    assert min(share.values()) > 180
    assert drill.seconds < 12


# ---- a lane that is of no use --------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["Local.Dns", "Local.Connect", "Local.Tls"])
def test_an_access_point_that_cannot_be_reached_gives_its_calls_to_the_others(tmp_path: Path, why: str) -> None:
    """It is noted, no call fails for it, and the others have what it had; reading goes through them, too."""
    world = world_for("a")
    drill = Drill(
        tmp_path,
        world,
        fleet(60, 14),
        keyring={"": [keys("a")]},
        access=Access(URLS[:3], {}),
        unreachable={URLS[0].removeprefix("http://"): why},
    ).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 840}
    (closed,) = notes(drill, "lane_closed")
    assert closed["lane"].endswith(URLS[0].removeprefix("http://"))
    assert closed["code"] == why
    assert {arrival.access for arrival in writes(world)} == {url.removeprefix("http://") for url in URLS[1:3]}
    assert drill.seconds < 23, "21 s is what two lanes take"


def test_a_lane_that_is_down_holds_no_call_into_its_pause(tmp_path: Path) -> None:
    """The last account is locked when the healthy lanes come to it, not when the dead one has tried again."""
    world = world_for("a")
    drill = Drill(
        tmp_path,
        world,
        fleet(30, 8),
        keyring={"": [keys("a")]},
        access=Access(URLS[:4], {}),
        unreachable={URLS[1].removeprefix("http://"): "Local.Connect"},
    ).go()
    assert drill.reason is Reason.OK
    arrived = sorted(arrival.at for arrival in writes(world))
    assert len(arrived) == 240
    assert arrived[-1] - arrived[0] < 240 / 60 + 0.5, "three lanes of twenty a second"
    assert drill.seconds < 6


class Swallowed(InProcessTransport):
    """What goes to `host` is never heard of again, while `is_silent`; `stage` says how far it came, in `after_s`."""

    host = ""
    is_silent = True
    stage, code, after_s = Stage.AFTER_SEND, "Local.Timeout", 10.0

    async def send(self, endpoint: str, headers: Any, body: bytes, timeout_s: float) -> Any:
        if self.is_silent and endpoint.endswith(self.host):
            await asyncio.sleep(self.after_s)
            return Fault(stage=self.stage, code=self.code, message="gone")
        return await super().send(endpoint, headers, body, timeout_s)


def swallowing(tmp_path: Path, world: World, targets: Sequence[Target], url: str, **more: Any) -> Drill:
    """A run over two access points of which one swallows what it gets."""
    drill = Drill(tmp_path, world, targets, keyring={"": [keys("a")]}, access=Access(URLS[:2], {}))
    is_made: list[Swallowed] = []

    def made(inner: Any) -> Swallowed:
        transport = Swallowed(world, now=inner._now)
        transport.host = url.removeprefix("http://")
        for name, value in more.items():
            setattr(transport, name, value)
        is_made.append(transport)
        return transport

    async def silent_from_4_to_19_s(_runner: Any) -> None:
        await asyncio.sleep(4)
        is_made[0].is_silent = True
        await asyncio.sleep(15)
        is_made[0].is_silent = False

    drill.transport = made
    if not more.get("is_silent", True):
        drill.during = silent_from_4_to_19_s
    return drill


@pytest.mark.parametrize(("url", "reading_s"), [(URLS[0], 10.0), (URLS[1], 0.0)], ids=["reading", "other"])
def test_an_access_point_that_never_answers_gives_its_calls_to_the_others(
    tmp_path: Path, url: str, reading_s: float
) -> None:
    """Connected and never answered, as behind a broken firewall: no account waits for it, and none fails for it.

    The calls it swallowed are nobody's fault: neither is an instance held back for them, nor a budget spent.
    """
    drill = swallowing(tmp_path, world_for("a"), fleet(60, 10), url).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 600}
    (down,), (closed,) = notes(drill, "lane_down"), notes(drill, "lane_closed")
    assert down["lane"] == closed["lane"] and closed["lane"].endswith(url.removeprefix("http://"))
    assert closed["code"] == "Local.Timeout"
    assert drill.seconds < 33 + reading_s, "30.6 s is what the other lane alone takes, once accounts could be read"


def test_an_access_point_that_is_silent_for_a_while_is_used_again(tmp_path: Path) -> None:
    """Fifteen seconds in the middle: both changes are noted once, and no call is lost."""
    drill = swallowing(tmp_path, world_for("a"), fleet(120, 10), URLS[1], is_silent=False).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 1200}
    assert len(notes(drill, "lane_down")) == 1
    (up,) = notes(drill, "lane_up")
    assert 10 < up["seconds"] < 30
    assert not notes(drill, "lane_closed")


@pytest.mark.parametrize(
    ("how", "limit_s"),
    [
        ({}, 13.0),
        ({"stage": Stage.BEFORE_SEND, "code": "Local.Connect", "after_s": 5.0}, 8.0),
    ],
    ids=["never answered", "never connected"],
)
def test_the_last_calls_are_not_spent_on_finding_out_whether_a_lane_is_back(
    tmp_path: Path, how: dict[str, Any], limit_s: float
) -> None:
    """Forty accounts: once the dead lane has let go of its calls, the other has them done in a second."""
    drill = swallowing(tmp_path, world_for("a"), fleet(20, 2), URLS[1], **how).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 40}
    assert drill.seconds < limit_s


def test_instances_that_hang_are_not_taken_for_a_lane_that_does(tmp_path: Path) -> None:
    """Five of thirty instances answer nothing for a while, through any lane: both lanes go on with all the others."""
    sick = [{"action": "LockAccount", "instance": f"postgres-0000000{n}", "hang": True, "times": 2} for n in range(5)]
    world = world_for("a", faults=sick)
    drill = Drill(tmp_path, world, fleet(30, 10), keyring={"": [keys("a")]}, access=Access(URLS[:2], {})).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 300}
    assert not notes(drill, "lane_down")


def test_a_sub_account_that_is_refused_gives_its_calls_to_the_others(tmp_path: Path) -> None:
    """A key that was deleted meanwhile: one note a lane, and not one target fails."""
    world = world_for("a")
    drill = Drill(
        tmp_path, world, fleet(40, 10), keyring={"": [keys("gone"), keys("a")]}, access=Access(URLS[:2], {})
    ).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 400}
    closed = notes(drill, "lane_closed")
    assert {note["code"] for note in closed} == {"AuthFailure.SecretIdNotFound"}
    assert {note["lane"].partition("/")[0] for note in closed} == {"gone"}
    assert drill.ledger.throttled == 0


def test_a_sub_account_without_the_permission_gives_its_calls_to_the_others(tmp_path: Path) -> None:
    """CAM lets one of two lock and not the other: no account fails that the first may lock, and the lane is noted."""
    world = world_for("a")
    world.keys["AKIDb"] = KeyRecord(secret_key="secret of b", identity="b", denied=frozenset({"LockAccount"}))
    drill = Drill(tmp_path, world, fleet(40, 5), keyring={"": [keys("b"), keys("a")]}, access=Access(URLS[:2], {})).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 200}
    closed = notes(drill, "lane_closed")
    assert {note["lane"].partition("/")[0] for note in closed} == {"b"} and len(closed) == 2
    assert sum(arrival.identity == "b" for arrival in writes(world)) < 40
    assert drill.seconds < 7


def test_a_permission_that_differs_by_instance_is_asked_of_each_sub_account(tmp_path: Path) -> None:
    """One may lock these, the other those, and nobody the last: only that one fails, with the API's code."""

    class ByInstance(InProcessTransport):
        async def send(self, endpoint: str, headers: Any, body: bytes, timeout_s: float) -> Any:
            barred = {"AKIDa": b"0000000[01]", "AKIDb": b"0000000[12]"}
            key = next(key for key in barred if key in headers["Authorization"])
            if headers["X-TC-Action"] == "LockAccount" and re.search(barred[key], body):
                text = b'{"Response":{"Error":{"Code":"UnauthorizedOperation","Message":"m"},"RequestId":"%s"}}'
                return Reply(status=200, body=text % uuid.uuid4().hex.encode())
            return await super().send(endpoint, headers, body, timeout_s)

    world = world_for("a", "b")
    drill = Drill(tmp_path, world, fleet(30, 4), keyring={"": [keys("a"), keys("b")]}, access=Access(URLS[:1], {}))
    drill.transport = lambda inner: ByInstance(world, now=inner._now)  # type: ignore[attr-defined]
    drill.go()
    assert drill.reason is Reason.INCOMPLETE
    assert outcomes(drill) == {"changed": 116, "failed": 4}
    assert {entry.code for _, entry, outcome in drill.ledger.outcomes() if outcome == "failed"} == {
        "UnauthorizedOperation"
    }
    assert not notes(drill, "lane_closed")


@pytest.mark.parametrize(("down_s", "probe_s"), [(10.0, 0.0), (10.0, 5.0), (1000.0, 0.0), (1000.0, 5.0)])
def test_nobody_is_asked_again_for_what_it_was_denied(tmp_path: Path, down_s: float, probe_s: float) -> None:
    """One sub-account may not, the other cannot be reached for a while: the first asks once a call, and then waits.

    If the other never comes back, each call fails with what the API said, and nothing waits for ever.
    """

    class Away(InProcessTransport):
        async def send(self, endpoint: str, headers: Any, body: bytes, timeout_s: float) -> Any:
            if "AKIDa" in headers["Authorization"] and asyncio.get_running_loop().time() < 1000 + down_s:
                await asyncio.sleep(probe_s)
                return Fault(stage=Stage.BEFORE_SEND, code="Local.Connect", message="away")
            return await super().send(endpoint, headers, body, timeout_s)

    world = world_for("a")
    world.keys["AKIDb"] = KeyRecord(secret_key="secret of b", identity="b", denied=frozenset({"LockAccount"}))
    drill = Drill(tmp_path, world, fleet(2, 4), keyring={"": [keys("a"), keys("b")]}, access=Access(URLS[:1], {}))
    drill.transport = lambda inner: Away(world, now=inner._now)  # type: ignore[attr-defined]
    drill.go()
    asked = Counter((arrival.instance, arrival.user) for arrival in writes(world) if arrival.identity == "b")
    assert len(asked) == 8
    if down_s < 100:
        assert drill.reason is Reason.OK
        assert outcomes(drill) == {"changed": 8}
        assert set(asked.values()) == {1}
    else:
        assert outcomes(drill) == {"failed": 8}
        assert set(asked.values()) == {2}, "once more when the other is given up"


def test_when_the_last_lane_is_gone_the_run_stops(tmp_path: Path) -> None:
    """Two refused sub-accounts: exit 5, nothing was accepted, all is resumable, and a resume with good keys goes on."""
    world = world_for("a")
    drill = Drill(
        tmp_path, world, fleet(4, 5), keyring={"": [keys("gone"), keys("lost")]}, access=Access(URLS[:1], {})
    ).go()
    assert drill.reason is Reason.DENIED
    assert outcomes(drill) == {"unattempted": 20}
    drill.keyring = {"": [keys("a")]}
    drill.go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 20}


def test_a_lane_that_is_lost_in_mid_run_loses_no_call(tmp_path: Path) -> None:
    """A key deleted with calls in flight and others written ahead: all of them go elsewhere, and each is done once."""
    world = world_for("a", "b", latency=1.0)

    async def delete_key(_runner: Any) -> None:
        await asyncio.sleep(4)
        del world._gate.keys["AKIDb"]

    drill = Drill(
        tmp_path,
        world,
        fleet(40, 10),
        keyring={"": [keys("a"), keys("b")]},
        access=Access(URLS[:2], {}),
        during=delete_key,
    ).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 400}
    applied = Counter((arrival.instance, arrival.user) for arrival in writes(world) if arrival.applied)
    assert set(applied.values()) == {1}
    assert {arrival.identity for arrival in writes(world)} == {"a", "b", ""}
    assert {note["code"] for note in notes(drill, "lane_closed")} == {"AuthFailure.SecretIdNotFound"}


@pytest.mark.parametrize("down_s", [1.0, 100.0])
def test_dns_that_fails_and_recovers_in_mid_run_fails_no_call(tmp_path: Path, down_s: float) -> None:
    """The only access point, with calls in flight and readings due: the run waits, each call is applied once."""
    world = world_for("a", latency=1.0)
    host = URLS[0].removeprefix("http://")
    down: dict[str, str] = {}

    async def lose_dns(_runner: Any) -> None:
        await asyncio.sleep(4)
        down[host] = "Local.Dns"
        await asyncio.sleep(down_s)
        del down[host]

    drill = Drill(
        tmp_path,
        world,
        fleet(40, 10),
        keyring={"": [keys("a")]},
        access=Access(URLS[:1], {}),
        unreachable=down,
        during=lose_dns,
    )
    drill.go()
    unsent = [line for line in read(drill.path) if isinstance(line, records.ReplyLine) and line.code is not None]
    # What waited too long for its slot is given back, and its account read again, before it is sent.
    assert {"Local.Dns"} <= {line.code for line in unsent} <= {"Local.Dns", "Local.NotSent"}
    assert {line.sent_at for line in unsent} == {None}
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 400}
    assert set(Counter((each.instance, each.user) for each in writes(world) if each.applied).values()) == {1}
    assert len(writes(world)) == 400
    assert not notes(drill, "lane_closed") and not notes(drill, "stopping")
    assert 20 + down_s < drill.seconds < 20 + down_s + 15


# ---- accounts ------------------------------------------------------------------------------------------------------


def accounts(*names: str) -> list[Target]:
    return [
        Target(f"postgres-{name}{number:06d}", f"user{user}", "ap-singapore", name)
        for name in names
        for number in range(10)
        for user in range(6)
    ]


def of_accounts(tmp_path: Path, world: World, *names: str, **more: Any) -> Drill:
    """A run over accounts that sign for themselves, through one access point unless said otherwise."""
    how = {"keyring": {name: [keys(name)] for name in names}, "access": Access(URLS[:1], {})} | more
    return Drill(tmp_path, world, how.pop("targets", None) or accounts(*names), **how)


def test_each_account_signs_for_its_own_and_has_its_own_quota(tmp_path: Path) -> None:
    """Three accounts: no key ever signs for another's instance, and the three quotas add up."""
    world = world_for("a", "b", "c")
    drill = of_accounts(tmp_path, world, "a", "b", "c").go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 180}
    for arrival in world.audit:
        assert arrival.instance.startswith(f"postgres-{arrival.identity}")
    assert drill.seconds < 6


def test_one_account_whose_keys_are_refused_fails_its_own_calls_only(tmp_path: Path) -> None:
    """The others are done to the end; its calls are unattempted and resumable, and the run says why."""
    world = world_for("a", "c")
    keyring = {name: [keys(name)] for name in "abc"}
    told: list[str] = []

    async def listen(runner: Any) -> None:
        runner.tell = told.append

    drill = Drill(
        tmp_path, world, accounts("a", "b", "c"), keyring=keyring, access=Access(URLS[:1], {}), during=listen
    ).go()
    assert drill.reason is Reason.STOPPED
    by_account = outcomes_by_account(drill)
    assert by_account == {("a", "changed"): 60, ("b", "unattempted"): 60, ("c", "changed"): 60}
    assert drill.ledger.end is not None
    assert drill.ledger.end.stopped is not None
    assert drill.ledger.end.stopped.code == "AuthFailure.SecretIdNotFound"
    (closed,) = notes(drill, "route_closed")
    assert closed["account"] == "b"
    assert any(line.startswith("b: ") for line in told)
    world._gate.keys["AKIDb"] = KeyRecord(secret_key="secret of b", identity="b")
    assert drill.go().reason is Reason.OK
    assert outcomes(drill) == {"changed": 180}


def test_one_account_without_the_permission_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    """It may read and not write: after the first twenty that all fail alike nothing more of it is sent."""
    denied = {"action": "LockAccount", "instance": "postgres-b*", "code": "UnauthorizedOperation"}
    world = world_for("a", "b", faults=[denied])
    drill = of_accounts(tmp_path, world, "a", "b").go()
    assert drill.reason is Reason.STOPPED
    by_account = outcomes_by_account(drill)
    assert by_account["a", "changed"] == 60
    assert 20 <= by_account["b", "failed"] < 40
    assert by_account["b", "failed"] + by_account["b", "unattempted"] == 60
    instance = world.instance("postgres-b000000")
    assert instance is not None
    assert {account.status for account in instance.accounts.values()} == {NORMAL}


def test_a_limit_of_the_main_account_slows_its_own_lanes_only(tmp_path: Path) -> None:
    """UinLimitExceeded: all lanes of account a slow down, those of b do not."""
    limited = {
        "action": "LockAccount",
        "instance": "postgres-a*",
        "code": "RequestLimitExceeded.UinLimitExceeded",
        "times": 1,
    }
    world = world_for("a", "b", faults=[limited])
    drill = of_accounts(tmp_path, world, "a", "b", access=Access(URLS[:2], {})).go()
    assert drill.reason is Reason.OK
    slowed = {note["lane"] for note in notes(drill, "lane_slowed")}
    assert {lane.partition("/")[0] for lane in slowed} == {"a"}
    assert len(slowed) == 2


def test_a_limit_of_our_address_slows_every_lane(tmp_path: Path) -> None:
    """IPLimitExceeded is about where the calls come from, whoever signs them."""
    limited = {"action": "LockAccount", "code": "RequestLimitExceeded.IPLimitExceeded", "times": 1}
    world = world_for("a", "b", faults=[limited])
    drill = of_accounts(tmp_path, world, "a", "b", access=Access(URLS[:2], {})).go()
    assert drill.reason is Reason.OK
    assert len({note["lane"] for note in notes(drill, "lane_slowed")}) == 4


def test_an_account_given_up_while_its_calls_are_tried_again_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Its last lane closes with a retry written ahead and not sent: the run ends when the other account is done."""
    throttled = {"action": "LockAccount", "instance": "postgres-b*", "code": "RequestLimitExceeded"}
    world = world_for("a", "b", faults=[throttled], latency=0.3)

    async def delete_key(_runner: Any) -> None:
        await asyncio.sleep(2)
        del world._gate.keys["AKIDb"]

    drill = of_accounts(tmp_path, world, "a", "b", during=delete_key).go()
    assert drill.reason is Reason.STOPPED
    assert drill.ledger.end is not None
    assert drill.ledger.end.stopped is not None
    assert drill.ledger.end.stopped.code == "AuthFailure.SecretIdNotFound"
    assert drill.seconds < 60
    assert outcomes(drill) == {"changed": 60, "unattempted": 60}


def test_passwords_of_an_account_given_up_are_not_counted_against_the_others(tmp_path: Path) -> None:
    """Passwords are asked for some calls ahead; those of calls that will never be sent hold up nobody else's."""
    world = world_for("a")
    for target in accounts("a", "b"):
        world.seed(target.instance, target.region, [target.user], cam=True)

    async def secret(_call: Any) -> str:
        await asyncio.sleep(1)
        return "Passw0rd!x"

    drill = of_accounts(
        tmp_path,
        world,
        "b",
        "a",
        action="CloseAccountCAM",
        secret=secret,
        seeded=False,
        settings=run_settings(verify=False),
    ).go()
    by_account = outcomes_by_account(drill)
    assert by_account == {("a", "changed"): 60, ("b", "unattempted"): 60}
    assert drill.seconds < 20


def test_what_an_account_was_given_before_it_was_lost_does_not_keep_the_run_from_ending(tmp_path: Path) -> None:
    """Calls accepted and not read back when its key is deleted end as unknown; nobody waits for their instances."""
    world = world_for("a", "b", latency=0.3)

    async def delete_key(_runner: Any) -> None:
        await asyncio.sleep(1.5)
        del world._gate.keys["AKIDb"]

    drill = of_accounts(tmp_path, world, "a", "b", during=delete_key).go()
    assert drill.reason is Reason.STOPPED
    assert drill.ledger.end is not None
    assert drill.ledger.end.stopped is not None
    assert drill.ledger.end.stopped.code == "AuthFailure.SecretIdNotFound"
    by_account = outcomes_by_account(drill)
    assert by_account["a", "changed"] == 60
    assert by_account["b", "unknown"] > 0
    assert by_account["b", "unattempted"] > 0


# ---- keys that come to their end, and keys that are not there --------------------------------------------------------


BEGIN = 1_790_000_000.0
"""UNIX time at which a drill begins."""


@pytest.mark.parametrize("endpoints", [URLS[:1], URLS[:3]])
def test_keys_of_one_account_that_end_cost_the_others_nothing_and_what_they_did_is_proven(
    tmp_path: Path, endpoints: tuple[str, ...]
) -> None:
    """Its last accepted calls are read back while the keys still serve; the rest is unattempted, nothing unknown."""
    world = world_for("a", "b", latency=0.3)
    ending, told = keys("b"), list[str]()
    ending.expires_at = BEGIN + 9.0  # no call is begun in the last sixth of it

    async def during(runner: Any) -> None:
        runner.tell = told.append
        asyncio.get_running_loop().call_later(9.0, world._gate.keys.pop, "AKIDb")

    targets = [*accounts("a", "b"), *(Target(f"postgres-b9{n:05d}", "app", "ap-singapore", "b") for n in range(500))]
    drill = Drill(
        tmp_path,
        world,
        targets,
        keyring={"a": [keys("a")], "b": [ending]},
        access=Access(endpoints, {}),
        during=during,
    ).go()
    by_account = outcomes_by_account(drill)
    assert by_account["a", "changed"] == 60
    assert by_account["b", "changed"] > 50
    assert by_account["b", "changed"] + by_account["b", "unattempted"] == 560
    assert not any(arrival.code for arrival in world.audit), "nothing was ever sent with keys that had ended"
    assert drill.reason is Reason.STOPPED
    assert drill.ledger.end is not None
    assert drill.ledger.end.stopped is not None
    assert "have come to their end" in drill.ledger.end.stopped.why
    assert [line for line in told if line.startswith("b: ") and "come to their end" in line]
    assert [note["account"] for note in notes(drill, "route_closed")] == ["b"]


def test_keys_of_one_of_two_sub_accounts_that_end_leave_all_to_the_other(tmp_path: Path) -> None:
    """Nothing is lost: the run ends complete on the lane that is left."""
    world = world_for("a", "b")
    ending = keys("b")
    ending.expires_at = BEGIN + 6.0
    drill = Drill(tmp_path, world, fleet(40, 6), keyring={"": [keys("a"), ending]}, access=Access(URLS[:1], {})).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 240}
    (closed,) = notes(drill, "lane_closed")
    assert closed["lane"].startswith("b/")
    late = [arrival for arrival in writes(world) if arrival.identity == "b" and arrival.at > writes(world)[0].at + 6]
    assert not late


def test_an_account_without_keys_is_asked_nothing_and_costs_the_others_nothing(tmp_path: Path) -> None:
    """No call, no reading, no password in its name; with keys again a resume ends it."""
    world = world_for("a")
    for target in accounts("a", "b"):
        world.seed(target.instance, target.region, [target.user], cam=True)
    asked = Counter[str]()

    async def secret(call: Any) -> str:
        asked[call.account] += 1
        return "Passw0rd!x"

    drill = Drill(
        tmp_path,
        world,
        accounts("a", "b"),
        action="CloseAccountCAM",
        keyring={"a": [keys("a")], "b": [NoKeys("profile b", "profile b: no file b.credential")]},  # type: ignore[list-item]
        access=Access(URLS[:1], {}),
        secret=secret,
        seeded=False,
    ).go()
    assert drill.reason is Reason.STOPPED
    by_account = outcomes_by_account(drill)
    assert by_account == {("a", "changed"): 60, ("b", "unattempted"): 60}
    assert asked == {"a": 60}
    assert not [arrival for arrival in world.audit if arrival.identity != "a"]
    assert drill.ledger.end is not None
    assert drill.ledger.end.stopped is not None
    assert drill.ledger.end.stopped.code == "Local.NoKeys"
    assert drill.ledger.end.stopped.why == "profile b: no file b.credential"
    world._gate.keys["AKIDb"] = KeyRecord(secret_key="secret of b", identity="b")
    drill.keyring = {name: [keys(name)] for name in "ab"}
    assert drill.go().reason is Reason.OK
    assert outcomes(drill) == {"changed": 120}


LOST = {
    "none": NoKeys("profile b", "profile b: no file b.credential"),
    "refused": keys("b"),
    "refused, and not to be refreshed": keys("b", refreshable=True),
}
"""Keys of a sub-account that can read nothing."""


class Breaking(InProcessTransport):
    """The first connections of one key are refused."""

    left = 3

    async def send(self, endpoint: str, headers: Any, body: bytes, timeout_s: float) -> Any:
        if self.left and "AKIDa/" in headers["Authorization"]:
            self.left -= 1
            return Fault(stage=Stage.BEFORE_SEND, code="Local.Connect", message="connection refused")
        return await super().send(endpoint, headers, body, timeout_s)


@pytest.mark.parametrize("lost", LOST)
def test_a_sub_account_that_is_lost_ends_nothing_when_the_other_fails_in_passing(tmp_path: Path, lost: str) -> None:
    """A broken connection or two: what keys that are no good say of a reading is not said of the account."""
    world = world_for("a")
    drill = Drill(
        tmp_path,
        world,
        fleet(10, 4),
        keyring={"": [keys("a"), LOST[lost]]},  # type: ignore[list-item]
        access=Access(URLS[:1], {}),
        transport=lambda inner: Breaking(world, now=inner._now),  # type: ignore[attr-defined]
    ).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 40}


@pytest.mark.parametrize("lost", LOST)
def test_a_sub_account_that_is_lost_leaves_reading_to_the_other(tmp_path: Path, lost: str) -> None:
    """The first one named: no account is given up for it, whether its keys might have been refreshed or not."""
    drill = Drill(
        tmp_path,
        world_for("a"),
        fleet(10, 4),
        keyring={"": [LOST[lost], keys("a")]},  # type: ignore[list-item]
        access=Access(URLS[:1], {}),
    ).go()
    assert drill.reason is Reason.OK
    assert outcomes(drill) == {"changed": 40}


def test_passwords_that_one_account_waits_for_keep_no_other_waiting(tmp_path: Path) -> None:
    """Each account has its own allowance of passwords asked for ahead: one that is throttled uses up only its own."""
    throttled = {"action": "CloseAccountCAM", "instance": "postgres-b*", "code": "RequestLimitExceeded"}
    world = world_for("a", "b", faults=[throttled])
    targets = [Target(f"postgres-{name}{n:06d}", "app", "ap-singapore", name) for n in range(200) for name in "ba"]
    for target in targets:
        world.seed(target.instance, target.region, [target.user], cam=True)

    async def secret(_call: Any) -> str:
        await asyncio.sleep(0.2)
        return "Passw0rd!x"

    drill = Drill(
        tmp_path,
        world,
        targets,
        action="CloseAccountCAM",
        keyring={name: [keys(name)] for name in "ab"},
        access=Access(URLS[:1], {}),
        secret=secret,
        seeded=False,
        deadline_s=20.0,
    ).go()
    by_account = outcomes_by_account(drill)
    assert by_account["a", "changed"] == 200


def test_a_resume_that_is_refused_after_accepted_calls_is_no_denial(tmp_path: Path) -> None:
    """Exit 5 says that nothing was accepted; calls that an earlier session had accepted say otherwise."""

    async def leave(runner: Any) -> None:
        await asyncio.sleep(12.0)  # readings are tried for eight
        runner.stop("enough", Reason.INTERRUPTED)

    # The account cannot be read, so nothing that is accepted is settled in the first session.
    unread = {"action": "DescribeAccounts", "code": "InternalError"}
    world = world_for("a", faults=[unread], latency=0.1)
    drill = Drill(
        tmp_path, world, fleet(30, 4), keyring={"": [keys("a")]}, access=Access(URLS[:1], {}), during=leave
    ).go()
    assert drill.reason is Reason.INTERRUPTED
    assert not drill.ledger.settled_counts()["changed"]  # type: ignore[index]
    assert drill.ledger.has_accepted()
    del world._gate.keys["AKIDa"]
    drill.during = None
    assert drill.go().reason is Reason.STOPPED
