"""The command line: every verb, its help, its questions, its one document, its exit code."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from engine.cli.app import app
from engine.errors import Reason
from engine.simulator.faults import rules_from
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done, commands, on_terminal, records, wait_until

ANN, BOB = "postgres-aaaaaaaa/ann", "postgres-aaaaaaaa/bob"


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Backend(World(quotas={"*": None})) as server:
        yield server


def faulty(*rules: dict[str, Any]) -> Backend:
    return Backend(World(quotas={"*": None}, faults=rules_from(rules)))


def many(count: int) -> list[str]:
    return [f"postgres-aaaaaaa{number % 8}/user{number}" for number in range(count)]


def apart(count: int) -> list[str]:
    """Targets on an instance each, so that each is read back and settled at once."""
    return [f"postgres-{number:08}/user{number}" for number in range(count)]


def run_id(desk: Desk, *, simulated: bool = False) -> str:
    return desk.journals(simulated=simulated)[-1].parent.name


# ---- help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_every_verb_teaches_by_example(desk: Desk, path: tuple[str, ...]) -> None:
    done = desk.run(*path, "--help")
    assert done.code == 0 and done.err == ""
    assert done.out.startswith(f"Usage: acctops {' '.join(path)}")
    assert f"acctops {' '.join(path)}" in done.out.partition("\n")[2], "an example"


@pytest.mark.parametrize(("typed", "said"), [("resum", "; did you mean resume?"), ("frobnicate", "'frobnicate' (")])
def test_a_command_that_is_not_there_is_named_with_the_one_that_is(desk: Desk, typed: str, said: str) -> None:
    """At 3 a.m. fingers slip."""
    done = desk.run(typed, "latest")
    assert done.code == 2
    assert f"No such command '{typed}'" in done.err and said in done.err


def test_every_example_is_one_the_parser_takes(desk: Desk) -> None:
    """What the help shows is what the command understands: each example is parsed, and not carried out."""
    seen = 0
    for path, command in commands():
        help_text = (command.help or "") + (app.help or "")
        for line in help_text.splitlines():
            typed = line.split(" > ")[0].split(" &")[0].split(" | ")[-1].strip()
            words = shlex.split(typed) if typed.startswith("acctops ") else []
            if words[:1] != ["acctops"] or tuple(words[1 : 1 + len(path)]) != path:
                continue
            command.make_context(" ".join(path), words[1 + len(path) :])
            seen += 1
    assert seen > 20


def test_the_first_page_shows_how_to_begin_and_every_exit_code(desk: Desk) -> None:
    done = desk.run("--help")
    assert "acctops run jobs/incident-lockdown.yaml --simulate" in done.out
    for code in Reason:
        assert str(int(code)) in done.out
    bare = desk.run()
    assert bare.code == 2 and bare.out == "" and bare.err.startswith("Usage: acctops")


@pytest.mark.parametrize("argv", [["nonsense"], ["run"], ["journal", "verfy"], ["report", "x", "--format", "xml"]])
def test_a_wrong_command_line_is_one_sentence(desk: Desk, argv: list[str]) -> None:
    done = desk.run(*argv)
    assert done.code == 2 and done.out == ""
    assert len(done.err.splitlines()) == 1 and done.err.startswith("acctops: ") and "--help" in done.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered_for_three_shells(desk: Desk, shell: str) -> None:
    done = desk.run("completion", shell)
    assert done.code == 0 and "_ACCTOPS_COMPLETE" in done.out


def test_completion_completes(desk: Desk) -> None:
    env = {**desk.env, "_ACCTOPS_COMPLETE": "bash_complete", "COMP_WORDS": "acctops re", "COMP_CWORD": "1"}
    answer = subprocess.run(desk.argv(), env=env, capture_output=True, text=True, cwd=desk.work)
    assert {line.partition(",")[2] for line in answer.stdout.split()} == {"release", "report", "rerun", "resume"}


# ---- plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.both_stores
def test_a_plan_says_what_is_left_out_and_why_and_sends_nothing(desk: Desk, backend: Backend) -> None:
    desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
    desk.write("config.yaml", 'protect: ["*/breakglass_*"]\n')
    targets = [ANN, ANN, BOB, "postgres-aaaaaaaa/breakglass_1", "postgres-aaaaaaaa/postgres"]
    desk.job(*targets, extra='exclude: ["*/bob"]')
    done = desk.run("plan", "job.yaml")
    assert done.code == 0
    assert "PLAN, nothing sent" in done.out and "to lock  1 account on 1 instance" in done.out
    for words in ("protected  1", "excluded  1", "duplicate  1", "reserved  1", "config.yaml:1:11"):
        assert words in done.out
    document = desk.run("plan", "job.yaml", "--json").json
    assert [call["user"] for call in document["calls"]] == ["ann"]
    assert {omit["user"]: omit["reason"] for omit in document["omits"]}.items() >= {
        ("bob", "excluded"),
        ("breakglass_1", "protected"),
        ("postgres", "reserved"),
    }
    assert not desk.state.exists() and not backend.writes(), "a plan leaves nothing behind"
    assert len(backend.reads()) == 2, "one reading a plan"


def test_a_plan_offline_reads_nothing_and_needs_no_keys(desk: Desk, backend: Backend) -> None:
    desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
    del desk.env["TENCENTCLOUD_SECRET_ID"], desk.env["TENCENTCLOUD_SECRET_KEY"]
    desk.job()
    done = desk.run("plan", "job.yaml", "--offline", "--json")
    assert done.code == 0 and len(done.json["calls"]) == 3
    assert done.json["read"] is None and done.json["standing"] is None
    assert "read " not in desk.run("plan", "job.yaml", "--offline").out
    assert not backend.world.audit
    online = desk.run("plan", "job.yaml")
    assert online.code == 5 and "no API keys" in online.err


def test_a_job_of_which_nothing_is_left_is_refused(desk: Desk) -> None:
    desk.job(ANN)
    done = desk.run("run", "job.yaml", "--yes", "--quiet", "--json", "--exclude", "*/ann")
    assert done.code == 3 == done.json["exit"]
    assert done.json["error"] == "nothing to do: every target is left out (1 excluded); nothing was sent"


# ---- run: the question ---------------------------------------------------------------------------------------------


@pytest.mark.both_stores
def test_nobody_there_to_ask_is_no_yes(desk: Desk, backend: Backend) -> None:
    desk.job()
    done = desk.run("run", "job.yaml", "--endpoint", backend.endpoint)
    assert done.code == 3 and done.out == ""
    assert "nobody is there to confirm" in done.err and "--yes" in done.err and "nothing was sent" in done.err
    assert not desk.state.exists() and not backend.writes()
    asked = {arrival.action for arrival in backend.world.audit}
    assert asked == {"DescribeAccounts", "GetCallerIdentity"}, "it reads before it asks"


@pytest.mark.both_stores
@pytest.mark.parametrize(
    ("count", "answer", "code"),
    [
        (3, "y", 0),
        (3, "N", 3),
        (3, "", 3),
        (3, "3", 0),
        (3, "2", 3),
        (9, "yes", 0),
        (10, "10", 0),
        (10, "y", 3),
        (1200, "1,200", 0),
        (1200, "120", 3),
    ],
)
def test_a_person_is_asked(desk: Desk, backend: Backend, count: int, answer: str, code: int) -> None:
    desk.job(*many(count))
    with on_terminal(desk, "run", "job.yaml", "--rate", "10000", "--endpoint", backend.endpoint) as terminal:
        terminal.wait_for("Go on? [y/N] " if count < 10 else f"Type {count} to go on: ")
        assert not backend.writes() and not desk.journals()
        assert len(backend.reads()) == min(count, 8), "every instance was read, once"
        terminal.type(answer)
        if count > 1000 and not code:
            desk.wait_for("confirmed")
            return  # asked and answered; the rest of it is nothing new
        assert terminal.end() == code
        if code:
            assert "not confirmed" in terminal.screen and "nothing was sent" in terminal.screen
    if code:
        assert not backend.writes() and not desk.journals()
    else:
        (confirmed,) = desk.records("confirmed")
        assert confirmed["how"] == answer and confirmed["terminal"].startswith("/dev/pts/")
        assert f"{count:,} of {count:,} verified locked at " in terminal.screen


def test_the_end_of_input_at_the_question_is_no(desk: Desk) -> None:
    desk.job()
    with on_terminal(desk, "run", "job.yaml", "--simulate") as terminal:
        terminal.wait_for("About to lock 3 accounts on 2 instances and drop their sessions (SIMULATED).")
        terminal.type("\x04")
        assert terminal.end() == 3


def test_a_person_with_a_list_on_standard_input_is_asked_on_the_terminal(desk: Desk, backend: Backend) -> None:
    desk.job("{csv: -}")
    flags = ["run", "job.yaml", "--endpoint", backend.endpoint]
    with on_terminal(desk, *flags, stdin=subprocess.PIPE) as terminal:
        assert terminal.process.stdin is not None
        terminal.process.stdin.write(b"instance,user\npostgres-aaaaaaaa,ann\n")
        terminal.process.stdin.close()
        terminal.wait_for("Go on? [y/N] ")
        terminal.type("y")
        assert terminal.end() == 0
    (run,) = desk.records("run")
    assert run["job"]["path"].endswith("job.yaml and standard input")
    refused = desk.run("run", "job.yaml", stdin=b"instance,user\npostgres-aaaaaaaa,ann\n")
    assert refused.code == 3, "without a terminal there is nobody to ask"


def test_the_question_is_seen_though_stderr_goes_to_a_file(desk: Desk) -> None:
    desk.job()
    with (
        (desk.work / "log").open("wb") as log,
        on_terminal(desk, "run", "job.yaml", "--simulate", stderr=log) as terminal,
    ):
        terminal.wait_for("Go on? [y/N] ")
        terminal.type("y")
        assert terminal.end() == 0


# ---- run: what is printed ------------------------------------------------------------------------------------------


@pytest.mark.both_stores
def test_a_newcomer_needs_no_account(desk: Desk) -> None:
    """`run --simulate --yes` with neither keys nor network; it never looks like the real thing."""
    del desk.env["TENCENTCLOUD_SECRET_ID"], desk.env["TENCENTCLOUD_SECRET_KEY"], desk.env["ACCTOPS_ENDPOINT"]
    desk.job()
    done = desk.run("run", "job.yaml", "--simulate", "--yes")
    assert done.code == 0
    assert done.err.startswith("SIMULATED  ") and done.out.startswith("SIMULATED  ")
    assert "on the built-in simulator" in done.err and "tencentcloudapi.com" not in done.text
    assert "3 of 3 verified locked at " in done.out


@pytest.mark.both_stores
def test_a_simulated_run_is_listed_as_such_and_never_the_latest(desk: Desk, backend: Backend) -> None:
    desk.job()
    assert desk.run("run", "job.yaml", "--simulate", "--yes", "--quiet").code == 0
    for verb in (["status", "latest"], ["resume", "latest"], ["rerun", "latest"], ["report", "latest:job"]):
        done = desk.run(*verb)
        assert done.code == 2 and "simulated ones are never `latest`" in done.err
    assert desk.run("run", "job.yaml", "--yes", "--quiet", "--endpoint", backend.endpoint).code == 0
    assert desk.run("run", "job.yaml", "--simulate", "--yes", "--quiet").code == 0
    real = run_id(desk)
    listed = desk.run("status").out.splitlines()
    assert [("SIMULATED" in line, real in line) for line in listed].count((False, True)) == 1
    assert sum("SIMULATED" in line for line in listed) == 2
    assert desk.run("status", "latest", "--json").json["run"] == real
    simulated = desk.run("status", run_id(desk, simulated=True))
    assert simulated.code == 0 and simulated.out.startswith("SIMULATED")
    assert desk.run("resume", run_id(desk, simulated=True)).code == 0


@pytest.mark.both_stores
def test_a_simulated_run_meets_its_faults_and_its_rerun_none(desk: Desk) -> None:
    desk.write("faults.yaml", "- {user: eve, code: OperationDenied.InstanceAccessDeniedError}\n")
    desk.job()
    done = desk.run("run", "job.yaml", "--simulate", "--yes", "--faults", "faults.yaml")
    assert done.code == 1
    run = run_id(desk, simulated=True)
    assert f"go on:  acctops rerun {run} --only failed" in done.out
    assert "  1 × OperationDenied.InstanceAccessDeniedError: " in done.out
    assert "      postgres-bbbbbbbb/eve (ap-singapore)  RequestId " in done.out
    again = desk.run("rerun", run, "--yes", "--only", "failed")
    assert again.code == 0 and "SIMULATED" in again.out and "1 of 1 verified locked" in again.out


@pytest.mark.both_stores
def test_quiet_prints_what_went_wrong_and_nothing_else(desk: Desk) -> None:
    desk.job()
    good = desk.run("run", "job.yaml", "--simulate", "--yes", "--quiet")
    assert (good.code, good.text) == (0, "")
    desk.write("faults.yaml", "- {user: eve, code: OperationDenied.InstanceAccessDeniedError}\n")
    bad = desk.run("run", "job.yaml", "--simulate", "--yes", "--quiet", "--faults", "faults.yaml")
    assert bad.code == 1 and "; 1 not: 1 failed" in bad.out and bad.err == ""


@pytest.mark.both_stores
def test_off_a_terminal_a_line_says_every_ten_seconds_that_it_lives(desk: Desk, backend: Backend) -> None:
    desk.job(*many(21))
    done = desk.run("run", "job.yaml", "--yes", "--rate", "1.9", "--endpoint", backend.endpoint)
    assert done.code == 0
    beats = [line for line in done.err.splitlines() if " of 21 · " in line]
    assert len(beats) == 1 and "/s of 1.9" in beats[0] and "ETA" in beats[0]
    assert "\x1b" not in done.text, "no colour, no bar"


@pytest.mark.both_stores
def test_with_json_there_is_one_document_whatever_happens(desk: Desk, backend: Backend) -> None:
    desk.job()
    flags = ["--json", "--endpoint", backend.endpoint]
    refusals: list[tuple[list[str], int]] = [
        (["run", "job.yaml"], 3),
        (["run", "none.yaml"], 2),
        (["run", "job.yaml", "--nonsense"], 2),
        (["resume", "latest"], 2),
        (["status", "nothing"], 2),
        (["report", "nothing"], 2),
        (["stop", "nothing"], 2),
        (["journal", "verify", "nothing"], 2),
    ]
    for argv, code in refusals:
        done = desk.run(*argv, *(flags if argv[0] in ("run", "resume") else ["--json"]))
        assert done.code == code == done.json["exit"], argv
        assert set(done.json) == {"error", "exit"} and done.json["error"] in done.err.replace("acctops: ", "")
    done = desk.run("run", "job.yaml", "--yes", *flags)
    assert set(done.json) == {
        *("run", "journal", "journal_head", "simulated", "action", "counts", "left_out", "verified", "attempts"),
        *(
            "throttled",
            "worst_second",
            "seconds",
            "contained",
            "first_send_ms",
            "stopped",
            "exit",
            "failures",
            "pace",
            "identities",
            "holds",
        ),
        *("open", "go_on", "watch", "paused", "waves", "undone", "left", "approved", "unapproved"),
    }
    assert done.json["first_send_ms"] > 0 and done.json["worst_second"] == 3
    run = done.json["run"]
    for argv in (
        ["status"],
        ["status", run],
        ["report", run],
        ["report", run, "--attempts"],
        ["journal", "verify", run],
        ["stop", run],
        ["resume", run],
        ["rerun", run, "--yes"],
        ["plan", "job.yaml"],
        ["doctor", "job.yaml", "--endpoint", backend.endpoint],
    ):
        done = desk.run(*argv, "--json")
        assert done.code == 0, done.text
        assert isinstance(done.json, dict)
    assert json.loads(desk.run("report", run, "--format", "json").out) == desk.run("report", run, "--json").json


@pytest.mark.both_stores
def test_guards_hold_for_every_verb_that_sends(desk: Desk, backend: Backend) -> None:
    desk.write("config.yaml", 'protect: ["*/ann"]\n')
    done = desk.run("lock", ANN, BOB, "--region", "ap-singapore", "--yes", "--json", "--endpoint", backend.endpoint)
    assert done.code == 0 and done.json["left_out"]["protected"] == 1
    assert {arrival.user for arrival in backend.writes()} == {"bob"}


@pytest.mark.both_stores
@pytest.mark.parametrize(
    ("verb", "action", "state"),
    [
        ("lock", "LockAccount", (5, False)),
        ("unlock", "UnlockAccount", (2, False)),
        ("cam-on", "OpenAccountCAM", (2, True)),
    ],
)
def test_a_few_targets_need_no_file(
    desk: Desk, backend: Backend, verb: str, action: str, state: tuple[int, bool]
) -> None:
    flags = ["--region", "ap-singapore", "--yes", "--endpoint", backend.endpoint, "--reason", "leak", "--ticket", "I-1"]
    done = desk.run(verb, ANN, BOB, *flags)
    assert done.code == 0, done.text
    for user in ("ann", "bob"):
        account = backend.world.account("postgres-aaaaaaaa", user)
        assert account is not None and (account.status, account.cam) == state
    (run,) = desk.records("run")
    assert (run["action"], run["reason"], run["ticket"]) == (action, "leak", "I-1")
    assert run["settings"]["endpoint"] == [backend.endpoint]
    assert desk.run("status", f"latest:{action}-by-hand").code == 0


@pytest.mark.parametrize("target", ["ann", "postgres-aaaaaaaa/", "postgres-aaaaaaaa/a b", "/ann"])
def test_a_target_that_is_none_is_named(desk: Desk, target: str) -> None:
    done = desk.run("lock", BOB, target, "--region", "ap-singapore", "--yes")
    assert done.code == 2 and "command line:2: " in done.err
    assert desk.run("lock", BOB, "--yes").code == 2, "a region is needed"


# ---- resume --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cut(desk: Desk) -> Iterator[tuple[Desk, Backend]]:
    """A run of six calls that a fatal answer ended after the first two; it would go well from here."""
    with faulty({"code": "AuthFailure.SecretIdNotFound", "after": 2, "times": 1, "action": "LockAccount"}) as backend:
        desk.job(*many(6))
        done = desk.run("run", "job.yaml", "--yes", "--rate", "20", "--endpoint", backend.endpoint)
        assert done.code == 4 and "STOPPED EARLY" in done.out, done.text
        yield desk, backend


def changed_job(desk: Desk) -> None:
    desk.job(*many(5), "postgres-cccccccc/new1", "postgres-cccccccc/new2")


@pytest.mark.both_stores
def test_resume_goes_on_from_the_journal_alone(cut: tuple[Desk, Backend]) -> None:
    desk, backend = cut
    (desk.work / "job.yaml").unlink()
    before = desk.journal().read_bytes()
    done = desk.run("resume", "latest", "--json")
    assert done.code == 0 and done.json["counts"]["changed"] == 6
    assert desk.journal().read_bytes().startswith(before), "nothing written is ever changed"
    applied = [arrival.user for arrival in backend.writes() if arrival.applied]
    assert sorted(applied) == sorted(set(applied)), "none twice"


@pytest.mark.both_stores
def test_resume_asks_if_the_job_has_changed(cut: tuple[Desk, Backend]) -> None:
    desk, _ = cut
    changed_job(desk)
    before = desk.journal().read_bytes()
    done = desk.run("resume", "latest")
    assert done.code == 3 and "has changed since (+2 −1 targets)" in done.err and "nobody is there" in done.err
    assert desk.journal().read_bytes() == before
    with on_terminal(desk, "resume", "latest") as terminal:
        terminal.wait_for("+2 −1")
        terminal.wait_for("[y/N] ")
        terminal.type("n")
        assert terminal.end() == 3
    assert desk.journal().read_bytes() == before
    done = desk.run("resume", "latest", "--yes")
    assert done.code == 0 and "6 of 6 verified locked" in done.out, "the journal's list is what is sent"


@pytest.mark.both_stores
def test_resume_keeps_to_the_endpoint(cut: tuple[Desk, Backend]) -> None:
    desk, backend = cut
    before = desk.journal().read_bytes()
    for verb in (["resume", "latest"], ["rerun", run_id(desk), "--yes"]):
        done = desk.run(*verb, "--endpoint", "http://127.0.0.1:1")
        assert done.code == 2 and f"the run used {backend.endpoint}" in done.err
    assert desk.journal().read_bytes() == before
    assert desk.run("resume", "latest", "--endpoint", backend.endpoint.upper().replace("HTTP", "http") + "/").code == 0


@pytest.mark.both_stores
def test_what_resume_refuses_it_refuses_before_it_writes(cut: tuple[Desk, Backend]) -> None:
    desk, _ = cut
    before = desk.journal().read_bytes()
    desk.write("config.yaml", "nonsense: 1\n")
    assert desk.run("resume", "latest").code == 2
    (desk.work / "config.yaml").unlink()
    assert desk.run("resume", "latest", "--exclude", "noslash").code == 2
    assert desk.run("resume", "latest", "--rate", "none").code == 2
    key = desk.env.pop("TENCENTCLOUD_SECRET_KEY")
    assert desk.run("resume", "latest").code == 5
    desk.env["TENCENTCLOUD_SECRET_KEY"] = key
    assert desk.journal().read_bytes() == before


@pytest.mark.both_stores
def test_resume_leaves_out_what_is_excluded_or_protected_now(cut: tuple[Desk, Backend]) -> None:
    desk, backend = cut
    left = {line["user"] for line in desk.records("call")} - {
        arrival.user for arrival in backend.writes() if arrival.applied
    }
    first, second, *_ = sorted(left)
    desk.write("config.yaml", f'protect: ["*/{first}"]\n')
    done = desk.run("resume", "latest", "--json", "--exclude", f"*/{second}", "--rate", "11", "--timeout", "3s")
    assert done.code == 0, done.text
    assert done.json["left_out"]["protected"] == 1 and done.json["left_out"]["excluded"] == 1
    assert done.json["counts"]["changed"] == 4
    assert not {first, second} & {arrival.user for arrival in backend.writes() if arrival.applied}
    (session,) = desk.records("session")
    assert (session["settings"]["rate"], session["settings"]["timeout_s"]) == (11, 3)


@pytest.mark.both_stores
def test_resume_of_a_finished_run_appends_nothing_and_ends_as_it_did(desk: Desk) -> None:
    with faulty({"user": "eve", "code": "OperationDenied.InstanceAccessDeniedError"}) as backend:
        desk.job()
        first = desk.run("run", "job.yaml", "--yes", "--endpoint", backend.endpoint)
        before = desk.journal().read_bytes()
        again = desk.run("resume", "latest")
        assert first.code == again.code == 1
        assert again.out == first.out
        assert desk.journal().read_bytes() == before and len(backend.writes()) == 3


# ---- rerun ---------------------------------------------------------------------------------------------------------


@pytest.mark.both_stores
def test_rerun_repeats_what_is_asked_for(desk: Desk) -> None:
    denied, busy = "OperationDenied.InstanceAccessDeniedError", "InvalidParameterValue.InvalidAccountNameError"
    rules = ({"user": "user1", "code": denied, "times": 2}, {"user": "user2", "code": busy, "times": 1})
    with faulty(*rules) as backend:
        desk.job(*many(4))
        assert desk.run("run", "job.yaml", "--yes", "--endpoint", backend.endpoint).code == 1
        run = run_id(desk)
        refused = desk.run("rerun", "latest", "--yes")
        assert refused.code == 3 and "name the run" in refused.err
        assert desk.run("rerun", run, "--only", "nonsense").code == 2
        none = desk.run("rerun", run, "--yes", "--only", "unknown")
        assert none.code == 0 and "nothing is unknown" in none.err
        assert desk.run("rerun", run).code == 3, "it asks"
        assert len(desk.journals()) == 1

        by_code = desk.run("rerun", run, "--yes", "--code", busy, "--reason", "mended")
        assert by_code.code == 0 and "1 of 1 verified locked" in by_code.out
        still = desk.run("rerun", run, "--yes")
        assert still.code == 1, "user1 is denied once more; user2 is settled by now"
        assert [len(records(path, "call")) for path in desk.journals()] == [4, 1, 1]
        assert desk.run("rerun", run, "--yes", "--json").code == 0
        assert desk.run("rerun", run, "--yes").code == 0
        assert "settled by a later rerun" in desk.run("rerun", run, "--yes").err
        assert len(desk.journals()) == 4

    path = desk.journals()[0]
    links = [note["data"]["run"] for note in desk.notes(run)]
    children = [records(other, "run")[0] for other in desk.journals()[1:]]
    assert links == [child["run"] for child in children]
    heads = {line["hash"] for line in records(path)}
    assert all(child["parent"]["run"] == run and child["parent"]["head"] in heads for child in children)
    assert children[0]["reason"] == "mended"
    done = desk.run("resume", run)
    assert done.code == 0 and f"of run {run} and its reruns all 4 are as asked" in done.out


# ---- stop, status, report ------------------------------------------------------------------------------------------


@pytest.mark.both_stores
def test_stop_drains_a_run_of_another_shell(desk: Desk, backend: Backend) -> None:
    desk.job(*apart(60))
    process = desk.popen("run", "job.yaml", "--yes", "--json", "--rate", "30", "--endpoint", backend.endpoint)
    desk.wait_for("settled", 3)
    live = desk.run("status", "latest")
    assert live.code == 0 and live.out.startswith("LIVE  run ")
    stopped = desk.run("stop", "latest")
    assert stopped.code == 0 and f"go on:  acctops resume {run_id(desk)}" in stopped.err
    done = desk.end(process)
    assert done.code == 4 and "acctops stop" in done.json["stopped"]["why"]
    assert done.json["counts"]["unknown"] == 0 and done.json["counts"]["unattempted"] > 0
    assert desk.run("stop", "latest").code == 0, "nothing to stop"
    assert desk.run("resume", "latest", "--rate", "1000").code == 0, "an old request to stop is forgotten"


@pytest.mark.both_stores
def test_a_run_is_named_in_several_ways(desk: Desk, backend: Backend) -> None:
    flags = ["--yes", "--quiet", "--endpoint", backend.endpoint]
    desk.job(ANN, name="first.yaml")
    desk.job(BOB, name="second.yaml")
    assert desk.run("run", "first.yaml", *flags).code == 0
    first = run_id(desk)
    assert desk.run("run", "second.yaml", *flags).code == 0
    second = next(path.parent.name for path in desk.journals() if path.parent.name != first)
    path = desk.path(first)
    names = {first: first, first[:-1]: first, str(path): first, str(path.parent): first, "latest:first": first}
    names |= {"latest": second, "latest:second": second}
    for name, run in names.items():
        if name == first[:-1] and second.startswith(name):
            continue
        assert desk.run("status", name, "--json").json["run"] == run
    both = desk.run("status", first[:4])
    assert both.code == 2 and "is the beginning of 2 runs" in both.err and first in both.err and second in both.err
    missing = desk.run("status", "1999")
    assert missing.code == 2 and first in missing.err and desk.runs().kept_in in missing.err
    assert "there are runs of" in desk.run("status", "latest:third").err


@pytest.mark.both_stores
def test_a_copied_journal_can_be_read_and_not_continued(desk: Desk, backend: Backend) -> None:
    desk.job()
    desk.run("run", "job.yaml", "--yes", "--quiet", "--endpoint", backend.endpoint)
    copy = desk.write("copy.jsonl", desk.journal().read_bytes())
    for argv in (["status", copy], ["report", copy, "--format", "csv"], ["journal", "verify", copy]):
        assert desk.run(*argv).code == 0
    for argv in (["resume", copy], ["stop", copy]):
        done = desk.run(*argv)
        assert done.code == 2 and "outside a state directory" in done.err


@pytest.mark.both_stores
@pytest.mark.files_only("which state directory a command is to be told")
def test_the_command_that_continues_names_the_directory_if_it_must(desk: Desk, backend: Backend) -> None:
    desk.job()
    desk.env["TENCENTCLOUD_SECRET_KEY"] = "wrong-" + "x" * 20
    flags = ["--yes", "--no-verify", "--endpoint", backend.endpoint]
    near = desk.run("run", "job.yaml", *flags)
    assert near.out.splitlines()[-2].endswith(f" {run_id(desk)}")
    far = desk.run("run", "job.yaml", *flags, "--state-dir", "over there")
    assert f"--state-dir '{desk.work / 'over there'}'" in far.out
    del desk.env["ACCTOPS_STATE_DIR"]
    desk.job(name="elsewhere/job.yaml")
    desk.write("elsewhere/config.yaml", "state_dir: journals\n")
    by_config = desk.run("run", "elsewhere/job.yaml", *flags)
    command = by_config.out.rpartition("go on:  acctops ")[2].splitlines()[0].split()
    assert command[0] == "resume" and desk.run(*command).code == 5, "it finds the run"


@pytest.mark.both_stores
@pytest.mark.files_only("the file of slots; a database has rows, which test_several_hosts.py looks at")
def test_runs_of_one_sub_account_share_its_quota_whatever_they_knew_when_they_began(
    desk: Desk, backend: Backend
) -> None:
    """One that reads first knows whose its keys are, one that does not learns it on the way: one file of slots.

    And what the API allows is in the journal: a run that asks for less leaves the rest to the others.
    """
    desk.job(*(f"postgres-aaaaaaaa/user_{number}" for number in range(20)))
    flags = ["--yes", "--endpoint", backend.endpoint, "--rate", "10"]
    assert desk.run("run", "job.yaml", *flags).code == 0
    (run,) = desk.records("run")
    assert (run["settings"]["rate"], run["settings"]["quota"]) == (10, 20)
    (slots,) = (desk.state / "lanes").iterdir()
    was = slots.read_bytes()
    assert desk.run("run", "job.yaml", *flags, "--no-verify").code == 0
    assert slots.read_bytes() != was


@pytest.mark.both_stores
def test_nothing_yet_is_said(desk: Desk) -> None:
    done = desk.run("status")
    assert done.code == 0 and "no runs yet" in done.out and desk.runs().kept_in in done.err


# ---- explain, doctor, schema, simulate -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("RequestLimitExceeded", ["throttled", "every action"]),
        ("failedoperation.precheckerror", ["FailedOperation.PreCheckError", "LockAccount", "do  "]),
        ("OperationDenied.InstanceStatusLimitOp", ["does not know this code", "Nearest known codes"]),
        ("Local.Timeout", ["in doubt"]),
    ],
)
def test_codes_are_explained(desk: Desk, code: str, words: list[str]) -> None:
    done = desk.run("explain", code)
    assert done.code == 0
    for word in words:
        assert word in done.out


def doctor(done: Done) -> dict[str, str]:
    return {check["check"]: check["result"] for check in done.json["checks"]}


def test_the_doctor_finds_what_would_stop_a_run(desk: Desk, backend: Backend) -> None:
    desk.job()
    flags = ["--json", "--endpoint", backend.endpoint]
    good = desk.run("doctor", "job.yaml", *flags)
    assert good.code == 0
    assert doctor(good) == {
        "job": "ok",
        "guards": "warn",
        "state dir": "ok",
        "credentials": "ok",
        "identity": "ok",
        "clock": "ok",
        "endpoint": "ok",
        "permission": "warn",  # a write cannot be tried without sending it
    }
    assert not desk.journals() and not list((desk.state / "runs").iterdir()), "it leaves no run behind"
    nobody = desk.run("doctor", "--json", "--endpoint", "http://127.0.0.1:9")
    assert nobody.code == 1 and doctor(nobody)["endpoint"] == "fail"
    assert "Local.Connect" in nobody.out and "http://127.0.0.1:9" in nobody.out
    desk.env["TENCENTCLOUD_SECRET_KEY"] = "wrong-" + "x" * 20
    wrong = desk.run("doctor", *flags)
    assert wrong.code == 5 and doctor(wrong)["endpoint"] == "fail" and "wrong-" not in wrong.text
    del desk.env["TENCENTCLOUD_SECRET_ID"], desk.env["TENCENTCLOUD_SECRET_KEY"]
    none = desk.run("doctor", *flags, "--state-dir", str(desk.write("file", "") / "x"))
    assert none.code == 5
    assert doctor(none)["credentials"] == doctor(none)["state dir"] == "fail"
    text = desk.run("doctor", "--endpoint", backend.endpoint)
    assert text.code == 5 and "fail  credentials: no API keys" in text.out


def test_the_doctor_learns_the_clock_as_a_run_does(desk: Desk) -> None:
    with faulty({"wrong_clock": 3600}) as backend:
        done = desk.run("doctor", "--json", "--endpoint", backend.endpoint)
    assert done.code == 0
    assert (doctor(done)["clock"], doctor(done)["endpoint"]) == ("warn", "ok")
    assert "set it by NTP" in done.out


def test_the_schema_is_json(desk: Desk) -> None:
    done = desk.run("schema")
    assert done.code == 0 and "targets" in done.json["properties"]


def test_the_simulator_refuses_what_it_cannot_serve(desk: Desk) -> None:
    desk.write("fleet.yaml", "instances: [{id: 3}]\n")
    desk.write("faults.yaml", "- {cod: X}\n")
    for argv, word in (
        (["--fleet", "fleet.yaml"], "fleet.yaml: instances[0]"),
        (["--fleet", "none.yaml"], "none.yaml: cannot be read"),
        (["--faults", "faults.yaml"], "faults.yaml: faults[0]: unknown key 'cod'"),
        (["--port", "70000"], "--port"),
        (["--latency", "soon"], "--latency soon"),
        (["--window", "week"], "--window"),
    ):
        done = desk.run("simulate", *argv)
        assert done.code == 2 and word in done.err and done.out == ""


def test_the_simulator_says_that_its_port_is_taken(desk: Desk, backend: Backend) -> None:
    done = desk.run("simulate", "--port", backend.endpoint.rpartition(":")[2])
    assert done.code == 2 and "--port" in done.err and "in use" in done.err


def test_the_simulator_takes_the_keys_of_its_environment(desk: Desk) -> None:
    desk.env |= {"TENCENTCLOUD_SECRET_ID": "AKIDmine", "TENCENTCLOUD_SECRET_KEY": "mine" * 8}
    server = desk.popen("simulate", "--latency", "0s")
    assert server.stdout is not None
    endpoint = server.stdout.readline().decode().strip()
    assert desk.run("lock", ANN, "--region", "ap-singapore", "--yes", "--endpoint", endpoint).code == 0
    desk.env["TENCENTCLOUD_SECRET_KEY"] = "other" * 8
    assert desk.run("lock", BOB, "--region", "ap-singapore", "--yes", "--endpoint", endpoint).code == 5
    server.terminate()
    ended = desk.end(server)
    assert ended.code == 0 and "mine" not in ended.text


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.both_stores
def test_a_run_spread_over_lanes_uses_all_of_them(desk: Desk) -> None:
    with Backend(World(), ports=3) as backend:
        desk.job(*many(30))
        both = [flag for endpoint in backend.endpoints for flag in ("--endpoint", endpoint)]
        done = desk.run("run", "job.yaml", "--yes", "--json", *both)
        assert done.code == 0 and done.json["throttled"] == 0
        assert len({arrival.access for arrival in backend.writes()}) == 3


@pytest.mark.both_stores
def test_a_deadline_ends_the_run_and_says_so(desk: Desk, backend: Backend) -> None:
    desk.job(*many(60))
    done = desk.run("run", "job.yaml", "--yes", "--json", "--deadline", "500ms", "--endpoint", backend.endpoint)
    assert done.code == 4 and "deadline" in done.json["stopped"]["why"]
    assert done.json["counts"]["unattempted"] > 30
    wait_until(lambda: desk.run("status", "--json").json["runs"][0]["exit"] == 4)


@pytest.mark.both_stores
def test_stop_after_a_share_of_failures(desk: Desk) -> None:
    with faulty({"code": "OperationDenied.InstanceAccessDeniedError", "action": "LockAccount"}) as backend:
        desk.job(*many(40), extra="stop_after: 5%")
        done = desk.run("run", "job.yaml", "--yes", "--json", "--endpoint", backend.endpoint)
        assert done.code == 4 and "stop_after" in done.json["stopped"]["why"]
        assert 2 <= done.json["counts"]["failed"] <= 4


# ---- bad rows --------------------------------------------------------------------------------------------------------


@pytest.mark.both_stores
def test_bad_rows_are_left_out_when_asked_and_count_as_failed(desk: Desk) -> None:
    """The good are sent; the bad stand in plan, journal, reports and exit code, with their lines, and in no rerun."""
    desk.write("list.csv", "instance;user\npostgres-aaaaaaaa;ann\nnonsense;bob\npostgres-bbbbbbbb;e v e\n")
    job = desk.job("{csv: list.csv}")
    refused = desk.run("run", job, "--simulate", "--yes")
    assert refused.code == 2 and "list.csv:3" in refused.err and "list.csv:4" in refused.err
    assert "--skip-bad-rows sends the good ones (1)" in refused.err
    plan = desk.run("plan", job, "--offline", "--skip-bad-rows", "--json").json
    assert plan["counts"]["calls"] == 1 and plan["left_out"]["bad_row"] == 2
    done = desk.run("run", job, "--simulate", "--yes", "--skip-bad-rows", "--json")
    assert done.code == 1, done.text
    assert done.json["counts"] == {"changed": 1, "already": 0, "failed": 2, "unknown": 0, "unattempted": 0}
    assert [(each["instance"], each["user"], each["code"]) for each in done.json["failures"]] == [
        ("nonsense", "bob", "Local.BadRow"),
        ("postgres-bbbbbbbb", "e v e", "Local.BadRow"),
    ]
    assert "list.csv:3: instance: 'nonsense' is not an instance id" in done.json["failures"][0]["message"]
    assert "Correct the row" in done.json["failures"][0]["advice"]
    run = done.json["run"]
    report = desk.run("report", run)
    assert "1 of 3 verified locked" in report.out and "2 not: 2 failed" in report.out and "go on:" not in report.out
    assert desk.run("report", run, "--format", "csv").out.count("Local.BadRow") == 2
    assert "2 × Local.BadRow" in desk.run("report", run, "--stuck").out
    resumed = desk.run("resume", run)
    assert resumed.code == 1 and "changed since" not in resumed.err
    again = desk.run("rerun", run, "--yes", "--json")
    assert again.code == again.json["exit"] == 1
    assert "not in a rerun: " in again.err and "list.csv:4" in again.err
    assert "2 of what was asked for never became a call" in again.json["why"]


@pytest.mark.both_stores
def test_a_rerun_of_bad_rows_and_failures_repeats_the_failures(desk: Desk) -> None:
    """And says what it cannot repeat."""
    desk.write("list.csv", "postgres-aaaaaaaa ann\npostgres-bbbbbbbb eve\nnonsense\n")
    job = desk.job("{csv: list.csv}")
    script = desk.write("faults.yaml", "[{user: eve, code: InvalidParameterValue.AccountNotExistError}]")
    done = desk.run("run", job, "--simulate", "--faults", script, "--yes", "--skip-bad-rows", "--json").json
    assert done["counts"]["failed"] == 2 and done["counts"]["changed"] == 1
    again = desk.run("rerun", done["run"], "--yes", "--json")
    assert again.code == 0 and again.json["counts"]["changed"] == 1
    assert "list.csv:3: has 1 of 3 columns" in again.err


@pytest.mark.both_stores
def test_a_run_with_bad_rows_is_resumed_without_a_question(desk: Desk) -> None:
    """Its list is as it was: that rows of it are bad was agreed to."""
    desk.write("list.csv", "postgres-aaaaaaaa ann\nnonsense\n")
    job = desk.job("{csv: list.csv}", extra='protect: ["*/guard"]')
    script = desk.write("faults.yaml", "[{user: ann, times: 1, code: AuthFailure.SecretIdNotFound}]")
    stopped = desk.run("run", job, "--simulate", "--faults", script, "--yes", "--skip-bad-rows", "--json")
    assert stopped.json["counts"]["unattempted"] == 1 and stopped.json["counts"]["failed"] == 1
    resumed = desk.run("resume", stopped.json["run"], "--json")
    assert resumed.code == 1 and resumed.json["counts"]["changed"] == 1, resumed.text
