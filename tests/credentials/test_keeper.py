"""`credentials.keeper`: keys that end are renewed beside the sending. In memory and virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from engine.credentials import Ways, find_keys
from engine.credentials.keeper import keep_fresh
from engine.errors import CredentialsError, Reason
from engine.journal import records
from engine.journal.reader import read, replay
from engine.model import Keys, Verdict
from engine.run.runner import Runner
from engine.simulator.sts import KeyRecord, Role
from tests.support.cloud import ENVIRONMENT, Cloud
from tests.support.drill import Drill, FixedKeys, fleet
from tests.support.virtual import VirtualLoop

LIFE_S = 20


def lines(drill: Drill, kind: type) -> list[Any]:
    """Records of a kind, as a reader of the journal sees them."""
    return [line for line in read(drill.path) if isinstance(line, kind)]


@dataclass
class Kept:
    """A source, and what its keeper did over time."""

    loop: VirtualLoop = field(default_factory=VirtualLoop)
    life_s: float | None = 100.0
    fails: tuple[int, ...] = ()
    takes_s: float = 0.1
    refreshable: bool = True
    label: str = "test source"
    identity: str = "test"
    asked: list[float] = field(default_factory=list)
    notes: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    stopped: list[tuple[float, str]] = field(default_factory=list)
    expires_at: float | None = None
    number: int = 0

    def __post_init__(self) -> None:
        self.clock = self.loop.wall(0.0)
        self.expires_at = self.life_s

    def get(self) -> Keys:
        return Keys(secret_id=f"AKID{self.number:04}", secret_key="k")

    async def refresh(self) -> bool:
        self.asked.append(round(self.clock(), 1))
        await asyncio.sleep(self.takes_s)
        if len(self.asked) in self.fails:
            raise CredentialsError("STS is away")
        self.number += 1
        assert self.life_s is not None
        self.expires_at = self.clock() + self.life_s
        return True

    def keep(self, seconds: float) -> Kept:
        async def work() -> None:
            keeping = asyncio.ensure_future(
                keep_fresh(
                    self,
                    clock=self.clock,
                    note=lambda what, data: self.notes.append((what, data)),
                    stop=lambda why: self.stopped.append((round(self.clock(), 1), why)),
                    tell=self.told.append,
                )
            )
            await asyncio.sleep(seconds)
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(work())
        return self


def test_keys_are_refreshed_when_a_third_of_their_life_is_left() -> None:
    """Of keys that live for hours ten minutes before: time enough for several tries."""
    kept = Kept(life_s=90).keep(200)
    assert kept.asked == [60.0, 120.1, 180.2]
    assert [what for what, _ in kept.notes] == ["keys_refreshed"] * 3
    assert kept.notes[0][1] == {"key": "…0001"}
    assert Kept(life_s=7200).keep(7000).asked == [6600.0]
    assert not kept.stopped
    assert not kept.told


def test_a_failed_refresh_keeps_the_old_keys_while_they_last_and_says_so_once() -> None:
    """It is tried again, more often toward the end, and goes on as if nothing had been once it succeeds."""
    kept = Kept(life_s=90, fails=(1, 2, 3)).keep(100)
    assert len(kept.asked) == 4
    assert kept.asked == sorted(kept.asked)
    assert [what for what, _ in kept.notes] == ["keys_not_refreshed", "keys_refreshed"]
    assert kept.notes[0][1] == {"why": "STS is away", "left_s": 30}
    assert kept.told == ["keys not refreshed, 30 s left: STS is away"]
    assert not kept.stopped


def test_keys_that_end_all_the_same_stop_the_run() -> None:
    """Just before: what is sent with keys that have ended would only be refused."""
    kept = Kept(life_s=90, fails=tuple(range(1, 100))).keep(200)
    ((at, why),) = kept.stopped
    assert 78.0 <= at <= 79.0, "twelve seconds to read back what was sent"
    assert why == "the keys of test source have come to their end (STS is away); get new ones, then go on"
    assert len(kept.asked) < 30
    assert len(kept.told) == 1


def test_a_source_that_hangs_does_not_outlast_the_keys() -> None:
    """The question may go on; the run does not wait for it."""
    kept = Kept(life_s=90, takes_s=10_000).keep(200)
    ((at, why),) = kept.stopped
    assert at <= 79
    assert "test source: no answer in time" in why


def test_keys_that_cannot_be_renewed_are_used_to_their_end() -> None:
    """And not a moment longer; nobody is asked."""
    kept = Kept(life_s=90, refreshable=False).keep(200)
    assert [at for at, _ in kept.stopped] == [78.0]
    assert not kept.asked


def test_keys_without_an_end_are_left_alone() -> None:
    """Until their file says otherwise."""
    kept = Kept(life_s=None).keep(10_000)
    assert not kept.asked
    assert not kept.stopped


# ---- a whole run ---------------------------------------------------------------------------------------------------


def role_drill(tmp_path: Path, cloud: Cloud, instances: int, users: int) -> Drill:
    """A run over a role's keys, with its keeper as a session has it."""
    (role,) = cloud.roles
    environ = {"HOME": str(tmp_path), **ENVIRONMENT}
    source, _ = cloud.run(
        lambda: find_keys(None, environ, ways=Ways(role_arn=role.arn), network=cloud.network, purpose="RUN")
    )
    cloud.world.audit.clear()

    def transport(inner: Any) -> Any:
        cloud.loop = asyncio.get_running_loop()  # type: ignore[assignment]
        return inner

    return Drill(tmp_path, cloud.world, fleet(instances, users), keys=source, transport=transport)  # type: ignore[arg-type]


def test_thousands_of_calls_over_keys_that_live_twenty_seconds(tmp_path: Path) -> None:
    """No failure, no pause, at most one refresh in flight: every call is accepted at its first attempt."""
    cloud = Cloud(roles=(Role(name="acctops", longest_s=LIFE_S),))
    drill = role_drill(tmp_path, cloud, 200, 20).go()
    assert drill.reason is Reason.OK
    assert set(drill.outcomes().values()) == {"changed"}
    assert len(drill.outcomes()) == 4000
    assert {reply.verdict for reply in lines(drill, records.ReplyLine)} == {Verdict.DONE}
    assert all(arrival.code is None for arrival in cloud.world.audit), "not one read or write was refused"
    writes = [arrival.at for arrival in cloud.world.audit if arrival.action == "LockAccount"]
    gaps = [later - earlier for earlier, later in pairwise(writes)]
    assert max(gaps) < 0.15, "three slots of twenty a second"
    renewed = [note for note in lines(drill, records.Note) if note.what == "keys_refreshed"]
    assert len(renewed) == len(cloud.asked("AssumeRole")) >= drill.seconds / LIFE_S
    assert cloud.most_under_way == 1
    assert len({sent.key for sent in lines(drill, records.Sent)}) == len(renewed) + 1


def test_sts_that_is_away_for_a_while_costs_nothing(tmp_path: Path) -> None:
    """Of five questions two fail: the keys at hand last until one succeeds."""
    fault = {"action": "AssumeRole", "after": 1, "probability": 0.4, "code": "UnauthorizedOperation"}
    cloud = Cloud(roles=(Role(name="acctops", longest_s=LIFE_S),), faults=(fault,))
    drill = role_drill(tmp_path, cloud, 100, 15).go()
    assert drill.reason is Reason.OK
    assert {reply.verdict for reply in lines(drill, records.ReplyLine)} == {Verdict.DONE}
    notes = {note.what for note in lines(drill, records.Note)}
    assert notes == {"keys_refreshed", "keys_not_refreshed"}


def test_a_role_that_is_withdrawn_ends_the_run_in_order(tmp_path: Path) -> None:
    """Keys run out, nothing is sent without them, what is left can be resumed, and exit is 4 as some was accepted."""
    role = Role(name="acctops", longest_s=LIFE_S)
    cloud = Cloud(roles=(role,))
    drill = role_drill(tmp_path, cloud, 100, 15)
    role.trusted = frozenset()
    drill.go()
    assert drill.reason is Reason.STOPPED
    assert drill.ledger.end is not None
    assert drill.ledger.end.stopped is not None
    assert "have come to their end" in drill.ledger.end.stopped.why
    assert "may not assume this role" in drill.ledger.end.stopped.why
    assert set(drill.outcomes().values()) == {"changed", "unattempted"}
    assert all(arrival.code is None for arrival in cloud.world.audit if arrival.action != "AssumeRole")


def test_keys_refused_in_flight_are_asked_for_once(tmp_path: Path) -> None:
    """A revoked session: all calls in flight hear it at once; one question, one note, and each call goes on."""
    cloud = Cloud(roles=(Role(name="acctops"),))
    drill = role_drill(tmp_path, cloud, 40, 10)

    async def revoke(_runner: Runner) -> None:
        await asyncio.sleep(5)
        for secret_id in [each for each in cloud.world.keys if each.startswith("AKIDtmp")]:
            del cloud.world.keys[secret_id]

    drill.during = revoke
    drill.go()
    assert drill.reason is Reason.OK
    assert len(cloud.asked("AssumeRole")) == 1
    assert [note.what for note in lines(drill, records.Note)] == ["keys_refreshed"]


@pytest.mark.parametrize("accepted", [False, True])
def test_keys_of_the_environment_cannot_be_renewed(tmp_path: Path, accepted: bool) -> None:
    """On their end the run stops in order: 5 if nothing was accepted, else 4; all that is left is resumable."""
    keys = FixedKeys()
    expires = 1_790_000_000.0 + (5 if accepted else -5)
    record = KeyRecord(secret_key=keys.keys.secret_key, identity="x", expires_at=expires)
    cloud = Cloud(keys={keys.keys.secret_id: record}, latency=0.0)
    drill = Drill(tmp_path, cloud.world, fleet(20, 20), keys=keys).go()
    assert drill.reason is (Reason.STOPPED if accepted else Reason.DENIED)
    counts = drill.ledger.counts()
    assert drill.ledger.end is not None
    assert drill.ledger.end.stopped is not None
    assert drill.ledger.end.stopped.code == "AuthFailure.TokenFailure"
    assert sum(counts.values()) == 400
    assert not counts["failed"]  # type: ignore[index]
    assert replay(drill.path).torn_bytes == 0


def test_a_source_that_fails_when_its_keys_are_refused_says_so_once(tmp_path: Path) -> None:
    """Revoked, and the role withdrawn: why no others could be had is the reason the run gives, and one note."""
    role = Role(name="acctops")
    cloud = Cloud(roles=(role,))
    drill = role_drill(tmp_path, cloud, 40, 10)

    async def revoke(_runner: Runner) -> None:
        await asyncio.sleep(5)
        role.trusted = frozenset()
        for secret_id in [each for each in cloud.world.keys if each.startswith("AKIDtmp")]:
            del cloud.world.keys[secret_id]
        await asyncio.sleep(1000)

    drill.during = revoke
    drill.go()
    assert drill.reason is Reason.STOPPED
    assert drill.ledger.end is not None
    assert drill.ledger.end.stopped is not None
    assert "may not assume this role" in drill.ledger.end.stopped.why
    assert drill.ledger.end.stopped.code == "AuthFailure.SecretIdNotFound"
    notes = [note for note in lines(drill, records.Note) if note.what == "keys_not_refreshed"]
    assert len(notes) == len(cloud.asked("AssumeRole")) <= 2, "asked once, and not by every call that was in flight"
    drill.during = None
    role.trusted = None
    assert cloud.run(drill.keys.refresh)
    assert drill.go().reason is Reason.OK, "with the role given back a resume finishes it"
