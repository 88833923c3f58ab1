"""Whole runs against servers whose answers are not to be trusted: what is called proven is so, whatever they send."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import pytest

from engine.simulator.fleet import fleet_from
from engine.simulator.world import World
from tests.support.astray import Exchange, Liar
from tests.support.command import Desk, Done

LOCKED = 5
REGION = "ap-singapore"
INSTANCES = tuple(f"postgres-0000000{letter}" for letter in "abc")
USERS = ("ann", "bob", "eve")
TARGETS = tuple(f"{instance}/{user}" for instance in INSTANCES for user in USERS)


def world() -> World:
    made = World(latency=0.0)
    for instance in INSTANCES:
        made.seed(instance, REGION, list(USERS))
    return made


def locked(there: World) -> set[str]:
    """The accounts that are locked in truth."""
    return {
        f"{instance}/{user}"
        for instance in INSTANCES
        for user in USERS
        if (account := there.account(instance, user)) is not None and account.status == LOCKED
    }


def proven(desk: Desk) -> set[str]:
    """The accounts that the latest journal calls changed."""
    lines = desk.journals()[-1]
    calls = {line["call"]: f"{line['instance']}/{line['user']}" for line in _kinds(lines, "call")}
    return {calls[line["call"]] for line in _kinds(lines, "settled") if line["outcome"] == "changed"}


def _kinds(journal: Path, kind: str) -> list[dict[str, Any]]:
    from tests.support.command import records

    return records(journal, kind)


def run(desk: Desk, liar: Liar, *argv: str, job: Path | None = None) -> Done:
    return desk.run("run", job or desk.job(*TARGETS), "--yes", "--endpoint", liar.endpoint, *argv)


@pytest.mark.parametrize("late_s", [0.0, 0.01])
def test_answers_that_are_sent_twice_prove_nothing_of_others(desk: Desk, late_s: float) -> None:
    """A proxy repeats each answer on its kept connection, and the server leaves one account out in silence.

    The operator would be told that all nine are locked, by the answers of other accounts and instances.
    """
    there = world()
    left_out = TARGETS[4]

    async def twice(exchange: Exchange) -> None:
        asked = exchange.parameters
        if f"{asked.get('DBInstanceId')}/{asked.get('UserName')}" == left_out:
            account = there.account(asked["DBInstanceId"], asked["UserName"])
            assert account is not None
            account.status = 2  # accepted, and not done
        await exchange.say()
        exchange.later(late_s)

    with Liar(there, twice) as liar:
        done = run(desk, liar, "--timeout", "3s", "--deadline", "20s")
    assert proven(desk) <= locked(there)
    assert left_out not in proven(desk)
    assert done.code != 0


def test_answers_that_are_sent_twice_cost_no_account(desk: Desk) -> None:
    """What the server has done is found out all the same."""

    async def twice(exchange: Exchange) -> None:
        await exchange.say()
        exchange.later(0.01)

    for _ in range(3):
        with Liar(world(), twice) as liar:
            done = run(desk, liar)
            assert done.code == 0, done.text
            assert locked(liar.world) == proven(desk) == set(TARGETS)


def test_rows_of_another_instance_prove_nothing(desk: Desk) -> None:
    """Every reading shows an instance whose accounts are all locked. Nothing is called locked by that."""

    async def astray(exchange: Exchange) -> None:
        if exchange.action != "DescribeAccounts":
            await exchange.say()
            return
        rows = [{"DBInstanceId": "postgres-0other00", "UserName": user, "Status": LOCKED} for user in USERS]
        said = exchange.response | {"Details": [] if exchange.parameters["Offset"] else rows, "TotalCount": 3}
        await exchange.say(said)

    with Liar(world(), astray) as liar:
        done = run(desk, liar, "--deadline", "5s", job=desk.job(*TARGETS, extra="retry: {transient: 2s}"))
    assert proven(desk) == set()
    assert done.code != 0
    assert "9 of 9" not in done.text


def fleet(count: int) -> World:
    accounts = [f"user_{number:04d}" for number in range(count)]
    return World(fleet=fleet_from({"instances": [{"id": INSTANCES[0], "region": REGION, "accounts": accounts}]}))


async def twenty_a_page(exchange: Exchange) -> None:
    """At most twenty rows a page, and TotalCount is their number."""
    said = exchange.response
    if exchange.action == "DescribeAccounts":
        said["Details"] = said["Details"][:20]
        said["TotalCount"] = len(said["Details"])
    await exchange.say(said)


def test_a_match_finds_what_is_behind_a_short_page(desk: Desk) -> None:
    """Sixty accounts, twenty a page: a lockdown of twenty would be called whole."""
    job = desk.write(
        "job.yaml",
        f"action: LockAccount\nlimits: {{max_targets: 100}}\ntargets:\n"
        f"  - match: {{regions: [{REGION}], users: {{glob: 'user_*'}}}}\n",
    )
    with Liar(fleet(60), twenty_a_page) as liar:
        done = run(desk, liar, job=job)
    assert done.code == 0, done.text
    assert len(proven(desk)) == 60


def test_a_list_finds_what_is_behind_a_short_page(desk: Desk) -> None:
    """Forty accounts that exist would be told "no such account", and not be locked."""
    targets = [f"{INSTANCES[0]}/user_{number:04d}" for number in range(60)]
    with Liar(fleet(60), twenty_a_page) as liar:
        done = run(desk, liar, job=desk.job(*targets))
    assert done.code == 0, done.text
    assert len(proven(desk)) == 60


def test_a_list_whose_pages_change_their_order_is_not_called_whole(desk: Desk) -> None:
    """A hundred of 150 are found, and fifty twice: "all locked" would leave fifty open, and nobody would look."""
    fleet_of = fleet(150)

    async def reordered(exchange: Exchange) -> None:
        offset = exchange.parameters.get("Offset", 0)
        said = exchange.response
        if exchange.action == "DescribeAccounts" and offset:
            users = [f"user_{number:04d}" for number in reversed(range(150))][offset : offset + 100]
            (row, *_) = said["Details"] or [{}]
            said["Details"] = [{**row, "UserName": user} for user in users if row]
            said["TotalCount"] = len(users)
        await exchange.say(said)

    job = desk.write(
        "job.yaml",
        f"action: LockAccount\nlimits: {{max_targets: 200}}\ntargets:\n"
        f"  - match: {{regions: [{REGION}], users: {{glob: 'user_*'}}}}\n",
    )
    with Liar(fleet_of, reordered) as liar:
        planned = desk.run("plan", job, "--endpoint", liar.endpoint, "--json")
        listed = desk.run(
            "plan",
            desk.job(*(f"{INSTANCES[0]}/user_{number:04d}" for number in range(150)), name="list.yaml"),
            *("--endpoint", liar.endpoint, "--json"),
        )
    assert "unseen" in [omit["reason"] for omit in planned.json["omits"]]
    assert '"no_account": 0' in listed.out
    assert '"unread": 50' in listed.out


@pytest.mark.parametrize("kind", ["drops the second request", "closes after each answer", "falls silent"])
def test_connections_that_the_server_gives_up_cost_no_account(desk: Desk, kind: str) -> None:
    """Every second request of a connection goes unanswered: none of the instances is sick, and none fails."""

    async def drop(exchange: Exchange) -> None:
        if exchange.number > 1:
            if kind == "falls silent":
                await asyncio.Event().wait()
            exchange.hang_up()
            return
        await exchange.say()
        if kind == "closes after each answer":
            exchange.hang_up()

    with Liar(world(), drop) as liar:
        done = run(desk, liar, "--timeout", "1s")
    assert done.code == 0, done.text
    assert proven(desk) == set(TARGETS)


def test_an_answer_without_bounds_is_a_doubt_like_any_other(desk: Desk) -> None:
    """Three hundred megabytes in three hundred kilobytes: the run would die of it, and not know what it has done."""
    flood = gzip.compress(b" " * 300_000_000)
    struck: set[str] = set()

    async def bomb(exchange: Exchange) -> None:
        user = exchange.parameters.get("UserName", "")
        if exchange.action == "LockAccount" and user not in struck:
            struck.add(user)
            await exchange.say(flood, head="Content-Encoding: gzip\r\n")
        else:
            await exchange.say()

    with Liar(world(), bomb) as liar:
        done = run(desk, liar)
    assert done.code == 0, done.text
    assert {line["code"] for line in _kinds(desk.journal(), "reply")} == {None, "Local.TooMuch"}
    assert proven(desk) == set(TARGETS)


@pytest.mark.parametrize(
    "date",
    ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "Mon, 01 Jan 0001 00:00:00 +2359", "x" * 4000, "\xff\xfe", "0"],
)
def test_a_date_that_is_none_breaks_no_run(desk: Desk, date: str) -> None:
    """It is the clock of a server that has none."""

    async def dated(exchange: Exchange) -> None:
        await exchange.say(head=f"Date: {date}\r\nRetry-After: {date}\r\n")

    with Liar(world(), dated) as liar:
        done = run(desk, liar)
    assert done.code == 0, done.text
    assert proven(desk) == set(TARGETS)


def test_a_message_that_ends_in_mid_character_keeps_its_code(desk: Desk) -> None:
    """A quota that is used up is refused at once, and not asked for again for two minutes as if nobody knew."""

    async def cut(exchange: Exchange) -> None:
        if exchange.action != "LockAccount":
            await exchange.say()
            return
        number = f"{exchange.parameters['DBInstanceId']}{exchange.parameters['UserName']}"
        head = b'{"Response":{"Error":{"Code":"LimitExceeded","Message":"quota \xe9\x85'
        await exchange.say(head + b'"},"RequestId":"r-%s"}}' % number.encode())

    with Liar(world(), cut) as liar:
        done = run(desk, liar)
    assert done.code == 1
    assert len(liar.writes()) == len(TARGETS)
    assert {line["code"] for line in _kinds(desk.journal(), "settled")} == {"LimitExceeded"}


def test_status_as_text_is_a_number(desk: Desk) -> None:
    """A locked account is locked however its 5 is written."""

    async def as_text(exchange: Exchange) -> None:
        said = exchange.response
        for row in said.get("Details", ()):
            row["Status"] = str(row["Status"])
        await exchange.say(said)

    with Liar(world(), as_text) as liar:
        done = run(desk, liar)
    assert done.code == 0, done.text
    assert (proven(desk), len(liar.writes())) == (set(TARGETS), len(TARGETS))


def test_the_tests_server_answers_as_the_simulator_does(desk: Desk) -> None:
    """Nothing of the above is its own doing."""

    async def honest(exchange: Exchange) -> None:
        await asyncio.sleep(0)
        await exchange.say()

    with Liar(world(), honest) as liar:
        done = run(desk, liar)
    assert done.code == 0, done.text
    assert (proven(desk), len(liar.writes())) == (set(TARGETS), len(TARGETS))
