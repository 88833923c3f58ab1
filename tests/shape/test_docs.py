"""The pages say what is so: commands, flags, exit codes, records, JSON documents, examples and links."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import pytest

from engine.errors import Reason
from engine.inputs.files import load_job
from engine.inputs.window import is_open
from engine.journal.records import AnyRecord, RunSettings, rfc3339
from engine.simulator.faults import parse_faults, rules_from
from engine.simulator.fleet import parse_fleet
from engine.simulator.tenants import parse_tenants
from engine.simulator.world import World
from tests.support.command import ROOT, Backend, Desk, commands
from tests.support.postgres import Postgres

PAGES = (
    "README.md",
    *(f"engine/{path.name}" for path in sorted((ROOT / "engine").glob("*.md"))),
    *("jobs/README.md", "tests/README.md", "tests/bench/README.md"),
)
EXAMPLES = ("config.example.yaml", *(f"jobs/{path.name}" for path in sorted((ROOT / "jobs").glob("*.yaml"))))
COMMANDS = (
    "python3 -m venv .venv && .venv/bin/pip install -q -e . && "
    ".venv/bin/acctops run jobs/incident-lockdown.yaml --simulate --yes",
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest",
)
"""What sets everything up on a fresh machine; `.ci/run` looks for these lines in README.md."""
ENVELOPE = {"v", "seq", "at", "run", "shard", "hash"}


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """A part of a page, from its heading to the next of the same level."""
    level, _, _ = title.partition(" ")
    return text.partition(f"\n{title}\n")[2].partition(f"\n{level} ")[0]


def typed(text: str) -> Iterator[str]:
    """The commands that a page shows: in its blocks, and in spans of code, which may go over the end of a line."""
    blocks = re.findall(r"```(?:sh|text)\n(.*?)```", text, re.DOTALL)
    for block in blocks:
        yield from re.findall(r"(?:^ *|[|&;$(] *)(acctops [^\n|;&>)]*)", block.replace("\\\n", " "), re.MULTILINE)
    yield from re.findall(r"^# +(acctops .*?)(?:  |$)", text, re.MULTILINE)
    for span in re.findall(r"`(acctops [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        yield " ".join(span.split())


def test_the_commands_of_the_pages_are_found() -> None:
    """The test below looks at them: in blocks, in text, and in the comments of example jobs."""
    found = {name: list(typed(page(name))) for name in (*PAGES, *EXAMPLES)}
    assert len(found["README.md"]) > 60 and found["jobs/incident-lockdown.yaml"]
    assert "acctops pending " in " ".join(found["README.md"])


@pytest.mark.parametrize("name", (*PAGES, *EXAMPLES))
def test_every_command_of_every_page_is_one_that_the_parser_takes(name: str) -> None:
    """What a page shows can be typed: the command exists, with these flags and values. Words in capitals stand for
    others, and a span may name a command without its arguments."""
    known = dict(commands())
    for shown in typed(page(name)):
        line = re.sub(r"\s#.*$|→.*$", "", shown).replace("…", "").replace("[", "").replace("]", "")
        words = shlex.split(line.split(" > ")[0].split(" 2>")[0])[1:]
        words = [word.split("|")[0] for word in words]
        path = next((tuple(words[:size]) for size in (2, 1) if tuple(words[:size]) in known), None)
        if path is None:
            assert not words or words[0] in {"--help", "journal", "config"} or words[0].startswith("-"), shown
            continue
        try:
            known[path].make_context(" ".join(path), words[len(path) :])
        except click.MissingParameter:
            pass
        except click.exceptions.Exit:
            assert "--help" in words, shown
        except click.BadOptionUsage as error:
            assert "requires an argument" in str(error) or "requires 1 argument" in str(error), f"{shown}: {error}"
        except click.UsageError as error:
            raise AssertionError(f"{name}: {shown}: {error.format_message()}") from None


@pytest.mark.parametrize("name", PAGES)
def test_no_line_of_prose_is_too_long_to_read(name: str) -> None:
    """A page is read at night, in a terminal, and in a diff."""
    code, wrong = False, []
    for number, line in enumerate(page(name).splitlines(), 1):
        code ^= line.lstrip().startswith("```")
        if len(line) > 120 and not code and not line.startswith("|"):
            wrong.append(number)
    assert not wrong


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row, headings and rules left out."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    for line, following in zip(table, [*table[1:], ""], strict=True):
        if not set(line) <= set("|-: ") and not (following and set(following) <= set("|-: ")):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


# ---- README.md -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [" ".join(path) for path, _ in commands()])
def test_every_command_is_named(name: str) -> None:
    """A command that is not in README.md does not exist for an operator."""
    assert re.search(rf"acctops {name}\b", page("README.md")), name


WITHOUT_HELP: set[str] = set()
"""Options without help: none."""


def test_every_command_and_option_has_help() -> None:
    """Nobody reads source at 3 a.m."""
    assert all(command.help for _, command in commands())
    options = {
        f"{name} {option.opts[-1]}"
        for name, command in commands()
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    }
    assert options <= WITHOUT_HELP


def test_the_two_commands_are_those_that_were_promised() -> None:
    """Each on a line of its own, to be copied, and found by `.ci/run`."""
    assert [line for line in page("README.md").splitlines() if line.startswith("python3 -m venv")] == list(COMMANDS)
    assert COMMANDS[1] in page("tests/README.md").splitlines()


def test_the_exit_codes_are_those_of_the_engine() -> None:
    """Numbers and words."""
    source = ast.parse((ROOT / "engine/errors.py").read_text(encoding="utf-8"))
    (exits,) = (node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "Reason")
    said = [
        node.value.value for node in exits.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    meanings = [str(text) for text in said[1:]]
    table = list(rows(section(page("README.md"), "## Exit codes")))
    assert [int(code) for code, _ in table] == [int(code) for code in Reason]
    assert [words(text) for _, text in table] == [words(text) for text in meanings]


def test_what_the_first_minute_promises_is_what_happens(desk: Desk) -> None:
    """README.md says how many accounts the example locks, and that a plan and a run of it need no account."""
    count = re.search(r"That locks (\d+) accounts", page("README.md"))
    plan = desk.run("plan", "--offline", "--json", ROOT / "jobs/incident-lockdown.yaml").json
    assert count is not None
    assert plan["counts"]["calls"] == int(count[1])


SATURDAY = "## Every Saturday"
ROTATION = "## New passwords"
ROLL_OUT = "## Turn CAM on without an outage"
MANY = "## Many machines"


def page_script(title: str, ports: dict[str, int]) -> tuple[str, list[str]]:
    """The shell blocks of a section as one script, which says how commands with a `# →` ended; what those promise."""
    text = section(page("README.md"), title).partition("\n### ")[0]
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    lines, promised, heredoc = ["exec 2>&1"], [], False
    held = load_job(ROOT / "jobs/cam-enablement.yaml").window
    assert held is not None
    script = textwrap.dedent("".join(blocks))
    script = re.sub("|".join(ports), lambda found: str(ports[found[0]]), script)
    for line in script.splitlines():
        if line.startswith("systemd-analyze") and shutil.which("systemd-analyze") is None:
            continue
        if "outside the window" in line and is_open(held, time.time()):
            continue
        heredoc = (heredoc or "<<'END'" in line) and line != "END"
        command, arrow, said = line.partition("# → ")
        lines.append(command if arrow else line)
        if arrow:
            lines.append('echo "@@ $?"')
            promised.append(said)
        elif not heredoc and not line.endswith("\\"):
            lines.append('code=$?; [ $code = 0 ] || { echo "@@@ ended with $code"; exit 1; }')
        if "acctops simulate" in line:
            lines.append(f"until (exec 3<>/dev/tcp/127.0.0.1/{ports['9900']}); do sleep 0.1; done 2> /dev/null")
    return "\n".join(lines), promised


def follow(
    title: str, tmp_path: Path, *, ports: dict[str, int] | None = None, least: int = 11, limit_s: int = 150
) -> None:
    """Do what a section says, in its order: each command does, and says, what stands beside it.

    `ports`: which ports of the page are which ones here; `least`: how many commands say what they do.
    """
    (tmp_path / "home").mkdir()
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    # The command as it is installed: a program of this name, on the PATH, and beside its Python.
    acctops = tools / "acctops"
    acctops.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m engine "$@"\n')
    acctops.chmod(0o755)
    ports = dict(ports or {})
    with contextlib.ExitStack() as held:
        for shown in ("9900", "9901", "9902"):
            ports[shown] = held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
    script, promised = page_script(title, ports)
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, env=env, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=limit_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the simulator, if the page came to no end
    assert process.returncode == 0, output
    parts = re.split(r"^@@ (\d+)\n", output, flags=re.MULTILINE)
    assert len(parts) // 2 == len(promised) >= least
    for said, printed, code in zip(promised, parts[::2], parts[1::2], strict=False):
        words, exits = re.fullmatch(r"(.*?) ?(?:\(exit (\d+)\))?", said).groups()  # type: ignore[union-attr]
        assert words in printed if words != "(nothing)" else not printed, f"{words!r} was not said: {printed}"
        assert code == (exits or "0"), printed


def test_every_saturday_is_as_the_page_says(tmp_path: Path) -> None:
    """From nothing to a verified schedule."""
    follow(SATURDAY, tmp_path)


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not here; the page's store makes passwords by it"
)
def test_new_passwords_are_set_as_the_page_says(tmp_path: Path) -> None:
    """From leaked credentials to open accounts with new passwords: lock, rotate, undo --rotated."""
    follow(ROTATION, tmp_path)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not here; it signs and checks approvals")
def test_turning_cam_on_is_as_the_page_says(tmp_path: Path) -> None:
    """From nothing to an approved, gated roll-out that was stopped once."""
    follow(ROLL_OUT, tmp_path)


@pytest.mark.timeout(300)
def test_three_workers_carry_out_a_run_as_the_page_says(tmp_path: Path, postgres: Postgres) -> None:
    """From nothing to a run that outlives one of its workers. The server is the tests' own: it starts for no root."""
    postgres.sql(
        "postgres",
        "do $$ begin create role owner superuser login; exception when others then end $$",
        "drop role if exists ops",  # another test may have followed a page here
    )
    (tmp_path / "bin").mkdir()
    for name in ("initdb", "pg_ctl"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    follow(MANY, tmp_path, ports={"5499": postgres.port}, least=6, limit_s=280)


# ---- the examples ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES[1:])
def test_every_example_job_is_planned_and_done(desk: Desk, name: str) -> None:
    """As it stands, against the simulator: exit 0, everything in it verified."""
    plan = desk.run("plan", "--offline", "--json", ROOT / name)
    assert plan.code == 0, plan.text
    assert plan.json["would_refuse"] == plan.json["warnings"] == []
    is_question = bool(plan.json["match"])
    world = ("--fleet", "random:40x8") if is_question else ()
    done = desk.run("run", ROOT / name, "--simulate", "--now", *world, "--yes", "--json")
    assert done.code == 0, done.text
    left = done.json["left_out"]["later"]
    assert done.json["counts"]["changed"] == done.json["verified"]["agree"] > 0
    assert is_question or done.json["counts"]["changed"] == plan.json["counts"]["calls"] - left
    assert name in page("jobs/README.md").replace("](", "](jobs/")


# ---- jobs/README.md --------------------------------------------------------------------------------------------------

LEAST = {"action": "LockAccount", "region": "ap-singapore", "targets": "[postgres-4sfuv15b/app_user]"}
"""The keys that every job has."""
JOBS = [
    pytest.param(name, textwrap.dedent(block), id=f"{name}-{number}")
    for name in ("README.md", "jobs/README.md")
    for number, block in enumerate(re.findall(r"^ *```yaml\n(.*?)^ *```$", page(name), re.DOTALL | re.MULTILINE), 1)
]
EXAMPLES_OF_KEYS = [
    (cells[0].strip("`"), example)
    for cells in rows(section(page("jobs/README.md"), "## Keys"))
    for example in re.findall("`([^`]+)`", cells[4])
]
FIRST_JOBS = ("The first job", "A list as you have it", "Accounts by rule", "Every Saturday")


def as_job(**keys: str) -> str:
    """A job of these keys; what it needs besides is added."""
    return "".join(f"{key}: {value}\n" for key, value in (LEAST | keys).items())


@pytest.mark.parametrize(("name", "text"), JOBS)
def test_every_yaml_block_is_a_job_or_a_part_of_one(desk: Desk, name: str, text: str) -> None:
    """Whole jobs as they stand, parts under the least job: planned without a mistake and without a warning."""
    has = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    if "action" not in has:
        text += "".join(f"{key}: {value}\n" for key, value in LEAST.items() if key not in has)
    for named in re.findall(r"csv: ([\w.]+)", text):
        shutil.copy(ROOT / "jobs/suspects.csv", desk.work / named)
    plan = desk.run("plan", desk.write("job.yaml", text), "--offline", "--json")
    assert plan.code == 0, plan.text
    assert plan.json["would_refuse"] == [], plan.text
    assert [each for each in plan.json["warnings"] if "matches none" not in each] == []


def test_every_key_has_an_example_that_loads(tmp_path: Path) -> None:
    """The last column of the tables of keys."""
    assert len(EXAMPLES_OF_KEYS) > 25
    for key, example in EXAMPLES_OF_KEYS:
        more = {key: example}
        if key == "passwords":
            more["action"] = "CloseAccountCAM"
        if key in ("gate", "on_red"):
            more |= {"waves": "[{take: rest}]"} | ({"gate": "{command: [true]}"} if key == "on_red" else {})
        if key == "accounts":
            more["targets"] = "[{instance: postgres-4sfuv15b, user: app_user, account: prod-a}]"
        (tmp_path / "job.yaml").write_text(as_job(**more))
        assert load_job(tmp_path / "job.yaml").warnings == (), key


@pytest.mark.parametrize("title", FIRST_JOBS)
def test_the_first_jobs_do_what_the_page_shows(desk: Desk, title: str) -> None:
    """A file is named on the line before it. Each command is run on the files that stand before it, and every line
    shown is printed; `…` stands for anything."""
    named = shown = 0
    blocks = re.split(r"```(\w+)\n(.*?)```\n", section(page("jobs/README.md"), f"## {title}"), flags=re.DOTALL)
    for before, kind, block in zip(blocks[::3], blocks[1::3], blocks[2::3], strict=False):
        if kind in {"yaml", "csv"}:
            files = re.findall(rf"`(\w+\.{kind})`", before)
            if not files:  # the same job, changed
                files = re.findall(r"`(\w+\.yaml)`", "".join(blocks[::3]))
            desk.write(files[0], block)
            named += 1
        if kind == "text":
            for command, _, lines in re.findall(r"^\$ acctops (.*)(\n)((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
                done = desk.run(*shlex.split(command), typed="y\n")
                printed = done.text.replace("http://127.0.0.1:9", "https://postgres.intl.tencentcloudapi.com")
                for line in lines.splitlines():
                    wanted = re.escape(line.removesuffix(" y")).replace("…", ".*")
                    assert re.search(f"^{wanted}" + ("$" if "[y/N]" not in line else ""), printed, re.MULTILINE), (
                        f"{command}: {line!r} was not said: {printed}"
                    )
                    shown += 1
    assert named and shown


# ---- engine/journal.md -----------------------------------------------------------------------------------


def fields(kind: type[msgspec.Struct]) -> Iterator[str]:
    """Field names of a record and of the small structs in it, without the envelope and the settings."""
    for field in msgspec.structs.fields(kind):
        if field.name in ENVELOPE and kind in get_args(AnyRecord):
            continue
        yield field.name
        for each in (field.type, *get_args(field.type)):
            if isinstance(each, type) and issubclass(each, msgspec.Struct) and each is not RunSettings:
                yield from fields(each)


def test_every_record_kind_and_each_of_its_fields_is_described() -> None:
    """No more and no less: the table is the format."""
    kinds = {str(kind.__struct_config__.tag): kind for kind in get_args(AnyRecord)} | {"settings": RunSettings}
    table = section(page("engine/journal.md"), "## Journal").partition("| kind |")[2].partition("\n\n")[0]
    described = {cells[0].strip("`"): cells[1] for cells in rows("| kind |" + table)}
    assert set(described) == set(kinds)
    for name, kind in kinds.items():
        spans = " ".join(re.findall("`([^`]+)`", described[name]))
        assert sorted(re.findall(r"\w+", spans)) == sorted(fields(kind)), name


def test_the_notes_are_those_that_are_written() -> None:
    """Every `what` of a note in the code is in the table, and the other way round."""
    (cells,) = (cells for cells in rows(section(page("engine/journal.md"), "## Journal")) if cells[0] == "`note`")
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "engine").rglob("*.py"))
    written = set(re.findall(r'\b_?note\("(\w+)"', source))
    written -= {"over", "tried"}  # what `told` tells
    written |= {
        "continued_by",
        "undone_by",
        "watched_by",
        "told",
        "seen",
        "lane_slowed",
        "lane_recovered",
        "lane_down",
        "lane_up",
        "slots_reset",
        "unapproved",
    }  # composed where they are written
    assert set(re.findall("`([^`]+)`", cells[2])) == written


CHAIN_CHECK = section(page("engine/journal.md"), "## Journal").partition("```python\n")[2].partition("```")[0]


def check_chain(journal: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CHAIN_CHECK, journal], capture_output=True, text=True, timeout=30)


def test_ten_lines_check_the_chain(desk: Desk) -> None:
    """The program of the page, on a journal that was really written: it holds, and an edited line is named."""
    assert sum(map(bool, CHAIN_CHECK.splitlines())) == 10
    done = desk.run("run", desk.job(), "--simulate", "--yes", "--json").json
    journal = Path(done["journal"])
    lines = journal.read_bytes().splitlines(keepends=True)
    checked = check_chain(journal)
    assert (checked.returncode, checked.stdout) == (0, f"{len(lines)} lines, head {done['journal_head']}\n")
    journal.write_bytes(b"".join(lines) + b'{"v":1,"torn')
    assert check_chain(journal).stdout == checked.stdout
    for bad in (lines[:3] + lines[4:], [*lines[:3], lines[3].replace(b"a", b"b", 1), *lines[4:]]):
        journal.write_bytes(b"".join(bad))
        refused = check_chain(journal)
        assert (refused.returncode, refused.stderr) == (1, "line 4 is not what was written here\n")


# ---- engine/json.md ------------------------------------------------------------------------------------------


def keys(value: Any) -> set[str]:  # Any: JSON
    """Every key of a document, at whatever depth."""
    if isinstance(value, dict):
        return set(value).union(*(keys(each) for each in value.values()))
    return set().union(*(keys(each) for each in value)) if isinstance(value, list) else set()


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The keys of every document, as printed: a stopped run with failures, its like and what follows it."""
    desk = Desk(tmp_path_factory.mktemp("documents"))
    refused = {"user": "eve", "times": 1, "code": "InvalidParameterValue.AccountNotExistError"}
    with Backend(World(faults=rules_from([refused]), latency=0)) as backend:
        api = ("--endpoint", backend.endpoint)
        job = desk.job(
            extra='exclude: ["*/nobody"]\nprotect: ["*/guard"]\nlimits: {max_targets: 9}\n'
            "hold: {for: 4h}\nwatch: {after: [5m]}",
            name="job.yaml",
        )
        desk.write("guard.csv", "instance;user\npostgres-bbbbbbbb;guard\n")
        job.write_text(job.read_text() + "  - csv: guard.csv\n  - match: {users: {glob: ann}}\n")
        for instance, users in (("postgres-aaaaaaaa", ["ann", "bob"]), ("postgres-bbbbbbbb", ["eve", "guard"])):
            backend.world.seed(instance, "ap-singapore", users)
        plan = desk.run("plan", job, *api, "--json").json
        moved = desk.write("moved.yaml", "action: LockAccount\nregion: ap-tokyo\ntargets: [postgres-aaaaaaaa/ann]\n")
        elsewhere = desk.run("plan", moved, *api, "--json").json
        done = desk.run("run", job, *api, "--yes", "--json", "--deadline", "60s").json
        desk.run("unlock", "postgres-aaaaaaaa/ann", "--region", "ap-singapore", *api, "--yes")
        verified = desk.run("verify", done["run"], *api, "--json").json
        rerun = desk.run("rerun", done["run"], *api, "--yes", "--json").json
        found = {
            "plan": [plan, elsewhere],
            "verify": verified,
            "status": desk.run("status", "--json").json,
            "rerun": desk.run("rerun", done["run"], *api, "--yes", "--json").json,
            "report": [desk.run("report", each["run"], "--format", "json").json for each in (done, rerun)],
            "report --attempts": desk.run("report", done["run"], "--format", "json", "--attempts").json,
            "report --pace": desk.run("report", done["run"], "--format", "json", "--pace").json,
            "status --since": desk.run("status", "--since", "1d", "--json").json,
            "report --since": _with_one_unreadable(desk, "report", "--since", "1d", "--format", "json"),
            "overdue": desk.run("overdue", "UnlockAccount-by-hand", "--every", "1d", "--json").json,
            "overdue --tend": _tended(desk, "overdue", "--tend", "--json"),
            "evidence": _evidence(desk, done["run"]),
            "journal verify": desk.run("journal", "verify", done["run"], "--json").json,
            "journal export": desk.run("journal", "export", done["run"], "--into", "out", "--json").json,
            "journal verify --all": _with_one_unreadable(desk, "journal", "verify", "--all", "--json"),
            "doctor": desk.run("doctor", *api, "--json").json,
            "config show": desk.run("config", "show", job, "--json").json,
            "refusal": desk.run("run", job, *api, "--json").json,
        }
        stopping = desk.job("postgres-cccccccc/ann", extra="stop_after: 1", name="stopping.yaml")
        backend.world.seed("postgres-cccccccc", "ap-singapore", ["ann"])
        script = desk.write("faults.yaml", '[{code: "InvalidParameterValue.AccountNotExistError"}]')
        stopped = desk.run("run", stopping, "--simulate", "--faults", script, "--yes", "--json").json
        script = desk.write("red.yaml", "[{gate: red, wave: 1}]")
        waved = desk.job(
            "postgres-cccccccc/ann",
            extra="waves: [{take: rest}]\ngate: {command: [true]}\non_red: undo",
            name="waved.yaml",
        )
        found["drill"] = desk.run("drill", waved, "--contain", "95%:1h", "--json").json
        found["plan"].append(desk.run("plan", waved, *api, "--json").json)
        red = desk.run("run", waved, "--simulate", "--faults", script, "--yes", "--json").json
        found |= _of_holds(desk, api, done["run"])
        desk.run("undo", done["run"], *api, "--yes", "--json")
        found["undo"] = desk.run("undo", done["run"], *api, "--yes", "--json").json
        told = desk.work / "told.json"
        telling = desk.job(
            "postgres-aaaaaaaa/bob",
            extra=f"waves: [{{take: rest}}]\nnotify: {{command: [tee, {told}]}}",
            name="telling.yaml",
        )
        backend.script({"code": "InvalidParameterValue.AccountNotExistError"})
        desk.run("run", telling, *api, "--yes", "--no-verify", "--deadline", "60s")
        found["pending"] = _with_one_unreadable(desk, "pending", "--format", "json")
        found["notice"] = {**json.loads(told.read_text()), "stopped": stopped["stopped"]}
    found["pause"], paused = _paused(Desk(tmp_path_factory.mktemp("paused")))
    assert (
        found["overdue"]["last_good"]
        and found["overdue --tend"]["last_good"]
        and found["report --since"]["unreadable"]
        and done["failures"]
        and stopped["stopped"]
        and verified["back"]
        and found["report"][1]["parent"]
    ), "not all was seen"
    found["run"] = [done, stopped, found["run"], paused, red]
    live = desk.run("status", done["run"], "--json").json
    assert keys({**live, "watch": None}) == keys(done) | {"live"}
    return {name: keys(document) for name, document in found.items()}


def _paused(desk: Desk) -> tuple[Any, Any]:  # Any: JSON
    """What `pause`, `change` and `resume` print of a live run, and the run itself while it is paused."""
    with Backend(World(quotas={"*": None})) as backend:
        job = desk.job(*(f"postgres-{number:08}/app" for number in range(60)), name="long.yaml")
        process = desk.popen("run", job, "--yes", "--rate", "20", "--endpoint", backend.endpoint)
        desk.wait_for("settled")
        paused = desk.run("pause", "latest", "--for", "1h", "--json").json
        document = desk.run("status", "latest", "--json").json
        changed = desk.run("change", "latest", "--rate", "5", "--json").json
        lifted = desk.run("resume", "latest", "--json").json
        process.terminate()
        desk.end(process)
    document.pop("live")
    return [paused, changed, lifted], document


def _tended(desk: Desk, *argv: str) -> Any:  # Any: JSON
    (desk.state / "tended").write_text(f"{rfc3339(time.time())}\n")
    (desk.state / "tended").chmod(0o600)
    return desk.run(*argv).json


def _of_holds(desk: Desk, api: tuple[str, ...], run: str) -> dict[str, Any]:  # Any: JSON
    """What the commands about holds print, and the notice that `tend` sends."""
    by_hand = ("--region", "ap-singapore", *api, "--yes", "--json")
    told = desk.work / "tend.json"
    desk.write("config.yaml", f"notify: {{command: [tee, {told}], on: [failure]}}\n")
    other = desk.run("lock", "postgres-aaaaaaaa/bob", *by_hand, "--ticket", "INC-1").json["run"]
    found: dict[str, Any] = {"hold": desk.run("hold", other, "--for", "20m", "--then", "unlock", "--json").json}
    found["tend"] = desk.run("tend", "--json").json
    found["notice of `tend`"] = json.loads(told.read_text())
    holds = [_with_one_unreadable(desk, "holds", "--json")]
    third = desk.run("lock", "postgres-aaaaaaaa/bob", "postgres-aaaaaaaa/ann", *by_hand).json
    found["release"] = [desk.run("release", each, "--json").json for each in (other, run, third["run"])]
    found["holds"] = [*holds, desk.run("holds", "--json").json]
    (desk.work / "config.yaml").unlink()
    return {**found, "run": third}


def _evidence(desk: Desk, run: str) -> Any:  # Any: JSON
    """What `evidence` prints of a damaged run, of one whose job is gone, and of a job with a secret."""
    job, journal = desk.work / "job.yaml", desk.state / "runs" / run / "journal.jsonl"
    text, whole = job.read_text(), journal.read_bytes()
    job.unlink()
    journal.write_bytes(whole + b"damaged\n")
    try:
        damaged = desk.run("evidence", run, "--out", "a.zip", "--json").json
        journal.write_bytes(whole)
        missing = desk.run("evidence", run, "--out", "b.zip", "--json").json
    finally:
        job.write_text(text)
        journal.write_bytes(whole)
    noted = desk.job("postgres-aaaaaaaa/ann", extra="# password: hunter22", name="noted.yaml")
    noted_run = desk.run("run", noted, "--simulate", "--yes", "--json").json["run"]
    redacted = desk.run("evidence", noted_run, "--out", "c.zip", "--json").json
    return [damaged, missing, redacted]


def _with_one_unreadable(desk: Desk, *argv: str) -> Any:  # Any: JSON
    path = desk.journals()[0]
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"bob", b"rob", 1))
    try:
        return desk.run(*argv).json
    finally:
        path.write_bytes(whole)


DESCRIBED = {cells[0]: cells[1] for cells in rows(section(page("engine/json.md"), "## JSON documents"))}


@pytest.mark.parametrize("name", DESCRIBED)
def test_every_json_key_is_described(documents: dict[str, set[str]], name: str) -> None:
    """No more and no less, for each document."""
    described = set(re.findall(r"\w+", " ".join(re.findall("`([^`]+)`", DESCRIBED[name]))))
    inherited = {"report": ("run",), "drill": ("run",), "report --since": ("run", "report")}.get(name, ())
    printed = documents[name] - set().union(*(documents[each] for each in inherited))
    missing, gone = printed - described, described - documents[name]
    assert (missing, gone) == (set(), set())


def test_every_document_is_described(documents: dict[str, set[str]]) -> None:
    assert set(DESCRIBED) == set(documents)


# ---- engine/README.md: modules and tests -----------------------------------------------------------------------------


def test_every_module_has_its_place() -> None:
    """Each module stands in the table of packages, beside its package."""
    table = section(page("engine/README.md"), "## Packages")
    named = set(re.findall("`([a-z_0-9]+)/?`", table))
    modules = {path.stem for path in (ROOT / "engine").rglob("[a-z]*.py") if "simulator" not in path.parts}
    packages = {path.name for path in (ROOT / "engine").iterdir() if (path / "__init__.py").is_file()}
    inside = {path.stem for path in (ROOT / "engine/inputs/jobfile").glob("[a-z]*.py")}
    inside |= {path.stem for path in (ROOT / "engine/cli/commands").glob("[a-z]*.py")}
    assert (modules | packages) - inside <= named


def named_tests(name: str) -> list[str]:
    (path,) = (ROOT / "tests").rglob(name)
    return re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PAGES)
def test_tests_that_are_named_exist(name: str) -> None:
    """By the beginning of their names."""
    for file, test in re.findall(r"`(test_\w+\.py)::(test_\w+)`", page(name)):
        assert any(found.startswith(test) for found in named_tests(file)), f"{file}::{test}"
    for file in re.findall(r"`(test_\w+\.py)`", page(name)):
        assert list((ROOT / "tests").rglob(file)), file


def test_bad_input_names_tests_that_exist() -> None:
    """The last column of the table: `bad` is test_bad_input.py, and so on; names by their beginning."""
    files = {"bad": "test_bad_input.py", "cli": "test_cli.py", "keys": "test_bad_keys.py"}
    table = list(rows(section(page("tests/README.md"), "## Bad input and faults")))
    assert len(table) > 30
    for cells in table:
        for part in cells[-1].split(";"):
            file = files.get(part.strip().partition(":")[0])
            for test in re.findall("`([a-z_]+)…?`", part) if file else ():
                assert any(found.startswith(f"test_{test}") for found in named_tests(str(file))), test


# ---- tests/README.md: the simulator ----------------------------------------------------------------------------------


def test_the_faults_and_the_fleet_of_the_page_are_valid() -> None:
    """Each YAML block of the simulator's section, in its order; every key of a rule is explained."""
    text = section(page("tests/README.md"), "## The simulator")
    fleet, accounts, faults = re.findall("```yaml\n(.*?)```", text, re.DOTALL)
    assert len(parse_fleet(fleet)) == 2
    assert len(parse_tenants(accounts).roles) == 2
    assert len(parse_faults(faults)) == 7
    with pytest.raises(ValueError, match="known are ") as wrong:
        rules_from([{"nonsense": 1}])
    known = str(wrong.value).partition("known are ")[2].split(", ")
    explained = " ".join(cells[0] for cells in rows(section(page("tests/README.md"), "## The simulator")))
    assert set(known) <= set(re.findall(r"\w+", explained))


# ---- all pages -------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as the usual renderers make them."""
    titles = re.findall(r"^#+ (.+)$", re.sub("```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    """Files beside the page, and headings in them."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page(name)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("name", [*PAGES, *EXAMPLES])
def test_no_page_names_a_place_of_this_machine(name: str) -> None:
    """What stands there is true on any machine."""
    assert not re.search(r"(?<![\w.~])/(?:work|tmp|root|home|Users)/", page(name))
    assert str(ROOT) not in page(name)


@pytest.mark.parametrize("name", PAGES)
def test_json_and_yaml_blocks_are_closed(name: str) -> None:
    """An open fence swallows the rest of the page."""
    assert len(re.findall("^ *```", page(name), re.MULTILINE)) % 2 == 0
    for block in re.findall("```json\n(.*?)```", page(name), re.DOTALL):
        json.loads(block)
