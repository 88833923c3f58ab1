"""How a run that workers carry out ends: limits, one cause, guards, what cannot be led; and what follows it."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from engine.simulator.world import World
from tests.support.command import Desk, on_terminal, wait_until
from tests.support.crew import Crew, crew_of
from tests.support.postgres import Postgres
from tests.support.signing import People, needs_ssh_keygen

REFUSED = "InvalidParameterValue.DataConvertError"


@pytest.fixture
def crew(desk: Desk, postgres: Postgres) -> Iterator[Crew]:
    world = World(latency=0)
    for at in range(12):
        world.seed(f"postgres-{at:08}", "ap-singapore", [f"user{each}" for each in range(5)])
    with crew_of(desk, postgres, world) as found:
        yield found


def locked(crew: Crew) -> int:
    accounts = (crew.backend.world.account(f"postgres-{at:08}", f"user{each}") for at in range(12) for each in range(5))
    return sum(account is not None and account.status == 5 for account in accounts)


# ---- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["3", "5%"])
def test_stop_after_counts_over_all_shards(crew: Crew, limit: str) -> None:
    """So many failed calls, or that share of the plan, wherever they are: exit 4."""
    crew.worker()
    crew.job(12, 5, extra=f"stop_after: {limit}")
    crew.backend.script({"action": "LockAccount", "user": "user1", "code": REFUSED})
    done = crew.run("run", "job.yaml", "--yes", "--json", code=4).json
    assert "stop_after: 3 failed" in done["stopped"]["why"] and done["stopped"]["code"] == REFUSED
    assert done["counts"]["failed"] >= 3 and done["counts"]["unattempted"] > 0
    crew.verify(done["run"])


def test_one_cause_stops_over_all_shards(crew: Crew) -> None:
    """The first twenty calls on three instances or more all fail with one code."""
    crew.worker()
    crew.job(12, 5)
    crew.backend.script({"action": "LockAccount", "code": REFUSED})
    done = crew.run("run", "job.yaml", "--yes", "--json", code=4).json
    assert "all failed with" in done["stopped"]["why"]
    assert 20 <= done["counts"]["failed"] < 60
    crew.verify(done["run"])


def test_denied_keys_stop_it_with_their_exit_code(crew: Crew) -> None:
    """Every lane is refused: exit 5, as of a run in one process."""
    crew.worker()
    crew.job(3, 4)
    crew.backend.script({"action": "LockAccount", "code": "AuthFailure.SecretIdNotFound"})
    done = crew.run("run", "job.yaml", "--yes", "--json")
    assert done.code == 5 and done.json["counts"]["unattempted"] > 0
    crew.verify(done.json["run"])


def test_the_deadline(crew: Crew) -> None:
    """All shards stop, exit 4, and the run can be gone on with."""
    crew.worker()
    crew.job(12, 5)
    done = crew.run("run", "job.yaml", "--yes", "--json", "--deadline", "2s", code=4).json
    assert "deadline of 2 s" in done["stopped"]["why"] and done["counts"]["unattempted"] > 0
    crew.run("resume", done["run"], "--yes", "--deadline", "5m", code=0)
    assert locked(crew) == 60


def test_a_window_that_has_closed_before_anybody_leads(crew: Crew) -> None:
    """The run ends with its reason, before anything is sent."""
    crew.worker()
    now = time.time()
    opens, closes = (time.strftime("%H:%M", time.gmtime(now + at_s)) for at_s in (7200, 10800))
    days = "days: [mon, tue, wed, thu, fri, sat, sun]"
    crew.job(extra=f'window: {{timezone: UTC, {days}, from: "{opens}", until: "{closes}"}}')
    done = crew.run("run", "job.yaml", "--yes", "--json", at=now + 7500)
    assert done.code == 3 and "outside the window" in done.json["stopped"]["why"]
    assert not crew.backend.writes()
    assert crew.run("resume", done.json["run"], "--yes", "--now").code in (2, 3)


# ---- guards --------------------------------------------------------------------------------------------------------


def test_the_workers_own_protect_rules_hold(crew: Crew) -> None:
    """A call that only the worker's config protects is never sent, and the report says by which rule."""
    place = crew.desk.place / "elsewhere"
    place.mkdir()
    (place / "config.yaml").write_text('protect: ["*/user3"]\n')
    crew.worker("--config", place / "config.yaml")
    crew.job(3, 4)
    done = crew.run("run", "job.yaml", "--yes", "--json")
    assert not any(each.user == "user3" for each in crew.backend.writes())
    assert done.json["left_out"]["protected"] == 3
    assert done.code == 0
    crew.verify(done.json["run"])


def test_a_program_that_no_worker_runs(crew: Crew) -> None:
    """The run ends before anything is sent, and its follower says why."""
    crew.worker()
    crew.desk.write("gate.sh", "#!/bin/sh\nexit 1\n").chmod(0o755)
    crew.job(extra="waves: [{take: 3}, {take: rest}]\ngate: {command: [./gate.sh], timeout: 3s}")
    done = crew.run("run", "job.yaml", "--yes", "--json")
    assert done.code == 2 and "acctops worker --program" in done.json["stopped"]["why"]
    assert not crew.backend.writes()


def test_a_program_that_one_of_three_workers_runs(crew: Crew) -> None:
    """The run comes to it, whoever looks first."""
    crew.desk.write("gate.sh", '#!/bin/sh\nsed -n \'s/.*"nonce":"\\([0-9a-f]*\\)".*/green \\1/p\'\n').chmod(0o755)
    crew.worker()
    crew.worker()
    crew.worker("--program", "./gate.sh")
    crew.job(extra="waves: [{take: 3}, {take: rest}]\ngate: {command: [./gate.sh], timeout: 3s}")
    crew.run("run", "job.yaml", "--yes", code=0)


# ---- what follows --------------------------------------------------------------------------------------------------


def test_rerun_and_undo(crew: Crew) -> None:
    """Both are runs of workers, too; an undo of a part, then of the rest."""
    crew.worker()
    crew.job(3, 4)
    crew.backend.script({"action": "LockAccount", "user": "user1", "code": REFUSED})
    first = crew.run("run", "job.yaml", "--yes", "--json", code=1).json
    assert first["counts"]["failed"] == 3
    crew.backend.script()
    second = crew.run("rerun", first["run"], "--yes", "--json", code=0).json
    assert second["counts"]["changed"] == 3 and locked(crew) == 12
    crew.run("undo", first["run"], "--target", "postgres-00000001/*", "--yes", code=0)
    assert locked(crew) == 9
    crew.run("undo", first["run"], "--yes", code=0)
    crew.run("undo", second["run"], "--yes")
    assert locked(crew) == 0
    assert len(crew.runs()) >= 4 and all(crew.records(run, "shard") for run in crew.runs())
    for run in crew.runs():
        crew.verify(run)
    crew.run("journal", "verify", "--all", code=0)


def test_the_same_job_twice(crew: Crew) -> None:
    """While workers have its run, the job is refused; after a cut it is gone on with."""
    crew.job(12, 5)
    run = crew.begin()
    again = crew.run("run", "job.yaml", "--yes")
    assert again.code == 6 and run in again.err
    first = crew.worker()
    crew.wait_for(run, "settled", 3)
    first.kill()
    crew.worker()
    assert crew.wait_for_end(run)["exit"] == 0
    assert locked(crew) == 60
    crew.verify(run)


def test_ctrl_c_drains_and_a_second_one_detaches(crew: Crew) -> None:
    """At a terminal: the first stops the run for all workers; the second leaves what drains to them."""
    crew.worker()
    crew.job(12, 5)
    with on_terminal(crew.desk, "run", "job.yaml", "--yes") as terminal:
        wait_until(lambda: bool(crew.runs()))
        (run,) = crew.runs()
        crew.wait_for(run, "settled", 3)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
    assert "draining" in terminal.screen
    end = crew.wait_for_end(run)
    assert end["exit"] == 4 and end["counts"]["unattempted"] > 0
    crew.backend.script({"action": "LockAccount", "hang": True})
    with on_terminal(crew.desk, "resume", run, "--yes") as terminal:
        there = len(crew.backend.writes())
        wait_until(lambda: len(crew.backend.writes()) > there)
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("draining")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
        assert f"acctops status {run}" in terminal.screen
    crew.wait_for_end(run, 2)
    crew.verify(run)


def test_killing_who_follows_changes_nothing(crew: Crew) -> None:
    """The run goes on to its end."""
    crew.worker()
    crew.job(12, 5)
    process = crew.desk.popen("run", "job.yaml", "--yes")
    wait_until(lambda: bool(crew.runs()))
    (run,) = crew.runs()
    crew.wait_for(run, "settled", 3)
    process.kill()
    process.communicate()
    assert crew.wait_for_end(run)["exit"] == 0 and locked(crew) == 60


def test_all_that_looks_at_a_run(crew: Crew) -> None:
    """Status, report, pending, evidence and verify, while it goes on and after it."""
    crew.worker()
    crew.job(12, 5)
    run = crew.begin()
    crew.wait_for(run, "settled", 3)
    assert "LIVE" in crew.run("status", run, code=0).out
    for words in (("report", run), ("pending",), ("journal", "verify", run), ("status",)):
        crew.run(*words, code=0)
    crew.wait_for_end(run)
    beside = (("holds",), ("evidence", run, "--out", "e.zip"), ("report", run, "--format", "html", "-o", "r.html"))
    for words in (("report", run), ("pending",), ("journal", "verify", run), ("status",), *beside):
        crew.run(*words, code=0)


# ---- approvals, passwords, holds -----------------------------------------------------------------------------------


@needs_ssh_keygen
def test_a_signed_plan(crew: Crew) -> None:
    """It is carried out by workers, and cannot be sent faster than signed; once it has expired nothing is sent."""
    people = People(crew.desk)
    crew.worker()
    job = crew.job(12, 5)
    assert people.save(job).code == 0 and people.approve().code == 0
    crew.run("apply", "plan.json", "--yes", "--detach", code=0)
    (run,) = crew.runs()
    crew.wait_for(run, "settled", 3)
    faster = crew.run("change", run, "--rate", "40")
    assert faster.code == 2 and "approved for 20" in faster.err
    assert crew.wait_for_end(run)["exit"] == 0
    crew.verify(run)


@needs_ssh_keygen
def test_a_signed_plan_that_expires_before_a_worker_is_there(crew: Crew) -> None:
    """Nothing is sent, and its end says why."""
    people = People(crew.desk, valid="30s")
    job, before = crew.job(), time.time() - 120
    assert people.save(job, at=before).code == 0 and people.approve(at=before).code == 0
    crew.run("apply", "plan.json", "--yes", "--detach", at=before, code=0)
    (run,) = crew.runs()
    crew.worker()
    end = crew.wait_for_end(run)
    assert end["exit"] == 3 and not crew.backend.writes(), end


def test_new_passwords_come_from_a_program_of_the_worker(crew: Crew) -> None:
    """A worker that does not run it sends nothing; one that does sends them, and no word of them is kept."""
    script = crew.desk.write("new.sh", '#!/bin/sh\nread line\necho "Secret-of-$$-x9"\n')
    script.chmod(0o755)
    crew.job(2, 2, action="CloseAccountCAM", extra="passwords: {command: [./new.sh]}")
    for at in range(2):
        instance = crew.backend.world.instance(f"postgres-{at:08}")
        assert instance is not None
        for account in instance.accounts.values():
            account.cam = True
    first = crew.worker()
    done = crew.run("run", "job.yaml", "--yes", "--json")
    assert done.code == 2 and "--program" in done.json["stopped"]["why"], done.text
    first.end()
    crew.worker("--program", script)
    crew.run("resume", done.json["run"], "--yes", code=0)
    lines = str(crew.records(done.json["run"]))
    assert "Secret-of" not in lines and "Secret-of" not in "".join(worker.said for worker in crew.workers)
    crew.verify(done.json["run"])


@pytest.mark.parametrize("action", ["ResetAccountPassword", "CloseAccountCAM", "RefreshAccountPassword"])
def test_a_password_in_flight_when_its_worker_died_is_not_set_twice(crew: Crew, action: str) -> None:
    """Such a call is read, and never sent again by itself. Of RefreshAccountPassword no reading tells: `unknown`."""
    script = crew.desk.write("new.sh", '#!/bin/sh\nread line\necho "Secret-of-$$-x9"\n')
    script.chmod(0o755)
    needs = "" if action.startswith("Refresh") else "passwords: {command: [./new.sh]}"
    crew.job(4, 2, action=action, extra=needs)
    for at in range(4):
        instance = crew.backend.world.instance(f"postgres-{at:08}")
        assert instance is not None
        for account in instance.accounts.values():
            account.cam = action != "ResetAccountPassword"
    first = crew.worker("--program", script)
    crew.backend.script({"action": action, "user": "user1", "hang": True, "apply": True})
    run = crew.begin()
    wait_until(lambda: len([each for each in crew.backend.writes() if each.user == "user1"]) >= 2)
    crew.wait_for(run, "sent", 2)
    first.kill()
    caught = {(each.instance, each.user) for each in crew.backend.writes() if each.user == "user1"}
    crew.backend.script()
    crew.worker("--program", script)
    end = crew.wait_for_end(run)
    report = crew.run("report", run, "--format", "json").json
    found = {(each["instance"], each["user"]): each["outcome"] for each in report["targets"]}
    sent = Counter((each.instance, each.user) for each in crew.backend.writes())
    assert set(sent.values()) == {1}
    assert {found[each] for each in caught} == {"unknown" if action.startswith("Refresh") else "changed"}
    assert all(found[each] in ("unknown", "failed") for each in found.keys() - sent.keys()), "recorded, and never left"
    assert end["exit"] == (0 if set(found.values()) == {"changed"} else 1)
    crew.verify(run)


def test_a_stored_password_in_flight_when_its_worker_died_is_sent_again(crew: Crew) -> None:
    """The job says that its program gives the same password each time: so who goes on sends it, until it is set."""
    script = crew.desk.write("stored.sh", '#!/bin/sh\nread line\necho "Kept-$(echo "$line" | cksum | cut -c1-9)-x9"\n')
    script.chmod(0o755)
    crew.job(3, 2, action="ResetAccountPassword", extra="passwords: {command: [./stored.sh], stored: true}")
    first = crew.worker("--program", script)
    crew.backend.script({"action": "ResetAccountPassword", "user": "user1", "hang": True})
    run = crew.begin()
    wait_until(lambda: len([each for each in crew.backend.writes() if each.user == "user1"]) >= 2)
    first.kill()
    crew.backend.script()
    crew.worker("--program", script)
    assert crew.wait_for_end(run)["exit"] == 0
    made = Counter((each.instance, each.user) for each in crew.backend.writes() if each.applied)
    assert len(made) == made.total() == 6
    assert "Kept-" not in str(crew.records(run)) + "".join(worker.said for worker in crew.workers)
    crew.verify(run)


def test_a_window_that_closes_while_shards_are_sent(crew: Crew) -> None:
    """All sessions of all lanes stop with it: exit 4, the rest is unattempted, and the next window goes on."""
    crew.worker()
    now = time.time()
    moment = now - now % 60 + 60 - 4
    if now > moment - 12:  # the worker's own clock is not set, so the window closes with a minute that comes
        moment += 60
    opens, closes = (time.strftime("%H:%M", time.gmtime(at)) for at in (now - 3600, moment + 4))
    days = "days: [mon, tue, wed, thu, fri, sat, sun]"
    crew.job(12, 5, extra=f'window: {{timezone: UTC, {days}, from: "{opens}", until: "{closes}"}}\nrate: 1')
    while time.time() < moment - 8:
        time.sleep(0.2)
    done = crew.run("run", "job.yaml", "--yes", "--json", code=4).json
    assert "window" in done["stopped"]["why"] and done["counts"]["unattempted"] > 0, done
    assert locked(crew) == 60 - done["counts"]["unattempted"] > 0
    for no in {record.get("shard", 0) for record in crew.records(done["run"])}:
        kinds = [record.get("what", record["kind"]) for record in crew.records(done["run"], no=no)]
        assert "sent" not in kinds[kinds.index("stopping") :], f"shard {no}"
    crew.verify(done["run"])


def test_tend_opens_by_workers(crew: Crew) -> None:
    """An undo at the end of a hold is a run of workers, too."""
    crew.worker()
    crew.job(2, 2, extra="hold: {for: 2s, then: unlock}")
    crew.run("run", "job.yaml", "--yes", code=0)
    assert locked(crew) == 4
    time.sleep(2.5)
    crew.run("tend", code=0)
    assert locked(crew) == 0
    _, undo = crew.runs()
    assert crew.records(undo, "shard")
    crew.verify(undo)


def test_notices_and_the_page_are_the_leaders(crew: Crew) -> None:
    """By its own config: a notice of the end, and the page while it goes on."""
    place = crew.desk.place / "elsewhere"
    place.mkdir()
    (place / "config.yaml").write_text(
        f"notify: {{command: [/bin/sh, -c, 'cat >> {place}/told.txt'], on: [finish]}}\npage_file: {place}/page.html\n"
    )
    crew.worker("--config", place / "config.yaml", "--program", "/bin/sh")
    crew.job(12, 5)
    done = crew.run("run", "job.yaml", "--yes", "--json", "--page", "mine.html", code=0)
    run = done.json["run"]
    assert run in (crew.desk.work / "mine.html").read_text(), "who follows has a page of his own"
    wait_until((place / "told.txt").exists)
    assert run in (place / "told.txt").read_text()
    assert run in (place / "page.html").read_text()


def test_a_scheduled_run_that_finds_nothing_waits_for_no_worker(crew: Crew) -> None:
    """It has no call that a lane could take: the command itself writes its `end`, exit 0, while workers are there."""
    crew.worker()
    crew.job()
    match = "targets:\n  - {match: {regions: [ap-singapore], users: {glob: 'nobody*'}, allow_empty: true}}\n"
    match += "limits: {max_targets: 9}\n"
    path = crew.desk.work / "job.yaml"
    path.write_text(path.read_text().partition("targets:")[0] + match)
    done = crew.run("run", "job.yaml", "--yes", "--json", code=0).json
    assert done["run"] is not None and not crew.is_submitted(done["run"])
    crew.verify(done["run"])
