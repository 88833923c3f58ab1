"""The main job over real sockets: 210 targets, 21 kinds of trouble, every outcome exact, every answer recorded."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.simulator.faults import rules_from
from engine.simulator.fleet import fleet_from
from engine.simulator.gate import KeyRecord
from engine.simulator.world import Arrival, World
from tests.support.command import Backend, Desk, Done, records, wait_until
from tests.support.stores import kept_in

SECRET_ID = "AKIDendtoendendtoendendtoendend"
SECRET_KEY = "kEy4EndToEndNobodyMayEverSeeThis"
TOKEN = "t0kenOfATemporaryKeyThatNobodyMayEverSeeEither"
SECRETS = (SECRET_KEY, TOKEN, SECRET_ID)
EACH = 10


@dataclass(frozen=True)
class Kind:
    """One kind of trouble: ten accounts, each on an instance of its own, as a sick instance is asked less often."""

    faults: dict[str, Any] | None
    """What the simulator does to them, beside whom it is done to; None: nothing."""
    outcome: str
    proof: str | None = "read"
    code: str | None = None
    writes: int = 1
    """Requests that arrive for each account."""
    status: str = "normal"
    """Of the accounts before; "missing": there is only one whose name looks like it."""
    message: str = ""
    """Words the report has for it."""


KINDS = {
    "fine": Kind(None, "changed"),
    "slow": Kind({"slow": 0.3}, "changed"),
    "throttled": Kind({"code": "RequestLimitExceeded", "times_each": 1}, "changed", writes=2),
    "transient": Kind({"code": "InternalError", "times_each": 2}, "changed", writes=3),
    "busy": Kind({"code": "OperationDenied.InstanceStatusLimitOpError", "times_each": 1}, "changed", writes=2),
    "bad-gateway": Kind({"status": 502, "html": True, "times_each": 1}, "changed", writes=2),
    "late-gateway": Kind({"status": 504, "apply": True}, "changed"),
    "html": Kind({"html": True, "times_each": 1}, "changed", writes=2),
    "truncated": Kind({"truncated": True}, "changed"),
    "garbage": Kind({"garbage": True}, "changed"),
    "empty": Kind({"empty": True}, "changed"),
    "no-request-id": Kind({"no_request_id": True}, "changed"),
    "reset-before": Kind({"reset_before": True, "times_each": 1}, "changed", writes=2),
    "reset-after": Kind({"reset_after": True}, "changed"),
    "hung": Kind({"hang": True, "times_each": 1}, "changed", writes=2),
    "late": Kind({"effect_delay": 1}, "changed"),
    "was-locked": Kind(None, "already", "before", writes=0, status="locked"),
    "denied": Kind(
        {"code": "OperationDenied.InstanceAccessDeniedError", "times": EACH},
        "failed",
        None,
        "OperationDenied.InstanceAccessDeniedError",
    ),
    "twice-failed": Kind(
        {"code": "FailedOperation"},
        "failed",
        None,
        "FailedOperation",
        writes=2,
    ),
    "unheard-of": Kind({"code": "OperationDenied.NeverHeardOf"}, "failed", None, "OperationDenied.NeverHeardOf"),
    "no-such-user": Kind(
        None,
        "failed",
        "before",
        "Local.NoAccount",
        writes=0,
        status="missing",
        message="; did you mean no_such_users?",
    ),
}


def accounts_of(kind: str) -> list[tuple[str, str]]:
    """(instance, user) of each account of a kind."""
    number = list(KINDS).index(kind)
    return [(f"postgres-{number:04d}{each:04d}", kind.replace("-", "_")) for each in range(EACH)]


def kind_of(instance: str) -> str:
    return list(KINDS)[int(instance.removeprefix("postgres-")[:4])]


ACCOUNTS = {account: name for name in KINDS for account in accounts_of(name)}


def troubled_world() -> World:
    rules = [
        {**kind.faults, "user": name.replace("-", "_"), "action": "LockAccount"}
        for name, kind in KINDS.items()
        if kind.faults is not None
    ]
    instances = [
        {
            "id": instance,
            "region": "ap-singapore",
            "accounts": [
                f"{user}s" if KINDS[name].status == "missing" else {"name": user, "status": KINDS[name].status}
            ],
        }
        for (instance, user), name in ACCOUNTS.items()
    ]
    return World(
        fleet=fleet_from({"instances": instances}),
        faults=rules_from(rules),
        keys={SECRET_ID: KeyRecord(secret_key=SECRET_KEY, token=TOKEN, identity="10001")},
        quotas={"*": None},
        latency=0.01,
        repeat="precheck",
        seed=7,
        audit=None,
    )


def write_job(desk: Desk) -> None:
    rows = [f"{instance},{user}" for instance, user in ACCOUNTS]
    desk.write("list.csv", "\r\n".join(["instance,user", *rows, ""]))
    desk.write(
        "job.yaml",
        f"""\
action: LockAccount
region: ap-singapore
ticket: INC-1
targets:
  - csv: list.csv
  - {accounts_of("fine")[0][0]}: [fine, breakglass_1, spared, pg_monitor]
exclude: ["*/spared"]
protect: ["*/breakglass_*"]
retry: {{transient: 20s, busy: 1s}}
""",
    )


@dataclass
class Story:
    """One run, ended: what was printed, what the journal says, what the server saw."""

    desk: Desk
    backend: Backend
    done: Done
    writes: list[Arrival] = field(default_factory=list)
    reads: list[Arrival] = field(default_factory=list)

    @property
    def journal(self) -> Path:
        return self.desk.journals()[0]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return records(self.journal, kind)


@pytest.fixture(scope="module", params=["files", "database"])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """One run for the tests of a store, which look at it and change nothing that the others see."""
    with kept_in(request, request.param):
        yield from told(tmp_path_factory)


def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Carry out the run."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    desk.env |= {
        "TENCENTCLOUD_SECRET_ID": SECRET_ID,
        "TENCENTCLOUD_SECRET_KEY": SECRET_KEY,
        "TENCENTCLOUD_TOKEN": TOKEN,
    }
    write_job(desk)
    with Backend(troubled_world()) as backend:
        flags = ["--yes", "--json", "--rate", "300", "--timeout", "1s", "--endpoint", backend.endpoint]
        done = desk.end(desk.popen("run", "job.yaml", *flags))
        audit = tuple(backend.world.audit)
        story = Story(desk, backend, done)
        story.writes = [arrival for arrival in audit if arrival.action == "LockAccount"]
        story.reads = [arrival for arrival in audit if arrival.action == "DescribeAccounts"]
        yield story


def test_every_target_ends_as_it_must(story: Story) -> None:
    settled = {line["call"]: line for line in story.of("settled")}
    calls = {line["call"]: line for line in story.of("call")}
    assert len(calls) == len(ACCOUNTS) == len(story.of("settled")) == len(settled)
    found = {
        (calls[call]["instance"], calls[call]["user"]): (line["outcome"], line["proof"], line["code"])
        for call, line in settled.items()
    }
    expected = {
        account: (KINDS[name].outcome, KINDS[name].proof, KINDS[name].code) for account, name in ACCOUNTS.items()
    }
    assert found == expected


def test_the_accounts_are_as_the_journal_says(story: Story) -> None:
    world = story.backend.world
    for (instance, user), name in ACCOUNTS.items():
        account = world.account(instance, user)
        locked = account is not None and account.status == 5
        if name != "denied":  # which a later test reruns
            assert locked == (KINDS[name].outcome != "failed"), name


def test_exactly_the_requests_that_were_needed_arrived(story: Story) -> None:
    arrived = Counter((arrival.instance, arrival.user) for arrival in story.writes)
    assert arrived == {account: KINDS[name].writes for account, name in ACCOUNTS.items() if KINDS[name].writes}


def test_an_instance_is_read_once_before_and_once_after(story: Story) -> None:
    """Where nothing goes wrong; what was so before, and what is not there, costs one reading and no write.

    Of who is not there the whole list is read, to the empty page behind it.
    """
    arrived = Counter(kind_of(arrival.instance) for arrival in story.reads)
    one_way = EACH + 1  # the first instance has targets that are left out, too; it is still one reading
    assert (arrived["was-locked"], arrived["no-such-user"]) == (EACH, 2 * EACH)
    for kind in ("slow", "throttled", "transient", "busy", "denied", "unheard-of"):
        assert arrived[kind] <= 2 * one_way, kind
    before = {line["call"]: line for line in story.of("before")}
    first_sent: dict[str, int] = {}
    for line in story.of("sent"):
        first_sent.setdefault(line["call"], line["seq"])
    assert len(before) == len(ACCOUNTS) and len(story.of("before")) == len(before), "one a call"
    assert all(before[call]["seq"] < seq for call, seq in first_sent.items()), "and ahead of its first write"
    verified = {line["call"] for line in story.of("verified") if line["agrees"]}
    changed = {line["call"] for line in story.of("settled") if line["outcome"] == "changed"}
    assert changed == verified, "done means read back"


def test_every_request_that_arrived_has_its_sent_record_from_before(story: Story) -> None:
    sent = {line["trace"]: line for line in story.of("sent")}
    assert len(sent) == len(story.of("sent")) == len(story.writes)
    calls = {line["call"]: line for line in story.of("call")}
    for arrival in story.writes:
        line = sent[arrival.trace]
        call = calls[line["call"]]
        assert (call["instance"], call["user"]) == (arrival.instance, arrival.user)
        assert line["at"] <= _at(arrival.at), "recorded before it arrived"


def _at(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds + 0.001, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_every_request_id_the_server_answered_with_is_in_the_journal(story: Story) -> None:
    replies = {line["request_id"] for line in story.of("reply")}
    reads = {line["request_id"] for line in story.of("read")}
    answered = {arrival.request_id for arrival in story.writes} - {None}
    assert len(answered) > 150
    assert answered <= replies
    pages = {arrival.request_id: arrival for arrival in story.reads}
    assert reads <= set(pages)
    first_pages = [pages[request_id] for request_id in set(pages) - reads]
    assert len(first_pages) == EACH, "a reading has the id of its last page"
    assert {kind_of(arrival.instance) for arrival in first_pages} == {"no-such-user"}
    assert replies - {None} <= answered, "and none that the server did not give"


def test_the_document_says_the_same(story: Story) -> None:
    document = story.done.json
    expected = Counter(dict.fromkeys(("changed", "already", "failed", "unknown", "unattempted"), 0))
    for kind in KINDS.values():
        expected[kind.outcome] += EACH
    assert story.done.code == document["exit"] == 1
    assert document["counts"] == expected
    assert document["left_out"] == {
        "protected": 1,
        "excluded": 1,
        "duplicate": 1,
        "reserved": 1,
        "later": 0,
        "skipped": 0,
        "unseen": 0,
        "bad_row": 0,
        "rerun": 0,
        "dropped": 0,
        "before_unknown": 0,
        "edited": 0,
        "gone": 0,
        "held": 0,
        "unproven": 0,
    }
    assert document["attempts"] == len(story.writes)
    assert document["throttled"] == EACH
    assert document["stopped"] is None
    assert document["journal"] == story.desk.runs().place_of(document["run"])
    codes: dict[str, set[str]] = defaultdict(set)
    for failure in document["failures"]:
        assert failure["outcome"] == "failed" and failure["advice"]
        assert failure["request_id"], "of the write, or of the reading that decided"
        codes[kind_of(failure["instance"])].add(failure["code"])
    assert codes == {name: {kind.code} for name, kind in KINDS.items() if kind.outcome == "failed"}


def test_the_reports_say_the_same(story: Story) -> None:
    run = story.done.json["run"]
    rows = list(csv.DictReader(io.StringIO(story.desk.run("report", run, "--format", "csv").out)))
    assert len(rows) == len(ACCOUNTS)
    for row in rows:
        kind = KINDS[kind_of(row["instance"])]
        assert (row["outcome"], row["proof"], row["code"]) == (kind.outcome, kind.proof or "", kind.code or "")
        assert kind.message in row["message"]
        assert bool(row["advice"]) == (kind.outcome == "failed")
    attempts = list(csv.DictReader(io.StringIO(story.desk.run("report", run, "--format", "csv", "--attempts").out)))
    assert len(attempts) == len(story.writes)
    text = story.desk.run("status", run).out
    closing = (
        r"170 of 210 verified locked at [\d:]{8}Z \(10 were so before\); 40 not: 40 failed; 1 protected, NOT locked"
    )
    assert re.search(closing, text)
    assert f"acctops rerun {run} --only failed" in text


def test_resume_of_the_finished_run_repeats_its_report_and_appends_nothing(story: Story) -> None:
    before = story.journal.read_bytes()
    arrived = len(story.backend.world.audit)
    again = story.desk.run("resume", story.done.json["run"], "--json")
    assert again.code == 1
    assert {**again.json, "first_send_ms": None} == {**story.done.json, "first_send_ms": None}
    assert story.journal.read_bytes() == before
    assert len(story.backend.world.audit) == arrived


def test_reruns_are_linked_and_skip_what_was_settled_since(story: Story) -> None:
    """The permission was mended: only those, then the rest, and what is in order is left alone."""
    run = story.done.json["run"]
    flags = ["--yes", "--json", "--endpoint", story.backend.endpoint]
    mended = story.desk.run("rerun", run, "--code", "OperationDenied.InstanceAccessDeniedError", *flags)
    assert mended.code == 0, mended.text
    assert mended.json["counts"]["changed"] == EACH and sum(mended.json["counts"].values()) == EACH
    first, second = story.desk.journals()
    (note,) = story.desk.notes(run)
    assert note["what"] == "continued_by" and note["data"]["run"] == mended.json["run"]
    (line,) = records(second, "run")
    assert line["parent"] == {"run": run, "verb": "rerun", "head": records(first)[-1]["hash"]}

    rest = story.desk.run("rerun", run, *flags)
    assert rest.code == 1
    assert sum(rest.json["counts"].values()) == 30, "those mended since are not sent again"
    finished = story.desk.run("resume", run, "--json")
    assert finished.code == finished.json["exit"] == 1 and finished.json["open"] == 30
    assert finished.json["go_on"] == f"acctops rerun {rest.json['run']} --only failed"


def test_no_secret_is_in_the_journal_or_in_any_output(story: Story) -> None:
    for argv in (
        ["status", "--json"],
        ["doctor", "--endpoint", story.backend.endpoint],
        ["plan", "job.yaml", "--endpoint", story.backend.endpoint],
    ):
        story.desk.run(*argv)
    kept = [*story.desk.journals(), *story.desk.state.rglob("*")]
    places = {str(path): path.read_bytes() for path in kept if path.is_file()}
    places |= {f"output {number}": text.encode() for number, text in enumerate(story.desk.said)}
    assert len(places) >= 5, "the journal, the run, and the three verbs"
    for place, text in places.items():
        for secret in SECRETS:
            assert secret.encode() not in text, place
        assert b"TC3-HMAC-SHA256" not in text and b"Signature=" not in text, place
    assert records(story.journal, "sent")[0]["key"] == f"…{SECRET_ID[-4:]}"


def test_the_journal_verifies_and_its_head_is_the_printed_one(story: Story) -> None:
    path = story.journal
    head = json.loads(path.read_bytes().splitlines()[-1])["hash"]
    assert story.desk.run("journal", "verify", str(path), "--head", head).code == 0
    assert story.done.json["journal_head"] in path.read_text()
    if story.desk.database is None:  # a copy has other modes
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700


# ---- passwords -----------------------------------------------------------------------------------------------------

PASSWORDS = {"ann": "Aa1!neverSeen-ann", "bob": "Aa1!neverSeen-bob"}


def close_cam(desk: Desk, source: str, *users: str) -> None:
    targets = ", ".join(f"postgres-aaaaaaaa/{user}" for user in users)
    text = f"action: CloseAccountCAM\nregion: ap-singapore\ntargets: [{targets}]\npasswords: {source}\n"
    desk.write("job.yaml", text)


def command_source(desk: Desk) -> None:
    lines = "".join(f"{user}) echo '{password}';; " for user, password in PASSWORDS.items())
    # The program finds it by itself: an argument would be in the process list.
    script = desk.write("vault", f'#!/bin/sh\necho "asked $1" >> asked\ncase "$1" in {lines} esac\n')
    script.chmod(0o700)
    close_cam(desk, '{command: [./vault, "{user}"]}', *PASSWORDS)


def file_source(desk: Desk) -> None:
    rows = "".join(f"postgres-aaaaaaaa,{user},{password}\n" for user, password in PASSWORDS.items())
    desk.write("passwords.csv", "instance,user,password\n" + rows).chmod(0o600)
    close_cam(desk, "{file: passwords.csv}", *PASSWORDS)


def variable_source(desk: Desk) -> None:
    desk.env["NEW_PASSWORD"] = PASSWORDS["ann"]
    close_cam(desk, "{env: NEW_PASSWORD}", "ann")


def test_a_password_program_beside_the_job_is_found_from_anywhere(tmp_path: Path) -> None:
    """At night a job is started from any directory, and resumed from another."""
    desk = Desk(tmp_path)
    command_source(desk)
    (desk.work / "elsewhere").mkdir()
    job = desk.work / "job.yaml"
    process = desk.popen("run", str(job), "--simulate", "--yes", "--json", cwd=desk.work / "elsewhere")
    done = desk.end(process)
    assert done.code == 0, done.text
    assert done.json["counts"]["changed"] == 2


@pytest.mark.both_stores
@pytest.mark.parametrize("source", [command_source, file_source, variable_source])
def test_a_password_reaches_the_api_and_nothing_else(tmp_path: Path, source: Any) -> None:
    """Every first try meets an error that quotes the password, as a server might."""
    desk = Desk(tmp_path)
    source(desk)
    quoting = [
        {"code": "InternalError", "message": f"cannot set {password!r}", "times": 1, "user": user}
        for user, password in PASSWORDS.items()
    ]
    rules = rules_from([{**rule, "action": "CloseAccountCAM"} for rule in quoting])
    world = World(faults=rules, latency=0.3)
    world.seed("postgres-aaaaaaaa", "ap-singapore", PASSWORDS, cam=True)
    with Backend(world) as backend:
        process = desk.popen("run", "job.yaml", "--yes", "--json", "--endpoint", backend.endpoint)
        wait_until(lambda: len(backend.writes()) > 0)
        listed = _process_list()
        done = desk.end(process)
        assert done.code == 0, done.text
        users = ["ann"] if source is variable_source else list(PASSWORDS)
        assert done.json["counts"]["changed"] == len(users)
        for user in users:
            account = world.account("postgres-aaaaaaaa", user)
            assert account is not None and account.cam is False and account.password == PASSWORDS[user]
    if source is command_source:
        assert sorted((desk.work / "asked").read_text().split()) == ["ann", "asked", "asked", "bob"], "once a call"
    assert sum("cannot set '[redacted]'" in (line["message"] or "") for line in desk.records("reply")) == len(users)
    own = [path for path in (*desk.journals(), *desk.state.rglob("*")) if path.is_file()]
    for text in [*(path.read_bytes() for path in own), done.text.encode(), listed.encode()]:
        for password in PASSWORDS.values():
            assert password.encode() not in text


def _process_list() -> str:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    assert any("job.yaml" in line for line in found)
    return "\n".join(found)


# ---- the served simulator ------------------------------------------------------------------------------------------


@pytest.mark.both_stores
def test_the_whole_way_against_the_simulator_as_a_command(tmp_path: Path) -> None:
    """`acctops simulate --port 0 --faults FILE` beside `acctops lock`, with the demo keys it prints."""
    desk = Desk(tmp_path)
    desk.write("faults.yaml", "- {code: InternalError, times: 1}\n")
    demo = {name: desk.env.pop(name) for name in ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY")}
    server = desk.popen("simulate", "--port", "0", "--port", "0", "--faults", "faults.yaml")
    assert server.stdout is not None
    endpoints = [server.stdout.readline().decode().strip() for _ in range(2)]
    desk.env |= demo
    both = [flag for endpoint in endpoints for flag in ("--endpoint", endpoint)]
    done = desk.run(
        "lock", "postgres-aaaaaaaa/ann", "postgres-aaaaaaaa/bob", "--region", "ap-singapore", "--yes", *both
    )
    assert done.code == 0, done.text
    assert "2 of 2 verified locked at " in done.out
    lanes = {line["lane"] for line in desk.records("sent")}
    assert {lane.rpartition("/")[2] for lane in lanes} == {endpoint.removeprefix("http://") for endpoint in endpoints}
    server.send_signal(signal.SIGTERM)
    ended = desk.end(server)
    assert ended.code == 0
    assert all(value in ended.err for value in demo.values()), "it says which keys it takes"
