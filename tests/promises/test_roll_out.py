"""A roll-out in waves as an operator has it: a job file, a gate that is a program, a real server, real signals."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.simulator.world import World
from tests.support.command import Backend, Desk, records, wait_until

A, B = "postgres-aaaaaaaa", "postgres-bbbbbbbb"
USERS = [f"{A}/a{number}" for number in range(1, 5)] + [f"{B}/b{number}" for number in range(1, 5)]
WAVES = "waves: [{take: 2}, {take: 3}, {take: rest}]\n"
GATE = "gate: {command: [./gate.sh], every: 1s, timeout: 3s}\n"
GOOD = """#!/bin/sh
question=$(cat)
printf '%s\\n' "$question" >> asked.txt
nonce=$(printf %s "$question" | sed -n 's/.*"nonce":"\\([0-9a-f]*\\)".*/\\1/p')
wave=$(printf %s "$question" | sed -n 's/.*"wave":\\([0-9]*\\).*/\\1/p')
if [ "$wave" = "$(cat red 2>/dev/null)" ]; then echo "red $nonce"; exit 1; fi
echo "green $nonce"
"""


@pytest.fixture
def backend() -> Iterator[Backend]:
    world = World(latency=0)
    for name in USERS:
        instance, user = name.split("/")
        world.seed(instance, "ap-singapore", [user])
    with Backend(world) as server:
        yield server


class Office:
    """A desk with a job in waves and a gate, beside a server."""

    def __init__(self, desk: Desk, backend: Backend) -> None:
        self.desk = desk
        self.backend = backend
        self.gate(GOOD)

    def gate(self, text: str | bytes, mode: int = 0o755) -> Path:
        path = self.desk.write("gate.sh", text)
        path.chmod(mode)
        return path

    def job(self, extra: str = WAVES + GATE, *, action: str = "LockAccount") -> Path:
        return self.desk.job(*USERS, action=action, extra=extra)

    def run(self, *words: object, code: int | None = None, **more: Any) -> Any:
        done = self.desk.run(*map(str, words), **more)
        assert code is None or done.code == code, done.text
        return done

    def begin(self, *, code: int, words: tuple[str, ...] = ()) -> Any:
        return self.run("run", "job.yaml", "--yes", "--json", *words, code=code).json

    def red(self, wave: int | None) -> None:
        if wave is None:
            (self.desk.work / "red").unlink()
        else:
            self.desk.write("red", str(wave))

    @property
    def asked(self) -> list[Any]:
        path = self.desk.work / "asked.txt"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def written(self) -> list[str]:
        """The accounts that the server was asked to change, in order."""
        return [f"{each.instance}/{each.user}" for each in self.backend.writes()]

    def locked(self) -> set[str]:
        found = set()
        for name in USERS:
            instance, user = name.split("/")
            account = self.backend.world.account(instance, user)
            assert account is not None
            if account.status == 5:
                found.add(name)
        return found


@pytest.fixture
def office(desk: Desk, backend: Backend) -> Office:
    desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
    return Office(desk, backend)


def test_the_gate_gets_run_wave_targets_and_a_new_nonce_and_all_of_it_goes_well(office: Office) -> None:
    """What a gate is asked is what its author was promised."""
    office.job()
    plan = office.run("plan", "job.yaml", "--json", code=0).json
    assert plan["waves"] == [
        {"n": 1, "take": "2", "calls": 2, "soak_s": 0.0},
        {"n": 2, "take": "3", "calls": 3, "soak_s": 0.0},
        {"n": 3, "take": "rest", "calls": 3, "soak_s": 0.0},
    ]
    assert [call["wave"] for call in plan["calls"]] == [1, 1, 2, 2, 2, 3, 3, 3]
    shown = office.run("plan", "job.yaml", code=0).out
    assert "wave 2  3 accounts" in shown and "if the gate says red, the run ends" in shown
    assert f"  wave 1  {plan['calls'][0]['instance']}/{plan['calls'][0]['user']}" in shown
    assert "; in 3 waves with a gate." in office.run("run", "job.yaml", typed="n\n", code=3).err
    done = office.begin(code=0)
    assert [wave["state"] for wave in done["waves"]] == ["passed"] * 4
    assert [each["wave"] for each in office.asked] == [0, 1, 2, 3]
    assert {each["run"] for each in office.asked} == {done["run"]}
    assert len({each["nonce"] for each in office.asked}) == 4
    assert office.asked[0]["targets"] == []
    first = [{key: call[key] for key in ("account", "region", "instance", "user")} for call in plan["calls"][:2]]
    assert office.asked[1]["targets"] == first
    assert office.run("report", done["run"], code=0).out.count("passed") == 4


def test_red_at_a_wave_leaves_the_earlier_ones_and_sends_nothing_beyond(office: Office) -> None:
    """By the server's own record. The job is then gone on with by `resume RUN` alone, which asks the gate again."""
    office.job()
    office.red(2)
    done = office.begin(code=4)
    assert len(office.written()) == 5 and len(office.locked()) == 5
    assert done["waves"][2]["state"] == "red" and done["undone"] is None
    assert done["go_on"] == f"acctops resume {done['run']}"
    assert "the gate said red" in done["stopped"]["why"]
    refused = office.run("run", "job.yaml", "--yes", code=3)
    assert f"acctops resume {done['run']}" in refused.err and f"acctops undo {done['run']} --wave 2" in refused.err
    assert "red gate, at wave 2" in refused.err
    other = office.run("rerun", done["run"], "--only", "unattempted", "--yes", code=3)
    assert "only this goes on with it" in other.err
    unasked = office.run("resume", done["run"], code=3, typed="n\n")
    assert "its gate called wave 2 red" in unasked.err and len(office.written()) == 5
    still = office.run("resume", done["run"], "--yes", "--json", code=4).json
    assert still["waves"][2]["state"] == "red" and len(office.written()) == 5
    office.red(None)
    whole = office.run("resume", done["run"], "--yes", "--json", code=0).json
    assert whole["counts"]["changed"] == 8 and len(office.written()) == 8
    office.run("run", "job.yaml", "--yes", code=0)


def test_one_wave_is_undone_by_hand_and_the_job_can_run_again(office: Office) -> None:
    """`undo --wave` takes back that wave and no other; it is an ordinary linked run."""
    office.job()
    office.red(2)
    run = office.begin(code=4)["run"]
    assert "has waves 1 to 3" in office.run("undo", run, "--wave", "7", "--yes", code=2).err
    undone = office.run("undo", run, "--wave", "2", "--yes", "--json", code=0).json
    assert undone["counts"]["changed"] == 3 and len(office.locked()) == 2
    assert office.run("report", undone["run"], "--json", code=0).json["parent"]["run"] == run
    office.red(None)
    assert office.begin(code=0)["counts"] == {
        "changed": 6, "already": 2, "failed": 0, "unknown": 0, "unattempted": 0
    }  # fmt: skip


def test_on_red_undo_takes_the_wave_back_and_exits_4(office: Office) -> None:
    """The wave is undone and read back; the earlier one stays; nothing of the later one was ever sent."""
    office.job(WAVES + GATE + "on_red: undo\n")
    office.red(2)
    done = office.begin(code=4)
    order = [f"{call['instance']}/{call['user']}" for call in office.run("plan", "job.yaml", "--json").json["calls"]]
    assert set(office.written()) == set(office.written()[:5]) and len(office.written()) == 8
    assert office.locked() == set(office.written()[:2])
    assert done["undone"]["exit"] == 0 and done["undone"]["counts"]["changed"] == 3
    child = office.run("report", done["undone"]["run"], "--json", code=0).json
    assert child["parent"] == {"run": done["run"], "verb": "undo", "head": child["parent"]["head"]}
    assert office.run("resume", done["run"], "--yes", code=3).err and len(order) == 8
    holds = office.run("holds", "--json", code=0).json["holds"]
    assert [len(each["targets"]) for each in holds] == [2]


def test_an_undo_that_fails_is_told_and_exits_1(office: Office) -> None:
    """A red wave that could not be taken back is worse than a red one: it is not exit 4."""
    office.job(WAVES + GATE + "on_red: undo\n")
    office.red(1)
    office.backend.script({"action": "UnlockAccount", "code": "InvalidParameterValue.AccountNotExistError"})
    done = office.run("run", "job.yaml", "--yes", "--json", code=1)
    assert done.json["undone"]["exit"] == 1 and len(office.locked()) == 2
    assert done.json["exit"] == 1 and "undo" in (done.json["go_on"] or "") + done.err


PASSWORDS = "instance,user,password\n" + "".join(f"{name.replace('/', ',')},Abcdefg1!\n" for name in USERS)


def test_cam_is_turned_off_again_with_passwords_that_are_checked_before_the_wave(office: Office) -> None:
    """Who finds out at the undo that a password is missing has accounts that nobody can log in to."""
    extra = WAVES + GATE + "on_red: undo\npasswords: {file: new.csv}\n"
    office.desk.write("new.csv", PASSWORDS).chmod(0o600)
    office.job(extra, action="OpenAccountCAM")
    office.red(2)
    done = office.begin(code=4)
    actions = [each.action for each in office.backend.writes()]
    assert actions == ["OpenAccountCAM"] * 5 + ["CloseAccountCAM"] * 3
    assert done["undone"]["counts"]["changed"] == 3
    lacking = "".join(PASSWORDS.splitlines(keepends=True)[:-2])
    office.desk.write("new.csv", lacking).chmod(0o600)
    office.red(None)
    again = office.begin(code=4)
    assert "could not be undone if it were red" in again["stopped"]["why"]
    assert len(office.backend.writes()) - 8 < 6 and "Abcdefg1!" not in json.dumps(again)


def test_on_red_undo_of_cam_needs_a_source_of_passwords(office: Office) -> None:
    """It is said when the job is read, with its place."""
    office.job(WAVES + GATE + "on_red: undo\n", action="OpenAccountCAM")
    done = office.run("plan", "job.yaml", code=2)
    assert "passwords: is missing; on_red: undo (CloseAccountCAM) sets a new password" in done.err


BAD_GATES = {
    "hangs": ("exec sleep 60\n", "no word within 3 s, and it was killed"),
    "dies by signal": ("kill -9 $$\n", "it said neither green nor red (killed by signal 9)"),
    "says an old nonce": ("echo green 0123456789abcdef0123456789abcdef\n", "the nonce of its word is not that"),
    "says green and exits 1": ('echo "green $nonce"; exit 1\n', "it said green, with exit status 1"),
    "says red and exits 0": ('echo "red $nonce"\n', "it said red, with exit status 0"),
    "exits 0 and is mute": ("exit 0\n", "it said neither green nor red (exit status 0)"),
    "says both": ('echo "green $nonce"; echo "red $nonce"\n', "it said green and red"),
    "prints a gigabyte": ("head -c 1000000000 /dev/zero; echo; echo green $nonce\n", "more than 64 KiB"),
    "says it on standard error": ('echo "green $nonce" >&2\n', "it said neither green nor red"),
    "says it within a line": ('echo "all is green $nonce now"\n', "it said neither green nor red"),
    "reads nothing": ("exec <&-; exit 3\n", "it said neither green nor red (exit status 3)"),
}


@pytest.mark.parametrize("name", BAD_GATES)
def test_a_gate_that_says_no_word_that_counts_is_silent(office: Office, name: str) -> None:
    """A check that could not start counted as success elsewhere. Here nothing is sent, and the reason is named."""
    script, why = BAD_GATES[name]
    office.gate(GOOD.partition("if [")[0] + script)
    office.job()
    done = office.begin(code=3)
    assert done["waves"][0]["state"] == "silent" and why in done["waves"][0]["why"], done["waves"]
    assert not office.written() and done["counts"]["unattempted"] == 8
    office.gate(GOOD)
    assert office.run("resume", done["run"], "--yes", "--json", code=0).json["counts"]["changed"] == 8


def test_a_gate_that_leaves_children_leaves_none(office: Office) -> None:
    """Asked every five minutes for a day, it would fill the machine; its children hold no output open either."""
    office.gate(
        GOOD.replace('echo "green', 'sleep 300 & echo $! >> children; sleep 301 & echo $! >> children\necho "green')
    )
    office.job()
    began = time.monotonic()
    office.begin(code=0)
    assert time.monotonic() - began < 20  # four questions, of which none waits for a child
    for number in (office.desk.work / "children").read_text().split():
        wait_until(lambda number=number: not _is_alive(int(number)))


def _is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.chmod(0o644), "may not be executed: chmod +x"),
        (Path.unlink, "is not there"),
        (lambda path: (path.unlink(), path.mkdir()), "is a directory"),
    ],
)
def test_a_gate_that_cannot_be_started_is_named_before_a_run_exists(office: Office, spoil: Any, why: str) -> None:
    """Exit 2 before the question, and `doctor` says it by day."""
    spoil(office.desk.work / "gate.sh")
    office.job()
    assert why in office.run("run", "job.yaml", "--yes", code=2).err and not office.desk.journals()
    doctor = office.run("doctor", "job.yaml")
    assert "fail  gate" in doctor.out.replace("   ", "  ") or why in doctor.out


def test_a_kill_in_a_soak_is_resumed_by_asking_again_and_soaking_anew(office: Office) -> None:
    """The machine dies at 3 a.m., one wave done. `run JOB` goes on, and no wave is skipped or believed."""
    office.job("waves: [{take: 2, soak: 3s}, {take: rest}]\n" + GATE)
    process = office.desk.popen("run", "job.yaml", "--yes")
    wait_until(
        lambda: (
            bool(office.desk.journals())
            and any(line["state"] == "soaking" for line in records(office.desk.journal(), "wave"))
        )
    )
    live = office.run("status", "latest", code=0).out
    assert "wave 1 of 2 SOAKS until" in live
    os.kill(process.pid, signal.SIGKILL)
    office.desk.end(process)
    asked = len(office.asked)
    assert "was soaking; a resume soaks it anew" in office.run("status", "latest").out
    done = office.run("run", "job.yaml", "--yes", "--json", code=0).json
    assert done["counts"]["changed"] == 8 and len(office.written()) == 8
    assert office.asked[asked]["wave"] == 1 and len(office.asked) >= asked + 4
    assert [line["state"] for line in records(office.desk.journal(), "wave") if line["n"] == 1] == [
        *("planned", "begun", "soaking", "begun", "soaking", "passed")
    ]


def test_a_gate_needs_a_job_file(office: Office) -> None:
    """A run that its gate has stopped could not be gone on with otherwise; simulated there is nothing to go on with."""
    text = office.job().read_bytes()
    refused = office.run("run", "-", "--yes", stdin=text, code=2)
    assert "save the job to a file" in refused.err and not office.asked and not office.written()
    office.run("run", "-", "--yes", "--simulate", stdin=text, code=0)


def test_the_gate_of_a_job_with_a_list_on_standard_input_starts_in_its_folder(office: Office) -> None:
    """A resume from another directory starts the same program in the same place, where its own files are."""
    office.gate(GOOD.replace("#!/bin/sh\n", '#!/bin/sh\npwd >> "$(dirname "$0")/places"\n'))
    targets = "".join(f"{name.replace('/', ',')}\n" for name in USERS)
    job = f"action: LockAccount\nregion: ap-singapore\n{WAVES}{GATE}targets: [{{csv: '-'}}]\n"
    office.desk.write("job.yaml", job)
    office.red(2)
    office.run("run", "job.yaml", "--yes", stdin=f"instance,user\n{targets}".encode(), code=4)
    office.red(None)
    elsewhere = office.desk.place / "elsewhere"
    elsewhere.mkdir()
    office.run("resume", office.desk.journal().parent.name, "--yes", cwd=elsewhere, code=0)
    places = (office.desk.work / "places").read_text().splitlines()
    assert set(places) == {str(office.desk.work)} and len(places) > 4


def test_a_failed_account_is_rerun_and_then_the_waves_go_on(office: Office) -> None:
    """The commands that the report prints, followed literally, lead to the end."""
    office.job(WAVES)
    office.backend.script({"user": "a1", "action": "LockAccount", "code": "InvalidParameterValue.AccountNotExistError"})
    done = office.begin(code=4)
    assert [wave["state"] for wave in done["waves"]] == ["failed", "planned", "planned"]
    report = office.run("report", done["run"]).out
    assert "wave 1  2 accounts  failed: 1 account is not as asked" in report
    office.backend.script()
    commands = [line.partition("acctops ")[2] for line in report.splitlines() if line.startswith(("go on:", "then:"))]
    assert [each.split()[0] for each in commands] == ["rerun", "resume"]
    for command in commands:
        office.run(*command.split(), "--yes", code=0)
    assert len(office.locked()) == 8


def test_a_resume_runs_no_gate_that_only_a_journal_names(office: Office) -> None:
    """Who can write a journal must not choose what runs."""
    office.job()
    office.red(1)
    run = office.begin(code=4)["run"]
    office.job(WAVES + GATE.replace("./gate.sh", "./other.sh"))
    refused = office.run("resume", run, "--yes", code=2)
    assert "its gate is named by its journal alone" in refused.err


def test_waves_that_leave_accounts_out_are_refused_with_numbers(office: Office) -> None:
    """Found when the plan is known, before anything is asked."""
    office.job("waves: [{take: 2}, {take: 10%}]\n")
    done = office.run("run", "job.yaml", "--yes", code=2)
    assert "job.yaml:3:8: waves: they take 3 of 8 accounts, so 5 would be in no wave; end with {take: rest}" in done.err
    assert not office.desk.journals()


def test_take_cuts_the_plan_before_its_waves(office: Office) -> None:
    """A share is a share of tonight's accounts, not of all that the job lists."""
    office.job("waves: [{take: 50%}, {take: rest}]\nlimits: {take: 4}\n")
    first = office.begin(code=0)
    assert [(wave["n"], wave["calls"]) for wave in first["waves"]] == [(1, 2), (2, 2)]
    second = office.begin(code=0)
    assert second["counts"]["changed"] == 4 and len(office.locked()) == 8


def test_simulated_the_simulator_says_the_word_unless_the_real_gate_is_wanted(office: Office) -> None:
    """A rehearsal takes seconds, can be red, and can try the real script."""
    office.job("waves: [{take: 2, soak: 1h}, {take: rest, soak: 1h}]\n" + GATE)
    done = office.run("run", "job.yaml", "--simulate", "--yes", "--json", code=0)
    assert done.json["seconds"] < 30 and not office.asked
    assert "a soak lasts a second at most" in done.err
    office.desk.write("faults.yaml", "- {gate: red, wave: 1}\n")
    red = office.run("run", "job.yaml", "--simulate", "--yes", "--faults", "faults.yaml", "--json", code=4).json
    assert red["waves"][1]["state"] == "red"
    office.run("run", "job.yaml", "--simulate", "--real-gate", "--yes", code=0)
    assert office.asked[0]["wave"] == 0 and len(office.asked) >= 3
    assert not office.written()


def test_notices_and_metrics_know_the_waves(office: Office) -> None:
    """Who is not at the terminal learns that a wave has passed, and that one did not."""
    told = office.desk.work / "told.jsonl"
    notify = f"notify: {{command: [sh, -c, 'cat >> {told}; echo >> {told}'], on: [wave, failure]}}\n"
    office.desk.write("config.yaml", f"metrics_file: {office.desk.work}/m.prom\n")
    office.job(WAVES + GATE + notify)
    office.red(2)
    office.begin(code=4)
    said = [json.loads(line) for line in told.read_text().splitlines() if line]
    assert [each["event"] for each in said] == ["wave", "failure"]
    assert "wave 1 of 3 has passed" in said[0]["text"] and said[1]["waves"][2]["state"] == "red"
    metrics = (office.desk.work / "m.prom").read_text()
    assert 'acctops_run_waves{job="job"} 3.0' in metrics and 'acctops_run_waves_passed{job="job"} 1.0' in metrics


def test_doctor_names_the_login_of_the_gate_and_of_the_operator(office: Office) -> None:
    """A gate that locks itself out is silent in the middle of the night."""
    office.job(WAVES + 'gate: {command: [psql, -U, a1, -c, "select 1"]}\n')
    office.desk.env["PGUSER"] = "B2"
    found = office.run("doctor", "job.yaml").out
    assert (
        "a1 is a login of the gate" in found and 'protect: ["*/a1"]' in found and "B2 is a login of the gate" in found
    )
    office.desk.write("config.yaml", 'protect: ["*/a1", "*/b2"]\n')
    assert "login of the gate" not in office.run("doctor", "job.yaml").out


def test_a_soak_that_never_fits_into_the_window_is_an_error(office: Office) -> None:
    """It would begin anew each night, and never pass."""
    window = 'window: {days: [sat], from: "01:00", until: "02:00", timezone: UTC}\n'
    office.job("waves: [{take: 2, soak: 2h}, {take: rest}]\n" + window)
    assert "a soak of 2h never ends in a window that is open for 1h" in office.run("plan", "job.yaml", code=2).err
    office.job("waves: [{take: 2, soak: 40m}, {take: rest, soak: 40m}]\n" + window)
    assert "one opening is not enough" in office.run("plan", "job.yaml", code=0).err


WRONG = {
    "waves: [{take: rest}, {take: 3}]": "waves[0]: take: rest leaves nothing to the waves after it",
    "waves: [{take: 0}]": "waves[0].take: expected a number of accounts above 0",
    "waves: [{take: 0%}, {take: rest}]": "waves[0].take: expected",
    "waves: [{take: 101%}]": "waves[0].take: expected",
    "waves: [{take: 60%}, {take: 60%}]": "the shares add up to 120%",
    "waves: [{take: 60%}]": "the shares add up to 60%, so other accounts are in no wave",
    "waves: [{soak: 3m}]": "waves[0].take: is missing",
    "waves: [{take: rest, soak: 3}]": "waves[0].soak: expected a duration",
    "waves: {take: 3}": "waves: expected a list such as",
    "waves: []": "waves: expected a list such as",
    "waves: [3]": "waves[0]: expected a mapping",
    "gate: {command: [x]}": "gate: judges waves, and there are none",
    "waves: [{take: rest}]\ngate: {every: 5m}": "gate.command: is missing",
    "waves: [{take: rest}]\ngate: {command: x}": "gate.command: expected a list",
    "waves: [{take: rest}]\ngate: {command: [x], timeout: 0s}": "gate.timeout: expected a duration of at least 1s",
    "waves: [{take: rest}]\non_red: undo": "on_red: without gate nothing is ever red",
    "waves: [{take: rest}]\ngate: {command: [x]}\non_red: maybe": "on_red: expected stop or undo",
    "waves: [{take: rest}]\ngate: {command: [x]}\non_red: undo\nverify: false": "this job reads no accounts",
}


@pytest.mark.parametrize("extra", WRONG)
def test_wrong_waves_are_named_in_their_place(office: Office, extra: str) -> None:
    """file:line:column, what, and what to write."""
    office.job(extra + "\n")
    done = office.run("plan", "job.yaml", code=2)
    assert WRONG[extra] in done.err and "job.yaml:" in done.err
    assert "Traceback" not in done.text


def test_waves_in_a_config_are_an_error(office: Office) -> None:
    """A key that is dropped in silence would let the whole roll-out go at once."""
    office.job("")
    office.desk.write("config.yaml", "waves: [{take: rest}]\n")
    assert "belongs to a job" in office.run("plan", "job.yaml", code=2).err


def test_the_next_opening_goes_on_with_the_waves_that_a_window_cut_off(office: Office) -> None:
    """A new run would begin at wave 1, with accounts that are done already as its canaries."""
    window = 'window: {days: [sat, sun], from: "01:00", until: "02:00", timezone: UTC}\n'
    office.job("waves: [{take: 2, soak: 10m}, {take: rest}]\n" + GATE.replace("1s", "20m") + window)
    saturday = 1_796_436_000.0  # 2026-12-05 02:00 UTC
    cut = office.run("run", "job.yaml", "--once", "--yes", "--json", at=saturday - 4, code=4).json
    assert "the window" in cut["stopped"]["why"] and cut["waves"][1]["state"] == "soaking"
    assert len(office.written()) == 2
    office.job("waves: [{take: 2, soak: 1s}, {take: rest}]\n" + GATE + window)
    other = office.run("run", "job.yaml", "--once", "--yes", "--json", at=saturday + 23.5 * 3600, code=0)
    assert "beginning anew (the job has changed since)" in other.err
    assert other.json["run"] != cut["run"] and other.json["counts"]["already"] == 2


def test_the_next_opening_soaks_anew_and_ends_well(office: Office) -> None:
    """What the window cut off is the same run, asked about again."""
    window = 'window: {days: [sat, sun], from: "01:00", until: "02:00", timezone: UTC}\n'
    office.job("waves: [{take: 2, soak: 6s}, {take: rest}]\n" + GATE + window)
    saturday = 1_796_436_000.0  # 2026-12-05 02:00 UTC
    cut = office.run("run", "job.yaml", "--once", "--yes", "--json", at=saturday - 3, code=4).json
    asked = len(office.asked)
    again = office.run("run", "job.yaml", "--once", "--yes", "--json", at=saturday + 23.5 * 3600, code=0)
    assert again.json["run"] == cut["run"] and "going on with it" in again.err
    assert office.asked[asked]["wave"] == 1 and len(office.written()) == 8


def test_a_wave_that_is_to_be_undone_is_read(office: Office) -> None:
    """Without readings nobody knows what to bring back: it is said before anything is sent, not at the red wave."""
    office.job(WAVES + GATE + "on_red: undo\n")
    assert "leave --no-verify away" in office.run("run", "job.yaml", "--no-verify", "--yes", code=2).err
    assert not office.written()
