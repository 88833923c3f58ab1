"""Several cloud accounts in one job: what a job file may say of them, and one run over all of them."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.errors import JobError
from engine.inputs.jobfile.parse import parse_job
from engine.model import AccountSpec
from engine.simulator.estate import NORMAL
from engine.simulator.faults import rules_from
from engine.simulator.fleet import fleet_from
from engine.simulator.sts import KeyRecord, Role
from engine.simulator.world import World
from tests.support.command import Backend, Desk

ROLE = "qcs::cam::uin/100000000003:roleName/ops"
HEAD = "action: LockAccount\nregion: ap-tokyo\n"
TWO = HEAD + "accounts: [a, {name: b, profile: [b1, b2]}]\n"


def parse(text: str, **lists: str) -> Any:
    return parse_job(text.encode(), file="j.yaml", read=lambda path: lists[path.partition(".")[0]].encode())


# ---- the job file --------------------------------------------------------------------------------------------------


def test_an_account_is_a_profile_several_profiles_or_a_role() -> None:
    """Each has a name: its own word for it, its profile's, or the uin of its role."""
    job = parse(
        HEAD + "accounts:\n"
        f"  - a\n  - {{profile: b}}\n  - {{name: c, profile: [c1, c2]}}\n  - {{role_arn: '{ROLE}'}}\n"
        f"  - {{name: d, profile: base, role_arn: '{ROLE}-2'}}\n"
        "targets: [{instance: postgres-a1, user: u, account: a}]\n"
    )
    assert job.accounts == (
        AccountSpec(name="a", profiles=("a",)),
        AccountSpec(name="b", profiles=("b",)),
        AccountSpec(name="c", profiles=("c1", "c2")),
        AccountSpec(name="100000000003", role_arn=ROLE),
        AccountSpec(name="d", profiles=("base",), role_arn=f"{ROLE}-2"),
    )


def test_every_form_of_a_target_can_say_its_account() -> None:
    """One account needs no word; of several each target says which, a list for all its rows or row by row."""
    one = parse(HEAD + "accounts: [only]\ntargets: [postgres-a1/u, {csv: x.csv}]\n", x="instance,user\npostgres-a2,u\n")
    assert {target.account for target in one.targets} == {"only"}
    job = parse(
        TWO + "targets:\n  - {instance: postgres-a1, user: [u, v], account: a}\n  - {csv: x.csv, account: b}\n"
        "  - {jsonl: y.jsonl, account: b}\n  - match: {accounts: [b], users: {glob: x}}\n"
        "  - match: {users: {glob: x}}\n",
        x="Instance;User;Account\npostgres-a2;u;\npostgres-a2;v;a\n",
        y='{"instance":"postgres-a3","user":"u"}\n{"instance":"postgres-a3","user":"v","account":"a"}\n',
    )
    assert [target.account for target in job.targets] == ["a", "a", "b", "a", "b", "a"]
    assert [match.accounts for match in job.matches] == [("b",), ("a", "b")]
    assert parse(HEAD + "targets: [postgres-a1/u]\n").targets[0].account == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "accounts: []\ntargets: [postgres-a1/u]\n", "j.yaml:3:11: accounts: expected a list of accounts"),
        (HEAD + "accounts: a\ntargets: [postgres-a1/u]\n", "accounts: expected a list of accounts"),
        (HEAD + "accounts: [a, a]\ntargets: [postgres-a1/u]\n", "accounts[1]: 'a' stands twice"),
        (HEAD + "accounts: [a, {name: b, profile: a}]\ntargets: [postgres-a1/u]\n", "accounts[1]: is 'a' again"),
        (HEAD + "accounts: [a, {name: b, profile: [c, a]}]\ntargets: [postgres-a1/u]\n", "accounts[1]: is 'a' again"),
        (
            HEAD + f"accounts: [{{role_arn: '{ROLE}'}}, {{name: b, profile: b, role_arn: '{ROLE}'}}]\ntargets: []\n",
            "accounts[1]: is '100000000003' again: the same keys, and so the same instances; keep one",
        ),
        (HEAD + "accounts: [{}]\ntargets: [postgres-a1/u]\n", "accounts[0]: says neither profile nor role_arn"),
        (HEAD + "accounts: [{profile: [x, y]}]\ntargets: [postgres-a1/u]\n", "accounts[0].name: is missing"),
        (HEAD + "accounts: [{rolearn: x}]\ntargets: [postgres-a1/u]\n", "did you mean role_arn?"),
        (HEAD + "accounts: [{role_arn: x}]\ntargets: [postgres-a1/u]\n", "accounts[0].role_arn: expected the ARN"),
        (HEAD + "accounts: [{name: 'a b', profile: x}]\ntargets: [postgres-a1/u]\n", "[0].name: expected a name"),
        (HEAD + "accounts: [a/b]\ntargets: [postgres-a1/u]\n", "accounts[0]: expected the name of a tccli profile"),
        (TWO + "targets: [postgres-a1/u, postgres-a1/v]\n", "account: 2 targets without an account, the first here"),
        (TWO + "targets: [{instance: postgres-a1, user: u, account: bb}]\n", "'bb' is none of the job's accounts; did"),
        (TWO + "targets: [{match: {accounts: [zz], users: {glob: x}}}]\n", "'zz' is none of the job's accounts"),
        (TWO + "targets: [{account: a, match: {users: {glob: x}}}]\n", "match and account together; a match"),
        (HEAD + "targets: [{instance: postgres-a1, user: u, account: a}]\n", "but the job names none; list it"),
        (TWO + "profile: p\ntargets: [{instance: postgres-a1, user: u, account: a}]\n", "profile beside accounts"),
    ],
)  # fmt: skip
def test_mistakes_about_accounts_are_named(text: str, said: str) -> None:
    """Nothing is sent for an account nobody meant."""
    with pytest.raises(JobError) as caught:
        parse(text)
    assert said in str(caught.value)


def test_a_row_of_an_unknown_account_is_a_bad_row() -> None:
    """Named with its line, like any other."""
    with pytest.raises(JobError) as caught:
        parse(TWO + "targets: [{csv: x.csv}]\n", x="instance,user,account\npostgres-a1,u,a\npostgres-a1,v,c\n")
    assert "x.csv:3: account: 'c' is none of the job's accounts" in str(caught.value)


# ---- one run over all of them ---------------------------------------------------------------------------------------

USERS = int(os.environ.get("ACCTOPS_TENANTS_USERS", "12"))
"""Accounts on the smaller instance of a region; the other has one more."""
EACH = 2 * USERS + 1
REGIONS = ("ap-singapore", "ap-tokyo", "ap-seoul", "ap-bangkok")
UINS = {"one": "100000000001", "two": "100000000002", "three": "100000000003"}


def tenants(faults: list[dict[str, Any]]) -> World:
    """Three cloud accounts, each with two instances in each of four regions, a dozen accounts on each."""
    instances = [
        {
            "id": f"postgres-{name}{number}{region[-2:]}",
            "region": region,
            "uin": uin,
            "accounts": [f"app_{user}" for user in range(USERS + number)]
            + [{"name": "root", "type": "tencentDBSuper"}],
        }
        for name, uin in UINS.items()
        for region in REGIONS
        for number in range(2)
    ]
    keys = {
        f"AKID{name}": KeyRecord(
            secret_key=f"secret-{name}",
            uin=uin,
            identity=f"user-{name}",
            denied=frozenset({"OpenAccountCAM", "CloseAccountCAM"} if name == "two" else ()),
        )
        for name, uin in UINS.items()
        if name != "three"
    }
    role = Role(name="ops", uin=UINS["three"], trusted=frozenset({"user-one"}), longest_s=43200)
    return World(
        fleet=fleet_from({"instances": instances}),
        faults=rules_from(faults),
        keys=keys,
        roles=(role,),
        quotas={"*": None},
        audit=None,
    )


def prepare(desk: Desk, backend: Backend) -> None:
    for name in ("one", "two"):
        path = Path(desk.env["HOME"]) / ".tccli" / f"{name}.credential"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"secretId": f"AKID{name}", "secretKey": f"secret-{name}"}))
        path.chmod(0o600)
    desk.env |= {"ACCTOPS_ENDPOINT": backend.endpoint, "ACCTOPS_RATE": "1000"}
    desk.env.pop("TENCENTCLOUD_SECRET_ID", None)
    desk.env.pop("TENCENTCLOUD_SECRET_KEY", None)
    desk.write(
        "job.yaml",
        "action: OpenAccountCAM\n"
        f"accounts: [one, two, {{name: three, profile: one, role_arn: '{ROLE}'}}]\n"
        "targets:\n"
        f"  - match: {{regions: [{', '.join(REGIONS)}], users: {{glob: 'app_*', cam: false}}}}\n"
        "limits: {max_targets: 5000}\nstop_after: 100%\n",
    )


def test_three_accounts_in_four_regions_one_denied_and_one_region_without_the_feature(desk: Desk) -> None:
    """Exact outcomes, one journal; what one account may not do is nobody else's loss; and the undo is exact."""
    without = {
        "region": "ap-bangkok",
        "action": "OpenAccountCAM",
        "code": "InvalidParameterValue.UnsupportedRegionError",
    }
    with Backend(tenants([without])) as backend:
        prepare(desk, backend)
        done = desk.run("run", "job.yaml", "--yes", "--json")
        assert done.code == 4, done.text
        run = desk.journal().parent.name
        calls = {line["call"]: line for line in desk.records("call")}
        assert Counter(line["account"] for line in calls.values()) == dict.fromkeys(UINS, 4 * EACH)
        counts = Counter(
            (line["account"], line["region"] == "ap-bangkok", line["outcome"])
            for line in desk.run("report", run, "--format", "json").json["targets"]
        )
        for name in ("one", "three"):
            assert counts[name, False, "changed"] == 3 * EACH
            assert counts[name, True, "failed"] == EACH
        denied = counts["two", False, "failed"] + counts["two", True, "failed"]
        left = counts["two", False, "unattempted"] + counts["two", True, "unattempted"]
        assert denied + left == 4 * EACH
        assert denied >= 20, "its permission is watched for by itself"
        assert not [key for key in counts if key[0] == "two" and key[2] == "changed"]
        uins = {note["data"]["account"]: note["data"]["uin"] for note in desk.records("note") if "uin" in note["data"]}
        assert uins == UINS
        said = desk.run("report", run, "--format", "json").json["identities"]
        assert {each["account"]: each["uin"] for each in said} == UINS
        assert {each["sub_account"] for each in said if each["account"] != "three"} == {"user-one", "user-two"}
        for arrival in backend.world.audit:
            if arrival.instance and arrival.code is None and not arrival.action.startswith("Describe"):
                owner = arrival.instance.removeprefix("postgres-")[:-3]
                assert arrival.identity == {"one": "user-one"}.get(owner, arrival.identity)
        passwords = [f"{line['instance']},{line['user']},Passw0rd!x" for line in calls.values()]
        desk.write("new.csv", "\n".join(["instance,user,password", *passwords]) + "\n").chmod(0o600)
        undone = desk.run("undo", run, "--yes", "--password-file", "new.csv", "--json")
        assert undone.code == 0, undone.text
        assert undone.json["counts"]["changed"] == 2 * 3 * EACH
        for name in UINS:
            for region in REGIONS:
                for number in range(2):
                    instance = backend.world.instance(f"postgres-{name}{number}{region[-2:]}")
                    assert instance is not None
                    assert {(each.cam, each.status) for each in instance.accounts.values()} == {(False, NORMAL)}


LISTED = (
    "action: LockAccount\nregion: ap-tokyo\naccounts: [one, two]\ntargets:\n"
    "  - {instance: postgres-one0yo, user: [app_0, app_1], account: one}\n"
    "  - {instance: postgres-two0yo, user: [app_0, app_1], account: two}\n"
)


def test_one_account_without_a_profile_fails_its_own_calls_only(desk: Desk) -> None:
    """Named before anything is sent, and in the end; with the profile there a resume ends it, and undo is exact."""
    with Backend(tenants([])) as backend:
        prepare(desk, backend)
        desk.write("listed.yaml", LISTED)
        profile = Path(desk.env["HOME"]) / ".tccli" / "two.credential"
        kept = profile.rename(profile.with_suffix(".kept"))
        planned = desk.run("plan", "listed.yaml")
        assert "warning: two: no keys, nothing of this account can be sent: profile two: no file" in planned.err
        done = desk.run("run", "listed.yaml", "--yes", "--json")
        assert done.code == 4, done.text
        assert done.json["counts"] | {"changed": 2, "unattempted": 2} == done.json["counts"]
        assert done.json["stopped"]["code"] == "Local.NoKeys"
        assert "profile two: no file" in done.json["stopped"]["why"]
        assert len(backend.writes()) == 2
        run = done.json["run"]
        told = desk.run("status", run).out
        assert told.count(f"STOPPED EARLY for two: profile two: no file {profile}") == 1
        assert told.count("no file") == 1, "once is enough"
        assert "  2 × never sent\n      postgres-two0yo/app_0 (two, ap-tokyo)\n" in told, (
            "instances do not say whose they are"
        )
        assert "  postgres-two0yo/app_0  two  ap-tokyo" in desk.run("report", run, "--stuck").out
        verified = desk.run("verify", run)
        assert verified.code == 1 and "2 never were" in verified.out, "what was never done is no success"
        assert "2 of 4 still locked" in verified.out, "what was changed is read with the keys there are"
        kept.rename(profile)
        again = desk.run("resume", run, "--yes", "--json")
        assert again.code == 0, again.text
        assert again.json["counts"]["changed"] == 4
        assert "STOPPED" not in desk.run("status", run).out, "it was mended"
        profile.unlink()
        undone = desk.run("undo", run, "--yes", "--json")
        assert undone.code == 1, undone.text
        assert undone.json["counts"] | {"changed": 2, "failed": 2} == undone.json["counts"]
        assert "open: 2 accounts" in desk.run("status", "--since", "1d").out
        rerun = desk.run("rerun", undone.json["run"], "--yes")
        assert rerun.code == 1 and f"only the undo, done again, can do it: acctops undo {run}" in rerun.err
        profile.write_text(json.dumps({"secretId": "AKIDtwo", "secretKey": "secret-two"}))
        rest = desk.run("undo", run, "--yes", "--json")
        assert rest.code == 0, rest.text
        assert rest.json["counts"]["changed"] == 2
        assert "open: 0 accounts" in desk.run("status", "--since", "1d").out


def test_what_an_older_version_locked_is_verified_and_undone_with_the_same_keys(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal has commas between the sources; where STS is out of reach nothing else says whose keys they were."""
    with Backend(tenants([{"action": "GetCallerIdentity", "code": "InternalError"}])) as backend:
        prepare(desk, backend)
        desk.write("listed.yaml", LISTED)
        with monkeypatch.context() as older:
            older.setattr("engine.cloud.clients._AND", ", ")
            run = desk.run("run", "listed.yaml", "--yes", "--json").json["run"]
        assert desk.records("run")[0]["identity"] == "tccli profile one, tccli profile two"
        assert not any("uin" in note["data"] and note["data"]["uin"] for note in desk.records("note"))
        verified = desk.run("verify", run)
        assert verified.code == 0, verified.text
        undone = desk.run("undo", run, "--yes", "--json")
        assert undone.code == 0 and undone.json["counts"]["changed"] == 4, undone.text


def test_a_listed_account_without_keys_beside_a_match_that_is_answered(desk: Desk) -> None:
    """What the match had read is no reason to take the one instance that nobody can read for all there is."""
    with Backend(tenants([])) as backend:
        prepare(desk, backend)
        desk.write(
            "both.yaml",
            "action: LockAccount\nregion: ap-tokyo\naccounts: [one, two]\ntargets:\n"
            "  - {instance: postgres-two0yo, user: app_0, account: two}\n"
            "  - match: {accounts: [one], users: {glob: 'app_*'}}\nlimits: {max_targets: 5000}\n",
        )
        (Path(desk.env["HOME"]) / ".tccli" / "two.credential").unlink()
        done = desk.run("run", "both.yaml", "--yes", "--json")
        assert done.code == 4, done.text
        assert done.json["counts"] | {"changed": EACH, "unattempted": 1} == done.json["counts"]


def test_not_one_account_with_keys_is_refused_before_anything_is_sent(desk: Desk) -> None:
    """Exit 5, every one named, or the second is only found out when the first is mended; no run made."""
    with Backend(tenants([])) as backend:
        prepare(desk, backend)
        desk.write("listed.yaml", LISTED)
        for name in ("one", "two"):
            (Path(desk.env["HOME"]) / ".tccli" / f"{name}.credential").unlink()
        done = desk.run("run", "listed.yaml", "--yes")
        assert done.code == 5
        assert "one: profile one: no file" in done.err and "two: profile two: no file" in done.err
        assert not backend.writes()


def test_a_match_says_where_it_could_not_look_for_want_of_keys(desk: Desk) -> None:
    """What is found in the others is sent; the account that could not be asked is lacking, so exit is not 0."""
    with Backend(tenants([])) as backend:
        prepare(desk, backend)
        (Path(desk.env["HOME"]) / ".tccli" / "two.credential").unlink()
        done = desk.run("run", "job.yaml", "--yes", "--json")
        assert done.code == 1, done.text
        assert done.json["counts"]["changed"] == 2 * 4 * EACH
        assert done.err.count("two: no keys") == 1


def test_keys_that_become_another_account_s_end_that_account_only_and_for_good(desk: Desk) -> None:
    """A profile rewritten by another login in mid-run: its lanes close, the other account is done, and no resume, undo
    or verify takes the strange keys for the run's own because it has met them."""
    with Backend(tenants([])) as backend:
        prepare(desk, backend)
        backend.world.keys["AKIDfour"] = KeyRecord(secret_key="secret-two", uin="100000000004", identity="user-four")
        users = ", ".join(f"app_{number}" for number in range(USERS))
        listed = "".join(
            f"  - {{instance: postgres-{name}{number}yo, user: [{users}], account: {name}}}\n"
            for name in ("one", "two")
            for number in range(2)
        )
        desk.write("listed.yaml", LISTED.partition("  - ")[0] + listed)
        profile = Path(desk.env["HOME"]) / ".tccli" / "two.credential"
        right = profile.read_text()
        process = desk.popen("run", "listed.yaml", "--yes", "--json", "--rate", str(USERS / 2))
        desk.wait_for("reply", 4)
        profile.write_text(right.replace("AKIDtwo", "AKIDfour"))
        done = desk.end(process)
        assert done.code == 4, done.text
        said = "the run acted for two on account 100000000002, these keys are of 100000000004"
        assert said in done.json["stopped"]["why"]
        run = done.json["run"]
        outcomes = Counter(
            (each["account"], each["outcome"]) for each in desk.run("report", run, "--format", "json").json["targets"]
        )
        assert outcomes["one", "changed"] == 2 * USERS
        assert outcomes["two", "unattempted"] > 0
        before = desk.journal().read_bytes()
        for verb in (["resume", run, "--yes"], ["verify", run]):
            refused = desk.run(*verb)
            assert refused.code == 5 and said in refused.err, refused.text
        assert desk.journal().read_bytes() == before
        profile.write_text(right)
        again = desk.run("resume", run, "--yes", "--json")
        assert again.json["counts"] | {"unknown": 0, "unattempted": 0} == again.json["counts"], again.text
        missed = again.json["counts"]["failed"]  # what was sent before anybody knew
        assert again.json["counts"]["changed"] == 4 * USERS - missed
        profile.write_text(right.replace("AKIDtwo", "AKIDfour"))
        refused = desk.run("undo", run, "--yes")
        assert refused.code == 5 and said in refused.err, refused.text
        profile.write_text(right)
        undone = desk.run("undo", run, "--yes", "--json")
        assert undone.json["counts"]["changed"] == 4 * USERS - missed, undone.text


def test_profiles_of_two_cloud_accounts_are_no_lanes_of_one(desk: Desk) -> None:
    """The second can do nothing for the first one's instances: its lane closes once that is known, and says why."""
    with Backend(tenants([])) as backend:
        prepare(desk, backend)
        users = ", ".join(f"app_{number}" for number in range(USERS))
        desk.write(
            "listed.yaml",
            "action: LockAccount\nregion: ap-tokyo\nprofile: [one, two]\ntargets:\n"
            f"  - postgres-one0yo: [{users}]\n  - postgres-one1yo: [{users}]\n",
        )
        done = desk.run("run", "listed.yaml", "--yes", "--json", "--rate", str(USERS / 4))
        closed = [note["data"]["why"] for note in desk.records("note") if note["what"] == "lane_closed"]
        assert closed == [
            "the run acted on account 100000000001, these keys are of 100000000002: "
            "not the account whose accounts these are; put its keys back"
        ], done.text
        assert done.json["counts"]["changed"] >= USERS


def lose_two(desk: Desk, backend: Backend, lost: str) -> None:
    """Account two has no profile here any more, or its key is deleted there."""
    if lost == "profile":
        (Path(desk.env["HOME"]) / ".tccli" / "two.credential").unlink()
    else:
        del backend.world.keys["AKIDtwo"]


@pytest.mark.parametrize("lost", ["profile", "key"])
def test_a_match_everywhere_does_not_hang_on_the_account_named_first(desk: Desk, lost: str) -> None:
    """Which regions there are is asked of every account: the first one's keys are gone, the others are done."""
    with Backend(tenants([])) as backend:
        prepare(desk, backend)
        lose_two(desk, backend, lost)
        match = "match: {regions: all, users: {glob: 'app_1'}}"
        head = "action: LockAccount\naccounts: [two, one]\nlimits: {max_targets: 100}\n"
        desk.write("job.yaml", f"{head}targets: [{match}]\n")
        done = desk.run("run", "job.yaml", "--yes", "--json")
        assert done.code == 1, done.text
        assert done.json["counts"]["changed"] == 8
        assert {failure["account"] for failure in done.json["failures"]} == {"two"}
        if lost == "key":
            assert "two's instances of 16 regions cannot be listed: AuthFailure.SecretIdNotFound: This key" in done.err


@pytest.mark.parametrize("lost", ["profile", "key"])
@pytest.mark.parametrize("regions", ["all", "ap-tokyo"])
def test_a_match_for_each_account_is_not_lost_over_one_of_them(desk: Desk, lost: str, regions: str) -> None:
    """Written account by account, as matches or a list: what another account's match cannot see has failed, the rest
    is done; it was refused as a whole (exit 2 or 5), and nobody was locked."""
    with Backend(tenants([])) as backend:
        prepare(desk, backend)
        lose_two(desk, backend, lost)
        head = "action: LockAccount\nregion: ap-tokyo\naccounts: [one, two]\nlimits: {max_targets: 100}\ntargets:\n"
        asks = "  - match: {{accounts: [{}], regions: {}, users: {{glob: app_1}}}}\n"
        listed = "  - {instance: postgres-one0yo, user: app_2, account: one}\n"
        desk.write("matches.yaml", head + asks.format("two", regions) + asks.format("one", "ap-tokyo"))
        desk.write("list.yaml", head + listed + asks.format("two", regions))
        for job, changed in (("matches.yaml", 2), ("list.yaml", 1)):
            done = desk.run("run", job, "--yes", "--json")
            assert done.code == 1, done.text
            assert done.json["counts"]["changed"] == changed
            assert {(failure["account"], failure["code"]) for failure in done.json["failures"]} == {
                ("two", "Local.Unseen")
            }


def test_a_match_of_refused_keys_says_whose_they_are(desk: Desk) -> None:
    """Exit 5, and each account with its own reason: one revoked, one without a profile."""
    with Backend(tenants([])) as backend:
        prepare(desk, backend)
        del backend.world.keys["AKIDone"]
        (Path(desk.env["HOME"]) / ".tccli" / "two.credential").unlink()
        for regions in ("all", "ap-tokyo"):
            match = f"match: {{regions: {regions}, users: {{glob: 'app_*'}}}}"
            desk.write("job.yaml", f"action: LockAccount\naccounts: [one, two]\ntargets: [{match}]\n")
            done = desk.run("plan", "job.yaml")
            assert done.code == 5, done.text
            assert "one: AuthFailure.SecretIdNotFound: This key" in done.err and "two: Local.NoKeys: " in done.err


def test_two_names_of_one_cloud_account_are_found_out(desk: Desk) -> None:
    """A profile that holds the keys of another: its own accounts would stay as they are, and the run exit with 0."""
    with Backend(tenants([])) as backend:
        prepare(desk, backend)
        home = Path(desk.env["HOME"]) / ".tccli"
        (home / "two.credential").write_text((home / "one.credential").read_text())
        done = desk.run("run", "job.yaml", "--yes")
        assert done.code == 2, done.text
        assert "job.yaml:4:12: one and two are one cloud account, or their keys are: both have postgres-one" in done.err
        assert not backend.writes()


def test_lines_about_targets_say_whose_they_are(desk: Desk) -> None:
    """An instance id tells nobody which console to open: reports, previews and readings name the account, too."""
    rule = {"action": "LockAccount", "instance": "postgres-two0yo", "code": "InternalError.DBError"}
    with Backend(tenants([rule | {"code": "InvalidParameterValue.ParameterCheckError"}])) as backend:
        prepare(desk, backend)
        desk.write("listed.yaml", LISTED + "exclude: ['postgres-one0yo/app_1']\n")
        assert "left out, excluded: one postgres-one0yo/app_1  " in desk.run("plan", "listed.yaml").out
        done = desk.run("run", "listed.yaml", "--yes")
        assert done.code == 1, done.text
        assert "  2 × InvalidParameterValue" in done.out
        assert "\n      postgres-two0yo/app_0 (two, ap-tokyo)  RequestId " in done.out
        assert f"  one ({UINS['one']}): 1 of 1 locked\n" in done.out
        assert f"  two ({UINS['two']}): 0 of 2 locked, 2 failed\n" in done.out


def test_one_account_whose_keys_are_refused_fails_its_own_calls_only(desk: Desk) -> None:
    """Revoked since the profile was written: its accounts are unattempted, the others verified; a resume ends it."""
    with Backend(tenants([])) as backend:
        prepare(desk, backend)
        desk.write("listed.yaml", LISTED)
        revoked = backend.world.keys.pop("AKIDtwo")
        done = desk.run("run", "listed.yaml", "--yes", "--json")
        assert done.code == 4, done.text
        assert done.json["counts"] | {"changed": 2, "unattempted": 2} == done.json["counts"]
        assert done.json["stopped"]["code"] == "AuthFailure.SecretIdNotFound"
        backend.world.keys["AKIDtwo"] = revoked
        again = desk.run("resume", done.json["run"], "--yes", "--json")
        assert again.code == 0, again.text
        assert again.json["counts"]["changed"] == 4


def test_two_profiles_of_one_sub_account_are_one_lane(desk: Desk) -> None:
    """One quota there is one lane here, once STS has said whose both are: else half the calls would be throttled."""
    with Backend(tenants([])) as backend:
        prepare(desk, backend)
        backend.world.keys["AKIDuno"] = KeyRecord(secret_key="secret-uno", uin=UINS["one"], identity="user-one")
        path = Path(desk.env["HOME"]) / ".tccli" / "uno.credential"
        path.write_text(json.dumps({"secretId": "AKIDuno", "secretKey": "secret-uno"}))
        path.chmod(0o600)
        users = ", ".join(f"app_{number}" for number in range(USERS))
        desk.write(
            "both.yaml",
            "action: LockAccount\nregion: ap-tokyo\nprofile: [one, uno]\ntargets:\n"
            f"  - {{instance: postgres-one0yo, user: [{users}]}}\n",
        )
        done = desk.run("run", "both.yaml", "--yes", "--json")
        assert done.code == 0, done.text
        (closed,) = [note["data"] for note in desk.records("note") if note["what"] == "lane_closed"]
        assert "tccli profile uno is sub-account user-one, as tccli profile one is: one quota" in closed["why"]
        assert done.json["counts"]["changed"] == USERS


def test_a_run_in_memory_needs_none_of_the_accounts(desk: Desk) -> None:
    """The first thing a newcomer tries: every account has demo keys of its own, and sees its own instances only."""
    desk.write(
        "job.yaml",
        TWO + "targets:\n  - {instance: postgres-a1, user: [u, v], account: a}\n"
        "  - {instance: postgres-b1, user: w, account: b}\n",
    )
    done = desk.run("run", "job.yaml", "--simulate", "--yes", "--json")
    assert done.code == 0, done.text
    assert {lane["lane"].partition("/")[0] for lane in done.json["pace"]} == {"simulator, a", "simulator, b"}
    plan = desk.run("plan", "job.yaml", "--offline", "--json")
    assert plan.json["lanes"] == 3, "b has two sub-accounts"


def test_a_profile_named_beside_accounts_is_refused_or_told(desk: Desk) -> None:
    """Whoever asks for other keys must not believe that these sign: a flag is refused, a variable told of."""
    desk.write("job.yaml", TWO + "targets:\n  - {instance: postgres-a1, user: u, account: a}\n")
    refused = desk.run("plan", "job.yaml", "--offline", "--profile", "ops")
    assert refused.code == 2
    assert "--profile: the accounts of the job (a, b) name their own keys" in refused.err
    desk.env["ACCTOPS_PROFILE"] = "ops"
    told = desk.run("plan", "job.yaml", "--offline")
    assert told.code == 0
    assert "warning: ACCTOPS_PROFILE is not used: the accounts of the job name their own keys" in told.err


@pytest.mark.parametrize("form", ["csv", "jsonl", "yaml"])
def test_what_is_found_over_several_accounts_can_be_fed_back(desk: Desk, form: str) -> None:
    """Each line says whose account it is, so the list is the same job as the match."""
    with Backend(tenants([])) as backend:
        prepare(desk, backend)
        accounts = f"accounts: [one, two, {{profile: [one], name: '{UINS['three']}', role_arn: '{ROLE}'}}]\n"
        match = "match: {regions: [ap-tokyo, ap-seoul], users: {glob: 'app_*'}}"
        desk.write("asks.yaml", f"action: LockAccount\n{accounts}targets:\n  - {match}\n")
        found = desk.run("discover", "asks.yaml", "--format", form)
        assert found.code == 0, found.text
        if form == "yaml":
            desk.write("lists.yaml", f"action: LockAccount\n{accounts}{found.out}")
        else:
            desk.write(f"found.{form}", found.out)
            desk.write("lists.yaml", f"action: LockAccount\n{accounts}targets: [{{{form}: found.{form}}}]\n")
        asked, listed = (desk.run("plan", job, "--json") for job in ("asks.yaml", "lists.yaml"))
        assert listed.code == 0, listed.text
        both = [{tuple(sorted(call.items())) for call in plan.json["calls"]} for plan in (asked, listed)]
        assert both[0] == both[1]
        assert len(both[0]) == 150
