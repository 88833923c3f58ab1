"""Accounts that plain SQL made, such as `svc-app`: sent where a reading shows exactly that name, and nowhere else."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from engine.simulator.fleet import fleet_from
from engine.simulator.world import World
from tests.support.command import Backend, Desk, records

A, B = "postgres-aaaaaaaa", "postgres-bbbbbbbb"
REGION = "ap-singapore"
BY_SQL = ["svc-app", "Svc-App", "müller", "1st"]


@pytest.fixture
def backend() -> Iterator[Backend]:
    sql = [{"name": name, "sql": True} for name in BY_SQL]
    fleet = [{"id": each, "region": REGION, "accounts": [{"name": "ann", "cam": True}, *sql]} for each in (A, B)]
    with Backend(World(fleet=fleet_from({"instances": fleet}), latency=0)) as running:
        yield running


def written(backend: Backend) -> list[str]:
    return sorted(f"{arrival.instance}/{arrival.user}" for arrival in backend.writes())


def _call(desk: Desk, instance: str, user: str) -> str:
    """The id of a call in the newest journal."""
    calls = records(desk.journals()[-1], "call")
    return next(str(each["call"]) for each in calls if (each["instance"], each["user"]) == (instance, user))


def _of(desk: Desk, instance: str, user: str) -> tuple[str, str]:
    """Code and message with which a call is settled in the newest journal."""
    call = _call(desk, instance, user)
    (found,) = (each for each in records(desk.journals()[-1], "settled") if each["call"] == call)
    return found["code"], found["message"]


def test_a_name_that_only_sql_gives_is_locked_where_a_reading_shows_it(desk: Desk, backend: Backend) -> None:
    """In a leak it is one of the accounts; what was locked is verified, repeated and taken back as any other."""
    desk.write("l.csv", f"instance,user\n{A},svc-app\n{A},m\u00fcller\n{B},ann\n")
    desk.write("job.yaml", f"action: LockAccount\nregion: {REGION}\ntargets:\n  - csv: l.csv\n  - {B}/1st\n")
    api = ("--endpoint", backend.endpoint)
    plan = desk.run("plan", "job.yaml", *api, "--json").json
    assert plan["standing"]["open"] == 4
    (said,) = (warning for warning in plan["warnings"] if "unusual" in warning)
    assert "l.csv:2: 3 unusual account names, the first 'svc-app'" in said and "a reading shows exactly" in said
    done = desk.run("run", "job.yaml", *api, "--yes", "--json")
    assert done.code == 0, done.text
    assert written(backend) == sorted([f"{A}/svc-app", f"{A}/m\u00fcller", f"{B}/1st", f"{B}/ann"])
    assert desk.run("verify", "latest", *api, "--json").json["verified"]["agree"] == 4
    assert desk.run("resume", "latest").code == 0
    undone = desk.run("undo", done.json["run"], *api, "--yes", "--json", "--target", f"{A}/svc-app")
    assert undone.code == 0 and undone.json["counts"]["changed"] == 1, undone.text
    assert written(backend).count(f"{A}/svc-app") == 2
    assert "svc-app" in desk.run("report", done.json["run"], "--format", "csv").out


def test_a_name_that_no_reading_shows_is_left_out_by_name(desk: Desk, backend: Backend) -> None:
    """A slip in a name must not reach the API: it is no account, in plan and report, as any that is not there."""
    job = desk.job(f"{A}/svc-ap", f"{A}/SVC-APP", f"{A}/ann")
    api = ("--endpoint", backend.endpoint)
    plan = desk.run("plan", job, *api)
    assert "no such account  2" in plan.out, plan.out
    done = desk.run("run", job, *api, "--yes", "--json")
    assert done.code == 1 and written(backend) == [f"{A}/ann"]
    code, message = _of(desk, A, "svc-ap")
    assert code == "Local.NoAccount" and "did you mean svc-app?" in message


def test_a_name_is_not_sent_where_its_instance_cannot_be_read(desk: Desk, backend: Backend) -> None:
    """An ordinary account is sent last without a reading; of this one nobody knows that it exists."""
    backend.script({"action": "DescribeAccounts", "instance": B, "code": "UnauthorizedOperation"})
    job = desk.job(f"{A}/svc-app", f"{B}/svc-app", f"{B}/ann")
    done = desk.run("run", job, "--endpoint", backend.endpoint, "--yes", "--json")
    assert written(backend) == [f"{A}/svc-app", f"{B}/ann"], done.text
    code, message = _of(desk, B, "svc-app")
    assert code == "Local.Unread" and "only a reading can show that this name exists" in message
    assert f"{B} cannot be read (UnauthorizedOperation)" in message
    assert [each for each in desk.records("sent") if each["call"] == _call(desk, B, "svc-app")] == []
    backend.script()
    again = desk.run("rerun", done.json["run"], "--endpoint", backend.endpoint, "--yes", "--json")
    assert f"{B}/svc-app" in written(backend), again.text


@pytest.mark.parametrize(
    ("action", "flags", "by"),
    [("LockAccount", ("--no-verify",), "--no-verify"), ("RefreshAccountPassword", (), "RefreshAccountPassword")],
)
def test_a_run_that_reads_nothing_sends_no_such_name_and_says_so_before(
    desk: Desk, backend: Backend, action: str, flags: tuple[str, ...], by: str
) -> None:
    """Whoever leaves readings out must not learn from the report that an account stays open."""
    job = desk.job(f"{A}/svc-app", f"{A}/ann", action=action)
    done = desk.run("run", job, "--endpoint", backend.endpoint, "--yes", "--json", *flags)
    assert written(backend) == [f"{A}/ann"], done.text
    assert "1 unusual account name will not be sent, and count as failed: only a reading can show" in done.err
    assert f"{by} reads no accounts: {A}/svc-app" in done.err
    assert done.code == 1
    code, message = _of(desk, A, "svc-app")
    assert code == "Local.Unread" and "this run reads no account before it sends" in message
    report = desk.run("report", done.json["run"])
    how = "reads again (no --no-verify, no verify: false)" if flags else "is corrected"
    said = f"1 whose unusual name a run without readings cannot prove; once the job {how}: acctops run {job} --endpoint"
    assert said in report.out and "acctops rerun" not in report.out


def test_the_way_on_from_a_run_without_readings_ends_with_the_account_locked(desk: Desk, backend: Backend) -> None:
    """A rerun reads as little as its run, so it would fail for ever: the command that is printed reads."""
    api = ("--endpoint", backend.endpoint)
    blind = desk.run("lock", f"{A}/svc-app", f"{A}/ann", "--region", REGION, *api, "--yes", "--no-verify")
    assert blind.code == 1 and written(backend) == [f"{A}/ann"]
    (line,) = (line for line in blind.text.splitlines() if line.startswith("go on:"))
    assert line.split("acctops ")[1].startswith(f"lock {A}/svc-app --region {REGION} --endpoint")
    done = desk.run(*shlex.split(line.split("acctops ")[1]), "--yes")
    assert done.code == 0 and written(backend) == [f"{A}/ann", f"{A}/svc-app"], done.text


def test_an_offline_plan_says_that_such_names_need_a_reading(desk: Desk) -> None:
    """It cannot know whether they exist; the number is the plan's, and the condition stands beside it."""
    done = desk.run("plan", desk.job(f"{A}/svc-app", f"{A}/ann"), "--offline")
    assert done.code == 0 and "1 unusual account name, the first 'svc-app'" in done.err
    assert "only where a reading shows exactly this name" in " ".join(done.err.split())


def test_a_guard_holds_for_such_names(desk: Desk, backend: Backend) -> None:
    """A glob can name them, in any case; a match takes them, as it has seen them."""
    text = f"action: LockAccount\nregion: {REGION}\nprotect: ['*/SVC-*', '*/m\u00dcl*']\nlimits: {{max_targets: 99}}\n"
    desk.write("job.yaml", text + "targets: [{match: {users: {glob: ['*-*', 'm*', '1*']}}}]\n")
    done = desk.run("run", "job.yaml", "--endpoint", backend.endpoint, "--yes", "--json")
    assert done.code == 0, done.text
    assert written(backend) == [f"{A}/1st", f"{B}/1st"]
    assert done.json["left_out"]["protected"] == 6 and done.json["left_out"]["unseen"] == 0


def test_such_a_name_can_be_given_on_the_command_line(desk: Desk, backend: Backend) -> None:
    """`acctops lock INSTANCE/svc-app` in a hurry."""
    done = desk.run("lock", f"{A}/svc-app", "--region", REGION, "--endpoint", backend.endpoint, "--yes")
    assert done.code == 0 and written(backend) == [f"{A}/svc-app"], done.text
    simulated = desk.run("lock", f"{A}/svc-app", "--region", REGION, "--simulate", "--yes", "--json")
    assert simulated.json["counts"]["changed"] == 1


def test_the_corrected_list_has_such_names(desk: Desk) -> None:
    """It is read again as it was written."""
    desk.write("l.csv", f"instance,user\n{A},svc-app\n{A},m\u00fcller\n".encode("utf-8-sig"))
    desk.write("job.yaml", f"action: LockAccount\nregion: {REGION}\ntargets:\n  - csv: l.csv\n")
    assert desk.run("plan", "job.yaml", "--offline", "--fix", "fixed.csv").code == 0
    fixed = (desk.work / "fixed.csv").read_text(encoding="utf-8")
    assert fixed == f"instance,user,region\n{A},svc-app,{REGION}\n{A},m\u00fcller,{REGION}\n"
