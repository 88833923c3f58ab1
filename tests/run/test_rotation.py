"""New passwords set for accounts: what proves one, and when a call whose answer is lost is sent again."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Reason
from engine.model import Call, Fault, Outcome, Reply, Transport
from engine.run.decide import MAYBE_OTHERS, NOT_AGAIN
from engine.simulator.faults import rules_from
from engine.simulator.world import World
from tests.support.drill import Drill, fleet, run_settings

RESET = "ResetAccountPassword"
STORED: dict[str, Any] = {"command": ["/bin/give", "{user}"], "stored": True}
PLAIN: dict[str, Any] = {"command": ["/bin/give", "{user}"]}
WHERE, USER = "postgres-00000000", "user0"


def world(*faults: dict[str, Any]) -> World:
    return World(faults=rules_from(list(faults)), latency=0.1)


class Rotation:
    """A run that sets new passwords, each of which is another one whenever its source is asked."""

    def __init__(self, tmp: Path, it: World, *, passwords: dict[str, Any], users: int = 1, **more: Any) -> None:
        self.world, self.asked, number = it, Counter[str](), count(1)

        async def ask(call: Call) -> str:
            self.asked[call.user] += 1
            return f"Pass-{next(number)}-9xyz"

        settings = run_settings(passwords=passwords, rate=100.0, **more)
        self.drill = Drill(tmp, it, fleet(1, users), action=RESET, secret=ask, settings=settings)

    def go(self) -> Rotation:
        self.drill.go()
        return self

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for _, _, outcome in self.drill.ledger.outcomes()]

    @property
    def said(self) -> list[tuple[str | None, str | None]]:
        return [(entry.code, entry.message) for _, entry, _ in self.drill.ledger.outcomes()]

    @property
    def sends(self) -> int:
        return sum(record.action == RESET for record in self.world.audit)

    @property
    def account(self) -> Any:
        return self.world.account(WHERE, USER)


def test_new_passwords_are_set_and_proven_by_their_time(tmp_path: Path) -> None:
    """Also of locked accounts; no byte of a password is on disk; a resume sets none a second time."""
    it = world()
    run = Rotation(tmp_path, it, passwords=PLAIN, users=5)
    it.seed(WHERE, "ap-singapore", [f"user{number}" for number in range(5)], status=5)
    run.go()
    assert (run.drill.reason, set(run.outcomes), run.sends) == (Reason.OK, {Outcome.CHANGED}, 5)
    assert b"Pass-" not in run.drill.path.read_bytes()
    run.go()
    assert (run.drill.reason, run.sends, set(run.asked.values())) == (Reason.OK, 5, {1})


def test_an_account_with_cam_on_is_not_sent(tmp_path: Path) -> None:
    """The API would refuse it, and its advice is told before; the others go on."""
    it = world()
    run = Rotation(tmp_path, it, passwords=PLAIN, users=2)
    run.drill.seeded = False
    it.seed(WHERE, "ap-singapore", ["user0"], cam=True)
    it.seed(WHERE, "ap-singapore", ["user1"])
    run.go()
    assert run.drill.outcomes() == {f"{WHERE}/user0": "failed", f"{WHERE}/user1": "changed"}
    assert (run.said[0][0], run.sends, run.asked["user0"]) == ("Local.CamOn", 1, 0)


@pytest.mark.parametrize("passwords", [PLAIN, STORED])
def test_a_lost_answer_is_settled_by_the_time_of_the_password(tmp_path: Path, passwords: dict[str, Any]) -> None:
    """It proves a change and not whose, and the journal says so; nothing is sent again."""
    run = Rotation(tmp_path, world({"action": RESET, "reset_after": True, "times": 1}), passwords=passwords).go()
    assert (run.drill.reason, run.outcomes, run.sends) == (Reason.OK, [Outcome.CHANGED], 1)
    assert run.said == [(None, MAYBE_OTHERS)]


@pytest.mark.parametrize(
    ("passwords", "outcome", "sends"),
    [(PLAIN, Outcome.FAILED, 1), (STORED, Outcome.CHANGED, 2)],
    ids=["plain", "store"],
)
def test_only_a_store_lets_a_doubt_be_sent_again(
    tmp_path: Path, passwords: dict[str, Any], outcome: Outcome, sends: int
) -> None:
    """The answer is lost and the password unchanged. A store has what is sent; else nobody may have it."""
    run = Rotation(tmp_path, world({"action": RESET, "reset_before": True, "times": 1}), passwords=passwords).go()
    assert (run.outcomes, run.sends) == ([outcome], sends)
    if outcome is Outcome.FAILED:
        assert run.said[0][1] == NOT_AGAIN


@pytest.mark.parametrize(
    ("passwords", "outcome", "sends"),
    [(PLAIN, Outcome.FAILED, 1), (STORED, Outcome.CHANGED, 2)],
    ids=["plain", "store"],
)
def test_a_change_that_was_accepted_and_never_shows(
    tmp_path: Path, passwords: dict[str, Any], outcome: Outcome, sends: int
) -> None:
    """Sent again only with the value of a store; else failed, in words."""
    run = Rotation(
        tmp_path, world({"action": RESET, "accepted_not_applied": True, "times": 1}), passwords=passwords
    ).go()
    assert (run.outcomes, run.sends) == ([outcome], sends)
    if outcome is Outcome.FAILED:
        assert run.said[0][0] == "Local.NotApplied"


def test_a_resume_sends_nothing_again_that_may_have_been_applied(tmp_path: Path) -> None:
    """An error that does not say, then the end: the next session reads, and its fresh password is never sent."""
    it = world({"action": RESET, "code": "InternalError", "times": 1})
    run = Rotation(tmp_path, it, passwords=PLAIN)
    run.drill.deadline_s = 0.3
    run.go()
    assert (run.drill.reason, run.sends) == (Reason.STOPPED, 1)
    run.drill.deadline_s = 3600.0
    run.go()
    assert (run.outcomes, run.sends, run.account.passwords_set) == ([Outcome.FAILED], 1, 0)


def test_an_account_whose_past_is_not_known_is_not_sent(tmp_path: Path) -> None:
    """Nothing could prove its change. `--no-verify` sends it, and says that it was only accepted."""
    denied = {"action": "DescribeAccounts", "code": "UnauthorizedOperation"}
    run = Rotation(tmp_path / "a", world(denied), passwords=STORED).go()
    assert (run.outcomes, run.sends, run.said[0][0]) == ([Outcome.FAILED], 0, "Local.Unread")
    assert "--no-verify" in (run.said[0][1] or "")
    blind = Rotation(tmp_path / "b", world(denied), passwords=STORED, verify=False).go()
    assert (blind.outcomes, blind.sends) == ([Outcome.CHANGED], 1)


def test_somebody_elses_change_is_not_taken_for_ours(tmp_path: Path) -> None:
    """A call that the API refuses fails, though the password is a newer one: it is not the one that was asked for."""
    it = world({"action": RESET, "code": "FailedOperation.PreCheckError"})
    run = Rotation(tmp_path, it, passwords=STORED).go()
    assert (run.outcomes, run.said[0][0]) == ([Outcome.FAILED], "FailedOperation.PreCheckError")


FAULTS = (
    {"reset_after": True},
    {"reset_before": True},
    {"truncated": True},
    {"garbage": True},
    {"accepted_not_applied": True},
    {"code": "InternalError"},
    {"code": "InternalError", "apply": True},
    {"code": "RequestLimitExceeded"},
    {"code": "FailedOperation.DatabaseAccessError", "apply": True},
)


class Watched:
    """A wire that knows which password each account was sent, in order."""

    def __init__(self, inner: Transport, sent: dict[str, list[str]]) -> None:
        self._inner, self._sent = inner, sent

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        asked = json.loads(body)
        if "Password" in asked:
            self._sent.setdefault(asked["UserName"], []).append(asked["Password"])
        return await self._inner.send(endpoint, headers, body, timeout_s)

    async def get(self, url: str, timeout_s: float) -> Reply | Fault:
        return await self._inner.get(url, timeout_s)

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.parametrize("passwords", [PLAIN, STORED], ids=["plain", "store"])
@pytest.mark.parametrize("seed", range(12))
def test_no_password_that_was_set_is_replaced_by_another(tmp_path: Path, seed: int, passwords: dict[str, Any]) -> None:
    """Whatever is lost, and however often the run is cut off: a plain source sends one account one password once it
    may be set, and a store's accounts have what it has.
    """
    rng = random.Random(seed)
    it = world(*({"action": RESET, "probability": 0.12, **fault} for fault in rng.sample(FAULTS, 6)))
    run = Rotation(tmp_path, it, passwords=passwords, users=12)
    sent: dict[str, list[str]] = {}
    run.drill.transport = lambda inner: Watched(inner, sent)
    if passwords is STORED:

        async def ask(call: Call) -> str:
            return f"Pass-{call.user}-9xyz"

        run.drill.secret = ask
    for _ in range(4):
        run.drill.deadline_s = rng.choice([0.2, 0.5, 2.0])
        run.go()
        if run.drill.reason is Reason.OK:
            break
    run.drill.deadline_s = 3600.0
    run.go()
    for call, entry, outcome in run.drill.ledger.outcomes():
        account = it.account(call.instance, call.user)
        assert account is not None
        applied = [each.applied for each in it.audit if each.action == RESET and each.user == call.user]
        assert (account.passwords_set > 0) == (outcome is Outcome.CHANGED), (call.user, entry.code, entry.message)
        if passwords is STORED:
            # What an earlier session was told is accepted, and never was, is a rerun's to send again.
            assert outcome is Outcome.CHANGED or entry.code == "Local.NotApplied"
            assert account.password in (None, f"Pass-{call.user}-9xyz")
        elif True in applied:
            assert len(set(sent[call.user][applied.index(True) :])) == 1
