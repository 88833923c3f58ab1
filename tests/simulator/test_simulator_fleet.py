"""Fleets: what a file may say, and that a wrong one is told all it got wrong."""

from __future__ import annotations

import json
import re
from itertools import product

import pytest

from engine.simulator import documents, fleet
from engine.simulator.fleet import FleetAccount, FleetError, fleet_from, parse_fleet
from engine.simulator.randomfleet import random_fleet

GOOD = """
instances:
  - id: postgres-4sfuv15b
    region: ap-singapore
    accounts:
      - app_user
      - {name: old_ro, status: locked, cam: true, type: tencentDBSuper}
      - {name: strange, status: -1, cam: null, sql: true}
  - {id: postgres-busy0001, region: ap-tokyo, name: shop, status: limited run, tags: {team: db}, accounts: []}
"""


def test_a_fleet_says_what_exists() -> None:
    first, second = parse_fleet(GOOD)
    assert first.accounts == (
        FleetAccount(name="app_user"),
        FleetAccount(name="old_ro", status=5, cam=True, user_type="tencentDBSuper"),
        FleetAccount(name="strange", status=-1, cam=None, by_sql=True),
    )
    assert (second.name, second.status, second.tags, second.accounts) == (
        "shop",
        "limited run",
        (("team", "db"),),
        (),
    )


def test_json_is_read_as_well() -> None:
    data = {"instances": [{"id": "postgres-4sfuv15b", "region": "ap-tokyo", "accounts": ["a"]}]}
    assert parse_fleet(json.dumps(data)) == fleet_from(data)


def test_the_example_of_the_documentation_is_valid() -> None:
    text = fleet.__doc__ or ""
    example = "\n".join(line[4:] for line in text.splitlines()[2:9])
    assert [len(each.accounts) for each in parse_fleet(example)] == [2, 1]


ONE = "{id: postgres-4sfuv15b, region: ap-tokyo"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "fleet: must be a mapping, not NoneType"),
        ("[]", "fleet: must be a mapping, not list"),
        ("{}", "`instances` is missing or empty"),
        ("instances: []", "`instances` is missing or empty"),
        ("instances: 5", "instances: must be a list, not int"),
        ("instance: []", "fleet: unknown key 'instance'; known are instances"),
        ("instances: [postgres-1]", "instances[0]: must be a mapping, not str"),
        ("instances: [{region: ap-tokyo}]", "instances[0]: `id` is missing"),
        ("instances: [{id: postgres-1}]", "instances[0]: `region` is missing"),
        ("instances: [{id: mysql-1, region: ap-tokyo}]", "instances[0].id: 'mysql-1' is no instance id"),
        ("instances: [{id: postgres-1, region: tokyo}]", "instances[0].region: 'tokyo' is none of ap-bangkok"),
        (f"instances: [{ONE}, status: fine}}]", "instances[0].status: 'fine' is none of applying"),
        (f"instances: [{ONE}, type: main}}]", "instances[0].type: 'main' is none of primary"),
        (f"instances: [{ONE}, project: x}}]", "instances[0].project: must be a whole number"),
        (f"instances: [{ONE}, tags: [a]}}]", "instances[0].tags: must be a mapping"),
        (f"instances: [{ONE}, users: [a]}}]", "instances[0]: unknown key 'users'"),
        (f"instances: [{ONE}}}, {ONE}}}]", "instances[1].id: postgres-4sfuv15b stands twice"),
        (f"instances: [{ONE}, accounts: [a, a]}}]", "instances[0].accounts[1]: a stands twice"),
        (f"instances: [{ONE}, accounts: a}}]", "instances[0].accounts: must be a list"),
        (f"instances: [{ONE}, accounts: [7]}}]", "instances[0].accounts[0]: must be a mapping, not int"),
        (f"instances: [{ONE}, accounts: [{{}}]}}]", "instances[0].accounts[0]: `name` is missing"),
        (f"instances: [{ONE}, accounts: [{{name: ''}}]}}]", "instances[0].accounts[0].name: must be a text"),
        (f"instances: [{ONE}, accounts: [{{name: a, status: shut}}]}}]", "accounts[0].status: 'shut' is none of"),
        (f"instances: [{ONE}, accounts: [{{name: a, status: 9}}]}}]", "accounts[0].status: 9 is none of"),
        (f"instances: [{ONE}, accounts: [{{name: a, status: true}}]}}]", "accounts[0].status: True is none of"),
        (f"instances: [{ONE}, accounts: [{{name: a, cam: maybe}}]}}]", "accounts[0].cam: 'maybe' is not"),
        (f"instances: [{ONE}, accounts: [{{name: a, sql: 1}}]}}]", "accounts[0].sql: 1 is not"),
        (f"instances: [{ONE}, accounts: [{{name: a, type: boss}}]}}]", "accounts[0].type: 'boss' is none of"),
        ("instances: [", "fleet: line 2, column 1: "),
    ],
)
def test_a_wrong_fleet_is_told_where(text: str, problem: str) -> None:
    with pytest.raises(FleetError) as caught:
        parse_fleet(text)
    assert problem in str(caught.value)


def test_a_small_file_cannot_become_an_endless_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Aliases let a short file name a list a thousand times."""
    monkeypatch.setattr(fleet, "MAX_ACCOUNTS", 5)
    names = [f"u{index}" for index in range(4)]
    with pytest.raises(FleetError, match="more than 5 accounts in all"):
        fleet_from(
            {"instances": [{"id": f"postgres-{index}", "region": "ap-tokyo", "accounts": names} for index in range(2)]}
        )


def test_documents_are_read_without_the_fast_parser_too() -> None:
    """YAML in flow style looks like JSON and is none."""
    assert documents.load("{a: 1}", what="x", max_chars=100) == {"a": 1}
    assert documents.load('{"a": 1}', what="x", max_chars=100) == {"a": 1}
    with pytest.raises(documents.DocumentError, match="x: 7 characters"):
        documents.load("1234567", what="x", max_chars=6)
    assert documents.load("a: &b {c: 1}\nd: {<<: *b, e: 2}", what="x", max_chars=100) == {
        "a": {"c": 1},
        "d": {"c": 1, "e": 2},
    }


# ---- made up ---------------------------------------------------------------------------------------------------------


def test_a_random_fleet_is_what_was_asked_for() -> None:
    """So many instances and accounts, spread over regions, of every kind a match must tell apart; always the same."""
    fleet = random_fleet("random:400x8")
    assert len({each.id for each in fleet}) == 400
    assert {len(each.accounts) for each in fleet} == {8}
    assert len({each.region for each in fleet}) == 16
    assert {each.type for each in fleet} == {"primary", "readonly", "guard"}
    assert len({each.status for each in fleet}) > 2
    primaries = {each.id: each.region for each in fleet if each.type == "primary"}
    assert all(primaries[each.master] == each.region for each in fleet if each.type != "primary")
    accounts = [account for each in fleet for account in each.accounts]
    assert {account.cam for account in accounts} == {True, False, None}
    assert {account.status for account in accounts} == {2, 5}
    assert all(each.accounts[0].user_type == "tencentDBSuper" for each in fleet)
    assert random_fleet("random:400x8") == fleet != random_fleet("random:400x8", 7)
    assert {each.region for each in random_fleet("random:5x1@ap-tokyo,ap-seoul")} == {"ap-tokyo", "ap-seoul"}


def test_a_random_fleet_of_several_owners() -> None:
    """Each has instances in every region; a replica is its primary's owner's; but for that it is the same fleet."""
    owners = ("100000000001", "100000000002", "100000000003")
    fleet = random_fleet("random:240x2@ap-tokyo,ap-seoul,ap-bangkok", 1, owners)
    assert {(each.uin, each.region) for each in fleet} == set(product(owners, ("ap-tokyo", "ap-seoul", "ap-bangkok")))
    by_id = {each.id: each for each in fleet}
    replicas = [each for each in fleet if each.master]
    assert replicas
    assert all(by_id[each.master].uin == each.uin for each in replicas)
    alone = random_fleet("random:240x2@ap-tokyo,ap-seoul,ap-bangkok", 1)
    assert [each.accounts for each in alone] == [each.accounts for each in fleet]
    assert {each.uin for each in alone} == {""}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("random:400", "expected random:INSTANCESxACCOUNTS"),
        ("random:0x8", "expected random:INSTANCESxACCOUNTS"),
        ("random:4x8@", "expected random:INSTANCESxACCOUNTS"),
        ("random:999999x999", "998,999,001 accounts are more than"),
        ("random:4x8@ap-nowhere", "there is no region 'ap-nowhere'"),
    ],
)
def test_a_wrong_random_fleet_is_told_so(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        random_fleet(text)
