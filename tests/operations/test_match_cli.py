"""A match at the door: plan, run, discover and what follows, over real sockets: what was found is what runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from engine.simulator.fleet import fleet_from
from engine.simulator.world import World
from tests.support.command import Backend, Desk, records

FLEET = {
    "instances": [
        {
            "id": "postgres-aaaaaaaa",
            "region": "ap-singapore",
            "name": "prod-orders",
            "tags": {"env": "prod"},
            "accounts": ["app_user", {"name": "app_on", "cam": True}, "etl", {"name": "breakglass_x"}],
        },
        {
            "id": "postgres-bbbbbbbb",
            "region": "ap-tokyo",
            "name": "prod-crm",
            "tags": {"env": "prod"},
            "accounts": ["app_user", {"name": "app_dark", "cam": None}, {"name": "app_locked", "status": "locked"}],
        },
        {
            "id": "postgres-cccccccc",
            "region": "ap-tokyo",
            "name": "prod-crm-ro",
            "type": "readonly",
            "master": "postgres-bbbbbbbb",
            "tags": {"env": "prod"},
            "accounts": ["app_user"],
        },
        {
            "id": "postgres-dddddddd",
            "region": "ap-singapore",
            "name": "prod-old",
            "status": "isolated",
            "tags": {"env": "prod"},
            "accounts": ["app_user"],
        },
        {
            "id": "postgres-eeeeeeee",
            "region": "ap-singapore",
            "name": "test-orders",
            "tags": {"env": "test"},
            "accounts": ["app_user"],
        },
        {"id": "postgres-ffffffff", "region": "ap-seoul", "tags": {"env": "prod"}, "accounts": ["app_user"]},
    ]
}
JOB = """\
action: OpenAccountCAM
limits: {{max_targets: 100}}
protect: ["*/breakglass_*"]
targets:
  - match:
      regions: [ap-singapore, ap-tokyo]
      instances: {{tag: env=prod}}
      users: {{glob: "{glob}", cam: off}}
{more}"""
FOUND = {"postgres-aaaaaaaa/app_user", "postgres-bbbbbbbb/app_user", "postgres-bbbbbbbb/app_locked"}
"""What the match of JOB means, with the glob app_*."""


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Backend(World(fleet=fleet_from(FLEET), latency=0)) as running:
        yield running


def ask(desk: Desk, backend: Backend, glob="app_*", more="") -> tuple[Any, tuple[str, str]]:
    """The job, and the flags that lead it to the server."""
    return desk.write("job.yaml", JOB.format(glob=glob, more=more)), ("--endpoint", backend.endpoint)


def written(backend: Backend) -> set[str]:
    return {f"{arrival.instance}/{arrival.user}" for arrival in backend.writes()}


def calls(plan: dict[str, Any]) -> set[str]:
    return {f"{call['instance']}/{call['user']}" for call in plan["calls"]}


# ---- planned and run -------------------------------------------------------------------------------------------------


def test_a_plan_names_what_it_finds_and_what_it_leaves_out(desk: Desk, backend: Backend) -> None:
    """Who is meant, and by name the replica, the instance that does not run, and the account that hides its CAM."""
    job, api = ask(desk, backend)
    plan = desk.run("plan", job, *api, "--json").json
    assert calls(plan) == FOUND
    assert [(each["instances"], each["accounts"]) for each in plan["match"]] == [(2, 3)]
    assert {(omit["instance"], omit["user"], omit["reason"], omit["rule"]) for omit in plan["omits"]} == {
        ("postgres-cccccccc", "*", "skipped", "type readonly"),
        ("postgres-dddddddd", "*", "skipped", "status isolated"),
        ("postgres-bbbbbbbb", "app_dark", "skipped", "whether its CAM is on is not shown"),
    }
    text = desk.run("plan", job, *api).out
    assert "regions ap-singapore, ap-tokyo; instances tag env=prod, status running; users app_*, cam off" in text
    assert ": 3 accounts on 2 instances" in text
    assert "left out, skipped: postgres-dddddddd/*  status isolated (match at " in text
    assert not backend.writes()


def test_what_was_found_is_what_runs_from_then_on(desk: Desk, backend: Backend) -> None:
    """The journal has the question and its answer; an account that appears later is no part of resume, rerun, undo."""
    job, api = ask(desk, backend)
    done = desk.run("run", job, *api, "--yes", "--json")
    assert done.code == 0, done.text
    assert done.json["counts"]["changed"] == 3 and done.json["left_out"]["skipped"] == 3
    assert written(backend) == FOUND
    (matched,) = desk.records("run")[0]["match"]
    assert matched["where"].endswith("job.yaml:6:7") and matched["accounts"] == 3
    assert "tag env=prod" in matched["asks"]
    backend.world.seed("postgres-aaaaaaaa", "ap-singapore", ["app_later"])
    assert desk.run("resume", done.json["run"]).code == 0
    assert desk.run("verify", done.json["run"], *api, "--json").json["verified"]["agree"] == 3
    assert "nothing to repeat" in desk.run("rerun", done.json["run"], "--yes").err
    listings = [arrival for arrival in backend.world.audit if arrival.action == "DescribeDBInstances"]
    passwords = "sh -c 'echo Abcdef1!'"
    undone = desk.run("undo", done.json["run"], *api, "--yes", "--json", "--password-command", passwords)
    assert undone.code == 0, undone.text
    assert undone.json["counts"]["changed"] == 3 and written(backend) == FOUND
    assert [each for each in backend.world.audit if each.action == "DescribeDBInstances"] == listings
    report = desk.run("report", done.json["run"], "--format", "json").json
    assert report["match"] == [matched]


def test_an_interrupted_run_goes_on_with_the_list_it_was_approved_with(desk: Desk, backend: Backend) -> None:
    """Also when the job was edited meanwhile: the resume says so, and asks no match."""
    job, api = ask(desk, backend)
    backend.script({"action": "OpenAccountCAM", "user": "app_locked", "code": "AuthFailure.SecretIdNotFound"})
    stopped = desk.run("run", job, *api, "--yes", "--json")
    assert stopped.code in (4, 5), stopped.text
    backend.script()
    backend.world.seed("postgres-aaaaaaaa", "ap-singapore", ["app_later"])
    job.write_text(job.read_text().replace("app_*", "*"))
    resumed = desk.run("resume", stopped.json["run"], "--yes", "--json")
    assert resumed.code == 0, resumed.text
    assert written(backend) == FOUND and resumed.json["counts"]["changed"] == 3
    refused = desk.run("resume", stopped.json["run"])
    assert refused.code == 0  # finished: nothing to ask


def test_a_changed_job_is_said_without_asking_its_match(desk: Desk, backend: Backend) -> None:
    """A count of targets would compare a list with a question."""
    job, api = ask(desk, backend)
    backend.script({"action": "OpenAccountCAM", "code": "AuthFailure.SecretIdNotFound"})
    run = desk.run("run", job, *api, "--yes", "--json").json["run"]
    job.write_text(job.read_text().replace("app_*", "*"))
    asked = desk.run("resume", run)
    assert asked.code == 3
    assert "has changed since; a match is never asked again, the journal's list is what is sent" in asked.err


def test_no_instance_is_read_twice_before_the_first_write(desk: Desk, backend: Backend) -> None:
    """What the match has read, to an empty page, is what the plan and the run's `before` rest on."""
    job, api = ask(desk, backend, more="  - {instance: postgres-eeeeeeee, user: app_user, region: ap-singapore}\n")
    assert desk.run("run", job, *api, "--yes").code == 0
    before = []
    for arrival in backend.world.audit:
        if arrival.action == "OpenAccountCAM":
            break
        before.append((arrival.action, arrival.instance))
    assert sorted(instance for action, instance in before if action == "DescribeAccounts") == [
        *("postgres-aaaaaaaa", "postgres-aaaaaaaa"),
        *("postgres-bbbbbbbb", "postgres-bbbbbbbb"),
        "postgres-eeeeeeee",
    ]
    assert len(desk.records("before")) == 4 and all(line["why"] is None for line in desk.records("before"))


def test_a_match_and_a_list_may_mean_the_same_account(desk: Desk, backend: Backend) -> None:
    """It is done once, and the plan names both places."""
    job, api = ask(desk, backend, more="  - {instance: postgres-aaaaaaaa, user: app_user, region: ap-singapore}\n")
    plan = desk.run("plan", job, *api, "--json").json
    assert calls(plan) == FOUND
    (double,) = [omit for omit in plan["omits"] if omit["reason"] == "duplicate"]
    assert double["rule"].endswith("job.yaml:6:7") and ":9:" in double["where"]


def test_every_region_is_what_describeregions_says(desk: Desk, backend: Backend) -> None:
    """And that the financial ones are not among them is said."""
    job = desk.write("job.yaml", "action: LockAccount\ntargets: [{match: {regions: all, users: {glob: app_user}}}]\n")
    done = desk.run("plan", job, "--endpoint", backend.endpoint, "--json")
    assert calls(done.json) == {f"postgres-{letter * 8}/app_user" for letter in "abef"}
    assert "without ap-shanghai-fsi, ap-shenzhen-fsi" in done.err
    asked = {arrival.region for arrival in backend.world.audit if arrival.action == "DescribeDBInstances"}
    assert len(asked) == 16 and not any(region.endswith("-fsi") for region in asked)


# ---- bounds ----------------------------------------------------------------------------------------------------------


def test_with_yes_a_match_needs_a_bound(desk: Desk, backend: Backend) -> None:
    """Nobody sees what it found: exit 2, and nothing is even asked. A config's bound is one, too."""
    job, api = ask(desk, backend)
    job.write_text(job.read_text().replace("limits: {max_targets: 100}\n", ""))
    refused = desk.run("run", job, *api, "--yes")
    assert refused.code == 2 and "a match with --yes needs a bound" in refused.err
    assert not backend.world.audit
    desk.write("config.yaml", "limits: {max_targets: 2}\n")
    bounded = desk.run("run", job, *api, "--yes")
    assert bounded.code == 3 and "limits.max_targets 2: the plan has 3 calls" in bounded.err
    assert not backend.writes() and not desk.journals()


def test_a_match_of_everything_meets_the_guards(desk: Desk, backend: Backend) -> None:
    """max_share counts the accounts of the instances it acts on, not of those it looked at besides."""
    job, api = ask(desk, backend, glob="*")
    job.write_text(job.read_text().replace("max_targets: 100", "max_targets: 100, max_share: 50%"))
    refused = desk.run("run", job, *api, "--yes")
    assert refused.code == 3 and "max_share 50%: 4 of the 7 accounts read are 57.1%" in refused.err
    narrow = (
        job.read_text()
        .replace('glob: "*"', "glob: [etl, app_on]")
        .replace("50%", "20%")
        .replace("cam: off", "type: normal")
    )
    job.write_text(narrow)
    refused = desk.run("run", job, *api, "--yes")
    assert refused.code == 3 and "2 of the 4 accounts read" in refused.err
    assert not backend.writes()


def test_a_match_of_nothing_is_a_mistake_unless_it_may_be(desk: Desk, backend: Backend) -> None:
    """Exit 2 with what was looked at; with allow_empty exit 0, and a run of no calls: that night was not missed."""
    job, api = ask(desk, backend, glob="nobody_*")
    for verb in (("plan", job), ("run", job, "--yes"), ("discover", job)):
        empty = desk.run(*verb, *api)
        assert empty.code == 2
        assert "the match finds no account on 2 instances (left out: postgres-dddddddd/*: status isolated" in empty.err
        assert "allow_empty: true" in empty.err
    job.write_text(job.read_text() + "      allow_empty: true\n")
    assert desk.run("overdue", job, "--every", "8d").code == 1
    quiet = desk.run("run", job, *api, "--yes", "--quiet")
    assert (quiet.code, quiet.text) == (0, "")
    assert desk.run("overdue", job, "--every", "8d").code == 0
    assert "1 ended with exit 0; open: 0 accounts" in desk.run("status", "--since", "1d").out
    assert desk.run("resume", "latest").code == 0 and desk.run("journal", "verify", "latest").code == 0
    fine = desk.run("run", job, *api, "--yes", "--json")
    assert fine.code == 0 and sum(fine.json["counts"].values()) == 0 and fine.json["exit"] == 0
    assert desk.run("status", "latest").code == 0 and desk.run("report", "latest", "--format", "csv").code == 0
    assert "nothing to repeat" in desk.run("rerun", "latest", "--only", "failed").text
    assert not backend.writes()


def test_all_that_is_left_is_protected_and_that_may_be(desk: Desk, backend: Backend) -> None:
    """A weekly job whose only leftovers must stay is done, if it says that nothing may be left; else it is refused."""
    job, api = ask(desk, backend, glob="breakglass_*")
    assert desk.run("run", job, *api, "--yes").code == 3
    job.write_text(job.read_text() + "      allow_empty: true\n")
    done = desk.run("run", job, *api, "--yes")
    assert done.code == 0 and "protected  1" in done.err and "nothing to do" in done.err


# ---- what cannot be looked at ----------------------------------------------------------------------------------------


def test_a_region_that_cannot_be_listed_counts_as_failed(desk: Desk, backend: Backend) -> None:
    """The rest is done; the exit code, the sentence, the failures and the CSV say that something may be missing."""
    job, api = ask(desk, backend)
    backend.script({"action": "DescribeDBInstances", "region": "ap-tokyo", "code": "UnauthorizedOperation"})
    listed = desk.run("discover", job, *api)
    assert listed.code == 1 and "instances of ap-tokyo: UnauthorizedOperation" in listed.err
    assert "instances of ap-tokyo cannot be listed: UnauthorizedOperation: CAM does not let this key" in listed.err
    assert "acctops doctor JOB --policy prints what to grant, then: this command again" in listed.err
    done = desk.run("run", job, *api, "--yes", "--json")
    assert done.code == 1, done.text
    assert written(backend) == {"postgres-aaaaaaaa/app_user"}
    assert done.json["counts"] == {"changed": 1, "already": 0, "failed": 1, "unknown": 0, "unattempted": 0}
    assert done.json["left_out"]["unseen"] == 1
    (failure,) = done.json["failures"]
    assert (failure["code"], failure["region"], failure["outcome"]) == ("Local.Unseen", "ap-tokyo", "failed")
    assert "instances of ap-tokyo: UnauthorizedOperation" in failure["message"]
    text = desk.run("report", done.json["run"]).out
    assert "1 of 2 verified" in text and "1 not: 1 failed" in text and "go on:" not in text
    assert "Local.Unseen" in desk.run("report", done.json["run"], "--stuck").out
    assert ",ap-tokyo,*,*," in desk.run("report", done.json["run"], "--format", "csv").out
    again = desk.run("rerun", done.json["run"], "--yes")
    assert again.code == 1 and "never became a call" in again.err and "instances of ap-tokyo" in again.err


def test_an_instance_whose_accounts_cannot_be_read_counts_as_failed(desk: Desk, backend: Backend) -> None:
    """And an id that is nowhere."""
    job, api = ask(desk, backend)
    ids = "{ids: [postgres-aaaaaaaa, postgres-bbbbbbbb, postgres-gone0000]}"
    job.write_text(job.read_text().replace("{tag: env=prod}", ids))
    backend.script(
        {"action": "DescribeAccounts", "instance": "postgres-bbbbbbbb", "code": "OperationDenied.CamDeniedError"}
    )
    done = desk.run("run", job, *api, "--yes", "--json")
    assert done.code == 1
    said = {each["instance"]: each["message"] for each in done.json["failures"]}
    assert "no instance postgres-gone0000 in ap-singapore, ap-tokyo" in said["postgres-gone0000"]
    assert "its accounts could not be read: OperationDenied.CamDeniedError" in said["postgres-bbbbbbbb"]
    assert len(said) == done.json["counts"]["failed"] == 2 and done.json["counts"]["changed"] == 1


def test_nothing_found_where_not_all_was_seen_is_no_success(desk: Desk, backend: Backend) -> None:
    """allow_empty means nothing there, not nothing seen."""
    job, api = ask(desk, backend, glob="nobody", more="      allow_empty: true\n")
    backend.script({"action": "DescribeDBInstances", "region": "ap-tokyo", "code": "UnauthorizedOperation"})
    refused = desk.run("run", job, *api, "--yes")
    assert refused.code == 2 and "could not look everywhere: instances of ap-tokyo" in refused.err


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"code": "UnauthorizedOperation"}, "instances may not be listed with these keys"),
        ({"code": "AuthFailure.SecretIdNotFound"}, "AuthFailure.SecretIdNotFound: "),
    ],
)
def test_keys_that_may_not_look_are_exit_5(desk: Desk, backend: Backend, rule: dict[str, Any], said: str) -> None:
    """Before anything is asked of a person."""
    job, api = ask(desk, backend)
    backend.script({"action": "DescribeDBInstances", **rule})
    for verb in ("plan", "run", "discover"):
        refused = desk.run(verb, job, *api)
        assert refused.code == 5 and said in refused.err, refused.text


@pytest.mark.parametrize("regions", ["[ap-tokyo]", "all"])
def test_an_api_that_cannot_be_reached_is_not_the_match_s_fault(desk: Desk, regions: str) -> None:
    """Nobody listens at the desk's endpoint: that is said, once, and no list of regions."""
    text = f"action: LockAccount\ntargets: [{{match: {{regions: {regions}, users: {{glob: x}}}}}}]\n"
    refused = desk.run("plan", desk.write("job.yaml", text))
    assert refused.code == 4 and "cannot reach the API: " in refused.err and "[Local.Connect]" in refused.err
    assert "ap-bangkok" not in refused.err


def test_regions_are_taken_from_the_documents_if_they_cannot_be_asked(desk: Desk, backend: Backend) -> None:
    """DescribeRegions may be forbidden where the rest is allowed: that is said, and no region left away."""
    job = desk.write("job.yaml", "action: LockAccount\ntargets: [{match: {regions: all, users: {glob: app_user}}}]\n")
    backend.script({"action": "DescribeRegions", "code": "UnauthorizedOperation"})
    done = desk.run("plan", job, "--endpoint", backend.endpoint, "--json")
    assert len(calls(done.json)) == 4 and "the documented regions are taken" in done.err


def test_an_instance_deleted_between_plan_and_run_fails_in_words(desk: Desk, backend: Backend) -> None:
    """Its calls fail with what happened and what to do; the others are done."""
    job, api = ask(desk, backend)
    gone = {"instance": "postgres-bbbbbbbb", "code": "ResourceNotFound.InstanceNotFoundError"}
    backend.script({"action": "OpenAccountCAM", **gone}, {"action": "DescribeAccounts", "after": 2, **gone})
    done = desk.run("run", job, *api, "--yes", "--json")
    assert done.code == 1 and done.json["counts"]["changed"] == 1
    for failure in done.json["failures"]:
        assert failure["instance"] == "postgres-bbbbbbbb"
        assert failure["code"] == "ResourceNotFound.InstanceNotFoundError" and failure["advice"]


# ---- looking, and offline --------------------------------------------------------------------------------------------


def test_offline_a_plan_says_what_it_cannot_know(desk: Desk) -> None:
    """No keys, no network, no guess."""
    more = "  - {instance: postgres-a1, user: x, region: ap-tokyo}\n"
    job = desk.write("job.yaml", JOB.format(glob="app_*", more=more))
    plan = desk.run("plan", job, "--offline")
    assert plan.code == 0
    assert "NOT ASKED (--offline): which accounts, and how many, is not known" in plan.out
    document = desk.run("plan", job, "--offline", "--json").json
    assert document["match"][0]["accounts"] is None and calls(document) == {"postgres-a1/x"}


def test_what_is_not_named_is_counted(desk: Desk, backend: Backend) -> None:
    """Of thirty ids that are nowhere twenty are named: the others must not seem to have been found."""
    ids = ", ".join(["postgres-aaaaaaaa", *(f"postgres-none{number}" for number in range(30))])
    asks = f"{{regions: ap-singapore, instances: {{ids: [{ids}]}}, users: {{glob: etl}}}}"
    job = desk.write("job.yaml", f"action: LockAccount\ntargets: [{{match: {asks}}}]\n")
    done = desk.run("discover", job, "--endpoint", backend.endpoint)
    assert done.code == 1 and done.err.count(": no instance postgres-none") == 20
    assert "… and 10 more: acctops plan " in done.err


@pytest.mark.parametrize("form", ["csv", "jsonl", "yaml"])
def test_a_list_goes_round(desk: Desk, backend: Backend, form: str) -> None:
    """What discover writes is read back as the same accounts, without a warning; a line less is an account less."""
    job, api = ask(desk, backend)
    listed = desk.run("discover", job, *api, "--format", form)
    assert listed.code == 0
    assert "left out, skipped: postgres-cccccccc/* (ap-tokyo)  type readonly" in listed.err
    if form == "yaml":
        again = desk.write("again.yaml", "action: OpenAccountCAM\n" + listed.out)
    else:
        desk.write(f"found.{form}", listed.out)
        again = desk.write("again.yaml", f"action: OpenAccountCAM\ntargets: [{{{form}: found.{form}}}]\n")
    plan = desk.run("plan", again, *api, "--json").json
    assert calls(plan) == FOUND and plan["warnings"] == []
    if form != "yaml":
        edited = [line for line in listed.out.splitlines() if "app_locked" not in line]
        desk.write(f"found.{form}", "\n".join(edited) + "\n")
        assert calls(desk.run("plan", again, *api, "--json").json) == FOUND - {"postgres-bbbbbbbb/app_locked"}


def test_a_table_is_for_people(desk: Desk, backend: Backend) -> None:
    """Names, version, type, state and CAM beside each account; what is protected is not among them."""
    job, api = ask(desk, backend, glob="*")
    listed = desk.run("discover", job, *api)
    lines = [line.split() for line in listed.out.splitlines()]
    assert lines[0] == ["instance", "user", "region", "instance_name", "engine_version", "user_type", "status", "cam"]
    assert ["postgres-bbbbbbbb", "app_locked", "ap-tokyo", "prod-crm", "16", "normal", "locked", "off"] in lines
    assert "breakglass_x" not in listed.out
    assert "left out, protected: postgres-aaaaaaaa/breakglass_x (ap-singapore)  */breakglass_*" in listed.err


def test_a_name_that_is_a_formula_is_text(desk: Desk) -> None:
    """Instance names are anybody's: in a spreadsheet they must not run, on a terminal not move the cursor."""
    odd = {"id": "postgres-aaaaaaaa", "region": "ap-tokyo", "name": "=1+1\x1b[2J\n,x", "accounts": ["ann"]}
    with Backend(World(fleet=fleet_from({"instances": [odd]}), latency=0)) as backend:
        job = desk.write(
            "job.yaml", "action: LockAccount\nregion: ap-tokyo\ntargets: [{match: {users: {glob: ann}}}]\n"
        )
        for form in ("table", "csv", "yaml", "jsonl"):
            listed = desk.run("discover", job, "--endpoint", backend.endpoint, "--format", form).out
            assert "\x1b" not in listed and "ann" in listed
        listed = desk.run("discover", job, "--endpoint", backend.endpoint, "--format", "csv").out
        assert listed.splitlines()[1].split(",", 3)[3].startswith("\"'=1+1")


def test_discover_of_a_plain_list_says_what_shows_it(desk: Desk) -> None:
    """There is nothing to find."""
    refused = desk.run("discover", desk.job())
    assert refused.code == 2 and "has no match to answer" in refused.err


# ---- simulated -------------------------------------------------------------------------------------------------------


def test_a_drill_has_a_world_to_look_in(desk: Desk) -> None:
    """--fleet: a file, or one made up; the same text is the same world."""
    job = desk.write(
        "job.yaml",
        "action: LockAccount\nlimits: {max_targets: 9999}\n"
        'targets: [{match: {regions: [ap-tokyo], users: {glob: "app_*"}, instances: {tag: env}}}]\n',
    )
    bare = desk.run("run", job, "--simulate", "--yes", "--state-dir", "elsewhere")
    assert bare.code == 0 and "--fleet random:40x8@ap-tokyo; it is not yours" in bare.err
    assert desk.run("run", job, "--fleet", "random:4x4", "--yes").code == 2
    assert desk.run("run", job, "--simulate", "--fleet", "random:4", "--yes").code == 2
    runs = [desk.run("run", job, "--simulate", "--fleet", "random:8x5@ap-tokyo", "--yes", "--json") for _ in range(2)]
    assert [run.code for run in runs] == [0, 0], runs[0].text
    first, second = (records(path, "call") for path in desk.journals(simulated=True))
    assert [line["call"] for line in first] == [line["call"] for line in second]
    fleet = desk.write("fleet.yaml", json.dumps(FLEET))
    done = desk.run("run", job, "--simulate", "--fleet", fleet, "--yes", "--json").json
    assert done["counts"]["changed"] + done["counts"]["already"] == 3
    resumed = desk.run("resume", done["run"], "--json")
    assert resumed.code == 0
    desk.write("two.yaml", f"accounts: [a, b]\n{job.read_text()}")
    lost = desk.run("run", "two.yaml", "--simulate", "--fleet", fleet, "--yes")
    assert "6 of 6 instances, such as postgres-aaaaaaaa without a uin:, belong to none of these" in lost.err
