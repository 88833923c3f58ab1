"""Which package may import which, one row a package, and who alone may use what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ENGINE = Path(__file__).parents[2] / "engine"


PACKAGES: dict[str, str] = {
    # package, bottom up: the packages above it in this table that it imports
    "errors": "",
    "model": "",
    "evidence": "",
    "outside": "model",
    "api": "model outside",
    "journal": "errors model outside api",
    "pacing": "errors model outside api",
    "credentials": "errors model outside api",
    "cloud": "errors model outside api journal pacing credentials",
    "inputs": "errors model outside api cloud",
    "planning": "model api journal cloud inputs",
    "run": "errors model api journal pacing credentials cloud planning",
    "report": "errors model outside api journal cloud inputs planning run",
    "schedule": "inputs",
    "simulator": "model",
    "operations": "errors model evidence outside api journal pacing credentials cloud inputs planning run "
    "report schedule simulator",
    "workers": "errors model outside api journal cloud credentials inputs planning pacing run report operations",
    "cli": "errors model outside api journal inputs planning report simulator operations workers",
    "__main__": "cli",
}
"""Within itself a package imports as it likes, but in no circle."""
SIMULATOR_MAY = {"simulator.inprocess": {"model"}}
"""What of the house the simulator may know: so that an error of ours cannot agree with itself."""

RULES = ("errors", "model", "api", "inputs", "planning", "report", "schedule", "simulator")
"""Packages whose modules have no I/O, no clock and no loop …"""
DEVICES = {
    "inputs.config",
    "inputs.files",
    "inputs.passwords",
    "inputs.settings",
    "inputs.settingwords",
    "planning.discovery",
    "report.metrics",
    "report.notify",
    "simulator.delivery",
    "simulator.inprocess",
    "simulator.server",
}
"""… but for these."""
MORE_RULES = {
    "journal.ledger",
    "journal.records",
    "journal.sense",
    "journal.shards",
    "outside.foreign",
    "pacing.backoff",
    "run.callqueue",
    "run.decide",
    "run.endings",
    "run.halts",
}
"""Modules of other packages that have none either."""

STANDALONE = {"evidence.verify"}
"""Programs of their own, which lie in what we hand out: they print, and know by themselves what they read."""

COMMANDS = ("approving", "equipping", "holding", "looking", "nightly", "planning", "running")

ONLY = {
    # library: the modules that alone may import it
    "aiohttp": {"cloud.transport", "simulator.server"},
    "aiolimiter": {"pacing.pacer"},
    "tenacity": {"run.attempts"},
    "yaml": {"inputs.jobfile.yamltext", "simulator.documents"},
    "click": {"cli", "cli.app", "cli.flags", *(f"cli.commands.{family}" for family in COMMANDS)},
    "jinja2": {"report.page"},
    "prometheus_client": {"report.metrics"},
    "psycopg": {"journal.database.link"},
    "dbos": {"journal.database.dispatch"},
    "sqlalchemy": {"journal.database.dispatch"},
    "rich": {"cli.progress"},
    "zoneinfo": {"inputs.window"},
}
OUTSIDE = {
    "asyncio",
    "concurrent",
    "fcntl",
    "http",
    "locale",
    "logging",
    "mmap",
    "multiprocessing",
    "os",
    "pathlib",
    "platform",
    "pwd",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib.request",
    "uuid",
}
"""What reaches out of a rule: files, network, clock, threads, environment, the loop."""
RULES_MAY = {"journal.records": {"time"}}
ATTRIBUTES = {
    # a rule may use of this module only
    "time": {"strftime", "gmtime"},
    "random": {"Random"},
}
CLOCKS = {"now", "utcnow", "today"}
TERMINAL = {"sys.exit", "sys.stdout", "sys.stderr", "sys.stdin", "signal.signal"}
"""What only `cli` and the simulator's server use: a library has no terminal."""
BUILTINS = {"open", "print", "input", "breakpoint", "exec", "eval", "__import__"}


class Use(NamedTuple):
    """One import: of ours (without the `engine.`) or of others, and the line."""

    name: str
    line: int
    is_ours: bool


def modules() -> dict[str, str]:
    """Source by module name, `engine.` left out; the root is the empty name."""
    found = {}
    for path in sorted(ENGINE.rglob("*.py")):
        parts = path.relative_to(ENGINE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path.read_text(encoding="utf-8")
    return found


MODULES = modules()


def uses(source: str) -> Iterator[Use]:
    """Every import of a module, wherever it stands: in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _use(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                is_module = f"{module}.{alias.name}".removeprefix("engine.") in MODULES
                if module == "engine" and not is_module:
                    yield Use(f":{alias.name}", node.lineno, is_ours=True)
                else:
                    yield _use(f"{module}.{alias.name}" if is_module else module, node.lineno)


def _use(name: str, line: int) -> Use:
    is_ours = name.split(".")[0] in ("engine", "")
    return Use(name.removeprefix("engine.") if is_ours else name, line, is_ours)


# ---- the rules, each a list of what is wrong -------------------------------------------------------------------------


def package_of(name: str) -> str:
    """The package of a module, or the module itself beside them."""
    return name.split(".")[0]


def wrong_packages(name: str, source: str) -> list[str]:
    """Imports of a package that the row does not list, of the simulator, and of the package root."""
    package = package_of(name)
    problems = []
    for use in uses(source):
        if not use.is_ours or use.name == ":__version__":
            continue
        what = f"engine.{name}, line {use.line}, imports engine.{use.name}"
        if use.name in ("engine", "") or use.name[0] in ".:":
            problems.append(f"{what}: name the module, from the top; of the package itself only __version__")
            continue
        other = package_of(use.name)
        if use.name not in MODULES:
            problems.append(f"{what}: there is no such module")
        elif package == "simulator" and other != "simulator":
            if use.name not in SIMULATOR_MAY.get(name, ()):
                problems.append(f"{what}: the simulator knows nothing of the engine")
        elif other == "simulator" and package not in ("simulator", "operations", "cli"):
            problems.append(f"{what}: only operations and the command line know the simulator")
        elif other not in (package, *PACKAGES[package].split()):
            problems.append(f"{what}: {package} does not import {other}")
    return problems


def unused_rows(package: str, imported: set[str]) -> list[str]:
    """What a row lists and no module of the package imports: the table stays true."""
    return [
        f"{package} no longer imports {other}: take it out of its row"
        for other in PACKAGES[package].split()
        if other not in imported
    ]


def wrong_libraries(name: str, source: str) -> list[str]:
    """Libraries that another module alone may import."""
    problems = []
    for use in uses(source):
        library = use.name.split(".")[0]
        if not use.is_ours and name not in ONLY.get(library, {name}):
            owners = " and ".join(sorted(f"engine.{owner}" for owner in ONLY[library]))
            problems.append(f"engine.{name}, line {use.line}, imports {use.name}: only {owners} may")
    return problems


def is_rule(name: str) -> bool:
    """Whether a module has no I/O, no clock and no loop."""
    return name in MORE_RULES or (package_of(name) in RULES and name not in DEVICES)


def reaching_out(name: str, source: str) -> list[str]:
    """What a rule does that is no rule's: files, network, clock, the loop, randomness of its own."""
    problems = [
        f"engine.{name}, line {use.line}, imports {use.name}: a rule has no I/O, no clock, no loop"
        for use in uses(source)
        if not use.is_ours
        and (use.name in OUTSIDE or use.name.split(".")[0] in OUTSIDE)
        and use.name not in RULES_MAY.get(name, ())
    ]
    for node in ast.walk(ast.parse(source)):
        at = f"engine.{name}, line {getattr(node, 'lineno', 0)},"
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=attribute) if module in ATTRIBUTES:
                if attribute not in ATTRIBUTES[module]:
                    problems.append(f"{at} uses {module}.{attribute}: clock and randomness are arguments")
            case ast.ImportFrom(module=str(module), names=names) if module in ATTRIBUTES:
                bad = [alias.name for alias in names if alias.name not in ATTRIBUTES[module]]
                problems += [f"{at} imports {module}.{each}: clock and randomness are arguments" for each in bad]
            case ast.Call(func=ast.Attribute(attr=attribute)) if attribute in CLOCKS:
                problems.append(f"{at} calls .{attribute}(): the time is an argument")
            case ast.Call(func=ast.Name(id=called)) if called in BUILTINS:
                problems.append(f"{at} calls {called}(): a rule has no I/O")
            case _:
                pass
    return problems


READS_STDIN = "inputs.files"
"""`-` as the name of a job or a list."""


def terminal_uses(name: str, source: str) -> list[str]:
    """What a module below the command line does with a terminal, or to the process: print, ask, exit, take signals."""
    problems = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=attribute) if f"{module}.{attribute}" in TERMINAL:
                if (name, attribute) == (READS_STDIN, "stdin"):
                    continue
                problems.append(f"engine.{name}, line {node.lineno}, uses {module}.{attribute}")
            case ast.Attribute(attr="add_signal_handler"):
                problems.append(f"engine.{name}, line {node.lineno}, takes signals")
            case ast.Call(func=ast.Name(id="print" | "input" as called)):
                problems.append(f"engine.{name}, line {node.lineno}, calls {called}()")
            case _:
                pass
    return problems


# ---- the engine as it is -------------------------------------------------------------------------------------------


def test_every_package_has_its_row() -> None:
    """A new package says where it belongs; a row of one that is gone goes too, and so do names of modules."""
    found = {package_of(name) for name in MODULES if name}
    assert found == set(PACKAGES)
    named = DEVICES | MORE_RULES | set(SIMULATOR_MAY) | {name for names in ONLY.values() for name in names}
    assert named <= set(MODULES), f"no such module: {', '.join(sorted(named - set(MODULES)))}"


def test_packages_import_upwards_in_the_table_only() -> None:
    """From a row one knows what a package can break: itself, and those below it."""
    order = list(PACKAGES)
    for package, row in PACKAGES.items():
        below = [other for other in row.split() if order.index(other) >= order.index(package)]
        assert not below, f"{package} imports {', '.join(below)}, which stand below it"


def test_the_root_imports_nothing() -> None:
    """`import engine` costs nothing and pulls in nothing: its names are imported when they are asked for."""
    tree = ast.parse(MODULES[""])
    now = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert now == [
        "from __future__ import annotations",
        "from importlib import import_module",
        "from typing import TYPE_CHECKING",
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_what_its_row_lists(package: str) -> None:
    """That, all of that, and nothing else."""
    mine = {name: source for name, source in MODULES.items() if name and package_of(name) == package}
    problems = [problem for name, source in mine.items() for problem in wrong_packages(name, source)]
    imported = {package_of(use.name) for source in mine.values() for use in uses(source) if use.is_ours}
    problems += unused_rows(package, imported)
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_each_library_has_one_importer(name: str) -> None:
    """A foreign library can be replaced, and its errors translated, in one place."""
    problems = wrong_libraries(name, MODULES[name])
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name and package_of(name) != "journal" and name not in STANDALONE]
)
def test_only_the_journal_package_knows_where_runs_are(name: str) -> None:
    """A second kind of store is written beside the files: everybody else asks `Runs` and `Journal` by run id."""
    source = MODULES[name]
    assert "journal.jsonl" not in source
    assert "journal.writer" not in {use.name for use in uses(source)}
    assert "RunStore" not in source, "ask operations.stores for it"


@pytest.mark.parametrize("name", [name for name in MODULES if name and is_rule(name)])
def test_rules_do_not_reach_out(name: str) -> None:
    """Words and rules can be called from a REPL, replayed and fuzzed: what they need is handed to them."""
    problems = reaching_out(name, MODULES[name])
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    "name", [name for name in MODULES if package_of(name) not in ("", "cli", "simulator") and name not in STANDALONE]
)
def test_no_terminal_below_the_command_line(name: str) -> None:
    """Who uses the engine in a service of his own is not printed at, asked, ended, or robbed of his signals."""
    problems = terminal_uses(name, MODULES[name])
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    "source",
    [
        "print('x')",
        "input()",
        "import sys\nsys.exit(1)",
        "import sys\nsys.stderr.write('x')",
        "import signal\nsignal.signal(2, f)",
        "loop.add_signal_handler(2, f)",
    ],
)
def test_a_terminal_below_the_command_line_is_found(source: str) -> None:
    """Each way."""
    assert terminal_uses("run.runner", source)


def test_there_is_no_cycle() -> None:
    """Not even one that hides in functions or under TYPE_CHECKING."""
    graph = {name: {use.name for use in uses(source) if use.is_ours} & set(MODULES) for name, source in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a cycle: " + " imports ".join(f"engine.{name}" for name in reversed(error.args[1])))


# ---- the rules find what they are for --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        (
            "planning.plan",
            "from engine.run.runner import Runner",
            "engine.planning.plan, line 1, imports engine.run.runn",
        ),
        ("planning.plan", "from engine.run import runner", "planning does not import run"),
        ("planning.plan", "import engine.run.runner", "planning does not import run"),
        (
            "planning.plan",
            "def f():\n    from engine.report.text import report",
            "line 2, imports engine.report.text: plan",
        ),
        ("planning.plan", "if TYPE_CHECKING:\n    from engine.cli.app import app", "planning does not import cli"),
        ("journal.ledger", "from engine.cloud.client import Client", "journal does not import cloud"),
        ("planning.plan", "from engine import Thing", "only __version__"),
        ("planning.plan", "import engine", "only __version__"),
        ("planning.plan", "from . import model", "from the top"),
        ("planning.plan", "from engine.nowhere import x", "there is no such module"),
        (
            "run.runner",
            "from engine.simulator.world import World",
            "only operations and the command line know the simulator",
        ),
        ("simulator.gate", "from engine.api.signing import Signer", "the simulator knows nothing of the engine"),
        ("simulator.world", "from engine.model import Reply", "the simulator knows nothing of the engine"),
    ],
)
def test_a_wrong_import_is_found(name: str, source: str, words: str) -> None:
    """In every spelling, and the message says which, where and why."""
    (problem,) = wrong_packages(name, source)
    assert words in problem


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("planning.plan", "from engine.model import Call"),
        ("planning.plan", "from engine import model, __version__"),
        ("run.runner", "from engine.journal.records import Sent\nfrom engine.run.judge import Judge"),
        ("operations.session", "from engine.simulator.world import World"),
        ("simulator.inprocess", "from engine.model import Fault"),
    ],
)
def test_a_right_import_is_not(name: str, source: str) -> None:
    """As the row lists, within a package, from the command line into the simulator."""
    assert wrong_packages(name, source) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("cloud.client", "import aiohttp"),
        ("simulator.world", "from aiohttp import web"),
        ("run.runner", "from aiolimiter import AsyncLimiter"),
        ("run.judge", "def f():\n    import tenacity.asyncio"),
        ("inputs.config", "import yaml"),
    ],
)
def test_a_library_in_the_wrong_hands_is_found(name: str, source: str) -> None:
    """Submodules and late imports too."""
    assert len(wrong_libraries(name, source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio",
        "import os.path",
        "from pathlib import Path",
        "import time",
        "from time import monotonic",
        "def f():\n    import socket",
        "import random\nrandom.choice([1])",
        "from random import shuffle",
        "from datetime import datetime\ndatetime.now()",
        "from datetime import date\ndate.today()",
        "open('x')",
        "print('x')",
    ],
)
def test_a_rule_that_reaches_out_is_found(source: str) -> None:
    """Each way out of a rule."""
    assert reaching_out("planning.plan", source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("journal.records", "import time\ntime.strftime('%Y', time.gmtime(0))"),
        ("pacing.backoff", "import random\ndef f(rng: random.Random): rng.uniform(0, 1)"),
        ("inputs.jobfile.lists", "import io, csv"),
        ("api.signing", "from datetime import datetime, UTC\ndatetime.fromtimestamp(0, UTC)"),
    ],
)
def test_what_a_rule_may_use_is_not(name: str, source: str) -> None:
    """Formatting a given time, a given random source, text in memory."""
    assert reaching_out(name, source) == []


def test_a_clock_in_records_is_found() -> None:
    """It may format a time, not ask for one."""
    assert reaching_out("journal.records", "import time\ntime.time()")


def test_a_row_that_promises_too_much_is_found() -> None:
    """An edge nobody uses any more."""
    assert unused_rows("planning", set(PACKAGES["planning"].split()) - {"cloud"}) == [
        "planning no longer imports cloud: take it out of its row"
    ]
