"""Notices: those who are not there hear of a run, and nothing they do or fail to do touches it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from engine.cloud.proxy import WayOut, way_out
from engine.errors import ConfigError
from engine.inputs.job import NotifySpec
from engine.inputs.settings import parse_config
from engine.model import Place
from engine.report.notify import Undelivered, deliver, problems
from engine.simulator.world import World
from tests.support.command import Backend, Desk, records, wait_until

SECRET = "s3cr3t-in-the-path"
DOCUMENT = {"event": "finish", "text": "drüben"}


def told(timeout_s: float = 20.0, environ: dict[str, str] | None = None, **spec: Any) -> list[Undelivered]:
    place = spec.pop("place", Place("/nowhere/config.yaml"))
    environ = {"PATH": os.environ["PATH"], **(environ or {})}
    return asyncio.run(deliver(NotifySpec(place=place, **spec), DOCUMENT, environ, timeout_s, way=way_out(environ)))


# ---- what may be written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("notify: me", "c.yaml:1:9: notify: expected a mapping with command, webhook or both, and perhaps on, got a s"),
        ("notify: {on: start}", "c.yaml:1:9: notify: says neither command nor webhook: nobody would be told"),
        ("notify: {comand: [x]}", "c.yaml:1:10: notify.comand: unknown key; did you mean command?"),
        ("notify: {command: page me}", "c.yaml:1:19: notify.command: expected a list: [program, argument, …]"),
        ("notify: {command: []}", "notify.command: expected a list: [program, argument, …]; it is run without a shell"),
        ('notify: {command: [""]}', "c.yaml:1:20: notify.command[0]: has no value; expected the program to run"),
        ("notify: {command: [x, [y]]}", "c.yaml:1:23: notify.command[1]: expected one argument, got a list"),
        ("notify: {webhook: {}}", "c.yaml:1:19: notify.webhook: expected one of url_file, url_env, got neither"),
        ("notify: {webhook: {url_file: a, url_env: B}}", "got url_file and url_env together"),
        ("notify: {webhook: {url_env: a-b}}", "c.yaml:1:29: notify.webhook.url_env: expected the name of an environ"),
        (
            "notify: {command: [x], on: [star]}",
            "notify.on[0]: 'star' is not one of start, wave, finish, failure; did you me",
        ),
        ("notify: {command: [x], env: PAGER}", "notify.env: expected a list of names of environment variables"),
        ("notify: {command: [x], env: [a-b]}", "c.yaml:1:30: notify.env[0]: expected the name of an environment vari"),
        ("notify: {command: [x], env: [TENCENTCLOUD_TOKEN]}", "notify.env[0]: API keys are never passed on"),
        (
            "notify: {command: [x], on: never}",
            "c.yaml:1:28: notify.on: 'never' is not one of start, wave, finish, failure",
        ),
        (
            "notify: {command: [x], on: []}",
            "c.yaml:1:28: notify.on: expected one of start, wave, finish, failure, got a li",
        ),
    ],
)
def test_mistakes_are_named_with_their_place(text: str, said: str) -> None:
    """As in every other key."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_config(text.encode(), "c.yaml")


@pytest.mark.parametrize(
    "text",
    [
        f"notify: {{webhook: 'https://hooks.example/{SECRET}'}}",
        f"notify: {{webhook: {{url: 'https://hooks.example/{SECRET}'}}}}",
        f"notify: {{webhook: {{url_file: 'https://hooks.example/{SECRET}'}}}}",
    ],
)
def test_a_url_in_the_config_is_refused_and_not_repeated(text: str) -> None:
    """Configs lie in version control; the message says where a URL belongs."""
    with pytest.raises(ConfigError, match="URL is a secret and never stands in this file") as refused:
        parse_config(text.encode(), "c.yaml")
    assert SECRET not in str(refused.value)


def test_a_failure_is_told_to_who_wants_the_finish() -> None:
    """Each end is told once, and a bad one is never kept from those who asked for all."""
    wants = {
        on: [event for event in ("start", "finish", "failure") if NotifySpec(place=Place(""), on=(on,)).wants(event)]
        for on in ("start", "finish", "failure")
    }
    assert wants == {"start": ["start"], "finish": ["finish", "failure"], "failure": ["failure"]}


# ---- a command -------------------------------------------------------------------------------------------------------


def test_a_command_gets_the_notice_and_none_of_our_keys(tmp_path: Path) -> None:
    """JSON on its standard input; the API's keys and the webhook's variable are none of its business."""
    keys = {"TENCENTCLOUD_SECRET_KEY": SECRET, "TENCENTCLOUD_TOKEN": SECRET, "HOOK": f"ftp://{SECRET}"}
    keys |= {"NEW_PW": SECRET, "VAULT_TOKEN": SECRET, "HTTPS_PROXY": f"http://op:{SECRET}@proxy:1", "NO_PROXY": ".lan"}
    keys |= {"LC_ALL": "C", "PAGER": "me"}
    script = "cat > notice; env > env"
    command = ("sh", "-c", f"cd {tmp_path}; {script}")
    failed = told(command=command, url_env="HOOK", env=("PAGER",), environ=keys)
    assert json.loads((tmp_path / "notice").read_text()) == DOCUMENT
    environment = (tmp_path / "env").read_text()
    assert SECRET not in environment
    names = {line.partition("=")[0] for line in environment.splitlines()}
    assert names - {"_", "SHLVL", "OLDPWD"} == {"PATH", "PWD", "LC_ALL", "NO_PROXY", "PAGER"}
    assert [each.to for each in failed] == ["webhook"] and SECRET not in str(failed)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("sh", "-c", "exit 3"), "sh: exit status 3"),
        (("sh", "-c", "kill -SEGV $$"), "sh: ended by SIGSEGV"),
        (("sh", "-c", "kill -40 $$"), "sh: ended by signal 40"),
        (("no-such-pager",), "no-such-pager cannot be started: No such file or directory"),
        (("/dev/null",), "/dev/null cannot be started: Permission denied"),
        (("sh", "\0"), "sh cannot be started: its arguments cannot be passed"),
        (("sh", "-c", f"cat; echo {SECRET}; echo {SECRET} >&2; exit 1"), "sh: exit status 1"),
    ],
)
def test_a_command_that_fails_is_told_apart_and_never_quoted(command: tuple[str, ...], why: str) -> None:
    """In words for the journal, which must not hold what a command prints: it could be a secret."""
    assert told(command=command) == [Undelivered("command", why)]


def test_a_command_that_does_not_read_is_no_failure() -> None:
    """Nobody has to want the details."""
    assert told(command=("true",)) == []


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """The run ends in time, and nothing of the command is left on the machine."""
    pids = tmp_path / "pids"
    command = ("sh", "-c", f"sleep 600 & echo $! > {pids}.new; echo $$ >> {pids}.new; mv {pids}.new {pids}; wait")

    async def tell() -> list[Undelivered]:
        spec = NotifySpec(place=Place(""), command=command)
        telling = asyncio.create_task(deliver(spec, DOCUMENT, dict(os.environ), 3.0, way=WayOut()))
        while not pids.exists() and not telling.done():
            await asyncio.sleep(0.01)
        return await telling

    assert asyncio.run(tell()) == [Undelivered("command", "not done within 3 s, ended")]
    for pid in map(int, pids.read_text().split()):
        wait_until(lambda pid=pid: not _runs(pid))


def _runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_program_with_a_slash_is_beside_the_file_that_names_it(tmp_path: Path) -> None:
    """Cron's current directory is anywhere, its PATH short."""
    program = tmp_path / "page.sh"
    program.write_text("#!/bin/sh\ncat > " + str(tmp_path / "notice"))
    program.chmod(0o755)
    assert told(command=("./page.sh",), place=Place(str(tmp_path / "config.yaml"))) == []
    assert (tmp_path / "notice").exists()


# ---- a webhook -------------------------------------------------------------------------------------------------------


class Hook(ThreadingHTTPServer):
    """Somebody's webhook: answers with a status, or not at all."""

    daemon_threads = True

    def __init__(self, status: int = 200) -> None:
        self.status, self.got = status, list[tuple[str, str, bytes]]()
        super().__init__(("127.0.0.1", 0), _Answering)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{SECRET}?key=1"

    def __enter__(self) -> Hook:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self.server_close()


class _Answering(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers["Content-Type"], body))
        if self.server.status == 0:
            self.connection.close()
            return
        self.send_response(self.server.status)
        self.send_header("Location", f"https://elsewhere.example/{SECRET}")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(SECRET.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "webhook.url"
    yield path


def test_a_webhook_gets_the_notice(url_file: Path) -> None:
    """With path and query of its URL, as JSON; a newline at the end of the file is not part of it."""
    with Hook() as hook:
        url_file.write_text(hook.url + "\n")
        assert told(url_file=str(url_file)) == []
        assert told(url_env="HOOK", environ={"HOOK": hook.url}) == []
    assert [(path, kind, json.loads(body)) for path, kind, body in hook.got] == [
        (f"/{SECRET}?key=1", "application/json", DOCUMENT)
    ] * 2


@pytest.mark.parametrize(
    ("status", "why"),
    [(500, "answered HTTP 500"), (302, "answered HTTP 302"), (0, "the connection was reset")],
)
def test_a_webhook_that_refuses_is_named_without_its_url(status: int, why: str) -> None:
    """A redirect is not followed: it could lead to plain HTTP, or into the house."""
    with Hook(status) as hook:
        assert told(url_env="HOOK", environ={"HOOK": hook.url}) == [Undelivered("webhook", why)]
    assert len(hook.got) == 1


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"http://127.0.0.1:9/{SECRET}", "its host cannot be reached"),
        (f"https://127.0.0.1:9/{SECRET}", "its host cannot be reached"),
        (f"https://user:{SECRET}@no-such-host.invalid/x", "the name of its host cannot be resolved"),
        (f"http://hooks.example/{SECRET}", "url_env HOOK: holds no URL that may be called"),
        (f"http://127.0.0.1@evil.example/{SECRET}", "url_env HOOK: holds no URL that may be called"),
        (f"http://127.0.0.1.evil.example/{SECRET}", "url_env HOOK: holds no URL that may be called"),
        (f"file:///etc/{SECRET}", "url_env HOOK: holds no URL that may be called"),
        (f"https://hooks.example/{SECRET}\nHost: x", "url_env HOOK: holds no URL that may be called"),
        ("", "url_env HOOK: the variable is not set or empty"),
    ],
)
def test_a_webhook_that_cannot_be_called(url: str, why: str) -> None:
    """Words that help, and not one character of the URL."""
    (failed,) = told(url_env="HOOK", environ={"HOOK": url})
    assert failed.why.startswith(why)
    assert SECRET not in str(failed) and "example" not in str(failed)


def test_a_webhook_is_called_through_the_proxy_of_this_host() -> None:
    """As the API is; a proxy that cannot be used is named by its variable, as its URL may hold a password."""
    environ = {"HOOK": f"https://hooks.example/{SECRET}", "HTTPS_PROXY": "http://127.0.0.1:9"}
    assert told(url_env="HOOK", environ=environ) == [Undelivered("webhook", "its host cannot be reached")]
    (failed,) = told(url_env="HOOK", environ=environ | {"HTTPS_PROXY": f"socks5://me:{SECRET}@proxy"})
    assert failed.why.startswith("HTTPS_PROXY: expected http://host:port") and SECRET not in failed.why


def test_a_url_file_that_cannot_be_read(url_file: Path) -> None:
    """Missing, a directory, a pipe nobody writes to: none is waited for."""
    (missing,) = told(url_file=str(url_file))
    assert missing.why == f"url_file {url_file}: cannot be read: No such file or directory"
    os.mkfifo(url_file)
    for path, why in ((url_file, "is not a regular file"), (url_file.parent, "is not a regular file")):
        assert told(url_file=str(path)) == [Undelivered("webhook", f"url_file {path}: {why}")]


def test_the_doctor_sees_what_would_keep_a_notice_back(desk: Desk) -> None:
    """Before Saturday, and without sending one."""
    job = desk.job(extra="notify: {command: [no-such-pager], webhook: {url_file: webhook.url}}")
    examined = desk.run("doctor", job, "--json")
    found = [row for row in examined.json["checks"] if row["check"] == "notify"]
    assert [row["result"] for row in found] == ["fail", "fail"]
    assert "no-such-pager: no such program" in found[0]["words"] and "job.yaml:3:9" in found[0]["words"]
    assert "webhook.url: cannot be read" in found[1]["words"]
    desk.write("webhook.url", f"https://hooks.example/{SECRET}")
    job.write_text(job.read_text().replace("no-such-pager", "cat"))
    examined = desk.run("doctor", job, "--json")
    (ready,) = (row for row in examined.json["checks"] if row["check"] == "notify")
    assert (ready["result"], SECRET in examined.text) == ("ok", False)
    assert ready["words"].startswith("command and webhook, on failure")
    assert problems(NotifySpec(place=Place(""), command=("cat",)), {"PATH": os.environ["PATH"]}) == []


# ---- a run -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(desk: Desk, *rules: dict[str, Any]) -> Iterator[Backend]:
    world = World(latency=0)
    for instance, users in (("postgres-aaaaaaaa", ["ann", "bob"]), ("postgres-bbbbbbbb", ["eve"])):
        world.seed(instance, "ap-singapore", users)
    with Backend(world) as backend:
        backend.script(*rules)
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        yield backend


def notices(hook: Hook) -> list[dict[str, Any]]:
    return [json.loads(body) for _, _, body in hook.got]


def test_start_and_end_of_a_run_are_told(desk: Desk) -> None:
    """With what a person needs to go on; the URL is in no record, no output, no other process's arguments."""
    eve = {"user": "eve", "code": "InvalidParameterValue.AccountNotExistError"}
    desk.write("config.yaml", "notify: {webhook: {url_env: HOOK}, on: [start, finish]}\n")
    job = desk.job(extra="name: lockdown\nticket: INC-1")
    with Hook() as hook, server(desk, eve):
        desk.env["HOOK"] = hook.url
        done = desk.run("run", job, "--yes", "--json")
    start, end = notices(hook)
    assert done.code == 1
    assert (start["event"], start["exit"], start["run"]) == ("start", None, done.json["run"])
    assert (end["event"], end["exit"], end["run"]) == ("failure", 1, done.json["run"])
    assert end["job"]["name"] == "lockdown" and end["ticket"] == "INC-1"
    assert end["counts"] == done.json["counts"] and end["journal_head"] == done.json["journal_head"]
    assert end["codes"] == [{"code": "InvalidParameterValue.AccountNotExistError", "targets": 1}]
    assert end["go_on"] == f"acctops rerun {done.json['run']} --only failed"
    assert "2 of 3 verified locked" in end["text"] and end["go_on"] in end["text"]
    assert not re.search(r"\b(?:ann|bob|eve)\b|postgres-", json.dumps(end)), "names of accounts stay at home"
    assert SECRET not in done.text + desk.journal().read_text()


def test_a_notice_knows_where_it_is_at_night(desk: Desk) -> None:
    """Cron's current directory is /: what the command writes lies beside the job, and a refusal says where that is."""
    extra = "notify: {command: [tee, -a, told.jsonl], on: [finish, failure]}"
    job = desk.job("postgres-aaaaaaaa/ann", name="jobs/night.yaml", extra=extra)
    elsewhere = desk.work / "elsewhere"
    elsewhere.mkdir()
    with server(desk):
        flags = ("--yes", "--quiet", "--state-dir", desk.state)
        assert desk.end(desk.popen("run", "../jobs/night.yaml", *flags, cwd=elsewhere)).code == 0
        job.write_text(job.read_text() + "limits: {max_targets: 1}\nprotect: ['*/ann']\n")
        assert desk.end(desk.popen("run", "../jobs/night.yaml", *flags, cwd=elsewhere)).code == 3
    told = [json.loads(line) for line in (job.parent / "told.jsonl").read_text().splitlines()]
    assert [each["event"] for each in told] == ["finish", "failure"]
    assert {each["job"]["path"] for each in told} == {str(job)} and not list(elsewhere.iterdir())


def test_only_what_was_asked_for_is_told(desk: Desk) -> None:
    """Quiet unless wrong is the default; a job's own `notify` stands in for the config's."""
    desk.write("config.yaml", f"notify: {{command: [touch, {desk.work}/config-told]}}\n")
    with server(desk):
        assert desk.run("run", desk.job("postgres-aaaaaaaa/ann"), "--yes").code == 0
        assert not (desk.work / "config-told").exists()
        own = desk.job("postgres-aaaaaaaa/nobody", extra=f"notify: {{command: [touch, {desk.work}/job-told]}}")
        assert desk.run("run", own, "--yes").code == 1
    assert (desk.work / "job-told").exists() and not (desk.work / "config-told").exists()


def test_a_notice_that_fails_changes_nothing_and_is_noted(desk: Desk) -> None:
    """Exit code, outcomes, chain: as without it. Quiet and all is well: not a word; not well: the mail has it."""
    desk.write("config.yaml", "notify: {command: [sh, -c, exit 9], on: [start, finish]}\n")
    with server(desk) as backend:
        done = desk.run("run", desk.job("postgres-aaaaaaaa/ann"), "--yes", "--quiet")
        assert (done.code, done.text) == (0, "")
        notes = [record for record in desk.records("note") if record["what"] == "notice_failed"]
        assert [note["data"] for note in notes] == [
            {"event": event, "to": "command", "why": "sh: exit status 9"} for event in ("start", "finish")
        ]
        assert desk.run("journal", "verify", "latest").code == 0
        assert desk.run("status", "latest", "--json").json["exit"] == 0
        backend.script({"code": "InvalidParameterValue.AccountNotExistError"})
        failed = desk.run("run", desk.job("postgres-aaaaaaaa/bob"), "--yes", "--quiet")
    assert failed.code == 1
    assert "acctops: warning: nobody was told of the failure by command: sh: exit status 9" in failed.err


def test_the_printed_head_is_the_last(desk: Desk) -> None:
    """The note of a failed notice comes before the head is printed: what was written down compares."""
    desk.write("config.yaml", "notify: {command: ['false'], on: [start, finish]}\n")
    with server(desk):
        done = desk.run("run", desk.job("postgres-aaaaaaaa/ann"), "--yes", "--json")
    assert desk.records()[-1]["hash"] == done.json["journal_head"]
    assert desk.records()[-1]["what"] == "notice_failed"
    assert desk.run("journal", "verify", "latest", "--head", done.json["journal_head"]).code == 0


def test_a_run_whose_notice_failed_has_ended_all_the_same(desk: Desk) -> None:
    """The note behind the `end` hides it from nobody: not from overdue, the lists, or the next start of the job."""
    desk.write("config.yaml", "notify: {command: ['false'], on: [start, finish]}\n")
    job = desk.job("postgres-aaaaaaaa/ann")
    with server(desk):
        assert desk.run("run", job, "--yes").code == 0
        assert desk.records()[-1]["what"] == "notice_failed"
        assert desk.run("overdue", job, "--every", "1d").code == 0
        assert "1 ended with exit 0" in desk.run("status", "--since", "1d").out
        assert "exit 0" in desk.run("status").out
        assert "cut off" not in desk.run("run", job, "--yes", "--on-unfinished", "refuse").err


def test_a_hanging_notice_does_not_hold_up_the_calls(desk: Desk) -> None:
    """All is done and on disk while the command still hangs; a signal then ends the wait, not the run's good end."""
    pids = desk.work / "pids"
    command = f"echo $$ >> {pids}; exec sleep 600"
    desk.write("config.yaml", json.dumps({"notify": {"command": ["sh", "-c", command], "on": ["start", "finish"]}}))
    with server(desk):
        process = desk.popen("run", desk.job(), "--yes")
        wait_until(lambda: pids.exists() and len(pids.read_text().splitlines()) == 2)
        assert desk.records("end")[-1]["exit"] == 0
        process.send_signal(signal.SIGTERM)
        done = desk.end(process)
    assert done.code == 0, done.text
    assert "3 of 3 verified locked" in done.out
    why = {note["data"]["why"] for note in desk.records("note") if note["what"] == "notice_failed"}
    assert why == {"given up, by a signal"}
    for pid in map(int, pids.read_text().split()):
        wait_until(lambda pid=pid: not _runs(pid))


@pytest.mark.parametrize("broken", [False, True])
def test_a_run_that_does_not_begin_is_told(desk: Desk, broken: bool) -> None:
    """Refused by a guard, or a job file spoilt on Friday: nobody reads stderr at night."""
    told = desk.work / "told.json"
    desk.write("config.yaml", f"notify: {{command: [tee, {told}]}}\n")
    job = desk.job(extra="ticket: CHG-7" if broken else "limits: {max_targets: 1}\nticket: CHG-7")
    if broken:
        job.write_text(job.read_text() + "oops")
    with server(desk) as backend:
        assert desk.run("run", job, "--simulate", "--yes").code == (2 if broken else 3)
        assert not told.exists(), "a rehearsal tells nobody"
        refused = desk.run("run", job, "--yes")
        assert not backend.writes()
    notice = json.loads(told.read_text())
    assert refused.code == notice["exit"] == (2 if broken else 3)
    assert (notice["event"], notice["run"], notice["counts"]) == ("failure", None, None)
    assert notice["error"] in refused.err.replace("acctops: ", "")
    assert (notice["job"]["name"], notice["ticket"]) == ("job", None if broken else "CHG-7")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["run", "overdue"])
def test_a_signal_ends_the_wait_for_a_notice_and_not_the_news(desk: Desk, command: str, number: signal.Signals) -> None:
    """Whoever does not wait for a pager that hangs still reads why nothing was sent, and gets its exit code."""
    pids = desk.work / "pids"
    hanging = f"echo $$ >> {pids}; exec sleep 600"
    desk.write("config.yaml", json.dumps({"notify": {"command": ["sh", "-c", hanging]}}))
    job = desk.job(extra="limits: {max_targets: 1}")
    more = ("--yes",) if command == "run" else ("--every", "8d", "--notify")
    with server(desk):
        process = desk.popen(command, job, *more)
        wait_until(lambda: pids.exists() and bool(pids.read_text()))
        process.send_signal(number)
        done = desk.end(process)
    assert done.code == (3 if command == "run" else 1), done.text
    assert ("limits.max_targets" if command == "run" else "OVERDUE") in done.text
    (pid,) = map(int, pids.read_text().split())
    wait_until(lambda: not _runs(pid))


def test_who_is_asked_needs_no_notice(desk: Desk) -> None:
    """A person who says no knows it."""
    desk.write("config.yaml", f"notify: {{command: [touch, {desk.work}/told]}}\n")
    with server(desk):
        assert desk.run("run", desk.job()).code == 3
    assert not (desk.work / "told").exists()


def test_a_resume_tells_its_end(desk: Desk) -> None:
    """As the job says today: what goes on from a journal is watched by nobody either."""
    told = desk.work / "told.json"
    job = desk.job(extra=f"notify: {{command: [tee, {told}], on: [finish]}}\nrate: 1")
    with server(desk):
        process = desk.popen("run", job, "--yes")
        desk.wait_for("settled")
        process.kill()
        desk.end(process)
        resumed = desk.run("resume", "latest", "--rate", "20")
    assert resumed.code == 0, resumed.text
    notice = json.loads(told.read_text())
    assert (notice["event"], notice["exit"], notice["counts"]["changed"]) == ("finish", 0, 3)
    assert notice["run"] == records(desk.journal(), "run")[0]["run"]


def test_an_overdue_job_is_told(desk: Desk) -> None:
    """A machine that was off is nobody's run: the second timer tells, and only if there is something to tell."""
    told = desk.work / "told.json"
    job = desk.job(extra=f"name: nightly\nnotify: {{command: [tee, {told}]}}")
    late = desk.run("overdue", job, "--every", "8d", "--quiet")
    assert (late.code, told.exists()) == (1, False), "not asked to"
    late = desk.run("overdue", job, "--every", "8d", "--quiet", "--notify")
    notice = json.loads(told.read_text())
    assert (late.code, notice["event"], notice["exit"], notice["run"]) == (1, "overdue", 1, None)
    assert notice["job"]["name"] == "nightly" and notice["error"] in late.out
    assert notice["text"].startswith("nightly: is overdue: OVERDUE")
    told.unlink()
    with server(desk):
        assert desk.run("run", job, "--yes").code == 0
    assert desk.run("overdue", job, "--every", "8d", "--notify").code == 0
    assert not told.exists()
    desk.write("config.yaml", f"notify: {{command: [tee, {told}]}}\n")
    assert desk.run("overdue", "gone", "--every", "8d", "--notify").code == 1
    assert json.loads(told.read_text())["job"]["name"] == "gone"
