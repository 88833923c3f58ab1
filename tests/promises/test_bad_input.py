"""Bad input and faults, as an operator meets them: one clear message, the right exit code, nothing recorded lost.

The rows are those of the table in tests/README.md, "Bad input and faults".
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.simulator.faults import rules_from
from engine.simulator.world import World
from tests.support.command import Backend, Desk, Done, on_terminal, wait_until

BINARY = bytes(range(256)) * 40
ANN = "postgres-aaaaaaaa/ann"


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A world without quotas: tests of signals need calls that take their time, the others need not wait."""
    with Backend(World(quotas={"*": None})) as server:
        yield server


def refused(done: Done, code: int, *words: str) -> None:
    """One clear message, the right exit code, no traceback, no result."""
    assert done.code == code, done.text
    assert "Traceback" not in done.text and "internal error" not in done.text
    assert done.out == ""
    assert all(line.startswith("acctops: ") for line in done.err.splitlines()[-1:])
    for word in words:
        assert word in done.err, done.err


# ---- job, lists, config --------------------------------------------------------------------------------------------

JOBS = {
    "empty": (b"", ["job.yaml: is empty; a job needs action, region and targets"]),
    "only-comments": (b"\n# nothing\n\n", ["is empty"]),
    "binary": (BINARY, ["job.yaml:2:118: byte 0x80 is not UTF-8"]),
    "utf-16": ("action: LockAccount\n".encode("utf-16"), ["is UTF-16 text; save it as UTF-8"]),
    "200 kB of brackets": (b"[" * 200_000, ["nested deeper than 32 levels"]),
    "a single value": (b"lock them all", ["job.yaml:1:1: expected keys such as action:"]),
    "a list": (b"- a\n- b\n", ["job.yaml:1:1: expected keys", "got a list"]),
    "tabs": (b"action:\tLockAccount\n\ttargets: x\n", ["job.yaml:2:1: not valid YAML", "indent with spaces"]),
    "unknown key": (
        b"action: LockAccount\nregion: ap-singapore\nworkerz: 3\ntargets: [postgres-aaaaaaaa/ann]\n",
        ["job.yaml:3:1: workerz: unknown key; did you mean workers?"],
    ),
    "key of a later version": (
        b"action: LockAccount\nregion: ap-singapore\naccounts: me\ntargets: [postgres-aaaaaaaa/ann]\n",
        ["job.yaml:3:11: accounts: expected a list of accounts"],
    ),
    "key twice": (
        b"action: LockAccount\naction: UnlockAccount\nregion: ap-singapore\ntargets: [postgres-aaaaaaaa/ann]\n",
        ["job.yaml:2:1: action: is given twice, first at 1:1"],
    ),
    "wrong types, all at once": (
        b"action: Lock\nregion: 3\ntargets: {}\nrate: fast\nworkers: -1\n",
        ["job.yaml:1:9: action: 'Lock' is not an action", "job.yaml:4:7: rate:", "job.yaml:5:10: workers:"],
    ),
    "no targets": (b"action: LockAccount\nregion: ap-singapore\ntargets: []\n", ["job.yaml:3:10: targets:"]),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_malformed_job_is_refused_with_its_places(desk: Desk, name: str) -> None:
    text, words = JOBS[name]
    desk.write("job.yaml", text)
    refused(desk.run("run", "job.yaml", "--yes"), 2, *words)
    assert not desk.journals()


def test_a_missing_job_names_the_nearest_file(desk: Desk) -> None:
    desk.job(name="lockdown.yaml")
    refused(desk.run("run", "lockdwn.yaml", "--yes"), 2, "lockdwn.yaml: no such file", "did you mean lockdown.yaml?")
    refused(desk.run("plan", "."), 2, "is a directory")


def test_a_huge_job_is_refused_before_it_is_read_whole(desk: Desk) -> None:
    path = desk.write("job.yaml", b"")
    with path.open("r+b") as file:
        file.truncate(65 << 20)  # sparse
    refused(desk.run("run", "job.yaml", "--yes"), 2, "job.yaml: is larger than 64 MiB", "csv: list")


LISTS = {
    "missing": (None, ["job.yaml:5:11: targets[0].csv: list.csv: no such file"]),
    "empty": (b"", ["list.csv:1: is empty; the first line must name the columns"]),
    "missing columns": (
        b"instance,region\npostgres-aaaaaaaa,ap-tokyo\n",
        ["list.csv:1: no column user, only 'instance', 'region'"],
    ),
    "no header": (b"postgres-aaaaaaaa,ann,Ann,x\n", ["list.csv:1: begins with a target", "instead of a header"]),
    "all rows bad": (b"instance;user\na;b\nc;d\n", ["list.csv:2: instance: 'a' is not", "list.csv:3: instance: 'c'"]),
    "some rows bad": (
        b"instance user\npostgres-aaaaaaaa ann\na b\n",
        ["list.csv:3: instance: 'a' is not", "or --skip-bad-rows sends the good ones (1) and counts these as failed"],
    ),
    "binary": (BINARY, ["list.csv: is not text"]),
    "short row": (b"instance,user\npostgres-aaaaaaaa\n", ["list.csv:2: has 1 of 2 columns"]),
    "open quote": (b'instance,user\n"postgres-aaaaaaaa,ann\n', ["list.csv:2:", "check the quotes"]),
    "bad instance": (b"instance,user\nno such thing,ann\n", ["list.csv:2", "no such thing"]),
    "passwords": (b"instance,user,password\na,b,c\n", ["list.csv:1: column password: a target list holds no secrets"]),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_malformed_list_is_refused_with_its_lines(desk: Desk, name: str) -> None:
    text, words = LISTS[name]
    desk.job("{csv: list.csv}")
    if text is not None:
        desk.write("list.csv", text)
    refused(desk.run("run", "job.yaml", "--yes"), 2, *words)
    assert not desk.journals()


def test_a_list_as_excel_saves_it_is_read(desk: Desk) -> None:
    """BOM, CRLF, blank lines, other columns and their order do not matter."""
    desk.job("{csv: list.csv}")
    text = "\ufeffUser,Owner,Instance\r\n\r\nann,x,postgres-aaaaaaaa\r\n,,\r\nbob,y,postgres-bbbbbbbb\r\n\r\n"
    desk.write("list.csv", text)
    done = desk.run("plan", "job.yaml", "--json", "--offline")
    assert done.code == 0
    assert [(call["instance"], call["user"]) for call in done.json["calls"]] == [
        ("postgres-aaaaaaaa", "ann"),
        ("postgres-bbbbbbbb", "bob"),
    ]
    assert "'Owner'" in done.err, "the ignored column is named"


CONFIGS = {
    "binary": (BINARY, ["config.yaml:2:118: byte 0x80 is not UTF-8"]),
    "a list": (b"- a\n", ["config.yaml:1:1: expected keys such as site:"]),
    "unknown key": (b'protct: ["*/x"]\n', ["config.yaml:1:1: protct: unknown key; did you mean protect?"]),
    "wrong types": (b"protect: 5\nrate: x\n", ["config.yaml:1:10: protect:", "config.yaml:2:7: rate:"]),
    "http to elsewhere": (b"endpoint: http://example.com\n", ["config.yaml:1:11: endpoint:", "or http to loopback"]),
    "huge": (b"#" * (1 << 20) + b"\n#", ["config.yaml: larger than 1 MiB"]),
    "secret": (b"secret_key: abcdef\n", ["config.yaml:1:1: secret_key"]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_malformed_config_stops_every_verb_that_obeys_it(desk: Desk, name: str) -> None:
    text, words = CONFIGS[name]
    desk.job()
    desk.write("config.yaml", text)
    for argv in (["run", "job.yaml", "--yes"], ["plan", "job.yaml"], ["status"]):
        refused(desk.run(*argv), 2, *words)


def test_an_empty_config_is_a_config_and_a_missing_one_is_not(desk: Desk) -> None:
    desk.job()
    desk.write("config.yaml", b"")
    assert desk.run("plan", "job.yaml", "--offline").code == 0
    refused(desk.run("plan", "job.yaml", "--config", "nope.yaml"), 2, "nope.yaml: no such config file")


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--rate", "0"], "--rate: expected a number of calls a second above 0"),
        (["--rate", "50", "--endpoint", "https://postgres.nowhere.invalid"], "quotas: {LockAccount: 50}"),
        (["--timeout", "never"], "--timeout: expected a duration with its unit"),
        (["--deadline", "10"], "--deadline: expected a duration"),
        (["--workers", "0"], "--workers: expected a whole number"),
        (["--endpoint", "http://example.com"], "--endpoint: an endpoint is https://"),
        (["--exclude", "ann"], "--exclude: 'ann' is not instance/user; for every instance write \"*/ann\""),
        (["--faults", "f.yaml"], "--faults goes with --simulate"),
        (["--tiemout", "3s"], "No such option '--tiemout'"),
    ],
)
def test_a_wrong_flag_is_refused_and_named(desk: Desk, flags: list[str], word: str) -> None:
    desk.job()
    refused(desk.run("run", "job.yaml", "--yes", *flags), 2, word)
    assert not desk.journals()


def test_a_wrong_fault_script_is_refused_before_a_run_exists(desk: Desk) -> None:
    desk.job()
    desk.write("faults.yaml", "- {cod: X}\n- 3\n")
    run = ["run", "job.yaml", "--yes", "--simulate", "--quiet", "--faults"]
    refused(desk.run(*run, "faults.yaml"), 2, "faults[0]: unknown key 'cod'", "faults[1]: must be a mapping")
    refused(desk.run(*run, "none.yaml"), 2, "none.yaml: cannot be read")
    desk.write("binary.yaml", BINARY)
    refused(desk.run(*run, "binary.yaml"), 2, "binary.yaml: is not UTF-8 text")
    assert not desk.journals(simulated=True)


# ---- credentials ---------------------------------------------------------------------------------------------------


def no_keys(desk: Desk) -> None:
    del desk.env["TENCENTCLOUD_SECRET_ID"], desk.env["TENCENTCLOUD_SECRET_KEY"]


def test_without_credentials_nothing_begins(desk: Desk) -> None:
    no_keys(desk)
    desk.job()
    done = desk.run("run", "job.yaml", "--yes", "--quiet")
    refused(done, 5, "no API keys: looked in TENCENTCLOUD_SECRET_ID", ".tccli/default.credential", "tccli configure")
    assert not desk.journals()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "is not JSON"),
        ('{"secretId": "AKIDx"}', "secret_key is missing or empty"),
        ('{"secretId": "AKIDx", "secretKey": "with blank"}', "holds characters no key has"),
    ],
)
def test_unusable_credentials_are_named_and_not_shown(desk: Desk, text: str, word: str) -> None:
    no_keys(desk)
    desk.job()
    path = Path(desk.env["HOME"]) / ".tccli" / "default.credential"
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o600)
    done = desk.run("run", "job.yaml", "--yes", "--quiet")
    refused(done, 5, "default.credential: ", word)
    assert "blank" not in done.text


def test_half_a_pair_in_the_environment_is_refused(desk: Desk) -> None:
    del desk.env["TENCENTCLOUD_SECRET_KEY"]
    desk.job()
    refused(desk.run("run", "job.yaml", "--yes", "--quiet"), 5, "TENCENTCLOUD_SECRET_KEY is not")


VARIABLES = ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY", "TENCENTCLOUD_TOKEN")


@pytest.mark.parametrize("variable", VARIABLES)
def test_refused_credentials_are_found_by_reading_before_a_run_exists(
    desk: Desk, backend: Backend, variable: str
) -> None:
    desk.env[variable] = "wrong-" + "x" * 20
    desk.job(*(f"postgres-aaaaaaa{number}/ann" for number in range(8)))
    for argv in (["plan", "job.yaml"], ["run", "job.yaml", "--yes"]):
        done = desk.run(*argv, "--json", "--endpoint", backend.endpoint)
        assert done.code == 5 == done.json["exit"]
        assert done.json["error"].startswith("AuthFailure.") and "nothing was sent" in done.json["error"]
        assert "acctops resume" not in done.json["error"], "there is no run yet"
        assert any(arrival.request_id in done.json["error"] for arrival in backend.reads())
        assert "wrong-" not in done.text
    assert not backend.writes() and not desk.journals()


@pytest.mark.parametrize("variable", VARIABLES)
def test_refused_credentials_end_the_run_before_any_accepted_write(desk: Desk, backend: Backend, variable: str) -> None:
    desk.env[variable] = "wrong-" + "x" * 20
    desk.job(*(f"postgres-aaaaaaa{number}/ann" for number in range(8)))
    done = desk.run("run", "job.yaml", "--yes", "--no-verify", "--json", "--endpoint", backend.endpoint)
    assert done.code == 5
    assert done.json["counts"]["unattempted"] == 8
    assert done.json["stopped"]["code"].startswith("AuthFailure.")
    assert done.json["stopped"]["request_id"] in {arrival.request_id for arrival in backend.writes()}
    assert not any(arrival.applied for arrival in backend.writes())
    assert "wrong-" not in done.text + desk.journal().read_text()


def test_a_run_with_keys_mended_goes_on(desk: Desk, backend: Backend) -> None:
    good = desk.env["TENCENTCLOUD_SECRET_KEY"]
    desk.env["TENCENTCLOUD_SECRET_KEY"] = "wrong-" + "x" * 20
    desk.job()
    flags = ["--yes", "--endpoint", backend.endpoint]
    assert desk.run("run", "job.yaml", *flags).code == 5
    assert not desk.journals(), "the reading was refused: there is no run to go on with"
    assert desk.run("run", "job.yaml", "--no-verify", *flags).code == 5
    desk.env["TENCENTCLOUD_SECRET_KEY"] = good
    assert desk.run("resume", "latest").code == 0
    assert {settled["proof"] for settled in desk.records("settled")} == {"accepted"}, "as it was begun"


def test_keys_that_may_read_and_not_write_end_the_run(desk: Desk) -> None:
    rules = rules_from([{"code": "AuthFailure.UnauthorizedOperation", "action": "LockAccount"}])
    with Backend(World(faults=rules)) as backend:
        desk.job(*(f"postgres-aaaaaaa{number % 8}/user{number}" for number in range(40)))
        done = desk.run("run", "job.yaml", "--yes", "--json", "--endpoint", backend.endpoint)
    assert done.code == 5 and done.json["stopped"]["code"] == "AuthFailure.UnauthorizedOperation"
    assert "look at the region, the permission or the list" in done.json["stopped"]["why"]
    assert 20 <= done.json["counts"]["failed"] < 40 and done.json["counts"]["changed"] == 0


# ---- endpoint ------------------------------------------------------------------------------------------------------


def impatient(desk: Desk) -> None:
    desk.job(extra="retry: {transient: 300ms}")


def test_an_endpoint_that_refuses_is_named_and_nothing_is_lost(desk: Desk) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        impatient(desk)
        done = desk.run("run", "job.yaml", "--yes", "--json", "--endpoint", endpoint)
    assert done.code == 4
    assert "cannot reach the API" in done.json["stopped"]["why"] and endpoint in done.json["stopped"]["why"]
    assert "not read: postgres-aaaaaaaa, postgres-bbbbbbbb" in done.err
    assert done.json["stopped"]["code"] == "Local.Connect"
    assert done.json["counts"]["unattempted"] == 3


def test_an_endpoint_that_does_not_resolve_is_named(desk: Desk) -> None:
    impatient(desk)
    flags = ["--yes", "--no-verify", "--json", "--endpoint", "https://postgres.nowhere.invalid"]
    done = desk.run("run", "job.yaml", *flags)
    assert done.code == 4
    assert done.json["stopped"]["code"] == "Local.Dns"
    assert done.json["counts"]["unattempted"] == 3


def test_an_endpoint_that_speaks_no_tls_is_named(desk: Desk, backend: Backend) -> None:
    impatient(desk)
    flags = ["--yes", "--no-verify", "--json", "--endpoint", backend.endpoint.replace("http:", "https:")]
    done = desk.run("run", "job.yaml", *flags)
    assert done.code == 4
    assert done.json["stopped"]["code"] == "Local.Tls"
    assert done.json["counts"]["unattempted"] == 3


def test_an_endpoint_that_hangs_leaves_unknown_and_resume_settles_it(desk: Desk) -> None:
    """Writes hang after they were applied, readings are refused: nobody can know. Later a reading tells."""
    desk.job(ANN, extra="retry: {transient: 300ms}")
    denied = "OperationDenied.InstanceAccessDeniedError"
    rules = rules_from(
        [{"hang": True, "apply": True, "action": "Lock*"}, {"code": denied, "after": 1, "action": "DescribeAccounts"}]
    )
    world = World(faults=rules)
    world.seed("postgres-aaaaaaaa", "ap-singapore", ["ann"])
    with Backend(world) as backend:
        done = desk.run("run", "job.yaml", "--yes", "--json", "--timeout", "300ms", "--endpoint", backend.endpoint)
        assert done.code == 1 and done.json["counts"]["unknown"] == 1, done.text
        assert {reply["code"] for reply in desk.records("reply")} == {"Local.Timeout"}
        assert {reply["verdict"] for reply in desk.records("reply")} == {"in_doubt"}
        assert not desk.records("settled"), "unknown is what is left, never what is written"
        sent = len(backend.writes())
        backend.script()
        resumed = desk.run("resume", "latest", "--json")
        assert resumed.code == 0 and resumed.json["counts"]["changed"] == 1
        assert len(backend.writes()) == sent, "it was read, not sent again"
    (settled,) = desk.records("settled")
    assert (settled["outcome"], settled["proof"]) == ("changed", "read")


def test_a_clock_off_by_an_hour_is_learnt_and_noted(desk: Desk) -> None:
    desk.job()
    with Backend(World(faults=rules_from([{"wrong_clock": 3600}]))) as backend:
        done = desk.run("run", "job.yaml", "--yes", "--json", "--endpoint", backend.endpoint)
    assert done.code == 0
    assert done.json["counts"]["changed"] == 3
    (note,) = [note for note in desk.records("note") if note["what"] != "identity"]
    assert note["what"] == "clock_learned" and 3590 < note["data"]["offset_s"] < 3610


# ---- the disk ------------------------------------------------------------------------------------------------------


def test_a_state_directory_that_cannot_be_one_is_named(desk: Desk) -> None:
    desk.job()
    desk.write("file", "")
    done = desk.run("run", "job.yaml", "--yes", "--quiet", "--simulate", "--state-dir", "file/state")
    refused(done, 2, "file/state", "Not a directory", "--state-dir")
    for nothing in (["status"], ["status", "latest"]):
        assert desk.run(*nothing, "--state-dir", "nowhere").code in (0, 2)
    assert not (desk.work / "nowhere").exists(), "looking creates nothing"


def ended(desk: Desk, *argv: str | Path, **options: Any) -> Done:
    return desk.end(desk.popen(*argv, **options))


_READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


def sealed(desk: Desk) -> list[str]:
    """Make the state directory read-only; returns what to start a command under, so that it is.

    For root, whom no mode of a file stops: a read-only mount in a mount namespace of the command's own.
    """
    if os.getuid() != 0:
        for path in (desk.state, *desk.state.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        return []
    under = ["unshare", "--mount", "sh", "-c", _READ_ONLY, str(desk.state)]
    if subprocess.run([*under, "true"], capture_output=True).returncode != 0:
        pytest.skip("root without the right to mount: nothing can be read-only here")
    return under


def test_an_unwritable_state_directory_is_named(desk: Desk) -> None:
    desk.job()
    desk.state.mkdir()
    done = ended(desk, "run", "job.yaml", "--yes", "--quiet", "--simulate", under=sealed(desk))
    refused(done, 2, str(desk.state), "cannot be written: ", "--state-dir")


def test_journals_on_a_read_only_place_can_be_read(desk: Desk, backend: Backend) -> None:
    """status, report and journal verify need read permission and nothing else, and leave every byte as it was."""
    desk.job()
    desk.run("run", "job.yaml", "--yes", "--endpoint", backend.endpoint)
    under = sealed(desk)
    before = {path: path.stat().st_mtime_ns for path in desk.state.rglob("*")}
    for argv in (
        ["status"],
        ["status", "latest"],
        ["report", "latest", "--format", "json"],
        ["report", "latest", "--format", "csv", "--attempts"],
        ["journal", "verify", "latest"],
        ["resume", "latest", "--quiet"],  # it is finished: prints its report
        ["rerun", desk.journal().parent.name, "--yes"],  # nothing to repeat
    ):
        done = ended(desk, *argv, under=under)
        assert done.code == 0, done.text
    assert {path: path.stat().st_mtime_ns for path in desk.state.rglob("*")} == before


def test_an_unfinished_run_on_a_read_only_place_cannot_go_on(desk: Desk, backend: Backend) -> None:
    desk.env["TENCENTCLOUD_SECRET_KEY"] = "wrong-" + "x" * 20
    desk.job()
    desk.run("run", "job.yaml", "--yes", "--endpoint", backend.endpoint)
    under = sealed(desk)
    for argv in (["resume", "latest"], ["rerun", desk.journal().parent.name, "--yes"]):
        refused(ended(desk, *argv, "--quiet", under=under), 2, "cannot be written")
    done = ended(desk, "stop", "latest", under=under)
    assert done.code == 0 and "nothing to stop" in done.err


def test_a_disk_that_fills_up_in_mid_run_stops_it_and_resume_goes_on(desk: Desk, backend: Backend) -> None:
    """The bound on a file's size (RLIMIT_FSIZE) stands for the full disk: the same write fails, with EFBIG."""
    desk.job(*(f"postgres-aaaaaaa{number % 6}/user{number}" for number in range(40)))
    process = desk.popen(
        *("run", "job.yaml", "--yes", "--json", "--rate", "200", "--endpoint", backend.endpoint),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )
    done = desk.end(process)
    assert done.code == 4
    assert "File too large" in done.err and "acctops resume" in done.err
    assert done.json["exit"] == 4 and "cannot be written" in done.json["stopped"]["why"]
    arrived = {arrival.trace for arrival in backend.writes()}
    assert 0 < len(arrived) < 40
    assert arrived <= {sent["trace"] for sent in desk.records("sent")}, "nothing left unrecorded"
    assert desk.run("journal", "verify", "latest").code == 0
    resumed = desk.run("resume", "latest", "--json", "--rate", "1000")
    assert resumed.code == 0 and resumed.json["counts"]["changed"] == 40
    assert sum(arrival.applied for arrival in backend.writes()) == 40, "what was read as done is not sent again"


def test_a_full_disk_behind_stdout_is_said(desk: Desk) -> None:
    desk.job()
    assert desk.run("run", "job.yaml", "--yes", "--simulate", "--quiet").code == 0
    run = desk.journal(simulated=True).parent.name
    with Path("/dev/full").open("wb") as full:
        done = ended(desk, "report", run, "--format", "csv", stdout=full)
        assert done.code == 4 and "cut short" in done.err
        done = ended(desk, "run", "job.yaml", "--yes", "--simulate", "--quiet", "--json", stdout=full)
        assert done.code == 0, "what was done counts"


# ---- two at a time -------------------------------------------------------------------------------------------------


@pytest.fixture
def long_job(desk: Desk) -> Desk:
    """40 calls: a second at the rate below. Each on an instance of its own, so that each is read back at once."""
    desk.job(*(f"postgres-aaaaaa{number:02}/user{number}" for number in range(40)))
    return desk


def begin(desk: Desk, backend: Backend, *flags: str, settled: int = 3, **options: Any) -> subprocess.Popen[bytes]:
    process = desk.popen("run", "job.yaml", "--yes", "--rate", "40", "--endpoint", backend.endpoint, *flags, **options)
    desk.wait_for("settled", settled)
    return process


def test_one_process_a_run_and_one_run_a_job(long_job: Desk, backend: Backend) -> None:
    process = begin(long_job, backend)
    run = long_job.journal().parent.name
    for argv in (["resume", "latest"], ["run", "job.yaml", "--yes", "--endpoint", backend.endpoint]):
        refused(long_job.run(*argv, "--quiet"), 6, "is being run already", run, f"acctops stop {run}")
    listed = long_job.run("status", "--json").json["runs"]
    assert [each["live"] for each in listed] == [True]
    assert "LIVE" in long_job.run("status", "latest").out
    assert long_job.end(process).code == 0
    assert len(long_job.journals()) == 1


def test_a_rerun_of_a_live_run_waits_for_nobody(long_job: Desk, backend: Backend) -> None:
    process = begin(long_job, backend)
    run = long_job.journal().parent.name
    refused(long_job.run("rerun", run, "--yes", "--quiet"), 6, run)
    assert long_job.end(process).code == 0
    assert not long_job.journal().with_name("aside.jsonl").exists()


# ---- signals and streams -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_drains(long_job: Desk, backend: Backend, number: signal.Signals, code: int) -> None:
    process = begin(long_job, backend, "--json")
    process.send_signal(number)
    done = long_job.end(process)
    assert done.code == code == done.json["exit"]
    assert "draining" in done.err and "press again" in done.err
    assert done.json["counts"]["unknown"] == 0, "what was in flight has been answered"
    assert long_job.records()[-1]["kind"] == "end"
    assert long_job.records()[-1]["exit"] == code
    assert long_job.run("resume", "latest", "--rate", "1000").code == 0
    assert sum(arrival.applied for arrival in backend.writes()) == 40


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_leaves_at_once(long_job: Desk, number: signal.Signals, code: int) -> None:
    rules = rules_from([{"hang": True, "after": 3, "times": 4, "action": "LockAccount"}])
    with Backend(World(faults=rules, quotas={"*": None})) as backend:
        process = begin(long_job, backend, "--json", "--timeout", "60s")
        wait_until(lambda: len(backend.writes()) >= 7)
        process.send_signal(number)
        # Only then the next one: two that come before the first is heard are one to the kernel.
        wait_until(lambda: "stopping" in [note["what"] for note in long_job.records("note")])
        replies = len(long_job.records("reply"))
        long_job.wait_for("settled", replies - 1)  # what is accepted is read while it drains
        process.send_signal(number)
        done = long_job.end(process)
        assert done.code == code == done.json["exit"]
        assert "left at once with 4 in flight" in done.json["stopped"]["why"]
        assert 4 <= done.json["counts"]["unknown"] <= 5
        assert long_job.run("resume", "latest", "--rate", "1000").code == 0
        assert {arrival.user for arrival in backend.writes() if arrival.applied} == {f"user{n}" for n in range(40)}


def test_a_signal_while_it_asks_or_plans_ends_it_with_nothing_sent(desk: Desk) -> None:
    desk.job("{csv: -}")
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = desk.popen("run", "job.yaml", "--yes", "--json", stdin=subprocess.PIPE)
        # It waits for the list: ask the kernel when it has come to reading.
        wait_until(partial(_is_reading, process.pid))
        process.send_signal(number)
        done = desk.end(process)
        assert done.code == code == done.json["exit"]
        assert "before anything was sent" in done.err
    assert not desk.journals()


def _is_reading(pid: int) -> bool:
    try:
        return "pipe" in Path(f"/proc/{pid}/wchan").read_text() or _in_read(pid)
    except OSError:
        return False


def _in_read(pid: int) -> bool:
    return Path(f"/proc/{pid}/syscall").read_text().startswith("0 0x0 ")  # x86-64: read(0, …)


def test_a_hang_up_changes_nothing(long_job: Desk, backend: Backend) -> None:
    process = begin(long_job, backend)
    process.send_signal(signal.SIGHUP)
    assert long_job.end(process).code == 0
    (note,) = [note for note in long_job.records("note") if note["what"] != "identity"]
    assert note["data"]["signal"] == "SIGHUP"


def test_a_terminal_that_is_closed_changes_nothing(long_job: Desk, backend: Backend) -> None:
    """The window is closed while the bar is drawn: writing to it fails from then on."""
    with on_terminal(long_job, "run", "job.yaml", "--yes", "--endpoint", backend.endpoint) as terminal:
        terminal.wait_for(" of 40 · ")
        terminal.close()
        assert terminal.process.wait(30) == 0
    assert long_job.records()[-1]["exit"] == 0
    assert [note["data"]["signal"] for note in long_job.records("note") if note["what"] == "signal"] == ["SIGHUP"]


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_reader_that_goes_away_changes_nothing(long_job: Desk, backend: Backend, flags: list[str]) -> None:
    """`acctops run … | head -1`: the run completes and its exit code stands."""
    process = begin(long_job, backend, *flags)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert process.wait(30) == 0
    assert long_job.records()[-1]["counts"]["changed"] == 40


def test_a_report_into_head_ends_quietly(desk: Desk) -> None:
    desk.job(*(f"postgres-aaaaaaa{number % 8}/user{number}" for number in range(2000)))
    desk.run("run", "job.yaml", "--yes", "--simulate", "--deadline", "1s", "--quiet")
    run = desk.journal(simulated=True).parent.name
    command = " ".join(desk.argv("report", run, "--format", "csv")) + " | head -1; echo ${PIPESTATUS[0]}"
    answer = subprocess.run(["bash", "-c", command], cwd=desk.work, env=desk.env, capture_output=True, text=True)
    header, code = answer.stdout.split()
    assert header.startswith("run,job,ticket") and code == "0"
    assert answer.stderr == ""


def test_no_streams_at_all_change_nothing(desk: Desk) -> None:
    desk.job()
    command = " ".join(desk.argv("run", "job.yaml", "--yes", "--simulate")) + " <&- >&- 2>&-"
    answer = subprocess.run(["bash", "-c", command], cwd=desk.work, env=desk.env)
    assert answer.returncode == 0
    assert desk.records("end", simulated=True)[0]["counts"]["changed"] == 3


# ---- the journal ---------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(desk: Desk, backend: Backend) -> Desk:
    desk.job()
    assert desk.run("run", "job.yaml", "--yes", "--endpoint", backend.endpoint).code == 0
    return desk


def verbs(run: str) -> list[list[str]]:
    """Every verb that reads a journal."""
    return [
        ["status", run],
        ["report", run],
        ["report", run, "--format", "csv", "--attempts"],
        ["journal", "verify", run],
        ["resume", run, "--quiet"],
        ["rerun", run, "--yes", "--quiet"],
    ]


def edit(lines: list[bytes]) -> None:
    """How an account was before, which an undo would go by."""
    assert b'"kind":"before"' in lines[7]
    lines[7] = lines[7].replace(b'"status":null', b'"status":2')


def drop(lines: list[bytes]) -> None:
    del lines[7]


def swap(lines: list[bytes]) -> None:
    lines[7], lines[8] = lines[8], lines[7]


def repeat(lines: list[bytes]) -> None:
    lines.insert(7, lines[6])


@pytest.mark.parametrize("tamper", [edit, drop, swap, repeat])
def test_a_tampered_journal_stops_every_verb_and_names_the_line(finished: Desk, tamper: Any) -> None:
    path = finished.journal()
    lines = path.read_bytes().splitlines(keepends=True)
    tamper(lines)
    path.write_bytes(b"".join(lines))
    before = path.read_bytes()
    for argv in verbs(path.parent.name):
        done = finished.run(*argv)
        assert done.code == 7, (argv, done.text)
        assert f"{path}:8: " in done.err
        assert "Traceback" not in done.text
    assert path.read_bytes() == before
    listed = finished.run("status")
    assert listed.code == 0, "one bad journal does not hide the others"


def test_a_journal_of_a_newer_version_is_refused_and_left_alone(finished: Desk) -> None:
    path = finished.journal()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(rehashed([line.replace(b'"v":1', b'"v":3', 1) for line in lines])))
    before = path.read_bytes()
    for argv in verbs(path.parent.name):
        done = finished.run(*argv)
        assert done.code == 2, (argv, done.text)
        assert "newer version of acctops" in done.err and "use the version that wrote it" in done.err
    assert path.read_bytes() == before


def rehashed(lines: list[bytes]) -> list[bytes]:
    """The same lines with a chain that holds: ten lines of any language."""
    from hashlib import sha256

    head, done = "0" * 64, []
    for line in lines:
        body = line.rstrip(b"\n").rpartition(b',"hash":"')[0] + b"}"
        head = sha256(head.encode() + body).hexdigest()
        done.append(body[:-1] + b',"hash":"' + head.encode() + b'"}\n')
    return done


def test_the_ten_lines_of_another_language_agree(finished: Desk) -> None:
    lines = finished.journal().read_bytes().splitlines(keepends=True)
    assert rehashed(lines) == lines


def test_a_cut_journal_shows_against_the_head_that_was_printed(finished: Desk) -> None:
    path = finished.journal()
    lines = path.read_bytes().splitlines(keepends=True)
    head = json.loads(lines[-1])["hash"]
    assert finished.run("journal", "verify", "latest", "--head", head).code == 0
    path.write_bytes(b"".join(lines[:-2]))
    refused(finished.run("journal", "verify", "latest"), 7, "its end was cut off")
    (finished.state / "heads.jsonl").unlink()
    assert finished.run("journal", "verify", "latest").code == 0, "the chain alone cannot tell"
    refused(finished.run("journal", "verify", "latest", "--head", head), 7, "was cut or rewritten")


def test_a_torn_tail_is_a_remark(finished: Desk) -> None:
    path = finished.journal()
    with path.open("ab") as file:
        file.write(b'{"v":1,"seq":99')
    done = finished.run("journal", "verify", "latest")
    assert done.code == 0 and "the last line is unfinished (15 bytes)" in done.err
    assert finished.run("status", "latest").code == 0


# ---- last lines of defence -----------------------------------------------------------------------------------------


def test_a_defect_ends_in_a_sentence_too(desk: Desk) -> None:
    """Whatever escapes (here: a directory where a lock file should be) is no traceback at night."""
    desk.job()
    desk.run("run", "job.yaml", "--yes", "--simulate", "--quiet")
    for lock in desk.state.rglob("*.lock"):
        lock.unlink()
        lock.mkdir()
    done = desk.run("run", "job.yaml", "--yes", "--simulate", "--quiet")
    assert done.code in (2, 4)
    assert "Traceback" not in done.text and done.err.startswith("acctops: ")


def test_the_command_works_off_the_main_thread(desk: Desk) -> None:
    """Embedders have no signals; reading verbs must not need them."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(desk.run("status").code))
    thread.start()
    thread.join()
    assert codes == [0]


# ---- signs that a stream or a locale has not -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "idna"},
        {"LC_ALL": "en_US.ISO-8859-1"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=lambda env: " ".join(f"{name}={value}" for name, value in env.items()),
)
@pytest.mark.parametrize("argv", [["lock", "--help"], ["explain", "FailedOperation.PreCheckError"], ["report"]])
def test_a_sign_that_the_encoding_has_not_is_replaced(desk: Desk, env: dict[str, str], argv: list[str]) -> None:
    """A help text with a dash is no reason to fail, nor is an error message, whatever the terminal's encoding."""
    process = desk.popen(*argv, env={**desk.env, **env})
    printed, said = process.communicate(timeout=60)
    assert process.returncode == (2 if argv == ["report"] else 0)
    assert b"Traceback" not in said and b"internal error" not in said and (printed or said)


def test_a_job_whose_name_is_no_text_is_found_again(desk: Desk) -> None:
    """By every command, in every locale: its file, typed as it is, is the job of its runs; its name can be printed."""
    with Backend(World(latency=0, quotas={"*": None})) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        for instance, users in (("postgres-aaaaaaaa", ["ann", "bob"]), ("postgres-bbbbbbbb", ["eve"])):
            backend.world.seed(instance, "ap-singapore", users)
        job = Path(os.fsdecode(os.fsencode(desk.job()).replace(b"job.yaml", b"n\xff\xe9.yaml")))
        desk.job().rename(job)
        desk.write("config.yaml", 'protect: ["*/eve"]\n')
        for env in ({}, {"PYTHONIOENCODING": "ascii:strict"}):
            process = desk.popen("run", job, "--yes", env={**desk.env, **env})
            printed, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
        late = desk.popen("overdue", job, "--every", "1d", env={**desk.env, "PYTHONIOENCODING": "latin-1"})
        printed, said = late.communicate(timeout=60)
        assert late.returncode == 0 and b"in time: run" in printed and rb"n\xff\xe9.yaml" in printed
        job.write_text(job.read_text() + "ticket: CHG-1\n")
        assert desk.run("overdue", job, "--every", "1d").code == 0, "also when it was edited"
        listed = desk.run("status", "--json").json["runs"]
        (name,) = {run["job"] for run in listed}
        assert name == r"n\udcff\udce9"
        assert desk.run("status", f"latest:{name}").code == 0 and desk.run("overdue", name, "--every", "1d").code == 0
        # What stood beside the job guards what goes on from its runs.
        desk.work.rename(desk.place / "was")
        moved = desk.place / os.fsdecode(b"w\xff")
        (desk.place / "was").rename(moved)
        desk.work.mkdir()
    with Backend(World(latency=0, quotas={"*": None})) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        backend.world.seed("postgres-aaaaaaaa", "ap-singapore", ["ann", "bob"])
        desk.env["ACCTOPS_STATE_DIR"] = str(desk.place / "state2")
        run = desk.run("run", moved / job.name, "--yes", "--json").json["run"]
        assert not [write for write in backend.writes() if write.user == "eve"]
        (moved / "config.yaml").write_text('protect: ["*/*"]\n')
        undone = desk.run("undo", run, "--yes")
        assert undone.code == 3 and "protect" in undone.text, undone.text
