"""Every option of every command does something, or is refused: nothing that is typed is dropped in silence.

Each is tried beside the command without it, in a world of its own, and what an operator could see of the two must
differ: exit code, words, what the server was asked, what is in the journal.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from engine.cli.flags import IDLE, Idle
from engine.simulator.world import World
from tests.support.command import Backend, Desk, commands, records

WINDOW = '{days: [mon, tue, wed, thu, fri, sat, sun], from: "00:00", until: "24:00", timezone: UTC}'
NOT_THERE = "InvalidParameterValue.AccountNotExistError"
BAD_LIST = "instance,user\npostgres-aaaaaaaa,ann\nnonsense,\n"


class Case(NamedTuple):
    """How an option is tried."""

    option: tuple[str, ...]
    """With its value."""
    base: tuple[str, ...] = ()
    """More words of the command, with and without the option."""
    job: str = ""
    """More of the job."""
    prepare: Callable[[Desk], object] | None = None


def has_take(desk: Desk) -> object:
    """Who failed last night comes last tonight, as the journals have it."""
    desk.job("postgres-aaaaaaaa/bob", "postgres-aaaaaaaa/ann", extra="limits: {take: 1}")
    return desk.run("run", "job.yaml", "--yes")


def bad_list(desk: Desk) -> object:
    desk.write("list.csv", BAD_LIST)
    job = (desk.work / "job.yaml").read_text()
    return desk.write("job.yaml", job.partition("targets:")[0] + "targets: [{csv: list.csv}]\n")


def fleet_file(desk: Desk) -> object:
    return desk.write("fleet.yaml", "instances:\n  - {id: postgres-aaaaaaaa, region: ap-singapore, accounts: [ann]}\n")


WAVES = "waves: [{take: rest}]\ngate: {command: [./gate.sh]}\n"


def red_gate(desk: Desk) -> object:
    """A gate that never says green."""
    path = desk.write("gate.sh", "#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    return path


def cut_off(desk: Desk) -> object:
    """The run of the job, as a crash leaves it: without its last line."""
    desk.run("run", "job.yaml", "--yes")
    path = desk.journals()[-1]
    lines = path.read_bytes().splitlines(keepends=True)
    return path.write_bytes(b"".join(lines[:-1]))


def unsent(desk: Desk) -> object:
    """The run of the job, killed before its first call."""
    path = desk.journals()[-1]
    lines = path.read_bytes().splitlines(keepends=True)
    last = next(number for number, line in enumerate(lines) if b'"kind":"confirmed"' in line)
    return path.write_bytes(b"".join(lines[: last + 1]))


def unsent_and_changed(desk: Desk) -> object:
    """The same; the job has changed since, so that it is asked about."""
    with (desk.work / "job.yaml").open("a") as job:
        job.write("ticket: CHG-2\n")
    return unsent(desk)


def rerun(desk: Desk) -> object:
    return desk.run("rerun", desk.journals()[0].parent.name, "--yes", "--no-verify")


def edited(desk: Desk) -> object:
    return None


def notifier(desk: Desk) -> object:
    (desk.state / "runs").rename(desk.place / "lost")
    return desk.write("config.yaml", "notify: {command: [touch, told]}\n")


def released(desk: Desk) -> object:
    return desk.run("release", desk.journals()[0].parent.name)


def lapsed(desk: Desk) -> object:
    """A hold that ends at once and is opened by the next `tend`."""
    desk.run("hold", desk.journals()[0].parent.name, "--for", "1ms", "--then", "unlock")
    return None


def elsewhere(desk: Desk) -> object:
    """The same, in a state directory of another host."""
    lapsed(desk)
    return (desk.state / "home.json").write_text('{"id": "1", "host": "another"}\n')


CONFIG = Case(("--config", "more.yaml"))
STATE = Case(("--state-dir", "elsewhere"))
DATABASE = Case(("--database", "postgresql://127.0.0.1:9/nobody-listens"))
JSON = Case(("--json",))
RATE, WORKERS = Case(("--rate", "7")), Case(("--workers", "3"))
TIMEOUT, DEADLINE = Case(("--timeout", "9s")), Case(("--deadline", "9m"))
PROFILE = Case(("--profile", "nobody"))
ENDPOINT = Case(("--endpoint", "OTHER"))
EXCLUDE = Case(("--exclude", "*/ann"))
QUIET, YES = Case(("--quiet",), ("--yes",)), Case(("--yes",))
NO_VERIFY = Case(("--no-verify",), ("--yes",))
PAGE = Case(("--page", "page.html"), ("--yes",))
UNAPPROVED = Case(("--unapproved", "fire"), ("--yes",))
SAVING = {"--save": Case(("--save", "p"), ("--key", "k")), "--key": Case(("--key", "k"), ("--save", "p"))}
REASON, TICKET = Case(("--reason", "why"), ("--yes",)), Case(("--ticket", "CHG-1"), ("--yes",))
SIMULATED = Case(("--simulate",), ("--yes",))
FAULTS = Case(("--faults", "faults.yaml"), ("--yes", "--simulate"))
AFTERWARDS = {
    "--for": Case(("--for", "4h"), ("--yes",)),
    "--until": Case(("--until", f"{datetime.now(UTC) + timedelta(days=9):%Y-%m-%dT%H:%MZ}"), ("--yes",)),
    "--then": Case(("--then", "unlock"), ("--for", "4h", "--yes")),
    "--watch": Case(("--watch", "3d"), ("--yes",)),
}
OUTPUT = Case(("-o", "out.txt"))
AMONG_RUNS = {"--config": CONFIG, "--state-dir": STATE, "--database": DATABASE, "--json": JSON, "-o": OUTPUT}


def sending(**more: Case) -> dict[str, Case]:
    bounds = {"--rate": RATE, "--workers": WORKERS, "--timeout": TIMEOUT, "--deadline": DEADLINE}
    found = {**AMONG_RUNS, "--endpoint": ENDPOINT, "--profile": PROFILE, **bounds, "--exclude": EXCLUDE}
    found = {name: case._replace(base=(*case.base, "--yes")) for name, case in found.items()}
    named = {f"--{name.replace('_', '-')}": case for name, case in more.items()}
    return {
        **found,
        "--yes": YES,
        "--quiet": QUIET,
        "--no-verify": NO_VERIFY,
        "--unapproved": UNAPPROVED,
        "--detach": Case(("--detach",), ("--yes",)),
        "--page": PAGE,
        "--page-names": Case(("--page-names",), ("--yes",)),
        **named,
    }


SHUT = 'window: {days: [mon], from: "00:00", until: "00:01", timezone: UTC}'
NIGHT = f"window: {WINDOW}"
CASES: dict[str, dict[str, Case]] = {
    "plan": {
        **AMONG_RUNS,
        "--state-dir": STATE._replace(prepare=has_take), "--database": DATABASE._replace(prepare=has_take),
        "--endpoint": ENDPOINT, "--profile": PROFILE, "--rate": RATE, "--workers": WORKERS, "--timeout": TIMEOUT,
        "--deadline": DEADLINE, "--quiet": Case(("--quiet",)), "--exclude": EXCLUDE,
        "--expect": Case(("--expect", "9")), "--skip-bad-rows": Case(("--skip-bad-rows",), prepare=bad_list),
        "--offline": Case(("--offline",)), "--fix": Case(("--fix", "fixed.csv")),
        "--all": Case(("--all",), job="exclude: ['*/x']", prepare=lambda desk: [
            desk.job(*(f"postgres-aaaaaaaa/u{number}" for number in range(30)))]),
        **SAVING, "--no-verify": Case(("--no-verify",)), "--reason": Case(("--reason", "why")),
        "--ticket": Case(("--ticket", "CHG-1")),
    },
    "discover": {
        "--config": CONFIG, "--endpoint": ENDPOINT, "--profile": PROFILE, "-o": OUTPUT,
        "--timeout": Case(("--timeout", "1ms")), "--quiet": Case(("--quiet",)), "--exclude": EXCLUDE,
        "--format": Case(("--format", "csv")), "--excel": Case(("--excel",)),
        "--skip-bad-rows": Case(("--skip-bad-rows",), prepare=lambda desk: [desk.write("list.csv", BAD_LIST),
            desk.write("job.yaml", (desk.work / "job.yaml").read_text() + "  - {csv: list.csv}\n")]),
    },
    "drill": {
        **AMONG_RUNS, "--exclude": EXCLUDE, "--quiet": QUIET, "--yes": YES,
        "--seed": Case(("--seed", "8")), "--faults": Case(("--faults", "faults.yaml"), ("--yes",)),
        "--fleet": Case(("--fleet", "fleet.yaml"), prepare=fleet_file), "--contain": Case(("--contain", "95%:1ms")),
        "--skip-bad-rows": Case(("--skip-bad-rows",), prepare=bad_list),
    },
    "run": sending(
        reason=REASON, ticket=TICKET, simulate=SIMULATED, faults=FAULTS,
        fleet=Case(("--fleet", "fleet.yaml"), ("--yes", "--simulate"), prepare=fleet_file),
        expect=Case(("--expect", "9"), ("--yes",)),
        skip_bad_rows=Case(("--skip-bad-rows",), ("--yes",), prepare=bad_list),
        on_unfinished=Case(("--on-unfinished", "refuse"), ("--yes",), prepare=cut_off),
        now=Case(("--now",), ("--yes",), job=SHUT),
        real_gate=Case(("--real-gate",), ("--yes", "--simulate"), job=WAVES, prepare=red_gate),
        once=Case(("--once",), ("--yes",), job=NIGHT, prepare=lambda desk: desk.run("run", "job.yaml", "--yes",
                                                                                    "--once")),
    ),
    **{
        verb: AFTERWARDS | SAVING | sending(reason=REASON, ticket=TICKET, simulate=SIMULATED, faults=FAULTS,
                      region=Case(("--region", "ap-tokyo"), ("--yes",)), skip_bad_rows=Case(("--skip-bad-rows",),
                      ("@list.csv", "--yes"), prepare=lambda desk: desk.write("list.csv", BAD_LIST)))
        for verb in ("lock", "unlock", "cam-on")
    },
    "resume": {
        **{name: case._replace(prepare=unsent) for name, case in sending().items()},
        "--yes": YES._replace(prepare=unsent_and_changed),
        "--now": Case(("--now",), ("--yes",), job=SHUT, prepare=unsent),
    },
    "rerun": {**sending(
        reason=REASON, ticket=TICKET, only=Case(("--only", "unknown"), ("--yes",)), code=Case(("--code", "X"),
        ("--yes",)), faults=Case(("--faults", "faults.yaml"), ("--yes",)),
        now=Case(("--now",), ("--yes",), job=SHUT),
    ), **SAVING, "--exclude": Case(("--exclude", "*/bob"), ("--yes",))},
    "undo": SAVING | sending(
        reason=REASON, ticket=TICKET, family=Case(("--family",), prepare=rerun), target=Case(("--target", "*/bob")),
        wave=Case(("--wave", "2"), ("--yes",)),
        include_edited=Case(("--include-edited",), ("--yes",), prepare=edited),
        rotated=Case(("--rotated",), ("--yes",)), due=Case(("--due",), ("--yes",)),
        release=Case(("--release", "20200101T000000Z-aaaa"), ("--yes",)),
        ignore=Case(("--ignore", "20200101T000000Z-aaaa"), ("--yes",)),
        password_command=Case(("--password-command", "x"), ("--yes",)),
        password_file=Case(("--password-file", "x"), ("--yes",)),
        faults=Case(("--faults", "faults.yaml"), ("--yes",)),
    ),
    "stop": {**AMONG_RUNS, "--quiet": Case(("--quiet",))},
    "change": {
        **{name: case._replace(base=("--rate", "7")) for name, case in AMONG_RUNS.items() if name != "-o"},
        "--rate": RATE, "--drop": Case(("--drop", "*/bob")), "--first": Case(("--first", "*/bob")),
    },
    "pause": {
        "--config": CONFIG, "--state-dir": STATE, "--database": DATABASE, "--json": JSON,
        "--for": Case(("--for", "soon")),
    },
    "holds": {
        **{name: case for name, case in AMONG_RUNS.items() if name != "--config"},
        "--config": Case(("--config", "gone.yaml")),
        "--due": Case(("--due",)), "--owed": Case(("--owed",), prepare=released), "--target": Case(("--target", "*/x")),
    },
    "release": {
        **AMONG_RUNS, "--quiet": Case(("--quiet",)), "--target": Case(("--target", "*/bob")),
        "--reason": Case(("--reason", "why")),
        "--config": Case(("--config", "gone.yaml")),
    },
    "hold": {
        **{name: case._replace(base=("--for", "4h")) for name, case in AMONG_RUNS.items()},
        "--config": Case(("--config", "gone.yaml"), ("--for", "4h")),
        "--quiet": Case(("--quiet",), ("--for", "4h")), "--reason": Case(("--reason", "why"), ("--for", "4h")),
        "--then": Case(("--then", "unlock"), ("--for", "4h")), "--for": Case(("--for", "4h")),
        "--until": Case(("--until", "2126-01-01T00:00Z")), "--none": Case(("--none",)),
    },
    "tend": {
        **{name: case._replace(prepare=lapsed) for name, case in AMONG_RUNS.items()},
        "--config": Case(("--config", "more.yaml"), prepare=lapsed), "--quiet": Case(("--quiet",), prepare=unsent),
        "--profile": PROFILE._replace(prepare=lapsed), "--adopt": Case(("--adopt",), prepare=elsewhere),
    },
    "status": {**AMONG_RUNS, "--since": Case(("--since", "7d"))},
    "pending": {
        **AMONG_RUNS, "--since": Case(("--since", "1ms")), "--ticket": Case(("--ticket", "CHG-9")),
        "--format": Case(("--format", "csv")), "--excel": Case(("--excel",)),
    },
    "report": {
        **AMONG_RUNS,
        "--since": Case(("--since", "7d")), "--format": Case(("--format", "csv")),
        "--excel": Case(("--excel",), ("--format", "csv")),
        "--attempts": Case(("--attempts",), ("--format", "csv")), "--pace": Case(("--pace",)),
        "--stuck": Case(("--stuck",)), "--family": Case(("--family",), prepare=rerun),
        "-o": Case(("-o", "report.txt")),
        "--ticket": Case(("--ticket", "CHG-1"), ("--format", "html")),
    },
    "evidence": {
        **{name: case._replace(base=("--out", "b.zip")) for name, case in AMONG_RUNS.items() if name != "-o"},
        "--out": Case(("--out", "b.zip")), "--ticket": Case(("--ticket", "CHG-9"), ("--out", "b.zip")),
    },
    "verify": {
        **AMONG_RUNS, "--family": Case(("--family",), prepare=rerun),
        "--watch": Case(("--watch", "10ms")), "--profile": PROFILE, "--timeout": Case(("--timeout", "1ms")),
        "--endpoint": ENDPOINT, "--quiet": Case(("--quiet",), ("--family",), prepare=rerun),
    },
    "journal export": {
        **{
            name: Case(case.option, ("--into", "there"), case.job, case.prepare)
            for name, case in AMONG_RUNS.items()
            if name != "-o"
        },
        "--config": Case(("--config", "gone.yaml"), ("--into", "there")),
        "--quiet": Case(("--quiet",), ("--into", "there")),
        "--into": Case(("--into", "there")),
    },
    "journal verify": {
        **AMONG_RUNS, "--head": Case(("--head", "0" * 64)), "--quiet": Case(("--quiet",)), "--all": Case(("--all",)),
    },
    "overdue": {
        **AMONG_RUNS, "--every": Case(("--every", "1s")), "--quiet": Case(("--quiet",), ("--every", "1d")),
        "--notify": Case(("--notify",), ("--every", "1s"), prepare=notifier), "--tend": Case(("--tend",)),
    },
    "schedule": {
        **{name: case._replace(base=("--format", "cron")) for name, case in {
            "--config": CONFIG, "--endpoint": ENDPOINT, "--state-dir": STATE, "--database": DATABASE,
            "--profile": PROFILE, "--rate": RATE,
            "--workers": WORKERS, "--timeout": TIMEOUT, "--deadline": DEADLINE, "--user": Case(("--user", "dba")),
            "--env-file": Case(("--env-file", "keys.env")), "--every": Case(("--every", "36h")),
            "--into": Case(("--into", ".")), "--image": Case(("--image", "i")),
            "--tend": Case(("--tend",)), "--no-tend": Case(("--no-tend",)),
            "--worker": Case(("--worker",)), "--lanes": Case(("--lanes", "9")), "--program": Case(("--program", "x")),
        }.items()},
        "--format": Case(("--format", "systemd")),
    },
    "doctor": {
        "--config": CONFIG, "--endpoint": ENDPOINT, "--state-dir": STATE, "--database": DATABASE, "--profile": PROFILE,
        "--timeout": Case(("--timeout", "1ms")), "--json": JSON, "-o": OUTPUT,
        "--policy": Case(("--policy",), ("--profile", "nobody")),
    },
    "config show": {
        "--origin": Case(("--origin",)), "--config": CONFIG, "--endpoint": ENDPOINT, "--state-dir": STATE,
        "--database": DATABASE, "--profile": PROFILE, "--rate": RATE, "--workers": WORKERS, "--timeout": TIMEOUT,
        "--deadline": DEADLINE,
        "--no-verify": Case(("--no-verify",)), "--json": JSON, "-o": OUTPUT,
    },
}  # fmt: skip
BASE = {
    "plan": ["plan", "job.yaml"],
    "discover": ["discover", "job.yaml"],
    "drill": ["drill", "job.yaml", "--seed", "7"],
    "run": ["run", "job.yaml"],
    "lock": ["lock", "postgres-aaaaaaaa/ann", "postgres-aaaaaaaa/bob", "--region", "ap-singapore"],
    "unlock": ["unlock", "postgres-aaaaaaaa/ann", "postgres-aaaaaaaa/bob", "--region", "ap-singapore"],
    "cam-on": ["cam-on", "postgres-aaaaaaaa/ann", "postgres-aaaaaaaa/bob", "--region", "ap-singapore"],
    "resume": ["resume", "RUN"],
    "rerun": ["rerun", "RUN"],
    "undo": ["undo", "RUN"],
    "stop": ["stop", "RUN"],
    "pause": ["pause", "RUN"],
    "change": ["change", "RUN"],
    "holds": ["holds"],
    "release": ["release", "RUN"],
    "hold": ["hold", "RUN"],
    "tend": ["tend"],
    "status": ["status"],
    "pending": ["pending"],
    "report": ["report", "RUN"],
    "evidence": ["evidence", "RUN"],
    "verify": ["verify", "RUN"],
    "journal export": ["journal", "export", "RUN"],
    "journal verify": ["journal", "verify", "RUN"],
    "overdue": ["overdue", "job.yaml", "--every", "1d"],
    "schedule": ["schedule", "job.yaml"],
    "doctor": ["doctor", "job.yaml"],
    "config show": ["config", "show", "job.yaml"],
}
OTHERWISE = {"approve", "apply", "simulate", "completion", "schema", "explain", "database migrate", "worker"}
"""They need keys to sign with, a database, they serve, or have no options: tried in tests of their own."""
RUN_FIRST = {"resume", "rerun", "undo", "stop", "pause", "change", "status", "pending", "report", "evidence", "verify",
             "journal verify", "journal export", "overdue", "holds", "release", "hold", "tend"}  # fmt: skip
MATCH = "  - {match: {regions: [ap-singapore], users: {glob: '*'}}}\n"


def seen(place: Path, verb: str, case: Case, *, with_option: bool) -> object:
    """What can be seen of a command, with what no two runs have alike taken out."""
    place.mkdir()
    desk = Desk(place)
    world = World(latency=0.002, quotas={"*": None})
    world.seed("postgres-aaaaaaaa", "ap-singapore", ["ann", "bob"])
    with Backend(world, ports=2) as backend:
        desk.env["ACCTOPS_ENDPOINT"] = backend.endpoint
        if verb != "overdue":
            backend.script({"action": "LockAccount", "user": "bob", "times": 1, "code": NOT_THERE})
        desk.write("more.yaml", 'protect: ["*/ann"]\nmax_targets: 1\n')
        desk.write("faults.yaml", "- {action: '[!D]*', code: InternalError, times: 1}\n")
        desk.write("keys.env", "TENCENTCLOUD_SECRET_ID=x\n")
        window = f"window: {WINDOW}" if verb == "schedule" else ""
        job = desk.job("postgres-aaaaaaaa/ann", "postgres-aaaaaaaa/bob", extra=f"{window}{case.job}")
        if verb == "discover":
            job.write_text(job.read_text().partition("targets:")[0] + "targets:\n" + MATCH)
        run = ""
        if verb in RUN_FIRST:
            begin = ("run", "job.yaml", "--json", *(["--now"] if case.job == SHUT else ["--yes"]))
            run = desk.run(*begin, typed="y\n").json["run"]
        if case.prepare is not None:
            case.prepare(desk)
        words = [run if word == "RUN" else word for word in BASE[verb]]
        words = [word for word in words if word not in ("--every", "1d") or "--every" not in (*case.base, *case.option)]
        other = backend.endpoints[1]
        case = case._replace(option=tuple(other if word == "OTHER" else word for word in case.option))
        done = desk.run(*words, *case.base, *(case.option if with_option else ()), typed="y\n")
        # What goes on beside each other may stand in any order, and whose the keys are be known sooner or later.
        journals = [
            sorted(records(path), key=lambda record: (record["kind"], str(record.get("call")), str(record.get("what"))))
            for which in (False, True)
            for path in desk.journals(simulated=which)
        ]
        aside = [path.with_name("aside.jsonl") for path in desk.journals()]
        beside = [records(path) for path in aside if path.exists()]
        asked = [(arrival.action, arrival.user, arrival.access) for arrival in backend.world.audit]
        files = sorted(_steady(str(path.relative_to(place))) for path in place.rglob("*") if path.suffix != ".claim")
        text = f"{done.code} {done.out} {done.err} {journals} {beside} {sorted(map(str, asked))} {files}"
        for number, part in enumerate((str(place), *(each.rpartition(":")[2] for each in backend.endpoints))):
            # Not inside of a hash: five digits of a port stand in one now and then.
            text = re.sub(rf"(?<![0-9a-f]){re.escape(part)}(?![0-9a-f])", f"<{number}>", text)
    shutil.rmtree(place)
    return _steady(text)


def _steady(text: str) -> str:
    for what in (  # ids, times, hashes, numbers that time makes
        r"\d{8}T\d{6}Z-\w{4}",
        r"\d{4}-\d\d-\d\dT[\d:.]+Z",
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
        r"\b[0-9a-f]{16,64}\b",
        r"[0-9a-f-]{36}",
        r"[^/'\" ]+/(?=(?:Lock|Unlock|Open|Close|Refresh)\w+/)",
        r"\d\d:\d\d:\d\dZ",
        r"'(ms|seq|pid|seconds|worst_second|attempts|clock_offset_s|first_send_ms)': [\d.]+",
        r"\"\w*(seconds|ms|_s)\": [\d.]+",
        r"[\d.]+ (s|ms|min)\b",
        r"'guard': \{.*?\}",
        r"[\d.]+% ",
    ):
        text = re.sub(what, "~", text)
    return text


def options() -> list[tuple[str, str]]:
    found = []
    for path, command in commands():
        verb = " ".join(path)
        found += [
            (verb, parameter.opts[0])
            for parameter in command.params
            if isinstance(parameter, click.Option) and verb not in OTHERWISE and parameter.opts[0] != "--help"
        ]
    return found


def test_every_option_of_every_command_is_tried() -> None:
    """An option that is added is tried, too, or it is not known whether it does anything."""
    tried = {(verb, option) for verb, cases in CASES.items() for option in cases}
    assert tried == set(options())


@pytest.mark.parametrize(("verb", "option"), options())
def test_an_option_does_something_or_is_refused(tmp_path: Path, verb: str, option: str) -> None:
    """With it and without it: what can be seen differs."""
    case = CASES[verb][option]
    without = seen(tmp_path / "a", verb, case, with_option=False)
    assert seen(tmp_path / "a", verb, case, with_option=True) != without, f"{verb} {option} is dropped in silence"


@pytest.mark.parametrize("verb", CASES)
def test_what_can_be_seen_is_the_same_without_an_option(tmp_path: Path, verb: str) -> None:
    """Or a difference would prove nothing."""
    case = Case((), ("--format", "cron") if verb == "schedule" else ())
    found = [seen(tmp_path / "a", verb, case, with_option=False) for _ in range(2)]
    assert found[0] == found[1]


@pytest.mark.parametrize("row", IDLE, ids=lambda row: f"{row.commands.split()[0]} {row.flag} {row.never or row.needs}")
def test_options_that_would_do_nothing_together_are_refused(tmp_path: Path, row: Idle) -> None:
    """Each row of the one table, each pair of it: exit 2, before anything is read."""
    desk = Desk(tmp_path)
    values = {"--fleet": "f", "--faults": "f", "--since": "7d", "--image": "i", "--password-command": "x",
              "--password-file": "x", "--endpoint": "nearest", "--rate": "7", "--workers": "3", "--timeout": "9s",
              "--deadline": "9m", "--lanes": "9", "--program": "x", "--every": "36h",
              "--database": "postgresql://db/x", "--for": "4h", "--until": "2026-12-01T08:00Z", "--then": "tell",
              "--save": "p", "--key": "k", "--fix": "f",
              "--unapproved": "why", "--reason": "why", "--ticket": "CHG-1"}  # fmt: skip

    def typed(flag: str) -> list[str]:
        if flag == "JOB":
            return []  # it is in BASE
        name, _, value = flag.partition("=")
        value = value or values.get(name, "")
        return [name, value] if value else [name]

    for verb in row.commands.split():
        words = [word for word in BASE[verb] if (row.flag, word) not in (("--since", "RUN"), ("--policy", "job.yaml"))]
        words += ["--format", "cron"] if verb == "schedule" else []
        for other in row.never.split() or [""]:
            done = desk.run(*words, *typed(row.flag), *(typed(other) if other else []))
            assert done.code == 2 and (done.out == "" or "--json" in (row.flag, other)), done.text
            assert (row.words or row.flag.partition("=")[0]) in done.err
