"""Reading accounts: whole lists, shared readings, patience, records; over the simulator in virtual time."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from engine.cloud import inventory
from engine.cloud.client import Client
from engine.cloud.inventory import PLANNING_RATE, READ_BUDGET_S, SENDING_RATE, Inventory
from engine.journal import records
from engine.model import AccountState, Fault, Keys, Reading, Reply, Stage, Transport, Where
from engine.simulator.faults import rules_from
from engine.simulator.fleet import fleet_from
from engine.simulator.gate import KeyRecord
from engine.simulator.inprocess import InProcessTransport
from engine.simulator.world import World
from tests.support.drill import ENDPOINT, FixedKeys
from tests.support.virtual import VirtualLoop

REGION, INSTANCE = "ap-singapore", "postgres-4sfuv15b"
OK = {"DBInstanceId": INSTANCE, "UserName": "app_user", "Status": 2}

T = TypeVar("T")


@dataclass
class Rig:
    """A world with one instance of so many accounts, and a reader of it."""

    users: int = 1
    faults: list[dict[str, Any]] = field(default_factory=list)
    wrap: Callable[[Transport], Transport] = lambda transport: transport
    keys: FixedKeys = field(default_factory=FixedKeys)
    concurrency: int = 64
    world_settings: dict[str, Any] = field(default_factory=dict)
    lines: list[records.Read] = field(default_factory=list)
    inventory: Inventory = field(init=False)

    def __post_init__(self) -> None:
        settings = {"latency": 0.1} | self.world_settings
        self.world = World(faults=rules_from(self.faults), **settings)
        self.world.seed(INSTANCE, REGION, [f"user_{number:04d}" for number in range(self.users)])

    def run(self, story: Callable[[Inventory], Awaitable[T]]) -> T:
        """The story's result; `seconds` is how long it took."""
        loop = VirtualLoop()

        async def main() -> T:
            transport = self.wrap(InProcessTransport(self.world, now=loop.wall()))
            self.client = Client(transport, self.keys, ENDPOINT, timeout_s=3.0, clock=loop.wall())
            self.inventory = Inventory(
                lambda _account, _region: (self.client,),
                record=self._record,
                rng=random.Random(1),
                concurrency=self.concurrency,
            )
            return await story(self.inventory)

        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            result = runner.run(main())
        self.seconds = loop.time() - VirtualLoop.START
        return result

    def read(self, users: Collection[str] | None = None) -> Reading:
        return self.run(lambda inventory: inventory.read(Where("", REGION, INSTANCE), purpose="before", users=users))

    def _record(self, line: records.AnyRecord) -> None:
        assert isinstance(line, records.Read)
        self.lines.append(line)

    @property
    def requests(self) -> int:
        return len(self.world.audit)


@dataclass
class Meddler:
    """Passes requests on, and lets a test look at or change what passes."""

    inner: Transport
    reply: Callable[[dict[str, Any]], None] = lambda _response: None
    before: Callable[[Mapping[str, Any]], None] = lambda _parameters: None

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        self.before(json.loads(body))
        outcome = await self.inner.send(endpoint, headers, body, timeout_s)
        if isinstance(outcome, Reply):
            document = json.loads(outcome.body)
            self.reply(document["Response"])
            outcome = Reply(status=outcome.status, body=json.dumps(document).encode(), date=outcome.date)
        return outcome

    async def aclose(self) -> None:
        """Nothing to close."""


def answering(details: object) -> Callable[[Transport], Transport]:
    """A server whose first page says so, and whose second, if it has any, is empty."""

    def wrap(inner: Transport) -> Transport:
        offsets: list[int] = []

        def say(response: dict[str, Any]) -> None:
            response.update(Details=[] if offsets[-1] and isinstance(details, list) else details)

        return Meddler(inner, reply=say, before=lambda parameters: offsets.append(parameters["Offset"]))

    return wrap


# ---- whole lists ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("users", "pages"), [(0, 1), (1, 2), (99, 2), (100, 3), (101, 3), (200, 4), (250, 4), (1000, 12)]
)
def test_every_account_is_read_up_to_an_empty_page(users: int, pages: int) -> None:
    """None is missing: a page that is not full is no end, as a server may give fewer rows than it was asked for."""
    rig = Rig(users=users)
    reading = rig.read()
    assert reading.accounts is not None
    assert sorted(reading.accounts) == [f"user_{number:04d}" for number in range(users)]
    assert rig.requests == pages
    assert reading.code is None
    assert reading.request_id == rig.world.audit[-1].request_id


@pytest.mark.parametrize("total", [0, 1, 100, 250, "100", 251, 10_000, "300"])
def test_total_count_never_ends_the_list(total: object) -> None:
    """It is the number of rows of the call, says the page (D-ACCTS); whatever it says, all 250 are read.

    But one that is larger than what came says that there are more: then the list proves no account away.
    """
    rig = Rig(users=250, wrap=lambda inner: Meddler(inner, reply=lambda response: response.update(TotalCount=total)))
    reading = rig.read()
    assert reading.accounts is not None
    assert len(reading.accounts) == 250
    assert rig.requests == 4
    assert reading.complete is (int(str(total)) <= 250)
    assert (reading.why is None) is reading.complete


@pytest.mark.parametrize("users", [1, 99, 100, 101, 250])
def test_the_list_of_a_fleet_is_whole(users: int) -> None:
    """TotalCount as documented: then who is not on the list does not exist."""
    rig = Rig(users=0)
    accounts = [f"user_{number:04d}" for number in range(users)]
    rig.world = World(fleet=fleet_from({"instances": [{"id": INSTANCE, "region": REGION, "accounts": accounts}]}))
    reading = rig.read()
    assert reading.accounts is not None
    assert (len(reading.accounts), reading.complete) == (users, True)


@pytest.mark.parametrize("users", [0, 1, 100, 250])
def test_a_list_that_says_that_there_are_more_is_not(users: int) -> None:
    """It is read as far as it goes, and proves no absence."""
    rig = Rig()
    rig.world = World()
    rig.world.seed(INSTANCE, REGION, [f"user_{number:04d}" for number in range(users)], whole=False)
    reading = rig.read()
    assert reading.accounts is not None
    assert (len(reading.accounts), reading.complete) == (users, False)


def test_an_instance_without_any_account_is_not_believed() -> None:
    """Each has its admin: an empty list is no list, whatever TotalCount says."""
    rig = Rig(wrap=lambda inner: Meddler(inner, reply=lambda response: response.update(TotalCount=0, Details=[])))
    reading = rig.read()
    assert (reading.accounts, reading.complete) == ({}, False)


def test_a_failed_reading_is_not_whole() -> None:
    """Nothing was read, so nothing is absent."""
    assert not Rig(faults=[{"code": "AuthFailure.UnauthorizedOperation"}]).read().complete


def test_pages_without_end_are_given_up_and_are_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that repeats itself must not be read for ever, nor be believed."""
    monkeypatch.setattr(inventory, "_MOST_PAGES", 3)
    rig = Rig(users=301)
    reading = rig.read()
    assert reading.accounts is not None
    assert (len(reading.accounts), reading.complete, rig.requests) == (298, False, 3)
    assert reading.why == "the list did not end within 298 rows"


def test_an_account_that_is_touched_while_pages_are_read_is_not_lost() -> None:
    """Pages are by name: a list by time would shift under the reader."""

    def touch(parameters: Mapping[str, Any]) -> None:
        if parameters["Offset"]:  # one of the page before: by time it would go to the end, and the rest move up
            account = rig.world.account(INSTANCE, f"user_{parameters['Offset'] - 50:04d}")
            assert account is not None
            account.update_time += 1e6

    rig = Rig(users=299, wrap=lambda inner: Meddler(inner, before=touch))
    reading = rig.read()
    assert reading.accounts is not None
    assert len(reading.accounts) == 299


def test_what_a_row_says() -> None:
    """Every field the engine uses, as the API gives it."""
    rig = Rig(users=0)
    rig.world.seed(INSTANCE, REGION, ["shut"], status=5, cam=True, user_type="tencentDBSuper")
    rig.world.seed(INSTANCE, REGION, ["old"], cam=None)
    reading = rig.read()
    shut, old = reading.find("shut"), reading.find("old")
    assert shut is not None
    assert old is not None
    assert (shut.status, shut.cam, shut.user_type) == (5, True, "tencentDBSuper")
    assert shut.update_time
    assert old.cam is None
    assert reading.find("nobody") is None


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ({"Status": "5", "OpenCam": 1}, AccountState(user="u", status=5, cam=None)),
        ({"Status": 5, "OpenCam": False, "UserType": None}, AccountState(user="u", status=5, cam=False)),
        (
            {"Status": 2, "UpdateTime": "t1", "PasswordUpdateTime": "t2", "New": [1]},
            AccountState(user="u", status=2, cam=None, update_time="t1", password_update_time="t2"),
        ),
    ],
)
def test_a_number_as_text_is_a_number_and_what_is_left_out_is_unknown(row: dict[str, Any], state: AccountState) -> None:
    """A locked account is locked whichever way its 5 is written; CAM that is not shown is neither on nor off."""
    rig = Rig(wrap=answering([{"DBInstanceId": INSTANCE, "UserName": "u"} | row]))
    reading = rig.read()
    assert (reading.accounts, reading.complete) == ({"u": state}, True)


@pytest.mark.parametrize("status", [None, True, "", "locked", "NaN", 2.5, [], 10**400, "9" * 500])
def test_a_row_that_cannot_be_understood_is_evidence_for_nothing(status: object) -> None:
    """An account whose Status is no number is neither locked nor open nor absent: nobody is told that it is not so."""
    rig = Rig(wrap=answering([OK, {"DBInstanceId": INSTANCE, "UserName": "u", "Status": status}]))
    reading = rig.read()
    assert (set(reading.accounts or ()), reading.complete, reading.code) == ({"app_user"}, False, None)
    assert reading.why == "1 row cannot be understood"
    assert rig.read(["app_user"]).find("app_user") is not None


@pytest.mark.parametrize("users", [None, ["u"]])
@pytest.mark.parametrize("statuses", [(2, 5), (5, 2), (5, 2, 5), (5, None), (None, 5)])
def test_rows_that_contradict_each_other_are_evidence_for_nothing(
    statuses: tuple[int | None, ...], users: list[str] | None
) -> None:
    """A cache adds its old rows to the new ones: nobody is told that the account is locked, nor that it is open."""
    rig = Rig(wrap=answering([{"DBInstanceId": INSTANCE, "UserName": "u", "Status": status} for status in statuses]))
    reading = rig.read(users)
    assert (reading.find("u"), reading.complete, reading.code) == (None, False, None)


def test_a_row_that_stands_twice_and_alike_is_believed() -> None:
    """It is there, whatever the list is worth: a run that waits for it goes on."""
    rig = Rig(wrap=answering([OK, OK]))
    assert rig.read(["app_user"]).find("app_user") is not None


@pytest.mark.parametrize(
    "details",
    [
        *(None, {}, "x", [1], [None], [{"Status": 2}], [OK | {"UserName": 7}], [OK, {}]),
        *([OK | {"UserName": "x" * 129}], [{"UserName": "app_user", "Status": 2}], [OK | {"DBInstanceId": None}]),
    ],
)
def test_an_answer_of_another_shape_is_no_reading(details: object) -> None:
    """Half-understood is not understood: the account would look missing. The API always names instance and account."""
    rig = Rig(wrap=answering(details))
    reading = rig.read()
    assert (reading.accounts, reading.code) == (None, "Local.Misplaced")
    assert reading.find("app_user") is None


@pytest.mark.parametrize("total", [-1, True, None, "many", 2.5, 10**30])
def test_a_list_without_its_count_is_no_reading(total: object) -> None:
    """The answer to something else, or a damaged one."""
    rig = Rig(wrap=lambda inner: Meddler(inner, reply=lambda response: response.update(TotalCount=total)))
    assert (rig.read().accounts, rig.read().code) == (None, "Local.Misplaced")


def test_rows_of_another_instance_are_no_reading() -> None:
    """They would prove locked what nobody locked: in doubt, asked again, and in the end not read at all."""
    other = OK | {"DBInstanceId": "postgres-other001", "Status": 5}
    rig = Rig(wrap=answering([OK, other]))
    reading = rig.read()
    assert (reading.accounts, reading.code) == (None, "Local.OtherInstance")
    assert rig.requests > 1


def test_rows_of_another_instance_once_cost_one_question_more() -> None:
    """The second answer is the right one."""
    astray_rows = [OK | {"DBInstanceId": "postgres-other001"}]

    def astray(response: dict[str, Any]) -> None:
        if astray_rows:
            response["Details"] = [astray_rows.pop()]

    rig = Rig(wrap=lambda inner: Meddler(inner, reply=astray))
    assert set(rig.read(["user_0000"]).accounts or ()) == {"user_0000"}
    assert rig.requests == 2


# ---- the end of a list ---------------------------------------------------------------------------------------------


@dataclass
class Pager:
    """A server with pages of its own: at most `cap` rows, TotalCount as it likes, each page in an order of its own."""

    inner: Transport
    users: list[str]
    cap: int = 100
    total: Callable[[int], int] = lambda rows: rows
    order: Callable[[int, list[str]], list[str]] = lambda _offset, users: users
    asked: list[int] = field(default_factory=list)

    async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
        reply = await self.inner.send(endpoint, headers, body, timeout_s)
        assert isinstance(reply, Reply)
        response = json.loads(reply.body)["Response"]
        window = json.loads(body)
        offset = window["Offset"]
        self.asked.append(offset)
        users = self.order(offset, self.users)[offset : offset + min(self.cap, window["Limit"])]
        response["Details"] = [{"DBInstanceId": INSTANCE, "UserName": user, "Status": 2} for user in users]
        response["TotalCount"] = self.total(len(users))
        return Reply(status=200, body=json.dumps({"Response": response}).encode(), date=reply.date)

    async def get(self, url: str, timeout_s: float) -> Reply | Fault:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing to close."""


def paged(count: int, **options: Any) -> tuple[Rig, list[Pager]]:
    """A reader of such a server, and the server once it is asked."""
    made: list[Pager] = []

    def wrap(inner: Transport) -> Transport:
        made.append(Pager(inner, [f"user_{number:04d}" for number in range(count)], **options))
        return made[-1]

    return Rig(wrap=wrap), made


@pytest.mark.parametrize("cap", [1, 2, 19, 20, 59, 60, 61, 99])
def test_a_server_that_gives_fewer_rows_a_page_yields_all(cap: int) -> None:
    """Twenty rows and TotalCount 20, though a hundred were asked for: the other forty are not "no such account"."""
    rig, _ = paged(60, cap=cap)
    reading = rig.read()
    assert (len(reading.accounts or ()), reading.complete, reading.why) == (60, True, None)


def test_what_is_looked_for_and_found_needs_no_second_page() -> None:
    """A run reads each instance once each way: presence is proven by its row. Absence is claimed of nobody then."""
    rig, made = paged(60)
    reading = rig.read(["user_0007", "user_0059"])
    assert made[0].asked == [0]
    assert (reading.complete, reading.why) == (False, None)
    assert reading.find("user_0059") is not None


@pytest.mark.parametrize("cap", [20, 100])
def test_what_is_looked_for_and_not_found_is_looked_for_to_the_end(cap: int) -> None:
    """Only then it does not exist."""
    rig, _ = paged(60, cap=cap)
    reading = rig.read(["user_0007", "nobody"])
    assert (reading.complete, reading.find("nobody"), len(reading.accounts or ())) == (True, None, 60)


def test_pages_in_another_order_are_no_whole_list() -> None:
    """Fifty rows twice and fifty never: it is read again, and in the end proves nobody away."""
    rig, made = paged(150, order=lambda offset, users: users if not offset else users[::-1])
    reading = rig.read()
    assert reading.complete is False
    assert reading.why == "the list kept changing while it was read"
    assert made[0].asked.count(0) == 3


def test_pages_that_fit_at_the_second_look_are_a_whole_list() -> None:
    """A list that shifts once while it is read costs a second look, and nobody a false word."""
    looks = iter([[*(f"user_{number:04d}" for number in range(1, 151)), "zoe"]])
    rig, made = paged(150, order=lambda offset, users: next(looks, users) if offset else users)
    reading = rig.read()
    assert (len(reading.accounts or ()), reading.complete) == (150, True)
    assert made[0].asked == [0, 99, 151, 0, 99, 150]


def test_a_list_that_says_there_are_more_than_it_gives_is_not_whole() -> None:
    """Whoever counts 61 and shows 60 hides one."""
    rig, _ = paged(60, total=lambda _rows: 61)
    reading = rig.read()
    assert (reading.complete, reading.why) == (False, "the API counts 61")


def test_a_list_without_end_is_given_up() -> None:
    """A server that makes up ever new accounts is not read for ever."""
    rig, made = paged(500_000)
    reading = rig.read()
    assert (reading.complete, reading.why is not None) == (False, True)
    assert len(made[0].asked) <= 1001


def test_those_who_ask_together_get_what_each_needs() -> None:
    """One looks for an account that is there, another for one that is not: their shared reading goes to the end."""
    rig, made = paged(60)

    async def story(inventory: Inventory) -> list[Reading]:
        where = Where("", REGION, INSTANCE)
        wanted: list[list[str] | None] = [["user_0001"], ["nobody"], ["user_0002"]]
        return await asyncio.gather(*[inventory.read(where, purpose="verify", users=users) for users in wanted])

    first, second, third = rig.run(story)
    assert first is second is third
    assert first.complete
    assert made[0].asked == [0, 60]


def test_a_connection_that_was_dead_costs_a_read_nothing() -> None:
    """Asked again at once: neither a try nor a pause."""
    faults = iter([Fault(stage=Stage.AFTER_SEND, code="Local.ConnectionReset", message="m", stale_connection=True)] * 5)

    @dataclass
    class Dropping(Meddler):
        async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
            return next(faults, None) or await self.inner.send(endpoint, headers, body, timeout_s)

    rig = Rig(wrap=Dropping)
    assert rig.read(["user_0000"]).code is None
    assert rig.seconds < 0.3


def test_an_api_that_asks_for_patience_gets_it() -> None:
    """503 with `Retry-After: 3`: not asked again before; an hour is not waited for."""
    waits = iter([3.0, 3600.0])

    @dataclass
    class Busy(Meddler):
        async def send(self, endpoint: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Reply | Fault:
            for wait in waits:
                return Reply(status=503, body=b"busy", retry_after_s=wait)
            return await self.inner.send(endpoint, headers, body, timeout_s)

    rig = Rig(wrap=Busy)
    assert rig.read().code == "Local.Http503"
    assert 3.0 <= rig.seconds < 3.1
    assert rig.read().code is None


# ---- shared readings -----------------------------------------------------------------------------------------------


def test_those_who_ask_together_share_one_reading() -> None:
    """Forty calls of an instance are verified by one read."""
    rig = Rig()

    async def story(inventory: Inventory) -> list[Reading]:
        where, users = Where("", REGION, INSTANCE), ["user_0000"]
        return await asyncio.gather(*[inventory.read(where, purpose="verify", users=users) for _ in range(40)])

    readings = rig.run(story)
    assert rig.requests == len(rig.lines) == 1
    assert all(reading is readings[0] for reading in readings)


def test_who_asks_later_gets_a_newer_reading() -> None:
    """A reading that began before one's write was answered proves nothing of it; those who wait share the next."""
    rig = Rig(world_settings={"latency": 1.0})

    async def story(inventory: Inventory) -> list[Reading]:
        users = ["user_0000"]
        first = asyncio.ensure_future(inventory.read(Where("", REGION, INSTANCE), purpose="verify", users=users))
        await asyncio.sleep(0.3)
        second = asyncio.ensure_future(inventory.read(Where("", REGION, INSTANCE), purpose="verify", users=users))
        await asyncio.sleep(0.3)
        third = asyncio.ensure_future(inventory.read(Where("", REGION, INSTANCE), purpose="verify", users=users))
        return [await first, await second, await third]

    first, second, third = rig.run(story)
    assert rig.requests == 2
    assert first is not second
    assert second is third
    assert rig.seconds == pytest.approx(2.0, abs=0.1)


def test_a_lock_is_seen_by_whoever_asks_after_it() -> None:
    """The promise behind the sharing: a state that was true before the question is in the answer."""
    rig = Rig(world_settings={"latency": 1.0})

    async def story(inventory: Inventory) -> tuple[Reading, Reading]:
        early = asyncio.ensure_future(inventory.read(Where("", REGION, INSTANCE), purpose="verify"))
        await asyncio.sleep(0.5)
        account = rig.world.account(INSTANCE, "user_0000")
        assert account is not None
        account.status = 5
        late = await inventory.read(Where("", REGION, INSTANCE), purpose="verify")
        return await early, late

    early, late = rig.run(story)
    assert [reading.find("user_0000").status for reading in (early, late)] == [2, 5]  # type: ignore[union-attr]


def test_other_instances_are_read_at_the_same_time() -> None:
    """Four hundred instances in seconds, not one after the other; the same id in two regions is two instances."""
    rig = Rig(world_settings={"latency": 1.0})
    instances = [(REGION, f"postgres-{number:08x}") for number in range(100)]
    for region, instance in instances:
        rig.world.seed(instance, region, ["u"])

    async def story(inventory: Inventory) -> list[Reading]:
        reads = [inventory.read(Where("", *each), purpose="before", users=["u"]) for each in instances]
        return await asyncio.gather(*reads)

    readings = rig.run(story)
    assert all(reading.find("u") for reading in readings)
    assert rig.requests == 100
    assert rig.seconds < 4


def test_no_more_readings_at_a_time_than_allowed() -> None:
    """The concurrency bounds connections and memory."""
    rig = Rig(concurrency=2, world_settings={"latency": 1.0})

    async def story(inventory: Inventory) -> list[Reading]:
        return await asyncio.gather(
            *[inventory.read(Where("", REGION, f"postgres-{number:08x}"), purpose="before") for number in range(10)]
        )

    rig.run(story)
    arrivals = [arrival.at for arrival in rig.world.audit]
    assert all(later - earlier >= 1.0 for earlier, later in zip(arrivals, arrivals[2:], strict=False))
    assert rig.seconds == pytest.approx(5.0, abs=0.2)


@pytest.mark.parametrize(("is_sending", "rate"), [(True, SENDING_RATE), (False, PLANNING_RATE)])
def test_reads_leave_the_writes_their_connection(is_sending: bool, rate: float) -> None:
    """At most a hundred a second, a tenth of what is allowed, while writes are sent; three hundred before and after."""
    rig = Rig(concurrency=1000, world_settings={"latency": 0.01})

    async def story(inventory: Inventory) -> None:
        inventory.is_sending = lambda: is_sending
        await asyncio.gather(
            *[
                inventory.read(Where("", REGION, f"postgres-{number:08x}"), purpose="before")
                for number in range(int(3 * rate))
            ]
        )

    rig.run(story)
    assert rate == (100 if is_sending else 300)
    assert 0.9 * rate < rig.world.worst_second("DescribeAccounts", "127.0.0.1:9") <= rate
    assert rig.seconds == pytest.approx(3.0, abs=0.3)


def test_four_hundred_instances_are_read_before_the_question() -> None:
    """Issue 3 §1: about a second and a half, while nothing is being sent."""
    rig = Rig(world_settings={"latency": 0.05})

    async def story(inventory: Inventory) -> None:
        await asyncio.gather(
            *[inventory.read(Where("", REGION, f"postgres-{number:08x}"), purpose="plan") for number in range(400)]
        )

    rig.run(story)
    assert rig.requests == 400
    assert rig.seconds < 1.7


def test_reading_slows_down_the_moment_sending_begins() -> None:
    """The writes' connection is theirs from then on."""
    rig = Rig(concurrency=1000, world_settings={"latency": 0.01})
    begins = VirtualLoop.START + 1.0

    async def story(inventory: Inventory) -> None:
        inventory.is_sending = lambda: asyncio.get_running_loop().time() >= begins
        await asyncio.gather(
            *[inventory.read(Where("", REGION, f"postgres-{number:08x}"), purpose="before") for number in range(500)]
        )

    rig.run(story)
    assert rig.seconds == pytest.approx(1.0 + 200 / SENDING_RATE, abs=0.3)


# ---- patience ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "effect",
    [
        {"code": "InternalError", "times": 3},
        {"code": "FailedOperation.DatabaseAccessError", "times": 3},
        {"code": "FailedOperation", "times": 2},
        {"code": "ResourceUnavailable", "times": 1},
        {"code": "RequestLimitExceeded", "times": 5},
        {"reset_before": True, "times": 2},
        {"truncated": True, "times": 2},
        {"garbage": True, "times": 2},
        {"html": True, "times": 2},
        {"status": 502, "times": 2},
        {"hang": True, "times": 1},
        {"code": "InternalError", "no_request_id": True, "times": 2},
    ],
    ids=lambda effect: next(iter(effect.values())) if "code" in effect else next(iter(effect)),
)
def test_a_read_that_failed_for_a_moment_is_repeated(effect: dict[str, Any]) -> None:
    """A read changes nothing, so it may be asked again whatever befell it."""
    rig = Rig(users=3, faults=[effect])
    reading = rig.read()
    assert reading.code is None
    assert reading.accounts is not None
    assert len(reading.accounts) == 3
    assert rig.requests == effect["times"] + 2
    assert len(rig.lines) == 1


@pytest.mark.parametrize("code", ["InternalError", "RequestLimitExceeded", "FailedOperation", "ResourceUnavailable"])
def test_patience_ends(code: str) -> None:
    """A drain waits ten seconds for readings: one that never succeeds says why within them."""
    rig = Rig(faults=[{"code": code}])
    reading = rig.read()
    assert (reading.accounts, reading.code) == (None, code)
    assert reading.request_id == rig.world.audit[-1].request_id
    assert rig.seconds <= READ_BUDGET_S + 1.0
    assert rig.requests > 1


def test_an_api_that_never_answers_is_given_up_too() -> None:
    """The last attempt may run into its own timeout, no more."""
    rig = Rig(faults=[{"hang": True}])
    assert rig.read().code == "Local.Timeout"
    assert rig.seconds <= READ_BUDGET_S + 3.0 + 0.5


@pytest.mark.parametrize(
    "code",
    ["AuthFailure.UnauthorizedOperation", "ResourceNotFound.InstanceNotFoundError", "InvalidParameter", "Made.Up"],
)
def test_a_refusal_is_told_at_once(code: str) -> None:
    """Asking again would be refused again."""
    rig = Rig(faults=[{"code": code, "message": "no"}])
    reading = rig.read()
    assert (reading.accounts, reading.code, reading.message) == (None, code, "no")
    assert rig.requests == 1


def test_a_page_that_cannot_be_read_spoils_the_whole_reading() -> None:
    """A part of the list would make the rest look missing."""
    rig = Rig(users=250, faults=[{"code": "AuthFailure.UnauthorizedOperation", "after": 2}])
    reading = rig.read()
    assert (reading.accounts, reading.code) == (None, "AuthFailure.UnauthorizedOperation")
    assert rig.requests == 3
    assert rig.lines[0].rows is None


def test_throttled_readings_all_succeed_in_the_end() -> None:
    """A quota a tenth of the documented one: reading slows down, and no instance is left unread."""
    rig = Rig(world_settings={"quotas": {"DescribeAccounts": 10}})

    async def story(inventory: Inventory) -> list[Reading]:
        return await asyncio.gather(
            *[inventory.read(Where("", REGION, f"postgres-{number:08x}"), purpose="before") for number in range(30)]
        )

    readings = rig.run(story)
    assert [reading.code for reading in readings] == [None] * 30
    assert rig.seconds < 10
    assert rig.requests < 100  # and does not hammer: at full speed it would be three hundred


def test_a_wrong_clock_is_learnt_once() -> None:
    """Ten minutes off: the first answer's date cures all that follows."""
    rig = Rig(users=250, faults=[{"wrong_clock": 600.0}])
    reading = rig.read()
    assert reading.code is None
    assert rig.requests == 5
    assert rig.client.offset_s == pytest.approx(600, abs=2)


def test_a_clock_that_cannot_be_learnt_is_told() -> None:
    """The server says expired however the clock is set: no loop without end."""
    rig = Rig(faults=[{"code": "AuthFailure.SignatureExpire"}])
    assert rig.read().code == "AuthFailure.SignatureExpire"
    assert rig.requests == 2


def test_rotated_keys_are_taken_up() -> None:
    """The old key is gone, the source has a new one: one read more, no failure."""
    new = Keys(secret_id="AKIDnew1", secret_key="new-secret")
    rig = Rig(
        keys=FixedKeys(upcoming=new, refreshable=True),
        world_settings={"keys": {new.secret_id: KeyRecord(secret_key=new.secret_key)}},
    )
    assert rig.read(["user_0000"]).code is None
    assert rig.requests == 2


@pytest.mark.parametrize("refreshable", [False, True])
def test_keys_that_are_gone_for_good_are_told(refreshable: bool) -> None:
    """Whether the source cannot give others or has no others."""
    rig = Rig(keys=FixedKeys(refreshable=refreshable), world_settings={"keys": {}})
    assert rig.read().code == "AuthFailure.SecretIdNotFound"
    assert rig.requests == 1


# ---- where an instance is ------------------------------------------------------------------------------------------


def test_an_instance_is_found_in_the_region_where_it_is() -> None:
    """By its id, in every region but the one that was looked in; those that are nowhere are not found."""
    rig = Rig()
    entries = [{"id": f"postgres-tokyo{number:03}", "region": "ap-tokyo"} for number in range(150)]
    entries.append({"id": "postgres-here0001", "region": REGION})
    rig.world = World(fleet=fleet_from({"instances": entries}))
    ids = ["postgres-nowhere1", "postgres-here0001", *(entry["id"] for entry in entries[:-1])]
    found = rig.run(lambda inventory: inventory.locate([*ids, *ids], account="", away_from=REGION))
    assert found == {entry["id"]: "ap-tokyo" for entry in entries[:-1]}
    regions = {arrival.region for arrival in rig.world.audit}
    assert REGION not in regions
    assert "ap-tokyo" in regions
    assert not any(region.endswith("-fsi") for region in regions)
    assert len(rig.world.audit) == 2 * len(regions) + 1  # one a region and hundred; one more where some are missing


def test_a_region_that_cannot_be_asked_hinders_no_other() -> None:
    """Best effort: the words say "found in …" if it was found, and nothing fails if it was not."""
    rig = Rig()
    entries = [{"id": "postgres-tokyo001", "region": "ap-tokyo"}, {"id": "postgres-frank001", "region": "eu-frankfurt"}]
    rig.world = World(
        fleet=fleet_from({"instances": entries}),
        faults=rules_from([{"region": "eu-frankfurt", "code": "AuthFailure.UnauthorizedOperation"}]),
    )
    ids = [entry["id"] for entry in entries]
    found = rig.run(lambda inventory: inventory.locate(ids, account="", away_from=REGION))
    assert found == {"postgres-tokyo001": "ap-tokyo"}


@pytest.mark.parametrize("rows", [None, "x", [1], [{}], [{"DBInstanceId": "postgres-other001"}]])
def test_an_odd_list_of_instances_finds_nothing(rows: object) -> None:
    """Nor an instance that was not asked for."""
    rig = Rig(wrap=lambda inner: Meddler(inner, reply=lambda response: response.update(DBInstanceSet=rows)))
    assert rig.run(lambda inventory: inventory.locate(["postgres-tokyo001"], account="", away_from=REGION)) == {}


# ---- what is recorded ----------------------------------------------------------------------------------------------


def test_each_reading_is_recorded_once_with_all_its_pages() -> None:
    """For people and audits: what was asked for, how much came, how long it took."""
    rig = Rig(users=250)
    reading = rig.read()
    (line,) = rig.lines
    assert (line.region, line.instance, line.purpose) == (REGION, INSTANCE, "before")
    assert (line.request_id, line.code, line.rows) == (reading.request_id, None, 250)
    assert 400 <= line.ms <= 450


def test_a_failed_reading_is_recorded_with_its_code() -> None:
    """And without rows: none were read, which is not the same as an empty instance."""
    rig = Rig(faults=[{"code": "AuthFailure.UnauthorizedOperation"}])
    rig.read()
    (line,) = rig.lines
    assert (line.code, line.rows) == ("AuthFailure.UnauthorizedOperation", None)
    assert line.request_id == rig.world.audit[-1].request_id


def test_a_cancelled_reading_leaves_the_instance_readable() -> None:
    """Whoever asks next is not stuck behind it."""
    rig = Rig(world_settings={"latency": 1.0})

    async def story(inventory: Inventory) -> Reading:
        first = asyncio.ensure_future(inventory.read(Where("", REGION, INSTANCE), purpose="verify"))
        await asyncio.sleep(0.5)
        first.cancel()
        return await inventory.read(Where("", REGION, INSTANCE), purpose="verify")

    assert rig.run(story).code is None
