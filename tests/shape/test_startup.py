"""What starts at once: commands that only look import neither aiohttp nor asyncio nor rich, others no more
than they need."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("aiohttp", "asyncio", "rich")
_LINE = re.compile(r"import time:\s+\d+ \|\s+\d+ \|( +)(\S+)")


def chains(importtime: str) -> dict[str, list[str]]:
    """Module → who pulled it in, outermost first, from what `-X importtime` prints.

    It prints a module after what it imports, indented by two per level.
    """
    found: dict[str, list[str]] = {}
    path: list[tuple[int, str]] = []
    for line in reversed(importtime.splitlines()):
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        while path and path[-1][0] >= depth:
            path.pop()
        path.append((depth, name))
        found[name] = [each for _, each in path]
    return found


def run(tmp_path: Path, *arguments: str) -> tuple[int, str, dict[str, list[str]]]:
    """Exit code, stdout and import chains of a command, run in the repository with a home of its own."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LD_LIBRARY_PATH")}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "engine", *arguments],
        cwd=ROOT,
        env=kept | {"HOME": str(tmp_path), "ACCTOPS_STATE_DIR": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, chains(done.stderr)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], "Exit codes:"),
        (["run", "--help"], "Carry out a job"),
        (["--version"], "acctops"),
        (["plan", "--offline", "jobs/incident-lockdown.yaml"], "PLAN, nothing sent"),
        (["plan", "--offline", "jobs/incident-lockdown.yaml", "--json"], '"plan_digest"'),
        (["plan", "--offline", "jobs/cam-by-match.yaml"], "NOT ASKED (--offline)"),
        (["status"], "no runs yet"),
        (["config", "show", "jobs/incident-lockdown.yaml", "--origin"], "ACCTOPS_STATE_DIR"),
        (["explain", "FailedOperation.PreCheckError"], "LockAccount"),
        (["schema"], '"$schema"'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_commands_that_only_look_import_nothing_heavy(tmp_path: Path, arguments: list[str], words: str) -> None:
    """They answer before a network library would be loaded; on failure the chain that pulled it in is named."""
    code, out, found = run(tmp_path, *arguments)
    assert code == 0
    assert words in out
    assert "engine.cli.app" in found
    pulled = [" → ".join(found[heavy]) for heavy in HEAVY if heavy in found]
    assert not pulled, "heavy imports:\n" + "\n".join(pulled)


def test_status_of_a_run_imports_nothing_heavy(tmp_path: Path) -> None:
    """Also when there is a journal to read: status and report must work beside a live run, at once."""
    code, out, found = run(tmp_path, "run", "jobs/incident-lockdown.yaml", "--simulate", "--yes", "--quiet", "--json")
    assert code == 0
    assert "asyncio" in found
    run_id = json.loads(out)["run"]
    for arguments in (["status"], ["status", run_id], ["report", run_id], ["journal", "verify", run_id]):
        code, out, found = run(tmp_path, *arguments)
        assert code == 0
        assert run_id in out
        pulled = [" → ".join(found[heavy]) for heavy in HEAVY if heavy in found]
        assert not pulled, "heavy imports:\n" + "\n".join(pulled)


PLAIN = "action: LockAccount\nregion: ap-singapore\ntargets: [postgres-aaaaaaaa/ann]\n"
WITHOUT_DATABASE = ("engine.workers", "engine.journal.database", "dbos", "sqlalchemy", "psycopg")
NEVER_TO_LOOK = (
    *("dataclasses", "json", "difflib", "importlib.metadata", "engine.credentials", "engine.inputs.match"),
    *WITHOUT_DATABASE,
)
"""`dataclasses`: a value is a msgspec.Struct, as making a dataclass costs every start half a millisecond."""


@pytest.mark.parametrize(
    ("arguments", "needless"),
    [
        (
            ["plan", "--offline", "JOB"],
            (*NEVER_TO_LOOK, "engine.report.text", "engine.api.codes", "engine.journal.store"),
        ),
        (
            ["status"],
            (*NEVER_TO_LOOK, "engine.inputs.jobfile.yamltext", "engine.planning.outlook", "engine.cloud.client"),
        ),
        (
            ["run", "JOB", "--simulate", "--yes", "--quiet"],
            (
                *(
                    "engine.inputs.match",
                    "engine.planning.discovery",
                    "engine.operations.discovering",
                    "engine.operations.openings",
                    "engine.operations.resume",
                    "engine.operations.undo",
                ),
                *WITHOUT_DATABASE,
                *(f"engine.credentials.{family}" for family in ("command", "metadata", "roles", "sts")),
                *(
                    "engine.report.notices",
                    "engine.report.notify",
                    "engine.report.metrics",
                    "tenacity",
                    "difflib",
                    "rich",
                ),
            ),
        ),
    ],
    ids=lambda value: value[0],
)
def test_a_plain_command_imports_nothing_it_does_not_use(
    tmp_path: Path, arguments: list[str], needless: tuple[str, ...]
) -> None:
    """An incident does not wait for matches it has not, for keys that lie elsewhere, for notices nobody asked for."""
    job = tmp_path / "plain.yaml"
    job.write_text(PLAIN)
    code, _, found = run(tmp_path, *(str(job) if word == "JOB" else word for word in arguments))
    assert code == 0
    assert "engine.cli.app" in found
    pulled = [" → ".join(found[each]) for each in needless if each in found]
    assert not pulled, "imported in vain:\n" + "\n".join(pulled)


def test_chains_are_read_outermost_first() -> None:
    """The message of a failure names the module to mend."""
    printed = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:        61 |         61 |   _io\n"
        "import time:       100 |        100 |       asyncio.base\n"
        "import time:       200 |        300 |     asyncio\n"
        "import time:       400 |        700 |   somelock\n"
        "import time:        50 |        750 | engine.journal.store\n"
    )
    assert chains(printed)["asyncio"] == ["engine.journal.store", "somelock", "asyncio"]
    assert chains(printed)["_io"] == ["engine.journal.store", "_io"]
