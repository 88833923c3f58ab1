"""What the simulated API does to accounts, and what it says, case by case."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.simulator import catalog
from engine.simulator.estate import Repeat
from engine.simulator.faults import rules_from
from engine.simulator.fleet import fleet_from
from engine.simulator.world import World
from tests.support.simulated import ACCESS, DOCUMENTED, DOCUMENTED_COUNTS, INSTANCE, NOW, USER, Caller

WRITES = ("LockAccount", "UnlockAccount", "OpenAccountCAM", "CloseAccountCAM", "RefreshAccountPassword")
REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
OTHER = "postgres-other001"


def fleet_world(**settings: Any) -> World:
    fleet = fleet_from(
        {
            "instances": [
                {
                    "id": INSTANCE,
                    "region": "ap-singapore",
                    "accounts": [
                        USER,
                        {"name": "shut", "status": "locked"},
                        {"name": "cam_on", "cam": True},
                        {"name": "no_cam", "cam": None},
                        {"name": "busy", "status": "modifying"},
                        {"name": "made_by_sql", "sql": True},
                    ],
                },
                {"id": "postgres-restart1", "region": "ap-singapore", "status": "restarting", "accounts": [USER]},
                {"id": "pgro-readonly1", "region": "ap-singapore", "type": "readonly", "accounts": [USER]},
            ]
        }
    )
    return World(fleet=fleet, **settings)


def state(caller: Caller, user: str, at: float = NOW) -> tuple[int, bool | None]:
    row = next(row for row in caller.rows(at=at, Limit=100) if row["UserName"] == user)
    return row["Status"], row.get("OpenCam")


def test_a_success_is_nothing_but_a_request_id() -> None:
    response = Caller(World()).call("LockAccount", {"DBInstanceId": INSTANCE, "UserName": USER})
    assert list(response) == ["RequestId"]
    assert REQUEST_ID.fullmatch(response["RequestId"])


def test_lock_and_unlock_show_in_the_status() -> None:
    caller = Caller(World())
    assert caller.write("LockAccount") is None
    assert state(caller, USER) == (5, False)
    assert caller.write("UnlockAccount") is None
    assert state(caller, USER) == (2, False)


def test_cam_on_and_off() -> None:
    """The "already" codes are documented for CAM, and a refused CloseAccountCAM leaves the password alone."""
    caller = Caller(World())
    assert caller.write("OpenAccountCAM") is None
    assert state(caller, USER) == (2, True)
    assert caller.write("OpenAccountCAM") == "FailedOperation.CheckAccountCAMCloseError"
    assert caller.write("CloseAccountCAM") is None
    account = caller.world.account(INSTANCE, USER)
    assert account is not None
    assert (account.password, account.passwords_set) == ("Abcdef1!", 1)
    other = {"DBInstanceId": INSTANCE, "UserName": USER, "Password": "Zyxwvu9?"}
    assert caller.code("CloseAccountCAM", other) == "FailedOperation.CheckAccountCAMOpenError"
    assert (account.password, account.passwords_set) == ("Abcdef1!", 1)
    assert "Abcdef1!" not in repr(account)


def test_refresh_needs_cam_and_dates_the_password() -> None:
    caller = Caller(World())
    assert caller.write("RefreshAccountPassword") == "FailedOperation.CheckAccountCAMOpenError"
    assert caller.rows()[0]["PasswordUpdateTime"] == "0000-00-00 00:00:00"
    caller.write("OpenAccountCAM")
    assert caller.write("RefreshAccountPassword", at=NOW + 2) is None
    row = caller.rows(at=NOW + 2)[0]
    assert row["PasswordUpdateTime"] == row["UpdateTime"] != row["CreateTime"]


def test_a_reset_dates_the_password_of_a_locked_account_too() -> None:
    """Status and lock stay; with CAM on it is refused, and the password stays."""
    caller = Caller(World())
    caller.write("LockAccount")
    for at in (NOW + 2, NOW + 3):
        assert caller.write("ResetAccountPassword", at=at) is None
        row = caller.rows(at=at)[0]
        assert row["PasswordUpdateTime"] == row["UpdateTime"] != row["CreateTime"]
        assert row["Status"] == 5
    account = caller.world.account(INSTANCE, USER)
    assert account is not None and (account.password, account.passwords_set) == ("Abcdef1!", 2)
    caller.write("UnlockAccount", at=NOW + 4)
    caller.write("OpenAccountCAM", at=NOW + 4)
    assert caller.write("ResetAccountPassword", at=NOW + 5) == "FailedOperation.CheckAccountCAMCloseError"
    assert account.passwords_set == 2


@pytest.mark.parametrize(
    ("password", "word"),
    [("Abcde1!", "Length"), ("Abcdef1!" * 4 + "x", "Length"), ("/Abcdef1!", "Value"), ("abcdef1!", "Value")],
)
def test_a_reset_has_codes_for_bad_passwords(password: str, word: str) -> None:
    """Other than CloseAccountCAM, which lists none."""
    parameters = {"DBInstanceId": INSTANCE, "UserName": USER, "Password": password}
    code = f"InvalidParameterValue.InvalidPassword{word}Error"
    assert Caller(World()).code("ResetAccountPassword", parameters) == code


def test_a_repeated_lock_succeeds_and_changes_nothing() -> None:
    caller = Caller(World())
    caller.write("LockAccount", at=NOW)
    before = caller.rows(at=NOW)
    assert caller.write("LockAccount", at=NOW + 60) is None
    assert caller.rows(at=NOW + 60) == before


def test_a_repeated_lock_may_be_refused_instead() -> None:
    """Not documented either way; a client must bear both."""
    caller = Caller(World(repeat=Repeat.PRECHECK))
    assert caller.write("UnlockAccount") == "FailedOperation.PreCheckError"
    assert caller.write("LockAccount") is None
    assert caller.write("LockAccount") == "FailedOperation.PreCheckError"


@pytest.mark.parametrize(
    ("action", "missing", "busy"),
    [
        ("LockAccount", "FailedOperation.PreCheckError", "FailedOperation.PreCheckError"),
        ("UnlockAccount", "FailedOperation.PreCheckError", "FailedOperation.PreCheckError"),
        (
            "OpenAccountCAM",
            "InvalidParameterValue.AccountNotExistError",
            "FailedOperation.FailedOperationError",
        ),
        ("CloseAccountCAM", "InvalidParameterValue.AccountNotExist", "FailedOperation"),
        (
            "RefreshAccountPassword",
            "InvalidParameterValue.AccountNotExistError",
            "FailedOperation.FailedOperationError",
        ),
    ],
)
def test_each_action_has_its_own_codes_for_missing_and_busy(action: str, missing: str, busy: str) -> None:
    caller = Caller(fleet_world())
    assert caller.write(action, user="nobody") == missing
    assert caller.write(action, user="busy") == busy
    assert caller.write(action, instance=OTHER) == "ResourceNotFound.InstanceNotFoundError"
    status = "Error" if action == "RefreshAccountPassword" else "OpError"
    assert caller.write(action, instance="postgres-restart1") == f"OperationDenied.InstanceStatusLimit{status}"
    assert caller.write(action, instance="pgro-readonly1") == "InvalidParameter.ParameterCheckError"
    assert caller.write(action, region="ap-tokyo") == "ResourceNotFound.InstanceNotFoundError"


def test_an_account_whose_cam_field_is_left_out_can_still_be_turned_on() -> None:
    caller = Caller(fleet_world())
    assert state(caller, "no_cam") == (2, None)
    assert caller.write("OpenAccountCAM", user="no_cam") is None
    assert state(caller, "no_cam") == (2, True)


def test_an_instance_back_in_service_takes_writes_again() -> None:
    caller = Caller(fleet_world())
    instance = caller.world.instance("postgres-restart1")
    assert instance is not None
    instance.status = "running"
    assert caller.write("LockAccount", instance="postgres-restart1") is None


def test_an_open_world_puts_an_instance_where_it_was_first_asked_for() -> None:
    caller = Caller(World())
    assert caller.write("LockAccount", region="ap-tokyo") is None
    assert caller.write("LockAccount", region="ap-singapore") == "ResourceNotFound.InstanceNotFoundError"
    assert caller.write("LockAccount", region="ap-tokyo") is None


def test_an_open_world_lists_what_writes_have_named_and_what_was_seeded() -> None:
    caller = Caller(World())
    assert caller.rows() == []
    caller.world.seed(INSTANCE, "ap-singapore", ["seeded"])
    caller.world.seed(INSTANCE, "ap-singapore", ["locked_one"], status=5, cam=True, user_type="tencentDBSuper")
    caller.world.seed(INSTANCE, "ap-singapore", ["locked_one"])  # what is there stays as it is
    caller.write("LockAccount", user="touched")
    seen = {row["UserName"]: (row["Status"], row["OpenCam"], row["UserType"]) for row in caller.rows()}
    assert seen == {
        "seeded": (2, False, "normal"),
        "locked_one": (5, True, "tencentDBSuper"),
        "touched": (5, False, "normal"),
    }
    with pytest.raises(ValueError, match="ap-singapore"):
        caller.world.seed(INSTANCE, "ap-tokyo")


FORMAT = "InvalidParameterValue.InvalidAccountNameFormatError"
SHORT = "InvalidParameterValue.InvalidAccountNameError"


@pytest.mark.parametrize(
    ("user", "lock", "cam"),
    [
        ("root", None, None),
        ("_svc_2", None, None),
        ("A" * 16, None, None),
        ("a" * 63, None, None),
        ("a" * 64, FORMAT, FORMAT),
        ("", FORMAT, FORMAT),
        ("2fast", FORMAT, FORMAT),
        ("with-hyphen", FORMAT, FORMAT),
        ("with space", FORMAT, FORMAT),
        ("newline\n", FORMAT, FORMAT),
        ("größe", FORMAT, FORMAT),
        ("postgres", SHORT, FORMAT),
        ("PostGres", SHORT, FORMAT),
        ("pg_reader", SHORT, FORMAT),
        ("TencentDB_x", SHORT, FORMAT),
        ("postgres2", None, None),
        ("pgx", None, None),
    ],
)
def test_account_names(user: str, lock: str | None, cam: str | None) -> None:
    caller = Caller(World())
    assert caller.write("LockAccount", user=user) == lock
    assert caller.write("UnlockAccount", user=user) == lock
    assert caller.write("OpenAccountCAM", user=user) == cam


def test_the_sixteen_character_rule_can_be_turned_on() -> None:
    """The page contradicts itself for 17 to 63 characters, on Lock and Unlock only (SEED-LOCK, D-CREATE)."""
    caller = Caller(World(refuse_long_names=True))
    assert caller.write("LockAccount", user="a" * 16) is None
    assert caller.write("LockAccount", user="a" * 17) == SHORT
    assert caller.write("OpenAccountCAM", user="a" * 17) is None


@pytest.mark.parametrize(
    ("password", "is_good"),
    [
        ("Abcdef1!", True),
        ('a\\b"C1~`|<>&?=é', True),
        ("Abcde1!", False),
        ("Abcdef1!" * 4, True),
        ("Abcdef1!" * 4 + "x", False),
        ("/Abcdef1!", False),
        ("abcdef1!", False),
        ("ABCDEF1!", False),
        ("Abcdefg!", False),
        ("Abcdefg1", False),
    ],
)
def test_the_password_rule(password: str, is_good: bool) -> None:
    caller = Caller(World())
    caller.write("OpenAccountCAM")
    parameters = {"DBInstanceId": INSTANCE, "UserName": USER, "Password": password}
    expected = None if is_good else "InvalidParameter.ParameterCheckError"
    assert caller.code("CloseAccountCAM", parameters) == expected


TARGET = {"DBInstanceId": INSTANCE, "UserName": USER}


@pytest.mark.parametrize(
    ("action", "parameters", "code"),
    [
        ("LockAccount", {"UserName": USER}, "MissingParameter"),
        ("LockAccount", {"DBInstanceId": INSTANCE}, "MissingParameter"),
        ("CloseAccountCAM", TARGET, "MissingParameter"),
        ("LockAccount", {**TARGET, "Password": "x"}, "UnknownParameter"),
        ("LockAccount", {**TARGET, "username": USER}, "UnknownParameter"),
        ("LockAccount", {**TARGET, "UserName": 7}, "InvalidParameter"),
        ("LockAccount", {**TARGET, "UserName": None}, "InvalidParameter"),
        ("LockAccount", {**TARGET, "UserName": [USER]}, "InvalidParameter"),
        ("CloseAccountCAM", {**TARGET, "Password": "Abcdef1!", "PasswordEncrypt": 0}, "InvalidParameter"),
        (
            "CloseAccountCAM",
            {**TARGET, "Password": "Abcdef1!", "PasswordEncrypt": True},
            "InvalidParameter.ParameterCheckError",
        ),
        ("DescribeAccounts", {"DBInstanceId": INSTANCE, "Limit": True}, "InvalidParameter"),
        ("DescribeAccounts", {"DBInstanceId": INSTANCE, "Limit": 20.0}, "InvalidParameter"),
        ("LockAccount", {**TARGET, "DBInstanceId": "mysql-12345678"}, "InvalidParameter.ParameterCheckError"),
        ("LockAccount", {**TARGET, "DBInstanceId": "postgres-4SFUV15B"}, "InvalidParameter.ParameterCheckError"),
        ("LockAccount", {**TARGET, "DBInstanceId": ""}, "InvalidParameter.ParameterCheckError"),
        ("DescribeRegions", {"Region": "x"}, "UnknownParameter"),
        ("LockAccount", b"", "InvalidParameter"),
        ("LockAccount", b"not json", "InvalidParameter"),
        ("LockAccount", b"[1]", "InvalidParameter"),
        ("LockAccount", b'{"UserName": "\xff"}', "InvalidParameter"),
        ("LockAccount", b"[" * 100_000, "InvalidParameter"),
        ("CreateAccount", TARGET, "InvalidAction"),
        ("lockaccount", TARGET, "InvalidAction"),
    ],
)
def test_malformed_requests(action: str, parameters: object, code: str) -> None:
    assert Caller(World()).code(action, parameters) == code


def test_a_body_that_is_not_json_by_its_content_type_is_refused() -> None:
    caller = Caller(World(), content_type="multipart/form-data; boundary=x")
    assert caller.code("LockAccount", TARGET) == "InvalidRequest"


@pytest.mark.parametrize(
    ("region", "access", "code"),
    [
        ("ap-singapore", ACCESS, None),
        ("", ACCESS, "MissingParameter"),
        ("eu", ACCESS, "UnsupportedRegion"),
        ("na-toronto", ACCESS, "UnsupportedRegion"),
        ("ap-shanghai-fsi", ACCESS, "UnsupportedRegion"),
        ("ap-shanghai-fsi", "postgres.ap-shanghai-fsi.tencentcloudapi.com", None),
        ("ap-shanghai-fsi", "127.0.0.1:8080", None),
        ("ap-tokyo", "postgres.ap-guangzhou.tencentcloudapi.com", None),
    ],
)
def test_regions(region: str, access: str, code: str | None) -> None:
    """A region must exist; the financial ones are served by their own domains only (CN-FSI)."""
    assert Caller(World(), access=access, region=region).write("LockAccount") == code


def test_describe_regions_needs_no_region() -> None:
    response = Caller(World(), region="").call("DescribeRegions", {})
    states = {row["Region"]: row["RegionState"] for row in response["RegionSet"]}
    assert sum(1 for each in states.values() if each == "AVAILABLE") == 18
    assert states["na-toronto"] == "UNAVAILABLE"


def test_what_the_world_says_of_its_own_is_documented_for_the_action() -> None:
    """Whatever is asked of whatever account, the code stands in the action's list (SEED-LOCK, PY-PG)."""
    said: set[tuple[str, str]] = set()
    for repeat in Repeat:
        caller = Caller(fleet_world(repeat=repeat, refuse_long_names=True, quotas={"*": None}))
        for action in WRITES:
            for user in (USER, "shut", "cam_on", "busy", "nobody", "postgres", "pg_x", "2x", "a" * 17):
                for instance in (INSTANCE, "postgres-restart1", "pgro-readonly1", OTHER, "nonsense"):
                    for _ in range(2):
                        code = caller.write(action, instance, user)
                        said |= {(action, code)} if code else set()
    undocumented = {(action, code) for action, code in said if code not in DOCUMENTED[action].split()}
    assert undocumented == set()
    assert len({code for _, code in said}) == 13
    assert {code for _, code in said} <= set(catalog.MESSAGES)


def test_the_tests_table_of_codes_is_complete() -> None:
    counts = {action: len(set(codes.split())) for action, codes in DOCUMENTED.items()}
    assert counts == DOCUMENTED_COUNTS


def test_the_audit_tells_what_really_happened() -> None:
    """Applied or not, answered or not: what a journal is compared with."""
    rules = rules_from(
        [
            {"user": "lost", "reset_after": True},
            {"user": "gone", "reset_before": True},
            {"user": "liar", "accepted_not_applied": True},
            {"user": "oops", "code": "InternalError", "apply": True},
        ]
    )
    caller = Caller(World(faults=rules))
    for user in ("plain", "lost", "gone", "liar", "oops"):
        caller.answer("LockAccount", {"DBInstanceId": INSTANCE, "UserName": user}, extra={"X-TC-TraceId": f"t-{user}"})
    caller.write("LockAccount", user="postgres")
    caller.code("DescribeAccounts", {"DBInstanceId": INSTANCE})
    caller.write("LockAccount", secret_key="wrong")
    told = [(each.user, each.code, each.applied, each.fault, each.request_id is None) for each in caller.world.audit]
    assert told == [
        ("plain", None, True, None, False),
        ("lost", None, True, "reset_after", True),
        ("gone", None, False, "reset_before", True),
        ("liar", None, False, "accepted_not_applied", False),
        ("oops", "InternalError", True, "code", False),
        ("postgres", SHORT, False, None, False),
        ("", None, False, None, False),
        (USER, "AuthFailure.SignatureFailure", False, None, False),
    ]
    first = caller.world.audit[0]
    assert (first.at, first.access, first.identity, first.trace) == (NOW, ACCESS, "demo", "t-plain")
    assert (first.action, first.region, first.instance) == ("LockAccount", "ap-singapore", INSTANCE)
    assert caller.world.audit[-1].identity == ""
    locked = {user for user in ("plain", "lost", "gone", "liar", "oops") if _is_locked(caller.world, user)}
    assert locked == {"plain", "lost", "oops"}


def _is_locked(world: World, user: str) -> bool:
    account = world.account(INSTANCE, user)
    return account is not None and account.status == 5


def test_the_audit_is_bounded_and_can_be_off() -> None:
    small, none = Caller(World(audit=2)), Caller(World(audit=0))
    for user in ("a", "b", "c"):
        small.write("LockAccount", user=user)
        none.write("LockAccount", user=user)
    assert [each.user for each in small.world.audit] == ["b", "c"]
    assert not none.world.audit


def test_the_same_seed_gives_the_same_world() -> None:
    def replies(seed: int) -> list[dict[str, Any]]:
        rules = rules_from([{"probability": 0.5, "code": "InternalError"}])
        caller = Caller(World(seed=seed, faults=rules, jitter=0.1, quotas={"*": None}))
        return [caller.call("LockAccount", TARGET) for _ in range(50)]

    assert replies(1) == replies(1)
    assert replies(1) != replies(2)


def test_latency_is_told_not_waited() -> None:
    world = World(latency=0.25, jitter=0.1)
    assert Caller(world).answer("LockAccount", TARGET).delay_s == 0.25
    travels = [world.draw_travel_s() for _ in range(1_000)]
    assert 0 <= min(travels) < 0.01
    assert 0.09 < max(travels) <= 0.1
    assert World().draw_travel_s() == 0.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["DBInstanceId", "UserName", "Limit", "Filters", "Password"]) | st.text()
WIRE_TEXT = st.binary(max_size=30).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@given(
    action=st.sampled_from(sorted(catalog.ACTIONS)) | WIRE_TEXT,
    parameters=st.dictionaries(NAMES, JSON, max_size=4),
    extra=st.dictionaries(st.sampled_from(["X-TC-TraceId", "X-TC-Language", "X-TC-Token"]), WIRE_TEXT),
    region=st.sampled_from(["ap-singapore", "ap-tokyo"]) | WIRE_TEXT,
)
def test_whatever_is_sent_the_world_answers(
    action: str, parameters: dict[str, Any], extra: dict[str, str], region: str
) -> None:
    """No request takes the simulator down: a drill must not end in its own traceback."""
    caller = Caller(World(refuse_long_names=True))
    response = caller.call(action, parameters, extra=extra, region=region)
    assert response["RequestId"]


@given(body=st.binary(max_size=60), headers=st.dictionaries(WIRE_TEXT, WIRE_TEXT), query=WIRE_TEXT)
def test_unsigned_noise_is_refused(body: bytes, headers: dict[str, str], query: str) -> None:
    for method in ("GET", "POST"):
        noise = {"Authorization": "x", **headers}
        answer = World().handle(method=method, query=query, headers=noise, body=body, access=ACCESS, now=NOW)
        assert "Error" in json.loads(answer.body)["Response"]


@given(body=st.binary(max_size=60) | st.just(b"1" * 5_000) | st.just(b'{"UserName": "\\ud800"}'))
def test_a_signed_body_of_any_bytes_is_answered(body: bytes) -> None:
    assert Caller(World()).call("LockAccount", body)["RequestId"]
